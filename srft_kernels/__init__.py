"""Significance-regularized fine-tuning (arXiv 2508.17488) as fused kernels behind a torch optimizer wrapper.

>>> optimizer = SRFT(torch.optim.AdamW(model.named_parameters(), lr=1e-4), prior=prior, kappa=CosineKappa(20_000))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .functional import significance_penalty
from .optimizer import SRFT
from .schedule import ConstantKappa, CosineKappa, ExponentialKappa, LinearKappa
from .significance import SignificanceMap, estimate_prior, fisher_diagonal

try:
    __version__ = version("srft-kernels")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "SRFT",
    "ConstantKappa",
    "CosineKappa",
    "ExponentialKappa",
    "LinearKappa",
    "SignificanceMap",
    "__version__",
    "estimate_prior",
    "fisher_diagonal",
    "significance_penalty",
]
