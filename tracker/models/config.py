"""What a tracking network is made of: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracker.errors import RGBXError

KINDS = ("two_stream", "single_stream")
WHOLE_NUMBERS = ("embed_dim", "depth", "num_heads", "patch", "template_size", "search_size", "head_channels")


def evenly_spaced_layers(depth: int, count: int) -> tuple[int, ...]:
    """Return ``count`` layers (0-based) that end equal parts of ``depth``: 2, 5, 8, 11 for four in twelve."""
    return tuple((i + 1) * depth // count - 1 for i in range(count))


def elimination_layers(depth: int) -> tuple[int, ...]:
    """Return where a network of ``depth`` drops tokens: before each quarter but the first, OSTrack's 3, 6, 9 of 12."""
    return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)}))


def check_keep_ratio(ratio: float) -> None:
    """Raises RGBXError unless ``ratio`` is in (0, 1]."""
    if not 0.0 < ratio <= 1.0:
        raise RGBXError(f"keep_ratio {ratio} is not in (0, 1]")


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a tracker; sizes in pixels of the square crops.

    ``cross_layers`` are the 0-based layers after which a cross block lets the two streams attend to each
    other; None means one for every three layers, evenly spaced, which is SRTrack's 2, 5, 8, 11 at depth 12.
    ``temporal`` adds DropMAE's learned template and search embeddings, shared by both modalities.
    ``drop_path`` is the rate of the last layer (linear from 0). In ``elimination_layers`` (0-based; OSTrack's
    are 3, 6, 9) each stream drops search tokens down to ``keep_ratio`` of what came in (OSTrack: 0.7; 1 drops
    nothing); see :mod:`tracker.models.elimination`.

    Raises RGBXError where the numbers cannot make a network.
    """

    kind: str = "two_stream"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    patch: int = 16
    template_size: int = 128
    search_size: int = 256
    head_channels: int = 256
    cross_layers: tuple[int, ...] | None = None
    temporal: bool = False
    drop_path: float = 0.0
    mlp_ratio: float = 4.0
    elimination_layers: tuple[int, ...] = ()
    keep_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RGBXError(f"network kind {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        for name in WHOLE_NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RGBXError(f"network setting {name} is {value!r}; it must be a whole number of at least 1")
        if self.embed_dim % self.num_heads:
            raise RGBXError(
                f"embed_dim {self.embed_dim} does not divide by num_heads {self.num_heads}; choose a divisor"
            )
        for name in ("template_size", "search_size"):
            if getattr(self, name) % self.patch:
                raise RGBXError(f"{name} {getattr(self, name)} does not divide by the patch size {self.patch}")
        if self.head_channels % 8:
            raise RGBXError(
                f"head_channels {self.head_channels} does not divide by 8, and the head halves it three times"
            )
        for name in ("drop_path", "mlp_ratio", "keep_ratio"):
            if not isinstance(getattr(self, name), (int, float)):
                raise RGBXError(f"network setting {name} is {getattr(self, name)!r}; it must be a number")
        if not 0.0 <= self.drop_path < 1.0:
            raise RGBXError(f"drop_path {self.drop_path} is not in [0, 1)")
        if not self.mlp_ratio > 0.0:
            raise RGBXError(f"mlp_ratio {self.mlp_ratio} is not positive")
        layers = self.cross_layers
        if layers is None:
            layers = evenly_spaced_layers(self.depth, max(1, self.depth // 3))
        self._check_layers("cross_layers", layers)
        self._check_layers("elimination_layers", self.elimination_layers)
        check_keep_ratio(self.keep_ratio)
        if self.keep_ratio < 1.0 and not self.elimination_layers:
            raise RGBXError(
                f"keep_ratio {self.keep_ratio} drops nothing without elimination_layers; give them, for instance "
                f"{elimination_layers(self.depth)}"
            )
        object.__setattr__(self, "cross_layers", tuple(layers))

    def _check_layers(self, name: str, layers: object) -> None:
        if not isinstance(layers, tuple) or any(
            isinstance(layer, bool) or not isinstance(layer, int) for layer in layers
        ):
            raise RGBXError(f"{name} {layers} must be layer numbers")
        if list(layers) != sorted(set(layers)) or any(not 0 <= layer < self.depth for layer in layers):
            raise RGBXError(f"{name} {layers} must be increasing layer numbers from 0 to {self.depth - 1}")

    @property
    def cross(self) -> tuple[int, ...]:
        """``cross_layers`` as they were resolved: never None."""
        assert self.cross_layers is not None
        return self.cross_layers

    @property
    def template_cells(self) -> int:
        """Patches along one side of the template."""
        return self.template_size // self.patch

    @property
    def search_cells(self) -> int:
        """Patches along one side of the search region: S, the side of the head's maps."""
        return self.search_size // self.patch

    def drop_path_rate(self, layer: int) -> float:
        """Drop-path rate of a layer, and of the cross block that follows it."""
        return self.drop_path * layer / (self.depth - 1) if self.depth > 1 else self.drop_path

    def replace(self, **changes: Any) -> NetworkConfig:
        """Return a copy with some settings changed; a new depth without new cross_layers spaces them anew."""
        if changes.get("depth", self.depth) != self.depth:
            changes.setdefault("cross_layers", None)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON and YAML can hold."""
        values = dataclasses.asdict(self)
        values["cross_layers"] = list(self.cross)
        values["elimination_layers"] = list(self.elimination_layers)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Return the inverse of :meth:`to_dict`; unknown settings are refused by name."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RGBXError(f"unknown network settings: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        values = dict(values)
        for name in ("cross_layers", "elimination_layers"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


_SMALL_SIZES: dict[str, Any] = {"template_size": 128, "search_size": 256}
_LARGE_SIZES: dict[str, Any] = {"template_size": 192, "search_size": 384}
_VIT_B: dict[str, Any] = {"drop_path": 0.1, "embed_dim": 768, "num_heads": 12, "head_channels": 256}
_VIT_S: dict[str, Any] = {"drop_path": 0.1, "embed_dim": 384, "num_heads": 6, "head_channels": 128}
_VIT_T: dict[str, Any] = {"drop_path": 0.1, "embed_dim": 192, "num_heads": 3, "head_channels": 64}


def vit_b_256(**changes: Any) -> NetworkConfig:
    """Return the 256 network of SRTrack and OSTrack: ViT-B/16, template 128, search 256."""
    return NetworkConfig(**_VIT_B, **_SMALL_SIZES).replace(**changes)


def vit_b_384(**changes: Any) -> NetworkConfig:
    """Return the 384 network: ViT-B/16, template 192, search 384."""
    return NetworkConfig(**_VIT_B, **_LARGE_SIZES).replace(**changes)


def vit_s_256(**changes: Any) -> NetworkConfig:
    """Return a ViT-S/16 at the sizes of the 256 network."""
    return NetworkConfig(**_VIT_S, **_SMALL_SIZES).replace(**changes)


def vit_s_384(**changes: Any) -> NetworkConfig:
    """Return a ViT-S/16 at the sizes of the 384 network."""
    return NetworkConfig(**_VIT_S, **_LARGE_SIZES).replace(**changes)


def vit_t_256(**changes: Any) -> NetworkConfig:
    """Return a ViT-Ti/16 at the sizes of the 256 network."""
    return NetworkConfig(**_VIT_T, **_SMALL_SIZES).replace(**changes)


def vit_t_384(**changes: Any) -> NetworkConfig:
    """Return a ViT-Ti/16 at the sizes of the 384 network."""
    return NetworkConfig(**_VIT_T, **_LARGE_SIZES).replace(**changes)


def droptrack_b_384(**changes: Any) -> NetworkConfig:
    """Return DropTrack's network: the 384 one with DropMAE's temporal embeddings. Its search factor is 5, not 4."""
    return vit_b_384(temporal=True).replace(**changes)


def tiny(**changes: Any) -> NetworkConfig:
    """Return what two CPU cores can pre-train: width 128, depth 6, template 64, search 128."""
    base = NetworkConfig(
        embed_dim=128,
        depth=6,
        num_heads=4,
        template_size=64,
        search_size=128,
        head_channels=64,
        cross_layers=(1, 3, 5),
    )
    return base.replace(**changes)


PRESETS: dict[str, Callable[..., NetworkConfig]] = {
    make.__name__: make
    for make in (vit_b_256, vit_b_384, vit_s_256, vit_s_384, vit_t_256, vit_t_384, droptrack_b_384, tiny)
}


def preset(name: str, **changes: Any) -> NetworkConfig:
    """Return a preset by name, with some settings changed. Raises RGBXError for a name that is none."""
    if name not in PRESETS:
        raise RGBXError(f"network preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name](**changes)
