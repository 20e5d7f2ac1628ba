"""Consecutive stages of networks of one part: all their choices, and what these take.

A network is a chain of links: the stem and every stage, the last link holding all stages at the
largest output stride. What a link's blocks are follows from its own choices, the width before it,
and a `Context`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from lut.table import Table
from predictors.components import PICTURE, Indices, PartComponents, index_of, width_column
from predictors.latency import LatencyPredictor
from predictors.latency_columns import TRANSFERRED, LatencyColumns
from predictors.part_rows import PartRows
from predictors.slots import Slot
from predictors.worth import STRIDES, Array

CUT = 2  # the last stage of the front half
MOST_ROWS = 1 << 17  # choices of one link in one context, for memory and time
Digits = dict[str, Indices]  # positions of choices, by column


@dataclass(frozen=True)
class Context:
    """What all stages of a network agree in, as positions of choices."""

    resolution: int
    nearest: int | None  # official network that head or head dims are of; None: both are chosen

    @classmethod
    def all_of(cls, part: PartComponents) -> Iterator["Context"]:
        """Yield all contexts of a part's networks."""
        nearest: Sequence[int | None] = range(len(part.official)) if part.follows else [None]
        sizes = range(len(part.columns["resolution"]))
        for resolution, official in product(sizes, nearest):
            yield cls(resolution, official)

    def digits(self, part: PartComponents) -> dict[str, int]:
        """Return the positions of choices that follow, by column."""
        found = {"resolution": self.resolution}
        if self.nearest is not None:
            found |= {name: int(own[self.nearest]) for name, own in part.follows.items()}
        return found

    def compared(self, part: PartComponents) -> tuple[float, float]:
        """Return the parameters from which and up to which `nearest` is the nearest."""
        if self.nearest is None:
            return -np.inf, np.inf
        params = np.array(list(part.official.values()), dtype=np.float64)
        middles = (params + params[self.nearest]) / 2
        below, above = params < params[self.nearest], params > params[self.nearest]
        return middles[below].max(initial=-np.inf), middles[above].min(initial=np.inf)


def links_of(part: PartComponents) -> list[range]:
    """Return the numbers of the stages of each link, the stem first."""
    last, first_of_last = len(part.places), len(STRIDES) - 1
    return [*(range(n, n + 1) for n in range(first_of_last)), range(first_of_last, last + 1)]


def why_unchained(part: PartComponents) -> str:
    """Return why networks of a part cannot be gone through link by link; empty if they can."""
    if any(PICTURE < stage < CUT for stage in part.tapped):
        return f"the head reads a stage before stage {CUT}"
    for stages in links_of(part):
        within = _dimensions(part, stages)
        before = width_column(stages[0] - 1) if stages[0] else ""
        choices = part.part.dimensions
        count = math.prod(len(choices[name]) for name in {*within, before} & choices.keys())
        if count > MOST_ROWS:
            return f"{count:,} choices of one stage are too many; freeze some"
    return ""


def _dimensions(part: PartComponents, stages: range) -> list[str]:
    """Return the dimensions that are chosen in some stages, the head's with the last one."""
    within = {"stem" if n == 0 else f"stage{n}" for n in stages}
    if stages[-1] == len(part.places):
        within.add("head")
    return [name for name in part.part.dimensions if name.partition(".")[0] in within]


class Stages:
    """Makes all choices of some consecutive stages of one part's networks, with latencies."""

    def __init__(
        self, part: PartComponents, latencies: Sequence[LatencyPredictor], stages: range
    ) -> None:
        """Take the part, what tells latencies, and the numbers of the stages.

        Latencies are those of one device, or of two.

        Raises as `LatencyColumns.of`.
        """
        self.part, self.stages = part, stages
        self.latencies = [(own.table, own.columns_of(part)) for own in latencies]
        self.is_last = stages[-1] == len(part.places)
        self.slots = [n for n, slot in enumerate(part.slots) if self._stage_of(slot) in stages]
        self.names = _dimensions(part, stages)

    def _stage_of(self, slot: Slot) -> int:
        """Return the stage that a slot counts with; the head's, that which it reads."""
        if slot.kind != "head":
            return slot.number
        read = [n for n in self.part.tapped if n != PICTURE and width_column(n) in slot.columns]
        return max([CUT + 1, *read]) if read else len(self.part.places)

    def all_choices(self, context: Context) -> tuple[tuple[int, int, int], Digits]:
        """Return all choices in a context, and how they are laid out.

        The own width varies fastest, then the width before, then the first depth: their numbers
        are (first depths, widths before, own widths).
        """
        part, stages = self.part, self.stages
        own_width, first_depth = width_column(stages[-1]), f"stage{stages[0]}.depth"
        if stages[0] == 0:
            first_depth = "stem.depth"
        widths = [width_column(stages[0] - 1), own_width] if stages[0] else [own_width]
        last = [first_depth, *widths]
        names = [*(name for name in self.names if name not in last), *last]
        sizes = [len(part.columns[name]) for name in names]
        chosen = np.indices(sizes).reshape(len(sizes), -1)
        digits = dict(zip(names, chosen, strict=True))
        count = chosen.shape[1]
        fixed = {n: np.full(count, digit) for n, digit in context.digits(part).items()}
        before = sizes[-2] if stages[0] else 1
        return (len(part.columns[first_depth]), before, sizes[-1]), digits | fixed

    def rows(self, digits: Digits) -> PartRows:
        """Return some choices as rows that hold the blocks of these stages alone."""
        return PartRows(self.part, np.arange(len(digits["resolution"])), digits, self.slots)

    def ms(self, rows: PartRows) -> list[Array]:
        """Return the part of latencies that these stages cause, by device, (rows,).

        Without that of the most that is live.
        """
        return [self._ms(table, columns, rows) for table, columns in self.latencies]

    def _ms(self, table: Table, columns: LatencyColumns, rows: PartRows) -> Array:
        # A block without a latency takes none here: where that makes a network promising, the
        # predictor is asked for it and refuses.
        ms = np.nan_to_num(rows.total(columns.ms), nan=0.0)
        ms += table.terms.ms_per_m_params * rows.total(self.part.params) / 1e6 / table.batch
        if not self.is_last:
            return ms
        sizes = [len(self.part.columns[name]) for name in TRANSFERRED]
        offset: Array = table.terms.offset_of(
            table.batch,
            params_m=0.0,
            transferred_mb=columns.transferred_mb[index_of(TRANSFERRED, sizes, rows.digits)],
            peak_mb=0.0,
            promptable=columns.is_promptable,
        )
        return ms + offset

    def least_peak(self, digits: Digits) -> Array:
        """Return elements that are live at least in the blocks, the head left out, (rows,)."""
        part, count = self.part, len(digits["resolution"])
        if any(0 <= n < self.stages[0] - 1 for n in part.tapped):
            return np.zeros(count)  # what is kept of those is not known here
        slots = [n for n in self.slots if part.slots[n].kind != "head"]
        peak: Array = PartRows(part, np.arange(count), digits, slots).peak
        return peak
