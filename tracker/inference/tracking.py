"""The tracking loop: one or several sources of frames advance together, one frame each in a forward pass."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as ListLike
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from torch import nn
from tqdm import tqdm

from tracker.data.sequence import Sequence, join_halves
from tracker.errors import RGBXError
from tracker.inference.engine import Engine, as_engine, evaluation_mode, network_sizes
from tracker.inference.frame_source import FrameSource, SequenceSource
from tracker.inference.missing import Frame, as_halves
from tracker.inference.online import (
    InferenceSettings,
    Result,
    TargetState,
    UnusableStart,
    advance,
    start_target,
)

log = logging.getLogger("rgbx")


@dataclass(frozen=True)
class Tracked:
    """One frame and what was found in it.

    Attributes:
        source: where the frame is from.
        index: of the frame, from 0.
        frame: (H, W, 6) uint8, or the halves that there are.
        result: the tracker's answer.
    """

    source: FrameSource
    index: int
    frame: np.ndarray | Frame
    result: Result


Watch = Callable[[Tracked], object]
"""Shown every frame once it is tracked, the first one too. The answer False ends the tracking of its source."""


@dataclass(frozen=True)
class Track:
    """One tracker on N frames.

    Attributes:
        name: of the sequence or source.
        boxes: (N, 4) float64 ``x, y, w, h`` in pixels of the frames; NaN before the first frame.
        scores: (N,) confidence, see :class:`tracker.inference.online.Result`; 1 in the first frame, NaN before it.
        peaks: (N,) the same without the window.
        first: index of the frame in which the target was given: the first in which it has a usable box.
        seconds: time spent cropping and in the network (its share of it, where sequences ran together); reading
            frames is not counted. NaN for a track read from disk.
        lost: (N,) bool: the tracker took the target for lost; None where that is not known.
        latencies: (N,) seconds from having a frame to having its box (of the whole batch, where sequences ran
            together); NaN up to the first frame.
        decoding: (N,) seconds that reading a frame took, in a thread of its own.
    """

    name: str
    boxes: np.ndarray
    scores: np.ndarray
    peaks: np.ndarray
    first: int
    seconds: float
    lost: np.ndarray | None = None
    latencies: np.ndarray | None = None
    decoding: np.ndarray | None = None

    @property
    def fps(self) -> float:
        """The number of frames tracked per second."""
        return (len(self.boxes) - self.first) / max(self.seconds, 1e-9)


@dataclass
class Recorder:
    """A track that is being made, of any number of frames.

    Attributes:
        name: of the sequence or source.
        first: index of the frame in which the target was given.
        results: of every frame since.
        latencies, decoding, seconds: see :class:`Track`.
    """

    name: str
    first: int
    results: list[Result] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def record(self, result: Result, latency: float, decoding: float) -> None:
        """Append one frame."""
        self.results.append(result)
        self.latencies.append(latency)
        self.decoding.append(decoding)

    def track(self) -> Track:
        """Return what has been recorded, behind ``first`` frames without anything."""

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


Read = tuple["np.ndarray | Frame", float]
"""A frame and the seconds that reading it took."""


def _next_frame(frames: Iterator[np.ndarray | Frame]) -> Read | None:
    start = time.perf_counter()
    frame = next(frames, None)
    return None if frame is None else (frame, time.perf_counter() - start)


@dataclass
class _Run:
    """A source on its way: frame ``index`` is the next one to be tracked in."""

    source: FrameSource
    frames: Iterator[np.ndarray | Frame]
    index: int
    target: TargetState
    recorder: Recorder
    upcoming: Future[Read | None] | None = field(default=None, repr=False)

    def read_ahead(self, reader: ThreadPoolExecutor) -> None:
        """Have the next frame read by another thread, but for live sources, whose frames would be old by their turn."""
        if not self.source.live:
            self.upcoming = reader.submit(_next_frame, self.frames)

    def read(self) -> Read | None:
        """Return the next frame; None at the end."""
        upcoming, self.upcoming = self.upcoming, None
        return _next_frame(self.frames) if upcoming is None else upcoming.result()


Select = Callable[[np.ndarray], object]
"""Asked for the target's box in an image, (H, W, 3) uint8."""


@dataclass(frozen=True)
class _Start:
    """How a target is taken."""

    template_size: int
    settings: InferenceSettings
    init_box: object | None
    select: Select | None

    def begin(self, source: FrameSource) -> tuple[_Run, np.ndarray | Frame]:
        """Take the target in the first frame that allows it, which is answered too.

        Raises:
            RGBXError: none does.
        """
        if self.init_box is None and self.select is None:
            return self._at_known_box(source)
        if source.length == 0:
            raise RGBXError(f"sequence {source.name} has no frames")
        frames = source.frames_from(0)
        index = 0
        while (read := _next_frame(frames)) is not None:
            halves = [half for half in as_halves(read[0]) if half is not None]
            if halves:
                box = self.init_box if self.select is None or self.init_box is not None else self.select(halves[0])
                if box is None:
                    raise no_boxes(source.name)
                return self._take(source, frames, index, read, box)
            index += 1
        raise RGBXError(f"{source.name} has no image that can be read; there is nothing to track in")

    def _at_known_box(self, source: FrameSource) -> tuple[_Run, np.ndarray | Frame]:
        refused: RGBXError | None = None
        for index, box in source.known_boxes():
            frames = source.frames_from(index)
            read = _next_frame(frames)
            assert read is not None
            try:
                begun = self._take(source, frames, index, read, box)
            except UnusableStart as error:
                refused = refused or error
                continue
            if refused is not None:
                log.warning("%s; tracking starts in frame %d", refused, index)
            return begun
        if refused is not None:
            raise UnusableStart(f"no box of its annotation can be used: {refused}") from refused
        if source.sequence is None:
            raise no_boxes(source.name)
        raise UnusableStart(
            f"sequence {source.name} has no frame with a box; the tracker needs one to start from (x, y, w, h)"
        )

    def _take(
        self, source: FrameSource, frames: Iterator[np.ndarray | Frame], index: int, read: Read, box: object
    ) -> tuple[_Run, np.ndarray | Frame]:
        frame, decoding = read
        start = time.perf_counter()
        try:
            target = start_target(frame, box, self.template_size, self.settings)
        except RGBXError as error:
            raise type(error)(f"sequence {source.name}, frame {index}: {error}") from error
        recorder = Recorder(source.name, index, seconds=time.perf_counter() - start)
        recorder.record(Result(target.box, 1.0, 1.0), np.nan, decoding)
        return _Run(source, frames, index, target, recorder), frame


def no_boxes(name: object) -> RGBXError:
    """Return the error of a source without a box to start from."""
    return RGBXError(f"{name} has no boxes; give the target in the first frame as x,y,w,h")


def iterate_tracks(
    network: nn.Module | Engine,
    sources: Iterable[Sequence | FrameSource],
    settings: InferenceSettings | None = None,
    *,
    batch: int = 8,
    progress: tqdm[NoReturn] | None = None,
    init_box: object | None = None,
    select: Select | None = None,
    most_frames: int | None = None,
    watch: Watch | None = None,
    started: Callable[[Recorder], object] | None = None,
    unusable: Callable[[str, RGBXError], object] | None = None,
) -> Iterator[Track]:
    """Track sources in lock step and yield each as it ends (so not in order, if lengths differ).

    Up to ``batch`` sources advance by one frame in one forward pass; when one ends, the next takes its place. The
    following frames are read by other threads meanwhile, but for those of live sources.

    Args:
        network: a network, or an engine.
        sources: sequences or other sources, taken one at a time.
        settings: how the network is run.
        batch: sources that advance together.
        progress: advanced by the frames tracked.
        init_box: the target in the first frame that has an image, in place of the first usable box of each source.
        select: asked for that box where ``init_box`` is None.
        most_frames: stop each source after as many frames, counted from its first.
        watch: shown every frame once it is tracked; False ends its source. The time that it takes is not counted.
        started: given the recorder of every source once its target is taken, which holds what there is if the loop is
            interrupted.
        unusable: told of a sequence without any usable box, by name and error, which is passed over then; without it
            the error is raised.

    Raises:
        RGBXError: no box to start from, or a frame that cannot be read.
    """
    if batch < 1:
        raise RGBXError(f"batch is {batch}; at least one sequence has to be tracked at a time")
    settings = settings or InferenceSettings()
    engine = as_engine(network, settings.window)
    start = _Start(network_sizes(network)[0], settings, init_box, select)
    waiting = iter(sources)
    running: list[_Run] = []

    def goes_on(run: _Run, frame: np.ndarray | Frame, result: Result) -> bool:
        """Show a tracked frame and step over it; answer whether the source has another turn."""
        stay = watch is None or watch(Tracked(run.source, run.index, frame, result)) is not False
        run.index += 1
        # What a video's file says of its length is an estimate; a sequence knows its own.
        last = run.source.sequence is not None and run.index == run.source.length
        return stay and not last and (most_frames is None or run.index < most_frames)

    with ExitStack() as stack:
        reader = stack.enter_context(ThreadPoolExecutor(max_workers=min(batch, os.cpu_count() or 1)))
        stack.enter_context(evaluation_mode(network))
        while True:
            while len(running) < batch and (following := next(waiting, None)) is not None:
                source = SequenceSource(following) if isinstance(following, Sequence) else following
                try:
                    run, frame = start.begin(source)
                except UnusableStart as error:
                    if unusable is None:
                        raise
                    unusable(source.name, error)
                    continue
                if started is not None:
                    started(run.recorder)
                _advance_progress(progress, run.index + 1)
                if goes_on(run, frame, run.recorder.results[0]):
                    run.read_ahead(reader)
                    running.append(run)
                else:
                    yield run.recorder.track()
            if not running:
                return
            read = [run.read() for run in running]
            ended = [run for run, found in zip(running, read, strict=True) if found is None]
            turns = [(run, found) for run, found in zip(running, read, strict=True) if found is not None]
            for run, _ in turns:
                run.read_ahead(reader)
            begun = time.perf_counter()
            targets, frames = [run.target for run, _ in turns], [frame for _, (frame, _) in turns]
            results = advance(engine, targets, frames, settings) if turns else []
            taken = time.perf_counter() - begun
            running = []
            for (run, (frame, decoding)), result in zip(turns, results, strict=True):
                run.recorder.record(result, taken, decoding)
                run.recorder.seconds += taken / len(turns)
                (running if goes_on(run, frame, result) else ended).append(run)
            _advance_progress(progress, len(turns))
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
    """Track one sequence from the first frame in which its target has a usable box.

    Args:
        network: a network, or an engine.
        sequence: the frames.
        settings: how the network is run.
        init_box: ``x, y, w, h`` of the target in frame 0, for sequences without boxes.
        progress: show a bar with frames per second and time left.
        watch: shown every frame once it is tracked; False ends the run.

    Raises:
        RGBXError: no box to start from, or an unreadable frame.
    """
    with tqdm(total=sequence.length, desc=sequence.name, unit="frame", disable=not progress) as bar:
        tracks = iterate_tracks(network, [sequence], settings, batch=1, progress=bar, init_box=init_box, watch=watch)
        return next(tracks)


def picture(frame: np.ndarray | Frame) -> np.ndarray | None:
    """Return the frame for people to look at: (H, W, 6) uint8, black in place of a missing half; None without any."""
    halves = as_halves(frame)
    given = next((half for half in halves if half is not None), None)
    if given is None:
        return None
    rgb, x = (np.zeros_like(given) if half is None else half for half in halves)
    return join_halves(rgb, x)
