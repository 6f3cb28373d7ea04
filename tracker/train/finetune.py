"""Fine-tuning of the two-stream RGB-X tracker from an RGB checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker.config import RunConfig, TrainSection
from tracker.models.groups import GROUPS, GroupSettings, parameter_groups
from tracker.models.tracker import Tracker
from tracker.train.build import build_trainer, run_meta
from tracker.train.checkpoint import seed_everything
from tracker.train.distributed import Processes, processes
from tracker.train.prior import configured_prior
from tracker.train.run_folder import claim
from tracker.train.start import starting_network
from tracker.train.trainer import StepRecord, Trainer
from tracker.tuning.base import TunedTracker
from tracker.tuning.files import load_tracker, save_tracker


def group_settings(train: TrainSection) -> GroupSettings:
    """Return the groups' learning rates, ``train.lr`` times ``train.lr_scale``. A scale of 0 freezes its group."""
    rates = {name: getattr(train.lr_scale, name) * train.lr or None for name in GROUPS}
    return GroupSettings(**rates, weight_decay=train.weight_decay)


def fine_tuner(
    config: RunConfig,
    network: Tracker | TunedTracker,
    prior: Mapping[str, Any] | None = None,
    pairs: Any = None,
    title: str = "train",
    validate: bool = False,
    group: Processes | None = None,
    invocation: str = "",
) -> Trainer:
    """Build the trainer that ``config`` describes around ``network``, on the device that the network is on.

    The other arguments are those of :func:`tracker.train.build.build_trainer`; ``title`` is its command.
    """
    group = group or Processes(device=next(network.parameters()).device)
    seed_everything(config.train.seed, config.train.deterministic)
    if isinstance(network, TunedTracker):
        network.begin_training(config, load_tracker)  # may add what is trained too
    groups = parameter_groups(network, group_settings(config.train), config.train.also_train)
    return build_trainer(config, network, groups, title, group, prior, pairs, invocation, validate)


def fine_tune(config: RunConfig, resume: Path | None = None, invocation: str = "") -> tuple[Path, list[StepRecord]]:
    """Fine-tune in the processes that torchrun has started, or in this one alone.

    Args:
        config: the settings of the run.
        resume: a checkpoint, or the folder of a run, to go on from.
        invocation: the command line, for the meta of the weights.

    Returns:
        The file with the network (``<output>/network.safetensors``), and the log.

    Raises:
        RGBXError: configuration, data, checkpoint or significance map cannot be used, or the folder holds another run.
    """
    with processes(config.train.device) as group:
        claim(config.output, resume)
        seed_everything(config.train.seed, config.train.deterministic)  # a tuning method draws its first weights
        network, origin = starting_network(config)
        network = network.to(group.device)
        prior = configured_prior(config, network)
        trainer = fine_tuner(config, network, prior, validate=True, group=group, invocation=invocation)
        if resume is not None:
            trainer.resume(resume)
        history = trainer.run()
        path = config.output / "network.safetensors"
        if group.first:
            save_tracker(path, network, run_meta(config, trainer, origin))
    return path, history
