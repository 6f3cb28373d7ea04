"""Turns the Sphinx roles of docstrings into links of the site."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj|ref):`(?:(?P<text>[^`<]+) <)?(?P<target>[^`<>]+)>?`")


def as_link(role: re.Match[str]) -> str:
    """Return ``:class:`~package.Name` `` as a link to the name where the site has it, else as code."""
    target = role["target"].lstrip("~.")
    text = role["text"] or (target.rpartition(".")[2] if role["target"][0] in "~." else target)
    return f'<autoref optional identifier="{target}"><code>{text}</code></autoref>'


class SphinxRoles(Extension):
    """Rewrites each docstring when its object is read, before it is parsed as Markdown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Replace the roles in the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(as_link, obj.docstring.value)
