"""PATrack and the distilled student from a shipped RGB tracker to a file that tracks, on generated sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tracker.inference.test_inference import moving
from tests.tracker.tuning.small import crops, tuned
from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.inference import DroppedSequence, EagerEngine, track_sequences
from tracker.models.checkpoints import find_weights, load_network, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.train.finetune import fine_tuner, starting_network
from tracker.train.sources import generated_sequences, pair_settings
from tracker.train.trainer import Trainer

METHODS = ("patrack", "distill")
BATCH = 4


class SameBatch:
    """The first pairs of a data set, in every epoch again: what a network can learn by heart."""

    def __init__(self, pairs: PairDataset) -> None:
        self.samples = [pairs[index] for index in range(BATCH)]

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams made of the shipped RGB tracker, X's changed a little."""
    network = initialize_two_stream(load_network(find_weights(Path("tiny_rgb")))[0])
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.x.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.std(correction=0))
    path = tmp_path_factory.mktemp("teacher") / "two.safetensors"
    save_network(path, network)
    return path


def run_config(method: str, teacher: Path, *overrides: str) -> RunConfig:
    settings = (
        "init=tiny_rgb", f"tuning={method}", f"distill.teacher={teacher}", "data.sequences=2", "data.length=20",
        "data.width=96", "data.height=72", f"train.batch_size={BATCH}", f"train.samples_per_epoch={BATCH}",
        "train.epochs=24", "train.log_every=1", "train.lr=1e-3", "train.clip_grad_norm=1", "train.device=cpu",
        "train.schedule=constant", "loss.cell=target",
    )  # fmt: skip
    return load_config(RunConfig, None, [*settings, *overrides])


def trainer_of(config: RunConfig, folder: Path | None = None) -> Trainer:
    network, _ = starting_network(config)
    pairs = PairDataset(generated_sequences(config.data), pair_settings(config.pairs, network.config), BATCH, seed=3)
    trainer = fine_tuner(config, network, pairs=SameBatch(pairs))
    trainer.folder = folder
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_on_a_batch_that_can_be_learned_by_heart(teacher: Path, method: str) -> None:
    trainer = trainer_of(run_config(method, teacher))
    history = trainer.run()
    names = ("loss/total", "loss/common", "loss/specific", "loss/fusion")[: 4 if method == "distill" else 1]
    for name in names:
        losses = [record.scalars[name] for record in history]
        assert sum(losses[-4:]) < 0.7 * sum(losses[:4]), name


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_hold_what_trains_and_resume_to_the_same_bits(teacher: Path, tmp_path: Path, method: str) -> None:
    """A run's checkpoint holds the projections of distillation too; they have an optimizer's state."""
    config = run_config(method, teacher)
    whole = trainer_of(config)
    whole.run(until=4)
    trainer_of(config, tmp_path).run(until=2)
    rest = trainer_of(config, tmp_path)
    rest.resume(tmp_path)
    rest.run(until=4)
    held = set(rest.state()["network"])
    trained = {name for name, parameter in rest.network.named_parameters() if parameter.requires_grad}
    assert trained <= held
    if method == "patrack":
        assert held == trained
    for (name, one), other in zip(whole.network.state_dict().items(), rest.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def locate(network: Any) -> Any:
    """Tracks of three sequences that advance together: a whole one, one without X now and then, one without RGB."""
    sequences = [
        moving("whole", 6),
        DroppedSequence(moving("without X", 5, phase=1), x=[range(2, 5)]),
        DroppedSequence(moving("without RGB", 4, phase=2), rgb=[range(1, 3)]),
    ]
    return track_sequences(network, sequences, batch=3)


@pytest.mark.parametrize("method", METHODS)
def test_sequences_with_missing_halves_are_tracked_together_as_they_are_alone(method: str) -> None:
    network: Any = tuned(method)
    together = locate(EagerEngine(network))
    assert set(together) == {"whole", "without X", "without RGB"}
    alone = track_sequences(EagerEngine(network), [moving("whole", 6)], batch=1)
    np.testing.assert_allclose(together["whole"].boxes, alone["whole"].boxes, atol=1e-2)
    for track in together.values():
        assert np.isfinite(track.boxes).all()


@pytest.mark.parametrize("method", METHODS)
def test_compiled_whole_it_answers_the_same(method: str) -> None:
    """One graph, in evaluation and for the backward pass of training."""
    torch.compiler.reset()
    network = tuned(method)
    given = crops(network.config)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for found, expected in zip(compiled(*given), network(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_exported_it_answers_as_the_network_for_any_batch(tmp_path: Path, method: str) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from tracker.export import OnnxEngine, export_onnx

    network: Any = tuned(method)
    engine = OnnxEngine(export_onnx(network, tmp_path / "tuned.onnx"))
    config, generator = network.config, np.random.default_rng(0)
    for batch in (1, 3):
        sides = (config.template_size, config.search_size)
        pixels = [generator.integers(0, 256, (batch, 6, side, side), dtype=np.uint8) for side in sides]
        found = engine._session.run(None, dict(zip(("template", "search"), pixels, strict=True)))
        expected: Tensor
        with torch.no_grad():
            expected = EagerEngine(network).locator(*(torch.from_numpy(images) for images in pixels))
        np.testing.assert_allclose(found[0], expected[:, :4], atol=1e-5)
        np.testing.assert_allclose(found[1], expected[:, 4], atol=1e-5)
