"""A build with everything looked up that its flags name: measuring, assembling, saving."""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lut.device import Device, tables_of, user_data_dir
from lut.interpolate import Interpolator
from lut.measuring.assemble import (
    Validation,
    chunk_scales,
    complete,
    differences,
    entries_of,
    interpolator_of,
    network_points,
    reference_us,
    validate,
)
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import (
    BLOCKS,
    MOST_BYTES,
    MOST_SHARE,
    NETWORKS,
    REFERENCES,
    TERMS,
    distinct,
    references_of,
    split,
)
from lut.measuring.context import Context, fit_context
from lut.measuring.coverage import distinct_blocks
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.plan import corners, rounds_of, stratified
from lut.measuring.probes import difference_of
from lut.measuring.samples import LOW_SHARE, QUANTILES
from lut.runtimes.session import Driver, Setting, check_host
from lut.sidecar import Sidecar
from lut.table import Entry, Table, load_table
from lut.targets.choose import get_host
from results.errors import DeviceError, RunError, TableError
from results.files import write_bytes, write_json
from results.progress import progress
from results.record import RunRecord, command_line, now
from results.runs import RECORD
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of
from supernet.cost import network_cost
from supernet.official import check_task, dataset_of
from supernet.space import Space
from supernet.spaces import get_space

if TYPE_CHECKING:
    from lut.build import Build
    from lut.targets.host import Host

MOST_MEASURED = 8000  # blocks, where no budget says otherwise
USUAL_ROUNDS = 3.0  # of a block, where some are measured oftener than others
FIRST = 400  # blocks that a budget's first chunk covers the space with
FITTED_NETWORKS = 32  # beside the references, for what blocks cost in a network
WARM_UP = 8  # passes' time that loading includes: the first three are two to three times slower
PROBE_LOAD = 0.1  # of the time to build and load a network: that of a probe, about
FITTING_S = 5.0  # an interpolator's fit, about
STARTING_S = 4.0  # until a build measures, and from its last network to its table
FIRST_SHARE = 0.35  # of a budget, for the first chunk at most
FEWEST = 50  # blocks that are worth a chunk
MACHINE = ("machine", "model", "soc", "cpu")  # facts that never change: phones switch CPUs off
PROTOCOL = 2  # what a chunk is made of; a journal of another one is not gone on with


@dataclass
class Work:
    """One build."""

    command: "Build"
    device: Device
    host: "Host"
    setting: Setting
    space: Space
    blocks: list[Block]
    references: tuple[Arch, ...]
    facts: dict[str, Any]
    driver: Driver
    folder: Path | None = None
    campaign: Campaign | None = None
    timings: float = 1.0  # of blocks, in all rounds, that are planned

    @classmethod
    def of(cls, command: "Build", device: Device, facts: dict[str, Any] | None) -> "Work":
        """Raises UserError for whatever the flags name wrongly, before anything is written."""
        if command.budget is not None:
            parse_budget_s(command.budget)
        task = check_task(command.task)
        space = get_space(
            command.space,
            task=task,
            dataset=dataset_of(task, command.dataset),
            freeze=command.freeze,
            num_classes=command.num_classes,
        )
        setting = Setting(
            device.runtime,
            device.precision,
            command.threads,
            command.batch,
            command.cpus,
            command.provider,
            command.benchmark_model,
            command.energy,
        )
        if command.out is None:
            check_one_setting(device, command.threads, command.batch)
        host = get_host(command.target, python=_python(command))
        driver = check_host(host, setting)
        found = host.facts()
        if facts is not None:
            check_same_machine(facts, found)
        facts = found if facts is None else facts
        if command.title is None and device.title == device.name:
            title = _computer(facts, setting) or device.name
            device = replace(device, title=str(title))
        references = references_of(space)
        of_references = [block for arch in references for block in blocks_of(arch)]
        blocks = distinct([*distinct_blocks(space), *of_references])
        return cls(command, device, host, setting, space, blocks, references, facts, driver)

    @property
    def passes(self) -> int:
        return self.command.passes or self.driver.passes

    def record(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write run.json, with the flags that matter: from here on the build can be resumed."""
        sources = {"target": self.facts, "space": self.space.to_dict(), "protocol": PROTOCOL}
        record = RunRecord("lut.build", settings, sources, self.command.seed).to_dict()
        write_json(folder / RECORD, record | {"command_line": command_line("lut.build")})

    def measure(self, folder: Path, *, silent: bool) -> tuple[Table, Validation | None]:
        """All that is not in the journal yet, then the table. Raises TargetError and RunError."""
        self.folder = folder
        budget_s = parse_budget_s(self.command.budget) if self.command.budget else None
        with progress(
            budget_s or 100, silent=silent, label="measuring", unit="s" if budget_s else "%"
        ) as show:
            campaign = Campaign(
                self.host,
                self.setting,
                self.references,
                Journal(folder / JOURNAL, f", nothing is lost, go on with --resume {folder}"),
                passes=self.passes,
                seed=self.command.seed,
            )
            self.campaign = campaign
            campaign.on_progress = self._reporter(campaign, budget_s, show)
            campaign.start()
            if budget_s is None:
                self._measure_all(campaign)
            else:
                self._measure_within(campaign, budget_s)
            if budget_s is None and not _has_terms(campaign):
                campaign.recheck()
            entries = complete(_measured(campaign), self.blocks)
            self._measure_networks(campaign, entries)
        return self._table(campaign, entries)

    def _measure_all(self, campaign: Campaign) -> None:
        """Every block, or the most telling ones where they are too many."""
        if _has_terms(campaign):
            return  # later samples would change the rounds that blocks are given
        wanted = self.blocks
        if len(wanted) > MOST_MEASURED:
            wanted = corners(wanted, MOST_MEASURED)
        first, most = self.driver.rounds, self.driver.most_rounds
        rounds = dict.fromkeys(wanted, first)
        self.timings = len(wanted) * (first if most == first else USUAL_ROUNDS)
        for number in range(1, most + 1):
            if number == first + 1:
                entries = complete(_measured(campaign), self.blocks)
                ms = {block: entry.latency_ms for block, entry in entries.items()}
                oftener = rounds_of(self.space, ms, first, most)
                rounds = {block: oftener[block] for block in wanted}
                self.timings = sum(rounds.values())
            times = campaign.times_done()
            left = [block for block in wanted if times[block] < min(number, rounds[block])]
            for content in self._split(left, self.command.seed + number):
                campaign.measure(BLOCKS, content)

    def _measure_within(self, campaign: Campaign, budget_s: float) -> None:
        """First what covers the space, then where the interpolator is least sure."""
        began = time.monotonic() - campaign.seconds
        while True:
            known = set(campaign.times_done())
            left = [block for block in self.blocks if block not in known]
            if not left:
                return
            if known:
                rate = campaign.seconds / len(known)  # seconds a block
                ahead = self._seconds_for_networks(campaign) + 2 * FITTING_S + STARTING_S
                ahead += self._seconds_for_references(campaign)
                rest = budget_s - (time.monotonic() - began) - ahead
                count = min(int(rest / rate), 3 * max(len(known), FIRST))
                if count < FEWEST:
                    return
            else:
                count = int(FIRST_SHARE * budget_s / self._seconds_a_block(campaign))
                count = min(max(count, FEWEST), FIRST)
            if known:
                chosen = self._interpolator(campaign).most_uncertain(left, min(count, len(left)))
            else:
                chosen = corners(left, count)
            for content in self._split(chosen, len(known)):
                campaign.measure(BLOCKS, content)

    def _seconds_for_networks(self, campaign: Campaign) -> float:
        """A guess, by the MACs of networks that are spread over the logarithm of theirs."""
        count = FITTED_NETWORKS // 2 + self.command.networks
        rng = random.Random(0)
        macs = [network_cost(blocks_of(self.space.sample(rng))).macs for _ in range(200)]
        low, high = min(macs), max(macs)
        mean = (high - low) / math.log(high / low) if high > low else low
        runs_us = count * mean * self._us_per_mac(campaign)
        runs_s = 1e-6 * runs_us * self._passes_in_all + count * self._load_s(campaign)
        return runs_s + 2 * self._seconds_for_references(campaign)

    def _seconds_for_references(self, campaign: Campaign) -> float:
        """In every chunk."""
        runs_s = 1e-6 * REFERENCES * float(reference_us(campaign).sum()) * self._passes_in_all
        return runs_s + len(self.references) * self._load_s(campaign)

    @property
    def _passes_in_all(self) -> int:
        return self.passes + (WARM_UP if self.driver.kind == "timer" else 0)

    def _us_per_mac(self, campaign: Campaign) -> float:
        macs = sum(network_cost(blocks_of(arch)).macs for arch in self.references)
        return float(reference_us(campaign).sum()) / macs

    def _load_s(self, campaign: Campaign) -> float:
        """Building and loading a network, as the references alone took at the start."""
        warm_up_s = 1e-6 * REFERENCES * float(reference_us(campaign).sum()) * WARM_UP
        loading_s = campaign.measured[0].loading_s
        return max(loading_s - warm_up_s, loading_s / 2) / len(self.references)

    def _seconds_a_block(self, campaign: Campaign) -> float:
        """A guess before any block was measured: by MACs, from the references' times."""
        some = random.Random(0).sample(self.blocks, min(len(self.blocks), 200))
        probes = [d.probe for block in some if (d := difference_of(block))]
        mean_macs = sum(network_cost(probe).macs for probe in probes) / len(probes)
        runs_s = 1e-6 * self._us_per_mac(campaign) * mean_macs * self._passes_in_all
        return 2 * (PROBE_LOAD * self._load_s(campaign) + runs_s)

    def _reporter(
        self, campaign: Campaign, budget_s: float | None, show: Callable[[float], None]
    ) -> Callable[[int], None]:
        """What shows the progress after every pass; passes of rejected chunks do not count."""

        def report(passes: int) -> None:
            if budget_s is not None:
                show(campaign.seconds)
                return
            counted = [
                m
                for m in campaign.measured
                if m.chunk.role == BLOCKS and m.verdict in ("", "accepted")
            ]
            done = sum(len(m.passes) * len(m.chunk.content) for m in counted)
            show(100 * done / (self.passes * self.timings))

        return report

    def _split(self, blocks: list[Block], seed: int) -> list[list[Block]]:
        return split(
            blocks,
            self.setting.precision,
            batch=self.setting.batch,
            seed=seed,
            most=self.driver.most_models,
            most_bytes=min(MOST_BYTES, MOST_SHARE * 1e6 * self.facts.get("memory_mb", math.inf)),
        )

    def _interpolator(self, campaign: Campaign) -> Interpolator:
        return interpolator_of(_measured(campaign))

    def _measure_networks(self, campaign: Campaign, entries: dict[Block, Entry]) -> None:
        def predict_ms(arch: Arch) -> float:
            return sum(entries[block].latency_ms for block in blocks_of(arch))

        seed = self.command.seed
        count = FITTED_NETWORKS if self.command.budget is None else FITTED_NETWORKS // 2
        of_terms = (m for m in campaign.accepted if m.chunk.role == TERMS)
        fitted = [arch for measured in of_terms for arch in measured.chunk.content]
        if not fitted:
            fitted = stratified(self.space, predict_ms, count, seed + 2, self.references)
        others = (*self.references, *fitted)
        held_out = stratified(self.space, predict_ms, self.command.networks, seed + 1, others)
        for role, archs in ((TERMS, fitted), (NETWORKS, held_out)):
            done = any(m.chunk.role == role and m.chunk.content for m in campaign.accepted)
            if archs and not done:
                campaign.measure(role, archs)

    def _table(
        self, campaign: Campaign, entries: dict[Block, Entry]
    ) -> tuple[Table, Validation | None]:
        points = network_points(campaign)
        networks = [blocks_of(arch) for arch in points]
        batch = self.setting.batch
        context = fit_context(entries, networks, list(points.values()), batch)
        entries = context.apply(entries)
        table = Table(
            device=self.device.name,
            title=self.device.title,
            runtime=self.setting.runtime,
            precision=self.setting.precision,
            batch=self.setting.batch,
            threads=self.setting.threads,
            entries=entries,
            terms=context.terms,
        )
        validation = None
        error: dict[str, Any] = {}
        if self.command.networks:
            validation = validate(table, campaign.accepted, self.setting.batch)
            error = validation.error() if validation else {}
        sidecar = {
            "note": "",
            "error": error,
            "validation": validation.to_dict() if validation else None,
            "space_flags": {
                "task": self.command.task,
                "dataset": self.command.dataset,
                "space": self.command.space,
                "freeze": list(self.command.freeze),
                "num_classes": self.command.num_classes,
            },
            "measurement": self._provenance(campaign, entries, points, context),
        }
        return replace(table, sidecar=Sidecar.of(sidecar)), validation

    def _provenance(
        self,
        campaign: Campaign,
        entries: dict[Block, Entry],
        points: dict[Arch, float],
        context: Context,
    ) -> dict[str, Any]:
        loads = [load for m in campaign.accepted for load in m.loads]
        warmth = [c for m in campaign.accepted for c in m.temperatures_c]
        measured = sum(entry.provenance == "measured" for entry in entries.values())
        scales = chunk_scales(campaign).values()
        return {
            "date": now().isoformat(timespec="seconds"),
            "target": {"kind": self.command.target.partition(":")[0], **self.facts},
            "environment": campaign.environment,
            "protocol": {
                "method": f"in context, by difference, {_manner(self.driver)}",
                "statistic": f"mean of the lowest {100 * LOW_SHARE:.0f} % of the samples",
                "passes": self.passes,
                "dropped_passes": 2 if self.driver.kind == "timer" else 0,
                "chunks": len(campaign.accepted),
                "rejected_chunks": sum(m.verdict == "rejected" for m in campaign.measured),
            },
            "space": self.space.to_dict(),
            "num_measured": measured,
            "num_interpolated": len(entries) - measured,
            "seconds": round(campaign.seconds, 1),
            "largest_drift_percent": 100 * max((m.drift for m in campaign.accepted), default=0.0),
            "chunk_scales": [min(scales), max(scales)],
            "load": [min(loads), max(loads)] if loads else None,
            "temperature_c": [min(warmth), max(warmth)] if warmth else None,
            "factors": dict(context.factors),  # of the rows, by group, see lut/measuring/context.py
            "networks": [  # references first: what terms and factors are fitted to
                {"arch": arch.to_dict(), "measured_ms": ms} for arch, ms in points.items()
            ],
            "failed": [*campaign.notes, *dict.fromkeys(_told(campaign, "failed"))],
            "remarks": list(dict.fromkeys(_told(campaign, "remarks"))),
        }

    def save(self, table: Table, folder: Path) -> Path:
        """The table where --device finds it, or in --out; quantiles stay in the run folder."""
        assert self.campaign is not None
        _write_quantiles(self.campaign, folder / "quantiles.csv")
        return save_table(table, self.command.out)


def _has_terms(campaign: Campaign) -> bool:
    """Whether networks were measured already, which were chosen by what blocks had given."""
    return any(m.chunk.role == TERMS for m in campaign.accepted)


def _measured(campaign: Campaign) -> dict[Block, Entry]:
    """Raises TableError where no block ran; those that are 0 by definition do not count."""
    entries = entries_of(differences(campaign))
    if not any(entry.latency_ms > 0 for entry in entries.values()):
        reasons = [*campaign.notes, *_told(campaign, "failed")]
        raise TableError("no block could be measured: " + "; ".join(reasons[:3]))
    return entries


def _manner(driver: Driver) -> str:
    if driver.kind == "timer":
        return "interleaved"
    return f"each sample the median of an invocation of {driver.kind}"


def _computer(facts: Mapping[str, Any], setting: Setting) -> str | None:
    """What computes, as its system names it."""
    on_gpu = setting.runtime == "tensorrt" or "cuda" in setting.provider.lower()
    if on_gpu and "model" not in facts and facts.get("gpu"):
        return str(facts["gpu"][0]).partition(",")[0]
    return facts.get("model") or facts.get("cpu")


def check_same_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises RunError where a build would go on elsewhere than it was begun."""
    for name in MACHINE:
        if before.get(name) != now.get(name):
            raise RunError(
                f"the build was begun on another machine ({name} {before.get(name)}, here "
                f"{now.get(name)}); go on there, or start a new build"
            )


def parse_budget_s(text: str) -> float:
    """Seconds of `90s`, `5min`, `1.5h` or `300`. Raises TableError."""
    units = {"s": 1, "min": 60, "m": 60, "h": 3600, "": 1}
    number = text.strip().rstrip("smhin")
    unit = text.strip().removeprefix(number)
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 30 <= value <= 7 * 86400:
        raise TableError(f"--budget {text!r} is no time from 30s to 7 days, such as 5min")
    return value


def check_one_setting(device: Device, threads: int, batch: int) -> None:
    """Raises DeviceError where the device has tables of another setting."""
    for path in tables_of(device.name):
        if not path.is_relative_to(user_data_dir()):
            continue
        try:
            other = load_table(path)
        except TableError:
            continue
        if (other.threads or threads, other.batch) != (threads, batch):
            raise DeviceError(
                f"{device.name} has a table of {other.threads} threads and batch {other.batch} "
                f"({path}); one device name has one setting, so give this one another name, such "
                f"as {device.name}-t{threads}b{batch}"
            )


def save_table(table: Table, out: Path | None) -> Path:
    """Write to `out` or the user's folder; what was there is kept as .bak. Raises RunError."""
    folder = out or user_data_dir() / "tables"
    device = Device(table.device, table.title, table.runtime, table.precision)
    path = folder / f"{device.table_name(table.batch)}.csv"
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            write_bytes(file.with_name(file.name + ".bak"), file.read_bytes())
    table.save(path)
    return path


def _write_quantiles(campaign: Campaign, path: Path) -> None:
    """Every timed model of every chunk, rejected ones too: what a latency was made from."""
    import csv
    import io

    from results.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quantiles = [f"p{q}_us" for q in QUANTILES]
    timed = ["low_mean_us", "std_us", "num_samples", *quantiles]
    writer.writerow(["chunk", "role", "verdict", "model", *timed])
    for measured in (m for m in campaign.measured if m.passes):
        chunk = measured.chunk
        archs = {blocks_of(a): a for a in (*chunk.references, *chunk.content) if type(a) is Arch}
        for blocks, latency in measured.latencies().items():
            values = (latency.us, latency.std_us, latency.num_samples, *latency.quantiles_us)
            name = " > ".join(block.describe() for block in blocks)
            if blocks in archs:
                name = archs[blocks].to_json()
            row = [f"{value:.6g}" for value in values]
            writer.writerow([chunk.number, chunk.role, measured.verdict, name, *row])
    write_text(path, text.getvalue())


def _told(campaign: Campaign, kind: Literal["failed", "remarks"]) -> list[str]:
    """Models that the runtime refused, or remarked on; the first few."""
    found = []
    for measured in campaign.accepted:
        told: dict[int, str] = getattr(measured, kind)
        models = measured.chunk.models() if told else []
        for index, text in told.items():
            blocks = models[index].blocks
            block = next((b for b in blocks if b.name == "block"), blocks[-1])
            found.append(f"{block.describe()}: {text}")
    return found[:20]


def _python(command: "Build") -> str | None:
    return None if command.target == "local" else command.python
