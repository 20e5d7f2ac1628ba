"""`--evaluate supernet`: every trial is evaluated on a supernet's checkpoint.

Each evaluation is kept in the run folder as soon as it is made, as `supernet.evaluate` keeps
them, so that a search that goes on repeats none. PyTorch is imported here alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.objectives.sources import AccuracySource
from predictors.accuracy import AccuracyPrediction
from predictors.evaluations import metric_of
from results.errors import NotFiniteError, SearchError, check_all_least, printable
from results.extras import require
from results.runs import own_path
from supernet.accelerator import check_accelerator, check_is_here
from supernet.arch import Arch
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.rows import EvaluationLog
from supernet.space import Space

if TYPE_CHECKING:
    from supernet.evaluation.subnets import SubnetEvaluator

EVALUATIONS = "evaluations.jsonl"  # in the run folder


class SupernetAccuracy(AccuracySource):
    """Evaluates an Arch with the weights that all Archs of the space share."""

    def __init__(self, evaluator: "SubnetEvaluator", file: str, data: Path | None) -> None:
        """Take an open evaluator; `file` and `data` are what it reads, to be told."""
        self.evaluator, self.file, self.data = evaluator, file, data
        self.rows = _rows(None, evaluator)

    @property
    def provenance(self) -> str:
        """Return supernet."""
        return "supernet"

    @property
    def metric(self) -> str:
        """Return the task's first figure, with its unit."""
        return metric_of(self.evaluator.task, self.evaluator.dataset)

    @property
    def dataset(self) -> str:
        """Return the data set that the checkpoint was trained on."""
        return self.evaluator.dataset

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was assumed of the labels, or is odd, a line each."""
        return tuple(f"note: {printable(note)}" for note in self.evaluator.notes)

    @property
    def space(self) -> Space:
        """Return the space that the checkpoint holds, at the resolutions of its training."""
        return self.evaluator.space

    def keep_in(self, folder: Path) -> None:
        """Take up the evaluations in a run's evaluations.jsonl, and append further ones to it.

        Raises RunError where the file is damaged.
        """
        self.rows = _rows(own_path(folder, EVALUATIONS), self.evaluator)

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Evaluate `arch`, once; the standard deviation is that of the pictures' choice.

        0 for one whose outputs are not finite. Raises SearchError where no standard deviation is
        known.
        """
        if arch not in self.rows.by_arch:
            try:
                self.rows.append(self.evaluator.rows(arch))
            except NotFiniteError:  # says nothing of the others
                return AccuracyPrediction(0.0, 0.0)
        first = self.rows.by_arch[arch][0]
        if first.get("stderr") is None:
            raise _no_error()
        return AccuracyPrediction(float(first["value"]), float(first["stderr"]))

    def is_broken(self, arch: Arch) -> bool:
        """Tell whether an Arch that was evaluated had outputs that are not finite."""
        return arch not in self.rows.by_arch

    def describe(self) -> str:
        """Return one line: provenance and error."""
        sources = self.evaluator.sources
        return (
            f"{self.provenance}, each network evaluated with the shared weights of {self.file} "
            f"({sources['weights_sha256'][:12]}) on {sources['n']} pictures, ± of their choice "
            "alone; says what shared weights reach, not what training alone would"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the numbers, for run.json."""
        data = str(self.data.resolve()) if self.data else None
        own = {"provenance": self.provenance, "metric": self.metric, "data": data}
        return own | self.evaluator.sources | {"file": self.file}


def open_checkpoint(path: Path, options: EvaluationOptions) -> SupernetAccuracy:
    """Open a checkpoint and the pictures. Raises UserError where either cannot be used."""
    check_all_least(options, {"limit": 1, "recalibration_images": 1}, SearchError)
    check_accelerator(options.accelerator)
    require("torch", "torch", "safetensors", "PIL")
    from supernet.evaluation.subnets import SubnetEvaluator

    check_is_here(options.accelerator)
    # embedded pictures are drawn once, which only this process remembers
    workers = None if options.data else 0
    evaluator = SubnetEvaluator(replace(options, weights=path, workers=workers))
    if evaluator.sources["n"] < 2:
        raise _no_error()
    return SupernetAccuracy(evaluator, path.name, options.data)


def _no_error() -> SearchError:
    return SearchError(
        "one picture alone gives accuracies whose error nobody knows; give a larger --limit, or "
        "--data with more pictures"
    )


def _rows(journal: Path | None, evaluator: "SubnetEvaluator") -> EvaluationLog:
    return EvaluationLog(journal, evaluator.sources)
