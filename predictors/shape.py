"""How far an architecture is from the shapes that figures were published for.

Every published EfficientViT doubles its width from stage to stage, spreads depth alike, has
3x3 kernels and the same attention: of anything else the figures say nothing, and a
prediction there deserves less trust.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from supernet.arch import UNEXPANDED, Arch, Stage
from supernet.blocks import blocks_of
from supernet.cost import cost_of
from supernet.official import BACKBONES

MACS, RESOLUTION = 0, 1  # indices of those features
_LAST_STAGES = 4  # that every architecture has; SAM-XL's stage 5 is aligned with stage 4


@lru_cache(maxsize=1 << 14)
def canonical(arch: Arch) -> Arch:
    """Return the backbone with EfficientViT's kernels, local blocks, mixers, scales, head dim.

    What published figures cannot judge is removed, so that it can neither earn nor cost
    accuracy. The expand ratio stays (a smaller one must not come for free), except where the
    local block has none and so takes the family's. The head is dropped.
    """
    reference = _reference(arch).stages
    stages = tuple(map(_canonical_stage, arch.stages, reference))
    return replace(arch, stages=stages, head=None)


def _reference(arch: Arch) -> Arch:
    """Return the smallest official network of the same family and number of stages."""
    if arch.family == "b":
        return BACKBONES["b0"]
    return BACKBONES["l0" if len(arch.stages) == 4 else "sam_xl0"]


def _canonical_stage(stage: Stage, reference: Stage) -> Stage:
    unexpanded = stage.local in UNEXPANDED
    return replace(
        reference,
        width=stage.width,
        depth=stage.depth,
        expand_ratio=reference.expand_ratio if unexpanded else stage.expand_ratio,
        head_dim=math.gcd(reference.head_dim, stage.width) if reference.head_dim else 0,
    )


@lru_cache(maxsize=1 << 14)
def macs_and_blocks(arch: Arch) -> tuple[int, int]:
    """Return MACs of one image and number of blocks, of the canonical backbone."""
    blocks = blocks_of(canonical(arch))
    return sum(cost_of(block).macs for block in blocks), len(blocks)


def features(arch: Arch) -> tuple[float, ...]:
    """Return what the published shapes have in common, one number each; sizes in octaves (log2).

    Ratios and not sizes: all published networks of a family, small and large, agree in most.
    """
    macs, _ = macs_and_blocks(arch)
    height, width = arch.resolution
    reference = _reference(arch).stages[-_LAST_STAGES:]
    stages = arch.stages[-_LAST_STAGES:]
    widths = [arch.stem.width, *(stage.width for stage in arch.stages)]
    values = [
        math.log2(macs),  # MACS
        math.log2(height * width) / 2,  # RESOLUTION
        math.log2(width / height),
        float(len(arch.stages)),
        math.log2(1 + arch.stem.depth),
        math.log2(sum(stage.depth for stage in stages) / widths[-1]),
    ]
    values += [math.log2(b / a) for a, b in pairwise(widths)][-_LAST_STAGES:]
    values += [math.log2(b.depth / a.depth) for a, b in pairwise(stages)]
    for stage, official in zip(stages, reference, strict=True):
        expand = official.expand_ratio if stage.local in UNEXPANDED else stage.expand_ratio
        values += [
            math.log2(stage.kernel_size),
            math.log2(expand),
            float(stage.local != official.local),
            float(stage.mixer != official.mixer),
            math.log2(stage.head_dim / official.head_dim) if stage.head_dim else 0.0,
            float(len(set(stage.scales) ^ set(official.scales))),
        ]
    return tuple(values)


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

    def excess(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return how far each feature of an architecture is below (negative) or above the range.

        All 0 for the architectures that the box was made of. Along a ray that starts in the
        box no entry ever shrinks.
        """
        return tuple(
            min(value - low, 0.0) + max(value - high, 0.0)
            for value, low, high in zip(values, self.low, self.high, strict=True)
        )
