"""Fixtures: the device, and one workload for the session."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.workload import Workload


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: Any) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def work(device: torch.device) -> Workload:
    return Workload(device)
