"""One network and one set of files, and the turns of all contestants that feed the network from the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import torch

from benchmarks.baselines import published_update
from benchmarks.loader_rows import BATCHES, FRAMES, NETWORKS, SIZE, STEPS, WORKERS, rows
from benchmarks.workload import Workload
from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.data.normalize import normalize
from tracker.data.sequence import FolderSequence
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import preset
from tracker.models.tracker import build_network
from tracker.train.configured_data import pair_settings
from tracker.train.finetune import fine_tuner
from tracker.train.prefetch import Batch, ahead
from tracker.train.trainer import Trainer


def write_frames(folder: Path) -> FolderSequence:
    """Return a sequence of smooth noise, which JPEG holds as well as it does photographs."""
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"rgb": [], "x": []}
    for kind, listed in files.items():
        for index in range(FRAMES):
            coarse = rng.integers(0, 256, (SIZE[1] // 16, SIZE[0] // 16, 3), dtype=np.uint8)
            path = folder / f"{kind}{index:04d}.jpg"
            cv2.imwrite(str(path), cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC))
            listed.append(path)
    sides = rng.uniform(24, 96, (FRAMES, 2))
    corners = rng.uniform(0, 1, (FRAMES, 2)) * (np.array(SIZE) - sides)
    return FolderSequence("noise", "thermal", files["rgb"], files["x"], np.concatenate([corners, sides], axis=1))


def settings(device: torch.device, *overrides: str) -> RunConfig:
    """Return learning rates at which nothing moves far: the pictures are noise."""
    kind, steps = device.type, STEPS[device.type]
    return load_config(
        RunConfig,
        None,
        [
            f"train.batch_size={BATCHES[kind]}", f"train.samples_per_epoch={BATCHES[kind] * steps}", "train.lr=1e-7",
            "train.epochs=100000", f"train.workers={WORKERS}", "train.schedule=constant", "train.lr_scale.head=0",
            "train.lr_scale.positions=0", "train.log_every=1000000", "optimizer.name=srft", "optimizer.kappa=constant",
            "optimizer.kappa_start=0.5", "optimizer.damping=rank", "train.deterministic=false",
            f"train.precision={'bf16' if kind == 'cuda' else 'fp32'}", *overrides,
        ],
    )  # fmt: skip


class Published:
    """The published way over the parameters of ``trainer``'s network, with moments of its own."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        # All that the update looks at.
        self.update = published_update(cast(Workload, SimpleNamespace(parameters=trainer.trained))).step

    def train_step(self, batch: Batch) -> float:
        trainer = self.trainer
        trainer.optimizer.zero_grad()
        losses = trainer.loss(trainer.network(normalize(batch.template), normalize(batch.search)), batch.box)
        total = losses["total"].mean()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trainer.trained, 0.1)
        self.update()
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        return total.item()


class Contest:
    """One network on ``device``, and every contestant's turn: a callable that takes ``STEPS`` steps."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        torch.manual_seed(0)
        shape = preset(NETWORKS[device.type], kind="single_stream")
        network = initialize_two_stream(build_network(shape)).to(device)
        sequence = write_frames(folder)
        config = settings(device)
        pairs = pair_settings(config.pairs, network.config)

        def dataset(crops: str) -> PairDataset:
            return PairDataset([sequence], replace(pairs, crops=crops), config.train.samples_per_epoch)

        prior = {name: torch.rand_like(p).pow(4) for name, p in network.named_parameters()}
        self.host = fine_tuner(config, network, prior, dataset("host"))
        self.on_device = self.sharing(dataset("device"), config)
        self.compiled = self.sharing(dataset("device"), settings(device, "train.compile=true"))
        for trainer in (self.host, self.on_device, self.compiled):
            trainer.folder = None
        self.published = Published(self.host)
        self.batch = next(iter(ahead(self.host.batches(), device)))

    def sharing(self, dataset: PairDataset, config: RunConfig) -> Trainer:
        """Another trainer of the same network with the same optimizer: a second one would take gigabytes."""
        ours = self.host
        return Trainer(ours.network, ours.loss, ours.optimizer, ours.scheduler, dataset, config.train)

    def turns(self) -> dict[str, Callable[[], object]]:
        steps, host = STEPS[self.device.type], self.host
        chosen: dict[str, Callable[[], object]] = {
            "loader_host": lambda: [None for _ in self.epoch(host)],
            "loader_device": lambda: [None for _ in self.epoch(self.on_device)],
            "step": lambda: [host.train_step(self.batch) for _ in range(steps)],
            "step_published": lambda: [self.published.train_step(self.batch) for _ in range(steps)],
            "published": lambda: [self.published.train_step(batch) for batch in self.epoch(host)],
            "ours_host": lambda: [host.train_step(batch) for batch in self.epoch(host)],
            "ours_device": lambda: [self.on_device.train_step(batch) for batch in self.epoch(self.on_device)],
            "ours_compiled": lambda: [self.compiled.train_step(batch) for batch in self.epoch(self.compiled)],
        }
        return {key: chosen[key] for key, _ in rows(self.device.type)}

    def epoch(self, trainer: Trainer) -> Iterator[Batch]:
        """Yield one epoch of batches on the device.

        The loader has nothing ready before it and nothing left after it.
        """
        trainer.index = 0
        trainer.train_mode()
        return ahead(trainer.batches(), self.device)
