"""The table of a finished campaign, with a sidecar that tells how it was measured."""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lut.measuring.assemble import (
    Validation,
    chunk_scales,
    network_points,
    told_of_models,
    validate,
)
from lut.measuring.campaign import Campaign
from lut.measuring.context import Context, fit_context
from lut.measuring.run import BuildRun
from lut.measuring.samples import LOW_SHARE, QUANTILES
from lut.rows import Entry
from lut.runtimes.session import Driver
from lut.sidecar import Sidecar
from lut.table import Table
from results.files import write_text
from results.record import now
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of


def table_of(
    build: BuildRun, campaign: Campaign, entries: dict[Block, Entry]
) -> tuple[Table, Validation | None]:
    """Return the table of a build, and its validation; None where too few networks ran.

    Args:
        entries: of every block of the build, as measured alone or interpolated.
    """
    points = network_points(campaign)
    networks = [blocks_of(arch) for arch in points]
    setting, options = build.setting, build.options
    context = fit_context(entries, networks, list(points.values()), setting.batch)
    table = Table(
        device=build.device.name,
        title=build.device.title,
        runtime=setting.runtime,
        precision=setting.precision,
        batch=setting.batch,
        threads=setting.threads,
        entries=context.apply(entries),
        terms=context.terms,
    )
    validation = None
    if options.networks:
        validation = validate(table, campaign.accepted, setting.batch)
    sidecar = {
        "note": "",
        "error": validation.error() if validation else {},
        "validation": validation.to_dict() if validation else None,
        "space_flags": {
            "task": options.task,
            "dataset": options.dataset,
            "space": options.space,
            "freeze": list(options.freeze),
            "num_classes": options.num_classes,
        },
        "measurement": _measurement(build, campaign, table.entries, points, context),
    }
    return replace(table, sidecar=Sidecar.of(sidecar)), validation


def _measurement(
    build: BuildRun,
    campaign: Campaign,
    entries: Mapping[Block, Entry],
    points: dict[Arch, float],
    context: Context,
) -> dict[str, Any]:
    loads = [load for m in campaign.accepted for load in m.loads]
    warmth = [c for m in campaign.accepted for c in m.temperatures_c]
    num_measured = sum(entry.provenance == "measured" for entry in entries.values())
    scales = chunk_scales(campaign).values()
    return {
        "date": now().isoformat(timespec="seconds"),
        "target": {"kind": build.options.target.partition(":")[0], **build.facts},
        "environment": campaign.environment,
        "protocol": {
            "method": f"in context, by difference, {_manner(build.driver)}",
            "statistic": f"mean of the lowest {100 * LOW_SHARE:.0f} % of the samples",
            "passes": build.passes,
            "dropped_passes": 2 if build.driver.kind == "timer" else 0,
            "chunks": len(campaign.accepted),
            "rejected_chunks": sum(m.verdict == "rejected" for m in campaign.measured),
        },
        "space": build.space.to_dict(),
        "num_measured": num_measured,
        "num_interpolated": len(entries) - num_measured,
        "seconds": round(campaign.seconds, 1),
        "largest_drift_percent": 100 * max((m.drift for m in campaign.accepted), default=0.0),
        "chunk_scales": [min(scales), max(scales)],
        "load": [min(loads), max(loads)] if loads else None,
        "temperature_c": [min(warmth), max(warmth)] if warmth else None,
        "factors": dict(context.factors),  # of the rows, by group, see lut/measuring/context.py
        "networks": [  # references first: what terms and factors are fitted to
            {"arch": arch.to_dict(), "measured_ms": ms} for arch, ms in points.items()
        ],
        "failed": [*campaign.notes, *dict.fromkeys(told_of_models(campaign, "failed"))],
        "remarks": list(dict.fromkeys(told_of_models(campaign, "remarks"))),
    }


def _manner(driver: Driver) -> str:
    if driver.kind == "timer":
        return "interleaved"
    return f"each sample the median of an invocation of {driver.kind}"


def write_quantiles(campaign: Campaign, path: Path) -> None:
    """Write what latencies were made from: every timed model of every chunk, rejected ones too.

    Raises OSError.
    """
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
