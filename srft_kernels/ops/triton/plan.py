"""A parameter group's step in Triton: tables of addresses, scratch memory, and three launches a step and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Phase
from srft_kernels.ops.flags import StepFlags
from srft_kernels.ops.plan import STATE_LISTS, StepCall, StepTensors
from srft_kernels.ops.tensors import compute_dtype
from srft_kernels.ops.triton import launch, step_kernels
from srft_kernels.ops.triton.launch import CHUNK, COMPILED, Mirror, element_type, on, owners_of

kernels: Any = step_kernels
FOLD_BLOCK = 1024

_CHOICES = {
    "prepare": "INNER MODE DAMPING NORMALIZE TO_ANCHOR PHASE OWN DECOUPLED_DECAY",
    "advance": "PARAM ANCHOR INNER MODE DAMPING TO_ANCHOR PHASE GATHERS HOLD OWN BUFFER PREVIOUS DECOUPLED_DECAY "
    "AMSGRAD NESTEROV CURVED FOLD FOLD_GRADIENT PATH COUNT_SKIPPED",
    "fold": "DAMPING PHASE GATHERS FOLD",
}


@dataclass(frozen=True)
class _Layout:
    """What tensors that are launched together have in common: their dtypes, and which kinds of state they have."""

    param: torch.dtype
    anchor: torch.dtype
    first: bool
    maximum: bool
    previous: bool
    transfer: bool
    curvature: bool
    path: bool


class _Group:
    """The tensors of one layout, with their tables, their scratch memory and the three launches over them."""

    def __init__(self, tensors: StepTensors, layout: _Layout, members: list[int]) -> None:
        self._tensors = tensors
        self._layout = layout
        self._members = members
        device = tensors.steps.device
        n = len(members)
        sizes = [tensors.params[i].numel() for i in members]
        before, self._owners = owners_of(tuple(sizes), device)
        self._chunks = before[-1]

        def address(listed: list[Tensor], i: int) -> int:
            return listed[i].data_ptr() if listed and listed[i].numel() else 0

        states = [getattr(tensors, name) for name in STATE_LISTS]
        rows = [
            [*(address(listed, i) for listed in states), size, first, i]
            for i, size, first in zip(members, sizes, before, strict=False)
        ]
        self._fixed = torch.tensor(rows, dtype=torch.int64).reshape(n, kernels.FIXED.value).to(device)
        self._moving = Mirror((4 if layout.curvature else 2) * n, torch.int64, device)
        self._gradients = [0] * n
        real = compute_dtype(layout.param)
        self._constants = torch.zeros(n, kernels.CONSTANTS.value + contract.BINS, dtype=real, device=device)
        self._histogram = torch.zeros(n, contract.BINS, dtype=torch.int32, device=device)
        self._extremes = torch.zeros(n, 2, dtype=torch.int32, device=device)
        self._slots = torch.zeros(kernels.SLOTS.value, self._chunks, dtype=torch.float64, device=device)
        self._options: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}

    def options(self, flags: int, phase: int) -> dict[str, dict[str, Any]]:
        """Return the constants that each kernel is compiled for."""
        known = self._options.get((flags, phase))
        if known is not None:
            return known
        f = StepFlags.of(flags)
        averaged = self._layout.transfer or f.inner is Inner.ADAM  # whether there is a T
        made = {
            "PARAM": element_type(self._layout.param),
            "ANCHOR": element_type(self._layout.anchor),
            "INNER": int(f.inner),
            "MODE": int(f.mode),
            "DAMPING": int(f.damping if averaged and f.damps else Damping.UNDAMPED),
            "NORMALIZE": int(f.normalize),
            "TO_ANCHOR": averaged and f.transfer_to_anchor,
            "PHASE": int(phase),
            "GATHERS": averaged and f.gathers_in(phase),
            "HOLD": not f.propagate_nonfinite,
            "OWN": self._layout.transfer,
            "BUFFER": f.inner is Inner.SGD and self._layout.first,
            "PREVIOUS": self._layout.previous,
            "DECOUPLED_DECAY": f.decoupled_decay,
            "AMSGRAD": self._layout.maximum,
            "NESTEROV": f.nesterov,
            "CURVED": self._layout.curvature,
            "FOLD": self._layout.curvature and f.folds_in(phase),
            "FOLD_GRADIENT": f.fold_gradient,
            "PATH": self._layout.path and phase == Phase.FUSED,
            "COUNT_SKIPPED": f.count_skipped,
        }
        chosen = {kernel: {name: made[name] for name in names.split()} | COMPILED for kernel, names in _CHOICES.items()}
        self._options[flags, phase] = chosen
        return chosen

    def prepare(self, settings: Tensor, options: dict[str, dict[str, Any]], grad_scale: Tensor | None) -> None:
        if not self._members:
            return
        t = self._tensors
        kernels.prepare[(len(self._members),)](
            self._fixed,
            settings,
            t.steps,
            t.statistics,
            t.scales,
            len(t.params),
            grad_scale,
            self._constants,
            self._histogram,
            self._extremes,
            **options["prepare"],
        )

    def advance(
        self, moving: tuple[list[int], ...], settings: Tensor, options: dict[str, dict[str, Any]], call: StepCall
    ) -> None:
        if not self._chunks:
            return
        params, grads, plus, minus = moving
        if grads:  # the second half of an unfused step has no gradients and reuses what the first half sent
            self._gradients = [grads[i] for i in self._members]
        addresses = [params[i] for i in self._members] + self._gradients
        if self._layout.curvature:
            for listed in (plus, minus):
                addresses += [listed[i] if listed else 0 for i in self._members]
        kernels.advance[(self._chunks,)](
            self._fixed,
            self._moving.of(addresses),
            settings,
            self._tensors.scales,
            len(self._members),
            self._owners,
            self._chunks,
            call.found_inf,
            self._constants,
            self._histogram,
            self._extremes,
            self._slots,
            BLOCK=launch.BLOCK,
            CHUNK=CHUNK,
            **options["advance"],
        )

    def fold(self, options: dict[str, dict[str, Any]], call: StepCall, *, reset: bool) -> None:
        kernels.fold[(len(self._members) + contract.REPORT,)](
            self._fixed,
            len(self._members),
            self._chunks,
            call.found_inf,
            self._constants,
            self._histogram,
            self._extremes,
            self._slots,
            self._tensors.steps,
            self._tensors.statistics,
            call.report,
            RESET=reset,
            CHUNK=CHUNK,
            BLOCK=FOLD_BLOCK,
            **options["fold"],
        )


def _layouts(tensors: StepTensors) -> dict[_Layout, list[int]]:
    """Return which tensors can be launched together."""

    def has(listed: list[Tensor], i: int) -> bool:
        # A parameter without elements counts as having every state that its group has.
        return bool(listed) and (listed[i].numel() > 0 or tensors.params[i].numel() == 0)

    # by parameter dtype, the dtype of the first anchor, for parameters without one
    anchors: dict[torch.dtype, torch.dtype] = {}
    for param, anchor in zip(tensors.params, tensors.anchors, strict=False):
        if anchor.numel():
            anchors.setdefault(param.dtype, anchor.dtype)
    layouts: dict[_Layout, list[int]] = {}
    for i, param in enumerate(tensors.params):
        anchored = bool(tensors.anchors) and tensors.anchors[i].numel() > 0
        layout = _Layout(
            param=param.dtype,
            anchor=tensors.anchors[i].dtype if anchored else anchors.get(param.dtype, param.dtype),
            first=has(tensors.first_moments, i),
            maximum=has(tensors.max_second_moments, i),
            previous=has(tensors.previous, i),
            transfer=has(tensors.transfers, i),
            curvature=has(tensors.curvatures, i),
            path=has(tensors.paths, i),
        )
        layouts.setdefault(layout, []).append(i)
    return layouts or {_Layout(torch.float32, torch.float32, False, False, False, False, False, False): []}


class TritonPlan:
    """A :class:`~srft_kernels.ops.plan.StepPlan` of Triton kernels, with three launches for each step and dtype.

    Tables of addresses are made once, here. A step sends those of parameters and gradients again only if one of them
    has moved. Gradients have their parameter's dtype, and every tensor is dense.
    """

    def __init__(self, tensors: StepTensors) -> None:
        self._device = tensors.steps.device
        self._settings = Mirror(contract.SETTINGS, torch.float64, self._device)
        with on(self._device):
            self._groups = [_Group(tensors, layout, members) for layout, members in _layouts(tensors).items()]

    def step(self, call: StepCall) -> None:
        """Take one step, as :meth:`.plan.StepPlan.step` defines it."""
        with on(self._device):
            moving = tuple(seen.addresses.tolist() for seen in call.looks())
            settings = call.settings
            values = settings if isinstance(settings, Tensor) else self._settings.of([float(s) for s in settings])
            options = [group.options(call.flags, call.phase) for group in self._groups]
            # Each kernel runs for all groups before the next kernel does: a mean over all tensors is read before any is
            # changed.
            for group, chosen in zip(self._groups, options, strict=True):
                group.prepare(values, chosen, call.grad_scale)
            for group, chosen in zip(self._groups, options, strict=True):
                group.advance(moving, values, chosen, call)
            reset = bool(call.flags & contract.RESET_PENALTIES)
            for group, chosen in zip(self._groups, options, strict=True):
                group.fold(chosen, call, reset=reset)
                reset = False
