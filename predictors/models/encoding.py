"""Rows of genes and features as columns of numbers, the same for all models.

Three groups, each standardised on the rows of the fit and divided by the root of its number of
columns, so that every group counts as much: one column of zeros and ones for each choice of a gene;
each numeric gene itself; and numeric features. Of a feature that is positive there is its logarithm
too. Numeric genes whose names differ in a number alone (`e1`, `e2`, ...; `block3_k`, `block4_k`)
also give their sum.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from predictors.models.table import Array, Columns, Table, as_numbers, check_names, choices_named
from results.errors import PredictorError, shown
from results.reading import Finite, Record

MOST_CHOICES = 16  # of a numeric gene that is a choice, and no measure
MOST_TEXTS = 64  # of a gene, or a quarter of the rows
MOST_NUMBERS = 2 * 10**8  # of a table as numbers, 8 bytes each
FEWEST_SUMMED = 3  # genes of a kind
WIDE = 1.2  # largest over smallest value, from which a logarithm tells more than the number

Name = Annotated[str, msgspec.Meta(max_length=1000)]


class Gene(Record, frozen=True):
    """A dimension, and the choices that the fit has seen, sorted."""

    name: Name
    numbers: tuple[Finite, ...] | None = None
    texts: tuple[Name, ...] = ()  # where it is not numeric

    @property
    def is_listed(self) -> bool:
        """Tell whether each choice has a column of its own."""
        return self.numbers is None or len(self.numbers) <= MOST_CHOICES


class Measure(Record, frozen=True):
    """A numeric column of the third group: a feature, or the sum of genes."""

    name: Name
    summed: tuple[Name, ...] = ()  # genes; (): a feature
    least: Finite | None = None  # that the logarithm is taken of; None: no logarithm

    @property
    def has_log(self) -> bool:
        """Tell whether there is a column of the logarithm."""
        return self.least is not None


@dataclass(frozen=True)
class Encoded:
    """Rows as columns of numbers."""

    z: Array  # (rows, columns)
    unseen: NDArray[np.int64]  # genes whose choice the fit has not seen, by row


@dataclass(frozen=True)
class Encoding:
    """What turns genes and features into columns; see the module."""

    genes: tuple[Gene, ...]
    measures: tuple[Measure, ...]
    means: Array  # of all columns, those that do not vary included
    scales: Array  # what each is divided by; 0 drops the column

    @classmethod
    def of(cls, table: Table) -> "Encoding":
        """Take the choices and the spread of a table."""
        genes = tuple(_gene(name, column) for name, column in table.genes.items())
        measures = (*_features(table), *_sums(genes, table))
        bare = cls(genes, measures, np.zeros(0), np.zeros(0))
        _check_choices(genes, len(table), bare.num_raw)
        raw, _ = bare._raw(table.genes, table.features, len(table))
        means = np.nanmean(np.where(np.isnan(raw).all(axis=0), 0.0, raw), axis=0)
        spread = np.nanstd(np.where(np.isnan(raw).all(axis=0), 0.0, raw), axis=0)
        varies = spread > 1e-9 * np.maximum(1.0, np.abs(means))
        scales = np.zeros(len(means))
        for group in bare._raw_groups():
            count = int(varies[group].sum())
            scales[group] = np.where(varies[group], spread[group] * np.sqrt(max(count, 1)), 0.0)
        return cls(genes, measures, means, scales)

    @property
    def groups(self) -> tuple[slice, ...]:
        """Return the columns of each group that has any: choices, numeric genes, measures."""
        kept, start = [], 0
        for group in self._raw_groups():
            count = int((self.scales[group] > 0).sum())
            if count:
                kept.append(slice(start, start + count))
            start += count
        return tuple(kept)

    @property
    def tree_columns(self) -> NDArray[np.intp]:
        """Return all columns but those of choices that are numbers: a split orders these."""
        is_kept = [
            gene.numbers is None
            for gene in self.genes
            if gene.is_listed
            for _ in gene.numbers or gene.texts
        ]
        rest = len(self.scales) - len(is_kept)
        marked = np.array([*is_kept, *[True] * rest], dtype=bool)[self.scales > 0]
        return np.flatnonzero(marked)

    @property
    def origins(self) -> tuple[tuple["Gene | Measure", bool], ...]:
        """Return what each column is of, and whether it is its logarithm."""
        listed = [(g, False) for g in self.genes if g.is_listed for _ in g.numbers or g.texts]
        ordinal = [(gene, False) for gene in self.genes if gene.numbers is not None]
        measured = [(m, log) for m in self.measures for log in (False, True)[: 1 + m.has_log]]
        every: list[tuple[Gene | Measure, bool]] = [*listed, *ordinal, *measured]
        return tuple(own for own, scale in zip(every, self.scales, strict=True) if scale > 0)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the names of the features, without sums of genes."""
        return tuple(measure.name for measure in self.measures if not measure.summed)

    def encode(self, genes: Columns, features: Columns | None = None) -> Encoded:
        """Return rows as columns; a choice that was not seen counts as the mean of those that were.

        Raises PredictorError for a column that is missing, of another length or of another kind.
        """
        given = features or {}
        check_names(genes, [gene.name for gene in self.genes], "genes")
        check_names(given, self.features, "features")
        names = [gene.name for gene in self.genes]
        columns = {name: genes[name] for name in names} | {n: given[n] for n in self.features}
        counts = {len(column) for column in columns.values()}
        if len(counts) != 1:
            raise PredictorError(f"columns of different lengths: {sorted(counts)}")
        choices = {
            gene.name: choices_named(gene.name, genes[gene.name], gene.numbers is not None)
            for gene in self.genes
        }
        numbers = {name: as_numbers(given[name], name) for name in self.features}
        raw, unseen = self._raw(choices, numbers, counts.pop())
        kept = self.scales > 0
        z = (raw[:, kept] - self.means[kept]) / self.scales[kept]
        return Encoded(np.where(np.isnan(z), 0.0, z), unseen)

    def _raw(
        self, genes: Mapping[str, NDArray[Any]], features: Mapping[str, Array], count: int
    ) -> tuple[Array, NDArray[np.int64]]:
        """Return all columns before they are standardised, NaN for a mean; and unseen choices."""
        choices, ordinals = [], []
        unseen = np.zeros(count, dtype=np.int64)
        for gene in self.genes:
            column = genes[gene.name]
            is_absent = column == "" if gene.numbers is None else np.isnan(column)
            if gene.is_listed:
                seen = np.array(gene.texts if gene.numbers is None else gene.numbers)
                hits = column[:, None] == seen[None, :]
                is_new = ~hits.any(axis=1) & ~is_absent
                choices.append(np.where(is_new[:, None], np.nan, hits))
            elif gene.numbers is not None:
                is_new = (column < gene.numbers[0]) | (column > gene.numbers[-1])
            unseen += is_new
            if gene.numbers is not None:
                ordinals.append(column[:, None])
        measures = [c for m in self.measures for c in _columns(m, genes, features)]
        parts = [*choices, *ordinals, *(column[:, None] for column in measures)]
        return np.hstack(parts).astype(np.float64), unseen

    @property
    def num_raw(self) -> int:
        """Return the number of columns, those that do not vary included."""
        return int(self._raw_groups()[-1].stop)

    def _raw_groups(self) -> tuple[slice, ...]:
        listed = sum(len(g.numbers or g.texts) for g in self.genes if g.is_listed)
        ordinal = sum(gene.numbers is not None for gene in self.genes)
        measured = sum(1 + measure.has_log for measure in self.measures)
        ends = (0, listed, listed + ordinal, listed + ordinal + measured)
        return tuple(slice(a, b) for a, b in pairwise(ends))


def _check_choices(genes: tuple[Gene, ...], rows: int, columns: int) -> None:
    """Raise PredictorError for texts that name rows and no choices, and for too many columns."""
    for gene in genes:
        if len(gene.texts) > max(MOST_TEXTS, rows // 4):
            raise PredictorError(
                f"gene {shown(gene.name)} has {len(gene.texts)} different texts in {rows} rows: it "
                "names networks, and no choice; leave it out"
            )
    if rows * columns > MOST_NUMBERS:
        raise PredictorError(
            f"{rows} rows of {columns} columns, one for each choice, are more than fits into "
            "memory; name fewer genes, or fewer rows"
        )


def _gene(name: str, column: NDArray[Any]) -> Gene:
    if column.dtype.kind == "f":
        seen = np.unique(column[~np.isnan(column)])
        return Gene(name=name, numbers=tuple(seen.tolist()))
    return Gene(name=name, texts=tuple(text for text in np.unique(column).tolist() if text))


def _features(table: Table) -> list[Measure]:
    return [Measure(name=name, least=_least(column)) for name, column in table.features.items()]


def _sums(genes: tuple[Gene, ...], table: Table) -> list[Measure]:
    """Return sums of numeric genes of a kind: names that are equal but for numbers in them."""
    kinds: dict[str, list[str]] = {}
    for gene in genes:
        if gene.numbers is not None and (kind := re.sub(r"\d+", "#", gene.name)) != gene.name:
            kinds.setdefault(kind, []).append(gene.name)
    found = []
    for kind, names in kinds.items():
        if len(names) >= FEWEST_SUMMED:
            total = np.sum([np.nan_to_num(table.genes[name]) for name in names], axis=0)
            found.append(Measure(name=kind, summed=tuple(names), least=_least(total)))
    return found


def _least(column: Array) -> float | None:
    """Return the smallest value that a logarithm is taken of; None where none is taken."""
    known = column[~np.isnan(column)]
    if not len(known) or known.min() <= 0 or known.max() < WIDE * known.min():
        return None
    return float(known.min()) / 2


def _columns(
    measure: Measure, genes: Mapping[str, NDArray[Any]], features: Mapping[str, Array]
) -> list[Array]:
    if measure.summed:
        column: Array = np.sum([np.nan_to_num(genes[name]) for name in measure.summed], axis=0)
    else:
        column = features[measure.name]
    if measure.least is None:
        return [column]
    return [column, np.log(np.maximum(column, measure.least))]
