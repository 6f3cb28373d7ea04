"""One Hutchinson update: finite differences, double backward and timm's Adahessian take turns, on the same ViT."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from benchmarks.hutchinson import AUTOCAST, hutchinson_section
from benchmarks.interleave import failures
from benchmarks.report import Report


@pytest.mark.parametrize("name", list(AUTOCAST))
def test_hutchinson(benchmark: Any, device: torch.device, report: Report, capsys: Any, name: str) -> None:
    if device.type == "cpu" and AUTOCAST[name] is not None:
        pytest.skip("autocast is timed on a GPU")
    section = benchmark.pedantic(hutchinson_section, args=(device, name), rounds=1)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    benchmark.extra_info.update(section)
    text = report.add_apart(name, section)
    with capsys.disabled():
        print(f"\n\n{text}")
    assert not failures(section)
