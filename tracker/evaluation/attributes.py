"""Which sequences show which challenge, and the figures over those of each.

An attribute's figure is the benchmark's own figure over the sequences that have the attribute. Three forms are read:

- a CSV file with a header: the sequence first, then a column of 0 and 1 for every attribute;
- a folder with a file for every sequence, holding one 0 or 1 for every attribute (LasHeR's ``AttriSeqsTxt``, VisEvent's
  and COESOT's ``att``), separated by commas, spaces or lines;
- a folder with a file for every attribute, holding one 0 or 1 for every sequence, and ``SequencesName.txt`` with the
  sequences' names (RGBT234's and RGBT210's ``attr_txt``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import restrict

_RGBT = ("NO", "PO", "HO", "LI", "LR", "TC", "DEF", "FM", "SV", "MB", "CM", "BC")
_RGBE = ("CM", "ROT", "DEF", "FOC", "LI", "OV", "POC", "VC", "SV", "BC", "MB", "ARC", "FM", "NMO", "IV", "OE", "BOM")
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "lasher": (
        *("NO", "PO", "TO", "HO", "MB", "LI", "HI", "AIV", "LR", "DEF"),
        *("BC", "SA", "CM", "TC", "FL", "OV", "FM", "SV", "ARC"),
    ),
    "rgbt234": _RGBT,
    "rgbt210": _RGBT,
    "gtot": ("OCC", "LSV", "FM", "LI", "TC", "SO", "DEF"),
    "visevent": _RGBE,
    "coesot": _RGBE,
}
"""Names of the published sets, in the order of their per-sequence files."""
ORDER_FILES = ("Attributes_order.txt", "attributes.txt")
NAMES_FILE = "SequencesName.txt"


@dataclass(frozen=True)
class AttributeTable:
    """Which sequence has which attribute.

    Attributes:
        names: the attributes.
        sequences: attribute to the sequences that have it.
        annotated: sequences that the table says anything about.
    """

    names: tuple[str, ...]
    sequences: Mapping[str, frozenset[str]]
    annotated: frozenset[str]


def _flags(text: str, where: object) -> list[bool]:
    fields = text.replace(",", " ").replace(";", " ").split()
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [float("nan")]
    if not values or any(value not in (0.0, 1.0) for value in values):
        raise RGBXError(f"{where} does not hold attributes; expected 0 or 1, separated by commas, spaces or lines")
    return [value == 1.0 for value in values]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RGBXError(f"cannot read {path}: {error}; expected a text file of 0 and 1") from error


def _table(names: Iterable[str], rows: Mapping[str, ListLike[bool]]) -> AttributeTable:
    names = tuple(names)
    having = {name: frozenset(s for s, row in rows.items() if row[k]) for k, name in enumerate(names)}
    return AttributeTable(names, having, frozenset(rows))


def read_attributes(path: str | Path, sequences: Iterable[str], protocol: str = "lasher") -> AttributeTable:
    """Read an attribute table for some sequences.

    Args:
        path: a CSV file or a folder, see the module.
        sequences: those of the evaluation; each must be annotated.
        protocol: whose attributes per-sequence files list, where the folder does not name them itself
            (``Attributes_order.txt``).

    Raises:
        RGBXError: nothing there, something other than 0 and 1, another number of them than attributes or sequences, or
            a sequence without attributes.
    """
    path, wanted = Path(path), list(sequences)
    if path.is_file():
        table = _read_csv(path)
    elif not path.is_dir():
        raise RGBXError(f"{path} does not exist; expected a CSV file or a folder of attribute files")
    elif (path / NAMES_FILE).is_file():
        table = _read_per_attribute(path)
    else:
        table = _read_per_sequence(path, wanted, protocol)
    absent = [name for name in wanted if name not in table.annotated]
    if absent:
        raise RGBXError(
            f"{path} has no attributes of {len(absent)} of {len(wanted)} sequences ({', '.join(absent[:5])}"
            f"{', …' if len(absent) > 5 else ''}); add them or leave the sequences out"
        )
    return table


def _read_csv(path: Path) -> AttributeTable:
    lines = [row for row in csv.reader(_read(path).splitlines()) if row]
    if len(lines) < 2 or len(lines[0]) < 2:
        raise RGBXError(f"{path} is not a table of attributes; expected a header and a line for every sequence")
    names = [name.strip() for name in lines[0][1:]]
    rows: dict[str, list[bool]] = {}
    for number, row in enumerate(lines[1:], start=2):
        flags = _flags(" ".join(row[1:]), f"{path}, line {number},")
        if len(flags) != len(names):
            raise RGBXError(f"{path}, line {number}: {len(flags)} attributes; expected {len(names)} as in the header")
        rows[row[0].strip()] = flags
    return _table(names, rows)


def _read_per_attribute(path: Path) -> AttributeTable:
    sequences = _read(path / NAMES_FILE).split()
    columns = {
        file.stem: _flags(_read(file), file)
        for file in sorted(path.glob("*.txt"))
        if file.name not in (NAMES_FILE, *ORDER_FILES)
    }
    for name, flags in columns.items():
        if len(flags) != len(sequences):
            raise RGBXError(
                f"{path / name}.txt has {len(flags)} flags, but {NAMES_FILE} has {len(sequences)} names; expected as "
                "many of each"
            )
    return _table(columns, {s: [flags[k] for flags in columns.values()] for k, s in enumerate(sequences)})


def _read_per_sequence(path: Path, sequences: ListLike[str], protocol: str) -> AttributeTable:
    order = next((path / name for name in ORDER_FILES if (path / name).is_file()), None)
    if order is not None:
        names = tuple(_read(order).replace(",", " ").split())
    elif protocol in ATTRIBUTES:
        names = ATTRIBUTES[protocol]
    else:
        raise RGBXError(
            f"protocol {protocol} has no published attributes; name them, in order, in {path / ORDER_FILES[0]}"
        )
    rows: dict[str, list[bool]] = {}
    for sequence in sequences:
        file = path / f"{sequence}.txt"
        if not file.is_file():
            continue
        rows[sequence] = _flags(_read(file), file)
        if len(rows[sequence]) != len(names):
            raise RGBXError(
                f"{file} has {len(rows[sequence])} attributes; expected {len(names)}: {', '.join(names)} (another "
                f"order or set goes into {ORDER_FILES[0]} beside it)"
            )
    return _table(names, rows)


@dataclass(frozen=True)
class AttributeScores:
    """Figures of several trackers for every attribute.

    Attributes:
        trackers: T names.
        attributes: the A attributes that some evaluated sequence has.
        counts: (A,) number of sequences.
        scores: score name to (T, A) fractions.
        protocol: that the figures were made by.
    """

    trackers: tuple[str, ...]
    attributes: tuple[str, ...]
    counts: tuple[int, ...]
    scores: Mapping[str, np.ndarray]
    protocol: str = ""


def score_attributes(metrics: ListLike[Metrics], table: AttributeTable) -> AttributeScores:
    """Return the benchmark's figures over the sequences of every attribute.

    Raises:
        RGBXError: trackers that were evaluated on different sequences, or no attribute among them.
    """
    evaluated = {frozenset(s.name for s in m.sequences) for m in metrics}
    if len(evaluated) != 1:
        raise RGBXError("the trackers were evaluated on different sequences; attributes compare them on the same ones")
    names = next(iter(evaluated))
    chosen = {name: table.sequences[name] & names for name in table.names}
    present = tuple(name for name in table.names if chosen[name])
    if not present:
        raise RGBXError("no evaluated sequence has any attribute; check that the attribute files belong to this set")
    parts = [[restrict(m, chosen[name]).scores for name in present] for m in metrics]
    keys = [key for key in metrics[0].scores if key in parts[0][0]]
    return AttributeScores(
        tuple(m.tracker for m in metrics),
        present,
        tuple(len(chosen[name]) for name in present),
        {key: np.array([[scores[key] for scores in row] for row in parts]) for key in keys},
        metrics[0].protocol,
    )
