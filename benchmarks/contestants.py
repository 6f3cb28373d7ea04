"""What is compared: a name, the bytes that a step must move, and how to make something that steps a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from benchmarks.traffic import Passes, Traffic
from benchmarks.workload import Workload

LR, DECAY, MOMENTUM, STRENGTH = 1e-4, 1e-4, 0.9, 10.0


class Unavailable(Exception):
    """Says why a contestant cannot run here. The sentence is shown in its row."""


@dataclass
class Running:
    """``step`` is what is timed. ``state_bytes`` is known after the first step."""

    step: Callable[[], object]
    state_bytes: Callable[[], int]
    optimizer: Optimizer | None = None


@dataclass(frozen=True)
class Contestant:
    """One row of a table.

    ``make`` is called just before the row is timed, because each contestant holds gigabytes. ``baseline`` is the key of
    the contestant whose time is 1.00. ``same_as`` is the key of one that is made once and timed twice a round. ``slow``
    ones take few rounds.
    """

    key: str
    name: str
    traffic: Traffic | Passes
    make: Callable[[Workload], Running]
    baseline: str = "adamw_fused"
    same_as: str | None = None
    slow: bool = False


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's memory, or of the tensors inside a wrapper such as torchao's 8-bit state."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def bytes_of(tensors: Iterable[object]) -> int:
    return sum(tensor_bytes(t) for t in tensors if isinstance(t, Tensor))


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of everything that an optimizer, and one inside it, keeps beside the parameters."""
    inside = getattr(optimizer, "inner", None)
    states = [*optimizer.state.values(), *(inside.state.values() if inside is not None else ())]
    return bytes_of({id(v): v for state in states for v in state.values()}.values())


def running(optimizer: Optimizer) -> Running:
    return Running(optimizer.step, lambda: state_bytes(optimizer), optimizer)
