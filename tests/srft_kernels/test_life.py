"""The life of a network: a new head, layers that thaw, the next task, models that are compiled or parallel."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, RMSprop

import srft_kernels as srft
from tests.paths import REPOSITORY
from tests.srft_kernels.networks import network, prior_of, train, weights

each_inner = pytest.mark.parametrize("kind", [AdamW, SGD, RMSprop], ids=lambda kind: kind.__name__)

# ---------------------------------------------------------------- layers that thaw


@each_inner
def test_a_prior_holds_a_parameter_that_was_frozen_when_it_was_wrapped(kind: Any) -> None:
    model = network()
    model[0].requires_grad_(False)
    everything = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    optimizer = srft.SRFT(kind(model.named_parameters(), lr=1e-2), prior=everything, strength=1e6, kappa=1.0)
    train(model, optimizer, 2)
    model[0].requires_grad_(True)
    before = model[0].weight.detach().clone()
    train(model, optimizer, 5)
    assert float((model[0].weight.detach() - before).abs().max()) < 1e-5
    free = network()
    train(free, kind(free.named_parameters(), lr=1e-2), 5)
    assert float((free[0].weight.detach() - before).abs().max()) > 1e-3


def test_a_given_anchor_is_kept_for_a_frozen_parameter() -> None:
    model = network()
    anchor = {n: p.detach() + 1.0 for n, p in model.named_parameters()}
    model[0].requires_grad_(False)
    optimizer = srft.SRFT(AdamW(model.named_parameters(), lr=1e-2), prior=prior_of(model), anchor=anchor)
    assert torch.equal(optimizer.state[model[0].weight]["anchor"], anchor["0.weight"])
    assert set(optimizer.state[model[0].weight]) == {
        "anchor",
        "prior",
        "step",
    }  # and no averages before it has a gradient
    again = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(again)
    model[0].requires_grad_(True)
    train(model, optimizer, 1)
    assert torch.equal(optimizer.state[model[0].weight]["anchor"], anchor["0.weight"])


def test_a_layer_that_thaws_moves_as_one_that_had_no_gradients_before() -> None:
    ours, theirs = network(), network()
    ours[0].requires_grad_(False)
    optimizers = [
        srft.SRFT(AdamW(m.named_parameters(), lr=1e-2), prior=prior_of(m), kappa=0.5, damping="rank")
        for m in (ours, theirs)
    ]
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 11, generator=generator)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            if step < 3:
                theirs[0].weight.grad = theirs[0].bias.grad = None
            optimizer.step()
        ours[0].requires_grad_(step >= 2)
    assert torch.equal(weights(ours), weights(theirs))


# ---------------------------------------------------------------- a new head


def test_a_new_head_of_the_same_name_needs_one_argument() -> None:
    old = network()
    prior, anchor = prior_of(old), copy.deepcopy(old.state_dict())
    new = nn.Sequential(old[0], old[1], nn.Linear(64, 7), nn.LayerNorm(7))
    with pytest.raises(ValueError, match=r"2\.weight: \(5, 64\), not \(7, 64\).*new head, pass strict=False"):
        srft.SRFT(AdamW(new.named_parameters()), prior=prior)
    with pytest.raises(ValueError, match=r"anchor .*2\.weight: \(5, 64\).*strict=False"):
        srft.SRFT(AdamW(new.named_parameters()), prior={"0.weight": prior["0.weight"]}, anchor=anchor)
    optimizer = srft.SRFT(AdamW(new.named_parameters()), prior=prior, anchor=anchor, strict=False)
    held = {n for n, p in new.named_parameters() if "prior" in optimizer.state[p]}
    assert held == {"0.weight", "0.bias"}
    new(torch.ones(2, 11)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("given", ["prefixed", "plain"])
def test_names_of_compiled_and_parallel_models_are_those_of_the_model(prefix: str, given: str) -> None:
    model = network()
    prior, anchor = prior_of(model), {n: p.detach() + 1 for n, p in model.named_parameters()}
    prefixed = {prefix + n: p for n, p in model.named_parameters()}
    named = list(model.named_parameters()) if given == "prefixed" else list(prefixed.items())
    add = prefix if given == "prefixed" else ""
    optimizer = srft.SRFT(
        AdamW(named), prior={add + n: t for n, t in prior.items()}, anchor={add + n: t for n, t in anchor.items()}
    )
    for name, p in model.named_parameters():
        assert torch.equal(optimizer.state[p]["prior"], prior[name])
        assert torch.equal(optimizer.state[p]["anchor"], anchor[name])


def test_a_module_that_is_really_called_module_is_told_apart() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.module = nn.Linear(2, 1, bias=False)
            self.module.weight = nn.Parameter(torch.zeros(2))

    model = Outer()
    prior = {"weight": torch.full((2,), 1.0), "module.weight": torch.full((2,), 2.0)}
    optimizer = srft.SRFT(AdamW(model.named_parameters()), prior=prior)
    assert float(optimizer.state[model.weight]["prior"][0]) == 1.0
    assert float(optimizer.state[model.module.weight]["prior"][0]) == 2.0
    with pytest.raises(ValueError, match="fits no parameter"):  # which of the two is meant?
        srft.SRFT(AdamW(model.named_parameters()), prior={"_orig_mod.module.weight": torch.ones(2)})


# ---------------------------------------------------------------- the next task


@each_inner
def test_wrapping_again_takes_the_explicit_arguments_and_keeps_the_averages(kind: Any) -> None:
    model = network()
    inner = kind(
        [{"params": list(model.named_parameters()), "tau": 2.0}], lr=1e-2, **({"momentum": 0.9} if kind is SGD else {})
    )
    first = srft.SRFT(inner, prior=prior_of(model), kappa=0.5, damping="rank", mode="decoupled", strength=2.0)
    train(model, first, 3)
    averages = {
        k: v.clone()
        for k, v in inner.state[model[0].weight].items()
        if k in ("exp_avg", "momentum_buffer", "square_avg")
    }
    assert averages
    second = srft.SRFT(first.inner, prior_of(model, seed=2), strength=99, kappa=1.0)
    group = second.param_groups[0]
    assert (group["strength"], second.kappa, group["mode"], group["tau"]) == (99.0, 1.0, "proximal", 2.0)
    assert group["updates"] == 0
    state = inner.state[model[0].weight]
    assert all(torch.equal(state[name], value) for name, value in averages.items())
    held = second.state[model[0].weight]
    assert torch.equal(held["anchor"], model[0].weight)
    assert torch.equal(held["prior"], prior_of(model, seed=2)["0.weight"])
    train(model, second, 1)
    with pytest.raises(RuntimeError, match="wrapped again since"):
        first.step()


@each_inner
@pytest.mark.parametrize("gamma", [None, 0.7])
def test_the_next_task_is_that_of_a_new_wrapper_with_the_averages_of_the_old(kind: Any, gamma: float | None) -> None:
    ours, theirs = network(), network()
    first, second = prior_of(ours), prior_of(ours, seed=2)
    merged = second if gamma is None else {n: gamma * first[n] + second[n] for n in second}
    optimizer, other = (
        srft.SRFT(kind(m.named_parameters(), lr=1e-2), prior=first, kappa=1.0, damping="rank") for m in (ours, theirs)
    )
    train(ours, optimizer, 3)
    train(theirs, other, 3)
    optimizer.begin_task(second, gamma=gamma, strength=5.0, kappa=0.5)
    other = srft.SRFT(other.inner, prior=merged, strength=5.0, kappa=0.5, damping="rank")
    held = [(optimizer.state[p], other.state[q]) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for mine, expected in held:
        assert torch.equal(mine["anchor"], expected["anchor"])
        torch.testing.assert_close(mine["prior"], expected["prior"], rtol=1e-6, atol=0)
    if kind is AdamW:  # T is its second moment, which both keep
        train(ours, optimizer, 3, first=3)
        train(theirs, other, 3, first=3)
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("factor", "outvoted"), [(1e3, "present"), (30.0, None), (1 / 30, None), (1e-3, "new")])
def test_a_prior_that_is_outvoted_when_two_are_merged_is_reported(factor: float, outvoted: str | None) -> None:
    model = network()
    first = prior_of(model)
    second = {name: factor * value for name, value in first.items()}
    optimizer = srft.SRFT(AdamW(model.named_parameters()), prior=first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.begin_task(second, gamma=1.0)
    messages = [str(warning.message) for warning in caught]
    assert [message.startswith(f"the {outvoted} prior is 0.001 of") for message in messages] == [True] * bool(outvoted)
    assert all(warning.filename == __file__ for warning in caught)


def test_a_prior_that_replaces_another_outvotes_nothing() -> None:
    model = network()
    optimizer = srft.SRFT(AdamW(model.named_parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.begin_task(prior_of(model), gamma=1.0)  # there is no present prior
        optimizer.begin_task({name: 1e6 * value for name, value in prior_of(model).items()})
        optimizer.begin_task(gamma=1e-6)


def test_the_next_task_begins_the_schedule_again_and_survives_a_checkpoint() -> None:
    model = network()
    optimizer = srft.SRFT(
        AdamW(model.named_parameters()), prior=prior_of(model), kappa=srft.LinearKappa(4), damping="rank"
    )
    train(model, optimizer, 3)
    assert optimizer.kappa == 0.25
    optimizer.begin_task()
    assert optimizer.kappa == 1.0
    train(model, optimizer, 1)
    assert optimizer.kappa == 0.75
    saved = copy.deepcopy(optimizer.state_dict())
    again = srft.SRFT(AdamW(model.named_parameters()), prior=prior_of(model), kappa=srft.LinearKappa(4), damping="rank")
    again.load_state_dict(saved)
    assert again.kappa == 0.75


def test_a_task_that_does_not_fit_changes_nothing() -> None:
    model = network()
    optimizer = srft.SRFT(AdamW(model.named_parameters()), prior=prior_of(model))
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prior": {"0.weight": torch.ones(3)}}, "shapes that do not fit"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"strength": float("nan")}, "strength must be"),
        ({"anchor": {"0.weight": torch.full((64, 11), float("nan"))}}, "not finite"),
        ({"anchor": "initial"}, "anchor must be 'current'"),
        ({"prior": {}}, "empty"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            optimizer.begin_task(**arguments)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert all(torch.equal(s[k], after["state"][i][k]) for i, s in before["state"].items() for k in s)


def test_curvature_goes_on_into_the_next_task() -> None:
    model = network()
    spec = srft.Hutchinson(every=2, beta=0.5)
    optimizer = srft.SRFT(AdamW(model.named_parameters()), curvature=spec)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(3, 11)).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    found = optimizer.state[model[0].weight]["curvature"].clone()
    optimizer.begin_task()
    assert torch.equal(optimizer.state[model[0].weight]["curvature"], found)
    assert torch.equal(optimizer.state[model[0].weight]["anchor"], model[0].weight)
    for _ in range(3):
        optimizer.step(closure)
    assert bool(weights(model).isfinite().all())


# ---------------------------------------------------------------- the page


def test_the_page_about_the_life_of_a_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "life_of_a_network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {
        f"{task}_batches": [(torch.randn(8, 16), torch.randint(0, classes, (8,))) for _ in range(4)]
        for task, classes in (("old", 10), ("new", 3), ("next", 3))
    }
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "old.significance.safetensors").exists()
    model, optimizer = names["model"], names["optimizer"]
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert {n for n, p in model.named_parameters() if "prior" in optimizer.state[p]} == set(names["without_labels"])
    assert not any(name.startswith("head.") for name in names["body_only"])
    assert names["without_data"]["head.bias"].tolist() == [1.0, 1.0, 1.0]
