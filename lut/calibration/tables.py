"""Tables of what a calibration found, one of each batch size."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from lut.calibration.fit import Calibration
from lut.calibration.inputs import CalibrationInputs
from lut.calibration.transfer import Transfer
from lut.device import Device, table_name
from lut.roofline import Roofline
from lut.rows import Entry
from lut.sidecar import Sidecar
from lut.table import Table, load_table
from results.errors import TableError
from supernet.blocks import Block, blocks_of
from supernet.official import ALL_DATASETS, DATASETS
from supernet.spaces import get_space, official_networks


def make_table(
    inputs: CalibrationInputs, calibration: Calibration, transfer: Transfer | None, batch: int
) -> Table:
    """Return the table of the points of one batch size; `transfer` where it was one."""
    device = inputs.device
    note = device.note
    roofline: Roofline | None = calibration.model.roofline
    if transfer is None:
        blocks = _official_blocks(_datasets(device, batch))
        sigma = calibration.summary.sigma
        entries = rows_for(blocks, calibration.model.roofline, batch, device.precision, sigma)
    else:
        source = transfer.source
        entries = {block: transfer.entry(block) for block in source.entries}
        roofline = transfer.roofline(device.precision)
        origin = f"transferred from {source.title}, {source.runtime} {source.precision}"
        note = f"{origin}; {note}" if note else origin
    return Table(
        device=device.name,
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        batch=batch,
        entries=entries,
        terms=calibration.model.terms,
        roofline=roofline,
        sidecar=Sidecar.of(
            {
                "note": note,
                "error": _error(calibration, batch, "transfer" if transfer else "fit"),
                "validation": None,
                "calibration": {
                    "processor": inputs.processor,
                    "fitted_parameters": calibration.parameters,
                    "batches": inputs.batches,
                    "summary": asdict(calibration.summary),
                    "rows": [row.to_dict() for row in calibration.rows],
                },
                **(_of_transfer(transfer) if transfer else {}),
            }
        ),
    )


def save_table(table: Table, folder: Path) -> Path:
    """Write a table and its sidecar, and return its path.

    What is there already and cannot be read is kept as .bak. Raises TableError rather than lose
    a measurement.
    """
    name = table_name(table.device, table.runtime, table.precision, table.batch)
    path = folder / f"{name}.csv"
    _make_way(path)
    table.save(path)
    return path


def rows_for(
    blocks: Iterable[Block], roofline: Roofline, batch: int, precision: str, relative_std: float
) -> dict[Block, Entry]:
    """Return rows of the distinct blocks by a model, in ms rounded as a saved table has them."""
    entries = {}
    for block in blocks:
        key = replace(block, inputs=(), name="")
        ms = float(f"{roofline.block_ms(key, batch, precision):.6g}")
        std = float(f"{ms * relative_std:.6g}")
        entries[key] = Entry(ms, std, 0, "calibrated")
    return entries


def origin_of(transfer: Transfer) -> dict[str, Any]:
    """Return which table a transfer started from and what it changed, for the sidecar."""
    source = transfer.source
    return {
        "from": {
            "table": source.path.name if source.path else None,
            "sha256": source.sha256,
            "device": source.device,
            "title": source.title,
            "runtime": source.runtime,
            "precision": source.precision,
            "batch": source.batch,
            "provenance": source.provenance,
        },
        "method": "one scale" if transfer.spread == 0 else "factors by resource",
        "factors": dict(transfer.factors),
        "spread": transfer.spread,
        "error_percent_by_spread": {str(s): error for s, error in transfer.errors.items()},
        "blocks_not_listed": (
            "by the source's own model, slowed down likewise"
            if source.roofline
            else "none: the source has no model of its own"
        ),
    }


def _error(calibration: Calibration, batch: int, what: str) -> dict[str, Any]:
    """Return how wrong the table is, as `lut.sidecar.Error` reads it."""
    rows = [row for row in calibration.rows if row.point.fitted]
    seen_ms = [row.point.latency_ms for row in rows if row.point.batch == batch]
    summary = calibration.summary
    return {
        "mape_percent": summary.mape_percent,
        "worst_percent": summary.worst_percent,
        "kendall_tau": summary.kendall_tau,
        "relative_std": summary.sigma,
        "min_ms": min(seen_ms),
        "max_ms": max(seen_ms),
        "block_kinds": sorted({b.kind for row in rows for b in blocks_of(row.point.arch)}),
        "judged_on": (
            f"{summary.num_rows} rows of {summary.num_architectures} architectures, "
            f"each architecture left out of the {what} in turn"
        ),
    }


def _of_transfer(transfer: Transfer) -> dict[str, Any]:
    """Return what a transferred table's sidecar has beyond that of a fitted one.

    Where the source has no model of its own, the table serves the space that it was measured for.
    """
    fields: dict[str, Any] = {"transfer": origin_of(transfer)}
    flags = transfer.source.sidecar.space_flags
    if flags is not None and transfer.source.roofline is None:
        fields["space_flags"] = msgspec.structs.asdict(flags)
    return fields


def _datasets(device: Device, batch: int) -> list[str]:
    """Return the data sets whose networks a table of the batch lists."""
    used = [dataset for dataset in ALL_DATASETS if device.batch_for(dataset) == batch]
    return used or list(ALL_DATASETS)


def _official_blocks(datasets: Iterable[str]) -> list[Block]:
    """Return the blocks of the official networks at all resolutions of the data sets' spaces."""
    blocks: list[Block] = []
    for dataset in datasets:
        task = next(task for task, names in DATASETS.items() if dataset in names)
        for part in get_space("family", task=task, dataset=dataset).parts:
            resolutions: Any = part.dimensions["resolution"]
            for arch in official_networks(part, dataset, resolutions):
                blocks += blocks_of(arch)
    return blocks


def _make_way(path: Path) -> None:
    if not path.exists():
        return
    try:
        kinds = {entry.provenance for entry in load_table(path).entries.values()}
    except TableError:
        for file in (path, path.with_suffix(".json")):
            if file.exists():
                file.replace(file.with_name(file.name + ".bak"))
        return
    if kinds != {"calibrated"}:
        raise TableError(
            f"{path} holds measured latencies, which a calibration would overwrite; give the "
            "device another name, or another --out"
        )
