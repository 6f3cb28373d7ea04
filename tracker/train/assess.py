"""Running checkpoints over sequences, and scoring them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tracker.data.rendering import XStyle
from tracker.errors import RGBXError
from tracker.evaluation import Metrics, evaluate
from tracker.inference import InferenceSettings, track_dataset
from tracker.models.checkpoints import find_weights
from tracker.tuning.files import load_tracker


def assess(
    network: nn.Module,
    sequences: Sequence[Any],
    name: str,
    protocol: str = "lasher",
    settings: InferenceSettings | None = None,
    output: Path | None = None,
    label: str | None = None,
) -> tuple[Metrics, dict[str, Any]]:
    """Track the sequences (results go to ``output`` where given) and score them; also returns the tracks."""
    tracks = track_dataset(
        network,
        sequences,
        output,
        settings,
        batch=min(len(sequences), 16),
        label=f"track {name}" if label is None else label,
    )
    seconds = sum(track.seconds for track in tracks.values())
    frames = sum(len(track.boxes) - track.first for track in tracks.values())
    speed = frames / seconds if seconds > 0 else None
    return evaluate(sequences, tracks, protocol, tracker=name, speed=speed), tracks


def assess_checkpoints(
    checkpoints: Iterable[Path],
    open_sequences: Callable[[XStyle], Sequence[Any]],
    protocol: str = "auto",
    output: Path | None = None,
) -> list[Metrics]:
    """Score several checkpoints on the same sequences; their names are their files' stems.

    ``open_sequences`` is given the style of X that the checkpoints were trained with.

    Raises:
        RGBXError: a checkpoint that cannot be loaded, before any is run; two of one name, or of different styles.
    """
    files = [find_weights(path) for path in checkpoints]
    names = [file.stem if file.stem != "network" else file.resolve().parent.name for file in files]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise RGBXError(f"two checkpoints are both named {min(twice)}; rename one, results are filed by name")
    loaded = [load_tracker(file) for file in files]
    settings = [InferenceSettings.from_meta(meta) for _, _, meta in loaded]
    if any(one.rendering != settings[0].rendering for one in settings):
        styles = "; ".join(f"{name}: {one.rendering}" for name, one in zip(names, settings, strict=True))
        raise RGBXError(f"the checkpoints were trained with different styles of X ({styles}); evaluate them one by one")
    sequences = open_sequences(settings[0].rendering)
    if protocol == "auto":
        protocol = "visevent" if sequences[0].modality == "event" else "lasher"
    return [
        assess(
            network,
            sequences,
            name,
            protocol,
            one,
            None if output is None else output / "results" / name,
        )[0]
        for name, (network, _, _), one in zip(names, loaded, settings, strict=True)
    ]
