"""The CUDA kernels on a device, from one launch to the whole optimizer, against the reference on the CPU.

They give the same bits from run to run, do not wait for the device, and work under captured graphs. What needs no
device is in test_cuda_on_host.py: there the kernels' own code runs on a stand-in for one.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import srft_kernels as srft
from srft_kernels.ops import contract, triton_available
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize
from srft_kernels.ops.cuda.penalty import CudaPenalty
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.native import cuda_library
from srft_kernels.ops.reference.penalty import penalty_backward_reference, penalty_reference
from tests.srft_kernels.ops.extreme_cases import EXTREMES, check_extremes
from tests.srft_kernels.ops.penalty_cases import SHAPES as PENALTY_SHAPES
from tests.srft_kernels.ops.penalty_cases import draw
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
    moved,
    name_of,
    reference_step,
)

DEVICE = torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.skipif(not cuda_library.available, reason=f"no compiled kernels: {cuda_library.reason}"),
]


def stepper(case: Case) -> Stepper:
    """Return a case on the device, and its plan."""
    return Stepper(moved(case, DEVICE), CudaPlan)


def check_step(step: Stepper, dtype: torch.dtype, **options: Any) -> None:
    """Compare one step on the device with the reference in float64 on the CPU."""
    step.prepare()
    before = moved(step.case, "cpu")
    truth = before.copy(torch.float64)
    truth.flags |= options.get("flags", 0)
    step(**options)
    reference_step(truth)
    after = moved(step.case, "cpu")
    assert_agrees(after, truth, before, dtype=dtype)
    assert_same_statistics(after, truth)


@contextlib.contextmanager
def without_synchronization() -> Iterator[None]:
    """Turn whatever makes the host wait for the device into an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------- one step of the kernels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=name_of)
def test_the_kernels_are_the_reference(options: dict[str, Any], dtype: torch.dtype) -> None:
    case = configured(options, dtype)
    step = stepper(case)
    # The first step reads statistics that were made for it, the second the kernels' own; the third moves their range.
    for _ in range(3):
        check_step(step, dtype)
        for t in step.case.grads:
            t.mul_(-0.7)
    assert [float(s) for s in step.case.steps] == [7.0] * len(case.params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("to_anchor", [False, True])
def test_the_halves_of_an_unfused_step_are_the_reference(mode: Mode, to_anchor: bool, dtype: torch.dtype) -> None:
    case = make_case(inner=Inner.NONE, mode=mode, dtype=dtype, transfer_to_anchor=to_anchor, strength=0.01)
    assert_halves_agree(stepper(case), dtype)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 63, 64, 65, 2047, 2048, 2049, 7 * 2048, 131072, 131073])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_around_every_boundary(size: int, dtype: torch.dtype) -> None:
    case = make_case(shapes=((size,), (0,), (3,)), dtype=dtype, decoupled_decay=True)
    case.priors[0] = torch.rand(size).to(case.priors[0].dtype)
    step = stepper(case)
    for _ in range(2):
        check_step(step, dtype)


@pytest.mark.parametrize("options", [{"decoupled_decay": True}, {"inner": Inner.SGD}], ids=name_of)
def test_tensors_of_every_dtype_and_any_alignment_in_one_group(options: dict[str, Any]) -> None:
    cases = [moved(make_case(dtype=d, shapes=((7,), (33, 65), (5000,)), **options), DEVICE) for d in DTYPES]

    def shifted(t: Tensor) -> Tensor:
        room = torch.empty(t.numel() + 1, dtype=t.dtype, device=t.device)
        room[1:].copy_(t.view(-1))
        return room[1:].view(t.shape)

    for case in cases[:3]:
        for name in ("params", "grads", "first", "anchors"):
            setattr(case, name, [shifted(t) if t.numel() else t for t in getattr(case, name)])
    lists = [name for name, value in vars(cases[0]).items() if isinstance(value, list) and value]
    mixed = Case(**vars(cases[0]))
    for name in lists:  # interleaved, so that a launch's tensors are not neighbors
        setattr(mixed, name, [getattr(c, name)[i] for i in range(3) for c in cases])
    mixed.scales = torch.stack([c.scales[i] for i in range(3) for c in cases])
    step = Stepper(mixed, CudaPlan)
    assert step.plan.launches == 4
    step.prepare()
    before = moved(mixed, "cpu")
    truth = before.copy(torch.float64)
    step()
    reference_step(truth)
    after = moved(mixed, "cpu")
    for k, dtype in enumerate(DTYPES):
        mine, real, was = (
            Case(**{**vars(c), **{name: getattr(c, name)[k::4] for name in lists}}) for c in (after, truth, before)
        )
        mine.report = real.report
        assert_agrees(mine, real, was, dtype=dtype)
    torch.testing.assert_close(after.report, truth.report, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("damping", [Damping.UNDAMPED, Damping.MEAN])
def test_more_tensors_than_a_launch_takes(damping: Damping) -> None:
    most = cuda_library.build.capacity(6)
    step = stepper(make_case(shapes=((3,),) * (2 * most + 1), decoupled_decay=True, damping=damping))
    assert step.plan.launches == 3
    check_step(step, torch.float32, flags=contract.RESET_PENALTIES)


@pytest.mark.parametrize("normalize", Normalize)
@pytest.mark.parametrize("options", [{"damping": Damping.MEAN}, {"transfer_to_anchor": True}], ids=name_of)
def test_means_of_every_kind(normalize: Normalize, options: dict[str, Any]) -> None:
    case = make_case(**options)
    case.flags = case.flags & ~(3 << contract.NORMALIZE_SHIFT) | normalize << contract.NORMALIZE_SHIFT
    step = stepper(case)
    for _ in range(2):
        check_step(step, torch.float32)


@pytest.mark.parametrize("options", EXTREMES, ids=name_of)
def test_numbers_at_the_ends_of_what_float32_holds(options: dict[str, Any]) -> None:
    check_extremes(stepper, options)


@pytest.mark.parametrize("inner", [Inner.ADAM, Inner.SGD])
@pytest.mark.parametrize("propagate", [False, True])
def test_elements_that_are_not_finite(inner: Inner, propagate: bool) -> None:
    case = make_case(shapes=((700,), (3, 5000)), inner=inner, propagate_nonfinite=propagate, decoupled_decay=True)
    for t, where in zip(case.grads, (3, 9999), strict=True):
        t.view(-1)[where] = float("nan")
        t.view(-1)[where - 1] = float("-inf")
    step = stepper(case)
    step.prepare()
    truth = moved(step.case, "cpu").copy(torch.float64)
    step()
    reference_step(truth)
    assert step.case.report[contract.NONFINITE] == 4
    for ours, theirs, was, grad in zip(step.case.params, truth.params, case.params, case.grads, strict=True):
        assert torch.equal(ours.cpu().isfinite(), theirs.isfinite())
        if not propagate:
            held = ~grad.isfinite()
            assert torch.equal(ours.cpu()[held], was[held])


def test_a_step_that_is_skipped_changes_nothing_and_counts_if_asked() -> None:
    step = stepper(make_case(decoupled_decay=True))
    case = step.case
    step()
    case.grads[3].view(-1)[5] = float("inf")
    before = moved(case, "cpu")
    found = torch.ones(1, device=DEVICE)
    for flags, counted in ((0, 0.0), (contract.COUNT_SKIPPED | contract.RESET_PENALTIES, 1.0)):
        step(found_inf=found, flags=flags)
        assert case.report[contract.NONFINITE].item() - before.report[contract.NONFINITE].item() == counted
    after = moved(case, "cpu")
    for name, value in vars(before).items():
        if isinstance(value, list):
            for a, b in zip(getattr(after, name), value, strict=True):
                assert torch.equal(a, b), name
    assert torch.equal(after.report[:2], before.report[:2])
    step(found_inf=found.zero_())
    assert float(case.steps[0]) == float(before.steps[0]) + 1


def test_a_loss_scale_is_divided_out_and_settings_may_lie_on_the_device() -> None:
    plain, scaled = (stepper(make_case(decoupled_decay=True)) for _ in range(2))
    for t in scaled.case.grads:
        t.mul_(1024)
    plain()
    settings = scaled.case.settings.to(DEVICE)
    scaled(settings=settings, grad_scale=torch.tensor([1024.0], device=DEVICE))
    for a, b in zip(plain.case.params + plain.case.second, scaled.case.params + scaled.case.second, strict=True):
        assert torch.equal(a, b)


def everything(case: Case) -> list[Tensor]:
    values = list(vars(case).values())
    return [t for v in values for t in (v if isinstance(v, list) else [v]) if isinstance(t, Tensor)]


@pytest.mark.parametrize("options", [{"decoupled_decay": True}, {"damping": Damping.MEAN}], ids=name_of)
def test_the_same_bits_in_every_run_also_beside_other_work(options: dict[str, Any]) -> None:
    """Sums, counts and ranges are gathered from many blocks, which may end in any order."""
    shapes = ((700, 300), (5,), (1 << 20,), (1000, 333), *((64,),) * 40)
    other = torch.cuda.Stream()
    answers = []
    for run in range(3):
        step = stepper(make_case(shapes=shapes, **options))
        if run:
            a = torch.randn(2048, 2048, device=DEVICE)
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                for _ in range(200):
                    torch.mm(a, a)
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        answers.append(everything(step.case))
    for others in answers[1:]:
        for a, b in zip(answers[0], others, strict=True):
            assert torch.equal(a, b)


def test_the_stream_that_is_current_is_the_one_that_works() -> None:
    step, twin = (stepper(make_case(decoupled_decay=True)) for _ in range(2))
    for _ in range(3):
        step(), twin()
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # cycles, half a second or so: the default stream is busy
    with torch.cuda.stream(side):
        step.plan.step(step.case.call())
    side.synchronize()
    waits = not torch.cuda.default_stream().query()
    torch.cuda.synchronize()
    twin()
    assert waits, "the step waited for another stream"
    for a, b in zip(everything(step.case), everything(twin.case), strict=True):
        assert torch.equal(a, b)


def test_a_device_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    case = make_case(decoupled_decay=True)
    here, there = (Stepper(moved(case, f"cuda:{i}"), CudaPlan) for i in range(2))
    for _ in range(3):
        here(), there()
    assert torch.cuda.current_device() == 0
    for a, b in zip(everything(here.case), everything(there.case), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- beyond what 32 bits count

GIGABYTE = 1 << 30
HUGE = 2**31 + 5 * 1024  # elements; whole sampling groups, and half a unit at the end
CORNERS = torch.tensor([*range(16), *range(2**31 - 16, 2**31 + 16), *range(HUGE - 16, HUGE)])


def need_memory(gigabytes: int) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * GIGABYTE:
        pytest.skip(f"needs {gigabytes} GB of free device memory, there are {free // GIGABYTE}")


def test_a_tensor_of_more_than_two_billion_elements() -> None:
    need_memory(40)

    def case_of(param: Tensor, grad: Tensor) -> Case:
        case = moved(make_case(shapes=((1,),), dtype=torch.bfloat16, decoupled_decay=True), DEVICE)
        case.params, case.grads = [param], [grad]
        case.first, case.second = ([torch.zeros_like(param, dtype=torch.float32)] for _ in range(2))
        case.anchors, case.priors = [], []
        return case

    corners = CORNERS.to(DEVICE)
    param = torch.empty(HUGE, dtype=torch.bfloat16, device=DEVICE).normal_(std=0.1)
    grad = torch.empty_like(param).normal_(std=1e-3)
    small = Stepper(case_of(param[corners], grad[corners]), CudaPlan)
    large = Stepper(case_of(param, grad), CudaPlan)
    for step in (small, large):  # without statistics, so that every rank is 1/2 and an element's step its own affair
        step.plan.step(step.case.call())
    for name in ("params", "first", "second"):
        assert torch.equal(getattr(large.case, name)[0][corners], getattr(small.case, name)[0]), name
    assert not torch.equal(small.case.params[0], torch.zeros_like(small.case.params[0]))
    counted = large.case.statistics[0][contract.HISTOGRAM :].sum()
    assert int(counted) == HUGE // contract.SAMPLE_GROUP * contract.SAMPLE_BLOCK
    assert float(large.case.steps[0]) == 5.0

    grad[-1] = float("nan")
    last = param[-16:].clone()
    large.plan.step(large.case.call(flags=contract.COUNT_SKIPPED, found_inf=torch.ones(1, device=DEVICE)))
    assert int(large.case.report[contract.NONFINITE]) == 1
    assert torch.equal(param[-16:], last)


def test_a_penalty_over_more_than_two_billion_elements() -> None:
    need_memory(24)
    kernels = CudaPenalty(cuda_library.build)
    one, zero = (torch.full((HUGE,), x, dtype=torch.bfloat16, device=DEVICE) for x in (1.0, 0.0))
    assert float(kernels.value([one], [zero], [one], torch.tensor(2.0))) == HUGE
    (pull,) = kernels.gradients(torch.tensor(0.5, device=DEVICE), [one], [zero], [one], torch.tensor(2.0))
    assert torch.equal(pull[CORNERS.to(DEVICE)], torch.ones(len(CORNERS), dtype=torch.bfloat16, device=DEVICE))


# ---------------------------------------------------------------- the penalty


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("others", [(torch.float32, torch.bfloat16), (torch.float64, torch.float16)], ids=str)
@pytest.mark.parametrize("strength_on_device", [False, True])
def test_the_penalty_is_the_reference(
    dtype: torch.dtype, others: tuple[torch.dtype, torch.dtype], strength_on_device: bool
) -> None:
    tensors = draw((dtype, *others), (*PENALTY_SHAPES, *((3,),) * 700))  # more tensors than one launch takes
    here = tuple([t.to(DEVICE) for t in group] for group in tensors)
    strength, grad = torch.tensor(2.3, dtype=torch.float64), torch.tensor(-0.7)
    strength_here = strength.to(DEVICE) if strength_on_device else strength
    value, truth = torch.ops.srft.significance_penalty(*here, strength_here), penalty_reference(*tensors, strength)
    assert (value.dtype, value.shape, value.device) == (truth.dtype, truth.shape, here[0][0].device)
    # Non-negative terms: each side is wrong by at most one float64 rounding a level of its additions.
    rounding = 200 * torch.finfo(torch.float64).eps + torch.finfo(value.dtype).eps
    torch.testing.assert_close(value.cpu(), truth, rtol=rounding, atol=0.0)
    pulls = torch.ops.srft.significance_penalty_backward(grad.to(DEVICE), *here, strength_here)
    for pull, wanted in zip(pulls, penalty_backward_reference(grad, *tensors, strength), strict=True):
        assert torch.equal(pull.cpu(), wanted)


def small_lists(dtype: torch.dtype, *, requires_grad: bool = False) -> list[list[Tensor]]:
    lists = draw((dtype,) * 3, ((3,), (2, 2), (), (0,)))
    return [[t.to(DEVICE).requires_grad_(requires_grad) for t in group] for group in lists]


def test_first_and_second_derivatives() -> None:
    lists = small_lists(torch.float64, requires_grad=True)
    strength = torch.tensor(1.7, dtype=torch.float64, device=DEVICE, requires_grad=True)

    def call(*flat: Tensor) -> Tensor:
        return srft.significance_penalty(flat[:4], flat[4:8], flat[8:12], flat[12])

    inputs = (*lists[0], *lists[1], *lists[2], strength)
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(dtype: torch.dtype, requires_grad: bool) -> None:
    lists = small_lists(dtype, requires_grad=requires_grad)
    strength = torch.tensor(1.3, dtype=torch.float64, device=DEVICE, requires_grad=requires_grad)
    torch.library.opcheck(torch.ops.srft.significance_penalty.default, (*lists, strength))
    grad = torch.tensor(0.4, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=DEVICE)
    grad.requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.srft.significance_penalty_backward.default, (grad, *lists, strength))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_into_one_graph(backend: str) -> None:
    if backend == "inductor" and not (triton_available()[0] and any(map(shutil.which, ("cc", "gcc", "g++")))):
        pytest.skip("inductor needs triton and a C compiler")
    torch._dynamo.reset()
    params, anchors, significance = small_lists(torch.float32)

    def loss(params: list[Tensor], strength: float) -> Tensor:
        return srft.significance_penalty(params, anchors, significance, strength) * 2

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for strength in (0.5, 2.0):
        here, there = ([p.clone().requires_grad_() for p in params] for _ in range(2))
        expected, got = loss(here, strength), compiled(there, strength)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, there), torch.autograd.grad(expected, here))


def test_the_penalty_of_nothing_is_zero() -> None:
    empty = [torch.empty(0, device=DEVICE)]
    strength = torch.tensor(1.0, device=DEVICE)
    assert torch.ops.srft.significance_penalty([], [], [], strength) == 0.0
    assert torch.ops.srft.significance_penalty(empty, empty, empty, strength) == 0.0


def test_the_penalty_does_not_wait_and_is_captured() -> None:
    params, anchors, significance = small_lists(torch.float32)
    strength = torch.tensor(1.0, dtype=torch.float64, device=DEVICE)
    for p in params:
        p.requires_grad_()

    def penalty() -> tuple[Tensor, ...]:
        value = srft.significance_penalty(params, anchors, significance, strength)
        return (value, *torch.autograd.grad(value, params))

    side = torch.cuda.Stream()  # autograd wants its first steps before a capture on another stream than the default
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        penalty()
        with without_synchronization():
            penalty()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = penalty()
    for value in (0.5, 3.0):
        strength.fill_(value)
        graph.replay()
        for a, b in zip(captured, penalty(), strict=True):
            assert torch.equal(a, b)


# ---------------------------------------------------------------- the optimizer

Make = Callable[..., Optimizer]


class Training:
    """A few parameters, one of them without a prior, their optimizer, and gradients drawn from the number of a step."""

    SHAPES = ((300,), (17, 33), (), (0, 4), (400, 500))

    def __init__(
        self,
        make: Make,
        device: torch.device | str = DEVICE,
        dtype: torch.dtype = torch.float32,
        shapes: tuple[tuple[int, ...], ...] = SHAPES,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(shape: tuple[int, ...] | torch.Size) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.params = [nn.Parameter((0.1 * drawn(s)).to(device, dtype)) for s in shapes]
        prior = {p: drawn(p.shape).square().to(device, dtype) for p in self.params[1:]}
        options = {"prior": prior, "kappa": srft.CosineKappa(total_steps=20), "damping": "rank"} | options
        self.optimizer = srft.SRFT(make(self.params), **options)

    def draw_gradients(self, step: int) -> None:
        """Draw the gradients into the same memory every time, so that a captured step finds them."""
        generator = torch.Generator().manual_seed(1000 + step)
        for p in self.params:
            size = 10 ** (0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
            gradient = 1e-2 * size * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(gradient)

    def run(self, first: int, steps: int) -> None:
        for step in range(first, first + steps):
            self.draw_gradients(step)
            self.optimizer.step()

    def values(self) -> list[Tensor]:
        """Return weights, state, and what the optimizer reports."""
        state = [v for p in self.params for v in self.optimizer.state[p].values() if isinstance(v, Tensor)]
        reports = [self.optimizer.prior_penalty, self.optimizer.transfer_penalty, self.optimizer.nonfinite_count]
        return [t.detach().clone() for t in (*self.params, *state, *reports)]


def assert_same_bits(a: Training, b: Training) -> None:
    for x, y in zip(a.values(), b.values(), strict=True):
        assert torch.equal(x, y)


def assert_close(a: Training, b: Training) -> None:
    """Compare runs of the same arithmetic, up to a few roundings a step of powers and sums."""
    rounding = 1000 * torch.finfo(torch.float64).eps
    for x, y in zip(a.params, b.params, strict=True):
        torch.testing.assert_close(x.detach().cpu(), y.detach().cpu(), rtol=rounding, atol=rounding)
    for name in ("prior_penalty", "transfer_penalty"):
        mine, theirs = (float(getattr(t.optimizer, name)) for t in (a, b))
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-15)  # a difference of near weights, squared


ADAMW: Make = functools.partial(AdamW, lr=1e-2, weight_decay=0.1)
SGDM: Make = functools.partial(SGD, lr=1e-2, momentum=0.9, weight_decay=0.1)
RUNS: list[tuple[Make, dict[str, Any]]] = [
    (ADAMW, {}),
    (ADAMW, {"mode": "decoupled", "strength": 1.0}),
    (ADAMW, {"mode": "coupled", "strength": 0.1}),
    (ADAMW, {"damping": "mean", "normalize": "global"}),
    (ADAMW, {"transfer_anchor": "initial", "strength": 1.0, "kappa": 0.4}),
    (ADAMW, {"transfer": "own", "normalize": None}),
    (ADAMW, {"prior": None, "kappa": 0.3}),
    (functools.partial(AdamW, lr=1e-2, amsgrad=True, maximize=True), {}),
    (functools.partial(Adam, lr=1e-2, weight_decay=0.1), {}),
    (SGDM, {}),
    (functools.partial(SGD, lr=1e-2, momentum=0.9, nesterov=True), {"damping": "mean"}),
    (SGDM, {"mode": "coupled", "strength": 0.1}),
    (functools.partial(RMSprop, lr=1e-2), {}),
    (functools.partial(RMSprop, lr=1e-2), {"mode": "decoupled", "strength": 1.0}),
    (functools.partial(RMSprop, lr=1e-2), {"mode": "coupled", "strength": 0.1}),
]


def run_name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return value.func.__name__ + "".join(f" {k}" for k, v in value.keywords.items() if v is True)
    return " ".join(f"{k}={v}" for k, v in value.items()) or "default"


@pytest.mark.parametrize(("make", "options"), RUNS, ids=run_name)
def test_twenty_steps_are_those_of_the_cpu(make: Make, options: dict[str, Any]) -> None:
    there, here = (Training(make, device, torch.float64, **options) for device in ("cpu", DEVICE))
    assert here.optimizer.backend == "native"
    for training in (there, here):
        training.run(0, 20)
    assert_close(here, there)
    assert int(here.optimizer.nonfinite_count) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_step_as_on_the_cpu(dtype: torch.dtype) -> None:
    there, here = (Training(ADAMW, device, dtype) for device in ("cpu", DEVICE))
    for training in (there, here):
        training.run(0, 5)
    for x, y in zip(here.params, there.params, strict=True):
        differ = (x.cpu() != y).sum()
        assert int(differ) <= 1e-3 * x.numel()  # roundings that fell to the other side
        torch.testing.assert_close(x.cpu(), y, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("make", [ADAMW, SGDM], ids=run_name)
def test_triton_and_the_compiled_kernels_step_alike(make: Make) -> None:
    usable, why = triton_available()
    if not usable:
        pytest.skip(why)
    trainings = [Training(make, DEVICE, torch.float64, backend=backend) for backend in ("native", "triton")]
    for training in trainings:
        training.run(0, 6)
    assert_close(*trainings)


def test_a_learning_rate_on_the_device_moves_without_the_host() -> None:
    rates = [torch.tensor(1e-2, dtype=torch.float64, device=DEVICE), 1e-2]
    trainings = [Training(functools.partial(AdamW, lr=rate)) for rate in rates]
    for step in range(4):
        for training in trainings:
            training.run(step, 1)
        rates[0].mul_(0.5)  # type: ignore[union-attr]
        trainings[1].optimizer.param_groups[0]["lr"] *= 0.5
    assert_same_bits(*trainings)


# ---------------------------------------------------------------- waiting for nobody

FUSED = [
    (ADAMW, {}),
    (ADAMW, {"nonfinite": "skip_step"}),
    (ADAMW, {"damping": "mean", "normalize": "global"}),
    (SGDM, {"transfer_anchor": "initial", "strength": 1.0}),
    (functools.partial(Adam, lr=1e-2), {"mode": "decoupled", "strength": 1.0}),
]


def test_a_synchronization_would_be_noticed() -> None:
    one = torch.ones(1, device=DEVICE)
    with without_synchronization(), pytest.raises(RuntimeError, match="synchroniz"):
        one.item()


@pytest.mark.parametrize(("make", "options"), FUSED, ids=run_name)
@pytest.mark.parametrize("rate_on_device", [False, True])
def test_a_step_does_not_wait_for_the_device(make: Make, options: dict[str, Any], rate_on_device: bool) -> None:
    if rate_on_device:
        make = functools.partial(make, lr=torch.tensor(1e-2, device=DEVICE))
    training = Training(make, **options)
    training.run(0, 2)
    training.draw_gradients(2)
    optimizer = training.optimizer
    with without_synchronization():
        optimizer.step()
        read = [optimizer.penalty, optimizer.prior_penalty, optimizer.transfer_penalty, optimizer.nonfinite_count]
        optimizer.prepare_replay()
    assert float(read[0]) == pytest.approx(float(read[1]) + float(read[2]))
    assert float(read[0]) > 0


def kernels_of(work: Callable[[], object], folder: Path) -> Counter[str]:
    """Return what ran on the device: kernels, copies and fills, by kind."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    trace = folder / "trace.json"
    profile.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return Counter(e["cat"] for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"))


@pytest.mark.parametrize("policy", ["hold", "propagate"])
def test_a_step_over_350_tensors_is_one_kernel_and_nothing_else(policy: str, tmp_path: Path) -> None:
    one = torch.ones(5, device=DEVICE)
    kernels_of(lambda: one.add_(1), tmp_path)  # the profiler's own first time
    if kernels_of(lambda: one.add_(1), tmp_path) != {"kernel": 1}:
        pytest.skip("the profiler does not see what runs on this device")
    training = Training(ADAMW, shapes=((64, 48), (48,)) * 175, nonfinite=policy)
    training.run(0, 2)
    training.draw_gradients(2)
    assert kernels_of(training.optimizer.step, tmp_path) == {"kernel": 1}


# ---------------------------------------------------------------- captured graphs


@pytest.mark.parametrize(("make", "options"), FUSED, ids=run_name)
@pytest.mark.parametrize("rate_on_device", [False, True])
def test_a_captured_step_is_the_eager_one_while_its_numbers_move(
    make: Make, options: dict[str, Any], rate_on_device: bool
) -> None:
    def rate(value: float) -> Any:
        return torch.tensor(value, dtype=torch.float64, device=DEVICE) if rate_on_device else value

    eager, replayed = (Training(functools.partial(make, lr=rate(1e-2)), **options) for _ in range(2))
    for training in (eager, replayed):
        training.run(0, 2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.optimizer.step()
    schedules = [
        torch.optim.lr_scheduler.LinearLR(t.optimizer, start_factor=1.0, end_factor=0.1, total_iters=6)
        for t in (eager, replayed)
    ]
    for step in range(2, 10):
        eager.run(step, 1)
        replayed.draw_gradients(step)
        replayed.optimizer.prepare_replay()
        graph.replay()
        for schedule in schedules:
            schedule.step()
    assert_same_bits(eager, replayed)
    for t in (eager, replayed):
        assert t.optimizer.param_groups[0]["updates"] == 10
        assert float(t.optimizer.state[t.params[1]]["step"]) == 10
    replayed.run(10, 2), eager.run(10, 2)  # and back to eager steps
    assert_same_bits(eager, replayed)


def test_a_captured_step_under_a_scaler_skips_on_the_device() -> None:
    training = Training(ADAMW, kappa=0.5)
    optimizer = training.optimizer
    found, scale = torch.zeros((), device=DEVICE), torch.full((), 8.0, device=DEVICE)
    training.run(0, 2)
    optimizer.found_inf, optimizer.grad_scale = found, scale
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    del optimizer.found_inf, optimizer.grad_scale
    before = training.values()
    training.draw_gradients(2)
    for p in training.params:
        p.grad.mul_(8)  # type: ignore[union-attr]
    found.fill_(1)
    optimizer.prepare_replay()
    graph.replay()
    for a, b in zip(before, training.values(), strict=True):
        assert torch.equal(a, b)
    found.fill_(0)
    optimizer.prepare_replay()
    graph.replay()
    twin = Training(ADAMW, kappa=0.5)
    twin.run(0, 3)
    assert_same_bits(training, twin)


def test_a_capture_without_a_step_before_it_is_refused() -> None:
    training = Training(ADAMW)
    training.draw_gradients(0)
    with pytest.raises(RuntimeError, match="take a step before capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        training.optimizer.step()


@pytest.mark.parametrize("how", ["gradients", "loading"])
def test_a_captured_step_whose_state_was_replaced_is_not_advanced(how: str) -> None:
    training = Training(ADAMW)
    optimizer = training.optimizer
    training.run(0, 2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    kept = training.params[0].grad  # the graph reads it
    if how == "gradients":
        training.params[0].grad = None
    else:
        optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    with pytest.raises(RuntimeError, match="capture it again"):
        optimizer.prepare_replay()
    graph.replay()  # writes where nobody reads, and nowhere else
    assert kept is not None
    again = torch.cuda.CUDAGraph()
    with torch.cuda.graph(again):
        optimizer.step()
    optimizer.prepare_replay()
    again.replay()
    torch.cuda.synchronize()


# ---------------------------------------------------------------- gradients that are not finite, and GradScaler


def test_held_elements_stay_and_are_counted() -> None:
    training = Training(ADAMW)
    training.run(0, 1)
    training.draw_gradients(1)
    big = training.params[-1]
    before = big.detach().clone()
    big.grad[3, 5] = float("nan")  # type: ignore[index]
    big.grad[399, 499] = float("-inf")  # type: ignore[index]
    training.optimizer.step()
    assert big[3, 5] == before[3, 5]
    assert big[399, 499] == before[399, 499]
    assert int((big == before).sum()) < 10
    assert int(training.optimizer.nonfinite_count) == 2
    assert bool(training.optimizer.penalty.isfinite())


def test_a_step_with_an_element_that_is_not_finite_is_skipped_without_waiting() -> None:
    training, twin = (Training(ADAMW, nonfinite="skip_step", kappa=0.5) for _ in range(2))
    for t in (training, twin):
        t.run(0, 2)
    before = training.values()
    training.draw_gradients(2)
    training.params[-1].grad[7, 7] = float("inf")  # type: ignore[index]
    with without_synchronization():
        training.optimizer.step()
    assert int(training.optimizer.nonfinite_count) == 1
    for a, b in zip(before[:-1], training.values()[:-1], strict=True):
        assert torch.equal(a, b)
    for t in (training, twin):
        t.run(2, 2)
    for a, b in zip(training.values()[:-1], twin.values()[:-1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("policy", ["hold", "skip_step"])
def test_a_first_step_that_is_skipped_leaves_no_trace(policy: str) -> None:
    """GradScaler's first scale is often too large, so this happens."""
    training, twin = (Training(ADAMW, nonfinite=policy, kappa=0.5) for _ in range(2))
    training.draw_gradients(99)
    training.params[-1].grad.view(-1)[::3] = float("inf")  # type: ignore[union-attr]
    training.optimizer.found_inf = torch.ones((), device=DEVICE)
    training.optimizer.step()
    del training.optimizer.found_inf
    for t in (training, twin):
        t.run(0, 3)
    for a, b in zip(training.values()[:-1], twin.values()[:-1], strict=True):
        assert torch.equal(a, b)


def test_propagate_is_what_torch_does() -> None:
    training = Training(ADAMW, nonfinite="propagate")
    training.draw_gradients(0)
    training.params[-1].grad[3, 5] = float("nan")  # type: ignore[index]
    training.optimizer.step()
    assert bool(training.params[-1][3, 5].isnan())
    assert int(training.params[-1].isnan().sum()) == 1


def test_grad_scaler() -> None:
    """Scaled gradients give the unscaled step; a step with an infinity is skipped as a whole; and nothing waits."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(11, 64), nn.GELU(), nn.Linear(64, 5), nn.LayerNorm(5)).to(DEVICE)

    ours, theirs = network(), network()
    wrapped, plain = (
        srft.SRFT(
            AdamW(model.named_parameters(), lr=1e-2),
            prior={n: torch.ones_like(p) for n, p in model.named_parameters()},
            kappa=0.5,
            damping="rank",
            unscale_in_step=True,
        )
        for model in (ours, theirs)
    )
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    x = torch.randn(16, 11, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    for step in range(5):
        wrapped.zero_grad()
        loss = scaler.scale(ours(x).square().mean())
        loss.backward()
        if step == 3:
            ours[0].weight.grad.view(-1)[:1].fill_(float("inf"))  # type: ignore[union-attr]
        before = [p.detach().clone() for p in ours.parameters()]
        state = copy.deepcopy(wrapped.state_dict()["state"])
        with without_synchronization() if step else contextlib.nullcontext():
            scaler.step(wrapped)
            scaler.update()
        if step == 3:
            assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))
            after = wrapped.state_dict()["state"]
            assert all(torch.equal(state[i][k], after[i][k]) for i in state for k in state[i])
            assert scaler.get_scale() == 512.0
            continue
        plain.zero_grad()
        theirs(x).square().mean().backward()
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("make", [ADAMW, SGDM, functools.partial(RMSprop, lr=1e-2)], ids=run_name)
def test_a_run_goes_on_elsewhere(make: Make) -> None:
    """A run goes from the device to the CPU and back, and from the device to itself with the same bits."""

    def resumed(from_: Training, device: torch.device | str) -> Training:
        fresh = Training(make, device, torch.float64)
        fresh.optimizer.load_state_dict(copy.deepcopy(from_.optimizer.state_dict()))
        with torch.no_grad():
            for mine, theirs in zip(fresh.params, from_.params, strict=True):
                mine.copy_(theirs)
        for p in fresh.params:
            for name, value in fresh.optimizer.state[p].items():
                assert value.device == p.device, name
        return fresh

    here = Training(make, DEVICE, torch.float64)
    here.run(0, 3)
    there = resumed(here, "cpu")
    again, back = resumed(here, DEVICE), resumed(there, DEVICE)
    for training in (here, there, again, back):
        training.run(3, 3)
    for x, y in zip(here.params, again.params, strict=True):
        assert torch.equal(x, y)
    assert_close(here, there)
    assert_close(here, back)
