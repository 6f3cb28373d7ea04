"""The bench of tracking: whom it tests on, that frozen streams keep what they knew, and that every way to tune runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evidence import tracking, tracking_success
from evidence.tracking_success import by_condition, held_out, measured, pretrained, rgb_alone
from evidence.trials import Trial, trial
from srft_kernels import SignificanceMap
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.tuning.files import load_tracker

MATRICES = r"rgb\.blocks\..+\.(qkv|proj|fc1|fc2)\.weight"
TINY: dict[str, Any] = {"sequences": 2, "steps": 11, "batch": 1, "tests": 17, "frames": 2, "precision": "fp32"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracking_success, "validation_count", lambda tests: 2)
    monkeypatch.setattr(tracking, "CACHE", tmp_path)
    prior = SignificanceMap({name: torch.rand_like(p) for name, p in pretrained()[0].named_parameters()})
    monkeypatch.setattr(tracking, "rgb_prior", lambda one: prior)


def tiny(method: str = "adamw", seed: int = 0, **options: Any) -> Trial:
    return trial("tracking", "thermal", method, seed, **{**TINY, "lr": 1e-2, **options})


def test_seeds_are_tested_on_sequences_of_their_own() -> None:
    names = [{s.name for s in held_out("thermal", "test", 17, seed, 2).sequences} for seed in (0, 1)]
    assert [len(found) for found in names] == [17, 17]
    assert not names[0] & names[1]
    validation = [{s.name for s in held_out("thermal", "validation", 5, seed, 2).sequences} for seed in (0, 1)]
    assert validation[0] == validation[1]
    assert not validation[0] & (names[0] | names[1])


def test_the_first_trials_share_their_sequences() -> None:
    names = [[s.name for s in held_out("thermal", "test", 16, seed, 30).sequences] for seed in (0, 3)]
    assert names[0] == names[1]
    assert trial("tracking", "thermal", "adamw", 0, lr=1e-3)["tests"] == 16


def test_success_by_condition() -> None:
    conditions = [frozenset({"night"}), frozenset({"day", "lookalike"}), frozenset({"night", "lookalike"})]
    assert by_condition(np.array([10.0, 20.0, 60.0]), conditions) == {"night": 35.0, "day": 20.0, "lookalike": 40.0}


def test_the_rgb_stream_is_the_rgb_tracker_before_training() -> None:
    rgb = pretrained()[0]
    alone = rgb_alone(initialize_two_stream(rgb))
    assert {n: t.tolist() for n, t in alone.state_dict().items()} == {
        n: t.tolist() for n, t in rgb.state_dict().items()
    }


def test_a_mean_over_all_sequences_is_measured() -> None:
    one = tiny()
    network = initialize_two_stream(pretrained()[0])
    found = measured(network, one, details=True)
    sequences = held_out("thermal", "test", 17, 0, 2).sequences
    single = [tracking_success.scores(network, [sequence], False)[0] for sequence in sequences]
    assert found.measures[1] == pytest.approx(np.mean(single), abs=0.1)
    assert found.facts["new error"] == pytest.approx(np.std(single, ddof=1) / np.sqrt(17), abs=0.1)


@pytest.mark.parametrize("tuning", ["frozen", "patrack"])
def test_methods_that_freeze_the_stream_forget_nothing(tuning: str) -> None:
    found = tracking.run(tiny(tuning=tuning))
    assert found.readouts["final"][2:] == found.before[2:]


def test_an_rgb_stream_left_out_of_training_forgets_nothing() -> None:
    found = tracking.run(tiny("xonly"))
    assert found.readouts["final"][2:] == found.before[2:]
    assert found.facts["travel"] > 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adamw", {}),
        ("adamw", {"tuning": "lora"}),
        ("adamw", {"tuning": "distill"}),
        ("srft", {"tuning": "sdstrack", "strength": 3.0}),
    ],
)
def test_a_trial_repeats_and_its_network_is_kept(method: str, options: dict[str, Any]) -> None:
    one = tiny(method, **options)
    first, second = tracking.run(one), tracking.run(one)
    assert first.readouts == second.readouts
    assert set(first.readouts) == ({"final", "mix0.5"} if options == {} else {"final"})
    assert all(0.0 <= value <= 100.0 for measures in first.readouts.values() for value in measures)
    kept, _, _ = load_tracker(tracking.network_file(one))
    assert measured(kept, one).measures == pytest.approx(first.readouts["final"], abs=0.1)


def test_the_x_stream_is_held_by_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: torch.full_like(p, 7.0) for name, p in pretrained()[0].named_parameters()}
    asked: list[Trial] = []

    def own(network: Any, one: Trial) -> SignificanceMap:
        asked.append(one)
        return SignificanceMap(given)

    monkeypatch.setattr(tracking, "learned_prior", own)
    network = initialize_two_stream(pretrained()[0])
    rgb, none, x = (tracking.prior_of(tiny("srft", x=kind), network) for kind in ("prior", "none", "own"))
    assert [one.task for one in asked] == ["thermal_alone"]
    names = [name for name in rgb if name.startswith(("x.", "cross."))]
    assert names
    assert none.keys() == rgb.keys() - set(names)
    assert x.keys() == rgb.keys()
    assert all((x[name] == 7.0).all() for name in names)
    assert all(torch.equal(x[name], rgb[name]) for name in none)


def test_a_pull_of_infinite_strength_moves_what_has_a_prior_by_nothing() -> None:
    found, free = tracking.trained(tiny("srft", strength=1e12)), tracking.trained(tiny())
    assert found.facts["travel"] < 1e-3 * free.facts["travel"]


def test_x_alone_stands_where_rgb_was() -> None:
    both = held_out("thermal", "test", 17, 0, 2).sequences[0]
    alone = held_out("thermal_alone", "test", 17, 0, 2).sequences[0]
    assert alone.name == both.name
    assert np.array_equal(alone.boxes, both.boxes, equal_nan=True)
    assert np.array_equal(alone.planes(1), both.frame(1)[:, :, 3:])
    assert not np.array_equal(alone.planes(1), both.frame(1)[:, :, :3])
    assert not alone.frame(1)[:, :, 3:].any(), "nothing is left in X"


def test_one_stream_learns_x_alone_and_is_judged_as_it_is_on_rgb() -> None:
    one = trial("tracking", "thermal_alone", "adamw", 0, **{**TINY, "lr": 1e-2})
    found = tracking.run(one)
    assert found.before == measured(pretrained()[0], one).measures
    assert found.readouts["final"] != found.before
    network = load_tracker(tracking.network_file(one))[0]
    assert network.config.kind == "single_stream"
    assert measured(network, one).measures == found.readouts["final"]


def alone(method: str, **options: Any) -> Trial:
    return trial("tracking", "thermal_alone", method, 0, **{**TINY, "lr": 1e-2, **options})


@pytest.mark.parametrize(
    ("method", "options", "trained"),
    [("probe", {}, "head."), ("adamw", {"tuning": "lora"}, "rgb.blocks.")],
)
def test_what_leaves_the_blocks_of_one_stream_alone_trains_nothing_else(
    method: str, options: dict[str, Any], trained: str
) -> None:
    made = tracking.trained(alone(method, **options))
    assert dict(made.network.named_parameters()).keys() == made.first.keys(), "updates are merged"
    moved = {name for name, p in made.network.named_parameters() if not torch.equal(p, made.first[name])}
    assert moved
    assert all(name.startswith(trained) for name in moved)
    assert method == "probe" or moved == {name for name in made.first if re.fullmatch(MATRICES, name)}


def test_low_rank_updates_of_one_stream_are_held_to_where_they_start() -> None:
    held = {"tuning": "lora", "normalize": "global", "strength": 1e12}
    found, free = tracking.trained(alone("srft", **held)), tracking.trained(alone("adamw", tuning="lora"))
    assert found.prior is not None
    assert all(".lora_" in name for name in found.prior)
    sides = sum(sum(p.shape) for name, p in pretrained()[0].named_parameters() if re.fullmatch(MATRICES, name))
    assert found.facts["trained"] == free.facts["trained"] == 16 * sides
    assert found.facts["travel"] < 1e-2 * free.facts["travel"]
