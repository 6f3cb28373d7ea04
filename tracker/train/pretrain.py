"""Pre-training of the single-stream RGB tracker, from scratch or from a plain ViT, on day-light sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracker.config import RunConfig
from tracker.errors import RGBXError
from tracker.models.center_head import decode_boxes
from tracker.models.checkpoints import find_weights, load_network, save_network
from tracker.models.config import NetworkConfig, preset
from tracker.models.tracker import Tracker, TrackerOutput, build_network
from tracker.train.checkpoint import seed_everything
from tracker.train.distributed import processes
from tracker.train.losses import TrackingLoss, gaussian_target
from tracker.train.optimizers import build_optimizer, decay_groups
from tracker.train.schedule import lr_scheduler
from tracker.train.sources import pairs_of
from tracker.train.trainer import Trainer
from tracker.train.validate import inference_settings, validation


def network_config(config: RunConfig, kind: str) -> NetworkConfig:
    return preset(config.network.preset, kind=kind, **config.network.changes())


def tracking_loss(config: RunConfig) -> Callable[[TrackerOutput, Tensor], dict[str, Tensor]]:
    """The published loss, or with ``loss.cell: target`` its form for networks that find nothing yet."""
    weighted = TrackingLoss(config.loss.giou, config.loss.l1, config.loss.focal)
    return TargetCellLoss(weighted) if config.loss.cell == "target" else weighted


class TargetCellLoss:
    """Box losses at the cell that should have won, instead of at the one that did.

    The published loss regresses the box at the argmax of the score map, which in a network that starts from
    nothing is any cell: size and offset then learn at wrong places first. With a good score map the two are
    the same.
    """

    def __init__(self, loss: TrackingLoss) -> None:
        self.loss = loss

    def __call__(self, output: TrackerOutput, boxes: Tensor) -> dict[str, Tensor]:
        target = gaussian_target(boxes.to(output.score_map.dtype), output.score_map.shape[-1])
        there = decode_boxes(target, output.size_map, output.offset_map)
        return self.loss(output._replace(boxes=there[:, None]), boxes)


def pretrain(
    config: RunConfig,
    resume: Path | None = None,
    command: str = "",
    weights: Path | None = None,
) -> Path:
    """Train an RGB tracker; returns the file with its weights, in ``config.output``.

    From scratch, or with ``init`` from an RGB tracker or what ``rgbx weights convert`` made of a plain ViT.

    ``weights`` receives them too, in fp16 (batch-norm statistics stay fp32).

    Raises:
        RGBXError: the configuration, the data or the checkpoint to resume from cannot be used.
    """
    train = config.train
    path = config.output / "network.safetensors"
    with processes(train.device) as group:
        seed_everything(train.seed, train.deterministic)
        network, origin = starting_network(config)
        network, shape = network.to(group.device), network.config
        optimizer = build_optimizer(decay_groups(network, train.lr, train.weight_decay), train, config.optimizer)
        trainer = Trainer(
            network,
            tracking_loss(config),
            optimizer,
            lr_scheduler(optimizer, train),
            pairs_of(config.data, config.pairs, train, shape, train.crops, group.first),
            train,
            config.output,
            config.model_dump(mode="json"),
            validation(config, network, group),
            title="pretrain",
            processes=group,
        )
        if resume is not None:
            trainer.resume(resume)
        trainer.run()
        if not group.first:
            return path
        meta = run_meta(config, trainer, command, origin)
        save_network(path, network, shape, meta)
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            save_network(weights, network, shape, meta, half=True)
    return path


def starting_network(config: RunConfig) -> tuple[Tracker, Mapping[str, Any] | None]:
    """A new single-stream network, or that of ``config.init`` and its meta.

    Raises:
        RGBXError: a checkpoint that cannot be used, or has two streams.
    """
    if config.init is None:
        return build_network(network_config(config, "single_stream")), None
    network, shape, meta = load_network(find_weights(config.init), **config.network.overrides())
    if shape.kind != "single_stream":
        raise RGBXError(f"{config.init} has two streams; pre-training takes an RGB tracker, `rgbx train` the two")
    return network, meta


def run_meta(
    config: RunConfig, trainer: Trainer, command: str, origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How a network was made, for its file; ``origin`` is the meta of the checkpoint that it started from."""
    return {
        **({} if origin is None else {"started_from": dict(origin)}),
        "command": command,
        "seed": config.train.seed,
        "steps": trainer.step,
        "samples": trainer.step * config.train.batch_size,
        "threads": torch.get_num_threads(),
        "inference": asdict(inference_settings(config)),
        "config": config.model_dump(mode="json"),
    }
