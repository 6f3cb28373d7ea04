"""The one exception that bad input raises, so that the command line can answer with one sentence."""

from __future__ import annotations


class RGBXError(ValueError):
    """Input that cannot be used: a missing frame, a malformed box, a foreign checkpoint, an unknown setting.

    The message is one sentence that says what was wrong, what was expected and what to do. The command line prints it
    after ``rgbx: error:`` and exits with status 2.
    """
