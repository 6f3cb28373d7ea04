"""The settings of a run as pydantic models: each with its default, unit, limits, meaning and when it has an effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from tracker.config.effects import (
    COMMAND,
    Condition,
    Effect,
    Lookup,
    above_zero,
    absent,
    both,
    commands,
    condition,
    either,
    equals,
    given,
)
from tracker.spellings import american

_FACTS = "facts"


class Section(BaseModel):
    """Base of every section: unknown keys, NaN and infinity are refused; a checked one never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def setting(
    default: Any,
    description: str,
    *when: Condition,
    unit: str = "",
    neutral: tuple[Any, ...] = (),
    **limits: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: its value where nobody sets it; ``...`` for a setting that must be given.
        description: what it does, as ``--help``, ``--show-config`` and ``docs/settings.md`` have it.
        when: conditions under which it has an effect; for a section, under which everything in it has.
        unit: of a number.
        neutral: values that ask for nothing, and are accepted where the setting has no effect.
        limits: ``ge``, ``gt``, ``le``, ``lt`` of pydantic.
    """
    facts: Any = {"unit": unit, "effect": Effect(when, neutral)}
    return Field(default, description=description, json_schema_extra={_FACTS: facts}, **limits)


STYLED = BeforeValidator(american)
"""Takes the British spelling of a style."""

# Conditions that several settings share.
TRAINING = commands("train", "pretrain")
GENERATED = equals("data.source", "synthetic")
FILES = equals("data.source", "folder")
DATA_SET = absent("data.rgb")
SRFT = equals("optimizer.name", "srft")
TUNED = condition("a tuning other than full", ("tuning",), lambda get: get("tuning") != "full")
VALIDATING = above_zero("validation.every")
DATA_FREE = ("magnitude", "uniform")
BY_LOSS = ("fisher", "fisher_exact", "hutchinson")
DERIVED_SPLITS = ("val", "train_without_val")


def _kappa_at(get: Lookup, wanted: float) -> bool:
    """Return whether kappa has the value ``wanted`` all the time."""
    ends = ["kappa_start"] if get("optimizer.kappa") == "constant" else ["kappa_start", "kappa_end"]
    return all(float(get(f"optimizer.{name}")) == wanted for name in ends)


_KAPPA = ("optimizer.kappa", "optimizer.kappa_start", "optimizer.kappa_end")
PULLING = condition("kappa above 0 at some time", _KAPPA, lambda get: not _kappa_at(get, 0.0))
DAMPED = condition(
    "damping that is in force (optimizer.damping=rank or mean, not in mode coupled, kappa below 1 at some time)",
    ("optimizer.damping", "optimizer.mode", *_KAPPA),
    lambda get: get("optimizer.damping") != "none" and get("optimizer.mode") != "coupled" and not _kappa_at(get, 1.0),
)
REGULARIZED = either(given("optimizer.prior"), DAMPED)
READS_DATA = condition(
    f"an estimator that reads data (not {' or '.join(DATA_FREE)}) if it is `rgbx prior`",
    ("prior.estimator", COMMAND),
    lambda get: get(COMMAND) != "prior" or get("prior.estimator") not in DATA_FREE,
)
JUDGED_BY_LOSS = condition(
    f"an estimator that judges by the loss ({', '.join(BY_LOSS)}) if it is `rgbx prior`",
    ("prior.estimator", COMMAND),
    lambda get: get(COMMAND) != "prior" or get("prior.estimator") in BY_LOSS,
)


def _uses_share(get: Lookup) -> bool:
    splits = [get("data.split")]
    sets = get("data.sets")
    splits += [part.get("split") for part in sets if isinstance(part, dict)] if isinstance(sets, (list, tuple)) else []
    if get("validation.source") == "split" and float(get("validation.every") or 0) > 0:
        splits.append(get("validation.split"))
    return any(split in DERIVED_SPLITS for split in splits)


SHARED = condition(
    "a split val or train_without_val",
    ("data.split", "data.sets", "validation.every", "validation.source", "validation.split"),
    _uses_share,
)
DEPTH = condition(
    "depth data",
    ("data.source", "data.modality"),
    lambda get: get("data.source") == "folder" or get("data.modality") == "depth",
)


class NetworkSection(Section):
    """The network: a preset, and what to change in it (unset keys keep the preset's or the checkpoint's value)."""

    preset: str = setting("tiny", "sizes to start from; docs/networks.md lists them", absent("init"))
    embed_dim: int | None = setting(None, "width of the tokens", absent("init"), unit="channels", ge=8, le=2048)
    depth: int | None = setting(None, "number of transformer blocks a stream", absent("init"), ge=1, le=64)
    num_heads: int | None = setting(None, "attention heads a block", absent("init"), ge=1, le=32)
    template_size: int | None = setting(None, "side of the template crop", unit="pixels", ge=16, le=1024)
    search_size: int | None = setting(None, "side of the search crop", unit="pixels", ge=32, le=2048)
    head_channels: int | None = setting(
        None, "width of the box head's first layer", absent("init"), unit="channels", ge=8, le=1024
    )
    cross_layers: tuple[int, ...] | None = setting(
        None,
        "layers, from 0, after which the two streams attend to each other",
        either(commands("train"), absent("init")),
    )
    drop_path: float | None = setting(None, "rate at which the last block is left out in training", ge=0.0, lt=1.0)
    mlp_ratio: float | None = setting(
        None, "width of a block's hidden layer over the tokens' width", absent("init"), gt=0.0, le=16.0
    )
    temporal: bool | None = setting(None, "DropMAE's template and search embeddings", absent("init"))
    elimination_layers: tuple[int, ...] | None = setting(
        None, "layers, from 0, that drop search tokens; OSTrack's are 3, 6, 9 of 12"
    )
    keep_ratio: float | None = setting(
        None, "share of the search tokens that is kept at each elimination layer", gt=0.0, le=1.0
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> NetworkSection:
        if self.embed_dim is not None and self.num_heads is not None and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    def changes(self) -> dict[str, Any]:
        """Return what differs from the preset, as keyword arguments of ``NetworkConfig``."""
        return {name: value for name, value in self if name != "preset" and value is not None}

    def overrides(self) -> dict[str, Any]:
        """Return those changes that fit any weights, as keyword arguments of ``load_network``."""
        free = ("drop_path", "template_size", "search_size", "elimination_layers", "keep_ratio")
        return {name: value for name, value in self.changes().items() if name in free}


class DataSetSection(Section):
    """One of several data sets that are trained on together."""

    root: Path = setting(..., "folder of sequences")
    layout: str | None = setting(None, "as data.layout, which it comes before")
    split: str | None = setting(None, "as data.split, which it comes before")
    ratio: float = setting(1.0, "how often it is drawn from, relative to the others", gt=0.0)


class DataSection(Section):
    """Where sequences come from: the generator (``synthetic``) or folders on disk (``folder``).

    On disk that is a data set (``root``), one pair of folders (``rgb`` and ``x``) or several data sets (``sets``).
    """

    source: Literal["synthetic", "folder"] = setting(
        "synthetic", "the generator, or folders on disk; naming root, rgb and x, or sets means folder"
    )
    root: Path | None = setting(None, "folder of sequences", FILES)
    layout: str = setting("auto", "how the folders lie; auto finds out for each sequence", FILES, DATA_SET)
    split: str | None = setting(
        None,
        "train or test: of the generator's photographs, or of a layout; of a layout also val, train_without_val and "
        "the path of a list file",
        DATA_SET,
    )
    rgb: Path | None = setting(None, "folder of RGB images, with x in place of root", FILES)
    x: Path | None = setting(None, "folder of X images; modality, or else its name, says what they are", FILES)
    sets: tuple[DataSetSection, ...] = setting(
        (), "several data sets, in place of root: a list of {root, layout, split, ratio}", FILES
    )
    val_share: float = setting(
        0.05, "share of the training sequences that is the split val", FILES, DATA_SET, SHARED, gt=0.0, lt=1.0
    )
    unusable: Literal["raise", "skip"] = setting(
        "raise", "sequences that cannot be opened: stop, or log them and go on", FILES, DATA_SET
    )
    modality: Literal["rgb", "thermal", "depth", "event"] | None = setting(
        None,
        "what X is: of the generator (thermal where it is not set), of the folder x, and what files are expected to be",
    )
    depth_style: Annotated[Literal["jet", "gray", "raw", "jet_bgr"], STYLED] = setting(
        "jet", "how depth becomes three channels; jet_bgr is what published weights saw", DEPTH
    )
    depth_clip: bool = setting(True, "clip depth to min(3 * median, 10000 mm) first", DEPTH)
    event_style: Annotated[Literal["color", "gray"], STYLED] = setting(
        "color", "how arrays of events are drawn: red and blue, or a gray for each third of the time", FILES
    )
    thermal_style: Literal["minmax", "percentile", "fixed"] = setting(
        "percentile",
        "how thermal images of more than 8 bits become gray: by the frame's extremes, by its 1st and 99th percentile, "
        "or the same for every frame, by thermal_range",
        FILES,
    )
    thermal_range: tuple[float, float] | None = setting(
        None,
        "raw values that become black and white, for thermal_style=fixed",
        FILES,
        equals("data.thermal_style", "fixed"),
        unit="raw values of the camera",
    )
    sequences: int = setting(64, "how many sequences the generator makes", GENERATED, ge=1, le=1_000_000)
    first: int = setting(0, "index of the first generated sequence", GENERATED, ge=0)
    refresh: int = setting(
        0, "generated sequences that are exchanged for new ones at each epoch", GENERATED, TRAINING, ge=0
    )
    length: int = setting(60, "length of a generated sequence", GENERATED, unit="frames", ge=2, le=100_000)
    width: int = setting(
        192,
        "width of generated frames",
        either(GENERATED, both(VALIDATING, equals("validation.source", "generated"))),
        unit="pixels",
        ge=32,
        le=4096,
    )
    height: int = setting(
        144,
        "height of generated frames",
        either(GENERATED, both(VALIDATING, equals("validation.source", "generated"))),
        unit="pixels",
        ge=32,
        le=4096,
    )
    difficulty: float = setting(
        0.5, "difficulty of generated sequences: speed, clutter, noise, night", GENERATED, ge=0.0, le=1.0
    )
    seed: int = setting(0, "seed of the generator", GENERATED, ge=0, lt=2**31)

    _asked: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def asked(self) -> frozenset[str]:
        """The styles of X that were set together with the data, or later, so that the data must have such an X."""
        return self._asked

    @property
    def generated_modality(self) -> str:
        """What X the generator makes."""
        return self.modality or "thermal"

    @model_validator(mode="after")
    def _consistent(self) -> DataSection:
        given = [name for name in ("root", "rgb", "sets") if getattr(self, name)]
        if (self.rgb is None) != (self.x is None):
            raise ValueError("rgb and x are the two folders of one sequence; give both or neither")
        if self.source == "folder" and not given:
            raise ValueError("source: folder needs root, the folder of sequences (or rgb and x, or sets)")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say where the data are; give one of them")
        if self.source == "synthetic" and self.split not in (None, "train", "test", "all"):
            raise ValueError(f"the generator has the splits train, test and all, not {self.split}")
        if self.thermal_style == "fixed" and self.thermal_range is None:
            raise ValueError("thermal_style: fixed needs thermal_range, the raw values that are black and white")
        if self.thermal_range is not None and not self.thermal_range[0] < self.thermal_range[1]:
            raise ValueError(f"thermal_range must be the value of black and a larger one of white, not "
                             f"{list(self.thermal_range)}")  # fmt: skip
        return self


class PairSection(Section):
    """How template and search crops are drawn from a sequence (OSTrack's convention)."""

    template_factor: float = setting(
        2.0, "side of the template region over sqrt(width * height) of the box", gt=0.5, le=16.0
    )
    search_factor: float = setting(
        4.0, "side of the search region over sqrt(width * height) of the box", gt=0.5, le=16.0
    )
    center_jitter: float = setting(
        3.0, "the search region moves by up to half of this along each axis", unit="sqrt of the box's area",
        ge=0.0, le=8.0,
    )  # fmt: skip
    scale_jitter: float = setting(
        0.25, "standard deviation of the logarithm of the search region's size", ge=0.0, le=2.0
    )
    max_gap: int = setting(200, "largest distance between template and search frame", unit="frames", ge=1)
    min_frames: int = setting(20, "shorter sequences are not drawn from", unit="frames", ge=2)
    min_present: int = setting(5, "sequences that show the target in fewer are not drawn from", unit="frames", ge=2)
    grayscale: float = setting(0.05, "probability that a pair's RGB is gray", ge=0.0, le=1.0)
    flip: float = setting(0.5, "probability that both crops of a pair are mirrored", ge=0.0, le=1.0)
    flip_each: float = setting(0.5, "probability that a crop is mirrored on its own", ge=0.0, le=1.0)
    brightness: float = setting(0.2, "a crop is multiplied by 1 - brightness to 1 + brightness", ge=0.0, lt=1.0)
    broken: Literal["raise", "report"] = setting(
        "raise", "a pair that cannot be read: stop, or log it and draw another one"
    )


class LossSection(Section):
    """Weights of the three tracking losses."""

    giou: float = setting(2.0, "weight of 1 - GIoU", ge=0.0)
    l1: float = setting(5.0, "weight of the boxes' mean absolute difference", ge=0.0)
    focal: float = setting(1.0, "weight of the score map's focal loss", ge=0.0)
    cell: Literal["best", "target"] = setting(
        "best",
        "where the box is regressed: at the best cell, or at the target's, for networks that start from nothing",
        TRAINING,
    )


ParameterGroup = Literal["norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross", "head", "positions"]
"""Of a network that is not tuned; what a tuning method adds is one more group, ``adapters``."""

TUNED_GROUPS: dict[str, tuple[str, ...]] = {
    "full": get_args(ParameterGroup),
    "frozen": ("embed_x", "cross"),
    "lora": ("adapters", "embed_x"),
    "adapters": ("adapters", "embed_x"),
    "sdstrack": ("adapters", "embed_x", "norms"),
    "patrack": ("adapters",),
    "distill": ("norms", "embed_rgb", "embed_x", "blocks_rgb", "head", "positions", "adapters"),
}
"""The groups that each tuning method trains."""


def _trains(group: str) -> Condition:
    """Return the condition that the group trains, by the tuning method or because it is asked for."""

    def holds(get: Lookup) -> bool:
        return group in TUNED_GROUPS.get(get("tuning"), ()) or group in (get("train.also_train") or ())

    methods = " or ".join(name for name, groups in TUNED_GROUPS.items() if group in groups)
    more = "" if group == "adapters" else f", or train.also_train=[{group}]"
    return condition(f"tuning={methods}{more}", ("tuning", "train.also_train"), holds)


def _rate(group: str, description: str) -> Any:
    return setting(1.0, description, _trains(group), ge=0.0, neutral=(0, 0.0, 1, 1.0))


class LearningRates(Section):
    """Learning rate of each parameter group as a multiple of ``train.lr``; 0 freezes the group."""

    norms: float = _rate("norms", "learning rate of the layer norms, as a multiple of train.lr; 0 freezes them")
    embed_rgb: float = _rate("embed_rgb", "that of the RGB patch embedding")
    embed_x: float = _rate("embed_x", "that of the X patch embedding")
    blocks_rgb: float = _rate("blocks_rgb", "that of the RGB stream's blocks")
    blocks_x: float = _rate("blocks_x", "that of the X stream's blocks")
    cross: float = _rate("cross", "that of the cross blocks")
    head: float = _rate("head", "that of the box head")
    positions: float = _rate("positions", "that of the position embeddings")
    adapters: float = _rate("adapters", "that of what a tuning method adds")


class TrainSection(Section):
    """The training loop."""

    epochs: int = setting(10, "length of the run", TRAINING, unit="epochs", ge=1)
    samples_per_epoch: int = setting(2048, "pairs that an epoch draws", TRAINING, unit="pairs", ge=1)
    batch_size: int = setting(32, "pairs in a step, of all processes together", TRAINING, unit="pairs", ge=1)
    workers: int = setting(
        0, "loader processes; 0 decodes in the training process", TRAINING, unit="processes", ge=0, le=256
    )
    lr: float = setting(1e-4, "learning rate of AdamW", TRAINING, gt=0.0, le=1.0)
    weight_decay: float = setting(1e-4, "decoupled weight decay of AdamW", TRAINING, ge=0.0, le=1.0)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's decay of its two averages", TRAINING)
    schedule: Literal["cosine", "step", "constant"] = setting(
        "cosine", "how the learning rate goes over the run", TRAINING
    )
    warmup_steps: int = setting(0, "linear rise of the learning rate", TRAINING, unit="steps", ge=0)
    final_lr: float = setting(
        0.01, "last learning rate, as a share of lr", TRAINING, equals("train.schedule", "cosine"), ge=0.0, le=1.0
    )
    step_at: float = setting(
        0.8, "share of the run after which the learning rate falls", TRAINING, equals("train.schedule", "step"),
        gt=0.0, lt=1.0,
    )  # fmt: skip
    step_factor: float = setting(
        0.1, "what the learning rate is multiplied by there", TRAINING, equals("train.schedule", "step"), gt=0.0, le=1.0
    )
    clip_grad_norm: float = setting(
        0.1, "largest norm of the gradient of all weights; 0 leaves gradients as they are", TRAINING, ge=0.0
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device to compute on; auto takes a GPU if torch sees one")
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "precision of the forward pass; weights and optimizer are always float32", TRAINING
    )
    tf32: bool = setting(
        False, "fp32 matrix products and convolutions in TF32, on a GPU", TRAINING,
        equals("train.device", "auto", "cuda"), neutral=(False,),
    )  # fmt: skip
    compile: bool = setting(False, "torch.compile the network for training", TRAINING)
    channels_last: bool = setting(False, "the head's convolutions in channels-last memory", TRAINING)
    deterministic: bool = setting(True, "torch's deterministic algorithms, where there are any", TRAINING)
    crops: Literal["host", "device"] = setting("host", "where crops are resized and augmented", TRAINING)
    prefetch: int = setting(
        2, "batches that each loader process has ready", TRAINING, above_zero("train.workers"), unit="batches",
        ge=1, le=64,
    )  # fmt: skip
    accumulate: int = setting(
        1, "parts that a batch goes through the network in, one after the other, to save memory", TRAINING, ge=1
    )
    activation_checkpointing: bool = setting(False, "compute blocks twice, to save much memory", TRAINING)
    batchnorm: Literal["train", "frozen"] = setting(
        "frozen", "whether the statistics of the head's batch norms are trained or frozen", TRAINING
    )
    seed: int = setting(0, "seed of everything that is drawn at random in training", TRAINING, ge=0, lt=2**31)
    log_every: int = setting(10, "steps from one log line to the next", TRAINING, unit="steps", ge=1)
    checkpoint_every: int = setting(
        0, "steps from one checkpoint to the next; 0 saves at each epoch's end", TRAINING, unit="steps", ge=0
    )
    keep_checkpoints: int = setting(2, "how many of the newest checkpoints are kept", TRAINING, ge=1)
    lr_scale: LearningRates = setting(LearningRates(), "learning rates of the parameter groups", commands("train"))
    also_train: tuple[ParameterGroup, ...] = setting(
        (), "parameter groups of the base that train besides those of the tuning method", TUNED, commands("train")
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainSection:
        if self.batch_size > self.samples_per_epoch:
            raise ValueError(f"batch_size {self.batch_size} is larger than samples_per_epoch {self.samples_per_epoch}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not divide into {self.accumulate} equal parts")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        if self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of the run's {self.total_steps} steps")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; a last, smaller batch is dropped."""
        return self.samples_per_epoch // self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class OptimizerSection(Section):
    """``adamw`` is torch's own; ``srft`` wraps it in ``srft_kernels.SRFT`` with these settings."""

    name: Literal["adamw", "srft"] = setting(
        "adamw", "the optimizer; naming a prior means srft", REGULARIZED, neutral=("adamw",)
    )
    prior: Path | None = setting(
        None, "significance map, from `rgbx prior`", SRFT, above_zero("optimizer.strength"), PULLING
    )
    strength: float = setting(
        10.0, "how firmly the prior holds; at 1 an element of average significance rests about one RMS of its tensor "
        "from where it started", SRFT, given("optimizer.prior"), PULLING, ge=0.0, neutral=(0, 0.0),
    )  # fmt: skip
    kappa: Literal["cosine", "linear", "exponential", "constant"] = setting(
        "cosine", "how kappa, from 1 (the prior holds) to 0 (only damping holds), goes over the run", SRFT
    )
    kappa_start: float = setting(1.0, "first value of kappa", SRFT, ge=0.0, le=1.0)
    kappa_end: float = setting(
        0.0, "last value of kappa", SRFT, equals("optimizer.kappa", "cosine", "linear", "exponential"), ge=0.0, le=1.0
    )
    mode: Literal["proximal", "decoupled", "coupled"] = setting(
        "proximal", "how the pull enters the step; coupled adds it to the gradient, as EWC does", SRFT
    )
    normalize: Literal["tensor", "global", "none"] = setting(
        "global",
        "mean that significance is divided by, over all tensors or each one",
        SRFT,
        either(given("optimizer.prior"), equals("optimizer.damping", "mean")),
    )
    damping: Literal["rank", "mean", "none"] = setting(
        "none", "how significance on the new data steadies weights", SRFT, DAMPED, neutral=("none",)
    )
    mu: tuple[float, float] = setting(
        (0.25, 0.65), "least and greatest damping by rank", SRFT, equals("optimizer.damping", "rank"), DAMPED
    )

    adapters: Literal["held", "free"] = setting(
        "held",
        "adapters, which have no prior: held by significance on the new data, or left to AdamW",
        SRFT,
        DAMPED,
        equals("tuning", *(name for name, groups in TUNED_GROUPS.items() if "adapters" in groups)),
        commands("train"),
        neutral=("held",),
    )

    @model_validator(mode="after")
    def _mu_ordered(self) -> OptimizerSection:
        low, high = self.mu
        if not 0.0 <= low <= high < 1.0:
            raise ValueError(f"mu must be least and greatest damping in [0, 1), not {self.mu}")
        return self


_DRAWN = equals("prior.estimator", "fisher", "fisher_exact", "hutchinson", "gnb", "mas")


class PriorSection(Section):
    """Estimation of the prior significance."""

    estimator: Literal["fisher", "fisher_exact", "hutchinson", "gnb", "mas", "magnitude", "uniform"] = setting(
        "fisher", "how significance is estimated; docs/curvature.md compares them"
    )
    samples: int = setting(512, "pairs to estimate it on", _DRAWN, unit="pairs", ge=1)
    batch_size: int = setting(32, "pairs in a batch", _DRAWN, unit="pairs", ge=1)
    workers: int = setting(
        0, "loader processes; 0 decodes in the estimating process", _DRAWN, unit="processes", ge=0, le=256
    )
    seed: int = setting(0, "seed of the pairs and the random signs", _DRAWN, ge=0, lt=2**31)
    draws: int = setting(
        1, "random signs or probes a batch", equals("prior.estimator", "fisher", "hutchinson", "gnb"), ge=1
    )
    relative_error: float | None = setting(
        None, "stop as soon as the map is known so well; by default all samples are used", _DRAWN, gt=0.0, lt=1.0
    )


class ValidationSection(Section):
    """Tracking on held-out sequences during training. ``every: 0`` does none.

    The sequences are generated with the given length, difficulty and seed. With ``source: split`` they are those of
    ``split`` in the training data set, by default the share of training sequences that training leaves out.
    """

    every: int = setting(0, "epochs from one validation to the next; 0 does none", unit="epochs", ge=0)
    source: Literal["generated", "split"] = setting(
        "generated", "generated sequences, or a split of the training data set", VALIDATING
    )
    split: str = setting("val", "split of the training data set", VALIDATING, equals("validation.source", "split"))
    sequences: int = setting(8, "number of sequences; of a split at most so many", VALIDATING, ge=1)
    length: int = setting(
        40, "length of a sequence", VALIDATING, equals("validation.source", "generated"), unit="frames", ge=2
    )
    difficulty: float = setting(
        0.5, "difficulty of the sequences", VALIDATING, equals("validation.source", "generated"), ge=0.0, le=1.0
    )
    seed: int = setting(
        0, "seed of the sequences", VALIDATING, equals("validation.source", "generated"), ge=0, lt=2**31
    )


class LoRASection(Section):
    """Low-rank updates (Hu et al. 2021, arXiv 2106.09685) of the linear layers of all blocks, by ``peft``."""

    rank: int = setting(16, "rank of an update", ge=1, le=1024)
    alpha: float = setting(32.0, "an update is scaled by alpha / rank", gt=0.0)
    dropout: float = setting(0.0, "dropout of the input of an update", ge=0.0, lt=1.0)
    targets: tuple[Literal["qkv", "proj", "fc1", "fc2"], ...] = setting(
        ("qkv", "proj", "fc1", "fc2"), "linear layers of a block that get an update", min_length=1
    )
    dora: bool = setting(False, "learn magnitudes separately (Liu et al. 2024, arXiv 2402.09353)")


class AdaptersSection(Section):
    """A bottleneck beside each MLP (AdaptFormer: Chen et al. 2022, arXiv 2205.13535), which merges into it."""

    width: int = setting(64, "width of a bottleneck", unit="channels", ge=1, le=4096)
    scale: float = setting(0.1, "weight of what a bottleneck adds", gt=0.0)


_MASKED = either(above_zero("sdstrack.masked_weight"), above_zero("sdstrack.distillation_weight"))


class SDSTrackSection(Section):
    """SDSTrack (Hou et al., CVPR 2024): adapters, and distillation between clean and masked inputs."""

    ratio: float = setting(0.25, "width of a bottleneck, as a share of the network's", gt=0.0, le=1.0)
    fusion_layers: tuple[int, ...] | None = setting(None, "layers, from 0, of fusion; by default 3, 6, 9, 11 of 12")
    x_embedding: Literal["copy", "random"] = setting(
        "copy", "how X's patch embedding starts: as RGB's, or random as published"
    )
    rgb_masked: float = setting(0.3, "share of RGB tokens that the masked path lacks", _MASKED, ge=0.0, lt=1.0)
    x_masked: float = setting(
        0.3, "share of X tokens that it lacks, among those whose RGB is there", _MASKED, ge=0.0, lt=1.0
    )
    clean_weight: float = setting(0.6, "weight of the clean path's tracking loss", ge=0.0)
    masked_weight: float = setting(0.2, "weight of the masked path's tracking loss", ge=0.0)
    distillation_weight: float = setting(0.1, "weight of the distance between the fused tokens of both", ge=0.0)
    same_tokens: bool = setting(
        True, "the masked path keeps the clean one's tokens; false: each drops its own, as published", _MASKED
    )


class PATrackSection(Section):
    """PATrack (Wang et al. 2026, arXiv 2603.21100): adapters within, between and after the modalities."""

    source: Literal["own", "other"] = setting(
        "own", "whose frequencies a modality's adapters add: its own, as the paper says, or the other's, as published"
    )
    entangled_layers: tuple[int, ...] | None = setting(
        None, "layers, from 0, where the modalities meet; by default 3, 6, 9 of 12"
    )
    gated: bool = setting(False, "a learned gate, closed at first, on what the meetings attend to")
    dropout: float = setting(0.1, "dropout in the adapter before the head", ge=0.0, lt=1.0)


MASKING = above_zero("distill.mask_probability")


class DistillSection(Section):
    """A small student of one stream learns from a two-stream teacher, after CMDTrack (Zhang et al., TPAMI 2025)."""

    teacher: Path | None = setting(None, "checkpoint of the two-stream tracker to learn from")
    common: float = setting(1.0, "weight of what the teacher's streams have in common", ge=0.0)
    specific: float = setting(1.0, "weight of what only one of the teacher's streams has", ge=0.0)
    fusion: float = setting(1.0, "weight of the teacher's fused features", ge=0.0)
    mask_probability: float = setting(0.5, "share of the samples of which one modality is masked", ge=0.0, le=1.0)
    mask_share: float = setting(0.4, "share of that modality's blocks", MASKING, ge=0.0, le=1.0)
    mask_cells: int = setting(2, "side of a block", MASKING, unit="patches", ge=1, le=16)
    cache: Path | None = setting(None, "folder that keeps the teacher's outputs")
    cache_gigabytes: float = setting(
        20.0, "size up to which the folder is filled", given("distill.cache"), unit="gigabytes", gt=0.0
    )


class RunConfig(Section):
    """Everything that ``rgbx pretrain``, ``rgbx prior`` and ``rgbx train`` need to know."""

    init: Path | None = setting(
        None, "checkpoint to start from, a file or tiny_rgb; without one `rgbx pretrain` starts from scratch", TRAINING
    )
    output: Path = setting(Path("runs/train"), "folder of the run, which must hold no other run", TRAINING)
    tuning: Literal["full", "frozen", "lora", "adapters", "sdstrack", "patrack", "distill"] = setting(
        "full", "how the RGB tracker becomes an RGB-X tracker; docs/tuning has a page for each", commands("train")
    )
    network: NetworkSection = setting(NetworkSection(), "the network", TRAINING)
    data: DataSection = setting(DataSection(), "where sequences come from", READS_DATA)
    pairs: PairSection = setting(PairSection(), "how crops are drawn", READS_DATA)
    loss: LossSection = setting(LossSection(), "the tracking losses", JUDGED_BY_LOSS)
    train: TrainSection = setting(TrainSection(), "the training loop")
    optimizer: OptimizerSection = setting(OptimizerSection(), "AdamW, or SRFT around it", TRAINING)
    prior: PriorSection = setting(PriorSection(), "estimation of the prior significance", commands("prior"))
    validation: ValidationSection = setting(ValidationSection(), "tracking in the course of training", TRAINING)
    lora: LoRASection = setting(LoRASection(), "low-rank updates", commands("train"), equals("tuning", "lora"))
    adapters: AdaptersSection = setting(
        AdaptersSection(), "bottlenecks beside the MLPs", commands("train"), equals("tuning", "adapters")
    )
    sdstrack: SDSTrackSection = setting(
        SDSTrackSection(), "SDSTrack's adapters and losses", commands("train"), equals("tuning", "sdstrack")
    )
    patrack: PATrackSection = setting(
        PATrackSection(), "PATrack's adapters", commands("train"), equals("tuning", "patrack")
    )
    distill: DistillSection = setting(
        DistillSection(), "what a small student learns from a teacher", commands("train"), equals("tuning", "distill")
    )

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Return whether a field's annotation is the model of a section.

    In Python 3.10 ``tuple[float]`` is a type as well.
    """
    return get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Section)


def section_of(annotation: Any) -> type[Section] | None:
    """Return the model of a section, or None for a setting with a value of its own."""
    for candidate in (annotation, *get_args(annotation)):
        if is_section(candidate):
            return candidate
    return None


def known_keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of every setting in ``kind``, sections included."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        section = section_of(field.annotation)
        if section is not None:
            yield from known_keys(section, f"{prefix}{name}.")


class Leaf:
    """A setting with a value of its own.

    Attributes:
        key: its dotted name.
        field: pydantic's description of it: annotation, default, description.
        unit: of its number, or empty.
        own: its own conditions.
        effect: when it has an effect, with the conditions of the sections around it.
    """

    def __init__(self, key: str, field: Any, outer: tuple[Condition, ...]) -> None:
        facts = facts_of(field)
        self.key, self.field, self.unit = key, field, facts["unit"]
        self.own: tuple[Condition, ...] = facts["effect"].conditions
        self.effect = Effect((*outer, *facts["effect"].conditions), facts["effect"].neutral)


def facts_of(field: Any) -> dict[str, Any]:
    """Return what :func:`setting` keeps in addition to pydantic's own description."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    facts: dict[str, Any] = extra[_FACTS]
    return facts


def leaves(kind: type[Section], prefix: str = "", outer: tuple[Condition, ...] = ()) -> Iterator[Leaf]:
    """Yield every setting that has a value of its own, in order; a list of sections (``data.sets``) is one."""
    for name, field in kind.model_fields.items():
        section = field.annotation
        if is_section(section):
            yield from leaves(section, f"{prefix}{name}.", (*outer, *facts_of(field)["effect"].conditions))
        else:
            yield Leaf(prefix + name, field, outer)
