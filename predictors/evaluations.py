"""Evaluated networks, as `supernet.evaluate` writes them: one JSON object a line.

Keys `arch`, `metric` and `value`; further ones tell where the value comes from (`task`,
`dataset`, `n` pictures, `weights_sha256`, `stderr`, `seed`, `provenance`). Lines of one network are
averaged. A file is of subnets of one supernet, or of networks each of which was trained alone.
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
from supernet.evaluation.rows import BEGINS, SHARED, TRAINED, Figure, parse_figure

# The figure of a task that is reported first; larger is better. What it is, with its unit.
PRIMARY: dict[Task, str] = {
    "classification": "top1",
    "segmentation": "miou",
    "super_resolution": "psnr_db",
    "promptable": "miou",
}
TITLES = {"top1": "top-1 [%]", "miou": "mean IoU [%]", "psnr_db": "PSNR [dB]"}
HOW = {SHARED: "shared weights", TRAINED: "trained alone"}  # as metrics' titles say it


@dataclass(frozen=True)
class Evaluations:
    """The values of a task's first figure, of networks of one provenance on one data set."""

    task: Task
    dataset: str  # shapes, imagenet, ..., or the name of a folder
    weights_sha256: str  # of the supernet; empty where unknown, and where each was trained alone
    archs: tuple[Arch, ...]  # distinct, sorted by their JSON: the order of lines has no influence
    values: tuple[float, ...]
    num_pictures: int | None  # the least that any was evaluated on
    lines: dict[Arch, int]  # where each is first, from 1
    path: Path
    sha256: str  # of the file
    num_repeated: int = 0  # lines that were averaged into others
    repeats_apart: float = 0.0  # the most by which two lines of one network differ
    others: tuple[str, ...] = ()  # figures that were passed over
    stderr: float | None = None  # of the pictures' choice: median of the lines that tell it
    provenance: str = SHARED  # or TRAINED
    steps: tuple[int, ...] = ()  # of training, different ones, ascending; of networks trained alone

    @property
    def metric(self) -> str:
        """Return the metric's title, such as `top-1 [%] of shapes, shared weights`.

        Only values of the same title may be compared.
        """
        return metric_of(self.task, self.dataset, self.provenance)

    @property
    def num_classes(self) -> int | None:
        """Return the classes of the networks' heads; None where they have none."""
        return getattr(self.archs[0].head, "num_classes", None)


def metric_of(task: Task, dataset: str, provenance: str = SHARED) -> str:
    """Return what an accuracy of shared weights or training alone is called where it is shown."""
    return f"{TITLES[PRIMARY[task]]} of {dataset}, {HOW[provenance]}"


def unit_of_task(task: Task) -> str:
    """Return the unit of differences of a task's first figure.

    >>> unit_of_task("classification"), unit_of_task("super_resolution")
    ('points', 'dB')
    """
    return "dB" if PRIMARY[task] == "psnr_db" else "points"


def read_evaluations(path: Path, provenance: str = SHARED) -> Evaluations:
    """Read a file of evaluated networks; a last line that was cut off is passed over.

    `provenance`: SHARED, of subnets of one supernet, or TRAINED, of networks trained alone.

    Raises PredictorError, naming the line: it is no evaluation, of another provenance, or of
    another task, data set or supernet than those before.
    """
    text = read_text(path, error=PredictorError, most=MOST_LOG_BYTES)
    whole = text[: text.rfind("\n") + 1] if _is_torn(text) else text
    rows, others = _comparable_rows(whole, path, provenance)
    if not rows:
        held = f"only {', '.join(sorted(others))}" if others else "no line"
        kind = "networks" if provenance == TRAINED else "subnets"
        raise PredictorError(
            f"{path} holds {held}; evaluate {kind} with `python -m supernet.evaluate`, which "
            f"writes one a line"
        )
    values: dict[Arch, list[float]] = {}
    lines: dict[Arch, int] = {}
    for number, arch, row in rows:
        values.setdefault(arch, []).append(row.value)
        lines.setdefault(arch, number)
    archs = sorted(values, key=Arch.to_json)
    origin = _origin(*rows[0][1:])
    errors = [row.stderr for _, _, row in rows if row.stderr is not None]
    return Evaluations(
        task=archs[0].task,
        dataset=origin["data set"],
        weights_sha256=origin["weights"],
        archs=tuple(archs),
        values=tuple(math.fsum(values[arch]) / len(values[arch]) for arch in archs),
        num_pictures=min((int(row.n) for _, _, row in rows if row.n is not None), default=None),
        lines=lines,
        path=path,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        num_repeated=len(rows) - len(values),
        repeats_apart=max(max(own) - min(own) for own in values.values()),
        others=tuple(sorted(others)),
        stderr=statistics.median(errors) if errors else None,
        provenance=provenance,
        steps=tuple(sorted({int(row.steps) for _, _, row in rows if row.steps is not None})),
    )


def _comparable_rows(
    text: str, path: Path, provenance: str
) -> tuple[list[tuple[int, Arch, Figure]], set[str]]:
    """Return lines of the task's first figure, with their numbers, and the other figures' names.

    Raises PredictorError where a line is none, or does not compare with those before.
    """
    rows: list[tuple[int, Arch, Figure]] = []
    first: dict[str, str] = {}
    others: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        arch, row = _parse(line, where)
        _check_provenance(row, provenance, where)
        for what, own in _origin(arch, row).items():
            if first.setdefault(what, own) != own:
                raise PredictorError(
                    f"{where}: {what} {own!r}, but {first[what]!r} in the lines before, which do "
                    "not compare; make a file of each"
                )
        if row.metric == PRIMARY[arch.task]:
            rows.append((number, arch, row))
        else:
            others.add(row.metric)
    return rows, others


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


def _check_provenance(row: Figure, wanted: str, where: str) -> None:
    """Raise PredictorError where a row is trained alone and should be shared, or the reverse."""
    if row.is_trained == (wanted == TRAINED):
        return
    if row.is_trained:
        raise PredictorError(
            f"{where} is of a network trained alone, not of a subnet; keep such rows in a file of "
            "their own: `python -m nas.search --accuracy SUBNETS.jsonl --trained FILE.jsonl`"
        )
    raise PredictorError(
        f"{where} is of shared weights (provenance {row.provenance or 'not told'}), not of a "
        "network trained alone; give subnets by --accuracy, and evaluate trained networks by "
        "`python -m supernet.evaluate --weights TRAINED.safetensors --out FILE.jsonl`"
    )


def _origin(arch: Arch, row: Figure) -> dict[str, str]:
    """Return what must be the same in all lines; of networks trained alone weights differ."""
    return {
        "task": row.task or arch.task,
        "data set": row.dataset or "an unnamed data set",
        "weights": "" if row.is_trained else row.weights_sha256 or "",
        "classes": str(getattr(arch.head, "num_classes", "none")),
    }
