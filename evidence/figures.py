"""Figures of the page: the plane of new against kept with a frontier for each method, and the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure

from evidence.statistics import KEPT, TARGET, Results, balance, both_on_test, estimate, frontier, means

COLORS = {
    "AdamW": "#c0392b",
    "AdamW, interpolated (WiSE-FT)": "#e08e79",
    "L2-SP, in the loss": "#999999",
    "EWC, in the loss": "#5b7f3b",
    "SRFT": "#2471a3",
    "SRFT, global mean, κ falls": "#123f5c",
}


def plane(found: Mapping[str, Results], before: Sequence[float], path: Path, new: str, old: str, title: str) -> None:
    """Draw one curve for each method: its frontier on validation data, at its position on test data.

    The configuration that is best on both has 95 % intervals.
    """
    figure, axes = pyplot.subplots(figsize=(6.4, 4.6))
    for name, results in found.items():
        color = COLORS.get(name, "#666666")
        average = means(results)
        every = list(average.values())
        axes.scatter([m[KEPT] for m in every], [m[TARGET] for m in every], s=6, color=color, alpha=0.25, linewidths=0)
        line = [average[key] for key in frontier(results)]
        axes.plot([m[KEPT] for m in line], [m[TARGET] for m in line], "-o", ms=3.5, lw=1.4, color=color, label=name)
        best = max(average, key=lambda key: balance(average[key]))
        kept, target = ([m[i] for m in results[best].values()] for i in (KEPT, TARGET))
        if len(kept) > 1:
            across, up = estimate(kept), estimate(target)
            axes.errorbar(across.mean, up.mean, up.half, across.half, color=color, lw=0.9, capsize=2)
    axes.plot(before[KEPT], before[TARGET], "k*", ms=9, label="untouched")
    axes.set_xlabel(f"kept: {old} (%)")
    axes.set_ylabel(f"new: {new} (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    _save(figure, path)


def sensitivity(found: Mapping[str, Results], path: Path, title: str) -> None:
    """The mean of new and kept against the learning rate, at the strength that is best at each."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.4))
    for name in ("AdamW", "EWC, in the loss", "SRFT", "SRFT, global mean, κ falls"):
        if name not in found:
            continue
        average = means(found[name])
        rates = sorted({key[0] for key in average})
        best = [
            max((balance(m), both_on_test(m.tolist())) for key, m in average.items() if key[0] == rate)[1]
            for rate in rates
        ]
        axes.plot(rates, best, "-o", ms=3.5, lw=1.4, color=COLORS[name], label=name)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("mean of new and kept (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    # Without a date and a version inside, so that the same records give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
