"""Fine-tuning of the two-stream RGB-X tracker from an RGB checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracker.config import RunConfig, TrainSection
from tracker.errors import RGBXError
from tracker.models.checkpoints import find_weights
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.groups import GROUPS, GroupSettings, parameter_groups
from tracker.models.tracker import Tracker
from tracker.train.checkpoint import seed_everything
from tracker.train.distributed import Processes, processes
from tracker.train.optimizers import build_optimizer
from tracker.train.pretrain import run_meta, tracking_loss
from tracker.train.prior import load_prior, prior_for
from tracker.train.schedule import lr_scheduler
from tracker.train.sources import pairs_of
from tracker.train.trainer import StepRecord, Trainer
from tracker.train.validate import validation
from tracker.tuning.base import Loss, Origin, TunedTracker
from tracker.tuning.files import file_fingerprint, load_tracker, save_tracker, tune


def group_settings(train: TrainSection) -> GroupSettings:
    """Learning rates of the groups: ``train.lr`` times ``train.lr_scale``; a scale of 0 freezes."""
    rates = {name: getattr(train.lr_scale, name) * train.lr or None for name in GROUPS}
    return GroupSettings(**rates, weight_decay=train.weight_decay)


def starting_network(config: RunConfig) -> tuple[Tracker | TunedTracker, dict[str, Any]]:
    """The network that fine-tuning starts from, and the meta of its file.

    With ``tuning: full`` that is a two-stream checkpoint as it is, or an RGB one in both streams; with another method
    what the method makes of it, or a checkpoint that was tuned by that method.

    Width and depth are the checkpoint's. Sizes of the crops, drop path and elimination are those of ``config.network``
    where they stand there.

    Raises:
        RGBXError: no or an unusable checkpoint.
    """
    if config.init is None:
        raise RGBXError("init is not set; give the RGB checkpoint to start from, for instance init=tiny_rgb")
    path, full = find_weights(config.init), config.tuning == "full"
    network, shape, meta = load_tracker(path, merge=full, **config.network.overrides())
    if isinstance(network, TunedTracker):
        if network.method == config.tuning:
            return network, meta
        raise RGBXError(
            f"{path.name} is tuned by {network.method}, and tuning {config.tuning} needs a network that is not; start "
            "from the network that it was tuned from"
        )
    cross = config.network.cross_layers
    if not full:
        origin = Origin(str(config.init), file_fingerprint(path))
        return tune(network, config.tuning, getattr(config, config.tuning, None), origin, cross), meta
    if shape.kind == "two_stream":
        return network, meta
    wanted = shape.replace(kind="two_stream", **({} if cross is None else {"cross_layers": cross}))
    return initialize_two_stream(network, wanted), meta


def fine_tuner(
    config: RunConfig,
    network: Tracker | TunedTracker,
    prior: Mapping[str, Any] | None = None,
    pairs: Any = None,
    title: str = "train",
    validate: Callable[[int], Mapping[str, float]] | None = None,
    group: Processes | None = None,
) -> Trainer:
    """A trainer for ``network``, on the device that it is on, as ``config`` has it.

    ``pairs`` replaces the configured data; ``group`` are the processes of the run.
    """
    group = group or Processes(device=next(network.parameters()).device)
    seed_everything(config.train.seed, config.train.deterministic)
    if pairs is None:
        pairs = pairs_of(config.data, config.pairs, config.train, network.config, config.train.crops, group.first)
    loss: Loss = tracking_loss(config)
    if isinstance(network, TunedTracker):
        network.begin_training(config)  # may add what is trained too
        loss = network.training_loss(loss)
    groups = parameter_groups(network, group_settings(config.train), config.train.also_train)
    optimizer = build_optimizer(groups, config.train, config.optimizer, prior)
    return Trainer(
        network,
        loss,
        optimizer,
        lr_scheduler(optimizer, config.train),
        pairs,
        config.train,
        config.output,
        config.model_dump(mode="json"),
        validate,
        title,
        group,
    )


def fine_tune(config: RunConfig, resume: Path | None = None, command: str = "") -> tuple[Path, list[StepRecord]]:
    """Fine-tune; returns the file with the network (``<output>/network.safetensors``) and the log.

    In the processes that torchrun has started, or in this one alone: :mod:`tracker.train.distributed`.

    Raises:
        RGBXError: configuration, data, checkpoint or significance map cannot be used.
    """
    with processes(config.train.device) as group:
        seed_everything(config.train.seed, config.train.deterministic)  # a tuning method draws its first weights
        network, origin = starting_network(config)
        network = network.to(group.device)
        prior = None
        if config.optimizer.name == "srft" and config.optimizer.prior is not None:
            prior = prior_for(network, load_prior(config.optimizer.prior))
        trainer = fine_tuner(config, network, prior, validate=validation(config, network, group), group=group)
        if resume is not None:
            trainer.resume(resume)
        history = trainer.run()
        path = config.output / "network.safetensors"
        if group.first:
            save_tracker(path, network, run_meta(config, trainer, command, origin))
    return path, history
