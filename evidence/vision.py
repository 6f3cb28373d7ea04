"""The bench of vision: a pre-trained ViT learns a task from a few images a class and must keep its features.

Its last blocks are tuned. What is kept is another data set, by a linear head that was fitted to the features before
training and stays as it is: what an old head still answers. How well a head does that is fitted anew to 400 images is
noted with the facts. Near: CIFAR-10 is learned and Fashion-MNIST kept. Far: the other way round, and significance is
estimated on images like those that are kept. Images are enlarged to 42 pixels, nine patches of 14. Blocks that stay
frozen have run once for each image, so that a trial on a processor takes half a minute.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import srft_kernels as srft
from evidence import foundation, low_rank, methods, training
from evidence.trials import ROOT, Record, Trial

CLASSES = 10
LORA_RANK, LORA_ALPHA = 16, 32
LORA_LAYERS = r"blocks\..+\.(qkv|proj|fc1|fc2)"
"""The layers of all blocks, as the tracker's ``tuning=lora`` has them; the patches' own "proj" is none of them."""
HEAD_RATE = 1e-3
VALIDATION, TEST = 200, 500
OLD, OLD_VALIDATION, OLD_TEST = 1000, 200, 500
"""Images of the other data set that the old head is fitted to, and that it is judged on."""
ANEW = 400
"""How many of them a head is fitted to anew, after training."""
PRIOR_IMAGES = 128
ESTIMATORS = ("mas", "mas_few", "features", "old_head", "uniform", "magnitude")
RIDGE = 100.0
MIXTURES = (0.5,)
MERGERS = (0.3, 3.0, 30.0)
EARLIER = (0.5,)
"""Shares of the run after which ``merged`` is judged too, as if it had been stopped early."""
FASHION = Path("/usr/share/datasets/fashion-mnist")
CACHE = ROOT / "runs" / "evidence"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(NamedTuple):
    """Pixels (N, H, W, 3) uint8, or what a network takes for them (N, ...), and labels (N,) int64."""

    inputs: Tensor
    labels: Tensor

    def part(self, start: int, end: int) -> Images:
        return Images(self.inputs[start:end], self.labels[start:end])


class Data(NamedTuple):
    """What a seed draws: the new task's images, those to estimate significance on, and those of the old task."""

    few: Images
    flipped: Images
    validation: Images
    test: Images
    natural: Images
    old: Images
    old_validation: Images
    old_test: Images


@contextlib.contextmanager
def _fetching(name: str, place: Path, folder: Path) -> Iterator[None]:
    """Say where images may be put by hand where torchvision cannot fetch them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"{name} is not at {place}, and torchvision could not fetch it ({error}). Put it there, or put "
            f"torchvision's own copy of it into {folder}."
        ) from error


@functools.cache
def _cifar() -> tuple[Images, Images]:
    """Training and test images of CIFAR-10: a subset in the shared folder, else torchvision's.

    They are in the order of a draw, because the subset is sorted by class.
    """
    shared = Path(os.environ.get("RGBX_SHARED", ROOT.parent / "shared" / "data")) / "cifar10" / "cifar10_subset.npz"
    if shared.exists():
        found = np.load(shared)
        parts = [(found[f"x_{part}"], found[f"y_{part}"]) for part in ("train", "test")]
    else:
        from torchvision.datasets import CIFAR10

        folder = ROOT / "runs" / "cifar10"
        with _fetching("CIFAR-10", shared, folder):
            sets = [CIFAR10(str(folder), train=train, download=True) for train in (True, False)]
        parts = [(one.data, np.asarray(one.targets)) for one in sets]
    made = [Images(torch.from_numpy(x), torch.from_numpy(np.asarray(y)).long()) for x, y in parts]
    return shuffled(made[0]), shuffled(made[1])


@functools.cache
def _fashion() -> tuple[Images, Images]:
    """3000 training images and 10000 test images of Fashion-MNIST: Debian's package, else torchvision's."""
    made = []
    for part in ("train", "t10k"):
        if FASHION.exists():
            files = [FASHION / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
            pixels, labels = (np.frombuffer(gzip.decompress(f.read_bytes()), np.uint8) for f in files)
            grey, labels = pixels[16:].reshape(-1, 28, 28), labels[8:]
        else:
            from torchvision.datasets import FashionMNIST

            folder = ROOT / "runs" / "fashion"
            with _fetching("Fashion-MNIST", FASHION, folder):
                found = FashionMNIST(str(folder), train=part == "train", download=True)
            grey, labels = found.data.numpy(), found.targets.numpy()
        three = np.repeat(grey[..., None], 3, axis=-1)
        made.append(Images(torch.from_numpy(three), torch.from_numpy(labels.astype(np.int64))))
    return made[0].part(0, 3000), made[1]


def shuffled(images: Images) -> Images:
    """The images in the order of a fixed draw."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images.labels)))
    return Images(images.inputs[order], images.labels[order])


TASKS = {"cifar10": (_cifar, _fashion), "fashion": (_fashion, _cifar)}
"""What is learned, and what is kept."""


def data_of(task: str, shots: int, seed: int, size: int) -> Data:
    """``shots`` images a class in the size of the network; test images are the same for every seed."""
    (train, test), (old, old_test) = (sets() for sets in TASKS[task])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(train.labels) - PRIOR_IMAGES))
    chosen = first_of_each_class(train.labels, order, shots)
    rest = order[~torch.isin(order, chosen)]
    few = Images(pixels_of(train.inputs[chosen], size), train.labels[chosen])
    validation = rest[:VALIDATION]
    parts = [
        Images(train.inputs[validation], train.labels[validation]),
        test.part(0, TEST),
        # Those that no seed draws from.
        _cifar()[0].part(-PRIOR_IMAGES, len(_cifar()[0].labels)),
        old.part(0, OLD),
        old_test.part(0, OLD_VALIDATION),
        old_test.part(OLD_VALIDATION, OLD_VALIDATION + OLD_TEST),
    ]
    ready = [Images(pixels_of(part.inputs, size), part.labels) for part in parts]
    return Data(few, Images(few.inputs.flip(3), few.labels), *ready)


def first_of_each_class(labels: Tensor, order: Tensor, count: int) -> Tensor:
    """The indices (CLASSES * count,) of the first ``count`` images of every class in an order of indices."""
    return torch.cat([order[labels[order] == c][:count] for c in range(CLASSES)])


def pixels_of(images: Tensor, size: int) -> Tensor:
    """Network input (N, 3, size, size) of pixels (N, H, W, 3) uint8."""
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    enlarged = functional.interpolate(images.permute(0, 3, 1, 2).float() / 255.0, size=size, mode="bicubic")
    return (enlarged.clamp(0.0, 1.0) - mean) / deviation


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _through(model: Any, images: Images, features: bool, batch: int = 100) -> Tensor:
    found = []
    for part in images.inputs.split(batch):
        hidden = model.forward_features(part.to(device()))
        found.append(model.forward_head(hidden, pre_logits=features).float().cpu())
    return torch.cat(found)


class Head(NamedTuple):
    """A linear head by ridge regression on standardized features (N, F)."""

    mean: Tensor
    deviation: Tensor
    weights: Tensor

    @classmethod
    def fitted(cls, features: Tensor, labels: Tensor) -> Head:
        features = features.double()
        mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
        inputs = cls._inputs(features, mean, deviation)
        penalty = RIDGE * torch.eye(inputs.shape[1]).double()
        targets = functional.one_hot(labels, CLASSES).double()
        return cls(mean, deviation, torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets))

    @staticmethod
    def _inputs(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        return torch.cat([(features - mean) / deviation, torch.ones(len(features), 1).double()], 1)

    def logits(self, features: Tensor) -> Tensor:
        """(N, classes) float64 of features (N, F)."""
        return self._inputs(features.double(), self.mean, self.deviation) @ self.weights

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """In percent."""
        return 100.0 * (self.logits(features).argmax(1) == labels).double().mean().item()


def features_of(model: Any, images: Images) -> Tensor:
    """(N, F): what the network hands to its head."""
    return _through(model, images, features=True)


def old_head(model: Any, data: Data) -> Head:
    """The head of the old task for a model's features."""
    return Head.fitted(features_of(model, data.old), data.old.labels)


def accuracy(model: Any, images: Images) -> float:
    """In percent."""
    return 100.0 * (_through(model, images, features=False).argmax(1) == images.labels).float().mean().item()


def old_features(model: Any, data: Data) -> list[Tensor]:
    """Features (N, F) of the old task's validation and test images."""
    return [features_of(model, part) for part in (data.old_validation, data.old_test)]


def kept(features: Sequence[Tensor], data: Data, head: Head) -> list[float]:
    """Accuracy in percent on the old task's validation and test images, of their features."""
    parts = (data.old_validation, data.old_test)
    return [head.accuracy(seen, part.labels) for seen, part in zip(features, parts, strict=True)]


def measured(model: Any, data: Data, head: Head, features: Sequence[Tensor] | None = None) -> list[float]:
    """The measures of a readout; ``features`` are those of the old images where they are known."""
    seen = old_features(model, data) if features is None else features
    found = [accuracy(model, data.validation), accuracy(model, data.test), *kept(seen, data, head)]
    return [round(value, 2) for value in found]


def anew(model: Any, data: Data, features: Sequence[Tensor]) -> dict[str, float]:
    """What is kept by a head that is fitted to the features as they are."""
    few = data.old.part(0, ANEW)
    found = kept(features, data, Head.fitted(features_of(model, few), few.labels))
    return {"anew_validation": found[0], "anew": found[1]}


@functools.lru_cache(maxsize=1)
def loaded(name: str, size: int) -> nn.Module:
    return foundation.network(name, size, CLASSES).eval()


@functools.lru_cache(maxsize=2)
def ready(name: str, size: int, blocks: int, task: str, shots: int, seed: int) -> Data:
    """The data of a seed as the network that is tuned takes it: behind the frozen blocks, if there are any."""
    data, whole = data_of(task, shots, seed, size), loaded(name, size)
    if not blocks:
        return data
    known = _shared_tokens(name, size, blocks, task)
    fresh = {kind: part for kind, part in data._asdict().items() if kind not in known}
    made = {k: Images(foundation.tokens_before(whole, blocks, p.inputs), p.labels) for k, p in fresh.items()}
    return Data(**known, **made)


@functools.lru_cache(maxsize=2)
def _shared_tokens(name: str, size: int, blocks: int, task: str) -> dict[str, Images]:
    """What is the same for every seed of a task, behind the frozen blocks."""
    data, whole = data_of(task, 1, 0, size), loaded(name, size)
    kinds = ("test", "natural", "old", "old_validation", "old_test")
    parts = {kind: getattr(data, kind) for kind in kinds}
    return {k: Images(foundation.tokens_before(whole, blocks, p.inputs), p.labels) for k, p in parts.items()}


def network(name: str, size: int, blocks: int) -> Any:
    """The pre-trained network, or its last blocks, with a head drawn from torch's generator."""
    whole = loaded(name, size)
    model: Any = copy.deepcopy(foundation.LastBlocks(whole, blocks) if blocks else whole)
    fresh_head(model)
    return model.to(device()).eval()


def fresh_head(model: Any) -> Any:
    """Draw a network's head anew from torch's generator, and return it."""
    classifier = model.get_classifier()
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    return classifier


def head_names(model: Any) -> list[str]:
    """The names of the head's parameters."""
    own = list(model.get_classifier().parameters())
    return [name for name, parameter in model.named_parameters() if any(parameter is one for one in own)]


_OLD_HEADS: dict[tuple[Any, ...], tuple[Head, list[float]]] = {}
"""The head of an old task, and what it answers before training: the same for every seed."""


def prior_of(
    model: Any, estimator: str, images: Images, names: Sequence[str], head: Head | None = None
) -> dict[str, Tensor]:
    """Significance of the pre-trained features, from images without labels.

    ``"mas"`` is the mean |∂‖f‖²/∂θ|, which sees the length of the features alone. ``"features"`` is the mean
    Σ_k (∂f_k/∂θ)², the Gauss-Newton diagonal of ‖f-f₀‖²/2, so every direction: the squared gradient of r·f with signs r
    at random has it as its mean. ``"old_head"`` is the same for the outputs of ``head``, the old task's, on old images.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"no estimator is called {estimator!r} here; there are {', '.join(ESTIMATORS)}")
    if estimator == "old_head" and head is None:
        raise ValueError("estimator old_head asks for a head, and this bench has none to give it: use features or mas")
    if estimator in ("uniform", "magnitude"):
        return dict(srft.estimate_prior(model, estimator=estimator, parameters=names))

    def features(network: Any, batch: Tensor) -> Tensor:
        found: Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return found

    def along_signs(network: Any, batch: Tensor) -> Tensor:
        found = features(network, batch) if head is None else head.logits(features(network, batch).cpu())
        return (found * (2.0 * torch.randint_like(found, 2) - 1.0)).sum(dim=1)

    batches = list(images.inputs.to(device()).split(16))
    if estimator in ("features", "old_head"):
        return dict(srft.estimate_prior(model, along_signs, batches, "fisher", parameters=names, draws=4))
    return dict(srft.estimate_prior(model, None, batches, "mas", outputs_fn=features, parameters=names))


def kept_prior(model: Any, one: Trial, data: Data, names: Sequence[str], head: Head | None = None) -> dict[str, Tensor]:
    """The prior of a trial; ``head`` is its old head, which some estimators need.

    That of the pre-trained weights is kept in a file for all seeds, because it does not depend on the new task's draw
    unless it is estimated on the new images.
    """
    estimator = one.get("estimator", "mas")
    by_head = estimator == "old_head"
    images = data.old.part(0, PRIOR_IMAGES) if by_head else data.few if estimator == "mas_few" else data.natural

    def estimated() -> dict[str, Tensor]:
        return prior_of(model, estimator, images, names, head if by_head else None)

    if estimator not in ("mas", "features", "old_head") or one.get("tuning"):
        return estimated()
    of = [one["model"].replace("/", "_"), one["size"], one["blocks"], *([one.task] if by_head else []), estimator]
    path = CACHE / ".".join([*map(str, of), "significance.safetensors"])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        srft.SignificanceMap(estimated(), estimator=estimator).save(path)
    return {name: tensor.to(device()) for name, tensor in srft.SignificanceMap.load(path).items()}


def drawn(data: Images, flipped: Images, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch a step, half of the images flipped."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(data.labels), generator=generator)])
        chosen, order = order[:size], order[size:]
        flip = torch.rand(len(chosen), generator=generator) < 0.5
        flip = flip.view(-1, *[1] * (data.inputs.dim() - 1))
        inputs = torch.where(flip, flipped.inputs[chosen], data.inputs[chosen])
        yield inputs.to(device()), data.labels[chosen].to(device())


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross entropy of inputs and labels (N,)."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs), labels)


def run(one: Trial) -> Record:
    """Run a trial."""
    start = time.perf_counter()
    kind = (one["model"], one["size"], one["blocks"])
    data = ready(*kind, one.task, one["shots"], one.seed)
    torch.manual_seed(one.seed)
    model = network(*kind)
    classifier, head = model.get_classifier(), head_names(model)
    task = (one.task, *kind)
    if task not in _OLD_HEADS:
        fitted = old_head(model, data)
        _OLD_HEADS[task] = fitted, [round(value, 2) for value in kept(old_features(model, data), data, fitted)]
    old, kept_before = _OLD_HEADS[task]
    before = [100.0 / CLASSES, 100.0 / CLASSES, *kept_before]
    first = {name: tensor for name, tensor in methods.weights_of(model).items() if name not in head}
    low_rank_names = low_rank.add(model, LORA_LAYERS, LORA_RANK, LORA_ALPHA) if one.get("tuning") == "lora" else None
    body = low_rank_names or list(first)
    classifier.requires_grad_(True)
    prior = kept_prior(model, one, data, body, old) if one.method not in methods.WITHOUT_PRIOR else {}
    steps = one["steps"]
    readouts: dict[str, list[float]] = {}
    losses: list[float] = []
    free = one.method in ("adamw", "merged") and low_rank_names is None
    thorough = one.method == "merged"
    early = {round(share * steps): f"at{share:g}" for share in EARLIER if thorough}
    average = methods.Average(model, steps) if thorough else None
    done = itertools.count(1)

    def each(step: int) -> None:
        if average is not None:
            average.update(model)
        mark = early.get(next(done))
        if mark is not None:
            readouts[mark] = measured(model, data, old)

    for stage, count in training.stages(one.method, steps):
        named = dict(model.named_parameters())
        groups: list[dict[str, Any]] = [{"params": [(name, named[name]) for name in head], "lr": HEAD_RATE}]
        groups += [{"params": [(name, named[name]) for name in body], "lr": one["lr"]}] if stage == "all" else []
        optimizer = methods.optimizer_of(one, groups, prior, count)
        batches = drawn(data.few, data.flipped, one["batch"], count, one.seed + len(losses))
        losses += training.train(optimizer, batches, count, functools.partial(loss_of, model), each)
    if low_rank_names is not None:
        low_rank.merge(model)
    features = old_features(model, data)
    readouts["final"] = measured(model, data, old, features)
    facts = {**methods.travel(first, model, None if low_rank_names else prior), **anew(model, data, features)}
    facts |= {f"travel {part}": methods.travel(names, model, None)["travel"] for part, names in parts_of(first).items()}
    if free:
        last = methods.weights_of(model)
        for share in MIXTURES:
            methods.load(model, {**last, **methods.between(first, last, share)})
            readouts[f"mix{share:g}"] = measured(model, data, old)
        for strength in MERGERS if thorough else ():
            methods.load(model, {**last, **methods.merged(first, last, prior, strength)})
            readouts[f"merge{strength:g}"] = measured(model, data, old)
    if average is not None:
        methods.load(model, average.weights)
        readouts["average"] = measured(model, data, old)
    facts |= {**training.first_and_last(losses), "seconds": time.perf_counter() - start}
    return Record(one, before, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})


def parts_of(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The weight matrices by their layer and by their block: where a network may move."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        names = name.split(".")
        if names[0] == "blocks" and tensor.dim() > 1:
            for part in (f"block {names[1]}", names[-2]):
                parts.setdefault(part, {})[name] = tensor
    return parts
