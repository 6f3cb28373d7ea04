"""Whatever is wrong in the settings is reported with its file, its key and the nearest key that exists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.config import (
    CONFIG_FOLDER,
    NetworkSection,
    PairSection,
    RunConfig,
    find_config,
    known_keys,
    load_config,
    shipped_configs,
)
from tracker.data.dataset import PairSettings
from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig


def message(path: Path | None = None, *overrides: str) -> str:
    with pytest.raises(RGBXError) as caught:
        load_config(RunConfig, path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_unknown_key_names_file_key_and_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  batchsize: 8\n")
    assert message(path) == f"{path}: unknown key train.batchsize; did you mean train.batch_size?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch_size=8", "command line: unknown key batch_size; did you mean train.batch_size?"),
        ("trian.lr=1", "command line: unknown key trian; did you mean train?"),
        ("optimizer.kapa=linear", "command line: unknown key optimizer.kapa; did you mean optimizer.kappa?"),
        (
            "train.lr_scale.norm=1",
            "command line: unknown key train.lr_scale.norm; did you mean train.lr_scale.norms?",
        ),
        ("train.lr=0", "command line: train.lr: input should be greater than 0, not 0"),
        ("train.lr=.nan", "command line: train.lr: input should be a finite number, not nan"),
        ("train.lr=fast", "command line: train.lr: input should be a valid number, unable to parse string"),
        ("train=3", "command line: train is a section with keys of its own, not 3"),
        (
            "optimizer.name=adam",
            "command line: optimizer.name: input should be 'adamw' or 'srft', not 'adam'",
        ),
        ("data.source=folder", "command line: data: source: folder needs root"),
        ("lr", 'command line: "lr" is not an override; write it as section.key=value'),
        ("train.lr=[1", "command line: the value of train.lr cannot be read"),
        (
            "train.batch_size=4096",
            "command line: train: batch_size 4096 is larger than samples_per_epoch 2048",
        ),
    ],
)
def test_bad_override(override: str, expected: str) -> None:
    assert message(None, override).startswith(expected)


def test_a_key_like_nothing_lists_what_there_is() -> None:
    assert "known keys here are: prior.estimator" in message(None, "prior.zzz=1")


def test_fault_in_file_is_not_blamed_on_an_unrelated_override(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  epochs: 0\n")
    assert message(path, "train.lr=1e-3").startswith(f"{path}: train.epochs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: [", "not valid YAML at line"),
        ("train:\n  lr: 1\n  lr: 2\n", "not valid YAML at line 3: key lr is given twice"),
        ("- 1\n", "expected sections with keys, found list"),
        ("1: 2\n", "key 1 is not a name"),
        ("train: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    found = message(path)
    assert found.startswith(str(path))
    assert expected in found


def test_binary_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert "not valid YAML" in message(path)
    assert "does not exist; shipped ones are:" in message(tmp_path / "none.yaml")


def test_overrides_win_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  lr: 1e-3\n  epochs: 7\n")
    config = load_config(RunConfig, path, ["train.lr=2e-5", "train.lr=3e-5", "train.lr_scale.head=0"])
    assert config.train.lr == 3e-5
    assert config.train.epochs == 7
    assert config.train.lr_scale.head == 0


def test_a_file_lies_over_its_bases(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {lr: 1e-3, epochs: 7, seed: 5}\n")
    (tmp_path / "high.yaml").write_text("base: low.yaml\ntrain: {epochs: 8}\npairs: {flip: 0.25}\n")
    (tmp_path / "apart.yaml").write_text("pairs: {flip: 0.75}\n")
    path = written(tmp_path, "base: [high.yaml, apart.yaml]\ntrain: {seed: 6}\n")
    config = load_config(RunConfig, path, ["train.batch_size=3"])
    assert (config.train.lr, config.train.epochs, config.train.seed, config.pairs.flip) == (1e-3, 8, 6, 0.75)
    assert config.train.batch_size == 3
    shipped = written(tmp_path, "base: tiny_pretrain\ntrain: {lr: 1e-5}\n")
    assert load_config(RunConfig, shipped).train.epochs == load_config(RunConfig, "tiny_pretrain").train.epochs


def test_bad_bases_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "base: other.yaml\n")
    (tmp_path / "other.yaml").write_text("base: mine.yaml\n")
    assert message(path).endswith("base: mine.yaml is based on itself")
    assert "expected the name of a configuration" in message(written(tmp_path, "base: {train: 3}\n"))
    assert "configuration file nowhere does not exist" in message(written(tmp_path, "base: nowhere\n"))
    (tmp_path / "other.yaml").write_text("train: [\n")
    assert "base other.yaml: not valid YAML" in message(written(tmp_path, "base: other.yaml\n"))


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as text, and everybody writes it."""
    assert load_config(RunConfig, written(tmp_path, "train: {lr: 1e-4}")).train.lr == 1e-4
    assert load_config(RunConfig, None, ["train.lr=1e-4"]).train.lr == 1e-4


@settings(deadline=None)
@given(
    lr=st.floats(1e-9, 1.0),
    epochs=st.integers(1, 1000),
    mode=st.sampled_from(["proximal", "decoupled", "coupled"]),
    root=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
)
def test_yaml_round_trip(lr: float, epochs: int, mode: str, root: str) -> None:
    tree = {"train": {"lr": lr, "epochs": epochs}, "optimizer": {"mode": mode}, "data": {"root": root}}
    config = RunConfig.model_validate(tree)
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config


def test_shipped_configurations_are_valid() -> None:
    shipped = sorted(CONFIG_FOLDER.rglob("*.yaml"))
    assert len(shipped) == len(shipped_configs())
    for path, name in zip(shipped, sorted(shipped_configs()), strict=True):
        # Recipes for a data set ask for its place alone; the one for several names them, and generated data need none.
        generated = path.parent == CONFIG_FOLDER and not name.startswith("distill_")
        given = [] if generated or name.endswith("_rgbx") else ["data.root=/data"]
        load_config(RunConfig, name, given)
        assert find_config(name) == path
        assert find_config(f"{name}.yaml") == path


def test_sections_follow_the_dataclasses_they_fill() -> None:
    """A key that no dataclass takes would be accepted and do nothing."""
    pairs = {field.name for field in dataclasses.fields(PairSettings)}
    network = {field.name for field in dataclasses.fields(NetworkConfig)}
    assert set(PairSection.model_fields) <= pairs
    assert set(NetworkSection.model_fields) - {"preset"} <= network


def test_known_keys_reach_into_sections() -> None:
    keys = set(known_keys(RunConfig))
    assert {"train", "train.lr", "train.lr_scale.cross", "output"} <= keys
