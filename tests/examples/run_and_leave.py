"""Run a script as one of several processes, and leave when its work is done.

    torchrun --nproc-per-node 2 tests/examples/run_and_leave.py examples/fsdp2.py

A process that has sharded tensors may be aborted while its interpreter ends (pytorch#179291), because torch's caches
keep the group and its threads alive even after ``destroy_process_group``. ``leave`` says more.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tracker.train.distributed import leave

script = Path(sys.argv[1]).resolve()
sys.path[0] = str(script.parent)
runpy.run_path(str(script), run_name="__main__")
leave()
