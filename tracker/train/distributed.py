"""The processes of one run, as torchrun starts them: which of them this one is, and what they do together.

``torchrun --nproc-per-node=4 -m tracker train ...`` is one run of four processes with a GPU each. A plain ``rgbx
train`` is a run of one process, for which everything here does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tracker.errors import RGBXError

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, which may be writing a checkpoint or tracking a long sequence."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among the ``count`` processes of its run. ``device`` is the one that it computes on."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the log of the run."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Return how many samples of a batch each process takes, so that the batch does not depend on their number.

        Raises:
            RGBXError: it cannot be shared equally.
        """
        if batch_size % self.count:
            raise RGBXError(
                f"train.batch_size {batch_size} cannot be shared by {self.count} processes; "
                f"it is the whole batch, so make it a multiple of {self.count}"
            )
        return batch_size // self.count

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of the processes' values, element by element. Every process has to call this."""
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the processes' values, element by element. Every process has to call this."""
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def gathered(self, value: Any) -> list[Any]:
        """Return what every process gave, ordered by rank. Every process has to call this."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


def first_process() -> bool:
    """Return whether this process prints for the run. It can be asked before and after there is a process group."""
    return int(os.environ.get("RANK", "0")) == 0


def chosen_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means.

    Raises:
        RGBXError: a GPU is asked for and torch sees none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RGBXError("train.device is cuda, and torch sees no CUDA device here; use cpu or auto")
    return torch.device(name)


@contextlib.contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Make the process group that torchrun's environment describes, for the time of a run.

    GPUs communicate by NCCL and CPUs by Gloo. Without that environment there is one process and no group.

    Raises:
        RGBXError: more processes on a machine than it has GPUs, or no such device.
    """
    where = chosen_device(device)
    count, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    if count == 1:
        yield Processes(device=where)
        return
    if where.type == "cuda":
        if local >= torch.cuda.device_count():
            raise RGBXError(
                f"process {local} of this machine has no GPU of its own: torch sees {torch.cuda.device_count()}; "
                "start as many processes as there are GPUs, or set train.device=cpu"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, count, where)
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process, whose work is done, with exit status 0 and without ending the interpreter.

    A thread of gloo may drop a tensor after the interpreter has begun to end, and C++ then aborts the process. Once
    there was a ``DistributedDataParallel``, torch keeps those threads even after :func:`processes`. What else happens
    at an end happens here: exit functions run, and what was printed is written out.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
