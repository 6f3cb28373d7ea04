"""The ways that CONTRIBUTING.md walks, from ``SRFT.step`` to the element, are those of the code, and they are short.

In Python they are compared with the stack of a real step at the moment when it leaves Python. In C++ they are compared
with the text: what a row of a table says is entered must be defined in that row's file and named by the code of the
file before it.
"""

from __future__ import annotations

import itertools
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from srft_kernels import SRFT
from srft_kernels.ops.backends import plan_maker
from srft_kernels.ops.cuda.plan import CudaPlan
from srft_kernels.ops.native import library
from tests.paths import REPOSITORY

MOST = 6
BACKENDS = ("cpu", "cuda", "triton")


@dataclass
class Stop:
    """A file on a way, and what of it is entered from the file before."""

    file: str
    enters: list[str]


def walks() -> dict[str, list[Stop]]:
    """Return the three ways of CONTRIBUTING.md. The later ones begin as the first does."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().split("## Follow one gradient")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d)\. `([^`]+)` \| ([^|]+) \|", section, flags=re.MULTILINE)
    ways: list[list[tuple[int, Stop]]] = []
    for number, file, enters in rows:
        if not ways or int(number) <= ways[-1][-1][0]:
            ways.append([])
        ways[-1].append((int(number), Stop(file, re.findall(r"`(\w+)`", enters))))
    assert len(ways) == len(BACKENDS)
    first = ways[0]
    complete = [[*first[: way[0][0] - 1], *way] for way in ways]
    for way in complete:
        assert [number for number, _ in way] == list(range(1, len(way) + 1)), "files are numbered one after the other"
    return {backend: [stop for _, stop in way] for backend, way in zip(BACKENDS, complete, strict=True)}


# ---------------------------------------------------------------- in Python: a step's own stack


class Left(Exception):
    """Raised by what a test puts in place of the step, as soon as the step has got that far."""


def files_of_stack() -> list[str]:
    """Return the files of this package that are being run, from the outermost on, each once."""
    files = [frame.filename for frame in traceback.extract_stack()]
    inside = [f.removeprefix(f"{REPOSITORY}/") for f in files if f.startswith(f"{REPOSITORY}/srft_kernels/")]
    return list(dict.fromkeys(inside))


def leave(*_: Any, **__: Any) -> None:
    raise Left(files_of_stack())


class Library:
    """What CudaPlan asks of the CUDA library: the name of its operators."""

    operators = "srft_cuda_stand_in"


class Operators:
    """What CudaPlan asks of those operators, up to the step itself."""

    class step_group_:
        default = staticmethod(leave)

    @staticmethod
    def hold_group(*_: Any) -> int:
        return 0

    @staticmethod
    def drop_group(group: int) -> None:
        pass

    @staticmethod
    def launches_of_group(group: int) -> int:
        return 1


class Kernels:
    """The Triton kernels of a step. The one that takes it over the elements is where Python ends."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        if name in ("prepare", "fold"):
            return {(1,): lambda *_, **__: None}
        return {(1,): leave} if name == "advance" else getattr(self._kernels, name)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend whose steps are left where they leave Python."""
    maker: Callable[..., Any]
    if request.param == "cpu":
        if not library.available:
            pytest.skip(library.reason)
        monkeypatch.setattr(torch.ops.srft.step_group_, "default", leave)
        maker = plan_maker("native", torch.device("cpu"))[1]
    elif request.param == "cuda":
        monkeypatch.setattr(torch.ops, Library.operators, Operators(), raising=False)

        def maker(tensors: Any) -> CudaPlan:
            return CudaPlan(tensors, Library())

    else:
        pytest.importorskip("triton")
        from srft_kernels.ops.triton import plan

        monkeypatch.setattr(plan, "kernels", Kernels(plan.kernels))
        maker = plan.TritonPlan
    monkeypatch.setattr("srft_kernels.optimizer.plan_maker", lambda *_: ("native", maker))
    return str(request.param)


def test_the_python_files_are_those_of_a_steps_stack(backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = SRFT(torch.optim.AdamW([weight]), prior={weight: torch.ones(3)})
    with pytest.raises(Left) as left:
        optimizer.step()
    told = [stop.file for stop in walks()[backend] if stop.file.endswith(".py")]
    seen = left.value.args[0]
    assert seen == (told[:-1] if backend == "triton" else told), "the kernels' own file is entered by Triton's compiler"


# ---------------------------------------------------------------- beyond: what is defined where, and named by whom


def code_of(file: str) -> str:
    """Return a file without comments, as far as single lines show them."""
    comment = r"#.*" if file.endswith(".py") else r"//.*"
    return re.sub(comment, "", (REPOSITORY / file).read_text())


def defines(file: str, name: str) -> bool:
    definition = rf"^def {name}\(" if file.endswith(".py") else rf"\b{name}\([^;{{}}]*\)[^;{{}}()]*\{{"
    return re.search(definition, code_of(file), flags=re.MULTILINE) is not None


@pytest.mark.parametrize("way", BACKENDS)
def test_each_file_hands_over_to_the_next(way: str) -> None:
    stops = walks()[way]
    for before, after in itertools.pairwise(stops):
        if after.file.endswith("plan.py") or after.file.endswith("cpu.py") or after.file.startswith("srft_kernels/_"):
            continue  # of Python the stack above tells
        entered = after.enters[0]
        assert all(defines(after.file, name) for name in after.enters), (after.file, after.enters)
        assert re.search(rf"\b{entered}_?\b", code_of(before.file)), f"{before.file} does not name {entered}"
    # The last file is the element's: beyond it there are no more than the functions of the machine.
    for name in re.findall(r'#include "([^"]+)"', (REPOSITORY / "csrc/core/element.h").read_text()):
        assert name == "host_device.h"


@pytest.mark.parametrize("way", BACKENDS)
def test_a_reader_passes_few_files(way: str) -> None:
    stops = walks()[way]
    assert len({stop.file for stop in stops}) == len(stops) <= MOST
    assert all((REPOSITORY / stop.file).is_file() for stop in stops)
