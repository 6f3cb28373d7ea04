"""Plans of a step: the tensors that each group's kernels work on, kept until parameters or gradients change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from srft_kernels import _options as options
from srft_kernels import _state
from srft_kernels._inner import InnerOptimizer, on_device
from srft_kernels._layout import copy_beside, dense_strides, densely, matching
from srft_kernels._names import name_of, shortened
from srft_kernels.curvature import Hutchinson
from srft_kernels.ops import contract, initial_statistics
from srft_kernels.ops.contract import Inner, Phase, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.layouts import Layouts, look
from srft_kernels.ops.plan import StepCall, StepPlan, StepTensors
from srft_kernels.ops.tensors import is_dense
from srft_kernels.sharded import Sharing, is_sharded, local, probe_numbers

CAPTURED_TOO_EARLY = "take a step before capturing one: state is made, and read back to the host, in the first"


@dataclass
class GroupPlan:
    """A backend's plan for those parameters of a group that have a gradient."""

    having: list[bool]  # whether each parameter of the group has a gradient
    layout: int  # the fingerprint of the parameters
    dense_layout: int  # the fingerprint of gradients that the kernels can read as they are
    params: list[Tensor]
    dense: bool
    tensors: StepTensors
    steps: StepPlan
    settings: Tensor  # on the device, for a step that is captured
    sizes: Tensor  # elements of each parameter, float64 on the device
    sharing: Sharing | None  # of shards' statistics
    seen: bool = False  # whether the statistics of T are filled
    captured: bool = False  # whether a graph has the addresses of what is here


@dataclass
class GroupStep:
    """What one step does to one group."""

    group: dict[str, Any]
    plan: GroupPlan
    grads: list[Tensor]
    values: list[float]  # the settings, in the order of contract.Setting
    laid_out: bool  # whether the gradients lie as the kernels read them
    seen_params: Layouts
    seen_grads: Layouts
    flags: int = 0  # the flags of the product that this step folds into H
    plus: list[Tensor] = field(default_factory=list)
    minus: list[Tensor] = field(default_factory=list)


class Plans:
    """The plans of all groups. All calls of step kernels go through here.

    Args:
        optimizer: The optimizer whose groups and state the kernels change in place.
        inner: The optimizer inside.
        device: The device of all parameters.
        mesh: The mesh of distributed parameters, or None.
        make_steps: Makes a backend's plan (:func:`srft_kernels.ops.plan_maker`).
        report: ``(REPORT,)`` float64 on the device, to which kernels add penalties and counts.
        curvature: How H is estimated during training, or None.
        propagate: Whether elements that are not finite are stepped like all others.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        inner: InnerOptimizer,
        device: torch.device,
        mesh: Any,
        make_steps: Callable[[StepTensors], StepPlan],
        report: Tensor,
        curvature: Hutchinson | None,
        propagate: bool,
    ) -> None:
        self._optimizer = optimizer
        self._inner = inner
        self._device = device
        self.mesh = mesh
        self._make_steps = make_steps
        self._report = report
        self._curvature = curvature
        self._propagate = propagate
        self._scales: dict[Tensor, tuple[float, float]] = {}
        self.of_group: dict[int, GroupPlan] = {}
        self.outdated: list[GroupPlan] = []  # captured plans that steps no longer use, where a replay would still write
        self.paths: dict[Tensor, Tensor] | None = None  # the sums of a PathIntegral, by parameter
        self.made = False  # whether a plan, which lays state out anew, was made since the flag was last read
        self.renewed = False  # whether a plan was made whose scales do not have the factor of H yet

    def forget(self) -> None:
        """Drop what was derived from state that has been made or replaced since. It is derived again when needed."""
        self.outdated += [plan for plan in self.of_group.values() if plan.captured]
        self.of_group.clear()
        self._scales = {}

    def capturing(self) -> bool:
        """Return whether the current stream is being captured into a graph."""
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    # ------------------------------------------------------------------ which tensors

    def collect(self, index: int) -> GroupStep:
        """Return a group's gradients and plan. What no kernel reads is refused before anything is changed."""
        group = self._optimizer.param_groups[index]
        params = group["params"]
        every = [p.grad for p in params]
        having = [g is not None for g in every]
        grads = [g for g in every if g is not None]
        chosen = params if len(grads) == len(params) else [p for p, has in zip(params, having, strict=True) if has]
        if self.mesh is not None:
            self._refuse_misplaced(params)
            chosen, grads = [local(p) for p in chosen], [local(g) for g in grads]
        own, given = look(chosen), look(grads)
        plan = self.of_group.get(index)
        fits = plan is not None and plan.having == having and plan.layout == own.fingerprint
        if plan is None or not fits or plan.dense_layout != given.fingerprint:
            self._refuse_sparse(group["params"])
            self._refuse_misfits(group["params"])
        if plan is None or not fits:
            plan = self._plan(index, group, having, own.fingerprint)
        values = options.settings_of(group, self._inner)
        laid_out = plan.dense_layout == given.fingerprint
        return GroupStep(group, plan, grads, values, laid_out, own, given)

    def _plan(self, index: int, group: dict[str, Any], having: list[bool], layout: int) -> GroupPlan:
        if self.capturing():
            raise RuntimeError(CAPTURED_TOO_EARLY)
        state = self._optimizer.state
        if index in self.of_group and self.of_group[index].captured:
            self.outdated.append(self.of_group[index])
        chosen = [p for p, has in zip(group["params"], having, strict=True) if has]
        for param in chosen:
            if "anchor" not in state.get(param, {}):
                self._scales = {}  # a parameter that has thawed may get state
            _state.complete(state, group, self._inner, param, self._curvature is not None)
        # of all groups at once, because a global mean needs all; they do not change from step to step
        if not self._scales:
            self._scales = _state.scales_of(state, self._optimizer.param_groups)
        tensors = self._tensors(group, chosen)
        self.renewed = self._curvature is not None
        sizes = torch.tensor([max(p.numel(), 1) for p in chosen], dtype=torch.float64)
        plan = GroupPlan(
            having=having,
            layout=layout,
            dense_layout=look(tensors.params).fingerprint,
            params=chosen,
            dense=all(is_dense(local(p)) for p in chosen),
            tensors=tensors,
            steps=self._make_steps(tensors),
            settings=torch.zeros(contract.SETTINGS, dtype=torch.float64, device=self._device),
            sizes=sizes.to(self._device),
            sharing=Sharing(self.mesh, chosen, self._device) if any(is_sharded(p) for p in chosen) else None,
        )
        self.of_group[index] = plan
        self.made = True
        return plan

    def _tensors(self, group: Mapping[str, Any], chosen: Sequence[Tensor]) -> StepTensors:
        """Return the tensors that the kernels work on. Counts and statistics become views of one tensor each."""
        inner = self._inner
        state = [self._optimizer.state[p] for p in chosen]
        none = torch.empty(0, device=self._device)

        def listed(name: str) -> list[Tensor]:
            found = [local(s[name]) if name in s else none for s in state]
            return found if any(t is not none for t in found) else []

        def together(name: str, empty: Tensor) -> Tensor:
            rows = torch.stack([s.get(name, empty).to(self._device) for s in state]) if state else empty[None][:0]
            for s, row in zip(state, rows.unbind(), strict=True):
                if name in s:
                    s[name] = row
            return rows

        scales = torch.zeros(len(chosen), contract.SCALES, dtype=torch.float64)
        if chosen:
            scales[:, : contract.INVERSE_RMS + 1] = torch.tensor([self._scales[p] for p in chosen], dtype=torch.float64)
            numbers = probe_numbers(self._optimizer.param_groups, self.mesh)
            scales[:, contract.PROBE_NUMBER] = torch.tensor([numbers[p] for p in chosen], dtype=torch.float64)
        priors = listed("prior")
        if self._curvature is not None and priors:  # H takes its share of the prior, or all of it
            curved = ["curvature" in s for s in state]
            scales[torch.tensor(curved), contract.PRIOR_SCALE] *= 1 - self._curvature.blend
            if self._curvature.blend == 1:
                priors = [none if c else prior for c, prior in zip(curved, priors, strict=True)]
        tensors = StepTensors(
            params=[densely(local(p)) for p in chosen],
            steps=together(inner.counter, torch.zeros((), dtype=torch.float32)),
            statistics=together(
                "transfer_statistics", torch.zeros(contract.STATISTICS, dtype=torch.float64, device=self._device)
            ),
            scales=scales.to(self._device),
            anchors=listed("anchor"),
            priors=priors,
            transfers=listed("transfer") if options.owns_transfer(group, inner) else [],
            curvatures=listed("curvature") if group["regularize"] else [],
            paths=[] if self.paths is None else [self._path_of(p, none) for p in chosen],
        )
        moments = inner.moments(group)
        if inner.kind is Inner.ADAM:
            tensors.first_moments, tensors.second_moments = listed("exp_avg"), listed("exp_avg_sq")
            tensors.max_second_moments = listed("max_exp_avg_sq") if "max_exp_avg_sq" in moments else []
        elif inner.kind is Inner.SGD:
            tensors.first_moments = listed("momentum_buffer") if moments else []
        elif options.weighs_transfer(group, inner) and group["transfer_anchor"] == "previous":
            tensors.previous = [torch.empty_like(p) for p in tensors.params]
        return tensors

    def _path_of(self, param: Tensor, none: Tensor) -> Tensor:
        assert self.paths is not None
        path = self.paths.get(param)
        if path is None:
            return none
        if local(path).stride() != dense_strides(local(param)):
            path = self.paths[param] = copy_beside(param, path.dtype, path)
        return local(path)

    # ------------------------------------------------------------------ what is refused

    def _refuse_sparse(self, params: Sequence[Tensor]) -> None:
        groups = self._optimizer.param_groups
        names = [name_of(p, groups) for p in params if p.grad is not None and p.grad.layout != torch.strided]
        if names:
            raise RuntimeError(
                f"SRFT does not support sparse gradients (parameter {shortened(names)}): use a dense embedding "
                "(sparse=False), or keep it in an optimizer of its own"
            )

    def _refuse_misfits(self, params: Sequence[Tensor]) -> None:
        """Refuse a parameter whose shape or device differs from that of its state or its gradient."""
        groups = self._optimizer.param_groups
        for param in params:
            if param.grad is None:
                continue
            if param.device != self._device:
                raise RuntimeError(
                    f"parameter {name_of(param, groups)} is on {param.device}, and this optimizer's state on "
                    f"{self._device}: move the model before wrapping its optimizer"
                )
            if param.dtype not in options.DTYPES:
                raise RuntimeError(
                    f"parameter {name_of(param, groups)} has become {param.dtype}: SRFT steps float32, float64, "
                    "bfloat16 and float16"
                )
            if param.grad.shape != param.shape:
                raise RuntimeError(
                    f"parameter {name_of(param, groups)} has shape {tuple(param.shape)} and its gradient "
                    f"{tuple(param.grad.shape)}: call zero_grad() after changing a parameter's shape"
                )
            for name, value in self._optimizer.state.get(param, {}).items():
                if name in _state.SIZED_STATE and isinstance(value, Tensor) and value.shape != param.shape:
                    raise RuntimeError(
                        f"parameter {name_of(param, groups)} has shape {tuple(param.shape)}, and its "
                        f"{name} {tuple(value.shape)}: a parameter of another shape wants a new optimizer"
                    )

    def _refuse_misplaced(self, params: Sequence[Tensor]) -> None:
        names = [
            name_of(p, self._optimizer.param_groups)
            for p in params
            if p.grad is not None and getattr(p, "placements", None) != getattr(p.grad, "placements", None)
        ]
        if names:
            raise RuntimeError(
                f"gradients that are not distributed as their parameters are (parameter {shortened(names)}): "
                "redistribute them before the step, as fully_shard(module) does"
            )

    # ------------------------------------------------------------------ the kernels

    def run(
        self,
        work: GroupStep,
        phase: Phase,
        extra_flags: int = 0,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
        fold: Mapping[Setting, float] = {},
    ) -> None:
        """Run one group's kernels.

        Args:
            work: The group's tensors, from :meth:`collect`.
            phase: The whole fused step, or one of the two halves around the inner optimizer's step.
            extra_flags: Flags beside those of the group's options.
            found_inf: A tensor of one element that skips the step if it is not zero, or None.
            grad_scale: A tensor of one element by which gradients are divided, or None.
            fold: The settings of the product that is folded into H.

        Raises:
            RuntimeError: If a first step is being captured.
        """
        plan, group = work.plan, work.group
        originals = plan.params if self.mesh is None else [local(p) for p in plan.params]
        params = originals if plan.dense else [densely(p) for p in originals]
        grads = work.grads if phase is not Phase.AFTER else []
        if grads and not work.laid_out:
            grads = [matching(p, g) for p, g in zip(params, grads, strict=True)]
        settings = self._settings(work, fold)
        packed = options.flags_of(group, self._inner, propagate=self._propagate) | extra_flags | work.flags
        flags = StepFlags.of(packed)
        if not plan.seen and flags.weighs_transfer:
            if self.capturing():
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
                seen_params=work.seen_params if plan.dense and phase is not Phase.AFTER else None,
                seen_grads=work.seen_grads if grads and work.laid_out else None,
            )
        )
        if plan.sharing is not None and flags.gathers_in(phase):
            plan.sharing.share(plan.tensors.statistics, flags.ranks, flags.means_globally, found_inf)
        if not plan.dense and phase is not Phase.BEFORE:
            _copy_back(originals, params)
        if phase is Phase.BEFORE:
            _copy_back(work.grads, grads)

    def _settings(self, work: GroupStep, fold: Mapping[Setting, float]) -> list[float] | Tensor:
        """Return the settings as numbers that travel with the launch, or under capture as the vector on the device."""
        plan, group, values = work.plan, work.group, work.values
        if self.capturing():
            plan.captured = True
            self.outdated.clear()
            return plan.settings
        for setting, value in fold.items():
            values[setting] = value
        if not on_device(group.get("lr")):
            return values
        self._write(plan, group, values)
        return plan.settings

    def _write(self, plan: GroupPlan, group: Mapping[str, Any], values: Sequence[float]) -> None:
        plan.settings.copy_(torch.tensor(values, dtype=torch.float64), non_blocking=True)
        if on_device(group.get("lr")):
            plan.settings[Setting.LEARNING_RATE].copy_(group["lr"])

    def write_settings(self, index: int) -> None:
        """Write the settings of a group's next step to the device, where a captured step reads them.

        Raises:
            RuntimeError: If no step was taken yet.
        """
        plan, group = self.of_group.get(index), self._optimizer.param_groups[index]
        if plan is None:
            raise RuntimeError(
                "prepare_replay() moves the numbers of a captured step: take a step first, and capture one"
            )
        self._write(plan, group, options.settings_of(group, self._inner))


def _copy_back(originals: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for original, copy in zip(originals, copies, strict=True):
        if copy is not original:
            original.copy_(copy)
