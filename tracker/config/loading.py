"""Reads settings from YAML files in layers plus ``section.key=value`` overrides, and checks them first.

A mistake is answered with the file and the key it is in, and with the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tracker.config.effects import COMMAND, without_replaced
from tracker.config.sections import RunConfig, Section, known_keys, leaves
from tracker.errors import RGBXError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"
COMMAND_LINE = "command line"
LOCATIONS = ("root", "rgb", "x", "sets")
"""Keys of ``data`` that say where files are."""
STYLES = ("depth_style", "depth_clip", "event_style", "thermal_style", "thermal_range")

ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(
    kind: type[ConfigT],
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> ConfigT:
    """Read and check settings.

    Settings decide for one another: where a layer names files, ``data.source`` is ``folder``; where it names a prior,
    ``optimizer.name`` is ``srft``; unless the layer says otherwise.

    Args:
        kind: the pydantic model to fill.
        path: YAML file, or the name of one shipped in ``tracker/configs`` (``tiny_rgbt``,
            ``corrected/ostrack_rgbt``); none starts empty. Under the file lies its ``base``, if it names one or a list
            of them, of which the last wins: shipped configurations, or files beside it.
        overrides: ``section.key=value`` strings, values in YAML; later ones win.
        defaults: a nested mapping that lies under the file: a configuration that has run already, of which nothing is
            refused for having no effect.
        command: ``train``, ``pretrain`` or ``prior``. With it a setting that would have no effect there is refused,
            or taken out where a later layer has replaced it (:mod:`tracker.config.effects`).

    Raises:
        RGBXError: naming the file (or the command line) and the key, before anything is started.
    """
    layers: list[dict[str, Any]] = [_merged({}, defaults or {})]
    names = ["defaults"]
    source = "defaults"
    if path is not None:
        source = str(path)
        for layer in _with_bases(find_config(path), source):
            layers.append(layer)
            names.append(source)
    overridden: set[str] = set()
    line: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key:
            raise RGBXError(f'{COMMAND_LINE}: "{text}" is not an override; write it as section.key=value')
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RGBXError(f'{COMMAND_LINE}: the value of {key} cannot be read: "{value}"') from None
        _set(line, key, parsed)
        overridden.add(key)
    layers.append(line)
    names.append(COMMAND_LINE)
    if issubclass(kind, RunConfig):
        _settle(layers)
    tree: dict[str, Any] = {}
    for layer in layers:
        _merge(tree, layer)
    if issubclass(kind, RunConfig) and command is not None:
        # An error about an unknown or malformed setting explains more than one about a setting without effect.
        validate(kind, tree, source, overridden)
        tree = _without(tree, _replaced(layers, names, tree, command, settled=1 if defaults else 0))
    config = validate(kind, tree, source, overridden)
    if isinstance(config, RunConfig):
        config.data._asked = _asked(layers)
    return config


def ineffective(config: RunConfig, command: str | None = None) -> dict[str, str]:
    """Return the settings that have no effect in a configuration, each with what it would need."""
    tree = config.model_dump(mode="json")
    found: dict[str, str] = {}
    for leaf in leaves(RunConfig):
        failing = [c for c in leaf.effect.conditions if not c.holds(lambda key: _look_up(tree, key, command))]
        if failing:
            found[leaf.key] = failing[0].text
    return found


def _settle(layers: list[dict[str, Any]]) -> None:
    """Let each layer's settings decide for one another, and replace what lower layers say about the same thing."""
    located = -1
    for number, layer in enumerate(layers):
        data, optimizer = layer.get("data"), layer.get("optimizer")
        if isinstance(data, dict) and any(data.get(name) for name in LOCATIONS):
            data.setdefault("source", "folder")
            located = number
        if isinstance(optimizer, dict) and optimizer.get("prior") is not None:
            optimizer.setdefault("name", "srft")
    if located < 0 or layers[located]["data"]["source"] != "folder":
        return
    for layer in layers[:located]:
        data = layer.get("data")
        if isinstance(data, dict):
            # The new layer names other data, so the places and the modality of a lower layer's data no longer apply.
            for name in (*LOCATIONS, "modality"):
                data.pop(name, None)


def _asked(layers: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the styles of X that are set in the layer that says where the data are, or above it."""
    sections = [layer.get("data") for layer in layers]
    places = [
        number
        for number, data in enumerate(sections)
        if isinstance(data, dict) and any(data.get(name) for name in LOCATIONS)
    ]
    # The layer of a configuration that has run already asks for nothing anew.
    above = sections[max(places[-1], 1) :] if places else []
    return frozenset(name for data in above if isinstance(data, dict) for name in STYLES if name in data)


def _replaced(
    layers: Sequence[Mapping[str, Any]], names: Sequence[str], tree: Mapping[str, Any], command: str, settled: int
) -> set[str]:
    effects = {leaf.key: leaf.effect for leaf in leaves(RunConfig)}

    def set_in(layer: Mapping[str, Any]) -> dict[str, Any]:
        missing = object()
        found = {key: _value(layer, key, missing) for key in effects}
        return {key: value for key, value in found.items() if value is not missing}

    flat = [set_in(layer) for layer in layers]
    looked_at = {key: effect for key, effect in effects.items() if any(key in layer for layer in flat[settled:])}
    return without_replaced(flat, names, looked_at, lambda key: _look_up(tree, key, command))


def _look_up(tree: Mapping[str, Any], key: str, command: str | None) -> Any:
    if key == COMMAND:
        return command
    missing = object()
    value = _value(tree, key, missing)
    if value is not missing:
        return value
    section: Any = RunConfig
    *parents, last = key.split(".")
    for parent in parents:
        section = section.model_fields[parent].annotation
    return section.model_fields[last].default


def _value(tree: Mapping[str, Any], key: str, missing: Any) -> Any:
    branch: Any = tree
    for part in key.split("."):
        if not isinstance(branch, Mapping) or part not in branch:
            return missing
        branch = branch[part]
    return branch


def _without(tree: Mapping[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """Return a copy of a nested mapping without some dotted keys."""
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if prefix + name not in keys
    }


def validate(kind: type[ConfigT], tree: Mapping[str, Any], source: str, overridden: set[str] | None = None) -> ConfigT:
    """Check a nested mapping against ``kind``; ``source`` and ``overridden`` only serve the error message."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        problems = error.errors()
        # An unknown key explains more than the value errors that it may have caused: it comes first.
        problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
        first = problems[0]
        key = ".".join(str(part) for part in first["loc"])
        origin = COMMAND_LINE if any(_related(key, name) for name in overridden or ()) else source
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RGBXError(f"{origin}: {_sentence(first, key, kind)}{more}") from None


def find_config(path: Path | str) -> Path:
    """Return the file itself, or the shipped configuration of that name.

    Names are those such as ``tiny_pretrain`` and ``corrected/ostrack_rgbt``.
    """
    file = Path(path)
    if file.is_file():
        return file
    if not file.is_absolute():
        for shipped in (CONFIG_FOLDER / file, CONFIG_FOLDER / f"{file}.yaml"):
            if shipped.is_file():
                return shipped
    raise RGBXError(f"configuration file {path} does not exist; shipped ones are: {', '.join(shipped_configs())}")


def shipped_configs() -> list[str]:
    """Return names of the configurations that come with the package."""
    files = CONFIG_FOLDER.rglob("*.yaml")
    return sorted(file.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for file in files)


def as_dataclass(kind: type[Any], section: Section, **extra: Any) -> Any:
    """Build dataclass ``kind`` from a section's keys of the same name plus ``extra``."""
    names = {field.name for field in dataclasses.fields(kind)}
    shared = {name: value for name, value in section if name in names}
    return kind(**{**shared, **extra})


def nearest_key(key: str, kind: type[Section]) -> str | None:
    """Return the known key most like ``key``: first in the same section, then anywhere, by its last part as well."""
    keys = list(known_keys(kind))
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == parent}
    close = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if close:
        return close[0]
    by_last = {name.rpartition(".")[2]: name for name in keys}
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
    return by_last[close[0]] if close else None


def _sentence(problem: Any, key: str, kind: type[Section]) -> str:
    if problem["type"] == "extra_forbidden":
        suggestion = nearest_key(key, kind)
        if suggestion is not None:
            return f"unknown key {key}; did you mean {suggestion}?"
        parent = key.rpartition(".")[0]
        names = [name for name in known_keys(kind) if name.rpartition(".")[0] == parent]
        return f"unknown key {key}; known keys here are: {', '.join(names)}"
    if problem["type"] == "model_type":
        return f"{key} is a section with keys of its own, not {problem['input']!r}"
    message = str(problem["msg"])
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if isinstance(problem["input"], (str, int, float, bool, list, tuple)) or problem["input"] is None:
        return f"{key}: {message}, not {problem['input']!r}"
    return f"{key}: {message}"


def _related(key: str, override: str) -> bool:
    return key == override or key.startswith(f"{override}.") or override.startswith(f"{key}.") or not key


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key} is given twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(file: Path, source: str) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RGBXError(f"{source}: not valid YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RGBXError(f"{source}: not valid YAML: {error}") from None
    except OSError as error:
        raise RGBXError(f"{source}: cannot be read: {error.strerror}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RGBXError(f"{source}: expected sections with keys, found {type(tree).__name__}")
    return tree


def _with_bases(file: Path, source: str, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Return the trees of a file and of all that it is based on, the lowest first."""
    if file.resolve() in above:
        raise RGBXError(f"{source}: base: {file.name} is based on itself")
    tree = _read_yaml(file, source)
    bases = tree.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RGBXError(f"{source}: base: expected the name of a configuration or a list of them, not {bases!r}")
    trees: list[dict[str, Any]] = []
    for base in bases:
        beside = file.parent / base
        lower = beside if beside.is_file() else find_config(base)
        trees += _with_bases(lower, f"{source}: base {base}", (*above, file.resolve()))
    return [*trees, tree]


def _merged(tree: dict[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    _merge(tree, update)
    return tree


def _merge(tree: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        elif isinstance(value, Mapping):
            tree[key] = {}
            _merge(tree[key], value)
        else:
            tree[key] = value


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    branch = tree
    for parent in parents:
        below = branch.get(parent)
        if not isinstance(below, dict):
            below = branch[parent] = {}
        branch = below
    branch[last] = value
