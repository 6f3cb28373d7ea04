"""SDSTrack's recipes agree with a table of what its code has, which is typed here a second time."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from tests.paths import REPOSITORY
from tracker.config import RunConfig, load_config, shipped_configs
from tracker.data.layouts.registry import BY_NAME
from tracker.models.config import preset
from tracker.models.groups import parameter_groups
from tracker.models.tracker import build_network
from tracker.train.finetune import group_settings
from tracker.train.optimizers import build_optimizer
from tracker.train.schedule import lr_factor
from tracker.tuning.files import tune


class Published(NamedTuple):
    """A row of that table: data, its modality, learning rate, epochs, and the share of sequences kept out."""

    layout: str
    modality: str
    lr: float
    epochs: int
    val_share: float


TABLE = {
    "sdstrack_rgbt": Published("lasher", "thermal", 1e-4, 40, 0.1),
    "sdstrack_rgbd": Published("depthtrack", "depth", 5e-5, 15, 0.033),
    "sdstrack_rgbe": Published("visevent", "event", 1e-4, 50, 0.1),
}
KINDS = ("published", "corrected")


def recipe(name: str) -> RunConfig:
    return load_config(RunConfig, name, ["data.root=/data"])


def test_every_row_has_a_published_and_a_corrected_recipe() -> None:
    found = {name for name in shipped_configs() if "/sdstrack" in name}
    assert found == {f"{kind}/{name}" for kind in KINDS for name in TABLE}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(TABLE))
def test_a_recipe_has_the_tables_numbers(kind: str, name: str) -> None:
    row, config = TABLE[name], recipe(f"{kind}/{name}")
    network, pairs, train, settings = config.network, config.pairs, config.train, config.sdstrack
    made = preset(network.preset, kind="single_stream", **network.changes())
    assert (made.embed_dim, made.depth, made.num_heads, made.patch) == (768, 12, 12, 16)
    assert (made.template_size, made.search_size, made.drop_path) == (128, 256, 0.1)
    assert (made.elimination_layers, made.keep_ratio) == ((3, 6, 9), 0.7)
    assert config.tuning == "sdstrack"
    assert (settings.ratio, settings.fusion_layers) == (0.25, (3, 6, 9, 11))
    assert (settings.rgb_masked, settings.x_masked) == (0.3, 0.3)
    assert (settings.clean_weight, settings.masked_weight, settings.distillation_weight) == (0.6, 0.2, 0.1)
    assert (pairs.template_factor, pairs.search_factor) == (2.0, 4.0)
    assert (pairs.center_jitter, pairs.scale_jitter) == (3.0, 0.25)
    assert (config.loss.giou, config.loss.l1, config.loss.focal, config.loss.cell) == (2.0, 5.0, 1.0, "best")
    assert (train.batch_size, train.samples_per_epoch) == (4 * 16, 60_000)
    assert (train.lr, train.epochs) == (row.lr, row.epochs)
    assert (train.weight_decay, train.clip_grad_norm, train.batchnorm) == (1e-4, 0.1, "frozen")
    assert {lr_factor(step, train) for step in (0, train.total_steps // 2, train.total_steps - 1)} == {1.0}
    assert (config.data.source, config.data.layout) == ("folder", row.layout)
    assert BY_NAME[row.layout].modality == row.modality
    if name != "sdstrack_rgbe":
        assert (config.data.split, config.data.val_share) == ("train_without_val", row.val_share)
    assert config.output.as_posix() == f"runs/{kind}/{name}"


def test_what_is_kept_out_is_about_as_much_as_in_the_release() -> None:
    """The release keeps 98 of LasHeR's 979 training sequences out, and 5 of DepthTrack's 152."""
    assert round(TABLE["sdstrack_rgbt"].val_share * 979) == 98
    assert round(TABLE["sdstrack_rgbd"].val_share * 152) == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(TABLE))
def test_adapters_and_the_embedding_learn_at_the_rate_and_the_norm_at_a_tenth(kind: str, name: str) -> None:
    config = recipe(f"{kind}/{name}")
    shape = preset("vit_b_256", kind="single_stream", embed_dim=16, num_heads=2, head_channels=8)
    with torch.device("meta"):
        network = tune(build_network(shape), "sdstrack", config.sdstrack)
    groups = parameter_groups(network, group_settings(config.train), config.train.also_train)
    rate = TABLE[name].lr
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(
        {"norms": 0.1 * rate, "embed_x": rate, "adapters": rate}
    )
    assert {group["weight_decay"] for group in groups} == {1e-4}
    assert type(build_optimizer(groups, config.train, config.optimizer)) is torch.optim.AdamW


def test_corrections_are_all_that_differs() -> None:
    allowed = {
        "output", "sdstrack.x_embedding", "sdstrack.same_tokens", "train.precision", "train.crops", "pairs.broken",
        "validation.every", "validation.source", "validation.sequences",
    }  # fmt: skip
    own = {"sdstrack_rgbt": set(), "sdstrack_rgbd": {"data.depth_style"}, "sdstrack_rgbe": {"data.split"}}
    for name in TABLE:
        published, corrected = (recipe(f"{kind}/{name}").model_dump() for kind in KINDS)
        differing = {
            f"{section}.{key}" if isinstance(value, dict) else section
            for section, value in published.items()
            for key in (value if isinstance(value, dict) else [section])
            if (value[key] != corrected[section][key] if isinstance(value, dict) else value != corrected[section])
        }
        assert differing == allowed | own[name], name


def test_the_page_has_the_table() -> None:
    page = (REPOSITORY / "docs" / "tuning" / "sdstrack.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if "| `sdstrack_" in line]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    assert {name: (float(lr), int(epochs)) for name, _, lr, epochs in rows} == {
        name: (row.lr, row.epochs) for name, row in TABLE.items()
    }
