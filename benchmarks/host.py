"""Many tensors with hardly any data, which show the host time of one `step()`."""

from __future__ import annotations

import torch
from torch.optim import AdamW, Optimizer

from benchmarks.srft import BACKENDS, backend_option, wrap

TENSORS, ELEMENTS = 350, 4


def host_rows(device: str) -> list[tuple[str, str]]:
    """Return (key, name) of every optimizer that is timed."""
    rows = [("adamw_fused", "torch AdamW(fused=True)"), ("adamw_foreach", "torch AdamW(foreach=True)")]
    for backend, label in BACKENDS[device].items():
        for kappa in ("1", "0.5"):
            key = f"srft_kappa_{kappa}" + (f"_{backend}" if backend else "")
            rows.append((key, f"SRFT(AdamW){label}, kappa {kappa}"))
    return rows


def make(key: str, device: torch.device) -> Optimizer:
    """Return the optimizer of a row, over tensors with gradients."""
    parameters = [torch.nn.Parameter(torch.randn(ELEMENTS, device=device)) for _ in range(TENSORS)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    kind, _, rest = key.partition("_")
    if kind == "adamw":
        return AdamW(parameters, **{rest: True})  # type: ignore[arg-type]
    kappa, _, backend = rest.removeprefix("kappa_").partition("_")
    prior = {p: torch.rand_like(p) for p in parameters}
    return wrap(AdamW(parameters), prior, kappa=float(kappa), **backend_option(device, backend))
