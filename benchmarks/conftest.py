"""Fixtures: the device, a workload for the session, and the report that tables are added to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.report import Report
from benchmarks.workload import Workload


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: Any) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("not measured: needs a CUDA device, and torch sees none here")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def work(device: torch.device) -> Workload:
    return Workload(device)


@pytest.fixture(scope="session")
def report(device: torch.device) -> Report:
    """Writes to SRFT_BENCH_OUT, or to `results/`."""
    folder = os.environ.get("SRFT_BENCH_OUT")
    return Report(device, Path(folder) if folder else None)
