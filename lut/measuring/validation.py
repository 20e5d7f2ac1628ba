"""Hold a table against random networks that are measured for it, in a session of their own.

from lut.measuring.options import ValidationOptions
from lut.measuring.validation import validate_table

validated = validate_table(ValidationOptions(device=("mydevice",), networks=60))
validated.validation.raw.mape_percent
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lut.device import SHIPPED, find_table, get_device, split_spec
from lut.measuring.assemble import Validation, validate
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import NETWORKS
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.networks import (
    check_whole,
    fitted_networks,
    official_of,
    references_alike,
    setting_of,
)
from lut.measuring.options import ValidationOptions
from lut.measuring.plan import stratified
from lut.runtimes.session import Setting, check_host
from lut.runtimes.versions import version_remark
from lut.sidecar import Environment, SpaceFlags
from lut.table import Table, load_table
from lut.targets.choose import get_host
from lut.targets.host import Host
from results.errors import DeviceError, SpaceError, TableError, TargetError
from results.files import write_json
from results.progress import progress
from results.reading import as_kind
from results.resume import flags_of
from results.runs import Run, open_run
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.official import check_task, dataset_of
from supernet.space import Space
from supernet.spaces import DEFAULT_SPACE, get_space

COMMAND = "lut.validate"
UNRECORDED = ("out",)  # options that are no part of what is measured


@dataclass(frozen=True)
class ValidatedTable:
    """A table and how far it was off."""

    path: Path  # of the table
    folder: Path  # of the run
    validation: Validation
    remark: str  # on the runtime's version; "" where it is that of the table


@dataclass(frozen=True)
class ValidationRun:
    """One validation, ready to measure."""

    options: ValidationOptions
    table: Table
    path: Path  # of the table
    host: Host
    setting: Setting
    networks: tuple[Arch, ...]  # that the table is held against
    references: tuple[Arch, ...]  # that give the session's scale

    def sources(self) -> dict[str, Any]:
        """Return what run.json tells of where the numbers come from."""
        digest = self.table.sha256
        return {"target": self.host.facts(), "table": str(self.table.path), "sha256": digest}


def validate_table(options: ValidationOptions, *, silent: bool = True) -> ValidatedTable:
    """Measure random networks and return how far a table is off.

    The run folder holds run.json, the journal and validation.json.

    Args:
        options: see there.
        silent: show no progress on stderr.

    Raises UserError before anything is written where `options` name something wrongly, or where
    nothing can be measured; TargetError where the machine is lost; TableError where no two networks
    run there; RunError where a folder is taken or cannot be written.
    """
    validated = look_up(options)
    name = f"validate-{validated.table.device}"
    again = "nothing but the journal was written; validate again with another --out"
    with open_run(COMMAND, options.out, name, interrupted=again) as run:
        run.record(flags_of(options, UNRECORDED), validated.sources(), options.seed)
        campaign = _measure(validated, run, silent)
    validation = validate(validated.table, campaign.accepted, validated.table.batch)
    if validation is None:
        raise TableError("no two networks of this space could be run; see the journal in --out")
    before = validated.table.sidecar.measurement.environment
    now = as_kind(campaign.environment, Environment, "the environment", error=TargetError)
    remark = version_remark(before, now)
    answer = _answer(validated, campaign, validation, remark)
    write_json(run.path("validation.json"), answer)
    if options.save:
        _save(validated.table, validated.path, validation)
    return ValidatedTable(validated.path, run.folder, validation, remark)


def look_up(options: ValidationOptions) -> ValidationRun:
    """Return the validation that `options` describe.

    Raises UserError for whatever they name wrongly; nothing is written.
    """
    options.check()
    path = _path_of_table(options)
    table = load_table(path)
    _check_table(options, table, path)
    space = space_of_table(options, table)
    setting = setting_of(table, cpus=options.cpus, benchmark_model=options.benchmark_model)
    host = get_host(options.target, python=None if options.target == "local" else options.python)
    check_host(host, setting)
    official = official_of(space)
    networks = stratified(
        space,
        lambda arch: table.network_ms(blocks_of(arch)),
        options.networks,
        options.seed,
        exclude=[*official, *fitted_networks(table)],
    )
    if len(networks) < 2:
        raise SpaceError(
            f"space {space.name} has {len(networks)} networks that the table has not seen, and 2 "
            "are needed; freeze less, or name another --space"
        )
    check_whole(table, networks)
    references = references_alike(table, official, networks)
    return ValidationRun(options, table, path, host, setting, tuple(networks), references)


def space_of_table(options: ValidationOptions, table: Table) -> Space:
    """Return the space that the options name, by default the one that the table was measured for.

    Raises SpaceError and the like for what is none.
    """
    flags = table.sidecar.space_flags or SpaceFlags()
    task = check_task(options.task or flags.task or "classification")
    dataset = options.dataset or (flags.dataset if options.task is None else None)
    own = options.space is None or options.space == flags.space
    return get_space(
        options.space or flags.space or DEFAULT_SPACE,
        task=task,
        dataset=dataset_of(task, dataset),
        freeze=options.freeze or (tuple(flags.freeze or ()) if own else ()),
        num_classes=flags.num_classes,
    )


def _path_of_table(options: ValidationOptions) -> Path:
    if options.table is not None:
        return options.table
    if len(options.device) != 1:
        raise DeviceError("give one --device NAME[:runtime[:precision]], or --table FILE")
    device = get_device(options.device[0])
    task = check_task(options.task or "classification")
    return find_table(device, device.batch_for(dataset_of(task, options.dataset)))


def _check_table(options: ValidationOptions, table: Table, path: Path) -> None:
    """Raise TableError for another device's table, and for a shipped one to write to."""
    if options.table is not None and options.device:
        name, runtime, precision = split_spec(options.device[0])
        asked = ((name, table.device), (runtime, table.runtime), (precision, table.precision))
        if any(part not in (None, own) for part, own in asked):
            raise TableError(f"{path} is of {table.device}:{table.runtime}:{table.precision}")
    if options.save and path.resolve().is_relative_to(SHIPPED.resolve()):
        raise TableError(f"{path} is shipped and never written to; copy it and give it by --table")


def _measure(validated: ValidationRun, run: Run, silent: bool) -> Campaign:
    options = validated.options
    bar = progress(options.passes, silent=silent, label="measuring", unit="passes")
    with bar as show:
        campaign = Campaign(
            validated.host,
            validated.setting,
            validated.references,
            Journal(run.path(JOURNAL)),
            passes=options.passes,
            seed=options.seed,
        )
        campaign.on_progress = lambda: show(max(len(m.passes) for m in campaign.measured))
        campaign.measure(NETWORKS, validated.networks)
    return campaign


def _answer(
    validated: ValidationRun, campaign: Campaign, validation: Validation, remark: str
) -> dict[str, Any]:
    """Return what validation.json holds: errors, and every network's times."""
    chunk = next(m for m in campaign.accepted if m.chunk.content)
    of_references = zip(validated.references, chunk.reference_us(), strict=True)
    loads = [load for m in campaign.accepted for load in m.loads]
    columns = zip(
        validation.archs,
        validation.measured_ms,
        validation.predicted_ms,
        validation.scaled_ms,
        strict=True,
    )
    return {
        **validation.to_dict(),
        "environment": campaign.environment,
        "remark": remark,
        "load": [min(loads), max(loads)] if loads else None,
        "references": [
            {"arch": arch.to_dict(), "measured_ms": us * 1e-3 / validated.table.batch}
            for arch, us in of_references
        ],
        "networks": [
            {"arch": arch.to_dict(), "measured_ms": ms, "predicted_ms": raw, "scaled_ms": scaled}
            for arch, ms, raw, scaled in columns
        ],
    }


def _save(table: Table, path: Path, validation: Validation) -> None:
    """Write the errors into a table's sidecar."""
    sidecar = table.sidecar.having(validation=validation.to_dict(), error=validation.error())
    replace(table, sidecar=sidecar).save(path)
