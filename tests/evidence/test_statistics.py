"""The choice on validation data, the interval, the paired test and the frontier, against what is known by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from evidence.statistics import Family, both_on_test, chosen, estimate, frontier, new_task, paired, results_of
from evidence.trials import Record, trial

SHARED = {"steps": 10}


def record(lr: float, seed: int, measures: list[float], method: str = "adamw", **options: str | int) -> Record:
    named = trial("digits", "rotated", method, seed, lr=lr, **SHARED, **options)
    return Record(named, [0.0] * 4, {"final": measures, "mix0.5": [0.0] * 4}, {})


def test_the_choice_sees_validation_data_alone() -> None:
    records = [record(0.1, 0, [60, 0, 60, 0]), record(0.2, 0, [50, 100, 50, 100]), record(0.3, 0, [90, 0, 20, 0])]
    results = results_of(Family("AdamW", "adamw"), records, "rotated", SHARED)
    assert chosen(results) == (0.1, None, "final")
    assert chosen(results, new_task) == (0.3, None, "final")


def test_configurations_that_lack_seeds_do_not_compete() -> None:
    records = [record(0.1, seed, [50, 50, 50, 50]) for seed in (0, 1)] + [record(0.2, 0, [90, 90, 90, 90])]
    results = results_of(Family("AdamW", "adamw"), records, "rotated", SHARED)
    assert set(results) == {(0.1, None, "final")}


def test_families_differ_by_options_and_readouts() -> None:
    records = [record(0.1, 0, [1, 1, 1, 1]), record(0.1, 0, [2, 2, 2, 2], kappa="cosine")]
    falling = results_of(Family("falls", "adamw", {"kappa": "cosine"}), records, "rotated", SHARED)
    assert list(falling.values()) == [{0: [2, 2, 2, 2]}]
    mixed = results_of(Family("mixed", "adamw", readout="mix"), records, "rotated", SHARED)
    assert {key[2] for key in mixed} == {"final", "mix0.5"}


def test_a_rank_is_chosen_as_a_learning_rate_is() -> None:
    records = [record(0.1, 0, [new] * 4, "lora", rank=rank) for rank, new in ((2, 50), (8, 70))]
    results = results_of(Family("LoRA", "lora"), records, "rotated", SHARED)
    assert set(results) == {(0.1, None, "final, rank 2"), (0.1, None, "final, rank 8")}
    assert chosen(results) == (0.1, None, "final, rank 8")


def test_interval_and_paired_test() -> None:
    # 1..5: mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776.
    found = estimate([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    first, second = {0: 3.0, 1: 5.0, 2: 4.0, 9: 0.0}, {0: 1.0, 1: 2.0, 2: 3.0, 8: 7.0}
    difference = paired(first, second)
    assert difference.estimate.mean == pytest.approx(2.0)
    assert difference.p == pytest.approx(stats.ttest_1samp([2.0, 3.0, 1.0], 0.0).pvalue)


def test_frontier_is_what_no_other_configuration_beats() -> None:
    points = {0.1: [10, 90], 0.2: [50, 60], 0.3: [40, 50], 0.4: [80, 20], 0.5: [80, 10]}
    records = [record(lr, 0, [new, 0, old, 0]) for lr, (new, old) in points.items()]
    results = results_of(Family("AdamW", "adamw"), records, "rotated", SHARED)
    beaten = {lr for lr, p in points.items() for q in points.values() if q != p and q[0] >= p[0] and q[1] >= p[1]}
    assert {key[0] for key in frontier(results)} == set(points) - beaten == {0.1, 0.2, 0.4}


def test_both_means_both_on_test_data() -> None:
    assert both_on_test([0.0, 40.0, 0.0, 60.0]) == 50.0
