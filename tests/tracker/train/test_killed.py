"""A run that is killed at any moment goes on from a whole checkpoint, to the bits of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.tracker.train.small_run import SMALL, run_config, trainer_of
from tracker.config import RunConfig
from tracker.data.dataset import PairDataset
from tracker.train.checkpoint import checkpoints_in, load_checkpoint
from tracker.train.configured_data import generated_sequences, pair_settings

KILLS = int(os.environ.get("RGBX_KILLS", "10"))
"""How often the run is killed. Continuous integration does a part; ``RGBX_KILLS=200`` does the whole."""


def config_of_run() -> RunConfig:
    """Ten steps with a checkpoint after each, so that many kills fall into the writing of one."""
    return run_config(
        "optimizer.name=srft",
        "optimizer.damping=rank",
        "optimizer.strength=3",
        "train.checkpoint_every=1",
        "train.keep_checkpoints=2",
    )


def start(folder: Path, pairs: PairDataset) -> int:
    """Return a process that goes on with the run in ``folder`` from its newest checkpoint, or begins it; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        trainer = trainer_of(config_of_run(), pairs, folder)
        if checkpoints_in(folder / "checkpoints"):
            trainer.resume(folder)
        trainer.run()
        status = 0
    finally:
        os._exit(status)
    raise AssertionError("unreachable")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_a_run_killed_at_random_moments_ends_on_the_same_bits(tmp_path: Path) -> None:
    config = config_of_run()
    pairs = PairDataset(generated_sequences(config.data), pair_settings(config.pairs, SMALL), 18, seed=3)
    began = time.monotonic()
    assert os.waitpid(start(tmp_path / "whole", pairs), 0)[1] == 0
    seconds = time.monotonic() - began
    wanted = load_checkpoint(checkpoints_in(tmp_path / "whole" / "checkpoints")[-1])

    draw = random.Random(0)
    killed = rounds = 0
    while killed < KILLS:
        folder = tmp_path / f"killed-{rounds}"
        rounds += 1
        while True:
            child = start(folder, pairs)
            if killed < KILLS:
                time.sleep(draw.uniform(0.0, seconds))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            for checkpoint in checkpoints_in(folder / "checkpoints"):
                load_checkpoint(checkpoint)  # each of them is whole, whenever the run was killed
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            killed += 1
        found = load_checkpoint(checkpoints_in(folder / "checkpoints")[-1])
        assert found["step"] == wanted["step"]
        for name, weights in wanted["network"].items():
            assert torch.equal(weights, found["network"][name]), f"{name} after {killed} kills"
    assert killed == KILLS
