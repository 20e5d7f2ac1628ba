"""What the masks of a folder hold, all together: whether their values can be the classes.

One mask tells little: 255 may be the label of none or a class stored as white, and a value that
is missing may be rare. All masks of a split are read once, before anything is computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError
from results.progress import progress
from supernet.pictures import IGNORED, other_size, read_indices
from supernet.tasks.class_order import listed, share_of
from supernet.tasks.look import in_threads

MANY = 1000  # masks whose reading is shown
COUNTED_AT_ONCE = 2**22  # pixels
MOST_ABOVE = 16  # values above 255 that are kept of a mask
RESIZED = 64  # values of masks that were made larger or smaller as pictures are
VOID = (5, 6, 9, 10, 14, 15, 16, 18)  # label ids of Cityscapes that are rare and no class
HIGHEST_TRAIN_ID, HIGHEST_ID = 18, 33


@dataclass(frozen=True)
class MaskValues:
    """Which values each of N masks holds, and how many pixels of each there are together."""

    paths: tuple[Path, ...]
    holds: NDArray[np.bool_]  # (N, 256)
    pixels: NDArray[np.int64]  # (256,)
    above: tuple[tuple[int, ...], ...]  # of each mask: the least values above 255, MOST_ABOVE
    sizes: tuple[tuple[int, int], ...]  # (H, W) of each

    @property
    def values(self) -> list[int]:
        """Return the values that masks hold, ascending, without 255."""
        known = [int(value) for value in np.flatnonzero(self.pixels) if value != IGNORED]
        return known + sorted({value for values in self.above for value in values})

    @property
    def has_255(self) -> bool:
        """Return whether any pixel holds 255."""
        return bool(self.pixels[IGNORED])

    def of(self, chosen: NDArray[np.bool_]) -> "MaskValues":
        """Return what the masks of `chosen`, (N,), hold; pixels are those of all."""
        kept = np.flatnonzero(chosen)
        holds = self.holds[chosen]
        return MaskValues(
            tuple(self.paths[i] for i in kept),
            holds,
            self.pixels * holds.any(0),
            tuple(self.above[i] for i in kept),
            tuple(self.sizes[i] for i in kept),
        )

    def first(self, value: int) -> Path:
        """Return the first mask that holds `value`."""
        if value > IGNORED:
            return next(
                path for path, above in zip(self.paths, self.above, strict=True) if value in above
            )
        return self.paths[int(self.holds[:, value].argmax())]


@dataclass(frozen=True)
class Labelling:
    """What the values of a folder's masks mean."""

    folder: Path
    layout: str  # cityscapes, ade20k or folder
    # By how the names of mask files end ("" is any) the class of each value, (256,): 255 for
    # none, -1 for what is no label.
    tables: Mapping[str, NDArray[np.int16]]
    names: Sequence[str]  # of the classes


def read_values(masks: Sequence[Path], *, silent: bool = True) -> MaskValues:
    """Read all masks and return what they hold, some MB for many thousands. Raises DataError."""
    holds = np.zeros((len(masks), 256), dtype=bool)
    pixels = np.zeros(256, dtype=np.int64)
    above, sizes = [], []
    silent = silent or len(masks) <= MANY
    with progress(len(masks), silent=silent, label="looking over masks", unit="masks") as done:
        for number, (counts, larger, size) in enumerate(in_threads(_count, masks)):
            holds[number] = counts > 0
            pixels += counts
            above.append(larger)
            sizes.append(size)
            done(number + 1)
    return MaskValues(tuple(masks), holds, pixels, tuple(above), tuple(sizes))


def check_sizes(samples: Sequence[tuple[Path, Path]], values: MaskValues) -> None:
    """Raise DataError where masks are not of the size of their pictures, upright or stored.

    Args:
        samples: pictures with the masks that `values` are of, in the same order.
    """
    sizes = values.sizes
    pictures = [picture for picture, _ in samples]
    others = in_threads(_other_size, zip(pictures, sizes, strict=True))
    wrong = [
        (*sample, size, other)
        for sample, size, other in zip(samples, sizes, others, strict=True)
        if other is not None
    ]
    if not wrong:
        return
    picture, mask, size, other = wrong[0]
    raise DataError(
        f"{picture} is {other[0]}x{other[1]} (height x width), its mask {mask} "
        f"{size[0]}x{size[1]}; {len(wrong)} of {len(samples)} masks are of another size than "
        "their pictures: make them anew, or resize them without interpolation"
    )


def check_values(
    values: MaskValues,
    labelling: Labelling,
    *,
    what: str = "masks",
    limit: Sequence[int] | None = None,
) -> tuple[str, ...]:
    """Check whether the values that masks hold can be the classes.

    Args:
        what: the masks, in words.
        limit: numbers of the masks that an evaluation is on, where not on all.

    Returns:
        What is odd, a line each.

    Raises DataError for values that cannot be right, and for masks that tell nothing.
    """
    names = labelling.names
    classes = np.zeros((len(values.paths), len(names)), dtype=bool)
    notes: list[str] = []
    left = np.ones(len(values.paths), dtype=bool)
    for ending, table in labelling.tables.items():
        chosen = left & np.array([path.stem.endswith(ending) for path in values.paths], dtype=bool)
        left &= ~chosen
        if not chosen.any():
            continue
        part = values.of(chosen)
        _check_known(part, labelling, ending)
        if labelling.layout == "cityscapes":
            notes += _check_cityscapes(part, table, ending, labelling.folder)
        if labelling.layout == "ade20k":
            notes += _check_ade20k(part, labelling.folder)
        for value in part.values:
            if table[value] < len(names):
                classes[chosen, table[value]] |= part.holds[:, value]
    present: NDArray[np.bool_] = np.logical_or.reduce(classes)
    _check_several(values, present, labelling, what)
    absent = [name for name, any_ in zip(names, present, strict=True) if not any_]
    if absent:
        notes.append(
            f"{share_of(absent, names)} no pixel in {len(values.paths)} {what}: {listed(absent)}; "
            "one counts in the mean as 0 where the network says it, else not at all"
        )
    if limit is not None and what != "training masks":
        notes += _check_limit(classes, limit, names)
    if labelling.layout == "folder":
        notes += _about_255(values, classes, what)
    return tuple(notes)


def check_not_negative(indices: NDArray[Any], path: Path) -> None:
    """Raise DataError for a label below 0, which masks of 32 bits can hold."""
    least = int(indices.min(initial=0))
    if least < 0:
        raise DataError(f"mask {path} holds label {least}; store {IGNORED} for none")


def _count(path: Path) -> tuple[NDArray[np.int64], tuple[int, ...], tuple[int, int]]:
    """Return the pixels of each value, (256,), the least values above 255, and (H, W)."""
    counts = np.zeros(256, dtype=np.int64)
    above: set[int] = set()
    indices = read_indices(path)
    check_not_negative(indices, path)
    for rows in np.array_split(indices, max(1, indices.size // COUNTED_AT_ONCE)):
        larger = rows > IGNORED
        if larger.any():
            above.update(map(int, np.unique(rows[larger])[:MOST_ABOVE]))
            rows = rows[~larger]
        counts += np.bincount(rows.ravel(), minlength=256)  # which makes 8 bytes of a pixel
    return counts, tuple(sorted(above)[:MOST_ABOVE]), (indices.shape[0], indices.shape[1])


def _other_size(sample: tuple[Path, tuple[int, int]]) -> tuple[int, int] | None:
    """Return (H, W) of a picture that is not of the size of its mask, else None."""
    return other_size(*sample)


def _check_known(masks: MaskValues, labelling: Labelling, ending: str) -> None:
    """Raise DataError for values of masks whose names have that `ending` that are no label."""
    table, layout, num_classes = labelling.tables[ending], labelling.layout, len(labelling.names)
    unknown = [value for value in masks.values if value > IGNORED or table[value] < 0]
    if not unknown:
        return
    values, has_255 = masks.values, masks.has_255
    all_values = [*values, *([IGNORED] if has_255 else [])]
    cure = ""
    if layout == "cityscapes" and ending and max(values) <= HIGHEST_ID:
        cure = "; they look like label ids: name the files *_gtFine_labelIds.png"
    elif layout == "folder" and len(values) > RESIZED and num_classes <= RESIZED // 2:
        cure = (
            "; they look as if resized or saved as pictures are: resize masks without "
            "interpolation, and save them as PNG"
        )
    elif layout == "folder" and num_classes in (len(values), len(all_values)):
        cure = f"; store the {num_classes} classes as 0 to {num_classes - 1}"
    elif (
        layout == "folder"
        and not has_255
        and values == [*range(num_classes), unknown[-1]]
        and unknown[-1] > num_classes
    ):
        cure = f"; where {unknown[-1]} is none, store the label of none as {IGNORED}"
    elif layout == "folder" and max(values) < IGNORED and 2 * len(values) > max(values):
        cure = f"; there may be {max(values) + 1} classes, which --num-classes tells a training"
    raise DataError(
        f"mask {masks.first(unknown[0])} holds label {unknown[0]}, of {num_classes} "
        f"classes; labels are {'1' if layout == 'ade20k' else '0'} and up, {IGNORED} for none; "
        f"{labelling.folder} holds {_values(all_values)}{cure}"
    )


def _check_several(
    values: MaskValues, present: NDArray[np.bool_], labelling: Labelling, what: str
) -> None:
    """Raise DataError unless two classes have pixels: with one, whoever says it is right."""
    if present.sum() > 1:
        return
    count, names = len(values.paths), labelling.names
    layout, folder = labelling.layout, labelling.folder
    if not present.any() and layout != "folder":
        raise DataError(f"no pixel of {count} {what} has a label, in {folder}")
    if len(names) == 1:
        raise DataError(
            f"one class alone tells nothing, as whoever says it is right: store the {what} of "
            f"{folder} as 0 and 1, {IGNORED} for none, and have a network of 2 classes"
        )
    if layout == "folder" and values.has_255:
        known = [name for name, any_ in zip(names, present, strict=True) if any_]
        missing = [name for name in names if name not in known]
        raise DataError(
            f"the {count} {what} of {folder} hold {_values([*values.values, IGNORED])} alone, and "
            f"{IGNORED} is the label of none: {listed(missing)} of {len(names)} classes "
            f"{'has' if len(missing) == 1 else 'have'} no pixel. Store the classes as "
            f"{'0 and 1' if len(names) == 2 else f'0 to {len(names) - 1}'}"
        )
    only = names[int(present.argmax())]
    raise DataError(
        f"all labelled pixels of {count} {what} of {folder} are of class {only!r}, which tells "
        "nothing of a network; give pictures with other classes too"
    )


def _check_limit(
    classes: NDArray[np.bool_], limit: Sequence[int], names: Sequence[str]
) -> list[str]:
    present: NDArray[np.bool_] = np.logical_or.reduce(classes[list(limit)])
    anywhere: NDArray[np.bool_] = np.logical_or.reduce(classes)
    if present.sum() < 2:
        raise DataError(
            f"the pictures that --limit {len(limit)} takes show "
            + (f"class {names[int(present.argmax())]!r} alone" if present.any() else "no class")
            + "; give a larger --limit"
        )
    absent = [name for i, name in enumerate(names) if anywhere[i] and not present[i]]
    if not absent:
        return []
    return [
        f"{share_of(absent, names)} no pixel where --limit {len(limit)} looks: {listed(absent)}"
    ]


def _about_255(values: MaskValues, classes: NDArray[np.bool_], what: str) -> list[str]:
    """Return a line where 255 may be a class, and not the label of none."""
    white = values.holds[:, IGNORED]
    last = classes[:, -1]
    if not white.any():
        return []
    count = len(values.paths)
    if last.any() and white.any() and not (white & last).any() and white.sum() + last.sum() > 3:
        return [
            f"{IGNORED} counts as none, in {int(white.sum())} of {count} {what}, of which none "
            f"holds {classes.shape[1] - 1}: is it the same class, stored in two ways?"
        ]
    share = values.pixels[IGNORED] / values.pixels.sum()
    if share > 0.5 or not last.any():
        return [
            f"{IGNORED} counts as none: {100 * share:.0f} % of the pixels, in {int(white.sum())} "
            f"of {count} {what}"
        ]
    return []


def _check_cityscapes(
    masks: MaskValues, table: NDArray[np.int16], ending: str, folder: Path
) -> list[str]:
    """Return a line, or raise DataError, where files named labelIds may hold train ids."""
    values = masks.values
    if ending or not values or max(values) > HIGHEST_TRAIN_ID:
        return []
    labelled = masks.pixels[:IGNORED]
    void = labelled[table[:IGNORED] == IGNORED].sum() > labelled.sum() / 2
    rare = len(set(values) & set(VOID)) > 2
    if masks.has_255 or void or rare:
        raise DataError(
            f"masks *_gtFine_labelIds.png of {folder} hold {_values(values)} alone"
            + (f", {IGNORED} aside" if masks.has_255 else "")
            + ", which look like train ids: if they are, name the files "
            "*_gtFine_labelTrainIds.png; if not, give label ids with more of the classes, up to 33"
        )
    return [
        f"no mask of {folder} holds a label id above {HIGHEST_TRAIN_ID}; were they train ids, the "
        "files had to be named *_gtFine_labelTrainIds.png"
    ]


def _check_ade20k(values: MaskValues, folder: Path) -> list[str]:
    """Return a line, or raise DataError, where labels are none of ADE20K's, or 1 was taken off.

    If it was, 255 is the label of none, and 0 the first class.
    """
    if values.pixels[150]:
        return []
    if not values.has_255:
        return [
            f"annotations of {folder} hold no 150: labels 1 and up count from 0 and 0 is none, as "
            "ADE20K's; where class 0 is one of yours, move them to masks/ beside images/"
        ]
    if values.pixels[0]:
        raise DataError(
            f"annotations of {folder} hold 0 and {IGNORED} and no 150: 1 was taken off them "
            "already, as from 1 and up, 0 for none, to 0 and up, 255 for none. Give them as they "
            "were published, or move them to masks/ beside images/"
        )
    return [
        f"annotations of {folder} hold {IGNORED} and no 0, as if 1 had been taken off them "
        "already; they are read as published, 1 and up"
    ]


def _values(values: Sequence[int]) -> str:
    shown = [*map(str, values)]
    if len(shown) > 12:
        return f"{', '.join(shown[:8])}, … {shown[-1]}"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
