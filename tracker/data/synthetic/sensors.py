"""Simple models of the cameras: visible light, thermal, depth and events.

Each is a function of the scene and a generator.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

_BANK_SIGMA = 32.0
_BANK_MARGIN = 64
DEPTH_RANGE = 9500.0
"""Millimeters beyond which the depth sensor measures nothing."""


@functools.lru_cache(maxsize=16)
def _noise_bank(width: int, height: int, channels: int) -> np.ndarray:
    """Return grain around 128, larger than the image. A random window of it replaces fresh noise at no cost."""
    rng = np.random.default_rng(20240607)
    shape = (height + _BANK_MARGIN, width + _BANK_MARGIN, channels)
    bank = np.clip(np.rint(128 + _BANK_SIGMA * rng.standard_normal(shape, dtype=np.float32)), 0, 255)
    return np.asarray(bank.astype(np.uint8).squeeze())


def _grain(rng: np.random.Generator, width: int, height: int, channels: int) -> np.ndarray:
    x, y = rng.integers(0, _BANK_MARGIN, 2)
    return _noise_bank(width, height, channels)[y : y + height, x : x + width]


def add_grain(image: np.ndarray, gain: float, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return gain * image + noise of standard deviation ``sigma`` gray levels, saturated, for (H, W[, 3]) uint8."""
    height, width = image.shape[:2]
    grain = _grain(rng, width, height, 1 if image.ndim == 2 else 3)
    weight = sigma / _BANK_SIGMA
    return cv2.addWeighted(image, gain, np.ascontiguousarray(grain), weight, -128.0 * weight)


def visible_camera(
    radiance: np.ndarray, light: float, tint: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Return what a color camera makes of a scene, (H, W, 3) uint8.

    Args:
        radiance: (H, W, 3) uint8, the scene.
        light: exposure, 1 by day. At night it falls and the noise stays.
        tint: (3,) color of the light.
        sigma: read noise in gray levels.
        rng: the generator of the noise.
    """
    if light < 1.0 or (tint != 1.0).any():
        table = np.clip(np.arange(256)[:, None] * tint[None, :], 0, 255).astype(np.uint8).reshape(256, 1, 3)
        radiance = cv2.LUT(radiance, table)
    return add_grain(radiance, light, sigma, rng)


def thermal_camera(
    temperature: np.ndarray, offset: float, gain: float, blur: float, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Return what a thermal camera makes of a temperature, (H, W) uint8.

    The lens blurs. The level and the gain drift slowly (``offset`` and ``gain`` change over a sequence). The detector
    has noise and weak column stripes. The temperature is (H, W) float32, 0..1 over the camera's span.
    """
    soft = cv2.GaussianBlur(temperature, (5, 5), blur)
    image = cv2.convertScaleAbs(np.maximum(soft, 0.0), alpha=235.0 * gain, beta=10.0 + offset)
    width = image.shape[1]
    columns = 2.0 * np.sin(np.arange(width) * 12.9898) * np.cos(np.arange(width) * 4.1414)
    stripes = np.rint(columns + 2.0).astype(np.uint8)[None, :]
    return add_grain(cv2.add(image, np.broadcast_to(stripes, image.shape).copy()), 1.0, sigma, rng)


def depth_camera(distance: np.ndarray, noise: float, holes: float, rng: np.random.Generator) -> np.ndarray:
    """Return what a depth camera measures, (H, W) uint16 millimeters, 0 where it measures nothing.

    The noise grows with the square of the distance, as it does for stereo and for structured light. Holes open at depth
    edges, beyond the range, and in patches.

    Args:
        distance: (H, W) float32 millimeters.
        noise: standard deviation in millimeters at 1 m.
        holes: share of speckle holes.
        rng: the generator.
    """
    height, width = distance.shape
    grain = _grain(rng, width, height, 1).astype(np.float32)
    meters = distance * 1e-3
    measured = distance + (grain - 128.0) * (noise / _BANK_SIGMA) * meters * meters
    kernel = np.ones((3, 3), dtype=np.uint8)
    edge = cv2.dilate(distance, kernel) - cv2.erode(distance, kernel) > 400.0
    second = _grain(rng, width, height, 1)
    # An edge shadow is ragged, so half of its pixels still answer.
    lost = (edge & (second > 122)) | (distance > DEPTH_RANGE)
    limit = 128.0 + _BANK_SIGMA * _quantile(1.0 - holes)
    speckle = cv2.dilate((cv2.blur(second, (3, 3)) > 128 + (limit - 128) / 3).astype(np.uint8), kernel) > 0
    lost |= speckle
    measured[lost] = 0.0
    return np.clip(np.rint(measured), 0, 65535).astype(np.uint16)


@functools.lru_cache(maxsize=8)
def _quantile(p: float) -> float:
    """Standard normal quantile, by bisection on erf."""
    low, high = -8.0, 8.0
    for _ in range(60):
        mid = (low + high) / 2
        if 0.5 * (1 + math.erf(mid / math.sqrt(2))) < p:
            low = mid
        else:
            high = mid
    return (low + high) / 2


_LOG = np.log(np.arange(256, dtype=np.float32) + 12.0).astype(np.float32)


def event_camera(
    before: np.ndarray, after: np.ndarray, threshold: float, spurious: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the polarity of the events between two instants, (H, W) int8: ON = 1, OFF = -1, 0 for none.

    A pixel fires if the logarithm of its intensity has changed by ``threshold``.

    Args:
        before: (H, W, 3) uint8 scene, without the color camera's exposure, because an event camera adapts to the light.
        after: the same at the later instant.
        threshold: the contrast sensitivity.
        spurious: share of the pixels that fire by themselves.
        rng: the generator.
    """
    a = cv2.GaussianBlur(cv2.cvtColor(before, cv2.COLOR_RGB2GRAY), (3, 3), 0.7)
    b = cv2.GaussianBlur(cv2.cvtColor(after, cv2.COLOR_RGB2GRAY), (3, 3), 0.7)
    change = _LOG[b] - _LOG[a]
    polarity: np.ndarray = (change > threshold).astype(np.int8) - (change < -threshold).astype(np.int8)
    height, width = change.shape
    count = int(spurious * height * width)
    if count:
        where = rng.integers(0, height * width, count)
        polarity.reshape(-1)[where] = np.where(np.arange(count) % 2, 1, -1)
    return polarity
