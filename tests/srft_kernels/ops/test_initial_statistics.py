"""The statistics of a tensor's first step, which are those of the whole tensor and take little memory."""

from __future__ import annotations

import pytest
import torch

from benchmarks.hutchinson import peak_bytes
from srft_kernels.ops import contract, initial_statistics
from srft_kernels.ops.contract import Damping, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.reference.rank import fresh_statistics, sampled
from tests.srft_kernels.ops.step_cases import Case, make_case

LARGE = 3 * contract.SAMPLE_ALL + 7


def large_case(damping: Damping) -> Case:
    case = make_case(shapes=((LARGE,),), damping=damping, decoupled_decay=True)
    case.grads[0][::1001] = float("nan")
    return case


def coming(case: Case) -> torch.Tensor:
    """T after the step, for all elements."""
    beta = float(case.settings[Setting.BETA2])
    gradient = case.grads[0]
    return (beta * case.second[0] + (1 - beta) * gradient * gradient) / (1 - beta ** (float(case.steps[0]) + 1))


def test_ranks_are_those_of_the_whole() -> None:
    case = large_case(Damping.RANK)
    counted = sampled(LARGE) & case.grads[0].isfinite()
    expected = torch.zeros(contract.STATISTICS, dtype=torch.float64)
    fresh_statistics(coming(case), counted, expected)
    tensors = case.tensors()
    initial_statistics.fill(tensors, case.grads, case.settings.tolist(), StepFlags.of(case.flags))
    assert torch.equal(tensors.statistics[0], expected)
    assert 0 < int(counted.sum()) < LARGE // 8


def test_means_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial_statistics, "PIECE", 100_000)
    case = large_case(Damping.MEAN)
    finite = case.grads[0].isfinite()
    expected = coming(case)[finite].double().sum()
    tensors = case.tensors()
    initial_statistics.fill(tensors, case.grads, case.settings.tolist(), StepFlags.of(case.flags))
    found = tensors.statistics[0]
    torch.testing.assert_close(found[contract.SUM], expected, rtol=1e-12, atol=0.0)
    assert found[contract.COUNT] == int(finite.sum())


def test_a_large_tensor_takes_few_bytes_an_element() -> None:
    case = make_case(shapes=((1 << 22,),), decoupled_decay=True)
    tensors, settings = case.tensors(), case.settings.tolist()
    flags = StepFlags.of(case.flags)
    taken = peak_bytes(lambda: initial_statistics.fill(tensors, case.grads, settings, flags), torch.device("cpu"))
    assert taken <= 8 * (1 << 22)
