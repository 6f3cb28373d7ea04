"""A small data set with two runs whose every number is known, for the tests of pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.data.layouts import open_dataset, write_dataset
from tracker.data.sequence import ArraySequence, Sequence

WIDTH, HEIGHT, FRAMES = 120, 90, 24
NAMES = ("easy", "even", "hard")
ABSENT = (10, 11, 12, 20)
"""Frames of the sequence ``hard`` in which there is no ground truth."""


@dataclass(frozen=True)
class Example:
    """A LasHeR-like folder and two folders of results."""

    data: Path
    first: Path
    second: Path

    @property
    def sequences(self) -> list[Sequence]:
        return open_dataset(self.data, layout="lasher")


def truth_of(name: str) -> np.ndarray:
    """Return (N, 4), first pixel 0: 30 x 20 pixels, two to the right a frame; NaN where it is absent."""
    boxes = np.stack([np.array([10.0 + 2 * i, 20.0, 30.0, 20.0]) for i in range(FRAMES)])
    if name == "hard":
        boxes[list(ABSENT)] = np.nan
    return boxes


def gray_of(index: int) -> int:
    """Return the level of RGB in frame ``index``; X is 255 less it. So a picture tells which frame it is of."""
    return 10 + 8 * index


def shift_of(run: int, name: str, index: int) -> float:
    """Return the pixels by which a run's box is too far right.

    In ``hard`` the first run loses the target at frame 6.
    """
    if index == 0 or name == "even":
        return 0.0
    if name == "easy":
        return 1.0 + run
    return (40.0 if index >= 6 else 4.0) if run == 0 else 3.0


def results_of(run: int, name: str) -> np.ndarray:
    """Return (N, 4) as the file has them: first pixel 1."""
    boxes = np.stack([np.array([11.0 + 2 * i, 21.0, 30.0, 20.0]) for i in range(FRAMES)])
    boxes[:, 0] += [shift_of(run, name, i) for i in range(FRAMES)]
    return boxes


def confidence_of(run: int, name: str) -> np.ndarray:
    return np.array([1 - 0.03 * i - 0.1 * run * (i > 0) for i in range(FRAMES)])


def iou_of(run: int, name: str, index: int) -> float | None:
    """Return the IoU by hand of two boxes of the same size, moved along x."""
    if name == "hard" and index in ABSENT:
        return None
    shared = max(0.0, 30.0 - shift_of(run, name, index)) * 20
    return shared / (2 * 600 - shared)


def write_example(root: Path) -> Example:
    """Write the example, with confidences. The first run also marks lost frames."""
    sequences = []
    for name in NAMES:
        frames = np.empty((FRAMES, HEIGHT, WIDTH, 6), np.uint8)
        for i in range(FRAMES):
            frames[i, :, :, :3], frames[i, :, :, 3:] = gray_of(i), 255 - gray_of(i)
        sequences.append(ArraySequence(name, "thermal", frames, truth_of(name)))
    write_dataset(sequences, root / "data", "lasher")
    folders = (root / "first", root / "second")
    for run, folder in enumerate(folders):
        (folder / "scores").mkdir(parents=True)
        for name in NAMES:
            np.savetxt(folder / f"{name}.txt", results_of(run, name), fmt="%.14f", delimiter=",")
            scores = np.repeat(confidence_of(run, name)[:, None], 2, axis=1)
            np.savetxt(folder / "scores" / f"{name}.txt", scores, fmt="%.14f", delimiter=",")
    lost = [int(shift_of(0, "hard", i) > 20) for i in range(FRAMES)]
    (folders[0] / "hard_lost.txt").write_text("\n".join(map(str, lost)) + "\n", encoding="utf-8")
    return Example(root / "data", *folders)
