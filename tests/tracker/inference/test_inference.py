"""The online tracker against hand-computed boxes and in a closed loop; runs over data sets; overlays."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.tracker.inference.cases import BLACK, BrightestBlob, ScriptedNetwork, flat_maps, moving
from tracker.data.layouts import open_dataset, write_sequence
from tracker.data.sequence import ArraySequence
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.errors import RGBXError
from tracker.evaluation import evaluate, evaluate_folder, read_boxes
from tracker.inference import (
    InferenceSettings,
    OnlineTracker,
    compose_frame,
    track_dataset,
    track_folder,
    track_sequence,
    track_sequences,
    write_overlay,
)
from tracker.inference.online import clip_box, hann_window
from tracker.inference.overlay import Mark
from tracker.models.config import tiny
from tracker.models.tracker import build_network


def test_hann_window_is_the_hand_computed_one() -> None:
    # S = 3: 0.5 (1 - cos(pi/2)), 0.5 (1 - cos(pi)), 0.5 (1 - cos(3 pi/2)) = 0.5, 1, 0.5
    expected = [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]
    torch.testing.assert_close(hann_window(3)[0, 0], torch.tensor(expected))
    assert float(hann_window(16).min()) > 0


def test_box_is_the_hand_computed_one() -> None:
    score, size, offset = flat_maps(8)
    score[0, 3, 5] = 0.8
    size[:, 3, 5] = [0.5, 0.25]
    offset[:, 3, 5] = [0.25, 0.5]
    network = ScriptedNetwork([(score, size, offset)])
    tracker = OnlineTracker(network)
    # side of the search region: 4 * sqrt(16 * 25) = 80; it starts at 60 + 8 - 40 = 28 and 50 + 12.5 - 40 = 22.5.
    tracker.initialize(BLACK, [60, 50, 16, 25])
    result = tracker.track(BLACK)
    # center: 28 + (5.25 / 8) 80 = 80.5 and 22.5 + (3.5 / 8) 80 = 57.5; size 40 x 20.
    np.testing.assert_allclose(result.box, [60.5, 47.5, 40, 20], atol=1e-5)
    assert network.seen == [((1, 6, 64, 64), (1, 6, 128, 128))]
    hann = 0.5 * (1 - np.cos(2 * np.pi * np.array([4, 6]) / 9))
    assert result.score == pytest.approx(0.8 * hann.prod(), abs=1e-6)
    assert result.peak == pytest.approx(0.8, abs=1e-6)
    # The next region lies around the new box: side 4 * sqrt(40 * 20).
    score[...] = 0
    score[0, 4, 4] = 1
    size[:, 4, 4] = 0.25
    offset[:, 4, 4] = 0
    network.answers = [(score, size, offset)]
    side = 4 * np.sqrt(800)
    np.testing.assert_allclose(tracker.track(BLACK).box, [80.5 - side / 8, 57.5 - side / 8, side / 4, side / 4])


def test_window_prefers_the_middle_and_can_be_switched_off() -> None:
    score, size, offset = flat_maps(8)
    score[0, 0, 0], score[0, 4, 4] = 0.9, 0.5
    for window, expected in ((True, 4 / 8), (False, 0.0)):
        tracker = OnlineTracker(ScriptedNetwork([(score, size, offset)]), InferenceSettings(window=window))
        tracker.initialize(BLACK, [90, 65, 20, 20])
        result = tracker.track(BLACK)
        np.testing.assert_allclose(result.box[:2] + result.box[2:] / 2, [60 + 80 * expected, 35 + 80 * expected])
        assert result.peak == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-5, -5, 20, 20], [0, 0, 15, 15]),
        ([190, 140, 20, 20], [190, 140, 10, 10]),
        ([-50, 20, 10, 10], [0, 20, 1, 10]),
        ([500, 500, 10, 10], [199, 149, 1, 1]),
        ([50, 50, 1e-9, 4], [50, 50, 1, 4]),
        ([-1e9, -1e9, 2e9, 2e9], [0, 0, 200, 150]),
    ],
)
def test_boxes_are_cut_at_the_image_and_keep_a_pixel(box: list[float], clipped: list[float]) -> None:
    np.testing.assert_allclose(clip_box(np.array(box, dtype=float), 200, 150), clipped)


@pytest.mark.parametrize("fault", ["nan score", "nan size", "zero size", "inf offset", "no score", "negative size"])
def test_a_degenerate_answer_leaves_the_state_as_it_was(fault: str) -> None:
    score, size, offset = flat_maps(8)
    where = {"score": score, "size": size, "offset": offset}
    kind, name = fault.split()
    where[name][...] = {"nan": np.nan, "zero": 0, "inf": np.inf, "no": 0, "negative": -1}[kind]
    good = flat_maps(8)
    good[0][0, 4, 4] = 1
    network = ScriptedNetwork([(score, size, offset), good])
    tracker = OnlineTracker(network)
    tracker.initialize(BLACK, [90, 65, 20, 20])
    result = tracker.track(BLACK)
    np.testing.assert_array_equal(result.box, [90, 65, 20, 20])
    assert result.score == 0
    assert np.isfinite(result.peak)
    after = tracker.track(BLACK)
    np.testing.assert_allclose(after.box, [90, 65, 20, 20], atol=1e-5)
    assert after.score > 0


@pytest.mark.parametrize(
    "box",
    [[200, 0, 10, 10], [-20, 0, 20, 10], [0, 0, 0, 5], [0, 0, 5, -1], [0, 0, 5], [np.nan] * 4, "car", None],
)
def test_unusable_first_boxes_are_refused_and_change_nothing(box: object) -> None:
    good = flat_maps(8)
    good[0][0, 4, 4] = 1
    tracker = OnlineTracker(ScriptedNetwork([good]))
    with pytest.raises(RGBXError, match="no target yet"):
        tracker.track(BLACK)
    tracker.initialize(BLACK, [90, 65, 20, 20])
    with pytest.raises(RGBXError, match="the first box"):
        tracker.initialize(BLACK, box)
    np.testing.assert_allclose(tracker.track(BLACK).box, [90, 65, 20, 20], atol=1e-5)


@pytest.mark.parametrize("frame", [BLACK[:, :, :4], BLACK[..., 0], BLACK.astype(float), BLACK[:0]])
def test_malformed_frames_are_refused(frame: np.ndarray) -> None:
    tracker = OnlineTracker(ScriptedNetwork([flat_maps()]))
    with pytest.raises(RGBXError, match="a frame"):
        tracker.initialize(frame, [1, 1, 5, 5])


def test_a_network_without_sizes_is_refused() -> None:
    with pytest.raises(RGBXError, match="Linear has no config"):
        OnlineTracker(nn.Linear(1, 1))


def test_settings_come_from_a_file_and_are_checked() -> None:
    meta = {"inference": {"search_factor": 5.0, "other": 1}}
    assert InferenceSettings.from_meta(meta) == InferenceSettings(search_factor=5.0)
    assert InferenceSettings.from_meta({}) == InferenceSettings()
    with pytest.raises(RGBXError, match="search_factor is 0"):
        InferenceSettings(search_factor=0.0)


# ---- sequences


@pytest.mark.parametrize("search", [128, 256])
def test_closed_loop_follows_to_a_tenth_of_a_pixel(search: int) -> None:
    # Half a crop pixel off, as between the published training and testing conventions, would be 0.25 to 0.4 px.
    sequence = moving("ellipse", 60)
    track = track_sequence(BrightestBlob(1.5, search), sequence)
    found, wanted = track.boxes, sequence.boxes
    centers = (found[:, :2] + found[:, 2:] / 2) - (wanted[:, :2] + wanted[:, 2:] / 2)
    assert np.abs(centers).max() < 0.1
    assert np.abs(centers.mean(axis=0)).max() < 0.02
    assert np.abs(found[:, 2:] / wanted[:, 2:] - 1).max() < 0.02
    assert track.scores[0] == 1
    assert (track.scores > 0.5).all()
    assert track.fps > 0


def test_online_tracker_and_whole_sequence_agree() -> None:
    sequence = moving("ellipse", 12)
    network = BrightestBlob(1.5)
    network.train()
    tracker = OnlineTracker(network)
    tracker.initialize(sequence.frame(0), sequence.boxes[0])
    online = [tracker.track(sequence.frame(i)).box for i in range(1, 12)]
    np.testing.assert_array_equal(track_sequence(network, sequence).boxes[1:], online)
    assert network.training


def test_batches_equal_one_by_one_with_different_lengths() -> None:
    sequences = [moving(f"s{k}", 6 + 5 * (k % 3), phase=k) for k in range(7)] + [moving("single", 1)]
    torch.manual_seed(0)
    real = build_network(tiny(kind="two_stream", embed_dim=32, depth=2, num_heads=2, head_channels=8))
    for network, tolerance in ((BrightestBlob(1.5), 0.0), (real, 1e-3)):
        alone = {s.name: track_sequence(network, s) for s in sequences}
        for batch in (1, 3, 8):
            together = track_sequences(network, sequences, batch=batch)
            assert list(together) == [s.name for s in sequences]
            for name, track in together.items():
                np.testing.assert_allclose(track.boxes, alone[name].boxes, rtol=0, atol=tolerance)
                np.testing.assert_allclose(track.scores, alone[name].scores, rtol=0, atol=1e-5)
    assert sum(not module.training for module in real.modules()) == 0


def test_tracking_starts_where_the_target_first_appears() -> None:
    sequence = moving("late", 20, absent=6)
    track = track_sequence(BrightestBlob(1.5), sequence)
    assert track.first == 6
    assert np.isnan(track.boxes[:6]).all()
    np.testing.assert_array_equal(track.boxes[6], sequence.boxes[6])
    assert np.abs(track.boxes[7:] - sequence.boxes[7:]).max() < 1
    never = ArraySequence("never", "thermal", np.zeros((2, 9, 9, 6), np.uint8), np.full((2, 4), np.nan))
    with pytest.raises(RGBXError, match="never has no frame with a box"):
        track_sequence(BrightestBlob(1.5), never)
    outside = ArraySequence("out", "thermal", np.zeros((2, 9, 9, 6), np.uint8), [[20, 20, 5, 5]] * 2)
    with pytest.raises(RGBXError, match=r"no box .* can be used: sequence out, frame 0: the first box .* outside"):
        track_sequence(BrightestBlob(1.5), outside)


def test_first_box_can_be_given() -> None:
    sequence = moving("s", 8)
    bare = ArraySequence("s", "thermal", sequence._frames, np.full((8, 4), np.nan))
    track = track_sequence(BrightestBlob(1.5), bare, init_box=sequence.boxes[0])
    np.testing.assert_array_equal(track.boxes, track_sequence(BrightestBlob(1.5), sequence).boxes)


# ---- data sets on disk


def test_data_set_is_resumed_only_where_whole(tmp_path: Path) -> None:
    sequences = [moving(f"s{k}", 9 + k, phase=k, absent=k) for k in range(5)]
    network = BrightestBlob(1.5)
    first = track_dataset(network, sequences, tmp_path, progress=False)
    assert network.frames == sum(s.length - k - 1 for k, s in enumerate(sequences))
    (tmp_path / "s0.txt").unlink()
    lines = (tmp_path / "s1.txt").read_text().splitlines(keepends=True)
    (tmp_path / "s1.txt").write_text("".join(lines[:-1]) + lines[-1][:20])
    (tmp_path / "scores" / "s2.txt").write_text("0.1,0.2\n")
    lines = (tmp_path / "s4.txt").read_text().splitlines(keepends=True)
    (tmp_path / "s4.txt").write_text("".join(lines[:-1]))
    network.frames = 0
    second = track_dataset(network, sequences, tmp_path, progress=False)
    assert network.frames == sum(s.length - k - 1 for k, s in enumerate(sequences) if k != 3)
    assert list(second) == ["s0", "s1", "s2", "s3", "s4"]
    for name, track in second.items():
        np.testing.assert_allclose(track.boxes, first[name].boxes, rtol=0, atol=1e-12)
        np.testing.assert_allclose(track.scores, first[name].scores, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(read_boxes(tmp_path / "s2.txt")[:2], 0)
    assert json.loads((tmp_path / "run.json").read_text())["fps"] > 0
    # Another sequence of the same name and length is not taken for the one that was tracked.
    network.frames = 0
    other = moving("s3", 12, phase=9, absent=3)
    np.testing.assert_allclose(track_dataset(network, [other], tmp_path, progress=False)["s3"].boxes[3], other.boxes[3])
    assert network.frames == 8


def test_results_of_another_network_are_not_taken_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, other = (build_network(tiny(kind="two_stream")) for _ in range(2))
    sequences = [moving("s", 3)]
    track_dataset(one, sequences, tmp_path, progress=False)
    with pytest.raises(RGBXError, match="another network or of other settings"):
        track_dataset(other, sequences, tmp_path, progress=False)
    with pytest.raises(RGBXError, match="another network or of other settings"):
        track_dataset(one, sequences, tmp_path, InferenceSettings(search_factor=5.0), progress=False)
    fresh = track_dataset(other, sequences, tmp_path, progress=False, overwrite=True)["s"]
    np.testing.assert_array_equal(fresh.boxes, track_sequence(other, sequences[0]).boxes)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RGBXError, match=r"no run\.json"):
        track_dataset(one, sequences, tmp_path, progress=False)


class Broken(ArraySequence):
    def frame(self, index: int) -> np.ndarray:
        if index == 4:
            raise RGBXError(f"sequence {self.name}: frame 4 is missing")
        return super().frame(index)


def test_a_broken_sequence_stops_the_run_and_keeps_what_is_whole(tmp_path: Path) -> None:
    good = moving("good", 3)
    bad = Broken("bad", "thermal", moving("bad", 9)._frames, moving("bad", 9).boxes)
    with pytest.raises(RGBXError, match="bad: frame 4 is missing"):
        track_dataset(BrightestBlob(1.5), [good, bad], tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == ["good.txt", "good_lost.txt"]
    with pytest.raises(RGBXError, match="two sequences are named good"):
        track_dataset(BrightestBlob(1.5), [good, good], tmp_path, progress=False)
    with pytest.raises(RGBXError, match="batch is 0"):
        track_sequences(BrightestBlob(1.5), [good], batch=0)


@pytest.mark.parametrize("layout", ["lasher", "folders"])
def test_files_score_as_the_tracks_in_memory(tmp_path: Path, layout: str) -> None:
    for k in range(2):
        write_sequence(moving(f"s{k}", 10, phase=k, absent=k), tmp_path / "data", layout, lossless=True)
    sequences = open_dataset(tmp_path / "data")
    tracks = track_dataset(BrightestBlob(1.2), sequences, tmp_path / "results", progress=False)
    annotated = read_boxes(tmp_path / "data" / "s0" / ("visible.txt" if layout == "lasher" else "groundtruth.txt"))
    np.testing.assert_allclose(read_boxes(tmp_path / "results" / "s0.txt")[0], annotated[0], atol=1e-9)
    files = evaluate_folder(tmp_path / "data", tmp_path / "results", "lasher")
    memory = evaluate(sequences, tracks)
    assert 0.5 < memory.scores["SR"] < 0.95
    assert files.scores == pytest.approx(memory.scores, abs=1e-12)
    assert files.speed is not None


@pytest.mark.parametrize(
    ("layout", "modality", "first_pixel"),
    [
        ("lasher", "thermal", 1),
        ("rgbt234", "thermal", 1),
        ("gtot", "thermal", 1),
        ("visevent", "event", 0),
    ],
)
def test_results_count_pixels_as_the_benchmarks_annotations_do(
    tmp_path: Path, layout: str, modality: str, first_pixel: int
) -> None:
    sequence = moving("s", 4)
    sequence.modality = modality
    write_sequence(sequence, tmp_path / "data", layout)
    (opened,) = open_dataset(tmp_path / "data", layout)
    track_dataset(BrightestBlob(1.5), [opened], tmp_path / "results", progress=False)
    first = read_boxes(tmp_path / "results" / "s.txt")[0]
    np.testing.assert_allclose(first, opened.boxes[0] + [first_pixel, first_pixel, 0, 0], atol=1e-6)


# ---- a folder of frames, and pictures


@pytest.mark.parametrize(("style", "alike"), [("jet", False), ("grey", True)])
def test_depth_is_rendered_as_the_network_was_trained(tmp_path: Path, style: str, alike: bool) -> None:
    config = SyntheticConfig(modality="depth", size=(96, 72), length=3, seed=0)
    (sequence,) = synthetic_dataset(config, 1)
    folder = write_sequence(sequence, tmp_path / "data", "depthtrack")
    settings = InferenceSettings.from_meta({"inference": {"depth_style": style}})
    run = track_folder(folder, BrightestBlob(1.5), tmp_path / "out", settings=settings, overlay=None, progress=False)
    x = run.sequence.frame(2)[:, :, 3:]
    assert bool((x[..., 0] == x[..., 2]).all()) == alike
    with pytest.raises(RGBXError, match="depth style is 'blue'"):
        InferenceSettings(depth_style="blue")


def test_track_folder_writes_results_figures_and_overlay(tmp_path: Path) -> None:
    folder = write_sequence(moving("blob", 12), tmp_path / "data", "folders")
    run = track_folder(folder, BrightestBlob(1.5), tmp_path / "out", progress=False)
    assert len(run.metrics) == 1
    assert run.metrics[0].scores["PR"] == 1.0
    assert run.metrics[0].scores["SR"] > 0.9
    assert all(file.is_file() for file in run.files)
    names = {file.relative_to(tmp_path / "out").as_posix() for file in run.files}
    assert {"blob.txt", "scores/blob.txt", "overlay.gif", "report.md", "report.json", "success.png"} <= names
    two = {"a": BrightestBlob(1.5), "b": BrightestBlob(1.0)}
    both = track_folder(folder, two, tmp_path / "two", overlay="mp4", progress=False)
    assert [m.tracker for m in both.metrics] == ["a", "b"]
    assert both.metrics[0].scores["SR"] > both.metrics[1].scores["SR"]
    assert (tmp_path / "two" / "b" / "blob.txt").is_file()
    assert (tmp_path / "two" / "overlay.mp4").stat().st_size > 1000


def test_track_folder_without_boxes_needs_one(tmp_path: Path) -> None:
    folder = write_sequence(moving("blob", 6), tmp_path, "folders")
    box = moving("blob", 6).boxes[0]
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(RGBXError, match="has no boxes; give the target"):
        track_folder(folder, BrightestBlob(1.5), tmp_path / "out", progress=False)
    run = track_folder(folder, BrightestBlob(1.5), tmp_path / "out", init_box=box, progress=False)
    assert run.metrics == []
    assert np.isfinite(run.tracks["tracker"].boxes).all()
    with pytest.raises(RGBXError, match="overlay 'avi' is unknown"):
        track_folder(folder, BrightestBlob(1.5), tmp_path / "out", overlay="avi")


@pytest.mark.parametrize("name", ["eventsot_ball1", "tno_nato_camp"])
def test_real_sequences_are_tracked(shared_data: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    run = track_folder(shared_data / "real" / name, build_network(tiny(kind="two_stream")), tmp_path, progress=False)
    boxes = run.tracks["tracker"].boxes
    height, width = run.sequence.frame(0).shape[:2]
    assert len(boxes) == run.sequence.length
    after = boxes[run.tracks["tracker"].first :]
    assert np.isfinite(after).all()
    assert (after[1:, :2] >= 0).all()
    assert (after[1:, 0] + after[1:, 2] <= width + 1e-9).all()
    assert (after[1:, 1] + after[1:, 3] <= height + 1e-9).all()
    assert 0 <= run.metrics[0].scores["SR"] <= 1
    with Image.open(tmp_path / "overlay.gif") as image:
        assert image.n_frames == run.sequence.length  # type: ignore[attr-defined]


def test_a_frame_shows_both_images_and_every_box() -> None:
    frame = BLACK.copy()
    frame[..., 3:] = 90
    truth = np.array([20.0, 20, 40, 40])
    marks = [Mark("one", np.array([60.0, 40, 50, 50]), 0.5), Mark("none", np.full(4, np.nan))]
    image = compose_frame(frame, marks, truth, panel_width=200, title="t" * 300, counter="1 / 2")
    assert image.dtype == np.uint8
    assert image.shape[1] == 406
    assert image.shape[0] % 2 == 0
    assert (image[24 + 120, 50] == 0).all()
    assert (image[24 + 120, 206 + 50] == 90).all()
    for left in (0, 206):
        assert (image[24 + 65, left + 60] == [0xD1, 0x49, 0x5B]).all()
        assert (image[24 + 35, left + 20] == 255).all()
    alone = compose_frame(frame, marks, truth, panel_width=200, rgb_only=True)
    assert alone.shape == (image.shape[0], 200, 3)


def test_gif_stays_below_its_limit_and_mp4_has_every_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = ArraySequence(
        "noise", "event", rng.integers(0, 256, (40, 90, 120, 6), dtype=np.uint8), [[10, 10, 30, 30]] * 40
    )
    tracks = {"truth": noise.boxes}
    gif = write_overlay(tmp_path / "run.gif", noise, tracks, panel_width=160, max_bytes=10**9, fps=10)
    with Image.open(gif) as image:
        assert (image.n_frames, image.size[0]) == (40, 326)  # type: ignore[attr-defined]
        assert image.info["duration"] == 100
    for limit in (700_000, 60_000):
        gif = write_overlay(tmp_path / "run.gif", noise, tracks, panel_width=160, max_bytes=limit, fps=10)
        assert gif.stat().st_size <= limit
        with Image.open(gif) as image:
            image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
    video = cv2.VideoCapture(str(write_overlay(tmp_path / "run.mp4", noise, tracks, panel_width=160)))
    count = 0
    while video.read()[0]:
        count += 1
    video.release()
    assert count == 40
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.gif", "run.mp4"]


def test_overlays_refuse_what_they_cannot_draw(tmp_path: Path) -> None:
    sequence = moving("s", 3)
    with pytest.raises(RGBXError, match=r"ends in \.gif or \.mp4"):
        write_overlay(tmp_path / "run.avi", sequence, {})
    with pytest.raises(RGBXError, match="one has 2 boxes for the 3 frames"):
        write_overlay(tmp_path / "run.gif", sequence, {"one": sequence.boxes[:2]})
    assert not list(tmp_path.iterdir())
