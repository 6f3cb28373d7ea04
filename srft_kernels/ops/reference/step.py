"""The mathematics of ``docs/kernels.md`` in plain torch: slow and readable. Every kernel is tested against it.

On float64 tensors it is exact to float64. On all others it computes in float32, as the kernels do. It runs on any
device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.ops.contract import (
    COUNT,
    CURVATURE_SUM,
    DENSITY,
    HISTOGRAM,
    LOW,
    NONFINITE,
    PRIOR_PENALTY,
    SUM,
    TRANSFER_PENALTY,
    Inner,
    Mode,
    Normalize,
    Phase,
    Setting,
)
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.plan import StepCall, StepTensors
from srft_kernels.ops.reference.probe import signs
from srft_kernels.ops.reference.rank import bin_ranks, count_keys, fresh_statistics, next_range, rank_bin, sampled
from srft_kernels.ops.tensors import element_dtype, in_memory_order

LARGEST_WEIGHT = 1e18
# If the size of T matters, and not its rank, T is bounded so that an overflow makes no mean and no weight infinite.
LARGEST_TRANSFER = {torch.float32: 2.0**96, torch.float64: 2.0**960}

# ---------------------------------------------------------------- the inner optimizers, as torch defines them


def adamw(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    maximum: Tensor | None,
    *,
    time: float,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled_decay: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return theta', m, v and max v of AdamW (Loshchilov & Hutter 2019), or of Adam with an L2 term.

    ``maximum`` is AMSGrad's.
    """
    if decoupled_decay:
        weight = weight * (1 - lr * weight_decay)
    else:
        gradient = gradient + weight_decay * weight
    first = first + (1 - beta1) * (gradient - first)
    second = beta2 * second + (1 - beta2) * gradient * gradient
    if maximum is not None:
        maximum = torch.maximum(maximum, second)
    root = (second if maximum is None else maximum).sqrt() / math.sqrt(1 - beta2**time)
    return weight - lr / (1 - beta1**time) * first / (root + epsilon), first, second, maximum


def sgd(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor | None,
    *,
    time: float,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return theta' and the momentum buffer of SGD. The first step's gradient is not dampened."""
    gradient = gradient + weight_decay * weight
    if buffer is not None:
        buffer = momentum * buffer + (1.0 if time <= 1 else 1 - dampening) * gradient
        gradient = gradient + momentum * buffer if nesterov else buffer
    return weight - lr * gradient, buffer


# ---------------------------------------------------------------- the pull


def proximal(proposed: Tensor, current: Tensor, anchor: Tensor, w_p: Tensor, w_t: Tensor) -> Tensor:
    """Return the minimizer of (x - proposed)^2 / 2 + w_p (x - anchor)^2 / 2 + w_t (x - current)^2 / 2."""
    return proposed + (w_p * (anchor - proposed) + w_t * (current - proposed)) / (1 + w_p + w_t)


def decoupled(proposed: Tensor, current: Tensor, anchor: Tensor, w_p: Tensor, w_t: Tensor) -> Tensor:
    """Return the first order of :func:`proximal`, in the way in which AdamW decouples weight decay."""
    return proposed + w_p * (anchor - proposed) + w_t * (current - proposed)


# ---------------------------------------------------------------- one step


class ReferencePlan:
    """A :class:`.plan.StepPlan` of plain torch, which prepares nothing and computes everything in every call."""

    def __init__(self, tensors: StepTensors) -> None:
        self._tensors = tensors

    def step(self, call: StepCall) -> None:
        """Take one step, as :meth:`.plan.StepPlan.step` defines it."""
        if not call.skipped_by_host():
            step(self._tensors, call)


def step(t: StepTensors, call: StepCall) -> None:
    """Take one step of SRFT over the tensors of a parameter group, in place. ``call.found_inf`` is ignored."""
    params, grads, report, phase = list(call.params), list(call.grads), call.report, call.phase
    flags = StepFlags.of(call.flags)
    hold = not flags.propagate_nonfinite
    steps, statistics = list(t.steps.unbind()), list(t.statistics.unbind())
    s = dict(zip(Setting, call.settings_on_host(), strict=True))
    lr, strength, kappa = s[Setting.LEARNING_RATE], s[Setting.STRENGTH], s[Setting.KAPPA]
    release = max(1 - kappa, 0.0)  # the weight of the transfer significance
    by_rank = flags.ranks

    def entry(tensors: Sequence[Tensor], i: int) -> Tensor | None:
        return tensors[i] if tensors and tensors[i].numel() > 0 else None

    if flags.reset_penalties:
        report[PRIOR_PENALTY] = report[TRANSFER_PENALTY] = 0.0

    # First come every tensor's gradient, T and means, because a global mean needs all of them.
    work: list[tuple[int, Tensor, Tensor | None, Tensor, Tensor | None, float]] = []
    total, count = 0.0, 0.0
    for i, param in enumerate(params):
        if phase != Phase.AFTER:
            steps[i] += 1
        if param.numel() == 0:
            continue
        real = element_dtype(param)
        gradient = grads[i].to(real) * s[Setting.GRADIENT_FACTOR] if grads and phase != Phase.AFTER else None
        finite = torch.isfinite(gradient) if gradient is not None else torch.ones_like(param, dtype=torch.bool)
        held = ~finite if hold else torch.zeros_like(finite)
        state = entry(t.transfers, i)
        own = state is not None
        if state is None and flags.inner is Inner.ADAM:
            state = t.second_moments[i]
        beta = s[Setting.TRANSFER_BETA if own else Setting.BETA2]
        transfer: Tensor | None = None
        if state is not None:
            raw = state
            if gradient is not None:
                raw = torch.where(held, state, beta * state + (1 - beta) * gradient * gradient)
                if own:
                    state.copy_(raw)
            transfer = raw / (1 - beta ** float(steps[i]))
            if not by_rank:
                transfer = transfer.clamp(max=LARGEST_TRANSFER[raw.dtype])
        if flags.weighs_transfer and transfer is not None:
            counted = sampled(param.numel(), param.device) & ~held.flatten()
            if by_rank and not statistics[i][HISTOGRAM:].any():
                fresh_statistics(transfer, counted, statistics[i])
            elif not by_rank and statistics[i][COUNT] == 0:
                statistics[i][SUM] = transfer[~held].double().sum()
                statistics[i][COUNT] = float((~held).sum())
            total += float(statistics[i][SUM])
            count += float(statistics[i][COUNT])
        report[NONFINITE] += (~finite).sum()
        work.append((i, held, gradient, param.to(real), transfer, float(steps[i])))

    for i, held, gradient, weight, transfer, time in work:
        param, stats = params[i], statistics[i]
        scale, inverse_rho, curvature_scale, number = t.scales[i].tolist()
        curvature = entry(t.curvatures, i)
        if curvature is not None and gradient is not None and entry(call.plus, i) is not None and flags.fold:
            subtrahend = entry(call.minus, i)
            product = call.plus[i].to(weight.dtype) * s[Setting.GRADIENT_FACTOR]
            if subtrahend is not None:
                product = product - subtrahend.to(weight.dtype) * s[Setting.GRADIENT_FACTOR]
            elif flags.fold_gradient:
                product = product - gradient
            fold_product(curvature, product, int(number), s)
            stats[CURVATURE_SUM] = curvature.double().abs().sum()
        unit = strength if flags.coupled else lr * strength * inverse_rho
        anchor, prior = entry(t.anchors, i), entry(t.priors, i)
        none = torch.zeros_like(weight)

        # The weights of the two pulls.
        w_p, w_t, penalty_weight, anchored_transfer = none, none, none, none
        if anchor is not None and strength > 0:
            anchor = anchor.to(weight.dtype)
            significance = none if prior is None else scale * prior
            if curvature is not None:
                significance = significance + curvature_scale * curvature.abs()
            w_p = unit * kappa * significance
            penalty_weight = strength * kappa * (1.0 if flags.coupled else inverse_rho) * significance
        if flags.weighs_transfer and transfer is not None:
            sums = (total, count) if flags.normalize is Normalize.GLOBAL else (float(stats[SUM]), float(stats[COUNT]))
            per_mean = sums[1] / sums[0] if sums[0] > 0 else 0.0
            if by_rank and phase == Phase.BEFORE:
                pass  # the half after the inner step damps
            elif by_rank:
                low, density = next_range(stats)
                mu = s[Setting.MU_MIN] + (s[Setting.MU_MAX] - s[Setting.MU_MIN]) * bin_ranks(stats, low, density)
                stats[LOW], stats[DENSITY] = low, density
                w_t = (release * mu / (1 - mu)).to(weight.dtype)[rank_bin(transfer, low, density)]
            elif flags.damps:
                w_t = release * s[Setting.TAU] * per_mean * transfer
            elif anchor is not None and strength > 0:
                factor = release * (1.0 if flags.normalize is Normalize.ABSOLUTE else per_mean)
                anchored_transfer = unit * factor * transfer
                w_p = w_p + anchored_transfer
        if anchor is None:
            anchor = weight  # w_p is zero
        w_p, w_t = w_p.clamp(max=LARGEST_WEIGHT), w_t.clamp(max=LARGEST_WEIGHT)

        if phase != Phase.AFTER:  # the prior's penalty is taken at the weights whose gradient this is
            square = (weight - anchor).square()
            report[PRIOR_PENALTY] += 0.5 * (penalty_weight * square).double().sum()
            per_lr = 1.0 if flags.coupled else (1 / lr if lr > 0 else 0.0)
            report[TRANSFER_PENALTY] += 0.5 * per_lr * (anchored_transfer * square).double().sum()

        effective = gradient
        if flags.coupled and gradient is not None:
            effective = gradient + w_p * (weight - anchor)

        if phase == Phase.BEFORE:
            assert effective is not None
            if t.previous:
                t.previous[i].copy_(param)
            grads[i].copy_(torch.where(held, 0.0, effective / s[Setting.GRADIENT_FACTOR]))
            if flags.gathers_in(phase) and transfer is not None:
                gather(transfer, held, by_rank, stats)
            continue

        current = weight
        if phase == Phase.AFTER:
            proposed, current = weight, (t.previous[i].to(weight.dtype) if t.previous else weight)
        elif flags.inner is Inner.ADAM:
            assert effective is not None
            maximum = entry(t.max_second_moments, i)
            proposed, first, second, top = adamw(
                weight,
                effective,
                t.first_moments[i],
                t.second_moments[i],
                maximum,
                time=time,
                lr=lr,
                beta1=s[Setting.BETA1],
                beta2=s[Setting.BETA2],
                epsilon=s[Setting.EPSILON],
                weight_decay=s[Setting.WEIGHT_DECAY],
                decoupled_decay=flags.decoupled_decay,
            )
            t.first_moments[i].copy_(torch.where(held, t.first_moments[i], first))
            t.second_moments[i].copy_(torch.where(held, t.second_moments[i], second))
            if maximum is not None and top is not None:
                maximum.copy_(torch.where(held, maximum, top))
        else:
            assert effective is not None
            buffer = entry(t.first_moments, i)
            proposed, new_buffer = sgd(
                weight,
                effective,
                buffer,
                time=time,
                lr=lr,
                momentum=s[Setting.BETA1],
                dampening=s[Setting.BETA2],
                weight_decay=s[Setting.WEIGHT_DECAY],
                nesterov=flags.nesterov,
            )
            if buffer is not None and new_buffer is not None:
                buffer.copy_(torch.where(held, buffer, new_buffer))

        result = proposed
        if not flags.coupled:
            result = (proximal if flags.mode is Mode.PROXIMAL else decoupled)(proposed, current, anchor, w_p, w_t)
        result = torch.where(held, current, result)
        if lr > 0:
            report[TRANSFER_PENALTY] += 0.5 / lr * (w_t * (result - current).square()).double().sum()
        if flags.gathers_in(phase) and transfer is not None:
            gather(transfer, held, by_rank, stats)
        before = current.clone()  # `current` may be the parameter itself
        param.copy_(result)
        path = entry(t.paths, i)
        if path is not None and gradient is not None:
            fall = -gradient * (param.to(before.dtype) - before)
            path.add_(torch.where(fall.isfinite(), fall, 0.0))


def fold_product(curvature: Tensor, product: Tensor, number: int, settings: dict[Setting, float]) -> None:
    """Set H <- decay H + weight z product, in place. An element that would not be finite keeps its value."""
    seed = int(settings[Setting.PROBE_SEED_HIGH]) << 32 | int(settings[Setting.PROBE_SEED_LOW])
    step = int(settings[Setting.PROBE_STEP])
    z = signs(curvature.numel(), seed, step, number, dtype=curvature.dtype, device=curvature.device)
    flat, change = in_memory_order(curvature), in_memory_order(torch.empty_like(curvature).copy_(product))
    folded = settings[Setting.FOLD_DECAY] * flat + settings[Setting.FOLD_WEIGHT] * z * change
    flat.copy_(torch.where(folded.isfinite(), folded, flat))


def gather(transfer: Tensor, held: Tensor, by_rank: bool, statistics: Tensor) -> None:
    """Gather the statistics of T that the next step reads. Elements that were held are left out."""
    if by_rank:
        count_keys(transfer, sampled(transfer.numel(), transfer.device) & ~held.flatten(), statistics)
    else:
        statistics[SUM] = transfer[~held].double().sum()
        statistics[COUNT] = float((~held).sum())
