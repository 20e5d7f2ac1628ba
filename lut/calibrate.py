"""Make a device's latency tables from latencies of whole networks.

python -m lut.calibrate --device mydevice:onnxruntime:fp32 --points points.csv
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.console import main as console_main
from results.errors import DeviceError, TableError, check_choice

if TYPE_CHECKING:
    from lut.device import Device
    from lut.fit import Calibration
    from lut.points import Point
    from supernet.arch import Arch
    from supernet.blocks import Block

# The published latencies that the shipped tables are made from, and what they ran on.
_PUBLISHED = files("results") / "published" / "points"

REFUSED_PERCENT = 50  # error from which on a table would only mislead
DOUBTED_PERCENT = 10  # and from which on it says so


@dataclass(frozen=True)
class Calibrate:
    """Fit a physical per-block model to whole-network latencies and write it as a table."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]]; a new NAME needs both."""
    points: Path | None = None
    """CSV with columns arch and latency_ms (and resolution, task, dataset, batch, kind, …); by
    default the published latencies, where the device has any."""
    processor: str | None = None
    """Whose physics to start from: cpu, gpu or tensor_core_gpu; by default the device's own,
    tensor_core_gpu for tensorrt, else cpu."""
    title: str | None = None
    """What to call the device in titles."""
    out: Path | None = None
    """Folder of the tables; by default the user's own, where --device finds them."""
    report: Path | None = None
    """Folder for a row-by-row page and a picture, predicted against published."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        from lut.device import PROCESSORS, user_data_dir
        from lut.fit import PRIORS, fit
        from lut.points import read_points

        device = self._device()
        points = self._read(device, read_points)
        guess = "tensor_core_gpu" if device.runtime == "tensorrt" else "cpu"
        processor = self.processor or device.processor or guess
        check_choice("processor", processor, PROCESSORS, DeviceError)
        found = fit(points, device.precision, PRIORS[processor])
        if found.summary.mape_percent > REFUSED_PERCENT:
            raise TableError(_contradiction(found))
        if self.points is not None:
            device = replace(device, note="")  # which speaks of the published points
        folder = self.out or user_data_dir() / "tables"
        paths = [
            _write_table(device, found, batch, folder, processor)
            for batch in _datasets_by_batch(device, points)
        ]
        if self.report is not None:
            from lut.calibration_report import write_report

            write_report(device, found, self.report)
        if self.json:
            summary = {"tables": list(map(str, paths)), **asdict(found.summary)}
            print(json.dumps(summary, allow_nan=False))
        elif not self.quiet:
            _print(device, found, paths)

    def _device(self) -> "Device":
        from lut.device import Device, device_names, get_device, split_spec

        if len(self.device) != 1:
            raise DeviceError("give one --device NAME[:runtime[:precision]]")
        name, runtime, precision = split_spec(self.device[0])
        if name in device_names():
            device = get_device(self.device[0])
            return replace(device, title=self.title or device.title)
        if not name.replace("-", "").replace("_", "").isalnum():
            raise DeviceError(f"a device name is letters, digits, - and _, not {name!r}")
        if runtime is None or precision is None:
            raise DeviceError(
                f"{name} is a new device: name its runtime and precision, as in "
                f"--device {name}:onnxruntime:fp32"
            )
        return Device(name, self.title or name, runtime, precision)

    def _read(self, device: "Device", read: Any) -> "list[Point]":
        if self.points is not None:
            found: list[Point] = read(self.points)
            return found
        from lut.device import get_device

        published = _PUBLISHED / f"{device.name}.csv"
        own = get_device(device.name) if published.is_file() else device
        if not published.is_file() or replace(device, title=own.title) != own:
            raise TableError(
                f"nothing is published for {device.name} with {device.runtime} "
                f"{device.precision}; give latencies of known networks with --points FILE "
                "(columns arch and latency_ms)"
            )
        with as_file(published) as path:
            found = read(path)
        return found


def _contradiction(found: "Calibration") -> str:
    rows = [row for row in found.rows if row.point.fitted]
    worst = max(rows, key=lambda row: abs(row.leave_out_error_percent))
    given_ms, fitting_ms = worst.point.latency_ms, worst.leave_out_ms
    return (
        "these points contradict each other: architectures left out are predicted "
        f"{found.summary.mape_percent:.0f} % wrong, so no table is written. Farthest off is "
        f"{worst.point.name} with {given_ms:.4g} ms where {fitting_ms:.4g} ms would fit the "
        "others; check units and typing errors"
    )


def _datasets_by_batch(device: "Device", points: "Sequence[Point]") -> dict[int, list[str]]:
    """The batch sizes that the points have, and the data sets whose networks each table lists."""
    from supernet.named import ALL_DATASETS

    return {
        batch: [d for d in ALL_DATASETS if device.batch_for(d) == batch] or list(ALL_DATASETS)
        for batch in sorted({point.batch for point in points if point.fitted})
    }


def _write_table(
    device: "Device", found: "Calibration", batch: int, folder: Path, processor: str
) -> Path:
    from lut.table import Table, rows_for
    from supernet.blocks import blocks_of

    path = folder / f"{device.table_name(batch)}.csv"
    _make_way(path)
    rows = [row for row in found.rows if row.point.fitted]
    seen = [r.point.latency_ms for r in rows if r.point.batch == batch]
    summary = found.summary
    every_batch = {row.point.batch for row in rows}
    datasets = _datasets_by_batch(device, [row.point for row in rows])[batch]
    table = Table(
        device=device.name,
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        batch=batch,
        entries=rows_for(
            _official_blocks(datasets),
            found.model.roofline,
            batch,
            device.precision,
            summary.sigma,
        ),
        terms=found.model.terms,
        roofline=found.model.roofline,
        sidecar={
            "note": device.note,
            "error": {
                "mape_percent": summary.mape_percent,
                "worst_percent": summary.worst_percent,
                "kendall_tau": summary.kendall_tau,
                "relative_std": summary.sigma,
                "min_ms": min(seen),
                "max_ms": max(seen),
                "block_kinds": sorted({b.kind for r in rows for b in blocks_of(r.point.arch)}),
                "judged_on": (
                    f"{summary.num_rows} rows of {summary.num_architectures} architectures, "
                    "each architecture left out of the fit in turn"
                ),
            },
            "validation": None,
            "calibration": {
                "processor": processor,
                "fitted_parameters": found.parameters,
                "batches": sorted(every_batch),
                "summary": asdict(summary),
                "rows": [row.to_dict() for row in found.rows],
            },
        },
    )
    table.save(path)
    return path


def _make_way(path: Path) -> None:
    """Keep what cannot be read as .bak. Raises TableError rather than lose a measurement."""
    from lut.table import load_table

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


def _official_blocks(datasets: Iterable[str]) -> "list[Block]":
    """Blocks of the official networks at all resolutions of the data sets' spaces."""
    from supernet.blocks import blocks_of

    return [
        block for dataset in datasets for arch in _official(dataset) for block in blocks_of(arch)
    ]


def _official(dataset: str) -> "list[Arch]":
    from supernet.named import DATASETS, heads_of, named_arch
    from supernet.space import get_space

    task = next(task for task, datasets in DATASETS.items() if dataset in datasets)
    archs = []
    for name in heads_of(dataset):
        for part in get_space("family", task=task, dataset=dataset).parts:
            arch = named_arch(name, task=task, dataset=dataset)
            if part.family == arch.family and len(part.reference.stages) == len(arch.stages):
                resolutions: Any = part.dimensions["resolution"]
                archs += [replace(arch, resolution=resolution) for resolution in resolutions]
    return archs


def _print(device: "Device", found: "Calibration", paths: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lut.device import SHIPPED, user_data_dir
    from supernet.arch import format_resolution
    from supernet.named import dataset_of

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 120
    table = Table(
        title=f"{device.label}: each architecture predicted without its own rows", box=None
    )
    for heading in ("network", "batch", "given ms", "predicted ms", "error %", "kind"):
        table.add_column(heading, justify="left" if heading in ("network", "kind") else "right")
    for row in found.rows:
        point = row.point
        name = f"{point.name} {point.dataset or point.arch.task}"
        kind = point.kind if point.fitted else f"{point.kind}, not fitted"
        table.add_row(
            f"{name} {format_resolution(point.arch.resolution)}",
            str(point.batch),
            f"{point.latency_ms:.4g}",
            f"{row.leave_out_ms:.4g}",
            f"{row.leave_out_error_percent:+.1f}",
            kind,
        )
    console.print(table)
    summary = found.summary
    console.print(
        f"error {summary.mape_percent:.1f} % on average, {summary.worst_percent:.1f} % at worst "
        f"beyond rounding; {summary.num_ordered_pairs} of {summary.num_pairs} pairs more than 8 % "
        "apart in order",
        soft_wrap=True,
    )
    if summary.mape_percent > DOUBTED_PERCENT:
        console.print("such an error is large: check the rows that are farthest off")
    console.print(f"wrote {', '.join(map(str, paths))}", soft_wrap=True)
    spec = f"{device.name}:{device.runtime}:{device.precision}"
    points = [row.point for row in found.rows if row.point.fitted]
    used = {device.batch_for(p.dataset or dataset_of(p.arch.task, None)) for p in points}
    found_by_name = paths[0].parent.resolve() == (user_data_dir() / "tables").resolve()
    if found_by_name and used & {point.batch for point in points}:
        if any((SHIPPED / "tables" / path.name).exists() for path in paths):
            console.print("it goes before the shipped table; delete it to go back to that one")
        console.print(f"next: python -m nas.search --device {spec}", soft_wrap=True)
        return
    if found_by_name:
        batches = ", ".join(map(str, sorted(used)))
        console.print(
            f"{device.name} is used with batch {batches}, of which these points have none, so the "
            "table is used by --table alone; give points with a column batch",
            soft_wrap=True,
        )
    file = shlex.quote(str(paths[0]))
    console.print(f"next: python -m nas.search --device {spec} --table {file}", soft_wrap=True)


def main() -> None:
    console_main(Calibrate, "lut.calibrate")


if __name__ == "__main__":
    main()
