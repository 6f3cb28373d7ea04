"""The tracker at work: template once, then a search region around the last box in every frame.

It works as OSTrack and SRTrack do, with their mistakes corrected:

- one crop convention: boxes are mapped back by the same :class:`tracker.data.crop.CropTransform` that
  training maps them with (the published code maps them back half a crop pixel off);
- no minimum size of 10 pixels. Boxes are cut at the image's border and keep at least one pixel a side, so
  small targets can be tracked;
- a prediction that is not finite, has no area, or comes with no score above 0, leaves the last box where it
  was and scores 0.

Two things that they do not do can be switched on: a wider search while the target is lost, and a template that is
updated. A frame of which RGB or X is missing is tracked with a stand-in (:mod:`tracker.inference.missing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tracker.data.crop import crop_region, crop_transform
from tracker.data.rendering import XStyle, x_style
from tracker.errors import RGBXError
from tracker.inference.confidence import LostSignal
from tracker.inference.engine import (
    Engine,
    as_engine,
    evaluation_mode,
    hann_window,
    network_device,
    network_sizes,
    planes,
)
from tracker.inference.missing import POLICIES, Frame, Halves, check_frame

__all__ = [
    "InferenceSettings",
    "OnlineTracker",
    "Result",
    "TargetState",
    "UnusableStart",
    "advance",
    "clip_box",
    "evaluation_mode",
    "hann_window",
    "network_device",
    "network_sizes",
    "start_target",
]

SMALLEST_SIDE = 1.0
"""Pixels that a box keeps along each axis, so that the next search region exists."""
WIDEST_SEARCH = 2.0
"""How much wider than usual a search region may become: a network knows targets of about one size in the crop."""


class UnusableStart(RGBXError):
    """A box, or a frame, in which no target can be taken."""


@dataclass(frozen=True)
class InferenceSettings:
    """How a network is run; the factors have to be those that it was trained with.

    Attributes:
        template_factor: side of the template region over sqrt(w*h) of the first box.
        search_factor: side of the search region over sqrt(w*h) of the last box (4; DropTrack's 384 models:
            5).
        window: weigh the score map with a Hann window before the best cell is chosen.
        missing: what stands in for a half that is missing, one of :data:`tracker.inference.missing.POLICIES`.
        lost_below, found_above, patience: :class:`tracker.inference.confidence.LostSignal`, on the score. By
            itself the signal changes no box.
        search_growth: the search region's side grows by this with every frame that the target is lost, up to
            :data:`WIDEST_SEARCH` times; 1: not at all.
        template_update: frames between two updates of the template; 0: the first one for ever.
        template_confidence: an update waits for a score of at least this.
        template_share: share of the new crop in the template, the rest is the first one's; 1 replaces it. While
            the target is lost, the first template alone is used.
        depth_style, depth_clip, event_style, thermal_style, thermal_range: how X that is not a picture became one in
            training, and does here: :class:`tracker.data.rendering.XStyle`.
    """

    template_factor: float = 2.0
    search_factor: float = 4.0
    window: bool = True
    missing: str = "mirror"
    lost_below: float = 0.2
    found_above: float = 0.3
    patience: int = 3
    search_growth: float = 1.0
    template_update: int = 0
    template_confidence: float = 0.7
    template_share: float = 0.5
    depth_style: str = "jet"
    depth_clip: bool = True
    event_style: str = "color"
    thermal_style: str = "percentile"
    thermal_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("template_factor", "search_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RGBXError(f"{name} is {value}; it must be a positive number")
        if self.missing not in POLICIES:
            raise RGBXError(f"missing is {self.missing!r}; choose one of {', '.join(POLICIES)}")
        for name in ("lost_below", "found_above", "template_confidence", "template_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise RGBXError(f"{name} is {value}; it must lie between 0 and 1")
        if self.found_above < self.lost_below:
            raise RGBXError(
                f"found_above is {self.found_above}, which is less than lost_below, {self.lost_below}; "
                "a target would be lost and found at once"
            )
        if self.patience < 1 or self.template_update < 0:
            raise RGBXError(
                f"patience is {self.patience} and template_update {self.template_update}; expected at least 1 and 0"
            )
        if not 1 <= self.search_growth <= WIDEST_SEARCH:
            raise RGBXError(f"search_growth is {self.search_growth}; it must lie between 1 and {WIDEST_SEARCH:g}")
        style = x_style(self)  # refuses what it does not know, and knows old spellings
        object.__setattr__(self, "depth_style", style.depth)
        object.__setattr__(self, "event_style", style.event)
        object.__setattr__(self, "thermal_range", style.thermal_range)

    @property
    def rendering(self) -> XStyle:
        """The style of X, as ``open_sequence`` and ``open_dataset`` take it."""
        return x_style(self)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> InferenceSettings:
        """Return the settings stored beside a network's weights (``meta["inference"]``), else the defaults."""
        stored = meta.get("inference")
        if not isinstance(stored, Mapping):
            return cls()
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in stored.items() if k in known})


class Result(NamedTuple):
    """What the tracker says about one frame.

    Attributes:
        box: (4,) float64 ``x, y, w, h`` in pixels of the frame, inside the image.
        score: the largest value of the windowed score map, in [0, 1]: the tracker's confidence.
        peak: the largest value of the score map itself. Much above ``score``: something else, away from the
            center, looks like the target.
        lost: the tracker takes the target for lost; the box is where it was seen last, or a guess.
    """

    box: np.ndarray
    score: float
    peak: float
    lost: bool = False


@dataclass
class TargetState:
    """What is carried from frame to frame for one target.

    Attributes:
        template: (C, Hz, Wz) uint8, what the network is shown.
        box: (4,) float64 ``x, y, w, h``, always finite and at least one pixel a side.
        first_template: the first frame's, where updates go back to.
        signal: whether the target is lost.
        halves: the last images of RGB and X.
        lacking: channels of the first template that were missing in its frame and are still to be had.
        age: frames since the template was made.
    """

    template: torch.Tensor
    box: np.ndarray
    first_template: torch.Tensor
    signal: LostSignal
    halves: Halves
    lacking: slice | None = None
    age: int = field(default=0)


def clip_box(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the part of a finite box ``x, y, w, h`` inside the image, moved in to keep a pixel a side."""
    smallest = min(SMALLEST_SIDE, width, height)
    left = float(np.clip(box[0], 0.0, width - smallest))
    top = float(np.clip(box[1], 0.0, height - smallest))
    right = float(np.clip(box[0] + box[2], left + smallest, width))
    bottom = float(np.clip(box[1] + box[3], top + smallest, height))
    return np.array([left, top, right - left, bottom - top])


def check_box(box: object, width: int, height: int) -> np.ndarray:
    """Return the first box as (4,) float64.

    Raises:
        UnusableStart: not four finite numbers, no area, or no pixel inside the image.
    """
    try:
        values = np.array(box, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise UnusableStart(f"the first box is {box!r}; expected four finite numbers x, y, w, h in pixels")
    x, y, w, h = values
    text = f"the first box x={x:g} y={y:g} w={w:g} h={h:g}"
    if w <= 0 or h <= 0:
        raise UnusableStart(f"{text} has no area; expected a positive width and height")
    if min(x + w, width) - max(x, 0.0) <= 0 or min(y + h, height) - max(y, 0.0) <= 0:
        raise UnusableStart(f"{text} lies outside the {width}x{height} image; give one that covers the target")
    return values


def start_target(
    frame: np.ndarray | Frame, box: object, template_size: int, settings: InferenceSettings
) -> TargetState:
    """Take a target: cut its template.

    Raises:
        UnusableStart: a box that cannot be used, or a frame without RGB and X.
        RGBXError: a malformed frame.
    """
    check_frame(frame)
    halves = Halves(settings.missing)
    whole = halves.complete(frame)
    if whole is None:
        raise UnusableStart("the first frame has neither RGB nor X; start where there is an image")
    first = check_box(box, whole.shape[1], whole.shape[0])
    crop, _ = crop_region(whole, first, settings.template_factor, template_size)
    template = planes(crop)
    signal = LostSignal(settings.lost_below, settings.found_above, settings.patience)
    return TargetState(template, first, template, signal, halves, _missing_channels(frame))


def _missing_channels(frame: np.ndarray | Frame) -> slice | None:
    if not isinstance(frame, Frame):
        return None
    if frame.rgb is None:
        return slice(0, 3)
    return slice(3, 6) if frame.x is None else None


def advance(
    network: nn.Module | Engine,
    targets: ListLike[TargetState],
    frames: ListLike[np.ndarray | Frame],
    settings: InferenceSettings,
) -> list[Result]:
    """Track several targets by one frame, each in its own video, as one batch.

    Args:
        network: an engine, or a network in evaluation mode.
        targets: what is tracked. They are updated.
        frames: the next frame of each, (H, W, C) uint8, or its halves. If both are missing, the box stays and the score
            is 0.
        settings: how the network is run.

    Returns:
        One result a target. It does not depend on the other targets but for rounding in the network.

    Raises:
        RGBXError: a frame that cannot be used; no target is changed then.
    """
    for frame in frames:
        check_frame(frame)
    engine = as_engine(network, settings.window)
    wholes = [target.halves.complete(frame) for target, frame in zip(targets, frames, strict=True)]
    seen = [index for index, whole in enumerate(wholes) if whole is not None]
    images = [whole for whole in wholes if whole is not None]
    results = [Result(target.box.copy(), 0.0, 0.0) for target in targets]
    if seen:
        regions = [
            crop_transform(targets[i].box, search_factor(targets[i], settings), engine.search_size) for i in seen
        ]
        found = engine.locate(torch.stack([targets[i].template for i in seen]), images, regions)
        for i, image, region, answer in zip(seen, images, regions, found, strict=True):
            score, peak = float(answer[4]), float(answer[5])
            box = region.to_image(answer[:4])
            usable = score > 0 and bool(np.isfinite(box).all()) and box[2] > 0 and box[3] > 0
            if usable:
                targets[i].box = clip_box(box, image.shape[1], image.shape[0])
            results[i] = Result(targets[i].box.copy(), score if usable else 0.0, peak)
    for i, (target, result) in enumerate(zip(targets, results, strict=True)):
        results[i] = result._replace(lost=target.signal.update(result.score))
        whole = wholes[i]
        if whole is not None:
            _renew_template(target, frames[i], whole, result.score, settings)
    return results


def search_factor(target: TargetState, settings: InferenceSettings) -> float:
    """Return the factor of the next search region, which may grow the longer the target has been lost."""
    frames_lost = min(target.signal.frames_lost, 64)
    return settings.search_factor * min(settings.search_growth**frames_lost, WIDEST_SEARCH)


def _renew_template(
    target: TargetState, frame: np.ndarray | Frame, whole: np.ndarray, score: float, settings: InferenceSettings
) -> None:
    target.age += 1
    whole_frame = _missing_channels(frame) is None
    confident = whole_frame and not target.signal.lost and score >= settings.template_confidence
    completes = confident and target.lacking is not None
    due = confident and 0 < settings.template_update <= target.age
    if completes or due:
        size = target.template.shape[-1]
        crop = planes(crop_region(whole, target.box, settings.template_factor, size)[0])
        if target.lacking is not None:
            # The first frame lacked RGB or X, and a stand-in is worse than a later image of the target.
            target.first_template = target.first_template.clone()
            target.first_template[target.lacking] = crop[target.lacking]
            target.lacking = None
            target.template = target.first_template
        if due:
            share = settings.template_share
            mixed = (1 - share) * target.first_template.float() + share * crop.float()
            target.template, target.age = mixed.round().to(torch.uint8), 0
    elif target.signal.lost and target.template is not target.first_template:
        target.template, target.age = target.first_template, 0


class OnlineTracker:
    """Follow one target through frames as they come.

    Args:
        network: any module with ``config.template_size`` and ``config.search_size`` that answers a
            :class:`tracker.models.tracker.TrackerOutput`, put in evaluation mode for each call only; or an engine
            (:func:`tracker.inference.fast.make_engine`, :class:`tracker.inference.onnx_engine.OnnxEngine`).
        settings: see :class:`InferenceSettings`.

    For example:

        tracker = OnlineTracker(network)
        tracker.initialize(frames[0], box)
        for frame in frames[1:]:
            result = tracker.track(frame)
            print(result.box, result.score, result.lost)
        tracker.track(rgb=image)  # X has not arrived
    """

    def __init__(self, network: nn.Module | Engine, settings: InferenceSettings | None = None) -> None:
        self.network = network
        self.settings = settings or InferenceSettings()
        self._template_size = network_sizes(network)[0]
        self._engine = as_engine(network, self.settings.window)
        self._target: TargetState | None = None

    def initialize(self, frame: np.ndarray | Frame, box: object) -> None:
        """Take the target: ``box`` is ``x, y, w, h`` in pixels of ``frame``, (H, W, 6) uint8 or its halves.

        Raises:
            RGBXError: a malformed frame, or a box that is malformed or outside the image. A target taken
                before is kept then.
        """
        self._target = start_target(frame, box, self._template_size, self.settings)

    def track(
        self,
        frame: np.ndarray | Frame | None = None,
        *,
        rgb: np.ndarray | None = None,
        x: np.ndarray | None = None,
    ) -> Result:
        """Find the target in the next frame: (H, W, 6) uint8, or the halves that there are, (H, W, 3) uint8.

        Raises:
            RGBXError: not initialized, a malformed frame, or a frame and halves of it at once.
        """
        if frame is not None and (rgb is not None or x is not None):
            raise RGBXError("track takes a frame, or rgb and x; it was given both")
        with evaluation_mode(self.network):
            return advance(self._engine, [self._taken()], [Frame(rgb, x) if frame is None else frame], self.settings)[0]

    def late(self, *, rgb: np.ndarray | None = None, x: np.ndarray | None = None) -> None:
        """Take in a half that came after its frame had been tracked: with ``missing="hold"`` it stands in from now on.

        Raises:
            RGBXError: not initialized, or a malformed image.
        """
        frame = Frame(rgb, x)
        check_frame(frame)
        self._taken().halves.remember(frame)

    def _taken(self) -> TargetState:
        if self._target is None:
            raise RGBXError("the tracker has no target yet; call initialize(frame, box) first")
        return self._target
