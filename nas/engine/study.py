"""The search itself: an Optuna study over a space's genes, for latency and accuracy.

It asks for Archs, gives them to a callable and keeps what comes back; it knows neither
tables nor PyTorch. Trials run in memory, a population at a time, and each finished
population is appended to a journal: that is what makes it fast and lets it be resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.engine.journal import DIRECTIONS, open_journal
from nas.engine.samplers import POPULATION, Proposals, make_sampler
from nas.front import Candidate
from nas.objectives.budgets import Budget
from results.errors import RunError
from supernet.arch import Arch
from supernet.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial


@dataclass(frozen=True)
class Problem:
    """What is searched: Archs of a space, their numbers, and the limits that those must keep to."""

    space: Space
    evaluate: Callable[[Arch], Candidate]  # called once for each distinct Arch
    limits: Sequence[Budget]


class Search:
    """A search that goes on where its journal ends.

    A genetic sampler needs no more than its last population and that one's parents, so only
    those are kept in the study that asks; Optuna goes through all trials at every ask, which
    would make the time quadratic.

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
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem = problem
        self.candidates: dict[Arch, Candidate] = {}
        self.num_trials = 0
        self._num_journaled = 0
        self._first = first[:POPULATION]
        self._sampler, self._seed = sampler, seed
        self._genes = [name for name, count in problem.space.genes.items() if count > 1]
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.IntDistribution(0, problem.space.genes[name] - 1)
            for name in self._genes
        }
        self._proposals = Proposals(
            [self._genes_of(arch) for arch in proposals],
            {name: problem.space.genes[name] for name in self._genes},
        )
        self._journal = open_journal(journal)
        self._study = self._study_with([], seed)
        self._recall()

    def run(self, trials: int, on_trial: Callable[["Search"], None]) -> None:
        """Go on until `trials` are finished; `on_trial` is called after each.

        Ctrl-C raises KeyboardInterrupt, with all finished trials in the journal.
        """
        while self.num_trials < trials:
            to_boundary = POPULATION - self.num_trials % POPULATION
            self._batch(min(to_boundary, trials - self.num_trials), on_trial)

    def _batch(self, size: int, on_trial: Callable[["Search"], None]) -> None:
        finished: list[FrozenTrial] = []
        journaled = max(0, self._num_journaled - self.num_trials)  # of this batch, already
        try:
            for _ in range(size):
                trial = self._ask()
                arch = self._arch_of(trial.params)
                if arch not in self.candidates:
                    self.candidates[arch] = self.problem.evaluate(arch)
                candidate = self.candidates[arch]
                for limit in self.problem.limits:
                    trial.set_constraint(limit.flag, limit.excess(candidate))
                trial.set_user_attr("candidate", _numbers(candidate))
                values = candidate.latency_ms, candidate.accuracy
                finished.append(self._study.tell(trial, values))
                self.num_trials += 1
                on_trial(self)
        finally:
            self._journal.add_trials(finished[journaled:])
            self._num_journaled = max(self._num_journaled, self.num_trials)
        self._turn_generation()

    def _ask(self) -> "Trial":
        if self.num_trials < len(self._first):
            self._study.enqueue_trial(self._genes_of(self._first[self.num_trials]))
        return self._study.ask(self._distributions)

    def _genes_of(self, arch: Arch) -> dict[str, int]:
        space = self.problem.space
        genes = dict(zip(space.genes, space.encode(arch), strict=True))
        return {name: genes[name] for name in self._genes}

    def _turn_generation(self) -> None:
        """Keep a whole population and its parents only, and draw from a seed of its own.

        The seed depends on the position alone: a resumed search draws what an uninterrupted
        one would have.
        """
        from optuna.samplers import BaseGASampler

        if self.num_trials % POPULATION:
            return
        seed = _mix(self._seed, self.num_trials)
        sampler = self._study.sampler
        if not isinstance(sampler, BaseGASampler):
            self._study.sampler = make_sampler(self._sampler, seed, self._proposals)
            return
        last = self._study.get_trials(deepcopy=False)
        parents = []
        if len(last) > POPULATION:
            # Optuna's order depends on whether it had them cached.
            parents = sorted(
                sampler.get_parent_population(self._study, 1), key=lambda trial: trial.number
            )
        self._study = self._study_with([*parents, *last[-POPULATION:]], seed)

    def _study_with(self, pool: "Sequence[FrozenTrial]", seed: int) -> "Study":
        """Return a study in memory with `pool` as its first generation."""
        import optuna

        sampler = make_sampler(self._sampler, seed, self._proposals)
        study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
        # Archs that were asked for by name have no generation of their own.
        generation = {f"{type(sampler).__name__}:generation": 0}
        study.add_trials(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=trial.values,
                user_attrs=trial.user_attrs,
                system_attrs=trial.system_attrs | generation,
            )
            for trial in pool
        )
        return study

    def _recall(self) -> None:
        """Take up the journal's trials, population by population as they were made.

        A last population that was cut off is asked for again, from the same seed: its known
        Archs are not evaluated again nor its trials written again, and it ends as it would
        have without the cut.
        """
        from optuna.trial import TrialState

        trials = self._journal.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        whole = len(trials) - len(trials) % POPULATION
        for trial in trials:
            try:
                arch = self._arch_of(trial.params)
                self.candidates[arch] = Candidate(arch=arch, **trial.user_attrs["candidate"])
                if self.num_trials < whole:
                    self._study.add_trial(trial)
                    self.num_trials += 1
                    self._turn_generation()
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise RunError(
                    f"the journal holds a trial of another space or version ({error!r}); "
                    "start a new search"
                ) from None
        self._num_journaled = len(trials)

    def _arch_of(self, params: Mapping[str, Any]) -> Arch:
        missing = set(self._genes) - set(params)
        if missing:
            raise KeyError(f"no gene {min(missing)}")
        space = self.problem.space
        return space.decode([params.get(name, 0) for name in space.genes])


def _numbers(candidate: Candidate) -> dict[str, float | bool]:
    return {f.name: getattr(candidate, f.name) for f in fields(Candidate) if f.name != "arch"}


def _mix(seed: int, position: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
