"""The VOT toolkit as processes: evaluate, analysis, report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tracker.errors import RGBXError
from tracker.vot.workspace import BENCHMARKS, listed_sequences, listed_trackers, read_config

PYTHON_VARIABLE = "RGBX_VOT_PYTHON"
LOG_FILE = "toolkit.log"
POLL_SECONDS = 0.5
MEASURES = {
    "depthtrack": ("PrecisionRecall", ("Pr", "Re", "F")),
    "vot-rgbd2022": ("EAOScore", ("EAO",)),
    "vot-rgbt2019": ("EAOScore", ("EAO",)),
}
"""The analysis that answers a benchmark's figures, and their names."""
WITHOUT_MULTISTART = ("0.8.0", "0.8.1", "0.9.0")
"""Versions whose multistart experiment hands the tracker no region; 0.7.4 does, and gives EAO."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses: the toolkit has nothing to fetch, and its look for a newer version would only cost time."""


def find_python(python: str | Path | None = None) -> str:
    """Return the interpreter that has the toolkit: the one given, else ``RGBX_VOT_PYTHON``, else this one.

    Raises:
        RGBXError: it has no toolkit.
    """
    chosen = str(python or os.environ.get(PYTHON_VARIABLE) or sys.executable)
    found = shutil.which(chosen)
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vot') is None)"
    if found is None or subprocess.run([found, "-c", probe], capture_output=True, check=False).returncode != 0:
        raise RGBXError(
            f"{chosen} has no VOT toolkit; install vot-toolkit in an environment of its own and name that one's Python "
            f"with --python or {PYTHON_VARIABLE}"
        )
    return found


def toolkit_version(python: str) -> str:
    """Return the version of the toolkit that an interpreter has."""
    probe = "from importlib.metadata import version; print(version('vot-toolkit'))"
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def benchmark_of(workspace: Path) -> str:
    """Return the benchmark that a workspace was prepared for.

    Raises:
        RGBXError: no workspace, or one of another stack.
    """
    stack = read_config(workspace).get("stack")
    for name, benchmark in BENCHMARKS.items():
        if benchmark.stack == stack:
            return name
    raise RGBXError(f"{workspace} is a workspace of {stack}; expected one made by `rgbx vot prepare`")


def run_workspace(
    workspace: str | Path,
    trackers: ListLike[str] = (),
    *,
    python: str | Path | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Evaluate, analyze and report. An interrupted evaluation goes on where it stopped.

    Args:
        workspace: made by :func:`tracker.vot.workspace.prepare_workspace`.
        trackers: names in ``trackers.ini``; all by default.
        python: interpreter that has the toolkit, see :func:`find_python`.
        progress: a bar over finished runs with the time left.

    Returns:
        Tracker to measure to value in [0, 1]. The analysis is in ``analysis/rgbx.json``, the report in
        ``reports/rgbx``, and everything that the toolkit said in ``toolkit.log``.

    Raises:
        RGBXError: no workspace, no toolkit, an unknown tracker, or a toolkit or tracker that failed.
    """
    workspace = Path(workspace).resolve()
    benchmark = benchmark_of(workspace)
    sequences = listed_sequences(workspace)
    known = listed_trackers(workspace)
    chosen = list(trackers) or known
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise RGBXError(
            f"{workspace} has no tracker {', '.join(unknown)}; trackers.ini has {', '.join(known) or 'none'}"
        )
    interpreter = find_python(python)
    version = toolkit_version(interpreter)
    if BENCHMARKS[benchmark].anchored and version in WITHOUT_MULTISTART:
        raise RGBXError(
            f"vot-toolkit {version} cannot run the multistart experiment of {benchmark} (it gives the tracker no "
            "region to start from); install vot-toolkit==0.7.4 for it"
        )
    expected = {name: _expected_files(workspace, benchmark, name, sequences) for name in chosen}
    _call(workspace, interpreter, ["evaluate", *chosen], [f for files in expected.values() for f in files], progress)
    for name, files in expected.items():
        missing = [f for f in files if not _finished(f)]
        if missing:
            raise RGBXError(
                f"the VOT toolkit ({version}) left {len(missing)} of {len(files)} runs of {name} "
                f"undone, the first of them {missing[0].name}; {_last_words(workspace)}"
            )
    _call(workspace, interpreter, ["analysis", "--format", "json", "--name", "rgbx", *chosen], [], progress)
    _call(workspace, interpreter, ["report", "--format", "html", "--name", "rgbx", *chosen], [], progress)
    return read_analysis(workspace / "analysis" / "rgbx.json", benchmark)


def _expected_files(workspace: Path, benchmark: str, tracker: str, sequences: ListLike[str]) -> list[Path]:
    """List the result files of all runs, without their extension: one a sequence, or one an anchor of it."""
    base = workspace / "results" / tracker / BENCHMARKS[benchmark].experiment
    if not BENCHMARKS[benchmark].anchored:
        return [base / name / f"{name}_001" for name in sequences]
    files = []
    for name in sequences:
        anchors = (workspace / "sequences" / name / "anchor.value").read_text(encoding="utf-8").split()
        files += [base / name / f"{name}_{k:08d}" for k, value in enumerate(anchors) if float(value) != 0]
    return files


def _finished(file: Path) -> bool:
    return any(file.with_name(file.name + extension).is_file() for extension in (".txt", ".bin"))


def _call(workspace: Path, python: str, arguments: list[str], files: list[Path], progress: bool) -> None:
    """Run one command of the toolkit, with a bar over ``files`` where there are any."""
    environment = os.environ | {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "VOT_RESULTS_BINARY": "false"}
    environment |= {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE}
    action, *rest = arguments
    command = [python, "-m", "vot", action, "--workspace", str(workspace), *rest]
    with (workspace / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"$ vot {' '.join(arguments)}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            with tqdm(total=len(files) or None, desc=f"vot {action}", unit="run", disable=not progress) as bar:
                if files:
                    bar.n = bar.initial = sum(map(_finished, files))  # resumed: no time was spent on these now
                while process.poll() is None:
                    time.sleep(POLL_SECONDS)
                    bar.update(sum(map(_finished, files)) - bar.n if files else 0)
                    bar.refresh()
                bar.update(sum(map(_finished, files)) - bar.n if files else 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise RGBXError(f"`vot {action}` ended with status {process.returncode}; {_last_words(workspace)}")


def _last_words(workspace: Path) -> str:
    """Return the end of what the toolkit said, for a message."""
    lines = [line.strip() for line in (workspace / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()]
    spoken = [line for line in lines if line]
    telling = [line for line in spoken if "error" in line.lower() or "exception" in line.lower()]
    return f"its log {workspace / LOG_FILE} ends: {(telling or spoken or ['nothing'])[-1][:300]}"


def read_analysis(path: Path, benchmark: str) -> dict[str, dict[str, float]]:
    """Read figures from the JSON file of the toolkit's analysis: tracker to measure to value.

    Raises:
        RGBXError: the file is not what the toolkit writes.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        experiment = content["results"][BENCHMARKS[benchmark].experiment]
        kinds = [analysis["type"].rpartition(".")[2] for analysis in experiment["parameters"]["analyses"]]
        kind, names = MEASURES[benchmark]
        rows = experiment["results"][kinds.index(kind)]
        return {
            tracker: {name: float(value) for name, value in zip(names, row, strict=True)}
            for tracker, row in zip(content["trackers"], rows, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RGBXError(f"{path} is not an analysis of the VOT toolkit ({error!r}); see {LOG_FILE}") from error
