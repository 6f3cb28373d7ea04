"""Text files beside the frames: boxes, flags and values, a line for each frame."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

_SEPARATORS = str.maketrans(",;", "  ")


def read_lines(path: Path, problems: list[str], name: str) -> list[str]:
    """Read a text file's lines without the empty ones at its end. A file that is no text is a problem and has none."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(
            f"sequence {name}: {path} cannot be read as text ({error.__class__.__name__}); restore the file"
        )
        return []
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(t) for t in re.split(r"[,;\s]+", line.strip()) if t]
    except ValueError:
        return None


def read_boxes(
    path: Path, name: str, problems: list[str], *, origin: float = 0.0, corners: bool = False, special: bool = False
) -> np.ndarray:
    """Read a file's boxes, (N, 4) float64 ``x, y, w, h`` that count from 0, NaN where the target is absent.

    A malformed line is a problem and a NaN row. Commas, semicolons, tabs and spaces separate numbers.

    Args:
        path: the file.
        name: the sequence, for messages.
        problems: receives a sentence for each malformed line.
        origin: the number that the file gives the first pixel.
        corners: a line is two opposite corners, in either order.
        special: a line may be a single number, VOT's code for "no box".
    """
    lines = read_lines(path, problems, name)
    rows = [line.translate(_SEPARATORS).split() for line in lines]
    values: np.ndarray | None = None
    if rows and all(len(row) == 4 for row in rows):
        try:
            values = np.array(rows, dtype=np.float64)
        except ValueError:
            values = None
        if values is not None and np.isinf(values).any():
            values = None
        if values is not None:
            missing = np.isnan(values).sum(axis=1)
            if ((missing > 0) & (missing < 4)).any():
                values = None
    if values is None:
        values = _read_slowly(path, lines, name, problems, special)
    if corners:
        low, high = np.minimum(values[:, :2], values[:, 2:]), np.maximum(values[:, :2], values[:, 2:])
        values = np.concatenate([low, high - low], axis=1)
    with np.errstate(invalid="ignore"):
        values[~((values[:, 2] > 0) & (values[:, 3] > 0))] = np.nan
    values[:, :2] -= origin
    return values


def _read_slowly(path: Path, lines: list[str], name: str, problems: list[str], special: bool) -> np.ndarray:
    """Read a file that has something else than four numbers in a line, with a sentence for each such line."""
    boxes = np.full((len(lines), 4), np.nan)
    for number, line in enumerate(lines, 1):
        values = _numbers(line)
        if special and values is not None and len(values) == 1:
            continue
        shown = line.strip()[:60]
        if values is None or len(values) != 4:
            problems.append(f"sequence {name}: line {number} of {path} is {shown!r}; expected four numbers x, y, w, h")
            continue
        box = np.array(values)
        if np.isnan(box).all():
            continue
        if not np.isfinite(box).all():
            problems.append(
                f"sequence {name}: line {number} of {path} is {shown!r}; expected finite numbers, or nan in all four "
                "places where the target is absent"
            )
            continue
        boxes[number - 1] = box
    return boxes


def read_flags(path: Path, name: str, count: int, problems: list[str]) -> np.ndarray | None:
    """Read (N,) bool from a file with 0 or 1 per line (or all in one line); None where the file does not fit."""
    lines = read_lines(path, problems, name)
    if len(lines) == 1 and count > 1:
        lines = lines[0].translate(_SEPARATORS).split()
    flags = np.zeros(len(lines), dtype=bool)
    for number, line in enumerate(lines, 1):
        if line.strip() not in ("0", "1"):
            problems.append(f"sequence {name}: line {number} of {path} is {line.strip()[:60]!r}; expected 0 or 1")
            return None
        flags[number - 1] = line.strip() == "1"
    if len(flags) != count:
        problems.append(f"sequence {name}: {path} has {len(flags)} lines for {count} frames; expected one per frame")
        return None
    return flags


def read_values(path: Path, name: str, count: int, problems: list[str]) -> np.ndarray | None:
    """Read (N,) float64 from a file with a number per line; None where the file does not fit."""
    lines = read_lines(path, problems, name)
    values = np.zeros(len(lines))
    for number, line in enumerate(lines, 1):
        row = _numbers(line)
        if row is None or len(row) != 1:
            problems.append(f"sequence {name}: line {number} of {path} is {line.strip()[:60]!r}; expected one number")
            return None
        values[number - 1] = row[0]
    if len(values) != count:
        problems.append(f"sequence {name}: {path} has {len(values)} lines for {count} frames; expected one per frame")
        return None
    return values


def write_boxes(
    path: Path,
    boxes: np.ndarray,
    absent: str,
    *,
    origin: float = 0.0,
    corners: bool = False,
    separator: str = ",",
) -> None:
    """Write what :func:`read_boxes` reads. ``absent`` is the line of a frame without the target."""
    rows = boxes + np.array([origin, origin, 0.0, 0.0])
    if corners:
        rows = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
    lines = [absent if np.isnan(row).any() else separator.join(f"{v:.10g}" for v in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_flags(path: Path, flags: np.ndarray) -> None:
    """Write a line of 0 or 1 for each frame."""
    path.write_text("\n".join("1" if flag else "0" for flag in flags) + "\n", encoding="utf-8")
