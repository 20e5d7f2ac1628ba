"""Measure random networks on a device and hold a latency table against them.

python -m lut.validate --device mydevice --networks 60
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from results.console import main as console_main
from results.console import terminal
from results.errors import ArchError, DeviceError, SpaceError, TableError, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lut.measuring.assemble import Validation
    from lut.table import Table
    from supernet.arch import Arch
    from supernet.space import Space


@dataclass(frozen=True)
class Validate:
    """Measure random networks on a device and hold its latency table against them."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]] of the table."""
    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    target: str = "local"
    """Where to measure: local, ssh://[user@]host[:port], adb:SERIAL or adb."""
    cpus: str = ""
    """CPUs to keep to, as 4,5,6; by default those that the table was measured on."""
    benchmark_model: str = ""
    """Path of TensorFlow Lite's benchmark_model on the target, where the table was measured with
    one elsewhere than usual; a table's own word for what to run is not taken."""
    networks: int = 60
    """How many, spread evenly over the logarithm of their latency."""
    task: str | None = None
    """Task of the networks; by default what the table was measured for, else classification."""
    dataset: str | None = None
    """Data set whose resolutions and heads count, as in nas.search."""
    space: str | None = None
    """Space of the networks; by default the table's own, else family."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    passes: int = 20
    """Passes over all networks, after two that are dropped."""
    seed: int = 1000
    """Of the networks and the order of passes; a build takes its networks from its own seed."""
    out: Path | None = None
    """Run folder; by default results/runs/validate-DEVICE-TIME."""
    save: bool = False
    """Write the errors into the table's sidecar."""
    python: str = "python3"
    """Interpreter on an ssh target, which must have the runtime."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        from lut.device import SHIPPED, find_table, get_device, split_spec
        from lut.table import load_table
        from supernet.official import check_task, dataset_of

        if self.networks < 2 or self.passes < 5 or self.seed < 0:
            raise DeviceError("--networks must be 2 or more, --passes 5, --seed 0")
        if self.table is None:
            if len(self.device) != 1:
                raise DeviceError("give one --device NAME[:runtime[:precision]], or --table FILE")
            device = get_device(self.device[0])
            task = check_task(self.task or "classification")
            path = find_table(device, device.batch_for(dataset_of(task, self.dataset)))
        else:
            path = self.table
        table = load_table(path)
        if self.table is not None and self.device:
            name, runtime, precision = split_spec(self.device[0])
            asked = ((name, table.device), (runtime, table.runtime), (precision, table.precision))
            if any(part not in (None, own) for part, own in asked):
                raise TableError(f"{path} is of {table.device}:{table.runtime}:{table.precision}")
        if self.save and path.resolve().is_relative_to(SHIPPED.resolve()):
            raise TableError(
                f"{path} is shipped and never written to; copy it and give it by --table"
            )
        space = self._space(table)
        found, folder, remark = self._measure(table, space)
        if self.save:
            _save(table, path, found)
        if self.json:
            told = {"table": str(path), "run": str(folder), **found.to_dict(), "remark": remark}
            print(json.dumps(told))
        elif not self.quiet:
            from lut.measuring.report import print_validation

            console = terminal(width=120)
            print_validation(console, found)
            if remark:
                console.print(remark, soft_wrap=True)
            console.print(f"wrote {folder / 'validation.json'}", soft_wrap=True)

    def _space(self, table: "Table") -> "Space":
        """The space that the flags name, by default the one that the table was measured for."""
        from lut.sidecar import SpaceFlags
        from supernet.official import check_task, dataset_of
        from supernet.spaces import get_space

        flags = table.sidecar.space_flags or SpaceFlags()
        task = check_task(self.task or flags.task or "classification")
        dataset = self.dataset or (flags.dataset if self.task is None else None)
        own = self.space is None or self.space == flags.space
        freeze = self.freeze or (tuple(flags.freeze or ()) if own else ())
        name = self.space or flags.space or "family"
        return get_space(
            name,
            task=task,
            dataset=dataset_of(task, dataset),
            freeze=freeze,
            num_classes=flags.num_classes,
        )

    def _measure(self, table: "Table", space: "Space") -> "tuple[Validation, Path, str]":
        """What was found, where it is written to, and a remark on the runtime's version.

        Raises UserError before a run folder is made where nothing can be measured.
        """
        from lut.measuring.assemble import validate
        from lut.measuring.campaign import Campaign
        from lut.measuring.chunks import NETWORKS, references_of, wide_references_of
        from lut.measuring.journal import JOURNAL, Journal
        from lut.measuring.plan import stratified
        from lut.runtimes.session import Setting, check_host
        from lut.runtimes.versions import version_remark
        from lut.sidecar import Environment
        from lut.targets.choose import get_host
        from results.files import write_json
        from results.progress import progress
        from results.reading import as_kind
        from results.record import RunRecord
        from results.resume import flags_of
        from results.runs import RECORD, create_run_folder, locked
        from supernet.blocks import blocks_of

        told = table.sidecar.measurement.environment
        setting = Setting(
            table.runtime,
            table.precision,
            table.threads or 1,
            table.batch,
            self.cpus or ",".join(map(str, told.cpus or ())),
            told.provider or "",
            self.benchmark_model,
        )
        host = get_host(self.target, python=None if self.target == "local" else self.python)
        check_host(host, setting)
        official = dict.fromkeys((*references_of(space), *wide_references_of(space)))
        chosen = stratified(
            space,
            lambda arch: table.network_ms(blocks_of(arch)),
            self.networks,
            self.seed,
            exclude=[*official, *_networks_of(table)],
        )
        if len(chosen) < 2:
            raise SpaceError(
                f"space {space.name} has {len(chosen)} networks that the table has not seen, and 2 "
                "are needed; freeze less, or name another --space"
            )
        references = _alike(table, list(official), chosen)
        sources = {"target": host.facts(), "table": str(table.path), "sha256": table.sha256}
        settings = flags_of(self, ("out", "json", "quiet"))
        record = RunRecord("lut.validate", settings, sources, self.seed)
        folder = create_run_folder(self.out, f"validate-{table.device}", resumes=False)
        silent = self.json or self.quiet
        bar = progress(self.passes, silent=silent, label="measuring", unit="passes")
        again = "nothing but the journal was written; validate again with another --out"
        with locked(folder, again), bar as show:
            write_json(folder / RECORD, record.to_dict())
            campaign = Campaign(
                host,
                setting,
                references,
                Journal(folder / JOURNAL),
                passes=self.passes,
                seed=self.seed,
            )
            campaign.on_progress = lambda _: show(max(len(m.passes) for m in campaign.measured))
            campaign.measure(NETWORKS, chosen)
        found = validate(table, campaign.accepted, table.batch)
        if found is None:
            raise TableError("no two networks of this space could be run; see the journal in --out")
        rows = [
            {"arch": arch.to_dict(), "measured_ms": ms, "predicted_ms": raw, "scaled_ms": scaled}
            for arch, ms, raw, scaled in zip(
                found.archs, found.measured_ms, found.predicted_ms, found.scaled_ms, strict=True
            )
        ]
        chunk = next(m for m in campaign.accepted if m.chunk.content)
        of_references = zip(references, chunk.reference_us(), strict=True)
        loads = [load for m in campaign.accepted for load in m.loads]
        now = as_kind(campaign.environment, Environment, "the environment", error=TargetError)
        remark = version_remark(told, now)
        write_json(
            folder / "validation.json",
            {
                **found.to_dict(),
                "environment": campaign.environment,
                "remark": remark,
                "load": [min(loads), max(loads)] if loads else None,
                "references": [
                    {"arch": arch.to_dict(), "measured_ms": us * 1e-3 / table.batch}
                    for arch, us in of_references
                ],
                "networks": rows,
            },
        )
        return found, folder, remark


def _networks_of(table: "Table") -> "list[Arch]":
    """Networks that a table was fitted to. Raises TableError where the sidecar is damaged."""
    from supernet.arch import Arch

    try:
        return [Arch.from_dict(row.arch) for row in table.sidecar.measurement.networks]
    except ArchError as error:
        raise TableError(
            f"the .json beside {table.path} is damaged where it tells what was measured: {error}"
        ) from None


def _alike(table: "Table", official: list["Arch"], chosen: "Sequence[Arch]") -> tuple["Arch", ...]:
    """References for a session's scale: no smaller and no larger than what it shall scale.

    A machine can be slower for networks that wait for memory and faster for all others; the
    cheapest official networks do the former, random ones hardly. All that the table can tell,
    where fewer than four are alike.
    """
    from supernet.blocks import blocks_of

    told = {
        arch: table.network_ms(blocks_of(arch))
        for arch in official
        if table.roofline or all(block in table.entries for block in blocks_of(arch))
    }
    of_chosen = [table.network_ms(blocks_of(arch)) for arch in chosen]
    alike = [arch for arch, ms in told.items() if min(of_chosen) <= ms <= max(of_chosen)]
    return tuple(alike if len(alike) >= 4 else told or official)


def _save(table: "Table", path: Path, found: "Validation") -> None:
    sidecar = table.sidecar.having(validation=found.to_dict(), error=found.error())
    replace(table, sidecar=sidecar).save(path)


def main() -> None:
    console_main(Validate, "lut.validate")


if __name__ == "__main__":
    main()
