"""The convolutional blocks as PyTorch modules, and what they are made of.

Each takes the `Block` that describes it; the names of its parts are the official ones.
B batch, C channels, H height, W width.

Source: Cai et al., EfficientViT, ICCV 2023, https://arxiv.org/abs/2205.14756
"""

from collections.abc import Sequence

from torch import Tensor, nn

from supernet.blocks import Activation, Block


def activation_module(activation: Activation) -> nn.Module:
    if activation == "hswish":
        return nn.Hardswish()
    if activation == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    return nn.Identity()


class ConvNormAct(nn.Module):
    """Convolution with padding kernel_size // 2, batch normalisation, activation.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        activation: Activation = "none",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=eps) if norm else nn.Identity()
        self.act = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        return x


class Conv(ConvNormAct):
    """A single convolution as a block: of the stem, or 1x1 in a head."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__(
            block.in_channels,
            block.out_channels,
            block.kernel_size,
            stride=block.stride,
            bias=block.norm == "none",
            norm=block.norm == "batch",
            activation=block.activation,
            eps=eps,
        )


class LocalBlock(nn.Module):
    """A chain of convolutions, the last one normalised and without activation.

    With `norm="fewer"` the others have a bias instead of a normalisation.
    """

    def __init__(
        self, block: Block, eps: float, convs: Sequence[tuple[str, int, int, int]]
    ) -> None:
        """`convs`: name, output channels, kernel size and stride of each; 0 stride: depthwise."""
        super().__init__()
        fewer = block.norm == "fewer"
        channels = block.in_channels
        for index, (name, out_channels, kernel_size, stride) in enumerate(convs):
            last = index == len(convs) - 1
            self.add_module(
                name,
                ConvNormAct(
                    channels,
                    out_channels,
                    kernel_size,
                    stride=stride,
                    groups=channels if name == "depth_conv" else 1,
                    bias=fewer and not last,
                    norm=not fewer or last,
                    activation="none" if last else block.activation,
                    eps=eps,
                ),
            )
            channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.children():
            x = conv(x)
        return x


class DSConv(LocalBlock):
    """Depthwise, then 1x1."""

    def __init__(self, block: Block, eps: float) -> None:
        depth = ("depth_conv", block.mid_channels, block.kernel_size, block.stride)
        super().__init__(block, eps, [depth, ("point_conv", block.out_channels, 1, 1)])


class MBConv(LocalBlock):
    """1x1 to mid_channels, depthwise, 1x1."""

    def __init__(self, block: Block, eps: float) -> None:
        mid = block.mid_channels
        inverted = ("inverted_conv", mid, 1, 1)
        depth = ("depth_conv", mid, block.kernel_size, block.stride)
        super().__init__(block, eps, [inverted, depth, ("point_conv", block.out_channels, 1, 1)])


class FusedMBConv(LocalBlock):
    """k x k to mid_channels, 1x1."""

    def __init__(self, block: Block, eps: float) -> None:
        spatial = ("spatial_conv", block.mid_channels, block.kernel_size, block.stride)
        super().__init__(block, eps, [spatial, ("point_conv", block.out_channels, 1, 1)])


class ResBlock(LocalBlock):
    """k x k, k x k."""

    def __init__(self, block: Block, eps: float) -> None:
        k = block.kernel_size
        first = ("conv1", block.mid_channels, k, block.stride)
        super().__init__(block, eps, [first, ("conv2", block.out_channels, k, 1)])


class Residual(nn.Module):
    """Adds a block's input to its output.

    Not in place, with or without gradients: one graph is traced and exported, and hooks on
    `main` keep what they saw.
    """

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(x)
        return y + x


class LayerNorm2d(nn.LayerNorm):
    """Normalises over C at each position of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
