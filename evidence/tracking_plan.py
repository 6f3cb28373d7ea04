"""The experiments with the tracker, as lists of trials."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evidence.grid import FALLING, FEW_SEEDS, LORA, LORA_HELD, MEANS, PATH, SAME_UNIT, UNIT, grid
from evidence.trials import Trial

FIRST_TRACKING: dict[str, Any] = {"sequences": 16, "steps": 200, "batch": 16}
"""Judged on 16 sequences, which all seeds share."""
TRACKING: dict[str, Any] = {**FIRST_TRACKING, "tests": 96, "frames": 15, "precision": "fp32"}
"""Judged on 96 sequences that are a seed's own, 480 for five seeds: a standard error of about 0.8 points."""
SHORT_TRACKING: dict[str, Any] = {**TRACKING, "steps": 100, "batch": 8, "tests": 48}
"""A quarter of the samples, as in the demonstration, and half of the tests: what two cores have time for."""
MODALITIES = ("thermal", "depth", "event")
TUNINGS = ("frozen", "lora", "adapters", "sdstrack", "patrack", "distill")
"""The ways to tune that leave most of the RGB tracker's weights alone, or train a student."""


def tuned_ways(fixed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of each way to tune, by its name."""
    return {name: {**fixed, "tuning": name} for name in TUNINGS}


def core(seeds: Sequence[int], tasks: Sequence[str] = ("thermal",)) -> Iterator[Trial]:
    """AdamW over its learning rates, and SRFT at a high one."""
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(3e-4,))
        yield from grid("tracking", tasks, "srft", [seed], {**FIRST_TRACKING, **PATH}, lr=(1e-3,), strength=(30.0,))
        yield from grid("tracking", tasks, "srft", [seed], FIRST_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(1e-4,))
        yield from grid("tracking", tasks, "srft", [seed], {**FIRST_TRACKING, "x": "none"}, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", tasks, "adamw", [seed], FIRST_TRACKING, lr=(1e-3,))


def ways(seeds: Iterable[int], tasks: Sequence[str], sizes: Mapping[str, Any]) -> Iterator[Trial]:
    """Every way to tune two streams, at the learning rates that papers use for it, and at better ones."""
    fixed = dict(sizes)
    uniform, falling = {**fixed, "estimator": "uniform"}, {**fixed, **FALLING}
    tuned = tuned_ways(fixed)
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        one = [seed]
        yield from grid(*where, "adamw", one, fixed, lr=(1e-4,))
        yield from grid(*where, "srft", one, fixed, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "xonly", one, fixed, lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["sdstrack"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["patrack"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["lora"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["adapters"], lr=(3e-3,))
        yield from grid(*where, "adamw", one, fixed, lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["distill"], lr=(3e-4,))
        yield from grid(*where, "srft", one, tuned["sdstrack"], lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", one, tuned["frozen"], lr=(1e-3,))
        yield from grid(*where, "srft", one, falling, lr=(1e-3,), strength=(10.0,))
        yield from grid(*where, "ewc", one, fixed, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid(*where, "srft", one, tuned["frozen"], lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", one, fixed, lr=(3e-4,))
        # What was better on the first seed's validation data of RGB-thermal than the rates that papers use.
        yield from grid(*where, "srft", one, fixed, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "xonly", one, fixed, lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["lora"], lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["sdstrack"], lr=(3e-4,))
        yield from grid(*where, "adamw", one, tuned["adapters"], lr=(1e-3,))
        yield from grid(*where, "adamw", one, tuned["patrack"], lr=(3e-3,))
        yield from grid(*where, "l2sp", one, uniform, lr=(1e-3,), strength=(10.0,))


def ways_core(seeds: Iterable[int], tasks: Sequence[str], others: bool = True) -> Iterator[Trial]:
    """Of the ways to tune two streams those that the question is about: all weights, held or not, X alone, or few."""
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
        yield from grid(*where, "xonly", [seed], SHORT_TRACKING, lr=(1e-3,))
        if others:
            yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(1e-3,))
            yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-3,))


def ways_strength(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams held more strongly: on the first seed, and what was best on its validation data on the others."""
    yield from grid("tracking", tasks, "srft", (0,), SHORT_TRACKING, lr=(1e-3,), strength=(10.0, 30.0))
    yield from grid("tracking", tasks, "srft", seeds, SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))


def ways_held(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams by what RGB-thermal chose, on other modalities: SRFT, a small rate, X alone, and few weights."""
    for seed, task in itertools.product(seeds, tasks):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
        yield from grid(*where, "xonly", [seed], SHORT_TRACKING, lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(1e-3,))


def ways_choice(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two more rates or strengths of every way to tune two streams, around those of :func:`ways`."""
    uniform = {**SHORT_TRACKING, "estimator": "uniform"}
    tuned = tuned_ways(SHORT_TRACKING)
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], tuned["lora"], lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "xonly", [seed], SHORT_TRACKING, lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["sdstrack"], lr=(3e-4, 3e-3))
        yield from grid("tracking", tasks, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e4, 1e5))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["adapters"], lr=(1e-3, 1e-2))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1.0, 10.0))
        yield from grid("tracking", tasks, "adamw", [seed], tuned["patrack"], lr=(3e-3, 1e-2))
        yield from grid("tracking", tasks, "srft", [seed], tuned["sdstrack"], lr=(1e-3,), strength=(30.0,))
        yield from grid("tracking", tasks, "srft", [seed], SHORT_TRACKING, lr=(3e-4,), strength=(10.0, 30.0))


def ways_rivals(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """A frozen RGB stream and low-rank updates at the rate that was best on the first seed's validation data."""
    for seed, task in itertools.product(seeds, tasks):
        yield from grid("tracking", [task], "xonly", [seed], SHORT_TRACKING, lr=(3e-4,))
        yield from grid("tracking", [task], "adamw", [seed], {**SHORT_TRACKING, **LORA}, lr=(3e-4,))


def ways_held_lower(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """SRFT at a lower rate, where it was best on the first seed's validation data of RGB-thermal."""
    for task in tasks:
        yield from grid("tracking", [task], "srft", seeds, SHORT_TRACKING, lr=(3e-4,), strength=(10.0,))


def ways_others(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """The other ways to tune two streams, each where it was best on the first seed's validation data."""
    uniform = {**SHORT_TRACKING, "estimator": "uniform"}
    tuned = tuned_ways(SHORT_TRACKING)
    for task, seed in itertools.product(tasks, seeds):
        where: tuple[str, list[str]] = ("tracking", [task])
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "l2sp", [seed], uniform, lr=(1e-3,), strength=(10.0,))
        yield from grid(*where, "adamw", [seed], tuned["sdstrack"], lr=(3e-4,))
        yield from grid(*where, "srft", [seed], tuned["sdstrack"], lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], tuned["adapters"], lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], tuned["frozen"], lr=(1e-3,))
        yield from grid(*where, "adamw", [seed], tuned["patrack"], lr=(3e-3,))


def ways_student(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """A student of one stream, distilled from a two-stream tracker: by AdamW over its rates, and held by SRFT."""
    student = tuned_ways(SHORT_TRACKING)["distill"]
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], student, lr=(3e-4,))
        yield from grid("tracking", tasks, "srft", [seed], student, lr=(1e-3,), strength=(30.0,))
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], student, lr=(1e-4, 3e-5, 1e-5))


def ways_student_rates(
    seeds: Iterable[int], tasks: Sequence[str], rates: Iterable[tuple[float, float]]
) -> Iterator[Trial]:
    """A student by AdamW with one rate for its old weights and another for its new layers."""
    student = tuned_ways(SHORT_TRACKING)["distill"]
    for seed, (lr, new) in itertools.product(seeds, rates):
        yield from grid("tracking", tasks, "adamw", [seed], {**student, "new_rate": new}, lr=(lr,))


def ways_student_choice(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """A student held by SRFT at other strengths, and at a lower rate."""
    student = tuned_ways(SHORT_TRACKING)["distill"]
    for seed in seeds:
        yield from grid("tracking", tasks, "srft", [seed], student, lr=(1e-3,), strength=(100.0, 10.0))
        yield from grid("tracking", tasks, "srft", [seed], student, lr=(3e-4,), strength=(30.0,))


def ways_student_held(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """A student held by SRFT at the strength that was best on the first seed's validation data."""
    student = tuned_ways(SHORT_TRACKING)["distill"]
    yield from grid("tracking", tasks, "srft", seeds, student, lr=(1e-3,), strength=(100.0,))


def x_prior(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """The X stream held by its own significance or by nothing; in :func:`ways` the RGB tracker's holds it."""
    for seed, task, kind in itertools.product(seeds, tasks, ("own", "none")):
        fixed = {**SHORT_TRACKING, "x": kind}
        yield from grid("tracking", [task], "srft", [seed], fixed, lr=(1e-3,), strength=(3.0,))


def high(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """Two streams at three times the rate that papers use, held more strongly."""
    for seed in seeds:
        falling = {**SHORT_TRACKING, **FALLING}
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))


def alone(seeds: Iterable[int], tasks: Sequence[str], **changed: Any) -> Iterator[Trial]:
    """The RGB tracker learns to track in X alone: one stream for both, over learning rates and strengths."""
    short = {**SHORT_TRACKING, **changed}
    uniform, falling = {**short, "estimator": "uniform"}, {**short, **FALLING}
    for seed in seeds:
        yield from grid("tracking", tasks, "adamw", [seed], short, lr=(1e-4, 3e-4, 1e-3))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(1e-3,), strength=(3.0, 10.0, 30.0))
        yield from grid("tracking", tasks, "srft", [seed], short, lr=(1e-3,), strength=(1.0, 3.0))
        yield from grid("tracking", tasks, "ewc", [seed], short, lr=(1e-3,), strength=(1e2, 1e3))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))
        yield from grid("tracking", tasks, "ewc", [seed], short, lr=(3e-3,), strength=(1e3, 1e4))
        yield from grid("tracking", tasks, "l2sp", [seed], uniform, lr=(3e-3,), strength=(1e-1, 1.0))
        yield from grid("tracking", tasks, "srft", [seed], falling, lr=(1e-2,), strength=(100.0,))


def alone_core(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """What was best on the first seed's validation data of depth, and AdamW at SRFT's rate."""
    short = {**SHORT_TRACKING, **changed}
    uniform, falling = {**short, "estimator": "uniform"}, {**short, **FALLING}
    for seed in seeds:
        yield from grid("tracking", [task], "srft", [seed], falling, lr=(3e-3,), strength=(30.0,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-4, 3e-4))
        yield from grid("tracking", [task], "ewc", [seed], short, lr=(1e-3,), strength=(1e3,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-3,))
        yield from grid("tracking", [task], "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid("tracking", [task], "srft", [seed], short, lr=(1e-3,), strength=(3.0,))


def alone_between(seeds: Iterable[int], task: str) -> Iterator[Trial]:
    """AdamW at a rate between its two best; in four times the steps at one below them."""
    yield from grid("tracking", [task], "adamw", seeds, SHORT_TRACKING, lr=(2e-4,))
    yield from grid("tracking", [task], "adamw", (0, 1), {**SHORT_TRACKING, "steps": 400}, lr=(3e-5,))


def alone_longer(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """SRFT of both kinds, AdamW at its two best rates and EWC, where something takes many times as long."""
    short = {**SHORT_TRACKING, **changed}
    for seed in seeds:
        yield from grid("tracking", [task], "srft", [seed], short, lr=(1e-3,), strength=(3.0,))
        yield from grid("tracking", [task], "adamw", [seed], short, lr=(1e-4, 3e-4))
        yield from grid("tracking", [task], "srft", [seed], {**short, **FALLING}, lr=(3e-3,), strength=(30.0,))
        yield from grid("tracking", [task], "ewc", [seed], short, lr=(1e-3,), strength=(1e3,))


def alone_changed(task: str, **changed: Any) -> Iterator[Trial]:
    """Everything of :func:`alone_core` with two seeds, and what matters most with five, where something changes."""
    yield from alone_core((0, 1), task, **changed)
    yield from alone_longer(FEW_SEEDS, task, **changed)


def alone_ways(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """Ways to tune one stream that leave its blocks alone: the head, and low-rank updates, held or not."""
    short = {**SHORT_TRACKING, **changed}
    lora, held = {**short, **LORA}, {**short, **LORA_HELD}
    for seed in seeds:
        yield from grid("tracking", [task], "adamw", [seed], lora, lr=(1e-3, 3e-3, 1e-2))
        yield from grid("tracking", [task], "srft", [seed], held, lr=(3e-3,), strength=(0.03, 0.3, 3.0))
        yield from grid("tracking", [task], "probe", [seed], short, lr=(3e-4, 1e-3, 3e-3))
        yield from grid("tracking", [task], "srft", [seed], held, lr=(1e-2,), strength=(0.3, 3.0))
        yield from grid("tracking", [task], "adamw", [seed], lora, lr=(3e-4,))


def alone_ways_core(seeds: Iterable[int], task: str, **changed: Any) -> Iterator[Trial]:
    """What was best of them on the first seed's validation data."""
    short = {**SHORT_TRACKING, **changed}
    for seed in seeds:
        yield from grid("tracking", [task], "adamw", [seed], {**short, **LORA}, lr=(3e-3,))
        yield from grid("tracking", [task], "srft", [seed], {**short, **LORA_HELD}, lr=(3e-3,), strength=(0.3,))
        yield from grid("tracking", [task], "probe", [seed], short, lr=(3e-4,))


def alone_unit(seeds: Iterable[int], task: str) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in a unit, on the tracker."""
    fixed = {**SHORT_TRACKING, **UNIT}
    for seed in seeds:
        yield from grid("tracking", [task], "metric", [seed], fixed, lr=(1e-3, 3e-3), strength=(300.0, 1000.0))
        yield from grid("tracking", [task], "metric", [seed], fixed, lr=(3e-3,), strength=(100.0, 3000.0))


def metric_choice(seeds: Iterable[int], tasks: Sequence[str]) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in the units of EWC's penalty, by a constant κ and by one that falls."""
    for seed in seeds:
        for kappa, strengths in (("cosine", (1e3, 1e4)), ("1", (1e3, 1e2))):
            fixed = {**SHORT_TRACKING, "kappa": kappa}
            yield from grid("tracking", tasks, "metric", [seed], fixed, lr=(1e-3,), strength=strengths)


def metric(seeds: Iterable[int], tasks: Sequence[str], lr: float, kappa: str) -> Iterator[Trial]:
    """The pull in Adam's metric with λ in SRFT's unit, at the strength that is SRFT's best there."""
    fixed = {**SHORT_TRACKING, **SAME_UNIT, "kappa": kappa}
    yield from grid("tracking", tasks, "metric", seeds, fixed, lr=(lr,), strength=(30.0,))


def in_a_row(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three modalities one after another, each alone: what was best on the first seed's validation data."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    for seed in seeds:
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4,))
    for seed in seeds:
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(3e-4,))


def in_a_row_means(seeds: Iterable[int]) -> Iterator[Trial]:
    """Three modalities one after another, with every modality's significance over its own mean."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    for seed in seeds:
        steady, falling = {**SHORT_TRACKING, **MEANS, "kappa": "1"}, {**SHORT_TRACKING, **MEANS}
        yield from grid(*where, "srft", [seed], steady, lr=(1e-3,), strength=(3.0, 10.0))
        yield from grid(*where, "srft", [seed], falling, lr=(3e-3,), strength=(10.0, 30.0))


def in_a_row_choice(seeds: Iterable[int]) -> Iterator[Trial]:
    """Rates and strengths of every method, going halfway back after each task, and uniform weights in the loss."""
    where: tuple[str, list[str]] = ("tracking_row", ["row"])
    falling, uniform = {**SHORT_TRACKING, **FALLING}, {**SHORT_TRACKING, "estimator": "uniform"}
    for seed in seeds:
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(1e-4, 3e-4))
        yield from grid(*where, "srft", [seed], falling, lr=(3e-3,), strength=(30.0, 100.0))
        yield from grid(*where, "srft", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(3.0,))
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e3,))
        yield from grid(*where, "srft", [seed], falling, lr=(1e-3,), strength=(30.0,))
        yield from grid(*where, "adamw", [seed], {**SHORT_TRACKING, "mix": 0.5}, lr=(1e-3,))
        yield from grid(*where, "ewc", [seed], SHORT_TRACKING, lr=(1e-3,), strength=(1e2,))
        yield from grid(*where, "l2sp", [seed], uniform, lr=(1e-3,), strength=(1e-1,))
        yield from grid(*where, "adamw", [seed], SHORT_TRACKING, lr=(3e-5, 1e-3))
