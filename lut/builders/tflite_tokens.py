"""A `lut.builders.tokens.TokenGraph` as a TFLite model."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from lut.builders.tflite_graph import HALF_ALLOWED
from lut.builders.tflite_ops import TfliteOps
from lut.builders.tokens import Kind
from lut.builders.weights import Array

UNARY = {
    "relu": ("RELU", ""),
    "gelu": ("GELU", "Gelu"),
    "sin": ("SIN", ""),
    "cos": ("COS", ""),
    "abs": ("ABS", "Abs"),
}
BINARY = {"add": "ADD", "sub": "SUB", "mul": "MUL"}


class TfliteTokens:
    """A model under construction, of one picture; its tensors are numbers."""

    def __init__(self, precision: str) -> None:
        """Begin a file. Raises as `TfliteOps`."""
        self._ops = TfliteOps(precision)
        self._inputs: list[int] = []

    def input(self, name: str, *shape: int) -> int:
        """Declare an input, float32."""
        x = self._ops.tensor(shape)
        self._ops.rename(x, name)
        self._inputs.append(x)
        return x

    def cells(self, name: str, channels: int, height: int, width: int) -> int:
        """Declare an input map (1, H, W, C), float32, and give it as (1, H W, C)."""
        x = self.input(name, 1, height, width, channels)
        return self._ops.reshape(x, 1, height * width, channels)

    def rounded(self, x: int) -> int:
        """Give x as it is: a delegate chooses what it computes in."""
        return x

    def exact(self, values: npt.ArrayLike) -> int:
        """Store numbers in float32."""
        return self._ops.constant(np.asarray(values, np.float32))

    def constant(self, values: Array) -> int:
        """Store numbers in the file's precision."""
        return self._ops.weights(values)

    def apply(self, kind: Kind, x: int) -> int:
        """Apply a function to each element; softmax over the last axis."""
        if kind == "softmax":
            return self._ops.unary("SOFTMAX", x, "Softmax", beta=1.0)
        return self._ops.unary(UNARY[kind][0], x, UNARY[kind][1])

    def combine(self, kind: Literal["add", "sub", "mul"], a: int, b: int) -> int:
        """Add, subtract or multiply, with NumPy's broadcasting."""
        return self._ops.binary(BINARY[kind], a, b)

    def matmul(self, a: int, b: int, *, transposed: bool = False) -> int:
        """Multiply along the last two axes, of b as if `transposed`."""
        return self._ops.matmul(a, b, adj_b=transposed)

    def linear(self, x: int, weight: Array, bias: Array) -> int:
        """Multiply (..., I) with a weight (O, I) and add a bias, (..., O)."""
        return self._ops.linear(x, weight, bias)

    def norm(self, x: int, weight: Array, bias: Array, eps: float) -> int:
        """Normalise over the last axis."""
        ops = self._ops
        y = ops.binary("MUL", ops.normalize(x, eps), ops.weights(weight))
        return ops.binary("ADD", y, ops.weights(bias))

    def reshape(self, x: int, *shape: int) -> int:
        """Give x a shape of as many elements; one of the sizes may be -1."""
        return self._ops.reshape(x, *shape)

    def transpose(self, x: int, *axes: int) -> int:
        """Order the axes anew."""
        return self._ops.transpose(x, *axes)

    def slice(self, x: int, axis: int, start: int, size: int) -> int:
        """Cut out some indices of an axis."""
        return self._ops.slice(x, axis, start, size)

    def concat(self, inputs: Sequence[int], axis: int) -> int:
        """Join along an axis."""
        return self._ops.concat(inputs, axis)

    def maps(self, filters: int, cells: int, side: int) -> int:
        """Multiply (1, side^2, C) with (1, M, C), as (1, side, side, M)."""
        found = self._ops.matmul(cells, filters, adj_b=True)
        return self._ops.reshape(found, 1, side, side, -1)

    def finish(self, outputs: Mapping[str, int], text: str, metadata: Mapping[str, str]) -> bytes:
        """Declare the outputs, float32, and return the file's bytes."""
        for name, tensor in outputs.items():
            self._ops.rename(tensor, name)
        texts = {name: value.encode() for name, value in metadata.items() if value}
        texts |= HALF_ALLOWED if self._ops.half else {}
        return self._ops.pack(self._inputs, list(outputs.values()), texts, text)
