"""The bench of modalities in a row for one tracker: who learns what, what is added, what is left of all at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evidence import tracking, tracking_row, tracking_success
from evidence.tracking_success import pretrained
from evidence.trials import Trial, trial
from srft_kernels import SignificanceMap

TINY: dict[str, Any] = {"sequences": 2, "steps": 11, "batch": 1, "tests": 3, "frames": 2, "precision": "fp32"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracking_success, "validation_count", lambda tests: 2)
    monkeypatch.setattr(tracking_row, "validation_count", lambda tests: 2)
    monkeypatch.setattr(tracking, "CACHE", tmp_path)
    whole = tracking.configuration

    def fewer(one: Trial) -> Any:
        config = whole(one)
        return config.model_copy(update={"prior": config.prior.model_copy(update={"samples": 2, "batch_size": 2})})

    monkeypatch.setattr(tracking, "configuration", fewer)


def tiny(method: str = "adamw", **options: Any) -> Trial:
    return trial("tracking_row", "row", method, 0, **{**TINY, "lr": 1e-2, **options})


def test_a_trial_repeats_and_is_judged_on_every_task() -> None:
    one = tiny("srft", strength=1.0, kappa="cosine", normalize="global")
    first, second = tracking_row.run(one), tracking_row.run(one)
    assert first.readouts == second.readouts
    learned = [first.facts[f"{name} when learned"] for name in tracking_row.ROW]
    left = [first.facts[f"{name} at the end"] for name in (tracking_row.OLD, *tracking_row.ROW)]
    assert first.readouts["final"][1] == pytest.approx(sum(learned) / 3, abs=0.01)
    assert first.readouts["final"][3] == pytest.approx(sum(left[:-1]) / 3, abs=0.01), "the last one is not kept yet"
    assert left[-1] == learned[-1]
    untouched = [first.facts[f"{name} before"] for name in tracking_row.ROW]
    assert first.before[1] == pytest.approx(sum(untouched) / 3, abs=0.01)


def test_a_pull_of_infinite_strength_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight has significance here, each task's is added, and what is held is what the optimizer is given."""
    given: list[dict[str, torch.Tensor]] = []
    learn = tracking.learn

    def ones(network: Any, stage: Any = None) -> SignificanceMap:
        return SignificanceMap({name: torch.ones_like(p) for name, p in pretrained()[0].named_parameters()})

    def seen(stage: Trial, network: Any, prior: Any) -> Any:
        given.append(dict(prior))
        return learn(stage, network, prior)

    monkeypatch.setattr(tracking, "rgb_prior", ones)
    monkeypatch.setattr(tracking, "learned_prior", ones)
    monkeypatch.setattr(tracking, "learn", seen)
    found = tracking_row.run(tiny("srft", strength=1e12, normalize="global"))
    assert found.facts["travel"] < 1e-6
    assert found.readouts["final"][3] == found.before[3]
    assert [prior["rgb.norm.weight"].mean().item() for prior in given] == [1.0, 2.0, 3.0]


def test_the_significance_of_a_task_is_that_of_its_own_pairs() -> None:
    network = tracking.at_first("thermal_alone")
    maps = [tracking.learned_prior(network, tracking_row.stage_of(tiny(), number)) for number in (0, 1)]
    assert maps[0].keys() == maps[1].keys() == dict(network.named_parameters()).keys()
    name = "rgb.blocks.0.attn.qkv.weight"
    assert maps[0][name].sum() > 0
    assert not torch.equal(maps[0][name], maps[1][name])


def test_each_task_has_sequences_of_its_own() -> None:
    stages = [tracking_row.stage_of(tiny(), number) for number in range(3)]
    assert [stage.task for stage in stages] == ["thermal_alone", "depth_alone", "event_alone"]
    assert len({stage.seed for stage in stages}) == 3


def test_halfway_back_goes_half_as_far_after_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_row, "ROW", ("thermal",))
    monkeypatch.setattr(tracking_row, "success", lambda network, modality, one: [0.0, 0.0])
    tracking_row._before.cache_clear()
    whole, half = (tracking_row.run(tiny(**options)).facts["travel"] for options in ({}, {"mix": 0.5}))
    tracking_row._before.cache_clear()
    assert half == pytest.approx(whole / 2, rel=1e-3)
