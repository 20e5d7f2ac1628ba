"""Hyena's long convolution in TFLite: a constant times a linear transform, by matrices alone.

C channels, H height, W width; a circle of M = 2 H - 1 positions holds a filter along an axis,
and R = 3 H - 2 real numbers its transform.
"""

from functools import lru_cache

import numpy as np

from lut.builders.mixer_constants import LARGEST_GATED, hyena_taps
from lut.builders.tflite_ops import ConvolutionForm, TfliteOps
from lut.builders.weights import Array, Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution


def hyena(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    """Append x0 * (filter conv (x1 * v)), with convolutions of their own for x0, x1 and v.

    The filter is a transform along both axes, which leaves the channels where they are, a
    product with a constant, and back. A depthwise convolution of 2 H - 1 x 2 W - 1 taps took 3
    to 50 times as long, products with T x T Toeplitz matrices 1.1 to 2.7 times (and hold T^2 C
    numbers), the transform along x alone with a depthwise convolution along y 0.9 to 4 times.
    One convolution for x0, x1 and v, then slices, took up to 6 % longer; transforms along x
    first on the way there and last on the way back up to 13 %.
    """
    channels, height, width = block.in_channels, block.height, block.width
    qkv = parameters.tensor("qkv.conv.weight", (3 * channels, channels, 1, 1))
    short = parameters.tensor("short.conv.weight", (3 * channels, 1, 3, 3))
    depthwise = ConvolutionForm(groups=channels)
    x0, x1, v = (
        ops.conv(ops.conv(x, qkv[part::3]), short[part::3], form=depthwise) for part in range(3)
    )
    taps = hyena_taps(parameters, height, width, channels)
    taps[:, 0, 0] += parameters.tensor("filter.skip", (channels,))
    y = _long_convolution(ops, ops.binary("MUL", x1, v), taps)
    y = clamp(ops, ops.binary("MUL", x0, y))
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def clamp(ops: TfliteOps, x: int) -> int:
    """Limit x to +-LARGEST_GATED, as `supernet.layers.precision.gated` does."""
    x = ops.binary("MINIMUM", x, LARGEST_GATED)
    return ops.binary("MAXIMUM", x, -LARGEST_GATED)


def _long_convolution(ops: TfliteOps, x: int, taps: Array) -> int:
    """Convolve (B, H, W, C) with taps (C, 2H, 2W) in circular order."""
    batch, height, width, channels = ops.shape(x)
    (into_y, out_y), (into_x, out_x) = (_transform(size) for size in (height, width))
    circular = np.delete(np.delete(taps, height, 1), width, 2)  # no offset reaches -H or -W
    spectrum = into_y @ circular.transpose(1, 2, 0).reshape(len(into_y[0]), -1)
    spectrum = into_x @ spectrum.reshape(len(into_y), -1, channels)
    x = ops.reshape(x, batch, height, width * channels)
    x = ops.matmul(ops.weights(_unitary(into_y[:, :height])), x)
    x = ops.reshape(x, batch, -1, width, channels)
    x = ops.matmul(ops.weights(_unitary(into_x[:, :width])), x)
    x = ops.binary("MUL", x, ops.weights(spectrum))
    x = ops.matmul(ops.weights(out_x), x)
    x = ops.reshape(x, batch, -1, width * channels)
    x = ops.matmul(ops.weights(out_y), x)
    return ops.reshape(x, batch, height, width, channels)


def _unitary(into: Array) -> Array:
    """Scale so that sums neither grow nor shrink with the size, for float16; `out` has the rest."""
    size = (len(into) + 2) // 3
    return into * np.float32((2 * size - 1) ** -0.5)


@lru_cache(maxsize=64)
def _transform(size: int) -> tuple[Array, Array]:
    """Return F (R, M) and G (size, R): the circular convolution of a and b is G (F a * F b).

    Every frequency's complex product as three real ones (Karatsuba): with a = p + iq and
    b = s + it, ps, qt and (p + q)(s + t) give ps - qt and the last less both. G makes only
    the first `size` of M positions, and is larger by sqrt(M), see `_unitary`.
    """
    circle = 2 * size - 1
    angle = 2 * np.pi / circle * np.outer(np.arange(1, size), np.arange(circle))
    real, imaginary = np.cos(angle), -np.sin(angle)
    into = np.concatenate((np.ones((1, circle)), real, imaginary, real + imaginary))
    products = (real - imaginary, -real - imaginary, imaginary)
    out = np.concatenate((np.ones((1, circle)), *(2 * product for product in products)))
    out = out[:, :size].T * circle**-0.5
    return into.astype(np.float32), np.ascontiguousarray(out, dtype=np.float32)
