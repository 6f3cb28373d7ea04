"""The probes' device code in Triton.

The signs and the order of operations are those of :mod:`srft_kernels.ops.probe`, and so are the bits. One program takes
a chunk of one tensor and calls Philox once for 128 of its elements. What changes from call to call (seed, step, scales,
addresses) is in a table, so nothing is compiled again for it. Parameters have no annotations but ``tl.constexpr``,
because Triton gives them their types.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from srft_kernels.ops.triton.elements import extent, is_wide
from srft_kernels.ops.triton.philox import signs

# `table` int64 holds (FIELDS, tensors) addresses, sizes, numbers and first chunks, then what all tensors share.
AT_TARGET = tl.constexpr(0)
AT_FROM = tl.constexpr(1)
AT_MINUS = tl.constexpr(2)
SIZE = tl.constexpr(3)
NUMBER = tl.constexpr(4)
FIRST_CHUNK = tl.constexpr(5)
FIELDS = tl.constexpr(6)


@triton.jit
def _pointers(address, start, lane, ELEMENT: tl.constexpr, WIDE: tl.constexpr):
    """Return pointers to a chunk's elements at ``lane``. WIDE promises that they lie at multiples of 16 bytes."""
    pointers = address.to(tl.pointer_type(ELEMENT)) + start + lane
    if WIDE:
        pointers = tl.multiple_of(pointers, [1, 16])
    return pointers


@triton.jit
def _chunk(
    column,
    tensors,
    start,
    count,
    seed,
    step,
    scale,
    decay,
    FOLD: tl.constexpr,
    TARGET: tl.constexpr,
    FROM: tl.constexpr,
    MINUS: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    REAL: tl.constexpr = tl.float64 if TARGET == tl.float64 else tl.float32  # noqa: SIM300
    lane = tl.arange(0, CHUNK // 32)[:, None] * 32 + tl.arange(0, 32)[None, :]
    exists = lane < (CHUNK if WIDE else count)
    z = signs(seed, step, tl.load(column + NUMBER * tensors), start, REAL, CHUNK)
    targets = _pointers(tl.load(column + AT_TARGET * tensors), start, lane, TARGET, WIDE)
    if FROM is None:
        value = z
    else:
        pointers = _pointers(tl.load(column + AT_FROM * tensors), start, lane, FROM, WIDE)
        value = tl.load(pointers, mask=exists, other=0.0).to(REAL)
        if MINUS:
            pointers = _pointers(tl.load(column + AT_MINUS * tensors), start, lane, FROM, WIDE)
            value = value - tl.load(pointers, mask=exists, other=0.0).to(REAL)
        turned = scale.to(REAL) * z
        if FOLD:
            value = decay.to(REAL) * tl.load(targets, mask=exists, other=0.0) + turned * value
        else:
            value = value + turned
    tl.store(targets, value.to(TARGET), mask=exists)


@triton.jit(do_not_specialize=["tensors"])
def probes(
    table,
    tensors,
    owners,
    FOLD: tl.constexpr,
    TARGET: tl.constexpr,
    FROM: tl.constexpr,
    MINUS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Run one program for each chunk.

    It writes z if FROM is None, folds into an estimate with FOLD, or adds to weights.
    """
    chunk = tl.program_id(0)
    column = table + tl.load(owners + chunk)
    shared = table + FIELDS * tensors
    seed, step = tl.load(shared), tl.load(shared + 1)
    scale, decay = tl.load(shared + 2).to(tl.float64, bitcast=True), tl.load(shared + 3).to(tl.float64, bitcast=True)
    start, count = extent(chunk, tl.load(column + FIRST_CHUNK * tensors), tl.load(column + SIZE * tensors), CHUNK)
    addresses = tl.load(column) | tl.load(column + AT_FROM * tensors) | tl.load(column + AT_MINUS * tensors)
    if is_wide(count, addresses, CHUNK):
        _chunk(column, tensors, start, count, seed, step, scale, decay, FOLD, TARGET, FROM, MINUS, CHUNK, True)
    else:
        _chunk(column, tensors, start, count, seed, step, scale, decay, FOLD, TARGET, FROM, MINUS, CHUNK, False)
