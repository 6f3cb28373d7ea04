"""The bench of tracking: the shipped RGB tracker learns another modality from few generated sequences.

Training is the tracker's own, on its own generator, by any of its ways to tune. The new task is the tuned tracker's
success on held-out sequences; what is kept is the success of its RGB stream, taken out and run alone, on day-light RGB
sequences. Before the first step that stream is the pre-trained tracker. In the tasks whose names end in "_alone" the
RGB tracker itself learns to track in X with no RGB beside it, so that every weight has to serve both. The bench adds
two ways to tune it that leave its blocks alone: its head alone (the method ``probe``), and low-rank updates
(``tuning="lora"``), which are merged before they are judged, because they too have to serve both.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import multiprocessing
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from evidence import low_rank, methods, training
from evidence.tracking_success import ALONE, Success, measured, pretrained, seen_by
from evidence.trials import ROOT, Record, Trial, trial
from srft_kernels import SignificanceMap
from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.demo import old_task
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.groups import GROUPS, GroupSettings, parameter_groups
from tracker.models.tracker import Tracker
from tracker.train.checkpoint import seed_everything
from tracker.train.configured_data import generated_sequences, pair_settings
from tracker.train.finetune import group_settings
from tracker.train.losses import loss_of
from tracker.train.prior import estimate_rgb_prior, load_prior, prior_batches, prior_for, save_prior
from tracker.train.schedule import lr_scheduler
from tracker.train.trainer import StepRecord, Trainer
from tracker.tuning.base import Loss, TunedTracker
from tracker.tuning.files import load_tracker, save_tracker, tune

CACHE = ROOT / "runs" / "evidence"
TEACHER_RATE = 3e-4
WITHOUT_PRIOR = (*methods.WITHOUT_PRIOR, "xonly")
LORA_RANK, LORA_ALPHA = 16, 32
LORA_LAYERS = r"rgb\.blocks\..+\.(qkv|proj|fc1|fc2)"
"""The layers of one stream that get low-rank updates, the same as two streams' are by ``tuning=lora``."""


def configuration(one: Trial) -> RunConfig:
    """The demonstration's configuration with a trial's options; ``new_rate`` is that of the layers a method adds."""
    batch, steps = one["batch"], one["steps"]
    new = one["new_rate"] / one["lr"] if "new_rate" in dict(one.options) else 1.0
    return load_config(
        RunConfig,
        "demo",
        [
            *(f"train.lr_scale.{group}={new}" for group in ("embed_x", "adapters") if new != 1.0),
            f"tuning={'full' if is_low_rank_alone(one) else one.get('tuning', 'full')}",
            f"data.modality={one.task.removesuffix(ALONE)}",
            f"data.sequences={one['sequences']}",
            f"data.seed={one.seed}",
            f"train.seed={one.seed}",
            f"train.batch_size={batch}",
            "train.epochs=1",
            f"train.samples_per_epoch={batch * steps}",
            f"train.precision={one['precision']}",
            f"train.lr={one.get('lr', 1e-4)}",
            f"prior.estimator={one.get('estimator', 'fisher')}",
            "prior.samples=1024",
        ],
    )


def is_low_rank_alone(one: Trial) -> bool:
    """Whether a trial gives one stream low-rank updates, which the tracker itself has for two streams only."""
    return bool(one.task.endswith(ALONE) and one.get("tuning") == "lora")


@functools.lru_cache(maxsize=8)
def _before(modality: str, seed: int, precision: str, tests: int, frames: int) -> Success:
    untouched = trial("tracking", modality, "untouched", seed, precision=precision, tests=tests, frames=frames)
    return measured(at_first(modality), untouched)


def at_first(task: str) -> Tracker:
    """The network before training: the RGB tracker in both streams, or in a task of X alone as it is."""
    rgb = pretrained()[0]
    return copy.deepcopy(rgb) if task.endswith(ALONE) else initialize_two_stream(rgb)


def rgb_prior(one: Trial) -> SignificanceMap:
    """The RGB tracker's significance, estimated once and kept in a file."""
    estimator = one.get("estimator", "fisher")
    path = CACHE / f"tiny_rgb.{estimator}.significance.safetensors"
    if not path.exists():
        save_prior(estimate_rgb_prior(pretrained()[0], old_task(configuration(one)), progress=False), path)
    return load_prior(path)


def prior_of(one: Trial, network: Tracker | TunedTracker) -> Mapping[str, Tensor]:
    """The prior of the two streams.

    For ``x="prior"`` both streams have the RGB tracker's. For ``x="none"`` the X stream is held by nothing, for
    ``x="own"`` by what the RGB tracker rests on where it tracks in the few sequences' X alone. Low-rank updates of one
    stream have their own, where they start.
    """
    if is_low_rank_alone(one):
        assert isinstance(network, Tracker)
        return estimate_rgb_prior(network, old_task(configuration(one)), progress=False)
    found: Mapping[str, Tensor] = prior_for(network, rgb_prior(one))
    kind = one.get("x", "prior")
    if kind == "prior":
        return found
    rgb = {name: tensor for name, tensor in found.items() if not name.startswith(("x.", "cross."))}
    if kind == "none":
        return rgb
    alone = Trial(one.bench, one.task + ALONE, one.method, one.seed, one.options)
    return {**prior_for(network, learned_prior(copy.deepcopy(pretrained()[0]), alone)), **rgb}


def learned_prior(network: Tracker, one: Trial) -> SignificanceMap:
    """Significance of one stream on the training pairs of a task of X alone."""
    config = configuration(one)
    pairs = pairs_of(one, network, config.prior.samples)
    network.requires_grad_(True)
    return estimate_rgb_prior(network, config, progress=False, batches=prior_batches(pairs, config.prior))


@functools.lru_cache(maxsize=2)
def _few(modality: str, count: int, seed: int) -> list[Any]:
    config = load_config(
        RunConfig, "demo", [f"data.modality={modality}", f"data.sequences={count}", f"data.seed={seed}"]
    )
    return generated_sequences(config.data)


def started(one: Trial, config: RunConfig) -> Tracker | TunedTracker:
    """The network that a trial trains, at its start."""
    if config.tuning == "distill":
        config = config.model_copy(update={"distill": config.distill.model_copy(update={"teacher": teacher_of(one)})})
    # Behind the teacher's training, which draws at random too.
    seed_everything(config.train.seed, config.train.deterministic)
    if config.tuning == "full":
        return at_first(one.task)
    network = tune(copy.deepcopy(pretrained()[0]), config.tuning, getattr(config, config.tuning, None))
    network.begin_training(config, load_tracker)
    return network


def network_file(one: Trial) -> Path:
    """Where the network of a trial is kept."""
    named = json.dumps([one.task, one.method, one.seed, sorted(one.options)])
    return CACHE / "networks" / f"{hashlib.sha1(named.encode()).hexdigest()[:16]}.safetensors"


def teacher_of(one: Trial) -> Path:
    """The two-stream tracker that a small student learns from: AdamW's, from the same sequences."""
    shared = {name: one[name] for name in ("batch", "sequences", "steps", "tests", "frames", "precision")}
    teacher = trial("tracking", one.task, "adamw", one.seed, lr=TEACHER_RATE, **shared)
    path = network_file(teacher)
    if not path.exists():
        trained(teacher)
    return path


def groups_of(one: Trial, config: RunConfig, network: Tracker | TunedTracker) -> list[dict[str, Any]]:
    """What a trial trains, as groups for an optimizer; all else is frozen."""
    settings = group_settings(config.train)
    if one.method == "probe":
        settings = GroupSettings(**{**dict.fromkeys(GROUPS), "head": one["lr"]}, weight_decay=settings.weight_decay)
    updates = [(name, p) for name, p in network.named_parameters() if ".lora_" in name]
    groups = parameter_groups(network, settings, config.train.also_train)
    if is_low_rank_alone(one):
        groups = [{"name": "adapters", "lr": one["lr"], "weight_decay": settings.weight_decay, "params": updates}]
    elif one.method == "xonly":
        # The RGB stream as it was: only the new stream and what joins them is learned.
        groups = [g for g in groups if all(name.startswith(("x.", "cross.")) for name, _ in g["params"])]
    held = {name for group in groups for name, _ in group["params"]}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in held)
    return groups


def pairs_of(one: Trial, network: Tracker | TunedTracker, count: int) -> PairDataset:
    """The first ``count`` training pairs of a trial's few sequences."""
    config = configuration(one)
    sequences = seen_by(one.task, _few(config.data.modality, one["sequences"], one.seed))
    return PairDataset(sequences, pair_settings(config.pairs, network.config), count, one.seed)


class Learned(NamedTuple):
    """What a training leaves beside the network: its log, and the names and the number of what it trained."""

    history: list[StepRecord]
    names: set[str]
    trained: int


def learn(one: Trial, network: Tracker | TunedTracker, prior: Mapping[str, Tensor] | None) -> Learned:
    """Train ``network`` on a trial's few sequences as its method does."""
    config = configuration(one)
    pairs = pairs_of(one, network, config.train.samples_per_epoch)
    seed_everything(config.train.seed, config.train.deterministic)
    groups = groups_of(one, config, network)
    parameters = dict(named for group in groups for named in group["params"])
    method = one if one.method != "xonly" else Trial(one.bench, one.task, "adamw", one.seed, one.options)
    optimizer = methods.optimizer_of(method, groups, prior, config.train.total_steps)
    loss: Loss = loss_of(config.loss)
    if isinstance(network, TunedTracker):
        loss = network.training_loss(loss)
    scheduler = lr_scheduler(optimizer, config.train)
    # The bars of several processes would write over each other.
    alone = multiprocessing.parent_process() is None
    trainer = Trainer(network, loss, optimizer, scheduler, pairs, config.train, progress=alone)
    trainer.run()
    network.eval()
    return Learned(trainer.history, set(parameters), sum(p.numel() for p in parameters.values()))


class Trained:
    """A network after its training, what it started from, and what was seen on the way."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network
        self.prior: Mapping[str, Tensor] | None = None
        self.first = methods.weights_of(network)
        self.facts: dict[str, float] = {}

    def look_back(self, learned: Learned, names: Collection[str]) -> None:
        """Note how far the weights of these names went, and the losses."""
        prior = None if self.prior is None or not set(names) & set(self.prior) else self.prior
        self.facts |= methods.travel({name: self.first[name] for name in names}, self.network, prior)
        losses = [record.scalars["loss/total"] for record in learned.history if "loss/total" in record.scalars]
        self.facts |= {"trained": float(learned.trained), **training.first_and_last(losses)}


def trained(one: Trial) -> Trained:
    """Train a trial's network, and keep it in a file."""
    network = started(one, configuration(one))
    made = Trained(network)
    if is_low_rank_alone(one):
        low_rank.add(network, LORA_LAYERS, LORA_RANK, LORA_ALPHA)
    if one.method not in WITHOUT_PRIOR:
        made.prior = prior_of(one, network)
    learned = learn(one, network, made.prior)
    names = learned.names
    if is_low_rank_alone(one):
        low_rank.merge(network)
        names = {f"{name.partition('.lora_')[0]}.weight" for name in names}
    made.look_back(learned, names)
    path = network_file(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tracker(path, network)
    return made


def run(one: Trial) -> Record:
    """Run a trial."""
    start = time.perf_counter()
    before = _before(one.task, one.seed, one["precision"], one["tests"], one["frames"])
    made = trained(one)
    taken = time.perf_counter() - start
    final = measured(made.network, one, details=True)
    readouts = {"final": final.measures}
    scores = {**{f"{name} before": values for name, values in before.scores.items()}, **final.scores}
    first, network = made.first, made.network
    if one.method == "merged" or (one.method == "adamw" and one["tests"] > 16 and "tuning" not in dict(one.options)):
        last = methods.weights_of(network)
        methods.load(network, methods.between(first, last, 0.5))
        readouts["mix0.5"] = measured(network, one).measures
        if one.method == "merged":
            assert made.prior is not None
            methods.load(network, {**last, **methods.merged(first, last, made.prior, 1.0)})
            readouts["merge1"] = measured(network, one).measures
    facts = {**made.facts, **final.facts, "training seconds": taken, "seconds": time.perf_counter() - start}
    rounded = {name: float(f"{value:.4g}") for name, value in facts.items()}
    return Record(one, before.measures, readouts, rounded, scores=scores if one["tests"] > 16 else {})
