"""The bench of tasks in a row: what it draws, what it adds up, and that each head stays as its task left it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evidence import methods, vision, vision_row
from evidence.trials import trial
from evidence.vision import Images
from tests.evidence.test_vision import images, network

OPTIONS = {"model": "none", "size": 32, "shots": 2, "steps": 4, "batch": 8, "blocks": 1, "lr": 1e-3}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vision, "loaded", lambda name, size: network().eval())
    for name in ("VALIDATION", "TEST", "OLD", "OLD_VALIDATION", "OLD_TEST", "PRIOR_IMAGES"):
        monkeypatch.setattr(vision, name, 20)
    sets = {name: (images(200, 8, seed), images(60, 8, seed + 9)) for seed, name in enumerate(vision_row.ROW)}
    monkeypatch.setattr(vision_row, "sources", sets.__getitem__)
    monkeypatch.setattr(vision, "TASKS", {"fashion": (lambda: sets["fashion"], lambda: sets["negative"])})
    monkeypatch.setattr(vision_row, "_OLD", {})
    monkeypatch.setattr(vision, "_cifar", lambda: sets["negative"])
    caches = (vision.ready, vision._shared_tokens, vision_row.task_of, vision_row.few_of)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("adamw", {}),
        ("adamw", {"tuning": "lora"}),
        ("srft", {"strength": 10.0, "normalize": "none", "sum": "means"}),
        ("ewc", {"strength": 1.0}),
        ("l2sp", {"strength": 1.0, "estimator": "uniform"}),
    ],
)
def test_a_trial_repeats(small: None, method: str, extra: dict[str, str | float]) -> None:
    one = trial("vision_row", "row", method, 0, **OPTIONS, **extra)
    first, second = vision_row.run(one), vision_row.run(one)
    assert first.readouts == second.readouts
    assert first.facts["travel"] > 0.0
    assert set(first.readouts) == {"final"}


def test_a_probe_keeps_every_task_as_it_was_learned(small: None) -> None:
    """The features stay, and so do the heads: nothing is lost between a task's end and the last one's."""
    found = vision_row.run(trial("vision_row", "row", "probe", 0, **OPTIONS))
    assert found.facts["travel"] == 0.0
    assert found.facts["cifar10 at the end"] == pytest.approx(found.before[3], abs=0.01)
    learned = [found.facts[f"{name} when learned"] for name in vision_row.ROW]
    assert found.readouts["final"][1] == pytest.approx(np.mean(learned), abs=0.05)
    assert [found.facts[f"{name} at the end"] for name in vision_row.ROW] == pytest.approx(learned, abs=0.05)
    kept = [found.facts[f"{name} at the end"] for name in ("cifar10", *vision_row.ROW[:-1])]
    assert found.readouts["final"][3] == pytest.approx(np.mean(kept), abs=0.05)


def test_all_the_way_back_after_a_task_is_the_untouched_body(small: None) -> None:
    found = vision_row.run(trial("vision_row", "row", "adamw", 0, **OPTIONS, mix=1e-12))
    assert found.facts["travel"] < 1e-6
    assert found.facts["cifar10 at the end"] == pytest.approx(found.before[3], abs=0.01)


def test_significance_is_added_up_raw_or_over_the_mean_of_each_task() -> None:
    maps = [{"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0])}, {"a": torch.tensor([40.0, 0.0])}]
    raw, means = (trial("vision_row", "row", "srft", 0, **options) for options in ({}, {"sum": "means"}))
    twice = methods.added(methods.added({}, maps[0], raw), maps[0], raw)
    assert {name: t.tolist() for name, t in twice.items()} == {"a": [2.0, 6.0], "b": [4.0]}
    assert methods.added({"a": torch.tensor([1.0, 1.0])}, maps[1], means)["a"].tolist() == [3.0, 1.0]


def test_negative_gray() -> None:
    pixels = torch.tensor([[[[0, 0, 0], [255, 255, 255], [255, 0, 0]]]], dtype=torch.uint8)
    made = vision_row.negative(Images(pixels, torch.zeros(1))).inputs
    assert made.tolist() == [[[[255] * 3, [0] * 3, [round(255 - 0.299 * 255)] * 3]]]


def test_digits_keep_to_their_part() -> None:
    train, test = vision_row.handwritten()
    assert len(train.labels) == vision_row.POOL
    assert len(test.labels) >= vision.VALIDATION + vision.TEST
    assert train.inputs.shape[1:] == (8, 8, 3)
    assert int(train.inputs.max()) == 255
    assert train.labels.bincount(minlength=10).min() > 50, "the draw mixes the classes"
