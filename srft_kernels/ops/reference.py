"""The mathematics of DESIGN section 2 in plain torch: slow, readable, and the truth of every kernel test.

Run on float64 tensors it is exact to float64; on anything else it computes in float32 as the kernels do. It implements
the same operator as they do (``srft::step_``), on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import (
    BINS,
    COUNT,
    CURVATURE_SUM,
    DENSITY,
    HISTOGRAM,
    LARGEST,
    LOW,
    NONFINITE,
    PRIOR_PENALTY,
    SMALLEST,
    SUM,
    TRANSFER_PENALTY,
    Damping,
    Inner,
    Mode,
    Normalize,
    Phase,
    Setting,
)
from srft_kernels.ops.probe import in_memory_order, signs

REGULAR_BINS = BINS - 3
NARROWEST_BIN = 2.0**-14
LARGEST_WEIGHT = 1e18


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
    """AdamW (Loshchilov & Hutter 2019), or Adam with an L2 term; ``maximum`` is AMSGrad's.

    Returns theta', m, v, max v.
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
    """SGD; the first step's gradient is not dampened. Returns theta' and the momentum buffer."""
    gradient = gradient + weight_decay * weight
    if buffer is not None:
        buffer = momentum * buffer + (1.0 if time <= 1 else 1 - dampening) * gradient
        gradient = gradient + momentum * buffer if nesterov else buffer
    return weight - lr * gradient, buffer


# ---------------------------------------------------------------- the pull


def proximal(proposed: Tensor, current: Tensor, anchor: Tensor, w_p: Tensor, w_t: Tensor) -> Tensor:
    """The minimizer of (x - proposed)^2 / 2 + w_p (x - anchor)^2 / 2 + w_t (x - current)^2 / 2."""
    return proposed + (w_p * (anchor - proposed) + w_t * (current - proposed)) / (1 + w_p + w_t)


def decoupled(proposed: Tensor, current: Tensor, anchor: Tensor, w_p: Tensor, w_t: Tensor) -> Tensor:
    """Its first order, as AdamW decouples decay."""
    return proposed + w_p * (anchor - proposed) + w_t * (current - proposed)


# ---------------------------------------------------------------- the rank of T


def rank_by_sort(transfer: Tensor) -> Tensor:
    """The rank of every element among its tensor's, in [0, 1], ties sharing their mean rank: what the histogram
    estimates.
    """
    _, inverse, counts = torch.unique(transfer.flatten(), sorted=True, return_inverse=True, return_counts=True)
    below = counts.cumsum(0) - counts
    rank: Tensor = (below + 0.5 * counts).double() / transfer.numel()
    return rank[inverse].reshape(transfer.shape)


def rank_key(transfer: Tensor) -> Tensor:
    """The bits of a float32, read as an integer: grows with T, and about linearly with log2 T. float32, 0 for zero."""
    return transfer.float().contiguous().view(torch.int32).float() * 2.0**-23


def rank_bin(transfer: Tensor, low: float, density: float) -> Tensor:
    """The histogram bin of every element: 0 for zeros (and subnormals), 1 below, 2..254 regular, 255 above. int64."""
    position = (rank_key(transfer) - torch.tensor(low, dtype=torch.float32)) * torch.tensor(
        density, dtype=torch.float32
    )
    bins = (position + 2.0).clamp(1.0, 255.0).long()
    return torch.where(transfer.float() >= torch.finfo(torch.float32).tiny, bins, 0)


def sampled(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Which elements of a tensor are counted: all of a small one, a hashed block of 64 in every 1024 of a large one."""
    if size <= contract.SAMPLE_ALL:
        return torch.ones(size, dtype=torch.bool, device=device)
    element = torch.arange(size, device=device)
    group = element // contract.SAMPLE_GROUP
    mask = 0xFFFFFFFF
    h = (group & mask) ^ (group >> 32)  # Murmur3's finalizer, in 64-bit integers that never overflow
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = h ^ (h >> shift)
        low, high = h & 0xFFFF, h >> 16
        h = (low * factor + ((high * factor & 0xFFFF) << 16)) & mask
    h = h ^ (h >> 16)
    block = element % contract.SAMPLE_GROUP // contract.SAMPLE_BLOCK
    return block == (h & 15)


def count_keys(transfer: Tensor, counted: Tensor, statistics: Tensor) -> None:
    """Fill the histogram of ``statistics`` over its range, and the extent of the keys, from counted elements of T."""
    chosen = transfer.flatten()[counted]
    bins = rank_bin(chosen, float(statistics[LOW]), float(statistics[DENSITY]))
    statistics[HISTOGRAM:] = torch.bincount(bins, minlength=BINS).double()
    keys = rank_key(chosen)[bins > 0]
    statistics[SMALLEST] = keys.min().double() if keys.numel() else 0.0
    statistics[LARGEST] = keys.max().double() if keys.numel() else 0.0


def share_below(statistics: Tensor, key: float) -> float:
    """Share of the counted elements below ``key``, linear within a bin; the outer bins reach the extreme keys."""
    counts: list[float] = statistics[HISTOGRAM:].tolist()
    total = sum(counts)
    low, width = float(statistics[LOW]), REGULAR_BINS / float(statistics[DENSITY])
    smallest, largest = float(statistics[SMALLEST]), float(statistics[LARGEST])
    position = (key - low) * float(statistics[DENSITY])
    below = counts[0]
    if position <= 0:
        part = (key - smallest) / (low - smallest) if low > smallest else 0.0
        return (below + max(part, 0.0) * counts[1]) / total
    whole = min(int(position), REGULAR_BINS)
    below += sum(counts[1 : 2 + whole])
    if whole < REGULAR_BINS:
        below += (position - whole) * counts[2 + whole]
    else:
        part = (key - low - width) / (largest - low - width) if largest > low + width else 0.0
        below += min(max(part, 0.0), 1.0) * counts[BINS - 1]
    return below / total


def key_quantile(statistics: Tensor, share: float) -> float:
    """The key below which ``share`` of the non-zero elements lie."""
    counts: list[float] = statistics[HISTOGRAM:].tolist()
    low, density = float(statistics[LOW]), float(statistics[DENSITY])
    wanted = share * sum(counts[1:])
    below = counts[1]
    if below > wanted:
        return float(statistics[SMALLEST])
    for i in range(REGULAR_BINS):
        count = counts[2 + i]
        if count > 0 and below + count >= wanted:
            return low + (i + (wanted - below) / count) / density
        below += count
    return max(float(statistics[LARGEST]), low + REGULAR_BINS / density)


def range_over(low: float, high: float) -> tuple[float, float]:
    """(low, density) of 253 regular bins over [low, high], in float32; never narrower than a float's key can tell
    apart.
    """
    narrowest = NARROWEST_BIN * REGULAR_BINS
    if not high - low >= narrowest:
        middle = 0.5 * (low + high)
        low, high = middle - 0.5 * narrowest, middle + 0.5 * narrowest
    low32, density32 = torch.tensor([low, REGULAR_BINS / (high - low)], dtype=torch.float64).float().tolist()
    return low32, density32


def next_range(statistics: Tensor) -> tuple[float, float]:
    """Where the regular bins should lie next: over the middle 99 % with a margin, and left alone while they fit."""
    counts = statistics[HISTOGRAM:]
    old = float(statistics[LOW]), float(statistics[DENSITY])
    nonzero = float(counts[1:].sum())
    if nonzero <= 0:  # where nothing was ever counted: every key there is
        return old if old[1] > 0 else range_over(0.0, 256.0)
    low, high = key_quantile(statistics, 0.005), key_quantile(statistics, 0.995)
    width = REGULAR_BINS / old[1]
    covers = counts[1] <= 0.01 * nonzero and counts[BINS - 1] <= 0.01 * nonzero
    narrow = width <= 1.5 * (high - low) or width <= 1.01 * NARROWEST_BIN * REGULAR_BINS
    if covers and narrow:
        return old
    margin = 0.05 * (high - low)
    return range_over(low - margin, high + margin)


def bin_ranks(statistics: Tensor, low: float, density: float) -> Tensor:
    """The rank that each bin of the range (low, density) stands for: the middle of its share. float64 (BINS,)."""
    counts = statistics[HISTOGRAM:]
    total = float(counts.sum())
    if total == 0:
        return torch.full((BINS,), 0.5, dtype=torch.float64)
    if (low, density) == (float(statistics[LOW]), float(statistics[DENSITY])):
        return (counts.cumsum(0) - 0.5 * counts) / total
    edges = [share_below(statistics, low + i / density) for i in range(REGULAR_BINS + 1)]
    zero = float(counts[0]) / total
    starts = torch.tensor([0.0, zero, *edges], dtype=torch.float64)
    ends = torch.tensor([zero, *edges, 1.0], dtype=torch.float64)
    return 0.5 * (starts + ends)


def fresh_statistics(
    transfer: Tensor, counted: Tensor, statistics: Tensor, share: Callable[[Tensor], None] | None = None
) -> None:
    """Statistics of a tensor that has none: its extent, a histogram over it, then one over its middle 99 %. Of a
    shard, each is ``share``d before the next.
    """

    def count(low: float, density: float) -> None:
        statistics[LOW], statistics[DENSITY] = low, density
        count_keys(transfer, counted, statistics)
        if share is not None:
            share(statistics)

    count(*range_over(0.0, 256.0))
    count(*range_over(float(statistics[SMALLEST]), float(statistics[LARGEST]) + NARROWEST_BIN))
    count(*next_range(statistics))


# ---------------------------------------------------------------- one step


def step(
    params: list[Tensor],
    grads: list[Tensor],
    first_moments: list[Tensor],
    second_moments: list[Tensor],
    max_second_moments: list[Tensor],
    steps: list[Tensor],
    previous: list[Tensor],
    anchors: list[Tensor],
    priors: list[Tensor],
    scales: Tensor,
    transfers: list[Tensor],
    curvatures: list[Tensor],
    plus: list[Tensor],
    minus: list[Tensor],
    paths: list[Tensor],
    statistics: list[Tensor],
    settings: Tensor,
    report: Tensor,
    flags: int,
    phase: int,
) -> None:
    """``srft::step_``; the lists are as :mod:`srft_kernels.ops.contract` describes them."""
    inner = Inner(flags >> contract.INNER_SHIFT & 3)
    mode = Mode(flags >> contract.MODE_SHIFT & 3)
    damping = Damping(flags >> contract.DAMPING_SHIFT & 3)
    normalize = Normalize(flags >> contract.NORMALIZE_SHIFT & 3)
    hold = not flags & contract.PROPAGATE_NONFINITE
    to_anchor = bool(flags & contract.TRANSFER_TO_ANCHOR)
    s = dict(zip(Setting, settings.tolist(), strict=True))
    lr, strength, kappa = s[Setting.LEARNING_RATE], s[Setting.STRENGTH], s[Setting.KAPPA]
    release = 1 - kappa  # how much of the transfer's hold is in force
    coupled = mode is Mode.COUPLED
    damped = damping is not Damping.UNDAMPED and not to_anchor and not coupled
    weighs_transfer = damped or to_anchor
    by_rank = damped and damping is Damping.RANK
    gathers = weighs_transfer and (phase != Phase.BEFORE or (to_anchor and coupled))

    def entry(tensors: list[Tensor], i: int) -> Tensor | None:
        return tensors[i] if tensors and tensors[i].numel() > 0 else None

    if flags & contract.RESET_PENALTIES:
        report[PRIOR_PENALTY] = report[TRANSFER_PENALTY] = 0.0

    # First every tensor's gradient, T and means, because a global mean needs all of them.
    work: list[tuple[int, Tensor, Tensor | None, Tensor, Tensor | None, float]] = []
    total, count = 0.0, 0.0
    for i, param in enumerate(params):
        if phase != Phase.AFTER:
            steps[i] += 1
        if param.numel() == 0:
            continue
        real = torch.float64 if param.dtype == torch.float64 else torch.float32
        gradient = grads[i].to(real) * s[Setting.GRADIENT_FACTOR] if grads and phase != Phase.AFTER else None
        finite = torch.isfinite(gradient) if gradient is not None else torch.ones_like(param, dtype=torch.bool)
        held = ~finite if hold else torch.zeros_like(finite)
        state = entry(transfers, i)
        own = state is not None
        if state is None and inner is Inner.ADAM:
            state = second_moments[i]
        beta = s[Setting.TRANSFER_BETA if own else Setting.BETA2]
        transfer: Tensor | None = None
        if state is not None:
            raw = state
            if gradient is not None:
                raw = torch.where(held, state, beta * state + (1 - beta) * gradient * gradient)
                if own:
                    state.copy_(raw)
            transfer = raw / (1 - beta ** float(steps[i]))
        if weighs_transfer and transfer is not None:
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
        scale, inverse_rho, curvature_scale, number = scales[i].tolist()
        curvature = entry(curvatures, i)
        if curvature is not None and gradient is not None and entry(plus, i) is not None and flags & contract.FOLD:
            subtrahend = entry(minus, i)
            product = plus[i].to(weight.dtype) * s[Setting.GRADIENT_FACTOR]
            if subtrahend is not None:
                product = product - subtrahend.to(weight.dtype) * s[Setting.GRADIENT_FACTOR]
            elif flags & contract.FOLD_GRADIENT:
                product = product - gradient
            fold_product(curvature, product, int(number), s)
            stats[CURVATURE_SUM] = curvature.double().abs().sum()
        unit = strength if coupled else lr * strength * inverse_rho
        anchor, prior = entry(anchors, i), entry(priors, i)
        none = torch.zeros_like(weight)

        # The weights of the two pulls.
        w_p, w_t, penalty_weight, anchored_transfer = none, none, none, none
        if anchor is not None and strength > 0:
            anchor = anchor.to(weight.dtype)
            significance = none if prior is None else scale * prior
            if curvature is not None:
                significance = significance + curvature_scale * curvature.abs()
            w_p = unit * kappa * significance
            penalty_weight = strength * kappa * (1.0 if coupled else inverse_rho) * significance
        if weighs_transfer and transfer is not None:
            sums = (total, count) if normalize is Normalize.GLOBAL else (float(stats[SUM]), float(stats[COUNT]))
            per_mean = sums[1] / sums[0] if sums[0] > 0 else 0.0
            if by_rank and phase == Phase.BEFORE:
                pass  # the damping belongs to the half after the inner step
            elif by_rank:
                low, density = next_range(stats)
                mu = s[Setting.MU_MIN] + (s[Setting.MU_MAX] - s[Setting.MU_MIN]) * bin_ranks(stats, low, density)
                stats[LOW], stats[DENSITY] = low, density
                w_t = (release * mu / (1 - mu)).to(weight.dtype)[rank_bin(transfer, low, density)]
            elif damped:
                w_t = release * s[Setting.TAU] * per_mean * transfer
            elif anchor is not None and strength > 0:
                factor = release * (1.0 if normalize is Normalize.ABSOLUTE else per_mean)
                anchored_transfer = unit * factor * transfer
                w_p = w_p + anchored_transfer
        if anchor is None:
            anchor = weight  # w_p is zero
        w_p, w_t = w_p.clamp(max=LARGEST_WEIGHT), w_t.clamp(max=LARGEST_WEIGHT)

        if phase != Phase.AFTER:  # the prior's penalty is the value at the weights whose gradient this is
            square = (weight - anchor).square()
            report[PRIOR_PENALTY] += 0.5 * (penalty_weight * square).double().sum()
            per_lr = 1.0 if coupled else (1 / lr if lr > 0 else 0.0)
            report[TRANSFER_PENALTY] += 0.5 * per_lr * (anchored_transfer * square).double().sum()

        effective = gradient
        if coupled and gradient is not None:
            effective = gradient + w_p * (weight - anchor)

        if phase == Phase.BEFORE:
            assert effective is not None
            if previous:
                previous[i].copy_(param)
            grads[i].copy_(torch.where(held, 0.0, effective / s[Setting.GRADIENT_FACTOR]))
            if gathers and transfer is not None:
                gather(transfer, held, by_rank, stats)
            continue

        current = weight
        if phase == Phase.AFTER:
            proposed, current = weight, (previous[i].to(weight.dtype) if previous else weight)
        elif inner is Inner.ADAM:
            assert effective is not None
            maximum = entry(max_second_moments, i)
            proposed, first, second, top = adamw(
                weight,
                effective,
                first_moments[i],
                second_moments[i],
                maximum,
                time=time,
                lr=lr,
                beta1=s[Setting.BETA1],
                beta2=s[Setting.BETA2],
                epsilon=s[Setting.EPSILON],
                weight_decay=s[Setting.WEIGHT_DECAY],
                decoupled_decay=bool(flags & contract.DECOUPLED_DECAY),
            )
            first_moments[i].copy_(torch.where(held, first_moments[i], first))
            second_moments[i].copy_(torch.where(held, second_moments[i], second))
            if maximum is not None and top is not None:
                maximum.copy_(torch.where(held, maximum, top))
        else:
            assert effective is not None
            buffer = entry(first_moments, i)
            proposed, new_buffer = sgd(
                weight,
                effective,
                buffer,
                time=time,
                lr=lr,
                momentum=s[Setting.BETA1],
                dampening=s[Setting.BETA2],
                weight_decay=s[Setting.WEIGHT_DECAY],
                nesterov=bool(flags & contract.NESTEROV),
            )
            if buffer is not None and new_buffer is not None:
                buffer.copy_(torch.where(held, buffer, new_buffer))

        result = proposed
        if not coupled:
            result = (proximal if mode is Mode.PROXIMAL else decoupled)(proposed, current, anchor, w_p, w_t)
        result = torch.where(held, current, result)
        if lr > 0:
            report[TRANSFER_PENALTY] += 0.5 / lr * (w_t * (result - current).square()).double().sum()
        if gathers and transfer is not None:
            gather(transfer, held, by_rank, stats)
        before = current.clone()  # `current` may be the parameter itself
        param.copy_(result)
        path = entry(paths, i)
        if path is not None and gradient is not None:
            fall = -gradient * (param.to(before.dtype) - before)
            path.add_(torch.where(fall.isfinite(), fall, 0.0))


def fold_product(curvature: Tensor, product: Tensor, number: int, settings: dict[Setting, float]) -> None:
    """H <- decay H + weight z product, in place; an element that would not be finite stays as it was."""
    seed = int(settings[Setting.PROBE_SEED_HIGH]) << 32 | int(settings[Setting.PROBE_SEED_LOW])
    step = int(settings[Setting.PROBE_STEP])
    z = signs(curvature.numel(), seed, step, number, dtype=curvature.dtype, device=curvature.device)
    flat, change = in_memory_order(curvature), in_memory_order(torch.empty_like(curvature).copy_(product))
    folded = settings[Setting.FOLD_DECAY] * flat + settings[Setting.FOLD_WEIGHT] * z * change
    flat.copy_(torch.where(folded.isfinite(), folded, flat))


def gather(transfer: Tensor, held: Tensor, by_rank: bool, statistics: Tensor) -> None:
    """The statistics of T that the next step reads; elements that were held are left out."""
    if by_rank:
        count_keys(transfer, sampled(transfer.numel(), transfer.device) & ~held.flatten(), statistics)
    else:
        statistics[SUM] = transfer[~held].double().sum()
        statistics[COUNT] = float((~held).sum())
