"""Track one target in a stream of frames as they come: videos, cameras, with a picture of it while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as ListLike
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from tracker.data.sequence import join_halves
from tracker.errors import RGBXError
from tracker.inference.engine import Engine
from tracker.inference.missing import Frame, as_halves, without
from tracker.inference.online import InferenceSettings, OnlineTracker, Result
from tracker.inference.overlay import Mark, VideoWriter, compose_frame
from tracker.inference.run import Recorder, Track, write_json, write_results
from tracker.inference.sources import FrameSource
from tracker.inference.speed import speed_summary

SPEED_FILE = "speed.json"
USUAL_FPS = 25.0
"""Of an overlay, where the source does not tell its own."""


@dataclass(frozen=True)
class Tracked:
    """One frame of a stream and what was found in it.

    Attributes:
        index: of the frame, from 0.
        frame: (H, W, 6) uint8, black where RGB or X is missing.
        result: the tracker's answer.
    """

    index: int
    frame: np.ndarray
    result: Result


def picture(frame: np.ndarray | Frame) -> np.ndarray | None:
    """The frame for people to look at: (H, W, 6) uint8, black in place of a missing half; None without any."""
    halves = as_halves(frame)
    given = next((half for half in halves if half is not None), None)
    if given is None:
        return None
    rgb, x = (np.zeros_like(given) if half is None else half for half in halves)
    return join_halves(rgb, x)


def first_image(frame: np.ndarray | Frame) -> np.ndarray:
    """RGB, or X where there is none: what a box is drawn in."""
    return next(half for half in as_halves(frame) if half is not None)


def draw(tracked: Tracked, source: FrameSource) -> np.ndarray:
    """The frame with its box: (height, width, 3) uint8, see :func:`tracker.inference.overlay.compose_frame`."""
    return compose_frame(
        tracked.frame,
        [Mark("tracker", tracked.result.box, tracked.result.score, tracked.result.lost)],
        title=source.name,
        counter=f"{tracked.index + 1}" + ("" if source.length is None else f" / {source.length}"),
        modality=source.modality,
    )


def track_stream(
    network: nn.Module | Engine,
    source: FrameSource,
    init_box: object | None = None,
    settings: InferenceSettings | None = None,
    *,
    select: Callable[[np.ndarray], object] | None = None,
    output: str | Path | None = None,
    overlay: bool = False,
    drop_rgb: Iterable[range] = (),
    drop_x: Iterable[range] = (),
    most_frames: int | None = None,
    watch: Callable[[Tracked], bool] | None = None,
    progress: bool = True,
) -> Track:
    """Track from the first frame on, until the source ends, ``watch`` says so, or Ctrl-C.

    A half that is missing gets a stand-in (``settings.missing``); where both are, the box stays. Whatever ends the run,
    what has been tracked is written: the files of :func:`tracker.inference.run.write_track`, ``speed.json`` and, where
    asked for, ``overlay.mp4``, which is written while the run goes on.

    Args:
        init_box: ``x, y, w, h`` in the first frame that has an image, first pixel 0.
        select: asked for the box where ``init_box`` is None, with (H, W, 3) of that frame.
        output: folder; None writes nothing.
        drop_rgb, drop_x: frames whose RGB or X is taken away, to see what comes of it.
        most_frames: stop after as many.
        watch: shown every frame once it is tracked; False ends the run.
        progress: a bar with frames per second and, where the source has an end, time left.

    Returns:
        The track; frames before the first image count as frames before the target's.

    Raises:
        RGBXError: no box to start from, no image at all, or what :class:`OnlineTracker` raises.
    """
    settings = settings or InferenceSettings()
    spans = (list(drop_rgb), list(drop_x))
    tracker = OnlineTracker(network, settings)
    recorder: Recorder | None = None
    folder = None if output is None else Path(output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    writer = _Overlay(folder / "overlay.mp4", source) if overlay and folder is not None else None
    frames = islice(_timed(source, spans), most_frames)
    total = source.length if most_frames is None else min(most_frames, source.length or most_frames)
    try:
        with (
            suppress(KeyboardInterrupt),
            tqdm(total=total, desc=source.name, unit="frame", disable=not progress) as bar,
        ):
            for index, (frame, decoding) in enumerate(frames):
                shown = picture(frame)
                if recorder is None:
                    bar.update()
                    if shown is None:
                        continue
                    box = init_box
                    if box is None and select is not None:
                        box = select(first_image(frame))
                    if box is None:
                        raise RGBXError(f"{source.name} has no boxes; give the target in the first frame as x,y,w,h")
                    start = time.perf_counter()
                    tracker.initialize(frame, box)
                    recorder = Recorder(source.name, index, seconds=time.perf_counter() - start)
                    result, taken = Result(np.array(box, dtype=np.float64), 1.0, 1.0), float("nan")
                else:
                    start = time.perf_counter()
                    result = tracker.track(frame)
                    taken = time.perf_counter() - start
                    recorder.seconds += taken
                    bar.update()
                recorder.record(result, taken, decoding)
                if shown is not None:
                    if writer is not None:
                        writer.add(Tracked(index, shown, result))
                    if watch is not None and not watch(Tracked(index, shown, result)):
                        break
        if recorder is None:
            raise RGBXError(f"{source.name} has no image that can be read; there is nothing to track in")
    finally:
        track = None if recorder is None else recorder.track()
        if writer is not None:
            writer.close(keep=track is not None)
        if folder is not None and track is not None:
            write_results(folder, track)
            write_json(folder / SPEED_FILE, speed_summary([track]))
    assert track is not None
    return track


def _timed(
    source: FrameSource, spans: tuple[ListLike[range], ListLike[range]]
) -> Iterator[tuple[np.ndarray | Frame, float]]:
    start, index = time.perf_counter(), 0
    for frame in source:
        taken = time.perf_counter() - start
        dropped = [any(index in span for span in each) for each in spans]
        yield without(frame, *dropped), taken
        start, index = time.perf_counter(), index + 1


class _Overlay:
    """An MP4 that is there once it is whole."""

    def __init__(self, path: Path, source: FrameSource) -> None:
        self.path, self.source = path, source
        self.partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        self.writer = VideoWriter(self.partial, source.fps or USUAL_FPS)

    def add(self, tracked: Tracked) -> None:
        self.writer.add(draw(tracked, self.source))

    def close(self, keep: bool) -> None:
        self.writer.close()
        if keep and self.partial.is_file():
            os.replace(self.partial, self.path)
        self.partial.unlink(missing_ok=True)
