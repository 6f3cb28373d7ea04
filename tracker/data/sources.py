"""The sequences on disk that a configuration names: a data set, several of them in ratios, or two folders."""

from __future__ import annotations

from pathlib import Path

from tracker.config import DataSection
from tracker.data.layouts import X_FOLDERS, open_dataset, open_pair
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
        modality = X_FOLDERS.get(data.x.name.lower(), data.modality)
        pair = open_pair(data.rgb, data.x, modality, data.depth_style, data.depth_clip, data.event_style)
        return [pair], None
    if data.root is not None:
        return _open(data, data.root, data.layout, data.split, "data.root", progress), None
    groups = [
        _open(data, part.root, part.layout, part.split or data.split, f"data.sets.{index}.root", progress)
        for index, part in enumerate(data.sets)
    ]
    weights = mixture_weights([len(group) for group in groups], [part.ratio for part in data.sets])
    return [sequence for group in groups for sequence in group], weights


def with_split(data: DataSection, split: str) -> DataSection:
    """The same data with another split, of every data set."""
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
        data.depth_style,
        data.depth_clip,
        data.event_style,
        data.val_share,
        progress,
    )
