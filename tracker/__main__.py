"""``python -m tracker`` is ``rgbx``, for launchers that start a module (torchrun)."""

from tracker.cli import main

main()
