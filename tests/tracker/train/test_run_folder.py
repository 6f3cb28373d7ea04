"""A folder belongs to one run, and what it holds suffices to go on with that run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tracker.cli import cli
from tracker.models.checkpoints import load_network, save_network
from tracker.models.config import preset
from tracker.models.tracker import build_network
from tracker.train.checkpoint import checkpoints_in, load_checkpoint, save_checkpoint, step_of
from tracker.train.run_folder import differences, resumed_config

SMALL = preset(
    "tiny", kind="single_stream", embed_dim=16, depth=2, num_heads=2, template_size=32, search_size=64,
    head_channels=8, drop_path=0.1, cross_layers=(0, 1),
)  # fmt: skip
SETTINGS = (
    "data.sequences=2", "data.length=20", "data.width=96", "data.height=72", "train.epochs=2",
    "train.samples_per_epoch=6", "train.batch_size=2", "train.warmup_steps=0", "train.log_every=1", "train.lr=1e-3",
    "train.checkpoint_every=1", "train.keep_checkpoints=9", "optimizer.name=srft", "optimizer.damping=rank",
    "validation.every=0",
)  # fmt: skip


def rgbx(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["--threads", "1", *(str(argument) for argument in arguments)])


def refused(*arguments: object) -> str:
    result = rgbx(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rgbx: error: ")]
    return line.removeprefix("rgbx: error: ")


def done(*arguments: object) -> None:
    result = rgbx(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("rgb") / "rgb.safetensors"
    save_network(path, build_network(SMALL), meta={"command": "made by a test"})
    return path


@pytest.fixture(scope="module")
def whole(rgb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of six steps, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done("train", *SETTINGS, f"init={rgb}", f"output={folder}")
    assert [step_of(path) for path in checkpoints_in(folder / "checkpoints")] == [1, 2, 3, 4, 5, 6]
    return folder


def stopped(whole: Path, folder: Path, step: int) -> Path:
    """Return a copy of the run as it was when it was interrupted after ``step``."""
    shutil.copytree(whole, folder)
    (folder / "network.safetensors").unlink()
    for path in checkpoints_in(folder / "checkpoints"):
        if step_of(path) > step:
            path.unlink()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("step", [2, 3])
def test_resuming_a_folder_alone_ends_with_the_same_bits(whole: Path, tmp_path: Path, step: int) -> None:
    folder = stopped(whole, tmp_path / "moved", step)
    done("train", "--resume", folder)
    one, _, meta = load_network(whole / "network.safetensors")
    other, _, again = load_network(folder / "network.safetensors")
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert again["steps"] == 6
    # It says how it was made, and not how it was resumed.
    assert again["command"] == meta["command"]
    assert "data.sequences=2" in meta["command"]


def test_a_used_folder_is_refused_with_the_remedy_and_left_alone(whole: Path, rgb: Path) -> None:
    before = contents(whole)
    for command in ("train", "pretrain"):
        said = refused(command, "train.epochs=3", f"init={rgb}", f"output={whole}")
        assert said.startswith(f"{whole} holds another run already ({whole}/checkpoints/step_00000006.ckpt); ")
        assert f"--resume {whole}" in said
        assert "output=" in said
    assert contents(whole) == before


def test_a_folder_with_a_network_alone_is_used_as_well(whole: Path, rgb: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "network.safetensors", tmp_path / "run")
    assert "network.safetensors)" in refused("train", *SETTINGS, f"init={rgb}", f"output={tmp_path / 'run'}")


def test_a_run_goes_on_in_another_folder_that_is_free(whole: Path, rgb: Path, tmp_path: Path) -> None:
    checkpoint = whole / "checkpoints" / "step_00000004.ckpt"
    before = contents(whole)
    done("train", "--resume", checkpoint, f"output={tmp_path / 'new'}")
    assert [step_of(path) for path in checkpoints_in(tmp_path / "new" / "checkpoints")] == [5, 6]
    assert contents(whole) == before
    used = stopped(whole, tmp_path / "used", 3)
    assert "holds another run already" in refused("train", "--resume", checkpoint, f"output={used}")


def test_going_back_gives_the_later_checkpoints_up(whole: Path, tmp_path: Path) -> None:
    """Pruning by number alone would delete the checkpoint just written and keep those that were given up."""
    folder = stopped(whole, tmp_path / "run", 6)
    done("train", "--resume", folder / "checkpoints" / "step_00000002.ckpt", "train.keep_checkpoints=2")
    assert [step_of(path) for path in checkpoints_in(folder / "checkpoints")] == [5, 6]
    back = stopped(whole, tmp_path / "back", 6)
    for path in checkpoints_in(back / "checkpoints"):
        if step_of(path) == 3:
            path.unlink()
    state = load_checkpoint(back / "checkpoints" / "step_00000002.ckpt")
    assert state["config"]["train"]["keep_checkpoints"] == 9
    before = checkpoints_in(back / "checkpoints")[-1].stat().st_mtime_ns
    done("train", "--resume", back / "checkpoints" / "step_00000002.ckpt")
    after = {step_of(path): path.stat().st_mtime_ns for path in checkpoints_in(back / "checkpoints")}
    assert list(after) == [1, 2, 3, 4, 5, 6]
    assert all(after[step] > before for step in (3, 4, 5, 6))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lr=1e-4", "train.lr is 0.0001, and "),
        ("train.batch_size=3", "train.batch_size is 3, and "),
        ("optimizer.mu=[0, 0.5]", "optimizer.mu is [0.0, 0.5], and "),
        ("data.seed=4", "data.seed is 4, and "),
        ("optimizer.strength=3", "command line: optimizer.strength has no effect: it needs optimizer.prior"),
    ],
)
def test_a_changed_setting_is_named(whole: Path, tmp_path: Path, override: str, said: str) -> None:
    folder = stopped(whole, tmp_path / "run", 5)
    before = contents(folder)
    found = refused("train", "--resume", folder, override)
    assert found.startswith(said)
    assert contents(folder) == before


def test_a_configuration_file_that_differs_is_named(whole: Path, tmp_path: Path) -> None:
    folder = stopped(whole, tmp_path / "run", 5)
    found = refused("train", "--resume", folder, "--config", "tiny_rgbt")
    assert "is tiny_rgb" not in found  # a place may have moved
    assert "data.sequences is 24, and " in found
    assert "was made with 2" in found


@pytest.mark.parametrize(
    "override",
    ["train.workers=1", "train.log_every=3", "train.keep_checkpoints=1", "train.activation_checkpointing=true",
     "validation.every=2 validation.sequences=1 validation.length=3"],
)  # fmt: skip
def test_harmless_settings_may_change_and_leave_the_bits(whole: Path, tmp_path: Path, override: str) -> None:
    folder = stopped(whole, tmp_path / "run", 4)
    done("train", "--resume", folder, *override.split())
    one, other = (load_network(run / "network.safetensors")[0] for run in (whole, folder))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_settings_that_round_otherwise_may_change_with_a_notice(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = stopped(whole, tmp_path / "run", 5)
    done("train", "--resume", folder, "train.accumulate=2")
    assert "train.accumulate was 1 and is 2: the run goes on, to weights that differ by rounding" in caplog.text


def test_a_run_of_another_command_is_named(whole: Path) -> None:
    assert f"go on with `rgbx train --resume {whole}`" in refused("pretrain", "--resume", whole)


def test_a_checkpoint_from_before_carries_its_configuration_as_well(whole: Path, tmp_path: Path) -> None:
    """It has no command line and no command. Beside files it has the generator's modality, whatever the files hold."""
    state = load_checkpoint(whole / "checkpoints" / "step_00000005.ckpt")
    for key in ("command", "invocation", "threads", "format", "version"):
        del state[key]
    state["config"]["data"] |= {"source": "folder", "root": "/data", "modality": "thermal", "depth_style": "grey"}
    save_checkpoint(tmp_path / "checkpoints" / "step_00000005.ckpt", state)
    config, started_by = resumed_config(tmp_path, "train", None, [])
    assert (config.data.modality, config.data.depth_style, started_by) == (None, "gray", "")
    assert config.output == tmp_path


def test_places_may_move_and_nothing_else_of_a_data_set() -> None:
    one = {"data": {"root": "/a", "sets": [{"root": "/a", "ratio": 1.0}]}}
    moved = {"data": {"root": "/b", "sets": [{"root": "/b", "ratio": 1.0}]}}
    other = {"data": {"root": "/a", "sets": [{"root": "/a", "ratio": 2.0}]}}
    assert [key for key, _, _ in differences(one, moved)] == ["data.root"]
    assert [key for key, _, _ in differences(one, other)] == ["data.sets"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(rgb: Path, tmp_path: Path, value: float) -> None:
    network, _, _ = load_network(rgb)
    with torch.no_grad():
        network.head.score[0].conv.weight[0, 0] = value
    broken = tmp_path / "broken.safetensors"
    save_network(broken, network)
    name = "head.score.0.conv.weight"
    for arguments in (
        ("train", *SETTINGS, f"init={broken}", f"output={tmp_path / 'a'}"),
        ("pretrain", f"init={broken}", f"output={tmp_path / 'b'}"),
        ("prior", broken, "--out", tmp_path / "c.significance.safetensors"),
    ):
        assert refused(*arguments).startswith(f"{broken} has 9 values in {name} that are NaN or infinite; ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.safetensors"]
