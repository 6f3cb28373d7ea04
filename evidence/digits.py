"""The bench of scikit-learn's handwritten digits: seconds a trial, so that every question about settings can be asked.

A perceptron learns upright digits, then a few examples of a new kind: turned, inverted, both, permuted or tilted ones,
or the other five classes behind a head of their own. What it still knows is its accuracy on the old kind.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import srft_kernels as srft
from evidence import low_rank, methods, training
from evidence.trials import Record, Trial, mean_of

CLASSES, FEATURES, SIDE = 10, 64, 8
OLD, POOL, VALIDATION = 597, 500, 300
"""Images for the old task, to draw the new task's examples from, and to choose settings on; the other 400 test."""
PRETRAINING_STEPS, PRETRAINING_RATE, PRETRAINING_BATCH = 600, 3e-3, 64
HEAD_RATE = 3e-3
"""Learning rate of a head that is new, whatever the method and its rate."""
CHECKPOINTS = (0.0625, 0.125, 0.25, 0.5)
PATH_CHECKPOINTS = tuple(part / 16 for part in range(1, 16))
"""Where a run whose κ falls exponentially is judged: it passes through every strength."""
MERGERS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
MIXTURES = tuple(share / 10 for share in range(1, 10))
ROW = ("inverted", "turned", "permuted")


class Split(NamedTuple):
    """Images (N, 64) float32 and labels (N,) int64 of one kind."""

    images: Tensor
    labels: Tensor


class Task(NamedTuple):
    """One kind of digits, split by the seed; ``pool`` is what few examples are drawn from."""

    old: Split
    pool: Split
    validation: Split
    test: Split
    head: str


class Perceptron(nn.Module):
    """Two hidden layers, and a linear head for each set of classes."""

    def __init__(self, width: int, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.second = nn.Linear(width, width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in heads.items()})

    def forward(self, images: Tensor, head: str = "old") -> Tensor:
        hidden = functional.relu(self.second(functional.relu(self.first(images))))
        logits: Tensor = self.heads[head](hidden)
        return logits


@functools.cache
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits: images (N, 64) float32 in [0, 1], labels (N,) int64."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'srft-kernels[evidence]'") from error
    found = load_digits()
    return found.data.astype(np.float32) / 16.0, found.target.astype(np.int64)


def transformed(images: np.ndarray, kind: str) -> np.ndarray:
    """Return images (N, 64) as digits of a kind.

    A kind is upright, turned by 90°, tilted by 30°, inverted, rotated (turned and inverted) or permuted (a fixed order
    of pixels).
    """
    square = images.reshape(-1, SIDE, SIDE)
    if kind == "turned":
        square = np.rot90(square, axes=(1, 2))
    elif kind == "tilted":
        from scipy import ndimage

        square = ndimage.rotate(square, 30.0, axes=(2, 1), reshape=False, order=1)
    elif kind == "inverted":
        square = 1.0 - square
    elif kind == "rotated":
        square = 1.0 - np.rot90(square, axes=(1, 2))
    elif kind == "permuted":
        order = np.random.default_rng(0).permutation(FEATURES)
        square = images[:, order]
    elif kind != "upright":
        raise ValueError(f"no kind of digits is called {kind!r}")
    return np.ascontiguousarray(square.reshape(-1, FEATURES), dtype=np.float32)


@functools.lru_cache(maxsize=32)
def task_of(kind: str, seed: int, classes: tuple[int, int] = (0, CLASSES), head: str = "old") -> Task:
    """Return a kind of digits with the classes from ``classes[0]`` up to below ``classes[1]``.

    With one seed, the same images are in the same part for every kind.
    """
    images, labels = images_and_labels()
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = transformed(images, kind)[order], labels[order]
    edges = np.cumsum([0, OLD, POOL, VALIDATION, len(labels) - OLD - POOL - VALIDATION])
    parts: list[Split] = []
    for start, end in itertools.pairwise(edges):
        inside = (labels[start:end] >= classes[0]) & (labels[start:end] < classes[1])
        parts.append(
            Split(torch.from_numpy(images[start:end][inside]), torch.from_numpy(labels[start:end][inside] - classes[0]))
        )
    old, pool, validation, test = parts
    return Task(old, pool, validation, test, head)


def few(pool: Split, shots: int, seed: int) -> Split:
    """Up to ``shots`` examples of each class."""
    order = torch.from_numpy(np.random.default_rng(1000 + seed).permutation(len(pool.labels)))
    labels = pool.labels[order]
    chosen = torch.cat([order[labels == c][:shots] for c in labels.unique()])
    return Split(pool.images[chosen], pool.labels[chosen])


def batches(data: Split, size: int, steps: int, seed: int) -> list[Split]:
    """One batch a step, drawn without repetition within an epoch."""
    generator = torch.Generator().manual_seed(seed)
    size, found, order = min(size, len(data.labels)), [], torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(data.labels), generator=generator)])
        found.append(Split(data.images[order[:size]], data.labels[order[:size]]))
        order = order[size:]
    return found


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, head: str) -> float:
    """In percent."""
    right: Tensor = model(split.images, head).argmax(1) == split.labels
    return 100.0 * right.float().mean().item()


def judged(model: nn.Module, new: Task, old: Sequence[Task]) -> list[float]:
    """The measures of a readout; what is kept is the mean over the old tasks."""
    kept = [[accuracy(model, part, task.head) for part in (task.validation, task.test)] for task in old]
    learned = [accuracy(model, part, new.head) for part in (new.validation, new.test)]
    return [*mean_of([learned]), *mean_of(kept)]


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Split,
    head: str,
    size: int,
    steps: int,
    seed: int,
    each: Callable[[int], None] = lambda step: None,
) -> float:
    """Train with a cosine schedule and return the mean loss of the last tenth of the run.

    ``each(step)`` is called after every step.
    """

    def loss_of(batch: Split) -> Tensor:
        return functional.cross_entropy(model(batch.images, head), batch.labels)

    losses = training.train(optimizer, batches(data, size, steps, seed), steps, loss_of, each)
    return training.first_and_last(losses)["last_loss"]


@functools.lru_cache(maxsize=64)
def _pretrained(seed: int, width: int, classes: int) -> dict[str, Tensor]:
    old = task_of("upright", seed, (0, classes))
    torch.manual_seed(seed)
    model = Perceptron(width, {"old": classes})
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAINING_RATE, weight_decay=1e-2)
    learn(model, optimizer, old.old, "old", PRETRAINING_BATCH, PRETRAINING_STEPS, seed)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def pretrained(seed: int, width: int, task: str) -> tuple[Perceptron, Task, Task]:
    """The model that knows the old task, the old task and the new one."""
    if task == "halves":
        half = CLASSES // 2
        model = Perceptron(width, {"old": half})
        model.load_state_dict(_pretrained(seed, width, half))
        torch.manual_seed(1000 + seed)
        model.heads["new"] = nn.Linear(width, half)
        return model, task_of("upright", seed, (0, half)), task_of("upright", seed, (half, CLASSES), "new")
    model = Perceptron(width, {"old": CLASSES})
    model.load_state_dict(_pretrained(seed, width, CLASSES))
    return model, task_of("upright", seed), task_of(task, seed)


def prior_of(model: nn.Module, one: Trial, old: Split, head: str) -> srft.SignificanceMap:
    """The significance that a trial asks for, judged on ``old``."""
    estimator = one.get("estimator", "fisher_exact")
    parts = list(zip(old.images.split(32), old.labels.split(32), strict=True))

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(network(batch[0], head), batch[1], reduction="none")

    def logits(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        answer: Tensor = network(batch[0], head)
        return answer

    reached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (not name.startswith("heads.") or f".{head}." in name)
    ]
    if estimator in ("mas", "gnb"):
        options: dict[str, Any] = {"draws": 4} if estimator == "gnb" else {}
        return srft.estimate_prior(model, None, parts, estimator, outputs_fn=logits, parameters=reached, **options)
    if estimator in ("uniform", "magnitude"):
        return srft.estimate_prior(model, estimator=estimator, parameters=reached)
    return srft.estimate_prior(model, loss, parts, estimator, parameters=reached)


_PRIORS: dict[str, dict[str, Tensor]] = {}


def _prior(model: nn.Module, one: Trial, old: Task, data: Split) -> dict[str, Tensor]:
    """The prior of a trial, estimated once for all trials that share it."""
    data_of = one.get("prior_data", "old")
    names = ("estimator", "width", "rank", *(("shots",) if data_of == "new" else ()))
    kind = one.task if data_of == "new" else one.task == "halves"
    key = f"{data_of} {kind} {one.seed} {[one.get(name) for name in names]}"
    if key not in _PRIORS:
        while len(_PRIORS) > 100:
            del _PRIORS[next(iter(_PRIORS))]
        _PRIORS[key] = dict(prior_of(model, one, data if data_of == "new" else old.old, old.head))
    return _PRIORS[key]


def add_low_rank(model: Perceptron, one: Trial, head: str) -> None:
    """Put updates beside every layer but a head that is new, which trains as a whole."""
    torch.manual_seed(2000 + one.seed)
    whole = f"heads.{head}" if head != "old" else ""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != whole]
    low_rank.add(model, layers, one["rank"], 2 * one["rank"])  # the usual alpha
    if whole:
        model.heads[head].requires_grad_(True)


def groups_of(model: nn.Module, lr: float, only_head: bool, head: str) -> list[dict[str, object]]:
    """Named groups: what was there before at ``lr``, a new head at its own rate, other heads not at all."""
    named = [
        (n, p)
        for n, p in model.named_parameters()
        if p.requires_grad and (not n.startswith("heads.") or f".{head}." in n)
    ]
    new = head != "old"
    heads = [(n, p) for n, p in named if n.startswith("heads.")]
    body = [] if only_head else [(n, p) for n, p in named if not n.startswith("heads.")]
    made = [{"params": body, "lr": lr}, {"params": heads, "lr": HEAD_RATE if new else lr}]
    return [group for group in made if group["params"]]


def run(one: Trial) -> Record:
    """Run a trial."""
    start = time.perf_counter()
    if one.task == "row":
        return _in_a_row(one, start)
    model, old, new = pretrained(one.seed, one["width"], one.task)
    if one.method in methods.LOW_RANK:
        add_low_rank(model, one, new.head)
    data = few(new.pool, one["shots"], one.seed)
    prior = _prior(model, one, old, data)
    before = judged(model, new, [old])
    with torch.no_grad():
        first_loss = functional.cross_entropy(model(data.images, new.head), data.labels).item()
    first = methods.weights_of(model)
    steps, readouts = one["steps"], {}
    average = methods.Average(model, steps)
    parts = PATH_CHECKPOINTS if str(one.get("kappa")).startswith("exponential") else CHECKPOINTS
    marks = {max(1, round(share * steps)) - 1: f"at{share:g}" for share in parts}
    offset = 0

    def each(step: int) -> None:
        average.update(model)
        if step + offset in marks:
            readouts[marks[step + offset]] = judged(model, new, [old])

    last_loss = 0.0
    for stage, count in training.stages(one.method, steps):
        optimizer = methods.optimizer_of(one, groups_of(model, one["lr"], stage == "head", new.head), prior, count)
        last_loss = learn(model, optimizer, data, new.head, one["batch"], count, one.seed + offset, each)
        offset += count
    readouts["final"] = judged(model, new, [old])
    facts = methods.travel(first, model, prior)
    last = methods.weights_of(model)
    methods.load(model, average.weights)
    readouts["average"] = judged(model, new, [old])
    for strength in MERGERS if one.method == "merged" else ():
        methods.load(model, {**last, **methods.merged(first, last, prior, strength)})
        readouts[f"merge{strength:g}"] = judged(model, new, [old])
    shares = () if one.method in methods.LOW_RANK else MIXTURES if one.method == "adamw" else MIXTURES[4:8:3]
    for share in shares:
        # A head that is new has no old weights to be mixed with.
        mixed = {n: t for n, t in methods.between(first, last, share).items() if new.head == "old" or ".new." not in n}
        methods.load(model, {**last, **mixed})
        readouts[f"mix{share:g}"] = judged(model, new, [old])
    facts |= {"first_loss": first_loss, "last_loss": last_loss, "seconds": time.perf_counter() - start}
    return Record(one, before, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})


def _in_a_row(one: Trial, start: float) -> Record:
    """Run several tasks one after another, in which significance adds up and the anchor moves, as in online EWC.

    The new task's measures are the mean of each task's right after it was learned. The old one's are the mean over all
    but the last task at the end.
    """
    model, first_task, _ = pretrained(one.seed, one["width"], "upright")
    known, learned, added = [first_task], [], []
    before = judged(model, task_of(ROW[0], one.seed), known)
    total: dict[str, Tensor] = {}
    for number, kind in enumerate(ROW):
        new = task_of(kind, one.seed)
        data = few(new.pool, one["shots"], one.seed + number)
        seen = known[-1].old if number == 0 else few(known[-1].pool, one["shots"], one.seed + number - 1)
        found = prior_of(model, one, seen, "old")
        total = methods.added(total, found, one)
        groups = groups_of(model, one["lr"], one.method == "probe", "old")
        optimizer = methods.optimizer_of(one, groups, total, one["steps"])
        learn(model, optimizer, data, "old", one["batch"], one["steps"], one.seed + number)
        learned.append(judged(model, new, known)[:2])
        added.append(judged(model, new, known))
        known.append(new)
    at_end = judged(model, known[-1], known[:-1])
    readouts = {"final": [*mean_of(learned), *at_end[2:]]}
    readouts |= {f"after_{kind}": measures for kind, measures in zip(ROW, added, strict=True)}
    return Record(one, before, readouts, {"seconds": round(time.perf_counter() - start, 3)})
