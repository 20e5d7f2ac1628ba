"""The result of a search, and its files front.csv, front.json and front_all.csv."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from nas.objectives.objective import DEFAULT, LATENCY, MEDIAN, QUANTITIES, Objective
from results.errors import ArchError, RunError
from results.files import write_json, write_text
from results.fronts import (
    FRONT,
    FRONT_ALL,
    CandidateNumbers,
    CandidateRecord,
    FrontRecord,
    ObjectiveRecord,
    read_front_record,
)
from supernet.arch import Arch, format_resolution

NUMBERS = (
    "latency_ms",
    "latency_std_ms",
    "accuracy",
    "accuracy_std",
    "params_m",
    "macs_g",
    "memory_mb",
)
LEAST_STEP, SHARE_OF_STD = 0.02, 0.1  # points, and share: what a thinned front's steps exceed
TRANSFERRED = "transferred"  # provenance of what networks of other spaces say
COLUMNS = ("id", *NUMBERS, "resolution", "arch", "accuracy_provenance")


@dataclass(frozen=True, slots=True)
class DeviceLatency:
    """The latency of a network on one more device."""

    latency_ms: float
    latency_std_ms: float
    latency_extrapolated: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An Arch with everything that a front shows of it; all for one image, memory for a batch."""

    arch: Arch
    latency_ms: float
    latency_std_ms: float
    accuracy: float
    accuracy_std: float
    params_m: float  # millions
    macs_g: float  # billions
    memory_mb: float  # peak activations of a batch plus weights, 1e6 bytes
    latency_extrapolated: bool = False  # beyond what the predictor was ever checked on
    accuracy_extrapolated: bool = False
    accuracy_transferred: bool = False  # a choice is judged by what it is worth in other networks
    energy_mj: float | None = None  # None: not asked for
    others: tuple[DeviceLatency, ...] = ()  # on the second and further devices
    losses: tuple[float, ...] = ()  # by device: share of latency beside its own best as accurate

    def __post_init__(self) -> None:
        for name in NUMBERS:
            _check_number(name, getattr(self, name))
        for other in self.others:
            _check_number("latency_ms", other.latency_ms)
            _check_number("latency_std_ms", other.latency_std_ms)
        if self.energy_mj is not None:
            _check_number("energy_mj", self.energy_mj)
        for loss in self.losses:
            _check_number("a loss", loss)
        latencies = self.latencies
        marks = (
            *(latency.latency_extrapolated for latency in latencies),
            self.accuracy_extrapolated,
            self.accuracy_transferred,
        )
        if any(type(mark) is not bool for mark in marks):
            raise ValueError("marks must be true or false")
        if any(latency.latency_ms == 0 for latency in latencies):
            raise ValueError("latency_ms must not be 0")

    @property
    def latencies(self) -> tuple[DeviceLatency, ...]:
        """Return the latencies on all devices."""
        own = DeviceLatency(self.latency_ms, self.latency_std_ms, self.latency_extrapolated)
        return (own, *self.others)

    @property
    def is_extrapolated(self) -> bool:
        """Tell whether any of the numbers is a guess beyond what is known."""
        unlike = any(latency.latency_extrapolated for latency in self.latencies)
        return unlike or self.accuracy_extrapolated


def _check_number(name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be a finite number, not {str(value)[:40]!r}")


@dataclass(frozen=True)
class Front:
    """Non-dominated candidates, those of the least first objective first, and some others."""

    candidates: tuple[Candidate, ...]
    baselines: Mapping[str, Candidate]  # official networks by name and resolution
    trials: Sequence[Sequence[float]]  # values of the objectives, of some feasible Archs
    title: str  # device, runtime, precision
    metric: str  # what accuracy is, with its unit
    latency_source: str  # provenance and error
    accuracy_source: str
    accuracy_provenance: str = "published"  # or supernet, trained
    ids: tuple[int, ...] = ()  # of the candidates: rows of front_all.csv; (): their positions
    objectives: tuple[Objective, ...] = DEFAULT  # that no candidate is beaten in, accuracy last
    devices: tuple[str, ...] = ()  # names, where there are several

    @property
    def costs(self) -> tuple[Objective, ...]:
        """Return what is minimised."""
        return tuple(own for own in self.objectives if not own.is_maximized)

    @property
    def by_id(self) -> dict[int, Candidate]:
        """Return the candidates by id, fastest first."""
        ids = self.ids or range(len(self.candidates))
        return dict(zip(ids, self.candidates, strict=True))

    @property
    def near(self) -> str:
        """Return what candidates have in common whose accuracy is not extrapolated."""
        if self.accuracy_provenance == "published":
            return "shaped like the published networks"
        return "made of choices that were evaluated"

    def check(self) -> None:
        """Raise ValueError where the objectives are none, or a candidate lacks a number of them."""
        *costs, accuracy = self.objectives
        if not costs or any(cost.is_maximized for cost in costs) or not accuracy.is_maximized:
            raise ValueError("a front is of costs, and of accuracy last")
        if any(own.quantile != MEDIAN and own.quantity is not LATENCY for own in self.objectives):
            raise ValueError("a quantile of what has no distribution")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("a device twice")
        for candidate in (*self.candidates, *self.baselines.values()):
            if len(candidate.others) != max(0, len(self.devices) - 1):
                raise ValueError("a network without the latency on each device")
            if any(objective.value(candidate) is None for objective in self.objectives):
                raise ValueError("a network without one of the objectives")
        if any(len(candidate.losses) != len(self.devices) for candidate in self.candidates):
            raise ValueError("a network without its loss on each device")
        if any(len(values) != len(self.objectives) for values in self.trials):
            raise ValueError("a trial without one of the objectives")

    def write(self, folder: Path, whole: Sequence[Candidate] = ()) -> None:
        """Write front_all.csv, then front.csv and front.json, each atomically.

        Args:
            whole: the front before it was thinned; ids are positions here. (): it was not.

        Raises RunError.
        """
        own = self.by_id
        rows = [(number, own.get(number, c)) for number, c in enumerate(whole or self.candidates)]
        write_text(folder / FRONT_ALL, self._sheet(rows))
        write_text(folder / "front.csv", self._sheet(list(own.items())))
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ids"}
        data["candidates"] = [{"id": number, **_to_dict(c)} for number, c in own.items()]
        data["baselines"] = {name: _to_dict(c) for name, c in self.baselines.items()}
        data["trials"] = [
            [*(round(cost, 6) for cost in costs), round(accuracy, 4)]
            for *costs, accuracy in self.trials
        ]
        data["objectives"] = [
            {"name": own.quantity.name, "device": own.device, "quantile": own.quantile}
            for own in self.objectives
        ]
        write_json(folder / FRONT, data, indent=None)

    def _sheet(self, rows: Sequence[tuple[int, Candidate]]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = self._columns()
        writer.writerow(("id", *columns, "resolution", "arch", "accuracy_provenance"))
        for number, candidate in rows:
            arch = candidate.arch
            values = [f"{number(candidate):.6g}" for number in columns.values()]
            resolution = format_resolution(arch.resolution)
            marked = candidate.accuracy_transferred
            provenance = TRANSFERRED if marked else self.accuracy_provenance
            writer.writerow((number, *values, resolution, arch.to_json(), provenance))
        return text.getvalue()

    def _columns(self) -> dict[str, Callable[[Candidate], float]]:
        """Return the numbers of front.csv by heading."""
        columns: dict[str, Callable[[Candidate], float]] = {}
        for place, device in enumerate(self.devices or ("",)):
            for name in NUMBERS[:2]:
                heading = name.replace("_", f"_{device}_", 1) if device else name
                columns[heading] = partial(_latency, place, name)
            if device:
                columns[f"loss_{device}_percent"] = partial(_loss_percent, place)
        for name in NUMBERS[2:]:
            columns[name] = partial(_number, name)
        for objective in self.objectives:
            columns.setdefault(objective.column, objective.value)
        return columns


def read_front(folder: Path) -> Front:
    """Return the front in a run folder. Raises RunError if there is none or it is damaged."""
    record = read_front_record(folder, FrontRecord)
    try:
        objectives = [_from_objective(own, record.devices) for own in record.objectives]
        front = Front(
            tuple(map(_from_record, record.candidates)),
            {name: _from_record(official) for name, official in record.baselines.items()},
            record.trials,
            record.title,
            record.metric,
            record.latency_source,
            record.accuracy_source,
            record.accuracy_provenance,
            tuple(record.ids),
            tuple(objectives) or DEFAULT,
            tuple(record.devices),
        )
        front.check()
    except (ArchError, ValueError) as error:
        raise RunError(f"{folder / FRONT} is damaged: {error}") from None
    return front


def thinned(accuracy: Sequence[float], std: Sequence[float]) -> list[int]:
    """Return which networks of a front, fastest first, differ by more than nothing.

    A step in accuracy is the larger of 0.02 points and a tenth of its standard deviation. The
    fastest and the most accurate stay.

    >>> thinned([70.0, 70.01, 70.5, 70.51], [0.1, 0.1, 0.1, 0.1])
    [0, 3]
    """
    kept: list[int] = []
    for number, value in enumerate(accuracy):
        if not kept or value >= accuracy[kept[-1]] + step_of(std[kept[-1]]):
            kept.append(number)
    last = len(accuracy) - 1
    if kept and kept[-1] != last:
        kept = [*(kept[:-1] if len(kept) > 1 else kept), last]
    return kept


def step_of(std: float) -> float:
    """Return the difference in accuracy below which two networks count as alike, in points."""
    return max(LEAST_STEP, SHARE_OF_STD * std)


def _latency(place: int, name: str, candidate: Candidate) -> float:
    return float(getattr(candidate.latencies[place], name))


def _loss_percent(place: int, candidate: Candidate) -> float:
    return 100 * candidate.losses[place]


def _number(name: str, candidate: Candidate) -> float:
    return float(getattr(candidate, name))


def numbers_of(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate without its Arch as JSON has it, without what was not asked for."""
    numbers = {field.name: getattr(candidate, field.name) for field in fields(Candidate)}
    del numbers["arch"]
    numbers["others"] = tuple(map(asdict, candidate.others))
    return {name: value for name, value in numbers.items() if value not in (None, ())}


def candidate_of(arch: Arch, record: CandidateNumbers) -> Candidate:
    """Return a network with the numbers that were written of it. Raises ValueError."""
    names = [field.name for field in fields(Candidate) if field.name not in ("arch", "others")]
    others = tuple(
        DeviceLatency(own.latency_ms, own.latency_std_ms, own.latency_extrapolated)
        for own in record.others
    )
    return Candidate(arch, **{name: getattr(record, name) for name in names}, others=others)


def _to_dict(candidate: Candidate) -> dict[str, Any]:
    return {"arch": candidate.arch.to_dict(), **numbers_of(candidate)}


def _from_record(record: CandidateRecord) -> Candidate:
    return candidate_of(Arch.from_dict(record.arch), record)


def _from_objective(record: ObjectiveRecord, devices: Sequence[str]) -> Objective:
    place = list(devices).index(record.device) if record.device else 0
    return Objective(QUANTITIES[record.name], record.device, place, record.quantile)
