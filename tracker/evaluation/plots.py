"""Precision and success plots of several trackers, best first, with their scores in the legend."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tracker.errors import RGBXError
from tracker.evaluation.metrics import Metrics

COLOURS = ("#d1495b", "#2e6f95", "#3a9d6e", "#e39b3b", "#7d5ba6", "#4d4d4d", "#00a6a6", "#a0522d")
STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
TITLES = {"precision": "Precision", "normalised_precision": "Normalised precision", "success": "Success"}
AXES = {
    "precision": "centre error threshold (pixels)",
    "normalised_precision": "centre error threshold (box sizes)",
    "success": "overlap threshold (IoU)",
}
SCORES = {"precision": ("PR", "MPR"), "normalised_precision": ("NPR",), "success": ("SR", "MSR")}
LEVELS = {
    ("lasher", "precision"): 20.0,
    ("visevent", "precision"): 20.0,
    ("rgbt234", "precision"): 20.0,
    ("gtot", "precision"): 5.0,
    ("lasher", "normalised_precision"): 0.2,
    ("visevent", "normalised_precision"): 0.2,
}


def plot_curves(metrics: ListLike[Metrics], curve: str, path: str | Path, title: str | None = None) -> Path:
    """Draw one curve of several trackers to a PNG of 960 x 720 pixels.

    Args:
        metrics: one a tracker, all of one protocol.
        curve: ``precision``, ``normalised_precision`` or ``success``.
        path: the PNG.
        title: in place of the curve's own.

    Returns:
        The path.

    Raises:
        RGBXError: nothing to draw, or a tracker without that curve.
    """
    if not metrics:
        raise RGBXError("nothing to plot; evaluate at least one tracker first")
    lacking = [m.tracker for m in metrics if curve not in m.curves]
    if lacking:
        known = ", ".join(metrics[0].curves)
        raise RGBXError(f"{lacking[0]} has no {curve!r} curve under its protocol; expected one of {known}")
    key = next(k for k in SCORES[curve] if k in metrics[0].scores)
    ranked = sorted(metrics, key=lambda m: -m.scores[key])
    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index in reversed(range(len(ranked))):
        m = ranked[index]
        axes.plot(
            m.curves[curve].thresholds,
            m.curves[curve].values,
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[(index // len(COLOURS)) % len(STYLES)],
            linewidth=2.2,
            solid_capstyle="round",
            label=f"{m.tracker}  [{100 * m.scores[key]:.1f}]",
        )
    level = LEVELS.get((metrics[0].protocol, curve))
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
    axes.set_xlim(float(thresholds[0]), float(thresholds[-1]))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(AXES[curve])
    axes.set_ylabel("share of frames")
    count = len(metrics[0].sequences)
    axes.set_title(title or f"{TITLES[curve]}, {count} sequence{'' if count == 1 else 's'}", fontsize=12, loc="left")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="lower left" if curve == "success" else "lower right",
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=0.85,
        fontsize=9.5,
        title=f"tracker  [{key}, %]",
        title_fontsize=8.5,
        alignment="left",
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
