"""List the devices that `--device` knows, with their tables and how wrong those are."""

import json
from dataclasses import dataclass
from typing import Any

from results.console import main as console_main
from results.console import terminal
from results.errors import UserError, printable


@dataclass(frozen=True)
class Devices:
    """List devices with runtime, precision, batch, provenance and error."""

    json: bool = False
    """Print a JSON array."""

    def run(self) -> None:
        """Print the table of devices, or the JSON."""
        from rich.table import Table

        rows = _rows()
        if self.json:
            print(json.dumps(rows, allow_nan=False))
            return
        console = terminal(width=160)
        table = Table(box=None)
        for name in ("device", "runtime", "precision", "batch", "title"):
            table.add_column(name, no_wrap=True)
        table.add_column("latency comes from")
        for row in rows:
            cells = (row[n] for n in ("device", "runtime", "precision", "batch", "title", "source"))
            table.add_row(*map(str, cells))
        console.print(table)
        for device, note in {row["device"]: row["note"] for row in rows if row["note"]}.items():
            console.print(f"{device}: {note}", soft_wrap=True)
        for device, remark in {
            row["device"]: row["remark"] for row in rows if row["remark"]
        }.items():
            console.print(f"{device}: {remark}", soft_wrap=True)
        console.print("search one: python -m nas.search --device NAME", soft_wrap=True)
        console.print("add one:    python -m lut.calibrate --device NAME --points FILE")


def _rows() -> list[dict[str, Any]]:
    """Return what is known of each device's tables, a row each."""
    # `--help` has to be there at once
    from lut.device import device_names, get_device, tables_of
    from lut.runtimes.versions import remark_here
    from lut.table import load_table
    from predictors.latency import LatencyPredictor

    rows = []
    for name in device_names():
        try:
            note = get_device(name).note
        except UserError as error:
            rows.append(_unusable(name, error))
            continue
        tables = tables_of(name)
        if not tables:
            rows.append(_unusable(name, "no table yet, see lut.calibrate"))
        for path in tables:
            try:
                table = load_table(path)
                predictor = LatencyPredictor(table)
                source = predictor.describe().removesuffix(f"; {predictor.note}")
                more = {"note": note, "source": source, "remark": remark_here(table.sidecar)}
                rows.append(predictor.provenance | more)
            except UserError as error:
                rows.append(_unusable(name, error))
    return rows


def _unusable(name: str, error: object) -> dict[str, Any]:
    unknown = dict.fromkeys(("runtime", "precision", "batch", "title"), "?")
    return {
        "device": printable(name),
        "note": "",
        "remark": "",
        **unknown,
        "source": f"unusable: {error}",
    }


def main() -> None:
    """Run the command line."""
    console_main(Devices, "nas.devices")


if __name__ == "__main__":
    main()
