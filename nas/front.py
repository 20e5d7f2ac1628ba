"""The result of a search, and its files front.csv, front.json and front_all.csv."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from results.errors import ArchError, RunError
from results.files import write_json, write_text
from results.fronts import FRONT, FRONT_ALL, CandidateRecord, FrontRecord, read_front_record
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

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, not {str(value)[:40]!r}")
        marks = (
            self.latency_extrapolated,
            self.accuracy_extrapolated,
            self.accuracy_transferred,
        )
        if any(type(mark) is not bool for mark in marks) or self.latency_ms == 0:
            raise ValueError("marks must be true or false, and latency_ms not 0")


@dataclass(frozen=True)
class Front:
    """Non-dominated candidates, fastest first, beside what they were chosen from."""

    candidates: tuple[Candidate, ...]
    baselines: Mapping[str, Candidate]  # official networks by name and resolution
    trials: Sequence[tuple[float, float]]  # latency_ms and accuracy of some feasible Archs
    title: str  # device, runtime, precision
    metric: str  # what accuracy is, with its unit
    latency_source: str  # provenance and error
    accuracy_source: str
    accuracy_provenance: str = "published"  # or supernet, trained
    ids: tuple[int, ...] = ()  # of the candidates: rows of front_all.csv; (): their positions

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
        data["trials"] = [[round(ms, 6), round(acc, 4)] for ms, acc in self.trials]
        write_json(folder / FRONT, data, indent=None)

    def _sheet(self, rows: Sequence[tuple[int, Candidate]]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, candidate in rows:
            marked = candidate.accuracy_transferred
            provenance = TRANSFERRED if marked else self.accuracy_provenance
            writer.writerow((*_row(number, candidate), provenance))
        return text.getvalue()


def read_front(folder: Path) -> Front:
    """Return the front in a run folder. Raises RunError if there is none or it is damaged."""
    record = read_front_record(folder, FrontRecord)
    try:
        return Front(
            tuple(map(_from_record, record.candidates)),
            {name: _from_record(official) for name, official in record.baselines.items()},
            record.trials,
            record.title,
            record.metric,
            record.latency_source,
            record.accuracy_source,
            record.accuracy_provenance,
            tuple(record.ids),
        )
    except ArchError as error:
        raise RunError(f"{folder / FRONT} is damaged: {error}") from None


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


def _row(number: int, candidate: Candidate) -> tuple[Any, ...]:
    values = [f"{getattr(candidate, name):.6g}" for name in NUMBERS]
    arch = candidate.arch
    return (number, *values, format_resolution(arch.resolution), arch.to_json())


def _to_dict(candidate: Candidate) -> dict[str, Any]:
    own = {field.name: getattr(candidate, field.name) for field in fields(candidate)}
    return own | {"arch": candidate.arch.to_dict()}


def _from_record(record: CandidateRecord) -> Candidate:
    values = {field.name: getattr(record, field.name) for field in fields(Candidate)}
    return Candidate(**values | {"arch": Arch.from_dict(record.arch)})
