"""What a training leaves to look at: curve.csv, TensorBoard's events, and curve.png.

curve.csv has a row for every step, written as the step ends, and evaluations.csv one for every
figure. A resumed run drops the rows after its checkpoint, so that both read as if it had never
stopped.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.drawing import drawing, new_figure, to_png
from results.files import write_bytes, write_text
from results.reading import read_text
from supernet.arch import format_resolution

if TYPE_CHECKING:
    from supernet.trainer import Report

CURVE, EVALUATIONS, PICTURE, EVENTS = "curve.csv", "evaluations.csv", "curve.png", "tensorboard"
COLUMNS = ("step", "resolution", "lr", "loss", "distill", "grad_norm", "seconds")
FIGURES = ("step", "subnet", "metric", "value", "stderr", "n")
SMOOTHED = 50  # points that a picture's thick line has at least where there are more steps


class Curves:
    """The open logs of a run; a context manager."""

    def __init__(self, run: Path, step: int, *, figured: int | None = None) -> None:
        """`step` steps are done: rows after it are dropped, and figures after `figured` steps."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self.run = run
        self._curve = _Table(run / CURVE, COLUMNS, step)
        last = step if figured is None else figured
        self._figures = _Table(run / EVALUATIONS, FIGURES, last)
        self._events = SummaryWriter(str(run / EVENTS), purge_step=step + 1)

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *_: object) -> None:
        self._curve.close()
        self._figures.close()
        self._events.close()

    def step(self, report: "Report", seconds: float) -> None:
        """Log a step that took `seconds`."""
        distill = "" if report.distill is None else report.distill
        size = format_resolution(report.resolution)
        self._curve.add(
            (report.step, size, report.lr, report.loss, distill, report.grad_norm, seconds)
        )
        for name in ("lr", "loss", "distill", "grad_norm"):
            value = getattr(report, name)
            if value is not None:
                self._events.add_scalar(f"train/{name}", value, report.step)

    def figures(self, step: int, subnet: str, figures: dict[str, float]) -> None:
        """Log what a subnet reached; `NAME_stderr` goes beside NAME."""
        for name, value in figures.items():
            if name == "n" or name.endswith("_stderr"):
                continue
            error = figures.get(f"{name}_stderr", "")
            self._figures.add((step, subnet, name, value, error, int(figures["n"])))
            self._events.add_scalar(f"{subnet}/{name}", value, step)


class _Table:
    """A CSV that grows by rows, each of them in the file once it is added."""

    def __init__(self, path: Path, columns: Sequence[str], last: int) -> None:
        kept = [row for row in read_rows(path) if row["step"] and int(row["step"]) <= last]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_text(path, text.getvalue())
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Sequence[object]) -> None:
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log; [] if it is not there. A last line that was cut off is left out."""
    if not path.exists():
        return []
    whole, _, _ = read_text(path).rpartition("\n")
    return list(csv.DictReader(io.StringIO(whole)))


def draw_curve(run: Path, primary: str) -> Path | None:
    """Write curve.png: losses over steps, and the figure `primary` of each evaluated subnet.

    Raises PictureError where it cannot be drawn.
    """
    rows = read_rows(run / CURVE)
    if not rows:
        return None
    with drawing(str(run / PICTURE)):
        drawn = _picture(rows, run, primary)
    write_bytes(run / PICTURE, drawn)
    return run / PICTURE


def _picture(rows: list[dict[str, str]], run: Path, primary: str) -> bytes:
    figure = new_figure(8, 4.5, dpi=120)
    axes = figure.subplots()
    alone = not any(row["distill"] for row in rows)
    first = "on labels" if alone else "largest, on labels"
    for name, label in (("loss", first), ("distill", "others, distillation")):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            _draw_loss(axes, points, label)
    axes.set(xlabel="step", ylabel="loss", xlim=(0, int(rows[-1]["step"])))
    found = [row for row in read_rows(run / EVALUATIONS) if row["metric"] == primary]
    lines, labels = axes.get_legend_handles_labels()
    if found:
        right = axes.twinx()
        right.set_ylabel(primary, parse_math=False)
        for number, subnet in enumerate(dict.fromkeys(row["subnet"] for row in found)):
            own = [row for row in found if row["subnet"] == subnet]
            steps, values = [int(r["step"]) for r in own], [float(r["value"]) for r in own]
            right.plot(steps, values, "o--", color=f"C{number + 2}", label=subnet, markersize=4)
        for handles, texts in [right.get_legend_handles_labels()]:
            lines, labels = [*lines, *handles], [*labels, *texts]
    for text in axes.legend(lines, labels, loc="best", fontsize="small").get_texts():
        text.set_parse_math(False)
    return to_png(figure)


def _draw_loss(axes: Any, points: list[tuple[int, float]], label: str) -> None:
    """Every step faintly, and means of as many steps as leave a readable line."""
    width = max(1, len(points) // SMOOTHED)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    line = axes.plot(
        [sum(step for step, _ in group) / len(group) for group in groups],
        [sum(loss for _, loss in group) / len(group) for group in groups],
        label=label,
    )[0]
    if width > 1:
        axes.plot(*zip(*points, strict=True), color=line.get_color(), alpha=0.25, linewidth=0.5)
