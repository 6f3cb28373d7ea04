"""The estimators of significance by name. Each has a file of its own."""

from __future__ import annotations

from srft_kernels.significance.estimators import fisher, fisher_exact, gnb, hutchinson, magnitude, mas, uniform
from srft_kernels.significance.estimators.base import Contribution, Estimator, NonFiniteBatch, Request

ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.name: estimator
    for estimator in (
        fisher.Fisher,
        fisher_exact.FisherExact,
        hutchinson.HutchinsonEstimator,
        gnb.GaussNewtonBartlett,
        mas.MAS,
        magnitude.Magnitude,
        uniform.Uniform,
    )
}

__all__ = ["ESTIMATORS", "Contribution", "Estimator", "NonFiniteBatch", "Request"]
