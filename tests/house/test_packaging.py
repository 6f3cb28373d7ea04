"""An installation works: wheels, one sentence where something is missing, the report, a clean import."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import srft_kernels
from srft_kernels.ops.native import cuda_library, library
from tests.paths import REPOSITORY

BUILD_MODULES = ("setuptools", "cmake", "ninja", "pybind11")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".venvs", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis", "runs"
)


def run(
    *command: str | Path, cwd: Path | None = None, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd or REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def pip_wheel(source: Path, out: Path, *, python: Path | str = sys.executable, **variables: str) -> tuple[int, str]:
    # CUDA kernels take minutes to build; test_cuda_build.py tests them.
    done = run(
        *(python, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps", "--no-index", "-w", out),
        cwd=source,
        **{"SRFT_NO_CUDA": "1", "SRFT_CUDA": "", **variables},
    )
    return done.returncode, done.stdout + done.stderr


def contents(wheel_folder: Path) -> tuple[str, set[str]]:
    (wheel,) = wheel_folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, set(archive.namelist())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Copy the repository as a clone would be, without built or left-over files."""
    copy = tmp_path / "source"
    shutil.copytree(REPOSITORY, copy, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="session")
def has_build_tools() -> None:
    missing = [name for name in BUILD_MODULES if run(sys.executable, "-c", f"import {name}").returncode]
    if missing:
        pytest.skip(f"a build without isolation needs {', '.join(missing)} in this environment")


def package_data() -> set[str]:
    """List the files that the packages read or ship and that are not Python."""
    kinds = ("configs/**/*.yaml", "weights/*.safetensors", "py.typed")
    return {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("srft_kernels", "tracker")
        for kind in kinds
        for path in (REPOSITORY / package).glob(kind)
    }


# ---------------------------------------------------------------------- wheels


@pytest.mark.slow
@pytest.mark.usefixtures("has_build_tools")
def test_a_wheel_holds_both_libraries_and_the_data_and_works_by_itself(source: Path, tmp_path: Path) -> None:
    # This imitates a machine without nvcc: CUDA_HOME is looked at before PATH and the usual folders.
    code, output = pip_wheel(source, tmp_path / "wheels", SRFT_NO_CUDA="", CUDA_HOME=str(tmp_path))
    assert code == 0, output
    name, files = contents(tmp_path / "wheels")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"srft_kernels-[\d.]+-{tag}-{tag}-\w+\.whl", name), name

    libraries = {file for file in files if file.endswith(".so")}
    assert "srft_kernels/_ops.so" in libraries
    assert len(libraries) == 2
    assert any(re.fullmatch(r"srft_kernels/_build\..+\.so", file) for file in libraries)
    assert package_data() <= files
    assert {"srft_kernels/py.typed", "tracker/py.typed"} <= files
    python = {
        p.relative_to(REPOSITORY).as_posix()
        for k in ("srft_kernels", "tracker")
        for p in REPOSITORY.glob(f"{k}/**/*.py")
    }
    assert python <= files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert {file.split("/")[0] for file in files if ".dist-info/" not in file} == {"srft_kernels", "tracker"}

    installed = tmp_path / "installed"
    with zipfile.ZipFile(next((tmp_path / "wheels").glob("*.whl"))) as archive:
        archive.extractall(installed)
    done = run(sys.executable, "-m", "srft_kernels", "--json", cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cpu"]["backend"] == "native"
    assert found["built"]["version"] == found["version"]
    assert found["cuda_built"] is None
    assert "bin/nvcc" in found["cuda_not_built"] or "without CUDA" in found["cuda_not_built"]
    where = run(
        sys.executable,
        "-c",
        "import srft_kernels; print(srft_kernels.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert where.stdout.startswith(str(installed)), "the report came from another copy of the package"


@pytest.mark.usefixtures("has_build_tools")
def test_without_native_the_wheel_is_pure_and_the_reference_takes_the_steps(source: Path, tmp_path: Path) -> None:
    # Files that an editable install leaves behind must not slip into the wheel.
    (source / "srft_kernels" / "_ops.so").write_bytes(b"left over")
    code, output = pip_wheel(source, tmp_path / "wheels", SRFT_NO_NATIVE="1")
    assert code == 0, output
    name, files = contents(tmp_path / "wheels")
    assert name.endswith("-py3-none-any.whl")
    assert [file for file in files if file.endswith(".so")] == []
    assert package_data() <= files

    installed = tmp_path / "installed"
    with zipfile.ZipFile(next((tmp_path / "wheels").glob("*.whl"))) as archive:
        archive.extractall(installed)
    step = (
        "import torch, srft_kernels as srft; p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3);"
        "o = srft.SRFT(torch.optim.SGD([p], lr=0.5), damping='rank'); o.step(); print(p.tolist(), srft.__file__)"
    )
    done = run(sys.executable, "-c", step, cwd=tmp_path, PYTHONPATH=str(installed))
    # SGD goes halfway, to 0.5. The damping of a middle rank (mu = 0.45) goes 0.45 of the way from there back to 1.
    assert done.stdout.startswith("[0.725"), done.stdout + done.stderr
    assert str(installed) in done.stdout
    report = run(sys.executable, "-m", "srft_kernels", cwd=tmp_path, PYTHONPATH=str(installed))
    assert report.returncode == 0, report.stderr
    assert re.search(r"native library\s+no\s+_ops\.so was not built", report.stdout)
    assert re.search(r"on the CPU\s+reference", report.stdout)


@pytest.mark.usefixtures("has_build_tools")
def test_a_source_distribution_holds_what_a_build_needs(source: Path, tmp_path: Path) -> None:
    build = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", build, tmp_path / "sdist", cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        files = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"setup.py", "pyproject.toml", "CMakeLists.txt", "Makefile", "LICENSE", "MANIFEST.in", ".clang-format"}
    csrc = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "csrc").rglob("*") if path.is_file()}
    assert csrc
    assert (wanted | csrc | package_data()) - files == set()
    assert [name for name in files if name.endswith(".so")] == []


# ---------------------------------------------------------------------- one sentence each


def sentences(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if "srft-kernels: " in line]


@pytest.mark.usefixtures("has_build_tools")
def test_torch_missing_at_build_time_is_one_sentence(source: Path, tmp_path: Path) -> None:
    # This imitates an environment without torch: the import system does not find it.
    call = "import sys; sys.modules['torch'] = None; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    done = run(sys.executable, "-c", call, tmp_path / "wheels", cwd=source)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in output, output
    (sentence,) = sentences(output)
    assert "torch is needed to build" in sentence
    assert "pip install torch" in sentence


@pytest.mark.usefixtures("has_build_tools")
@pytest.mark.parametrize("missing", ["no compiler on PATH", "CXX names none"])
def test_a_missing_compiler_is_one_sentence(source: Path, tmp_path: Path, missing: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    variables = {"PATH": str(empty), "CXX": ""} if missing == "no compiler on PATH" else {"CXX": "no-such-compiler -O2"}
    code, output = pip_wheel(source, tmp_path / "wheels", **variables)
    assert code != 0
    assert "Traceback" not in output, output
    (sentence,) = sentences(output)
    assert "C++ compiler" in sentence
    assert "SRFT_NO_NATIVE=1" in sentence


# ---------------------------------------------------------------------- the report


def test_the_report_says_what_runs_here() -> None:
    done = run(sys.executable, "-m", "srft_kernels", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == srft_kernels.__version__
    assert found["running"]["torch"] == torch.__version__
    assert found["cpu"]["threads"] == 1
    if library.available:
        assert found["cpu"]["backend"] == "native"
        assert found["cpu"]["capability"] == library.capability()
        assert found["cpu"]["capability"] in found["built"]["instruction_sets"]
    else:
        assert found["cpu"]["backend"] == "reference"
    assert (found["cuda_built"] is not None) == cuda_library.available
    assert (found["cuda_not_built"] == "") == cuda_library.available
    assert bool(found["cuda"]["devices"]) == torch.cuda.is_available()
    table = run(sys.executable, "-m", "srft_kernels").stdout
    assert torch.__version__ in table
    assert max(map(len, table.splitlines())) < 160


@pytest.mark.skipif(not library.available, reason=library.reason)
def test_the_report_follows_the_variable_that_overrides_the_instruction_set() -> None:
    done = run(sys.executable, "-m", "srft_kernels", "--json", SRFT_CPU_CAPABILITY="baseline")
    assert json.loads(done.stdout)["cpu"]["capability"] == "baseline"
    wrong = run(sys.executable, "-m", "srft_kernels", SRFT_CPU_CAPABILITY="quantum")
    assert wrong.returncode == 1
    assert "SRFT_CPU_CAPABILITY is 'quantum'" in wrong.stdout
    assert "Traceback" not in wrong.stderr


# ---------------------------------------------------------------------- import and repository


def test_importing_the_kernels_imports_nothing_of_the_tracker() -> None:
    names = ("tracker", "timm", "torchvision", "matplotlib", "cv2", "skimage", "pydantic")
    code = f"import sys, srft_kernels; print([n for n in {names!r} if n in sys.modules])"
    done = run(sys.executable, "-W", "error::DeprecationWarning:srft_kernels", "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def repository_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git clone, so what belongs to the repository is not known")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    return [REPOSITORY / name for name in listed if name and (REPOSITORY / name).is_file()]


def test_the_repository_speaks_of_no_machine_and_no_registry() -> None:
    patterns = {
        "a path of one machine": r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|opt/\w+|mnt/\w+)(?:/|\b)",
        "a package registry": r"py"
        + r"pi\.org|python"
        + r"hosted\.org|--(?:extra-)?index"
        + r"-url|download\.py"
        + "torch",
    }
    found = []
    for path in repository_files():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{path.name}:{number}: {what}" for what, p in patterns.items() if re.search(p, line)]
    assert found == []


def test_the_makefile_installs_what_the_build_declares() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    project = (REPOSITORY / "pyproject.toml").read_text()
    listed = re.search(r"^BUILD_REQUIREMENTS := (.*)$", makefile, re.MULTILINE)
    declared = re.search(r"^requires = \[(.*)\]$", project, re.MULTILINE)
    assert listed is not None
    assert declared is not None
    assert set(re.findall(r'"([^"]+)"', listed[1])) == set(re.findall(r'"([^"]+)"', declared[1]))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("no-such-python", "make: no-such-python was not found"),
        ("old-python", "make: old-python is older than Python 3.10"),
        ("bare-python", "make: bare-python cannot make virtual environments"),
    ],
)
def test_make_says_in_one_sentence_what_is_wrong_with_the_python(tmp_path: Path, python: str, sentence: str) -> None:
    # Each stand-in fails only the question that it is about.
    refused = {"old-python": "version_info", "bare-python": "ensurepip"}
    for name, word in refused.items():
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/sh\ncase "$*" in *{word}*) exit 1;; esac\nexit 0\n')
        stand_in.chmod(0o755)
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "csrc").mkdir()
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt"):
        (tmp_path / name).touch()
    done = run(
        "make", "setup", f"PYTHON={python}", cwd=tmp_path, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?: \*\*\*", line)]
    assert len(said) == 1
    assert said[0].startswith(sentence), said[0]
    assert not (tmp_path / ".venv").exists()


def pinned(name: str) -> dict[str, str]:
    """Return the versions that a file in requirements/ pins, by package (the first, if it pins several)."""
    found: dict[str, str] = {}
    for line in (REPOSITORY / "requirements" / name).read_text().splitlines():
        package, _, version = line.partition(";")[0].strip().partition("==")
        found.setdefault(re.sub(r"[-_.]+", "-", package).lower(), version)
    return found


def test_what_the_project_depends_on_is_locked_and_the_oldest_is_what_it_allows() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    wanted = [project.split("dependencies = [", 1)[1].split("]", 1)[0]]
    wanted += [
        project.split(f"\n{extra} = [", 1)[1].split("\n]", 1)[0] for extra in ("docs", "optimizers", "tracker", "test")
    ]
    bounds = dict(re.findall(r'"([A-Za-z][\w-]+)>=([\d.]+)"', "".join(wanted)))
    assert {"torch", "timm", "pytest"} <= bounds.keys()
    locked, oldest = pinned("locked.txt"), pinned("oldest.txt")
    assert sorted(bounds.keys() - locked.keys()) == []
    parts = {name: version.split(".") for name, version in bounds.items()}
    assert {name: oldest[name] for name, part in parts.items() if oldest[name].split(".")[: len(part)] != part} == {}
