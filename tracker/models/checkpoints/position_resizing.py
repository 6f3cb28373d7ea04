"""Fits position embeddings of one grid to another, so that a tracker trained at one crop size runs at a second one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from tracker.errors import RGBXError
from tracker.models.config import NetworkConfig

log = logging.getLogger(__name__)

GRIDS = ("template", "search")


def cells_along(positions: Tensor, name: str) -> int:
    """Cells along the side of the square grid that ``positions (1, cells * cells, D)`` belong to.

    Raises RGBXError where it is no such grid.
    """
    cells = math.isqrt(positions.shape[1]) if positions.dim() == 3 else 0
    if cells == 0 or positions.shape[0] != 1 or cells * cells != positions.shape[1]:
        raise RGBXError(
            f"{name} has shape {tuple(positions.shape)} and is no square grid of positions, which would be "
            "(1, cells * cells, width); get the file anew"
        )
    return cells


def resize_positions(positions: Tensor, cells: int, interpolation: str = "bicubic") -> Tensor:
    """Resize ``(1, N, D)`` on a square grid to ``(1, cells * cells, D)``.

    The tensor itself is returned if it fits already.

    It interpolates in fp32 with anti-aliasing, as DeiT and timm do. ``"bicubic"`` may overshoot. ``"bilinear"`` stays
    within the range of its input, so that what must not be negative does not become negative.

    Raises:
        RGBXError: the positions are no square grid.
    """
    cells_along(positions, "a position embedding")
    resized: Tensor = resample_abs_pos_embed(
        positions, [cells, cells], num_prefix_tokens=0, interpolation=interpolation
    )
    return resized


def fit_positions(
    tensors: Mapping[str, Tensor], config: NetworkConfig, source: str, interpolation: str = "bicubic"
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Resize ``positions.template`` and ``positions.search`` among ``tensors`` (our names) to the sizes of ``config``.

    A tensor that has its size already is passed on as it is, to the bit. A resized grid is announced in the log, and in
    the second result: ``{"search": [16, 24]}``, cells along a side before and after. ``source`` names the tensors in
    messages.

    Raises:
        RGBXError: positions are no square grid.
    """
    fitted = dict(tensors)
    resized: dict[str, list[int]] = {}
    for grid, cells in zip(GRIDS, (config.template_cells, config.search_cells), strict=True):
        name = f"positions.{grid}"
        if name not in tensors:
            continue
        before = cells_along(tensors[name], f"{name} of {source}")
        if before != cells:
            fitted[name] = resize_positions(tensors[name], cells, interpolation)
            resized[grid] = [before, cells]
            log.warning(
                "%s of %s resized from %d x %d to %d x %d cells (%s)",
                name, source, before, before, cells, cells, interpolation,
            )  # fmt: skip
    return fitted, resized
