"""A significance map as a picture: mean per layer as bars on a logarithmic axis, shaded by share of the
mass."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from srft_kernels.significance.statistics import LayerStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_statistics(rows: Sequence[LayerStatistics], target: str | os.PathLike[str] | Axes | None, title: str) -> Axes:
    """Draw into ``target`` (axes), or into a new figure that is written to ``target`` (a path) where one is
    given.

    Raises ``ImportError`` without matplotlib.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plotting a significance map needs matplotlib; install it with: pip install srft-kernels[plot]"
        ) from error

    # A Figure of its own, not pyplot's: no global state, no window, no backend to choose.
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
    if isinstance(target, (str, os.PathLike)):
        axes.figure.savefig(  # type: ignore[union-attr]
            os.fspath(target), dpi=150
        )
    return axes
