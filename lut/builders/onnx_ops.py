"""ONNX's operators with their shapes worked out: no exporter, no checker, no shape inference.

Operators of opset 20 alone, which ONNX Runtime and TensorRT 10 both take. Every size is fixed,
batch included. B batch, C channels, H height, W width.

int8 is written as pairs of QuantizeLinear and DequantizeLinear around operators of float, which
ONNX Runtime fuses to integer operators. Weights are int8 with a scale for each output channel,
activations uint8: with int8 activations ONNX Runtime took six times as long on x86, or left half
of the convolutions in float. TensorRT takes no uint8; give it fp16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from lut.builders.integers import (
    LEAST_BEFORE,
    TIMING,
    Places,
    Quantisation,
    Steps,
)
from lut.builders.weights import Array
from results.errors import ArchError, check_choice
from supernet.blocks import Activation

OPSET, IR_VERSION = 20, 9
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_WEIGHT = 63  # more: x86 without VNNI adds pairs of products in 16 bits, which saturate
MOST_BYTES = 2_100_000_000  # protobuf ends at 2^31
FIXED = Steps(1 / 16, 128)  # of all activations in files for timing: -8 to 8
FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
INT8, UINT8, INT64 = np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int64)
TYPES = {
    FLOAT32: onnx.TensorProto.FLOAT,
    FLOAT16: onnx.TensorProto.FLOAT16,
    INT8: onnx.TensorProto.INT8,
    UINT8: onnx.TensorProto.UINT8,
    np.dtype(np.int32): onnx.TensorProto.INT32,
    INT64: onnx.TensorProto.INT64,
}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    steps: Steps | None = None  # where it was rounded to 8 bits, how


class OnnxOps:
    """A file whose operators are methods: those whose resulting shape needs some thought."""

    def __init__(self, precision: str, batch: int, quantisation: Quantisation = TIMING) -> None:
        check_choice("precision", precision, PRECISIONS)
        self.precision, self.batch = precision, batch
        self.places = Places(precision, quantisation, FIXED)
        self.observed: list[
            tuple[str, Value]
        ] = []  # of a file that observes: place, lowest, highest
        self._rounded: dict[str, Value] = {}  # of a tensor that was rounded the result
        self.dtype = FLOAT16 if precision == "fp16" else FLOAT32
        self.model = onnx.ModelProto(ir_version=IR_VERSION)
        self.model.opset_import.append(helper.make_opsetid("", OPSET))
        self.graph = self.model.graph  # written in place: protobuf copies what is appended
        self.graph.name = "network"
        self.varies = ""  # batch or size, if the file takes any
        self._known: dict[tuple[Any, ...], Value] = {}  # small constants, each stored once
        self._bytes = 0  # of constants

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Value:
        """Store numbers; floats in the file's own dtype, unless `dtype` says otherwise.

        Raises ArchError where the file becomes too large.
        """
        array = np.asarray(values)
        if dtype is None and array.dtype.kind == "f":
            dtype = self.dtype
        array = np.asarray(array, dtype, order="C")
        key = (array.shape, array.dtype.char, array.tobytes()) if array.size <= 64 else None
        if key in self._known:
            return self._known[key]
        value = Value(f"c{len(self.graph.initializer)}", array.shape, array.dtype)
        self._bytes += array.nbytes
        if self._bytes > MOST_BYTES:
            raise ArchError(
                f"an ONNX file holds at most {MOST_BYTES / 1e9:.1f} GB, too little for this "
                f"network in {self.precision}; try fp16, or an arch with fewer parameters"
            )
        self.graph.initializer.add(
            name=value.name,
            data_type=TYPES[array.dtype],
            dims=array.shape,
            raw_data=array.tobytes(),
        )
        if key:
            self._known[key] = value
        return value

    def node(
        self,
        kind: str,
        inputs: Sequence[Value],
        shape: tuple[int, ...],
        dtype: np.dtype[Any] | None = None,
        **attributes: Any,
    ) -> Value:
        """Append an operator with one output, by default of the first input's dtype."""
        value = Value(f"t{self._count}", shape, dtype or inputs[0].dtype)
        self.append(kind, inputs, [value.name], attributes)
        return value

    def append(
        self, kind: str, inputs: Sequence[Value], outputs: list[str], attributes: dict[str, Any]
    ) -> None:
        self.graph.node.add(
            op_type=kind,
            name=f"{kind}{self._count}",
            input=[value.name for value in inputs],
            output=outputs,
            attribute=[helper.make_attribute(name, value) for name, value in attributes.items()],
        )

    @property
    def _count(self) -> int:
        return len(self.graph.node)

    def binary(self, kind: str, a: Value, b: Value | npt.ArrayLike) -> Value:
        """Append Add, Mul, ...; numbers take the dtype of `a`."""
        if not isinstance(b, Value):
            b = self.constant(b, a.dtype)
        return self.node(kind, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def clip(self, x: Value, bound: float) -> Value:
        """Limit x to +-bound."""
        low, high = (self.constant(number, x.dtype) for number in (-bound, bound))
        return self.node("Clip", [x, low, high], x.shape)

    def unary(self, kind: str, x: Value, **attributes: Any) -> Value:
        """Append an operator whose output has the shape of its one input."""
        return self.node(kind, [x], x.shape, **attributes)

    def reduce(self, kind: str, x: Value, *axes: int) -> Value:
        """Append ReduceMax, ReduceSum, ...; the axes stay, with one element each."""
        shape = list(x.shape)
        for axis in axes:
            shape[axis] = 1
        return self.node(kind, [x, self.constant(np.array(axes))], tuple(shape), keepdims=1)

    def cast(self, x: Value, dtype: np.dtype[Any]) -> Value:
        """Convert x to `dtype`, where it has another."""
        if x.dtype == dtype:
            return x
        return self.node("Cast", [x], x.shape, dtype, to=TYPES[dtype])

    def reshape(self, x: Value, *shape: int) -> Value:
        """Give x a shape of as many elements."""
        assert prod(shape) == prod(x.shape), (x.shape, shape)
        sizes = list(shape)
        if self.varies == "batch":
            assert shape[0] == x.shape[0], (x.shape, shape)
            sizes[0] = 0  # as many as before
        return self.node("Reshape", [x, self.constant(np.array(sizes))], shape)

    def flat(self, x: Value, *shape: int) -> Value:
        """Give (B, C, H, W) a shape whose last axis are all positions."""
        if self.varies != "size":
            return self.reshape(x, *shape)
        sizes = self.constant(np.array([*shape[:-1], -1]))
        return self.node("Reshape", [x, sizes], shape)

    def maps(self, x: Value, like: Value, channels: int) -> Value:
        """Give (B, ..., H W) the shape (B, channels, H, W), H and W being another's."""
        shape = (like.shape[0], channels, *like.shape[2:])
        if self.varies != "size":
            return self.reshape(x, *shape)
        sides = self.node("Shape", [like], (2,), INT64, start=2, end=4)
        sizes = self.concat([self.constant(np.array([0, channels])), sides], 0)
        return self.node("Reshape", [x, sizes], shape)

    def transpose(self, x: Value, *axes: int) -> Value:
        """Order the axes of x anew."""
        shape = tuple(x.shape[axis] for axis in axes)
        return self.node("Transpose", [x], shape, perm=axes)

    def transposed(self, x: Value) -> Value:
        """Exchange the last two axes, which a MatMul that reads the result does itself."""
        last = len(x.shape) - 1
        return self.transpose(x, *range(last - 1), last, last - 1)

    def matmul(self, a: Value | npt.ArrayLike, b: Value | npt.ArrayLike) -> Value:
        """Multiply two Values, or one and numbers, which take its dtype."""
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.constant(a, b.dtype)
        if not isinstance(b, Value):
            b = self.constant(b, a.dtype)
        assert a.shape[-1] == b.shape[-2], (a.shape, b.shape)
        batches = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.node("MatMul", [a, b], (*batches, a.shape[-2], b.shape[-1]))

    def concat(self, inputs: Sequence[Value], axis: int) -> Value:
        """Join the inputs along an axis."""
        if len(inputs) == 1:
            return inputs[0]
        shape = list(inputs[0].shape)
        shape[axis] = sum(value.shape[axis] for value in inputs)
        return self.node("Concat", inputs, tuple(shape), axis=axis)

    def split(self, x: Value, axis: int, *sizes: int) -> list[Value]:
        """Cut x along an axis into parts of these sizes."""
        assert sum(sizes) == x.shape[axis], (x.shape, sizes)
        shape = list(x.shape)
        values = []
        for index, size in enumerate(sizes):
            shape[axis] = size
            values.append(Value(f"t{self._count}_{index}", tuple(shape), x.dtype))
        inputs = [x, self.constant(np.array(sizes))]
        self.append("Split", inputs, [value.name for value in values], {"axis": axis})
        return values

    def kept(self, x: Value, least: float = -np.inf) -> Value:
        """Return `x` as it is passed between operators of the network: in int8 rounded.

        Args:
            least: what is below counts as that.
        """
        if not self.places.active or x.steps is not None:
            return x
        if x.name not in self._rounded:
            place = self.places.of(x.name)
            if self.places.observes:
                if not self.places.is_passed(x.name):
                    self.observe(place, x)
                self._rounded[x.name] = replace(x, steps=FIXED)
            else:
                self._rounded[x.name] = self._rounded_to(x, self.places.steps(place, least))
        return self._rounded[x.name]

    def moved(self, x: Value, before: Value) -> Value:
        """Return `x`, whose numbers are some of those of `before`, rounded as these were."""
        if not self.places.active or before.steps is None:
            return x
        if self.places.observes:
            return replace(x, steps=before.steps)
        return self._rounded_to(x, before.steps)

    def observe(self, place: str, x: Value) -> None:
        """Give the least and the largest number of x beside the results."""
        for kind in ("ReduceMin", "ReduceMax"):
            self.observed.append((place, self.node(kind, [x], (), keepdims=0)))

    def _rounded_to(self, x: Value, steps: Steps) -> Value:
        return self._dequantised(self._quantised(x, steps), steps)

    def _quantised(self, x: Value, steps: Steps) -> Value:
        inputs = [x, self.constant(steps.scale, FLOAT32), self.constant(steps.zero, UINT8)]
        return self.node("QuantizeLinear", inputs, x.shape, UINT8)

    def _dequantised(self, x: Value, steps: Steps) -> Value:
        inputs = [x, self.constant(steps.scale, FLOAT32), self.constant(steps.zero, UINT8)]
        return replace(self.node("DequantizeLinear", inputs, x.shape, FLOAT32), steps=steps)

    def parameters(self, x: Value, values: Array, bias: Array | None) -> list[Value]:
        """Return x, a weight whose first axis are output channels, and a bias, as inputs.

        Where x was rounded, the weight is int8 with one scale for each output channel.
        """
        others = [] if bias is None else [self.constant(bias)]
        if not self.places.active or x.steps is None or self.places.observes:
            return [x, self.constant(values), *others]
        largest = np.abs(values).reshape(len(values), -1).max(1)
        scale = np.maximum(largest, np.finfo(np.float32).tiny * LARGEST_WEIGHT) / LARGEST_WEIGHT
        steps = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1)))
        inputs = [
            self.constant(steps, INT8),
            self.constant(scale, FLOAT32),
            self.constant(np.zeros(len(values)), INT8),
        ]
        return [
            x,
            self.node("DequantizeLinear", inputs, values.shape, FLOAT32, axis=0),
            *others,
        ]

    def conv(
        self,
        x: Value,
        kernel: Array,
        bias: Array | None,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
    ) -> Value:
        """Convolve with zero padding k // 2 and apply an activation."""
        batch, _, height, width = x.shape
        size = kernel.shape[-1]
        y = self.node(
            "Conv",
            self.parameters(self.kept(x), kernel, bias),
            (batch, len(kernel), -(-height // stride), -(-width // stride)),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
            group=groups,
        )
        return self.activate(self.kept(y, LEAST_BEFORE.get(activation, -np.inf)), activation)

    def activate(self, x: Value, activation: Activation) -> Value:
        """Apply an activation; `none` changes nothing."""
        if activation == "hswish" and x.steps is not None and not self.places.observes:
            return self._integer_hardswish(x)
        if activation == "hswish":
            return self.kept(self.unary("HardSwish", x))
        if activation == "gelu_tanh":
            return self.kept(self.unary("Gelu", x, approximate="tanh"))
        return x

    def _integer_hardswish(self, x: Value) -> Value:
        """Multiply x by (x + 3, within 0 and 6) / 6, where quantising does the clipping.

        And reading the result at a sixth of its scale does the division. There is no integer
        HardSwish; one in float between two conversions makes B1 take 1.4 times as long.
        """
        six, one = Steps(6 / 255, 0), Steps(1 / 255, 0)
        three = self._dequantised(self.constant(255, UINT8), Steps(3 / 255, 0))
        y = self._quantised(self.binary("Add", x, three), six)
        return self.kept(self.binary("Mul", x, self._dequantised(y, one)))
