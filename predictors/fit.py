"""Fit predictors to evaluated networks, compare them, and keep the best with honest intervals.

python -m predictors.fit --subnets subnets.jsonl --out model.npz
python -m predictors.fit --rows table.csv --column top1 --genes 'd*,ks*' --features macs
"""

import json
import sys
from dataclasses import dataclass

from predictors.models.options import FitOptions
from results.console import main as console_main
from results.console import options_of
from results.errors import PictureError, one_line
from results.progress import remark


@dataclass(frozen=True)
class Fit(FitOptions):
    """Fit predictors to evaluated networks, compare them, and keep the best."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Fit, write the model and its report, and print it. Raises UserError."""
        from predictors.models.report import draw, print_fit
        from predictors.models.run import fit_model

        result = fit_model(options_of(self, FitOptions), notes=not self.quiet)
        try:
            if self.json:
                print(json.dumps(result.to_dict(), allow_nan=False))
            elif not self.quiet:
                print_fit(result)
            sys.stdout.flush()
        finally:  # last, as no picture is worth the numbers; also where nobody reads on
            try:
                draw(result)
            except PictureError as error:
                remark(one_line(str(error)))


def main() -> None:
    """Run the command line."""
    console_main(Fit, "predictors.fit")


if __name__ == "__main__":
    main()
