"""Data sets as they are distributed: the folders are made by hand from their descriptions, and so are the numbers."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.data.generate import generate_dataset, second_boxes
from tracker.data.layout_names import LAYOUT_MODALITIES
from tracker.data.layouts import (
    LAYOUTS,
    detect_layout,
    open_dataset,
    open_pair,
    open_sequence,
    sequence_folders,
    write_sequence,
)
from tracker.data.layouts.annotations import read_boxes
from tracker.data.layouts.frames import FrameList, natural_key, sorted_naturally
from tracker.data.layouts.layout import Reading
from tracker.data.layouts.registry import BY_NAME
from tracker.data.layouts.rgbe import presence, start_frames
from tracker.data.layouts.splits import held_out
from tracker.data.rendering import XStyle
from tracker.data.sequence import ArraySequence
from tracker.data.synthetic import SyntheticConfig, SyntheticSequence
from tracker.errors import RGBXError

MODALITY = {
    **dict.fromkeys(("lasher", "rgbt234", "rgbt210", "gtot", "vtuav", "folders"), "thermal"),
    **dict.fromkeys(("depthtrack", "vot_rgbd"), "depth"),
    **dict.fromkeys(("visevent", "coesot", "fe108"), "event"),
}


def test_the_command_line_knows_every_layout_and_its_modality() -> None:
    assert list(LAYOUT_MODALITIES) == list(LAYOUTS)
    assert {name: BY_NAME[name].modality for name in LAYOUTS} == LAYOUT_MODALITIES


TINY = np.zeros((8, 12, 3), np.uint8)


def images(folder: Path, names: list[str], picture: np.ndarray = TINY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        assert cv2.imwrite(str(folder / name), picture)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_told_and_read_back(layout: str, tmp_path: Path) -> None:
    config = SyntheticConfig(modality=MODALITY[layout], length=3, size=(96, 72), leave=0.0, occlusion=0.0)
    sequence = SyntheticSequence(config, 0)
    folder = write_sequence(sequence, tmp_path, layout, name="walk", lossless=True)
    assert detect_layout(folder) == layout
    back = open_sequence(folder)
    assert (back.name, back.modality, back.length) == ("walk", MODALITY[layout], 3)
    told = slice(None) if back.annotated is None else back.annotated
    np.testing.assert_array_equal(back.boxes[told], sequence.boxes[told])
    for index in range(3):
        np.testing.assert_array_equal(back.frame(index), sequence.frame(index))


def test_rgbt234_has_the_visible_boxes_and_keeps_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "afterrain"
    images(folder / "visible", ["00001v.jpg", "00002v.jpg"])
    images(folder / "infrared", ["00001i.jpg", "00002i.jpg"])
    text(folder / "visible.txt", "3,2,4,5", "4,2,4,5")
    text(folder / "infrared.txt", "2,1,4,5", "4,3,4,6")
    text(folder / "init.txt", "3,2,4,5", "4,2,4,5")
    sequence = open_sequence(folder)
    assert detect_layout(folder) == "rgbt234"
    np.testing.assert_array_equal(sequence.boxes, [[2, 1, 4, 5], [3, 1, 4, 5]])
    np.testing.assert_array_equal(sequence.x_boxes, [[1, 0, 4, 5], [3, 2, 4, 6]])
    assert sequence.origin == 1.0
    (folder / "visible.txt").unlink()
    (folder / "infrared.txt").unlink()
    assert detect_layout(folder) == "rgbt210"
    np.testing.assert_array_equal(open_sequence(folder).boxes, [[2, 1, 4, 5], [3, 1, 4, 5]])


def test_gtots_corners_may_come_in_either_order(tmp_path: Path) -> None:
    folder = tmp_path / "BlackCar"
    images(folder / "v", ["00001v.png", "00002v.png"])
    images(folder / "i", ["00001i.png", "00002i.png"])
    text(folder / "groundTruth_v.txt", "2 3 7 8", "7 8 2 3")
    text(folder / "groundTruth_i.txt", "1 3 7 8", "2  3\t7 9")
    text(folder / "init.txt", "2\t3\t5\t5", "2\t3\t5\t5")
    sequence = open_sequence(folder)
    np.testing.assert_array_equal(sequence.boxes, [[1, 2, 5, 5], [1, 2, 5, 5]])
    np.testing.assert_array_equal(sequence.x_boxes, [[0, 2, 6, 5], [1, 2, 5, 6]])


def test_the_real_gtot_is_read_as_its_toolkit_reads_it(shared_data: Path) -> None:
    for path in sorted((shared_data / "gtot" / "groundtruth").rglob("groundTruth_v.txt"))[:5]:
        problems: list[str] = []
        boxes = read_boxes(path, path.parent.name, problems, origin=1.0, corners=True)
        rows = np.loadtxt(path)
        expected = [[min(r[0], r[2]) - 1, min(r[1], r[3]) - 1, abs(r[2] - r[0]), abs(r[3] - r[1])] for r in rows]
        np.testing.assert_allclose(boxes, expected)
        assert not problems


def test_vots_metadata_say_where_channels_are(tmp_path: Path) -> None:
    folder = tmp_path / "backpack"
    images(folder / "left", ["00000001.jpg", "00000002.jpg", "00000003.jpg"])
    images(folder / "range", ["00000001.png", "00000002.png", "00000003.png"], np.full((8, 12), 1500, np.uint16))
    text(folder / "sequence", "channels.color=left/%08d.jpg", "channels.depth=range/%08d.png", "fps=30", "format=rgbd")
    text(folder / "groundtruth.txt", "1,1,4,4", "0", "2,1,4,4")
    text(folder / "anchor.value", "1", "0", "-1")
    text(folder / "occlusion.tag", "0", "1", "0")
    sequence = open_sequence(folder)
    assert detect_layout(folder) == "vot_rgbd"
    assert sequence.present.tolist() == [True, False, True]
    assert sequence.values["anchor"].tolist() == [1, 0, -1]
    assert sequence.tags["occlusion"].tolist() == [False, True, False]
    assert sequence.raw(0)[1].dtype == np.uint16
    text(folder / "sequence", "fps=30")
    with pytest.raises(RGBXError, match=r"names no channels.color or no channels.depth"):
        open_sequence(folder)
    text(folder / "sequence", "channels.color=left/%08d.jpg", "channels.depth=range/%08d.png")
    text(folder / "anchor.value", "1", "x", "-1")
    with pytest.raises(RGBXError, match=r"line 2 of .*anchor.value is 'x'; expected one number"):
        open_sequence(folder)


def coesot(folder: Path, frames: int, boxes: list[str], absent: list[str]) -> Path:
    names = [f"frame{index:04d}.png" for index in range(frames)]
    images(folder / f"{folder.name}_aps", names)
    images(folder / f"{folder.name}_dvs", names)
    text(folder / "groundtruth.txt", *boxes)
    text(folder / "absent.txt", *absent)
    return folder


def test_coesots_boxes_may_be_of_a_part_of_the_frames(tmp_path: Path) -> None:
    folder = coesot(tmp_path / "dvSave-1", 6, ["1,1,4,4", "0,0,0,0", "2,1,4,4"], ["1", "0", "1"])
    text(folder / "start_end_index.txt", "2", "4")
    sequence = open_sequence(folder)
    assert [path.name for path in sequence.rgb_files] == ["frame0002.png", "frame0003.png", "frame0004.png"]
    assert sequence.present.tolist() == [True, False, True]
    text(folder / "start_end_index.txt", "2,9")
    with pytest.raises(RGBXError, match=r"6 frames in .*_aps but 3 boxes"):
        open_sequence(folder)
    text(folder / "start_end_index.txt", "two", "4")
    with pytest.raises(RGBXError, match="is 'two 4'; expected the numbers of the first and the last frame"):
        open_sequence(folder)


@pytest.mark.parametrize(
    ("flags", "one_is_present", "boxed", "shown"),
    [
        ("110", True, "110", "110"),  # as the place says
        ("001", False, "110", "110"),
        ("001", True, "110", "110"),  # the boxes rule the place's meaning out
        ("110", False, "110", "110"),
        ("100", True, "110", "100"),  # a box that is flagged absent is out of sight, which is no contradiction
        ("11101", True, "11110", None),  # one wrong flag does not turn the others round
        ("11111", True, "11110", None),
        ("0110", True, "1100", None),  # neither meaning agrees with the boxes
        ("000", True, "011", None),
    ],
)
def test_flags_mean_what_their_place_says_unless_the_boxes_rule_it_out(
    flags: str, one_is_present: bool, boxed: str, shown: str | None, tmp_path: Path
) -> None:
    boxes = np.ones((len(boxed), 4))
    boxes[[c == "0" for c in boxed]] = np.nan
    reading = Reading(XStyle(), [], [])
    path = tmp_path / "walk" / "absent_label.txt"
    result = presence(path, np.array([c == "1" for c in flags]), boxes, one_is_present, reading)
    if shown is None:
        assert len(reading.problems) == 1
        assert "contradicts the boxes" in reading.problems[0]
        assert reading.problems[0].startswith("sequence walk: ")
    else:
        assert not reading.problems
        assert "".join(str(int(v)) for v in result) == shown


def test_visevents_toolkit_flags_the_other_way_round(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "00142_tank"
    for name in ("vis_imgs", "event_imgs"):
        images(folder / name, ["frame0031.bmp", "frame0032.bmp", "frame0033.bmp"])
    text(folder / "groundtruth.txt", *["1,1,4,4"] * 3)
    text(tmp_path / "annos" / "absent" / "00142_tank.txt", "0", "0", "1")
    assert open_sequence(folder).present.tolist() == [True, True, False]
    text(folder / "absent_label.txt", "1", "0", "1")
    assert open_sequence(folder).present.tolist() == [True, False, True]
    text(folder / "groundtruth.txt", "0,0,0,0", "1,1,4,4", "1,1,4,4")
    text(folder / "absent_label.txt", "1", "1", "0")  # turned round, they agree
    assert open_sequence(folder).present.tolist() == [False, False, True]
    text(folder / "groundtruth.txt", "0,0,0,0", "1,1,4,4", "0,0,0,0")
    with pytest.raises(RGBXError, match=r"absent_label.txt contradicts the boxes \(frame 0 is flagged present"):
        open_sequence(folder)


def test_recordings_without_images_say_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "dvSave-2"
    text(folder / "groundtruth.txt", "1,1,4,4")
    (folder / "dvSave-2.aedat4").write_bytes(b"")
    with pytest.raises(RGBXError, match=r"vis_imgs is missing; make it from dvSave-2.aedat4 by `rgbx data render-"):
        open_sequence(folder)


def test_fe108s_first_frames(tmp_path: Path) -> None:
    text(tmp_path / "pair.txt", "airplane 12", "bike\t7", "nonsense")
    assert start_frames(tmp_path) == {"airplane": 12, "bike": 7}
    text(tmp_path / "start_frame_idx" / "dog.txt", "3")
    assert start_frames(tmp_path) == {"airplane": 12, "bike": 7, "dog": 3}


def test_any_two_folders_are_a_sequence(tmp_path: Path) -> None:
    images(tmp_path / "scene" / "cam0", ["a1.png", "a2.png"])
    images(tmp_path / "elsewhere" / "range", ["1.png", "2.png"], np.full((8, 12), 900, np.uint16))
    pair = open_pair(tmp_path / "scene" / "cam0", tmp_path / "elsewhere" / "range", "depth", XStyle(depth="raw"))
    assert (pair.name, pair.modality, pair.length) == ("scene", "depth", 2)
    assert pair.frame(1)[0, 0].tolist() == [0, 0, 0, 23, 23, 23]  # 900 mm * 255 / 10000 = 22.95
    assert not pair.present.any()
    text(tmp_path / "scene" / "groundtruth.txt", "1,1,4,4", "nan,nan,nan,nan")
    pair = open_pair(tmp_path / "scene" / "cam0", tmp_path / "elsewhere" / "range", "depth")
    assert pair.present.tolist() == [True, False]
    with pytest.raises(RGBXError, match=r"modality of .*range cannot be told from its name"):
        open_pair(tmp_path / "scene" / "cam0", tmp_path / "elsewhere" / "range")
    with pytest.raises(RGBXError, match=r"there is no folder .*nothing"):
        open_pair(tmp_path / "scene" / "cam0", tmp_path / "nothing", "depth")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write forty one-frame sequences, thirty of which are on the training list."""
    root = tmp_path_factory.mktemp("many")
    frames = np.zeros((1, 8, 12, 6), np.uint8)
    names = [f"s{index:02d}" for index in range(40)]
    for name in names:
        write_sequence(ArraySequence(name, "thermal", frames, [[1, 1, 3, 3]]), root, "lasher")
    text(root / "trainingsetList.txt", *names[:30])
    text(root / "testingsetList.txt", *names[30:])
    return root


def test_validation_is_a_share_of_training_and_never_of_test(many: Path) -> None:
    names = {split: [p.name for p in sequence_folders(many, "lasher", split, 0.2)] for split in
             ("train", "test", "val", "train_without_val")}  # fmt: skip
    assert len(names["val"]) == 6
    assert set(names["val"]) | set(names["train_without_val"]) == set(names["train"])
    assert not set(names["val"]) & set(names["train_without_val"])
    assert not set(names["val"]) & set(names["test"])
    assert [n for n in names["train"] if n in names["val"]] == names["val"]
    assert names["val"] == [p.name for p in sequence_folders(many, "lasher", "val", 0.2)]
    # Pinned: the same sequences on every machine and in every release (sha256 of the names, smallest six).
    ranked = sorted(names["train"], key=lambda name: hashlib.sha256(name.encode()).digest())
    assert sorted(ranked[:6]) == names["val"]


@given(st.sets(st.text("abcdef0123", min_size=1, max_size=6), min_size=3, max_size=40), st.floats(0.01, 0.9))
def test_a_sequence_more_changes_validation_by_one_at_most(names: set[str], share: float) -> None:
    folders = [Path(name) for name in sorted(names)]
    whole, fewer = held_out(folders, share), held_out(folders[:-1], share)
    assert 1 <= len(whole) < len(folders)
    assert len(whole ^ fewer) <= 3
    assert held_out(folders[::-1], share) == whole


def test_splits_that_a_data_set_does_not_have(many: Path, tmp_path: Path) -> None:
    config = SyntheticConfig(length=2, size=(96, 72))
    generate_dataset(config, 2, tmp_path / "gtot", "gtot", "train")
    assert len(sequence_folders(tmp_path / "gtot", "auto", "test")) == 2
    with pytest.raises(RGBXError, match="gtot, which has no training part; train on another data set"):
        sequence_folders(tmp_path / "gtot", "auto", "train")
    generate_dataset(config, 2, tmp_path / "mine", "folders", None)
    assert len(sequence_folders(tmp_path / "mine", "auto", "train_without_val")) == 1
    with pytest.raises(RGBXError, match=r"split 'test' is not in .*mine: none of testingsetList.txt"):
        sequence_folders(tmp_path / "mine", "folders", "test")
    with pytest.raises(RGBXError, match=r"share of sequences for validation is 1\.5"):
        sequence_folders(many, "lasher", "val", 1.5)
    only = generate_dataset(config, 1, tmp_path / "one", "folders", None)
    with pytest.raises(RGBXError, match="1 training sequence cannot be shared with validation"):
        sequence_folders(tmp_path / "one", "folders", "val")
    assert [p.name for p in only] == [s.name for s in open_dataset(tmp_path / "one", split="train")]


@pytest.mark.parametrize("name", ["TrainingSet", "training_set", "Training Subset", "train"])
def test_split_folders_by_their_usual_names(name: str, tmp_path: Path) -> None:
    config = SyntheticConfig(length=2, size=(96, 72))
    generate_dataset(config, 2, tmp_path / "set" / name, "lasher", None)
    assert len(sequence_folders(tmp_path / "set", "lasher", "train")) == 2
    assert len(sequence_folders(tmp_path / "set" / name, "lasher", "train_without_val")) == 1
    with pytest.raises(RGBXError, match="split 'test' is not in"):
        sequence_folders(tmp_path / "set", "lasher", "test")


@given(st.lists(st.text("ab0123456789_v.", min_size=1, max_size=8), unique=True, max_size=20))
def test_names_of_one_scheme_are_in_natural_order(names: list[str]) -> None:
    alike = [name for name in names if re.sub("[0-9]+", "0", name) == re.sub("[0-9]+", "0", names[0])]
    assert sorted_naturally(alike) == sorted(alike, key=lambda name: (natural_key(name), name))


@given(st.lists(st.integers(0, 9999), unique=True, max_size=30), st.randoms())
def test_two_schemes_of_naming_are_in_the_order_of_their_numbers(numbers: list[int], chance: Random) -> None:
    named = {number: chance.choice([f"v{number:03d}.jpg", f"{number:06d}.jpg"]) for number in numbers}
    mixed = list(named.values())
    chance.shuffle(mixed)
    assert sorted_naturally(mixed) == [named[number] for number in sorted(numbers)]


def test_lashers_two_schemes_in_one_folder_are_told_apart_or_refused(tmp_path: Path) -> None:
    """As text, ``000005.jpg`` and all later ones sort before ``v000.jpg``: frames and boxes were five frames apart."""
    folder = tmp_path / "walk"
    names = ["v000.jpg", "v001.jpg", "v002.jpg", "v003.jpg", "v004.jpg", "000005.jpg", "000006.jpg", "000007.jpg"]
    for index, name in enumerate(names):
        images(folder / "visible", [name], np.full((8, 12, 3), 20 * index, np.uint8))
        images(folder / "infrared", [name.replace("v", "i")], np.full((8, 12, 3), 20 * index, np.uint8))
    for file in ("visible.txt", "infrared.txt", "init.txt"):
        text(folder / file, *(f"{index + 1},1,4,4" for index in range(8)))
    sequence = open_sequence(folder, "lasher")
    assert [path.name for path in sequence.rgb_files] == names
    for index in range(8):
        np.testing.assert_allclose(sequence.frame(index), 20 * index, atol=3)
        assert sequence.boxes[index, 0] == index
    images(folder / "visible", ["v005.jpg"])
    images(folder / "infrared", ["i005.jpg"])
    with pytest.raises(RGBXError, match=r"visible holds .*5.jpg and .*5.jpg, one number in two ways"):
        open_sequence(folder, "lasher")


def test_frame_lists_are_sequences_of_paths() -> None:
    frames = FrameList(Path("f"), ["a", "b", "c"])
    assert list(frames[1:]) == [Path("f/b"), Path("f/c")]
    assert frames[-1] == Path("f/c")


BOX = st.one_of(
    st.tuples(*[st.floats(-50, 50).map(lambda v: round(v, 3))] * 4),
    st.just((float("nan"),) * 4),
)


@given(st.lists(BOX, min_size=1, max_size=8), st.sampled_from([",", "\t", " ", ";", ", "]), st.sampled_from([0.0, 1.0]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_are_read_as_a_plain_loop_reads_them(tmp_path: Path, rows: list, separator: str, origin: float) -> None:
    path = tmp_path / "groundtruth.txt"
    path.write_text("".join(separator.join(str(v) for v in row) + "\n" for row in rows))
    problems: list[str] = []
    read = read_boxes(path, "walk", problems, origin=origin)
    assert not problems
    for row, box in zip(rows, read, strict=True):
        if row[2] > 0 and row[3] > 0:
            np.testing.assert_allclose(box, [row[0] - origin, row[1] - origin, row[2], row[3]])
        else:
            assert np.isnan(box[2:]).all()


@given(st.integers(0, 1000))
def test_the_second_annotator_stays_near_and_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (20, 2))
    boxes = np.concatenate([corner, rng.integers(1, 30, (20, 2))], axis=1).astype(float)
    second = second_boxes(boxes, (96, 96), rng)
    assert (second[:, 2:] > 0).all()
    assert (second[:, :2] >= 0).all()
    assert ((second[:, :2] + second[:, 2:]) <= 96).all()
    assert np.abs(second[:, :2] - boxes[:, :2]).max() <= 2


def test_generated_sets_have_what_the_published_ones_have(tmp_path: Path) -> None:
    config = SyntheticConfig(modality="depth", length=12, size=(96, 72), leave=1.0)
    for layout in ("depthtrack", "vot_rgbd"):
        sequence = open_sequence(generate_dataset(config, 1, tmp_path / layout, layout, "test")[0])
        np.testing.assert_array_equal(sequence.tags["full-occlusion"], ~sequence.present)
    assert sequence.values["anchor"][int(np.argmax(sequence.present))] == 1
    assert (tmp_path / "vot_rgbd" / "list.txt").is_file()
    thermal = SyntheticConfig(length=12, size=(96, 72), leave=1.0)
    for layout in ("rgbt234", "gtot"):
        sequence = open_sequence(generate_dataset(thermal, 1, tmp_path / layout, layout, "test")[0])
        assert sequence.present.all()
        assert not np.array_equal(sequence.boxes, sequence.x_boxes)
    with pytest.raises(RGBXError, match="the gtot layout has no recordings"):
        generate_dataset(thermal, 1, tmp_path / "g", "gtot", "test", recordings=True)
