"""A table of a new device's name, the verified one fitted to what networks took."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lut.calibration.options import CalibrationOptions
from lut.calibration.run import CalibrationResult, calibrate
from lut.table import Table
from nas.verifying.rows import Row
from results.errors import TableError
from results.files import write_text

COLUMNS = ("arch", "batch", "latency_ms", "kind", "notes")
FEWEST = 2  # networks, each of which is left out of a fit


def recalibrate(name: str, table: Table, rows: Sequence[Row], points: Path) -> CalibrationResult:
    """Write a table of device `name`, fitted from `table` to the measured networks.

    Args:
        name: of the new device; its table goes where --device finds it.
        table: what was verified.
        rows: all networks; those that did not run are passed over.
        points: the file to write them to, as `lut.calibrate --points` takes them.

    Raises TableError for too few networks, and where they contradict each other.
    """
    took = {row.chosen.candidate.arch: row for row in rows if row.time is not None}
    if len(took) < FEWEST:
        raise TableError(
            f"--recalibrate takes {FEWEST} measured networks or more, not {len(took)}; verify more"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for arch, row in took.items():
        assert row.time is not None
        batch_ms = f"{row.time.ms * table.batch:.9g}"
        writer.writerow((arch.to_json(), table.batch, batch_ms, "measured", row.chosen.id))
    write_text(points, text.getvalue())
    return calibrate(
        CalibrationOptions(
            device=(f"{name}:{table.runtime}:{table.precision}",),
            points=points,
            title=table.title,
            from_=str(table.path),
        )
    )
