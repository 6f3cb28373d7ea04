"""Probes have the generator's known answers, the same bits in every implementation, and signs like fair coins.

The tests of Triton's kernels run on a CUDA device where there is one. One test runs this file again in a process of its
own, in which Triton interprets them on the CPU, because that has to be said before Triton is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srft_kernels.ops import backends
from srft_kernels.ops.cuda.probe import CudaProbe
from srft_kernels.ops.native import cuda_library, library
from srft_kernels.ops.probe import fill_probes_, fold_probes_, perturb_
from srft_kernels.ops.reference.probe import SIGNS, fill_reference, fold_reference, perturb_reference, philox, signs
from srft_kernels.ops.tensors import element_dtype
from tests.paths import REPOSITORY
from tests.srft_kernels.ops.digests import digests

ROOT = REPOSITORY
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from tests.srft_kernels.ops.interpreter import faithful_interpreter  # noqa: F401  (bfloat16 rounded as devices do)

native = pytest.mark.skipif(not library.available, reason=f"the native library is not here: {library.reason}")
in_another_process = pytest.mark.skipif(INTERPRETED, reason="this is the process in which Triton interprets")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PAIRS = list(itertools.product(DTYPES, DTYPES))
# Around a word of 32, a call of 128, the CPU's blocks of 512 and 2048, CUDA's unit of 2048 and Triton's chunk of 8192;
# empty and 0-d ones between.
SHAPES: tuple[tuple[int, ...], ...] = (
    *((7,), (), (0,), (31,), (33,), (127,), (128,), (129,), (511,), (513,), (33, 65), (2, 0, 3), (2049,), (8193,)),
    (3, 8, 5, 5),
)
CHUNKS = ((32768,), (32769,), (211, 333))  # and around the chunk of 32768
SEED, STEP = 0x243F6A8885A308D3, 0xA4093822
SCALE, DECAY, WEIGHT = 3.1e-3, 0.93, 0.07


# ---------------------------------------------------------------- the generator

# Random123's kat_vectors for philox4x32-10: counter, key, words.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_reference_gives_the_known_answers(
    counter: Sequence[int], key: tuple[int, int], words: Sequence[int]
) -> None:
    assert tuple(int(w) for w in philox([torch.tensor(c) for c in counter], key)) == words


KERNEL = """
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include "core/probe.h"
int main(int, char** argv) {
  uint64_t n[5];
  for (int i = 0; i < 4; ++i) n[i] = std::strtoull(argv[1 + i], nullptr, 0);
  uint32_t word[4];
  srft::probe_words({n[0], uint32_t(n[1])}, uint32_t(n[2]), n[3], word);
  for (uint32_t w : word) std::printf("%" PRIu32 " ", w);
}
"""


@in_another_process
def test_the_kernels_header_gives_the_known_answers(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "known.cpp").write_text(KERNEL)
    program = tmp_path / "known"
    subprocess.run(
        [compiler, "-std=c++20", f"-I{ROOT / 'csrc'}", str(tmp_path / "known.cpp"), "-o", str(program)], check=True
    )
    for counter, key, words in KNOWN:
        seed, block = key[0] | key[1] << 32, counter[0] | counter[1] << 32
        arguments = [str(n) for n in (seed, counter[3], counter[2], block)]
        told = subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
        assert tuple(int(w) for w in told.split()) == words


def test_signs_are_the_words_bits_with_the_least_first() -> None:
    words = KNOWN[0][2]
    expected = [1.0 - 2.0 * (words[i // 32] >> i % 32 & 1) for i in range(128)]
    assert signs(128, 0, 0, 0).tolist() == expected
    out = [torch.empty(128, dtype=dtype) for dtype in DTYPES]
    fill_probes_(out, 0, 0, [0] * 4)
    for t in out:
        assert t.tolist() == expected


# ---------------------------------------------------------------- the same bits from every implementation


def same_bits(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        assert torch.equal(a.view(whole).cpu(), b.view(whole).cpu()), (a.dtype, tuple(a.shape))


def drawn(dtype: torch.dtype, shapes: Sequence[tuple[int, ...]], seed: int) -> list[Tensor]:
    """Normal numbers with zeros, infinities and numbers at the ends of the 16-bit ranges among them."""
    generator = torch.Generator().manual_seed(seed)
    # Triton's interpreter, and no device, misreads bfloat16's subnormal numbers.
    smallest = 1e-36 if INTERPRETED else 1e-40
    ends = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 65504.0, -65503.9, 6e-8, 3.3e38, smallest, 1e-300])
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for t in made:
        if t.numel() > 2 * len(ends):
            t.view(-1)[: len(ends)] = ends
    return [t.to(dtype) for t in made]


def finite(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors with ones for infinities, whose difference is a NaN with a sign that nobody promises."""
    return [torch.where(t.abs() < 1e4, t, torch.ones_like(t)) for t in tensors]


def shifted(tensor: Tensor) -> Tensor:
    """Return the same at an address that is no multiple of 16."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    room[1:].copy_(tensor.reshape(-1))
    return room[1:].view(tensor.shape)


def transposed(tensor: Tensor) -> Tensor:
    """Return the same, dense, with its dimensions in memory the other way round."""
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


Fill, Perturb, Fold = Callable[..., None], Callable[..., None], Callable[..., None]
Kernels = tuple[Fill, Perturb, Fold]
PLAIN: Kernels = (fill_reference, perturb_reference, fold_reference)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"whole": Tensor.clone, "shifted": shifted, "transposed": transposed}


def compare(
    kernels: Kernels,
    dtype: torch.dtype,
    other: torch.dtype,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    layout: Callable[[Tensor], Tensor] = Tensor.clone,
    *,
    device: str = "cpu",
) -> None:
    """Compare all three operations with plain torch. Targets and ``plus`` have ``dtype``, the rest has ``other``."""
    numbers = [(2**32 - 1 - 7 * k) % 2**32 for k in range(len(shapes))]

    def laid_out(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [
            layout(t).to(device) if layout is transposed or device == "cpu" else layout(t.to(device)) for t in tensors
        ]

    def both(which: int, targets: Sequence[Tensor], *arguments: Any) -> None:
        ours, theirs = laid_out(targets), [layout(t) for t in targets]
        lists = [laid_out(a) if isinstance(a, list) else a for a in arguments]
        kernels[which](ours, *lists, SEED, STEP, numbers)
        PLAIN[which](
            theirs, *([layout(t) for t in a] if isinstance(a, list) else a for a in arguments), SEED, STEP, numbers
        )
        same_bits(ours, theirs)

    both(0, drawn(dtype, shapes, 0))
    for scale in (SCALE, -100.0, 0.0):
        both(1, drawn(dtype, shapes, 0), drawn(other, shapes, 1), scale)
    estimates = drawn(element_dtype(torch.empty(0, dtype=dtype)), shapes, 2)
    plus, minus = drawn(dtype, shapes, 3), drawn(other, shapes, 4)
    both(2, estimates, finite(plus), finite(minus), DECAY, WEIGHT)
    both(2, finite(estimates), plus, [], DECAY, WEIGHT)


NATIVE: Kernels = (torch.ops.srft.fill_probes_, torch.ops.srft.perturb_, torch.ops.srft.fold_probes_)


@native
@pytest.mark.parametrize("name", ["fill_probes_", "perturb_", "fold_probes_"])
def test_the_compiled_library_has_the_operators(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"srft::{name}", "CPU")


@native
@in_another_process
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "other"), PAIRS, ids=str)
def test_the_compiled_kernels_are_the_reference(dtype: torch.dtype, other: torch.dtype, layout: str) -> None:
    shapes = (*SHAPES, *CHUNKS) if dtype == other else SHAPES
    compare(NATIVE, dtype, other, shapes, LAYOUTS[layout])


DIGEST = """
from tests.srft_kernels.ops import test_probe
print(test_probe.digest(test_probe.NATIVE))
"""


def digest(kernels: Kernels) -> str:
    found = hashlib.sha256()
    shapes = ((700, 301), (0,), (5,), (1000, 133))
    numbers = [3, 1, 4, 1]
    for dtype, other in zip(DTYPES, DTYPES[1:] + DTYPES[:1], strict=True):
        out, changed = drawn(dtype, shapes, 0), drawn(dtype, shapes, 1)
        estimates = drawn(element_dtype(out[0]), shapes, 2)
        kernels[0](out, SEED, STEP, numbers)
        kernels[1](changed, drawn(other, shapes, 3), SCALE, SEED, STEP, numbers)
        plus, minus = finite(drawn(dtype, shapes, 4)), finite(drawn(other, shapes, 5))
        kernels[2](estimates, plus, minus, DECAY, WEIGHT, SEED, STEP, numbers)
        for t in (*out, *changed, *estimates):
            found.update(t.view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@native
@in_another_process
def test_bits_depend_neither_on_the_instruction_set_nor_on_threads() -> None:
    answers = digests(DIGEST, threads=(1, 2, 3))
    assert set(answers.values()) == {digest(PLAIN)}, answers


@pytest.fixture(params=["1", "7", "50"])
def on_host(request: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Return the CUDA kernels on a host that stands in for the device, in so many blocks and a shuffled order."""
    monkeypatch.setenv("SRFT_CUDA_ON_HOST_BLOCKS", request.param)
    monkeypatch.setenv("SRFT_CUDA_ON_HOST_ORDER", "7")
    kernels = CudaProbe(module)
    return kernels.fill, kernels.perturb, kernels.fold


@in_another_process
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "other"), PAIRS, ids=str)
def test_the_cuda_kernels_are_the_reference(
    on_host: Kernels, dtype: torch.dtype, other: torch.dtype, layout: str
) -> None:
    shapes = (*SHAPES, *CHUNKS) if dtype == other else SHAPES[:8]
    compare(on_host, dtype, other, shapes, LAYOUTS[layout])


@in_another_process
def test_more_tensors_than_a_launch_takes_and_every_dtype_at_once(on_host: Kernels) -> None:
    compare(on_host, torch.float32, torch.float32, ((3,),) * 900)
    mixed = [torch.zeros(50, dtype=DTYPES[k % 4]) for k in range(12)]
    twins = [t.clone() for t in mixed]
    on_host[0](mixed, SEED, STEP, list(range(12)))
    fill_reference(twins, SEED, STEP, list(range(12)))
    same_bits(mixed, twins)
    for kernel, lists in zip(on_host, ([[]], [[], []], [[], [], []]), strict=True):
        scales = {1: (), 2: (1.0,), 3: (1.0, 1.0)}[len(lists)]
        kernel(*lists, *scales, 0, 0, [])


@in_another_process
@pytest.mark.skipif(not cuda_library.available, reason=cuda_library.reason)
def test_the_compiled_cuda_kernels_move_16_bytes_and_keep_everything_in_registers() -> None:
    from tests.srft_kernels.ops.nvidia_tools import cuobjdump

    first = cuda_library.build.architectures.split()[0].removesuffix("+PTX").replace(".", "")

    def by_kernel(text: str, start: str) -> dict[str, str]:
        parts = re.split(rf"^\s*{start}\s*(\S+?):?$", text, flags=re.MULTILINE)
        return {k: v for k, v in zip(parts[1::2], parts[2::2], strict=True) if "probe_" in k}

    usage = by_kernel(cuobjdump("-res-usage", "-arch", f"sm_{first}"), "Function")
    code = by_kernel(cuobjdump("-sass", "-arch", f"sm_{first}"), "Function :")
    assert usage.keys() == code.keys()
    assert len(usage) == 14  # fill and fold of four dtypes, perturb of these and of two from float32
    for kernel, used in usage.items():
        assert "STACK:0 " in used, kernel
        assert "LOCAL:0 " in used, kernel
        assert not re.search(r"\b(?:LDL|STL)\b", code[kernel]), kernel
        assert re.search(r"\bSTG\.E(?:\.\w+)*\.128\b", code[kernel]), kernel
        assert bool(re.search(r"\bLDG\.E(?:\.\w+)*\.128\b", code[kernel])) == ("probe_fill" not in kernel), kernel


@pytest.mark.parametrize("lists", [([], [torch.ones(1)]), ([torch.ones(1)], [])], ids=["no params", "no originals"])
def test_lists_that_a_device_cannot_take_are_refused_in_words(lists: tuple[list[Tensor], list[Tensor]]) -> None:
    with pytest.raises(ValueError, match="as many originals as params"):
        backends._probe(1, *lists, 1.0, 0, 0, [0] * len(lists[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "other"), PAIRS, ids=str)
def test_a_device_is_the_reference(dtype: torch.dtype, other: torch.dtype, layout: str) -> None:
    compare(NATIVE, dtype, other, (*SHAPES, *CHUNKS), LAYOUTS[layout], device="cuda")


def triton_kernels() -> Kernels:
    pytest.importorskip("triton")
    from srft_kernels.ops.triton import probe as on_triton

    return on_triton.fill, on_triton.perturb, on_triton.fold


@pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "other"), PAIRS, ids=str)
def test_the_triton_kernels_are_the_reference(dtype: torch.dtype, other: torch.dtype, layout: str, device: str) -> None:
    if INTERPRETED and dtype != other and layout != "whole":
        pytest.skip("interpreted, which is slow, layouts are looked at with one dtype at a time")
    compare(triton_kernels(), dtype, other, SHAPES, LAYOUTS[layout], device=device)


@in_another_process
def test_the_triton_kernels_interpreted_on_the_cpu() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "triton"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@in_another_process
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("what", ["fill", "perturb", "fold"])
def test_the_triton_kernels_compile(what: str, dtype: torch.dtype, architecture: int, tmp_path: Path) -> None:
    """They compile ahead of time, for devices that need not be here, spill no register, and move 16 bytes a thread."""
    triton = pytest.importorskip("triton")
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from srft_kernels.ops.triton import probe as on_triton
    from tests.srft_kernels.ops.nvidia_tools import tool

    element = getattr(tl, str(dtype).removeprefix("torch."))
    real = tl.float64 if dtype == torch.float64 else tl.float32
    constants = {
        "FOLD": what == "fold",
        "TARGET": real if what == "fold" else element,
        "FROM": None if what == "fill" else element,
        "MINUS": what == "fold",
        "CHUNK": on_triton.CHUNK,
    }
    types = {"table": "*i64", "owners": "*i32", "tensors": "i32"}
    names = on_triton.kernels.probes.arg_names
    source = ASTSource(
        on_triton.kernels.probes,
        {name: "constexpr" if name in constants else types[name] for name in names},
        constants,
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types.get(name, "").startswith("*")},
    )
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=on_triton.COMPILED)
    assert "STACK:0 " in tool("cuobjdump", made.asm["cubin"], tmp_path, "-res-usage")
    code = tool("nvdisasm", made.asm["cubin"], tmp_path)
    assert "STG.E.128" in code
    assert ("LDG.E.128" in code) == (what != "fill")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_nothing_that_changes_from_call_to_call_is_compiled_in() -> None:
    from srft_kernels.ops.triton import probe as on_triton

    assert on_triton._bits(1.0) == 0x3FF0000000000000
    assert on_triton._bits(-0.0) == -(2**63)


# ---------------------------------------------------------------- what callers rely on


def test_weights_may_be_perturbed_in_place_and_come_back_from_a_copy() -> None:
    weights = [torch.randn(1000), torch.randn(30, 7, dtype=torch.float64)]
    kept = [w.clone() for w in weights]
    perturb_(weights, weights, SCALE, 1, 2, [0, 1])
    expected = [k + SCALE * signs(k.numel(), 1, 2, n, dtype=k.dtype).view(k.shape) for n, k in enumerate(kept)]
    same_bits(weights, expected)
    perturb_(weights, kept, 0.0, 1, 2, [0, 1])
    same_bits(weights, kept)


def test_a_tensors_signs_depend_on_nothing_but_its_number() -> None:
    alone, among = [torch.empty(500)], [torch.empty(77), torch.empty(0), torch.empty(500, dtype=torch.bfloat16)]
    fill_probes_(alone, 5, 6, [9])
    fill_probes_(among, 5, 6, [1, 2, 9])
    assert torch.equal(alone[0], among[2].float())
    longer = torch.empty(1000)
    fill_probes_([longer], 5, 6, [9])
    assert torch.equal(longer[:500], alone[0])


def test_elements_are_counted_as_they_lie_in_memory() -> None:
    last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    fill_probes_([last], 1, 1, [1])
    assert torch.equal(last.permute(0, 2, 3, 1).reshape(-1), signs(120, 1, 1, 1))


def test_every_bit_of_a_seed_counts_and_both_ways_to_write_it_are_one() -> None:
    out = [torch.empty(256) for _ in range(66)]
    for k, t in enumerate(out[:64]):
        fill_probes_([t], 1 << k, 0, [0])
    fill_probes_(out[64:65], 0, 0, [0])
    fill_probes_(out[65:], -1, 0, [0])
    assert len({tuple(t.tolist()) for t in out}) == 66
    fill_probes_(out[:1], 2**64 - 1, 0, [0])
    assert torch.equal(out[0], out[65])
    with pytest.raises(ValueError, match="64 bits"):
        fill_probes_(out, 2**64, 0, [0] * 66)


def test_autograd_is_told_that_weights_have_changed() -> None:
    weight = torch.nn.Parameter(torch.randn(4))
    loss = (weight * weight).sum()
    perturb_([weight], [weight.detach().clone()], 1.0, 0, 0, [0])
    assert weight.requires_grad
    assert weight.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_finite_differences_of_a_quadratic_give_its_diagonal() -> None:
    """The mean of z (A(θ + hz) - A(θ - hz)) / 2h = z Az, for the loss θᵀAθ/2, is diag A.

    An element is off by at most the sum of its row, so Hoeffding's bound holds at 1e-9 for each of 8.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    a = a + a.T
    kept, estimate, probes, h = (
        torch.randn(8, generator=generator, dtype=torch.float64),
        torch.zeros(8).double(),
        4000,
        1e-3,
    )
    theta = kept.clone()
    for k in range(probes):
        perturb_([theta], [kept], h, 3, k, [0])
        plus = a @ theta
        perturb_([theta], [kept], -h, 3, k, [0])
        fold_probes_([estimate], [plus], [a @ theta], 1.0, 1 / (2 * h * probes), 3, k, [0])
    off = a.abs().sum(dim=1) - a.diagonal().abs()
    assert bool(((estimate - a.diagonal()).abs() <= off * math.sqrt(2 * math.log(2 / 1e-9) / probes)).all())


def test_lists_that_do_not_fit_are_refused_before_anything_is_changed() -> None:
    ones = torch.ones(4)

    def refuses(pattern: str, call: Callable[[], None]) -> None:
        with pytest.raises((ValueError, RuntimeError), match=pattern):
            call()
        assert torch.equal(ones, torch.ones(4))

    refuses("as many tensors as out, got 2 for 1", lambda: fill_probes_([ones], 0, 0, [0, 1]))
    refuses("as many originals as params, got 0 for 1", lambda: perturb_([ones], [], 1.0, 0, 0, [0]))
    refuses("as many minus", lambda: fold_probes_([ones, ones], [ones, ones], [ones], 1.0, 1.0, 0, 0, [0, 1]))
    refuses(r"numbers of tensors from 0 to 2\^32 - 1, got -1 at position 1",
            lambda: fill_probes_([ones, ones], 0, 0, [0, -1]))  # fmt: skip
    refuses(r"a step from 0 to 2\^32 - 1, got 4294967296", lambda: fill_probes_([ones], 0, 2**32, [0]))
    refuses("laid out differently", lambda: perturb_([ones], [torch.ones(2, 2)], 1.0, 0, 0, [0]))
    refuses("laid out differently",
            lambda: perturb_([ones, torch.ones(3, 2)], [ones, torch.ones(2, 3).T], 1.0, 0, 0, [0, 1]))  # fmt: skip
    refuses("must be dense", lambda: fill_probes_([ones, torch.ones(4, 4)[:, :2]], 0, 0, [0, 1]))
    refuses("must be dense", lambda: fill_probes_([ones, torch.ones(1).expand(3)], 0, 0, [0, 1]))
    refuses("float32, float64, bfloat16 or float16", lambda: fill_probes_([ones, torch.ones(2).long()], 0, 0, [0, 1]))
    refuses("estimates of float64 for a float64 plus",
            lambda: fold_probes_([ones], [torch.ones(4).double()], [], 1.0, 1.0, 0, 0, [0]))  # fmt: skip


def test_what_lists_need_is_checked_alike_in_plain_torch() -> None:
    ones = torch.ones(4)
    for k, bad in enumerate(
        ([[ones], 0, 0, [0, 1]], [[ones.long()], 0, 0, [0]], [[torch.ones(4, 4)[:, :2]], 0, 0, [0]])
    ):
        with pytest.raises(ValueError, match=("as many tensors", "float32, float64", "must be dense")[k]):
            backends._probe(0, *bad)
        with pytest.raises(ValueError), torch._subclasses.FakeTensorMode() as mode:
            torch.ops.srft.fill_probes_([mode.from_tensor(t) for t in bad[0]], *bad[1:])  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_operators_are_as_they_are_declared(dtype: torch.dtype) -> None:
    def tensors() -> list[Tensor]:
        return [torch.randn(5, 3).to(dtype), torch.randn(()).to(dtype)]

    estimates = [torch.zeros(t.shape, dtype=element_dtype(t)) for t in tensors()]
    operators = torch.ops.srft
    torch.library.opcheck(operators.fill_probes_.default, (tensors(), 3, 4, [0, 1]))
    torch.library.opcheck(operators.perturb_.default, (tensors(), tensors(), 0.5, 3, 4, [0, 1]))
    torch.library.opcheck(operators.fold_probes_.default, (estimates, tensors(), tensors(), 0.5, 0.5, 3, 4, [0, 1]))
    torch.library.opcheck(operators.fold_probes_.default, (estimates, tensors(), [], 0.5, 0.5, 3, 4, [0, 1]))


# ---------------------------------------------------------------- signs that behave like coins

# A sum of n independent signs is beyond ±sqrt(2 n ln(2 / p)) with probability p at most (Hoeffding's inequality for the
# binomial law). Products of signs at two different places are signs again, and a chain of such products is independent,
# so the same holds for a correlation at any lag; that and the two means fix all four cells of a pair's joint law.
TAIL = 1e-9
MANY = 1 << 20


def assert_balanced(sums: Tensor, n: int) -> None:
    """Check that each of ``sums`` is one that ``n`` fair coins may have.

    Each fails with probability 1e-9 if they are fair.
    """
    assert float(sums.abs().max()) <= math.sqrt(2 * n * math.log(2 / TAIL))


def filled(seed: int = 1, step: int = 2, tensor: int = 3, size: int = MANY) -> Tensor:
    z = [torch.empty(size, dtype=torch.float32)]
    fill_probes_(z, seed, step, [tensor])
    return z[0].double()


def test_mean_and_variance() -> None:
    z = filled()
    assert torch.equal(z * z, torch.ones_like(z))
    assert_balanced(z.sum(), MANY)
    # The variance about the mean is then 1 - mean², so the bound above bounds it, too.
    assert 1 - float(z.var(correction=0)) <= 2 * math.log(2 / TAIL) / MANY
    assert_balanced(z.view(-1, SIGNS).sum(0), MANY // SIGNS)  # every bit of the four words
    assert_balanced(z.view(-1, SIGNS).sum(1), SIGNS)  # every call


@pytest.mark.parametrize("lag", [1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 197, 256, 384, 768, 1024, 3072, 4096, 32768])
def test_elements_do_not_go_together(lag: int) -> None:
    """The lags are those of neighbors, of words, of calls, and of the row lengths of networks."""
    z = filled()
    assert_balanced((z[lag:] * z[:-lag]).sum(), MANY - lag)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tensor": 0}, {"tensor": 1}),
        ({"tensor": 1}, {"tensor": 2}),
        ({"tensor": 0}, {"tensor": 2**31}),
        ({"step": 0}, {"step": 1}),
        ({"step": 0}, {"step": 2**32 - 1}),
        ({"seed": 0}, {"seed": 1}),
        ({"seed": 0}, {"seed": 2**32}),
        ({"seed": 1}, {"seed": 2**32}),
        ({"seed": 0}, {"seed": -1}),
        ({"step": 3, "tensor": 5}, {"step": 5, "tensor": 3}),
        ({"seed": 3, "tensor": 5}, {"seed": 5, "tensor": 3}),
        ({"seed": 3, "step": 5}, {"seed": 5, "step": 3}),
    ],
    ids=str,
)
def test_draws_do_not_go_together(one: dict[str, int], other: dict[str, int]) -> None:
    """They do not at any shift of up to a call, either, which would show a counter that ran into another's."""
    a, b = filled(**one), filled(**other)
    assert_balanced((a * b).sum(), MANY)
    for lag in (1, 32, 128):
        assert_balanced((a[lag:] * b[:-lag]).sum(), MANY - lag)
        assert_balanced((a[:-lag] * b[lag:]).sum(), MANY - lag)


def test_many_draws_of_few_elements_do_not_go_together() -> None:
    """The moments that the estimator rests on hold over the draws.

    E[zᵢ] = 0 and E[zᵢ zⱼ] = 0 for all pairs of 40 elements, some of another tensor.
    """
    draws = 4096
    z = torch.empty(draws, 40)
    for k in range(draws):
        fill_probes_([z[k, :25], z[k, 25:]], 7, k, [0, 1])
    second = z.double().T @ z.double()
    assert torch.equal(second.diagonal(), torch.full((40,), float(draws), dtype=torch.float64))
    assert_balanced(second - draws * torch.eye(40), draws)
    assert_balanced(z.double().sum(0), draws)
    one = z.double()
    assert_balanced((one[1:] * one[:-1]).sum(0), draws - 1)  # from one step to the next
