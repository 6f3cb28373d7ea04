"""Chooses which template frame goes with which search frame: the causal pairs of OSTrack and SRTrack."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass

import numpy as np

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError


@dataclass(frozen=True)
class Pair:
    """Indices of one training pair: ``template`` is an earlier frame than ``search``, both with the target present."""

    sequence: int
    template: int
    search: int


class CausalPairSampler:
    """Draws pairs: a sequence by weight, a template frame where the target is present, a later search frame likewise.

    The search frame lies in (template, template + max_gap]; where no frame there shows the target, the gap
    grows by ``gap_growth`` until one does. The template is any present frame but the last one, so such a
    frame always exists.

    Args:
        sequences: at least one of them usable.
        max_gap: largest distance between the two frames, in frames.
        gap_growth: step by which the gap is widened.
        min_frames, min_present: sequences with fewer frames, or fewer frames that show the target, are not
            drawn.
        weights: one non-negative number per sequence; uniform by default. See :func:`mixture_weights`.

    Attributes:
        unusable: (index, reason) of the sequences that are never drawn.

    Raises:
        RGBXError: no sequence is usable, or weights do not fit.
    """

    def __init__(
        self,
        sequences: collections.abc.Sequence[Sequence],
        max_gap: int = 200,
        gap_growth: int = 5,
        min_frames: int = 20,
        min_present: int = 5,
        weights: collections.abc.Sequence[float] | None = None,
    ) -> None:
        if max_gap < 1 or gap_growth < 1:
            raise RGBXError(f"max_gap is {max_gap} and gap_growth {gap_growth}; both must be at least 1 frame")
        if weights is not None and (len(weights) != len(sequences) or any(not w >= 0 for w in weights)):
            raise RGBXError(
                f"{len(weights)} weights for {len(sequences)} sequences; expected one, not negative, for each"
            )
        self.max_gap = max_gap
        self.gap_growth = gap_growth
        self.unusable: list[tuple[int, str]] = []
        self._usable: list[int] = []
        self._present: list[np.ndarray] = []
        chosen: list[float] = []
        for index, sequence in enumerate(sequences):
            present = np.flatnonzero(sequence.present)
            if sequence.length < min_frames:
                self.unusable.append((index, f"{sequence.name} has {sequence.length} frames, fewer than {min_frames}"))
            elif len(present) < max(2, min_present):
                self.unusable.append(
                    (
                        index,
                        f"{sequence.name} shows its target in {len(present)} frames, fewer than {max(2, min_present)}",
                    )
                )
            elif weights is not None and weights[index] == 0:
                self.unusable.append((index, f"{sequence.name} has weight 0"))
            else:
                self._usable.append(index)
                self._present.append(present)
                chosen.append(1.0 if weights is None else float(weights[index]))
        if not self._usable:
            reason = self.unusable[0][1] if self.unusable else "the list is empty"
            raise RGBXError(f"none of {len(sequences)} sequences can be drawn from: {reason}")
        self._cumulative = np.cumsum(chosen) / np.sum(chosen)

    def draw(self, rng: np.random.Generator) -> Pair:
        """Draw one pair. It takes three numbers from ``rng``."""
        u = rng.random(3)
        slot = min(int(np.searchsorted(self._cumulative, u[0], side="right")), len(self._usable) - 1)
        present = self._present[slot]
        base = int(u[1] * (len(present) - 1))
        template = int(present[base])
        gap = self.max_gap
        needed = int(present[base + 1]) - template
        if needed > gap:
            gap += -(-(needed - gap) // self.gap_growth) * self.gap_growth
        last = int(np.searchsorted(present, template + gap, side="right"))
        search = int(present[base + 1 + int(u[2] * (last - base - 1))])
        return Pair(self._usable[slot], template, search)


def mixture_weights(group_sizes: list[int], ratios: list[float]) -> list[float]:
    """Return weights per sequence with which group k is drawn with probability ratios[k]/sum.

    Within a group all sequences have the same probability.

    Raises:
        RGBXError: different numbers of groups and ratios, or an empty group with a ratio above zero.
    """
    if len(group_sizes) != len(ratios):
        raise RGBXError(f"{len(group_sizes)} data sets but {len(ratios)} ratios; expected one ratio for each")
    for size, ratio in zip(group_sizes, ratios, strict=True):
        if ratio < 0 or (size == 0 and ratio > 0):
            raise RGBXError(
                f"a data set of {size} sequences has ratio {ratio}; it must have sequences and a ratio >= 0"
            )
    return [ratio / size for size, ratio in zip(group_sizes, ratios, strict=True) for _ in range(size)]
