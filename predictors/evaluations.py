"""Evaluated subnets, as `supernet.evaluate` writes them: one JSON object a line.

Keys `arch`, `metric` and `value`; further ones tell where the value comes from (`task`,
`dataset`, `n` pictures, `weights_sha256`, `stderr`, `seed`). Lines of one subnet are averaged.
"""

import hashlib
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import PredictorError, RunError
from results.reading import MOST_LOG_BYTES, is_begun, parse_json, read_text
from supernet.arch import Arch, Task
from supernet.evaluation.rows import BEGINS, Figure, parse_figure

# The figure of a task that is reported first; larger is better. What it is, with its unit.
PRIMARY: dict[Task, str] = {
    "classification": "top1",
    "segmentation": "miou",
    "super_resolution": "psnr_db",
    "promptable": "miou",
}
TITLES = {"top1": "top-1 [%]", "miou": "mean IoU [%]", "psnr_db": "PSNR [dB]"}


@dataclass(frozen=True)
class Evaluations:
    """The values of a task's first figure, of subnets of one supernet on one data set."""

    task: Task
    dataset: str  # shapes, imagenet, ..., or the name of a folder
    weights_sha256: str  # of the supernet; empty where unknown
    archs: tuple[Arch, ...]  # distinct, sorted by their JSON: the order of lines has no influence
    values: tuple[float, ...]
    num_pictures: int | None  # the least that any was evaluated on
    lines: dict[Arch, int]  # where each is first, from 1
    path: Path
    sha256: str  # of the file
    num_repeated: int = 0  # lines that were averaged into others
    others: tuple[str, ...] = ()  # figures that were passed over
    stderr: float | None = None  # of the pictures' choice: median of the lines that tell it

    @property
    def metric(self) -> str:
        """Return the metric's title, such as `top-1 [%] of shapes, shared weights`.

        Only values of the same title may be compared.
        """
        return metric_of(self.task, self.dataset)


def metric_of(task: Task, dataset: str) -> str:
    """Return what an accuracy of shared weights is called wherever it is shown."""
    return f"{TITLES[PRIMARY[task]]} of {dataset}, shared weights"


def unit_of_task(task: Task) -> str:
    """Return the unit of differences of a task's first figure.

    >>> unit_of_task("classification"), unit_of_task("super_resolution")
    ('points', 'dB')
    """
    return "dB" if PRIMARY[task] == "psnr_db" else "points"


def read_evaluations(path: Path) -> Evaluations:
    """Read a file of evaluated subnets; a last line that was cut off is passed over.

    Raises PredictorError, naming the line: it is no evaluation, or of another task, data set or
    supernet than those before.
    """
    text = read_text(path, error=PredictorError, most=MOST_LOG_BYTES)
    whole = text[: text.rfind("\n") + 1] if _is_torn(text) else text
    values: dict[Arch, list[float]] = {}
    lines: dict[Arch, int] = {}
    first: dict[str, str] = {}
    others: set[str] = set()
    pictures: list[int] = []
    errors: list[float] = []
    for number, line in enumerate(whole.split("\n"), start=1):
        if not line.strip():
            continue
        arch, row = _parse(line, f"{path}, line {number}")
        for what, own in _origin(arch, row).items():
            if first.setdefault(what, own) != own:
                raise PredictorError(
                    f"{path}, line {number}: {what} {own!r}, but {first[what]!r} in the lines "
                    "before, which do not compare; make a file of each"
                )
        if row.metric != PRIMARY[arch.task]:
            others.add(row.metric)
            continue
        values.setdefault(arch, []).append(row.value)
        lines.setdefault(arch, number)
        if row.n is not None:
            pictures.append(int(row.n))
        if row.stderr is not None:
            errors.append(row.stderr)
    if not values:
        held = f"only {', '.join(sorted(others))}" if others else "no line"
        raise PredictorError(
            f"{path} holds {held}; evaluate subnets with `python -m supernet.evaluate`, which "
            f"writes one a line"
        )
    archs = sorted(values, key=Arch.to_json)
    return Evaluations(
        task=archs[0].task,
        dataset=first["data set"],
        weights_sha256=first["weights"],
        archs=tuple(archs),
        values=tuple(math.fsum(values[arch]) / len(values[arch]) for arch in archs),
        num_pictures=min(pictures, default=None),
        lines=lines,
        path=path,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        num_repeated=sum(map(len, values.values())) - len(values),
        others=tuple(sorted(others)),
        stderr=statistics.median(errors) if errors else None,
    )


def _is_torn(text: str) -> bool:
    """Tell whether the last line is what somebody was killed at, after whole ones."""
    last = text.rpartition("\n")[2]
    if not last.strip() or "\n" not in text:
        return False
    if not is_begun(last, BEGINS):
        return False
    try:
        parse_json(last, Any, "")
    except RunError:
        return True
    return False


def _parse(line: str, where: str) -> tuple[Arch, Figure]:
    arch, figure, _ = parse_figure(line, f"{where} is no evaluated subnet", error=PredictorError)
    if figure.value < 0:
        raise PredictorError(f"{where}: value must be a number from 0, not {figure.value}")
    if arch.head is None or arch.task not in PRIMARY:
        raise PredictorError(f"{where}: an arch for {arch.task} has no accuracy to predict")
    if figure.metric == PRIMARY[arch.task] != "psnr_db" and figure.value > 100:
        raise PredictorError(
            f"{where}: value must be a percentage, up to 100, not {figure.value:g}"
        )
    return arch, figure


def _origin(arch: Arch, row: Figure) -> dict[str, str]:
    """Return what must be the same in all lines."""
    return {
        "task": row.task or arch.task,
        "data set": row.dataset or "an unnamed data set",
        "weights": row.weights_sha256 or "",
        "classes": str(getattr(arch.head, "num_classes", "none")),
    }
