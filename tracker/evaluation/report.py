"""The figures of one or several trackers as a text table, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence as ListLike
from pathlib import Path

from tracker.errors import RGBXError
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.plots import plot_curves

NAMES = {
    "lasher": "LasHeR protocol",
    "visevent": "VisEvent protocol",
    "gtot": "GTOT protocol",
    "rgbt234": "RGBT234 protocol",
}


def _rows(metrics: ListLike[Metrics]) -> tuple[list[str], list[list[str]]]:
    keys = list(metrics[0].scores)
    speed = any(m.speed is not None for m in metrics)
    head = ["tracker", *keys, "sequences", "frames", *(["fps"] if speed else [])]
    rows = []
    for m in metrics:
        row = [m.tracker, *(f"{100 * m.scores[k]:.1f}" for k in keys), str(len(m.sequences)), str(m.frames)]
        rows.append(row + ([] if not speed else ["–" if m.speed is None else f"{m.speed:.1f}"]))
    return head, rows


def _sequence_rows(metrics: ListLike[Metrics]) -> tuple[list[str], list[list[str]]]:
    keys = list(metrics[0].scores)
    several = len(metrics) > 1
    head = [
        "sequence",
        "frames",
        "absent",
        *(f"{m.tracker} {k}" if several else k for m in metrics for k in keys),
    ]
    found = [{s.name: s for s in m.sequences} for m in metrics]
    names = list(dict.fromkeys(s.name for m in metrics for s in m.sequences))
    rows = []
    for name in names:
        first = next(f[name] for f in found if name in f)
        cells = [f"{100 * f[name].scores[k]:.1f}" if name in f else "–" for f in found for k in keys]
        rows.append([name, str(first.frames), str(first.absent), *cells])
    return head, rows


def _align(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *others = cells
        return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))])

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *(line(r) for r in rows)])


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([line(head), rule, *(line(r) for r in rows)])


def _same_protocol(metrics: ListLike[Metrics]) -> None:
    if not metrics:
        raise RGBXError("nothing to report; evaluate at least one tracker first")
    different = {m.protocol for m in metrics}
    if len(different) > 1:
        raise RGBXError(
            f"cannot report figures of different protocols in one table "
            f"({', '.join(sorted(different))}); report "
            "them apart"
        )


def text_table(metrics: ListLike[Metrics], *, per_sequence: bool = False) -> str:
    """An aligned table for the terminal, scores in percent; with a second one per sequence where asked.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    text = _align(*_rows(metrics))
    return text + ("\n\n" + _align(*_sequence_rows(metrics)) if per_sequence else "")


def markdown_report(metrics: ListLike[Metrics], images: ListLike[str] = ()) -> str:
    """A Markdown page: the figures, the options they were computed with, the plots, and every sequence.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    parts = [f"# {NAMES[metrics[0].protocol]}", _markdown(*_rows(metrics)), "Scores are percentages."]
    if metrics[0].options:
        parts.append("Options: " + ", ".join(f"`{k}={v}`" for k, v in metrics[0].options.items()) + ".")
    parts.extend(
        f"{m.tracker} has no result for {len(m.missing)} sequences, which are left out: {', '.join(m.missing)}."
        for m in metrics
        if m.missing
    )
    parts.extend(f"![{Path(image).stem}]({image})" for image in images)
    parts += ["## Sequences", _markdown(*_sequence_rows(metrics))]
    return "\n\n".join(parts) + "\n"


def write_report(metrics: ListLike[Metrics], output: str | Path) -> dict[str, Path]:
    """Write ``report.md``, ``report.json`` and a plot per curve (``precision.png``, ``success.png``, …).

    Args:
        metrics: one a tracker, all of one protocol.
        output: folder, made where needed.

    Returns:
        What was written, by file stem (``report.md`` and ``report.json`` under their whole names).

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = {key: plot_curves(metrics, key, output / f"{key}.png") for key in metrics[0].curves}
    written["report.md"] = output / "report.md"
    written["report.md"].write_text(
        markdown_report(metrics, [p.name for p in written.values() if p.suffix == ".png"]), encoding="utf-8"
    )
    written["report.json"] = output / "report.json"
    written["report.json"].write_text(json.dumps([m.to_dict() for m in metrics], indent=1), encoding="utf-8")
    return written
