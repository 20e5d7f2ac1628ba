"""Measure random networks on a device and hold a latency table against them.

python -m lut.validate --device mydevice --networks 60
"""

import json
from dataclasses import dataclass

from lut.measuring.options import ValidationOptions
from results.console import main as console_main
from results.console import options_of, terminal


@dataclass(frozen=True)
class Validate(ValidationOptions):
    """Measure random networks on a device and hold its latency table against them."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Measure, and print how far off the table is. Raises UserError."""
        from lut.measuring.report import print_validation
        from lut.measuring.validation import validate_table

        options = options_of(self, ValidationOptions)
        validated = validate_table(options, silent=self.json or self.quiet)
        if self.json:
            answer = {
                "table": str(validated.path),
                "run": str(validated.folder),
                **validated.validation.to_dict(),
                "remark": validated.remark,
            }
            print(json.dumps(answer))
        elif not self.quiet:
            console = terminal(width=120)
            print_validation(console, validated.validation)
            if validated.remark:
                console.print(validated.remark, soft_wrap=True)
            console.print(f"wrote {validated.folder / 'validation.json'}", soft_wrap=True)


def main() -> None:
    """Run the command line."""
    console_main(Validate, "lut.validate")


if __name__ == "__main__":
    main()
