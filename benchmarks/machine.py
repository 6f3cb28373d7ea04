"""Facts with which a figure must be read: card, driver, torch, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from benchmarks.timing import CLOCK
from benchmarks.workload import NETWORK

ROOT = Path(__file__).resolve().parent.parent


def _said(*command: str) -> str:
    """Return what a program prints, stripped; empty where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """Return the commit of this checkout, marked where files differ from it; else what SRFT_COMMIT says."""
    found = _said("git", "rev-parse", "--short", "HEAD")
    if not found:
        return os.environ.get("SRFT_COMMIT", "unknown")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", "csrc", "srft_kernels", "benchmarks")
    return f"{found} with local changes" if _source_changes(changed) else found


def _source_changes(status: str) -> bool:
    """Return whether ``git status --porcelain`` names anything but results, which the benchmarks themselves rewrite."""
    return any("benchmarks/results/" not in line for line in status.splitlines())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"


def driver() -> str:
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] or "unknown"


def machine(device: torch.device) -> dict[str, str]:
    """Facts by name, in the order in which they are printed."""
    facts = {"device": device_name(device)}
    if device.type == "cuda":
        told = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": f"{told.major}.{told.minor}",
            "multiprocessors": str(told.multi_processor_count),
            "L2": f"{told.L2_cache_size / 2**20:.0f} MiB",
            "memory": f"{told.total_memory / 2**30:.0f} GiB",
            "driver": driver(),
            "CUDA of torch": str(torch.version.cuda),
            "triton": _triton(),
        }
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return facts | {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "network": NETWORK,
        "clock": CLOCK if device.type == "cpu" else "device events",
        "commit": commit(),
        "load average at the end": load,
    }


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)


def slug(text: str) -> str:
    """Return a file name made from a device's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
