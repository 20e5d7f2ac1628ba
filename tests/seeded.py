"""Weights and pictures that anyone can make again, for comparing networks across programs.

Every tensor is drawn by itself, from NumPy's PCG64 seeded with the CRC-32 of its official name,
so neither the order of layers nor PyTorch's generator matters. Scales keep activations near
one through any depth.
"""

import math
import zlib
from collections.abc import Iterable

import numpy as np
import torch


def seeded_tensor(name, shape):
    """float64. u is uniform in -1..1 and n the elements of one output channel.

    Weights u sqrt(3 / n); weights of normalisations 1 + u / 4, variances 1 + u / 2; biases and
    means u / 20; counters 1.
    """
    if name.endswith("num_batches_tracked"):
        return torch.ones(tuple(shape), dtype=torch.int64)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    u = torch.from_numpy(2 * rng.random(tuple(shape)) - 1)
    if name.endswith("running_var"):
        return 1 + u / 2
    if u.dim() > 1:
        return u * math.sqrt(3 / u[0].numel())
    return 1 + u / 4 if name.endswith("weight") else u / 20


def seeded_state(shapes: Iterable[tuple[str, tuple[int, ...]]]):
    return {name: seeded_tensor(name, shape) for name, shape in shapes}


def seeded_picture(height, width):
    """(1, 3, height, width), float64, uniform in -2..2."""
    rng = np.random.default_rng(height * 10_000 + width)
    return torch.from_numpy(4 * rng.random((1, 3, height, width)) - 2)


def digest(output):
    """What a golden file keeps of an output: its shape, some of its values, and two sums."""
    flat = output.detach().double().flatten()
    return {
        "shape": list(output.shape),
        "values": flat[:: max(1, len(flat) // 16)].tolist(),
        "absolute_mean": flat.abs().mean().item(),
        "square_mean": flat.square().mean().item(),
    }
