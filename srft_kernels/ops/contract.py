"""The numbers that Python and the kernels share, and the library that all operators are declared in.

``csrc/core/contract.h`` holds the same numbers, and ``tests/srft_kernels/ops/test_contract.py`` compares them.
"""

from __future__ import annotations

from enum import IntEnum

import torch

# Kept for the life of the process, because torch drops a library's registrations with the object.
LIBRARY = torch.library.Library("srft", "FRAGMENT")


class Setting(IntEnum):
    """Positions in the float64 vector ``settings``: data and not arguments, so that it can live on a device."""

    LEARNING_RATE = 0
    BETA1 = 1  # SGD: momentum
    BETA2 = 2  # SGD: dampening
    EPSILON = 3
    WEIGHT_DECAY = 4
    GRADIENT_FACTOR = 5  # multiplies every gradient: 1 / loss scale, negative to maximize
    STRENGTH = 6  # lambda
    KAPPA = 7
    MU_MIN = 8
    MU_MAX = 9
    TAU = 10
    TRANSFER_BETA = 11
    PROBE_SEED_LOW = 12  # of the draw whose product is folded into H: the seed's halves,
    PROBE_SEED_HIGH = 13
    PROBE_STEP = 14
    FOLD_DECAY = 15  # H <- decay H + weight z (product)
    FOLD_WEIGHT = 16


SETTINGS = len(Setting)


class Inner(IntEnum):
    """The inner optimizer whose arithmetic a step has; none around an optimizer that is not fused."""

    NONE = 0
    ADAM = 1
    SGD = 2


class Mode(IntEnum):
    """How the pull enters the step (``docs/kernels.md``)."""

    PROXIMAL = 0
    DECOUPLED = 1
    COUPLED = 2


class Damping(IntEnum):
    """How the transfer significance holds an element where it just was."""

    UNDAMPED = 0
    RANK = 1
    MEAN = 2


class Normalize(IntEnum):
    """Over what the mean is taken that a significance is divided by; none for ``ABSOLUTE``."""

    PER_TENSOR = 0
    GLOBAL = 1
    ABSOLUTE = 2


class Phase(IntEnum):
    """A whole step, or one of the halves around an inner optimizer that is not fused."""

    FUSED = 0
    BEFORE = 1  # the halves of an unfused step around the inner optimizer's
    AFTER = 2


INNER_SHIFT = 0
MODE_SHIFT = 2
DAMPING_SHIFT = 4
NORMALIZE_SHIFT = 6
DECOUPLED_DECAY = 1 << 8  # AdamW, not Adam with an L2 term
AMSGRAD = 1 << 9
NESTEROV = 1 << 10
TRANSFER_TO_ANCHOR = 1 << 11  # transfer_anchor="initial"
PROPAGATE_NONFINITE = 1 << 12
RESET_PENALTIES = 1 << 13  # the report's penalties are set, not added to: a step's first group
COUNT_SKIPPED = 1 << 14  # a step that `found_inf` skips counts its elements that are not finite
FOLD = 1 << 15  # `plus` is folded into H before the step reads it
FOLD_GRADIENT = 1 << 16  # less the step's own gradient, where there is no `minus`

# Positions in a tensor's row of `scales`.
PRIOR_SCALE = 0  # times P: its part of P^
INVERSE_RMS = 1  # 1 / rho
CURVATURE_SCALE = 2  # times |H|: its part of P^
PROBE_NUMBER = 3  # that keys the tensor's signs
SCALES = 4

# Positions in a tensor's `statistics` of its transfer significance, gathered in one step and read in the next.
LOW = 0  # key of the lower end of the histogram's regular bins
DENSITY = 1  # regular bins per unit of key
SMALLEST = 2  # smallest and largest key seen, zeros left out
LARGEST = 3
SUM = 4  # sum of T over finite elements, and how many they are
COUNT = 5
CURVATURE_SUM = 6  # of |H|, as the last fold left it
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
