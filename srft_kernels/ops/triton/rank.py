"""Estimates the rank of T within its tensor in Triton, as ``csrc/core/rank.h`` and :mod:`..reference.rank` do."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from srft_kernels.ops import contract
from srft_kernels.ops.reference import rank
from srft_kernels.ops.triton.elements import spread

BINS = tl.constexpr(contract.BINS)
REGULAR_BINS = tl.constexpr(rank.REGULAR_BINS)
NARROWEST_RANGE = tl.constexpr(rank.NARROWEST_BIN * rank.REGULAR_BINS)
SAMPLE_ALL = tl.constexpr(contract.SAMPLE_ALL)
SAMPLE_BLOCK = tl.constexpr(contract.SAMPLE_BLOCK)
SAMPLE_GROUP = tl.constexpr(contract.SAMPLE_GROUP)
KEY_UNIT = tl.constexpr(2.0**-23)
SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def rank_bin(transfer, low, density):
    """Return the histogram bin of every element of T (float32): 0 for zeros, 1 below, 2..254 regular, 255 above."""
    key = transfer.to(tl.int32, bitcast=True).to(tl.float32) * KEY_UNIT
    position = (key - low) * density + 2.0
    place = tl.minimum(tl.maximum(position, 1.0), BINS - 1.0).to(tl.int32)
    return tl.where(transfer >= SMALLEST_NORMAL, place, 0)


@triton.jit
def sampled(start, lane, size, BLOCK: tl.constexpr):
    """Return which elements are counted: all of a small tensor, a hashed block of 64 in every 1024 of a large one."""
    group = start // SAMPLE_GROUP + lane // SAMPLE_GROUP
    h = group.to(tl.uint32) ^ (group >> 32).to(tl.uint32)  # Murmur3's finalizer
    h ^= h >> 16
    h *= 0x85EBCA6B
    h ^= h >> 13
    h *= 0xC2B2AE35
    h ^= h >> 16
    block = (lane % SAMPLE_GROUP // SAMPLE_BLOCK).to(tl.uint32)
    return (block == (h & 15)) | spread(size <= SAMPLE_ALL, BLOCK)


@triton.jit
def _key_quantile(share, place, counts, cumulated, nonzero, low, density, smallest, largest):
    """Return the key below which ``share`` of the non-zero elements lie. ``cumulated`` leaves the zeros out."""
    wanted = share * nonzero
    below = tl.sum(tl.where(place == 1, counts, 0.0), axis=0)
    reaches = (place >= 2) & (place < BINS - 1) & (counts > 0) & (cumulated >= wanted)
    first = tl.min(tl.where(reaches, place, BINS), axis=0)
    chosen = place == first
    count = tl.sum(tl.where(chosen, counts, 0.0), axis=0)
    before = tl.sum(tl.where(chosen, cumulated, 0.0), axis=0) - count
    within = low + (first - 2 + (wanted - before) / tl.maximum(count, 1.0)) / density
    above = tl.maximum(largest, low + REGULAR_BINS / density)
    return tl.where(below > wanted, smallest, tl.where(first < BINS, within, above))


@triton.jit
def _range_over(low, high):
    """Return (low, density) of the regular bins over [low, high], rounded to the float32 that `rank_bin` reads."""
    middle = 0.5 * (low + high)
    wide = high - low >= NARROWEST_RANGE
    low = tl.where(wide, low, middle - 0.5 * NARROWEST_RANGE)
    high = tl.where(wide, high, middle + 0.5 * NARROWEST_RANGE)
    density = REGULAR_BINS / (high - low)
    return low.to(tl.float32).to(tl.float64), density.to(tl.float32).to(tl.float64)


@triton.jit
def next_range(place, counts, low, density, smallest, largest):
    """Return the next range of the regular bins: over the middle 99 % with a margin. A range that fits is kept."""
    kept = tl.where(place > 0, counts, 0.0)
    nonzero = tl.sum(kept, axis=0)
    cumulated = tl.cumsum(kept, axis=0)  # sums of integers are exact in any order
    lower = _key_quantile(0.005, place, counts, cumulated, nonzero, low, density, smallest, largest)
    upper = _key_quantile(0.995, place, counts, cumulated, nonzero, low, density, smallest, largest)
    width = REGULAR_BINS / density
    outside = tl.maximum(
        tl.sum(tl.where(place == 1, counts, 0.0), axis=0), tl.sum(tl.where(place == BINS - 1, counts, 0.0), axis=0)
    )
    narrow = (width <= 1.5 * (upper - lower)) | (width <= 1.01 * NARROWEST_RANGE)
    stays = (nonzero <= 0) | ((outside <= 0.01 * nonzero) & narrow)
    margin = 0.05 * (upper - lower)
    next_low, next_density = _range_over(lower - margin, upper + margin)
    return tl.where(stays, low, next_low), tl.where(stays, density, next_density)


@triton.jit
def _share_below(key, counts, cumulated, total, low, density, smallest, largest):
    """Return the share of the counted elements below each ``key``.

    It is linear within a bin. The outer bins reach to the extreme keys.
    """
    high = low + REGULAR_BINS / density
    position = (key - low) * density
    whole = tl.minimum(tl.maximum(position, 0.0), REGULAR_BINS).to(tl.int32)
    under = tl.where(low > smallest, (key - smallest) / (low - smallest), 0.0)
    over = tl.where(largest > high, (key - high) / (largest - high), 0.0)
    beyond = whole >= REGULAR_BINS
    part = tl.where(beyond, tl.minimum(tl.maximum(over, 0.0), 1.0), position - whole)
    part = tl.where(position <= 0, tl.maximum(under, 0.0), part)
    entered = tl.where(position <= 0, 1, whole + 2)  # the bin in which the key lies
    below = tl.gather(cumulated, entered - 1, axis=0) + part * tl.gather(counts, entered, axis=0)
    return below / total


@triton.jit
def bin_ranks(place, counts, low, density, smallest, largest, next_low, next_density):
    """Return the rank that each bin of the next range stands for: the middle of its share."""
    cumulated = tl.cumsum(counts, axis=0)
    count = tl.sum(counts, axis=0)
    total = tl.maximum(count, 1.0)
    here = (cumulated - 0.5 * counts) / total
    # If the range has moved, the rank follows from the shares below each new bin's two edges.
    zeros = tl.sum(tl.where(place == 0, counts, 0.0), axis=0) / total
    left, right = next_low + (place - 2) / next_density, next_low + (place - 1) / next_density
    starts = _share_below(left, counts, cumulated, total, low, density, smallest, largest)
    ends = _share_below(right, counts, cumulated, total, low, density, smallest, largest)
    starts = tl.where(place == 0, 0.0, tl.where(place == 1, zeros, starts))
    ends = tl.where(place == 0, zeros, tl.where(place == BINS - 1, 1.0, ends))
    moved = (next_low != low) | (next_density != density)
    return tl.where(count > 0, tl.where(moved, 0.5 * (starts + ends), here), 0.5)
