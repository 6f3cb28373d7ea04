"""The methods that are not the library's, against what they minimize."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evidence import methods
from evidence.trials import trial


def a_layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2).double()


def optimizer(layer: nn.Module, method: str, prior: dict[str, torch.Tensor], **options: float) -> torch.optim.Optimizer:
    groups = [{"params": list(layer.named_parameters()), "lr": options.pop("lr", 1e-2)}]
    return methods.optimizer_of(trial("digits", "rotated", method, 0, lr=1e-2, **options), groups, prior, 10)


def test_without_strength_the_pull_in_adams_metric_is_adamw() -> None:
    layers = [a_layer(), a_layer()]
    prior = {name: torch.ones_like(p) for name, p in layers[0].named_parameters()}
    steppers = [optimizer(layers[0], "metric", prior, strength=0.0), optimizer(layers[1], "adamw", prior)]
    for layer, stepper in zip(layers, steppers, strict=True):
        for step in range(5):
            stepper.zero_grad()
            layer(torch.full((1, 3), 1.0 + step).double()).square().sum().backward()
            stepper.step()
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_the_pull_in_adams_metric_rests_at_the_minimum_of_ewcs_objective() -> None:
    # The loss ½ c (θ - b)² and the penalty ½ λ P (θ - a)² have their minimum at (c b + λ P a) / (c + λ P).
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(6, dtype=torch.float64))
    anchor, goal = parameter.detach().clone(), torch.randn(6, dtype=torch.float64)
    curvature, prior = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(6, dtype=torch.float64)
    strength = 0.7
    inner = torch.optim.AdamW([("w", parameter)], lr=1e-2, weight_decay=0.0)
    stepper = methods.AdamProximal(inner, {"w": prior}, strength, methods.kappa_of("1", 1))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(stepper, 0.998)
    for _ in range(4000):
        parameter.grad = curvature * (parameter.detach() - goal)
        stepper.step()
        scheduler.step()
    expected = (curvature * goal + strength * prior * anchor) / (curvature + strength * prior)
    assert torch.allclose(parameter, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("unit", "size", "rest"),
    [("square", 3.0, 1 / 12), ("srft", 3.0, 0.02 / 4), ("srft", 30.0, 0.02 / 4)],
)
def test_the_units_of_the_pull_in_adams_metric(unit: str, size: float, rest: float) -> None:
    """Under a constant gradient of one size an element of average significance rests RMS / λ away, or 1 / (λ g)."""
    parameter = nn.Parameter(torch.full((8,), 0.02, dtype=torch.float64))
    prior = {"w": torch.full((8,), 7e-9, dtype=torch.float64)}
    inner = torch.optim.AdamW([("w", parameter)], lr=1e-4, weight_decay=0.0)
    stepper = methods.AdamProximal(inner, prior, 4.0, methods.kappa_of("1", 1), unit)
    for _ in range(3000):
        parameter.grad = torch.full((8,), size, dtype=torch.float64)
        stepper.step()
    assert (0.02 - parameter.detach()).tolist() == pytest.approx([rest] * 8, rel=0.05)


def test_where_all_gradients_are_alike_the_pull_in_adams_metric_is_srfts() -> None:
    layers = [a_layer(), a_layer()]
    generator = torch.Generator().manual_seed(1)
    prior = {n: torch.rand(p.shape, generator=generator).double() for n, p in layers[0].named_parameters()}
    same = {"strength": 5.0, "kappa": "1"}
    steppers = [
        optimizer(layers[0], "metric", prior, unit="srft", **same),
        optimizer(layers[1], "srft", prior, normalize="global", **same),
    ]
    for layer, stepper in zip(layers, steppers, strict=True):
        chance = torch.Generator().manual_seed(2)
        for _ in range(20):
            for parameter in layer.parameters():
                parameter.grad = 3.0 * torch.randn(parameter.shape, generator=chance).sign().double()
            stepper.step()
    torch.testing.assert_close(layers[0].state_dict(), layers[1].state_dict(), rtol=1e-6, atol=1e-9)


def test_shapes_of_the_prior() -> None:
    prior = {"w": torch.tensor([0.0, 1.0, 4.0, 16.0])}

    def shaped(**options: float | str) -> list[float]:
        return methods.shaped(prior, trial("digits", "rotated", "srft", 0, **options))["w"].tolist()

    assert shaped() == [0.0, 1.0, 4.0, 16.0]
    assert shaped(power=0.5) == [0.0, 1.0, 2.0, 4.0]
    assert shaped(normalize="median") == [0.0, 0.25, 1.0, 4.0]
    assert shaped(blend=0.5) == pytest.approx([0.5, 0.5 + 0.5 / 5.25, 0.5 + 2 / 5.25, 0.5 + 8 / 5.25])


def test_weights_between() -> None:
    first, last = {"w": torch.zeros(2)}, {"w": torch.full((2,), 4.0), "new": torch.ones(1)}
    assert methods.between(first, last, 0.25)["w"].tolist() == [1.0, 1.0]
    assert set(methods.between(first, last, 0.25)) == {"w"}


def test_distances() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    first = {"weight": torch.tensor([[3.0, 3.0]])}
    found = methods.travel(first, layer, {"weight": torch.tensor([[1.0, 3.0]])})
    # RMS of the anchor 3; displacement (0, 1), so RMS √½, mean absolute ½, P̂ = (½, 3/2), forecast ½ · 3.
    assert found == pytest.approx(
        {"travel": 0.5**0.5 / 3, "moved": 0.5 / 3, "held": (0.5 * 1.5) ** 0.5 / 3, "forecast": 1.5}
    )


def test_an_average_of_what_does_not_move_is_itself() -> None:
    layer = a_layer()
    average = methods.Average(layer, 30)
    before = {name: tensor.clone() for name, tensor in average.weights.items()}
    average.update(layer)
    assert all(torch.equal(before[name], tensor) for name, tensor in average.weights.items())
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update(layer)
    assert torch.allclose(average.weights["weight"], before["weight"] + 0.1)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="the method 'sgd' is none of"):
        optimizer(a_layer(), "sgd", {})
