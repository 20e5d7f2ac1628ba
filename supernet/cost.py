"""What a network costs, counted exactly from its blocks, without PyTorch.

A block is a short list of `Op`s, from which MACs, parameters, memory traffic, launches and
peak memory all follow. Counts are those of the official formulation (1 MAC = 1 multiply-add
of a convolution, linear layer or attention product; normalisation, activation, pooling,
resizing and additions count none), whatever a runtime makes of it.

The mixers that EfficientViT does not have (softmax, hyena, retention, rwkv) are counted in
the formulation given at each of them here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from supernet.arch import LOCAL_KINDS, Arch
from supernet.blocks import IMAGE, Block, blocks_of, entry_of
from supernet.convolutions import Convolution, convolutions_of

OpKind = Literal[
    "dense",  # k x k convolution over all channels
    "pointwise",  # 1 x 1 convolution
    "depthwise",
    "grouped",  # 1 x 1 convolution in groups
    "linear",
    "matmul",  # of two activations
    "fft",
    "scan",
    "elementwise",  # add, multiply, divide, ReLU, pad, concatenate
    "norm",  # softmax and layer or group normalisation, which cannot be folded away
    "pool",
    "resize",
]
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


class Op(NamedTuple):  # made by the ten thousand, in a third of a dataclass's time
    """One operator as a runtime sees it after folding normalisation into convolutions."""

    kind: OpKind
    reads: tuple[int, ...]  # index of an earlier op in the block; -1, -2, ...: the block's inputs
    in_elements: int  # activations read
    out_elements: int  # activations written
    macs: int = 0
    params: int = 0
    channels: int = 0  # of the output, where the op is a convolution
    kernel_size: int = 1
    activation: str = "none"  # applied to the output


@dataclass(frozen=True, slots=True)
class Cost:
    """Exact counts for one image; additive over blocks."""

    macs: int = 0
    attention_macs: int = 0  # the part of `macs` in products of two activations
    params: int = 0
    moved_elements: int = 0  # activations read and written, and weights read, op by op
    num_ops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
            self.params + other.params,
            self.moved_elements + other.moved_elements,
            self.num_ops + other.num_ops,
        )


@lru_cache(maxsize=1 << 17)
def cost_of(block: Block) -> Cost:
    """Return the counts of one block, for one image."""
    ops = ops_of(block)
    attention = sum(op.macs for op in ops if op.kind in ("matmul", "fft", "scan"))
    return Cost(
        macs=sum(op.macs for op in ops),
        attention_macs=attention,
        params=sum(op.params for op in ops),
        moved_elements=sum(op.in_elements + op.out_elements + op.params for op in ops),
        num_ops=len(ops),
    )


def network_cost(blocks: Sequence[Block]) -> Cost:
    """Return the sum of the counts of all blocks."""
    costs = [cost_of(block) for block in blocks]
    return Cost(  # adding them one by one would make a Cost of each
        sum(cost.macs for cost in costs),
        sum(cost.attention_macs for cost in costs),
        sum(cost.params for cost in costs),
        sum(cost.moved_elements for cost in costs),
        sum(cost.num_ops for cost in costs),
    )


def backbone_cost(arch: Arch) -> Cost:
    """Return the counts without the head: what the accuracy priors go by."""
    return network_cost([block for block in blocks_of(arch) if block.stage != "head"])


def memory_mb(blocks: Sequence[Block], batch: int, precision: str) -> float:
    """Return the peak of live activations plus the weights, in MB (1e6 bytes).

    Blocks and their ops run in order; a tensor lives from the op that writes it to the last
    op that reads it, and nothing is computed in place.
    """
    weights = sum(cost_of(block).params for block in blocks)
    return (peak_activations(blocks) * batch + weights) * BYTES[precision] / 1e6


def peak_activations(blocks: Sequence[Block]) -> int:
    """Return the largest sum of live activations at any op, in elements of one image."""
    return max(peaks_of(blocks))


def peaks_of(blocks: Sequence[Block], *, keep_input: bool = False) -> list[int]:
    """Return the largest sum of live activations in each block, in elements of one image.

    With `keep_input` the input of the first block lives to the end: something behind reads it too.
    """
    first = blocks[0]
    last_read = {IMAGE: len(blocks)} if keep_input else {}  # by which block, of each block's output
    sizes = {IMAGE: first.in_channels * first.height * first.width}
    inputs = [block.inputs or (index - 1,) for index, block in enumerate(blocks)]
    for index, block in enumerate(blocks):
        sizes[index] = ops_of(block)[-1].out_elements
        for place in _places_read(block):
            read = inputs[index][place]
            last_read[read] = max(index, last_read.get(read, index))
    live = sizes[IMAGE]
    peaks = []
    for index, block in enumerate(blocks):
        given = tuple((sizes[read], last_read.get(read, index) > index) for read in inputs[index])
        most, left = _live_in(block, given)
        peaks.append(live + most)
        live += left - (0 if index in last_read else sizes[index])  # what nobody reads is gone
    return peaks


@lru_cache(maxsize=1 << 17)
def _places_read(block: Block) -> tuple[int, ...]:
    """Return which of its inputs a block reads; of some it takes the size alone."""
    return tuple(sorted({-1 - read for op in ops_of(block) for read in op.reads if read < 0}))


@lru_cache(maxsize=1 << 17)
def _live_in(block: Block, inputs: tuple[tuple[int, bool], ...]) -> tuple[int, int]:
    """Return by how many elements the live activations grow in a block, at most and at its end.

    Args:
        inputs: elements of each input, and whether it lives on behind the block.
    """
    ops = ops_of(block)
    last_read = {number: number for number in range(len(ops))}  # of a tensor, by which op
    for number, op in enumerate(ops):
        last_read |= dict.fromkeys(op.reads, number)
    last_read[len(ops) - 1] = len(ops)  # a block's output is there for what follows
    last_read |= {-1 - place: len(ops) for place, (_, kept) in enumerate(inputs) if kept}
    live = most = 0
    for number, op in enumerate(ops):
        live += op.out_elements
        most = max(most, live)
        for tensor in {*op.reads, number}:
            if last_read[tensor] == number:
                live -= ops[tensor].out_elements if tensor >= 0 else inputs[-1 - tensor][0]
    return most, live


@lru_cache(maxsize=1 << 17)
def ops_of(block: Block) -> tuple[Op, ...]:
    """Return the operators of one block, in order of execution; the last one writes its output."""
    ops = _Ops(block)
    entry_of(OPERATORS, block, "supernet/cost.py")(ops, block)
    if block.residual:
        ops.elementwise(ops.last, -1)
    return tuple(ops)


class _Ops(list[Op]):
    """A list of Ops under construction, with one method for each way to append."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.height, self.width = block.height, block.width
        channels = block.out_channels if block.kind == "add" else block.in_channels
        self.input_elements = channels * block.height * block.width  # of each input

    @property
    def last(self) -> int:
        return len(self) - 1

    def elements(self, tensor: int) -> int:
        return self[tensor].out_elements if tensor >= 0 else self.input_elements

    def conv(self, read: int, conv: Convolution) -> int:
        self.height, self.width = -(-self.height // conv.stride), -(-self.width // conv.stride)
        out = conv.out_channels * self.height * self.width
        taps = conv.in_channels // conv.groups * conv.kernel_size**2
        kind: OpKind = "pointwise"
        if conv.groups > 1:
            kind = "depthwise" if conv.groups == conv.in_channels else "grouped"
        elif conv.kernel_size > 1:
            kind = "dense"
        self.append(
            Op(
                kind,
                (read,),
                self.elements(read),
                out,
                macs=out * taps,
                params=conv.out_channels * (taps + conv.bias + 2 * conv.norm),
                channels=conv.out_channels,
                kernel_size=conv.kernel_size,
                activation=conv.activation,
            )
        )
        return self.last

    def matmul(self, a: int, b: int, out: int, macs: int) -> int:
        read = self.elements(a) + (self.elements(b) if b != a else 0)
        self.append(Op("matmul", (a, b), read, out, macs=macs))
        return self.last

    def elementwise(self, *reads: int, out: int = 0, params: int = 0) -> int:
        """Append an operator on equal shapes, unless `out` gives the elements of the result."""
        read = sum(self.elements(tensor) for tensor in reads)
        self.append(Op("elementwise", reads, read, out or self.elements(reads[0]), params=params))
        return self.last

    def other(self, kind: OpKind, read: int, out: int, macs: int = 0, params: int = 0) -> int:
        self.append(Op(kind, (read,), self.elements(read), out, macs=macs, params=params))
        return self.last


def _convolutions(ops: _Ops, block: Block) -> None:
    x = -1
    for conv in convolutions_of(block):
        x = ops.conv(x, conv)


def _relu_linear(ops: _Ops, block: Block) -> None:
    """Append LiteMLA: linear where there are more tokens than head_dim, else quadratic.

    Source: efficientvit/models/nn/ops.py, LiteMLA.
    """
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    total = heads * dim
    qkv = ops.conv(-1, Convolution("qkv", block.in_channels, 3 * total))
    branches = [qkv]
    for scale in block.scales:
        name = f"aggreg.{scale}"
        depthwise = Convolution(name, 3 * total, 3 * total, scale, groups=3 * total)
        x = ops.conv(qkv, depthwise)
        branches.append(ops.conv(x, Convolution(name, 3 * total, 3 * total, groups=3 * heads)))
    groups = heads * len(branches)
    size = groups * dim * tokens  # of q, k or v, all scales
    if len(branches) > 1:
        qkv = ops.elementwise(*branches, out=3 * size)
    qk = ops.elementwise(qkv, out=2 * size)  # ReLU
    if tokens > dim:
        v = ops.elementwise(qkv, out=size + groups * tokens)  # row of ones
        kv = ops.matmul(v, qk, groups * dim * (dim + 1), macs=groups * tokens * dim * (dim + 1))
        x = ops.matmul(kv, qk, size + groups * tokens, macs=groups * tokens * dim * (dim + 1))
        x = ops.elementwise(x, out=size)  # division by the last row
    else:
        attention = ops.matmul(qk, qk, groups * tokens**2, macs=groups * tokens**2 * dim)
        attention = ops.other("norm", attention, groups * tokens**2)
        x = ops.matmul(qkv, attention, size, macs=groups * tokens**2 * dim)
    ops.conv(x, Convolution("proj", total * len(branches), block.out_channels, norm=True))


def _softmax(ops: _Ops, block: Block) -> None:
    """Append softmax(q k^T / sqrt(head_dim)) v between a 1x1 to q, k, v and a normalised 1x1."""
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    qkv = ops.conv(-1, Convolution("qkv", block.in_channels, 3 * heads * dim))
    attention = ops.matmul(qkv, qkv, heads * tokens**2, macs=heads * tokens**2 * dim)
    attention = ops.other("norm", attention, heads * tokens**2)
    x = ops.matmul(qkv, attention, heads * dim * tokens, macs=heads * tokens**2 * dim)
    ops.conv(x, Convolution("proj", heads * dim, block.out_channels, norm=True))


HYENA_FEATURES = 10  # positional features of the implicit filter
HYENA_HIDDEN = 32  # hidden features of the network that makes the filter


def _hyena(ops: _Ops, block: Block) -> None:
    """Append Hyena of order 2 in 2-D: x0 * (filter conv (x1 * v)), a 3x3 depthwise before it.

    The filter comes from a small network of the position (two hidden layers, and a bias per
    channel); it is constant at inference, as is its transform. A real FFT of M points counts
    5/4 M log2 M MACs, on the image padded to twice its sides.

    Source: Poli et al., Hyena Hierarchy, 2023, https://arxiv.org/abs/2302.10866
    """
    channels, tokens = block.in_channels, block.height * block.width
    x = ops.conv(-1, Convolution("qkv", channels, 3 * channels))
    x = ops.conv(x, Convolution("short", 3 * channels, 3 * channels, 3, groups=3 * channels))
    gated = ops.elementwise(x, out=channels * tokens)
    points = 4 * tokens
    fft = channels * (5 * points * math.ceil(math.log2(points)) // 4)
    params = (
        (HYENA_FEATURES + 1) * HYENA_HIDDEN
        + (HYENA_HIDDEN + 1) * HYENA_HIDDEN
        + (HYENA_HIDDEN + 1) * channels
    )
    spectrum = ops.other("fft", gated, channels * points, macs=fft)
    spectrum = ops.elementwise(spectrum, params=params)
    y = ops.other("fft", spectrum, channels * tokens, macs=fft)
    y = ops.elementwise(y, x, out=channels * tokens)
    ops.conv(y, Convolution("proj", channels, block.out_channels, norm=True))


def _retention(ops: _Ops, block: Block) -> None:
    """Append retention with a 2-D decay in recurrent form, group norm and a gate.

    Per token and head: the outer product k v^T, four decayed sums of that state (rows and
    columns, both ways), and its product with q.

    Source: Sun et al., Retentive Network, 2023, https://arxiv.org/abs/2307.08621
    """
    heads, dim, tokens = block.num_heads, block.head_dim, block.height * block.width
    total = heads * dim
    qkvg = ops.conv(-1, Convolution("qkvg", block.in_channels, 4 * total))
    x = ops.other("scan", qkvg, total * tokens, macs=6 * total * tokens * dim)
    x = ops.other("norm", x, total * tokens, params=2 * total)
    x = ops.elementwise(x, qkvg, out=total * tokens)
    ops.conv(x, Convolution("proj", total, block.out_channels, norm=True))


def _rwkv(ops: _Ops, block: Block) -> None:
    """Append Vision-RWKV's spatial mix: 2-D token shift, bidirectional WKV, a gate.

    r, k and v each come from a mixture of their own of a token and its neighbour. WKV is two
    scans of a numerator and a denominator, 8 MACs per token and channel.

    Source: Duan et al., Vision-RWKV, 2024, https://arxiv.org/abs/2403.02308
    """
    channels, tokens = block.in_channels, block.height * block.width
    size = channels * tokens
    names = ("receptance", "key", "value")
    mixtures = [ops.elementwise(-1, params=channels) for _ in names]
    r, k, v = (
        ops.conv(mixture, Convolution(name, channels, channels))
        for name, mixture in zip(names, mixtures, strict=True)
    )
    ops.append(Op("scan", (k, v), 2 * size, size, macs=8 * size, params=2 * channels))
    gated = ops.elementwise(ops.last, r)
    ops.conv(gated, Convolution("proj", channels, block.out_channels, norm=True))


def _pool(ops: _Ops, block: Block) -> None:
    ops.other("pool", -1, block.out_channels)


def _linear(ops: _Ops, block: Block) -> None:
    inner, outer = block.in_channels, block.out_channels
    bias = outer if block.norm == "none" else 0
    ops.other("linear", -1, outer, macs=inner * outer, params=inner * outer + bias)
    if block.norm == "layer":
        ops.other("norm", ops.last, outer, params=2 * outer)


def _upsample(ops: _Ops, block: Block) -> None:
    ops.other("resize", -1, block.out_channels * block.out_height * block.out_width)


def _pixel_shuffle(ops: _Ops, block: Block) -> None:
    ops.other("resize", -1, ops.input_elements)


def _add(ops: _Ops, block: Block) -> None:
    num_inputs = block.in_channels // block.out_channels
    ops.elementwise(*range(-1, -1 - num_inputs, -1))


def _layer_norm(ops: _Ops, block: Block) -> None:
    ops.other("norm", -1, ops.input_elements, params=2 * block.out_channels)


OPERATORS: dict[str, Callable[[_Ops, Block], None]] = {
    "conv": _convolutions,
    **dict.fromkeys(LOCAL_KINDS, _convolutions),
    "relu_linear": _relu_linear,
    "softmax": _softmax,
    "hyena": _hyena,
    "retention": _retention,
    "rwkv": _rwkv,
    "pool": _pool,
    "linear": _linear,
    "upsample": _upsample,
    "pixel_shuffle": _pixel_shuffle,
    "add": _add,
    "layer_norm": _layer_norm,
}
