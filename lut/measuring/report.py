"""What a build prints in the end."""

from pathlib import Path
from typing import TYPE_CHECKING

from lut.device import user_data_dir
from lut.measuring.assemble import Validation
from lut.next_command import search_command
from lut.table import Table
from results.console import terminal

if TYPE_CHECKING:
    from lut.measuring.work import Work

MOST_REMARKS = 5  # on models that ran in part elsewhere; the table's .json has more


def print_build(work: "Work", table: Table, validation: Validation | None, path: Path) -> None:
    console = terminal(width=120)
    assert work.campaign is not None
    measurement = table.sidecar.measurement
    console.print(
        f"{table.title}, {table.runtime} {measurement.environment.version} {table.precision}, "
        f"{table.threads} thread{'s' * (table.threads != 1)}, batch {table.batch}: "
        f"{measurement.num_measured} blocks measured, {measurement.num_interpolated} interpolated, "
        f"in {measurement.seconds / 60:.1f} min",
        soft_wrap=True,
    )
    if validation is None:
        console.print("not validated on whole networks: its error is unknown")
    else:
        print_validation(console, validation)
    for note in measurement.failed:
        console.print(f"left out: {note}", soft_wrap=True)
    for remark in measurement.remarks[:MOST_REMARKS]:
        console.print(f"remark: {remark}", soft_wrap=True)
    console.print(f"wrote {path}", soft_wrap=True)
    by_name = path.parent.resolve() == (user_data_dir() / "tables").resolve()
    flags = work.command
    command = search_command(work.device, path, by_name, flags.task, flags.dataset)
    console.print(f"next: {command}", soft_wrap=True)


def print_validation(console: "object", validation: Validation) -> None:
    """The errors of a table on whole networks, as two rows."""
    from rich.console import Console
    from rich.table import Table as Grid

    assert isinstance(console, Console)
    low, high = min(validation.measured_ms), max(validation.measured_ms)
    grid = Grid(
        title=f"{len(validation.archs)} networks that the table has not seen, {low:.3g} to "
        f"{high:.3g} ms",
        box=None,
    )
    for heading in ("", "mean error %", "within 5 %", "within 10 %", "Spearman", "Kendall τ"):
        grid.add_column(heading, justify="right" if heading else "left")
    for name, found in (("as predicted", validation.raw), ("scaled", validation.scaled)):
        grid.add_row(
            name,
            f"{found.mape_percent:.2f}",
            f"{found.within_5_percent:.0f}",
            f"{found.within_10_percent:.0f}",
            f"{found.spearman:.4f}",
            f"{found.kendall_tau:.4f}",
        )
    console.print(grid)
