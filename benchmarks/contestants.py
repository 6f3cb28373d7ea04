"""Who is compared. Each contestant takes one optimizer step over the workload and says how many bytes a step must move.

Bytes are per parameter element, in float32: a tensor that is read counts 4, one that is read and written 8. They are
what the mathematics needs in one pass; a contestant that makes several passes moves more and is not credited for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import AdamW

import srft_kernels as srft
from benchmarks.workload import Workload

LR, DECAY, STRENGTH, BETA = 1e-4, 1e-4, 10.0, 0.999
ADAMW_BYTES = 8 + 8 + 8 + 4  # weight, two moments; gradient
PRIOR_BYTES = 4 + 4  # anchor, prior


@dataclass
class Contestant:
    """``step`` is what is timed; ``slow`` ones take few rounds."""

    name: str
    step: Callable[[], object]
    bytes_per_element: int
    state_bytes_per_element: float
    slow: bool = False


def torch_adamw(work: Workload, **how: bool) -> Contestant:
    optimizer = AdamW(work.parameters, lr=LR, weight_decay=DECAY, **how)
    kind = next(iter(how), "loop")
    return Contestant(f"torch AdamW({kind}=True)", optimizer.step, ADAMW_BYTES, 8.0)


def srft_adamw(work: Workload, name: str, *, prior: bool, kappa: float) -> Contestant:
    parameters = work.parameters
    optimizer = srft.SRFT(
        AdamW(parameters, lr=LR, weight_decay=DECAY),
        prior=dict(zip(parameters, work.priors, strict=True)) if prior else None,
        strength=STRENGTH if prior else 0.0,
        kappa=kappa,
    )
    state = sum(optimizer.state_bytes().values()) / work.elements
    return Contestant(name, optimizer.step, ADAMW_BYTES + PRIOR_BYTES * prior, state)


def ewc_foreach(work: Workload) -> Contestant:
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
        torch._foreach_add_(gradients, pull, alpha=STRENGTH * 1e-6)  # small: the gradients are used again
        optimizer.step()
        return value

    return Contestant("eager foreach EWC + fused AdamW", step, ADAMW_BYTES + PRIOR_BYTES + 8, 8.0 + 12.0)


def regularised_adamw(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, transfer: Tensor, anchor: Tensor, prior: Tensor
) -> Tensor:
    """EWC and AdamW of one tensor in plain operations, for the compiler to fuse."""
    transfer.mul_(BETA).add_(gradient * gradient * (1 - BETA))
    pull = weight - anchor
    value = (prior * pull * pull).sum()
    gradient = gradient + STRENGTH * 1e-6 * prior * pull
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).add_(gradient * gradient * 0.001)
    weight.mul_(1 - LR * DECAY).sub_(LR * first / (second.sqrt() + 1e-8))
    return value


def ewc_compiled(work: Workload) -> Contestant:
    """The whole of it under torch.compile, one graph for each shape: what Inductor can make of the same mathematics."""
    torch._dynamo.config.recompile_limit = 64
    compiled = torch.compile(regularised_adamw, dynamic=False)
    weights, anchors = [p.detach() for p in work.parameters], work.weights
    states = [[torch.zeros_like(w) for w in weights] for _ in range(3)]

    @torch.no_grad()
    def step() -> Tensor:
        lists = (weights, work.gradients, *states, anchors, work.priors)
        return torch.stack([compiled(*tensors) for tensors in zip(*lists, strict=True)]).sum()

    return Contestant("torch.compile of EWC and AdamW", step, ADAMW_BYTES + PRIOR_BYTES + 8, 8.0 + 12.0)


def ewc_compiled_alone(work: Workload) -> Contestant:
    """Only the regularisation under torch.compile, then fused AdamW: what a user of both would have."""
    torch._dynamo.config.recompile_limit = 64

    def regularise(weight: Tensor, gradient: Tensor, transfer: Tensor, anchor: Tensor, prior: Tensor) -> Tensor:
        transfer.mul_(BETA).add_(gradient * gradient * (1 - BETA))
        pull = weight - anchor
        gradient.add_(STRENGTH * 1e-6 * prior * pull)
        return (prior * pull * pull).sum()

    compiled = torch.compile(regularise, dynamic=False)
    parameters = work.parameters
    gradients, anchors = work.gradients, work.weights
    weights = [p.detach() for p in parameters]
    transfers = [torch.zeros_like(w) for w in weights]
    optimizer = AdamW(parameters, lr=LR, weight_decay=DECAY, fused=True)

    @torch.no_grad()
    def step() -> Tensor:
        lists = (weights, gradients, transfers, anchors, work.priors)
        value = torch.stack([compiled(*tensors) for tensors in zip(*lists, strict=True)]).sum()
        optimizer.step()
        return value

    return Contestant("torch.compile of EWC, fused AdamW", step, ADAMW_BYTES + PRIOR_BYTES + 8, 8.0 + 12.0)


def published_update(work: Workload) -> Contestant:
    """The update of SRTrack's release as its trainer takes it: clone, step, rank by a sort, blend."""
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

    return Contestant("published update, eager", step, ADAMW_BYTES + 8, 12.0, slow=True)


def contestants(work: Workload) -> dict[str, Callable[[], Contestant]]:
    """By short name; made when called, because each holds gigabytes."""
    return {
        "adamw_fused": lambda: torch_adamw(work, fused=True),
        "srft": lambda: srft_adamw(work, "SRFT(AdamW): prior and rank damping", prior=True, kappa=0.5),
        "srft_prior": lambda: srft_adamw(work, "SRFT(AdamW): prior alone", prior=True, kappa=1.0),
        "srft_damping": lambda: srft_adamw(work, "SRFT(AdamW): rank damping alone", prior=False, kappa=0.0),
        "srft_plain": lambda: srft_adamw(work, "SRFT(AdamW): strength 0, kappa 1", prior=False, kappa=1.0),
        "adamw_foreach": lambda: torch_adamw(work, foreach=True),
        "ewc_foreach": lambda: ewc_foreach(work),
        "ewc_compiled_alone": lambda: ewc_compiled_alone(work),
        "ewc_compiled": lambda: ewc_compiled(work),
        "published": lambda: published_update(work),
    }


NAMES = (
    "adamw_fused",
    "srft",
    "srft_prior",
    "srft_damping",
    "srft_plain",
    "adamw_foreach",
    "ewc_foreach",
    "ewc_compiled_alone",
    "ewc_compiled",
    "published",
)
