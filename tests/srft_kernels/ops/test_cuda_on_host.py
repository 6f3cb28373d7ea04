"""The CUDA kernels' own code on a host that stands in for the device (cuda_on_host/), where there is no GPU.

Walk, reductions, tickets, ranges and arithmetic are compared with the reference.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.cuda.penalty import CudaPenalty
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.reference.penalty import penalty_backward_reference, penalty_reference
from tests.srft_kernels.ops.penalty_cases import SHAPES, draw
from tests.srft_kernels.ops.step_cases import (
    CONFIGURATIONS,
    DTYPES,
    Case,
    Stepper,
    assert_agrees,
    assert_halves_agree,
    assert_same_statistics,
    configured,
    make_case,
    name_of,
    reference_step,
)


@pytest.fixture(autouse=True)
def _order_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks in either order, because nothing may depend on which is first."""
    monkeypatch.setenv("SRFT_CUDA_ON_HOST_ORDER", "7")


def stepper(module: Any, case: Case) -> Stepper:
    """Return a case and its plan by the kernels compiled for the host."""
    return Stepper(case, functools.partial(CudaPlan, module=module))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=name_of)
def test_the_kernels_are_the_reference(module: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    case = configured(options, dtype)
    step = stepper(module, case)
    for _ in range(3):
        step.prepare()
        before, truth = case.copy(), case.copy(torch.float64)
        step()
        reference_step(truth)
        assert_agrees(case, truth, before, dtype=dtype)
        assert_same_statistics(case, truth)
        for t in case.grads:
            t.mul_(-0.7)
    assert [float(s) for s in case.steps] == [7.0] * len(case.params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("to_anchor", [False, True])
def test_the_halves_of_an_unfused_step_are_the_reference(
    module: Any, mode: Mode, to_anchor: bool, dtype: torch.dtype
) -> None:
    case = make_case(inner=Inner.NONE, mode=mode, dtype=dtype, transfer_to_anchor=to_anchor, strength=0.01)
    assert_halves_agree(stepper(module, case), dtype)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 63, 64, 65, 2047, 2048, 2049, 7 * 2048, 131072, 131073])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_around_every_boundary(module: Any, size: int, dtype: torch.dtype) -> None:
    case = make_case(shapes=((size,), (0,), (3,)), dtype=dtype, decoupled_decay=True)
    case.priors[0] = torch.rand(size).to(case.priors[0].dtype)
    step = stepper(module, case)
    for _ in range(2):
        step.prepare()
        before, truth = case.copy(), case.copy(torch.float64)
        step()
        reference_step(truth)
        assert_agrees(case, truth, before, dtype=dtype)
        assert_same_statistics(case, truth)


@pytest.mark.parametrize("blocks", [1, 2, 3, 50, 4000])
def test_bits_depend_on_the_grid_only_through_sums(module: Any, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(count: int) -> Case:
        monkeypatch.setenv("SRFT_CUDA_ON_HOST_BLOCKS", str(count))
        case = make_case(decoupled_decay=True)
        step = stepper(module, case)
        for _ in range(3):
            step()
        return case

    one, other = run(7), run(blocks)
    for name in ("params", "first", "second", "statistics"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(a, b), name
    torch.testing.assert_close(one.report, other.report, rtol=1e-12, atol=0)


def test_two_runs_give_the_same_bits_whatever_the_order(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for order in ("1", "2", "3"):
        monkeypatch.setenv("SRFT_CUDA_ON_HOST_ORDER", order)
        case = make_case(damping=Damping.MEAN)
        step = stepper(module, case)
        for _ in range(3):
            step()
        answers.append(case)
    for other in answers[1:]:
        assert torch.equal(answers[0].report, other.report)
        for a, b in zip(answers[0].params + answers[0].statistics, other.params + other.statistics, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("inner", [Inner.ADAM, Inner.SGD, Inner.NONE])
@pytest.mark.parametrize("propagate", [False, True])
def test_elements_that_are_not_finite(module: Any, inner: Inner, propagate: bool) -> None:
    shapes = ((700,), (3, 5000))
    case = make_case(shapes=shapes, inner=inner, propagate_nonfinite=propagate, decoupled_decay=inner is Inner.ADAM)
    for t, where in zip(case.grads, (3, 9999), strict=True):
        t.view(-1)[where] = float("nan")
        t.view(-1)[where - 1] = float("-inf")
    step = stepper(module, case)
    step.prepare()
    before, truth = case.copy(), case.copy(torch.float64)
    phase = Phase.BEFORE if inner is Inner.NONE else Phase.FUSED
    step(phase)
    reference_step(truth, phase)
    assert case.report[contract.NONFINITE] == 4
    for ours, theirs, was in zip(case.params, truth.params, before.params, strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        held = ~case.grads[0].isfinite() if ours.shape == case.grads[0].shape else ~case.grads[1].isfinite()
        if not propagate:
            assert torch.equal(ours[held], was[held])
    if inner is Inner.NONE:
        for ours, theirs in zip(case.grads, truth.grads, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_a_step_that_is_skipped_changes_nothing_and_counts_if_asked(module: Any) -> None:
    case = make_case(decoupled_decay=True)
    step = stepper(module, case)
    step()
    case.grads[3].view(-1)[5] = float("inf")
    before = case.copy()
    for flags, counted in ((0, 0.0), (contract.COUNT_SKIPPED | contract.RESET_PENALTIES, 1.0)):
        step(found_inf=torch.ones(1), flags=flags)
        assert case.report[contract.NONFINITE] - before.report[contract.NONFINITE] == counted
    for name, value in vars(before).items():
        if isinstance(value, list):
            for a, b in zip(getattr(case, name), value, strict=True):
                assert torch.equal(a, b) or a.isnan().any(), name
    assert torch.equal(case.report[:2], before.report[:2])
    step(found_inf=torch.zeros(1))
    assert float(case.steps[0]) == float(before.steps[0]) + 1


def test_a_loss_scale_is_divided_out_and_settings_may_lie_in_memory(module: Any) -> None:
    plain, scaled = (make_case(decoupled_decay=True) for _ in range(2))
    for t in scaled.grads:
        t.mul_(1024)
    stepper(module, plain)()
    stepper(module, scaled)(settings=scaled.settings.clone(), grad_scale=torch.tensor([1024.0]))
    for a, b in zip(plain.params + plain.second, scaled.params + scaled.second, strict=True):
        assert torch.equal(a, b)


def test_penalties_are_reset_or_added_to(module: Any) -> None:
    case = make_case(decoupled_decay=True)
    case.report[:] = torch.tensor([5.0, 6.0, 7.0])
    twin = case.copy()
    stepper(module, case)()
    stepper(module, twin)(flags=contract.RESET_PENALTIES)
    torch.testing.assert_close(case.report - twin.report, torch.tensor([5.0, 6.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("normalize", Normalize)
@pytest.mark.parametrize("options", [{"damping": Damping.MEAN}, {"transfer_to_anchor": True}], ids=name_of)
def test_means_of_every_kind(module: Any, normalize: Normalize, options: dict[str, Any]) -> None:
    case = make_case(**options)
    case.flags = case.flags & ~(3 << contract.NORMALIZE_SHIFT) | normalize << contract.NORMALIZE_SHIFT
    step = stepper(module, case)
    for _ in range(3):
        step.prepare()
        before, truth = case.copy(), case.copy(torch.float64)
        step()
        reference_step(truth)
        assert_agrees(case, truth, before, dtype=torch.float32)


def test_tensors_of_every_dtype_and_any_alignment_in_one_group(module: Any) -> None:
    cases = [make_case(dtype=d, decoupled_decay=True, shapes=((7,), (33, 65), (5000,))) for d in DTYPES]

    def shifted(t: Tensor) -> Tensor:
        room = torch.empty(t.numel() + 1, dtype=t.dtype)
        room[1:].copy_(t.view(-1))
        return room[1:].view(t.shape)

    lists = ("params", "grads", "first", "second", "steps", "anchors", "priors", "statistics")
    for case in cases[:2]:
        for name in ("params", "grads", "first", "anchors"):
            setattr(case, name, [shifted(t) if t.numel() else t for t in getattr(case, name)])
    # Interleaved, so that a launch's tensors are not neighbors.
    mixed = cases[0].copy()
    for name in lists:
        together = [getattr(c, name)[i] for i in range(3) for c in cases]
        setattr(mixed, name, together)
    mixed.scales = torch.stack([c.scales[i] for i in range(3) for c in cases])
    step = stepper(module, mixed)
    step.prepare()
    before, truth = mixed.copy(), mixed.copy(torch.float64)
    assert step.plan.launches == 4
    step()
    reference_step(truth)
    for k, dtype in enumerate(DTYPES):
        mine, real, was = (
            Case(**{**vars(c), **{name: getattr(c, name)[k::4] for name in lists}}) for c in (mixed, truth, before)
        )
        mine.report = real.report
        assert_agrees(mine, real, was, dtype=dtype)
    torch.testing.assert_close(mixed.report, truth.report, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("damping", [Damping.UNDAMPED, Damping.MEAN])
def test_more_tensors_than_a_launch_takes(module: Any, damping: Damping) -> None:
    most = module.capacity(6)
    assert most >= 350  # a two-stream ViT-B with prior and anchor is one launch
    case = make_case(shapes=((3,),) * (2 * most + 1), decoupled_decay=True, damping=damping)
    step = stepper(module, case)
    step.prepare()
    before, truth = case.copy(), case.copy(torch.float64)
    assert step.plan.launches == 3
    step(flags=contract.RESET_PENALTIES)
    truth.flags |= contract.RESET_PENALTIES
    reference_step(truth)
    case.flags = truth.flags
    assert_agrees(case, truth, before, dtype=torch.float32)


def test_a_plan_follows_its_tensors_when_they_move(module: Any) -> None:
    case, twin = (make_case(decoupled_decay=True) for _ in range(2))
    step, other = stepper(module, case), stepper(module, twin)
    for _ in range(3):
        step(), other()
        case.params = [p.clone() for p in case.params]
        case.grads = [torch.cat([g.view(-1), g.view(-1)])[: g.numel()].view(g.shape) for g in case.grads]
    for a, b in zip(case.params, twin.params, strict=True):
        assert torch.equal(a, b)


def test_settings_change_from_step_to_step(module: Any) -> None:
    case = make_case(decoupled_decay=True)
    step = stepper(module, case)
    for kappa in (1.0, 0.7, 0.0):
        case.settings[Setting.KAPPA] = kappa
        step.prepare()
        before, truth = case.copy(), case.copy(torch.float64)
        step()
        reference_step(truth)
        assert_agrees(case, truth, before, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("others", [(torch.float32, torch.bfloat16), (torch.float64, torch.float16)], ids=str)
def test_the_penalty_is_the_reference(module: Any, dtype: torch.dtype, others: tuple[torch.dtype, torch.dtype]) -> None:
    kernels = CudaPenalty(module)
    tensors = draw((dtype, *others), (*SHAPES, *((3,),) * 700))  # more tensors than one launch takes
    strength, grad = torch.tensor(2.3, dtype=torch.float64), torch.tensor(-0.7)
    value, truth = kernels.value(*tensors, strength), penalty_reference(*tensors, strength)
    assert (value.dtype, value.shape) == (truth.dtype, truth.shape)
    # Non-negative terms: each side is wrong by at most one float64 rounding a level of its additions.
    rounding = 200 * torch.finfo(torch.float64).eps + torch.finfo(value.dtype).eps
    torch.testing.assert_close(value, truth, rtol=rounding, atol=0.0)
    pulls = kernels.gradients(grad, *tensors, strength)
    for pull, wanted in zip(pulls, penalty_backward_reference(grad, *tensors, strength), strict=True):
        assert torch.equal(pull, wanted)


def test_the_penalty_of_nothing_is_zero(module: Any) -> None:
    kernels = CudaPenalty(module)
    assert kernels.value([], [], [], torch.tensor(1.0)) == 0.0
    empty = [torch.empty(0)]
    assert kernels.value(empty, empty, empty, torch.tensor(1.0)) == 0.0
    assert kernels.gradients(torch.tensor(1.0), empty, empty, empty, torch.tensor(1.0))[0].numel() == 0


# ---------------------------------------------------------------- the launcher's arithmetic


@pytest.mark.parametrize("blocks", [1, 2, 7, 132, 396, 4096])
@pytest.mark.parametrize("units", [1, 2, 131, 4096, 97_500, 2**32 - 1])
def test_blocks_share_every_unit_once_and_evenly(module: Any, units: int, blocks: int) -> None:
    blocks = min(units, blocks)
    begins = module.shares(units, blocks)
    assert begins[0] == 0
    assert begins[-1] == units
    sizes = [b - a for a, b in itertools.pairwise(begins)]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    for block, begin in enumerate(begins[:-1]):
        assert module.block_of(units, blocks, begin) == block
        assert module.block_of(units, blocks, begins[block + 1] - 1) == block


@pytest.mark.parametrize(
    ("size", "units"),
    [(0, 1), (1, 1), (2047, 1), (2048, 1), (2049, 2), (2**31, 2**20), (2**31 + 1, 2**20 + 1), (2**40, 2**29)],
)
def test_a_tensor_takes_whole_units_and_at_least_one(module: Any, size: int, units: int) -> None:
    assert module.unit == 2048
    assert module.units_of(size) == units


def test_any_number_of_tensors_is_cut_into_launches(module: Any) -> None:
    most = module.capacity(6)
    dtypes = [i % 4 for i in range(10_000)]
    launches = module.launches([i % 5000 for i in range(10_000)], dtypes, 6)
    assert sorted(i for launch in launches for i in launch) == list(range(10_000))
    for launch in launches:
        assert 1 <= len(launch) <= most
        assert len({dtypes[i] for i in launch}) == 1
    assert len(launches) == 4 * -(-2500 // most)
    assert module.argument_bytes <= 32_764


def test_sizes_beyond_what_32_bits_count(module: Any) -> None:
    assert module.launches([0, 2**31 + 5, 3, 2**34, 0], [0] * 5, 6) == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="8e12 elements"):
        module.launches([2**43, 2**43], [0, 0], 6)
