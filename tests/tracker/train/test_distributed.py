"""Several processes make the same run as one, up to rounding; what they must agree on, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tracker.config import RunConfig, load_config
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import preset
from tracker.models.tracker import build_network
from tracker.train import finetune
from tracker.train.checkpoint import load_checkpoint
from tracker.train.distributed import Processes, chosen_device, processes
from tracker.train.start import two_stream_start
from tracker.train.trainer import Interrupted, Remaining, Trainer

# With a head of 8 channels, some draws of its first weights let no gradient through.
SMALL = preset(
    "tiny", kind="single_stream", embed_dim=32, depth=2, num_heads=2, template_size=32, search_size=64,
    head_channels=16, cross_layers=(0, 1),
)  # fmt: skip
SETTINGS = (
    "data.sequences=2", "data.length=20", "data.width=96", "data.height=72", "train.epochs=1",
    "train.samples_per_epoch=24", "train.batch_size=4", "train.log_every=1", "train.lr=1e-3", "train.device=cpu",
    "optimizer.name=srft", "optimizer.damping=rank", "train.checkpoint_every=2", "train.keep_checkpoints=5",
    "train.crops=device", "train.accumulate=2",
    # At the target's cell the loss is continuous in the weights, so that rounding stays rounding.
    "loss.cell=target",
)  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "network.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of all weights."""
    return float(torch.cat([(one[name].double() - other[name].double()).flatten() for name in one]).norm())


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("rgb") / "rgb.safetensors"
    save_network(path, build_network(SMALL))
    return path


def torchrun(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Return the command line in ``count`` processes of one thread, as a user starts it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [*launcher, "-m", "tracker", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_processes_are_one_run_whoever_resumes_it(rgb: Path, tmp_path: Path) -> None:
    """The six steps are taken in one process, in two, and the first two in two processes and the rest in one."""
    alone, together, mixed = (tmp_path / name for name in ("alone", "together", "mixed"))
    config = load_config(RunConfig, None, [*SETTINGS, f"init={rgb}", f"output={alone}"])
    _, history = finetune.fine_tune(config)
    done = torchrun(2, "train", "--config", "tiny_rgbt", *SETTINGS, "train.schedule=cosine", "train.warmup_steps=0",
                    "train.lr_scale.head=1", "train.lr_scale.positions=1", "train.clip_grad_norm=0.1",
                    "validation.every=0", f"init={rgb}", f"output={together}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("6/6") == 1  # one bar, not two
    assert done.stdout.count("wrote ") == 1
    assert "Warning" not in done.stderr

    start = two_stream_start(config)[0].state_dict()
    one, two = weights(alone), weights(together)
    moved = distance(start, one)
    assert moved > 0.1
    # Adam makes whole steps out of gradients that are zero but for rounding (biases of keys): these come to 1e-4 of the
    # way. Other batches come to three times the way.
    assert distance(one, two) < 1e-3 * moved

    saved = load_checkpoint(together / "checkpoints" / "step_00000002.ckpt")
    assert len(saved["rng_of_other_processes"]) == 1
    assert not torch.equal(saved["rng_of_other_processes"][0]["torch"], saved["rng"]["torch"])
    resumed = config.model_copy(update={"output": mixed})
    _, rest = finetune.fine_tune(resumed, together / "checkpoints" / "step_00000002.ckpt")
    assert [record.step for record in rest] == [3, 4, 5, 6]
    assert distance(one, weights(mixed)) < 1e-3 * moved
    for early, late in zip(history[2:], rest, strict=True):
        assert early.scalars["loss/total"] == pytest.approx(late.scalars["loss/total"], rel=1e-4)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("command", ["--version", "no-such-command"])
def test_one_process_of_several_leaves_without_ending_the_interpreter(count: int, command: str) -> None:
    """A thread of gloo that wants the interpreter's lock at its end would abort the process, after its work."""
    script = (
        "import atexit, runpy, sys\n"
        "class Last:\n"
        "    def __del__(self, out=sys.__stderr__): print('interpreter', file=out, flush=True)\n"
        "sys.last_of_all = Last()\n"
        "atexit.register(print, 'exit functions')\n"
        f"sys.argv = ['rgbx', {command!r}]\n"
        "runpy.run_module('tracker', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WORLD_SIZE": str(count), "RANK": "0"},
    )
    assert done.returncode == (0 if command == "--version" else 2), done.stderr
    assert done.stdout.endswith("exit functions\n")
    assert ("interpreter" in done.stderr) == (count == 1 or command != "--version")


def test_processes_draw_one_processs_batches() -> None:
    """They do so rank by rank and batch by batch, also where an epoch is resumed in its middle."""
    one = Remaining(6, Processes())
    ranks = [Remaining(6, Processes(rank, 3)) for rank in range(3)]
    for first in (0, 12):
        for sampler in (one, *ranks):
            sampler.first, sampler.end = first, 24
        assert list(one) == list(range(first, 24))
        drawn = [list(sampler) for sampler in ranks]
        assert [len(sampler) for sampler in ranks] == [len(part) for part in drawn] == [(24 - first) // 3] * 3
        for batch in range((24 - first) // 6):
            together = [index for part in drawn for index in part[2 * batch : 2 * batch + 2]]
            assert together == list(range(first + 6 * batch, first + 6 * batch + 6))


class OtherIsAsked(Processes):
    """Imitates two processes, of which the other was sent a signal."""

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        return values.maximum(torch.tensor([0.0, 0.0, 1.0]))


class OtherIsBroken(Processes):
    """Imitates two processes, of which the other has a loss that is not finite."""

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        return values.maximum(torch.tensor([1.0, 0.0, 0.0]))


def trainer(group: Processes, *overrides: str) -> Trainer:
    config = load_config(RunConfig, None, [*SETTINGS, "train.accumulate=1", *overrides])
    torch.manual_seed(0)
    network = initialize_two_stream(build_network(SMALL))
    made = finetune.fine_tuner(config, network, group=group)
    made.folder = None
    return made


def test_a_signal_to_one_stops_all_after_the_same_step() -> None:
    stopped = trainer(OtherIsAsked())
    with pytest.raises(Interrupted, match="stopped after step 1"):
        stopped.run()


def test_a_loss_that_is_not_finite_in_one_is_refused_by_all() -> None:
    refused = trainer(OtherIsBroken())
    before = {name: value.clone() for name, value in refused.network.state_dict().items()}
    with pytest.raises(RGBXError, match=r"loss is not finite .* at step 1"):
        refused.run()
    assert all(torch.equal(value, before[name]) for name, value in refused.network.state_dict().items())


@pytest.mark.parametrize(
    ("group", "overrides", "sentence"),
    [
        (Processes(0, 3), (), "batch_size 4 cannot be shared by 3 processes"),
        (Processes(0, 2), ("train.accumulate=4",), "2 samples do not divide into 4 equal parts"),
        (Processes(0, 2), ("train.batchnorm=train",), "statistics of its own part of the batch"),
    ],
)
def test_what_cannot_be_shared_is_refused(group: Processes, overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(RGBXError, match=sentence):
        trainer(group, *overrides)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cpu") as group:
        assert (group.rank, group.count, group.first) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert group.gathered("mine") == ["mine"]
    if not torch.cuda.is_available():
        assert chosen_device("auto") == torch.device("cpu")
        with pytest.raises(RGBXError, match="torch sees no CUDA device here"):
            chosen_device("cuda")


def test_validation_is_shared_and_every_process_gets_all_of_it(rgb: Path) -> None:
    """Two processes run one after the other, and each gathers what both tracked."""
    from tracker.train.validate import validation

    config = load_config(
        RunConfig, None, [*SETTINGS, "validation.every=1", "validation.sequences=3", "validation.length=4"]
    )
    network, _, _ = load_network(rgb)
    alone = validation(config, network)
    assert alone is not None
    parts: list[Any] = []

    class Recorded(Processes):
        def gathered(self, value: Any) -> list[Any]:
            parts.append(value)
            return parts

    second, first = (validation(config, network, Recorded(rank, 2)) for rank in (1, 0))
    assert first is not None
    assert second is not None
    with pytest.raises(RGBXError, match="have no result"):
        second(1)  # nobody has tracked the others' yet
    assert first(1) == pytest.approx(alone(1), abs=1e-6)
    assert [len(part) for part in parts] == [1, 2]
