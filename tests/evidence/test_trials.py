"""Records are data: appended to, read back alike, and never run twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence.trials import Record, Store, command_of, here, trial


def a_record(seed: int = 0, **options: float) -> Record:
    return Record(trial("digits", "rotated", "srft", seed, **options), [1.0, 2.0, 3.0, 4.0], {"final": [5.0] * 4}, {})


def test_what_was_recorded_is_not_missing(tmp_path: Path) -> None:
    path = tmp_path / "digits.jsonl"
    place = here(1, 1)
    store = Store(path)
    store.add(a_record(lr=0.1, strength=3), place)
    again = Store(path)
    wanted = [trial("digits", "rotated", "srft", seed, strength=3, lr=0.1) for seed in (0, 1, 1)]
    assert again.missing(wanted) == [wanted[1]]
    assert next(iter(again)).readouts == {"final": [5.0] * 4}
    assert again.places[place["place"]]["torch"] == place["torch"]


def test_options_tell_trials_apart() -> None:
    keys = {a_record(lr=rate, strength=value).trial.key for rate in (0.1, 0.2) for value in (1.0, 2.0)}
    assert len(keys) == 4
    assert trial("digits", "rotated", "srft", 0, a=1, b=2) == trial("digits", "rotated", "srft", 0, b=2, a=1)


def test_a_run_that_was_stopped_while_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "digits.jsonl"
    store = Store(path)
    store.add(a_record(0), here(1, 1))
    whole = path.read_text()
    path.write_text(whole + a_record(1).as_line()[:40])
    again = Store(path)
    assert path.read_text() == whole
    again.add(a_record(1), here(1, 1))
    assert len(Store(path).records) == 2


def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "digits.jsonl"
    path.write_text('{"bench": \n' + a_record(0).as_line() + "\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        Store(path)


@pytest.mark.parametrize(
    "folder", [["--results", "somewhere/else"], ["--results=somewhere/else"], ["--res", "somewhere/else"]]
)
def test_a_record_keeps_the_command_without_the_folder_of_the_results(folder: list[str]) -> None:
    kept = command_of(["run", "digits-row", *folder, "--jobs", "2"])
    assert kept == "python -m evidence run digits-row --jobs 2"
