"""Opening sequences and data sets: nothing is decoded but the header of each sequence's first image."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tqdm import tqdm

from tracker.data.layouts.layout import Layout, Reading
from tracker.data.layouts.own import OwnFolders
from tracker.data.layouts.registry import BY_NAME, LAYOUTS, check_layout, detect_layout
from tracker.data.layouts.splits import VAL_SHARE, sequence_folders
from tracker.data.rendering import XStyle
from tracker.data.sequence import FolderSequence, Sequence
from tracker.errors import RGBXError

log = logging.getLogger(__name__)


def load_sequence(
    folder: Path,
    layout: str | Layout,
    problems: list[str],
    style: XStyle | None = None,
    notes: list[str] | None = None,
    box_faults: list[str] | None = None,
) -> FolderSequence | None:
    """Read a sequence's folder; every fault goes to ``problems`` as one sentence, what is harmless to ``notes``.

    A box that cannot be used is a problem too, unless there is a list ``box_faults`` for those.

    None where nothing can be opened.
    """
    name = folder.name
    if isinstance(layout, str):
        check_layout(layout)
    if not folder.is_dir():
        problems.append(f"sequence {name}: there is no folder {folder}; check the path")
        return None
    if isinstance(layout, str):
        found = detect_layout(folder) if layout == "auto" else layout
        if found is None:
            problems.append(
                f"sequence {name}: {folder} has none of the known layouts ({', '.join(LAYOUTS)}); expected for "
                "instance visible/ and infrared/, color/ and depth/, or vis_imgs/ and event_imgs/"
            )
            return None
        layout = BY_NAME[found]
    return layout.read(folder, Reading(style or XStyle(), problems, [] if notes is None else notes, box_faults))


def _opened(folder: Path, layout: str | Layout, style: XStyle, faulty_boxes: str = "raise") -> FolderSequence:
    if faulty_boxes not in ("raise", "keep"):
        raise RGBXError(f"faulty_boxes is {faulty_boxes!r}; expected 'raise' or 'keep'")
    problems: list[str] = []
    faults: list[str] | None = None if faulty_boxes == "raise" else []
    sequence = load_sequence(folder, layout, problems, style, box_faults=faults)
    if problems:
        raise RGBXError(_first_of(problems))
    assert sequence is not None
    if faults:
        log.warning("%s; the other frames are used", _first_of(faults))
    return sequence


def _first_of(problems: list[str]) -> str:
    more = f" (and {len(problems) - 1} more; `rgbx data check` lists them)" if len(problems) > 1 else ""
    return problems[0] + more


def open_sequence(
    folder: str | os.PathLike[str],
    layout: str = "auto",
    style: XStyle | None = None,
    faulty_boxes: str = "raise",
) -> FolderSequence:
    """Open one sequence's folder.

    Args:
        folder: the folder that holds the image folders.
        layout: one of :data:`~tracker.data.layouts.LAYOUTS`, or ``"auto"``.
        style: how X becomes a picture.
        faulty_boxes: ``"raise"``, or ``"keep"``: log boxes that cannot be used (a malformed line, a box wholly outside
            the image) and open the sequence all the same.

    Raises:
        RGBXError: anything wrong with folder, frames' numbers or boxes; names sequence, line and file.
    """
    return _opened(Path(folder), layout, style or XStyle(), faulty_boxes)


def open_pair(
    rgb: str | os.PathLike[str],
    x: str | os.PathLike[str],
    modality: str | None = None,
    style: XStyle | None = None,
) -> FolderSequence:
    """Open two folders of equally many images as one sequence, wherever they are.

    Boxes are read from ``groundtruth.txt`` in the folder that holds the RGB folder, which also names the sequence.

    Args:
        rgb: folder of RGB images.
        x: folder of X images.
        modality: what ``x`` holds. None finds out by its name.
        style: how X becomes a picture.

    Raises:
        RGBXError: as :func:`open_sequence`; or the modality cannot be told.
    """
    rgb_folder, x_folder = Path(rgb).absolute(), Path(x).absolute()
    layout = OwnFolders(rgb_folder, x_folder, modality)
    return _opened(rgb_folder.parent, layout, style or XStyle())


def open_dataset(
    root: str | os.PathLike[str],
    layout: str = "auto",
    split: str | None = None,
    broken: str = "raise",
    style: XStyle | None = None,
    val_share: float = VAL_SHARE,
    progress: bool = False,
    faulty_boxes: str = "raise",
) -> list[Sequence]:
    """Open every sequence of a data set; frames are decoded when they are asked for.

    Args:
        root: folder of sequences' folders (or one sequence's folder).
        layout: one of :data:`~tracker.data.layouts.LAYOUTS`, or ``"auto"``, which decides for each sequence.
        split: see :func:`~tracker.data.layouts.splits.sequence_folders`.
        broken: ``"raise"``, or ``"skip"``, which logs what is wrong with a sequence and leaves it out.
        style: how X becomes a picture.
        val_share: see :func:`~tracker.data.layouts.splits.sequence_folders`.
        progress: show a progress bar.
        faulty_boxes: see :func:`open_sequence`.

    Raises:
        RGBXError: as :func:`open_sequence`; or no sequence is left.
    """
    if broken not in ("raise", "skip"):
        raise RGBXError(f"broken is {broken!r}; expected 'raise' or 'skip'")
    chosen = style or XStyle()
    opened: list[Sequence] = []
    folders = sequence_folders(root, layout, split, val_share)
    for folder in tqdm(folders, desc="opening sequences", disable=not progress):
        try:
            opened.append(_opened(folder, layout, chosen, faulty_boxes))
        except RGBXError as error:
            if broken == "raise":
                raise
            log.warning("left out: %s", error)
    if not opened:
        raise RGBXError(f"no sequence of {root} can be opened; `rgbx data check` tells why")
    return opened
