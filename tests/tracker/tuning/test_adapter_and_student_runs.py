"""PATrack and the distilled student from a shipped RGB tracker to a file that tracks, on generated sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.models.checkpoints import find_weights, load_network, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.train.finetune import fine_tuner, starting_network
from tracker.train.sources import generated_sequences, pair_settings
from tracker.train.trainer import Trainer

METHODS = ("patrack", "distill")
BATCH = 4


class SameBatch:
    """The first pairs of a data set, in every epoch again: what a network can learn by heart."""

    def __init__(self, pairs: PairDataset) -> None:
        self.samples = [pairs[index] for index in range(BATCH)]

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams made of the shipped RGB tracker, X's changed a little."""
    network = initialize_two_stream(load_network(find_weights(Path("tiny_rgb")))[0])
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.x.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.std(correction=0))
    path = tmp_path_factory.mktemp("teacher") / "two.safetensors"
    save_network(path, network)
    return path


def run_config(method: str, teacher: Path, *overrides: str) -> RunConfig:
    settings = (
        "init=tiny_rgb", f"tuning={method}", f"distill.teacher={teacher}", "data.sequences=2", "data.length=20",
        "data.width=96", "data.height=72", f"train.batch_size={BATCH}", f"train.samples_per_epoch={BATCH}",
        "train.epochs=24", "train.log_every=1", "train.lr=1e-3", "train.clip_grad_norm=1", "train.device=cpu",
        "train.schedule=constant", "loss.cell=target",
    )  # fmt: skip
    return load_config(RunConfig, None, [*settings, *overrides])


def trainer_of(config: RunConfig, folder: Path | None = None) -> Trainer:
    network, _ = starting_network(config)
    pairs = PairDataset(generated_sequences(config.data), pair_settings(config.pairs, network.config), BATCH, seed=3)
    trainer = fine_tuner(config, network, pairs=SameBatch(pairs))
    trainer.folder = folder
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_on_a_batch_that_can_be_learned_by_heart(teacher: Path, method: str) -> None:
    trainer = trainer_of(run_config(method, teacher))
    history = trainer.run()
    names = ("loss/total", "loss/common", "loss/specific", "loss/fusion")[: 4 if method == "distill" else 1]
    for name in names:
        losses = [record.scalars[name] for record in history]
        print(name, losses[0], losses[-1])
        assert sum(losses[-4:]) < 0.7 * sum(losses[:4]), name
