"""From records to figures that can be compared: each method at its own best, paired over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from evidence.trials import MEASURES, Record

TARGET_VALIDATION, TARGET, KEPT_VALIDATION, KEPT = range(len(MEASURES))
TUNED = ("lr", "strength", "rank")
"""What is chosen for each method on validation data; every other option is part of what the method is."""

Pair = TypeVar("Pair", bound=Hashable)

Configuration = tuple[Any, Any, str]
"""Learning rate, strength, and the name of the readout, with the rank behind it where there is one."""


@dataclass(frozen=True)
class Family:
    """A method as a reader knows it: trials of one kind, and which of their readouts count.

    ``options`` are those that differ from the ones that all trials of a comparison share; ``readout`` is a prefix.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    readout: str = "final"

    def holds(self, record: Record, shared: Mapping[str, Any]) -> bool:
        options = {name: value for name, value in record.trial.settings.items() if name not in TUNED}
        return record.trial.method == self.method and options == {**shared, **self.options}

    def counts(self, readout: str) -> bool:
        return readout.startswith(self.readout) or (self.readout in ("at", "mix", "merge") and readout == "final")


Results = dict[Configuration, dict[int, list[float]]]
"""The measures of a family, by configuration and seed."""


def results_of(
    family: Family, records: Iterable[Record], task: str, shared: Mapping[str, Any], comparable: bool = True
) -> Results:
    """What a family reached on a task.

    Only configurations that ran with every seed of the family's are comparable; others are left out unless
    ``comparable`` is False.
    """
    found: Results = defaultdict(dict)
    for record in records:
        if record.trial.task == task and family.holds(record, shared):
            for name, measures in record.readouts.items():
                if family.counts(name):
                    rank = record.trial.get("rank")
                    label = name if rank is None else f"{name}, rank {rank}"
                    key = (record.trial.get("lr"), record.trial.get("strength"), label)
                    found[key][record.trial.seed] = measures
    if not any(key[2].startswith(family.readout) for key in found):
        return {}  # The last weights alone are another family.
    return with_most_seeds(found) if comparable else dict(found)


def with_most_seeds(results: Results) -> Results:
    """Those configurations that ran with as many seeds as any."""
    most = max((len(seeds) for seeds in results.values()), default=0)
    return {key: seeds for key, seeds in results.items() if len(seeds) == most}


def tried(family: Family, records: Iterable[Record], task: str, shared: Mapping[str, Any]) -> int:
    """How many configurations of a family ran on a task with any seed, so that the best of them could be chosen."""
    held = (record for record in records if record.trial.task == task and family.holds(record, shared))
    return len(
        {
            (record.trial.get("lr"), record.trial.get("strength"), readout)
            for record in held
            for readout in record.readouts
            if family.counts(readout)
        }
    )


def means(results: Results) -> dict[Configuration, np.ndarray]:
    """The mean over seeds of each configuration's measures."""
    return {key: np.mean(list(seeds.values()), axis=0) for key, seeds in results.items()}


Criterion = Callable[[np.ndarray], float]


def balance(measures: np.ndarray) -> float:
    """The mean of new and old on validation data."""
    return float(measures[TARGET_VALIDATION] + measures[KEPT_VALIDATION]) / 2.0


def new_task(measures: np.ndarray) -> float:
    """The new task alone, on validation data."""
    return float(measures[TARGET_VALIDATION])


def chosen(results: Results, criterion: Criterion = balance) -> Configuration | None:
    """The configuration that is best on validation data, as a mean over seeds."""
    found = means(results)
    return max(found, key=lambda key: criterion(found[key])) if found else None


def both_on_test(measures: Sequence[float]) -> float:
    """The mean of new and old on test data."""
    return (measures[TARGET] + measures[KEPT]) / 2.0


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval by Student's t."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.count < 2 else f"{self.mean:.1f} ± {self.half:.1f}"


def estimate(values: Sequence[float]) -> Estimate:
    count = len(values)
    if count < 2:
        return Estimate(float(np.mean(values)) if count else math.nan, math.inf, count)
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)
    return Estimate(float(np.mean(values)), float(half), count)


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds, with its interval and the p of a two-sided paired t test."""

    estimate: Estimate
    p: float

    def __str__(self) -> str:
        if self.estimate.count < 2:
            return f"{self.estimate.mean:+.1f}"
        return f"{self.estimate.mean:+.1f} ± {self.estimate.half:.1f} (p {self.p:.2g})"


def paired(first: Mapping[Pair, float], second: Mapping[Pair, float]) -> Difference:
    """``first`` minus ``second`` over the seeds, or pairs of task and seed, that both have."""
    seeds = [seed for seed in first if seed in second]
    differences = [first[seed] - second[seed] for seed in seeds]
    if len(seeds) < 2:
        return Difference(estimate(differences), math.nan)
    if np.ptp(differences) == 0.0:
        return Difference(estimate(differences), 1.0 if differences[0] == 0.0 else 0.0)
    p = stats.ttest_rel([first[s] for s in seeds], [second[s] for s in seeds]).pvalue
    return Difference(estimate(differences), float(p))


def frontier(results: Results) -> list[Configuration]:
    """The configurations that no other one of the family beats on both axes of validation data, by what they keep."""
    found = means(results)
    order = sorted(found, key=lambda key: (-found[key][KEPT_VALIDATION], -found[key][TARGET_VALIDATION]))
    kept: list[Configuration] = []
    best = -math.inf
    for key in order:
        if found[key][TARGET_VALIDATION] > best:
            best = float(found[key][TARGET_VALIDATION])
            kept.append(key)
    return kept
