"""Calls CMake: CMakeLists.txt is the only description of the native build, and pyproject.toml of everything else.

``SRFT_NO_NATIVE=1`` installs the pure-Python package, whose backend is the reference. CUDA kernels are built where
there is an nvcc and a torch with CUDA, whatever GPU the machine has: ``SRFT_NO_CUDA=1`` leaves them out,
``SRFT_CUDA=1`` makes it an error if they cannot be built, and ``TORCH_CUDA_ARCH_LIST`` says for which GPUs, as it does
for torch's own extensions.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
PACKAGE = "srft_kernels"
COMPILERS = ("c++", "g++", "clang++")
# Ampere, Ada, Hopper and both Blackwells. The newest gets PTX as well, which the driver compiles for what comes after.
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
USUAL_TOOLKIT = Path("/usr/local/cuda")
# What changes the compilers' output or choice without any file changing.
COMPILER_VARIABLES = (
    *("CXX", "CXXFLAGS", "LDFLAGS"),
    *("CUDAHOSTCXX", "CUDAFLAGS", "NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"),
)


def is_set(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    return environment.get(name, "") not in ("", "0")


def stop(sentence: str) -> SystemExit:
    """Return what ends the build with a sentence only; for other exceptions, build front ends print a traceback."""
    return SystemExit(f"\nsrft-kernels: {sentence}\n")


def notice(sentence: str) -> None:
    print(f"srft-kernels: {sentence}", flush=True)


def require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise stop(
            "torch is needed to build the native library and is not installed here: run 'pip install torch' first, or "
            "build without --no-build-isolation, or set SRFT_NO_NATIVE=1 to install the pure-Python package."
        )


def require_compiler() -> None:
    chosen = shlex.split(os.environ.get("CXX", ""))
    if not any(shutil.which(name) for name in (chosen[:1] or COMPILERS)):
        what = f"the C++ compiler that CXX names ({chosen[0]}) was not found" if chosen else "no C++ compiler was found"
        raise stop(
            f"{what}: install one (on Debian and Ubuntu: apt-get install g++), or set SRFT_NO_NATIVE=1 to install the "
            "pure-Python package, which is slower."
        )


def tool(name: str) -> str:
    """Return the program that the PyPI package ``name`` installs, also if its environment is not activated."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=folders)
    if not found:
        raise stop(f"{name} is needed to build the native library and was not found: run 'pip install {name}'.")
    return found


def cores() -> int:
    """Return the number of cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------- CUDA: whether, with what, for which GPUs


class NoCuda(Exception):
    """Says why there will be no CUDA kernels, in a clause that can follow "CUDA kernels were not built: "."""


@dataclass(frozen=True)
class Cuda:
    """What the CUDA kernels are compiled with, and for which GPUs."""

    nvcc: str
    release: str
    architectures: tuple[str, ...]


def find_nvcc(environment: Mapping[str, str], usual: Path = USUAL_TOOLKIT) -> str:
    """Return the path of nvcc, in CUDA_HOME or CUDA_PATH where one is set, else on PATH, else in the usual folder.

    A toolkit that is named is meant and no other. Raises NoCuda where nvcc is not found.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if folder := environment.get(name):
            found = shutil.which("nvcc", path=str(Path(folder, "bin")))
            if not found:
                raise NoCuda(f"{name} names {folder}, which holds no bin/nvcc")
            return found
    found = shutil.which("nvcc", path=environment.get("PATH", os.defpath)) or shutil.which(
        "nvcc", path=str(usual / "bin")
    )
    if not found:
        raise NoCuda(f"nvcc was found neither by CUDA_HOME nor on PATH nor in {usual}")
    return found


def _order(architecture: str) -> tuple[int, int, str]:
    major, minor, suffix = re.fullmatch(r"(\d+)\.(\d)([af]?)", architecture.removesuffix("+PTX")).groups()
    return int(major), int(minor), suffix


def parse_architectures(listed: str) -> tuple[str, ...]:
    """Return ``TORCH_CUDA_ARCH_LIST`` as sorted numbers, each with "+PTX" if that is wanted.

    An empty list gives none.
    """
    wanted: dict[str, bool] = {}
    for word in re.split(r"[\s;,]+", listed.strip(" \t\n;,")):
        if not word:
            continue
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", word):
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST contains '{word}': architectures are given as numbers here, such as "
                '"8.0;9.0a;12.0+PTX", and not by name'
            )
        number = word.removesuffix("+PTX")
        wanted[number] = wanted.get(number, False) or word != number
    return tuple(number + "+PTX" * wanted[number] for number in sorted(wanted, key=_order))


def choose_architectures(listed: str, known: Collection[str], nvcc: str) -> tuple[str, ...]:
    """Return the architectures that were asked for, all of which nvcc must know, or those of the default that it knows.

    ``known`` has nvcc's own names without any suffix, such as "sm_90".
    """

    def unknown(architecture: str) -> bool:
        major, minor, _ = _order(architecture)
        return f"sm_{major}{minor}" not in known

    asked = parse_architectures(listed)
    if asked:
        if left_out := [architecture for architecture in asked if unknown(architecture)]:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST asks for {', '.join(left_out)}, which {nvcc} cannot compile: it knows "
                f"{', '.join(known)}; take it off the list or install a toolkit that has it"
            )
        return asked
    possible = [architecture for architecture in DEFAULT_ARCHITECTURES if not unknown(architecture)]
    if not possible:
        raise NoCuda(f"{nvcc} compiles for none of {', '.join(DEFAULT_ARCHITECTURES)}")
    if left_out := [architecture for architecture in DEFAULT_ARCHITECTURES if unknown(architecture)]:
        notice(f"{nvcc} does not know the architectures {', '.join(left_out)}, which are left out.")
    return (*possible[:-1], f"{possible[-1]}+PTX")


def output_of(*command: str) -> str:
    """Return a command's standard output.

    Raises NoCuda where the command fails, with the line of its output that tells most.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoCuda(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        telling = [line for line in said if re.search("error|fatal|cannot", line)] or said
        what = telling[0].rstrip(".") if telling else f"it ends with {done.returncode}"
        raise NoCuda(f"{command[0]} cannot compile here: {what}")
    return done.stdout


def host_compiler(environment: Mapping[str, str]) -> str | None:
    """Return the C++ compiler that nvcc is to call, or None to let it look for one: CUDAHOSTCXX, else CXX."""
    named = shlex.split(environment.get("CUDAHOSTCXX") or environment.get("CXX") or "")
    # More than one word is a launcher or options, which nvcc does not take; and NVCC_CCBIN has precedence.
    return named[0] if len(named) == 1 and not environment.get("NVCC_CCBIN") else None


# What the kernels ask of nvcc: C++20, which came with 12.0, the runtime to link, and a host compiler that it takes.
TRIAL = """
#include <cuda_runtime.h>
template <class T> concept Number = requires(T x) { x + x; };
template <Number T> __global__ void twice(T* x) { *x += *x; }
int run(float* x, int n) { twice<<<1, 1>>>(x); return cudaGetDeviceCount(&n); }
"""


def try_nvcc(nvcc: str, environment: Mapping[str, str], architecture: str) -> None:
    """Compile and link something small as CMake will, so that an nvcc that cannot costs the CUDA kernels only."""
    number = architecture.removesuffix("+PTX").replace(".", "")
    options = ["-std=c++20", f"-arch=sm_{number}", "-cudart=static", "-shared", "-Xcompiler=-fPIC"]
    if ccbin := host_compiler(environment):
        options += [f"-ccbin={ccbin}"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text(TRIAL)
        output_of(nvcc, *options, "-o", str(source.with_suffix(".so")), str(source))


def torch_cuda() -> tuple[str, str | None]:
    """Return the versions of the installed torch and its CUDA, read from a file; importing torch takes seconds."""
    found = importlib.util.find_spec("torch")
    version = runpy.run_path(str(Path(str(found and found.origin)).with_name("version.py")))
    return str(version["__version__"]), version.get("cuda")


def choose_cuda(environment: Mapping[str, str] = os.environ) -> Cuda:
    """Return what to build CUDA kernels with.

    Raises NoCuda where they are not wanted or not possible.
    """
    if is_set("SRFT_NO_CUDA", environment):
        raise NoCuda("SRFT_NO_CUDA was set")
    if environment.get("SRFT_CUDA") == "0":
        raise NoCuda("SRFT_CUDA was 0")
    torch_version, of_torch = torch_cuda()
    if of_torch is None:
        raise NoCuda(f"torch {torch_version} was built without CUDA")
    nvcc = find_nvcc(environment)
    release = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
    if release is None:
        raise NoCuda(f"'{nvcc} --version' names no release")
    known = output_of(nvcc, "--list-gpu-code").split()
    try:
        architectures = choose_architectures(environment.get("TORCH_CUDA_ARCH_LIST", ""), known, nvcc)
    except ValueError as error:
        raise stop(f"{error}.") from None
    try_nvcc(nvcc, environment, architectures[0])
    if int(release[1].partition(".")[0]) > int(of_torch.partition(".")[0]):
        notice(
            f"nvcc {release[1]} is newer than torch's CUDA {of_torch}: the kernels will need a driver for CUDA "
            f"{release[1].partition('.')[0]}, which torch itself does not."
        )
    return Cuda(nvcc, release[1], architectures)


def cuda_or_reason() -> tuple[Cuda | None, str]:
    """Return what to build CUDA kernels with, or None and why not.

    Ends the build where they were asked for by name and cannot be built.
    """
    asked = is_set("SRFT_CUDA")
    if asked and is_set("SRFT_NO_CUDA"):
        raise stop("SRFT_CUDA and SRFT_NO_CUDA are both set and contradict each other: unset one.")
    try:
        return choose_cuda(), ""
    except NoCuda as reason:
        if asked:
            raise stop(
                f"SRFT_CUDA asks for CUDA kernels, and they cannot be built: {reason}. Install what they need: nvcc of "
                "the CUDA toolkit (12.0 or newer; CUDA_HOME says where), a C++ compiler that it supports, and a torch "
                "with CUDA; or unset SRFT_CUDA to build what can be built."
            ) from None
        notice(f"CUDA kernels are not built: {reason}.")
        return None, str(reason)


# ---------------------------------------------------------------------- the build


class CMakeBuild(build_ext):
    """Configures, builds and installs through CMake, into the source folder where the install is editable."""

    def run(self) -> None:
        require_torch()
        require_compiler()
        cmake, ninja = tool("cmake"), tool("ninja")
        cuda, without_cuda = cuda_or_reason()
        jobs = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or self.parallel or cores())
        options = [
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSRFT_VERSION={self.distribution.get_version()}",
            f"-DSRFT_CUDA_ARCHITECTURES={' '.join(cuda.architectures) if cuda else ''}",
            f"-DSRFT_WITHOUT_CUDA={without_cuda}",
        ]
        if cuda:
            options += [f"-DCMAKE_CUDA_COMPILER={cuda.nvcc}", f"-DSRFT_JOBS={jobs}"]
            if ccbin := host_compiler(os.environ):
                options += [f"-DCMAKE_CUDA_HOST_COMPILER={shutil.which(ccbin) or ccbin}"]
        # This is not setuptools' folder, which is a new one in every editable install: this one stays, so that a second
        # build compiles only what has changed. Where something has moved that CMake remembers, as the environment of an
        # isolated build does every time, the build starts from a fresh cache.
        build = HERE / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        torch = importlib.util.find_spec("torch")
        torch_place = [str(torch and torch.origin), *map(str, torch_cuda())]
        toolkit = [cuda.nvcc, cuda.release] if cuda else []
        flags = [os.environ.get(name, "") for name in COMPILER_VARIABLES]
        environment = "\n".join([str(HERE), sys.prefix, cmake, ninja, *torch_place, *flags, *toolkit])
        stamp = build / "environment"
        fresh = [] if stamp.exists() and stamp.read_text() == environment else ["--fresh"]
        stamp.unlink(missing_ok=True)
        self._call(cmake, *fresh, *("-S", str(HERE), "-B", str(build), "-G", "Ninja"), *options)
        stamp.write_text(environment)
        self._call(cmake, "--build", str(build), "--parallel", str(jobs))
        # A library left over from an earlier build would pass for this one's.
        for left_over in self._destination().glob("_cuda*.so"):
            left_over.unlink()
        self._call(cmake, "--install", str(build), "--prefix", str(self._destination()))

    def _call(self, *command: str) -> None:
        self.announce(shlex.join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise stop(
                f"the native build failed; the compiler's or CMake's own message is above ({error}). SRFT_NO_CUDA=1 "
                "leaves the CUDA kernels out, SRFT_NO_NATIVE=1 everything compiled."
            ) from None

    def _destination(self) -> Path:
        return HERE / PACKAGE if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / PACKAGE

    # The two methods below tell setuptools the names of the libraries: in the folder that wheels are made of, and where
    # they really are when the install is editable.
    def get_outputs(self) -> list[str]:
        return sorted(str(Path(self.build_lib, PACKAGE, path.name)) for path in self._destination().glob("_*.so"))

    def get_output_mapping(self) -> dict[str, str]:
        if not (self.inplace or self.editable_mode):
            return {}
        return {output: str(self._destination() / Path(output).name) for output in self.get_outputs()}

    def get_source_files(self) -> list[str]:
        csrc = (path for path in (HERE / "csrc").rglob("*") if path.is_file())
        return ["CMakeLists.txt", *sorted(str(path.relative_to(HERE)) for path in csrc)]


def main() -> None:
    if not is_set("SRFT_NO_NATIVE"):
        # A name that marks the wheel as built for one platform; CMake knows the files.
        setup(ext_modules=[Extension(f"{PACKAGE}._build", sources=[])], cmdclass={"build_ext": CMakeBuild})
        return
    if is_set("SRFT_CUDA"):
        raise stop("SRFT_CUDA and SRFT_NO_NATIVE are both set and contradict each other: unset one.")
    notice("SRFT_NO_NATIVE is set, so the pure-Python package is built: its backend is the reference.")
    setup()


# Build front ends run this file as a script; the tests import it for what is above.
if __name__ == "__main__":
    main()
