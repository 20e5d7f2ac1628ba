"""Pictures of fronts: front.png, and front.html to look at each network."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.front import Front
from nas.page import page_of
from nas.panels import TICKS, Panel, columns_of, cycle, panels_of, title_of, words_of
from nas.pareto import best_shared
from results.drawing import drawing, new_figure, to_png
from results.errors import RunError, shortened
from results.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

DECADES = TICKS[::3]
SHARED = 30  # networks to share that are marked
MOST_TICKS = 14, 10  # whose labels do not touch: in a picture of its own, in one of several
LEAST = 1e-9  # on a logarithmic axis; a trial's latency has six decimals and may be 0


def write_plots(fronts: Sequence[Front], folder: Path) -> None:
    """Write front.png and front.html of one or several fronts of the same objectives.

    Raises RunError where they cannot be written, PictureError where they cannot be drawn.
    """
    with drawing(f"{folder / 'front.png'} or front.html"):
        picture, page = _png(fronts), page_of(fronts)
    write_bytes(folder / "front.png", picture)
    write_text(folder / "front.html", page)


def check_comparable(fronts: Sequence[Front]) -> None:
    """Raise RunError where fronts are of different metrics or objectives."""
    metrics = {front.metric for front in fronts}
    if len(metrics) > 1:
        raise RunError(f"runs are not comparable: metric differs, {' and '.join(sorted(metrics))}")
    objectives = {", ".join(own.column for own in front.objectives) for front in fronts}
    if len(objectives) > 1:
        told = " and ".join(sorted(objectives))
        raise RunError(f"runs are not comparable: objectives differ, {told}")


def _png(fronts: Sequence[Front]) -> bytes:
    panels = panels_of(fronts[0])
    figure = new_figure(9 if len(panels) == 1 else 6 * min(3, len(panels)), 6, dpi=150)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure.set_figheight(6 if len(panels) == 1 else 5 * rows + 1)
    for number, panel in enumerate(panels, start=1):
        axes: Axes = figure.add_subplot(rows, columns, number)
        for colour, front in zip(cycle(len(fronts)), fronts, strict=True):
            _draw(axes, front, panel, colour, alone=len(fronts) == 1)
        _finish(axes, fronts, panel)
        if number == 1:
            for text in axes.legend(loc="lower right", fontsize=8).get_texts():
                text.set_parse_math(False)
    lines = title_of(fronts)
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(words_of(line), 118 if columns == 1 else 95 * columns)
    ]
    if len(panels) == 1:
        figure.axes[0].set_title("\n".join(wrapped), fontsize=8.5, loc="left", parse_math=False)
    else:
        title = figure.suptitle("\n".join(wrapped), fontsize=8.5, x=0.01, ha="left")
        title.set_parse_math(False)
    return to_png(figure)


def _finish(axes: "Axes", fronts: Sequence[Front], panel: Panel) -> None:
    """Scale and name the axes of a panel."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    front = fronts[0]
    x, y = front.objectives[panel.x], front.objectives[panel.y]
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.05)  # room for the last name
    scaled: list[tuple[Axis, tuple[float, float]]] = [(axes.xaxis, axes.get_xlim())]
    if not panel.is_accuracy:
        axes.set_yscale("log")
        scaled.append((axes.yaxis, axes.get_ylim()))
    for axis, (low, high) in scaled:
        ticks = [t for t in TICKS if low <= t <= high]
        if len(ticks) > MOST_TICKS[len(front.objectives) > 2]:
            ticks = [t for t in ticks if t in DECADES]
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(words_of(x.words), parse_math=False)
    words = front.metric if panel.is_accuracy else y.words
    axes.set_ylabel(shortened(words_of(words), 80), parse_math=False)
    axes.grid(alpha=0.25)


def _draw(axes: "Axes", front: Front, panel: Panel, colour: str, *, alone: bool) -> None:
    x, y = front.objectives[panel.x], front.objectives[panel.y]
    points = front.candidates
    if not panel.is_accuracy:
        pairs = columns_of([(x.value(c), y.value(c)) for c in points])
        if alone:
            accuracy = [c.accuracy for c in points]
            dots = axes.scatter(*pairs, s=6, c=accuracy, cmap="viridis", lw=0)
            bar = axes.figure.colorbar(dots, ax=axes)
            bar.set_label(shortened(words_of(front.metric), 80), parse_math=False)
        else:
            axes.scatter(*pairs, s=6, color=colour, lw=0)
        _draw_marks(axes, front, panel, "black" if alone else colour, alone=alone)
        return
    costs = [x.value(c) for c in points]
    accuracy = [c.accuracy for c in points]
    if alone:
        tried = f"{len(front.trials)} of the networks tried, within the budgets"
        drawn = [(t[panel.x], t[panel.y]) for t in front.trials if t[panel.x] >= LEAST]
        axes.scatter(*columns_of(drawn), s=5, c="0.75", lw=0, label=tried)
    label: str | None = "front, ± 1 std of the accuracy" if alone else _label(front)
    if len(front.objectives) == 2:
        lower = [c.accuracy - c.accuracy_std for c in points]
        upper = [c.accuracy + c.accuracy_std for c in points]
        axes.fill_between(costs, lower, upper, color=colour, alpha=0.18, lw=0)
        axes.plot(costs, accuracy, ".-", ms=3, lw=1, c=colour, label=label)
        near = [(x.value(c), c.accuracy) for c in points if not c.accuracy_extrapolated]
        if near:
            label = f"of these, {front.near}" if alone else None
            axes.scatter(
                *columns_of(near), s=22, fc="white", ec=colour, lw=1, label=label, zorder=2.5
            )
    else:
        label = "front" if alone else _label(front)
        axes.scatter(costs, accuracy, s=6, color=colour, lw=0, label=label)
    _draw_marks(axes, front, panel, "black" if alone else colour, alone=alone)


def _draw_marks(axes: "Axes", front: Front, panel: Panel, colour: str, *, alone: bool) -> None:
    x, y = front.objectives[panel.x], front.objectives[panel.y]
    if front.devices and alone:
        shared = [(x.value(c), y.value(c)) for c in best_shared(front, SHARED)]
        label = "least loss of the worst device"
        axes.scatter(
            *columns_of(shared), marker="D", s=14, fc="white", ec="black", lw=0.8, label=label
        )
    marks = {name: (x.value(c), y.value(c)) for name, c in front.baselines.items()}
    if marks:
        label = "official networks" + ("" if alone else f", {_label(front)}")
        pairs = columns_of(list(marks.values()))
        axes.scatter(*pairs, marker="x", s=30, c=colour, label=label, zorder=3)
    if alone:
        _label_baselines(axes, marks)


def _label(front: Front) -> str:
    return shortened(words_of(front.title), 80)


def _label_baselines(axes: "Axes", marks: Mapping[str, tuple[float, float]]) -> None:
    """Write names at the marks, leaving out those that would lie on another's."""
    free_from = 0.0  # where the last name ends
    low, high = axes.get_xlim()
    if axes.get_xscale() != "log" and low <= 0:
        low = min((x for x, _ in marks.values()), default=1.0)
    width = (high / low) ** 0.075  # of a name, as a ratio of costs
    for name, place in sorted(marks.items(), key=lambda item: item[1]):
        if place[0] >= free_from:
            name = shortened(words_of(name), 40)
            axes.annotate(
                name, place, (4, -10), textcoords="offset points", fontsize=7, parse_math=False
            )
            free_from = place[0] * width
