"""Workspaces of the VOT toolkit over the folders that a user has: links instead of downloads.

The toolkit's ``vot2021/rgbd`` stack names CDTB (80 videos), which it downloads unless ``sequences/list.txt`` is there.
With DepthTrack linked in and listed, the same stack computes DepthTrack's figures and touches no network.
"""

from __future__ import annotations

import configparser
import io
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tracker.data.layouts import frame_files
from tracker.data.sequence import read_image
from tracker.errors import RGBXError
from tracker.evaluation.annotations import find_list
from tracker.evaluation.results import read_table
from tracker.files import atomic_folder, write_text


@dataclass(frozen=True)
class Benchmark:
    """One of the toolkit's benchmarks.

    Attributes:
        stack: name of the experiment stack, which ships with the toolkit.
        experiment: name of the one experiment in it.
        x: the channel of X beside ``color``, as the toolkit calls it.
        anchored: runs start at the anchors of a sequence, not at its first frame.
    """

    stack: str
    experiment: str
    x: str
    anchored: bool


BENCHMARKS = {
    "depthtrack": Benchmark("vot2021/rgbd", "rgbd-unsupervised", "depth", anchored=False),
    "vot-rgbd2022": Benchmark("vot2022/rgbd", "baseline", "depth", anchored=True),
    "vot-rgbt2019": Benchmark("vot2019/rgbtir", "baseline", "ir", anchored=True),
}
CONFIG_FILE = "config.yaml"
TRACKERS_FILE = "trackers.ini"
LIST_FILE = "list.txt"
TIMEOUT = 600
"""Seconds that the toolkit waits for an answer: the first includes loading torch and the network."""
NAME = re.compile(r"[A-Za-z0-9_-]+")


def tracker_command(checkpoint: Path, depth_style: str | None = None, device: str = "auto", x: str = "depth") -> str:
    """Return the command line by which the toolkit starts the tracker, quoted; ``x`` is the channel of X."""
    words = [sys.executable, "-m", "tracker", "vot", "tracker", str(checkpoint.resolve())]
    style = [] if depth_style is None else ["--depth-style", depth_style]
    return shlex.join([*words, *style, "--device", device, "--channel", x])


def prepare_workspace(
    workspace: str | Path,
    data: str | Path,
    benchmark: str,
    command: str,
    name: str,
    *,
    split: str | None = None,
) -> list[str]:
    """Make a workspace, or add a tracker to one of the same benchmark.

    Args:
        workspace: folder; made whole or not at all.
        data: DepthTrack: ``[SPLIT/]NAME/color``, ``depth`` and ``groundtruth.txt``. VOT-RGBD2022 and VOT-RGBT2019: the
            set as the toolkit keeps it, ``NAME/sequence`` and so on.
        benchmark: one of :data:`BENCHMARKS`.
        command: how the toolkit starts the tracker, see :func:`tracker_command`.
        name: of the tracker: letters, digits, ``_`` and ``-``.
        split: DepthTrack's ``test``, or a list file; by default ``test`` if the folder has it, else everything.

    Returns:
        Names of the sequences, in the order of ``sequences/list.txt``.

    Raises:
        RGBXError: sequences that the benchmark cannot use, a foreign folder in the way, or a name that the toolkit
            would refuse.
    """
    workspace, data = Path(workspace), Path(data)
    if benchmark not in BENCHMARKS:
        raise RGBXError(f"benchmark is {benchmark!r}; expected one of {', '.join(BENCHMARKS)}")
    if NAME.fullmatch(name) is None:
        raise RGBXError(f"the tracker's name is {name!r}; the VOT toolkit takes letters, digits, _ and -")
    if not data.is_dir():
        raise RGBXError(f"{data} is not a folder; expected one with a folder for every sequence")
    folders = _find_folders(data, benchmark, split)
    if (workspace / CONFIG_FILE).is_file():
        stack = read_config(workspace).get("stack")
        if stack != BENCHMARKS[benchmark].stack:
            raise RGBXError(f"{workspace} is a workspace of {stack}; give another folder for {benchmark}")
        if listed_sequences(workspace) != [folder.name for folder in folders]:
            raise RGBXError(f"{workspace} was prepared with other sequences than {data} has; give another folder")
        _add_tracker(workspace / TRACKERS_FILE, name, command)
        return listed_sequences(workspace)
    if workspace.exists() and (not workspace.is_dir() or any(workspace.iterdir())):
        raise RGBXError(f"{workspace} exists and is no workspace; give an empty or a new folder")
    if benchmark == "depthtrack":
        lengths = {folder: _check_depthtrack(folder) for folder in folders}
    else:
        _check_vot(folders, BENCHMARKS[benchmark].x)
    with atomic_folder(workspace) as staging:
        (staging / "sequences").mkdir()
        (staging / "results").mkdir()
        for folder in folders:
            if benchmark == "depthtrack":
                _link_depthtrack(folder, staging / "sequences" / folder.name, lengths[folder])
            else:
                (staging / "sequences" / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
        names = "".join(f"{folder.name}\n" for folder in folders)
        (staging / "sequences" / LIST_FILE).write_text(names, encoding="utf-8")
        config = {"registry": [f"./{TRACKERS_FILE}"], "stack": BENCHMARKS[benchmark].stack}
        (staging / CONFIG_FILE).write_text(yaml.safe_dump(config), encoding="utf-8")
        _add_tracker(staging / TRACKERS_FILE, name, command)
    return [folder.name for folder in folders]


def read_config(workspace: Path) -> dict[str, object]:
    """Read a workspace's ``config.yaml``.

    Raises:
        RGBXError: it is not there, or is not a mapping.
    """
    try:
        config = yaml.safe_load((workspace / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RGBXError(f"{workspace} is no workspace of the VOT toolkit; make one with `rgbx vot prepare`") from error
    if not isinstance(config, dict):
        raise RGBXError(f"{workspace / CONFIG_FILE} is not a mapping; make the workspace anew")
    return config


def listed_sequences(workspace: Path) -> list[str]:
    """Return the names in ``sequences/list.txt``.

    Raises:
        RGBXError: there is no list, without which the toolkit would download another set.
    """
    listing = workspace / "sequences" / LIST_FILE
    if not listing.is_file():
        raise RGBXError(f"{listing} is missing, and the VOT toolkit would download a data set; prepare the workspace")
    return listing.read_text(encoding="utf-8").split()


def listed_trackers(workspace: Path) -> list[str]:
    """Return the names in ``trackers.ini``."""
    return _registry(workspace / TRACKERS_FILE).sections()


def _registry(path: Path) -> configparser.ConfigParser:
    registry = configparser.ConfigParser(interpolation=None)
    registry.read(path, encoding="utf-8")
    return registry


def _add_tracker(path: Path, name: str, command: str) -> None:
    registry = _registry(path)
    # The toolkit reads the file with interpolation, in which %% is a %.
    escaped = command.replace("%", "%%")
    registry[name] = {"label": name, "protocol": "trax", "command": escaped, "timeout": str(TIMEOUT)}
    text = io.StringIO()
    registry.write(text)
    write_text(path, text.getvalue())


def _find_folders(data: Path, benchmark: str, split: str | None) -> list[Path]:
    names: list[str] | None = None
    root = data
    listing = data / LIST_FILE if benchmark != "depthtrack" and split is None else None
    if benchmark == "depthtrack" and split is None:
        try:
            split = "test" if find_list(data, "test") else None
        except RGBXError:
            split = None
    if split is not None:
        listing = find_list(data, split)
    if listing is not None and listing.is_dir():
        root = listing
    elif listing is not None and listing.is_file():
        names = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if names is None:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and (p / "groundtruth.txt").is_file())
    else:
        folders = [next((p for p in (root / n, root / "test" / n) if p.is_dir()), root / n) for n in names]
    absent = [folder.name for folder in folders if not (folder / "groundtruth.txt").is_file()]
    if absent or not folders:
        what = f"{absent[0]} (listed, of {len(absent)} such)" if absent else "any NAME/groundtruth.txt"
        raise RGBXError(f"{root} lacks {what}; expected a folder with groundtruth.txt for every sequence")
    return folders


def _check_depthtrack(folder: Path) -> int:
    """Check a sequence and return the number of frames that the toolkit can read."""
    color, depth = (frame_files(folder / name) for name in ("color", "depth"))
    if not color or len(color) != len(depth):
        raise RGBXError(
            f"sequence {folder.name}: {len(color)} images in color/ and {len(depth)} in depth/; expected as many of "
            f"each, and at least one, in {folder}"
        )
    truth = read_table(folder / "groundtruth.txt", (4,))
    if len(truth) > len(color):
        raise RGBXError(f"sequence {folder.name}: {len(truth)} boxes for {len(color)} frames; restore the frames")
    if not (truth[0] == truth[0]).all():
        raise RGBXError(f"sequence {folder.name}: the first frame has no box, from which the toolkit starts trackers")
    return len(color)


def _check_vot(folders: Iterable[Path], x: str) -> None:
    for folder in folders:
        for file in ("sequence", "anchor.value"):
            if not (folder / file).is_file():
                raise RGBXError(f"sequence {folder.name} has no file {file!r}; expected the set as VOT distributes it")
        properties = (folder / "sequence").read_text(encoding="utf-8")
        lacking = next((name for name in ("color", x) if f"channels.{name}=" not in properties.replace(" ", "")), None)
        if lacking is not None:
            raise RGBXError(
                f"sequence {folder.name}: its file 'sequence' names no channel {lacking!r}; expected a line "
                f"channels.{lacking}=..., so give the data of this benchmark"
            )


def _link_depthtrack(folder: Path, target: Path, length: int) -> None:
    """Link the annotation of a sequence and its frames under VOT's numbers, and write its ``sequence`` file."""
    target.mkdir()
    source = folder.resolve()
    for file in sorted(source.iterdir()):
        if file.name == "groundtruth.txt" or file.suffix in (".tag", ".value"):
            (target / file.name).symlink_to(file)
    properties = {"name": folder.name, "fps": "30", "format": "default", "channel.default": "color"}
    for channel in ("color", "depth"):
        files = frame_files(source / channel)
        suffix = files[0].suffix
        plain = [file.name for file in files] == [f"{k:08d}{suffix}" for k in range(1, length + 1)]
        if plain:
            (target / channel).symlink_to(source / channel, target_is_directory=True)
        else:
            (target / channel).mkdir()
            for number, file in enumerate(files, start=1):
                (target / channel / f"{number:08d}{suffix}").symlink_to(file)
        properties[f"channels.{channel}"] = f"{channel}/%08d{suffix}"
    image = read_image(frame_files(source / "color")[0])
    if image is None:
        raise RGBXError(f"sequence {folder.name}: the first image of color/ cannot be decoded; restore it")
    properties |= {"height": str(image.shape[0]), "width": str(image.shape[1]), "length": str(length)}
    text = "".join(f"{key}={value}\n" for key, value in sorted(properties.items()))
    (target / "sequence").write_text(text, encoding="utf-8")
