"""Retention in ONNX: by the T x T map where it is small, else in tiles, linear in H and in W.

B batch, C channels, H height, W width, T = H * W tokens; N heads, D head dim; S = TILE.
"""

import numpy as np

from lut.builders.mixer_constants import (
    LARGEST_GATED,
    Float64,
    decay_matrix,
    retention_decay_sums,
    retention_decays,
)
from lut.builders.onnx_ops import FLOAT32, OnnxOps, Value
from lut.builders.weights import Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

TILE = 8
MOST_PARALLEL_TOKENS = 400  # as in layers/retention.py; decays then take <= 0.64 MB a head


def retention(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    """Append `supernet.layers.retention.Retention`.

    Microseconds in ONNX Runtime, one thread, all between the projections:

                                            14x14, C 256   28x28, C 128   64x64, C 64
                                            D 32           D 16           D 32
        T x T map, decays as one constant            598           7877             -
        T x T map, decays by row and column          932          11263         88153
        in tiles                                    2674           6400         18854

    The constant also holds the division by sqrt(D) and the sums of decays. The norm wants
    (T, D), the gate (D, T): a product in the other order with a norm spelt out of ReduceMean
    took 0 to 15 % more.
    """
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    total = heads * dim
    qkvg = ops.conv(x, *parameters.conv(Convolution("qkvg", block.in_channels, 4 * total)))
    qkvg = ops.cast(ops.reshape(qkvg, ops.batch, heads, 4 * dim, tokens), FLOAT32)
    q, k, v, g = ops.split(qkvg, 2, dim, dim, dim, dim)
    parallel = tokens <= MOST_PARALLEL_TOKENS
    retain = parallel_retention if parallel else linear_retention
    y = retain(ops, q, k, v, block.height, block.width)
    plain = (np.ones(dim), np.zeros(dim))
    inputs = [y, *(ops.constant(values, FLOAT32) for values in plain)]
    y = ops.node("LayerNormalization", inputs, y.shape, axis=-1, epsilon=parameters.eps)
    weight, bias = (
        parameters.tensor(f"norm.{part}", (total,)).reshape(heads, 1, dim)
        for part in ("weight", "bias")
    )
    y = ops.transposed(ops.binary("Add", ops.binary("Mul", y, weight), bias))
    gate = ops.binary("Mul", g, ops.unary("Sigmoid", g))
    y = ops.cast(ops.clip(ops.binary("Mul", gate, y), LARGEST_GATED), ops.dtype)
    y = ops.kept(ops.reshape(y, ops.batch, total, block.height, block.width))
    proj = Convolution("proj", total, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def parallel_retention(
    ops: OnnxOps, q: Value, k: Value, v: Value, height: int, width: int
) -> Value:
    """Retain (B, N, D, T) each, divided by sqrt(D) and the sums of decays: (B, N, T, D)."""
    heads, dim, tokens = q.shape[1:]
    gamma = retention_decays(heads)
    rows, columns = decay_matrix(gamma, height), decay_matrix(gamma, width)
    decay = rows[:, :, None, :, None] * columns[:, None, :, None, :]
    divisors = _divisors(gamma, dim, height, width)
    weights = ops.matmul(ops.transposed(q), k)
    weights = ops.binary("Mul", weights, decay.reshape(heads, tokens, tokens) / divisors)
    return ops.matmul(weights, ops.transposed(v))


def _divisors(gamma: Float64, dim: int, height: int, width: int) -> Float64:
    """Return sqrt(D) times the sums of decays, (N, T, 1)."""
    sums = retention_decay_sums(gamma, height, width)
    divisors: Float64 = sums.reshape(len(gamma), -1, 1) * dim**0.5
    return divisors


def linear_retention(ops: OnnxOps, q: Value, k: Value, v: Value, height: int, width: int) -> Value:
    """Compute the same function as `parallel_retention`.

    The tiles of `supernet.layers.retention.linear_retention`. Instead of a recurrence, one matrix
    carries the states along all tiles of an axis: it is small, as tiles are large.
    """
    heads, dim, tokens = q.shape[1:]
    gamma = retention_decays(heads)
    q, k, v = (ops.transposed(x) for x in (q, k, v))
    q = ops.binary("Mul", q, 1 / _divisors(gamma, dim, height, width))
    q, k, v = (_padded(ops, x, height, width) for x in (q, k, v))
    out = ops.binary(
        "Add",
        _within_tiles(ops, q, k, v, gamma),
        _from_sides(ops, q, k, v, gamma, whole_columns=True),
    )
    q, k, v = (ops.transpose(x, 0, 1, 3, 2, 4) for x in (q, k, v))
    turned = _from_sides(ops, q, k, v, gamma, whole_columns=False)
    out = ops.binary("Add", out, ops.transpose(turned, 0, 1, 3, 2, 4))
    if out.shape[2:4] != (height, width):
        cut = [ops.constant(np.array(numbers)) for numbers in ((0, 0), (height, width), (2, 3))]
        out = ops.node("Slice", [out, *cut], (ops.batch, heads, height, width, dim))
    return ops.reshape(out, ops.batch, heads, tokens, dim)


def _padded(ops: OnnxOps, x: Value, height: int, width: int) -> Value:
    """Pad (B, N, T, D) to (B, N, H, W, D), H and W multiples of S."""
    batch, heads, _, dim = x.shape
    x = ops.reshape(x, batch, heads, height, width, dim)
    below, right = -height % TILE, -width % TILE
    if not (below or right):
        return x
    pads = ops.constant(np.array([0, 0, 0, 0, 0, 0, 0, below, right, 0]))
    return ops.node("Pad", [x, pads], (batch, heads, height + below, width + right, dim))


def _within_tiles(ops: OnnxOps, q: Value, k: Value, v: Value, gamma: Float64) -> Value:
    """Return what comes from the S x S tile of each token, (B, N, H, W, D)."""
    batch, heads, height, width, dim = q.shape
    across, down = width // TILE, height // TILE

    def tiles(x: Value) -> Value:
        x = ops.reshape(x, batch, heads, down, TILE, across, TILE, dim)
        x = ops.transpose(x, 0, 1, 2, 4, 3, 5, 6)
        return ops.reshape(x, batch, heads, down * across, TILE * TILE, dim)

    axis = decay_matrix(gamma, TILE)
    decay = axis[:, :, None, :, None] * axis[:, None, :, None, :]
    weights = ops.matmul(tiles(q), ops.transposed(tiles(k)))
    weights = ops.binary("Mul", weights, decay.reshape(heads, 1, TILE**2, TILE**2))
    out = ops.matmul(weights, tiles(v))
    out = ops.reshape(out, batch, heads, down, across, TILE, TILE, dim)
    return ops.reshape(ops.transpose(out, 0, 1, 2, 4, 3, 5, 6), *q.shape)


def _from_sides(
    ops: OnnxOps, q: Value, k: Value, v: Value, gamma: Float64, *, whole_columns: bool
) -> Value:
    """Return what comes from the tiles left and right of each token's own, (B, N, H, W, D).

    From all rows, or from those of the same row of tiles only.
    """
    batch, heads, height, width, dim = q.shape
    across = width // TILE

    def strips(x: Value) -> Value:  # (B, N, W / S, H, S, D)
        x = ops.reshape(x, batch, heads, height, across, TILE, dim)
        return ops.transpose(x, 0, 1, 3, 2, 4, 5)

    q, k, v = strips(q), strips(k), strips(v)
    t = np.arange(TILE)
    gap = np.arange(across)[:, None] - np.arange(across) - 1
    before = (gamma[:, None, None] ** TILE) ** gap.clip(min=0) * (gap >= 0)
    left = (TILE - 1 - t, before, t + 1)
    right = (t, before.transpose(0, 2, 1), TILE - t)
    spread = decay_matrix(gamma, height if whole_columns else TILE)
    outs = []
    for to_edge, carry, from_edge in (left, right):
        k_at_edge = ops.binary("Mul", k, _powers(gamma, to_edge))
        states = ops.matmul(ops.transposed(k_at_edge), v)  # (B, N, W / S, H, D, D)
        states = ops.reshape(states, batch, heads, across, height * dim * dim)
        states = ops.matmul(carry, states)
        states = ops.reshape(
            states, batch, heads, across, -(-height // spread.shape[-1]), spread.shape[-1], dim**2
        )
        states = ops.matmul(spread[:, None, None], states)
        states = ops.reshape(states, batch, heads, across, height, dim, dim)
        q_at_edge = ops.binary("Mul", q, _powers(gamma, from_edge))
        outs.append(ops.matmul(q_at_edge, states))
    out = ops.transpose(ops.binary("Add", *outs), 0, 1, 3, 2, 4, 5)
    return ops.reshape(out, batch, heads, height, width, dim)


def _powers(gamma: Float64, exponents: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Float64:
    """Return powers of gamma, (N, 1, 1, S, 1)."""
    powers: Float64 = gamma[:, None] ** exponents
    return powers.reshape(len(gamma), 1, 1, -1, 1)
