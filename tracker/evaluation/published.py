"""Published figures beside computed ones, where the user brings them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tracker.errors import RGBXError


def read_published(path: str | Path) -> dict[str, dict[str, float]]:
    """Read figures from a CSV file: the tracker first, then its scores in percent under their names (``PR,SR``).

    Returns:
        Tracker to score name to fraction; empty cells are left out.

    Raises:
        RGBXError: not such a file, or a figure outside 0 to 100.
    """
    path = Path(path)
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
        names = rows[0][1:]
        found = {
            row[0]: {name: float(cell) / 100.0 for name, cell in zip(names, row[1:], strict=False) if cell}
            for row in rows[1:]
        }
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise RGBXError(
            f"cannot read published figures from {path} ({error}); expected a CSV file with a header such as "
            "tracker,PR,SR and percentages"
        ) from error
    for tracker, scores in found.items():
        wrong = next((name for name, value in scores.items() if not 0.0 <= value <= 1.0), None)
        if wrong is not None:
            raise RGBXError(f"{path}: {wrong} of {tracker} is {100 * scores[wrong]:g}; expected a percentage")
    return found


Published = Mapping[str, Mapping[str, float]]
