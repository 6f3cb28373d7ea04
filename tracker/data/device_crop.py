"""Making the crops of a whole batch in a few tensor operations, on the device that the windows are on.

A loader process then only decodes and cuts out what a crop needs. Resizing, mirroring and light are done where the
network is. Convention and rounding are those of :mod:`tracker.data.crop` and :mod:`tracker.data.augment`, which do the
same image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracker.data.crop import CropTransform, cut_window

GRAY = (9798 / 2**15, 19235 / 2**15, 3735 / 2**15)
"""Share of red, green and blue in gray (ITU-R BT.601), to the 15 bits that OpenCV gives 8-bit images."""


class Window(NamedTuple):
    """A crop that is still to be made: what it needs of its frame, and what is done to it.

    Attributes:
        pixels: (H, W, 3) or (H, W, 6) uint8.
        region: square of the crop, in pixels of the window; what lies outside is zero.
        grayscale, flip, gain: :func:`tracker.data.augment.augment_crop`.
    """

    pixels: np.ndarray
    region: CropTransform
    grayscale: bool
    flip: bool
    gain: float


def window_of(
    frame: np.ndarray, region: CropTransform, grayscale: bool = False, flip: bool = False, gain: float = 1.0
) -> Window:
    """Cut out the window of ``frame`` (H, W, C) that a crop of ``region`` needs. It may be a view."""
    pixels, inside = cut_window(frame, region)
    if pixels.size == 0:  # something to read, at weight zero
        pixels = np.zeros((1, 1, frame.shape[2]), dtype=np.uint8)
    return Window(pixels, inside, grayscale, flip, gain)


@dataclass
class WindowBatch:
    """Windows of B crops of one size, packed so that one copy takes them to the device however their sizes differ.

    Attributes:
        pixels: (P, C) uint8, the windows one after the other, row by row; C 3 or 6.
        spans: (B, 3) int64: where a window starts in ``pixels``, its height and width.
        regions: (B, 3) float64: x, y and side of the crop's square in its window.
        changes: (B, 3) float32: grayscale (0 or 1), flip (0 or 1), gain.
        size: side of the crops, pixels.
    """

    pixels: Tensor
    spans: Tensor
    regions: Tensor
    changes: Tensor
    size: int

    @classmethod
    def pack(cls, windows: Sequence[Window]) -> WindowBatch:
        """Put windows together. Where some have X and others not, the others get an X of zeros."""
        channels = max(window.pixels.shape[2] for window in windows)
        counts = [window.pixels.shape[0] * window.pixels.shape[1] for window in windows]
        pixels = np.zeros((sum(counts), channels), dtype=np.uint8)
        starts = np.cumsum([0, *counts[:-1]])
        for window, start, count in zip(windows, starts, counts, strict=True):
            height, width, own = window.pixels.shape
            pixels[start : start + count, :own].reshape(height, width, own)[:] = window.pixels
        spans = [(start, *window.pixels.shape[:2]) for start, window in zip(starts, windows, strict=True)]
        regions = [(window.region.x, window.region.y, window.region.side) for window in windows]
        changes = [(window.grayscale, window.flip, window.gain) for window in windows]
        return cls(
            torch.from_numpy(pixels),
            torch.tensor(spans, dtype=torch.int64),
            torch.tensor(regions, dtype=torch.float64),
            torch.tensor(changes, dtype=torch.float32),
            windows[0].region.out_size,
        )

    def __len__(self) -> int:
        return len(self.spans)

    def pin_memory(self) -> WindowBatch:
        """Copy to page-locked memory, from where a copy to a GPU need not be waited for. Torch's loader calls this."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device, non_blocking: bool = False) -> WindowBatch:
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def crops(self) -> Tensor:
        """Make the crops, (B, 6, size, size) uint8, on the device of the windows. A missing X is zero.

        They are sampled bilinearly at the centers of the output pixels. Gray, mirror and gain follow. Each is rounded
        to whole levels as OpenCV rounds. (OpenCV before 5 rounds the places of its taps to 1/32 pixel; this does not.)
        """
        device = self.pixels.device
        grayscale, flip, gain = self.changes.unbind(1)
        out = sample_windows(self.pixels, self.spans, self.regions, self.size, flip > 0)
        weights = torch.tensor(GRAY, device=device)
        gray = (out[..., :3] * weights).sum(dim=-1, keepdim=True).round()
        out[..., :3] = torch.where(grayscale[:, None, None, None] > 0, gray, out[..., :3])
        out = (out * gain[:, None, None, None]).round_().clamp_(0, 255).to(torch.uint8)
        planes = torch.zeros(len(self), 6, self.size, self.size, dtype=torch.uint8, device=device)
        planes[:, : out.shape[3]] = out.permute(0, 3, 1, 2)
        return planes

    def _moved(self, move: Callable[[Tensor], Tensor]) -> WindowBatch:
        return WindowBatch(move(self.pixels), move(self.spans), move(self.regions), move(self.changes), self.size)


def sample_windows(pixels: Tensor, spans: Tensor, regions: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Make bilinear crops by gathering, (B, size, size, C) float32, with whole levels as in :mod:`tracker.data.crop`.

    Args:
        pixels: as in :class:`WindowBatch`, of any integer or floating dtype. Outside of a window it counts as zero.
        spans: as in :class:`WindowBatch`.
        regions: likewise.
        size: side of the crops.
        flip: (B,) bool, which ones are mirrored; None mirrors none.
    """
    start, height, width = (column[:, None] for column in spans.unbind(1))
    x, y, side = (column[:, None] for column in regions.unbind(1))
    center = (torch.arange(size, device=pixels.device, dtype=torch.float64) + 0.5) / size
    across = center if flip is None else torch.where(flip[:, None], 1 - center, center)
    out = torch.zeros(len(spans), size, size, pixels.shape[1], device=pixels.device)
    columns = _taps(x + across * side - 0.5, width)
    for row, down in _taps(y + center * side - 0.5, height):
        first = start + row * width
        for column, right in columns:
            index = (first[:, :, None] + column[:, None, :]).flatten().long()
            out += pixels.index_select(0, index).view(out.shape) * (down[:, :, None] * right[:, None, :])[..., None]
    return out.round_()


def _taps(position: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return both neighbors of ``position`` (B, size) on an axis of ``length`` (B, 1) pixels: index and float32 weight.

    A neighbor beyond the end weighs nothing.
    """
    before = position.floor()
    share = position - before
    taps = []
    for index, weight in ((before, 1 - share), (before + 1, share)):
        inside = (index >= 0) & (index < length)
        taps.append((index.clamp(min=0).minimum(length - 1).long(), (weight * inside).float()))
    return taps
