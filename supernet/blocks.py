"""`blocks_of(arch)`: the single description of a network, as a list of `Block`s.

The PyTorch model, the ONNX and TFLite builders, the keys of the latency tables and all
costs are derived from this list; nothing else knows the order of layers.

Sizes are C channels, H height and W width of one image; batch is not part of a Block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TypeVar

from results.errors import ArchError, UserError
from supernet.arch import (
    UNEXPANDED,
    Arch,
    ClassificationHead,
    Family,
    LocalKind,
    MixerKind,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
    attention_stages,
)

BlockKind = Literal[
    "conv",  # convolution, normalisation, activation
    LocalKind,
    MixerKind,
    "pool",  # global average
    "linear",
    "upsample",  # to out_height x out_width, or to the size of a second input
    "pixel_shuffle",  # (stride^2 C, H, W) to (C, stride H, stride W)
    "add",  # of all inputs; in_channels is their sum
    "layer_norm",  # over channels
]
# batch: every convolution normalised, no bias. fewer: the last one; the others have a bias.
# layer: no bias, layer norm. none: bias instead. The official code knows no other combination.
Norm = Literal["batch", "fewer", "layer", "none"]
Activation = Literal["hswish", "gelu_tanh", "none"]
UpsampleMode = Literal["", "bicubic", "bilinear"]  # empty for all other kinds
Entry = TypeVar("Entry")
IMAGE = -1  # the network's input among the indices of blocks: the one before the first


@dataclass(frozen=True, slots=True)
class Block:
    """One block at one shape: the unit that is measured, and the key of a latency table.

    Where it stands (`inputs`, `name`) takes no part in equality or hash.
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
    out_height: int = 0  # upsample and pixel_shuffle; 0: follows from height and stride
    out_width: int = 0
    mode: UpsampleMode = ""
    inputs: tuple[int, ...] = field(default=(), compare=False)  # indices; (): the one before
    name: str = field(default="", compare=False)  # unique in a network: stage3.1.relu_linear16

    @property
    def stage(self) -> str:
        """Return stem, stage1, ..., or head."""
        return self.name.partition(".")[0]

    @property
    def out_size(self) -> tuple[int, int]:
        """Return (height, width) of the output."""
        if self.kind in ("pool", "linear"):
            return 1, 1
        if self.out_height:
            return self.out_height, self.out_width
        return -(-self.height // self.stride), -(-self.width // self.stride)

    def describe(self) -> str:
        """Return kind and shape in short: mbconv 32-32 56x56 m128k3s1."""
        parts = [
            self.kind,
            f"{self.in_channels}-{self.out_channels}",
            f"{self.height}x{self.width}",
        ]
        if self.mid_channels:
            parts.append(f"m{self.mid_channels}k{self.kernel_size}s{self.stride}")
        if self.head_dim:
            parts.append(
                f"h{self.num_heads}x{self.head_dim}" + "".join(f"+{s}" for s in self.scales)
            )
        return " ".join(parts)


def blocks_of(arch: Arch) -> tuple[Block, ...]:
    """Return all blocks of `arch`, in order of execution; the first one reads the image."""
    blocks: list[Block] = []
    taps: dict[int, int] = {}  # stage number, 0 the stem -> index of its last block
    blocks.extend(stem_blocks(arch.family, arch.stem, arch.resolution))
    taps[0] = len(blocks) - 1
    for number, stage in enumerate(arch.stages, start=1):
        place = Place(arch.family, len(arch.stages), number)
        before = blocks[-1]
        blocks.extend(stage_blocks(place, stage, before.out_channels, before.out_size))
        taps[number] = len(blocks) - 1
    head = arch.head
    if isinstance(head, ClassificationHead):
        blocks.extend(_classification(head, blocks[-1], activation_of(arch.family)))
    elif isinstance(head, SegmentationHead):
        _fuse(blocks, {n: taps[n] for n in (4, 3, 2)}, head.width, head.upsample)
        _dense_middle(blocks, head, head.local, activation_of(arch.family))
        if head.final_expand:
            expanded = _conv("expand", blocks[-1], head.width * head.final_expand)
            blocks.append(replace(expanded, activation=activation_of(arch.family)))
        blocks.append(_conv("classifier", blocks[-1], head.num_classes, norm="none"))
    elif isinstance(head, PromptableHead):
        last = len(arch.stages)
        fused = {n: taps[n] for n in (last, last - 1, last - 2)}
        _fuse(blocks, fused, head.width, "bicubic", (head.size, head.size))
        _dense_middle(blocks, head, "fused_mbconv", activation_of(arch.family))
        blocks.append(_conv("embed", blocks[-1], head.out_channels, norm="none"))
        normed = _conv("norm", blocks[-1], head.out_channels, norm="layer")
        blocks.append(replace(normed, kind="layer_norm"))
    elif isinstance(head, SuperResolutionHead):
        _fuse(blocks, dict(reversed(taps.items())), head.width, "bilinear")
        _dense_middle(blocks, head, "mbconv", activation_of(arch.family))
        _enlarge(blocks, arch, head)
    elif isinstance(head, ReconstructionHead):
        blocks.append(_conv("patches", blocks[-1], 3 * arch.stride**2, norm="none"))
        blocks.append(_shuffle(blocks[-1], arch.stride, arch.resolution))
    return tuple(blocks)


def entry_of(
    table: Mapping[str, Entry],
    block: Block,
    file: str,
    error: type[UserError] = ArchError,
) -> Entry:
    """Return what a table by kinds of blocks, in `file`, has for a block.

    Raises `error` where it has nothing: a kind was added in other files and not in this one.
    """
    if block.kind not in table:
        raise error(f"{file} has nothing for {block.kind}; see CONTRIBUTING.md, Add a mixer")
    return table[block.kind]


def activation_of(family: Family) -> Activation:
    """Return the activation of a family."""
    return "hswish" if family == "b" else "gelu_tanh"


@lru_cache(maxsize=1 << 10)
def stem_blocks(family: Family, stem: Stem, resolution: tuple[int, int]) -> tuple[Block, ...]:
    """Return the convolution of the stem, then its `depth` residual blocks."""
    activation = activation_of(family)
    width = stem.width
    conv = Block("conv", 3, width, *resolution, kernel_size=3, stride=stem.stride)
    conv = replace(conv, activation=activation, name="stem.0.conv")
    kind: LocalKind = "dsconv" if family == "b" else "resblock"
    height, wide = conv.out_size
    local = Block(
        kind, width, width, height, wide, kernel_size=3, activation=activation, residual=True
    )
    return (conv, *(_local(f"stem.{i}", local, 1) for i in range(1, stem.depth + 1)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage stands: what decides its blocks besides its own choices and its input."""

    family: Family
    num_stages: int
    number: int  # from 1

    def repeats(self, depth: int) -> int:
        """Return how many blocks follow the downsampling one.

        Depth counts as the official lists do: in family l, and in stages that may hold attention,
        without the downsampling block.
        """
        attention = attention_stages(self.family, self.num_stages)
        own_downsampling = self.family == "l" or self.number in attention
        return depth - 1 + own_downsampling


@lru_cache(maxsize=1 << 14)
def stage_blocks(
    place: Place, stage: Stage, in_channels: int, in_size: tuple[int, int]
) -> tuple[Block, ...]:
    """Return the downsampling block of a stage, then each repeated mixer and local block.

    `in_channels` and `in_size`, (height, width), are those of the output before.
    """
    return tuple(_stage_blocks(place, stage, in_channels, in_size))


def downsampling_block(
    place: Place, stage: Stage, in_channels: int, in_size: tuple[int, int]
) -> Block:
    """Return the first block of a stage; arguments as for `stage_blocks`."""
    expand_ratio = stage.expand_ratio * (4 if place.family == "l" else 1)
    return Block(
        stage.local,
        in_channels,
        stage.width,
        *in_size,
        mid_channels=_hidden(stage.local, in_channels, expand_ratio),
        kernel_size=stage.kernel_size,
        stride=2,
        norm="fewer" if place.number > place.num_stages - 2 else "batch",
        activation=activation_of(place.family),
        name=f"stage{place.number}.0.{stage.local}",
    )


def _stage_blocks(
    place: Place, stage: Stage, in_channels: int, in_size: tuple[int, int]
) -> Iterator[Block]:
    name = f"stage{place.number}"
    down = downsampling_block(place, stage, in_channels, in_size)
    yield down
    height, width = down.out_size
    local = Block(
        stage.local,
        stage.width,
        stage.width,
        height,
        width,
        kernel_size=stage.kernel_size,
        norm=down.norm,
        activation=down.activation,
        residual=True,
    )
    for i in range(1, 1 + place.repeats(stage.depth)):
        if stage.mixer != "none":
            yield Block(
                stage.mixer,
                stage.width,
                stage.width,
                height,
                width,
                num_heads=stage.width // stage.head_dim if stage.head_dim else 0,
                head_dim=stage.head_dim,
                scales=stage.scales,
                residual=True,
                name=f"{name}.{i}.{stage.mixer}{stage.head_dim or ''}",
            )
        yield _local(f"{name}.{i}", local, stage.expand_ratio)


def _hidden(kind: BlockKind, in_channels: int, expand_ratio: int) -> int:
    return in_channels * (1 if kind in UNEXPANDED else expand_ratio)


def _local(position: str, block: Block, expand_ratio: int) -> Block:
    """Return a local block with its hidden channels and its name at `position`: stage3.1."""
    hidden = _hidden(block.kind, block.in_channels, expand_ratio)
    return Block(  # `replace` takes twice as long, and a search comes here for every block
        block.kind,
        block.in_channels,
        block.out_channels,
        block.height,
        block.width,
        mid_channels=hidden,
        kernel_size=block.kernel_size,
        stride=block.stride,
        norm=block.norm,
        activation=block.activation,
        residual=block.residual,
        name=f"{position}.{block.kind}",
    )


def _classification(head: ClassificationHead, last: Block, act: Activation) -> Iterator[Block]:
    features, hidden = head.widths
    name = f"{features}x{hidden}"
    conv = replace(_conv(f"{name}.conv", last, features), activation=act)
    yield conv
    yield replace(_conv(f"{name}.pool", conv, features, norm="none"), kind="pool")
    linear = Block("linear", features, hidden, 1, 1, norm="layer", activation=act)
    yield replace(linear, name=f"head.{name}.linear")
    classifier = Block("linear", hidden, head.num_classes, 1, 1, norm="none")
    yield replace(classifier, name=f"head.{name}.classifier")


def _conv(name: str, before: Block, out_channels: int, norm: Norm = "batch") -> Block:
    """Return a 1x1 convolution of the head, without activation."""
    size = before.out_size
    return Block("conv", before.out_channels, out_channels, *size, norm=norm, name=f"head.{name}")


def _fuse(
    blocks: list[Block],
    taps: dict[int, int],
    width: int,
    mode: UpsampleMode,
    size: tuple[int, int] | None = None,
) -> None:
    """Bring the tapped stages to `width` channels and one size, and add them.

    Without `size` it is the size of the last tap, whatever that is at run time.
    """
    last = list(taps.values())[-1]
    height, wide = size or blocks[last].out_size
    branches = []
    for number, tap in taps.items():
        name = f"stage{number}" if number else "stem"
        conv = replace(_conv(f"{name}.conv", blocks[tap], width), inputs=(tap,))
        blocks.append(conv)
        if tap != last if size is None else conv.out_size != size:
            up = replace(_conv(f"{name}.upsample", conv, width, norm="none"), kind="upsample")
            up = replace(up, out_height=height, out_width=wide, mode=mode)
            inputs = () if size else (len(blocks) - 1, last)
            blocks.append(replace(up, inputs=inputs))
        branches.append(len(blocks) - 1)
    added = Block("add", width * len(branches), width, height, wide, norm="none")
    blocks.append(replace(added, inputs=tuple(branches), name="head.add"))


def _enlarge(blocks: list[Block], arch: Arch, head: SuperResolutionHead) -> None:
    """Append the blocks of the enlarged picture: what the pixels hold, on top of a bicubic one."""
    height, width = (side * head.scale for side in arch.resolution)
    conv = _conv("pixels", blocks[-1], 3 * head.scale**2, norm="none")
    blocks.append(replace(conv, kernel_size=3))
    blocks.append(_shuffle(blocks[-1], head.scale, (height, width)))
    picture = Block("upsample", 3, 3, *arch.resolution, norm="none", mode="bicubic")
    picture = replace(picture, out_height=height, out_width=width, name="head.bicubic")
    pixels = len(blocks) - 1
    blocks.append(replace(picture, inputs=(IMAGE, pixels)))
    added = Block("add", 6, 3, height, width, norm="none", name="head.sum")
    blocks.append(replace(added, inputs=(pixels, pixels + 1)))


def _shuffle(before: Block, stride: int, size: tuple[int, int]) -> Block:
    """Return the block that turns channels into pixels of a picture of `size`, (height, width)."""
    shuffle = Block("pixel_shuffle", before.out_channels, 3, *before.out_size, stride=stride)
    shuffle = replace(shuffle, norm="none", out_height=size[0], out_width=size[1])
    return replace(shuffle, name="head.shuffle")


def _dense_middle(
    blocks: list[Block],
    head: SegmentationHead | PromptableHead | SuperResolutionHead,
    kind: LocalKind,
    activation: Activation,
) -> None:
    local = Block(kind, head.width, head.width, *blocks[-1].out_size, kernel_size=3)
    local = replace(local, activation=activation, residual=True)
    for i in range(head.depth):
        blocks.append(_local(f"head.{i}", local, head.expand_ratio))
