"""A compiled step either takes what it is given or refuses it in a sentence, and then it has written nothing.

The CPU's operators and those of CUDA, whose kernels run on the host here (cuda_on_host/), are asked the same.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Normalize, Phase
from srft_kernels.ops.cpu import CpuPlan
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.layouts import look
from srft_kernels.ops.native import library
from srft_kernels.ops.plan import StepTensors
from tests.srft_kernels.ops.step_cases import Case, Stepper, make_case

pytestmark = pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")

SHAPES = ((7,), (0,), (33, 65), ())


class Door:
    """The way into the step of one library: what makes its plans, and its operator."""

    def __init__(self, name: str, make_plan: Callable[[StepTensors], Any], operators: Any) -> None:
        self.name = name
        self.make_plan = make_plan
        self.operators = operators

    def step(
        self,
        group: int,
        lists: Sequence[Sequence[Tensor]],
        settings: list[float],
        report: Tensor,
        flags: int,
        phase: int = 0,
        on_device: Sequence[Tensor | None] = (None,) * 4,
    ) -> None:
        """Call the operator with looks at the lists. ``on_device`` has settings, means, found_inf and grad_scale."""
        looks = [look(listed).take() for listed in lists]
        more = on_device if self.name == "cuda" else ()
        self.operators.step_group_(group, *looks, settings, *more, report, flags, phase)


@pytest.fixture(params=["cpu", "cuda"])
def door(request: pytest.FixtureRequest) -> Door:
    if request.param == "cpu":
        return Door("cpu", CpuPlan, torch.ops.srft)
    module = request.getfixturevalue("module")
    return Door("cuda", functools.partial(CudaPlan, module=module), getattr(torch.ops, module.operators))


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
def test_a_tensor_that_changed_is_refused(door: Door, which: str, how: str) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True, curved=True, product="less minus")
    case.curvatures = [torch.zeros_like(p) for p in case.params]
    step = Stepper(case, door.make_plan)
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
def test_state_that_does_not_fit_makes_no_plan(door: Door, name: str, how: str) -> None:
    tensors = make_case(shapes=SHAPES, decoupled_decay=True).tensors()
    listed = getattr(tensors, name)
    listed[2] = WRONG[how][0](listed[2])
    if (name, how) == ("anchors", "narrower"):
        listed[2] = listed[2].to(torch.float16)
    with pytest.raises(RuntimeError, match=r"parameter 2|of parameter 2"):
        door.make_plan(tensors)


@pytest.mark.parametrize("name", [*STATE, "steps", "statistics", "scales"])
@pytest.mark.parametrize("change", [freed, shrunk])
def test_state_that_is_freed_between_steps_is_refused(
    door: Door, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    tensor = getattr(step.tensors, name)
    change(tensor[2] if isinstance(tensor, list) else tensor)
    weights = [p.clone() for p in case.params]
    with pytest.raises(RuntimeError, match=r"freed|contiguous"):
        step.plan.step(case.call())
    assert all(torch.equal(a, b) for a, b in zip(weights, case.params, strict=True))


def test_tensors_that_share_memory_are_refused(door: Door) -> None:
    def shared(change: Callable[[StepTensors], None]) -> None:
        tensors = make_case(shapes=((64,), (64,)), decoupled_decay=True).tensors()
        change(tensors)
        door.make_plan(tensors)

    def same_moments(t: StepTensors) -> None:
        t.second_moments[1] = t.first_moments[1]

    def overlapping(t: StepTensors) -> None:
        room = torch.zeros(100)
        t.first_moments[:] = [room[:64], room[36:]]

    def anchor_is_moment(t: StepTensors) -> None:
        t.anchors[0] = t.first_moments[0]

    def steps_are_scales(t: StepTensors) -> None:
        t.steps = t.scales.view(torch.float32).view(-1)[:2]

    def statistics_are_a_moment(t: StepTensors) -> None:
        room = torch.zeros(2 * contract.STATISTICS, dtype=torch.float64)
        t.statistics = room.view(2, -1)
        t.first_moments[0] = room.view(torch.float32)[70:134]

    for change in (same_moments, overlapping, anchor_is_moment, steps_are_scales, statistics_are_a_moment):
        with pytest.raises(RuntimeError, match="shares memory"):
            shared(change)

    case = make_case(shapes=((64,), (64,)), decoupled_decay=True)
    step = Stepper(case, door.make_plan)
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


def test_gradients_that_this_half_would_write_twice_are_refused(door: Door) -> None:
    case = make_case(inner=Inner.NONE, shapes=((64,), (64,)))
    step = Stepper(case, door.make_plan)
    case.grads[1] = case.grads[0]
    with pytest.raises(RuntimeError, match="this step writes them"):
        step.plan.step(case.call(Phase.BEFORE))


def test_calls_that_make_no_sense_are_refused(door: Door) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    before = values(case)
    group = step.plan._group
    numbers, lists = case.settings.tolist(), (case.params, case.grads, [], [])
    for arguments, words in (
        ((group + 10**6, lists, numbers, case.report, case.flags), "no group"),
        ((group, lists, numbers[:-1], case.report, case.flags), "16 settings, not 17"),
        ((group, lists, numbers, case.report[:2], case.flags), "report must be"),
        ((group, lists, numbers, case.report.float(), case.flags), "report must be"),
        ((group, lists, numbers, case.report.to("meta"), case.flags), "report must be"),
        ((group, lists, numbers, freed(case.report.clone()), case.flags), "report must be"),
        ((group, lists, numbers, torch.zeros(6, dtype=torch.float64)[::2], case.flags), "report must be"),
        ((group, lists, numbers, case.report, case.flags | 3), "stands for nothing"),
        ((group, lists, numbers, case.report, case.flags | 1 << 40), "unknown flags"),
        ((group, lists, numbers, case.report, case.flags, 3), "no phase 3"),
        ((group, lists, numbers, case.report, case.flags, 1), "is fused"),
        ((group, (case.params, [], [], []), numbers, case.report, case.flags), "0 gradients for a group of 4"),
        ((group, (case.params[:2], case.grads, [], []), numbers, case.report, case.flags), "2 parameters for a"),
        ((group, lists, numbers, case.report, case.flags | contract.AMSGRAD), "AMSGrad needs"),
        ((group, lists, [-1.0] * 17, case.report, case.flags | contract.FOLD), "from 0 to 2"),
        ((group, lists, [float("nan")] * 17, case.report, case.flags | contract.FOLD), "from 0 to 2"),
    ):
        with pytest.raises(RuntimeError, match=words):
            door.step(*arguments)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(before, values(case), strict=True))


def test_a_report_in_the_memory_of_something_else_is_refused(door: Door) -> None:
    case = make_case(shapes=((64,), (64,)), dtype=torch.float64, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    for victim in (case.params[1], case.grads[0], case.second[1], case.anchors[0], step.tensors.statistics.view(-1)):
        with pytest.raises(RuntimeError, match="the report shares memory"):
            door.step(
                step.plan._group, (case.params, case.grads, [], []), case.settings.tolist(), victim[2:5], case.flags
            )


def test_numbers_on_the_device_are_checked(door: Door) -> None:
    if door.name == "cpu":
        pytest.skip("the CPU's step has its numbers from the host")
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    before = values(case)
    two = torch.zeros(2, dtype=torch.float64)
    for place, wrong, words in (
        (0, case.settings.float(), "settings in memory must be 17"),
        (0, case.settings[:-1], "settings in memory must be 17"),
        (0, freed(case.settings.clone()), "settings in memory must be 17"),
        (1, two, "wanted by normalize"),
        (2, torch.zeros(2), "found_inf must be 1"),
        (2, torch.zeros(1, dtype=torch.float64), "found_inf must be 1"),
        (2, torch.zeros(1, device="meta"), "found_inf must be 1"),
        (3, torch.ones(0), "grad_scale must be 1"),
        (3, torch.ones(1).to_sparse(), "grad_scale must be 1"),
    ):
        given = [wrong if k == place else None for k in range(4)]
        lists = (case.params, case.grads, [], [])
        with pytest.raises(RuntimeError, match=words):
            door.step(step.plan._group, lists, case.settings.tolist(), case.report, case.flags, on_device=given)
    means = make_case(shapes=SHAPES, damping=Damping.MEAN, decoupled_decay=True)
    flags = means.flags & ~(3 << contract.NORMALIZE_SHIFT) | Normalize.GLOBAL << contract.NORMALIZE_SHIFT
    other = Stepper(means, door.make_plan)
    for given in ((None, None, None, None), (None, torch.zeros(3, dtype=torch.float64), None, None)):
        with pytest.raises(RuntimeError, match="sum and count of T"):
            door.step(
                other.plan._group, (means.params, means.grads, [], []), means.settings.tolist(), means.report, flags,
                on_device=given,
            )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, values(case), strict=True))


def test_a_look_serves_one_step_and_no_number_but_its_own(door: Door) -> None:
    case = make_case(shapes=SHAPES, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    before = values(case)
    params, grads = look(case.params), look(case.grads)
    number, other = params.take(), grads.take()
    more: tuple[Any, ...] = (None,) * 4 if door.name == "cuda" else ()
    rest = (case.settings.tolist(), *more, case.report, case.flags, 0)
    door.operators.step_group_(step.plan._group, number, other, 0, 0, *rest)
    forgotten = look(case.params)
    last = forgotten._number
    del forgotten
    weights = [p.clone() for p in case.params]
    for wrong in (number, last, 10**12, -1):
        with pytest.raises(RuntimeError, match="there is no look"):
            door.operators.step_group_(step.plan._group, wrong, look(case.grads).take(), 0, 0, *rest)
    assert all(torch.equal(a, b) for a, b in zip(weights, case.params, strict=True))
    assert not torch.equal(before[0], case.params[0])


def test_state_in_other_memory_is_followed_and_of_another_dtype_refused(door: Door) -> None:
    case, twin = (make_case(shapes=SHAPES, decoupled_decay=True) for _ in range(2))
    step, other = Stepper(case, door.make_plan), Stepper(twin, door.make_plan)
    step(), other()
    for t in (*step.tensors.second_moments, step.tensors.steps, step.tensors.statistics, *step.tensors.priors):
        t.data = t.data.clone()
    step(), other()
    assert all(torch.equal(a, b) for a, b in zip(case.params, twin.params, strict=True))
    moment = step.tensors.second_moments[2]
    for wrong in (moment.half(), moment.double(), moment.int(), torch.cat([moment, moment]), moment[:10].clone()):
        moment.data = wrong
        weights = [p.clone() for p in case.params]
        with pytest.raises(RuntimeError, match="second moment of parameter 2"):
            step.plan.step(case.call())
        assert all(torch.equal(a, b) for a, b in zip(weights, case.params, strict=True))
    moment.data = step.tensors.first_moments[2].data  # the memory of another tensor
    with pytest.raises(RuntimeError, match="shares memory"):
        step.plan.step(case.call())


@pytest.mark.parametrize("place", [contract.LOW, contract.DENSITY, contract.SMALLEST, contract.LARGEST, 8, 100])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_the_statistics_are_no_bin_lies_outside_the_table(
    door: Door, dtype: torch.dtype, number: float, place: int
) -> None:
    """The statistics come with a checkpoint. Once a NaN in them gave an index before the table."""
    case = make_case(shapes=((3000,), (7,)), dtype=dtype, decoupled_decay=True)
    step = Stepper(case, door.make_plan)
    step()
    step.tensors.statistics[:, place] = number
    for _ in range(2):
        step.plan.step(case.call())
    counts = step.tensors.statistics[:, contract.HISTOGRAM :].sum(dim=1)
    assert counts.tolist() == [3000.0, 7.0]


def test_a_plan_that_is_gone_takes_its_group_along(door: Door) -> None:
    case = make_case(shapes=SHAPES)
    step = Stepper(case, door.make_plan)
    group = step.plan._group
    del step.plan
    gc.collect()
    with pytest.raises(RuntimeError, match="was dropped"):
        door.step(group, (case.params, case.grads, [], []), case.settings.tolist(), case.report, case.flags)
    door.operators.drop_group(group)  # a second time: nothing to do


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
