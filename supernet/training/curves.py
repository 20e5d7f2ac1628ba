"""What a training leaves to look at: curve.csv, TensorBoard's events, and curve.png.

curve.csv has a row for every step, written as the step ends, and evaluations.csv one for every
figure. A resumed run drops the rows after its checkpoint, so that both read as if it had never
stopped.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.drawing import drawing, new_figure, to_png
from results.errors import RunError, shown
from results.files import write_bytes, write_text
from results.reading import MOST_LOG_BYTES, read_text
from results.runs import own_path
from results.sheets import parse_sheet
from supernet.arch import format_resolution

if TYPE_CHECKING:
    from supernet.training.trainer import Report

CURVE, EVALUATIONS, PICTURE, EVENTS = "curve.csv", "evaluations.csv", "curve.png", "tensorboard"
COLUMNS = ("step", "resolution", "lr", "loss", "distill", "grad_norm", "seconds")
FIGURES = ("step", "subnet", "metric", "value", "stderr", "n")
NUMBERS = {*COLUMNS, *FIGURES} - {"resolution", "subnet", "metric"}
STEP, ROW = re.compile(r"[0-9]{1,12}"), re.compile(r"([0-9]{1,12}(,.*)?)?", re.DOTALL)
NO_LOG = "is no log of a training; move it away, and --resume begins a new one"
SMOOTHED = 50  # points that a picture's thick line has at least where there are more steps


class Curves:
    """The open logs of a run; a context manager."""

    def __init__(self, run: Path, step: int, *, figured: int | None = None) -> None:
        """`step` steps are done: rows after it are dropped, and figures after `figured` steps."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self.run = run
        last = step if figured is None else figured
        # all are read before one is cut
        names = ((CURVE, COLUMNS, step), (EVALUATIONS, FIGURES, last))
        kept = [
            [row for row in read_rows(own_path(run, name)) if int(row["step"]) <= most]
            for name, _, most in names
        ]
        events = own_path(run, EVENTS)
        self._curve, self._figures = (
            _Table(run / name, columns, rows)
            for (name, columns, _), rows in zip(names, kept, strict=True)
        )
        self._events = SummaryWriter(str(events), purge_step=step + 1)

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

    def __init__(self, path: Path, columns: Sequence[str], rows: list[dict[str, str]]) -> None:
        """Begin with `rows`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        self._path = path
        self._file = path.open("ab", buffering=0)

    def add(self, row: Sequence[object]) -> None:
        """Append a row. Raises RunError where it cannot be written."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        try:
            self._file.write(text.getvalue().encode())
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror or error}") from None

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a log; [] if it is not there. A last row that was cut off is left out.

    Raises RunError for a file that is no such log.
    """
    if not path.exists():
        return []
    text = read_text(path, most=MOST_LOG_BYTES)
    whole, _, torn = text.rpartition("\n")
    if not whole:
        raise RunError(f"{path} {NO_LOG}")
    if not ROW.fullmatch(torn.rstrip("\0")):
        raise RunError(f"{path} ends in {shown(torn)}, and {NO_LOG}")
    sheet = parse_sheet(whole, (*COLUMNS, *FIGURES), str(path))
    if "step" not in sheet.columns:
        raise RunError(f"{path} {NO_LOG}")
    rows = []
    for line, row in sheet:
        try:
            numbers = [float(row[name] or 0) for name in row if name in NUMBERS]
        except ValueError:
            numbers = []
        if row.keys() != set(sheet.columns) or not numbers or not STEP.fullmatch(row["step"]):
            raise RunError(f"{path}, line {line}, {NO_LOG}")
        rows.append(row)
    return rows


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
    figures = [row for row in read_rows(run / EVALUATIONS) if row["metric"] == primary]
    lines, labels = axes.get_legend_handles_labels()
    if figures:
        right = axes.twinx()
        right.set_ylabel(primary, parse_math=False)
        for number, subnet in enumerate(dict.fromkeys(row["subnet"] for row in figures)):
            own = [row for row in figures if row["subnet"] == subnet]
            steps, values = [int(r["step"]) for r in own], [float(r["value"]) for r in own]
            right.plot(steps, values, "o--", color=f"C{number + 2}", label=subnet, markersize=4)
        for handles, texts in [right.get_legend_handles_labels()]:
            lines, labels = [*lines, *handles], [*labels, *texts]
    for text in axes.legend(lines, labels, loc="best", fontsize="small").get_texts():
        text.set_parse_math(False)
    return to_png(figure)


def _draw_loss(axes: Any, points: list[tuple[int, float]], label: str) -> None:
    """Draw every step faintly, and means of as many steps as leave a readable line."""
    width = max(1, len(points) // SMOOTHED)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    line = axes.plot(
        [sum(step for step, _ in group) / len(group) for group in groups],
        [sum(loss for _, loss in group) / len(group) for group in groups],
        label=label,
    )[0]
    if width > 1:
        axes.plot(*zip(*points, strict=True), color=line.get_color(), alpha=0.25, linewidth=0.5)
