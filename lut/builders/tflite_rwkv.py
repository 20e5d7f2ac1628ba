"""RWKV's spatial mix in TFLite, in time linear in the number of tokens and without a scan.

B batch, C channels, H height, W width, T = H * W tokens in rows.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lut.builders.mixer_constants import LARGEST_EXPONENT
from lut.builders.tflite_ops import LEAST, ConvolutionForm, TfliteOps
from lut.builders.weights import Array, Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

LARGEST_WEIGHTS = 2.0**11  # of all tokens together; leaves float16 a factor of 32 for v
NEIGHBOURS = ((1, 0), (1, 2), (0, 1), (2, 1))  # left, right, above, below in a 3 x 3 kernel

Float64 = npt.NDArray[np.float64]


def rwkv(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    """Append sigmoid(r) * bi_wkv(k, v), see `supernet.layers.rwkv`.

    A mixture of a token and its neighbour is one depthwise 3 x 3 convolution: shifting once
    and mixing three times took as long, within 6 % either way. What a token sees of its own row
    is a product with a W x W triangle of ones, what it sees of other rows a depthwise
    convolution over the rows' sums; triangles of T x T took 1.04, 1.2 and 2.7 to 3.4 times as
    long at 7x7, 14x14 and 28x28, CUMSUM, which XNNPACK does not take, 1.1 to 1.5 times; a
    depthwise convolution within rows as much at 7x7, 3.4 times at 28x28. Numerator and
    denominator apart save 5 to 10 % against both in one tensor.
    """
    channels = block.in_channels
    mix = parameters.tensor("mix", (3, channels))
    depthwise = ConvolutionForm(groups=channels)
    r, k, v = (
        ops.conv(
            ops.conv(x, _mixture(mix[part]), form=depthwise),
            parameters.tensor(f"{name}.conv.weight", (channels, channels, 1, 1)),
        )
        for part, name in enumerate(("receptance", "key", "value"))
    )
    weight = ops.unary("EXP", ops.binary("SUB", k, ops.reduce("REDUCE_MAX", k, 1, 2)))
    seen = _Seen(ops, block, parameters)
    above, below = seen(ops.binary("MUL", weight, v)), seen(weight)
    if ops.half:  # where all that a token sees has vanished, so has `above`
        below = ops.binary("MAXIMUM", below, LEAST)
    y = ops.binary("MUL", ops.unary("LOGISTIC", r), ops.binary("DIV", above, below))
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def _mixture(mix: Array) -> Array:
    """Return a kernel (C, 1, 3, 3): the token itself times `mix`, and the rest of its neighbour."""
    kernel = np.zeros((len(mix), 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1] = mix
    for quarter, (y, x) in enumerate(NEIGHBOURS):
        kernel[quarter::4, 0, y, x] = 1 - mix[quarter::4]
    return kernel


class _Seen:
    """The sum over all tokens i of terms_i times what token t sees of i, (B, H, W, C).

    That is exp(-decay (|t - i| - 1) / T), and exp(bonus) at i = t. The exponent is a sum of
    one part of t and one of i, before and after t; within a row it stays below decay / H.
    """

    def __init__(self, ops: TfliteOps, block: Block, parameters: Parameters) -> None:
        channels, height, width = block.in_channels, block.height, block.width
        self._ops, self._channels, tokens = ops, channels, height * width
        decay, bonus = (
            parameters.tensor(name, (channels,))
            .astype(np.float64)
            .clip(-LARGEST_EXPONENT, LARGEST_EXPONENT)
            for name in ("decay", "bonus")
        )
        x = (np.arange(width)[:, None] - (width - 1) / 2) / tokens  # (W, 1)
        scale = _scale_for_half(decay, bonus, tokens) if ops.half else np.ones(channels)
        grow, fade = np.exp(decay * x), np.exp(-decay * x)
        nearest = np.exp(decay / tokens)
        rows = np.arange(1 - height, height)[:, None]
        by_row = np.exp(-decay * np.abs(rows) * width / tokens) * scale  # (2 H - 1, C)
        triangle = np.tri(width, k=-1)
        self._sides = [
            _Side(
                ops.weights(inner),
                ops.weights(own_row),
                _depthwise(other_rows),
                ops.weights(outer * nearest),
                ops.weights(outer * nearest * scale) if (scale < 1).any() else None,
            )
            for inner, own_row, other_rows, outer in (
                (grow, triangle, by_row * (rows < 0), fade),  # before t
                (fade, triangle.T, by_row * (rows > 0), grow),  # after t
            )
        ]
        self._itself = ops.weights(np.exp(bonus) * scale)

    def __call__(self, terms: int) -> int:
        ops = self._ops
        total = ops.binary("MUL", terms, self._itself)
        for side in self._sides:
            total = ops.binary("ADD", total, self._from_side(terms, side))
        return total

    def _from_side(self, terms: int, side: "_Side") -> int:
        ops = self._ops
        terms = ops.binary("MUL", terms, side.inner)
        own_row = ops.matmul(side.own_row, terms)
        sums = ops.reduce("SUM", terms, 2)  # (B, H, 1, C)
        form = ConvolutionForm(groups=self._channels, in_float=True)
        other_rows = ops.conv(sums, side.other_rows, form=form)
        if side.scaled is None:
            return ops.binary("MUL", ops.binary("ADD", own_row, other_rows), side.outer)
        own_row = ops.binary("MUL", own_row, side.scaled)
        return ops.binary("ADD", own_row, ops.binary("MUL", other_rows, side.outer))


class _Side(NamedTuple):
    """Constants for the tokens before t, or those after it; tensors but for `other_rows`."""

    inner: int  # (W, C): the part of i
    own_row: int  # (W, W): which of a row take part
    other_rows: Array  # (C, 1, 2 H - 1, 1): how much of each row's sum, times the scale
    outer: int  # (W, C): the part of t
    scaled: int | None  # `outer` times the scale, where that is not 1


def _depthwise(by_row: Float64) -> Array:
    """Return a depthwise kernel, (2 H - 1, C) -> (C, 1, 2 H - 1, 1)."""
    return np.ascontiguousarray(by_row.T[:, None, :, None], dtype=np.float32)


def _scale_for_half(decay: Float64, bonus: Float64, tokens: int) -> Float64:
    """Return what keeps the sums of all weights, which cancels, in the range of float16: (C,)."""
    largest = np.exp(np.maximum(np.maximum(-decay, bonus), 0))
    return np.minimum(1, LARGEST_WEIGHTS / (tokens * largest))
