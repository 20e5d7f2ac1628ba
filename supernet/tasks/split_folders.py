"""Which folders of a data set are its splits, by their names in any usual spelling."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from results.errors import DataError
from supernet.tasks.folders import (
    Unread,
    is_data,
    is_picture,
    list_folders,
    pair_masks,
    unread_notes,
    unused_masks,
)

NAMES = {  # of each split, the one to prefer first
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# As data sets add to them: val2017, Train_Set, "test data".
AROUND = re.compile(
    r"({})[ _-]?(?:set|data|split|images|pictures)?[ _-]?(?:(?:19|20)\d\d)?".format(
        "|".join(name for names in NAMES.values() for name in names)
    )
)
# What each is called in a note, and names of which nothing needs to be said.
WHAT = {"train": "training pictures", "val": "held-out pictures"}
USUAL = ("train", "val")
ALONE = ("train", "val", "valid", "validation")  # splits also beside folders of other names


@dataclass(frozen=True)
class Splits:
    """The folders in `folder` that are splits, by `train`, `val` and `test`, best name first."""

    folder: Path
    by_split: Mapping[str, Sequence[Path]]

    def of(self, split: str) -> Path | None:
        """Return the folder of `split`, None where there is none."""
        return next(iter(self.by_split.get(split, ())), None)

    def notes(self, split: str, usual: Sequence[str] = USUAL) -> tuple[str, ...]:
        """Return a line where the folder of `split` has a name that is not one of `usual`.

        Also where it is one of several.
        """
        chosen, *others = self.by_split.get(split) or [self.folder]
        if chosen == self.folder or (chosen.name in usual and not others):
            return ()
        left = ", ".join(f"{path.name}/" for path in others)
        more = f"; {left} {'is' if len(others) == 1 else 'are'} passed over" if others else ""
        return (f"{WHAT[split]} are those in {self.folder.name}/{chosen.name}/{more}",)


def split_named(name: str) -> str | None:
    """Return which split a folder of that name is of, as `train`, `val` or `test`, None for none.

    >>> split_named("Valid"), split_named("training_set"), split_named("trains")
    ('val', 'train', None)
    """
    match = AROUND.fullmatch(name.lower())
    if not match:
        return None
    return next(split for split, names in NAMES.items() if match[1] in names)


def splits_in(folder: Path, *, with_folders: bool = False) -> Splits:
    """Return the splits of a data set.

    Folders named as in ALONE are. Other spellings are where all folders have such names, or those
    of two splits are there: a single one may be a class of that name.

    Args:
        with_folders: splits beside other folders hold folders themselves, those of classes.

    Raises DataError for a link that leads nowhere.
    """
    inside = list_folders(folder)
    named = [(path, split_named(path.name)) for path in inside]
    is_all = all(split for _, split in named)
    if with_folders and not is_all:
        named = [(path, split) for path, split in named if split and list_folders(path)]
    splits = {split for _, split in named if split}
    by_split: dict[str, list[Path]] = {}
    for path, split in named:
        if split and (is_all or len(splits) > 1 or path.name in ALONE):
            by_split.setdefault(split, []).append(path)
    for split, paths in by_split.items():
        paths.sort(key=partial(_rank, NAMES[split]))
    return Splits(folder, by_split)


def _rank(names: Sequence[str], path: Path) -> tuple[int, bool, str]:
    lower = path.name.lower()
    place = names.index(lower) if lower in names else len(names)
    return place, path.name != lower, path.name


def beside(splits: Splits, paths: Sequence[Path], split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Return which of `paths`, all in a data set, are of a split that has no folder; and a line.

    What is held out is what lies beside the training pictures, if anything does; else all are of
    the one split that there is.
    """
    train = splits.of("train")
    if split == "val" and train is not None:
        others = [path for path in paths if train not in path.parents]
        if others:
            where = f"{splits.folder.name}/{train.name}/"
            return others, (f"{WHAT[split]} are those beside {where}, as no val/ is there",)
    return list(paths), ()


def pairs_of(
    pictures: Path, masks: Path, split: str, usual: Sequence[str] = USUAL
) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Return the pictures of a split with their masks, and what a reader must know, a line each.

    Args:
        pictures, masks: folders with those of all splits, each in a folder of its own or not.
        usual: names of splits of which nothing is said.

    Raises DataError, see `pair_masks`, and where masks have no folder of the split.
    """
    splits, unread = splits_in(pictures), Unread()
    of_pictures, of_masks = splits.of(split), splits_in(masks).of(split)
    if of_pictures is not None:
        if of_masks is None:
            raise DataError(
                f"{pictures / of_pictures.name} has no masks: {masks / of_pictures.name} is missing"
            )
        pairs = pair_masks(of_pictures, of_masks, unread)
        passed_over = unused_masks(pairs, of_masks) + unread_notes(unread, of_pictures)
        return pairs, splits.notes(split, usual) + passed_over
    pairs = pair_masks(pictures, masks, unread)
    passed_over = unused_masks(pairs, masks) + unread_notes(unread, pictures)
    chosen, notes = beside(splits, [picture for picture, _ in pairs], split)
    kept = set(chosen)
    return [pair for pair in pairs if pair[0] in kept], notes + passed_over


def root_of_classes(
    folder: Path, split: str, layout: str, found: str
) -> tuple[Path, tuple[str, ...]]:
    """Return where the class folders of a split are, and which folder was taken, if it is unusual.

    Args:
        layout: what is expected, for errors.
        found: what is there, for errors.

    Raises DataError where there are splits, but not this one, or where they lie further down.
    """
    splits = splits_in(folder, with_folders=True)
    root = splits.of(split)
    if root is not None:
        return root, splits.notes(split, ("train", "val", "validation"))
    inside = list_folders(folder)
    if inside and (all(split_named(path.name) for path in inside) or len(splits.by_split) > 1):
        test = splits.of("test")
        cure = f"; give --data {test} to evaluate on it" if test and split == "val" else ""
        raise DataError(f"{folder} has no {split}/; expected {layout}, {found}{cure}")
    if len(inside) == 1:
        within = splits_in(inside[0], with_folders=True).by_split
        if len(within) > 1:
            names = ", ".join(f"{path.name}/" for paths in within.values() for path in paths)
            raise DataError(
                f"{folder} holds one folder, which has the splits {names}; give --data {inside[0]}"
            )
    return folder, ()


def check_classes_within(root: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return a line where all class folders hold folders of the same names, and no pictures.

    Those may be the classes, and the class folders splits or folds of names that nobody knows; or
    they may be splits of each class.
    """
    common: set[str] | None = None
    for name in names if len(names) > 1 else ():
        inner = _only_folders(root / name)
        common = inner if common is None else common & inner
        if not common:
            return ()
    if not common:
        return ()
    listed = ", ".join(f"{name}/" for name in sorted(common)[:4])
    more = ", …" if len(common) > 4 else ""
    if any(map(split_named, common)):
        return (
            f"each class folder of {root} holds {listed}{more}, whose pictures are taken alike; "
            "put splits above the classes, as train/CLASS and val/CLASS, to keep them apart",
        )
    if len(common) < 2:
        return ()
    return (
        f"all {len(names)} class folders of {root} hold {listed}{more}; where those are the "
        f"classes, give --data {root / sorted(names)[0]}, or name the folders above them train/ "
        "and val/",
    )


def _only_folders(folder: Path) -> set[str]:
    """Return the names of the folders in a folder without pictures, else nothing."""
    names = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_picture(entry.name):
                    return set()
                if is_data(entry.name) and entry.is_dir():
                    names.add(entry.name)
    except OSError:  # said where pictures are listed
        return set()
    return names
