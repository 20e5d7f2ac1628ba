"""Progressive shrinking: a space that opens from its largest subnet downwards.

Kernels (and scales) shrink first, then depths, expand ratios and widths, as smaller subnets are
easier to learn from weights that larger ones have settled. Choices with weights of their own
(mixer, local block, head dim, head widths) and resolutions are open from the start.

Source: Cai et al., Once-for-All, ICLR 2020, https://arxiv.org/abs/1908.09791
"""

import math
from dataclasses import replace

from supernet.space import Part, Space, Value

PHASES = (("kernel_size", "scales"), ("depth",), ("expand_ratio",), ("width",))
SHARE = 0.5  # of all steps, after which the whole space is open


def open_space(space: Space, done: float) -> Space:
    """Return the part of `space` that is trained once the share `done`, 0 to 1, of all steps is.

    At first the largest choices alone; then one phase after the other, each opening its
    dimensions choice by choice, downwards.
    """
    position = done / SHARE * (len(PHASES) + 1) - 1  # the largest alone takes a turn too
    return replace(space, parts=tuple(_open_part(part, position) for part in space.parts))


def _open_part(part: Part, position: float) -> Part:
    dimensions = dict(part.dimensions)
    for number, fields in enumerate(PHASES):
        share = min(max(position - number, 0.0), 1.0)
        for name, choices in part.dimensions.items():
            if name.partition(".")[2] in fields:
                kept = 1 + math.ceil(share * (len(choices) - 1))
                largest_first = sorted(choices, key=_extent, reverse=True)[:kept]
                dimensions[name] = tuple(c for c in choices if c in largest_first)
    return replace(part, dimensions=dimensions)


def _extent(choice: Value) -> tuple[int, tuple[int, ...]]:
    """Return a key that orders numbers, and sets of scales by how many and how large they are."""
    if isinstance(choice, tuple):
        return len(choice), choice
    assert isinstance(choice, int)
    return choice, ()
