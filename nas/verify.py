"""Whether a front keeps its promise: its networks measured on the device, beside the predictions.

python -m nas.verify RUN --networks 30
python -m nas.verify --arch b0 --arch b1 --device mydevice --out results/runs/verified
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from nas.verifying.options import VerifyOptions
from results.console import main as console_main
from results.console import options_of, terminal
from results.errors import PictureError, one_line
from results.progress import remark

if TYPE_CHECKING:
    from rich.console import Console

    from lut.calibration.run import CalibrationResult
    from nas.verifying.rows import Row
    from nas.verifying.run import Verified
    from nas.verifying.verdict import Promise

EXIT_BROKEN = 3
MAX_ROWS = 40


@dataclass(frozen=True)
class Verify(VerifyOptions):
    """Measure a front's networks on the device and say whether the predictions held."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Measure, write and print; exit with 3 where the promise failed. Raises UserError."""
        options = options_of(self, VerifyOptions)
        options.check()
        from nas.verifying.run import draw, verify  # `--help` has to be there at once

        verified = verify(options, silent=self.json or self.quiet)
        try:
            if self.json:
                print(json.dumps(_answer(verified), allow_nan=False))
            elif not self.quiet:
                _print(verified)
            sys.stdout.flush()
        finally:  # last, as no picture is worth the numbers
            try:
                draw(verified)
            except PictureError as error:
                remark(one_line(str(error)))
        if not verified.holds:
            sys.exit(EXIT_BROKEN)


def _answer(verified: "Verified") -> dict[str, object]:
    result = verified.recalibrated
    return {
        "csv": str(verified.path(".csv")),
        "holds": verified.holds,
        **asdict(verified.promise),
        "non_dominated": verified.num_non_dominated,
        "failed": [row.chosen.id for row in verified.failed],
        "machine": list(verified.state.troubles),
        "recalibrated": result and list(map(str, result.tables)),
        "left_out_mape_percent": result and result.calibration.summary.mape_percent,
        "remark": verified.remark,
    }


def _print(verified: "Verified") -> None:
    """Print networks in measured order, whether the promise held, and what to do next."""
    out = terminal(width=120)
    _print_rows(out, verified)
    for row in verified.failed:
        out.print(f"does not run: {row.chosen.id}: {row.reason}", soft_wrap=True)
    promise, state = verified.promise, verified.state
    out.print(f"\nerror:   {_error(promise)}", soft_wrap=True)
    if promise.kendall_tau is not None:
        kept = "kept" if promise.order_holds else "BROKEN"
        out.print(
            f"order:   Kendall's τ {promise.kendall_tau:.3f}; {promise.ordered} of "
            f"{promise.pairs} pairs that the predictions tell apart are in order: {kept}",
            soft_wrap=True,
        )
    if (left := verified.num_non_dominated) is not None:
        out.print(f"front:   {left} of {len(verified.judged)} are non-dominated as measured")
    load = "" if state.load is None else f"load {state.load[0]:.1f} to {state.load[1]:.1f}, "
    troubles = "; ".join(state.troubles)
    noisy = f"not quiet: {troubles}" if troubles else "quiet"
    out.print(
        f"machine: {noisy} ({load}a tenth of runs {state.spread_percent:.0f} % above the median)",
        soft_wrap=True,
    )
    if verified.remark:
        out.print(verified.remark, soft_wrap=True)
    out.print(f"wrote {verified.path('.csv')}", soft_wrap=True)
    if verified.recalibrated is not None:
        _print_recalibrated(out, verified.recalibrated)
    if verified.holds:
        out.print("the promise held")
        return
    out.print("the promise did NOT hold")
    if not promise.error_holds and verified.recalibrated is None:
        out.print(_cure(verified), soft_wrap=True)


def _print_rows(out: "Console", verified: "Verified") -> None:
    from rich.table import Table as Grid

    table = verified.choice.latency.table
    ran = sorted((row for row in verified.rows if row.time), key=lambda row: row.rank or 0)
    title = (
        f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}: in measured order"
    )
    grid = Grid(title=title, box=None)
    headings = ["id", "measured ms", "p90 ms", "predicted ms", "error %"]
    has_front = verified.num_non_dominated is not None
    headings += [verified.choice.metric, "front"] if has_front else []
    for heading in headings:
        grid.add_column(heading, justify="right", no_wrap=heading != verified.choice.metric)
    step = max(1, -(-len(ran) // MAX_ROWS))
    for row in ran[::step]:
        grid.add_row(*_cells(row, has_front=has_front))
    out.print(grid)
    if step > 1:
        out.print(f"every {step} of {len(ran)} shown; all are in {verified.name}.csv")


def _cells(row: "Row", *, has_front: bool) -> list[str]:
    from nas.summary import plus_minus

    time, point, candidate = row.time, row.point, row.chosen.candidate
    assert time is not None
    assert point is not None
    error = f"{100 * point.error:+.1f}" + ("" if point.is_within else " *")
    cells = [
        row.chosen.id,
        plus_minus(time.ms, time.std_ms),
        f"{time.p90_ms:.3g}",
        plus_minus(row.predicted_ms, row.std_ms),
        error,
    ]
    if has_front:
        mark = "yes" if row.non_dominated else "beaten"
        cells += [f"{candidate.accuracy:.2f}", "official" if not row.is_judged else mark]
    return cells


def _print_recalibrated(out: "Console", result: "CalibrationResult") -> None:
    """Print how wrong the new table is on networks that it was not fitted to, and where it is."""
    summary = result.calibration.summary
    for path in result.tables:
        out.print(
            f"wrote {path}: {summary.mape_percent:.1f} % off on average, "
            f"{summary.worst_percent:.1f} % at worst, on networks left out of the fit",
            soft_wrap=True,
        )
    spec = f"{result.device.name}:{result.device.runtime}:{result.device.precision}"
    out.print(f"next: python -m nas.search --device {spec}", soft_wrap=True)


def _error(promise: "Promise") -> str:
    text = f"{promise.mean_percent:.1f} % on average, {promise.worst_percent:.1f} % at worst"
    if promise.claimed_percent is None or promise.allowed_percent is None:
        return f"{text}; the table claims none, so none is broken"
    held = "held" if promise.error_holds else "BROKEN"
    return (
        f"{text}, {promise.claimed_percent:.1f} % claimed (by chance up to "
        f"{promise.allowed_percent:.1f}); {promise.within} of {promise.num_networks} within 90 % "
        f"intervals (by chance {promise.least_within} at least): {held}"
    )


def _cure(verified: "Verified") -> str:
    """Return what to do where errors are larger than claimed."""
    words = " ".join(map(shlex.quote, sys.argv[1:]))
    quieter = ", or first measure --again on a quieter machine" if verified.state.troubles else ""
    return f"next: python -m nas.verify {words} --recalibrate NAME{quieter}"


def main() -> None:
    """Run the command."""
    console_main(Verify, "nas.verify")


if __name__ == "__main__":
    main()
