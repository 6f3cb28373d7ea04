"""The Triton backend, for machines with a GPU and no compiled kernels for it: the plan of a step, and the penalty.

The device code is in ``triton_step.py`` and ``triton_penalty.py``; here is what the host does: tables of addresses,
scratch memory, and the launches. Nothing here waits for the device, and nothing is compiled again when a number
changes. Under ``TRITON_INTERPRET=1``, set before this package is imported, the same code runs on tensors of the CPU,
very slowly: that is for tests.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import contract
from srft_kernels.ops.contract import Damping, Inner, Mode, Phase
from srft_kernels.ops.penalty import check_lists, element_dtype, value_dtype
from srft_kernels.ops.plan import StepTensors

CHUNK = 8192  # elements of one program: a multiple of the histogram's sampling group
BLOCK = 512  # of which it has so many in registers at a time
FOLD_BLOCK = 1024
COMPILED = {"num_warps": 4, "enable_fp_fusion": True}  # four elements a thread: 16 bytes of float32


def available() -> tuple[bool, str]:
    """Whether the kernels can run on this machine, and if not, why."""
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return False, f"triton cannot be imported: {error}"
    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        return True, ""
    return False, f"torch {torch.__version__} sees no GPU (TRITON_INTERPRET=1 would run the kernels on the CPU, slowly)"


def _element_type(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype."""
    language = importlib.import_module("triton.language")
    return getattr(language, str(dtype).removeprefix("torch."))


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes ``device`` the current one, where Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class _Mirror:
    """A vector on a device that follows numbers of the host, without waiting for the device; sent when they change.

    Under capture it is always sent, from memory that is kept, because every replay sends that memory again. Once
    captured, what a replay sent may be older than what was sent last, so from then on it is sent every time.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._on_device = torch.zeros(size, dtype=dtype, device=device)
        self._sent: list[Any] | None = None
        self._captured: list[Tensor] = []
        self._spare: Tensor | None = self._page_locked()  # had before a capture, which may not ask for such memory

    def _page_locked(self) -> Tensor:
        return torch.empty(self._on_device.shape, dtype=self._on_device.dtype, pin_memory=self._pinned)

    def of(self, numbers: list[Any]) -> Tensor:
        capturing = self._pinned and torch.cuda.is_current_stream_capturing()
        if numbers == self._sent and not capturing and not self._captured:
            return self._on_device
        # torch's allocator of page-locked memory gives it out again only after the copies from it are done.
        staged = self._page_locked() if self._spare is None or not capturing else self._spare
        staged.copy_(torch.tensor(numbers, dtype=staged.dtype))
        if capturing:
            self._captured.append(staged)
            self._spare = None
        elif self._spare is None:
            self._spare = self._page_locked()
        self._on_device.copy_(staged, non_blocking=True)
        self._sent = numbers
        return self._on_device


@lru_cache(maxsize=32)
def _owners(sizes: tuple[int, ...], device: torch.device) -> tuple[tuple[int, ...], Tensor]:
    """How many chunks lie before each tensor's, with their total at the end; and the tensor that each chunk is of."""
    counts = torch.tensor([-(-size // CHUNK) for size in sizes], dtype=torch.int64)
    before = (0, *counts.cumsum(0).tolist())
    owners = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), counts)
    return before, owners.to(device)


# ---------------------------------------------------------------- the step


_CHOICES = {
    "prepare": "INNER MODE DAMPING NORMALIZE TO_ANCHOR PHASE OWN DECOUPLED_DECAY",
    "advance": "PARAM ANCHOR INNER MODE DAMPING TO_ANCHOR PHASE GATHERS HOLD OWN BUFFER PREVIOUS DECOUPLED_DECAY "
    "AMSGRAD NESTEROV CURVED FOLD FOLD_GRADIENT PATH COUNT_SKIPPED",
    "fold": "DAMPING PHASE GATHERS FOLD",
}


@dataclass(frozen=True)
class _Layout:
    """What tensors that are launched together have in common: dtypes, and which kinds of state they have."""

    param: torch.dtype
    anchor: torch.dtype
    first: bool
    maximum: bool
    previous: bool
    transfer: bool
    curvature: bool
    path: bool


class _Group:
    """The tensors of one layout: their tables and scratch memory, and the three launches over them."""

    def __init__(self, tensors: StepTensors, layout: _Layout, members: list[int]) -> None:
        self._kernels: Any = importlib.import_module(".triton_step", __package__)
        self._tensors = tensors
        self._layout = layout
        self._members = members
        device = tensors.steps.device
        n = len(members)
        sizes = [tensors.params[i].numel() for i in members]
        before, self._owners = _owners(tuple(sizes), device)
        self._chunks = before[-1]

        def address(listed: list[Tensor], i: int) -> int:
            return listed[i].data_ptr() if listed and listed[i].numel() else 0

        states = (
            tensors.first_moments,
            tensors.second_moments,
            tensors.max_second_moments,
            tensors.previous,
            tensors.anchors,
            tensors.priors,
            tensors.transfers,
            tensors.curvatures,
            tensors.paths,
        )
        rows = [
            [*(address(listed, i) for listed in states), size, first, i]
            for i, size, first in zip(members, sizes, before, strict=False)
        ]
        k = self._kernels
        self._fixed = torch.tensor(rows, dtype=torch.int64).reshape(n, k.FIXED.value).to(device)
        self._moving = _Mirror((4 if layout.curvature else 2) * n, torch.int64, device)
        self._gradients = [0] * n
        real = torch.float64 if layout.param == torch.float64 else torch.float32
        self._constants = torch.zeros(n, k.CONSTANTS.value + contract.BINS, dtype=real, device=device)
        self._histogram = torch.zeros(n, contract.BINS, dtype=torch.int32, device=device)
        self._extremes = torch.zeros(n, 2, dtype=torch.int32, device=device)
        self._slots = torch.zeros(k.SLOTS.value, self._chunks, dtype=torch.float64, device=device)
        self._options: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}

    def options(self, flags: int, phase: int) -> dict[str, dict[str, Any]]:
        """What each kernel is compiled for."""
        known = self._options.get((flags, phase))
        if known is not None:
            return known
        inner, mode = flags >> contract.INNER_SHIFT & 3, flags >> contract.MODE_SHIFT & 3
        damping, normalize = flags >> contract.DAMPING_SHIFT & 3, flags >> contract.NORMALIZE_SHIFT & 3
        averaged = self._layout.transfer or inner == Inner.ADAM
        to_anchor = averaged and bool(flags & contract.TRANSFER_TO_ANCHOR)
        # Toward where it just was an element has no gradient, so coupled mode has no damping.
        if to_anchor or not averaged or mode == Mode.COUPLED:
            damping = Damping.UNDAMPED
        # Of the halves of an unfused step the second gathers, but for T in the gradient that the first one makes.
        late = phase != Phase.BEFORE or (to_anchor and mode == Mode.COUPLED)
        folds = self._layout.curvature and bool(flags & contract.FOLD) and phase == Phase.FUSED
        made = {
            "PARAM": _element_type(self._layout.param),
            "ANCHOR": _element_type(self._layout.anchor),
            "INNER": int(inner),
            "MODE": int(mode),
            "DAMPING": int(damping),
            "NORMALIZE": int(normalize),
            "TO_ANCHOR": to_anchor,
            "PHASE": int(phase),
            "GATHERS": (to_anchor or damping != Damping.UNDAMPED) and late,
            "HOLD": not flags & contract.PROPAGATE_NONFINITE,
            "OWN": self._layout.transfer,
            "BUFFER": inner == Inner.SGD and self._layout.first,
            "PREVIOUS": self._layout.previous,
            "DECOUPLED_DECAY": bool(flags & contract.DECOUPLED_DECAY),
            "AMSGRAD": self._layout.maximum,
            "NESTEROV": bool(flags & contract.NESTEROV),
            "CURVED": self._layout.curvature,
            "FOLD": folds,
            "FOLD_GRADIENT": bool(flags & contract.FOLD_GRADIENT),
            "PATH": self._layout.path and phase == Phase.FUSED,
            "COUNT_SKIPPED": bool(flags & contract.COUNT_SKIPPED),
        }
        chosen = {kernel: {name: made[name] for name in names.split()} | COMPILED for kernel, names in _CHOICES.items()}
        self._options[flags, phase] = chosen
        return chosen

    def prepare(self, settings: Tensor, options: dict[str, dict[str, Any]], grad_scale: Tensor | None) -> None:
        if not self._members:
            return
        t = self._tensors
        self._kernels.prepare[(len(self._members),)](
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
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        plus: Sequence[Tensor],
        minus: Sequence[Tensor],
        settings: Tensor,
        options: dict[str, dict[str, Any]],
        found_inf: Tensor | None,
    ) -> None:
        if not self._chunks:
            return
        if grads:  # the second half of an unfused step has none: what the first half sent stays
            self._gradients = [grads[i].data_ptr() for i in self._members]
        addresses = [params[i].data_ptr() for i in self._members] + self._gradients
        if self._layout.curvature:
            for listed in (plus, minus):
                addresses += [listed[i].data_ptr() if listed else 0 for i in self._members]
        self._kernels.advance[(self._chunks,)](
            self._fixed,
            self._moving.of(addresses),
            settings,
            self._tensors.scales,
            len(self._members),
            self._owners,
            self._chunks,
            found_inf,
            self._constants,
            self._histogram,
            self._extremes,
            self._slots,
            BLOCK=BLOCK,
            CHUNK=CHUNK,
            **options["advance"],
        )

    def fold(
        self, report: Tensor, options: dict[str, dict[str, Any]], found_inf: Tensor | None, *, reset: bool
    ) -> None:
        self._kernels.fold[(len(self._members) + contract.REPORT,)](
            self._fixed,
            len(self._members),
            self._chunks,
            found_inf,
            self._constants,
            self._histogram,
            self._extremes,
            self._slots,
            self._tensors.steps,
            self._tensors.statistics,
            report,
            RESET=reset,
            CHUNK=CHUNK,
            BLOCK=FOLD_BLOCK,
            **options["fold"],
        )


def _layouts(tensors: StepTensors) -> dict[_Layout, list[int]]:
    """Which tensors can be launched together."""

    def has(listed: list[Tensor], i: int) -> bool:
        # A parameter without elements has every state that its group has.
        return bool(listed) and (listed[i].numel() > 0 or tensors.params[i].numel() == 0)

    anchors: dict[torch.dtype, torch.dtype] = {}  # of the first anchor beside a dtype, for parameters without one
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
    """A :class:`~srft_kernels.ops.plan.StepPlan` of Triton kernels: three launches a step and dtype.

    Tables of addresses are made here once; a step sends those of parameters and gradients again only where one has
    moved. Gradients have their parameter's dtype, and every tensor is dense.
    """

    def __init__(self, tensors: StepTensors) -> None:
        self._device = tensors.steps.device
        self._settings = _Mirror(contract.SETTINGS, torch.float64, self._device)
        with _on(self._device):
            self._groups = [_Group(tensors, layout, members) for layout, members in _layouts(tensors).items()]

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        settings: Sequence[float] | Tensor,
        report: Tensor,
        flags: int,
        phase: int,
        *,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
        plus: Sequence[Tensor] = (),
        minus: Sequence[Tensor] = (),
    ) -> None:
        """As :meth:`StepPlan.step <srft_kernels.ops.plan.StepPlan.step>` says."""
        with _on(self._device):
            values = settings if isinstance(settings, Tensor) else self._settings.of([float(s) for s in settings])
            options = [group.options(flags, phase) for group in self._groups]
            # All of one kind before the next: a mean over all tensors is read before any of them is changed.
            for group, chosen in zip(self._groups, options, strict=True):
                group.prepare(values, chosen, grad_scale)
            for group, chosen in zip(self._groups, options, strict=True):
                group.advance(params, grads, plus, minus, values, chosen, found_inf)
            reset = bool(flags & contract.RESET_PENALTIES)
            for group, chosen in zip(self._groups, options, strict=True):
                group.fold(report, chosen, found_inf, reset=reset)
                reset = False


# ---------------------------------------------------------------- the penalty

# Tables that a captured graph sends at every replay.
_captured: list[Tensor] = []


def _sent(numbers: list[int], device: torch.device) -> Tensor:
    """A table for one call, on the device without waiting for it."""
    table = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(table)
    return table.to(device, non_blocking=True)


_KNOWN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _readable(tensors: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The tensors as the kernels read them: dense, and of a dtype that they know."""
    return [
        (t if t.dtype in _KNOWN else t.to(element_dtype(p))).detach().contiguous()
        for t, p in zip(tensors, params, strict=True)
    ]


def _launch_penalty(lists: Sequence[list[Tensor]], factor: Tensor) -> Tensor:
    """Launch over parameters, anchors and significances, once for each combination of dtypes. Writes the gradients
    where ``lists`` has a fourth list for them; else returns the chunks' sums of P (theta - a)^2.
    """
    kernels: Any = importlib.import_module(".triton_penalty", __package__)
    device = factor.device
    together: dict[tuple[torch.dtype, ...], list[int]] = {}
    for i, tensors in enumerate(zip(*lists, strict=True)):
        if tensors[0].numel():
            together.setdefault(tuple(t.dtype for t in tensors), []).append(i)
    found = []
    for dtypes, members in together.items():
        sizes = tuple(lists[0][i].numel() for i in members)
        before, owners = _owners(sizes, device)
        addresses = [[listed[i].data_ptr() for i in members] for listed in lists]
        if len(addresses) == 3:
            addresses.append([0] * len(members))
        slots = torch.empty(before[-1] if len(lists) == 3 else 0, dtype=torch.float64, device=device)
        kernels.penalty[(before[-1],)](
            _sent([*chain(*addresses), *sizes, *before[:-1]], device),
            len(members),
            owners,
            factor,
            slots,
            PARAM=_element_type(dtypes[0]),
            ANCHOR=_element_type(dtypes[1]),
            SIGNIFICANCE=_element_type(dtypes[2]),
            GRADIENT=len(lists) == 4,
            BLOCK=BLOCK,
            CHUNK=CHUNK,
            **COMPILED,
        )
        found.append(slots)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=device)


def penalty_value(
    params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
) -> Tensor:
    """``1/2 strength sum P (theta - a)^2`` as :func:`~srft_kernels.ops.penalty.penalty_reference` defines it; summed
    in float64 in a fixed order.
    """
    check_lists(params, anchors, significance, strength)
    device = params[0].device if params else strength.device
    factor = 0.5 * strength.to(device, torch.float64)
    with _on(device):
        sums = _launch_penalty([_readable(t, params) for t in (params, anchors, significance)], factor)
    return (factor * sums.sum()).to(value_dtype(params))


def penalty_gradients(
    grad: Tensor,
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    significance: Sequence[Tensor],
    strength: Tensor,
) -> list[Tensor]:
    """``grad strength P (theta - a)`` per tensor, as
    :func:`~srft_kernels.ops.penalty.penalty_backward_reference` defines it: the parameters' dtypes, contiguous.
    """
    check_lists(params, anchors, significance, strength)
    if not params:
        return []
    device = params[0].device
    factor = grad.to(device, torch.float64) * strength.to(device, torch.float64)
    lists = [_readable(t, params) for t in (params, anchors, significance)]
    gradients = [torch.empty_like(p) for p in lists[0]]
    with _on(device):
        _launch_penalty([*lists, gradients], factor)
    return [g.to(p.dtype) for g, p in zip(gradients, params, strict=True)]
