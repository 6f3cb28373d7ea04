"""What the compiler made of the kernels, and what the profiler counted: registers, spills, width of access, traffic.

``python -m benchmarks.kernel_facts OUT.json`` reads the compiled libraries with cuobjdump and needs no GPU.
``--profiled`` takes a few steps and marks one of them for ncu, which `gpu.sh` runs. ``--ncu-csv FILE OUT.json`` reads
what it wrote.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESOURCES = re.compile(
    r"Function (?P<name>\S+?):\s+REG:(?P<registers>\d+)\s+STACK:(?P<stack>\d+)\s+SHARED:(?P<shared>\d+)"
)
FUNCTION = re.compile(r"^\s*Function : (\S+)")
PROFILED_STEP = 4


def cuobjdump() -> str | None:
    """Return cuobjdump on the PATH, or the one in Triton's package."""
    found = shutil.which("cuobjdump")
    if found:
        return found
    try:
        import triton
    except ImportError:
        return None
    carried = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(carried) if carried.exists() else None


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def readable(names: list[str]) -> list[str]:
    """Return the names demangled, without arguments, if c++filt is installed."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if not tool or not names:
        return names
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [name.replace("void ", "").split("(")[0].replace("|", "/") for name in done.splitlines()]


def resources(dump: str) -> list[dict[str, Any]]:
    """Read the output of ``cuobjdump --dump-resource-usage``."""
    flat = re.sub(r":\s*\n\s*", ": ", dump)
    return [
        {"mangled": m["name"], **{key: int(m[key]) for key in ("registers", "stack", "shared")}}
        for m in RESOURCES.finditer(flat)
    ]


def wide_accesses(sass: str) -> dict[str, dict[str, int]]:
    """Count 16-byte loads and stores of global memory by function, from ``cuobjdump --dump-sass``."""
    found: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    for line in sass.splitlines():
        head = FUNCTION.match(line)
        if head:
            counts = found.setdefault(head[1], {"wide loads": 0, "wide stores": 0})
        elif "LDG.E.128" in line or re.search(r"LDG\.E\.\S*128", line):
            counts["wide loads"] = counts.get("wide loads", 0) + 1
        elif re.search(r"STG\.E\.\S*128", line):
            counts["wide stores"] = counts.get("wide stores", 0) + 1
    return found


def kernels() -> list[dict[str, Any]]:
    """Return every kernel in the compiled libraries."""
    tool = cuobjdump()
    if tool is None:
        raise SystemExit("kernel_facts: cuobjdump was not found: it comes with the CUDA toolkit and with triton")
    found: list[dict[str, Any]] = []
    for library in sorted((ROOT / "srft_kernels").glob("_*.so")):
        dump = subprocess.run(
            [tool, "--dump-resource-usage", str(library)], capture_output=True, text=True, check=False
        )
        here = resources(dump.stdout)
        if not here:
            continue
        wide = wide_accesses(said(tool, "--dump-sass", str(library)))
        found += [{**kernel, **wide.get(kernel["mangled"], {}), "library": library.name} for kernel in here]
    for kernel, name in zip(found, readable([k["mangled"] for k in found]), strict=True):
        kernel["kernel"] = name
    return found


def profiled_steps() -> None:
    """Steps of SRFT over the workload, one of them between cudaProfilerStart and -Stop."""
    from benchmarks.srft import srft_over
    from benchmarks.workload import Workload

    step = srft_over(Workload(torch.device("cuda"))).step
    for count in range(PROFILED_STEP + 1):
        torch.cuda.synchronize()
        if count == PROFILED_STEP:
            torch.cuda.profiler.start()
        step()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def counters(text: str) -> list[dict[str, str]]:
    """Read the output of ``ncu --csv``: one entry for each kernel and counter. ncu's own messages precede the table."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    return [
        {
            "kernel": row["Kernel Name"].split("(")[0].replace("|", "/"),
            "counter": row["Metric Name"],
            "value": row["Metric Value"],
            "unit": row["Metric Unit"],
        }
        for row in csv.DictReader(lines)
        if row.get("Metric Name")
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_facts", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", help="JSON to write")
    parser.add_argument("--profiled", action="store_true", help="take steps for ncu to look at")
    parser.add_argument("--ncu-csv", type=Path, help="read this instead of the libraries")
    options = parser.parse_args(arguments)
    if options.profiled:
        profiled_steps()
        return 0
    if options.out is None:
        parser.error("name the JSON to write")
    found: list[Any] = counters(options.ncu_csv.read_text()) if options.ncu_csv else kernels()
    if not found:
        where = f"{options.ncu_csv} has no counters" if options.ncu_csv else "no library of srft_kernels has GPU code"
        print(f"kernel_facts: {where}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    spilling = [k["kernel"] for k in found if k.get("stack")]
    print(f"{len(found)} entries; with a stack frame: {', '.join(spilling) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
