"""Retention in TFLite: by the T x T map, or by tiles where there are many tokens.

B batch, H height, W width, N heads, D head dim, T = H * W tokens; S = TILE tokens a side.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lut.builders.mixer_constants import decay_matrix, retention_decay_sums, retention_decays
from lut.builders.tflite_hyena import clamp
from lut.builders.tflite_ops import TfliteOps
from lut.builders.weights import Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

MOST_MAP_TOKENS = 400  # up to here the decays are a constant of N T^2 numbers
MOST_TOKENS_A_DIM = 40  # T / D up to where the T x T map is as fast as tiles or faster
TILE = 16

Float64 = npt.NDArray[np.float64]


def retention(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    """Append silu(g) * group_norm(retention(q, k, v)), each of the four by its own convolution.

    Up to 400 tokens the map of all pairs, times a constant of decays. Decays along y and x in
    turn, which hold almost nothing, took 1.15 to 1.5 times as long; they serve up to T = 40 D.
    Beyond, tiles of 16 x 16, whose time is linear in T: with D = 16 and 32 they took 0.84 and 1.4
    times as long as decays in turn at 28x28, 0.56 and 1.1 at 32x32, 0.15 and 0.25 at 64x64; at
    14x14 more than twice as long as the map. Tiles of 8 x 8 took 1.1 to 1.4 times as long, and
    strips of 8 columns, which grow with T^1.5, about as long up to 64x64.
    """
    heads, dim = block.num_heads, block.head_dim
    total = heads * dim
    height, width = block.height, block.width
    weight = parameters.tensor("qkvg.conv.weight", (4 * total, block.in_channels))
    weight = weight.reshape(heads, 4, dim, -1).swapaxes(0, 1).reshape(4, total, -1, 1, 1)
    q = ops.conv(x, weight[0] * np.float32(dim**-0.5))
    k, v, g = (ops.conv(x, kernel) for kernel in weight[1:])
    q, k, v = (ops.to_float(ops.split_heads(y, heads)) for y in (q, k, v))
    retain = _parallel if height * width <= MOST_TOKENS_A_DIM * dim else _by_tiles
    y = retain(ops, q, k, v, height, width)
    y = ops.merge_heads(ops.normalize(y, parameters.eps), height, width)
    y = ops.binary("MUL", y, ops.weights(parameters.tensor("norm.weight", (total,))))
    y = ops.binary("ADD", y, ops.weights(parameters.tensor("norm.bias", (total,))))
    gate = ops.binary("MUL", g, ops.unary("LOGISTIC", g))
    y = clamp(ops, ops.binary("MUL", gate, y))
    proj = Convolution("proj", total, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def _parallel(ops: TfliteOps, q: int, k: int, v: int, height: int, width: int) -> int:
    """Compute the definition, divided by the sum of decays at each token: (B, N, T, D) each."""
    batch, heads, tokens, _ = ops.shape(q)
    gamma = retention_decays(heads)
    rows, columns = (decay_matrix(gamma, size) for size in (height, width))
    rows, columns = (axis / axis.sum(-1, keepdims=True) for axis in (rows, columns))
    rows, columns = rows[:, :, None, :, None], columns[:, None, :, None, :]
    weights = ops.matmul(q, k, adj_b=True)
    if tokens <= MOST_MAP_TOKENS:
        decay = (rows * columns).reshape(heads, tokens, tokens)
        weights = ops.binary("MUL", weights, ops.weights(decay))
    else:
        weights = ops.reshape(weights, batch, heads, height, width, height, width)
        weights = ops.binary("MUL", weights, ops.weights(rows))
        weights = ops.binary("MUL", weights, ops.weights(columns))
        weights = ops.reshape(weights, batch, heads, tokens, tokens)
    return ops.matmul(weights, v)


def _by_tiles(ops: TfliteOps, q: int, k: int, v: int, height: int, width: int) -> int:
    """Compute what `_parallel` does as `supernet.layers.retention.linear_retention` explains.

    With float16 in mind, k and q share the division by the sum of decays: by that along one
    endless axis, and by the rest.
    """
    batch, heads, tokens, dim = ops.shape(q)
    gamma = retention_decays(heads)
    rest = _endless(gamma)[:, :, None] / retention_decay_sums(gamma, height, width)
    q = ops.binary("MUL", q, ops.weights(rest.reshape(heads, tokens, 1)))
    tall, wide = height + -height % TILE, width + -width % TILE
    padding = ((0, 0), (0, 0), (0, tall - height), (0, wide - width), (0, 0))
    shape = (batch, heads, height, width, dim)
    q, k, v = (ops.pad(ops.reshape(x, *shape), padding) for x in (q, k, v))

    def columns_first(x: int, tile_rows: int, tile_columns: int) -> int:
        """Swap rows and columns within each strip of S rows, (H, W) to (H / S, W, S) or back."""
        x = ops.reshape(x, -1, tile_rows, tile_columns, dim)
        return ops.reshape(ops.transpose(x, 0, 2, 1, 3), batch, heads, -1, TILE, dim)

    in_rows = [ops.reshape(x, batch, heads, -1, TILE, dim) for x in (q, k, v)]
    in_columns = [columns_first(x, TILE, wide) for x in (q, k, v)]
    whole, tiles = (1, tall), tall * wide // TILE**2
    sides = _from_sides(ops, in_rows, spread=whole, carry=(tall, wide // TILE))
    column = _from_sides(ops, in_columns, spread=(tiles, TILE), carry=(1, tall // TILE))
    column = ops.binary("ADD", column, _within_tiles(ops, in_columns))
    out = ops.binary("ADD", sides, columns_first(column, wide, TILE))
    out = ops.reshape(out, batch, heads, tall, wide, dim)
    out = ops.slice(ops.slice(out, 2, 0, height), 3, 0, width)
    return ops.reshape(out, batch, heads, tokens, dim)


def _from_sides(
    ops: TfliteOps, qkv: Sequence[int], *, spread: tuple[int, int], carry: tuple[int, int]
) -> int:
    """Return what comes from the tiles before and after each token's own along one axis.

    Args:
        qkv: (B, N, M, S, D) each, M pieces of S tokens in a row or column.
        spread: how the M states, from before and from after side by side, are groups of states
            that see each other with their decay along the other axis: groups, states in one.
        carry: how they are groups of tiles, of which each sees those before it and after it.
    """
    q, k, v = qkv
    batch, heads, _, _, dim = ops.shape(q)
    gamma = retention_decays(heads)
    t = np.arange(TILE)
    to_end, from_start = (gamma[:, None] ** exponent for exponent in (TILE - 1 - t, t + 1))
    to_start, from_end = (gamma[:, None] ** exponent for exponent in (t, TILE - t))
    k = _twice(ops, k, to_end / _endless(gamma), to_start / _endless(gamma))
    states = ops.matmul(k, v, adj_a=True)  # (B, N, M, 2 D, D)
    decay = ops.weights(decay_matrix(gamma, spread[1])[:, None])
    shape = ops.shape(states)
    states = ops.matmul(decay, ops.reshape(states, batch, heads, *spread, -1))
    states = ops.reshape(states, *shape)
    i = np.arange(carry[1])
    gap = i[:, None] - i
    tile = (gamma**TILE)[:, None, None, None]
    halves = []
    for half, distance in enumerate((gap, -gap)):
        seen = ops.weights(np.where(distance > 0, tile ** (np.maximum(distance, 1) - 1), 0))
        part = ops.reshape(ops.slice(states, 3, half * dim, dim), batch, heads, *carry, -1)
        halves.append(ops.reshape(ops.matmul(seen, part), batch, heads, -1, dim, dim))
    return ops.matmul(_twice(ops, q, from_start, from_end), ops.concat(halves, 3))


def _within_tiles(ops: TfliteOps, qkv: Sequence[int]) -> int:
    """Return what comes from the tokens of the same tile, which follow each other in qkv."""
    shape = ops.shape(qkv[0])
    batch, heads, _, _, dim = shape
    gamma = retention_decays(heads)
    axis = decay_matrix(gamma, TILE)
    decay = axis[:, :, None, :, None] * axis[:, None, :, None, :]
    decay = decay.reshape(heads, 1, TILE**2, TILE**2) / _endless(gamma)[..., None, None]
    q, k, v = (ops.reshape(x, batch, heads, -1, TILE**2, dim) for x in qkv)
    weights = ops.binary("MUL", ops.matmul(q, k, adj_b=True), ops.weights(decay))
    return ops.reshape(ops.matmul(weights, v), *shape)


def _endless(gamma: Float64) -> Float64:
    """Return the sum of decays along an axis without end, (N, 1)."""
    sums: Float64 = ((1 + gamma) / (1 - gamma))[:, None]
    return sums


def _twice(ops: TfliteOps, x: int, first: Float64, second: Float64) -> int:
    """Return x times `first` beside x times `second`, (N, S): its last axis has 2 D then."""
    dim = ops.shape(x)[4]
    factors = np.concatenate([np.repeat(f[:, None, :, None], dim, 3) for f in (first, second)], 3)
    return ops.binary("MUL", ops.concat([x, x], 4), ops.weights(factors))
