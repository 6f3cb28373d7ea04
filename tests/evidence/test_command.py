"""``python -m evidence``: it runs what is missing, says how long it takes, and writes the page from the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import __main__ as command
from evidence import digits, plan
from evidence.trials import trial

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'srft-kernels[evidence]'")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny = {"shots": 2, "steps": 4, "batch": 8, "width": 16}
    monkeypatch.setattr(digits, "PRETRAINING_STEPS", 20)
    digits._pretrained.cache_clear()
    monkeypatch.setattr(plan, "DIGITS", tiny)
    monkeypatch.setitem(command.GROUPS, "short", ["tiny"])
    trials = [
        trial("digits", "rotated", method, seed, lr=lr, **tiny, **extra)
        for seed in (0, 1)
        for lr in (1e-3, 1e-2)
        for method, extra in (("adamw", {}), ("srft", {"strength": 1.0}), ("srft", {"strength": 9.0}))
    ]
    monkeypatch.setitem(command.PARTS, "tiny", trials)
    return tmp_path / "results"


def test_run_resume_and_report(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--results", str(results), "--minutes", "0.0001"]) == 0
    first = capsys.readouterr().out
    assert "0 of 12 trials have a record" in first
    assert "run again to go on" in first
    assert command.main(["run", "--results", str(results)]) == 0
    assert "every trial has a record" in capsys.readouterr().out
    assert command.main(["run", "--results", str(results)]) == 0
    assert "12 of 12 trials have a record; about 0 s left" in capsys.readouterr().out

    assert command.main(["report", "--results", str(results)]) == 0
    page = (results.parent / "page.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| AdamW |", "| SRFT |"))]
    assert [row[1] for row in rows] == ["2", "4"], "so many configurations were tried"
    assert (results.parent / "figures" / "digits-rotated.png").stat().st_size > 1000


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["run", "digits-rotatd"])
    assert "no part is called digits-rotatd" in capsys.readouterr().err
