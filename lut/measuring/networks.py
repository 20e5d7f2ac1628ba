"""Given networks on a device, measured by the protocol that its latency table was measured by."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lut.agreement import scale_between
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import (
    MOST_BYTES,
    MOST_SHARE,
    NETWORKS,
    REFERENCES,
    model_bytes,
    references_of,
    wide_references_of,
)
from lut.measuring.measured import Measured
from lut.measuring.samples import QUANTILES, Latency, mean_of
from lut.runtimes.session import Driver, Setting
from lut.table import Table
from results.errors import ArchError, TableError, TargetError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.space import Space

FEWEST_ALIKE = 4  # references for a session's scale
COPIES = 2  # of each network, as of references: where one lies in memory moves its time
# Of a quiet machine: load beside our own, a tenth of runs above the median, references' change.
MOST_OTHER_LOAD, MOST_SPREAD_PERCENT, MOST_SLOWER_PERCENT = 0.5, 15.0, 3.0
FACTS = ("machine", "model", "soc", "cpu")  # of a target, that never change


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """What one image takes, in ms: the tables' low mean, its standard error, and quantiles."""

    ms: float
    std_ms: float
    p50_ms: float
    p90_ms: float
    num_samples: int


def setting_of(table: Table, *, cpus: str = "", benchmark_model: str = "") -> Setting:
    """Return how a table's device runs networks: on the CPUs of the table unless others are named.

    Raises DeviceError for a table of a runtime or precision that nothing here can time.
    """
    measured_by = table.sidecar.measurement.environment
    return Setting(
        table.runtime,
        table.precision,
        table.threads or 1,
        table.batch,
        cpus or ",".join(map(str, measured_by.cpus or ())),
        measured_by.provider or "",
        benchmark_model,
    )


def target_of(table: Table, given: str | None) -> str:
    """Return where the device of a table is: `given`, or here if the table was measured here.

    Raises TargetError, with the flag, where it cannot be told.
    """
    if given is not None:
        return given
    kind = table.sidecar.measurement.target.kind
    if kind == "local":
        return kind
    forms = {"ssh": "ssh://[user@]host[:port]", "adb": "adb or adb:SERIAL"}
    if kind in forms:
        raise TargetError(
            f"the table of {table.device} was measured over {kind}; say where the device is by "
            f"--target {forms[kind]}"
        )
    raise TargetError(
        f"the table of {table.device} was not measured by lut.build, so nothing tells where such a "
        "device is; name one by --target local, ssh://[user@]host[:port], adb or adb:SERIAL"
    )


def check_machine(table: Table, facts: Mapping[str, Any]) -> None:
    """Raise TargetError for a machine, by its facts, that a measured table is not of."""
    told = table.sidecar.measurement.target
    for name in FACTS:
        own = getattr(told, name)
        if own is not None and facts.get(name) != own:
            raise TargetError(
                f"the table of {table.device} was measured on another machine ({name} {own}, here "
                f"{facts.get(name)}); name that machine by --target, or measure a table of this "
                "one by `python -m lut.build --device NAME`"
            )


def fitted_networks(table: Table) -> dict[Arch, float | None]:
    """Return the networks that a table was fitted to, with what they took then, in ms.

    Raises TableError for a damaged sidecar.
    """
    try:
        return {
            Arch.from_dict(row.arch): row.measured_ms for row in table.sidecar.measurement.networks
        }
    except ArchError as error:
        raise TableError(
            f"the .json beside {table.path} is damaged where it tells what was measured: {error}"
        ) from None


def check_whole(table: Table, networks: Sequence[Arch]) -> None:
    """Raise TableError for networks of which a table tells more than is measured here."""
    if table.terms.decoder_ms and any(arch.task == "promptable" for arch in networks):
        raise TableError(
            f"latencies of SAM by the table of {table.device} include its mask decoder, which is "
            "not measured here; measure a table of encoders alone by `python -m lut.build --task "
            "promptable`"
        )


def official_of(space: Space) -> list[Arch]:
    """Return the official networks that can give a session its scale, each once."""
    return list(dict.fromkeys((*references_of(space), *wide_references_of(space))))


def references_alike(
    table: Table, official: Sequence[Arch], networks: Sequence[Arch]
) -> tuple[Arch, ...]:
    """Return official networks that are no smaller and no larger than what they shall scale.

    A machine can be slower for networks that wait for memory and faster for all others; the
    cheapest official networks do the former, random ones hardly. All that the table can tell,
    where fewer than four are alike.
    """
    known_ms = {
        arch: table.network_ms(blocks_of(arch))
        for arch in official
        if table.roofline or all(block in table.entries for block in blocks_of(arch))
    }
    networks_ms = [table.network_ms(blocks_of(arch)) for arch in networks]
    low, high = min(networks_ms), max(networks_ms)
    alike = [arch for arch, ms in known_ms.items() if low <= ms <= high]
    return tuple(alike if len(alike) >= FEWEST_ALIKE else known_ms or official)


def measure_networks(
    campaign: Campaign, networks: Sequence[Arch], driver: Driver, memory_mb: float
) -> None:
    """Measure what a campaign has not yet measured of `networks`, in chunks that fit into memory.

    References are measured alone before all else, as in a build, so that a chunk in which they
    lose their proportions is measured again.

    Args:
        driver: how the host times models.
        memory_mb: of the host.

    Raises TargetError where the host is lost.
    """
    campaign.start()
    done = {
        arch
        for measured in campaign.measured
        if measured.verdict in ("accepted", "failed")
        for arch in measured.chunk.content
    }
    left = [arch for arch in networks if arch not in done]
    copies = copies_of(driver)
    most_bytes = min(MOST_BYTES, MOST_SHARE * 1e6 * memory_mb)
    for content in _chunks(left, campaign, driver.most_models // copies, most_bytes / copies):
        campaign.measure(NETWORKS, content * copies)


def copies_of(driver: Driver) -> int:
    """Return how often each network is loaded; once where no model has company in memory."""
    return COPIES if driver.kind == "timer" else 1


def _chunks(
    networks: Sequence[Arch], campaign: Campaign, most: int, most_bytes: float
) -> list[list[Arch]]:
    """Return networks dealt out at random, so that a disturbance meets no particular kind."""
    setting = campaign.setting
    order = list(networks)
    random.Random(campaign.seed).shuffle(order)
    chunks: list[list[Arch]] = []
    room = 0.0
    for arch in order:
        size = model_bytes(blocks_of(arch), setting.precision, setting.batch)
        if not chunks or size > room or len(chunks[-1]) == most:
            chunks.append([])
            room = most_bytes
        chunks[-1].append(arch)
        room -= size
    return chunks


def times_of(campaign: Campaign) -> dict[Arch, NetworkTime]:
    """Return what networks took, over all their copies; those that the runtime refused are left
    out. Where there are several chunks, each is divided by how slow its references were.
    """
    chunks = _with_networks(campaign)
    by_arch: dict[Arch, list[tuple[Latency, float]]] = {}
    for measured, scale in zip(chunks, _scales(chunks), strict=True):
        unit = 1e-3 / campaign.setting.batch / scale
        latencies = measured.latencies()
        for arch in dict.fromkeys(measured.chunk.content):
            if (latency := latencies.get(blocks_of(arch))) is not None:
                by_arch.setdefault(arch, []).append((latency, unit))
    return {arch: _time_of(found) for arch, found in by_arch.items()}


def _time_of(found: Sequence[tuple[Latency, float]]) -> NetworkTime:
    scaled = [
        Latency(
            own.us * unit,
            own.std_us * unit,
            own.num_samples,
            tuple(us * unit for us in own.quantiles_us),
        )
        for own, unit in found
    ]
    mean = mean_of(scaled)  # in ms from here on
    quantiles = dict(zip(QUANTILES, mean.quantiles_us, strict=True))
    return NetworkTime(mean.us, mean.std_us, quantiles[50], quantiles[90], mean.num_samples)


def refused_by(campaign: Campaign) -> dict[Arch, str]:
    """Return the networks that the runtime would not run, and what it said."""
    refused: dict[Arch, str] = {}
    for measured in campaign.measured:
        content = measured.chunk.content
        if measured.verdict == "failed":
            refused[content[0]] = "it ends every session"
        for index, text in measured.failed.items():
            own = index - REFERENCES * len(measured.chunk.references)
            if 0 <= own < len(content):
                refused[content[own]] = text
    return refused


@dataclass(frozen=True)
class MachineState:
    """What a session tells of the machine that networks were measured on."""

    load: tuple[float, float] | None  # least and most, of the system
    temperature_c: tuple[float, float] | None
    drift_percent: float  # of a reference's share, the largest in a chunk that counts
    rejected_chunks: int  # measured again, as references lost their proportions
    unsteady_chunks: int  # that never kept to them: their calmest samples count
    spread_percent: float  # the 90 % quantile above the median, the median over models
    scale: float | None  # references' times over what the table predicts; None: no references
    slower_percent: float | None  # references, beside those of the table; None: it tells none
    threads: int  # that the runtime uses

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return what makes the numbers doubtful, in words; () for a quiet machine."""
        found = []
        if self.unsteady_chunks:
            found.append("reference networks never kept their proportions")
        elif self.rejected_chunks:
            found.append(f"{self.rejected_chunks} chunks were measured again")
        if self.load is not None and self.load[0] > self.threads + MOST_OTHER_LOAD:
            found.append(f"its load was {self.load[0]:.1f}, {self.threads} of it ours")
        if self.spread_percent > MOST_SPREAD_PERCENT:
            found.append(f"a tenth of all runs took {self.spread_percent:.0f} % longer or more")
        if self.slower_percent is not None and abs(self.slower_percent) > MOST_SLOWER_PERCENT:
            how = "slower" if self.slower_percent > 0 else "faster"
            found.append(
                f"it is {abs(self.slower_percent):.1f} % {how} than when the table was measured"
            )
        return tuple(found)


def state_of(campaign: Campaign, table: Table) -> MachineState:
    """Return what a campaign tells of its machine, and of the same before, as a table tells it."""
    chunks = _with_networks(campaign)
    loads = [load for m in chunks for load in m.loads]
    warmth = [c for m in chunks for c in m.temperatures_c]
    quantiles = [own.quantiles_us for m in chunks for own in m.latencies().values()]
    middle, high = QUANTILES.index(50), QUANTILES.index(90)
    scale = slower = None
    if campaign.references:
        usual_us = np.median([m.reference_us() for m in chunks], axis=0)
        now_ms = [float(us) * 1e-3 / campaign.setting.batch for us in usual_us]
        predicted_ms = [table.network_ms(blocks_of(arch)) for arch in campaign.references]
        scale = scale_between(predicted_ms, now_ms)
        slower = _slower_percent(table, dict(zip(campaign.references, now_ms, strict=True)))
    return MachineState(
        load=(min(loads), max(loads)) if loads else None,
        temperature_c=(min(warmth), max(warmth)) if warmth else None,
        drift_percent=100 * max((m.drift for m in chunks), default=0.0),
        rejected_chunks=sum(m.verdict == "rejected" for m in campaign.measured),
        unsteady_chunks=sum(bool(m.merged) for m in chunks),
        spread_percent=100 * float(np.median([q[high] / q[middle] - 1 for q in quantiles])),
        scale=scale,
        slower_percent=slower,
        threads=campaign.setting.threads,
    )


def _slower_percent(table: Table, now_ms: Mapping[Arch, float]) -> float | None:
    """Return how much longer networks take now that were measured with the table's blocks."""
    before_ms = fitted_networks(table)
    pairs = [(ms, now_ms[arch]) for arch, ms in before_ms.items() if ms and arch in now_ms]
    if len(pairs) < 2:
        return None
    return 100 * (scale_between([ms for ms, _ in pairs], [ms for _, ms in pairs]) - 1)


def _with_networks(campaign: Campaign) -> list[Measured]:
    return [measured for measured in campaign.accepted if measured.chunk.content]


def _scales(chunks: Sequence[Measured]) -> list[float]:
    """Return how slow the machine was in each chunk, by its references; 1 is usual.

    References that ran alone do not count: they had the caches to themselves.
    """
    if not chunks or not chunks[0].chunk.references:
        return [1.0] * len(chunks)
    own_us = [measured.reference_us() for measured in chunks]
    usual_us = np.median(own_us, axis=0).tolist()
    return [scale_between(usual_us, us) for us in own_us]
