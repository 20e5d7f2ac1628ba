"""Build a table: measure every block of a space on a device, assemble the rows, save them.

from lut.measuring.build import build_table
from lut.measuring.options import BuildOptions

built = build_table(BuildOptions(device=("mydevice",), space="tiny"))
built.path, built.validation.raw.mape_percent
"""

from dataclasses import dataclass
from pathlib import Path

from lut.device import Device, table_name, user_data_dir
from lut.measuring.assemble import Validation
from lut.measuring.campaign import Campaign
from lut.measuring.importers import import_table
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.options import BuildOptions
from lut.measuring.provenance import table_of, write_quantiles
from lut.measuring.run import COMMAND, UNRECORDED, BuildRun, device_of, look_up, recorded
from lut.measuring.schedule import Schedule
from lut.rows import Entry
from lut.table import Table
from results.errors import TargetError
from results.files import write_bytes
from results.progress import progress
from results.resume import flags_of
from results.runs import open_run
from supernet.blocks import Block


@dataclass(frozen=True)
class BuiltTable:
    """A table that was measured, and where it is."""

    table: Table
    path: Path
    folder: Path  # of the run
    device: Device
    validation: Validation | None  # None: too few whole networks were measured


@dataclass(frozen=True)
class ImportedTable:
    """A table that somebody else measured, and where it is."""

    table: Table
    path: Path
    unknown: tuple[str, ...]  # keys of the file that have no Block of ours


def build_table(options: BuildOptions, *, silent: bool = True) -> BuiltTable:
    """Measure a table and save it, or go on with the build that `options` resume.

    The run folder holds run.json, the journal of all that was measured, and quantiles.csv.

    Args:
        options: see there.
        silent: show no progress on stderr.

    Raises UserError before anything is written where `options` name something wrongly; TargetError
    where the machine is lost, after which the build can be resumed; TableError where no block runs
    there; RunError where a folder is taken or damaged, or cannot be written.
    """
    build = look_up(options)
    name = f"build-{build.device.name}"
    with open_run(
        COMMAND, options.run_folder, name, resume=options.resume, flag="--run-folder"
    ) as run:
        if run.is_new:
            flags = flags_of(build.options, UNRECORDED)
            run.record(flags, build.sources(), build.options.seed)
        try:
            campaign, entries = _measure(build, run.folder, silent)
        except TargetError as error:
            kept = f"what was measured is kept, go on with --resume {run.folder}"
            raise TargetError(f"{error}; {kept}") from None
        table, validation = table_of(build, campaign, entries)
    write_quantiles(campaign, run.folder / "quantiles.csv")
    path = save_table(table, build.options.out)
    return BuiltTable(table, path, run.folder, build.device, validation)


def import_to(options: BuildOptions, path: Path) -> ImportedTable:
    """Read the table in a file of somebody else's, and save it as one of the options' device.

    Raises UserError for options that name something wrongly and for a file that is no table,
    before anything is written; RunError where the table cannot be written.
    """
    options, _ = recorded(options)
    options.check()
    table, unknown = import_table(path, device_of(options), options.batch, options.threads)
    return ImportedTable(table, save_table(table, options.out), tuple(unknown))


def _measure(build: BuildRun, folder: Path, silent: bool) -> tuple[Campaign, dict[Block, Entry]]:
    """Return a finished campaign, and an entry for every block. Raises TargetError and RunError."""
    total, unit = (100.0, "%") if build.budget_s is None else (build.budget_s, "s")
    journal = Journal(folder / JOURNAL, f", nothing is lost, go on with --resume {folder}")
    with progress(total, silent=silent, label="measuring", unit=unit) as show:
        campaign = Campaign(
            build.host,
            build.setting,
            build.references,
            journal,
            passes=build.passes,
            seed=build.options.seed,
        )
        schedule = Schedule(build, campaign)
        campaign.on_progress = lambda: show(schedule.done())
        return campaign, schedule.measure()


def save_table(table: Table, out: Path | None) -> Path:
    """Write a table and its sidecar, keep what was there as .bak, and return the table's path.

    Args:
        out: the folder; None: the user's own, where --device finds it.

    Raises RunError, or OSError where a file cannot be written.
    """
    folder = out or user_data_dir() / "tables"
    name = table_name(table.device, table.runtime, table.precision, table.batch)
    path = folder / f"{name}.csv"
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            write_bytes(file.with_name(file.name + ".bak"), file.read_bytes())
    table.save(path)
    return path
