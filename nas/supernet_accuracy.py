"""`--objective supernet`: every trial is evaluated on a supernet's checkpoint.

Each evaluation is kept in the run folder as soon as it is made, in the format of
`supernet.evaluate`, so that a search that goes on repeats none.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.accuracy import AccuracyPrediction
from predictors.evaluations import PRIMARY, metric_of
from results.errors import DeviceError, RunError, SearchError, check_choice
from results.files import read_text
from supernet.arch import Arch, Task, format_resolution
from supernet.space import Space

if TYPE_CHECKING:
    from nas.search import SearchCommand
    from supernet.recalibrated import Subnets

EVALUATIONS = "evaluations.jsonl"  # in the run folder
LIMIT = 1000  # pictures that a trial is evaluated on, unless the user says otherwise
BATCH_SIZE = 64

Row = dict[str, Any]  # a line of JSON


@dataclass
class SupernetAccuracy:
    """Evaluates an Arch with the weights that all Archs of the space share."""

    space: Space
    task: Task
    dataset: str
    sources: dict[str, Any]  # what decides the numbers, for run.json
    evaluate: Callable[[Arch], Row]
    provenance: str = "supernet"
    kept: dict[Arch, AccuracyPrediction] = field(default_factory=dict)
    journal: Path | None = None

    @classmethod
    def of(cls, command: "SearchCommand", path: Path) -> "SupernetAccuracy":
        """Open the checkpoint and the pictures. Raises UserError where either cannot be used."""
        from results.extras import require

        require("torch", "torch", "safetensors", "PIL")
        import torch

        from supernet.recalibrated import Recalibration, Subnets

        limit = LIMIT if command.limit is None else command.limit
        images = command.recalibration_images
        settings = Recalibration() if images is None else Recalibration(num_images=images)
        for name, value in (("limit", limit), ("recalibration-images", settings.num_images)):
            if value < 1:
                raise SearchError(f"--{name} must be 1 or more, not {value}")
        accelerator = command.accelerator or "cpu"
        check_choice("accelerator", accelerator, ("cpu", "cuda"), DeviceError)
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise DeviceError("no CUDA device is here; leave --accelerator cuda out")
        subnets = Subnets(path, data=command.data, recalibration=settings, accelerator=accelerator)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        arch = subnets.supernet.largest[0]
        sources = {
            "file": path.name,
            "weights_sha256": sha256,
            "data": str(command.data.resolve()) if command.data else None,
            "limit": limit,
            "recalibration": asdict(subnets.recalibration),
        }

        def evaluate(arch: Arch) -> Row:
            return _row(subnets, arch, limit, sha256)

        return cls(subnets.space, arch.task, subnets.task.dataset, sources, evaluate)

    @property
    def metric(self) -> str:
        return metric_of(self.task, self.dataset)

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Evaluate `arch`, once; the standard deviation is that of the pictures' choice."""
        if arch not in self.kept:
            row = self.evaluate(arch)
            self._append(row)
            self.kept[arch] = _accuracy_in(row)
        return self.kept[arch]

    def keep_in(self, journal: Path) -> None:
        """Take up the evaluations in a run's file, and append further ones to it.

        Raises RunError where the file is damaged.
        """
        self.journal = journal
        if not journal.exists():
            return
        data = journal.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # what a killed process began to write
            with journal.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(read_text(journal).splitlines(), start=1):
            try:
                row = json.loads(line)
                self.kept[Arch.from_dict(row["arch"])] = _accuracy_in(row)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise RunError(
                    f"{journal}, line {number} is damaged ({error}); delete the line, and its "
                    "network is evaluated again"
                ) from None

    def describe(self) -> str:
        """One line: provenance and error."""
        said = self.sources
        return (
            f"{self.provenance}, each network evaluated with the shared weights of "
            f"{said['file']} ({said['weights_sha256'][:12]}) on up to {said['limit']} pictures, ± "
            "of their choice alone; says what shared weights reach, not what training alone would"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "provenance": self.provenance,
            "task": self.task,
            "dataset": self.dataset,
            "metric": self.metric,
            **self.sources,
        }

    def _append(self, row: Row) -> None:
        if self.journal is None:
            return
        try:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.journal}: {error.strerror or error}") from None


def _row(subnets: "Subnets", arch: Arch, limit: int, sha256: str) -> Row:
    """Evaluate one subnet; a line of the file. Raises UserError."""
    import torch

    task = subnets.task
    metric = PRIMARY[arch.task]
    figures = task.evaluate(
        subnets.network(arch),
        arch,
        limit=limit,
        batch_size=BATCH_SIZE,
        workers=0,
        device=subnets.device,
        dtype=torch.float32,
    )
    return {
        "arch": arch.to_dict(),
        "metric": metric,
        "value": figures[metric],
        "stderr": figures.get(f"{metric}_stderr"),
        "n": int(figures["n"]),
        "seed": subnets.recalibration.seed,
        "weights_sha256": sha256,
        "task": arch.task,
        "dataset": task.dataset,
        "resolution": format_resolution(arch.resolution),
    }


def _accuracy_in(row: Row) -> AccuracyPrediction:
    arch = Arch.from_dict(row["arch"])
    if row["metric"] != PRIMARY[arch.task]:
        raise ValueError(f"{row['metric']!r} is not the task's first figure")
    return AccuracyPrediction(float(row["value"]), float(row.get("stderr") or 0.0))
