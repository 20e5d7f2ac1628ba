"""Which network a search tries next, and the sampler `archive`, which knows that beforehand."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from nas.engine.journal import Trial

GenesByName = dict[str, int]
CONSTRAINT = "constraints:"  # before a limit's flag, in the names that Optuna has for their excess


class Asker(Protocol):
    """Tells which networks to try, in populations."""

    def ask(self, wanted: GenesByName | None) -> GenesByName:
        """Return the genes of the next trial: those `wanted`, where it is not None."""
        ...

    def tell(self, values: Sequence[float], excess: Mapping[str, float]) -> dict[str, Any]:
        """Take up what came of the trial; return what of it the journal has to keep.

        Args:
            values: of the objectives.
            excess: by what share each limit is broken, by its flag.
        """
        ...

    def recall(self, trial: Trial, genes: GenesByName) -> None:
        """Take up a trial of the journal. Raises ValueError where it fits no such search."""
        ...

    def turn(self, seed: int) -> None:
        """Begin a population, drawn from a seed of its own."""
        ...


class ArchiveAsker:
    """Proposes networks of an archive in their order, those that have not been tried yet.

    Once all were tried, networks are drawn at random.
    """

    def __init__(
        self, proposals: Sequence[GenesByName], choices: Mapping[str, int], seed: int
    ) -> None:
        """Take the genes of the best network first, and the genes' numbers of choices."""
        self._proposals: Iterator[GenesByName] = iter(proposals)
        self._choices, self._seed = choices, seed
        self._tried: set[tuple[int, ...]] = set()
        self._num_trials = 0

    def ask(self, wanted: GenesByName | None) -> GenesByName:
        """Return the genes of the next trial."""
        genes = self._next() if wanted is None else wanted
        self.took(genes)
        return genes

    def tell(self, values: Sequence[float], excess: Mapping[str, float]) -> dict[str, Any]:
        """Return what Optuna keeps of limits."""
        return {CONSTRAINT + flag: share for flag, share in excess.items()}

    def recall(self, trial: Trial, genes: GenesByName) -> None:
        """Take up a trial of the journal."""
        self.took(genes)

    def turn(self, seed: int) -> None:
        """Begin a population."""
        self._seed = seed

    def took(self, genes: GenesByName) -> None:
        """Take up what was tried."""
        self._tried.add(tuple(genes[name] for name in self._choices))
        self._num_trials += 1

    def _next(self) -> GenesByName:
        for genes in self._proposals:
            if tuple(genes[name] for name in self._choices) not in self._tried:
                return genes
        return {name: self._draw(name, count) for name, count in self._choices.items()}

    def _draw(self, name: str, count: int) -> int:
        rng = np.random.default_rng([self._seed, self._num_trials, sum(map(ord, name))])
        return int(rng.integers(0, count))
