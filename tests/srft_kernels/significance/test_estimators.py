"""The estimators agree with per-sample gradients by torch.func, and their statistics with theory.

They leave the model untouched.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from srft_kernels.functional import fisher_diagonal
from srft_kernels.significance import SignificanceMap, estimate_prior
from srft_kernels.significance.progress import with_progress

Batch = tuple[Tensor, Tensor]


def per_sample(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


def net(seed: int = 0, dtype: torch.dtype = torch.float64, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = nn.BatchNorm1d(4) if norm else nn.LayerNorm(4)
        return nn.Sequential(nn.Linear(3, 4), middle, nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def data(sizes: tuple[int, ...] = (5, 3, 1), seed: int = 1, dtype: torch.dtype = torch.float64) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(n, 3, generator=g, dtype=torch.float64).to(dtype),
            torch.randint(0, 3, (n,), generator=g),
        )
        for n in sizes
    ]


def gradients_by_func(model: nn.Module, batches: list[Batch]) -> dict[str, Tensor]:
    """Return every sample's own gradient, (N, *shape) per name: torch.func's vmap of grad of a functional call."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    model.eval()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(model, (parameters, buffers), (x[None],))
        return F.cross_entropy(out, y[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    parts = [each(parameters, x, y) for x, y in batches]
    return {n: torch.cat([part[n] for part in parts]) for n in parameters}


def assert_close(made: SignificanceMap, truth: dict[str, Tensor], rtol: float) -> None:
    assert set(made) == set(truth)
    for name, expected in truth.items():
        torch.testing.assert_close(made[name], expected, rtol=rtol, atol=1e-300)


# ---- what is estimated ----


@pytest.mark.parametrize("norm", [False, True])
def test_exact_fisher_is_the_mean_square_of_per_sample_gradients(norm: bool) -> None:
    model, batches = net(norm=norm), data()
    truth = {n: g.square().mean(0) for n, g in gradients_by_func(model, batches).items()}
    model.train()
    made = estimate_prior(model, per_sample, batches, "fisher_exact")
    assert_close(made, truth, rtol=1e-10)
    assert made.samples == 9
    assert made.check(model) == []


def test_random_signs_are_exact_for_batches_of_one() -> None:
    model, batches = net(), data((1,) * 6)
    truth = {n: g.square().mean(0) for n, g in gradients_by_func(model, batches).items()}
    assert_close(estimate_prior(model, per_sample, batches), truth, rtol=1e-10)


def test_random_signs_are_unbiased_with_the_variance_of_theory() -> None:
    model, (batch,) = net(), data((6,))
    draws = 4000
    g = gradients_by_func(model, [batch])
    made = fisher_diagonal(model, per_sample, [batch], draws=draws, seed=11)
    z = []
    for name, each in g.items():
        squares = each.square()
        truth = squares.sum(0)
        variance = 2.0 * (truth.square() - squares.square().sum(0)) / draws
        z.append(((made[name] * 6 - truth) / variance.sqrt()).ravel())
    scores = torch.cat(z)
    # 39 correlated scores, each nearly standard normal: the largest exceeds 4.5 with probability below 3e-4.
    assert scores.numel() == 39
    assert scores.abs().max() < 4.5
    # Dependent draws, or a variance other than theory's, show in the scores' mean square. What it may be
    # under the theory (the scores are correlated, so it is no chi-square) is found by simulation with NumPy's
    # generator.
    flat = torch.cat([each.reshape(6, -1) for each in g.values()], dim=1).numpy()
    truth_all = (flat**2).sum(0)
    deviation = np.sqrt(2.0 * (truth_all**2 - (flat**4).sum(0)) / draws)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (400, draws, 6))
    simulated = [np.mean(((((s @ flat) ** 2).mean(0) - truth_all) / deviation) ** 2) for s in signs]
    assert np.quantile(simulated, 0.01) < float(scores.square().mean()) < np.quantile(simulated, 0.99)


def test_the_square_of_the_mean_gradient_would_fail_that_test() -> None:
    """Many implementations call this estimator Fisher. On the same data it is far outside what chance allows."""
    model, (batch,) = net(), data((6,))
    g = gradients_by_func(model, [batch])["0.weight"]
    made = fisher_diagonal(model, per_sample, [batch], draws=4000, seed=11)["0.weight"]
    truth, wrong = g.square().mean(0), g.mean(0).square()
    assert (made - truth).abs().sum() < 0.1 * (wrong - truth).abs().sum()


def test_signs_depend_on_the_seed_alone() -> None:
    model, batches = net(), data()
    torch.manual_seed(1)
    one = estimate_prior(model, per_sample, batches, seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    again = estimate_prior(model, per_sample, batches, seed=5)
    other = estimate_prior(model, per_sample, batches, seed=6)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_signs_do_not_come_from_the_global_generator() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)

    def reseeding(model: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return model(x)[:, 0]

    # Two gradients of 1 give (s + s')² ∈ {0, 4}, so a batch's mean is 0 or 2: the same one in all 64 batches
    # if the loss function's seeding reached the signs, else both, with a mean near 1 (standard error 1/8).
    made = estimate_prior(model, reseeding, [torch.ones(2, 1, dtype=torch.float64)] * 64)
    assert made["weight"].item() == pytest.approx(1.0, abs=0.5)


def test_magnitude_and_uniform_need_no_data() -> None:
    model = net(dtype=torch.bfloat16)
    magnitude = estimate_prior(model, estimator="magnitude")
    uniform = estimate_prior(model, estimator="uniform")
    for name, p in model.named_parameters():
        assert magnitude[name].dtype == uniform[name].dtype == torch.float32
        assert torch.equal(magnitude[name], p.detach().float().abs())
        assert torch.equal(uniform[name], torch.ones(p.shape))
    assert magnitude.samples is None


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1.0), (torch.float16, 1.0), (torch.float16, 256.0)])
@pytest.mark.parametrize("estimator", ["fisher", "fisher_exact"])
def test_narrow_parameters_are_accumulated_in_fp32(dtype: torch.dtype, scale: float, estimator: str) -> None:
    model = net(dtype=dtype)
    batches = data((1,) * 5, dtype=dtype)
    truth_model = net(dtype=dtype).double()
    wide = [(x.double(), y) for x, y in batches]
    truth = {n: g.square().mean(0) for n, g in gradients_by_func(truth_model, wide).items()}
    made = estimate_prior(model, per_sample, batches, estimator, loss_scale=scale)
    for name, expected in truth.items():
        assert made[name].dtype == torch.float32
        # The forward and backward pass ran in the narrow dtype: some ten roundings of the largest gradients,
        # squared.
        allowed = 20 * torch.finfo(dtype).eps * expected.max()
        assert (made[name].double() - expected).abs().max() < allowed


def test_loss_scale_rescues_what_fp16_would_flush_to_zero() -> None:
    model = nn.Linear(1, 1, bias=False).half()

    def faint(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x) * 2.0**-14)[:, 0]

    x = torch.full((1, 1), 2.0**-12, dtype=torch.float16)
    assert estimate_prior(model, faint, [x])["weight"].item() == 0.0
    assert estimate_prior(model, faint, [x], loss_scale=2.0**12)["weight"].item() == 2.0**-52


def test_sparse_and_shared_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=True, dtype=torch.float64)
            self.head = nn.Linear(3, 5, bias=False, dtype=torch.float64)
            self.twin = self.head

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.twin(self.table(x).mean(1))
            return out

    model = Tied()
    batch = (torch.tensor([[0, 1, 1], [2, 2, 4]]), torch.tensor([1, 3]))
    made = estimate_prior(model, per_sample, [batch], "fisher_exact")
    assert set(made) == {"table.weight", "head.weight"}
    squares = []
    for i in range(2):
        model.zero_grad()
        per_sample(model, (batch[0][i : i + 1], batch[1][i : i + 1])).sum().backward()
        assert model.table.weight.grad is not None
        squares.append(model.table.weight.grad.to_dense().square())
    torch.testing.assert_close(made["table.weight"], torch.stack(squares).mean(0))


# ---- how much is looked at ----


def test_samples_and_max_batches_end_the_pass() -> None:
    model, batches = net(), data((4, 4, 4))
    drawn: list[int] = []

    def counted() -> Iterator[Batch]:
        for k, batch in enumerate(batches):
            drawn.append(k)
            yield batch

    six = estimate_prior(model, per_sample, counted(), "fisher_exact", samples=6)
    assert (six.samples, drawn) == (6, [0, 1])
    g = gradients_by_func(model, batches)
    assert_close(six, {n: each[:6].square().mean(0) for n, each in g.items()}, rtol=1e-10)
    drawn.clear()
    two = estimate_prior(model, per_sample, counted(), "fisher_exact", max_batches=2)
    assert (two.samples, drawn) == (8, [0, 1])
    assert_close(two, {n: each[:8].square().mean(0) for n, each in g.items()}, rtol=1e-10)


def test_parameters_are_selected_by_requirement_by_name_and_by_filter() -> None:
    model, batches = net(), data()
    model[0].requires_grad_(False)
    assert set(estimate_prior(model, per_sample, batches)) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    frozen = estimate_prior(model, per_sample, batches, "fisher_exact", parameters=["0.weight"])
    assert_close(frozen, {"0.weight": gradients_by_func(net(), batches)["0.weight"].square().mean(0)}, rtol=1e-10)
    assert not model[0].weight.requires_grad
    matrices = estimate_prior(model, per_sample, batches, parameters=lambda name, p: p.dim() == 2)
    assert set(matrices) == {"0.weight", "3.weight"}


def test_a_parameter_that_no_gradient_reaches_is_zero_and_named() -> None:
    model = net()
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    made = estimate_prior(model, per_sample, data())
    assert not made["spare"].any()
    assert made.info["unreached"] == ["spare"]


def test_the_map_says_how_it_was_made() -> None:
    made = estimate_prior(net(), per_sample, data(), draws=3, seed=9)
    assert (made.estimator, made.samples, made.model) == ("fisher", 9, "Sequential")
    assert made.info["options"] == {"draws": 3, "loss_scale": 1.0}
    assert (made.info["seed"], made.info["batches"], made.info["parameter_dtypes"]) == (9, 3, ["float64"])


# ---- refusals ----


def test_a_non_finite_batch_is_left_out_counted_and_told() -> None:
    model, batches = net(), data((2, 3, 2))
    poisoned = [batches[0], (batches[1][0].clone(), batches[1][1]), batches[2]]
    poisoned[1][0][1, 0] = float("nan")
    for estimator in ("fisher", "fisher_exact"):
        with pytest.warns(RuntimeWarning, match="1 of 3 batches.*batch 1: 1 of 3 per-sample losses"):
            made = estimate_prior(model, per_sample, poisoned, estimator)
        clean = estimate_prior(model, per_sample, [batches[0], batches[2]], "fisher_exact")
        assert (made.samples, made.info["refused_batches"], made.info["batches"]) == (4, 1, 2)
        if estimator == "fisher_exact":
            assert_close(made, dict(clean), rtol=1e-12)


def test_finite_losses_with_broken_gradients_are_left_out_too() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)

    def root(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum(-1).sqrt()  # at 0 the gradient is 0 · inf

    good, bad = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="squared gradients of 1 parameters such as weight"):
        made = estimate_prior(model, root, [bad, good], "fisher_exact")
    torch.testing.assert_close(made["weight"], torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="all batches were refused"):
        estimate_prior(model, root, [bad, bad])


def _scalar(model: nn.Module, batch: Batch) -> Tensor:
    return per_sample(model, batch).mean()


@pytest.mark.parametrize("estimator", ["fisher", "fisher_exact"])
def test_a_scalar_loss_is_refused_but_for_batches_of_one(estimator: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=r"per-sample losses of shape \(B,\), got a scalar.*reduction='none'"):
        estimate_prior(model, _scalar, data((3,)), estimator)
    singles = data((1, 1))
    one = estimate_prior(model, _scalar, singles, estimator)
    assert_close(one, dict(estimate_prior(model, per_sample, singles, estimator)), rtol=1e-12)
    named = [{"note": "text", "pair": list(b)} for b in singles]
    estimate_prior(model, lambda m, b: _scalar(m, b["pair"]), named, estimator)
    with pytest.raises(ValueError, match="scalar"):
        estimate_prior(model, lambda m, b: _scalar(m, singles[0]), [object()], estimator)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"loss_fn": lambda m, b: 1.0}, "got float"),
        ({"loss_fn": lambda m, b: per_sample(m, b)[:, None]}, r"shape \(5, 1\)"),
        ({"loss_fn": lambda m, b: per_sample(m, b).detach()}, "do not depend"),
        ({"loss_fn": lambda m, b: m.extra * b[0][:, 0], "parameters": ["0.weight"]}, "no gradient reached"),
        ({"loss_fn": None}, "needs loss_fn and batches"),
        ({"batches": None}, "needs loss_fn and batches"),
        ({"batches": []}, "there were no samples"),
        ({"batches": [(torch.zeros(0, 3).double(), torch.zeros(0).long())]}, "there were no samples"),
        ({"estimator": "fischer"}, "unknown estimator 'fischer'.*fisher_exact"),
        ({"draw": 2}, "no option 'draw'; it has draws, loss_scale"),
        ({"estimator": "fisher_exact", "draws": 2}, "no option 'draws'"),
        ({"estimator": "uniform", "draws": 2}, "it has none"),
        ({"draws": 0}, "draws"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"loss_scale": math.inf}, "loss_scale"),
        ({"samples": 0}, "samples"),
        ({"max_batches": 0}, "max_batches"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"parameters": ["0.weigth", "x"]}, "no parameter '0.weigth' and 1 more"),
        ({"parameters": "0.weight"}, "string"),
        ({"parameters": lambda name, p: False}, "no parameter is selected"),
    ],
)
def test_unfit_arguments_are_refused_in_one_sentence(arguments: dict[str, Any], complaint: str) -> None:
    model = net()
    model.register_parameter("extra", nn.Parameter(torch.tensor(1.0, dtype=torch.float64)))
    with pytest.raises(ValueError, match=complaint):
        estimate_prior(model, **{"loss_fn": per_sample, "batches": data((5,)), **arguments})


def test_a_frozen_model_and_complex_parameters_are_refused() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match="none that requires a gradient"):
        estimate_prior(model, per_sample, data())
    with pytest.raises(ValueError, match=r"'weight' is torch\.complex64"):
        estimate_prior(nn.Linear(1, 1, bias=False, dtype=torch.complex64), per_sample, data())


# ---- the model is left as it was found ----


class Everything(nn.Module):
    """A network with all that an estimation pass can disturb: BatchNorm, dropout, a buffer that is replaced."""

    def __init__(self, seed: int, width: int, momentum: float | None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Linear(3, width),
                nn.BatchNorm1d(width, momentum=momentum),
                nn.Dropout(0.3),
                nn.Linear(width, 3),
            )
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("absent", None)
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        random.random()
        np.random.rand()  # noqa: NPY002
        out: Tensor = self.body(x) + 0.0 * torch.rand(())
        return out


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "training": [m.training for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "parameters": [p.detach().clone() for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "gradient objects": [id(p.grad) for p in model.parameters()],
        "buffer objects": [id(b) for b in model.buffers()],
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "buffer names": [list(m._buffers) for m in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # type: ignore[index, union-attr]  # noqa: NPY002
        "numpy place": np.random.get_state()[2],  # type: ignore[index]  # noqa: NPY002
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, old in before.items():
        if isinstance(old, (torch.Tensor, np.ndarray)):
            assert (old == after[name]).all(), name
        elif name in ("buffers", "parameters", "gradients"):
            torch.testing.assert_close(after[name], old, rtol=0.0, atol=0.0, msg=name)
        else:
            assert old == after[name], name


@given(
    seed=st.integers(0, 999),
    width=st.integers(1, 5),
    momentum=st.none() | st.floats(0.01, 1.0),
    estimator=st.sampled_from(["fisher", "fisher_exact", "magnitude", "uniform"]),
    training=st.booleans(),
    flags=st.lists(st.booleans(), min_size=8, max_size=8),
    with_gradients=st.booleans(),
    fails_at=st.none() | st.integers(0, 2),
    no_grad=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_pass_leaves_everything_as_it_found_it(
    seed: int,
    width: int,
    momentum: float | None,
    estimator: str,
    training: bool,
    flags: list[bool],
    with_gradients: bool,
    fails_at: int | None,
    no_grad: bool,
) -> None:
    model = Everything(seed, width, momentum)
    batches = data((4, 2, 3), dtype=torch.float32)
    if with_gradients:
        per_sample(model, batches[0]).sum().backward()
        model.body[0].bias.grad = None
    for module, flag in zip(model.modules(), flags, strict=False):
        module.training = flag
    model.body[3].weight.requires_grad_(False)
    wanted = [n for n, _ in model.named_parameters()]
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        assert all(m.training == training for m in model.modules())
        losses = per_sample(model, batch)
        # A loss function that calls backward itself must not disturb the gradients either.
        losses.sum().backward(retain_graph=True)
        if calls == fails_at:
            raise KeyboardInterrupt
        calls += 1
        return losses

    def run() -> None:
        with torch.set_grad_enabled(not no_grad):
            estimate_prior(model, loss, batches, estimator, parameters=wanted, training=training, seed=seed)

    before = snapshot(model)
    if fails_at is not None and estimator.startswith("fisher"):
        with pytest.raises(KeyboardInterrupt):
            run()
    else:
        run()
    assert_untouched(before, snapshot(model))


def test_that_test_can_fail() -> None:
    """A bare forward and backward pass changes everything in the same network that an estimation restores."""
    model = Everything(0, 3, 0.1)
    before = snapshot(model)
    per_sample(model, data((4,), dtype=torch.float32)[0]).sum().backward()
    after = snapshot(model)
    for name in ("gradients", "buffers", "torch", "numpy place", "python", "buffer objects"):
        with pytest.raises(AssertionError):
            assert_untouched({name: before[name]}, after)


def test_a_stochastic_pass_is_a_function_of_its_seed() -> None:
    model = Everything(0, 4, 0.1)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data((20,), dtype=torch.float32)[0]), batch_size=5, shuffle=True
    )
    runs = []
    for noise, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(noise)
        runs.append(estimate_prior(model, per_sample, loader, training=True, seed=seed))
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
    assert any(not torch.equal(runs[0][n], runs[2][n]) for n in runs[0])


def test_works_under_inference_mode() -> None:
    model, batches = net(), data()
    expected = estimate_prior(model, per_sample, batches)
    with torch.inference_mode():
        made = estimate_prior(model, per_sample, batches)
    assert all(torch.equal(made[n], expected[n]) for n in expected)


@pytest.mark.gpu
def test_signs_and_generators_on_the_gpu() -> None:
    batches = data(dtype=torch.float64)
    moved = [(x.cuda(), y.cuda()) for x, y in batches]
    expected = estimate_prior(net(), per_sample, batches, seed=4)
    before = torch.cuda.get_rng_state()
    made = estimate_prior(net().cuda(), per_sample, moved, seed=4)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name in expected:
        assert made[name].is_cuda
        torch.testing.assert_close(made[name].cpu(), expected[name], rtol=1e-9, atol=0.0)


# ---- from outputs: GNB and MAS ----


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    out: Tensor = model(batch[0])
    return out


def regression() -> tuple[nn.Linear, Batch, Tensor]:
    """Return a softmax regression, a batch of 6 and the class probabilities of the model, (6, 3)."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return model, (x, torch.zeros(6).long()), model(x).detach().softmax(1)


@pytest.mark.parametrize("micro_batches", [1, 3, 100])
def test_gnb_is_the_fisher_of_softmax_regression_with_the_variance_of_theory(micro_batches: int) -> None:
    """∂ -log p(y) / ∂W_cj = (p_c - [y = c]) x_j, so F_cj = mean p_c (1 - p_c) x_j²; and its fourth moment."""
    model, batch, p = regression()
    x, draws = batch[0], 4000
    made = estimate_prior(
        model, None, [batch], "gnb", outputs_fn=outputs, micro_batches=micro_batches, draws=draws, seed=5
    )
    second = torch.einsum("nc,nj->ncj", p * (1 - p), x**2)
    fourth = torch.einsum("nc,nj->ncj", p * (1 - p) ** 4 + (1 - p) * p**4, x**4)
    variance = torch.zeros(3, 4, dtype=torch.float64)
    for part in torch.arange(6).tensor_split(min(micro_batches, 6)):
        # Of (Σ g)² for independent g with mean zero: Σ m_4 + 3 ((Σ σ²)² - Σ σ⁴) - (Σ σ²)².
        s, squares = second[part].sum(0), second[part].square().sum(0)
        variance += fourth[part].sum(0) + 2 * s.square() - 3 * squares
    scores = (made["weight"] * 6 - second.sum(0)) / (variance / draws).sqrt()
    # 12 scores, each nearly standard normal: the largest exceeds 4 with probability below 8e-4.
    assert scores.abs().max() < 4.0
    # and if the variance were another, so would their mean square be: 12 correlated ones, four wide.
    assert 0.2 < float(scores.square().mean()) < 4.0
    assert made.samples == 6


def test_gnb_for_bernoulli_and_gaussian_outputs() -> None:
    model, batch, _ = regression()
    x, draws = batch[0], 4000
    p = model(x).detach().sigmoid()
    for likelihood, variance in (("bernoulli", p * (1 - p)), ("gaussian", torch.ones_like(p))):
        made = estimate_prior(
            model, None, [batch], "gnb", outputs_fn=outputs, likelihood=likelihood, micro_batches=6, draws=draws
        )
        truth = torch.einsum("nc,nj->cj", variance, x**2) / 6
        # A square's variance is at most twice its squared mean for a normal, and less for a coin's away from the ends:
        # the relative standard error is at most √(2 / 4000), 2.3 %, and in a mean over six smaller still.
        torch.testing.assert_close(made["weight"], truth, rtol=4.5 * math.sqrt(2 / draws), atol=0.0)


def test_gnb_takes_every_position_as_a_sample() -> None:
    model, batch, _ = regression()
    rows = estimate_prior(model, None, [batch], "gnb", outputs_fn=outputs)

    def by_position(model: nn.Module, batch: Batch) -> Tensor:
        return outputs(model, batch).reshape(2, 3, 3)

    positions = estimate_prior(model, None, [batch], "gnb", outputs_fn=by_position)
    assert positions.samples == 6
    assert torch.equal(positions["weight"], rows["weight"])
    assert estimate_prior(model, None, [batch], "gnb", outputs_fn=outputs, samples=4).samples == 4


def test_gnb_does_not_look_at_the_labels() -> None:
    model, batch, _ = regression()
    other = (batch[0], torch.ones(6).long())
    one, two = (estimate_prior(model, None, [b], "gnb", outputs_fn=outputs) for b in (batch, other))
    assert torch.equal(one["weight"], two["weight"])
    assert not torch.equal(
        one["weight"], estimate_prior(model, None, [batch], "gnb", outputs_fn=outputs, seed=1)["weight"]
    )


def test_mas_is_the_mean_absolute_gradient_of_the_squared_norm() -> None:
    model, batch, _ = regression()
    x, w = batch[0], model.weight.detach()
    truth = (2.0 * torch.einsum("nc,nj->ncj", x @ w.T, x)).abs().mean(0)  # ∂ |Wx|² / ∂W = 2 W x xᵀ
    made = estimate_prior(model, None, [(batch[0][:4], None), (batch[0][4:], None)], "mas", outputs_fn=outputs)
    torch.testing.assert_close(made["weight"], truth, rtol=1e-12, atol=0.0)
    # The absolute value of the summed gradient is another number: samples cancel in it.
    assert (2.0 * torch.einsum("nc,nj->cj", x @ w.T, x)).abs().div(6).sum() < 0.9 * truth.sum()
    scaled = estimate_prior(model, None, [batch], "mas", outputs_fn=outputs, loss_scale=64.0)
    torch.testing.assert_close(scaled["weight"], truth, rtol=1e-12, atol=0.0)
    four = estimate_prior(model, None, [batch], "mas", outputs_fn=outputs, samples=4)
    assert four.samples == 4


@pytest.mark.parametrize("estimator", ["gnb", "mas"])
def test_estimators_from_outputs_leave_the_model_and_refuse_what_does_not_fit(estimator: str, tmp_path: Path) -> None:
    model, batch = Everything(0, 4, 0.1), data((4,), dtype=torch.float32)[0]
    before = snapshot(model)
    made = estimate_prior(model, None, [batch], estimator, outputs_fn=outputs, training=True)
    assert_untouched(before, snapshot(model))
    assert made.info["options"]["outputs_fn"].endswith("outputs")
    made.save(tmp_path / "map.safetensors")
    for arguments, complaint in (
        ({}, "needs outputs_fn="),
        ({"outputs_fn": 3}, "needs outputs_fn="),
        ({"outputs_fn": outputs, "loss_fn": per_sample}, "uses no loss"),
        ({"outputs_fn": lambda m, b: [1.0]}, "got list"),
        ({"outputs_fn": lambda m, b: b[1]}, "int64"),
        ({"outputs_fn": lambda m, b: m(b[0]).detach()}, "do not depend"),
        ({"outputs_fn": outputs, "batches": None}, "needs batches"),
        ({"outputs_fn": outputs, "loss_scale": -1.0}, "loss_scale"),
    ):
        given: dict[str, Any] = {"loss_fn": None, "batches": [batch], **arguments}
        with pytest.raises(ValueError, match=complaint):
            estimate_prior(model, estimator=estimator, **given)
    bad = (batch[0] * math.nan, batch[1])
    with pytest.warns(RuntimeWarning, match="1 of 2 batches"):
        estimate_prior(model, None, [bad, batch], estimator, outputs_fn=outputs)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"likelihood": "poisson"}, "one of categorical, bernoulli, gaussian"),
        ({"micro_batches": 0}, "micro_batches must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"outputs_fn": lambda m, b: m(b[0])[:, 0]}, "likelihood='bernoulli'"),
    ],
)
def test_gnb_refuses_unfit_options(arguments: dict[str, Any], complaint: str) -> None:
    model, batch, _ = regression()
    with pytest.raises(ValueError, match=complaint):
        estimate_prior(model, None, [batch], "gnb", **{"outputs_fn": outputs, **arguments})


def test_any_pass_can_stop_at_a_relative_error() -> None:
    model, batches = net(), data((1,) * 400)
    made = estimate_prior(model, per_sample, batches, "fisher_exact", relative_error=0.2)
    used = made.info["batches"]
    assert 8 <= used < 400
    assert made.info["relative_error"] <= 0.2
    g = torch.cat([each[:used].square().flatten(1) for each in gradients_by_func(model, batches).values()], dim=1)
    variance = g.var(0, correction=1).sum() / used
    expected = (variance / (g.mean(0).square().sum() - variance)).sqrt()
    assert made.info["relative_error"] == pytest.approx(float(expected), rel=1e-9)


# ---- progress ----


@pytest.mark.parametrize("sized", [True, False])
def test_progress_shows_how_far_and_how_long_on_stderr(capsys: pytest.CaptureFixture[str], sized: bool) -> None:
    batches = data((2, 2, 2))
    estimate_prior(net(), per_sample, batches if sized else iter(batches), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.rstrip("\n").split("\r")[-1]
    assert shown.err.endswith("\n")
    assert ("3/3" in last and "0:00:00 left" in last) if sized else "3 done" in last


def test_progress_estimates_the_time_left_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    out = io.StringIO()
    for _ in with_progress(range(4), 4, "fisher", out):
        pass
    lines = out.getvalue().split("\r")
    # A thousand seconds an item: after the first of four, three thousand are left.
    assert "1/4, 1000.00 s each, 0:50:00 left" in lines[2]


def test_progress_ends_its_line_when_the_pass_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(model: nn.Module, batch: Batch) -> Tensor:
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError):
        estimate_prior(net(), broken, data(), progress=True)
    assert capsys.readouterr().err.endswith("\n")
