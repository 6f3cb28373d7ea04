"""One pytest-benchmark entry per contestant, for a look at one; the tables are the fairer comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.contestants import Contestant, Unavailable
from benchmarks.suite import TABLES
from benchmarks.timing import clock
from benchmarks.workload import ROUNDS, Workload

# By key; those of a GPU include those of a CPU.
ENTRIES: dict[str, str] = {c.key: table for table, make in TABLES.items() for c in make("cuda") if not c.same_as}


def contestant_of(key: str, device: torch.device) -> Contestant:
    for c in TABLES[ENTRIES[key]](device.type):
        if c.key == key:
            return c
    pytest.skip(f"{key} is of CUDA devices")


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize("key", ENTRIES)
def test_step(benchmark: Any, work: Workload, key: str) -> None:
    contestant = contestant_of(key, work.device)
    try:
        running = contestant.make(work)
    except Unavailable as reason:
        pytest.skip(f"not measured: {reason}")
    running.step()  # first steps allocate, compile and gather statistics
    slow = contestant.slow
    benchmark.pedantic(running.step, rounds=1 if slow else ROUNDS, warmup_rounds=0 if slow else 2)
    moved = contestant.traffic.bytes_per_element * work.elements
    benchmark.extra_info.update(
        bytes_moved=moved,
        formula=contestant.traffic.formula,
        gigabytes_per_second=moved / benchmark.stats.stats.median / 1e9,
        state_bytes_per_parameter=running.state_bytes() / work.elements,
    )
