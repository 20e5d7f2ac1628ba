"""A latency table laid out by the components of a space, to add up many networks at once."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from lut.rows import Entry
from lut.table import Table
from lut.terms import HOST_BYTES, promptable, transferred_mb
from predictors.components import HEAD, PartComponents, index_of
from predictors.part_rows import PartRows
from predictors.slots import Blocks, Column
from predictors.worth import Array
from supernet.blocks import Block, blocks_of

TRANSFERRED = ("resolution", HEAD)  # columns that decide how much crosses to the device


@dataclass(frozen=True)
class Crossing:
    """Rows of two slots that have blocks in common, which repeat each other's error."""

    first: int
    second: int
    covariance: Array  # (rows of the first, rows of the second), ms^2


@dataclass(frozen=True)
class LatencyColumns:
    """What a table says of the blocks of one part; NaN where it says nothing."""

    ms: Column
    variances: Column  # ms^2, of a slot that is passed once
    crossings: tuple[Crossing, ...]
    unseen_ms: Column  # in kinds of block that the table's error was not checked on
    extrapolated: Column  # number of blocks beyond the measured ones
    transferred_mb: Array  # by TRANSFERRED
    is_promptable: bool

    @classmethod
    def of(cls, table: Table, part: PartComponents, seen_kinds: frozenset[str]) -> "LatencyColumns":
        """Look up all blocks."""
        blocks = part.sums.blocks
        table.interpolate(blocks)
        entries = [table.find_entry(block) for block in blocks]
        scale = table.terms.scale

        def of_entry(number: Callable[[Block, Entry], float]) -> Column:
            found = zip(blocks, entries, strict=True)
            return part.sums.of(
                [math.nan if entry is None else number(block, entry) for block, entry in found]
            )

        heads = [blocks_of(part.network(chosen)) for chosen in part.choices(TRANSFERRED)]
        checked = table.relative_std is not None  # the table errs as a whole then
        return cls(
            ms=of_entry(lambda _, entry: scale * entry.latency_ms),
            variances=Column() if checked else _variances(table, part),
            crossings=() if checked else _crossings(table, part),
            unseen_ms=of_entry(
                lambda block, entry: scale * entry.latency_ms * (block.kind not in seen_kinds)
            ),
            extrapolated=of_entry(lambda _, entry: entry.extrapolated),
            transferred_mb=np.array([transferred_mb(blocks) for blocks in heads]),
            is_promptable=promptable(heads[0]),
        )

    def network_ms(self, table: Table, rows: PartRows) -> Array:
        """Return the latencies of networks, as `Table.network_ms`, (networks,)."""
        terms, part = table.terms, rows.part
        sizes = [len(part.columns[name]) for name in TRANSFERRED]
        offset: Array = terms.offset_of(
            table.batch,
            params_m=rows.total(part.params) / 1e6 if terms.ms_per_m_params else 0.0,
            transferred_mb=self.transferred_mb[index_of(TRANSFERRED, sizes, rows.digits)],
            peak_mb=rows.peak * HOST_BYTES / 1e6 if terms.ms_per_peak_mb else 0.0,
            promptable=self.is_promptable,
        )
        return offset + rows.total(self.ms)

    def variance(self, rows: PartRows) -> Array:
        """Return the variances of networks whose blocks err independently, in ms^2, (networks,)."""
        total = np.zeros(len(rows))
        for slot, values in enumerate(self.variances):
            repeats = rows.repeats(slot)
            own = values[rows.index(slot)]
            total += own if repeats is None else own * repeats**2
        for crossing in self.crossings:
            shared = crossing.covariance[rows.index(crossing.first), rows.index(crossing.second)]
            for slot in (crossing.first, crossing.second):
                repeats = rows.repeats(slot)
                shared = shared if repeats is None else shared * repeats
            total += 2 * shared
        return total


def _std_ms(table: Table, block: Block) -> float:
    entry = table.find_entry(block)
    return math.nan if entry is None else table.terms.scale * entry.latency_std_ms


@dataclass(frozen=True)
class EnergyColumns:
    """What a table says of the energy of the blocks of one part."""

    energy_mj: Column  # 0 where it was not measured
    unknown: Column  # number of blocks of which it was not

    @classmethod
    def of(cls, table: Table, part: PartComponents) -> "EnergyColumns":
        """Look up all blocks."""
        entries = [table.find_entry(block) for block in part.sums.blocks]
        energies = [None if entry is None else entry.energy_mj for entry in entries]
        return cls(
            part.sums.of([energy or 0.0 for energy in energies]),
            part.sums.of([energy is None for energy in energies]),
        )

    def network_mj(self, rows: PartRows) -> Array:
        """Return energies of networks, (networks,); NaN where a block's was not measured."""
        return np.where(rows.total(self.unknown) > 0, np.nan, rows.total(self.energy_mj))


def _variances(table: Table, part: PartComponents) -> Column:
    def variance(blocks: Blocks) -> float:
        counted = Counter(blocks).items()
        return sum((count * _std_ms(table, block)) ** 2 for block, count in counted)

    return Column(np.array([variance(blocks) for blocks in slot.rows]) for slot in part.slots)


def _crossings(table: Table, part: PartComponents) -> tuple[Crossing, ...]:
    """Return the pairs of slots that hold the same block in some network.

    Such as a head of a dense task whose convolutions are those of a stage of its width.
    """
    num_sizes = len(part.columns["resolution"])  # the first column of every slot
    held: list[dict[tuple[int, Block], list[int]]] = []
    for slot in part.slots:
        at: dict[tuple[int, Block], list[int]] = {}
        for row, blocks in enumerate(slot.rows):
            for block in blocks:
                at.setdefault((row * num_sizes // len(slot.rows), block), []).append(row)
        held.append(at)
    found = []
    for first, second in combinations(range(len(part.slots)), 2):
        if not (shared := held[first].keys() & held[second].keys()):
            continue
        sizes = [len(part.slots[slot].rows) for slot in (first, second)]
        covariance = np.zeros(sizes)
        for size_and_block in shared:
            variance = _std_ms(table, size_and_block[1]) ** 2
            for pair in product(held[first][size_and_block], held[second][size_and_block]):
                covariance[pair] += variance
        found.append(Crossing(first, second, covariance))
    return tuple(found)
