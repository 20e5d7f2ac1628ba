"""Many networks at once, as predictors take them: genes of a space and what follows from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.onehot import Choices, OneHot, choices_of
from predictors.shape import canonical_cost
from predictors.worth import STRIDES, Array
from results.errors import SpaceError
from supernet.arch import Arch
from supernet.space import Space


class Batch:
    """Networks of one space; what follows from their genes is worked out once it is asked for."""

    def __init__(self, space: Space, genes: NDArray[np.integer]) -> None:
        """Take genes (networks, genes) in the order of `space.genes`, each below its number.

        Raises SpaceError for genes of another shape, or of no choice.
        """
        most = np.array(list(space.genes.values()))
        genes = np.asarray(genes)
        if genes.ndim != 2 or genes.shape[1] != len(most) or genes.dtype.kind not in "iu":
            raise SpaceError(
                f"genes of space {space.name} must be integers (networks, {len(most)}), not "
                f"{genes.dtype} {genes.shape}"
            )
        if genes.size and not (np.all(genes >= 0) and np.all(genes < most)):
            row, gene = np.argwhere((genes < 0) | (genes >= most))[0]
            name = list(space.genes)[gene]
            raise SpaceError(
                f"gene {name} of network {row} must be from 0 to {most[gene] - 1}, not "
                f"{genes[row, gene]}"
            )
        self.space, self.genes = space, genes

    @classmethod
    def of(cls, space: Space, archs: Iterable[Arch]) -> "Batch":
        """Make a batch of networks. Raises SpaceError for one that is not in the space."""
        given = tuple(archs)
        rows = [space.encode(arch) for arch in given]
        batch = cls(space, np.array(rows, dtype=np.int64).reshape(len(rows), len(space.genes)))
        batch.archs = given  # what decoding would give again
        return batch

    def __len__(self) -> int:
        return len(self.genes)

    @cached_property
    def archs(self) -> tuple[Arch, ...]:
        """Return the networks."""
        return tuple(self.space.decode(row) for row in self.genes.tolist())

    @cached_property
    def choices(self) -> tuple[Choices, ...]:
        """Return the choices that make up each network, by dimension."""
        return tuple(choices_of(self.space, arch) for arch in self.archs)

    @cached_property
    def macs(self) -> Array:
        """Return MACs of the canonical backbones by output stride, (networks, 5)."""
        return self._costs[0]

    @cached_property
    def num_blocks(self) -> Array:
        """Return the numbers of blocks of the canonical backbones, (networks,)."""
        return self._costs[1]

    @cached_property
    def _costs(self) -> tuple[Array, Array]:
        costs = [canonical_cost(arch) for arch in self.archs]
        macs = np.array([by_stride for by_stride, _ in costs], dtype=np.float64)
        return macs.reshape(len(self), len(STRIDES)), np.array(
            [n for _, n in costs], dtype=np.float64
        )

    def one_hot(self, columns: OneHot) -> Array:
        """Return the choices as columns of zeros and ones, (networks, columns)."""
        return columns.encode(self.choices)


class Prediction(Protocol):
    """What a predictor gives for one network."""

    @property
    def mean(self) -> float:
        """Return the expected value."""
        ...

    @property
    def std(self) -> float:
        """Return the standard deviation."""
        ...


class PredictsMany(ABC):
    """Predicts a batch one network after the other, for predictors that know no faster way."""

    @abstractmethod
    def predict(self, arch: Arch) -> Prediction:
        """Return mean and standard deviation of one network."""

    def predict_many(self, batch: Batch) -> tuple[Array, Array]:
        """Return means and standard deviations, each (networks,), as `predict` gives them."""
        return in_turn(self.predict, batch)


def in_turn(predict: Callable[[Arch], Prediction], batch: Batch) -> tuple[Array, Array]:
    """Return means and standard deviations, each (networks,), of one network after the other."""
    predictions = [predict(arch) for arch in batch.archs]
    means = np.array([prediction.mean for prediction in predictions], dtype=np.float64)
    return means, np.array([prediction.std for prediction in predictions], dtype=np.float64)
