"""How many bytes a step must move, written so that a reader can check it.

Counted are tensors as large as the parameter; per-tensor numbers (step counts, a histogram of two kilobytes) are not. A
tensor that is read and written counts twice. What stands here is what the mathematics needs in one pass: a contestant
that makes several passes over the same tensors moves more and is not credited for it. Only where somebody else's code
runs between two halves, so that the passes cannot be one, are they added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FP32, BF16 = 4.0, 2.0


def _sum(tensors: Mapping[str, float]) -> str:
    return " + ".join(f"{name} {size:.4g}" for name, size in tensors.items())


@dataclass(frozen=True)
class Traffic:
    """Bytes per parameter element of one pass, by tensor."""

    updated: Mapping[str, float] = field(default_factory=dict)  # read and written
    read: Mapping[str, float] = field(default_factory=dict)
    written: Mapping[str, float] = field(default_factory=dict)

    @property
    def bytes_per_element(self) -> float:
        return 2 * sum(self.updated.values()) + sum(self.read.values()) + sum(self.written.values())

    @property
    def formula(self) -> str:
        """Such as ``2 (weight 4 + m 4 + v 4) + gradient 4``."""
        parts = [f"2 ({_sum(self.updated)})"] if self.updated else []
        parts += [_sum(tensors) for tensors in (self.read, self.written) if tensors]
        return " + ".join(parts)


@dataclass(frozen=True)
class Passes:
    """Several passes that cannot be one, because somebody else's code runs between them."""

    passes: tuple[Traffic, ...]

    @property
    def bytes_per_element(self) -> float:
        return sum(t.bytes_per_element for t in self.passes)

    @property
    def formula(self) -> str:
        return "; then ".join(t.formula for t in self.passes)


def adam(weight: float = FP32, moment: float = FP32, **read: float) -> Traffic:
    """Return AdamW's pass: weight and two moments change, the gradient is read, and whatever else is in ``read``."""
    return Traffic({"weight": weight, "m": moment, "v": moment}, {"gradient": weight, **read})


WITH_PRIOR = adam(anchor=FP32, prior=FP32)
# EWC with a running mean of g² beside AdamW: T is state of its own.
EWC = Traffic({"weight": FP32, "m": FP32, "v": FP32, "T": FP32}, {"gradient": FP32, "anchor": FP32, "prior": FP32})
PUBLISHED = Traffic({"weight": FP32, "m": FP32, "v": FP32, "last g²": FP32}, {"gradient": FP32})
# Two moments of one byte, with a float32 scale for each block of 256.
EIGHT_BIT = adam(moment=1 + 4 / 256)
SGD = Traffic({"weight": FP32, "momentum": FP32}, {"gradient": FP32})
SGD_SRFT = Traffic({"weight": FP32, "momentum": FP32, "T": FP32}, {"gradient": FP32, "anchor": FP32, "prior": FP32})
BF16_ADAM = adam(weight=BF16, moment=BF16)
BF16_SRFT = Traffic({"weight": BF16, "m": FP32, "v": FP32}, {"gradient": BF16, "anchor": BF16, "prior": FP32})
RMSPROP = Traffic({"weight": FP32, "v": FP32}, {"gradient": FP32})
AROUND_RMSPROP = Passes(
    (
        Traffic({"T": FP32}, {"gradient": FP32, "weight": FP32, "anchor": FP32, "prior": FP32}, {"previous": FP32}),
        RMSPROP,
        Traffic({"weight": FP32}, {"previous": FP32, "anchor": FP32, "prior": FP32, "T": FP32}),
    )
)
PENALTY = Traffic(read={"weight": FP32, "anchor": FP32, "prior": FP32})
PENALTY_AND_GRADIENT = Passes((PENALTY, Traffic(read=PENALTY.read, written={"gradient": FP32})))  # autograd is between
COPY = Traffic(read={"source": FP32}, written={"target": FP32})
