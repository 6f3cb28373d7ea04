"""Every way of running a network agrees with the eager one, and device-side crops agree with float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracker.inference.cases import moving
from tracker.data.crop import CropTransform, crop_transform, cut_window, sample_region
from tracker.data.device_crop import sample_windows
from tracker.data.normalize import normalize
from tracker.errors import RGBXError
from tracker.inference import CompiledEngine, EagerEngine, GraphEngine, make_engine, track_sequence, track_sequences
from tracker.inference.engine import Locator, network_fingerprint
from tracker.inference.fast import pack_windows
from tracker.models.config import tiny
from tracker.models.tracker import Tracker, build_network

GPU = pytest.mark.gpu


def small(seed: int = 0, **changes: object) -> Tracker:
    torch.manual_seed(seed)
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "head_channels": 8, "template_size": 32, "search_size": 64}
    return build_network(tiny(**{**shape, **changes})).eval()


def bilinear(frame: np.ndarray, region: CropTransform) -> np.ndarray:
    """Return the convention of crops, pixel by pixel in float64: (size, size, C)."""
    height, width, channels = frame.shape
    out = np.zeros((region.out_size, region.out_size, channels))
    for i in range(region.out_size):
        for j in range(region.out_size):
            y = region.y + (i + 0.5) / region.out_size * region.side - 0.5
            x = region.x + (j + 0.5) / region.out_size * region.side - 0.5
            top, left = math.floor(y), math.floor(x)
            for row, down in ((top, top + 1 - y), (top + 1, y - top)):
                for column, right in ((left, left + 1 - x), (left + 1, x - left)):
                    if 0 <= row < height and 0 <= column < width:
                        out[i, j] += down * right * frame[row, column]
    return out


def crops_of(frames: list[np.ndarray], regions: list[CropTransform], spare: int = 0) -> torch.Tensor:
    windows = [cut_window(frame, region) for frame, region in zip(frames, regions, strict=True)]
    count = max(1, sum(w.shape[0] * w.shape[1] for w, _ in windows))
    pixels = np.full((count + 50, frames[0].shape[2]), 99, np.uint8)
    geometry = np.zeros((len(windows) + spare, 6))
    pack_windows(windows, pixels, geometry)
    spans, squares = torch.from_numpy(geometry).split(3, dim=1)
    crops = sample_windows(torch.from_numpy(pixels), spans, squares, regions[0].out_size)
    return crops.permute(0, 3, 1, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-30, 40), st.floats(-30, 40), st.floats(3, 60))
def test_device_crops_are_bilinear(seed: int, x: float, y: float, side: float) -> None:
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (17, 23, 6), dtype=np.uint8) for _ in range(2)]
    regions = [CropTransform(x, y, side, 8), CropTransform(y, x, side * 0.7, 8)]
    crops = crops_of(frames, regions).permute(0, 2, 3, 1).numpy()
    for crop, frame, region in zip(crops, frames, regions, strict=True):
        # Whole levels: half a level from the truth, and what float32 rounds.
        assert np.abs(crop - bilinear(frame, region)).max() <= 0.5 + 1e-3


def test_device_crops_agree_with_opencv_and_are_black_outside() -> None:
    frame = moving("s", 1).frame(0)
    region = crop_transform(np.array([110.0, 60, 40, 30]), 4.0, 64)
    crop = crops_of([frame], [region], spare=2)
    assert crop.shape == (3, 6, 64, 64)
    difference = np.abs(crop[0].permute(1, 2, 0).numpy() - sample_region(frame, region))
    assert difference.max() <= 8  # OpenCV before 5 places its taps on a grid of 1/32 pixel, and edges are steep
    assert difference.mean() < 0.1
    torch.testing.assert_close(crop[1], crop[0], rtol=0, atol=0)
    assert crops_of([frame], [CropTransform(-500.0, 20.0, 60.0, 64)]).abs().max() == 0


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("window", [True, False])
def test_locator_is_the_network_between_its_ends(kind: str, window: bool) -> None:
    network = small(kind=kind)
    rng = np.random.default_rng(0)
    template, search = (torch.from_numpy(rng.integers(0, 256, (2, 6, s, s), dtype=np.uint8)) for s in (32, 64))
    with torch.inference_mode():
        found = Locator(network, window)(template, search)
        output = network(normalize(template), normalize(search))
    k = np.arange(1, 5)
    hann = 0.5 * (1 - np.cos(2 * np.pi * k / 5))
    for b in range(2):
        score = output.score_map[b, 0].double().numpy()
        weighed = score * np.outer(hann, hann) if window else score
        row, column = np.unravel_index(weighed.argmax(), weighed.shape)
        ox, oy = output.offset_map[b, :, row, column].tolist()
        expected = [(column + ox) / 4, (row + oy) / 4, *output.size_map[b, :, row, column].tolist(), weighed.max()]
        np.testing.assert_allclose(found[b].numpy(), [*expected, score.max()], rtol=1e-5)


def test_eager_engine_equals_the_network_and_follows_it() -> None:
    network = small()
    sequence = moving("s", 5)
    expected = track_sequence(network, sequence)
    engine = make_engine(network)
    np.testing.assert_array_equal(track_sequence(engine, sequence).boxes, expected.boxes)
    assert engine.fingerprint() == network_fingerprint(network)
    network.to(torch.bfloat16)
    found = track_sequence(engine, sequence)
    assert np.isfinite(found.boxes).all()
    assert not np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_fp32(dtype: torch.dtype) -> None:
    sequence = moving("s", 3)
    exact = track_sequence(make_engine(small()), sequence)
    near = track_sequence(make_engine(small().to(dtype)), sequence)
    np.testing.assert_allclose(near.scores[1], exact.scores[1], rtol=0.05)
    assert np.isfinite(near.boxes).all()


@pytest.mark.slow
def test_compiled_boxes_are_within_half_a_pixel() -> None:
    network = small(depth=1, cross_layers=(0,))
    sequences = [moving(f"s{k}", 4 + k, phase=k) for k in range(3)]
    expected = track_sequences(EagerEngine(network), sequences, batch=3)
    engine = make_engine(network, "compiled")
    assert isinstance(engine, CompiledEngine)
    # One compilation: the batch that shrinks as sequences end is filled up.
    found = track_sequences(engine, sequences, batch=3)
    assert engine._sizes.ready == [3]
    for name, track in found.items():
        assert np.abs(track.boxes - expected[name].boxes).max() < 0.5
        np.testing.assert_allclose(track.scores, expected[name].scores, atol=1e-4)


def test_unfit_engines_are_refused() -> None:
    with pytest.raises(RGBXError, match="needs the network on a GPU"):
        GraphEngine(small())
    with pytest.raises(RGBXError, match="engine 'fast' is unknown"):
        make_engine(small(), "fast")


@GPU
@pytest.mark.parametrize("engine", ["graph", "compiled"])
@pytest.mark.parametrize("changes", [{}, {"kind": "single_stream"}, {"elimination_layers": (1,), "keep_ratio": 0.7}])
def test_graphs_give_boxes_within_half_a_pixel(engine: str, changes: dict[str, object]) -> None:
    network = small(**changes).cuda()
    sequences = [moving(f"s{k}", 12 + k, phase=k) for k in range(3)]
    expected = track_sequences(EagerEngine(network), sequences, batch=3)
    runner = make_engine(network, engine)
    assert isinstance(runner, GraphEngine)
    for name, track in track_sequences(runner, sequences, batch=3).items():
        assert np.abs(track.boxes - expected[name].boxes).max() < 0.5
    # A window of more pixels than there was room for: recorded anew, with the same answer.
    large = np.random.default_rng(0).integers(0, 256, (1200, 1600, 6), dtype=np.uint8)
    region = crop_transform(np.array([400.0, 300, 700, 500]), 4.0, 64)
    template = torch.zeros(1, 6, 32, 32, dtype=torch.uint8)
    np.testing.assert_allclose(
        runner.locate(template, [large], [region]), EagerEngine(network).locate(template, [large], [region]), atol=1e-2
    )
