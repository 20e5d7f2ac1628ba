"""What int8 files compute in integers, by kind of block, and how activations are rounded there.

Latency tables and exports build int8 files by this one rule, so that what was timed is what runs.
Rounded values are of 8 bits, 0 to 255 here: they are scale * (value - zero).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from results.errors import DeviceError
from supernet.arch import LOCAL_KINDS, MIXER_KINDS
from supernet.blocks import Activation, Block, entry_of
from supernet.cost import cost_of

Part = Literal[
    "whole",
    "convolutions",  # and the sum of input and output, of a mixer
    "nothing",
]
# Products of activations, divisions, softmax, transforms and norms stay in float: the sums and
# divisors of linear attention span more than 8 bits hold (a public EfficientViT-B2 in 8 bits
# fell from 80.9 to 0.1 %), and there are few MACs in them.
INTEGER_PARTS: dict[str, Part] = {
    **dict.fromkeys(("conv", *LOCAL_KINDS, "pool", "linear", "add", "pixel_shuffle"), "whole"),
    **dict.fromkeys(MIXER_KINDS, "convolutions"),
    "upsample": "whole",  # bilinear; bicubic: nothing
    "layer_norm": "nothing",
}
# What an activation makes 0 of (the GELU within 0.0003) need not be told apart before it.
LEAST_BEFORE: dict[Activation, float] = {"hswish": -3.0, "gelu_tanh": -4.0}
LARGEST_BIAS = 2.0**30  # in steps, of int32

Limits = tuple[float, float]


def part_of(block: Block) -> Part:
    """Return what of a block an int8 file computes in integers. Raises DeviceError."""
    if block.mode == "bicubic":
        return "nothing"
    return entry_of(INTEGER_PARTS, block, "lut/builders/integers.py", DeviceError)


def integer_share(blocks: Sequence[Block], floats: frozenset[str] = frozenset()) -> float:
    """Return the share of MACs that an int8 file computes in integers.

    Args:
        floats: names of blocks that are kept in float.
    """
    in_integers = total = 0
    for block in blocks:
        cost, part = cost_of(block), part_of(block)
        total += cost.macs
        if part != "nothing" and block.name not in floats:
            in_integers += cost.macs - (cost.attention_macs if part == "convolutions" else 0)
    return in_integers / total


class Steps(NamedTuple):
    """How numbers are rounded to 0..255."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Quantisation:
    """Where an int8 file rounds activations, and between which limits."""

    limits: Mapping[str, Limits] | None = None  # by place; None: the same for all, for timing
    floats: frozenset[str] = frozenset()  # names of blocks that are kept in float
    observes: bool = False  # computes in float, and gives the limits at every place instead


TIMING = Quantisation()


class Places:
    """The places of a file where activations are rounded, by name, as a builder comes to them.

    A name is that of a block, and which of its places it is; a file that observes has the same,
    and those at the end of every block.
    """

    def __init__(self, precision: str, quantisation: Quantisation, fixed: Steps) -> None:
        """`fixed`: the steps at all places where there are no limits."""
        self._is_int8, self._quantisation, self._fixed = precision == "int8", quantisation, fixed
        self._block, self._count = "image", 0
        self._of_outputs: dict[Hashable, str] = {}  # of a block's output the place
        self.active = False  # what comes next is in integers, or observed for that

    @property
    def observes(self) -> bool:
        """Tell whether the file gives limits instead of results."""
        return self._quantisation.observes

    def begin(self, block: Block | None, name: str) -> None:
        """Go on to a block; None: what is around the network."""
        self._block, self._count = name, 0
        part = "nothing" if block is None else part_of(block)
        is_float = part == "nothing" or name in self._quantisation.floats
        self.active = self._is_int8 and not is_float

    def passed(self, tensor: Hashable) -> str:
        """Return the name of the place where what the block passed on is rounded later."""
        self._of_outputs[tensor] = f"{self._block}/out"
        return self._of_outputs[tensor]

    def is_passed(self, tensor: Hashable) -> bool:
        """Tell whether a tensor is what some block passed on."""
        return tensor in self._of_outputs

    def of(self, tensor: Hashable, name: str = "") -> str:
        """Return the name of the place where a tensor is rounded.

        What a block passed on has that block's, whoever rounds it: blocks may be kept in float.
        Others are numbered within their block, where they have no `name`.
        """
        if tensor in self._of_outputs:
            return self._of_outputs[tensor]
        if not name:
            name = str(self._count)
            self._count += 1
        return f"{self._block}/{name}"

    def steps(self, place: str, least: float = -np.inf) -> Steps:
        """Return how a place rounds; what is below `least` counts as that."""
        limits = self._quantisation.limits
        if limits is None:
            return self._fixed
        low, high = limits[place]
        return steps_between(max(low, least), high)


def steps_between(low: float, high: float) -> Steps:
    """Return the steps of 0..255 that hold low, high and 0, which is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255))
    if scale < np.finfo(np.float32).tiny:
        return Steps(1.0, 0)
    return Steps(scale, int(np.rint(-low / scale)))
