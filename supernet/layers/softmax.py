"""Softmax attention, what the other mixers are measured against.

B batch, C channels, H height, W width; N heads, D head dim, T = H * W tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.convolutions import Convolution
from supernet.layers.convolutions import ConvNormAct


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v, without holding the T x T map where a kernel can.

    Products of float16 reach 65504^2 D. PyTorch's kernels add them up in float32, but a graph
    exported from float16 has plain products: so float16 is computed in float32. bfloat16 has
    float32's range and stays.

    Args:
        q, k, v: (B, N, T, D), any floating dtype, finite.

    Returns:
        (B, N, T, D) in q's dtype: averages of v's rows, hence finite.

    Source: Vaswani et al., 2017, eq. 1, https://arxiv.org/abs/1706.03762
    """
    dtype = q.dtype
    if dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    # on a CPU the kernel takes up to ten times as long for strided tokens
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return F.scaled_dot_product_attention(q, k, v).to(dtype)


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention: (B, C, H, W) -> (B, out_channels, H, W), any H and W.

    Channels of `qkv` are ordered as in LiteMLA, by head, then q, k, v. Time grows with T^2.
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        self.head_dim = block.head_dim
        total = block.num_heads * block.head_dim
        self.qkv = ConvNormAct(Convolution("qkv", block.in_channels, 3 * total), eps)
        self.proj = ConvNormAct(Convolution("proj", total, block.out_channels, norm=True), eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map, (B, out_channels, H, W)."""
        qkv = self.qkv(x)
        batch, channels, height, width = qkv.shape
        heads = channels // (3 * self.head_dim)
        qkv = qkv.reshape(batch, heads, 3, self.head_dim, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(2)
        x = softmax_attention(q, k, v).transpose(-1, -2)
        x = self.proj(x.reshape(batch, heads * self.head_dim, height, width))
        return x
