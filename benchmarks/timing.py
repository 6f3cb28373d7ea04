"""How time is measured: a clock that waits for the device, cold caches, and turns that all take in one process."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

# "cpu" counts the process's own processor time, whatever else the machine does. That is fair on a busy machine with
# OMP_NUM_THREADS=1; otherwise waiting threads spin, and that counts.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = os.environ.get("SRFT_BENCH_CLOCK", "wall")
LARGEST_CPU_SCRATCH = 2**29
LONGEST_HEAD_START = 0.02
SLEEP_CYCLES = 4_000_000


def wait(device: torch.device) -> None:
    """Wait until the device has done its work, because a launch is not yet a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock() -> float:
    """Return the seconds once every device in use has finished. Every pytest-benchmark entry here uses this timer."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return CLOCKS[CLOCK]()


def cache_bytes(device: torch.device) -> int:
    """Return the bytes of the last-level cache, as the device or the kernel reports them, or 32 MiB if neither does."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    told = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    text = told.read_text().strip() if told.exists() else ""
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else 2**25


class Stopwatch:
    """Seconds that one call takes on ``device``.

    On a GPU the time is between two events. Before them, a buffer of twice the L2 is written, so that the call finds a
    cold cache, and the device sleeps for as long as the host needs to hand out the call's launches (``head_start``
    seconds): as in training, where the host is ahead of the device, what is timed is the device's work and not the
    launching of it. The host's own time is :meth:`host`.

    On a CPU the time is the clock's, and the caches are emptied where ``cold`` asks for it: in a table of many
    contestants the others do that.
    """

    def __init__(self, device: torch.device, *, cold: bool = False) -> None:
        self.device = device
        self.cold = cold
        self._scratch: torch.Tensor | None = None
        self._cycles_a_second = 0.0
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(2):  # the first of anything on a device is slow
                start.record()
                torch.cuda._sleep(SLEEP_CYCLES)
                end.record()
                end.synchronize()
            self._cycles_a_second = SLEEP_CYCLES / (start.elapsed_time(end) * 1e-3)

    def chill(self) -> None:
        """Write twice the last-level cache (on a CPU 512 MiB at most: a share of a server's cache is smaller)."""
        if self._scratch is None:
            size = 2 * cache_bytes(self.device)
            if self.device.type == "cpu":
                size = min(size, LARGEST_CPU_SCRATCH)
            self._scratch = torch.rand(size // 4, device=self.device)
        self._scratch.mul_(1.0001)

    def __call__(self, call: Callable[[], object], head_start: float = 0.0) -> float:
        if self.device.type != "cuda":
            if self.cold:
                self.chill()
            start = CLOCKS[CLOCK]()
            call()
            return CLOCKS[CLOCK]() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        self.chill()
        torch.cuda._sleep(int(min(head_start, LONGEST_HEAD_START) * self._cycles_a_second))
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e-3

    def host(self, call: Callable[[], object]) -> float:
        """Return the seconds until ``call`` returns, with the device idle before. On a CPU that is the whole time."""
        wait(self.device)
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        wait(self.device)
        return taken


class CopyBandwidth:
    """A plain copy of a tensor far larger than any cache, bytes read plus bytes written: the floor of everything here.

    A CPU's copy also fetches every line that it is about to overwrite, which nobody asked for and nobody counts; a loop
    that writes back what it read has no such traffic. So a step on a CPU can be above 100 % of the copy.
    """

    def __init__(self, device: torch.device, elements: int = 2**27) -> None:
        self.source, self.target = (torch.rand(elements, device=device) for _ in range(2))
        self.bytes = 2 * self.source.element_size() * elements

    def __call__(self) -> None:
        self.target.copy_(self.source)


def spread(seconds: list[float]) -> float:
    """Return half the distance between the quartiles over the median.

    A smaller difference of two medians means nothing.
    """
    if len(seconds) < 4:
        return (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 2 / statistics.median(seconds)
