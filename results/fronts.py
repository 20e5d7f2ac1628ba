"""What a search leaves for others to read: the records in front.json."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from results.errors import RunError
from results.reading import Count, NotNegative, Record, read_json
from results.runs import RECORD, SEARCH, command_of, read_record

F = TypeVar("F", "FrontRecord", "NetworksRecord")
FRONT = "front.json"
FRONT_ALL = "front_all.csv"  # networks that hardly differ included; its rows are what ids count

# Bounds of what a front shows: below and above them nothing is a latency, nor can it be drawn.
Milliseconds = Annotated[float, msgspec.Meta(ge=1e-9, le=1e15)]
MOST_DEVICES = 3  # beside accuracy: four objectives
Words = Annotated[str, msgspec.Meta(max_length=10_000)]


class DeviceLatencyRecord(Record, frozen=True):
    """The latency of one network on one more device."""

    latency_ms: Milliseconds
    latency_std_ms: NotNegative
    latency_extrapolated: bool = False


class CandidateNumbers(Record, frozen=True):
    """The numbers of one network of a search, all for one image; see `nas.front.Candidate`."""

    latency_ms: Milliseconds
    latency_std_ms: NotNegative
    accuracy: NotNegative
    accuracy_std: NotNegative
    params_m: NotNegative
    macs_g: NotNegative
    memory_mb: NotNegative
    latency_extrapolated: bool = False
    accuracy_extrapolated: bool = False
    accuracy_transferred: bool = False
    energy_mj: NotNegative | None = None
    others: Annotated[tuple[DeviceLatencyRecord, ...], msgspec.Meta(max_length=MOST_DEVICES)] = ()
    losses: Annotated[tuple[NotNegative, ...], msgspec.Meta(max_length=MOST_DEVICES)] = ()


class CandidateRecord(CandidateNumbers, frozen=True, kw_only=True):
    """A network on a front, or one that it is compared with; `arch` is `Arch.to_dict`."""

    arch: dict[str, Any]
    id: Count | None = None  # its row in front_all.csv; None: its position


class ObjectiveRecord(Record, frozen=True):
    """What a front was searched for; see `nas.objectives.objective.Objective`."""

    name: Literal["latency", "energy", "memory", "params", "macs", "accuracy"]
    device: Words = ""
    quantile: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.5


class FrontRecord(Record, frozen=True):
    """What front.json holds."""

    candidates: Annotated[tuple[CandidateRecord, ...], msgspec.Meta(min_length=1)]
    baselines: dict[Words, CandidateRecord]
    trials: list[Annotated[tuple[NotNegative, ...], msgspec.Meta(min_length=2)]]  # objectives
    title: Words
    metric: Words
    latency_source: Words
    accuracy_source: Words
    accuracy_provenance: Words = "published"
    objectives: Annotated[tuple[ObjectiveRecord, ...], msgspec.Meta(max_length=4)] = ()
    devices: Annotated[tuple[Words, ...], msgspec.Meta(max_length=MOST_DEVICES)] = ()

    @property
    def ids(self) -> list[int]:
        """Return the candidates' ids."""
        own = enumerate(self.candidates)
        return [position if c.id is None else c.id for position, c in own]


class NetworkRecord(Record, frozen=True):
    """A network on a front; `arch` is `Arch.to_dict`."""

    arch: dict[str, Any]
    id: Count | None = None


class NetworksRecord(Record, frozen=True):
    """The part of front.json that is read to look up RUN#ID."""

    candidates: Annotated[tuple[NetworkRecord, ...], msgspec.Meta(min_length=1)]

    @property
    def networks(self) -> dict[int, dict[str, Any]]:
        """Return the networks by id."""
        own = enumerate(self.candidates)
        return {position if c.id is None else c.id: c.arch for position, c in own}


def read_front_record(folder: Path, kind: type[F]) -> F:
    """Return front.json of a search's run, as one of the records above.

    Raises RunError if there is none or it is damaged.
    """
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}")
    path = folder / FRONT
    if not path.exists() and not (folder / RECORD).exists():
        raise RunError(f"{folder} is no run folder: it has no {RECORD}")
    if not path.exists():
        begun_by = command_of(read_record(folder))
        if begun_by not in (None, SEARCH):
            raise RunError(
                f"{folder} is a run of {begun_by}, which has no front; name one of {SEARCH}"
            )
        again = f"python -m {SEARCH} --resume {shlex.quote(str(folder))}"
        raise RunError(f"{folder} holds no front yet; go on with `{again}`")
    return read_json(path, kind)
