"""Settings of a run: YAML plus ``section.key=value`` overrides, checked as a whole before anything starts.

A mistake is answered with the file and the key it is in, and with the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tracker.errors import RGBXError

CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"
COMMAND_LINE = "command line"


class Section(BaseModel):
    """Base of every section: unknown keys, NaN and infinity are refused; a checked one never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class NetworkSection(Section):
    """The network: a preset, and what to change in it (unset keys keep the preset's value)."""

    preset: str = "tiny"
    embed_dim: int | None = Field(default=None, ge=8, le=2048)
    depth: int | None = Field(default=None, ge=1, le=64)
    num_heads: int | None = Field(default=None, ge=1, le=32)
    template_size: int | None = Field(default=None, ge=16, le=1024)
    search_size: int | None = Field(default=None, ge=32, le=2048)
    head_channels: int | None = Field(default=None, ge=8, le=1024)
    cross_layers: tuple[int, ...] | None = None
    drop_path: float | None = Field(default=None, ge=0.0, lt=1.0)
    mlp_ratio: float | None = Field(default=None, gt=0.0, le=16.0)
    temporal: bool | None = Field(default=None, description="DropMAE's template and search embeddings")
    elimination_layers: tuple[int, ...] | None = Field(default=None, description="OSTrack's are 3, 6, 9 of 12")
    keep_ratio: float | None = Field(
        default=None, gt=0.0, le=1.0, description="share of search tokens kept at each elimination layer"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> NetworkSection:
        if self.embed_dim is not None and self.num_heads is not None and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    def changes(self) -> dict[str, Any]:
        """What differs from the preset, as keyword arguments of ``NetworkConfig``."""
        return {name: value for name, value in self if name != "preset" and value is not None}

    def overrides(self) -> dict[str, Any]:
        """Of the changes those that fit any weights, as keyword arguments of ``load_network``."""
        free = ("drop_path", "template_size", "search_size", "elimination_layers", "keep_ratio")
        return {name: value for name, value in self.changes().items() if name in free}


class DataSetSection(Section):
    """One of several data sets that are trained on together."""

    root: Path
    layout: str = "auto"
    split: str | None = Field(default=None, description="as data.split, which it comes before")
    ratio: float = Field(default=1.0, gt=0.0, description="how often it is drawn from, relative to the others")


class DataSection(Section):
    """Where sequences come from: the generator (``synthetic``) or folders on disk (``folder``).

    On disk that is a data set (``root``), one pair of folders (``rgb`` and ``x``) or several data sets (``sets``).
    """

    source: Literal["synthetic", "folder"] = "synthetic"
    root: Path | None = Field(default=None, description="folder of sequences, for source: folder")
    layout: str = "auto"
    split: str | None = Field(
        default=None,
        description="train or test: of the generator's photographs, or of a layout; of a layout also val, "
        "train_without_val and the path of a list file",
    )
    rgb: Path | None = Field(default=None, description="folder of RGB images, with x in place of root")
    x: Path | None = Field(default=None, description="folder of as many X images; their kind by its name or modality")
    sets: tuple[DataSetSection, ...] = Field(default=(), description="several data sets, in place of root")
    val_share: float = Field(default=0.05, gt=0.0, lt=1.0, description="share of the training sequences that is val")
    unusable: Literal["raise", "skip"] = Field(
        default="raise", description="sequences that cannot be opened: stop, or log them and go on"
    )
    depth_style: Literal["jet", "grey", "raw", "jet_bgr"] = Field(
        default="jet", description="how depth becomes three channels; jet_bgr is what published weights saw"
    )
    depth_clip: bool = Field(default=True, description="clip depth to min(3 * median, 10000) first")
    event_style: Literal["colour", "grey"] = Field(default="colour", description="how arrays of events are drawn")
    modality: Literal["rgb", "thermal", "depth", "event"] = "thermal"
    sequences: int = Field(default=64, ge=1, le=1_000_000, description="how many sequences the generator makes")
    first: int = Field(default=0, ge=0, description="index of the first generated sequence")
    refresh: int = Field(default=0, ge=0, description="generated sequences exchanged for new ones at each epoch")
    length: int = Field(default=60, ge=2, le=100_000, description="frames per generated sequence")
    width: int = Field(default=192, ge=32, le=4096)
    height: int = Field(default=144, ge=32, le=4096)
    difficulty: float = Field(default=0.5, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _root_where_needed(self) -> DataSection:
        given = [name for name in ("root", "rgb", "sets") if getattr(self, name)]
        if (self.rgb is None) != (self.x is None):
            raise ValueError("rgb and x are the two folders of one sequence; give both or neither")
        if self.source == "folder" and not given:
            raise ValueError("source: folder needs root, the folder of sequences (or rgb and x, or sets)")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say where the data are; give one of them")
        if self.source == "synthetic" and self.split not in (None, "train", "test", "all"):
            raise ValueError(f"the generator has the splits train, test and all, not {self.split}")
        return self


class PairSection(Section):
    """How template and search crops are drawn from a sequence (OSTrack's convention)."""

    template_factor: float = Field(default=2.0, gt=0.5, le=16.0)
    search_factor: float = Field(default=4.0, gt=0.5, le=16.0)
    center_jitter: float = Field(default=3.0, ge=0.0, le=8.0)
    scale_jitter: float = Field(default=0.25, ge=0.0, le=2.0)
    max_gap: int = Field(default=200, ge=1)
    min_frames: int = Field(default=20, ge=2)
    min_present: int = Field(default=5, ge=2)
    grayscale: float = Field(default=0.05, ge=0.0, le=1.0)
    flip: float = Field(default=0.5, ge=0.0, le=1.0)
    flip_each: float = Field(default=0.5, ge=0.0, le=1.0)
    brightness: float = Field(default=0.2, ge=0.0, lt=1.0)
    broken: Literal["raise", "report"] = "raise"


class LossSection(Section):
    """Weights of the three tracking losses."""

    giou: float = Field(default=2.0, ge=0.0)
    l1: float = Field(default=5.0, ge=0.0)
    focal: float = Field(default=1.0, ge=0.0)
    cell: Literal["best", "target"] = Field(
        default="best", description="where the box is regressed; target: from scratch"
    )


ParameterGroup = Literal["norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross", "head", "positions"]


class LearningRates(Section):
    """Learning rate of each parameter group as a multiple of ``train.lr``; 0 freezes the group."""

    norms: float = Field(default=1.0, ge=0.0)
    embed_rgb: float = Field(default=1.0, ge=0.0)
    embed_x: float = Field(default=1.0, ge=0.0)
    blocks_rgb: float = Field(default=1.0, ge=0.0)
    blocks_x: float = Field(default=1.0, ge=0.0)
    cross: float = Field(default=1.0, ge=0.0)
    head: float = Field(default=1.0, ge=0.0)
    positions: float = Field(default=1.0, ge=0.0)
    adapters: float = Field(default=1.0, ge=0.0, description="what a tuning method adds")


class TrainSection(Section):
    """The training loop."""

    epochs: int = Field(default=10, ge=1)
    samples_per_epoch: int = Field(default=2048, ge=1)
    batch_size: int = Field(default=32, ge=1)
    workers: int = Field(default=0, ge=0, le=256, description="loader processes; 0 decodes in the training process")
    lr: float = Field(default=1e-4, gt=0.0, le=1.0)
    weight_decay: float = Field(default=1e-4, ge=0.0, le=1.0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    final_lr: float = Field(default=0.01, ge=0.0, le=1.0, description="last learning rate of cosine, as a share of lr")
    step_at: float = Field(default=0.8, gt=0.0, lt=1.0, description="share of the run after which `step` lowers the lr")
    step_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    clip_grad_norm: float = Field(default=0.1, ge=0.0, description="0 leaves gradients as they are")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where torch sees one")
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = Field(default=False, description="fp32 matrix products and convolutions in TF32, on a GPU")
    compile: bool = Field(default=False, description="torch.compile the network for training")
    channels_last: bool = Field(default=False, description="the head's convolutions in channels-last memory")
    deterministic: bool = Field(default=True, description="torch's deterministic algorithms, where there are any")
    crops: Literal["host", "device"] = Field(default="host", description="where crops are resized and augmented")
    prefetch: int = Field(default=2, ge=1, le=64, description="batches that each loader process has ready")
    accumulate: int = Field(default=1, ge=1, description="parts that a batch goes through the network in; less memory")
    activation_checkpointing: bool = Field(default=False, description="compute blocks twice; much less memory")
    batchnorm: Literal["train", "frozen"] = "frozen"
    seed: int = Field(default=0, ge=0, lt=2**31)
    log_every: int = Field(default=10, ge=1, description="steps between two log lines")
    checkpoint_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0 saves at each epoch's end")
    keep_checkpoints: int = Field(default=2, ge=1)
    lr_scale: LearningRates = LearningRates()
    also_train: tuple[ParameterGroup, ...] = Field(
        default=(), description="groups of the base that train besides what the tuning method trains"
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
        return self.epochs * self.steps_per_epoch


class OptimizerSection(Section):
    """``adamw`` is torch's own; ``srft`` wraps it in ``srft_kernels.SRFT`` with these settings."""

    name: Literal["adamw", "srft"] = "adamw"
    prior: Path | None = Field(default=None, description="significance map, from `rgbx prior`")
    strength: float = Field(default=10.0, ge=0.0)
    kappa: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    kappa_start: float = Field(default=1.0, ge=0.0, le=1.0)
    kappa_end: float = Field(default=0.0, ge=0.0, le=1.0)
    mode: Literal["proximal", "decoupled", "coupled"] = "proximal"
    normalize: Literal["tensor", "global", "none"] = "tensor"
    damping: Literal["rank", "mean", "none"] = "rank"
    mu: tuple[float, float] = Field(default=(0.25, 0.65), description="least and greatest damping by rank")
    adapters: Literal["held", "free"] = Field(
        default="held", description="adapters, which have no prior: held by transfer significance, or left to AdamW"
    )

    @model_validator(mode="after")
    def _mu_ordered(self) -> OptimizerSection:
        low, high = self.mu
        if not 0.0 <= low <= high < 1.0:
            raise ValueError(f"mu must be least and greatest damping in [0, 1), not {self.mu}")
        return self


class PriorSection(Section):
    """Estimation of the prior significance."""

    estimator: Literal["fisher", "fisher_exact", "hutchinson", "gnb", "mas", "magnitude", "uniform"] = "fisher"
    samples: int = Field(default=512, ge=1)
    batch_size: int = Field(default=32, ge=1)
    workers: int = Field(default=0, ge=0, le=256, description="loader processes; 0 decodes in the estimating process")
    seed: int = Field(default=0, ge=0, lt=2**31)
    draws: int = Field(default=1, ge=1, description="random signs or probes a batch: fisher, hutchinson, gnb")
    relative_error: float | None = Field(
        default=None, gt=0.0, lt=1.0, description="stop as soon as the map is known so well"
    )


class ValidationSection(Section):
    """Tracking on held-out sequences in the course of training; ``every: 0`` does none.

    They are generated (length, difficulty and seed are theirs), or with ``source: split`` those that ``split`` of the
    training data set names: by default its share of training sequences that training leaves out.
    """

    every: int = Field(default=0, ge=0, description="epochs between two validations")
    source: Literal["generated", "split"] = "generated"
    split: str = Field(default="val", description="split of the training data set, for source: split")
    sequences: int = Field(default=8, ge=1, description="how many; at most so many of a split")
    length: int = Field(default=40, ge=2)
    difficulty: float = Field(default=0.5, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, lt=2**31)


class PATrackSection(Section):
    """Settings of ``tuning: patrack``."""

    source: Literal["own", "other"] = Field(
        default="own",
        description="whose frequencies the modality-dependent adapters add: own, as the paper says, or other, as the "
        "published code does",
    )
    entangled_layers: tuple[int, ...] | None = Field(
        default=None, description="where the modalities meet; none given: at each quarter, 3, 6, 9 of 12"
    )
    gated: bool = Field(default=False, description="a learned gate, closed at first, on what the meetings attend to")
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="in the adapter before the head")


class DistillSection(Section):
    """Settings of ``tuning: distill``: a small student of one stream learns from a two-stream teacher."""

    teacher: Path | None = Field(default=None, description="checkpoint of the two-stream tracker to learn from")
    common: float = Field(default=1.0, ge=0.0, description="weight of what the teacher's streams have in common")
    specific: float = Field(default=1.0, ge=0.0, description="weight of what only one of the teacher's streams has")
    fusion: float = Field(default=1.0, ge=0.0, description="weight of the teacher's fused features")
    mask_probability: float = Field(default=0.5, ge=0.0, le=1.0, description="samples of which a modality is masked")
    mask_share: float = Field(default=0.4, ge=0.0, le=1.0, description="share of that modality's blocks")
    mask_cells: int = Field(default=2, ge=1, le=16, description="side of a masked block in patches")
    cache: Path | None = Field(default=None, description="folder that keeps what the teacher answers")
    cache_gigabytes: float = Field(default=20.0, gt=0.0, description="size up to which the folder is filled")


class LoRASection(Section):
    """Low-rank updates (Hu et al. 2021, arXiv 2106.09685) of the linear layers of all blocks, by ``peft``."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0.0, description="the update is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: tuple[Literal["qkv", "proj", "fc1", "fc2"], ...] = Field(
        default=("qkv", "proj", "fc1", "fc2"), min_length=1, description="linear layers of a block that get an update"
    )
    dora: bool = Field(default=False, description="magnitudes learned apart (Liu et al. 2024, arXiv 2402.09353)")


class AdaptersSection(Section):
    """A bottleneck beside each MLP (AdaptFormer: Chen et al. 2022, arXiv 2205.13535), which merges into it."""

    width: int = Field(default=64, ge=1, le=4096, description="channels of a bottleneck")
    scale: float = Field(default=0.1, gt=0.0, description="weight of what it adds")


class SDSTrackSection(Section):
    """SDSTrack (Hou et al., CVPR 2024): adapters, and distillation between clean and masked inputs."""

    ratio: float = Field(default=0.25, gt=0.0, le=1.0, description="width of a bottleneck, as a share of the network's")
    fusion_layers: tuple[int, ...] | None = Field(default=None, description="by default 3, 6, 9, 11 of 12")
    x_embedding: Literal["copy", "random"] = Field(default="copy", description="how X's patch embedding starts")
    rgb_masked: float = Field(default=0.3, ge=0.0, lt=1.0, description="share of RGB tokens that the masked path lacks")
    x_masked: float = Field(default=0.3, ge=0.0, lt=1.0, description="share of X tokens, of those whose RGB is there")
    clean_weight: float = Field(default=0.6, ge=0.0)
    masked_weight: float = Field(default=0.2, ge=0.0)
    distillation_weight: float = Field(default=0.1, ge=0.0)
    same_tokens: bool = Field(
        default=True, description="the masked path keeps the clean one's tokens; false: each its own, as published"
    )


class RunConfig(Section):
    """Everything that ``rgbx pretrain``, ``rgbx prior`` and ``rgbx train`` need to know."""

    init: Path | None = Field(default=None, description="RGB checkpoint to start from; none starts from scratch")
    output: Path = Path("runs/train")
    tuning: Literal["full", "frozen", "lora", "adapters", "sdstrack", "patrack", "distill"] = Field(
        default="full", description="how the RGB-X tracker is made: docs/tuning"
    )
    network: NetworkSection = NetworkSection()
    data: DataSection = DataSection()
    pairs: PairSection = PairSection()
    loss: LossSection = LossSection()
    train: TrainSection = TrainSection()
    optimizer: OptimizerSection = OptimizerSection()
    prior: PriorSection = PriorSection()
    validation: ValidationSection = ValidationSection()
    lora: LoRASection = LoRASection()
    adapters: AdaptersSection = AdaptersSection()
    patrack: PATrackSection = PATrackSection()
    distill: DistillSection = DistillSection()
    sdstrack: SDSTrackSection = SDSTrackSection()

    def to_yaml(self) -> str:
        """The whole configuration as YAML that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(
    kind: type[ConfigT],
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Read and check settings.

    Args:
        kind: the pydantic model to fill.
        path: YAML file, or the name of one shipped in ``tracker/configs`` (``tiny_rgbt``,
            ``corrected/ostrack_rgbt``); none starts empty. Under the file lies its ``base``, if it names one or a list
            of them, of which the last wins: shipped configurations, or files beside it.
        overrides: ``section.key=value`` strings, values in YAML; later ones win.
        defaults: a nested mapping that lies under the file.

    Raises:
        RGBXError: naming the file (or the command line) and the key, before anything is started.
    """
    tree: dict[str, Any] = {}
    _merge(tree, defaults or {})
    source = "defaults"
    if path is not None:
        source = str(path)
        for layer in _with_bases(find_config(path), source):
            _merge(tree, layer)
    overridden: set[str] = set()
    for text in overrides:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key:
            raise RGBXError(f'{COMMAND_LINE}: "{text}" is not an override; write it as section.key=value')
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RGBXError(f'{COMMAND_LINE}: the value of {key} cannot be read: "{value}"') from None
        _set(tree, key, parsed)
        overridden.add(key)
    return validate(kind, tree, source, overridden)


def validate(kind: type[ConfigT], tree: Mapping[str, Any], source: str, overridden: set[str] | None = None) -> ConfigT:
    """Check a nested mapping against ``kind``; ``source`` and ``overridden`` only serve the error message."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        problems = error.errors()
        # An unknown key explains more than the value errors that it may have caused: it comes first.
        problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
        first = problems[0]
        key = ".".join(str(part) for part in first["loc"])
        origin = COMMAND_LINE if any(_related(key, name) for name in overridden or ()) else source
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RGBXError(f"{origin}: {_sentence(first, key, kind)}{more}") from None


def find_config(path: Path | str) -> Path:
    """The file itself, or the shipped configuration of that name (``tiny_pretrain``, ``corrected/ostrack_rgbt``)."""
    file = Path(path)
    if file.is_file():
        return file
    if not file.is_absolute():
        for shipped in (CONFIG_FOLDER / file, CONFIG_FOLDER / f"{file}.yaml"):
            if shipped.is_file():
                return shipped
    raise RGBXError(f"configuration file {path} does not exist; shipped ones are: {', '.join(shipped_configs())}")


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    files = CONFIG_FOLDER.rglob("*.yaml")
    return sorted(file.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for file in files)


def known_keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted names of every setting in ``kind``, sections included."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        section = _section_of(field.annotation)
        if section is not None:
            yield from known_keys(section, f"{prefix}{name}.")


def as_dataclass(kind: type[Any], section: Section, **extra: Any) -> Any:
    """Build dataclass ``kind`` from a section's keys of the same name plus ``extra``."""
    names = {field.name for field in dataclasses.fields(kind)}
    shared = {name: value for name, value in section if name in names}
    return kind(**{**shared, **extra})


def nearest_key(key: str, kind: type[Section]) -> str | None:
    """The known key most like ``key``: first in the same section, then anywhere, by its last part as well."""
    keys = list(known_keys(kind))
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == parent}
    close = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if close:
        return close[0]
    by_last = {name.rpartition(".")[2]: name for name in keys}
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
    return by_last[close[0]] if close else None


def _sentence(problem: Any, key: str, kind: type[Section]) -> str:
    if problem["type"] == "extra_forbidden":
        suggestion = nearest_key(key, kind)
        if suggestion is not None:
            return f"unknown key {key}; did you mean {suggestion}?"
        parent = key.rpartition(".")[0]
        names = [name for name in known_keys(kind) if name.rpartition(".")[0] == parent]
        return f"unknown key {key}; known keys here are: {', '.join(names)}"
    if problem["type"] == "model_type":
        return f"{key} is a section with keys of its own, not {problem['input']!r}"
    message = str(problem["msg"])
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if isinstance(problem["input"], (str, int, float, bool, list, tuple)) or problem["input"] is None:
        return f"{key}: {message}, not {problem['input']!r}"
    return f"{key}: {message}"


def _related(key: str, override: str) -> bool:
    return key == override or key.startswith(f"{override}.") or override.startswith(f"{key}.") or not key


def _section_of(annotation: Any) -> type[Section] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key} is given twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(file: Path, source: str) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RGBXError(f"{source}: not valid YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RGBXError(f"{source}: not valid YAML: {error}") from None
    except OSError as error:
        raise RGBXError(f"{source}: cannot be read: {error.strerror}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RGBXError(f"{source}: expected sections with keys, found {type(tree).__name__}")
    return tree


def _with_bases(file: Path, source: str, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The trees of a file and of all that it is based on, the lowest first."""
    if file.resolve() in above:
        raise RGBXError(f"{source}: base: {file.name} is based on itself")
    tree = _read_yaml(file, source)
    bases = tree.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RGBXError(f"{source}: base: expected the name of a configuration or a list of them, not {bases!r}")
    trees: list[dict[str, Any]] = []
    for base in bases:
        beside = file.parent / base
        lower = beside if beside.is_file() else find_config(base)
        trees += _with_bases(lower, f"{source}: base {base}", (*above, file.resolve()))
    return [*trees, tree]


def _merge(tree: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        elif isinstance(value, Mapping):
            tree[key] = {}
            _merge(tree[key], value)
        else:
            tree[key] = value


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    branch = tree
    for parent in parents:
        below = branch.get(parent)
        if not isinstance(below, dict):
            below = branch[parent] = {}
        branch = below
    branch[last] = value
