"""study.log: the trials of a search, in the lines of Optuna's journal.

The whole file is read and checked before Optuna sees any of it, and nothing is cut or written
before the first trial that is appended.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

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

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages.journal import BaseJournalBackend

STUDY = "search"
DIRECTIONS: tuple[Literal["minimize"], Literal["maximize"]] = ("minimize", "maximize")
BEGINS = '{"op_code":'  # of every line


class Created(Record, frozen=True, tag_field="op_code", tag=0):
    """The study begins; a line that searches of older versions repeat when they are resumed."""

    worker_id: str
    study_name: Literal["search"]
    directions: tuple[Literal[1], Literal[2]]  # minimize, maximize


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
    values: tuple[Finite, Finite]
    value: None = None


class Bounds(Record, frozen=True):
    """The first and the last choice of a gene."""

    low: Count
    high: Count
    step: Literal[1]
    log: Literal[False]


class Distribution(Record, frozen=True):
    """The choices of a gene."""

    name: Literal["IntDistribution"]
    attributes: Bounds


class Journal:
    """The backend of an Optuna storage: one process, which holds the run folder's lock."""

    def __init__(self, path: Path) -> None:
        """Read and check all of `path`, if it is there. Raises RunError."""
        self.path = path
        self.logs: list[dict[str, Any]] = []
        self._torn_from: int | None = None  # where to cut what a killed process began to write
        if path.exists():
            self._read(read_bytes(path, most=MOST_LOG_BYTES))

    def read_logs(self, log_number_from: int) -> Sequence[dict[str, Any]]:
        """Return the lines from a number on, from 0, as Optuna asks for them."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines, all of them or none. Raises RunError where they cannot be written."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            with open(os.open(self.path, flags, 0o666), "wb") as file:
                end = file.seek(0, os.SEEK_END) if self._torn_from is None else self._torn_from
                file.seek(end)
                file.truncate()
                try:
                    file.write("".join(f"{line}\n" for line in lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        os.truncate(self.path, end)
                    raise
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._torn_from = None
        self.logs += map(json.loads, lines)

    def _read(self, data: bytes) -> None:
        text = data.removeprefix(b"\xef\xbb\xbf")
        lines, end = whole_lines(text, BEGINS, str(self.path))
        distributions: set[str] = set()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                self._check(line, f"{self.path}, line {number}", distributions)
            except RunError as error:
                raise RunError(
                    f"{error}; nothing was changed. Take away this line and all after it to go on "
                    "from there, or start a new search"
                ) from None
            self.logs.append(msgspec.json.decode(line))
        if end < len(text):
            self._torn_from = len(data) - len(text) + end

    def _check(self, line: bytes, where: str, distributions: set[str]) -> None:
        """Raise RunError for a line that is none of a search; `distributions` are known ones."""
        record: Created | Trial = parse_json(line, Created | Trial, where)  # type: ignore[arg-type]
        if isinstance(record, Created):
            return
        if not self.logs:
            raise RunError(f"{where}: a trial before the study begins")
        for text in set(record.distributions.values()) - distributions:
            parse_json(text, Distribution, where)
            distributions.add(text)


def open_journal(path: Path) -> "Study":
    """Return the study in `path`, which is made with its first line where it is not there.

    Raises RunError where it cannot be read or is no journal of a search.
    """
    import optuna
    from optuna.storages import JournalStorage

    journal = Journal(path)
    try:
        storage = JournalStorage(cast("BaseJournalBackend", journal))
        if journal.logs:
            return optuna.load_study(study_name=STUDY, storage=storage)
        return optuna.create_study(storage=storage, study_name=STUDY, directions=DIRECTIONS)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, OverflowError) as why:
        raise RunError(f"{path} is no journal of a search ({why}); start a new one") from None
