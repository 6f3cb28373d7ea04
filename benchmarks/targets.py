"""The targets of speed, each with the figures by which it is judged. A target without figures is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "not measured"
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """``measure`` gives the figure that ``limit`` is for, or None where a row of it is missing."""

    what: str
    limit: float
    at_most: bool
    measure: Callable[[Sections], float | None]
    unit: str = "x"

    @property
    def wanted(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g} {self.unit}".rstrip()

    def judged(self, sections: Sections) -> tuple[str, str]:
        """Return (the figure, whether it is met), in words."""
        found = self.measure(sections)
        if found is None:
            return NOT_MEASURED, NOT_MEASURED
        met = found <= self.limit if self.at_most else found >= self.limit
        return f"{found:.{3 if self.limit < 2 else 1}f} {self.unit}".rstrip(), "met" if met else "missed"


def figure(sections: Sections, section: str, key: str, column: str) -> float | None:
    for row in sections.get(section, {}).get("rows", []):
        if row.get("key") == key:
            value = row.get(column)
            return None if value is None else float(value)
    return None


def ratio(section: str, above: str, below: str, column: str = "ms") -> Callable[[Sections], float | None]:
    """Return a function that gives one row's figure over another's."""

    def measure(sections: Sections) -> float | None:
        high, low = figure(sections, section, above, column), figure(sections, section, below, column)
        return high / low if high is not None and low else None

    return measure


def over_floor(key: str) -> Callable[[Sections], float | None]:
    """Return a function that gives a time over what a copy of as many bytes takes."""

    def measure(sections: Sections) -> float | None:
        share = figure(sections, "step", key, "of copy")
        return 1 / share if share else None

    return measure


def compiled_at_best(sections: Sections) -> float | None:
    """Return the time of the faster of the two compiled ways, over ours."""
    found = [ratio("step", key, "srft_prior")(sections) for key in ("prior_compiled", "prior_compiled_flat")]
    return min((f for f in found if f is not None), default=None)


def never(_: Sections) -> float | None:
    return None


def host_microseconds(sections: Sections) -> float | None:
    """Return the time of the slower of the two rows that have this target."""
    found = [figure(sections, "host", key, "us") for key in ("srft_kappa_1", "srft_kappa_0.5")]
    present = [f for f in found if f is not None]
    return max(present) if len(present) == len(found) else None


def hutchinson(section: str) -> tuple[Target, ...]:
    """Return the targets of finite differences, by default settings, against double backward.

    They concern whole updates, and memory beyond that of a forward and a backward pass.
    """
    dtype, row = {
        "hutchinson": ("float32", "srft_forward"),
        "hutchinson_bf16": ("bfloat16", "srft_central"),
    }[section]
    what = f"a Hutchinson update in {dtype}: "
    memory = ratio(section, row, "srft_autograd", "extra MiB")
    return (
        Target(f"{what}double backward over finite differences", 1.5, False, ratio(section, "srft_autograd", row)),
        Target(f"{what}extra memory of finite differences over double backward's", 0.5, True, memory),
    )


HOST = Target("host time of one `step()` for 350 tensors", 150, True, host_microseconds, "µs")

GPU = (
    Target("fused SRFT(AdamW), time over the copy's for as many bytes", 1.10, True, over_floor("srft")),
    Target("the same over torch AdamW(fused=True), which does less", 1.35, True, ratio("step", "srft", "adamw_fused")),
    Target("eager foreach of the same mathematics, over ours", 5, False, ratio("step", "prior_foreach", "srft_prior")),
    Target("eager foreach EWC + fused AdamW, over ours", 5, False, ratio("step", "ewc_foreach", "srft")),
    Target("torch.compile of the same mathematics at its best, over ours", 2.5, False, compiled_at_best),
    Target("the published update over ours", 30, False, ratio("step", "published", "srft")),
    Target("a whole training step with SRFT over plain AdamW", 1.02, True, ratio("training", "srft", "adamw")),
    HOST,
    Target("compressed significance (8-bit prior, bfloat16 anchor) over AdamW; not built", 1.15, True, never),
    Target("8-bit moments too, over AdamW; not built", 1.0, True, never),
    *hutchinson("hutchinson"),
    *hutchinson("hutchinson_bf16"),
)

CPU = (
    Target("fused SRFT(AdamW) over torch AdamW(fused=True)", 1.4, True, ratio("step", "srft", "adamw_fused")),
    Target("eager foreach EWC + fused AdamW, over ours", 6, False, ratio("step", "ewc_foreach", "srft")),
    Target("torch.compile of EWC, fused AdamW, over ours", 3, False, ratio("step", "ewc_compiled_alone", "srft")),
    Target("torch.compile of EWC and AdamW, over ours", 3, False, ratio("step", "ewc_compiled", "srft")),
    Target("the published update over ours", 100, False, ratio("step", "published", "srft")),
    HOST,
)
