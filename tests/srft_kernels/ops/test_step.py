"""The compiled CPU kernels against the reference in float64, over every mode, dtype and layout."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Inner, Mode, Setting
from srft_kernels.ops.cpu import CpuPlan
from srft_kernels.ops.native import library
from srft_kernels.ops.reference.rank import sampled
from tests.srft_kernels.ops.digests import digests
from tests.srft_kernels.ops.step_cases import (
    CONFIGURATIONS,
    DTYPES,
    SHAPES,
    Stepper,
    assert_agrees,
    assert_halves_agree,
    configured,
    make_case,
    name_of,
    reference_step,
)

pytestmark = pytest.mark.skipif(not library.available, reason=f"the native library is not here: {library.reason}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=name_of)
def test_the_kernels_are_the_reference(options: dict, dtype: torch.dtype) -> None:
    case = configured(options, dtype)
    step = Stepper(case, CpuPlan)
    for _ in range(
        3
    ):  # the first step's statistics are made for it, the second reads its own, the third moves the range
        step.prepare()
        before, truth = case.copy(), case.copy(torch.float64)
        step()
        reference_step(truth)
        assert_agrees(case, truth, before, dtype=dtype)
        for t in case.grads:
            t.mul_(-0.7)
    assert [float(s) for s in case.steps] == [7.0] * len(SHAPES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("to_anchor", [False, True])
def test_the_halves_of_an_unfused_step_are_the_reference(mode: Mode, to_anchor: bool, dtype: torch.dtype) -> None:
    case = make_case(inner=Inner.NONE, mode=mode, dtype=dtype, transfer_to_anchor=to_anchor, strength=0.01)
    assert_halves_agree(Stepper(case, CpuPlan), dtype)


def test_the_order_of_sums_does_not_depend_on_threads() -> None:
    answers = []
    for threads in (1, 2, 1):
        case = make_case(shapes=((700, 300), (5,), (1000, 333)))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            step = Stepper(case, CpuPlan)
            for _ in range(3):
                step()
        finally:
            torch.set_num_threads(before)
        answers.append(case)
    for other in answers[1:]:
        for name, value in vars(answers[0]).items():
            for a, b in zip(value, getattr(other, name), strict=True) if isinstance(value, list) else []:
                assert torch.equal(a, b), name
        assert torch.equal(answers[0].report, other.report)


DIGEST = """
from srft_kernels.ops.cpu import CpuPlan
from tests.srft_kernels.ops.extreme_cases import EXTREMES, extreme_case
from tests.srft_kernels.ops.step_cases import Stepper, make_case
from srft_kernels.ops.contract import Damping, Inner, Mode
digest, cases = hashlib.sha256(), []
for options in ({"decoupled_decay": True}, {"inner": Inner.SGD, "damping": Damping.MEAN}, {"dtype": torch.bfloat16},
                {"dtype": torch.float16, "mode": Mode.DECOUPLED}, {"dtype": torch.float64, "transfer_to_anchor": True},
                {"curved": True, "product": "less gradient", "follows": True},
                {"curved": True, "product": "less minus", "dtype": torch.bfloat16}, {"curved": True}):
    cases.append(make_case(**options))
cases += [extreme_case(**options) for options in EXTREMES]
for case in cases:
    step = Stepper(case, CpuPlan)
    for _ in range(2):
        step()
    for value in vars(case).values():
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, torch.Tensor):
                digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    if library.capability() == library.build.instruction_sets[0]:
        pytest.skip(f"this machine has only {library.capability()}")
    answers = digests(DIGEST)
    assert len(set(answers.values())) == 1, answers


def test_an_instruction_set_that_is_not_here_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from srft_kernels.ops.native import library; library.capability()"],
        env={**os.environ, "SRFT_CPU_CAPABILITY": "sse9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "SRFT_CPU_CAPABILITY is 'sse9'" in done.stderr


@pytest.mark.parametrize("size", [1, 63, 64, 65, 511, 512, 513, 32767, 32768, 32769, 131072, 131073])
def test_sizes_around_every_boundary(size: int) -> None:
    case = make_case(shapes=((size,), (3,)))
    case.priors[0] = torch.rand(size)
    step = Stepper(case, CpuPlan)
    step.prepare()
    before, truth = case.copy(), case.copy(torch.float64)
    step()
    reference_step(truth)
    assert_agrees(case, truth, before, dtype=torch.float32)
    kernel, plain = case.statistics[0], truth.statistics[0]
    assert kernel[contract.HISTOGRAM :].sum() == plain[contract.HISTOGRAM :].sum() == sampled(size).sum()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=70),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_codecs_round_as_torch_does(values: list[float], dtype: torch.dtype) -> None:
    """With SGD at lr 1 the stored weight is the codec's rounding of p - g."""
    param = torch.tensor(values, dtype=torch.float32).to(dtype)
    gradient = torch.linspace(-1, 1, len(values)).to(dtype)
    case = make_case(inner=Inner.SGD, dtype=dtype, shapes=((len(values),),), strength=0.0, kappa=1.0)
    case.params, case.grads, case.first = [param.clone()], [gradient], []
    case.settings[Setting.LEARNING_RATE] = 1.0
    case.settings[Setting.WEIGHT_DECAY] = 0.0
    Stepper(case, CpuPlan)()
    expected = (param.float() - gradient.float()).to(dtype)
    assert torch.equal(case.params[0].isnan(), expected.isnan())
    keep = ~expected.isnan()
    assert torch.equal(case.params[0][keep], expected[keep])


def test_every_half_and_bfloat16_survives_the_codecs() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        case = make_case(inner=Inner.SGD, dtype=dtype, shapes=((every.numel(),),), strength=0.0, kappa=1.0)
        case.params, case.grads, case.first = [every.clone()], [torch.zeros_like(every)], []
        case.settings[Setting.WEIGHT_DECAY] = 0.0
        Stepper(case, CpuPlan)()
        same = (case.params[0].view(torch.int16) == every.view(torch.int16)) | (every.isnan() & case.params[0].isnan())
        same |= (every == 0) & (case.params[0] == 0)  # -0 + 0 is +0
        assert bool(same.all())
