"""A training run of a two-stream network that is small enough to be run many times in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tracker.config import RunConfig, load_config
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import preset
from tracker.models.tracker import build_network
from tracker.train.finetune import fine_tuner
from tracker.train.trainer import Trainer

SMALL = preset(
    "tiny",
    kind="single_stream",
    embed_dim=32,
    depth=2,
    num_heads=2,
    template_size=32,
    search_size=64,
    head_channels=8,
    drop_path=0.2,
    cross_layers=(0, 1),
)
DATA = ("data.sequences=2", "data.length=20", "data.width=96", "data.height=72")


def run_config(*overrides: str) -> RunConfig:
    train = ("train.epochs=2", "train.samples_per_epoch=18", "train.batch_size=4", "train.log_every=1", "train.lr=1e-3")
    return load_config(RunConfig, None, [*DATA, *train, *overrides])


def trainer_of(config: RunConfig, pairs: Any, folder: Path | None = None) -> Trainer:
    """Return a two-stream network from seeded weights, with drop path so that torch's generator matters."""
    torch.manual_seed(11)
    network = initialize_two_stream(build_network(SMALL))
    generator = torch.Generator().manual_seed(5)
    prior = {name: torch.rand(p.shape, generator=generator) for name, p in network.named_parameters()}
    trainer = fine_tuner(config, network, prior, pairs)
    trainer.folder = folder
    return trainer
