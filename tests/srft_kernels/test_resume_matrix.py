"""Every known optimizer, when wrapped, resumes to the bits of an undisturbed run, or wrapping refuses it."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import srft_kernels as srft
from tests.paths import REPOSITORY

STEPS = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "held by a prior": {"kappa": 1.0},
    "damped": {"kappa": 0.5, "damping": "rank"},
    "coupled": {"kappa": 1.0, "mode": "coupled"},
}
REFUSED = {"torch.LBFGS", "torch.SparseAdam"}
MORE: dict[str, dict[str, Any]] = {
    "torch.RMSprop": {"momentum": 0.9, "centered": True},
    "torch.SGD": {"momentum": 0.9},
    "pytorch_optimizer.Ranger21": {"num_iterations": STEPS},
    "transformers.Adafactor": {"relative_step": False},
    "pytorch_optimizer.SAM": {"base_optimizer": torch.optim.SGD},
}
OF_TORCH = sorted(name for name, found in vars(torch.optim).items() if isinstance(found, type) and name != "Optimizer")
PACKAGES = {
    "torch": ("torch.optim", OF_TORCH),
    "transformers": ("transformers.optimization", ["Adafactor"]),
    "timm": ("timm.optim", ["Adan", "AdaBelief", "Lamb", "Lion", "MADGRAD", "Lars", "NAdamW"]),
    "bitsandbytes": ("bitsandbytes.optim", ["AdamW8bit", "Lion8bit", "AdEMAMix8bit"]),
    "torchao": ("torchao.optim", ["AdamW8bit", "AdamW4bit", "AdamWFp8"]),
    "heavyball": ("heavyball", ["AdamW", "SOAP", "SFAdamW", "Muon"]),
    "schedulefree": ("schedulefree", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"]),
    "pytorch_optimizer": (
        "pytorch_optimizer",
        ["Adan", "Lion", "Lamb", "Prodigy", "StableAdamW", "CAME", "ADOPT", "SOAP", "Ranger21", "SAM"],
    ),
}  # fmt: skip


def cases() -> list[str]:
    """Return every optimizer by its package and name. Those of packages that are not installed skip."""
    return [f"{package}.{name}" for package, (_, names) in PACKAGES.items() for name in names]


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """The optimizers of heavyball set torch's own settings, which other tests should not run with."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.benchmark, cudnn.deterministic, cudnn.benchmark_limit
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.benchmark_limit = before
    torch.set_float32_matmul_precision(precision)


def make(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer by its default options, with a learning rate where it takes one."""
    package, name = kind.split(".")
    module = pytest.importorskip(
        PACKAGES[package][0], reason=f"{package} cannot be imported here: pip install '.[optimizers]'"
    )
    if package == "heavyball":
        module.utils.compile_mode = None  # compiling takes minutes, and is not what is tried
    if not hasattr(module, name):
        pytest.skip(f"this {package} has no {name}")
    return getattr(module, name)(model.named_parameters(), **{"lr": 0.01, **MORE.get(kind, {})})


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take some steps on batches that depend on nothing but their number."""
    if hasattr(optimizer, "train"):  # those without a schedule want to know
        optimizer.train()
    for step in steps:
        torch.manual_seed(100 + step)
        inputs = torch.randn(16, 12)

        def closure(inputs: Tensor = inputs) -> Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - inputs[:, :4]).square().mean()
            loss.backward()
            return loss

        closure()
        optimizer.step()


def through_a_file(value: Any) -> Any:
    """Return what was saved and loaded as a checkpoint is, without running anything in it."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumes(build: Callable[[nn.Module], torch.optim.Optimizer]) -> bool:
    """Return whether a run that stops in the middle ends on the bits of one that does not."""
    whole = network()
    advance(whole, build(whole), range(STEPS))
    first = network()
    optimizer = build(first)
    advance(first, optimizer, range(STEPS // 2))
    saved = through_a_file({"model": first.state_dict(), "optimizer": optimizer.state_dict()})
    second = network(1)
    again = build(second)
    second.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    advance(second, again, range(STEPS // 2, STEPS))
    return all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", cases())
def test_a_wrapped_optimizer_resumes_to_the_same_bits_or_is_refused(kind: str, options: str) -> None:
    start = network()
    prior = {name: torch.linspace(0.1, 2, p.numel()).reshape(p.shape) for name, p in start.named_parameters()}
    # The anchor is given, because the second wrapper is made around other weights than the first.
    anchor = {name: p.detach().clone() for name, p in start.named_parameters()}

    def build(model: nn.Module) -> torch.optim.Optimizer:
        return srft.SRFT(make(kind, model), prior=prior, anchor=anchor, strength=3.0, **OPTIONS[options])

    make(kind, network())
    if kind in REFUSED:
        with pytest.raises((TypeError, ValueError)):
            build(network())
        return
    try:
        build(network())
    except (TypeError, ValueError) as refusal:
        pytest.skip(f"refused when wrapped: {refusal}")
    try:
        alone = resumes(lambda model: make(kind, model))
    except Exception as error:  # its own checkpoints do not survive a file: any error at all
        pytest.skip(f"this optimizer does not resume by itself: {error}")
    if not alone:
        pytest.skip("this optimizer does not resume to the same bits by itself")
    assert resumes(build)


def copied_in_memory(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


def copied_as_a_file(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def goes_on(build: Callable[[nn.Module], torch.optim.Optimizer], how: Callable[[Any], Any]) -> bool:
    """Return whether a copy of model and optimizer, taken in mid-run, ends on the bits of the original."""
    model = network()
    optimizer = build(model)
    advance(model, optimizer, range(STEPS // 2))
    other, copied = how((model, optimizer))
    advance(model, optimizer, range(STEPS // 2, STEPS))
    advance(other, copied, range(STEPS // 2, STEPS))
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("how", [copy.deepcopy, copied_in_memory, copied_as_a_file], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", cases())
def test_a_copy_of_a_wrapped_optimizer_goes_on_to_the_same_bits(kind: str, how: Callable[[Any], Any]) -> None:
    def build(model: nn.Module) -> torch.optim.Optimizer:
        prior = {name: torch.linspace(0.1, 2, p.numel()).reshape(p.shape) for name, p in model.named_parameters()}
        return srft.SRFT(make(kind, model), prior=prior, strength=3.0, kappa=0.5)

    try:
        build(network())
    except (TypeError, ValueError) as refusal:
        pytest.skip(f"refused when wrapped: {refusal}")
    try:
        alone = goes_on(lambda model: make(kind, model), how)
    except Exception as error:  # it cannot be copied by itself: any error at all
        pytest.skip(f"this optimizer cannot be copied by itself: {error}")
    if not alone:
        pytest.skip("a copy of this optimizer does not go on to the same bits by itself")
    assert goes_on(build, how)


@pytest.mark.parametrize("kind", cases())
def test_step_hooks_run_once_a_step_around_every_optimizer(kind: str) -> None:
    model = network()
    try:
        optimizer = srft.SRFT(make(kind, model), kappa=0.5)
    except (TypeError, ValueError) as refusal:
        pytest.skip(f"refused when wrapped: {refusal}")
    calls: list[str] = []
    watched = {"outer": optimizer, "inner": optimizer.inner}
    if optimizer.gradients_stay_scaled or not hasattr(optimizer.inner, "_optimizer_step_pre_hooks"):
        del watched["inner"]  # its own step is not taken, or it knows no hooks
    for name, one in watched.items():
        one.register_step_pre_hook(lambda *_, name=name: calls.append(f"{name} begins"))
        one.register_step_post_hook(lambda *_, name=name: calls.append(f"{name} ends"))
    advance(model, optimizer, range(2))
    assert calls.count("outer begins") == calls.count("outer ends") == 2
    assert calls[0] == "outer begins"
    assert calls[-1] == "outer ends"
    # What is called by another name than torch's profiled step knows its hooks and does not run them.
    assert calls.count("inner begins") in ((2,) if kind.startswith("torch.") and "inner" in watched else (0, 2))


def test_every_optimizer_of_torch_but_those_refused_is_tried() -> None:
    names = {kind for kind in cases() if kind.startswith("torch.")}
    assert {"torch.AdamW", "torch.RMSprop", "torch.Adafactor", "torch.LBFGS"} <= names
    assert names >= REFUSED


def test_every_package_of_the_extra_is_tried() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    extra = project.split("\noptimizers = [", 1)[1].split("\n]", 1)[0]
    packages = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)>=', extra)}
    assert len(packages) == 5
    assert packages <= PACKAGES.keys()
