"""Runs over whole data sets: several sequences in one batch, results on disk, resumable."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence as ListLike
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.evaluation.results import read_boxes, read_table, write_boxes, write_table
from tracker.files import write_text
from tracker.inference.engine import Engine, network_fingerprint
from tracker.inference.online import InferenceSettings
from tracker.inference.speed import speed_summary
from tracker.inference.tracking import Track, iterate_tracks

log = logging.getLogger("rgbx")

RUN_FILE = "run.json"
SCORES_FOLDER = "scores"
LOST_SUFFIX = "_lost.txt"


def track_sequences(
    network: nn.Module | Engine,
    sequences: ListLike[Sequence],
    settings: InferenceSettings | None = None,
    *,
    batch: int = 8,
    progress: bool = False,
    label: str = "track",
) -> dict[str, Track]:
    """Track several sequences together in batches: sequence name to its track, in the given order.

    Raises:
        RGBXError: see :func:`track_dataset`.
    """
    return track_dataset(network, sequences, None, settings, batch=batch, progress=progress, label=label)


def track_dataset(
    network: nn.Module | Engine,
    sequences: ListLike[Sequence],
    output: str | Path | None = None,
    settings: InferenceSettings | None = None,
    *,
    batch: int = 8,
    progress: bool = True,
    overwrite: bool = False,
    label: str = "track",
) -> dict[str, Track]:
    """Track a data set and write its results.

    ``output/NAME.txt`` holds one box a frame (``x,y,w,h``, ``%.14f``, in the data set's own coordinates, zeros before
    the first frame). ``output/scores/NAME.txt`` holds the score and the peak, and ``output/NAME_lost.txt`` whether the
    target was lost. ``output/run.json`` holds the network's fingerprint, the settings and the speed
    (:mod:`tracker.inference.speed`). A sequence whose files exist and are complete is read back and not tracked again.

    Args:
        network: a network, or an engine.
        sequences: the data set.
        output: folder; None writes nothing.
        settings: how the network is run.
        batch: sequences that advance together. It changes results by rounding only.
        progress: show a bar over frames with the time left.
        overwrite: track everything again.
        label: name of the tracker in the bar.

    Returns:
        Sequence name to its track, in the order given. A sequence without any usable box is left out, with a warning.

    Raises:
        RGBXError: ``output`` has results of another network or other settings (give another folder, or ``overwrite``);
            two sequences have the same name; no sequence has a usable box; or what
            :func:`tracker.inference.tracking.iterate_tracks` raises.
    """
    settings = settings or InferenceSettings()
    names = [s.name for s in sequences]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RGBXError(f"two sequences are named {min(twice)}; results are filed by name, so they must differ")
    done: dict[str, Track] = {}
    folder = None if output is None else Path(output)
    fingerprint = ""
    if folder is not None:
        bad = next((n for n in names if not n or n in (".", "..") or Path(n).name != n), None)
        if bad is not None:
            raise RGBXError(f"the sequence name {bad!r} cannot name a file; rename its folder")
        fingerprint = network_fingerprint(network)
        if overwrite:
            # Old files must not pass for this run's if it is interrupted and resumed.
            for name in names:
                (folder / f"{name}.txt").unlink(missing_ok=True)
                (folder / SCORES_FOLDER / f"{name}.txt").unlink(missing_ok=True)
                (folder / f"{name}{LOST_SUFFIX}").unlink(missing_ok=True)
            (folder / RUN_FILE).unlink(missing_ok=True)
        else:
            _check_same_run(folder, fingerprint, settings)
            done = {s.name: track for s in sequences if (track := read_track(folder, s)) is not None}
        folder.mkdir(parents=True, exist_ok=True)
        _write_run(folder, fingerprint, settings, [])
    todo = [s for s in sequences if s.name not in done]
    found = {s.name: s for s in todo}
    total = sum(s.length for s in sequences)
    fresh: list[Track] = []
    with tqdm(
        total=total,
        initial=total - sum(s.length for s in todo),
        desc=label,
        unit="frame",
        disable=not progress,
    ) as bar:
        tracks = iterate_tracks(network, todo, settings, batch=batch, progress=bar, unusable=_leave_out)
        for track in tracks:
            done[track.name] = track
            fresh.append(track)
            if folder is not None:
                write_track(folder, found[track.name], track)
    if folder is not None:
        _write_run(folder, fingerprint, settings, fresh)
    if names and not done:
        raise RGBXError(f"none of the {len(names)} sequences has a usable box to start from; nothing was tracked")
    return {name: done[name] for name in names if name in done}


def _leave_out(name: str, error: RGBXError) -> None:
    log.warning("%s is left out: %s", name, error)


def write_track(folder: Path, sequence: Sequence, track: Track) -> None:
    """Write results in the coordinates of the sequence's own annotation file, see :func:`write_results`."""
    write_results(folder, track, sequence.origin)


def write_results(folder: Path, track: Track, origin: float = 0.0) -> None:
    """Write scores and whether the target was lost (0 or 1), then boxes: a whole box file means that all are.

    ``origin`` is what the first pixel is called.
    """
    boxes = track.boxes.copy()
    boxes[:, :2] += origin
    scores = np.nan_to_num(np.stack([track.scores, track.peaks], axis=1))
    write_table(folder / SCORES_FOLDER / f"{track.name}.txt", scores)
    if track.lost is not None:
        write_table(folder / f"{track.name}{LOST_SUFFIX}", track.lost[:, None])
    write_boxes(folder / f"{track.name}.txt", boxes)


def read_track(folder: Path, sequence: Sequence) -> Track | None:
    """Read what :func:`write_track` wrote; None where it is absent, not whole, or of another sequence."""
    try:
        boxes = read_boxes(folder / f"{sequence.name}.txt")
        scores = read_table(folder / SCORES_FOLDER / f"{sequence.name}.txt", (2,))
    except RGBXError:
        return None
    if len(boxes) != sequence.length or len(scores) != sequence.length:
        return None
    started = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))  # rows before the first frame are zeros
    if started.size == 0:
        return None
    first = int(started[0])
    boxes[:, :2] -= sequence.origin
    if not np.allclose(boxes[first], sequence.boxes[first], rtol=0, atol=1e-6):
        return None
    boxes[:first] = np.nan
    scores[:first] = np.nan
    lost: np.ndarray | None = None
    with suppress(RGBXError):  # runs of earlier versions have none
        lost = read_table(folder / f"{sequence.name}{LOST_SUFFIX}", (1,))[:, 0] > 0
    if lost is not None and len(lost) != sequence.length:
        return None
    return Track(sequence.name, boxes, scores[:, 0], scores[:, 1], first, float("nan"), lost)


def _check_same_run(folder: Path, fingerprint: str, settings: InferenceSettings) -> None:
    try:
        before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(folder.glob("*.txt")):
            raise RGBXError(
                f"{folder} has result files but no {RUN_FILE} that says what made them; give an "
                f"empty folder, or "
                "ask to overwrite"
            ) from None
        return
    except (OSError, ValueError):
        raise RGBXError(f"{folder / RUN_FILE} cannot be read; give another folder, or overwrite") from None
    # Settings that a run of an earlier version does not name were what they are by default.
    same = before.get("network") == fingerprint and isinstance(before.get("settings"), dict)
    if not same or {**asdict(InferenceSettings()), **before["settings"]} != asdict(settings):
        raise RGBXError(
            f"{folder} holds results of another network or of other settings; give another folder, or ask to overwrite"
        )


def _write_run(folder: Path, fingerprint: str, settings: InferenceSettings, tracks: list[Track]) -> None:
    path = folder / RUN_FILE
    content: dict[str, object] = {"network": fingerprint, "settings": asdict(settings)}
    speed = speed_summary(tracks)
    if speed:
        content |= {"fps": speed["fps"], "speed": speed}
    elif path.is_file():
        with suppress(ValueError, TypeError):
            before = json.loads(path.read_text(encoding="utf-8"))
            content |= {key: before[key] for key in ("fps", "speed") if key in before}
    write_json(path, content)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1))
