"""A fit as a table on the terminal and as one picture."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as Grid

from predictors.models.extrapolate import with_more
from predictors.models.judge import cross_coverage
from predictors.models.model import COVERED, KINDS
from predictors.models.run import PICTURE, FitResult
from predictors.models.table import Array
from results.console import terminal
from results.drawing import drawing, new_figure, to_png
from results.errors import printable, shortened
from results.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"ridge": "ridge", "gp": "Gaussian process", "trees": "boosted trees", "mean": "mean"}
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
MOST_DIMENSIONS, MOST_CHOICES = 10, 16
NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def print_fit(result: FitResult) -> None:
    """Print how good each kind is, the learning curve, and what to do next."""
    console, model = terminal(width=110), result.model
    judged = model.judgement
    console.print(
        f"{result.read.target}: {judged.rows} distinct rows of {result.read.path.name}, "
        f"{len(model.encoding.genes)} genes, {len(model.encoding.features)} features; held out "
        f"by {judged.repeats} x {judged.folds}-fold cross-validation:",
        soft_wrap=True,
    )
    grid = Grid(box=None)
    headings = ("", "Kendall τ", "τ, top tenth", "mean error", "in 90 % interval", "± (90 %)")
    for heading in headings:
        grid.add_column(heading, justify="right" if heading else "left")
    grid.add_row("  guessing the mean", "", "", f"{judged.guess_mae:.3g}", "", "")
    for kind in KINDS:
        score, mark = judged.scores[kind], "* " if kind == model.kind else "  "
        grid.add_row(
            mark + TITLES[kind],
            _shown(score.kendall_tau),
            _shown(score.top_tau),
            f"{score.mae:.3g}",
            f"{100 * score.coverage:.0f} %" if score.coverage is not None else "",
            f"{score.width:.3g}" if score.width is not None else "",
        )
    console.print(grid)
    if result.read.stderr and (ceiling := result.noise_ceiling) is not None:
        console.print(
            f"noise: on pictures of its own each value would differ by {result.read.stderr:.3g}, "
            f"and they would be ranked with a τ of {ceiling:.3f}; on the same pictures less so",
            soft_wrap=True,
        )
    own = model.kind if model.kind != "mean" else _parts(result)
    console.print(f"kept: {own}, fitted to all rows", soft_wrap=True)
    curve = "; ".join(
        f"{point.rows} rows τ {_shown(point.kendall_tau)}, error {point.mae:.3g}"
        for point in judged.curve
    )
    console.print(f"learning curve: {curve}", soft_wrap=True)
    for rows, mae in with_more(judged.curve, judged.rows):
        console.print(f"with {rows} rows an error of about {mae:.3g} (the curve drawn on)")
    console.print(f"more: {result.more}", soft_wrap=True)
    console.print(f"wrote {result.path} and {result.folder / PICTURE}", soft_wrap=True)
    if result.read.origin is not None:
        console.print(
            f"next: python -m nas.search --device DEVICE --accuracy {result.path}", soft_wrap=True
        )


def draw(result: FitResult) -> None:
    """Write the picture of a fit.

    Raises PictureError where it cannot be drawn, RunError where it cannot be written.
    """
    path = result.folder / PICTURE
    with drawing(str(path)):
        figure = new_figure(11, 8.5, dpi=130)
        axes = figure.subplots(2, 2)
        _draw_predicted(axes[0, 0], result)
        _draw_residuals(axes[0, 1], result)
        _draw_coverage(axes[1, 0], result)
        _draw_curve(axes[1, 1], result)
        score = result.model.judgement.scores[result.model.kind]
        words = shortened(printable(result.read.target), 70)
        figure.suptitle(
            f"{words}: {result.model.judgement.rows} rows, {TITLES[result.model.kind]}, "
            f"Kendall's τ {_shown(score.kendall_tau)}, mean error {score.mae:.3g} on rows left out",
            fontsize=11,
            parse_math=False,
        )
        picture = to_png(figure)
    write_bytes(path, picture)


def _draw_predicted(axes: "Axes", result: FitResult) -> None:
    values, predicted = result.evidence.table.values, result.evidence.predicted.mean(axis=0)
    ends = [min(values.min(), predicted.min()), max(values.max(), predicted.max())]
    axes.plot(ends, ends, c="0.6", lw=1)
    width = result.model.judgement.scores[result.model.kind].width or 0.0
    band = (np.array(ends) - width, np.array(ends) + width)
    axes.fill_between(ends, *band, color=GREEN, alpha=0.12, lw=0, label="90 % interval, on average")
    axes.scatter(predicted, values, s=9, c=BLUE, alpha=0.6, lw=0)
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlabel("predicted, by a fit without the row")
    axes.set_ylabel("measured")
    axes.set_title("predicted against measured", fontsize=10)
    axes.grid(alpha=0.25)


def _draw_residuals(axes: "Axes", result: FitResult) -> None:
    """Draw mean errors by choice, of the dimensions where these differ most."""
    table = result.evidence.table
    residuals = table.values - result.evidence.predicted.mean(axis=0)
    found = []
    for name, column in table.genes.items():
        choices, index = np.unique(column, return_inverse=True)
        if 2 <= len(choices) <= MOST_CHOICES:
            found.append((*_by_choice(residuals, index), name, choices))
    found.sort(key=lambda one: -one[0])
    shown = found[:MOST_DIMENSIONS][::-1]
    for place, (_, means, errors, _, choices) in enumerate(shown):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color="0.95", lw=0)
        offsets = place + np.linspace(0.3, -0.3, len(means))
        axes.errorbar(means, offsets, xerr=errors, fmt="o", ms=3, lw=0.8, c=BLUE)
        for mean, error, offset, choice in zip(means, errors, offsets, choices, strict=True):
            axes.annotate(
                shortened(printable(_choice(choice)), 12),
                (mean + error, offset),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=5.5,
                parse_math=False,
            )
    axes.axvline(0, c="0.6", lw=1)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels(
        [shortened(printable(name), 24) for *_, name, _ in shown], fontsize=8, parse_math=False
    )
    axes.set_xlabel("measured - predicted: mean of the rows with each choice, ± its error")
    axes.set_title(f"errors by dimension, the {len(shown)} where most is left", fontsize=10)
    axes.grid(alpha=0.25, axis="x")


def _by_choice(residuals: Array, index: NDArray[np.intp]) -> tuple[float, Array, Array]:
    """Return how much choices differ, over what chance would do; means and their errors."""
    counts = np.bincount(index)
    means = np.bincount(index, residuals) / counts
    error = residuals.std() / np.sqrt(counts)
    return float(((means / np.maximum(error, 1e-12)) ** 2).mean()), means, error


def _draw_coverage(axes: "Axes", result: FitResult) -> None:
    evidence = result.evidence
    pairs = list(zip(evidence.ratios, evidence.folds, strict=True))
    found = [
        float(np.mean([cross_coverage(row, folds, level) for row, folds in pairs]))
        for level in NOMINAL
    ]
    axes.plot([0, 100], [0, 100], c="0.6", lw=1)
    axes.plot([100 * n for n in NOMINAL], [100 * f for f in found], "o-", ms=4, c=GREEN)
    at = found[NOMINAL.index(COVERED)]
    axes.set_xlabel("nominal [%]")
    axes.set_ylabel("rows left out inside of the interval [%]")
    axes.set_title(f"coverage: {100 * at:.0f} % of the 90 % intervals hold", fontsize=10)
    axes.grid(alpha=0.25)


def _draw_curve(axes: "Axes", result: FitResult) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    judged = result.model.judgement
    rows = [point.rows for point in judged.curve]
    axes.set_xscale("log")
    axes.plot(rows, [point.mae for point in judged.curve], "o-", c=ORANGE, label="mean error")
    more = with_more(judged.curve, judged.rows)
    if more:
        drawn = [(judged.curve[-1].rows, judged.curve[-1].mae), *more]
        axes.plot(*zip(*drawn, strict=True), "o:", c=ORANGE, mfc="white", label="drawn on")
    axes.set_ylim(0, 1.25 * max(point.mae for point in judged.curve))
    ticks = [*rows, *(count for count, _ in more)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("rows of the fit")
    axes.set_ylabel("mean error", color=ORANGE)
    axes.set_title(f"learning curve (guessing the mean: {judged.guess_mae:.3g})", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    known = [(p.rows, p.kendall_tau) for p in judged.curve if p.kendall_tau is not None]
    if known:
        other = axes.twinx()
        other.plot(*zip(*known, strict=True), "s-", ms=4, c=BLUE)
        other.set_ylabel("Kendall's τ", color=BLUE)
        lowest = min(0.0, *(tau for _, tau in known))
        other.set_ylim(lowest, 1)


def _parts(result: FitResult) -> str:
    weights = result.model.weights.items()
    return " + ".join(f"{weight:.1f} {TITLES[name]}" for name, weight in weights)


def _choice(value: float | str) -> str:
    if isinstance(value, str):
        return value or "none"
    return "none" if np.isnan(value) else f"{value:g}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
