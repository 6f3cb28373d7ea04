"""``rgbx track`` and ``rgbx export`` from end to end, and the commands of docs/running.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.paths import REPOSITORY
from tests.tracker.inference.cases import moving
from tracker.cli import cli
from tracker.data.layouts import write_sequence
from tracker.models.checkpoints import save_network
from tracker.models.config import tiny
from tracker.models.tracker import build_network

RUNNING = REPOSITORY / "docs" / "running.md"


def rgbx(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ``net.safetensors``, a data set ``lasher`` of three sequences, ``rgb.avi`` and ``x.avi``."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    shape = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_channels": 8, "template_size": 32, "search_size": 64}
    network = build_network(tiny(**shape))
    save_network(folder / "net.safetensors", network, network.config, {"inference": {"search_factor": 4.0}})
    for k in range(3):
        write_sequence(moving(f"s{k}", 6 + k, phase=k), folder / "lasher", "lasher")
    for name in ("rgb", "x"):
        writer = cv2.VideoWriter(str(folder / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (200, 150))
        for index in range(6):
            writer.write(moving("s", 6).frame(index)[:, :, :3])
        writer.release()
    return folder


def test_a_folder_with_dropped_x(folder: Path, tmp_path: Path) -> None:
    out = rgbx(
        "track", folder / "net.safetensors", folder / "lasher" / "s0", "--out", tmp_path, "--drop-x", "2-3",
        "--missing", "hold", "--search-growth", 1.2, "--template-update", 2, "--device", "cpu", "--precision", "bf16",
    )  # fmt: skip
    assert "frames per second; latency in ms: p50" in out
    assert json.loads((tmp_path / "speed.json").read_text())["frames"] == 6
    assert len(np.loadtxt(tmp_path / "s0_lost.txt")) == 6
    assert any(line.startswith("net ") for line in out.splitlines())  # the table calls the tracker by its checkpoint


def test_videos(folder: Path, tmp_path: Path) -> None:
    arguments = ("track", folder / "net.safetensors", "--rgb", folder / "rgb.avi", "--out", tmp_path)
    out = rgbx(*arguments, "--x", folder / "x.avi", "--init-box", "120,60,30,20", "--frames", 4)
    assert "paired by index" in out
    assert "wrote 4 boxes" in out
    assert (tmp_path / "overlay.mp4").stat().st_size > 1000
    assert len(np.loadtxt(tmp_path / "rgb.txt", delimiter=",")) == 4
    rgbx(*arguments, "--init-box", "120,60,30,20", "--overlay", "none")
    assert len(np.loadtxt(tmp_path / "rgb.txt", delimiter=",")) == 6


def test_a_data_set_in_shards(folder: Path, tmp_path: Path) -> None:
    arguments = ("track", folder / "net.safetensors", folder / "lasher", "--all", "--batch", 2, "--out", tmp_path)
    assert "results of 2 sequences" in rgbx(*arguments, "--shard", "0/2")
    assert sorted(p.name for p in tmp_path.glob("s?.txt")) == ["s0.txt", "s2.txt"]
    assert "results of 1 sequences" in rgbx(*arguments, "--shard", "1/2")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["speed"]["frames"] == 7
    assert set(run["speed"]["latency_ms"]) == {"p50", "p90", "p99"}
    # All three are there: nothing is tracked again, and what the last one took is still told.
    rgbx(*arguments)
    assert json.loads((tmp_path / "run.json").read_text()) == run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["FOLDER", "--rgb", "a.mp4"], "either a folder of frames, or --rgb"),
        ([], "either a folder of frames, or --rgb"),
        (["FOLDER", "--x", "a.mp4"], "other half of --rgb"),
        (["--rgb", "a.mp4", "--all"], "--all tracks the data set in a folder"),
        (["--rgb", "none.mp4"], "none.mp4 does not exist"),
        (["--rgb", "VIDEO", "--overlay", "gif"], "as mp4"),
        (["FOLDER", "--drop-x", "x"], "names no frames"),
        (["FOLDER", "--all", "--shard", "4/4"], "--shard"),
        (["FOLDER", "--all", "--drop-x", "1"], "are for one sequence"),
        (["FOLDER", "--device", "toaster"], "device 'toaster' is unknown"),
        (["FOLDER", "--engine", "graph", "--device", "cpu"], "needs the network on a GPU"),
        (["FOLDER", "--lost-below", "0.9"], "found_above"),
        (["FOLDER", "--batch", "8"], "--batch has no effect for one folder of frames"),
        (["FOLDER", "--split", "test"], "--split has no effect for one folder"),
        (["FOLDER", "--overwrite"], "--overwrite has no effect for one folder"),
        (["FOLDER", "--frames", "9"], "--frames has no effect for a folder of frames; it is for videos"),
        (["FOLDER", "--all", "--overlay", "gif"], "--overlay has no effect for a data set; --page"),
        (["FOLDER", "--all", "--pairing", "auto"], "--pairing has no effect for a data set"),
        (["--rgb", "VIDEO", "--layout", "lasher"], "--layout has no effect for videos and cameras"),
        (["--rgb", "VIDEO", "--depth-style", "jet"], "--depth-style has no effect for videos"),
        (["--rgb", "VIDEO", "--modality", "depth"], "--modality has no effect without --x"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    folder: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    names = {"FOLDER": str(folder / "lasher"), "VIDEO": str(folder / "rgb.avi")}
    out = tmp_path / "out"
    message = refused("track", folder / "net.safetensors", *[names.get(a, a) for a in arguments], "--out", out)
    assert sentence in message
    assert not out.exists()


@pytest.mark.slow
def test_export_and_track_with_the_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    assert "net.onnx" in rgbx("export", "onnx", folder / "net.safetensors", "--out", path, "--no-simplify")
    boxes = {}
    for checkpoint in (path, folder / "net.safetensors"):
        out = tmp_path / checkpoint.suffix[1:]
        rgbx("track", checkpoint, folder / "lasher", "--all", "--out", out, "--device", "cpu")
        boxes[checkpoint.suffix] = np.loadtxt(out / "s0.txt", delimiter=",")
    np.testing.assert_allclose(boxes[".onnx"], boxes[".safetensors"], atol=0.01)
    message = refused("track", path, folder / "lasher", "--out", tmp_path / "c", "--engine", "compiled")
    assert "leave out --engine" in message


def test_every_option_of_the_page_exists() -> None:
    text = RUNNING.read_text(encoding="utf-8")
    commands = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    commands = [command for command in commands if command.startswith("rgbx ")]
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command.partition("#")[0])[1:]
        parsed = cli.commands[words[0]]
        rest = words[1:]
        while hasattr(parsed, "commands"):
            parsed, rest = parsed.commands[rest[0]], rest[1:]
        # Click itself reads the line; a value that its option does not take is an error too.
        parsed.make_context(words[0], list(rest), resilient_parsing=False)
    documented = set(re.findall(r"--[a-z][a-z-]*", text))
    for name in ("track", "export"):
        command = cli.commands[name]
        subcommands = getattr(command, "commands", {}).values()
        parameters = [p for c in (command, *subcommands) for p in c.params]
        options = {o for p in parameters for o in (*p.opts, *p.secondary_opts) if o.startswith("--")}
        missing = options - documented - {"--out", "--layout", "--help", "--show", "--page"}
        assert not missing, missing
