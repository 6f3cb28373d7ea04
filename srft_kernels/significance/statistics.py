"""Summarizes a significance map layer by layer: a few numbers, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """The numbers of one layer of a map.

    ``share`` is its part of the sum over the whole map. ``above`` is the part of its elements that exceed ten times its
    mean, and ``zero`` the part that are exactly zero.
    """

    name: str
    elements: int
    mean: float
    maximum: float
    share: float
    above: float
    zero: float


def layer_statistics(significance: Mapping[str, Tensor], by: str = "layer") -> list[LayerStatistics]:
    """Return rows in the order of the map; see :meth:`SignificanceMap.statistics`."""
    groups = _groups(significance, by)
    masses = {layer: sum(float(t.sum(dtype=torch.float64)) for t in group) for layer, group in groups.items()}
    whole = sum(masses.values())
    rows = []
    for layer, group in groups.items():
        elements = sum(t.numel() for t in group)
        mean = masses[layer] / max(elements, 1)
        rows.append(
            LayerStatistics(
                name=layer,
                elements=elements,
                mean=mean,
                maximum=max((float(t.max()) for t in group if t.numel()), default=0.0),
                share=masses[layer] / whole if whole > 0.0 else 0.0,
                above=sum(int((t > 10.0 * mean).sum()) for t in group) / max(elements, 1),
                zero=sum(int((t == 0).sum()) for t in group) / max(elements, 1),
            )
        )
    return rows


def table(rows: Sequence[LayerStatistics], title: str) -> str:
    """Return the rows as plain text with aligned columns."""
    head = ("layer", "elements", "mean", "max", "mass %", ">10x mean %", "zero %")
    cells = [
        (
            row.name,
            f"{row.elements:,}",
            f"{row.mean:.3e}",
            f"{row.maximum:.3e}",
            f"{100 * row.share:.2f}",
            f"{100 * row.above:.2f}",
            f"{100 * row.zero:.2f}",
        )
        for row in rows
    ]
    return aligned(head, cells, title)


def aligned(head: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> str:
    """Return a table in plain text, with the first column aligned to the left and the others to the right."""
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]

    def line(values: Sequence[str]) -> str:
        name, *numbers = values
        return "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))])

    return "\n".join([title, line(head), "-" * len(line(head)), *(line(values) for values in cells)])


QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Grid(NamedTuple):
    """The content of a heat map: a value for every row and column, NaN if there is none."""

    values: list[list[float]]
    rows: list[str]
    columns: list[str]


def quantile_grid(significance: Mapping[str, Tensor], by: str = "layer") -> Grid:
    """Return the quantiles of every layer's significance. Each is the value of the nearest element from below."""
    values = []
    groups = _groups(significance, by)
    for group in groups.values():
        ordered = torch.cat([t.detach().reshape(-1).double().cpu() for t in group]).sort().values
        places = [max(math.ceil(q * len(ordered)) - 1, 0) for q in QUANTILES]
        values.append([float(ordered[p]) for p in places] if len(ordered) else [math.nan] * len(QUANTILES))
    return Grid(values, list(groups), [f"{100 * q:g} %" for q in QUANTILES])


def depth_grid(significance: Mapping[str, Tensor]) -> Grid:
    """Return the mean significance by depth (a name up to its block's number) and kind (the rest of the name).

    If a name has several numbers, the block's is the one with the most siblings: ``blocks.3`` of twelve, not ``mlp.0``
    of two inside it. A name without a number has the depth "-".
    """
    siblings: dict[tuple[str, ...], set[str]] = {}
    for name in significance:
        parts = tuple(name.split("."))
        for k, part in enumerate(parts):
            if part.isdigit():
                siblings.setdefault(parts[:k], set()).add(part)
    masses: dict[tuple[str, str], tuple[float, int]] = {}
    for name, tensor in significance.items():
        parts = tuple(name.split("."))
        numbers = [k for k, part in enumerate(parts) if part.isdigit()]
        at = max(numbers, key=lambda k: len(siblings[parts[:k]]), default=None)
        depth = "-" if at is None else ".".join(parts[: at + 1])
        kind = name if at is None else ".".join(parts[at + 1 :]) or name
        mass, count = masses.get((depth, kind), (0.0, 0))
        masses[depth, kind] = mass + float(tensor.sum(dtype=torch.float64)), count + tensor.numel()
    depths = list(dict.fromkeys(depth for depth, _ in masses))
    kinds = list(dict.fromkeys(kind for _, kind in masses))
    means = {key: mass / count if count else math.nan for key, (mass, count) in masses.items()}
    return Grid([[means.get((depth, kind), math.nan) for kind in kinds] for depth in depths], depths, kinds)


def _groups(significance: Mapping[str, Tensor], by: str) -> dict[str, list[Tensor]]:
    if by not in ("layer", "parameter"):
        raise ValueError(f'by must be "layer" or "parameter", got {by!r}')
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in significance.items():
        layer = name.rpartition(".")[0] or name if by == "layer" else name
        groups.setdefault(layer, []).append(tensor)
    return groups
