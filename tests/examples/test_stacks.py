"""Every training stack of the examples takes the steps of a plain loop, to the bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.examples.plain_loop import train_plainly
from tests.paths import REPOSITORY

Example = Callable[[str], ModuleType]


def assert_same_weights(found: nn.Module, wanted: nn.Module) -> None:
    state = found.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    for name, weights in wanted.state_dict().items():
        torch.testing.assert_close(state[name], weights, rtol=0, atol=0, msg=name)


def test_srft_keeps_the_old_task_that_plain_training_forgets(example: Example) -> None:
    small_task = example("small_task")
    task = small_task.make_task()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    for batch in task.batches():
        optimizer.zero_grad()
        small_task.sample_loss(task.model, batch).mean().backward()
        optimizer.step()
    held = train_plainly(small_task, clip=None)
    assert small_task.accuracy(held, task.new) > 0.9
    assert small_task.accuracy(held, task.old) > small_task.accuracy(task.model, task.old) + 0.1


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_plain_torch(example: Example, compiled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    model = example("plain_torch").train(compiled=compiled)
    assert all(p.isfinite().all() for p in model.parameters())
    assert "plain torch: new task" in capsys.readouterr().out


def test_accelerate_takes_the_steps_of_a_plain_loop(example: Example) -> None:
    pytest.importorskip("accelerate")
    assert_same_weights(example("accelerate_loop").train(), train_plainly(example("small_task"), accumulated=2))


def test_lightning_takes_the_steps_of_a_plain_loop(example: Example) -> None:
    pytest.importorskip("lightning")
    assert_same_weights(example("lightning_module").train("32-true"), train_plainly(example("small_task")))


def test_lightning_clips_gradients_in_bfloat16(example: Example) -> None:
    pytest.importorskip("lightning")
    small_task = example("small_task")
    model = example("lightning_module").train("bf16-mixed")
    assert small_task.accuracy(model, small_task.make_task().new) > 0.9


def test_transformers_trainer_takes_every_step_with_the_penalty(example: Example) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    _, optimizer = example("transformers_trainer").train(steps=4)
    assert [group["updates"] for group in optimizer.param_groups] == [4]
    assert float(optimizer.prior_penalty) > 0


def test_peft_trains_adapters_and_holds_the_layer_that_trains_beside_them(example: Example) -> None:
    pytest.importorskip("peft")
    before = example("small_task").make_task().model.state_dict()
    after = example("peft_lora").train().state_dict()
    adapted = {name: value for name, value in after.items() if "lora_B" in name}
    assert len(adapted) == 2
    assert all(value.abs().sum() > 0 for value in adapted.values())
    frozen = [name for name in before if name.startswith(("0.", "3."))]
    for name in frozen:
        layer, kind = name.split(".")
        torch.testing.assert_close(after[f"base_model.model.{layer}.base_layer.{kind}"], before[name], rtol=0, atol=0)


def test_timm_trains_with_learning_rates_by_layer(example: Example) -> None:
    pytest.importorskip("timm")
    _, optimizer = example("timm_training").train(steps=4)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) > 2
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    largest = max(rates)
    assert all(rate == pytest.approx(rates[largest] * scale / largest) for scale, rate in rates.items())
    assert float(optimizer.prior_penalty) > 0


def test_fsdp2_runs_on_two_processes() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "tests/examples/run_and_leave.py", "examples/fsdp2.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fsdp2: 2 processes" in done.stdout
