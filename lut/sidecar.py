"""What the program reads of a table's sidecar; whatever else is in it is kept as it is."""

from typing import Annotated, Any

import msgspec

from results.reading import Count, Finite, NotNegative, Record

MOST_TITLE = 200  # characters of a device's title or a table's that are shown
MOST_NOTE = 1000

Batch = Annotated[int, msgspec.Meta(ge=1, le=10**6)]  # or a number of threads
Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class Settings(Record, frozen=True):
    """The fields that are a `Table`'s own."""

    device: Text
    title: Text
    runtime: Annotated[str, msgspec.Meta(pattern=r"^\w+\Z", max_length=100)]
    precision: str
    batch: Batch
    threads: Batch | None
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
    """What ran the models."""

    cpus: list[Count] | None = None
    provider: Text | None = None


class Network(Record, frozen=True):
    """A whole network that was measured with the blocks."""

    arch: dict[str, Any]


class Measurement(Record, frozen=True):
    """How a table was measured."""

    environment: Environment | None = None
    networks: list[Network] | None = None


class Calibration(Record, frozen=True):
    """How a table was calibrated."""

    processor: Text | None = None


class Told(Record, frozen=True):
    """The free part."""

    note: Text | None = None
    error: Error | None = None
    space_flags: SpaceFlags | None = None
    measurement: Measurement | None = None
    calibration: Calibration | None = None
