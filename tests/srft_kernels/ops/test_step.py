"""The step operator: the compiled kernels against the reference in float64, over every mode, dtype and layout."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srft_kernels.ops import contract, reference
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.native import library
from tests.paths import REPOSITORY

pytestmark = pytest.mark.skipif(not library.available, reason=f"the native library is not here: {library.reason}")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((7,), (), (0,), (33, 65), (1, 1), (700, 300))  # the last is sampled and spans several chunks


@dataclass
class Case:
    """The arguments of one call, and their copies."""

    params: list[Tensor]
    grads: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    maximum: list[Tensor]
    steps: list[Tensor]
    previous: list[Tensor]
    anchors: list[Tensor]
    priors: list[Tensor]
    scales: Tensor
    transfers: list[Tensor]
    curvatures: list[Tensor]
    plus: list[Tensor]
    minus: list[Tensor]
    paths: list[Tensor]
    statistics: list[Tensor]
    settings: Tensor
    report: Tensor
    flags: int

    def arguments(self, phase: Phase) -> tuple[object, ...]:
        return (*vars(self).values(), int(phase))

    def copy(self, dtype: torch.dtype | None = None) -> Case:
        def cast(name: str, value: object) -> object:
            if isinstance(value, list):
                keep = dtype is None or name in ("steps", "statistics")
                return [t.clone() if keep else t.to(dtype, copy=True) for t in value]
            return value.clone() if isinstance(value, Tensor) else value

        return Case(**{name: cast(name, value) for name, value in vars(self).items()})  # type: ignore[arg-type]


def make_case(
    *,
    inner: Inner = Inner.ADAM,
    mode: Mode = Mode.PROXIMAL,
    damping: Damping = Damping.RANK,
    dtype: torch.dtype = torch.float32,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    kappa: float = 0.6,
    strength: float = 0.5,
    own: bool = False,
    curved: bool = False,
    product: str = "",
    follows: bool = False,
    seed: int = 0,
    **options: bool,
) -> Case:
    """``product`` is what is folded into H: "whole", or "less minus" or "less gradient"."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if dtype == torch.float64 else torch.float32

    def draw(scale: float = 1.0) -> list[Tensor]:
        return [scale * torch.randn(s, generator=generator) for s in shapes]

    params = [t.to(dtype) for t in draw(0.1)]
    own = own or inner is not Inner.ADAM
    values = {
        Setting.LEARNING_RATE: 1e-2,
        Setting.BETA1: 0.9,
        Setting.BETA2: 0.99 if inner is Inner.ADAM else 0.1,
        Setting.EPSILON: 1e-8,
        # Decay through Adam's gradient would be in the second moment, which then is not T: the wrapper gives T a state.
        Setting.WEIGHT_DECAY: 0.05 if own or options.get("decoupled_decay") else 0.0,
        Setting.GRADIENT_FACTOR: 1.0,
        Setting.STRENGTH: strength,
        Setting.KAPPA: kappa,
        Setting.MU_MIN: 0.25,
        Setting.MU_MAX: 0.65,
        Setting.TAU: 0.02,
        Setting.TRANSFER_BETA: 0.9,
        Setting.PROBE_SEED_LOW: 0xDEADBEEF,
        Setting.PROBE_SEED_HIGH: 0x12345678,
        Setting.PROBE_STEP: 0xFFFFFFFF,
        Setting.FOLD_DECAY: 0.9,
        Setting.FOLD_WEIGHT: 0.3,
    }
    priors = [t.square().to(real) for t in draw()]
    priors[0] = torch.empty(0, dtype=real)  # a parameter without a prior
    anchors = [(p.float() + d).to(dtype) for p, d in zip(params, draw(0.02), strict=True)]
    scales = [
        (1 / max(float(p.mean()), 1e-9) if p.numel() else 0.0, 1 / max(float(a.float().square().mean().sqrt()), 1e-3))
        if a.numel()
        else (0.0, 1.0)
        for p, a in zip(priors, anchors, strict=True)
    ]
    rows = torch.ones(len(shapes), contract.SCALES, dtype=torch.float64)
    rows[:, : contract.CURVATURE_SCALE] = torch.tensor(scales, dtype=torch.float64)
    rows[:, contract.CURVATURE_SCALE] = 1.3
    rows[:, contract.PROBE_NUMBER] = torch.arange(len(shapes)) * 5 + 2**31
    if curved:
        priors[1] = torch.empty(0, dtype=real)  # one with neither P nor H, one with H alone, one with P alone
    case = Case(
        params=params,
        grads=[(t * 10 ** (0.4 * torch.randn(t.shape, generator=generator))).to(dtype) for t in draw(1e-3)],
        first=[1e-3 * t.to(real) for t in draw()] if inner is not Inner.NONE else [],
        second=[1e-6 * t.square().to(real) for t in draw()] if inner is Inner.ADAM else [],
        maximum=[1e-6 * t.square().to(real) for t in draw()] if options.get("amsgrad") else [],
        steps=[torch.tensor(4.0) for _ in params],
        previous=[torch.empty_like(p) for p in params] if inner is Inner.NONE else [],
        anchors=anchors,
        priors=priors,
        scales=rows,
        transfers=[1e-6 * t.square().to(real) for t in draw()] if own else [],
        curvatures=[t.to(real) for t in draw()] if curved else [],
        plus=[t.to(dtype) for t in draw(1e-3)] if product else [],
        minus=[t.to(dtype) for t in draw(1e-3)] if product == "less minus" else [],
        paths=[t.to(real) for t in draw(1e-6)] if follows else [],
        statistics=[torch.zeros(contract.STATISTICS, dtype=torch.float64) for _ in params],
        settings=torch.tensor([values[s] for s in Setting], dtype=torch.float64),
        report=torch.zeros(contract.REPORT, dtype=torch.float64),
        flags=contract.flags_of(inner=inner, mode=mode, damping=damping, normalize=Normalize.PER_TENSOR, **options)
        | contract.FOLD * bool(product)
        | contract.FOLD_GRADIENT * (product == "less gradient"),
    )
    if curved:
        case.curvatures[0] = case.curvatures[-2] = torch.empty(0, dtype=real)
    return case


def native_step(case: Case, phase: Phase = Phase.FUSED) -> None:
    torch.ops.srft.step_(*case.arguments(phase))


def reference_step(case: Case, phase: Phase = Phase.FUSED) -> None:
    reference.step(*case.arguments(phase))  # type: ignore[arg-type]


def assert_agrees(native: Case, truth: Case, before: Case, *, dtype: torch.dtype) -> None:
    """Weights within rounding of the float64 reference, averages and report likewise.

    An element whose T lies within rounding of a bin's edge may take the neighboring bin; what that may move it by is
    the step it took times the difference between neighboring bins, so such elements are told apart and must be few.
    """
    epsilon = {torch.float64: 1e-13, torch.float32: 1.2e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    for i, weight in enumerate(native.params):
        if weight.numel() == 0:
            continue
        error = (weight.double() - truth.params[i]).abs()
        bound = epsilon * (truth.params[i].abs() + before.params[i].double().abs() + 1e-3)
        flipped = (error > bound).sum().item()
        assert flipped <= 2e-4 * weight.numel(), f"tensor {i}: {flipped} of {weight.numel()} elements differ"
        step = (truth.params[i] - before.params[i].double()).abs().max()
        assert error.max() <= bound.max() + 0.05 * step
    rounding = 4 * torch.finfo(native.second[0].dtype if native.second else torch.float32).eps
    for name in ("first", "second", "maximum", "transfers", "curvatures"):
        for ours, theirs in zip(getattr(native, name), getattr(truth, name), strict=True):
            if theirs.numel():  # an average of terms that may cancel: relative to the largest
                torch.testing.assert_close(
                    ours.double(), theirs, rtol=rounding, atol=rounding * float(theirs.abs().max())
                )
    for i, (ours, theirs) in enumerate(zip(native.paths, truth.paths, strict=True)):
        # As weights are stored the path is g times what they moved by, which has their rounding.
        before_, grad = before.params[i].double(), before.grads[i].double()
        moved = -grad * (native.params[i].double() - before_)
        expected = before.paths[i].double() + torch.where(moved.isfinite(), moved, 0.0)
        if theirs.numel():
            largest = float(before.paths[i].abs().max())
            torch.testing.assert_close(ours.double(), expected, rtol=rounding, atol=rounding * largest)
        if dtype.itemsize >= 4 and theirs.numel():
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=2e-6 * float(grad.abs().max()))
    for i, curvature in enumerate(native.curvatures):
        if curvature.numel() and native.plus and native.flags & contract.FOLD:
            total = curvature.double().abs().sum()
            torch.testing.assert_close(native.statistics[i][contract.CURVATURE_SUM], total, rtol=1e-5, atol=0)
    # The transfer's penalty is a difference of nearly equal weights, squared: it has the weights' relative error twice.
    torch.testing.assert_close(native.report, truth.report, rtol=2e-3 if dtype.itemsize < 8 else 1e-9, atol=1e-12)


CONFIGURATIONS = [
    *(
        {"inner": inner, "mode": mode, "damping": damping}
        for inner, mode, damping in itertools.product((Inner.ADAM, Inner.SGD), Mode, Damping)
    ),
    {"decoupled_decay": True},
    {"decoupled_decay": True, "amsgrad": True},
    {"amsgrad": True, "mode": Mode.COUPLED, "own": True},
    {"own": True},
    {"inner": Inner.SGD, "nesterov": True},
    {"transfer_to_anchor": True},
    {"transfer_to_anchor": True, "own": True, "mode": Mode.COUPLED},
    {"transfer_to_anchor": True, "mode": Mode.DECOUPLED},
    {"transfer_to_anchor": True, "kappa": 1.0},  # where there is no prior, nothing pulls
    {"transfer_to_anchor": True, "own": True, "mode": Mode.COUPLED, "kappa": 1.0},
    {"strength": 0.0},
    {"kappa": 1.0},
    {"kappa": 0.0},
    {"strength": 0.0, "kappa": 1.0},
    {"curved": True, "decoupled_decay": True},
    {"curved": True, "mode": Mode.COUPLED, "own": True},
    {"curved": True, "product": "less gradient", "decoupled_decay": True},
    {"curved": True, "product": "less minus", "mode": Mode.DECOUPLED},
    {"curved": True, "product": "whole", "inner": Inner.SGD, "damping": Damping.UNDAMPED},
    {"curved": True, "product": "less minus", "follows": True, "transfer_to_anchor": True},
    {"follows": True, "decoupled_decay": True},
    {"follows": True, "inner": Inner.SGD, "mode": Mode.COUPLED},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", CONFIGURATIONS, ids=lambda o: " ".join(f"{k}={getattr(v, 'name', v)}" for k, v in o.items())
)
def test_the_kernels_are_the_reference(options: dict, dtype: torch.dtype) -> None:
    case = make_case(dtype=dtype, **options)
    if options.get("mode") is Mode.COUPLED and not case.transfers:
        case.transfers = [torch.zeros_like(p, dtype=case.first[0].dtype) for p in case.params]
    for _ in range(3):  # the first step makes its statistics, the second reads them, the third moves their range
        before, truth = case.copy(), case.copy(torch.float64)
        native_step(case)
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
    truth = case.copy(torch.float64)
    for _ in range(2):
        before = case.copy()
        native_step(case, Phase.BEFORE)
        reference_step(truth, Phase.BEFORE)
        for ours, theirs in zip(case.grads, truth.grads, strict=True):
            rounding = 2 * torch.finfo(dtype).eps  # of the gradient and of the penalty's, which may cancel
            if ours.numel():
                torch.testing.assert_close(
                    ours.double(), theirs, rtol=rounding, atol=rounding * float(theirs.abs().max())
                )
        for which in (case, truth):  # an inner optimizer of some kind
            for p, g in zip(which.params, which.grads, strict=True):
                p.sub_((1e-3 * g.sign()).to(p.dtype))
        truth = Case(**{**vars(truth), "params": [p.double().clone() for p in case.params]})
        native_step(case, Phase.AFTER)
        reference_step(truth, Phase.AFTER)
        assert_agrees(case, truth, before, dtype=dtype)
        truth = case.copy(torch.float64)


def test_the_order_of_sums_does_not_depend_on_threads() -> None:
    answers = []
    for threads in (1, 2, 1):
        case = make_case(shapes=((700, 300), (5,), (1000, 333)))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(3):
                native_step(case)
        finally:
            torch.set_num_threads(before)
        answers.append(case)
    for other in answers[1:]:
        for name, value in vars(answers[0]).items():
            for a, b in zip(value, getattr(other, name), strict=True) if isinstance(value, list) else []:
                assert torch.equal(a, b), name
        assert torch.equal(answers[0].report, other.report)


DIGEST = """
import hashlib, sys, torch
sys.path.insert(0, sys.argv[1])
from tests.srft_kernels.ops.test_step import make_case, native_step
from srft_kernels.ops.contract import Damping, Inner, Mode
digest = hashlib.sha256()
for options in ({"decoupled_decay": True}, {"inner": Inner.SGD, "damping": Damping.MEAN}, {"dtype": torch.bfloat16},
                {"dtype": torch.float16, "mode": Mode.DECOUPLED}, {"dtype": torch.float64, "transfer_to_anchor": True},
                {"curved": True, "product": "less gradient", "follows": True},
                {"curved": True, "product": "less minus", "dtype": torch.bfloat16}, {"curved": True}):
    case = make_case(**options)
    for _ in range(2):
        native_step(case)
    for value in vars(case).values():
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, torch.Tensor):
                digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    best = library.capability()
    names = library.build.instruction_sets
    usable = names[: names.index(best) + 1]
    if len(usable) < 2:
        pytest.skip(f"this machine has only {best}")
    answers = {}
    for name in usable:
        environment = {**os.environ, "SRFT_CPU_CAPABILITY": name, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST, str(REPOSITORY)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        answers[name] = done.stdout
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
    before, truth = case.copy(), case.copy(torch.float64)
    native_step(case)
    reference_step(truth)
    assert_agrees(case, truth, before, dtype=torch.float32)
    kernel, plain = case.statistics[0], truth.statistics[0]
    assert kernel[contract.HISTOGRAM :].sum() == plain[contract.HISTOGRAM :].sum() == reference.sampled(size).sum()


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
    native_step(case)
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
        native_step(case)
        same = (case.params[0].view(torch.int16) == every.view(torch.int16)) | (every.isnan() & case.params[0].isnan())
        same |= (every == 0) & (case.params[0] == 0)  # -0 + 0 is +0
        assert bool(same.all())
