"""Several tasks in a row for a pre-trained ViT, each with a head of its own: what is left of all of them at the end?

The network knows CIFAR-10 by a linear head that was fitted to its features. It then learns Fashion-MNIST, handwritten
digits and CIFAR-10 in negative gray, as another sensor would see it, from a few images a class each. A head stays as it
is once its task is over. Between tasks the anchor moves to where the network is, and the significance of the task that
it has just learned is added, on that task's few images.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evidence import digits, foundation, low_rank, methods, training, vision
from evidence.trials import Record, Trial, mean_of
from evidence.vision import CLASSES, Images

ROW = ("fashion", "digits", "negative")
"""The tasks in their order."""
FIRST = "cifar10"
"""What the network knows before them."""
POOL = 1000
"""Images that the few are drawn from: the first of a task's training images."""
GRAY = (0.299, 0.587, 0.114)


class Task(NamedTuple):
    """Images of one task as the tuned blocks take them; the pool is pixels (N, H, W, 3) uint8."""

    pool: Images
    validation: Images
    test: Images


def negative(images: Images) -> Images:
    """The images in negative gray."""
    gray = images.inputs.float() @ torch.tensor(GRAY)
    return Images((255.0 - gray).round().to(torch.uint8)[..., None].expand(*gray.shape, 3).contiguous(), images.labels)


def handwritten() -> tuple[Images, Images]:
    """Scikit-learn's digits as pixels: training and test images, in the order of a draw."""
    pixels, labels = digits.images_and_labels()
    square = torch.from_numpy(pixels.reshape(-1, digits.SIDE, digits.SIDE) * 255.0).round().to(torch.uint8)
    every = vision.shuffled(Images(square[..., None].expand(*square.shape, 3).contiguous(), torch.from_numpy(labels)))
    return every.part(0, POOL), every.part(POOL, len(labels))


def sources(name: str) -> tuple[Images, Images]:
    """The training and test images of a task of the row."""
    if name == "digits":
        return handwritten()
    cifar, fashion = (vision.TASKS[task][0]() for task in ("cifar10", "fashion"))
    return fashion if name == "fashion" else (negative(cifar[0]), negative(cifar[1]))


@functools.lru_cache(maxsize=8)
def task_of(name: str, model: str, size: int, blocks: int) -> Task:
    """The same for every seed, except for the few images that are drawn from the pool."""
    train, test = sources(name)
    ready = functools.partial(_ready, model=model, size=size, blocks=blocks)
    judged = test.part(0, vision.VALIDATION + vision.TEST)
    return Task(
        train.part(0, POOL),
        ready(judged.part(0, vision.VALIDATION)),
        ready(judged.part(vision.VALIDATION, len(judged.labels))),
    )


def _ready(images: Images, model: str, size: int, blocks: int) -> Images:
    pixels = vision.pixels_of(images.inputs, size)
    return Images(_behind(pixels, model, size, blocks), images.labels)


def _behind(pixels: Tensor, model: str, size: int, blocks: int) -> Tensor:
    return foundation.tokens_before(vision.loaded(model, size), blocks, pixels) if blocks else pixels


@functools.lru_cache(maxsize=8)
def few_of(name: str, shots: int, seed: int, kind: tuple[str, int, int]) -> tuple[Images, Images]:
    """``shots`` images a class of a task's pool, and the same mirrored."""
    pool = task_of(name, *kind).pool
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pool.labels)))
    chosen = vision.first_of_each_class(pool.labels, order, shots)
    pixels, model, size, blocks = vision.pixels_of(pool.inputs[chosen], kind[1]), *kind
    made = [Images(_behind(one, model, size, blocks), pool.labels[chosen]) for one in (pixels, pixels.flip(3))]
    return made[0], made[1]


class Known(NamedTuple):
    """A task that the network can do, with what answers it from features (N, F): logits (N, classes)."""

    answer: Callable[[Tensor], Tensor]
    validation: Images
    test: Images

    def accuracy(self, model: Any) -> list[float]:
        """On validation and test images, in percent."""
        found = []
        for part in (self.validation, self.test):
            right = self.answer(vision.features_of(model, part)).argmax(1) == part.labels
            found.append(100.0 * right.double().mean().item())
        return found


_OLD: dict[tuple[Any, ...], tuple[Known, list[float]]] = {}
"""What the pre-trained network knows, and how well before training: the same for every seed."""


def run(one: Trial) -> Record:
    """Run a trial of three tasks in a row.

    The new task's measures are the mean of each task's right after it was learned. The old one's are the mean over all
    tasks but the last at the end, the pre-trained network's own among them.
    """
    start = time.perf_counter()
    kind = (one["model"], one["size"], one["blocks"])
    torch.manual_seed(one.seed)
    model = vision.network(*kind)
    base = vision.ready(*kind, ROW[0], one["shots"], one.seed)  # CIFAR-10 is what Fashion-MNIST's data keep
    if kind not in _OLD:
        pre_trained = Known(vision.old_head(model, base).logits, base.old_validation, base.old_test)
        _OLD[kind] = pre_trained, pre_trained.accuracy(model)
    known = [_OLD[kind][0]]
    before = [100.0 / CLASSES, 100.0 / CLASSES, *mean_of([_OLD[kind][1]])]
    head = vision.head_names(model)
    body = [name for name, _ in model.named_parameters() if name not in head]
    first = methods.weights_of(model, body)
    total: dict[str, Tensor] = {}
    few: Images | None = None
    learned, losses = [], []
    for number, name in enumerate(ROW):
        task = task_of(name, *kind)
        if one.method not in methods.WITHOUT_PRIOR:
            found = (
                vision.kept_prior(model, one, base, body)
                if few is None
                else vision.prior_of(model, one.get("estimator", "mas"), few, body)
            )
            total = methods.added(total, found, one)
        few, flipped = few_of(name, one["shots"], one.seed, kind)
        torch.manual_seed(one.seed + 100 * number)
        classifier = vision.fresh_head(model)
        losses.append(_learn(model, one, few, flipped, head, body, total, number))
        weight, bias = (tensor.detach().clone() for tensor in (classifier.weight, classifier.bias))
        new = Known(functools.partial(functional.linear, weight=weight, bias=bias), task.validation, task.test)
        learned.append(new.accuracy(model))
        known.append(new)
    at_end = [*(task.accuracy(model) for task in known[:-1]), learned[-1]]
    readouts = {"final": [*mean_of(learned), *mean_of(at_end[:-1])]}
    facts = {f"{name} at the end": values[1] for name, values in zip((FIRST, *ROW), at_end, strict=True)}
    facts |= {f"{name} when learned": values[1] for name, values in zip(ROW, learned, strict=True)}
    facts |= methods.travel(first, model, None)
    facts |= {"last_loss": sum(losses) / len(losses), "seconds": time.perf_counter() - start}
    return Record(one, before, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})


def _learn(
    model: Any,
    one: Trial,
    few: Images,
    flipped: Images,
    head: list[str],
    body: list[str],
    prior: Mapping[str, Tensor],
    number: int,
) -> float:
    """Train on one task and return the mean loss of the last tenth.

    With the option ``mix`` the body then goes back so far (WiSE-FT, arXiv 2109.01903, after every task).
    """
    was = methods.weights_of(model, body)
    lora = one.get("tuning") == "lora"
    trained = low_rank.add(model, vision.LORA_LAYERS, vision.LORA_RANK, vision.LORA_ALPHA) if lora else body
    model.get_classifier().requires_grad_(True)
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [{"params": [(name, named[name]) for name in head], "lr": vision.HEAD_RATE}]
    if one.method != "probe":
        groups.append({"params": [(name, named[name]) for name in trained], "lr": one["lr"]})
    optimizer = methods.optimizer_of(one, groups, prior, one["steps"])
    batches = vision.drawn(few, flipped, one["batch"], one["steps"], one.seed + 1000 * number)
    losses = training.train(optimizer, batches, one["steps"], functools.partial(vision.loss_of, model))
    if lora:
        low_rank.merge(model)
        for _, parameter in model.named_parameters():
            parameter.requires_grad_(True)
    if one.get("mix"):
        methods.go_back(model, was, one["mix"])
    return training.first_and_last(losses)["last_loss"]
