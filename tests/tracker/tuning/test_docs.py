"""Every command on the pages about tuning runs, and what they say of methods is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.paths import REPOSITORY
from tracker.cli import cli
from tracker.config import TUNED_GROUPS
from tracker.models.config import vit_b_256
from tracker.models.groups import parameter_groups
from tracker.models.tracker import build_network
from tracker.tuning.base import TunedTracker
from tracker.tuning.files import tune
from tracker.tuning.methods import METHODS

PAGES = REPOSITORY / "docs" / "tuning"
DATA = ["data.sequences=2", "data.length=20"]
RUN = [
    *DATA, "train.epochs=1", "train.samples_per_epoch=2", "train.batch_size=2", "train.warmup_steps=0",
    "validation.every=0", "train.device=cpu",
]  # fmt: skip
SMALL = {
    "prior": [*DATA, "prior.samples=2", "prior.batch_size=2", "--no-report"],
    "train": RUN,
    # Two methods stand for all, which have tests of their own.
    "compare-methods": [
        *RUN,
        "--count",
        "1",
        "--length",
        "3",
        "--methods",
        "lora,sdstrack+srft",
        "optimizer.damping=rank",
    ],
}


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command in the page's fenced blocks."""
    blocks = re.findall(r"^```\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = commands(page)
    assert ran
    for words in ran:
        assert words[0] == "rgbx"
        result = CliRunner().invoke(cli, [*words[1:], *SMALL.get(words[1], [])])
        assert result.exit_code == 0, (words, result.output, result.exception)


def test_every_method_has_a_page_and_a_row_with_its_parameters() -> None:
    lines = (PAGES / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    rows = [row for row in cells if len(row) == 5 and row[0] != "`tuning`"]
    assert {row[0].strip("`") for row in rows} == {"full", *METHODS}
    for name, _, count, merges, page in rows:
        method = name.strip("`")
        assert re.search(rf"\({method}\w*\.md\)", page)  # that the file is there is a test of all links
        if method == "full":
            assert count == "199.64 M"
            continue
        with torch.device("meta"):
            network = tune(build_network(vit_b_256(kind="single_stream")), method)
        trained = sum(p.numel() for group in parameter_groups(network) for _, p in group["params"])
        assert count == f"{trained / 1e6:.2f} M", method
        assert (merges == "yes") == (type(network).merged is not TunedTracker.merged)


def test_settings_know_what_each_method_trains() -> None:
    assert set(TUNED_GROUPS) == {"full", *METHODS}
    assert all(kind.trains == TUNED_GROUPS[name] for name, kind in METHODS.items())
