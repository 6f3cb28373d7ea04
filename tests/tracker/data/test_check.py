"""The checker reports every damage that is done to a generated set by hand, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tracker.cli import cli
from tracker.data.check import Report, check_dataset
from tracker.data.generate import generate_dataset
from tracker.data.layouts import frame_files
from tracker.data.synthetic import SyntheticConfig

LENGTH = 20


def generated(root: Path, layout: str, modality: str, count: int = 2) -> list[Path]:
    config = SyntheticConfig(modality=modality, length=LENGTH, size=(96, 72), leave=0.0, occlusion=0.0)
    return generate_dataset(config, count, root, layout, "test")


def problems(report: Report) -> list[str]:
    return report.problems + [text for sequence in report.sequences for text in sequence.problems]


def only_problem(root: Path) -> str:
    found = problems(check_dataset(root))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def depth(tmp_path: Path) -> list[Path]:
    return generated(tmp_path / "set", "depthtrack", "depth")


def test_a_sound_set_has_no_problem_and_its_numbers_add_up(depth: list[Path]) -> None:
    report = check_dataset(depth[0].parent, progress=False, workers=2)
    assert report.ok
    assert not report.notes
    assert [(s.frames, s.usable, s.present) for s in report.sequences] == [(LENGTH, LENGTH, LENGTH)] * 2
    *_, header, row, total = str(report).splitlines()
    assert header.split() == [
        "layout",
        "modality",
        "sequences",
        "usable",
        "frames",
        "usable",
        "with",
        "target",
        "problems",
    ]
    assert row.split() == ["depthtrack", "depth", "2", "2", "40", "40", "40", "0"]
    assert total.startswith("2 of 2 sequences in")


def test_depth_that_was_colored_is_not_depth(depth: list[Path]) -> None:
    path = frame_files(depth[0] / "depth")[4]
    cv2.imwrite(str(path), np.zeros((72, 96), np.uint8))
    sentence = only_problem(depth[0].parent)
    assert sentence.startswith(f"sequence {depth[0].name}: frame 4 has depth of uint8, 1 channels: {path}; expected 16")


def test_an_x_image_of_another_size(depth: list[Path]) -> None:
    cv2.imwrite(str(frame_files(depth[0] / "depth")[4]), np.zeros((72, 90), np.uint16))
    sentence = only_problem(depth[0].parent)
    assert "frame 4 is 96x72 in RGB but 90x72 in depth" in sentence
    report = check_dataset(depth[0].parent)
    assert [s.usable for s in report.sequences] == [LENGTH - 1, LENGTH]


def test_lists_and_folders_that_disagree(depth: list[Path]) -> None:
    root = depth[0].parent
    (root / "test.txt").write_text(f"{depth[0].name}\nnowhere\n")
    assert only_problem(root) == f"sequence nowhere, listed in {root / 'test.txt'}, is not in {root}"
    report = check_dataset(root)
    assert report.notes == [f"1 of 2 sequences are on no list: {depth[1].name}"]
    of_split = check_dataset(root, split="test")
    assert [s.name for s in of_split.sequences] == [depth[0].name]
    assert len(problems(of_split)) == 1
    (root / "test.txt").write_text(f"{depth[0].name}\n{depth[1].name}\n")
    (root / "train.txt").write_text(f"{depth[1].name}\n")
    assert only_problem(root) == f"sequence {depth[1].name} is in both lists, train and test"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("nan,1,2,3", "expected finite numbers, or nan in all four places"),
        ("1,2,3", "expected four numbers x, y, w, h"),
        ("200,5,9,9", "is the box x=200 y=5 w=9 h=9, wholly outside the 96x72 image"),
    ],
)
def test_rows_of_the_box_file(depth: list[Path], line: str, sentence: str) -> None:
    path = depth[0] / "groundtruth.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], line, *lines[7:]]) + "\n")
    found = only_problem(depth[0].parent)
    assert f"line 7 of {path}" in found
    assert sentence in found


def test_rows_that_are_allowed_but_odd_are_notes(tmp_path: Path) -> None:
    folder = generated(tmp_path / "set", "lasher", "thermal", 1)[0]
    path = folder / "visible.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["0,0,0,0", "-3,5,30,30", *lines[2:]]) + "\n")
    report = check_dataset(folder.parent)
    assert report.ok
    notes = report.sequences[0].notes
    assert any("visible.txt and infrared.txt differ in 2 frames, first in frame 0" in note for note in notes)
    assert "1 boxes reach beyond the image" in notes
    assert any("absent in the first frame" in note for note in notes)
    assert report.sequences[0].present == LENGTH - 1


def test_frames_that_may_have_got_lost_are_notes(tmp_path: Path) -> None:
    folder = generated(tmp_path / "set", "lasher", "thermal", 1)[0]
    frame_files(folder / "visible")[-1].rename(folder / "visible" / "v025.jpg")
    notes = check_dataset(folder.parent).sequences[0].notes
    assert notes == [
        "1 gaps in the numbers of frames, first from v018.jpg to v025.jpg",
        "frame 19 is numbered differently in RGB and X (v025.jpg, i019.jpg), while frame 18 is not; look whether they "
        "belong together",
    ]
    frame_files(folder / "infrared")[-1].rename(folder / "infrared" / "i025.jpg")
    assert len(check_dataset(folder.parent).sequences[0].notes) == 1


def test_flags_that_contradict_the_boxes(tmp_path: Path) -> None:
    folder = generated(tmp_path / "set", "visevent", "event", 1)[0]
    path = folder / "groundtruth.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["0,0,0,0", *lines[1:]]) + "\n")
    assert f"{folder / 'absent_label.txt'} contradicts the boxes (frame 0 is flagged" in only_problem(folder.parent)
    (folder / "absent_label.txt").write_text("1\n" + "0\n" * (LENGTH - 1))
    report = check_dataset(folder.parent)
    assert report.ok
    assert "1 means absent in absent_label.txt, as its boxes say" in report.sequences[0].notes
    assert report.sequences[0].present == LENGTH - 1


def test_the_command_exits_1_and_writes_json(depth: list[Path], tmp_path: Path) -> None:
    root = depth[0].parent

    def run() -> tuple[int, dict]:
        file = tmp_path / "out" / "report.json"
        result = CliRunner().invoke(cli, ["data", "check", str(root), "--json", str(file)])
        return result.exit_code, json.loads(file.read_text())

    status, report = run()
    assert (status, report["ok"], len(report["sequences"])) == (0, True, 2)
    shutil.rmtree(depth[1] / "depth")
    (depth[1] / "depth").mkdir()
    status, report = run()
    assert (status, report["ok"]) == (1, False)
    assert report["sequences"][1]["problems"] == [
        f"sequence {depth[1].name}: {LENGTH} frames in {depth[1] / 'color'} but 0 in {depth[1] / 'depth'}; expected as "
        "many of each"
    ]
