"""RGB with depth: DepthTrack, and VOT-RGBD2022 in the VOT toolkit's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tracker.data.layouts.annotations import read_flags, read_lines, read_values, write_flags
from tracker.data.layouts.frames import image_size
from tracker.data.layouts.layout import Layout, Naming, Places, Reading, required
from tracker.data.sequence import Sequence

METADATA = "sequence"
"""VOT's file of ``key=value`` lines, without a suffix."""


class DepthTrack(Layout):
    """``color/`` and ``depth/`` (16 bits, millimeters), boxes from 0 with nan where absent, ``*.tag`` per frame."""

    name = "depthtrack"
    modality = "depth"
    absent = "nan,nan,nan,nan"
    lists = {"train": "train.txt", "test": "test.txt"}  # noqa: RUF012

    def recognizes(self, folder: Path) -> bool:
        return (folder / "color").is_dir() and (folder / "depth").is_dir()

    def places(self, folder: Path, reading: Reading) -> Places | None:
        return required(folder, self.name, "color", "depth", "depth", reading)

    def naming(self, modality: str) -> Naming:
        return Naming("color/{index:08d}.jpg", "depth/{index:08d}.png")

    def attributes(
        self, folder: Path, count: int, reading: Reading
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        tags: dict[str, np.ndarray] = {}
        values: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.tag")):
            flags = read_flags(path, folder.name, count, reading.problems)
            if flags is not None:
                tags[path.stem] = flags
        for path in sorted(folder.glob("*.value")):
            numbers = read_values(path, folder.name, count, reading.problems)
            if numbers is not None:
                values[path.stem] = numbers
        return tags, values

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        super().write_annotations(folder, sequence)
        for tag, flags in sequence.tags.items():
            write_flags(folder / f"{tag}.tag", flags)
        for name, numbers in sequence.values.items():
            text = "\n".join(f"{number:g}" for number in numbers)
            (folder / f"{name}.value").write_text(text + "\n", encoding="utf-8")


class VOTRGBD(DepthTrack):
    """VOT-RGBD2022: the file ``sequence`` names the channels, ``anchor.value`` the frames that runs start from.

    A single number in place of a box is VOT's special region, "no target"; anchors are above 0 where a run goes
    forward and below where it goes backward.
    """

    name = "vot_rgbd"
    special = True
    absent = "0"
    lists = {"test": "list.txt"}  # noqa: RUF012
    official = ("test",)

    def recognizes(self, folder: Path) -> bool:
        return (folder / METADATA).is_file() and (folder / "anchor.value").is_file()

    def places(self, folder: Path, reading: Reading) -> Places | None:
        path = folder / METADATA
        if not path.is_file():
            reading.problems.append(
                f"sequence {folder.name}: {path} is missing; VOT's metadata say in it where the channels are"
            )
            return None
        lines = (line.partition("=") for line in read_lines(path, reading.problems, folder.name))
        keys = {key.strip(): value.strip() for key, separator, value in lines if separator}
        patterns = [keys.get("channels.color"), keys.get("channels.depth")]
        if None in patterns:
            reading.problems.append(
                f"sequence {folder.name}: {path} names no channels.color or no channels.depth; expected a line such "
                "as channels.color=color/%08d.jpg for each"
            )
            return None
        color, depth = (Path(str(pattern)).parent.as_posix() for pattern in patterns)
        return required(folder, self.name, color, depth, "depth", reading)

    def write_annotations(self, folder: Path, sequence: Sequence) -> None:
        super().write_annotations(folder, sequence)
        if "anchor" not in sequence.values:
            first = np.zeros(sequence.length)
            first[int(np.argmax(sequence.present))] = 1
            text = "\n".join(f"{number:g}" for number in first)
            (folder / "anchor.value").write_text(text + "\n", encoding="utf-8")
        frames = sorted((folder / "color").iterdir())
        width, height = image_size(frames[0]) or (0, 0)
        lines = {
            "channels.color": f"color/%08d{frames[0].suffix}",
            "channels.depth": "depth/%08d.png",
            "format": "default",
            "fps": "30",
            "name": sequence.name,
            "width": str(width),
            "height": str(height),
            "length": str(sequence.length),
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (folder / METADATA).write_text(text, encoding="utf-8")
