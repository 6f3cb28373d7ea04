"""Objects of a scene: a silhouette that deforms over a cycle of phases, photographic skin, and a body temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from tracker.data.synthetic.photographs import random_patch

PHASES = 8
SHAPES = ("person", "vehicle", "ball", "blob", "animal")
_OVERSAMPLE = 2


@dataclass(frozen=True)
class Sprite:
    """One object at rest.

    Attributes:
        rgba: (K, S, S, 4) uint8; color is defined outside the silhouette as well, alpha is soft.
        warmth: (K, S, S) float32 in [0, 1]: how much of the object's excess temperature a place has.
        relief: (S, S) float32 in [0, 1]: how far a place bulges toward the camera.
        extent: longest side of the silhouette over S.
        upright: the object hardly rolls.
    """

    rgba: np.ndarray
    warmth: np.ndarray
    relief: np.ndarray
    extent: float
    upright: bool


def _polygon(mask: np.ndarray, points: np.ndarray, part: int) -> None:
    """Fill a polygon given in unit coordinates (-1..1, y down) with a part's number."""
    side = mask.shape[0]
    fixed = np.rint((np.asarray(points) * 0.5 + 0.5) * side * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], part, shift=4)


def _ellipse(mask: np.ndarray, cx: float, cy: float, rx: float, ry: float, part: int, turn: float = 0.0) -> None:
    t = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    c, s = math.cos(turn), math.sin(turn)
    px, py = rx * np.cos(t), ry * np.sin(t)
    _polygon(mask, np.stack([cx + c * px - s * py, cy + s * px + c * py], axis=1), part)


def _limb(mask: np.ndarray, x0: float, y0: float, angle: float, length: float, width: float, part: int) -> None:
    dx, dy = math.sin(angle), math.cos(angle)
    nx, ny = dy * width / 2, -dx * width / 2
    x1, y1 = x0 + dx * length, y0 + dy * length
    _polygon(mask, np.array([[x0 + nx, y0 + ny], [x1 + nx, y1 + ny], [x1 - nx, y1 - ny], [x0 - nx, y0 - ny]]), part)
    _ellipse(mask, x1, y1, width / 2, width / 2, part)


def _person(rng: np.random.Generator) -> Callable[[np.ndarray, float], None]:
    stout, stride, sway = rng.uniform(0.8, 1.3), rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.6)

    def draw(mask: np.ndarray, phase: float) -> None:
        swing = math.sin(phase)
        for sign in (-1, 1):
            _limb(mask, sign * 0.06, 0.1, sign * swing * stride, 0.78, 0.15 * stout, 2)
            _limb(mask, sign * 0.17 * stout, -0.48, -sign * swing * sway + sign * 0.12, 0.55, 0.11 * stout, 1)
        _ellipse(mask, 0, -0.2, 0.2 * stout, 0.42, 1)
        _ellipse(mask, 0.02 * swing, -0.76, 0.13, 0.17, 3)

    return draw


def _vehicle(rng: np.random.Generator) -> Callable[[np.ndarray, float], None]:
    height, cabin, slope = rng.uniform(0.35, 0.55), rng.uniform(0.4, 0.7), rng.uniform(0.05, 0.25)
    shift = rng.uniform(-0.2, 0.2)

    def draw(mask: np.ndarray, phase: float) -> None:
        bounce = 0.015 * math.sin(phase)
        top, base = -0.05 + bounce, height * 0.6
        body = [
            [-0.93, top],
            [0.9, top],
            [0.96, base * 0.6],
            [0.93, base],
            [-0.93, base],
            [-0.97, base * 0.5],
        ]
        _polygon(mask, np.array(body), 1)
        roof = top - height * 0.75
        _polygon(
            mask,
            np.array(
                [
                    [shift - cabin, top + 0.02],
                    [shift - cabin + slope, roof],
                    [shift + cabin - slope, roof],
                    [shift + cabin, top + 0.02],
                ]
            ),
            2,
        )
        for x in (-0.55, 0.55):
            _ellipse(mask, x, base, 0.19, 0.19, 3)

    return draw


def _ball(rng: np.random.Generator) -> Callable[[np.ndarray, float], None]:
    squash = rng.uniform(0.0, 0.1)

    def draw(mask: np.ndarray, phase: float) -> None:
        s = squash * math.sin(phase)
        _ellipse(mask, 0, 0, 0.9 * (1 + s), 0.9 * (1 - s), 1)

    return draw


def _blob(rng: np.random.Generator) -> Callable[[np.ndarray, float], None]:
    orders = np.arange(2, 6)
    size, start = rng.uniform(0.02, 0.13, 4), rng.uniform(0, 2 * math.pi, 4)
    wobble, beat = rng.uniform(0.2, 0.7, 4), rng.uniform(0, 2 * math.pi, 4)
    aspect = rng.uniform(0.55, 1.0)

    def draw(mask: np.ndarray, phase: float) -> None:
        t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        now = size * (1 + wobble * np.sin(phase + beat))
        r = 0.68 * (1 + (now[:, None] * np.cos(orders[:, None] * t + start[:, None])).sum(axis=0))
        _polygon(mask, np.clip(np.stack([r * np.cos(t), aspect * r * np.sin(t)], axis=1), -0.96, 0.96), 1)

    return draw


def _animal(rng: np.random.Generator) -> Callable[[np.ndarray, float], None]:
    stride, tall, head = rng.uniform(0.25, 0.5), rng.uniform(0.35, 0.5), rng.uniform(0.15, 0.22)

    def draw(mask: np.ndarray, phase: float) -> None:
        for k, x in enumerate((-0.5, -0.38, 0.3, 0.42)):
            _limb(mask, x, 0.1, stride * math.sin(phase + k * math.pi * 0.9), tall, 0.12, 2)
        _ellipse(mask, 0, 0, 0.6, 0.24, 1)
        _limb(mask, -0.58, -0.05, -1.9 - 0.2 * math.sin(phase), 0.28, 0.07, 1)
        _limb(mask, 0.48, -0.05, 2.4, 0.38, 0.2, 1)
        _ellipse(mask, 0.76, -0.38 + 0.03 * math.sin(phase), head, head * 0.65, 3, 0.4)

    return draw


_DRAWERS: dict[str, Callable[[np.random.Generator], Callable[[np.ndarray, float], None]]] = {
    "person": _person,
    "vehicle": _vehicle,
    "ball": _ball,
    "blob": _blob,
    "animal": _animal,
}


def skin(rng: np.random.Generator, split: str, side: int) -> np.ndarray:
    """Return (S, S, 3) uint8: a patch of a photograph with enough contrast to be recognized again."""
    patch = random_patch(rng, split, (side, side), (0.12, 0.5), skin=True).astype(np.float32)
    mean, spread = patch.mean(axis=(0, 1)), float(patch.std(axis=(0, 1)).mean())
    gain = min(max(1.0, 42.0 / max(spread, 6.0)), 4.0)
    level = np.clip(mean + rng.uniform(-35, 35), 40, 215)
    return np.asarray(np.clip((patch - mean) * gain + level, 0, 255).astype(np.uint8))


def make_sprite(rng: np.random.Generator, shape: str, split: str, pixels: float) -> Sprite:
    """Draw an object of one of :data:`SHAPES`, whose longest side will be about ``pixels`` in the image at most."""
    side = int(min(max(24, math.ceil(pixels * 1.1) + 4), 200))
    draw = _DRAWERS[shape](rng)
    skins = np.stack([skin(rng, split, side) for _ in range(3)])
    warmth_of = np.array([0.8, *(rng.uniform(0.65, 1.0, 3))], dtype=np.float32)
    mottled = 0.75 + 0.25 * (cv2.blur(skins[0][..., 1], (5, 5)).astype(np.float32) / 255.0)
    grid = (np.arange(side) + 0.5) / side * 2 - 1
    radius = grid[None, :] ** 2 + grid[:, None] ** 2
    relief = np.clip(1.0 - radius, 0, 1).astype(np.float32)
    shade = (1.08 - 0.3 * np.clip(radius, 0, 1.5)).astype(np.float32)
    skins = np.clip(skins * shade[None, :, :, None], 0, 255).astype(np.uint8)
    phases = 1 if shape == "ball" else PHASES
    rgba = np.empty((phases, side, side, 4), dtype=np.uint8)
    warmth = np.empty((phases, side, side), dtype=np.float32)
    longest = 0
    for k in range(phases):
        big = np.zeros((side * _OVERSAMPLE, side * _OVERSAMPLE), dtype=np.uint8)
        draw(big, 2 * math.pi * k / phases)
        parts = big[::_OVERSAMPLE, ::_OVERSAMPLE]
        alpha = cv2.resize((big > 0).astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_AREA)
        rgba[k, :, :, :3] = np.choose(np.maximum(parts, 1)[:, :, None] - 1, skins)
        rgba[k, :, :, 3] = alpha
        warmth[k] = warmth_of[parts] * mottled
        _, _, w, h = cv2.boundingRect((alpha >= 128).astype(np.uint8))
        longest = max(longest, w, h)
    return Sprite(rgba, warmth, relief, longest / side, upright=shape in ("person", "vehicle", "animal"))


def make_screen(rng: np.random.Generator, split: str, width: int, height: int) -> Sprite:
    """Draw something to pass behind: a pole, a trunk or a hedge of ``width`` x ``height`` pixels, in its own square."""
    side = max(width, height) + 4
    patch = random_patch(rng, split, (side, side), (0.3, 0.8))
    alpha = np.zeros((side, side), dtype=np.uint8)
    x0, y0 = (side - width) // 2, (side - height) // 2
    alpha[y0 : y0 + height, x0 : x0 + width] = 255
    if rng.random() < 0.5:
        rows = np.arange(side)
        wave = (width * 0.12 * np.sin(rows / rng.uniform(5, 15) + rng.uniform(0, 6))).astype(int)
        for row in rows:
            alpha[row] = np.roll(alpha[row], wave[row])
    across = 1.1 - 0.5 * np.abs((np.arange(side) - side / 2) / max(width / 2, 1)).clip(0, 1)
    patch = np.clip(patch * across[None, :, None], 0, 255).astype(np.uint8)
    rgba = np.concatenate([patch, alpha[:, :, None]], axis=2)[None]
    flat = np.full((1, side, side), 0.5, dtype=np.float32)
    return Sprite(rgba, flat, np.zeros((side, side), dtype=np.float32), max(width, height) / side, upright=True)
