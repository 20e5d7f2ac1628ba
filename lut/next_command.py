"""What to do next with a new table: commands that work as they are printed."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lut.calibration.points import Point
from lut.device import Device
from lut.table import Table
from supernet.arch import format_resolution
from supernet.official import dataset_of, named_arch
from supernet.resolve import dataset_of_arch


def search_command(
    device: Device, path: Path, found_by_name: bool, task: str | None, dataset: str | None
) -> str:
    """Return a search for the task and data set, in the space that the table was measured for."""
    words = ["python", "-m", "nas.search", *_table(device, path, found_by_name)]
    if task and task != "classification":
        words += ["--task", task]
    if dataset and task and dataset != dataset_of(task, None):  # type: ignore[arg-type]
        words += ["--dataset", dataset]
    return shlex.join(words)


def predict_command(device: Device, path: Path, found_by_name: bool, point: Point) -> str:
    """Return a prediction of a network that was timed, whose blocks are in the table for sure."""
    words = ["python", "-m", "nas.predict", *_table(device, path, found_by_name), "--arch"]
    arch = point.arch
    if point.name == "custom":
        return shlex.join([*words, arch.to_json()])
    words += [point.name, "--resolution", format_resolution(arch.resolution)]
    if arch.task != named_arch(point.name).task:
        words += ["--task", arch.task]
    if arch.task == "segmentation":
        words += ["--dataset", dataset_of_arch(arch)]
    return shlex.join(words)


def command_after(
    device: Device, table: Table, path: Path, found_by_name: bool, points: Sequence[Point]
) -> str:
    """Return a command for a table that was made from `points`, by what it covers."""
    flags = table.sidecar.space_flags
    alike = [point for point in points if point.batch == table.batch]
    if table.roofline is None and flags is not None:
        return search_command(device, path, found_by_name, flags.task, flags.dataset)
    searched = [point for point in alike if point.arch.task != "super_resolution"]
    if table.roofline is None or not searched:
        return predict_command(device, path, found_by_name, alike[0])
    arch = min(searched, key=lambda point: point.arch.task != "classification").arch
    return search_command(device, path, found_by_name, arch.task, dataset_of_arch(arch))


def _table(device: Device, path: Path, found_by_name: bool) -> list[str]:
    spec = f"{device.name}:{device.runtime}:{device.precision}"
    return ["--device", spec, *([] if found_by_name else ["--table", str(path)])]
