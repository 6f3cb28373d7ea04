"""A whole training step, plain and with SRFT; and the optimizer's step alone, eager and out of a CUDA graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from benchmarks.contestants import DECAY, STRENGTH, Unavailable
from benchmarks.interleave import HEAD_START, Row, why_absent
from benchmarks.srft import BACKENDS, backend_option, wrap
from benchmarks.timing import Stopwatch, clock, spread
from benchmarks.workload import NETWORK, ROUNDS, TWO_STREAM, Workload, timm_network

TRAINED = "vit_base_patch16_224" if NETWORK == TWO_STREAM else NETWORK
BATCH = {"cuda": 32, "cpu": 2}
SIDE, CLASSES = 224, 1000
SMALL_LR = 1e-6  # the images are noise, and nothing may diverge while it is timed
WARM_STEPS = 3
NOTE = "timm's ViT-B at 224 pixels, forward, backward and step; on a GPU batches of 32 under bfloat16 autocast"


def rows(device: str) -> list[tuple[str, str]]:
    """Return (key, name): plain AdamW first."""
    found = [("adamw", "torch AdamW(fused=True)")]
    for backend, label in BACKENDS[device].items():
        found.append((f"srft_{backend}" if backend else "srft", f"SRFT(AdamW){label}, prior and rank damping"))
    return found


def empty_rows(device: str) -> list[Row]:
    return [{"key": key, "contestant": name} for key, name in rows(device)]


class TrainingStep:
    """One network, one batch of noise, and an optimizer for each contestant over the same parameters."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        with device:
            self.network = timm_network(TRAINED).train()
            self.images = torch.randn(BATCH[device.type], 3, SIDE, SIDE)
            self.labels = torch.randint(CLASSES, (BATCH[device.type],))
        self.device = device

    def optimizer(self, key: str) -> Optimizer:
        """Raises :class:`Unavailable` for a backend that is not there."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        inner = AdamW(parameters, lr=SMALL_LR, weight_decay=DECAY, fused=key == "adamw")
        if key == "adamw":
            return inner
        prior = {p: torch.rand_like(p).pow(4) for p in parameters}
        backend = backend_option(self.device, key.partition("_")[2])
        return wrap(inner, prior, strength=STRENGTH, kappa=0.5, **backend)

    def __call__(self, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(self.images)
        torch.nn.functional.cross_entropy(logits.float(), self.labels).backward()
        optimizer.step()


def training_section(device: torch.device) -> dict[str, Any]:
    """Take turns as in :mod:`benchmarks.interleave`, timed by the wall clock because the host takes part."""
    step = TrainingStep(device)
    found = {row["key"]: row for row in empty_rows(device.type)}
    optimizers: dict[str, Optimizer] = {}
    for key, row in found.items():
        try:
            optimizers[key] = step.optimizer(key)
        except Unavailable as reason:
            row["why"] = str(reason)
    for optimizer in optimizers.values():
        for _ in range(WARM_STEPS):
            step(optimizer)
    seconds: dict[str, list[float]] = {key: [] for key in optimizers}
    for _ in range(ROUNDS):
        for key, optimizer in optimizers.items():
            start = clock()
            step(optimizer)
            seconds[key].append(clock() - start)
    for key, taken in seconds.items():
        median = statistics.median(taken)
        found[key] |= {
            "ms": median * 1e3,
            "spread": spread(taken),
            "x baseline": median / statistics.median(seconds["adamw"]),
            "all ms": [s * 1e3 for s in taken],
        }
    kind = "bfloat16 autocast" if device.type == "cuda" else "float32"
    note = f"{TRAINED}, batch {BATCH[device.type]} at {SIDE} pixels, {kind}; forward, backward and step"
    return {"rows": list(found.values()), "rounds": ROUNDS, "note": note}


# ---------------------------------------------------------------- a CUDA graph of the optimizer's step


GRAPH_ROWS = (
    ("adamw_eager", "torch AdamW(fused=True, capturable=True), eager"),
    ("adamw_graph", "torch AdamW(fused=True, capturable=True), captured"),
    ("srft_eager", "SRFT(AdamW), CUDA, eager"),
    ("srft_graph", "SRFT(AdamW), CUDA, captured"),
)


def empty_graph_rows() -> list[Row]:
    return [{"key": key, "contestant": name} for key, name in GRAPH_ROWS]


def captured(optimizer: Optimizer, advance: Callable[[], object]) -> Callable[[], None]:
    """Return ``optimizer.step`` as a graph, captured after eager steps on a side stream, as torch requires.

    ``advance`` is what the host has to do before each replay.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_STEPS):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()

    def replay() -> None:
        advance()
        graph.replay()

    return replay


def graph_optimizer(kind: str, work: Workload) -> tuple[Optimizer, Callable[[], object]]:
    """Return an optimizer that can be captured, and what the host has to do before each replay."""
    if kind == "adamw":
        return AdamW(work.parameters, lr=SMALL_LR, weight_decay=DECAY, fused=True, capturable=True), lambda: None
    inner = AdamW(work.parameters, lr=SMALL_LR, weight_decay=DECAY)
    prior = dict(zip(work.parameters, work.priors, strict=True))
    options = {"strength": STRENGTH, "kappa": 0.5, **backend_option(work.device, "")}
    optimizer = wrap(inner, prior, **options)
    advance = getattr(optimizer, "advance", None)
    if advance is None:
        raise Unavailable("this version of SRFT has no advance(), which a captured step needs")
    return optimizer, advance


def check_replay(replay: Callable[[], object], parameter: torch.Tensor) -> None:
    """Refuse a replay that changes no weight, because a graph that does nothing is fast."""
    before = parameter.detach().clone()
    replay()
    if torch.equal(before, parameter):
        raise RuntimeError("the captured step left the weights as they were")


def graph_section(work: Workload) -> dict[str, Any]:
    """Time each optimizer's eager step and its replayed graph, in turns."""
    watch = Stopwatch(work.device)
    found = {row["key"]: row for row in empty_graph_rows()}
    calls: dict[str, Callable[[], object]] = {}
    for kind in ("adamw", "srft"):
        try:
            optimizer, advance = graph_optimizer(kind, work)
            eager, _ = graph_optimizer(kind, work)
            for _ in range(WARM_STEPS):
                eager.step()
            calls[f"{kind}_graph"] = captured(optimizer, advance)
            calls[f"{kind}_eager"] = eager.step
            check_replay(calls[f"{kind}_graph"], work.parameters[0])
        except Exception as error:  # the other optimizer's figures are still worth having
            why = why_absent(error)
            for key in (f"{kind}_eager", f"{kind}_graph"):
                found[key]["why"] = why
                calls.pop(key, None)
    host = {key: statistics.median(watch.host(call) for _ in range(5)) for key, call in calls.items()}
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            seconds[key].append(watch(call, HEAD_START * host[key]))
    for key, taken in seconds.items():
        eagerly = statistics.median(seconds[f"{key.partition('_')[0]}_eager"])
        median = statistics.median(taken)
        found[key] |= {"ms": median * 1e3, "us": host[key] * 1e6, "x baseline": median / eagerly}
    return {"rows": list(found.values()), "rounds": ROUNDS, "parameters": work.elements, "tensors": len(work.weights)}
