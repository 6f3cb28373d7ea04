"""Methods side by side get the same data and one table, and nothing is done twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tracker.tuning.small import saved_rgb
from tracker.config import RunConfig
from tracker.errors import RGBXError
from tracker.train import compare
from tracker.train.compare import compare_methods, generated, method_configs, train, training_memory
from tracker.train.finetune import fine_tuner
from tracker.train.start import starting_network
from tracker.train.trainer import Interrupted, Trainer


def settings(folder: Path, *more: str) -> list[str]:
    return [
        f"init={folder / 'rgb.safetensors'}", "data.sequences=2", "data.length=20", "data.width=96", "data.height=72",
        "train.epochs=2", "train.samples_per_epoch=4", "train.batch_size=2", "train.log_every=1", "train.device=cpu",
        "optimizer.damping=rank", *more,
    ]  # fmt: skip


def run_config(folder: Path, method: str, *more: str) -> RunConfig:
    return method_configs([method], None, settings(folder, *more))[method]


@pytest.fixture(scope="module")
def tests() -> dict[str, Any]:
    return {"thermal": generated("thermal", 2, 6), "rgb": generated("rgb", 2, 6)}


def test_one_table_of_all_and_nothing_done_twice(
    tests: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    out = tmp_path / "out"
    names = [sequence.name for sequence in tests["thermal"]]
    (tmp_path / "attributes.csv").write_text(f"sequence,NO,FM\n{names[0]},1,0\n{names[1]},0,1\n")
    methods = ["full", "frozen", "sdstrack+srft"]
    runs = method_configs(methods, None, settings(tmp_path))
    text = compare_methods(runs, out, (0, 1), tests, tmp_path / "attributes.csv")
    content = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in content["methods"]] == methods
    for row in content["methods"]:
        assert len(row["thermal"]["SR"]) == len(row["rgb"]["PR"]) == len(row["fps"]) == len(row["step_seconds"]) == 2
        assert row["memory"] > 4 * row["total"]
        assert all(value > 0 for value in row["fps"])
    trained = {row["method"]: row["trained"] for row in content["methods"]}
    assert trained["frozen"] < trained["full"]
    page = (out / "table.md").read_text()
    assert "RGB kept" in page
    assert "thermal: SR by attribute | NO | FM" in page
    assert len(text.splitlines()) == 5
    for name in ("success_thermal", "precision_rgb", "trained_and_success"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done already")

    monkeypatch.setattr(compare, "train", refuse)
    monkeypatch.setattr("tracker.inference.tracking.advance", refuse)
    assert compare_methods(runs, out, (0, 1), tests, tmp_path / "attributes.csv") == text
    with pytest.raises(RGBXError, match="holds a run with other settings"):
        compare_methods(method_configs(methods, None, settings(tmp_path, "train.lr=1e-3")), out, (0, 1), tests)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    config = run_config(tmp_path, "sdstrack", "train.checkpoint_every=1")
    train(config.model_copy(update={"output": tmp_path / "whole"}))
    cut = config.model_copy(update={"output": tmp_path / "cut"})
    whole_run = Trainer.run

    def stopped(self: Trainer, until: int | None = None) -> Any:
        whole_run(self, 2)
        raise Interrupted(None, 2)

    monkeypatch.setattr(Trainer, "run", stopped)
    with pytest.raises(Interrupted):
        train(cut)
    monkeypatch.setattr(Trainer, "run", whole_run)
    cost = train(cut)
    assert math.isfinite(cost["step_seconds"])
    states = [torch.load(tmp_path / n / "checkpoints" / "step_00000004.ckpt")["network"] for n in ("whole", "cut")]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


def test_memory_is_counted_and_less_where_less_is_kept(tmp_path: Path) -> None:
    """There must be at least the fp32 weights, and the gradients and two moments of what trains."""
    saved_rgb(tmp_path / "rgb.safetensors")
    found = {}
    for name, changes in {"full": (), "recomputed": ("train.activation_checkpointing=true",)}.items():
        config = run_config(tmp_path, "full", f"output={tmp_path / name}", *changes)
        network, _ = starting_network(config)
        trainer = fine_tuner(config, network)
        trainer.run(until=1)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        state = torch.get_rng_state()
        found[name] = training_memory(trainer) - 4 * sum(t.numel() for t in network.parameters()) - 3 * 4 * trained
        assert torch.equal(torch.get_rng_state(), state)
    assert 0 < found["recomputed"] < 0.7 * found["full"]


def test_each_method_gets_the_settings_that_concern_it(tmp_path: Path) -> None:
    more = ("lora.rank=3", "sdstrack.ratio=0.5", "optimizer.mu=[0.1,0.2]")
    configs = method_configs(["lora", "sdstrack+srft", "lora"], None, settings(tmp_path, *more))
    assert list(configs) == ["lora", "sdstrack+srft"]
    lora, sdstrack = configs.values()
    assert (lora.tuning, lora.lora.rank, lora.optimizer.name) == ("lora", 3, "adamw")
    assert (sdstrack.tuning, sdstrack.sdstrack.ratio, sdstrack.optimizer.mu) == ("sdstrack", 0.5, (0.1, 0.2))
    assert sdstrack.optimizer.name == "srft"


def test_what_cannot_be_compared_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(RGBXError, match=r"method 'vipt' is unknown; choose of full, frozen"):
        method_configs(["full", "vipt"], None, settings(tmp_path))
    with pytest.raises(RGBXError, match="nothing to compare"):
        compare_methods({}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
