"""Files of networks that other programs run, each checked: ONNX, TFLite, torch.export, weights.

python -m nas.export RUN --pick knee --format onnx --weights supernet.safetensors
"""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from lut.exporting.options import ExportOptions
from results.console import main as console_main
from results.console import note, options_of, terminal
from results.progress import remark

if TYPE_CHECKING:
    from lut.exporting.run import Exported

EXIT_REJECTED = 3


@dataclass(frozen=True)
class Export(ExportOptions):
    """Write networks as files that other programs run, each held against PyTorch first."""

    what: Positional[tuple[str, ...]] = ()
    """b0, ..., l3, sr_x2, ..., a JSON file, RUN#ID, a network's weights, or a RUN with --pick."""
    pick: str | None = None
    """Of a RUN: knee, fastest, best, or "<=20ms", the most accurate of those within; by the
    latency on the run's first device."""
    json: bool = False
    """Print one JSON object, the manifest."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Write the folder; exit with 3 where a file is not what PyTorch is. Raises UserError."""
        options = options_of(self, ExportOptions)
        options.check()
        from nas.candidates import wanted_networks  # `--help` has to be there at once

        wanted = wanted_networks(self.what, self.pick)
        from lut.exporting.run import export

        exported = export(options, wanted, tell=_nothing if self.quiet else note)
        if self.json:
            print(json.dumps({"folder": str(exported.folder), **exported.manifest}))
        elif not self.quiet:
            _print(exported)
        if rejected := exported.rejected:
            sys.stdout.flush()
            reasons = "; ".join(f"{file['name']} {_fault(file)}" for file in rejected)
            remark(f"error: kept under another name: {reasons}")
            sys.exit(EXIT_REJECTED)


def _nothing(text: str) -> None:
    """Say nothing."""


def _print(exported: "Exported") -> None:
    out = terminal(soft_wrap=True)
    for network in exported.manifest["networks"]:
        size = f"{network['resolution']} px"
        weights = network["weights"]["file"] or f"random weights, seed {network['weights']['seed']}"
        out.print(f"{network['name']}: {network['task']}, {size}, {weights}")
        for prediction in network["predicted_latency"]:
            out.print(f"  {_predicted(prediction)}")
        for file in network["files"]:
            out.print(f"  {_described(file)}")
            if file.get("int8"):
                out.print(f"    {_int8(file['int8'])}")
            if file.get("trtexec") and not file["engine"]:
                out.print(f"    its engine, by TensorRT 10: {file['trtexec']['10']}")
    out.print(f"wrote {exported.folder / 'manifest.json'}")


def _predicted(prediction: dict[str, object]) -> str:
    words = [str(prediction[name]) for name in ("runtime", "precision") if prediction[name]]
    table = f" ({' '.join(words)}, batch {prediction['batch']})" if words else ""
    return (
        f"predicted {prediction['latency_ms']:.4g} ± {prediction['latency_std_ms']:.2g} ms per "
        f"image on {prediction['device']}{table}"
    )


def _described(file: dict[str, Any]) -> str:
    size = sum(own["bytes"] for own in (file, *file["companions"]))
    begin = f"{file['name']}  {size:,} bytes, "
    if file["reason"]:
        return f"{begin}not taken by its runtime: {file['reason']}"
    relative, agreement = file["relative_difference"], file["top1_agreement"]
    text = f"{begin}to PyTorch "
    text += "not finite" if relative is None else f"{relative:.1e}"
    if file["pytorch_rounding"] is not None:
        text += f" (PyTorch itself {file['pytorch_rounding']:.1e} from float64)"
    if agreement is not None:
        text += f", top-1 the same in {100 * agreement:.1f} %"
    return f"{text} ({file['pictures']} pictures, {file['checked_with']})"


def _fault(file: dict[str, Any]) -> str:
    """Tell why a file was rejected."""
    own = file.get("int8") or {}
    blocks = ", ".join(cost["block"] for cost in own.get("costly_blocks", ()))
    if (accuracy := own.get("accuracy")) and accuracy["drop"] > accuracy["max_drop"]:
        unit = _unit(accuracy["metric"])
        return (
            f"loses {accuracy['drop']:.2f} {unit} of {accuracy['metric']}, more than --max-drop "
            f"{accuracy['max_drop']:g}, most in {blocks}"
        )
    return "is not what PyTorch gives" + (f", most in {blocks}" if blocks else "")


def _unit(metric: str) -> str:
    return "dB" if metric.endswith("_db") else "points"


def _int8(own: dict[str, Any]) -> str:
    """Tell of an int8 file what it loses, and how much of it is int8."""
    share = f"{100 * own['integer_macs']:.1f} % of its MACs are int8"
    if own["mostly_float"]:
        share += ", most work is in float"
    if (accuracy := own["accuracy"]) is None:
        return f"random weights, so no accuracy is told; {share}"
    error = "" if (e := accuracy["drop_stderr"]) is None else f" ± {e:.2f}"
    change = "loses" if accuracy["drop"] >= 0 else "gains"
    return (
        f"{accuracy['metric']} {accuracy['fp32']:.2f} in fp32, {accuracy['int8']:.2f} in int8: "
        f"{change} {abs(accuracy['drop']):.2f}{error} {_unit(accuracy['metric'])} on the same "
        f"{accuracy['pictures']} held-out pictures; {share}"
    )


def main() -> None:
    """Run the command."""
    console_main(Export, "nas.export")


if __name__ == "__main__":
    main()
