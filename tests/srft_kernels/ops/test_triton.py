"""The Triton kernels against the reference in float64, over every mode, dtype and layout.

Every test here runs on a CUDA device where there is one. The first runs the whole file again in a process of its own,
in which Triton interprets the kernels on the CPU, because that has to be said before Triton is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.plan import StepCall, StepTensors
from srft_kernels.ops.reference.penalty import penalty_backward_reference, penalty_reference
from srft_kernels.ops.reference.rank import sampled
from srft_kernels.ops.triton import available
from tests.srft_kernels.ops.extreme_cases import EXTREMES, check_extremes
from tests.srft_kernels.ops.interpreter import INTERPRETED, faithful_interpreter  # noqa: F401 (a fixture for all tests)
from tests.srft_kernels.ops.step_cases import (
    CONFIGURATIONS,
    DTYPES,
    Case,
    Stepper,
    assert_agrees,
    configured,
    make_case,
    moved,
    name_of,
    reference_step,
)

triton = pytest.importorskip("triton")

from srft_kernels.ops.triton import launch  # noqa: E402
from srft_kernels.ops.triton.penalty import penalty_gradients, penalty_value  # noqa: E402
from srft_kernels.ops.triton.plan import TritonPlan  # noqa: E402

DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
on_each_device = pytest.mark.parametrize("device", DEVICES)
SMALL = ((7,), (), (0,), (33, 65), (1, 1), (8193,))  # one more than a chunk
SAMPLED = ((700, 300), (5,))


def with_dtypes(cases: Sequence[Any]) -> list[tuple[Any, torch.dtype]]:
    """Return each case in each dtype. Interpreted kernels are slow and get float32 and one other dtype."""
    return [
        (case, dtype)
        for i, case in enumerate(cases)
        for j, dtype in enumerate(DTYPES)
        if not INTERPRETED or j in (0, i % 3 + 1)
    ]


LOOP = """
import torch, triton, triton.language as tl
@triton.jit
def kernel(out, bound):
    for i in range(0, tl.load(bound), 2):
        tl.store(out + i, i)
kernel[(1,)](torch.zeros(8, dtype=torch.int32), torch.tensor([4]))
"""


@pytest.mark.skipif(INTERPRETED, reason="this is the process in which Triton interprets")
def test_the_kernels_interpreted_on_the_cpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    probe = subprocess.run([sys.executable, "-c", LOOP], env=environment, capture_output=True, text=True)
    if probe.returncode and "scalars" in probe.stderr:
        pytest.skip("this Triton's interpreter does not know this numpy: it cannot run a loop with a loaded bound")
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


# ---------------------------------------------------------------- the step


class Run:
    """A case on a device, with its plan. The case's lists are the tensors that the plan works on."""

    def __init__(self, case: Case, device: str) -> None:
        self.device = device
        lists = {k: [t.to(device) for t in v] if isinstance(v, list) else v for k, v in vars(case).items()}
        self.case = Case(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in lists.items()})
        made = self.case.tensors()
        self.steps, self.statistics = made.steps, made.statistics
        self.plan = TritonPlan(made)

    def on_host(self, dtype: torch.dtype | None = None) -> Case:
        moved = {
            k: [t.cpu() for t in v] if isinstance(v, list) else v.cpu() if isinstance(v, Tensor) else v
            for k, v in vars(self.case).items()
        }
        return Case(**moved).copy(dtype)

    def step(self, phase: Phase = Phase.FUSED, settings: Sequence[float] | Tensor | None = None, **more: Any) -> None:
        self.plan.step(self.case.call(phase, self.case.settings if settings is None else settings, **more))


def make_statistics(case: Case, phase: Phase = Phase.FUSED) -> None:
    """Return statistics for the first step, as a device's backend is given them: those that the reference makes."""
    truth = case.copy(torch.float64)
    reference_step(truth, phase)
    for ours, theirs in zip(case.statistics, truth.statistics, strict=True):
        ours.copy_(theirs)


def only(case: Case, i: int) -> Case:
    """Return the case's tensor ``i``."""
    return Case(**{k: v[i : i + 1] if isinstance(v, list) else v for k, v in vars(case).items()})


def same_bits(a: Case, b: Case) -> None:
    for name, value in vars(a).items():
        for x, y in zip(value, getattr(b, name), strict=True) if isinstance(value, list) else []:
            assert torch.equal(x, y), name
    assert torch.equal(a.report, b.report)


def check_steps(case: Case, device: str, dtype: torch.dtype, steps: int) -> Run:
    make_statistics(case)
    run = Run(case, device)
    for _ in range(steps):
        before, truth = run.on_host(), run.on_host(torch.float64)
        run.step()
        reference_step(truth)
        after = run.on_host()
        assert_agrees(after, truth, before, dtype=dtype)
        for ours, theirs in zip(after.statistics, truth.statistics, strict=True):
            # A key within rounding of an edge may be counted beside it.
            assert ours[contract.HISTOGRAM :].sum() == theirs[contract.HISTOGRAM :].sum()
            moved = (ours[contract.HISTOGRAM :] - theirs[contract.HISTOGRAM :]).abs().sum()
            assert moved <= 2 + 2e-3 * theirs[contract.HISTOGRAM :].sum()
            torch.testing.assert_close(ours[: contract.HISTOGRAM], theirs[: contract.HISTOGRAM], rtol=1e-5, atol=1e-4)
        for t in run.case.grads:
            t.mul_(-0.7)
    return run


@on_each_device
@pytest.mark.parametrize(("options", "dtype"), with_dtypes(CONFIGURATIONS), ids=name_of)
def test_the_kernels_are_the_reference(options: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    run = check_steps(configured(options, dtype, shapes=SMALL), device, dtype, steps=2)
    assert run.steps.tolist() == [6.0] * len(SMALL)


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_tensor_is_sampled_as_the_reference_samples(dtype: torch.dtype, device: str) -> None:
    run = check_steps(make_case(dtype=dtype, shapes=SAMPLED, decoupled_decay=True), device, dtype, steps=3)
    assert run.statistics[0, contract.HISTOGRAM :].sum() == sampled(210_000).sum()


@on_each_device
def test_sizes_around_blocks_and_chunks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "BLOCK", 512)
    sizes = (1, 511, 512, 513, 1024, launch.CHUNK - 1, launch.CHUNK, launch.CHUNK + 1, 2 * launch.CHUNK)
    check_steps(make_case(shapes=tuple((n,) for n in sizes)), device, torch.float32, steps=1)


@on_each_device
@pytest.mark.parametrize(
    ("options", "dtype"),
    with_dtypes([{"mode": mode, "transfer_to_anchor": to_anchor} for mode in Mode for to_anchor in (False, True)]),
    ids=name_of,
)
def test_the_halves_of_an_unfused_step_are_the_reference(
    options: dict[str, Any], dtype: torch.dtype, device: str
) -> None:
    case = make_case(inner=Inner.NONE, dtype=dtype, shapes=SMALL, strength=0.01, **options)
    make_statistics(case, Phase.BEFORE)
    run = Run(case, device)
    for _ in range(2):
        before, truth = run.on_host(), run.on_host(torch.float64)
        run.step(Phase.BEFORE)
        reference_step(truth, Phase.BEFORE)
        for ours, theirs in zip(run.case.grads, truth.grads, strict=True):
            rounding = 2 * torch.finfo(dtype).eps  # of the gradient and of the penalty's, which may cancel
            if ours.numel():
                torch.testing.assert_close(
                    ours.double().cpu(), theirs, rtol=rounding, atol=rounding * float(theirs.abs().max())
                )
        for p, g in zip(run.case.params, run.case.grads, strict=True):  # an inner optimizer of some kind
            p.sub_((1e-3 * g.sign()).to(p.dtype))
        truth.params = [p.double().cpu().clone() for p in run.case.params]
        run.step(Phase.AFTER)
        reference_step(truth, Phase.AFTER)
        assert_agrees(run.on_host(), truth, before, dtype=dtype)
    assert run.steps.tolist() == [6.0] * len(SMALL)


@on_each_device
@pytest.mark.parametrize(
    "options",
    [
        {"damping": Damping.RANK},
        {"damping": Damping.MEAN},
        {"transfer_to_anchor": True},
        {"transfer_to_anchor": True, "normalize": Normalize.ABSOLUTE},
        {"inner": Inner.SGD, "damping": Damping.MEAN},
    ],
    ids=name_of,
)
def test_dtypes_together_and_means_over_all_tensors(options: dict[str, Any], device: str) -> None:
    """One plan has parameters of four dtypes, anchors in both of their dtypes, and a parameter without one."""
    options = dict(options)
    normalize = options.pop("normalize", Normalize.GLOBAL)
    cases = [make_case(dtype=dtype, shapes=SMALL[:4], seed=i, **options) for i, dtype in enumerate(DTYPES)]
    cases[2].anchors[3] = cases[2].anchors[3].float()
    cases[2].anchors[0] = torch.empty(0)
    case = cases[0]
    for other in cases[1:]:
        for name, value in vars(case).items():
            if isinstance(value, list):
                value.extend(getattr(other, name))
    case.scales = torch.cat([c.scales for c in cases])
    case.flags |= normalize << contract.NORMALIZE_SHIFT
    make_statistics(case)
    run = Run(case, device)
    before, truth = run.on_host(), run.on_host(torch.float64)
    run.step()
    reference_step(truth)
    after = run.on_host()
    torch.testing.assert_close(after.report, truth.report, rtol=2e-3, atol=1e-12)
    after.report = truth.report  # of all dtypes together
    for i, param in enumerate(after.params):
        assert_agrees(only(after, i), only(truth, i), only(before, i), dtype=param.dtype)


@on_each_device
@pytest.mark.parametrize("options", EXTREMES, ids=name_of)
def test_numbers_at_the_ends_of_what_float32_holds(options: dict[str, Any], device: str) -> None:
    check_extremes(lambda case: Stepper(moved(case, device), TritonPlan), options)


@on_each_device
@pytest.mark.parametrize("propagate", [False, True])
@pytest.mark.parametrize("options", [{"decoupled_decay": True}, {"inner": Inner.SGD, "damping": Damping.MEAN}])
def test_what_is_not_finite(options: dict[str, Any], propagate: bool, device: str) -> None:
    case = make_case(shapes=SMALL, propagate_nonfinite=propagate, **options)
    make_statistics(case)
    for value, place in ((float("nan"), 3), (float("inf"), 100), (-float("inf"), 2000)):
        case.grads[3].view(-1)[place] = value
    case.grads[0][0] = float("nan")
    before, run = case.copy(), Run(case, device)
    truth = case.copy(torch.float64)
    run.step()
    reference_step(truth)
    after = run.on_host()
    assert after.report[contract.NONFINITE] == truth.report[contract.NONFINITE] == 4
    bad = ~case.grads[3].view(-1).isfinite()
    if propagate:
        assert torch.equal(after.params[3].isnan(), truth.params[3].isnan())
        assert after.params[3].view(-1)[bad].isnan().all()
    else:
        assert_agrees(after, truth, before, dtype=torch.float32)
        assert torch.equal(after.params[3].view(-1)[bad], before.params[3].view(-1)[bad])
        counted = truth.statistics[3]
        assert after.statistics[3][contract.COUNT] == counted[contract.COUNT]
        assert after.statistics[3][contract.HISTOGRAM :].sum() == counted[contract.HISTOGRAM :].sum()


@on_each_device
def test_an_unfused_step_shows_zero_for_what_is_held(device: str) -> None:
    case = make_case(inner=Inner.NONE, shapes=SMALL)
    make_statistics(case, Phase.BEFORE)
    case.grads[0][2] = float("inf")
    run = Run(case, device)
    run.step(Phase.BEFORE)
    shown = run.case.grads[0].cpu()
    assert shown[2] == 0
    assert torch.equal(shown[[0, 1, 3, 4, 5, 6]], case.grads[0][[0, 1, 3, 4, 5, 6]])
    assert torch.equal(run.case.previous[3].cpu(), case.params[3])


@on_each_device
@pytest.mark.parametrize("count", [False, True])
def test_a_skipped_step_changes_nothing(count: bool, device: str) -> None:
    case = make_case(shapes=SMALL, decoupled_decay=True, count_skipped=count, reset_penalties=True)
    make_statistics(case)
    case.grads[5][8190:] = float("nan")
    case.report = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    run = Run(case, device)
    before = run.on_host()
    run.step(found_inf=torch.ones(1, device=device))
    after = run.on_host()
    assert after.report.tolist() == [1.0, 2.0, 3.0 + 3 * count]
    after.report = before.report
    for a, b in ((before, after), (after, before)):
        for t in (*a.grads, *b.grads):
            t.nan_to_num_()
        same_bits(a, b)


@on_each_device
def test_a_step_that_is_not_skipped_and_a_scale_on_the_device(device: str) -> None:
    """The step is the same with ``found_inf`` zero, and with gradients and ``grad_scale`` larger by a power of two."""
    case = make_case(shapes=SMALL, decoupled_decay=True)
    make_statistics(case)
    plain, scaled = Run(case.copy(), device), Run(case.copy(), device)
    for g in scaled.case.grads:
        g.mul_(1024.0)
    plain.step()
    scaled.step(found_inf=torch.zeros(1, device=device), grad_scale=torch.full((1,), 1024.0, device=device))
    for g in scaled.case.grads:
        g.div_(1024.0)
    same_bits(plain.on_host(), scaled.on_host())


@on_each_device
def test_numbers_and_a_device_vector_are_the_same_settings_and_runs_the_same_bits(device: str) -> None:
    case = make_case(shapes=((130, 131), (5,)), transfer_to_anchor=False)
    make_statistics(case)
    runs = [Run(case.copy(), device) for _ in range(3)]
    for lr in (1e-2, 1e-2, 3e-3):
        case.settings[Setting.LEARNING_RATE] = lr
        runs[0].step(settings=case.settings.tolist())
        runs[1].step(settings=case.settings.to(device))
        runs[2].step(settings=case.settings.tolist())
    for other in runs[1:]:
        same_bits(runs[0].on_host(), other.on_host())


@on_each_device
def test_memory_that_moved_and_memory_that_is_not_aligned(device: str) -> None:
    case = make_case(shapes=SMALL, decoupled_decay=True)
    make_statistics(case)
    plain = Run(case.copy(), device)

    def shifted(t: Tensor) -> Tensor:
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) if t.numel() else t

    odd = case.copy()
    odd.first, odd.priors = [shifted(t) for t in odd.first], [shifted(t) for t in odd.priors]
    moved = Run(odd, device)
    for _ in range(2):
        plain.step()
        moved.step()
        moved.case.params[:] = [shifted(t) for t in moved.case.params]
        moved.case.grads[:] = [t.clone() for t in moved.case.grads]
    a, b = plain.on_host(), moved.on_host()
    for name in ("params", "first", "second", "statistics"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)  # the compiler may contract the two paths otherwise


@on_each_device
def test_the_report_is_set_or_added_to(device: str) -> None:
    case = make_case(shapes=SMALL)
    make_statistics(case)
    fresh = Run(case.copy(), device)
    fresh.step()
    old = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)
    case.report = old
    added = Run(case.copy(), device)
    added.step()
    case.flags |= contract.RESET_PENALTIES
    reset = Run(case.copy(), device)
    reset.step()
    found = fresh.on_host().report
    assert torch.equal(added.on_host().report, old + found)
    assert torch.equal(reset.on_host().report, torch.tensor([found[0], found[1], 7.0], dtype=torch.float64))


@on_each_device
def test_nothing_to_do_and_nothing_known(device: str) -> None:
    """A plan may have no tensors at all, or tensors of whose T nothing is known, which all have the rank 1/2."""
    report = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=device)
    plan = TritonPlan(
        StepTensors(
            [],
            torch.zeros(0, device=device),
            torch.zeros(0, contract.STATISTICS, dtype=torch.float64, device=device),
            torch.zeros(0, 2, dtype=torch.float64, device=device),
        )
    )
    flags = StepFlags(Inner.SGD, Mode.PROXIMAL, Damping.UNDAMPED, Normalize.PER_TENSOR, reset_penalties=True)
    plan.step(StepCall([], [], [0.5] * contract.SETTINGS, report, int(flags), Phase.FUSED))
    assert report.tolist() == [0.0, 0.0, 3.0]

    case = make_case(shapes=((50,), (40,)), kappa=0.0, strength=0.0)
    known = case.copy()
    known.settings[Setting.MU_MIN] = known.settings[Setting.MU_MAX] = 0.45
    unknown, flat = Run(case, device), Run(known, device)
    unknown.step()
    flat.step()
    same = zip(unknown.on_host().params, flat.on_host().params, strict=True)
    for x, y in same:
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)
    assert unknown.statistics[:, contract.HISTOGRAM :].sum(1).tolist() == [50.0, 40.0]


# ---------------------------------------------------------------- only a device can show


@pytest.mark.gpu
def test_changed_numbers_and_sizes_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    case = make_case(shapes=SMALL)
    make_statistics(case)
    run = Run(case, "cuda")
    run.step()
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **what: compiled.append(what) and None)
    run.case.settings.mul_(0.9)
    run.step()
    other = make_case(shapes=((1,), (300, 300), (16,)), kappa=0.1)
    make_statistics(other)
    Run(other, "cuda").step()
    assert not compiled


@pytest.mark.gpu
def test_a_captured_step_reads_its_settings_at_every_replay() -> None:
    case = make_case(shapes=SMALL, decoupled_decay=True)
    make_statistics(case)
    eager, replayed = Run(case.copy(), "cuda"), Run(case.copy(), "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        Run(case.copy(), "cuda").step()  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.step()
    for lr in (1e-2, 5e-3, 1e-3):
        for run in (eager, replayed):
            run.case.settings[Setting.LEARNING_RATE] = lr
        eager.step()
        graph.replay()
    same_bits(eager.on_host(), replayed.on_host())


# ---------------------------------------------------------------- the penalty


def draw(dtypes: Sequence[torch.dtype], shapes: Sequence[tuple[int, ...]], device: str) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(s, generator=generator) for s in shapes]
    anchors = [p + 0.1 * torch.randn(p.shape, generator=generator) for p in params]
    significance = [torch.randn(p.shape, generator=generator).square() for p in params]
    return [
        [t.to(device, dtype) for t in listed]
        for listed, dtype in zip((params, anchors, significance), dtypes, strict=True)
    ]


def check_penalty(lists: list[list[Tensor]], strength: Tensor, grad: Tensor) -> None:
    value, truth = penalty_value(*lists, strength), penalty_reference(*lists, strength)
    assert (value.dtype, value.shape, value.device) == (truth.dtype, truth.shape, truth.device)
    # Non-negative terms, each exact to a rounding of the element's arithmetic, which a device may contract.
    eps = max(torch.finfo(torch.float64 if p.dtype == torch.float64 else torch.float32).eps for p in lists[0])
    torch.testing.assert_close(value, truth, rtol=4 * eps, atol=0.0)
    pulls = penalty_gradients(grad, *lists, strength)
    expected = penalty_backward_reference(grad, *lists, strength)
    for pull, wanted, given in zip(pulls, expected, lists[0], strict=True):
        assert pull.is_contiguous()
        assert (pull.dtype, pull.shape) == (given.dtype, given.shape)
        assert torch.equal(pull, wanted)  # two products and a difference: nothing to contract


@pytest.fixture
def strength(device: str) -> Tensor:
    return torch.tensor(2.3, dtype=torch.float64, device=device)


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("other", DTYPES, ids=str)
def test_the_penalty_is_its_reference(dtype: torch.dtype, other: torch.dtype, device: str, strength: Tensor) -> None:
    lists = draw((dtype, other, other), ((0,), (7,), (), (33, 65), (8193,), (2, 8192)), device)
    check_penalty(lists, strength, torch.tensor(-0.7, device=device))


@on_each_device
def test_penalties_of_mixed_strided_and_unusual_tensors(device: str, strength: Tensor) -> None:
    columns = [draw((a, b, torch.float32), ((5, 7), (9,)), device) for a, b in zip(DTYPES, DTYPES[::-1], strict=True)]
    lists = [[t for column in columns for t in column[k]] for k in range(3)]
    lists[0].append(torch.arange(24.0, device=device).view(4, 6).t())
    lists[1].append(torch.ones(6, 4, device=device))
    lists[2].append(torch.tensor(2.0, device=device).expand(6, 4))
    check_penalty(lists, strength, torch.tensor(0.4, device=device))
    eighths = draw((torch.float8_e4m3fn, torch.float32, torch.float32), ((40, 3),), device)
    (pull,) = penalty_gradients(torch.ones((), device=device), *eighths, strength)
    assert pull.dtype == torch.float8_e4m3fn
    assert penalty_value([], [], [], strength) == 0
    assert penalty_gradients(torch.ones((), device=device), [], [], [], strength) == []


# ---------------------------------------------------------------- whether it is there


def test_availability_has_a_reason() -> None:
    usable, why = available()
    assert usable == (INTERPRETED or torch.cuda.is_available())
    assert usable or "GPU" in why
