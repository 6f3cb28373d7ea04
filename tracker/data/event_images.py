"""Making event images of recordings, in the folders and with the names that a layout reads."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracker.data.events import EVENT_STYLES, events_to_image, events_to_stack
from tracker.data.layouts.frames import frame_files, write_image
from tracker.data.layouts.layout import Reading
from tracker.data.layouts.registry import BY_NAME, detect_layout
from tracker.data.layouts.rgbe import COESOT, FE108, Events, recording_of, start_frames
from tracker.data.layouts.splits import sequence_folders
from tracker.data.recordings import RecordedFrame, Recording
from tracker.data.rendering import XStyle
from tracker.errors import RGBXError
from tracker.files import atomic_folder
from tracker.spellings import american


def frame_spans(frames: list[tuple[int, int]], exposure: bool) -> list[tuple[int, int]]:
    """Return the (start, end) of the events that are drawn for each frame, in microseconds.

    Args:
        frames: exposures of the frames, in order.
        exposure: the exposure alone (VisEvent, COESOT); else up to the next frame (FE108), and for the last frame as
            long as for the one before it. An exposure of no length also lasts up to the next frame.
    """
    starts = [start for start, _ in frames]
    intervals = [b - a for a, b in itertools.pairwise(starts)]
    intervals.append(intervals[-1] if intervals else 0)
    spans = []
    for (start, end), interval in zip(frames, intervals, strict=True):
        spans.append((start, end) if exposure and end > start else (start, start + interval))
    return spans


def render_sequence(
    folder: Path,
    layout: str = "auto",
    style: str | None = None,
    first: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path | None:
    """Make a sequence's event images from its recording, and its RGB images where it has none.

    Images get the names of the RGB images. Nothing is left behind unless all of them are written.

    Args:
        folder: the sequence's, with an ``.aedat4`` file in it.
        layout: ``visevent``, ``coesot`` or ``fe108``, or ``auto``.
        style: one of :data:`tracker.data.events.EVENT_STYLES`; by default gray for FE108, color for the others.
        first: index in the recording of the frame that the first image shows; by default what the data set says
            (``pair.txt``, ``start_end_index.txt``, the number in the first image's name) if the numbers differ.
        overwrite: replace event images that exist.
        progress: show a progress bar.

    Returns:
        The folder of event images, or None where it is there already.

    Raises:
        RGBXError: no recording, or one that does not fit the images.
        OSError: the disk.
    """
    form = _form(folder, layout)
    style = american(style or ("gray" if isinstance(form, FE108) else "color"))
    if style not in EVENT_STYLES:
        raise RGBXError(f"event style is {style!r}; expected one of {', '.join(EVENT_STYLES)}")
    source = recording_of(folder)
    if source is None:
        raise RGBXError(f"sequence {folder.name}: {folder} holds no .aedat4 recording to draw events from")
    rgb_name, x_name = form.image_folders(folder)
    naming = form.naming("event")
    target = folder / x_name
    if target.exists() and not overwrite:
        return None
    names = [path.stem for path in frame_files(folder / rgb_name)]
    with contextlib.ExitStack() as stack:
        # Both or neither: what is entered last is renamed first, and only when all of it is written.
        drawn = stack.enter_context(atomic_folder(target))
        taken = None if names else stack.enter_context(atomic_folder(folder / rgb_name))
        recording = Recording(source)
        exposures: list[tuple[int, int]] = []
        for index, frame in enumerate(_shown(recording.frames(), f"{folder.name} frames", progress)):
            exposures.append((frame.start, frame.end))
            if taken is not None:
                write_image(taken / Path(naming.rgb.format(name="", index=naming.first + index)).name, frame.image)
        start = _first(folder, form, names, len(exposures), source, first) if names else 0
        stems = names or [
            Path(naming.rgb.format(name="", index=naming.first + index)).stem for index in range(len(exposures))
        ]
        if naming.x is None or not stems:
            raise RGBXError(f"sequence {folder.name}: {source} holds no frames to draw events for")
        suffix = Path(naming.x).suffix
        spans = frame_spans(exposures, exposure=style == "color")[start : start + len(stems)]
        pairs = list(zip(stems, spans, strict=True))
        for stem, span in tqdm(pairs, desc=f"{folder.name} events", leave=False, disable=not progress):
            x, y, t, polarity = recording.events(*span)
            image: np.ndarray
            if style == "color":
                image = events_to_image(x, y, polarity, recording.size)
            else:
                image = events_to_stack(x, y, t, polarity, recording.size, span)
            write_image(drawn / f"{stem}{suffix}", image)
    return target


def render_dataset(
    root: Path,
    layout: str = "auto",
    split: str | None = None,
    style: str | None = None,
    first: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[list[Path], list[str]]:
    """Call :func:`render_sequence` for every sequence with a recording. One that fails does not stop the others.

    Returns:
        Folders of event images that were written, and a sentence for each sequence that failed.

    Raises:
        RGBXError: as :func:`~tracker.data.layouts.sequence_folders`; or no sequence has a recording.
        OSError: the disk.
    """
    folders = [folder for folder in sequence_folders(root, layout, split) if recording_of(folder) is not None]
    if not folders:
        raise RGBXError(f"no sequence of {root} holds an .aedat4 recording; there is nothing to draw events from")
    written: list[Path] = []
    failed: list[str] = []
    for folder in tqdm(folders, desc="sequences", disable=not progress):
        try:
            target = render_sequence(folder, layout, style, first, overwrite, progress)
        except RGBXError as error:
            failed.append(str(error))
            continue
        if target is not None:
            written.append(target)
    return written, failed


def _shown(frames: Iterator[RecordedFrame], label: str, progress: bool) -> Iterator[RecordedFrame]:
    return iter(tqdm(frames, desc=label, leave=False, disable=not progress))


def _form(folder: Path, layout: str) -> Events:
    name = detect_layout(folder) if layout == "auto" else layout
    form = BY_NAME.get(name or "")
    if not isinstance(form, Events):
        raise RGBXError(
            f"sequence {folder.name} is {name or 'in no known layout'}; events are drawn for visevent, coesot and fe108"
        )
    return form


def _first(folder: Path, form: Events, names: list[str], recorded: int, source: Path, first: int | None) -> int:
    """Return the index of the recording's frame that the first image is."""
    images = len(names)
    guess = first
    if guess is None and recorded == images:
        guess = 0
    if guess is None and isinstance(form, FE108):
        guess = start_frames(folder.parent).get(folder.name)
    if guess is None and isinstance(form, COESOT):
        problems: list[str] = []
        bounds = form.bounds(folder, Reading(XStyle(), problems, []))
        guess = None if bounds is None else bounds[0]
    if guess is None and (number := re.search(r"[0-9]+(?=\D*$)", names[0])):
        guess = int(number.group()) - form.naming("event").first
    if guess is None or guess < 0 or guess + images > recorded:
        raise RGBXError(
            f"sequence {folder.name}: {source} holds {recorded} frames for {images} images, and which of them is the "
            "first image cannot be told; say so with --first"
        )
    return guess
