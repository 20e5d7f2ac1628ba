"""What token mixers compute from their parameters alone, and a file therefore holds as numbers.

The counterparts of what `hyena`, `retention` and `rwkv` of `supernet.layers` compute at every call;
those modules say where the formulas come from. All in float64, rounded at the end.
C channels, H height, W width, N heads, T = H * W tokens.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lut.builders.weights import Array, Parameters
from supernet.cost import HYENA_FEATURES, HYENA_HIDDEN

Float64 = npt.NDArray[np.float64]
SINE_FREQUENCY = 10.0
SLOWEST, FASTEST = math.log(100) / 1.5, math.log(100) / 0.3
LARGEST_GATED = 2.0**12
LARGEST_EXPONENT = 40.0


def hyena_taps(parameters: Parameters, height: int, width: int, channels: int) -> Array:
    """Return `ImplicitFilter`'s result, (C, 2H, 2W), float32: offset (dy, dx) is at [dy, dx].

    Negative offsets count from the end, the order of a circular filter; the taps at dy = -H and
    at dx = -W are 0. `filter.skip` is not among them.
    """
    longer = max(height, width)
    dy, dx = _offsets(height), _offsets(width)
    y, x = dy / longer, dx / longer
    z = _position_features(y, x)
    for name, inputs in (("hidden1", HYENA_FEATURES), ("hidden2", HYENA_HIDDEN)):
        weight = parameters.tensor(f"filter.{name}.weight", (HYENA_HIDDEN, inputs))
        bias = parameters.tensor(f"filter.{name}.bias", (HYENA_HIDDEN,))
        z = np.sin(SINE_FREQUENCY * (z @ weight.T.astype(np.float64) + bias))
    out = parameters.tensor("filter.out.weight", (channels, HYENA_HIDDEN)).astype(np.float64)
    taps: Float64 = (out @ z.T).reshape(channels, 2 * height, 2 * width)
    rates = SLOWEST + (FASTEST - SLOWEST) * (np.arange(channels) * 89 % 144)[:, None] / 144
    taps *= (np.exp(-rates * np.abs(y)) * (dy > -height))[:, :, None]
    taps *= (np.exp(-rates * np.abs(x)) * (dx > -width))[:, None, :]
    norm = np.abs(taps).sum((1, 2), keepdims=True)
    taps /= np.maximum(norm, np.finfo(np.float32).tiny)
    return taps.astype(np.float32)


def _offsets(size: int) -> npt.NDArray[np.int64]:
    """Return 0, 1, ..., size - 1, -size, ..., -1, (2 size,)."""
    return np.concatenate((np.arange(size), np.arange(-size, 0)))


def _position_features(y: Float64, x: Float64) -> Float64:
    """Return the features of y, then those of x: (2H,) and (2W,) -> (4 T, HYENA_FEATURES)."""
    columns = []
    for position, shape in ((y, (len(y), 1)), (x, (1, len(x)))):
        turns = [math.pi * band * position for band in (1, 2)]
        features = [position, *(f(t) for t in turns for f in (np.sin, np.cos))]
        columns += [np.broadcast_to(f.reshape(shape), (len(y), len(x))) for f in features]
    return np.stack(columns, axis=-1).reshape(-1, HYENA_FEATURES)


def retention_decays(num_heads: int) -> Float64:
    """Return gamma of each head, (N,)."""
    return 1 - np.exp2(-(2 + (np.arange(num_heads) * 5 % 8) / 2))


def decay_matrix(gamma: Float64, size: int) -> Float64:
    """Return gamma^|i - j|, (N,) -> (N, size, size)."""
    i = np.arange(size)
    matrix: Float64 = gamma[:, None, None] ** np.abs(i[:, None] - i)
    return matrix


def retention_decay_sums(gamma: Float64, height: int, width: int) -> Float64:
    """Return the sums over all tokens of gamma^(|dy| + |dx|) at each token, (N,) -> (N, H, W)."""
    rows, columns = (decay_matrix(gamma, size).sum(-1) for size in (height, width))
    sums: Float64 = rows[:, :, None] * columns[:, None, :]
    return sums


class WkvFactors(NamedTuple):
    """What `bi_wkv` multiplies its terms by; float32.

    With e = exp(k - max k), the result at token t is above / below, where `below` is

        fade_after[t] sum of e grow over i < t, + grow_after[t] sum of e fade over i > t,
        + e[t] itself,

    and `above` the same with e v for e.
    """

    grow: Array  # (C, T): exp(decay (i / T - 1/2))
    fade: Array  # (C, T): exp(-decay (i / T - 1/2))
    fade_after: Array  # (C, T): fade exp(decay / T)
    grow_after: Array  # (C, T): grow exp(decay / T)
    itself: Array  # (C, 1): exp(bonus)


def wkv_factors(parameters: Parameters, channels: int, tokens: int) -> WkvFactors:
    """Return the factors for a block of that many channels and tokens."""
    decay, bonus = _decay_and_bonus(parameters, channels)
    position = np.arange(tokens) / tokens - 0.5
    nearest = np.exp(decay / tokens)
    grow, fade = np.exp(decay * position), np.exp(-decay * position)
    factors = (grow, fade, fade * nearest, grow * nearest, np.exp(bonus))
    return WkvFactors(*(factor.astype(np.float32) for factor in factors))


def _decay_and_bonus(parameters: Parameters, channels: int) -> tuple[Float64, Float64]:
    """Return (C, 1) each, within +-LARGEST_EXPONENT."""
    decay, bonus = (
        parameters.tensor(name, (channels,)).astype(np.float64)[:, None]
        for name in ("decay", "bonus")
    )
    bound = LARGEST_EXPONENT
    return np.clip(decay, -bound, bound), np.clip(bonus, -bound, bound)
