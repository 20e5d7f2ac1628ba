"""What a search gives back."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from nas.engine.proving import Proven
from nas.engine.reach import Cost
from nas.engine.sharing import Sharing
from nas.front import Front
from nas.objectives.budgets import Budget, budgets
from nas.options import SearchOptions
from results.runs import SEARCH


@dataclass(frozen=True)
class Outcome:
    """How a search went, as run.json has it."""

    trials: int
    distinct_archs: int  # in the trials
    front: int  # candidates on it, thinned
    interrupted: bool  # by Ctrl-C, with fewer trials than asked for
    seconds: float
    evaluations: int = 0  # networks in all, those of the archive search included
    whole_front: int = 0  # candidates before thinning
    cost_of_reach: Cost | None = None  # None: nothing kept the front near, or `near_only`
    near_only: bool = False  # no network beyond reach of what is known was looked at
    proof: Proven | None = None  # None: not tried
    sharing: Sharing | None = None  # None: one device


@dataclass(frozen=True)
class SearchResult:
    """A search that ended, and the run folder that it left."""

    options: SearchOptions  # those of the run, where one was resumed
    folder: Path
    front: Front  # without candidates where it was interrupted before any kept to all budgets
    outcome: Outcome
    notes: tuple[str, ...]  # what a reader of the front must know, a line each
    reached_by: tuple[str | None, ...] = ()  # flag of nas.verify by device; None: not measured

    @property
    def latency_limits(self) -> tuple[Budget, ...]:
        """Return the budgets of latency."""
        options, devices = self.options, self.front.devices
        return budgets({"--max-latency-ms": options.max_latency_ms}, devices, options.risk)

    @property
    def again(self) -> str:
        """Return the command line that goes on with the run."""
        return f"python -m {SEARCH} --resume {shlex.quote(str(self.folder))}"
