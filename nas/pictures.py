"""Pictures of fronts: front.png, and front.html to look at each network."""

import html
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.front import Candidate, Front
from results.drawing import drawing, new_figure, to_png
from results.errors import RunError, printable, shortened
from results.files import write_bytes, write_text
from supernet.arch import format_resolution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS_MS = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
LEAST_MS = 1e-9  # on a logarithmic axis; a trial's latency has six decimals and may be 0
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

PAGE = """<!doctype html>
<html>
<head>
<meta charset="utf-8">
<title>Pareto front</title>
</head>
<body>
<div id="front" style="height: 97vh; width: 100%"></div>
<script>{library}</script>
<script>Plotly.newPlot("front", {figure});</script>
</body>
</html>
"""


def write_plots(fronts: Sequence[Front], folder: Path) -> None:
    """Write front.png and front.html of one or several fronts of one metric.

    Raises RunError where they cannot be written, PictureError where they cannot be drawn.
    """
    with drawing(f"{folder / 'front.png'} or front.html"):
        picture, page = _png(fronts), _html(fronts)
    write_bytes(folder / "front.png", picture)
    write_text(folder / "front.html", page)


def check_comparable(fronts: Sequence[Front]) -> None:
    """Raise RunError where fronts are of different metrics."""
    metrics = {front.metric for front in fronts}
    if len(metrics) > 1:
        raise RunError(f"runs are not comparable: metric differs, {' and '.join(sorted(metrics))}")


def _png(fronts: Sequence[Front]) -> bytes:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure = new_figure(9, 6, dpi=150)
    axes: Axes = figure.add_subplot()
    axes.set_xscale("log")
    for colour, front in zip(_cycle(len(fronts)), fronts, strict=True):
        _draw(axes, front, colour, alone=len(fronts) == 1)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.05)  # room for the last name
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS_MS if low <= t <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("latency [ms per image]")
    axes.set_ylabel(shortened(_words(fronts[0].metric), 80), parse_math=False)
    lines = [part for line in _title(fronts) for part in textwrap.wrap(_words(line), 118)]
    axes.set_title("\n".join(lines), fontsize=8.5, loc="left", parse_math=False)
    axes.grid(alpha=0.25)
    for text in axes.legend(loc="lower right", fontsize=8).get_texts():
        text.set_parse_math(False)
    return to_png(figure)


def _draw(axes: "Axes", front: Front, colour: str, *, alone: bool) -> None:
    points = front.candidates
    ms = [c.latency_ms for c in points]
    accuracy = [c.accuracy for c in points]
    if alone:
        tried = f"{len(front.trials)} of the networks tried, within the budgets"
        drawn = [pair for pair in front.trials if pair[0] >= LEAST_MS]
        axes.scatter(*_columns(drawn), s=5, c="0.75", lw=0, label=tried)
    lower = [c.accuracy - c.accuracy_std for c in points]
    upper = [c.accuracy + c.accuracy_std for c in points]
    axes.fill_between(ms, lower, upper, color=colour, alpha=0.18, lw=0)
    label: str | None = "front, ± 1 std of the accuracy" if alone else _label(front)
    axes.plot(ms, accuracy, ".-", ms=3, lw=1, c=colour, label=label)
    near = [(c.latency_ms, c.accuracy) for c in points if not c.accuracy_extrapolated]
    if near:
        label = f"of these, {front.near}" if alone else None
        axes.scatter(*_columns(near), s=22, fc="white", ec=colour, lw=1, label=label, zorder=2.5)
    label = "official networks" + ("" if alone else f", {_label(front)}")
    marks = [(c.latency_ms, c.accuracy) for c in front.baselines.values()]
    colour = "black" if alone else colour
    if marks:
        axes.scatter(*_columns(marks), marker="x", s=30, c=colour, label=label, zorder=3)
    if alone:
        _label_baselines(axes, front)


def _label(front: Front) -> str:
    return shortened(_words(front.title), 80)


def _label_baselines(axes: "Axes", front: Front) -> None:
    """Write names at the marks, leaving out those that would lie on another's."""
    free_from = 0.0  # ms, where the last name ends
    low, high = axes.get_xlim()
    width = (high / low) ** 0.075  # of a name, as a ratio of latencies
    for name, c in sorted(front.baselines.items(), key=lambda item: item[1].latency_ms):
        if c.latency_ms >= free_from:
            place = (c.latency_ms, c.accuracy)
            name = shortened(_words(name), 40)
            axes.annotate(
                name, place, (4, -10), textcoords="offset points", fontsize=7, parse_math=False
            )
            free_from = c.latency_ms * width


def _html(fronts: Sequence[Front]) -> str:
    from plotly.offline import get_plotlyjs

    data = json.dumps(figure_of(fronts), allow_nan=False)
    for sign in "<>&/":  # none that ends the script
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return PAGE.format(library=get_plotlyjs(), figure=data)


def figure_of(fronts: Sequence[Front]) -> dict[str, Any]:
    """Return the interactive figure of fronts as plotly.js takes it.

    Plain data: plotly's own objects, which check each property, would take half a second, and what
    writes their pages imports a package for data frames.
    """
    traces: list[dict[str, Any]] = []
    for colour, front in zip(_cycle(len(fronts)), fronts, strict=True):
        suffix = "" if len(fronts) == 1 else f", {_markup(front.title)}"
        x, y = _columns(front.trials)
        tried = {
            "type": "scatter",
            "x": x,
            "y": y,
            "mode": "markers",
            "name": f"networks tried{suffix}",
            "marker": {"size": 3, "color": "silver" if len(fronts) == 1 else colour},
            "hoverinfo": "skip",
            "visible": True if len(fronts) == 1 else "legendonly",
        }
        named = [(str(number), c) for number, c in front.by_id.items()]
        whole = _trace(named, f"front{suffix}", colour, "lines+markers", "circle")
        near = [(key, c) for key, c in named if not c.accuracy_extrapolated]
        inside = _trace(near, f"of these, {front.near}{suffix}", colour, "markers", "circle-open")
        official = list(front.baselines.items())
        black = "black" if len(fronts) == 1 else colour
        known = _trace(official, f"official networks{suffix}", black, "markers", "x")
        traces += [tried, whole, inside, known]
    ticks = {"tickvals": TICKS_MS, "ticktext": [f"{tick:g}" for tick in TICKS_MS]}
    title = {"text": "<br>".join(map(_markup, _title(fronts))), "font": {"size": 14}, "x": 0.05}
    layout = {
        "title": title,
        "xaxis": {**_axis("latency [ms per image]"), "type": "log", **ticks},
        "yaxis": _axis(_markup(fronts[0].metric)),
        "font": {"color": "#2a3f5f"},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "margin": {"t": 110},
    }
    return {"data": traces, "layout": layout, "config": {"responsive": True}}


def _axis(title: str) -> dict[str, Any]:
    """Return an axis in the colours of plotly's template plotly_white."""
    pale = "#EBF0F8"
    return {
        "title": {"text": title, "standoff": 15},
        "gridcolor": pale,
        "linecolor": pale,
        "zerolinecolor": pale,
        "zerolinewidth": 2,
        "automargin": True,
    }


def _trace(
    named: Sequence[tuple[str, Candidate]], name: str, colour: str, mode: str, symbol: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [c.latency_ms for _, c in named],
        "y": [c.accuracy for _, c in named],
        "error_x": {"array": [c.latency_std_ms for _, c in named], "thickness": 0.4, "width": 0},
        "error_y": {"array": [c.accuracy_std for _, c in named], "thickness": 0.4, "width": 0},
        "mode": mode,
        "name": name,
        "marker": {"size": 9 if symbol == "circle-open" else 5, "color": colour, "symbol": symbol},
        "line": {"color": colour},
        "text": [_hover(key, c) for key, c in named],
        "hoverinfo": "text",
    }


def _hover(key: str, c: Candidate) -> str:
    return (
        f"<b>{_markup(key)}</b><br>"
        f"{c.latency_ms:.3g} ± {c.latency_std_ms:.2g} ms<br>"
        f"{c.accuracy:.2f} ± {c.accuracy_std:.2f}<br>"
        f"{c.params_m:.2f} M params, {c.macs_g:.3g} G MACs, {c.memory_mb:.0f} MB<br>"
        f"{format_resolution(c.arch.resolution)} px<br>{_markup(c.arch.describe())}"
        + ("<br>latency extrapolated" if c.latency_extrapolated else "")
        + ("<br>accuracy extrapolated" if c.accuracy_extrapolated else "")
    )


def _markup(text: str) -> str:
    """Return a text of a run as plotly, which reads some HTML, shows it."""
    return html.escape(_words(text))


def _words(text: str) -> str:
    """Return a text of a run as a picture can hold it: printable, of a few lines at most."""
    return shortened(printable(text), 600)


def _title(fronts: Sequence[Front]) -> list[str]:
    if len(fronts) > 1:
        return [
            f"{fronts[0].metric}, {len(fronts)} runs",
            *(f"{front.title}: {front.latency_source}" for front in fronts),
        ]
    front = fronts[0]
    return [
        f"{front.title}: {front.metric} against latency",
        f"latency: {front.latency_source}",
        f"accuracy: {front.accuracy_source}",
    ]


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
