"""Recipes agree with a table of what SRTrack's code and paper have, which is typed here a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from srft_kernels import SignificanceMap
from tests.paths import REPOSITORY
from tracker.config import RunConfig, load_config, shipped_configs
from tracker.data.layouts import write_dataset
from tracker.data.layouts.registry import BY_NAME
from tracker.data.synthetic import SyntheticConfig, synthetic_dataset
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import NetworkConfig, preset
from tracker.models.groups import parameter_groups
from tracker.models.tracker import build_network
from tracker.train.configured_data import sequences_of
from tracker.train.finetune import fine_tune, group_settings
from tracker.train.optimizers import build_optimizer
from tracker.train.prior import save_prior
from tracker.train.schedule import lr_factor
from tracker.train.start import two_stream_start
from tracker.train.validate import validation_sequences


class Published(NamedTuple):
    """A row of that table: crops, their factors, jitter, batch, epochs and data."""

    template: int
    search: int
    factor: float
    center: float
    scale: float
    batch: int
    epochs: int
    sets: tuple[str, ...]
    temporal: bool


TABLE = {
    "ostrack_rgbt": Published(128, 256, 4.0, 3.0, 0.25, 80, 30, ("lasher",), False),
    "ostrack_rgbd": Published(128, 256, 4.0, 3.0, 0.25, 80, 20, ("depthtrack",), False),
    "ostrack_rgbe": Published(128, 256, 4.0, 3.0, 0.25, 80, 30, ("coesot",), False),
    "ostrack_rgbt_384": Published(192, 384, 4.0, 3.0, 0.25, 56, 16, ("lasher",), False),
    "ostrack_rgbd_384": Published(192, 384, 4.0, 3.0, 0.25, 56, 20, ("depthtrack",), False),
    "droptrack_rgbt": Published(192, 384, 5.0, 4.5, 0.5, 56, 20, ("lasher",), True),
    "droptrack_rgbd": Published(192, 384, 5.0, 4.5, 0.5, 56, 20, ("depthtrack",), True),
    "droptrack_rgbe": Published(192, 384, 5.0, 4.5, 0.5, 56, 30, ("coesot",), True),
    "droptrack_rgbx": Published(192, 384, 5.0, 4.5, 0.5, 56, 40, ("visevent", "depthtrack", "lasher"), True),
}
MODALITIES = {"lasher": "thermal", "depthtrack": "depth", "coesot": "event"}
SPLITS = {"published": "train", "corrected": "train_without_val"}
DEPTH = {"published": "jet_bgr", "corrected": "jet"}
RELEASED = dict.fromkeys(("norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross"), 1e-6)
INTENDED = {
    "norms": 1e-6, "embed_rgb": 5e-5, "embed_x": 5e-5, "blocks_rgb": 1e-4, "blocks_x": 1e-4, "cross": 5e-5,
}  # fmt: skip


def recipe(name: str) -> RunConfig:
    """Return a recipe with the place of its data, which no file holds. Several data sets are named in it."""
    return load_config(RunConfig, name, [] if name.endswith("_rgbx") else ["data.root=/data"])


def test_every_row_has_a_published_and_a_corrected_recipe() -> None:
    expected = {f"{kind}/{name}" for kind in ("published", "corrected") for name in TABLE}
    ours = ("published/ostrack", "published/droptrack", "corrected/ostrack", "corrected/droptrack")
    assert {name for name in shipped_configs() if name.startswith(ours)} == expected


@pytest.mark.parametrize("kind", ["published", "corrected"])
@pytest.mark.parametrize("name", list(TABLE))
def test_a_recipe_has_the_tables_numbers(kind: str, name: str) -> None:
    row, config = TABLE[name], recipe(f"{kind}/{name}")
    network, pairs, train = config.network, config.pairs, config.train
    assert (network.template_size, network.search_size, network.drop_path) == (row.template, row.search, 0.1)
    assert not network.elimination_layers
    made = preset(network.preset, kind="two_stream", **network.changes())
    assert (made.embed_dim, made.depth, made.num_heads, made.patch, made.cross) == (768, 12, 12, 16, (2, 5, 8, 11))
    assert made.temporal == row.temporal
    assert (pairs.template_factor, pairs.search_factor) == (2.0, row.factor)
    assert (pairs.center_jitter, pairs.scale_jitter) == (row.center, row.scale)
    assert (pairs.max_gap, pairs.min_frames, pairs.min_present) == (200, 20, 5)
    assert (pairs.grayscale, pairs.flip, pairs.flip_each, pairs.brightness) == (0.05, 0.5, 0.5, 0.2)
    assert (config.loss.giou, config.loss.l1, config.loss.focal, config.loss.cell) == (2.0, 5.0, 1.0, "best")
    assert (train.batch_size, train.epochs, train.samples_per_epoch) == (row.batch, row.epochs, 80_000)
    assert (train.weight_decay, train.clip_grad_norm, train.batchnorm) == (1e-4, 0.1, "frozen")
    assert (train.warmup_steps, train.betas, train.accumulate) == (0, (0.9, 0.999), 1)
    assert config.data.source == "folder"
    assert config.output.as_posix() == f"runs/{kind}/{name}"


@pytest.mark.parametrize("kind", ["published", "corrected"])
@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if len(row.sets) == 1])
def test_a_recipe_trains_on_the_tables_data(kind: str, name: str) -> None:
    data = recipe(f"{kind}/{name}").data
    (layout,) = TABLE[name].sets
    assert (data.layout, BY_NAME[data.layout].modality) == (layout, MODALITIES[layout])
    assert data.split == SPLITS[kind]
    if layout == "depthtrack":
        assert (data.depth_style, data.depth_clip) == (DEPTH[kind], True)


@pytest.mark.parametrize("kind", ["published", "corrected"])
def test_the_joint_recipe_draws_its_three_sets_alike(kind: str) -> None:
    data = recipe(f"{kind}/droptrack_rgbx").data
    assert [(part.layout, part.ratio, part.split) for part in data.sets] == [
        (layout, 1.0, None) for layout in TABLE["droptrack_rgbx"].sets
    ]
    assert data.split == SPLITS[kind]
    assert (data.depth_style, data.depth_clip) == (DEPTH[kind], True)


def small(config: RunConfig) -> NetworkConfig:
    """Return the recipe's network in small: the groups are those of its names."""
    return preset(config.network.preset, kind="two_stream", embed_dim=16, num_heads=2, head_channels=8)


@pytest.mark.parametrize(("kind", "rates"), [("published", RELEASED), ("corrected", INTENDED)])
@pytest.mark.parametrize("name", list(TABLE))
def test_groups_learn_at_the_tables_rates(kind: str, rates: dict[str, float], name: str) -> None:
    config = recipe(f"{kind}/{name}")
    with torch.device("meta"):
        network = build_network(small(config))
    groups = parameter_groups(network, group_settings(config.train))
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(rates)
    assert {group["weight_decay"] for group in groups} == {1e-4}
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(("head.", "positions."))}


@pytest.mark.parametrize("kind", ["published", "corrected"])
@pytest.mark.parametrize("name", list(TABLE))
def test_rates_fall_where_the_release_has_them_fall(kind: str, name: str) -> None:
    """They fall at epoch 48, which no run reaches; RGB-E from OSTrack falls at 20."""
    train = recipe(f"{kind}/{name}").train
    drop = 20 if name == "ostrack_rgbe" else 48
    for epoch in range(train.epochs):
        first, last = epoch * train.steps_per_epoch, (epoch + 1) * train.steps_per_epoch - 1
        expected = 0.1 if epoch >= drop else 1.0
        assert lr_factor(first, train) == pytest.approx(expected)
        assert lr_factor(last, train) == pytest.approx(expected)


def optimizer_of(config: RunConfig, prior: bool) -> Any:
    network = build_network(small(config))
    significance = {name: torch.ones_like(p) for name, p in network.named_parameters()} if prior else None
    groups = parameter_groups(network, group_settings(config.train))
    return build_optimizer(groups, config.train, config.optimizer, significance)


@pytest.mark.parametrize("name", ["ostrack_rgbt", "droptrack_rgbe"])
def test_regularization_is_damping_alone_as_released_and_srft_corrected(name: str) -> None:
    released = optimizer_of(recipe(f"published/{name}"), prior=False)
    assert released.kappa == 0.0
    for group in released.param_groups:
        assert (group["strength"], group["damping"], tuple(group["mu"])) == (0.0, "rank", (0.25, 0.65))
    corrected = optimizer_of(recipe(f"corrected/{name}"), prior=True)
    assert corrected.kappa == 1.0
    for group in corrected.param_groups:
        assert (group["strength"], group["damping"], tuple(group["mu"])) == (10.0, "rank", (0.25, 0.65))
        assert group["mode"] == "proximal"


@pytest.mark.parametrize("name", list(TABLE))
def test_the_test_set_is_watched_by_neither(name: str) -> None:
    assert recipe(f"published/{name}").validation.every == 0
    validation = recipe(f"corrected/{name}").validation
    assert (validation.every > 0, validation.source, validation.split) == (True, "split", "val")


def test_corrections_are_all_that_differs() -> None:
    """Only what corrections.yaml and a recipe's own few lines say is different in a corrected recipe."""
    allowed = {
        "output", "data.split", "train.lr", "train.lr_scale", "train.precision", "train.crops", "pairs.broken",
        "optimizer.strength", "optimizer.normalize", "optimizer.kappa", "optimizer.kappa_start", "validation.every",
        "validation.source", "validation.sequences",
    }  # fmt: skip
    for name in TABLE:
        published, corrected = (recipe(f"{kind}/{name}").model_dump() for kind in ("published", "corrected"))
        differing = {
            f"{section}.{key}" if isinstance(value, dict) else section
            for section, value in published.items()
            for key in (value if isinstance(value, dict) else [section])
            if (value[key] != corrected[section][key] if isinstance(value, dict) else value != corrected[section])
        }
        depth = {"data.depth_style"} if "depthtrack" in TABLE[name].sets else set()
        assert differing == allowed | depth, name


def test_the_page_on_training_names_every_recipe_with_its_numbers(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    told = {}
    for names, _, _, crops, *numbers in (row for row in rows if len(row) == 6):
        recipes = [name.strip(" `") for name in names.split(",")]
        batch, epochs = ([int(n) for n in cell.split(",")] for cell in numbers)
        for index, name in enumerate(recipes):
            told[name] = (*map(int, crops.split(",")), batch[0], epochs[index if len(epochs) > 1 else 0])
    assert told == {name: (row.template, row.search, row.batch, row.epochs) for name, row in TABLE.items()}
    mine = tmp_path / "mine.yaml"
    mine.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert load_config(RunConfig, mine, ["data.root=/data"]).train.epochs == 10


@pytest.fixture(scope="module")
def three_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with visevent/, depthtrack/ and lasher/, each of three generated sequences."""
    root = tmp_path_factory.mktemp("sets")
    for layout, modality in (("visevent", "event"), ("depthtrack", "depth"), ("lasher", "thermal")):
        config = SyntheticConfig(modality=modality, length=20, size=(96, 72), seed=1)
        write_dataset(synthetic_dataset(config, 3), root / layout, layout, split="train")
    return root


def test_the_joint_recipe_runs_as_it_is_but_for_its_size(
    three_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has weights by data set, validation on what training leaves out, SRFT with a prior, device crops and bf16."""
    monkeypatch.chdir(three_sets)
    torch.manual_seed(0)
    shape = preset("tiny", kind="single_stream", embed_dim=16, depth=2, num_heads=2, template_size=32, search_size=64,
                   head_channels=8, cross_layers=(0, 1), temporal=True)  # fmt: skip
    rgb = build_network(shape)
    save_network(tmp_path / "rgb.safetensors", rgb)
    prior = SignificanceMap({name: torch.rand_like(p) for name, p in rgb.named_parameters()})
    save_prior(prior, tmp_path / "rgb.significance.safetensors")
    config = load_config(
        RunConfig,
        "corrected/droptrack_rgbx",
        [
            f"init={tmp_path / 'rgb.safetensors'}", f"output={tmp_path / 'run'}", "network.template_size=32",
            f"optimizer.prior={tmp_path / 'rgb.significance.safetensors'}", "network.search_size=64",
            "train.samples_per_epoch=4", "train.batch_size=2", "train.epochs=2", "train.workers=0",
            "train.log_every=1", "train.device=cpu",
        ],
    )  # fmt: skip
    network_file, history = fine_tune(config)
    validated = [record for record in history if "validation/SR" in record.scalars]
    assert [record.step for record in validated] == [4]  # every second epoch
    assert [record.step for record in history if "penalty" in record.scalars] == [1, 2, 3, 4]
    trained, trained_shape, meta = load_network(network_file)
    assert trained_shape.temporal
    assert meta["inference"]["search_factor"] == 5.0
    start = two_stream_start(config)[0].state_dict()
    for name, value in trained.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith(("head.", "positions.")), name

    training, weights = sequences_of(config.data)
    held_out = validation_sequences(config)
    names = [{sequence.name for sequence in group} for group in (training, held_out)]
    assert names[0].isdisjoint(names[1])
    assert sorted(sequence.modality for sequence in held_out) == ["depth", "event", "thermal"]
    assert len(training) + len(held_out) == 9
    assert weights == pytest.approx([0.5] * 6)  # two sequences of each set, the sets alike
