"""Explains every setting by its section's description, for ``--help``, ``--show-config`` and docs/settings.md.

``python -m tracker.config.text > docs/settings.md`` writes the page anew.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from tracker.config.effects import COMMAND, Condition
from tracker.config.loading import STYLES, ineffective
from tracker.config.sections import DataSection, DataSetSection, Leaf, RunConfig, Section, facts_of, is_section, leaves

WIDTH = 118


def allowed(leaf: Leaf) -> str:
    """Return what values a setting takes: its choices, or its type with its limits."""
    return _type(leaf.field.annotation) + _limits(leaf.field.metadata)


def default_of(leaf: Leaf) -> str:
    """Return the default as it is written in YAML; "unset" where there is none."""
    if leaf.field.is_required():
        return "must be given"
    value = leaf.field.default
    return "unset" if value is None else plain(value)


def plain(value: Any) -> str:
    """Return a value as it is written in YAML and on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, (str, Path)):
        text = str(value)
        same = yaml.safe_load(text) == text if text and not set(text) & set(",[]{}#:\n") else False
        return text if same else json.dumps(text)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _needs(conditions: Iterable[Condition]) -> str:
    """Conditions as words, or nothing."""
    return " and ".join(f"in {c.text}" if c.keys == (COMMAND,) else f"with {c.text}" for c in conditions)


def help_of(command: str) -> str:
    """Return the settings of ``rgbx COMMAND`` with what they do, their values, unit and default."""
    lines = ["Settings (SECTION.KEY=VALUE):"]
    for leaf in leaves(RunConfig):
        if not all(c.holds(lambda _: command) for c in leaf.effect.conditions if c.keys == (COMMAND,)):
            continue
        shown = leaf.effect.conditions if command == "prior" else leaf.own
        only = _needs(c for c in shown if c.keys != (COMMAND,))
        unit = f", in {leaf.unit}" if leaf.unit else ""
        what = f"{leaf.field.description}. {allowed(leaf)}{unit}; default {default_of(leaf)}"
        what += f"; only {only}." if only else "."
        lines += ["", f"  {leaf.key}", *textwrap.wrap(what, 104, initial_indent="      ", subsequent_indent="      ")]
    return "\n".join(lines)


def explained_yaml(config: RunConfig, command: str | None = None) -> str:
    """Return a configuration as YAML with a comment on every setting; those without an effect stand in comments.

    What is not in comments is read back to an equal run by :func:`tracker.config.load_config`.
    """
    idle = ineffective(config, command)
    if config.data.source == "folder":
        # If a style is asked for, the data must have such an X. A default asks for nothing.
        unasked = set(STYLES) - config.data.asked
        defaults = DataSection()
        for name in unasked:
            if getattr(config.data, name) == getattr(defaults, name):
                idle.setdefault(f"data.{name}", "an X of that kind")
    lines: list[str] = []
    _explain(RunConfig, config.model_dump(mode="json"), idle, "", 0, lines)
    return "\n".join(lines) + "\n"


def _explain(
    kind: type[Section], tree: dict[str, Any], idle: dict[str, str], prefix: str, depth: int, lines: list[str]
) -> None:
    indent = "  " * depth
    by_key = {leaf.key: leaf for leaf in leaves(RunConfig)}
    for name, field in kind.model_fields.items():
        key = prefix + name
        section = field.annotation
        if is_section(section):
            inner: list[str] = []
            _explain(section, tree[name], idle, f"{key}.", depth + 1, inner)
            some = any(not line.lstrip().startswith("#") for line in inner)
            lines += [f"{indent}# {field.description}", f"{indent}{'' if some else '# '}{name}:", *inner]
            continue
        leaf = by_key[key]
        unit = f", in {leaf.unit}" if leaf.unit else ""
        what = f"{field.description}. {allowed(leaf)}{unit}; default {default_of(leaf)}"
        lines += textwrap.wrap(what, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if key in idle:
            lines.append(f"{indent}# no effect, it needs {idle[key]}:")
        lines.append(f"{indent}{'# ' if key in idle else ''}{name}: {_inline(tree[name])}")


def _inline(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) and plain(value) != value else plain(value)


def page() -> str:
    """Return the text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        *textwrap.wrap(
            "Every setting of `rgbx pretrain`, `rgbx prior` and `rgbx train`, in a YAML file (`--config`) or on the "
            "command line (`train.lr=1e-4`). `rgbx train --help` says the same, and `--show-config` says it of one "
            "run. A setting that would have no effect is refused. If a later layer decides otherwise (a file over "
            "its base, the command line over a file), it replaces the setting. This page is written by "
            "`python -m tracker.config.text`, and a test compares the two.",
            WIDTH,
        ),
    ]
    lines += _page_of(RunConfig, "")
    return "\n".join(lines) + "\n"


def _page_of(kind: type[Section], prefix: str, outer: str = "") -> Iterator[str]:
    own = [leaf for leaf in leaves(RunConfig) if leaf.key.rpartition(".")[0] == prefix.rstrip(".")]
    about = _intro(kind) + (f" Only {outer}." if outer else "")
    yield from ("", f"## {prefix.rstrip('.') or 'The run'}", "", *textwrap.wrap(about, WIDTH), "", *_TABLE)
    yield from (_row(leaf) for leaf in own)
    if "sets" in kind.model_fields:
        yield from ("", "Each of `data.sets`:", "", *_TABLE, *(_row(leaf) for leaf in leaves(DataSetSection)))
    for name, field in kind.model_fields.items():
        section = field.annotation
        if is_section(section):
            yield from _page_of(section, f"{prefix}{name}.", _needs(facts_of(field)["effect"].conditions))


_TABLE = ("| key | what it does | values | default | only |", "|---|---|---|---|---|")


def _row(leaf: Leaf) -> str:
    unit = f" ({leaf.unit})" if leaf.unit else ""
    cells = (f"`{leaf.key.rpartition('.')[2]}`", leaf.field.description, allowed(leaf) + unit, default_of(leaf),
             _needs(leaf.own))  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _intro(kind: type[Section]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").replace("``", "`").replace("\n\n", " ").replace("\n", " ")


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(plain(value) for value in get_args(annotation))
    arguments = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is tuple:
        if arguments[-1] is Ellipsis:
            if get_origin(arguments[0]) is Literal:
                return f"a list of any of {', '.join(plain(value) for value in get_args(arguments[0]))}"
            return "a list of sections" if arguments[0] is DataSetSection else f"a list of {_type(arguments[0])}s"
        return f"a list of {len(arguments)} {_type(arguments[0])}s"
    if len(arguments) == 1:
        return _type(arguments[0])
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names[annotation]


def _limits(metadata: list[Any]) -> str:
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    found = [
        words[name].format(plain(getattr(limit, name))) for limit in metadata for name in words if hasattr(limit, name)
    ]
    return f" {' '.join(found)}" if found else ""


if __name__ == "__main__":
    print(page(), end="")
