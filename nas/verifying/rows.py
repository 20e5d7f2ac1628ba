"""What is told of each network that was to be measured, and verified.csv."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lut.builders.network import build_network
from lut.measuring.networks import NetworkTime
from lut.runtimes.session import FORMATS
from lut.table import Table
from nas.verifying.choose import Choice, Chosen, measured
from nas.verifying.figures import Figure
from nas.verifying.verdict import Point, non_dominated
from results.files import write_text
from supernet.arch import Arch, format_resolution
from supernet.blocks import blocks_of

MEASURED, FAILED = "measured", "failed"
COLUMNS = (
    "id",
    "name",
    "kind",
    "format",
    "precision",
    "status",
    "file_mb",
    "predicted_ms",
    "predicted_std_ms",
    "measured_ms",
    "measured_std_ms",
    "p50_ms",
    "p90_ms",
    "num_samples",
    "error_percent",
    "within_90",
    "rank",
    "non_dominated",
    "memory_mb",
    "accuracy",
    "accuracy_std",
    "metric",
    "metric_value",
    "metric_images",
    "reason",
    "resolution",
    "arch",
)


@dataclass(frozen=True)
class Row:
    """One network: what was predicted of it, and what was measured."""

    chosen: Chosen
    predicted_ms: float
    std_ms: float  # of the prediction, as the table claims it now
    time: NetworkTime | None  # None: the runtime would not run it
    reason: str = ""  # why not
    file_mb: float | None = None  # None: the runtime takes no files
    rank: int | None = None  # among all that ran, the fastest first
    non_dominated: bool | None = None  # by what was measured
    figure: Figure | None = None  # with weights; None: not evaluated

    @property
    def point(self) -> Point | None:
        """Return what the promise is held against."""
        if self.time is None:
            return None
        return Point(self.predicted_ms, self.std_ms, self.time.ms)

    @property
    def is_judged(self) -> bool:
        """Tell whether the promise is about this network; official ones stand beside it."""
        return self.chosen.kind != "official"


def rows_of(
    choice: Choice, times: Mapping[Arch, NetworkTime], refused: Mapping[Arch, str]
) -> tuple[Row, ...]:
    """Return a row for each network, in the order of `choice`."""
    table = choice.latency.table
    sizes = {arch: file_mb(arch, table) for arch in choice.archs}
    ran = [own for own in choice.networks if own.candidate.arch in times]
    by_time = sorted(ran, key=lambda own: times[own.candidate.arch].ms)
    best = _non_dominated(choice, ran, times)
    rows = []
    for own in choice.networks:
        arch = own.candidate.arch
        predicted = choice.latency.predict(blocks_of(arch))
        rows.append(
            Row(
                own,
                predicted.latency_ms,
                predicted.std_ms,
                times.get(arch),
                "" if arch in times else refused.get(arch, "no time was told"),
                sizes[arch],
                by_time.index(own) + 1 if arch in times else None,
                best.get(own.id),
            )
        )
    return tuple(rows)


def _non_dominated(
    choice: Choice, ran: list[Chosen], times: Mapping[Arch, NetworkTime]
) -> dict[str, bool]:
    """Return by id whether a network stays on the front of all that ran, by measured latencies."""
    if not choice.metric or not ran:
        return {}  # without accuracies there is no front
    costs = []
    for own in ran:
        time = times[own.candidate.arch]
        candidate = measured(choice, own.candidate, time.ms, time.std_ms)
        costs.append([objective.cost(candidate) for objective in choice.objectives])
    return dict(zip((own.id for own in ran), non_dominated(costs), strict=True))


def file_mb(arch: Arch, table: Table) -> float | None:
    """Return the size of the file that a runtime takes, in 1e6 bytes; None where it takes none."""
    format = FORMATS.get(table.runtime)
    if format is None:
        return None
    data = build_network(
        format,
        blocks_of(arch),
        precision=table.precision,
        batch=table.batch,
        eps=arch.norm_eps,
    )
    return len(data) / 1e6


def write_sheet(rows: tuple[Row, ...], choice: Choice, path: Path) -> None:
    """Write verified.csv, atomically. Raises RunError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = cells_of(row, choice)
        writer.writerow({name: _cell(cells[name]) for name in COLUMNS})
    write_text(path, text.getvalue())


def cells_of(row: Row, choice: Choice) -> dict[str, Any]:
    """Return what verified.csv has of a network, by column; None for an empty cell."""
    table, candidate, time, point = choice.latency.table, row.chosen.candidate, row.time, row.point
    arch = candidate.arch
    known = bool(choice.metric)
    figure = row.figure
    return {
        "id": row.chosen.id,
        "name": arch.describe(),
        "kind": row.chosen.kind,
        "format": FORMATS.get(table.runtime, table.runtime),
        "precision": table.precision,
        "status": FAILED if time is None else MEASURED,
        "file_mb": row.file_mb,
        "predicted_ms": row.predicted_ms,
        "predicted_std_ms": row.std_ms,
        "measured_ms": time and time.ms,
        "measured_std_ms": time and time.std_ms,
        "p50_ms": time and time.p50_ms,
        "p90_ms": time and time.p90_ms,
        "num_samples": time and time.num_samples,
        "error_percent": None if point is None else 100 * point.error,
        "within_90": None if point is None else point.is_within,
        "rank": row.rank,
        "non_dominated": row.non_dominated,
        "memory_mb": candidate.memory_mb,
        "accuracy": candidate.accuracy if known else None,
        "accuracy_std": candidate.accuracy_std if known else None,
        "metric": figure and figure.metric,
        "metric_value": figure and figure.value,
        "metric_images": figure and figure.images,
        "reason": row.reason or None,
        "resolution": format_resolution(arch.resolution),
        "arch": arch.to_json(),
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
