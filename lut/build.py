"""Measure a latency table of a real device: this machine, one behind ssh, a phone behind adb.

python -m lut.build --device mydevice --space b
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lut.measuring.options import BuildOptions
from results.console import main as console_main
from results.console import note, options_of
from results.errors import printable


@dataclass(frozen=True)
class Build(BuildOptions):
    """Measure every block of a space on a device and write its latency table."""

    import_: Annotated[Path | None, tyro.conf.arg(name="import")] = None
    """Read a table instead of measuring one: OFA's lookup table, YAML or JSON, or a CSV of our
    columns."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Build, or import, and print where the table is and how far off. Raises UserError."""
        from lut.measuring.build import build_table
        from lut.measuring.report import print_build

        if self.import_ is not None:
            self._import(self.import_)
            return
        options = options_of(self, BuildOptions)
        built = build_table(options, silent=self.json or self.quiet)
        if self.json:
            answer = {
                "table": str(built.path),
                "run": str(built.folder),
                "num_rows": len(built.table.entries),
                "validation": built.validation and built.validation.to_dict(),
            }
            print(json.dumps(answer))
        elif not self.quiet:
            print_build(built)

    def _import(self, path: Path) -> None:
        """Write a table that somebody else measured. Raises UserError."""
        from lut.importers import import_table
        from lut.measuring.build import save_table
        from lut.measuring.run import device_of, recorded

        options, _ = recorded(options_of(self, BuildOptions))
        options.check()
        table, unknown = import_table(path, device_of(options), options.batch, options.threads)
        written = save_table(table, options.out)
        if table.remark and not self.quiet:
            note(table.remark)
        if self.json:
            answer = {
                "table": str(written),
                "num_rows": len(table.entries),
                "not_imported": unknown,
            }
            print(json.dumps(answer))
        elif not self.quiet:
            print(f"wrote {written}: {len(table.entries)} rows, never validated on whole networks")
            if unknown:
                print(f"{len(unknown)} keys have no block of ours: {printable(', '.join(unknown))}")


def main() -> None:
    """Run the command line."""
    console_main(Build, "lut.build")


if __name__ == "__main__":
    main()
