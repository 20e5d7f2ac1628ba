"""Whole pipelines as a runtime's own graph: from pictures as they are stored to classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lut.builders.integers import TIMING, Quantisation
from lut.builders.network import INPUT, OUTPUT, Format, Triple, append, graph_of
from lut.builders.weights import Weights
from supernet.arch import Arch
from supernet.blocks import blocks_of

OutputHead = Literal["logits", "softmax", "argmax"]


@dataclass(frozen=True)
class Ends:
    """What a file does before and after its network, and says of itself."""

    pixels: tuple[Triple, Triple] | None = None  # mean and std of uint8 pictures; None: float32
    head: OutputHead = "logits"
    size: tuple[int, int] | None = None  # that a map of logits is enlarged to, bicubic
    varies: str = ""  # batch or size of pictures, if the file takes any
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def build_pipeline(
    format: Format,
    arch: Arch,
    weights: Weights,
    ends: Ends,
    *,
    precision: str = "fp32",
    batch: int = 1,
    eps: float | None = None,
    quantisation: Quantisation = TIMING,
) -> bytes:  # the file's own settings beside those of a network
    """Return the file of a network with a head, from pictures to what `ends` ask for.

    Args:
        eps: of normalisations, where it is not the arch's own.
        quantisation: of int8; without it results mean nothing.

    Returns:
        ONNX with input (B, 3, H, W), or TFLite with (B, H, W, 3), `image`; its output is
        `output`: fp32, or the indices of classes, int64 in ONNX and int32 in TFLite.

    Raises DeviceError where the extra `device` is not installed, WeightsError for weights of
    another network.
    """
    graph = graph_of(format, precision, batch, quantisation)
    graph.describe(ends.description, ends.metadata)
    if ends.varies:
        graph.vary(ends.varies)
    height, width = arch.resolution
    if ends.pixels is None:
        picture = graph.input(INPUT, 3, height, width)
    else:
        picture = graph.pixels(INPUT, height, width, *ends.pixels)
    x = append(graph, picture, blocks_of(arch), weights, arch.norm_eps if eps is None else eps)
    if ends.size is not None:
        x = graph.upsample(x, *ends.size, "bicubic")
    if ends.head == "softmax":
        x = graph.softmax(x)
    elif ends.head == "argmax":
        x = graph.argmax(x)
    return graph.finish(x, OUTPUT)
