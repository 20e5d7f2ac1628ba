"""Calibrate a device, or propose networks to time for that: what `lut.calibrate` does."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lut.calibration.fit import PRIORS, Calibration, fit
from lut.calibration.inputs import CalibrationInputs, find_source, look_up, processor_of
from lut.calibration.options import CalibrationOptions
from lut.calibration.points import Point, read_points
from lut.calibration.propose import propose
from lut.calibration.tables import make_table, save_table
from lut.calibration.transfer import Transfer, transfer
from lut.device import Device
from lut.table import Table
from results.console import note
from results.errors import TableError
from results.files import write_text
from supernet.arch import Arch
from supernet.spaces import get_space

REFUSED_PERCENT = 50  # error from which on a table would only mislead
SUSPECTS = 8  # points, one of which may be what contradicts all others
COMPARED_UP_TO = 60  # points for which a transfer is compared with a physical fit, in seconds


@dataclass(frozen=True)
class CalibrationResult:
    """What a calibration found, and where it is."""

    device: Device
    calibration: Calibration
    transfer: Transfer | None  # None: a physical fit
    physical_percent: float | None  # error of a fit beside a transfer; None: there was none
    tables: dict[Path, Table]  # as written, by path of the CSV


@dataclass(frozen=True)
class Proposal:
    """Networks to time next, fastest first."""

    source: Table
    networks: list[tuple[Arch, float]]  # with the source's milliseconds

    def to_csv(self) -> str:
        """Return the networks as a CSV of points without latencies."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("arch", "batch", "latency_ms", "notes"))
        for arch, ms in self.networks:
            remark = f"{ms:.4g} ms per image on {self.source.device}"
            writer.writerow((json.dumps(arch.to_dict()), self.source.batch, "", remark))
        return text.getvalue()


def calibrate(options: CalibrationOptions, *, notes: bool = False) -> CalibrationResult:
    """Fit a latency model to whole-network latencies and write it as tables, one of each batch.

    With `notes` what was assumed of the points' file is said on stderr. Raises UserError; no
    table is written where architectures left out are predicted more than 50 % wrong, or where
    `options` ask for networks to time, see `propose_points`.
    """
    if options.propose is not None:
        raise TableError("--propose writes no table; call propose_points, or leave it out")
    if options.out_points is not None:
        raise TableError("--out-points is the file of --propose N; give that, too")
    inputs = look_up(options, notes=notes)
    moved, physical_percent = None, None
    if inputs.source is None:
        calibration = _fit_to(inputs.points, inputs)
    else:
        moved = transfer(inputs.points, inputs.source, processor_of(inputs.source))
        calibration = moved.calibration
        if len(inputs.points) <= COMPARED_UP_TO:
            physical = fit(inputs.points, inputs.device.precision, PRIORS[inputs.processor])
            physical_percent = physical.summary.mape_percent
    if calibration.summary.mape_percent > REFUSED_PERCENT:
        raise TableError(_contradiction(inputs, calibration, physical_percent))
    tables = {}
    for batch in inputs.batches:
        table = make_table(inputs, calibration, moved, batch)
        tables[save_table(table, inputs.folder)] = table
    return CalibrationResult(inputs.device, calibration, moved, physical_percent, tables)


def propose_points(options: CalibrationOptions, *, notes: bool = False) -> Proposal:
    """Choose `options.propose` networks to time, and write them where `options.out_points` says.

    With `notes` what was assumed of the points' file is said on stderr. Raises UserError.
    """
    if options.propose is None:
        raise TableError("say with --propose N how many networks to choose, 1 to 200")
    if options.from_ is None:
        raise TableError(
            "--propose needs --from TABLE, the device that tells what a network costs, such as "
            "--from orin"
        )
    space = get_space(options.space)
    measured: list[Point] = []
    if options.points is not None:
        measured = read_points(options.points, tell=note if notes else None)
    source = find_source(options.from_, measured[0].batch if measured else None)
    networks = propose(options.propose, source, space, measured, processor_of(source), options.seed)
    proposal = Proposal(source, networks)
    if options.out_points is not None:
        write_text(options.out_points, proposal.to_csv())
    return proposal


def _fit_to(points: Sequence[Point], inputs: CalibrationInputs) -> Calibration:
    if inputs.source is not None:
        return transfer(points, inputs.source, processor_of(inputs.source)).calibration
    return fit(points, inputs.device.precision, PRIORS[inputs.processor])


def _contradiction(
    inputs: CalibrationInputs, calibration: Calibration, physical_percent: float | None
) -> str:
    """Say what is wrong with points that no model fits: the row without which the others agree."""
    error_percent = calibration.summary.mape_percent
    if physical_percent is not None and physical_percent <= REFUSED_PERCENT:
        return (
            "that table is too unlike this device: architectures left out are predicted "
            f"{error_percent:.0f} % wrong, and {physical_percent:.1f} % by a physical "
            "fit; leave --from out, or start from another"
        )
    rows = [row for row in calibration.rows if row.point.fitted]
    # In logarithms: a latency that is ten times too long makes others look far too long, too.
    rows.sort(key=lambda row: -abs(math.log(row.leave_out_ms / row.point.latency_ms)))
    points = [row.point for row in calibration.rows]
    errors = {}
    for row in rows[:SUSPECTS]:
        try:
            others = _fit_to([point for point in points if point is not row.point], inputs)
        except TableError:  # all others are of one architecture, or none is left
            continue
        errors[row.point.row] = others.summary.mape_percent
    worst = min(rows[:SUSPECTS], key=lambda row: errors.get(row.point.row, math.inf))
    without = errors.get(worst.point.row, math.inf)
    agree = f" (error {without:.0f} % without it)" if without < REFUSED_PERCENT else ""
    place = f" in row {worst.point.row}" if worst.point.row else ""
    return (
        "these points contradict each other: architectures left out are predicted "
        f"{error_percent:.0f} % wrong, so no table is written. Farthest off is "
        f"{worst.point.name}{place} with {worst.point.latency_ms:.4g} ms where "
        f"{worst.leave_out_ms:.4g} ms would fit the others{agree}; check units and typing errors"
    )
