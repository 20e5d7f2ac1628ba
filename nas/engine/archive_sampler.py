"""The sampler `archive` for studies of one's own: Optuna asks, the archive search proposes.

`nas.search` itself proposes the same networks without Optuna, whose import and 300 questions would
take a tenth of its time, and writes what Optuna would have written.
"""

from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nas.engine.archive_search import ArchiveSearch
from nas.engine.asking import ArchiveAsker, GenesByName
from nas.engine.found import with_neighbours
from nas.engine.search_run import SearchRun
from nas.options import SearchOptions
from supernet.arch import Arch


class ArchiveSampler(BaseSampler):
    """Proposes the best networks of a search, those that the study has not tried yet.

    First come the official networks and what keeps to the budgets, then the thinned front and its
    neighbours, then random networks. The search runs at the first trial, in a second.
    """

    def __init__(self, options: SearchOptions) -> None:
        """Look up what the options name. Raises UserError for whatever they name wrongly."""
        self._prepared = SearchRun.of(options)
        genes = self._prepared.space.genes
        self._choices = {name: count for name, count in genes.items() if count > 1}
        self._asker: ArchiveAsker | None = None
        self._independent = RandomSampler(seed=options.seed)

    def arch_of(self, trial: Trial | FrozenTrial) -> Arch:
        """Return the network of a trial, once its genes were asked for."""
        genes = self._prepared.space.genes
        return self._prepared.space.decode([trial.params.get(name, 0) for name in genes])

    @property
    def search_space(self) -> dict[str, BaseDistribution]:
        """Return the genes, for `study.ask`."""
        return {name: IntDistribution(0, count - 1) for name, count in self._choices.items()}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all genes: they are proposed together."""
        return self.search_space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the genes of the next proposal."""
        if self._asker is None:
            self._asker = ArchiveAsker(self._proposals(), self._choices, self._prepared.seed)
            for other in study.get_trials(deepcopy=False):
                if other.number != trial.number and other.params.keys() >= self._choices.keys():
                    self._asker.took({name: other.params[name] for name in self._choices})
        return dict(self._asker.ask(None))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw what is no gene of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _proposals(self) -> list[GenesByName]:
        prepared = self._prepared
        first = prepared.first(prepared.starting_points())
        search = ArchiveSearch.of(prepared, first)
        reached = search.run(None, prepared.options.num_evaluations, lambda done: None)
        best = search.best(reached, prepared.options.num_trials // 2)
        tried = prepared.with_energy(with_neighbours(prepared.space, best, prepared.seed))
        return [self._genes_of(arch) for arch in dict.fromkeys([*first, *tried])]

    def _genes_of(self, arch: Arch) -> GenesByName:
        space = self._prepared.space
        genes = dict(zip(space.genes, space.encode(arch), strict=True))
        return {name: genes[name] for name in self._choices}
