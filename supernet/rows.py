"""Evaluated subnets in a file, one JSON object a line, which several processes may append to.

A row is one figure of one Arch: `arch`, `metric`, `value`, perhaps `stderr`, how many `figures`
the Arch has, and what it was measured on and with.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal

from results.errors import ArchError, RunError
from supernet.arch import Arch

Row = dict[str, Any]
# With equal values of these a figure of an Arch is the same figure.
SETTINGS = (
    *("weights_sha256", "task", "dataset", "n", "seed", "precision"),
    *("recalibration_images", "recalibration_batch"),
    "class_order",  # where it was asked for
)


class Rows:
    """The rows of a file that have given settings, by Arch; further ones are appended."""

    def __init__(self, path: Path | None, settings: Row) -> None:
        """Without `path` rows are kept in memory alone.

        Raises RunError where the file cannot be read or holds something else.
        """
        self.path = path
        self.settings = {name: settings.get(name) for name in SETTINGS}
        self.of: dict[Arch, list[Row]] = {}  # those with all their figures
        self._found: dict[Arch, dict[str, Row]] = {}
        self._read, self._lines = 0, 0  # how far the file has been read
        if path is not None and path.exists():
            with _opened(path, "rb") as file:
                self._catch_up(file)

    def append(self, rows: Iterable[Row]) -> None:
        """Add the rows of Archs that the file does not have yet, at once or not at all.

        Raises RunError where it cannot be written.
        """
        if self.path is None:
            for row in rows:
                self.of.setdefault(Arch.from_dict(row["arch"]), []).append(row)
            return
        try:
            with _opened(self.path, "a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._catch_up(file)
                file.truncate(self._read)  # what a killed process began to write
                new = [row for row in rows if Arch.from_dict(row["arch"]) not in self.of]
                text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in new)
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
                self._catch_up(file)
        except OSError as error:  # a full disk
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _catch_up(self, file: BinaryIO) -> None:
        """Take in the whole lines after those that were read."""
        file.seek(self._read)
        data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        for line in data.splitlines():
            self._lines += 1
            if line.strip():
                self._take(line)
        self._read += len(data)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            arch = Arch.from_dict(row["arch"])
            own = {name: row.get(name) for name in SETTINGS}
            metric, figures = str(row["metric"]), int(row.get("figures", 1))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArchError):
            raise RunError(
                f"{self.path}, line {self._lines}, is no evaluated network; name another --out"
            ) from None
        if own != self.settings:
            return
        rows = self._found.setdefault(arch, {})
        rows[metric] = row
        if len(rows) >= figures:  # else a killed process wrote but some
            self.of[arch] = list(rows.values())


def _opened(path: Path, mode: Literal["rb", "a+b"]) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode)
    except OSError as error:
        raise RunError(f"cannot open {path}: {error.strerror or error}") from None
