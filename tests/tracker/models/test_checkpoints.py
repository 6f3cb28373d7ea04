"""Files that were written are read back, published layouts are read, and everything else is refused in one sentence."""

from __future__ import annotations

import argparse
import functools
import json
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from srft_kernels import SignificanceMap
from tests.tracker.models import cases
from tests.tracker.models.cases import same, seeded
from tracker.errors import RGBXError
from tracker.inference import InferenceSettings
from tracker.models.checkpoints import load_network, save_network, save_published, to_ostrack, to_srtrack

small = functools.partial(cases.small, kind="two_stream", head_channels=16)


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
def test_what_is_saved_comes_back(tmp_path: Path, kind: str) -> None:
    network = seeded(small(kind=kind, temporal=True, drop_path=0.1))
    meta = {"command": "rgbx pretrain", "seed": 7, "scores": [0.5, 0.25]}
    save_network(tmp_path / "new" / "a.safetensors", network, network.config, meta)
    loaded, config, read = load_network(tmp_path / "new" / "a.safetensors")
    assert config == network.config
    assert read == meta
    assert same(loaded, network)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert os.listdir(tmp_path / "new") == ["a.safetensors"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_network(tmp_path / name, seeded(small()), None, {"x": 1, "b": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_storage_halves_the_file_and_rounds_once(tmp_path: Path) -> None:
    network = seeded(small())
    network.head.score[0].norm.running_var.fill_(1e6)
    save_network(tmp_path / "full", network)
    save_network(tmp_path / "half", network, half=True)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "full").stat().st_size
    loaded, _, _ = load_network(tmp_path / "half")
    for name, tensor in network.state_dict().items():
        read = loaded.state_dict()[name]
        assert read.dtype == tensor.dtype
        if "running" in name:
            assert torch.equal(read, tensor)
        elif tensor.is_floating_point():
            assert torch.equal(read, tensor.half().float())
    with torch.no_grad():
        network.head.score[0].conv.bias.fill_(1e5)
    with pytest.raises(RGBXError, match=r"head\.score\.0\.conv\.bias does not fit fp16"):
        save_network(tmp_path / "half", network, half=True)


def test_drop_path_may_be_given_anew(tmp_path: Path) -> None:
    save_network(tmp_path / "a", seeded(small()))
    network, config, _ = load_network(tmp_path / "a", drop_path=0.3)
    assert config.drop_path == network.config.drop_path == 0.3


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_network(path, seeded(small()))
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RGBXError, match="disk full while writing"):
        save_network(path, seeded(small(), seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_reader_of_the_old_file_is_not_disturbed_by_a_save(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_network(path, seeded(small()))
    before = path.read_bytes()
    with open(path, "rb") as reader:
        save_network(path, seeded(small(), seed=1))
        assert reader.read() == before
    assert path.read_bytes() != before


def test_saving_refuses_another_configuration_and_meta_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(RGBXError, match="not the network's"):
        save_network(tmp_path / "a", seeded(small()), small(depth=2))
    with pytest.raises(RGBXError, match="not JSON"):
        save_network(tmp_path / "a", seeded(small()), None, {"network": object()})
    assert os.listdir(tmp_path) == []


# --- published layouts ---


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth.tar"])
def test_published_layouts_there_and_back(tmp_path: Path, kind: str, temporal: bool, suffix: str) -> None:
    network = seeded(small(kind=kind, temporal=temporal))
    state = (to_ostrack if kind == "single_stream" else to_srtrack)(network.state_dict())
    path = tmp_path / f"published{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 300, "net": state}, path)
    loaded, config, meta = load_network(path, num_heads=2)
    assert config == network.config
    assert meta["layout"] == ("ostrack" if kind == "single_stream" else "srtrack")
    # A DropTrack checkpoint does not say that its search region is wider; its temporal embeddings tell who it is.
    assert ("inference" in meta) == temporal
    if "inference" in meta:
        assert InferenceSettings.from_meta(meta) == InferenceSettings(search_factor=5.0)
    assert same(loaded, network)


def test_heads_of_64_channels_need_not_be_told(tmp_path: Path) -> None:
    network = seeded(small(kind="single_stream", embed_dim=128, num_heads=2))
    save_file(to_ostrack(network.state_dict()), tmp_path / "a.safetensors")
    assert load_network(tmp_path / "a.safetensors")[1].num_heads == 2


def test_heads_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    save_file(to_ostrack(seeded(small(kind="single_stream")).state_dict()), tmp_path / "a.safetensors")
    with pytest.raises(RGBXError, match="give num_heads"):
        load_network(tmp_path / "a.safetensors")


def trap(flag: str) -> None:
    Path(flag).write_text("code ran while loading")


class Trap:
    """An object that runs code when ordinary pickle loads it."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return trap, (str(self.flag),)


def test_what_a_checkpoint_carries_besides_tensors_is_never_run(tmp_path: Path) -> None:
    network = seeded(small(kind="single_stream"))
    settings = argparse.Namespace(lr=1e-4, nested=[argparse.Namespace(a=1)])
    content = {
        "net": to_ostrack(network.state_dict()),
        "settings": settings,
        "stats": Trap(tmp_path / "flag"),
        "path": tmp_path,
    }
    torch.save(content, tmp_path / "a.pth.tar")
    loaded, _, _ = load_network(tmp_path / "a.pth.tar", num_heads=2)
    assert same(loaded, network)
    assert not (tmp_path / "flag").exists()
    torch.load(tmp_path / "a.pth.tar", weights_only=False)  # the trap is real
    assert (tmp_path / "flag").exists()


class Meter:
    """An ordinary object, as OSTrack's statistics are, with whatever its training put into it."""

    def __init__(self, value: Any) -> None:
        self.value, self.history = value, [value, None]


class Settings:
    """Objects in objects, paths, devices and dictionaries, as OSTrack's settings are."""

    def __init__(self) -> None:
        self.env = Meter("runs/tensorboard")
        self.device = torch.device("cuda:0")
        self.search_area_factor = {"template": 2.0, "search": 4.0}
        self.seeds = {1, 2}


def test_a_training_checkpoint_of_the_published_code_is_read(tmp_path: Path) -> None:
    """It has everything that lies beside ``net`` in the files that OSTrack's and SRTrack's trainers write."""
    network = seeded(small())
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    content = {
        "epoch": 30,
        "actor_type": "OSTrackActor",
        "net_type": "OSTrack",
        "net": {f"module.{name}": tensor for name, tensor in to_srtrack(network.state_dict()).items()},
        "net_info": None,
        "constructor": None,
        "optimizer": optimizer.state_dict(),
        "stats": OrderedDict(train=OrderedDict({"Loss/total": Meter(np.float64(1.5)), "IoU": Meter(torch.ones(()))})),
        "settings": Settings(),
    }
    torch.save(content, tmp_path / "OSTrack_ep0030.pth.tar")
    loaded, config, meta = load_network(tmp_path / "OSTrack_ep0030.pth.tar", num_heads=2)
    assert same(loaded, network)
    assert (config, meta) == (network.config, {"layout": "srtrack"})


class Bomb:
    """Runs a command when ordinary pickle loads it. ``os.system`` is one that torch will not name harmless."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class EasyDict(dict[str, Any]):
    """A subclass of dict, which torch's safe loading does not fill."""


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_commands_in_a_checkpoint_are_refused_in_one_sentence(tmp_path: Path, where: str) -> None:
    state: dict[str, Any] = dict(to_ostrack(seeded(small(kind="single_stream")).state_dict()))
    bomb = Bomb(f"touch {tmp_path / 'flag'}")
    content = {"net": state, "stats": bomb} if where == "beside" else {"net": {**state, "backbone.x": bomb}}
    torch.save(content, tmp_path / "a.pth.tar")
    with pytest.raises(RGBXError, match="holds more than tensors") as refusal:
        load_network(tmp_path / "a.pth.tar", num_heads=2)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "flag").exists()
    torch.load(tmp_path / "a.pth.tar", weights_only=False)  # the bomb is real
    assert (tmp_path / "flag").exists()


def test_what_cannot_be_read_safely_is_refused_with_what_to_do(tmp_path: Path) -> None:
    state = to_ostrack(seeded(small(kind="single_stream")).state_dict())
    torch.save({"net": state, "cfg": EasyDict(lr=1e-4)}, tmp_path / "a.pth.tar")
    with pytest.raises(RGBXError, match="save its 'net' entry alone") as refusal:
        load_network(tmp_path / "a.pth.tar", num_heads=2)
    assert "\n" not in str(refusal.value)


def test_unknown_objects_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(to_ostrack(seeded(small(kind="single_stream")).state_dict()))
    state["backbone.norm.weight"] = argparse.Namespace()
    torch.save({"net": state}, tmp_path / "a.pth")
    with pytest.raises(RGBXError, match=r"backbone\.norm\.weight should be tensors"):
        load_network(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(RGBXError, match="holds no weights"):
        load_network(tmp_path / "b.pth")


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("name", ["a.pth.tar", "a.safetensors"])
def test_published_files_are_written_as_their_code_reads_them(tmp_path: Path, kind: str, name: str) -> None:
    network = seeded(small(kind=kind, temporal=True))
    layout = save_published(tmp_path / name, network)
    assert layout == ("ostrack" if kind == "single_stream" else "srtrack")
    written = (
        load_file(tmp_path / name)
        if name == "a.safetensors"
        else torch.load(tmp_path / name, weights_only=True, map_location="cpu")["net"]
    )
    stream = "" if kind == "single_stream" else "_event"
    assert torch.equal(
        written[f"backbone.blocks{stream}.2.mlp.fc2.bias"],
        network.state_dict()["rgb.blocks.2.mlp.fc2.bias" if kind == "single_stream" else "x.blocks.2.mlp.fc2.bias"],
    )
    assert torch.equal(written["backbone.temporal_pos_embed_z"], network.positions.template_temporal)
    loaded, config, _ = load_network(tmp_path / name, num_heads=2)
    assert config == network.config
    assert same(loaded, network)
    assert os.listdir(tmp_path) == [name]


def test_elimination_and_sizes_may_be_given_anew(tmp_path: Path) -> None:
    network = seeded(small(kind="single_stream"))
    save_network(tmp_path / "a.safetensors", network)
    save_published(tmp_path / "b.pth", network)
    for name in ("a.safetensors", "b.pth"):
        heads = {"num_heads": 2} if name == "b.pth" else {}
        loaded, config, _ = load_network(tmp_path / name, elimination_layers=(1,), keep_ratio=0.5, **heads)
        assert config == network.config.replace(elimination_layers=(1,), keep_ratio=0.5)
        assert loaded.config == config
        assert loaded.kept_tokens == (8,)
        assert same(loaded, network)
        save_network(tmp_path / "c.safetensors", loaded)
        assert load_network(tmp_path / "c.safetensors")[1] == config
        with pytest.raises(RGBXError, match="drops nothing without elimination_layers"):
            load_network(tmp_path / name, keep_ratio=0.5, **heads)


def test_files_from_before_elimination_still_load(tmp_path: Path) -> None:
    network = seeded(small())
    save_network(tmp_path / "a.safetensors", network)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["rgbx_network"])
    for name in ("elimination_layers", "keep_ratio"):
        del header["config"][name]
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", {"rgbx_network": json.dumps(header)})
    assert load_network(tmp_path / "b.safetensors")[1] == network.config


# --- files that cannot be used ---


def test_a_training_checkpoint_of_ours_says_where_the_network_is(tmp_path: Path) -> None:
    torch.save({"format": "rgbx-training-checkpoint", "network": {"a": torch.zeros(1)}}, tmp_path / "step.ckpt")
    with pytest.raises(RGBXError, match=r"is a training checkpoint.*network\.safetensors"):
        load_network(tmp_path / "step.ckpt")


def test_a_significance_map_is_told_from_a_network(tmp_path: Path) -> None:
    SignificanceMap({"rgb.norm.weight": torch.ones(3)}).save(tmp_path / "a.significance.safetensors")
    with pytest.raises(RGBXError, match=r"is a significance map.*optimizer\.prior"):
        load_network(tmp_path / "a.significance.safetensors")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RGBXError, match=r"there is no file .*nothing\.safetensors"):
        load_network(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.00005, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth.tar"])
def test_truncated_files_get_one_sentence(tmp_path: Path, name: str, share: float) -> None:
    network = seeded(small(kind="single_stream"))
    path = tmp_path / name
    if name == "a.safetensors":
        save_network(path, network)
    else:
        torch.save({"net": to_ostrack(network.state_dict())}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RGBXError, match="truncated") as refusal:
        load_network(path, num_heads=2)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all, but a sentence", bytes(64), b"\x80\x04K\x01."])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_foreign_files_get_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RGBXError, match="truncated") as refusal:
        load_network(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_zip_that_is_no_checkpoint_gets_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with pytest.raises(RGBXError, match=r"a\.pth is damaged or no torch checkpoint") as refusal:
        load_network(tmp_path / "a.pth")
    assert "\n" not in str(refusal.value)


def test_another_networks_weights_are_refused_with_their_names(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(RGBXError, match=r"no layout known here.*conv1\.weight, fc\.bias"):
        load_network(tmp_path / "resnet.safetensors")


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = to_srtrack(seeded(small()).state_dict())
    del state["backbone.norm_event.bias"]
    state["backbone.prompt"] = torch.zeros(3)
    state["box_head.conv2_ctr.0.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(RGBXError) as refusal:
        load_network(tmp_path / "a.safetensors", num_heads=2)
    sentence = str(refusal.value)
    assert "lacks backbone.norm_event.bias" in sentence
    assert "backbone.prompt" in sentence
    assert "box_head.conv2_ctr.0.bias is (5,) and must be (8,)" in sentence


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    network = seeded(small())
    path = tmp_path / "a.safetensors"
    save_network(path, network)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rgbx_network"])
    # Copies, because what is loaded may be the file itself, mapped into memory, which is about to be written over.
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}

    def rewrite(text: str) -> None:
        save_file(state, path, metadata={"rgbx_network": text})

    for text in ("{", "[]", "{}", json.dumps({**header, "config": 3})):
        rewrite(text)
        with pytest.raises(RGBXError, match="damaged header"):
            load_network(path)
    rewrite(json.dumps({**header, "version": 2}))
    with pytest.raises(RGBXError, match="format version 2"):
        load_network(path)
    rewrite(json.dumps({**header, "config": {**header["config"], "depth": 4, "cross_layers": None}}))
    with pytest.raises(RGBXError, match=r"lacks .*blocks\.3"):
        load_network(path)
    rewrite(json.dumps({**header, "config": {**header["config"], "heads": 4}}))
    with pytest.raises(RGBXError, match="unknown network settings: heads"):
        load_network(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("backbone.patch_embed.proj.weight", torch.zeros(24, 192)),
        ("backbone.pos_embed_x", torch.zeros(16)),
        ("box_head.conv1_ctr.0.weight", torch.zeros(0, 24, 3, 3)),
        ("backbone.blocks.0.mlp.fc1.weight", torch.zeros(())),
    ],
)
def test_published_tensors_without_their_dimensions_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    state = to_ostrack(seeded(small(kind="single_stream")).state_dict())
    save_file({**state, name: tensor}, tmp_path / "a.safetensors")
    with pytest.raises(RGBXError, match=f"is damaged: {name}"):
        load_network(tmp_path / "a.safetensors", num_heads=2)
