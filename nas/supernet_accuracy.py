"""`--objective supernet`: every trial is evaluated on a supernet's checkpoint.

Each evaluation is kept in the run folder as soon as it is made, as `supernet.evaluate` keeps
them, so that a search that goes on repeats none. PyTorch is imported here alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.accuracy import AccuracyPrediction
from predictors.evaluations import metric_of
from results.errors import NotFiniteError, SearchError, printable
from supernet.accelerator import check_accelerator, check_is_here
from supernet.arch import Arch
from supernet.space import Space

if TYPE_CHECKING:
    from nas.search import SearchCommand
    from supernet.evaluation.rows import Rows
    from supernet.evaluation.subnets import SubnetEvaluator

EVALUATIONS = "evaluations.jsonl"  # in the run folder
LIMIT, RECALIBRATED = 1000, 512  # pictures, unless the user says otherwise


class SupernetAccuracy:
    """Evaluates an Arch with the weights that all Archs of the space share."""

    def __init__(self, evaluator: "SubnetEvaluator", file: str, data: Path | None) -> None:
        """`file` and `data` are what the evaluator reads, to be told."""
        self.evaluator, self.file, self.data = evaluator, file, data
        self.rows = _rows(None, evaluator)

    @classmethod
    def of(cls, command: "SearchCommand", path: Path) -> "SupernetAccuracy":
        """Open the checkpoint and the pictures. Raises UserError where either cannot be used."""
        from results.extras import require

        limit = LIMIT if command.limit is None else command.limit
        recalibrated = command.recalibration_images
        recalibrated = RECALIBRATED if recalibrated is None else recalibrated
        for name, value in (("limit", limit), ("recalibration-images", recalibrated)):
            if value < 1:
                raise SearchError(f"--{name} must be 1 or more, not {value}")
        accelerator = command.accelerator or "cpu"
        check_accelerator(accelerator)
        require("torch", "torch", "safetensors", "PIL")
        from supernet.evaluation.subnets import SubnetEvaluator

        check_is_here(accelerator)
        evaluator = SubnetEvaluator(
            path,
            data=command.data,
            limit=limit,
            recalibration_images=recalibrated,
            # embedded pictures are drawn once, which only this process remembers
            workers=None if command.data else 0,
            accelerator=accelerator,
        )
        if evaluator.sources["n"] < 2:
            raise _no_error()
        return cls(evaluator, path.name, command.data)

    @property
    def provenance(self) -> str:
        return "supernet"

    @property
    def metric(self) -> str:
        return metric_of(self.evaluator.task, self.evaluator.dataset)

    @property
    def dataset(self) -> str:
        return self.evaluator.dataset

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed of the labels, or is odd, a line each."""
        return tuple(f"note: {printable(note)}" for note in self.evaluator.notes)

    @property
    def space(self) -> Space:
        return self.evaluator.space

    def keep_in(self, journal: Path) -> None:
        """Take up the evaluations in a run's file, and append further ones to it.

        Raises RunError where the file is damaged.
        """
        self.rows = _rows(journal, self.evaluator)

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Evaluate `arch`, once; the standard deviation is that of the pictures' choice.

        0 for one whose outputs are not finite. Raises SearchError where no standard deviation is
        known.
        """
        if arch not in self.rows.of:
            try:
                self.rows.append(self.evaluator.rows(arch))
            except NotFiniteError:  # says nothing of the others
                return AccuracyPrediction(0.0, 0.0)
        first = self.rows.of[arch][0]
        if first.get("stderr") is None:
            raise _no_error()
        return AccuracyPrediction(float(first["value"]), float(first["stderr"]))

    def is_broken(self, arch: Arch) -> bool:
        """Whether an Arch that was evaluated had outputs that are not finite."""
        return arch not in self.rows.of

    def describe(self) -> str:
        """One line: provenance and error."""
        sources = self.evaluator.sources
        return (
            f"{self.provenance}, each network evaluated with the shared weights of {self.file} "
            f"({sources['weights_sha256'][:12]}) on {sources['n']} pictures, ± of their choice "
            "alone; says what shared weights reach, not what training alone would"
        )

    def to_dict(self) -> dict[str, Any]:
        """For run.json: what decides the numbers."""
        data = str(self.data.resolve()) if self.data else None
        own = {"provenance": self.provenance, "metric": self.metric, "data": data}
        return own | self.evaluator.sources | {"file": self.file}


def _no_error() -> SearchError:
    return SearchError(
        "one picture alone gives accuracies whose error nobody knows; give a larger --limit, or "
        "--data with more pictures"
    )


def _rows(journal: Path | None, evaluator: "SubnetEvaluator") -> "Rows":
    from supernet.evaluation.rows import Rows

    return Rows(journal, evaluator.sources)
