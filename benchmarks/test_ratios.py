"""The contestants take turns in one process: a table of medians, bandwidths and ratios, written to `results/`."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks.contestants import NAMES, contestants
from benchmarks.workload import CLOCK, NETWORK, ROUNDS, CopyBandwidth, Workload, machine, now

RESULTS = Path(__file__).resolve().parent / "results"
HEAD = ("contestant", "ms", "least ms", "B/param moved", "GB/s", "of copy", "x AdamW fused", "state B/param")


def take_turns(work: Workload, copy: CopyBandwidth) -> tuple[list[dict[str, Any]], float]:
    """Median seconds of every contestant over the rounds, all of them in each round; and the copy's bytes a second."""
    makers = contestants(work)
    entered = [makers[name]() for name in NAMES]
    seconds: dict[str, list[float]] = {c.name: [] for c in entered}
    copies: list[float] = []
    for c in entered:
        for _ in range(1 if c.slow else 2):  # first steps allocate, compile and gather statistics
            c.step()
    for turn in range(ROUNDS):
        start = now(work.device)
        copy()
        copies.append(now(work.device) - start)
        for c in entered:
            if c.slow and turn >= 2:
                continue
            start = now(work.device)
            c.step()
            seconds[c.name].append(now(work.device) - start)
    bandwidth = copy.bytes / statistics.median(copies)
    rows = []
    for c in entered:
        median = statistics.median(seconds[c.name])
        moved = c.bytes_per_element * work.elements
        rows.append(
            {
                "contestant": c.name,
                "ms": median * 1e3,
                "least ms": min(seconds[c.name]) * 1e3,
                "all ms": [s * 1e3 for s in seconds[c.name]],
                "B/param moved": c.bytes_per_element,
                "GB/s": moved / median / 1e9,
                "of copy": moved / median / bandwidth,
                "x AdamW fused": median / statistics.median(seconds[entered[0].name]),
                "state B/param": c.state_bytes_per_element,
            }
        )
    return rows, bandwidth


def against_targets(rows: list[dict[str, Any]]) -> list[str]:
    """The CPU targets of DESIGN section 5 beside what was found: the fused step, prior and rank damping together."""
    ms = dict(zip(NAMES, (row["ms"] for row in rows), strict=True))
    ours = ms["srft"]
    return [
        f"- {ours / ms['adamw_fused']:.2f} x the time of torch AdamW(fused=True); target at most 1.4",
        f"- {ms['ewc_foreach'] / ours:.1f} x faster than eager foreach EWC + fused AdamW; target at least 6",
        f"- {ms['ewc_compiled_alone'] / ours:.1f} x faster than compiled EWC + fused AdamW, and "
        f"{ms['ewc_compiled'] / ours:.1f} x than EWC and AdamW compiled together; target at least 3",
        f"- {ms['published'] / ours:.0f} x faster than the published update; target at least 100",
    ]


def table(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], key: str) -> str:
        value = row[key]
        if key == "of copy":
            return f"{100 * value:.0f} %"
        return value if isinstance(value, str) else f"{value:.1f}" if key != "x AdamW fused" else f"{value:.2f}"

    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    lines += ["| " + " | ".join(cell(row, key) for key in HEAD) + " |" for row in rows]
    return "\n".join(lines)


def test_ratios(benchmark: Any, work: Workload, capsys: Any) -> None:
    copy = CopyBandwidth(work.device, 2**27 if NETWORK.startswith("vit_base") else 2**22)
    rows, bandwidth = benchmark.pedantic(take_turns, args=(work, copy), rounds=1)
    facts = {
        **machine(work.device),
        "parameters": work.elements,
        "copy GB/s": round(bandwidth / 1e9, 1),
        "rounds": ROUNDS,
    }
    text = "\n".join(
        [
            f"# One optimizer step, {facts['network']}, {work.elements / 1e6:.1f} million parameters, float32",
            "",
            "`pytest benchmarks --benchmark-only -k ratios`: " + "; ".join(f"{k} {v}" for k, v in facts.items()),
            "",
            table(rows),
            "",
            *against_targets(rows),
            "",
            "Medians of turns taken in one process. B/param moved: what the mathematics needs in one pass.",
            "",
        ]
    )
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{facts['device']} {facts['network']} {CLOCK}".lower()).strip("-")
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    with capsys.disabled():
        print(f"\n\n{text}")
