"""Plots a significance map as bars, and tables of numbers as heat maps.

The bars show the mean of each layer on a logarithmic axis. Their shade is the layer's share of the mass.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from srft_kernels.significance.statistics import LayerStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_statistics(rows: Sequence[LayerStatistics], target: str | os.PathLike[str] | Axes | None, title: str) -> Axes:
    """Draw into ``target`` if it is axes, else into a new figure, which is written to ``target`` if that is a path.

    Raises:
        ImportError: Without matplotlib.
    """
    _matplotlib()
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # A plain Figure needs no global state, no window and no choice of backend, as pyplot would.
    axes = target if isinstance(target, Axes) else Figure(figsize=(8, 1.5 + 0.2 * len(rows)), layout="tight").subplots()
    shading = colormaps["viridis_r"]
    largest = max((row.share for row in rows), default=0.0) or 1.0
    positions = range(len(rows))
    axes.barh(positions, [row.mean for row in rows], color=[shading(row.share / largest) for row in rows])
    axes.set_yticks(positions, [row.name for row in rows], fontsize=7)
    axes.invert_yaxis()
    if any(row.mean > 0.0 for row in rows):
        axes.set_xscale("log")
    axes.set_xlabel("mean significance (dark: a large share of the whole mass)")
    axes.set_title(title, fontsize=8)
    return _written(axes, target)


def plot_heat(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    target: str | os.PathLike[str] | Axes | None,
    title: str,
    *,
    limits: tuple[float, float] | None = None,
    label: str = "",
) -> Axes:
    """Draw a heat map. Without ``limits`` the colors are logarithmic, and zeros and missing values stay white.

    Raises:
        ImportError: Without matplotlib.
    """
    _matplotlib()
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    size = (4.0 + 0.3 * len(columns), max(4.0, 2.5 + 0.2 * len(rows)))
    axes = target if isinstance(target, Axes) else Figure(figsize=size, layout="constrained").subplots()
    shown = np.array(values, dtype=float).reshape(len(rows), len(columns))
    if limits is None:
        shown = np.where(shown > 0.0, shown, np.nan)
        seen = shown[np.isfinite(shown)]
        bounds = (float(seen.min()), float(seen.max())) if seen.size else (1.0, 1.0)
        norm: Normalize = LogNorm(bounds[0], bounds[1] if bounds[1] > bounds[0] else 10.0 * bounds[0])
    else:
        norm = Normalize(*limits)
    image = axes.imshow(shown, aspect="auto", cmap="viridis" if limits is None else "RdBu_r", norm=norm)
    axes.set_xticks(range(len(columns)), list(columns), rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.set_title(title, fontsize=8)
    axes.figure.colorbar(image, ax=axes, label=label)
    return _written(axes, target)


def _matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "plotting a significance map needs matplotlib; install it with: pip install srft-kernels[plot]"
        ) from error


def _written(axes: Axes, target: str | os.PathLike[str] | Axes | None) -> Axes:
    if isinstance(target, (str, os.PathLike)):
        axes.figure.savefig(  # type: ignore[union-attr]
            os.fspath(target), dpi=150
        )
    return axes
