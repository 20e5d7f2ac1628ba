"""What a graph of tokens is written with, whatever the runtime's format.

Tensors keep their channels last: (1, N, C) tokens, (1, T, C) cells of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy.typing as npt

from lut.builders.weights import Array

Tensor = Any  # a graph's own handle
Kind = Literal["relu", "gelu", "sin", "cos", "abs", "softmax"]


class TokenGraph(Protocol):
    """A file under construction; every method appends and gives the new tensor."""

    def input(self, name: str, *shape: int) -> Tensor:
        """Declare an input, float32."""
        ...

    def cells(self, name: str, channels: int, height: int, width: int) -> Tensor:
        """Declare an input map, float32, and give it as (1, H W, C) of the file's precision."""
        ...

    def rounded(self, x: Tensor) -> Tensor:
        """Give a float32 tensor in the file's precision."""
        ...

    def exact(self, values: npt.ArrayLike) -> Tensor:
        """Store numbers in float32, whatever the precision."""
        ...

    def constant(self, values: Array) -> Tensor:
        """Store numbers in the file's precision."""
        ...

    def apply(self, kind: Kind, x: Tensor) -> Tensor:
        """Apply a function to each element; softmax over the last axis, in float32."""
        ...

    def combine(self, kind: Literal["add", "sub", "mul"], a: Tensor, b: Tensor) -> Tensor:
        """Add, subtract or multiply, with NumPy's broadcasting."""
        ...

    def matmul(self, a: Tensor, b: Tensor, *, transposed: bool = False) -> Tensor:
        """Multiply along the last two axes, of b as if `transposed`."""
        ...

    def linear(self, x: Tensor, weight: Array, bias: Array) -> Tensor:
        """Multiply (..., I) with a weight (O, I) and add a bias, (..., O)."""
        ...

    def norm(self, x: Tensor, weight: Array, bias: Array, eps: float) -> Tensor:
        """Normalise over the last axis."""
        ...

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """Give x a shape of as many elements."""
        ...

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        """Order the axes anew."""
        ...

    def slice(self, x: Tensor, axis: int, start: int, size: int) -> Tensor:
        """Cut out some indices of an axis."""
        ...

    def concat(self, inputs: Sequence[Tensor], axis: int) -> Tensor:
        """Join along an axis."""
        ...

    def maps(self, filters: Tensor, cells: Tensor, side: int) -> Tensor:
        """Multiply (1, side^2, C) with (1, M, C), as maps in the layout of the runtime."""
        ...

    def finish(
        self, outputs: Mapping[str, Tensor], text: str, metadata: Mapping[str, str]
    ) -> bytes:
        """Declare the outputs, float32, and return the file's bytes."""
        ...
