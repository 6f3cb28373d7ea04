"""One native library serves every torch from the oldest supported to the newest; the oldest itself shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from srft_kernels.ops.native import LIBRARY_FILE, library
from tests.paths import REPOSITORY

SCRIPT = Path(__file__).with_name("steps_under_any_torch.py")
OLDEST = "2.10.0"
SPACE = 12 * 2**30
"""Bytes that have to be free: 7 GiB for a second torch with its CUDA packages, 3 GiB for their archives while it is
installed, and 2 GiB for the tests that run beside it."""

needs_library = pytest.mark.skipif(not library.available, reason=library.reason)


def read_elf(option: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")
    return subprocess.run(
        ["readelf", "--wide", option, str(LIBRARY_FILE)], check=True, capture_output=True, text=True
    ).stdout


def run_script(python: Path | str, out: Path, *, backend: str) -> dict[str, np.ndarray]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(python), str(SCRIPT), backend, str(out)],
        env=environment,
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def python_with_oldest_torch() -> Path:
    """Return an interpreter with the oldest supported torch, in .venvs/torch-oldest, which is kept between runs."""
    folder = REPOSITORY / ".venvs" / "torch-oldest"
    python = folder / "bin" / "python"
    stamp = folder / f"torch-{OLDEST}"
    if not stamp.exists():
        # A disk that this fills fails the tests that run beside it, so a full disk is found out before.
        free = shutil.disk_usage(REPOSITORY).free
        if free < SPACE:
            pytest.skip(f"a second torch wants {SPACE >> 30} GiB free on the disk, and {free >> 30} GiB are")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
        packages = [f"torch=={OLDEST}", "numpy", "safetensors"]
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-compile", *packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if re.search(r"No matching distribution|Could not find a version|Max retries|Connection", done.stderr):
            pytest.skip(f"pip finds no torch {OLDEST} for this Python: {done.stderr.strip().splitlines()[-1]}")
        if "No space left on device" in done.stderr:
            shutil.rmtree(folder)
            pytest.skip(
                f"the disk was full before a second torch was installed, although {free >> 30} GiB had been free"
            )
        assert done.returncode == 0, done.stderr
        stamp.touch()
    return python


def test_the_oldest_torch_tested_is_the_oldest_declared() -> None:
    declared = set(re.findall(r'"torch>=([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text()))
    assert declared == {OLDEST.removesuffix(".0")}


def test_the_sources_include_no_aten_header() -> None:
    sources = [path for path in (REPOSITORY / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    assert sources
    included = {name for path in sources for name in re.findall(r'#include\s*[<"]([^>"]+)[>"]', path.read_text())}
    foreign = sorted(name for name in included if re.match(r"ATen/|c10/|torch/", name))
    assert foreign, "no torch header at all: this test looks in the wrong place"
    assert [
        name for name in foreign if not re.match(r"torch/(csrc/stable|csrc/inductor/aoti_torch|headeronly)/", name)
    ] == []


@needs_library
def test_the_library_asks_for_no_cpp_symbol_of_torch_and_no_python() -> None:
    undefined = [line.split()[-1] for line in read_elf("--dyn-syms").splitlines() if " UND " in line]
    names = [name.split("@")[0] for name in undefined]
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in names), names
    # Itanium mangling: _ZN2at..., _ZNK3c10..., _ZN5torch... are C++ names of those namespaces, which change.
    assert [name for name in names if re.match(r"_ZT?[A-Z]*K?(2at|3c10|5torch)", name)] == []
    assert [name for name in names if name.startswith(("Py", "_Py"))] == []

    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", read_elf("--dynamic"))
    assert needed
    assert [name for name in needed if "python" in name] == []


@needs_library
@pytest.mark.slow
def test_the_same_binary_takes_the_same_steps_under_the_oldest_torch_and_this_one(
    python_with_oldest_torch: Path, tmp_path: Path
) -> None:
    old = run_script(python_with_oldest_torch, tmp_path / "old.npz", backend="native")
    new = run_script(sys.executable, tmp_path / "new.npz", backend="native")
    assert str(old.pop("torch")).startswith(OLDEST)
    assert str(new.pop("torch")) == torch.__version__
    assert old.keys() == new.keys()
    assert [name for name in new if new[name].tobytes() != old[name].tobytes()] == []

    # Equal bits may be equally wrong, so both are compared with the reference, which is plain torch.
    truth = run_script(sys.executable, tmp_path / "truth.npz", backend="reference")
    # The tolerance is the rounding of four steps in the compute dtype; in bfloat16 one rounding of storage may differ.
    tolerances = {"fp64": 1e-14, "fp32": 1e-6, "bf16": 2**-7}
    for name, value in new.items():
        tolerance = tolerances[name.split("/")[1]]
        np.testing.assert_allclose(value, truth[name], rtol=tolerance, atol=tolerance, err_msg=name)
    moved = [name for name in new if name.endswith("/weight")]
    assert len(moved) == 2 * 3 * 3
    assert [name for name in moved if np.array_equal(new[name], new[name.replace("/weight", "/start")])] == []
