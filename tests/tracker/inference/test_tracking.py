"""The one tracking loop: where it starts, what sources it takes, and that nothing stops it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.tracker.inference.cases import BrightestBlob, moving
from tracker.cli import cli
from tracker.data.layouts import open_dataset, open_sequence, write_sequence
from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError
from tracker.evaluation import evaluate, evaluate_folder, read_boxes
from tracker.inference import (
    DroppedSequence,
    DroppedSource,
    FrameSource,
    OnlineTracker,
    SequenceSource,
    Tracked,
    iterate_tracks,
    make_engine,
    track_dataset,
    track_folder,
    track_sequence,
    track_stream,
)
from tracker.models.checkpoints import save_network
from tracker.models.config import tiny
from tracker.models.tracker import build_network

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_channels": 8, "template_size": 32, "search_size": 64}


def with_boxes(sequence: ArraySequence, boxes: dict[int, list[float]]) -> ArraySequence:
    """Return the same frames with other boxes here and there."""
    changed = sequence.boxes.copy()
    for index, box in boxes.items():
        changed[index] = box
    return ArraySequence(sequence.name, sequence.modality, sequence._frames, changed)


OUTSIDE = [500.0, 500.0, 20.0, 20.0]


def test_tracking_starts_with_the_first_usable_box(caplog: pytest.LogCaptureFixture) -> None:
    whole = moving("s", 12)
    faulty = with_boxes(whole, {0: OUTSIDE, 1: [-80, 5, 40, 40], 2: [np.nan] * 4, 7: OUTSIDE})
    with caplog.at_level(logging.WARNING, "rgbx"):
        track = track_sequence(BrightestBlob(1.5), faulty)
    assert track.first == 3
    assert np.isnan(track.boxes[:3]).all()
    assert np.abs(track.boxes[3:] - whole.boxes[3:]).max() < 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "sequence s, frame 0: the first box x=500" in message
    assert "tracking starts in frame 3" in message


def test_a_sequence_without_a_usable_box_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = moving("good", 6), moving("other", 9, phase=1)
    outside = with_boxes(moving("outside", 5), dict.fromkeys(range(5), OUTSIDE))
    empty = with_boxes(moving("empty", 5), {k: [np.nan] * 4 for k in range(5)})
    sequences = [outside, good, empty, other]
    with caplog.at_level(logging.WARNING, "rgbx"):
        tracks = track_dataset(BrightestBlob(1.5), sequences, tmp_path, batch=2, progress=False)
    assert list(tracks) == ["good", "other"]
    assert sorted(p.name for p in tmp_path.glob("*.txt") if "lost" not in p.name) == ["good.txt", "other.txt"]
    messages = [record.getMessage() for record in caplog.records]
    assert any(m.startswith("outside is left out: no box of its annotation can be used") for m in messages)
    assert any(m.startswith("empty is left out: sequence empty has no frame with a box") for m in messages)
    again = track_dataset(BrightestBlob(1.5), sequences, tmp_path, progress=False)  # resumed
    np.testing.assert_allclose(again["good"].boxes, tracks["good"].boxes)
    with pytest.raises(RGBXError, match="none of the 2 sequences has a usable box"):
        track_dataset(BrightestBlob(1.5), [outside, empty], progress=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_network(tiny(**SMALL))
    save_network(tmp_path / "net.safetensors", network, network.config, {"inference": {"search_factor": 4.0}})
    return tmp_path / "net.safetensors"


def rgbx(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("line", ["900,900,20,20", "1,2,x,4", "1,2,3"])
def test_a_box_that_cannot_be_used_does_not_stop_a_data_set(tmp_path: Path, checkpoint: Path, line: str) -> None:
    """COESOT's test set has a box outside its image. Strict opening, which is for training, still refuses it."""
    for k in range(2):
        write_sequence(moving(f"s{k}", 5, phase=k), tmp_path / "data", "lasher")
    for file in ("visible.txt", "infrared.txt", "init.txt"):
        lines = (tmp_path / "data" / "s0" / file).read_text().splitlines()
        lines[3] = line
        (tmp_path / "data" / "s0" / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(RGBXError, match="sequence s0: line 4"):
        open_dataset(tmp_path / "data")
    assert "results of 2 sequences" in rgbx(
        "track", checkpoint, tmp_path / "data", "--all", "--out", tmp_path / "all", "--device", "cpu"
    )
    assert len(read_boxes(tmp_path / "all" / "s0.txt")) == 5
    opened = open_sequence(tmp_path / "data" / "s0", faulty_boxes="keep")
    assert list(np.flatnonzero(opened.present)) == ([0, 1, 2, 3, 4] if line.startswith("900") else [0, 1, 2, 4])
    out = rgbx("track", checkpoint, tmp_path / "data" / "s0", "--out", tmp_path / "one", "--overlay", "none")
    assert "lasher with absent=excluded" in out
    with pytest.raises(RGBXError, match="faulty_boxes is 'drop'"):
        open_sequence(tmp_path / "data" / "s0", faulty_boxes="drop")


def test_results_of_one_folder_and_of_a_data_set_are_in_the_same_place(tmp_path: Path, checkpoint: Path) -> None:
    write_sequence(moving("s0", 5), tmp_path / "data", "lasher")
    rgbx("track", checkpoint, tmp_path / "data", "--all", "--out", tmp_path / "all", "--device", "cpu")
    rgbx("track", checkpoint, tmp_path / "data" / "s0", "--out", tmp_path / "one", "--device", "cpu")
    for file in ("s0.txt", "scores/s0.txt", "s0_lost.txt"):
        assert (tmp_path / "all" / file).read_text() == (tmp_path / "one" / file).read_text()
    for place in ("all", "one"):
        assert evaluate_folder(tmp_path / "data", tmp_path / place).protocol == "lasher"


def test_sequences_and_streams_are_one_loop() -> None:
    sequence = moving("s", 10)
    seen: list[Tracked] = []
    alone = track_sequence(BrightestBlob(1.5), sequence, watch=seen.append)
    stream = track_stream(BrightestBlob(1.5), SequenceSource(sequence), sequence.boxes[0], progress=False)
    online = OnlineTracker(BrightestBlob(1.5))
    online.initialize(sequence.frame(0), sequence.boxes[0])
    answers = [online.track(sequence.frame(k)).box for k in range(1, 10)]
    np.testing.assert_array_equal(stream.boxes, alone.boxes)
    np.testing.assert_array_equal(stream.boxes[1:], answers)
    np.testing.assert_array_equal([t.result.box for t in seen], alone.boxes)
    assert [t.index for t in seen] == list(range(10))
    mixed = list(iterate_tracks(BrightestBlob(1.5), [SequenceSource(sequence), moving("t", 4)], batch=2))
    assert [(t.name, len(t.boxes)) for t in mixed] == [("t", 4), ("s", 10)]


def test_dropped_frames_are_the_same_of_a_sequence_and_of_a_source() -> None:
    sequence = moving("s", 8)
    spans = ([range(1, 3)], [range(2, 6)])
    of_sequence = track_sequence(BrightestBlob(1.5), DroppedSequence(sequence, *spans))
    (of_source,) = iterate_tracks(BrightestBlob(1.5), [DroppedSource(SequenceSource(sequence), *spans)])
    np.testing.assert_array_equal(of_sequence.boxes, of_source.boxes)
    assert of_source.scores[2] == 0  # neither half
    late = DroppedSource(SequenceSource(sequence), [range(2)], [range(2)])
    (track,) = iterate_tracks(BrightestBlob(1.5), [late])
    assert track.first == 2  # in the frames before, there was a box and no image to take the target from


def test_a_source_that_stops_leaves_its_place_to_the_next() -> None:
    sequences = [moving(f"s{k}", 9, phase=k) for k in range(3)]
    tracks = {
        track.name: track
        for track in iterate_tracks(
            BrightestBlob(1.5), sequences, batch=2, watch=lambda t: t.source.name != "s0" or t.index < 3
        )
    }
    assert {name: len(track.boxes) for name, track in tracks.items()} == {"s0": 4, "s1": 9, "s2": 9}
    for sequence in sequences[1:]:
        np.testing.assert_array_equal(tracks[sequence.name].boxes, track_sequence(BrightestBlob(1.5), sequence).boxes)


def test_a_stream_cannot_be_entered_in_the_middle() -> None:
    class Stream(FrameSource):
        name = "stream"

        def __iter__(self) -> Iterator[np.ndarray]:
            return iter([np.zeros((4, 4, 6), np.uint8)])

    assert len(list(Stream().frames_from(0))) == 1
    with pytest.raises(RGBXError, match="stream is taken from its first frame on, not from frame 2"):
        Stream().frames_from(2)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    network = build_network(tiny(**SMALL))
    names = [name for name, _ in network.named_parameters()]
    with torch.no_grad():
        for parameter in list(network.parameters())[:3]:
            parameter.view(-1)[0] = float("nan")
    sentence = rf"weights are not finite \({names[0]} and 2 more\).*earlier checkpoint"
    with pytest.raises(RGBXError, match=sentence):
        OnlineTracker(network)
    with pytest.raises(RGBXError, match=sentence):
        make_engine(network, "compiled")
    save_network(tmp_path / "nan.safetensors", network, network.config, {})
    folder = write_sequence(moving("s", 3), tmp_path / "data", "folders")
    result = CliRunner().invoke(
        cli, ["track", str(tmp_path / "nan.safetensors"), str(folder), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "are not finite" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_run_is_named_by_its_label(tmp_path: Path) -> None:
    folder = write_sequence(moving("s", 4), tmp_path / "data", "folders")
    run = track_folder(folder, BrightestBlob(1.5), tmp_path / "out", overlay=None, progress=False, label="mine")
    assert [m.tracker for m in run.metrics] == ["mine"]
    assert (tmp_path / "out" / "s.txt").is_file()


def test_tracks_of_faulty_annotations_are_scored_over_their_frames() -> None:
    faulty = with_boxes(moving("s", 8), {0: OUTSIDE})
    track = track_sequence(BrightestBlob(1.5), faulty)
    scores = evaluate([faulty], {"s": track}).scores
    assert 0.8 < scores["PR"] <= 1


def test_vtuav_is_tracked_and_scored_over_its_annotated_frames(tmp_path: Path) -> None:
    """One frame in ten is annotated. The tracks in memory have the same figures as their files."""
    for k in range(2):
        write_sequence(moving(f"s{k}", 24, phase=k), tmp_path / "data", "vtuav", lossless=True)
    assert len((tmp_path / "data" / "s0" / "rgb.txt").read_text().splitlines()) == 3
    sequences = open_dataset(tmp_path / "data")
    tracks = track_dataset(BrightestBlob(1.2), sequences, tmp_path / "results", progress=False)
    assert [len(track.boxes) for track in tracks.values()] == [24, 24]
    files = evaluate_folder(tmp_path / "data", tmp_path / "results")
    assert (files.protocol, files.frames) == ("vtuav", 6)
    memory = evaluate(sequences, tracks, "vtuav")
    assert 0.5 < memory.scores["MSR"] < 0.95
    assert memory.scores == pytest.approx(files.scores, abs=1e-12)
