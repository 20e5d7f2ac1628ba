"""From a campaign's samples to a latency table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lut.agreement import Agreement, agreement, scale_between
from lut.chunks import BLOCKS, NETWORKS
from lut.interpolate import Interpolator, work
from lut.measure import Campaign, Measured
from lut.probes import difference_of
from lut.table import Entry, Table
from lut.terms import NetworkTerms
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of

FLOOR_STDS = 2.0  # a difference below so many standard errors is noise
LEAST_SHARE = 1e-3  # of the probe's own time: no clock resolves less
FIXED_SHARE = 0.05  # of the quickest reference: what the fixed term may well be


@dataclass(frozen=True, slots=True)
class Differences:
    """Of every measured block, per image."""

    ms: dict[Block, float]  # as measured: noise can make it negative
    std_ms: dict[Block, float]
    num_samples: dict[Block, int]
    floor_ms: dict[Block, float]  # below which it is noise


def differences(campaign: Campaign) -> Differences:
    """Probe minus baseline, both of the same chunk, over the chunk's own scale."""
    found = Differences({}, {}, {}, {})
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
                zero = (0.0, 0.0, 0.0)
                found.ms[block], found.std_ms[block], found.floor_ms[block] = zero
                found.num_samples[block] = len(measured.passes)
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
            found.ms[block] = us * unit
            found.std_ms[block] = std * unit
            found.num_samples[block] = probe.num_samples
            found.floor_ms[block] = max(FLOOR_STDS * std, LEAST_SHARE * probe.us) * unit
    return found


def chunk_scales(campaign: Campaign) -> dict[int, float]:
    """How slow the machine was in each accepted chunk, by its references."""
    references = reference_us(campaign)
    if not len(references):
        return {m.chunk.number: 1.0 for m in campaign.accepted}
    return {
        m.chunk.number: scale_between(references.tolist(), m.reference_us())
        for m in campaign.accepted
    }


def reference_us(campaign: Campaign) -> Any:
    """(references,): the median over all accepted chunks."""
    return np.median([m.reference_us() for m in campaign.accepted], axis=0)


def entries_of(found: Differences, provenance: str = "measured") -> dict[Block, Entry]:
    """Measured truths as they are; only what is below the noise floor is replaced."""
    clamped = _clamp(found)
    return {
        block: Entry(
            clamped.get(block, ms), found.std_ms[block], found.num_samples[block], provenance
        )
        for block, ms in found.ms.items()
    }


def _clamp(found: Differences) -> dict[Block, float]:
    """Values of the blocks in the noise: what a fit monotone in work gives, at most the floor."""
    from sklearn.isotonic import IsotonicRegression

    clamped: dict[Block, float] = {}
    for kind in {block.kind for block in found.ms}:
        blocks = [b for b in found.ms if b.kind == kind and work(b) > 0]
        noisy = [b for b in blocks if found.ms[b] < found.floor_ms[b]]
        if not noisy:
            continue
        fit = IsotonicRegression(y_min=0.0, out_of_bounds="clip")
        fit.fit([work(b) for b in blocks], [found.ms[b] for b in blocks])
        values = fit.predict([work(b) for b in noisy])
        for block, value in zip(noisy, values, strict=True):
            clamped[block] = float(min(max(value, 0.0), found.floor_ms[block]))
    return clamped


def complete(entries: dict[Block, Entry], blocks: Sequence[Block]) -> dict[Block, Entry]:
    """`entries` with all other `blocks` interpolated; a kind with too few rows stays out."""
    missing = [block for block in blocks if block not in entries]
    if not missing:
        return entries
    interpolator = interpolator_of(entries)
    missing = [block for block in missing if interpolator.can(block)]
    guesses = interpolator.guess(missing)
    return entries | {
        block: Entry(guess.latency_ms, guess.std_ms, 0, "interpolated")
        for block, guess in zip(missing, guesses, strict=True)
    }


def interpolator_of(entries: Mapping[Block, Entry], most_rows: int = 2500) -> Interpolator:
    measured = {b: e for b, e in entries.items() if e.provenance == "measured"}
    return Interpolator(
        {b: e.latency_ms for b, e in measured.items()},
        {b: e.latency_std_ms for b, e in measured.items()},
        most_rows=most_rows,
    )


def fit_terms(sums_ms: Sequence[float], measured_ms: Sequence[float]) -> NetworkTerms:
    """A scale and a fixed time, from reference networks.

    The fixed time is held near 0: a handful of networks cannot tell it from a scale.
    """
    from scipy.optimize import least_squares

    sums, measured = np.asarray(sums_ms), np.asarray(measured_ms)
    width = FIXED_SHARE * measured.min()

    def residuals(x: Any) -> Any:
        errors = np.log((x[1] + np.exp(x[0]) * sums) / measured)
        return np.append(errors, 0.01 * x[1] / width)

    start = [float(np.log(measured / sums).mean()), 0.0]
    found = least_squares(residuals, start, bounds=([-10, 0], [10, measured.min()]))
    return NetworkTerms(fixed_ms=float(found.x[1]), scale=float(np.exp(found.x[0])))


def references_ms(campaign: Campaign) -> list[float]:
    """Measured, per image, of every reference network."""
    return [float(us) * 1e-3 / campaign.setting.batch for us in reference_us(campaign)]


@dataclass(frozen=True)
class Validation:
    """Whole networks that a table has not seen, measured beside the references."""

    archs: tuple[Arch, ...]
    measured_ms: tuple[float, ...]
    raw_ms: tuple[float, ...]  # sums of blocks
    scaled_ms: tuple[float, ...]  # times the one factor that the references give
    predicted_ms: tuple[float, ...]  # the table's own, by its network terms
    scale: float

    @property
    def raw(self) -> Agreement:
        return agreement(self.raw_ms, self.measured_ms)

    @property
    def scaled(self) -> Agreement:
        return agreement(self.scaled_ms, self.measured_ms)

    @property
    def predicted(self) -> Agreement:
        return agreement(self.predicted_ms, self.measured_ms)

    def to_dict(self) -> dict[str, Any]:
        """What a table's sidecar keeps."""
        return {
            "num_networks": len(self.archs),
            "raw": self.raw.to_dict(),
            "scaled": self.scaled.to_dict(),
            "scale": self.scale,
            "min_ms": min(self.measured_ms),
            "max_ms": max(self.measured_ms),
        }


def error_of(validation: Validation) -> dict[str, Any]:
    """What predictions go by, see `predictors.latency`."""
    found = validation.predicted
    ratios = [
        p / m - 1 for p, m in zip(validation.predicted_ms, validation.measured_ms, strict=True)
    ]
    kinds = {b.kind for arch in validation.archs for b in blocks_of(arch)}
    return {
        "mape_percent": found.mape_percent,
        "worst_percent": 100 * max(abs(ratio) for ratio in ratios),
        "kendall_tau": found.kendall_tau,
        "relative_std": (sum(ratio**2 for ratio in ratios) / len(ratios)) ** 0.5,
        "min_ms": min(validation.measured_ms),
        "max_ms": max(validation.measured_ms),
        "block_kinds": sorted(kinds),
        "judged_on": f"{len(ratios)} random networks that the table was not made from",
    }


def validate(table: Table, found: Sequence[Measured], batch: int) -> Validation:
    """Predictions beside what chunks of whole networks gave, each chunk by its own scale."""
    columns: dict[str, list[Any]] = {n: [] for n in ("arch", "ms", "raw", "scaled", "own")}
    scales = []
    for measured in found:
        if measured.chunk.role != NETWORKS or not measured.chunk.content:
            continue
        latencies = measured.latencies()
        references = measured.chunk.references
        sums = [_sum_ms(table, arch) for arch in references]
        reference_ms = [us * 1e-3 / batch for us in measured.reference_us()]
        scale = scale_between(sums, reference_ms)
        scales.append(scale)
        for arch in measured.chunk.content:
            if (latency := latencies.get(blocks_of(arch))) is None:
                continue
            raw = _sum_ms(table, arch)
            columns["arch"].append(arch)
            columns["ms"].append(latency.us * 1e-3 / batch)
            columns["raw"].append(raw)
            columns["scaled"].append(raw * scale)
            columns["own"].append(table.network_ms(blocks_of(arch)))
    return Validation(
        archs=tuple(columns["arch"]),
        measured_ms=tuple(columns["ms"]),
        raw_ms=tuple(columns["raw"]),
        scaled_ms=tuple(columns["scaled"]),
        predicted_ms=tuple(columns["own"]),
        scale=float(np.mean(scales)),
    )


def _sum_ms(table: Table, arch: Arch) -> float:
    return sum(table.entry(block).latency_ms for block in blocks_of(arch))
