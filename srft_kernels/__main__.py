"""``python -m srft_kernels``: what was built, what will run here, and why. ``--json`` says the same to programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from . import __version__
from .ops.native import library

CAPABILITY_VARIABLE = "SRFT_CPU_CAPABILITY"


def _threads() -> str:
    variable = "OMP_NUM_THREADS"
    if os.environ.get(variable):
        return f"{variable}={os.environ[variable]}"
    return f"torch's choice on {os.cpu_count()} cores; {variable} or torch.set_num_threads changes it"


def _cpu() -> dict[str, Any]:
    """What a step does to parameters on the CPU. ``error`` is there where it would fail."""
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


def _cuda() -> dict[str, Any]:
    """What a step does to parameters on a CUDA device."""
    if not torch.cuda.is_available():
        return {"backend": None, "why": "torch sees no CUDA device; CUDA kernels are not built in this version"}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"backend": "reference", "why": "CUDA kernels are not built in this version", "devices": devices}


def report() -> dict[str, Any]:
    """What was built and what will run, as plain data.

    Returns
    -------
    dict
        ``version``; ``built`` (None without a native library, else its ``version``, ``torch``, ``compiler`` and
        ``instruction_sets``); ``running`` (``python``, ``torch``, ``machine``); ``cpu`` and ``cuda``, each with the
        ``backend`` that a step there uses and ``why``.
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
        "running": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
        },
        "cpu": _cpu(),
        "cuda": _cuda(),
    }


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table: what, value, remark."""
    built, running, cpu, cuda = found["built"], found["running"], found["cpu"], found["cuda"]
    rows = [("srft_kernels", found["version"], f"Python {running['python']}, {running['machine']}")]
    if built is None:
        rows.append(("native library", "no", library.reason))
    else:
        stale = "" if built["version"] == found["version"] else f"of version {built['version']}: install again"
        rows += [
            ("native library", "yes", stale),
            ("  compiler", built["compiler"], ""),
            ("  instruction sets", ", ".join(built["instruction_sets"]), ""),
            ("  built against", f"torch {built['torch']}", "stable ABI: serves torch 2.10 and newer"),
        ]
    rows.append(("running", f"torch {running['torch']}", ""))
    chosen = ", ".join(cpu[key] for key in ("backend", "capability") if cpu.get(key)) or "error"
    rows += [
        ("on the CPU", chosen, cpu.get("error") or cpu["why"]),
        ("  threads", str(cpu["threads"]), cpu["threads_why"]),
        ("on CUDA", cuda["backend"] or "nothing", "; ".join([cuda["why"], *cuda.get("devices", [])])),
    ]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 where a step on the CPU would fail, else 0."""
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
