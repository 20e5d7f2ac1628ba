"""The devices of a search, each with the latency table that --device and --table name."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lut.device import Device, device_names, find_table
from nas.objectives.objective import MOST as MOST_OBJECTIVES
from predictors.latency import LatencyPredictor, choose_predictor
from results.errors import DeviceError, SearchError, TableError, nearest

MOST = MOST_OBJECTIVES - 1  # devices; accuracy is an objective too


@dataclass(frozen=True)
class Target:
    """A device that networks are to run on."""

    device: Device
    latency: LatencyPredictor
    label: str  # in columns and flags: the device's name, with its runtime where that stands twice

    @property
    def title(self) -> str:
        """Return device, runtime, precision and batch."""
        table = self.latency.table
        return f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}"


def choose_targets(specs: Sequence[str], tables: Sequence[str], dataset: str) -> tuple[Target, ...]:
    """Return the devices with their tables.

    Args:
        specs: NAME[:runtime[:precision]] of each.
        tables: FILE, or DEVICE=FILE where there are several devices.

    Raises UserError for a device or table that is none, twice, or does not compare with others.
    """
    if not specs:
        raise DeviceError(
            f"--device is missing: choose from {', '.join(device_names())}; "
            "`python -m nas.devices` tells more"
        )
    if len(specs) > MOST:
        raise DeviceError(f"{len(specs)} devices at once are more than {MOST}; leave some out")
    files = tables_by_device(specs, tables)
    chosen = [choose_predictor(spec, files.get(spec), dataset) for spec in specs]
    labels = _labels([device for device, _ in chosen])
    targets = tuple(
        Target(device, latency, label)
        for (device, latency), label in zip(chosen, labels, strict=True)
    )
    _check_comparable(targets)
    return targets


def tables_by_device(specs: Sequence[str], tables: Sequence[str]) -> dict[str, Path]:
    """Return the file of each device that has one, by `specs`.

    Raises TableError where a table is of no device or a device has two.
    """
    found: dict[str, Path] = {}
    for text in tables:
        name, equals, file = text.partition("=")
        if len(specs) == 1 and (not equals or Path(text).exists() or name not in specs):
            name, file = specs[0], text
        elif not equals:
            raise TableError(
                f"--table {text} is one of several devices'; say which: --table {specs[0]}={text}"
            )
        named = [spec for spec in specs if name in (spec, spec.partition(":")[0])]
        if len(named) != 1:
            told = f"is of no --device{nearest(name, specs)}" if not named else "may be of two"
            raise TableError(f"--table {text} {told}; name one of {', '.join(specs)}")
        if named[0] in found:
            raise TableError(f"--table of {named[0]} is given twice; leave one out")
        found[named[0]] = Path(file)
    return found


def _labels(devices: Sequence[Device]) -> list[str]:
    """Return names that tell devices apart. Raises DeviceError where two are the same."""
    names = [device.name for device in devices]
    labels = [
        device.name
        if names.count(device.name) == 1
        else f"{device.name}_{device.runtime}_{device.precision}"
        for device in devices
    ]
    for label, name in zip(labels, names, strict=True):
        if labels.count(label) > 1:
            raise DeviceError(f"--device {name} stands there twice; leave one out")
    return labels


def _check_comparable(targets: Sequence[Target]) -> None:
    """Raise SearchError where latencies are of different numbers of images at once."""
    first = targets[0]
    for other in targets[1:]:
        own, theirs = first.latency.table.batch, other.latency.table.batch
        if own != theirs:
            raise SearchError(
                f"latencies do not compare: {first.label}'s are of batches of {own}, "
                f"{other.label}'s of {theirs}; {_cure(other, own)}"
            )


def _cure(target: Target, batch: int) -> str:
    """Return how to have a table of another batch."""
    try:
        path = find_table(target.device, batch)
    except DeviceError:
        return "give tables of one batch by --table DEVICE=FILE"
    return f"give --table {target.device.name}={shlex.quote(str(path))}"
