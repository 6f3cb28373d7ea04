"""Random signs drawn inside a kernel, compared with those that torch draws.

They are written out, added to weights, and folded into an estimate of the curvature's diagonal. The table is printed
and is not among those of `results/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Running
from benchmarks.interleave import take_turns
from benchmarks.report import COLUMNS, table
from benchmarks.test_ratios import LARGE
from benchmarks.timing import CopyBandwidth
from benchmarks.traffic import FP32, Traffic
from benchmarks.workload import Workload
from srft_kernels.ops.probe import fill_probes_, fold_probes_, perturb_

STEP, DECAY, WEIGHT = 1e-3, 0.99, 5.0
TRAFFIC = {
    "fill": Traffic(written={"z": FP32}),
    "perturb": Traffic(read={"original": FP32}, written={"weight": FP32}),
    "fold": Traffic({"estimate": FP32}, {"plus": FP32, "minus": FP32}),
}

# z into a tensor, as it is written with torch's generators. A probe that is needed twice is drawn twice or kept.
Signs = Callable[[Tensor], Tensor]
PEERS: dict[str, tuple[str, Signs]] = {
    "bernoulli": ("torch bernoulli_", lambda z: z.bernoulli_(0.5).mul_(2).sub_(1)),
    "randint": ("torch random_(0, 2)", lambda z: z.random_(0, 2).mul_(2).sub_(1)),
    "randn": ("torch normal_().sign_()", lambda z: z.normal_().sign_()),
}


class Tensors:
    """What the three operations read and write, over a workload's shapes."""

    def __init__(self, work: Workload) -> None:
        self.originals, self.plus, self.minus = work.weights, work.gradients, work.priors
        self.weights = [w.clone() for w in work.weights]
        self.estimates = [torch.zeros_like(w) for w in work.weights]
        self.numbers = list(range(len(work.weights)))
        self.draw = 0

    def ours(self, what: str) -> None:
        self.draw += 1
        if what == "fill":
            fill_probes_(self.weights, 0, self.draw, self.numbers)
        elif what == "perturb":
            perturb_(self.weights, self.originals, STEP, 0, self.draw, self.numbers)
        else:
            fold_probes_(self.estimates, self.plus, self.minus, DECAY, WEIGHT, 0, self.draw, self.numbers)

    def peers(self, what: str, signs: Signs) -> None:
        """Run torch's way one tensor at a time, so that a tensor's signs are still in the cache where they are used."""
        for k, w in enumerate(self.weights):
            if what == "fill":
                signs(w)
            elif what == "perturb":
                signs(w).mul_(STEP).add_(self.originals[k])
            else:
                z = signs(torch.empty_like(w))
                self.estimates[k].mul_(DECAY).addcmul_(z, self.plus[k] - self.minus[k], value=WEIGHT)


def contestants() -> list[Contestant]:
    """Return the contestants. Ours is the baseline, so another's figure says how many times as long it takes."""

    def entry(what: str, key: str, name: str, step: Callable[[Tensors], None]) -> Contestant:
        def make(work: Workload) -> Running:
            tensors = Tensors(work)
            return Running(lambda: step(tensors), lambda: 0)

        return Contestant(f"probe_{what}_{key}", f"{what}: {name}", TRAFFIC[what], make, f"probe_{what}_srft")

    made = []
    for what in TRAFFIC:
        made.append(entry(what, "srft", "srft_kernels", lambda t, what=what: t.ours(what)))
        for key, (name, signs) in PEERS.items():
            made.append(entry(what, key, name, lambda t, what=what, signs=signs: t.peers(what, signs)))
    return made


def test_probes(benchmark: Any, work: Workload, capsys: Any) -> None:
    copy = CopyBandwidth(work.device, 2**27 if work.elements > LARGE else 2**22)
    section = benchmark.pedantic(take_turns, args=(contestants(), work, copy), rounds=1)
    benchmark.extra_info.update(section)
    columns = tuple(c for c in COLUMNS["penalty"] if c[0] != "host ms" or work.device.type == "cuda")
    with capsys.disabled():
        print(f"\n\n{work.elements / 1e6:.1f} million elements, copy {section['copy GB/s']:.1f} GB/s")
        print(table(section["rows"], columns))
    assert not [row for row in section["rows"] if "why" in row]
