"""What follows from a step's flags is the same in Python and in C++, over every combination."""

from __future__ import annotations

import itertools

import pytest

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.native import library

SWITCHES = ("decoupled_decay", "transfer_to_anchor", "propagate_nonfinite", "fold", "fold_gradient")
EVERY = [
    StepFlags(*choice, **dict(zip(SWITCHES, switches, strict=True)))  # type: ignore[arg-type]
    for choice in itertools.product(Inner, Mode, Damping, Normalize)
    for switches in itertools.product((False, True), repeat=len(SWITCHES))
]


@pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")
@pytest.mark.parametrize("phase", Phase)
def test_both_sides_follow_the_same_rules(phase: Phase) -> None:
    for flags in EVERY:
        theirs = library.build.rules(int(flags), int(phase))
        for name, answer in theirs.items():
            ours = getattr(flags, name)
            assert (ours(phase) if callable(ours) else ours) == answer, (name, flags)


def test_flags_are_packed_and_unpacked() -> None:
    assert len({int(flags) for flags in EVERY}) == len(EVERY)
    assert all(StepFlags.of(int(flags)) == flags for flags in EVERY)
    switched = StepFlags(Inner.SGD, Mode.COUPLED, Damping.MEAN, Normalize.GLOBAL, amsgrad=True, count_skipped=True)
    assert int(switched) & contract.AMSGRAD
    assert int(switched) & contract.COUNT_SKIPPED
    assert not int(switched) & contract.NESTEROV
    with pytest.raises(ValueError, match="3 is not a valid"):
        StepFlags.of(3)


def test_where_damping_has_a_meaning() -> None:
    """Coupled mode has no damping, a T that pulls to the anchor does not damp, and only damping needs ranks."""
    for flags in EVERY:
        if flags.mode is Mode.COUPLED or flags.transfer_to_anchor or flags.damping is Damping.UNDAMPED:
            assert not flags.damps
            assert not flags.ranks
        else:
            assert flags.damps
            assert flags.ranks == (flags.damping is Damping.RANK)
        assert flags.weighs_transfer == (flags.damps or flags.transfer_to_anchor)
        assert not flags.damps_in(Phase.BEFORE)
        assert flags.gathers_in(Phase.AFTER) == flags.gathers_in(Phase.FUSED) == flags.weighs_transfer
