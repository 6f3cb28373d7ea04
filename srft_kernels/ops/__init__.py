"""The operators and the steps, and what computes them: a folder or a file for each backend.

``contract.py`` and ``flags.py`` state what all backends share, ``plan.py`` what a backend fulfills, ``backends.py``
which one serves a device.
"""

from __future__ import annotations

from srft_kernels.ops.backends import Backend, PlanMaker, cuda_unavailable, plan_maker, serves, triton_available

__all__ = ["Backend", "PlanMaker", "cuda_unavailable", "plan_maker", "serves", "triton_available"]
