"""What the README and the guides show works: examples run, links lead to files, commands and options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

ROOT = REPOSITORY
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("csrc", "srft_kernels", "tracker", "tests", "benchmarks", "evidence", "examples", "docs", ".ci")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    penalty, kappa = done.stdout.rsplit(maxsplit=1)
    assert "float64" in penalty
    assert 0 < float(kappa) < 1


def test_links_lead_to_files() -> None:
    folders = ("benchmarks", "docs", "examples", "requirements")
    pages = [page for folder in folders for page in sorted((ROOT / folder).rglob("*.md"))]
    for page in (*ROOT.glob("*.md"), *pages):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def commands_of(page: Path) -> list[list[str]]:
    """Return the words of every ``rgbx`` command in the code of a page, comments left out."""
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith("rgbx ")]


def test_commands_and_their_options_exist() -> None:
    cli = pytest.importorskip("tracker.cli")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [(page.name, words) for page in pages for words in commands_of(page)]
    assert len(found) > 30
    for name, words in found:
        command, rest = cli.cli, words[1:]
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, f"{name}: {' '.join(words)}: there is no command {rest[0]}"
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known, f"{name}: {' '.join(words)}: unknown {used - known}"


def test_the_guide_to_the_shipped_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("tracker.cli")
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guides.md").read_text(encoding="utf-8")
    section = guide.split("## Track with the shipped network")[1].split("\n## ")[0]
    commands = re.findall(r"^rgbx (.*)$", section, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command, comments=True)
        short = ["--length", "8"] if words[:2] == ["data", "generate"] else []
        done = CliRunner().invoke(cli.cli, [*words, *short])
        assert done.exit_code == 0, f"{command}: {done.output}"
    assert "tiny_rgb" in (tmp_path / "runs" / "report" / "report.md").read_text(encoding="utf-8")
    assert "<html" in (tmp_path / "runs" / "page.html").read_text(encoding="utf-8")


def test_every_example_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "examples").glob("*.py") if f"`{path.name}`" not in listed]
    assert not missing, f"examples/README.md does not list {missing}"


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = [
        name for name in re.findall(r"`([\w./-]+)`", text) if re.search(r"\.(py|h|cpp|cuh|txt|toml|md|sh)$|/$", name)
    ]
    assert len(names) > 50
    files = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    files += [path.name for path in ROOT.glob("*.*")]
    # A name may be given from the folder that its row or sentence is about.
    missing = [name for name in names if not any(f"/{file}".find(f"/{name}") >= 0 for file in files)]
    assert not missing, f"CONTRIBUTING.md names {missing}, which are not there"
