"""A `lut.builders.tokens.TokenGraph` as an ONNX file."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from lut.builders.onnx_ops import FLOAT32, TYPES, OnnxOps, Value
from lut.builders.tokens import Kind
from lut.builders.weights import Array

UNARY = {"relu": "Relu", "gelu": "Gelu", "sin": "Sin", "cos": "Cos", "abs": "Abs"}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul"}


class OnnxTokens:
    """A file under construction, of one picture; its tensors are Values."""

    def __init__(self, precision: str) -> None:
        """Begin a file. Raises as `OnnxOps`."""
        self._ops = OnnxOps(precision, 1)

    def input(self, name: str, *shape: int) -> Value:
        """Declare an input, float32."""
        value = Value(name, shape, FLOAT32)
        self._ops.graph.input.append(_described(name, value))
        return value

    def cells(self, name: str, channels: int, height: int, width: int) -> Value:
        """Declare an input map (1, C, H, W), float32, and give it as (1, H W, C)."""
        x = self.rounded(self.input(name, 1, channels, height, width))
        x = self._ops.reshape(x, 1, channels, height * width)
        return self._ops.transposed(x)

    def rounded(self, x: Value) -> Value:
        """Give a float32 tensor in the file's precision."""
        return self._ops.cast(x, self._ops.dtype)

    def exact(self, values: npt.ArrayLike) -> Value:
        """Store numbers in float32."""
        return self._ops.constant(values, FLOAT32)

    def constant(self, values: Array) -> Value:
        """Store numbers in the file's precision."""
        return self._ops.constant(values)

    def apply(self, kind: Kind, x: Value) -> Value:
        """Apply a function to each element; softmax over the last axis, in float32."""
        if kind == "softmax":
            y = self._ops.unary("Softmax", self._ops.cast(x, FLOAT32), axis=-1)
            return self._ops.cast(y, x.dtype)
        return self._ops.unary(UNARY[kind], x)

    def combine(self, kind: Literal["add", "sub", "mul"], a: Value, b: Value) -> Value:
        """Add, subtract or multiply, with NumPy's broadcasting."""
        return self._ops.binary(BINARY[kind], a, b)

    def matmul(self, a: Value, b: Value, *, transposed: bool = False) -> Value:
        """Multiply along the last two axes, of b as if `transposed`."""
        return self._ops.matmul(a, self._ops.transposed(b) if transposed else b)

    def linear(self, x: Value, weight: Array, bias: Array) -> Value:
        """Multiply (..., I) with a weight (O, I) and add a bias, (..., O)."""
        y = self._ops.matmul(x, np.ascontiguousarray(weight.T))
        return self._ops.binary("Add", y, bias)

    def norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """Normalise over the last axis."""
        inputs = [x, self._ops.constant(weight), self._ops.constant(bias)]
        return self._ops.node("LayerNormalization", inputs, x.shape, axis=-1, epsilon=eps)

    def reshape(self, x: Value, *shape: int) -> Value:
        """Give x a shape of as many elements; one of the sizes may be -1."""
        rest = prod(x.shape) // -prod(shape) if -1 in shape else 0
        return self._ops.reshape(x, *(rest if size == -1 else size for size in shape))

    def transpose(self, x: Value, *axes: int) -> Value:
        """Order the axes anew."""
        return self._ops.transpose(x, *axes)

    def slice(self, x: Value, axis: int, start: int, size: int) -> Value:
        """Cut out some indices of an axis."""
        parts = {0: start, 1: size, 2: x.shape[axis] - start - size}
        kept = [part for part, length in parts.items() if length]
        cut = self._ops.split(x, axis, *(parts[part] for part in kept))
        return cut[kept.index(1)]

    def concat(self, inputs: Sequence[Value], axis: int) -> Value:
        """Join along an axis."""
        return self._ops.concat(inputs, axis)

    def maps(self, filters: Value, cells: Value, side: int) -> Value:
        """Multiply (1, side^2, C) with (1, M, C), as (1, M, side, side)."""
        found = self._ops.matmul(filters, self._ops.transposed(cells))
        return self._ops.reshape(found, *filters.shape[:2], side, side)

    def finish(self, outputs: Mapping[str, Value], text: str, metadata: Mapping[str, str]) -> bytes:
        """Declare the outputs, float32, and return the file's bytes."""
        ops = self._ops
        for name, value in outputs.items():
            value = ops.cast(value, FLOAT32)
            ops.append("Identity", [value], [name], {})
            ops.graph.output.append(_described(name, value))
        ops.model.doc_string = text
        helper.set_model_props(ops.model, dict(metadata))
        file: bytes = ops.model.SerializeToString()
        return file


def _described(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[value.dtype], value.shape)
