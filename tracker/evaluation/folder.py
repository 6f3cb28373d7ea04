"""Evaluate a folder of result files against a folder of annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence as ListLike
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tracker.data.sequence import read_image
from tracker.errors import RGBXError
from tracker.evaluation.gtot import corner_truth
from tracker.evaluation.lasher import LasHeROptions
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import ROUNDED, Annotation, check_protocol, evaluate_annotations
from tracker.evaluation.report import write_report
from tracker.evaluation.results import find_confidences, find_results, parse_table, read_boxes, read_table

GTOT_FILES = ("groundTruth_v.txt", "groundTruth_i.txt")
TRUTH_FILES = ("visible.txt", "init.txt", "groundtruth.txt", "groundtruth_rect.txt")
"""Where the boxes of a sequence folder are; the first that exists."""
RGBT210_FILES = ("init.txt", *TRUTH_FILES)
ABSENCE_FILES = ("absent_label.txt", "absent.txt")
ABSENCE_FOLDER = "absent"
"""Beside bare ``NAME.txt``, as the VisEvent and COESOT toolkits ship their annotations."""
IMAGE_FOLDERS = ("color", "colour", "rgb", "visible")


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


def read_annotation(name: str, path: Path, protocol: str = "lasher") -> Annotation:
    """The ground truth of one sequence, in the coordinates of its file.

    Args:
        name: the sequence.
        path: its folder, or its file among bare ``NAME.txt``.
        protocol: RGBT210's boxes are those of ``init.txt``; DepthTrack's come with the size of the images.

    Raises:
        RGBXError: no or malformed annotation, or an absence file of another length.
    """
    if path.is_file():
        truth = read_boxes(path)
        absence = path.parent / ABSENCE_FOLDER / path.name
        if not absence.is_file():
            return Annotation(name, truth)
        flags = _read_flags(absence, path.name, len(truth))
        # VisEvent's toolkit marks absent frames, COESOT's the others (and so do the data sets' own absence files).
        return Annotation(name, truth, present=~flags if protocol == "visevent" else flags)
    if (path / GTOT_FILES[0]).is_file():
        visible, infrared = (corner_truth(read_table(path / file, (4,))) for file in GTOT_FILES)
        return Annotation(name, visible, infrared)
    files = RGBT210_FILES if protocol == "rgbt210" else TRUTH_FILES
    file = next(path / candidate for candidate in files if (path / candidate).is_file())
    truth = _read_vot_boxes(file) if protocol == "depthtrack" else read_boxes(file)
    infrared_file = path / "infrared.txt"
    infrared_truth = read_boxes(infrared_file) if infrared_file.is_file() else None
    absence_file = next((path / candidate for candidate in ABSENCE_FILES if (path / candidate).is_file()), None)
    present = None if absence_file is None else _read_flags(absence_file, file.name, len(truth))
    size = image_size(path) if protocol == "depthtrack" else None
    return Annotation(name, truth, infrared_truth, present, size)


def _read_flags(path: Path, truth_name: str, frames: int) -> np.ndarray:
    flags = np.asarray(read_table(path, (1,))[:, 0] > 0)
    if len(flags) != frames:
        raise RGBXError(f"{path} has {len(flags)} lines, but {truth_name} has {frames}; expected one a frame")
    return flags


def _read_vot_boxes(path: Path) -> np.ndarray:
    """Boxes of a VOT trajectory, in which a line of one number is a special region: NaN, as an absent target is."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return read_boxes(path)
    if not any(re.fullmatch(r"\s*-?\d+(\.0*)?\s*", line) for line in lines):
        return read_boxes(path)
    filled = ["nan,nan,nan,nan" if re.fullmatch(r"\s*-?\d+(\.0*)?\s*", line) else line for line in lines]
    return parse_table(filled, path, (4, 8))


def image_size(folder: Path) -> tuple[int, int] | None:
    """Width and height of a sequence's images, by VOT's ``sequence`` file or the first image; None without either."""
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
    """By the files of the first sequence: ``gtot``, ``visevent``, ``coesot``, ``depthtrack``, ``fe108``, else
    ``lasher``."""
    first = next(iter(paths.values()))
    if (first / GTOT_FILES[0]).is_file():
        return "gtot"
    if (first / "absent_label.txt").is_file():
        return "visevent"
    if (first / "absent.txt").is_file():
        return "coesot"
    if (first / "color").is_dir() and (first / "depth").is_dir():
        return "depthtrack"
    if (first / "groundtruth_rect.txt").is_file() and not (first / "groundtruth.txt").is_file():
        return "fe108"
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
        dataset: folder of annotations, see :func:`find_sequences` (the layouts of the protocols' sets, or bare
            ``NAME.txt`` files).
        results: folder with a result file for every sequence, see
            :func:`tracker.evaluation.results.find_results`; 4 or 8 values a line, in the annotation's own
            coordinates. ``depthtrack`` also needs confidences, see
            :func:`tracker.evaluation.results.find_confidences`.
        protocol: one of :data:`tracker.evaluation.protocols.PROTOCOLS`, or ``auto`` to tell by the annotation
            files (RGBT234 and RGBT210 look like LasHeR and have to be named).
        tracker: name in reports; the results folder's by default.
        split: ``train``, ``test`` (the data set's list file, or a folder of that name), or a list file of
            names.
        sequences: only these.
        options: named options of the LasHeR family.
        round_results: round the numbers of the result files to integers first; by default only for GTOT and
            RGBT210, as their published figures were made.
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
    rounding = protocol in ROUNDED if round_results is None else round_results
    files = find_results(results, paths)
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
    boxes: dict[str, np.ndarray] = {}
    confidences: dict[str, np.ndarray] = {}
    for name, file in files.items():
        if file is None:
            continue
        boxes[name] = _read_vot_boxes(file) if protocol == "depthtrack" else read_boxes(file, round_values=rounding)
        scores = find_confidences(results, name, file) if protocol == "depthtrack" else None
        if scores is not None:
            confidences[name] = _read_confidences(scores)
    metrics = evaluate_annotations(
        [read_annotation(name, paths[name], protocol) for name in boxes],
        boxes,
        protocol,
        tracker=tracker or results.resolve().name,
        options=options,
        round_results=rounding,
        confidences=confidences,
    )
    metrics = replace(metrics, missing=missing, speed=_recorded_speed(results))
    if output is not None:
        write_report([metrics], output)
    return metrics


def _read_confidences(path: Path) -> np.ndarray:
    """The first column. VOT's toolkit leaves the line of the first frame empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RGBXError(f"cannot read {path}: {error}; expected one confidence a line") from error
    filled = ["0", *lines[1:]] if lines and not lines[0].strip() else lines
    return np.asarray(parse_table(filled, path, (1, 2))[:, 0])


def _recorded_speed(results: Path) -> float | None:
    """Frames per second from the ``run.json`` that tracking leaves beside its results, if it did."""
    try:
        value = json.loads((results / "run.json").read_text(encoding="utf-8"))["fps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None
