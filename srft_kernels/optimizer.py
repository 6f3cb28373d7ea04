"""SRFT: significance-regularized fine-tuning (arXiv 2508.17488) as a wrapper around a torch optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from srft_kernels import curvature as hutchinson
from srft_kernels import sharded
from srft_kernels.curvature import Hutchinson, Product
from srft_kernels.ops import Backend, contract, initial_statistics, plan_maker
from srft_kernels.ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.layouts import look
from srft_kernels.ops.plan import StepCall, StepPlan, StepTensors, count_nonfinite
from srft_kernels.ops.tensors import lie_alike
from srft_kernels.schedule import ConstantKappa, Kappa, as_schedule, evaluate, schedule_from_state, schedule_state
from srft_kernels.sharded import Sharing, is_distributed, is_sharded, like, local, shard_of

MODES = {"proximal": Mode.PROXIMAL, "decoupled": Mode.DECOUPLED, "coupled": Mode.COUPLED}
DAMPINGS = {"rank": Damping.RANK, "mean": Damping.MEAN, None: Damping.UNDAMPED}
NORMALIZATIONS = {"tensor": Normalize.PER_TENSOR, "global": Normalize.GLOBAL, None: Normalize.ABSOLUTE}
TRANSFERS = ("auto", "second_moment", "own")
TRANSFER_ANCHORS = ("previous", "initial")
NONFINITE = ("hold", "skip_step", "propagate")
SMALLEST_RMS = 1e-3
NAMED_AT_MOST = 10
CAPTURED_TOO_EARLY = "take a step before capturing one: state is made, and read back to the host, in the first"

# What the wrapper adds to a parameter's state; everything else in it is the inner optimizer's.
EXTRA_STATE = ("anchor", "prior", "transfer", "transfer_step", "transfer_statistics", "curvature")
MOMENTS: dict[Inner, tuple[str, ...]] = {
    Inner.ADAM: ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    Inner.SGD: ("momentum_buffer",),
}
SIZED_STATE = (*MOMENTS[Inner.ADAM], *MOMENTS[Inner.SGD], "anchor", "prior", "transfer", "curvature")


class _Held:
    """Hides a tensor from ``Optimizer.load_state_dict``, which would cast it to its parameter's dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


@dataclass
class _Plan:
    """A backend's plan for the parameters of a group that have a gradient: until that set or a layout changes."""

    having: list[bool]
    layout: int  # fingerprint of the parameters
    dense_layout: int  # of the gradients that the kernels can read as they are
    params: list[Tensor]
    dense: bool
    sizes: Tensor  # elements of each parameter, at least 1: float64 on the device
    tensors: StepTensors
    steps: StepPlan
    settings: Tensor  # on the device, for a step that is captured
    sharing: Sharing | None  # of shards' statistics
    seen: bool = False  # the statistics of T are there
    captured: bool = False  # a graph has the addresses of what is here


@dataclass
class _Work:
    """What a step does to a group."""

    group: dict[str, Any]
    plan: _Plan
    grads: list[Tensor]
    laid_out: bool  # as the kernels read them
    param_addresses: Tensor
    grad_addresses: Tensor
    flags: int = 0  # of the product that this step folds
    plus: list[Tensor] = field(default_factory=list)
    minus: list[Tensor] = field(default_factory=list)


class SRFT(Optimizer):
    r"""Hold every weight back in proportion to its significance, in the optimizer's own pass over memory.

    Around :class:`torch.optim.AdamW`, :class:`~torch.optim.Adam` and :class:`~torch.optim.SGD` the inner optimizer's
    arithmetic, the significance and the pull are one kernel; around any other optimizer the regularization runs before
    and after its ``step``. With θ' what the inner optimizer alone would make of θ, the default (``mode="proximal"``) is

    .. math:: θ ← \frac{θ' + w_p a + w_t θ}{1 + w_p + w_t}, \quad w_p = ηλκ\hat P/ρ, \quad w_t = (1-κ)\frac{μ}{1-μ}

    where a is the anchor, P̂ the prior significance over its mean, ρ the RMS of the anchor tensor (at least 1e-3), and μ
    rises with the rank of the transfer significance T among its tensor's.

    Args:
        inner: The optimizer to wrap. Its param groups become this one's: per-group values of the options below may
            stand in them. Build it from ``model.named_parameters()`` for a prior keyed by name.
        prior: Prior significance P ≥ 0 by parameter name (a :class:`SignificanceMap` or a dict of tensors), or by
            parameter. Parameters that it does not name get P = 0.
        anchor: What the prior pulls to: ``"initial"`` (the weights now), or a state dict by name, or a mapping by
            parameter.
        strength: λ ≥ 0, without a unit: at 1, an element of average significance under full-size Adam steps rests about
            one RMS of its tensor from the anchor; at 10, a tenth of that.
        kappa: Schedule from 1 (protect the prior) to 0 (steady the transfer), called with the number of steps taken; or
            a number. By default 1 with a prior and 0 without.
        mode: ``"proximal"``, ``"decoupled"`` or ``"coupled"``. Coupled adds λκP̂(θ-a) to the gradient (EWC, L2-SP); it
            has no damping, because a pull toward where a weight is has no gradient there.
        normalize: Mean that P (and T, where its size matters) is divided by: ``"tensor"``, ``"global"`` or None.
        damping: How T holds an element where it just was: ``"rank"``, ``"mean"`` (w_t = (1-κ) τ T / mean T) or None.
        mu, tau: (μ_min, μ_max) of rank damping; τ of mean damping.
        transfer: ``"second_moment"`` (Adam's own average of g², no extra memory), ``"own"`` (a state with its own
            ``transfer_beta``), or ``"auto"``: the first where it is possible.
        transfer_anchor: ``"previous"``, or ``"initial"``: T pulls to the anchor as well, S = κP̂ + (1-κ)T̂ as one
            weighted quadratic.
        regularize: (per group) False leaves a group to the inner optimizer alone.
        curvature: A :class:`Hutchinson`: the Hessian's diagonal, estimated on the way, is the prior significance or
            part of it. ``step`` then wants a closure in every ``curvature.every``-th step.
        nonfinite: ``"hold"``: an element whose gradient is not finite stays as it is and is counted in
            :attr:`nonfinite`. ``"skip_step"``: one such element skips the step, for one more read of the gradients.
            ``"propagate"``: as torch. Around an optimizer that is not fused, "hold" shows that optimizer a zero
            gradient.
        backend: None (compiled kernels where there are some, else Triton's on a GPU, else the reference), or
            ``"native"``, ``"triton"`` or ``"reference"``, refused where it cannot run. :attr:`backend` says which it
            is.

    Distributed parameters:
        ``DTensor`` with ``Shard(0)`` or ``Replicate()`` on one mesh of one dimension, as FSDP2's ``fully_shard`` makes
        them (before the optimizer): kernels work on local shards in place, state is distributed like its parameter, and
        means and ranks are those of whole tensors (ranks of a sample where a shard has more than 131072 elements, as
        ever). A prior or an anchor may be full, the same on every process, or distributed. A step costs a small
        collective for ``damping="mean"``, ``transfer_anchor="initial"`` and ``nonfinite="skip_step"``, and two (2 KB a
        parameter) for ranks. Every process takes every step, with gradients for the same parameters. :attr:`penalty`,
        its terms and :attr:`nonfinite` are of this process's shards: sum them over the mesh for the whole.

    State:
        Per parameter under torch's names, and ``anchor``, ``prior`` (where there is a prior), ``transfer`` (where it is
        a state of its own), ``transfer_statistics``. Averages are float32 for float32, bfloat16 and float16 parameters,
        float64 for float64.

    Raises:
        ValueError: For options out of range, complex parameters, other placements than the above, a prior or an anchor
            that does not fit; nothing is changed.
        RuntimeError: In ``step`` for gradients that are sparse or not distributed as their parameter, before anything
            is changed.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        inner: Optimizer,
        prior: Mapping[Any, Tensor] | None = None,
        *,
        anchor: Literal["initial"] | Mapping[Any, Tensor] = "initial",
        strength: float = 10.0,
        kappa: Kappa | float | None = None,
        mode: Literal["proximal", "decoupled", "coupled"] = "proximal",
        normalize: Literal["tensor", "global"] | None = "tensor",
        damping: Literal["rank", "mean"] | None = "rank",
        mu: tuple[float, float] = (0.25, 0.65),
        tau: float = 1.0,
        transfer: Literal["auto", "second_moment", "own"] = "auto",
        transfer_beta: float = 0.999,
        transfer_anchor: Literal["previous", "initial"] = "previous",
        curvature: Hutchinson | None = None,
        nonfinite: Literal["hold", "skip_step", "propagate"] = "hold",
        strict: bool = True,
        backend: Backend | None = None,
    ) -> None:
        if not isinstance(inner, Optimizer):
            raise TypeError(
                f"SRFT wraps a torch.optim.Optimizer, got {type(inner).__name__}: SRFT(torch.optim.AdamW(...), ...)"
            )
        if isinstance(inner, SRFT):
            raise TypeError("SRFT cannot wrap another SRFT: give it the optimizer inside")
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be one of {NONFINITE}, got {nonfinite!r}")
        self.inner = inner
        self.nonfinite_policy = nonfinite
        self.curvature = curvature
        self._inner_kind = {AdamW: Inner.ADAM, Adam: Inner.ADAM, SGD: Inner.SGD}.get(cast(Any, type(inner)), Inner.NONE)
        self._mesh: Any = None  # of distributed parameters
        self._plans: dict[int, _Plan] = {}
        self._outdated: list[_Plan] = []  # captured ones that steps use no more: a replay would still write there
        self._scales: dict[Tensor, tuple[float, float]] = {}  # 1 / mean P, 1 / rho
        self._paths: dict[Tensor, Tensor] | None = None  # of a PathIntegral
        self._product: Product | None = None  # that the present step folds
        self._curved = False  # H and its means are there, from a fold before
        self._rescale = False  # a plan lacks the scales of H
        protects = prior is not None or curvature is not None
        schedule = as_schedule(kappa) if kappa is not None else ConstantKappa(1.0 if protects else 0.0)
        defaults = {
            "strength": float(strength),
            "kappa": schedule,
            "mode": mode,
            "normalize": normalize,
            "damping": damping,
            "mu": tuple(mu),
            "tau": float(tau),
            "transfer": transfer,
            "transfer_beta": float(transfer_beta),
            "transfer_anchor": transfer_anchor,
            "regularize": True,
            "updates": 0,
        }
        proposed = [{**defaults, **group} for group in inner.param_groups]
        for group in proposed:
            self._check_group(group)
        priors = _by_parameter(prior, proposed, "prior", strict=strict) if prior is not None else {}
        for param, tensor in priors.items():
            _check_significance(tensor, _name_of(param, proposed))
        anchors = {} if anchor == "initial" else _by_parameter(anchor, proposed, "anchor", strict=False)
        missing = [_name_of(p, proposed) for p in priors if anchor != "initial" and p not in anchors]
        if missing:
            raise ValueError(
                f"the anchor lacks {_some(missing)}, for which there is a prior: give all, or anchor='initial'"
            )
        devices = {p.device for group in proposed for p in group["params"]}
        if len(devices) != 1:
            raise ValueError(
                f"all parameters must be on one device, got {sorted(map(str, devices))}: wrap one optimizer a device"
            )

        self.device = devices.pop()
        self.backend, self._make_steps = plan_maker(backend, self.device)

        super().__init__(inner.param_groups, {**inner.defaults, **defaults})
        inner.param_groups = self.param_groups
        self._report = torch.zeros(contract.REPORT, dtype=torch.float64, device=self.device)
        for group in self.param_groups:
            self._make_state(group, priors, anchors)

    # ------------------------------------------------------------------ what a user reads

    @property
    def penalty(self) -> Tensor:
        """R of the last step, both terms: 0-d float64 on the parameters' device, read without a synchronization.

        The prior's term is ½ Σ (w_p/η)(θ-a)² at the weights before the step (in coupled mode ½ λκ Σ P̂(θ-a)²); the
        transfer's is ½ Σ (w_t/η)(Δθ)² of the step taken, or, pulling to the anchor, like the prior's.
        """
        return self._report[contract.PRIOR_PENALTY] + self._report[contract.TRANSFER_PENALTY]

    @property
    def prior_penalty(self) -> Tensor:
        """The prior's term of :attr:`penalty`."""
        return self._report[contract.PRIOR_PENALTY].clone()

    @property
    def transfer_penalty(self) -> Tensor:
        """The transfer's term of :attr:`penalty`."""
        return self._report[contract.TRANSFER_PENALTY].clone()

    @property
    def nonfinite(self) -> Tensor:
        """Gradient elements that were not finite, since the wrapper was made or loaded: 0-d int64 on the device."""
        return self._report[contract.NONFINITE].long()

    @property
    def kappa(self) -> float:
        """κ that the next step of the first group will use."""
        group = self.param_groups[0]
        return evaluate(group["kappa"], group["updates"])

    @property
    def gradients_stay_scaled(self) -> bool:
        """Whether gradients that a ``GradScaler`` scaled are still so after a step."""
        return self._inner_kind is not Inner.NONE

    def state_bytes(self) -> dict[str, int]:
        """Bytes of state by name, this wrapper's and the inner optimizer's together."""
        total: dict[str, int] = defaultdict(int)
        for states in (self.state, self.inner.state if self._inner_kind is Inner.NONE else {}):
            for state in states.values():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        total[name] += local(value).numel() * value.element_size()
        return dict(total)

    # ------------------------------------------------------------------ groups and state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, anchored where its weights are now and without a prior; its options may stand in it."""
        if not hasattr(self, "_report"):  # while Optimizer.__init__ adopts the inner optimizer's groups
            super().add_param_group(param_group)
            return
        params = param_group["params"]
        listed = [params] if isinstance(params, Tensor) else list(params)
        tensors = [p[1] if isinstance(p, tuple) else p for p in listed]
        self._check_group({**self.defaults, **param_group, "params": tensors})
        if "kappa" in param_group:
            param_group["kappa"] = as_schedule(param_group["kappa"])
        super().add_param_group({**param_group, "params": listed})
        self._make_state(self.param_groups[-1], {}, {})

    def _check_group(self, group: dict[str, Any]) -> None:
        """Refuse options and parameters that the step could not honor."""
        for option, known in (("mode", MODES), ("damping", DAMPINGS), ("normalize", NORMALIZATIONS)):
            if group[option] not in known:
                raise ValueError(f"{option} must be one of {list(known)}, got {group[option]!r}")
        for option, allowed in (("transfer", TRANSFERS), ("transfer_anchor", TRANSFER_ANCHORS)):
            if group[option] not in allowed:
                raise ValueError(f"{option} must be one of {list(allowed)}, got {group[option]!r}")
        if not 0 <= group["strength"] < float("inf"):
            raise ValueError(f"strength must be finite and at least 0, got {group['strength']}")
        low, high = group["mu"]
        if not 0 <= low <= high < 1:
            raise ValueError(f"mu must be (lowest, highest) with 0 <= lowest <= highest < 1, got {group['mu']}")
        if not 0 <= group["tau"] < float("inf"):
            raise ValueError(f"tau must be finite and at least 0, got {group['tau']}")
        if not 0 <= group["transfer_beta"] < 1:
            raise ValueError(f"transfer_beta must be in [0, 1), got {group['transfer_beta']}")
        as_schedule(group["kappa"])
        if group["transfer"] == "second_moment" and not self._second_moment(group):
            raise ValueError(
                "transfer='second_moment' needs AdamW or Adam inside and mode 'proximal' or 'decoupled', where the "
                "second moment is an average of the task gradient alone: use transfer='own'"
            )
        if self._inner_kind is not Inner.NONE and group.get("differentiable"):
            raise ValueError("differentiable=True is not supported: the fused step runs outside autograd")
        for param in group["params"]:
            if param.is_complex():
                raise ValueError(
                    f"complex parameters are not supported (shape {tuple(param.shape)}): view them as real"
                )
            if is_distributed(param):
                name = _name_of(param, [group])
                self._mesh = sharded.check(param, name, self._mesh)
                if self.curvature is not None and self.curvature.method == "autograd":
                    raise ValueError(
                        f"{name} is distributed: FSDP2 does not differentiate twice; use method='finite_difference'"
                    )
            if not param.is_floating_point():
                raise ValueError(f"parameters must be floating, got {param.dtype}")
            if param.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                raise ValueError(f"parameters must be float32, float64, bfloat16 or float16, got {param.dtype}")

    def _second_moment(self, group: dict[str, Any]) -> bool:
        return self._inner_kind is Inner.ADAM and group["mode"] != "coupled" and not self._l2_decay(group)

    def _l2_decay(self, group: dict[str, Any]) -> bool:
        """Adam's own weight decay goes through the gradient, and so into its second moment."""
        return group.get("weight_decay", 0) != 0 and not self._decoupled_decay(group)

    def _decoupled_decay(self, group: dict[str, Any]) -> bool:
        return bool(group.get("decoupled_weight_decay", isinstance(self.inner, AdamW)))

    def _weighs_transfer(self, group: dict[str, Any]) -> bool:
        return bool(group["regularize"]) and self._options(group).weighs_transfer

    def _keeps_statistics(self, group: dict[str, Any]) -> bool:
        return bool(self._weighs_transfer(group) or (self.curvature is not None and group["regularize"]))

    def _own_transfer(self, group: dict[str, Any]) -> bool:
        if not self._weighs_transfer(group):
            return False
        return bool(group["transfer"] == "own" or not self._second_moment(group))

    def _make_state(
        self, group: dict[str, Any], priors: Mapping[Tensor, Tensor], anchors: Mapping[Tensor, Tensor]
    ) -> None:
        """All state of a group's parameters at once, so that memory is known before the first step.

        Where the inner optimizer has taken steps already, its state is taken over and training goes on.
        """
        for param in group["params"]:
            if not param.requires_grad:
                continue
            state: dict[str, Any] = self.state[param]
            taken = self.inner.state.pop(param, {}) if self._inner_kind is not Inner.NONE else {}
            prior = priors.get(param) if group["regularize"] else None
            if prior is not None:
                state["prior"] = _like(param, _real(param), prior)
            if self.curvature is not None and group["regularize"]:
                state["curvature"] = _zeros(param)
            pulls = prior is not None or "curvature" in state or group["transfer_anchor"] == "initial"
            if pulls and group["regularize"]:
                anchor = anchors.get(param, param.detach())
                state["anchor"] = _like(param, _anchor_dtype(param, anchor), anchor)
            if self._keeps_statistics(group):
                state["transfer_statistics"] = torch.zeros(
                    contract.STATISTICS, dtype=torch.float64, device=param.device
                )
            self._complete_state(group, param, taken)
        self._curved = False
        self._forget_plans()

    def _complete_state(self, group: dict[str, Any], param: Tensor, taken: Mapping[str, Any]) -> None:
        """Whatever the step needs and is not there: from ``taken`` where that has it, else as of no step taken."""
        state: dict[str, Any] = self.state[param]
        wanted: tuple[str, ...] = MOMENTS.get(self._inner_kind, ())
        if self._inner_kind is Inner.ADAM and not group["amsgrad"]:
            wanted = wanted[:2]
        if self._inner_kind is Inner.SGD and group["momentum"] == 0:
            wanted = ()
        if self._own_transfer(group):
            wanted = (*wanted, "transfer")
        for name in wanted:
            value = taken.get(name, state.get(name))
            state[name] = _like(param, _real(param), value) if value is not None else _zeros(param)
        name = "step" if self._inner_kind is not Inner.NONE else "transfer_step"
        started = 1.0 if taken.get("momentum_buffer") is not None else 0.0  # torch's SGD keeps no count
        step = taken.get(name, state.get(name, started))
        state[name] = torch.tensor(float(step), dtype=torch.float32, device=param.device)

    def _forget_plans(self) -> None:
        """State was made or replaced: what was derived from it is derived again."""
        self._outdated += [plan for plan in self._plans.values() if plan.captured]
        self._plans.clear()
        self._scales = {}

    def _means(self) -> dict[Tensor, tuple[float, float]]:
        """(1 / mean P, 1 / rho) of every parameter with a prior or an anchor."""
        means: dict[Tensor, float] = {}
        total, count = 0.0, 0
        for group in self.param_groups:
            for param in group["params"]:
                prior = self.state[param].get("prior") if param in self.state else None
                if prior is None or prior.numel() == 0:
                    continue
                if group["normalize"] == "global":
                    total += sharded.total(prior)
                    count += prior.numel()
                means[param] = 1.0 if group["normalize"] is None else _mean(prior)
        scales = {}
        for group in self.param_groups:
            for param in group["params"]:
                mean = means.get(param, 0.0)
                if group["normalize"] == "global" and param in means:
                    mean = total / count
                anchor = self.state[param].get("anchor") if param in self.state else None
                rho = _rms(anchor) if anchor is not None and anchor.numel() else 0.0
                scales[param] = (1 / mean if mean > 0 else 0.0, 1 / max(rho, SMALLEST_RMS))
        return scales

    # ------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: significance, penalty and the inner optimizer's update.

        ``closure``, if given, re-evaluates the model and returns the loss, which is returned. While a CUDA graph is
        captured, every number that moves is read from device tensors when the graph runs: see :meth:`advance`. On a GPU
        a step that ``GradScaler`` or ``nonfinite="skip_step"`` skips is skipped there, without a synchronization, and
        counts for κ all the same.
        """
        self._product = None
        if self.curvature is not None and self.param_groups[0]["updates"] % self.curvature.every == 0:
            loss = self._evaluate_curvature(self.curvature, closure)
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        else:
            loss = None
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and self._mesh is not None:
            found_inf = sharded.anywhere(found_inf, self._mesh)
        work = [self._collect(index, group) for index, group in enumerate(self.param_groups)]
        if self._product is not None:
            for one in work:
                self._add_product(one, self._product)
        if self._rescale:
            self._scale_curvature()
        on_device = self.device.type == "cuda" and self._inner_kind is not Inner.NONE
        if not on_device and found_inf is not None and bool(found_inf):
            return loss
        count = 0
        if self.nonfinite_policy == "skip_step":
            found = _any_nonfinite([g for w in work for g in w.grads], self.device)
            if self._mesh is not None:
                found = sharded.anywhere(found, self._mesh)
            found_inf = found if found_inf is None else torch.maximum(found_inf.float().reshape(1), found)
            count = contract.COUNT_SKIPPED
            if self._inner_kind is Inner.NONE and bool(found):
                count_nonfinite([g for w in work for g in w.grads], self._report)
                return loss
        if self._inner_kind is Inner.NONE:
            self._step_around(work, grad_scale)
        elif not self._step_fused(work, found_inf, grad_scale, count):
            return loss
        if self._product is not None:
            self._share_curvature_sums(work, found_inf)
            self._product = None
            self._scale_curvature()
        if not self._capturing():
            for group in self.param_groups:
                group["updates"] += 1
        return loss

    def advance(self) -> None:
        """Set lr, κ, λ and every other number of the next step on the device: before each replay of a captured step.

        .. code-block:: python

            optimizer.step()  # at least one before the capture makes the state
            with torch.cuda.graph(graph):
                optimizer.step()
            for batch in loader:
                scheduler.step(), optimizer.advance()
                graph.replay()

        Raises:
            RuntimeError: If no step was taken yet, or if what a captured step works on was replaced since: by a step
                over other parameters or layouts, by loading, or by adding a group.
        """
        if self._outdated:
            raise RuntimeError(
                "a captured step works on state that was replaced since (other parameters had gradients, a checkpoint "
                "was loaded, or a group was added): take a step and capture it again"
            )
        for index, group in enumerate(self.param_groups):
            plan = self._plans.get(index)
            if plan is None:
                raise RuntimeError("advance() moves the numbers of a captured step: take a step first, and capture one")
            self._write_settings(plan, group, self._values(group))
            group["updates"] += 1

    def _evaluate_curvature(self, spec: Hutchinson, closure: Callable[[], Any] | None) -> Any:
        """The closure's gradients, and the product that this step folds into H where it can: from the second time on,
        because the means of H come from the fold before.
        """
        if closure is None:
            raise RuntimeError(
                f"curvature is estimated in every {spec.every}th step, which needs a closure that evaluates the loss: "
                "optimizer.step(closure)"
            )
        if self._capturing():
            raise RuntimeError("a step that estimates curvature cannot be captured: capture the steps between")
        every = self._probe_numbers()
        numbers = {p: every[p] for p in self._with_curvature() if p.requires_grad}
        params = list(numbers)
        curvatures = [local(self.state[p]["curvature"]) for p in params]
        draw = self._draws()
        loss, product = hutchinson.evaluate(spec, params, list(numbers.values()), curvatures, draw, closure)
        if self._curved and self._inner_kind is not Inner.NONE:
            self._product = product
        else:
            hutchinson.fold(params, list(numbers.values()), curvatures, product)
            self._sum_curvature(params)
            self._curved = True
        self._rescale = True
        return loss

    def _draws(self) -> int:
        """Draws that were folded into H before the present step's."""
        assert self.curvature is not None
        return int(self.param_groups[0]["updates"]) // self.curvature.every

    def _probe_numbers(self) -> dict[Tensor, int]:
        """What keys each parameter's signs; shards of a parameter are tensors with signs of their own."""
        params = [p for group in self.param_groups for p in group["params"]]
        first = 0 if self._mesh is None else self._mesh.get_local_rank() * len(params)
        return {p: number + (first if is_sharded(p) else 0) for number, p in enumerate(params)}

    def _sum_curvature(self, params: list[Tensor]) -> None:
        """The sums of |H|, by a pass of their own, for the scales of coming steps."""
        sums = torch.stack([local(self.state[p]["curvature"]).abs().sum(dtype=torch.float64) for p in params])
        if self._mesh is not None:
            sums = sharded.totals(sums, params, self._mesh)
        for param, total in zip(params, sums.unbind(), strict=True):
            self.state[param]["transfer_statistics"][contract.CURVATURE_SUM] = total

    def _share_curvature_sums(self, work: list[_Work], found_inf: Tensor | None) -> None:
        """After a fold: of a shard's |H| the sums over all shards. A step that was skipped left those shared."""
        for one in work:
            if one.plan.sharing is None:
                continue
            column = one.plan.tensors.statistics[:, contract.CURVATURE_SUM]
            shared = sharded.totals(column, one.plan.params, self._mesh)
            column.copy_(shared if found_inf is None else torch.where(found_inf.reshape(()) != 0, column, shared))

    def _scale_curvature(self) -> None:
        """What the next step multiplies |H| by, on the device and without waiting for it."""
        self._rescale = False
        if self.curvature is None:
            return
        # A step that folds has the means of the fold before, when less of H's beginning at zero was gone.
        beta, draws = self.curvature.beta, self._draws()
        bias = 1 - beta ** (draws + 1)
        correction = (1 - beta**draws) / bias if self._product is not None and draws else 1.0
        for group, plan in ((self.param_groups[index], plan) for index, plan in self._plans.items()):
            column = plan.tensors.scales[:, contract.CURVATURE_SCALE]
            if not column.numel():
                continue
            if group["normalize"] == "global":
                means = self._mean_curvature().expand_as(column)
            elif group["normalize"] is None:
                means = torch.full_like(column, correction * bias)
            else:
                means = plan.tensors.statistics[:, contract.CURVATURE_SUM] / plan.sizes
            scale = correction * self.curvature.blend
            column.copy_(torch.where(means > 0, scale / means, torch.zeros_like(means)))

    def _with_curvature(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if "curvature" in self.state.get(p, {})]

    def _mean_curvature(self) -> Tensor:
        """Mean |H| over all tensors, as the last fold left it."""
        held = self._with_curvature()
        sums = [self.state[p]["transfer_statistics"][contract.CURVATURE_SUM] for p in held]
        total = torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.float64, device=self.device)
        return total / max(sum(p.numel() for p in held), 1)

    def _add_product(self, work: _Work, product: Product) -> None:
        """What the group's kernels fold into H, beside its gradients."""
        none = torch.empty(0, device=self.device)
        dense = work.plan.tensors.params

        def listed(found: dict[Tensor, Tensor]) -> list[Tensor]:
            return [
                _matching(p, found[q]) if q in found else none for p, q in zip(dense, work.plan.params, strict=True)
            ]

        work.plus = listed(product.plus)
        work.minus = listed(product.minus) if product.minus is not None else []
        work.flags = contract.FOLD | (contract.FOLD_GRADIENT if product.minus is None and not product.whole else 0)

    def follow(self, paths: dict[Tensor, Tensor] | None) -> bool:
        """Gather -g (new θ - θ) of every step into ``paths``, by parameter, in the same pass: for
        :class:`PathIntegral`. None stops it. False where this optimizer cannot, or does for another already.
        """
        if self._inner_kind is Inner.NONE or (paths is not None and self._paths is not None):
            return False
        self._paths = paths
        self._forget_plans()
        return True

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _step_fused(self, work: list[_Work], found_inf: Tensor | None, grad_scale: Tensor | None, count: int) -> bool:
        """The fused step over all groups. False where it was skipped, if the host knows."""
        if self.device.type != "cuda" and found_inf is not None and bool(found_inf):
            if count:
                count_nonfinite([g for w in work for g in w.grads], self._report)
            return False
        if found_inf is not None:
            found_inf = found_inf.to(self.device, torch.float32)
        if grad_scale is not None:
            grad_scale = grad_scale.to(self.device, torch.float32)
        reset = contract.RESET_PENALTIES
        for one in work:
            if one.grads:
                self._run(one, Phase.FUSED, reset | count, found_inf, grad_scale)
                reset = 0
        if reset:
            self._report[: contract.NONFINITE] = 0
        return True

    def _step_around(self, work: list[_Work], grad_scale: Tensor | None) -> None:
        """Regularization in one pass before and one after an inner optimizer that is not fused."""
        if grad_scale is not None:
            unscale = grad_scale.double().reciprocal().reshape(()).to(self.device)
            for one in work:
                if one.grads:
                    torch._foreach_mul_([local(g) for g in one.grads], unscale)
        self._report[: contract.NONFINITE] = 0
        for one in work:
            if one.grads:
                self._run(one, Phase.BEFORE)
        self.inner.step()
        for one in work:
            if one.grads:
                self._run(one, Phase.AFTER)

    def _values(self, group: dict[str, Any]) -> list[float]:
        """The settings of the group's next step, in the order of :class:`contract.Setting`; a device's lr as 0."""
        regularize = group["regularize"]
        lr = group.get("lr", 1.0)
        beta1, beta2 = group.get("betas", (group.get("momentum", 0.0), group.get("dampening", 0.0)))
        values = {
            Setting.LEARNING_RATE: 0.0 if _on_device(lr) else float(lr),
            Setting.BETA1: float(beta1),
            Setting.BETA2: float(beta2),
            Setting.EPSILON: float(group.get("eps", 0.0)),
            Setting.WEIGHT_DECAY: float(group.get("weight_decay", 0.0)),
            Setting.GRADIENT_FACTOR: -1.0 if group.get("maximize") else 1.0,
            Setting.STRENGTH: group["strength"] if regularize else 0.0,
            Setting.KAPPA: evaluate(group["kappa"], group["updates"]) if regularize else 1.0,
            Setting.MU_MIN: group["mu"][0],
            Setting.MU_MAX: group["mu"][1],
            Setting.TAU: group["tau"],
            Setting.TRANSFER_BETA: group["transfer_beta"],
        }
        if self._product is not None:
            seed = self._product.seed & (2**64 - 1)
            values[Setting.PROBE_SEED_LOW], values[Setting.PROBE_SEED_HIGH] = (
                float(seed & 0xFFFFFFFF),
                float(seed >> 32),
            )
            values[Setting.PROBE_STEP] = float(self._product.step)
            values[Setting.FOLD_DECAY], values[Setting.FOLD_WEIGHT] = self._product.decay, self._product.weight
        return [values.get(s, 0.0) for s in Setting]

    def _write_settings(self, plan: _Plan, group: dict[str, Any], values: list[float]) -> None:
        plan.settings.copy_(torch.tensor(values, dtype=torch.float64), non_blocking=True)
        if _on_device(group.get("lr")):
            plan.settings[Setting.LEARNING_RATE].copy_(group["lr"])

    def _settings(self, plan: _Plan, group: dict[str, Any]) -> list[float] | Tensor:
        """Numbers, which travel with the launch; or the vector on the device, where they move without the host."""
        if self._capturing():
            plan.captured = True
            self._outdated.clear()
            return plan.settings
        values = self._values(group)
        if not _on_device(group.get("lr")):
            return values
        self._write_settings(plan, group, values)
        return plan.settings

    def _options(self, group: dict[str, Any]) -> StepFlags:
        """What the group's options ask of a step."""
        return StepFlags(
            inner=self._inner_kind,
            mode=MODES[group["mode"]],
            damping=DAMPINGS[group["damping"]],
            normalize=NORMALIZATIONS[group["normalize"]],
            decoupled_decay=self._decoupled_decay(group),
            amsgrad=bool(group.get("amsgrad")),
            nesterov=bool(group.get("nesterov")),
            transfer_to_anchor=group["transfer_anchor"] == "initial",
            propagate_nonfinite=self.nonfinite_policy == "propagate",
        )

    def _flags(self, group: dict[str, Any]) -> int:
        kappa = group["kappa"]
        always_one = isinstance(kappa, ConstantKappa) and kappa.value == 1.0
        options = self._options(group)
        weighs = self._weighs_transfer(group) and not (always_one and not options.transfer_to_anchor)
        return int(options if weighs else replace(options, damping=Damping.UNDAMPED, transfer_to_anchor=False))

    def _run(
        self,
        work: _Work,
        phase: Phase,
        extra_flags: int = 0,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
    ) -> None:
        """One group's kernels."""
        plan, group = work.plan, work.group
        originals = plan.params if self._mesh is None else [local(p) for p in plan.params]
        params = originals if plan.dense else [_densely(p) for p in originals]
        grads = work.grads if phase is not Phase.AFTER else []
        if grads and not work.laid_out:
            grads = [_matching(p, g) for p, g in zip(params, grads, strict=True)]
        settings = self._settings(plan, group)
        packed = self._flags(group) | extra_flags | work.flags
        flags = StepFlags.of(packed)
        if not plan.seen and flags.weighs_transfer:
            if self._capturing():
                raise RuntimeError(f"{CAPTURED_TOO_EARLY} (one that was skipped makes none)")
            if found_inf is None or not bool(found_inf):  # a step that is skipped leaves no trace
                values = settings.tolist() if isinstance(settings, Tensor) else settings
                initial_statistics.fill(plan.tensors, grads, values, flags, grad_scale, plan.sharing)
                plan.seen = True
        plan.steps.step(
            StepCall(
                params,
                grads,
                settings,
                self._report,
                packed,
                int(phase),
                found_inf=found_inf,
                grad_scale=grad_scale,
                plus=work.plus,
                minus=work.minus,
                # The inner optimizer may have moved the parameters since they were looked at.
                param_addresses=work.param_addresses if plan.dense and phase is not Phase.AFTER else None,
                grad_addresses=work.grad_addresses if grads and work.laid_out else None,
            )
        )
        if plan.sharing is not None and flags.gathers_in(phase):
            plan.sharing.share(plan.tensors.statistics, flags.ranks, flags.means_globally, found_inf)
        if not plan.dense and phase is not Phase.BEFORE:
            for dense, original in zip(params, originals, strict=True):
                if dense is not original:
                    original.copy_(dense)
        if phase is Phase.BEFORE:
            for grad, original in zip(grads, work.grads, strict=True):
                if grad is not original:
                    original.copy_(grad)

    def _collect(self, index: int, group: dict[str, Any]) -> _Work:
        """A group's gradients and plan. Refuses what no kernel reads before anything is changed."""
        params = group["params"]
        every = [p.grad for p in params]
        having = [g is not None for g in every]
        grads = [g for g in every if g is not None]
        if self._mesh is not None:
            self._refuse_misplaced(params)
            params, grads = [local(p) for p in params], [local(g) for g in grads]
        chosen = [p for p, has in zip(params, having, strict=True) if has]
        own, given = look(chosen), look(grads)
        plan = self._plans.get(index)
        fits = plan is not None and plan.having == having and plan.layout == own.fingerprint
        if plan is None or not fits or plan.dense_layout != given.fingerprint:
            self._refuse_sparse(group["params"])
            self._refuse_misfits(group["params"])
        if plan is None or not fits:
            plan = self._plan(index, group, having, own.fingerprint)
        laid_out = plan.dense_layout == given.fingerprint
        return _Work(group, plan, grads, laid_out, own.addresses, given.addresses)

    def _refuse_sparse(self, params: list[Tensor]) -> None:
        names = [
            _name_of(p, self.param_groups) for p in params if p.grad is not None and p.grad.layout != torch.strided
        ]
        if names:
            raise RuntimeError(
                f"SRFT does not support sparse gradients (parameter {_some(names)}): use a dense embedding "
                "(sparse=False), or keep it in an optimizer of its own"
            )

    def _refuse_misfits(self, params: list[Tensor]) -> None:
        """Refuse a parameter of another shape or device than its state, or than its gradient."""
        for param in params:
            if param.grad is None:
                continue
            if param.device != self.device:
                raise RuntimeError(
                    f"parameter {_name_of(param, self.param_groups)} is on {param.device}, and this optimizer's state "
                    f"on {self.device}: move the model before wrapping its optimizer"
                )
            if param.grad.shape != param.shape:
                raise RuntimeError(
                    f"parameter {_name_of(param, self.param_groups)} has shape {tuple(param.shape)} and its gradient "
                    f"{tuple(param.grad.shape)}: call zero_grad() after changing a parameter's shape"
                )
            for name, value in self.state.get(param, {}).items():
                if name in SIZED_STATE and isinstance(value, Tensor) and value.shape != param.shape:
                    raise RuntimeError(
                        f"parameter {_name_of(param, self.param_groups)} has shape {tuple(param.shape)}, and its "
                        f"{name} {tuple(value.shape)}: a parameter of another shape wants a new optimizer"
                    )

    def _refuse_misplaced(self, params: list[Tensor]) -> None:
        names = [
            _name_of(p, self.param_groups)
            for p in params
            if p.grad is not None and getattr(p, "placements", None) != getattr(p.grad, "placements", None)
        ]
        if names:
            raise RuntimeError(
                f"gradients that are not distributed as their parameters are (parameter {_some(names)}): redistribute "
                "them before the step, as fully_shard(module) does"
            )

    def _plan(self, index: int, group: dict[str, Any], having: list[bool], layout: int) -> _Plan:
        params = group["params"]
        if self._capturing():
            raise RuntimeError(CAPTURED_TOO_EARLY)
        if index in self._plans and self._plans[index].captured:
            self._outdated.append(self._plans[index])
        chosen = [p for p, has in zip(params, having, strict=True) if has]
        unready = [p for p in chosen if p not in self.state]
        if unready:  # requires_grad was switched on since: anchored where they are now
            self._make_state({**group, "params": unready}, {}, {})
        for param in chosen:
            self._match_layout(param)
        if not self._scales:  # of all groups: a global mean needs them, and none changes from step to step
            self._scales = self._means()
        tensors = self._tensors(group, chosen)
        self._rescale = self.curvature is not None
        self._plans[index] = plan = _Plan(
            having=having,
            layout=layout,
            dense_layout=look(tensors.params).fingerprint,
            params=chosen,
            dense=all(_is_dense(local(p)) for p in chosen),
            sizes=torch.tensor([max(p.numel(), 1) for p in chosen], dtype=torch.float64).to(self.device),
            tensors=tensors,
            steps=self._make_steps(tensors),
            settings=torch.zeros(contract.SETTINGS, dtype=torch.float64, device=self.device),
            sharing=Sharing(self._mesh, chosen, self.device) if any(is_sharded(p) for p in chosen) else None,
        )
        return plan

    def _tensors(self, group: dict[str, Any], chosen: list[Tensor]) -> StepTensors:
        """What the kernels work on. Counts and statistics become views of one tensor each."""
        state = [self.state[p] for p in chosen]
        none = torch.empty(0, device=self.device)

        def listed(name: str) -> list[Tensor]:
            found = [local(s[name]) if name in s else none for s in state]
            return found if any(t is not none for t in found) else []

        def together(name: str, empty: Tensor) -> Tensor:
            rows = torch.stack([s.get(name, empty).to(self.device) for s in state]) if state else empty[None][:0]
            for s, row in zip(state, rows.unbind(), strict=True):
                if name in s:
                    s[name] = row
            return rows

        step = "step" if self._inner_kind is not Inner.NONE else "transfer_step"
        statistics = torch.zeros(contract.STATISTICS, dtype=torch.float64, device=self.device)
        scales = torch.zeros(len(chosen), contract.SCALES, dtype=torch.float64)
        if chosen:
            scales[:, : contract.INVERSE_RMS + 1] = torch.tensor([self._scales[p] for p in chosen], dtype=torch.float64)
            numbers = self._probe_numbers()
            scales[:, contract.PROBE_NUMBER] = torch.tensor([numbers[p] for p in chosen], dtype=torch.float64)
        priors = listed("prior")
        if self.curvature is not None and priors:  # H takes its share of the prior, or all of it
            curved = ["curvature" in s for s in state]
            scales[torch.tensor(curved), contract.PRIOR_SCALE] *= 1 - self.curvature.blend
            if self.curvature.blend == 1:
                priors = [none if c else prior for c, prior in zip(curved, priors, strict=True)]
        tensors = StepTensors(
            params=[_densely(local(p)) for p in chosen],
            steps=together(step, torch.zeros((), dtype=torch.float32)),
            statistics=together("transfer_statistics", statistics),
            scales=scales.to(self.device),
            anchors=listed("anchor"),
            priors=priors,
            transfers=listed("transfer"),
            curvatures=listed("curvature"),
            paths=[] if self._paths is None else [self._path_of(p, none) for p in chosen],
        )
        if self._inner_kind is Inner.ADAM:
            tensors.first_moments, tensors.second_moments = listed("exp_avg"), listed("exp_avg_sq")
            tensors.max_second_moments = listed("max_exp_avg_sq") if group["amsgrad"] else []
        elif self._inner_kind is Inner.SGD:
            tensors.first_moments = listed("momentum_buffer") if group["momentum"] != 0 else []
        elif self._weighs_transfer(group) and group["transfer_anchor"] == "previous":
            tensors.previous = [torch.empty_like(p) for p in tensors.params]
        return tensors

    def _path_of(self, param: Tensor, none: Tensor) -> Tensor:
        assert self._paths is not None
        path = self._paths.get(param)
        if path is None:
            return none
        if local(path).stride() != _dense_like(local(param)).stride():
            path = self._paths[param] = _like(param, path.dtype, path)
        return local(path)

    def _match_layout(self, param: Tensor) -> None:
        """State lies in memory as its parameter does and has the dtype that goes with it, also after either changed."""
        state = self.state[param]
        for name, value in state.items():
            if name not in SIZED_STATE or not isinstance(value, Tensor):
                continue
            dtype = _anchor_dtype(param, value) if name == "anchor" else _real(param)
            if value.dtype != dtype or local(value).stride() != _dense_like(local(param)).stride():
                state[name] = _like(param, dtype, value)

    # ------------------------------------------------------------------ saving and loading

    def state_dict(self) -> dict[str, Any]:
        """State under torch's own names plus this wrapper's; plain data only, so that ``weights_only`` loading works.

        Without :data:`EXTRA_STATE` it is a checkpoint that the inner optimizer loads by itself.
        """
        packed = super().state_dict()
        packed["param_groups"] = [
            {**g, "kappa": schedule_state(g["kappa"]), "mu": list(g["mu"])} for g in packed["param_groups"]
        ]
        if self._inner_kind is Inner.NONE:
            for index, state in self.inner.state_dict()["state"].items():
                packed["state"][index] = {**state, **packed["state"].get(index, {})}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave, dtypes and all; or the inner optimizer's own checkpoint, keeping the
        present anchor and prior.

        Raises:
            ValueError: If groups or shapes do not fit, naming them; nothing is changed.
        """
        before = dict(self.state)
        groups = self.param_groups

        def conceal(_: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
            self._check_loaded(loaded)
            hidden = {
                index: {k: _Held(v) if isinstance(v, Tensor) else v for k, v in state.items()}
                for index, state in loaded["state"].items()
            }
            return {**loaded, "state": hidden}

        hook = self.register_load_state_dict_pre_hook(conceal)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        inner_state: dict[Tensor, dict[str, Any]] = {}
        loaded_state, self.state = self.state, defaultdict(dict)
        for old, group in zip(groups, self.param_groups, strict=True):
            for key, value in old.items():
                group.setdefault(key, value)
            if isinstance(group["kappa"], Mapping):
                group["kappa"] = schedule_from_state(group["kappa"], live=old["kappa"])
            group["mu"] = tuple(group["mu"])
            for param in group["params"]:
                loaded = {k: v.tensor if isinstance(v, _Held) else v for k, v in loaded_state.get(param, {}).items()}
                if self._inner_kind is Inner.NONE:
                    inner_state[param] = {k: v for k, v in loaded.items() if k not in EXTRA_STATE}
                if param not in before and not loaded:
                    continue
                kept = {k: v for k, v in before.get(param, {}).items() if k in EXTRA_STATE}
                state: dict[str, Any] = self.state[param]
                for name in ("prior", "anchor", "curvature"):
                    value = loaded.get(name, kept.get(name))
                    if value is not None:
                        dtype = _anchor_dtype(param, value) if name == "anchor" else _real(param)
                        state[name] = _like(param, dtype, value)
                if self._keeps_statistics(group):
                    fresh = torch.zeros(contract.STATISTICS, dtype=torch.float64)
                    state["transfer_statistics"] = loaded.get("transfer_statistics", fresh).to(
                        param.device, torch.float64, copy=True
                    )
                self._complete_state(group, param, loaded)
        self.inner.param_groups = self.param_groups
        if self._inner_kind is Inner.NONE:
            index = {p: i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
            packed = {index[p]: s for p, s in inner_state.items() if s}
            saved_groups = [{**g, "params": [index[p] for p in g["params"]]} for g in self.param_groups]
            self.inner.load_state_dict({"state": packed, "param_groups": saved_groups})
            self.inner.param_groups = self.param_groups
        self._report.zero_()
        self._forget_plans()
        self._find_curvature()

    def _find_curvature(self) -> None:
        """After loading: whether there is an H, and its sums where they were not saved."""
        held = self._with_curvature()
        unknown = [p for p in held if not self.state[p]["transfer_statistics"][contract.CURVATURE_SUM] > 0]
        if unknown:
            self._sum_curvature(unknown)
        self._curved = any(self.state[p]["transfer_statistics"][contract.CURVATURE_SUM] > 0 for p in held)

    def _check_loaded(self, loaded: dict[str, Any]) -> None:
        """Refuse state that does not fit before anything is touched."""
        saved, present = loaded["param_groups"], self.param_groups
        sizes = [len(g["params"]) for g in saved], [len(g["params"]) for g in present]
        if sizes[0] != sizes[1]:
            raise ValueError(f"the checkpoint has parameter groups of sizes {sizes[0]}, this optimizer {sizes[1]}")
        wrong = []
        for theirs, ours in zip(saved, present, strict=True):
            for index, param in zip(theirs["params"], ours["params"], strict=True):
                for name, value in loaded["state"].get(index, {}).items():
                    if name in SIZED_STATE and isinstance(value, Tensor) and value.shape != param.shape:
                        wrong.append(
                            f"{name} of {_name_of(param, present)}: {tuple(value.shape)}, not {tuple(param.shape)}"
                        )
        if wrong:
            raise ValueError(f"the checkpoint does not fit this model: {_some(wrong)}")


# ---------------------------------------------------------------------- tensors in a parameter's layout


def _real(param: Tensor) -> torch.dtype:
    """The dtype of averages beside a parameter, and of the arithmetic."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _anchor_dtype(param: Tensor, anchor: Tensor) -> torch.dtype:
    """An anchor keeps its own dtype where the kernels read it, else it is widened."""
    return param.dtype if anchor.dtype == param.dtype else _real(param)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def _dense_like(tensor: Tensor) -> Tensor:
    return tensor if _is_dense(tensor) else torch.empty(tensor.shape, device="meta")


def _on_device(number: Any) -> bool:
    """Whether a setting is a tensor that the host would have to wait for."""
    return isinstance(number, Tensor) and number.device.type != "cpu"


def _any_nonfinite(grads: list[Tensor], device: torch.device) -> Tensor:
    """1 where any element is not finite, else 0: float32 (1,) on the device, which is not waited for."""
    sized = [g for g in grads if g.numel()]  # nothing has no largest element
    if not sized:
        return torch.zeros(1, device=device)
    largest = list(torch._foreach_norm(sized, float("inf")))
    if len({norm.dtype for norm in largest}) > 1:
        largest = [norm.double() for norm in largest]
    return (~torch.stack(largest).isfinite().all()).float().reshape(1)


def _zeros(param: Tensor) -> Tensor:
    return like(param, torch.zeros_like(local(param), dtype=_real(param), memory_format=torch.preserve_format))


def _like(param: Tensor, dtype: torch.dtype, value: Tensor) -> Tensor:
    """A copy of ``value`` on the parameter's device, laid out and distributed as it is."""
    copy = torch.empty_like(local(param), dtype=dtype, memory_format=torch.preserve_format)
    return like(param, copy.copy_(shard_of(value.detach(), param)))


def _mean(tensor: Tensor) -> float:
    """Over all shards of a distributed one."""
    if is_sharded(tensor):
        return sharded.total(tensor) / tensor.numel()
    return float(local(tensor).mean(dtype=torch.float64))


def _rms(tensor: Tensor) -> float:
    return math.sqrt(_mean(like(tensor, local(tensor).double().square())))


def _densely(param: Tensor) -> Tensor:
    return param if _is_dense(param) else _like(param, param.dtype, param)


def _matching(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient laid out as its parameter: itself, nearly always."""
    if grad.dtype == param.dtype and lie_alike(grad, param):
        return grad
    return _like(param, param.dtype, grad)


# ---------------------------------------------------------------------- names


def _name_of(param: Tensor, groups: Iterable[Mapping[str, Any]]) -> str:
    for g, group in enumerate(groups):
        for i, candidate in enumerate(group["params"]):
            if candidate is param:
                names = group.get("param_names")
                return str(names[i]) if names else f"parameter {i} of group {g} {tuple(param.shape)}"
    return f"a parameter of shape {tuple(param.shape)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED_AT_MOST])
    return shown + (f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else "")


def _by_parameter(
    given: Mapping[Any, Tensor], groups: list[dict[str, Any]], what: str, *, strict: bool
) -> dict[Tensor, Tensor]:
    """A mapping by name or by parameter as one by parameter, refused where it does not fit."""
    params = [p for group in groups for p in group["params"]]
    keyed_by_name = any(isinstance(key, str) for key in given)
    if keyed_by_name:
        if any("param_names" not in group for group in groups):
            raise ValueError(
                f"the {what} is keyed by name, but the optimizer's parameters have none: "
                "build it from model.named_parameters(), or key the mapping by parameter"
            )
        names = [name for group in groups for name in group["param_names"]]
        unexpected = sorted(set(given) - set(names))
        missing = sorted(set(names) - set(given))
        if not set(names) & set(given):
            raise ValueError(
                f"the {what} fits no parameter: it names {_some(unexpected)}; the optimizer has {_some(missing)}"
            )
        if strict and unexpected and missing:
            raise ValueError(
                f"the {what} and the optimizer differ: it names {_some(unexpected)}, which the optimizer has not, "
                f"and lacks {_some(missing)}; rename it, or pass strict=False if both are meant"
            )
        found = {p: given[n] for p, n in zip(params, names, strict=True) if n in given}
    else:
        found = {p: given[p] for p in params if p in given}
        if not found and len(given):
            raise ValueError(f"the {what} is keyed by parameter, and none of its keys is a parameter of this optimizer")
    wrong = [
        f"{_name_of(p, groups)}: {tuple(t.shape)}, not {tuple(p.shape)}" for p, t in found.items() if t.shape != p.shape
    ]
    if wrong:
        raise ValueError(f"the {what} has shapes that do not fit: {_some(wrong)}")
    return found


def _check_significance(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"the prior of {name} must be floating, got {tensor.dtype}")
    own = local(tensor)
    if own.numel() and not bool((own >= 0).all() & own.isfinite().all()):
        raise ValueError(
            f"the prior of {name} has elements that are negative or not finite: significance is finite and >= 0"
        )
