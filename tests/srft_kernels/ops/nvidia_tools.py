"""NVIDIA's disassemblers, from a toolkit or as Triton brings them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from srft_kernels.ops.native import cuda_library


def cuobjdump(*options: str) -> str:
    """Run NVIDIA's disassembler, from a toolkit or from Triton, on the built library."""
    triton = importlib.util.find_spec("triton")
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    if triton is not None and triton.origin is not None:
        folders.insert(0, str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    path = os.pathsep.join(folders)
    program = shutil.which("cuobjdump", path=path)
    if program is None or shutil.which("nvdisasm", path=path) is None:
        pytest.skip("cuobjdump and nvdisasm are not installed: they come with the CUDA toolkit and with triton")
    # cuobjdump calls nvdisasm.
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        [program, *options, str(cuda_library.build.__file__)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout


def tool(name: str, binary: bytes, folder: Path, *options: str) -> str:
    """Return what one of NVIDIA's tools that come with Triton says of a kernel."""
    triton = importlib.util.find_spec("triton")
    assert triton is not None
    assert triton.origin is not None
    path = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        pytest.skip(f"this Triton comes without {name}")
    (folder / "kernel.cubin").write_bytes(binary)
    done = subprocess.run([path, *options, folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    return done.stdout
