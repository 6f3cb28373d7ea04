"""The optimizers and penalties that SRFT is compared with.

They are EWC as a careful user writes it, the same mathematics in eager torch and compiled, the published update, and
the low-memory optimizers of bitsandbytes and torchao if they are installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks import traffic
from benchmarks.contestants import (
    DECAY,
    LR,
    STRENGTH,
    Contestant,
    Running,
    Unavailable,
    bytes_of,
    running,
    state_bytes,
)
from benchmarks.workload import Workload

BETA = 0.999

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
SMALLEST_RMS = 1e-3
COUPLING = STRENGTH * 1e-6  # small, because the gradients are used again


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile a function, one graph for each shape, with room for all shapes of a network."""
    torch._dynamo.config.recompile_limit = 64
    made: Callable[..., Tensor] = torch.compile(function, dynamic=False)
    return made


# ---------------------------------------------------------------- elastic weight consolidation beside AdamW


def ewc_foreach(work: Workload) -> Running:
    """EWC as a careful user writes it: penalty gradient and value, running mean of g², then fused AdamW."""
    parameters: list[Tensor] = [*work.parameters]
    anchors, priors, gradients = work.weights, work.priors, work.gradients
    transfers = [torch.zeros_like(p) for p in parameters]
    optimizer = AdamW(parameters, lr=LR, weight_decay=DECAY, fused=True)

    @torch.no_grad()
    def step() -> Tensor:
        torch._foreach_mul_(transfers, BETA)
        torch._foreach_addcmul_(transfers, gradients, gradients, value=1 - BETA)
        pull = torch._foreach_sub(parameters, anchors)
        distance = torch._foreach_pow(pull, 2)
        torch._foreach_mul_(distance, priors)
        value = torch.stack([d.sum() for d in distance]).sum() * (0.5 * STRENGTH)
        torch._foreach_mul_(pull, priors)
        torch._foreach_add_(gradients, pull, alpha=COUPLING)
        optimizer.step()
        return value

    kept = [*transfers, *anchors, *priors]
    return Running(step, lambda: state_bytes(optimizer) + bytes_of(kept))


def regularize(weight: Tensor, gradient: Tensor, transfer: Tensor, anchor: Tensor, prior: Tensor) -> Tensor:
    """EWC of one tensor in plain operations, for the compiler to fuse: into the gradient."""
    transfer.mul_(BETA).add_(gradient * gradient * (1 - BETA))
    pull = weight - anchor
    gradient.add_(COUPLING * prior * pull)
    return (prior * pull * pull).sum()


def regularized_adamw(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, transfer: Tensor, anchor: Tensor, prior: Tensor
) -> Tensor:
    """EWC and AdamW of one tensor in plain operations, for the compiler to fuse."""
    transfer.mul_(BETA).add_(gradient * gradient * (1 - BETA))
    pull = weight - anchor
    value = (prior * pull * pull).sum()
    gradient = gradient + COUPLING * prior * pull
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).add_(gradient * gradient * (1 - BETA2))
    weight.mul_(1 - LR * DECAY).sub_(LR * first / (second.sqrt() + EPSILON))
    return value


def ewc_compiled(work: Workload) -> Running:
    """Compile all of EWC and AdamW, one graph for each shape: what Inductor can make of the same work."""
    function = compiled(regularized_adamw)
    weights, anchors = [p.detach() for p in work.parameters], work.weights
    states = [[torch.zeros_like(w) for w in weights] for _ in range(3)]

    @torch.no_grad()
    def step() -> Tensor:
        lists = (weights, work.gradients, *states, anchors, work.priors)
        return torch.stack([function(*tensors) for tensors in zip(*lists, strict=True)]).sum()

    kept = [t for tensors in (*states, anchors, work.priors) for t in tensors]
    return Running(step, lambda: bytes_of(kept))


def ewc_compiled_alone(work: Workload) -> Running:
    """Compile the regularization alone, then run fused AdamW: what a user of both would have."""
    function = compiled(regularize)
    weights = [p.detach() for p in work.parameters]
    transfers = [torch.zeros_like(w) for w in weights]
    optimizer = AdamW(work.parameters, lr=LR, weight_decay=DECAY, fused=True)

    @torch.no_grad()
    def step() -> Tensor:
        lists = (weights, work.gradients, transfers, work.weights, work.priors)
        value = torch.stack([function(*tensors) for tensors in zip(*lists, strict=True)]).sum()
        optimizer.step()
        return value

    kept = [*transfers, *work.weights, *work.priors]
    return Running(step, lambda: state_bytes(optimizer) + bytes_of(kept))


EWC_FOREACH = Contestant("ewc_foreach", "eager foreach EWC + fused AdamW", traffic.EWC, ewc_foreach)
EWC_COMPILED_ALONE = Contestant(
    "ewc_compiled_alone", "torch.compile of EWC, fused AdamW", traffic.EWC, ewc_compiled_alone
)
EWC_COMPILED = Contestant("ewc_compiled", "torch.compile of EWC and AdamW", traffic.EWC, ewc_compiled)


# ---------------------------------------------------------------- the same mathematics: SRFT's proximal prior alone


def folded_priors(work: Workload) -> list[Tensor]:
    """Return P̂ / rho of every tensor.

    It does not change from step to step, so a careful user would compute it once.
    """
    return [
        p / p.mean() / a.square().mean().sqrt().clamp(min=SMALLEST_RMS)
        for p, a in zip(work.priors, work.weights, strict=True)
    ]


def prior_foreach(work: Workload) -> Running:
    """Penalty, fused AdamW, then one interpolation toward the anchor, its weights w / (1 + w) made beforehand."""
    parameters: list[Tensor] = [*work.parameters]
    anchors = work.weights
    folded = folded_priors(work)
    blend = [LR * STRENGTH * f / (1 + LR * STRENGTH * f) for f in folded]
    optimizer = AdamW(parameters, lr=LR, weight_decay=DECAY, fused=True)

    @torch.no_grad()
    def step() -> Tensor:
        distance = torch._foreach_sub(parameters, anchors)
        torch._foreach_pow_(distance, 2)
        torch._foreach_mul_(distance, folded)
        value = torch.stack([d.sum() for d in distance]).sum() * (0.5 * STRENGTH)
        optimizer.step()
        torch._foreach_lerp_(parameters, anchors, blend)
        return value

    kept = [*anchors, *folded, *blend]
    return Running(step, lambda: state_bytes(optimizer) + bytes_of(kept), optimizer)


def prior_alone(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    anchor: Tensor,
    folded: Tensor,
    rate: Tensor,
    root: Tensor,
) -> Tensor:
    """Take SRFT's step with kappa 1 in plain operations. ``rate`` is lr / (1 - beta1^t), ``root`` sqrt(1 - beta2^t)."""
    distance = weight - anchor
    value = (0.5 * STRENGTH) * (folded * distance * distance).sum()
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).add_(gradient * gradient * (1 - BETA2))
    proposed = weight * (1 - LR * DECAY) - rate * first / (second.sqrt() / root + EPSILON)
    pull = LR * STRENGTH * folded
    weight.copy_(proposed + pull * (anchor - proposed) / (1 + pull))
    return value


def prior_compiled(work: Workload, flat: bool = False) -> Running:
    """Compile :func:`prior_alone`: one graph for each size, or one kernel over everything laid end to end.

    A model whose parameters are separate tensors cannot use the second. It shows what Inductor reaches without the
    launches.
    """
    function = compiled(prior_alone)
    lists = [[p.detach() for p in work.parameters], work.gradients, work.weights, folded_priors(work)]
    lists = [[t.reshape(-1) for t in tensors] for tensors in lists]
    if flat:
        lists = [[torch.cat(tensors)] for tensors in lists]
    weights, gradients, anchors, folded = lists
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    rate, root = torch.zeros((), device=work.device), torch.zeros((), device=work.device)
    time = 0

    @torch.no_grad()
    def step() -> Tensor:
        nonlocal time
        time += 1
        rate.fill_(LR / (1 - BETA1**time))
        root.fill_((1 - BETA2**time) ** 0.5)
        every = zip(weights, gradients, first, second, anchors, folded, strict=True)
        return torch.stack([function(*tensors, rate, root) for tensors in every]).sum()

    kept = [*first, *second, *anchors, *folded]
    return Running(step, lambda: bytes_of(kept))


PRIOR_FOREACH = Contestant(
    "prior_foreach", "eager foreach of prior alone + fused AdamW", traffic.WITH_PRIOR, prior_foreach
)
PRIOR_COMPILED = Contestant("prior_compiled", "torch.compile of prior alone", traffic.WITH_PRIOR, prior_compiled)
PRIOR_COMPILED_FLAT = Contestant(
    "prior_compiled_flat",
    "torch.compile of prior alone, one flat tensor",
    traffic.WITH_PRIOR,
    lambda work: prior_compiled(work, flat=True),
)


# ---------------------------------------------------------------- the published update


def published_update(work: Workload) -> Running:
    """Return the update of SRTrack's release as its trainer takes it: clone, step, rank by a sort, blend."""
    parameters = work.parameters
    optimizer = AdamW(parameters, lr=LR, weight_decay=DECAY, fused=True)
    kept = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step() -> None:
        before = [p.detach().clone() for p in parameters]
        optimizer.step()
        for p, old, last in zip(parameters, before, kept, strict=True):
            assert p.grad is not None
            now = 1e8 * p.grad.square()
            sensitivity = (now + last) / 2
            last.copy_(now)
            sensitivity = sensitivity / sensitivity.max()
            order = sensitivity.flatten().argsort()
            mu = torch.linspace(0.25, 0.65, p.numel(), device=p.device)[order].reshape(p.shape)
            p.copy_(mu * old + (1 - mu) * p)

    return Running(step, lambda: state_bytes(optimizer) + bytes_of(kept))


PUBLISHED = Contestant("published", "published update, eager", traffic.PUBLISHED, published_update, slow=True)


# ---------------------------------------------------------------- other people's optimizers, where they are installed


def bitsandbytes(work: Workload, which: str) -> Running:
    """Make an optimizer of bitsandbytes.

    It keeps float32 moments for small tensors (under 4096 elements) in any case.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # its CPU build looks for kernels on a hub, and nothing here downloads
    try:
        import bitsandbytes as found
    except Exception as error:  # a wheel for another CUDA may raise any error
        raise Unavailable(f"bitsandbytes does not import ({type(error).__name__})") from error
    chosen: Any = getattr(found.optim, which)
    return running(chosen(work.parameters, lr=LR, weight_decay=DECAY))


def torchao(work: Workload) -> Running:
    """Make torchao's optimizer with two 8-bit moments. It compiles its step, one graph for each shape."""
    try:
        from torchao.optim import AdamW8bit
    except Exception as error:
        raise Unavailable(f"torchao does not import ({type(error).__name__})") from error
    torch._dynamo.config.recompile_limit = 64
    return running(AdamW8bit(work.parameters, lr=LR, weight_decay=DECAY))


BITSANDBYTES_32 = Contestant(
    "bnb_32", "bitsandbytes AdamW32bit", traffic.adam(), lambda work: bitsandbytes(work, "AdamW32bit")
)
BITSANDBYTES_8 = Contestant(
    "bnb_8", "bitsandbytes AdamW8bit", traffic.EIGHT_BIT, lambda work: bitsandbytes(work, "AdamW8bit")
)
TORCHAO_8 = Contestant("torchao_8", "torchao AdamW8bit", traffic.EIGHT_BIT, torchao)
