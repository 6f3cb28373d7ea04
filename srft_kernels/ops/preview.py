"""Statistics of T for tensors that have none yet: of T as the coming step will leave it, so that the first step's ranks
and means are right too. In plain torch, once in a tensor's life; it reads results back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srft_kernels.ops import contract, reference
from srft_kernels.ops.contract import (
    COUNT,
    CURVATURE_SUM,
    HISTOGRAM,
    SUM,
    Damping,
    Inner,
    Mode,
    Normalize,
    Phase,
    Setting,
)
from srft_kernels.ops.plan import StepTensors
from srft_kernels.ops.probe import in_memory_order

if TYPE_CHECKING:
    from srft_kernels.sharded import Sharing


def gathers(flags: int) -> bool:
    """Whether a step with these flags keeps statistics of T."""
    to_anchor = bool(flags & contract.TRANSFER_TO_ANCHOR)
    damps = flags >> contract.DAMPING_SHIFT & 3 != Damping.UNDAMPED and flags >> contract.MODE_SHIFT & 3 != Mode.COUPLED
    return to_anchor or damps


def gathers_in(flags: int, phase: Phase) -> bool:
    """Whether this half of a step leaves statistics of T."""
    early = flags & contract.TRANSFER_TO_ANCHOR and flags >> contract.MODE_SHIFT & 3 == Mode.COUPLED
    return gathers(flags) and (phase is not Phase.BEFORE or bool(early))


def ranks(flags: int) -> bool:
    """Whether these statistics are histograms, not means."""
    return flags >> contract.DAMPING_SHIFT & 3 == Damping.RANK and not flags & contract.TRANSFER_TO_ANCHOR


def means_globally(flags: int) -> bool:
    """Whether T is divided by its mean over all tensors."""
    return not ranks(flags) and flags >> contract.NORMALIZE_SHIFT & 3 == Normalize.GLOBAL


def fill(
    tensors: StepTensors,
    grads: Sequence[Tensor],
    values: Sequence[float],
    flags: int,
    grad_scale: Tensor | None,
    sharing: Sharing | None = None,
) -> None:
    """Fill the empty rows of ``tensors.statistics`` before a step over ``grads``; ``values`` are its settings. Tensors
    that are shards go through ``sharing``, on all processes alike.
    """
    by_rank = ranks(flags)
    rows = tensors.statistics
    full = rows[:, HISTOGRAM:].any(dim=1) if by_rank else rows[:, COUNT] > 0
    if sharing is not None:
        full = sharing.known(full)
    inner = Inner(flags >> contract.INNER_SHIFT & 3)
    hold = not flags & contract.PROPAGATE_NONFINITE
    factor = values[Setting.GRADIENT_FACTOR] / (1.0 if grad_scale is None else float(grad_scale))
    for i, (known, taken) in enumerate(zip(full.tolist(), tensors.steps.tolist(), strict=True)):
        param = tensors.params[i]
        share = None if sharing is None else sharing.of_row(i, by_rank)
        own = bool(tensors.transfers) and (tensors.transfers[i].numel() > 0 or share is not None)
        if known or (param.numel() == 0 and share is None) or not (own or inner is Inner.ADAM):
            continue
        state = tensors.transfers[i] if own else tensors.second_moments[i]
        beta = values[Setting.TRANSFER_BETA if own else Setting.BETA2]
        gradient = grads[i].to(state.dtype) * factor
        held = ~gradient.isfinite() if hold else torch.zeros_like(gradient, dtype=torch.bool)
        raw = torch.where(held, state, beta * state + (1 - beta) * gradient * gradient)
        transfer = raw / (1 - beta ** (taken + 1))
        if by_rank:
            row = torch.zeros(contract.STATISTICS, dtype=torch.float64)
            row[CURVATURE_SUM] = rows[i, CURVATURE_SUM]
            flat = in_memory_order(transfer)
            counted = reference.sampled(param.numel(), param.device) & ~in_memory_order(held)
            reference.fresh_statistics(flat, counted, row, share)
            rows[i].copy_(row)
        else:
            rows[i, SUM] = transfer[~held].double().sum()
            rows[i, COUNT] = float((~held).sum())
            if share is not None:
                share(rows[i])
    if sharing is not None and means_globally(flags):
        sharing.add_empty(rows)
