"""A small case of every kernel, for compute-sanitizer and for a look at what synchronizes.

``python -m benchmarks.sanitizer_case`` takes three steps of each kind over tensors of awkward sizes: none, one element,
one less and one more than a warp and a block, and enough for several chunks. With ``--forbid-synchronization`` the
first two steps of each kind may synchronize, because they make statistics and plans. In the third, torch raises an
error wherever the host waits for the device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer, RMSprop

import srft_kernels as srft

SIZES = (0, 1, 31, 33, 1023, 4099, 70_001)
STEPS, FREE_STEPS = 3, 2
Inner = Callable[[list[torch.nn.Parameter]], Optimizer]


def parameters(device: torch.device, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Random, with gradients; the last lies transposed in memory."""
    made = [torch.nn.Parameter((0.02 * torch.randn(n, device=device)).to(dtype)) for n in SIZES]
    made.append(torch.nn.Parameter((0.02 * torch.randn(37, 65, device=device)).to(dtype).t()))
    for p in made:
        p.grad = 1e-3 * torch.randn_like(p)
    return made


def adamw(params: list[torch.nn.Parameter]) -> Optimizer:
    return AdamW(params, lr=1e-3, amsgrad=False)


def amsgrad(params: list[torch.nn.Parameter]) -> Optimizer:
    return AdamW(params, lr=1e-3, amsgrad=True)


def sgd(params: list[torch.nn.Parameter]) -> Optimizer:
    return SGD(params, lr=1e-3, momentum=0.9, nesterov=True)


def rmsprop(params: list[torch.nn.Parameter]) -> Optimizer:
    return RMSprop(params, lr=1e-3)


CASES: dict[str, tuple[Inner, torch.dtype, dict[str, Any]]] = {
    "AdamW, prior and rank damping": (adamw, torch.float32, {}),
    "AdamW, mean damping": (adamw, torch.float32, {"damping": "mean"}),
    "AdamW, decoupled, global mean": (adamw, torch.float32, {"mode": "decoupled", "normalize": "global"}),
    "AdamW, coupled, no damping": (adamw, torch.float32, {"mode": "coupled", "damping": None}),
    "AdamW, both pulls to the anchor": (adamw, torch.float32, {"transfer_anchor": "initial"}),
    "AMSGrad": (amsgrad, torch.float32, {}),
    "bfloat16": (adamw, torch.bfloat16, {}),
    "float16": (adamw, torch.float16, {}),
    "float64": (adamw, torch.float64, {}),
    "SGD, Nesterov": (sgd, torch.float32, {}),
    "around RMSprop": (rmsprop, torch.float32, {}),
    "AdamW, curvature on the way": (adamw, torch.float32, {"curvature": srft.Hutchinson(every=1)}),
}


def steps(device: torch.device, options: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield (name, one step) of every case."""
    for name, (inner, dtype, chosen) in CASES.items():
        params = parameters(device, dtype)
        prior = {p: torch.rand_like(p, dtype=torch.float32) for p in params}
        optimizer = srft.SRFT(inner(params), prior, kappa=0.5, **{"damping": "rank", **chosen}, **options)

        def closure(params: list[torch.nn.Parameter] = params) -> torch.Tensor:
            """Return a loss that is a sum of squares, whose gradients are known."""
            for p in params:
                p.grad = 0.5 * p.detach()
            return torch.zeros((), device=device)

        def step(optimizer: srft.SRFT = optimizer, closure: Any = closure) -> torch.Tensor:
            optimizer.step(closure if optimizer.curvature is not None else None)
            return optimizer.penalty

        yield name, step
    for dtype in (torch.float32, torch.bfloat16):
        params = parameters(device, dtype)
        anchors = [p.detach() + 0.01 for p in params]
        weights = [torch.rand_like(p) for p in params]

        def penalty(
            params: list[torch.nn.Parameter] = params,
            anchors: list[torch.Tensor] = anchors,
            weights: list[torch.Tensor] = weights,
        ) -> None:
            for p in params:
                p.grad = None
            srft.significance_penalty([*params], anchors, weights, 10.0).backward()

        yield f"significance_penalty and its backward, {dtype}", penalty


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitizer_case", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="native", help="native or triton; reference on a CPU for a look")
    parser.add_argument("--forbid-synchronization", action="store_true")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("not measured: no CUDA device", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    failed = 0
    for name, step in steps(device, {"backend": chosen.backend}):
        for count in range(STEPS):
            strictly = chosen.forbid_synchronization and device.type == "cuda" and count >= FREE_STEPS
            if strictly:
                torch.cuda.set_sync_debug_mode("error")
            try:
                step()
            except RuntimeError as error:
                if not strictly:
                    raise
                failed += 1
                print(f"{name}: {str(error).splitlines()[0]}")
                break
            finally:
                if strictly:
                    torch.cuda.set_sync_debug_mode("default")
    if device.type == "cuda":
        torch.cuda.synchronize()
    kinds = len(CASES) + 2
    if chosen.forbid_synchronization:
        print(f"{kinds - failed} of {kinds} kinds of step take no synchronization")
    else:
        print(f"{kinds} kinds of step, {STEPS} times each")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
