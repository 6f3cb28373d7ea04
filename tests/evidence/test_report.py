"""The tables of the page, from records that are made here."""

from __future__ import annotations

import pytest

from evidence import report
from evidence.trials import Record, trial


def recorded(lr: float, seed: int, kept: float, **facts: float) -> Record:
    one = trial("bench", "depth", "adamw", seed, lr=lr, steps=3)
    return Record(one, [0.0] * 4, {"final": [50.0, 50.0, kept, kept]}, facts)


def test_conditions_are_of_the_configuration_that_is_chosen() -> None:
    records = [
        *(recorded(1e-4, seed, 60.0, day=10.0 + 2 * seed, night=5.0) for seed in (0, 1)),
        *(recorded(1e-3, seed, 40.0, day=90.0, night=90.0) for seed in (0, 1)),
    ]
    table = report.conditions_table(records, "depth", {"steps": 3})
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert len(table) == 3
    assert cells[:5] == ["AdamW", "0.0001", "2", "11.0 ± 12.7", "5.0 ± 0.0"]
    assert cells[5:] == ["", "", ""], "no such sequence was there"


def test_no_table_where_no_record_has_conditions() -> None:
    assert report.conditions_table([recorded(1e-4, 0, 60.0)], "depth", {"steps": 3}) == []


def measures(validation: float, test: float = 0.0) -> list[float]:
    return [validation, test, validation, test]


def test_the_best_of_a_search_is_chosen_on_the_seeds_that_all_have() -> None:
    """The second is best on seed 0, which four share; the third is better on other seeds, which does not count."""
    every = [
        {0: measures(50.0)},
        {0: measures(60.0), 1: measures(10.0)},
        {0: measures(40.0), 1: measures(90.0), 2: measures(90.0)},
        {0: measures(30.0)},
    ]
    assert report.best_searched(every) is every[1]
    assert report.best_searched(every[:3]) is None, "three are no search"
    assert report.best_searched([*every[:3], {3: measures(99.0)}]) is None, "no seed is shared"


def test_a_rule_is_compared_with_the_best_over_the_seeds_that_both_have() -> None:
    def held(strength: float, seed: int, test: float, validation: float) -> Record:
        one = trial("bench", "new", "srft", seed, lr=1e-3, strength=strength, **report.plan.FALLING)
        return Record(one, [0.0] * 4, {"final": [validation, test, validation, test]}, {})

    records = [held(30.0, seed, 70.0 + seed, 60.0) for seed in (0, 1)]
    records += [held(strength, 0, 68.5, 50.0) for strength in (1.0, 10.0, 100.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "usual", lambda bench: {})
        table = report.rules_table({"bench": records})
    header, row = ([cell.strip() for cell in table[line].strip("|").split("|")] for line in (0, 2))
    cells = dict(zip(header, row, strict=True))
    assert cells["best searched: new, kept, mean"] == "70.5, 70.5, 70.5"
    assert cells["λ 30, global, cosine"] == "+0.0"
    assert cells["λ 10, global, cosine"] == "-1.5 (1)"
    assert cells["λ 10, κ 1"] == ""
