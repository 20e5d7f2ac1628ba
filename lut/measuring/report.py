"""What a build and a validation print in the end."""

from rich.console import Console
from rich.table import Table as Grid

from lut.device import user_data_dir
from lut.measuring.assemble import Validation
from lut.measuring.build import BuiltTable
from lut.next_command import search_command
from lut.sidecar import SpaceFlags
from results.console import terminal

MOST_REMARKS = 5  # on models that ran in part elsewhere; the table's .json has more


def print_build(built: BuiltTable) -> None:
    """Print what was measured, how far off it is, and how to search with it."""
    console = terminal(width=120)
    table = built.table
    measurement = table.sidecar.measurement
    console.print(
        f"{table.title}, {table.runtime} {measurement.environment.version} "
        f"{table.precision}, {table.threads} thread{'s' * (table.threads != 1)}, "
        f"batch {table.batch}: {measurement.num_measured} blocks measured, "
        f"{measurement.num_interpolated} interpolated, in "
        f"{measurement.seconds / 60:.1f} min",
        soft_wrap=True,
    )
    if built.validation is None:
        console.print("not validated on whole networks: its error is unknown")
    else:
        print_validation(console, built.validation)
    for note in measurement.failed:
        console.print(f"left out: {note}", soft_wrap=True)
    for remark in measurement.remarks[:MOST_REMARKS]:
        console.print(f"remark: {remark}", soft_wrap=True)
    console.print(f"wrote {built.path}", soft_wrap=True)
    by_name = built.path.parent.resolve() == (user_data_dir() / "tables").resolve()
    flags = table.sidecar.space_flags or SpaceFlags()
    command = search_command(built.device, built.path, by_name, flags.task, flags.dataset)
    console.print(f"next: {command}", soft_wrap=True)


def print_validation(console: Console, validation: Validation) -> None:
    """Print the errors of a table on whole networks, as two rows."""
    low, high = min(validation.measured_ms), max(validation.measured_ms)
    grid = Grid(
        title=f"{len(validation.archs)} networks that the table has not seen, {low:.3g} to "
        f"{high:.3g} ms",
        box=None,
    )
    for heading in ("", "mean error %", "within 5 %", "within 10 %", "Spearman", "Kendall τ"):
        grid.add_column(heading, justify="right" if heading else "left")
    for name, agreement in (("as predicted", validation.raw), ("scaled", validation.scaled)):
        grid.add_row(
            name,
            f"{agreement.mape_percent:.2f}",
            f"{agreement.within_5_percent:.0f}",
            f"{agreement.within_10_percent:.0f}",
            f"{agreement.spearman:.4f}",
            f"{agreement.kendall_tau:.4f}",
        )
    console.print(grid)
