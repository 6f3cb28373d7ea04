"""The one exception that bad input raises, so that the command line can answer with one sentence, and its lists."""

from __future__ import annotations

from collections.abc import Sequence


class RGBXError(ValueError):
    """Input that cannot be used: a missing frame, a malformed box, a foreign checkpoint, an unknown setting.

    The message is one sentence that says what was wrong, what was expected and what to do. The command line prints it
    after ``rgbx: error:`` and exits with status 2.
    """


def shortened(names: Sequence[str], at_most: int = 1) -> str:
    """List names for a message, and count those beyond the first ``at_most``: "a, b and 3 more"."""
    shown = ", ".join(names[:at_most])
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown
