"""Sequences of what a user may do to a model and its optimizer between steps.

The compiled kernels and the reference take the same steps, and refuse the same things in the same words, whatever has
come before.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import srft_kernels as srft
from srft_kernels.ops.native import library

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INNERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1),
    "adam": lambda p: Adam(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "sgd": lambda p: SGD(p, lr=1e-2, momentum=0.9),
    # The usual eps of 1e-8 is zero in float16, and torch's own step then makes NaN of a zero gradient.
    "rmsprop": lambda p: RMSprop(p, lr=1e-2, eps=1e-4),
}
CHANGES: list[dict[str, Any]] = [
    {"strength": 0.0},
    {"strength": 1e6},
    {"strength": float("nan")},
    {"kappa": 0.3},
    {"kappa": 1.0},
    {"kappa": -0.5},
    {"mode": "decoupled", "strength": 0.1},
    {"mode": "coupled", "strength": 0.1},
    {"mode": "proximal"},
    {"damping": "mean"},
    {"damping": None},
    {"damping": "rank"},
    {"normalize": "global"},
    {"normalize": None},
    {"transfer": "own"},
    {"transfer": "second_moment"},
    {"transfer_anchor": "initial"},
    {"transfer_anchor": "previous"},
    {"mu": (0.1, 0.2)},
    {"mu": (2, 3)},
    {"regularize": False},
    {"regularize": True},
    {"weight_decay": 0.0},
    {"amsgrad": False},
    {"nesterov": True},
    {"momentum": 0.0},
    {"momentum": 0.5},
    {"stregnth": 1.0},
]


def put(own: dict[str, Any], name: str, value: Any) -> None:
    own[name] = value


# What a user may put in the place of a tensor of state.
REPLACEMENTS: dict[str, Callable[[dict[str, Any], str, Any], None]] = {
    "half of it": lambda own, name, t: put(own, name, t * 0.5),
    "the same": lambda own, name, t: put(own, name, t),
    "bfloat16": lambda own, name, t: put(own, name, t.bfloat16()),
    "float64": lambda own, name, t: put(own, name, t.double()),
    "whole numbers": lambda own, name, t: put(own, name, t.abs().ceil().long()),
    "every second": lambda own, name, t: put(own, name, torch.stack([t, t], dim=-1)[..., 0]),
    "longer": lambda own, name, t: put(own, name, torch.cat([t.reshape(-1), t.reshape(-1)])),
    "shorter": lambda own, name, t: put(own, name, t.reshape(-1)[:1].clone()),
    "a number": lambda own, name, t: put(own, name, 2.0),
    "a word": lambda own, name, t: put(own, name, "nothing"),
    "None": lambda own, name, t: put(own, name, None),
    "sparse": lambda own, name, t: put(own, name, t.to_sparse() if t.dim() else t),
    "nowhere": lambda own, name, t: put(own, name, t.to("meta")),
    "deleted": lambda own, name, t: own.pop(name),
}


class World:
    """Three parameters and the optimizer of one backend."""

    def __init__(self, backend: Any, inner: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"matrix": (6, 9), "vector": (37,), "image": (2, 3, 2, 2)}
        self.backend = backend
        self.params = {
            name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in shapes.items()
        }
        self.params["image"].requires_grad_(False)
        self.hidden: dict[str, Tensor] = {}  # data of parameters that were cut
        prior = {name: torch.rand(p.shape, generator=generator) for name, p in self.params.items()}
        self.optimizer = srft.SRFT(INNERS[inner](list(self.params.items())), prior, backend=backend, **options)

    def add_group(self, name: str) -> None:
        generator = torch.Generator().manual_seed(len(name))
        self.params[name] = p = nn.Parameter(torch.randn(5, 3, generator=generator))
        self.optimizer.add_param_group({"params": [(name, p)], "lr": 3e-2})

    def draw_gradients(self, seed: int, without: set[str], bad: bool) -> None:
        for k, (name, p) in enumerate(self.params.items()):
            if name in without or not p.requires_grad:
                continue
            generator = torch.Generator().manual_seed(100 * seed + k)
            grad = torch.randn(p.shape, generator=generator)
            if bad and grad.numel():
                grad.view(-1)[seed % grad.numel()] = float("nan")
            p.grad = grad.to(p.dtype)


def pickled(world: World) -> World:
    found: World = pickle.loads(pickle.dumps(world))
    return found


def answer_of(action: Callable[[], Any]) -> str:
    """Return what an action refuses, in its words; empty where it does it."""
    try:
        action()
    except (ValueError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Training(RuleBasedStateMachine):
    worlds: list[World]

    @initialize(
        inner=st.sampled_from(sorted(INNERS)),
        dtype=st.sampled_from(DTYPES),
        kappa=st.sampled_from([0.4, 1.0, srft.LinearKappa(6)]),
        damping=st.sampled_from(["rank", "mean", None]),
        nonfinite=st.sampled_from(["hold", "skip_step"]),
    )
    def begin(self, inner: str, dtype: torch.dtype, kappa: Any, damping: Any, nonfinite: Any) -> None:
        options = {"kappa": kappa, "damping": damping, "nonfinite": nonfinite, "strength": 2.0}
        self.worlds = [World(backend, inner, dtype, options) for backend in ("reference", "native")]

    def each(self, action: Callable[[World], Any]) -> None:
        """Do the same in both worlds: either both do it, or both refuse it in the same words and change nothing."""
        answers = []
        for world in self.worlds:
            before = [p.detach().clone() for p in world.params.values()]
            answers.append(answer_of(lambda world=world: action(world)))  # type: ignore[misc]
            if answers[-1]:
                assert all(torch.equal(b, p) for b, p in zip(before, world.params.values(), strict=True))
        assert answers[0] == answers[1]

    @rule(seed=st.integers(0, 50), without=st.sets(st.sampled_from(["matrix", "vector", "image"])), bad=st.booleans())
    def step(self, seed: int, without: set[str], bad: bool) -> None:
        for world in self.worlds:
            world.draw_gradients(seed, without, bad)
        self.each(lambda world: world.optimizer.step())
        self.compare()

    @rule(skipped=st.booleans())
    def step_of_scaled_gradients(self, skipped: bool) -> None:
        def scaled(world: World) -> None:
            world.draw_gradients(7, set(), False)
            for p in world.params.values():
                if p.grad is not None:
                    p.grad.mul_(8)
            optimizer: Any = world.optimizer
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(float(skipped))
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf

        self.each(scaled)
        self.compare()

    @rule(name=st.sampled_from(["matrix", "vector", "image"]), dtype=st.sampled_from(DTYPES))
    def cast(self, name: str, dtype: torch.dtype) -> None:
        for world in self.worlds:
            p = world.params[name]
            p.grad = None
            p.data = p.data.to(dtype)

    @rule(name=st.sampled_from(["matrix", "image"]), how=st.sampled_from(["transposed", "strided", "contiguous"]))
    def lay_out(self, name: str, how: str) -> None:
        for world in self.worlds:
            p = world.params[name]
            p.grad = None
            if how == "transposed":
                p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
            elif how == "strided":
                p.data = torch.stack([p.data, p.data], dim=-1)[..., 0]
            else:
                p.data = p.data.contiguous()

    @rule(name=st.sampled_from(["matrix", "vector"]), factor=st.sampled_from([0.5, 1.0]))
    def replace_data(self, name: str, factor: float) -> None:
        for world in self.worlds:
            world.params[name].data = world.params[name].data * factor

    @rule(name=st.sampled_from(["matrix", "vector"]))
    def cut(self, name: str) -> None:
        for world in self.worlds:
            p = world.params[name]
            if name not in world.hidden and len(p) > 2:
                world.hidden[name] = p.data
                p.grad = None
                p.data = p.data[:-1].clone()

    @precondition(lambda self: self.worlds[0].hidden)
    @rule()
    def mend(self) -> None:
        for world in self.worlds:
            for name, data in world.hidden.items():
                world.params[name].grad = None
                world.params[name].data = data.to(world.params[name].dtype)
            world.hidden.clear()

    @rule(name=st.sampled_from(["matrix", "vector", "image"]), thaw=st.booleans())
    def freeze(self, name: str, thaw: bool) -> None:
        for world in self.worlds:
            world.params[name].requires_grad_(thaw)

    @rule(to_none=st.booleans())
    def zero_grad(self, to_none: bool) -> None:
        for world in self.worlds:
            world.optimizer.zero_grad(set_to_none=to_none)

    @rule(lr=st.sampled_from([0.0, 1e-3, 1e-2, 0.1]))
    def change_the_learning_rate(self, lr: float) -> None:
        for world in self.worlds:
            world.optimizer.param_groups[0]["lr"] = lr

    @rule(change=st.sampled_from(CHANGES))
    def change_options(self, change: dict[str, Any]) -> None:
        known = self.worlds[0].optimizer.param_groups[0]
        rmsprop = isinstance(self.worlds[0].optimizer.inner, RMSprop)
        if "momentum" in change and rmsprop:  # torch's own does not survive that
            return
        if not change.keys() <= known.keys() and "stregnth" not in change:
            return
        before = [dict(world.optimizer.param_groups[0]) for world in self.worlds]
        for world in self.worlds:
            world.optimizer.param_groups[0].update(change)
        answers = [answer_of(world.optimizer.state_dict) for world in self.worlds]
        assert answers[0] == answers[1]
        if answers[0]:  # both go on with what they had
            for world, group in zip(self.worlds, before, strict=True):
                world.optimizer.param_groups[0].clear()
                world.optimizer.param_groups[0].update(group)

    @precondition(lambda self: len(self.worlds[0].optimizer.param_groups) < 3)
    @rule()
    def add_a_group(self) -> None:
        name = "added" + "x" * len(self.worlds[0].optimizer.param_groups)
        self.each(lambda world: world.add_group(name))

    @rule(through=st.sampled_from(["memory", "file"]))
    def save_and_load(self, through: str) -> None:
        def round_trip(world: World) -> None:
            saved = copy.deepcopy(world.optimizer.state_dict())
            if through == "file":
                buffer = io.BytesIO()
                torch.save(saved, buffer)
                buffer.seek(0)
                saved = torch.load(buffer, weights_only=True)
            world.optimizer.load_state_dict(saved)

        self.each(round_trip)

    @rule(what=st.sampled_from(["loaded", "reset"]))
    def replace_the_state(self, what: str) -> None:
        def replace(world: World) -> None:
            inner = world.optimizer.inner
            if what == "loaded":
                inner.load_state_dict(copy.deepcopy(inner.state_dict()))
            elif world.optimizer.gradients_stay_scaled:
                world.optimizer.state = defaultdict(dict)

        self.each(replace)

    @rule(
        name=st.sampled_from(["matrix", "vector"]),
        which=st.sampled_from(
            ["exp_avg", "exp_avg_sq", "momentum_buffer", "anchor", "prior", "transfer", "step", "transfer_step"]
        ),
        what=st.sampled_from(sorted(REPLACEMENTS)),
    )
    def replace_a_tensor_of_state(self, name: str, which: str, what: str) -> None:
        """Replace a tensor by hand, in both worlds. One that is refused is put back."""
        for world in self.worlds:
            own = world.optimizer.state.get(world.params[name], {})
            if own.get(which) is None:
                return
        before = [world.optimizer.state[world.params[name]][which] for world in self.worlds]
        for world, tensor in zip(self.worlds, before, strict=True):
            REPLACEMENTS[what](world.optimizer.state[world.params[name]], which, tensor)
        answers = [answer_of(world.optimizer.state_dict) for world in self.worlds]
        assert answers[0] == answers[1]
        if answers[0]:
            for world, tensor in zip(self.worlds, before, strict=True):
                world.optimizer.state[world.params[name]][which] = tensor

    @rule(how=st.sampled_from([copy.deepcopy, pickled]))
    def go_on_with_a_copy(self, how: Callable[[World], World]) -> None:
        self.worlds = [how(world) for world in self.worlds]

    @rule(gamma=st.sampled_from([None, 0.5]))
    def begin_a_task(self, gamma: float | None) -> None:
        self.each(lambda world: world.optimizer.begin_task(gamma=gamma))

    def compare(self) -> None:
        """Compare the weights to the rounding of a step. Then the native ones go on from the reference's."""
        reference, native = self.worlds
        for name, p in reference.params.items():
            q = native.params[name]
            epsilon = torch.finfo(p.dtype).eps
            assert p.dtype == q.dtype
            assert p.stride() == q.stride()
            a, b = p.detach().double(), q.detach().double()
            assert bool(a.isfinite().all())
            torch.testing.assert_close(b, a, rtol=4 * max(epsilon, 1e-7), atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
            q.data.copy_(p.data)
        assert int(reference.optimizer.nonfinite_count) == int(native.optimizer.nonfinite_count)
        torch.testing.assert_close(native.optimizer.penalty, reference.optimizer.penalty, rtol=1e-3, atol=1e-4)

    @invariant()
    def groups_are_shared(self) -> None:
        for world in getattr(self, "worlds", []):
            world.optimizer.state_dict()
            assert world.optimizer.param_groups is world.optimizer.inner.param_groups
            assert world.optimizer.backend == world.backend


TestTraining = Training.TestCase
TestTraining.settings = settings(
    max_examples=80,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a sequence of so many tensors takes minutes to shrink
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
TestTraining = pytest.mark.skipif(not library.available, reason=library.reason or "the library is there")(TestTraining)
