"""The benchmarks start, finish and say what they measured, on small networks and briefly. What they say is right."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.paths import REPOSITORY

ROOT = REPOSITORY
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    bandwidth_plot,
    baselines,
    hutchinson,
    interleave,
    kernel_facts,
    report,
    sanitizer_case,
    srft,
    suite,
    targets,
)
from benchmarks.contestants import Contestant, Running, Unavailable  # noqa: E402
from benchmarks.timing import CopyBandwidth  # noqa: E402
from benchmarks.traffic import COPY, Passes  # noqa: E402
from benchmarks.workload import TWO_STREAM, Workload, shapes  # noqa: E402

CPU = torch.device("cpu")
SMALL = {"SRFT_BENCH_NETWORK": "vit_tiny_patch16_224", "SRFT_BENCH_ROUNDS": "2", "OMP_NUM_THREADS": "1"}
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
# A benchmark must not know that one of several processes that share the tests runs it.
ALONE = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
NO_DEVICE = {**ALONE, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
DUMP = """
Resource usage:
 Common:
  GLOBAL:0
 Function _Z4stepPf:
  REG:40 STACK:16 SHARED:1152 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = """
\t\tFunction : _Z4stepPf
        /*0090*/                   LDG.E.128.CONSTANT R4, desc[UR6][R2.64] ;
        /*00a0*/                   LDG.E R9, desc[UR6][R2.64] ;
        /*00b0*/                   STG.E.128 desc[UR6][R2.64], R4 ;
"""
COUNTED = """==PROF== Connected to process 7
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","void step<float>(float *)","dram__bytes_read.sum","Gbyte","4.79"
"""


def every_contestant() -> list[Contestant]:
    return [c for make in suite.TABLES.values() for c in make("cpu")]


# ---------------------------------------------------------------- they run


@pytest.mark.slow
def test_entries_and_a_table_run_and_are_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", "-p", "no:cacheprovider", "-k",
         "cpu and (adamw_fused or srft_kappa_1 or srft_damping or penalty_operator or variants)"],
        cwd=ROOT, env={**ALONE, **SMALL, "SRFT_BENCH_OUT": str(tmp_path)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (data,) = tmp_path.glob("*.json")
    results = json.loads(data.read_text())
    assert {"device", "torch", "commit", "network"} <= set(results["facts"])
    assert set(results["sections"]) == {"host", "variants"}
    variants = results["sections"]["variants"]
    assert variants["parameters"] == sum(s.numel() for s in shapes(SMALL["SRFT_BENCH_NETWORK"]))
    rows = {row["key"]: row for row in variants["rows"]}
    assert set(rows) == {c.key for c in suite.variant_contestants("cpu")}
    for row in rows.values():
        assert "why" not in row
        moved = row["B/param moved"] * variants["parameters"]
        assert row["GB/s"] == pytest.approx(moved / (row["ms"] * 1e-3) / 1e9)
        assert row["of copy"] == pytest.approx(row["GB/s"] / variants["copy GB/s"])
        assert row["x baseline"] == pytest.approx(row["ms"] / rows[row["baseline"]]["ms"])
        assert len(row["all ms"]) == 2
    page = data.with_suffix(".md").read_text()
    assert "bytes moved per parameter | GB/s | of copy | x baseline | state B/param |" in page
    assert all(f"| {row['contestant']} |" in page for row in rows.values())


@pytest.mark.slow
def test_a_hutchinson_update_is_timed_and_has_a_page_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/test_hutchinson.py", "--benchmark-only", "-q", "-p",
         "no:cacheprovider", "-k", "cpu"],
        cwd=ROOT, env={**ALONE, **SMALL, "SRFT_BENCH_BATCH": "1", "SRFT_BENCH_OUT": str(tmp_path)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (data,) = tmp_path.glob("*-hutchinson.json")
    results = json.loads(data.read_text())
    assert results["facts"]["network"] == SMALL["SRFT_BENCH_NETWORK"]
    section = results["sections"]["hutchinson"]
    assert section["batch"] == 1
    rows = {row["key"]: row for row in section["rows"]}
    assert list(rows) == list(hutchinson.NAMES)
    plain, exact = rows["plain"], rows["srft_autograd"]
    for row in rows.values():
        assert "why" not in row
        assert row["extra ms"] == pytest.approx(row["ms"] - plain["ms"])
        assert row["extra MiB"] == pytest.approx(row["peak MiB"] - plain["peak MiB"])
        assert row["x baseline"] == pytest.approx(row["ms"] / exact["ms"])
    size = 4 * section["parameters"] / 2**20
    # There is a copy of the parameters and one of the gradients at least; the central difference has two of the
    # gradients.
    assert rows["srft_forward"]["extra MiB"] >= 2 * size
    assert rows["srft_central"]["extra MiB"] >= 3 * size
    for key in ("srft_forward", "srft_central"):
        assert rows[key]["error"] < 0.5  # the error of another probe would be √2, and that of none 1
    page = data.with_suffix(".md").read_text()
    assert all(f"| {row['contestant']} |" in page for row in rows.values())
    assert "double backward over finite differences | at least 1.5 x |" in page


def test_peak_memory_is_what_is_held_at_one_time() -> None:
    before = torch.ones(1 << 20)

    def call() -> None:
        first = torch.empty(5 << 20)
        second = torch.empty(2 << 20)
        del first, second
        kept = torch.empty(4 << 20)
        (before + before).add_(kept[: 1 << 20])

    assert hutchinson.peak_bytes(call, CPU) == 4 * ((5 + 2) << 20)
    assert hutchinson.peak_bytes(lambda: [before + before for _ in range(3)], CPU) == 4 * (3 << 20)


def test_a_session_without_the_steps_leaves_the_results_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    page = report.Report(CPU, None)
    rows = [interleave.empty_row(c) for c in suite.step_contestants("cpu")]
    page.add("penalty", {"rows": rows})
    assert not list(tmp_path.iterdir())
    page.add("step", {"rows": rows})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]


def test_turns_report_who_is_absent_and_time_one_object_twice() -> None:
    work = Workload(CPU, [torch.Size([33, 7]), torch.Size([5])])
    steps: list[str] = []

    def counting(_: Workload) -> Running:
        return Running(lambda: steps.append("step"), lambda: 472)

    def absent(_: Workload) -> Running:
        raise Unavailable("it was never written")

    def broken(_: Workload) -> Running:
        raise ZeroDivisionError("a line\nand another")

    entries = [
        Contestant("first", "first", COPY, counting, baseline="first"),
        Contestant("again", "again", COPY, counting, baseline="first", same_as="first"),
        Contestant("absent", "absent", COPY, absent, baseline="first"),
        Contestant("broken", "broken", COPY, broken, baseline="first"),
    ]
    section = interleave.take_turns(entries, work, CopyBandwidth(CPU, 1024))
    rows = {row["key"]: row for row in section["rows"]}
    assert len(steps) == 2 + 3 + 2 * interleave.ROUNDS  # first steps, host time, and both rows of every turn
    assert rows["first"]["state B/param"] == rows["again"]["state B/param"] == 2.0
    assert rows["absent"]["why"] == "it was never written"
    assert rows["broken"]["why"] == "failed: ZeroDivisionError: a line"
    assert interleave.failures(section) == []  # somebody else's
    assert interleave.failures({"rows": [{**rows["broken"], "key": "srft_sgd"}]})
    text = report.section_text("step", section)
    assert "- Not measured, it was never written: absent" in text
    assert text.count("not measured") == 2 * 7


def test_the_deadline_leaves_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "SECONDS", -1.0)
    work = Workload(CPU, [torch.Size([5])])
    entered, absent = interleave.enter(suite.variant_contestants("cpu"), work)
    assert not entered
    assert all("were over" in why for why in absent.values())


def test_bandwidth_against_size(tmp_path: Path) -> None:
    assert bandwidth_plot.main(["--smallest", "4", "--largest", "4", "--out", str(tmp_path)]) == 0
    (data,) = tmp_path.glob("*-bandwidth.json")
    series = json.loads(data.read_text())["series"]
    assert [entry["key"] for entry in series] == ["copy", "adamw_fused", "srft"]
    assert all([point["elements"] for point in entry["points"]] == [16] for entry in series)
    pytest.importorskip("matplotlib")
    assert data.with_suffix(".png").stat().st_size > 0


def test_the_sanitizer_case_takes_every_kind_of_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitizer_case.main(["--device", "cpu", "--backend", "reference"]) == 0
    assert f"{len(sanitizer_case.CASES) + 2} kinds of step" in capsys.readouterr().out


# ---------------------------------------------------------------- what they say holds


def tensors_of(running: Running) -> dict[str, Tensor]:
    """Return by name every tensor that is as large as the one parameter of a workload."""
    optimizer = running.optimizer
    assert optimizer is not None
    (param,) = optimizer.param_groups[0]["params"]
    assert param.grad is not None
    state = {**optimizer.state[param], **getattr(optimizer, "inner", optimizer).state[param]}
    sized = {name: t for name, t in state.items() if isinstance(t, Tensor) and t.shape == param.shape}
    return {"weight": param.detach(), "gradient": param.grad, **sized}


def moved_by(contestant: Contestant) -> float:
    """Return the bytes per element that a step needs, found out from outside.

    A tensor that a step changes counts twice, and one that changes what a step does counts once.
    """

    def after(disturbed: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        running = contestant.make(Workload(CPU, [torch.Size([1031])]))
        running.step()
        running.step()
        tensors = tensors_of(running)
        if disturbed is not None:
            tensors[disturbed][::2] *= 1.5
        before = {name: t.clone() for name, t in tensors.items()}
        running.step()
        return before, {name: t.clone() for name, t in tensors_of(running).items()}

    before, plain = after(None)
    total = 0.0
    for name, tensor in plain.items():
        if not torch.equal(tensor, before[name]):
            total += 2 * tensor.element_size()
            continue
        _, disturbed = after(name)
        if any(not torch.equal(disturbed[other], plain[other]) for other in plain if other != name):
            total += tensor.element_size()
    return total


@pytest.mark.parametrize(
    "key",
    ["adamw_fused", "adamw_foreach", "srft", "srft_prior", "srft_damping", "srft_plain", "srft_mean", "srft_decoupled",
     "srft_bf16", "srft_sgd", "adamw_bf16", "sgd_fused", "rmsprop"],
)  # fmt: skip
def test_byte_formulas_against_a_count_of_tensors(key: str) -> None:
    (contestant,) = {c.key: c for c in every_contestant() if c.key == key}.values()
    assert contestant.traffic.bytes_per_element == moved_by(contestant)


def test_formulas_add_up_as_they_are_written() -> None:
    for contestant in [*every_contestant(), *suite.step_contestants("cuda")]:
        terms = re.sub(r"[^0-9.()+;]", " ", re.sub(r"g²|\b[a-zA-Z]\w*", "", contestant.traffic.formula))
        written = sum(eval(re.sub(r"2 +\(", "2*(", part)) for part in terms.split(";"))
        assert written == pytest.approx(contestant.traffic.bytes_per_element, rel=1e-3)
    (unfused,) = [c for c in every_contestant() if c.key == "srft_unfused"]
    assert isinstance(unfused.traffic, Passes)
    assert unfused.traffic.bytes_per_element >= moved_by(unfused)  # in one pass it would be less


def test_keys_are_unique_and_baselines_exist() -> None:
    for device in ("cpu", "cuda"):
        for make in suite.TABLES.values():
            keys = [c.key for c in make(device)]
            assert len(set(keys)) == len(keys)
            assert {c.baseline for c in make(device)} | {c.same_as or keys[0] for c in make(device)} <= set(keys)


PEERS: dict[str, Callable[[Workload], Running]] = {
    "foreach": baselines.prior_foreach,
    "compiled": baselines.prior_compiled,
    "flat": lambda work: baselines.prior_compiled(work, flat=True),
}


@pytest.mark.parametrize("name", PEERS)
def test_the_same_mathematics_is_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(baselines, "compiled", lambda function: function)  # the arithmetic alone
    sizes = [torch.Size([61, 13]), torch.Size([257])]
    one, other, unpulled = (Workload(CPU, sizes) for _ in range(3))
    wrapped = srft.srft_over(one, kappa=1.0)
    theirs = PEERS[name](other)
    plain = suite.torch_adamw("fused").make(unpulled)
    steps, eps = 20, torch.finfo(torch.float32).eps
    for _ in range(steps):
        wrapped.step()
        plain.step()
        value: Any = theirs.step()
        penalty = float(wrapped.optimizer.penalty)  # type: ignore[union-attr]
        assert penalty == pytest.approx(float(value), rel=one.elements * eps)  # a float32 sum's worst
    for p, q, r in zip(one.parameters, other.parameters, unpulled.parameters, strict=True):
        rounding = steps * eps * float(p.detach().abs().max())
        assert float((p - r).detach().abs().max()) > 100 * rounding
        if name != "flat":  # which steps a copy of its own, laid end to end
            assert float((p - q).detach().abs().max()) <= rounding


def test_the_two_stream_network_is_the_one_of_the_targets() -> None:
    found = shapes(TWO_STREAM)
    assert len(found) == 344
    assert round(sum(s.numel() for s in found) / 1e6, 2) == 199.64


def test_targets_are_judged_where_measured_and_listed_where_not() -> None:
    rows = [
        {"key": "srft", "ms": 1.3, "of copy": 0.8},
        {"key": "adamw_fused", "ms": 1.0},
        {"key": "published", "ms": 20.0},
    ]
    sections: dict[str, Any] = {"step": {"rows": rows}}
    judged = {t.what: t.judged(sections) for t in targets.GPU}
    assert judged["fused SRFT(AdamW), time over the copy's for as many bytes"] == ("1.250 x", "missed")
    assert judged["the same over torch AdamW(fused=True), which does less"] == ("1.300 x", "met")
    assert judged["the published update over ours"] == ("15.4 x", "missed")
    assert judged["a whole training step with SRFT over plain AdamW"] == ("not measured", "not measured")


# ---------------------------------------------------------------- what awaits a GPU


def test_the_page_without_a_gpu_is_the_one_that_gpu_sh_fills(tmp_path: Path) -> None:
    assert report.main(["--template", str(tmp_path / "gpu.md")]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert page == (ROOT / "benchmarks" / "results" / "gpu.md").read_text(), (
        "write it again: python -m benchmarks.report --template benchmarks/results/gpu.md"
    )
    columns = page.partition("## One optimizer step")[2].partition("##")[0].splitlines()
    rows = [line.split("|")[1:-1] for line in columns if line.startswith("| ") and "contestant" not in line]
    assert [row[0].strip() for row in rows] == [c.name for c in suite.step_contestants("cuda")]
    assert all(cell.strip() == "not measured" for row in rows for cell in row[1:4] + row[5:])


def test_a_filled_page_shows_stages_targets_and_tables() -> None:
    row = {**interleave.empty_row(suite.torch_adamw("fused")), "ms": 1.5, "of copy": 0.9, "GB/s": 4000.0}
    stages = {"tests": {"outcome": "failed (exit 1)", "seconds": "12", "note": "1 failed"}}
    results = {"facts": {"device": "Card", "driver": "1.2"}, "sections": {"step": {"rows": [row]}}, "stages": stages,
               "kernels": kernel_facts.resources(DUMP) and [{"kernel": "step", "registers": 40}],
               "ncu": kernel_facts.counters(COUNTED), "plot": "card-bandwidth.png"}  # fmt: skip
    page = report.gpu_text(results)
    assert page.startswith("# Card\n")
    assert "| driver | 1.2 |" in page
    assert "| tests | failed (exit 1) | 12 | 1 failed |" in page
    assert "| racecheck | not measured |" in page
    assert "| torch AdamW(fused=True) | 1.500 | not measured |" in page
    assert "| step | 40 | not measured |" in page
    assert "| void step<float> | dram__bytes_read.sum | 4.79 Gbyte |" in page
    assert "(card-bandwidth.png)" in page


def test_what_the_cuda_tools_print_is_understood() -> None:
    (kernel,) = kernel_facts.resources(DUMP)
    assert kernel == {"mangled": "_Z4stepPf", "registers": 40, "stack": 16, "shared": 1152}
    assert kernel_facts.wide_accesses(SASS) == {"_Z4stepPf": {"wide loads": 1, "wide stores": 1}}


bash_only = pytest.mark.skipif(shutil.which("bash") is None, reason="gpu.sh needs bash, which is not here")


def gpu_sh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env={**NO_DEVICE, **environment}, capture_output=True, text=True, timeout=60
    )


@bash_only
def test_gpu_sh_without_a_device_says_so_and_writes_nothing(tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    done = gpu_sh(OUT=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.count("not measured: no CUDA device") == len(report.STAGES)
    assert "torch sees no CUDA device here, so nothing was run" in done.stderr
    dry = gpu_sh("--dry-run", "--stages", "build,bench", OUT=str(tmp_path))
    assert dry.returncode == 0
    assert re.findall(r"^(\w+) +at most", dry.stdout, re.MULTILINE) == ["build", "bench"]
    assert "torch sees no CUDA device here" in dry.stdout
    assert not list(tmp_path.iterdir())
    wrong = gpu_sh("--stages", "bild")
    assert wrong.returncode == 2
    assert "there is no stage bild" in wrong.stderr


PRETENDER = """#!/usr/bin/env bash
case "$*" in
  -c*) echo "Card;9.0" ;;
  *"pytest -m gpu"*)
    trap 'echo "3 passed, interrupted"; exit 2' INT
    sleep "${TESTS_TAKE:-0}" & wait $!
    echo "1 failed, 2 passed"; exit 1 ;;
  *"pip install"*) sleep "$BUILD_TAKES" ;;
  *sanitizer_case*) echo "13 of 13 kinds of step take no synchronization" ;;
  *report*) cp "$4/stages.tsv" "$6"; touch "$6/card.md"; echo "$6/card.md" ;;
  *) echo "arch $TORCH_CUDA_ARCH_LIST" ;;
esac
"""


@pytest.fixture
def pretender(tmp_path: Path) -> str:
    """A Python that pretends to have a device, to build for a while, and to fail the tests."""
    path = tmp_path / "python"
    path.write_text(PRETENDER)
    path.chmod(0o755)
    return str(path)


@bash_only
def test_a_failing_stage_is_recorded_and_the_next_ones_run(tmp_path: Path, pretender: str) -> None:
    out = tmp_path / "out"
    done = gpu_sh("--stages", "build,tests,nosync,bench,plot", PYTHON=pretender, OUT=str(out), BUILD_TAKES="0",
                  TORCH_CUDA_ARCH_LIST="")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    stages = report.read_stages(out / "stages.tsv")
    outcomes = {name: stage["outcome"] for name, stage in stages.items()}
    assert outcomes.pop("tests") == "failed (exit 1)"
    assert outcomes == dict.fromkeys(("build", "nosync", "bench", "plot"), "passed")
    assert stages["tests"]["note"] == "1 failed, 2 passed"
    assert stages["build"]["note"] == "arch 9.0"
    assert "===== tests\n1 failed, 2 passed\n" in (out / "card.log").read_text()


@bash_only
def test_tests_that_take_too_long_say_what_they_found(tmp_path: Path, pretender: str) -> None:
    """They are interrupted, also if a shell in the background ignores interrupts, and the other stages go on."""
    out = tmp_path / "out"
    script = f"trap '' INT; exec bash {SCRIPT} --stages tests,nosync"
    environment = {**NO_DEVICE, "PYTHON": pretender, "OUT": str(out), "BUILD_TAKES": "0", "TESTS_TAKE": "50",
                   "SRFT_GPU_SECONDS": "22"}  # fmt: skip
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    stages = report.read_stages(out / "stages.tsv")
    assert re.fullmatch(r"stopped after [67] s", stages["tests"]["outcome"])
    assert stages["tests"]["note"] == "3 passed, interrupted"
    assert "3 passed, interrupted" in (out / "stages" / "tests.log").read_text()
    assert set(stages) == {"tests", "nosync"}


@bash_only
def test_three_calls_have_every_stage_between_them() -> None:
    seen = []
    for name in ("first", "second", "third"):
        dry = gpu_sh("--dry-run", "--stages", name)
        assert dry.returncode == 0
        seen.append(re.findall(r"^(\w+) +(?:at most|not run)", dry.stdout, re.MULTILINE))
        limits = [int(n) for n in re.findall(r"at most +(\d+) s", dry.stdout)]
        assert sum(limits) < 900  # each is cut to what is left of ten minutes
    assert [s for s in report.STAGES if all(s not in part for part in seen)] == []
    assert all(part[0] == "build" for part in seen)
    order = gpu_sh("--dry-run")
    stages = re.findall(r"^(\w+) +(?:at most|not run)", order.stdout, re.MULTILINE)
    assert stages.index("tests") < stages.index("nosync") < stages.index("triton") < stages.index("tracker")
    assert re.search(r"^tests .*-k not triton tests/srft_kernels$", order.stdout, re.MULTILINE)
    assert re.search(r"^triton .*-k triton tests/srft_kernels$", order.stdout, re.MULTILINE)
    if importlib.util.find_spec("xdist"):
        assert re.search(r"^tests .* -n 8 ", order.stdout, re.MULTILINE)


def test_what_several_calls_left_is_put_together(tmp_path: Path) -> None:
    row = {**interleave.empty_row(suite.torch_adamw("fused")), "ms": 1.5}
    facts = {"device": "Card", "driver": "1.2"}
    for name, stages, sections in (
        ("a", "build\tpassed\t60\t\ntests\tfailed (exit 1)\t9\t1 failed\n", {}),
        ("b", "build\tpassed\t2\t\nbench\tpassed\t100\t\n", {"step": {"rows": [row]}}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "facts.json").write_text(json.dumps(facts))
        (folder / "stages.tsv").write_text(stages)
        (folder / "card.json").write_text(json.dumps({"facts": facts, "sections": sections}))
    assert report.main(["--collect", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "all")]) == 0
    page = (tmp_path / "all" / "card.md").read_text()
    assert "| build | passed | 2 |" in page
    assert "| tests | failed (exit 1) | 9 | 1 failed |" in page
    assert "| torch AdamW(fused=True) | 1.500 |" in page
    other = tmp_path / "c"
    other.mkdir()
    (other / "facts.json").write_text(json.dumps({"device": "Another"}))
    with pytest.raises(ValueError, match="Another"):
        report.collect([tmp_path / "a", other], tmp_path / "all")


@bash_only
def test_a_stage_that_takes_too_long_is_stopped_and_leaves_the_benchmarks_their_time(
    tmp_path: Path, pretender: str
) -> None:
    out = tmp_path / "out"
    done = gpu_sh("--stages", "build,tests,bench", PYTHON=pretender, OUT=str(out), BUILD_TAKES="50",
                  SRFT_GPU_SECONDS="241")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    stages = report.read_stages(out / "stages.tsv")
    assert re.fullmatch(r"stopped after [56] s", stages["build"]["outcome"])
    assert stages["tests"]["outcome"] == "not run: no time was left"
    assert stages["bench"]["outcome"] == "passed"
