"""Training pairs as a torch data set. Sample (epoch, index) is a pure function of (seed, epoch, index)."""

from __future__ import annotations

import collections.abc
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from tracker.data.augment import PairAugmentation, augment_crop, draw_augmentation, flip_box
from tracker.data.crop import CropTransform, crop_transform, jitter_box, sample_region
from tracker.data.device_crop import Window, WindowBatch, window_of
from tracker.data.sampling import CausalPairSampler
from tracker.data.sequence import Sequence
from tracker.errors import RGBXError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn, cropped and augmented. Defaults are OSTrack's at the tiny sizes.

    Attributes:
        template_size, search_size: sides of the crops, pixels.
        template_factor, search_factor: sides of the regions over sqrt(w*h) of the box.
        center_jitter, scale_jitter: of the search region; :func:`tracker.data.crop.jitter_box`.
        max_gap, gap_growth, min_frames, min_present: :class:`tracker.data.sampling.CausalPairSampler`.
        grayscale, flip, flip_each, brightness: :func:`tracker.data.augment.draw_augmentation`.
        augment: False turns gray, mirror and gain off (validation); jitter remains.
        broken: "raise", or "report": log and count a pair that cannot be read, then draw the next one.
        max_broken: with "report", so many broken draws for one sample raise after all.
        crops: "host": a sample holds finished crops; "device": the windows that
            :meth:`tracker.data.device_crop.WindowBatch.crops` makes the same crops of, in batches.
    """

    template_size: int = 64
    search_size: int = 128
    template_factor: float = 2.0
    search_factor: float = 4.0
    center_jitter: float = 3.0
    scale_jitter: float = 0.25
    max_gap: int = 200
    gap_growth: int = 5
    min_frames: int = 20
    min_present: int = 5
    grayscale: float = 0.05
    flip: float = 0.5
    flip_each: float = 0.5
    brightness: float = 0.2
    augment: bool = True
    broken: str = "raise"
    max_broken: int = 20
    crops: str = "host"

    def __post_init__(self) -> None:
        for name in (
            "template_size",
            "search_size",
            "max_gap",
            "gap_growth",
            "min_frames",
            "min_present",
            "max_broken",
        ):
            if getattr(self, name) < 1:
                raise RGBXError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("template_factor", "search_factor"):
            if not getattr(self, name) > 0:
                raise RGBXError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("center_jitter", "scale_jitter"):
            if not getattr(self, name) >= 0:
                raise RGBXError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("grayscale", "flip", "flip_each", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise RGBXError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if self.broken not in ("raise", "report"):
            raise RGBXError(f"broken is {self.broken!r}; expected 'raise' or 'report'")
        if self.crops not in ("host", "device"):
            raise RGBXError(f"crops is {self.crops!r}; expected 'host' or 'device'")


NO_AUGMENTATION = PairAugmentation(False, False, False, 1.0, 1.0)


def _six_planes(frame: np.ndarray, region: CropTransform, grayscale: bool, flip: bool, gain: float) -> torch.Tensor:
    """Make the finished crop of a frame (H, W, 6) or (H, W, 3) as (6, S, S) uint8. A missing X is zero."""
    crop = augment_crop(sample_region(frame, region), grayscale, flip, gain)
    out = np.zeros((6, *crop.shape[:2]), dtype=np.uint8)
    out[: crop.shape[2]] = crop.transpose(2, 0, 1)
    return torch.from_numpy(out)


class PairDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Random causal pairs from a list of sequences.

    ``dataset[i]`` is a dict: ``template`` uint8 (6, Hz, Wz), ``search`` uint8 (6, Hs, Ws) (with ``crops`` "device"
    the :class:`~tracker.data.device_crop.Window` of each; :func:`collate_pairs` makes batches of both), ``box`` float32
    (4,) as ``cx, cy, w, h`` in units of the search crop (a target that reaches out of the crop has a box that
    does too), ``sequence`` int64 0-d index of the sequence. It depends on (seed, epoch, i) alone, in any
    process and any order.

    Args:
        sequences: any :class:`tracker.data.sequence.Sequence`.
        settings: sizes, jitter, augmentation.
        samples_per_epoch: length of the data set.
        seed: any non-negative integer.
        weights: per sequence; see :func:`tracker.data.sampling.mixture_weights`.

    Attributes:
        broken: reasons of the pairs that could not be read, with ``settings.broken == "report"`` (per worker
            process).

    Raises:
        RGBXError: nothing to draw from; on access, a frame that cannot be read.
    """

    def __init__(
        self,
        sequences: collections.abc.Sequence[Sequence],
        settings: PairSettings | None = None,
        samples_per_epoch: int = 1000,
        seed: int = 0,
        weights: collections.abc.Sequence[float] | None = None,
    ) -> None:
        if samples_per_epoch < 1 or seed < 0:
            raise RGBXError(
                f"samples_per_epoch is {samples_per_epoch}, seed {seed}; expected at least 1, and at least 0"
            )
        self.settings = settings or PairSettings()
        self.sequences = sequences
        self.samples_per_epoch = samples_per_epoch
        self.seed = seed
        self.sampler = CausalPairSampler(
            sequences,
            max_gap=self.settings.max_gap,
            gap_growth=self.settings.gap_growth,
            min_frames=self.settings.min_frames,
            min_present=self.settings.min_present,
            weights=weights,
        )
        self.broken: list[str] = []
        # In shared memory, so that persistent loader workers see a new epoch.
        self._epoch: torch.Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the following samples belong to."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.samples_per_epoch:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        for attempt in range(self.settings.max_broken):
            try:
                return self._sample(rng)
            except RGBXError as error:
                if self.settings.broken == "raise":
                    raise
                self.broken.append(str(error))
                log.warning("sample %d of epoch %d, draw %d: %s", index, self.epoch, attempt, error)
        raise RGBXError(
            f"sample {index} of epoch {self.epoch}: {self.settings.max_broken} pairs in a row could not be "
            "read, the last "
            f"because: {self.broken[-1]}"
        )

    def _sample(self, rng: np.random.Generator) -> dict[str, Any]:
        s = self.settings
        pair = self.sampler.draw(rng)
        sequence = self.sequences[pair.sequence]
        template_box, search_box = sequence.boxes[pair.template], sequence.boxes[pair.search]
        jittered = jitter_box(search_box, s.center_jitter, s.scale_jitter, rng)
        drawn = NO_AUGMENTATION
        if s.augment:
            drawn = draw_augmentation(rng, s.grayscale, s.flip, s.flip_each, s.brightness)
        template_region = crop_transform(template_box, s.template_factor, s.template_size)
        search_region = crop_transform(jittered, s.search_factor, s.search_size)
        box = search_region.to_crop(search_box)
        if drawn.search_flip:
            box = flip_box(box)
        make = _six_planes if s.crops == "host" else window_of
        return {
            "template": make(
                sequence.planes(pair.template),
                template_region,
                drawn.grayscale,
                drawn.template_flip,
                drawn.template_gain,
            ),
            "search": make(
                sequence.planes(pair.search), search_region, drawn.grayscale, drawn.search_flip, drawn.search_gain
            ),
            "box": torch.from_numpy(box.astype(np.float32)),
            "sequence": torch.tensor(pair.sequence, dtype=torch.int64),
        }


def collate_pairs(samples: collections.abc.Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples: tensors are stacked, windows packed into a :class:`.WindowBatch`."""
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        batch[key] = WindowBatch.pack(values) if isinstance(first, Window) else default_collate(values)
    return batch
