"""Annotations of the benchmarks: which folders or files they are in, and the ground truth of a sequence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracker.data.layouts.registry import BY_NAME
from tracker.data.layouts.splits import find_list as find_list_file
from tracker.data.layouts.splits import sequence_folders
from tracker.data.sequence import read_image
from tracker.errors import RGBXError
from tracker.evaluation import vtuav
from tracker.evaluation.gtot import corner_truth
from tracker.evaluation.results import parse_table, read_boxes, read_table

GTOT_FILES = (BY_NAME["gtot"].box_files[0], str(BY_NAME["gtot"].x_box_file))
TRUTH_FILES = tuple(
    dict.fromkeys(
        [file for layout in BY_NAME.values() if not layout.corners for file in layout.box_files] + [vtuav.BOX_FILES[0]]
    )
)
"""Where the boxes of a sequence's folder are, as the layouts name them; the first that exists is read."""
RGBT210_FILES = (*BY_NAME["rgbt210"].box_files, *TRUTH_FILES)
SECOND_FILES = (str(BY_NAME["rgbt234"].x_box_file), vtuav.BOX_FILES[1])
"""Boxes of the X image, where it was annotated separately."""
ABSENCE_FILES = ("absent_label.txt", "absent.txt")
ABSENCE_FOLDER = "absent"
"""Beside bare ``NAME.txt``, as the VisEvent and COESOT toolkits ship their annotations."""
BARE_FOLDER = "gt_rect"
"""Where VisEvent's toolkit has its bare ``NAME.txt``."""
FLAGGED = ("visevent", "coesot")
"""Protocols that tell a frame that is flagged absent from one without a valid box."""
IMAGE_FOLDERS = ("color", "colour", "rgb", "visible")


@dataclass(frozen=True)
class Annotation:
    """Return the ground truth of one sequence, in the coordinates of its file.

    Attributes:
        name: the sequence.
        truth: (N, 4) ``x, y, w, h`` of the visible image.
        infrared: (N, 4) of the infrared image, where it has a ground truth of its own.
        present: (N,) bool from a separate absence file, where there is one.
        size: width and height of the images in pixels, where known; DepthTrack's protocol clips boxes to it.
    """

    name: str
    truth: np.ndarray
    infrared: np.ndarray | None = None
    present: np.ndarray | None = None
    size: tuple[int, int] | None = None


def ambiguous_flags(folder: Path) -> str:
    """Return the sentence for flags beside bare annotations, which two toolkits read in opposite senses."""
    return (
        f"in {folder}, 1 means absent if it is of VisEvent's toolkit, and present if it is of COESOT's; give the "
        "protocol visevent or coesot"
    )


def bare_absence_file(annotation: Path) -> Path | None:
    """Return the file of flags that belongs to a bare ``NAME.txt``: in a folder beside it, or beside its folder."""
    places = (annotation.parent / ABSENCE_FOLDER, annotation.parent.parent / ABSENCE_FOLDER)
    return next((place / annotation.name for place in places if (place / annotation.name).is_file()), None)


def is_sequence(folder: Path) -> bool:
    """Return whether a folder holds the annotation of one sequence."""
    return any((folder / name).is_file() for name in (GTOT_FILES[0], *TRUTH_FILES))


def find_sequences(root: str | Path) -> dict[str, Path]:
    """Find the annotations under a folder: sequence name to its folder, or to its file where there are only files.

    A sequence is a folder with an annotation in it, one or two levels down (``root/NAME`` or ``root/SPLIT/NAME``); else
    every ``root/NAME.txt`` or ``root/gt_rect/NAME.txt`` is one.

    Raises:
        RGBXError: no annotation there, or two sequences of one name.
    """
    root = Path(root)
    if not root.is_dir():
        raise RGBXError(f"{root} is not a folder; expected one with a folder for every sequence")
    if is_sequence(root):
        return {root.name: root}
    folders: list[Path] = []
    for pattern in ("*/", "*/*/"):
        folders = sorted(p for p in root.glob(pattern) if p.is_dir() and not p.name.startswith(".") and is_sequence(p))
        if folders:
            break
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.name in found:
            raise RGBXError(
                f"{root} has two sequences named {folder.name} ({found[folder.name]} and {folder}); evaluate the split "
                "folders one at a time"
            )
        found[folder.name] = folder
    for place in (root, root / BARE_FOLDER):
        found = found or {p.stem: p for p in sorted(place.glob("*.txt"))}
    if not found:
        raise RGBXError(
            f"{root} has no annotated sequence; expected NAME/{TRUTH_FILES[0]}, NAME/groundtruth.txt, "
            f"NAME/{GTOT_FILES[0]} or NAME.txt"
        )
    return found


def read_annotation(name: str, path: Path, protocol: str = "lasher") -> Annotation:
    """Return the ground truth of one sequence, in the coordinates of its file.

    Args:
        name: the sequence.
        path: its folder, or its file among bare ``NAME.txt``.
        protocol: RGBT210's boxes are those of ``init.txt``; DepthTrack's come with the size of the images.

    Raises:
        RGBXError: no or malformed annotation, or an absence file of another length.
    """
    if path.is_file():
        truth = read_boxes(path)
        absence = bare_absence_file(path)
        if absence is None:
            return Annotation(name, truth)
        if protocol not in FLAGGED:
            raise RGBXError(ambiguous_flags(absence.parent))
        flags = _read_flags(absence, path.name, len(truth))
        # VisEvent's toolkit marks absent frames, COESOT's the others (and so do the data sets' own absence files).
        return Annotation(name, truth, present=~flags if protocol == "visevent" else flags)
    if (path / GTOT_FILES[0]).is_file():
        visible, infrared = (corner_truth(read_table(path / file, (4,))) for file in GTOT_FILES)
        return Annotation(name, visible, infrared)
    files = RGBT210_FILES if protocol == "rgbt210" else TRUTH_FILES
    file = next((path / candidate for candidate in files if (path / candidate).is_file()), None)
    if file is None:
        raise RGBXError(f"sequence {name}: {path} has no annotation; expected one of {', '.join(TRUTH_FILES)}")
    truth = read_vot_boxes(file) if protocol == "depthtrack" else read_boxes(file)
    second_file = next((path / f for f in SECOND_FILES if (path / f).is_file() and f != file.name), None)
    second_truth = read_boxes(second_file) if second_file is not None else None
    absence_file = next((path / candidate for candidate in ABSENCE_FILES if (path / candidate).is_file()), None)
    present = None if absence_file is None else _read_flags(absence_file, file.name, len(truth))
    size = image_size(path) if protocol == "depthtrack" else None
    return Annotation(name, truth, second_truth, present, size)


def _read_flags(path: Path, truth_name: str, frames: int) -> np.ndarray:
    flags = np.asarray(read_table(path, (1,))[:, 0] > 0)
    if len(flags) != frames:
        raise RGBXError(f"{path} has {len(flags)} lines, but {truth_name} has {frames}; expected one a frame")
    return flags


def read_vot_boxes(path: Path) -> np.ndarray:
    """Read a VOT trajectory, in which a line of one number is a special region: NaN, as an absent target is.

    Raises:
        RGBXError: see :func:`tracker.evaluation.results.read_boxes`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return read_boxes(path)
    if not any(re.fullmatch(r"\s*-?\d+(\.0*)?\s*", line) for line in lines):
        return read_boxes(path)
    filled = ["nan,nan,nan,nan" if re.fullmatch(r"\s*-?\d+(\.0*)?\s*", line) else line for line in lines]
    return parse_table(filled, path, (4, 8))


def image_size(folder: Path) -> tuple[int, int] | None:
    """Return the width and height of a sequence's images, by VOT's ``sequence`` file or the first image, or None."""
    properties = folder / "sequence"
    if properties.is_file():
        pairs = [line.partition("=") for line in properties.read_text(encoding="utf-8").splitlines()]
        stated = {key.strip(): value.strip() for key, _, value in pairs}
        if stated.get("width", "").isdigit() and stated.get("height", "").isdigit():
            return int(stated["width"]), int(stated["height"])
    for name in IMAGE_FOLDERS:
        first = min((p for p in folder.glob(f"{name}/*") if not p.name.startswith(".")), default=None)
        image = None if first is None else read_image(first, cv2.IMREAD_UNCHANGED)
        if image is not None:
            return image.shape[1], image.shape[0]
    return None


def find_list(root: Path, split: str) -> Path:
    """Return the list file of a split, or the folder of its sequences.

    Args:
        root: the data set's folder.
        split: ``train`` or ``test`` (a list file of a usual name, or a folder of that name), or a list file.

    Raises:
        RGBXError: neither is there.
    """
    named = [find_list_file(root, split), root / split, root / f"{split}.txt"]
    found = next((path for path in named if path is not None and path.exists()), None)
    if found is None and Path(split).is_file():
        found = Path(split)
    if found is None:
        raise RGBXError(
            f"split {split!r} is not in {root}; expected {split}ingsetList.txt, {split}.txt, a folder {split}, or the "
            "path of a list file"
        )
    return found


def choose_sequences(dataset: str | Path, split: str | None, names: list[str] | None = None) -> dict[str, Path]:
    """Find the sequences of a split, or some of them by name, as :func:`find_sequences` does.

    Raises:
        RGBXError: an unknown split, a name that is not there, or none chosen.
    """
    dataset = Path(dataset)
    if split is not None:
        try:
            listing = find_list(dataset, split)
        except RGBXError as error:
            # Splits that only the layouts know, such as val, are those that a tracker is run on.
            try:
                folders = sequence_folders(dataset, split=split)
            except RGBXError:
                raise error from None
            return {folder.name: folder for folder in folders if names is None or folder.name in names}
        if listing.is_dir():
            dataset = listing
        else:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
            listed = [line.strip() for line in lines if line.strip()]
            names = [name for name in listed if names is None or name in names]
    paths = find_sequences(dataset)
    if names is None:
        return paths
    unknown = [name for name in names if name not in paths]
    if unknown:
        raise RGBXError(f"{dataset} has no sequence {unknown[0]}; expected one of {', '.join(list(paths)[:8])}")
    if not names:
        raise RGBXError(f"no sequence of {dataset} was chosen; name at least one")
    return {name: paths[name] for name in names}
