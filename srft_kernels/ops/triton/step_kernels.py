"""The step's device code in Triton: the mathematics of ``docs/kernels.md`` over many tensors.

Each element is read and written once.

A step has three launches over all tensors of one dtype. :func:`prepare` runs one program for each tensor and turns the
settings and the last step's statistics into the tensor's constants. :func:`advance` runs one program for each chunk and
takes the step. :func:`fold` runs one program for each tensor and one for each report entry, and adds up what the chunks
found. What one launch leaves for the next lies in the plan's scratch memory. What changes from step to step is read
from device memory, so that nothing is ever compiled again for it.

Sums are taken over a chunk and added in the order of chunks, and counts use integer atomics, so every run gives the
same bits.

Parameters of the device functions have no annotations but ``tl.constexpr``, because Triton gives them their types.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.reference import step as reference
from srft_kernels.ops.triton.elements import existing, extent, is_wide, pointers_to, spread
from srft_kernels.ops.triton.philox import signs
from srft_kernels.ops.triton.rank import KEY_UNIT, REGULAR_BINS, bin_ranks, next_range, rank_bin, sampled

# ---------------------------------------------------------------- the numbers of the contract, as Triton reads them

SETTING_LEARNING_RATE = tl.constexpr(int(Setting.LEARNING_RATE))
SETTING_BETA1 = tl.constexpr(int(Setting.BETA1))
SETTING_BETA2 = tl.constexpr(int(Setting.BETA2))
SETTING_EPSILON = tl.constexpr(int(Setting.EPSILON))
SETTING_WEIGHT_DECAY = tl.constexpr(int(Setting.WEIGHT_DECAY))
SETTING_GRADIENT_FACTOR = tl.constexpr(int(Setting.GRADIENT_FACTOR))
SETTING_STRENGTH = tl.constexpr(int(Setting.STRENGTH))
SETTING_KAPPA = tl.constexpr(int(Setting.KAPPA))
SETTING_MU_MIN = tl.constexpr(int(Setting.MU_MIN))
SETTING_MU_MAX = tl.constexpr(int(Setting.MU_MAX))
SETTING_TAU = tl.constexpr(int(Setting.TAU))
SETTING_TRANSFER_BETA = tl.constexpr(int(Setting.TRANSFER_BETA))
SETTING_PROBE_SEED_LOW = tl.constexpr(int(Setting.PROBE_SEED_LOW))
SETTING_PROBE_SEED_HIGH = tl.constexpr(int(Setting.PROBE_SEED_HIGH))
SETTING_PROBE_STEP = tl.constexpr(int(Setting.PROBE_STEP))
SETTING_FOLD_DECAY = tl.constexpr(int(Setting.FOLD_DECAY))
SETTING_FOLD_WEIGHT = tl.constexpr(int(Setting.FOLD_WEIGHT))

ADAM = tl.constexpr(int(Inner.ADAM))
SGD = tl.constexpr(int(Inner.SGD))
PROXIMAL = tl.constexpr(int(Mode.PROXIMAL))
COUPLED = tl.constexpr(int(Mode.COUPLED))
UNDAMPED = tl.constexpr(int(Damping.UNDAMPED))
BY_RANK = tl.constexpr(int(Damping.RANK))
BY_MEAN = tl.constexpr(int(Damping.MEAN))
GLOBAL = tl.constexpr(int(Normalize.GLOBAL))
ABSOLUTE = tl.constexpr(int(Normalize.ABSOLUTE))
BEFORE = tl.constexpr(int(Phase.BEFORE))
AFTER = tl.constexpr(int(Phase.AFTER))

LOW = tl.constexpr(contract.LOW)
DENSITY = tl.constexpr(contract.DENSITY)
SMALLEST = tl.constexpr(contract.SMALLEST)
LARGEST = tl.constexpr(contract.LARGEST)
SUM = tl.constexpr(contract.SUM)
COUNT = tl.constexpr(contract.COUNT)
CURVATURE_SUM = tl.constexpr(contract.CURVATURE_SUM)
SCALES = tl.constexpr(contract.SCALES)
SCALES_PRIOR_SCALE = tl.constexpr(contract.PRIOR_SCALE)
SCALES_INVERSE_RMS = tl.constexpr(contract.INVERSE_RMS)
SCALES_CURVATURE_SCALE = tl.constexpr(contract.CURVATURE_SCALE)
SCALES_PROBE_NUMBER = tl.constexpr(contract.PROBE_NUMBER)
HISTOGRAM = tl.constexpr(contract.HISTOGRAM)
BINS = tl.constexpr(contract.BINS)
STATISTICS = tl.constexpr(contract.STATISTICS)
LARGEST_WEIGHT = tl.constexpr(reference.LARGEST_WEIGHT)
LARGEST_TRANSFER = tl.constexpr(reference.LARGEST_TRANSFER[torch.float32])
LARGEST_TRANSFER_WIDE = tl.constexpr(reference.LARGEST_TRANSFER[torch.float64])
REPORT_NONFINITE = tl.constexpr(contract.NONFINITE)

# ---------------------------------------------------------------- what the plan's tables hold

# `fixed` (tensors, FIXED) int64 holds the addresses of what does not move, with zero for what a tensor lacks, and its
# sizes. `moving` (4, tensors) int64 holds the addresses of the parameters, of their gradients, of what is folded into
# the curvatures, and of what is subtracted from that. Without curvatures it has the first two rows only.
AT_FIRST = tl.constexpr(0)
AT_SECOND = tl.constexpr(1)
AT_MAXIMUM = tl.constexpr(2)
AT_PREVIOUS = tl.constexpr(3)
AT_ANCHOR = tl.constexpr(4)
AT_PRIOR = tl.constexpr(5)
AT_TRANSFER = tl.constexpr(6)
AT_CURVATURE = tl.constexpr(7)
AT_PATH = tl.constexpr(8)
SIZE = tl.constexpr(9)
FIRST_CHUNK = tl.constexpr(10)  # the number of chunks of the tensors before it
INDEX = tl.constexpr(11)  # the tensor's row in the plan's steps, statistics and scales
FIXED = tl.constexpr(12)

# `constants` (tensors, CONSTANTS + BINS) in the compute dtype holds what `prepare` leaves for `advance`: the constants
# below, then the damping of each bin.
GRADIENT_FACTOR = tl.constexpr(0)  # of the gradient
INVERSE_GRADIENT_FACTOR = tl.constexpr(1)  # 1 / GRADIENT_FACTOR
STEP_SIZE = tl.constexpr(2)  # Adam: lr / (1 - beta1^t); SGD: lr
DECAY = tl.constexpr(3)  # AdamW: 1 - lr weight_decay; else weight_decay
BETA1 = tl.constexpr(4)  # Adam: beta1
ONE_MINUS_BETA1 = tl.constexpr(5)  # Adam: 1 - beta1; SGD: 1 - dampening
BETA2 = tl.constexpr(6)  # Adam: beta2
ONE_MINUS_BETA2 = tl.constexpr(7)  # Adam: 1 - beta2
ROOT_CORRECTION = tl.constexpr(8)  # 1 / sqrt(1 - beta2^t)
EPSILON = tl.constexpr(9)  # epsilon
TRANSFER_BETA = tl.constexpr(10)
ONE_MINUS_TRANSFER_BETA = tl.constexpr(11)
TRANSFER_CORRECTION = tl.constexpr(12)  # 1 / (1 - beta^t)
PRIOR_WEIGHT = tl.constexpr(13)  # w_p is this times P^
TRANSFER_WEIGHT = tl.constexpr(14)  # T adds this times T to w_p
MEAN_DAMPING = tl.constexpr(15)  # w_t of damping by the mean is this times T
PRIOR_PENALTY = tl.constexpr(16)  # factor of P^ (theta - a)^2
ANCHORED_PENALTY = tl.constexpr(17)  # factor of T (theta - a)^2
DAMPED_PENALTY = tl.constexpr(18)  # factor of w_t (new theta - theta)^2
RANGE_LOW = tl.constexpr(19)
RANGE_DENSITY = tl.constexpr(20)
PRIOR_SCALE = tl.constexpr(21)  # factor of P in P^
CURVATURE_SCALE = tl.constexpr(22)  # factor of |H| in P^
FOLD_DECAY = tl.constexpr(23)  # of H in a fold
FOLD_WEIGHT = tl.constexpr(24)  # of the product
CONSTANTS = tl.constexpr(32)

# `slots` (SLOTS, chunks) float64 holds a chunk's share of each report entry, of T's sum and count, and of the sum of
# |H|.
SUM_SLOT = tl.constexpr(contract.REPORT)
COUNT_SLOT = tl.constexpr(contract.REPORT + 1)
CURVATURE_SLOT = tl.constexpr(contract.REPORT + 2)
SLOTS = tl.constexpr(contract.REPORT + 3)

# `extremes` (tensors, 2) int32 holds the bits of the smallest and of the largest T counted. These bits grow with T.
NO_SMALLEST = tl.constexpr(2**31 - 1)
NO_LARGEST = tl.constexpr(-1)


# ---------------------------------------------------------------- one tensor's constants


@triton.jit
def _power(base, exponent):
    return tl.where(base > 0, tl.exp(exponent * tl.log(tl.maximum(base, 1e-300))), 0.0)


@triton.jit
def _count_per_sum(statistics, index, tensors, NORMALIZE: tl.constexpr):
    """Return 1 / mean(T), over the tensor or over all of them, or 0 if T has no mean."""
    if NORMALIZE == GLOBAL:
        column = tl.arange(0, BINS)
        sums = tl.zeros([BINS], tl.float64)
        counts = tl.zeros([BINS], tl.float64)
        for first in range(0, tensors, BINS):
            row = statistics + (first + column) * STATISTICS
            sums += tl.load(row + SUM, mask=first + column < tensors, other=0.0)
            counts += tl.load(row + COUNT, mask=first + column < tensors, other=0.0)
        total = tl.sum(sums, axis=0)
        count = tl.sum(counts, axis=0)
    else:
        total = tl.load(statistics + index * STATISTICS + SUM)
        count = tl.load(statistics + index * STATISTICS + COUNT)
    return tl.where(total > 0, count / tl.where(total > 0, total, 1.0), 0.0)


@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["settings", "grad_scale"])
def prepare(
    fixed,
    settings,
    steps,
    statistics,
    scales,
    tensors,
    grad_scale,
    constants,
    histogram,
    extremes,
    INNER: tl.constexpr,
    MODE: tl.constexpr,
    DAMPING: tl.constexpr,
    NORMALIZE: tl.constexpr,
    TO_ANCHOR: tl.constexpr,
    PHASE: tl.constexpr,
    OWN: tl.constexpr,
    DECOUPLED_DECAY: tl.constexpr,
):
    """Run one program for each tensor.

    It stores the tensor's constants of this step, in float64, and empties counters.
    """
    tensor = tl.program_id(0)
    index = tl.load(fixed + tensor * FIXED + INDEX)
    out = constants + tensor * (CONSTANTS + BINS)
    lr = tl.load(settings + SETTING_LEARNING_RATE)
    beta1 = tl.load(settings + SETTING_BETA1)
    beta2 = tl.load(settings + SETTING_BETA2)
    weight_decay = tl.load(settings + SETTING_WEIGHT_DECAY)
    strength = tl.maximum(tl.load(settings + SETTING_STRENGTH), 0.0)
    kappa = tl.load(settings + SETTING_KAPPA)
    release = tl.maximum(1.0 - kappa, 0.0)  # the weight of the transfer significance
    factor = tl.load(settings + SETTING_GRADIENT_FACTOR)
    if grad_scale is not None:
        factor /= tl.load(grad_scale).to(tl.float64)
    tl.store(out + GRADIENT_FACTOR, factor)
    tl.store(out + INVERSE_GRADIENT_FACTOR, 1.0 / factor)
    time = tl.load(steps + index).to(tl.float64)
    if PHASE != AFTER:
        time += 1.0

    tl.store(out + BETA1, beta1)
    if INNER == ADAM:
        tl.store(out + STEP_SIZE, lr / (1.0 - _power(beta1, time)))
        tl.store(out + DECAY, 1.0 - lr * weight_decay if DECOUPLED_DECAY else weight_decay)
        tl.store(out + ONE_MINUS_BETA1, 1.0 - beta1)
        tl.store(out + BETA2, beta2)
        tl.store(out + ONE_MINUS_BETA2, 1.0 - beta2)
        tl.store(out + ROOT_CORRECTION, 1.0 / tl.sqrt(1.0 - _power(beta2, time)))
        tl.store(out + EPSILON, tl.load(settings + SETTING_EPSILON))
    else:
        tl.store(out + STEP_SIZE, lr)
        tl.store(out + DECAY, weight_decay)
        tl.store(out + ONE_MINUS_BETA1, tl.where(time <= 1.0, 1.0, 1.0 - beta2))  # beta2 is the dampening
    if OWN:
        transfer_beta = tl.load(settings + SETTING_TRANSFER_BETA)
    else:
        transfer_beta = beta2
    tl.store(out + TRANSFER_BETA, transfer_beta)
    tl.store(out + ONE_MINUS_TRANSFER_BETA, 1.0 - transfer_beta)
    tl.store(out + TRANSFER_CORRECTION, 1.0 / (1.0 - _power(transfer_beta, time)))

    # By docs/kernels.md, w_p = lr lambda kappa P^ / rho. In coupled mode it is lambda kappa P^, a part of the gradient.
    inverse_rho = tl.load(scales + SCALES * index + SCALES_INVERSE_RMS)
    tl.store(out + PRIOR_SCALE, tl.load(scales + SCALES * index + SCALES_PRIOR_SCALE))
    tl.store(out + CURVATURE_SCALE, tl.load(scales + SCALES * index + SCALES_CURVATURE_SCALE))
    tl.store(out + FOLD_DECAY, tl.load(settings + SETTING_FOLD_DECAY))
    tl.store(out + FOLD_WEIGHT, tl.load(settings + SETTING_FOLD_WEIGHT))
    per_lr = tl.where(lr > 0, 1.0 / tl.where(lr > 0, lr, 1.0), 0.0)
    if MODE == COUPLED:
        unit = strength
        per_unit = 1.0
    else:
        unit = lr * strength * inverse_rho
        per_unit = per_lr
    tl.store(out + PRIOR_WEIGHT, unit * kappa)
    # The prior's penalty is reported at lr = 0 too, though it pulls nothing then.
    tl.store(out + PRIOR_PENALTY, 0.5 * strength * kappa * (1.0 if MODE == COUPLED else inverse_rho))
    tl.store(out + DAMPED_PENALTY, 0.5 * per_lr)
    if TO_ANCHOR or DAMPING == BY_MEAN:
        per_mean = _count_per_sum(statistics, index, tensors, NORMALIZE)
        tl.store(out + MEAN_DAMPING, release * tl.load(settings + SETTING_TAU) * per_mean)
        weight = unit * release * (1.0 if NORMALIZE == ABSOLUTE else per_mean)
        tl.store(out + TRANSFER_WEIGHT, weight)
        tl.store(out + ANCHORED_PENALTY, 0.5 * per_unit * weight)

    if DAMPING == BY_RANK:
        place = tl.arange(0, BINS)
        row = statistics + index * STATISTICS
        counts = tl.load(row + HISTOGRAM + place)
        low = tl.load(row + LOW)
        density = tl.load(row + DENSITY)
        # If nothing was ever counted, the range covers every key.
        unset = density <= 0
        low = tl.where(unset, 0.0, low)
        density = tl.where(unset, REGULAR_BINS / 256.0, density)
        smallest = tl.load(row + SMALLEST)
        largest = tl.load(row + LARGEST)
        next_low, next_density = next_range(place, counts, low, density, smallest, largest)
        tl.store(out + RANGE_LOW, next_low)
        tl.store(out + RANGE_DENSITY, next_density)
        rank = bin_ranks(place, counts, low, density, smallest, largest, next_low, next_density)
        mu_min = tl.load(settings + SETTING_MU_MIN)
        mu = mu_min + (tl.load(settings + SETTING_MU_MAX) - mu_min) * rank
        tl.store(out + CONSTANTS + place, tl.minimum(release * mu / (1.0 - mu), LARGEST_WEIGHT))
        tl.store(histogram + tensor * BINS + place, tl.zeros([BINS], tl.int32))
        tl.store(extremes + 2 * tensor, NO_SMALLEST)
        tl.store(extremes + 2 * tensor + 1, NO_LARGEST)


# ---------------------------------------------------------------- the elements


@triton.jit
def _adam(
    weight,
    gradient,
    first,
    second,
    maximum,
    step_size,
    decay,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    root_correction,
    epsilon,
    DECOUPLED_DECAY: tl.constexpr,
    AMSGRAD: tl.constexpr,
):
    """Return theta', m, v and max v of AdamW (Loshchilov & Hutter 2019), or of Adam with an L2 term."""
    if DECOUPLED_DECAY:
        weight = weight * decay
    else:
        gradient = tl.where(decay != 0, gradient + decay * weight, gradient)
    first = beta1 * first + one_minus_beta1 * gradient
    second = beta2 * second + one_minus_beta2 * gradient * gradient
    square = second
    if AMSGRAD:
        maximum = tl.where(maximum > second, maximum, second)
        square = maximum
    denominator = tl.sqrt(square) * root_correction + epsilon
    return weight - step_size * first / denominator, first, second, maximum


@triton.jit
def _sgd(
    weight,
    gradient,
    buffer,
    step_size,
    decay,
    momentum,
    one_minus_dampening,
    BUFFER: tl.constexpr,
    NESTEROV: tl.constexpr,
):
    """Return theta' and the momentum buffer of SGD with momentum, dampening and Nesterov's look-ahead."""
    # An infinite weight times a decay of zero would be NaN, so the product is taken only if there is a decay.
    gradient = tl.where(decay != 0, gradient + decay * weight, gradient)
    if BUFFER:
        buffer = momentum * buffer + one_minus_dampening * gradient
        if NESTEROV:
            gradient = gradient + momentum * buffer
        else:
            gradient = buffer
    return weight - step_size * gradient, buffer


@triton.jit
def _pulled(proposed, current, anchor, w_p, w_t, MODE: tl.constexpr):
    """Return the minimizer of (x - proposed)^2 / 2 + w_p (x - anchor)^2 / 2 + w_t (x - current)^2 / 2.

    In decoupled mode it is the minimizer's first order. Both are written as a step from ``proposed``, so that weights
    of zero change nothing.
    """
    pull = w_p * (anchor - proposed) + w_t * (current - proposed)
    if MODE == PROXIMAL:
        pull = pull / (1.0 + w_p + w_t)
    return proposed + pull


# ---------------------------------------------------------------- one chunk


@triton.jit
def _chunk(
    row,
    param,
    grad,
    plus,
    minus,
    settings,
    scales,
    start,
    count,
    c,
    histogram,
    extremes,
    slot,
    chunks,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    INNER: tl.constexpr,
    MODE: tl.constexpr,
    DAMPING: tl.constexpr,
    TO_ANCHOR: tl.constexpr,
    PHASE: tl.constexpr,
    GATHERS: tl.constexpr,
    HOLD: tl.constexpr,
    OWN: tl.constexpr,
    BUFFER: tl.constexpr,
    PREVIOUS: tl.constexpr,
    DECOUPLED_DECAY: tl.constexpr,
    AMSGRAD: tl.constexpr,
    NESTEROV: tl.constexpr,
    CURVED: tl.constexpr,
    FOLD: tl.constexpr,
    FOLD_GRADIENT: tl.constexpr,
    PATH: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Take the step over ``count`` elements of a tensor from ``start``.

    WIDE says that they are a whole, aligned chunk.
    """
    REAL: tl.constexpr = c.dtype.element_ty
    AVERAGED: tl.constexpr = OWN or INNER == ADAM  # whether there is a T
    size = tl.load(row + SIZE)
    at_first = tl.load(row + AT_FIRST)
    at_second = tl.load(row + AT_SECOND)
    at_maximum = tl.load(row + AT_MAXIMUM)
    at_previous = tl.load(row + AT_PREVIOUS)
    at_anchor = tl.load(row + AT_ANCHOR)
    at_prior = tl.load(row + AT_PRIOR)
    at_transfer = tl.load(row + AT_TRANSFER)
    at_curvature = tl.load(row + AT_CURVATURE)
    at_path = tl.load(row + AT_PATH)

    factor = tl.load(c + GRADIENT_FACTOR)
    inverse_factor = tl.load(c + INVERSE_GRADIENT_FACTOR)
    step_size = tl.load(c + STEP_SIZE)
    decay = tl.load(c + DECAY)
    beta1 = tl.load(c + BETA1)
    one_minus_beta1 = tl.load(c + ONE_MINUS_BETA1)
    beta2 = tl.load(c + BETA2)
    one_minus_beta2 = tl.load(c + ONE_MINUS_BETA2)
    root_correction = tl.load(c + ROOT_CORRECTION)
    epsilon = tl.load(c + EPSILON)
    transfer_beta = tl.load(c + TRANSFER_BETA)
    one_minus_transfer_beta = tl.load(c + ONE_MINUS_TRANSFER_BETA)
    transfer_correction = tl.load(c + TRANSFER_CORRECTION)
    prior_scale = tl.load(c + PRIOR_SCALE)
    curvature_scale = tl.load(c + CURVATURE_SCALE)
    prior_weight = tl.load(c + PRIOR_WEIGHT)
    prior_penalty = tl.load(c + PRIOR_PENALTY)
    transfer_weight = tl.load(c + TRANSFER_WEIGHT)
    mean_damping = tl.load(c + MEAN_DAMPING)
    low = tl.load(c + RANGE_LOW).to(tl.float32)
    density = tl.load(c + RANGE_DENSITY).to(tl.float32)

    if not CURVED:  # the only significance is P, so its scale is multiplied into its weight
        prior_weight *= prior_scale
        prior_penalty *= prior_scale
    # The anchor and the prior are not read if they have neither a weight nor a penalty.
    weighs = (at_anchor != 0) & ((prior_weight != 0) | (prior_penalty != 0))
    has_prior = weighs & (at_prior != 0)
    has_anchor = has_prior
    if CURVED:
        has_curvature = weighs & (at_curvature != 0)
        has_anchor = has_prior | has_curvature
        reads_curvature = spread(has_curvature, BLOCK)
    if TO_ANCHOR:
        has_anchor = has_anchor | ((at_anchor != 0) & (transfer_weight != 0))
    reads_prior = spread(has_prior, BLOCK)
    reads_anchor = spread(has_anchor, BLOCK)

    prior_sum = tl.zeros([BLOCK], tl.float64)
    anchored_sum = tl.zeros([BLOCK], tl.float64)
    damped_sum = tl.zeros([BLOCK], tl.float64)
    transfer_sum = tl.zeros([BLOCK], tl.float64)
    curvature_sum = tl.zeros([BLOCK], tl.float64)
    if FOLD:
        folds = spread((at_curvature != 0) & (plus != 0), BLOCK)
        subtracts = spread(minus != 0, BLOCK)
        fold_decay = tl.load(c + FOLD_DECAY)
        fold_weight = tl.load(c + FOLD_WEIGHT)
        high = tl.load(settings + SETTING_PROBE_SEED_HIGH).to(tl.uint64)
        seed = (high << 32) | tl.load(settings + SETTING_PROBE_SEED_LOW).to(tl.uint64)
        draw = tl.load(settings + SETTING_PROBE_STEP).to(tl.uint32)
        number = tl.load(scales + SCALES * tl.load(row + INDEX) + SCALES_PROBE_NUMBER).to(tl.uint32)
    counted_sum = tl.zeros([BLOCK], tl.int32)
    nonfinite = tl.zeros([BLOCK], tl.int32)
    smallest = tl.full([BLOCK], NO_SMALLEST, tl.int32)
    largest = tl.full([BLOCK], NO_LARGEST, tl.int32)

    stop = count
    if WIDE:
        stop = CHUNK
    for first_lane in range(0, stop, BLOCK):
        lane = first_lane + tl.arange(0, BLOCK)
        exists = existing(lane, count, BLOCK, WIDE)
        moves = exists  # an element that is held keeps its weight and all of its averages

        params = pointers_to(param, start, lane, PARAM, WIDE)
        weight = tl.load(params, mask=exists, other=0.0).to(REAL)
        current = weight
        if PHASE == AFTER and PREVIOUS:
            current = tl.load(pointers_to(at_previous, start, lane, PARAM, WIDE), mask=exists, other=0.0).to(REAL)
        gradient = tl.zeros([BLOCK], REAL)
        if PHASE != AFTER:
            grads = pointers_to(grad, start, lane, PARAM, WIDE)
            gradient = tl.load(grads, mask=exists, other=0.0).to(REAL) * factor
            finite = tl.abs(gradient) < float("inf")
            nonfinite += (exists & ~finite).to(tl.int32)
            if HOLD:
                moves = exists & finite
        effective = gradient

        # Read the averages as they were, and T with this step's gradient in it.
        first = tl.zeros([BLOCK], REAL)
        second = tl.zeros([BLOCK], REAL)
        maximum = tl.zeros([BLOCK], REAL)
        if INNER == ADAM or BUFFER:
            firsts = pointers_to(at_first, start, lane, REAL, WIDE)
            first = tl.load(firsts, mask=exists, other=0.0)
        if INNER == ADAM:
            seconds = pointers_to(at_second, start, lane, REAL, WIDE)
            second = tl.load(seconds, mask=exists, other=0.0)
            if AMSGRAD:
                maxima = pointers_to(at_maximum, start, lane, REAL, WIDE)
                maximum = tl.load(maxima, mask=exists, other=0.0)
        transfer = second
        if OWN:
            transfers = pointers_to(at_transfer, start, lane, REAL, WIDE)
            transfer = tl.load(transfers, mask=exists, other=0.0)
        if AVERAGED:
            if PHASE != AFTER:
                average = transfer_beta * transfer + one_minus_transfer_beta * gradient * gradient
                transfer = tl.where(moves, average, transfer)
                if OWN:
                    tl.store(transfers, transfer, mask=exists)
            transfer *= transfer_correction
            if DAMPING != BY_RANK:  # the size of T matters, and not its rank
                transfer = tl.minimum(transfer, LARGEST_TRANSFER if tl.float32 == REAL else LARGEST_TRANSFER_WIDE)

        # Fold the product into H.
        if FOLD:
            pointers = pointers_to(plus, start, lane, PARAM, WIDE)
            product = tl.load(pointers, mask=exists & folds, other=0.0).to(REAL) * factor
            pointers = pointers_to(minus, start, lane, PARAM, WIDE)
            less = tl.load(pointers, mask=exists & subtracts, other=0.0).to(REAL) * factor
            if FOLD_GRADIENT:
                less = tl.where(subtracts, less, gradient)
            z = signs(seed, draw, number, start + first_lane, REAL, BLOCK).reshape(BLOCK)
            curvatures = pointers_to(at_curvature, start, lane, REAL, WIDE)
            before = tl.load(curvatures, mask=exists & folds, other=0.0)
            folded = fold_decay * before + fold_weight * z * (product - less)
            folded = tl.where(tl.abs(folded) < float("inf"), folded, before)
            tl.store(curvatures, folded, mask=exists & folds)
            curvature_sum += tl.where(exists & folds, tl.abs(folded), 0.0).to(tl.float64)

        # The pull toward the anchor has a weight, and a penalty at the weights whose gradient this is.
        anchor = tl.load(pointers_to(at_anchor, start, lane, ANCHOR, WIDE), mask=exists & reads_anchor, other=0.0).to(
            REAL
        )
        anchor = tl.where(reads_anchor, anchor, current)
        prior = tl.load(pointers_to(at_prior, start, lane, REAL, WIDE), mask=exists & reads_prior, other=0.0)
        significance = prior
        if CURVED:
            reads = exists & reads_curvature
            # the folded value is in `folded`; other threads of the program may have stored it, so it is not loaded
            # again
            if FOLD:
                reads = reads & ~folds
            curvature = tl.load(pointers_to(at_curvature, start, lane, REAL, WIDE), mask=reads, other=0.0)
            if FOLD:
                curvature = tl.where(folds & reads_curvature, folded, curvature)
            significance = prior_scale * prior + curvature_scale * tl.abs(curvature)
        w_p = prior_weight * significance
        distance = current - anchor
        if PHASE != AFTER:
            prior_sum += (significance * distance * distance).to(tl.float64)
        if TO_ANCHOR:
            pulling = tl.where(reads_anchor, transfer, 0.0)
            w_p += transfer_weight * pulling
            if PHASE != AFTER:
                anchored_sum += (pulling * distance * distance).to(tl.float64)
        w_p = tl.minimum(w_p, LARGEST_WEIGHT)
        if MODE == COUPLED and PHASE != AFTER:
            effective = gradient + w_p * distance

        # The damping pulls toward the element's present value.
        place = tl.zeros([BLOCK], tl.int32)
        w_t = tl.zeros([BLOCK], REAL)
        if PHASE != BEFORE:
            if DAMPING == BY_RANK:
                place = rank_bin(transfer.to(tl.float32), low, density)
                w_t = tl.load(c + CONSTANTS + place)
            if DAMPING == BY_MEAN:
                w_t = tl.minimum(mean_damping * transfer, LARGEST_WEIGHT)

        if PHASE == BEFORE:
            if PREVIOUS:
                tl.store(pointers_to(at_previous, start, lane, PARAM, WIDE), weight.to(PARAM), mask=exists)
            # The gradient changes for the inner optimizer only by the penalty's gradient, and to zero where an element
            # is held.
            if MODE == COUPLED:
                tl.store(grads, tl.where(moves, effective * inverse_factor, 0.0).to(PARAM), mask=exists)
            elif HOLD:
                tl.store(grads, tl.zeros([BLOCK], PARAM), mask=exists & ~moves)
        else:
            proposed = weight
            if INNER == ADAM:
                proposed, new_first, new_second, new_maximum = _adam(
                    weight,
                    effective,
                    first,
                    second,
                    maximum,
                    step_size,
                    decay,
                    beta1,
                    one_minus_beta1,
                    beta2,
                    one_minus_beta2,
                    root_correction,
                    epsilon,
                    DECOUPLED_DECAY,
                    AMSGRAD,
                )
                tl.store(firsts, tl.where(moves, new_first, first), mask=exists)
                tl.store(seconds, tl.where(moves, new_second, second), mask=exists)
                if AMSGRAD:
                    tl.store(maxima, tl.where(moves, new_maximum, maximum), mask=exists)
            if INNER == SGD:
                proposed, buffer = _sgd(
                    weight, effective, first, step_size, decay, beta1, one_minus_beta1, BUFFER, NESTEROV
                )
                if BUFFER:
                    tl.store(firsts, tl.where(moves, buffer, first), mask=exists)
            if MODE != COUPLED:
                proposed = _pulled(proposed, current, anchor, w_p, w_t, MODE)
            result = tl.where(moves, proposed, current)
            if DAMPING != UNDAMPED:
                step = result - current
                damped_sum += tl.where(exists, w_t * step * step, 0.0).to(tl.float64)
            if PHASE != AFTER or MODE != COUPLED:
                tl.store(params, result.to(PARAM), mask=exists)
            if PATH:  # the move is the difference of the weights as they are stored
                paths = pointers_to(at_path, start, lane, REAL, WIDE)
                fall = gradient * (current - result.to(PARAM).to(REAL))
                path = tl.load(paths, mask=exists, other=0.0)
                tl.store(paths, path + tl.where(tl.abs(fall) < float("inf"), fall, 0.0), mask=exists)

        # Gather the statistics of T that the next step reads.
        if GATHERS:
            if DAMPING == BY_RANK:
                counted = moves & sampled(start, lane, size, BLOCK)
                tl.atomic_add(histogram + place, 1, mask=counted, sem="relaxed")
                bits = transfer.to(tl.float32).to(tl.int32, bitcast=True)
                counted &= place > 0
                smallest = tl.minimum(smallest, tl.where(counted, bits, NO_SMALLEST))
                largest = tl.maximum(largest, tl.where(counted, bits, NO_LARGEST))
            else:
                transfer_sum += tl.where(moves, transfer, 0.0).to(tl.float64)
                counted_sum += moves.to(tl.int32)

    if PHASE != AFTER:
        tl.store(slot, prior_penalty.to(tl.float64) * tl.sum(prior_sum, axis=0))
    else:
        tl.store(slot, tl.zeros([], tl.float64))
    penalty = tl.zeros([], tl.float64)
    if TO_ANCHOR and PHASE != AFTER:
        penalty += tl.load(c + ANCHORED_PENALTY).to(tl.float64) * tl.sum(anchored_sum, axis=0)
    if DAMPING != UNDAMPED and PHASE != BEFORE:
        penalty += tl.load(c + DAMPED_PENALTY).to(tl.float64) * tl.sum(damped_sum, axis=0)
    tl.store(slot + chunks, penalty)
    tl.store(slot + REPORT_NONFINITE * chunks, tl.sum(nonfinite, axis=0).to(tl.float64))
    if FOLD:
        tl.store(slot + CURVATURE_SLOT * chunks, tl.sum(curvature_sum, axis=0))
    if GATHERS:
        if DAMPING == BY_RANK:
            tl.atomic_min(extremes, tl.min(smallest, axis=0), sem="relaxed")
            tl.atomic_max(extremes + 1, tl.max(largest, axis=0), sem="relaxed")
        else:
            tl.store(slot + SUM_SLOT * chunks, tl.sum(transfer_sum, axis=0))
            tl.store(slot + COUNT_SLOT * chunks, tl.sum(counted_sum, axis=0).to(tl.float64))


@triton.jit
def _skipped_chunk(grad, start, count, PARAM: tl.constexpr, BLOCK: tl.constexpr):
    """Return how many gradients of a chunk are not finite. A skipped step does nothing else."""
    nonfinite = tl.zeros([BLOCK], tl.int32)
    for first_lane in range(0, count, BLOCK):
        lane = first_lane + tl.arange(0, BLOCK)
        gradient = tl.load(pointers_to(grad, start, lane, PARAM, False), mask=lane < count, other=0.0).to(tl.float32)
        nonfinite += (~(tl.abs(gradient) < float("inf"))).to(tl.int32)
    return tl.sum(nonfinite, axis=0).to(tl.float64)


@triton.jit(do_not_specialize=["tensors", "chunks"], do_not_specialize_on_alignment=["settings"])
def advance(
    fixed,
    moving,
    settings,
    scales,
    tensors,
    owners,
    chunks,
    found_inf,
    constants,
    histogram,
    extremes,
    slots,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    INNER: tl.constexpr,
    MODE: tl.constexpr,
    DAMPING: tl.constexpr,
    TO_ANCHOR: tl.constexpr,
    PHASE: tl.constexpr,
    GATHERS: tl.constexpr,
    HOLD: tl.constexpr,
    OWN: tl.constexpr,
    BUFFER: tl.constexpr,
    PREVIOUS: tl.constexpr,
    DECOUPLED_DECAY: tl.constexpr,
    AMSGRAD: tl.constexpr,
    NESTEROV: tl.constexpr,
    CURVED: tl.constexpr,
    FOLD: tl.constexpr,
    FOLD_GRADIENT: tl.constexpr,
    PATH: tl.constexpr,
    COUNT_SKIPPED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Run one program for each chunk. It takes the step, or only counts if ``found_inf`` skips the step."""
    chunk = tl.program_id(0)
    tensor = tl.load(owners + chunk)
    row = fixed + tensor * FIXED
    param = tl.load(moving + tensor)
    grad = tl.load(moving + tensors + tensor)
    plus = grad  # placeholders, which nothing reads unless a product is folded
    minus = grad
    if FOLD:
        plus = tl.load(moving + 2 * tensors + tensor)
        minus = tl.load(moving + 3 * tensors + tensor)
    start, count = extent(chunk, tl.load(row + FIRST_CHUNK), tl.load(row + SIZE), CHUNK)
    slot = slots + chunk
    taken = True
    if found_inf is not None:
        taken = tl.load(found_inf) == 0
    if taken:
        addresses = param | grad | plus | minus
        for k in tl.static_range(SIZE):
            addresses |= tl.load(row + k)
        c = constants + tensor * (CONSTANTS + BINS)
        counters = histogram + tensor * BINS
        extreme = extremes + 2 * tensor
        if is_wide(count, addresses, CHUNK):
            _chunk(
                row, param, grad, plus, minus, settings, scales, start, count, c, counters, extreme, slot, chunks,
                PARAM, ANCHOR, INNER, MODE, DAMPING, TO_ANCHOR, PHASE, GATHERS, HOLD, OWN, BUFFER, PREVIOUS,
                DECOUPLED_DECAY, AMSGRAD, NESTEROV, CURVED, FOLD, FOLD_GRADIENT, PATH, BLOCK, CHUNK, True,
            )  # fmt: skip
        else:
            _chunk(
                row, param, grad, plus, minus, settings, scales, start, count, c, counters, extreme, slot, chunks,
                PARAM, ANCHOR, INNER, MODE, DAMPING, TO_ANCHOR, PHASE, GATHERS, HOLD, OWN, BUFFER, PREVIOUS,
                DECOUPLED_DECAY, AMSGRAD, NESTEROV, CURVED, FOLD, FOLD_GRADIENT, PATH, BLOCK, CHUNK, False,
            )  # fmt: skip
    else:
        if COUNT_SKIPPED and PHASE != AFTER:
            tl.store(slot + REPORT_NONFINITE * chunks, _skipped_chunk(grad, start, count, PARAM, BLOCK))
        else:
            tl.store(slot + REPORT_NONFINITE * chunks, tl.zeros([], tl.float64))


# ---------------------------------------------------------------- what the chunks found


@triton.jit
def _sum_of_slots(slots, first, last, BLOCK: tl.constexpr):
    """Return the sum of slots in [first, last), in an order that depends on their number alone."""
    total = tl.zeros([BLOCK], tl.float64)
    for chunk in range(first, last, BLOCK):
        at = chunk + tl.arange(0, BLOCK)
        total += tl.load(slots + at, mask=at < last, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["tensors", "chunks"], do_not_specialize_on_alignment=["report"])
def fold(
    fixed,
    tensors,
    chunks,
    found_inf,
    constants,
    histogram,
    extremes,
    slots,
    steps,
    statistics,
    report,
    DAMPING: tl.constexpr,
    PHASE: tl.constexpr,
    GATHERS: tl.constexpr,
    FOLD: tl.constexpr,
    RESET: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Run one program for each tensor, for its statistics and count of steps, then one for each report entry."""
    tensor = tl.program_id(0)
    taken = True
    if found_inf is not None:
        taken = tl.load(found_inf) == 0
    if tensor < tensors:
        if taken:
            row = fixed + tensor * FIXED
            index = tl.load(row + INDEX)
            size = tl.load(row + SIZE)
            if PHASE != AFTER:
                tl.store(steps + index, tl.load(steps + index) + 1.0)
            if FOLD:
                first = tl.load(row + FIRST_CHUNK)
                folded = _sum_of_slots(slots + CURVATURE_SLOT * chunks, first, first + tl.cdiv(size, CHUNK), BLOCK)
                if size > 0:
                    tl.store(statistics + index * STATISTICS + CURVATURE_SUM, folded)
            if GATHERS:  # noqa: SIM102 (one condition is the compiler's, the other the device's)
                if size > 0:
                    out = statistics + index * STATISTICS
                    if DAMPING == BY_RANK:
                        place = tl.arange(0, BINS)
                        c = constants + tensor * (CONSTANTS + BINS)
                        tl.store(out + LOW, tl.load(c + RANGE_LOW).to(tl.float64))
                        tl.store(out + DENSITY, tl.load(c + RANGE_DENSITY).to(tl.float64))
                        tl.store(out + HISTOGRAM + place, tl.load(histogram + tensor * BINS + place).to(tl.float64))
                        smallest = tl.load(extremes + 2 * tensor)
                        largest = tl.load(extremes + 2 * tensor + 1)
                        some = largest >= smallest
                        tl.store(out + SMALLEST, tl.where(some, smallest, 0).to(tl.float32).to(tl.float64) * KEY_UNIT)
                        tl.store(out + LARGEST, tl.where(some, largest, 0).to(tl.float32).to(tl.float64) * KEY_UNIT)
                    else:
                        first = tl.load(row + FIRST_CHUNK)
                        last = first + tl.cdiv(size, CHUNK)
                        tl.store(out + SUM, _sum_of_slots(slots + SUM_SLOT * chunks, first, last, BLOCK))
                        tl.store(out + COUNT, _sum_of_slots(slots + COUNT_SLOT * chunks, first, last, BLOCK))
    else:
        entry = tensor - tensors
        if taken | (entry == REPORT_NONFINITE):
            total = _sum_of_slots(slots + entry * chunks, 0, chunks, BLOCK)
            before = tl.load(report + entry)
            if RESET:
                before = tl.where(entry == REPORT_NONFINITE, before, 0.0)
            tl.store(report + entry, before + total)
