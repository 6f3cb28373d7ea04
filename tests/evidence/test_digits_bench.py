"""The bench of digits: what its parts are, that a trial repeats, and that every kind of trial runs."""

from __future__ import annotations

import pytest
import torch

from evidence.trials import trial

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'srft-kernels[evidence]'")

from evidence import digits, methods

TINY = {"shots": 2, "steps": 4, "batch": 8, "width": 16}


@pytest.fixture(autouse=True)
def short_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "PRETRAINING_STEPS", 20)
    digits._pretrained.cache_clear()
    digits._PRIORS.clear()


def test_parts_are_disjoint_and_the_same_for_every_kind() -> None:
    upright, inverted = digits.task_of("upright", 3), digits.task_of("inverted", 3)
    images = torch.cat([part.images for part in upright[:4]])
    assert [len(part.labels) for part in upright[:4]] == [597, 500, 300, 400]
    assert len(images.unique(dim=0)) == len(images)
    assert torch.allclose(upright.test.images, 1 - inverted.test.images)
    assert torch.equal(upright.test.labels, inverted.test.labels)


def test_few_are_few_of_each_class() -> None:
    found = digits.few(digits.task_of("turned", 0).pool, 5, 0)
    assert found.labels.bincount().tolist() == [5] * 10


def test_every_image_is_drawn_once_an_epoch() -> None:
    pool = digits.few(digits.task_of("turned", 0).pool, 2, 0)
    drawn = torch.cat([batch.images for batch in digits.batches(pool, 5, 4, 0)])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, pool.images.tolist()))


@pytest.mark.parametrize("task", ["rotated", "halves", "row"])
@pytest.mark.parametrize("method", ["adamw", "srft", "ewc", "metric", "lora", "lalora", "lora_srft"])
def test_a_trial_repeats(task: str, method: str) -> None:
    low = method in methods.LOW_RANK
    if low and task == "row":
        pytest.skip("updates of low rank are run on one task at a time")
    rank = {"rank": 2} if low else {}
    one = trial("digits", task, method, 0, lr=1e-2, strength=1.0, **TINY, **rank)
    first, second = digits.run(one), digits.run(one)
    assert first.readouts == second.readouts
    assert all(len(measures) == 4 for measures in first.readouts.values())
    assert all(0.0 <= value <= 100.0 for measures in first.readouts.values() for value in measures)


def test_mixing_in_nothing_new_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "MIXTURES", (0.0,))
    found = digits.run(trial("digits", "rotated", "adamw", 0, lr=1e-2, **TINY))
    assert found.readouts["mix0"] == found.before


def test_a_probe_moves_the_last_layer_alone() -> None:
    model, _, new = digits.pretrained(0, 16, "rotated")
    groups = digits.groups_of(model, 1e-2, True, new.head)
    assert [name for group in groups for name, _ in group["params"]] == ["heads.old.weight", "heads.old.bias"]
