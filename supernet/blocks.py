"""`blocks_of(arch)`: the single description of a network, as a list of `Block`s.

The PyTorch model, the ONNX and TFLite builders, the keys of the latency tables and all
costs are derived from this list; nothing else knows the order of layers.

Sizes are C channels, H height and W width of one image; batch is not part of a Block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from supernet.arch import (
    UNEXPANDED,
    Arch,
    ClassificationHead,
    LocalKind,
    PromptableHead,
    SegmentationHead,
    Stage,
)

BlockKind = Literal[
    "conv",  # convolution, normalisation, activation
    "dsconv",  # depthwise, 1x1
    "mbconv",  # 1x1, depthwise, 1x1
    "fused_mbconv",  # k x k, 1x1
    "resblock",  # k x k, k x k
    "relu_linear",  # multi-scale LiteMLA
    "softmax",
    "hyena",
    "retention",
    "rwkv",
    "pool",  # global average
    "linear",
    "upsample",
    "add",  # of all inputs; in_channels is their sum
    "layer_norm",  # over channels
]
# batch: every convolution normalised, no bias. fewer: the last one; the others have a bias.
# layer: no bias, layer norm. none: bias instead. The official code knows no other combination.
Norm = Literal["batch", "fewer", "layer", "none"]
Activation = Literal["hswish", "gelu_tanh", "none"]
UpsampleMode = Literal["", "bicubic", "bilinear"]  # empty for all other kinds


@dataclass(frozen=True, slots=True)
class Block:
    """One block at one shape: the unit that is measured, and the key of a latency table.

    Where it stands (`inputs`, `stage`) takes no part in equality or hash.
    """

    kind: BlockKind
    in_channels: int
    out_channels: int
    height: int  # of the input
    width: int
    mid_channels: int = 0  # hidden channels of a local block
    kernel_size: int = 1
    stride: int = 1
    norm: Norm = "batch"
    activation: Activation = "none"  # not after a local block's last convolution
    residual: bool = False  # adds the input to the output
    num_heads: int = 0
    head_dim: int = 0
    scales: tuple[int, ...] = ()
    out_height: int = 0  # upsample only; 0: follows from height and stride
    out_width: int = 0
    mode: UpsampleMode = ""
    inputs: tuple[int, ...] = field(default=(), compare=False)  # indices; (): the one before
    stage: str = field(default="", compare=False)  # stem, stage1, ..., head

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        if self.kind in ("pool", "linear"):
            return 1, 1
        if self.out_height:
            return self.out_height, self.out_width
        return -(-self.height // self.stride), -(-self.width // self.stride)


def blocks_of(arch: Arch) -> tuple[Block, ...]:
    """All blocks of `arch`, in order of execution; the first one reads the image."""
    blocks: list[Block] = []
    taps: dict[int, int] = {}  # stage number -> index of its last block
    for block in _stem(arch):
        blocks.append(block)
    for number, stage in enumerate(arch.stages, start=1):
        for block in _stage(arch, number, stage, blocks[-1]):
            blocks.append(block)
        taps[number] = len(blocks) - 1
    head = arch.head
    if isinstance(head, ClassificationHead):
        blocks.extend(_classification(head, blocks[-1], activation_of(arch)))
    elif isinstance(head, SegmentationHead):
        fused = {n: taps[n] for n in (4, 3, 2)}
        height, width = blocks[fused[2]].out_size
        _fuse(blocks, fused, head.width, (height, width), head.upsample)
        _dense_middle(blocks, head, head.local, activation_of(arch))
        if head.final_expand:
            expanded = _conv(blocks[-1], head.width * head.final_expand)
            blocks.append(replace(expanded, activation=activation_of(arch)))
        blocks.append(_conv(blocks[-1], head.num_classes, norm="none"))
    elif isinstance(head, PromptableHead):
        last = len(arch.stages)
        fused = {n: taps[n] for n in (last, last - 1, last - 2)}
        _fuse(blocks, fused, head.width, (head.size, head.size), "bicubic")
        _dense_middle(blocks, head, "fused_mbconv", activation_of(arch))
        blocks.append(_conv(blocks[-1], head.out_channels, norm="none"))
        normed = _conv(blocks[-1], head.out_channels, norm="layer")
        blocks.append(replace(normed, kind="layer_norm"))
    return tuple(blocks)


def activation_of(arch: Arch) -> Activation:
    return "hswish" if arch.family == "b" else "gelu_tanh"


def _stem(arch: Arch) -> Iterator[Block]:
    activation = activation_of(arch)
    width = arch.stem.width
    conv = Block("conv", 3, width, *arch.resolution, kernel_size=3, stride=2, stage="stem")
    conv = replace(conv, activation=activation)
    yield conv
    kind: LocalKind = "dsconv" if arch.family == "b" else "resblock"
    for _ in range(arch.stem.depth):
        yield _local(kind, width, width, conv.out_size, activation, "stem", residual=True)


def _stage(arch: Arch, number: int, stage: Stage, before: Block) -> Iterator[Block]:
    """The downsampling block, then the others; Stage.depth counts as the official lists do."""
    activation = activation_of(arch)
    name = f"stage{number}"
    fewer = number > len(arch.stages) - 2
    expand = stage.expand_ratio * (4 if arch.family == "l" else 1)
    down = _local(
        stage.local,
        before.out_channels,
        stage.width,
        before.out_size,
        activation,
        name,
        kernel_size=stage.kernel_size,
        expand_ratio=expand,
        stride=2,
        fewer=fewer,
    )
    yield down
    own_downsampling = arch.family == "l" or number in arch.attention_stages
    for _ in range(stage.depth if own_downsampling else stage.depth - 1):
        if stage.mixer != "none":
            yield Block(
                stage.mixer,
                stage.width,
                stage.width,
                *down.out_size,
                num_heads=stage.width // stage.head_dim if stage.head_dim else 0,
                head_dim=stage.head_dim,
                scales=stage.scales,
                residual=True,
                stage=name,
            )
        yield _local(
            stage.local,
            stage.width,
            stage.width,
            down.out_size,
            activation,
            name,
            kernel_size=stage.kernel_size,
            expand_ratio=stage.expand_ratio,
            fewer=fewer,
            residual=True,
        )


def _local(
    kind: LocalKind,
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    activation: Activation,
    stage: str,
    *,
    kernel_size: int = 3,
    expand_ratio: int = 1,
    stride: int = 1,
    fewer: bool = False,
    residual: bool = False,
) -> Block:
    mid_channels = in_channels * (1 if kind in UNEXPANDED else expand_ratio)
    return Block(
        kind,
        in_channels,
        out_channels,
        *size,
        mid_channels=mid_channels,
        kernel_size=kernel_size,
        stride=stride,
        norm="fewer" if fewer else "batch",
        activation=activation,
        residual=residual,
        stage=stage,
    )


def _classification(head: ClassificationHead, last: Block, act: Activation) -> Iterator[Block]:
    conv = replace(_conv(last, head.widths[0]), activation=act)
    yield conv
    yield replace(_conv(conv, head.widths[0], norm="none"), kind="pool")
    features, hidden = head.widths
    yield Block("linear", features, hidden, 1, 1, norm="layer", activation=act, stage="head")
    yield Block("linear", hidden, head.num_classes, 1, 1, norm="none", stage="head")


def _conv(before: Block, out_channels: int, norm: Norm = "batch") -> Block:
    """A 1x1 convolution of the head, without activation."""
    return Block(
        "conv", before.out_channels, out_channels, *before.out_size, norm=norm, stage="head"
    )


def _fuse(
    blocks: list[Block],
    taps: dict[int, int],
    width: int,
    size: tuple[int, int],
    mode: UpsampleMode,
) -> None:
    """Bring the tapped stages to `width` channels and `size`, and add them."""
    branches = []
    for tap in taps.values():
        conv = replace(_conv(blocks[tap], width), inputs=(tap,))
        blocks.append(conv)
        if conv.out_size != size:
            up = Block("upsample", width, width, *conv.out_size, norm="none", stage="head")
            blocks.append(replace(up, out_height=size[0], out_width=size[1], mode=mode))
        branches.append(len(blocks) - 1)
    channels = width * len(branches)
    added = Block("add", channels, width, *size, norm="none", stage="head")
    blocks.append(replace(added, inputs=tuple(branches)))


def _dense_middle(
    blocks: list[Block],
    head: SegmentationHead | PromptableHead,
    kind: LocalKind,
    activation: Activation,
) -> None:
    for _ in range(head.depth):
        before = blocks[-1]
        blocks.append(
            _local(
                kind,
                head.width,
                head.width,
                before.out_size,
                activation,
                "head",
                expand_ratio=head.expand_ratio,
                residual=True,
            )
        )
