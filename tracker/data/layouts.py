"""Folders as the public data sets lay them out, read and written.

========== ============================== ================================================
===================== layout     frames                         boxes
  absence ========== ============================== ================================================
  =====================
lasher     visible/, infrared/            visible.txt, infrared.txt, init.txt; 1-based     w or h <= 0
depthtrack color/, depth/ (16-bit mm)     groundtruth.txt; ``*.tag``                       nan
visevent   vis_imgs/, event_imgs/         groundtruth.txt                                  absent_label.txt: 1
= present folders    an RGB folder and an X folder  groundtruth.txt, optional                        nan, or w
or h <= 0 ========== ============================== ================================================
=====================

Boxes in memory are 0-based everywhere (a LasHeR file's 1,1 is 0,0); only LasHeR's files are 1-based. Frames
are taken in natural order of their names (``v9.jpg`` before ``v10.jpg``), whatever the names are, because
published sets are not consistent. Commas, tabs, semicolons and spaces separate numbers.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from tracker.data.depth import depth_to_image
from tracker.data.sequence import FolderSequence, Sequence
from tracker.data.synthetic.generator import SyntheticSequence
from tracker.errors import RGBXError

log = logging.getLogger(__name__)

LAYOUTS = ("lasher", "depthtrack", "visevent", "folders")
RGB_FOLDERS = ("visible", "color", "colour", "rgb", "vis_imgs", "vis", "v", "img")
X_FOLDERS = {
    "infrared": "thermal",
    "thermal": "thermal",
    "ir": "thermal",
    "i": "thermal",
    "depth": "depth",
    "event": "event",
    "events": "event",
    "event_imgs": "event",
    "evimg": "event",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LIST_FILES = {
    "train": ("trainingsetList.txt", "trainingset.txt", "trainlist.txt", "train.txt"),
    "test": ("testingsetList.txt", "testingset.txt", "testlist.txt", "test.txt"),
}
_LAYOUT_MODALITY = {"lasher": "thermal", "depthtrack": "depth", "visevent": "event"}


@dataclass(frozen=True)
class _Parts:
    """Where a layout keeps things: folders, candidate box files, and how boxes are counted."""

    rgb: str
    x: str | None
    modality: str
    boxes: tuple[str, ...]
    one_based: bool = False
    boxes_optional: bool = False


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Sort key by which ``v9`` comes before ``v10`` and ``000010.jpg`` after ``9.jpg``."""
    name = path.name if isinstance(path, Path) else path
    return [(0, int(t), "") if t.isdigit() else (1, 0, t.lower()) for t in re.split(r"([0-9]+)", name) if t]


def frame_files(folder: Path) -> list[Path]:
    """Images of a folder in natural order; hidden files and other kinds are passed over."""
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda p: (natural_key(p), p.name))


def detect_layout(folder: Path) -> str | None:
    """Name of the layout that a sequence's folder has, or None."""

    def has(*names: str) -> bool:
        return all((folder / name).is_dir() for name in names)

    if has("vis_imgs", "event_imgs"):
        return "visevent"
    if has("color", "depth"):
        return "depthtrack"
    if has("visible", "infrared") and any((folder / f"{n}.txt").is_file() for n in ("visible", "infrared", "init")):
        return "lasher"
    if any(has(name) for name in RGB_FOLDERS):
        return "folders"
    return None


def _parts(folder: Path, layout: str, problems: list[str]) -> _Parts | None:
    name = folder.name
    if layout == "lasher":
        parts = _Parts("visible", "infrared", "thermal", ("visible.txt", "init.txt", "infrared.txt"), one_based=True)
    elif layout == "depthtrack":
        parts = _Parts("color", "depth", "depth", ("groundtruth.txt",))
    elif layout == "visevent":
        parts = _Parts("vis_imgs", "event_imgs", "event", ("groundtruth.txt",))
    else:
        rgb = [n for n in RGB_FOLDERS if (folder / n).is_dir()]
        x = [n for n in X_FOLDERS if (folder / n).is_dir()]
        if len(rgb) != 1 or len(x) > 1:
            problems.append(
                f"sequence {name}: {folder} holds {', '.join(rgb + x) or 'no image folder'}; expected one "
                "RGB folder "
                f"({', '.join(RGB_FOLDERS)}) and at most one X folder ({', '.join(X_FOLDERS)})"
            )
            return None
        chosen = x[0] if x else None
        modality = X_FOLDERS[chosen] if chosen else "rgb"
        parts = _Parts(rgb[0], chosen, modality, ("groundtruth.txt",), boxes_optional=True)
    for sub in (parts.rgb, parts.x):
        if sub is not None and not (folder / sub).is_dir():
            problems.append(f"sequence {name}: the folder {folder / sub} is missing; the {layout} layout needs it")
            return None
    return parts


def _read_lines(path: Path, problems: list[str], name: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(
            f"sequence {name}: {path} cannot be read as text ({error.__class__.__name__}); restore the file"
        )
        return []
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(t) for t in re.split(r"[,;\s]+", line.strip()) if t]
    except ValueError:
        return None


def _read_boxes(path: Path, name: str, one_based: bool, problems: list[str]) -> np.ndarray:
    """Boxes of a file, (N, 4) float64 0-based, NaN where absent; every malformed line is a problem and a NaN
    row."""
    lines = _read_lines(path, problems, name)
    boxes = np.full((len(lines), 4), np.nan)
    for number, line in enumerate(lines, 1):
        values = _numbers(line)
        if values is None or len(values) != 4:
            problems.append(
                f"sequence {name}: line {number} of {path} is {line.strip()[:60]!r}; expected four numbers x, y, w, h"
            )
            continue
        box = np.array(values)
        if np.isnan(box).all():
            continue
        if not np.isfinite(box).all():
            problems.append(
                f"sequence {name}: line {number} of {path} is {line.strip()[:60]!r}; expected finite "
                "numbers, or nan in all "
                "four places where the target is absent"
            )
            continue
        if box[2] > 0 and box[3] > 0:
            boxes[number - 1] = box - (1, 1, 0, 0) if one_based else box
    return boxes


def _read_flags(path: Path, name: str, count: int, problems: list[str]) -> np.ndarray | None:
    """(N,) bool of a file with 0 or 1 per line, or None where it does not fit."""
    lines = _read_lines(path, problems, name)
    flags = np.zeros(len(lines), dtype=bool)
    for number, line in enumerate(lines, 1):
        if line.strip() not in ("0", "1"):
            problems.append(f"sequence {name}: line {number} of {path} is {line.strip()[:60]!r}; expected 0 or 1")
            return None
        flags[number - 1] = line.strip() == "1"
    if len(flags) != count:
        problems.append(f"sequence {name}: {path} has {len(flags)} lines for {count} frames; expected one per frame")
        return None
    return flags


def _image_size(path: Path) -> tuple[int, int] | None:
    """(W, H) from the header."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError):
        return None


def _render_depth(x: np.ndarray, style: str) -> np.ndarray:
    # Depth that was already coloured or scaled to 8 bits three channels is a picture; one channel is
    # millimetres.
    return depth_to_image(x, style) if x.ndim == 2 else x


def load_sequence(folder: Path, layout: str, problems: list[str], depth_style: str = "jet") -> FolderSequence | None:
    """Read a sequence's folder; every fault goes to ``problems`` as one sentence. None where nothing can be
    opened."""
    name = folder.name
    if not folder.is_dir():
        problems.append(f"sequence {name}: there is no folder {folder}; check the path")
        return None
    if layout == "auto":
        found = detect_layout(folder)
        if found is None:
            problems.append(
                f"sequence {name}: {folder} has none of the known layouts ({', '.join(LAYOUTS)}); expected "
                "for instance "
                "visible/ and infrared/, color/ and depth/, or vis_imgs/ and event_imgs/"
            )
            return None
        layout = found
    elif layout not in LAYOUTS:
        raise RGBXError(f"layout is {layout!r}; expected auto or one of {', '.join(LAYOUTS)}")
    parts = _parts(folder, layout, problems)
    if parts is None:
        return None
    rgb_files = frame_files(folder / parts.rgb)
    x_files = None if parts.x is None else frame_files(folder / parts.x)
    if not rgb_files:
        problems.append(
            f"sequence {name}: {folder / parts.rgb} holds no image; expected {', '.join(IMAGE_SUFFIXES)} files"
        )
        return None
    if x_files is not None and len(x_files) != len(rgb_files):
        problems.append(
            f"sequence {name}: {len(rgb_files)} frames in {folder / parts.rgb} but {len(x_files)} in "
            f"{folder / str(parts.x)}; "
            "expected as many of each"
        )
        return None
    if layout == "visevent" and x_files is not None:
        for a, b in zip(rgb_files, x_files, strict=True):
            if a.stem != b.stem:
                problems.append(
                    f"sequence {name}: {a} has no event frame of the same name (found {b.name} in its place)"
                )
                return None
    count = len(rgb_files)
    source = next((folder / n for n in parts.boxes if (folder / n).is_file()), None)
    tags: dict[str, np.ndarray] = {}
    if source is None:
        boxes = np.full((count, 4), np.nan)
        if not parts.boxes_optional:
            problems.append(f"sequence {name}: {folder} has no {' or '.join(parts.boxes)}; the boxes are missing")
            return None
    else:
        boxes = _read_boxes(source, name, parts.one_based, problems)
        if len(boxes) != count:
            problems.append(
                f"sequence {name}: {count} frames in {folder / parts.rgb} but {len(boxes)} boxes in "
                f"{source}; expected one box "
                "per frame"
            )
            return None
        if layout == "visevent" and (folder / "absent_label.txt").is_file():
            shown = _read_flags(folder / "absent_label.txt", name, count, problems)
            if shown is not None:
                boxes[~shown] = np.nan
        if layout == "depthtrack":
            for tag in sorted(folder.glob("*.tag")):
                flags = _read_flags(tag, name, count, problems)
                if flags is not None:
                    tags[tag.stem] = flags
        size = _image_size(rgb_files[0])
        if size is None:
            problems.append(f"sequence {name}: frame 0 cannot be decoded as an image: {rgb_files[0]}; restore the file")
        else:
            with np.errstate(invalid="ignore"):
                outside = (boxes[:, 0] >= size[0]) | (boxes[:, 1] >= size[1])
                outside |= (boxes[:, 0] + boxes[:, 2] <= 0) | (boxes[:, 1] + boxes[:, 3] <= 0)
            for index in np.flatnonzero(outside):
                x, y, w, h = boxes[index] + ((1, 1, 0, 0) if parts.one_based else (0, 0, 0, 0))
                problems.append(
                    f"sequence {name}: line {index + 1} of {source} is the box x={x:g} y={y:g} w={w:g} "
                    f"h={h:g}, wholly outside "
                    f"the {size[0]}x{size[1]} image; expected a box that touches the image, or an absent one"
                )
    render: Callable[[np.ndarray], np.ndarray] | None = None
    if parts.modality == "depth":
        render = partial(_render_depth, style=depth_style)
    return FolderSequence(name, parts.modality, rgb_files, x_files, boxes, render, source or folder, tags)


def _raise_first(problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more; `rgbx data check` lists them)" if len(problems) > 1 else ""
        raise RGBXError(problems[0] + more)


def open_sequence(folder: str | os.PathLike[str], layout: str = "auto", depth_style: str = "jet") -> FolderSequence:
    """Open one sequence's folder.

    Args:
        folder: the folder that holds the image folders.
        layout: one of :data:`LAYOUTS`, or ``"auto"``.
        depth_style: :func:`tracker.data.depth.depth_to_image`.

    Raises:
        RGBXError: anything wrong with folder, frames' numbers or boxes; names sequence, line and file.
    """
    problems: list[str] = []
    sequence = load_sequence(Path(folder), layout, problems, depth_style)
    _raise_first(problems)
    assert sequence is not None
    return sequence


def _listed_names(path: Path) -> list[str]:
    problems: list[str] = []
    lines = _read_lines(path, problems, path.name)
    _raise_first(problems)
    return [line.strip().rstrip("/") for line in lines if line.strip() and not line.lstrip().startswith("#")]


def sequence_folders(root: str | os.PathLike[str], layout: str = "auto", split: str | None = None) -> list[Path]:
    """Folders of a data set's sequences, in the order of the list file or in natural order.

    ``split`` is ``"train"`` or ``"test"`` (the layout's list file, or a folder of that name, in ``root``), or
    the path of any list file with one name per line. Names are looked for in ``root`` and in its folders.

    Raises:
        RGBXError: no such folder or split, or a listed sequence that is not there.
    """
    base = Path(root)
    if layout != "auto" and layout not in LAYOUTS:
        raise RGBXError(f"layout is {layout!r}; expected auto or one of {', '.join(LAYOUTS)}")
    if not base.is_dir():
        raise RGBXError(f"there is no folder {base}; expected the root of a data set")
    listing: Path | None = None
    if split is not None:
        candidates = [base / n for n in _LIST_FILES.get(split, ())] or [Path(split), base / split]
        listing = next((path for path in candidates if path.is_file()), None)
        if listing is None and (base / split).is_dir():
            base = base / split
        elif listing is None:
            sought = ", ".join(str(path) for path in candidates)
            raise RGBXError(
                f"split {split!r} is not in {base}: none of {sought}, nor a folder of that name; give a list file"
            )
    elif (base / "list.txt").is_file():
        listing = base / "list.txt"
    inner = [p for p in sorted(base.iterdir(), key=natural_key) if p.is_dir() and not p.name.startswith(".")]
    if listing is None:
        folders = [p for p in inner if detect_layout(p) is not None]
        if not folders and detect_layout(base) is not None:
            folders = [base]
        if not folders:
            folders = [
                q
                for p in inner
                for q in sorted(p.iterdir(), key=natural_key)
                if q.is_dir() and not q.name.startswith(".") and detect_layout(q) is not None
            ]
        if not folders:
            raise RGBXError(f"{base} holds no sequence in a known layout ({', '.join(LAYOUTS)}); check the path")
        return folders
    folders = []
    for name in _listed_names(listing):
        found = next((p for p in [base / name, *(q / name for q in inner)] if p.is_dir()), None)
        if found is None:
            raise RGBXError(
                f"sequence {name}, listed in {listing}, is not in {base}; restore it or take it off the list"
            )
        folders.append(found)
    if not folders:
        raise RGBXError(f"{listing} lists no sequence; expected one name per line")
    return folders


def open_dataset(
    root: str | os.PathLike[str],
    layout: str = "auto",
    split: str | None = None,
    broken: str = "raise",
    depth_style: str = "jet",
) -> list[Sequence]:
    """Open every sequence of a data set; frames are decoded when they are asked for.

    Args:
        root: folder of sequences' folders (or one sequence's folder).
        layout: one of :data:`LAYOUTS`, or ``"auto"``, decided for each sequence.
        split: see :func:`sequence_folders`.
        broken: ``"raise"``, or ``"skip"``: log what is wrong with a sequence and leave it out.

    Raises:
        RGBXError: as :func:`open_sequence`; or no sequence is left.
    """
    if broken not in ("raise", "skip"):
        raise RGBXError(f"broken is {broken!r}; expected 'raise' or 'skip'")
    opened: list[Sequence] = []
    for folder in sequence_folders(root, layout, split):
        try:
            opened.append(open_sequence(folder, layout, depth_style))
        except RGBXError as error:
            if broken == "raise":
                raise
            log.warning("left out: %s", error)
    if not opened:
        raise RGBXError(f"no sequence of {root} can be opened; `rgbx data check` tells why")
    return opened


# Writing


def _encode(path: Path, image: np.ndarray) -> None:
    """Write an image (RGB order); OSError where the disk refuses it, which cv2.imwrite would swallow."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, bgr, options)
    if not done:
        raise OSError(f"{path} could not be encoded")
    path.write_bytes(data.tobytes())


def _number(value: float) -> str:
    return f"{value:.10g}"


def _write_boxes(path: Path, boxes: np.ndarray, absent: str, one_based: bool) -> None:
    shift = np.array([1.0, 1.0, 0.0, 0.0]) if one_based else np.zeros(4)
    lines = [absent if np.isnan(box).any() else ",".join(_number(v) for v in box + shift) for box in boxes]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sequence(
    sequence: Sequence,
    root: str | os.PathLike[str],
    layout: str,
    name: str | None = None,
    lossless: bool = False,
    first: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a sequence to ``root/name``, whole or not at all.

    Everything goes to a hidden folder beside it, which is renamed when complete; an OSError (a full disk)
    removes it.

    Args:
        sequence: any sequence; its modality must be the layout's (any modality for ``"folders"``).
        layout: one of :data:`LAYOUTS`.
        name: folder's name, by default the sequence's.
        lossless: PNG where the layout's own format is JPEG.
        first: number of the first frame in file names; by default what the layout has (LasHeR and VisEvent 0,
            others 1).
        overwrite: replace an existing folder.

    Returns:
        The sequence's folder.

    Raises:
        RGBXError: the layout cannot hold this sequence, or the folder exists.
        OSError: the disk.
    """
    if layout not in LAYOUTS:
        raise RGBXError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    needed = _LAYOUT_MODALITY.get(layout, sequence.modality)
    if sequence.modality != needed:
        raise RGBXError(
            f"sequence {sequence.name} is {sequence.modality}; the {layout} layout holds {needed} sequences"
        )
    base = Path(root)
    target = base / (name or sequence.name)
    if target.exists() and not overwrite:
        raise RGBXError(f"{target} exists; choose another folder, or allow it to be overwritten")
    base.mkdir(parents=True, exist_ok=True)
    staging = base / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _write_into(staging, sequence, layout, lossless, first)
        if target.exists():
            old = base / f".{target.name}.old-{os.getpid()}"
            os.replace(target, old)
            os.replace(staging, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def _write_into(folder: Path, sequence: Sequence, layout: str, lossless: bool, first: int | None) -> None:
    photo = ".png" if lossless else ".jpg"
    x_name = {"thermal": "infrared", "depth": "depth", "event": "event"}.get(sequence.modality)
    # (RGB folder, X folder, RGB file, X file); the numbers in names are those of the published sets.
    table: dict[str, tuple[str, str | None, str, str, int]] = {
        "lasher": ("visible", "infrared", "v{:03d}" + photo, "i{:03d}" + photo, 0),
        "depthtrack": ("color", "depth", "{:08d}" + photo, "{:08d}.png", 1),
        "visevent": ("vis_imgs", "event_imgs", "frame{:04d}.bmp", "frame{:04d}.bmp", 0),
        "folders": ("visible", x_name, "{:06d}.png", "{:06d}.png", 1),
    }
    rgb_folder, x_folder, rgb_file, x_file, start = table[layout]
    start = start if first is None else first
    (folder / rgb_folder).mkdir(parents=True)
    if x_folder:
        (folder / x_folder).mkdir()
    for index in range(sequence.length):
        rgb, x = sequence.raw(index)
        _encode(folder / rgb_folder / rgb_file.format(start + index), rgb)
        if x_folder is None:
            continue
        if x is None:
            raise RGBXError(
                f"sequence {sequence.name} has no {sequence.modality} images; the {layout} layout needs them"
            )
        if sequence.modality == "depth" and x.ndim == 3 and layout == "depthtrack":
            raise RGBXError(
                f"sequence {sequence.name} has rendered depth only; the depthtrack layout holds millimetres"
            )
        if sequence.modality == "event" and isinstance(sequence, SyntheticSequence):
            x = sequence.render_x(x)
        _encode(folder / x_folder / x_file.format(start + index), x)
    boxes = sequence.boxes
    if layout == "lasher":
        for stem in ("visible", "infrared", "init"):
            _write_boxes(folder / f"{stem}.txt", boxes, "0,0,0,0", one_based=True)
    elif layout == "visevent":
        _write_boxes(folder / "groundtruth.txt", boxes, "0,0,0,0", one_based=False)
        flags = "\n".join("1" if p else "0" for p in sequence.present)
        (folder / "absent_label.txt").write_text(flags + "\n", encoding="utf-8")
    else:
        _write_boxes(folder / "groundtruth.txt", boxes, "nan,nan,nan,nan", one_based=False)
    if layout == "depthtrack" and isinstance(sequence, FolderSequence):
        for tag, values in sequence.tags.items():
            text = "\n".join("1" if v else "0" for v in values)
            (folder / f"{tag}.tag").write_text(text + "\n", encoding="utf-8")


def write_dataset(
    sequences: Iterable[Sequence],
    root: str | os.PathLike[str],
    layout: str,
    split: str | None = None,
    lossless: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Write sequences, and the list file of ``split`` (``"train"`` or ``"test"``), in one layout.

    Raises:
        RGBXError, OSError: as :func:`write_sequence`; the sequences already complete stay, the list is not
            written.
    """
    if split is not None and split not in _LIST_FILES:
        raise RGBXError(f"split is {split!r}; expected one of {', '.join(_LIST_FILES)}")
    written: list[Path] = []
    for sequence in tqdm(list(sequences), desc="sequences", disable=not progress):
        written.append(write_sequence(sequence, root, layout, lossless=lossless, overwrite=overwrite))
    if split is not None:
        listing = Path(root) / _LIST_FILES[split][0 if layout == "lasher" else 2]
        staging = listing.with_name(f".{listing.name}.partial-{os.getpid()}")
        try:
            staging.write_text("".join(f"{p.name}\n" for p in written), encoding="utf-8")
            os.replace(staging, listing)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
    return written
