"""From a campaign's samples to a latency table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lut.agreement import Agreement, agreement, scale_between
from lut.interpolate import Interpolator, work
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import BLOCKS, NETWORKS, TERMS
from lut.measuring.measured import Measured
from lut.measuring.probes import difference_of
from lut.rows import Entry
from lut.table import Table
from results.errors import TableError
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of

FLOOR_STDS = 2.0  # a difference below so many standard errors is noise
LEAST_SHARE = 1e-3  # of the probe's own time: no clock resolves less
MOST_TOLD = 20  # texts of a runtime on its models


@dataclass(frozen=True, slots=True)
class Differences:
    """Latencies of all measured blocks, each a probe less its baseline, per image."""

    ms: dict[Block, float]  # as measured: noise can make it negative
    std_ms: dict[Block, float]
    num_samples: dict[Block, int]
    floor_ms: dict[Block, float]  # below which it is noise
    energy_mj: dict[Block, float] = field(default_factory=dict)  # noise can make it negative


def differences(campaign: Campaign) -> Differences:
    """Return probe minus baseline, both of the same chunk, over the chunk's own scale.

    The mean of all chunks that a block was measured in.
    """
    by_block: dict[Block, list[tuple[float, float, int, float]]] = {}
    scales = chunk_scales(campaign)
    per_image = 1e-3 / campaign.setting.batch
    for measured in campaign.accepted:
        if measured.chunk.role != BLOCKS:
            continue
        latencies = measured.latencies()
        unit = per_image / scales[measured.chunk.number]
        for block in measured.chunk.content:
            difference = difference_of(block)
            if difference is None:
                by_block.setdefault(block, []).append((0.0, 0.0, len(measured.rows()), 0.0))
                continue
            probe = latencies.get(difference.probe)
            baseline = latencies.get(difference.baseline) if difference.baseline else None
            if probe is None or (difference.baseline and baseline is None):
                continue  # the runtime refused it
            us, variance = probe.us, probe.std_us**2
            if baseline is not None:
                us -= baseline.us
                variance += baseline.std_us**2
            std = math.sqrt(variance)
            floor = max(FLOOR_STDS * std, LEAST_SHARE * probe.us)
            row = (us * unit, std * unit, probe.num_samples, floor * unit)
            by_block.setdefault(block, []).append(row)
    return Differences(
        ms={block: float(np.mean([row[0] for row in rows])) for block, rows in by_block.items()},
        std_ms={
            block: math.sqrt(sum(row[1] ** 2 for row in rows)) / len(rows)
            for block, rows in by_block.items()
        },
        num_samples={block: sum(row[2] for row in rows) for block, rows in by_block.items()},
        floor_ms={block: min(row[3] for row in rows) for block, rows in by_block.items()},
        energy_mj=_energy_differences(campaign),
    )


def _energy_differences(campaign: Campaign) -> dict[Block, float]:
    """Return the same of energies, one window a model, on no scale: millijoules an image."""
    by_block: dict[Block, list[float]] = {}
    for measured in campaign.accepted:
        energies = measured.energies_mj()
        if measured.chunk.role != BLOCKS or not energies:
            continue
        for block in measured.chunk.content:
            difference = difference_of(block)
            if difference is None:
                by_block.setdefault(block, []).append(0.0)
                continue
            probe = energies.get(difference.probe)
            baseline = energies.get(difference.baseline) if difference.baseline else 0.0
            if probe is not None and baseline is not None:
                by_block.setdefault(block, []).append((probe - baseline) / campaign.setting.batch)
    return {block: sum(values) / len(values) for block, values in by_block.items()}


def chunk_scales(campaign: Campaign) -> dict[int, float]:
    """Return how slow the machine was in each accepted chunk, by its references; 1 is usual."""
    references = reference_us(campaign)
    if not len(references):
        return {m.chunk.number: 1.0 for m in campaign.accepted}
    return {
        m.chunk.number: scale_between(references.tolist(), m.reference_us())
        for m in campaign.accepted
    }


def reference_us(campaign: Campaign) -> Any:
    """Return (references,) microseconds: the median over all accepted chunks."""
    return np.median([m.reference_us() for m in campaign.accepted], axis=0)


def entries_of(measured: Differences, provenance: str = "measured") -> dict[Block, Entry]:
    """Return rows of what was measured as it is, but for what is below the noise floor."""
    clamped = _clamp(measured)
    return {
        block: Entry(
            clamped.get(block, ms),
            measured.std_ms[block],
            measured.num_samples[block],
            provenance,
            energy if (energy := measured.energy_mj.get(block, -1.0)) >= 0 else None,
        )
        for block, ms in measured.ms.items()
    }


def measured_entries(campaign: Campaign) -> dict[Block, Entry]:
    """Return the rows of the blocks that a campaign has measured.

    Raises TableError where no block ran; those that are 0 by definition do not count.
    """
    entries = entries_of(differences(campaign))
    if not any(entry.latency_ms > 0 for entry in entries.values()):
        reasons = [*campaign.notes, *told_of_models(campaign, "failed")]
        raise TableError("no block could be measured: " + "; ".join(reasons[:3]))
    return entries


def told_of_models(campaign: Campaign, kind: Literal["failed", "remarks"]) -> list[str]:
    """Return what the runtime said of models that it refused, or remarked on; the first few."""
    texts = []
    for measured in campaign.accepted:
        told: dict[int, str] = getattr(measured, kind)
        models = measured.chunk.models() if told else []
        for index, text in told.items():
            blocks = models[index].blocks
            block = next((b for b in blocks if b.name == "block"), blocks[-1])
            texts.append(f"{block.describe()}: {text}")
    return texts[:MOST_TOLD]


def _clamp(measured: Differences) -> dict[Block, float]:
    """Return values of blocks in the noise, ms: a fit monotone in work, at most the floor."""
    from sklearn.isotonic import IsotonicRegression

    clamped: dict[Block, float] = {}
    for kind in {block.kind for block in measured.ms}:
        blocks = [b for b in measured.ms if b.kind == kind and work(b) > 0]
        noisy = [b for b in blocks if measured.ms[b] < measured.floor_ms[b]]
        if not noisy:
            continue
        fit = IsotonicRegression(y_min=0.0, out_of_bounds="clip")
        fit.fit([work(b) for b in blocks], [measured.ms[b] for b in blocks])
        values = fit.predict([work(b) for b in noisy])
        for block, value in zip(noisy, values, strict=True):
            clamped[block] = float(min(max(value, 0.0), measured.floor_ms[block]))
    return clamped


def complete(entries: dict[Block, Entry], blocks: Sequence[Block]) -> dict[Block, Entry]:
    """Return `entries` with all other `blocks` interpolated.

    A block whose difference is 0 by definition is 0. A kind of which too few were measured for
    an interpolation takes the time per work of all others, within a factor of two or so.
    """
    completed = dict(entries)
    missing = [block for block in blocks if block not in entries]
    for block in missing:
        if difference_of(block) is None:
            completed[block] = Entry(0.0, 0.0, 0, "interpolated")
    missing = [block for block in missing if block not in completed]
    if not missing:
        return completed
    interpolator = interpolator_of(entries)
    predictable = [block for block in missing if interpolator.can(block)]
    for block, guess in zip(predictable, interpolator.guess(predictable), strict=True):
        completed[block] = Entry(guess.latency_ms, guess.std_ms, 0, "interpolated")
    rates = [entry.latency_ms / work(b) for b, entry in entries.items() if entry.latency_ms > 0]
    for block in missing:
        if block not in completed:
            ms = float(np.median(rates)) * work(block)
            completed[block] = Entry(ms, ms, 0, "interpolated")
    return completed


def interpolator_of(entries: Mapping[Block, Entry], most_rows: int = 2500) -> Interpolator:
    """Return an interpolator that is fitted to the measured ones of `entries`."""
    measured = {b: e for b, e in entries.items() if e.provenance == "measured"}
    return Interpolator(
        {b: e.latency_ms for b, e in measured.items()},
        {b: e.latency_std_ms for b, e in measured.items()},
        most_rows=most_rows,
    )


def network_points(campaign: Campaign) -> dict[Arch, float]:
    """Return whole networks to fit the terms to, in ms per image: references, and TERMS'."""
    scales = chunk_scales(campaign)
    points = dict(zip(campaign.references, references_ms(campaign), strict=True))
    for measured in campaign.accepted:
        if measured.chunk.role == TERMS:
            latencies = measured.latencies()
            unit = 1e-3 / campaign.setting.batch / scales[measured.chunk.number]
            for arch in measured.chunk.content:
                if (latency := latencies.get(blocks_of(arch))) is not None:
                    points[arch] = latency.us * unit
    return points


def references_ms(campaign: Campaign) -> list[float]:
    """Return the milliseconds per image of every reference network, as measured."""
    return [float(us) * 1e-3 / campaign.setting.batch for us in reference_us(campaign)]


@dataclass(frozen=True)
class Validation:
    """Whole networks that a table has not seen, measured beside the references."""

    archs: tuple[Arch, ...]
    measured_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]  # the table's own
    scaled_ms: tuple[float, ...]  # times the one factor that the references give
    scale: float

    @property
    def raw(self) -> Agreement:
        """Return how well the table's own predictions agree with what was measured."""
        return agreement(self.predicted_ms, self.measured_ms)

    @property
    def scaled(self) -> Agreement:
        """Return the same of predictions times the session's scale."""
        return agreement(self.scaled_ms, self.measured_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return what a table's sidecar keeps."""
        return {
            "num_networks": len(self.archs),
            "raw": self.raw.to_dict(),
            "scaled": self.scaled.to_dict(),
            "scale": self.scale,
            "min_ms": min(self.measured_ms),
            "max_ms": max(self.measured_ms),
        }

    def error(self) -> dict[str, Any]:
        """Return what `predictors.latency` goes by, in a sidecar's `error`."""
        raw = self.raw
        pairs = zip(self.predicted_ms, self.measured_ms, strict=True)
        ratios = [predicted / measured - 1 for predicted, measured in pairs]
        kinds = {block.kind for arch in self.archs for block in blocks_of(arch)}
        return {
            "mape_percent": raw.mape_percent,
            "worst_percent": 100 * max(abs(ratio) for ratio in ratios),
            "kendall_tau": raw.kendall_tau,
            "relative_std": (sum(ratio**2 for ratio in ratios) / len(ratios)) ** 0.5,
            "min_ms": min(self.measured_ms),
            "max_ms": max(self.measured_ms),
            "block_kinds": sorted(kinds),
            "judged_on": f"{len(ratios)} random networks that the table was not made from",
        }


def validate(table: Table, chunks: Sequence[Measured], batch: int) -> Validation | None:
    """Return predictions beside what chunks of whole networks gave, each by its own scale.

    None with fewer than two networks.
    """
    rows: list[tuple[Arch, float, float, float]] = []
    scales = []
    for measured in chunks:
        if measured.chunk.role != NETWORKS or not measured.chunk.content:
            continue
        latencies = measured.latencies()
        references = [table.network_ms(blocks_of(arch)) for arch in measured.chunk.references]
        reference_ms = [us * 1e-3 / batch for us in measured.reference_us()]
        scale = scale_between(references, reference_ms) if references else 1.0
        scales.append(scale)
        for arch in measured.chunk.content:
            if (latency := latencies.get(blocks_of(arch))) is not None:
                ms = table.network_ms(blocks_of(arch))
                rows.append((arch, latency.us * 1e-3 / batch, ms, ms * scale))
    if len(rows) < 2:
        return None
    archs, measured_ms, predicted_ms, scaled_ms = zip(*rows, strict=True)
    return Validation(archs, measured_ms, predicted_ms, scaled_ms, float(np.mean(scales)))
