"""A calibration as a page and a picture: every row predicted by a fit without its architecture."""

from pathlib import Path

from lut.calibration.fit import Calibration, CalibrationRow
from lut.device import Device
from results.drawing import drawing, new_figure, to_png
from results.files import write_bytes, write_text
from supernet.arch import format_resolution

NAMED_FROM_PERCENT = 5  # rows with a larger error have their name beside them
DRAWN_PERCENT = 30


def write_report(device: Device, calibration: Calibration, folder: Path) -> None:
    """Write NAME.md and NAME.png.

    Raises RunError where `folder` cannot be written, PictureError where NAME.png cannot be drawn.
    """
    write_text(folder / f"{device.name}.md", _page(device, calibration))
    picture = folder / f"{device.name}.png"
    with drawing(str(picture)):
        drawn = _picture(device, calibration)
    write_bytes(picture, drawn)


def _page(device: Device, calibration: Calibration) -> str:
    summary = calibration.summary
    lines = [
        f"# {_cell(device.label)}",
        "",
        _cell(device.note),
        "",
        f"Leave-architecture-out: MAPE {summary.mape_percent:.1f} % "
        f"({summary.mape_beyond_rounding_percent:.1f} % beyond the rounding given), worst row "
        f"{summary.worst_percent:.1f} % beyond rounding, {summary.num_ordered_pairs} of "
        f"{summary.num_pairs} pairs more than 8 % apart in their order, Kendall τ "
        f"{summary.kendall_tau:.3f}, on {summary.num_rows} rows of {summary.num_architectures} "
        "architectures.",
        "",
        "Fitted parameters: "
        + ", ".join(f"{k} {v:.4g}" for k, v in calibration.parameters.items())
        + ".",
        "",
        f"![predicted against given]({device.name}.png)",
        "",
        "| network | px | batch | given ms | fitted ms | left out ms | error % | kind | notes |"
        "\n|---|---|---|---|---|---|---|---|---|",
    ]
    for row in calibration.rows:
        point = row.point
        kind = point.kind if point.fitted else f"{point.kind} (compared only)"
        lines.append(
            f"| {_cell(_name(row))} | {format_resolution(point.arch.resolution)} | {point.batch} "
            f"| {point.latency_ms:.4g} | {row.fitted_ms:.4g} | {row.leave_out_ms:.4g} "
            f"| {row.leave_out_error_percent:+.1f} | {kind} | {_cell(point.notes)} |"
        )
    return "\n".join(lines) + "\n"


def _picture(device: Device, calibration: Calibration) -> bytes:
    figure = new_figure(7, 7, dpi=120)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for fitted, marker, label in ((True, "o", "fitted kinds"), (False, "x", "compared only")):
        rows = [row for row in calibration.rows if row.point.fitted == fitted]
        if rows:
            published = [row.point.latency_ms for row in rows]
            upper.loglog(published, [r.leave_out_ms for r in rows], marker, ms=5, label=label)
            errors = [_clipped(row) for row in rows]
            lower.semilogx(published, errors, marker, ms=5)
    every = [row.point.latency_ms for row in calibration.rows]
    ends = [min(every) * 0.8, max(every) * 1.25]
    upper.plot(ends, ends, "k-", lw=0.8)
    lower.axhline(0, color="k", lw=0.8)
    lower.axhspan(-10, 10, color="0.9", label="± 10 %", zorder=0)
    for row in sorted(calibration.rows, key=lambda row: -abs(row.leave_out_error_percent)):
        if row.point.fitted and abs(row.leave_out_error_percent) > NAMED_FROM_PERCENT:
            text = f"{_name(row)} {format_resolution(row.point.arch.resolution)}"
            place = (row.point.latency_ms, _clipped(row))
            lower.annotate(
                text, place, (6, -3), textcoords="offset points", fontsize=7, parse_math=False
            )
    lower.set_xlabel("given [ms per image]")
    upper.set_ylabel("predicted without the\narchitecture's own rows [ms per image]")
    lower.set_ylabel(f"error [%], drawn up to ± {DRAWN_PERCENT}")
    error = calibration.summary.mape_percent
    title = f"{device.label}, leave-architecture-out MAPE {error:.1f} %"
    upper.set_title(title, fontsize=10, parse_math=False)
    upper.legend(loc="upper left")
    lower.legend(loc="upper right", fontsize=7)
    return to_png(figure)


def _clipped(row: CalibrationRow) -> float:
    return max(-DRAWN_PERCENT, min(DRAWN_PERCENT, row.leave_out_error_percent))


def _cell(text: str) -> str:
    """Return a text for a table of a page; what a file says cannot begin another cell or a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _name(row: CalibrationRow) -> str:
    return f"{row.point.name} {row.point.dataset or row.point.arch.task}"
