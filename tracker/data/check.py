"""Finding what is wrong with a data set, sequence by sequence, without stopping at the first fault."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tracker.data.layouts.frames import frame_numbers, image_size
from tracker.data.layouts.reading import load_sequence
from tracker.data.layouts.registry import LAYOUTS, check_layout, detect_layout
from tracker.data.layouts.splits import LIST_FILES, all_folders, find_list, listed_folders, sequence_folders
from tracker.data.sampling import CausalPairSampler
from tracker.data.sequence import FolderSequence
from tracker.errors import RGBXError


@dataclass
class SequenceReport:
    """One sequence.

    Attributes:
        name, folder, layout, modality: what it is; layout and modality are "" where they cannot be told.
        frames: number of RGB frames found.
        usable: frames of which both images decode and have one size (all of them where nothing was decoded).
        present: frames that show the target.
        problems: sentences; a sequence with none can be trained and evaluated on.
        notes: what is odd and does no harm.
    """

    name: str
    folder: Path
    layout: str = ""
    modality: str = ""
    frames: int = 0
    usable: int = 0
    present: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """A data set: its sequences, and problems and notes that belong to none of them."""

    root: Path
    sequences: list[SequenceReport]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem anywhere."""
        return not self.problems and all(not s.problems for s in self.sequences)

    def __str__(self) -> str:
        """Show problems and notes by sequence, then a table with a row for each layout and modality, then the sum."""
        lines = list(self.problems) + [f"({text})" for text in self.notes]
        for s in self.sequences:
            state = "ok" if not s.problems else f"{len(s.problems)} problem{'s' if len(s.problems) > 1 else ''}"
            kind = f"{s.layout or 'unknown layout'}, {s.modality or 'unknown modality'}"
            lines.append(f"{s.name}: {state}; {kind}; {s.usable}/{s.frames} frames usable, target in {s.present}")
            lines += [f"  - {text}" for text in s.problems]
            lines += [f"  ({text})" for text in s.notes]
        lines += ["", *self._table()]
        good = sum(not s.problems for s in self.sequences)
        lines.append(f"{good} of {len(self.sequences)} sequences in {self.root} are usable as they are")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        header = ("layout", "modality", "sequences", "usable", "frames", "usable", "with target", "problems")
        kinds: dict[tuple[str, str], list[SequenceReport]] = {}
        for s in self.sequences:
            kinds.setdefault((s.layout or "unknown", s.modality or "unknown"), []).append(s)
        rows = [header]
        for kind, group in sorted(kinds.items()):
            counts = (
                len(group),
                sum(not s.problems for s in group),
                sum(s.frames for s in group),
                sum(s.usable for s in group),
                sum(s.present for s in group),
                sum(len(s.problems) for s in group),
            )
            rows.append((*kind, *(f"{count:,}" for count in counts)))  # type: ignore[arg-type]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain types for JSON."""
        sequences = [{**asdict(s), "folder": str(s.folder)} for s in self.sequences]
        return {
            "root": str(self.root),
            "ok": self.ok,
            "problems": self.problems,
            "notes": self.notes,
            "sequences": sequences,
        }


def check_dataset(
    root: str | os.PathLike[str],
    layout: str = "auto",
    split: str | None = None,
    decode: bool = True,
    progress: bool = False,
    workers: int | None = None,
) -> Report:
    """Look at every sequence of a data set (or at one sequence's folder).

    Args:
        root: folder of sequences' folders, or one sequence's folder.
        layout: as for :func:`tracker.data.layouts.open_dataset`.
        split: likewise.
        decode: decode every frame; without it only names, numbers, boxes and the first image's header are looked at.
        progress: show a progress bar.
        workers: threads that decode (OpenCV does so outside Python's lock); by default one for each core.

    Raises:
        RGBXError: an unknown layout; everything else is in the report.
    """
    check_layout(layout)
    report = Report(Path(root), [])
    folders = _folders(report, layout, split)
    opened = []
    for folder in tqdm(folders, desc="opening sequences", disable=not progress):
        found, sequence = _open(folder, layout)
        report.sequences.append(found)
        if sequence is not None:
            opened.append((found, sequence))
    frames = sum(sequence.length for _, sequence in opened) if decode else 0
    threads = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool, tqdm(total=frames, desc="frames", disable=not progress) as bar:
        for found, sequence in opened:
            if decode:
                _decode_all(found, sequence, pool, bar)
            _note_use(found, sequence)
    return report


def check_sequence(folder: str | os.PathLike[str], layout: str = "auto", decode: bool = True) -> SequenceReport:
    """Look at one sequence's folder; see :func:`check_dataset`."""
    found, sequence = _open(Path(folder), layout)
    if sequence is None:
        return found
    if decode:
        with ThreadPoolExecutor(1) as pool, tqdm(disable=True) as bar:
            _decode_all(found, sequence, pool, bar)
    _note_use(found, sequence)
    return found


def _folders(report: Report, layout: str, split: str | None) -> list[Path]:
    """List the folders of the sequences. What is wrong with lists and with other folders goes to the report."""
    root = report.root
    if not root.is_dir():
        report.problems.append(f"there is no folder {root}; expected the root of a data set")
        return []
    lists = {name: path for name in LIST_FILES if (path := find_list(root, name)) is not None}
    if split is None and (root / "list.txt").is_file():
        lists["all"] = root / "list.txt"
    listed: dict[Path, str] = {}
    for name, path in lists.items():
        if split in LIST_FILES and name != split:
            continue
        try:
            present, missing = listed_folders(root, path)
        except RGBXError as error:
            report.problems.append(str(error))
            continue
        report.problems += [f"sequence {n}, listed in {path}, is not in {root}" for n in missing]
        for folder in present:
            if listed.setdefault(folder, name) != name:
                report.problems.append(f"sequence {folder.name} is in both lists, {listed[folder]} and {name}")
    try:
        if split is not None:
            # A list with names that are not there has been told of; the rest of it is looked at all the same.
            return list(listed) if split in lists else sequence_folders(root, layout, split)
        folders = all_folders(root)
    except RGBXError as error:
        report.problems.append(str(error))
        return list(listed)
    known = set(folders)
    if folders and folders[0] != root:
        for other in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if other not in known | set(listed) and not any(other in folder.parents for folder in folders):
                report.problems.append(f"{other} is not a sequence in a known layout ({', '.join(LAYOUTS)})")
    folders += [folder for folder in listed if folder not in known]
    unlisted = [folder.name for folder in folders if folder not in listed] if listed else []
    if unlisted:
        shown = ", ".join(unlisted[:5]) + (", …" if len(unlisted) > 5 else "")
        report.notes.append(f"{len(unlisted)} of {len(folders)} sequences are on no list: {shown}")
    return folders


def _open(path: Path, layout: str) -> tuple[SequenceReport, FolderSequence | None]:
    found = SequenceReport(path.name, path)
    found.layout = (detect_layout(path) or "") if layout == "auto" else layout
    sequence = load_sequence(path, layout, found.problems, notes=found.notes)
    if sequence is not None:
        found.modality = sequence.modality
        found.frames = found.usable = sequence.length
        found.present = int(sequence.present.sum())
        _check_names(found, sequence)
        _check_annotations(found, sequence)
    return found, sequence


def _check_names(found: SequenceReport, sequence: FolderSequence) -> None:
    """Note gaps in the numbers of frames, and RGB and X that are numbered differently: a frame may have got lost."""
    rgb = frame_numbers([path.name for path in sequence.rgb_files])
    x_names = [path.name for path in sequence.x_files or () if path is not None]
    # X that is missing for some frames was paired by number.
    x = frame_numbers(x_names) if len(x_names) == sequence.length else None
    if rgb is not None:
        gaps = np.flatnonzero(np.diff(rgb) != 1)
        if len(gaps):
            before, after = sequence.rgb_files[int(gaps[0])], sequence.rgb_files[int(gaps[0]) + 1]
            found.notes.append(f"{len(gaps)} gaps in the numbers of frames, first from {before.name} to {after.name}")
    if rgb is not None and x is not None:
        apart = np.flatnonzero(np.diff(np.subtract(rgb, x)) != 0)
        if len(apart):
            index = int(apart[0]) + 1
            found.notes.append(
                f"frame {index} is numbered differently in RGB and X ({sequence.rgb_files[index].name}, "
                f"{x_names[index]}), while frame {index - 1} is not; look whether they belong together"
            )


def _check_annotations(found: SequenceReport, sequence: FolderSequence) -> None:
    """Compare second ground truths and tags with the boxes, and the size of X with RGB's."""
    x_size = next((image_size(path) for path in sequence.x_files or () if path is not None), None)
    rgb_size = image_size(sequence.rgb_files[0])
    if (
        sequence.fitted
        and x_size is not None
        and rgb_size is not None
        and (x_size != rgb_size or sequence.registration is not None)
    ):
        how = "resized" if sequence.registration is None else "registered by a file"
        found.notes.append(
            f"X is {x_size[0]}x{x_size[1]} and is {how} to RGB's {rgb_size[0]}x{rgb_size[1]}"
            + ("; they must be registered" if sequence.registration is None else "")
        )
    if sequence.annotated is not None:
        found.notes.append(f"annotated are {int(sequence.annotated.sum())} of {sequence.length} frames")
    second = sequence.x_boxes
    if second is not None and found.layout == "lasher":
        same = np.isclose(second, sequence.boxes, rtol=0, atol=1e-6, equal_nan=True).all(axis=1)
        if not same.all():
            found.notes.append(f"visible.txt and infrared.txt differ in {int((~same).sum())} frames, first in frame "
                               f"{int(np.argmin(same))}; the visible boxes are used")  # fmt: skip
    if second is not None:
        one_sided = np.isfinite(second).all(axis=1) != sequence.present
        if one_sided.any():
            found.notes.append(
                f"the target has a box in one image only in {int(one_sided.sum())} frames, first in frame "
                f"{int(np.argmax(one_sided))}"
            )
    outside = _beyond(sequence)
    if outside:
        found.notes.append(f"{outside} boxes reach beyond the image")


def _beyond(sequence: FolderSequence) -> int:
    """Count the boxes that touch the image and reach more than a pixel beyond it."""
    size = image_size(sequence.rgb_files[0])
    if size is None:
        return 0
    width, height = size
    x, y, w, h = sequence.boxes.T
    with np.errstate(invalid="ignore"):
        beyond = (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)
    return int(beyond.sum())


def _decode_all(found: SequenceReport, sequence: FolderSequence, pool: ThreadPoolExecutor, bar: Any) -> None:
    def look(index: int) -> tuple[tuple[int, ...], str, str]:
        """Return the shape, the kind of X and the error of a frame."""
        try:
            rgb, x = sequence.raw(index)
        except RGBXError as error:
            return (), "", str(error)
        return rgb.shape[:2], "" if x is None else f"{x.dtype}, {1 if x.ndim == 2 else x.shape[2]} channels", ""

    shapes: dict[tuple[int, ...], int] = {}
    kinds: dict[str, int] = {}
    found.usable = 0
    for index, (shape, kind, error) in enumerate(pool.map(look, range(sequence.length))):
        bar.update()
        if error:
            if error not in found.problems:
                found.problems.append(error)
            continue
        found.usable += 1
        shapes.setdefault(shape, index)
        kinds.setdefault(kind, index)
    first = next(iter(shapes), ())
    for shape, index in list(shapes.items())[1:]:
        found.notes.append(f"frame {index} is {shape[1]}x{shape[0]}, the first one {first[1]}x{first[0]}")
    if sequence.modality == "depth":
        for kind, index in kinds.items():
            if kind not in ("", "uint16, 1 channels", "float32, 1 channels"):
                assert sequence.x_files is not None
                found.problems.append(
                    f"sequence {sequence.name}: frame {index} has depth of {kind}: {sequence.x_files[index]}; expected "
                    "16 bits, millimeters (a color map that was made of it cannot be measured)"
                )


def _note_use(found: SequenceReport, sequence: FolderSequence) -> None:
    if not np.isfinite(sequence.boxes).any():
        found.notes.append("no boxes: good for `rgbx track`, not for training or evaluation")
        return
    try:
        CausalPairSampler([sequence])
    except RGBXError as error:
        found.notes.append(f"not drawn in training: {str(error).split(': ', 1)[-1]}")
    if not sequence.present[0]:
        found.notes.append("the target is absent in the first frame; a tracker starts at the first frame that shows it")
