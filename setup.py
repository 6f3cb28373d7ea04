"""Calls CMake: CMakeLists.txt is the only description of the native build, and pyproject.toml of everything else.

``SRFT_NO_NATIVE=1`` installs the pure-Python package, whose backend is the reference.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
PACKAGE = "srft_kernels"
COMPILERS = ("c++", "g++", "clang++")


def native_wanted() -> bool:
    return os.environ.get("SRFT_NO_NATIVE", "") in ("", "0")


def stop(sentence: str) -> SystemExit:
    """Ends the build with a sentence and nothing else: build front ends print a traceback for any other exception."""
    return SystemExit(f"\nsrft-kernels: {sentence}\n")


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
    """The program that the PyPI package ``name`` brings: beside Python where a virtual environment is not activated."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=folders)
    if not found:
        raise stop(f"{name} is needed to build the native library and was not found: run 'pip install {name}'.")
    return found


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CMakeBuild(build_ext):
    """Configures, builds and installs through CMake, into the source folder where the install is editable."""

    def run(self) -> None:
        require_torch()
        require_compiler()
        cmake, ninja = tool("cmake"), tool("ninja")
        # Not setuptools' folder, which is a new one in every editable install: this one stays, so that a second build
        # compiles only what has changed. Where anything has moved that CMake remembers, as the environment of an
        # isolated build does every time, it starts from a fresh cache.
        build = HERE / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        torch = importlib.util.find_spec("torch")
        torch_place = [str(torch and torch.origin), importlib.metadata.version("torch")]
        flags = [os.environ.get(name, "") for name in ("CXX", "CXXFLAGS", "LDFLAGS")]
        environment = "\n".join([str(HERE), sys.prefix, cmake, ninja, *torch_place, *flags])
        stamp = build / "environment"
        fresh = [] if stamp.exists() and stamp.read_text() == environment else ["--fresh"]
        stamp.unlink(missing_ok=True)
        self._call(
            cmake,
            *fresh,
            *("-S", str(HERE), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSRFT_VERSION={self.distribution.get_version()}",
        )
        stamp.write_text(environment)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(self.parallel or cores())
        self._call(cmake, "--build", str(build), "--parallel", jobs)
        self._call(cmake, "--install", str(build), "--prefix", str(self._destination()))

    def _call(self, *command: str) -> None:
        self.announce(shlex.join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise stop(f"the native build failed; the compiler's or CMake's own message is above ({error}).") from None

    def _destination(self) -> Path:
        return HERE / PACKAGE if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / PACKAGE

    # Both libraries, under the names that setuptools expects: in the folder that wheels are made of, and where they are
    # instead when the install is editable.
    def get_outputs(self) -> list[str]:
        return sorted(str(Path(self.build_lib, PACKAGE, path.name)) for path in self._destination().glob("_*.so"))

    def get_output_mapping(self) -> dict[str, str]:
        if not (self.inplace or self.editable_mode):
            return {}
        return {output: str(self._destination() / Path(output).name) for output in self.get_outputs()}

    def get_source_files(self) -> list[str]:
        csrc = (path for path in (HERE / "csrc").rglob("*") if path.is_file())
        return ["CMakeLists.txt", *sorted(str(path.relative_to(HERE)) for path in csrc)]


if native_wanted():
    # A name that marks the wheel as built for one platform; CMake knows the files.
    setup(ext_modules=[Extension(f"{PACKAGE}._build", sources=[])], cmdclass={"build_ext": CMakeBuild})
else:
    print("srft-kernels: SRFT_NO_NATIVE is set, so the pure-Python package is built: its backend is the reference.")
    setup()
