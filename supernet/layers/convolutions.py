"""The convolutional blocks as PyTorch modules, and what they are made of.

Each takes the `Block` that describes it; the names of its parts are the official ones.
B batch, C channels, H height, W width.

Source: Cai et al., EfficientViT, ICCV 2023, https://arxiv.org/abs/2205.14756
"""

from torch import Tensor, nn

from supernet.blocks import Activation, Block
from supernet.convolutions import Convolution, convolutions_of


def activation_module(activation: Activation) -> nn.Module:
    """Return the module of an activation; the identity for none."""
    if activation == "hswish":
        return nn.Hardswish()
    if activation == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    return nn.Identity()


class ConvNormAct(nn.Module):
    """Convolution with padding kernel_size // 2, batch normalisation, activation.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, conv: Convolution, eps: float) -> None:
        """Take a convolution, and `eps` for its normalisation."""
        super().__init__()
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.kernel_size // 2,
            groups=conv.groups,
            bias=conv.bias,
        )
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=eps) if conv.norm else nn.Identity()
        self.act = activation_module(conv.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(norm(conv(x)))."""
        x = self.act(self.norm(self.conv(x)))
        return x


class Conv(ConvNormAct):
    """A single convolution as a block: of the stem, or 1x1 in a head."""

    def __init__(self, block: Block, eps: float) -> None:
        (only,) = convolutions_of(block)
        super().__init__(only, eps)


class LocalBlock(nn.Module):
    """A chain of convolutions, by the names that `convolutions_of` gives them."""

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        for conv in convolutions_of(block):
            self.add_module(conv.name, ConvNormAct(conv, eps))

    def forward(self, x: Tensor) -> Tensor:
        """Run the convolutions in turn."""
        for conv in self.children():
            x = conv(x)
        return x


class Residual(nn.Module):
    """Adds a block's input to its output.

    Not in place, with or without gradients: one graph is traced and exported, and hooks on
    `main` keep what they saw.
    """

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """Return main(x) + x."""
        y: Tensor = self.main(x)
        return y + x


class LayerNorm2d(nn.LayerNorm):
    """Normalises over C at each position of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return x of the same shape, normalised."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
