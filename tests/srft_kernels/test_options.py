"""Options and maps that could not be honored are refused in a sentence, and options may change between steps."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

import srft_kernels as srft
from tests.srft_kernels.networks import network, prior_of, train, weights

# ---------------------------------------------------------------- maps that are none


def not_finite(like: Tensor) -> Tensor:
    wrong = like.clone()
    wrong.view(-1)[0] = float("nan")
    return wrong


WRONG_PRIORS: list[tuple[Callable[[Tensor], Any], type[Exception], str]] = [
    (lambda t: t.numpy(), TypeError, r"prior of 0\.weight must be a tensor, got ndarray: torch\.as_tensor"),
    (lambda t: t.tolist(), TypeError, r"prior of 0\.weight must be a tensor, got list"),
    (lambda t: t.to_sparse(), TypeError, r"prior of 0\.weight must be dense.*to_dense"),
    (lambda t: t.to("meta"), TypeError, r"prior of 0\.weight is on the meta device"),
    (lambda t: t.long(), ValueError, r"prior of 0\.weight must be floating"),
    (lambda t: None, TypeError, r"prior of 0\.weight must be a tensor, got NoneType"),
    (not_finite, ValueError, r"prior of 0\.weight has elements that are negative or not finite"),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG_PRIORS)
def test_a_prior_of_something_else_is_refused(make: Any, error: type[Exception], message: str) -> None:
    model = network()
    inner = AdamW(model.named_parameters())
    with pytest.raises(error, match=message):
        srft.SRFT(inner, prior={**prior_of(model), "0.weight": make(prior_of(model)["0.weight"])})
    assert "strength" not in inner.param_groups[0]
    assert not inner.state


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ("fisher", TypeError, r"must be a mapping of tensors.*got 'fisher': estimate it with srft\.estimate_prior"),
        ([torch.ones(2)], TypeError, "must be a mapping of tensors.*got list"),
        ({}, ValueError, "the prior is empty"),
        ({3: torch.ones(2)}, ValueError, "none of its keys is a parameter"),
    ],
)
def test_a_prior_that_is_no_map_is_refused(prior: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        srft.SRFT(AdamW(network().named_parameters()), prior=prior)


def test_an_anchor_that_is_not_finite_is_refused() -> None:
    model = network()
    anchor = {n: p.detach() for n, p in model.named_parameters()}
    anchor["2.bias"] = torch.full((5,), float("inf"))
    with pytest.raises(ValueError, match=r"anchor of 2\.bias has elements that are not finite"):
        srft.SRFT(AdamW(model.named_parameters()), prior=prior_of(model), anchor=anchor)
    with pytest.raises(ValueError, match="anchor must be 'initial' or a mapping"):
        srft.SRFT(AdamW(model.named_parameters()), anchor="final")  # type: ignore[arg-type]


def test_only_the_first_names_are_told() -> None:
    model = nn.ModuleList(nn.Linear(1, 1) for _ in range(20))
    with pytest.raises(ValueError, match=r"it names x0, x1, .*and 10 more; the optimizer has .* and 30 more"):
        srft.SRFT(AdamW(model.named_parameters()), prior={f"x{i}": torch.ones(1) for i in range(20)})


# ---------------------------------------------------------------- options in groups


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stregnth": 3}, "'stregnth'.*is it 'strength'"),
        ({"normalise": None}, "'normalise'.*is it 'normalize'"),
        ({"transfer_achor": "initial"}, "is it 'transfer_anchor'"),
        ({"prior": {}}, "'prior' is no option of a param group"),
        ({"curvature": None}, "'curvature' is no option of a param group"),
        ({"strength": "much"}, "strength must be finite"),
        ({"mu": 0.3}, "mu must be"),
        ({"regularize": "no"}, "regularize must be one of"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(option: dict[str, Any], message: str) -> None:
    model = network()
    inner = AdamW([{"params": list(model.named_parameters()), **option}])
    with pytest.raises(ValueError, match=message):
        srft.SRFT(inner)
    optimizer = srft.SRFT(AdamW(model.named_parameters()))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], **option})
    assert len(optimizer.param_groups) == 1


def test_what_other_libraries_put_into_groups_stays_there() -> None:
    group = {
        "lr_scale": 0.5,
        "group_name": "head",
        "name": "a",
        "tag": 1,
        "initial_lr": 1.0,
        "max_lr": 2.0,
        "module": None,
    }
    model = network()
    optimizer = srft.SRFT(AdamW([{"params": list(model.named_parameters()), **group}]))
    train(model, optimizer, 1)
    assert group.items() <= optimizer.param_groups[0].items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": float("nan")}, "strength must be"),
        ({"mu": (2, 3)}, "mu must be"),
        ({"kappa": 1.5}, "kappa must be"),
        ({"damping": "sort"}, "damping must be"),
        ({"stregnth": 1.0}, "is it 'strength'"),
        ({"tau": None}, "tau must be"),
    ],
)
def test_options_that_are_changed_between_steps_are_checked(change: dict[str, Any], message: str) -> None:
    model = network()
    optimizer = srft.SRFT(AdamW(model.named_parameters()), prior=prior_of(model))
    train(model, optimizer, 1)
    optimizer.param_groups[0].update(change)
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(before, weights(model))


# Each with the optimizers inside of which it decides what T is or where it is used. Its statistics begin anew then.
CHANGES: list[tuple[dict[str, Any], set[Any]]] = [
    ({"kappa": 0.3}, set()),
    ({"strength": 3}, set()),
    ({"mu": [0.1, 0.2]}, set()),
    ({"mode": "decoupled"}, {AdamW, Adam, SGD, RMSprop}),
    ({"mode": "coupled"}, {AdamW, Adam, SGD, RMSprop}),
    ({"damping": "mean", "tau": 0.5}, {AdamW, Adam, SGD, RMSprop}),
    ({"damping": None}, {AdamW, Adam, SGD, RMSprop}),
    ({"normalize": "global"}, {AdamW, Adam, SGD, RMSprop}),
    ({"normalize": None}, {AdamW, Adam, SGD, RMSprop}),
    ({"transfer": "own", "transfer_beta": 0.5}, {AdamW, Adam, SGD, RMSprop}),
    ({"weight_decay": 0.1}, {Adam}),
    ({"amsgrad": True}, {AdamW, Adam}),
    ({"momentum": 0.9}, {SGD}),
    ({"regularize": False}, {AdamW, Adam, SGD, RMSprop}),
]


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD, RMSprop], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("change", "anew"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_options_that_are_changed_between_steps_hold_from_there(
    kind: Any, change: dict[str, Any], anew: set[Any]
) -> None:
    """The result is that of an optimizer that has them from the beginning, loaded with what the other had."""
    ours, theirs = network(), network()
    optimizer = srft.SRFT(
        kind(ours.named_parameters(), lr=1e-2), prior=prior_of(ours), kappa=0.6, damping="rank", normalize="tensor"
    )
    if not change.keys() <= optimizer.param_groups[0].keys() or (kind is RMSprop and "momentum" in change):
        pytest.skip("no option of this optimizer, or one that torch itself does not let change")
    train(ours, optimizer, 3)
    optimizer.param_groups[0].update(change)
    given = {"kappa": 0.6, "damping": "rank", "normalize": "tensor"}
    group = {"params": list(theirs.named_parameters()), **given, **change}
    expected = srft.SRFT(kind([group], lr=1e-2), prior=prior_of(theirs))
    saved = copy.deepcopy(optimizer.state_dict())
    if kind in anew:
        for state in saved["state"].values():
            state.pop("transfer_statistics", None)
            state.pop("transfer_histogram", None)
    theirs.load_state_dict(ours.state_dict())
    expected.load_state_dict(saved)
    train(ours, optimizer, 3, first=3)
    train(theirs, expected, 3, first=3)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(optimizer.penalty, expected.penalty)


def test_what_was_not_kept_cannot_be_switched_on_but_by_a_new_task() -> None:
    model = network()
    optimizer = srft.SRFT(
        AdamW([{"params": list(model.named_parameters()), "regularize": False}]), prior=prior_of(model)
    )
    train(model, optimizer, 1)
    optimizer.param_groups[0]["regularize"] = True
    with pytest.raises(ValueError, match=r"regularize was False.*begin_task"):
        optimizer.step()
    optimizer.begin_task({n: torch.ones_like(p) for n, p in model.named_parameters()}, strength=1e6, kappa=1.0)
    before = weights(model)
    train(model, optimizer, 2)
    assert float((weights(model) - before).abs().max()) < 1e-4
    other = srft.SRFT(AdamW(model.named_parameters()))
    other.param_groups[0]["transfer_anchor"] = "initial"
    with pytest.raises(ValueError, match=r"transfer_anchor='initial' wants an anchor.*begin_task"):
        other.step()
    other.begin_task()
    train(model, other, 2)


def test_a_group_that_is_added_to_the_inner_optimizer_is_adopted() -> None:
    ours, theirs = network(), network()
    extra = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [
        srft.SRFT(AdamW(m.named_parameters(), lr=1e-2), prior=prior_of(m), kappa=0.5, damping="rank")
        for m in (ours, theirs)
    ]
    optimizers[0].inner.add_param_group({"params": [("extra", extra[0])], "lr": 0.5, "mode": "decoupled"})
    optimizers[1].add_param_group({"params": [("extra", extra[1])], "lr": 0.5, "mode": "decoupled"})
    for p in extra:
        p.grad = torch.arange(3.0)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        train_keeping(model, optimizer)
    assert torch.equal(extra[0], extra[1])
    assert not torch.equal(extra[0], torch.ones(3))
    assert optimizers[0].param_groups[1]["strength"] == 10.0
    assert len(optimizers[0].state_dict()["param_groups"]) == 2


def train_keeping(model: nn.Module, optimizer: srft.SRFT) -> None:
    model(torch.ones(2, 11)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [AdamW, RMSprop], ids=lambda kind: kind.__name__)
def test_state_that_is_emptied_takes_no_prior_with_it_in_silence(kind: Any) -> None:
    model = network()
    optimizer = srft.SRFT(kind(model.named_parameters(), lr=1e-2), prior=prior_of(model))
    train(model, optimizer, 1)
    optimizer.state.clear()
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"state was emptied.*wrap the optimizer inside again"):
        train(model, optimizer, 1)
    assert torch.equal(before, weights(model))


def test_averages_that_are_replaced_by_an_empty_state_begin_anew_and_the_prior_stays() -> None:
    """``optimizer.state = defaultdict(dict)`` is the way to reset a torch optimizer."""
    ours, theirs = network(), network()
    optimizer = srft.SRFT(AdamW(ours.named_parameters(), lr=1e-2), prior=prior_of(ours), kappa=1.0)
    anchor = {n: p.detach().clone() for n, p in ours.named_parameters()}
    train(ours, optimizer, 3)
    theirs.load_state_dict(ours.state_dict())
    fresh = srft.SRFT(AdamW(theirs.named_parameters(), lr=1e-2), prior=prior_of(theirs), anchor=anchor, kappa=1.0)
    optimizer.state = defaultdict(dict)
    train(ours, optimizer, 2, first=3)
    train(theirs, fresh, 2, first=3)
    assert torch.equal(weights(ours), weights(theirs))
    assert optimizer.inner.state is optimizer.state


# ---------------------------------------------------------------- estimating


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (classifier(), nn.CrossEntropyLoss(reduction="none"), [(X, Y)]),
            TypeError,
            r"called as loss_fn\(model, batch\)",
        ),
        ((classifier(), nn.functional.cross_entropy, [(X, Y)]), TypeError, r"called as loss_fn\(model, batch\)"),
        ((classifier(), [(X, Y)], loss_fn), TypeError, r"loss_fn must be a function.*estimate_prior\(model, "),
        ((loss_fn, classifier(), [(X, Y)]), TypeError, r"model must be a torch\.nn\.Module, got function"),
        ((classifier(), loss_fn, (X, Y)), TypeError, r"batches .*one batch.*\[batch\]"),
        ((classifier(), loss_fn, X), TypeError, r"batches .*one batch.*\[batch\]"),
        ((classifier(), loss_fn, {"x": X, "y": Y}), TypeError, r"batches .*one batch.*\[batch\]"),
        ((classifier(), loss_fn, 3), TypeError, r"batches must be an iterable"),
        ((classifier(), "fisher"), TypeError, r"loss_fn must be a function"),
    ],
    ids=lambda v: "" if isinstance(v, tuple) else None,
)
def test_arguments_of_an_estimate_that_are_not_what_they_should_be(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        srft.estimate_prior(*arguments)


def test_batches_of_single_tensors_are_batches() -> None:
    model = nn.Linear(4, 1)
    made = srft.estimate_prior(model, lambda m, x: m(x).square().mean(1), [X, X[:3]])
    assert made.samples == 9
    assert np.isfinite(made["weight"].numpy()).all()


# ---------------------------------------------------------------- names of before


def test_names_of_before_still_work_and_say_so() -> None:
    model = network()
    optimizer = srft.SRFT(AdamW(model.named_parameters()))
    train(model, optimizer, 1)
    with pytest.warns(DeprecationWarning, match="nonfinite_count"):
        assert int(optimizer.nonfinite) == 0
    with pytest.warns(DeprecationWarning, match=r"prepare_replay\(\)"):
        optimizer.advance()
    with pytest.warns(DeprecationWarning, match="PathIntegral"):
        assert optimizer.follow({}) is True
    with pytest.warns(DeprecationWarning, match="PathIntegral"):
        assert optimizer.follow(None) is True


@pytest.mark.parametrize(
    ("option", "value", "damping", "others"),
    [("mu", (0.1, 0.2), "rank", (None, "mean")), ("tau", 3.0, "mean", (None, "rank"))],
)
def test_an_option_of_a_damping_that_no_group_has_is_refused(
    option: str, value: object, damping: str, others: tuple[str | None, ...]
) -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    prior = {"w": torch.ones(4)}
    for other in others:
        inner = torch.optim.AdamW([("w", weight)], lr=1e-3)
        with pytest.raises(ValueError, match=f"{option}=.* no effect in any group: give damping='{damping}'"):
            srft.SRFT(inner, prior, damping=other, **{option: value})
        assert "strength" not in inner.param_groups[0], "nothing is changed"
    inner = torch.optim.AdamW([{"params": [("w", weight)], "damping": damping}], lr=1e-3)
    assert srft.SRFT(inner, prior, **{option: value}).param_groups[0][option] == value


@pytest.mark.parametrize(
    ("given", "uses"),
    [
        ({"transfer": "own"}, {"damping": "rank"}),
        ({"transfer": "second_moment"}, {"transfer_anchor": "initial"}),
        ({"transfer_beta": 0.9}, {"damping": "rank", "transfer": "own"}),
    ],
)
def test_an_option_of_a_transfer_significance_that_no_group_has_is_refused(
    given: dict[str, object], uses: dict[str, object]
) -> None:
    weight, prior = torch.nn.Parameter(torch.ones(4)), {"w": torch.ones(4)}
    option = next(iter(given))
    for missing in uses:
        some = {name: value for name, value in uses.items() if name != missing}
        inner = torch.optim.AdamW([{"params": [("w", weight)], **some}], lr=1e-3)
        with pytest.raises(ValueError, match=f"{option}=.* would have no effect in any group"):
            srft.SRFT(inner, prior, **given)
        assert "strength" not in inner.param_groups[0], "nothing is changed"
    inner = torch.optim.AdamW([{"params": [("w", weight)], **uses}], lr=1e-3)
    assert srft.SRFT(inner, prior, **given).param_groups[0][option] == given[option]
