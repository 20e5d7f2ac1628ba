"""The convolutions that a block is made of: modules, costs and builders all read them here."""

from typing import NamedTuple

from results.errors import ArchError
from supernet.blocks import Activation, Block


class Convolution(NamedTuple):  # made by the ten thousand, in a third of a dataclass's time
    """One convolution: zero padding kernel_size // 2, then batch normalisation and activation."""

    name: str  # of its tensors, below those of the block; "" where it is the whole block
    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: bool = False
    activation: Activation = "none"


def convolutions_of(block: Block) -> tuple[Convolution, ...]:
    """Return the convolutions of a `conv` or local block, each of which reads the one before.

    The last one of a local block is normalised and has no activation. With norm="fewer" the
    others have a bias instead of a normalisation.

    Raises ArchError for a block of another kind.
    """
    if block.kind == "conv":
        only = Convolution(
            "",
            block.in_channels,
            block.out_channels,
            block.kernel_size,
            block.stride,
            bias=block.norm == "none",
            norm=block.norm == "batch",
            activation=block.activation,
        )
        return (only,)
    *others, last = _chain_of(block)
    fewer = block.norm == "fewer"
    inner = [_followed(conv, fewer, not fewer, block.activation) for conv in others]
    return (*inner, _followed(last, False, True, "none"))


def _followed(conv: Convolution, bias: bool, norm: bool, activation: Activation) -> Convolution:
    """Return a convolution with what follows it."""
    return conv._replace(bias=bias, norm=norm, activation=activation)


def _chain_of(block: Block) -> tuple[Convolution, ...]:
    """Return the convolutions of a local block without what follows each."""
    mid, size, stride = block.mid_channels, block.kernel_size, block.stride
    depth = Convolution("depth_conv", mid, mid, size, stride, groups=mid)
    point = Convolution("point_conv", mid, block.out_channels)
    if block.kind == "dsconv":
        return depth, point
    if block.kind == "mbconv":
        return Convolution("inverted_conv", block.in_channels, mid), depth, point
    if block.kind == "fused_mbconv":
        return Convolution("spatial_conv", block.in_channels, mid, size, stride), point
    if block.kind == "resblock":
        first = Convolution("conv1", block.in_channels, mid, size, stride)
        return first, Convolution("conv2", mid, block.out_channels, size)
    raise ArchError(
        f"{block.kind} is no local block; supernet/blocks.py tells what each is made of"
    )
