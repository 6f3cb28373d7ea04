"""Sequences and pairs that a configuration asks for."""

from __future__ import annotations

import collections.abc
from pathlib import Path
from typing import Any

import torch

from tracker.config import DataSection, PairSection, TrainSection, as_dataclass
from tracker.data.dataset import PairDataset, PairSettings
from tracker.data.rendering import XStyle, x_style
from tracker.data.sequence import Sequence
from tracker.models.config import NetworkConfig


def generated_sequences(data: DataSection, count: int | None = None, first: int | None = None) -> list[Any]:
    """Make ``count`` sequences of the generator from index ``first`` on. Both default to the section's own."""
    from tracker.data.synthetic import SyntheticConfig, synthetic_dataset

    config = as_dataclass(
        SyntheticConfig,
        data,
        size=(data.width, data.height),
        split=data.split or "train",
        modality=data.generated_modality,
        style=x_style(data),
    )
    return list(
        synthetic_dataset(
            config,
            data.sequences if count is None else count,
            first=data.first if first is None else first,
        )
    )


def sequences_of(
    data: DataSection, progress: bool = False
) -> tuple[collections.abc.Sequence[Sequence], list[float] | None]:
    """Return the configured sequences, generated or on disk, and how often each is drawn (None: all alike).

    Raises:
        RGBXError: a folder that is missing, or holds nothing that can be opened; or sequences whose X is not what the
            configuration says.
    """
    if data.source == "synthetic":
        return generated_sequences(data), None
    from tracker.data.sources import check_modality, open_sources

    sequences, weights = open_sources(data, progress)
    check_modality(sequences, data)
    return sequences, weights


def evaluation_sequences(
    root: Path | None,
    layout: str,
    split: str | None,
    modality: str,
    count: int,
    length: int,
    seed: int,
    style: XStyle | None = None,
) -> collections.abc.Sequence[Sequence]:
    """Return a data set's sequences, or without ``root`` generated ones from photographs kept for testing."""
    if root is not None:
        from tracker.data.layouts import open_dataset

        return open_dataset(root, layout=layout, split=split, style=style, faulty_boxes="keep")
    from tracker.data.synthetic import SyntheticConfig, synthetic_dataset

    config = SyntheticConfig(
        modality=modality, length=length, seed=seed, split=split or "test", style=style or XStyle()
    )
    return list(synthetic_dataset(config, count))


def pair_settings(pairs: PairSection, network: NetworkConfig, crops: str = "host") -> PairSettings:
    """Return how pairs are cropped for ``network``; ``crops`` says whether on the host or on the device."""
    settings: PairSettings = as_dataclass(
        PairSettings, pairs, template_size=network.template_size, search_size=network.search_size, crops=crops
    )
    return settings


class RollingPairs:
    """Pairs from a window of generated sequences that moves on by ``refresh`` sequences each epoch.

    A network that is trained from scratch then sees more scenes than memory holds, and a scene is still rendered only
    once. Epoch e draws from sequences [first + e * refresh, first + e * refresh + sequences). Sample (epoch, index)
    remains a pure function of the seed, whatever was rendered before.
    """

    def __init__(self, data: DataSection, settings: PairSettings, samples_per_epoch: int, seed: int) -> None:
        self.data, self.settings, self.samples_per_epoch, self.seed = data, settings, samples_per_epoch, seed
        # In shared memory, so that loader processes see a new epoch.
        self._epoch: torch.Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()
        self._cache: dict[int, Any] = {}
        self._pairs: PairDataset | None = None

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch = int(self._epoch)
        if self._pairs is None or self._pairs.epoch != epoch:
            self._pairs = self._window(epoch)
        return self._pairs[index]

    def _window(self, epoch: int) -> PairDataset:
        first = self.data.first + epoch * self.data.refresh
        self._cache = {
            index: self._cache[index] if index in self._cache else generated_sequences(self.data, 1, index)[0]
            for index in range(first, first + self.data.sequences)
        }
        sequences = list(self._cache.values())
        pairs = PairDataset(sequences, self.settings, self.samples_per_epoch, self.seed)
        pairs.set_epoch(epoch)
        return pairs


def pairs_of(
    data: DataSection,
    pairs: PairSection,
    train: TrainSection,
    network: NetworkConfig,
    crops: str = "host",
    progress: bool = False,
) -> Any:
    """Return the training pairs of a run. ``crops`` says where crops are made, on the ``host`` or the ``device``."""
    settings = pair_settings(pairs, network, crops)
    if data.source == "synthetic" and data.refresh:
        return RollingPairs(data, settings, train.samples_per_epoch, train.seed)
    sequences, weights = sequences_of(data, progress)
    return PairDataset(sequences, settings, train.samples_per_epoch, train.seed, weights)
