"""Evaluate a folder of result files against a folder of annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence as ListLike
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.gtot import corner_truth
from tracker.evaluation.lasher import LasHeROptions
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import Annotation, check_protocol, evaluate_annotations
from tracker.evaluation.report import write_report
from tracker.evaluation.results import find_result, read_boxes, read_table

GTOT_FILES = ("groundTruth_v.txt", "groundTruth_i.txt")
TRUTH_FILES = ("visible.txt", "init.txt", "groundtruth.txt", "groundtruth_rect.txt")
"""Where the boxes of a sequence folder are; the first that exists."""


def is_sequence(folder: Path) -> bool:
    """Whether a folder holds the annotation of one sequence."""
    return any((folder / name).is_file() for name in (GTOT_FILES[0], *TRUTH_FILES))


def find_sequences(root: str | Path) -> dict[str, Path]:
    """Annotations under a folder: sequence name to its folder, or to its file where there are only files.

    A sequence is a folder with an annotation in it, one or two levels down (``root/NAME`` or
    ``root/SPLIT/NAME``); else every ``root/NAME.txt`` is one.

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
                f"{root} has two sequences named {folder.name} ({found[folder.name]} and {folder}); "
                f"evaluate the "
                "split folders one at a time"
            )
        found[folder.name] = folder
    if not found:
        found = {p.stem: p for p in sorted(root.glob("*.txt"))}
    if not found:
        raise RGBXError(
            f"{root} has no annotated sequence; expected NAME/{TRUTH_FILES[0]}, NAME/groundtruth.txt, "
            f"NAME/{GTOT_FILES[0]} or NAME.txt"
        )
    return found


def read_annotation(name: str, path: Path) -> Annotation:
    """The ground truth of one sequence, in the coordinates of its file.

    Raises:
        RGBXError: no or malformed annotation, or an absence file of another length.
    """
    if path.is_file():
        return Annotation(name, read_boxes(path))
    if (path / GTOT_FILES[0]).is_file():
        visible, infrared = (corner_truth(read_table(path / file, (4,))) for file in GTOT_FILES)
        return Annotation(name, visible, infrared)
    file = next(path / candidate for candidate in TRUTH_FILES if (path / candidate).is_file())
    truth = read_boxes(file)
    infrared_file = path / "infrared.txt"
    infrared_truth = read_boxes(infrared_file) if infrared_file.is_file() else None
    present = None
    for absence in ("absent_label.txt", "absent.txt"):
        if (path / absence).is_file():
            present = read_table(path / absence, (1,))[:, 0] > 0
            if len(present) != len(truth):
                raise RGBXError(
                    f"{path / absence} has {len(present)} lines, but {file.name} has {len(truth)}; expected one a frame"
                )
            break
    return Annotation(name, truth, infrared_truth, present)


def find_list(root: Path, split: str) -> Path:
    """The list file of a split, or the folder of its sequences.

    Raises:
        RGBXError: neither is there.
    """
    names = (f"{split}ingsetList.txt", f"{split}ingset.txt", f"{split}list.txt", f"{split}.txt", split)
    candidates = [*(root / name for name in names), Path(split)]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None and (root / split).is_dir():
        found = root / split
    if found is None:
        raise RGBXError(
            f"split {split!r} is not in {root}; expected {names[0]}, {names[3]}, a folder {split}, or the "
            "path of a list file"
        )
    return found


def guess_protocol(paths: dict[str, Path]) -> str:
    """``gtot`` by its file names, ``visevent`` by an absence file, else ``lasher``."""
    first = next(iter(paths.values()))
    if (first / GTOT_FILES[0]).is_file():
        return "gtot"
    if any((first / name).is_file() for name in ("absent_label.txt", "absent.txt")):
        return "visevent"
    return "lasher"


def evaluate_folder(
    dataset: str | Path,
    results: str | Path,
    protocol: str = "auto",
    *,
    tracker: str | None = None,
    split: str | None = None,
    sequences: ListLike[str] | None = None,
    options: LasHeROptions | None = None,
    round_results: bool | None = None,
    allow_missing: bool = False,
    output: str | Path | None = None,
) -> Metrics:
    """Evaluate somebody's result files; frames are not needed.

    Args:
        dataset: folder of annotations, see :func:`find_sequences` (LasHeR, VisEvent, DepthTrack, RGBT234
            and GTOT layouts, or bare ``NAME.txt`` files).
        results: folder with ``NAME.txt`` (or ``PREFIX_NAME.txt``) for every sequence, 4 or 8 values a
            line, in the annotation's own coordinates.
        protocol: ``lasher``, ``visevent``, ``gtot``, ``rgbt234``, or ``auto`` to tell by the annotation
            files.
        tracker: name in reports; the results folder's by default.
        split: ``train``, ``test`` (the data set's list file, or a folder of that name), or a list file of
            names.
        sequences: only these.
        options: named options of the LasHeR family.
        round_results: round the numbers of the result files to integers first; by default only for GTOT,
            as its published figures were made.
        allow_missing: leave out sequences without a result file (they are listed in ``Metrics.missing``)
            instead of refusing.
        output: also write the report there, see :func:`tracker.evaluation.report.write_report`.

    Raises:
        RGBXError: anything missing, malformed or of the wrong length; the message names it.
    """
    results = Path(results)
    if protocol != "auto":
        check_protocol(protocol)
    if not results.is_dir():
        raise RGBXError(f"{results} is not a folder; expected one with a result file for every sequence")
    dataset = Path(dataset)
    if split is not None:
        listing = find_list(dataset, split)
        if listing.is_dir():
            dataset = listing
        else:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
            listed = [line.strip() for line in lines if line.strip()]
            sequences = [name for name in listed if sequences is None or name in sequences]
    paths = find_sequences(dataset)
    if sequences is not None:
        unknown = [name for name in sequences if name not in paths]
        if unknown:
            raise RGBXError(f"{dataset} has no sequence {unknown[0]}; expected one of {', '.join(list(paths)[:8])}")
        paths = {name: paths[name] for name in sequences}
        if not paths:
            raise RGBXError(f"no sequence of {dataset} was chosen; name at least one")
    protocol = guess_protocol(paths) if protocol == "auto" else protocol
    rounding = protocol == "gtot" if round_results is None else round_results
    files = {name: find_result(results, name) for name in paths}
    missing = tuple(name for name, file in files.items() if file is None)
    if len(missing) == len(paths):
        raise RGBXError(
            f"{results} has no result for any of the {len(paths)} sequences of {dataset}; expected "
            f"files like {missing[0]}.txt"
        )
    if missing and not allow_missing:
        raise RGBXError(
            f"{results} has no result for {len(missing)} of {len(paths)} sequences ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); add {missing[0]}.txt or allow missing sequences"
        )
    boxes: dict[str, np.ndarray] = {
        name: read_boxes(file, round_values=rounding) for name, file in files.items() if file is not None
    }
    metrics = evaluate_annotations(
        [read_annotation(name, paths[name]) for name in boxes],
        boxes,
        protocol,
        tracker=tracker or results.resolve().name,
        options=options,
        round_results=rounding,
    )
    metrics = replace(metrics, missing=missing, speed=_recorded_speed(results))
    if output is not None:
        write_report([metrics], output)
    return metrics


def _recorded_speed(results: Path) -> float | None:
    """Frames per second from the ``run.json`` that tracking leaves beside its results, if it did."""
    try:
        value = json.loads((results / "run.json").read_text(encoding="utf-8"))["fps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None
