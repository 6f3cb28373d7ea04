"""Twenty steps, and checkpoints, have the bits that the library gave before it was rearranged."""

from __future__ import annotations

import json
import platform
from typing import Any

import pytest
import torch

from srft_kernels.ops.native import library
from tests.srft_kernels.recorded_steps import CHECKPOINTS, DIGESTS, SAVED_AT, STEPS, Run, cases, chosen_checkpoints

pytestmark = [
    pytest.mark.skipif(not library.available, reason=library.reason or "the library is there"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the recording is of an x86-64 build"),
]
RECORDED: dict[str, str] = json.loads(DIGESTS.read_text())
CASES = dict(cases())


def test_every_case_was_recorded() -> None:
    assert CASES.keys() == RECORDED.keys()


@pytest.mark.parametrize("name", CASES)
def test_steps_have_the_recorded_bits(name: str) -> None:
    run = Run(CASES[name])
    for index in range(STEPS):
        run.step(index)
    assert run.digest() == RECORDED[name]


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Any]:
    """Return the state dicts after ten steps, as they were saved before the change."""
    found: dict[str, Any] = torch.load(CHECKPOINTS, weights_only=True)
    return found


@pytest.mark.parametrize("name", chosen_checkpoints())
def test_an_old_checkpoint_goes_on_to_the_recorded_bits(name: str, checkpoints: dict[str, Any]) -> None:
    run = Run(CASES[name])
    with torch.no_grad():
        for key, weights in checkpoints[name]["weights"].items():
            run.params[key].copy_(weights)
    run.optimizer.load_state_dict(checkpoints[name]["optimizer"])
    for index in range(SAVED_AT, STEPS):
        run.step(index)
    assert run.digest() == RECORDED[name]
