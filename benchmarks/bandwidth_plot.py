"""Achieved bandwidth against size: one tensor of 2^12 elements and more, cold caches, one step of each contestant.

``python -m benchmarks.bandwidth_plot`` writes `results/<device>-bandwidth.json` and, where matplotlib is there, the
plot beside it. Under two minutes on two cores. Small sizes show what a launch costs; the largest approach the copy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import srft, suite, traffic
from benchmarks.contestants import Contestant, Running, Unavailable
from benchmarks.interleave import HEAD_START
from benchmarks.machine import machine, slug
from benchmarks.report import RESULTS
from benchmarks.timing import CopyBandwidth, Stopwatch
from benchmarks.workload import Workload

SMALLEST = 12
LARGEST = {"cpu": 26, "cuda": 28}
FEWEST, MOST, SECONDS_A_POINT = 3, 15, 0.3


def copy_of(work: Workload) -> Running:
    return Running(CopyBandwidth(work.device, work.elements), lambda: 0)


def contestants(device: str) -> list[Contestant]:
    mine = [c for c in srft.main_contestants(device) if c.key in ("srft", "srft_triton")]
    return [Contestant("copy", "copy", traffic.COPY, copy_of), suite.torch_adamw("fused"), *mine]


def seconds_of(watch: Stopwatch, call: Callable[[], object]) -> float:
    """Return the median of as many turns as fit into a share of a second, the caches emptied before each."""
    head_start = HEAD_START * min(watch.host(call) for _ in range(3))
    taken: list[float] = []
    while len(taken) < FEWEST or (len(taken) < MOST and sum(taken) < SECONDS_A_POINT):
        taken.append(watch(call, head_start))
    return statistics.median(taken)


def measure(device: torch.device, smallest: int, largest: int) -> list[dict[str, Any]]:
    """Return one series for each contestant: elements, seconds, GB/s."""
    watch = Stopwatch(device, cold=True)
    series: dict[str, dict[str, Any]] = {}
    for power in range(smallest, largest + 1):
        work = Workload(device, [torch.Size([2**power])])
        for c in contestants(device.type):
            entry = series.setdefault(
                c.key, {"key": c.key, "contestant": c.name, "formula": c.traffic.formula, "points": []}
            )
            try:
                running = c.make(work)
            except Unavailable as reason:
                entry["why"] = str(reason)
                continue
            for _ in range(2):  # first steps allocate and gather statistics
                running.step()
            seconds = seconds_of(watch, running.step)
            moved = c.traffic.bytes_per_element * work.elements
            entry["points"].append({"elements": work.elements, "seconds": seconds, "GB/s": moved / seconds / 1e9})
            del running
        print(f"2^{power}: " + ", ".join(_last(entry) for entry in series.values()), flush=True)
    return list(series.values())


def _last(entry: dict[str, Any]) -> str:
    return f"{entry['contestant']} {entry['points'][-1]['GB/s']:.1f} GB/s" if entry["points"] else entry["why"]


def draw(series: list[dict[str, Any]], title: str, path: Path) -> bool:
    """Draw the plot. Return False if there is no matplotlib to draw with."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for entry in series:
        points = entry["points"]
        if points:
            style = {"color": "0.5", "linestyle": "--"} if entry["key"] == "copy" else {"marker": "o", "markersize": 3}
            axes.plot([p["elements"] for p in points], [p["GB/s"] for p in points], label=entry["contestant"], **style)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("parameters in one tensor, float32")
    axes.set_ylabel("GB/s: bytes one pass needs, over time")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bandwidth_plot", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--smallest", type=int, default=SMALLEST, help="power of two")
    parser.add_argument("--largest", type=int, help="power of two; 26 on a CPU and 28 on a GPU")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("not measured: no CUDA device", file=sys.stderr)
        return 2
    largest = LARGEST[device.type] if options.largest is None else options.largest
    series = measure(device, options.smallest, largest)
    facts = {key: value for key, value in machine(device).items() if key != "network"}
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"{slug(facts['device'])}-bandwidth"
    data, picture = options.out / f"{stem}.json", options.out / f"{stem}.png"
    data.write_text(json.dumps({"facts": facts, "series": series}, indent=1) + "\n")
    print(data)
    title = f"{facts['device']}\ntorch {facts['torch']}, commit {facts['commit']}; cold caches"
    if draw(series, title, picture):
        print(picture)
    else:
        print("no plot: matplotlib is not installed (pip install 'srft-kernels[plot]')")
    return 0


if __name__ == "__main__":
    sys.exit(main())
