"""The benchmark of training from files starts, finishes and says what it measured: on one step of two samples."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.paths import REPOSITORY

ROOT = REPOSITORY
sys.path.insert(0, str(ROOT))

from benchmarks import loader, loader_contest, report  # noqa: E402


def test_every_contestant_trains_and_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (loader, loader_contest):
        monkeypatch.setattr(module, "BATCHES", {"cpu": 2})
        monkeypatch.setattr(module, "STEPS", {"cpu": 1})
    monkeypatch.setattr(loader, "LOADER_ROUNDS", 1)
    monkeypatch.setattr(loader_contest, "WORKERS", 0)
    monkeypatch.setattr(loader_contest, "SIZE", (64, 48))
    section = loader.loader_section(torch.device("cpu"))
    rows = {row["key"]: row for row in section["rows"]}
    assert list(rows) == [key for key, _ in loader.rows("cpu")]
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
    monkeypatch.setattr(loader_contest, "BATCHES", {"cpu": 2})
    monkeypatch.setattr(loader_contest, "STEPS", {"cpu": 1})
    monkeypatch.setattr(loader_contest, "WORKERS", 0)
    monkeypatch.setattr(loader_contest, "SIZE", (64, 48))
    contest = loader_contest.Contest(torch.device("cpu"), tmp_path)
    network = contest.host.network
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    contest.published.train_step(contest.batch)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(("head.", "positions.")), name
