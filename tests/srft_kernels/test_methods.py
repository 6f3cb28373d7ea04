"""Every row of docs/methods.md, run as it stands there, agrees with its method in plain torch.

The implementations here use torch's optimizers, autograd and the papers' formulas, and nothing of this library.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

import srft_kernels as srft
from srft_kernels.ops.native import library
from tests.paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
ROWS = {
    cells[0].strip(): re.findall(r"`([^`]+)`", cells[3])
    for cells in (line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|"))
    if "`" in cells[3]
}
BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not library.available, reason=library.reason))]

STEPS = 12
NUMBERS: dict[str, Any] = {
    "lam": 1.7,
    "gamma": 0.8,
    "alpha": 0.6,
    "beta": 0.3,
    "eta": 0.05,
    "k": 0.9,
    "t0": 5,
    "steps": 60,
}
# Rounding of float64 over a dozen steps (most rows differ in the last bit). Each comparison shows by itself that this
# is narrow enough: a strength that is wrong by one part in a hundred million is outside.
ROUNDING = 1e-12
SLIGHTLY = 1 + 1e-8

State = dict[str, Tensor]
Objective = Callable[[Tensor, int], Tensor]


# ---------------------------------------------------------------- a network, and three tasks to learn in turn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def batch(task: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * task + step)
    x = torch.randn(16, 5, generator=generator, dtype=torch.float64) + task
    labels = torch.roll(x, task, dims=1)[:, :3].argmax(1)
    return x, labels


def data(task: int) -> list[tuple[Tensor, Tensor]]:
    return [batch(task, 500 + i) for i in range(2)]


def loss_fn(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(pair[0]), pair[1], reduction="none")


def inner_optimizer(kind: type[Optimizer], model: nn.Module) -> Optimizer:
    # An epsilon too small to count, because RecAdam's release has it in another place than torch.
    options: dict[type[Optimizer], dict[str, Any]] = {
        SGD: {"momentum": 0.9},
        AdamW: {"weight_decay": 0.0, "eps": 1e-30},
        RMSprop: {},  # one that is not fused
    }
    return kind(model.named_parameters(), lr=NUMBERS["eta"], **options[kind])  # type: ignore[call-arg]


def minimize(model: nn.Module, optimizer: Optimizer, task: int, objective: Objective = lambda loss, _: loss) -> None:
    for step in range(STEPS):
        optimizer.zero_grad()
        x, labels = batch(task, step)
        objective(cross_entropy(model(x), labels), step).backward()
        optimizer.step()


def pretrained() -> Network:
    torch.manual_seed(0)
    model = Network().double()
    minimize(model, SGD(model.parameters(), lr=0.3), task=0)
    return model


def weights_of(model: nn.Module) -> State:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ---------------------------------------------------------------- the methods, as their papers have them


def fisher_of(model: nn.Module, task: int) -> State:
    """Return the mean over samples of the squared gradient of the log-likelihood, a sample at a time."""
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    samples = [(x, label) for xs, labels in data(task) for x, label in zip(xs, labels, strict=True)]
    for x, label in samples:
        model.zero_grad()
        model(x).log_softmax(0)[label].backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            squares[name] += p.grad**2 / len(samples)
    return squares


def omega_of(model: nn.Module, task: int) -> State:
    """Return the mean over samples of the absolute gradient of the squared norm of the outputs."""
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    samples = [x for xs, _ in data(task) for x in xs]
    for x in samples:
        model.zero_grad()
        model(x).norm().pow(2).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            totals[name] += p.grad.abs() / len(samples)
    return totals


def quadratic(model: nn.Module, significance: State, anchor: State) -> Tensor:
    terms = [(significance[n] * (p - anchor[n]) ** 2).sum() for n, p in model.named_parameters() if n in significance]
    return torch.stack(terms).sum()


def ewc(model: nn.Module, inner: Optimizer, much: float) -> None:
    fisher, anchor = fisher_of(model, 0), weights_of(model)
    minimize(model, inner, 1, lambda loss, _: loss + much * NUMBERS["lam"] / 2 * quadratic(model, fisher, anchor))


def ewc_of_several_tasks(model: nn.Module, inner: Optimizer, much: float) -> None:
    penalties: list[Callable[[], Tensor]] = []
    for learned in (0, 1):
        if learned:
            minimize(model, SGD(model.parameters(), lr=0.3), learned)
        fisher, anchor = fisher_of(model, learned), weights_of(model)
        penalties.append(lambda fisher=fisher, anchor=anchor: quadratic(model, fisher, anchor))
    minimize(model, inner, 2, lambda loss, _: loss + much * NUMBERS["lam"] / 2 * sum(p() for p in penalties))


def online_ewc(model: nn.Module, inner: Optimizer, much: float) -> None:
    gamma = NUMBERS["gamma"]
    running = fisher_of(model, 0)
    for task in (1, 2):
        anchor = weights_of(model)
        fresh = copy.deepcopy(inner.state_dict())
        minimize(
            model,
            inner,
            task,
            lambda loss, _: loss + much * gamma / 2 * quadratic(model, running, anchor),  # noqa: B023
        )
        inner.load_state_dict(fresh)
        new = fisher_of(model, task)
        running = {name: gamma * running[name] + new[name] for name in new}


def si(model: nn.Module, inner: Optimizer, much: float) -> None:
    """Zenke, Poole and Ganguli, equations 3 to 5; the old task is the first that this model learns here."""
    start, optimizer = weights_of(model), SGD(model.parameters(), lr=0.3)
    path = {name: torch.zeros_like(p) for name, p in start.items()}
    for step in range(STEPS):
        x, labels = batch(1, step)
        optimizer.zero_grad()
        cross_entropy(model(x), labels).backward()
        before = weights_of(model)
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            path[name] -= p.grad * (p.detach() - before[name])
    anchor = weights_of(model)
    omega = {name: path[name].clamp(min=0) / ((anchor[name] - start[name]) ** 2 + 0.1) for name in path}
    minimize(model, inner, 2, lambda loss, _: loss + much * NUMBERS["lam"] * quadratic(model, omega, anchor))


def mas(model: nn.Module, inner: Optimizer, much: float) -> None:
    omega, anchor = omega_of(model, 0), weights_of(model)
    minimize(model, inner, 1, lambda loss, _: loss + much * NUMBERS["lam"] * quadratic(model, omega, anchor))


def l2_sp(model: nn.Module, inner: Optimizer, much: float) -> None:
    anchor = weights_of(model)

    def objective(loss: Tensor, _: int) -> Tensor:
        old = sum((p - anchor[n]).norm() ** 2 for n, p in model.named_parameters() if n.startswith("body"))
        new = sum(p.norm() ** 2 for n, p in model.named_parameters() if n.startswith("head"))
        return loss + much * NUMBERS["alpha"] / 2 * old + NUMBERS["beta"] / 2 * new

    minimize(model, inner, 1, objective)


class Afterwards(Optimizer):
    """An optimizer that does something to every weight, with its anchor, after the inner one's step."""

    def __init__(self, inner: Optimizer, model: nn.Module, change: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.change, self.taken = inner, change, 0
        self.anchors = [p.detach().clone() for p in model.parameters()]
        self.weights = list(model.parameters())

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.inner.step()
        for p, anchor in zip(self.weights, self.anchors, strict=True):
            p.copy_(self.change(p, anchor, self.taken))
        self.taken += 1


def decoupled(model: nn.Module, inner: Optimizer, much: float) -> None:
    pull = NUMBERS["eta"] * NUMBERS["lam"] * much
    minimize(model, Afterwards(inner, model, lambda p, anchor, _: p - pull * (p - anchor)), 1)


def decoupled_ewc(model: nn.Module, inner: Optimizer, much: float) -> None:
    fisher = dict(zip((id(p) for p in model.parameters()), fisher_of(model, 0).values(), strict=True))
    pull = NUMBERS["eta"] * NUMBERS["lam"] * much
    minimize(model, Afterwards(inner, model, lambda p, anchor, _: p - pull * fisher[id(p)] * (p - anchor)), 1)


def proximal(model: nn.Module, inner: Optimizer, much: float) -> None:
    pull = NUMBERS["eta"] * NUMBERS["lam"] * much
    minimize(model, Afterwards(inner, model, lambda p, anchor, _: (p + pull * anchor) / (1 + pull)), 1)


def annealing(t: int) -> float:
    """Return RecAdam's λ(t). Its first step is t = 1."""
    return 1 / (1 + math.exp(-NUMBERS["k"] * (t - NUMBERS["t0"])))


def recadams_objective(model: nn.Module, inner: Optimizer, much: float) -> None:
    anchor = weights_of(model)
    ones = {name: torch.ones_like(p) for name, p in anchor.items()}

    def objective(loss: Tensor, step: int) -> Tensor:
        share = annealing(step + 1)
        return share * loss + (1 - share) * much * NUMBERS["gamma"] / 2 * quadratic(model, ones, anchor)

    minimize(model, inner, 1, objective)


def recadams_pull(model: nn.Module, inner: Optimizer, much: float) -> None:
    def change(p: Tensor, anchor: Tensor, taken: int) -> Tensor:
        return p - NUMBERS["eta"] * (1 - annealing(taken + 1)) * much * NUMBERS["gamma"] * (p - anchor)

    minimize(model, Afterwards(inner, model, change), 1)


def recadam(model: nn.Module, inner: Optimizer, much: float) -> None:
    """Take a step by the released optimizer's arithmetic, written down from its formula."""
    eta, (beta1, beta2), epsilon = NUMBERS["eta"], (0.9, 0.999), 1e-30
    weights, anchors = list(model.parameters()), [p.detach().clone() for p in model.parameters()]
    first, second = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for t in range(1, STEPS + 1):
        x, labels = batch(1, t - 1)
        gradients = torch.autograd.grad(cross_entropy(model(x), labels), weights)
        share = annealing(t)
        with torch.no_grad():
            for p, a, g, m, v in zip(weights, anchors, gradients, first, second, strict=True):
                m.copy_(beta1 * m + (1 - beta1) * g)
                v.copy_(beta2 * v + (1 - beta2) * g**2)
                size = eta * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                p -= share * size * m / (v.sqrt() + epsilon)
                p -= eta * (1 - share) * much * NUMBERS["gamma"] * (p - a)


METHODS: dict[str, Callable[[nn.Module, Optimizer, float], None]] = {
    "EWC": ewc,
    "EWC, several tasks": ewc_of_several_tasks,
    "online EWC": online_ewc,
    "SI": si,
    "MAS": mas,
    "L2-SP": l2_sp,
    "L2 to the anchor, decoupled": decoupled,
    "L2 to the anchor, proximal": proximal,
    "EWC, decoupled": decoupled_ewc,
    "RecAdam's objective": recadams_objective,
    "RecAdam's pull": recadams_pull,
    "RecAdam": recadam,
}
ONLY = {"L2-SP": SGD, "RecAdam": AdamW}


# ---------------------------------------------------------------- the same by the page


class Page:
    """The names of the page, given by its own code, and its rows run with them."""

    def __init__(self, model: nn.Module, backend: Any = None) -> None:
        def wrap(*args: Any, **options: Any) -> srft.SRFT:
            return srft.SRFT(*args, backend=backend, **options)

        self.model = model
        self.names: dict[str, Any] = {name: getattr(srft, name) for name in srft.__all__}
        self.names |= {"SRFT": wrap, "torch": torch, "SGD": SGD, "AdamW": AdamW, "LambdaLR": LambdaLR, "exp": math.exp}
        self.names |= {"model": model, "loss_fn": loss_fn, "outputs_fn": lambda model, pair: model(pair[0]), **NUMBERS}

    def run(self, block_with: str) -> None:
        (block,) = [block for block in BLOCKS if block_with in block]
        exec(block, self.names)

    def estimate(self, task: int) -> None:
        self.names["data"] = data(task)
        self.run("fisher =")

    def train(self, row: str, inner: Optimizer | None, task: int) -> srft.SRFT:
        setting, *more = ROWS[row]
        self.names["inner"] = inner
        self.names["optimizer"] = optimizer = eval(setting, self.names)
        scheduler = eval(more[0], self.names) if more and "LR(" in more[0] else None
        for step in range(STEPS):
            optimizer.zero_grad()
            x, labels = batch(task, step)
            self.names["loss"] = loss = cross_entropy(self.model(x), labels)
            if more and scheduler is None:
                loss = eval(more[0], self.names)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        return optimizer


def by_the_page(row: str, kind: type[Optimizer], backend: Any) -> tuple[nn.Module, srft.SRFT]:
    model = pretrained()
    page = Page(model, backend)
    page.estimate(0)
    task = 1
    if row == "L2-SP":
        page.run("groups =")
    elif row == "online EWC":
        page.names["running"] = page.names["fisher"]
        page.train(row, inner_optimizer(kind, model), 1)
        page.estimate(1)
        page.run("running =")
        task = 2
    elif row == "SI":
        old = SGD(model.named_parameters(), lr=0.3)
        page.names |= {"old_optimizer": old, "learn_the_old_task": lambda: minimize(model, old, 1)}
        page.run("PathIntegral(")
        task = 2
    elif row == "EWC, several tasks":
        page.names |= {"first": page.names["fisher"], "after_first": copy.deepcopy(model.state_dict())}
        minimize(model, SGD(model.parameters(), lr=0.3), 1)
        page.estimate(1)
        page.names |= {"second": page.names["fisher"], "after_second": copy.deepcopy(model.state_dict())}
        page.run("between =")
        task = 2
    return model, page.train(row, inner_optimizer(kind, model), task)


def by_the_paper(row: str, kind: type[Optimizer], much: float = 1.0) -> nn.Module:
    model = pretrained()
    METHODS[row](model, inner_optimizer(kind, model), much)
    return model


def apart(ours: nn.Module, theirs: nn.Module) -> float:
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max((p.detach() - q.detach()).abs().max().item() for p, q in pairs)


# ---------------------------------------------------------------- the tests


CASES = [
    pytest.param(row, kind, id=f"{row}-{kind.__name__}")
    for row in ROWS
    for kind in ([ONLY[row]] if row in ONLY else [SGD, AdamW, RMSprop])
]
THE_INNER_OPTIMIZERS = {"step", "transfer_step", "exp_avg", "exp_avg_sq", "momentum_buffer"}


def test_every_row_has_a_method_here() -> None:
    assert list(ROWS) == list(METHODS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("row", "kind"), CASES)
def test_a_row_is_its_method(row: str, kind: type[Optimizer], backend: Any) -> None:
    ours, optimizer = by_the_page(row, kind, backend)
    assert apart(ours, by_the_paper(row, kind)) < ROUNDING
    assert apart(ours, by_the_paper(row, kind, SLIGHTLY)) > ROUNDING
    held = {name for state in optimizer.state.values() for name in state}
    assert held - THE_INNER_OPTIMIZERS == {"anchor", "prior"}


def test_recadams_paper_pulls_from_where_theta_was() -> None:
    """In one step from the same weights, the paper differs from its release by ηγ(1-λ) times the task's step."""
    moved = pretrained()
    minimize(moved, inner_optimizer(AdamW, moved), 1)
    anchors = pretrained().state_dict()

    def stepped(gamma: float) -> nn.Module:
        model = copy.deepcopy(moved)
        page = Page(model)
        page.estimate(0)
        page.names["gamma"] = gamma
        setting, scheduler = ROWS["RecAdam"]
        setting = setting.replace("strength", "anchor=anchors, strength")
        # By the anchor's RMS, which is not the present weights'.
        page.names["rms"] = {
            n: torch.full_like(a, max(a.square().mean().sqrt().item(), 1e-3)) for n, a in anchors.items()
        }
        page.names |= {"anchors": anchors, "inner": inner_optimizer(AdamW, model)}
        page.names["optimizer"] = optimizer = eval(setting, page.names)
        eval(scheduler, page.names)
        cross_entropy(model(batch(1, 0)[0]), batch(1, 0)[1]).backward()
        optimizer.step()
        return model

    gamma = NUMBERS["gamma"]
    pull = NUMBERS["eta"] * gamma * (1 - annealing(1))
    before, task, after = weights_of(moved), weights_of(stepped(0.0)), weights_of(stepped(gamma))
    for name, anchor in anchors.items():
        paper = task[name] - pull * (before[name] - anchor)
        assert (task[name] - before[name]).abs().min() > 1e-6
        torch.testing.assert_close(paper - after[name], pull * (task[name] - before[name]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("k", "t0", "reported"), [(0.5, 160, True), (0.66, 1000, False)])
def test_recadam_in_float32_far_before_its_middle(
    k: float, t0: int, reported: bool, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There λ(t) is exp(-k (t0 - t)), so the weights rest on their anchor, and nothing overflows on the way."""
    for name, number in {"k": k, "t0": t0, "steps": int(700 / k)}.items():
        monkeypatch.setitem(NUMBERS, name, number)
    model = pretrained().float()
    start = weights_of(model)
    page = Page(model, backend)
    page.names["data"] = [(x.float(), labels) for x, labels in data(0)]
    page.run("fisher =")
    monkeypatch.setitem(
        globals(), "batch", lambda task, step, made=batch: (made(task, step)[0].float(), made(task, step)[1])
    )
    optimizer = page.train("RecAdam", inner_optimizer(AdamW, model), 1)
    for name, p in weights_of(model).items():
        torch.testing.assert_close(p, start[name], rtol=1e-6, atol=1e-7)
    assert not reported or bool(optimizer.penalty.isfinite())
