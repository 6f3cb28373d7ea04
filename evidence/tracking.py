"""The bench of tracking: the shipped RGB tracker learns another modality from few generated sequences.

Training is the tracker's own, on its own generator. The new task is a two-stream tracker's success on held-out
sequences; what is kept is the success of its RGB stream, taken out and run alone, on day-light RGB sequences. Before
the first step that stream is the pre-trained tracker.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence import methods
from evidence.trials import ROOT, Record, Trial
from srft_kernels import SignificanceMap
from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.demo import held_out, old_task, rgb_stream
from tracker.evaluation import LasHeROptions, evaluate
from tracker.inference import InferenceSettings, track_dataset
from tracker.models.checkpoints import find_weights, load_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.groups import parameter_groups
from tracker.models.tracker import Tracker
from tracker.train.checkpoint import seed_everything
from tracker.train.configured_data import generated_sequences, pair_settings
from tracker.train.finetune import group_settings
from tracker.train.losses import loss_of
from tracker.train.prior import estimate_rgb_prior, load_prior, prior_for, save_prior
from tracker.train.schedule import lr_scheduler
from tracker.train.trainer import Trainer

VALIDATION_SEED, TEST_SEED = 77, 1000
COUNT = {"validation": 8, "test": 16}
LENGTH = 30
CACHE = ROOT / "runs" / "evidence"


def configuration(one: Trial) -> RunConfig:
    """The demonstration's configuration with a trial's options."""
    batch, steps = one["batch"], one["steps"]
    return load_config(
        RunConfig,
        "demo",
        [
            f"data.modality={one.task}",
            f"data.sequences={one['sequences']}",
            f"data.seed={one.seed}",
            f"train.seed={one.seed}",
            f"train.batch_size={batch}",
            "train.epochs=1",
            f"train.samples_per_epoch={batch * steps}",
            "train.precision=bf16",
            f"train.lr={one.get('lr', 1e-4)}",
            f"prior.estimator={one.get('estimator', 'fisher')}",
        ],
    )


@functools.cache
def _pretrained() -> tuple[Tracker, InferenceSettings]:
    network, _, meta = load_network(find_weights(Path("tiny_rgb")))
    return network, InferenceSettings.from_meta(meta)


@functools.cache
def _test_sequences(modality: str, part: str) -> list[Any]:
    seed = VALIDATION_SEED if part == "validation" else TEST_SEED
    return held_out(modality, COUNT[part], LENGTH, seed)


def success(network: Tracker, modality: str, part: str) -> float:
    """Mean success in percent; frames without the target are left out."""
    sequences = _test_sequences(modality, part)
    device = next(network.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        tracks = track_dataset(network, sequences, None, _pretrained()[1], batch=len(sequences), progress=False)
    found = evaluate(sequences, tracks, "lasher", tracker="", options=LasHeROptions(absent="excluded"))
    return 100.0 * found.scores["SR"]


def measured(network: Tracker, modality: str) -> list[float]:
    """The measures of a readout."""
    parts, alone = ("validation", "test"), rgb_stream(network)
    found = [success(network, modality, part) for part in parts] + [success(alone, "rgb", part) for part in parts]
    return [round(value, 2) for value in found]


@functools.cache
def _before(modality: str) -> list[float]:
    return measured(initialize_two_stream(_pretrained()[0]), modality)


def rgb_prior(one: Trial) -> SignificanceMap:
    """The RGB tracker's significance, estimated once and kept in a file."""
    estimator = one.get("estimator", "fisher")
    path = CACHE / f"tiny_rgb.{estimator}.significance.safetensors"
    if not path.exists():
        save_prior(estimate_rgb_prior(_pretrained()[0], old_task(configuration(one)), progress=False), path)
    return load_prior(path)


def prior_of(one: Trial, network: Tracker) -> Mapping[str, Tensor]:
    """The prior of the two streams: for ``x="prior"`` both have the RGB tracker's, for ``x="none"`` the X stream has
    none and is held by nothing.
    """
    found: Mapping[str, Tensor] = prior_for(network, rgb_prior(one))
    if one.get("x", "prior") == "none":
        found = {name: tensor for name, tensor in found.items() if not name.startswith(("x.", "cross."))}
    return found


@functools.lru_cache(maxsize=2)
def _few(modality: str, count: int, seed: int) -> list[Any]:
    config = load_config(
        RunConfig, "demo", [f"data.modality={modality}", f"data.sequences={count}", f"data.seed={seed}"]
    )
    return generated_sequences(config.data)


def run(one: Trial) -> Record:
    """Run a trial."""
    start = time.perf_counter()
    config = configuration(one)
    network: Tracker = initialize_two_stream(_pretrained()[0])
    before = _before(one.task)
    prior = prior_of(one, network) if one.method not in ("adamw", "xonly") else None
    first = {name: p.detach().clone() for name, p in network.named_parameters()}
    seed_everything(one.seed, True)
    few = _few(one.task, one["sequences"], one.seed)
    pairs = PairDataset(few, pair_settings(config.pairs, network.config), config.train.samples_per_epoch, one.seed)
    groups = parameter_groups(network, group_settings(config.train))
    if one.method == "xonly":
        # The RGB stream is frozen: nothing is forgotten, and only the new stream and what joins them is learned.
        groups = [g for g in groups if all(name.startswith(("x.", "cross.")) for name, _ in g["params"])]
        trained = {name for group in groups for name, _ in group["params"]}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
    method = one if one.method != "xonly" else Trial(one.bench, one.task, "adamw", one.seed, one.options)
    optimizer = methods.optimizer_of(method, groups, prior, config.train.total_steps)
    trainer = Trainer(
        network, loss_of(config.loss), optimizer, lr_scheduler(optimizer, config.train), pairs, config.train
    )
    trainer.run()
    network.eval()
    readouts = {"final": measured(network, one.task)}
    trained_names = {name for name, p in network.named_parameters() if p.requires_grad}
    facts = methods.travel({n: t for n, t in first.items() if n in trained_names}, network, prior)
    losses = [record.scalars["total"] for record in trainer.history if "total" in record.scalars]
    if losses:
        tail = max(1, len(losses) // 10)
        facts |= {"first_loss": losses[0], "last_loss": sum(losses[-tail:]) / tail}
    if one.method == "merged":
        last = {name: p.detach().clone() for name, p in network.named_parameters()}
        assert prior is not None
        methods.load(network, methods.between(first, last, 0.5))
        readouts["mix0.5"] = measured(network, one.task)
        methods.load(network, {**last, **methods.merged(first, last, prior, 1.0)})
        readouts["merge1"] = measured(network, one.task)
    facts["seconds"] = time.perf_counter() - start
    return Record(one, before, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})
