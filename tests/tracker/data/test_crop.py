"""Crops, augmentation, normalization, depth and event pictures against what can be worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tracker.data.augment import augment_crop, draw_augmentation, flip_box
from tracker.data.crop import crop_region, crop_transform, jitter_box, sample_region
from tracker.data.depth import depth_to_image
from tracker.data.events import OFF_COLOR, ON_COLOR, events_to_image, polarity_to_image
from tracker.data.normalize import normalize
from tracker.errors import RGBXError

coordinate = st.floats(-200, 400)
length = st.floats(0.5, 300)


@given(coordinate, coordinate, length, length, coordinate, coordinate, length, length, st.floats(1, 6))
def test_boxes_go_to_the_crop_and_back(x, y, w, h, tx, ty, tw, th, factor) -> None:
    transform = crop_transform(np.array([x, y, w, h]), factor, 128)
    other = np.array([tx, ty, tw, th])
    np.testing.assert_allclose(transform.to_image(transform.to_crop(other)), other, rtol=0, atol=1e-9)
    # The box that the crop is made around lies in its middle and has 1/factor^2 of its area.
    cx, cy, bw, bh = transform.to_crop(np.array([x, y, w, h]))
    np.testing.assert_allclose([cx, cy], 0.5, atol=1e-9)
    np.testing.assert_allclose(bw * bh, factor**-2, rtol=1e-9)


def test_a_crop_of_whole_pixels_is_a_slice_with_zeros_around() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (50, 60, 6), dtype=np.uint8)
    padded = np.pad(frame, ((40, 40), (40, 40), (0, 0)))
    for x, y in ((10, 12), (-16, -8), (50, 40), (-20, 30)):
        crop, transform = crop_region(frame, np.array([x, y, 16.0, 16.0]), 2.0, 32)
        assert (transform.x, transform.y, transform.side) == (x - 8, y - 8, 32)
        np.testing.assert_array_equal(crop, padded[40 + y - 8 : 40 + y + 24, 40 + x - 8 : 40 + x + 24])


def test_a_crop_far_outside_is_black() -> None:
    crop, _ = crop_region(np.full((20, 20, 6), 9, np.uint8), np.array([500.0, 500, 10, 10]), 2.0, 32)
    assert crop.shape == (32, 32, 6)
    assert not crop.any()


@pytest.mark.parametrize("out_size", [32, 64, 127])
@pytest.mark.parametrize("box", [(40.3, 37.7, 20.5, 11.2), (30.0, 30.0, 31.0, 17.0)])
def test_output_pixels_lie_where_the_transform_says(box, out_size) -> None:
    # On a ramp bilinear interpolation is exact, so every output pixel tells where it was taken.
    height, width = 100, 120
    ramp = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=2).astype(np.float32)
    frame = np.concatenate([ramp, ramp, ramp], axis=2)
    crop, t = crop_region(frame, np.array(box), 2.0, out_size)
    grid = (np.arange(out_size) + 0.5) * t.side / out_size
    # OpenCV may place its taps on a grid of 1/32 pixel.
    np.testing.assert_allclose(crop[:, :, 0], np.broadcast_to(t.x + grid, (out_size, out_size)), atol=1 / 32)
    np.testing.assert_allclose(crop[:, :, 5], np.broadcast_to((t.y + grid)[:, None], (out_size, out_size)), atol=1 / 32)


def test_six_channels_are_cut_as_three_and_three() -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    transform = crop_transform(np.array([10.0, 12.0, 9.0, 14.0]), 3.0, 50)
    both = sample_region(np.concatenate([frame, frame], axis=2), transform)
    one = sample_region(frame, transform)
    np.testing.assert_array_equal(both[:, :, :3], one)
    np.testing.assert_array_equal(both[:, :, 3:], one)
    np.testing.assert_array_equal(sample_region(frame[:, :, :1], transform)[:, :, 0], one[:, :, 0])


def test_jitter_keeps_within_its_bounds_and_uses_the_generator() -> None:
    box = np.array([50.0, 60.0, 20.0, 10.0])
    moved = np.array([jitter_box(box, 3.0, 0.25, np.random.default_rng(k)) for k in range(2000)])
    size = moved[:, 2:]
    offset = moved[:, :2] + size / 2 - (60.0, 65.0)
    reach = np.sqrt(size.prod(axis=1)) * 1.5
    assert (np.abs(offset) <= reach[:, None]).all()
    assert np.abs(offset / reach[:, None]).max() > 0.95
    spread = np.log(size / box[2:])
    np.testing.assert_allclose(spread.std(axis=0), 0.25, rtol=0.06)
    np.testing.assert_array_equal(moved[7], jitter_box(box, 3.0, 0.25, np.random.default_rng(7)))
    np.testing.assert_allclose(jitter_box(box, 0.0, 0.0, np.random.default_rng(0)), box)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (np.nan, 0, 5, 5), (0, np.inf, 5, 5)])
def test_a_box_without_area_cannot_be_cropped(box) -> None:
    with pytest.raises(RGBXError, match="must be finite and have an area"):
        crop_region(np.zeros((9, 9, 6), np.uint8), np.array(box, dtype=float), 2.0, 16)


def test_jitter_without_a_generator_is_refused() -> None:
    with pytest.raises(RGBXError, match="needs a numpy random Generator"):
        crop_region(np.zeros((9, 9, 6), np.uint8), np.array([1.0, 1, 4, 4]), 2.0, 16, center_jitter=1.0)
    with pytest.raises(RGBXError, match="both must be positive"):
        crop_region(np.zeros((9, 9, 6), np.uint8), np.array([1.0, 1, 4, 4]), 0.0, 16)


def test_augmentation_treats_both_halves_alike() -> None:
    image = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for flip in (False, True):
        for gain in (0.8, 1.0, 1.2):
            out = augment_crop(np.concatenate([image, image], axis=2), False, flip, gain)
            np.testing.assert_array_equal(out[:, :, :3], out[:, :, 3:])
            mirrored = image[:, ::-1] if flip else image
            np.testing.assert_array_equal(out[:, :, :3], np.clip(np.rint(mirrored * gain), 0, 255).astype(np.uint8))


def test_gray_touches_rgb_alone() -> None:
    image = np.random.default_rng(3).integers(0, 256, (8, 8, 6), dtype=np.uint8)
    before = image.copy()
    out = augment_crop(image, True, False, 1.0)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(out[:, :, 3:], image[:, :, 3:])
    expected = image[:, :, :3] @ np.array([0.299, 0.587, 0.114])
    for channel in range(3):
        np.testing.assert_allclose(out[:, :, channel], expected, atol=0.51)


def test_drawn_augmentations_have_the_asked_frequencies() -> None:
    rng = np.random.default_rng(4)
    drawn = [draw_augmentation(rng, 0.05, 0.5, 0.0, 0.2) for _ in range(4000)]
    assert all(d.template_flip == d.search_flip for d in drawn)
    assert abs(np.mean([d.search_flip for d in drawn]) - 0.5) < 4 * np.sqrt(0.25 / 4000)
    assert abs(np.mean([d.grayscale for d in drawn]) - 0.05) < 4 * np.sqrt(0.0475 / 4000)
    gains = np.array([[d.template_gain, d.search_gain] for d in drawn])
    assert gains.min() >= 0.8
    assert gains.max() <= 1.2
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.07
    each = [draw_augmentation(rng, 0, 0.5, 0.5, 0) for _ in range(2000)]
    assert abs(np.mean([d.template_flip == d.search_flip for d in each]) - 0.5) < 4 * np.sqrt(0.25 / 2000)


def test_flipping_a_box_twice_gives_it_back() -> None:
    box = np.array([0.3, 0.4, 0.2, 0.1])
    np.testing.assert_allclose(flip_box(box), [0.7, 0.4, 0.2, 0.1])
    np.testing.assert_allclose(flip_box(flip_box(box)), box)


def test_normalize_is_imagenets_on_both_halves() -> None:
    images = torch.arange(2 * 6 * 4 * 5, dtype=torch.int64).reshape(2, 6, 4, 5).to(torch.uint8)
    out = normalize(images)
    assert out.dtype == torch.float32
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for channel in range(6):
        expected = (images[:, channel].double() / 255 - mean[channel % 3]) / std[channel % 3]
        torch.testing.assert_close(out[:, channel].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(normalize(images[0]), out[0])
    with pytest.raises(RGBXError, match="expected uint8"):
        normalize(out)
    with pytest.raises(RGBXError, match="multiple of 3"):
        normalize(images[:, :4])


def test_depth_is_clipped_scaled_and_colored_in_rgb_order() -> None:
    depth = np.full((10, 10), 1000, dtype=np.uint16)
    depth[0, 0], depth[0, 1], depth[0, 2] = 0, 60000, 1500
    gray = depth_to_image(depth, "gray")
    # Median 1000, so that everything beyond 3000 is 3000; then 0..3000 to 0..255.
    assert gray[0, 0, 0] == 0
    assert gray[0, 1, 0] == 255
    assert gray[0, 2, 0] == int(255 * 1500 / 3000)
    assert (gray == gray[:, :, :1]).all()
    jet = depth_to_image(depth, "jet")
    np.testing.assert_array_equal(jet, cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB))
    assert jet[0, 0, 2] > jet[0, 0, 0]  # near is blue
    assert jet[0, 1, 0] > jet[0, 1, 2]  # far is red
    np.testing.assert_array_equal(depth_to_image(depth, "raw", clip=False)[0, :3, 0], [0, 255, round(1500 * 0.0255)])
    assert depth_to_image(depth, "gray", clip=False)[5, 5, 0] == int(255 * 1000 / 60000)
    assert not depth_to_image(np.full((4, 4), 7, np.uint16), "gray").any()
    with pytest.raises(RGBXError, match="expected one of jet, gray, raw"):
        depth_to_image(depth, "hot")
    with pytest.raises(RGBXError, match="one channel"):
        depth_to_image(np.zeros((4, 4, 3)))


def test_the_last_event_of_a_pixel_shows() -> None:
    image = events_to_image(np.array([1, 1, 2, 0]), np.array([1, 1, 0, 2]), np.array([1, 0, 1, -1]), (4, 3))
    assert tuple(image[1, 1]) == OFF_COLOR
    assert tuple(image[0, 2]) == ON_COLOR
    assert tuple(image[2, 0]) == OFF_COLOR
    assert (image.reshape(-1, 3) == 255).all(axis=1).sum() == 12 - 3
    assert (events_to_image(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), (4, 3)) == 255).all()
    np.testing.assert_array_equal(polarity_to_image(np.array([[3, -2, 0]]))[0], [ON_COLOR, OFF_COLOR, (255,) * 3])
    with pytest.raises(RGBXError, match="outside the 4x3 image"):
        events_to_image(np.array([4]), np.array([0]), np.array([1]), (4, 3))
    with pytest.raises(RGBXError, match="as many of each"):
        events_to_image(np.array([1]), np.array([0, 1]), np.array([1]), (4, 3))
