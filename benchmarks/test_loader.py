"""Samples a second: loader, training step, both, and the published way of both, in turns of one process."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from benchmarks.interleave import FAILED
from benchmarks.loader import loader_section
from benchmarks.report import Report


def test_loader(benchmark: Any, device: torch.device, report: Report, capsys: Any) -> None:
    for library in ("cv2", "pydantic", "timm", "tqdm", "yaml"):
        pytest.importorskip(library, reason=f"not measured: the tracker needs {library}")
    section = benchmark.pedantic(loader_section, args=(device,), rounds=1)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    benchmark.extra_info.update(section)
    text = report.add_apart("loader", section)
    with capsys.disabled():
        print(f"\n\n{text}")
    assert not [row for row in section["rows"] if row.get("why", "").startswith(FAILED)]
