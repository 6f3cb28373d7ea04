"""The benchmark of training from files starts, finishes and says what it measured, on one step of two samples."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.paths import REPOSITORY

ROOT = REPOSITORY
sys.path.insert(0, str(ROOT))

from benchmarks import loader, loader_rows, loader_runs, report  # noqa: E402


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the benchmark to one step of two small samples, in one process."""
    small = {
        "BATCHES": {"cpu": 2},
        "STEPS": {"cpu": 1},
        "LOADER_ROUNDS": 1,
        "WORKERS": 0,
        "SIZE": (64, 48),
    }
    for module in (loader, loader_rows, loader_runs):
        for name, value in small.items():
            monkeypatch.setattr(module, name, value, raising=False)


def test_every_contestant_trains_and_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_small(monkeypatch)
    section = loader.loader_section(torch.device("cpu"))
    rows = {row["key"]: row for row in section["rows"]}
    assert list(rows) == [key for key, _ in loader_rows.rows("cpu")]
    for row in rows.values():
        assert "why" not in row
        (seconds,) = row["all s"]
        assert row["samples/s"] == pytest.approx(2 / seconds)
        assert row["x published"] == pytest.approx(row["samples/s"] / rows["published"]["samples/s"])
    page = report.Report(torch.device("cpu"), tmp_path).add_apart("loader", section)
    assert all(f"| {row['contestant']} |" in page for row in rows.values())
    (written,) = tmp_path.glob("*-loader.md")
    assert "Samples a second" in written.read_text()


def test_the_published_step_moves_what_is_trained_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_small(monkeypatch)
    contest = loader_runs.Contest(torch.device("cpu"), tmp_path)
    network = contest.host.network
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    contest.published.train_step(contest.batch)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(("head.", "positions.")), name
