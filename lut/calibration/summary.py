"""A calibration as its command prints it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Grid

from lut.calibration.fit import CalibrationRow
from lut.calibration.run import CalibrationResult
from lut.calibration.transfer import Transfer
from lut.device import SHIPPED, user_data_dir
from lut.next_command import command_after
from results.console import terminal
from supernet.arch import format_resolution
from supernet.resolve import dataset_of_arch

DOUBTED_PERCENT = 10  # error from which on a calibration is called doubtful


def print_calibration(result: CalibrationResult) -> None:
    """Print every row, the error, where the tables are, and what to do next."""
    console = terminal(width=120)
    device, summary = result.device, result.calibration.summary
    title = f"{device.label}: each architecture predicted without its own rows"
    console.print(_rows(title, result.calibration.rows))
    console.print(
        f"error {summary.mape_percent:.1f} % on average, {summary.worst_percent:.1f} % at worst "
        f"beyond rounding; {summary.num_ordered_pairs} of {summary.num_pairs} pairs more than 8 % "
        "apart in order",
        soft_wrap=True,
    )
    if result.transfer is not None:
        for line in _transferred(result.transfer, result.physical_percent):
            console.print(line, soft_wrap=True)
    if summary.mape_percent > DOUBTED_PERCENT:
        console.print("such an error is large: check the rows that are farthest off")
    console.print(f"wrote {', '.join(map(str, result.tables))}", soft_wrap=True)
    _print_next(console, result)


def _rows(title: str, rows: Sequence[CalibrationRow]) -> Grid:
    grid = Grid(title=title, box=None)
    for heading in ("network", "batch", "given ms", "predicted ms", "error %", "kind"):
        grid.add_column(heading, justify="left" if heading in ("network", "kind") else "right")
    for row in rows:
        point = row.point
        name = f"{point.name} {point.dataset or point.arch.task}"
        kind = point.kind if point.fitted else f"{point.kind}, not fitted"
        grid.add_row(
            f"{name} {format_resolution(point.arch.resolution)}",
            str(point.batch),
            f"{point.latency_ms:.4g}",
            f"{row.leave_out_ms:.4g}",
            f"{row.leave_out_error_percent:+.1f}",
            kind,
        )
    return grid


def _print_next(console: Console, result: CalibrationResult) -> None:
    """Print whether --device finds the tables, and a command that uses one."""
    device, paths = result.device, list(result.tables)
    points = [row.point for row in result.calibration.rows if row.point.fitted]
    used = {device.batch_for(dataset_of_arch(point.arch)) for point in points}
    by_name = paths[0].parent.resolve() == (user_data_dir() / "tables").resolve()
    if by_name and used & {point.batch for point in points}:
        if any((SHIPPED / "tables" / path.name).exists() for path in paths):
            console.print("it goes before the shipped table; delete it to go back to that one")
    elif by_name:
        batches = ", ".join(map(str, sorted(used)))
        console.print(
            f"{device.name} is used with batch {batches}, of which these points have none, so the "
            "table is used by --table alone; give points with a column batch",
            soft_wrap=True,
        )
        by_name = False
    usable = [path for path in paths if by_name and result.tables[path].batch in used]
    path = (usable or paths)[0]
    command = command_after(device, result.tables[path], path, by_name, points)
    console.print(f"next: {command}", soft_wrap=True)


def _transferred(moved: Transfer, physical_percent: float | None) -> list[str]:
    """Return what a transfer found, and whether bare physics would do better, line by line."""
    source = moved.source
    origin = f"from {source.title}, {source.runtime} {source.precision}: "
    terms = moved.terms
    if moved.spread == 0:
        scale = moved.calibration.parameters["scale"]
        lines = [origin + f"every block {scale:.4g} times as long"]
    else:
        named = (f"{n.replace('_', ' ')} {f:.4g}" for n, f in moved.factors.items())
        offset = f"; offset {terms.fixed_ms:.4g} ms and {terms.ms_per_mb:.4g} ms/MB"
        one = f" (one scale alone: error {moved.errors[0.0]:.1f} %)"
        lines = [origin + "times as long are " + ", ".join(named) + offset + one]
    if source.roofline is None:
        lines.append("blocks that the source does not list are not in this table")
    if physical_percent is not None:
        ours = moved.calibration.summary.mape_percent
        better = "better: leave --from out" if physical_percent < ours else "no better"
        lines.append(f"a physical fit without --from: error {physical_percent:.1f} %, {better}")
    return lines
