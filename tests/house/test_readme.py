"""What the README shows works: its example runs, its files exist, its commands are commands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.paths import REPOSITORY

ROOT = REPOSITORY
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    penalty, kappa = done.stdout.rsplit(maxsplit=1)
    assert "float64" in penalty
    assert 0 < float(kappa) < 1


def test_links_lead_to_files() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_commands_are_commands() -> None:
    cli = pytest.importorskip("tracker.cli")
    lines = [line.split("#")[0].split() for line in README.splitlines() if line.startswith("rgbx ")]
    assert lines
    for words in lines:
        command, rest = cli.cli, words[1:]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in rest if word.startswith("--")}
        assert used <= known, f"{' '.join(words)}: unknown {used - known}"
