"""Validation in the course of training: how well the network tracks held-out sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from tracker.config import RunConfig
from tracker.data.sources import with_split
from tracker.errors import RGBXError
from tracker.evaluation import evaluate
from tracker.inference import InferenceSettings, track_sequences
from tracker.train.configured_data import generated_sequences, sequences_of
from tracker.train.distributed import Processes

LARGEST_BATCH = 16
"""Sequences that advance together."""


def inference_settings(config: RunConfig) -> InferenceSettings:
    """Return the crop factors and the style of X that the network was trained with."""
    data = config.data
    return InferenceSettings(
        config.pairs.template_factor,
        config.pairs.search_factor,
        depth_style=data.depth_style,
        depth_clip=data.depth_clip,
        event_style=data.event_style,
        thermal_style=data.thermal_style,
        thermal_range=data.thermal_range,
    )


def held_out_sequences(config: RunConfig, kinds: Iterable[str] = ()) -> list[Any]:
    """Make sequences from photographs that training never sees, of the modality that training has.

    Raises:
        RGBXError: training has several modalities.
    """
    found = sorted(kinds) or [config.data.generated_modality]
    if len(found) > 1:
        raise RGBXError(
            f"validation.source=generated has one modality, and the training data have {' and '.join(found)}; set "
            "validation.source=split, or validation.every=0"
        )
    settings = config.validation
    data = config.data.model_copy(
        update={
            "split": "test",
            "modality": found[0],
            "length": settings.length,
            "difficulty": settings.difficulty,
            "seed": settings.seed,
        }
    )
    return generated_sequences(data, settings.sequences, 0)


def validation_sequences(config: RunConfig, kinds: Iterable[str] = ()) -> Sequence[Any]:
    """Return what the configuration validates on: generated sequences, or a split of the training data set.

    Raises:
        RGBXError: there is no such split; or ``data`` is a generator, whose splits are the other source.
    """
    settings = config.validation
    if settings.source == "generated":
        return held_out_sequences(config, kinds)
    if config.data.source == "synthetic":
        raise RGBXError("validation.source=split needs data.source=folder; generated data have source=generated")
    sequences, _ = sequences_of(with_split(config.data, settings.split))
    return evenly_spaced(sequences, settings.sequences)


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Take at most ``count`` items from all over the list, the same ones each time."""
    kept = min(count, len(items))
    return [items[index * len(items) // kept] for index in range(kept)]


def validation(
    config: RunConfig, network: nn.Module, processes: Processes | None = None, kinds: Iterable[str] = ()
) -> Callable[[int], dict[str, float]] | None:
    """Make a function of the epoch for the trainer: success and precision on held-out sequences, when due.

    Several processes take turns in the sequences, and all of them get the same scores. ``kinds`` are the modalities of
    the training data.
    """
    every = config.validation.every
    if not every:
        return None
    together = processes or Processes()
    sequences = validation_sequences(config, kinds)
    settings = inference_settings(config)

    def measure(epoch: int) -> dict[str, float]:
        if epoch % every:
            return {}
        own = sequences[together.rank :: together.count]
        tracks = track_sequences(network, own, settings, batch=min(len(own), LARGEST_BATCH)) if own else {}
        for others in together.gathered(tracks):
            tracks = {**tracks, **others}
        scores = evaluate(sequences, tracks, "lasher").scores
        return {f"validation/{name}": float(value) for name, value in scores.items()}

    return measure
