"""How well a network tracks held-out generated sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tracker.config import RunConfig
from tracker.evaluation import evaluate
from tracker.inference import InferenceSettings, track_sequences
from tracker.train.sources import generated_sequences


def inference_settings(config: RunConfig) -> InferenceSettings:
    """The crop factors that the network was trained with."""
    return InferenceSettings(config.pairs.template_factor, config.pairs.search_factor)


def held_out_sequences(config: RunConfig) -> list[Any]:
    """Generated sequences from photographs that training never sees."""
    settings = config.validation
    data = config.data.model_copy(
        update={
            "split": "test",
            "length": settings.length,
            "difficulty": settings.difficulty,
            "seed": settings.seed,
        }
    )
    return generated_sequences(data, settings.sequences, 0)


def validation(config: RunConfig, network: nn.Module) -> Callable[[int], dict[str, float]] | None:
    """A function of the epoch for the trainer: success and precision on held-out sequences, when due."""
    every = config.validation.every
    if not every:
        return None
    sequences = held_out_sequences(config)
    settings = inference_settings(config)

    def measure(epoch: int) -> dict[str, float]:
        if epoch % every:
            return {}
        tracks = track_sequences(network, sequences, settings, batch=len(sequences))
        scores = evaluate(sequences, tracks, "lasher").scores
        return {f"validation/{name}": float(value) for name, value in scores.items()}

    return measure
