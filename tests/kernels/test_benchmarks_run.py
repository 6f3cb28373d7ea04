"""The benchmarks start, finish and say what they measured: on a small network, for a moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_one_entry_of_each_kind_runs() -> None:
    environment = {
        **os.environ,
        "SRFT_BENCH_NETWORK": "vit_tiny_patch16_224",
        "SRFT_BENCH_ROUNDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", "-p", "no:cacheprovider", "-k",
         "cpu and (adamw_fused or srft_damping or (penalty and srft))"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
