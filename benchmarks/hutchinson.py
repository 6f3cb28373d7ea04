"""One update of Hutchinson's estimate by finite differences, by double backward, and as timm's Adahessian takes it.

An update is a forward and a backward pass, which leave the loss's gradients for a training step, and one probe of the
curvature folded into its estimate. No row includes the optimizer's step. What an update takes beyond a plain forward
and backward pass has columns of its own, for time and for memory.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

import srft_kernels as srft
from benchmarks import interleave, training
from benchmarks.interleave import Row, why_absent
from benchmarks.timing import clock, spread, wait
from benchmarks.training import CLASSES, SIDE, SMALL_LR, TRAINED
from benchmarks.workload import ROUNDS, timm_network
from srft_kernels.curvature import evaluate, fold

TURNS = max(2, ROUNDS // 3)  # an update takes several times as long as a step of the other tables
MIB = 2**20

# By section, the dtype in which autocast computes. A GPU has both sections, a CPU only the first.
AUTOCAST: dict[str, torch.dtype | None] = {"hutchinson": None, "hutchinson_bf16": torch.bfloat16}

PLAIN, REFERENCE = "plain", "srft_autograd"
NAMES = {
    PLAIN: "forward and backward, no curvature",
    "srft_forward": "finite differences, forward",
    "srft_central": "finite differences, central",
    REFERENCE: "double backward",
    "adahessian": "timm Adahessian, `zero_hessian()` and `set_hessian()`",
}
SPECS = {
    "srft_forward": srft.Hutchinson(difference="forward"),
    "srft_central": srft.Hutchinson(difference="central"),
    REFERENCE: srft.Hutchinson(method="autograd"),
}


def batch(device: str) -> int:
    return int(os.environ.get("SRFT_BENCH_BATCH", training.BATCH[device]))


def empty_rows() -> list[Row]:
    return [{"key": key, "contestant": name} for key, name in NAMES.items()]


def note(name: str, device: str) -> str:
    autocast = ", bfloat16 autocast" if AUTOCAST[name] else ""
    return f"{TRAINED}, batch {batch(device)} at {SIDE} pixels{autocast}; one probe"


# ---------------------------------------------------------------- memory


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that ``call`` holds at a time, above what was held before it.

    On a GPU, what torch's allocator has given out. On a CPU, the running sum of every allocation and release of torch's
    allocator, from its profiler: temporaries inside an operator count; a library's own workspace does not, nor does
    what the C library keeps of freed memory, which the process's resident size would show. That profiler does not know
    the size of what was allocated before it, so ``call`` must not release any such thing.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - held)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    recorded = seen.profiler
    assert recorded is not None
    assert recorded.kineto_results is not None
    changes = [(e.start_ns(), e.nbytes()) for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    changes.sort(key=lambda change: change[0])  # stable: what has the same time stays in the order of recording
    return max(accumulate((nbytes for _, nbytes in changes), initial=0))


# ---------------------------------------------------------------- updates


class Updates:
    """One network and one batch of noise; every contestant estimates the curvature of its loss."""

    def __init__(self, device: torch.device, autocast: torch.dtype | None = None) -> None:
        torch.manual_seed(0)
        with device:
            self.network = timm_network(TRAINED).train()
            self.images = torch.randn(batch(device.type), 3, SIDE, SIDE)
            self.labels = torch.randint(CLASSES, (batch(device.type),))
        self.device = device
        self.autocast = autocast
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.curvatures = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.draws = 0

    def loss(self, autocast: torch.dtype | None) -> Tensor:
        self.network.zero_grad()
        with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            logits = self.network(self.images)
        return torch.nn.functional.cross_entropy(logits.float(), self.labels)

    def plain(self) -> Tensor:
        loss = self.loss(self.autocast)
        loss.backward()
        return loss

    def ours(
        self, spec: srft.Hutchinson, into: Sequence[Tensor], draw: int, autocast: torch.dtype | None = None
    ) -> None:
        def closure() -> Tensor:
            loss = self.loss(autocast)
            if spec.method == "finite_difference":
                loss.backward()
            return loss

        numbers = range(len(self.parameters))
        _, product = evaluate(spec, self.parameters, numbers, into, draw, closure)
        fold(self.parameters, numbers, into, product)

    def contestant(self, key: str) -> Callable[[], object]:
        """Return what is timed: one update."""
        if key == PLAIN:
            return self.plain
        if key in SPECS:

            def update() -> None:
                self.draws += 1
                self.ours(SPECS[key], self.curvatures, self.draws, self.autocast)

            return update
        return self.adahessian()

    def adahessian(self) -> Callable[[], object]:
        """Return timm's update up to where it has its estimate.

        ``step()`` begins with the same two calls. The moving average and the weights' step are left out, as in the
        other rows.
        """
        from timm.optim import Adahessian

        optimizer = Adahessian(self.parameters, lr=SMALL_LR, update_each=1, n_samples=1)

        def update() -> None:
            # The fused kernels of attention have no second derivative, so a user has to ask for one that has.
            with sdpa_kernel(SDPBackend.MATH):
                self.loss(self.autocast).backward(create_graph=True)
                optimizer.zero_hessian()
                optimizer.set_hessian()

        return update

    def settle(self) -> None:
        """Restore the same state before every update: no gradients, and nothing left of a graph.

        Gradients that were made with ``create_graph`` hold their graph, and it holds them.
        """
        self.network.zero_grad()
        gc.collect()
        wait(self.device)

    def estimate(self, spec: srft.Hutchinson, autocast: torch.dtype | None) -> list[Tensor]:
        """Return z ⊙ Hz for draw 0, which is the same probe in every method."""
        found = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.ours(spec, found, 0, autocast)
        for tensor in found:
            tensor.div_(1 - spec.beta)
        self.settle()
        return found

    def errors(self, keys: Sequence[str]) -> dict[str, float | str]:
        """Return ‖a - b‖ / ‖b‖ over all parameters, with b by double backward in float32."""
        said: dict[str, float | str] = {"adahessian": "draws its own probe"}
        if self.autocast is None:
            said[REFERENCE] = "the reference"
        exact = self.estimate(SPECS[REFERENCE], None)
        for key in keys:
            if key in SPECS and key not in said:
                said[key] = relative_error(self.estimate(SPECS[key], self.autocast), exact)
        return said


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    def norm(tensors: Sequence[Tensor]) -> float:
        return math.hypot(*(float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in tensors))

    return norm([a - b for a, b in zip(found, exact, strict=True)]) / norm(exact)


def hutchinson_section(device: torch.device, name: str = "hutchinson") -> dict[str, Any]:
    """Take turns as in :mod:`benchmarks.interleave`, timed by the wall clock.

    Peaks are taken before the turns, because on a CPU the profiler that counts allocations takes time itself.
    """
    updates = Updates(device, AUTOCAST[name])
    found = {row["key"]: row for row in empty_rows()}
    entered: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for key, row in found.items():
        if time.monotonic() - interleave.BEGUN > interleave.SECONDS:
            row["why"] = f"the {interleave.SECONDS:.0f} s for benchmarks were over"
            continue
        try:
            update = updates.contestant(key)
            updates.settle()
            update()  # the first makes what is kept from then on
            updates.settle()
            peaks[key] = peak_bytes(update, device) / MIB
            entered[key] = update
        except Exception as error:  # one contestant's failure is a line in the table, and no reason to lose the others
            row["why"] = why_absent(error)
        updates.settle()
        if key not in entered and device.type == "cuda":
            torch.cuda.empty_cache()
    errors: dict[str, float | str] = updates.errors(list(entered)) if REFERENCE in entered else {}
    seconds: dict[str, list[float]] = {key: [] for key in entered}
    for _ in range(TURNS):
        for key, update in entered.items():
            updates.settle()
            start = clock()
            update()
            seconds[key].append(clock() - start)
    updates.settle()
    medians = {key: statistics.median(taken) for key, taken in seconds.items()}
    for key, taken in seconds.items():
        row = found[key]
        row |= {"ms": medians[key] * 1e3, "spread": spread(taken), "all ms": [s * 1e3 for s in taken]}
        row["peak MiB"] = peaks[key]
        if REFERENCE in medians:
            row["x baseline"] = medians[key] / medians[REFERENCE]
        if PLAIN in medians:
            row["extra ms"] = (medians[key] - medians[PLAIN]) * 1e3
            row["extra MiB"] = peaks[key] - peaks[PLAIN]
        if key == PLAIN:
            row["error"] = "none"
        elif key in errors:
            row["error"] = errors[key]
    return {
        "rows": list(found.values()),
        "rounds": TURNS,
        "note": note(name, device.type),
        "network": TRAINED,
        "batch": batch(device.type),
        "parameters": sum(p.numel() for p in updates.parameters),
        "tensors": len(updates.parameters),
    }
