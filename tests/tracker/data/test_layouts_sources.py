"""A configuration's data section opens one data set, several in given ratios, or two folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracker.config import DataSection, RunConfig, load_config, validate
from tracker.data.generate import generate_dataset
from tracker.data.layouts import frame_files, write_dataset
from tracker.data.sampling import CausalPairSampler
from tracker.data.sources import open_sources, with_split
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.errors import RGBXError
from tracker.train.configured_data import sequences_of
from tracker.train.validate import held_out_sequences


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write LasHeR with four sequences, DepthTrack with two and VisEvent with one."""
    root = tmp_path_factory.mktemp("sets")
    for layout, modality, count in (("lasher", "thermal", 4), ("depthtrack", "depth", 2), ("visevent", "event", 1)):
        config = SyntheticConfig(modality=modality, length=20, size=(96, 72), leave=0.0, occlusion=0.0)
        generate_dataset(config, count, root / layout, layout, "train")
    return root


def section(**keys: object) -> DataSection:
    return validate(DataSection, {"source": "folder", **keys}, "test")


def test_several_sets_are_drawn_by_their_ratios_whatever_their_sizes(sets: Path) -> None:
    parts = [
        {"root": str(sets / "lasher"), "ratio": 1},
        {"root": str(sets / "depthtrack"), "layout": "depthtrack", "split": "train", "ratio": 2},
        {"root": str(sets / "visevent"), "ratio": 1},
    ]
    sequences, weights = open_sources(section(sets=parts, depth_style="gray"))
    assert [s.modality for s in sequences] == ["thermal"] * 4 + ["depth"] * 2 + ["event"]
    assert weights == [0.25] * 4 + [1.0] * 2 + [1.0]
    frame = sequences[4].frame(0)
    assert (frame[:, :, 3] == frame[:, :, 5]).all()
    sampler = CausalPairSampler(sequences, weights=weights)
    rng = np.random.default_rng(0)
    drawn = Counter(sequences[sampler.draw(rng).sequence].modality for _ in range(8000))
    # Binomial: the standard deviation of a share of a half of 8000 draws is 0.0056.
    for modality, share in (("thermal", 0.25), ("depth", 0.5), ("event", 0.25)):
        assert abs(drawn[modality] / 8000 - share) < 0.03


def test_another_split_of_every_set(sets: Path) -> None:
    parts = [{"root": str(sets / "lasher"), "split": "train_without_val"}, {"root": str(sets / "depthtrack")}]
    data = section(sets=parts, split="train_without_val", val_share=0.5)
    training = [s.name for s in open_sources(data)[0]]
    held_out = [s.name for s in open_sources(with_split(data, "val"))[0]]
    assert (len(training), len(held_out)) == (3, 3)
    everything = [s.name for s in open_sources(with_split(data, "train"))[0]]
    assert sorted(training + held_out) == sorted(everything)
    assert open_sources(section(root=str(sets / "lasher"), split="train"))[1] is None


def test_two_folders(sets: Path) -> None:
    folder = sorted(p for p in (sets / "depthtrack").iterdir() if p.is_dir())[0]
    data = section(rgb=str(folder / "color"), x=str(folder / "depth"))
    (sequence,), weights = open_sources(data)
    assert (sequence.modality, sequence.length, weights) == ("depth", 20, None)
    assert sequence.present.all()


def test_sequences_that_cannot_be_opened(tmp_path: Path) -> None:
    config = SyntheticConfig(length=20, size=(96, 72), leave=0.0)
    folders = generate_dataset(config, 2, tmp_path, "lasher", "train")
    frame_files(folders[0] / "infrared")[3].unlink()
    with pytest.raises(RGBXError, match=r"20 frames in .* but 19 in"):
        open_sources(section(root=str(tmp_path)))
    assert [s.name for s in open_sources(section(root=str(tmp_path), unusable="skip"))[0]] == [folders[1].name]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({}, r"source: folder needs root, the folder of sequences \(or rgb and x, or sets\)"),
        ({"rgb": "a"}, "rgb and x are the two folders of one sequence; give both or neither"),
        ({"root": "a", "sets": [{"root": "b"}]}, "root and sets both say where the data are; give one of them"),
        ({"sets": [{"root": "b", "ratio": 0}]}, "sets.0.ratio: input should be greater than 0"),
        ({"root": "a", "depth_style": "hot"}, "depth_style: input should be 'jet', 'gray', 'raw' or 'jet_bgr'"),
    ],
)
def test_sections_that_make_no_sense(keys: dict, sentence: str) -> None:
    with pytest.raises(RGBXError, match=sentence):
        section(**keys)


def test_folders_that_are_not_there_are_named_by_their_key(tmp_path: Path) -> None:
    generate_dataset(SyntheticConfig(length=2, size=(96, 72)), 1, tmp_path / "set", "lasher", None)
    data = section(sets=[{"root": str(tmp_path / "set")}, {"root": str(tmp_path / "nowhere")}])
    with pytest.raises(RGBXError, match=r"data.sets.1.root .*nowhere is not a folder"):
        open_sources(data)


def test_sets_are_given_on_the_command_line_as_well() -> None:
    data = load_config(DataSection, None, ["source=folder", "sets=[{root: a, ratio: 2}, {root: b, layout: lasher}]"])
    assert [(str(part.root), part.ratio, part.layout) for part in data.sets] == [
        ("a", 2.0, None),
        ("b", 1.0, "lasher"),
    ]


def opened(root: Path, *overrides: str) -> Any:
    """Return what `rgbx train` opens for settings on its command line."""
    given = ["init=tiny_rgb", f"data.root={root}", *overrides]
    return sequences_of(load_config(RunConfig, "tiny_rgbt", given, command="train").data)


@pytest.mark.parametrize(
    ("modality", "layout", "override", "said"),
    [
        ("thermal", "lasher", "data.depth_style=raw", "data.depth_style has no effect: no sequence has depth"),
        ("thermal", "lasher", "data.depth_clip=false", "data.depth_clip has no effect: no sequence has depth"),
        (
            "event",
            "visevent",
            "data.event_style=gray",
            "data.event_style has no effect: no sequence has events",
        ),
        ("thermal", "lasher", "data.thermal_style=minmax", "data.thermal_style has no effect: no sequence has thermal"),
        (
            "depth",
            "depthtrack",
            "data.modality=thermal",
            "data.modality is thermal, and sequence depth_train_0",
        ),
    ],
)
def test_a_style_that_no_sequence_is_for_is_refused(
    tmp_path: Path, modality: str, layout: str, override: str, said: str
) -> None:
    config = SyntheticConfig(modality=modality, length=3, size=(96, 72))
    write_dataset(synthetic_dataset(config, 1), tmp_path, layout, split="train")
    sequences, _ = opened(tmp_path)
    assert [sequence.modality for sequence in sequences] == [modality]
    with pytest.raises(RGBXError, match=f"^{said}"):
        opened(tmp_path, override)
    opened(tmp_path, f"data.modality={modality}")


def test_a_style_below_the_data_asks_for_nothing(tmp_path: Path) -> None:
    """A recipe for depth may be used for thermal data. Its style is of no use then, but nobody asked for it."""
    config = SyntheticConfig(modality="thermal", length=3, size=(96, 72))
    write_dataset(synthetic_dataset(config, 1), tmp_path / "set", "lasher", split="train")
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {depth_style: raw}\n")
    data = load_config(RunConfig, mine, ["init=tiny_rgb", f"data.root={tmp_path / 'set'}"], command="train").data
    assert len(sequences_of(data)[0]) == 1


def test_generated_validation_has_the_modality_of_the_training_files() -> None:
    """Once it was thermal, whatever the training files were."""
    config = load_config(RunConfig, None, ["validation.every=1", "validation.sequences=1", "validation.length=2"])
    assert [s.modality for s in held_out_sequences(config, {"depth"})] == ["depth"]
    assert [s.modality for s in held_out_sequences(config)] == ["thermal"]
    with pytest.raises(RGBXError, match=r"validation.source=generated has one modality, and .* depth and thermal"):
        held_out_sequences(config, {"thermal", "depth"})


def test_the_layout_of_the_section_is_that_of_sets_without_their_own(sets: Path) -> None:
    parts = [{"root": sets / "lasher", "layout": "folders"}, {"root": sets / "lasher"}]
    sequences, _ = open_sources(section(sets=parts, layout="lasher", split="train"))
    assert [sequence.origin for sequence in sequences] == [0.0] * 4 + [1.0] * 4
