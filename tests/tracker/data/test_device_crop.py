"""Crops that a device makes in batches are those of the host, and those of a float64 reference, within rounding."""

from __future__ import annotations

import dataclasses
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.data.augment import augment_crop
from tracker.data.crop import CropTransform, crop_transform, sample_region
from tracker.data.dataset import PairDataset, PairSettings, collate_pairs
from tracker.data.device_crop import WindowBatch, window_of
from tracker.data.sequence import ArraySequence
from tracker.errors import RGBXError

FRAME = np.random.default_rng(0).integers(0, 256, (60, 90, 6), dtype=np.uint8)
"""Noise: the hardest picture for interpolation."""

# OpenCV before 5 takes taps up to 1/64 pixel off along each axis, between neighbors that differ by up to 255 levels.
# How many levels are equal all the same differs between its releases, so nothing is claimed of it.
EXACT_HOST = int(cv2.__version__.partition(".")[0]) >= 5
LEVELS = 1 if EXACT_HOST else 1 + 2 * 255 / 64
EQUAL = 0.99 if EXACT_HOST else -1.0


def reference(frame: np.ndarray, region: CropTransform) -> np.ndarray:
    """Return (out, out, C) float64 by the definition.

    It is bilinear at the centers of the output pixels, and zero outside the frame.
    """
    height, width, channels = frame.shape
    out = np.zeros((region.out_size, region.out_size, channels))
    for i in range(region.out_size):
        y = region.y + (i + 0.5) * region.side / region.out_size - 0.5
        for j in range(region.out_size):
            x = region.x + (j + 0.5) * region.side / region.out_size - 0.5
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        out[i, j] += frame[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return out


regions = st.builds(
    CropTransform, st.floats(-80, 120), st.floats(-70, 90), st.floats(0.5, 150), st.integers(min_value=1, max_value=9)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(regions, min_size=1, max_size=4), st.integers(1, 9))
def test_crops_are_the_float64_ones_to_half_a_level(places: list[CropTransform], size: int) -> None:
    places = [dataclasses.replace(place, out_size=size) for place in places]
    crops = WindowBatch.pack([window_of(FRAME, place) for place in places]).crops()
    assert crops.shape == (len(places), 6, size, size)
    for crop, place in zip(crops, places, strict=True):
        expected = reference(FRAME, place).transpose(2, 0, 1)
        # 255 levels in float32 weights err by less than 1e-4.
        assert np.abs(crop.numpy() - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("box", [(40.3, 27.7, 20.5, 11.2), (2.0, 50.0, 31.0, 17.0), (70.0, 3.0, 40.0, 50.0)])
def test_crops_are_the_hosts_within_rounding(box: tuple[float, ...]) -> None:
    region = crop_transform(np.array(box), 3.1, 48)
    device = WindowBatch.pack([window_of(FRAME, region)]).crops()[0].permute(1, 2, 0).numpy().astype(int)
    host = sample_region(FRAME, region).astype(int)
    assert np.abs(device - host).max() <= LEVELS
    assert (device == host).mean() > EQUAL
    assert len(np.unique(device)) > 200


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("gain", [0.8, 1.0, 1.2])
def test_changes_are_the_hosts_within_rounding(grayscale: bool, flip: bool, gain: float) -> None:
    # A region of whole pixels is a slice, so that nothing but the changes can differ.
    region = CropTransform(10.0, 5.0, 48.0, 48)
    device = WindowBatch.pack([window_of(FRAME, region, grayscale, flip, gain)]).crops()[0].permute(1, 2, 0).numpy()
    host = augment_crop(FRAME[5:53, 10:58], grayscale, flip, gain)
    differing = device != host
    assert np.abs(device.astype(int) - host.astype(int)).max() <= 1
    assert differing.mean() < 0.002
    assert (device != FRAME[5:53, 10:58]).any() == (grayscale or flip or gain != 1.0)


def test_every_crop_of_a_batch_is_its_own() -> None:
    """Different sizes, changes and places in one batch give what each gives alone."""
    windows = [
        window_of(FRAME, CropTransform(-20.0, -10.0, 33.3, 16), True, False, 1.1),
        window_of(FRAME[:20, :30], CropTransform(5.5, 2.25, 9.0, 16), False, True, 0.9),
        window_of(FRAME, CropTransform(500.0, 500.0, 20.0, 16)),
        window_of(FRAME, CropTransform(0.0, 0.0, 200.0, 16), True, True, 1.0),
    ]
    together = WindowBatch.pack(windows)
    assert len(together) == 4
    for index, crop in enumerate(together.crops()):
        assert torch.equal(crop, WindowBatch.pack([windows[index]]).crops()[0])
    assert not together.crops()[2].any()


def test_only_the_windows_travel() -> None:
    region = crop_transform(np.array([40.0, 30.0, 5.0, 5.0]), 2.0, 64)
    batch = WindowBatch.pack([window_of(FRAME, region)] * 3)
    # A side of 10 pixels and at most 4 more for the taps.
    assert batch.pixels.shape[0] <= 3 * 14**2
    moved = batch.to(torch.device("cpu"), non_blocking=True)
    assert torch.equal(moved.crops(), batch.crops())


def sequences() -> list[ArraySequence]:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (25, 70, 80, 6), dtype=np.uint8)
    boxes = np.concatenate([rng.uniform(0, 50, (25, 2)), rng.uniform(8, 40, (25, 2))], axis=1)
    return [
        ArraySequence("both", "thermal", frames, boxes),
        ArraySequence("plain", "rgb", np.ascontiguousarray(frames[..., :3]), boxes),
    ]


def test_pairs_are_the_same_wherever_their_crops_are_made() -> None:
    small = PairSettings(template_size=16, search_size=32)
    host = PairDataset(sequences(), small, samples_per_epoch=60, seed=2)
    device = PairDataset(sequences(), dataclasses.replace(small, crops="device"), samples_per_epoch=60, seed=2)
    for epoch in (0, 3):
        host.set_epoch(epoch)
        device.set_epoch(epoch)
        finished = collate_pairs([host[i] for i in range(60)])
        windows = collate_pairs([device[i] for i in range(60)])
        assert torch.equal(finished["box"], windows["box"])
        assert torch.equal(finished["sequence"], windows["sequence"])
        for name in ("template", "search"):
            made = windows[name].crops()
            assert made.shape == finished[name].shape
            assert made.dtype == torch.uint8
            # A gain of up to 1.2 follows on a crop that is one level off, and is rounded in turn.
            difference = (made.int() - finished[name].int()).abs()
            assert int(difference.max()) <= 1.2 * LEVELS + 1
            assert float((difference == 0).float().mean()) > EQUAL
        plain = windows["sequence"] == 1
        assert plain.any()
        assert not windows["search"].crops()[plain, 3:].any()


def test_windows_reach_the_trainer_through_loader_processes() -> None:
    dataset = PairDataset(sequences(), PairSettings(template_size=16, search_size=32, crops="device"), 8, seed=1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=collate_pairs)
    for number, batch in enumerate(loader):
        alone = collate_pairs([pickle.loads(pickle.dumps(dataset[4 * number + i])) for i in range(4)])
        assert torch.equal(batch["search"].crops(), alone["search"].crops())
        assert torch.equal(batch["box"], alone["box"])


def test_where_crops_are_made_is_checked() -> None:
    with pytest.raises(RGBXError, match="expected 'host' or 'device'"):
        PairSettings(crops="gpu")


@pytest.mark.gpu
def test_a_gpu_makes_the_same_crops() -> None:
    """This has never been run, because it needs a CUDA device."""
    rng = np.random.default_rng(1)
    windows = [
        window_of(FRAME, CropTransform(*rng.uniform(-40, 60, 2), rng.uniform(5, 120), 32), i % 2 == 0, i % 3 == 0, 1.1)
        for i in range(16)
    ]
    batch = WindowBatch.pack(windows)
    there = batch.pin_memory().to(torch.device("cuda"), non_blocking=True).crops().cpu()
    assert int((there.int() - batch.crops().int()).abs().max()) <= 1
