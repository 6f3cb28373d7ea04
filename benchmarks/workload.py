"""What is trained: the parameter shapes of a timm network with random weights and gradients; and how time is read."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import timm
import torch

NETWORK = os.environ.get("SRFT_BENCH_NETWORK", "vit_base_patch16_224")
ROUNDS = int(os.environ.get("SRFT_BENCH_ROUNDS", "15"))


def shapes() -> list[torch.Size]:
    """Of the network's parameters; nothing is allocated or downloaded."""
    with torch.device("meta"):
        network = timm.create_model(NETWORK, pretrained=False)
    return [p.shape for p in network.parameters()]


class Workload:
    """Parameters with gradients, their anchors and priors on ``device``.

    All contestants step the same parameters, with state of their own: what is timed does not depend on the values, and
    ten copies of everything would not fit. Between two turns of one contestant the others stream gigabytes through the
    caches.
    """

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.weights = [0.02 * torch.randn(s, device=device) for s in shapes()]
        self.gradients = [1e-3 * torch.randn(w.shape, device=device) for w in self.weights]
        self.priors = [torch.rand(w.shape, device=device).pow(4) for w in self.weights]
        self.parameters = [torch.nn.Parameter(w.clone()) for w in self.weights]
        for p, g in zip(self.parameters, self.gradients, strict=True):
            p.grad = g
        self.elements = sum(w.numel() for w in self.weights)


# "cpu" counts the process's own processor seconds, whatever else the machine does: fair on a busy one, with
# OMP_NUM_THREADS=1 (waiting threads spin, and that counts).
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = os.environ.get("SRFT_BENCH_CLOCK", "wall")


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given: a launch is not a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return CLOCKS[CLOCK]()


class CopyBandwidth:
    """A plain copy of a tensor far larger than any cache: the floor of everything here."""

    def __init__(self, device: torch.device, elements: int = 2**27) -> None:
        self.source, self.target = (torch.ones(elements, device=device) for _ in range(2))
        self.bytes = 2 * 4 * elements

    def __call__(self) -> None:
        self.target.copy_(self.source)


def machine(device: torch.device) -> dict[str, str]:
    """What a figure must be read with."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "device": name,
        "torch": torch.__version__,
        "network": NETWORK,
        "clock": CLOCK,
        "commit": commit.stdout.strip() or "unknown",
        "load average at the end": load,
    }
