"""Twenty steps of every kind of optimizer, on tensors that no library's generator or rounding can change.

``python tests/srft_kernels/recorded_steps.py`` writes the recording that ``test_recorded_steps.py`` compares with. The
recording is of the library before it was rearranged. Make it anew only where what a step computes is meant to change.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srft_kernels as srft
from srft_kernels.significance import PathIntegral

FOLDER = Path(__file__).parent / "recordings"
DIGESTS = FOLDER / "steps.json"
CHECKPOINTS = FOLDER / "checkpoints.pt"
STEPS, SAVED_AT = 20, 10
SHAPES = {"matrix": (60, 67), "vector": (37,), "empty": (0,), "scalar": (), "image": (5, 3, 3, 2), "free": (64,)}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "transfer", "curvature")


class Plain(torch.optim.Optimizer):
    """Gradient descent that no kernel fuses, in two roundings that every processor makes alike."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad * group["lr"])


INNERS: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=0.01),
    "unfused": lambda p: Plain(p, lr=0.01),
}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every case by name: its inner optimizer, dtype and options."""
    for inner, dtype, mode in itertools.product(INNERS, DTYPES, ("proximal", "decoupled", "coupled")):
        for damping in ("rank", "mean", None):
            yield (
                f"{inner}, {dtype}, {mode}, {damping}",
                {"inner": inner, "dtype": dtype, "mode": mode, "damping": damping},
            )
        base = {"inner": inner, "dtype": dtype, "mode": mode}
        yield f"{inner}, {dtype}, {mode}, to the anchor", {**base, "transfer_anchor": "initial", "normalize": "global"}
        yield f"{inner}, {dtype}, {mode}, own transfer", {**base, "transfer": "own", "normalize": None, "strength": 1.0}
        yield f"{inner}, {dtype}, {mode}, curvature", {**base, "curvature": True}
        if inner != "unfused":
            yield f"{inner}, {dtype}, {mode}, curvature and path", {**base, "curvature": True, "path": True}


def numbers(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return float64 values from -1 to 1 that are exact in every dtype, because they are multiples of 1/128."""
    return torch.from_numpy(np.asarray(np.random.RandomState(seed).randint(-128, 129, shape) / 128.0))


class Run:
    """One case: its parameters, its optimizer and the gradients of each step."""

    def __init__(self, options: dict[str, Any]) -> None:
        options = dict(options)
        inner, dtype = options.pop("inner"), DTYPES[options.pop("dtype")]
        curvature, path = options.pop("curvature", False), options.pop("path", False)
        self.params = {
            name: torch.nn.Parameter(numbers(k, shape).to(dtype)) for k, (name, shape) in enumerate(SHAPES.items())
        }
        image = self.params["image"]
        image.data = image.data.to(memory_format=torch.channels_last)
        held = [(name, p) for name, p in self.params.items() if name != "free"]
        groups = [
            {"params": held[:3]},
            {"params": held[3:], "strength": 2.0},
            {"params": [("free", self.params["free"])], "regularize": False},
        ]
        prior = {name: numbers(100 + k, p.shape).square() for k, (name, p) in enumerate(held)}
        self.optimizer = srft.SRFT(
            INNERS[inner](groups),
            prior=None if curvature else prior,
            kappa=srft.CosineKappa(total_steps=STEPS),
            curvature=srft.Hutchinson(every=3, seed=5) if curvature else None,
            backend="native",
            strict=False,
            **{"damping": "rank", "normalize": "tensor", **options},
        )
        self.path = PathIntegral(self.optimizer) if path else None
        self.coupled = curvature

    def step(self, index: int) -> None:
        """Take a step with the gradients of an elementwise quadratic, whose linear part is another one in each step."""

        def closure() -> Tensor:
            for k, p in enumerate(self.params.values()):
                drawn = numbers(1000 + 50 * index + k, p.shape).to(p.dtype)
                p.grad = torch.empty_like(p).copy_(drawn + p.detach() * 0.5)
            return torch.zeros(())

        if self.coupled:
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()

    def digest(self) -> str:
        """Return 128 bits of the SHA-256 of all weights, their averages, their paths and the penalties."""
        found = hashlib.sha256()

        def add(tensor: Tensor) -> None:
            if tensor.numel():
                found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

        for p in self.params.values():
            add(p)
        for state in self.optimizer.state_dict()["state"].values():
            for name in AVERAGES:
                if name in state:
                    add(state[name])
        if self.path is not None:
            for _, omega in sorted(self.path.significance().items()):
                add(omega)
        add(self.optimizer.prior_penalty)
        add(self.optimizer.transfer_penalty)
        return found.hexdigest()[:32]


def chosen_checkpoints() -> list[str]:
    """Return the cases whose state dict after ten steps is kept.

    They cover every inner optimizer and kind of state, in float32.
    """
    kinds = ("rank", "to the anchor", "curvature")
    return [f"{inner}, float32, proximal, {kind}" for inner in INNERS for kind in kinds]


def record() -> None:
    digests, checkpoints = {}, {}
    kept = set(chosen_checkpoints())
    for name, options in cases():
        run = Run(options)
        for index in range(STEPS):
            if index == SAVED_AT and name in kept:
                state = run.optimizer.state_dict()
                weights = {k: p.detach().clone() for k, p in run.params.items()}
                checkpoints[name] = {"optimizer": state, "weights": weights}
                checkpoints[name] = torch_copy(checkpoints[name])
            run.step(index)
        digests[name] = run.digest()
    FOLDER.mkdir(exist_ok=True)
    DIGESTS.write_text(json.dumps(digests, indent=0) + "\n")
    torch.save(checkpoints, CHECKPOINTS)


def torch_copy(value: Any) -> Any:
    """Return nested containers with every tensor cloned."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: torch_copy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(torch_copy(v) for v in value)
    return value


if __name__ == "__main__":
    record()
