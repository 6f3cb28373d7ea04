"""What examples/digits.py claims, over five seeds and paired."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest

from tests.paths import REPOSITORY

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'srft-kernels[evidence]'")
stats = pytest.importorskip("scipy.stats")

SEEDS = range(5)


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_example", REPOSITORY / "examples" / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs() -> dict[str, np.ndarray]:
    """Accuracy by the way of training: (seeds, new and old)."""
    found = [example().compare(seed) for seed in SEEDS]
    return {name: np.array([run[name] for run in found]) for name in found[0]}


def test_srft_is_ahead_of_adamw_at_its_own_best_rate(runs: dict[str, np.ndarray]) -> None:
    ours, theirs = runs["SRFT(AdamW), lr 1e-2"].mean(1), runs["AdamW, lr 1.5e-3"].mean(1)
    assert (ours > theirs).all()
    assert stats.ttest_rel(ours, theirs).pvalue < 0.01


def test_what_adamw_forgets_srft_keeps(runs: dict[str, np.ndarray]) -> None:
    old = {name: seeds[:, 1].mean() for name, seeds in runs.items()}
    assert old["untouched"] > 94
    assert old["AdamW, lr 1e-2"] < 40
    assert old["AdamW, lr 1.5e-3"] < 60
    assert old["SRFT(AdamW), lr 1e-2"] > 80


def test_srft_learns_most_of_the_new_kind(runs: dict[str, np.ndarray]) -> None:
    new = {name: seeds[:, 0].mean() for name, seeds in runs.items()}
    assert new["untouched"] < 20
    assert new["SRFT(AdamW), lr 1e-2"] > 0.75 * new["AdamW, lr 1e-2"]
