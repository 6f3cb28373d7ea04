"""What a step weighs, gathers and ranks: everything that follows from the flags of a parameter group.

``csrc/core/flags.h`` states the same rules for the kernels. ``tests/srft_kernels/ops/test_flags.py`` compares the two
for every combination.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase

_FIELD = 3  # the mask of a field of two bits


@dataclass(frozen=True)
class StepFlags:
    """The choices that are fixed for a parameter group, or for one step of it.

    ``int(flags)`` packs them as the kernels read them, and :meth:`of` unpacks them. :mod:`.contract` says what each
    choice means.
    """

    inner: Inner
    mode: Mode
    damping: Damping
    normalize: Normalize
    decoupled_decay: bool = False
    amsgrad: bool = False
    nesterov: bool = False
    transfer_to_anchor: bool = False
    propagate_nonfinite: bool = False
    reset_penalties: bool = False
    count_skipped: bool = False
    fold: bool = False
    fold_gradient: bool = False

    def __int__(self) -> int:
        return (
            self.inner << contract.INNER_SHIFT
            | self.mode << contract.MODE_SHIFT
            | self.damping << contract.DAMPING_SHIFT
            | self.normalize << contract.NORMALIZE_SHIFT
            | contract.DECOUPLED_DECAY * self.decoupled_decay
            | contract.AMSGRAD * self.amsgrad
            | contract.NESTEROV * self.nesterov
            | contract.TRANSFER_TO_ANCHOR * self.transfer_to_anchor
            | contract.PROPAGATE_NONFINITE * self.propagate_nonfinite
            | contract.RESET_PENALTIES * self.reset_penalties
            | contract.COUNT_SKIPPED * self.count_skipped
            | contract.FOLD * self.fold
            | contract.FOLD_GRADIENT * self.fold_gradient
        )

    @staticmethod
    @lru_cache(maxsize=256)
    def of(flags: int) -> StepFlags:
        """Unpack flags.

        Raises:
            ValueError: If a field has a value without a meaning.
        """
        return StepFlags(
            inner=Inner(flags >> contract.INNER_SHIFT & _FIELD),
            mode=Mode(flags >> contract.MODE_SHIFT & _FIELD),
            damping=Damping(flags >> contract.DAMPING_SHIFT & _FIELD),
            normalize=Normalize(flags >> contract.NORMALIZE_SHIFT & _FIELD),
            decoupled_decay=bool(flags & contract.DECOUPLED_DECAY),
            amsgrad=bool(flags & contract.AMSGRAD),
            nesterov=bool(flags & contract.NESTEROV),
            transfer_to_anchor=bool(flags & contract.TRANSFER_TO_ANCHOR),
            propagate_nonfinite=bool(flags & contract.PROPAGATE_NONFINITE),
            reset_penalties=bool(flags & contract.RESET_PENALTIES),
            count_skipped=bool(flags & contract.COUNT_SKIPPED),
            fold=bool(flags & contract.FOLD),
            fold_gradient=bool(flags & contract.FOLD_GRADIENT),
        )

    @property
    def coupled(self) -> bool:
        """Whether the pull goes through the gradient."""
        return self.mode is Mode.COUPLED

    @property
    def damps(self) -> bool:
        """Whether T damps an element's move away from its present value.

        Coupled mode has no damping, because the damping term has no gradient at the present value. T does not damp
        either if it pulls to the anchor.
        """
        return self.damping is not Damping.UNDAMPED and not self.transfer_to_anchor and not self.coupled

    @property
    def weighs_transfer(self) -> bool:
        """Whether a step reads T at any kappa, so that statistics of T are kept."""
        return self.damps or self.transfer_to_anchor

    @property
    def ranks(self) -> bool:
        """Whether the statistics of T are histograms, from which ranks follow.

        Else they are sums, from which means follow.
        """
        return self.damps and self.damping is Damping.RANK

    @property
    def means_globally(self) -> bool:
        """Whether T is divided by its mean over all tensors of the group."""
        return self.weighs_transfer and not self.ranks and self.normalize is Normalize.GLOBAL

    def damps_in(self, phase: int) -> bool:
        """Return whether this part of a step damps.

        The half before the inner step does not, because nothing has moved yet.
        """
        return self.damps and phase != Phase.BEFORE

    def gathers_in(self, phase: int) -> bool:
        """Return whether this part of a step leaves statistics of T for the next one.

        Of the two halves of an unfused step it is the second, unless T is in the gradient that the first half makes.
        """
        return self.weighs_transfer and (phase != Phase.BEFORE or (self.transfer_to_anchor and self.coupled))

    def folds_in(self, phase: int) -> bool:
        """Return whether this part of a step folds a product into H."""
        return self.fold and phase == Phase.FUSED
