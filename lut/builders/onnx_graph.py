"""Networks as ONNX files, written node by node."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from lut.builders.bicubic import bicubic_matrix
from lut.builders.onnx_mixers import MIXERS
from lut.builders.onnx_ops import FLOAT32, INT64, TYPES, UINT8, OnnxOps, Value
from lut.builders.weights import Array, Parameters
from results.errors import DeviceError
from supernet.blocks import Block, UpsampleMode, entry_of


class OnnxGraph(OnnxOps):
    """A `lut.builders.network.Graph`; its tensors are Values."""

    def vary(self, what: str) -> None:
        """Take any batch, or any size of pictures, from here on.

        Raises DeviceError for size in fp16, whose sums are scaled by the number of positions.
        """
        if what == "size" and self.precision == "fp16":
            raise DeviceError("sums in fp16 are scaled for one size of pictures; take fp32")
        self.varies = what

    def input(self, name: str, channels: int, height: int, width: int) -> Value:
        """Declare the picture that the network reads, fp32."""
        value = Value(name, (self.batch, channels, height, width), FLOAT32)
        self.graph.input.append(self._described(name, value))
        return self.cast(value, self.dtype)

    def pixels(
        self,
        name: str,
        height: int,
        width: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> Value:
        """Declare an RGB picture of uint8, and normalise it, in float32."""
        value = Value(name, (self.batch, 3, height, width), UINT8)
        self.graph.input.append(self._described(name, value))
        colours = (np.array(numbers).reshape(1, 3, 1, 1) for numbers in (mean, std))
        centre, spread = colours
        x = self.binary("Mul", self.cast(value, FLOAT32), 1 / (255 * spread))
        x = self.binary("Add", x, -centre / spread)
        return self.cast(x, self.dtype)

    def begin(self, block: Block | None, name: str) -> None:
        """Go on to a block, of which the rest of the file is until the next one."""
        self.places.begin(block, name)

    def passed(self, x: Value) -> None:
        """Call x what the block, or the picture's preparation, passes on."""
        place = self.places.passed(x.name)
        if self.places.observes:
            self.observe(place, x)

    def add(self, inputs: Sequence[Value]) -> Value:
        """Add inputs of one shape."""
        total = self.kept(inputs[0])
        for x in inputs[1:]:
            total = self.kept(self.binary("Add", total, self.kept(x)))
        return total

    def pool(self, x: Value) -> Value:
        """Average over all positions, (B, C, H, W) -> (B, C)."""
        batch, channels = x.shape[:2]
        y = self.node("GlobalAveragePool", [self.kept(x)], (batch, channels, 1, 1))
        y = self.kept(y)
        return replace(self.reshape(y, batch, channels), steps=y.steps)

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """Multiply (B, I) with a weight (O, I) and add a bias."""
        inputs = self.parameters(self.kept(x), weight, bias)
        return self.kept(self.node("Gemm", inputs, (x.shape[0], len(weight)), transB=1))

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """Normalise over C, of (B, C) or (B, C, H, W)."""
        if len(x.shape) == 4:
            x = self.transpose(x, 0, 2, 3, 1)
        inputs = [x, self.constant(weight), self.constant(bias)]
        y = self.node("LayerNormalization", inputs, x.shape, axis=-1, epsilon=eps)
        if len(x.shape) == 4:
            y = self.transpose(y, 0, 3, 1, 2)
        return self.kept(y)

    def upsample(self, x: Value, height: int, width: int, mode: UpsampleMode) -> Value:
        """Resize; bicubic as a product with a matrix along each axis.

        ONNX Runtime's own cubic Resize took 20 to 120 times as long on one thread: 1.5 ms and
        12 microseconds for 14x14 to 28x28 with 32 channels, 110 ms and 1.9 ms for 32x64 to
        128x256 with 64. Its bilinear one is as fast as the products.
        """
        if mode == "bicubic" and self.varies != "size":
            across = bicubic_matrix(x.shape[3], width).T
            return self.matmul(bicubic_matrix(x.shape[2], height), self.matmul(x, across))
        x = self.kept(x)
        shape, nothing = (*x.shape[:2], height, width), Value("", (), x.dtype)
        if not self.varies:
            sizes = [nothing, self.constant(np.array(shape))]
        else:
            assert height % x.shape[2] == width % x.shape[3] == 0, (x.shape, shape)
            factors = [1, 1, height // x.shape[2], width // x.shape[3]]
            sizes = [self.constant(np.array(factors), FLOAT32)]
        y = self.node(
            "Resize",
            [x, nothing, *sizes],
            shape,
            mode="cubic" if mode == "bicubic" else "linear",
            cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )
        return self.moved(y, x)

    def pixel_shuffle(self, x: Value, factor: int) -> Value:
        """Move channels to pixels, (B, r^2 C, H, W) -> (B, C, r H, r W)."""
        batch, channels, height, width = x.shape
        shape = (batch, channels // factor**2, height * factor, width * factor)
        y = self.node("DepthToSpace", [x], shape, blocksize=factor, mode="CRD")
        return self.moved(y, x)

    def mixer(self, x: Value, block: Block, parameters: Parameters) -> Value:
        """Append a token mixer. Raises DeviceError where `onnx_mixers` has none of that kind."""
        emit = entry_of(MIXERS, block, "lut/builders/onnx_mixers.py", DeviceError)
        if self.varies == "size" and block.kind != "relu_linear":
            raise DeviceError(f"{block.kind} is written for one size of pictures; leave it fixed")
        return emit(self, x, block, parameters)

    def softmax(self, x: Value) -> Value:
        """Make probabilities of logits over C, in float32."""
        return self.unary("Softmax", self.cast(x, FLOAT32), axis=1)

    def argmax(self, x: Value) -> Value:
        """Give the index of the largest of C, (B,) or (B, H, W), int64."""
        shape = (x.shape[0], *x.shape[2:])
        return self.node("ArgMax", [x], shape, INT64, axis=1, keepdims=0)

    def describe(self, text: str, metadata: Mapping[str, str]) -> None:
        """Keep a line on what the file is, and texts by name."""
        self.model.doc_string = text
        helper.set_model_props(self.model, dict(metadata))

    def finish(self, output: Value, name: str) -> bytes:
        """Declare the output, fp32 unless it is integers, and return the file's bytes."""
        output = output if output.dtype == INT64 else self.cast(output, FLOAT32)
        self.append("Identity", [output], [name], {})
        self.graph.output.append(self._described(name, output))
        for number, (place, value) in enumerate(self.observed):
            own = f"{place}/{'least' if number % 2 == 0 else 'largest'}"
            self.append("Identity", [value], [own], {})
            self.graph.output.append(self._described(own, value))
        file: bytes = self.model.SerializeToString()
        return file

    def _described(self, name: str, value: Value) -> onnx.ValueInfoProto:
        sizes: list[int | str] = list(value.shape)
        if self.varies == "batch":
            sizes[0] = "batch"
        elif self.varies == "size" and len(sizes) == 4:
            sizes[2:] = f"{name}_height", f"{name}_width"
        return helper.make_tensor_value_info(name, TYPES[value.dtype], sizes)
