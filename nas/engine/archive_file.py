"""archive.json of a run: how far its archive search has come, to go on from there.

Only genes are kept; their numbers are found again when they are read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from nas.engine.archive import Evolution, Progress
from results.errors import RunError
from results.files import write_text
from results.reading import Count, Record, read_json
from results.runs import Run

ARCHIVE_FILE = "archive.json"
SHARED_FILE = "archives_shared.json"  # of what several devices share; before there was one
MOST_NETWORKS = 10**6
Gene = Annotated[int, msgspec.Meta(ge=0, le=10**6)]


class ArchiveRecord(Record, frozen=True):
    """One front."""

    genes: Annotated[list[list[Gene]], msgspec.Meta(max_length=MOST_NETWORKS)]
    expanded: Annotated[list[bool], msgspec.Meta(max_length=MOST_NETWORKS)]


class ProgressRecord(Record, frozen=True):
    """What archive.json holds."""

    archives: list[ArchiveRecord]
    generation: Count
    evaluations: Count
    is_complete: bool


@dataclass(frozen=True)
class Files:
    """The files of a run; without one nothing is there, and nothing is written."""

    run: Run | None

    def read(self, name: str, evolution: Evolution) -> Progress | None:
        """Return how far a search came. Raises RunError where the file is damaged."""
        return read_progress(self.run.path(name), evolution) if self.run else None

    def write(self, name: str, progress: Progress) -> None:
        """Write how far a search came. Raises RunError."""
        if self.run:
            write_progress(self.run.path(name), progress)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.run:
            self.run.path(name).unlink(missing_ok=True)


def write_progress(path: Path, progress: Progress) -> None:
    """Write archive.json, atomically. Raises RunError."""
    archives = [
        {"genes": archive.genes.tolist(), "expanded": archive.expanded.tolist()}
        for archive in progress.archives
    ]
    record = {
        "archives": archives,
        "generation": progress.generation,
        "evaluations": progress.evaluations,
        "is_complete": progress.is_complete,
    }
    write_text(path, json.dumps(record, separators=(",", ":")) + "\n")


def read_progress(path: Path, evolution: Evolution) -> Progress | None:
    """Return what `write_progress` wrote; None where there is no file, and a search begins.

    Raises RunError where it is damaged or of another search.
    """
    if not path.exists():
        return None
    cure = "remove it, and the search begins anew from its seed"
    try:
        record = read_json(path, ProgressRecord)
    except RunError as error:
        raise RunError(f"{error}; {cure}") from None
    damaged = RunError(f"{path} is damaged; {cure}")
    if len(record.archives) != len(evolution.num_objectives):
        raise damaged
    archives = []
    for number, (kept, empty) in enumerate(zip(record.archives, evolution.empty(), strict=True)):
        count = len(evolution.counts)
        if len(kept.genes) != len(kept.expanded) or any(len(row) != count for row in kept.genes):
            raise damaged
        genes = np.array(kept.genes, dtype=np.intp).reshape(len(kept.genes), count)
        if np.any(genes >= np.array(evolution.counts)):
            raise damaged
        archive = empty.add(genes, evolution.judge(genes)[number].costs)
        if len(archive) != len(genes) or np.any(archive.genes != genes):
            raise damaged
        archives.append(archive.mark(np.flatnonzero(kept.expanded)))
    return Progress(tuple(archives), record.generation, record.evaluations, record.is_complete)
