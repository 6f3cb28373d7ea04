"""A user's folders that do not match: X has another size or place, X is missing, or images are turned.

The values are computed by hand.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tracker.data.check import check_dataset
from tracker.data.dataset import PairDataset, PairSettings
from tracker.data.layouts import open_pair, open_sequence
from tracker.data.layouts.frames import image_size
from tracker.data.sequence import ANY_KIND, FolderSequence, read_image
from tracker.errors import RGBXError
from tracker.inference.missing import DroppedSequence, Frame, available


def write(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), image)


def scene(root: Path, x: np.ndarray, rgb: tuple[int, int] = (12, 16), kind: str = "thermal", count: int = 1) -> Path:
    """Return a sequence of ``count`` black RGB frames and one X image in each."""
    for index in range(count):
        write(root / "walk" / "rgb", f"{index}.png", np.zeros((*rgb, 3), np.uint8))
        write(root / "walk" / kind, f"{index}.png", x)
    return root / "walk"


def test_x_of_another_size_and_the_same_shape_is_resized(tmp_path: Path) -> None:
    x = np.zeros((6, 8), np.uint8)
    x[2:4, 4:6] = 200
    sequence = open_sequence(scene(tmp_path, x), "folders")
    frame = sequence.frame(0)
    assert frame.shape == (12, 16, 6)
    # Each X pixel covers two by two of RGB; in the middle of the patch nothing is mixed.
    assert (frame[5:7, 9:11, 3] == 200).all()
    assert not frame[:3, :, 3].any()
    report = check_dataset(tmp_path, "folders")
    assert report.ok
    assert "X is 8x6 and is resized to RGB's 16x12; they must be registered" in report.sequences[0].notes


def test_millimeters_are_not_mixed(tmp_path: Path) -> None:
    x = np.array([[0, 4000], [1000, 3000]], np.uint16)
    sequence = open_sequence(scene(tmp_path, x, rgb=(4, 4), kind="depth"), "folders")
    raw = sequence.raw(0)[1]
    assert raw is not None
    np.testing.assert_array_equal(raw, np.repeat(np.repeat(x, 2, axis=0), 2, axis=1))


def test_another_shape_needs_a_registration(tmp_path: Path) -> None:
    folder = scene(tmp_path, np.zeros((6, 12), np.uint8))
    with pytest.raises(RGBXError, match=r"16x12 in RGB but 12x6 in thermal: .*0.png; put their registration into reg"):
        open_sequence(folder, "folders").frame(0)


def shifted(place: tuple[int, int]) -> np.ndarray:
    x = np.zeros((12, 16), np.uint8)
    x[place[1], place[0]] = 255
    return x


@pytest.mark.parametrize(
    ("lines", "x", "expected"),
    [
        # X is seen three pixels to the right and two down of RGB.
        (["1 0 3", "0 1 2"], shifted((5, 4)), (8, 6)),
        # Twice as large, as a homography with another scale of its own; by commas.
        (["4,0,0", "0,4,0", "0,0,2"], shifted((3, 2)), (6, 4)),
        # Turned by a quarter about the middle of a 16 x 12 image: (x, y) to (13.5 - y, x - 2).
        (["0 -1 13", "1 0 -2"], shifted((5, 4)), (9, 3)),
    ],
)
def test_a_registration_maps_x_pixels_to_rgb_pixels(
    tmp_path: Path, lines: list[str], x: np.ndarray, expected: tuple[int, int]
) -> None:
    folder = scene(tmp_path, x)
    (folder / "registration.txt").write_text("\n".join(lines) + "\n")
    found = open_sequence(folder, "folders").frame(0)[:, :, 3]
    assert found[expected[1], expected[0]] == 255
    assert np.unravel_index(int(found.argmax()), found.shape) == (expected[1], expected[0])
    assert "X is 16x12 and is registered by a file to RGB's 16x12" in check_dataset(tmp_path).sequences[0].notes


def test_a_homography_maps_corners_where_opencv_says(tmp_path: Path) -> None:
    """The four corners are those of a square that was seen askew; its middle is where the diagonals cross."""
    x = np.zeros((40, 60), np.uint8)
    seen = np.array([[10, 8], [50, 4], [48, 36], [14, 30]], np.float32)
    target = np.array([[20, 20], [100, 20], [100, 60], [20, 60]], np.float32)
    cv2.fillConvexPoly(x, seen.astype(np.int32), 255)
    folder = scene(tmp_path, x, rgb=(80, 120))
    np.save(folder / "registration.npy", cv2.getPerspectiveTransform(seen, target))
    found = open_sequence(folder, "folders").frame(0)[:, :, 3] > 127
    inside = np.zeros((80, 120), bool)
    inside[20:61, 20:101] = True
    assert (found == inside).mean() > 0.97
    assert found[22:58, 24:97].all()


def test_a_registration_of_the_data_set_is_of_every_sequence_and_of_named_folders(tmp_path: Path) -> None:
    folder = scene(tmp_path / "set", shifted((5, 4)))
    (tmp_path / "set" / "registration.txt").write_text("1 0 3\n0 1 2\n")
    assert open_sequence(folder, "folders").frame(0)[6, 8, 3] == 255
    assert open_pair(folder / "rgb", folder / "thermal").frame(0)[6, 8, 3] == 255
    (folder / "registration.txt").write_text("1 0 0\n0 1 0\n")  # the sequence's own comes first
    assert open_sequence(folder, "folders").frame(0)[4, 5, 3] == 255


@pytest.mark.parametrize(
    ("content", "said"),
    [("1 0", "has the shape"), ("a b c", "cannot be read as a registration"), ("1 0 0\n1 0 0", "cannot be inverted"),
     ("1 0 nan\n0 1 0", "cannot be inverted"), ("1 0 0\n0 1", "cannot be read")],
)  # fmt: skip
def test_a_registration_that_is_none_is_named(tmp_path: Path, content: str, said: str) -> None:
    folder = scene(tmp_path, shifted((1, 1)))
    (folder / "registration.txt").write_text(content)
    with pytest.raises(RGBXError, match=rf"^sequence walk: .*registration.txt .*{said}"):
        open_sequence(folder, "folders")
    assert not check_dataset(tmp_path).ok


def test_published_layouts_are_not_resized(tmp_path: Path) -> None:
    for name, size in (("color", (12, 16, 3)), ("depth", (6, 8))):
        write(tmp_path / "walk" / name, "00000001.png", np.zeros(size, np.uint16 if name == "depth" else np.uint8))
    (tmp_path / "walk" / "groundtruth.txt").write_text("1,1,4,4\n")
    with pytest.raises(RGBXError, match="must be registered and of one size"):
        open_sequence(tmp_path / "walk", "depthtrack").frame(0)


def numbered(root: Path, rgb: list[str], x: list[str]) -> Path:
    """Return frames whose RGB is gray by their number, and X twice as bright."""
    for name in rgb:
        value = int("".join(c for c in name if c.isdigit()))
        write(root / "walk" / "visible", name, np.full((60, 80, 3), value, np.uint8))
    for name in x:
        value = int("".join(c for c in name if c.isdigit()))
        write(root / "walk" / "infrared", name, np.full((60, 80), 2 * value, np.uint8))
    (root / "walk" / "groundtruth.txt").write_text("20,20,12,12\n" * len(rgb))
    return root / "walk"


def test_x_that_is_missing_is_a_gap_and_the_rest_is_paired_by_number(tmp_path: Path) -> None:
    folder = numbered(tmp_path, [f"v{i:03d}.png" for i in range(1, 9)], ["2.png", "3.png", "7.png", "8.png"])
    sequence = open_sequence(folder, "folders")
    assert [sequence.lacks_x(index) for index in range(8)] == [True, False, False, True, True, True, False, False]
    for index in range(8):
        frame = sequence.frame(index)
        number = index + 1
        assert (frame[:, :, :3] == number).all()
        assert (frame[:, :, 3:] == (2 * number if number in (2, 3, 7, 8) else 0)).all()
    # A tracker is told that X is missing, and takes its stand-in for it.
    assert isinstance(available(sequence, 0), Frame)
    assert available(sequence, 0).x is None
    assert isinstance(available(sequence, 1), np.ndarray)
    dropped = DroppedSequence(sequence, rgb=[range(2)])
    assert available(dropped, 0) == Frame(None, None)
    report = check_dataset(tmp_path)
    assert report.ok
    assert "X is missing for 4 of 8 frames; the rest is paired by number" in report.sequences[0].notes
    settings = PairSettings(min_frames=2, min_present=2, augment=False)
    assert PairDataset([sequence], settings, 4)[0]["search"].shape == (6, 128, 128)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (["1.png", "9.png"], "9.png has no RGB frame of its number; expected as many of each, or the same numbers"),
        (["a1.png", "b1.png"], "one number in two ways of naming"),
        (["left.png"], "or a number of its own in each name to pair them by"),
    ],
)
def test_what_cannot_be_paired_is_refused(tmp_path: Path, x: list[str], said: str) -> None:
    folder = numbered(tmp_path, ["1.png", "2.png", "3.png"], [name for name in x if name != "left.png"] or ["5.png"])
    if x == ["left.png"]:
        (folder / "infrared" / "5.png").rename(folder / "infrared" / "left.png")
    with pytest.raises(RGBXError, match=said):
        open_sequence(folder, "folders")


def test_published_layouts_do_not_pair_by_number(tmp_path: Path) -> None:
    folder = numbered(tmp_path, ["1.png", "2.png"], ["1.png"])
    (folder / "visible.txt").write_text("1,1,4,4\n" * 2)
    with pytest.raises(RGBXError, match=r"2 frames in .*visible but 1 in .*infrared; expected as many of each$"):
        open_sequence(folder, "lasher")


def turned(path: Path, image: np.ndarray, orientation: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, turn: int, suffix: str) -> None:
    """Orientation 6 means that the camera was turned: the first row of the file is the right side of the scene."""
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[:8, :8] = 255
    upright = np.rot90(stored, turn)
    for name in ("visible", "infrared"):
        turned(tmp_path / "walk" / name / f"1{suffix}", stored, orientation)
    path = tmp_path / "walk" / "visible" / f"1{suffix}"
    assert image_size(path) == (upright.shape[1], upright.shape[0])
    for flags in (cv2.IMREAD_COLOR, ANY_KIND):
        found = read_image(path, flags)
        assert found is not None
        np.testing.assert_allclose(found.astype(int), upright, atol=2)
    frame = open_sequence(tmp_path / "walk", "folders").frame(0)
    np.testing.assert_allclose(frame[:, :, :3].astype(int), upright, atol=2)
    np.testing.assert_allclose(frame[:, :, 3:].astype(int), upright, atol=2)


def test_a_box_is_compared_with_the_upright_image(tmp_path: Path) -> None:
    for name in ("visible", "infrared"):
        turned(tmp_path / "walk" / name / "1.jpg", np.zeros((24, 40, 3), np.uint8), 6)
    (tmp_path / "walk" / "groundtruth.txt").write_text("5,30,10,8\n")
    sequence = open_sequence(tmp_path / "walk", "folders")
    assert isinstance(sequence, FolderSequence)
    assert sequence.frame(0).shape == (40, 24, 6)


def test_depth_that_is_a_picture_is_reported_wherever_it_is(tmp_path: Path) -> None:
    for kind, image in (("a", np.zeros((12, 16), np.uint8)), ("b", np.zeros((12, 16, 3), np.uint8))):
        scene(tmp_path / kind, image, kind="depth")
        (problem,) = check_dataset(tmp_path / kind, "folders").sequences[0].problems
        assert "expected 16 bits, millimeters" in problem
    scene(tmp_path / "c", np.full((12, 16), 900, np.uint16), kind="depth")
    assert check_dataset(tmp_path / "c", "folders").ok
