"""The figures of one or several trackers as a text table, Markdown, JSON, CSV and rows for LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence as ListLike
from dataclasses import asdict
from pathlib import Path

from tracker.errors import RGBXError
from tracker.evaluation.attributes import AttributeScores
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.plots import plot_attributes, plot_curves
from tracker.evaluation.protocols import LASOT_FAMILY, default_options
from tracker.evaluation.published import Published
from tracker.tables import aligned_table

NAMES = {
    "lasher": "LasHeR protocol",
    "rgbt234": "RGBT234 protocol",
    "rgbt210": "RGBT210 protocol",
    "gtot": "GTOT protocol",
    "visevent": "VisEvent protocol",
    "coesot": "COESOT protocol",
    "fe108": "FE108 protocol (PyTracking's evaluator)",
    "depthtrack": "DepthTrack protocol (VOT long-term)",
    "vtuav": "VTUAV protocol",
}


MAIN_SCORES = ("SR", "MSR", "RSR", "F")
"""The score that trackers are ranked by: the first of these that their protocol has."""


def best_first(metrics: ListLike[Metrics]) -> list[Metrics]:
    """Return the trackers in the order of their main score, the largest first."""

    def main_score(m: Metrics) -> float:
        key = next((key for key in MAIN_SCORES if key in m.scores), None)
        return -1.0 if key is None else m.scores[key]

    return sorted(metrics, key=lambda m: -main_score(m))


def protocol_line(metrics: ListLike[Metrics]) -> str:
    """Say which protocol made the figures, with which options, and what told it if nobody named it."""
    reason = next((m.protocol_reason for m in metrics if m.protocol_reason), "")
    told = f" (told by the data: {reason})" if reason else ""
    protocol, options = metrics[0].protocol, metrics[0].options
    own = asdict(default_options(protocol)) if protocol in LASOT_FAMILY else options
    changed = [f"{name}={value}" for name, value in options.items() if value != own.get(name)]
    return f"{NAMES[protocol]}: {protocol}{' with ' if changed else ''}{', '.join(changed)}{told}"


def _keys(metrics: ListLike[Metrics]) -> list[str]:
    return list(dict.fromkeys(key for m in metrics for key in m.scores))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _rows(metrics: ListLike[Metrics]) -> tuple[list[str], list[list[str]]]:
    keys = _keys(metrics)
    speed = any(m.speed is not None for m in metrics)
    head = ["tracker", *keys, "sequences", "frames", *(["fps"] if speed else [])]
    rows = []
    for m in metrics:
        row = [m.tracker, *(_percent(m.scores.get(k)) for k in keys), str(len(m.sequences)), str(m.frames)]
        rows.append(row + ([] if not speed else ["–" if m.speed is None else f"{m.speed:.1f}"]))
    return head, rows


def _sequence_rows(metrics: ListLike[Metrics]) -> tuple[list[str], list[list[str]]]:
    keys = list(metrics[0].sequences[0].scores)
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


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([line(head), rule, *(line(r) for r in rows)])


def _published_rows(metrics: ListLike[Metrics], published: Published) -> tuple[list[str], list[list[str]]]:
    """Set computed figures beside published ones, for the trackers and scores that both have."""
    keys = [key for key in _keys(metrics) if any(key in scores for scores in published.values())]
    if not keys:
        raise RGBXError(
            f"the published figures have none of the scores {', '.join(_keys(metrics))}; name their columns so"
        )
    rows = []
    for m in metrics:
        theirs = published.get(m.tracker, {})
        for key in keys:
            if key in theirs and key in m.scores:
                difference = f"{100 * (m.scores[key] - theirs[key]):+.1f}"
                rows.append([m.tracker, key, _percent(m.scores[key]), _percent(theirs[key]), difference])
    known = {m.tracker for m in metrics}
    for name, scores in published.items():
        if name not in known:
            rows.extend([name, key, "–", _percent(scores[key]), "–"] for key in keys if key in scores)
    return ["tracker", "score", "computed", "published", "difference"], rows


def _attribute_rows(
    attributes: AttributeScores, score: str, order: ListLike[Metrics]
) -> tuple[list[str], list[list[str]]]:
    head = [f"{score} by attribute", *attributes.attributes]
    rows = [["sequences", *(str(count) for count in attributes.counts)]]
    found = dict(zip(attributes.trackers, attributes.scores[score], strict=True))
    rows.extend([m.tracker, *(_percent(float(value)) for value in found[m.tracker])] for m in order)
    return head, rows


def csv_rows(metrics: ListLike[Metrics]) -> str:
    """Return a CSV table with a header: trackers, best first, and their scores in percent with two decimals.

    Sequences, frames and the protocol follow in further columns.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    keys = _keys(metrics)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tracker", *keys, "sequences", "frames", "protocol"])
    for m in best_first(metrics):
        cells = [f"{100 * m.scores[key]:.2f}" if key in m.scores else "" for key in keys]
        writer.writerow([m.tracker, *cells, len(m.sequences), m.frames, m.protocol])
    return text.getvalue()


def latex_rows(metrics: ListLike[Metrics]) -> str:
    """Return rows of a LaTeX ``tabular``, best first and with the best of each column in bold.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    metrics = best_first(metrics)
    keys = _keys(metrics)
    shown = [[_percent(m.scores.get(key)) for key in keys] for m in metrics]
    best = [max((row[k] for row in shown if row[k] != "–"), key=float, default="") for k in range(len(keys))]
    lines = ["% " + protocol_line(metrics), "% tracker & " + " & ".join(keys)]
    for m, row in zip(metrics, shown, strict=True):
        bold = len(metrics) > 1
        cells = [f"\\textbf{{{c}}}" if bold and c == best[k] else c.replace("–", "--") for k, c in enumerate(row)]
        lines.append(" & ".join([_escape_latex(m.tracker), *cells]) + r" \\")
    return "\n".join(lines) + "\n"


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


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


def text_table(
    metrics: ListLike[Metrics],
    *,
    per_sequence: bool = False,
    attributes: AttributeScores | None = None,
    published: Published | None = None,
) -> str:
    """Return an aligned table for the terminal, scores in percent and trackers best first.

    The protocol's name stands above it. Tables of attributes, of published figures and of sequences follow where they
    are asked for.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    metrics = best_first(metrics)
    tables = [_rows(metrics)]
    if published is not None:
        tables.append(_published_rows(metrics, published))
    if attributes is not None:
        tables += [_attribute_rows(attributes, score, metrics) for score in attributes.scores]
    if per_sequence:
        tables.append(_sequence_rows(metrics))
    return protocol_line(metrics) + "\n\n" + "\n\n".join(aligned_table(*table) for table in tables)


def markdown_report(
    metrics: ListLike[Metrics],
    images: ListLike[str] = (),
    *,
    attributes: AttributeScores | None = None,
    published: Published | None = None,
) -> str:
    """Return a Markdown page with the figures, trackers best first, and everything that they depend on.

    The page has the protocol and the options that the figures were computed with, the plots, attributes and every
    sequence.

    Raises:
        RGBXError: no tracker, or several protocols.
    """
    _same_protocol(metrics)
    metrics = best_first(metrics)
    told = f" Protocol: {protocol_line(metrics)}."
    parts = [f"# {NAMES[metrics[0].protocol]}", _markdown(*_rows(metrics)), "Scores are percentages." + told]
    if metrics[0].options:
        parts.append("Options: " + ", ".join(f"`{k}={v}`" for k, v in metrics[0].options.items()) + ".")
    parts.extend(
        f"{m.tracker} has no result for {len(m.missing)} sequences, which are left out: {', '.join(m.missing)}."
        for m in metrics
        if m.missing
    )
    if published is not None:
        parts += ["## Beside published figures", _markdown(*_published_rows(metrics, published))]
    parts.extend(f"![{Path(image).stem}]({image})" for image in images)
    if attributes is not None:
        parts.append("## Attributes")
        parts += [_markdown(*_attribute_rows(attributes, score, metrics)) for score in attributes.scores]
    parts += ["## Sequences", _markdown(*_sequence_rows(metrics))]
    return "\n\n".join(parts) + "\n"


def write_report(
    metrics: ListLike[Metrics],
    output: str | Path,
    *,
    attributes: AttributeScores | None = None,
    published: Published | None = None,
) -> dict[str, Path]:
    """Write ``report.md``, ``report.json``, ``report.csv``, ``report.tex`` and a plot for each curve.

    Plots are ``precision.png``, ``success.png`` and so on; with attributes there are also ``attributes_SR.png`` and the
    like, one for each score.

    Args:
        metrics: one a tracker, all of one protocol.
        output: folder, made where needed.
        attributes: see :func:`tracker.evaluation.attributes.score_attributes`.
        published: tracker to score to fraction, see :func:`tracker.evaluation.published.read_published`.

    Returns:
        What was written, by file stem (the reports under their whole names).

    Raises:
        RGBXError: no tracker, several protocols, or published figures of none of the scores.
    """
    _same_protocol(metrics)
    if published is not None:
        _published_rows(metrics, published)  # refuses before anything is written
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = {key: plot_curves(metrics, key, output / f"{key}.png") for key in metrics[0].curves}
    if attributes is not None and len(attributes.attributes) > 2:
        for score in attributes.scores:
            name = f"attributes_{score}"
            written[name] = plot_attributes(attributes, score, output / f"{name}.png")
    images = [p.name for p in written.values()]
    content = [m.to_dict() for m in metrics]
    if attributes is not None:
        for index, record in enumerate(content):
            record["attributes"] = {
                name: {"sequences": attributes.counts[k]}
                | {key: float(values[index, k]) for key, values in attributes.scores.items()}
                for k, name in enumerate(attributes.attributes)
            }
    texts = {
        "report.md": markdown_report(metrics, images, attributes=attributes, published=published),
        "report.json": json.dumps(content, indent=1),
        "report.csv": csv_rows(metrics),
        "report.tex": latex_rows(metrics),
    }
    for name, text in texts.items():
        written[name] = output / name
        written[name].write_text(text, encoding="utf-8")
    return written
