"""Hyena in ONNX: its filter is constant here, so that only the form of the convolution is open.

B batch, C channels, H height, W width, K = W frequencies of a real transform of 2W - 1 points.
"""

import numpy as np
import numpy.typing as npt

from lut.builders.mixer_constants import LARGEST_GATED, hyena_taps
from lut.builders.onnx_ops import FLOAT32, OnnxOps, Value
from lut.builders.weights import Array, Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

MOST_DIRECT_TOKENS = 100


def hyena(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    """Append `supernet.layers.hyena.Hyena`.

    Projection and 3x3 are written once for each of x0, x1 and v. One convolution for all three
    and a Split took 5 to 15 % more of the block's time in ONNX Runtime (one thread, 7x7 to
    28x28, C = 64 to 512).

    The convolution, in microseconds there:

                               7x7, C 512   14x14, C 256   28x28, C 128
        depthwise, by 2H - 1          129            913           7790
        transform by matrices         369            546           1876
        Toeplitz matrix each          235           1768          22992

    The first two meet between 10x10 and 12x12. The Toeplitz matrices would also need 40 MB in
    a block at 14x14; the operator DFT is unknown to TensorRT.
    """
    channels = block.in_channels
    kernel, _ = parameters.conv(Convolution("qkv", channels, 3 * channels))
    short, _ = parameters.conv(
        Convolution("short", 3 * channels, 3 * channels, 3, groups=3 * channels)
    )
    x0, x1, v = (
        ops.cast(ops.conv(ops.conv(x, k, None), s, None, groups=channels), FLOAT32)
        for k, s in zip(_by_part(kernel), _by_part(short), strict=True)
    )
    taps = hyena_taps(parameters, block.height, block.width, channels)
    taps[:, 0, 0] += parameters.tensor("filter.skip", (channels,))
    direct = block.height * block.width <= MOST_DIRECT_TOKENS
    convolve = depthwise_convolution if direct else transformed_convolution
    y = ops.binary("Mul", x0, convolve(ops, ops.binary("Mul", x1, v), taps))
    y = ops.kept(ops.cast(ops.clip(y, LARGEST_GATED), ops.dtype))
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def _by_part(kernel: Array) -> list[Array]:
    """Return each part of channels that are ordered by channel, then part."""
    return [np.ascontiguousarray(kernel[part::3]) for part in range(3)]


def depthwise_convolution(ops: OnnxOps, x: Value, taps: Array) -> Value:
    """Convolve (B, C, H, W) with (C, 2H, 2W) taps in circular order."""
    channels, height, width = x.shape[1:]
    flipped = _ascending(taps)[:, None, ::-1, ::-1]  # ONNX correlates
    return ops.node(
        "Conv",
        [x, ops.constant(flipped, x.dtype)],
        x.shape,
        kernel_shape=flipped.shape[2:],
        pads=[height - 1, width - 1] * 2,
        group=channels,
    )


def transformed_convolution(ops: OnnxOps, x: Value, taps: Array) -> Value:
    """Convolve by Fourier transforms, each a product with a constant matrix.

    On (2H - 1) x (2W - 1) points, where nothing that wraps round reaches the image. Of complex
    numbers, real and imaginary parts are rows or columns of their own.
    """
    batch, channels, height, width = x.shape
    rows, columns = 2 * height - 1, 2 * width - 1
    circular = np.roll(_ascending(taps), (1 - height, 1 - width), (1, 2))
    spectrum = np.fft.rfft2(circular.astype(np.float64))  # (C, 2H - 1, K)
    along_x = _turns(width, width, columns)
    y = ops.matmul(x, np.concatenate((along_x.real, along_x.imag), axis=1))
    y = ops.reshape(y, batch, channels, 2 * height, width)  # rows by y, then part
    along_y = _real(_turns(rows, height, rows)).transpose(1, 0, 2, 3)  # out: by part, frequency
    y = ops.matmul(along_y.reshape(2 * rows, 2 * height), y)
    real, imag = ops.split(y, 2, rows, rows)
    by_real, by_imag = (ops.constant(s, x.dtype) for s in (spectrum.real, spectrum.imag))
    product = [
        ops.binary("Sub", ops.binary("Mul", real, by_real), ops.binary("Mul", imag, by_imag)),
        ops.binary("Add", ops.binary("Mul", real, by_imag), ops.binary("Mul", imag, by_real)),
    ]
    back_y = _real(_turns(height, rows, rows).conj() / rows).transpose(0, 1, 3, 2)
    y = ops.matmul(back_y.reshape(2 * height, 2 * rows), ops.concat(product, 2))
    y = ops.reshape(y, batch, channels, height, 2 * width)
    twice = np.where(np.arange(width) > 0, 2, 1)[:, None]  # for the negative frequencies
    back_x = _turns(width, width, columns).conj() * twice / columns
    return ops.matmul(y, np.concatenate((back_x.real, -back_x.imag), axis=0))


def _ascending(taps: Array) -> Array:
    """Turn (C, 2H, 2W) in circular order into (C, 2H - 1, 2W - 1), offset 0 in the middle."""
    height, width = (side // 2 for side in taps.shape[1:])
    return np.roll(taps, (height, width), (1, 2))[:, 1:, 1:]


def _turns(size: int, other: int, period: int) -> npt.NDArray[np.complex128]:
    """Return the matrix of a Fourier transform of `period` points, or part of it, (size, other)."""
    turns = np.outer(np.arange(size), np.arange(other)) % period / period
    matrix: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * turns)
    return matrix


def _real(matrix: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Return (I, 2, J, 2) for a complex (I, J): the same on real and imaginary parts."""
    real, imag = matrix.real, matrix.imag
    return np.stack((np.stack((real, -imag), -1), np.stack((imag, real), -1)), axis=1)
