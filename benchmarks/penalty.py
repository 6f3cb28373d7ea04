"""`significance_penalty`, its value alone and with its gradients: the operator, Triton, and the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import srft_kernels as srft
from benchmarks import traffic
from benchmarks.baselines import compiled
from benchmarks.contestants import STRENGTH, Contestant, Running, Unavailable
from benchmarks.srft import BACKENDS
from benchmarks.workload import Workload

Penalty = Callable[[list[Tensor], list[Tensor], list[Tensor], float], Tensor]


def eager(params: list[Tensor], anchors: list[Tensor], priors: list[Tensor], strength: float) -> Tensor:
    """Compute the penalty as it is usually written: a sum over tensors of sums."""
    terms = [(s * (p - a).square()).sum() for p, a, s in zip(params, anchors, priors, strict=True)]
    return 0.5 * strength * torch.stack(terms).sum()


def one_term(param: Tensor, anchor: Tensor, prior: Tensor) -> Tensor:
    return (prior * (param - anchor).square()).sum()


def by_compiler() -> Penalty:
    """Return :func:`eager` with each tensor's term under torch.compile, and its backward pass too."""
    function = compiled(one_term)

    def penalty(params: list[Tensor], anchors: list[Tensor], priors: list[Tensor], strength: float) -> Tensor:
        terms = [function(*tensors) for tensors in zip(params, anchors, priors, strict=True)]
        return 0.5 * strength * torch.stack(terms).sum()

    return penalty


def over(work: Workload, penalty: Penalty, *, backward: bool) -> Running:
    """Run ``penalty`` over a workload's tensors, away from their anchors. Gradients are made anew each time."""
    params = [torch.nn.Parameter(w.clone()) for w in work.weights]
    anchors = [w + 0.01 * torch.randn_like(w) for w in work.weights]

    def value() -> None:
        with torch.no_grad():
            penalty([*params], anchors, work.priors, STRENGTH)

    def value_and_gradient() -> None:
        for p in params:
            p.grad = None
        penalty([*params], anchors, work.priors, STRENGTH).backward()

    return Running(value_and_gradient if backward else value, lambda: 0)


def over_triton(work: Workload, *, backward: bool) -> Running:
    """Run Triton's two kernels, called as the operator calls a backend's."""
    try:
        from srft_kernels.ops import triton
        from srft_kernels.ops.triton.penalty import penalty_gradients, penalty_value
    except ImportError as error:
        raise Unavailable(f"the Triton backend does not import ({error})") from error
    able, reason = triton.available()
    if not able:
        raise Unavailable(f"the Triton backend is not available: {reason}")
    params = [w.clone() for w in work.weights]
    anchors = [w + 0.01 * torch.randn_like(w) for w in work.weights]
    strength = torch.full((), STRENGTH, dtype=torch.float64, device=work.device)
    grad = torch.ones((), device=work.device)

    def step() -> None:
        penalty_value(params, anchors, work.priors, strength)
        if backward:
            penalty_gradients(grad, params, anchors, work.priors, strength)

    return Running(step, lambda: 0)


def contestants(device: str) -> list[Contestant]:
    """Value alone first, then with the gradients; the baseline of each is eager torch."""
    made = []
    for backward in (False, True):
        what = "value and gradients" if backward else "value"
        suffix = "_backward" if backward else ""
        moved = traffic.PENALTY_AND_GRADIENT if backward else traffic.PENALTY
        entries: list[tuple[str, str, Callable[[Workload], Running]]] = [
            ("eager", "eager torch", _plain(lambda: eager, backward)),
            ("operator", "significance_penalty", _plain(lambda: srft.significance_penalty, backward)),
            ("compiled", "torch.compile", _plain(by_compiler, backward)),
        ]
        if "triton" in BACKENDS[device]:
            entries.append(("triton", "Triton", _triton(backward)))
        made += [
            Contestant(f"penalty_{key}{suffix}", f"{name}: {what}", moved, make, f"penalty_eager{suffix}")
            for key, name, make in entries
        ]
    return made


def _plain(penalty: Callable[[], Penalty], backward: bool) -> Callable[[Workload], Running]:
    return lambda work: over(work, penalty(), backward=backward)


def _triton(backward: bool) -> Callable[[Workload], Running]:
    return lambda work: over_triton(work, backward=backward)
