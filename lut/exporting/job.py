"""One file of one network: what it is called, what it says of itself, what it computes."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lut.builders.integers import TIMING, Quantisation, integer_share
from lut.builders.network import INPUT, OUTPUT
from lut.builders.pipeline import Ends, OutputHead, build_pipeline
from lut.builders.weights import StateWeights
from lut.exporting.formats import FileForm
from lut.exporting.networks import Network
from supernet.arch import ClassificationHead, SegmentationHead, format_resolution
from supernet.blocks import blocks_of

if TYPE_CHECKING:
    from torch import nn

    from supernet.layers.pipeline import Pipeline

Tensors = Mapping[str, npt.NDArray[Any]]  # by name; maps with their channels second
Runner = Callable[[Tensors], Tensors]
PACKAGE = "efficientvit-nas"
MOSTLY = 0.5  # share of MACs


@dataclass(frozen=True)
class Loaded:
    """A file in its own runtime."""

    run: Runner
    runtime: str  # with its version
    told: dict[str, Any] = field(default_factory=dict)  # for the manifest


@dataclass(frozen=True)
class Job:
    """A network, or the image encoder of a promptable one, in one format and precision."""

    network: Network
    form: FileForm
    batch: int
    input_type: str
    head: OutputHead
    quantisation: Quantisation = TIMING  # of int8
    dynamic: str = ""  # batch or size of pictures, if the file takes any

    @property
    def integer_share(self) -> float:
        """Return the share of MACs that an int8 file computes in integers."""
        return integer_share(blocks_of(self.network.arch), self.quantisation.floats)

    @property
    def part(self) -> str:
        """Return which part of the network it is; empty for all of it."""
        return "encoder" if self.network.decoder else ""

    @property
    def is_mostly_float(self) -> bool:
        """Tell whether the file is int8 by name, and computes most in float."""
        return self.form.precision == "int8" and self.integer_share < MOSTLY

    @property
    def stem(self) -> str:
        """Return ARCH-RESOLUTION[-PART]-PRECISION[-untrained], which names of files begin with."""
        size = format_resolution(self.network.arch.resolution)
        mark = "" if self.network.is_trained else "-untrained"
        part = f"-{self.part}" if self.part else ""
        return f"{self.network.name}-{size}{part}-{self.form.precision}{mark}"

    @property
    def is_plain(self) -> bool:
        """Tell whether the file holds the network alone."""
        return (self.input_type, self.head) == ("float", "logits")

    @property
    def size(self) -> tuple[int, int] | None:
        """Return the size that a map of logits is enlarged to: of classes that of the pictures."""
        is_map = isinstance(self.network.arch.head, SegmentationHead)
        return self.network.arch.resolution if is_map and self.head != "logits" else None

    @property
    def has_classes(self) -> bool:
        """Tell whether the network's outputs are classes."""
        return isinstance(self.network.arch.head, ClassificationHead | SegmentationHead)

    @property
    def ends(self) -> Ends:
        """Return what a builder puts around the network."""
        seen = self.network.model.preprocessing
        pixels = (seen.mean, seen.std) if self.input_type == "uint8" else None
        return Ends(pixels, self.head, self.size, self.dynamic, self.description, self.metadata)

    def built(self, format: Literal["onnx", "tflite"]) -> bytes:
        """Return the file as our builder makes it. Raises ArchError where it is too large."""
        network = self.network
        state = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
        with np.errstate(over="ignore"):  # what leaves float16 is found when the file is checked
            return build_pipeline(
                format,
                network.arch,
                StateWeights(state),
                self.ends,
                precision=self.form.precision,
                batch=self.batch,
                eps=network.norm_eps,
                quantisation=self.quantisation,
            )

    def module(self, *, half: bool = False) -> "nn.Module":
        """Return the same as one PyTorch module, the network in float16 if `half`."""
        return self.pipeline(half=half)

    def pipeline(self, *, half: bool = False) -> "Pipeline":
        """Return `module` as what it is."""
        from supernet.layers.pipeline import Pipeline

        model = self.network.model
        return Pipeline(
            copy.deepcopy(model).half() if half else model,
            pixels=model.preprocessing if self.input_type == "uint8" else None,
            head=self.head,
            size=self.size,
        ).eval()

    @property
    def description(self) -> str:
        """Return a line on what the file is."""
        arch = self.network.arch
        text = f"EfficientViT {self.network.name}, {self.part or arch.task}, "
        text += f"{format_resolution(arch.resolution)} px, {self.form.precision}"
        if self.is_mostly_float:
            text += f" of {100 * self.integer_share:.0f} % of its MACs, the others float"
        return text + ("" if self.network.is_trained else ", untrained: random weights")

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the file says of itself, as texts."""
        network = self.network
        seen = network.model.preprocessing
        told: dict[str, Any] = {
            "producer": f"{PACKAGE} {_own_version()}".strip(),
            "name": network.name,
            "arch": network.arch.to_json(),
            "norm_eps": repr(network.norm_eps),
            "task": network.arch.task,
            "part": self.part,
            "precision": self.form.precision,
            "input_type": self.input_type,
            "head": self.head,
            "dynamic": self.dynamic,
            "preprocessing": json.dumps(asdict(seen)),
            "untrained": json.dumps(not network.is_trained),
        }
        if network.is_trained:
            told["weights_sha256"] = network.weights["sha256"]
        else:
            told["random_seed"] = str(network.weights["seed"])
        if self.form.precision == "int8":
            told["integer_macs"] = f"{self.integer_share:.3f}"
        if network.header.classes:
            told["classes"] = json.dumps(network.header.classes)
        return told

    @property
    def example(self) -> Tensors:
        """Return inputs of zeros, as the file takes them."""
        kind: npt.DTypeLike = np.uint8 if self.input_type == "uint8" else np.float32
        return {INPUT: np.zeros((self.batch, 3, *self.network.arch.resolution), kind)}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs."""
        return (OUTPUT,)


def named(stem: Path, suffix: str) -> Path:
    """Return the file whose name is that of `stem`, which may hold dots, and a suffix."""
    return stem.with_name(stem.name + suffix)


def _own_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""
