"""``python -m srft_kernels`` prints what was built, what will run on this machine, and why.

``--json`` prints the same as one JSON object for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from srft_kernels import __version__
from srft_kernels.ops import cuda_unavailable, plan_maker, triton_available
from srft_kernels.ops.native import cuda_library, library

CAPABILITY_VARIABLE = "SRFT_CPU_CAPABILITY"


def _threads() -> str:
    variable = "OMP_NUM_THREADS"
    if os.environ.get(variable):
        return f"{variable}={os.environ[variable]}"
    return f"torch's choice on {os.cpu_count()} cores; {variable} or torch.set_num_threads changes it"


def _cpu() -> dict[str, Any]:
    """Describe what computes a step on the CPU. The key ``error`` is present if a step would fail."""
    threads = {"threads": torch.get_num_threads(), "threads_why": _threads()}
    if not library.available:
        return {"backend": "reference", "why": library.reason, **threads}
    wanted = os.environ.get(CAPABILITY_VARIABLE)
    try:
        capability = library.capability()
    except RuntimeError as error:
        return {"backend": None, "error": str(error), **threads}
    why = (
        f"{CAPABILITY_VARIABLE} asks for it"
        if wanted
        else f"the widest of those built that this machine has; {CAPABILITY_VARIABLE} overrides it"
    )
    return {"backend": "native", "capability": capability, "why": why, **threads}


def _no_cuda_library() -> str:
    """Return why there are no CUDA kernels, as their build recorded it, or "" if there are some."""
    # A library that an earlier version built has no such record.
    recorded = getattr(library.build, "without_cuda", "")
    return f"not built: {recorded}" if recorded and not cuda_library.available else cuda_library.reason


def _device(index: int) -> dict[str, Any]:
    """Describe what computes a step on one CUDA device."""
    device = torch.device("cuda", index)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    backend, _ = plan_maker(None, device)
    if backend == "native":
        why = f"the CUDA kernels serve {capability}"
    else:
        why = cuda_unavailable(device) if cuda_library.available else f"CUDA kernels: {_no_cuda_library()}"
        why += f"; {triton_available()[1]}" if backend == "reference" else ""
    return {"name": torch.cuda.get_device_name(device), "capability": capability, "backend": backend, "why": why}


def _cuda() -> dict[str, Any]:
    """Describe what computes a step on CUDA devices. ``backend`` and ``why`` are those of the first device."""
    if torch.cuda.is_available():
        devices = [_device(index) for index in range(torch.cuda.device_count())]
        return {"backend": devices[0]["backend"], "why": devices[0]["why"], "devices": devices}
    why = "torch sees no CUDA device"
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} was built without CUDA"
    elif cuda_library.available:
        try:
            cuda_library.build.devices()
        except RuntimeError as error:
            why += f"; the CUDA runtime: {str(error).rpartition(': ')[2]}"
    return {"backend": None, "why": why, "devices": []}


def _cuda_built() -> dict[str, Any] | None:
    build = cuda_library.build
    if build is None:
        return None
    major, of_torch = (int(text.partition(".")[0]) for text in (build.toolkit, torch.version.cuda or build.toolkit))
    return {
        "version": build.version,
        "toolkit": build.toolkit,
        "architectures": build.architectures.split(),
        "torch_cuda": build.torch,
        # A newer driver runs programs of an older toolkit, but an older driver does not run those of a newer one.
        "needs": f"a driver for CUDA {major}, newer than torch's CUDA {of_torch} needs" if major > of_torch else "",
    }


def report() -> dict[str, Any]:
    """Return what was built and what will run, as plain data.

    Returns:
        A dict with these keys. ``version`` is the version of the package. ``built`` is None without a native library,
        else its ``version``, ``torch``, ``compiler`` and ``instruction_sets``. ``cuda_built`` is None without CUDA
        kernels, else their ``version``, ``toolkit``, ``architectures``, ``torch_cuda`` and what the library ``needs``
        beyond torch; ``cuda_not_built`` says why there are none. ``running`` has ``python``, ``torch`` and ``machine``.
        ``cpu`` and ``cuda`` each have the ``backend`` that a step uses there and ``why``. ``cuda`` also lists its
        ``devices``, each with its own backend.
    """
    build = library.build
    built = None
    if build is not None:
        built = {
            "version": build.version,
            "torch": build.torch,
            "compiler": build.compiler,
            "instruction_sets": list(build.instruction_sets),
        }
    return {
        "version": __version__,
        "built": built,
        "cuda_built": _cuda_built(),
        "cuda_not_built": _no_cuda_library(),
        "running": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
        },
        "cpu": _cpu(),
        "cuda": _cuda(),
    }


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the table. Each has a label, a value and a remark."""
    built, running, cpu, cuda = found["built"], found["running"], found["cpu"], found["cuda"]

    def stale_of(library: dict[str, Any]) -> str:
        same = library["version"] == found["version"]
        return "" if same else f"of version {library['version']}: install again"

    rows = [("srft_kernels", found["version"], f"Python {running['python']}, {running['machine']}")]
    if built is None:
        rows.append(("native library", "no", library.reason))
    else:
        rows += [
            ("native library", "yes", stale_of(built)),
            ("  compiler", built["compiler"], ""),
            ("  instruction sets", ", ".join(built["instruction_sets"]), ""),
            ("  built against", f"torch {built['torch']}", "stable ABI: serves torch 2.10 and newer"),
        ]
    cuda_built = found["cuda_built"]
    if cuda_built is None:
        rows.append(("CUDA kernels", "no", found["cuda_not_built"]))
    else:
        rows += [
            ("CUDA kernels", "yes", stale_of(cuda_built)),
            ("  toolkit", f"CUDA {cuda_built['toolkit']}", cuda_built["needs"]),
            ("  architectures", str(len(cuda_built["architectures"])), ", ".join(cuda_built["architectures"])),
        ]
    rows.append(("running", f"torch {running['torch']}", ""))
    chosen = ", ".join(cpu[key] for key in ("backend", "capability") if cpu.get(key)) or "error"
    rows += [
        ("on the CPU", chosen, cpu.get("error") or cpu["why"]),
        ("  threads", str(cpu["threads"]), cpu["threads_why"]),
    ]
    if not cuda["devices"]:
        rows.append(("on CUDA", "nothing", cuda["why"]))
    for index, device in enumerate(cuda["devices"]):
        what = f"{device['name']} ({device['capability']}): {device['why']}"
        rows.append((f"on CUDA, device {index}", device["backend"], what))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report. Return 1 if a step on the CPU would fail, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m srft_kernels", description="What was built, what will run here, and why."
    )
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")
    options = parser.parse_args(arguments)
    found = report()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        rows = _rows(found)
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for what, value, remark in rows:
            print(f"{what:<{widths[0]}}  {value:<{widths[1]}}  {remark}".rstrip())
    return 1 if "error" in found["cpu"] else 0


if __name__ == "__main__":
    sys.exit(main())
