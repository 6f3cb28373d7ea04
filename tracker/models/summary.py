"""A network in words: what it is, how large, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from torch import nn

from tracker.models.config import NetworkConfig
from tracker.models.groups import GROUPS, group_of

KIND_NAMES = {"single_stream": "RGB tracker, one stream", "two_stream": "RGB-X tracker, two streams"}
RUN_SETTINGS = "config"


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """Return parameters of each group of :mod:`tracker.models.groups`, those that the network has."""
    counts = dict.fromkeys(GROUPS, 0)
    for name, parameter in network.named_parameters():
        counts[group_of(name)] += parameter.numel()
    return {name: count for name, count in counts.items() if count}


def summary(source: str, network: nn.Module, config: NetworkConfig, meta: Mapping[str, Any]) -> str:
    """Several lines of text; of ``meta`` everything but the settings of the run that made it."""
    counts = parameter_counts(network)
    grids = {
        "template": (config.template_size, config.template_cells),
        "search": (config.search_size, config.search_cells),
    }
    rows = {
        "network": f"ViT of width {config.embed_dim}, depth {config.depth}, {config.num_heads} heads, "
        f"patches of {config.patch} px",
        **{name: f"{size} x {size} px, {cells} x {cells} cells" for name, (size, cells) in grids.items()},
        "head": f"CENTER, {config.head_channels} channels",
    }
    if config.kind == "two_stream":
        rows["cross after"] = f"layers {_listed(config.cross)}"
    if config.temporal:
        rows["temporal"] = "embeddings of template and search (DropMAE)"
    if config.elimination_layers:
        rows["elimination"] = f"to {config.keep_ratio:g} at layers {_listed(config.elimination_layers)}"
    method = getattr(network, "method", None)
    if method is not None:
        origin = getattr(network, "origin", None)
        base = "the base in it" if origin is None else f"{origin.file}, fingerprint {origin.fingerprint}"
        rows["tuning"] = f"{method} of {base}"
    rows["parameters"] = f"{sum(counts.values()):,}"
    rows.update({f"  {name}": f"{count:,}" for name, count in counts.items()})
    what = KIND_NAMES[config.kind] if method is None else "RGB-X tracker, tuned"
    lines = [f"{source}: {what}"]
    lines += [f"  {name:<14}{text}" for name, text in rows.items()]
    told = _without_run_settings(meta)
    if told:
        lines += [
            "  meta",
            *("    " + line for line in yaml.safe_dump(told, sort_keys=False).splitlines()),
        ]
    return "\n".join(lines)


def _without_run_settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_run_settings(value) if isinstance(value, Mapping) else value
        for name, value in meta.items()
        if name != RUN_SETTINGS
    }


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(str(layer) for layer in layers)
