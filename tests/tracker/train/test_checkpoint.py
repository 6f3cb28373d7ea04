"""Checkpoints on disk are whole or not there, and bad ones are refused in a sentence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracker.disk import full_disk
from tracker.errors import RGBXError
from tracker.files import atomic_file
from tracker.train.checkpoint import (
    checkpoint_path,
    find_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    rng_state,
    save_checkpoint,
    set_rng_state,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_state_survives(tmp_path: Path) -> None:
    state = {"step": 3, "network": {"w": torch.arange(5.0)}, "config": {"lr": 0.1, "names": ["a", None]}}
    save_checkpoint(tmp_path / "deep" / "a.ckpt", state)
    found = load_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert torch.equal(found["network"]["w"], torch.arange(5.0))
    assert {key: found[key] for key in ("step", "config")} == {key: state[key] for key in ("step", "config")}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(5, "Input/output error"), ValueError("boom")])
def test_interrupted_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"step": 1})
    before = contents(tmp_path)
    plain = torch.save

    def broken(state: Any, file: Any) -> None:
        plain(state, file)
        file.flush()
        raise failure

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises((type(failure), RGBXError)):
        save_checkpoint(path, {"step": 2})
    assert contents(tmp_path) == before


def test_full_disk_is_one_sentence_and_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"step": 1})
    before = contents(tmp_path)
    full_disk(monkeypatch)
    with pytest.raises(RGBXError) as caught:
        save_checkpoint(path, {"step": 2, "w": torch.zeros(1 << 16)})
    assert str(caught.value) == f"disk full while writing {path}; make room and start again"
    assert contents(tmp_path) == before


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RGBXError, match="cannot write"), atomic_file(tmp_path / "file" / "a.ckpt"):
        pass


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    save_checkpoint(tmp_path / "a.ckpt", {})
    assert (tmp_path / "a.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_truncated_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    save_checkpoint(folder / "whole.ckpt", {"step": 1, "w": torch.randn(300)})
    data = (folder / "whole.ckpt").read_bytes()
    cut = folder / "cut.ckpt"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RGBXError, match="truncated or is not a training checkpoint") as caught:
        load_checkpoint(cut)
    assert "\n" not in str(caught.value)


class Dangerous:
    """An object that would create a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_foreign_files_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"net": {"w": torch.zeros(2)}}, tmp_path / "ostrack.pth.tar")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for name in ("ostrack.pth.tar", "tensor.pt"):
        with pytest.raises(RGBXError, match="is not a training checkpoint of rgbx"):
            load_checkpoint(tmp_path / name)
    victim = tmp_path / "victim"
    torch.save({"format": "rgbx-training-checkpoint", "x": Dangerous(str(victim))}, tmp_path / "evil.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name in ("evil.ckpt", "text.ckpt", "empty.ckpt"):
        with pytest.raises(RGBXError, match="truncated or is not a training checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not victim.exists()
    with pytest.raises(RGBXError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_newer_version_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", {"version": 99})
    with pytest.raises(RGBXError, match="version 99"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_newest_is_found_and_oldest_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (9, 100, 20):
        save_checkpoint(checkpoint_path(folder, step), {"step": step})
    (folder / ".step_00000200.ckpt.x.part").write_bytes(b"")
    assert find_checkpoint(tmp_path).name == "step_00000100.ckpt"
    assert find_checkpoint(folder).name == "step_00000100.ckpt"
    prune_checkpoints(folder, 1, step=100)
    assert [path.name for path in folder.glob("step*")] == ["step_00000100.ckpt"]
    with pytest.raises(RGBXError, match="no checkpoint in"):
        find_checkpoint(tmp_path / "nothing")


def draw() -> list[float]:
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        *np.random.rand(2).tolist(),  # noqa: NPY002
        float(np.random.randn()),  # noqa: NPY002
        random.random(),
        random.gauss(0, 1),
    ]


@given(seed=st.integers(0, 2**32 - 1), skip=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_generators_go_back_to_where_they_were(tmp_path_factory: pytest.TempPathFactory, seed: int, skip: int) -> None:
    """They go through a file, while NumPy's and Python's generators each hold the second half of a normal pair."""
    before = rng_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        for _ in range(skip):
            np.random.randn()  # noqa: NPY002
            random.gauss(0, 1)
        path = tmp_path_factory.mktemp("rng") / "a.ckpt"
        save_checkpoint(path, {"rng": rng_state()})
        expected = draw()
        draw()
        set_rng_state(load_checkpoint(path)["rng"])
        assert draw() == expected
    finally:
        set_rng_state(before)
