"""Subnets evaluated one after the other, none twice, by one process or many."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch

from results.errors import NotFiniteError, RunError
from supernet.accelerator import dtype_of
from supernet.arch import Arch, Task, format_resolution
from supernet.evaluation.options import SUBNET_BATCH, EvaluationOptions
from supernet.evaluation.queue import SharedQueue
from supernet.evaluation.recalibrated import Recalibration, Subnets, naming_memory
from supernet.evaluation.rows import SHARED, EvaluationLog, EvaluationRow, rows_of
from supernet.resolve import at_resolution, read_archs, trained_arch
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.space import Space
from supernet.tasks.task import EvaluationSettings
from supernet.weights.files import read_weights
from supernet.weights.fitting import StoredWeights

MOST_NAMED = 5


class SubnetEvaluator:
    """Says how good subnets of a supernet are, each with statistics of its own."""

    def __init__(
        self,
        options: EvaluationOptions,
        *,
        weights: StoredWeights | None = None,
        silent: bool = True,
    ) -> None:
        """Open the supernet and the pictures.

        Read are `weights`, `data`, `limit`, `seed`, `recalibration_images`, `batch_size` (for
        statistics never more than in training, so that a large one leaves figures as they are),
        `workers`, `accelerator`, `precision` (statistics are of fp32) and `class_order`.

        Args:
            weights: those that the options name, where they have been read.
            silent: show no progress of the look over labels.

        Raises WeightsError for a file that holds no supernet, DataError for pictures that
        cannot be read or have other classes.
        """
        path = options.check()
        weights = weights or read_weights(path)
        self.settings = EvaluationSettings(
            options.pictures_at_once(),
            options.limit,
            options.workers,
            torch.device(options.accelerator),
            dtype_of(options.precision),
        )
        recalibration = Recalibration(
            options.recalibration_images,
            min(self.settings.batch_size, SUBNET_BATCH),  # at most as many as in training
            options.seed,
        )
        self.subnets = Subnets(
            weights,
            data=options.data,
            recalibration=recalibration,
            accelerator=options.accelerator,
            workers=options.workers,
            class_order=options.class_order,
        )
        # what was assumed of the labels, or is odd
        self.notes = self.subnets.task.source.check_labels(options.limit, silent=silent)
        self.space: Space = self.subnets.space
        self.task: Task = self.subnets.supernet.largest[0].task
        self.dataset = self.subnets.task.dataset
        self.sources: dict[str, Any] = {
            "file": str(path),
            "weights_sha256": weights.sha256,
            "task": self.task,
            "dataset": self.dataset,
            "n": self._num_pictures(),
            "seed": options.seed,
            "recalibration_images": recalibration.num_images,
            "recalibration_batch": recalibration.batch_size,
            "precision": options.precision,
        }
        if options.class_order is not None:
            self.sources["class_order"] = options.class_order

    def rows(self, arch: Arch) -> list[EvaluationRow]:
        """Return all figures of a subnet, the task's first one first.

        Raises SpaceError where the space does not have it, UserError where memory is short.
        """
        arch = trained_arch(self.space, arch)
        subnets = self.subnets
        with naming_memory():
            model = subnets.network(arch).to(dtype=self.settings.dtype)
            figures = subnets.task.evaluate(model, arch, self.settings)
        primary = subnets.task.primary
        facts = {name: value for name, value in self.sources.items() if name != "file"}
        rows = rows_of(arch, figures, facts, provenance=SHARED)
        return sorted(rows, key=lambda row: row["metric"] != primary)

    def _num_pictures(self) -> int:
        pictures, _ = self.subnets.task.held_out(self.subnets.supernet.largest[0])
        total = len(pictures)  # type: ignore[arg-type]
        return min(total, self.settings.limit or total)


class EvaluatedSubnets:
    """The subnets that are asked for, each with its figures as soon as they are there.

    Those that `out` has come first. With `storage` other processes take their share; all get the
    figures of all.

    Attributes:
        errors: what is wrong with those whose outputs are not finite, which have no figures; see
            `check_figures`. Complete once all others were iterated over.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        *,
        weights: StoredWeights | None = None,
        silent: bool = True,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Open the supernet, and find out which subnets are meant.

        Args:
            weights: those that the options name, where they have been read.
            silent: show no progress of the look over labels.
            tell: is given what was passed over in a file of archs, in one line.

        Raises UserError for options that do not go with the supernet, SpaceError for archs that
        it does not have.
        """
        self.evaluator = SubnetEvaluator(options, weights=weights, silent=silent)
        space = self.evaluator.space
        options.check_supernet(self.evaluator.task, space.num_classes)
        asked = _archs(options, space, tell)
        self.archs = list(dict.fromkeys(asked))
        self.sources, self.notes = self.evaluator.sources, self.evaluator.notes
        self.errors: dict[Arch, str] = {}
        self._out, self._storage, self._study = options.out, options.storage, options.study

    def __iter__(self) -> Iterator[tuple[Arch, list[EvaluationRow]]]:
        """Evaluate what nobody has evaluated yet. Raises RunError where files cannot be written."""
        log = EvaluationLog(self._out, self.sources)
        kept = [arch for arch in self.archs if arch in log.by_arch]
        for arch in kept:
            yield arch, log.by_arch[arch]
        work = self._alone(log) if self._storage is None else self._shared(self._storage, log)
        given = set(kept)
        for arch in work:
            if arch not in given:
                given.add(arch)
                yield arch, log.by_arch[arch]

    def _alone(self, log: EvaluationLog) -> Iterator[Arch]:
        for arch in self.archs:
            try:
                self._evaluate(arch, log)
            except NotFiniteError as error:  # says nothing of the others
                self.errors[arch] = str(error)
            else:
                yield arch

    def _shared(self, storage: str, log: EvaluationLog) -> Iterator[Arch]:
        queue = SharedQueue(storage, self._study, log.settings)
        yield from queue.work(self.archs, lambda arch: self._evaluate(arch, log))
        for arch, rows in queue.rows(self.archs):
            if arch not in log.by_arch:
                log.append(rows)
            yield arch
        self.errors = queue.errors(self.archs)

    def _evaluate(self, arch: Arch, log: EvaluationLog) -> list[EvaluationRow]:
        if arch not in log.by_arch:
            log.append(self.evaluator.rows(arch))
        return log.by_arch[arch]

    def answer(self, rows: list[EvaluationRow]) -> dict[str, Any]:
        """Return figures and where they come from, for JSON."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {**self.sources, **self.evaluator.subnets.header.training, **notes, "rows": rows}


def check_figures(errors: dict[Arch, str]) -> None:
    """Raise RunError that names the Archs of `errors`, if there are any."""
    if not errors:
        return
    names = [f"{a.describe()}, {format_resolution(a.resolution)} px" for a in errors]
    most = "; ".join(names[:MOST_NAMED]) + ("; …" if len(names) > MOST_NAMED else "")
    reason = next(iter(errors.values()))
    raise RunError(f"no figures of {len(names)} subnets, all others are done: {most}: {reason}")


def _archs(
    options: EvaluationOptions, space: Space, tell: Callable[[str], None] | None
) -> list[Arch]:
    """Return the Archs of the options; by default the largest and smallest of the space.

    Raises ArchError, RunError; SpaceError for what the space does not have, or was not trained at.
    """

    def within(space: Space, arch: Arch) -> Arch:
        return trained_arch(space, at_resolution(arch, options.resolution))

    named = options.arch if options.archs is None else str(options.archs)
    if named is not None:
        return read_archs(named, space, within=within, tell=tell)
    if options.sample is None:
        archs = [*largest_of(space), *smallest_of(space)]
    else:
        rng = random.Random(options.seed)
        archs = [space.sample(rng) for _ in range(options.sample)]
    return [within(space, arch) for arch in archs]
