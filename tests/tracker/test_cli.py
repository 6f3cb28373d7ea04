"""Every command runs from end to end on tiny settings, and refuses bad input in one sentence with exit status 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from srft_kernels import SignificanceMap
from tests.tracker.disk import full_disk, no_room
from tracker.cli import cli
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network

SMALL = (
    "network.embed_dim=32",
    "network.depth=2",
    "network.num_heads=2",
    "network.template_size=32",
    "network.search_size=64",
    "network.head_channels=8",
    "network.cross_layers=[0, 1]",
)
DATA = ("data.sequences=2", "data.length=20", "data.width=96", "data.height=72")
TRAIN = ("train.epochs=1", "train.samples_per_epoch=8", "train.batch_size=4", "train.warmup_steps=0", "train.workers=0")
QUIET = ("validation.every=0",)


def rgbx(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def succeeds(*arguments: object) -> str:
    result = rgbx(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*arguments: object) -> str:
    """Return the standard error of a command that has to exit with 2 and one sentence."""
    result = rgbx(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("rgbx: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("rgbx: error: ")


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an RGB tracker after two steps of `rgbx pretrain`."""
    folder = tmp_path_factory.mktemp("rgb")
    weights = folder / "small_rgb.safetensors"
    out = succeeds(
        "pretrain", *SMALL, *DATA, *TRAIN, "validation.sequences=2", "validation.length=4", "validation.every=1",
        f"output={folder / 'run'}", "--weights", weights,
    )  # fmt: skip
    assert str(folder / "run" / "network.safetensors") in out
    assert list((folder / "run" / "tensorboard").iterdir())
    return weights


@pytest.fixture(scope="module")
def lasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two thermal sequences in LasHeR's layout, by `rgbx data generate`."""
    root = tmp_path_factory.mktemp("lasher") / "set"
    out = succeeds("data", "generate", root, "--count", 2, "--length", 22, "--size", "96x72")
    assert "wrote 2 sequences" in out
    return root


@pytest.fixture(scope="module")
def prior(rgb: Path) -> Path:
    path = rgb.parent / "small.significance.safetensors"
    out = succeeds("prior", rgb, *DATA, "prior.samples=6", "prior.batch_size=4", "--out", path)
    assert "6 samples" in out
    return path


def test_pretraining_starts_from_the_checkpoint_that_is_named(rgb: Path, tmp_path: Path) -> None:
    """The learning rate is too small to move any weight but a zero, so what comes out is what went in."""
    small = [*DATA, *TRAIN, "train.lr=1e-30", "train.weight_decay=0"]
    succeeds("pretrain", *small, f"init={rgb}", f"output={tmp_path / 'again'}")
    before, _, _ = load_network(rgb)
    after, _, meta = load_network(tmp_path / "again" / "network.safetensors")
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(dict(after.named_parameters())[name], parameter, rtol=0, atol=1e-25)
    assert meta["started_from"]["command"].startswith("rgbx ")


def test_pretrained_weights_say_how_they_were_made(rgb: Path) -> None:
    network, config, meta = load_network(rgb)
    assert config.kind == "single_stream"
    assert (meta["seed"], meta["samples"], meta["steps"]) == (0, 8, 2)
    assert meta["command"].startswith(f"rgbx --threads {torch.get_num_threads()} pretrain --config tiny_pretrain")
    assert "network.embed_dim=32" in meta["command"]
    exact, _, _ = load_network(rgb.parent / "run" / "network.safetensors")
    for (name, stored), (_, trained) in zip(network.named_parameters(), exact.named_parameters(), strict=True):
        assert torch.equal(stored, trained.half().float()), name


def test_prior_holds_every_parameter(rgb: Path, prior: Path) -> None:
    network, _, _ = load_network(rgb)
    assert SignificanceMap.load(prior).check(network) == []


@pytest.mark.parametrize("name", ["adamw", "srft"])
def test_train_on_generated_sequences_and_resume(rgb: Path, prior: Path, tmp_path: Path, name: str) -> None:
    arguments = [*DATA, *TRAIN, *QUIET, f"init={rgb}", f"optimizer.name={name}", f"output={tmp_path}"]
    if name == "srft":
        arguments.append(f"optimizer.prior={prior}")
    succeeds("train", *arguments)
    network, config, _ = load_network(tmp_path / "network.safetensors")
    assert config.kind == "two_stream"
    start, _, _ = load_network(rgb)
    moved = (network.rgb.blocks[0].attn.qkv.weight - start.rgb.blocks[0].attn.qkv.weight).abs().max()
    assert moved > 0
    assert torch.equal(network.head.score[-1].weight, start.head.score[-1].weight)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {"step_00000002.ckpt"}
    before = (tmp_path / "network.safetensors").read_bytes()
    succeeds("train", *arguments, "--resume", tmp_path)
    assert load_network(tmp_path / "network.safetensors")[2]["steps"] == 2
    assert (tmp_path / "network.safetensors").read_bytes() == before


def test_train_on_a_folder(rgb: Path, lasher: Path, tmp_path: Path) -> None:
    folder = ("data.source=folder", f"data.root={lasher}", "data.split=train")
    succeeds("train", *folder, *TRAIN, *QUIET, f"init={rgb}", f"output={tmp_path}")
    assert (tmp_path / "network.safetensors").is_file()


def test_eval_on_a_folder_and_on_generated_sequences(rgb: Path, lasher: Path, tmp_path: Path) -> None:
    out = succeeds("eval", rgb, "--data", lasher, "--out", tmp_path)
    assert "small_rgb" in out
    assert {"report.md", "report.json", "success.png", "precision.png"} <= {p.name for p in tmp_path.iterdir()}
    report = json.loads((tmp_path / "report.json").read_text())
    scores = succeeds("eval", "--data", lasher, "--results", tmp_path / "results" / "small_rgb")
    assert f"{100 * report[0]['scores']['SR']:.1f}" in scores
    assert "small_rgb" in succeeds("eval", rgb, "--count", 1, "--length", 4)


def test_track_a_folder(rgb: Path, lasher: Path, tmp_path: Path) -> None:
    sequence = sorted(path for path in lasher.iterdir() if path.is_dir())[0]
    succeeds("track", rgb, sequence, "--out", tmp_path / "a")
    boxes = np.loadtxt(tmp_path / "a" / f"{sequence.name}.txt", delimiter=",")
    assert boxes.shape == (22, 4)
    assert (tmp_path / "a" / "overlay.gif").stat().st_size > 0
    first = np.loadtxt(sequence / "visible.txt", delimiter=",")[0]
    assert boxes[0] == pytest.approx(first)
    succeeds("track", rgb, sequence, "--init-box", "10,12,20,16", "--out", tmp_path / "b", "--overlay", "none")
    other = np.loadtxt(tmp_path / "b" / f"{sequence.name}.txt", delimiter=",")
    assert other[0] == pytest.approx([11, 13, 20, 16])  # LasHeR's files count pixels from 1
    assert not (tmp_path / "b" / "overlay.gif").exists()


def test_the_demonstration_refuses_a_learning_rate_that_it_would_ignore(tmp_path: Path) -> None:
    from tracker.demo import run_demo

    with pytest.raises(RGBXError, match=r"train\.lr has no effect here"):
        run_demo(tmp_path / "demo", overrides=["train.lr=1e-3"])
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("task", "new", "old"), [("depth", "depth", "RGB"), ("thermal", "RGB-thermal", "RGB, X blank")]
)
def test_demo_quick(rgb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, new: str, old: str) -> None:
    from tracker import demo

    monkeypatch.setattr(demo, "find_weights", lambda path: rgb)
    result = rgbx("demo", "--quick", "--task", task, "--seeds", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "SRFT(AdamW)" in result.stdout
    assert "[11/11" in result.stderr
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {f"{curve}_{one}.png" for curve in ("success", "precision") for one in ("new", "rgb")}
    weights = {f"seed{seed}/{name}.safetensors" for seed in (0, 1) for name in ("adamw", "srft")}
    assert pictures | weights | {"table.md", "table.json", "overlay.gif", "rgb.significance.safetensors"} <= written
    trackers = json.loads((tmp_path / "table.json").read_text())["trackers"]
    assert len(trackers["SRFT(AdamW)"][new]["SR"]) == len(trackers["SRFT(AdamW)"][old]["SR"]) == 2
    assert len(trackers["RGB tracker"][new]["SR"]) == 1
    kind = load_network(tmp_path / "seed0" / "srft.safetensors")[0].config.kind
    assert kind == ("single_stream" if task == "depth" else "two_stream")


def test_data_check(lasher: Path, tmp_path: Path) -> None:
    assert "2 of 2 sequences" in succeeds("data", "check", lasher)
    copy = tmp_path / "copy"
    shutil.copytree(lasher, copy)
    frame = sorted(copy.glob("*/infrared/*"))[3]
    frame.write_bytes(frame.read_bytes()[:50])
    result = rgbx("data", "check", copy)
    assert result.exit_code == 1
    assert frame.name in result.stdout


def test_show_config_round_trips(tmp_path: Path) -> None:
    shown = succeeds("train", "train.lr=2e-4", "--show-config")
    (tmp_path / "mine.yaml").write_text(shown)
    assert succeeds("train", "--config", tmp_path / "mine.yaml", "--show-config") == shown
    assert "lr: 0.0002" in shown


def test_bad_configuration() -> None:
    assert refused("train", "train.batchsize=3").endswith("unknown key train.batchsize; did you mean train.batch_size?")
    assert "nowhere.yaml does not exist" in refused("train", "--config", "nowhere.yaml")
    assert "preset 'huge' is unknown" in refused("pretrain", "network.preset=huge")


def test_missing_files(rgb: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert "gone does not exist" in refused("train", f"init={gone}")
    assert "init is not set" in refused("train", "init=null")
    assert "not a folder" in refused("train", f"init={rgb}", "data.source=folder", f"data.root={gone}")
    assert "no checkpoint in" in refused("train", *DATA, *TRAIN, *QUIET, f"init={rgb}", "--resume", gone)
    assert "gone does not exist" in refused("prior", gone, "--out", tmp_path / "x")
    assert "gone does not exist" in refused("eval", gone)
    assert "there is no folder" in refused("track", rgb, gone, "--out", tmp_path / "out")
    srft = ("optimizer.name=srft", f"optimizer.prior={gone}")
    assert "significance map" in refused("train", *DATA, *TRAIN, f"init={rgb}", *srft)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files(rgb: Path, prior: Path, tmp_path: Path, share: float) -> None:
    for source in (rgb, prior):
        data = source.read_bytes()
        (tmp_path / source.name).write_bytes(data[: int(share * len(data))])
    weights, significance = tmp_path / rgb.name, tmp_path / prior.name
    assert rgb.name in refused("eval", weights)
    assert rgb.name in refused("train", f"init={weights}")
    srft = ("optimizer.name=srft", f"optimizer.prior={significance}")
    assert prior.name in refused("train", *DATA, *TRAIN, f"init={rgb}", *srft)
    cut = tmp_path / "step_00000001.ckpt"
    torch.save({"format": "rgbx-training-checkpoint", "w": torch.zeros(100)}, cut)
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    said = refused("train", *DATA, *TRAIN, *QUIET, f"init={rgb}", f"output={tmp_path}", "--resume", cut)
    assert "truncated or is not a training checkpoint" in said


def test_map_of_another_network(rgb: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.significance.safetensors"
    SignificanceMap({"some.weight": torch.ones(3)}).save(path)
    srft = ("optimizer.name=srft", f"optimizer.prior={path}")
    assert "some.weight" in refused("train", *DATA, *TRAIN, f"init={rgb}", *srft)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("1,2,3", "is not a box"),
        ("a,b,c,d", "is not a box"),
        ("nan,1,5,5", "finite"),
        ("10,10,0,5", "no area"),
        ("500,500,20,20", "outside the 96x72 image"),
    ],
)
def test_bad_first_box(rgb: Path, lasher: Path, tmp_path: Path, box: str, said: str) -> None:
    sequence = sorted(path for path in lasher.iterdir() if path.is_dir())[0]
    assert said in refused("track", rgb, sequence, "--init-box", box, "--out", tmp_path)


def test_full_disk(rgb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full_disk(monkeypatch)
    said = refused("train", *DATA, *TRAIN, *QUIET, f"init={rgb}", f"output={tmp_path}")
    assert said.startswith(f"disk full while writing {tmp_path}/checkpoints/step_00000002.ckpt")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_full_disk_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tracker.data.layouts.write_dataset", no_room)
    assert refused("data", "generate", tmp_path / "set").startswith(f"disk full while writing {tmp_path / 'set'}")


def test_debug_shows_where(rgb: Path) -> None:
    result = rgbx("--debug", "train", "init=gone")
    assert isinstance(result.exception, ValueError)
    assert not isinstance(result.exception, SystemExit)


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tracker.data.check.check_dataset", broken)
    assert isinstance(rgbx("data", "check", tmp_path).exception, ZeroDivisionError)


def test_usage_errors_and_help() -> None:
    assert rgbx("train", "--nonsense").exit_code == 2
    assert rgbx("data", "generate", "x", "--size", "big").exit_code == 2
    assert rgbx("nothing").exit_code == 2
    for command in ("pretrain", "prior", "train", "eval", "track", "demo", "data"):
        assert succeeds(command, "--help")
    assert "nothing to evaluate" in refused("eval")


def test_as_a_process() -> None:
    """The exit status and the streams are those that a shell sees."""
    done = subprocess.run(
        [sys.executable, "-m", "tracker.cli", "train", "train.lr=fast"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rgbx: error: command line: train.lr: input should be a valid number")
    assert len(done.stderr.splitlines()) == 1
