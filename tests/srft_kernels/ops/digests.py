"""Digests of what the compiled CPU kernels leave, by instruction set and number of threads, each of a new process."""

from __future__ import annotations

import os
import subprocess
import sys

from srft_kernels.ops.native import library
from tests.paths import REPOSITORY

START = """
import hashlib, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
"""


def digests(code: str, threads: tuple[int, ...] = (1,)) -> dict[tuple[str, int], str]:
    """Return what ``code``, which follows :data:`START`, prints under each instruction set of this machine."""
    best, names = library.capability(), library.build.instruction_sets
    narrower = names[: names.index(best)]
    answers = {}
    for name, count in [*((n, 1) for n in narrower), *((best, n) for n in threads)]:
        done = subprocess.run(
            [sys.executable, "-c", START + code, str(REPOSITORY), str(count)],
            env={**os.environ, "SRFT_CPU_CAPABILITY": name, "OMP_NUM_THREADS": str(count)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers[name, count] = done.stdout.strip()
    return answers
