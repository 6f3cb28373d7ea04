"""Building the trainer that a configuration describes, for pre-training and for fine-tuning alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from tracker.config import RunConfig
from tracker.models.tracker import Tracker
from tracker.train.configured_data import pairs_of
from tracker.train.distributed import Processes
from tracker.train.losses import loss_of
from tracker.train.optimizers import NamedGroup, build_optimizer
from tracker.train.schedule import lr_scheduler
from tracker.train.trainer import Trainer
from tracker.train.validate import inference_settings, validation
from tracker.tuning.base import Loss, TunedTracker

Validate = Callable[[int], Mapping[str, float]]


def build_trainer(
    config: RunConfig,
    network: Tracker | TunedTracker,
    groups: list[NamedGroup],
    command: str,
    group: Processes,
    prior: Mapping[str, Any] | None = None,
    pairs: Any = None,
    invocation: str = "",
    validate: bool = True,
) -> Trainer:
    """Put data, loss, optimizer and schedule together around ``network``.

    Args:
        config: the settings of the run.
        network: on its device.
        groups: param groups of named parameters.
        command: ``train`` or ``pretrain``, which a checkpoint is of; the progress bar shows it.
        group: the processes of the run.
        prior: significance by parameter name.
        pairs: training pairs in place of the configured ones.
        invocation: the command line that makes the same run again, for the meta of what is written.
        validate: whether to validate as the configuration says.

    Raises:
        RGBXError: data, optimizer or validation cannot be made.
    """
    if pairs is None:
        pairs = pairs_of(config.data, config.pairs, config.train, network.config, config.train.crops, group.first)
    loss: Loss = loss_of(config.loss)
    if isinstance(network, TunedTracker):
        loss = network.training_loss(loss)
    optimizer = build_optimizer(groups, config.train, config.optimizer, prior)
    kinds = {sequence.modality for sequence in getattr(pairs, "sequences", ())} or {config.data.generated_modality}
    return Trainer(
        network,
        loss,
        optimizer,
        lr_scheduler(optimizer, config.train),
        pairs,
        config.train,
        config.output,
        config.model_dump(mode="json"),
        validation(config, network, group, kinds) if validate else None,
        command,
        group,
        invocation,
    )


def run_meta(config: RunConfig, trainer: Trainer, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Say how a network was made, for its file. ``origin`` is the meta of the checkpoint that it started from."""
    return {
        **({} if origin is None else {"started_from": dict(origin)}),
        "command": trainer.invocation,
        "seed": config.train.seed,
        "steps": trainer.step,
        "samples": trainer.step * config.train.batch_size,
        "threads": torch.get_num_threads(),
        "inference": asdict(inference_settings(config)),
        "config": config.model_dump(mode="json"),
    }
