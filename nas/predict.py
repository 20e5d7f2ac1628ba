"""What a network costs on a device, and where the milliseconds go.

python -m nas.predict --device orin --arch b2 --resolution 288
"""

import csv
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.console import main as console_main
from results.errors import DeviceError, SpaceError, UserError
from supernet.arch import format_resolution, parse_resolution

if TYPE_CHECKING:
    from lut.device import Device
    from predictors.latency import LatencyPrediction, LatencyPredictor
    from supernet.arch import Arch


@dataclass(frozen=True)
class Predict:
    """Predict latency, accuracy and cost of a network; or sample a space into a CSV."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]]; `python -m nas.devices` lists them."""
    arch: str | None = None
    """b0 to b3, l0 to l3, sam_l0 to sam_xl1, sr_x2 to sr_w075_x4, a JSON file, or RUN#ID."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the one that the network was published at."""
    task: str | None = None
    """classification, segmentation, super_resolution or promptable; by default the arch's."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""

    sample: int | None = None
    """Instead of one arch, draw this many from --space and write them to --csv."""
    space: str = "family"
    """Space to draw from."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...] for --space; repeatable."""
    csv: Path | None = None
    """File for --sample, with columns arch (JSON), latency_ms, latency_std_ms."""
    seed: int = 0
    """Of --sample."""

    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        if (self.arch is None) == (self.sample is None):
            raise UserError("give either --arch or --sample N --csv FILE")
        if self.sample is not None:
            if self.resolution is not None:
                raise UserError("--sample takes its resolutions by --freeze resolution=224,256")
            self._sample(self.sample)
            return
        if self.csv is not None or self.freeze:
            raise UserError("--csv and --freeze go with --sample, not with --arch")
        from supernet.archs import dataset_of_arch, resolve_arch
        from supernet.named import check_task

        assert self.arch is not None
        arch = resolve_arch(
            self.arch,
            task=check_task(self.task) if self.task else None,
            dataset=self.dataset,
            resolution=parse_resolution(self.resolution) if self.resolution else None,
            num_classes=self.num_classes,
        )
        dataset = dataset_of_arch(arch)
        device, latency = self._latency(dataset)
        answer = _answer(device, latency, arch, dataset)
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            _print(self.arch, answer)

    def _latency(self, dataset: str) -> "tuple[Device, LatencyPredictor]":
        from lut.device import device_names
        from predictors.latency import choose_predictor

        if len(self.device) != 1:
            raise DeviceError(f"give one --device: {', '.join(device_names())}")
        return choose_predictor(self.device[0], self.table, dataset)

    def _sample(self, count: int) -> None:
        from results.files import write_text
        from supernet.blocks import blocks_of
        from supernet.named import check_task, dataset_of
        from supernet.space import get_space

        if self.csv is None:
            raise UserError("--sample writes to a file; name it with --csv FILE")
        if count < 1:
            raise UserError("--sample must be positive")
        task = check_task(self.task or "classification")
        space = get_space(
            self.space,
            task=task,
            dataset=self.dataset,
            freeze=self.freeze,
            num_classes=self.num_classes,
        )
        if count > space.size:
            raise SpaceError(f"space {space.name} has only {space.size} archs; --sample fewer")
        _, latency = self._latency(dataset_of(task, self.dataset))
        rng = random.Random(self.seed)
        drawn: dict[Arch, LatencyPrediction] = {}
        while len(drawn) < count:
            arch = space.sample(rng)
            if arch not in drawn:
                drawn[arch] = latency.predict(blocks_of(arch))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("arch", "latency_ms", "latency_std_ms"))
        for arch, found in drawn.items():
            writer.writerow((arch.to_json(), f"{found.latency_ms:.6g}", f"{found.std_ms:.6g}"))
        write_text(self.csv, text.getvalue())
        summary = {"csv": str(self.csv), "archs": count, "provenance": latency.provenance}
        if self.json:
            print(json.dumps(summary, allow_nan=False))
        elif not self.quiet:
            print(f"wrote {count} archs of space {space.name} to {self.csv}")
            print(f"latency: {latency.describe()}")


def _answer(
    device: "Device", latency: "LatencyPredictor", arch: Any, dataset: str
) -> dict[str, Any]:
    """Everything that is known of `arch` on the device, as `--json` prints it."""
    from nas.objectives import predict_costs
    from supernet.blocks import blocks_of

    table = latency.table
    costs = predict_costs(latency, arch)
    accuracy, source = _accuracy(arch, dataset)
    answer: dict[str, Any] = {
        "device": device.name,
        "title": table.title,
        "runtime": table.runtime,
        "precision": table.precision,
        "batch": table.batch,
        **costs,
        **accuracy,
        "resolution": format_resolution(arch.resolution),
        "stages_ms": latency.by_stage(blocks_of(arch)),
        "provenance": {
            "latency": latency.provenance
            | {"provenance": latency.predict(blocks_of(arch)).provenance},
            "latency_source": latency.describe(),
            **source,
        },
        "arch": arch.to_dict(),
    }
    if device.throughput:
        answer["throughput_img_s"] = 1000 / costs["latency_ms"]
    return answer


def _accuracy(arch: "Arch", dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is predicted, and where that comes from; nothing for super-resolution."""
    from nas.objectives import as_written, describe_prior
    from predictors.accuracy import load_prior

    names = ("accuracy", "accuracy_std", "metric", "accuracy_extrapolated")
    if arch.task == "super_resolution":
        reason = "no published figures of networks of this design"
        return dict.fromkeys(names), {"accuracy": None, "accuracy_source": reason}
    prior = load_prior(dataset)
    found = prior.predict(arch)
    numbers = as_written(found.mean), as_written(found.std)
    values = (*numbers, prior.metric, found.extrapolated)
    source = {"accuracy": prior.to_dict(), "accuracy_source": describe_prior(prior)}
    return dict(zip(names, values, strict=True)), source


def _print(name: str, answer: dict[str, Any]) -> None:
    from rich.console import Console

    from nas.summary import plus_minus
    from supernet.arch import Arch

    out = Console(highlight=False, soft_wrap=True, markup=False)
    arch = Arch.from_dict(answer["arch"])
    out.print(f"{name}: {arch.describe()}, {answer['resolution']} px")
    out.print(
        f"on {answer['title']}, {answer['runtime']} {answer['precision']}, batch {answer['batch']}"
    )
    ms = plus_minus(answer["latency_ms"], answer["latency_std_ms"])
    rate = answer.get("throughput_img_s")
    out.print(
        f"  latency    {ms} ms"
        + (f" per image, {rate:.0f} images/s" if rate else "")
        + f"  ({answer['provenance']['latency_source']})"
    )
    accuracy = "unknown"
    if answer["accuracy"] is not None:
        spread = f"{answer['accuracy']:.2f} ± {answer['accuracy_std']:.2f}"
        accuracy = f"{spread}  {answer['metric']}"
    out.print(f"  accuracy   {accuracy}  ({answer['provenance']['accuracy_source']})")
    out.print(f"  params     {answer['params_m']:.3f} M")
    out.print(f"  MACs       {answer['macs_g']:.4g} G")
    out.print(f"  memory     {answer['memory_mb']:.1f} MB, peak activations and weights")
    for name in ("latency", "accuracy"):
        if answer[f"{name}_extrapolated"]:
            out.print(f"  {name} extrapolated: unlike everything that it was checked on")
    out.print("  where the milliseconds go:")
    total = answer["latency_ms"]
    for stage, part in answer["stages_ms"].items():
        bar = "█" * round(30 * part / total)
        out.print(f"    {stage:<8}{part:>10.3f} ms {100 * part / total:>5.1f} %  {bar}")


def main() -> None:
    console_main(Predict, "nas.predict")


if __name__ == "__main__":
    main()
