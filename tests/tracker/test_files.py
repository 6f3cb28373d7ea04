"""Files and folders are there as a whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.paths import REPOSITORY
from tests.tracker.disk import full_disk
from tracker.errors import RGBXError
from tracker.files import atomic_file, atomic_folder, atomic_path, write_text

FAILURES = (KeyboardInterrupt(), ValueError("boom"), OSError(errno.ENOSPC, "No space left on device"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def half_a_file(path: Path, failure: BaseException) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise failure


def half_a_named_file(path: Path, failure: BaseException) -> None:
    with atomic_path(path) as part:
        assert part.suffix == ".json"
        part.write_text("half")
        raise failure


def half_a_folder(path: Path, failure: BaseException) -> None:
    with atomic_folder(path) as staging:
        (staging / "b").write_text("half")
        raise failure


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_file_leaves_the_old_one_and_no_debris(
    tmp_path: Path, failure: BaseException, there: bool
) -> None:
    path = tmp_path / "deep" / "a.json"
    if there:
        write_text(path, "old")
    before = contents(tmp_path)
    expected = RGBXError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        half_a_file(path, failure)
    with pytest.raises(expected):
        half_a_named_file(path, failure)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_folder_leaves_the_old_one_and_no_debris(
    tmp_path: Path, failure: BaseException, there: bool
) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
        (path / "a").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(type(failure)):
        half_a_folder(path, failure)
    assert contents(tmp_path) == before
    assert [item.name for item in tmp_path.iterdir()] == (["run"] if there else [])


def test_a_whole_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "deep" / "run") as staging:
            (staging / text).write_text(text)
    assert contents(tmp_path) == {"deep/run/second": b"second"}


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full_disk(monkeypatch)
    with pytest.raises(RGBXError, match=f"^disk full while writing {tmp_path / 'a'}; make room and start again$"):
        write_text(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_renames_files() -> None:
    """The tracker leaves that to the one module in which the rule is stated."""
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "tracker").rglob("*.py")
        if "os.replace(" in path.read_text(encoding="utf-8")
    }
    assert found == set()
