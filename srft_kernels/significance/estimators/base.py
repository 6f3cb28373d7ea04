"""The base class of estimators, and what those from per-sample losses or from outputs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from srft_kernels.ops.tensors import element_dtype

LossFunction = Callable[[nn.Module, Any], Tensor]
OutputsFunction = Callable[[nn.Module, Any], Tensor]


def _nothing(note: str = "") -> None:
    pass


@dataclass(frozen=True)
class Request:
    """What an estimator gets for one batch: the model in its mode, the batch and the random generator.

    ``at_most`` is how many samples the pass still needs (``None``: all there are). ``generator`` lives on the CPU and
    belongs to the estimator. An estimator that works through a batch in parts calls ``part_done`` after each part. It
    may leave out the rest once their mean is within ``relative_error``.
    """

    model: nn.Module
    loss_fn: LossFunction
    batch: Any
    parameters: Mapping[str, Tensor]
    generator: torch.Generator
    at_most: int | None
    relative_error: float | None = None
    part_done: Callable[[str], None] = _nothing


@dataclass(frozen=True)
class Contribution:
    """What a batch contributes: a sum over its ``samples`` for each parameter, in the accumulation dtype.

    The sum is ``None`` if no gradient reached the parameter.

    ``error`` is the relative distance of the sums from their expectation *for this batch*, of all tensors together and
    of each, if the estimator drew often enough to tell (see :class:`RunningError`).
    """

    sums: Sequence[Tensor | None]
    samples: int
    error: tuple[float, list[float]] | None = None


class NonFiniteBatch(ArithmeticError):
    """A batch has losses that are not finite. The pass refuses it, counts it and goes on."""


class Pass(Protocol):
    """One estimation pass over the batches."""

    def contribution(self, request: Request) -> Contribution: ...

    def info(self) -> dict[str, Any]: ...


class Estimator:
    """An estimator of significance, either from batches (``contribution``) or from the weights alone (``of_weight``).

    The map is ``significance`` of the sum of the contributions over the number of samples. An estimator that has to
    remember something from one batch to the next keeps it in a pass of its own (``start``).
    """

    name: ClassVar[str]
    needs_batches: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True
    measures: ClassVar[str] = "squared gradients"
    shards: ClassVar[bool] = False  # whether distributed parameters may be estimated

    def check(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` if the model cannot be estimated. Nothing has been changed yet."""

    def start(self, model: nn.Module, parameters: Mapping[str, Tensor], seed: int) -> Pass:
        return self

    @property
    def parts(self) -> int:
        """Return the largest number of equally long parts in which a batch is worked through."""
        return 1

    def contribution(self, request: Request) -> Contribution:
        raise NotImplementedError

    def significance(self, mean: Tensor) -> Tensor:
        return mean

    def info(self) -> dict[str, Any]:
        return {}

    def of_weight(self, weight: Tensor) -> Tensor:
        raise NotImplementedError


def per_sample_losses(request: Request) -> Tensor:
    """Return the losses of a batch, as a per-sample Fisher needs them: a (B,) tensor with a graph.

    Raises:
        ValueError: If ``loss_fn`` returns anything else.
        NonFiniteBatch: If a loss is not finite.
    """
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
    refuse_non_finite(losses, "per-sample losses")
    return losses


def batch_size(batch: Any) -> int | None:
    """Return the leading dimension of the first tensor in a batch, or ``None`` if it has no tensor."""
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


def sample_outputs(request: Request, outputs_fn: OutputsFunction, name: str) -> Tensor:
    """Return the outputs of a batch, as an estimator from outputs needs them: (B, ...), with a graph.

    Raises:
        ValueError: If ``outputs_fn`` returns anything else.
    """
    outputs = outputs_fn(request.model, request.batch)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not outputs.dim():
        what = (
            f"shape {tuple(outputs.shape)} of {outputs.dtype}"
            if isinstance(outputs, Tensor)
            else type(outputs).__name__
        )
        raise ValueError(
            f"{name}: outputs_fn must return the model's outputs as one floating tensor, samples first, got {what}"
        )
    if not outputs.requires_grad:
        raise ValueError(
            f"{name}: the outputs do not depend on any of the selected parameters: outputs_fn must run the model "
            "with gradients (no torch.no_grad, no detach), and parameters= must select ones that it uses"
        )
    return outputs


def refuse_non_finite(values: Tensor, what: str) -> None:
    """Raise :class:`NonFiniteBatch` if any of ``values`` is not finite; ``what`` names them in the message."""
    broken = values.numel() - int(values.isfinite().sum())
    if broken:
        raise NonFiniteBatch(f"{broken} of {values.numel()} {what} are not finite")


def checked_outputs_fn(outputs_fn: OutputsFunction | None, name: str) -> OutputsFunction:
    """Return ``outputs_fn``, or raise ``ValueError`` if it is missing or no function."""
    if outputs_fn is None or not callable(outputs_fn):
        raise ValueError(
            f"the estimator {name!r} needs outputs_fn=, a function (model, batch) -> outputs such as "
            f"lambda model, batch: model(batch[0]); got {outputs_fn!r}"
        )
    return outputs_fn


def add_squares(
    sums: list[Tensor | None], loss: Tensor, parameters: Sequence[Tensor], scale: float, *, keep_graph: bool
) -> None:
    """Add the squared gradient of ``scale · loss`` to ``sums`` in place, after the scale is divided out."""
    for place, gradient in _wide_gradients(loss, parameters, scale, keep_graph):
        total = sums[place]
        if total is None:
            sums[place] = gradient.square()
        else:
            total.addcmul_(gradient, gradient)


def add_absolutes(
    sums: list[Tensor | None], loss: Tensor, parameters: Sequence[Tensor], scale: float, *, keep_graph: bool
) -> None:
    """Add the absolute gradient of ``scale · loss`` to ``sums`` in place, after the scale is divided out."""
    for place, gradient in _wide_gradients(loss, parameters, scale, keep_graph):
        total = sums[place]
        if total is None:
            sums[place] = gradient.abs()
        else:
            total.add_(gradient.abs())


def _wide_gradients(
    loss: Tensor, parameters: Sequence[Tensor], scale: float, keep_graph: bool
) -> Iterator[tuple[int, Tensor]]:
    gradients = torch.autograd.grad(
        loss * scale if scale != 1.0 else loss, parameters, retain_graph=keep_graph, allow_unused=True
    )
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        if gradient is None:
            continue
        wide = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
        wide = wide.to(element_dtype(parameter))
        yield place, wide / scale if scale != 1.0 else wide
