"""What an export is told: the flags of its command, as a value, and the networks by name."""

from dataclasses import dataclass
from pathlib import Path

from lut.exporting.formats import FORMATS, FileForm, forms_of
from results.errors import (
    ArchError,
    DeviceError,
    WeightsError,
    check_all_least,
    check_choice,
)
from results.options import Options
from supernet.arch import Arch, parse_resolution
from supernet.evaluation.options import RECALIBRATION_IMAGES, SUBNET_BATCH
from supernet.official import check_task

INPUT_TYPES = ("float", "uint8")
VARYING = ("batch", "size")
HEADS = ("logits", "softmax", "argmax")


@dataclass(frozen=True)
class ExportOptions(Options):
    """Which files are written of which networks."""

    format: tuple[str, ...] = ()
    """onnx, tflite, pt2 (torch.export), openvino, tensorrt (an engine where there is a trtexec,
    else its ONNX file) or safetensors (our own weights); repeatable."""
    precision: tuple[str, ...] = ()
    """fp32, the default, fp16, or int8 (of onnx and tflite, limits by pictures); repeatable.
    Pictures and results are fp32 in all."""
    out: Path | None = None
    """The new folder; by default results/runs/export-TIME."""

    weights: Path | None = None
    """A supernet, trained weights, or an official or timm's file; without it, random ones."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the network's, or the one its weights were trained at."""
    task: str | None = None
    """classification, segmentation or super_resolution; by default the network's."""
    dataset: str | None = None
    """imagenet, cityscapes or ade20k, whose head a network has."""
    num_classes: int | None = None
    """Classes of the head; by default the weights', else the data set's."""

    input_type: str = "float"
    """float: pictures come normalised. uint8: as they are stored, and the file normalises."""
    head: str = "logits"
    """What is given: logits, softmax or argmax; of segmentation the last two at input size."""
    batch: int = 1
    """Pictures at a time, a fixed number."""
    dynamic: str | None = None
    """Of ONNX, what may vary from run to run: batch, or size, heights and widths that the
    network's largest stride divides."""

    points: int = 2
    """Points of a prompt that a promptable network's decoder takes, a fixed number: clicks, a
    box's two corners, and padding."""

    images: int = 8
    """Pictures that every file is held against PyTorch on."""
    data: Path | None = None
    """Folder of training pictures for that, and for a supernet's statistics; by default seeded
    noise, and for the statistics embedded pictures."""
    recalibration_images: int = RECALIBRATION_IMAGES
    """Of a supernet: training pictures that a subnet's BatchNorm statistics are computed on."""
    batch_size: int = SUBNET_BATCH
    """Of a supernet: pictures at a time for statistics."""
    seed: int = 0
    """Of random weights, and of the pictures."""
    calibration_images: int = 128
    """Of int8: training pictures that limits of activations are found on."""
    limit: int = 1000
    """Of int8: held-out pictures that accuracy before and after is told on, evenly spread."""
    max_drop: float | None = None
    """Of int8: what a file may lose, in points of top-1 or mean IoU, by default 1, or in dB of
    PSNR, by default 0.5; one that loses more is rejected."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""

    @property
    def forms(self) -> tuple[FileForm, ...]:
        """Return the files that are asked for of each network. Raises DeviceError."""
        return forms_of(self.format, self.precision or ("fp32",))

    @property
    def needs_pictures(self) -> bool:
        """Tell whether a file is asked for that is made and judged by pictures with labels."""
        return "int8" in self.precision

    @property
    def is_plain(self) -> bool:
        """Tell whether files hold the network alone."""
        return (self.input_type, self.head) == ("float", "logits")

    def check(self) -> None:
        """Raise UserError for what can be told without PyTorch."""
        for form in self.forms:
            if not (self.is_plain or FORMATS[form.format].is_pipeline):
                flag = "--head" if self.head != "logits" else "--input-type"
                raise DeviceError(
                    f"{form.format} holds weights alone, no pictures' preparation and no classes; "
                    f"leave {flag} or --format {form.format} out"
                )
        check_choice("input type", self.input_type, INPUT_TYPES, DeviceError)
        check_choice("head", self.head, HEADS, DeviceError)
        if self.dynamic is not None:
            self._check_dynamic()
        least = {"batch": 1, "points": 1, "images": 1, "recalibration_images": 1}
        least |= {"batch_size": 1, "seed": 0, "calibration_images": 1, "limit": 1, "max_drop": 0}
        check_all_least(self, least | {"workers": 0})
        if self.task is not None:
            check_task(self.task)
        if self.resolution is not None:
            parse_resolution(self.resolution)
        if self.weights is not None and not self.weights.is_file():
            what = "is a folder" if self.weights.is_dir() else "is not there"
            raise WeightsError(f"--weights {self.weights} {what}; it takes a file")

    def _check_dynamic(self) -> None:
        """Raise DeviceError where files cannot leave open what they are asked to."""
        check_choice("dynamic", str(self.dynamic), VARYING, DeviceError)
        for form in self.forms:
            if form.format != "onnx":
                raise DeviceError(
                    f"{form.format} files are of one batch and size; leave --dynamic or --format "
                    f"{form.format} out"
                )
            if self.dynamic == "size" and form.precision != "fp32":
                raise DeviceError(
                    f"{form.precision} is exported for one size of pictures; leave --dynamic size "
                    f"or --precision {form.precision} out"
                )
        if self.dynamic == "size" and self.head != "logits":
            raise DeviceError("--dynamic size gives logits; leave --head out")


@dataclass(frozen=True)
class Prediction:
    """What a run predicts a network to take on a device, in ms per image."""

    device: str
    latency_ms: float
    latency_std_ms: float
    source: str
    runtime: str | None = None
    precision: str | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Wanted:
    """A network that is asked for."""

    text: str  # as `supernet.resolve.resolve_arch` takes it
    name: str  # in the names of files
    arch: Arch | None = None  # that the predictions are of
    predictions: tuple[Prediction, ...] = ()


def check_names(wanted: tuple[Wanted, ...]) -> None:
    """Raise ArchError where nothing is asked for, or two networks would have one name."""
    if not wanted:
        raise ArchError("name the network to export: b1, a JSON file, RUN#ID, or RUN --pick knee")
    seen: dict[str, str] = {}
    for network in wanted:
        if network.name in seen:
            raise ArchError(
                f"{seen[network.name]} and {network.text} would both be called {network.name}; "
                "export them one after the other, or from files of other names"
            )
        seen[network.name] = network.text
