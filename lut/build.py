"""Measure a latency table of a real device: this machine, one behind ssh, a phone behind adb.

python -m lut.build --device mydevice --space b
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lut.measuring.options import BuildOptions
from results.console import main as console_main
from results.console import note, options_of
from results.errors import printable

if TYPE_CHECKING:
    from lut.measuring.build import ImportedTable


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
        from lut.measuring.build import build_table, import_to
        from lut.measuring.report import print_build

        options = options_of(self, BuildOptions)
        if self.import_ is not None:
            self._print_import(import_to(options, self.import_))
            return
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

    def _print_import(self, imported: "ImportedTable") -> None:
        table = imported.table
        if table.remark and not self.quiet:
            note(table.remark)
        if self.json:
            answer = {
                "table": str(imported.path),
                "num_rows": len(table.entries),
                "not_imported": imported.unknown,
            }
            print(json.dumps(answer))
        elif not self.quiet:
            rows = f"{len(table.entries)} rows, never validated on whole networks"
            print(f"wrote {imported.path}: {rows}")
            if imported.unknown:
                keys = printable(", ".join(imported.unknown))
                print(f"{len(imported.unknown)} keys have no block of ours: {keys}")


def main() -> None:
    """Run the command line."""
    console_main(Build, "lut.build")


if __name__ == "__main__":
    main()
