"""What only heads are made of: pooling, linear layers, resizing, sums, SAM's closing norm.

Each takes the `Block` that describes it. B batch, C channels, H height, W width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.layers.convolutions import LayerNorm2d, activation_module


class GlobalPool(nn.Module):
    """(B, C, H, W) -> (B, C): the mean over all positions."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return the means, (B, C)."""
        return x.mean((2, 3))


class LinearNormAct(nn.Module):
    """(B, in_channels) -> (B, out_channels): linear, and with norm="layer" LayerNorm for a bias."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        layer = block.norm == "layer"
        self.linear = nn.Linear(block.in_channels, block.out_channels, bias=not layer)
        self.norm = nn.LayerNorm(block.out_channels, eps=eps) if layer else nn.Identity()
        self.act = activation_module(block.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(norm(linear(x))), (B, out_channels)."""
        x = self.act(self.norm(self.linear(x)))
        return x


class Upsample(nn.Module):
    """Resizes to the block's size, or to that of a second input, in x's dtype.

    Corners are not aligned (the official setting).
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        self.size = block.out_size
        self.mode = block.mode

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Return x at the block's size, or at that of `like`."""
        size = self.size if like is None else like.shape[-2:]
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size=size, mode=self.mode, align_corners=False)


class PixelShuffle(nn.PixelShuffle):
    """(B, r^2 C, H, W) -> (B, C, r H, r W), r the stride of the block."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__(block.stride)


class Add(nn.Module):
    """The sum of all inputs, which have one shape."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum of all inputs."""
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class ChannelNorm(LayerNorm2d):
    """Layer normalisation over channels as a block, after SAM's neck."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__(block.out_channels, eps)
