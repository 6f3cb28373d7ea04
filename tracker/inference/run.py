"""Whole sequences and data sets: several at once in one batch, results on disk, resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as ListLike
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from torch import nn
from tqdm import tqdm

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError
from tracker.evaluation.results import read_boxes, read_table, write_boxes, write_table
from tracker.files import write_text
from tracker.inference.engine import Engine, as_engine, evaluation_mode, network_fingerprint, network_sizes
from tracker.inference.missing import Frame, available
from tracker.inference.online import (
    InferenceSettings,
    Result,
    TargetState,
    advance,
    start_target,
)
from tracker.inference.speed import speed_summary

RUN_FILE = "run.json"
SCORES_FOLDER = "scores"
LOST_SUFFIX = "_lost.txt"
Watch = Callable[[Sequence, int, "np.ndarray | Frame", Result], object]
"""Called with every frame once it is tracked: the sequence, the frame's index, the frame and the answer."""


@dataclass(frozen=True)
class Track:
    """One tracker on one sequence of N frames.

    Attributes:
        name: the sequence.
        boxes: (N, 4) float64 ``x, y, w, h`` in the sequence's pixels; NaN before the first frame.
        scores: (N,) confidence, see :class:`tracker.inference.online.Result`; 1 in the first frame, NaN
            before it.
        peaks: (N,) the same without the window.
        first: index of the frame in which the target was given: the first in which it is present.
        seconds: time spent cropping and in the network (its share of it, where sequences ran together);
            reading frames is not counted. NaN for a track read from disk.
    """

    name: str
    boxes: np.ndarray
    scores: np.ndarray
    peaks: np.ndarray
    first: int
    seconds: float
    lost: np.ndarray | None = None
    """(N,) bool: the tracker took the target for lost; None where that is not known."""
    latencies: np.ndarray | None = None
    """(N,) seconds from having a frame to having its box (of the whole batch, where sequences ran together); NaN up to
    the first frame."""
    decoding: np.ndarray | None = None
    """(N,) seconds that reading a frame took, in a thread of its own."""

    @property
    def fps(self) -> float:
        """Frames tracked per second."""
        return (len(self.boxes) - self.first) / max(self.seconds, 1e-9)


@dataclass
class Recorder:
    """A track that is being made, of ``count`` frames or of any number."""

    name: str
    first: int
    results: list[Result] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def record(self, result: Result, latency: float, decoding: float) -> None:
        self.results.append(result)
        self.latencies.append(latency)
        self.decoding.append(decoding)

    def track(self) -> Track:
        """What has been recorded, behind ``first`` frames without anything."""

        def column(values: ListLike[object], before: object, dtype: type) -> np.ndarray:
            return np.array([before] * self.first + list(values), dtype=dtype)

        boxes = np.concatenate([np.full((self.first, 4), np.nan), np.stack([r.box for r in self.results])])
        return Track(
            self.name,
            boxes,
            column([r.score for r in self.results], np.nan, float),
            column([r.peak for r in self.results], np.nan, float),
            self.first,
            self.seconds,
            column([r.lost for r in self.results], False, bool),
            column(self.latencies, np.nan, float),
            column(self.decoding, np.nan, float),
        )


@dataclass
class _Run:
    """A sequence on its way."""

    sequence: Sequence
    index: int
    target: TargetState
    recorder: Recorder
    upcoming: Future[tuple[np.ndarray | Frame, float]] | None = field(default=None, repr=False)


def _timed_frame(sequence: Sequence, index: int) -> tuple[np.ndarray | Frame, float]:
    start = time.perf_counter()
    frame = available(sequence, index)
    return frame, time.perf_counter() - start


def first_frame(sequence: Sequence) -> int:
    """Index of the first frame in which the target is present; tracking starts there.

    Raises:
        RGBXError: it never is.
    """
    present = np.flatnonzero(sequence.present)
    if present.size == 0:
        raise RGBXError(
            f"sequence {sequence.name} has no frame with a box; the tracker needs one to start from (x, y, w, h)"
        )
    return int(present[0])


def _begin(sequence: Sequence, template_size: int, settings: InferenceSettings, init_box: object | None) -> _Run:
    if init_box is not None and sequence.length == 0:
        raise RGBXError(f"sequence {sequence.name} has no frames")
    first = first_frame(sequence) if init_box is None else 0
    frame, decoding = _timed_frame(sequence, first)
    box = sequence.boxes[first] if init_box is None else init_box
    start = time.perf_counter()
    try:
        target = start_target(frame, box, template_size, settings)
    except RGBXError as error:
        raise RGBXError(f"sequence {sequence.name}, frame {first}: {error}") from error
    recorder = Recorder(sequence.name, first, seconds=time.perf_counter() - start)
    recorder.record(Result(target.box, 1.0, 1.0), np.nan, decoding)
    return _Run(sequence, first + 1, target, recorder)


def iterate_tracks(
    network: nn.Module | Engine,
    sequences: Iterable[Sequence],
    settings: InferenceSettings | None = None,
    *,
    batch: int = 8,
    progress: tqdm[NoReturn] | None = None,
    init_box: object | None = None,
    watch: Watch | None = None,
) -> Iterator[Track]:
    """Track sequences in lock step and yield each as it ends (so not in order, if lengths differ).

    Up to ``batch`` sequences advance by one frame in one forward pass; when one ends, the next takes its
    place. The following frames are read by other threads meanwhile.

    Args:
        sequences: taken one at a time.
        progress: advanced by the frames tracked.
        init_box: the target in frame 0, in place of the first box of each sequence.
        watch: shown what was found in every frame after the first; the time that it takes is not counted.

    Raises:
        RGBXError: a sequence without a usable first box, or an unreadable frame.
    """
    if batch < 1:
        raise RGBXError(f"batch is {batch}; at least one sequence has to be tracked at a time")
    settings = settings or InferenceSettings()
    engine = as_engine(network, settings.window)
    template_size = network_sizes(network)[0]
    waiting = iter(sequences)
    running: list[_Run] = []
    with ExitStack() as stack:
        reader = stack.enter_context(ThreadPoolExecutor(max_workers=min(batch, os.cpu_count() or 1)))
        stack.enter_context(evaluation_mode(network))
        exhausted = False
        while True:
            while not exhausted and len(running) < batch:
                sequence = next(waiting, None)
                if sequence is None:
                    exhausted = True
                    break
                run = _begin(sequence, template_size, settings, init_box)
                _advance_progress(progress, run.index)
                if run.index == sequence.length:
                    yield run.recorder.track()
                    continue
                run.upcoming = reader.submit(_timed_frame, sequence, run.index)
                running.append(run)
            if not running:
                return
            read = []
            for run in running:
                assert run.upcoming is not None
                read.append(run.upcoming.result())
            for run in running:
                more = run.index + 1 < run.sequence.length
                run.upcoming = reader.submit(_timed_frame, run.sequence, run.index + 1) if more else None
            start = time.perf_counter()
            results = advance(engine, [run.target for run in running], [frame for frame, _ in read], settings)
            taken = time.perf_counter() - start
            for run, result, (frame, decoding) in zip(running, results, read, strict=True):
                run.recorder.record(result, taken, decoding)
                run.recorder.seconds += taken / len(running)
                if watch is not None:
                    watch(run.sequence, run.index, frame, result)
                run.index += 1
            _advance_progress(progress, len(running))
            ended = [run for run in running if run.upcoming is None]
            running = [run for run in running if run.upcoming is not None]
            for run in ended:
                yield run.recorder.track()


def _advance_progress(progress: tqdm[NoReturn] | None, frames: int) -> None:
    if progress is not None:
        progress.update(frames)


def track_sequence(
    network: nn.Module | Engine,
    sequence: Sequence,
    settings: InferenceSettings | None = None,
    *,
    init_box: object | None = None,
    progress: bool = False,
    watch: Watch | None = None,
) -> Track:
    """Track one sequence from the first frame in which its target is present.

    Args:
        init_box: ``x, y, w, h`` of the target in frame 0, for sequences without boxes.
        progress: show a bar with frames per second and time left.
        watch: shown what was found in every frame after the first.

    Raises:
        RGBXError: no box to start from, a first box outside the image, or an unreadable frame.
    """
    with tqdm(total=sequence.length, desc=sequence.name, unit="frame", disable=not progress) as bar:
        tracks = iterate_tracks(network, [sequence], settings, batch=1, progress=bar, init_box=init_box, watch=watch)
        return next(tracks)


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
        RGBXError: two sequences of one name, or what :func:`iterate_tracks` raises.
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

    ``output/NAME.txt`` holds one box a frame (``x,y,w,h``, ``%.14f``, in the data set's own coordinates,
    zeros before the first frame), ``output/scores/NAME.txt`` the score and the peak, ``output/run.json``
    the network's fingerprint, the settings and the speed (:mod:`tracker.inference.speed`), ``output/NAME_lost.txt``
    whether the target was lost. A sequence whose files are there and whole is read back and not tracked again.

    Args:
        output: folder; None writes nothing.
        batch: sequences that advance together. It changes results by rounding only.
        progress: a bar over frames with time left.
        overwrite: track everything again.

    Returns:
        Sequence name to its track, in the order given.

    Raises:
        RGBXError: results of another network or other settings are in ``output`` (give another folder, or
            ``overwrite``); two sequences of one name; what :func:`iterate_tracks` raises.
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
        for track in iterate_tracks(network, todo, settings, batch=batch, progress=bar):
            done[track.name] = track
            fresh.append(track)
            if folder is not None:
                write_track(folder, found[track.name], track)
    if folder is not None:
        _write_run(folder, fingerprint, settings, fresh)
    return {name: done[name] for name in names}


def write_track(folder: Path, sequence: Sequence, track: Track) -> None:
    """:func:`write_results` in the coordinates of the sequence's own annotation file."""
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
    """What :func:`write_track` wrote, or None where it is absent, not whole, or of another sequence."""
    try:
        boxes = read_boxes(folder / f"{sequence.name}.txt")
        scores = read_table(folder / SCORES_FOLDER / f"{sequence.name}.txt", (2,))
    except RGBXError:
        return None
    first = first_frame(sequence)
    if len(boxes) != sequence.length or len(scores) != sequence.length:
        return None
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
    """Write it whole or not at all."""
    write_text(path, json.dumps(content, indent=1))
