"""Candidate elimination: search tokens to which the target attends least are dropped on the way (OSTrack, section 3.3).

In a few layers, between attention and MLP, the search tokens are ranked by the attention that the template's central
token pays to them, averaged over the heads, and only the first of them go on. At the end a dropped token comes back as
zeros in its place. Attention, positions and blocks work with any number of tokens, so the weights are the same with and
without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def keep_ratio_at(epoch: int, final: float, start: int = 4, length: int = 16) -> float:
    """Return the ratio of OSTrack's warm-up, which counts epochs from 1.

    It is 1 before epoch ``start``, ``final`` from ``start + length`` on, and half a cosine between. A tracker that is
    fine-tuned from one trained without elimination needs the warm-up: if tokens that the head relies on were dropped at
    once, they would be zero.
    """
    if epoch < start:
        return 1.0
    if epoch >= start + length:
        return final
    return final + (1.0 - final) * (1.0 + math.cos((epoch - start) / length * math.pi)) / 2.0


def kept_tokens(tokens: int, ratio: float, times: int) -> tuple[int, ...]:
    """Return how many of ``tokens`` are left after each of ``times`` eliminations: ceil(ratio * what was there)."""
    counts = []
    for _ in range(times):
        tokens = math.ceil(ratio * tokens)
        counts.append(tokens)
    return tuple(counts)


def central_token(cells: int) -> int:
    """Index of a template's central token, of ``cells`` x ``cells`` in reading order.

    With an even side it is the upper left of the four around the center (OSTrack's CTR_POINT: row and column
    3 of 8, 5 of 12).
    """
    middle = (cells - 1) // 2
    return middle * cells + middle


def central_attention(queries: Tensor, keys: Tensor, center: int, template_tokens: int) -> Tensor:
    """Return how much token ``center`` attends to each search token, averaged over heads: ``(B, n)`` float32.

    ``queries`` and ``keys`` are ``(B, heads, template_tokens + n, d)``, template first. One row of the attention
    is computed here again, so that the whole of it need not be stored and fused kernels can stay in use.
    """
    row: Tensor = queries[:, :, center : center + 1] @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    attention = row.softmax(dim=-1, dtype=torch.promote_types(row.dtype, torch.float32))
    return attention[:, :, 0, template_tokens:].mean(dim=1)


def keep_most_attended(
    tokens: Tensor, kept: Tensor | None, attention: Tensor, template_tokens: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return all template tokens and the ``count`` search tokens with the most attention, in their former order.

    ``tokens`` is ``(B, template_tokens + n, D)``. ``kept (B, n)`` int64 says which cell of the search grid each search
    token is; None means that nothing is missing yet. ``attention`` is ``(B, n)``. The results are the tokens and
    ``kept`` of what is left.
    """
    best = attention.topk(count, dim=1).indices.sort(dim=1).values
    search = tokens[:, template_tokens:].gather(1, best[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([tokens[:, :template_tokens], search], dim=1), best if kept is None else kept.gather(1, best)


def to_grid(features: Tensor, kept: Tensor | None, template_tokens: int, cells: int) -> Tensor:
    """Return ``(B, template_tokens + n, D)`` features as all ``template_tokens + cells**2``.

    What was dropped is zero.
    """
    if kept is None:
        return features
    batch, _, dim = features.shape
    grid = features.new_zeros(batch, cells * cells, dim)
    grid = grid.scatter(1, kept[..., None].expand(-1, -1, dim), features[:, template_tokens:])
    return torch.cat([features[:, :template_tokens], grid], dim=1)


def mean_of_streams(
    features: Sequence[Tensor], kept: Sequence[Tensor | None], template_tokens: int, cells: int
) -> Tensor:
    """Return the streams' mean ``(B, template_tokens + cells**2, D)``, for each cell over those streams that kept it.

    Streams eliminate on their own, because a cell that is empty in one image may be the only sign of the target in the
    other. A cell that one of them dropped takes the other's features unreduced. Otherwise the head, which knows
    features of one size, would get them at half of it. A cell that both dropped is zero.
    """
    whole = [to_grid(each, index, template_tokens, cells) for each, index in zip(features, kept, strict=True)]
    total = whole[0]
    for each in whole[1:]:
        total = total + each
    if all(index is None for index in kept):
        return total / len(whole)
    counts = [
        to_grid(torch.ones_like(each[..., :1]), index, template_tokens, cells)
        for each, index in zip(features, kept, strict=True)
    ]
    return total / torch.stack(counts).sum(dim=0).clamp_min(1)
