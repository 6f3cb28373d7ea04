"""A scene: background, camera, light, and objects that move; it is composited a frame at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tracker.data.synthetic.photographs import random_patch
from tracker.data.synthetic.sensors import depth_camera, event_camera, thermal_camera, visible_camera
from tracker.data.synthetic.settings import SyntheticConfig
from tracker.data.synthetic.sprites import SHAPES, Sprite, make_screen, make_sprite

PRESENT_SHARE = 0.25
"""Least share of the silhouette that is in the image and not hidden for the target to count as present."""
_CANVAS = 1.5
_LEAST_CONTRAST = 28.0
_OPEN_SHARE = 0.85
_SHORT = 12
"""Sequences with fewer frames have no room for something to pass before the target."""
_ATTEMPTS = 24
_MODALITY_CODE = {"rgb": 0, "thermal": 1, "depth": 2, "event": 3}
_SPLIT_CODE = {"train": 0, "test": 1, "all": 2}


@dataclass
class Actor:
    """An object and its life: arrays over the N frames (positions in view pixels).

    Attributes:
        center: (N, 2) x, y.
        size: (N,) longest side, pixels.
        turn: (N,) radians.
        phase: (N,) index into the sprite's phases.
        distance: (N,) millimeters from the camera; nearer ones hide farther ones.
        temperature: (N,) of the warm parts, 0..1; an object's cold parts lie toward ``ambient``.
        veil: share of the fog's color in its own.
    """

    sprite: Sprite
    center: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    phase: np.ndarray
    distance: np.ndarray
    temperature: np.ndarray
    ambient: float
    veil: float = 0.0

    def placement(self, index: int, width: int, height: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Inverse affine matrix for a window around the object, and the window x0, y0, x1, y1 (not clipped)."""
        side = self.sprite.rgba.shape[1]
        scale = float(self.size[index]) / (self.sprite.extent * side)
        cx, cy = float(self.center[index, 0]), float(self.center[index, 1])
        c, s = math.cos(float(self.turn[index])), math.sin(float(self.turn[index]))
        reach = side / 2 * scale * (abs(c) + abs(s)) + 1.5
        x0, y0 = math.floor(cx - reach), math.floor(cy - reach)
        x1, y1 = math.ceil(cx + reach), math.ceil(cy + reach)
        a = np.array([[c / scale, s / scale, 0.0], [-s / scale, c / scale, 0.0]])
        # Pixel centers to pixel centers: window pixel p is image point p + 0.5 + (x0, y0).
        offset = np.array([x0 + 0.5 - cx, y0 + 0.5 - cy])
        a[:, 2] = a[:, :2] @ offset + side / 2 - 0.5
        return a, (x0, y0, x1, y1)


def _warp(image: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=border)


def _wander(rng: np.random.Generator, frames: int, slow: float, fast: float, terms: int = 3) -> np.ndarray:
    """Return (N,) smooth path within about -1..1, a few sine waves with periods in [fast, slow] frames."""
    t = np.arange(frames)
    weight = rng.dirichlet(np.ones(terms) * 2)
    period = np.exp(rng.uniform(math.log(fast), math.log(slow), terms))
    phase = rng.uniform(0, 2 * math.pi, terms)
    waves = weight[:, None] * np.sin(2 * math.pi * t[None, :] / period[:, None] + phase[:, None])
    return np.asarray(waves.sum(axis=0))


def _bump(frames: int, start: float, stop: float, ramp: float) -> np.ndarray:
    """Return (N,) 0 outside [start - ramp, stop + ramp], 1 in [start, stop], smooth between."""
    t = np.arange(frames, dtype=np.float64)
    up = np.clip((t - (start - ramp)) / ramp, 0, 1)
    down = np.clip(((stop + ramp) - t) / ramp, 0, 1)
    return np.asarray((0.5 - 0.5 * np.cos(math.pi * up)) * (0.5 - 0.5 * np.cos(math.pi * down)))


class Scene:
    """Everything about sequence ``index`` of ``config``; ``capture(i)`` is a pure function of (config, index, i).

    Attributes:
        boxes: (N, 4) float64, NaN where the target is absent.
        condition: ``"day"``, ``"night"`` or ``"fog"``.
        x_fails: X shows the target badly in this sequence.
        lookalikes: number of distractors that wear the target's skin.
        leaves, occluded: the target leaves and returns; something stands in its way.
    """

    def __init__(self, config: SyntheticConfig, index: int) -> None:
        self.config = config
        self.index = index
        self.width, self.height = config.size
        self._key = [config.seed, index, _MODALITY_CODE[config.modality], _SPLIT_CODE[config.split]]
        # What kind of sequence it is does not depend on the attempts below, so that the shares asked for come
        # out.
        chance = np.random.default_rng([*self._key, 999983]).random(6)
        night, fog = config.share("night"), config.share("fog")
        self.condition = "night" if chance[0] < night else "fog" if chance[0] < night + fog else "day"
        self.x_fails = bool(chance[1] < config.share("x_failure")) and self.condition == "day"
        self.lookalikes = 1 + int(chance[3] * 3) if chance[2] < config.share("lookalike") else 0
        self.leaves = bool(chance[4] < config.share("leave")) and config.length >= 30
        self.occluded = bool(chance[5] < config.share("occlusion"))
        best: tuple[float, dict[str, object]] | None = None
        for attempt in range(_ATTEMPTS):
            self._build(np.random.default_rng([*self._key, attempt]))
            # The first frame initializes a tracker, so the target must be whole and visible there.
            start = self._look(0)[1]
            if start > _OPEN_SHARE:
                self.boxes = np.stack([self._look(i)[0] for i in range(config.length)])
                share = float(np.isfinite(self.boxes[:, 0]).mean())
                start += share
                if share >= 0.6 and self._stands_out():
                    break
            if best is None or start > best[0]:
                best = (start, dict(self.__dict__))
        else:
            assert best is not None
            self.__dict__.update(best[1])
            self.boxes = np.stack([self._look(i)[0] for i in range(config.length)])
        self._previous: tuple[int, np.ndarray] | None = None

    def _build(self, rng: np.random.Generator) -> None:
        config, n, w, h = self.config, self.config.length, self.width, self.height
        hard = config.difficulty
        self._draw_light(rng, n, hard)
        unit = min(w, h)

        # The target.
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        largest = unit * math.exp(rng.uniform(math.log(0.15), math.log(0.36)))
        if shape in ("person", "animal", "vehicle"):
            largest *= 1.25
        pulse = rng.uniform(0.05, 0.15 + 0.2 * hard) * _wander(rng, n, 160, 50)
        size = largest * np.exp(pulse - pulse.max())
        slow, fast = 260 - 120 * hard, 70 - 30 * hard
        center = np.stack(
            [
                w * (0.5 + rng.uniform(-0.1, 0.1) + rng.uniform(0.2, 0.42) * _wander(rng, n, slow, fast)),
                h * (0.5 + rng.uniform(-0.1, 0.1) + rng.uniform(0.12, 0.36) * _wander(rng, n, slow, fast)),
            ],
            axis=1,
        )
        side, start = rng.integers(4), rng.uniform(0.3, 0.6) * n
        away = rng.uniform(0.08, 0.18) * n
        if self.leaves:
            gone = _bump(n, start, start + away, 0.13 * n)
            axis = int(side) % 2
            limit = (w, h)[axis] + largest if side < 2 else -largest
            center[:, axis] = center[:, axis] * (1 - gone) + limit * gone
        near = rng.uniform(1600.0, 3200.0)
        distance = near * (largest / size)
        self._temperatures(rng, n)
        sprite = make_sprite(rng, shape, config.split, largest)
        veil = self._veil_near
        self.target = Actor(
            sprite=sprite,
            center=center,
            size=size,
            turn=self._turn(rng, n, sprite.upright),
            phase=self._phases(rng, n, sprite),
            distance=distance,
            temperature=np.full(n, self._target_temperature),
            ambient=self._ambient,
            veil=veil,
        )
        self.actors = [self.target]

        # Distractors in the same skin; X tells them apart.
        for _ in range(self.lookalikes):
            self.actors.append(self._lookalike(rng, n, center, size, distance))

        # Other things that move, some of them warm.
        for _ in range(int(rng.integers(0, 2 + round(3 * hard)))):
            self.actors.append(self._stranger(rng, n, unit, near))

        # What the target passes behind.
        if self.occluded and n >= _SHORT:
            for _ in range(int(rng.integers(1, 3))):
                self.actors.append(self._screen(rng, n, unit, float(distance.min()), center))

        self._background(rng, n)

    def _draw_light(self, rng: np.random.Generator, n: int, hard: float) -> None:
        self._tint = rng.uniform(0.88, 1.0, 3)
        self._grain = float(rng.uniform(1.0, 3.0 + 3.0 * hard))
        level = rng.uniform(0.75, 1.0)
        self._fog_color = rng.uniform(150, 225) * np.array([1.0, 1.0, rng.uniform(0.98, 1.06)])
        self._veil_far, self._veil_near = 0.0, 0.0
        flicker = 0.04 * _wander(rng, n, 120, 30)
        dusk = rng.random() < 0.3
        fall = _bump(n, rng.uniform(0.2, 0.5) * n, 2.0 * n, 0.25 * n)
        if self.condition == "night":
            level = math.exp(rng.uniform(math.log(0.08), math.log(0.4 - 0.15 * hard)))
            self._tint = np.array([rng.uniform(0.6, 0.9), rng.uniform(0.75, 0.95), 1.0])
            self._grain = float(rng.uniform(4.0, 7.0 + 5.0 * hard))
        elif self.condition == "fog":
            self._veil_far = float(rng.uniform(0.75, 0.93))
            self._veil_near = self._veil_far * float(rng.uniform(0.75, 0.97))
        self._light = np.clip(level * (1 + flicker), 0.03, 1.0)
        if self.condition == "night" and dusk:
            self._light = self._light * fall + 0.8 * (1 - fall)

    def _temperatures(self, rng: np.random.Generator, n: int) -> None:
        self._ambient = float(rng.uniform(0.22, 0.42))
        warm = rng.random() < 0.85
        excess = rng.uniform(0.32, 0.5) if warm else -rng.uniform(0.17, 0.21)
        if self.x_fails:
            excess = rng.uniform(-0.04, 0.06)
        self._target_temperature = float(np.clip(self._ambient + excess, 0.0, 1.0))
        self._drift = 10.0 * _wander(rng, n, 200, 60), 1.0 + 0.08 * _wander(rng, n, 200, 60)
        self._thermal = (
            float(rng.uniform(0.5, 1.1)),
            float(rng.uniform(1.5, 3.5 + 2.0 * self.config.difficulty)),
        )
        self._depth_noise = (
            float(rng.uniform(2.0, 5.0 + 5.0 * self.config.difficulty)),
            float(rng.uniform(0.0002, 0.002)),
        )
        self._events = (
            float(rng.uniform(0.12, 0.22)) * (1.8 if self.x_fails else 0.4 if self.condition == "fog" else 1.0),
            float(rng.uniform(0.001, 0.004)),
        )

    def _turn(self, rng: np.random.Generator, n: int, upright: bool) -> np.ndarray:
        reach = rng.uniform(0.03, 0.15) if upright else rng.uniform(0.2, 0.9)
        return reach * _wander(rng, n, 160, 50) + (0.0 if upright else rng.uniform(-math.pi, math.pi))

    def _phases(self, rng: np.random.Generator, n: int, sprite: Sprite) -> np.ndarray:
        count = len(sprite.rgba)
        period = rng.uniform(12, 30)
        return ((np.arange(n) / period + rng.random()) * count).astype(np.intp) % count

    def _lookalike(
        self, rng: np.random.Generator, n: int, center: np.ndarray, size: np.ndarray, distance: np.ndarray
    ) -> Actor:
        w, h = self.width, self.height
        own = self.target.sprite
        still = self.config.modality == "event" and rng.random() < 0.7
        if rng.random() < 0.5 and not still:
            # A companion that crosses the target's path now and then.
            radius = float(size.mean()) * (0.9 + 0.7 * _wander(rng, n, 120, 40))
            angle = rng.uniform(0, 2 * math.pi) + rng.choice([-1, 1]) * np.arange(n) * rng.uniform(0.01, 0.05)
            path = center + radius[:, None] * np.stack([np.cos(angle), 0.6 * np.sin(angle)], axis=1) * 1.3
        else:
            path = np.stack(
                [
                    w * (rng.uniform(0.2, 0.8) + (0 if still else 0.35) * _wander(rng, n, 220, 60)),
                    h * (rng.uniform(0.25, 0.75) + (0 if still else 0.25) * _wander(rng, n, 220, 60)),
                ],
                axis=1,
            )
        factor = rng.uniform(1.3, 1.6) if rng.random() < 0.6 else rng.uniform(0.62, 0.78)
        cold = self._ambient + rng.uniform(-0.08, 0.1)
        if self._target_temperature < self._ambient:
            cold = self._ambient + rng.uniform(0.1, 0.3)
        return Actor(
            sprite=own,
            center=path,
            size=size.mean() * rng.uniform(0.85, 1.1) * np.ones(n),
            turn=np.zeros(n) + self.target.turn[0] if still else self._turn(rng, n, own.upright),
            phase=np.zeros(n, dtype=np.intp) if still else self._phases(rng, n, own),
            distance=distance.mean() * factor * np.ones(n),
            temperature=np.full(n, float(np.clip(cold, 0, 1))),
            ambient=self._ambient,
            veil=self._veil_near,
        )

    def _stranger(self, rng: np.random.Generator, n: int, unit: int, near: float) -> Actor:
        largest = unit * rng.uniform(0.12, 0.34)
        sprite = make_sprite(rng, SHAPES[int(rng.integers(len(SHAPES)))], self.config.split, largest)
        path = np.stack(
            [
                self.width * (rng.uniform(0.1, 0.9) + 0.35 * _wander(rng, n, 260, 70)),
                self.height * (rng.uniform(0.1, 0.9) + 0.25 * _wander(rng, n, 260, 70)),
            ],
            axis=1,
        )
        warm = rng.random() < 0.5
        temperature = self._ambient + (rng.uniform(0.2, 0.5) if warm else rng.uniform(-0.1, 0.1))
        return Actor(
            sprite=sprite,
            center=path,
            size=np.full(n, largest),
            turn=self._turn(rng, n, sprite.upright),
            phase=self._phases(rng, n, sprite),
            distance=np.full(n, near * (rng.uniform(1.25, 1.7) if rng.random() < 0.7 else rng.uniform(0.65, 0.9))),
            temperature=np.full(n, float(np.clip(temperature, 0, 1))),
            ambient=self._ambient,
            veil=self._veil_near,
        )

    def _screen(self, rng: np.random.Generator, n: int, unit: int, nearest: float, center: np.ndarray) -> Actor:
        tall = rng.random() < 0.7
        thin, long = unit * rng.uniform(0.07, 0.2), unit * rng.uniform(0.6, 1.1)
        width, height = (int(thin), int(long)) if tall else (int(long * 0.7), int(thin))
        sprite = make_screen(rng, self.config.split, max(width, 4), max(height, 4))
        # It stands where the target will be after the first sixth of the sequence.
        when = int(rng.uniform(0.2, 0.95) * n)
        place = center[min(when, n - 1)] + rng.uniform(-0.1, 0.1, 2) * unit
        drift = np.stack([_wander(rng, n, 300, 120), _wander(rng, n, 300, 120)], axis=1)
        drift = (drift - drift[min(when, n - 1)]) * unit * 0.15
        return Actor(
            sprite=sprite,
            center=place[None, :] + drift,
            size=np.full(n, float(max(width, height))),
            turn=np.full(n, rng.uniform(-0.1, 0.1)),
            phase=np.zeros(n, dtype=np.intp),
            distance=np.full(n, nearest * rng.uniform(0.45, 0.6)),
            temperature=np.full(n, float(np.clip(self._ambient + rng.uniform(-0.08, 0.08), 0, 1))),
            ambient=self._ambient,
            veil=self._veil_near * 0.8,
        )

    def _background(self, rng: np.random.Generator, n: int) -> None:
        w, h = self.width, self.height
        cw, ch = int(w * _CANVAS), int(h * _CANVAS)
        canvas = random_patch(rng, self.config.split, (cw, ch), (0.55, 1.0), tint=0.25)
        # A second photograph as the ground, as scenes have one.
        if rng.random() < 0.5:
            ground = random_patch(rng, self.config.split, (cw, ch), (0.3, 0.8), tint=0.25)
            edge = ch * rng.uniform(0.4, 0.75) + ch * 0.05 * np.sin(np.arange(cw) / rng.uniform(20, 60))
            below = np.arange(ch)[:, None] > edge[None, :]
            canvas = np.where(below[:, :, None], ground, canvas)
        calm = rng.uniform(0.55, 1.0)
        canvas = canvas * calm + canvas.mean(axis=(0, 1)) * (1 - calm)
        luminance = cv2.blur(canvas.mean(axis=2).astype(np.float32), (9, 9)) / 255.0
        if self._veil_far:
            canvas = canvas * (1 - self._veil_far) + self._fog_color * self._veil_far
        self._canvas = np.clip(canvas, 0, 255).astype(np.uint8)
        coarse = rng.random((5, 7), dtype=np.float32)
        cloud = cv2.resize(coarse, (cw, ch), interpolation=cv2.INTER_CUBIC)
        self._canvas_x: np.ndarray | None = None
        if self.config.modality == "thermal":
            base = self._ambient - 0.08 + 0.1 * cloud + 0.08 * (luminance - luminance.mean())
            for _ in range(int(rng.integers(0, 3))):
                x, y = int(rng.integers(cw)), int(rng.integers(ch))
                r = rng.integers(4, 14, 2)
                base[max(0, y - r[0]) : y + r[0], max(0, x - r[1]) : x + r[1]] += rng.uniform(0.05, 0.25)
            self._canvas_x = np.ascontiguousarray(base, dtype=np.float32)
        elif self.config.modality == "depth":
            slope = np.linspace(1.0, 0.0, ch, dtype=np.float32)[:, None] * rng.uniform(0, 2500)
            wall = rng.uniform(5400, 6200) + slope + 500 * cloud + 250 * (luminance - luminance.mean())
            if self.x_fails:
                # The target walks along the wall, so that no step in depth gives it away.
                wall = float(self.target.distance.mean()) * 1.04 + 0.1 * (wall - wall.mean())
            self._canvas_x = np.ascontiguousarray(np.broadcast_to(wall, (ch, cw)), dtype=np.float32)
        calm_camera = 0.4 if self.config.modality == "event" else 1.0
        reach = calm_camera * rng.uniform(0.1, 0.3 + 0.5 * self.config.difficulty) if rng.random() < 0.8 else 0.0
        margin = np.array([cw - w, ch - h]) / 2
        pan = np.stack([_wander(rng, n, 240, 80), _wander(rng, n, 240, 80)], axis=1) * reach
        shake = rng.standard_normal((n, 2)) * (0.6 * self.config.difficulty * (reach > 0) * calm_camera)
        self._pan = np.clip(pan, -0.85, 0.85) * margin + shake
        self._roll = 0.05 * reach * _wander(rng, n, 200, 80)
        self._zoom = np.exp(0.1 * reach * _wander(rng, n, 200, 80))

    def silhouette(self, actor: Actor, index: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Return the hard mask (h, w) bool of an actor in its own window, and the window x0, y0, x1, y1 in pixels."""
        matrix, window = actor.placement(index, self.width, self.height)
        x0, y0, x1, y1 = window
        alpha = np.ascontiguousarray(actor.sprite.rgba[actor.phase[index], :, :, 3])
        return _warp(alpha, matrix, x1 - x0, y1 - y0, cv2.BORDER_CONSTANT) >= 128, window

    def target_mask(self, index: int) -> np.ndarray:
        """Return (H, W) bool: the target's silhouette inside the image, as if nothing were before it."""
        mask, (x0, y0, _, _) = self.silhouette(self.target, index)
        out = np.zeros((self.height, self.width), dtype=bool)
        ys, xs = np.nonzero(mask)
        keep = (ys + y0 >= 0) & (ys + y0 < self.height) & (xs + x0 >= 0) & (xs + x0 < self.width)
        out[ys[keep] + y0, xs[keep] + x0] = True
        return out

    def _look(self, i: int) -> tuple[np.ndarray, float]:
        """Return the box of frame ``i`` (4,), and the share of the silhouette that can be seen."""
        box = np.full(4, np.nan)
        mask, (x0, y0, x1, y1) = self.silhouette(self.target, i)
        whole = int(mask.sum())
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if whole == 0 or right <= left or bottom <= top:
            return box, 0.0
        inside = mask[top - y0 : bottom - y0, left - x0 : right - x0]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if len(rows) == 0:
            return box, 0.0
        free = inside.copy()
        for actor in self.actors:
            if actor is self.target or actor.distance[i] >= self.target.distance[i]:
                continue
            _, (ax0, ay0, ax1, ay1) = actor.placement(i, self.width, self.height)
            u0, v0, u1, v1 = max(left, ax0), max(top, ay0), min(right, ax1), min(bottom, ay1)
            if u1 <= u0 or v1 <= v0:
                continue
            hidden, _ = self.silhouette(actor, i)
            cover = hidden[v0 - ay0 : v1 - ay0, u0 - ax0 : u1 - ax0]
            free[v0 - top : v1 - top, u0 - left : u1 - left] &= ~cover
        shown = float(free.sum()) / whole
        w, h = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        if shown >= PRESENT_SHARE and min(w, h) >= 3:
            box[:] = left + columns[0], top + rows[0], w, h
        return box, shown

    def _stands_out(self) -> bool:
        """Return whether RGB tells the target from what lies behind it. At night and in fog it need not.

        The target's pixels with and without it are compared at three frames. X differs by construction.
        """
        if self.condition != "day":
            return True
        others = [actor for actor in self.actors if actor.distance[0] > self.target.distance[0]]
        present = np.flatnonzero(np.isfinite(self.boxes[:, 0]))
        for i in present[[0, len(present) // 2, -1]]:
            with_target = self.compose(int(i), [*others, self.target])[0]
            change = cv2.absdiff(with_target, self.compose(int(i), others)[0])
            if change[self.target_mask(int(i))].mean() < _LEAST_CONTRAST:
                return False
        return True

    def compose(self, index: int, actors: list[Actor] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the scene before any sensor: radiance (H, W, 3) uint8, and temperature or distance (H, W) float32.

        Temperature is in 0..1 and distance in millimeters; it is None where X is neither. With ``actors`` only those
        are drawn.
        """
        w, h = self.width, self.height
        c, s = (
            math.cos(self._roll[index]) / self._zoom[index],
            math.sin(self._roll[index]) / self._zoom[index],
        )
        ch, cw = self._canvas.shape[:2]
        mx = cw / 2 + self._pan[index, 0] - (c * w / 2 - s * h / 2)
        my = ch / 2 + self._pan[index, 1] - (s * w / 2 + c * h / 2)
        matrix = np.array([[c, -s, mx], [s, c, my]])
        rgb = _warp(self._canvas, matrix, w, h, cv2.BORDER_REFLECT_101)
        x = None if self._canvas_x is None else _warp(self._canvas_x, matrix, w, h, cv2.BORDER_REFLECT_101)
        for actor in sorted(self.actors if actors is None else actors, key=lambda a: -float(a.distance[index])):
            self._draw(actor, index, rgb, x)
        return rgb, x

    def _draw(self, actor: Actor, index: int, rgb: np.ndarray, x: np.ndarray | None) -> None:
        matrix, (x0, y0, x1, y1) = actor.placement(index, self.width, self.height)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if right <= left or bottom <= top:
            return
        phase = actor.phase[index]
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ np.array([left - x0, top - y0], dtype=np.float64)
        w, h = right - left, bottom - top
        drawn = _warp(actor.sprite.rgba[phase], shifted, w, h, cv2.BORDER_CONSTANT)
        alpha = drawn[:, :, 3]
        mask = alpha >= 128
        if not mask.any():
            return
        # The edge is soft on the inside of the silhouette only, so that its extent is exactly that of the mask.
        weight = np.where(mask, alpha, 0).astype(np.uint16)[:, :, None]
        color = drawn[:, :, :3]
        if actor.veil:
            ramp = np.arange(256)[:, None] * (1.0 - actor.veil) + self._fog_color * actor.veil
            color = cv2.LUT(color.copy(), ramp.clip(0, 255).astype(np.uint8).reshape(256, 1, 3))
        view = rgb[top:bottom, left:right]
        view[...] = (color * weight + view * (255 - weight) + 127) // 255
        if x is None:
            return
        layer = x[top:bottom, left:right]
        if self.config.modality == "depth":
            relief = _warp(actor.sprite.relief, shifted, w, h, cv2.BORDER_REPLICATE)
            values = actor.distance[index] - 120.0 * relief
        else:
            warmth = _warp(actor.sprite.warmth[phase], shifted, w, h, cv2.BORDER_REPLICATE)
            values = actor.ambient + (actor.temperature[index] - actor.ambient) * warmth
        np.copyto(layer, values.astype(np.float32), where=mask)

    def capture(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Frame ``index`` as the sensors see it; see :meth:`SyntheticSequence.raw`."""
        rng = np.random.default_rng([*self._key, 1000003, index])
        radiance, x = self.compose(index)
        rgb = visible_camera(radiance, float(self._light[index]), self._tint, self._grain, rng)
        modality = self.config.modality
        if modality == "thermal":
            assert x is not None
            blur, sigma = self._thermal
            offset, gain = self._drift
            return rgb, thermal_camera(x, float(offset[index]), float(gain[index]), blur, sigma, rng)
        if modality == "depth":
            assert x is not None
            noise, holes = self._depth_noise
            return rgb, depth_camera(x, noise, holes, rng)
        if modality == "event":
            # The first frame has no interval before it; the interval after it stands in, run backwards.
            other = index - 1 if index else 1
            known = self._previous
            before = known[1] if known is not None and known[0] == other else self.compose(other)[0]
            self._previous = (index, radiance)
            threshold, spurious = self._events
            return rgb, event_camera(before, radiance, threshold, spurious, rng)
        return rgb, None
