"""The plan can be resumed: every trial is one that a file can hold, and none stands twice in a part."""

from __future__ import annotations

import json

import pytest

from evidence.plan import ALL, PARTS, SHORT
from evidence.trials import Record, record_of


@pytest.mark.parametrize("part", list(PARTS))
def test_trials_of_a_part_differ_and_survive_a_file(part: str) -> None:
    keys = [one.key for one in PARTS[part]]
    assert len(set(keys)) == len(keys) > 0
    for one in PARTS[part][:: max(1, len(keys) // 20)]:
        line = json.loads(Record(one, [], {}, {}).as_line())
        assert record_of(line).trial.key == one.key


def test_the_short_version_is_part_of_the_whole() -> None:
    assert set(SHORT) < set(ALL) == set(PARTS)


def test_what_is_claimed_has_five_seeds() -> None:
    for part in SHORT:
        assert {one.seed for one in PARTS[part]} >= set(range(5))
