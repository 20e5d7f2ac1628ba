"""Latencies of whole networks on one device: what a calibration is fitted to.

A points file is a CSV; `arch` and `latency_ms` are all that it must have:

    arch,task,dataset,resolution,batch,latency_ms,throughput_img_s,rounding_percent,includes,kind
    b1,,,224,1,19,,2.6,,table
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from results.errors import ArchError, TableError, check_choice, printable, shown
from results.sheets import parse_number, parse_whole, read_sheet
from supernet.arch import Arch, Task, format_resolution, parse_resolution
from supernet.official import known_name
from supernet.resolve import written_arch

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
MOST_APART = 3.0  # ratio of two latencies of one network
MOST_BATCH = 1_000_000
INCLUDES = ("mask_decoder",)  # what can have been timed beyond the network itself
COLUMNS = (
    "arch",  # a name such as b1, sam_l0 or efficientvit_b1.r288_in1k, or an Arch as JSON
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
    row: int = field(default=0, compare=False)  # in its file, from 1

    @property
    def fitted(self) -> bool:
        """Tell whether the point is fitted, and not only compared."""
        return self.kind in FITTED_KINDS

    @property
    def backbone(self) -> Arch:
        """Return the network without head and resolution, which tell no architectures apart."""
        return replace(self.arch, head=None, resolution=(32, 32))


def read_points(path: Path, *, tell: Callable[[str], object] | None = None) -> list[Point]:
    """Read the points in `path`, in its order, see `results.sheets.read_sheet` for what is read.

    `tell` is given what was assumed of the file, in one line. Raises TableError, naming the row
    and column.
    """
    sheet = read_sheet(path, COLUMNS, numbers=_NUMBERS, error=TableError)
    for column in filter(None, sheet.columns):
        quantity = column.rpartition("_")[0]
        meant = next((c for c in COLUMNS if quantity and c.rpartition("_")[0] == quantity), column)
        if meant != column:
            raise TableError(f"{path}: column {column!r}; convert it to {meant}")
        check_choice(f"column in {path}:", column, COLUMNS, TableError)
    if "arch" not in sheet.columns or not {"latency_ms", "throughput_img_s"} & set(sheet.columns):
        raise TableError(f"{path}: a first line must name the columns, at least arch,latency_ms")
    empty = dict.fromkeys(COLUMNS, "")
    points = [_point(path, line, empty | fields) for line, fields in sheet]
    if not points:
        raise TableError(f"{path}: no points; add rows of arch,latency_ms")
    if tell and sheet.remark:
        tell(sheet.remark)
    return points


def check_points(points: Iterable[Point]) -> None:
    """Raise TableError, naming both rows, where one network has two very different latencies."""
    rows: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        if point.fitted:
            rows.setdefault((point.arch, point.batch, point.includes), []).append(point)
    for same in rows.values():
        low = min(same, key=lambda point: point.latency_ms)
        high = max(same, key=lambda point: point.latency_ms)
        if high.latency_ms > MOST_APART * low.latency_ms:
            first, second = sorted((low, high), key=lambda point: point.row)
            raise TableError(
                f"rows {first.row} and {second.row} contradict each other: {first.name} at "
                f"{format_resolution(first.arch.resolution)}, batch {first.batch}, takes "
                f"{first.latency_ms:.4g} and {second.latency_ms:.4g} ms an image; correct one of "
                "them, or remove it"
            )


_NUMBERS = ("batch", "latency_ms", "throughput_img_s", "rounding_percent")


def _point(path: Path, line: int, fields: Mapping[str, str]) -> Point:
    where = f"{path}, row {line}"
    latency = _number(where, fields, "latency_ms")
    throughput = _number(where, fields, "throughput_img_s")
    if (latency is None) == (throughput is None):
        raise TableError(f"{where}: give exactly one of latency_ms and throughput_img_s")
    images = _batch(where, fields["batch"])
    rounding = _number(where, fields, "rounding_percent", zero=True) or 0.0
    kind, includes = fields["kind"] or "table", fields["includes"]
    _check(where, "kind", kind, (*FITTED_KINDS, *COMPARED_KINDS))
    if includes:
        _check(where, "includes", includes, INCLUDES)
    named = known_name(fields["arch"])
    return Point(
        arch=_arch(where, fields),
        name=named[0] if named else "custom",
        latency_ms=latency / images if latency else 1000 / (throughput or math.nan),
        batch=images,
        rounding=rounding / 100,
        includes=includes,
        dataset=printable(fields["dataset"]),
        kind=kind,
        source=printable(fields["source"]),
        notes=printable(fields["notes"]),
        row=line,
    )


def _batch(where: str, text: str) -> int:
    try:
        images = parse_whole(text or "1")
    except ValueError:
        images = 0
    if not 1 <= images <= MOST_BATCH:
        raise TableError(
            f"{where}, column batch: {shown(text)} is no whole number from 1 to {MOST_BATCH}"
        )
    return images


def _arch(where: str, fields: Mapping[str, str]) -> Arch:
    text, column = fields["arch"], "arch"
    options: dict[str, Any] = {}
    try:
        if fields["resolution"]:
            column = "resolution"
            options["resolution"] = parse_resolution(fields["resolution"])
        if text.startswith("{"):
            column = "arch"
            return replace(written_arch(text), **options)
        if fields["task"]:
            column = "task"
            check_choice(column, fields["task"], get_args(Task), ArchError)
            options["task"] = fields["task"]
        column = "arch"
        return written_arch(text, **options, dataset=fields["dataset"] or None)
    except ArchError as error:
        raise TableError(f"{where}, column {column}: {error}") from None


def _number(
    where: str, fields: Mapping[str, str], column: str, *, zero: bool = False
) -> float | None:
    text = fields[column]
    if not text:
        return None
    try:
        value = parse_number(text)
    except ValueError:
        value = math.nan
    if not (1e-9 <= value <= 1e9 or (zero and value == 0)):
        raise TableError(f"{where}, column {column}: {shown(text)} is not a positive number")
    return value


def _check(where: str, column: str, value: str, choices: tuple[str, ...]) -> None:
    try:
        check_choice(column, value, choices, TableError)
    except TableError as error:
        raise TableError(f"{where}, column {column}: {error}") from None
