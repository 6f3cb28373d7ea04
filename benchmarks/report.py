"""Results as one JSON and one Markdown file: what was measured, what was not, and the targets beside it.

``python -m benchmarks.report --template FILE`` writes the GPU's page with every cell "not measured", and
``--collect FOLDER --out FOLDER`` (what `gpu.sh` ends with) the page of a card from what its stages left behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import targets
from benchmarks.interleave import empty_row
from benchmarks.machine import machine, slug
from benchmarks.suite import TABLES, TITLES
from benchmarks.targets import NOT_MEASURED, Target

RESULTS = Path(__file__).resolve().parent / "results"
FILL = "`benchmarks/gpu.sh` on a machine with a CUDA device"
STAGES = (
    *("build", "tests", "nosync", "memcheck", "racecheck", "kernels", "bench", "plot", "ncu"),
    *("triton", "initcheck", "tracker", "track"),
)
CARD_FACTS = ("device", "capability", "multiprocessors", "L2", "memory", "driver", "torch", "CUDA of torch", "triton",
              "python", "network", "commit")  # fmt: skip

# Column heads, the key in a row, and how a figure is written.
Columns = tuple[tuple[str, str, str], ...]
STEP_COLUMNS: Columns = (
    ("contestant", "contestant", ""),
    ("ms", "ms", ".3g4"),
    ("least ms", "least ms", ".3g4"),
    ("spread", "spread", "%"),
    ("bytes moved per parameter", "formula", "formula"),
    ("GB/s", "GB/s", ".1f"),
    ("of copy", "of copy", "%"),
    ("x baseline", "x baseline", ".2f"),
    ("state B/param", "state B/param", ".1f"),
    ("host ms", "host ms", ".3f"),
)
HUTCHINSON_COLUMNS: Columns = (
    ("one update", "contestant", ""),
    ("ms", "ms", ".3g4"),
    ("spread", "spread", "%"),
    ("x double backward", "x baseline", ".2f"),
    ("ms beyond forward and backward", "extra ms", ".3g4"),
    ("peak MiB", "peak MiB", ".0f"),
    ("MiB beyond forward and backward", "extra MiB", ".0f"),
    ("error of z ⊙ Hz", "error", ".1e"),
)
COLUMNS: dict[str, Columns] = {
    "step": STEP_COLUMNS,
    "variants": STEP_COLUMNS,
    "penalty": tuple(c for c in STEP_COLUMNS if c[0] != "state B/param"),
    "host": (
        ("optimizer, 350 tensors of 4", "contestant", ""),
        ("host µs", "us", ".0f"),
        ("least µs", "least us", ".0f"),
    ),
    "training": (
        ("optimizer", "contestant", ""),
        ("ms", "ms", ".3g4"),
        ("spread", "spread", "%"),
        ("x AdamW", "x baseline", ".3f"),
    ),
    "graph": (
        ("step", "contestant", ""),
        ("ms", "ms", ".3g4"),
        ("host µs", "us", ".0f"),
        ("x eager", "x baseline", ".3f"),
    ),
    "hutchinson": HUTCHINSON_COLUMNS,
    "hutchinson_bf16": HUTCHINSON_COLUMNS,
    "loader": (
        ("what runs", "contestant", ""),
        ("samples/s", "samples/s", ".1f"),
        ("spread", "spread", "%"),
        ("x published", "x published", ".2f"),
    ),
}
SECTION_TITLES = {
    **TITLES,
    "host": "Host time of one `step()`",
    "training": "A whole training step",
    "graph": "The optimizer's step in a CUDA graph",
    "hutchinson": "One Hutchinson update",
    "hutchinson_bf16": "One Hutchinson update under bfloat16 autocast",
    "loader": "Training from files",
}


def cell(row: dict[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    if form == "formula":
        return f"{row['formula']} = {row['B/param moved']:.4g}"
    if value is None:
        return NOT_MEASURED
    if isinstance(value, str):
        return value
    if form == "%":
        return f"{100 * value:.1f} %" if key == "spread" else f"{100 * value:.0f} %"
    if form == ".3g4":  # three decimals below 10, one above
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return f"{value:{form}}" if form else str(value)


def table(rows: list[dict[str, Any]], columns: Columns) -> str:
    lines = ["| " + " | ".join(head for head, _, _ in columns) + " |"]
    lines.append("|" + "|".join("---:" if form not in ("", "formula") else "---" for _, _, form in columns) + "|")
    for row in rows:
        lines.append("| " + " | ".join(cell(row, key, form) for _, key, form in columns) + " |")
    return "\n".join(lines)


def section_text(name: str, section: dict[str, Any]) -> str:
    """Return one table, what it is about, and why rows are empty."""
    facts = []
    if "parameters" in section:
        facts.append(f"{section['parameters'] / 1e6:.1f} million parameters in {section['tensors']} tensors, float32")
    if "copy GB/s" in section:
        facts.append(f"copy {section['copy GB/s']:.1f} GB/s (spread {100 * section['copy spread']:.1f} %)")
    facts += [section["note"]] if "note" in section else []
    facts += [f"medians of {section['rounds']} turns"] if "rounds" in section else []
    reasons: dict[str, list[str]] = {}
    for row in section["rows"]:
        if "why" in row:
            reasons.setdefault(row["why"], []).append(row["contestant"])
    lines = [f"## {SECTION_TITLES[name]}", ""]
    lines += ["; ".join(facts) + ".", ""] if facts else []
    columns = COLUMNS[name]
    if "rounds" in section and not any("host ms" in row for row in section["rows"]):
        columns = tuple(c for c in columns if c[0] != "host ms")
    lines += [table(section["rows"], columns), ""]
    lines += [f"- Not measured, {why}: {'; '.join(names)}" for why, names in reasons.items()]
    return "\n".join([*lines, ""] if reasons else lines)


def targets_text(wanted: Sequence[Target], sections: dict[str, Any], title: str = "Targets") -> str:
    lines = [f"## {title}", "", "| what | target | measured | |", "|---|---|---:|---|"]
    for target in wanted:
        found, verdict = target.judged(sections)
        lines.append(f"| {target.what} | {target.wanted} | {found} | {verdict} |")
    return "\n".join([*lines, ""])


READING = """\
Turns taken in one process. Bytes are what the mathematics needs in one pass, float32 unless the row says otherwise;
GB/s and the share of the copy bandwidth follow from them. `x baseline`: time over that of torch AdamW(fused=True), or
of the torch optimizer (for the penalty: eager torch) of the same kind that stands in the table with 1.00. `spread`:
half the distance between the quartiles over the median; the row "again" is the same object timed twice.
"""
READING_CPU = """\
A copy also fetches every line that it is about to overwrite, which is not counted; a step writes back what it read, so
it can be above 100 % of the copy.
"""
READING_GPU = """\
Time is the device's, between two events, after a buffer of twice the L2 was written, the host ahead of the device;
`host ms` is what `step()` takes of the host, the device idle.
"""
READING_HUTCHINSON = """\
One Hutchinson update: forward and backward, which leave the loss's gradients, and one probe folded into the estimate;
no optimizer's step, in any row. What it takes beyond a plain forward and backward pass has columns of its own. Peak:
what torch's allocator has given out, at most, above what was held before (network, batch, estimate), gradients and
all, in a run that is not timed; a library's own workspace is not in it. Plain passes and finite differences have
fused attention, which has no second derivative; the other two rows have to do without. Error: norm of the difference
over the norm, all parameters, against double backward in float32 with the same probe. By default differences are
forward in float32 and central under bfloat16.
"""


READING_LOADER = """\
Samples a second of template and search pairs, from JPEG files to a finished step; every contestant takes some steps
in each turn, its loader starting from nothing. The loader alone includes what makes the crops. The published way:
crops on the host, float32, eager, the published update, a scalar read and `empty_cache()` in every step. On a CPU step
and loader share the cores.
"""


def apart_text(facts: dict[str, Any], name: str, section: dict[str, Any]) -> str:
    """Return the page of one section on a CPU. The targets are the GPU's and apply to its batches."""
    wanted = () if name == "loader" else targets.hutchinson(name)
    parts = [
        f"# {facts['device']}, {facts['network']}",
        "",
        f"`pytest benchmarks --benchmark-only -k {name}`: " + "; ".join(f"{k} {v}" for k, v in facts.items()) + ".",
        "",
        section_text(name, section),
        *([targets_text(wanted, {name: section}, "The GPU's targets, read from the table above")] if wanted else []),
        READING_LOADER if name == "loader" else READING_HUTCHINSON,
    ]
    return "\n".join(parts)


def cpu_text(results: dict[str, Any]) -> str:
    facts, sections = results["facts"], results["sections"]
    parts = [
        f"# {facts['device']}, {facts['network']}",
        "",
        "`pytest benchmarks --benchmark-only`: " + "; ".join(f"{k} {v}" for k, v in facts.items()) + ".",
        "",
        targets_text(targets.CPU, sections),
        *(section_text(name, sections[name]) for name in SECTION_TITLES if name in sections),
        READING + READING_CPU,
    ]
    return "\n".join(parts)


def gpu_text(results: dict[str, Any]) -> str:
    """Return the page of a card, or of no card. A cell without a figure says so."""
    facts, sections, stages = results["facts"], results["sections"], results["stages"]
    measured = bool(sections)
    title = facts.get("device") or "GPU: not measured"
    parts = [f"# {title}", ""]
    if not measured:
        parts += [f"No figure stands here: nothing has run on a GPU. {FILL} writes this page for its card.", ""]
    parts += ["| | |", "|---|---|"]
    parts += [f"| {name} | {facts.get(name, NOT_MEASURED)} |" for name in CARD_FACTS]
    parts += ["", "## Stages", "", "| stage | outcome | seconds | |", "|---|---|---:|---|"]
    for name in STAGES:
        stage = stages.get(name, {"outcome": NOT_MEASURED, "seconds": NOT_MEASURED, "note": ""})
        parts.append(f"| {name} | {stage['outcome']} | {stage['seconds']} | {stage['note']} |")
    parts += ["", targets_text(targets.GPU, sections)]
    empty = unmeasured_sections()
    parts += [section_text(name, sections.get(name, empty[name])) for name in SECTION_TITLES]
    parts += [kernels_text(results.get("kernels"), results.get("ncu"))]
    plot = results.get("plot")
    parts += ["## Bandwidth against size", "", f"![GB/s against elements]({plot})" if plot else f"{NOT_MEASURED}.", ""]
    parts += [READING + READING_GPU, READING_HUTCHINSON, READING_LOADER]
    return "\n".join(parts)


def kernels_text(kernels: list[dict[str, Any]] | None, counters: list[dict[str, str]] | None) -> str:
    """Return what the compiler and the profiler say about the kernels."""
    lines = ["## Kernels", "", "| kernel | registers | stack | shared | 16-byte loads | 16-byte stores |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    names = ("registers", "stack", "shared", "wide loads", "wide stores")
    shown = kernels or [{"kernel": "those of `srft_kernels`"}]
    lines += [f"| {k['kernel']} | " + " | ".join(str(k.get(n, NOT_MEASURED)) for n in names) + " |" for k in shown]
    lines += ["", "By ncu, one step with prior and rank damping:" + ("" if counters else f" {NOT_MEASURED}."), ""]
    if counters:
        lines += ["| kernel | counter | value |", "|---|---|---:|"]
        lines += [f"| {c['kernel']} | {c['counter']} | {c['value']} {c['unit']} |" for c in counters]
        lines.append("")
    return "\n".join(lines)


def unmeasured_sections() -> dict[str, dict[str, Any]]:
    """Return every section of a card's page, its rows without figures."""
    from benchmarks import hutchinson, loader_rows, training
    from benchmarks.host import host_rows

    sections: dict[str, dict[str, Any]] = {
        name: {"rows": [empty_row(c) for c in make("cuda")]} for name, make in TABLES.items()
    }
    sections["host"] = {"rows": [{"key": key, "contestant": name} for key, name in host_rows("cuda")]}
    sections["training"] = {"rows": training.empty_rows("cuda"), "note": training.NOTE}
    sections["graph"] = {"rows": training.empty_graph_rows()}
    sections |= {name: {"rows": hutchinson.empty_rows()} for name in hutchinson.AUTOCAST}
    sections["loader"] = {"rows": loader_rows.empty_rows("cuda"), "note": loader_rows.NOTE}
    return sections


class Report:
    """Sections as they are measured; written after each, so that a run that is stopped leaves what it had."""

    def __init__(self, device: torch.device, folder: Path | None) -> None:
        self.device = device
        self.folder = folder
        self.sections: dict[str, dict[str, Any]] = {}

    def add(self, name: str, section: dict[str, Any]) -> str:
        """Keep a section and write what there is. Return its table.

        Without a folder of its own, a session that has not measured the steps writes nothing, because it would replace
        theirs.
        """
        self.sections[name] = section
        text = section_text(name, section)
        if self.folder is None and "step" not in self.sections:
            return text
        folder = self.folder or RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        facts = machine(self.device)
        results = {"facts": facts, "sections": self.sections}
        on_cpu = self.device.type == "cpu"
        stem = slug(f"{facts['device']} {facts['network']} {facts['clock']}" if on_cpu else facts["device"])
        (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
        if on_cpu:
            (folder / f"{stem}.md").write_text(cpu_text(results))
        return text

    def add_apart(self, name: str, section: dict[str, Any]) -> str:
        """Keep a section with files of its own on a CPU, whatever else the session measures. A card has one page."""
        if self.device.type != "cpu":
            return self.add(name, section)
        folder = self.folder or RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        facts = machine(self.device) | {"network": section["network"]}
        stem = slug(f"{facts['device']} {facts['network']} {facts['clock']} {name}")
        results = {"facts": facts, "sections": {name: section}}
        (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
        (folder / f"{stem}.md").write_text(apart_text(facts, name, section))
        return section_text(name, section)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def read_stages(path: Path) -> dict[str, dict[str, str]]:
    """Read the stages. `gpu.sh` writes one line for each: name, outcome, seconds and note, separated by tabs."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for line in lines:
        name, outcome, seconds, note = (line.split("\t") + [""] * 3)[:4]
        found[name] = {"outcome": outcome, "seconds": seconds, "note": note.replace("|", "/")}
    return found


def collect(folders: Sequence[Path], out: Path) -> Path:
    """Write one JSON, one Markdown file and the plot, named after the card, from what the stages left in ``folders``.

    If several calls ran a stage, the later one counts.

    Raises:
        ValueError: If the folders belong to different cards.
    """
    facts: dict[str, Any] = {}
    results: dict[str, Any] = {"stages": {}, "sections": {}}
    out.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        here = read_json(folder / "facts.json") or machine(torch.device("cuda"))
        (folder / "facts.json").write_text(json.dumps(here, indent=1) + "\n")
        if facts and here["device"] != facts["device"]:
            raise ValueError(f"{folder} is of {here['device']}, the folders before it of {facts['device']}")
        facts |= here
        stem = slug(facts["device"])
        results["stages"] |= read_stages(folder / "stages.tsv")
        results["sections"] |= (read_json(folder / f"{stem}.json") or {"sections": {}})["sections"]
        for name, file in (("kernels", "kernels"), ("ncu", "ncu"), ("bandwidth", f"{stem}-bandwidth")):
            found = read_json(folder / f"{file}.json")
            if found is not None:
                results[name] = found
        plot = folder / f"{stem}-bandwidth.png"
        if plot.exists():
            shutil.copyfile(plot, out / plot.name)
            results["plot"] = plot.name
    stem = slug(facts["device"])
    (out / f"{stem}.json").write_text(json.dumps({"facts": facts, **results}, indent=1) + "\n")
    page = out / f"{stem}.md"
    page.write_text(gpu_text({"facts": facts, **results}))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--template", type=Path, metavar="FILE", help="write the page with every cell not measured")
    what.add_argument("--collect", type=Path, nargs="+", metavar="FOLDER", help="what calls of gpu.sh left behind")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the card's files go")
    options = parser.parse_args(arguments)
    if options.template:
        options.template.write_text(gpu_text({"facts": {}, "sections": {}, "stages": {}}))
        print(options.template)
        return 0
    print(collect(options.collect, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
