"""What a significance map accepts, how it is kept, how it is carried to another network, and what it refuses."""

from __future__ import annotations

import builtins
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from srft_kernels.significance import SignificanceMap, storage
from srft_kernels.significance.statistics import LayerStatistics, depth_grid, quantile_grid


def small_map(**made: Any) -> SignificanceMap:
    return SignificanceMap(
        {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "b": torch.tensor(0.5)}, **made
    )


def assert_same(one: SignificanceMap, other: SignificanceMap) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])
    for field in ("estimator", "samples", "model", "info", "version", "dtype", "shapes"):
        assert getattr(one, field) == getattr(other, field)


# ---- values ----


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.tensor([0.0, float("nan")]), "1 of 2 elements are not, the first of them nan"),
        (torch.tensor([float("inf"), 1.0]), "finite"),
        (torch.tensor([1.0, -1e-30]), "-1.0"),
        (torch.tensor([1, 2]), "torch.int64"),
        (torch.tensor([1j]), "complex64"),
        ([1.0], "list"),
    ],
)
def test_what_is_no_significance_is_refused_by_name(tensor: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        SignificanceMap({"fine": torch.ones(1), "layer.weight": tensor})
    assert "'layer.weight'" in str(error.value)


def test_a_nameless_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        SignificanceMap({"": torch.ones(1)})


def test_is_a_mapping_from_a_plain_dict() -> None:
    tensors = {
        "x": torch.ones(2, requires_grad=True),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0),
    }
    made = SignificanceMap(tensors)
    assert list(made) == list(tensors)
    assert not made["x"].requires_grad
    assert made["x"].data_ptr() == tensors["x"].data_ptr()
    assert made.elements == 3
    assert "nothing" not in made
    with pytest.raises(KeyError):
        made["nothing"]


def test_repr_says_what_it_is() -> None:
    shown = repr(small_map(estimator="fisher", samples=12, model="ViT"))
    for part in ("fisher", "ViT", "12 samples", "3 tensors", "9 elements", "float32"):
        assert part in shown


def test_to_casts_and_refuses_overflow() -> None:
    made = small_map()
    assert made.to(torch.float64).dtype == "float64"
    assert_same(made.to(torch.float64).to(torch.float32), made)
    assert SignificanceMap({"x": torch.ones(1), "y": torch.ones(1).double()}).dtype == "mixed"
    with pytest.raises(ValueError, match="'big'"):
        SignificanceMap({"big": torch.tensor([1e6])}).to(torch.float16)


# ---- files ----

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@given(
    tensors=st.dictionaries(
        st.text("abcé.0123", min_size=1, max_size=8),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)),
        max_size=6,
    ),
    samples=st.none() | st.integers(1, 10**9),
    info=st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_save_and_load_give_the_same_map(
    tmp_path_factory: pytest.TempPathFactory, tensors: Any, samples: int | None, info: Any, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    values = {n: torch.rand(shape, generator=g).to(dtype) for n, (shape, dtype) in tensors.items()}
    made = SignificanceMap(values, estimator="fisher", samples=samples, model="Net", info=info, version="0.0.1")
    path = tmp_path_factory.mktemp("maps") / "net.significance.safetensors"
    made.save(path)
    assert_same(SignificanceMap.load(path), made)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_is_safetensors_that_says_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    small_map(estimator="fisher", samples=7, model="Net", info={"seed": 3}).save(path)
    torch.testing.assert_close(load_file(path)["a.weight"], torch.arange(6.0).reshape(2, 3))
    # Read the header by the format's definition: its length in eight bytes, then JSON.
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    made = json.loads(header["__metadata__"]["significance"])
    assert made["parameters"] == {"a.weight": [2, 3], "a.bias": [2], "b": []}
    assert (made["estimator"], made["samples"], made["dtype"], made["model"]) == (
        "fisher",
        7,
        "float32",
        "Net",
    )
    assert made["info"] == {"seed": 3}
    assert made["version"]


def test_shared_and_strided_tensors_are_stored_as_their_values(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    made = SignificanceMap({"t": whole.t(), "part": whole[1], "again": whole[1], "step": whole[:, ::2]})
    made.save(tmp_path / "m.safetensors")
    assert_same(SignificanceMap.load(tmp_path / "m.safetensors"), made)
    assert (tmp_path / "m.safetensors").stat().st_size < 2000


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "map.safetensors"
    small_map().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match="truncated") as error:
        SignificanceMap.load(path)
    assert str(path) in str(error.value)


def _pickle(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path)


def _plain_safetensors(path: Path) -> None:
    save_file({"a": torch.ones(1)}, path)


def _other_tensors(path: Path) -> None:
    made = {"estimator": "x", "samples": 1, "dtype": "", "model": "", "version": "", "info": {}}
    described = json.dumps({**made, "parameters": {"b": [1]}})
    save_file({"a": torch.ones(1)}, path, {"format": storage.FORMAT, "significance": described})


def _no_json(path: Path) -> None:
    save_file({"a": torch.ones(1)}, path, {"format": storage.FORMAT, "significance": "{"})


def _json_list(path: Path) -> None:
    save_file({"a": torch.ones(1)}, path, {"format": storage.FORMAT, "significance": "[]"})


def _negative(path: Path) -> None:
    storage.write(
        path,
        {"a": -torch.ones(1)},
        {
            "estimator": "x",
            "samples": None,
            "dtype": "float32",
            "model": "",
            "version": "",
            "info": {},
            "parameters": {"a": [1]},
        },
    )


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (_pickle, "no safetensors"),
        (lambda path: path.write_text("a,b\n1,2\n"), "no safetensors"),
        (_plain_safetensors, "no significance map"),
        (_other_tensors, "does not describe"),
        (_no_json, "damaged"),
        (_json_list, "damaged"),
        (_negative, "finite and ≥ 0"),
        (lambda path: path.mkdir(), "not a file"),
    ],
)
def test_a_foreign_file_is_refused_in_one_sentence(
    tmp_path: Path, write: Callable[[Path], object], complaint: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    write(path)
    with pytest.raises(ValueError, match=complaint) as error:
        SignificanceMap.load(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SignificanceMap.load(tmp_path / "nowhere.safetensors")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.safetensors"
    old = small_map(samples=1)
    old.save(path)

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        small_map(samples=2).save(path)
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    with pytest.raises(TypeError):
        small_map(info={"x": object()}).save(path)
    assert_same(SignificanceMap.load(path), old)
    assert os.listdir(tmp_path) == [path.name]


def test_save_replaces_the_file_and_writes_into_no_old_one(tmp_path: Path) -> None:
    path, reader = tmp_path / "map.safetensors", tmp_path / "held by a reader"
    old, new = small_map(samples=1), small_map(samples=2)
    old.save(path)
    os.link(path, reader)
    new.save(path)
    assert_same(SignificanceMap.load(reader), old)
    assert_same(SignificanceMap.load(path), new)


def test_a_write_that_the_system_stops_is_its_error(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits on file size are POSIX")
    code = """
import errno, resource, sys, torch
from srft_kernels.significance import SignificanceMap
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    SignificanceMap({"a": torch.ones(100_000)}).save(sys.argv[1])
except OSError as error:
    sys.exit(0 if error.errno == errno.EFBIG else 1)
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "map.safetensors")], check=False)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        small_map().save(tmp_path / "nowhere" / "map.safetensors")


# ---- fitting ----


def test_check_accepts_every_form_of_the_model_it_fits() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    made = SignificanceMap({n: torch.ones_like(p) for n, p in model.named_parameters()})
    assert made.check(model) == []
    assert made.check(model.named_parameters()) == []
    assert made.check(dict(model.named_parameters())) == []


def test_check_names_everything_that_differs() -> None:
    model = {"same": torch.ones(2), "new": torch.ones(1), "wide": torch.ones(3, 4)}
    made = SignificanceMap({"same": torch.ones(2), "gone": torch.ones(1), "wide": torch.ones(4, 3)})
    with pytest.raises(ValueError, match="does not fit") as error:
        made.check(model)
    message = str(error.value)
    assert "1 parameters without significance: new" in message
    assert "1 names that the model lacks: gone" in message
    assert "wide (model (3, 4), map (4, 3))" in message
    assert "same" not in message.replace("the same", "")
    with pytest.raises(ValueError, match="gone") as error:
        made.check(model, strict=False)
    assert "without significance" not in str(error.value)


def test_parameters_without_a_prior_are_allowed_where_not_strict() -> None:
    made = SignificanceMap({"old": torch.ones(2)})
    model = {"old": torch.ones(2), "fusion.weight": torch.ones(5), "fusion.bias": torch.ones(1)}
    assert made.check(model, strict=False) == ["fusion.weight", "fusion.bias"]
    with pytest.raises(ValueError, match="strict=False"):
        made.check(model)


def test_check_names_at_most_ten_and_counts_the_rest() -> None:
    model = {f"p{k:02d}": torch.ones(1) for k in range(13)}
    with pytest.raises(ValueError, match=r"13 parameters without significance: p00, .* p09 and 3 more\.") as error:
        SignificanceMap({}).check(model)
    assert "p10" not in str(error.value)


# ---- renaming ----


def test_rename_carries_a_map_to_both_streams_and_leaves_out() -> None:
    made = small_map(estimator="fisher", samples=5, model="Net", info={"seed": 1})

    def both(name: str) -> list[str] | None:
        return None if name == "b" else [f"rgb.{name}", f"x.{name}"]

    carried = made.rename(both)
    assert list(carried) == ["rgb.a.weight", "x.a.weight", "rgb.a.bias", "x.a.bias"]
    assert carried["x.a.weight"].data_ptr() == made["a.weight"].data_ptr()
    assert (carried.estimator, carried.samples, carried.model, carried.info) == (
        "fisher",
        5,
        "Net",
        {"seed": 1},
    )


def test_rename_by_dict_keeps_what_it_does_not_mention(tmp_path: Path) -> None:
    renamed = small_map().rename({"a.weight": "w", "a.bias": None, "b": ["b", "c"]})
    assert list(renamed) == ["w", "b", "c"]
    renamed.save(tmp_path / "m.safetensors")
    assert_same(SignificanceMap.load(tmp_path / "m.safetensors"), renamed)


def test_a_swap_of_names_is_no_collision() -> None:
    made = SignificanceMap({"a": torch.zeros(1), "b": torch.ones(1)})
    swapped = made.rename({"a": "b", "b": "a"})
    assert (swapped["a"].item(), swapped["b"].item()) == (1.0, 0.0)


def test_rename_refuses_collisions_and_misspelled_names() -> None:
    with pytest.raises(ValueError, match=r"both 'a\.weight' and 'a\.bias' would become 'same'"):
        small_map().rename(lambda name: "same")
    with pytest.raises(ValueError, match=r"a\.wieght"):
        small_map().rename({"a.wieght": "w"})


# ---- looking ----


def test_statistics_against_numpy() -> None:
    rng = np.random.default_rng(0)
    heavy, light = rng.pareto(0.7, (40, 5)), rng.random(7)
    light[:2] = 0.0
    bias = rng.random(5)
    made = SignificanceMap(
        {
            "heavy.weight": torch.tensor(heavy),
            "light": torch.tensor(light),
            "heavy.bias": torch.tensor(bias),
            "void.weight": torch.zeros(0),
        }
    )
    layers = {row.name: row for row in made.statistics()}
    assert list(layers) == ["heavy", "light", "void"]
    together = np.concatenate([heavy.ravel(), bias])
    whole = together.sum() + light.sum()
    for row, values in ((layers["heavy"], together), (layers["light"], light)):
        assert row.elements == values.size
        assert row.mean == pytest.approx(values.mean())
        assert row.maximum == pytest.approx(values.max())
        assert row.share == pytest.approx(values.sum() / whole)
        assert row.above == pytest.approx((values > 10 * values.mean()).mean())
        assert row.zero == pytest.approx((values == 0).mean())
    assert layers["heavy"].above > 0.0
    assert layers["void"] == LayerStatistics("void", 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert [row.name for row in made.statistics("parameter")] == list(made)
    with pytest.raises(ValueError, match="by must be"):
        made.statistics("tensor")  # type: ignore[arg-type]


def test_report_is_an_aligned_table_of_every_layer() -> None:
    lines = small_map(estimator="fisher").report().splitlines()
    assert "fisher" in lines[0]
    assert lines[1].split()[:4] == ["layer", "elements", "mean", "max"]
    assert [line.split()[0] for line in lines[3:]] == ["a", "b"]
    assert len({len(line) for line in lines[1:]}) == 1
    # 17 of 17.5 lie in a: six elements that sum to 15, and two ones.
    assert lines[3].split()[1:5] == ["8", "2.125e+00", "5.000e+00", "97.14"]


def test_plot_writes_a_picture_and_draws_into_axes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plotting needs matplotlib")
    from matplotlib.figure import Figure

    path = tmp_path / "map.png"
    small_map().plot(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    axes = Figure().subplots()
    assert small_map().plot(axes) is axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([2.125, 0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    SignificanceMap({"z": torch.zeros(3)}).plot(tmp_path / "zero.png")


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install srft-kernels\[plot\]"):
        small_map().plot()


# ---- two maps, and heat maps ----


def rank_by_numpy(values: np.ndarray) -> np.ndarray:
    """Return mean ranks by counting the smaller values and half of the equal ones."""
    return (values[:, None] > values[None]).sum(1) + ((values[:, None] == values[None]).sum(1) - 1) / 2.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_rank_correlation_against_numpy_with_ties(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    row = SignificanceMap({"w": torch.tensor(a)}).compare({"w": torch.tensor(b)}).rows[0]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(row.rank_correlation)
        assert np.isnan(row.shared_top)
    else:
        expected = np.corrcoef(rank_by_numpy(a), rank_by_numpy(b))[0, 1]
        assert row.rank_correlation == pytest.approx(expected, abs=1e-12)


def test_compare_by_hand() -> None:
    up = torch.arange(20.0).reshape(4, 5)
    first = SignificanceMap({"a.weight": up, "a.bias": torch.tensor([1.0, 2.0]), "gone": torch.ones(1)})
    turned = up.flip(0, 1)
    half = up.clone()
    half[3, 4] = 0.0  # the largest of all is now the smallest, but for one
    second = {"a.weight": turned, "a.bias": torch.tensor([2.0, 4.0]), "new": torch.ones(1)}
    compared = first.compare(second)
    weight, bias = compared.rows
    assert (weight.rank_correlation, weight.shared_top, weight.mass_ratio) == pytest.approx((-1.0, 0.0, 1.0))
    assert (bias.rank_correlation, bias.shared_top, bias.mass_ratio) == pytest.approx((1.0, 1.0, 0.5))
    assert compared.rank_correlation == pytest.approx((-20 + 2) / 22)
    assert (compared.only_first, compared.only_second) == (("gone",), ("new",))
    assert first.compare({"a.weight": half}).rows[0].shared_top == 0.5
    (layer,) = first.compare({**second, "a.weight": 3 * up}, by="layer").rows
    assert (layer.name, layer.elements) == ("a", 22)
    lines = compared.report().splitlines()
    assert lines[1].split()[:2] == ["layer", "elements"]
    assert lines[3].split() == ["a.weight", "20", "-1.000", "0.0", "1.000e+00"]
    assert lines[-2:] == ["only in the first: gone", "only in the second: new"]


def test_compare_refuses_maps_of_different_models() -> None:
    with pytest.raises(ValueError, match="no name in common"):
        small_map().compare({"other": torch.ones(1)})
    with pytest.raises(ValueError, match=r"'b' has shape \(\) in one and \(3,\)"):
        small_map().compare({"b": torch.ones(3)})
    with pytest.raises(ValueError, match="by must be"):
        small_map().compare(small_map(), by="tensor")  # type: ignore[arg-type]


def test_heat_maps_show_the_quantiles_and_the_depths(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plotting needs matplotlib")
    made = SignificanceMap(
        {
            "embed.weight": torch.full((2,), 3.0),
            "blocks.0.attn.weight": torch.arange(1.0, 101.0),
            "blocks.1.attn.weight": torch.full((3,), 2.0),
            "blocks.1.attn.bias": torch.zeros(3),
        }
    )
    grid = quantile_grid(made, "parameter")
    assert grid.rows == list(made)
    assert grid.values[1] == [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 100.0]
    depth = depth_grid(made)
    assert (depth.rows, depth.columns) == (["-", "blocks.0", "blocks.1"], ["embed.weight", "attn.weight", "attn.bias"])
    np.testing.assert_array_equal(depth.values, [[3.0, np.nan, np.nan], [np.nan, 50.5, np.nan], [np.nan, 2.0, 0.0]])
    nested = SignificanceMap({f"1.layers.{k}.mlp.{j}.bias": torch.ones(1) for k in range(3) for j in (0, 2)})
    assert depth_grid(nested).columns == ["mlp.0.bias", "mlp.2.bias"]
    assert depth_grid(nested).rows == ["1.layers.0", "1.layers.1", "1.layers.2"]
    drawings: list[Callable[[Path], object]] = [
        lambda path: made.plot_heatmap(path),
        lambda path: made.plot_heatmap(path, columns="kind"),
        lambda path: made.compare(made).plot(path),
        lambda path: SignificanceMap({"z": torch.zeros(3), "none": torch.zeros(0)}).plot_heatmap(path),
    ]
    for k, draw in enumerate(drawings):
        draw(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    axes = made.plot_heatmap(columns="kind")
    shown = axes.images[0].get_array()
    assert shown is not None
    assert shown.shape == (3, 3)
    assert [label.get_text() for label in axes.get_yticklabels()] == depth.rows
    with pytest.raises(ValueError, match="columns must be"):
        made.plot_heatmap(columns="depth")  # type: ignore[arg-type]
