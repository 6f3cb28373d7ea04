"""The estimation pass: batches go in, a significance map comes out, and the model is left as it was found."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import asdict, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from srft_kernels.significance.estimators import ESTIMATORS, Estimator, NonFiniteBatch, Request
from srft_kernels.significance.estimators.base import LossFunction, accumulation_dtype
from srft_kernels.significance.map import SignificanceMap
from srft_kernels.significance.progress import with_progress
from srft_kernels.significance.untouched import generators_restored, model_restored

Selection: TypeAlias = Iterable[str] | Callable[[str, Tensor], bool]

# The signs must not repeat what the global generators give to dropout or to a shuffling loader.
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
    seed: int = 0,
    parameters: Selection | None = None,
    training: bool = False,
    progress: bool = False,
    **options: Any,
) -> SignificanceMap:
    """Estimate the prior significance of a model's parameters on the data that it was trained on.

    Parameters
    ----------
    loss_fn:
        ``loss_fn(model, batch)`` returns per-sample losses of shape (B,); a scalar counts only for batches of
        one sample. It moves the batch to the model's device itself, and may use autocast.
    batches:
        Any iterable; what it yields is handed to ``loss_fn`` as it is.
    estimator:
        ``"fisher"``: empirical Fisher by random signs, one backward pass a batch (options ``draws=1``,
        ``loss_scale=1.0``). ``"fisher_exact"``: the same quantity from each sample's gradient, one backward
        pass a sample (option ``loss_scale=1.0``). ``"magnitude"``: ``|θ|``, and ``"uniform"``: 1, both
        without data.
    samples, max_batches:
        Stop after so many samples (the last batch's surplus is left out) or batches, refused ones included.
    seed:
        Of the random signs, which have a generator of their own, and of the global generators during the
        pass, so that dropout or a shuffling loader repeat.
    parameters:
        Names, or a filter ``(name, parameter) -> bool``; by default every parameter that requires a gradient.
        Those selected explicitly may be frozen.
    training:
        Whether the model runs in training mode; evaluation mode is right for a pre-trained one, and the only
        mode in which BatchNorm lets samples have gradients of their own.
    progress:
        Show a line with the time left on the standard error.

    Returns ------- A map with the mean over samples of the squared per-sample gradient (for the Fishers)
    under each selected name: float64 for float64 parameters, float32 for all others, on the parameter's
    device. A selected parameter that no gradient ever reached has significance 0 and is named in
    ``info["unreached"]``.

    The model is left as it was found, also after an exception: training flags, buffers, gradients,
    ``requires_grad`` and the global random number generators. A batch with a loss or squared gradient that is
    not finite is left out with a ``RuntimeWarning`` and counted in ``info["refused_batches"]``.

    Raises
    ------
    ValueError
        If an argument does not fit, ``loss_fn`` answers with something else, there are no batches, or all are
        refused.
    """
    worker = _estimator(estimator, options)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a non-negative int, got {seed!r}")
    for what, limit in (("samples", samples), ("max_batches", max_batches)):
        if limit is not None and limit < 1:
            raise ValueError(f"{what} must be at least 1, or None for no limit, got {limit}")
    chosen = _selected(model, parameters)
    info: dict[str, Any] = {
        "options": asdict(worker),  # type: ignore[call-overload]
        "parameter_dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in chosen.values()}),
    }

    if not worker.needs_batches:
        weights = {n: worker.of_weight(p.detach().to(accumulation_dtype(p))) for n, p in chosen.items()}
        return SignificanceMap(weights, model=type(model).__name__, estimator=estimator, info=info)

    if loss_fn is None or batches is None:
        raise ValueError(f"the estimator {estimator!r} needs loss_fn and batches")
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
        if max_batches is not None:
            total = max_batches if total is None else min(total, max_batches)
            batches = itertools.islice(batches, max_batches)
        if progress:
            batches = cleanup.enter_context(contextlib.closing(with_progress(batches, total, estimator)))
        generator = torch.Generator().manual_seed((seed + _SIGNS_SEED_OFFSET) % 2**64)
        sums, counts = _accumulate(worker, model, loss_fn, batches, chosen, generator, samples)
    info.update(counts, seed=seed, training=training)
    seen = counts["samples"]
    return SignificanceMap(
        {n: s / seen for n, s in sums.items()},
        samples=seen,
        model=type(model).__name__,
        estimator=estimator,
        info=info,
    )


def fisher_diagonal(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Any], **arguments: Any
) -> SignificanceMap:
    """The empirical Fisher diagonal by random signs: :func:`estimate_prior` with ``estimator="fisher"``."""
    return estimate_prior(model, loss_fn, batches, "fisher", **arguments)


def _accumulate(
    worker: Estimator,
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    chosen: Mapping[str, Tensor],
    generator: torch.Generator,
    samples: int | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    sums = {
        n: torch.zeros_like(p, dtype=accumulation_dtype(p), memory_format=torch.contiguous_format).detach()
        for n, p in chosen.items()
    }
    unreached = set(chosen)
    seen = used = 0
    reasons: list[str] = []
    for number, batch in enumerate(batches):
        at_most = None if samples is None else samples - seen
        request = Request(model, loss_fn, batch, chosen, generator, at_most)
        try:
            contribution = worker.contribution(request)
        except NonFiniteBatch as error:
            reasons.append(f"batch {number}: {error}")
            continue
        reached = [(name, total) for name, total in zip(chosen, contribution.sums, strict=True) if total is not None]
        broken = _not_finite(reached)
        if broken:
            reasons.append(
                f"batch {number}: squared gradients of {len(broken)} parameters such as {broken[0]} are not finite"
            )
            continue
        for name, total in reached:
            sums[name].add_(total)
            unreached.discard(name)
        seen += contribution.samples
        used += 1
        if samples is not None and seen >= samples:
            break
    if not seen:
        raise ValueError(
            "no significance could be estimated: "
            + (f"all batches were refused ({_some(reasons)})" if reasons else "there were no samples")
        )
    if len(unreached) == len(chosen):
        raise ValueError(
            "no gradient reached any of the selected parameters: parameters= must select ones that loss_fn uses"
        )
    if reasons:
        warnings.warn(
            f"{len(reasons)} of {len(reasons) + used} batches were left out of the significance: {_some(reasons)}",
            RuntimeWarning,
            stacklevel=3,
        )
    counts = {
        "samples": seen,
        "batches": used,
        "refused_batches": len(reasons),
        "unreached": [name for name in chosen if name in unreached],
    }
    return sums, counts


def _not_finite(reached: list[tuple[str, Tensor]]) -> list[str]:
    if not reached:
        return []
    finite = [total.isfinite().all() for _, total in reached]
    if bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all()):
        return []
    return [name for (name, _), flag in zip(reached, finite, strict=True) if not bool(flag)]


def _some(reasons: list[str]) -> str:
    more = f"; and {len(reasons) - _REASONS_AT_MOST} more" if len(reasons) > _REASONS_AT_MOST else ""
    return "; ".join(reasons[:_REASONS_AT_MOST]) + more


def _estimator(name: str, options: Mapping[str, Any]) -> Estimator:
    if name not in ESTIMATORS:
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
            raise ValueError(
                f"the model has no parameter {unknown[0]!r}" + (f" and {len(unknown) - 1} more" * (len(unknown) > 1))
            )
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
