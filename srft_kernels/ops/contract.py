"""The numbers that Python and the kernels share, and the library in which all operators are declared.

``csrc/core/contract.h`` holds the same numbers, and ``tests/srft_kernels/ops/test_contract.py`` compares them.
"""

from __future__ import annotations

from enum import IntEnum

import torch

# Kept for the life of the process, because torch drops a library's registrations with the object.
LIBRARY = torch.library.Library("srft", "FRAGMENT")


class Setting(IntEnum):
    """Positions in the float64 vector ``settings``. It is data, not arguments, so that it can live on a device."""

    LEARNING_RATE = 0
    BETA1 = 1  # SGD: momentum
    BETA2 = 2  # SGD: dampening
    EPSILON = 3
    WEIGHT_DECAY = 4
    GRADIENT_FACTOR = 5  # the factor of every gradient: 1 / loss scale, negative to maximize
    STRENGTH = 6  # lambda
    KAPPA = 7
    MU_MIN = 8
    MU_MAX = 9
    TAU = 10
    TRANSFER_BETA = 11
    PROBE_SEED_LOW = 12  # the halves of the seed of the draw whose product is folded into H
    PROBE_SEED_HIGH = 13
    PROBE_STEP = 14
    FOLD_DECAY = 15  # H <- decay H + weight z (product)
    FOLD_WEIGHT = 16


SETTINGS = len(Setting)


class Inner(IntEnum):
    """The inner optimizer whose arithmetic a step includes. ``NONE`` stands for one that is not fused."""

    NONE = 0
    ADAM = 1
    SGD = 2


class Mode(IntEnum):
    """How the pull enters the step (``docs/kernels.md``)."""

    PROXIMAL = 0
    DECOUPLED = 1
    COUPLED = 2


class Damping(IntEnum):
    """How the transfer significance damps an element's move away from its present value."""

    UNDAMPED = 0
    RANK = 1
    MEAN = 2


class Normalize(IntEnum):
    """The tensors whose mean a significance is divided by. ``ABSOLUTE`` divides by nothing."""

    PER_TENSOR = 0
    GLOBAL = 1
    ABSOLUTE = 2


class Phase(IntEnum):
    """A whole step, or one of the two halves around an inner optimizer that is not fused."""

    FUSED = 0
    BEFORE = 1  # the half before the inner optimizer's step
    AFTER = 2  # the half after it


INNER_SHIFT = 0
MODE_SHIFT = 2
DAMPING_SHIFT = 4
NORMALIZE_SHIFT = 6
DECOUPLED_DECAY = 1 << 8  # AdamW, not Adam with an L2 term
AMSGRAD = 1 << 9
NESTEROV = 1 << 10
TRANSFER_TO_ANCHOR = 1 << 11  # transfer_anchor="initial"
PROPAGATE_NONFINITE = 1 << 12
RESET_PENALTIES = 1 << 13  # a step's first group sets the report's penalties; the other groups add to them
COUNT_SKIPPED = 1 << 14  # a step that `found_inf` skips still counts its elements that are not finite
FOLD = 1 << 15  # `plus` is folded into H before the step reads it
FOLD_GRADIENT = 1 << 16  # subtracts the step's own gradient if there is no `minus`

# Positions in a tensor's row of `scales`.
PRIOR_SCALE = 0  # factor of P in P^
INVERSE_RMS = 1  # 1 / rho
CURVATURE_SCALE = 2  # factor of |H| in P^
PROBE_NUMBER = 3  # keys the tensor's signs
SCALES = 4

# Positions in a tensor's `statistics` of its transfer significance. One step gathers them and the next reads them.
LOW = 0  # the key at the lower end of the histogram's regular bins
DENSITY = 1  # regular bins per unit of key
SMALLEST = 2  # the smallest and the largest key seen, not counting zeros
LARGEST = 3
SUM = 4  # the sum of T over finite elements, and their number
COUNT = 5
CURVATURE_SUM = 6  # the sum of |H|, as the last fold left it
BINS = 256  # bin 0: zeros; 1: below; 2..254: regular; 255: above
HISTOGRAM = 8
STATISTICS = HISTOGRAM + BINS

# Positions in `report`.
PRIOR_PENALTY = 0
TRANSFER_PENALTY = 1
NONFINITE = 2
REPORT = 3

# Which elements of a tensor the histogram counts.
SAMPLE_ALL = 131072
SAMPLE_BLOCK = 64
SAMPLE_GROUP = 1024
