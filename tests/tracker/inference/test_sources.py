"""Video files and cameras as frame sources, and tracking in them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.tracker.inference.cases import BrightestBlob, moving
from tracker.errors import RGBXError
from tracker.inference import Frame, PairedCapture, SequenceSource, track_sequence, track_stream
from tracker.inference.capture import UNREADABLE_IN_A_ROW, Capture
from tracker.inference.selection import box_selector, select_box, selected
from tracker.inference.speed import percentiles, speed_line, speed_summary
from tracker.inference.tracking import Tracked, picture


def write_video(path: Path, levels: list[int], fps: float = 20.0, size: tuple[int, int] = (64, 48)) -> str:
    """Return a video of uniform gray pictures, one of each level."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((size[1], size[0], 3), level, np.uint8))
    writer.release()
    return str(path)


def levels(source: PairedCapture) -> list[tuple[int | None, int | None]]:
    """Return the mean level of both halves of every frame, to the nearest ten."""
    return [
        tuple(None if half is None else 10 * round(float(half.mean()) / 10) for half in frame)  # type: ignore[misc]
        for frame in source
    ]


class FakeCamera:
    """Stands in for ``cv2.VideoCapture`` with given pictures, None for one that fails.

    After the last it fails for ever.
    """

    def __init__(self, pictures: list[np.ndarray | None]) -> None:
        self.pictures, self.at, self.released = pictures, -1, False

    def isOpened(self) -> bool:
        return bool(self.pictures)

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.at += 1
        return self.at < len(self.pictures) and self.pictures[self.at] is not None

    def retrieve(self) -> tuple[bool, Any]:
        return True, self.pictures[self.at]

    def release(self) -> None:
        self.released = True


def gray(level: int) -> np.ndarray:
    return np.full((12, 16, 3), level, np.uint8)


# ---- videos


def test_videos_of_one_rate_are_paired_by_index(tmp_path: Path) -> None:
    rgb = write_video(tmp_path / "a.avi", [10, 20, 30])
    x = write_video(tmp_path / "b.avi", [110, 120, 130])
    with PairedCapture(rgb, x) as source:
        assert (source.pairing, source.name, source.length, source.fps, source.live) == ("index", "a", 3, 20, False)
        assert levels(source) == [(10, 110), (20, 120), (30, 130)]


def test_videos_of_different_rates_are_paired_by_time(tmp_path: Path) -> None:
    # RGB at 0, 50, 100, ... ms; X at 0, 100, 200 ms. The nearest: 0, 0 or 1 (a tie), 1, ...
    rgb = write_video(tmp_path / "a.avi", [10, 20, 30, 40, 50], fps=20)
    x = write_video(tmp_path / "b.avi", [110, 130, 150], fps=10)
    with PairedCapture(rgb, x) as source:
        assert source.pairing == "time"
        found = levels(source)
    assert [pair[0] for pair in found] == [10, 20, 30, 40, 50]
    assert [found[i][1] for i in (0, 2, 4)] == [110, 130, 150]
    assert found[1][1] in (110, 130)
    with PairedCapture(rgb, x, pairing="index") as source:
        assert levels(source)[:3] == [(10, 110), (20, 130), (30, 150)]
    # A faster X: three images a frame, of which the nearest is taken.
    fast = write_video(tmp_path / "c.avi", list(range(100, 240, 10)), fps=60)
    with PairedCapture(rgb, fast) as source:
        assert [pair[1] for pair in levels(source)] == [100, 130, 160, 190, 220]


@pytest.mark.parametrize("pairing", ["index", "time"])
def test_streams_of_unequal_length_are_said_once(
    tmp_path: Path, pairing: str, caplog: pytest.LogCaptureFixture
) -> None:
    long = write_video(tmp_path / "a.avi", [10, 20, 30, 40, 50, 60])
    short = write_video(tmp_path / "b.avi", [110, 120])
    with caplog.at_level(logging.WARNING, "rgbx"), PairedCapture(long, short, pairing) as source:
        found = levels(source)
    assert found[:2] == [(10, 110), (20, 120)]
    assert found[3:] == [(40, None), (50, None), (60, None)]
    assert [r.getMessage() for r in caplog.records].count(
        f"{short} ended before {long}; the rest is tracked without X"
    ) == 1
    with PairedCapture(short, long, pairing) as source:
        assert levels(source) == [(110, 10), (120, 20)]


def test_x_is_resized_where_shapes_agree_and_refused_where_not(tmp_path: Path) -> None:
    rgb = write_video(tmp_path / "a.avi", [10, 20])
    half = write_video(tmp_path / "b.avi", [110, 120], size=(32, 24))
    with PairedCapture(rgb, half) as source:
        frame = next(iter(source))
        assert isinstance(frame, Frame)
        assert frame.x is not None
        assert frame.x.shape == (48, 64, 3)
    square = write_video(tmp_path / "c.avi", [110], size=(48, 48))
    with PairedCapture(rgb, square) as source, pytest.raises(RGBXError, match="RGB is 64x48 but X 48x48"):
        next(iter(source))


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for address, why in ((tmp_path / "none.mp4", "does not exist"), (tmp_path / "text.mp4", "cannot open")):
        with pytest.raises(RGBXError, match=why):
            Capture(str(address))
    with pytest.raises(RGBXError, match="is not a camera"):
        Capture("camera:front")
    with pytest.raises(RGBXError, match="cannot open camera:9"):
        Capture("camera:9", lambda _: FakeCamera([]))
    first = FakeCamera([gray(1)])
    with pytest.raises(RGBXError, match="does not exist"):
        PairedCapture("camera:0", str(tmp_path / "none.mp4"), open_capture=lambda _: first)
    assert first.released
    with pytest.raises(RGBXError, match="pairing 'name' is unknown"):
        PairedCapture("camera:0", None, "name")


# ---- cameras


def test_cameras_fail_now_and_then_and_end(caplog: pytest.LogCaptureFixture) -> None:
    cameras = {0: FakeCamera([gray(10), None, gray(30), gray(40)]), 1: FakeCamera([gray(110), gray(120), None])}
    with caplog.at_level(logging.WARNING, "rgbx"):
        with PairedCapture("camera:0", "camera:1", open_capture=cameras.__getitem__) as source:
            assert source.live
            assert source.length is None
            found = levels(source)
        assert cameras[0].released
        assert cameras[1].released
    assert found[:4] == [(10, 110), (None, 120), (30, None), (40, None)]
    # Unplugged: after so many failures in a row the stream has ended.
    assert len(found) == 4 + UNREADABLE_IN_A_ROW - 1
    assert sum("image 1 cannot be read" in r.getMessage() for r in caplog.records) == 1
    with pytest.raises(RGBXError, match="paired as they come"):
        PairedCapture("camera:0", "camera:1", "time", open_capture=lambda _: FakeCamera([gray(1)]))


def test_rgb_arrives_in_rgb_order() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255  # OpenCV's blue
    source = PairedCapture("camera:0", None, open_capture=lambda _: FakeCamera([picture]))
    frame = next(iter(source))
    assert isinstance(frame, Frame)
    assert frame.rgb is not None
    assert frame.x is None
    assert frame.rgb[0, 0].tolist() == [0, 0, 255]


# ---- tracking in streams


def camera(pictures: list[np.ndarray | None]) -> PairedCapture:
    return PairedCapture("camera:0", None, open_capture=lambda _: FakeCamera(pictures))


def drawn(tracked: Tracked) -> np.ndarray:
    image = picture(tracked.frame)
    assert image is not None
    return image


def blobs(path: Path, length: int = 12) -> tuple[str, np.ndarray]:
    """Return a video of the moving rectangle, and its boxes."""
    sequence = moving("s", length)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (200, 150))
    for index in range(length):
        writer.write(sequence.frame(index)[:, :, :3])
    writer.release()
    return str(path), sequence.boxes


def test_two_videos_are_tracked_into_files(tmp_path: Path) -> None:
    path, boxes = blobs(tmp_path / "a.avi")
    seen: list[Tracked] = []

    def watch(tracked: Tracked) -> bool:
        seen.append(tracked)
        return True

    with PairedCapture(path, path, modality="thermal") as source:
        out = tmp_path / "out"
        track = track_stream(
            BrightestBlob(1.5),
            source,
            boxes[0],
            output=out,
            overlay=True,
            drop_x=[range(3, 5)],
            watch=watch,
            progress=False,
        )
    assert np.abs(track.boxes - boxes).max() < 2  # JPEG blurs the rectangle's edges
    np.testing.assert_allclose(np.loadtxt(out / "a.txt", delimiter=","), track.boxes, atol=1e-9)
    assert (out / "scores" / "a.txt").is_file()
    assert len(np.loadtxt(out / "a_lost.txt")) == 12
    assert [tracked.index for tracked in seen] == list(range(12))
    assert [int(drawn(tracked)[:, :, 3:].max()) > 0 for tracked in seen[2:6]] == [True, False, False, True]
    summary = json.loads((out / "speed.json").read_text())
    assert summary["frames"] == 12
    assert summary["latency_ms"]["p50"] <= summary["latency_ms"]["p90"] <= summary["latency_ms"]["p99"]
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 12
    assert sorted(p.name for p in out.iterdir()) == ["a.txt", "a_lost.txt", "overlay.mp4", "scores", "speed.json"]


def test_a_stream_ends_early_and_keeps_what_it_has(tmp_path: Path) -> None:
    sequence = moving("s", 12)

    def stop(tracked: Tracked) -> bool:
        return tracked.index < 4

    def interrupt(tracked: Tracked) -> bool:
        if tracked.index == 6:
            raise KeyboardInterrupt
        return True

    for name, watch, most, expected in (("a", stop, None, 5), ("b", interrupt, None, 7), ("c", None, 3, 3)):
        source = SequenceSource(sequence)
        track = track_stream(
            BrightestBlob(1.5),
            source,
            sequence.boxes[0],
            output=tmp_path / name,
            watch=watch,
            most_frames=most,
            progress=False,
        )
        assert len(track.boxes) == expected
        assert len(np.loadtxt(tmp_path / name / "s.txt", delimiter=",")) == expected
        np.testing.assert_array_equal(track.boxes, track_sequence(BrightestBlob(1.5), sequence).boxes[:expected])


def test_a_stream_starts_with_its_first_image_and_a_selected_box() -> None:
    sequence = moving("s", 6)
    track = track_stream(
        BrightestBlob(1.5),
        SequenceSource(sequence),
        select=lambda image: sequence.boxes[2] if image.shape == (150, 200, 3) else None,
        drop_rgb=[range(2)],
        drop_x=[range(2)],
        progress=False,
    )
    assert track.first == 2
    assert np.isnan(track.boxes[:2]).all()
    assert np.abs(track.boxes[2:] - sequence.boxes[2:]).max() < 1
    with pytest.raises(RGBXError, match="camera0 has no boxes"), camera([gray(9)]) as source:
        track_stream(BrightestBlob(1.5), source, progress=False)
    everything = [range(9)]
    with pytest.raises(RGBXError, match="no image that can be read"):
        track_stream(
            BrightestBlob(1.5),
            SequenceSource(sequence),
            [1, 1, 5, 5],
            drop_rgb=everything,
            drop_x=everything,
            progress=False,
        )


def test_percentiles_are_the_hand_computed_ones() -> None:
    # Linear interpolation between the order statistics of 1..101 ms: the p-th is p + 1.
    assert percentiles(np.append(np.arange(1, 102) / 1000, np.nan)) == {"p50": 51.0, "p90": 91.0, "p99": 100.0}
    assert percentiles(np.array([np.nan])) == {}
    track = track_sequence(BrightestBlob(1.5), moving("s", 4))
    line = speed_line(speed_summary([track]))
    assert line.startswith("4 frames, ")
    assert "p99" in line
    assert speed_line(speed_summary([])) == ""


# ---- drawing the box


def test_a_box_is_drawn_or_asked_for() -> None:
    plt.switch_backend("agg")
    with pytest.raises(RGBXError, match="--init-box"):
        select_box(gray(1))
    figure, axes = plt.subplots()
    selector = box_selector(axes, gray(1))
    with pytest.raises(RGBXError, match="no box was drawn"):
        selected(selector)
    selector.extents = (2.0, 8.0, 3.0, 7.5)  # type: ignore[attr-defined]
    assert selected(selector) == pytest.approx([2, 3, 6, 4.5])
    plt.close(figure)
