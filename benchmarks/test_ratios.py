"""The tables of `results/`: all contestants of each take turns, which is fairer than one after the other."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from benchmarks.interleave import failures, take_turns
from benchmarks.report import Report
from benchmarks.suite import TABLES
from benchmarks.timing import CopyBandwidth
from benchmarks.training import graph_section, training_section
from benchmarks.workload import Workload

LARGE = 2**26  # parameters from which on the copy is of half a gigabyte and more


def publish(report: Report, name: str, section: dict[str, Any], capsys: Any) -> None:
    """Write the table and print it; then fail if anything of ours in it did."""
    text = report.add(name, section)
    with capsys.disabled():
        print(f"\n\n{text}")
    assert not failures(section)


@pytest.mark.parametrize("name", list(TABLES))
def test_ratios(benchmark: Any, work: Workload, report: Report, capsys: Any, name: str) -> None:
    copy = CopyBandwidth(work.device, 2**27 if work.elements > LARGE else 2**22)
    contestants = TABLES[name](work.device.type)
    section = benchmark.pedantic(take_turns, args=(contestants, work, copy), rounds=1)
    # What was timed is in reference cycles (an optimizer's hooks, a compiled graph): freed now, or the next table has
    # no room.
    gc.collect()
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
    benchmark.extra_info.update(section)
    publish(report, name, section, capsys)


def test_training_step(benchmark: Any, device: torch.device, report: Report, capsys: Any) -> None:
    publish(report, "training", benchmark.pedantic(training_section, args=(device,), rounds=1), capsys)


def test_graph(benchmark: Any, work: Workload, report: Report, capsys: Any) -> None:
    if work.device.type != "cuda":
        pytest.skip("CUDA graphs are of CUDA devices")
    publish(report, "graph", benchmark.pedantic(graph_section, args=(work,), rounds=1), capsys)
