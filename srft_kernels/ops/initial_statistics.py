"""Statistics of T for tensors that have none yet.

They describe T as the coming step will leave it, so that the first step's ranks and means are right too.

This is plain torch. It runs once in a tensor's life and reads results back to the host. Beside the tensors it needs a
few bytes of memory for each sampled element. If every element counts, it works on one piece of a tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import COUNT, CURVATURE_SUM, HISTOGRAM, SUM, Inner, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.plan import StepTensors
from srft_kernels.ops.reference.rank import fresh_statistics, sampled_elements
from srft_kernels.ops.reference.step import LARGEST_TRANSFER
from srft_kernels.ops.tensors import in_memory_order

PIECE = 1 << 17  # elements of one piece, if every element counts


class Sharing(Protocol):
    """Turns the statistics of shards into those of whole tensors."""

    def known(self, full: Tensor) -> Tensor:
        """Return which rows are filled on any process."""

    def of_row(self, row: int, by_rank: bool) -> Callable[[Tensor], None] | None:
        """Return a function that shares one row, or None if all processes have the same row already."""

    def add_empty(self, rows: Tensor) -> None:
        """Move the sums of tensors without elements to a row that kernels read."""


def fill(
    tensors: StepTensors,
    grads: Sequence[Tensor],
    values: Sequence[float],
    flags: StepFlags,
    grad_scale: Tensor | None = None,
    sharing: Sharing | None = None,
) -> None:
    """Fill the empty rows of ``tensors.statistics`` before a step.

    Args:
        tensors: What the step works on.
        grads: The step's gradients, laid out as the parameters.
        values: The step's settings, in the order of :class:`.contract.Setting`.
        flags: The step's flags, by which the step weighs T.
        grad_scale: What the gradients are divided by, or None.
        sharing: Shares statistics between processes if the tensors are shards, else None.
    """
    rows = tensors.statistics
    full = rows[:, HISTOGRAM:].any(dim=1) if flags.ranks else rows[:, COUNT] > 0
    if sharing is not None:
        full = sharing.known(full)
    factor = values[Setting.GRADIENT_FACTOR] / (1.0 if grad_scale is None else float(grad_scale))
    for i, (known, taken) in enumerate(zip(full.tolist(), tensors.steps.tolist(), strict=True)):
        param = tensors.params[i]
        share = None if sharing is None else sharing.of_row(i, flags.ranks)
        own = bool(tensors.transfers) and (tensors.transfers[i].numel() > 0 or share is not None)
        if known or (param.numel() == 0 and share is None) or not (own or flags.inner is Inner.ADAM):
            continue
        state = tensors.transfers[i] if own else tensors.second_moments[i]
        beta = values[Setting.TRANSFER_BETA if own else Setting.BETA2]

        def coming(state: Tensor, gradient: Tensor, beta: float = beta, taken: float = taken) -> tuple[Tensor, Tensor]:
            """Return T as the step will leave it, and which elements the step will hold."""
            gradient = gradient.to(state.dtype) * factor
            held = torch.zeros_like(gradient, dtype=torch.bool) if flags.propagate_nonfinite else ~gradient.isfinite()
            raw = torch.where(held, state, beta * state + (1 - beta) * gradient * gradient)
            transfer = raw / (1 - beta ** (taken + 1))
            return transfer if flags.ranks else transfer.clamp(max=LARGEST_TRANSFER[raw.dtype]), held

        if flags.ranks:
            row = torch.zeros(contract.STATISTICS, dtype=torch.float64)
            row[CURVATURE_SUM] = rows[i, CURVATURE_SUM]
            chosen = sampled_elements(param.numel(), param.device)
            transfer, held = coming(in_memory_order(state)[chosen], in_memory_order(grads[i])[chosen])
            fresh_statistics(transfer, ~held, row, share)
            rows[i].copy_(row)
            continue
        rows[i, SUM : COUNT + 1] = 0.0
        for piece_of_state, piece_of_gradient in _pieces(state, grads[i]):
            transfer, held = coming(piece_of_state, piece_of_gradient)
            rows[i, SUM] += transfer[~held].double().sum()
            rows[i, COUNT] += float((~held).sum())
        if share is not None:
            share(rows[i])
    if sharing is not None and flags.means_globally:
        sharing.add_empty(rows)


def _pieces(state: Tensor, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of pieces of two dense tensors with the same layout, or the two whole tensors if they are small."""
    if state.numel() <= PIECE:
        return [(state, gradient)]
    return list(zip(in_memory_order(state).split(PIECE), in_memory_order(gradient).split(PIECE), strict=True))
