"""``python -m evidence``: it runs what is missing, says how long it takes, and writes the page from the records."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from evidence import __main__ as command
from evidence import digits, digits_plan, plan, running
from evidence.running import Clock, Workers, records_of
from evidence.trials import ROOT, Store, trial

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'srft-kernels[evidence]'")

ALONE = ["--jobs", "1", "--threads", "1"]
RUN = ["run", *ALONE]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny = {"shots": 2, "steps": 4, "batch": 8, "width": 16}
    monkeypatch.setattr(digits, "PRETRAINING_STEPS", 20)
    digits._pretrained.cache_clear()
    monkeypatch.setattr(digits_plan, "DIGITS", tiny)
    monkeypatch.setitem(command.GROUPS, "short", ["tiny"])
    monkeypatch.setattr(running, "RESULTS", tmp_path / "committed")
    trials = [
        trial("digits", "rotated", method, seed, lr=lr, **tiny, **extra)
        for seed in (0, 1)
        for lr in (1e-3, 1e-2)
        for method, extra in (("adamw", {}), ("srft", {"strength": 1.0}), ("srft", {"strength": 9.0}))
    ]
    monkeypatch.setitem(command.PARTS, "tiny", trials)
    return tmp_path / "results"


def test_run_resume_and_report(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*RUN, "--results", str(results), "--minutes", "0.0001"]) == 0
    first = capsys.readouterr().out
    assert "0 of 12 trials have a record" in first
    assert "run again to go on" in first
    assert command.main([*RUN, "--results", str(results)]) == 0
    assert "every trial has a record" in capsys.readouterr().out
    assert command.main([*RUN, "--results", str(results)]) == 0
    assert "12 of 12 trials have a record; about 0 s left" in capsys.readouterr().out

    gone = results.parent / "figures" / "gone.png"
    gone.parent.mkdir()
    gone.touch()
    assert command.main(["report", "--results", str(results)]) == 0
    assert not gone.exists()
    page = (results.parent / "page.md").read_text()
    assert (
        results.parent / re.findall(r"\[docs/evidence.md\]\((.+)\)", page)[0]
    ).resolve() == ROOT / "docs" / "evidence.md"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| AdamW |", "| SRFT |"))]
    assert [row[1] for row in rows] == ["2", "4"], "so many configurations were tried"
    assert (results.parent / "figures" / "digits-rotated.png").stat().st_size > 1000


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["run", "digits-rotatd"])
    assert "no part is called digits-rotatd" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--jobs", "--threads"])
def test_no_worker_at_all_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["run", option, "0"])
    assert f"{option} is 0; it must be at least 1" in capsys.readouterr().err


def test_a_new_folder_is_told_how_long_by_the_committed_records(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*RUN, "--results", str(running.RESULTS)]) == 0
    assert command.main([*RUN, "--results", str(results), "--minutes", "0"]) == 0
    clock = Clock()
    for record in Store(running.RESULTS / "digits.jsonl"):
        clock.remember(record.trial, record.facts["seconds"])
    expected = running.shown(clock.left(plan.PARTS["tiny"]))
    assert f"0 of 12 trials have a record; about {expected} left" in capsys.readouterr().out


def test_the_time_left_follows_the_pace_of_this_run() -> None:
    clock = Clock()
    adamw, srft, other = (
        trial("digits", "rotated", method, 0, **digits_plan.DIGITS) for method in ("adamw", "srft", "ewc")
    )
    assert clock.left([adamw]) == 0.0  # nothing is known
    for one, seconds in ((adamw, 2.0), (adamw, 4.0), (srft, 6.0)):
        clock.remember(one, seconds)
    assert clock.left([adamw, srft]) == pytest.approx(3.0 + 6.0)
    assert clock.left([other]) == pytest.approx(4.0)  # the mean of its bench
    clock.add(adamw, 1.5)  # twice as fast as usual
    assert clock.left([adamw, srft]) == pytest.approx(1.5 + 3.0)


def test_a_first_run_learns_from_itself() -> None:
    clock, one = Clock(), trial("digits", "rotated", "adamw", 0, **digits_plan.DIGITS)
    clock.add(one, 5.0)
    assert clock.left([one, one]) == pytest.approx(10.0)


def test_records_that_come_again_are_the_same_and_others_are_found(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*RUN, "--results", str(results)]) == 0
    check = ["check", *ALONE, "--results", str(results)]
    assert command.main([*check, "--count", "3"]) == 0
    assert "3 of 3 are the same; the largest difference is 0.00 points" in capsys.readouterr().out
    path = results / "digits.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line["readouts"]["final"][1] += 2.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command.main([*check, "--count", "12"]) == 1
    assert "0 of 12 are the same; the largest difference is 2.50 points" in capsys.readouterr().out


def test_several_processes_give_what_one_does() -> None:
    """In whatever order they come. The pre-training is whole here, since other processes see no change of it."""
    digits._pretrained.cache_clear()
    digits._PRIORS.clear()
    tiny = {"shots": 2, "steps": 4, "batch": 8, "width": 16, "strength": 1.0}
    trials = [trial("digits", "turned", "srft", 0, lr=lr, **tiny) for lr in (1e-3, 3e-3, 1e-2, 3e-2)]
    both = [{record.trial.key: record.readouts for record in records_of(trials, Workers(jobs, 1))} for jobs in (1, 2)]
    assert both[0] == both[1]
    assert both[0].keys() == {one.key for one in trials}


def test_no_trial_starts_once_it_is_enough() -> None:
    trials = [trial("digits", "turned", "srft", seed) for seed in range(3)]
    for jobs in (1, 2):
        assert list(records_of(trials, Workers(jobs, 1), lambda: True)) == []


def test_workers_use_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert Workers.of(None, None) == (6, 1)
    assert Workers.of(None, 2) == (3, 2)
    assert Workers.of(2, None) == (2, 3)
    assert Workers.of(None, 9) == (1, 9)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert Workers.of(None, None) == (running.MOST_JOBS, 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Workers.of(None, None) == (1, 64)


def test_a_check_of_nothing_does_not_pass(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["check", "--results", str(results)]) == 1
    assert "has no record of tiny to compare with" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["check", "--count", "0"])
    assert "--count is 0; it must be at least 1" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", stopped)
    assert command.main(["run"]) == 130
    assert "run again to go on" in capsys.readouterr().out
