"""The operators and the steps, with a folder or a file for each backend that computes them.

``contract.py`` and ``flags.py`` state what all backends share. ``plan.py`` states what a backend has to do.
``backends.py`` chooses the backend that serves a device.
"""

from __future__ import annotations

from srft_kernels.ops.backends import Backend, PlanMaker, cuda_unavailable, plan_maker, serves, triton_available

__all__ = ["Backend", "PlanMaker", "cuda_unavailable", "plan_maker", "serves", "triton_available"]
