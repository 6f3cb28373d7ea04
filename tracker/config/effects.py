"""Which settings have an effect, and what happens to one that has none.

A setting may say that it has an effect only under conditions: ``optimizer.mu`` with ``optimizer.damping=rank``.
Settings come in layers: the bases of a file, the file, the command line. Where a condition of a setting fails, the
layers decide:

- The setting stands in the layer that makes the condition fail, or in a later one. Somebody asked for it and would not
  get it, so the run is refused.
- The setting stands in an earlier layer. The later decision replaces it: ``optimizer.name=adamw`` on the command line
  removes the SRFT settings of a file, and a command removes the sections of other commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker.errors import RGBXError

Lookup = Callable[[str], Any]
"""The value of a setting by its dotted name, the default where it is not set."""

COMMAND = "command"
"""The name under which conditions look the command up: train, pretrain or prior."""


@dataclass(frozen=True)
class Condition:
    """What must hold for a setting to have an effect.

    Attributes:
        text: the condition in words of the command line.
        keys: the settings that decide it.
        holds: its value for a configuration.
    """

    text: str
    keys: tuple[str, ...]
    holds: Callable[[Lookup], bool]


def equals(key: str, *values: Any) -> Condition:
    """Return the condition that the setting ``key`` has one of the values."""
    text = f"{key}={' or '.join(str(value) for value in values)}"
    return Condition(text, (key,), lambda get: get(key) in values)


def given(key: str) -> Condition:
    """Return the condition that the setting ``key`` is set to something."""
    return Condition(key, (key,), lambda get: bool(get(key)))


def absent(key: str) -> Condition:
    """Return the condition that the setting ``key`` is not set."""
    return Condition(f"no {key}", (key,), lambda get: not get(key))


def above_zero(key: str) -> Condition:
    """Return the condition that the setting ``key`` is a number above 0."""
    return Condition(f"{key} above 0", (key,), lambda get: _number(get(key)) > 0)


def either(*conditions: Condition) -> Condition:
    """Return the condition that at least one of the conditions holds."""
    keys = tuple(dict.fromkeys(key for condition in conditions for key in condition.keys))
    text = ", or ".join(condition.text for condition in conditions)
    return Condition(text, keys, lambda get: any(condition.holds(get) for condition in conditions))


def both(*conditions: Condition) -> Condition:
    """Return the condition that all of the conditions hold."""
    keys = tuple(dict.fromkeys(key for condition in conditions for key in condition.keys))
    text = " and ".join(condition.text for condition in conditions)
    return Condition(text, keys, lambda get: all(condition.holds(get) for condition in conditions))


def commands(*names: str) -> Condition:
    """Return the condition that the command is one of these."""
    text = " or ".join(f"`rgbx {name}`" for name in names)
    return Condition(text, (COMMAND,), lambda get: get(COMMAND) in (None, *names))


def condition(text: str, keys: Sequence[str], holds: Callable[[Lookup], bool]) -> Condition:
    """Return any other condition."""
    return Condition(text, tuple(keys), holds)


@dataclass(frozen=True)
class Effect:
    """When one setting has an effect.

    Attributes:
        conditions: all of which must hold.
        neutral: values that ask for nothing, which are accepted everywhere, as null and an empty list are.
    """

    conditions: tuple[Condition, ...] = ()
    neutral: tuple[Any, ...] = ()


Layer = Mapping[str, Any]
"""The settings of one layer by their dotted names, in the order of the file."""


def without_replaced(
    layers: Sequence[Layer], names: Sequence[str], effects: Mapping[str, Effect], get: Lookup
) -> set[str]:
    """Find the settings that a later layer has left without an effect.

    Args:
        layers: what each layer sets, the lowest first; the last one is the command line.
        names: what each layer is called in messages.
        effects: of every setting that has conditions.
        get: values of the merged configuration; ``get("command")`` is the command, decided on the command line.

    Returns:
        The names of settings to take out of the configuration.

    Raises:
        RGBXError: a setting has no effect, and no later layer has made it so.
    """
    highest: dict[str, int] = {}
    for number, layer in enumerate(layers):
        for key in layer:
            highest[key] = number
    highest[COMMAND] = len(layers) - 1
    replaced: set[str] = set()
    for key, effect in effects.items():
        if key not in highest or get(key) in (None, (), [], *effect.neutral):
            continue
        failing = [condition for condition in effect.conditions if not condition.holds(get)]
        if not failing:
            continue
        deciding = [max(highest.get(name, -1) for name in condition.keys) for condition in failing]
        if max(deciding) > highest[key]:
            replaced.add(key)
            continue
        raise RGBXError(f"{names[highest[key]]}: {_sentence(key, failing[0], get)}")
    return replaced


def _sentence(key: str, failing: Condition, get: Lookup) -> str:
    if failing.keys == (COMMAND,):
        return f"{key} has no effect in `rgbx {get(COMMAND)}`, it is for {failing.text}; leave it out"
    found = ", ".join(f"{name} is {_shown(get(name))}" for name in failing.keys)
    remedy = "give it" if all(get(name) in (None, (), []) for name in failing.keys) else "change that"
    return f"{key} has no effect: it needs {failing.text}, and {found}; {remedy}, or leave {key} out"


def _shown(value: Any) -> str:
    return "not set" if value is None or value == () else str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0  # other values are refused when the configuration is checked
