"""Result files: one box a line, four numbers (x, y, w, h) or the eight of four corners."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError

_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")


def read_table(path: str | Path, columns: tuple[int, ...]) -> np.ndarray:
    """Numbers of a text file, one row a line, separated by commas, tabs, spaces or a mixture.

    Args:
        columns: the numbers of columns that are allowed; every line has the same.

    Returns:
        (N, columns) float64. ``nan`` and ``inf`` are read as such. Empty lines at the end are ignored.

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
    lines = text.rstrip().splitlines()
    wanted = " or ".join(str(c) for c in columns)
    if not lines:
        raise RGBXError(f"{path} is empty; expected {wanted} numbers a line, one line a frame")
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
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


def corners_to_boxes(corners: np.ndarray) -> np.ndarray:
    """(N, 8) corners ``x1 y1 x2 y1 x2 y2 x1 y2`` to (N, 4) ``x, y, w, h`` with w = x2 - x1 (no + 1).

    As the GTOT evaluation reads them: x, y, right and bottom are columns 0, 1, 2 and 5.
    """
    return np.stack(
        [corners[:, 0], corners[:, 1], corners[:, 2] - corners[:, 0], corners[:, 5] - corners[:, 1]], axis=1
    )


def read_boxes(path: str | Path, *, round_values: bool = False) -> np.ndarray:
    """Read a result or annotation file.

    Args:
        path: 4 values a line (x, y, w, h) or 8 (corners); comma, tab or space.
        round_values: round the numbers *as they stand in the file* to integers, half to even, before corners
            become boxes: what the public RGB-T toolkit does with every result file.

    Returns:
        (N, 4) float64 ``x, y, w, h`` in the coordinates of the file.

    Raises:
        RGBXError: see :func:`read_table`.
    """
    table = read_table(path, (4, 8))
    if round_values:
        table = np.round(table)
    return corners_to_boxes(table) if table.shape[1] == 8 else table


def write_table(path: str | Path, rows: np.ndarray) -> None:
    """Write numbers as SRTrack does (comma-separated, ``%.14f``), whole or not at all.

    The file is written beside its place and moved there, so that an interrupted run leaves no half file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        np.savetxt(partial, np.asarray(rows, dtype=np.float64), fmt="%.14f", delimiter=",")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def find_result(folder: str | Path, sequence: str) -> Path | None:
    """The result file of a sequence: ``<sequence>.txt``, else the only ``<prefix>_<sequence>.txt``.

    Raises:
        RGBXError: several files carry the sequence's name behind a prefix.
    """
    folder = Path(folder)
    exact = folder / f"{sequence}.txt"
    if exact.is_file():
        return exact
    prefixed = sorted(p for p in folder.glob("*.txt") if p.name.endswith(f"_{sequence}.txt"))
    if len(prefixed) > 1:
        names = ", ".join(p.name for p in prefixed[:4])
        raise RGBXError(
            f"{folder} has {len(prefixed)} files that could be the result of {sequence} ({names}); name the "
            f"right one {sequence}.txt"
        )
    return prefixed[0] if prefixed else None
