"""Runs on a folder of paired frames: results, scores, figures where boxes are known, and a picture of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tracker.data.layouts import open_sequence
from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.evaluation.lasher import LasHeROptions
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import evaluate
from tracker.evaluation.report import write_report
from tracker.inference.dataset_run import write_json, write_track
from tracker.inference.engine import Engine
from tracker.inference.missing import DroppedSequence
from tracker.inference.online import InferenceSettings
from tracker.inference.overlay import write_overlay
from tracker.inference.speed import speed_summary
from tracker.inference.stream_run import SPEED_FILE
from tracker.inference.tracking import Track, Watch, no_boxes, track_sequence


@dataclass(frozen=True)
class FolderRun:
    """What :func:`track_folder` did.

    Attributes:
        sequence: the frames.
        tracks: label to track.
        metrics: one a tracker, PR, NPR and SR over the frames that have a box; empty where no frame but
            the first has one.
        files: what was written.
        speed: label to :func:`tracker.inference.speed.speed_summary`.
    """

    sequence: Sequence
    tracks: dict[str, Track]
    metrics: list[Metrics]
    files: list[Path]
    speed: dict[str, dict[str, object]] = field(default_factory=dict)


def track_folder(
    folder: str | Path,
    networks: nn.Module | Engine | Mapping[str, nn.Module | Engine],
    output: str | Path,
    *,
    layout: str = "auto",
    init_box: object | None = None,
    settings: InferenceSettings | None = None,
    overlay: str | None = "gif",
    drop_rgb: Iterable[range] = (),
    drop_x: Iterable[range] = (),
    progress: bool = True,
    watch: Watch | None = None,
    label: str = "tracker",
) -> FolderRun:
    """Run one or several trackers on one folder of paired frames.

    It writes ``NAME.txt``, ``scores/NAME.txt``, ``NAME_lost.txt`` and ``speed.json`` into ``output`` (into a folder for
    each label if a mapping is given), ``overlay.gif`` or ``overlay.mp4``, and, if there are boxes to compare with, the
    report of :func:`tracker.evaluation.report.write_report`. Frames without a box are left out of the figures
    (``absent="excluded"``), because a folder may have annotations for some frames only.

    Args:
        folder: see :func:`tracker.data.layouts.open_sequence`.
        networks: a network or an engine, or label to network.
        output: folder of what is written.
        layout: see :func:`tracker.data.layouts.open_sequence`.
        init_box: ``x, y, w, h`` in frame 0, first pixel 0. It is needed if the folder has no boxes, and replaces the
            folder's own first box.
        settings: how the networks are run.
        overlay: ``gif``, ``mp4`` or None.
        drop_rgb: frames whose RGB is removed for a trial. The overlay shows it black.
        drop_x: the same for X.
        progress: show a bar with frames per second and time left.
        watch: called with what each tracker found in every frame. False ends its run.
        label: name of a single network in figures and pictures.

    Raises:
        RGBXError: frames, boxes or settings that cannot be used.
    """
    if overlay not in (None, "gif", "mp4"):
        raise RGBXError(f"overlay {overlay!r} is unknown; expected gif, mp4 or none")
    sequence: Sequence = open_sequence(
        Path(folder), layout, (settings or InferenceSettings()).rendering, faulty_boxes="keep"
    )
    drop_rgb, drop_x = list(drop_rgb), list(drop_x)
    if drop_rgb or drop_x:
        sequence = DroppedSequence(sequence, drop_rgb, drop_x)
    if init_box is None and not sequence.present.any():
        raise no_boxes(folder)
    output = Path(output)
    several = isinstance(networks, Mapping)
    named: Mapping[str, nn.Module | Engine] = networks if isinstance(networks, Mapping) else {label: networks}
    bad = next((n for n in named if not n or n in (".", "..") or Path(n).name != n), None)
    if bad is not None:
        raise RGBXError(f"the label {bad!r} cannot name a folder; use letters, digits and dashes")
    tracks: dict[str, Track] = {}
    files: list[Path] = []
    speed: dict[str, dict[str, object]] = {}
    for label, network in named.items():
        tracks[label] = track_sequence(network, sequence, settings, init_box=init_box, progress=progress, watch=watch)
        place = output / label if several else output
        write_track(place, sequence, tracks[label])
        speed[label] = speed_summary([tracks[label]])
        write_json(place / SPEED_FILE, speed[label])
        files += [place / f"{sequence.name}.txt", place / "scores" / f"{sequence.name}.txt", place / SPEED_FILE]
    metrics = []
    if int(sequence.present.sum()) > 1:
        options = LasHeROptions(absent="excluded")
        metrics = [
            evaluate([sequence], {sequence.name: track}, tracker=label, options=options, speed=track.fps)
            for label, track in tracks.items()
        ]
        files += write_report(metrics, output).values()
    if overlay is not None:
        files.append(write_overlay(output / f"overlay.{overlay}", sequence, tracks))
    return FolderRun(sequence, tracks, metrics, files, speed)
