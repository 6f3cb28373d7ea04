"""What the distilled student computes, what its teacher tells it, and what files and caches keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tracker.tuning.small import crops, rgb_tracker, saved_rgb, saved_teacher, small_config, tuned
from tracker.config import DistillSection, RunConfig, load_config
from tracker.data.normalize import normalize
from tracker.errors import RGBXError
from tracker.models.checkpoints import network_fingerprint, save_network
from tracker.models.checkpoints.initialize import initialize_two_stream
from tracker.models.config import preset
from tracker.models.elimination import to_grid
from tracker.models.tracker import TwoStreamTracker, build_network
from tracker.train.losses import TrackingLoss
from tracker.train.start import starting_network
from tracker.tuning.distill import Student, StudentAnswer
from tracker.tuning.distill_teacher import TapCache, Teacher, pixels_of
from tracker.tuning.files import load_tracker, save_tracker, tune

HALF = 2.0**-11
"""Relative rounding of float16; entries of unit vectors are at most 1."""


def two_streams(seed: int = 5, **changes: Any) -> TwoStreamTracker:
    """Return a teacher that is twice as wide as the student, and whose streams differ."""
    network = initialize_two_stream(rgb_tracker(seed, embed_dim=32, **changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def student(**settings: Any) -> Student:
    network = tuned("distill", **settings)
    assert isinstance(network, Student)
    return network


def taught(**settings: Any) -> Student:
    network = student(**settings)
    teacher = two_streams()
    network.learn_from(teacher.config)
    network.teach(Teacher(teacher))
    return network.train()


def test_the_student_starts_as_the_rgb_tracker() -> None:
    base = rgb_tracker()
    template, search = crops(base.config)
    with torch.no_grad():
        found, expected = tune(base, "distill").eval()(template, search), base(template, search)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_student_is_one_stream_over_the_sum_of_both_embeddings(keep: float) -> None:
    elimination = {} if keep == 1.0 else {"elimination_layers": (1,), "keep_ratio": keep}
    network = tuned("distill", rgb_tracker(**elimination)).double()
    base: Any = network.base
    template, search = (images.double() for images in crops(network.config))

    def patches(images: Tensor) -> Tensor:
        total = 0
        for half, embed in ((images[:, :3], base.rgb.patch_embed), (images[:, 3:], network.patch_embed_x)):
            total = total + F.conv2d(half, embed.proj.weight, embed.proj.bias, stride=16).flatten(2).transpose(1, 2)
        return total  # type: ignore[return-value]

    with torch.no_grad():
        tokens, kept = base.positions(patches(template), patches(search)), None
        for index in range(4):
            tokens, kept = base.layer(base.rgb, index, tokens, kept)
        expected = base.answer(to_grid(base.rgb.norm(tokens), kept, 4, 4))
        found = network(template, search)
    assert (kept is None) == (keep == 1.0)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_vit_tiny_student_has_6_1_million_parameters() -> None:
    teacher = preset("vit_b_256")
    with torch.device("meta"):
        network = tune(build_network(preset("vit_t_256", kind="single_stream")), "distill")
        assert isinstance(network, Student)
        network.learn_from(teacher)
    runs = sum(p.numel() for name, p in network.named_parameters() if network.runs_with(name))
    d = 192
    blocks, embeddings, positions = 12 * (12 * d**2 + 13 * d), 2 * (3 * 16**2 + 1) * d, (8**2 + 16**2) * d
    head = sum(p.numel() for p in network.head.parameters())
    assert runs == blocks + embeddings + positions + 2 * d + head == 6_100_965
    assert runs <= 6_500_000
    # Of four meetings: two projections each, one of the last features, and four weights of paths.
    everything = sum(p.numel() for p in network.parameters())
    assert everything - runs == 9 * (d + 1) * 768 + 4


def test_the_teacher_tells_what_is_in_its_streams_before_and_after_they_meet() -> None:
    network = two_streams()
    template, search = crops(network.config)
    with torch.no_grad():
        rgb = network.tokens(network.rgb, template[:, :3], search[:, :3])
        x = network.tokens(network.x, template[:, 3:], search[:, 3:])
        common, specific, fused = [], [], []
        for layer in range(4):
            rgb, x = network.rgb.blocks[layer](rgb)[0], network.x.blocks[layer](x)[0]
            if layer in (1, 3):
                common.append(F.normalize((rgb + x) / 2, dim=-1))
                specific.append(F.normalize(rgb - x, dim=-1))
                both = network.cross[len(fused)](torch.cat([rgb, x], dim=1))[0]
                rgb, x = both[:, :20], both[:, 20:]
                fused.append(F.normalize((rgb + x) / 2, dim=-1))
    taps = Teacher(network)(template, search)
    for found, expected in zip(taps, (common, specific, fused), strict=True):
        assert found.shape == (2, 2, 20, 32)
        torch.testing.assert_close(found, torch.stack(expected, dim=1), rtol=0, atol=HALF)


def test_the_loss_is_the_weighted_sum_over_masked_crops() -> None:
    network = taught(common=2.0, specific=3.0, fusion=0.5, mask_probability=1.0)
    template, search = crops(network.config)
    boxes = torch.full((2, 4), 0.5)
    loss = TrackingLoss()
    torch.manual_seed(0)
    answer = network(template, search)
    assert isinstance(answer, StudentAnswer)
    found = network.training_loss(loss)(answer, boxes)
    assert set(found) == {"total", "giou", "l1", "focal", "common", "specific", "fusion"}
    tracking = loss(answer.output, boxes)["total"]
    expected = tracking + 2 * found["common"] + 3 * found["specific"] + 0.5 * found["fusion"]
    torch.testing.assert_close(found["total"], expected)
    assert all(found[name].shape == (2,) for name in found)
    # The teacher sees what the student does not.
    assert torch.equal(answer.search, search)
    network.eval()
    assert not torch.allclose(network(template, search).features, answer.output.features)


def test_without_masks_training_sees_what_evaluation_sees() -> None:
    network = taught(mask_probability=0.0)
    network.head.freeze_statistics()
    template, search = crops(network.config)
    answer = network(template, search)
    assert torch.equal(answer.output.features, network.eval()(template, search).features)


def test_the_training_pass_is_one_graph() -> None:
    """The teacher is no part of the graph, because it runs where the loss is computed."""
    torch.compiler.reset()
    network = taught(mask_probability=0.0)
    network.head.freeze_statistics()
    template, search = crops(network.config)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    answer = compiled(template, search)
    assert torch.equal(answer.output.features, network(template, search).output.features)
    masked = torch.compile(taught(mask_probability=1.0), backend="eager", fullgraph=True)(template, search)
    assert not torch.allclose(masked.output.features, answer.output.features)


def test_the_teacher_gets_no_gradient_and_is_no_part_of_the_student() -> None:
    network = taught()
    answer = network(*crops(network.config))
    network.training_loss(TrackingLoss())(answer, torch.full((2, 4), 0.5))["total"].sum().backward()
    teacher = network.teacher
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    names = [name for name, _ in network.named_parameters()]
    assert not any("teacher" in name for name in names)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(("distiller.", "patch_embed_x.", "base.rgb.patch_embed.")):
            assert parameter.grad.abs().sum() > 0, name
    network.double()
    assert next(teacher.parameters()).dtype == torch.float64


def test_bf16_learns_from_the_same_teacher(tmp_path: Path) -> None:
    """Under autocast the tokens are bf16, and what compares them is not."""
    saved_rgb(tmp_path / "rgb.safetensors")
    teacher = saved_teacher(tmp_path / "teacher.safetensors")
    losses = {}
    for precision in ("fp32", "bf16"):
        run = run_of(
            tmp_path, f"distill.teacher={teacher}", "distill.mask_probability=0", f"train.precision={precision}"
        )
        torch.manual_seed(0)
        network = starting_network(run)[0]
        assert isinstance(network, Student)
        network.begin_training(run, load_tracker)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            answer = network.train()(*crops(network.config))
        losses[precision] = network.training_loss(TrackingLoss())(answer, torch.full((2, 4), 0.5))
    for name in ("common", "specific", "fusion"):
        rough, fine = losses["bf16"][name], losses["fp32"][name]
        assert rough.dtype == torch.float32
        assert not torch.equal(rough, fine)
        torch.testing.assert_close(rough, fine, rtol=0.02, atol=0.01)


def test_an_eliminating_student_is_compared_where_it_kept_tokens() -> None:
    base = rgb_tracker(elimination_layers=(1,), keep_ratio=0.5)
    network = tuned("distill", base, mask_probability=0.0)
    assert isinstance(network, Student)
    teacher = two_streams()
    network.learn_from(teacher.config)
    network.teach(Teacher(teacher))
    answer = network.train()(*crops(network.config))
    assert [tap.tokens.shape[1] for tap in (*answer.layers, answer.features)] == [12, 12, 12]
    losses = network.training_loss(TrackingLoss())(answer, torch.full((2, 4), 0.5))
    assert all(bool(torch.isfinite(value).all()) for value in losses.values())


def uint8_crops(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = (small_config().template_size, small_config().search_size)
    made = [torch.randint(0, 256, (3, 6, side, side), generator=generator, dtype=torch.uint8) for side in sides]
    return made[0], made[1]


def test_pixels_are_found_again_in_normalized_crops() -> None:
    for pixels in uint8_crops():
        assert torch.equal(pixels_of(normalize(pixels)), pixels)


def test_a_cached_teacher_answers_the_same_and_runs_once(tmp_path: Path) -> None:
    network = two_streams()
    given = [normalize(pixels) for pixels in uint8_crops()]
    plain = Teacher(network)(*given)

    def cached() -> Teacher:
        return Teacher(network, TapCache(tmp_path, network_fingerprint(network), 1.0))

    first = cached()(*given)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    assert all(file.parent.parent.name == network_fingerprint(network) for file in files)
    again = cached()
    again._computed = lambda *_: pytest.fail("what is on the disk was computed again")  # type: ignore[method-assign]
    # In another order and a smaller batch: a file belongs to one pair of crops.
    second = again(given[0][[2, 0]], given[1][[2, 0]])
    for mine, theirs, found in zip(plain, first, second, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(found, theirs[[2, 0]])


def test_a_damaged_file_is_computed_again_and_a_full_cache_grows_no_more(tmp_path: Path) -> None:
    network = two_streams()
    given = [normalize(pixels) for pixels in uint8_crops()]
    expected = Teacher(network, TapCache(tmp_path, "teacher", 1.0))(*given)
    file = next(tmp_path.rglob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    found = Teacher(network, TapCache(tmp_path, "teacher", 1.0))(*given)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert file.read_bytes() == whole

    room = 4.5 * len(whole) / 1e9
    other = [normalize(pixels) for pixels in uint8_crops(seed=1)]
    Teacher(network, TapCache(tmp_path, "teacher", room))(*other)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert not list(tmp_path.rglob("*.part*"))


def test_files_hold_the_student_alone(tmp_path: Path) -> None:
    network = taught()
    save_tracker(tmp_path / "student.safetensors", network)
    again, config, _ = load_tracker(tmp_path / "student.safetensors")
    assert isinstance(again, Student)
    assert again.distiller is None
    expected = {name for name in network.state_dict() if not name.startswith("distiller.")}
    assert set(again.state_dict()) == expected
    given = crops(config)
    with torch.no_grad():
        for mine, theirs in zip(again(*given), network.eval()(*given), strict=True):
            assert torch.equal(mine, theirs)


def run_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(RunConfig, None, [f"init={folder / 'rgb.safetensors'}", "tuning=distill", *overrides])


def test_a_teacher_that_cannot_teach_is_refused(tmp_path: Path) -> None:
    saved_rgb(tmp_path / "rgb.safetensors")
    network = student()
    with pytest.raises(RGBXError, match=r"distill\.teacher is not set"):
        network.begin_training(run_of(tmp_path), load_tracker)
    with pytest.raises(RGBXError, match="a teacher needs two streams"):
        network.begin_training(run_of(tmp_path, f"distill.teacher={tmp_path / 'rgb.safetensors'}"), load_tracker)
    save_network(tmp_path / "two.safetensors", two_streams(), meta={"inference": {"search_factor": 5.0}})
    with pytest.raises(RGBXError, match=r"trained with search_factor 5\.0, not 4\.0; set pairs\.search_factor=5\.0"):
        network.begin_training(run_of(tmp_path, f"distill.teacher={tmp_path / 'two.safetensors'}"), load_tracker)
    save_network(tmp_path / "raw.safetensors", two_streams(), meta={"inference": {"depth_style": "raw"}})
    with pytest.raises(RGBXError, match=r"trained with depth_style raw, not jet; set data\.depth_style=raw"):
        network.begin_training(run_of(tmp_path, f"distill.teacher={tmp_path / 'raw.safetensors'}"), load_tracker)
    with pytest.raises(RGBXError, match=r"grids of 2 and 4 cells and the student of 2 and 6"):
        tuned("distill", rgb_tracker(search_size=96)).learn_from(two_streams().config)  # type: ignore[operator]
    with pytest.raises(RGBXError, match="meet 4 times, and the student has 2 layers"):
        tuned("distill", rgb_tracker(depth=2, cross_layers=(0, 1))).learn_from(  # type: ignore[operator]
            two_streams(cross_layers=(0, 1, 2, 3)).config
        )


def test_settings_have_the_documented_defaults() -> None:
    settings = DistillSection()
    assert (settings.common, settings.specific, settings.fusion) == (1.0, 1.0, 1.0)
    assert (settings.mask_probability, settings.mask_share, settings.mask_cells) == (0.5, 0.4, 2)
