"""verified.png: measured latencies against predicted ones, and the error of each prediction."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lut.sidecar import MOST_TITLE
from nas.verifying.choose import Choice
from nas.verifying.rows import Row
from nas.verifying.verdict import CERTAIN, Promise
from results.drawing import drawing, new_figure, to_png
from results.errors import printable, shortened
from results.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {
    "front": ("o", "C0", "front"),
    "asked": ("o", "C0", "networks"),
    "official": ("x", "black", "official networks"),
}


def write_picture(rows: Sequence[Row], choice: Choice, promise: Promise, path: Path) -> None:
    """Write a PNG file. Raises RunError and PictureError."""
    with drawing(str(path)):
        picture = _png(rows, choice, promise)
    write_bytes(path, picture)


def _png(rows: Sequence[Row], choice: Choice, promise: Promise) -> bytes:
    figure = new_figure(7, 7.5, dpi=130)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    ran = [row for row in rows if row.time is not None]
    for kind, (marker, colour, label) in STYLES.items():
        own = [row for row in ran if row.chosen.kind == kind]
        if own:
            _draw(upper, lower, own, marker, colour, label)
    values = [ms for row in ran if row.time for ms in (row.predicted_ms, row.time.ms)]
    ends = [min(values) * 0.9, max(values) * 1.1]
    upper.plot(ends, ends, "k-", lw=0.8, zorder=0, label="as predicted")
    upper.set_ylim(*ends)  # bars of a noisy machine would leave no room for the points
    off = [abs(row.time.ms / row.predicted_ms - 1) for row in ran if row.time]
    claimed = [CERTAIN * row.std_ms / row.predicted_ms for row in ran]
    most = 130 * max(*off, *claimed, 0.01)
    lower.set_ylim(-most, most)
    _draw_band(lower, ran)
    lower.axhline(0, color="k", lw=0.8, zorder=0)
    _name(upper, lower, choice, promise)
    return to_png(figure)


def _draw(
    upper: "Axes", lower: "Axes", rows: Sequence[Row], marker: str, colour: str, label: str
) -> None:
    """Draw networks of one kind, with 90 % intervals of predictions and measurements."""
    predicted = [row.predicted_ms for row in rows]
    times = [row.time for row in rows if row.time is not None]
    took = [time.ms for time in times]
    spread = [CERTAIN * time.std_ms for time in times]
    claimed = [CERTAIN * row.std_ms for row in rows]
    look = {"fmt": marker, "color": colour, "ms": 4, "lw": 0.8, "capsize": 1.5}
    upper.errorbar(predicted, took, spread, claimed, label=label, **look)  # type: ignore[arg-type]
    errors = [100 * (ms / guess - 1) for ms, guess in zip(took, predicted, strict=True)]
    spread = [100 * ms / guess for ms, guess in zip(spread, predicted, strict=True)]
    lower.errorbar(predicted, errors, spread, **look)  # type: ignore[arg-type]


def _draw_band(lower: "Axes", rows: Sequence[Row]) -> None:
    """Draw what the predictions claim."""
    ordered = sorted(rows, key=lambda row: row.predicted_ms)
    claimed = [100 * CERTAIN * row.std_ms / row.predicted_ms for row in ordered]
    places = [row.predicted_ms for row in ordered]
    lower.fill_between(
        places, [-own for own in claimed], claimed, color="0.88", lw=0, zorder=-1,
        label="claimed, 90 %",
    )  # fmt: skip


def _name(upper: "Axes", lower: "Axes", choice: Choice, promise: Promise) -> None:
    """Scale and name the axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    upper.set_xscale("log")
    upper.set_yscale("log")
    for axis in (upper.xaxis, upper.yaxis):
        low, high = axis.get_view_interval()
        subs = (1.0, 2.0, 5.0) if high / low > 8 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
        axis.set_major_locator(LogLocator(10, subs))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    upper.set_ylabel("measured [ms per image]")
    lower.set_xlabel("predicted [ms per image], bars: 90 % intervals")
    lower.set_ylabel("measured less predicted\n[% of predicted]")
    upper.grid(alpha=0.25)
    lower.grid(alpha=0.25)
    table = choice.latency.table
    claimed = promise.claimed_percent
    told = "no error claimed" if claimed is None else f"{claimed:.1f} % claimed"
    title = shortened(printable(table.title), MOST_TITLE // 2)
    upper.set_title(
        f"{title}, {table.runtime} {table.precision}, batch {table.batch}\nmean error "
        f"{promise.mean_percent:.1f} % ({told})",
        fontsize=10,
        parse_math=False,
    )
    upper.legend(loc="upper left", fontsize=8)
    lower.legend(loc="upper left", fontsize=8)
