"""Tables of text: aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a rule below its head; the first column is set flush left, the others flush right.

    Args:
        head: titles of the C columns.
        rows: C cells each.
    """
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))])

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])
