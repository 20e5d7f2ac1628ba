"""The search itself: a study over a space's genes, for any few objectives.

It asks for Archs, gives them to a callable and keeps what comes back; it knows neither
tables nor PyTorch. Trials run a population at a time, and each finished population is appended to
a journal: that is what makes it fast and lets it be resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from nas.engine.asking import ArchiveAsker, Asker, GenesByName
from nas.engine.journal import Direction, Finished, Journal, Trial
from nas.engine.samplers import POPULATION
from nas.front import Candidate, candidate_of, numbers_of
from nas.objectives.budgets import Budget
from nas.objectives.objective import DEFAULT, Objective
from nas.options import ARCHIVE
from results.errors import RunError
from supernet.arch import Arch
from supernet.space import Space


@dataclass(frozen=True)
class Problem:
    """What is searched: Archs of a space, their numbers, and the limits that those must keep to."""

    space: Space
    evaluate: Callable[[Arch], Candidate]  # called once for each distinct Arch
    limits: Sequence[Budget]
    objectives: Sequence[Objective] = DEFAULT


class Search:
    """A search that goes on where its journal ends.

    Args:
        first: at most one population of Archs to try before any other, inside the space.
        journal: Optuna journal file; a new one is made, an existing one is gone on with.
        proposals: what the sampler `archive` tries in turn, inside the space.

    Raises RunError where the journal cannot be read or is another search's.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        sampler: str,
        seed: int,
        first: Sequence[Arch],
        journal: Path,
        proposals: Sequence[Arch] = (),
    ) -> None:
        self.problem = problem
        self.candidates: dict[Arch, Candidate] = {}
        self.num_trials = 0
        self._num_journaled = 0
        self._first = first[:POPULATION]
        self._seed = seed
        self._choices = {name: n for name, n in problem.space.genes.items() if n > 1}
        self._directions: list[Direction] = [
            "maximize" if own.is_maximized else "minimize" for own in problem.objectives
        ]
        self._asker = self._asker_of(sampler, proposals)
        self._journal = Journal(journal, self._choices, self._directions)
        self._recall()
        self._journal.begin()

    def run(self, trials: int, on_trial: Callable[["Search"], None]) -> None:
        """Go on until `trials` are finished; `on_trial` is called after each.

        Ctrl-C raises KeyboardInterrupt, with all finished trials in the journal.
        """
        while self.num_trials < trials:
            to_boundary = POPULATION - self.num_trials % POPULATION
            self._batch(min(to_boundary, trials - self.num_trials), on_trial)

    def _batch(self, size: int, on_trial: Callable[["Search"], None]) -> None:
        finished: list[Finished] = []
        journaled = max(0, self._num_journaled - self.num_trials)  # of this batch, already
        try:
            for _ in range(size):
                finished.append(self._try_next())
                self.num_trials += 1
                on_trial(self)
        finally:
            self._journal.append(finished[journaled:])
            self._num_journaled = max(self._num_journaled, self.num_trials)
        self._turn_generation()

    def _try_next(self) -> Finished:
        started = datetime.now(UTC)
        wanted = None
        if self.num_trials < len(self._first):
            wanted = self._genes_of(self._first[self.num_trials])
        genes = self._asker.ask(wanted)
        arch = self._arch_of(genes)
        if arch not in self.candidates:
            self.candidates[arch] = self.problem.evaluate(arch)
        candidate = self.candidates[arch]
        excess = {limit.name: float(limit.excess(candidate)) for limit in self.problem.limits}
        values = tuple(own.value(candidate) for own in self.problem.objectives)
        kept = self._asker.tell(values, excess)
        return Finished(genes, values, numbers_of(candidate), kept, started, datetime.now(UTC))

    def _asker_of(self, sampler: str, proposals: Sequence[Arch]) -> Asker:
        if sampler == ARCHIVE:
            return ArchiveAsker(list(map(self._genes_of, proposals)), self._choices, self._seed)
        from nas.engine.optuna_study import OptunaAsker  # its import takes time

        return OptunaAsker(sampler, self._choices, self._directions, self._seed)

    def _genes_of(self, arch: Arch) -> GenesByName:
        space = self.problem.space
        genes = dict(zip(space.genes, space.encode(arch), strict=True))
        return {name: genes[name] for name in self._choices}

    def _turn_generation(self) -> None:
        """Begin a population where one has ended, from a seed of its own.

        The seed depends on the position alone: a resumed search draws what an uninterrupted
        one would have.
        """
        if self.num_trials % POPULATION == 0:
            self._asker.turn(_mix(self._seed, self.num_trials))

    def _recall(self) -> None:
        """Take up the journal's trials, population by population as they were made.

        A last population that was cut off is asked for again, from the same seed: its known
        Archs are not evaluated again nor its trials written again, and it ends as it would
        have without the cut.
        """
        trials = self._journal.trials
        whole = len(trials) - len(trials) % POPULATION
        for trial in trials:
            try:
                genes = self._genes_in(trial)
                arch = self._arch_of(genes)
                self.candidates[arch] = candidate_of(arch, trial.user_attrs.candidate)
                if self.num_trials < whole:
                    self._asker.recall(trial, genes)
                    self.num_trials += 1
                    self._turn_generation()
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise RunError(
                    f"{self._journal.path} holds a trial of another space or version ({error!r}); "
                    "start a new search"
                ) from None
        self._num_journaled = len(trials)

    def _genes_in(self, trial: Trial) -> GenesByName:
        missing = self._choices.keys() - trial.params.keys()
        if missing:
            raise KeyError(f"no gene {min(missing)}")
        genes = {name: int(trial.params[name]) for name in self._choices}
        if any(trial.params[name] != value for name, value in genes.items()):
            raise ValueError("a gene is no whole number")
        return genes

    def _arch_of(self, genes: Mapping[str, int]) -> Arch:
        space = self.problem.space
        return space.decode([genes.get(name, 0) for name in space.genes])


def _mix(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
