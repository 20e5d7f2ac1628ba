"""What a search gives back."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from nas.front import Front
from nas.options import SearchOptions
from results.runs import SEARCH


@dataclass(frozen=True)
class Outcome:
    """How a search went, as run.json has it."""

    trials: int
    distinct_archs: int
    front: int  # candidates on it
    interrupted: bool  # by Ctrl-C, with fewer trials than asked for
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """A search that ended, and the run folder that it left."""

    options: SearchOptions  # those of the run, where one was resumed
    folder: Path
    front: Front  # without candidates where it was interrupted before any kept to all budgets
    outcome: Outcome
    notes: tuple[str, ...]  # what a reader of the front must know, a line each

    @property
    def again(self) -> str:
        """Return the command line that goes on with the run."""
        return f"python -m {SEARCH} --resume {shlex.quote(str(self.folder))}"
