"""Make a device's latency tables from latencies of whole networks.

python -m lut.calibrate --device mydevice:onnxruntime:fp32 --points points.csv
python -m lut.calibrate --device mydevice:onnxruntime:fp32 --points points.csv --from orin
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lut.calibration.options import CalibrationOptions
from results.console import main as console_main
from results.console import options_of


@dataclass(frozen=True)
class Calibrate(CalibrationOptions):
    """Fit a physical per-block model to whole-network latencies and write it as a table."""

    report: Path | None = None
    """Folder for a row-by-row page and a picture, predicted against published."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Write tables, or propose networks, and print what was found. Raises UserError."""
        if self.propose is not None:
            self._propose()
            return
        from lut.calibration.run import calibrate
        from lut.calibration.summary import print_calibration
        from lut.calibration.tables import origin_of

        result = calibrate(self.options(), notes=not self.quiet)
        try:
            if self.json:
                answer = {
                    "tables": list(map(str, result.tables)),
                    **asdict(result.calibration.summary),
                }
                if result.transfer is not None:
                    answer |= {"from": origin_of(result.transfer)["from"]}
                    answer |= {"physical_mape_percent": result.physical_percent}
                print(json.dumps(answer, allow_nan=False))
            elif not self.quiet:
                print_calibration(result)
        finally:  # last, as no picture is worth the numbers; also where nobody reads on
            if self.report is not None:
                from lut.calibration.report import write_report

                write_report(result.device, result.calibration, self.report)

    def options(self) -> CalibrationOptions:
        """Return what is calibrated, without how it is printed."""
        return options_of(self, CalibrationOptions)

    def _propose(self) -> None:
        from lut.calibration.run import propose_points

        proposal = propose_points(self.options(), notes=not self.quiet)
        if self.json:
            answer = {
                "out_points": self.out_points and str(self.out_points),
                "networks": [
                    {"arch": arch.to_dict(), "source_ms": ms} for arch, ms in proposal.networks
                ],
            }
            print(json.dumps(answer))
        elif self.out_points is None:
            print(proposal.to_csv(), end="")
        elif not self.quiet:
            print(f"wrote {self.out_points}: fill in latency_ms, then give it with --points")


def main() -> None:
    """Run the command."""
    console_main(Calibrate, "lut.calibrate")


if __name__ == "__main__":
    main()
