"""Curvature during training: Hutchinson's running estimate of the Hessian's diagonal, as all or part of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from srft_kernels.ops.probe import fold_probes_
from srft_kernels.sharded import local
from srft_kernels.significance.hessian import (
    Difference,
    default_step,
    kept_gradient,
    laid_out,
    narrowest_dtype,
    perturbed_gradients,
    refuse_once_differentiable,
    vector_products,
)
from srft_kernels.significance.preserve import Generators


@dataclass(frozen=True)
class Hutchinson:
    """Settings of the Hessian's diagonal H that :class:`SRFT` estimates during training.

    In every ``every``-th step, whose closure gives the loss, H ← β H + (1-β) · z ⊙ (∇²L z), averaged over ``probes``.
    The z are random signs (Bekas, Kokiopoulou and Saad 2007), which are computed where they are used. The prior
    significance of a step is then (1 - blend) P / mean(P) + blend |H| / mean(|H|). By default that is H alone. A step
    that folds a product reads H in the same pass, so it divides by the means that the fold before has left, corrected
    for the change of H's bias.

    Finite differences cost ``probes`` forward and backward passes every ``every`` steps, or twice as many if they are
    central. During those they take one copy of the parameters and one more gradient, or two if they are central. H
    takes 4 bytes a parameter.

    Args:
        every: An estimate is made in every so many steps.
        probes: How many vectors of signs an estimate averages.
        beta: β, in [0, 1).
        blend: The weight of |H| in the prior significance, in (0, 1].
        method: ``"finite_difference"`` takes further gradients from the closure, at θ + hz, or at θ ± hz for
            ``difference="central"``. It needs first derivatives only and works with fused attention, autocast,
            checkpointing and ``DistributedDataParallel``. Parameters come back from a copy, bit for bit, also after an
            exception. Every evaluation draws the same random numbers; buffers (BatchNorm's statistics) see the batch
            once more for each. ``"autograd"`` differentiates twice: its closure returns the loss and does *not* call
            ``backward``.
        difference: ``"forward"``, ``"central"``, or None to choose by the dtype of the arithmetic.
        step: h of the finite difference. None chooses it by the narrowest dtype in the gradient's graph and the number
            of elements.
        seed: The seed of the signs.

    Raises:
        ValueError: For settings out of range.
    """

    every: int = 10
    probes: int = 1
    beta: float = 0.9
    blend: float = 1.0
    method: Literal["finite_difference", "autograd"] = "finite_difference"
    difference: Difference | None = None
    step: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("every", "probes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {self.beta}")
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend must be in (0, 1], got {self.blend}")
        if self.method not in ("finite_difference", "autograd"):
            raise ValueError(f"method must be 'finite_difference' or 'autograd', got {self.method!r}")
        if self.difference not in (None, "forward", "central"):
            raise ValueError(f"difference must be 'forward', 'central' or None, got {self.difference!r}")
        if self.method == "autograd" and (self.step is not None or self.difference is not None):
            raise ValueError("step and difference belong to method='finite_difference'; method='autograd' has neither")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, or None for the default, got {self.step}")

    def state(self) -> dict[str, Any]:
        """Return the settings as plain data, for a checkpoint."""
        return asdict(self)


@dataclass
class HessianProduct:
    """What the last probe of a draw adds to H: H ← decay H + weight z ⊙ (plus - minus).

    ``plus`` and ``minus`` are given by parameter and laid out like it. If ``minus`` is None, the gradient that the
    closure left is subtracted, or nothing with ``whole``.
    """

    plus: dict[Tensor, Tensor]
    minus: dict[Tensor, Tensor] | None
    whole: bool
    decay: float
    weight: float
    seed: int
    step: int


@torch.no_grad()
def evaluate(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> tuple[Any, HessianProduct]:
    """Evaluate a closure and the products of a draw, and leave the loss's gradients in ``.grad``.

    All products but the last are folded into ``curvatures``. The last one is returned, so that whoever reads H next can
    fold it in the same pass over memory.

    Args:
        spec: What is estimated.
        params: The parameters with an H.
        numbers: The number that keys each parameter's signs. Each shard of a parameter has a number of its own.
        curvatures: H of each parameter, or its local shard if the parameter is sharded.
        draw: The number of the draw.
        closure: Evaluates the loss.

    Returns:
        What the closure returned, and the last product.

    Raises:
        RuntimeError: If the closure does not fit the method. The parameters are then as before.
    """
    products = _by_autograd if spec.method == "autograd" else _by_differences
    return products(spec, params, numbers, curvatures, draw, closure)


@torch.no_grad()
def fold(
    params: Sequence[Tensor], numbers: Sequence[int], curvatures: Sequence[Tensor], product: HessianProduct
) -> None:
    """Fold the last product of :func:`evaluate` in a pass of its own.

    An element that would not be finite keeps its value.
    """
    chosen = [k for k, p in enumerate(params) if p in product.plus]
    plus = [product.plus[params[k]] for k in chosen]
    minus: list[Tensor] = []
    if product.minus is not None:
        minus = [product.minus[params[k]] for k in chosen]
    elif not product.whole:
        minus = [laid_out(_own(params[k].grad), local(params[k])) for k in chosen]
    estimates, keys = [curvatures[k] for k in chosen], [numbers[k] for k in chosen]
    # H is kept from draw to draw, so a value that is not finite would stay in it. The step's kernels leave such out,
    # too.
    finite = [p.isfinite().all() for p in plus]
    if minus:
        finite = [flag & m.isfinite().all() for flag, m in zip(finite, minus, strict=True)]
    sound = torch.stack(finite).tolist() if finite else []
    before = [(h, h.clone()) for h, known in zip(estimates, sound, strict=True) if not known]
    fold_probes_(estimates, plus, minus, product.decay, product.weight, product.seed, product.step, keys)
    for h, was in before:
        h.copy_(torch.where(h.isfinite(), h, was))


def _by_autograd(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> tuple[Any, HessianProduct]:
    # The fused kernels of attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        loss = closure()
        try:
            gradients = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        except (RuntimeError, TypeError) as error:
            raise RuntimeError(
                "method='autograd' differentiates the loss twice: its closure must return the loss and not call "
                "backward(); or use method='finite_difference'"
            ) from error
        refuse_once_differentiable(gradients)

        def product(probe: int) -> HessianProduct:
            step = draw * spec.probes + probe
            retain = probe + 1 < spec.probes
            rows = vector_products(gradients, params, numbers, spec.seed, step, retain=retain)
            plus = {params[k]: laid_out(row, params[k]) for k, (row, _) in rows.items()}
            return _weighed(spec, probe, plus, None, True, (1 - spec.beta) / spec.probes, step)

        last = _all_but_last(spec, product, params, numbers, curvatures)
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else g.detach()
    return loss, last


def _weighed(
    spec: Hutchinson,
    probe: int,
    plus: dict[Tensor, Tensor],
    minus: dict[Tensor, Tensor] | None,
    whole: bool,
    weight: float,
    step: int,
) -> HessianProduct:
    return HessianProduct(plus, minus, whole, spec.beta if probe == 0 else 1.0, weight, spec.seed, step)


def _all_but_last(
    spec: Hutchinson,
    product: Callable[[int], HessianProduct],
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
) -> HessianProduct:
    for probe in range(spec.probes - 1):
        fold(params, numbers, curvatures, product(probe))
    return product(spec.probes - 1)


def _by_differences(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> tuple[Any, HessianProduct]:
    generators = Generators()
    with torch.enable_grad():
        loss = closure()
    base = [p.grad for p in params]
    kept = [None if g is None else kept_gradient(g) for g in base]
    moved = [k for k, g in enumerate(base) if g is not None]
    if not moved:
        raise RuntimeError("the closure left no gradients: it must call backward(), as for any optimizer")
    dtype = narrowest_dtype(loss, params) if isinstance(loss, Tensor) else params[0].dtype
    difference = spec.difference or ("forward" if dtype in (torch.float32, torch.float64) else "central")
    step = spec.step or default_step(dtype, sum(params[k].numel() for k in moved), difference)
    chosen = [params[k] for k in moved]

    def gradients() -> list[Tensor | None]:
        for p in params:
            p.grad = None
        generators.restore()
        with torch.enable_grad():
            closure()
        found = [kept_gradient(laid_out(_own(p.grad), local(p))) for p in chosen]
        for p, g in zip(params, kept, strict=True):
            p.grad = g
        return list(found)

    try:
        with perturbed_gradients(chosen, [numbers[k] for k in moved], spec.seed, gradients) as gradients_at:

            def product(probe: int) -> HessianProduct:
                key = draw * spec.probes + probe
                plus = _by_parameter(chosen, gradients_at(step, key))
                minus = _by_parameter(chosen, gradients_at(-step, key)) if difference == "central" else None
                span = 2 * step if difference == "central" else step
                return _weighed(spec, probe, plus, minus, False, (1 - spec.beta) / (spec.probes * span), key)

            last = _all_but_last(spec, product, params, numbers, curvatures)
    finally:
        for p, g, value in zip(params, base, kept, strict=True):
            p.grad = g if g is None or value is None or value is g else g.copy_(value)
    return loss, last


def _by_parameter(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> dict[Tensor, Tensor]:
    return {p: g for p, g in zip(params, gradients, strict=True) if g is not None}


def _own(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else local(grad)
