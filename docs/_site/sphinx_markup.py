"""Turns the Sphinx markup of docstrings into what the site understands, which is Markdown."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj|ref):`(?:(?P<text>[^`<]+) <)?(?P<target>[^`<>]+)>?`")
# What follows either is indented, and an indented block is code in Markdown as well.
CODE_BLOCK = re.compile(r"^ *\.\. code-block:: \w+\n+", re.MULTILINE)


def as_link(role: re.Match[str]) -> str:
    """Return ``:class:`~package.Name` `` as a link to the name where the site has it, else as code."""
    target = role["target"].lstrip("~.")
    text = role["text"] or (target.rpartition(".")[2] if role["target"][0] in "~." else target)
    return f'<autoref optional identifier="{target}"><code>{text}</code></autoref>'


class SphinxMarkup(Extension):
    """Rewrites each docstring when its object is read, before it is parsed as Markdown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Replace roles and code blocks in the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = CODE_BLOCK.sub("", ROLE.sub(as_link, obj.docstring.value))
