"""Probes in Triton: tables and launches, for machines with a GPU and no compiled kernels for it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import probe
from srft_kernels.ops.triton import probe_kernels
from srft_kernels.ops.triton.launch import CHUNK, element_type, on, owners_of, sent

kernels: Any = probe_kernels
# Each product and each sum is rounded by itself, as on every backend.
COMPILED = {"num_warps": 8, "enable_fp_fusion": False}


def _bits(number: float) -> int:
    """Return a float64's bits as an int64."""
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
        before, owners = owners_of(sizes, device)
        addresses = [[listed[i].data_ptr() if listed else 0 for i in members] for listed in (targets, read, minus)]
        table = [*chain(*addresses), *sizes, *(numbers[i] for i in members), *before[:-1], *shared]
        from_type: Any = element_type(origin) if read else None
        with on(device):
            kernels.probes[(before[-1],)](
                sent(table, device),
                len(members),
                owners,
                FOLD=fold,
                TARGET=element_type(target),
                FROM=from_type,
                MINUS=bool(minus),
                CHUNK=CHUNK,
                **COMPILED,
            )


def fill(out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
    """Compute :func:`.reference.probe.fill_reference`."""
    _launch(out, [], [], tensors, [seed, step, 0, 0], fold=False)


def perturb(
    params: Sequence[Tensor], originals: Sequence[Tensor], scale: float, seed: int, step: int, tensors: Sequence[int]
) -> None:
    """Compute :func:`.reference.probe.perturb_reference`."""
    read = [probe.readable(o, p) for o, p in zip(originals, params, strict=True)]
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
    """Compute :func:`.reference.probe.fold_reference`."""
    read, other = probe.of_one_dtype(estimates, plus, minus)
    _launch(estimates, read, other, tensors, [seed, step, _bits(weight), _bits(decay)], fold=True)
