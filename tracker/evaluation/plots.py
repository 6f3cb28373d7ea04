"""Plots of several trackers, best first, with their scores in the legend; and a radar of attributes."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import PercentFormatter

from tracker.errors import RGBXError
from tracker.evaluation.attributes import AttributeScores
from tracker.evaluation.metrics import Metrics

COLORS = ("#d1495b", "#2e6f95", "#3a9d6e", "#e39b3b", "#7d5ba6", "#4d4d4d", "#00a6a6", "#a0522d")
STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
TITLES = {
    "precision": "Precision",
    "normalized_precision": "Normalized precision",
    "success": "Success",
    "precision_recall": "Tracking precision and recall",
}
AXES = {
    "precision": ("center error threshold (pixels)", "share of frames"),
    "normalized_precision": ("center error threshold (box sizes)", "share of frames"),
    "success": ("overlap threshold (IoU)", "share of frames"),
    "precision_recall": ("recall", "precision"),
}
SCORES = {
    "precision": ("PR", "MPR", "RPR"),
    "normalized_precision": ("NPR",),
    "success": ("SR", "MSR", "RSR"),
    "precision_recall": ("F",),
}


def level_of(protocol: str, curve: str) -> float | None:
    """Return the threshold at which a score is read from a curve; None where the score is the curve's mean."""
    if curve == "precision":
        return 5.0 if protocol == "gtot" else 20.0
    return 0.2 if curve == "normalized_precision" else None


MOST_INSIDE = 5
"""Trackers that a legend within the axes has room for; the legend of more of them stands beside the axes."""
MOST_BELOW_EACH_OTHER = 20
"""Trackers in one column of a legend beside the axes."""


def plot_curves(metrics: ListLike[Metrics], curve: str, path: str | Path, title: str | None = None) -> Path:
    """Draw one curve of several trackers to a PNG of 960 x 720 pixels, wider by a legend for many trackers.

    Args:
        metrics: one a tracker, all of one protocol.
        curve: ``precision``, ``normalized_precision``, ``success`` or (DepthTrack) ``precision_recall``.
        path: the PNG.
        title: in place of the curve's own.

    Returns:
        The path.

    Raises:
        RGBXError: nothing to draw, or a tracker without that curve.
    """
    figure = draw_curves(metrics, curve, title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def draw_curves(metrics: ListLike[Metrics], curve: str, title: str | None = None) -> Figure:
    """Draw the figure that :func:`plot_curves` writes; its legend covers no curve.

    Raises:
        RGBXError: as :func:`plot_curves`.
    """
    if not metrics:
        raise RGBXError("nothing to plot; evaluate at least one tracker first")
    lacking = [m.tracker for m in metrics if curve not in m.curves]
    if lacking:
        known = ", ".join(metrics[0].curves)
        raise RGBXError(f"{lacking[0]} has no {curve!r} curve under its protocol; expected one of {known}")
    key = next(k for k in SCORES[curve] if k in metrics[0].scores)
    ranked = sorted(metrics, key=lambda m: -m.scores[key])
    columns = 0 if len(ranked) <= MOST_INSIDE else 1 + (len(ranked) - 1) // MOST_BELOW_EACH_OTHER
    figure = Figure(figsize=(6.4 + 2.6 * columns, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index in reversed(range(len(ranked))):
        m = ranked[index]
        axes.plot(
            m.curves[curve].thresholds,
            m.curves[curve].values,
            color=COLORS[index % len(COLORS)],
            linestyle=STYLES[(index // len(COLORS)) % len(STYLES)],
            linewidth=2.2,
            solid_capstyle="round",
            label=f"{m.tracker}  [{100 * m.scores[key]:.1f}]",
        )
    level = level_of(metrics[0].protocol, curve)
    if level is not None:
        axes.axvline(level, color="#999999", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        text = f"{key} at {level:g}" + (" px" if curve == "precision" else "")
        axes.annotate(
            text,
            (level, 0.02),
            (4, 0),
            textcoords="offset points",
            color="#777777",
            fontsize=8.5,
            va="bottom",
        )
    thresholds = metrics[0].curves[curve].thresholds
    axes.set_xlim(0.0, 1.0 if curve == "precision_recall" else float(thresholds[-1]))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(AXES[curve][0])
    axes.set_ylabel(AXES[curve][1])
    count = len(metrics[0].sequences)
    sequences = f"{count} sequence{'' if count == 1 else 's'}"
    axes.set_title(title or f"{TITLES[curve]}, {sequences} ({metrics[0].protocol})", fontsize=12, loc="left")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    handles, labels = axes.get_legend_handles_labels()
    look: dict[str, Any] = {"title": f"tracker  [{key}, %]", "title_fontsize": 8.5}
    look |= {"fontsize": 9.5, "alignment": "left"}
    if columns:
        look |= {"loc": "outside right upper", "frameon": False, "ncols": columns}
        figure.legend(handles[::-1], labels[::-1], **look)
    else:
        look |= {"facecolor": "white", "edgecolor": "none", "framealpha": 0.85}
        axes.legend(handles[::-1], labels[::-1], loc="best", **look)
    return figure


def plot_attributes(attributes: AttributeScores, score: str, path: str | Path) -> Path:
    """Draw one score of several trackers over the attributes as a radar plot, a PNG of 960 x 960 pixels.

    The axes start at the next ten percent below the smallest value, so that trackers can be told apart.

    Raises:
        RGBXError: fewer than three attributes, or no such score.
    """
    if len(attributes.attributes) < 3:
        raise RGBXError(f"{len(attributes.attributes)} attributes make no radar plot; expected at least three")
    if score not in attributes.scores:
        raise RGBXError(f"there is no score {score!r}; expected one of {', '.join(attributes.scores)}")
    values = attributes.scores[score]
    ranked = np.argsort(-values.mean(axis=1), kind="stable")
    angles = np.linspace(0.0, 2.0 * np.pi, values.shape[1], endpoint=False)
    figure = Figure(figsize=(6.4, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    for place in reversed(range(len(ranked))):
        row = values[ranked[place]]
        color = COLORS[place % len(COLORS)]
        axes.plot(
            np.append(angles, angles[0]),
            np.append(row, row[0]),
            color=color,
            linestyle=STYLES[(place // len(COLORS)) % len(STYLES)],
            linewidth=2,
            label=f"{attributes.trackers[ranked[place]]}  [{100 * row.mean():.1f}]",
        )
        if len(ranked) <= 3:
            axes.fill(angles, row, color=color, alpha=0.07)
    labels = [f"{name} ({count})" for name, count in zip(attributes.attributes, attributes.counts, strict=True)]
    axes.set_xticks(angles, labels, fontsize=8.5)
    axes.set_ylim(np.floor(10 * values.min() - 1e-9).clip(0, 9) / 10, np.ceil(10 * values.max()).clip(1, 10) / 10)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", labelsize=8, labelcolor="#777777")
    axes.tick_params(axis="x", pad=13)
    axes.set_rlabel_position(180.0 / len(angles))  # between two attributes
    axes.grid(color="#e0e0e0", linewidth=0.8)
    axes.spines["polar"].set_color("#bbbbbb")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        names[::-1],
        loc="outside lower center",
        ncols=min(3, len(names)),
        frameon=False,
        fontsize=9,
        title=f"{score} ({attributes.protocol}) by attribute (sequences)  [mean, %]",
        title_fontsize=9,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
