"""Tuned trackers run wherever plain ones do: batches, missing halves, torch.compile, ONNX, the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.tracker.tuning.small import crops, rgb_tracker, saved_rgb, tuned
from tracker.cli import cli
from tracker.data.layouts import write_dataset
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.inference import EagerEngine, InferenceSettings, OnlineTracker, track_sequence, track_sequences
from tracker.inference.missing import DroppedSequence, Frame
from tracker.models.tracker import TrackerOutput, TwoStreamTracker
from tracker.tuning.files import load_tracker, save_tracker
from tracker.tuning.methods import METHODS

ELIMINATING = {
    method: {"elimination_layers": (1, 2), "keep_ratio": 0.6} if kind.eliminates else {}
    for method, kind in METHODS.items()
}


@pytest.fixture(scope="module")
def sequences() -> list[object]:
    return list(synthetic_dataset(SyntheticConfig(modality="thermal", length=5, size=(96, 72), seed=1), 3))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_answers_what_its_samples_do(method: str) -> None:
    network = tuned(method, rgb_tracker(**ELIMINATING[method]))
    template, search = crops(network.config, batch=3)
    with torch.no_grad():
        together = network(template, search)
        assert isinstance(together, TrackerOutput)
        for index in range(3):
            alone = network(template[index : index + 1], search[index : index + 1])
            for one, other in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], other[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_both_modalities_count(method: str) -> None:
    network = tuned(method)
    template, search = crops(network.config)
    with torch.no_grad():
        whole = network(template, search).features
        for part in (slice(0, 3), slice(3, 6)):
            blank = search.clone()
            blank[:, part] = 0
            assert not torch.allclose(network(template, blank).features, whole, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_sequences_are_tracked_together_and_with_halves_missing(method: str, sequences: list[object]) -> None:
    network = tuned(method, rgb_tracker(**ELIMINATING[method]))
    tracks = track_sequences(network, sequences, batch=3)
    alone = track_sequence(network, sequences[0])
    np.testing.assert_allclose(tracks[alone.name].boxes, alone.boxes, atol=0.02)
    dropped = track_sequence(network, DroppedSequence(sequences[0], rgb=[range(1, 2)], x=[range(2, 4)]))
    assert np.isfinite(dropped.boxes).all()
    online = OnlineTracker(network, InferenceSettings())
    online.initialize(sequences[0].frame(0), sequences[0].boxes[0])
    assert np.isfinite(online.track(Frame(sequences[0].frame(1)[:, :, :3], None)).box).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_without_breaks_answers_the_same(method: str, tmp_path: Path) -> None:
    """This is what ``--engine compiled`` runs, traced whole. Generating code for it is the compiler's own affair."""
    saved_rgb(tmp_path / "rgb.safetensors", **ELIMINATING[method])
    base, _, _ = load_tracker(tmp_path / "rgb.safetensors")
    save_tracker(tmp_path / "tuned.safetensors", tuned(method, base))
    network, config, _ = load_tracker(tmp_path / "tuned.safetensors")
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        for found, expected in zip(compiled(*crops(config)), network(*crops(config)), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_command_line_tracks_exports_shows_and_converts(
    method: str, sequences: list[object], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the optional packages of [export]")
    from tracker.export import OnnxEngine

    base = saved_rgb(tmp_path / "rgb.safetensors", **ELIMINATING[method])
    file = tmp_path / "tuned.safetensors"
    network = tuned(method, base)
    save_tracker(file, network, {"inference": {"search_factor": 4.0}})
    write_dataset(sequences[:1], tmp_path / "data", "lasher", split="test")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    base_told = "the base in it" if network.saves_base else "rgb.safetensors"
    assert f"{method} of {base_told}" in run("weights", "show", file)
    whole = tmp_path / "elsewhere" / "whole.safetensors"
    run("weights", "convert", file, "--out", whole)
    alone, config, meta = load_tracker(whole)
    assert meta["made_from"]["file"] == "tuned.safetensors"
    assert isinstance(alone, TwoStreamTracker) == (network.merged() is not None)
    expected, _, _ = load_tracker(file)
    with torch.no_grad():
        for one, other in zip(alone(*crops(config)), expected(*crops(config)), strict=True):
            assert torch.equal(one, other)
    data = ("--layout", "lasher", "--split", "test")
    run("track", file, tmp_path / "data", "--all", *data, "--out", tmp_path / "results")
    assert (tmp_path / "results" / f"{sequences[0].name}.txt").is_file()
    run("view", tmp_path / "results", "--data", tmp_path / "data", *data, "--out", tmp_path / "page.html")
    if network.merged() is not None:
        return  # what is left is a plain tracker, whose export has tests of its own
    run("export", "onnx", file, "--out", tmp_path / "tuned.onnx", "--no-simplify")
    engine = OnnxEngine(tmp_path / "tuned.onnx")
    settings = engine.settings
    found = track_sequence(engine, sequences[0], settings)
    np.testing.assert_allclose(
        found.boxes, track_sequence(EagerEngine(expected.eval()), sequences[0], settings).boxes, atol=0.05
    )
