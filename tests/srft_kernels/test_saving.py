"""Copies, pickles and checkpoints of the optimizer: each goes on to the bits of the run that was not interrupted."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint.state_dict as dcp
from torch import Tensor, nn
from torch.optim import SGD, AdamW, NAdam, Optimizer, RMSprop

import srft_kernels as srft
from tests.srft_kernels.memory import peak_of
from tests.srft_kernels.networks import network, prior_of, train, weights

INNERS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (AdamW, {"lr": 1e-2}),
    (SGD, {"lr": 1e-2, "momentum": 0.9}),
    (RMSprop, {"lr": 1e-2, "momentum": 0.5}),
    (NAdam, {"lr": 1e-2}),
]
each_inner = pytest.mark.parametrize(
    ("kind", "options"), INNERS, ids=lambda v: v.__name__ if isinstance(v, type) else ""
)


def make(model: nn.Module, kind: Any = AdamW, options: dict[str, Any] | None = None, **further: Any) -> srft.SRFT:
    inner = kind(model.named_parameters(), **(options or {"lr": 1e-2}))
    return srft.SRFT(inner, prior=prior_of(model), kappa=srft.CosineKappa(12), **{"damping": "rank", **further})


def pickled(both: tuple[nn.Module, srft.SRFT]) -> tuple[nn.Module, srft.SRFT]:
    found: tuple[nn.Module, srft.SRFT] = pickle.loads(pickle.dumps(both))
    return found


def saved_by_torch(both: tuple[nn.Module, srft.SRFT]) -> tuple[nn.Module, srft.SRFT]:
    buffer = io.BytesIO()
    torch.save(both, buffer)
    buffer.seek(0)
    found: tuple[nn.Module, srft.SRFT] = torch.load(buffer, weights_only=False)
    return found


# ---------------------------------------------------------------- whole copies


@each_inner
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_by_torch], ids=["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_goes_on_to_the_same_bits(
    kind: Any, options: dict[str, Any], copied: Callable[[Any], Any], steps: int
) -> None:
    model = network()
    optimizer = make(model, kind, options)
    train(model, optimizer, steps)
    other, twin = copied((model, optimizer))
    for net, opt in ((model, optimizer), (other, twin)):
        train(net, opt, 4, first=steps)
    assert torch.equal(weights(model), weights(other))
    assert torch.equal(optimizer.penalty, twin.penalty)
    assert twin.param_groups is twin.inner.param_groups
    assert twin.param_groups[0]["params"][0] is next(other.parameters())
    assert twin.kappa == optimizer.kappa
    assert twin.state_dict().keys() == optimizer.state_dict().keys()


def test_a_copy_alone_leaves_the_original_alone() -> None:
    model = network()
    optimizer = make(model, curvature=srft.Hutchinson(every=2))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 11)).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    twin = copy.deepcopy(optimizer)
    for p in twin.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    twin.param_groups[0]["lr"] = 7.0
    twin.step()
    assert torch.equal(before, weights(model))
    assert optimizer.param_groups[0]["lr"] == 1e-2
    after = optimizer.state_dict()
    assert all(torch.equal(state["state"][i][k], v) for i, s in after["state"].items() for k, v in s.items())
    assert int(twin.nonfinite_count) == 0


# ---------------------------------------------------------------- torch.distributed.checkpoint, in one process


@each_inner
def test_a_checkpoint_by_dcp_resumes_to_the_bits_of_the_whole_run(kind: Any, options: dict[str, Any]) -> None:
    """As DCP requires of plain torch, too, a fresh optimizer's state is made before it is loaded."""
    whole, first, second = network(), network(), network(seed=3)
    through, before, after = make(whole, kind, options), make(first, kind, options), make(second, kind, options)
    train(whole, through, 8)
    train(first, before, 4)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(first, before))
    second.load_state_dict(first.state_dict())
    fresh = dcp.get_optimizer_state_dict(second, after)
    assert fresh["state"].keys() == saved["state"].keys()
    assert all(fresh["state"][n].keys() == s.keys() for n, s in saved["state"].items())
    dcp.set_optimizer_state_dict(second, after, saved)
    train(second, after, 4, first=4)
    assert torch.equal(weights(whole), weights(second))
    assert torch.equal(through.penalty, after.penalty)


@pytest.mark.parametrize("kind", [AdamW, RMSprop])
def test_curvature_goes_through_dcp(kind: Any) -> None:
    def closure_of(model: nn.Module, optimizer: srft.SRFT, step: int) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = model(torch.full((2, 11), float(step))).square().mean()
            loss.backward()
            return loss

        return closure

    whole, first, second = network(), network(), network(seed=3)
    spec = srft.Hutchinson(every=2)
    made = [srft.SRFT(kind(m.named_parameters(), lr=1e-2), curvature=spec) for m in (whole, first, second)]
    for model, optimizer, steps in ((whole, made[0], 6), (first, made[1], 3)):
        for step in range(steps):
            optimizer.step(closure_of(model, optimizer, step))
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(first, made[1]))
    second.load_state_dict(first.state_dict())
    dcp.set_optimizer_state_dict(second, made[2], saved)
    for step in range(3, 6):
        made[2].step(closure_of(second, made[2], step))
    assert torch.equal(weights(whole), weights(second))


# ---------------------------------------------------------------- the inner optimizer's own saving


class Keeping8Bits(Optimizer):
    """Momentum kept in eight bits and a scale, loaded by a method of its own, as bitsandbytes does."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["codes"], state["scale"] = torch.full_like(p, 128, dtype=torch.uint8), torch.ones(())
                momentum = 0.9 * (state["codes"].float() - 128) * state["scale"] + p.grad
                state["scale"] = momentum.abs().max().clamp(min=1e-9) / 127
                state["codes"] = (momentum / state["scale"] + 128).round().to(torch.uint8)
                p.sub_(group["lr"] * momentum)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "format": "eight bits"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["format"] == "eight bits"
        params = [p for g in self.param_groups for p in g["params"]]
        self.state.clear()
        for index, state in state_dict["state"].items():
            self.state[params[index]] = {k: v.clone() for k, v in state.items()}
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})


class Around(Optimizer):
    """A wrapper that shares its groups with the optimizer inside, as Lookahead does."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        super().__init__(base.param_groups, {})
        self.param_groups = base.param_groups
        self.state = base.state

    def step(self, closure: Any = None) -> None:
        self.base.step()

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state


def resumed(build: Callable[[nn.Module], srft.SRFT]) -> tuple[Tensor, Tensor, srft.SRFT]:
    """Return the weights of a whole run, of one that was resumed from a file, and the optimizer of that."""
    whole, first, second = network(), network(), network(seed=5)
    train(whole, build(whole), 8)
    before = build(first)
    train(first, before, 4)
    buffer = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": before.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    after = build(second)
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(second, after, 4, first=4)
    return weights(whole), weights(second), after


def test_an_inner_optimizer_saves_and_loads_itself() -> None:
    whole, again, optimizer = resumed(lambda model: make(model, Keeping8Bits))
    assert torch.equal(whole, again)
    state = optimizer.inner.state[optimizer.param_groups[0]["params"][0]]
    assert state["codes"].dtype == torch.uint8
    assert set(state) == {"codes", "scale"}


@pytest.mark.parametrize("base", [lambda p: AdamW(p, lr=1e-2), lambda p: Keeping8Bits(p, lr=1e-2)])
def test_wrappers_inside_of_wrappers_share_their_groups(base: Any) -> None:
    def build(model: nn.Module) -> srft.SRFT:
        return srft.SRFT(Around(base(model.named_parameters())), prior=prior_of(model), kappa=0.5, damping="rank")

    whole, again, optimizer = resumed(build)
    assert torch.equal(whole, again)
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.param_groups is optimizer.inner.base.param_groups  # type: ignore[attr-defined]
    optimizer.param_groups[0]["lr"] = 0.25
    assert optimizer.inner.base.param_groups[0]["lr"] == 0.25  # type: ignore[attr-defined]


def test_bitsandbytes_resumes_to_the_same_bits() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def build(model: nn.Module) -> srft.SRFT:
        inner = bitsandbytes.optim.AdamW8bit(model.named_parameters(), lr=1e-2, min_8bit_size=1)
        return srft.SRFT(inner, prior=prior_of(model), kappa=0.5, damping="rank")

    whole, again, optimizer = resumed(build)
    assert torch.equal(whole, again)
    assert optimizer.inner.state[optimizer.param_groups[0]["params"][0]]["state1"].dtype == torch.uint8


def test_a_state_that_the_inner_optimizer_loads_by_itself_is_adopted() -> None:
    """``optimizer.inner.load_state_dict`` takes torch's own checkpoint.

    Its averages are used; prior and anchor stay.
    """
    ours, theirs = network(), network()
    plain = AdamW(theirs.named_parameters(), lr=1e-2)
    train(theirs, plain, 3)
    ours.load_state_dict(theirs.state_dict())
    optimizer, expected = make(ours), make(theirs)
    anchor = optimizer.state[ours[0].weight]["anchor"].clone()
    optimizer.inner.load_state_dict(plain.state_dict())
    expected.load_state_dict(plain.state_dict())
    train(ours, optimizer, 3, first=3)
    train(theirs, expected, 3, first=3)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(optimizer.state[ours[0].weight]["anchor"], anchor)
    assert optimizer.param_groups is optimizer.inner.param_groups


# ---------------------------------------------------------------- hooks


def is_plain(value: Any) -> bool:
    """Return whether ``weights_only`` loading takes it."""
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


@each_inner
@pytest.mark.parametrize("which", ["outer", "inner"])
def test_hooks_run_once_each_and_see_what_torchs_see(kind: Any, options: dict[str, Any], which: str) -> None:
    model = network()
    optimizer = make(model, kind, options)
    train(model, optimizer, 2)
    watched = optimizer if which == "outer" else optimizer.inner
    calls: list[str] = []

    def pre(o: Optimizer) -> None:
        calls.append("save")
        assert o is watched

    def post(o: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        calls.append("saved")
        assert is_plain(state_dict)
        assert all(s.keys() >= {"step"} or kind is SGD for s in state_dict["state"].values())
        return {**state_dict, "note": "mine"}

    def pre_load(o: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        calls.append("load")
        assert state_dict["note"] == "mine"
        assert is_plain(state_dict)
        for group in state_dict["param_groups"]:
            group["lr"] = 0.125
        return {k: v for k, v in state_dict.items() if k != "note"}

    def post_load(o: Optimizer) -> None:
        calls.append("loaded")
        assert o.param_groups[0]["lr"] == 0.125
        assert callable(o.param_groups[0]["kappa"])
        assert o.param_groups[0]["mu"] == (0.25, 0.65)
        assert all(isinstance(v, (Tensor, float)) for s in o.state.values() for v in s.values())

    watched.register_state_dict_pre_hook(pre)
    watched.register_state_dict_post_hook(post)
    watched.register_load_state_dict_pre_hook(pre_load)
    watched.register_load_state_dict_post_hook(post_load)
    state_dict = optimizer.state_dict()
    assert calls == ["save", "saved"]
    assert state_dict["note"] == "mine"
    optimizer.load_state_dict(copy.deepcopy(state_dict))
    assert calls == ["save", "saved", "load", "loaded"]
    train(model, optimizer, 1, first=2)


def test_step_hooks_of_both_optimizers_run_once_each_around_one_that_is_not_fused() -> None:
    model = network()
    optimizer = make(model, RMSprop)
    calls: list[str] = []
    for name, watched in (("outer", optimizer), ("inner", optimizer.inner)):
        watched.register_step_pre_hook(lambda *_, name=name: calls.append(f"{name} begins"))
        watched.register_step_post_hook(lambda *_, name=name: calls.append(f"{name} ends"))
    train(model, optimizer, 1)
    assert calls == ["outer begins", "inner begins", "inner ends", "outer ends"]


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("kind", [AdamW, RMSprop])
def test_loading_adds_little_memory(kind: Any) -> None:
    """The peak is at most 2.5 times the parameters' bytes, not counting the checkpoint itself."""
    size = 1 << 20
    model = nn.Linear(1 << 10, 1 << 10, bias=False)
    optimizer = make(model, kind)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    gc.collect()
    assert peak_of(lambda: [torch.ones(size) for _ in range(2)]) >= 8 * size  # it does measure
    added = peak_of(lambda: optimizer.load_state_dict(saved))
    assert added <= 2.5 * 4 * size


@pytest.mark.parametrize(
    "options", [{}, {"damping": "mean"}, {"normalize": "global"}, {"nonfinite": "skip_step"}], ids=str
)
@pytest.mark.parametrize(("kind", "own"), [(AdamW, 0), (SGD, 0), (RMSprop, 8)])
def test_a_first_step_adds_little_memory(kind: Any, own: int, options: dict[str, Any]) -> None:
    """It adds at most eight bytes an element of the largest tensor.

    RMSprop of torch makes its state in that step and takes as much.
    """
    size = 1 << 20
    model = nn.Linear(1 << 10, 1 << 10, bias=False)
    inner = kind(model.named_parameters(), lr=1e-2)
    optimizer = srft.SRFT(inner, prior=prior_of(model), kappa=0.5, **{"damping": "rank", **options})
    model.weight.grad = torch.ones_like(model.weight)
    assert peak_of(optimizer.step) <= (8 + own) * size


@pytest.mark.parametrize("width", [16, 32])
def test_many_small_layers_save_in_few_bytes(width: int) -> None:
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(200)))
    optimizer = make(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    tensors = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    assert len(buffer.getvalue()) <= 1.3 * sum(t.numel() * t.element_size() for t in tensors)


def test_what_the_smallest_layers_save_beside_their_tensors_is_the_list_of_them() -> None:
    """The list takes some seventy bytes an entry, as for torch's own optimizers; records of memory are few."""

    def saved(optimizer: Optimizer) -> tuple[int, int, int, int]:
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        tensors = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
        records = len(zipfile.ZipFile(buffer).infolist())
        return len(buffer.getvalue()), sum(t.numel() * t.element_size() for t in tensors), len(tensors), records

    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(200)))
    plain, optimizer = AdamW(model.parameters()), make(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    plain.step()
    optimizer.step()
    size, own, entries, records = saved(optimizer)
    assert size - own <= 85 * entries
    assert records <= 20
    assert size / own <= 0.5 * saved(plain)[0] / saved(plain)[1]


def test_statistics_survive_saving_to_the_bit_in_few_bytes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(64, 64), nn.Linear(256, 256))
    optimizer = make(model)
    for step in range(3):
        for k, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + k))
        optimizer.step()
    saved = optimizer.state_dict()["state"]
    assert [saved[i]["transfer_histogram"].dtype for i in (0, 2, 4)] == [torch.uint8, torch.int16, torch.int32]
    assert all(s["transfer_statistics"].numel() == 8 for s in saved.values())
    again = make(model)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in model.parameters():
        expected = optimizer.state[p]["transfer_statistics"]
        assert int(expected[8:].sum()) == p.numel()
        assert torch.equal(again.state[p]["transfer_statistics"], expected)
