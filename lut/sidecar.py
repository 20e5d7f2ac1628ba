"""A table's sidecar: what the program reads of it; whatever else is in it is kept as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from results.errors import TableError
from results.reading import Count, Finite, NotNegative, Record, Text, as_kind

MOST_TITLE = 200  # characters of a device's title or a table's that are shown
MOST_NOTE = 1000

AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=10**6)]  # images of a batch, or threads


class Settings(Record, frozen=True):
    """The fields that are a `Table`'s own."""

    device: Text
    title: Text
    runtime: Annotated[str, msgspec.Meta(pattern=r"^\w+\Z", max_length=100)]
    precision: str
    batch: AtLeastOne
    threads: AtLeastOne | None
    network_terms: dict[str, Finite]
    roofline: dict[str, Finite] | None


class Error(Record, frozen=True):
    """How wrong a table is on whole networks."""

    mape_percent: NotNegative | None = None
    worst_percent: NotNegative | None = None
    kendall_tau: Finite | None = None
    relative_std: NotNegative | None = None
    min_ms: NotNegative | None = None
    max_ms: NotNegative | None = None
    block_kinds: list[Text] | None = None
    judged_on: Text | None = None


class SpaceFlags(Record, frozen=True):
    """The space that a table was measured for, as flags of `lut.build`."""

    task: Text | None = None
    dataset: Text | None = None
    space: Text | None = None
    freeze: list[Text] | None = None
    num_classes: Count | None = None


class Environment(Record, frozen=True):
    """What ran the models of a measured table."""

    runtime: Text | None = None
    version: Text | None = None
    package: Text | None = None  # of Python, where one has several
    tool: Text | None = None  # where one ran the models, such as trtexec
    cpus: list[Count] | None = None
    provider: Text | None = None


class Target(Record, frozen=True):
    """The machine that a table was measured on."""

    kind: Text | None = None
    machine: Text | None = None
    model: Text | None = None
    soc: Text | None = None
    cpu: Text | None = None


class Network(Record, frozen=True):
    """A whole network that was measured with the blocks."""

    arch: dict[str, Any]
    measured_ms: NotNegative | None = None


class Measurement(Record, frozen=True):
    """How a table was measured."""

    target: Target = Target()
    environment: Environment = Environment()
    networks: list[Network] = msgspec.field(default_factory=list)
    num_measured: Count = 0
    num_interpolated: Count = 0
    seconds: NotNegative = 0.0
    failed: list[str] = msgspec.field(default_factory=list)
    remarks: list[str] = msgspec.field(default_factory=list)


class CalibrationRecord(Record, frozen=True):
    """How a table was calibrated."""

    processor: Text | None = None


class _Fields(Record, frozen=True):
    """The fields that are read; a null counts as left out."""

    note: Text | None = None
    error: Error | None = None
    space_flags: SpaceFlags | None = None
    measurement: Measurement | None = None
    calibration: CalibrationRecord | None = None


@dataclass(frozen=True)
class Sidecar:
    """What a table's sidecar tells beside `Settings`; made by `Sidecar.of`."""

    note: str = ""
    error: Error = field(default_factory=Error)  # without fields where the table was never checked
    space_flags: SpaceFlags | None = None  # None: measured for no space, or not measured
    measurement: Measurement = field(default_factory=Measurement)
    calibration: CalibrationRecord = field(default_factory=CalibrationRecord)
    written: Mapping[str, Any] = field(default_factory=dict)  # all fields as they are in the file

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> "Sidecar":
        """Read the fields of a file. Raises TableError for one of the wrong type."""
        read = as_kind(dict(written), _Fields, "sidecar", error=TableError)
        return cls(
            note=read.note or "",
            error=read.error or Error(),
            space_flags=read.space_flags,
            measurement=read.measurement or Measurement(),
            calibration=read.calibration or CalibrationRecord(),
            written=written,
        )

    def having(self, **fields: Any) -> "Sidecar":
        """Return a copy with these fields as a file has them. Raises TableError."""
        return Sidecar.of({**self.written, **fields})
