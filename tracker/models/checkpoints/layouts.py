"""The published checkpoint layouts, OSTrack's and SRTrack's, and ours: names to names, both ways.

Ours is the plain one (``rgb.blocks.0.attn.qkv.weight``, ``head.score.0.conv.weight``), and every published
name follows from it, so each layout is one function from our name to theirs; the way back is the same table
reversed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from tracker.errors import RGBXError, shortened
from tracker.models.config import NetworkConfig, evenly_spaced_layers
from tracker.models.tracker import build_network

State = dict[str, Tensor]

# Written by the published code and read by nobody: neither tracker runs a class token, and the positions that
# count are pos_embed_z and pos_embed_x.
UNUSED = ("backbone.cls_token", "backbone.dist_token", "backbone.pos_embed")

_HEAD_BRANCHES = {"score": "ctr", "size": "size", "offset": "offset"}
_POSITIONS = {
    "template": "pos_embed_z",
    "search": "pos_embed_x",
    "template_temporal": "temporal_pos_embed_z",
    "search_temporal": "temporal_pos_embed_x",
}


def _shared_name(name: str) -> str:
    """Our name of a head or position tensor to the name that OSTrack and SRTrack share."""
    module, _, rest = name.partition(".")
    if module == "positions":
        return f"backbone.{_POSITIONS[rest]}"
    branch, index, tensor = rest.split(".", 2)
    tensor = tensor.replace("conv.", "0.").replace("norm.", "1.")
    return f"box_head.conv{int(index) + 1}_{_HEAD_BRANCHES[branch]}.{tensor}"


def ostrack_name(name: str) -> str:
    """Our name of a single-stream tensor to OSTrack's: ``rgb.norm.weight`` to ``backbone.norm.weight``."""
    if name.startswith("rgb."):
        return "backbone." + name.removeprefix("rgb.")
    return _shared_name(name)


def srtrack_name(name: str) -> str:
    """Our name of a two-stream tensor to SRTrack's: ``x.norm.weight`` to ``backbone.norm_event.weight``."""
    module, _, rest = name.partition(".")
    if module == "cross":
        return f"backbone.blocks_cross.{rest}"
    if module in ("rgb", "x"):
        part, _, tensor = rest.partition(".")
        return f"backbone.{part}_{'rgb' if module == 'rgb' else 'event'}.{tensor}"
    return _shared_name(name)


def is_ostrack(names: Iterable[str]) -> bool:
    """Return whether these tensor names are OSTrack's (or DropTrack's, which has the same layout)."""
    return {"backbone.patch_embed.proj.weight", "box_head.conv1_ctr.0.weight"} <= set(names)


def is_srtrack(names: Iterable[str]) -> bool:
    """Return whether these tensor names are SRTrack's."""
    return {"backbone.patch_embed_rgb.proj.weight", "box_head.conv1_ctr.0.weight"} <= set(names)


def is_vit(names: Iterable[str]) -> bool:
    """Return whether these tensor names are those of a plain ViT with learned positions: timm's, DeiT's, MAE's."""
    return {"patch_embed.proj.weight", "pos_embed", "norm.weight", "blocks.0.attn.qkv.weight"} <= set(names)


def _some(names: Iterable[str]) -> str:
    return shortened(sorted(names), 4)


def expected_shapes(config: NetworkConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a network's state; nothing is allocated."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_network(config).state_dict().items()}


def check_state(state: Mapping[str, Tensor], config: NetworkConfig, source: str) -> None:
    """Raises RGBXError with the names that are missing, foreign or of another shape, if any."""
    check_names_and_shapes(state, expected_shapes(config), source)


def check_names_and_shapes(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str) -> None:
    """Check any names and shapes as :func:`check_state` does."""
    missing = expected.keys() - state.keys()
    foreign = state.keys() - expected.keys()
    shapes = [
        f"{name} is {tuple(state[name].shape)} and must be {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {_some(missing)}")
    if foreign:
        problems.append(f"it has tensors that the network has not: {_some(foreign)}")
    if shapes:
        problems.append(f"shapes differ: {_some(shapes)}")
    if problems:
        raise RGBXError(f"{source} does not fit the network: {'; '.join(problems)}")


def _from_published(
    state: Mapping[str, Tensor], config: NetworkConfig, rename: Callable[[str], str], source: str
) -> State:
    theirs = {name: tensor for name, tensor in state.items() if name not in UNUSED}
    ours = {rename(name): (name, shape) for name, shape in expected_shapes(config).items()}
    check_names_and_shapes(theirs, {name: shape for name, (_, shape) in ours.items()}, source)
    return {ours[name][0]: tensor for name, tensor in theirs.items()}


def from_ostrack(state: Mapping[str, Tensor], config: NetworkConfig, source: str = "the OSTrack state") -> State:
    """Return an OSTrack state to a single-stream state of ours. Raises RGBXError with the names that differ."""
    return _from_published(state, config.replace(kind="single_stream"), ostrack_name, source)


def from_srtrack(state: Mapping[str, Tensor], config: NetworkConfig, source: str = "the SRTrack state") -> State:
    """Return an SRTrack state to a two-stream state of ours. Raises RGBXError with the names that differ."""
    return _from_published(state, config.replace(kind="two_stream"), srtrack_name, source)


def _to_published(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> State:
    theirs = {rename(name): tensor for name, tensor in state.items()}
    # Their networks own a class token that they never run; without it their strict loading refuses the file.
    theirs["backbone.cls_token"] = torch.zeros(1, 1, theirs["backbone.pos_embed_z"].shape[-1])
    return theirs


def to_ostrack(state: Mapping[str, Tensor]) -> State:
    """Return a single-stream state to OSTrack's layout, with the zero class token that its own code asks for."""
    return _to_published(state, ostrack_name)


def to_srtrack(state: Mapping[str, Tensor]) -> State:
    """Return a two-stream state to SRTrack's layout, with the zero class token that its own code asks for."""
    return _to_published(state, srtrack_name)


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int, source: str) -> torch.Size:
    if name not in state:
        raise RGBXError(f"{source} looks like a published tracker but lacks {name}; get the file anew")
    shape = state[name].shape
    if len(shape) != dimensions or 0 in shape:
        raise RGBXError(f"{source} is damaged: {name} is {tuple(shape)} and must have {dimensions} dimensions")
    return shape


def published_config(state: Mapping[str, Tensor], source: str, num_heads: int | None = None) -> NetworkConfig:
    """Return the architecture of an OSTrack or SRTrack state, read off its shapes.

    The number of attention heads leaves no trace in the shapes: ``num_heads``, or one head for 64 channels,
    as every published ViT has it. Neither do the layers of the cross blocks: they are taken as evenly spaced.

    Raises RGBXError where the state is of neither layout, or the heads cannot be known.
    """
    if is_srtrack(state):
        kind, stream = "two_stream", "_rgb"
    elif is_ostrack(state):
        kind, stream = "single_stream", ""
    elif is_vit(state):
        raise RGBXError(
            f"{source} is a ViT without a tracker's head; `rgbx weights convert --preset` makes the start of one of it"
        )
    else:
        raise RGBXError(f"{source} has no layout known here (ours, OSTrack's, SRTrack's): it holds {_some(state)}")
    embed_dim, _, patch, _ = _shape(state, f"backbone.patch_embed{stream}.proj.weight", 4, source)
    if num_heads is None:
        if embed_dim % 64:
            raise RGBXError(
                f"{source} does not tell its number of attention heads, and its width {embed_dim} is no "
                "multiple of 64, from which it could be guessed; give num_heads"
            )
        num_heads = embed_dim // 64
    blocks = f"backbone.blocks{stream}."
    depth = len({name.removeprefix(blocks).split(".")[0] for name in state if name.startswith(blocks)})
    crossings = "backbone.blocks_cross."
    count = len({name.removeprefix(crossings).split(".")[0] for name in state if name.startswith(crossings)})
    sides = {}
    for name in ("z", "x"):
        tokens = _shape(state, f"backbone.pos_embed_{name}", 3, source)[1]
        sides[name] = math.isqrt(tokens) * patch
    return NetworkConfig(
        kind=kind,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        patch=patch,
        template_size=sides["z"],
        search_size=sides["x"],
        head_channels=_shape(state, "box_head.conv1_ctr.0.weight", 4, source)[0],
        cross_layers=evenly_spaced_layers(depth, count) if count else None,
        temporal="backbone.temporal_pos_embed_z" in state,
        mlp_ratio=_shape(state, f"{blocks}0.mlp.fc1.weight", 2, source)[0] / embed_dim,
    )
