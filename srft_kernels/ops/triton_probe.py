"""Probes in Triton, for machines with a GPU and no compiled kernels for it: device code, tables and launches.

The signs, and the order of operations, are those of :mod:`srft_kernels.ops.probe`: the same bits. One program takes a
chunk of one tensor and calls Philox once for 128 of its elements. What changes from call to call (seed, step, scales,
addresses) is in a table, so nothing is compiled again for it. Parameters of device code have no annotations but
``tl.constexpr``: Triton gives them their types.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from srft_kernels.ops import probe
from srft_kernels.ops.cuda_probe import gradients, readable
from srft_kernels.ops.penalty import element_dtype
from srft_kernels.ops.triton import CHUNK, _element_type, _on, _owners, _sent

# `table` int64: (FIELDS, tensors) addresses, sizes, numbers and first chunks; then what all tensors share.
AT_TARGET = tl.constexpr(0)
AT_FROM = tl.constexpr(1)
AT_MINUS = tl.constexpr(2)
SIZE = tl.constexpr(3)
NUMBER = tl.constexpr(4)
FIRST_CHUNK = tl.constexpr(5)
FIELDS = tl.constexpr(6)

# A product and a sum are rounded one by one, as everywhere.
COMPILED = {"num_warps": 8, "enable_fp_fusion": False}


@triton.jit
def signs(seed, step, number, start, REAL: tl.constexpr, CHUNK: tl.constexpr):
    """z of a chunk: (CHUNK / 32, 32), a row for each word of Philox."""
    block = start // 128 + tl.arange(0, CHUNK // 128).to(tl.int64)
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    nothing = tl.zeros([CHUNK // 128], tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, nothing + number.to(tl.uint32), nothing + step.to(tl.uint32), 10)
    words = tl.join(tl.join(a, c), tl.join(b, d)).reshape(CHUNK // 32)
    bits = (words[:, None] >> tl.arange(0, 32).to(tl.uint32)[None, :]) & 1
    return tl.where(bits != 0, -1.0, 1.0).to(REAL)


@triton.jit
def _pointers(address, start, lane, ELEMENT: tl.constexpr, WIDE: tl.constexpr):
    """A chunk's elements at ``lane``; WIDE promises that they lie at multiples of 16 bytes."""
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
    """One program a chunk. FROM is None: write z; FOLD: into an estimate; else: add to weights."""
    chunk = tl.program_id(0)
    column = table + tl.load(owners + chunk)
    shared = table + FIELDS * tensors
    seed, step = tl.load(shared), tl.load(shared + 1)
    scale, decay = tl.load(shared + 2).to(tl.float64, bitcast=True), tl.load(shared + 3).to(tl.float64, bitcast=True)
    start = (chunk - tl.load(column + FIRST_CHUNK * tensors)) * CHUNK
    count = tl.minimum(tl.load(column + SIZE * tensors) - start, CHUNK).to(tl.int32)
    addresses = tl.load(column) | tl.load(column + AT_FROM * tensors) | tl.load(column + AT_MINUS * tensors)
    if (count == CHUNK) & (addresses % 16 == 0):
        _chunk(column, tensors, start, count, seed, step, scale, decay, FOLD, TARGET, FROM, MINUS, CHUNK, True)
    else:
        _chunk(column, tensors, start, count, seed, step, scale, decay, FOLD, TARGET, FROM, MINUS, CHUNK, False)


# ---------------------------------------------------------------- the host


def _bits(number: float) -> int:
    """A float64's bits as an int64."""
    found: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return found


def _launch(
    targets: Sequence[Tensor],
    read: Sequence[Tensor],
    minus: Sequence[Tensor],
    numbers: Sequence[int],
    shared: list[int],
    *,
    fold: bool,
) -> None:
    """Launch once for each combination of dtypes."""
    together: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
    for i, t in enumerate(targets):
        if t.numel():
            together.setdefault((t.dtype, (read or targets)[i].dtype), []).append(i)
    for (target, origin), members in together.items():
        device = targets[0].device
        sizes = tuple(targets[i].numel() for i in members)
        before, owners = _owners(sizes, device)
        addresses = [[listed[i].data_ptr() if listed else 0 for i in members] for listed in (targets, read, minus)]
        table = [*chain(*addresses), *sizes, *(numbers[i] for i in members), *before[:-1], *shared]
        from_type: Any = _element_type(origin) if read else None
        with _on(device):
            probes[(before[-1],)](
                _sent(table, device),
                len(members),
                owners,
                FOLD=fold,
                TARGET=_element_type(target),
                FROM=from_type,
                MINUS=bool(minus),
                CHUNK=CHUNK,
                **COMPILED,
            )


def fill(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """:func:`.probe.fill_reference`."""
    probe.check_fill(out, step, tensors)
    _launch(out, [], [], tensors, [seed, step, 0, 0], fold=False)


def perturb(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """:func:`.probe.perturb_reference`."""
    probe.check_perturb(params, originals, step, tensors)
    read = [readable(o, element_dtype(p), p.dtype) for o, p in zip(originals, params, strict=True)]
    _launch(params, read, [], tensors, [seed, step, _bits(scale), 0], fold=False)


def fold(
    estimates: Sequence[Tensor],
    plus: Sequence[Tensor],
    minus: Sequence[Tensor],
    decay: float,
    weight: float,
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> None:
    """:func:`.probe.fold_reference`."""
    probe.check_fold(estimates, plus, minus, step, tensors)
    read, other = gradients(estimates, plus, minus)
    _launch(estimates, read, other, tensors, [seed, step, _bits(weight), _bits(decay)], fold=True)
