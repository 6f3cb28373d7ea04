"""Which parameters are trained, and how fast: SRTrack's six groups, with what it freezes as options."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from tracker.errors import RGBXError


@dataclass(frozen=True)
class GroupSettings:
    """Learning rate of each group; None freezes it. The defaults are what SRTrack's paper intends.

    (The released training code overwrites them all with 1e-6; FE108 uses norms 1e-6, embed_rgb 1e-5,
    embed_x 5e-5, blocks_rgb 2e-5, blocks_x 1e-4, cross 5e-5.) ``weight_decay`` holds for every group.

    Raises RGBXError for a rate below zero.
    """

    norms: float | None = 1e-6
    embed_rgb: float | None = 5e-5
    embed_x: float | None = 5e-5
    blocks_rgb: float | None = 1e-4
    blocks_x: float | None = 1e-4
    cross: float | None = 5e-5
    head: float | None = None
    positions: float | None = None
    adapters: float | None = 1e-4
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in (*GROUPS, "weight_decay"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise RGBXError(f"the setting {name} of the parameter groups is {value}; it must not be negative")

    @classmethod
    def uniform(cls, lr: float, weight_decay: float = 1e-4) -> GroupSettings:
        """Everything trained at one rate, head and positions too: for pre-training."""
        return cls(**dict.fromkeys(GROUPS, lr), weight_decay=weight_decay)

    def scaled(self, factor: float) -> GroupSettings:
        """Return all learning rates times ``factor``: smaller networks take larger steps."""
        rates = {name: getattr(self, name) for name in GROUPS}
        scaled = {name: None if rate is None else rate * factor for name, rate in rates.items()}
        return GroupSettings(**scaled, weight_decay=self.weight_decay)


GROUPS = ("norms", "embed_rgb", "embed_x", "blocks_rgb", "blocks_x", "cross", "head", "positions", "adapters")


def group_of(name: str) -> str:
    """Return the group of a parameter, by its name: a block's own norms belong to the block.

    Of a tuned network (:mod:`tracker.tuning`) the base's parameters are in the base's groups; others are adapters.
    """
    module, _, rest = name.partition(".")
    if module == "base" and "lora_" not in rest:
        return group_of(rest)
    if module == "patch_embed_x":
        return "embed_x"
    if module not in ("head", "positions", "cross", "rgb", "x"):
        return "adapters"
    if module in ("head", "positions", "cross"):
        return module
    part = rest.partition(".")[0]
    return {"norm": "norms", "patch_embed": f"embed_{module}", "blocks": f"blocks_{module}"}[part]


def parameter_groups(
    network: Any, settings: GroupSettings | None = None, also: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, and the network frozen to match.

    ``network`` is a tracker, of which all groups may train, or a tuned one, of which those train that its method names
    and those in ``also``. Each is ``{"name", "lr", "weight_decay", "params": [(parameter name, parameter), ...]}``;
    empty ones (X in a single-stream network) are left out. Parameters of a group without a learning rate get
    ``requires_grad=False``, those of the others True; a frozen head keeps the statistics of its batch
    normalization too, as SRTrack's does.

    A tuned network remembers the names of what trains, which its file will hold.

    Raises RGBXError where nothing is left to train.
    """
    settings = settings or GroupSettings()
    members: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in GROUPS}
    for name, parameter in network.named_parameters():
        members[group_of(name)].append((name, parameter))
    rates: dict[str, float | None] = {name: getattr(settings, name) for name in GROUPS}
    allowed = {*getattr(network, "trains", GROUPS), *also}
    trained = [name for name in GROUPS if name in allowed and rates[name] is not None and members[name]]
    if not trained:
        raise RGBXError("every parameter group is frozen; give at least one of them a learning rate")
    for name, parameters in members.items():
        for _, parameter in parameters:
            parameter.requires_grad_(name in trained)
    network.head.freeze_statistics("head" not in trained)
    if hasattr(network, "trains"):
        network.trained = frozenset(name for group in trained for name, _ in members[group])
    return [
        {"name": name, "lr": rates[name], "weight_decay": settings.weight_decay, "params": members[name]}
        for name in trained
    ]
