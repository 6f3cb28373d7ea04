"""The optimizer of a run: torch's AdamW, or SRFT around it, over named parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import srft_kernels as srft
from tracker.config import OptimizerSection, TrainSection
from tracker.errors import RGBXError

NamedGroup = dict[str, Any]


def decay_groups(network: nn.Module, lr: float, weight_decay: float) -> list[NamedGroup]:
    """Make two named groups for training from scratch: matrices decay, while norms, biases and positions do not."""
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    plain = [item for item in named if item[1].ndim < 2 or item[0].startswith("positions.")]
    names = {name for name, _ in plain}
    return [
        {"params": [item for item in named if item[0] not in names], "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]


def build_optimizer(
    groups: list[NamedGroup],
    train: TrainSection,
    settings: OptimizerSection,
    prior: Mapping[str, torch.Tensor] | None = None,
) -> Optimizer:
    """Make AdamW over ``groups``, wrapped in SRFT where the settings say so.

    Args:
        groups: param groups whose ``params`` are (name, parameter) pairs.
        train: learning rate, betas, weight decay, and the length that kappa runs over.
        settings: which optimizer and how.
        prior: significance by parameter name; parameters without one are held by transfer significance alone.
    """
    trained = {name for group in groups for name, _ in group["params"]}
    inner = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay)
    if settings.name == "adamw":
        return inner
    if settings.adapters == "free":
        for group in inner.param_groups:
            if group.get("name") == "adapters":
                group["regularize"] = False
    if prior is not None:
        prior = {name: tensor for name, tensor in prior.items() if name in trained}
        if not prior:
            raise RGBXError(
                "nothing that trains has a prior, because all of it is new; leave optimizer.prior out, or train "
                "some of the pre-trained weights too (train.also_train)"
            )
    try:
        return srft.SRFT(
            inner,
            prior=prior,
            strength=settings.strength,
            kappa=kappa_schedule(settings, train.total_steps),
            mode=settings.mode,
            normalize=None if settings.normalize == "none" else settings.normalize,
            damping=None if settings.damping == "none" else settings.damping,
            mu=settings.mu,
        )
    except ValueError as error:
        raise RGBXError(f"SRFT refuses this configuration: {error}") from error


def kappa_schedule(settings: OptimizerSection, total_steps: int) -> Any:
    """Return the schedule that ``optimizer.kappa`` names, over the whole run."""
    start, end = settings.kappa_start, settings.kappa_end
    if settings.kappa == "constant":
        return srft.ConstantKappa(start)
    kinds = {"cosine": srft.CosineKappa, "linear": srft.LinearKappa, "exponential": srft.ExponentialKappa}
    return kinds[settings.kappa](total_steps, start, end)
