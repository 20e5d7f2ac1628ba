"""Which samples of a data set are trained on, held out, and looked at."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch.utils.data import Dataset, Subset

from results.errors import DataError

GOLDEN = (5**0.5 - 1) / 2
HELD_OUT = 10  # of a folder without splits, each tenth picture is kept from training
T = TypeVar("T")


def evenly(samples: Sequence[T], count: int | None) -> list[T]:
    """Return `count` of a data set's samples, one from each of `count` stretches of it.

    Evenly, as classes of a folder lie one after the other; at uneven places within the
    stretches, as classes of embedded pictures take turns. None: all samples.
    """
    count = min(count or len(samples), len(samples))
    step = len(samples) / count
    return [samples[int((i + i * GOLDEN % 1) * step)] for i in range(count)]


def spread(data: "Dataset[Any]", limit: int | None) -> "Dataset[Any]":
    """Return `limit` samples of a data set, evenly spread, or all where `limit` is None."""
    total = len(data)  # type: ignore[arg-type]
    return data if limit is None or limit >= total else Subset(data, evenly(range(total), limit))


def split_off(samples: Sequence[T]) -> tuple[list[T], list[T]]:
    """Return those to train on and each tenth, held out, of a folder without splits of its own.

    Raises DataError for fewer than two.
    """
    if len(samples) < 2:
        raise DataError("one picture can not be both trained on and held out; add pictures to it")
    held_out = [sample for i, sample in enumerate(samples) if i % HELD_OUT == 0]
    return [sample for i, sample in enumerate(samples) if i % HELD_OUT], held_out


def separate(train: list[T], held_out: list[T], key: Callable[[T], Any]) -> tuple[list[T], list[T]]:
    """Return both without samples of both, as a folder without a split gives all its pictures.

    Args:
        key: what tells samples apart.

    Raises DataError where too few are left.
    """
    ours, theirs = ({key(sample) for sample in samples} for samples in (train, held_out))
    if ours == theirs:
        return split_off(train)
    if not ours & theirs:
        return train, held_out
    if len(theirs) < len(ours):
        return [sample for sample in train if key(sample) not in theirs], held_out
    return train, [sample for sample in held_out if key(sample) not in ours]
