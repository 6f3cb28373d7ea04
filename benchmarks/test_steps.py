"""One entry per contestant; `test_ratios.py` is the fairer comparison, because there they take turns."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contestants import NAMES, contestants
from benchmarks.workload import ROUNDS, Workload, now


@pytest.mark.parametrize("name", NAMES)
def test_step(benchmark: Any, work: Workload, name: str) -> None:
    contestant = contestants(work)[name]()

    def step() -> None:
        contestant.step()
        now(work.device)

    step()  # first steps allocate, compile and gather statistics
    benchmark.pedantic(step, rounds=1 if contestant.slow else ROUNDS, warmup_rounds=0 if contestant.slow else 2)
    moved = contestant.bytes_per_element * work.elements
    benchmark.extra_info.update(
        bytes_moved=moved,
        gigabytes_per_second=moved / benchmark.stats.stats.median / 1e9,
        state_bytes_per_parameter=contestant.state_bytes_per_element,
    )
