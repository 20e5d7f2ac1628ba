"""The archive search as a sampler of Optuna: its study holds the best networks that were found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class ArchiveSampler(BaseSampler):
    """Proposes networks of an archive in their order, those that the study has not tried yet.

    Once all were tried, networks are drawn at random.
    """

    def __init__(
        self, proposals: Sequence[dict[str, int]], choices: Mapping[str, int], seed: int
    ) -> None:
        """Take genes by name, those of the best network first, and their numbers of choices."""
        self._proposals = proposals
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, count - 1) for name, count in choices.items()
        }
        self._seed = seed
        self._left: Iterator[dict[str, int]] | None = None  # as the study stood at the first ask

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all genes: they are proposed together."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the genes of the next proposal."""
        if self._left is None:
            trials = study.get_trials(deepcopy=False)
            tried = {_key(other.params) for other in trials if other.number != trial.number}
            self._left = iter([genes for genes in self._proposals if _key(genes) not in tried])
        return dict(next(self._left, {}))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> int:
        """Draw a gene where no proposal is left."""
        assert isinstance(param_distribution, IntDistribution)
        place = sum(map(ord, param_name))
        rng = np.random.default_rng([self._seed, trial.number, place])
        low, high = param_distribution.low, param_distribution.high
        return int(rng.integers(low, high, endpoint=True))


def _key(genes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(genes.items()))
