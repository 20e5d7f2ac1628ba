"""front.html: the front as a page of its own, to look at each network."""

import html
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from nas.front import Candidate, Front
from nas.objectives.objective import LATENCY
from nas.panels import TICKS, Panel, columns_of, cycle, panels_of, title_of, words_of
from nas.pareto import best_shared
from supernet.arch import format_resolution

GAP = 0.06  # of the width, between panels; thrice of the height
MOST_COLUMNS = 3
SHARED = 30  # networks to share that are marked
SIZES = {"circle-open": 9, "diamond": 7, "x": 6}  # others: 5
MOST_CHARACTERS = 170  # of a line of the title
PALE = "#EBF0F8"  # lines, as in plotly's template plotly_white


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


def page_of(fronts: Sequence[Front]) -> str:
    """Return the page, which needs nothing else; inside `results.drawing.drawing`."""
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
    panels = panels_of(fronts[0])
    lines = (textwrap.wrap(words_of(line), MOST_CHARACTERS) for line in title_of(fronts))
    title = "<br>".join(_markup(part) for parts in lines for part in parts)
    layout: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 14}, "x": 0.05},
        "font": {"color": "#2a3f5f"},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "margin": {"t": 90 + 18 * (1 + title.count("<br>"))},
        "legend": {"orientation": "h", "y": -0.15} if len(panels) > 1 else {},
    }
    traces: list[dict[str, Any]] = []
    columns = min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    for number, panel in enumerate(panels):
        suffix = "" if not number else str(number + 1)  # as plotly numbers axes
        axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": not number}
        for colour, front in zip(cycle(len(fronts)), fronts, strict=True):
            own = _traces(front, panel, colour, alone=len(fronts) == 1)
            traces += [trace | axes for trace in own]
        row, column = divmod(number, columns)
        x, y = (_axis(fronts[0], objective) for objective in (panel.x, panel.y))
        across, down = _share(column, columns, GAP), _share(rows - 1 - row, rows, 3 * GAP)
        layout[f"xaxis{suffix}"] = x | {"domain": across, "anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] = y | {"domain": down, "anchor": f"x{suffix}"}
    return {"data": traces, "layout": layout, "config": {"responsive": True}}


def _share(number: int, count: int, gap: float) -> list[float]:
    """Return where one of `count` panels begins and ends, as shares of the page."""
    width = (1 + gap) / count
    return [number * width, (number + 1) * width - gap]


def _axis(front: Front, number: int) -> dict[str, Any]:
    """Return the axis of an objective, in the colours of plotly's template plotly_white."""
    objective = front.objectives[number]
    words = front.metric if objective.is_maximized else objective.words
    axis: dict[str, Any] = {
        "title": {"text": _markup(words), "standoff": 15},
        "gridcolor": PALE,
        "linecolor": PALE,
        "zerolinecolor": PALE,
        "zerolinewidth": 2,
        "automargin": True,
    }
    if not objective.is_maximized:
        axis |= {"type": "log", "tickvals": TICKS, "ticktext": [f"{tick:g}" for tick in TICKS]}
    return axis


def _traces(front: Front, panel: Panel, colour: str, *, alone: bool) -> list[dict[str, Any]]:
    """Return what was tried, the front, its networks near to what is known, official networks."""
    suffix = "" if alone else f", {_markup(front.title)}"
    x, y = columns_of([(trial[panel.x], trial[panel.y]) for trial in front.trials])
    tried = {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "markers",
        "name": f"networks tried{suffix}",
        "legendgroup": f"networks tried{suffix}",
        "marker": {"size": 3, "color": "silver" if alone else colour},
        "hoverinfo": "skip",
        "visible": True if alone else "legendonly",
    }
    line = "lines+markers" if len(front.objectives) == 2 else "markers"
    named = [(str(number), c) for number, c in front.by_id.items()]
    near = [(key, c) for key, c in named if not c.accuracy_extrapolated]
    shown = [(named, f"front{suffix}", colour, line, "circle")]
    if front.devices:
        shared = set(best_shared(front, SHARED))
        own = [(key, c) for key, c in named if c in shared]
        shown.append(
            (own, f"least loss of the worst device{suffix}", "black", "markers", "diamond")
        )
    elif len(near) < len(named):
        name = f"of these, {front.near}{suffix}"
        shown.append((near, name, colour, "markers", "circle-open"))
    official = list(front.baselines.items())
    black = "black" if alone else colour
    shown.append((official, f"official networks{suffix}", black, "markers", "x"))
    return [
        tried,
        *(
            _trace(front, panel, chosen, own, symbol)
            | {"mode": mode, "name": name, "legendgroup": name}
            for chosen, name, own, mode, symbol in shown
        ),
    ]


def _trace(
    front: Front, panel: Panel, named: Sequence[tuple[str, Candidate]], colour: str, symbol: str
) -> dict[str, Any]:
    x, y = front.objectives[panel.x], front.objectives[panel.y]
    marker: dict[str, Any] = {"size": SIZES.get(symbol, 5), "color": colour, "symbol": symbol}
    if symbol == "circle" and not panel.is_accuracy:
        marker |= {"color": [c.accuracy for _, c in named], "colorscale": "Viridis"}
    return {
        "type": "scatter",
        "x": [x.value(c) for _, c in named],
        "y": [y.value(c) for _, c in named],
        **_errors(front, panel, named),
        "marker": marker,
        "line": {"color": colour},
        "text": [_hover(key, c, front) for key, c in named],
        "hoverinfo": "text",
    }


def _errors(
    front: Front, panel: Panel, named: Sequence[tuple[str, Candidate]]
) -> dict[str, dict[str, Any]]:
    """Return error bars, which only a front of two objectives has room for."""
    if len(front.objectives) > 2:
        return {}
    errors = {"error_y": [c.accuracy_std for _, c in named]}
    if front.objectives[panel.x].quantity is LATENCY:
        errors["error_x"] = [c.latency_std_ms for _, c in named]
    return {name: {"array": array, "thickness": 0.4, "width": 0} for name, array in errors.items()}


def _hover(key: str, c: Candidate, front: Front) -> str:
    took = [
        f"{own.latency_ms:.3g} ± {own.latency_std_ms:.2g} ms"
        + (f" on {_markup(device)}" if device else "")
        + (", extrapolated" if device and own.latency_extrapolated else "")
        for own, device in zip(c.latencies, front.devices or ("",), strict=True)
    ]
    lost = [f"{100 * loss:.0f} % slower there than alone" for loss in c.losses]
    energy = [] if c.energy_mj is None else [f"{c.energy_mj:.4g} mJ"]
    lines = [
        f"<b>{_markup(key)}</b>",
        *([f"{ms}, {loss}" for ms, loss in zip(took, lost, strict=True)] if lost else took),
        f"{c.accuracy:.2f} ± {c.accuracy_std:.2f}",
        *energy,
        f"{c.params_m:.2f} M params, {c.macs_g:.3g} G MACs, {c.memory_mb:.0f} MB",
        f"{format_resolution(c.arch.resolution)} px",
        _markup(c.arch.describe()),
    ]
    if c.latency_extrapolated and not front.devices:
        lines.append("latency extrapolated")
    if c.accuracy_extrapolated:
        lines.append("accuracy extrapolated")
    return "<br>".join(lines)


def _markup(text: str) -> str:
    """Return a text of a run as plotly, which reads some HTML, shows it."""
    return html.escape(words_of(text))
