"""Token mixers in TFLite: ReLU linear and softmax attention, and the table of all mixers.

A mixer maps (B, H, W, C) to (B, H, W, out_channels), without its residual. N heads, D head
dim, T = H * W tokens.

Of the forms that compute the same, each mixer has the one that ran fastest under LiteRT 2.3
with XNNPACK on one thread of a Xeon with AVX-512, timed interleaved at 7x7, 14x14 and 28x28 and
64 to 512 channels; the docstrings say what the others cost.

A delegate that computes an fp16 file in float16 alone gets the same from relu_linear whatever
the input, and from rwkv while exp(decay) and exp(bonus) of either sign are in its range. The
others multiply activations, which the PyTorch modules do in float32: beyond about a hundred
they leave float16.
"""

from collections.abc import Callable

import numpy as np

from lut.builders.tflite_hyena import hyena
from lut.builders.tflite_ops import LEAST, ConvolutionForm, TfliteOps
from lut.builders.tflite_retention import retention
from lut.builders.tflite_rwkv import rwkv
from lut.builders.weights import Array, Parameters
from supernet.blocks import Block
from supernet.convolutions import Convolution

LARGEST_SUM = 2.0**15  # what sums of float16 may reach
TINY = 1e-30  # a divisor where a token sees nothing; the dividend is 0 there


def relu_linear(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    """Append LiteMLA with q, k and v, and every scale, in convolutions of their own.

    That saves slicing and most of concatenating, and ReLU comes with the convolution. One
    convolution for q, k and v, then a transpose to (B, N, T, 3 D) and slices, took 5 to 20 %
    longer, most with most tokens and scales; in whole networks (B1, B2) that is within noise.
    All scales in one attention took 1 to 4 % longer; batched products for the grouped
    convolution between 2 % less and 4 % more; one product of all heads under a block-diagonal
    mask, which needs no transpose, 1.3 to 3 times as long. The divisor is q . sum(k): a column of
    ones beside v needs a padding that XNNPACK does not take, and the same as a product of
    matrices took 2 to 4 % longer.
    """
    heads, dim = block.num_heads, block.head_dim
    total = heads * dim
    kernels = _by_part(parameters.tensor("qkv.conv.weight", (3 * total, block.in_channels)), dim)
    alone = not block.scales
    qkv = [
        ops.conv(x, kernel[:, :, None, None], form=ConvolutionForm(relu=alone and part < 2))
        for part, kernel in enumerate(kernels)
    ]
    branches = [qkv if alone else [ops.unary("RELU", qkv[0]), ops.unary("RELU", qkv[1]), qkv[2]]]
    for scale in block.scales:
        name = f"aggreg.{scale}"
        depthwise = parameters.tensor(f"{name}.0.weight", (3 * total, 1, scale, scale))
        grouped = parameters.tensor(f"{name}.1.weight", (3 * total, dim, 1, 1))
        parts = zip(_by_part(depthwise, dim), _by_part(grouped, dim), strict=True)
        branch = []
        for part, (first, second) in enumerate(parts):
            y = ops.conv(qkv[part], first, form=ConvolutionForm(groups=total))
            form = ConvolutionForm(groups=heads, relu=part < 2)
            branch.append(ops.conv(y, second, form=form))
        branches.append(branch)
    outputs = []
    for branch in branches:
        q, k, v = (ops.to_float(ops.split_heads(part, heads)) for part in branch)
        attend = _linear if ops.shape(q)[2] > dim else _quadratic
        y = ops.to_int8(attend(ops, q, k, v), "attended")  # of one scale, to be concatenated
        outputs.append(ops.merge_heads(y, block.height, block.width))
    proj = Convolution("proj", total * len(branches), block.out_channels, norm=True)
    return ops.conv(ops.concat(outputs, 3), *parameters.conv(proj))


def _by_part(values: Array, dim: int) -> Array:
    """Order (N 3 D, ...), by head and then q, k, v, as (3, N D, ...)."""
    heads = len(values) // (3 * dim)
    parts = values.reshape(heads, 3, dim, *values.shape[1:]).swapaxes(0, 1)
    return parts.reshape(3, heads * dim, *values.shape[1:])


def _linear(ops: TfliteOps, q: int, k: int, v: int) -> int:
    """Compute q (k^T v) / q . sum(k), of q and k that are positive: (B, N, T, D) each.

    Scaled as `supernet.layers.mixers.relu_linear_attention` where float16 may be computed in; the
    result stays the same. float32 needs none of it.
    """
    tokens, dim = ops.shape(q)[2:]
    if not ops.half:
        above = ops.matmul(q, ops.matmul(k, v, adj_a=True))
        below = ops.reduce("SUM", ops.binary("MUL", q, ops.reduce("SUM", k, 2)), 3)
        return ops.binary("DIV", above, ops.binary("MAXIMUM", below, TINY))
    q, k = _over_largest(ops, q, 3), _over_largest(ops, k, 2, 3)
    least_v = ops.unary("NEG", ops.reduce("REDUCE_MIN", v, 2, 3))
    largest_v = ops.binary("MAXIMUM", ops.reduce("REDUCE_MAX", v, 2, 3), least_v)
    largest_v = ops.binary("MAXIMUM", largest_v, 1.0)
    v = ops.binary("DIV", v, largest_v)
    if tokens > LARGEST_SUM:
        k = ops.binary("MUL", k, LARGEST_SUM / tokens)
    scale = max(1.0, LARGEST_SUM / tokens) / dim
    seen = ops.binary("MUL", ops.matmul(k, v, adj_a=True), scale)
    divisor = ops.binary("MUL", ops.reduce("SUM", k, 2), scale)
    below = ops.reduce("SUM", ops.binary("MUL", q, divisor), 3)
    out = ops.binary("DIV", ops.matmul(q, seen), _positive(ops, below))
    return ops.binary("MUL", out, largest_v)


def _quadratic(ops: TfliteOps, q: int, k: int, v: int) -> int:
    """Compute what `_linear` does by way of the T x T map, where there are few tokens."""
    if ops.half:
        q, k = _over_largest(ops, q, 3), _over_largest(ops, k, 2, 3)
    weights = ops.matmul(q, k, adj_b=True)
    if ops.half:
        weights = ops.binary("MUL", weights, 1 / ops.shape(q)[3])
    below = ops.reduce("SUM", weights, 3)
    below = _positive(ops, below) if ops.half else ops.binary("MAXIMUM", below, TINY)
    return ops.matmul(ops.binary("DIV", weights, below), v)


def _over_largest(ops: TfliteOps, x: int, *axes: int) -> int:
    largest = ops.binary("MAXIMUM", ops.reduce("REDUCE_MAX", x, *axes), LEAST)
    return ops.binary("DIV", x, largest)


def _positive(ops: TfliteOps, x: int) -> int:
    """Return x where it is positive, 1 where it is 0, without a comparison, which XNNPACK has not.

    Twice times 2^15, the least number of float16 exceeds 1; being cut to 1 before, no product
    leaves float16.
    """
    seen = ops.binary("MINIMUM", x, 1.0)
    for _ in range(2):
        seen = ops.binary("MINIMUM", ops.binary("MUL", seen, LARGEST_SUM), 1.0)
    return ops.binary("ADD", x, ops.binary("SUB", 1.0, seen))


def softmax(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    """Append softmax(q k^T / sqrt(D)) v.

    The root is in the weights of q, or halved between q and k, which keeps q k^T in the range of
    float16 longer.
    """
    heads, dim = block.num_heads, block.head_dim
    weight = parameters.tensor("qkv.conv.weight", (3 * heads * dim, block.in_channels))
    scales = (dim**-0.25, dim**-0.25, 1.0) if ops.half else (dim**-0.5, 1.0, 1.0)
    q, k, v = (
        ops.split_heads(ops.conv(x, kernel[:, :, None, None] * np.float32(scale)), heads)
        for kernel, scale in zip(_by_part(weight, dim), scales, strict=True)
    )
    weights = ops.unary("SOFTMAX", ops.matmul(q, k, adj_b=True), "Softmax", beta=1.0)
    y = ops.merge_heads(ops.to_int8(ops.matmul(weights, v)), block.height, block.width)
    proj = Convolution("proj", heads * dim, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


MIXERS: dict[str, Callable[[TfliteOps, int, Block, Parameters], int]] = {
    "relu_linear": relu_linear,
    "softmax": softmax,
    "hyena": hyena,
    "retention": retention,
    "rwkv": rwkv,
}
