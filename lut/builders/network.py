"""Networks from Blocks as a runtime's own graph, without PyTorch and without an exporter.

What a block is made of stands here once, and that of convolutions in `supernet.blocks`; how each
part is written in ONNX or TFLite is the graph's matter. Tensors are (B, C, H, W) here, whatever
layout a graph keeps them in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from lut.builders.integers import TIMING, Quantisation
from lut.builders.weights import Array, Parameters, RandomWeights, Weights
from results.errors import DeviceError, check_choice
from supernet.arch import LOCAL_KINDS, MIXER_KINDS, Arch
from supernet.blocks import IMAGE, Activation, Block, UpsampleMode, blocks_of
from supernet.convolutions import convolutions_of

Format = Literal["onnx", "tflite"]
Triple = tuple[float, float, float]
INPUT, OUTPUT = "image", "output"  # names in the files

Tensor = Any  # a graph's own handle


class Graph(Protocol):
    """A file under construction; every method appends and gives the new tensor."""

    def vary(self, what: str) -> None:
        """Take any batch, or any size of pictures, from here on. Raises DeviceError."""
        ...

    def input(self, name: str, channels: int, height: int, width: int) -> Tensor:
        """Declare the picture that the network reads."""
        ...

    def pixels(self, name: str, height: int, width: int, mean: Triple, std: Triple) -> Tensor:
        """Declare an RGB picture of uint8, and normalise it by mean and std of RGB in 0..1."""
        ...

    def begin(self, block: Block | None, name: str) -> None:
        """Go on to a block by its name in the network; None: to what is around the network."""
        ...

    def passed(self, x: Tensor) -> None:
        """Call x what the block, or the picture's preparation, passes on."""
        ...

    def conv(
        self,
        x: Tensor,
        kernel: Array,  # (O, I / groups, k, k)
        bias: Array | None,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
    ) -> Tensor:
        """Convolve with zero padding k // 2 on all sides, as PyTorch does."""
        ...

    def add(self, inputs: Sequence[Tensor]) -> Tensor:
        """Add inputs of one shape."""
        ...

    def pool(self, x: Tensor) -> Tensor:
        """Average over all positions, (B, C, H, W) -> (B, C)."""
        ...

    def linear(self, x: Tensor, weight: Array, bias: Array | None) -> Tensor:
        """Multiply (B, I) with a weight (O, I) and add a bias, (B, O)."""
        ...

    def layer_norm(self, x: Tensor, weight: Array, bias: Array, eps: float) -> Tensor:
        """Normalise over C, of (B, C) or (B, C, H, W)."""
        ...

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """Apply an activation; `none` changes nothing."""
        ...

    def upsample(self, x: Tensor, height: int, width: int, mode: UpsampleMode) -> Tensor:
        """Resize as PyTorch's F.interpolate with align_corners=False; bicubic with a = -0.75."""
        ...

    def pixel_shuffle(self, x: Tensor, factor: int) -> Tensor:
        """Move channels to pixels, (B, r^2 C, H, W) -> (B, C, r H, r W), as PyTorch does."""
        ...

    def mixer(self, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
        """Append a token mixer without its residual."""
        ...

    def softmax(self, x: Tensor) -> Tensor:
        """Make probabilities of logits over C, of (B, C) or (B, C, H, W); in float32."""
        ...

    def argmax(self, x: Tensor) -> Tensor:
        """Give the index of the largest of C, (B,) or (B, H, W), as integers."""
        ...

    def describe(self, text: str, metadata: Mapping[str, str]) -> None:
        """Keep a line on what the file is, and texts by name, in the file."""
        ...

    def finish(self, output: Tensor, name: str) -> bytes:
        """Return the file's bytes."""
        ...


def build_network(
    format: Format,
    network: Arch | Sequence[Block],
    *,
    weights: Weights | None = None,
    precision: str = "fp32",
    batch: int = 1,
    eps: float = 1e-5,
) -> bytes:
    """Return the file of a whole network, or of any run of blocks whose first reads the image.

    Args:
        weights: by default random ones, for timing.
        precision: `fp32`; `fp16`; `int8` with fixed scales, whose results mean nothing: for
            latency alone.
        eps: of normalisations; an Arch brings its own.

    Returns:
        ONNX with input (B, C, H, W), or TFLite with (B, H, W, C); pictures and results are
        fp32 whatever the precision. The output of a network without head is the mean over all
        positions, (B, C).

    Raises DeviceError where the extra `device` is not installed, WeightsError for weights of
    another network.
    """
    check_choice("format", format, ("onnx", "tflite"))
    blocks = network
    if isinstance(network, Arch):
        eps, blocks = network.norm_eps, blocks_of(network)
        if network.head is None:
            last = blocks[-1]
            size = last.out_size
            blocks = (*blocks, Block("pool", last.out_channels, last.out_channels, *size))
    assert not isinstance(blocks, Arch)
    graph = graph_of(format, precision, batch)
    first = blocks[0]
    picture = graph.input(INPUT, first.in_channels, first.height, first.width)
    return graph.finish(append(graph, picture, blocks, weights or RandomWeights(), eps), OUTPUT)


def append(
    graph: Graph, picture: Tensor, blocks: Sequence[Block], weights: Weights, eps: float
) -> Tensor:
    """Append blocks, of which the first reads `picture`, and give what the last one gives.

    Raises WeightsError for weights of another network.
    """
    values = {IMAGE: picture}
    graph.passed(picture)
    for index, block in enumerate(blocks):
        inputs = [values[i] for i in block.inputs or (index - 1,)]
        graph.begin(block, block.name or str(index))
        values[index] = _emit(graph, inputs, block, weights, eps)
        graph.passed(values[index])
    graph.begin(None, "ends")
    return values[len(blocks) - 1]


def check_builder(format: Format) -> None:
    """Raise DeviceError where what builds files of `format` is not installed."""
    graph_of(format, "fp32", 1)


def graph_of(
    format: Format, precision: str, batch: int, quantisation: Quantisation = TIMING
) -> Graph:
    """Begin a file. Raises DeviceError where what builds it is not installed."""
    try:
        if format == "onnx":
            from lut.builders.onnx_graph import OnnxGraph

            return OnnxGraph(precision, batch, quantisation)
        from lut.builders.tflite_graph import TfliteGraph

        return TfliteGraph(precision, batch, quantisation)
    except ModuleNotFoundError as missing:
        raise DeviceError(
            f"{missing.name} is not installed, which {format} files are built with; "
            'install it with `pip install -e ".[device]"`'
        ) from None


def _emit(
    graph: Graph, inputs: Sequence[Tensor], block: Block, weights: Weights, eps: float
) -> Tensor:
    prefix = f"{block.name}." + ("main." if block.residual else "")
    parameters = Parameters(weights, prefix, eps)
    x = inputs[0]
    if block.kind == "add":
        return graph.add(inputs)
    y = _EMITTERS[block.kind](graph, x, block, parameters)
    return graph.add([y, x]) if block.residual else y


def _convolutions(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    for conv in convolutions_of(block):
        kernel, bias = parameters.conv(conv)
        x = graph.conv(
            x,
            kernel,
            bias,
            stride=conv.stride,
            groups=conv.groups,
            activation=conv.activation,
        )
    return x


def _pool(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    return graph.pool(x)


def _linear(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    layer = block.norm == "layer"
    weight = parameters.tensor("linear.weight", (block.out_channels, block.in_channels))
    bias = None if layer else parameters.tensor("linear.bias", (block.out_channels,))
    x = graph.linear(x, weight, bias)
    return graph.activate(
        _norm(graph, x, block, parameters, "norm.") if layer else x, block.activation
    )


def _layer_norm(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    return _norm(graph, x, block, parameters, "")


def _norm(graph: Graph, x: Tensor, block: Block, parameters: Parameters, name: str) -> Tensor:
    weight, bias = (
        parameters.tensor(f"{name}{part}", (block.out_channels,)) for part in ("weight", "bias")
    )
    return graph.layer_norm(x, weight, bias, parameters.eps)


def _upsample(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    if block.out_size == (block.height, block.width):
        return x
    return graph.upsample(x, *block.out_size, block.mode)


def _pixel_shuffle(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    return graph.pixel_shuffle(x, block.stride)


def _mixer(graph: Graph, x: Tensor, block: Block, parameters: Parameters) -> Tensor:
    return graph.mixer(x, block, parameters)


_EMITTERS: dict[str, Callable[[Graph, Tensor, Block, Parameters], Tensor]] = {
    "conv": _convolutions,
    **dict.fromkeys(LOCAL_KINDS, _convolutions),
    "pool": _pool,
    "linear": _linear,
    "layer_norm": _layer_norm,
    "upsample": _upsample,
    "pixel_shuffle": _pixel_shuffle,
    **dict.fromkeys(MIXER_KINDS, _mixer),
}
