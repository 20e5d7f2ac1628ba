"""Rows of a latency table's CSV: a block, and what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from results.errors import TableError, nearest, shown
from results.sheets import parse_number, parse_whole, read_sheet
from supernet.arch import HEADED
from supernet.blocks import Activation, Block, BlockKind, Norm, UpsampleMode
from supernet.cost import cost_of

PROVENANCES = ("measured", "interpolated", "calibrated")
KEY_COLUMNS = tuple(f.name for f in fields(Block) if f.compare)
VALUE_COLUMNS = ("latency_ms", "latency_std_ms", "num_samples", "provenance")
OPTIONAL_COLUMNS = ("energy_mj",)
COLUMNS = KEY_COLUMNS + VALUE_COLUMNS
ALWAYS = ("in_channels", "out_channels", "height", "width", "kernel_size", "stride")  # 1 or more
MOST = 1e15  # of a number
MOST_SIZE = 10**6  # of a block, in any of its dimensions
CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(BlockKind),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
    "mode": get_args(UpsampleMode),
    "provenance": PROVENANCES,
}
_WHOLE = tuple(c for c in KEY_COLUMNS if c not in (*CHOICES, "scales", "residual"))
_LEAST = {name: 1 if name in ALWAYS else 0 for name in _WHOLE}
NUMBERS = tuple(c for c in COLUMNS + OPTIONAL_COLUMNS if c not in (*CHOICES, "scales"))


@dataclass(frozen=True, slots=True)
class Entry:
    """Latency of one block on one image."""

    latency_ms: float
    latency_std_ms: float = 0.0
    num_samples: int = 0  # timed passes; 0 where nothing was timed
    provenance: str = "measured"
    energy_mj: float | None = None
    extrapolated: bool = False  # beyond the measured blocks of its kind; never in a file


def read_rows(path: Path) -> tuple[dict[Block, Entry], str]:
    """Return the rows of a table's CSV, and what was assumed of it, see `Sheet.remark`.

    Raises TableError naming line and column.
    """
    columns = COLUMNS + OPTIONAL_COLUMNS
    sheet = read_sheet(path, columns, numbers=NUMBERS, error=TableError)
    check_columns(str(path), sheet.columns, COLUMNS)
    entries: dict[Block, Entry] = {}
    lines: dict[Block, int] = {}
    for line, row in sheet:
        where = f"{path}, line {line}"
        if missing := [name for name in COLUMNS if name not in row]:
            raise TableError(f"{where}: ends before {missing[0]}; is it cut off?")
        add_row(entries, lines, line, where, row)
    if not entries:
        raise TableError(f"{path}: no rows; make the table again")
    return entries, sheet.remark


def add_row(
    entries: dict[Block, Entry],
    lines: dict[Block, int],
    line: int,
    where: str,
    fields: Mapping[str, str],
) -> None:
    """Add the row in a line of a CSV. Raises TableError, also where the block is there already."""
    block, entry = parse_row(fields, where)
    if block in entries:
        raise TableError(f"{where}: the same block as line {lines[block]}; remove one of them")
    entries[block], lines[block] = entry, line


def check_columns(where: str, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Raise TableError for a column that is unknown, of another unit, or missing."""
    expected = COLUMNS + OPTIONAL_COLUMNS
    units = {name.rpartition("_")[0]: name for name in expected if name.endswith(("_ms", "_mj"))}
    for column in filter(None, columns):
        if column in expected:
            continue
        if meant := units.get(column.rpartition("_")[0]) or units.get(column):
            unit = "milliseconds" if meant.endswith("_ms") else "millijoules"
            raise TableError(f"{where}: found {shown(column)}, convert it to {unit} as {meant}")
        raise TableError(f"{where}: unknown column {shown(column)}{nearest(column, expected)}")
    for column in needed:
        if column not in columns:
            raise TableError(f"{where}: column {column!r} is missing; needed: {', '.join(needed)}")


def parse_row(row: Mapping[str, str], where: str) -> tuple[Block, Entry]:
    """Return the block and its entry of a row's fields. Raises TableError naming the column."""
    key: dict[str, Any] = {}
    column = ""
    try:
        for column in KEY_COLUMNS:
            text = row[column]
            if column == "scales":
                key[column] = tuple(int(part) for part in text.split("+") if part)
            elif column == "residual":
                key[column] = {0: False, 1: True}[parse_whole(text)]
            elif column in CHOICES:
                key[column] = text
            else:
                key[column] = parse_whole(text)
        column = "latency_ms"
        latency_ms = _number(row[column])
        column = "latency_std_ms"
        std_ms = _number(row[column])
        column = "num_samples"
        num_samples = parse_whole(row[column])
        if not 0 <= num_samples <= MOST:
            raise ValueError(row[column])
        column = "energy_mj"
        energy_mj = _number(row[column]) if row.get(column) else None
    except (KeyError, ValueError):
        raise TableError(
            f"{where}: {column} is {shown(row[column])}; {_expected(column)} is expected"
        ) from None
    for column, choices in CHOICES.items():
        if (value := row[column]) not in choices:
            raise TableError(f"{where}: no {column} {shown(value)}{nearest(value, choices)}")
    block = Block(**key)
    check_block(block, where)
    return block, Entry(latency_ms, std_ms, num_samples, row["provenance"], energy_mj)


def check_block(block: Block, where: str) -> None:
    """Raise TableError for sizes that no block can have."""
    for name, least in _LEAST.items():
        value = getattr(block, name)
        if not least <= value <= MOST_SIZE:
            raise TableError(f"{where}: {name} cannot be {shown(value)}")
    if not all(0 <= kernel_size <= MOST_SIZE for kernel_size in block.scales):
        raise TableError(f"{where}: scales cannot be {shown(block.scales)}")
    if bool(block.out_height) != bool(block.out_width):
        size = f"{block.out_height}x{block.out_width}"
        raise TableError(f"{where}: out_height x out_width cannot be {size}; give both or neither")
    if block.mid_channels or (block.num_heads and block.head_dim):
        return
    try:
        cost_of(block)
    except ZeroDivisionError:  # of groups of a width of 0
        width = "num_heads and head_dim" if block.kind in HEADED else "mid_channels"
        raise TableError(f"{where}: {block.kind} needs {width} of 1 or more") from None


def _expected(column: str) -> str:
    """Return what a field may hold, for errors."""
    if column == "residual":
        return "0 or 1"
    if column == "scales":
        return "nothing, or whole numbers such as 3+5,"
    what = "number" if column.endswith(("_ms", "_mj")) else "whole number"
    return f"a {what} from 0 to {MOST:.0e}"


def _number(text: str) -> float:
    value = parse_number(text)
    if not 0 <= value <= MOST:
        raise ValueError(text)
    return value


def row_of(block: Block, entry: Entry) -> tuple[Any, ...]:
    """Return the fields of a row, in the order of COLUMNS and OPTIONAL_COLUMNS."""
    key: list[Any] = []
    for column in KEY_COLUMNS:
        value = getattr(block, column)
        if isinstance(value, tuple):
            value = "+".join(map(str, value))
        key.append(int(value) if isinstance(value, bool) else value)
    energy = "" if entry.energy_mj is None else f"{entry.energy_mj:.6g}"
    times = (f"{entry.latency_ms:.6g}", f"{entry.latency_std_ms:.6g}")
    return (*key, *times, entry.num_samples, entry.provenance, energy)
