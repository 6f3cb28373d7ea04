"""The methods that are compared, each as an optimizer over a model's parameters and a rule for what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import srft_kernels as srft
from evidence.trials import Trial

LOW_RANK = ("lora", "lalora", "lora_srft")
TRAINED = ("adamw", "merged", "srft", "metric", "l2sp", "ewc", "probe", "lpft", *LOW_RANK)
"""``adamw``: all weights; ``merged``: the same, with :func:`merged` afterwards. ``srft``: SRFT around it, with every
option of the trial. ``metric``: the pull in Adam's own metric, :class:`AdamProximal`. ``l2sp``: the coupled uniform
penalty. ``ewc``: the coupled Fisher penalty in the paper's units. ``probe``: the last layer alone. ``lpft``: the last
layer for the first half of the run, then all weights. ``lora``: the low-rank updates of :mod:`evidence.low_rank` alone;
``lalora``: with EWC's penalty on them, in its units; ``lora_srft``: with SRFT around their AdamW."""
WITHOUT_PRIOR = ("adamw", "probe", "lpft", "lora")

DEFAULTS: dict[str, Any] = {
    "strength": 0.0,
    "kappa": "1",
    "damping": None,
    "normalize": "tensor",
    "mode": "proximal",
    "anchor": "previous",
}


def kappa_of(name: str, steps: int) -> Any:
    """A schedule by name: a constant, or one that falls from 1 to 0 over the run."""
    kinds = {"cosine": srft.CosineKappa, "linear": srft.LinearKappa, "exponential": srft.ExponentialKappa}
    if name.startswith("exponential to "):
        return srft.ExponentialKappa(steps, end=float(name.removeprefix("exponential to ")))
    return kinds[name](steps) if name in kinds else srft.ConstantKappa(float(name))


def shaped(prior: Mapping[str, Tensor], one: Trial) -> dict[str, Tensor]:
    """The prior as a trial changes it: to a ``power``, blended with uniform weights, or over its tensors' medians."""
    made = dict(prior)
    if one.get("power", 1.0) != 1.0:
        made = {name: tensor ** one["power"] for name, tensor in made.items()}
    if one.get("blend", 0.0):
        share = one["blend"]
        made = {n: (1 - share) * t / t.mean().clamp(min=torch.finfo(t.dtype).tiny) + share for n, t in made.items()}
    if one.get("normalize") == "median":
        made = {name: tensor / _median(tensor) for name, tensor in made.items()}
    return made


def overall_mean(tensors: Iterable[Tensor]) -> float:
    """The mean over the elements of all tensors."""
    listed = list(tensors)
    return sum(tensor.double().sum().item() for tensor in listed) / sum(tensor.numel() for tensor in listed)


def size_of(tensor: Tensor) -> float:
    """A tensor's RMS, at least 1e-3, in which SRFT measures how far its elements move."""
    return max(tensor.square().mean().sqrt().item(), 1e-3)


def added(total: Mapping[str, Tensor], found: Mapping[str, Tensor], one: Trial) -> dict[str, Tensor]:
    """The significance of all tasks so far; with ``sum="means"`` each task's is over its own mean first."""
    scale = 1.0 / overall_mean(found.values()) if one.get("sum") == "means" else 1.0
    return {name: total.get(name, 0.0) + scale * tensor for name, tensor in found.items()}


def _median(tensor: Tensor) -> Tensor:
    """The median of what is above zero, which is most of a tensor or the part that data reached."""
    positive = tensor[tensor > 0]
    return positive.median() if len(positive) else torch.ones_like(tensor.sum())


def optimizer_of(
    one: Trial, groups: list[dict[str, Any]], prior: Mapping[str, Tensor] | None, steps: int
) -> torch.optim.Optimizer:
    """The optimizer of a trial over named param groups; ``prior`` is the map that its method uses.

    Raises:
        ValueError: For a method that is not known.
    """
    trained = {name for group in groups for name, _ in group["params"]}
    inner = torch.optim.AdamW(groups, lr=one["lr"], weight_decay=one.get("weight_decay", 0.0))
    if one.method in ("adamw", "merged", "probe", "lpft", "lora"):
        return inner
    if one.method not in TRAINED or prior is None:
        raise ValueError(f"the method {one.method!r} is none of {', '.join(TRAINED)}, or lacks a prior")
    prior = {name: tensor for name, tensor in shaped(prior, one).items() if name in trained}
    if one.method in ("l2sp", "ewc", "lalora"):
        return srft.SRFT(
            inner, prior, strength=one["strength"], kappa=1.0, mode="coupled", normalize=None, damping=None
        )
    if one.method == "metric":
        kappa = kappa_of(str(one.get("kappa", "1")), steps)
        return AdamProximal(inner, prior, one["strength"], kappa, one.get("unit", "ewc"))
    option = {name: one.get(name, default) for name, default in DEFAULTS.items()}
    return srft.SRFT(
        inner,
        prior,
        strength=option["strength"],
        kappa=kappa_of(str(option["kappa"]), steps),
        mode=option["mode"],
        normalize=None if option["normalize"] in ("median", "none") else option["normalize"],
        damping=option["damping"],
        transfer_anchor=option["anchor"],
    )


class AdamProximal(torch.optim.Optimizer):
    r"""AdamW, then the minimizer of ½ (x-θ')² √v/η + ½ λκ P (x-a)²: EWC's quadratic in the metric in which Adam steps.

    A step of Adam is one of gradient descent with rates η/(√v+ε). The proximal step of the same rates has the weight
    w = ηλκP/(√v+ε), with λ in the units of EWC's penalty. Where training rests, the task's gradient balances λP(θ-a),
    as for the penalty in the loss; the moments, unlike there, are the task's alone.

    Args:
        inner: The optimizer to wrap.
        prior: P by parameter name.
        strength: λ.
        kappa: κ by the number of steps taken.
        unit: What P is multiplied by. ``"ewc"``: 1. ``"square"``: mean v / mean P, so that at λ = 1 the old task has as
            much curvature on average as the new one has squared gradient, with the v of the first ``FIRST`` steps.
            ``"srft"``: mean √v / (mean P · ρ), with the v of each step and the RMS ρ of the tensor. The weight is then
            SRFT's ηλκP̂/ρ times the mean of √v, over √v, and λ has SRFT's unit. All means are over the elements that
            have a P.
    """

    FIRST = 10

    def __init__(
        self,
        inner: torch.optim.AdamW,
        prior: Mapping[str, Tensor],
        strength: float,
        kappa: Callable[[int], float],
        unit: str = "ewc",
    ) -> None:
        self.inner, self.strength, self.schedule, self.count, self.unit = inner, strength, kappa, 0, unit
        super().__init__(inner.param_groups, inner.defaults)
        inner.param_groups = self.param_groups
        mean = overall_mean(prior.values()) if unit == "srft" else 1.0
        self.held = []
        for group in self.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                if name in prior:
                    anchor = parameter.detach().clone()
                    scale = 1.0 / (mean * size_of(anchor)) if unit == "srft" else 1.0
                    self.held.append((group, parameter, prior[name] * scale, anchor))
        self.scale = 1.0

    def _measure(self) -> None:
        """Take the unit from what v is now."""
        priors = [prior for _, _, prior, _ in self.held]
        elements, mean = sum(prior.numel() for prior in priors), overall_mean(priors)
        squares = [
            self.inner.state[p]["exp_avg_sq"].double() / (1.0 - group["betas"][1] ** self.count)
            for group, p, _, _ in self.held
            if p in self.inner.state
        ]
        self.scale = sum(v.sum().item() for v in squares) / elements / mean

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        kappa = self.schedule(self.count)
        self.count += 1
        if self.unit == "square" and self.count <= self.FIRST:
            self._measure()
        stepped = [one for one in self.held if one[1].grad is not None]
        roots = []
        for group, parameter, _, _ in stepped:
            correction = 1.0 - group["betas"][1] ** self.count
            roots.append(self.inner.state[parameter]["exp_avg_sq"].div(correction).sqrt_())
        if self.unit == "srft" and roots:
            self.scale = overall_mean(roots)
        for (group, parameter, prior, anchor), root in zip(stepped, roots, strict=True):
            weight = (group["lr"] / root.add_(group["eps"])).mul_(prior).mul_(self.strength * self.scale * kappa)
            parameter.lerp_(anchor, weight / (1.0 + weight))
        return loss


class Average:
    """An exponential average of a model's weights over about the last third of its run."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.decay = 1.0 - min(1.0, 3.0 / steps)
        self.weights = weights_of(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.weights.values()), [parameters[n].detach() for n in self.weights], 1.0 - self.decay
        )


def weights_of(model: nn.Module, names: Container[str] | None = None) -> dict[str, Tensor]:
    """A copy of a model's weights, of all or of those that are named."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if names is None or name in names}


@torch.no_grad()
def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set a model's weights to those that are given, by name."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


def between(first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the line from the old ones to the new ones (WiSE-FT, arXiv 2109.01903)."""
    return {name: torch.lerp(first[name], tensor, share) for name, tensor in last.items() if name in first}


def go_back(model: nn.Module, was: Mapping[str, Tensor], share: float) -> None:
    """Leave a model's weights that ``was`` names at a share of their way from there to where they are."""
    last = weights_of(model, was)
    load(model, between(was, last, share))


def merged(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], prior: Mapping[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """The way back by significance, after training: θ ← a + (θ-a) / (1 + s P̂), with P̂ over the mean of all tensors.

    It is the merging of two models by their Fisher information (arXiv 2111.09832) with that of the new one constant.
    Weights without a prior stay where they are.
    """
    mean = overall_mean(prior.values())
    return {
        name: first[name] + (last[name] - first[name]) / (1.0 + strength / mean * tensor)
        for name, tensor in prior.items()
        if name in first
    }


@torch.no_grad()
def travel(first: Mapping[str, Tensor], model: nn.Module, prior: Mapping[str, Tensor] | None) -> dict[str, float]:
    """How far the weights have gone from where they started.

    ``travel`` is the mean over tensors of RMS(θ-a)/ρ; ``moved`` the same of the mean absolute; ``held`` of the RMS
    weighed by P̂, and ``forecast`` is ½ Σ P (θ-a)², the loss on the old task that the prior predicts.
    """
    ratios, absolute, weighed, forecast = [], [], [], 0.0
    for name, parameter in model.named_parameters():
        if name not in first:
            continue
        away, scale = parameter.detach() - first[name], size_of(first[name])
        ratios.append(away.square().mean().sqrt().item() / scale)
        absolute.append(away.abs().mean().item() / scale)
        if prior is not None and name in prior:
            product = (prior[name] * away.square()).mean().item()
            forecast += 0.5 * product * away.numel()
            mean = prior[name].mean().item()
            weighed.append(math.sqrt(product / mean) / scale if mean > 0 else 0.0)
    found = {"travel": sum(ratios) / len(ratios), "moved": sum(absolute) / len(absolute)}
    if weighed:
        found |= {"held": sum(weighed) / len(weighed), "forecast": forecast}
    return found
