"""Values that were once spelled in British English, and are still understood wherever they are given."""

from __future__ import annotations

from typing import Any

AMERICAN = {"grey": "gray", "colour": "color"}


def american(value: Any) -> Any:
    """Return the American spelling of a style; everything else as it is."""
    return AMERICAN.get(value, value) if isinstance(value, str) else value
