"""The running estimate H of the Hessian's diagonal: when it is drawn, how steps fold it in, and what normalizes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from srft_kernels import curvature, sharded
from srft_kernels._inner import on_device
from srft_kernels._layout import matching
from srft_kernels._plans import GroupStep, Plans
from srft_kernels.curvature import HessianProduct, Hutchinson
from srft_kernels.ops import contract
from srft_kernels.ops.contract import Setting
from srft_kernels.sharded import local, probe_numbers


class RunningCurvature:
    """Keeps H of all parameters, in their state under ``"curvature"``, from one step to the next.

    Args:
        spec: What is estimated, and how often.
        optimizer: The optimizer whose groups and state hold H.
        plans: The plans whose kernels read H, and fold it if ``fused``.
        fused: Whether a step can fold a product in its own pass over memory.
    """

    def __init__(self, spec: Hutchinson, optimizer: Optimizer, plans: Plans, fused: bool) -> None:
        self.spec = spec
        self._optimizer = optimizer
        self._plans = plans
        self._fused = fused
        self._product: HessianProduct | None = None  # the product that the present step folds
        self._rescale = False  # whether a plan lacks the scales of H
        self._known = False  # whether an earlier fold has left H and its means
        self.find()

    # ------------------------------------------------------------------ around a step

    def due(self, closure: Callable[[], Any] | None) -> bool:
        """Return whether the coming step estimates H.

        A step without a closure whose learning rates are zero does not: ``torch.distributed.checkpoint`` takes one to
        make state.
        """
        self._product = None
        groups = self._optimizer.param_groups
        if closure is None and all(not on_device(g.get("lr")) and g.get("lr") == 0 for g in groups):
            return False
        return bool(groups[0]["updates"] % self.spec.every == 0)

    def evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """Evaluate the closure's gradients, and keep the product for this step to fold into H if it can.

        A step can fold from the second estimate on, because the means of H come from the fold before.

        Args:
            closure: Evaluates the loss.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: Without a closure, or while a graph is captured.
        """
        if closure is None:
            raise RuntimeError(
                f"curvature is estimated in every {self.spec.every}th step, which needs a closure that evaluates the "
                "loss: optimizer.step(closure)"
            )
        if self._plans.capturing():
            raise RuntimeError("a step that estimates curvature cannot be captured: capture the steps between")
        every = probe_numbers(self._optimizer.param_groups, self._plans.mesh)
        numbers = {p: every[p] for p in self._held() if p.requires_grad}
        params = list(numbers)
        estimates = [local(self._optimizer.state[p]["curvature"]) for p in params]
        loss, product = curvature.evaluate(self.spec, params, list(numbers.values()), estimates, self._draws(), closure)
        if self._known and self._fused:
            self._product = product
        else:
            curvature.fold(params, list(numbers.values()), estimates, product)
            self._sum(params)
            self._known = True
        self._rescale = True
        return loss

    def prepare(self, work: Sequence[GroupStep]) -> None:
        """Give the step the product that it folds, and give its kernels the factors of |H|."""
        if self._product is not None:
            for one in work:
                self._add_product(one, self._product)
        if self._rescale or self._plans.renewed:
            self._scale()

    def fold_settings(self) -> dict[Setting, float]:
        """Return the settings of the product that the present step folds, or nothing if there is none."""
        product = self._product
        if product is None:
            return {}
        seed = product.seed & (2**64 - 1)
        return {
            Setting.PROBE_SEED_LOW: float(seed & 0xFFFFFFFF),
            Setting.PROBE_SEED_HIGH: float(seed >> 32),
            Setting.PROBE_STEP: float(product.step),
            Setting.FOLD_DECAY: product.decay,
            Setting.FOLD_WEIGHT: product.weight,
        }

    def finish(self, work: Sequence[GroupStep], found_inf: Tensor | None) -> None:
        """After a step, set the means of the H that it has folded, which the next step reads."""
        if self._product is not None:
            self._share_sums(work, found_inf)
            self._product = None
            self._scale()

    # ------------------------------------------------------------------ H and its means

    def find(self) -> None:
        """After loading, find out whether there is an H, and compute its sums if they were not saved."""
        held = self._held()
        unknown = [p for p in held if not self._statistics(p)[contract.CURVATURE_SUM] > 0]
        if unknown:
            self._sum(unknown)
        self._known = any(bool(self._statistics(p)[contract.CURVATURE_SUM] > 0) for p in held)

    def begin(self) -> None:
        """Take note that some parameters have new state, whose H has no means yet."""
        self._known = False

    def _draws(self) -> int:
        """Return how many draws were folded into H before the present step's."""
        return int(self._optimizer.param_groups[0]["updates"]) // self.spec.every

    def _held(self) -> list[Tensor]:
        """Return the parameters that have an H."""
        state = self._optimizer.state
        return [p for group in self._optimizer.param_groups for p in group["params"] if "curvature" in state.get(p, {})]

    def _statistics(self, param: Tensor) -> Tensor:
        found: Tensor = self._optimizer.state[param]["transfer_statistics"]
        return found

    def _sum(self, params: list[Tensor]) -> None:
        """Compute the sums of |H| in a pass of their own, for the scales of coming steps."""
        state = self._optimizer.state
        sums = torch.stack([local(state[p]["curvature"]).abs().sum(dtype=torch.float64) for p in params])
        if self._plans.mesh is not None:
            sums = sharded.totals(sums, params, self._plans.mesh)
        for param, total in zip(params, sums.unbind(), strict=True):
            self._statistics(param)[contract.CURVATURE_SUM] = total

    def _share_sums(self, work: Sequence[GroupStep], found_inf: Tensor | None) -> None:
        """Add up the sums of |H| over all shards. A skipped step has left the sums shared already."""
        for one in work:
            if one.plan.sharing is None:
                continue
            column = one.plan.tensors.statistics[:, contract.CURVATURE_SUM]
            shared = sharded.totals(column, one.plan.params, self._plans.mesh)
            column.copy_(shared if found_inf is None else torch.where(found_inf.reshape(()) != 0, column, shared))

    def _scale(self) -> None:
        """Set the factors of |H| for the next step on the device, without waiting for it."""
        self._rescale = self._plans.renewed = False
        # H begins at zero, which biases it. A step that folds reads the means of the fold before, whose bias was
        # larger.
        beta, draws = self.spec.beta, self._draws()
        bias = 1 - beta ** (draws + 1)
        correction = (1 - beta**draws) / bias if self._product is not None and draws else 1.0
        for index, plan in self._plans.of_group.items():
            column = plan.tensors.scales[:, contract.CURVATURE_SCALE]
            if not column.numel():
                continue
            normalize = self._optimizer.param_groups[index]["normalize"]
            if normalize == "global":
                means = self._mean().expand_as(column)
            elif normalize is None:
                means = torch.full_like(column, correction * bias)
            else:
                means = plan.tensors.statistics[:, contract.CURVATURE_SUM] / plan.sizes
            scale = correction * self.spec.blend
            column.copy_(torch.where(means > 0, scale / means, torch.zeros_like(means)))

    def _mean(self) -> Tensor:
        """Return the mean of |H| over all tensors, as the last fold left it."""
        held = self._held()
        sums = [self._statistics(p)[contract.CURVATURE_SUM] for p in held]
        total = torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.float64)
        return total / max(sum(p.numel() for p in held), 1)

    def _add_product(self, work: GroupStep, product: HessianProduct) -> None:
        """Give the group's kernels what they fold into H, beside its gradients."""
        dense, params = work.plan.tensors.params, work.plan.params
        none = torch.empty(0, device=work.plan.settings.device)

        def listed(found: dict[Tensor, Tensor]) -> list[Tensor]:
            return [matching(p, found[q]) if q in found else none for p, q in zip(dense, params, strict=True)]

        work.plus = listed(product.plus)
        work.minus = listed(product.minus) if product.minus is not None else []
        work.flags = contract.FOLD | (contract.FOLD_GRADIENT if product.minus is None and not product.whole else 0)
