"""Optuna's own samplers, each with a study in memory: all that needs Optuna to be imported."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseGASampler
from optuna.trial import FrozenTrial, create_trial

from nas.engine.asking import GenesByName
from nas.engine.journal import Direction, Trial
from nas.engine.samplers import POPULATION, make_sampler


class OptunaAsker:
    """Asks a study.

    A genetic sampler needs no more than its last population and that one's parents, so only
    those are kept in the study; Optuna goes through all trials at every ask, which would make the
    time quadratic.
    """

    def __init__(
        self,
        sampler: str,
        choices: Mapping[str, int],
        directions: Sequence[Direction],
        seed: int,
    ) -> None:
        """Take one of `samplers.SAMPLERS`, and the genes' numbers of choices."""
        self._directions = directions
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sampler = sampler
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, count - 1) for name, count in choices.items()
        }
        self._trial: optuna.Trial | None = None
        self._study = self._study_with([], seed)

    def ask(self, wanted: GenesByName | None) -> GenesByName:
        """Return the genes of the next trial."""
        if wanted is not None:
            self._study.enqueue_trial(wanted)
        self._trial = self._study.ask(self._distributions)
        return self._trial.params

    def tell(self, values: Sequence[float], excess: Mapping[str, float]) -> dict[str, Any]:
        """Take up what came of the trial; return what the sampler keeps of it."""
        assert self._trial is not None
        for flag, share in excess.items():
            self._trial.set_constraint(flag, share)
        return self._study.tell(self._trial, values).system_attrs

    def recall(self, trial: Trial, genes: GenesByName) -> None:
        """Take up a trial of the journal. Raises ValueError where it fits no such search."""
        known = {name: self._distributions[name] for name in genes}
        attributes: dict[str, Any] = dict(trial.system_attrs)
        self._study.add_trial(
            create_trial(
                params=genes,
                distributions=known,
                values=list(trial.values),
                system_attrs=attributes,
            )
        )

    def turn(self, seed: int) -> None:
        """Begin a population; of a genetic sampler's trials only it and its parents are kept."""
        sampler = self._study.sampler
        if not isinstance(sampler, BaseGASampler):
            self._study.sampler = make_sampler(self._sampler, seed)
            return
        last = self._study.get_trials(deepcopy=False)
        parents = []
        if len(last) > POPULATION:
            # Optuna's order depends on whether it had them cached.
            parents = sorted(
                sampler.get_parent_population(self._study, 1), key=lambda trial: trial.number
            )
        self._study = self._study_with([*parents, *last[-POPULATION:]], seed)

    def _study_with(self, pool: Sequence[FrozenTrial], seed: int) -> Study:
        """Return a study in memory with `pool` as its first generation."""
        sampler = make_sampler(self._sampler, seed)
        study = optuna.create_study(directions=self._directions, sampler=sampler)
        # Archs that were asked for by name have no generation of their own.
        generation = {f"{type(sampler).__name__}:generation": 0}
        study.add_trials(
            create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=trial.values,
                system_attrs=trial.system_attrs | generation,
            )
            for trial in pool
        )
        return study
