"""A latency table: milliseconds by Block, for one device, runtime, precision and batch.

Two files: a CSV sorted by key (columns below, any order accepted) and a JSON sidecar of the
same name with the settings, the network terms, how the numbers came about and how wrong they
are. All times are of one image (time of a batch / batch).
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lut.roofline import Roofline
from lut.terms import NetworkTerms
from results.errors import TableError, check_choice, nearest
from results.files import write_json, write_text
from results.reading import read_json, read_text
from supernet.blocks import Activation, Block, BlockKind, Norm, UpsampleMode
from supernet.cost import BYTES

if TYPE_CHECKING:
    from lut.interpolate import Interpolator

SCHEMA_VERSION = 1
INTERPOLATED_FROM = 800  # rows of a kind, for blocks that no row lists: a fit of a second
PROVENANCES = ("measured", "interpolated", "calibrated")
UNCHECKED_STD = 0.3  # relative, by assumption, of a modelled block nobody has checked
KEY_COLUMNS = tuple(f.name for f in fields(Block) if f.compare)
VALUE_COLUMNS = ("latency_ms", "latency_std_ms", "num_samples", "provenance")
OPTIONAL_COLUMNS = ("energy_mj",)
COLUMNS = KEY_COLUMNS + VALUE_COLUMNS
CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(BlockKind),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
    "mode": get_args(UpsampleMode),
    "provenance": PROVENANCES,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Latency of one block on one image."""

    latency_ms: float
    latency_std_ms: float = 0.0
    num_samples: int = 0  # timed passes; 0 where nothing was timed
    provenance: str = "measured"
    energy_mj: float | None = None
    extrapolated: bool = False  # beyond the measured blocks of its kind; never in a file


@dataclass(frozen=True)
class Table:
    """Entries by Block, and what turns their sum into a network's latency."""

    device: str
    title: str
    runtime: str
    precision: str
    batch: int
    entries: Mapping[Block, Entry]
    terms: NetworkTerms
    threads: int | None = None  # None: not published
    roofline: Roofline | None = None  # gives the blocks that no row lists
    sidecar: Mapping[str, Any] | None = None  # all other fields, kept as they are
    path: Path | None = None
    sha256: str | None = None  # of both files, as read

    def __post_init__(self) -> None:
        for name in ("device", "title", "runtime", "precision"):
            if not isinstance(getattr(self, name), str):
                raise TableError(f"{name} must be a text, not {getattr(self, name)!r}")
        check_choice("precision", self.precision, BYTES, TableError)
        if type(self.batch) is not int or self.batch < 1:
            raise TableError(f"batch must be a positive whole number, not {self.batch!r}")
        for name in ("relative_std", "min_ms", "max_ms", "mape_percent"):
            value = self.error.get(name)
            if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):
                raise TableError(f"error.{name} must be a finite number, not {value!r}")
        kinds = self.error.get("block_kinds", [])
        if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
            raise TableError(f"error.block_kinds must be a list of names, not {kinds!r}")

    @property
    def error(self) -> Mapping[str, Any]:
        """How wrong the table is on whole networks; empty where never checked."""
        found = (self.sidecar or {}).get("error") or {}
        if not isinstance(found, dict):
            raise TableError(f"error must be an object, not {found!r}")
        return found

    @property
    def provenance(self) -> str:
        """The weakest that an answer may have; `measured` only where every block was."""
        found = {entry.provenance for entry in self.entries.values()}
        return weakest(found | ({"calibrated"} if self.roofline else set()))

    def entry(self, block: Block) -> Entry:
        """Latency of `block`: its row, else the fitted model's, else interpolated.

        Raises TableError where the table has no fitted model and too few blocks of the kind.
        """
        if block in self.entries:
            return self.entries[block]
        if self.roofline is not None:
            ms = self.roofline.block_ms(block, self.batch, self.precision)
            std = self.relative_std if self.relative_std is not None else UNCHECKED_STD
            return Entry(ms, ms * std, provenance="calibrated")
        if block.kind in self._free_kinds:
            return Entry(0.0, 0.0, 0, "interpolated")
        if block not in self._interpolated and self._interpolator.can(block):
            (guess,) = self._interpolator.guess([block])
            self._interpolated[block] = Entry(
                guess.latency_ms, guess.std_ms, 0, "interpolated", extrapolated=guess.outside
            )
        if block in self._interpolated:
            return self._interpolated[block]
        alike = [b for b in self.entries if b.kind == block.kind]
        closest = min(alike, key=lambda b: _distance(b, block), default=None)
        nearest_row = closest.describe() if closest else f"none, the table has no {block.kind}"
        raise TableError(
            f"no latency for {block.describe()} on {self.device}; nearest row: {nearest_row}; "
            f"choose another --space, or measure a table that covers it with `python -m lut.build "
            f"--device {self.device} --space SPACE`, or calibrate one with `python -m "
            f"lut.calibrate --device {self.device} --points FILE`"
        )

    @cached_property
    def _free_kinds(self) -> frozenset[str]:
        """Kinds whose rows are all 0, as their time is part of other blocks'."""
        kinds = {block.kind for block in self.entries}
        costly = {block.kind for block, entry in self.entries.items() if entry.latency_ms}
        return frozenset(kinds - costly)

    @cached_property
    def _interpolator(self) -> "Interpolator":
        from lut.interpolate import Interpolator

        known = {b: e for b, e in self.entries.items() if e.provenance != "interpolated"}
        return Interpolator(
            {b: e.latency_ms for b, e in known.items()},
            {b: e.latency_std_ms for b, e in known.items()},
            most_rows=INTERPOLATED_FROM,
        )

    @cached_property
    def _interpolated(self) -> dict[Block, Entry]:
        return {}

    def offset_ms(self, blocks: Sequence[Block]) -> float:
        """The part of a network's latency that no block causes: start, input and output."""
        return self.terms.offset_ms(blocks, self.batch)

    def block_ms(self, block: Block) -> float:
        """What `block` adds to a network's latency, scaled."""
        return self.terms.scale * self.entry(block).latency_ms

    def network_ms(self, blocks: Sequence[Block]) -> float:
        """Latency of a whole network on one image of the table's batch."""
        return self.offset_ms(blocks) + sum(self.block_ms(block) for block in blocks)

    def network_energy_mj(self, blocks: Sequence[Block]) -> float | None:
        """Of all blocks on one image; None where it was not measured of some."""
        told = [self.entry(block).energy_mj for block in blocks]
        known = [mj for mj in told if mj is not None]
        return sum(known) if len(known) == len(told) else None

    @property
    def relative_std(self) -> float | None:
        """Standard deviation of a whole network's relative error; None where never checked."""
        value = self.error.get("relative_std")
        return None if value is None else float(value)

    def save(self, path: Path) -> None:
        """Write `path` (.csv) and its sidecar, each atomically. Raises RunError."""
        rows = sorted(_row(block, entry) for block, entry in self.entries.items())
        optional = [c for c in OPTIONAL_COLUMNS if any(r[len(COLUMNS)] for r in rows)]
        columns = [*COLUMNS, *optional]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(row[: len(columns)] for row in rows)
        sidecar = {
            "schema_version": SCHEMA_VERSION,
            "device": self.device,
            "title": self.title,
            "runtime": self.runtime,
            "precision": self.precision,
            "batch": self.batch,
            "threads": self.threads,
            "num_rows": len(rows),
            "network_terms": self.terms.to_dict(),
            "roofline": self.roofline.to_dict() if self.roofline else None,
        }
        write_text(path, text.getvalue())
        write_json(path.with_suffix(".json"), sidecar | dict(self.sidecar or {}))


def weakest(provenances: Iterable[str]) -> str:
    """The one of several that says least; `calibrated` for none.

    >>> weakest(["measured", "interpolated", "measured"])
    'interpolated'
    """
    found = set(provenances)
    return next((p for p in reversed(PROVENANCES) if p in found), "calibrated")


def load_table(path: Path) -> Table:
    """Read a table and its sidecar. Raises TableError naming the file, line and column."""
    sidecar = read_json(path.with_suffix(".json"), dict[str, Any], error=TableError)
    if not isinstance(sidecar, dict) or sidecar.get("schema_version") != SCHEMA_VERSION:
        raise TableError(
            f"{path.with_suffix('.json')}: schema_version must be {SCHEMA_VERSION}; "
            "make the table again with this version"
        )
    entries = read_rows(path)
    if len(entries) != sidecar.get("num_rows"):
        raise TableError(
            f"{path}: {len(entries)} rows, but its sidecar says {sidecar.get('num_rows')}: the "
            "file is cut short or was edited; make it again, or correct num_rows in the sidecar"
        )
    digest = hashlib.sha256(path.read_bytes() + path.with_suffix(".json").read_bytes())
    known = {"device", "title", "runtime", "precision", "batch", "threads"}
    try:
        roofline = sidecar["roofline"]
        return Table(
            **{name: sidecar[name] for name in known},
            entries=entries,
            terms=NetworkTerms.from_dict(sidecar["network_terms"]),
            roofline=Roofline.from_dict(roofline) if roofline else None,
            sidecar={
                name: value
                for name, value in sidecar.items()
                if name not in known | {"schema_version", "num_rows", "network_terms", "roofline"}
            },
            path=path,
            sha256=digest.hexdigest(),
        )
    except (KeyError, TypeError, AttributeError, TableError) as error:
        raise TableError(f"{path.with_suffix('.json')}: bad or missing field: {error}") from None


def read_rows(path: Path) -> dict[Block, Entry]:
    """The rows of a table's CSV. Raises TableError naming line and column."""
    reader = csv.reader(io.StringIO(read_text(path, error=TableError)))
    try:
        lines_read = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from None
    header = lines_read[0][1] if lines_read else []
    _check_header(path, header)
    entries: dict[Block, Entry] = {}
    lines: dict[Block, int] = {}
    for line, row in lines_read[1:]:
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise TableError(f"{where}: {len(row)} fields instead of {len(header)}; is it cut off?")
        block, entry = parse_row(dict(zip(header, row, strict=True)), where)
        if block in entries:
            raise TableError(f"{where}: the same block as line {lines[block]}; remove one of them")
        entries[block] = entry
        lines[block] = line
    if not entries:
        raise TableError(f"{path}: no rows; make the table again")
    return entries


def _check_header(path: Path, header: Sequence[str]) -> None:
    known = COLUMNS + OPTIONAL_COLUMNS
    for column in COLUMNS:
        if column not in header:
            other = [h for h in header if h not in known]
            quantity = column.rpartition("_")[0]
            unit = next((h for h in other if quantity and h.rpartition("_")[0] == quantity), None)
            found = f"; found {unit!r}, convert it to milliseconds" if unit else ""
            raise TableError(f"{path}: column {column!r} is missing{found}")
    for column in header:
        if column not in known:
            raise TableError(f"{path}: unknown column {column!r}{nearest(column, known)}")
        if list(header).count(column) > 1:
            raise TableError(f"{path}: column {column!r} stands twice; remove one of them")


def parse_row(row: Mapping[str, str], where: str) -> tuple[Block, Entry]:
    key: dict[str, Any] = {}
    column = ""
    try:
        for column in KEY_COLUMNS:
            text = row[column]
            if column == "scales":
                key[column] = tuple(int(part) for part in text.split("+") if part)
            elif column == "residual":
                key[column] = {"0": False, "1": True}[text]
            elif column in CHOICES:
                key[column] = text
            else:
                key[column] = int(text)
        column = "latency_ms"
        latency_ms = _number(row[column])
        column = "latency_std_ms"
        std_ms = _number(row[column])
        column = "num_samples"
        num_samples = int(row[column])
        column = "energy_mj"
        energy_mj = _number(row[column]) if row.get(column) else None
    except (KeyError, ValueError):
        raise TableError(
            f"{where}: {column} is {row[column][:40]!r}; a finite number, not negative, is expected"
        ) from None
    for column, choices in CHOICES.items():
        if row[column] not in choices:
            value = row[column][:40]
            raise TableError(f"{where}: no {column} {value!r}{nearest(value, choices)}")
    return Block(**key), Entry(latency_ms, std_ms, num_samples, row["provenance"], energy_mj)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def _row(block: Block, entry: Entry) -> tuple[Any, ...]:
    key: list[Any] = []
    for column in KEY_COLUMNS:
        value = getattr(block, column)
        if isinstance(value, tuple):
            value = "+".join(map(str, value))
        key.append(int(value) if isinstance(value, bool) else value)
    energy = "" if entry.energy_mj is None else f"{entry.energy_mj:.6g}"
    times = (f"{entry.latency_ms:.6g}", f"{entry.latency_std_ms:.6g}")
    return (*key, *times, entry.num_samples, entry.provenance, energy)


def _distance(a: Block, b: Block) -> float:
    sizes = ("in_channels", "out_channels", "height", "width", "mid_channels", "kernel_size")
    return sum(abs(math.log((getattr(a, s) + 1) / (getattr(b, s) + 1))) for s in sizes)


def rows_for(
    blocks: Iterable[Block], roofline: Roofline, batch: int, precision: str, relative_std: float
) -> dict[Block, Entry]:
    """Calibrated rows of the distinct `blocks`; values rounded as a saved table has them."""
    entries = {}
    for block in blocks:
        key = replace(block, inputs=(), name="")
        ms = float(f"{roofline.block_ms(key, batch, precision):.6g}")
        std = float(f"{ms * relative_std:.6g}")
        entries[key] = Entry(ms, std, 0, "calibrated")
    return entries
