"""Where a builder's weights come from: a trained network's, or random ones for timing.

Names are those of the PyTorch model's state dict, so that either source serves every block.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from results.errors import WeightsError
from supernet.convolutions import Convolution

Array = npt.NDArray[np.float32]
PERIOD = 1009  # prime; 4 kB of fp32, within the window of gzip


class Weights(Protocol):
    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return fp32 of exactly this shape. Raises WeightsError where there is none."""
        ...

    def has_norm(self, name: str) -> bool:
        """Tell whether a batch normalisation has statistics of its own, to be folded."""
        ...


class StateWeights:
    """The weights of a PyTorch model: its state dict as NumPy arrays."""

    def __init__(self, state: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self._state = state

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the tensor of that name. Raises WeightsError where there is none such."""
        if name not in self._state:
            raise WeightsError(f"no tensor {name!r}; the weights are of another network")
        tensor = self._state[name]
        if tensor.size != np.prod(shape, dtype=int):
            raise WeightsError(f"{name} has shape {tensor.shape}, not {shape}")
        return np.ascontiguousarray(tensor, dtype=np.float32).reshape(shape)

    def has_norm(self, name: str) -> bool:
        """Return True: statistics of a trained network count."""
        return True


class RandomWeights:
    """The same numbers for the same name, at scales that keep activations near one.

    They repeat every PERIOD elements: a folder of models then compresses a hundredfold on its
    way to a device, and no runtime's time depends on the values as long as none is denormal.
    """

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return numbers that depend on the name and the shape alone."""
        size = int(np.prod(shape, dtype=int))
        start = zlib.crc32(name.encode()) % PERIOD
        values = _pattern(-(-size // PERIOD) + 1)[start : start + size].reshape(shape)
        if len(shape) < 2:
            return values * np.float32(0.1)
        return values * np.float32(np.prod(shape[1:], dtype=float) ** -0.5)

    def has_norm(self, name: str) -> bool:
        """Return False: statistics that change nothing are not worth folding thousands of times."""
        return False


@lru_cache(maxsize=1)
def _one_period() -> Array:
    values = np.random.default_rng(0).standard_normal(PERIOD).astype(np.float32)
    return np.where(np.abs(values) < 0.01, np.float32(0.01), values)


@lru_cache(maxsize=64)
def _pattern(periods: int) -> Array:
    return np.tile(_one_period(), periods)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one module: `weights` below a prefix such as `stage1.0.mbconv.`."""

    weights: Weights
    prefix: str
    eps: float  # of its normalisations

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the tensor `name` below the prefix. Raises WeightsError."""
        return self.weights.tensor(self.prefix + name, shape)

    def conv(self, conv: Convolution) -> tuple[Array, Array | None]:
        """Return the kernel (O, I / groups, k, k) and the bias (O,) or None of a `ConvNormAct`.

        Batch normalisation is folded in, in float64. With both, which no block has: ValueError.
        """
        name = f"{conv.name}." if conv.name else ""
        if conv.bias and conv.norm:
            raise ValueError(f"{conv.name}: a convolution has a bias or a normalisation")
        out_channels, size = conv.out_channels, conv.kernel_size
        shape = (out_channels, conv.in_channels // conv.groups, size, size)
        kernel = self.tensor(f"{name}conv.weight", shape)
        if conv.bias:
            return kernel, self.tensor(f"{name}conv.bias", (out_channels,))
        if not conv.norm:
            return kernel, None
        if not self.weights.has_norm(self.prefix + name):
            return kernel, self.tensor(f"{name}norm.bias", (out_channels,))
        weight, shift, mean, variance = (
            self.tensor(f"{name}norm.{part}", (out_channels,)).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = weight / np.sqrt(variance + self.eps)
        folded = kernel * factor[:, None, None, None]
        return folded.astype(np.float32), (shift - mean * factor).astype(np.float32)
