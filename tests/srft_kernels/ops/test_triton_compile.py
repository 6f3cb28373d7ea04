"""The Triton kernels compile ahead of time, for devices that need not be here: NVIDIA's to machine code, AMD's too.

The tests also look at what only the compiler knows of speed: no register is spilled inside a loop, and memory moves 16
bytes a thread.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="an interpreted kernel cannot be compiled"
)

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase  # noqa: E402
from srft_kernels.ops.triton import launch, penalty_kernels, step_kernels  # noqa: E402
from srft_kernels.ops.triton.plan import FOLD_BLOCK  # noqa: E402
from tests.srft_kernels.ops.nvidia_tools import tool  # noqa: E402

NVIDIA = [80, 90, 100]
STEP: dict[str, Any] = {
    "PARAM": tl.float32,
    "ANCHOR": tl.float32,
    "INNER": int(Inner.ADAM),
    "MODE": int(Mode.PROXIMAL),
    "DAMPING": int(Damping.RANK),
    "NORMALIZE": int(Normalize.PER_TENSOR),
    "TO_ANCHOR": False,
    "PHASE": int(Phase.FUSED),
    "GATHERS": True,
    "HOLD": True,
    "OWN": False,
    "BUFFER": False,
    "PREVIOUS": False,
    "DECOUPLED_DECAY": True,
    "AMSGRAD": False,
    "NESTEROV": False,
    "CURVED": False,
    "FOLD": False,
    "FOLD_GRADIENT": False,
    "PATH": False,
    "COUNT_SKIPPED": True,
    "RESET": True,
}
UNFUSED = {"INNER": int(Inner.NONE), "OWN": True, "PREVIOUS": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adam, own T to the anchor, coupled": {
        "MODE": int(Mode.COUPLED),
        "DAMPING": int(Damping.UNDAMPED),
        "TO_ANCHOR": True,
        "OWN": True,
        "NORMALIZE": int(Normalize.GLOBAL),
        "DECOUPLED_DECAY": False,
        "AMSGRAD": True,
    },
    "sgd by the mean": {
        "INNER": int(Inner.SGD),
        "BUFFER": True,
        "NESTEROV": True,
        "OWN": True,
        "DAMPING": int(Damping.MEAN),
        "MODE": int(Mode.DECOUPLED),
        "HOLD": False,
    },
    "adamw with H and a path": {"CURVED": True, "FOLD": True, "FOLD_GRADIENT": True, "PATH": True},
    "before": {**UNFUSED, "PHASE": int(Phase.BEFORE), "GATHERS": False},
    "after": {**UNFUSED, "PHASE": int(Phase.AFTER)},
}
ELEMENTS = {"float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16, "float64": tl.float64}
INTEGERS = {"fixed": "*i64", "moving": "*i64", "table": "*i64", "owners": "*i32", "tensors": "i32", "chunks": "i32"}
INTEGERS |= {"histogram": "*i32", "extremes": "*i32"}
SINGLES = ("steps", "found_inf", "grad_scale")


def compiled(kernel: Any, constants: dict[str, Any], target: GPUTarget) -> Any:
    """Return the kernel for ``target``, with pointers aligned as torch's allocator aligns them."""
    real = "*fp64" if constants["PARAM"] == tl.float64 else "*fp32"

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        return INTEGERS.get(name) or ("*fp32" if name in SINGLES else real if name == "constants" else "*fp64")

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: type_of(name) for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=target, options=launch.COMPILED)


def spills_in_loops(code: str) -> list[str]:
    """Return the accesses to local memory in machine code that run more than once.

    A register that is put aside before a loop and fetched after it costs nothing beside what the loop moves, and each
    release of the compiler decides it anew.
    """
    lines = code.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.L_\w+):", line))}
    found = []
    for end, line in enumerate(lines):
        branch = re.search(r"\bBRA\b.*\((\.L_\w+)\)", line)
        if branch and labels[branch[1]] < end:
            found += [body for body in lines[labels[branch[1]] : end] if re.search(r"\b(?:LDL|STL)\b", body)]
    return found


def test_only_spills_inside_a_loop_are_found() -> None:
    once, often = "        /*10*/  STL.64 [R1], R52 ;", "        /*20*/  LDL.64 R52, [R1] ;"
    loop = [".L_x_4:", often, "        /*30*/  @P0 BRA `(.L_x_4) ;"]
    ahead = ["        /*00*/  @!P1 BRA `(.L_x_5) ;", once, ".L_x_5:"]
    assert spills_in_loops("\n".join([*ahead, *loop, once])) == [often]


def step_constants(variant: str, element: str, kernel: str) -> dict[str, Any]:
    constants = {**STEP, **VARIANTS[variant], "PARAM": ELEMENTS[element], "ANCHOR": ELEMENTS[element]}
    return {**constants, "CHUNK": launch.CHUNK, "BLOCK": FOLD_BLOCK if kernel == "fold" else launch.BLOCK}


@pytest.mark.parametrize("kernel", ["prepare", "advance", "fold"])
@pytest.mark.parametrize(
    ("variant", "element", "architecture"),
    [
        *itertools.product(["adamw"], ELEMENTS, NVIDIA),
        *itertools.product([v for v in VARIANTS if v != "adamw"], ["float32", "float64"], [90]),
    ],
)
def test_the_step_compiles_for_nvidia(
    kernel: str, variant: str, element: str, architecture: int, tmp_path: Path
) -> None:
    constants = step_constants(variant, element, kernel)
    made = compiled(getattr(step_kernels, kernel), constants, GPUTarget("cuda", architecture, 32))
    assert spills_in_loops(tool("nvdisasm", made.asm["cubin"], tmp_path)) == []


@pytest.mark.parametrize("architecture", NVIDIA)
@pytest.mark.parametrize(
    ("element", "loads", "stores"),
    [
        ("float32", 6, 3),  # weight, gradient, two moments, anchor, prior; weight and moments
        ("bfloat16", 3, 2),  # moments and prior; the rest is half as wide
        ("float64", 12, 6),
    ],
)
def test_a_whole_chunk_moves_16_bytes_a_thread(
    element: str, loads: int, stores: int, architecture: int, tmp_path: Path
) -> None:
    made = compiled(
        step_kernels.advance, step_constants("adamw", element, "advance"), GPUTarget("cuda", architecture, 32)
    )
    code = tool("nvdisasm", made.asm["cubin"], tmp_path)
    assert len(re.findall(r"\bLDG\.E\.\S*128", code)) == loads
    assert len(re.findall(r"\bSTG\.E\.\S*128", code)) == stores


@pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("element", ELEMENTS)
def test_the_penalty_compiles(gradient: bool, element: str, tmp_path: Path) -> None:
    constants: dict[str, Any] = dict.fromkeys(("PARAM", "ANCHOR", "SIGNIFICANCE"), ELEMENTS[element])
    constants |= {"GRADIENT": gradient, "CHUNK": launch.CHUNK, "BLOCK": launch.BLOCK}
    for architecture in NVIDIA:
        made = compiled(penalty_kernels.penalty, constants, GPUTarget("cuda", architecture, 32))
        assert spills_in_loops(tool("nvdisasm", made.asm["cubin"], tmp_path)) == []
    if "amd" in triton.backends.backends:
        assert compiled(penalty_kernels.penalty, constants, GPUTarget("hip", "gfx942", 64)).asm["hsaco"]


@pytest.mark.skipif("amd" not in triton.backends.backends, reason="this Triton has no compiler for AMD")
@pytest.mark.parametrize("kernel", ["prepare", "advance", "fold"])
@pytest.mark.parametrize(
    ("variant", "element"), [*itertools.product(VARIANTS, ["float32"]), ("adamw", "bfloat16"), ("adamw", "float64")]
)
def test_the_step_compiles_for_amd(kernel: str, variant: str, element: str) -> None:
    constants = step_constants(variant, element, kernel)
    made = compiled(getattr(step_kernels, kernel), constants, GPUTarget("hip", "gfx942", 64))
    assert made.asm["hsaco"]
