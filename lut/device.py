"""Devices by name: what is known of them, and which table belongs to `NAME[:runtime[:precision]]`.

A device is a file `devices/NAME.toml`, shipped or in the user's data folder, or just a table
that the user built: then its sidecar tells the rest.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lut.sidecar import MOST_NOTE, MOST_TITLE, AtLeastOne
from results.errors import DeviceError, check_choice, nearest, printable, shortened, shown
from results.reading import Record, Text, as_kind, read_toml
from supernet.official import ALL_DATASETS

SHIPPED = Path(__file__).parent
RUNTIMES = ("onnxruntime", "litert", "pytorch", "tensorrt")
PROCESSORS = ("cpu", "gpu", "tensor_core_gpu")  # classes that a calibration starts from
PRECISIONS = ("fp32", "fp16", "int8")
MOST_NAME = 100  # characters of a new device's name, which is part of names of files
_NAME = re.compile(r"[^\W_][\w-]*")
_TABLE_NAME = re.compile(
    rf"(?P<device>.+)-(?P<runtime>{'|'.join(RUNTIMES)})-(?P<precision>{'|'.join(PRECISIONS)})"
    r"(?:-b(?P<batch>[1-9][0-9]*))?"
)


@dataclass(frozen=True)
class Device:
    """A device with the runtime and precision that are meant, its own or the asked ones."""

    name: str
    title: str
    runtime: str
    precision: str
    batch: dict[str, int] = field(default_factory=dict)  # by data set; 1 where not listed
    throughput: bool = False  # published as images/s: milliseconds are per image of a batch
    processor: str = ""  # one of PROCESSORS
    note: str = ""

    @property
    def label(self) -> str:
        """Return title, runtime and precision, for headings."""
        return f"{self.title}, {self.runtime} {self.precision}"

    def batch_for(self, dataset: str) -> int:
        """Return the batch size that networks of a data set are timed with."""
        return self.batch.get(dataset, 1)

    def table_name(self, batch: int) -> str:
        """Return the file name of a table without its ending."""
        return table_name(self.name, self.runtime, self.precision, batch)


def table_name(name: str, runtime: str, precision: str, batch: int) -> str:
    """Return the file name of a table without its ending."""
    return f"{name}-{runtime}-{precision}" + (f"-b{batch}" if batch != 1 else "")


def user_data_dir() -> Path:
    """Return where a user's own devices and tables live; $EFFICIENTVIT_NAS_DATA overrides it."""
    if folder := os.environ.get("EFFICIENTVIT_NAS_DATA"):
        return Path(folder)
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "efficientvit-nas"
    try:
        return Path.home() / ".local" / "share" / "efficientvit-nas"
    except RuntimeError:
        raise DeviceError("there is no home folder; set EFFICIENTVIT_NAS_DATA to one") from None


def table_folders() -> tuple[Path, Path]:
    """Return the user's own folder, then the shipped one: the first that holds a table wins."""
    return user_data_dir() / "tables", SHIPPED / "tables"


def device_names() -> list[str]:
    """Return all devices that `--device` finds, sorted."""
    return sorted(
        {path.stem.lower() for path in _device_files()} | {n["device"] for n, _ in _tables()}
    )


def check_name(name: str) -> None:
    """Raise DeviceError, with the nearest name that can be, for what no new device is called."""
    if len(name) <= MOST_NAME and _NAME.fullmatch(name):
        return
    able = re.sub(r"[\W-]+", "-", name[:MOST_NAME]).strip("-_") or "mydevice"
    raise DeviceError(
        f"a device name is letters, digits, - and _, up to {MOST_NAME} of them, and begins with a "
        f"letter or digit; not {shown(name)}, but {able!r}"
    )


def split_spec(spec: str) -> tuple[str, str | None, str | None]:
    """Split `NAME[:runtime[:precision]]` in its parts. Raises DeviceError for unknown ones."""
    name, _, suffix = spec.partition(":")
    runtime, _, precision = suffix.partition(":")
    if runtime:
        check_choice("runtime", runtime, RUNTIMES, DeviceError)
    if precision:
        check_choice("precision", precision, PRECISIONS, DeviceError)
    return name.lower(), runtime or None, precision or None


def get_device(spec: str) -> Device:
    """Return the device that `spec` names. Raises DeviceError with the nearest name and a cure."""
    name, runtime, precision = split_spec(spec)
    names = device_names()
    if name not in names:
        hint = "" if name == "list" else nearest(name, names)
        raise DeviceError(
            f"no device {shown(name)}{hint}; `python -m nas.devices` lists them, "
            f"`python -m lut.calibrate --device NAME --points FILE` adds one"
        )
    device = _described(name)
    if (runtime or device.runtime, precision or device.precision) == (
        device.runtime,
        device.precision,
    ):
        return device
    # What was said of the device was said of its own runtime and precision.
    runtime, precision = runtime or device.runtime, precision or device.precision
    return Device(
        name, device.title, runtime, precision, batch=_only_batch(name, runtime, precision)
    )


def find_table(device: Device, batch: int) -> Path:
    """Return the path of the CSV table. Raises DeviceError naming the tables that there are."""
    wanted = device.table_name(batch)
    tables = tables_of(device.name)
    for path in tables:
        if path.stem == wanted:
            return path
    raise DeviceError(
        f"no table {wanted} for device {device.name} (there is "
        f"{', '.join(path.stem for path in tables) or 'none'}); make one with `python -m "
        f"lut.calibrate --device {device.name}:{device.runtime}:{device.precision} --points FILE`"
    )


def tables_of(name: str) -> list[Path]:
    """Return all tables of a device, the user's own before a shipped one of the same name."""
    tables: dict[str, Path] = {}
    for parts, path in _tables():
        if parts["device"] == name:
            tables.setdefault(path.stem, path)
    return list(tables.values())


def _described(name: str) -> Device:
    """Return what is known of a device: its file, else what the names of its tables tell."""
    for path in _device_files():
        if path.stem.lower() == name:
            return _read_device(path)
    own = [parts for parts, _ in _tables() if parts["device"] == name]
    first = min(own, key=lambda parts: int(parts["batch"] or 1))
    runtime, precision = first["runtime"], first["precision"]
    return Device(name, name, runtime, precision, batch=_only_batch(name, runtime, precision))


def _only_batch(name: str, runtime: str, precision: str) -> dict[str, int]:
    """Return the least batch that there is a table of, for every data set."""
    batches = [
        int(parts["batch"] or 1)
        for parts, _ in _tables()
        if (parts["device"], parts["runtime"], parts["precision"]) == (name, runtime, precision)
    ]
    batch = min(batches, default=1)
    return dict.fromkeys(ALL_DATASETS, batch) if batch != 1 else {}


class _File(Record, frozen=True):
    """A device file."""

    runtime: str = ""
    precision: str = ""
    title: Text | None = None
    batch: dict[str, AtLeastOne] = msgspec.field(default_factory=dict)
    throughput: bool = False
    processor: str = ""
    note: Text = ""


def _read_device(path: Path) -> Device:
    """Return a device file's device. Raises DeviceError naming the file and what is wrong in it."""
    written = read_toml(path, dict[str, Any], error=DeviceError)
    for key in written:
        check_choice(f"key in {path}", key, _File.__struct_fields__, DeviceError)
    file = as_kind(written, _File, f"cannot read {path}", error=DeviceError)
    check_choice(f"runtime in {path}", file.runtime, RUNTIMES, DeviceError)
    check_choice(f"precision in {path}", file.precision, PRECISIONS, DeviceError)
    if file.processor:
        check_choice(f"processor in {path}", file.processor, PROCESSORS, DeviceError)
    for dataset in file.batch:
        check_choice(f"data set in {path}", dataset, ALL_DATASETS, DeviceError)
    return Device(
        name=path.stem.lower(),
        title=shortened(printable(file.title or path.stem), MOST_TITLE),
        runtime=file.runtime,
        precision=file.precision,
        batch=file.batch,
        throughput=file.throughput,
        processor=file.processor,
        note=shortened(printable(file.note), MOST_NOTE),
    )


def _device_files() -> Iterator[Path]:
    for folder in (user_data_dir() / "devices", SHIPPED / "devices"):
        yield from sorted(folder.glob("*.toml"))


def _tables() -> Iterator[tuple[Mapping[str, str], Path]]:
    """Yield every table with the parts of its name; other files in the folders are passed over."""
    for folder in table_folders():
        for path in sorted(folder.glob("*.csv")):
            if parts := _TABLE_NAME.fullmatch(path.stem):
                yield parts.groupdict(), path
