"""The blocks at one place of a space's networks, for all choices, and sums of their numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from predictors.worth import STRIDES, Array
from supernet.blocks import Block

Blocks = tuple[Block, ...]
Numbered = tuple[tuple[int, ...], ...]  # places of blocks in a list of them, by row


class Column(tuple[Array, ...]):
    """Numbers by slot, and there by row."""

    @cached_property
    def slots(self) -> frozenset[int]:
        """Return the slots where not all numbers are 0."""
        return frozenset(number for number, values in enumerate(self) if values.any())


@dataclass(frozen=True)
class Slot:
    """The blocks at one place of a network, for all choices that decide them."""

    columns: tuple[str, ...]  # that decide the blocks; the last one varies fastest
    sizes: tuple[int, ...]  # numbers of their choices
    rows: tuple[Blocks, ...]
    canonical: tuple[Blocks, ...]  # of the canonical network, see `predictors.shape`
    number: int  # of the stage; 0 is the stem
    kind: str  # conv, down, local, mixer or head
    repeated_by: str = ""  # column that tells how often; "": once

    @property
    def stride(self) -> int:
        """Return the index into `STRIDES` of the output's stride."""
        return min(self.number, len(STRIDES) - 1)


class Sums:
    """Adds up numbers of blocks by slot and row, each block's number being asked for once."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Number all blocks."""
        places: dict[Block, int] = {}

        def numbered(rows: Iterable[Blocks]) -> Numbered:
            return tuple(
                tuple([places.setdefault(block, len(places)) for block in row]) for row in rows
            )

        self._rows = [numbered(slot.rows) for slot in slots]
        self.blocks = tuple(places)
        self._canonical = [
            own if slot.canonical is slot.rows else numbered(slot.canonical)
            for own, slot in zip(self._rows, slots, strict=True)
        ]
        self.all_blocks = tuple(places)  # canonical ones too

    def of(self, values: Sequence[float]) -> Column:
        """Return the sums in all rows of a number of each of `blocks`."""
        return Column(_sums(rows, values) for rows in self._rows)

    def of_canonical(self, values: Sequence[float]) -> Column:
        """Return the sums in all canonical rows of a number of each of `all_blocks`."""
        return Column(_sums(rows, values) for rows in self._canonical)


def _sums(rows: Numbered, values: Sequence[float]) -> Array:
    if all(len(row) == 1 for row in rows):
        return np.array(values, dtype=np.float64)[[row[0] for row in rows]]
    return np.array([sum([values[i] for i in row]) for row in rows], dtype=np.float64)


def number_of(block: Block) -> int:
    """Return the number of the stage that a block of the backbone is in; 0 is the stem."""
    return 0 if block.stage == "stem" else int(block.stage.removeprefix("stage"))


def of_kind(kind: str, blocks: Iterable[Block]) -> Blocks:
    """Return the local blocks of the first repetition in a stage, or its mixer."""
    _, *repeated = blocks
    return tuple(repeated[-1:] if kind == "local" else repeated[:-1])


def at_head_dim_16(block: Block) -> Block:
    """Return a block with attention heads of 16 channels, where it has any."""
    if not block.head_dim:
        return block
    return replace(block, head_dim=16, num_heads=block.out_channels // 16)


def begin_of_head(blocks: Blocks) -> int:
    """Return the index of the first block of the head, or their number where there is none."""
    return next((i for i, block in enumerate(blocks) if block.stage == "head"), len(blocks))


def inputs_of(blocks: Blocks, index: int) -> tuple[int, ...]:
    """Return the indices of the blocks that a block reads."""
    return blocks[index].inputs or (index - 1,)
