"""The step at the ends of what float32 holds: overflowing squares, denormals, zeros, huge strengths, a zero rate."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from srft_kernels.ops.cpu import CpuPlan
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.native import library
from srft_kernels.ops.reference.step import ReferencePlan
from tests.srft_kernels.ops.extreme_cases import EXTREMES, as_torch_steps, check_extremes, extreme_case
from tests.srft_kernels.ops.step_cases import Stepper, name_of

needs_library = pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")


@needs_library
@pytest.mark.parametrize("options", EXTREMES, ids=name_of)
def test_the_cpu_kernels_are_the_reference(options: dict[str, Any]) -> None:
    check_extremes(lambda case: Stepper(case, CpuPlan), options)


@pytest.mark.parametrize("options", EXTREMES, ids=name_of)
def test_the_cuda_kernels_are_the_reference(module: Any, options: dict[str, Any]) -> None:
    check_extremes(lambda case: Stepper(case, functools.partial(CudaPlan, module=module)), options)


@pytest.mark.parametrize("kappa", [1.0, 0.5])
@pytest.mark.parametrize("plan", ["reference", pytest.param("cpu", marks=needs_library), "cuda"])
def test_a_step_is_torchs_where_that_is_finite(plan: str, kappa: float, request: Any) -> None:
    makers: dict[str, Any] = {"reference": ReferencePlan, "cpu": CpuPlan}
    maker = makers.get(plan) or functools.partial(CudaPlan, module=request.getfixturevalue("module"))
    as_torch_steps(lambda case: Stepper(case, maker), kappa=kappa)


def test_a_weight_whose_average_overflowed_stays_where_it_is() -> None:
    """As in torch, the step divides by infinity. The anchor still pulls the weight."""
    case = extreme_case(strength=0.0)
    step = Stepper(case, ReferencePlan)
    before = case.params[0].clone()
    step()
    overflowed = case.second[0].isinf()
    assert 0 < int(overflowed.sum()) < overflowed.numel()
    assert torch.equal(case.params[0][overflowed], before[overflowed])
