"""Latencies of whole networks on one device: what a calibration is fitted to.

A points file is a CSV; `arch` and `latency_ms` are all that it must have:

    arch,task,dataset,resolution,batch,latency_ms,throughput_img_s,rounding_percent,includes,kind
    b1,,,224,1,19,,2.6,,table
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from results.errors import ArchError, TableError, check_choice, nearest
from results.reading import read_text
from supernet.arch import Arch, Task, parse_resolution
from supernet.named import named_arch

FITTED_KINDS = ("table", "benchmark_csv", "measured")
COMPARED_KINDS = (  # listed beside the fit, never fitted
    "chart_vector",
    "chart_digitized",
    "superseded",  # by a later publication of the same authors
    "secondary",
    "text",
    "issue",
    "perf_yaml",
)
INCLUDES = ("", "mask_decoder")  # what was timed beyond the network itself
COLUMNS = (
    "arch",  # a name such as b1 or sam_l0, or an Arch as JSON
    "task",
    "dataset",
    "resolution",  # 224, or 1024x2048
    "batch",
    "latency_ms",  # of one batch; either this
    "throughput_img_s",  # or this
    "rounding_percent",  # half the unit of the last printed digit
    "includes",
    "kind",
    "source",
    "notes",
)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured network."""

    arch: Arch
    name: str  # as the file gives it; "custom" for an Arch in JSON
    latency_ms: float  # per image: that of the batch divided by its size
    batch: int = 1
    rounding: float = 0.0  # half-width of the printed rounding, as a fraction
    includes: str = ""
    dataset: str = ""
    kind: str = "table"
    source: str = ""
    notes: str = ""

    @property
    def fitted(self) -> bool:
        return self.kind in FITTED_KINDS

    @property
    def backbone(self) -> Arch:
        """Without head and resolution: points that share it are one architecture."""
        return replace(self.arch, head=None, resolution=(32, 32))


def read_points(path: Path) -> list[Point]:
    """The points in `path`, in its order. Raises TableError, naming the row and column.

    Reads what spreadsheets write: semicolons or tabs between fields (then with decimal
    commas, too), a byte order mark, capital letters in the header, empty rows and columns.
    """
    lines = read_text(path, error=TableError).splitlines()
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise TableError(f"cannot read points from {path}: {error}") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    for column in filter(None, header):
        check_choice(f"column in {path}:", column, COLUMNS, TableError)
        if header.count(column) > 1:
            raise TableError(f"{path}: column {column!r} stands twice; remove one of them")
    if "arch" not in header or not {"latency_ms", "throughput_img_s"} & set(header):
        raise TableError(f"{path}: the first line must name the columns, at least arch,latency_ms")
    points = []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        if len(row) > len(header):
            raise TableError(f"{where}: more fields than columns; quote fields that hold a comma")
        fields = dict.fromkeys(COLUMNS, "") | {
            name: value.strip() for name, value in zip(header, row, strict=False) if name
        }
        if not any(fields.values()):
            continue
        if delimiter != ",":
            fields |= {name: fields[name].replace(",", ".") for name in _NUMBERS}
        points.append(_point(where, fields))
    if not points:
        raise TableError(f"{path}: no points; add rows of arch,latency_ms")
    return points


_NUMBERS = ("batch", "latency_ms", "throughput_img_s", "rounding_percent")


def _point(where: str, fields: Mapping[str, str]) -> Point:
    latency = _number(where, fields, "latency_ms")
    throughput = _number(where, fields, "throughput_img_s")
    batch = _number(where, fields, "batch")
    if (latency is None) == (throughput is None):
        raise TableError(f"{where}: give exactly one of latency_ms and throughput_img_s")
    if batch is not None and batch != int(batch):
        raise TableError(f"{where}, column batch: {batch} is not a whole number")
    images = int(batch or 1)
    rounding = _number(where, fields, "rounding_percent", zero=True) or 0.0
    kind, includes = fields["kind"] or "table", fields["includes"]
    _check(where, "kind", kind, (*FITTED_KINDS, *COMPARED_KINDS))
    _check(where, "includes", includes, INCLUDES)
    return Point(
        arch=_arch(where, fields),
        name="custom" if fields["arch"].startswith("{") else fields["arch"].lower(),
        latency_ms=latency / images if latency else 1000 / (throughput or math.nan),
        batch=images,
        rounding=rounding / 100,
        includes=includes,
        dataset=fields["dataset"],
        kind=kind,
        source=fields["source"],
        notes=fields["notes"],
    )


def _arch(where: str, fields: Mapping[str, str]) -> Arch:
    text, column = fields["arch"], "arch"
    options: dict[str, Any] = {}
    try:
        if fields["resolution"]:
            column = "resolution"
            options["resolution"] = parse_resolution(fields["resolution"])
        if text.startswith("{"):
            column = "arch"
            return replace(Arch.from_json(text), **options)
        if fields["task"]:
            column = "task"
            _check(where, column, fields["task"], get_args(Task))
            options["task"] = fields["task"]
        column = "arch"
        return named_arch(text, **options, dataset=fields["dataset"] or None)
    except ArchError as error:
        raise TableError(f"{where}, column {column}: {error}") from None


def _number(
    where: str, fields: Mapping[str, str], column: str, *, zero: bool = False
) -> float | None:
    text = fields[column]
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1e-9 <= value <= 1e9 or (zero and value == 0)):  # nan and infinity included
        raise TableError(f"{where}, column {column}: {text[:40]!r} is not a positive number")
    return value


def _check(where: str, column: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = nearest(value, filter(None, choices))
        raise TableError(f"{where}, column {column}: no {column} {value!r}{hint}")
