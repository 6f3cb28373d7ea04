"""The tracker at work: template once, then a search region around the last box in every frame.

As OSTrack and SRTrack do it, with their mistakes corrected:

- one crop convention: boxes are mapped back by the same :class:`tracker.data.crop.CropTransform` that
  training maps them with (the published code maps them back half a crop pixel off);
- no minimum size of 10 pixels. Boxes are cut at the image's border and keep at least one pixel a side, so
  small targets can be tracked;
- a prediction that is not finite, has no area, or comes with no score above 0, leaves the last box where it
  was and scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as ListLike
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tracker.data.crop import crop_region
from tracker.data.normalise import normalise
from tracker.errors import RGBXError
from tracker.models.center_head import decode_boxes

SMALLEST_SIDE = 1.0
"""Pixels that a box keeps along each axis, so that the next search region exists."""


@dataclass(frozen=True)
class InferenceSettings:
    """How a network is run; the factors have to be those that it was trained with.

    Attributes:
        template_factor: side of the template region over sqrt(w*h) of the first box.
        search_factor: side of the search region over sqrt(w*h) of the last box (4; DropTrack's 384 models:
            5).
        window: weigh the score map with a Hann window before the best cell is chosen.
    """

    template_factor: float = 2.0
    search_factor: float = 4.0
    window: bool = True

    def __post_init__(self) -> None:
        for name in ("template_factor", "search_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RGBXError(f"{name} is {value}; it must be a positive number")

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> InferenceSettings:
        """The settings stored beside a network's weights (``meta["inference"]``), else the defaults."""
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
            centre, looks like the target.
    """

    box: np.ndarray
    score: float
    peak: float


@dataclass
class TargetState:
    """What is carried from frame to frame for one target.

    Attributes:
        template: (C, Hz, Wz) uint8.
        box: (4,) float64 ``x, y, w, h``, always finite and at least one pixel a side.
    """

    template: torch.Tensor
    box: np.ndarray


def hann_window(cells: int) -> torch.Tensor:
    """(1, 1, S, S) float32, the outer product of 0.5 * (1 - cos(2 pi k / (S + 1))), k = 1..S.

    The zeros at k = 0 and S + 1 lie outside, so that no cell is ruled out. (OSTrack convention.)
    """
    k = torch.arange(1, cells + 1, dtype=torch.float64)
    line = 0.5 * (1.0 - torch.cos(2.0 * math.pi * k / (cells + 1)))
    return torch.outer(line, line)[None, None].float()


def clip_box(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of a finite box ``x, y, w, h`` inside the image, moved in to keep a pixel a side."""
    smallest = min(SMALLEST_SIDE, width, height)
    left = float(np.clip(box[0], 0.0, width - smallest))
    top = float(np.clip(box[1], 0.0, height - smallest))
    right = float(np.clip(box[0] + box[2], left + smallest, width))
    bottom = float(np.clip(box[1] + box[3], top + smallest, height))
    return np.array([left, top, right - left, bottom - top])


def check_frame(frame: np.ndarray) -> None:
    """Raises RGBXError unless the frame is (H, W, 6) or (H, W, 3) uint8."""
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] not in (3, 6):
        shape = getattr(frame, "shape", type(frame).__name__)
        raise RGBXError(f"a frame has shape {shape}; expected (H, W, 6), RGB first and X last")
    if frame.dtype != np.uint8 or 0 in frame.shape:
        raise RGBXError(f"a frame is {frame.shape} {frame.dtype}; expected a non-empty image of uint8 pixels")


def check_box(box: object, width: int, height: int) -> np.ndarray:
    """The first box as (4,) float64.

    Raises:
        RGBXError: not four finite numbers, no area, or no pixel inside the image.
    """
    try:
        values = np.array(box, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise RGBXError(f"the first box is {box!r}; expected four finite numbers x, y, w, h in pixels")
    x, y, w, h = values
    text = f"the first box x={x:g} y={y:g} w={w:g} h={h:g}"
    if w <= 0 or h <= 0:
        raise RGBXError(f"{text} has no area; expected a positive width and height")
    if min(x + w, width) - max(x, 0.0) <= 0 or min(y + h, height) - max(y, 0.0) <= 0:
        raise RGBXError(f"{text} lies outside the {width}x{height} image; give one that covers the target")
    return values


def start_target(frame: np.ndarray, box: object, template_size: int, settings: InferenceSettings) -> TargetState:
    """Cut the template.

    Raises:
        RGBXError: a frame or box that cannot be used.
    """
    check_frame(frame)
    first = check_box(box, frame.shape[1], frame.shape[0])
    crop, _ = crop_region(frame, first, settings.template_factor, template_size)
    return TargetState(_planes(crop), first)


def _planes(crop: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def network_device(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network's parameters live and their floating dtype; the CPU and float32 if it has none."""
    for parameter in network.parameters():
        return parameter.device, parameter.dtype if parameter.is_floating_point() else torch.float32
    return torch.device("cpu"), torch.float32


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """``network.eval()``, with every module's own training flag put back afterwards."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def network_sizes(network: nn.Module) -> tuple[int, int]:
    """Sides of the template and search crops in pixels, from ``network.config``.

    Raises:
        RGBXError: the network does not carry its configuration.
    """
    config: Any = getattr(network, "config", None)
    try:
        return int(config.template_size), int(config.search_size)
    except AttributeError:
        raise RGBXError(
            f"{type(network).__name__} has no config with template_size and search_size; make it with "
            "tracker.models.build_network or load_network"
        ) from None


@torch.inference_mode()
def advance(
    network: nn.Module,
    targets: ListLike[TargetState],
    frames: ListLike[np.ndarray],
    settings: InferenceSettings,
) -> list[Result]:
    """One frame further for several targets at once, each in its own video, as one batch.

    Args:
        network: in evaluation mode.
        targets: what is tracked; their boxes are updated.
        frames: the next frame of each, (H, W, C) uint8.

    Returns:
        One result a target. It does not depend on the other targets but for rounding in the network.

    Raises:
        RGBXError: a frame that cannot be used; no target is changed then.
    """
    for frame in frames:
        check_frame(frame)
    search_size = network_sizes(network)[1]
    device, dtype = network_device(network)
    crops, transforms = [], []
    for target, frame in zip(targets, frames, strict=True):
        crop, transform = crop_region(frame, target.box, settings.search_factor, search_size)
        crops.append(_planes(crop))
        transforms.append(transform)
    template = normalise(torch.stack([t.template for t in targets]).to(device)).to(dtype)
    output = network(template, normalise(torch.stack(crops).to(device)).to(dtype))
    score = torch.nan_to_num(output.score_map.float(), nan=0.0, posinf=0.0, neginf=0.0)
    windowed = score * hann_window(score.shape[-1]).to(device) if settings.window else score
    best = decode_boxes(windowed, output.size_map.float(), output.offset_map.float())
    boxes = best.double().cpu().numpy()
    confidence = windowed.flatten(1).amax(dim=1).tolist()
    peaks = score.flatten(1).amax(dim=1).tolist()
    results = []
    for i, (target, frame) in enumerate(zip(targets, frames, strict=True)):
        box = transforms[i].to_image(boxes[i])
        usable = confidence[i] > 0 and bool(np.isfinite(box).all()) and box[2] > 0 and box[3] > 0
        if usable:
            target.box = clip_box(box, frame.shape[1], frame.shape[0])
        results.append(Result(target.box.copy(), confidence[i] if usable else 0.0, peaks[i]))
    return results


class OnlineTracker:
    """Follow one target through frames as they come.

    Args:
        network: any module with ``config.template_size`` and ``config.search_size`` that answers a
            :class:`tracker.models.stream.TrackerOutput`; put in evaluation mode for each call only.
        settings: see :class:`InferenceSettings`.

    Example::

        tracker = OnlineTracker(network)
        tracker.initialise(frames[0], box)
        for frame in frames[1:]:
            box, score, peak = tracker.track(frame)
    """

    def __init__(self, network: nn.Module, settings: InferenceSettings | None = None) -> None:
        self.network = network
        self.settings = settings or InferenceSettings()
        self._template_size = network_sizes(network)[0]
        self._target: TargetState | None = None

    def initialise(self, frame: np.ndarray, box: object) -> None:
        """Take the target: ``box`` is ``x, y, w, h`` in pixels of ``frame``, (H, W, 6) uint8.

        Raises:
            RGBXError: a malformed frame, or a box that is malformed or outside the image. A target taken
                before is kept then.
        """
        self._target = start_target(frame, box, self._template_size, self.settings)

    def track(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame, (H, W, 6) uint8.

        Raises:
            RGBXError: not initialised, or a malformed frame.
        """
        if self._target is None:
            raise RGBXError("the tracker has no target yet; call initialise(frame, box) first")
        with evaluation_mode(self.network):
            return advance(self.network, [self._target], [frame], self.settings)[0]
