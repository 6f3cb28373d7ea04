"""VTUAV, made by hand from its description: a box for each tenth frame, and subsets for short and long term."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.data.check import check_dataset
from tracker.data.generate import generate_dataset
from tracker.data.layouts import detect_layout, open_dataset, open_sequence, sequence_folders
from tracker.data.sampling import CausalPairSampler
from tracker.data.synthetic import SyntheticConfig
from tracker.errors import RGBXError


def sequence(folder: Path, frames: list[int], rgb: list[str], ir: list[str], x: str = "ir") -> Path:
    for place in ("rgb", x):
        (folder / place).mkdir(parents=True)
        for number in frames:
            assert cv2.imwrite(str(folder / place / f"{number:06d}.jpg"), np.zeros((8, 12, 3), np.uint8))
    (folder / "rgb.txt").write_text("\n".join(rgb) + "\n")
    (folder / "ir.txt").write_text("\n".join(ir) + "\n")
    return folder


def test_boxes_are_of_each_tenth_frame(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "bus_001", list(range(25)), ["1 2 3 4", "2 2 3 4", "0 0 0 0"], ["1 1 3 4"] * 3)
    assert detect_layout(folder) == "vtuav"
    found = open_sequence(folder)
    assert (found.length, found.modality, found.origin) == (25, "thermal", 0.0)
    assert np.flatnonzero(found.annotated).tolist() == [0, 10, 20]
    assert np.flatnonzero(found.present).tolist() == [0, 10]  # in frame 20 the target is absent, and that is known
    np.testing.assert_array_equal(found.boxes[[0, 10]], [[1, 2, 3, 4], [2, 2, 3, 4]])
    np.testing.assert_array_equal(found.x_boxes[[0, 10, 20]], [[1, 1, 3, 4]] * 3)
    report = check_dataset(tmp_path)
    assert report.ok
    assert "annotated are 3 of 25 frames" in report.sequences[0].notes


def test_numbers_decide_where_frames_are_missing_and_order_where_the_numbered_one_is(tmp_path: Path) -> None:
    """The frames begin at 5.

    First 8 is missing, so frame 15 is at place 9. Then 15 is missing, and every tenth is meant.
    """
    frames = [number for number in range(5, 35) if number != 8]
    folder = sequence(tmp_path / "a", frames, ["1 1 2 2"] * 3, ["1 1 2 2"] * 3, "ir_gray")
    assert np.flatnonzero(open_sequence(folder).annotated).tolist() == [0, 9, 19]
    frames.remove(15)
    folder = sequence(tmp_path / "b", frames, ["1 1 2 2"] * 3, ["1 1 2 2"] * 3)
    assert np.flatnonzero(open_sequence(folder).annotated).tolist() == [0, 10, 20]
    report = check_dataset(tmp_path)
    assert any("every tenth frame in order" in note for note in report.sequences[1].notes)


def test_a_box_a_frame_is_read_as_well_and_other_counts_are_refused(tmp_path: Path) -> None:
    dense = open_sequence(sequence(tmp_path / "a", list(range(4)), ["1 1 2 2"] * 4, ["1 1 2 2"] * 4))
    assert dense.annotated is None
    assert dense.present.all()
    folder = sequence(tmp_path / "b", list(range(15)), ["1 1 2 2"] * 3, ["1 1 2 2"] * 3)
    with pytest.raises(RGBXError, match=r"15 frames in .*rgb but 3 boxes in .*expected one for each tenth frame"):
        open_sequence(folder)


def test_training_draws_annotated_frames_alone(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "a", list(range(61)), ["1 1 2 2"] * 7, ["1 1 2 2"] * 7)
    sampler = CausalPairSampler([open_sequence(folder)])
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(rng) for _ in range(50)]
    assert {pair.template % 10 for pair in drawn} | {pair.search % 10 for pair in drawn} == {0}


def one(folder: Path) -> None:
    sequence(folder, [0, 1], ["1 1 2 2"], ["1 1 2 2"])


def names(root: Path, split: str | None) -> list[str]:
    return [folder.name for folder in sequence_folders(root, "vtuav", split)]


def test_subsets_lie_in_groups_or_in_folders_of_their_part(tmp_path: Path) -> None:
    beside, inside = tmp_path / "beside", tmp_path / "inside"
    for place in (
        "train_ST_001/bus_1", "train_ST_002/car_2", "train_LT_001/car_3", "test_ST_001/car_4", "test_LT_001/bus_5",
    ):  # fmt: skip
        one(beside / place)
    for place in ("train/bus_1", "test/short-term/car_4", "test/long-term/bus_5"):
        one(inside / place)
    assert names(beside, "train") == ["bus_1", "car_2", "car_3"]
    assert names(beside, "train_ST") == ["bus_1", "car_2"]
    assert names(beside, "train_LT") == ["car_3"]
    assert names(beside, "test") == ["car_4", "bus_5"]
    assert names(inside, "test_ST") == ["car_4"]
    assert names(inside, "test_LT") == ["bus_5"]
    assert names(inside, "train") == ["bus_1"]
    assert len(names(beside, "train_without_val")) == 2
    with pytest.raises(RGBXError, match=r"split 'train_LT' is not in .*nor folders such as train_LT_001"):
        names(inside, "train_LT")


def test_lists_of_short_and_long_term_are_joined(tmp_path: Path) -> None:
    for name in ("bus_1", "car_2", "car_3"):
        one(tmp_path / name)
    (tmp_path / "ST_train_split.txt").write_text("car_2\n")
    (tmp_path / "LT_train_split.txt").write_text("car_3\n")
    assert names(tmp_path, "train") == ["car_2", "car_3"]
    assert names(tmp_path, "train_ST") == ["car_2"]
    assert [s.name for s in open_dataset(tmp_path, "vtuav", "train_LT")] == ["car_3"]


def test_a_sequence_that_lies_in_two_groups_is_taken_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one(tmp_path / "train_ST_004" / "pedestrian_042")
    one(tmp_path / "train_ST_006" / "pedestrian_042")
    assert names(tmp_path, "train") == ["pedestrian_042"]
    assert "train_ST_006/pedestrian_042 is left out" in caplog.text


def test_generated_sequences_have_its_sparse_boxes(tmp_path: Path) -> None:
    config = SyntheticConfig(length=21, size=(96, 72), leave=0.0, occlusion=0.0)
    folders = generate_dataset(config, 1, tmp_path, "vtuav")
    found = open_sequence(folders[0])
    assert len((folders[0] / "rgb.txt").read_text().splitlines()) == 3
    assert np.flatnonzero(found.annotated).tolist() == [0, 10, 20]
    assert found.x_boxes is not None
    assert names(tmp_path, "train") == [folders[0].name]
