"""Networks as TFLite models, for LiteRT and its XNNPACK delegate.

Every operator is one that XNNPACK takes, so that a network is one partition. Tensors are kept
as (B, H, W, C), which `network.Graph` calls (B, C, H, W).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lut.builders.bicubic import bicubic_matrix
from lut.builders.integers import LEAST_BEFORE, TIMING, Quantisation
from lut.builders.tflite_mixers import MIXERS
from lut.builders.tflite_ops import ConvolutionForm, TfliteOps
from lut.builders.weights import Array, Parameters
from results.errors import DeviceError
from supernet.blocks import Activation, Block, UpsampleMode, entry_of

# Lets XNNPACK compute in float16 where the CPU does so natively, as it does on current phones.
HALF_ALLOWED = {"reduced_precision_support": b"fp16accfp16"}


class TfliteGraph:
    """A model under construction; the methods are those of `network.Graph`.

    int8 without limits of activations has one scale for all: it tells how long a network takes,
    not what it computes.
    """

    def __init__(self, precision: str, batch: int, quantisation: Quantisation = TIMING) -> None:
        """Begin a file. Raises DeviceError for an unknown precision."""
        self._ops = TfliteOps(precision, quantisation)
        self._batch = batch
        self._inputs: list[int] = []
        self._text, self._metadata = "", dict[str, bytes]()

    def vary(self, what: str) -> None:
        """Raise DeviceError: all sizes are fixed."""
        raise DeviceError(f"a TFLite file's {what} is fixed; take onnx")

    def input(self, name: str, channels: int, height: int, width: int) -> int:
        """Declare the picture that the network reads, fp32."""
        x = self._ops.tensor((self._batch, height, width, channels))
        self._ops.rename(x, name)
        self._inputs.append(x)
        return x

    def pixels(
        self,
        name: str,
        height: int,
        width: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> int:
        """Declare an RGB picture of uint8, whose scale makes it 0..1, and normalise it."""
        ops = self._ops
        x = ops.tensor((self._batch, height, width, 3), np.uint8, scales=(1 / 255,))
        ops.rename(x, name)
        self._inputs.append(x)
        y = ops.operator("DEQUANTIZE", [x], ops.tensor(ops.shape(x)), "Dequantize")
        y = ops.binary("SUB", y, ops.constant(np.array(mean, np.float32)))
        return ops.binary("MUL", y, ops.constant(1 / np.array(std, np.float32)))

    def begin(self, block: Block | None, name: str) -> None:
        """Go on to a block, of which the rest of the file is until the next one."""
        self._ops.places.begin(block, name)

    def passed(self, x: int) -> None:
        """Call x what the block, or the picture's preparation, passes on."""
        place = self._ops.places.passed(x)
        if self._ops.places.observes:
            self._ops.observed.append((place, x))

    def conv(
        self,
        x: int,
        kernel: Array,
        bias: Array | None,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
    ) -> int:
        """Convolve with zero padding k // 2 and apply an activation."""
        least = LEAST_BEFORE.get(activation, -np.inf)
        y = self._ops.conv(x, kernel, bias, ConvolutionForm(stride, groups, least=least))
        return self.activate(y, activation)

    def add(self, inputs: Sequence[int]) -> int:
        """Add inputs of one shape."""
        total = inputs[0]
        for x in inputs[1:]:
            total = self._ops.add(total, x)
        return total

    def pool(self, x: int) -> int:
        """Average over all positions, (B, H, W, C) -> (B, C)."""
        return self._ops.pool(x)

    def linear(self, x: int, weight: Array, bias: Array | None) -> int:
        """Multiply (B, I) with a weight (O, I) and add a bias."""
        return self._ops.linear(x, weight, bias)

    def layer_norm(self, x: int, weight: Array, bias: Array, eps: float) -> int:
        """Normalise over C."""
        ops = self._ops
        y = ops.binary("MUL", ops.normalize(ops.to_float(x), eps), ops.weights(weight))
        return ops.binary("ADD", y, ops.weights(bias))

    def activate(self, x: int, activation: Activation) -> int:
        """Apply an activation in float.

        XNNPACK has neither in int8, and LiteRT's own hard swish takes 30 times longer.

        With casting there and back it takes 12 to 17 % of an MBConv's time in int8.
        """
        if activation == "none":
            return x
        if activation == "hswish":
            return self._ops.unary("HARD_SWISH", x)
        return self._ops.unary("GELU", x, "Gelu", approximate=True)

    def upsample(self, x: int, height: int, width: int, mode: UpsampleMode) -> int:
        """Resize; bicubic by two matrices, or by a convolution where that takes fewer MACs.

        For pictures of 3 channels the convolution takes 0.2 to 0.5 times as long. Matrices along
        x first take up to 2.4 times as long with 32 channels and more.
        """
        ops = self._ops
        if mode == "bilinear":
            x = ops.to_int8(x)
            batch, _, _, channels = ops.shape(x)
            out = ops.like(x, (batch, height, width, channels))
            inputs = [x, ops.integers(height, width)]
            options = "ResizeBilinear"
            return ops.operator("RESIZE_BILINEAR", inputs, out, options, halfPixelCenters=True)
        batch, old_height, old_width, channels = ops.shape(x)
        factor = height // old_height
        if (height, width) == (factor * old_height, factor * old_width):
            matrices = factor * old_width + factor**2 * old_height  # MACs an element of x
            if 25 * factor**2 * channels < matrices:
                return _bicubic_conv(ops, x, factor)
        y = ops.reshape(x, batch, old_height, old_width * channels)
        y = ops.matmul(ops.weights(bicubic_matrix(old_height, height)), y)
        y = ops.reshape(y, batch, height, old_width, channels)
        return ops.matmul(ops.weights(bicubic_matrix(old_width, width)), y)

    def pixel_shuffle(self, x: int, factor: int) -> int:
        """Move channels to pixels by one transpose.

        DEPTH_TO_SPACE would want channels in another order and is no faster.
        """
        ops = self._ops
        batch, height, width, channels = ops.shape(x)
        channels //= factor**2
        y = ops.reshape(x, batch, height, width, channels, factor, factor)
        y = ops.transpose(y, 0, 1, 4, 2, 5, 3)
        return ops.reshape(y, batch, height * factor, width * factor, channels)

    def mixer(self, x: int, block: Block, parameters: Parameters) -> int:
        """Append a token mixer. Raises DeviceError where `tflite_mixers` has none of that kind."""
        emit = entry_of(MIXERS, block, "lut/builders/tflite_mixers.py", DeviceError)
        return emit(self._ops, x, block, parameters)

    def softmax(self, x: int) -> int:
        """Make probabilities of logits over C, in float."""
        return self._ops.unary("SOFTMAX", x, "Softmax", beta=1.0)

    def argmax(self, x: int) -> int:
        """Give the index of the largest of C, (B,) or (B, H, W), int32; not by XNNPACK."""
        ops = self._ops
        x = ops.to_float(x)
        *shape, _ = ops.shape(x)
        out, inputs = ops.tensor(shape, np.int32), [x, ops.integers(len(shape))]
        return ops.operator("ARG_MAX", inputs, out, "ArgMax", outputType=schema.TensorType.INT32)

    def describe(self, text: str, metadata: Mapping[str, str]) -> None:
        """Keep a line on what the file is, and texts by name."""
        self._text = text
        self._metadata = {name: value.encode() for name, value in metadata.items() if value}

    def finish(self, output: int, name: str) -> bytes:
        """Declare the output, fp32 unless it is integers, and return the file's bytes."""
        ops = self._ops
        output = ops.to_float(output)
        ops.rename(output, name)
        outputs = [output]
        for number, (place, x) in enumerate(ops.observed):
            axes = range(len(ops.shape(x)))
            for kind, end in (("REDUCE_MIN", "least"), ("REDUCE_MAX", "largest")):
                outputs.append(ops.reduce(kind, x, *axes))
                ops.rename(outputs[-1], f"{place}:{number}/{end}")
        metadata = self._metadata | (HALF_ALLOWED if ops.half else {})
        return ops.pack(self._inputs, outputs, metadata, self._text)


def _bicubic_conv(ops: TfliteOps, x: int, factor: int) -> int:
    """Enlarge by a whole factor: every output pixel of a square is a 5 x 5 kernel."""
    for axis in (1, 2):  # repeat the border twice
        last = ops.shape(x)[axis] - 1
        first, end = ops.slice(x, axis, 0, 1), ops.slice(x, axis, last, 1)
        x = ops.concat([first, first, x, end, end], axis)
    channels = ops.shape(x)[3]
    taps = bicubic_matrix(5, 5 * factor)[2 * factor : 3 * factor]  # of a pixel far from borders
    kernel = np.einsum("yk,xl,cd->yxcdkl", taps, taps, np.eye(channels))
    kernel = kernel.reshape(-1, channels, 5, 5).astype(np.float32)
    y = ops.conv(x, kernel, form=ConvolutionForm(padded=True))
    batch, height, width, _ = ops.shape(y)
    out = ops.like(y, (batch, height * factor, width * factor, channels))
    return ops.operator("DEPTH_TO_SPACE", [y], out, "DepthToSpace", blockSize=factor)
