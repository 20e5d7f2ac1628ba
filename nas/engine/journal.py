"""study.log: the trials of a search, in the lines of Optuna's journal.

`optuna.load_study` and optuna-dashboard read it. The whole file is read and checked before any of
it is used, and nothing is cut or written before the first trial that is appended.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from results.errors import RunError
from results.fronts import CandidateNumbers
from results.reading import (
    MOST_LOG_BYTES,
    Count,
    Finite,
    Record,
    parse_json,
    read_bytes,
    whole_lines,
)

STUDY = "search"
WRITER = "nas.search"  # where Optuna has the process and thread that wrote a line
Direction = Literal["minimize", "maximize"]
CODES: dict[Direction, int] = {"minimize": 1, "maximize": 2}  # as Optuna writes them
BEGINS = '{"op_code":'  # of every line


class Created(Record, frozen=True, tag_field="op_code", tag=0):
    """The study begins; a line that searches of older versions repeat when they are resumed."""

    worker_id: str
    study_name: Literal["search"]
    directions: tuple[Literal[1, 2], ...]  # minimize, maximize


class Attributes(Record, frozen=True):
    """What a search keeps of a trial beside its objectives."""

    candidate: CandidateNumbers


class Trial(Record, frozen=True, tag_field="op_code", tag=4):
    """A finished trial."""

    worker_id: str
    study_id: Literal[0]
    state: Literal[1]  # complete
    datetime_start: datetime
    datetime_complete: datetime
    distributions: dict[str, str]  # each a Distribution as JSON
    params: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1e6)]]  # genes
    user_attrs: Attributes
    system_attrs: dict[str, Count | Finite | dict[str, Finite]]
    values: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=2, max_length=4)]
    value: None = None  # as older versions wrote it


class Bounds(Record, frozen=True):
    """The first and the last choice of a gene."""

    low: Count
    high: Count
    step: Literal[1] = 1
    log: Literal[False] = False


class Distribution(Record, frozen=True):
    """The choices of a gene."""

    name: Literal["IntDistribution"]
    attributes: Bounds


@dataclass(frozen=True)
class Finished:
    """A trial to be written."""

    genes: Mapping[str, int]
    values: Sequence[float]
    numbers: Mapping[str, Any]  # of the candidate, by field
    system_attrs: Mapping[str, Any]  # what a sampler keeps of it
    started: datetime
    completed: datetime


class Journal:
    """The file: one process, which holds the run folder's lock, writes it."""

    def __init__(
        self, path: Path, choices: Mapping[str, int], directions: Sequence[Direction]
    ) -> None:
        """Read and check all of `path`, if it is there. Raises RunError.

        Args:
            choices: their number, of each gene.
            directions: of the objectives.
        """
        self.path = path
        self._directions = tuple(CODES[direction] for direction in directions)
        self.trials: list[Trial] = []
        # Optuna wants them in every trial: only so short do they not make up most of the file.
        self._distributions = {name: _distribution(count) for name, count in choices.items()}
        self._is_begun = False
        self._torn_from: int | None = None  # where to cut what a killed process began to write
        if path.exists():
            self._read(read_bytes(path, most=MOST_LOG_BYTES))

    def begin(self) -> None:
        """Write the line of the study, where it is not there. Raises RunError."""
        if not self._is_begun:
            begun = {"op_code": 0, **_OWN, "study_name": STUDY, "directions": self._directions}
            self._append([begun])
            self._is_begun = True

    def append(self, trials: Sequence[Finished]) -> None:
        """Add trials, all of them or none. Raises RunError where they cannot be written."""
        if trials:
            self._append([self._line_of(trial) for trial in trials])

    def _line_of(self, trial: Finished) -> dict[str, Any]:
        return {
            "op_code": 4,
            **_OWN,
            "study_id": 0,
            "state": 1,
            "datetime_start": trial.started.astimezone(UTC),
            "datetime_complete": trial.completed.astimezone(UTC),
            "values": trial.values,
            "distributions": self._distributions,
            "params": trial.genes,
            "user_attrs": {"candidate": trial.numbers},
            "system_attrs": trial.system_attrs,
        }

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            with open(os.open(self.path, flags, 0o666), "wb") as file:
                end = file.seek(0, os.SEEK_END) if self._torn_from is None else self._torn_from
                file.seek(end)
                file.truncate()
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        os.truncate(self.path, end)
                    raise
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._torn_from = None

    def _read(self, data: bytes) -> None:
        text = data.removeprefix(b"\xef\xbb\xbf")
        lines, end = whole_lines(text, BEGINS, str(self.path))
        known: set[str] = set()  # distributions
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                self._take(line, f"{self.path}, line {number}", known)
            except RunError as error:
                raise RunError(
                    f"{error}; nothing was changed. Take away this line and all after it to go on "
                    "from there, or start a new search"
                ) from None
        if end < len(text):
            self._torn_from = len(data) - len(text) + end

    def _take(self, line: bytes, where: str, known: set[str]) -> None:
        """Take up a line. Raises RunError for one that is none of a search."""
        record: Created | Trial = parse_json(line, Created | Trial, where)  # type: ignore[arg-type]
        if isinstance(record, Created):
            if record.directions != self._directions:
                raise RunError(f"{where}: a study of other objectives")
            self._is_begun = True
            return
        if not self._is_begun:
            raise RunError(f"{where}: a trial before the study begins")
        for text in set(record.distributions.values()) - known:
            parse_json(text, Distribution, where)
            known.add(text)
        if len(record.values) != len(self._directions):
            raise RunError(f"{where}: {len(record.values)} values of {len(self._directions)}")
        if missing := sorted(record.params.keys() - record.distributions.keys()):
            raise RunError(f"{where}: no distribution of {missing[0]}")
        self.trials.append(record)


_OWN = {"worker_id": WRITER}


def _distribution(count: int) -> str:
    """Return the choices of a gene as Optuna reads them, without what it assumes anyway."""
    record = {"name": "IntDistribution", "attributes": {"low": 0, "high": count - 1}}
    return msgspec.json.encode(record).decode()
