"""The tracking networks: an RGB tracker of one ViT stream, and an RGB-X tracker of two that meet in cross blocks.

From the bottom up: a block, a stream of blocks, the positions of template and search tokens, what both trackers share,
and the two trackers. The head is in :mod:`tracker.models.center_head`, the dropping of search tokens in
:mod:`tracker.models.elimination`. :mod:`tracker.tuning` wraps these networks; the parts that it calls are the methods
of :class:`Tracker`, and what it puts into a block is a :class:`BlockAdapter`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tracker.errors import RGBXError
from tracker.models.center_head import CenterHead, decode_boxes
from tracker.models.config import NetworkConfig, check_keep_ratio
from tracker.models.elimination import (
    central_attention,
    central_token,
    keep_most_attended,
    kept_tokens,
    mean_of_streams,
    to_grid,
)

layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)


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


class BlockAdapter(nn.Module):
    """What a tuning method adds inside a ViT block.

    Here it adds nothing; subclasses override one of its methods or both.

    Each method gets the output of the frozen part and the normalized tokens from which it was computed, all ``(B, N,
    D)``, and returns what is added to the residual in its place.
    """

    def attention(self, output: Tensor, normed: Tensor) -> Tensor:
        """Return what replaces ``output``, the projected attention over ``normed``, which is ``norm1(tokens)``."""
        return output

    def mlp(self, output: Tensor, normed: Tensor) -> Tensor:
        """Return what replaces ``output``, the MLP of ``normed``, which is ``norm2(tokens)``."""
        return output


class VitBlock(Block):
    """A pre-norm ViT block with timm's parameters and names, which may drop search tokens and carry an adapter.

    Both halves can be called by themselves: :meth:`attend` and :meth:`feed_forward`.
    """

    def attend(
        self, tokens: Tensor, adapter: BlockAdapter | None = None, crossed: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the first half: ``tokens (B, N, D)`` and attention over them.

        Args:
            tokens: template tokens first.
            adapter: changes the output of attention.
            crossed: the batch is two halves, and the tokens of each attend to those of the other and not to their own.
                This equals attention over both halves' tokens together with a mask on pairs of the same half, at half
                the cost.

        Returns:
            The new tokens, and the queries and keys ``(B, heads, N, D / heads)``.
        """
        batch, length, dim = tokens.shape
        attn: Any = self.attn
        normed = self.norm1(tokens)
        projected: Tensor = attn.qkv(normed).reshape(batch, length, 3, attn.num_heads, -1)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        if crossed:
            # By views and not in chunks, of which an exported graph would not know how many there are.
            keys, values = (part.unflatten(0, (2, -1)).flip(0).flatten(0, 1) for part in (keys, values))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        output = attn.proj(mixed.transpose(1, 2).reshape(batch, length, dim))
        if adapter is not None:
            output = adapter.attention(output, normed)
        return tokens + self.drop_path1(output), queries, keys

    def feed_forward(self, tokens: Tensor, adapter: BlockAdapter | None = None) -> Tensor:
        """Run the second half: ``tokens (B, N, D)`` and the MLP of each. ``adapter`` changes the MLP's output."""
        normed = self.norm2(tokens)
        output = self.mlp(normed)
        if adapter is not None:
            output = adapter.mlp(output, normed)
        changed: Tensor = tokens + self.drop_path2(output)
        return changed

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        kept: Tensor | None = None,
        template_cells: int = 0,
        count: int | None = None,
        adapter: BlockAdapter | None = None,
        copies: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Run both halves, and between them the elimination of search tokens down to ``count``. None drops none.

        Args:
            tokens: ``(B, template_cells**2 + n, D)``.
            kept: ``(B, n)``, the cells of the search grid that are left; None while all of them are.
            template_cells: cells along a side of the template; needed if ``count`` is given.
            count: search tokens that may be left.
            adapter: what a tuning method adds.
            copies: the batch has so many parts that show the same crops; the first decides what all of them keep.

        Returns:
            The tokens and ``kept`` of what is left.
        """
        tokens, queries, keys = self.attend(tokens, adapter)
        template_tokens = template_cells**2
        if count is not None and count < tokens.shape[1] - template_tokens:
            # A rank has no gradient, so the row needs no graph.
            queries, keys = queries.detach(), keys.detach()
            if copies > 1:
                queries, keys = queries.chunk(copies)[0], keys.chunk(copies)[0]
            attention = central_attention(queries, keys, central_token(template_cells), template_tokens)
            if copies > 1:
                attention = attention.repeat(copies, 1)
            tokens, kept = keep_most_attended(tokens, kept, attention, template_tokens, count)
        return self.feed_forward(tokens, adapter), kept


def vit_block(config: NetworkConfig, layer: int) -> VitBlock:
    """Return a block with the drop-path rate of its layer."""
    return VitBlock(
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
        self.blocks = nn.ModuleList(vit_block(config, layer) for layer in range(config.depth))
        self.norm = layer_norm(config.embed_dim)


def _grid_positions(cells: int, dim: int) -> Tensor:
    """Return a 2-D sine-cosine embedding ``(1, cells * cells, dim)``; channels beyond a multiple of 4 stay 0."""
    grid = torch.zeros(cells * cells, dim)
    if dim >= 4:
        grid[:, : dim // 4 * 4] = build_sincos2d_pos_embed([cells, cells], dim=dim // 4 * 4)
    return grid[None]


class Positions(nn.Module):
    """Learned position embeddings, shared by both modalities, and DropMAE's temporal ones if asked for.

    They start as sine-cosine grids, because a network that is trained from nothing then learns to localize sooner. The
    template's grid has one random vector added. Otherwise the first template token could not be told from the first
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
        """Return ``(B, Nz + Nx, D)`` tokens, template first, from ``(B, Nz, D)`` and ``(B, Nx, D)`` patches."""
        template = template + self.template
        search = search + self.search
        if self.temporal:
            template = template + self.template_temporal
            search = search + self.search_temporal
        return torch.cat([template, search], dim=1)


class Tracker(nn.Module):
    """What the two trackers have in common: configuration, positions, head, and checks of what comes in."""

    rgb: Stream

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

    def layer(
        self,
        stream: Stream,
        index: int,
        tokens: Tensor,
        kept: Tensor | None,
        adapter: BlockAdapter | None = None,
        copies: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Layer ``index`` of a stream, with elimination where the configuration has it (:meth:`VitBlock.forward`)."""
        layers = self.config.elimination_layers
        count = self.kept_tokens[layers.index(index)] if index in layers else None
        tokens, kept = stream.blocks[index](tokens, kept, self.config.template_cells, count, adapter, copies)
        return tokens, kept

    def initialize_blocks(self) -> None:
        """Initialize as a ViT is: every linear layer gets a truncated normal of 0.02 and zero biases."""
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


class SingleStreamTracker(Tracker):
    """OSTrack (Ye et al., ECCV 2022) without a class token; elimination where ``config`` asks for it."""

    def __init__(self, config: NetworkConfig) -> None:
        if config.kind != "single_stream":
            raise RGBXError(f"SingleStreamTracker takes a single_stream configuration, not {config.kind}")
        super().__init__(config)
        self.rgb = Stream(config)
        self.initialize_blocks()

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        """Normalized crops ``(B, C, Hz, Hz)`` and ``(B, C, Hs, Hs)``, C 3 or 6; of six the first three count.

        Raises RGBXError for crops of another shape.
        """
        self.check_inputs(template, search, channels=(3, 6))
        tokens = self.tokens(self.rgb, template[:, :3], search[:, :3])
        kept: Tensor | None = None
        for layer in range(self.config.depth):
            tokens, kept = self.layer(self.rgb, layer, tokens, kept)
        features = self.rgb.norm(tokens)
        return self.answer(to_grid(features, kept, self.config.template_cells**2, self.config.search_cells))


class StreamAdapters(nn.Module):
    """An adapter for every block of a two-stream tracker; ``make()`` makes one."""

    def __init__(self, config: NetworkConfig, make: Callable[[], BlockAdapter]) -> None:
        super().__init__()
        self.rgb = nn.ModuleList(make() for _ in range(config.depth))
        self.x = nn.ModuleList(make() for _ in range(config.depth))
        self.cross = nn.ModuleList(make() for _ in config.cross)


class TwoStreamTracker(Tracker):
    """A ViT for RGB and one for X, with weights of their own, shared positions and shared head.

    After each of ``config.cross_layers`` an ordinary ViT block attends over the tokens of both streams
    together. The head sees the mean of the two normed streams.

    Where ``config`` asks for elimination (SRTrack has none), each stream drops its own tokens, by its own template,
    before the cross block of that layer sees them, as SDSTrack does it: fusion gets cheaper too, and attention does
    not need the two sets to be the same.
    """

    def __init__(self, config: NetworkConfig) -> None:
        if config.kind != "two_stream":
            raise RGBXError(f"TwoStreamTracker takes a two_stream configuration, not {config.kind}")
        super().__init__(config)
        self.rgb = Stream(config)
        self.x = Stream(config)
        self.cross = nn.ModuleList(vit_block(config, layer) for layer in config.cross)
        self.initialize_blocks()

    def forward(self, template: Tensor, search: Tensor, adapters: StreamAdapters | None = None) -> TrackerOutput:
        """Normalized crops ``(B, 6, Hz, Hz)`` and ``(B, 6, Hs, Hs)``, RGB first and X last.

        ``adapters`` go into the blocks. Raises RGBXError for crops of another shape.
        """
        self.check_inputs(template, search, channels=(6,))
        in_rgb: Any = adapters.rgb if adapters else [None] * self.config.depth
        in_x: Any = adapters.x if adapters else [None] * self.config.depth
        in_cross: Any = adapters.cross if adapters else [None] * len(self.cross)
        rgb = self.tokens(self.rgb, template[:, :3], search[:, :3])
        x = self.tokens(self.x, template[:, 3:], search[:, 3:])
        rgb_kept: Tensor | None = None
        x_kept: Tensor | None = None
        meetings = zip(self.cross, in_cross, strict=True)
        for layer in range(self.config.depth):
            rgb, rgb_kept = self.layer(self.rgb, layer, rgb, rgb_kept, in_rgb[layer])
            x, x_kept = self.layer(self.x, layer, x, x_kept, in_x[layer])
            if layer in self.config.cross:
                block, adapter = next(meetings)
                both, _ = block(torch.cat([rgb, x], dim=1), adapter=adapter)
                rgb, x = both.chunk(2, dim=1)
        streams, kept = (self.rgb.norm(rgb), self.x.norm(x)), (rgb_kept, x_kept)
        return self.answer(mean_of_streams(streams, kept, self.config.template_cells**2, self.config.search_cells))


def build_network(config: NetworkConfig) -> Tracker:
    """Return the network that ``config`` describes, with fresh weights from torch's global generator."""
    if config.kind == "single_stream":
        return SingleStreamTracker(config)
    return TwoStreamTracker(config)
