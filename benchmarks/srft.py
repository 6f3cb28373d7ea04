"""SRFT in all the variants that are timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer, RMSprop

import srft_kernels as srft
from benchmarks import traffic
from benchmarks.contestants import DECAY, LR, MOMENTUM, STRENGTH, Contestant, Running, Unavailable, running
from benchmarks.traffic import Passes, Traffic
from benchmarks.workload import Workload

# The backends that a user may ask for on each device, and their names in the tables. "" means the compiled kernels.
BACKENDS: dict[str, dict[str, str]] = {"cpu": {"": ""}, "cuda": {"": ", CUDA", "triton": ", Triton"}}


def backend_option(device: torch.device, backend: str) -> dict[str, Any]:
    """Return ``backend=`` for SRFT.

    A GPU's backend is named, so that a missing one is an error and not the reference's time.
    """
    return {"backend": backend or "native"} if device.type == "cuda" else {}


def wrap(inner: Optimizer, prior: dict[Any, torch.Tensor] | None, **options: Any) -> srft.SRFT:
    """Return SRFT, by default with rank damping and the mean over each tensor, as all records have it.

    It raises :class:`Unavailable` if the backend that was asked for is missing.
    """
    try:
        return srft.SRFT(inner, prior, **{"damping": "rank", "normalize": "tensor", **options})
    except (RuntimeError, ValueError) as error:
        if "backend" not in str(error):
            raise
        raise Unavailable(str(error)) from error


def srft_over(
    work: Workload,
    *,
    backend: str = "",
    prior: bool = True,
    kappa: float = 0.5,
    dtype: torch.dtype = torch.float32,
    inner: Callable[[list[torch.nn.Parameter]], Optimizer] | None = None,
    **options: Any,
) -> Running:
    """SRFT around AdamW, or around what ``inner`` makes of the parameters."""
    parameters = work.parameters if dtype == torch.float32 else work.in_dtype(dtype)
    wrapped = inner(parameters) if inner else AdamW(parameters, lr=LR, weight_decay=DECAY)
    priors = dict(zip(parameters, work.priors, strict=True)) if prior else None
    options |= {"strength": STRENGTH if prior else 0.0, "kappa": kappa, **backend_option(work.device, backend)}
    return running(wrap(wrapped, priors, **options))


def _contestant(
    key: str, name: str, moved: Traffic | Passes, backend: str, options: dict[str, Any], baseline: str = "adamw_fused"
) -> Contestant:
    full = f"{key}_{backend}" if backend else key
    return Contestant(full, name, moved, lambda work: srft_over(work, backend=backend, **options), baseline)


def main_contestants(device: str) -> list[Contestant]:
    """Prior and rank damping together, each alone, and neither; the first once more, at the end of the list."""
    made = []
    for backend, label in BACKENDS[device].items():
        for key, what, moved, prior, kappa in (
            ("srft", "prior and rank damping", traffic.WITH_PRIOR, True, 0.5),
            ("srft_prior", "prior alone", traffic.WITH_PRIOR, True, 1.0),
            ("srft_damping", "rank damping alone", traffic.adam(), False, 0.0),
            ("srft_plain", "strength 0, kappa 1", traffic.adam(), False, 1.0),
        ):
            options = {"prior": prior, "kappa": kappa}
            made.append(_contestant(key, f"SRFT(AdamW){label}: {what}", moved, backend, options))
    first = made[0]
    return [*made, Contestant("srft_again", f"{first.name}, again", first.traffic, first.make, same_as=first.key)]


def variant_contestants(device: str) -> list[Contestant]:
    """Other options, another dtype and other inner optimizers."""
    made = []
    for backend, label in BACKENDS[device].items():
        for key, name, moved, options, baseline in (
            ("srft_mean", "(AdamW){}: prior and mean damping", traffic.WITH_PRIOR, {"damping": "mean"}, "adamw_fused"),
            ("srft_decoupled", "(AdamW){}: decoupled mode", traffic.WITH_PRIOR, {"mode": "decoupled"}, "adamw_fused"),
            ("srft_bf16", "(AdamW){}: bfloat16 weights", traffic.BF16_SRFT, {"dtype": torch.bfloat16}, "adamw_bf16"),
            ("srft_sgd", "(SGD){}: prior and rank damping", traffic.SGD_SRFT, {"inner": sgd}, "sgd_fused"),
            ("srft_unfused", "(RMSprop){}: two halves around", traffic.AROUND_RMSPROP, {"inner": rmsprop}, "rmsprop"),
        ):
            made.append(_contestant(key, "SRFT" + name.format(label), moved, backend, options, baseline))
    return made


def sgd(parameters: list[torch.nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=LR, momentum=MOMENTUM)


def rmsprop(parameters: list[torch.nn.Parameter]) -> Optimizer:
    return RMSprop(parameters, lr=LR, foreach=True)
