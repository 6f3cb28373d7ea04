"""``rgbx weights`` describes files, and what it converts is what the library makes of it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from tests.tracker.models import cases
from tests.tracker.models.cases import same, seeded
from tracker.commands.weights import weights
from tracker.errors import RGBXError
from tracker.models.checkpoints import load_network, save_network, save_published
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.checkpoints.layouts import to_ostrack
from tracker.models.checkpoints.position_resizing import resize_positions
from tracker.models.config import PRESETS
from tracker.models.summary import parameter_counts, summary

small = functools.partial(cases.small, depth=4)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(weights, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(weights, [str(argument) for argument in arguments])
    assert isinstance(result.exception, RGBXError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def ostrack(tmp_path: Path) -> Path:
    """Return a published RGB checkpoint, as its trainer leaves it."""
    path = tmp_path / "OSTrack_ep0300.pth.tar"
    torch.save({"epoch": 300, "net": to_ostrack(seeded(small()).state_dict()), "optimizer": {"state": {}}}, path)
    return path


def test_a_published_checkpoint_becomes_ours(ostrack: Path, tmp_path: Path) -> None:
    out = tmp_path / "rgb.safetensors"
    text = run("convert", ostrack, "--num-heads", 2, "--out", out)
    assert f"wrote {out}" in text
    network, config, meta = load_network(out)
    assert (config, same(network, seeded(small()))) == (small(), True)
    assert meta == {
        "made_from": {
            "file": "OSTrack_ep0300.pth.tar",
            "sha256": hashlib.sha256(ostrack.read_bytes()).hexdigest(),
            "layout": "ostrack",
        }
    }


def test_an_rgb_tracker_becomes_a_two_stream_one_that_eliminates(ostrack: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    run("convert", ostrack, "--num-heads", 2, "--kind", "two_stream", "--keep-ratio", 0.7, "--out", out, "--half")
    network, config, _ = load_network(out)
    assert config == small(kind="two_stream", elimination_layers=(1, 2, 3), keep_ratio=0.7)
    for name, tensor in initialize_two_stream(seeded(small())).state_dict().items():
        halved = tensor.is_floating_point() and "running" not in name
        assert torch.equal(network.state_dict()[name], tensor.half().float() if halved else tensor), name


@pytest.mark.parametrize("kind", ["single_stream", "two_stream"])
@pytest.mark.parametrize("name", ["a.pth.tar", "a.safetensors"])
def test_there_and_back_is_the_same_network(tmp_path: Path, kind: str, name: str) -> None:
    network = seeded(small(kind=kind, temporal=True))
    save_network(tmp_path / "ours.safetensors", network)
    run("convert", tmp_path / "ours.safetensors", "--out", tmp_path / name, "--layout", "published")
    run("convert", tmp_path / name, "--num-heads", 2, "--out", tmp_path / "again.safetensors")
    again, config, meta = load_network(tmp_path / "again.safetensors")
    assert (config, same(again, network)) == (network.config, True)
    # DropTrack's search factor comes with it.
    assert meta["inference"] == {"search_factor": 5.0}


def test_a_preset_gives_the_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "small_48", lambda **changes: small(template_size=24, search_size=48, **changes))
    monkeypatch.setitem(PRESETS, "wide", lambda **changes: small(embed_dim=48, head_channels=16, **changes))
    save_published(tmp_path / "a.pth", seeded(small()))
    run("convert", tmp_path / "a.pth", "--preset", "small_48", "--out", tmp_path / "b.safetensors")
    network, config, meta = load_network(tmp_path / "b.safetensors")
    assert config == small(template_size=24, search_size=48)
    assert meta["positions_resized"] == [{"template": [2, 3], "search": [4, 6]}]
    direct, _, _ = load_network(tmp_path / "a.pth", num_heads=2, template_size=24, search_size=48)
    assert same(network, direct)
    said = refused("convert", tmp_path / "a.pth", "--preset", "wide", "--out", tmp_path / "c.safetensors")
    assert "a.pth does not fit the preset: it has embed_dim 24 instead of 48, head_channels 8 instead of 16" in said
    assert "preset 'huge' is unknown" in refused(
        "convert", tmp_path / "a.pth", "--preset", "huge", "--out", "c.safetensors"
    )
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("stored", ["timm.safetensors", "deit.pth", "mae.pth"])
def test_a_plain_vit_is_the_start_of_a_tracker(tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks and the norm of timm's own network, on the tracker's tokens, give the tracker's features."""
    monkeypatch.setitem(PRESETS, "small", lambda **changes: small(**changes))
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=40, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=5).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if stored == "timm.safetensors":
        save_file(vit.state_dict(), tmp_path / stored)
    elif stored == "deit.pth":
        torch.save({"model": vit.state_dict()}, tmp_path / stored)
    else:  # an autoencoder's: no classifier, but a decoder
        state = {name: tensor for name, tensor in vit.state_dict().items() if not name.startswith("head.")}
        state |= {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
        torch.save({"model": state}, tmp_path / stored)
    assert "a ViT without a tracker's head" in refused("show", tmp_path / stored)
    run("convert", tmp_path / stored, "--preset", "small", "--out", tmp_path / "start.safetensors")
    network, config, meta = load_network(tmp_path / "start.safetensors")
    assert (config, meta["head"], meta["made_from"]["layout"]) == (small(), "untrained", "vit")
    template, search = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 32, 32)
    grid = vit.pos_embed[:, 1:]
    with torch.no_grad():
        tokens = torch.cat(
            [
                vit.patch_embed.proj(image).flatten(2).transpose(1, 2) + resize_positions(grid, cells)
                for image, cells in ((template, 2), (search, 4))
            ],
            dim=1,
        )
        expected = vit.norm(vit.blocks(tokens))
        torch.testing.assert_close(network(template, search).features, expected)
    run("convert", tmp_path / stored, "--preset", "small", "--out", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "start.safetensors").read_bytes()
    two = ("--kind", "two_stream", "--out", tmp_path / "two.safetensors")
    assert "untrained head" in refused("convert", tmp_path / "start.safetensors", *two)


def test_a_vit_of_another_kind_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "small", lambda **changes: small(**changes))
    convert = ("--preset", "small", "--out", tmp_path / "start.safetensors")
    settings: dict[str, Any] = {"img_size": 40, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    save_file(VisionTransformer(**settings, depth=3).state_dict(), tmp_path / "shallow.safetensors")
    assert "lacks rgb.blocks.3" in refused("convert", tmp_path / "shallow.safetensors", *convert)
    scaled = VisionTransformer(**settings, depth=4, init_values=0.1)
    save_file(scaled.state_dict(), tmp_path / "scaled.safetensors")
    assert "tensors that the network has not" in refused("convert", tmp_path / "scaled.safetensors", *convert)
    state = VisionTransformer(**settings, depth=4).state_dict()
    save_file({**state, "pos_embed": torch.zeros(1, 24, 24)}, tmp_path / "odd.safetensors")
    assert "no square grid" in refused("convert", tmp_path / "odd.safetensors", *convert)
    assert not (tmp_path / "start.safetensors").exists()


def test_provenance_is_a_chain(ostrack: Path, tmp_path: Path) -> None:
    run("convert", ostrack, "--num-heads", 2, "--out", tmp_path / "rgb.safetensors")
    run("convert", tmp_path / "rgb.safetensors", "--kind", "two_stream", "--out", tmp_path / "x.safetensors")
    origin = load_network(tmp_path / "x.safetensors")[2]["made_from"]
    assert (origin["file"], origin["made_from"]["file"]) == ("rgb.safetensors", "OSTrack_ep0300.pth.tar")
    shown = run("show", tmp_path / "x.safetensors")
    assert "RGB-X tracker, two streams" in shown
    assert origin["made_from"]["sha256"] in shown


def test_show_tells_sizes_and_parameters(tmp_path: Path) -> None:
    network = seeded(small(kind="two_stream", temporal=True, elimination_layers=(1, 3), keep_ratio=0.7))
    meta = {"seed": 7, "config": {"train": {"lr": 0.125}}}
    save_network(tmp_path / "a.safetensors", network, meta=meta)
    lines = run("show", tmp_path / "a.safetensors").splitlines()
    total = sum(p.numel() for p in network.parameters())
    assert lines[0] == "a.safetensors: RGB-X tracker, two streams"
    said = {line[2:16].rstrip(): line[16:] for line in lines[1:]}
    assert said["template"] == "16 x 16 px, 2 x 2 cells"
    assert said["search"] == "32 x 32 px, 4 x 4 cells"
    assert said["elimination"] == "to 0.7 at layers 1, 3"
    assert said["parameters"] == f"{total:,}"
    assert sum(int(said[f"  {name}"].replace(",", "")) for name in parameter_counts(network)) == total
    assert "    seed: 7" in lines
    assert "0.125" not in "\n".join(lines)  # settings of the run are too many


def test_the_shipped_tracker_can_be_shown_and_converted(tmp_path: Path) -> None:
    assert "tiny_rgb.safetensors: RGB tracker, one stream" in run("show", "tiny_rgb")
    run("convert", "tiny_rgb", "--kind", "two_stream", "--out", tmp_path / "a.safetensors")
    network, config, meta = load_network(tmp_path / "a.safetensors")
    assert config.kind == "two_stream"
    assert meta["inference"]["search_factor"] == 4.0
    assert summary("a", network, config, meta).startswith("a: RGB-X tracker")


def test_what_cannot_be_converted_is_refused_before_anything_is_written(ostrack: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.safetensors"
    save_network(two, seeded(small(kind="two_stream")))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    new = tmp_path / "new.safetensors"
    assert "no single one of them" in refused("convert", two, "--kind", "single_stream", "--out", new)
    assert "is the file to convert" in refused("convert", two, "--out", two)
    assert "is not named .safetensors" in refused("convert", two, "--out", tmp_path / "new.pth")
    assert "published code loads fp32" in refused("convert", two, "--half", "--layout", "published", "--out", new)
    assert "give num_heads" in refused("convert", ostrack, "--out", new)
    assert "does not exist" in refused("show", tmp_path / "gone")
    broken = load_file(two)
    del broken["rgb.norm.bias"]
    save_file(broken, tmp_path / "broken.safetensors")
    assert "no layout known here" in refused("show", tmp_path / "broken.safetensors")
    (tmp_path / "broken.safetensors").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
