"""Events are drawn as a loop over them draws them, and the camera maker's library reads and writes the recordings."""

from __future__ import annotations

import builtins
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tracker.cli import cli
from tracker.data.depth import depth_to_image
from tracker.data.event_images import frame_spans, render_sequence
from tracker.data.events import array_to_image, events_to_stack, voxels_to_image
from tracker.data.generate import generate_dataset
from tracker.data.layouts import frame_files, open_sequence
from tracker.data.recordings import EXPOSURE_US, INTERVAL_US, Recording
from tracker.data.rendering import XStyle
from tracker.data.sequence import read_image
from tracker.data.synthetic import SyntheticConfig, SyntheticSequence
from tracker.errors import RGBXError

SIZE = (7, 5)
EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 999), st.booleans()), max_size=40)
RED, BLUE, WHITE = (220, 30, 30), (30, 30, 200), (255, 255, 255)


def columns(events: list) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    array = np.array(sorted(events, key=lambda e: e[2]), dtype=np.int64).reshape(-1, 4)
    return array[:, 0], array[:, 1], array[:, 2], array[:, 3]


@given(EVENTS)
def test_gray_events_are_those_of_a_loop_over_them(events: list) -> None:
    x, y, t, p = columns(events)
    expected = np.full((5, 7, 3), 127, np.uint8)
    for a, b, c, d in zip(x, y, t, p, strict=True):
        third = 0 if 3 * c < 1000 else 1 if 3 * c < 2000 else 2
        expected[b, a, third] = 0 if d else 255
    np.testing.assert_array_equal(events_to_stack(x, y, t, p, SIZE, (0, 1000)), expected)


@given(EVENTS, st.sampled_from(["npz", "structured", "columns"]))
def test_arrays_of_events_in_the_forms_that_people_store(
    tmp_path_factory: pytest.TempPathFactory, events: list, form: str
) -> None:
    x, y, t, p = columns(events)
    path = tmp_path_factory.getbasetemp() / f"events.{'npz' if form == 'npz' else 'npy'}"
    if form == "npz":
        np.savez(path, x=x, y=y, timestamp=t, polarity=p)
    elif form == "structured":
        np.save(path, np.array(list(zip(x, y, t, p, strict=True)),
                               dtype=[("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")]))  # fmt: skip
    else:
        np.save(path, np.stack([x, y, t, p], axis=1))
    expected = np.full((5, 7, 3), 255, np.uint8)
    for a, b, d in zip(x, y, p, strict=True):
        expected[b, a] = RED if d else BLUE
    np.testing.assert_array_equal(array_to_image(path, SIZE), expected)


def test_voxel_grids_by_hand(tmp_path: Path) -> None:
    grid = np.zeros((6, 5, 7))
    grid[0, 0, 0], grid[5, 0, 0] = 2.0, -0.5  # ON in sum, OFF in the last third
    grid[3, 1, 1] = -1.0
    color = voxels_to_image(grid)
    assert [tuple(color[0, 0]), tuple(color[1, 1]), tuple(color[2, 2])] == [RED, BLUE, WHITE]
    gray = voxels_to_image(grid, "gray")
    assert [gray[0, 0].tolist(), gray[1, 1].tolist()] == [[0, 127, 255], [127, 255, 127]]
    np.save(tmp_path / "v.npy", grid)
    np.testing.assert_array_equal(array_to_image(tmp_path / "v.npy", SIZE, "gray"), gray)
    with pytest.raises(RGBXError, match="is a grid of 7x5 for 9x9 frames"):
        array_to_image(tmp_path / "v.npy", (9, 9))
    grid[0, 0, 0] = np.nan
    with pytest.raises(RGBXError, match="of finite numbers"):
        voxels_to_image(grid)


def test_a_folder_of_arrays_is_a_folder_of_event_images(tmp_path: Path) -> None:
    for name in ("rgb", "event"):
        (tmp_path / "walk" / name).mkdir(parents=True)
    for index in range(2):
        cv2.imwrite(str(tmp_path / "walk" / "rgb" / f"{index}.png"), np.zeros((5, 7, 3), np.uint8))
        np.savez(tmp_path / "walk" / "event" / f"{index}.npz", x=[index], y=[1], t=[5], p=[1])
    sequence = open_sequence(tmp_path / "walk")
    assert tuple(sequence.frame(1)[1, 1, 3:]) == RED
    gray = open_sequence(tmp_path / "walk", style=XStyle(event="gray"))
    assert gray.frame(0)[1, 0].tolist() == [
        0,
        0,
        0,
        0,
        127,
        127,
    ]
    np.savez(tmp_path / "walk" / "event" / "1.npz", x=[7], y=[1], t=[5], p=[1])
    with pytest.raises(RGBXError, match="sequence walk: frame 1: events lie outside the 7x5 image"):
        sequence.frame(1)
    (tmp_path / "walk" / "event" / "1.npz").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(RGBXError, match=r"frame 1: .*1.npz cannot be read"):
        sequence.frame(1)


def test_jet_in_the_order_that_published_weights_saw() -> None:
    depth = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    gray = depth_to_image(depth, "gray")
    np.testing.assert_array_equal(depth_to_image(depth, "jet_bgr"), cv2.applyColorMap(gray, cv2.COLORMAP_JET))
    np.testing.assert_array_equal(depth_to_image(depth, "jet_bgr")[..., ::-1], depth_to_image(depth, "jet"))
    meters = np.where(depth < 100, np.nan, depth.astype(np.float32))
    np.testing.assert_array_equal(depth_to_image(meters), depth_to_image(np.where(depth < 100, 0, depth)))


def test_spans_of_frames() -> None:
    frames = [(100, 110), (133, 133), (170, 180)]
    assert frame_spans(frames, exposure=True) == [(100, 110), (133, 170), (170, 180)]
    assert frame_spans(frames, exposure=False) == [(100, 133), (133, 170), (170, 207)]
    assert frame_spans([(5, 5)], exposure=True) == [(5, 5)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticSequence]:
    """Write FE108's layout as it is distributed, with images and a recording."""
    pytest.importorskip("dv_processing", reason="recordings need dv-processing (the extra `events`)")
    config = SyntheticConfig(modality="event", length=5, size=(96, 72), seed=3)
    folder = generate_dataset(config, 1, tmp_path_factory.mktemp("fe108"), "fe108", "test", recordings=True)[0]
    return folder, SyntheticSequence(config, 0)


def test_recordings_hold_what_was_generated(recorded: tuple[Path, SyntheticSequence]) -> None:
    folder, sequence = recorded
    recording = Recording(folder / "events.aedat4")
    frames = list(recording.frames())
    assert recording.size == (96, 72)
    assert len(frames) == 5
    for index, frame in enumerate(frames):
        rgb, polarity = sequence.raw(index)
        np.testing.assert_array_equal(frame.image, rgb)
        assert (frame.start, frame.end - frame.start) == (1_000_000 + index * INTERVAL_US, EXPOSURE_US)
        x, y, t, p = recording.events(frame.start, frame.end)
        assert len(x) == np.count_nonzero(polarity)
        np.testing.assert_array_equal(polarity[y, x] > 0, p > 0)
        assert (np.diff(t) >= 0).all()
    assert len(recording.events(0, 10)[0]) == 0


def test_drawn_recordings_are_the_generators_images(recorded: tuple[Path, SyntheticSequence]) -> None:
    folder, sequence = recorded
    with pytest.raises(RGBXError, match=r"evimg is missing; make it from events.aedat4 by `rgbx data render-events`"):
        open_sequence(folder)
    assert render_sequence(folder, style="color") == folder / "evimg"
    back = open_sequence(folder)
    for index in range(5):
        np.testing.assert_array_equal(back.frame(index)[:, :, 3:], sequence.frame(index)[:, :, 3:])
    assert render_sequence(folder) is None  # there already
    result = CliRunner().invoke(cli, ["data", "render-events", str(folder.parent), "--overwrite"])
    assert result.exit_code == 0, result.output
    assert "drew the events of 1 sequences" in result.output
    # All events lie in the first 10 of 33 ms: the first third alone is drawn.
    image = open_sequence(folder).frame(2)[:, :, 3:]
    polarity = sequence.raw(2)[1]
    np.testing.assert_array_equal(image[:, :, 0], np.choose(polarity + 1, [255, 127, 0]))
    assert (image[:, :, 1:] == 127).all()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_images_that_are_a_part_of_the_recording(recorded: tuple[Path, SyntheticSequence]) -> None:
    folder, sequence = recorded
    render_sequence(folder, style="color", overwrite=True)
    kept = {p.name: p.read_bytes() for p in (folder / "img").iterdir()}
    for name in ("0001.jpg", "0002.jpg"):
        (folder / "img" / name).unlink()
    try:
        (folder.parent / "pair.txt").write_text(f"{folder.name} 2\n")
        render_sequence(folder, style="color", overwrite=True)
        files = frame_files(folder / "evimg")
        assert files.names == ["0003.png", "0004.png", "0005.png"]
        np.testing.assert_array_equal(read_image(files[0]), sequence.frame(2)[:, :, 3:])
        (folder.parent / "pair.txt").write_text(f"{folder.name} 4\n")
        with pytest.raises(RGBXError, match=r"holds 5 frames for 3 images, .* say so with --first"):
            render_sequence(folder, overwrite=True)
        assert len(frame_files(folder / "evimg")) == 3  # what was there stays
    finally:
        (folder.parent / "pair.txt").unlink()
        for name, data in kept.items():
            (folder / "img" / name).write_bytes(data)


def test_a_recording_alone_becomes_a_sequence(recorded: tuple[Path, SyntheticSequence], tmp_path: Path) -> None:
    folder, sequence = recorded
    mine = tmp_path / "dvSave-3"
    mine.mkdir()
    (mine / "dvSave-3.aedat4").write_bytes((folder / "events.aedat4").read_bytes())
    (mine / "groundtruth.txt").write_text("1,1,9,9\n" * 5)
    render_sequence(mine)
    back = open_sequence(mine)
    for index in range(5):
        np.testing.assert_array_equal(back.frame(index), sequence.frame(index))


@pytest.mark.parametrize("length", [0, 5, 100, -50])
def test_a_recording_that_is_cut_off(recorded: tuple[Path, SyntheticSequence], tmp_path: Path, length: int) -> None:
    data = (recorded[0] / "events.aedat4").read_bytes()
    folder = tmp_path / "dvSave-4"
    (folder / "vis_imgs").mkdir(parents=True)
    (folder / "dvSave-4.aedat4").write_bytes(data[:length])
    with pytest.raises(RGBXError, match=r"dvSave-4.aedat4 is cut off or no AEDAT4 recording"):
        render_sequence(folder, "visevent")
    assert sorted(p.name for p in folder.iterdir()) == ["dvSave-4.aedat4", "vis_imgs"]


def test_without_the_library_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: object, **keywords: object) -> object:
        if name == "dv_processing":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RGBXError, match=r'not installed; pip install "srft-kernels\[events\]"'):
        Recording(tmp_path / "x.aedat4")
