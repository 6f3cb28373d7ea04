"""Runs on a stream of frames as they come: videos, cameras, with a picture of the run while it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from torch import nn
from tqdm import tqdm

from tracker.files import atomic_path
from tracker.inference.dataset_run import write_json, write_results
from tracker.inference.engine import Engine
from tracker.inference.frame_source import DroppedSource, FrameSource
from tracker.inference.online import InferenceSettings
from tracker.inference.overlay import VideoWriter, draw_tracked
from tracker.inference.speed import speed_summary
from tracker.inference.tracking import Recorder, Select, Track, Tracked, Watch, iterate_tracks

SPEED_FILE = "speed.json"
USUAL_FPS = 25.0
"""Of an overlay, where the source does not tell its own."""


def track_stream(
    network: nn.Module | Engine,
    source: FrameSource,
    init_box: object | None = None,
    settings: InferenceSettings | None = None,
    *,
    select: Select | None = None,
    output: str | Path | None = None,
    overlay: bool = False,
    drop_rgb: Iterable[range] = (),
    drop_x: Iterable[range] = (),
    most_frames: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> Track:
    """Track from the first frame on, until the source ends, ``watch`` says so, or Ctrl-C.

    A half that is missing gets a stand-in (``settings.missing``); where both are, the box stays. Whatever ends the run,
    what has been tracked is written: the files of :func:`tracker.inference.dataset_run.write_results`, ``speed.json``
    and, where asked for, ``overlay.mp4``, which is written while the run goes on.

    Args:
        network: a network, or an engine.
        source: the frames.
        init_box: ``x, y, w, h`` in the first frame that has an image, first pixel 0.
        settings: how the network is run.
        select: called for the box if ``init_box`` is None, with (H, W, 3) of that frame.
        output: folder; None writes nothing.
        overlay: write ``overlay.mp4`` there.
        drop_rgb: frames whose RGB is removed for a trial.
        drop_x: the same for X.
        most_frames: stop after so many.
        watch: called with every frame once it is tracked. False ends the run.
        progress: show a bar with frames per second and, if the source has an end, the time left.

    Returns:
        The track; frames before the first image count as frames before the target's.

    Raises:
        RGBXError: no box to start from, no image at all, or what
            :func:`tracker.inference.tracking.iterate_tracks` raises.
    """
    drop_rgb, drop_x = list(drop_rgb), list(drop_x)
    frames = DroppedSource(source, drop_rgb, drop_x) if drop_rgb or drop_x else source
    folder = None if output is None else Path(output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    writer = _Overlay(folder / "overlay.mp4", source) if overlay and folder is not None else None
    recorders: list[Recorder] = []

    def shown(tracked: Tracked) -> object:
        if writer is not None:
            writer.add(tracked)
        return watch is None or watch(tracked)

    total = source.length if most_frames is None else min(most_frames, source.length or most_frames)
    try:
        with (
            suppress(KeyboardInterrupt),
            tqdm(total=total, desc=source.name, unit="frame", disable=not progress) as bar,
        ):
            tracks = iterate_tracks(
                network,
                [frames],
                settings,
                batch=1,
                progress=bar,
                init_box=init_box,
                select=select,
                most_frames=most_frames,
                watch=shown,
                started=recorders.append,
            )
            for _ in tracks:
                pass
    finally:
        track = recorders[0].track() if recorders else None
        if writer is not None:
            writer.close(keep=track is not None)
        if folder is not None and track is not None:
            write_results(folder, track)
            write_json(folder / SPEED_FILE, speed_summary([track]))
    if track is None:
        raise KeyboardInterrupt  # before any target was taken: there is nothing to keep
    return track


class _Discarded(Exception):
    """A picture of a run that found nothing to track."""


class _Overlay:
    """An MP4 that is there once it is whole, also where an error ends the run."""

    def __init__(self, path: Path, source: FrameSource) -> None:
        self._file = atomic_path(path)
        self._writer = VideoWriter(self._file.__enter__(), source.fps or USUAL_FPS)

    def add(self, tracked: Tracked) -> None:
        image = draw_tracked(tracked)
        if image is not None:
            self._writer.add(image)

    def close(self, keep: bool) -> None:
        self._writer.close()
        with suppress(_Discarded):
            self._file.__exit__(*((None, None, None) if keep else (_Discarded, _Discarded(), None)))
