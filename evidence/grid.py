"""Grids of trials, and options that several benches share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evidence.trials import Trial, trial

FEW_SEEDS = tuple(range(5))
FALLING = {"normalize": "global", "kappa": "cosine"}
PATH = {"normalize": "global", "kappa": "exponential to 1e-3"}
MEANS = {"normalize": "none", "kappa": "cosine", "sum": "means"}
"""Tasks in a row: every task's P over its own mean, so that what is held grows with the number of tasks."""
IN_LOSS = {"mode": "coupled", "normalize": "global"}
"""EWC in the loss with P over the mean of all tensors, which gives λ a unit: that of the loss over a squared weight."""
UNIT = {"unit": "square", "kappa": "cosine"}
"""The pull in Adam's metric, with λ in a unit that is taken from the gradients."""
SAME_UNIT = {"unit": "srft"}
"""The same with λ in SRFT's unit: its weight times the mean of √v, over √v."""
LORA = {"tuning": "lora"}
LORA_HELD = {**LORA, "normalize": "global"}
"""As LaLoRA (arXiv 2512.17720): the updates' own weights, by a curvature that is estimated where they start."""


def grid(
    bench: str, tasks: Sequence[str], method: str, seeds: Iterable[int], fixed: dict[str, Any], **over: Sequence[Any]
) -> Iterator[Trial]:
    """Every combination of the options in ``over``, beside those that are ``fixed``; seeds vary slowest."""
    for seed, task, values in itertools.product(seeds, tasks, itertools.product(*over.values())):
        yield trial(bench, task, method, seed, **{**fixed, **dict(zip(over, values, strict=True))})


def fixed_strengths(bench: str, task: str, sizes: Mapping[str, Any], lr: float) -> list[Trial]:
    """Strengths that nobody searches for, with two seeds, and the one that falls from 100 with five."""
    falling, path = {**sizes, **FALLING}, {**sizes, **PATH}
    trials: list[Trial] = []
    for seed in (0, 1):
        trials += grid(bench, [task], "srft", [seed], path, lr=(lr,), strength=(30.0, 100.0))
        trials += grid(bench, [task], "srft", [seed], falling, lr=(lr,), strength=(10.0,))
    trials += grid(bench, [task], "srft", FEW_SEEDS, path, lr=(lr,), strength=(100.0,))
    return list({one.key: one for one in trials}.values())
