"""Result files: one box a line, four numbers (x, y, w, h) or the eight of four corners, under whatever name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.files import atomic_file

_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
EXTENSIONS = (".txt", ".csv", ".res", "")
SIDE_FILES = re.compile(r"_(times?|lost|confidences?|(all_)?scores|all_boxes|flag)$")
"""What trackers leave beside their boxes: ``car_time.txt`` is no result of ``car``."""


def read_table(path: str | Path, columns: tuple[int, ...]) -> np.ndarray:
    """Read the numbers of a text file, one row a line, separated by commas, tabs, spaces or a mixture.

    Args:
        path: the file.
        columns: the numbers of columns that are allowed. Every line has the same number.

    Returns:
        (N, columns) float64. ``nan`` and ``inf`` are read as such. Empty lines at the end are ignored, and so is a
        first line without any number in it (``x,y,w,h``).

    Raises:
        RGBXError: the file is missing, is empty, or has a line that cannot be read; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RGBXError(f"cannot read {path}: {error.strerror or error}; expected one box a line") from error
    except UnicodeDecodeError as error:
        raise RGBXError(f"{path} is not a text file; expected one box a line") from error
    return parse_table(text.rstrip().splitlines(), path, columns)


def parse_table(lines: ListLike[str], path: Path, columns: tuple[int, ...]) -> np.ndarray:
    """Do what :func:`read_table` does with the lines of a file; ``path`` is for messages."""
    wanted = " or ".join(str(c) for c in columns)
    if not lines:
        raise RGBXError(f"{path} is empty; expected {wanted} numbers a line, one line a frame")
    rows: list[list[float]] = []
    header = len(lines) > 1 and not any(_is_number(field) for field in _SEPARATOR.split(lines[0].strip()))
    for number, line in enumerate(lines, start=1):
        if header and number == 1:
            continue
        fields = _SEPARATOR.split(line.strip())
        try:
            row = [float(field) for field in fields]
        except ValueError:
            raise RGBXError(
                f"{path}, line {number}: {line.strip()[:60]!r} is not a box; expected {wanted} numbers "
                "separated by commas, tabs or spaces"
            ) from None
        if len(row) not in columns:
            raise RGBXError(f"{path}, line {number}: {len(row)} numbers; expected {wanted}")
        if rows and len(row) != len(rows[0]):
            raise RGBXError(
                f"{path}, line {number}: {len(row)} numbers, but the lines before have {len(rows[0])}; "
                "expected the same on every line"
            )
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return not field  # a missing number is a mistake in a row, not a sign of a header
    return True


def corners_to_boxes(corners: np.ndarray) -> np.ndarray:
    """Turn (N, 8) corners ``x1 y1 … x4 y4`` into the upright boxes around them, ``x, y, w, h`` with w = right - left.

    The corners may begin anywhere and go round either way. The public toolkits read columns 0, 1, 2 and 5, which is the
    same for corners that begin at the top left and go to the top right, and wrong for all others.
    """
    points = corners.reshape(-1, 4, 2)
    low, high = points.min(axis=1), points.max(axis=1)
    return np.concatenate([low, high - low], axis=1)


def read_boxes(path: str | Path, *, round_values: bool = False, round_corners: bool = False) -> np.ndarray:
    """Read a result or annotation file.

    Args:
        path: 4 values a line (x, y, w, h) or 8 (corners); comma, tab or space.
        round_values: round the numbers *as they stand in the file* to integers, half to even, before corners
            become boxes: what the public RGB-T toolkit does with every result file.
        round_corners: round boxes that the file gives as corners to integers, half away from zero: what VTUAV's code
            does.

    Returns:
        (N, 4) float64 ``x, y, w, h`` in the coordinates of the file.

    Raises:
        RGBXError: see :func:`read_table`.
    """
    table = read_table(path, (4, 8))
    if round_values:
        table = np.round(table)
    if table.shape[1] == 4:
        return table
    boxes = corners_to_boxes(table)
    return np.copysign(np.floor(np.abs(boxes) + 0.5), boxes) if round_corners else boxes


def write_table(path: str | Path, rows: np.ndarray) -> None:
    """Write numbers as SRTrack does (comma-separated, ``%.14f``), whole or not at all.

    The file is written beside its place and moved there, so that an interrupted run leaves no half file.
    """
    with atomic_file(Path(path)) as file:
        np.savetxt(file, np.asarray(rows, dtype=np.float64), fmt="%.14f", delimiter=",")


def write_boxes(path: str | Path, boxes: np.ndarray) -> None:
    """Write (N, 4) boxes ``x, y, w, h``; rows that are not finite (no box in that frame) become ``0,0,0,0``.

    Raises:
        RGBXError: not (N, 4).
    """
    boxes = np.array(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RGBXError(f"cannot write boxes of shape {boxes.shape}; expected (N, 4) holding x, y, w, h")
    boxes[~np.isfinite(boxes).all(axis=1)] = 0.0
    write_table(path, boxes)


def find_results(folder: str | Path, sequences: Iterable[str], suffixes: bool = True) -> dict[str, Path | None]:
    """Return the result file of each sequence, or None.

    A file is a sequence's if it is named after it (``car.txt``, ``car.csv``, ``car``, VOT's ``car_001.txt`` and
    ``car/car_001.txt``), else if it is the only one that has the name behind a prefix or before a suffix, set off by
    ``_`` or ``-`` (``MyTracker_car.txt``, ``car-MyTracker.txt``). A file that fits two sequences belongs to the one
    with the longer name: ``car_2.txt`` is not the result of ``car`` where there is a sequence ``car_2``. Without
    ``suffixes`` it is never that of ``car``.

    Raises:
        RGBXError: several files that could be the result of a sequence.
    """
    folder = Path(folder)
    names = list(dict.fromkeys(sequences))
    found: dict[str, Path | None] = {}
    for name in names:
        plain = [folder / f"{name}{extension}" for extension in EXTENSIONS]
        vot = [folder / f"{name}_001.txt", folder / name / f"{name}_001.txt"]
        found[name] = next((p for p in [*plain, *vot] if p.is_file()), None)
    taken = {path for path in found.values() if path is not None}
    candidates: dict[str, list[Path]] = {name: [] for name in names}
    longest_first = sorted(names, key=len, reverse=True)
    if len(taken) < len(names):
        for path in sorted(folder.iterdir()):
            if path in taken or not path.is_file() or path.name.startswith(".") or path.suffix not in EXTENSIONS:
                continue
            owner = next((name for name in longest_first if _carries(path.stem, name, suffixes)), None)
            if owner is not None and not SIDE_FILES.search(path.stem):
                candidates[owner].append(path)
    for name in names:
        if found[name] is None and candidates[name]:
            if len(candidates[name]) > 1:
                several = ", ".join(p.name for p in candidates[name][:4])
                raise RGBXError(
                    f"{folder} has {len(candidates[name])} files that could be the result of {name} ({several}); name "
                    f"the right one {name}.txt"
                )
            found[name] = candidates[name][0]
    return found


def _carries(stem: str, name: str, suffixes: bool) -> bool:
    return any(stem.endswith(mark + name) or (suffixes and stem.startswith(name + mark)) for mark in "_-")


def find_result(folder: str | Path, sequence: str) -> Path | None:
    """Return the result file of one sequence, by its name or behind a prefix, see :func:`find_results`."""
    return find_results(folder, [sequence], suffixes=False)[sequence]


def find_confidences(folder: str | Path, sequence: str, result: Path) -> Path | None:
    """Return the file with a tracker's confidences, one a frame, or None.

    It is as ``rgbx track`` writes them (``scores/NAME.txt``), as VOT's toolkit does (``NAME_001_confidence.value``), or
    has ``_confidence``, ``_scores`` or ``_all_scores`` behind the name of the result or of the sequence.
    """
    candidates = [Path(folder) / "scores" / f"{sequence}.txt"]
    for stem in (result.stem, sequence):
        endings = ("_confidence.value", "_confidence.txt", "_confidences.txt", "_scores.txt", "_all_scores.txt")
        candidates += [result.parent / f"{stem}{ending}" for ending in endings]
    return next((path for path in candidates if path.is_file()), None)
