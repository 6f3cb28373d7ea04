"""Runs on disk, ours or anybody's: boxes, and confidences and lost frames if they were written."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.data.sequence import Sequence, as_boxes
from tracker.errors import RGBXError
from tracker.evaluation.lasher import fit_length
from tracker.evaluation.results import find_result, read_boxes, read_table
from tracker.inference.dataset_run import SCORES_FOLDER
from tracker.inference.tracking import Track

MOST_RUNS = 8
"""As many as there are colors that can be told apart."""


@dataclass(frozen=True)
class Record:
    """One run on one sequence of N frames.

    Attributes:
        boxes: (N, 4) float64 ``x, y, w, h``, first pixel 0; NaN where the run has no box.
        confidence: (N,) in whatever range the tracker gives, NaN where it has no box; None where it was not written.
        lost: (N,) bool, the tracker said that it had lost the target; None where it was not written.
    """

    boxes: np.ndarray
    confidence: np.ndarray | None = None
    lost: np.ndarray | None = None

    @classmethod
    def from_track(cls, track: Track) -> Record:
        """Make a record of a track in memory; its score is the confidence."""
        return cls(track.boxes, track.scores, getattr(track, "lost", None))


@dataclass(frozen=True)
class Run:
    """One tracker: its label, and sequence name to what it did there (sequences that it did not run on lack)."""

    label: str
    records: dict[str, Record]


def read_record(folder: Path, sequence: Sequence) -> Record | None:
    """Read what a run left of a sequence; None where there is no result file.

    Results are those of :func:`tracker.evaluation.results.read_boxes` in the coordinates of the data set's own files;
    confidences are the first column of ``scores/NAME.txt``, else ``NAME_confidence.txt``; lost frames are
    the ones in ``NAME_lost.txt``. Lines after the last frame are left out, as benchmarks do.

    Raises:
        RGBXError: a malformed file, or one with fewer lines than frames; the message names it.
    """
    file = find_result(folder, sequence.name)
    if file is None:
        return None
    boxes = as_boxes(fit_length(sequence.name, read_boxes(file), sequence.boxes))
    boxes[:, :2] -= sequence.origin
    confidence = _column(
        sequence,
        (folder / SCORES_FOLDER / f"{sequence.name}.txt", (1, 2)),
        (folder / f"{sequence.name}_confidence.txt", (1,)),
    )
    if confidence is not None:
        confidence[np.isnan(boxes).any(axis=1)] = np.nan
    lost = _column(sequence, (folder / f"{sequence.name}_lost.txt", (1,)))
    return Record(boxes, confidence, None if lost is None else lost > 0)


def _column(sequence: Sequence, *candidates: tuple[Path, tuple[int, ...]]) -> np.ndarray | None:
    """Read the first column, (N,), of the first of the files that exists."""
    for path, columns in candidates:
        if path.is_file():
            values = read_table(path, columns)[:, 0]
            if len(values) < sequence.length:
                raise RGBXError(
                    f"{path} has {len(values)} lines for the {sequence.length} frames of {sequence.name}; expected one "
                    "a frame (finish the run, or remove the file)"
                )
            return np.array(values[: sequence.length])
    return None


def find_runs(folders: Iterable[str | Path], sequences: ListLike[Sequence]) -> list[Run]:
    """Read the results of one or several runs on a data set.

    Args:
        folders: each holds ``NAME.txt`` for some of the sequences, or folders that do: what ``rgbx track`` and
            ``rgbx eval --out`` write, and what other trackers publish. A run is labeled with its folder's name.
        sequences: the data set.

    Returns:
        The runs in the order given.

    Raises:
        RGBXError: a folder that is missing or without any result, more than :data:`MOST_RUNS` runs, two of one folder,
            or a file that cannot be used.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        found += _result_folders(folder, sequences)
    resolved = [folder.resolve() for folder in found]
    twice = next((folder for folder in resolved if resolved.count(folder) > 1), None)
    if twice is not None:
        raise RGBXError(f"{twice} was given twice; name every run once")
    if len(found) > MOST_RUNS:
        raise RGBXError(f"{len(found)} runs are more than can be told apart; choose at most {MOST_RUNS}")
    runs = []
    for folder, label in zip(found, _labels(resolved), strict=True):
        records = {s.name: record for s in sequences if (record := read_record(folder, s)) is not None}
        runs.append(Run(label, records))
    return runs


def _result_folders(folder: Path, sequences: ListLike[Sequence]) -> list[Path]:
    if not folder.is_dir():
        raise RGBXError(f"{folder} is not a folder; expected one with a result file for every sequence")

    def holds_results(place: Path) -> bool:
        return any(find_result(place, sequence.name) is not None for sequence in sequences)

    for pattern in ("", "*/", "results/*/"):
        places = [folder] if not pattern else sorted(p for p in folder.glob(pattern) if p.is_dir())
        holding = [place for place in places if holds_results(place)]
        if holding:
            return holding
    raise RGBXError(
        f"{folder} has no result for any of the {len(sequences)} sequences of the data; expected files like "
        f"{sequences[0].name if sequences else 'NAME'}.txt, or folders with them"
    )


def _labels(folders: list[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0) + 1):
        labels = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]
