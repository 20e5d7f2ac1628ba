"""Evaluated subnets in a file, one JSON object a line, which several processes may append to.

A row is one figure of one Arch: `arch`, `metric`, `value`, perhaps `stderr`, how many `figures`
the Arch has, and what it was measured on and with. Its `provenance` is supernet (also where none is
told), or trained: the weights were trained for this Arch alone. A file holds rows of one of both.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from results.errors import ArchError, RunError, UserError, nearest
from results.reading import (
    MOST_LOG_BYTES,
    Finite,
    NotNegative,
    Record,
    as_kind,
    parse_json,
    whole_lines,
)
from supernet.arch import Arch, format_resolution

EvaluationRow = dict[str, Any]
SHARED, TRAINED = "supernet", "trained"  # provenances
CHUNK = 2**20  # bytes
BEGINS = '{"arch": {"family": "'  # every row that is written here
# With equal values of these a figure of an Arch is the same figure.
SETTINGS = (
    *("weights_sha256", "task", "dataset", "n", "seed", "precision"),
    *("recalibration_images", "recalibration_batch"),
    "class_order",  # where it was asked for
)
# A table program may have written 2000.0 for 2000.
Whole = Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0)]


class Figure(Record, frozen=True):
    """One row: what an Arch reaches, and where that comes from as far as the row tells it."""

    arch: dict[str, Any]
    metric: str
    value: Finite
    stderr: NotNegative | None = None
    figures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    weights_sha256: str | None = None
    task: str | None = None
    dataset: str | None = None
    n: Whole | None = None
    seed: Whole | None = None
    precision: str | None = None
    recalibration_images: Whole | None = None
    recalibration_batch: Whole | None = None
    class_order: str | None = None
    resolution: str | None = None
    provenance: str | None = None
    steps: Whole | None = None  # of training, where it was of the Arch alone

    @property
    def is_trained(self) -> bool:
        """Tell whether the weights were trained for this Arch alone."""
        return self.provenance == TRAINED


def rows_of(
    arch: Arch, figures: Mapping[str, float], facts: EvaluationRow, *, provenance: str
) -> list[EvaluationRow]:
    """Return a row for each of a network's figures, in their order; `facts` are fields of all."""
    names = [name for name in figures if name != "n" and not name.endswith("_stderr")]
    resolution = format_resolution(arch.resolution)
    rows: list[EvaluationRow] = []
    for name in names:
        row: EvaluationRow = {"arch": arch.to_dict(), "metric": name, "value": figures[name]}
        if f"{name}_stderr" in figures:
            row["stderr"] = figures[f"{name}_stderr"]
        told = {"resolution": resolution, "provenance": provenance, "figures": len(names)}
        rows.append(row | facts | told)
    return rows


def parse_figure(
    line: bytes | str, where: str, *, error: type[UserError] = RunError
) -> tuple[Arch, Figure, EvaluationRow]:
    """Return what a line of such a file says, of whoever wrote it, and all that it holds.

    Raises `error`, which `where` begins.
    """
    row = parse_json(line, EvaluationRow, where, error=error)
    for name in ("arch", "metric", "value"):
        if name not in row:
            raise error(f"{where}: no {name!r}{nearest(name, row) if row else ''}")
    figure = as_kind(row, Figure, where, error=error)
    try:
        return Arch.from_dict(figure.arch), figure, row
    except ArchError as reason:
        raise error(f"{where}: {reason}") from None


class EvaluationLog:
    """The rows of a file that have given settings, by Arch; further ones are appended."""

    def __init__(
        self, path: Path | None, settings: EvaluationRow, *, provenance: str = SHARED
    ) -> None:
        """Read what the file has. Without `path` rows are kept in memory alone.

        Raises RunError where the file cannot be read or holds something else, also where its rows
        are trained and `provenance` is not, or the reverse.
        """
        self.path, self.provenance = path, provenance
        self.settings = {name: settings.get(name) for name in SETTINGS}
        self.by_arch: dict[Arch, list[EvaluationRow]] = {}  # those with all their figures
        self._partial: dict[Arch, dict[str, EvaluationRow]] = {}
        self._read, self._lines = 0, 0  # how far the file has been read
        if path is not None and path.exists():
            handle = _descriptor(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)
                self._catch_up(handle)
            finally:
                os.close(handle)

    def append(self, rows: Iterable[EvaluationRow]) -> None:
        """Add the rows of Archs that the file does not have yet, at once or not at all.

        Raises RunError where it cannot be written, or holds something else; it is then as it
        was.
        """
        if self.path is None:
            for row in rows:
                self.by_arch.setdefault(Arch.from_dict(row["arch"]), []).append(row)
            return
        handle = _descriptor(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_torn = self._catch_up(handle)
            new = [row for row in rows if self._lacks(Arch.from_dict(row["arch"]), row["metric"])]
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in new)
            self._write(handle, text.encode(), is_torn)
            self._catch_up(handle)
        except OSError as error:  # a full disk
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None
        finally:
            os.close(handle)

    def _lacks(self, arch: Arch, metric: str) -> bool:
        """Tell whether a figure is missing, also of an Arch that a killed process wrote some of."""
        return arch not in self.by_arch and metric not in self._partial.get(arch, {})

    def _write(self, handle: int, data: bytes, is_torn: bool) -> None:
        """Write after the last whole row, on a line of its own, all of `data` or nothing."""
        size = os.fstat(handle).st_size
        if is_torn:
            os.ftruncate(handle, self._read)
        elif size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        begin = at = os.fstat(handle).st_size
        try:
            while data:
                written = os.pwrite(handle, data, at)
                data, at = data[written:], at + written
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, begin)
            raise

    def _catch_up(self, handle: int) -> bool:
        """Take in the rows after those that were read.

        Return whether what follows them is the beginning of a row that somebody was killed at.
        Nothing is taken in if anything there is not ours.
        """
        size = os.fstat(handle).st_size
        if size > MOST_LOG_BYTES:
            raise RunError(f"{self.path} is too large for evaluated networks; name another --out")
        data = bytearray()
        while part := os.pread(handle, CHUNK, self._read + len(data)):
            data += part
        ended = self._ended(bytes(data))
        lines, length = whole_lines(ended, BEGINS, str(self.path))
        numbered = enumerate(lines, start=self._lines + 1)
        for parsed in [self._parsed(line, number) for number, line in numbered if line.strip()]:
            self._take(*parsed)
        self._lines += len(lines)
        self._read += min(length, len(data))
        return length < len(ended)

    def _ended(self, data: bytes) -> bytes:
        """Return data with an end for a last line that is whole, as an editor leaves it."""
        try:
            parse_json(data[data.rfind(b"\n") + 1 :], Any, "")
        except RunError:
            return data
        return data + b"\n"

    def _parsed(self, line: bytes, number: int) -> tuple[Arch, Figure, EvaluationRow]:
        where = f"{self.path}, line {number}"
        try:
            arch, figure, row = parse_figure(line, f"{where}, is no evaluated network")
        except RunError as error:
            raise RunError(f"{error}; name another --out") from None
        if figure.is_trained != (self.provenance == TRAINED):
            held = "a network trained alone" if figure.is_trained else "shared weights"
            raise RunError(
                f"{where} is of {held}, which does not compare with provenance "
                f"{self.provenance}; name another --out"
            )
        return arch, figure, row

    def _take(self, arch: Arch, figure: Figure, row: EvaluationRow) -> None:
        if any(getattr(figure, name) != value for name, value in self.settings.items()):
            return
        rows = self._partial.setdefault(arch, {})
        rows[figure.metric] = row
        if len(rows) >= figure.figures:  # else a killed process wrote but some
            self.by_arch[arch] = list(rows.values())


def _descriptor(path: Path, flags: int) -> int:
    """Open a regular file; opening a FIFO would wait for somebody to read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot open {path}: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RunError(f"cannot open {path}: it is no regular file")
    return handle
