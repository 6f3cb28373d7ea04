"""Folders that were written are read back, and so are those that users have.

Every fault is reported in one sentence that names the place.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tracker.data.check import check_dataset, check_sequence
from tracker.data.layouts import (
    detect_layout,
    frame_files,
    natural_key,
    open_dataset,
    open_sequence,
    sequence_folders,
    write_dataset,
    write_sequence,
)
from tracker.data.rendering import XStyle
from tracker.data.sequence import ArraySequence, FolderSequence, read_image
from tracker.data.synthetic import SyntheticConfig, SyntheticSequence, synthetic_dataset
from tracker.errors import RGBXError

PAIRS = [
    ("thermal", "lasher"),
    ("depth", "depthtrack"),
    ("event", "visevent"),
    ("thermal", "folders"),
    ("depth", "folders"),
    ("event", "folders"),
    ("rgb", "folders"),
]


def generated(kind: str, length: int = 30, seed: int = 1, index: int = 0) -> SyntheticSequence:
    return SyntheticSequence(SyntheticConfig(modality=kind, length=length, seed=seed, size=(96, 72), leave=1.0), index)


@pytest.fixture
def lasher(tmp_path: Path) -> Path:
    """A small LasHeR folder with a box in every frame."""
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 6), dtype=np.uint8)
    boxes = [[10 + i, 5.5, 12, 8.25] for i in range(6)]
    sequence = ArraySequence("walk", "thermal", frames, boxes)
    return write_sequence(sequence, tmp_path / "data", "lasher", lossless=True)


@pytest.mark.parametrize(("kind", "layout"), PAIRS)
def test_what_is_written_is_read_back_to_the_bit(kind, layout, tmp_path) -> None:
    sequence = generated(kind)
    assert 0 < sequence.present.sum() < sequence.length  # absence is part of the round trip
    folder = write_sequence(sequence, tmp_path, layout, lossless=True)
    assert detect_layout(folder) == layout
    back = open_sequence(folder)
    assert (back.name, back.modality, back.length, back.rgb_only) == (sequence.name, kind, 30, kind == "rgb")
    np.testing.assert_array_equal(back.boxes, sequence.boxes)
    for i in range(sequence.length):
        np.testing.assert_array_equal(back.frame(i), sequence.frame(i))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(back)).frame(3), sequence.frame(3))
    # And once more from disk to disk, whatever the kind of sequence.
    again = open_sequence(write_sequence(back, tmp_path / "again", layout, lossless=True))
    np.testing.assert_array_equal(again.boxes, sequence.boxes)
    np.testing.assert_array_equal(again.frame(7), sequence.frame(7))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("kind", "layout"), [("thermal", "lasher"), ("depth", "depthtrack")])
def test_jpeg_keeps_boxes_and_nearly_the_picture(kind, layout, tmp_path) -> None:
    sequence = generated(kind)
    back = open_sequence(write_sequence(sequence, tmp_path, layout))
    np.testing.assert_array_equal(back.boxes, sequence.boxes)
    rgb, x = back.raw(3)
    assert back.rgb_files[0].suffix == ".jpg"
    assert np.abs(rgb.astype(float) - sequence.raw(3)[0]).mean() < 8
    if kind == "depth":
        np.testing.assert_array_equal(x, sequence.raw(3)[1])
        assert x.dtype == np.uint16


def test_files_are_what_the_published_sets_have(tmp_path) -> None:
    thermal, depth, event = generated("thermal"), generated("depth"), generated("event")
    a = write_sequence(thermal, tmp_path, "lasher")
    assert (a / "visible/v000.jpg").is_file()
    assert (a / "infrared/i029.jpg").is_file()
    lines = (a / "visible.txt").read_text().splitlines()
    assert (a / "infrared.txt").read_text() == (a / "init.txt").read_text() == (a / "visible.txt").read_text()
    first = thermal.boxes[0]
    assert [float(v) for v in lines[0].split(",")] == [first[0] + 1, first[1] + 1, first[2], first[3]]
    gone = int(np.flatnonzero(~thermal.present)[0])
    assert lines[gone] == "0,0,0,0"
    b = write_sequence(depth, tmp_path, "depthtrack")
    image = cv2.imread(str(b / "depth/00000001.png"), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, depth.raw(0)[1])
    assert (b / "color/00000030.jpg").is_file()
    lines = (b / "groundtruth.txt").read_text().splitlines()
    assert lines[int(np.flatnonzero(~depth.present)[0])] == "nan,nan,nan,nan"
    assert [float(v) for v in lines[0].split(",")] == depth.boxes[0].tolist()
    c = write_sequence(event, tmp_path, "visevent", first=37)
    assert sorted(p.name for p in (c / "vis_imgs").iterdir()) == sorted(p.name for p in (c / "event_imgs").iterdir())
    assert (c / "vis_imgs/frame0037.bmp").is_file()
    flags = (c / "absent_label.txt").read_text().split()
    assert flags == [str(int(p)) for p in event.present]  # 1 = present
    np.testing.assert_array_equal(open_sequence(c).boxes, event.boxes)


def test_lasher_names_are_not_trusted_but_sorted(lasher) -> None:
    expected = [open_sequence(lasher).frame(i).copy() for i in range(6)]
    files = frame_files(lasher / "visible")
    for i, path in enumerate(files):
        path.rename(path.with_name(f"{i + 7}.png"))  # 7 8 9 10 11 12: as text 10 comes before 7
    (lasher / "visible" / "Thumbs.db").write_bytes(b"x")
    (lasher / "visible" / ".hidden.png").write_bytes(b"x")
    for i, frame in enumerate(expected):
        np.testing.assert_array_equal(open_sequence(lasher).frame(i), frame)


@given(st.lists(st.integers(0, 100000), min_size=1, max_size=20, unique=True), st.integers(0, 2**31))
def test_natural_order_is_numeric(numbers, seed) -> None:
    names = [f"v{n}.jpg" for n in sorted(numbers)]
    shuffled = names.copy()
    random.Random(seed).shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == names


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", ";", "   "])
def test_numbers_are_separated_by_anything_usual(lasher, separator) -> None:
    expected = open_sequence(lasher).boxes
    text = (lasher / "visible.txt").read_text()
    (lasher / "visible.txt").write_text("\ufeff" + text.replace(",", separator).replace("\n", "\r\n") + "\n\n")
    np.testing.assert_array_equal(open_sequence(lasher).boxes, expected)


def test_absence_in_lasher_is_a_box_without_area(lasher) -> None:
    (lasher / "visible.txt").write_text("11,7,5,5\n0,0,0,0\n11,7,-1,5\n11,7,5,0\n1,1,3,3\n11,7,5,5\n")
    sequence = open_sequence(lasher)
    assert sequence.present.tolist() == [True, False, False, False, True, True]
    np.testing.assert_array_equal(sequence.boxes[[0, 4]], [[10, 6, 5, 5], [0, 0, 3, 3]])


def test_visevents_flag_means_present(tmp_path) -> None:
    folder = write_sequence(generated("event", 4), tmp_path, "visevent")
    (folder / "groundtruth.txt").write_text("5,5,9,9\n" * 4)
    (folder / "absent_label.txt").write_text("1\n0\n1\n0\n")
    assert open_sequence(folder).present.tolist() == [True, False, True, False]
    (folder / "absent_label.txt").unlink()
    assert open_sequence(folder).present.all()


def test_depthtracks_tags_are_read_and_written(tmp_path) -> None:
    folder = write_sequence(generated("depth", 4), tmp_path, "depthtrack")
    (folder / "full-occlusion.tag").write_text("0\n1\n0\n0\n")
    sequence = open_sequence(folder)
    assert sequence.tags["full-occlusion"].tolist() == [False, True, False, False]
    again = open_sequence(write_sequence(sequence, tmp_path / "b", "depthtrack"))
    assert again.tags["full-occlusion"].tolist() == [False, True, False, False]
    (folder / "full-occlusion.tag").write_text("0\n1\n")
    with pytest.raises(RGBXError, match=r"full-occlusion.tag has 2 lines for 4 frames"):
        open_sequence(folder)


def test_depth_styles(tmp_path) -> None:
    sequence = generated("depth", 3)
    folder = write_sequence(sequence, tmp_path, "depthtrack", lossless=True)
    gray = open_sequence(folder, style=XStyle(depth="gray")).frame(1)
    assert (gray[:, :, 3] == gray[:, :, 5]).all()
    jet = open_sequence(folder).frame(1)
    assert not np.array_equal(jet, gray)


def test_plain_folders_without_boxes_can_be_tracked(tmp_path) -> None:
    folder = write_sequence(generated("thermal", 3), tmp_path, "folders")
    (folder / "groundtruth.txt").unlink()
    sequence = open_sequence(folder)
    assert np.isnan(sequence.boxes).all()
    assert sequence.frame(2).shape == (72, 96, 6)


def test_lists_of_splits(tmp_path) -> None:
    config = SyntheticConfig(length=3, size=(96, 72))
    train = write_dataset(synthetic_dataset(config, 2), tmp_path, "lasher", split="train")
    test = write_dataset(synthetic_dataset(config, 1, first=2), tmp_path, "lasher", split="test")
    assert (tmp_path / "trainingsetList.txt").read_text().split() == [p.name for p in train]
    assert [s.name for s in open_dataset(tmp_path, split="train")] == [p.name for p in train]
    assert [s.name for s in open_dataset(tmp_path, "lasher", split="test")] == [p.name for p in test]
    assert len(open_dataset(tmp_path)) == 3
    mine = tmp_path / "mine.txt"
    mine.write_text(f"# comment\n{test[0].name}\n\n{train[1].name}/\n")
    assert [s.name for s in open_dataset(tmp_path, split=str(mine))] == [test[0].name, train[1].name]
    mine.write_text("nowhere\n")
    with pytest.raises(RGBXError, match=r"sequence nowhere, listed in .*mine.txt, is not in"):
        open_dataset(tmp_path, split=str(mine))
    with pytest.raises(RGBXError, match="split 'mine' is not in"):
        open_dataset(tmp_path, split="mine")
    os.rename(train[0], tmp_path / "elsewhere")
    nested = tmp_path / "part" / train[0].name
    nested.parent.mkdir()
    os.rename(tmp_path / "elsewhere", nested)
    assert sequence_folders(tmp_path, split="train")[0] == nested
    write_dataset(
        synthetic_dataset(SyntheticConfig(modality="event", length=2, size=(96, 72)), 1),
        tmp_path / "e",
        "visevent",
        "test",
    )
    assert (tmp_path / "e" / "testlist.txt").is_file()


def test_a_split_may_be_a_folder(tmp_path) -> None:
    write_sequence(generated("depth", 3), tmp_path / "train", "depthtrack")
    assert len(open_dataset(tmp_path, split="train")) == 1
    assert len(open_dataset(tmp_path)) == 1
    assert len(open_dataset(tmp_path / "train" / generated("depth", 3).name)) == 1


def drop_frame(folder: Path) -> None:
    frame_files(folder / "infrared")[2].unlink()


def drop_line(folder: Path) -> None:
    lines = (folder / "visible.txt").read_text().splitlines()
    (folder / "visible.txt").write_text("\n".join(lines[:-1]) + "\n")


def line(text: str):
    def change(folder: Path) -> None:
        lines = (folder / "visible.txt").read_text().splitlines()
        lines[3] = text
        (folder / "visible.txt").write_text("\n".join(lines) + "\n")

    return change


def remove(name: str):
    def change(folder: Path) -> None:
        for path in [folder / name] if (folder / name).is_file() else folder.glob(name):
            path.unlink()

    return change


def binary(folder: Path) -> None:
    (folder / "visible.txt").write_bytes(b"\xff\xfe\x00\x81")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (drop_frame, r"sequence walk: 6 frames in .*visible but 5 in .*infrared; expected as many of each"),
        (
            drop_line,
            r"sequence walk: 6 frames in .*visible but 5 boxes in .*visible.txt; expected one box per frame",
        ),
        (line("1,2,3"), r"sequence walk: line 4 of .*visible.txt is '1,2,3'; expected four numbers"),
        (line("1,2,3,4,5,6,7,8"), r"line 4 of .*visible.txt is .*; expected four numbers"),
        (line("1,2,x,4"), r"sequence walk: line 4 of .*visible.txt is '1,2,x,4'; expected four numbers"),
        (line(""), r"sequence walk: line 4 of .*visible.txt is ''; expected four numbers"),
        (line("nan,2,3,4"), r"line 4 of .*visible.txt is 'nan,2,3,4'; expected finite numbers"),
        (line("1,inf,3,4"), r"line 4 of .*visible.txt is '1,inf,3,4'; expected finite numbers"),
        (
            line("61,5,9,9"),
            r"sequence walk: line 4 of .*visible.txt is the box x=61 y=5 w=9 h=9, wholly outside the 60x40",
        ),
        (
            line("5,-20,9,9"),
            r"line 4 of .*visible.txt is the box x=5 y=-20 w=9 h=9, wholly outside the 60x40 image",
        ),
        (remove("visible/*"), r"sequence walk: .*visible holds no image"),
        (remove("*.txt"), r"sequence walk: .*walk has no visible.txt or init.txt or infrared.txt"),
        (binary, r"sequence walk: .*visible.txt cannot be read as text"),
    ],
)
def test_every_fault_of_a_folder_is_one_sentence(lasher, damage, sentence) -> None:
    damage(lasher)
    with pytest.raises(RGBXError, match=sentence):
        open_sequence(lasher, "lasher")
    report = check_sequence(lasher, "lasher")
    assert report.problems
    assert "\n" not in report.problems[0]


@pytest.mark.parametrize("text", ["60,40,9,9", "-3,-3,5,5"])
def test_a_box_that_touches_the_image_is_kept(lasher, text) -> None:
    line(text)(lasher)
    assert open_sequence(lasher).present.all()


def test_frames_that_cannot_be_read_are_named_when_asked_for(lasher) -> None:
    path = frame_files(lasher / "infrared")[3]
    good = path.read_bytes()
    sequence = open_sequence(lasher)
    path.write_bytes(b"not an image")
    with pytest.raises(RGBXError, match=r"sequence walk: frame 3 cannot be decoded as an image: .*i003.png"):
        sequence.frame(3)
    path.write_bytes(b"")
    with pytest.raises(RGBXError, match=r"sequence walk: frame 3 cannot be decoded as an image: .*i003.png"):
        sequence.frame(3)
    path.unlink()
    with pytest.raises(RGBXError, match=r"sequence walk: frame 3 is missing: .*i003.png"):
        sequence.frame(3)
    cv2.imwrite(str(path), np.zeros((30, 60, 3), np.uint8))
    with pytest.raises(RGBXError, match=r"sequence walk: frame 3 is 60x40 in RGB but 60x30 in thermal: .*i003.png"):
        sequence.frame(3)
    path.write_bytes(good)
    assert sequence.frame(3).shape == (40, 60, 6)
    frame_files(lasher / "visible")[0].write_bytes(b"not an image")
    with pytest.raises(RGBXError, match=r"sequence walk: frame 0 cannot be decoded as an image: .*v000.png"):
        open_sequence(lasher)


def test_visevents_frames_go_by_name(tmp_path) -> None:
    folder = write_sequence(generated("event", 4), tmp_path, "visevent")
    files = frame_files(folder / "event_imgs")
    files[2].rename(files[2].with_name("frame0099.bmp"))
    with pytest.raises(RGBXError, match=r"frame0002.bmp has no event frame of the same name \(found frame0003.bmp"):
        open_sequence(folder)
    (folder / "absent_label.txt").write_text("1\n2\n1\n1\n")
    files[2].with_name("frame0099.bmp").rename(files[2])
    with pytest.raises(RGBXError, match=r"line 2 of .*absent_label.txt is '2'; expected 0 or 1"):
        open_sequence(folder)


def test_event_images_have_8_bits(tmp_path) -> None:
    folder = write_sequence(generated("event", 4), tmp_path, "folders")
    path = frame_files(folder / "event")[3]
    cv2.imwrite(str(path), np.zeros((72, 96), np.uint16))
    with pytest.raises(RGBXError, match=rf"frame 3 has uint16 pixels: .*{path.name}; expected 8-bit event images"):
        open_sequence(folder).frame(3)


def test_folders_that_are_no_sequence(tmp_path) -> None:
    with pytest.raises(RGBXError, match=r"sequence nowhere: there is no folder .*nowhere; check the path"):
        open_sequence(tmp_path / "nowhere")
    (tmp_path / "odd").mkdir()
    with pytest.raises(RGBXError, match=r"sequence odd: .*odd has none of the known layouts"):
        open_sequence(tmp_path / "odd")
    with pytest.raises(RGBXError, match=r"layout is 'coco'; expected auto or one of lasher"):
        open_sequence(tmp_path / "odd", "coco")
    with pytest.raises(RGBXError, match=r"the folder .*visible is missing; the lasher layout needs it"):
        open_sequence(tmp_path / "odd", "lasher")
    with pytest.raises(RGBXError, match="holds no sequence in a known layout"):
        open_dataset(tmp_path)
    with pytest.raises(RGBXError, match="there is no folder"):
        open_dataset(tmp_path / "nowhere")
    for name in ("visible", "infrared", "depth"):
        (tmp_path / "odd" / name).mkdir()
    with pytest.raises(RGBXError, match=r"expected one RGB folder .* and at most one X folder"):
        open_sequence(tmp_path / "odd", "folders")


def test_a_layout_holds_its_own_modality(tmp_path, lasher) -> None:
    with pytest.raises(RGBXError, match="is depth; the lasher layout holds thermal sequences"):
        write_sequence(generated("depth", 3), tmp_path, "lasher")
    with pytest.raises(RGBXError, match="exists; choose another folder"):
        write_sequence(open_sequence(lasher), lasher.parent, "lasher")
    write_sequence(open_sequence(lasher), lasher.parent, "lasher", overwrite=True)
    pictures = ArraySequence("p", "depth", np.zeros((2, 9, 9, 6), np.uint8), np.ones((2, 4)))
    with pytest.raises(RGBXError, match="has rendered depth only; the depthtrack layout holds millimeters"):
        write_sequence(pictures, tmp_path, "depthtrack")
    assert not (tmp_path / "p").exists()
    with pytest.raises(RGBXError, match="split is 'val'; expected one of train, test"):
        write_dataset([pictures], tmp_path, "folders", split="val")
    with pytest.raises(RGBXError, match="expected 'raise' or 'skip'"):
        open_dataset(lasher.parent, broken="ignore")


@pytest.mark.parametrize("after", [0, 1, 7, 11])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_no_half_sequence(lasher, tmp_path, monkeypatch, after, overwrite) -> None:
    sequence = open_sequence(lasher)
    root = lasher.parent if overwrite else tmp_path / "out"
    written = 0
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > after:
            real(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_sequence(sequence, root, "lasher", overwrite=overwrite)
    monkeypatch.undo()
    if overwrite:
        assert [p.name for p in root.iterdir()] == ["walk"]
        np.testing.assert_array_equal(open_sequence(lasher).boxes, sequence.boxes)
        assert open_sequence(lasher).frame(5).shape == (40, 60, 6)
    else:
        assert list(root.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_reads_as_a_sequence(lasher) -> None:
    (lasher.parent / "walk").rename(lasher.parent / ".walk.partial-1")
    write_sequence(generated("thermal", 3), lasher.parent, "lasher")
    assert len(open_dataset(lasher.parent)) == 1


def test_a_list_is_not_written_when_a_sequence_fails(tmp_path, monkeypatch) -> None:
    def fail(path: Path, image: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tracker.data.layouts.writing.write_image", fail)
    with pytest.raises(OSError, match="No space left"):
        write_dataset([generated("thermal", 3)], tmp_path, "lasher", split="train")
    assert list(tmp_path.iterdir()) == []


def test_check_reports_every_sequence_and_every_fault(tmp_path) -> None:
    root = tmp_path / "data"
    for index in range(4):
        write_sequence(generated("thermal", 25, index=index), root, "lasher", name=f"s{index}")
    frame_files(root / "s1" / "visible")[4].write_bytes(b"broken")
    frame_files(root / "s1" / "infrared")[6].write_bytes(b"broken")
    lines = (root / "s1" / "visible.txt").read_text().splitlines()
    lines[1], lines[2] = "a,b,c,d", "900,900,5,5"
    (root / "s1" / "visible.txt").write_text("\n".join(lines))
    frame_files(root / "s2" / "infrared")[0].unlink()
    (root / "junk").mkdir()
    report = check_dataset(root)
    assert not report.ok
    assert [s.name for s in report.sequences] == ["s0", "s1", "s2", "s3"]
    assert [len(s.problems) for s in report.sequences] == [0, 4, 1, 0]
    assert (report.sequences[1].usable, report.sequences[1].frames) == (23, 25)
    assert report.sequences[0].present == int(generated("thermal", 25, index=0).present.sum())
    assert any("junk is not a sequence" in text for text in report.problems)
    text = str(report)
    for part in (
        "line 2 of",
        "line 3 of",
        "frame 4 cannot be decoded",
        "frame 6 cannot be decoded",
        "2 of 4 sequences",
    ):
        assert part in text
    with pytest.raises(RGBXError, match=r"s1: .*and 1 more; `rgbx data check` lists them"):
        open_dataset(root)
    assert [s.name for s in open_dataset(root, broken="skip")] == ["s0", "s3"]
    quick = check_dataset(root, decode=False)
    assert [len(s.problems) for s in quick.sequences] == [0, 2, 1, 0]
    assert not check_dataset(tmp_path / "nowhere").ok
    with pytest.raises(RGBXError, match="layout is 'coco'"):
        check_dataset(root, "coco")


def test_check_notes_what_cannot_be_trained_on(tmp_path) -> None:
    folder = write_sequence(generated("thermal", 6), tmp_path, "folders")
    report = check_sequence(folder)
    assert not report.problems
    assert any("fewer than 20" in note for note in report.notes)
    (folder / "groundtruth.txt").unlink()
    assert any("good for `rgbx track`" in note for note in check_sequence(folder).notes)
    assert check_dataset(folder).ok


def test_constructor_names_differing_lengths(lasher) -> None:
    sequence = open_sequence(lasher)
    with pytest.raises(RGBXError, match=r"sequence w: 6 RGB frames in .*visible but 5 thermal frames in"):
        FolderSequence("w", "thermal", sequence.rgb_files, sequence.x_files[:5], sequence.boxes)
    with pytest.raises(RGBXError, match="sequence w: 6 frames but 5 boxes"):
        FolderSequence("w", "thermal", sequence.rgb_files, sequence.x_files, sequence.boxes[:5])


def test_the_real_sequences_open(shared_data) -> None:
    ball = open_sequence(shared_data / "real" / "eventsot_ball1", layout="auto")
    assert (ball.modality, ball.length, int(ball.present.sum())) == ("event", 40, 40)
    np.testing.assert_array_equal(ball.boxes[0], [156, 189, 78, 70])
    walk = open_sequence(shared_data / "real" / "tno_nato_camp", layout="auto")
    assert (walk.modality, walk.length, int(walk.present.sum())) == ("thermal", 31, 31)
    for sequence, shape in ((ball, (260, 346, 6)), (walk, (270, 360, 6))):
        for index in (0, sequence.length - 1):
            assert sequence.frame(index).shape == shape
    # RGB order, not BGR: PIL decodes independently.
    with Image.open(ball.rgb_files[0]) as image:
        np.testing.assert_array_equal(ball.frame(0)[:, :, :3], np.asarray(image.convert("RGB")))
    assert check_dataset(shared_data / "real").ok


def test_reading_is_rgb_and_survives_odd_names(tmp_path) -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    image[..., 0] = 200
    path = tmp_path / "rotes Bild ü.png"
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(read_image(path), image)
    assert read_image(tmp_path / "none.png") is None
