"""The networks of a batch that are of one part of a space: numbers as sums over components."""

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predictors.components import HEAD, PICTURE, Indices, PartComponents, index_of, width_column
from predictors.slots import Column, Slot
from predictors.worth import STRIDES, Array
from supernet.arch import HEADED, UNEXPANDED
from supernet.space import Value

Marks = NDArray[np.bool_]


class PartRows:
    """Networks of one part, by the positions of their choices."""

    def __init__(
        self,
        part: PartComponents,
        rows: Indices,
        digits: dict[str, Indices],
        slots: Sequence[int] | None = None,
    ) -> None:
        """Take positions (networks,) of the part's dimensions.

        Args:
            rows: where the networks are in their batch.
            digits: by column; what follows from the nearest official network may be given too.
            slots: those that count, of half networks; None: all.
        """
        self.part, self.rows = part, rows
        self.slots = range(len(part.slots)) if slots is None else slots
        self._index: dict[int, Indices] = {}
        self._repeats: dict[str, Indices] = {}
        nothing = np.zeros(len(rows), dtype=np.intp)
        self.digits = dict.fromkeys(part.columns, nothing) | digits
        if "head.widths" in digits:
            self.digits[HEAD] = digits["head.widths"]
        follows = {name: digit for name, digit in part.follows.items() if name not in digits}
        self.digits |= {name: digit.take(self.nearest) for name, digit in follows.items()}
        for slot in [n for n in self._index if set(part.slots[n].columns) & set(follows)]:
            del self._index[slot]  # which `nearest` did not need to know

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def nearest(self) -> Indices:
        """Return the position of the nearest official network in `part.official`."""
        params = self.total(self.part.params_compared)
        official = np.array(list(self.part.official.values()), dtype=np.float64)
        nearest: Indices = np.abs(params[:, None] - official).argmin(axis=1)
        return nearest  # of equally near ones the first

    def chose(self, column: str, choices: Collection[Value]) -> Marks:
        """Tell which networks have one of some choices of a column."""
        is_one = np.array([choice in choices for choice in self.part.columns[column]])
        return is_one[self.digits[column]]

    def choices(self, name: str) -> tuple[list[Value], Indices]:
        """Return a dimension's choices, and which each network has.

        The last one is what stands where another dimension's choice leaves it without meaning.
        """
        choices, position = list(self.part.columns[name]), self.digits[name]
        stage, _, field = name.partition(".")
        if field == "expand_ratio":
            idle = self.chose(f"{stage}.local", UNEXPANDED)
            return [*choices, 1], np.where(idle, len(choices), position)
        if field in ("scales", "head_dim"):
            headed = HEADED if field == "head_dim" else ("relu_linear",)
            meant = self.chose(f"{stage}.mixer", headed)
            nothing: Value = 0 if field == "head_dim" else ()
            return [*choices, nothing], np.where(meant, position, len(choices))
        return choices, position

    def index(self, slot: int) -> Indices:
        """Return the row of each network in a slot."""
        if slot not in self._index:
            of_slot = self.part.slots[slot]
            self._index[slot] = index_of(of_slot.columns, of_slot.sizes, self.digits)
        return self._index[slot]

    def repeats(self, slot: int) -> Indices | None:
        """Return how often each network repeats the blocks of a slot; None: once."""
        name = self.part.slots[slot].repeated_by
        if name and name not in self._repeats:
            self._repeats[name] = self.part.repeats[name].take(self.digits[name])
        return self._repeats.get(name)

    def of_slot(self, column: Column, slot: int) -> Array:
        """Return what the blocks of a slot add up to in each network."""
        values = column[slot].take(self.index(slot))  # half the time of [index]
        repeats = self.repeats(slot)
        return values if repeats is None else repeats * values

    def total(self, column: Column) -> Array:
        """Return the sum over all slots in each network."""
        total = np.zeros(len(self))
        for slot in self.slots:
            if slot in column.slots:
                total += self.of_slot(column, slot)
        return total

    @cached_property
    def macs(self) -> Array:
        """Return MACs of the canonical backbones by output stride, (networks, 5)."""
        macs = np.zeros((len(STRIDES), len(self)))
        for number in self.slots:
            macs[self.part.slots[number].stride] += self.of_slot(self.part.macs, number)
        return macs.T

    @cached_property
    def num_blocks(self) -> Array:
        """Return the numbers of blocks of the canonical backbones, (networks,)."""
        return self.total(self.part.num_blocks)

    @cached_property
    def peak(self) -> Array:
        """Return the largest sum of live activations, in elements of one image."""
        kept = self._kept()
        slots = [(number, self.part.slots[number]) for number in self.slots]
        has_head = any(slot.kind == "head" for _, slot in slots)
        peak = self._head_peak() if has_head else np.zeros(len(self))
        for number, slot in slots:
            if slot.kind == "head":
                continue
            live = self.part.peaks(number, self.index(number)) + kept[_begun(slot)]
            repeats = self.repeats(number)
            peak = np.maximum(peak, live if repeats is None else np.where(repeats > 0, live, 0.0))
        return peak

    def _kept(self) -> dict[int, Array]:
        """Return what is kept for the head while a stage runs, by the last stage that counts."""
        total = np.zeros(len(self))
        kept = {PICTURE - 1: total}
        for number in range(PICTURE, len(self.part.places) + 1):
            if number in self.part.tapped:
                width = 0 if number == PICTURE else self.digits[width_column(number)]
                total = total + self.part.kept[number][self.digits["resolution"], width]
            kept[number] = total
        return kept

    def _head_peak(self) -> Array:
        """Return the most activations that are live in the head, found once for each choice."""
        columns, known = self.part.head_peaks
        index = tuple(self.digits[name] for name in columns)
        found = known[index]
        if np.isnan(found).any():
            wanted = np.stack([digit[np.isnan(found)] for digit in index], axis=1)
            for digits in np.unique(wanted, axis=0).tolist():
                chosen = {n: self.part.columns[n][d] for n, d in zip(columns, digits, strict=True)}
                known[tuple(digits)] = self.part.head_peak(chosen)
            found = known[index]
        return found


def _begun(slot: Slot) -> int:
    """Return the last stage whose output is kept beside the input of a slot's block."""
    return {"conv": PICTURE - 1, "down": slot.number - 2}.get(slot.kind, slot.number - 1)
