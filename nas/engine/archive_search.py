"""The archive search of a run: what it evaluates, what it keeps in the run, and its front."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from nas.engine.archive import Archive, Evolution, Judged, Progress
from nas.engine.archive_file import read_progress, write_progress
from nas.engine.found import Found
from nas.engine.numbers import Evaluator, Genes, Numbers
from nas.engine.reach import Chosen, choose
from nas.front import Candidate, thinned
from nas.objectives.budgets import Budget
from nas.objectives.predicted import as_written
from nas.options import NEAR
from predictors.components import Indices
from supernet.arch import Arch

DRAWN = 1000  # networks in the background of a picture
ROUNDED = ("latency_ms", "latency_std_ms", "accuracy", "accuracy_std")  # as for one network


@dataclass(frozen=True)
class Reached:
    """How far an archive search came."""

    progress: Progress
    interrupted: bool  # by Ctrl-C


@dataclass(frozen=True)
class ArchiveSearch:
    """A search by genes for the fastest and most accurate networks that keep to limits."""

    evaluator: Evaluator
    limits: Sequence[Budget]
    reach: str
    starts: Sequence[Arch]
    seed: int

    @cached_property
    def evolution(self) -> Evolution:
        """Return the search for one front, or with reach NEAR for one of near networks too."""
        space = self.evaluator.space
        encoded = [space.encode(arch) for arch in self.starts]
        return Evolution(
            tuple(space.genes.values()),
            self.judge,
            2 if self.reach == NEAR else 1,
            np.array(encoded, dtype=np.intp).reshape(len(encoded), len(space.genes)),
            self.seed,
        )

    def judge(self, genes: Genes) -> Judged:
        """Return objectives, and which networks each archive may hold."""
        batch = self.evaluator.batch(genes)
        if self.limits:
            numbers = self.evaluator.numbers_of(batch)
            kept = np.all([limit.excess(numbers) <= 0 for limit in self.limits], axis=0)
            objectives = numbers.latency_ms, numbers.accuracy
            far = numbers.accuracy_extrapolated
        else:
            accuracy = self.evaluator.accuracy.judge(batch)
            objectives = self.evaluator.latency.judge(batch)[0], accuracy.mean
            kept, far = np.ones(len(genes), np.bool_), accuracy.extrapolated
        return Judged(*objectives, (kept, kept & ~far) if self.reach == NEAR else (kept,))

    def run(self, path: Path, evaluations: int, show: Callable[[float], None]) -> Reached:
        """Go on from the file of a run until so many networks are evaluated, and write it again.

        Raises RunError where the file is damaged.
        """
        reached = read_progress(path, self.evolution)
        interrupted = False

        def keep(progress: Progress) -> None:
            nonlocal reached
            reached = progress
            show(progress.evaluations)

        try:
            reached = self.evolution.run(evaluations, reached, keep)
        except KeyboardInterrupt:
            interrupted = True
        if reached is None:
            none = Archive.empty(len(self.evolution.counts))
            reached = Progress((none,) * self.evolution.num_archives, 0, 0)
        write_progress(path, reached)
        return Reached(reached, interrupted)

    def best(self, progress: Progress) -> list[Arch]:
        """Return the thinned front of a search, fastest first."""
        genes, numbers, chosen = self._chosen(progress, ())
        accuracy, std = (column[chosen.rows] for column in (numbers.accuracy, numbers.accuracy_std))
        rows = chosen.rows[thinned(accuracy.tolist(), std.tolist())]
        return [self.evaluator.space.decode(row) for row in genes[rows].tolist()]

    def found(self, progress: Progress, others: Iterable[Arch] = ()) -> Found:
        """Return the front of a search, its numbers as they are written.

        `others` were evaluated besides, and are on it where they belong.
        """
        genes, numbers, chosen = self._chosen(progress, others)
        return Found(tuple(self._candidates(genes, numbers, chosen.rows)), chosen.cost)

    def drawn(self) -> list[tuple[float, float]]:
        """Return latency and accuracy of some random networks that keep to the limits, to draw."""
        rng = np.random.default_rng(self.seed)
        columns = [rng.integers(0, count, DRAWN) for count in self.evolution.counts]
        judged = self.judge(np.stack(columns, axis=1))
        pairs = np.stack([judged.latency_ms, judged.accuracy], axis=1)[judged.admitted[0]]
        return [(ms, accuracy) for ms, accuracy in pairs.tolist()]

    def _chosen(self, progress: Progress, others: Iterable[Arch]) -> tuple[Genes, Numbers, Chosen]:
        encoded = [self.evaluator.space.encode(arch) for arch in others]
        own = np.array(encoded, dtype=np.intp).reshape(len(encoded), len(self.evolution.counts))
        kept = own[self.judge(own).admitted[0]] if len(own) else own
        genes = np.concatenate([*(archive.genes for archive in progress.archives), kept])
        numbers = self._rounded(self.evaluator.numbers(genes))
        near = ~numbers.accuracy_extrapolated
        chosen = choose(numbers.latency_ms, numbers.accuracy, near, self.reach)
        return genes, numbers, chosen

    def _rounded(self, numbers: Numbers) -> Numbers:
        """Return numbers as `nas.objectives.predicted` writes them for one network."""
        values = {field.name: getattr(numbers, field.name) for field in fields(Numbers)}
        written = {n: np.array([as_written(v) for v in values[n].tolist()]) for n in ROUNDED}
        return Numbers(**values | written)

    def _candidates(self, genes: Genes, numbers: Numbers, rows: Indices) -> list[Candidate]:
        names = [field.name for field in fields(Numbers)]
        columns = [getattr(numbers, name)[rows].tolist() for name in names]
        archs = [self.evaluator.space.decode(row) for row in genes[rows].tolist()]
        return [
            Candidate(arch, **dict(zip(names, values, strict=True)))
            for arch, *values in zip(archs, *columns, strict=True)
        ]
