"""`significance_penalty` and its backward against the same written in eager torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import srft_kernels as srft
from benchmarks.workload import ROUNDS, Workload, now


def eager(params: list[Tensor], anchors: list[Tensor], priors: list[Tensor], strength: float) -> Tensor:
    terms = [(s * (p - a).square()).sum() for p, a, s in zip(params, anchors, priors, strict=True)]
    return 0.5 * strength * torch.stack(terms).sum()


@pytest.mark.parametrize("penalty", [srft.significance_penalty, eager], ids=["srft", "eager"])
def test_penalty_forward_and_backward(benchmark: Any, work: Workload, penalty: Callable[..., Tensor]) -> None:
    params = [torch.nn.Parameter(w.clone()) for w in work.weights]
    anchors = [w + 0.01 for w in work.weights]

    def both() -> None:
        for p in params:
            p.grad = None
        penalty(params, anchors, work.priors, 10.0).backward()
        now(work.device)

    benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=2)
