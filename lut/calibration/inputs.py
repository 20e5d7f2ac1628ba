"""What a calibration works on: device, points, physics and source, looked up from its options."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from lut.calibration.options import CalibrationOptions
from lut.calibration.points import Point, check_points, read_points
from lut.device import (
    PROCESSORS,
    Device,
    check_name,
    device_names,
    find_table,
    get_device,
    split_spec,
    user_data_dir,
)
from lut.table import Table, load_table
from results.console import note
from results.errors import DeviceError, TableError, check_choice, printable

# The published latencies that the shipped tables are made from, and what they ran on.
_PUBLISHED = files("results") / "published" / "points"


@dataclass(frozen=True)
class CalibrationInputs:
    """Everything that tables are made of."""

    device: Device
    points: tuple[Point, ...]
    processor: str  # whose physics to start from without a source
    source: Table | None  # None: bare physics
    folder: Path  # of the tables

    @property
    def batches(self) -> list[int]:
        """Return the batch sizes of the points that are fitted, in order: one table each."""
        return sorted({point.batch for point in self.points if point.fitted})


def look_up(options: CalibrationOptions, *, notes: bool = False) -> CalibrationInputs:
    """Find and read what the options name.

    With `notes` what was assumed of the points' file is said on stderr. Raises DeviceError, and
    TableError for points or a source that cannot be used.
    """
    device = _device(options)
    points = _points(options, device, notes)
    check_points(points)
    processor = _processor(options, device)
    source = None
    if options.from_ is not None:
        source = find_source(options.from_, _batch(points))
        points = [p for p in points if p.fitted or p.batch == source.batch]
    if options.points is not None:
        device = replace(device, note="")  # which speaks of the published points
    folder = options.out or user_data_dir() / "tables"
    return CalibrationInputs(device, tuple(points), processor, source, folder)


def find_source(name: str, batch: int | None) -> Table:
    """Return the table that --from names; of a batch, or of classification's where that is None.

    Raises DeviceError and TableError.
    """
    if name.endswith(".csv") or Path(name).is_file():
        return load_table(Path(name))
    device = get_device(name)
    return load_table(find_table(device, batch or device.batch_for("imagenet")))


def processor_of(source: Table) -> str:
    """Return whose physics a table has that brings none of its own. Raises TableError."""
    if recorded := source.sidecar.calibration.processor:
        check_choice("processor", recorded, PROCESSORS, TableError)
        return recorded
    spec = f"{source.device}:{source.runtime}:{source.precision}"
    usual = get_device(spec).processor if source.device in device_names() else ""
    return usual or _usual_processor(source.runtime)


def _usual_processor(runtime: str) -> str:
    return "tensor_core_gpu" if runtime == "tensorrt" else "cpu"


def _processor(options: CalibrationOptions, device: Device) -> str:
    processor = options.processor or device.processor or _usual_processor(device.runtime)
    check_choice("processor", processor, PROCESSORS, DeviceError)
    return processor


def _batch(points: Sequence[Point]) -> int:
    """Return the one batch size of the points. Raises TableError where they have several."""
    batches = sorted({point.batch for point in points if point.fitted})
    if len(batches) > 1:
        raise TableError(
            f"these points have batches {', '.join(map(str, batches))}; --from transfers one "
            "at a time, from a table of that batch: leave the other rows out"
        )
    return batches[0] if batches else 1


def _device(options: CalibrationOptions) -> Device:
    if len(options.device) != 1:
        raise DeviceError("give one --device NAME[:runtime[:precision]]")
    name, runtime, precision = split_spec(options.device[0])
    if name in device_names():
        device = get_device(options.device[0])
        return replace(device, title=printable(options.title or device.title))
    check_name(name)
    if runtime is None or precision is None:
        raise DeviceError(
            f"{name} is a new device: name its runtime and precision, as in "
            f"--device {name}:onnxruntime:fp32"
        )
    return Device(name, printable(options.title or name), runtime, precision)


def _points(options: CalibrationOptions, device: Device, notes: bool) -> list[Point]:
    if options.points is not None:
        return read_points(options.points, tell=note if notes else None)
    published = _PUBLISHED / f"{device.name}.csv"
    shipped = get_device(device.name) if published.is_file() else device
    if not published.is_file() or replace(device, title=shipped.title) != shipped:
        raise TableError(
            f"nothing is published for {device.name} with {device.runtime} "
            f"{device.precision}; give latencies of known networks with --points FILE "
            "(columns arch and latency_ms)"
        )
    with as_file(published) as path:
        return read_points(path)
