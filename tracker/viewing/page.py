"""One HTML file of one or several runs on a data set: pictures, boxes, curves and scores, without a server."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import math
from collections.abc import Iterator
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.evaluation.plots import COLORS
from tracker.files import atomic_file
from tracker.viewing.pictures import Pictures, take_pictures
from tracker.viewing.runs import Record, Run
from tracker.viewing.scores import FrameErrors, compare_scores, has_truth, mean_scores, score_runs

NARROWEST_PANEL = 32


@dataclass(frozen=True)
class PageSettings:
    """What goes into a page, and how large it may become.

    Attributes:
        pictured: number of sequences with pictures: those with the lowest success, or in a comparison the largest
            difference in it. The others have curves, boxes and scores alone.
        sequences: names of the sequences with pictures, in place of ``pictured``.
        panel_width: largest width of each of the two images in pixels; frames are never enlarged.
        quality: of the JPEG images, 1 to 100.
        max_bytes: pictures take no more of the file than this; where they would, only every k-th frame is
            pictured (one of each sequence always is). Curves have every frame.

    Raises:
        RGBXError: a number out of range.
    """

    pictured: int = 8
    sequences: tuple[str, ...] = ()
    panel_width: int = 320
    quality: int = 75
    max_bytes: int = 64_000_000

    def __post_init__(self) -> None:
        if self.pictured < 0:
            raise RGBXError(f"{self.pictured} sequences cannot be pictured; give 0 or more")
        if self.panel_width < NARROWEST_PANEL:
            raise RGBXError(f"panels of {self.panel_width} pixels are too narrow; give {NARROWEST_PANEL} or more")
        if not 1 <= self.quality <= 100:
            raise RGBXError(f"JPEG quality is {self.quality}; expected 1 to 100")
        if self.max_bytes <= 0:
            raise RGBXError(f"pictures cannot stay below {self.max_bytes} bytes; give a size above 0")


@dataclass(frozen=True)
class Page:
    """What was written.

    Attributes:
        path: the file.
        size: its bytes.
        note: what it leaves out, in a sentence, as it stands at the foot of the page.
    """

    path: Path
    size: int
    note: str


def write_page(
    path: str | Path,
    sequences: ListLike[Sequence],
    runs: ListLike[Run],
    settings: PageSettings | None = None,
    *,
    compare: bool = False,
    title: str | None = None,
    progress: bool = False,
) -> Page:
    """Write runs on a data set as one HTML file that opens in any browser, from disk and offline.

    The page shows both modalities side by side with the boxes of every run and of the ground truth, IoU and confidence
    curves that seek, and a table of sequences. It needs no other file, and is replaced whole or not at all.

    Args:
        path: ``.html`` or ``.htm``.
        sequences: the data set. Sequences that no run has are left out.
        runs: from :func:`tracker.viewing.runs.find_runs`, or of tracks in memory.
        settings: see :class:`PageSettings`.
        compare: there are exactly two runs, and the page shows the differences of their scores.
        title: replaces the runs' labels.
        progress: show a bar over the frames that are pictured.

    Raises:
        RGBXError: another suffix, no run or no sequence, not two runs to compare, a sequence asked for that does not
            exist, or a frame that cannot be read.
    """
    settings = settings or PageSettings()
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise RGBXError(f"cannot write {path.name}; expected a name that ends in .html")
    if not runs or len(runs) > len(COLORS):
        raise RGBXError(f"{len(runs)} runs cannot be shown; expected 1 to {len(COLORS)}")
    if compare and len(runs) != 2:
        raise RGBXError(f"{len(runs)} runs cannot be compared; expected two (`rgbx view` shows several)")
    shown = [s for s in sequences if any(s.name in run.records for run in runs)]
    if not shown:
        raise RGBXError("the runs have no sequence in common with the data; check both folders")
    scores = score_runs(runs, shown)
    pictured = _pictured(shown, scores, settings, compare)
    pictures = take_pictures(
        pictured,
        panel_width=settings.panel_width,
        quality=settings.quality,
        max_bytes=settings.max_bytes * 3 // 4,  # base64 makes four bytes of three
        progress=progress,
    )
    note = _note(shown, pictures)
    overview = {
        "compare": compare,
        "summary": _summary(runs, scores, len(shown), len(sequences), compare),
        "note": note,
        "runs": [
            {"label": run.label, "color": color, "means": mean_scores(own)}
            for run, color, own in zip(runs, COLORS, _common(scores) if compare else scores, strict=False)
        ],
        "sequences": [
            {"name": s.name, "frames": s.length, "scores": [own.get(s.name) for own in scores]} for s in shown
        ],
    }
    heading = title or (" against " if compare else ", ").join(run.label for run in runs)
    with atomic_file(path) as file:
        for part in _document(heading, overview, shown, runs, pictures):
            file.write(part.encode("utf-8"))
    return Page(path, path.stat().st_size, note)


def _pictured(
    sequences: ListLike[Sequence], scores: list[dict[str, dict[str, float]]], settings: PageSettings, compare: bool
) -> list[Sequence]:
    found = {s.name: s for s in sequences}
    if settings.sequences:
        unknown = next((name for name in settings.sequences if name not in found), None)
        if unknown is not None:
            raise RGBXError(
                f"no run has a sequence {unknown!r} to picture; expected one of {', '.join(list(found)[:8])}"
            )
        return [found[name] for name in dict.fromkeys(settings.sequences)]
    if compare:
        ranked = [d.name for d in compare_scores(*scores)]
    else:
        worst = {name: min(own[name]["SR"] for own in scores if name in own) for own in scores for name in own}
        ranked = sorted(worst, key=lambda name: worst[name])
    ranked += [name for name in found if name not in ranked]
    return [found[name] for name in ranked[: settings.pictured]]


def _common(scores: list[dict[str, dict[str, float]]]) -> list[dict[str, dict[str, float]]]:
    """Keep the scores of the sequences that all runs have: means over different ones cannot be compared."""
    names = set.intersection(*(set(own) for own in scores))
    return [{name: own[name] for name in own if name in names} for own in scores]


def _summary(
    runs: ListLike[Run], scores: list[dict[str, dict[str, float]]], shown: int, opened: int, compare: bool
) -> str:
    parts = [f"{shown} sequence{'' if shown == 1 else 's'}"]
    if opened > shown:
        parts.append(f"{opened - shown} of the data have no result and are left out")
    if compare:
        # Figures that are alike in a tenth of a percent are shown alike.
        changes = [round(1000 * d.of("SR")) for d in compare_scores(*scores)]
        better, worse = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
        parts.append(
            f"success of {runs[1].label} is higher on {better}, lower on {worse}, the same on "
            f"{len(changes) - better - worse}"
        )
    return "; ".join(parts)


def _note(sequences: ListLike[Sequence], pictures: dict[str, Pictures]) -> str:
    scored = (
        "Success is the mean over thresholds of the share of frames with a larger IoU, precision the share with the "
        "center within 20 pixels, both by LasHeR's rules over the frames that have a ground truth."
    )
    if not pictures:
        return f"{scored} No pictures."
    panels = {p.size[0] for p in pictures.values()}
    strides = {p.indices[1] - p.indices[0] for p in pictures.values() if len(p.indices) > 1}
    every = max(strides, default=1)
    which = "all sequences" if len(pictures) == len(sequences) else f"{len(pictures)} of {len(sequences)} sequences"
    frames = "every frame" if every == 1 else f"one in {every} frames"
    return f"{scored} Pictures: {which}, {frames}, JPEG, at most {max(panels)} pixels wide a panel."


def _document(
    heading: str,
    overview: dict[str, Any],
    sequences: ListLike[Sequence],
    runs: ListLike[Run],
    pictures: dict[str, Pictures],
) -> Iterator[str]:
    """Return the file in parts, so that not all of a large one is in memory twice."""
    assets = importlib.resources.files("tracker.viewing")
    template = (assets / "page.html").read_text(encoding="utf-8")
    before, after = template.split("{{data}}")
    style = (assets / "page.css").read_text(encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    yield before.replace("{{title}}", html.escape(heading)).replace("{{style}}", style)
    yield _embedded("page", overview)
    for index, sequence in enumerate(sequences):
        yield _embedded(f"sequence-{index}", _sequence_data(sequence, runs, pictures.get(sequence.name)))
    yield after.replace("{{script}}", script)


def _embedded(name: str, content: dict[str, Any]) -> str:
    # A name with "</script>" in it must not end the element.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _sequence_data(sequence: Sequence, runs: ListLike[Run], pictures: Pictures | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": sequence.name,
        "modality": sequence.modality,
        "panels": 1 if sequence.rgb_only else 2,
        "frames": sequence.length,
        "origin": int(sequence.origin),
        "annotated": has_truth(sequence),
        "truth": _boxes(sequence.boxes),
        "runs": [_record_data(run.records.get(sequence.name), sequence) for run in runs],
        "pictures": None,
    }
    if pictures is None:
        content["frame"] = sequence.frame(0).shape[1::-1]
    else:
        content["pictures"] = {
            "indices": pictures.indices,
            "frame": pictures.frame_size,
            "images": [base64.b64encode(image).decode("ascii") for image in pictures.images],
        }
    return content


def _record_data(record: Record | None, sequence: Sequence) -> dict[str, Any] | None:
    if record is None:
        return None
    errors = FrameErrors.of(record, sequence)
    return {
        "boxes": _boxes(record.boxes),
        "iou": _numbers(errors.iou),
        "distance": _numbers(errors.distance),
        "confidence": None if record.confidence is None else _numbers(record.confidence),
        "lost": None if record.lost is None else [int(flag) for flag in record.lost],
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Round to four decimals: one more than is shown."""
    return [value if math.isfinite(value) else None for value in np.round(values, 4).tolist()]


def _boxes(boxes: np.ndarray) -> list[list[float] | None]:
    whole = np.isfinite(boxes).all(axis=1).tolist()
    return [box if ok else None for box, ok in zip(np.round(boxes, 4).tolist(), whole, strict=True)]
