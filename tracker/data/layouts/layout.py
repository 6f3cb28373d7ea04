"""What all layouts have in common: where a sequence's frames and boxes are, how they are read and how written."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.data.layouts.annotations import read_boxes, write_boxes
from tracker.data.layouts.frames import (
    IMAGE_SUFFIXES,
    FrameList,
    PartialFrameList,
    frame_files,
    image_size,
    same_number_in_two_schemes,
)
from tracker.data.rendering import XStyle
from tracker.data.sequence import FolderSequence, Sequence


@dataclass
class Reading:
    """What comes up while a sequence's folder is read.

    Attributes:
        style: how X is rendered.
        problems: a sentence for every fault; a sequence with one is not to be used.
        notes: what is odd and does no harm.
        box_faults: a sentence for every box that cannot be used, where those are no reason to refuse a sequence (a
            tracker needs one box); None files them under ``problems``.
    """

    style: XStyle
    problems: list[str]
    notes: list[str]
    box_faults: list[str] | None = None

    @property
    def faults(self) -> list[str]:
        """Where sentences about boxes go."""
        return self.problems if self.box_faults is None else self.box_faults


@dataclass(frozen=True)
class Places:
    """Folders of a sequence's images. ``x`` is None where there is RGB alone."""

    rgb: Path
    x: Path | None
    modality: str


@dataclass(frozen=True)
class Truth:
    """Boxes of a sequence's frames; see :class:`tracker.data.sequence.Sequence`."""

    boxes: np.ndarray
    x_boxes: np.ndarray | None = None
    annotated: np.ndarray | None = None

    def spread(self, frames: list[int], count: int) -> Truth:
        """Return what is known of some frames as boxes of all ``count`` frames, NaN elsewhere."""
        annotated = np.zeros(count, dtype=bool)
        annotated[frames] = True
        spread = [None if boxes is None else np.full((count, 4), np.nan) for boxes in (self.boxes, self.x_boxes)]
        for target, boxes in zip(spread, (self.boxes, self.x_boxes), strict=True):
            if target is not None:
                target[frames] = boxes
        assert spread[0] is not None
        return Truth(spread[0], spread[1], annotated)


@dataclass(frozen=True)
class Naming:
    """Names of the frames that are written, relative to the sequence's folder, with ``{name}`` and ``{index}``."""

    rgb: str
    x: str | None
    first: int = 1


class Layout:
    """One way in which a data set's sequences lie in folders. Subclasses say what differs.

    Attributes:
        name: as it is given in configurations and on the command line.
        modality: of every sequence, or None where a layout holds any.
        box_files: where the boxes are: the first of these files that exists.
        x_box_file: boxes of the X image, where they are annotated separately.
        boxes_required: a folder without boxes is refused.
        origin: what the box files call the first pixel.
        corners: box files hold two corners instead of corner and size.
        special: box files may hold VOT's single numbers.
        absent: line of a box file where the target is absent.
        lists: name of the list file that is written for a split.
        official: splits that the data set comes with; a split outside them has to be named by its list file.
        fitted: X may have another size than RGB, and is brought to RGB's.
        expected_boxes: how many boxes a file has, for messages.
    """

    name: str
    modality: str | None = None
    box_files: tuple[str, ...] = ("groundtruth.txt",)
    x_box_file: str | None = None
    boxes_required = True
    origin = 0.0
    corners = False
    special = False
    absent = "0,0,0,0"
    lists: dict[str, str] = {"train": "train.txt", "test": "test.txt"}  # noqa: RUF012
    official: tuple[str, ...] = ("train", "test")
    fitted = False
    expected_boxes = "one box per frame"

    def recognizes(self, folder: Path) -> bool:
        """Return whether a sequence's folder has this layout."""
        raise NotImplementedError

    def places(self, folder: Path, reading: Reading) -> Places | None:
        """Find the images; None, with a problem, where that cannot be told."""
        raise NotImplementedError

    def naming(self, modality: str) -> Naming:
        """Return the names of the files that are written."""
        raise NotImplementedError

    def read(self, folder: Path, reading: Reading) -> FolderSequence | None:
        """Open a sequence; None where nothing can be opened. Problems may remain where a sequence is returned."""
        places = self.places(folder, reading)
        if places is None:
            return None
        frames = self._frames(folder.name, places, reading)
        if frames is None:
            return None
        rgb_files, x_files = frames
        truth: Truth | None = Truth(np.full((len(rgb_files), 4), np.nan))
        source = next((folder / n for n in self.box_files if (folder / n).is_file()), None)
        if source is not None:
            boxes = self._boxes(source, folder.name, reading.faults)
            kept = self.annotated(folder, len(rgb_files), len(boxes), reading)
            rgb_files, x_files = rgb_files[kept], None if x_files is None else x_files[kept]
            truth = self._truth(folder, source, boxes, rgb_files, reading)
        elif self.boxes_required:
            reading.problems.append(
                f"sequence {folder.name}: {folder} has no {' or '.join(self.box_files)}; the boxes are missing"
            )
            return None
        if truth is None:
            return None
        tags, values = self.attributes(folder, len(rgb_files), reading)
        return FolderSequence(
            folder.name,
            places.modality,
            rgb_files,
            x_files,
            truth.boxes,
            reading.style.renderer(places.modality),
            source or folder,
            tags,
            values=values,
            x_boxes=truth.x_boxes,
            annotated=truth.annotated,
            origin=self.origin,
            event_style=reading.style.event,
            fitted=self.fitted,
            registration=self.registration(folder, reading),
        )

    def _frames(
        self, name: str, places: Places, reading: Reading
    ) -> tuple[FrameList, FrameList | PartialFrameList | None] | None:
        """List RGB and X files frame by frame; None, with a problem, where they cannot be paired."""
        problems = reading.problems
        rgb, x = frame_files(places.rgb), None if places.x is None else self.x_frames(places.x)
        if not rgb:
            problems.append(f"sequence {name}: {places.rgb} holds no image; expected {', '.join(IMAGE_SUFFIXES)} files")
            return None
        if not all(_in_order(name, files, problems) for files in (rgb, x) if files is not None):
            return None
        if x is None:
            return rgb, None
        if len(x) != len(rgb):
            partial = self.by_number(name, rgb, x, reading)
            return None if partial is None else (rgb, partial)
        return (rgb, x) if self.paired(name, rgb, x, problems) else None

    def _truth(
        self, folder: Path, source: Path, boxes: np.ndarray, rgb_files: FrameList, reading: Reading
    ) -> Truth | None:
        """Return the boxes of every frame; None, with a problem, where there are too few or too many."""
        name, problems = folder.name, reading.problems
        frames = self.annotated_frames(rgb_files, len(boxes), reading, name)
        if frames is None and len(boxes) != len(rgb_files):
            problems.append(
                f"sequence {name}: {len(rgb_files)} frames in {rgb_files.folder} but {len(boxes)} boxes in {source}; "
                f"expected {self.expected_boxes}"
            )
            return None
        shown = self.present(folder, boxes, reading)
        if shown is not None:
            boxes[~shown] = np.nan
        x_boxes = self._second_boxes(folder, source, boxes, problems, reading.faults)
        _check_inside(boxes, self.origin, name, source, rgb_files[0], problems, reading.faults)
        truth = Truth(boxes, x_boxes)
        return truth if frames is None else truth.spread(frames, len(rgb_files))

    def x_frames(self, folder: Path) -> FrameList:
        """List the X images of a folder."""
        return frame_files(folder)

    def by_number(self, name: str, rgb: FrameList, x: FrameList, reading: Reading) -> PartialFrameList | None:
        """Pair X with RGB where the numbers of files differ; None, with a problem, where that is no way."""
        reading.problems.append(
            f"sequence {name}: {len(rgb)} frames in {rgb.folder} but {len(x)} in {x.folder}; expected as many of each"
        )
        return None

    def annotated_frames(self, rgb: FrameList, boxes: int, reading: Reading, name: str) -> list[int] | None:
        """Return which frames the boxes are of, for layouts that annotate some frames only; None: every one."""
        return None

    def registration(self, folder: Path, reading: Reading) -> np.ndarray | None:
        """Return the (3, 3) map from X pixels to RGB pixels; None for images that are registered."""
        return None

    def paired(self, name: str, rgb: ListLike[Path], x: ListLike[Path], problems: list[str]) -> bool:
        """Return whether images of the two folders belong together, for layouts whose names tell."""
        return True

    def annotated(self, folder: Path, frames: int, boxes: int, reading: Reading) -> slice:
        """Return which frames the boxes are of, for layouts that have frames before or after them."""
        return slice(None)

    def present(self, folder: Path, boxes: np.ndarray, reading: Reading) -> np.ndarray | None:
        """Read (N,) bool from a file of flags; None where the boxes alone tell."""
        return None

    def attributes(
        self, folder: Path, count: int, reading: Reading
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Read tags (bool) and values (float64) of frames."""
        return {}, {}

    def _boxes(self, path: Path, name: str, problems: list[str]) -> np.ndarray:
        return read_boxes(path, name, problems, origin=self.origin, corners=self.corners, special=self.special)

    def _second_boxes(
        self, folder: Path, source: Path, boxes: np.ndarray, problems: list[str], faults: list[str]
    ) -> np.ndarray | None:
        if self.x_box_file is None or not (folder / self.x_box_file).is_file() or source.name == self.x_box_file:
            return None
        path = folder / self.x_box_file
        second = self._boxes(path, folder.name, faults)
        if len(second) == len(boxes):
            return second
        problems.append(
            f"sequence {folder.name}: {len(boxes)} boxes in {source} but {len(second)} in {path}; expected as many "
            "in both"
        )
        return None

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        """Write everything but the images."""
        self._write_boxes(folder / self.box_files[0], sequence.boxes)

    def _write_boxes(self, path: Path, boxes: np.ndarray) -> None:
        write_boxes(path, boxes, self.absent, origin=self.origin, corners=self.corners)


def required(folder: Path, layout: str, rgb: str, x: str, modality: str, reading: Reading) -> Places | None:
    """Return the two folders of these names; None, with a problem, where one is missing."""
    for sub in (rgb, x):
        if not (folder / sub).is_dir():
            reading.problems.append(
                f"sequence {folder.name}: the folder {folder / sub} is missing; the {layout} layout needs it"
            )
            return None
    return Places(folder / rgb, folder / x, modality)


def _check_inside(
    boxes: np.ndarray,
    origin: float,
    name: str,
    source: Path,
    first_frame: Path,
    problems: list[str],
    faults: list[str],
) -> None:
    """Report every box that does not touch the image."""
    size = image_size(first_frame)
    if size is None:
        problems.append(f"sequence {name}: frame 0 cannot be decoded as an image: {first_frame}; restore the file")
        return
    with np.errstate(invalid="ignore"):
        outside = (boxes[:, 0] >= size[0]) | (boxes[:, 1] >= size[1])
        outside |= (boxes[:, 0] + boxes[:, 2] <= 0) | (boxes[:, 1] + boxes[:, 3] <= 0)
    for index in np.flatnonzero(outside):
        x, y, w, h = boxes[index] + (origin, origin, 0, 0)
        faults.append(
            f"sequence {name}: line {index + 1} of {source} is the box x={x:g} y={y:g} w={w:g} h={h:g}, wholly "
            f"outside the {size[0]}x{size[1]} image; expected a box that touches the image, or an absent one"
        )


def _in_order(name: str, files: FrameList, problems: list[str]) -> bool:
    """Return whether the order of the frames can be told from their names; a problem where it cannot."""
    twice = same_number_in_two_schemes(files.names)
    if twice is not None:
        problems.append(
            f"sequence {name}: {files.folder} holds {twice[0]} and {twice[1]}, one number in two ways of naming, so "
            "the order of its frames cannot be told; remove one of them, or rename the frames"
        )
    return twice is None
