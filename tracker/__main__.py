"""``python -m tracker`` is ``rgbx``, for launchers that start a module (torchrun)."""

import os

from tracker.cli import main

try:
    main()
except SystemExit as ended:
    if ended.code or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise
    from tracker.train.distributed import leave

    leave()
