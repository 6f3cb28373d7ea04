"""The tables of the page, from records that are made here."""

from __future__ import annotations

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
