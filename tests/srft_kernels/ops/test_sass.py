"""What nvcc made of the CUDA kernels is read from the built library, so no GPU is needed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from srft_kernels.ops.native import cuda_library
from tests.paths import REPOSITORY
from tests.srft_kernels.ops.nvidia_tools import cuobjdump

DEFAULT_ARCHITECTURES = {"8.0", "8.6", "8.9", "9.0", "10.0", "12.0"}
REGISTERS_OF_A_MULTIPROCESSOR = 65536
THREADS_OF_A_BLOCK = 256
BLOCKS = 3  # a multiprocessor: see fused_adam_kernel

pytestmark = pytest.mark.skipif(not cuda_library.available, reason=cuda_library.reason)


def sources() -> set[str]:
    return {path.stem for path in (REPOSITORY / "csrc" / "cuda").glob("*.cu")}


def test_every_source_is_there_for_every_architecture() -> None:
    elf = set(re.findall(r": (\w+)\.(sm_\w+)\.cubin", cuobjdump("--list-elf")))
    ptx = set(re.findall(r": (\w+)\.(sm_\w+)\.ptx", cuobjdump("--list-ptx")))
    built = {a.removesuffix("+PTX"): a.endswith("+PTX") for a in cuda_library.build.architectures.split()}
    names = {number: "sm_" + number.replace(".", "") for number in built}
    assert elf == {(source, name) for source in sources() for name in names.values()}
    assert ptx == {(source, names[number]) for source in sources() for number, portable in built.items() if portable}


def test_the_default_serves_ampere_to_blackwell_and_what_comes_after() -> None:
    architectures = cuda_library.build.architectures.split()
    if {architecture.removesuffix("+PTX") for architecture in architectures} != DEFAULT_ARCHITECTURES:
        pytest.skip(f"built for {', '.join(architectures)}: by TORCH_CUDA_ARCH_LIST, or nvcc knows no more")
    assert [architecture for architecture in architectures if architecture.endswith("+PTX")] == ["12.0+PTX"]


@pytest.fixture(scope="module")
def adam() -> dict[str, tuple[str, str]]:
    """Return, for Hopper, the resources and instructions of every variant of the kernel that most steps are."""
    if not {"9.0", "9.0+PTX"} & set(cuda_library.build.architectures.split()):
        pytest.skip(f"built for {cuda_library.build.architectures} and not for 9.0")

    def by_kernel(text: str, start: str) -> dict[str, str]:
        parts = re.split(rf"^\s*{start}\s*(\S+?):?$", text, flags=re.MULTILINE)
        return {k: v for k, v in zip(parts[1::2], parts[2::2], strict=True) if "17fused_adam_kernelI" in k}

    usage = by_kernel(cuobjdump("-res-usage", "-arch", "sm_90"), "Function")
    code = by_kernel(cuobjdump("-sass", "-arch", "sm_90"), "Function :")
    assert usage.keys() == code.keys()
    assert len(usage) == 8, "two kernels for each of four dtypes"
    return {kernel: (usage[kernel], code[kernel]) for kernel in usage}


@pytest.fixture(scope="module")
def adam_in_float32(adam: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the variants whose first template argument is float, which is the f in their mangled names."""
    return {k: v for k, v in adam.items() if re.search(r"17fused_adam_kernelIf", k)}


def test_the_loads_of_a_whole_turn_are_under_way_together(adam: dict[str, tuple[str, str]]) -> None:
    """Weight, gradient, moments, anchor and prior are loaded within a few instructions; none waits for another."""
    for kernel, (_, code) in adam.items():
        lines = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.*)$", code, flags=re.MULTILINE)
        loads = [i for i, line in enumerate(lines) if re.search(r"\bLDG\.E\S*\.(?:64|128)\b", line)]
        most = max(sum(first <= i < first + 40 for i in loads) for first in loads)
        assert most >= 6, kernel


def test_adam_moves_memory_in_128_bits(adam_in_float32: dict[str, tuple[str, str]]) -> None:
    for kernel, (_, code) in adam_in_float32.items():
        loads = re.findall(r"\bLDG\.E(?:\.\w+)*\.128\b", code)
        stores = re.findall(r"\bSTG\.E(?:\.\w+)*\.128\b", code)
        assert len(loads) >= 6, f"{kernel}: weight, gradient, two moments, anchor and prior are read"
        assert len(stores) >= 3, f"{kernel}: weight and two moments are written"


def test_adam_keeps_everything_in_registers_and_few_of_them(
    adam_in_float32: dict[str, tuple[str, str]], record_property: Callable[[str, object], None]
) -> None:
    most = REGISTERS_OF_A_MULTIPROCESSOR // (BLOCKS * THREADS_OF_A_BLOCK)
    for kernel, (usage, code) in adam_in_float32.items():
        use = {name: int(count) for name, count in re.findall(r"\b([A-Z]+):(\d+)", usage)}
        record_property(kernel, f"{use['REG']} registers, {use['SHARED']} bytes of shared memory")
        print(f"{kernel}: {use['REG']} registers, {use['SHARED']} bytes of shared memory")
        assert re.findall(r"\b(?:LDL|STL)\b\S*", code) == [], f"{kernel} spills registers to local memory"
        assert (use["STACK"], use["LOCAL"]) == (0, 0), kernel
        assert use["REG"] <= most, f"{kernel}: {BLOCKS} blocks of {THREADS_OF_A_BLOCK} threads do not fit"
