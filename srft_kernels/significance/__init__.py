"""Significance says how much each parameter element matters.

It is a map that is estimated, saved, renamed and reported.
"""

from __future__ import annotations

from srft_kernels.significance.estimate import (
    Curvature,
    estimate_prior,
    fisher_diagonal,
    hessian_diagonal,
    hutchinson_diagonal,
)
from srft_kernels.significance.map import SignificanceMap
from srft_kernels.significance.path_integral import PathIntegral

__all__ = [
    "Curvature",
    "PathIntegral",
    "SignificanceMap",
    "estimate_prior",
    "fisher_diagonal",
    "hessian_diagonal",
    "hutchinson_diagonal",
]
