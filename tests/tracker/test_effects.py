"""Every setting takes effect or is refused. Each one that can be idle is tried where it is idle and where it is not.

The table is typed here a second time, from what the code does with a setting, and not read from the settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tracker.config import RunConfig, ineffective, load_config, shipped_configs
from tracker.config.sections import leaves
from tracker.config.text import explained_yaml
from tracker.errors import RGBXError

INIT = "init=tiny_rgb"
FILES = "data.root=/data"
PAIR = "data.rgb=/a/visible data.x=/a/infrared"
SRFT = "optimizer.name=srft"
DAMPED = f"{SRFT} optimizer.damping=rank"
PRIOR = "optimizer.prior=map.safetensors"
COUPLED = f"{SRFT} {PRIOR} optimizer.mode=coupled"
VALIDATED = "validation.every=1"


class Case(NamedTuple):
    """A setting, a command and settings beside which it does nothing, and others beside which it does something."""

    key: str
    value: str
    idle: str
    busy: str | None
    idle_command: str = "train"
    busy_command: str = "train"


def generator(key: str, value: str) -> Case:
    return Case(f"data.{key}", value, FILES, "")


def of_command(key: str, value: str, idle: str = "prior", busy: str = "train") -> Case:
    return Case(key, value, "", "", idle, busy)


CASES = [
    of_command("init", "tiny_rgb"),
    of_command("output", "runs/x"),
    # The checkpoint has its sizes.
    *(
        Case(f"network.{key}", value, INIT, "", "pretrain", "pretrain")
        for key, value in {
            "preset": "vit_b_256", "embed_dim": "48", "depth": "3", "num_heads": "3", "head_channels": "16",
            "mlp_ratio": "2", "temporal": "true", "cross_layers": "[0]",
        }.items()
    ),
    Case("network.cross_layers", "[0]", INIT, INIT, "pretrain", "train"),
    *(of_command(f"network.{key}", "32") for key in ("template_size", "search_size")),
    of_command("network.drop_path", "0.1"),
    of_command("network.elimination_layers", "[1]"),
    of_command("network.keep_ratio", "0.5"),
    Case("data.root", "/data", "data.source=synthetic", ""),
    Case("data.sets", "[{root: /a}]", "data.source=synthetic", ""),
    Case("data.layout", "lasher", "", FILES),
    Case("data.layout", "lasher", PAIR, 'data.sets=[{"root":"/a"}]'),
    Case("data.split", "train", PAIR, FILES),
    Case("data.rgb", "/a/visible", "data.source=synthetic data.x=/a/infrared", "data.x=/a/infrared"),
    Case("data.x", "/a/infrared", "data.source=synthetic data.rgb=/a/visible", "data.rgb=/a/visible"),
    Case("data.val_share", "0.1", FILES, f"{FILES} data.split=train_without_val"),
    Case("data.val_share", "0.1", f"{FILES} {VALIDATED}", f"{FILES} {VALIDATED} validation.source=split"),
    Case("data.unusable", "skip", PAIR, FILES),
    Case("data.depth_style", "raw", "data.modality=thermal", "data.modality=depth"),
    Case("data.depth_clip", "false", "data.modality=event", FILES),
    Case("data.event_style", "gray", "data.modality=event", FILES),
    Case("data.thermal_style", "minmax", "data.modality=thermal", FILES),
    Case("data.thermal_range", "[0, 9]", FILES, f"{FILES} data.thermal_style=fixed"),
    *(generator(key, "3") for key in ("sequences", "first", "length", "seed", "refresh")),
    Case("data.refresh", "3", "", "", "prior", "train"),
    generator("difficulty", "0.2"),
    *(
        Case(f"data.{side}", "80", FILES, f"{FILES} {VALIDATED} validation.source=generated")
        for side in ("width", "height")
    ),
    *(
        Case(f"{section}.{key}", value, "prior.estimator=uniform", "prior.estimator=mas", "prior", "prior")
        for section, key, value in (
            ("data", "source", "synthetic"), ("data", "modality", "rgb"), ("pairs", "template_factor", "2.5"),
            ("pairs", "search_factor", "5"), ("pairs", "center_jitter", "2"), ("pairs", "scale_jitter", "0.1"),
            ("pairs", "max_gap", "9"), ("pairs", "min_frames", "9"), ("pairs", "min_present", "9"),
            ("pairs", "grayscale", "0.1"), ("pairs", "flip", "0.1"), ("pairs", "flip_each", "0.1"),
            ("pairs", "brightness", "0.1"), ("pairs", "broken", "report"), ("prior", "samples", "9"),
            ("prior", "batch_size", "9"), ("prior", "workers", "1"), ("prior", "seed", "9"),
            ("prior", "relative_error", "0.1"),
        )
    ),
    *(
        Case(f"loss.{key}", "3", "prior.estimator=mas", "prior.estimator=fisher", "prior", "prior")
        for key in ("giou", "l1", "focal")
    ),
    of_command("loss.cell", "target"),
    *(
        of_command(f"train.{key}", value)
        for key, value in {
            "epochs": "2", "samples_per_epoch": "64", "batch_size": "8", "workers": "1", "lr": "1e-3",
            "weight_decay": "0.1", "betas": "[0.8, 0.9]", "schedule": "step", "warmup_steps": "2",
            "clip_grad_norm": "2", "precision": "bf16", "tf32": "true", "compile": "true", "channels_last": "true",
            "deterministic": "false", "crops": "device", "accumulate": "2", "activation_checkpointing": "true",
            "batchnorm": "train", "seed": "3", "log_every": "2", "checkpoint_every": "2", "keep_checkpoints": "3",
        }.items()
    ),
    Case("train.final_lr", "0.1", "train.schedule=step", "train.schedule=cosine"),
    Case("train.step_at", "0.5", "train.schedule=constant", "train.schedule=step"),
    Case("train.step_factor", "0.5", "train.schedule=cosine", "train.schedule=step"),
    Case("train.tf32", "true", "train.device=cpu", "train.device=cuda"),
    Case("train.prefetch", "4", "train.workers=0", "train.workers=1"),
    *(
        of_command(f"train.lr_scale.{key}", "0.5", "pretrain", "train")
        for key in ("norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross", "head", "positions")
    ),
    Case("train.lr_scale.blocks_rgb", "0.5", "tuning=lora", "tuning=lora train.also_train=[blocks_rgb]"),
    Case("train.lr_scale.norms", "0.5", "tuning=frozen", "tuning=sdstrack"),
    Case("train.lr_scale.adapters", "0.5", "tuning=frozen", "tuning=lora"),
    of_command("tuning", "lora", "pretrain", "train"),
    Case("train.also_train", "[head]", "tuning=full", "tuning=frozen"),
    Case("optimizer.adapters", "free", f"tuning=lora {SRFT} {PRIOR}", f"tuning=lora {DAMPED}"),
    Case("optimizer.adapters", "free", DAMPED, f"tuning=adapters {DAMPED}"),
    *(
        Case(f"{section}.{key}", value, "tuning=full", f"tuning={section}")
        for section, key, value in (
            ("lora", "rank", "4"), ("lora", "alpha", "4"), ("lora", "dropout", "0.1"), ("lora", "targets", "[qkv]"),
            ("lora", "dora", "true"), ("adapters", "width", "4"), ("adapters", "scale", "1"),
            ("sdstrack", "ratio", "0.5"), ("sdstrack", "fusion_layers", "[1]"), ("sdstrack", "x_embedding", "random"),
            ("sdstrack", "rgb_masked", "0.1"), ("sdstrack", "x_masked", "0.1"), ("sdstrack", "clean_weight", "1"),
            ("sdstrack", "masked_weight", "1"), ("sdstrack", "distillation_weight", "1"),
            ("sdstrack", "same_tokens", "false"), ("patrack", "source", "other"), ("patrack", "gated", "true"),
            ("patrack", "entangled_layers", "[1]"), ("patrack", "dropout", "0.2"), ("distill", "teacher", "t"),
            ("distill", "common", "2"), ("distill", "specific", "2"), ("distill", "fusion", "2"),
            ("distill", "mask_probability", "0.1"), ("distill", "mask_share", "0.1"), ("distill", "mask_cells", "3"),
            ("distill", "cache", "/cache"),
        )
    ),
    *(
        Case(f"distill.{key}", value, "tuning=distill distill.mask_probability=0", "tuning=distill")
        for key, value in (("mask_share", "0.1"), ("mask_cells", "3"))
    ),
    Case("distill.cache_gigabytes", "3", "tuning=distill", "tuning=distill distill.cache=/cache"),
    *(
        Case(
            f"sdstrack.{key}", value, "tuning=sdstrack sdstrack.masked_weight=0 sdstrack.distillation_weight=0",
            "tuning=sdstrack sdstrack.masked_weight=0",
        )
        for key, value in (("rgb_masked", "0.1"), ("x_masked", "0.1"), ("same_tokens", "false"))
    ),
    Case("optimizer.name", "srft", "", "optimizer.damping=mean", "prior", "train"),
    Case("optimizer.name", "srft", "", "optimizer.damping=mean"),
    Case(
        "optimizer.name", "srft", "optimizer.mode=coupled optimizer.damping=rank",
        "optimizer.mode=decoupled optimizer.damping=rank",
    ),
    Case("optimizer.prior", "map.safetensors", "optimizer.name=adamw", ""),
    Case("optimizer.prior", "map.safetensors", "optimizer.strength=0", "optimizer.strength=1"),
    Case("optimizer.prior", "map.safetensors", "optimizer.kappa=constant optimizer.kappa_start=0", ""),
    Case("optimizer.strength", "3", "", PRIOR),
    Case("optimizer.strength", "3", DAMPED, f"{SRFT} {PRIOR}"),
    Case("optimizer.kappa", "linear", "", PRIOR),
    Case("optimizer.kappa_start", "0.5", "", PRIOR),
    Case("optimizer.kappa_end", "0.5", f"{PRIOR} optimizer.kappa=constant", PRIOR),
    Case("optimizer.mode", "decoupled", "", PRIOR),
    Case("optimizer.normalize", "tensor", DAMPED, f"{SRFT} optimizer.damping=mean"),
    Case("optimizer.normalize", "tensor", "", PRIOR),
    Case("optimizer.damping", "mean", "", SRFT),
    Case("optimizer.damping", "mean", COUPLED, f"{SRFT} {PRIOR}"),
    Case("optimizer.damping", "mean", f"{PRIOR} optimizer.kappa=constant optimizer.kappa_start=1", PRIOR),
    Case("optimizer.mu", "[0, 0.5]", f"{SRFT} optimizer.damping=mean", DAMPED),
    Case("optimizer.mu", "[0, 0.5]", COUPLED, f"{PRIOR} optimizer.damping=rank"),
    of_command("prior.estimator", "mas", "train", "prior"),
    Case("prior.draws", "3", "prior.estimator=mas", "prior.estimator=gnb", "prior", "prior"),
    of_command("validation.every", "2"),
    *(
        Case(f"validation.{key}", value, "validation.every=0", f"{VALIDATED} {beside}")
        for key, value, beside in (
            ("source", "split", FILES), ("split", "val", f"{FILES} validation.source=split"), ("sequences", "3", ""),
            ("length", "9", ""), ("difficulty", "0.1", ""), ("seed", "3", ""),
        )
    ),
    Case("validation.split", "test", f"{FILES} {VALIDATED}", f"{FILES} {VALIDATED} validation.source=split"),
    *(
        Case(f"validation.{key}", "9", f"{FILES} {VALIDATED} validation.source=split", VALIDATED)
        for key in ("length", "seed")
    ),
    Case("validation.difficulty", "0.9", f"{FILES} {VALIDATED} validation.source=split", VALIDATED),
]  # fmt: skip
ALWAYS = {"train.device"}
"""Settings that every command uses."""


def configured(command: str, *overrides: str) -> RunConfig:
    return load_config(RunConfig, None, overrides, command=command)


def test_the_table_has_every_setting() -> None:
    assert {case.key for case in CASES} | ALWAYS == {leaf.key for leaf in leaves(RunConfig)}
    assert not {case.key for case in CASES} & ALWAYS


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}-{case.idle}-{case.idle_command}")
def test_a_setting_is_refused_where_it_would_be_idle_and_taken_where_it_is_not(case: Case) -> None:
    override = f"{case.key}={case.value}"
    named = "data.(rgb|x)" if case.key in ("data.rgb", "data.x") else case.key  # two halves of one setting
    with pytest.raises(RGBXError, match=rf"^command line: {named} has no effect") as caught:
        configured(case.idle_command, *case.idle.split(), override)
    assert "leave" in str(caught.value)
    assert "\n" not in str(caught.value)
    beside = [] if case.busy is None else case.busy.split()
    config = configured(case.busy_command, *beside, override)
    assert case.key not in ineffective(config, case.busy_command)
    if not case.key.startswith(("data.rgb", "data.x")):
        assert config.model_dump() != changed_by_nothing(case.busy_command, beside) or case.value in DEFAULTS


DEFAULTS = ("synthetic", "val")
"""Values of the table that are the defaults."""


def changed_by_nothing(command: str, beside: list[str]) -> dict[str, Any] | None:
    """Return the configuration without the setting; None where that is no configuration."""
    try:
        return configured(command, *beside).model_dump()
    except RGBXError:
        return None


def test_a_root_means_files_and_a_prior_means_srft() -> None:
    """Somebody believed that SRFT was trained on a data set, and trained AdamW on generated data.

    This was the input.
    """
    config = load_config(
        RunConfig,
        "tiny_rgbt",
        [INIT, "data.root=/nonexistent", "optimizer.prior=nope.safetensors", "optimizer.strength=3"],
        command="train",
    )
    assert (config.data.source, str(config.data.root)) == ("folder", "/nonexistent")
    assert (config.optimizer.name, config.optimizer.strength) == ("srft", 3.0)
    # What the file says of the generator is not of the files.
    assert config.data.sequences == RunConfig().data.sequences
    assert config.data.modality is None


def test_a_later_layer_replaces_what_it_makes_idle(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "optimizer: {name: srft, prior: map.safetensors, strength: 3}\ntrain: {schedule: step, step_at: 0.5}\n"
    )
    config = load_config(RunConfig, mine, ["optimizer.name=adamw", "train.schedule=constant"], command="train")
    assert config.optimizer == RunConfig().optimizer
    assert config.train.step_at == RunConfig().train.step_at
    for line in ("optimizer: {name: adamw, strength: 3}", "train: {schedule: constant, step_at: 0.5}"):
        mine.write_text(line + "\n")
        with pytest.raises(RGBXError, match=f"^{mine}: .* has no effect"):
            load_config(RunConfig, mine, command="train")
    # A file may serve several commands; the command line is for one.
    mine.write_text("prior: {samples: 9}\ntrain: {epochs: 3}\n")
    assert load_config(RunConfig, mine, command="train").prior == RunConfig().prior
    assert load_config(RunConfig, mine, command="prior").prior.samples == 9


def test_neutral_values_ask_for_nothing() -> None:
    neutral = [
        "optimizer.strength=0", "optimizer.damping=none", "optimizer.name=adamw", "optimizer.prior=null",
        "data.root=null", "data.sets=[]", "train.tf32=false", "train.device=cpu",
    ]  # fmt: skip
    assert configured("train", *neutral).optimizer.name == "adamw"
    assert configured("pretrain", "train.lr_scale.head=1").train.lr_scale.head == 1.0


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name != "corrections"])
def test_shipped_configurations_ask_for_nothing_idle(name: str) -> None:
    recipe = "/" in name or name == "distill_rgbt"
    given = [INIT] if recipe else []
    given += [FILES] if recipe and not name.endswith("_rgbx") else []
    given += [PRIOR] if name.startswith(("corrected/ostrack", "corrected/droptrack")) else []
    given += [f"tuning={name.partition('_')[0]}"] if name.endswith("_corrections") else []
    command = name.removeprefix("tiny_") if name in ("tiny_pretrain", "tiny_prior") else "train"
    config = load_config(RunConfig, name, [*given, *([PRIOR] if name.startswith("demo") else [])], command=command)
    again = explained_yaml(config, command)
    for key in ineffective(config, command):
        assert f"# {key.rpartition('.')[2]}: " in again


def test_corrected_recipes_are_not_the_papers_without_a_prior() -> None:
    with pytest.raises(RGBXError, match=r"optimizer\.strength has no effect: it needs optimizer\.prior"):
        load_config(RunConfig, "corrected/ostrack_rgbt", [INIT, FILES], command="train")


def test_a_shown_configuration_is_read_back_to_the_same_run(tmp_path: Path) -> None:
    for command, overrides in (
        ("train", [INIT, FILES, PRIOR, "data.event_style=gray"]),
        ("train", [INIT, "data.modality=depth", "train.workers=2"]),
        ("pretrain", ["network.depth=3"]),
        ("prior", ["prior.estimator=uniform"]),
    ):
        config = configured(command, *overrides)
        (tmp_path / "shown.yaml").write_text(explained_yaml(config, command))
        again = load_config(RunConfig, tmp_path / "shown.yaml", command=command)
        assert (again.model_dump(), again.data.asked) == (config.model_dump(), config.data.asked)


def test_the_latest_place_of_the_data_wins(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {sets: [{root: /a}, {root: /b}], depth_style: raw}\n")
    assert configured("train", *PAIR.split()).data.source == "folder"
    data = load_config(RunConfig, mine, [FILES], command="train").data
    assert (str(data.root), data.sets, data.depth_style, data.asked) == ("/data", (), "raw", frozenset())
    data = load_config(RunConfig, mine, ["data.thermal_style=minmax"], command="train").data
    assert data.asked == {"depth_style", "thermal_style"}
    with pytest.raises(RGBXError, match="root and rgb both say where the data are"):
        configured("train", FILES, *PAIR.split())
