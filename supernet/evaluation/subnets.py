"""Subnets evaluated one after the other, none twice, by one process or many."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import NotFiniteError, RunError
from supernet.accelerator import dtype_of
from supernet.arch import Arch, Task, format_resolution
from supernet.evaluation.queue import SharedWork
from supernet.evaluation.recalibrated import Recalibration, Subnets, naming_memory
from supernet.evaluation.rows import Row, Rows
from supernet.resolve import trained_arch
from supernet.space import Space
from supernet.tasks.task import EvaluationSettings
from supernet.weights.files import sha256_of

BATCH = 64
RECALIBRATED_TOGETHER = 64  # pictures at most, as in training
MOST_NAMED = 5


class SubnetEvaluator:
    """Says how good subnets of a supernet are, each with statistics of its own."""

    def __init__(
        self,
        weights: Path,
        *,
        data: Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        recalibration_images: int = 512,
        batch_size: int | None = None,
        workers: int | None = None,
        accelerator: str = "cpu",
        precision: str = "fp32",
        class_order: str | None = None,
        silent: bool = True,
    ) -> None:
        """
        Args:
            weights: a supernet's file.
            data: a folder as for training; None: embedded pictures.
            limit: held-out pictures, evenly spread over all.
            seed: of the pictures that statistics are computed on.
            batch_size: by default 64; for statistics never more, so that a large one leaves
                figures as they are.
            precision: fp32, fp16 or bf16, of weights and activations; statistics are of fp32.
            class_order: of class folders, where the weights name no classes.
            silent: show no progress of the look over labels.

        Raises WeightsError for a file that holds no supernet, DataError for pictures that
        cannot be read or have other classes.
        """
        self.batch_size, self.workers, self.limit = batch_size or BATCH, workers, limit
        self.dtype = dtype_of(precision)
        recalibration = Recalibration(
            recalibration_images, min(self.batch_size, RECALIBRATED_TOGETHER), seed
        )
        self.subnets = Subnets(
            weights,
            data=data,
            recalibration=recalibration,
            accelerator=accelerator,
            workers=workers,
            class_order=class_order,
        )
        # what was assumed of the labels, or is odd
        self.notes = self.subnets.task.source.check_labels(limit, silent=silent)
        self.space: Space = self.subnets.space
        self.task: Task = self.subnets.supernet.largest[0].task
        self.dataset = self.subnets.task.dataset
        self.sources: dict[str, Any] = {
            "file": str(weights),
            "weights_sha256": sha256_of(weights),
            "task": self.task,
            "dataset": self.dataset,
            "n": self._num_pictures(),
            "seed": seed,
            "recalibration_images": recalibration_images,
            "recalibration_batch": recalibration.batch_size,
            "precision": precision,
        }
        if class_order is not None:
            self.sources["class_order"] = class_order

    def evaluate(self, arch: Arch) -> Row:
        """The task's first figure. Raises SpaceError, and UserError if memory is short."""
        return self.rows(arch)[0]

    def rows(self, arch: Arch) -> list[Row]:
        """All figures, the task's first one first; see `evaluate`."""
        arch = trained_arch(self.space, arch)
        subnets = self.subnets
        with naming_memory():
            model = subnets.network(arch).to(dtype=self.dtype)
            settings = EvaluationSettings(
                self.batch_size, self.limit, self.workers, subnets.device, self.dtype
            )
            figures = subnets.task.evaluate(model, arch, settings)
        primary = subnets.task.primary
        names = [name for name in figures if name != "n" and not name.endswith("_stderr")]
        names.sort(key=lambda name: name != primary)
        return [self._row(arch, name, figures) | {"figures": len(names)} for name in names]

    def _row(self, arch: Arch, name: str, figures: dict[str, float]) -> Row:
        row: Row = {"arch": arch.to_dict(), "metric": name, "value": figures[name]}
        if f"{name}_stderr" in figures:
            row["stderr"] = figures[f"{name}_stderr"]
        row |= {source: value for source, value in self.sources.items() if source != "file"}
        return row | {"resolution": format_resolution(arch.resolution), "provenance": "supernet"}

    def _num_pictures(self) -> int:
        pictures, _ = self.subnets.task.held_out(self.subnets.supernet.largest[0])
        total = len(pictures)  # type: ignore[arg-type]
        return total if self.limit is None else min(total, self.limit)


@dataclass(frozen=True)
class Batch:
    """Many subnets, and where their figures are kept."""

    evaluator: SubnetEvaluator
    out: Path | None = None
    storage: str | None = None
    study: str = "subnets"

    def run(
        self, archs: Iterable[Arch], done: Callable[[Arch, list[Row]], None]
    ) -> dict[Arch, str]:
        """Evaluate those of `archs` that `out` does not have, and tell `done` of each of them all.

        With `storage` other processes take their share; all get the figures of all.

        Returns:
            What is wrong with those whose outputs are not finite; see `check_figures`.

        Raises SpaceError before anything is evaluated; RunError where files cannot be written.
        """
        space = self.evaluator.space
        archs = list(dict.fromkeys(trained_arch(space, arch) for arch in archs))
        rows = Rows(self.out, self.evaluator.sources)
        for arch in archs:
            if arch in rows.of:
                done(arch, rows.of[arch])

        def evaluate(arch: Arch) -> list[Row]:
            if arch not in rows.of:
                rows.append(self.evaluator.rows(arch))
                done(arch, rows.of[arch])
            return rows.of[arch]

        if self.storage is None:
            errors = {}
            for arch in archs:
                try:
                    evaluate(arch)
                except NotFiniteError as error:  # says nothing of the others
                    errors[arch] = str(error)
            return errors
        shared = SharedWork(self.storage, self.study, rows.settings)
        shared.work(archs, evaluate)
        for arch, found in shared.rows(archs):
            if arch not in rows.of:
                rows.append(found)
                done(arch, found)
        return shared.errors(archs)


def check_figures(errors: dict[Arch, str]) -> None:
    """Raises RunError that names the Archs of `errors`, if there are any."""
    if not errors:
        return
    named = [f"{a.describe()}, {format_resolution(a.resolution)} px" for a in errors]
    most = "; ".join(named[:MOST_NAMED]) + ("; …" if len(named) > MOST_NAMED else "")
    reason = next(iter(errors.values()))
    raise RunError(f"no figures of {len(named)} subnets, all others are done: {most}: {reason}")
