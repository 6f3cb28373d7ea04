"""What a single-stream student learns from a two-stream teacher besides tracking: features and fusion.

After the abstracts of CMD (Zhang et al., CVPR 2023) and CMDTrack (Zhang et al., TPAMI 2025); there is no public code,
so that layers, projections and weights are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TeacherTaps(NamedTuple):
    """What a two-stream teacher knows at its K meetings of the streams; each ``(B, K, N, D)`` of unit vectors."""

    common: Tensor
    """Directions of ``(f_rgb + f_x) / 2``, before the streams meet."""
    specific: Tensor
    """Directions of ``f_rgb - f_x``, before the streams meet."""
    fused: Tensor
    """Directions of the streams' mean after they have met."""


class Tap(NamedTuple):
    """Tokens ``(B, N, d)`` somewhere in the student, and which cells of the search grid they are (None: all)."""

    tokens: Tensor
    kept: Tensor | None


def kept_rows(values: Tensor, kept: Tensor | None, template_tokens: int) -> Tensor:
    """Return the rows of the template and of the cells ``kept (B, n)`` from ``(B, template tokens + search cells, D)``.

    A student that eliminates candidates is compared where it still has tokens.
    """
    if kept is None:
        return values
    search = values[:, template_tokens:].gather(1, kept[..., None].expand(-1, -1, values.shape[-1]))
    return torch.cat([values[:, :template_tokens], search], dim=1)


def unit(features: Tensor) -> Tensor:
    """Return vectors of length one along the last axis, in float32 at least. A vector of zeros stays one."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def separated(rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions of what two streams ``(..., D)`` have in common and of what only one of them has."""
    return unit((rgb + x) / 2), unit(rgb - x)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of the student's directions to the teacher's vectors, averaged over tokens: ``(B,)``.

    ``student`` is ``(B, N, D)`` of any length, ``teacher`` is ``(B, N, D)`` as it is. For unit vectors this is 2 - 2
    cos.
    """
    return (unit(student) - teacher).square().sum(dim=-1).mean(dim=1)


class Distiller(nn.Module):
    """Projections from the student's width to the teacher's, and the choice among the teacher's paths.

    *Specific-common feature distillation*: at each of K layers two 1x1 projections of the student's tokens imitate what
    the teacher's two streams have in common there and what is specific to one of them. So one stream of the student
    holds both.

    *Multi-path selection distillation*: one projection of the student's last features imitates a mixture of the
    teacher's K fused features, weighted by a softmax of K learned numbers, which start equal.

    Only training needs it; the student runs without it.

    Args:
        student_dim: width of the student.
        teacher_dim: width of the teacher.
        taps: K.
    """

    def __init__(self, student_dim: int, teacher_dim: int, taps: int) -> None:
        super().__init__()
        self.common = nn.ModuleList(nn.Linear(student_dim, teacher_dim) for _ in range(taps))
        self.specific = nn.ModuleList(nn.Linear(student_dim, teacher_dim) for _ in range(taps))
        self.fused = nn.Linear(student_dim, teacher_dim)
        self.paths = nn.Parameter(torch.zeros(taps))

    def forward(
        self, layers: Sequence[Tap], features: Tap, teacher: TeacherTaps, template_tokens: int
    ) -> dict[str, Tensor]:
        """Return the losses ``common``, ``specific`` and ``fusion``, each ``(B,)`` and between 0 and 4.

        Args:
            layers: the student at the K layers.
            features: the student after its last norm.
            teacher: taps of the same crops, without masks.
            template_tokens: how many of the tokens are the template's.
        """
        sums: dict[str, list[Tensor]] = {"common": [], "specific": []}
        for k, (tokens, kept) in enumerate(layers):
            for name, projections, taps in (
                ("common", self.common, teacher.common),
                ("specific", self.specific, teacher.specific),
            ):
                projected = projections[k](tokens.to(taps.dtype))  # bf16 where autocast made them
                sums[name].append(distance(projected, kept_rows(taps[:, k], kept, template_tokens)))
        mixture = torch.einsum("k,bknd->bnd", self.paths.softmax(dim=0), teacher.fused)
        fused = self.fused(features.tokens.to(mixture.dtype))
        return {
            **{name: torch.stack(parts).mean(dim=0) for name, parts in sums.items()},
            "fusion": distance(fused, kept_rows(mixture, features.kept, template_tokens)),
        }
