"""Take SRFT steps from numbers that do not depend on torch, and write the results: run with BACKEND OUT.npz."""

from __future__ import annotations

import sys

import numpy as np
import torch

import srft_kernels as srft
from srft_kernels.ops.native import library

STEPS = 4
SHAPES = {"matrix": (67, 129), "vector": (1000,), "scalar": ()}
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


def inner_of(name: str, params: list[tuple[str, torch.Tensor]]) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(params, lr=1e-2, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(params, lr=1e-2, weight_decay=1e-2)


def as_array(param: torch.Tensor) -> np.ndarray:
    """Return a copy as an array. NumPy has no bfloat16, and widening to float32 loses nothing."""
    value = param.detach()
    return np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def main(backend: str, out: str) -> None:
    if backend == "native" and not library.available:
        raise SystemExit(library.reason)
    arrays: dict[str, np.ndarray] = {"torch": np.array(torch.__version__)}
    for inner in ("adamw", "sgd"):
        for label, dtype in DTYPES.items():
            random = np.random.RandomState(0)  # NumPy promises to keep the stream of this generator only
            params = {
                name: torch.from_numpy(np.asarray(random.standard_normal(shape))).to(dtype).requires_grad_()
                for name, shape in SHAPES.items()
            }
            prior = {n: torch.from_numpy(np.asarray(random.standard_exponential(s))).float() for n, s in SHAPES.items()}
            key = f"{inner}/{label}"
            for name, param in params.items():
                arrays[f"{key}/{name}/start"] = as_array(param)
            optimizer = srft.SRFT(
                inner_of(inner, list(params.items())),
                prior=prior,
                strength=10.0,
                kappa=srft.CosineKappa(total_steps=STEPS),
                damping="rank",
                backend=backend,
            )
            for _ in range(STEPS):
                for param in params.values():
                    param.grad = torch.from_numpy(np.asarray(random.standard_normal(param.shape))).to(dtype)
                optimizer.step()
            for name, param in params.items():
                arrays[f"{key}/{name}/weight"] = as_array(param)
            arrays[f"{key}/penalty"] = optimizer.penalty.numpy()
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
