"""Significance-regularized fine-tuning (arXiv 2508.17488) as fused kernels in a wrapper around a torch optimizer.

>>> optimizer = SRFT(torch.optim.AdamW(model.named_parameters(), lr=1e-4), prior=prior, kappa=CosineKappa(20_000))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from srft_kernels.curvature import Hutchinson
from srft_kernels.functional import significance_penalty
from srft_kernels.optimizer import SRFT
from srft_kernels.schedule import ConstantKappa, CosineKappa, ExponentialKappa, LinearKappa, SigmoidKappa
from srft_kernels.significance import (
    PathIntegral,
    SignificanceMap,
    estimate_prior,
    fisher_diagonal,
    hessian_diagonal,
    hutchinson_diagonal,
)

try:
    __version__ = version("srft-kernels")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "SRFT",
    "ConstantKappa",
    "CosineKappa",
    "ExponentialKappa",
    "Hutchinson",
    "LinearKappa",
    "PathIntegral",
    "SigmoidKappa",
    "SignificanceMap",
    "__version__",
    "estimate_prior",
    "fisher_diagonal",
    "hessian_diagonal",
    "hutchinson_diagonal",
    "significance_penalty",
]
