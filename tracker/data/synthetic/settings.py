"""What the generator is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker.data.rendering import XStyle
from tracker.data.sequence import MODALITIES
from tracker.data.synthetic.photographs import SPLITS
from tracker.errors import RGBXError


@dataclass(frozen=True)
class SyntheticConfig:
    """What to generate. Everything about a sequence follows from this and its index.

    Attributes:
        modality: ``"thermal"``, ``"depth"``, ``"event"``, or ``"rgb"``: mostly day-light, no X, for
            pre-training.
        size: (W, H) of the frames, pixels.
        length: frames.
        seed: with the index, all randomness.
        difficulty: 0..1, scales speed, clutter, noise, and the shares below that are None.
        split: photographs of ``"train"``, ``"test"`` or ``"all"``; the first two share none.
        night, fog: shares of sequences that are dark, or veiled, in RGB.
        lookalike: share of sequences with distractors that wear the target's own skin (and differ in X).
        occlusion: share of sequences in which something passes before the target.
        leave: share of sequences in which the target leaves and returns.
        x_failure: share of day-light sequences in which X shows the target badly (thermal crossover, depth out of
            range, few events), so that neither modality can be ignored.
        style: how depth is rendered; thermal images and events of the generator are drawn in one way.

    Raises:
        RGBXError: a value out of its range.
    """

    modality: str = "thermal"
    size: tuple[int, int] = (192, 144)
    length: int = 60
    seed: int = 0
    difficulty: float = 0.5
    split: str = "train"
    night: float | None = None
    fog: float | None = None
    lookalike: float | None = None
    occlusion: float | None = None
    leave: float | None = None
    x_failure: float | None = None
    style: XStyle = field(default_factory=XStyle)

    def __post_init__(self) -> None:
        if self.modality not in (*MODALITIES, "rgb"):
            raise RGBXError(f"modality is {self.modality!r}; expected one of {', '.join((*MODALITIES, 'rgb'))}")
        if self.split not in SPLITS:
            raise RGBXError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if len(self.size) != 2 or min(self.size) < 64:
            raise RGBXError(f"size is {self.size}; expected (width, height) of at least 64 pixels each")
        if self.length < 2:
            raise RGBXError(f"length is {self.length}; a sequence has at least 2 frames")
        if self.seed < 0:
            raise RGBXError(f"seed is {self.seed}; expected a non-negative integer")
        for name in ("difficulty", "night", "fog", "lookalike", "occlusion", "leave", "x_failure"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise RGBXError(f"{name} is {value}; expected a number in [0, 1]")

    def share(self, name: str) -> float:
        """Return the share called ``name``, or what the difficulty makes of it."""
        value = getattr(self, name)
        if value is not None:
            return float(value)
        d = self.difficulty
        plain = self.modality == "rgb"
        return {
            "night": 0.12 * d if plain else 0.2 + 0.4 * d,
            "fog": 0.1 * d if plain else 0.1 + 0.2 * d,
            "lookalike": 0.5 * d if plain else 0.2 + 0.6 * d,
            "occlusion": 0.2 + 0.6 * d,
            "leave": 0.4 * d,
            "x_failure": 0.0 if plain else 0.3 * d,
        }[name]
