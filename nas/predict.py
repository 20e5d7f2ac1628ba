"""What a network costs on a device, and where the milliseconds go.

python -m nas.predict --device orin --arch b2 --resolution 288
"""

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.options import FITTED, PUBLISHED
from results.console import main as console_main
from results.console import note, terminal
from results.errors import DeviceError, PredictorError, UserError
from supernet.arch import format_resolution, parse_resolution

# What predicts is imported where it is asked for: `--help` has to be there at once.
if TYPE_CHECKING:
    from lut.device import Device
    from predictors.latency import LatencyPredictor
    from supernet.arch import Arch

Facts = dict[str, Any]


@dataclass(frozen=True)
class Predict:
    """Predict latency, accuracy and cost of a network."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]]; `python -m nas.devices` lists them."""
    arch: str | None = None
    """b0 to b3, l0 to l3, sam_l0 to sam_xl1, sr_x2 to sr_w075_x4, a JSON file, RUN#ID, or a
    network's weights, which tell their accuracy too."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the one that the network was published at."""
    task: str | None = None
    """classification, segmentation, super_resolution or promptable; by default the arch's."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""
    accuracy: str = PUBLISHED
    """Where accuracies come from: published figures, FILE.jsonl of subnets that supernet.evaluate
    wrote, or MODEL.npz that predictors.fit fitted to them."""
    accuracy_model: str = FITTED
    """What is fitted to --accuracy FILE.jsonl: auto, gp, trees, mean or ridge, as nas.search."""
    trained: Path | None = None
    """FILE.jsonl of networks trained alone, beside subnets of --accuracy, as nas.search."""

    costs: Path | None = None
    """Instead of one arch, write a CSV of networks: forwarded to `nas.sample`, as are --sample,
    --csv, --space, --freeze and --seed."""
    sample: int | None = None
    """As of nas.sample."""
    space: str | None = None
    """As of nas.sample."""
    freeze: tuple[str, ...] = ()
    """As of nas.sample; repeatable."""
    csv: Path | None = None
    """The same as --costs."""
    seed: int = 0
    """As of nas.sample."""

    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Print what is known of one network."""
        drawn = (self.costs, self.csv, self.sample)
        if (self.arch is None) == (drawn == (None, None, None)):
            raise UserError("give either --arch, or --costs FILE [--sample N]")
        if self.arch is None:
            if self.resolution is not None:
                raise UserError("--costs takes its resolutions by --freeze resolution=224,256")
            self._sample()
            return
        if self.freeze or self.space is not None:
            raise UserError("--space and --freeze go with --costs, not with --arch")
        from supernet.official import check_task
        from supernet.resolve import dataset_of_arch, resolve_arch

        arch = resolve_arch(
            self.arch,
            task=check_task(self.task) if self.task else None,
            dataset=self.dataset,
            resolution=parse_resolution(self.resolution) if self.resolution else None,
            num_classes=self.num_classes,
        )
        dataset = dataset_of_arch(arch)
        device, latency = self._latency(dataset)
        self._tell_version(latency)
        known = _accuracy(self.accuracy, self.accuracy_model, self.trained, arch, dataset)
        answer = _answer(device, latency, arch, known)
        trained, source = _as_trained(self.arch, arch)
        answer |= trained
        answer["provenance"] |= source
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            _print(self.arch, answer)
            self._print_next(latency)

    def _print_next(self, latency: "LatencyPredictor") -> None:
        """Name the commands that write the network as files and, where that can be, measure it."""
        from lut.runtimes.versions import target_flag

        assert self.arch is not None
        names = ("resolution", "task", "dataset", "num_classes")
        others = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        words = ["python", "-m", "nas.export", self.arch, "--format", "onnx"]
        for name, value in others.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        terminal(soft_wrap=True).print(f"  as files: {shlex.join(words)}")
        flag = target_flag(latency.table.sidecar)
        if flag is None or others:
            return
        words = ["python", "-m", "nas.verify", "--arch", self.arch, "--device", self.device[0]]
        words += ["--table", str(self.table)] if self.table else []
        command = f"{shlex.join(words)} {flag}".rstrip()
        terminal(soft_wrap=True).print(f"  as measured: {command}")

    def _latency(self, dataset: str) -> "tuple[Device, LatencyPredictor]":
        from lut.device import device_names
        from predictors.latency import choose_predictor

        if len(self.device) != 1:
            raise DeviceError(f"give one --device: {', '.join(device_names())}")
        return choose_predictor(self.device[0], self.table, dataset)

    def _tell_version(self, latency: "LatencyPredictor") -> None:
        """Say where the table is of another version of its runtime than is here."""
        from lut.runtimes.versions import remark_here

        text = remark_here(latency.table.sidecar)
        if text and not self.quiet:
            note(text)

    def _sample(self) -> None:
        """Write a CSV of networks, as the command for it does."""
        from nas.options import SampleOptions
        from nas.sample import Sample

        if self.costs and self.csv:
            raise UserError("--costs and --csv name the same file; leave --csv out")
        own = {field.name for field in fields(self)} - {"costs"}
        given = {f.name: getattr(self, f.name) for f in fields(SampleOptions) if f.name in own}
        costs = self.costs or self.csv
        Sample(**given, costs=costs, json=self.json, quiet=self.quiet).run()
        if not self.quiet:
            note("networks of a space are written by python -m nas.sample --costs FILE.csv")


def _answer(
    device: "Device", latency: "LatencyPredictor", arch: "Arch", known: tuple[Facts, Facts]
) -> Facts:
    """Return all that is known of `arch` on the device, as `--json` prints it."""
    from nas.objectives.predicted import predict_costs
    from supernet.blocks import blocks_of

    table = latency.table
    costs = predict_costs(latency, arch)
    accuracy, source = known
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
    if (energy_mj := table.network_energy_mj(blocks_of(arch))) is not None:
        answer["energy_mj"] = energy_mj
    if device.throughput:
        answer["throughput_img_s"] = 1000 / costs["latency_ms"]
    return answer


def _accuracy(
    source: str, model: str, trained: Path | None, arch: "Arch", dataset: str
) -> tuple[Facts, Facts]:
    """Return what is predicted and where it comes from; of super-resolution nothing is known."""
    from nas.objectives.accuracy import check_trained, load_subnets, subnets_file
    from nas.objectives.predicted import as_written
    from nas.objectives.sources import AccuracyPredictor
    from predictors.accuracy import published

    marks = ("accuracy_extrapolated", "accuracy_transferred")
    names = ("accuracy", "accuracy_std", "metric", *marks)
    predictor: AccuracyPredictor
    check_trained(source, trained)
    if source != PUBLISHED:
        subnets = load_subnets(subnets_file(source), model=model, trained=trained)
        _check_classes(arch, subnets.space.num_classes, source)
        subnets.space.encode(arch)  # the error names what is not in its space
        predictor = subnets
    elif arch.task == "super_resolution":
        reason = "no published figures of networks of this design"
        return dict.fromkeys(names), {"accuracy": None, "accuracy_source": reason}
    else:
        predictor = published(dataset, getattr(arch.head, "num_classes", None))
    accuracy = predictor.predict(arch)
    numbers = as_written(accuracy.mean), as_written(accuracy.std)
    values = (*numbers, predictor.metric, accuracy.extrapolated, accuracy.transferred)
    facts = {"accuracy": predictor.to_dict(), "accuracy_source": predictor.describe()}
    return dict(zip(names, values, strict=True)), facts


def _as_trained(text: str, arch: "Arch") -> tuple[Facts, Facts]:
    """Return what the weights that `text` names reached when they were trained, and the source.

    Nothing where `text` names no weights, and where flags made `arch` another network than theirs.
    """
    from supernet.resolve import header_of_weights, is_weights

    if not is_weights(text):
        return {}, {}
    header = header_of_weights(Path(text))
    reached = header.accuracy
    if arch != header.arch_as_trained or reached is None:
        return {}, {}
    facts = {
        "value": reached.value,
        "stderr": reached.stderr,
        "metric": reached.metric,
        "dataset": reached.dataset,
        "n": reached.n,
        "steps": header.steps,
    }
    source = f"{reached.n:,} held-out pictures of {reached.dataset}, as {text} says"
    return {"trained": facts}, {"trained": source}


def _check_classes(arch: "Arch", num_classes: int | None, source: str) -> None:
    classes = getattr(arch.head, "num_classes", None)
    if num_classes is not None and classes not in (None, num_classes):
        raise PredictorError(
            f"networks of {source} have {num_classes} classes, not {classes}; give --num-classes "
            f"{num_classes}"
        )


def _reached(trained: Facts) -> str:
    """Return what weights reached, as text: `93.50 ± 0.40  top-1 [%], after 1,600 steps`."""
    from predictors.evaluations import TITLES

    spread = "" if trained["stderr"] is None else f" ± {trained['stderr']:.2f}"
    title = TITLES.get(trained["metric"], trained["metric"])
    steps = "" if trained["steps"] is None else f", after {trained['steps']:,} steps"
    return f"{trained['value']:.2f}{spread}  {title}{steps}"


def _print(name: str, answer: dict[str, Any]) -> None:
    from nas.summary import plus_minus
    from supernet.arch import Arch

    out = terminal(soft_wrap=True)
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
    if "energy_mj" in answer:
        energy = f"{answer['energy_mj']:.4g} mJ per image"
        out.print(f"  energy     {energy}  (measured, a sum over blocks, never held to networks)")
    accuracy = "unknown"
    if answer["accuracy"] is not None:
        spread = f"{answer['accuracy']:.2f} ± {answer['accuracy_std']:.2f}"
        accuracy = f"{spread}  {answer['metric']}"
    out.print(f"  accuracy   {accuracy}  ({answer['provenance']['accuracy_source']})")
    if "trained" in answer:
        out.print(
            f"  trained    {_reached(answer['trained'])}  ({answer['provenance']['trained']})"
        )
    out.print(f"  params     {answer['params_m']:.3f} M")
    out.print(f"  MACs       {answer['macs_g']:.4g} G")
    out.print(f"  memory     {answer['memory_mb']:.1f} MB, peak activations and weights")
    for name in ("latency", "accuracy"):
        if answer[f"{name}_extrapolated"]:
            out.print(f"  {name} extrapolated: unlike everything that it was checked on")
    if answer["accuracy_transferred"]:
        out.print("  accuracy transferred: kernels or scales count as in networks of other spaces")
    out.print("  where the milliseconds go:")
    total = answer["latency_ms"]
    for stage, part in answer["stages_ms"].items():
        bar = "█" * round(30 * part / total)
        out.print(f"    {stage:<8}{part:>10.3f} ms {100 * part / total:>5.1f} %  {bar}")


def main() -> None:
    """Run the command line."""
    console_main(Predict, "nas.predict")


if __name__ == "__main__":
    main()
