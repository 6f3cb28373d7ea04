"""The CPU step either takes what it is given or refuses it in a sentence, and then it has written nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Inner, Phase
from srft_kernels.ops.cpu import CpuPlan
from srft_kernels.ops.layouts import look
from srft_kernels.ops.native import library
from srft_kernels.ops.plan import StepTensors
from tests.srft_kernels.ops.step_cases import Case, Stepper, make_case

pytestmark = pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")

SHAPES = ((7,), (0,), (33, 65), ())


def values(case: Case) -> list[Tensor]:
    lists = [v for v in vars(case).values() if isinstance(v, list)]
    return [t.clone() for v in lists for t in v] + [case.report.clone()]


def freed(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() - tensor.element_size())
    return tensor


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "narrower": (lambda t: t.bfloat16(), "another dtype"),
    "wider": (lambda t: t.double(), "another dtype"),
    "integers": (lambda t: t.int(), "another dtype"),
    "pruned": (lambda t: t[:10].clone(), "another shape"),
    "grown": (lambda t: torch.cat([t, t]), "another shape"),
    "flattened": (lambda t: t.flatten(), "another shape"),
    "transposed in memory": (lambda t: t.t().contiguous().t(), "another shape or layout"),
    "every second": (lambda t: torch.stack([t, t], -1)[..., 0], "another shape or layout"),
    "one value": (lambda t: torch.zeros(()).expand_as(t), "another shape or layout"),
    "freed": (lambda t: freed(t.clone()), "freed or shrunk"),
    "shrunk": (lambda t: shrunk(t.clone()), "freed or shrunk"),
    "elsewhere": (lambda t: t.to("meta"), "another dtype or device"),
    "sparse": (lambda t: t.to_sparse(), "another shape or layout"),
}


@pytest.mark.parametrize("which", ["params", "grads", "plus", "minus"])
@pytest.mark.parametrize("how", WRONG)
def test_a_tensor_that_changed_is_refused(which: str, how: str) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True, curved=True, product="less minus")
    case.curvatures = [torch.zeros_like(p) for p in case.params]
    step = Stepper(case, CpuPlan)
    step()
    change, words = WRONG[how]
    kept, before = getattr(case, which), values(case)
    setattr(case, which, [change(t) if i == 2 else t for i, t in enumerate(kept)])
    call = case.call()
    setattr(case, which, kept)
    with pytest.raises(RuntimeError, match=words):
        step.plan.step(call)
    assert all(torch.equal(a, b) for a, b in zip(before, values(case), strict=True))
    step()


STATE = ["first_moments", "second_moments", "anchors", "priors"]


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("how", ["narrower", "pruned", "transposed in memory", "freed", "elsewhere"])
def test_state_that_does_not_fit_makes_no_plan(name: str, how: str) -> None:
    tensors = make_case(shapes=SHAPES, decoupled_decay=True).tensors()
    listed = getattr(tensors, name)
    listed[2] = WRONG[how][0](listed[2])
    if (name, how) == ("anchors", "narrower"):
        listed[2] = listed[2].to(torch.float16)
    with pytest.raises(RuntimeError, match=r"parameter 2|of parameter 2"):
        CpuPlan(tensors)


@pytest.mark.parametrize("name", [*STATE, "steps", "statistics", "scales"])
@pytest.mark.parametrize("change", [freed, shrunk])
def test_state_that_is_freed_between_steps_is_refused(name: str, change: Callable[[Tensor], Tensor]) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, CpuPlan)
    step()
    tensor = getattr(step.tensors, name)
    change(tensor[2] if isinstance(tensor, list) else tensor)
    weights = [p.clone() for p in case.params]
    with pytest.raises(RuntimeError, match=r"freed|must be contiguous"):
        step.plan.step(case.call())
    assert all(torch.equal(a, b) for a, b in zip(weights, case.params, strict=True))


def test_tensors_that_share_memory_are_refused() -> None:
    def shared(change: Callable[[StepTensors], None]) -> None:
        tensors = make_case(shapes=((64,), (64,)), decoupled_decay=True).tensors()
        change(tensors)
        CpuPlan(tensors)

    def same_moments(t: StepTensors) -> None:
        t.second_moments[1] = t.first_moments[1]

    def overlapping(t: StepTensors) -> None:
        room = torch.zeros(100)
        t.first_moments[:] = [room[:64], room[36:]]

    def anchor_is_moment(t: StepTensors) -> None:
        t.anchors[0] = t.first_moments[0]

    for change in (same_moments, overlapping, anchor_is_moment):
        with pytest.raises(RuntimeError, match="shares memory"):
            shared(change)

    case = make_case(shapes=((64,), (64,)), decoupled_decay=True)
    step = Stepper(case, CpuPlan)
    step()
    params, grads = case.params, case.grads
    for wrong_params, wrong_grads in (
        ([params[0], params[0]], grads),
        ([params[0], case.first[1]], grads),
        (params, [grads[0], case.second[0]]),
        (params, [params[1], grads[1]]),
    ):
        case.params, case.grads = wrong_params, wrong_grads
        with pytest.raises(RuntimeError, match="memory"):
            step.plan.step(case.call())
    case.params, case.grads = params, [params[0], grads[0]]  # read before it is written, and never written
    step.plan.step(case.call())


def test_gradients_that_this_half_would_write_twice_are_refused() -> None:
    case = make_case(inner=Inner.NONE, shapes=((64,), (64,)))
    step = Stepper(case, CpuPlan)
    case.grads[1] = case.grads[0]
    with pytest.raises(RuntimeError, match="this step writes them"):
        step.plan.step(case.call(Phase.BEFORE))


def test_calls_that_make_no_sense_are_refused() -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, CpuPlan)
    step()
    before = values(case)
    call = torch.ops.srft.step_group_
    group = step.plan._group
    numbers, lists = case.settings.tolist(), (case.params, case.grads, [], [])
    for arguments, words in (
        ((group + 10**6, *lists, numbers, case.report, case.flags, 0), "no group"),
        ((group, *lists, numbers[:-1], case.report, case.flags, 0), "16 settings, not 17"),
        ((group, *lists, numbers, case.report[:2], case.flags, 0), "report must be"),
        ((group, *lists, numbers, case.report.float(), case.flags, 0), "report must be"),
        ((group, *lists, numbers, torch.zeros(6, dtype=torch.float64)[::2], case.flags, 0), "report must be"),
        ((group, *lists, numbers, case.report, case.flags | 3, 0), "stands for nothing"),
        ((group, *lists, numbers, case.report, case.flags | 1 << 40, 0), "unknown flags"),
        ((group, *lists, numbers, case.report, case.flags, 3), "no phase 3"),
        ((group, *lists, numbers, case.report, case.flags, 1), "is fused"),
        ((group, case.params, [], [], [], numbers, case.report, case.flags, 0), "0 gradients for a group of 4"),
        ((group, case.params[:2], case.grads, [], [], numbers, case.report, case.flags, 0), "2 parameters for a"),
        ((group, *lists, numbers, case.report, case.flags | contract.AMSGRAD, 0), "AMSGrad needs"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, values(case), strict=True))


def test_a_plan_that_is_gone_takes_its_group_along() -> None:
    case = make_case(shapes=SHAPES)
    step = Stepper(case, CpuPlan)
    group = step.plan._group
    del step.plan
    gc.collect()
    with pytest.raises(RuntimeError, match="was dropped"):
        torch.ops.srft.step_group_(group, case.params, case.grads, [], [], case.settings.tolist(), case.report, 1, 0)
    torch.ops.srft.drop_group(group)  # a second time: nothing to do


# ---------------------------------------------------------------- looking at layouts


def test_a_fingerprint_tells_what_matters_and_nothing_else() -> None:
    image = torch.zeros(8, 4, 1, 1)
    alike = [image, torch.ones(8, 4, 1, 1), torch.zeros(8, 4, 1, 1).to(memory_format=torch.channels_last)]
    assert len({look([t]).fingerprint for t in alike}) == 1
    different = [
        image,
        image.double(),
        image.half(),
        image.bfloat16(),
        image.int(),
        image.to("meta"),
        image[:7],
        image.flatten(),
        image.reshape(4, 8, 1, 1),
        torch.zeros(4, 8, 1, 1).transpose(0, 1),
        torch.zeros(2 * 8 * 4).view(8, 4, 2, 1)[:, :, :1],
    ]
    assert len({look([t]).fingerprint for t in different}) == len(different)
    assert look([image, image]).fingerprint != look([image]).fingerprint
    assert look(different[:2]).fingerprint != look(different[1::-1]).fingerprint


def test_addresses_are_where_tensors_begin() -> None:
    tensors = [torch.zeros(3), torch.zeros(0), torch.zeros(8)[2:], torch.zeros((), dtype=torch.bfloat16)]
    assert look(tensors).addresses.tolist() == [t.data_ptr() if t.numel() else 0 for t in tensors]
    assert look([]).addresses.tolist() == []


@pytest.mark.parametrize("make", [lambda: freed(torch.zeros(9)), lambda: shrunk(torch.zeros(9)),
                                  lambda: torch.zeros(9).to_sparse()])  # fmt: skip
def test_what_has_no_memory_is_never_seen_twice(make: Callable[[], Tensor]) -> None:
    tensor = make()
    first, second = look([tensor]), look([tensor])
    assert first.fingerprint != second.fingerprint
    assert first.addresses.tolist() == [0]


def test_plain_python_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library is not built, the same layouts are alike and the same differ."""
    test_addresses_are_where_tensors_begin()
    monkeypatch.setattr("srft_kernels.ops.layouts.library", type(library)(None, "not built"))
    test_addresses_are_where_tensors_begin()
    test_a_fingerprint_tells_what_matters_and_nothing_else()
    for make in (lambda: freed(torch.zeros(9)), lambda: torch.zeros(9).to_sparse()):
        assert look([make()]).fingerprint != look([make()]).fingerprint
