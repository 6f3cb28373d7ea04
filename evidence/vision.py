"""The bench of vision: a pre-trained ViT learns CIFAR-10 from a few images a class and must keep its features.

What is kept is measured without the new head: a ridge probe of the frozen features on Fashion-MNIST, fitted and tested
anew on the weights that are judged. Images are enlarged to 70 pixels, 25 patches of 14.
"""

from __future__ import annotations

import copy
import functools
import gzip
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import srft_kernels as srft
from evidence import foundation, methods
from evidence.trials import ROOT, Record, Trial

SIZE, CLASSES = 70, 10
HEAD_RATE = 1e-3
VALIDATION, TEST = 200, 500
PROBE, PROBE_VALIDATION, PROBE_TEST = 400, 200, 500
"""Images of Fashion-MNIST that the probe is fitted to, and that it is judged on."""
PRIOR_IMAGES = 128
RIDGE = 10.0
MIXTURES = (0.5,)
MERGERS = (0.3, 3.0, 30.0)
FASHION = Path("/usr/share/datasets/fashion-mnist")
CACHE = ROOT / "runs" / "evidence"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(NamedTuple):
    """Pixels (N, H, W, 3) uint8 and labels (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def part(self, start: int, end: int) -> Images:
        return Images(self.pixels[start:end], self.labels[start:end])


class Data(NamedTuple):
    """What a seed draws."""

    few: Images
    validation: Images
    test: Images
    natural: Images
    probe: Images
    probe_validation: Images
    probe_test: Images


@functools.cache
def _cifar() -> tuple[Images, Images]:
    """Training and test images of CIFAR-10: a subset in the shared folder, else torchvision's."""
    shared = Path(os.environ.get("RGBX_SHARED", ROOT.parent / "shared" / "data")) / "cifar10" / "cifar10_subset.npz"
    if shared.exists():
        found = np.load(shared)
        parts = [(found[f"x_{part}"], found[f"y_{part}"]) for part in ("train", "test")]
    else:
        from torchvision.datasets import CIFAR10

        sets = [CIFAR10(str(ROOT / "runs" / "cifar10"), train=train, download=True) for train in (True, False)]
        parts = [(one.data, np.asarray(one.targets)) for one in sets]
    made = [Images(torch.from_numpy(x), torch.from_numpy(np.asarray(y)).long()) for x, y in parts]
    return made[0], made[1]


@functools.cache
def _fashion() -> Images:
    """The 10000 test images of Fashion-MNIST: Debian's package, else torchvision's."""
    if FASHION.exists():
        pixels = np.frombuffer(
            gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
        )
        labels = np.frombuffer(
            gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
        )
        grey = pixels.reshape(-1, 28, 28)
    else:
        from torchvision.datasets import FashionMNIST

        found = FashionMNIST(str(ROOT / "runs" / "fashion"), train=False, download=True)
        grey, labels = found.data.numpy(), found.targets.numpy()
    three = np.repeat(grey[..., None], 3, axis=-1)
    return Images(torch.from_numpy(three), torch.from_numpy(labels.astype(np.int64)))


def data_of(shots: int, seed: int) -> Data:
    """``shots`` images a class; test images are the same for every seed."""
    train, test = _cifar()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(train.labels)))
    labels = train.labels[order]
    chosen = torch.cat([order[labels == c][:shots] for c in range(CLASSES)])
    rest = order[~torch.isin(order, chosen)]
    few = Images(train.pixels[chosen], train.labels[chosen])
    other = Images(train.pixels[rest], train.labels[rest])
    fashion = _fashion()
    edges = np.cumsum([0, PROBE, PROBE_VALIDATION, PROBE_TEST])
    probes = [fashion.part(start, end) for start, end in itertools.pairwise(edges)]
    natural = other.part(VALIDATION, VALIDATION + PRIOR_IMAGES)
    return Data(few, other.part(0, VALIDATION), test.part(0, TEST), natural, *probes)


def pixels_of(images: Tensor) -> Tensor:
    """Network input (N, 3, SIZE, SIZE) of pixels (N, H, W, 3) uint8."""
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    enlarged = functional.interpolate(images.permute(0, 3, 1, 2).float() / 255.0, size=SIZE, mode="bicubic")
    return (enlarged.clamp(0.0, 1.0) - mean) / deviation


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    return torch.autocast(device().type, torch.bfloat16)


@torch.no_grad()
def _through(model: Any, images: Images, features: bool, batch: int = 100) -> Tensor:
    found = []
    for pixels in images.pixels.split(batch):
        with autocast():
            hidden = model.forward_features(pixels_of(pixels).to(device()))
            found.append(model.forward_head(hidden, pre_logits=features).float().cpu())
    return torch.cat(found)


def accuracy(model: Any, images: Images) -> float:
    """In percent."""
    return 100.0 * (_through(model, images, features=False).argmax(1) == images.labels).float().mean().item()


def probed(model: Any, data: Data) -> tuple[float, float]:
    """Accuracy in percent of a ridge probe on Fashion-MNIST, on validation and test images."""
    features = [_through(model, part, True).double() for part in (data.probe, data.probe_validation, data.probe_test)]
    mean, deviation = features[0].mean(0), features[0].std(0).clamp(min=1e-6)
    fitted, *judged = [torch.cat([(f - mean) / deviation, torch.ones(len(f), 1).double()], 1) for f in features]
    targets = functional.one_hot(data.probe.labels, CLASSES).double()
    penalty = RIDGE * torch.eye(fitted.shape[1]).double()
    weights = torch.linalg.solve(fitted.T @ fitted + penalty, fitted.T @ targets)
    parts = (data.probe_validation, data.probe_test)
    shares = [((f @ weights).argmax(1) == p.labels).double().mean().item() for f, p in zip(judged, parts, strict=True)]
    return 100.0 * shares[0], 100.0 * shares[1]


def measured(model: Any, data: Data) -> list[float]:
    """The measures of a readout."""
    found = [accuracy(model, data.validation), accuracy(model, data.test), *probed(model, data)]
    return [round(value, 2) for value in found]


@functools.lru_cache(maxsize=1)
def _loaded(name: str) -> nn.Module:
    return foundation.network(name, SIZE, CLASSES)


def _network(name: str) -> Any:
    """The pre-trained network with a head drawn from torch's generator."""
    model: Any = copy.deepcopy(_loaded(name))
    nn.init.trunc_normal_(model.get_classifier().weight, std=0.02)
    nn.init.zeros_(model.get_classifier().bias)
    return model.to(device()).eval()


_KEPT_BEFORE: dict[str, list[float]] = {}


def prior_of(model: Any, estimator: str, data: Data, head: Sequence[str]) -> dict[str, Tensor]:
    """Significance of the pre-trained features; no old data, which nobody has: MAS on unlabelled natural images."""
    body = [name for name, _ in model.named_parameters() if name not in head]
    if estimator in ("uniform", "magnitude"):
        return dict(srft.estimate_prior(model, estimator=estimator, parameters=body))

    def features(network: Any, batch: Tensor) -> Tensor:
        found: Tensor = network.forward_head(network.forward_features(batch), pre_logits=True)
        return found

    source = data.few if estimator == "mas_few" else data.natural
    batches = list(pixels_of(source.pixels).to(device()).split(16))
    return dict(srft.estimate_prior(model, None, batches, "mas", outputs_fn=features, parameters=body))


def _prior(model: Any, one: Trial, data: Data, head: Sequence[str]) -> dict[str, Tensor]:
    """The prior of a trial, in a file where it takes a while; one for all seeds, as what matters to the old features is
    no question of the new task's draw, unless it is judged on the new images.
    """
    estimator = one.get("estimator", "mas")
    seed = one.seed if estimator == "mas_few" else 0
    path = CACHE / f"{one['model'].replace('/', '_')}.{estimator}.{seed}.significance.safetensors"
    if estimator in ("uniform", "magnitude"):
        return prior_of(model, estimator, data, head)
    if not path.exists():
        made = prior_of(model, estimator, data if estimator == "mas_few" else data_of(one["shots"], 0), head)
        path.parent.mkdir(parents=True, exist_ok=True)
        srft.SignificanceMap(made, estimator=estimator).save(path)
    return {name: tensor.to(device()) for name, tensor in srft.SignificanceMap.load(path).items()}


def drawn(data: Images, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch a step, half of the images flipped."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(data.labels), generator=generator)])
        chosen, order = order[:size], order[size:]
        pixels = pixels_of(data.pixels[chosen])
        flip = torch.rand(len(chosen), generator=generator) < 0.5
        yield torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels).to(device()), data.labels[chosen].to(device())


def run(one: Trial) -> Record:
    """Run a trial."""
    start = time.perf_counter()
    torch.manual_seed(one.seed)
    model = _network(one["model"])
    data = data_of(one["shots"], one.seed)
    classifier = model.get_classifier()
    head = [name for name, p in model.named_parameters() if any(p is q for q in classifier.parameters())]
    if one["model"] not in _KEPT_BEFORE:
        _KEPT_BEFORE[one["model"]] = [round(value, 2) for value in probed(model, data)]
    before = [100.0 / CLASSES, 100.0 / CLASSES, *_KEPT_BEFORE[one["model"]]]
    prior = _prior(model, one, data, head) if one.method not in ("probe", "adamw") else {}
    first = {name: p.detach().clone() for name, p in model.named_parameters() if name not in head}
    steps = one["steps"]
    readouts: dict[str, list[float]] = {}
    losses: list[float] = []
    average = methods.Average(model, steps) if one.method == "merged" else None
    for stage, count in _stages(one.method, steps):
        named = [(name, p) for name, p in model.named_parameters() if name not in head]
        groups = [{"params": [(n, p) for n, p in model.named_parameters() if n in head], "lr": HEAD_RATE}]
        groups += [{"params": named, "lr": one["lr"]}] if stage == "all" else []
        optimizer = methods.optimizer_of(one, groups, prior, count)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(methods.cosine, steps=count))
        for pixels, labels in drawn(data.few, one["batch"], count, one.seed + len(losses)):
            optimizer.zero_grad()
            with autocast():
                loss = functional.cross_entropy(model(pixels).float(), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            if average is not None:
                average.update(model)
            losses.append(loss.item())
            if average is not None and len(losses) == steps // 2:
                readouts["at0.5"] = measured(model, data)
    readouts["final"] = measured(model, data)
    facts: Mapping[str, float] = methods.travel(first, model, prior)
    if one.method in ("adamw", "merged"):
        last = {name: p.detach().clone() for name, p in model.named_parameters()}
        for share in MIXTURES:
            methods.load(model, {**last, **methods.between(first, last, share)})
            readouts[f"mix{share:g}"] = measured(model, data)
        for strength in MERGERS if one.method == "merged" else ():
            methods.load(model, {**last, **methods.merged(first, last, prior, strength)})
            readouts[f"merge{strength:g}"] = measured(model, data)
    if average is not None:
        methods.load(model, average.weights)
        readouts["average"] = measured(model, data)
    tail = max(1, steps // 10)
    facts = {
        **facts,
        "first_loss": sum(losses[:tail]) / tail,
        "last_loss": sum(losses[-tail:]) / tail,
        "seconds": time.perf_counter() - start,
    }
    return Record(one, before, readouts, {name: float(f"{value:.4g}") for name, value in facts.items()})


def _stages(method: str, steps: int) -> list[tuple[str, int]]:
    if method == "probe":
        return [("head", steps)]
    return [("head", steps // 2), ("all", steps - steps // 2)] if method == "lpft" else [("all", steps)]
