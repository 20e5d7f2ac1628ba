"""A verification: networks measured as their table was, beside what it predicts.

from nas.verifying.figures import figures_of, networks_with
from nas.verifying.options import VerifyOptions
from nas.verifying.run import verify

verify(VerifyOptions(folder="results/runs/mine", networks=30)).promise.holds
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lut.calibration.run import CalibrationResult
from lut.measuring.campaign import Campaign
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.networks import (
    FACTS,
    MachineState,
    check_machine,
    check_whole,
    copies_of,
    fitted_networks,
    measure_networks,
    official_of,
    references_alike,
    refused_by,
    setting_of,
    state_of,
    target_of,
    times_of,
)
from lut.measuring.samples import LOW_SHARE
from lut.runtimes.session import Driver, Setting, check_host
from lut.runtimes.versions import version_remark
from lut.sidecar import Environment
from lut.targets.choose import get_host
from lut.targets.host import Host
from nas.verifying.choose import Choice, choose
from nas.verifying.figures import figures_of, networks_with
from nas.verifying.options import PASSES, VerifyOptions
from nas.verifying.picture import write_picture
from nas.verifying.recalibrate import recalibrate
from nas.verifying.rows import Row, rows_of, write_sheet
from nas.verifying.verdict import Promise, judge
from results.errors import RunError, TableError, TargetError
from results.files import write_json
from results.progress import progress
from results.reading import as_kind, read_json
from results.record import command_line, commit, now, versions
from results.resume import flags_of
from results.runs import RECORD, create_run_folder, locked, open_run, own_path, read_record
from supernet.arch import Arch

COMMAND = "nas.verify"
UNRECORDED = ("folder", "out", "again", "recalibrate")  # options that are no part of what is done
SETTINGS, POINTS = "settings.json", "points.csv"
MEASURED = "verify"  # the folder of what was measured, in that of the run


@dataclass(frozen=True)
class Prepared:
    """A verification with everything looked up that its options name."""

    options: VerifyOptions
    choice: Choice
    host: Host
    setting: Setting
    driver: Driver
    facts: dict[str, Any]  # of the machine
    references: tuple[Arch, ...]
    passes: int

    @property
    def name(self) -> str:
        """Return what files are called: verified, of one of several devices verified-DEVICE."""
        return f"verified-{self.choice.label}" if self.choice.label else "verified"

    def workspace(self, folder: Path) -> Path:
        """Return the folder of what was measured. Raises RunError for a link out of the run."""
        label = self.choice.label
        return own_path(folder, f"{MEASURED}-{label}" if label else MEASURED)

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides what is measured: only the same is gone on with."""
        settings = {
            "table": self.choice.latency.table.sha256,
            "machine": {name: self.facts.get(name) for name in FACTS},
            "setting": self.setting.to_dict(),
            "networks": [arch.to_dict() for arch in self.choice.archs],
            "references": [arch.to_dict() for arch in self.references],
            "passes": self.passes,
            "seed": self.options.seed,
        }
        return dict(json.loads(json.dumps(settings)))


@dataclass(frozen=True)
class Verified:
    """A verification that ended, and where its files are."""

    folder: Path
    name: str  # of the files, without their endings
    choice: Choice
    rows: tuple[Row, ...]
    promise: Promise
    state: MachineState
    remark: str  # on the runtime's version; "" where it is that of the table
    recalibrated: CalibrationResult | None = None  # None: not asked for

    def path(self, ending: str) -> Path:
        """Return the path of one of the files. Raises RunError for a link out of the folder."""
        return own_path(self.folder, self.name + ending)

    @property
    def judged(self) -> tuple[Row, ...]:
        """Return the networks that the promise is about, as far as they ran."""
        return tuple(row for row in self.rows if row.is_judged and row.time is not None)

    @property
    def num_non_dominated(self) -> int | None:
        """Return how many of these no measured network beats; None without accuracies."""
        marks = [row.non_dominated for row in self.judged]
        return None if None in marks else sum(map(bool, marks))

    @property
    def failed(self) -> tuple[Row, ...]:
        """Return the networks that the runtime would not run."""
        return tuple(row for row in self.rows if row.time is None)

    @property
    def holds(self) -> bool:
        """Tell whether the promise held, and every network that it is about ran."""
        return self.promise.holds and not any(row.is_judged for row in self.failed)


def verify(options: VerifyOptions, *, silent: bool = True) -> Verified:
    """Measure networks, and write verified.csv, verified.png and verified.json.

    What is measured is kept in a journal as it comes; the same call goes on from it, and reads it
    alone where all is measured.

    Args:
        options: see there.
        silent: show no progress on stderr.

    Raises UserError before anything is written where `options` name something wrongly; TargetError
    where the machine is lost or is not that of the table; TableError where no network runs there;
    RunError where a folder is in use or damaged, or holds something else.
    """
    prepared = look_up(options)
    with _folder(prepared) as folder:
        campaign = _measure(prepared, folder, silent)
        verified = _conclude(prepared, campaign, folder, silent)
        if options.recalibrate is not None:
            points = prepared.workspace(folder) / POINTS
            table = prepared.choice.latency.table
            result = recalibrate(options.recalibrate, table, verified.rows, points)
            verified = replace(verified, recalibrated=result)
            write_json(verified.path(".json"), _summary(prepared, campaign, verified))
        return verified


def look_up(options: VerifyOptions) -> Prepared:
    """Return the verification that `options` describe. Raises UserError; nothing is written."""
    options.check()
    choice = choose(options)
    table = choice.latency.table
    check_whole(table, choice.archs)
    target = target_of(table, options.target)
    setting = setting_of(table, cpus=options.cpus, benchmark_model=options.benchmark_model)
    if options.weights is not None:
        networks_with(options.weights, choice.archs)  # refuses those of others now
    fitted_networks(table)  # refuses a damaged sidecar now, and not after an hour
    host = get_host(target, python=None if target == "local" else options.python)
    facts = host.facts()
    check_machine(table, facts)
    driver = check_host(host, setting)
    passes = options.passes or (PASSES if driver.kind == "timer" else driver.passes)
    references = references_alike(table, official_of(choice.space), choice.archs)
    return Prepared(options, choice, host, setting, driver, facts, references, passes)


@contextmanager
def _folder(prepared: Prepared) -> Iterator[Path]:
    """Hold the run, or the folder of networks that were named, which may be gone on with."""
    options = prepared.options
    if options.folder is not None:
        with locked(options.folder, "what was measured is kept; the same command goes on"):
            yield options.folder
        return
    out, resume = options.out, None
    if out is not None and (out / RECORD).is_file():
        read_record(out, COMMAND)
        out, resume = None, out
    if out is None and resume is None:
        out = create_run_folder(None, f"verify-{prepared.choice.latency.table.device}")
    again = f"what was measured is kept; go on by the same command with --out {resume or out}"
    with open_run(COMMAND, out, "", resume=resume, interrupted=again) as run:
        if run.is_new:
            sources = {"latency": prepared.choice.latency.provenance, "target": prepared.facts}
            run.record(flags_of(options, UNRECORDED), sources, options.seed)
        yield run.folder


def _measure(prepared: Prepared, folder: Path, silent: bool) -> Campaign:
    """Return a campaign that has measured all; what an earlier one has is not measured again."""
    own = prepared.workspace(folder)
    if prepared.options.again and own.is_dir():
        shutil.rmtree(own)
    try:
        own.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {own}: {error.strerror}") from None
    _check_settings(prepared, own)
    archs = prepared.choice.archs
    with progress(len(archs), silent=silent, label="measuring", unit="networks") as show:
        campaign = Campaign(
            prepared.host,
            prepared.setting,
            prepared.references,
            Journal(own / JOURNAL, ", nothing is lost, the same command goes on"),
            passes=prepared.passes,
            seed=prepared.options.seed,
        )
        campaign.on_progress = lambda: show(_done(campaign))
        memory_mb = float(prepared.facts.get("memory_mb") or "inf")
        try:
            measure_networks(campaign, archs, prepared.driver, memory_mb)
        except TargetError as error:
            kept = "what was measured is kept, the same command goes on"
            raise TargetError(f"{error}; {kept}") from None
    return campaign


def _done(campaign: Campaign) -> float:
    """Return how many networks are measured, by passes."""
    counted = [m for m in campaign.measured if m.verdict in ("", "accepted")]
    return sum(
        len(set(m.chunk.content)) * len(m.passes) / campaign.passes
        for m in counted
        if m.chunk.content
    )


def _check_settings(prepared: Prepared, own: Path) -> None:
    """Write what is measured beside the journal. Raises RunError where that is of something else.

    A journal without it was never begun: the settings are written first.
    """
    path = own_path(own, SETTINGS)
    if not path.exists():
        if (own / JOURNAL).exists():
            raise RunError(f"{own} has lost its {SETTINGS}; add --again to measure anew")
        write_json(path, prepared.settings)
        return
    before = read_json(path, dict[str, Any])
    for name, wanted in prepared.settings.items():
        if before.get(name) != wanted:
            raise RunError(
                f"{own} was measured with another {name.removesuffix('s')}; repeat the command as "
                "it was, or add --again to measure anew"
            )


def _conclude(prepared: Prepared, campaign: Campaign, folder: Path, silent: bool) -> Verified:
    """Write the files of a verification: the numbers first, the summary last."""
    choice, table = prepared.choice, prepared.choice.latency.table
    times, refused = times_of(campaign), refused_by(campaign)
    rows = rows_of(choice, times, refused)
    points = [row.point for row in rows if row.point is not None and row.is_judged]
    if not points:
        reasons = "; ".join(dict.fromkeys(refused.values())) or "see the journal"
        raise TableError(f"none of these networks runs on {table.device}: {reasons[:300]}")
    error = table.sidecar.error
    promise = judge(points, error.mape_percent, error.relative_std)
    state = state_of(campaign, table)
    environment = as_kind(campaign.environment, Environment, "the environment", error=TargetError)
    remark = version_remark(table.sidecar.measurement.environment, environment)
    figures = figures_of(prepared.options, choice.archs, prepared.workspace(folder), silent=silent)
    rows = tuple(replace(row, figure=figures.get(row.chosen.candidate.arch)) for row in rows)
    verified = Verified(folder, prepared.name, choice, rows, promise, state, remark)
    write_sheet(rows, choice, verified.path(".csv"))
    write_json(verified.path(".json"), _summary(prepared, campaign, verified))
    return verified


def draw(verified: Verified) -> None:
    """Write verified.png. Raises RunError and PictureError."""
    rows, choice = verified.rows, verified.choice
    write_picture(rows, choice, verified.promise, verified.path(".png"))


def _summary(prepared: Prepared, campaign: Campaign, verified: Verified) -> dict[str, Any]:
    """Return what verified.json holds."""
    choice, table, state = verified.choice, verified.choice.latency.table, verified.state
    result = verified.recalibrated
    return {
        "holds": verified.holds,
        "error_holds": verified.promise.error_holds,
        "order_holds": verified.promise.order_holds,
        "promise": asdict(verified.promise),
        "front": {
            "networks": choice.num_front,
            "measured": len(verified.judged),
            "non_dominated": verified.num_non_dominated,
        },
        "failed": {row.chosen.id: row.reason for row in verified.failed},
        "machine_state": asdict(state) | {"troubles": list(state.troubles)},
        "remark": verified.remark,
        "device": table.device,
        "latency": choice.latency.provenance,
        "target": {"kind": prepared.host.name.partition(":")[0], **prepared.facts},
        "environment": campaign.environment,
        "protocol": {
            "statistic": f"mean of the lowest {100 * LOW_SHARE:.0f} % of the samples",
            "passes": prepared.passes,
            "copies": copies_of(prepared.driver),
            "references": [arch.describe() for arch in prepared.references],
            "seconds": round(campaign.seconds, 1),
        },
        "recalibrated": None if result is None else _told(result),
        "command_line": command_line(COMMAND),
        "date": now().isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
    }


def _told(result: CalibrationResult) -> dict[str, Any]:
    """Return what is told of a recalibrated table; its error is of networks left out of the fit."""
    summary = result.calibration.summary
    return {
        "device": result.device.name,
        "tables": [str(path) for path in result.tables],
        "left_out_mape_percent": summary.mape_percent,
        "left_out_worst_percent": summary.worst_percent,
    }
