"""The options of a param group: which values are allowed, and which flags and settings the kernels get from them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from srft_kernels import sharded
from srft_kernels._inner import InnerOptimizer
from srft_kernels._names import name_of
from srft_kernels.curvature import Hutchinson
from srft_kernels.ops.contract import Damping, Mode, Normalize, Setting
from srft_kernels.ops.flags import StepFlags
from srft_kernels.schedule import ConstantKappa, as_schedule, evaluate

MODES = {"proximal": Mode.PROXIMAL, "decoupled": Mode.DECOUPLED, "coupled": Mode.COUPLED}
DAMPINGS = {"rank": Damping.RANK, "mean": Damping.MEAN, None: Damping.UNDAMPED}
NORMALIZATIONS = {"tensor": Normalize.PER_TENSOR, "global": Normalize.GLOBAL, None: Normalize.ABSOLUTE}
CHOICES: dict[str, Sequence[Any]] = {
    "mode": tuple(MODES),
    "damping": tuple(DAMPINGS),
    "normalize": tuple(NORMALIZATIONS),
    "transfer": ("auto", "second_moment", "own"),
    "transfer_anchor": ("previous", "initial"),
    "regularize": (True, False),
}
NUMBERS = ("strength", "tau", "transfer_beta")
OPTIONS = (*NUMBERS, "kappa", "mu", *CHOICES)
# What options that only some groups have a use for are if nobody gives them.
MU, TAU, TRANSFER, TRANSFER_BETA = (0.25, 0.65), 1.0, "auto", 0.999
# Counts that the wrapper keeps in a group: the steps taken, and the steps taken before the present task began.
COUNTS = ("updates", "task_began")
# Arguments of SRFT that hold for all groups. In a group they would have no effect.
OF_THE_WRAPPER = ("prior", "anchor", "curvature", "nonfinite", "backend", "strict", "unscale_in_step")
NONFINITE = ("hold", "skip_step", "propagate")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_arguments(inner: InnerOptimizer, nonfinite: str, curvature: Any, unscale_in_step: bool | None) -> None:
    """Refuse arguments of the wrapper that could not be honored. They hold for all groups."""
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite must be one of {NONFINITE}, got {nonfinite!r}")
    if curvature is not None and not isinstance(curvature, Hutchinson):
        raise TypeError(f"curvature must be an srft.Hutchinson(...) or None, got {type(curvature).__name__}")
    if unscale_in_step and not inner.fused:
        raise ValueError(
            f"unscale_in_step=True needs AdamW, Adam or SGD inside, whose steps are fused: around "
            f"{type(inner.optimizer).__name__} GradScaler unscales by itself"
        )


def checked(group: Mapping[str, Any], inner: InnerOptimizer) -> dict[str, Any]:
    """Return a group's options in the form that the wrapper works with: floats, a pair and a schedule.

    Raises:
        ValueError: If an option is out of range, cannot be honored by this inner optimizer, or seems misspelled.
    """
    _refuse_strangers(group, inner)
    for option, allowed in CHOICES.items():
        if not any(group[option] is value or group[option] == value for value in allowed):
            raise ValueError(f"{option} must be one of {list(allowed)}, got {group[option]!r}")
    found = {option: group[option] for option in CHOICES}
    found |= {option: _number(option, group[option]) for option in NUMBERS}
    if not found["transfer_beta"] < 1:
        raise ValueError(f"transfer_beta must be in [0, 1), got {group['transfer_beta']}")
    pair = group["mu"]
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"mu must be (lowest, highest), got {pair!r}")
    low, high = (_number("mu", value) for value in pair)
    if not low <= high < 1:
        raise ValueError(f"mu must be (lowest, highest) with 0 <= lowest <= highest < 1, got {pair}")
    found["mu"] = (low, high)
    found["kappa"] = as_schedule(group["kappa"])
    if group["transfer"] == "second_moment" and not inner.second_moment(group):
        raise ValueError(
            "transfer='second_moment' needs AdamW or Adam inside and mode 'proximal' or 'decoupled', where the "
            "second moment is an average of the task gradient alone: use transfer='own'"
        )
    if group.get("differentiable"):
        raise ValueError("differentiable=True is not supported: SRFT's step runs outside autograd")
    return found


def _number(option: str, value: Any) -> float:
    """Return a scalar option as a float. Refuse one that is negative or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, (bool, str)) or not 0 <= number < float("inf"):
        raise ValueError(f"{option} must be finite and at least 0, got {value!r}")
    return number


def _refuse_strangers(group: Mapping[str, Any], inner: InnerOptimizer) -> None:
    known = {*OPTIONS, *COUNTS, *inner.optimizer.defaults, "params", "param_names", "initial_lr"}
    for key in group:
        if key in known:
            continue
        if key in OF_THE_WRAPPER:
            raise ValueError(
                f"{key!r} is no option of a param group: it is an argument of SRFT(...), for all groups at once"
            )
        close = difflib.get_close_matches(str(key), OPTIONS, n=1, cutoff=0.82)
        if close:
            raise ValueError(f"a param group has the option {key!r}, which means nothing here: is it {close[0]!r}?")


def check_parameters(params: Sequence[Tensor], groups: Sequence[Mapping[str, Any]], mesh: Any, twice: bool) -> Any:
    """Refuse parameters that no kernel reads.

    Args:
        params: The parameters of a group.
        groups: The groups that have their names.
        mesh: The mesh of the distributed parameters so far, or None.
        twice: Whether the loss is to be differentiated twice.

    Returns:
        The mesh of the distributed parameters, including these.

    Raises:
        ValueError: For complex parameters, other dtypes, and placements that are not supported.
    """
    for param in params:
        if param.is_complex():
            raise ValueError(f"complex parameters are not supported (shape {tuple(param.shape)}): view them as real")
        if sharded.is_distributed(param):
            name = name_of(param, groups)
            mesh = sharded.check(param, name, mesh)
            if twice:
                raise ValueError(
                    f"{name} is distributed: FSDP2 does not differentiate twice; use method='finite_difference'"
                )
        if param.dtype not in DTYPES:
            raise ValueError(f"parameters must be float32, float64, bfloat16 or float16, got {param.dtype}")
    return mesh


def check_groups(
    groups: Sequence[dict[str, Any]], inner: InnerOptimizer, curvature: Hutchinson | None
) -> tuple[Any, torch.device]:
    """Bring the options of all groups into the wrapper's form, and refuse what no step could honor.

    Returns:
        The mesh of distributed parameters, or None; and the device that all parameters are on.
    """
    for group in groups:
        group.update(checked(group, inner))
    mesh, twice = None, curvature is not None and curvature.method == "autograd"
    for group in groups:
        mesh = check_parameters(group["params"], groups, mesh, twice)
    devices = {p.device for group in groups for p in group["params"]}
    if len(devices) != 1:
        raise ValueError(
            f"all parameters must be on one device, got {sorted(map(str, devices))}: make one optimizer for each device"
        )
    return mesh, devices.pop()


def refuse_idle(arguments: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], inner: InnerOptimizer) -> None:
    """Refuse an argument that no group has a use for.

    Raises:
        ValueError: ``mu``, ``tau``, ``transfer`` or ``transfer_beta`` is not the usual one and would have no effect.
    """
    usual = {"mu": MU, "tau": TAU, "transfer": TRANSFER, "transfer_beta": TRANSFER_BETA}
    # Coupled mode has no damping: one that was asked for is idle there, and what it would have used is not refused.
    weighed = [group for group in groups if group["damping"] or group["transfer_anchor"] == "initial"]
    own = [group for group in weighed if group["transfer"] == "own" or not inner.second_moment(group)]
    in_use = {
        "mu": (any(group["damping"] == "rank" for group in groups), "give damping='rank'"),
        "tau": (any(group["damping"] == "mean" for group in groups), "give damping='mean'"),
        "transfer": (
            bool(weighed),
            "T has no part in a step without damping or transfer_anchor='initial': give one of them",
        ),
        "transfer_beta": (
            bool(own),
            "give transfer='own' and a damping, for a T that is a state of its own",
        ),
    }
    for option, (used, remedy) in in_use.items():
        given = tuple(arguments[option]) if isinstance(arguments[option], list) else arguments[option]
        if given != usual[option] and not used:
            raise ValueError(f"{option}={given!r} would have no effect in any group: {remedy}, or leave {option} out")


# ---------------------------------------------------------------- what follows from the options


def step_flags(group: Mapping[str, Any], inner: InnerOptimizer, *, propagate: bool = False) -> StepFlags:
    """Return what the group's options ask of a step."""
    return StepFlags(
        inner=inner.kind,
        mode=MODES[group["mode"]],
        damping=DAMPINGS[group["damping"]],
        normalize=NORMALIZATIONS[group["normalize"]],
        decoupled_decay=inner.decoupled_decay(group),
        amsgrad=inner.fused and bool(group.get("amsgrad")),
        nesterov=inner.fused and bool(group.get("nesterov")),
        transfer_to_anchor=group["transfer_anchor"] == "initial",
        propagate_nonfinite=propagate,
    )


def weighs_transfer(group: Mapping[str, Any], inner: InnerOptimizer) -> bool:
    """Return whether T damps or pulls in this group at any value of kappa."""
    return bool(group["regularize"]) and step_flags(group, inner).weighs_transfer


def owns_transfer(group: Mapping[str, Any], inner: InnerOptimizer) -> bool:
    """Return whether T is a state of its own."""
    return weighs_transfer(group, inner) and (group["transfer"] == "own" or not inner.second_moment(group))


def protects_alone(group: Mapping[str, Any]) -> bool:
    """Return whether kappa stays at 1, so that T has no weight in the damping."""
    kappa = group["kappa"]
    always_one = isinstance(kappa, ConstantKappa) and kappa.value == 1.0
    return always_one and group["transfer_anchor"] == "previous"


def snapshot(group: Mapping[str, Any], inner: InnerOptimizer) -> tuple[Any, ...]:
    """Return a group's options in a form that shows whether they were changed.

    Returns:
        Four parts: what decides which state and statistics the group's kernels take; whether the group is regularized;
        how many options there are, known and unknown; and the rest.
    """
    structure = (
        *(group[option] for option in CHOICES),
        inner.moments(group),
        inner.second_moment(group),
        protects_alone(group),
    )
    return structure, group["regularize"], len(group), *(group[option] for option in (*NUMBERS, "mu", "kappa"))


def flags_of(group: Mapping[str, Any], inner: InnerOptimizer, *, propagate: bool) -> int:
    """Return the flags of the group's steps, without those of a T that has no weight."""
    flags = step_flags(group, inner, propagate=propagate)
    if group["regularize"] and not protects_alone(group):
        return int(flags)
    return int(replace(flags, damping=Damping.UNDAMPED, transfer_to_anchor=False))


def kappa_of(group: Mapping[str, Any]) -> float:
    """Return kappa in the group's next step. Its schedule counts from the beginning of the present task."""
    return evaluate(group["kappa"], group["updates"] - group["task_began"])


def settings_of(group: Mapping[str, Any], inner: InnerOptimizer) -> list[float]:
    """Return the settings of the group's next step, in the order of :class:`contract.Setting`."""
    regularize = group["regularize"]
    values = {
        **inner.settings(group),
        Setting.STRENGTH: group["strength"] if regularize else 0.0,
        Setting.KAPPA: kappa_of(group) if regularize else 1.0,
        Setting.MU_MIN: group["mu"][0],
        Setting.MU_MAX: group["mu"][1],
        Setting.TAU: group["tau"],
        Setting.TRANSFER_BETA: group["transfer_beta"],
    }
    return [values.get(setting, 0.0) for setting in Setting]
