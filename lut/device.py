"""Devices by name: what is known of them, and which table belongs to `NAME[:runtime[:precision]]`.

A device is a file `devices/NAME.toml`, shipped or in the user's data folder, or just a table
that the user built: then its sidecar tells the rest.
"""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.errors import DeviceError, check_choice, nearest
from results.files import read_text

SHIPPED = Path(__file__).parent
RUNTIMES = ("onnxruntime", "litert", "pytorch", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Device:
    """A device with the runtime and precision that are meant, its own or the asked ones."""

    name: str
    title: str
    runtime: str
    precision: str
    batch: dict[str, int] = field(default_factory=dict)  # by data set; 1 where not listed
    throughput: bool = False  # published as images/s: milliseconds are per image of a batch
    processor: str = ""  # class of device that a calibration starts from: a key of fit.PRIORS
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.title}, {self.runtime} {self.precision}"

    def batch_for(self, dataset: str) -> int:
        return self.batch.get(dataset, 1)

    def table_name(self, batch: int) -> str:
        """File name of a table without its ending."""
        return table_name(self.name, self.runtime, self.precision, batch)


def table_name(name: str, runtime: str, precision: str, batch: int) -> str:
    return f"{name}-{runtime}-{precision}" + (f"-b{batch}" if batch != 1 else "")


def user_data_dir() -> Path:
    """Where a user's own devices and tables live; $EFFICIENTVIT_NAS_DATA overrides it."""
    if own := os.environ.get("EFFICIENTVIT_NAS_DATA"):
        return Path(own)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "efficientvit-nas"


def table_folders() -> tuple[Path, Path]:
    """The user's own folder, then the shipped one: the first that holds a table wins."""
    return user_data_dir() / "tables", SHIPPED / "tables"


def device_names() -> list[str]:
    """All devices that `--device` finds, sorted."""
    names = {path.stem for path in _device_files()}
    names |= {_device_in(path.stem) for path in _tables()}
    return sorted(names)


def split_spec(spec: str) -> tuple[str, str | None, str | None]:
    """`NAME[:runtime[:precision]]` in its parts. Raises DeviceError for an unknown suffix."""
    name, _, suffix = spec.partition(":")
    runtime, _, precision = suffix.partition(":")
    if runtime:
        check_choice("runtime", runtime, RUNTIMES, DeviceError)
    if precision:
        check_choice("precision", precision, PRECISIONS, DeviceError)
    return name.lower(), runtime or None, precision or None


def get_device(spec: str) -> Device:
    """The device that `spec` names. Raises DeviceError with the nearest name and the cure."""
    name, runtime, precision = split_spec(spec)
    names = device_names()
    if name not in names:
        hint = "" if name == "list" else nearest(name, names)
        raise DeviceError(
            f"no device {name!r}{hint}; `python -m nas.devices` lists them, "
            f"`python -m lut.calibrate --device NAME --points FILE` adds one"
        )
    found = _settings(name)
    return Device(
        name=name,
        title=str(found.get("title", name)),
        runtime=runtime or str(found["runtime"]),
        precision=precision or str(found["precision"]),
        batch={str(k): int(v) for k, v in found.get("batch", {}).items()},
        throughput=bool(found.get("throughput", False)),
        processor=str(found.get("processor", "")),
        note=str(found.get("note", "")),
    )


def find_table(device: Device, batch: int) -> Path:
    """Path of the CSV table. Raises DeviceError naming the tables that there are."""
    wanted = device.table_name(batch)
    for folder in table_folders():
        if (folder / f"{wanted}.csv").is_file():
            return folder / f"{wanted}.csv"
    own = [path.stem for path in tables_of(device.name)]
    raise DeviceError(
        f"no table {wanted} for device {device.name} (there is {', '.join(own) or 'none'}); make "
        f"one with `python -m lut.calibrate --device {device.name}:{device.runtime}:"
        f"{device.precision} --points FILE`"
    )


def tables_of(name: str) -> list[Path]:
    """All tables of a device, the user's own before a shipped one of the same name."""
    found: dict[str, Path] = {}
    for path in _tables():
        if _device_in(path.stem) == name:
            found.setdefault(path.stem, path)
    return list(found.values())


def _settings(name: str) -> dict[str, Any]:
    for path in _device_files():
        if path.stem == name:
            try:
                return tomllib.loads(read_text(path, error=DeviceError))
            except tomllib.TOMLDecodeError as error:
                raise DeviceError(f"cannot read {path}: {error}") from None
    for path in _tables():
        runtime = _runtime_in(path.stem)
        if _device_in(path.stem) == name:
            tail = path.stem.partition(f"-{runtime}-")[2]
            precision, _, batch = tail.partition("-b")
            every = dict.fromkeys(("imagenet", "cityscapes", "ade20k", "sa1b"), int(batch or 1))
            return {"runtime": runtime, "precision": precision, "batch": every}
    raise AssertionError(f"{name} is neither a device file nor a table")


def _device_files() -> Iterator[Path]:
    for folder in (user_data_dir() / "devices", SHIPPED / "devices"):
        yield from sorted(folder.glob("*.toml"))


def _tables() -> Iterator[Path]:
    for folder in table_folders():
        yield from (p for p in sorted(folder.glob("*.csv")) if _runtime_in(p.stem))


def _device_in(stem: str) -> str:
    return stem.partition(f"-{_runtime_in(stem)}-")[0]


def _runtime_in(stem: str) -> str:
    return next((r for r in RUNTIMES if f"-{r}-" in stem), "")
