"""What both trackers are built from: a ViT stream, and the positions of template and search tokens."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tracker.errors import RGBXError
from tracker.models.center_head import CenterHead, decode_boxes
from tracker.models.config import NetworkConfig, check_keep_ratio
from tracker.models.elimination import EliminationBlock, kept_tokens


class TrackerOutput(NamedTuple):
    """What a tracker answers for a batch; S is the number of cells along a side of the search region."""

    score_map: Tensor
    """``(B, 1, S, S)`` in (0, 1)."""
    size_map: Tensor
    """``(B, 2, S, S)`` width and height relative to the search crop."""
    offset_map: Tensor
    """``(B, 2, S, S)`` x and y within the cell, in cells."""
    boxes: Tensor
    """``(B, 1, 4)`` cx, cy, w, h relative to the search crop, of the best cell."""
    features: Tensor
    """``(B, template tokens + search tokens, D)``: what the backbone hands over, after the last norm."""


layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)


def vit_block(config: NetworkConfig, layer: int, kind: type[Block] = Block) -> Block:
    """One pre-norm ViT block of timm, with the drop-path rate of its layer."""
    return kind(
        dim=config.embed_dim,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        drop_path=config.drop_path_rate(layer),
        norm_layer=layer_norm,
    )


class Stream(nn.Module):
    """The ViT of one modality: patch embedding, blocks and final norm; the trackers run its parts."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(None, config.patch, 3, config.embed_dim)
        self.blocks = nn.ModuleList(
            vit_block(config, layer, EliminationBlock if layer in config.elimination_layers else Block)
            for layer in range(config.depth)
        )
        self.norm = layer_norm(config.embed_dim)


def _grid_positions(cells: int, dim: int) -> Tensor:
    """2-D sine-cosine embedding ``(1, cells * cells, dim)``; channels beyond a multiple of 4 stay 0."""
    grid = torch.zeros(cells * cells, dim)
    if dim >= 4:
        grid[:, : dim // 4 * 4] = build_sincos2d_pos_embed([cells, cells], dim=dim // 4 * 4)
    return grid[None]


class Positions(nn.Module):
    """Learned position embeddings, shared by both modalities, and DropMAE's temporal ones where asked for.

    They start as sine-cosine grids (a network trained from nothing learns to localize sooner so), the
    template's with one random vector added, or the first template token could not be told from the first
    search token.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.template = nn.Parameter(torch.empty(1, config.template_cells**2, dim))
        self.search = nn.Parameter(torch.empty(1, config.search_cells**2, dim))
        with torch.no_grad():
            self.template.copy_(_grid_positions(config.template_cells, dim) + 0.5 * torch.randn(1, 1, dim))
            self.search.copy_(_grid_positions(config.search_cells, dim))
        if config.temporal:
            self.template_temporal = nn.Parameter(torch.zeros(1, 1, dim))
            self.search_temporal = nn.Parameter(torch.zeros(1, 1, dim))
        self.temporal = config.temporal

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        """``(B, Nz, D)`` and ``(B, Nx, D)`` patches to ``(B, Nz + Nx, D)`` tokens, template first."""
        template = template + self.template
        search = search + self.search
        if self.temporal:
            template = template + self.template_temporal
            search = search + self.search_temporal
        return torch.cat([template, search], dim=1)


class Tracker(nn.Module):
    """What the two trackers have in common: configuration, positions, head, and checks of what comes in."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = Positions(config)
        self.head = CenterHead(config.embed_dim, config.head_channels)
        self.set_keep_ratio(config.keep_ratio)

    def set_keep_ratio(self, ratio: float) -> None:
        """Keep ``ratio`` of the search tokens at each elimination layer from now on, in training and evaluation.

        For the warm-up of training (:func:`tracker.models.elimination.keep_ratio_at`); the configuration stays as
        it is. A compiled network is compiled again for each number of tokens. No effect without such layers.

        Raises RGBXError unless it is in (0, 1].
        """
        check_keep_ratio(ratio)
        # Whole numbers, so that torch.compile sees constants.
        self.kept_tokens = kept_tokens(self.config.search_cells**2, ratio, len(self.config.elimination_layers))

    def layer(self, stream: Stream, index: int, tokens: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Layer ``index`` of a stream; ``kept`` are the grid's cells that are left, None while all of them are."""
        block = stream.blocks[index]
        if index not in self.config.elimination_layers:
            return block(tokens), kept
        count = self.kept_tokens[self.config.elimination_layers.index(index)]
        tokens, kept = block(tokens, kept, self.config.template_cells, count)
        return tokens, kept

    def initialize_blocks(self) -> None:
        """ViT initialization: truncated normal of 0.02 in every linear layer, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tokens(self, stream: Stream, template: Tensor, search: Tensor) -> Tensor:
        """Three-channel crops to ``(B, Nz + Nx, D)`` tokens with positions."""
        tokens: Tensor = self.positions(stream.patch_embed(template), stream.patch_embed(search))
        return tokens

    def check_inputs(self, template: Tensor, search: Tensor, channels: tuple[int, ...]) -> None:
        """Raises RGBXError unless both are ``(B, channels, size, size)`` of the configured sizes."""
        sizes = (
            ("template", template, self.config.template_size),
            ("search", search, self.config.search_size),
        )
        for name, images, size in sizes:
            shape = tuple(images.shape)
            if len(shape) != 4 or shape[1] not in channels or shape[2:] != (size, size):
                allowed = " or ".join(str(count) for count in channels)
                raise RGBXError(
                    f"the {name} has shape {shape}, but this network takes (batch, {allowed}, {size}, {size})"
                )
        if template.shape[0] != search.shape[0]:
            raise RGBXError(
                f"{template.shape[0]} templates came with {search.shape[0]} search regions; give one for each"
            )

    def answer(self, features: Tensor) -> TrackerOutput:
        """Head and decoding over the last S * S tokens of ``(B, Nz + Nx, D)`` features."""
        cells = self.config.search_cells
        search = features[:, -cells * cells :]
        maps = self.head(search.transpose(1, 2).reshape(len(features), -1, cells, cells).contiguous())
        boxes = decode_boxes(maps.score, maps.size, maps.offset)
        return TrackerOutput(maps.score, maps.size, maps.offset, boxes[:, None], features)
