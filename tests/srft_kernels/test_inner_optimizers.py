"""What may stand inside of SRFT: every optimizer of torch and others. Some are refused when they are wrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import srft_kernels as srft
from tests.srft_kernels.networks import network, prior_of, train, weights

NOT_WRAPPED = {"Optimizer", "LBFGS", "SparseAdam"}
TORCHS = [
    kind
    for name, kind in sorted(vars(torch.optim).items())
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in NOT_WRAPPED
]
# torch's Muon takes matrices alone.
MATRICES_ALONE = {"Muon"}


def held(kind: type[Optimizer], model: nn.Module, **options: Any) -> Any:
    named = [(n, p) for n, p in model.named_parameters() if p.ndim == 2 or kind.__name__ not in MATRICES_ALONE]
    return kind(named, lr=1e-2, **options)  # type: ignore[call-arg]


def prior_for(inner: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    names = inner.param_groups[0]["param_names"]
    return {n: t for n, t in prior_of(model).items() if n in names}


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("kind", TORCHS, ids=lambda kind: kind.__name__)
def test_without_strength_every_optimizer_of_torch_is_itself(kind: type[Optimizer]) -> None:
    ours, theirs = network(), network()
    wrapped = srft.SRFT(held(kind, ours), strength=0.0, kappa=1.0)
    plain = held(kind, theirs)
    train(ours, wrapped, 4)
    train(theirs, plain, 4)
    if wrapped.gradients_stay_scaled:  # fused: in another order of operations than torch's loops
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(weights(ours), weights(theirs))


def test_a_strong_prior_holds_around_every_optimizer_of_torch() -> None:
    for kind in TORCHS:
        model = network()
        inner = held(kind, model)
        prior = {n: torch.ones_like(t) for n, t in prior_for(inner, model).items()}
        before = weights(model)
        train(model, srft.SRFT(inner, prior=prior, strength=1e6, kappa=1.0), 3)
        assert float((weights(model) - before).abs().max()) < 1e-3, kind.__name__


def test_an_optimizer_with_options_of_other_shapes_works() -> None:
    """It has three betas and two epsilons. Options of the inner optimizer are read only if it is fused."""

    class Adan(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "betas": (0.98, 0.92, 0.99), "eps": (1e-30, 1e-3), "momentum": None})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(group["lr"] * p.grad)

    ours, theirs = network(), network()
    train(ours, srft.SRFT(Adan(ours.named_parameters()), prior=prior_of(ours), kappa=0.5, damping="rank"), 3)
    train(
        theirs, srft.SRFT(Around(theirs.named_parameters(), 0.1), prior=prior_of(theirs), kappa=0.5, damping="rank"), 3
    )
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


class Around(Optimizer):
    """Plain gradient descent that no kernel fuses. It keeps what its closure returned."""

    def __init__(self, params: Any, lr: float, calls: int = 1) -> None:
        super().__init__(params, {"lr": lr})
        self.losses: list[Any] = []
        self.calls = calls

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is not None:
            for _ in range(self.calls):
                with torch.enable_grad():
                    self.losses.append(closure())
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def closure_of(model: nn.Module, optimizer: Optimizer, evaluations: list[float]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 11)).square().mean()
        loss.backward()
        evaluations.append(float(loss.detach()))
        return loss

    return closure


def test_closures_reach_the_inner_optimizer_and_are_evaluated_once() -> None:
    model = network()
    optimizer = srft.SRFT(Around(model.named_parameters(), 0.1), prior=prior_of(model))
    evaluations: list[float] = []
    loss = optimizer.step(closure_of(model, optimizer, evaluations))
    assert evaluations == [float(loss.detach())]
    assert [float(x.detach()) for x in optimizer.inner.losses] == evaluations  # type: ignore[attr-defined]


def test_a_closure_that_is_evaluated_again_is_an_error() -> None:
    model = network()
    optimizer = srft.SRFT(Around(model.named_parameters(), 0.1, calls=2), prior=prior_of(model))
    with pytest.raises(RuntimeError, match="evaluates its closure more than once"):
        optimizer.step(closure_of(model, optimizer, []))


# ---------------------------------------------------------------- what is refused when wrapped


class Sharpness(Optimizer):
    """The shape of the published SAM: two steps, and a closure between them."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def first_step(self) -> None: ...

    def second_step(self) -> None: ...

    def step(self, closure: Any = None) -> None: ...


def test_what_cannot_work_is_refused_when_it_is_wrapped() -> None:
    model = network()
    with pytest.raises(TypeError, match=r"cannot wrap LBFGS: it evaluates its closure several times"):
        srft.SRFT(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match="cannot wrap Sharpness"):
        srft.SRFT(Sharpness(model.parameters()))
    with pytest.raises(TypeError, match="sparse gradients alone"):
        srft.SRFT(torch.optim.SparseAdam(list(model.parameters())))
    inner = RMSprop(model.parameters(), differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        srft.SRFT(inner)
    relative = Around(model.parameters(), 0.1)
    relative.param_groups[0]["lr"] = None
    with pytest.raises(ValueError, match=r"lr=None.*relative_step=False"):
        srft.SRFT(relative)
    assert "strength" not in inner.param_groups[0]


# ---------------------------------------------------------------- GradScaler and gradient clipping


def test_only_an_instance_that_is_asked_to_takes_scaled_gradients() -> None:
    """Lightning refuses to clip for an optimizer that has the attribute, and torch's AdamW has it only when fused."""
    model = network()

    def takes_scaled(inner: Optimizer, **options: Any) -> bool:
        return bool(srft.SRFT(inner, **options)._step_supports_amp_scaling)

    assert not hasattr(srft.SRFT, "_step_supports_amp_scaling")
    assert not takes_scaled(AdamW(model.parameters()))
    assert takes_scaled(AdamW(model.parameters(), fused=True))
    assert takes_scaled(AdamW(model.parameters()), unscale_in_step=True)
    assert not takes_scaled(AdamW(model.parameters(), fused=True), unscale_in_step=False)
    assert not takes_scaled(RMSprop(model.parameters()))
    with pytest.raises(ValueError, match="unscale_in_step=True needs AdamW, Adam or SGD"):
        srft.SRFT(RMSprop(model.parameters()), unscale_in_step=True)


@pytest.mark.parametrize("switch", [None, True])
@pytest.mark.parametrize("kind", [AdamW, Adam, SGD, RMSprop], ids=lambda kind: kind.__name__)
def test_under_a_scaler_the_step_is_the_unscaled_one_and_an_infinity_skips_it(kind: Any, switch: bool | None) -> None:
    if switch and kind is RMSprop:
        pytest.skip("refused")
    ours, theirs = network(), network()
    wrapped = srft.SRFT(
        kind(ours.named_parameters(), lr=1e-2), prior=prior_of(ours), kappa=0.5, damping="rank", unscale_in_step=switch
    )
    plain = srft.SRFT(kind(theirs.named_parameters(), lr=1e-2), prior=prior_of(theirs), kappa=0.5, damping="rank")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(16, 11, generator=torch.Generator().manual_seed(0))
    for step in range(4):
        wrapped.zero_grad()
        scaler.scale(ours(x).square().mean()).backward()
        if step == 1:
            ours[0].weight.grad[0, 0] = float("inf")  # type: ignore[index]
            before = weights(ours)
            scaler.step(wrapped)
            scaler.update()
            assert torch.equal(before, weights(ours))
            assert scaler.get_scale() == 512.0
            continue
        scaler.step(wrapped)
        scaler.update()
        plain.zero_grad()
        theirs(x).square().mean().backward()
        plain.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


def test_gradients_clipped_under_a_scaler_are_the_clipped_ones() -> None:
    ours, theirs = network(), network()
    wrapped, plain = (
        srft.SRFT(AdamW(m.named_parameters(), lr=1e-2, fused=fused), prior=prior_of(m), kappa=0.5, damping="rank")
        for m, fused in ((ours, True), (theirs, False))
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        for model, optimizer in ((ours, wrapped), (theirs, plain)):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 11)).square().sum() * 100
            (scaler.scale(loss) if optimizer is wrapped else loss).backward()
            if optimizer is wrapped:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if optimizer is wrapped:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


def test_scaled_gradients_before_an_optimizer_that_is_not_fused_are_unscaled_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scale is set without a scaler's help, as some loops do, and one operation unscales all gradients."""
    ours, theirs = network(), network()
    wrapped = srft.SRFT(RMSprop(ours.named_parameters(), lr=1e-2), prior=prior_of(ours))
    plain = srft.SRFT(RMSprop(theirs.named_parameters(), lr=1e-2), prior=prior_of(theirs))
    calls: list[int] = []
    multiply = torch._foreach_mul_

    def counted(tensors: list[Tensor], other: Tensor) -> None:
        calls.append(len(tensors))
        multiply(tensors, other)

    monkeypatch.setattr(torch, "_foreach_mul_", counted)
    for model, scale in ((ours, 8.0), (theirs, 1.0)):
        (model(torch.ones(4, 11)).square().sum() * scale).backward()
    wrapped.grad_scale = torch.tensor(8.0)  # type: ignore[attr-defined]
    wrapped.step()
    ours_calls = calls.count(6)
    plain.step()
    assert ours_calls == 1
    assert torch.equal(weights(ours), weights(theirs))


# ---------------------------------------------------------------- modes, of schedule-free optimizers


def test_train_and_eval_reach_an_inner_optimizer_that_has_modes() -> None:
    seen: list[str] = []

    class Modal(SGD):
        def train(self) -> None:
            seen.append("train")

        def eval(self) -> None:
            seen.append("eval")

    model = network()
    optimizer = srft.SRFT(Modal(model.named_parameters(), lr=0.1))
    optimizer.train()
    optimizer.eval()
    assert seen == ["train", "eval"]
    plain = srft.SRFT(SGD(model.named_parameters(), lr=0.1))
    plain.train()
    plain.eval()


def test_a_schedule_free_optimizer_trains_evaluates_and_resumes() -> None:
    schedulefree = pytest.importorskip("schedulefree")

    def build(model: nn.Module) -> srft.SRFT:
        inner = schedulefree.AdamWScheduleFree(model.named_parameters(), lr=1e-2)
        return srft.SRFT(inner, prior=prior_of(model), kappa=0.5, damping="rank")

    whole, first, second = network(), network(), network(seed=2)
    through = build(whole)
    through.train()
    train(whole, through, 6)
    before, after = build(first), build(second)
    before.train()
    train(first, before, 3)
    trained = weights(first)
    before.eval()
    assert not torch.equal(trained, weights(first))
    before.train()
    torch.testing.assert_close(trained, weights(first), rtol=1e-5, atol=1e-6)
    before.eval()
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    after.train()
    train(second, after, 3, first=3)
    torch.testing.assert_close(weights(whole), weights(second), rtol=1e-4, atol=1e-5)
