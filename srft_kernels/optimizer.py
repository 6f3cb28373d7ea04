"""SRFT: significance-regularized fine-tuning (arXiv 2508.17488) as a wrapper around a torch optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from .ops import Backend, contract, step_function
from .ops.contract import Damping, Inner, Mode, Normalize, Phase, Setting
from .schedule import ConstantKappa, Kappa, as_schedule, evaluate, schedule_from_state, schedule_state

MODES = {"proximal": Mode.PROXIMAL, "decoupled": Mode.DECOUPLED, "coupled": Mode.COUPLED}
DAMPINGS = {"rank": Damping.RANK, "mean": Damping.MEAN, None: Damping.UNDAMPED}
NORMALIZATIONS = {"tensor": Normalize.PER_TENSOR, "global": Normalize.GLOBAL, None: Normalize.ABSOLUTE}
TRANSFERS = ("auto", "second_moment", "own")
TRANSFER_ANCHORS = ("previous", "initial")
NONFINITE = ("hold", "skip_step", "propagate")
SMALLEST_RMS = 1e-3
NAMED_AT_MOST = 10

# What the wrapper adds to a parameter's state; everything else in it is the inner optimizer's.
EXTRA_STATE = ("anchor", "prior", "transfer", "transfer_step", "transfer_statistics")
MOMENTS: dict[Inner, tuple[str, ...]] = {
    Inner.ADAM: ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    Inner.SGD: ("momentum_buffer",),
}
SIZED_STATE = (*MOMENTS[Inner.ADAM], *MOMENTS[Inner.SGD], "anchor", "prior", "transfer")


class _Held:
    """Hides a tensor from ``Optimizer.load_state_dict``, which would cast it to its parameter's dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


@dataclass
class _Plan:
    """The operator's lists for the parameters of a group that have a gradient: until that set or a layout changes."""

    having: list[bool]
    strides: list[tuple[int, ...]]
    gradient_strides: list[tuple[int, ...]]  # of the gradients that the kernels can read as they are
    params: list[Tensor]
    dense: bool
    steps: list[Tensor]
    anchors: list[Tensor]
    priors: list[Tensor]
    prior_scales: Tensor
    transfers: list[Tensor]
    statistics: list[Tensor]
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    maximum: list[Tensor] = field(default_factory=list)
    previous: list[Tensor] = field(default_factory=list)
    settings: Tensor = field(default_factory=lambda: torch.ones(contract.SETTINGS, dtype=torch.float64))


class SRFT(Optimizer):
    r"""Hold every weight back in proportion to its significance, in the optimizer's own pass over memory.

    Around :class:`torch.optim.AdamW`, :class:`~torch.optim.Adam` and :class:`~torch.optim.SGD` the inner optimizer's
    arithmetic, the significance and the pull are one kernel; around any other optimizer the regularisation runs before
    and after its ``step``. With θ' what the inner optimizer alone would make of θ, the default (``mode="proximal"``) is

    .. math:: θ ← \frac{θ' + w_p a + w_t θ}{1 + w_p + w_t}, \quad w_p = ηλκ\hat P/ρ, \quad w_t = (1-κ)\frac{μ}{1-μ}

    where a is the anchor, P̂ the prior significance over its mean, ρ the RMS of the anchor tensor (at least 1e-3), and μ
    rises with the rank of the transfer significance T among its tensor's.

    Parameters
    ----------
    inner:
        The optimizer to wrap. Its param groups become this one's: per-group values of the options below may stand in
        them. Build it from ``model.named_parameters()`` for a prior keyed by name.
    prior:
        Prior significance P ≥ 0 by parameter name (a :class:`SignificanceMap` or a dict of tensors), or by parameter.
        Parameters that it does not name get P = 0.
    anchor:
        What the prior pulls to: ``"initial"`` (the weights now), or a state dict by name, or a mapping by parameter.
    strength:
        λ ≥ 0, without a unit: at 1, an element of average significance under full-size Adam steps rests about one RMS
        of its tensor from the anchor; at 10, a tenth of that.
    kappa:
        Schedule from 1 (protect the prior) to 0 (steady the transfer), called with the number of steps taken; or a
        number. By default 1 with a prior and 0 without.
    mode:
        ``"proximal"``, ``"decoupled"`` or ``"coupled"``. Coupled adds λκP̂(θ-a) to the gradient (EWC, L2-SP); it has no
        damping, because a pull toward where a weight is has no gradient there.
    normalize:
        Mean that P (and T, where its size matters) is divided by: ``"tensor"``, ``"global"`` or None.
    damping:
        How T holds an element where it just was: ``"rank"``, ``"mean"`` (w_t = (1-κ) τ T / mean T) or None.
    mu, tau:
        (μ_min, μ_max) of rank damping; τ of mean damping.
    transfer:
        ``"second_moment"`` (Adam's own average of g², no extra memory), ``"own"`` (a state with its own
        ``transfer_beta``), or ``"auto"``: the first where it is possible.
    transfer_anchor:
        ``"previous"``, or ``"initial"``: T pulls to the anchor as well, S = κP̂ + (1-κ)T̂ as one weighted quadratic.
    regularize:
        (per group) False leaves a group to the inner optimizer alone.
    nonfinite:
        ``"hold"``: an element whose gradient is not finite stays as it is and is counted in :attr:`nonfinite`.
        ``"skip_step"``: one such element skips the step, for one more read of the gradients. ``"propagate"``: as torch.
        Around an optimizer that is not fused, "hold" shows that optimizer a zero gradient.
    backend:
        None (kernels where there are some), ``"native"`` or ``"reference"``.

    State
    -----
    Per parameter under torch's names, and ``anchor``, ``prior`` (where there is a prior), ``transfer`` (where it is a
    state of its own), ``transfer_statistics``. Averages are float32 for float32, bfloat16 and float16 parameters,
    float64 for float64.

    Raises
    ------
    ValueError
        For options out of range, complex parameters, a prior or an anchor that does not fit; nothing is changed.
    RuntimeError
        In ``step`` for sparse gradients, before anything is changed.
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
        self._step_operator = step_function(backend)
        self.inner = inner
        self.nonfinite_policy = nonfinite
        self._inner_kind = {AdamW: Inner.ADAM, Adam: Inner.ADAM, SGD: Inner.SGD}.get(cast(Any, type(inner)), Inner.NONE)
        self._plans: dict[int, _Plan] = {}
        self._scales: dict[Tensor, tuple[float, float]] = {}
        schedule = as_schedule(kappa) if kappa is not None else ConstantKappa(0.0 if prior is None else 1.0)
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

        super().__init__(inner.param_groups, {**inner.defaults, **defaults})
        inner.param_groups = self.param_groups
        self._report = torch.zeros(contract.REPORT, dtype=torch.float64, device=devices.pop())
        for group in self.param_groups:
            self._make_state(group, priors, anchors)

    # ------------------------------------------------------------------ what a user reads

    @property
    def penalty(self) -> Tensor:
        """R of the last step, both terms: 0-d float64 on the parameters' device, read without a synchronisation.

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

    def state_bytes(self) -> dict[str, int]:
        """Bytes of state by name, this wrapper's and the inner optimizer's together."""
        total: dict[str, int] = defaultdict(int)
        for states in (self.state, self.inner.state if self._inner_kind is Inner.NONE else {}):
            for state in states.values():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        total[name] += value.numel() * value.element_size()
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
        """Refuse options and parameters that the step could not honour."""
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
            if hasattr(param, "device_mesh"):
                raise ValueError(
                    f"distributed parameters ({type(param).__name__}, as FSDP2 makes) are not supported: their means "
                    "would be taken over one shard; use DistributedDataParallel, or keep them in another optimizer"
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
        damps = group["damping"] is not None and group["mode"] != "coupled"
        return bool(group["regularize"] and (damps or group["transfer_anchor"] == "initial"))

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
            if prior is not None or (group["transfer_anchor"] == "initial" and group["regularize"]):
                anchor = anchors.get(param, param.detach())
                state["anchor"] = _like(param, _anchor_dtype(param, anchor), anchor)
            if self._weighs_transfer(group):
                state["transfer_statistics"] = torch.zeros(contract.STATISTICS, dtype=torch.float64)
            self._complete_state(group, param, taken)
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
        state[name] = torch.tensor(float(step), dtype=torch.float32)

    def _forget_plans(self) -> None:
        """State was made or replaced: what was derived from it is derived again."""
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
                    total += float(prior.sum(dtype=torch.float64))
                    count += prior.numel()
                means[param] = 1.0 if group["normalize"] is None else float(prior.mean(dtype=torch.float64))
        scales = {}
        for group in self.param_groups:
            for param in group["params"]:
                mean = means.get(param, 0.0)
                if group["normalize"] == "global" and param in means:
                    mean = total / count
                anchor = self.state[param].get("anchor") if param in self.state else None
                rho = float(anchor.double().square().mean().sqrt()) if anchor is not None and anchor.numel() else 0.0
                scales[param] = (1 / mean if mean > 0 else 0.0, 1 / max(rho, SMALLEST_RMS))
        return scales

    # ------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: significance, penalty and the inner optimizer's update.

        ``closure``, if given, re-evaluates the model and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_gradients()
        found_inf = getattr(self, "found_inf", None)
        grad_scale = getattr(self, "grad_scale", None)
        if found_inf is not None and bool(found_inf):
            return loss
        if self.nonfinite_policy == "skip_step":
            bad = sum(
                int((~p.grad.isfinite()).sum()) for g in self.param_groups for p in g["params"] if p.grad is not None
            )
            if bad:
                self._report[contract.NONFINITE] += bad
                return loss
        scale = float(grad_scale) if grad_scale is not None else 1.0
        self._report[: contract.NONFINITE] = 0
        if self._inner_kind is Inner.NONE:
            self._step_around(scale)
        else:
            for index, group in enumerate(self.param_groups):
                self._run(index, group, Phase.FUSED, scale)
        for group in self.param_groups:
            group["updates"] += 1
        return loss

    def _check_gradients(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.grad.layout != torch.strided:
                    raise RuntimeError(
                        f"SRFT does not support sparse gradients (parameter {_name_of(param, self.param_groups)}): use "
                        "a dense embedding (sparse=False), or keep it in an optimizer of its own"
                    )

    def _step_around(self, scale: float) -> None:
        """Regularisation in one pass before and one after an inner optimizer that is not fused."""
        if scale != 1.0:
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        param.grad.mul_(1 / scale)
        plans = [self._run(i, group, Phase.BEFORE, 1.0) for i, group in enumerate(self.param_groups)]
        self.inner.step()
        for index, group in enumerate(self.param_groups):
            if plans[index] is not None:
                self._run(index, group, Phase.AFTER, 1.0)

    def _run(self, index: int, group: dict[str, Any], phase: Phase, scale: float) -> _Plan | None:
        """The operator over one group; None where no parameter of it has a gradient."""
        plan = self._plan(index, group)
        if not plan.params:
            return None
        regularize = group["regularize"]
        kappa = evaluate(group["kappa"], group["updates"])
        sign = -1.0 if group.get("maximize") else 1.0
        beta1, beta2 = group.get("betas", (group.get("momentum", 0.0), group.get("dampening", 0.0)))
        values = {
            Setting.LEARNING_RATE: float(group.get("lr", 1.0)),
            Setting.BETA1: float(beta1),
            Setting.BETA2: float(beta2),
            Setting.EPSILON: float(group.get("eps", 0.0)),
            Setting.WEIGHT_DECAY: float(group.get("weight_decay", 0.0)),
            Setting.GRADIENT_FACTOR: sign / scale,
            Setting.STRENGTH: group["strength"] if regularize else 0.0,
            Setting.KAPPA: kappa if regularize else 1.0,
            Setting.MU_MIN: group["mu"][0],
            Setting.MU_MAX: group["mu"][1],
            Setting.TAU: group["tau"],
            Setting.TRANSFER_BETA: group["transfer_beta"],
        }
        plan.settings.copy_(torch.tensor([values[s] for s in Setting], dtype=torch.float64))
        flags = contract.flags_of(
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
        originals = plan.params
        params = plan.params if plan.dense else [_densely(p) for p in originals]
        grads: list[Tensor] = []
        if phase is not Phase.AFTER:
            grads = [cast(Tensor, p.grad) for p in originals]
            if [g.stride() for g in grads] != plan.gradient_strides:
                grads = [_matching(p, g) for p, g in zip(params, grads, strict=True)]
        damps = group["damping"] is not None and group["mode"] != "coupled" and group["transfer_anchor"] == "previous"
        if self._inner_kind is Inner.NONE and damps and regularize and kappa < 1 and not plan.previous:
            plan.previous = [torch.empty_like(p) for p in params]
        self._step_operator(
            params,
            grads,
            plan.first,
            plan.second,
            plan.maximum,
            plan.steps,
            plan.previous,
            plan.anchors,
            plan.priors,
            plan.prior_scales,
            plan.transfers,
            plan.statistics,
            plan.settings,
            self._report,
            flags,
            int(phase),
        )
        for dense, original in zip(params, originals, strict=True):
            if dense is not original and phase is not Phase.BEFORE:
                original.copy_(dense)
        if phase is Phase.BEFORE:
            for grad, original in zip(grads, originals, strict=True):
                if grad is not original.grad:
                    cast(Tensor, original.grad).copy_(grad)
        return plan

    def _plan(self, index: int, group: dict[str, Any]) -> _Plan:
        params = group["params"]
        having = [p.grad is not None for p in params]
        strides = [p.stride() for p in params]
        plan = self._plans.get(index)
        if plan is not None and plan.having == having and plan.strides == strides:
            return plan
        chosen = [p for p, has in zip(params, having, strict=True) if has]
        unready = [p for p in chosen if p not in self.state]
        if unready:  # requires_grad was switched on since: anchored where they are now
            self._make_state({**group, "params": unready}, {}, {})
        for param in chosen:
            self._match_layout(param)
        if not self._scales:  # of all groups: a global mean needs them, and none changes from step to step
            self._scales = self._means()
        scales = self._scales
        state = [self.state[p] for p in chosen]
        none = torch.empty(0)

        def listed(name: str) -> list[Tensor]:
            found = [s.get(name, none) for s in state]
            return found if any(t is not none for t in found) else []

        weighs = self._weighs_transfer(group)
        self._plans[index] = plan = _Plan(
            having=having,
            strides=strides,
            gradient_strides=[_dense_like(p).stride() for p in chosen],
            params=chosen,
            dense=all(_is_dense(p) for p in chosen),
            steps=[s["step" if self._inner_kind is not Inner.NONE else "transfer_step"] for s in state],
            anchors=listed("anchor"),
            priors=listed("prior"),
            prior_scales=torch.tensor([scales[p] for p in chosen], dtype=torch.float64).reshape(-1, 2),
            transfers=listed("transfer"),
            statistics=listed("transfer_statistics")
            if weighs
            else [torch.zeros(contract.STATISTICS, dtype=torch.float64) for _ in chosen],
        )
        if self._inner_kind is Inner.ADAM:
            plan.first, plan.second = listed("exp_avg"), listed("exp_avg_sq")
            plan.maximum = listed("max_exp_avg_sq") if group["amsgrad"] else []
        elif self._inner_kind is Inner.SGD:
            plan.first = listed("momentum_buffer") if group["momentum"] != 0 else []
        return plan

    def _match_layout(self, param: Tensor) -> None:
        """State lies in memory as its parameter does, also after the parameter's layout changed."""
        state = self.state[param]
        for name, value in state.items():
            sized = name in SIZED_STATE and isinstance(value, Tensor)
            if sized and value.stride() != _dense_like(param).stride():
                state[name] = _like(param, value.dtype, value)

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

        Raises
        ------
        ValueError
            If groups or shapes do not fit, naming them; nothing is changed.
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
                for name in ("prior", "anchor"):
                    value = loaded.get(name, kept.get(name))
                    if value is not None:
                        dtype = _real(param) if name == "prior" else _anchor_dtype(param, value)
                        state[name] = _like(param, dtype, value)
                if self._weighs_transfer(group):
                    fresh = torch.zeros(contract.STATISTICS, dtype=torch.float64)
                    state["transfer_statistics"] = loaded.get("transfer_statistics", fresh).to(torch.float64, copy=True)
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


def _zeros(param: Tensor) -> Tensor:
    return torch.zeros_like(param, dtype=_real(param), memory_format=torch.preserve_format)


def _like(param: Tensor, dtype: torch.dtype, value: Tensor) -> Tensor:
    """A copy of ``value`` on the parameter's device, laid out as it is."""
    return torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format).copy_(value.detach())


def _densely(param: Tensor) -> Tensor:
    return param if _is_dense(param) else _like(param, param.dtype, param)


def _matching(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient laid out as its parameter: itself, nearly always."""
    if grad.dtype == param.dtype and (grad.stride() == param.stride() or grad.numel() <= 1):
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
    if tensor.numel() and not bool((tensor >= 0).all() & tensor.isfinite().all()):
        raise ValueError(
            f"the prior of {name} has elements that are negative or not finite: significance is finite and >= 0"
        )
