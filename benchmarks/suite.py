"""The tables, with their rows in order.

The baseline comes first. What has to compile comes last, so that a time limit takes the least from a table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import SGD, AdamW

from benchmarks import baselines, penalty, srft, traffic
from benchmarks.contestants import DECAY, LR, MOMENTUM, Contestant, running


def torch_adamw(kind: str) -> Contestant:
    """Return torch's AdamW. ``kind`` is fused or foreach."""
    return Contestant(
        f"adamw_{kind}",
        f"torch AdamW({kind}=True)",
        traffic.adam(),
        lambda work: running(AdamW(work.parameters, lr=LR, weight_decay=DECAY, **{kind: True})),  # type: ignore[arg-type]
    )


TORCH_BF16 = Contestant(
    "adamw_bf16",
    "torch AdamW(fused=True), bfloat16, state too",
    traffic.BF16_ADAM,
    lambda work: running(AdamW(work.in_dtype(torch.bfloat16), lr=LR, weight_decay=DECAY, fused=True)),
    baseline="adamw_bf16",
)
TORCH_SGD = Contestant(
    "sgd_fused",
    "torch SGD(momentum, fused=True)",
    traffic.SGD,
    lambda work: running(SGD(work.parameters, lr=LR, momentum=MOMENTUM, fused=True)),
    baseline="sgd_fused",
)
TORCH_RMSPROP = Contestant(
    "rmsprop",
    "torch RMSprop(foreach=True)",
    traffic.RMSPROP,
    lambda work: running(srft.rmsprop(work.parameters)),
    baseline="rmsprop",
)


def step_contestants(device: str) -> list[Contestant]:
    """Return the contestants of one optimizer step: SRFT, torch's AdamW, and all that do what SRFT does."""
    *mine, again = srft.main_contestants(device)
    return [
        torch_adamw("fused"),
        *mine,
        torch_adamw("foreach"),
        baselines.EWC_FOREACH,
        baselines.PRIOR_FOREACH,
        again,
        baselines.PUBLISHED,
        baselines.BITSANDBYTES_32,
        baselines.BITSANDBYTES_8,
        baselines.EWC_COMPILED_ALONE,
        baselines.EWC_COMPILED,
        baselines.PRIOR_COMPILED,
        baselines.PRIOR_COMPILED_FLAT,
        baselines.TORCHAO_8,
    ]


def variant_contestants(device: str) -> list[Contestant]:
    """Return SRFT's other options, dtypes and inner optimizers, beside torch's own optimizers that do less."""
    return [torch_adamw("fused"), TORCH_BF16, TORCH_SGD, TORCH_RMSPROP, *srft.variant_contestants(device)]


# By the name of the section in the results.
TABLES: dict[str, Callable[[str], list[Contestant]]] = {
    "step": step_contestants,
    "variants": variant_contestants,
    "penalty": penalty.contestants,
}
TITLES = {
    "step": "One optimizer step",
    "variants": "Other options, dtypes and inner optimizers",
    "penalty": "`significance_penalty`",
}
