"""SRFT: significance-regularized fine-tuning (arXiv 2508.17488) as a wrapper around a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from srft_kernels import _checkpoint, _options, _state, sharded
from srft_kernels._curvature_state import RunningCurvature
from srft_kernels._groups import GroupWatch, unwrapped
from srft_kernels._inner import InnerOptimizer
from srft_kernels._layout import any_nonfinite
from srft_kernels._names import checked_maps
from srft_kernels._old_names import OldNames
from srft_kernels._plans import GroupStep, Plans
from srft_kernels._state import EXTRA_STATE as EXTRA_STATE
from srft_kernels.curvature import Hutchinson
from srft_kernels.ops import Backend, contract, plan_maker
from srft_kernels.ops.contract import Phase
from srft_kernels.ops.plan import count_nonfinite
from srft_kernels.schedule import ConstantKappa, Kappa, as_schedule


class SRFT(OldNames, Optimizer):
    """Hold every weight back in proportion to its significance, in the optimizer's own pass over memory.

    Around :class:`torch.optim.AdamW`, :class:`~torch.optim.Adam` and :class:`~torch.optim.SGD` one kernel computes the
    inner optimizer's arithmetic, the significance and the pull. Around any other optimizer the regularization runs
    before and after its ``step``. Let θ' be what the inner optimizer alone would make of θ. The default
    (``mode="proximal"``) is

        θ ← (θ' + w_p a + w_t θ) / (1 + w_p + w_t)
        w_p = ηλκP̂/ρ,  w_t = (1-κ) μ/(1-μ)

    where a is the anchor, P̂ is the prior significance over its mean in all tensors, and ρ is the RMS of the anchor
    tensor (at least 1e-3). w_t is 0 by default. With ``damping="rank"`` μ rises with the rank of an element's transfer
    significance T within its tensor.

    Parameters may be distributed as FSDP2's ``fully_shard`` makes them, before the optimizer is made: ``Shard(0)`` or
    ``Replicate()`` on one mesh of one dimension. Means and ranks are then those of whole tensors. Every process takes
    every step, with gradients for the same parameters. Penalties and :attr:`nonfinite_count` cover a process's own
    shards.

    State has torch's names, plus ``anchor``, ``prior``, ``transfer`` and ``transfer_statistics`` where they are kept.
    Averages are float32, or float64 for float64 parameters.

    Args:
        inner: The optimizer to wrap. Its param groups become this one's. They may contain the options from ``strength``
            to ``transfer_anchor``, and ``"regularize": False`` for a group that is left to the inner optimizer alone.
            Build it from ``model.named_parameters()`` if the prior is keyed by name. Wrapping an optimizer again keeps
            its averages and forgets the earlier wrapper.
        prior: Prior significance P ≥ 0 by parameter name (a :class:`SignificanceMap` or a dict of tensors), or by
            parameter. Parameters without one get P = 0. The prior of a frozen parameter is kept for when it thaws.
        anchor: What the prior pulls to: ``"initial"`` (the present weights), a state dict, or a mapping by parameter.
        strength: λ ≥ 0, without a unit. At 1, an element of average significance that full-size Adam steps push away
            comes to rest about one RMS of its tensor from the anchor; at 10, a tenth of that.
        kappa: A number, or a schedule from 1 (protect the prior) to 0 (steady the transfer) that is called with the
            number of steps taken. By default it is 1 with a prior and 0 without.
        mode: ``"proximal"``, ``"decoupled"`` or ``"coupled"``. Coupled adds λκP̂(θ-a) to the gradient (EWC, L2-SP). It
            has no damping, because the damping term has no gradient at the present weight.
        normalize: The mean that P is divided by, and T if its size matters: over all tensors (``"global"``), over each
            one (``"tensor"``), or None. A wrapper knows its own tensors alone: if several share a network, as with ZeRO
            around them, only ``"tensor"`` gives the weights that one wrapper would.
        damping: How T damps an element's move: ``"rank"``, ``"mean"`` (w_t = (1-κ) τ T / mean T) or None. Without a
            prior and without damping every step is the inner optimizer's.
        mu: (μ_min, μ_max) of rank damping, refused without it if they are not the usual 0.25 and 0.65.
        tau: τ of mean damping, refused without it if it is not the usual 1.
        transfer: ``"second_moment"`` (Adam's own average of g², no extra memory), ``"own"`` (a state with its own
            ``transfer_beta``), or ``"auto"``, which takes the first where it is possible. Refused if no group has a
            damping or ``transfer_anchor="initial"``, because T is used for nothing then.
        transfer_beta: β of a T that is a state of its own, refused without one if it is not the usual 0.999.
        transfer_anchor: ``"previous"``, or ``"initial"``, with which T pulls to the anchor as well: S = κP̂ + (1-κ)T̂
            is then one weighted quadratic, and nothing is damped, whatever ``damping`` is.
        curvature: A :class:`Hutchinson`. The Hessian's diagonal, estimated during training, is then all or part of the
            prior significance, and ``step`` needs a closure in every ``curvature.every``-th step.
        nonfinite: ``"hold"`` leaves an element whose gradient is not finite as it is, and counts it; an inner optimizer
            that is not fused sees a zero gradient there. ``"skip_step"`` skips the whole step for one such element, at
            the price of one more read of the gradients. ``"propagate"`` does what torch does.
        strict: False leaves out priors and anchors of another shape than their parameter, such as a new head's, and
            allows names to differ on both sides.
        backend: ``"native"``, ``"triton"`` or ``"reference"``, refused if it cannot run. None takes compiled kernels if
            there are any, else Triton's on a GPU, else the reference. :attr:`backend` says which it is.
        unscale_in_step: Whether a ``GradScaler`` leaves unscaling and skipping to the step, which does both on the
            device without a synchronization. None takes it from the inner optimizer: True for torch's ``fused=True``.
            Frameworks that clip gradients (Lightning) refuse optimizers that unscale.

    Raises:
        TypeError: For an optimizer that evaluates its closure several times a step (LBFGS, SAM), or a mapping that
            holds no tensors.
        ValueError: For options out of range, parameters that no kernel reads, or mappings that do not fit. Nothing is
            changed then.
    """

    def __init__(
        self,
        inner: Optimizer,
        prior: Mapping[Any, Tensor] | None = None,
        *,
        anchor: Literal["initial"] | Mapping[Any, Tensor] = "initial",
        strength: float = 10.0,
        kappa: Kappa | float | None = None,
        mode: Literal["proximal", "decoupled", "coupled"] = "proximal",
        normalize: Literal["tensor", "global"] | None = "global",
        damping: Literal["rank", "mean"] | None = None,
        mu: tuple[float, float] = _options.MU,
        tau: float = _options.TAU,
        transfer: Literal["auto", "second_moment", "own"] = "auto",
        transfer_beta: float = _options.TRANSFER_BETA,
        transfer_anchor: Literal["previous", "initial"] = "previous",
        curvature: Hutchinson | None = None,
        nonfinite: Literal["hold", "skip_step", "propagate"] = "hold",
        strict: bool = True,
        backend: Backend | None = None,
        unscale_in_step: bool | None = None,
    ) -> None:
        if isinstance(inner, SRFT):
            raise TypeError("SRFT cannot wrap another SRFT: give it the optimizer inside (optimizer.inner)")
        known = InnerOptimizer(inner)
        _options.check_arguments(known, nonfinite, curvature, unscale_in_step)
        protects = prior is not None or curvature is not None
        defaults = {
            "strength": strength,
            "kappa": ConstantKappa(1.0 if protects else 0.0) if kappa is None else as_schedule(kappa),
            "mode": mode,
            "normalize": normalize,
            "damping": damping,
            "mu": mu,
            "tau": tau,
            "transfer": transfer,
            "transfer_beta": transfer_beta,
            "transfer_anchor": transfer_anchor,
            "regularize": True,
            "updates": 0,
            "task_began": 0,
        }
        own_options, stripped = unwrapped(inner)
        proposed = [{**defaults, **group} for group in stripped]
        mesh, device = _options.check_groups(proposed, known, curvature)
        _options.refuse_idle(defaults, proposed, known)
        priors, anchors = checked_maps(prior, anchor, "initial", proposed, strict)
        plan_maker(backend, device)  # refuses a backend that was requested by name and cannot run

        for group, chosen in zip(inner.param_groups, proposed, strict=True):
            group.update(chosen)
        super().__init__(inner.param_groups, {**inner.defaults, **defaults})
        self.inner = inner
        self.param_groups = inner.param_groups
        self.device = device
        self.curvature = curvature
        self.nonfinite_policy = nonfinite
        self._step_supports_amp_scaling = known.fused and (
            getattr(inner, "_step_supports_amp_scaling", False) if unscale_in_step is None else unscale_in_step
        )
        self._asked_backend = backend
        self._own_options = own_options
        self._report = torch.zeros(contract.REPORT, dtype=torch.float64, device=device)
        self.state = _state.shared_state(known, {})
        self._attach(mesh)
        for group in self.param_groups:
            _state.make(self.state, group, known, priors or {}, anchors, curvature is not None)
        self._watch.note()

    def _attach(self, mesh: Any) -> None:
        """Make what is not saved, because it follows from the inner optimizer, the options and the state."""
        self._inner = InnerOptimizer(self.inner)
        self.backend, make_steps = plan_maker(self._asked_backend, self.device)
        spec, propagate = self.curvature, self.nonfinite_policy == "propagate"
        self._plans = Plans(self, self._inner, self.device, mesh, make_steps, self._report, spec, propagate)
        self._running = None if spec is None else RunningCurvature(spec, self, self._plans, self._inner.fused)
        self._watch = GroupWatch(self, self._inner, self._plans, self._running, self._own_options)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but plans, hooks and the sums of a :class:`PathIntegral`, for copying and pickling."""
        kept = ("inner", "device", "curvature", "nonfinite_policy", "_step_supports_amp_scaling", "_asked_backend")
        return {
            **super().__getstate__(),
            **{name: getattr(self, name) for name in (*kept, "_own_options", "_report")},
            "state": self.state if self._inner.fused else dict(self.state),
            "mesh": self._plans.mesh,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        mesh = state.pop("mesh", None)
        super().__setstate__(state)
        self.param_groups = self.inner.param_groups
        self.device = self.param_groups[0]["params"][0].device  # a pickle may have been loaded elsewhere
        self._report = self._report.to(self.device)
        self.state = _state.shared_state(InnerOptimizer(self.inner), self.state)
        self._attach(mesh)

    # ------------------------------------------------------------------ what a user reads

    @property
    def penalty(self) -> Tensor:
        """R of the last step, with both terms: 0-d float64 on the parameters' device, read without a synchronization.

        The prior's term is ½ Σ (w_p/η)(θ-a)² at the weights before the step (in coupled mode ½ λκ Σ P̂(θ-a)²). The
        transfer's term is ½ Σ (w_t/η)(Δθ)² of the step taken, or has the form of the prior's if T pulls to the anchor.
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
    def nonfinite_count(self) -> Tensor:
        """How many gradient elements were not finite since the wrapper was made or loaded: 0-d int64 on the device."""
        return self._report[contract.NONFINITE].long()

    @property
    def kappa(self) -> float:
        """The κ of the first group's next step."""
        return _options.kappa_of(self.param_groups[0])

    @property
    def gradients_stay_scaled(self) -> bool:
        """Whether gradients that a ``GradScaler`` scaled are still scaled after a step."""
        return self._inner.fused

    def state_bytes(self) -> dict[str, int]:
        """Return the bytes of state by name, of this wrapper and the inner optimizer together."""
        return _state.bytes_of(self.state, {} if self._inner.fused else self.inner.state)

    # ------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: significance, penalty and the inner optimizer's update.

        While a CUDA graph is captured, every number that changes from step to step is read from device tensors when the
        graph runs: see :meth:`prepare_replay`. On a GPU, a step that ``GradScaler`` or ``nonfinite="skip_step"`` skips
        is skipped without a synchronization, and still counts for κ.

        Args:
            closure: Evaluates the model, calls ``backward()`` and returns the loss. It is called once, or as often as
                ``curvature`` needs. The inner optimizer gets the loss that it returned.

        Returns:
            The loss that the closure returned, or None.

        Raises:
            RuntimeError: For parameters, gradients or a closure that the step cannot work with.
            ValueError: For options of a group that were changed and are out of range. Nothing is changed then.
        """
        self._watch.accept_changes()
        running, policy = self._running, self.nonfinite_policy
        if running is not None and running.due(closure):
            loss = running.evaluate(closure)
        else:
            with torch.enable_grad():
                loss = None if closure is None else closure()
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and self._plans.mesh is not None:
            found_inf = sharded.anywhere(found_inf, self._plans.mesh)
        work = [self._plans.collect(index) for index in range(len(self.param_groups))]
        if self._plans.made:
            self._plans.made = False
            self._watch.note_state()
        if running is not None:
            running.prepare(work)
        on_device = self.device.type == "cuda" and self._inner.fused
        if not on_device and found_inf is not None and bool(found_inf):
            return loss
        if policy == "skip_step":
            found = any_nonfinite([g for w in work for g in w.grads], self.device)
            if self._plans.mesh is not None:
                found = sharded.anywhere(found, self._plans.mesh)
            if not on_device and bool(found):
                count_nonfinite([g for w in work for g in w.grads], self._report)
                return loss
            found_inf = found if found_inf is None else torch.maximum(found_inf.float().reshape(1), found)
        if self._inner.fused:
            self._step_fused(work, found_inf, grad_scale, contract.COUNT_SKIPPED if policy == "skip_step" else 0)
        else:
            self._step_around(work, grad_scale, loss, closure is not None)
        if running is not None:
            running.finish(work, found_inf)
        if not self._plans.capturing():
            for group in self.param_groups:
                group["updates"] += 1
        return loss

    def _step_fused(
        self, work: list[GroupStep], found_inf: Tensor | None, grad_scale: Tensor | None, count: int
    ) -> None:
        """Run the inner optimizer's update and the regularization in one pass over every group's memory."""
        found_inf, grad_scale = (t if t is None else t.to(self.device, torch.float32) for t in (found_inf, grad_scale))
        fold = {} if self._running is None else self._running.fold_settings()
        reset = contract.RESET_PENALTIES
        for one in work:
            if one.grads:
                self._plans.run(one, Phase.FUSED, reset | count, found_inf, grad_scale, fold)
                reset = 0
        if reset:
            self._report[: contract.NONFINITE] = 0

    def _step_around(self, work: list[GroupStep], grad_scale: Tensor | None, loss: Any, evaluated: bool) -> None:
        """Run the regularization in one pass before and one after an inner optimizer that is not fused."""
        sized = [one for one in work if one.grads]
        if grad_scale is not None:
            unscale = grad_scale.to(self.device, torch.float32).reshape(()).reciprocal()
            torch._foreach_mul_([g for one in sized for g in one.grads], unscale)
        self._report[: contract.NONFINITE] = 0
        for one in sized:
            self._plans.run(one, Phase.BEFORE)
        self._inner.step(loss, evaluated)
        for one in sized:
            self._plans.run(one, Phase.AFTER)

    def prepare_replay(self) -> None:
        """Set lr, κ, λ and every other number of the next step on the device, before each replay of a captured step.

        .. code-block:: python

            optimizer.step()  # at least one before the capture makes the state
            with torch.cuda.graph(graph):
                optimizer.step()
            for batch in loader:
                scheduler.step(), optimizer.prepare_replay()
                graph.replay()

        Raises:
            RuntimeError: If no step was taken yet, or if a step over other parameters or layouts, a load or a new group
                has replaced what a captured step works on.
        """
        if self._plans.outdated:
            raise RuntimeError(
                "a captured step works on state that was replaced since (other parameters had gradients, a checkpoint "
                "was loaded, or a group was added): take a step and capture it again"
            )
        for index, group in enumerate(self.param_groups):
            self._plans.write_settings(index)
            group["updates"] += 1

    def train(self) -> None:
        """Put an inner optimizer that has modes, such as a schedule-free one, into its training mode."""
        getattr(self.inner, "train", lambda: None)()

    def eval(self) -> None:
        """Put an inner optimizer that has modes into its evaluation mode."""
        getattr(self.inner, "eval", lambda: None)()

    def _record_paths(self, paths: dict[Tensor, Tensor] | None) -> bool:
        """Add -g (new θ - θ) of every step to ``paths``, by parameter, in the same pass, for :class:`PathIntegral`.

        Args:
            paths: The sums by parameter. None stops the recording.

        Returns:
            False if this optimizer cannot record, or already records for another, else True.
        """
        if not self._inner.fused or (paths is not None and self._plans.paths is not None):
            return False
        self._plans.paths = paths
        self._plans.forget()
        return True

    # ------------------------------------------------------------------ groups and tasks

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, anchored at its present weights and without a prior. It may contain options of its own."""
        if "_plans" not in self.__dict__:  # Optimizer.__init__ is adding the inner optimizer's groups
            super().add_param_group(param_group)
            return
        params = param_group["params"]
        listed = [params] if isinstance(params, Tensor) else list(params)
        tensors = [p[1] if isinstance(p, tuple) else p for p in listed]
        proposed = {**self.defaults, **param_group, "params": tensors}
        _options.checked(proposed, self._inner)
        twice = self.curvature is not None and self.curvature.method == "autograd"
        _options.check_parameters(tensors, [proposed], self._plans.mesh, twice)
        self._watch.accept_changes()
        self.inner.add_param_group({**param_group, "params": listed})
        self._watch.accept_changes()

    def begin_task(
        self,
        prior: Mapping[Any, Tensor] | None = None,
        *,
        gamma: float | None = None,
        anchor: Literal["current"] | Mapping[Any, Tensor] = "current",
        kappa: Kappa | float | None = None,
        strength: float | None = None,
        strict: bool = True,
    ) -> None:
        """Begin the next task: from now on weights are pulled to a new anchor, by a new or a merged prior.

        The inner optimizer's averages, T and H go on. κ counts its steps from here.

        Args:
            prior: The significance of what was learned last, keyed as in the constructor. None keeps the present one.
            gamma: None lets ``prior`` replace the present one. A number merges them, P ← γ P + P_new, as online EWC
                does (Schwarz et al. 2018, arXiv 1805.06370, section 4). The map of the larger mean outvotes the other;
                with ``normalize=None`` and maps that are :meth:`SignificanceMap.normalized` each task counts alike.
            anchor: ``"current"`` for the present weights, or a mapping as in the constructor.
            kappa: Another schedule for all groups. None starts the present ones again.
            strength: Another strength for all groups. None keeps the present ones.
            strict: As in the constructor.

        Raises:
            ValueError: If a prior, an anchor or an option does not fit. Nothing is changed then.

        Warns:
            RuntimeWarning: If either of two merged priors makes up less than a hundredth of the sum.
        """
        self._watch.begin_task(prior, gamma, anchor, {"kappa": kappa, "strength": strength}, strict)

    # ------------------------------------------------------------------ saving and loading

    def state_dict(self) -> dict[str, Any]:
        """Return the state under torch's names plus this wrapper's, as plain data for ``weights_only`` loading.

        Without the names of ``EXTRA_STATE`` it is a checkpoint that the inner optimizer loads by itself. The hooks of
        this optimizer and of the inner one run once each.
        """
        _checkpoint.run_hooks(self, "_optimizer_state_dict_pre_hooks")
        self._watch.accept_changes()
        packed = _checkpoint.pack(self.param_groups, self.state, self._inner)
        found: dict[str, Any] = _checkpoint.run_hooks(self, "_optimizer_state_dict_post_hooks", packed)
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, with its dtypes.

        The inner optimizer's own checkpoint loads as well, and then the present anchor and prior stay. Tensors of state
        are overwritten in place.

        Raises:
            ValueError: If groups or shapes do not fit. The message names them, and nothing is changed.
        """
        self._watch.accept_changes()
        _checkpoint.load(self, self._inner, self.state, state_dict)
        self._report.zero_()
        self._watch.note()
        self._plans.forget()
        if self._running is not None:
            self._running.find()
        _checkpoint.run_hooks(self, "_optimizer_load_state_dict_post_hooks")
