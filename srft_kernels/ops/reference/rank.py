"""Estimates the rank of T within its tensor from a histogram over its bits: ``csrc/core/rank.h`` in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import BINS, DENSITY, HISTOGRAM, LARGEST, LOW, SMALLEST

REGULAR_BINS = BINS - 3
NARROWEST_BIN = 2.0**-14


def rank_by_sort(transfer: Tensor) -> Tensor:
    """Return the exact rank of every element within its tensor, in [0, 1], which the histogram estimates.

    Ties share their mean rank.
    """
    _, inverse, counts = torch.unique(transfer.flatten(), sorted=True, return_inverse=True, return_counts=True)
    below = counts.cumsum(0) - counts
    rank: Tensor = (below + 0.5 * counts).double() / transfer.numel()
    return rank[inverse].reshape(transfer.shape)


def rank_key(transfer: Tensor) -> Tensor:
    """Return the bits of a float32 read as an integer, as float32.

    It grows about linearly with log2 T and is 0 for zero.
    """
    return transfer.float().contiguous().view(torch.int32).float() * 2.0**-23


def rank_bin(transfer: Tensor, low: float, density: float) -> Tensor:
    """Return every element's histogram bin: 0 for zeros and subnormals, 1 below, 2..254 regular, 255 above. int64."""
    position = (rank_key(transfer) - torch.tensor(low, dtype=torch.float32)) * torch.tensor(
        density, dtype=torch.float32
    )
    bins = (position + 2.0).clamp(1.0, 255.0).long()
    return torch.where(transfer.float() >= torch.finfo(torch.float32).tiny, bins, 0)


def sampled_elements(size: int, device: torch.device | str = "cpu") -> Tensor | slice:
    """Return which elements of a tensor are counted.

    They are all elements of a small tensor, and a hashed block of 64 in every 1024 of a large one.

    Returns:
        Their positions in memory order, as an index: int64, or a slice for all.
    """
    if size <= contract.SAMPLE_ALL:
        return slice(None)
    group = torch.arange(-(-size // contract.SAMPLE_GROUP), device=device)
    mask = 0xFFFFFFFF
    h = (group & mask) ^ (group >> 32)  # Murmur3's finalizer, in 64-bit integers that never overflow
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = h ^ (h >> shift)
        low, high = h & 0xFFFF, h >> 16
        h = (low * factor + ((high * factor & 0xFFFF) << 16)) & mask
    h = h ^ (h >> 16)
    starts = group * contract.SAMPLE_GROUP + (h & 15) * contract.SAMPLE_BLOCK
    places = (starts[:, None] + torch.arange(contract.SAMPLE_BLOCK, device=device)).flatten()
    return places[places < size]


def sampled(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return which elements of a tensor :func:`sampled_elements` counts: bool (size,)."""
    counted = torch.zeros(size, dtype=torch.bool, device=device)
    counted[sampled_elements(size, device)] = True
    return counted


def count_keys(transfer: Tensor, counted: Tensor, statistics: Tensor) -> None:
    """Fill the histogram of ``statistics`` over its range, and the extent of the keys, from counted elements of T."""
    chosen = transfer.flatten()[counted]
    bins = rank_bin(chosen, float(statistics[LOW]), float(statistics[DENSITY]))
    statistics[HISTOGRAM:] = torch.bincount(bins, minlength=BINS).double()
    keys = rank_key(chosen)[bins > 0]
    statistics[SMALLEST] = keys.min().double() if keys.numel() else 0.0
    statistics[LARGEST] = keys.max().double() if keys.numel() else 0.0


def share_below(statistics: Tensor, key: float) -> float:
    """Return the share of the counted elements below ``key``.

    It is linear within a bin. The outer bins reach to the extreme keys.
    """
    counts: list[float] = statistics[HISTOGRAM:].tolist()
    total = sum(counts)
    low, width = float(statistics[LOW]), REGULAR_BINS / float(statistics[DENSITY])
    smallest, largest = float(statistics[SMALLEST]), float(statistics[LARGEST])
    position = (key - low) * float(statistics[DENSITY])
    below = counts[0]
    if position <= 0:
        part = (key - smallest) / (low - smallest) if low > smallest else 0.0
        return (below + max(part, 0.0) * counts[1]) / total
    whole = min(int(position), REGULAR_BINS)
    below += sum(counts[1 : 2 + whole])
    if whole < REGULAR_BINS:
        below += (position - whole) * counts[2 + whole]
    else:
        part = (key - low - width) / (largest - low - width) if largest > low + width else 0.0
        below += min(max(part, 0.0), 1.0) * counts[BINS - 1]
    return below / total


def key_quantile(statistics: Tensor, share: float) -> float:
    """Return the key below which ``share`` of the non-zero elements lie."""
    counts: list[float] = statistics[HISTOGRAM:].tolist()
    low, density = float(statistics[LOW]), float(statistics[DENSITY])
    wanted = share * sum(counts[1:])
    below = counts[1]
    if below > wanted:
        return float(statistics[SMALLEST])
    for i in range(REGULAR_BINS):
        count = counts[2 + i]
        if count > 0 and below + count >= wanted:
            return low + (i + (wanted - below) / count) / density
        below += count
    return max(float(statistics[LARGEST]), low + REGULAR_BINS / density)


def range_over(low: float, high: float) -> tuple[float, float]:
    """Return (low, density) of 253 regular bins over [low, high], in float32.

    Bins are never narrower than the distance between two float32 keys.
    """
    narrowest = NARROWEST_BIN * REGULAR_BINS
    if not high - low >= narrowest:
        middle = 0.5 * (low + high)
        low, high = middle - 0.5 * narrowest, middle + 0.5 * narrowest
    low32, density32 = torch.tensor([low, REGULAR_BINS / (high - low)], dtype=torch.float64).float().tolist()
    return low32, density32


def next_range(statistics: Tensor) -> tuple[float, float]:
    """Return the next range of the regular bins: over the middle 99 % with a margin. A range that fits is kept."""
    counts = statistics[HISTOGRAM:]
    old = float(statistics[LOW]), float(statistics[DENSITY])
    nonzero = float(counts[1:].sum())
    if nonzero <= 0:  # if nothing was ever counted, the range covers every key
        return old if old[1] > 0 else range_over(0.0, 256.0)
    low, high = key_quantile(statistics, 0.005), key_quantile(statistics, 0.995)
    width = REGULAR_BINS / old[1]
    covers = counts[1] <= 0.01 * nonzero and counts[BINS - 1] <= 0.01 * nonzero
    narrow = width <= 1.5 * (high - low) or width <= 1.01 * NARROWEST_BIN * REGULAR_BINS
    if covers and narrow:
        return old
    margin = 0.05 * (high - low)
    return range_over(low - margin, high + margin)


def bin_ranks(statistics: Tensor, low: float, density: float) -> Tensor:
    """Return the rank that each bin of the range (low, density) stands for, which is the middle of its share.

    The result is float64 (BINS,).
    """
    counts = statistics[HISTOGRAM:]
    total = float(counts.sum())
    if total == 0:
        return torch.full((BINS,), 0.5, dtype=torch.float64)
    if (low, density) == (float(statistics[LOW]), float(statistics[DENSITY])):
        return (counts.cumsum(0) - 0.5 * counts) / total
    edges = [share_below(statistics, low + i / density) for i in range(REGULAR_BINS + 1)]
    zero = float(counts[0]) / total
    starts = torch.tensor([0.0, zero, *edges], dtype=torch.float64)
    ends = torch.tensor([zero, *edges, 1.0], dtype=torch.float64)
    return 0.5 * (starts + ends)


def fresh_statistics(
    transfer: Tensor, counted: Tensor, statistics: Tensor, share: Callable[[Tensor], None] | None = None
) -> None:
    """Return statistics of a tensor that has none: its extent, a histogram over it, then one over its middle 99 %.

    If the tensor is a shard, ``share`` makes each of the three that of the whole tensor before the next is taken.
    """

    def count(low: float, density: float) -> None:
        statistics[LOW], statistics[DENSITY] = low, density
        count_keys(transfer, counted, statistics)
        if share is not None:
            share(statistics)

    count(*range_over(0.0, 256.0))
    count(*range_over(float(statistics[SMALLEST]), float(statistics[LARGEST]) + NARROWEST_BIN))
    count(*next_range(statistics))
