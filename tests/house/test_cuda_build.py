"""CUDA kernels are built where they should be, with the right nvcc and for the right GPUs, and the report says so.

No GPU is needed: neither the build nor these tests look for one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from srft_kernels import __main__ as report
from srft_kernels import ops
from srft_kernels.ops import backends
from srft_kernels.ops.native import NativeLibrary, cuda_library
from tests.paths import REPOSITORY

NEWEST = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """Import setup.py without running its ``setup``."""
    pytest.importorskip("setuptools", reason="setup.py needs setuptools")
    spec = importlib.util.spec_from_file_location("srft_setup", REPOSITORY / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up a class's module here.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def stand_in_nvcc(folder: Path, release: str = "13.0", trial: str = "exit 0") -> Path:
    """Write an nvcc that answers with its version, and runs ``trial`` when it is asked to compile."""
    return program(
        folder,
        "nvcc",
        f"""case "$1" in
            --version) echo "Cuda compilation tools, release {release}, V{release}.1" ;;
            --list-gpu-code) printf '%s\\n' {" ".join(NEWEST)} ;;
            *) {trial} ;;
        esac""",
    )


# ---------------------------------------------------------------------- for which GPUs


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", ()),
        (" ; ,", ()),
        ("9.0", ("9.0",)),
        ("8.0;8.6 9.0+PTX", ("8.0", "8.6", "9.0+PTX")),
        ("12.0+PTX,10.0, 8.9 ;8.0", ("8.0", "8.9", "10.0", "12.0+PTX")),
        ("9.0a;9.0", ("9.0", "9.0a")),
        ("10.0f 10.0a+PTX", ("10.0a+PTX", "10.0f")),
        ("8.6;8.6+PTX;8.6", ("8.6+PTX",)),
    ],
)
def test_the_list_of_architectures_is_read_as_torch_reads_it(
    build: ModuleType, listed: str, expected: tuple[str, ...]
) -> None:
    assert build.parse_architectures(listed) == expected


@pytest.mark.parametrize("word", ["Hopper", "sm_90", "90", "9", "9.0+ptx", "9.0b", "8.0-real"])
def test_an_architecture_that_is_no_number_is_named(build: ModuleType, word: str) -> None:
    with pytest.raises(ValueError, match=rf"contains '{re.escape(word)}'.*numbers"):
        build.parse_architectures(f"8.0;{word}")


def test_the_default_is_every_architecture_that_nvcc_knows_and_ptx_of_the_newest(
    build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.choose_architectures("", NEWEST, "nvcc") == ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
    assert capsys.readouterr().out == ""
    assert build.choose_architectures("", NEWEST[:-2], "nvcc") == ("8.0", "8.6", "8.9", "9.0+PTX")
    (said,) = capsys.readouterr().out.splitlines()
    assert "10.0, 12.0" in said
    assert "left out" in said
    with pytest.raises(build.NoCuda, match=r"none of 8\.0"):
        build.choose_architectures("", ["sm_50", "sm_75"], "nvcc")


def test_an_architecture_asked_for_is_never_left_out(build: ModuleType) -> None:
    assert build.choose_architectures("7.5;9.0a", NEWEST, "nvcc") == ("7.5", "9.0a")
    with pytest.raises(ValueError, match=r"asks for 7\.0, 12\.1\+PTX, which nvcc cannot compile: it knows sm_75"):
        build.choose_architectures("7.0 9.0 12.1+PTX", NEWEST, "nvcc")


# ---------------------------------------------------------------------- with which nvcc, and whether


def test_cuda_home_goes_before_path_and_path_before_the_usual_folder(build: ModuleType, tmp_path: Path) -> None:
    home, path, usual = (stand_in_nvcc(tmp_path / name / "bin") for name in ("home", "path", "usual"))
    environment = {"CUDA_HOME": str(home.parents[1]), "CUDA_PATH": str(usual.parents[1]), "PATH": str(path.parent)}
    for name, expected in (("CUDA_HOME", home), ("CUDA_PATH", usual), ("PATH", path)):
        assert build.find_nvcc(environment, usual=usual.parents[1]) == str(expected)
        del environment[name]
    environment["PATH"] = str(tmp_path)
    assert build.find_nvcc(environment, usual=usual.parents[1]) == str(usual)
    with pytest.raises(build.NoCuda, match="neither by CUDA_HOME nor on PATH nor in"):
        build.find_nvcc(environment, usual=tmp_path / "nowhere")
    # A toolkit that was named is taken, and no other one.
    with pytest.raises(build.NoCuda, match=r"CUDA_HOME names .*nowhere, which holds no bin/nvcc"):
        build.find_nvcc({"CUDA_HOME": str(tmp_path / "nowhere"), "PATH": str(path.parent)})


def test_an_nvcc_and_a_torch_with_cuda_decide(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvcc = stand_in_nvcc(tmp_path / "bin")
    environment = {"CUDA_HOME": str(tmp_path)}
    monkeypatch.setattr(build, "torch_cuda", lambda: ("2.15.0+cu132", "13.2"))
    chosen = build.choose_cuda({**environment, "TORCH_CUDA_ARCH_LIST": "9.0"})
    assert chosen == build.Cuda(str(nvcc), "13.0", ("9.0",))
    assert len(build.choose_cuda(environment).architectures) == len(build.DEFAULT_ARCHITECTURES)
    assert capsys.readouterr().out == ""

    for variables, why in (({"SRFT_NO_CUDA": "1"}, "SRFT_NO_CUDA was set"), ({"SRFT_CUDA": "0"}, "SRFT_CUDA was 0")):
        with pytest.raises(build.NoCuda, match=why):
            build.choose_cuda({**environment, **variables})

    monkeypatch.setattr(build, "torch_cuda", lambda: ("2.12.0+cu128", "12.8"))
    assert build.choose_cuda(environment).release == "13.0"
    assert "need a driver for CUDA 13" in capsys.readouterr().out

    monkeypatch.setattr(build, "torch_cuda", lambda: ("2.15.0+cpu", None))
    with pytest.raises(build.NoCuda, match=r"torch 2\.15\.0\+cpu was built without CUDA"):
        build.choose_cuda(environment)


def test_an_nvcc_that_cannot_compile_costs_the_cuda_kernels_alone(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint = "host_config.h:151: error: -- unsupported GNU version!"
    stand_in_nvcc(tmp_path / "bin", trial=f'echo "In file included" >&2; echo "{complaint}" >&2; exit 1')
    monkeypatch.setattr(build, "torch_cuda", lambda: ("2.15.0+cu132", "13.2"))
    for name in ("SRFT_CUDA", "SRFT_NO_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    cuda, reason = build.cuda_or_reason()
    assert cuda is None
    assert complaint in reason
    (said,) = capsys.readouterr().out.splitlines()
    assert said == f"srft-kernels: CUDA kernels are not built: {reason}."

    monkeypatch.setenv("SRFT_CUDA", "1")
    with pytest.raises(SystemExit, match=r"asks for CUDA kernels.*unsupported GNU version"):
        build.cuda_or_reason()
    monkeypatch.setenv("SRFT_NO_CUDA", "1")
    with pytest.raises(SystemExit, match="contradict"):
        build.cuda_or_reason()


def test_nvcc_is_told_which_host_compiler_the_rest_is_built_with(build: ModuleType) -> None:
    assert build.host_compiler({}) is None
    assert build.host_compiler({"CXX": "clang++-18"}) == "clang++-18"
    assert build.host_compiler({"CXX": "g++-14", "CUDAHOSTCXX": "g++-12"}) == "g++-12"
    assert build.host_compiler({"CXX": "ccache g++"}) is None
    assert build.host_compiler({"CXX": "g++-14", "NVCC_CCBIN": "g++-12"}) is None


def test_torch_is_read_and_not_imported(build: ModuleType) -> None:
    assert build.torch_cuda() == (str(torch.__version__), torch.version.cuda)


# ---------------------------------------------------------------------- the build itself


def wheel(source: Path, out: Path, **variables: str) -> tuple[int, str, set[str]]:
    """Build a wheel of a copy of the repository; return exit status, output and the compiled libraries in it."""
    unset = ("SRFT_CUDA", "SRFT_NO_CUDA", "SRFT_NO_NATIVE", "TORCH_CUDA_ARCH_LIST", "CUDAFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = ("-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps", "--no-index", "-w")
    done = subprocess.run(
        [sys.executable, *command, str(out)],
        cwd=source,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    libraries: set[str] = set()
    for file in out.glob("*.whl"):
        with zipfile.ZipFile(file) as archive:
            libraries = {name for name in archive.namelist() if name.endswith(".so")}
    return done.returncode, done.stdout + done.stderr, libraries


@pytest.fixture
def empty_sources(tmp_path: Path) -> Path:
    """Copy the repository with empty C++ and CUDA sources, so that a build takes seconds."""
    for module in ("setuptools", "cmake", "ninja", "pybind11"):
        pytest.importorskip(module, reason="a build without isolation needs it in this environment")
    copy = tmp_path / "source"
    for name in ("setup.py", "CMakeLists.txt", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        copy.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, copy)
    (copy / "srft_kernels").mkdir()
    shutil.copy(REPOSITORY / "srft_kernels" / "__init__.py", copy / "srft_kernels")
    for path in (REPOSITORY / "csrc").rglob("*"):
        if path.suffix in (".cpp", ".cu"):
            empty = copy / path.relative_to(REPOSITORY)
            empty.parent.mkdir(parents=True, exist_ok=True)
            empty.touch()
    return copy


def test_cuda_asked_for_by_name_without_nvcc_is_one_sentence(empty_sources: Path, tmp_path: Path) -> None:
    if torch.version.cuda is None:
        pytest.skip("torch here was built without CUDA, which is the sentence then")
    code, output, _ = wheel(empty_sources, tmp_path / "wheels", SRFT_CUDA="1", CUDA_HOME=str(tmp_path))
    assert code != 0
    assert "Traceback" not in output, output
    (sentence,) = [line for line in output.splitlines() if "srft-kernels: " in line]
    assert "holds no bin/nvcc" in sentence
    assert "Install what they need: nvcc" in sentence


def test_a_wheel_carries_the_cuda_library_for_the_architectures_asked_for(
    build: ModuleType, empty_sources: Path, tmp_path: Path
) -> None:
    try:
        build.choose_cuda({**os.environ, "SRFT_NO_CUDA": ""})
    except build.NoCuda as reason:
        pytest.skip(f"no CUDA kernels can be built here: {reason}")
    code, output, libraries = wheel(
        empty_sources, tmp_path / "wheels", SRFT_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0 8.0+PTX"
    )
    assert code == 0, output
    names = {re.sub(r"srft_kernels/(\w+)\..*", r"\1", name) for name in libraries}
    assert names == {"_build", "_cuda", "_ops"}
    (cache,) = empty_sources.glob("build/cmake-*/CMakeCache.txt")
    assert "SRFT_CUDA_ARCHITECTURES:STRING=8.0+PTX 9.0" in cache.read_text()
    rules = cache.with_name("build.ninja").read_text()
    assert set(re.findall(r"code=[cs]\w+", rules)) == {"code=sm_80", "code=compute_80", "code=sm_90"}
    # Contractions are written out in csrc/core, so nvcc must add none.
    assert "--fmad=false" in rules
    assert "fast" not in " ".join(re.findall(r"^  FLAGS = (.*)$", rules, re.MULTILINE))

    # The library of an earlier build must not slip into a wheel that is built without it.
    code, output, libraries = wheel(empty_sources, tmp_path / "again", SRFT_NO_CUDA="1")
    assert code == 0, output
    assert not any("_cuda" in name for name in libraries)


needs_cuda_library = pytest.mark.skipif(not cuda_library.available, reason=cuda_library.reason)


@needs_cuda_library
def test_the_cuda_library_holds_the_runtime_and_knows_torch_by_its_stable_abi() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")

    def read(option: str) -> str:
        command = ["readelf", "--wide", option, str(cuda_library.build.__file__)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", read("--dynamic"))
    assert needed
    # The same library serves a torch without CUDA: what it needs of torch's CUDA it looks for when it is called.
    assert [name for name in needed if re.search(r"cuda|torch|c10|nvrtc|python", name)] == ["libtorch_cpu.so"]
    symbols = [line.split() for line in read("--dyn-syms").splitlines()[3:]]
    undefined = [fields[-1] for fields in symbols if len(fields) > 7 and fields[6] == "UND"]
    assert any(name.startswith("aoti_torch_") for name in undefined)
    assert [name for name in undefined if re.match(r"_ZNK?(2at|3c10|5torch)", name)] == []
    defined = [fields[-1] for fields in symbols if len(fields) > 7 and fields[6] != "UND"]
    assert "PyInit__cuda" in defined
    # If its symbols were visible, this runtime could stand in for the one that torch brings, or the other way round.
    assert [name for name in defined if re.match(r"cuda|__cuda|cu[A-Z]|_ZN4srft", name)] == []


@needs_cuda_library
def test_the_cuda_library_says_what_it_was_built_with(build: ModuleType) -> None:
    library = cuda_library.build
    assert re.fullmatch(r"\d+\.\d+", library.toolkit)
    assert tuple(library.architectures.split()) == build.parse_architectures(library.architectures)
    assert library.architectures


# ---------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        ("8.0 8.6 9.0", (8, 0), True),
        ("8.0 8.6 9.0", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.0 9.0", (10, 0), False),
        ("8.0 9.0+PTX", (12, 1), True),
        ("9.0+PTX", (8, 9), False),
        ("10.0 12.0+PTX", (10, 3), True),
        ("10.0 12.0+PTX", (11, 0), False),
        ("9.0a", (9, 0), True),
        # An architecture with "a" serves exactly its own number, as machine code and as PTX.
        ("10.0a+PTX", (10, 3), False),
        ("10.0a+PTX", (12, 0), False),
    ],
)
def test_which_devices_an_architecture_serves(architectures: str, capability: tuple[int, int], expected: bool) -> None:
    assert ops.serves(architectures, *capability) is expected


def stand_in_library(architectures: list[str], error: str = "", toolkit: str = "13.0") -> NativeLibrary:
    def devices() -> list[dict[str, object]]:
        if error:
            raise RuntimeError(error)
        return []

    return NativeLibrary(
        SimpleNamespace(
            version="0", toolkit=toolkit, architectures=" ".join(architectures), torch="13.2", devices=devices
        ),
        "",
    )


@pytest.mark.parametrize(
    ("library", "triton", "backend", "why"),
    [
        (stand_in_library(["8.0", "9.0"]), (True, ""), "native", r"serve 9\.0"),
        (stand_in_library(["8.0+PTX"]), (True, ""), "native", r"serve 9\.0"),
        (stand_in_library(["12.0"]), (True, ""), "triton", r"built for 12\.0 and not for this device, 9\.0"),
        # The library's CUDA runtime may need a newer driver than torch's runtime does.
        (stand_in_library(["9.0"], "driver too old"), (True, ""), "triton", "driver too old"),
        (NativeLibrary(None, "no nvcc"), (True, ""), "triton", "^CUDA kernels: no nvcc$"),
        (NativeLibrary(None, "no nvcc"), (False, "no triton"), "reference", "^CUDA kernels: no nvcc; no triton$"),
    ],
)
def test_the_report_says_what_a_device_would_run_and_why(
    library: NativeLibrary, triton: tuple[bool, str], backend: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (backends, report):
        monkeypatch.setattr(module, "cuda_library", library)
        monkeypatch.setattr(module, "library", NativeLibrary(None, ""))
        monkeypatch.setattr(module, "triton_available", lambda: triton)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = report.report()["cuda"]
    (device,) = found["devices"]
    assert (device["name"], device["capability"], device["backend"]) == ("GPU 0", "9.0", backend)
    assert found["backend"] == backend
    assert re.search(why, device["why"]), device["why"]


def test_the_report_says_why_there_are_no_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "cuda_library", NativeLibrary(None, "no such module"))
    # A library that was built by an earlier version has no record.
    for recorded, expected in (({"without_cuda": "no nvcc"}, "not built: no nvcc"), ({}, "no such module")):
        monkeypatch.setattr(report, "library", NativeLibrary(SimpleNamespace(**recorded), ""))
        assert report._no_cuda_library() == expected
    monkeypatch.setattr(report, "cuda_library", stand_in_library(["9.0"]))
    assert report._no_cuda_library() == ""


def test_the_report_says_where_the_driver_must_be_newer_than_torch_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(report, "cuda_library", stand_in_library(["9.0"], toolkit="13.0"))
    assert "driver for CUDA 13" in report.report()["cuda_built"]["needs"]
    monkeypatch.setattr(report, "cuda_library", stand_in_library(["9.0"], toolkit="12.9"))
    assert report.report()["cuda_built"]["needs"] == ""
