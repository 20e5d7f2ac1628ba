"""Which class a folder of pictures is of: by name where weights name theirs, else by order."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from results.errors import DataError, nearest
from supernet.tasks.folders import folded, normal

ORDERS = ("number", "text")  # of --class-order
AS_TRAINED = "as trained"  # by text, as trainings did that recorded no names
MOST_NAMED = 6


def in_order(
    folders: Sequence[str], order: str | None, root: Path
) -> tuple[list[str], tuple[str, ...]]:
    """Sort the names of class folders: the first is class 0.

    Args:
        order: number, by the numbers in the names; text; AS_TRAINED; None: number where every
            name is an integer, else text. Where it is not asked for, it is said.

    Returns:
        The names, and what was assumed, a line each.

    Raises DataError where the order by number is not known, as of 1 and 01, and for two folders of
    one name.
    """
    alike = _alike(folders, root)
    names, notes = _in_order(folders, order, root)
    return names, notes + alike


def _alike(folders: Sequence[str], root: Path) -> tuple[str, ...]:
    """Return a line where two names differ in case or spaces alone.

    Raises DataError for two that look the same, as é of one character and of two.
    """
    seen: dict[str, str] = {}
    similar = []
    for name in sorted(folders):
        key = " ".join(unicodedata.normalize("NFKC", folded(name)).casefold().split())
        other = seen.setdefault(key, name)
        if other == name:
            continue
        if normal(other) == normal(name):
            raise DataError(
                f"class folders {other!a} and {name!a} of {root} are one name, {normal(name)!r}, "
                "which Unicode composes in two ways; merge them"
            )
        similar.append(f"{other!r} and {name!r}")
    if not similar:
        return ()
    more = ", …" if len(similar) > MOST_NAMED else ""
    return (
        f"class folders {', '.join(similar[:MOST_NAMED])}{more} of {root} are classes of their "
        "own, though they are spelt alike",
    )


def _in_order(
    folders: Sequence[str], order: str | None, root: Path
) -> tuple[list[str], tuple[str, ...]]:
    """Sort names, see `in_order`."""
    text, number = sorted(folders), sorted(folders, key=_by_number)
    integers = bool(folders) and all(map(_is_integer, folders))
    if order in ("text", AS_TRAINED) or (order is None and not integers):
        if order == "text" or text == number:
            return text, ()
        why = ", as in the training of the weights" if order == AS_TRAINED else ""
        return text, (_assumed(f"text{why}", text, "number", number),)
    for one, other in pairwise(number):
        if _by_number(one) == _by_number(other):
            raise DataError(
                f"class folders {one!r} and {other!r} of {root} are of the same number; rename "
                "one, or give --class-order text"
            )
    if order == "number":
        return number, ()
    notes = [_assumed("number", number, "text", text)] if text != number else []
    shifted = next((i for i, name in enumerate(number) if int(name) != i), None)
    if shifted is not None:
        notes.append(
            f"class folders are counted in order, whatever their numbers: {number[shifted]!r} is "
            f"class {shifted}"
        )
    return number, tuple(notes)


def by_name(
    folders: Sequence[str], classes: Sequence[str], root: Path
) -> tuple[list[int], tuple[str, ...]]:
    """Find the class of each folder among those that the weights name.

    Names are compared as Unicode has them (é is one character or two). Integers are compared by
    value, and are the numbers of classes that have names of other kinds.

    Returns:
        The number of each folder's class, and what a reader must know, a line each.

    Raises DataError, with the nearest name, for a folder of no class, and for two of one.
    """
    numbers = {normal(name): number for number, name in enumerate(classes)}
    labels = [numbers.get(normal(name), -1) for name in folders]
    notes = []
    if -1 in labels and all(map(_is_integer, folders)):
        if all(map(_is_integer, classes)):
            values = {int(name): number for number, name in enumerate(classes)}
            labels = [values.get(int(name), -1) for name in folders]
        elif all(int(name) < len(classes) for name in folders):
            labels = [int(name) for name in folders]
            first = min(range(len(labels)), key=labels.__getitem__)
            notes.append(
                f"class folders are numbers, and taken for those of the weights' classes: "
                f"{folders[first]!r} is {classes[labels[first]]!r}"
            )
    for name, label in zip(folders, labels, strict=True):
        if label < 0:
            raise DataError(
                f"class folder {root / name} is no class of the weights"
                f"{nearest(name, classes)}; rename it, or give weights that know it"
            )
    for label in labels:
        same = [name for name, other in zip(folders, labels, strict=True) if other == label]
        if len(same) > 1:
            raise DataError(
                f"class folders {same[0]!r} and {same[1]!r} of {root} are both of class "
                f"{classes[label]!r}; merge them"
            )
    missing = [name for number, name in enumerate(classes) if number not in set(labels)]
    if missing:
        notes.append(f"{share_of(missing, classes)} no folder in {root}: {listed(missing)}")
    return labels, tuple(notes)


def check_order(order: str | None, task: str, data: Path | None) -> None:
    """Raise DataError where --class-order is given and there are no class folders."""
    if order is not None and (task != "classification" or data is None):
        of = task if task != "classification" else "the embedded pictures"
        raise DataError(f"--class-order is of class folders, not of {of}; leave it out")


def share_of(some: Sequence[str], names: Sequence[str]) -> str:
    """Return the beginning of a line: `1 of 12 classes has`, `2 of 12 classes have`."""
    return f"{len(some)} of {len(names)} classes {'has' if len(some) == 1 else 'have'}"


def listed(names: Sequence[str]) -> str:
    """Return the first few names, quoted."""
    more = ", …" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def _assumed(order: str, names: list[str], other: str, others: list[str]) -> str:
    first = next(i for i, name in enumerate(names) if name != others[i])
    return (
        f"{len(names)} class folders are sorted by {order}: class {first} is {names[first]!r}, "
        f"which by {other} (--class-order {other}) were {others[first]!r}"
    )


def _is_integer(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _by_number(name: str) -> list[str | int]:
    """Return texts and integers in turn, so that two keys can always be compared."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
