"""The estimation pass, which makes a significance map from batches and leaves the model as it was."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from srft_kernels._names import shortened
from srft_kernels.ops.tensors import element_dtype
from srft_kernels.sharded import is_distributed, whole
from srft_kernels.significance.convergence import LEAST_DRAWS, RunningError
from srft_kernels.significance.estimators import ESTIMATORS, Estimator, NonFiniteBatch, Request
from srft_kernels.significance.estimators.base import LossFunction
from srft_kernels.significance.map import SignificanceMap
from srft_kernels.significance.preserve import generators_restored, model_restored
from srft_kernels.significance.progress import ProgressLine

Selection: TypeAlias = Iterable[str] | Callable[[str, Tensor], bool]

# The signs must differ from what the global generators give to dropout or to a shuffling loader.
_SIGNS_SEED_OFFSET = 0x9E3779B97F4A7C15
_REASONS_AT_MOST = 3


def estimate_prior(
    model: nn.Module,
    loss_fn: LossFunction | None = None,
    batches: Iterable[Any] | None = None,
    estimator: str = "fisher",
    *,
    samples: int | None = None,
    max_batches: int | None = None,
    relative_error: float | None = None,
    seed: int = 0,
    parameters: Selection | None = None,
    training: bool = False,
    progress: bool = False,
    **options: Any,
) -> SignificanceMap:
    """Estimate the prior significance of a model's parameters on the data that it was trained on.

    The model is left as it was found, also after an exception: weights, training flags, buffers, gradients,
    ``requires_grad`` and the global random number generators.

    Args:
        model: The model, with the weights that are to be protected.
        loss_fn: A function of the model and a batch that returns per-sample losses of shape (B,). A scalar is accepted
            for batches of one sample, and for ``"hutchinson"`` always, as the mean loss. The function moves the batch
            to the model's device itself, and may use autocast. ``"gnb"`` and ``"mas"`` take the option ``outputs_fn``
            instead, and None here.
        batches: An iterable of batches. Each is passed to ``loss_fn`` as it is.
        estimator: ``"fisher"`` is the empirical Fisher by random signs, with one backward pass a batch (options
            ``draws=1``, ``loss_scale=1.0``). ``"fisher_exact"`` is the same quantity from each sample's gradient, with
            one backward pass a sample (``loss_scale=1.0``). ``"hutchinson"`` is the absolute diagonal of the Hessian,
            see :func:`hutchinson_diagonal`. ``"gnb"`` is the Gauss-Newton diagonal from labels that the model draws
            (``outputs_fn``, ``likelihood="categorical"``, ``micro_batches=1``, ``draws=1``, ``loss_scale=1.0``).
            ``"mas"`` is the mean absolute gradient of the squared output norm, with one backward pass a sample
            (``outputs_fn``, ``loss_scale=1.0``). ``"magnitude"`` is ``|θ|`` and ``"uniform"`` is 1; neither needs data.
        samples: Stop after so many samples. Further samples of the last batch are left out.
        max_batches: Stop after so many batches, including refused ones.
        relative_error: Stop as soon as the map's own estimate of its relative error is no larger, after eight batches
            at the earliest. A ``RuntimeWarning`` says if the batches did not suffice. The error is that of the average
            over batches as one vector, ‖estimate - expectation‖ / ‖expectation‖ in the root mean square. It is taken
            from the spread between batches, which contains the noise of the draws and that of the data. A tensor of
            small significance may be known far less well. ``info["relative_error"]`` records it in any case (None if
            there were too few batches to tell, or if they show only noise), and ``info["relative_errors"]`` records
            that of each tensor.
        seed: Seeds the random signs, which have a generator of their own. It also seeds the global generators during
            the pass, so that dropout or a shuffling loader repeat.
        parameters: Names, or a filter ``(name, parameter) -> bool``. By default these are the parameters that require a
            gradient. Parameters that are selected explicitly may be frozen.
        training: Whether the model runs in training mode. Evaluation mode is right for a pre-trained model, and is the
            only mode in which BatchNorm lets samples have gradients of their own.
        progress: Whether a line on the standard error shows the time left.
        **options: The options of the estimator.

    Returns:
        A map with the mean over samples of the squared per-sample gradient under each selected name. This holds for the
        Fishers; the other estimators' docstrings say what they average. Tensors are on the parameter's device, float64
        for float64 parameters and float32 for all others. A selected parameter that no gradient reached has
        significance 0 and is named in ``info["unreached"]``. A batch with a loss or squared gradient that is not finite
        is left out with a ``RuntimeWarning`` and counted in ``info["refused_batches"]``.

    Raises:
        TypeError: If arguments are in the wrong order or of the wrong kind, or ``batches`` is a single batch.
        ValueError: If an argument does not fit, ``loss_fn`` returns something else than losses, there are no batches,
            or all are refused.
    """
    made = _estimate(
        model,
        loss_fn,
        batches,
        estimator,
        _Limits(samples, max_batches, relative_error),
        seed=seed,
        parameters=parameters,
        training=training,
        progress=progress,
        options=options,
    )
    return SignificanceMap(
        {name: made.worker.significance(mean) for name, mean in made.means.items()},
        samples=made.samples,
        model=type(model).__name__,
        estimator=estimator,
        info=made.info,
    )


def fisher_diagonal(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Any], **arguments: Any
) -> SignificanceMap:
    """Return the empirical Fisher diagonal by random signs: :func:`estimate_prior` with ``estimator="fisher"``."""
    return estimate_prior(model, loss_fn, batches, "fisher", **arguments)


def hutchinson_diagonal(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    probes: int = 1,
    method: Literal["autograd", "finite_difference"] = "autograd",
    seed: int = 0,
    step: float | None = None,
    difference: Literal["forward", "central"] | None = None,
    relative_error: float | None = None,
    progress: bool = False,
    **arguments: Any,
) -> SignificanceMap:
    """Return the absolute diagonal of the mean loss's Hessian by Hutchinson's estimator, E[z ⊙ Hz] over random signs z.

    The absolute value is taken of the average over all probes and batches. The average of absolute values would count
    the noise. An element that is known only to within its noise keeps about that noise as its significance.
    :func:`hessian_diagonal` returns the average with its signs.

    Args:
        model: As in :func:`estimate_prior`.
        loss_fn: A function of the model and a batch that returns per-sample losses (B,), or a scalar, which is taken as
            their mean.
        batches: As in :func:`estimate_prior`.
        probes: Sign vectors per batch. Each batch has its own. For the same work, one probe on each of many batches
            tells more than many probes on one. A trained transformer needs hundreds in all.
        method: ``"autograd"`` differentiates twice. It is exact up to rounding, takes about three times the time and
            memory of a training step, and switches to an attention that has a second derivative.
            ``"finite_difference"`` takes differences of gradients. It moves the parameters in place along a probe that
            is computed and never stored, and restores them from a copy bit for bit. It needs first derivatives only, so
            it works with everything that trains (fused attention, autocast, checkpointing, ``DistributedDataParallel``:
            there each process gives its own batches, with the same seed, and all get the same map). Beyond a training
            step it holds one copy of the parameters, another gradient and three sums.
        seed: As in :func:`estimate_prior`. The probe of a draw depends on ``seed``, the draw's number in the pass, the
            parameter's position in the model and the element, and on nothing else.
        step: h of the finite difference. ``info["step"]`` records the one that was used. For P selected elements, the
            default in float32 is the smaller of 3e-4 and 0.9/√P (central) or of 4e-5 and 0.3/√P (forward). In bfloat16
            arithmetic, autocast included, it is the smaller of 4e-3 and 9/√P. The error of the difference grows with h
            (forward) or h² (central), and that of rounding with 1/h. Weights far from the usual size, or a network with
            kinks (ReLU), need a larger step: double backward does not see the curvature of a kink at all, and a
            difference sees the kinks within its step, with more noise for a smaller step.
        difference: ``"forward"`` takes ``probes + 1`` gradients a batch, ``"central"`` takes ``2 * probes``. By default
            it is forward in float32 and float64 if that is fewer, else central.
        relative_error: Stop at this error by the spread between batches, as in :func:`estimate_prior`. A batch of many
            probes also stops, after eight of them, as soon as they tell its own diagonal so well. With a single batch
            that is the only criterion.
        progress: As in :func:`estimate_prior`.
        **arguments: Further arguments of :func:`estimate_prior`.

    Returns:
        A map, as :func:`estimate_prior` returns it.
    """
    return estimate_prior(
        model,
        loss_fn,
        batches,
        "hutchinson",
        probes=probes,
        method=method,
        seed=seed,
        step=step,
        difference=difference,
        relative_error=relative_error,
        progress=progress,
        **arguments,
    )


class Curvature(NamedTuple):
    """A diagonal with its signs, and how it was made (the ``info`` of a map)."""

    diagonal: dict[str, Tensor]
    info: dict[str, Any]


def hessian_diagonal(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    samples: int | None = None,
    max_batches: int | None = None,
    relative_error: float | None = None,
    seed: int = 0,
    parameters: Selection | None = None,
    training: bool = False,
    progress: bool = False,
    **options: Any,
) -> Curvature:
    """Return the same estimate as :func:`hutchinson_diagonal`, with the same arguments, before the absolute value."""
    made = _estimate(
        model,
        loss_fn,
        batches,
        "hutchinson",
        _Limits(samples, max_batches, relative_error),
        seed=seed,
        parameters=parameters,
        training=training,
        progress=progress,
        options=options,
    )
    return Curvature(made.means, {"samples": made.samples, **made.info})


@dataclass(frozen=True)
class _Limits:
    samples: int | None
    max_batches: int | None
    relative_error: float | None

    def __post_init__(self) -> None:
        for what, limit in (("samples", self.samples), ("max_batches", self.max_batches)):
            if limit is not None and limit < 1:
                raise ValueError(f"{what} must be at least 1, or None for no limit, got {limit}")
        if self.relative_error is not None and not 0.0 < self.relative_error < math.inf:
            raise ValueError(f"relative_error must be positive, or None for no limit, got {self.relative_error}")


class _Estimate(NamedTuple):
    worker: Estimator
    means: dict[str, Tensor]
    samples: int | None
    info: dict[str, Any]


def _estimate(
    model: nn.Module,
    loss_fn: LossFunction | None,
    batches: Iterable[Any] | None,
    estimator: str,
    limits: _Limits,
    *,
    seed: int,
    parameters: Selection | None,
    training: bool,
    progress: bool,
    options: Mapping[str, Any],
) -> _Estimate:
    worker = _estimator(estimator, options)
    _check_arguments(model, loss_fn, batches)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a non-negative int, got {seed!r}")
    chosen = _selected(model, parameters)
    info: dict[str, Any] = {
        "options": {f.name: _storable(getattr(worker, f.name)) for f in fields(worker)},  # type: ignore[arg-type]
        "parameter_dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in chosen.values()}),
    }
    if not worker.needs_batches:
        weights = {n: worker.of_weight(whole(p.detach()).to(element_dtype(p))) for n, p in chosen.items()}
        return _Estimate(worker, weights, None, info)

    if batches is None or (loss_fn is None and worker.needs_loss):
        raise ValueError(
            f"the estimator {estimator!r} needs " + ("loss_fn and batches" if worker.needs_loss else "batches")
        )
    if not worker.needs_loss and loss_fn is not None:
        raise ValueError(f"the estimator {estimator!r} uses no loss: give None for loss_fn, and the outputs_fn option")
    worker.check(model, chosen)
    if not worker.shards:
        for name, parameter in chosen.items():
            if is_distributed(parameter):
                raise ValueError(
                    f"{name!r} is distributed, and {estimator!r} takes gradients of single samples, which FSDP2 does "
                    "not reduce: estimate on the unsharded model, or use 'hutchinson' with method='finite_difference'"
                )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        generators_restored(seed),
        model_restored(model, training),
        contextlib.ExitStack() as cleanup,
    ):
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        total = len(batches) if isinstance(batches, Sized) else None
        if limits.max_batches is not None:
            total = limits.max_batches if total is None else min(total, limits.max_batches)
            batches = itertools.islice(batches, limits.max_batches)
        line = None
        if progress:
            line = ProgressLine(None if total is None else total * worker.parts, estimator)
            cleanup.callback(line.close)
        generator = torch.Generator().manual_seed((seed + _SIGNS_SEED_OFFSET) % 2**64)
        sums, counts = _accumulate(worker, model, loss_fn or _no_loss, batches, chosen, generator, seed, limits, line)
    info.update(counts, seed=seed, training=training)
    seen = counts.pop("samples")
    return _Estimate(worker, {n: whole(s / seen) for n, s in sums.items()}, seen, info)


def _check_arguments(model: Any, loss_fn: Any, batches: Any) -> None:
    """Refuse arguments in the wrong order, and a batch where batches are meant."""
    order = "the order is estimate_prior(model, loss_fn, batches, estimator)"
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}: {order}")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of model and batch, got {type(loss_fn).__name__}: {order}")
    if isinstance(loss_fn, nn.modules.loss._Loss) or getattr(loss_fn, "__module__", "") == "torch.nn.functional":
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise TypeError(
            f"the loss is called as loss_fn(model, batch), and {name} takes outputs and targets: give a function such "
            "as lambda model, batch: loss(model(batch[0]), batch[1]), with one loss a sample (reduction='none')"
        )
    if batches is None:
        return
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches must be an iterable of batches, got {type(batches).__name__}: {order}")
    parts = batches if isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in batches) else ()
    # A tuple of tensors with different dtypes or shapes is one batch of inputs and targets. A tuple of batches holds
    # like tensors.
    mixed = len({(part.dtype, part.shape[1:]) for part in parts}) > 1
    if isinstance(batches, (Tensor, Mapping)) or mixed:
        raise TypeError("batches must be an iterable of batches, and this is one batch: give a list of it, [batch]")


def _no_loss(model: nn.Module, batch: Any) -> Tensor:
    raise AssertionError("an estimator from outputs asked for the loss")


def _storable(option: Any) -> Any:
    """Return an option as the map's header keeps it. A function is kept by its name."""
    return f"{option.__module__}.{option.__qualname__}" if hasattr(option, "__qualname__") else option


def _accumulate(
    worker: Estimator,
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    chosen: Mapping[str, Tensor],
    generator: torch.Generator,
    seed: int,
    limits: _Limits,
    line: ProgressLine | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    sums = {
        n: torch.zeros_like(p, dtype=element_dtype(p), memory_format=torch.contiguous_format).detach()
        for n, p in chosen.items()
    }
    work = worker.start(model, chosen, seed)
    unreached = set(chosen)
    seen = used = 0
    reasons: list[str] = []
    spread = RunningError()
    errors: tuple[float, list[float]] | None = None
    for number, batch in enumerate(batches):
        parts = itertools.count(number * worker.parts + 1)

        def part_done(note: str = "", parts: Iterator[int] = parts) -> None:
            if line is not None:
                line.reached(next(parts), note)

        at_most = None if limits.samples is None else limits.samples - seen
        request = Request(model, loss_fn, batch, chosen, generator, at_most, limits.relative_error, part_done)
        try:
            contribution = work.contribution(request)
        except NonFiniteBatch as error:
            reasons.append(f"batch {number}: {error}")
            continue
        finally:
            if line is not None:
                line.reached((number + 1) * worker.parts)
        reached = [(name, total) for name, total in zip(chosen, contribution.sums, strict=True) if total is not None]
        broken = _not_finite(reached)
        if broken:
            reasons.append(
                f"batch {number}: {worker.measures} of {len(broken)} parameters such as {broken[0]} are not finite"
            )
            continue
        if contribution.samples:
            spread.observe(contribution.sums, contribution.samples, list(sums.values()))
        for name, total in reached:
            sums[name].add_(total)
            unreached.discard(name)
        seen += contribution.samples
        used += 1
        if spread.draws == 1:
            errors = contribution.error
        if limits.samples is not None and seen >= limits.samples:
            break
        if limits.relative_error is not None and spread.draws >= LEAST_DRAWS:
            errors = spread.relative(list(sums.values()))
            if errors[0] <= limits.relative_error:
                break
    told = shortened(reasons, _REASONS_AT_MOST, "; ")
    if not seen:
        raise ValueError(
            "no significance could be estimated: "
            + (f"all batches were refused ({told})" if reasons else "there were no samples")
        )
    if len(unreached) == len(chosen):
        raise ValueError(
            "no gradient reached any of the selected parameters: parameters= must select ones that loss_fn uses"
        )
    if reasons:
        _warn(f"{len(reasons)} of {len(reasons) + used} batches were left out of the significance: {told}")
    if spread.draws > 1:
        errors = spread.relative(list(sums.values()))
    reached_error = math.inf if errors is None else errors[0]
    if limits.relative_error is not None and reached_error > limits.relative_error:
        _warn(
            f"the significance has a relative error of about {reached_error:.2g}, not the {limits.relative_error:.2g} "
            f"asked for, after {used} batches: give more batches" + (" or probes" if "probes" in work.info() else "")
        )
    counts = {
        "samples": seen,
        "batches": used,
        "refused_batches": len(reasons),
        "unreached": [name for name in chosen if name in unreached],
        "relative_error": _known(reached_error),
        "relative_errors": {} if errors is None else dict(zip(chosen, map(_known, errors[1]), strict=True)),
        **work.info(),
    }
    return sums, counts


def _known(error: float) -> float | None:
    """Return the error, or None if it is infinite, because JSON has no infinity."""
    return error if math.isfinite(error) else None


def _warn(message: str) -> None:
    # The warning points at the caller of the public function: _warn, _accumulate, _estimate and estimate_prior are
    # between.
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _not_finite(reached: list[tuple[str, Tensor]]) -> list[str]:
    if not reached:
        return []
    finite = [whole(total.isfinite().all()) for _, total in reached]
    if bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all()):
        return []
    return [name for (name, _), flag in zip(reached, finite, strict=True) if not bool(flag)]


def _estimator(name: str, options: Mapping[str, Any]) -> Estimator:
    if name not in ESTIMATORS:
        if name == "si":
            raise ValueError(
                "si is gathered while a task is learned, not from batches: use srft.PathIntegral(optimizer)"
            )
        raise ValueError(f"unknown estimator {name!r}; known are {', '.join(ESTIMATORS)}")
    known = [f.name for f in fields(ESTIMATORS[name])]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise ValueError(f"the estimator {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return ESTIMATORS[name](**options)


def _selected(model: nn.Module, parameters: Selection | None) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(model.named_parameters())
    if isinstance(parameters, str):
        raise ValueError(f"parameters must be a list of names or a filter, got the string {parameters!r}")
    if parameters is None:
        chosen = {name: p for name, p in named.items() if p.requires_grad}
    elif callable(parameters):
        chosen = {name: p for name, p in named.items() if parameters(name, p)}
    else:
        wanted = list(parameters)
        unknown = [name for name in wanted if name not in named]
        if unknown:
            raise ValueError(f"the model has no parameter {shortened([repr(name) for name in unknown], 1)}")
        chosen = {name: named[name] for name in wanted}
    if not chosen:
        raise ValueError(
            "no parameter is selected: the model has none that requires a gradient; name them in parameters="
            if parameters is None
            else "no parameter is selected by parameters="
        )
    odd = [name for name, p in chosen.items() if not p.is_floating_point()]
    if odd:
        raise ValueError(f"significance is for real floating parameters; {odd[0]!r} is {chosen[odd[0]].dtype}")
    return chosen
