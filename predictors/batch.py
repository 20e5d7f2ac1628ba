"""Many networks at once, as predictors take them: genes of a space and what follows from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.components import Indices, SpaceComponents
from predictors.onehot import Choices, OneHot, choices_of
from predictors.part_rows import Marks, PartRows
from predictors.worth import STRIDES, Array
from results.errors import SpaceError
from supernet.arch import Arch
from supernet.space import Part, Space


class Batch:
    """Networks of one space; what follows from their genes is worked out once it is asked for."""

    def __init__(
        self,
        space: Space,
        genes: NDArray[np.integer],
        components: SpaceComponents | None = None,
    ) -> None:
        """Take genes (networks, genes) in the order of `space.genes`, each below its number.

        `components` are those of the space, which take a second to make; None: made when needed.

        Raises SpaceError for genes of another shape, or of no choice.
        """
        most = np.array(list(space.genes.values()))
        genes = np.asarray(genes)
        if genes.ndim != 2 or genes.shape[1] != len(most) or genes.dtype.kind not in "iu":
            raise SpaceError(
                f"genes of space {space.name} must be integers (networks, {len(most)}), not "
                f"{genes.dtype} {genes.shape}"
            )
        if genes.size and (genes.min() < 0 or np.any(genes.max(axis=0) >= most)):
            row, gene = np.argwhere((genes < 0) | (genes >= most))[0]
            name = list(space.genes)[gene]
            raise SpaceError(
                f"gene {name} of network {row} must be from 0 to {most[gene] - 1}, not "
                f"{genes[row, gene]}"
            )
        self.space, self.genes = space, genes
        self._components = components

    @classmethod
    def of(
        cls, space: Space, archs: Iterable[Arch], components: SpaceComponents | None = None
    ) -> "Batch":
        """Make a batch of networks. Raises SpaceError for one that is not in the space."""
        given = tuple(archs)
        rows = [space.encode(arch) for arch in given]
        genes = np.array(rows, dtype=np.int64).reshape(len(rows), len(space.genes))
        batch = cls(space, genes, components)
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
    def components(self) -> SpaceComponents:
        """Return what the networks of the space are made of."""
        return self._components or SpaceComponents(self.space)

    @cached_property
    def parts(self) -> tuple[PartRows, ...]:
        """Return the networks of each part of the space that has any here."""
        names = list(self.space.genes)
        family = self.genes[:, names.index("family")] if "family" in names else None
        found = []
        for number, part in enumerate(self.components.parts):
            rows = np.arange(len(self)) if family is None else np.flatnonzero(family == number)
            if len(rows):
                found.append(PartRows(part, rows, self._digits(part.part, rows)))
        return tuple(found)

    def _digits(self, part: Part, rows: Indices) -> dict[str, Indices]:
        """Return the positions of the choices of networks of a part, by dimension."""
        digits = {}
        columns = np.ascontiguousarray(self.genes.take(rows, axis=0).T)
        for column, (name, count) in zip(columns, self.space.genes.items(), strict=True):
            if name in part.dimensions:
                size = len(part.dimensions[name])
                digits[name] = column if size == count else column * size // count
        return digits

    def collect(self, number: Callable[[PartRows], Array]) -> Array:
        """Return a number of each network, (networks, ...), from those of each part."""
        found = [(part.rows, number(part)) for part in self.parts]
        shape = found[0][1].shape[1:] if found else ()
        values = np.zeros((len(self), *shape), dtype=found[0][1].dtype if found else np.float64)
        for rows, own in found:
            values[rows] = own
        return values

    @cached_property
    def macs(self) -> Array:
        """Return MACs of the canonical backbones by output stride, (networks, 5)."""
        return self.collect(lambda part: part.macs).reshape(len(self), len(STRIDES))

    @cached_property
    def num_blocks(self) -> Array:
        """Return the numbers of blocks of the canonical backbones, (networks,)."""
        return self.collect(lambda part: part.num_blocks)

    @cached_property
    def all_macs(self) -> Array:
        """Return MACs of the networks, (networks,)."""
        return self.collect(lambda part: part.total(part.part.all_macs))

    @cached_property
    def params(self) -> Array:
        """Return numbers of parameters, (networks,)."""
        return self.collect(lambda part: part.total(part.part.params))

    @cached_property
    def peak(self) -> Array:
        """Return the largest sum of live activations, in elements of one image, (networks,)."""
        return self.collect(lambda part: part.peak)

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

    @property
    def extrapolated(self) -> bool:
        """Tell whether the network is unlike everything that the predictor was fitted on."""
        ...

    @property
    def transferred(self) -> bool:
        """Tell whether a choice is judged by what it is worth in other networks."""
        ...


@dataclass(frozen=True)
class Predictions:
    """What a predictor gives for many networks; each field is (networks,)."""

    mean: Array
    std: Array
    extrapolated: Marks
    transferred: Marks

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> "Predictions":
        """Put together predictions of one network each."""
        return cls(
            np.array([prediction.mean for prediction in predictions], dtype=np.float64),
            np.array([prediction.std for prediction in predictions], dtype=np.float64),
            np.array([prediction.extrapolated for prediction in predictions], dtype=np.bool_),
            np.array([prediction.transferred for prediction in predictions], dtype=np.bool_),
        )


class PredictsMany(ABC):
    """Predicts a batch one network after the other, for predictors that know no faster way."""

    @abstractmethod
    def predict(self, arch: Arch) -> Prediction:
        """Return the prediction of one network."""

    def judge(self, batch: Batch) -> Predictions:
        """Return the predictions of many networks, as `predict` gives them."""
        return Predictions.of([self.predict(arch) for arch in batch.archs])

    def predict_many(self, batch: Batch) -> tuple[Array, Array]:
        """Return means and standard deviations, each (networks,), as `predict` gives them."""
        judged = self.judge(batch)
        return judged.mean, judged.std
