"""Make a device's latency tables from latencies of whole networks.

python -m lut.calibrate --device mydevice:onnxruntime:fp32 --points points.csv
python -m lut.calibrate --device mydevice:onnxruntime:fp32 --points points.csv --from orin
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from results.console import main as console_main
from results.console import note, terminal
from results.errors import DeviceError, TableError, check_choice, printable
from results.files import write_text

if TYPE_CHECKING:
    from lut.calibration.fit import Calibration
    from lut.calibration.points import Point
    from lut.calibration.transfer import Transfer
    from lut.device import Device
    from lut.roofline import Roofline
    from lut.table import Table
    from supernet.arch import Arch
    from supernet.blocks import Block

# The published latencies that the shipped tables are made from, and what they ran on.
_PUBLISHED = files("results") / "published" / "points"

REFUSED_PERCENT = 50  # error from which on a table would only mislead
DOUBTED_PERCENT = 10  # and from which on it says so
SUSPECTS = 8  # points, one of which may be what contradicts all others
COMPARED_UP_TO = 60  # points for which a transfer is compared with a physical fit, in seconds


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
    from_: Annotated[str | None, arg(name="from")] = None
    """Start from another device's table instead of bare physics: NAME[:runtime[:precision]], or
    a table's CSV."""
    propose: int | None = None
    """Write no table; propose this many networks to time next, as points without latencies."""
    space: str = "family"
    """Where the proposed networks come from: family, b, l, all or tiny."""
    seed: int = 0
    """Of the proposed networks."""
    out_points: Path | None = None
    """File of the proposed networks; by default they are printed."""
    out: Path | None = None
    """Folder of the tables; by default the user's own, where --device finds them."""
    report: Path | None = None
    """Folder for a row-by-row page and a picture, predicted against published."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        from lut.calibration.fit import PRIORS, fit
        from lut.calibration.points import check_points, read_points
        from lut.calibration.transfer import transfer
        from lut.device import user_data_dir

        if self.propose is not None:
            self._propose(self.propose)
            return
        if self.out_points is not None:
            raise TableError("--out-points is the file of --propose N; give that, too")
        device = self._device()
        points = self._read(device, read_points)
        check_points(points)
        processor = self._processor(device)
        moved, other = None, None

        def fit_to(some: "Sequence[Point]") -> "Calibration":
            if moved is not None:
                return transfer(some, moved.source, _processor_of(moved.source)).calibration
            return fit(some, device.precision, PRIORS[processor])

        if self.from_ is None:
            found = fit_to(points)
        else:
            moved, other = self._transfer(points, device)
            found = moved.calibration
        if found.summary.mape_percent > REFUSED_PERCENT:
            raise TableError(_contradiction(found, other, fit_to))
        if self.points is not None:
            device = replace(device, note="")  # which speaks of the published points
        folder = self.out or user_data_dir() / "tables"
        paths = [
            _write_table(device, found, batch, folder, processor, moved)
            for batch in _datasets_by_batch(device, points)
        ]
        try:
            if self.json:
                summary = {"tables": list(map(str, paths)), **asdict(found.summary)}
                if moved is not None:
                    summary |= {"from": _origin(moved)["from"], "physical_mape_percent": other}
                print(json.dumps(summary, allow_nan=False))
            elif not self.quiet:
                _print(device, found, paths, moved, other)
        finally:  # last, as no picture is worth the numbers; also where nobody reads on
            if self.report is not None:
                from lut.calibration.report import write_report

                write_report(device, found, self.report)

    def _processor(self, device: "Device") -> str:
        """Whose physics `device` has. Raises DeviceError."""
        from lut.device import PROCESSORS

        guess = "tensor_core_gpu" if device.runtime == "tensorrt" else "cpu"
        processor = self.processor or device.processor or guess
        check_choice("processor", processor, PROCESSORS, DeviceError)
        return processor

    def _transfer(
        self, points: "Sequence[Point]", device: "Device"
    ) -> "tuple[Transfer, float | None]":
        """The transfer, and the error in percent of a physical fit where that is cheap."""
        from lut.calibration.fit import PRIORS, fit
        from lut.calibration.transfer import transfer

        batches = sorted({point.batch for point in points if point.fitted})
        if len(batches) > 1:
            raise TableError(
                f"these points have batches {', '.join(map(str, batches))}; --from transfers one "
                "at a time, from a table of that batch: leave the other rows out"
            )
        source = self._source(batches[0] if batches else 1)
        points = [p for p in points if p.fitted or p.batch == source.batch]
        moved = transfer(points, source, _processor_of(source))
        if len(points) > COMPARED_UP_TO:
            return moved, None
        prior = PRIORS[self._processor(device)]
        return moved, fit(points, device.precision, prior).summary.mape_percent

    def _source(self, batch: int | None) -> "Table":
        """The table that --from names; of `batch`, None that of classification."""
        from lut.device import find_table, get_device
        from lut.table import load_table

        name = self.from_ or ""
        if name.endswith(".csv") or Path(name).is_file():
            return load_table(Path(name))
        device = get_device(name)
        return load_table(find_table(device, batch or device.batch_for("imagenet")))

    def _propose(self, count: int) -> None:
        from lut.calibration.points import read_points
        from lut.calibration.propose import propose
        from supernet.spaces import get_space

        if self.from_ is None:
            raise TableError(
                "--propose needs --from TABLE, the device that tells what a network costs, such as "
                "--from orin"
            )
        space = get_space(self.space)
        tell = None if self.quiet else note
        measured = read_points(self.points, tell=tell) if self.points is not None else []
        source = self._source(measured[0].batch if measured else None)
        found = propose(count, source, space, measured, _processor_of(source), self.seed)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("arch", "batch", "latency_ms", "notes"))
        for arch, ms in found:
            told = f"{ms:.4g} ms per image on {source.device}"
            writer.writerow((json.dumps(arch.to_dict()), source.batch, "", told))
        if self.out_points is not None:
            write_text(self.out_points, text.getvalue())
        if self.json:
            print(
                json.dumps(
                    {
                        "out_points": self.out_points and str(self.out_points),
                        "networks": [{"arch": a.to_dict(), "source_ms": ms} for a, ms in found],
                    }
                )
            )
        elif self.out_points is None:
            print(text.getvalue(), end="")
        elif not self.quiet:
            print(f"wrote {self.out_points}: fill in latency_ms, then give it with --points")

    def _device(self) -> "Device":
        from lut.device import Device, check_name, device_names, get_device, split_spec

        if len(self.device) != 1:
            raise DeviceError("give one --device NAME[:runtime[:precision]]")
        name, runtime, precision = split_spec(self.device[0])
        if name in device_names():
            device = get_device(self.device[0])
            return replace(device, title=printable(self.title or device.title))
        check_name(name)
        if runtime is None or precision is None:
            raise DeviceError(
                f"{name} is a new device: name its runtime and precision, as in "
                f"--device {name}:onnxruntime:fp32"
            )
        return Device(name, printable(self.title or name), runtime, precision)

    def _read(self, device: "Device", read: Any) -> "list[Point]":
        if self.points is not None:
            found: list[Point] = read(self.points, tell=None if self.quiet else note)
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


def _processor_of(source: "Table") -> str:
    """Whose physics a table has that brings none of its own."""
    from lut.device import PROCESSORS, device_names, get_device

    if own := source.sidecar.calibration.processor:
        check_choice("processor", own, PROCESSORS, TableError)
        return own
    spec = f"{source.device}:{source.runtime}:{source.precision}"
    known = get_device(spec).processor if source.device in device_names() else ""
    return known or ("tensor_core_gpu" if source.runtime == "tensorrt" else "cpu")


def _moved_along(moved: "Transfer") -> dict[str, Any]:
    """What a transferred table's sidecar has beyond that of a fitted one.

    Where the source has no model of its own, the table serves the space that it was measured for.
    """
    flags = moved.source.sidecar.written.get("space_flags")
    space = {"space_flags": flags} if flags and moved.source.roofline is None else {}
    return {"transfer": _origin(moved), **space}


def _origin(moved: "Transfer") -> dict[str, Any]:
    """Of a transferred table's sidecar."""
    source = moved.source
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
        "method": "one scale" if moved.spread == 0 else "factors by resource",
        "factors": dict(moved.factors),
        "spread": moved.spread,
        "error_percent_by_spread": {str(s): error for s, error in moved.errors.items()},
        "blocks_not_listed": (
            "by the source's own model, slowed down likewise"
            if source.roofline
            else "none: the source has no model of its own"
        ),
    }


def _contradiction(
    found: "Calibration",
    physical_percent: float | None,
    fit_to: "Callable[[Sequence[Point]], Calibration]",
) -> str:
    """What is wrong with points that no model fits.

    `fit_to` fits to some of the points: the row is to blame without which the others agree.
    """
    if physical_percent is not None and physical_percent <= REFUSED_PERCENT:
        return (
            "that table is too unlike this device: architectures left out are predicted "
            f"{found.summary.mape_percent:.0f} % wrong, and {physical_percent:.1f} % by a physical "
            "fit; leave --from out, or start from another"
        )
    rows = [row for row in found.rows if row.point.fitted]
    # In logarithms: a latency that is ten times too long makes others look far too long, too.
    rows.sort(key=lambda row: -abs(math.log(row.leave_out_ms / row.point.latency_ms)))
    points = [row.point for row in found.rows]
    errors = {}
    for row in rows[:SUSPECTS]:
        try:
            others = fit_to([point for point in points if point is not row.point])
        except TableError:  # all others are of one architecture, or none is left
            continue
        errors[row.point.row] = others.summary.mape_percent
    worst = min(rows[:SUSPECTS], key=lambda row: errors.get(row.point.row, math.inf))
    without = errors.get(worst.point.row, math.inf)
    agree = f" (error {without:.0f} % without it)" if without < REFUSED_PERCENT else ""
    place = f" in row {worst.point.row}" if worst.point.row else ""
    return (
        "these points contradict each other: architectures left out are predicted "
        f"{found.summary.mape_percent:.0f} % wrong, so no table is written. Farthest off is "
        f"{worst.point.name}{place} with {worst.point.latency_ms:.4g} ms where "
        f"{worst.leave_out_ms:.4g} ms would fit the others{agree}; check units and typing errors"
    )


def _datasets_by_batch(device: "Device", points: "Sequence[Point]") -> dict[int, list[str]]:
    """The batch sizes that the points have, and the data sets whose networks each table lists."""
    from supernet.official import ALL_DATASETS

    return {
        batch: [d for d in ALL_DATASETS if device.batch_for(d) == batch] or list(ALL_DATASETS)
        for batch in sorted({point.batch for point in points if point.fitted})
    }


def _write_table(
    device: "Device",
    found: "Calibration",
    batch: int,
    folder: Path,
    processor: str,
    moved: "Transfer | None",
) -> Path:
    from lut.sidecar import Sidecar
    from lut.table import Table, rows_for
    from supernet.blocks import blocks_of

    path = folder / f"{device.table_name(batch)}.csv"
    _make_way(path)
    rows = [row for row in found.rows if row.point.fitted]
    seen = [r.point.latency_ms for r in rows if r.point.batch == batch]
    summary = found.summary
    every_batch = {row.point.batch for row in rows}
    datasets = _datasets_by_batch(device, [row.point for row in rows])[batch]
    note, what = device.note, "transfer" if moved else "fit"
    roofline: Roofline | None = found.model.roofline
    if moved is None:
        entries = rows_for(
            _official_blocks(datasets),
            found.model.roofline,
            batch,
            device.precision,
            summary.sigma,
        )
    else:
        entries = {block: moved.entry(block) for block in moved.source.entries}
        roofline = moved.roofline(device.precision)
        source = moved.source
        origin = f"transferred from {source.title}, {source.runtime} {source.precision}"
        note = f"{origin}; {note}" if note else origin
    table = Table(
        device=device.name,
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        batch=batch,
        entries=entries,
        terms=found.model.terms,
        roofline=roofline,
        sidecar=Sidecar.of(
            {
                "note": note,
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
                        f"each architecture left out of the {what} in turn"
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
            }
            | (_moved_along(moved) if moved else {})
        ),
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
    from supernet.official import DATASETS, heads_of, named_arch
    from supernet.spaces import get_space

    task = next(task for task, datasets in DATASETS.items() if dataset in datasets)
    archs = []
    for name in heads_of(dataset):
        for part in get_space("family", task=task, dataset=dataset).parts:
            arch = named_arch(name, task=task, dataset=dataset)
            if part.family == arch.family and len(part.reference.stages) == len(arch.stages):
                resolutions: Any = part.dimensions["resolution"]
                archs += [replace(arch, resolution=resolution) for resolution in resolutions]
    return archs


def _print(
    device: "Device",
    found: "Calibration",
    paths: Sequence[Path],
    moved: "Transfer | None",
    physical_percent: float | None,
) -> None:
    from rich.table import Table

    from lut.device import SHIPPED, user_data_dir
    from lut.next_command import command_after
    from lut.table import load_table
    from supernet.arch import format_resolution
    from supernet.resolve import dataset_of_arch

    console = terminal(width=120)
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
    if moved is not None:
        for line in _transferred(moved, physical_percent):
            console.print(line, soft_wrap=True)
    if summary.mape_percent > DOUBTED_PERCENT:
        console.print("such an error is large: check the rows that are farthest off")
    console.print(f"wrote {', '.join(map(str, paths))}", soft_wrap=True)
    points = [row.point for row in found.rows if row.point.fitted]
    used = {device.batch_for(dataset_of_arch(point.arch)) for point in points}
    by_name = paths[0].parent.resolve() == (user_data_dir() / "tables").resolve()
    if by_name and used & {point.batch for point in points}:
        if any((SHIPPED / "tables" / path.name).exists() for path in paths):
            console.print("it goes before the shipped table; delete it to go back to that one")
    elif by_name:
        batches = ", ".join(map(str, sorted(used)))
        console.print(
            f"{device.name} is used with batch {batches}, of which these points have none, so the "
            "table is used by --table alone; give points with a column batch",
            soft_wrap=True,
        )
        by_name = False
    tables = {path: load_table(path) for path in paths}
    path = next((p for p, t in tables.items() if by_name and t.batch in used), paths[0])
    command = command_after(device, tables[path], path, by_name, points)
    console.print(f"next: {command}", soft_wrap=True)


def _transferred(moved: "Transfer", physical_percent: float | None) -> list[str]:
    """What a transfer found, and whether bare physics would do better."""
    source = moved.source
    origin = f"from {source.title}, {source.runtime} {source.precision}: "
    terms = moved.terms
    if moved.spread == 0:
        scale = moved.calibration.parameters["scale"]
        lines = [origin + f"every block {scale:.4g} times as long"]
    else:
        named = (f"{n.replace('_', ' ')} {f:.4g}" for n, f in moved.factors.items())
        offset = f"; offset {terms.fixed_ms:.4g} ms and {terms.ms_per_mb:.4g} ms/MB"
        one = f" (one scale alone: error {moved.errors[0.0]:.1f} %)"
        lines = [origin + "times as long are " + ", ".join(named) + offset + one]
    if source.roofline is None:
        lines.append("blocks that the source does not list are not in this table")
    if physical_percent is not None:
        ours = moved.calibration.summary.mape_percent
        better = "better: leave --from out" if physical_percent < ours else "no better"
        lines.append(f"a physical fit without --from: error {physical_percent:.1f} %, {better}")
    return lines


def main() -> None:
    console_main(Calibrate, "lut.calibrate")


if __name__ == "__main__":
    main()
