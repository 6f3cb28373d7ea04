"""What an estimator is, and what the estimators from per-sample losses share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

LossFunction = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Request:
    """One batch's worth of work: the model in the mode it is to be judged in, and what may be drawn from.

    ``at_most`` is how many samples the pass still wants (``None``: all there are); ``generator`` lives on the
    CPU and is the estimator's own.
    """

    model: nn.Module
    loss_fn: LossFunction
    batch: Any
    parameters: Mapping[str, Tensor]
    generator: torch.Generator
    at_most: int | None


@dataclass(frozen=True)
class Contribution:
    """A batch's sum over its ``samples``: one tensor per parameter in the accumulation dtype, ``None`` where
    no gradient reached the parameter."""

    sums: Sequence[Tensor | None]
    samples: int


class NonFiniteBatch(ArithmeticError):
    """A batch whose losses are not finite; the pass refuses it, counts it and goes on."""


class Estimator:
    """An estimator of significance: either from batches (``contribution``) or from the weights alone
    (``of_weight``).

    The map is the sum of the contributions over the number of samples.
    """

    name: ClassVar[str]
    needs_batches: ClassVar[bool] = True

    def contribution(self, request: Request) -> Contribution:
        raise NotImplementedError

    def of_weight(self, weight: Tensor) -> Tensor:
        raise NotImplementedError


def accumulation_dtype(parameter: Tensor) -> torch.dtype:
    """fp64 for fp64 parameters, fp32 for everything narrower: squares of small gradients underflow in
    fp16."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def per_sample_losses(request: Request) -> Tensor:
    """Evaluate the loss function and hold its answer to what a per-sample Fisher needs: a (B,) tensor with a
    graph."""
    losses = request.loss_fn(request.model, request.batch)
    if not isinstance(losses, Tensor):
        raise ValueError(
            f"loss_fn must return a tensor of per-sample losses of shape (B,), got {type(losses).__name__}"
        )
    if losses.dim() == 0 and batch_size(request.batch) == 1:
        losses = losses.reshape(1)
    if losses.dim() != 1 or not losses.is_floating_point():
        what = "a scalar" if losses.dim() == 0 else f"shape {tuple(losses.shape)} of {losses.dtype}"
        raise ValueError(
            f"loss_fn must return per-sample losses of shape (B,), got {what}; return one loss per "
            "sample of the batch (reduction='none', averaged over everything but the samples), "
            "because the square of a mean gradient is not the Fisher"
        )
    if not losses.requires_grad:
        raise ValueError(
            "the losses do not depend on any of the selected parameters: loss_fn must run the model with "
            "gradients (no torch.no_grad, no detach), and parameters= must select ones that it uses"
        )
    losses = losses if request.at_most is None else losses[: request.at_most]
    broken = losses.numel() - int(losses.isfinite().sum())
    if broken:
        raise NonFiniteBatch(f"{broken} of {losses.numel()} per-sample losses are not finite")
    return losses


def batch_size(batch: Any) -> int | None:
    """The leading dimension of the first tensor found in a batch, or ``None`` where there is none."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = batch.values()
    if isinstance(batch, Iterable) and not isinstance(batch, (str, bytes)):
        for part in batch:
            size = batch_size(part)
            if size is not None:
                return size
    return None


def add_squares(
    sums: list[Tensor | None], loss: Tensor, parameters: Sequence[Tensor], scale: float, *, keep_graph: bool
) -> None:
    """Add the squared gradient of ``scale · loss``, with the scale taken out again, to ``sums`` in place."""
    gradients = torch.autograd.grad(
        loss * scale if scale != 1.0 else loss, parameters, retain_graph=keep_graph, allow_unused=True
    )
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        if gradient is None:
            continue
        wide = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
        wide = wide.to(accumulation_dtype(parameter))
        if scale != 1.0:
            wide = wide / scale
        total = sums[place]
        if total is None:
            sums[place] = wide.square()
        else:
            total.addcmul_(wide, wide)
