"""Recipes of PATrack against the table of its published configurations, typed here a second time, and the student's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tracker.tuning.small import saved_rgb, saved_teacher
from tracker.config import RunConfig, load_config, shipped_configs
from tracker.data.layouts import write_dataset
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.models.config import preset
from tracker.models.groups import parameter_groups
from tracker.models.tracker import build_network
from tracker.train.finetune import fine_tune, group_settings
from tracker.train.schedule import lr_factor
from tracker.tuning.distill import Student
from tracker.tuning.files import load_tracker, tune

PATRACK = {"patrack_rgbt": "lasher", "patrack_rgbd": "depthtrack", "patrack_rgbe": "visevent"}
"""The layout that each trains on."""
STUDENT = "own/distill_rgbt"
KINDS = ("published", "corrected")
SOURCE = {"published": "other", "corrected": "own"}
SPLITS = {"published": "train", "corrected": "train_without_val"}
DEPTH = {"published": "jet_bgr", "corrected": "jet"}


def recipe(name: str) -> RunConfig:
    return load_config(RunConfig, name, ["data.root=/data"])


def test_every_published_configuration_has_a_recipe() -> None:
    expected = {f"{kind}/{name}" for kind in KINDS for name in PATRACK}
    assert {name for name in shipped_configs() if "/patrack" in name} == expected
    assert {name for name in shipped_configs() if "distill" in name} == {STUDENT}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PATRACK)
def test_a_patrack_recipe_has_the_tables_numbers(kind: str, name: str) -> None:
    config, layout = recipe(f"{kind}/{name}"), PATRACK[name]
    network, pairs, train, data = config.network, config.pairs, config.train, config.data
    assert config.tuning == "patrack"
    made = preset(network.preset, kind="single_stream", **network.changes())
    assert (made.embed_dim, made.depth, made.num_heads, made.patch, made.head_channels) == (768, 12, 12, 16, 256)
    assert (made.template_size, made.search_size, made.drop_path, made.temporal) == (128, 256, 0.1, False)
    assert (made.elimination_layers, made.keep_ratio) == ((), 1.0)
    assert (pairs.template_factor, pairs.search_factor, pairs.center_jitter, pairs.scale_jitter) == (
        2.0,
        4.0,
        3.0,
        0.25,
    )
    assert (pairs.max_gap, pairs.min_frames, pairs.min_present) == (200, 20, 5)
    assert (pairs.grayscale, pairs.flip, pairs.flip_each, pairs.brightness) == (0.05, 0.5, 0.5, 0.2)
    assert (config.loss.giou, config.loss.l1, config.loss.focal, config.loss.cell) == (2.0, 5.0, 1.0, "best")
    assert (train.batch_size, train.epochs, train.samples_per_epoch) == (32, 60, 60_000)
    assert (train.lr, train.weight_decay, train.clip_grad_norm, train.batchnorm) == (4e-4, 1e-4, 0.1, "frozen")
    assert (train.warmup_steps, train.betas, config.optimizer.name) == (0, (0.9, 0.999), "adamw")
    assert (data.source, data.split, data.layout) == ("folder", SPLITS[kind], layout)
    assert (config.validation.every > 0) == (kind == "corrected")
    assert config.validation.split == "val"
    settings = config.patrack
    assert settings.source == SOURCE[kind]
    assert (settings.entangled_layers, settings.gated, settings.dropout) == ((3, 6, 9), False, 0.1)
    assert config.output.as_posix() == f"runs/{kind}/{name}"
    if layout == "depthtrack":
        assert (data.depth_style, data.depth_clip) == (DEPTH[kind], True)


def test_the_rate_falls_at_epoch_48() -> None:
    train = recipe("published/patrack_rgbt").train
    for epoch in (0, 47, 48, 59):
        expected = 0.1 if epoch >= 48 else 1.0
        for step in (epoch * train.steps_per_epoch, (epoch + 1) * train.steps_per_epoch - 1):
            assert lr_factor(step, train) == pytest.approx(expected)


@pytest.mark.parametrize("name", PATRACK)
def test_adapters_train_at_the_published_rate_and_nothing_else(name: str) -> None:
    config = recipe(f"published/{name}")
    with torch.device("meta"):
        base = build_network(preset("vit_b_256", kind="single_stream"))
        network = tune(base, "patrack", config.patrack)
    groups = parameter_groups(network, group_settings(config.train), config.train.also_train)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [("adapters", 4e-4, 1e-4)]
    assert round(sum(p.numel() for _, p in groups[0]["params"]) / 1e6, 2) == 3.72
    assert not any(parameter.requires_grad for parameter in network.base.parameters())


def test_the_students_recipe_trains_all_of_a_student_of_6_1_million() -> None:
    config = recipe(STUDENT)
    assert (config.tuning, config.optimizer.name, config.train.batchnorm) == ("distill", "adamw", "train")
    assert (config.pairs.search_factor, config.pairs.template_factor) == (4.0, 2.0)
    assert (config.validation.every > 0, config.data.split, config.data.depth_style) == (
        True,
        "train_without_val",
        "jet",
    )
    shape = preset(config.network.preset, kind="single_stream", **config.network.changes())
    assert (shape.template_size, shape.search_size) == (128, 256)
    with torch.device("meta"):
        network = tune(build_network(shape), "distill", config.distill)
        assert isinstance(network, Student)
        network.learn_from(preset("vit_b_256"))
    groups = parameter_groups(network, group_settings(config.train), config.train.also_train)
    trained = {name for group in groups for name, _ in group["params"]}
    assert trained == {name for name, _ in network.named_parameters()}
    assert {group["lr"] for group in groups} == {4e-4}
    assert sum(p.numel() for name, p in network.named_parameters() if network.runs_with(name)) <= 6_500_000


@pytest.fixture(scope="module")
def lasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three generated sequences in LasHeR's layout, of which one is kept out of training."""
    root = tmp_path_factory.mktemp("lasher")
    write_dataset(
        synthetic_dataset(SyntheticConfig(modality="thermal", length=20, size=(96, 72)), 3),
        root,
        "lasher",
        split="train",
    )
    return root


@pytest.mark.parametrize("name", ["corrected/patrack_rgbt", STUDENT])
def test_a_recipe_runs_as_it_is_but_for_its_size(name: str, lasher: Path, tmp_path: Path) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    size = ["network.template_size=32", "network.search_size=64", "train.samples_per_epoch=4", "train.batch_size=2",
            "train.epochs=2", "train.workers=0", "train.log_every=1", "train.device=cpu"]  # fmt: skip
    own = ["patrack.entangled_layers=[1,2]"]
    if name == STUDENT:
        own = [f"distill.teacher={saved_teacher(tmp_path / 'teacher.safetensors')}", "train.warmup_steps=0"]
    given = [f"init={tmp_path / 'rgb.safetensors'}", f"data.root={lasher}", f"output={tmp_path / 'run'}", *size, *own]
    file, history = fine_tune(load_config(RunConfig, name, given))
    assert [record.step for record in history if "validation/SR" in record.scalars] == [4]
    assert ("loss/fusion" in history[0].scalars) == (name == STUDENT)
    network, config, meta = load_tracker(file)
    assert (config.template_size, config.search_size, meta["inference"]["search_factor"]) == (32, 64, 4.0)
    assert type(network).__name__ == ("Student" if name == STUDENT else "PATrack")
