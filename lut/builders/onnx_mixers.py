"""ReLU linear attention, softmax attention and RWKV in ONNX, and the table of all mixers.

Each is the form of the mixer that ONNX Runtime executes fastest among those compared in its
docstring: milliseconds, or percent of the block's time, one thread of an x86 with AVX-512. The
only fusion they count on is that of a Transpose of the last two axes into the MatMul after it.

B batch, C channels, H height, W width, T = H * W tokens; N heads, D head dim.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from lut.builders.mixer_constants import wkv_factors
from lut.builders.onnx_hyena import hyena
from lut.builders.onnx_ops import FLOAT16, FLOAT32, OnnxOps, Value
from lut.builders.onnx_retention import retention
from lut.builders.weights import Array, Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

LEAST = float(np.finfo(np.float32).tiny)
LARGEST_SUM_FP16, LEAST_FP16 = 2.0**15, 2.0**-14  # as in supernet.layers.mixers
MAP_ELEMENTS = 2**20  # of a softmax at a time: 4 MB
MOST_PIECES = 32
CHUNK = 28  # tokens that one product adds up, about
MOST_UNCUT_TOKENS = 64


def relu_linear(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    """Append `supernet.layers.mixers.LiteMLA`.

    Each scale attends by itself: joining scales before the attention, as published, took
    0 to 15 % more (7x7 to 28x28, C = 64 to 384, one and two scales). Batched products instead
    of the grouped convolution took 0 to 10 % more, channels ordered by q, k, v as many as
    those ordered by head.
    """
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    total = heads * dim
    qkv = ops.conv(x, *parameters.conv(Convolution("qkv", block.in_channels, 3 * total)))
    branches = [qkv]
    for scale in block.scales:
        name = f"aggreg.{scale}"
        depthwise = parameters.tensor(f"{name}.0.weight", (3 * total, 1, scale, scale))
        pointwise = parameters.tensor(f"{name}.1.weight", (3 * total, dim, 1, 1))
        y = ops.conv(qkv, depthwise, None, groups=3 * total)
        branches.append(ops.conv(y, pointwise, None, groups=3 * heads))
    outs = []
    for branch in branches:
        branch = ops.flat(branch, ops.batch, heads, 3 * dim, tokens)
        q, k, v = ops.split(branch, 2, dim, dim, dim)
        attend = _scaled_relu_attention if q.dtype == FLOAT16 else _relu_attention
        out = attend(ops, q, k, v)
        outs.append(ops.maps(out, qkv, total))
    y = ops.kept(ops.concat(outs, 1))
    width = total * len(branches)
    proj = Convolution("proj", width, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def _relu_attention(ops: OnnxOps, q: Value, k: Value, v: Value) -> Value:
    """Attend as published, for float32's range, (B, N, D, T) each -> (B, N, D, T).

    The guard is the least normal number, not 1e-15: small q and k keep their meaning, and 0 / 0
    becomes 0. The divisor as a product of its own and V padded by a row of ones, or joined
    to the D x D matrix as a row, take the same time within 3 %, which favours the former.
    """
    q, k = ops.unary("Relu", q), ops.unary("Relu", k)
    if q.shape[-1] > q.shape[-2] or ops.varies == "size":
        seen = ops.matmul(v, ops.transposed(k))
        batch, heads, dim, _ = q.shape
        sums = ops.reshape(ops.reduce("ReduceSum", k, 3), batch, heads, 1, dim)
        out, divisor = ops.matmul(seen, q), ops.matmul(sums, q)
        return ops.binary("Div", out, ops.binary("Max", divisor, LEAST))
    weights = ops.matmul(ops.transposed(k), q)
    divisor = ops.binary("Max", ops.reduce("ReduceSum", weights, 2), LEAST)
    return ops.matmul(v, ops.binary("Div", weights, divisor))


def _scaled_relu_attention(ops: OnnxOps, q: Value, k: Value, v: Value) -> Value:
    """Attend in float16, scaled as `supernet.layers.mixers` does and for its reasons."""
    dim, tokens = q.shape[-2:]
    largest_q = ops.binary("Max", ops.reduce("ReduceMax", q, 2), LEAST_FP16)
    largest_k = ops.binary("Max", ops.reduce("ReduceMax", k, 2, 3), LEAST_FP16)
    q = ops.unary("Relu", ops.binary("Div", q, largest_q))
    k = ops.unary("Relu", ops.binary("Div", k, largest_k))
    if tokens <= dim:
        weights = ops.matmul(ops.transposed(k), q)
        weights = ops.binary("Mul", weights, 1 / dim)
        divisor = _positive(ops, ops.reduce("ReduceSum", weights, 2))
        return ops.matmul(v, ops.binary("Div", weights, divisor))
    largest_v = ops.reduce("ReduceMax", ops.unary("Abs", v), 2, 3)
    largest_v = ops.binary("Max", largest_v, 1.0)
    v = ops.binary("Div", v, largest_v)
    if tokens > LARGEST_SUM_FP16:
        k = ops.binary("Mul", k, LARGEST_SUM_FP16 / tokens)
    k = ops.transposed(k)
    scale = max(1.0, LARGEST_SUM_FP16 / tokens) / dim
    out, divisor = (
        ops.matmul(ops.binary("Mul", seen, scale), q)
        for seen in (ops.matmul(v, k), ops.matmul(np.ones((1, tokens)), k))
    )
    out = ops.binary("Div", out, _positive(ops, divisor))
    return ops.binary("Mul", out, largest_v)


def _positive(ops: OnnxOps, divisor: Value) -> Value:
    """Return the divisor, 1 where there is 0."""
    zero, one = (ops.constant(number, divisor.dtype) for number in (0.0, 1.0))
    positive = ops.node("Greater", [divisor, zero], divisor.shape, np.dtype(np.bool_))
    return ops.node("Where", [positive, divisor, one], divisor.shape, divisor.dtype)


def softmax(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    """Append `supernet.layers.softmax.SoftmaxAttention`; the division by sqrt(D) is in q's weights.

    Queries are taken in pieces, so that a piece's map stays in the cache: at 28x28 with 8
    heads 9.6 ms instead of 10.9, at 64x64 with 2 heads 38.6 instead of 50.1. The product is
    written as map times V^T and transposed then: V times the map's transpose took up to 18 %
    more, a softmax over the first axis of the map up to 100 %, exponentials divided at the end
    up to 60 %.
    """
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    total = heads * dim
    kernel, _ = parameters.conv(Convolution("qkv", block.in_channels, 3 * total))
    scales = np.tile(np.repeat([dim**-0.5, 1, 1], dim), heads).astype(np.float32)
    qkv = ops.conv(x, kernel * scales[:, None, None, None], None)
    qkv = ops.cast(ops.reshape(qkv, ops.batch, heads, 3 * dim, tokens), FLOAT32)
    q, k, v = ops.split(qkv, 2, dim, dim, dim)
    v = ops.transposed(v)
    pieces = min(MOST_PIECES, math.ceil(heads * tokens**2 / MAP_ELEMENTS), tokens)
    ends = [tokens * piece // pieces for piece in range(pieces + 1)]
    sizes = [end - start for start, end in pairwise(ends)]
    outs = []
    for queries in ops.split(q, 3, *sizes) if pieces > 1 else [q]:
        weights = ops.matmul(ops.transposed(queries), k)
        weights = ops.unary("Softmax", weights, axis=-1)
        outs.append(ops.matmul(weights, v))
    y = ops.cast(ops.transposed(ops.concat(outs, 2)), ops.dtype)
    y = ops.kept(ops.reshape(y, ops.batch, total, block.height, block.width))
    proj = Convolution("proj", total, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def rwkv(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    """Append `supernet.layers.rwkv.RWKV`.

    A mixture with shifted neighbours is a depthwise 3x3 convolution of two taps: at 14x14 with
    256 channels 0.04 ms for all three, by slices 0.24 ms; one projection of x and shifted x
    together 0.54 ms.
    """
    channels = block.in_channels
    mixes = parameters.tensor("mix", (3, channels))
    r, k, v = (
        ops.conv(
            ops.conv(x, _mixing_kernel(mix), None, groups=channels),
            *parameters.conv(Convolution(name, channels, channels)),
        )
        for name, mix in zip(("receptance", "key", "value"), mixes, strict=True)
    )
    wkv = ops.cast(_bi_wkv(ops, k, v, parameters), ops.dtype)
    y = ops.kept(ops.binary("Mul", ops.unary("Sigmoid", r), wkv))
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


def _mixing_kernel(mix: Array) -> Array:
    """Return a kernel with mix at the centre, the rest at the neighbour of `quad_shift`."""
    kernel = np.zeros((len(mix), 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1] = mix
    for first, (row, column) in enumerate(((1, 0), (1, 2), (0, 1), (2, 1))):
        kernel[first::4, 0, row, column] = 1 - mix[first::4]
    return kernel


def _bi_wkv(ops: OnnxOps, k: Value, v: Value, parameters: Parameters) -> Value:
    """Compute `supernet.layers.rwkv.bi_wkv`, (B, C, H, W) each -> (B, C, H, W) in float32.

    Sums over the tokens before are products with triangular matrices, of all tokens where they
    are few, else of chunks of about CHUNK, and of the chunks' sums. Milliseconds of the whole:

                              7x7, C 512   14x14, C 256   28x28, C 128
        one triangular matrix       0.18           0.66           4.21
        in chunks                   0.23           0.43           1.03
        CumSum                      0.31           0.66           1.45
        a T x T matrix a channel    0.52           5.32              -
    """
    shape = k.shape
    batch, channels = shape[:2]
    tokens = shape[2] * shape[3]
    k, v = (ops.cast(ops.reshape(x, batch, channels, tokens), FLOAT32) for x in (k, v))
    factors = wkv_factors(parameters, channels, tokens)
    weight = ops.unary("Exp", ops.binary("Sub", k, ops.reduce("ReduceMax", k, 2)))
    both = (ops.binary("Mul", weight, v), weight)  # numerator and denominator
    terms = ops.concat([ops.reshape(x, batch, 1, channels, tokens) for x in both], 1)
    before = _sums_before(ops, ops.binary("Mul", terms, factors.grow), reverse=False)
    after = _sums_before(ops, ops.binary("Mul", terms, factors.fade), reverse=True)
    total = ops.binary(
        "Add",
        ops.binary("Mul", before, factors.fade_after),
        ops.binary("Mul", after, factors.grow_after),
    )
    total = ops.binary("Add", total, ops.binary("Mul", terms, factors.itself))
    above, below = ops.split(total, 1, 1, 1)
    return ops.reshape(ops.binary("Div", above, below), *shape)


def _sums_before(ops: OnnxOps, x: Value, *, reverse: bool) -> Value:
    """Sum (..., T) at t over all i < t, or where `reverse`, i > t."""
    *outer, tokens = x.shape
    chunk = _chunk(tokens)
    if chunk == tokens:
        return ops.matmul(x, _triangle(tokens, reverse))
    number = tokens // chunk
    x = ops.reshape(x, *outer, number, chunk)
    within = ops.matmul(x, _triangle(chunk, reverse))
    sums = ops.reshape(ops.reduce("ReduceSum", x, -1), *outer, number)
    sums = ops.reshape(ops.matmul(sums, _triangle(number, reverse)), *outer, number, 1)
    return ops.reshape(ops.binary("Add", within, sums), *outer, tokens)


def _chunk(tokens: int) -> int:
    """Return the divisor of `tokens` that is, as a ratio, nearest to CHUNK."""
    if tokens <= MOST_UNCUT_TOKENS:
        return tokens
    divisors = (size for size in range(1, tokens + 1) if tokens % size == 0)
    return min(divisors, key=lambda size: abs(math.log(size / CHUNK)))


def _triangle(size: int, reverse: bool) -> Array:
    ones = np.ones((size, size), np.float32)
    return np.tril(ones, -1) if reverse else np.triu(ones, 1)


MIXERS: dict[str, Callable[[OnnxOps, Value, Block, Parameters], Value]] = {
    "relu_linear": relu_linear,
    "softmax": softmax,
    "hyena": hyena,
    "retention": retention,
    "rwkv": rwkv,
}
