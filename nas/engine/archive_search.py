"""The archive search of a run: what it evaluates, what it keeps in the run, and its front."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nas.engine.archive import Archive, Evolution, Judged, Progress
from nas.engine.archive_file import ARCHIVE_FILE, SHARED_FILE, Files
from nas.engine.cells import front_of, survivors
from nas.engine.found import Found, thin
from nas.engine.numbers import Evaluator, Genes, Numbers
from nas.engine.reach import Cost, choose
from nas.engine.search_run import SearchRun
from nas.engine.sharing import OwnFronts
from nas.engine.views import View, of_each_cost, of_objectives
from nas.front import Candidate
from nas.objectives.budgets import Budget
from nas.objectives.objective import LATENCY, Objective
from nas.objectives.predicted import as_written
from nas.options import NEAR
from predictors.components import Indices
from predictors.worth import Array
from results.runs import Run
from supernet.arch import Arch

DRAWN = 1000  # networks in the background of a picture
SHARED = 0.5  # of the evaluations, for what devices share once each one's own front is known
LOST = 0.005  # of latency: what a front may lack of these


@dataclass(frozen=True)
class Reached:
    """How far an archive search came."""

    progress: Progress
    interrupted: bool  # by Ctrl-C
    shared: Progress | None = None  # of what several devices share

    @property
    def evaluations(self) -> int:
        """Return how many networks were evaluated."""
        return self.progress.evaluations + (self.shared.evaluations if self.shared else 0)

    @property
    def archives(self) -> tuple[Archive, ...]:
        """Return all archives."""
        return self.progress.archives + (self.shared.archives if self.shared else ())

    @property
    def least_shared(self) -> Indices:
        """Return which networks of all archives lose least where several devices share them.

        They stay on a front beside others in their cells, which may lose a cell more.
        """
        found, begin = [np.zeros(0, np.intp)], sum(map(len, self.progress.archives))
        for archive in self.shared.archives if self.shared else ():
            found.append(begin + survivors(archive.costs, LOST))
            begin += len(archive)
        return np.concatenate(found)


@dataclass(frozen=True)
class ArchiveSearch:
    """A search by genes for networks that are best in some objectives and keep to limits."""

    evaluator: Evaluator
    objectives: Sequence[Objective]  # accuracy last
    limits: Sequence[Budget]
    reach: str
    starts: Sequence[Arch]
    seed: int
    with_energy: bool = False  # in all that is shown

    @classmethod
    def of(cls, prepared: SearchRun, first: Sequence[Arch]) -> "ArchiveSearch":
        """Return the search that a run asks for; `first` are evaluated before all others."""
        options = prepared.options
        return cls(
            prepared.evaluator,
            prepared.objectives,
            prepared.limits,
            options.reach,
            first,
            prepared.seed,
            options.uses_energy,
        )

    @property
    def latencies(self) -> tuple[Objective, ...]:
        """Return the latencies that are minimised, by device."""
        return tuple(own for own in self.objectives if own.quantity is LATENCY)

    @property
    def is_shared(self) -> bool:
        """Tell whether several devices are to share networks."""
        return len(self.latencies) > 1

    @cached_property
    def near_only(self) -> bool:
        """Tell whether only networks within reach of what is known are looked at.

        With two objectives both fronts are found, and one is made of them (`nas.engine.reach`).
        With more, others are left out where any of the networks to begin with is within reach.
        """
        if self.reach != NEAR or len(self.objectives) == 2:
            return False
        view = of_objectives(self.objectives, self.limits, near_only=True)
        return bool(view.admits(self.evaluator.numbers(self._encoded(self.starts))).any())

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Return what the archives are of, the front that is asked for first."""
        if len(self.objectives) == 2:
            reaches = (False, True) if self.reach == NEAR else (False,)
            return tuple(of_objectives(self.objectives, self.limits, near_only=n) for n in reaches)
        near = self.near_only
        own = of_each_cost(self.objectives, self.limits, near_only=near)
        return (of_objectives(self.objectives, self.limits, near_only=near), *own)

    @cached_property
    def evolution(self) -> Evolution:
        """Return the search for the archives of all views."""
        return self._evolution(self.views, self._encoded(self.starts))

    def _evolution(self, views: Sequence[View], starts: Genes) -> Evolution:
        def judge(genes: Genes) -> list[Judged]:
            numbers = self.evaluator.numbers(genes)
            return [view.judge(numbers) for view in views]

        counts = tuple(self.evaluator.space.genes.values())
        return Evolution(counts, judge, tuple(v.num_objectives for v in views), starts, self.seed)

    def _encoded(self, archs: Iterable[Arch]) -> Genes:
        space = self.evaluator.space
        rows = [space.encode(arch) for arch in archs]
        return np.array(rows, dtype=np.intp).reshape(len(rows), len(space.genes))

    def run(self, run: Run | None, evaluations: int, show: Callable[[float], None]) -> Reached:
        """Go on from the files of a run until so many networks are evaluated; write them again.

        Without a run nothing is read nor written.

        Raises RunError where a file is damaged.
        """
        own = evaluations - int(SHARED * evaluations) if self.is_shared else evaluations
        files = Files(run)
        before = files.read(ARCHIVE_FILE, self.evolution)
        if self.evolution.goes_on(before, own):
            files.remove(SHARED_FILE)  # each device's own front is going to move
        progress, interrupted = _go_on(self.evolution, before, own, show)
        files.write(ARCHIVE_FILE, progress)
        if interrupted or not self.is_shared or not len(progress.archives[0]):
            return Reached(progress, interrupted)
        evolution, done = self._shared(progress), progress.evaluations
        shared, interrupted = _go_on(
            evolution,
            files.read(SHARED_FILE, evolution),
            own if progress.is_complete else evaluations - own,
            lambda further: show(done + further),
        )
        files.write(SHARED_FILE, shared)
        return Reached(progress, interrupted, shared)

    def _shared(self, progress: Progress) -> Evolution:
        """Return the search for what costs the worst device least, beside each one's own front."""
        views = self.own_fronts(progress).views(self.limits, near_only=self.near_only)
        known = np.concatenate([archive.genes for archive in progress.archives])
        return self._evolution(views, np.unique(known, axis=0))

    def own_fronts(self, progress: Progress) -> OwnFronts:
        """Return what each device could have alone."""
        of_cost = dict(zip(self.objectives[:-1], progress.archives[1:], strict=True))
        genes = (of_cost[latency].genes for latency in self.latencies)
        fronts = [self.evaluator.numbers(own).written() for own in genes]
        return OwnFronts((*self.latencies, self.objectives[-1]), fronts)

    def best(self, reached: Reached, most: int) -> list[Arch]:
        """Return the thinned front of a search, evenly less of it where it has more than `most`."""
        numbers, rows, _ = self._chosen(reached, ())
        costs = self.views[0].judge(numbers).costs[rows]
        kept = rows[thin(costs, numbers.accuracy_std[rows])]
        if len(self.objectives) > 2 and len(kept) > most:
            kept = kept[np.linspace(0, len(kept) - 1, most).astype(np.intp)]
        space, genes = self.evaluator.space, numbers.batch.genes
        return [space.decode(row) for row in genes[kept].tolist()]

    def found(self, reached: Reached, others: Iterable[Arch] = ()) -> Found:
        """Return the front of a search, its numbers as they are written.

        `others` were evaluated besides, and are on it where they belong.
        """
        if self.is_shared and not all(map(len, reached.progress.archives)):
            return Found((), None)  # interrupted before anything was compared
        numbers, rows, cost = self._chosen(reached, others)
        candidates = tuple(numbers.candidates(rows, with_energy=self.with_energy))
        if not self.is_shared:
            return Found(candidates, cost, self.near_only)
        fronts = self.own_fronts(reached.progress)
        front = numbers.at(rows)
        losses = np.maximum(fronts.losses(front), 0.0)
        return Found(_with_losses(candidates, losses), cost, self.near_only, fronts.sharing(front))

    def _chosen(
        self, reached: Reached, others: Iterable[Arch]
    ) -> tuple[Numbers, Indices, Cost | None]:
        """Return all that was kept, the rows of it that make up the front, and the cost of near."""
        own = self._encoded(others)
        kept = own[self.views[0].admits(self.evaluator.numbers(own))] if len(own) else own
        genes = np.concatenate([*(archive.genes for archive in reached.archives), kept])
        numbers = self.evaluator.numbers(genes).written()
        judged = self.views[0].judge(numbers)
        rows = np.flatnonzero(judged.admitted)
        if len(self.objectives) > 2:
            also = np.flatnonzero(np.isin(rows, reached.least_shared))
            return numbers, rows[front_of(judged.costs[rows], also)], None
        near = ~numbers.accuracy_extrapolated[rows]
        chosen = choose(judged.costs[rows], near, self.reach)
        return numbers, rows[chosen.rows], chosen.cost

    def drawn(self) -> list[tuple[float, ...]]:
        """Return the objectives of some random networks that keep to the limits, to draw."""
        rng = np.random.default_rng(self.seed)
        columns = [rng.integers(0, count, DRAWN) for count in self.evolution.counts]
        numbers = self.evaluator.numbers(np.stack(columns, axis=1))
        kept = self.views[0].judge(numbers).admitted
        values = [objective.value(numbers)[kept].tolist() for objective in self.objectives]
        return list(zip(*values, strict=True))


def _go_on(
    evolution: Evolution,
    progress: Progress | None,
    evaluations: int,
    show: Callable[[float], None],
) -> tuple[Progress, bool]:
    """Return how far a search came, and whether Ctrl-C ended it."""
    reached = progress or Progress(evolution.empty(), 0, 0)

    def keep(progress: Progress) -> None:
        nonlocal reached
        reached = progress
        show(progress.evaluations)

    try:
        return evolution.run(evaluations, reached, keep), False
    except KeyboardInterrupt:
        return reached, True


def _with_losses(candidates: Sequence[Candidate], losses: Array) -> tuple[Candidate, ...]:
    """Return candidates with what each device loses by running them, (devices, candidates)."""
    return tuple(
        replace(candidate, losses=tuple(as_written(loss) for loss in own))
        for candidate, own in zip(candidates, losses.T.tolist(), strict=True)
    )
