"""All distinct blocks that the networks of a space are made of, without going through them.

A stage's local blocks depend on the resolution, the stage's width, the width before it and their
own choices, its mixers on resolution, width and theirs; a head's blocks on the resolution, the
widths of the stages that it reads and the head. So every block is found in networks that vary
these alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from lut.measuring.probes import key_of
from supernet.arch import Arch, ClassificationHead, Head, SegmentationHead
from supernet.blocks import Block, blocks_of
from supernet.official import BACKBONES, heads_of
from supernet.space import Part, Space

Values = dict[str, Any]
TAPPED = 3  # last stages that a dense head reads


def distinct_blocks(space: Space) -> list[Block]:
    """Return every block of every Arch of `space`, once, sorted by kind and shape."""
    blocks: set[Block] = set()
    for part in space.parts:
        for arch, group in _witnesses(space, part):
            blocks.update(key_of(b) for b in blocks_of(arch) if b.stage == group)
    return sorted(blocks, key=_order)


def _witnesses(space: Space, part: Part) -> Iterator[tuple[Arch, str]]:
    """Yield networks, and which of their stages each shows; together they show every block."""
    dimensions = dict(part.dimensions)
    deepest = {name: choices[-1:] for name, choices in dimensions.items() if ".depth" in name}
    dimensions |= deepest
    head_dims, heads = _of_heads(space, part)
    for number in range(1, len(part.reference.stages) + 1):
        if head_dims and f"stage{number}.mixer" in dimensions:
            dimensions.setdefault(f"stage{number}.head_dim", head_dims)
    least: Values = {name: choices[0] for name, choices in dimensions.items()}
    last = len(part.reference.stages)
    for group, names in _groups(dimensions, last):
        for values in _combinations(dimensions, names):
            arch = part.build(least | values, space.num_classes or 1000)
            for head in heads if group == "head" else heads[:1]:
                yield replace(arch, head=head) if head else arch, group


def _groups(dimensions: Mapping[str, Any], last: int) -> Iterator[tuple[str, list[str]]]:
    """Yield stages (stem, ..., head) and the dimensions that some of their blocks depend on."""
    groups = [("stem", ["stem.width", "stem.depth"])]
    for number in range(1, last + 1):
        stage = f"stage{number}"
        before = f"stage{number - 1}.width" if number > 1 else "stem.width"
        of_mixer = [f"{stage}.{name}" for name in ("mixer", "scales", "head_dim")]
        own = [name for name in dimensions if name.startswith(f"{stage}.")]
        groups.append((stage, [before, *(name for name in own if name not in of_mixer)]))
        groups.append((stage, [f"{stage}.depth", f"{stage}.width", *of_mixer]))
    read = [f"stage{number}.width" for number in range(last - TAPPED + 1, last + 1)]
    groups.append(("head", [*read, "head.widths"]))
    for group, names in groups:
        yield group, ["resolution", *(name for name in names if name in dimensions)]


def _combinations(dimensions: Mapping[str, Any], names: list[str]) -> Iterator[Values]:
    for values in product(*(dimensions[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def _of_heads(space: Space, part: Part) -> tuple[tuple[int, ...], list[Head | None]]:
    """Return head dims and heads of the nearest official networks; none where they are searched."""
    if space.dataset is None:
        return (), [None]
    names = [
        name
        for name in heads_of(space.dataset)
        if BACKBONES[name].family == part.family
        and (
            space.dataset == "imagenet" or len(BACKBONES[name].stages) == len(part.reference.stages)
        )
    ]
    dims = tuple(sorted({BACKBONES[name].stages[-1].head_dim for name in names}))
    if "head.widths" in part.dimensions:
        return dims, [None]
    heads: list[Head | None] = []
    for name in names:
        head = heads_of(space.dataset)[name]
        if space.num_classes is not None and isinstance(
            head, ClassificationHead | SegmentationHead
        ):
            head = replace(head, num_classes=space.num_classes)
        if head not in heads:
            heads.append(head)
    return dims, heads


def _order(block: Block) -> tuple[Any, ...]:
    size = (block.height, block.width, block.in_channels, block.out_channels)
    return (block.kind, *size, repr(block))
