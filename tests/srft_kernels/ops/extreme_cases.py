"""Numbers at the ends of what float32 holds, as cases of a step, for the tests of every backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Setting
from tests.srft_kernels.ops.step_cases import Case, Stepper, make_case, moved, reference_step

GRADIENTS = (0.0, 1e-45, 1e-40, 1e-30, 1e-22, 1e-12, 1.0, 1e12, 1e19, 2e19, 1e25, 3e38)
PRIORS = (0.0, 1e-42, 1e-20, 1.0, 1e6)
STATES = (0.0, 1e-45, 1e-30, 1.0, 3e38)  # of the second moment
EVERY = list(itertools.product(GRADIENTS, PRIORS, STATES))

EXTREMES: list[dict[str, Any]] = [
    *({"damping": d, "mode": m, "strength": 1.0} for d in Damping for m in (Mode.PROXIMAL, Mode.DECOUPLED)),
    {"strength": 1e12},
    {"strength": 1e12, "own": True, "mode": Mode.COUPLED},
    {"strength": 1e12, "damping": Damping.UNDAMPED},
    {"strength": 0.0},
    {"lr": 0.0},
    {"lr": 0.0, "damping": Damping.MEAN},
    {"lr": 0.0, "transfer_to_anchor": True},
    {"transfer_to_anchor": True},
    {"transfer_to_anchor": True, "kappa": 1.0},
    {"transfer_to_anchor": True, "own": True, "mode": Mode.COUPLED, "strength": 1e-6},
    {"damping": Damping.MEAN, "kappa": 1.0},
    {"damping": Damping.MEAN, "normalize": Normalize.GLOBAL},
    {"amsgrad": True},
    {"inner": Inner.SGD, "lr": 1e-6},
    {"inner": Inner.SGD, "lr": 1e-6, "damping": Damping.MEAN},
    *({"taken": taken, "damping": d} for taken in (1e6, 2.0**24) for d in (Damping.RANK, Damping.MEAN)),
    {"taken": 1e6, "own": True, "mode": Mode.DECOUPLED},
    {"kappa": 1.5},
    {"kappa": -0.5},
]


def extreme_case(
    *, lr: float = 1e-2, normalize: Normalize = Normalize.PER_TENSOR, taken: float = 4.0, **options: Any
) -> Case:
    """Return every combination of gradient, prior and second moment, in one tensor, beside one of zeros.

    ``taken`` is the number of steps taken before, in a float32, whose whole numbers end at 2^24.
    """
    size = len(EVERY)
    options = {"decoupled_decay": options.get("inner", Inner.ADAM) is Inner.ADAM, "kappa": 0.5} | options
    case = make_case(shapes=((size,), (9,)), **options)
    gradient, prior, state = (torch.tensor(column) for column in zip(*EVERY, strict=True))
    gradient = gradient * torch.where(torch.arange(size) % 2 == 0, 1.0, -1.0)
    case.grads[0], case.grads[1] = gradient, torch.zeros(9)
    case.priors = [prior, torch.zeros(9)]
    for averages in (case.second, case.maximum, case.transfers):
        if averages:
            averages[:] = [state.clone(), torch.zeros(9)]
    if case.first:
        case.first[:] = [torch.zeros(size), torch.zeros(9)]
    case.settings[Setting.LEARNING_RATE] = lr
    case.steps = [torch.tensor(taken) for _ in case.params]
    case.settings[Setting.WEIGHT_DECAY] = 0.0
    case.scales[:, :2] = torch.tensor([1.0, 10.0], dtype=torch.float64)
    case.flags |= int(normalize) << 6
    return case


def check_extremes(make: Callable[[Case], Any], options: dict[str, Any]) -> None:
    """Compare two steps of a backend with the reference in the same arithmetic: finite where it is, and the same there.

    ``make`` takes a case and returns a stepper of it, whose ``case`` may lie on another device.
    """
    ours = make(extreme_case(**options))
    for _ in range(2):
        ours.prepare()
        theirs = moved(ours.case, "cpu")
        anchors, before = theirs.anchors, [p.clone() for p in theirs.params]
        ours()
        reference_step(theirs)
        after = moved(ours.case, "cpu")
        for i, (mine, truth) in enumerate(zip(after.params, theirs.params, strict=True)):
            assert torch.equal(mine.isfinite(), truth.isfinite()), i
            finite = truth.isfinite()
            # The weight is rounded, and so is what it is made of: where it was, where it is pulled to, and how far it
            # went.
            size = truth.abs() + before[i].abs() + anchors[i].abs()
            error = (mine - truth).abs()[finite]
            assert bool((error <= 4e-6 * size[finite]).all()), (i, float((error / size[finite]).max()))
        for name in ("first", "second", "maximum", "transfers"):
            for mine, truth in zip(getattr(after, name), getattr(theirs, name), strict=True):
                torch.testing.assert_close(mine, truth, rtol=1e-6, atol=1e-44)
        assert torch.equal(after.report.isfinite(), theirs.report.isfinite())


def as_torch_steps(make: Callable[[Case], Stepper], *, kappa: float) -> None:
    """Check that AdamW's step without a pull is torch's wherever that is finite, and that damping only shortens it."""
    step = make(extreme_case(strength=0.0, kappa=kappa, damping=Damping.RANK))
    case = step.case
    param = torch.nn.Parameter(case.params[0].clone())
    inner = torch.optim.AdamW([param], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, foreach=False)
    param.grad = case.grads[0].clone()
    inner.state[param] = {
        "step": torch.tensor(4.0),
        "exp_avg": case.first[0].clone(),
        "exp_avg_sq": case.second[0].clone(),
    }
    before = case.params[0].clone()
    inner.step()
    step()
    alone, ours = param.detach() - before, case.params[0] - before
    known = param.isfinite()
    assert known.all()
    rounding = 4e-7 * before.abs() + 2e-6 * alone.abs()
    if kappa == 1.0:
        assert bool(((ours - alone).abs() <= rounding).all())
    else:
        assert bool((ours.abs() <= alone.abs() + rounding).all())
        assert bool((ours * alone >= -(rounding**2)).all())
