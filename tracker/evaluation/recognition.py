"""Finds out which protocol a data set's annotations belong to, and says why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tracker.data.layouts.frames import any_frame
from tracker.errors import RGBXError
from tracker.evaluation import vtuav
from tracker.evaluation.annotations import GTOT_FILES, ambiguous_flags, bare_absence_file
from tracker.evaluation.results import read_boxes

NOTHING_TELLS = "no file tells of another benchmark"


class Recognized(NamedTuple):
    """A protocol and the reason for it, as the end of a sentence that says that it was taken."""

    protocol: str
    reason: str


def recognize_protocol(paths: Mapping[str, Path]) -> Recognized:
    """Tell the protocol by the annotation files of all sequences.

    LasHeR and RGBT234 have files of the same names. LasHeR's images are aligned, and its two files are equal; RGBT234
    was annotated in each image, and they differ. RGBT234's frames are named ``00001v.jpg``, LasHeR's are not.

    Args:
        paths: sequence name to its folder, or to its file among bare ``NAME.txt``.

    Raises:
        RGBXError: bare files with flags of absence, of which nothing tells what they mean.
    """
    first = next(iter(paths.values()))
    flags = bare_absence_file(first) if first.is_file() else None
    if flags is not None:
        raise RGBXError(ambiguous_flags(flags.parent))
    if (first / GTOT_FILES[0]).is_file():
        return Recognized("gtot", f"there is a {GTOT_FILES[0]}")
    if all((first / file).is_file() for file in vtuav.BOX_FILES):
        return Recognized("vtuav", f"there are {vtuav.BOX_FILES[0]} and {vtuav.BOX_FILES[1]}")
    if (first / "absent_label.txt").is_file():
        return Recognized("visevent", "there is an absent_label.txt")
    if (first / "absent.txt").is_file():
        return Recognized("coesot", "there is an absent.txt")
    if (first / "color").is_dir() and (first / "depth").is_dir():
        return Recognized("depthtrack", "there are folders color and depth")
    if (first / "groundtruth_rect.txt").is_file() and not (first / "groundtruth.txt").is_file():
        return Recognized("fe108", "there is a groundtruth_rect.txt and no groundtruth.txt")
    return _aligned_or_not(paths, first)


def _aligned_or_not(paths: Mapping[str, Path], first: Path) -> Recognized:
    """Tell LasHeR, RGBT234 and RGBT210 apart; what is none of them counts as LasHeR."""
    numbered = re.fullmatch(r"[0-9]+v\.[a-z]+", any_frame(first / "visible")) is not None
    pairs = [(p / "visible.txt", p / "infrared.txt") for p in paths.values()]
    pairs = [pair for pair in pairs if all(file.is_file() for file in pair)]
    if not pairs:
        if (first / "init.txt").is_file() and not (first / "visible.txt").is_file():
            return Recognized("rgbt210", "there is an init.txt and no visible.txt")
        return Recognized("lasher", NOTHING_TELLS)
    differing = sum(_differ(*pair) for pair in pairs)
    told = f"visible.txt and infrared.txt differ in {differing} of {len(pairs)} sequences"
    if numbered or 2 * differing > len(pairs):
        return Recognized("rgbt234", f"{told}, and frames are named like 00001v.jpg" if numbered else told)
    return Recognized("lasher", told)


def _differ(visible: Path, infrared: Path) -> bool:
    try:
        if visible.read_bytes() == infrared.read_bytes():
            return False
        one, other = read_boxes(visible), read_boxes(infrared)
    except (OSError, RGBXError):
        return False  # the next reader of the annotation says what is wrong with it
    return one.shape != other.shape or not np.array_equal(one, other, equal_nan=True)
