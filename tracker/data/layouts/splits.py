"""Which sequences a split has: official lists and folders, and a share of the training sequences for validation.

``train`` and ``test`` are what the data set's own list files say, or folders of such a name. VTUAV has ``train_ST``,
``train_LT``, ``test_ST`` and ``test_LT`` (short and long term), which ``train`` and ``test`` join. ``val`` is a share
of the *training* sequences chosen by a hash of their names (the same on every machine, and never a test set, which is
what several published configurations call "val"); ``train_without_val`` is the rest. Any other split is the path of a
list file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence as ListLike
from pathlib import Path

from tracker.data.layouts.annotations import read_lines
from tracker.data.layouts.frames import natural_key
from tracker.data.layouts.registry import BY_NAME, LAYOUTS, check_layout, detect_layout
from tracker.errors import RGBXError

log = logging.getLogger(__name__)

VAL_SHARE = 0.05
DERIVED = ("val", "train_without_val")
_SETS = ("depthtrack", "visevent", "coesot", "fe108")
LIST_FILES: dict[str, tuple[str, ...]] = {
    "train": (
        *("trainingsetList.txt", "trainingset.txt", "trainlist.txt", "train_list.txt", "train.txt"),
        *(f"{name}_train.txt" for name in _SETS),
    ),
    "test": (
        *("testingsetList.txt", "testingset.txt", "testlist.txt", "test_list.txt", "test.txt"),
        *(f"{name}_test.txt" for name in _SETS),
        *("RGBT234.txt", "RGBT210.txt", "SequencesName.txt"),
    ),
    "train_ST": ("train_ST.txt", "ST_train_split.txt"),
    "train_LT": ("train_LT.txt", "LT_train_split.txt"),
    "test_ST": ("test_ST.txt",),
    "test_LT": ("test_LT.txt",),
}
"""Usual names of list files, best first; they are looked for in the root and in its folders of lists."""
LIST_FOLDERS = ("", "list", "lists", "split", "splits")
TERMS = {"ST": ("st", "short", "shortterm"), "LT": ("lt", "long", "longterm")}
"""VTUAV's short-term and long-term sequences, as folders name them."""


def _is_part(name: str, split: str) -> bool:
    """Return whether a folder's name says that it holds a split: ``train``, ``TrainingSet``, ``Testing Subset``."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return re.fullmatch(rf"{split}(ing)?(set|subset|data|sequences)?", plain) is not None


def _is_term(name: str, split: str) -> bool:
    """Return whether a folder's name says that it holds one of VTUAV's subsets: ``test_ST``, ``train_LT_003``."""
    part, _, term = split.partition("_")
    plain = re.sub(r"[^a-z]", "", name.lower())
    return any(plain in (part + word, f"{part}ing{word}") for word in TERMS.get(term, ()))


def _term_folders(base: Path, split: str) -> list[Path]:
    """Find the folders of a VTUAV subset, beside one another or in a folder of their part (``test/short-term``)."""
    part, _, term = split.partition("_")
    inner = _folders_in(base)
    found = [p for p in inner if _is_term(p.name, split)]
    for place in (p for p in inner if _is_part(p.name, part)):
        plain = {p: re.sub(r"[^a-z]", "", p.name.lower()) for p in _folders_in(place)}
        found += [p for p, name in plain.items() if name in TERMS[term] or _is_term(p.name, split)]
    return found


def _folders_in(base: Path) -> list[Path]:
    with os.scandir(base) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [base / name for name in sorted(names, key=natural_key)]


def all_folders(base: Path) -> list[Path]:
    """List the folders of sequences in a folder, in natural order: those in it, or itself, or those one level down.

    Raises:
        RGBXError: none of these is a sequence.
    """
    inner = _folders_in(base)
    folders = [p for p in inner if detect_layout(p) is not None]
    if not folders and detect_layout(base) is not None:
        folders = [base]
    if not folders:
        folders = [q for p in inner for q in _folders_in(p) if detect_layout(q) is not None]
    if not folders:
        raise RGBXError(f"{base} holds no sequence in a known layout ({', '.join(LAYOUTS)}); check the path")
    return folders


def find_list(base: Path, split: str) -> Path | None:
    """Find the list file of a split, or None."""
    names = LIST_FILES.get(split, ())
    return next((p for place in LIST_FOLDERS for n in names if (p := base / place / n).is_file()), None)


def listed_folders(base: Path, listing: Path) -> tuple[list[Path], list[str]]:
    """Find the folders of the listed sequences, in the list's order, and the names that have none.

    Names are looked for in ``base``, in its folders, and in theirs.

    Raises:
        RGBXError: the list cannot be read, or is empty.
    """
    problems: list[str] = []
    lines = read_lines(listing, problems, listing.name)
    if problems:
        raise RGBXError(problems[0])
    names = [line.strip().rstrip("/") for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise RGBXError(f"{listing} lists no sequence; expected one name per line")
    found = {name: base / name for name in names if (base / name).is_dir()}
    around = _folders_in(base) if len(found) < len(set(names)) else []
    for depth in range(2):
        absent = [name for name in names if name not in found]
        if not absent:
            break
        if depth:
            around = [q for p in around for q in _folders_in(p)]
        for folder in around:
            found.update({name: folder / name for name in absent if (folder / name).is_dir()})
    return [found[name] for name in names if name in found], [name for name in names if name not in found]


def held_out(folders: ListLike[Path], share: float = VAL_SHARE) -> set[Path]:
    """Choose the sequences that validation takes: those of the smallest hashes of their names, at least one.

    Raises:
        RGBXError: a share outside (0, 1), or fewer than two sequences.
    """
    if not 0 < share < 1:
        raise RGBXError(f"the share of sequences for validation is {share}; expected one between 0 and 1")
    if len(folders) < 2:
        raise RGBXError(f"{len(folders)} training sequence cannot be shared with validation; at least 2 are needed")
    ranked = sorted(folders, key=lambda folder: hashlib.sha256(folder.name.encode()).hexdigest())
    return set(ranked[: min(max(1, round(share * len(folders))), len(folders) - 1)])


def sequence_folders(
    root: str | os.PathLike[str], layout: str = "auto", split: str | None = None, val_share: float = VAL_SHARE
) -> list[Path]:
    """List the folders of a data set's sequences, in the order of the list file or in natural order.

    Args:
        root: the data set's folder, or one sequence's.
        layout: one of :data:`~tracker.data.layouts.LAYOUTS`, or ``"auto"``.
        split: ``"train"`` or ``"test"`` (a list file, or a folder of such a name, in ``root``; all sequences of a
            benchmark without a training part are its test split, all sequences of one's own folders are training
            ones), ``"val"`` or ``"train_without_val"`` (see the module), or the path of any list file with one name
            per line. None takes all, or those of VOT's ``list.txt``.
        val_share: share of the training sequences that is ``val``.

    Raises:
        RGBXError: no such folder or split, or a listed sequence that is not there.
    """
    base = Path(root)
    check_layout(layout)
    if not base.is_dir():
        raise RGBXError(f"there is no folder {base}; expected the root of a data set")
    if split in DERIVED:
        training = sequence_folders(base, layout, "train")
        apart = held_out(training, val_share)
        return [folder for folder in training if (folder in apart) == (split == "val")]
    places, listings = _find_split(base, layout, split)
    if not listings:
        return _of_one_name_once([folder for place in places for folder in all_folders(place)])
    found: list[Path] = []
    for listing in listings:
        folders, missing = listed_folders(places[0], listing)
        if missing:
            raise RGBXError(
                f"sequence {missing[0]}, listed in {listing}, is not in {places[0]}; restore it or take it off the list"
            )
        found += folders
    return found


def _of_one_name_once(folders: list[Path]) -> list[Path]:
    """Leave out folders whose name came before: three training sequences of VTUAV lie in two groups."""
    first: dict[str, Path] = {}
    for folder in folders:
        if first.setdefault(folder.name, folder) is not folder:
            log.warning("sequence %s is left out, because %s has its name", folder, first[folder.name])
    return list(first.values())


def _find_split(base: Path, layout: str, split: str | None) -> tuple[list[Path], list[Path]]:
    """Find the folders to look in, and the lists to go by, if any."""
    vot_list = [path for path in (base / "list.txt",) if path.is_file()]
    if split is None:
        return [base], vot_list
    if split not in LIST_FILES:
        listing = next((p for p in (Path(split), base / split) if p.is_file()), None)
        if listing is not None:
            return [base], [listing]
        if (base / split).is_dir():
            return [base / split], []
        raise RGBXError(f"split {split!r} is not in {base}: no list file {base / split}, nor a folder of that name")
    listing = find_list(base, split)
    if listing is not None:
        return [base], [listing]
    if "_" in split:
        parts = _term_folders(base, split)
        if parts:
            return parts, []
        sought = ", ".join(LIST_FILES[split])
        raise RGBXError(f"split {split!r} is not in {base}: none of {sought}, nor folders such as {split}_001")
    parts = [p for p in _folders_in(base) if _is_part(p.name, split)]
    if parts:
        inner = [path for path in (parts[0] / "list.txt", find_list(parts[0], split)) if path and path.is_file()]
        return parts, inner[:1]
    lists = [path for term in TERMS if (path := find_list(base, f"{split}_{term}")) is not None]
    if lists:
        return [base], lists
    terms = [place for term in TERMS for place in _term_folders(base, f"{split}_{term}")]
    if terms:
        return terms, []
    if _is_part(base.name, split):
        return [base], vot_list
    kind = BY_NAME[layout if layout != "auto" else str(detect_layout(all_folders(base)[0]))]
    if split == "test" and vot_list:
        return [base], vot_list
    if split == "train" and kind.official == ("test",):
        raise RGBXError(f"{base} is {kind.name}, which has no training part; train on another data set")
    if kind.official == (("test",) if split == "test" else ()):
        return [base], []
    sought = ", ".join(LIST_FILES[split])
    raise RGBXError(f"split {split!r} is not in {base}: none of {sought}, nor a folder of that name; give a list file")
