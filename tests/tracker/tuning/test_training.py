"""Every method trains: its loss falls, a resumed run ends with the same bits, and SRFT holds what has a prior."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tracker.tuning.small import rgb_tracker, saved_rgb, saved_teacher, small_config
from tracker.config import RunConfig, load_config
from tracker.data.dataset import PairDataset
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network
from tracker.models.tracker import build_network
from tracker.train.configured_data import generated_sequences, pair_settings, pairs_of
from tracker.train.finetune import fine_tune, fine_tuner
from tracker.train.prefetch import on_device
from tracker.train.prior import prior_for
from tracker.train.start import starting_network
from tracker.train.trainer import Trainer
from tracker.tuning.base import TunedTracker
from tracker.tuning.files import load_tracker
from tracker.tuning.methods import METHODS

DATA = ("data.sequences=2", "data.length=20", "data.width=96", "data.height=72")
TRAIN = ("train.epochs=2", "train.samples_per_epoch=18", "train.batch_size=4", "train.log_every=1", "train.lr=1e-3")
EVERY = ["full", *METHODS]


def run_config(folder: Path, *overrides: str) -> RunConfig:
    places = (f"init={folder / 'rgb.safetensors'}", f"output={folder / 'run'}", "train.device=cpu")
    if "tuning=distill" in overrides:
        places += (f"distill.teacher={saved_teacher(folder / 'teacher.safetensors')}",)
    return load_config(RunConfig, None, [*DATA, *TRAIN, *places, *overrides])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    config = run_config(tmp_path_factory.mktemp("pairs"))
    return PairDataset(generated_sequences(config.data), pair_settings(config.pairs, small_config()), 18, seed=3)


def trainer_of(config: RunConfig, pairs: Any, prior: Any = None, folder: Path | None = None) -> Trainer:
    torch.manual_seed(11)
    network, _ = starting_network(config)
    trainer = fine_tuner(config, network, prior, pairs)
    trainer.folder = folder
    return trainer


@pytest.mark.parametrize("method", EVERY)
def test_the_loss_falls_on_a_batch_that_can_be_learned_by_heart(tmp_path: Path, method: str) -> None:
    """The shipped RGB tracker learns generated thermal sequences, and the loss has to fall by three tenths."""
    changes = ("init=tiny_rgb", f"tuning={method}", "train.lr=2e-3", "train.clip_grad_norm=1", "pairs.flip=0")
    config = run_config(tmp_path, *changes)
    trainer = trainer_of(config, pairs_of(config.data, config.pairs, config.train, starting_network(config)[0].config))
    batch = on_device(next(iter(trainer.batches())), trainer.device)
    trainer.train_mode()
    losses = [float(trainer.train_step(batch)["loss/total"]) for _ in range(8)]
    assert min(losses[-3:]) < 0.7 * losses[0], losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["adamw", "srft"])
def test_a_resumed_run_ends_with_the_same_bits(pairs: PairDataset, tmp_path: Path, method: str, optimizer: str) -> None:
    """The checkpoint of a run holds what is trained, and belongs to one base."""
    base = saved_rgb(tmp_path / "rgb.safetensors", drop_path=0.2)
    config = run_config(
        tmp_path, f"tuning={method}", f"optimizer.name={optimizer}", "optimizer.strength=3", "optimizer.damping=rank"
    )
    prior = prior_for(starting_network(config)[0], significance(base))
    if METHODS[method].trains == ("adapters",):  # of which none has a prior
        if optimizer == "srft":
            with pytest.raises(RGBXError, match="nothing that trains has a prior"):
                trainer_of(config, pairs, prior)
        prior = None
    whole = trainer_of(config, pairs, prior)
    whole.run(until=5)
    trainer_of(config, pairs, prior, tmp_path).run(until=3)
    rest = trainer_of(config, pairs, prior, tmp_path)
    rest.resume(tmp_path)
    rest.run(until=5)
    start = trainer_of(config, pairs, prior).network.state_dict()
    moved = set()
    for (name, one), other in zip(whole.network.state_dict().items(), rest.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
        moved |= set() if torch.equal(one, start[name]) else {name}
    assert moved
    assert isinstance(whole.network, TunedTracker)
    assert moved <= whole.network.trained
    if not whole.network.saves_base:
        assert whole.state()["network"].keys() == whole.network.trained
        saved_rgb(tmp_path / "rgb.safetensors", seed=9, drop_path=0.2)
        other_base = trainer_of(config, pairs, prior, tmp_path)
        with pytest.raises(RGBXError, match="started from another network"):
            other_base.resume(tmp_path)


def significance(network: Any) -> Any:
    from srft_kernels import SignificanceMap

    return SignificanceMap({name: torch.ones_like(p) for name, p in network.named_parameters()})


@pytest.mark.parametrize("adapters", ["held", "free"])
def test_srft_holds_the_base_by_its_prior_and_adapters_as_told(
    pairs: PairDataset, tmp_path: Path, adapters: str
) -> None:
    base = saved_rgb(tmp_path / "rgb.safetensors")
    config = run_config(
        tmp_path, "tuning=sdstrack", "optimizer.name=srft", "optimizer.damping=rank", f"optimizer.adapters={adapters}",
        "train.also_train=[blocks_rgb]",
    )  # fmt: skip
    network, _ = starting_network(config)
    trainer = fine_tuner(config, network, prior_for(network, significance(base)), pairs)
    trainer.run(until=2)
    names = {parameter: name for name, parameter in network.named_parameters()}
    states = {names[parameter]: state for parameter, state in trainer.optimizer.state.items()}
    with_prior = {name for name, state in states.items() if "prior" in state}
    assert with_prior == {n for n in states if n.startswith(("base.rgb.blocks.", "base.rgb.norm.", "patch_embed_x."))}
    held = {name for name, state in states.items() if "transfer_statistics" in state}
    ours = {name for name in states if name.startswith(("cross_modal.", "fusion."))}
    assert ours
    assert (ours <= held) == (adapters == "held")
    assert with_prior <= held


@pytest.mark.parametrize("method", EVERY)
def test_a_run_ends_in_a_file_that_tracks(tmp_path: Path, method: str) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    config = run_config(
        tmp_path, f"tuning={method}", "train.samples_per_epoch=4", "train.epochs=1",
        "validation.every=1", "validation.sequences=1", "validation.length=3",
    )  # fmt: skip
    path, history = fine_tune(config)
    assert any("validation/SR" in record.scalars for record in history)
    _, shape, meta = load_tracker(path)
    assert shape.search_size == 64
    assert meta["config"]["tuning"] == method
    assert meta["inference"]["search_factor"] == 4.0


def test_a_tuned_network_is_tuned_further_by_its_own_method_alone(tmp_path: Path) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    few = ("train.samples_per_epoch=4", "train.epochs=1")
    first, _ = fine_tune(run_config(tmp_path, "tuning=sdstrack", *few))
    again = run_config(tmp_path, "tuning=sdstrack", f"init={first}", f"output={tmp_path / 'again'}")
    network, _ = starting_network(again)
    assert isinstance(network, TunedTracker)
    expected, _, _ = load_tracker(first)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    for other in ("full", "lora"):
        with pytest.raises(RGBXError, match=rf"is tuned by sdstrack, and tuning {other} needs a network that is not"):
            starting_network(run_config(tmp_path, f"tuning={other}", f"init={first}"))
    with pytest.raises(RGBXError, match="is tuned"):
        load_network(first)


def test_activation_checkpointing_and_accumulation_change_nothing(pairs: PairDataset, tmp_path: Path) -> None:
    """They change nothing but rounding.

    The random masks of distillation, which every part of a batch draws, are off.
    """
    saved_rgb(tmp_path / "rgb.safetensors")
    plain = ("tuning=sdstrack", "sdstrack.rgb_masked=0", "sdstrack.x_masked=0")
    changes: list[tuple[str, ...]] = [(), ("train.activation_checkpointing=true",), ("train.accumulate=2",)]
    trained = []
    for change in changes:
        trainer = trainer_of(run_config(tmp_path, *plain, *change), pairs)
        trainer.run(until=2)
        trained.append(trainer.network.state_dict())
    for other, (name, tensor) in itertools.product(trained[1:], trained[0].items()):
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_nothing_that_does_not_train_is_asked_for(tmp_path: Path) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    with pytest.raises(RGBXError, match="also_train"):
        run_config(tmp_path, "train.also_train=[blocks]")
    network = rgb_tracker()
    with pytest.raises(RGBXError, match="starts from a single_stream network"):
        METHODS["sdstrack"](build_network(network.config.replace(kind="two_stream")), None)
