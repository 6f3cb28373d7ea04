"""The CUDA library's own code on a host that stands in for the device (cuda_on_host/), for every test that runs it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from srft_kernels.ops.native import LIBRARY_FILE, library
from tests.paths import REPOSITORY

ROOT = REPOSITORY
SOURCES = [
    *(f"csrc/cuda/step_{dtype}.cu" for dtype in ("float32", "float64", "bfloat16", "float16")),
    "csrc/cuda/penalty.cu",
    "csrc/cuda/probe.cu",
    "csrc/cuda/plan.cpp",
    "csrc/cuda/module.cpp",
    "csrc/cuda/operators.cpp",
    "tests/srft_kernels/ops/cuda_on_host/fibers.cpp",
]


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The CUDA library, compiled for the host."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    pybind11 = pytest.importorskip("pybind11")
    if not library.available:
        pytest.skip(library.reason)
    folder = tmp_path_factory.mktemp("cuda_on_host")
    defines = {"SRFT_CUDA_MODULE": "_cuda_on_host", "SRFT_CUDA_ON_HOST": "1"}
    defines |= {"SRFT_CUDA_OPERATORS": "srft_cuda_on_host", "SRFT_CUDA_OPERATORS_NAME": '"srft_cuda_on_host"'}
    defines |= {"TORCH_TARGET_VERSION": "0x020a000000000000"}
    defines |= {f"SRFT_{name}": '""' for name in ("VERSION", "CUDA_TOOLKIT", "CUDA_TORCH", "CUDA_ARCHITECTURES")}
    torch_folder = Path(torch.__file__).parent
    includes = [ROOT / "tests/srft_kernels/ops/cuda_on_host", pybind11.get_include(), sysconfig.get_paths()["include"]]
    includes += [torch_folder / "include"]
    options = ["-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-unknown-pragmas"]
    options += [f"-D{name}={value}" for name, value in defines.items()] + [f"-I{path}" for path in includes]

    def build(source: str) -> str:
        target = folder / (source.replace("/", "_") + ".o")
        subprocess.run([compiler, *options, "-x", "c++", "-c", str(ROOT / source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, SOURCES))
    target = folder / f"_cuda_on_host{sysconfig.get_config_var('EXT_SUFFIX')}"
    libraries = [str(LIBRARY_FILE), f"-Wl,-rpath,{LIBRARY_FILE.parent}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    subprocess.run([compiler, "-shared", "-o", str(target), *objects, *libraries, "-ldl"], check=True)
    spec = importlib.util.spec_from_file_location("_cuda_on_host", target)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
