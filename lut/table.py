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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lut.interpolate import Interpolator
from lut.roofline import Roofline
from lut.rows import COLUMNS, OPTIONAL_COLUMNS, PROVENANCES, Entry, read_rows, row_of
from lut.sidecar import MOST_TITLE, Settings, Sidecar
from lut.terms import NetworkTerms
from results.errors import TableError, check_choice, printable, shortened, shown
from results.files import write_json, write_text
from results.reading import as_kind, decode, parse_json, read_bytes
from supernet.blocks import Block
from supernet.cost import BYTES

SCHEMA_VERSION = 1
INTERPOLATED_FROM = 800  # rows of a kind, for blocks that no row lists: a fit of a second
UNCHECKED_STD = 0.3  # relative, by assumption, of a modelled block nobody has checked


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
    sidecar: Sidecar = field(default_factory=Sidecar)  # all other fields
    path: Path | None = None
    sha256: str | None = None  # of both files, as read
    remark: str = ""  # what was assumed of the CSV, see Sheet.remark in results/sheets.py

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, BYTES, TableError)
        if type(self.batch) is not int or self.batch < 1:
            raise TableError(f"batch must be a positive whole number, not {shown(self.batch)}")

    @property
    def provenance(self) -> str:
        """Return the weakest that an answer may have; `measured` only where every block was."""
        of_rows = {entry.provenance for entry in self.entries.values()}
        return weakest(of_rows | ({"calibrated"} if self.roofline else set()))

    def find_entry(self, block: Block) -> Entry | None:
        """Return the latency of a block: its row, else the fitted model's, else interpolated.

        None where the table has no fitted model and too few blocks of the kind.
        """
        if (listed := self.entries.get(block)) is not None:
            return listed
        if self.roofline is not None:
            if block not in self._modelled:
                self._model([block], self.roofline)
            return self._modelled[block]
        if block.kind in self._free_kinds:
            return Entry(0.0, 0.0, 0, "interpolated")
        self.interpolate([block])
        return self._interpolated.get(block)

    def interpolate(self, blocks: Iterable[Block]) -> None:
        """Find what no row lists of `blocks`, and can be found, for `find_entry` to return.

        All at once takes a hundredth of the time of one after the other, of the fitted model a
        tenth.
        """
        if self.roofline is not None:
            unlisted = dict.fromkeys(block for block in blocks if block not in self.entries)
            if missing := [block for block in unlisted if block not in self._modelled]:
                self._model(missing, self.roofline)
            return
        wanted = [
            block
            for block in dict.fromkeys(blocks)
            if block not in self.entries
            and block not in self._interpolated
            and block.kind not in self._free_kinds
            and self._interpolator.can(block)
        ]
        guesses = self._interpolator.guess(wanted) if wanted else []  # the fit takes seconds
        for block, guess in zip(wanted, guesses, strict=True):
            self._interpolated[block] = Entry(
                guess.latency_ms, guess.std_ms, 0, "interpolated", extrapolated=guess.outside
            )

    def _model(self, blocks: Sequence[Block], roofline: Roofline) -> None:
        std = self.relative_std if self.relative_std is not None else UNCHECKED_STD
        found = roofline.blocks_ms(blocks, self.batch, self.precision)
        for block, ms in zip(blocks, found, strict=True):
            self._modelled[block] = Entry(ms, ms * std, provenance="calibrated")

    def entry(self, block: Block) -> Entry:
        """Return `find_entry` of a block. Raises TableError where the table cannot tell it."""
        if (entry := self.find_entry(block)) is not None:
            return entry
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
        """Return the kinds whose rows are all 0, as their time is part of other blocks'."""
        kinds = {block.kind for block in self.entries}
        costly = {block.kind for block, entry in self.entries.items() if entry.latency_ms}
        return frozenset(kinds - costly)

    @cached_property
    def _interpolator(self) -> Interpolator:
        measured = {b: e for b, e in self.entries.items() if e.provenance != "interpolated"}
        return Interpolator(
            {b: e.latency_ms for b, e in measured.items()},
            {b: e.latency_std_ms for b, e in measured.items()},
            most_rows=INTERPOLATED_FROM,
        )

    @cached_property
    def _modelled(self) -> dict[Block, Entry]:
        return {}

    @cached_property
    def _interpolated(self) -> dict[Block, Entry]:
        return {}

    def offset_ms(self, blocks: Sequence[Block]) -> float:
        """Return the ms of a network that no block causes: start, input and output."""
        return self.terms.offset_ms(blocks, self.batch)

    def block_ms(self, block: Block) -> float:
        """Return what a block adds to a network's latency in ms, scaled."""
        return self.terms.scale * self.entry(block).latency_ms

    def network_ms(self, blocks: Sequence[Block]) -> float:
        """Return the latency of a whole network in ms, for one image of the table's batch."""
        return self.offset_ms(blocks) + sum(self.block_ms(block) for block in blocks)

    def network_energy_mj(self, blocks: Sequence[Block]) -> float | None:
        """Return the energy of all blocks on one image in mJ; None where some were not measured."""
        energies_mj = [self.entry(block).energy_mj for block in blocks]
        measured_mj = [mj for mj in energies_mj if mj is not None]
        return sum(measured_mj) if len(measured_mj) == len(energies_mj) else None

    @property
    def relative_std(self) -> float | None:
        """Return the standard deviation of a network's relative error; None where never checked."""
        return self.sidecar.error.relative_std

    def save(self, path: Path) -> None:
        """Write `path` (.csv) and its sidecar, each atomically. Raises RunError."""
        rows = sorted(row_of(block, entry) for block, entry in self.entries.items())
        optional = [c for c in OPTIONAL_COLUMNS if any(r[len(COLUMNS)] for r in rows)]
        columns = [*COLUMNS, *optional]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(row[: len(columns)] for row in rows)
        settings = {
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
        write_json(path.with_suffix(".json"), settings | dict(self.sidecar.written))


def weakest(provenances: Iterable[str]) -> str:
    """Return the provenance that says least of several; `calibrated` for none.

    >>> weakest(["measured", "interpolated", "measured"])
    'interpolated'
    """
    there = set(provenances)
    return next((p for p in reversed(PROVENANCES) if p in there), "calibrated")


def load_table(path: Path) -> Table:
    """Read a table and its sidecar. Raises TableError naming the file, line and column."""
    beside = path.with_suffix(".json")
    data = read_bytes(beside, error=TableError)
    text = decode(data, str(beside), error=TableError)
    written = parse_json(text, dict[str, Any], str(beside), error=TableError)
    if written.get("schema_version") != SCHEMA_VERSION:
        raise TableError(
            f"{beside}: schema_version must be {SCHEMA_VERSION}; make the table again with this "
            "version"
        )
    entries, remark = read_rows(path)
    if len(entries) != written.get("num_rows"):
        raise TableError(
            f"{path}: {len(entries)} rows, but its sidecar says {shown(written.get('num_rows'))}: "
            "the file is cut short or was edited; make it again, or correct num_rows in the sidecar"
        )
    settings = as_kind(written, Settings, str(beside), error=TableError)
    if printable(settings.device) != settings.device:
        raise TableError(f"{beside}: no device is called {shown(settings.device)}")
    digest = hashlib.sha256(read_bytes(path, error=TableError) + data)
    try:
        return Table(
            device=settings.device,
            title=shortened(printable(settings.title), MOST_TITLE),
            runtime=settings.runtime,
            precision=settings.precision,
            batch=settings.batch,
            threads=settings.threads,
            entries=entries,
            terms=NetworkTerms.from_dict(settings.network_terms),
            roofline=Roofline.from_dict(settings.roofline) if settings.roofline else None,
            sidecar=Sidecar.of(
                {
                    name: value
                    for name, value in written.items()
                    if name not in (*Settings.__struct_fields__, "schema_version", "num_rows")
                }
            ),
            path=path,
            sha256=digest.hexdigest(),
            remark=remark,
        )
    except TableError as error:
        raise TableError(f"{beside}: bad or missing field: {error}") from None


def _distance(a: Block, b: Block) -> float:
    sizes = ("in_channels", "out_channels", "height", "width", "mid_channels", "kernel_size")
    return sum(abs(math.log((getattr(a, s) + 1) / (getattr(b, s) + 1))) for s in sizes)
