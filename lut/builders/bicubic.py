"""Bicubic resizing as one matrix for each axis, where a runtime has no fast kernel for it."""

import numpy as np

from lut.builders.weights import Array

CUBIC = -0.75  # PyTorch's coefficient


def bicubic_matrix(size: int, out_size: int) -> Array:
    """Return what F.interpolate(mode="bicubic") does to an axis, as a matrix (out_size, size).

    Corners are not aligned. Of an output's four taps those outside count for the border's pixel.

    Source: Keys, Cubic convolution interpolation for digital image processing, 1981
    """
    at = (np.arange(out_size) + 0.5) * size / out_size - 0.5
    first = np.floor(at).astype(np.int64) - 1
    matrix = np.zeros((out_size, size))
    for tap in range(first[0], first[0] + 4):
        pixel = first + tap - first[0]
        np.add.at(matrix, (np.arange(out_size), pixel.clip(0, size - 1)), _cubic(at - pixel))
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Array:
    x = np.abs(distance)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
