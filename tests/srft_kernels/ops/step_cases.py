"""Cases of a step, for the tests of every backend: what goes in, and when what comes out agrees with the reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract, initial_statistics
from srft_kernels.ops.backends import PlanMaker
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.plan import StepCall, StepTensors
from srft_kernels.ops.reference.step import ReferencePlan

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

    def tensors(self) -> StepTensors:
        """Return what a plan works on. The case's counts and statistics become views of it."""
        made = StepTensors(
            params=self.params,
            steps=torch.stack(self.steps) if self.steps else torch.zeros(0),
            statistics=torch.stack(self.statistics),
            scales=self.scales,
            first_moments=self.first,
            second_moments=self.second,
            max_second_moments=self.maximum,
            previous=self.previous,
            anchors=self.anchors,
            priors=self.priors,
            transfers=self.transfers,
            curvatures=self.curvatures,
            paths=self.paths,
        )
        self.steps, self.statistics = list(made.steps.unbind()), list(made.statistics.unbind())
        return made

    def call(self, phase: Phase = Phase.FUSED, settings: Any = None, flags: int = 0, **more: Any) -> StepCall:
        """Return the description of one step with the case's gradients and products."""
        if phase is Phase.FUSED:
            more = {"plus": self.plus, "minus": self.minus, **more}
        grads = [] if phase is Phase.AFTER else self.grads
        chosen = self.settings.tolist() if settings is None else settings
        return StepCall(self.params, grads, chosen, self.report, self.flags | flags, int(phase), **more)

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
    """Make a case. ``product`` is what is folded into H: "whole", "less minus" or "less gradient"."""
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
        # If decay went through Adam's gradient, it would be in the second moment, which then is not T. So the wrapper
        # gives T a state of its own.
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
        flags=int(
            StepFlags(
                inner=inner,
                mode=mode,
                damping=damping,
                normalize=Normalize.PER_TENSOR,
                fold=bool(product),
                fold_gradient=product == "less gradient",
                **options,
            )
        ),
    )
    if curved:
        case.curvatures[0] = case.curvatures[-2] = torch.empty(0, dtype=real)
    return case


def configured(options: dict[str, Any], dtype: torch.dtype, **more: Any) -> Case:
    """Return the case of one of :data:`CONFIGURATIONS`."""
    case = make_case(dtype=dtype, **options, **more)
    if options.get("mode") is Mode.COUPLED and not case.transfers:
        case.transfers = [torch.zeros_like(p, dtype=case.first[0].dtype) for p in case.params]
    return case


def moved(case: Case, device: torch.device | str) -> Case:
    """Return a copy on another device; the settings stay numbers of the host."""

    def move(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [t.to(device, copy=True) for t in value]
        return value.to(device, copy=True) if isinstance(value, Tensor) and name != "settings" else value

    return Case(**{name: move(name, value) for name, value in vars(case).items()})


def reference_step(case: Case, phase: Phase = Phase.FUSED) -> None:
    """Take the specification's step."""
    ReferencePlan(case.tensors()).step(case.call(phase))


class Stepper:
    """A case as the wrapper steps it: one plan, and first statistics made beforehand."""

    def __init__(self, case: Case, make_plan: PlanMaker) -> None:
        self.case = case
        self.tensors = case.tensors()
        self.plan: Any = make_plan(self.tensors)

    def prepare(self, grad_scale: Tensor | None = None) -> None:
        """Do what the wrapper does before a tensor's first step.

        A truth that is copied afterward starts from the same counts. If T were in float64, a few elements would be in a
        neighboring bin and change the rank of that bin's other elements.
        """
        flags = StepFlags.of(self.case.flags)
        if flags.weighs_transfer:
            initial_statistics.fill(self.tensors, self.case.grads, self.case.settings.tolist(), flags, grad_scale)

    def __call__(self, phase: Phase = Phase.FUSED, **more: Any) -> None:
        if phase is not Phase.AFTER:
            self.prepare(more.get("grad_scale"))
        self.plan.step(self.case.call(phase, **more))


def assert_agrees(native: Case, truth: Case, before: Case, *, dtype: torch.dtype) -> None:
    """Compare with the float64 reference: weights within rounding, averages and report likewise.

    An element whose T is within rounding of a bin's edge may take the neighboring bin. That may move it by the step it
    took times the difference between neighboring bins. Such elements are told apart and must be few.
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
        # The path is g times the move of the stored weights, so it has their rounding.
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


def assert_halves_agree(step: Stepper, dtype: torch.dtype) -> None:
    """Compare two steps of an optimizer that is not fused: both halves of each, around some inner optimizer."""
    case = step.case
    step.prepare()
    truth = moved(case, "cpu").copy(torch.float64)
    for _ in range(2):
        before = moved(case, "cpu")
        step(Phase.BEFORE)
        reference_step(truth, Phase.BEFORE)
        for ours, theirs in zip(case.grads, truth.grads, strict=True):
            rounding = 2 * torch.finfo(dtype).eps  # of the gradient and of the penalty's, which may cancel
            if ours.numel():
                torch.testing.assert_close(
                    ours.cpu().double(), theirs, rtol=rounding, atol=rounding * float(theirs.abs().max())
                )
        for p, g in zip(case.params, case.grads, strict=True):
            p.sub_((1e-3 * g.sign()).to(p.dtype))
        truth = Case(**{**vars(truth), "params": [p.cpu().double().clone() for p in case.params]})
        step(Phase.AFTER)
        reference_step(truth, Phase.AFTER)
        after = moved(case, "cpu")
        assert_agrees(after, truth, before, dtype=dtype)
        truth = after.copy(torch.float64)


def assert_same_statistics(case: Case, truth: Case) -> None:
    """Compare ranges and sums within rounding, and counts but for elements within rounding of a bin's edge."""
    for ours, theirs in zip(case.statistics, truth.statistics, strict=True):
        torch.testing.assert_close(ours[: contract.HISTOGRAM], theirs[: contract.HISTOGRAM], rtol=1e-5, atol=1e-5)
        counted = theirs[contract.HISTOGRAM :].sum()
        assert ours[contract.HISTOGRAM :].sum() == counted
        assert (ours - theirs)[contract.HISTOGRAM :].abs().sum() <= 0.01 * counted + 2


def name_of(options: Any) -> str:
    """Return the name of a test's parameters."""
    if not isinstance(options, dict):
        return str(options)
    return " ".join(f"{k}={getattr(v, 'name', v)}" for k, v in options.items())
