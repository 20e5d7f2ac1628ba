"""Choices of a space as columns of zeros and ones, one for each choice that was seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictors.worth import Array
from supernet.arch import Arch
from supernet.space import Space, Value

FAMILY = "family"
Choices = dict[str, Value]  # of one Arch, by dimension; resolution is one of them


def choices_of(space: Space, arch: Arch) -> Choices:
    """Return the choices that make up `arch`; each part of the space has dimensions of its own.

    Raises SpaceError where `arch` is of no part of the space.
    """
    _, part = space.part_of(arch)
    values = part.values(arch)
    return {FAMILY: part.name} | {f"{part.name}.{n}": values[n] for n in part.dimensions}


@dataclass(frozen=True)
class OneHot:
    """The choices that were seen, by dimension, in a settled order."""

    seen: dict[str, tuple[Value, ...]]

    @classmethod
    def of(cls, rows: Sequence[Choices]) -> "OneHot":
        """Make the columns of all choices that the rows have."""
        seen: dict[str, set[Value]] = {}
        for row in rows:
            for name, value in row.items():
                seen.setdefault(name, set()).add(value)
        return cls({name: tuple(sorted(seen[name], key=repr)) for name in sorted(seen)})

    @property
    def num_params(self) -> int:
        """Count what a fit has to find: a mean, and of every dimension all choices but one."""
        return 1 + sum(len(choices) - 1 for choices in self.seen.values())

    def unseen(self, row: Choices) -> int:
        """Count the dimensions whose choice was never seen."""
        return sum(value not in self.seen.get(name, ()) for name, value in row.items())

    def encode(self, rows: Sequence[Choices]) -> Array:
        """Return (rows, columns); NaN in all columns of a dimension whose choice was never seen."""
        return np.array([self._encode(row) for row in rows])

    def _encode(self, row: Choices) -> list[float]:
        if row[FAMILY] not in self.seen[FAMILY]:
            return [np.nan] * sum(map(len, self.seen.values()))
        columns: list[float] = []
        for name, choices in self.seen.items():
            if name in row and row[name] not in choices:
                columns += [np.nan] * len(choices)
            else:
                columns += [float(row.get(name, ...) == choice) for choice in choices]
        return columns
