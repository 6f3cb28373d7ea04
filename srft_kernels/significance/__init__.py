"""Significance: how much each parameter element matters, as a map that is estimated, saved, renamed and
reported."""

from __future__ import annotations

from srft_kernels.significance.estimate import estimate_prior, fisher_diagonal
from srft_kernels.significance.map import SignificanceMap

__all__ = ["SignificanceMap", "estimate_prior", "fisher_diagonal"]
