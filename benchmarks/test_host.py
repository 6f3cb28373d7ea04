"""Host time of one step over many tensors of hardly any data; nothing waits for a device while the clock runs."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks import host
from benchmarks.contestants import Unavailable
from benchmarks.report import Report
from benchmarks.timing import wait

HOST_ROUNDS, WARM_ROUNDS = 200, 20


@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("key", [key for key, _ in host.host_rows("cuda")])
def test_host_time(benchmark: Any, device: torch.device, report: Report, key: str) -> None:
    names = dict(host.host_rows(device.type))
    if key not in names:
        pytest.skip(f"{key} is of CUDA devices")
    try:
        optimizer = host.make(key, device)
    except Unavailable as reason:
        pytest.skip(f"not measured: {reason}")
    benchmark.pedantic(optimizer.step, setup=lambda: wait(device), rounds=HOST_ROUNDS, warmup_rounds=WARM_ROUNDS)
    stats = benchmark.stats.stats
    rows = report.sections.get("host", {"rows": []})["rows"]
    row = {"key": key, "contestant": names[key], "us": stats.median * 1e6, "least us": stats.min * 1e6}
    report.add("host", {"rows": [*rows, row], "rounds": HOST_ROUNDS})
