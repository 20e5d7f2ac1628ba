"""An elitist search on genes: children of non-dominated networks, a million in a second.

At an equal number of evaluations it is no better than a genetic algorithm with a population of
its own; a hundred times more of them, evaluated from small tables, is what finds nearly all of
the front.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nas.engine.cells import WIDTHS, survivors
from nas.engine.numbers import Genes
from predictors.components import Indices
from predictors.part_rows import Marks
from predictors.worth import Array

Array32 = NDArray[np.int32]
CHILDREN = 8192  # of a generation
FIRST = 8192  # networks drawn at random to begin with
NEAR = 0.03  # share of the front, as a standard deviation, that parents are apart
EXPANDED_EVERY = 4  # generations, the last of which looks at all neighbours of some
STEPS, JUMPS = 1.5, 0.5  # genes of a child that go to the next choice, and to any choice
BOLD = (1.0, 1.0, 2.0, 4.0)  # times as many, each for a quarter of the children
AT_ENDS, END = 0.15, 5.0  # share of the mothers from either end of the front, and how near to it


@dataclass(frozen=True)
class Archive:
    """Non-dominated networks, those of the least first cost first, all of different costs."""

    genes: Genes
    costs: Array  # (networks, objectives), the less the better
    expanded: Marks  # whose neighbours have all been looked at

    @classmethod
    def empty(cls, num_genes: int, num_objectives: int = 2) -> "Archive":
        """Return an archive of nothing."""
        nothing = np.zeros((0, num_objectives))
        return cls(np.zeros((0, num_genes), np.intp), nothing, np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.costs)

    def mark(self, rows: Indices) -> "Archive":
        """Return the archive with some networks marked as expanded."""
        expanded = self.expanded.copy()
        expanded[rows] = True
        return replace(self, expanded=expanded)

    def add(self, genes: Genes, costs: Array) -> "Archive":
        """Return the archive with those of other networks that none dominates.

        With three objectives or more it holds one network of each cell, see `nas.engine.cells`.
        """
        num_objectives = self.costs.shape[1]
        if num_objectives == 2 and len(self):
            before = np.searchsorted(self.costs[:, 0], costs[:, 0], side="right") - 1
            live = np.flatnonzero((before < 0) | (costs[:, 1] < self.costs[before, 1]))
            genes, costs = genes[live], costs[live]
        if not len(genes):
            return self
        together = np.concatenate([self.costs, costs])
        if num_objectives == 2:
            kept = non_dominated(together)
        else:
            kept = survivors(together, WIDTHS[num_objectives])
        return Archive(
            np.concatenate([self.genes, genes])[kept],
            together[kept],
            np.concatenate([self.expanded, np.zeros(len(genes), np.bool_)])[kept],
        )


def non_dominated(costs: Array) -> Indices:
    """Return the indices of points that no other beats or equals, of the least first cost first.

    `costs` are (points, 2), the less the better.
    """
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    second = costs[order, 1]
    best_before = np.minimum.accumulate(second)
    first = np.ones(len(order), np.bool_)
    first[1:] = second[1:] < best_before[:-1]
    return order[first]


def _either(first: Marks, one: Array32, other: Array32) -> Array32:
    """Return `np.where` of integers, in a quarter of its time, which goes to guessing branches."""
    chosen: Array32 = other + (one - other) * first
    return chosen


@dataclass(frozen=True)
class Judged:
    """Networks as one archive sees them."""

    costs: Array  # (networks, objectives), the less the better
    admitted: Marks


@dataclass(frozen=True)
class Progress:
    """How far a search has come; with the seed it decides how the search goes on."""

    archives: tuple[Archive, ...]
    generation: int
    evaluations: int
    is_complete: bool = False  # every network of the space was evaluated


@dataclass(frozen=True)
class Evolution:
    """A search for several fronts at once, one of them all networks', others of some networks."""

    counts: tuple[int, ...]  # choices of each gene
    judge: Callable[[Genes], Sequence[Judged]]  # by each archive
    num_objectives: tuple[int, ...]  # of each archive
    starts: Genes  # evaluated first
    seed: int

    def empty(self) -> tuple[Archive, ...]:
        """Return archives of nothing."""
        return tuple(Archive.empty(len(self.counts), number) for number in self.num_objectives)

    def goes_on(self, progress: Progress | None, evaluations: int) -> bool:
        """Tell whether `run` would evaluate any network."""
        if progress is None or not progress.generation:
            return True
        return not progress.is_complete and progress.evaluations + CHILDREN <= evaluations

    def run(
        self,
        evaluations: int,
        progress: Progress | None = None,
        on_generation: Callable[[Progress], None] = lambda progress: None,
    ) -> Progress:
        """Go on until no generation fits into so many evaluations.

        A space of no more gene vectors than that is gone through instead. The same seed gives the
        same archives, however often the search was ended and gone on with in between.
        """
        if progress is not None and progress.is_complete:
            return progress
        if math.prod(self.counts) <= evaluations:
            return self._go_through(on_generation)
        if progress is None or not progress.generation:
            progress = self._begin(evaluations)
            on_generation(progress)
        while progress.evaluations + CHILDREN <= evaluations:
            progress = self._next(progress)
            on_generation(progress)
        return progress

    def _begin(self, evaluations: int) -> Progress:
        rng = self._rng(0)
        count = max(0, min(FIRST, evaluations - len(self.starts)))
        drawn = np.stack([rng.integers(0, most, count) for most in self.counts], axis=1)
        return self._add(Progress(self.empty(), 0, 0), np.concatenate([self.starts, drawn]))

    def _next(self, progress: Progress) -> Progress:
        turn, step = divmod(progress.generation, EXPANDED_EVERY)
        rng = self._rng(progress.generation)
        archives = list(progress.archives)
        number = turn % len(archives)
        archive = archives[number]
        if not len(archive):
            drawn = [rng.integers(0, most, CHILDREN) for most in self.counts]
            return self._add(progress, np.stack(drawn, axis=1))
        if step == EXPANDED_EVERY - 1 and not archive.expanded.all():
            chosen = self._unexpanded(archive, rng)
            archives[number] = archive.mark(chosen)
            progress = Progress(tuple(archives), progress.generation, progress.evaluations)
            return self._add(progress, self._neighbours(archive.genes[chosen]))
        # Networks near in one cost may be far in another, so each has its turns.
        axis = turn // len(archives) % (archive.costs.shape[1] - 1)
        ordered = archive.genes[np.argsort(archive.costs[:, axis], kind="stable")]
        return self._add(progress, self._children(ordered, rng))

    def _rng(self, generation: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, generation])

    def _add(self, progress: Progress, genes: Genes) -> Progress:
        archives = tuple(
            archive.add(genes[judged.admitted], judged.costs[judged.admitted])
            for archive, judged in zip(progress.archives, self.judge(genes), strict=True)
        )
        return Progress(archives, progress.generation + 1, progress.evaluations + len(genes))

    def _children(self, parents: Genes, rng: np.random.Generator) -> Genes:
        """Return crossovers of networks that are near on the front, some of their genes mutated."""
        count, shape = len(parents), (CHILDREN, len(self.counts))
        mothers = self._mothers(count, rng)
        apart = np.rint(rng.standard_normal(CHILDREN) * max(3.0, NEAR * count)).astype(np.intp)
        fathers = np.clip(mothers + apart, 0, count - 1)
        from_mother = rng.random(shape) < 0.5
        own, most = parents.astype(np.int32), np.array(self.counts, dtype=np.int32)
        genes = _either(from_mother, own.take(mothers, axis=0), own.take(fathers, axis=0))
        stepped = np.clip(genes + rng.integers(-1, 2, shape).astype(np.int32), 0, most - 1)
        anything = (rng.random(shape) * most).astype(np.int32)
        luck = rng.random(shape) * len(self.counts) / rng.choice(BOLD, (CHILDREN, 1))
        genes = _either(luck < STEPS + JUMPS, anything, genes)
        return _either(luck < STEPS, stepped, genes).astype(np.intp)

    def _mothers(self, count: int, rng: np.random.Generator) -> Indices:
        """Return positions on a front: anywhere, and more often at its ends, where few lead to."""
        from_end = np.rint(rng.exponential(END, CHILDREN)).astype(np.intp)
        from_end = np.minimum(from_end, count - 1)
        at_end = np.where(rng.random(CHILDREN) < 0.5, from_end, count - 1 - from_end)
        anywhere = rng.integers(0, count, CHILDREN)
        return np.where(rng.random(CHILDREN) < AT_ENDS, at_end, anywhere)

    def _unexpanded(self, archive: Archive, rng: np.random.Generator) -> Indices:
        around = sum(count - 1 for count in self.counts)
        left = rng.permutation(np.flatnonzero(~archive.expanded))
        return left[: max(1, CHILDREN // max(around, 1))]

    def _neighbours(self, genes: Genes) -> Genes:
        """Return all gene vectors that differ in one gene from one of `genes`."""
        found = []
        for gene, count in enumerate(self.counts):
            for value in range(count):
                others = genes[genes[:, gene] != value]
                others[:, gene] = value
                found.append(others)
        return np.concatenate(found)

    def _go_through(self, on_generation: Callable[[Progress], None]) -> Progress:
        progress = Progress(self.empty(), 0, 0)
        total = math.prod(self.counts)
        for begin, end in pairwise([*range(0, total, CHILDREN), total]):
            genes = np.stack(np.unravel_index(np.arange(begin, end), self.counts), axis=1)
            progress = self._add(progress, genes)
            on_generation(progress)
        return Progress(progress.archives, progress.generation, total, is_complete=True)
