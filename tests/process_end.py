"""The end of a process that was one of several, and the script that runs a file as such a process.

    torchrun --nproc-per-node 2 tests/process_end.py examples/fsdp2.py

A thread of gloo may drop a tensor, for which it wants the interpreter's lock, after the interpreter has begun
to end. CPython then ends the thread by unwinding its stack, and C++ aborts the process (pytorch#179291).
torch's caches of sharded tensors keep the group and its threads alive even after ``destroy_process_group``. A
process whose work is done therefore leaves without ending the interpreter.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


def leave() -> None:
    """End this process with exit status 0, with what it has printed written out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    script = Path(sys.argv[1]).resolve()
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")
    leave()
