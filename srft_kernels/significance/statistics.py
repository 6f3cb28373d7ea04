"""What a significance map looks like, layer by layer: a few numbers and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """One layer of a map: ``share`` is its part of the sum over the whole map, ``above`` and ``zero`` are the
    parts of its elements that exceed ten times its mean and that are exactly zero."""

    name: str
    elements: int
    mean: float
    maximum: float
    share: float
    above: float
    zero: float


def layer_statistics(significance: Mapping[str, Tensor], by: str = "layer") -> list[LayerStatistics]:
    """Rows in the order of the map; see :meth:`SignificanceMap.statistics`."""
    if by not in ("layer", "parameter"):
        raise ValueError(f'by must be "layer" or "parameter", got {by!r}')
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in significance.items():
        layer = name.rpartition(".")[0] or name if by == "layer" else name
        groups.setdefault(layer, []).append(tensor)
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
    """The rows as plain text, columns aligned."""
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
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]

    def line(values: Sequence[str]) -> str:
        name, *numbers = values
        return "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))])

    return "\n".join([title, line(head), "-" * len(line(head)), *(line(values) for values in cells)])
