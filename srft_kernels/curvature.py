"""Curvature on the way: Hutchinson's estimate of the Hessian's diagonal during training, as (part of) the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .ops.probe import fill_probes_, fold_probes_, perturb_
from .sharded import local
from .significance.hessian import Difference, default_step, laid_out, narrowest_dtype, refuse_once_differentiable
from .significance.untouched import Generators


@dataclass(frozen=True)
class Hutchinson:
    """H ← β H + (1-β) · z ⊙ (∇²L z), averaged over ``probes``, in every ``every``-th step of :class:`SRFT`, whose
    closure gives the loss; z are random signs (Bekas, Kokiopoulou and Saad 2007), computed where they are used.

    The prior significance of a step is then (1 - blend) P / mean(P) + blend |H| / mean(|H|): H alone by default.

    ``method``: ``"finite_difference"`` takes ``probes`` further gradients from the closure, at θ + hz, or at θ ± hz
    for ``difference="central"``; it needs first derivatives only and works with fused attention, autocast,
    checkpointing and ``DistributedDataParallel``. Parameters come back from a copy, bit for bit, also after an
    exception; random numbers are drawn alike in every evaluation; buffers (BatchNorm's statistics) see the batch once
    more for each. ``"autograd"`` differentiates twice: its closure returns the loss and does *not* call ``backward``.

    ``step`` is h, by default by the narrowest dtype in the gradient's graph and the number of elements.

    Cost: finite differences, ``probes`` (central: twice as many) forward and backward passes every ``every`` steps, and
    during those one copy of the parameters and one of the gradients; always, H and the blended prior, 8 bytes a
    parameter.
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
        """Plain data, for a checkpoint."""
        return asdict(self)


@torch.no_grad()
def fold(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> Any:
    """Evaluate ``closure``, fold this draw's z ⊙ Hz into ``curvatures``, leave the loss's gradients in ``.grad``.

    ``numbers`` key each parameter's signs, ``draw`` the draw; of a sharded parameter both are this process's, and
    ``curvatures`` holds the local shard. Returns the loss.

    Raises
    ------
    RuntimeError
        Where a closure does not fit the method; parameters are as before.
    """
    return (_by_autograd if spec.method == "autograd" else _by_differences)(
        spec, params, numbers, curvatures, draw, closure
    )


def _by_autograd(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> Any:
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
        curved = [k for k, g in enumerate(gradients) if g is not None and g.requires_grad]
        decay = spec.beta
        for probe in range(spec.probes if curved else 0):
            step = draw * spec.probes + probe
            signs = [torch.empty_like(params[k], requires_grad=False) for k in curved]
            fill_probes_(signs, spec.seed, step, [numbers[k] for k in curved])
            rows = torch.autograd.grad(
                [gradients[k] for k in curved],
                [params[k] for k in curved],
                [z.to(gradients[k].dtype) for z, k in zip(signs, curved, strict=True)],
                retain_graph=probe + 1 < spec.probes,
                allow_unused=True,
            )
            fold_probes_(
                [curvatures[k] for k in curved],
                [laid_out(row, params[k]) for row, k in zip(rows, curved, strict=True)],
                [],
                decay,
                (1 - spec.beta) / spec.probes,
                spec.seed,
                step,
                [numbers[k] for k in curved],
            )
            decay = 1.0
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else g.detach()
    return loss


def _by_differences(
    spec: Hutchinson,
    params: Sequence[Tensor],
    numbers: Sequence[int],
    curvatures: Sequence[Tensor],
    draw: int,
    closure: Callable[[], Any],
) -> Any:
    generators = Generators()
    with torch.enable_grad():
        loss = closure()
    base = [p.grad for p in params]
    kept = [None if g is None else g.clone() for g in base]  # DistributedDataParallel's buckets are written again
    moved = [k for k, g in enumerate(base) if g is not None]
    if not moved:
        raise RuntimeError("the closure left no gradients: it must call backward(), as for any optimizer")
    dtype = narrowest_dtype(loss, params) if isinstance(loss, Tensor) else params[0].dtype
    difference = spec.difference or ("forward" if dtype in (torch.float32, torch.float64) else "central")
    step = spec.step or default_step(dtype, sum(params[k].numel() for k in moved), difference)
    chosen, keys = [local(params[k]) for k in moved], [numbers[k] for k in moved]
    originals = [p.detach().clone(memory_format=torch.preserve_format) for p in chosen]

    def own_gradient(grad: Tensor | None) -> Tensor | None:
        return None if grad is None else local(grad)

    def gradients(scale: float, key: int) -> list[Tensor]:
        for p in params:
            p.grad = None
        generators.restore()
        perturb_(chosen, originals, scale, spec.seed, key, keys)
        torch.clear_autocast_cache()  # or it would keep casts of the weights as they were
        with torch.enable_grad():
            closure()
        found = [laid_out(own_gradient(params[k].grad), p) for k, p in zip(moved, chosen, strict=True)]
        return [g.clone() for g in found] if difference == "central" else found

    try:
        decay = spec.beta
        for probe in range(spec.probes):
            key = draw * spec.probes + probe
            plus = gradients(step, key)
            if difference == "central":
                minus = gradients(-step, key)
            else:
                minus = [laid_out(own_gradient(kept[k]), p) for k, p in zip(moved, chosen, strict=True)]
            span = 2 * step if difference == "central" else step
            weight = (1 - spec.beta) / (spec.probes * span)
            fold_probes_([curvatures[k] for k in moved], plus, minus, decay, weight, spec.seed, key, keys)
            decay = 1.0
    finally:
        torch._foreach_copy_(chosen, originals)
        torch.clear_autocast_cache()
        for p, g, value in zip(params, base, kept, strict=True):
            p.grad = g if g is None or value is None else g.copy_(value)
    return loss


@torch.no_grad()
def blended(
    prior: Tensor | None, inverse_mean: float, curvature: Tensor, mean: Tensor, blend: float, out: Tensor
) -> None:
    """out ← (1 - blend) P / mean(P) + blend |H| / mean(|H|); a mean of zero leaves its part out."""
    scale = torch.where(mean > 0, blend / mean, torch.zeros_like(mean))
    torch.abs(curvature, out=out).mul_(scale)
    if prior is not None and blend < 1:
        out.add_(prior, alpha=(1 - blend) * inverse_mean)
