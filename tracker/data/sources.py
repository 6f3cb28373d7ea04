"""Opening the sequences that a configuration names: a data set, several of them in ratios, or two folders."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from pathlib import Path

import numpy as np

from tracker.config import DataSection
from tracker.data.events import ARRAY_SUFFIXES
from tracker.data.layouts import X_FOLDERS, open_dataset, open_pair
from tracker.data.rendering import x_style
from tracker.data.sampling import mixture_weights
from tracker.data.sequence import Sequence
from tracker.errors import RGBXError


def open_sources(data: DataSection, progress: bool = False) -> tuple[list[Sequence], list[float] | None]:
    """Open what ``data`` names.

    Args:
        data: a checked section with ``source: folder``.
        progress: show a progress bar for each data set.

    Returns:
        The sequences, and for several data sets a weight for each sequence with which every data set is drawn from by
        its ratio, whatever its size; None, every sequence alike, for one.

    Raises:
        RGBXError: a folder that is missing, or holds nothing that can be opened.
    """
    if data.rgb is not None and data.x is not None:
        modality = data.modality or X_FOLDERS.get(data.x.name.lower())
        return [open_pair(data.rgb, data.x, modality, x_style(data))], None
    if data.root is not None:
        return _open(data, data.root, data.layout, data.split, "data.root", progress), None
    groups = [
        _open(data, part.root, part.layout or data.layout, part.split or data.split, f"data.sets.{i}.root", progress)
        for i, part in enumerate(data.sets)
    ]
    weights = mixture_weights([len(group) for group in groups], [part.ratio for part in data.sets])
    return [sequence for group in groups for sequence in group], weights


def check_modality(sequences: Sequences[Sequence], data: DataSection) -> None:
    """Compare what was opened with what the configuration says about X.

    Raises:
        RGBXError: a sequence of another modality than ``data.modality``; or a style of X was asked for together with
            the data, and no sequence has an X that it is for.
    """
    other = next((s for s in sequences if data.modality is not None and s.modality != data.modality), None)
    if other is not None:
        raise RGBXError(
            f"data.modality is {data.modality}, and sequence {other.name} is {other.modality}; correct it or leave it "
            "out"
        )
    kinds = (
        ({"depth_style", "depth_clip"}, "depth", lambda s: s.modality == "depth"),
        ({"event_style"}, "events that are stored as arrays", _has_arrays),
        ({"thermal_style", "thermal_range"}, "thermal images of more than 8 bits", _has_raw_thermal),
    )
    for names, what, has in kinds:
        asked = sorted(names & data.asked)
        if asked and not any(has(sequence) for sequence in sequences):
            raise RGBXError(f"data.{asked[0]} has no effect: no sequence has {what}; leave it out")


def _has_arrays(sequence: Sequence) -> bool:
    files = [path for path in getattr(sequence, "x_files", None) or () if path is not None][:1]
    return sequence.modality == "event" and any(path.suffix.lower() in ARRAY_SUFFIXES for path in files)


def _has_raw_thermal(sequence: Sequence) -> bool:
    if sequence.modality != "thermal":
        return False
    x = sequence.raw(0)[1]
    return x is not None and x.dtype != np.uint8


def with_split(data: DataSection, split: str) -> DataSection:
    """Return the same data with another split, of every data set."""
    sets = tuple(part.model_copy(update={"split": split}) for part in data.sets)
    return data.model_copy(update={"split": split, "sets": sets})


def _open(data: DataSection, root: Path, layout: str, split: str | None, key: str, progress: bool) -> list[Sequence]:
    if not root.is_dir():
        raise RGBXError(f"{key} {root} is not a folder")
    return open_dataset(
        root,
        layout,
        split,
        data.unusable,
        x_style(data),
        data.val_share,
        progress,
    )
