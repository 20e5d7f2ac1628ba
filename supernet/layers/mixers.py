"""Token mixers: ReLU linear attention at several scales, and the table of all mixers.

A mixer takes its `Block` and a normalisation epsilon, and maps (B, C, H, W) to (B, C, H, W)
for any H and W. B batch, C channels, H height, W width; N heads (of all scales), D head dim,
T = H * W tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.convolutions import Convolution
from supernet.layers.convolutions import ConvNormAct
from supernet.layers.hyena import Hyena
from supernet.layers.retention import Retention
from supernet.layers.rwkv import RWKV
from supernet.layers.softmax import SoftmaxAttention

Axes = tuple[int | tuple[int, ...], ...]  # the size of each, or the labels along it
LARGEST_SUM, LEAST = 2.0**15, 2.0**-14  # what sums of float16 may reach; its least normal number


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in time and memory linear in the number of tokens, also in pure float16.

    softmax(q^T k) becomes relu(q)^T relu(k), so that V K^T, a D x D matrix, is all that a query
    needs to see of the tokens. As published, that matrix is a sum over tokens which leaves
    float16 at high resolution, and an epsilon of 1e-15 vanishes in it (0 / 0 where no query
    entry is positive). The output however stays the same when a token's q is divided by
    anything, or all k are, and it scales with v. So every token's q, and all k and (where
    above 1) v of a head, are divided by their largest magnitude. No sum of T products exceeds
    T then, no divisor depends on how large q, k and v are, and the matrix is scaled such that
    its products with q use float16's range up to its half. Where the divisor is 0, the token
    sees nothing, and its output is 0 as in the original. All constants are normal numbers in
    float16, as a graph may be traced in float32 and converted later.

    Args:
        q, k, v: (B, N, D, T), any floating dtype, finite.

    Returns:
        (B, N, D, T): averages of v's columns with weights relu(k)^T relu(q); never beyond
        the largest magnitude of v but for rounding, hence finite.

    Source: EfficientViT (https://arxiv.org/abs/2205.14756), sec. 3.1; the scaling is ours.
    """
    dim, tokens = q.shape[-2:]
    # Neither the output nor gradients depend on the scales. Detached rather than under no_grad,
    # which torch.export would trace as a subgraph.
    fixed_v = v.detach()
    largest_v = torch.maximum(_largest(fixed_v), -fixed_v.amin((-2, -1), keepdim=True)).clamp(min=1)
    largest_k, largest_q = _largest(k.detach()).clamp(min=LEAST), _largest_of_token(q.detach())
    q, k, v = (q / largest_q).relu_(), (k / largest_k).relu_(), v / largest_v
    if tokens > LARGEST_SUM:
        k = k * (LARGEST_SUM / tokens)
    transposed = k.transpose(-1, -2)
    ones = v.new_ones(1, tokens)
    seen = torch.cat((v @ transposed, ones @ transposed), dim=2)  # (B, N, D + 1, D)
    out = (seen * (max(1.0, LARGEST_SUM / tokens) / dim)) @ q
    # in place is safe for gradients here: neither factor's needs the quotient
    return (out[:, :, :dim] / _positive(out[:, :, dim:])).mul_(largest_v)


def relu_quadratic_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute what `relu_linear_attention` does by way of the T x T map, for few tokens.

    Scaled like `relu_linear_attention`; arguments, result and source are the same.
    """
    dim = q.shape[-2]
    largest_k, largest_q = _largest(k.detach()).clamp(min=LEAST), _largest_of_token(q.detach())
    q, k = (q / largest_q).relu_(), (k / largest_k).relu_()
    weights = (k.transpose(-1, -2) @ q) * (1 / dim)  # (B, N, T, T)
    weights = weights / _positive(weights.sum(-2, keepdim=True))
    return v @ weights


def _largest_of_token(q: Tensor) -> Tensor:
    """Return the largest of each token, (B, N, D, T) -> (B, N, 1, T), at least LEAST."""
    return q.amax(-2, keepdim=True).clamp(min=LEAST)


def _positive(divisor: Tensor) -> Tensor:
    """Return sums of positive terms, 1 for 0: a large quotient has no finite gradient."""
    return torch.where(divisor > 0, divisor, 1.0)


def _largest(x: Tensor) -> Tensor:
    """Return the largest of each head, (B, N, D, T) -> (B, N, 1, 1)."""
    return x.amax((-2, -1), keepdim=True)


class LiteMLA(nn.Module):
    """ReLU linear attention over the tokens themselves and over each scale's aggregate.

    A scale is a depthwise convolution of q, k and v, and a 1x1 one within each head's q, k
    or v. Every scale has as many heads as there are without scales. Channels of `qkv` are
    ordered by head, then q, k, v; those of `proj`'s input by scale, then head.
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        self.head_dim = block.head_dim
        total = block.num_heads * block.head_dim
        self.qkv = ConvNormAct(Convolution("qkv", block.in_channels, 3 * total), eps)
        self.aggreg = nn.ModuleDict(
            {
                str(scale): nn.Sequential(
                    _depthwise(3 * total, scale),
                    GroupedPointwise(3 * total, 3 * block.num_heads),
                )
                for scale in block.scales
            }
        )
        width = total * (1 + len(block.scales))
        self.proj = ConvNormAct(Convolution("proj", width, block.out_channels, norm=True), eps)

    @property
    def axes(self) -> dict[str, Axes]:
        """Return what axes of tensors are made of, where a narrower LiteMLA is not in front."""
        conv = self.proj.conv
        scales = (0, *map(int, self.aggreg))
        total = conv.in_channels // len(scales)
        return {"proj.conv.weight": (conv.out_channels, scales, total, 1, 1)}

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map, (B, out_channels, H, W)."""
        qkv = self.qkv(x)
        if self.aggreg:
            qkv = torch.cat([qkv, *(scale(qkv) for scale in self.aggreg.values())], dim=1)
        batch, channels, height, width = qkv.shape
        tokens = height * width
        heads = channels // (3 * self.head_dim)
        q, k, v = qkv.reshape(batch, heads, 3, self.head_dim, tokens).unbind(2)
        attend = relu_linear_attention if tokens > self.head_dim else relu_quadratic_attention
        x = attend(q, k, v).reshape(batch, heads * self.head_dim, height, width)
        x = self.proj(x)
        return x


def _depthwise(channels: int, kernel_size: int) -> nn.Conv2d:
    padding = kernel_size // 2
    return nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=False)


class GroupedPointwise(nn.Conv2d):
    """A grouped 1x1 convolution without bias, computed as one matrix product a group.

    On a CPU that takes about half the time of the grouped convolution.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map, (B, out_channels, H, W)."""
        batch, _, height, width = x.shape
        size = self.out_channels // self.groups
        x = x.reshape(batch, self.groups, size, height * width)
        y = self.weight.view(self.groups, size, size) @ x
        return y.view(batch, self.out_channels, height, width)


MIXERS: dict[str, Callable[[Block, float], nn.Module]] = {
    "relu_linear": LiteMLA,
    "softmax": SoftmaxAttention,
    "hyena": Hyena,
    "retention": Retention,
    "rwkv": RWKV,
}
