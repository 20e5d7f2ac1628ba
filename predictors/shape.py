"""How far an architecture is from the shapes that figures were published for.

Every published EfficientViT doubles its width from stage to stage, spreads depth alike, has
3x3 kernels and the same attention: of anything else its figures say nothing, and a prediction
there deserves less trust. Of 5x5 depthwise kernels and of attention without multi-scale branches
other figures tell: those add an error of their own instead of distance.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from supernet.arch import UNEXPANDED, Arch, LocalKind, Stage
from supernet.blocks import Place, stage_blocks, stem_blocks
from supernet.cost import network_cost
from supernet.official import BACKBONES
from supernet.space import Freeze, Part, Space, Value

Numbers = Any  # a number, or one for each of many networks: an array (networks,)

# Of these EfficientViT's own figures say nothing; see `judged_space`.
UNPUBLISHED = ("kernel_size", "local", "mixer", "scales")
MACS, RESOLUTION = 0, 1  # indices of those features
SPREAD = slice(6, 13)  # of widths and depths over the stages
NUM_STRIDES = 5
DEPTHWISE: tuple[LocalKind, ...] = ("mbconv", "dsconv")  # local blocks of depthwise convolutions
LARGEST_KERNEL = 5  # of those in other spaces that tell what kernels are worth
LAST_STAGES = 4  # that every architecture has; SAM-XL's stage 5 is aligned with stage 4


@lru_cache(maxsize=1 << 14)
def canonical(arch: Arch) -> Arch:
    """Return the backbone with EfficientViT's local blocks, mixers, scales and head dim.

    What no figure can judge is removed, so that it can neither earn nor cost accuracy. The
    expand ratio stays (a smaller one must not come for free), except where the local block has
    none and so takes the family's. Depthwise kernels of 5 x 5 stay, as in other spaces they were
    worth their MACs; larger ones count as those. The head is dropped.
    """
    reference = reference_of(arch).stages
    stages = tuple(map(canonical_stage, arch.stages, reference))
    return replace(arch, stages=stages, head=None)


def reference_of(arch: Arch) -> Arch:
    """Return the smallest official network of the same family and number of stages."""
    if arch.family == "b":
        return BACKBONES["b0"]
    return BACKBONES["l0" if len(arch.stages) == 4 else "sam_xl0"]


@lru_cache(maxsize=1 << 14)
def canonical_stage(stage: Stage, reference: Stage) -> Stage:
    """Return a stage as `canonical` has it, see there; `reference` is the official one."""
    unexpanded = stage.local in UNEXPANDED
    return replace(
        reference,
        width=stage.width,
        depth=stage.depth,
        expand_ratio=reference.expand_ratio if unexpanded else stage.expand_ratio,
        kernel_size=_judged_kernel(stage, reference),
        head_dim=math.gcd(reference.head_dim, stage.width) if reference.head_dim else 0,
    )


def _judged_kernel(stage: Stage, reference: Stage) -> int:
    """Return the stage's kernel size, as far as it is known what that is worth."""
    if not (stage.local in DEPTHWISE and reference.local in DEPTHWISE):
        return reference.kernel_size
    return min(max(stage.kernel_size, reference.kernel_size), LARGEST_KERNEL)


@lru_cache(maxsize=1 << 14)
def canonical_cost(arch: Arch) -> tuple[tuple[int, ...], int]:
    """Return MACs of one image by output stride, and the number of blocks, of the canonical arch.

    Strides are 2, 4, 8, 16 and 32; those of SAM-XL's fifth stage, 64, count at 32.
    """
    macs = [0] * NUM_STRIDES
    blocks = stem_blocks(arch.family, arch.stem, arch.resolution)
    macs[0], num_blocks = network_cost(blocks).macs, len(blocks)
    channels, size = arch.stem.width, blocks[-1].out_size
    stages = zip(arch.stages, reference_of(arch).stages, strict=True)
    for number, (stage, reference) in enumerate(stages, start=1):
        place = Place(arch.family, len(arch.stages), number)
        own, count, size = _stage_cost(place, canonical_stage(stage, reference), channels, size)
        macs[min(number, NUM_STRIDES - 1)] += own
        num_blocks += count
        channels = stage.width
    return tuple(macs), num_blocks


@lru_cache(maxsize=1 << 14)
def _stage_cost(
    place: Place, stage: Stage, in_channels: int, in_size: tuple[int, int]
) -> tuple[int, int, tuple[int, int]]:
    """Return MACs, number of blocks and size of the output of a stage."""
    blocks = stage_blocks(place, stage, in_channels, in_size)
    return network_cost(blocks).macs, len(blocks), blocks[-1].out_size


def transferred(arch: Arch) -> tuple[int, float]:
    """Return what is judged by other figures than EfficientViT's own networks.

    That is the number of stages with 5 x 5 depthwise kernels, and the share of attention stages
    without a multi-scale branch.
    """
    kernels, without, attention = 0, 0, 0
    for stage, official in zip(arch.stages, reference_of(arch).stages, strict=True):
        kernels += is_larger(stage, official)
        attention += bool(official.scales)
        without += lacks_scales(stage, official)
    return kernels, without / max(attention, 1)


def judged_space(space: Space, settings: Sequence[str] = ()) -> Space:
    """Fix what no figure tells apart at the official values, but for dimensions in `settings`.

    `settings` as `Space.freeze` takes them. Choices that `is_judged` stay beside the official one.
    """
    asked = {freeze.dimension for freeze in map(Freeze.parse, settings)}
    parts = []
    for part in space.parts:
        kept = {
            name: tuple(c for c in choices if c == official or is_judged(part, name, c))
            for name, choices in part.dimensions.items()
            if name.partition(".")[2] in UNPUBLISHED
            and name not in asked
            and (official := part.official(name)) in choices
        }
        parts.append(replace(part, dimensions=part.dimensions | kept))
    return replace(space, parts=tuple(parts), spec=None)


def is_judged(part: Part, dimension: str, choice: Value) -> bool:
    """Tell whether networks of other spaces say that a choice gains: kernels of 5 x 5 do."""
    stage, _, field = dimension.partition(".")
    if field != "kernel_size" or not isinstance(choice, int):
        return False
    official = part.reference.stages[int(stage.removeprefix("stage")) - 1]
    return official.local in DEPTHWISE and official.kernel_size < choice <= LARGEST_KERNEL


def is_larger(stage: Stage, official: Stage) -> bool:
    """Tell whether a stage has larger depthwise kernels than the official one, of 5 x 5 or more."""
    return _judged_kernel(stage, official) != official.kernel_size


def lacks_scales(stage: Stage, official: Stage) -> bool:
    """Tell whether a stage lacks the multi-scale branches of the official one's attention."""
    return bool(official.scales) and not stage.scales and stage.mixer == official.mixer


def features(arch: Arch) -> tuple[float, ...]:
    """Return what the published shapes have in common, one number each; sizes in octaves (log2).

    Ratios and not sizes: all published networks of a family, small and large, agree in most.
    """
    macs = float(sum(canonical_cost(arch)[0]))
    stages = arch.stages[-LAST_STAGES:]
    widths = [arch.stem.width, *(stage.width for stage in arch.stages)]
    depths = [stage.depth for stage in stages]
    values = network_features(
        macs, arch.resolution, len(arch.stages), arch.stem.depth, widths, depths
    )
    for stage, official in zip(stages, reference_of(arch).stages[-LAST_STAGES:], strict=True):
        values += stage_features(stage, official)
    return tuple(map(float, values))


def network_features(
    macs: Numbers,
    size: tuple[Numbers, Numbers],
    num_stages: int,
    stem_depth: Numbers,
    widths: Sequence[Numbers],
    depths: Sequence[Numbers],
) -> list[Numbers]:
    """Return the features of a network that are of no stage alone, each a number or (networks,).

    Args:
        macs: of the canonical network.
        size: height and width of the picture, pixels.
        widths: of the stem and of all stages.
        depths: of the last four stages.
    """
    height, width = size
    logs = Logs(
        (np.log2(height), np.log2(width)),
        np.log2(1 + stem_depth),
        [np.log2(value) for value in widths[-LAST_STAGES - 1 :]],
        [np.log2(value) for value in depths],
    )
    return features_from(macs, num_stages, sum(depths), logs)


@dataclass(frozen=True, slots=True)
class Logs:
    """Logarithms to base 2, each a number or (networks,)."""

    size: tuple[Numbers, Numbers]  # height and width of the picture
    stem: Numbers  # 1 + depth of the stem
    widths: Sequence[Numbers]  # of the last five, the stem counted
    depths: Sequence[Numbers]  # of the last four stages


def features_from(
    macs: Numbers, num_stages: int, total_depth: Numbers, logs: Logs
) -> list[Numbers]:
    """Return `network_features`, from logarithms that are known.

    Args:
        macs: of the canonical network.
        total_depth: of the last four stages.
    """
    height, width = logs.size
    octaves, log_depths = logs.widths, logs.depths
    values = [
        np.log2(macs),  # MACS
        (height + width) / 2,  # RESOLUTION
        width - height,
        float(num_stages),
        logs.stem,
        np.log2(total_depth) - octaves[-1],
    ]
    values += [after - before for before, after in pairwise(octaves)]  # SPREAD
    values += [after - before for before, after in pairwise(log_depths)]  # SPREAD
    return values


def stage_features(stage: Stage, official: Stage) -> list[float]:
    """Return the features of one of the last four stages beside that of a published network."""
    expand = official.expand_ratio if stage.local in UNEXPANDED else stage.expand_ratio
    scales = official.scales if lacks_scales(stage, official) else stage.scales
    return [
        math.log2(stage.kernel_size / _judged_kernel(stage, official)),
        math.log2(expand),
        float(stage.local != official.local),
        float(stage.mixer != official.mixer),
        math.log2(stage.head_dim / official.head_dim) if stage.head_dim else 0.0,
        float(len(set(scales) ^ set(official.scales))),
    ]


@dataclass(frozen=True, slots=True)
class Box:
    """The range of every feature over some architectures."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def around(cls, archs: Iterable[Arch]) -> "Box":
        """Make the smallest box that holds all architectures."""
        columns = list(zip(*map(features, archs), strict=True))
        return cls(tuple(map(min, columns)), tuple(map(max, columns)))

    def excess(self, values: Sequence[Numbers], first: int = 0) -> list[Numbers]:
        """Return how far each feature of an architecture is below (negative) or above the range.

        All 0 for the architectures that the box was made of. Along a ray that starts in the
        box no entry ever shrinks.

        Args:
            values: features from number `first` on, each a number or (networks,).
        """
        end = first + len(values)
        return [
            np.minimum(value - low, 0.0) + np.maximum(value - high, 0.0)
            for value, low, high in zip(
                values, self.low[first:end], self.high[first:end], strict=True
            )
        ]
