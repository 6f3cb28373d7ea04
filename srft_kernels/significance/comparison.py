"""Compares two significance maps: whether they rank the elements of a tensor alike."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Agreement:
    """How far two maps agree on one tensor or layer.

    ``rank_correlation`` is Spearman's, with mean ranks for ties: 1 if both rank alike, 0 by chance, NaN if a map is
    constant. ``shared_top`` says which part of the most significant tenth of one map belongs to that of the other: 0.1
    by chance, NaN if a map is constant. ``mass_ratio`` is the first map's sum over the second's, and NaN for zero over
    zero.
    """

    name: str
    elements: int
    rank_correlation: float
    shared_top: float
    mass_ratio: float


@dataclass(frozen=True)
class Comparison:
    """One row for each tensor or layer that both maps have.

    ``only_first`` and ``only_second`` name what only one map has.
    """

    rows: tuple[Agreement, ...]
    title: str
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()

    @property
    def rank_correlation(self) -> float:
        """The mean over the rows that have one, weighted by elements."""
        told = [row for row in self.rows if not math.isnan(row.rank_correlation)]
        elements = sum(row.elements for row in told)
        return sum(row.rank_correlation * row.elements for row in told) / elements if elements else math.nan

    def report(self) -> str:
        """Return a table in plain text."""
        from srft_kernels.significance.statistics import aligned

        head = ("layer", "elements", "rank corr.", "shared top 10 %", "mass ratio")
        cells = [
            (
                row.name,
                f"{row.elements:,}",
                f"{row.rank_correlation:.3f}",
                f"{100 * row.shared_top:.1f}",
                f"{row.mass_ratio:.3e}",
            )
            for row in self.rows
        ]
        lone = [
            f"only in the {which}: {', '.join(names)}"
            for which, names in (("first", self.only_first), ("second", self.only_second))
            if names
        ]
        return "\n".join([aligned(head, cells, self.title), *lone])

    def __str__(self) -> str:
        return self.report()

    def plot(self, target: str | os.PathLike[str] | Axes | None = None) -> Axes:
        """Draw a heat map of rank correlation and shared top tenth per row, from -1 to 1.

        The arguments are those of :meth:`SignificanceMap.plot`.
        """
        from srft_kernels.significance.plot import plot_heat

        return plot_heat(
            [[row.rank_correlation, row.shared_top] for row in self.rows],
            [row.name for row in self.rows],
            ["rank correlation", "shared top 10 %"],
            target,
            self.title,
            limits=(-1.0, 1.0),
            label="1: the same, 0 (and 0.1): chance",
        )


def compare(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], by: str = "parameter", title: str = ""
) -> Comparison:
    """Compare two maps; see :meth:`SignificanceMap.compare`."""
    if by not in ("layer", "parameter"):
        raise ValueError(f'by must be "layer" or "parameter", got {by!r}')
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            "the two maps have no name in common: rename one of them (SignificanceMap.rename) so that their "
            "parameters are called alike"
        )
    odd = [name for name in common if first[name].shape != second[name].shape]
    if odd:
        raise ValueError(
            f"the two maps are of different models: {odd[0]!r} has shape {tuple(first[odd[0]].shape)} in one and "
            f"{tuple(second[odd[0]].shape)} in the other"
        )
    groups: dict[str, list[str]] = {}
    for name in common:
        groups.setdefault((name.rpartition(".")[0] or name) if by == "layer" else name, []).append(name)
    rows = [_agreement(group, [first[n] for n in names], [second[n] for n in names]) for group, names in groups.items()]
    return Comparison(
        tuple(rows),
        title,
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
    )


def _agreement(name: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> Agreement:
    a, b = _flat(first), _flat(second)
    total, other = float(a.sum()), float(b.sum())
    return Agreement(
        name,
        a.numel(),
        spearman(a, b),
        shared_top(a, b),
        total / other if other else math.inf if total else math.nan,
    )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().cpu().double().reshape(-1) for t in tensors])


def spearman(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors, which is Pearson's of their ranks. Ties share a mean rank."""
    if a.numel() < 2:
        return math.nan
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    length = float(x.norm() * y.norm())
    return max(-1.0, min(1.0, float(x @ y) / length)) if length else math.nan


def _ranks(values: Tensor) -> Tensor:
    # A run of n equal values that ends at position e (inclusive) has the mean rank e - (n - 1) / 2.
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum(0).double() - (counts.double() - 1.0) / 2.0
    ranks: Tensor = mean_rank[inverse]
    return ranks


def shared_top(a: Tensor, b: Tensor, part: float = 0.1) -> float:
    """Return how much of the ``part`` with the largest values two vectors share. Of equal values the earlier counts."""
    count = math.ceil(part * a.numel())
    if not count or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return math.nan
    top = torch.zeros(2, a.numel(), dtype=torch.bool)
    for row, values in zip(top, (a, b), strict=True):
        row[values.sort(descending=True, stable=True).indices[:count]] = True
    return float((top[0] & top[1]).sum()) / count
