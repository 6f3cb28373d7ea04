"""The tables of the page, from records that are made here."""

from __future__ import annotations

import pytest

from evidence import compared, digits_plan, grid, plan, tables
from evidence.trials import Record, trial


def recorded(lr: float, seed: int, kept: float, **facts: float) -> Record:
    one = trial("bench", "depth", "adamw", seed, lr=lr, steps=3)
    return Record(one, [0.0] * 4, {"final": [50.0, 50.0, kept, kept]}, facts)


def test_conditions_are_of_the_configuration_that_is_chosen() -> None:
    records = [
        *(recorded(1e-4, seed, 60.0, day=10.0 + 2 * seed, night=5.0) for seed in (0, 1)),
        *(recorded(1e-3, seed, 40.0, day=90.0, night=90.0) for seed in (0, 1)),
    ]
    table = tables.conditions_table(records, "depth", {"steps": 3})
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert len(table) == 3
    assert cells[:5] == ["AdamW", "0.0001", "2", "11.0 ± 12.7", "5.0 ± 0.0"]
    assert cells[5:] == ["", "", ""], "no such sequence was there"


def test_no_table_where_no_record_has_conditions() -> None:
    assert tables.conditions_table([recorded(1e-4, 0, 60.0)], "depth", {"steps": 3}) == []


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
    assert tables.best_searched(every) is every[1]
    assert tables.best_searched(every[:3]) is None, "three are no search"
    assert tables.best_searched([*every[:3], {3: measures(99.0)}]) is None, "no seed is shared"


def test_a_rule_is_compared_with_the_best_over_the_seeds_that_both_have() -> None:
    def held(strength: float, seed: int, test: float, validation: float) -> Record:
        one = trial("bench", "new", "srft", seed, lr=1e-3, strength=strength, **grid.FALLING)
        return Record(one, [0.0] * 4, {"final": [validation, test, validation, test]}, {})

    records = [held(30.0, seed, 70.0 + seed, 60.0) for seed in (0, 1)]
    records += [held(strength, 0, 68.5, 50.0) for strength in (1.0, 10.0, 100.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compared, "usual", lambda bench: {})
        table = tables.rules_table({"bench": records})
    header, row = ([cell.strip() for cell in table[line].strip("|").split("|")] for line in (0, 2))
    cells = dict(zip(header, row, strict=True))
    assert cells["best searched: new, kept, mean"] == "70.5, 70.5, 70.5"
    assert cells["λ 30, global, cosine"] == "+0.0"
    assert cells["λ 10, global, cosine"] == "-1.5 (1)"
    assert cells["λ 10, κ 1"] == ""


def test_everything_at_once_compares_each_at_its_best_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's interpolated weights and SRFT with κ falling are best on validation; what they have on test counts."""

    def ran(method: str, seed: int, readouts: dict[str, list[float]], **options: str | float) -> Record:
        one = trial("bench", "new", method, seed, lr=1e-3, **options)
        return Record(one, [0.0] * 4, readouts, {})

    records = []
    for seed in (0, 1):
        both = {"final": measures(60.0, 90.0), "mix0.5": measures(70.0, 55.0 + seed)}
        records.append(ran("adamw", seed, both))
        records.append(ran("srft", seed, {"final": measures(75.0, 60.0 + 3 * seed)}, strength=3.0, **grid.FALLING))
        records.append(ran("srft", seed, {"final": measures(74.0, 99.0)}, strength=3.0))
    records.append(ran("ewc", 0, {"final": measures(50.0, 58.0)}, strength=1.0))
    monkeypatch.setattr(compared, "usual", lambda bench: {})
    header, row = (
        [cell.strip() for cell in tables.overview_table({"bench": records})[line].strip("|").split("|")]
        for line in (0, 2)
    )
    cells = dict(zip(header, row, strict=True))
    assert cells["AdamW: new, kept"] == "55.5, 55.5"
    assert cells["SRFT: new, kept"] == "61.5, 61.5"
    assert cells["seeds"] == "2"
    assert cells["SRFT less AdamW"].startswith("+6.0 ± 12.7")
    assert cells["less EWC"] == "+2.0", "over the one seed that both have"
    assert cells["less LoRA"] == ""


def test_settings_are_pooled_over_pairs_of_kind_and_seed() -> None:
    """A setting that is 4 and 6 ahead on one kind and 1 behind on the other is 2 ahead. One without a kind is out."""

    def ran(task: str, seed: int, test: float, strength: float = 1.0, **change: str) -> Record:
        one = trial("digits", task, "srft", seed, lr=1e-2, strength=strength, **digits_plan.DIGITS, **change)
        return Record(one, [0.0] * 4, {"final": measures(50.0 - strength, test)}, {})

    records = []
    for task, ahead in (("first", (4.0, 6.0)), ("second", (-1.0, -1.0))):
        for seed in (0, 1):
            records += [ran(task, seed, 60.0), ran(task, seed, 99.0, strength=2.0)]
            records.append(ran(task, seed, 60.0 + ahead[seed], normalize="global"))
    records += [ran("first", seed, 90.0, mode="decoupled") for seed in (0, 1)]
    table = tables.pooled_settings_table(records, ["first", "second"])
    assert len(table) == 3
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells[:2] == ["global mean", "4"]
    assert cells[2].startswith("+2.0 ± 5.7"), "3.18 times the standard error of 4, 6, -1 and -1"
    assert cells[3:] == ["+5.0 ± 12.7", "-1.0 ± 0.0"]


def test_no_difference_is_shown_where_nothing_is_to_be_compared_with() -> None:
    found = {"SRFT": {(1e-3, 3.0, "final"): {0: measures(50.0, 60.0)}}}
    table = tables.methods_table(found, [0.0] * 4, {"SRFT": 1})
    assert "nan" not in table[-1]


def test_what_differs_from_the_usual_is_named() -> None:
    usual = compared.usual("vision")
    assert compared.changed(usual.items(), "vision") == ""
    assert compared.changed({**usual, "shots": 2}.items(), "vision") == " (2 examples a class)"
    assert compared.changed({**usual, "blocks": 0}.items(), "vision") == " (all blocks)"


def test_every_task_of_the_plan_has_a_name_of_its_own() -> None:
    tasks = {(one.bench, one.task) for trials in plan.PARTS.values() for one in trials}
    names = {compared.named(bench, task) for bench, task in tasks}
    assert len(names) == len(tasks)
    assert not names & {f"{bench}, {task}" for bench, task in tasks}
    assert compared.named("digits", "rotated", {**compared.usual("digits"), "batch": 4}.items()) == (
        "digits turned and inverted (batches of 4)"
    )
