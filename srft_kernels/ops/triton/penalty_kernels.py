"""The significance penalty's device code in Triton. One launch covers all tensors of one combination of dtypes.

``R = 1/2 strength sum P (theta - a)^2`` (elastic weight consolidation, arXiv 1612.00796, equation 3) and its gradient
``strength P (theta - a)``, in the order of operations of :mod:`srft_kernels.ops.penalty`. Parameters have no
annotations but ``tl.constexpr``, because Triton gives them their types.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from srft_kernels.ops.triton.elements import existing, extent, is_wide, pointers_to

# `table` (FIELDS, tensors) int64 holds addresses and sizes.
AT_PARAM = tl.constexpr(0)
AT_ANCHOR = tl.constexpr(1)
AT_SIGNIFICANCE = tl.constexpr(2)
AT_GRADIENT = tl.constexpr(3)
SIZE = tl.constexpr(4)
FIRST_CHUNK = tl.constexpr(5)
FIELDS = tl.constexpr(6)


@triton.jit
def _chunk(
    column,
    tensors,
    start,
    count,
    factor,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    SIGNIFICANCE: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Return a chunk's sum of P (theta - a)^2. With GRADIENT, store its gradient and return zero."""
    REAL: tl.constexpr = tl.float64 if PARAM == tl.float64 else tl.float32  # noqa: SIM300
    at_param = tl.load(column + AT_PARAM * tensors)
    at_anchor = tl.load(column + AT_ANCHOR * tensors)
    at_significance = tl.load(column + AT_SIGNIFICANCE * tensors)
    at_gradient = tl.load(column + AT_GRADIENT * tensors)
    total = tl.zeros([BLOCK], tl.float64)
    stop = count
    if WIDE:
        stop = CHUNK
    for first_lane in range(0, stop, BLOCK):
        lane = first_lane + tl.arange(0, BLOCK)
        exists = existing(lane, count, BLOCK, WIDE)
        weight = tl.load(pointers_to(at_param, start, lane, PARAM, WIDE), mask=exists, other=0.0).to(REAL)
        anchor = tl.load(pointers_to(at_anchor, start, lane, ANCHOR, WIDE), mask=exists, other=0.0).to(REAL)
        pointers = pointers_to(at_significance, start, lane, SIGNIFICANCE, WIDE)
        significance = tl.load(pointers, mask=exists, other=0.0).to(REAL)
        distance = weight - anchor
        if GRADIENT:
            gradient = factor.to(REAL) * significance * distance
            tl.store(pointers_to(at_gradient, start, lane, PARAM, WIDE), gradient.to(PARAM), mask=exists)
        else:
            total += (significance * distance * distance).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["tensors"])
def penalty(
    table,
    tensors,
    owners,
    factor,
    slots,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    SIGNIFICANCE: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Run one program for each chunk. It stores its share of the value into its slot, or its gradient times ``factor``.

    ``factor`` is float64.
    """
    chunk = tl.program_id(0)
    column = table + tl.load(owners + chunk)
    start, count = extent(chunk, tl.load(column + FIRST_CHUNK * tensors), tl.load(column + SIZE * tensors), CHUNK)
    addresses = tl.load(column)
    for k in tl.static_range(1, SIZE):
        addresses |= tl.load(column + k * tensors)
    scale = tl.load(factor)
    if is_wide(count, addresses, CHUNK):
        total = _chunk(column, tensors, start, count, scale, PARAM, ANCHOR, SIGNIFICANCE, GRADIENT, BLOCK, CHUNK, True)
    else:
        total = _chunk(column, tensors, start, count, scale, PARAM, ANCHOR, SIGNIFICANCE, GRADIENT, BLOCK, CHUNK, False)
    if not GRADIENT:
        tl.store(slots + chunk, total)
