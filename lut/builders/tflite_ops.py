"""TFLite's operators with their shapes worked out, at one precision.

fp16: constants are stored in half and dequantised, which is TFLite's float16 quantisation: a
delegate may compute in either. int8: convolutions, sums and whatever moves data are int8,
anything else makes its inputs float. Images are (B, H, W, C) here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from lut.builders.integers import LARGEST_BIAS, TIMING, Places, Quantisation, Steps
from lut.builders.tflite_file import TfliteFile
from lut.builders.weights import Array
from results.errors import DeviceError, check_choice

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_HALF = float(np.finfo(np.float16).max)
FIXED = Steps(1 / 32, 128)  # of all activations in files for timing: none needs requantising
LEAST = 2.0**-14  # the least normal number of float16
OPTIONS = {
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "DIV": "Div",
    "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum",
    "EXP": "Exp",
    "ABS": "Abs",
    "NEG": "Neg",
    "HARD_SWISH": "HardSwish",
}


@dataclass(frozen=True, slots=True)
class ConvolutionForm:
    """How a kernel is applied."""

    stride: int = 1
    groups: int = 1
    relu: bool = False  # of the output
    padded: bool = False  # the input is, so that nothing is added around it
    in_float: bool = False  # whatever the precision
    least: float = -math.inf  # in int8, what is below in the output counts as that


PLAIN = ConvolutionForm()


class TfliteOps(TfliteFile):
    """A file whose operators are methods; x, a and b are tensors."""

    def __init__(self, precision: str, quantisation: Quantisation = TIMING) -> None:
        check_choice("precision", precision, PRECISIONS, DeviceError)
        super().__init__()
        self.precision = precision
        self.places = Places(precision, quantisation, FIXED)
        self.observed: list[tuple[str, int]] = []  # of a file that observes: place and tensor
        self._marked: set[int] = set()  # in such a file, what would be int8
        self._floats: dict[int, int] = {}  # of an int8 or half tensor the same in float
        self._int8s: dict[int, int] = {}

    @property
    def half(self) -> bool:
        """Tell whether a delegate may compute in float16."""
        return self.precision == "fp16"

    def integers(self, *values: int) -> int:
        """Store whole numbers, int32."""
        return self.constant(np.array(values, np.int32))

    def weights(self, values: npt.NDArray[np.floating]) -> int:
        """Store a float constant."""
        if not self.half:
            return self.constant(values.astype(np.float32, copy=False))
        half = values.clip(-LARGEST_HALF, LARGEST_HALF).astype(np.float16)
        stored = self.constant(half)
        if stored not in self._floats:
            self._floats[stored] = self.operator("DEQUANTIZE", [stored], self.tensor(values.shape))
        return self._floats[stored]

    def scalar(self, value: float) -> int:
        """Store one float."""
        return self.constant(np.array([value], np.float32))

    def like(self, x: int, shape: Sequence[int]) -> int:
        """Make a tensor for numbers of x: of its type, and rounded as it is."""
        if self.is_int8(x):
            scale, zero = self.quantisation(x)
            return self.tensor(shape, np.int8, scales=(scale,), zero=zero)
        out = self.tensor(shape)
        if x in self._marked:
            self._marked.add(out)
        return out

    def is_rounded(self, x: int) -> bool:
        """Tell whether x is int8, or observed for that."""
        return self.is_int8(x) or x in self._marked

    def result(
        self, x: int, shape: Sequence[int], *, least: float = -math.inf, name: str = ""
    ) -> int:
        """Make a tensor for what an operator computes of x: rounded where x is.

        Args:
            least: what is below counts as that.
            name: of the place, where several tensors have one; by default they are numbered.
        """
        if not (self.places.active and self.is_rounded(x)):
            return self.tensor(shape)
        place = self.places.of(None, name)
        if self.places.observes:
            out = self.tensor(shape)
            self._marked.add(out)
            self.observed.append((place, out))
            return out
        scale, zero = self.places.steps(place, least)
        return self.tensor(shape, np.int8, scales=(scale,), zero=zero - 128)

    def to_float(self, x: int) -> int:
        """Return x in float, itself where it is."""
        if not self.is_int8(x):
            return x
        if x not in self._floats:
            out = self.tensor(self.shape(x))
            self._floats[x] = self.operator("DEQUANTIZE", [x], out, "Dequantize")
        return self._floats[x]

    def to_int8(self, x: int, name: str = "") -> int:
        """Return x in int8 where a file of that precision has it so here, else in float.

        Args:
            name: of the place, where several tensors have one; by default they are numbered.
        """
        if not self.places.active:
            return self.to_float(x)
        if self.is_rounded(x):
            return x
        if x not in self._int8s:
            place = self.places.of(x, name)
            if self.places.observes:
                if not self.places.is_passed(x):
                    self.observed.append((place, x))
                self._marked.add(x)
                return x
            scale, zero = self.places.steps(place)
            out = self.tensor(self.shape(x), np.int8, scales=(scale,), zero=zero - 128)
            self._int8s[x] = self.operator("QUANTIZE", [x], out, "Quantize")
        return self._int8s[x]

    def unary(self, name: str, x: int, options: str = "", **values: bool | float) -> int:
        """Append an operator whose output has the shape of its one input, in float."""
        x = self.to_float(x)
        out = self.tensor(self.shape(x))
        return self.operator(name, [x], out, options or OPTIONS.get(name, ""), **values)

    def binary(self, name: str, a: int | float, b: int | float) -> int:
        """Append an operator with NumPy's broadcasting, in float; a number is a constant."""
        a, b = (self.scalar(x) if isinstance(x, float) else self.to_float(x) for x in (a, b))
        out = self.tensor(np.broadcast_shapes(self.shape(a), self.shape(b)))
        return self.operator(name, [a, b], out, OPTIONS[name])

    def add(self, a: int, b: int) -> int:
        """Add tensors of one shape; in int8 where the precision is."""
        a, b = self.to_int8(a), self.to_int8(b)
        return self.operator("ADD", [a, b], self.result(a, self.shape(a)), "Add")

    def reduce(self, name: str, x: int, *axes: int) -> int:
        """Append MEAN, SUM, REDUCE_MAX or REDUCE_MIN; `axes` count from the front and are kept."""
        x = self.to_float(x)
        return self._reduce(name, x, axes, self.tensor(self._reduced(x, axes, keep=True)))

    def pool(self, x: int) -> int:
        """Average over all positions, (B, H, W, C) -> (B, C); in int8 where the precision is."""
        x, axes = self.to_int8(x), (1, 2)
        return self._reduce("MEAN", x, axes, self.result(x, self._reduced(x, axes, keep=False)))

    def _reduced(self, x: int, axes: Sequence[int], *, keep: bool) -> list[int]:
        sizes = enumerate(self.shape(x))
        return [1 if i in axes else n for i, n in sizes if keep or i not in axes]

    def _reduce(self, name: str, x: int, axes: Sequence[int], out: int) -> int:
        keep = len(self.shape(out)) == len(self.shape(x))
        return self.operator(name, [x, self.integers(*axes)], out, "Reducer", keepDims=keep)

    def matmul(self, a: int, b: int, *, adj_a: bool = False, adj_b: bool = False) -> int:
        """Multiply along the last two axes, of either as if transposed; broadcast the others."""
        a, b = self.to_float(a), self.to_float(b)
        shape_a, shape_b = self.shape(a), self.shape(b)
        rows, columns = shape_a[-1 if adj_a else -2], shape_b[-2 if adj_b else -1]
        assert shape_a[-2 if adj_a else -1] == shape_b[-1 if adj_b else -2], (shape_a, shape_b)
        shape = (*np.broadcast_shapes(shape_a[:-2], shape_b[:-2]), rows, columns)
        out = self.tensor(shape)
        return self.operator("BATCH_MATMUL", [a, b], out, "BatchMatMul", adjX=adj_a, adjY=adj_b)

    def reshape(self, x: int, *shape: int) -> int:
        """Give x a shape of as many elements; one of the sizes may be -1."""
        if -1 in shape:
            rest = -math.prod(shape)
            shape = tuple(math.prod(self.shape(x)) // rest if n == -1 else n for n in shape)
        if shape == self.shape(x):
            return x
        inputs = [x, self.integers(*shape)]
        return self.operator("RESHAPE", inputs, self.like(x, shape), "Reshape", newShape=shape)

    def transpose(self, x: int, *axes: int) -> int:
        """Order the axes of x anew."""
        out = self.like(x, [self.shape(x)[axis] for axis in axes])
        return self.operator("TRANSPOSE", [x, self.integers(*axes)], out, "Transpose")

    def slice(self, x: int, axis: int, start: int, size: int) -> int:
        """Cut `size` indices from `start` out of an axis."""
        shape = list(self.shape(x))
        if (start, size) == (0, shape[axis]):
            return x
        begin = [0] * len(shape)
        begin[axis], shape[axis] = start, size
        inputs = [x, self.integers(*begin), self.integers(*shape)]
        return self.operator("SLICE", inputs, self.like(x, shape), "Slice")

    def concat(self, inputs: Sequence[int], axis: int) -> int:
        """Join the inputs along an axis."""
        if len(inputs) == 1:
            return inputs[0]
        shape = list(self.shape(inputs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in inputs)
        out = self.like(inputs[0], shape)
        return self.operator("CONCATENATION", inputs, out, "Concatenation", axis=axis)

    def pad(self, x: int, padding: Sequence[tuple[int, int]]) -> int:
        """Add zeros, (before, after) for every axis."""
        if not any(any(pair) for pair in padding):
            return x
        shape = [n + sum(pair) for n, pair in zip(self.shape(x), padding, strict=True)]
        amounts = self.constant(np.array(padding, np.int32))
        return self.operator("PAD", [x, amounts], self.like(x, shape), "Pad")

    def conv(
        self,
        x: int,
        kernel: Array,
        bias: Array | None = None,
        form: ConvolutionForm = PLAIN,
    ) -> int:
        """Convolve (B, H, W, I) with a kernel (O, I / groups, k, l), k and l odd, and add a bias.

        The padding is k // 2 and l // 2 as PyTorch's, unless x is padded already. TFLite's SAME
        is that but for even sizes at a stride, where it puts less on top and left.

        Returns (B, ceil(H / stride), ceil(W / stride), O).
        """
        x = self.to_float(x) if form.in_float else self.to_int8(x)
        stride, groups = form.stride, form.groups
        out_channels, _, *window = kernel.shape
        sizes = zip(self.shape(x)[1:3], window, strict=True)
        same = not form.padded and all(_same_is_even(size, taps, stride) for size, taps in sizes)
        if not same and not form.padded:
            x = self.pad(x, ((0, 0), *((taps // 2,) * 2 for taps in window), (0, 0)))
        batch, *sides, in_channels = self.shape(x)
        lost = (0, 0) if same else (window[0] - 1, window[1] - 1)
        sides = [-(-(side - less) // stride) for side, less in zip(sides, lost, strict=True)]
        shape = (batch, *sides, out_channels)
        options: dict[str, int] = {
            "padding": schema.Padding.SAME if same else schema.Padding.VALID,
            "strideH": stride,
            "strideW": stride,
            "dilationHFactor": 1,
            "dilationWFactor": 1,
            "fusedActivationFunction": schema.ActivationFunctionType.RELU if form.relu else 0,
        }
        if bias is None:
            bias = np.zeros(out_channels, np.float32)  # XNNPACK wants one
        out = self.tensor(shape) if form.in_float else self.result(x, shape, least=form.least)
        if groups > 1 and groups == out_channels == in_channels:
            inputs = self._parameters(x, kernel.transpose(1, 2, 3, 0), bias, axis=3)
            options["depthMultiplier"] = 1
            return self.operator("DEPTHWISE_CONV_2D", inputs, out, "DepthwiseConv2D", **options)
        inputs = self._parameters(x, kernel.transpose(0, 2, 3, 1), bias, axis=0)
        return self.operator("CONV_2D", inputs, out, "Conv2D", **options)

    def linear(self, x: int, weight: Array, bias: Array | None = None) -> int:
        """Multiply (..., I) with a weight (O, I) and add a bias, (..., O)."""
        x = self.to_int8(x)
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        out = self.result(x, (*self.shape(x)[:-1], len(weight)))
        inputs = self._parameters(x, weight, bias, axis=0)
        keep = len(self.shape(x)) > 2
        return self.operator("FULLY_CONNECTED", inputs, out, "FullyConnected", keepNumDims=keep)

    def split_heads(self, x: int, heads: int) -> int:
        """Order (B, H, W, N D) as (B, N, T, D)."""
        batch, height, width, channels = self.shape(x)
        x = self.reshape(x, batch, height * width, heads, channels // heads)
        return self.transpose(x, 0, 2, 1, 3)

    def merge_heads(self, x: int, height: int, width: int) -> int:
        """Order (B, N, T, D) as (B, H, W, N D)."""
        batch, heads, _, dim = self.shape(x)
        return self.reshape(self.transpose(x, 0, 2, 1, 3), batch, height, width, heads * dim)

    def normalize(self, x: int, eps: float) -> int:
        """Compute (x - mean) / sqrt(variance + eps) over the last axis.

        Where float16 may be computed in, x is divided by its largest magnitude and eps by the
        square of that first: no square leaves float16 then, and eps is not lost in it.
        """
        last = len(self.shape(x)) - 1
        scaled: int | float = eps
        if self.half:
            largest = self.reduce("REDUCE_MAX", self.unary("ABS", x), last)
            largest = self.binary("MAXIMUM", largest, LEAST)
            x = self.binary("DIV", x, largest)
            root = self.binary("DIV", math.sqrt(eps), largest)
            scaled = self.binary("MUL", root, root)
        x = self.binary("SUB", x, self.reduce("MEAN", x, last))
        variance = self.reduce("MEAN", self.binary("MUL", x, x), last)
        return self.binary("MUL", x, self.unary("RSQRT", self.binary("ADD", variance, scaled)))

    def _parameters(self, x: int, kernel: Array, bias: Array, axis: int) -> list[int]:
        """Return x and its parameters as inputs; in int8 with a scale for each index of `axis`.

        Biases are int32 then, at the scale of the products, which they may set.
        """
        if not self.is_int8(x):
            return [x, self.weights(kernel), self.weights(bias)]
        others = tuple(i for i in range(kernel.ndim) if i != axis)
        scales = np.maximum(np.abs(kernel).max(others), np.float32(1e-6)) / np.float32(127)
        step = np.float32(self.quantisation(x)[0])
        scales = np.maximum(scales, np.abs(bias) / (step * np.float32(LARGEST_BIAS)))
        shape = [-1 if i == axis else 1 for i in range(kernel.ndim)]
        quantized = np.rint(kernel / scales.reshape(shape)).astype(np.int8)
        products = scales * step
        integers = np.rint(bias / products).astype(np.int32)
        return [
            x,
            self.constant(quantized, scales=scales, axis=axis),
            self.constant(integers, scales=products),
        ]


def _same_is_even(size: int, kernel: int, stride: int) -> bool:
    """Tell whether SAME pads kernel // 2 before and after."""
    total: int = (-(-size // stride) - 1) * stride + kernel - size
    return max(total, 0) == 2 * (kernel // 2)
