"""Exported trackers in ONNX Runtime against the network that they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.tracker.inference.cases import ScriptedNetwork, flat_maps, moving
from tracker.data.crop import CropTransform, crop_region, crop_transform
from tracker.errors import RGBXError
from tracker.inference import EagerEngine, InferenceSettings, OnlineTracker, track_sequence
from tracker.inference.engine import Locator
from tracker.models.checkpoints import find_weights, load_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import tiny
from tracker.models.tracker import Tracker, build_network

onnx = pytest.importorskip("onnx", reason="needs the optional packages of [export]")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from tracker.export import OnnxEngine, export_onnx  # noqa: E402
from tracker.export.onnx_export import METADATA_KEY, _WholeFrames  # noqa: E402


def small(**changes: object) -> Tracker:
    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "head_channels": 8, "template_size": 32, "search_size": 64}
    return build_network(tiny(**{**shape, "cross_layers": (0,), **changes})).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracker, Path]:
    """Return a small two-stream network with elimination, and its file."""
    network = small(elimination_layers=(0,), keep_ratio=0.7)
    folder = tmp_path_factory.mktemp("onnx")
    return network, export_onnx(network, folder / "small.onnx", InferenceSettings(search_factor=5.0))


def answers(engine: object, network: Tracker, batch: int) -> np.ndarray:
    rng = np.random.default_rng(batch)
    size = network.config.template_size
    templates = torch.from_numpy(rng.integers(0, 256, (batch, 6, size, size), dtype=np.uint8))
    frames = [rng.integers(0, 256, (90, 120, 6), dtype=np.uint8) for _ in range(batch)]
    regions = [crop_transform(np.array([30.0, 20, 25, 20 + i]), 4.0, network.config.search_size) for i in range(batch)]
    found: np.ndarray = engine.locate(templates, frames, regions)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_graph_answers_as_the_network_for_any_batch(exported: tuple[Tracker, Path], batch: int) -> None:
    network, path = exported
    np.testing.assert_allclose(
        answers(OnnxEngine(path), network, batch), answers(EagerEngine(network), network, batch), atol=1e-5
    )


def test_file_is_valid_and_says_how_it_is_run(exported: tuple[Tracker, Path]) -> None:
    network, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [i.name for i in model.graph.input] == ["template", "search"]
    assert [o.name for o in model.graph.output] == ["box", "score", "peak"]
    meta = json.loads({p.key: p.value for p in model.metadata_props}[METADATA_KEY])
    assert (meta["template_size"], meta["search_size"], meta["precision"]) == (32, 64, "fp32")
    assert meta["inference"]["search_factor"] == 5.0
    assert meta["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert meta["network"] == network.config.to_dict()
    assert [p.name for p in path.parent.iterdir()] == ["small.onnx"]
    assert b"stream.py" not in path.read_bytes()  # nor any other place that the nodes came from


def test_online_tracker_runs_it_unchanged(exported: tuple[Tracker, Path]) -> None:
    network, path = exported
    engine = OnnxEngine(path)
    sequence = moving("s", 5)
    assert engine.settings == InferenceSettings(search_factor=5.0)
    expected = track_sequence(network, sequence, engine.settings)
    found = track_sequence(engine, sequence, engine.settings)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    tracker = OnlineTracker(engine, engine.settings)
    tracker.initialize(sequence.frame(0)[:, :, :3].copy(), sequence.boxes[0])
    assert np.isfinite(tracker.track(sequence.frame(1)[:, :, :3].copy()).box).all()


@pytest.mark.slow
def test_two_streams_of_the_shipped_weights_in_half_precision(tmp_path: Path) -> None:
    network = initialize_two_stream(load_network(find_weights(Path("tiny_rgb")))[0]).eval()
    path = export_onnx(network, tmp_path / "tiny.onnx", precision="fp16")
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters())
    expected, found = (answers(e, network, 2) for e in (EagerEngine(network), OnnxEngine(path)))
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=5e-3)
    assert np.abs(found[:, :4] - expected[:, :4]).max() * network.config.search_size < 0.5


def test_what_cannot_be_exported_or_run_is_refused(tmp_path: Path, exported: tuple[Tracker, Path]) -> None:
    with pytest.raises(RGBXError, match="precision 'int8' cannot be exported"):
        export_onnx(exported[0], tmp_path / "a.onnx", precision="int8")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RGBXError, match="does not exist"):
        OnnxEngine(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(RGBXError, match="cannot be run"):
        OnnxEngine(tmp_path / "bad.onnx")
    with pytest.raises(RGBXError, match="cannot run on 'tpu'"):
        OnnxEngine(exported[1], "tpu")
    model = onnx.load(exported[1])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(RGBXError, match="does not say how"):
        OnnxEngine(tmp_path / "bare.onnx")


# ---- whole frames


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracker, Path]:
    """Return a small two-stream network, and its file with the crops in the graph."""
    network = small()
    path = tmp_path_factory.mktemp("whole") / "whole.onnx"
    return network, export_onnx(network, path, InferenceSettings(search_factor=5.0), simplify=False, whole_frames=True)


def run_whole(path: Path, frames: list[np.ndarray], box: list[float]) -> list[tuple[np.ndarray, float, float]]:
    """Return a tracker of numpy and ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    side = session.get_inputs()[2].shape[1]
    last = np.array(box, np.float32)
    blank = np.zeros((6, side, side), np.uint8)
    (template,) = session.run(["crop"], {"frame": frames[0], "last_box": last, "template": blank})
    found = []
    for frame in frames[1:]:
        inputs = {"frame": frame, "last_box": last, "template": template}
        last, score, peak = session.run(["box", "score", "peak"], inputs)
        found.append((last, float(score), float(peak)))
    return found


@pytest.mark.parametrize("size", [(90, 120), (61, 47)])
@pytest.mark.parametrize("box", [[30.0, 20, 25, 20], [-4.5, 40.25, 20, 12], [3.0, 3, 2, 2]])
def test_whole_frames_answer_as_the_online_tracker(
    whole: tuple[Tracker, Path], size: tuple[int, int], box: list[float]
) -> None:
    """ONNX Runtime runs on the CPU. OpenCV's crops and the graph's differ by a level of 255 here and there."""
    network, path = whole
    rng = np.random.default_rng(0)
    frames = [cv2.GaussianBlur(rng.integers(0, 256, (*size, 6), dtype=np.uint8), (0, 0), 2) for _ in range(4)]
    online = OnlineTracker(network, InferenceSettings(search_factor=5.0))
    online.initialize(frames[0], box)
    expected = [online.track(frame) for frame in frames[1:]]
    for (found, score, peak), wanted in zip(run_whole(path, frames, box), expected, strict=True):
        np.testing.assert_allclose(found, wanted.box, atol=0.05)
        assert (score, peak) == pytest.approx((wanted.score, wanted.peak), abs=2e-3)
        assert (found[:2] >= 0).all()
        assert (found[:2] + found[2:] <= np.array(size[::-1]) + 1e-4).all()


def bilinear(frame: np.ndarray, region: CropTransform) -> np.ndarray:
    """The crop of a region in float64, black outside of the frame."""
    padded = np.pad(frame.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    steps = (np.arange(region.out_size) + 0.5) * region.side / region.out_size + 0.5  # of the padded frame's pixels
    shares = []
    for start, length in ((region.y, padded.shape[0]), (region.x, padded.shape[1])):
        distance = np.abs((start + steps)[:, None] - np.arange(length))
        shares.append(np.maximum(1 - distance, 0))
    return np.einsum("yh,hwc,xw->yxc", shares[0], padded, shares[1])


def test_the_crop_of_the_graph_is_the_template(whole: tuple[Tracker, Path]) -> None:
    network, path = whole
    frame = np.random.default_rng(1).integers(0, 256, (90, 120, 6), dtype=np.uint8)
    box = np.array([30.0, 20, 25, 20])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    blank = np.zeros((6, 32, 32), np.uint8)
    (crop,) = session.run(["crop"], {"frame": frame, "last_box": box.astype(np.float32), "template": blank})
    opencv, region = crop_region(frame, box, 2.0, network.config.template_size)
    exact = bilinear(frame, region)
    assert np.abs(crop.transpose(1, 2, 0) - exact).max() <= 0.5 + 1e-3  # rounded to levels, computed in float32
    # OpenCV before 5 reads up to 1/64 pixel beside the place, along both axes.
    slopes = sum(np.abs(np.diff(frame.astype(int), axis=axis)).max() for axis in (0, 1))
    assert np.abs(opencv - exact).max() <= 0.5 + slopes / 64


@pytest.mark.parametrize("fault", ["nan size", "zero size", "no score", "far offset"])
def test_a_degenerate_answer_leaves_the_box_in_the_graph_too(fault: str) -> None:
    """The module that is exported gets the same answers of a network as the online tracker."""
    score, size, offset = flat_maps(8)
    where = {"score": score, "size": size, "offset": offset}
    kind, name = fault.split()
    where[name][...] = {"nan": np.nan, "zero": 0, "no": 0, "far": 90}[kind]
    frame = np.full((60, 80, 6), 90, np.uint8)
    box = [20.0, 20, 10, 10]
    online = OnlineTracker(ScriptedNetwork([(score, size, offset)]))
    online.initialize(frame, box)
    wanted = online.track(frame)
    module = _WholeFrames(Locator(ScriptedNetwork([(score, size, offset)])), InferenceSettings())
    inputs = (torch.from_numpy(frame), torch.tensor(box), torch.zeros(6, 64, 64, dtype=torch.uint8))
    found, found_score, peak, _ = module(*inputs)
    np.testing.assert_allclose(found.numpy(), wanted.box, atol=1e-5)
    assert (float(found_score), float(peak)) == pytest.approx((wanted.score, wanted.peak), abs=1e-6)
    assert (wanted.score == 0) == (kind != "far")


def test_a_file_of_whole_frames_says_so_and_is_not_taken_for_one_of_crops(whole: tuple[Tracker, Path]) -> None:
    model = onnx.load(whole[1])
    onnx.checker.check_model(model)
    assert [i.name for i in model.graph.input] == ["frame", "last_box", "template"]
    assert [o.name for o in model.graph.output] == ["box", "score", "peak", "crop"]
    meta = json.loads({p.key: p.value for p in model.metadata_props}[METADATA_KEY])
    assert meta["input"] == "whole frames"
    with pytest.raises(RGBXError, match="takes whole frames"):
        OnnxEngine(whole[1])


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    network = small()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(RGBXError, match="not finite"):
        export_onnx(network, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
