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
            names = ", ".join(file["name"] for file in rejected)
            remark(f"error: not what PyTorch gives, and kept under another name: {names}")
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
    if agreement is not None:
        text += f", top-1 the same in {100 * agreement:.1f} %"
    return f"{text} ({file['pictures']} pictures, {file['checked_with']})"


def main() -> None:
    """Run the command."""
    console_main(Export, "nas.export")


if __name__ == "__main__":
    main()
