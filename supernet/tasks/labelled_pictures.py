"""Pictures with a class for every pixel: Cityscapes, ADE20K, or folders of masks.

H and W of the mask, h and w of what the network sees.
"""

import math
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.pictures import (
    IGNORED,
    Normalisation,
    normalise,
    read_indices,
    read_rgb,
    resize_bicubic,
    to_tensor,
)
from supernet.tasks.folders import check_folder, contents, list_pictures
from supernet.tasks.mask_values import (
    Labelling,
    check_not_negative,
    check_sizes,
    check_values,
    read_values,
)
from supernet.tasks.split_folders import pairs_of, splits_in
from supernet.tasks.splits import evenly

Layout = Literal["cityscapes", "ade20k", "folder"]

LAYOUTS: dict[Layout, str] = {
    "cityscapes": "leftImg8bit/val/CITY/*_leftImg8bit.png with "
    "gtFine/val/CITY/*_gtFine_labelIds.png (or _labelTrainIds.png)",
    "ade20k": "images/validation/*.jpg with annotations/validation/*.png",
    "folder": "images/ with masks/, PNGs of the same names",
}
SPLIT_OF_ADE20K = {"train": "training", "val": "validation"}
CITYSCAPES = {  # https://github.com/mcordts/cityscapesScripts, helpers/labels.py: id of each class
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
STRIDE = 32  # sides of what the network sees are multiples of it


class LabelledPictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with masks, prepared as in the official evaluation, each at a size of its own.

    The picture is resized to `input_size`, the mask is left alone: what the network says is
    compared at the mask's full resolution.
    """

    def __init__(
        self,
        folder: Path,
        resolution: tuple[int, int],
        num_classes: int,
        normalisation: Normalisation,
        *,
        split: str = "val",
        names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            folder: of one of the LAYOUTS.
            resolution: see `input_size`.
            num_classes: of the network.
            normalisation: of what the network sees.
            names: of the network's classes, where its weights tell them.

        Raises:
            DataError: the folder is missing or empty, of another layout, lacks a mask, or has
                more classes than the network.
        """
        self.folder, self.layout = folder, layout_of(folder)
        self.resolution, self.num_classes, self.names = resolution, num_classes, names
        self.normalisation = normalisation
        self.samples, self.notes = _pairs(folder, self.layout, split)
        if not self.samples:
            raise DataError(
                f"{folder} holds no pictures; expected {LAYOUTS[self.layout]}, {contents(folder)}"
            )
        needed = {"cityscapes": len(CITYSCAPES), "ade20k": 150, "folder": num_classes}
        if num_classes != needed[self.layout]:
            raise DataError(
                f"{folder} is {self.layout} with {needed[self.layout]} classes, the network tells "
                f"{num_classes} apart; choose --dataset {self.layout}, or other --data"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in their order; their numbers where they have none."""
        if self.layout == "cityscapes":
            return tuple(CITYSCAPES)
        if len(self.names) == self.num_classes:
            return tuple(self.names)
        return tuple(map(str, range(self.num_classes)))

    def at(self, resolution: tuple[int, int]) -> "LabelledPictures":
        """Return the same pictures for a network that sees them at another resolution."""
        other = copy(self)
        other.resolution = resolution
        return other

    def check_labels(
        self, limit: int | None = None, *, what: str = "masks", silent: bool = True
    ) -> tuple[str, ...]:
        """Look over all masks, also those that `limit` leaves out; return what is odd of them.

        Raises DataError, see `check_values` and `check_sizes`.
        """
        masks = [mask for _, mask in self.samples]
        values = read_values(masks, silent=silent)
        tables = label_tables(self.layout, self.num_classes)
        notes = check_values(
            values,
            Labelling(self.folder, self.layout, tables, self.class_names),
            what=what,
            limit=None if limit is None else evenly(range(len(masks)), limit),
        )
        check_sizes(self.samples, values)
        return self.notes + notes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (3, h, w), normalised, and classes, (H, W), int16, 255 where none.

        Raises DataError for what cannot be read, and for values that are no labels.
        """
        picture, mask = self.samples[index]
        labels = to_classes(read_indices(mask), self.layout, mask, self.num_classes)
        size = (labels.shape[0], labels.shape[1])
        pixels = np.array(read_rgb(picture, size))
        pixels = resize_bicubic(pixels, input_size(size, self.resolution))
        return normalise(to_tensor(pixels), *self.normalisation), torch.from_numpy(labels)


def layout_of(folder: Path) -> Layout:
    """Return the layout, by the folders in it. Raises DataError if they are of no layout."""
    check_folder(folder)
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    if {"leftImg8bit", "gtFine"} <= names:
        return "cityscapes"
    if {"images", "annotations"} <= names:
        return "ade20k"
    if {"images", "masks"} <= names:
        return "folder"
    expected = ", or ".join(LAYOUTS.values())
    raise DataError(f"{folder} is of no known layout; {contents(folder)}; expected {expected}")


def input_size(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which the network sees a picture of `size`; all are (height, width).

    A resolution that is no square is taken as it is (official for Cityscapes, 1024x2048); of
    a square the shorter side becomes that, and the longer one keeps the aspect, rounded up to
    a multiple of 32 (official for ADE20K).

    >>> input_size((375, 500), (512, 512))
    (512, 704)
    """
    if resolution[0] != resolution[1]:
        return resolution
    (height, width), side = size, resolution[0]
    if height < width:
        return side, math.ceil(width / height * side / STRIDE) * STRIDE
    return math.ceil(height / width * side / STRIDE) * STRIDE, side


def to_classes(
    indices: NDArray[Any], layout: Layout, path: Path, num_classes: int
) -> NDArray[np.int16]:
    """Return what a mask file holds, (H, W), as classes 0 to num_classes - 1 and 255 for none.

    Raises DataError for what is no class.
    """
    check_not_negative(indices, path)
    tables = label_tables(layout, num_classes)
    table = next(table for ending, table in tables.items() if path.stem.endswith(ending))
    classes: NDArray[np.int16]
    if int(indices.max(initial=0)) > IGNORED:
        known = table[np.minimum(indices, IGNORED)]
        classes = np.where(indices > IGNORED, np.int16(-1), known)
    else:
        classes = table[indices]
    if (classes < 0).any():
        wrong = int(indices[classes < 0][0])
        raise DataError(
            f"mask {path} holds label {wrong}, of {num_classes} classes; labels are "
            f"{'1' if layout == 'ade20k' else '0'} and up, {IGNORED} for none"
        )
    return classes


def label_tables(layout: Layout, num_classes: int) -> dict[str, NDArray[np.int16]]:
    """Return the class of each value, (256,), by how the names of mask files end; "" is any.

    255 for none, -1 for what is no label.
    """
    plain = np.full(256, -1, np.int16)
    plain[: min(num_classes, IGNORED)] = np.arange(min(num_classes, IGNORED))
    plain[IGNORED] = IGNORED
    other = np.full(256, -1, np.int16)
    other[IGNORED] = IGNORED
    if layout == "cityscapes":
        other[:34] = IGNORED
        other[list(CITYSCAPES.values())] = np.arange(len(CITYSCAPES))
        return {"TrainIds": plain, "": other}
    if layout == "ade20k":
        other[0] = IGNORED
        other[1 : num_classes + 1] = np.arange(num_classes)
        return {"": other}
    return {"": plain}


def _pairs(
    folder: Path, layout: Layout, split: str
) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Return pictures with their masks, and what of the folder is passed over, a line each."""
    if layout == "folder":
        return pairs_of(folder / "images", folder / "masks", split)
    if layout == "ade20k":
        pictures, masks = folder / "images", folder / "annotations"
        for path in (pictures, masks):
            if splits_in(path).of(split) is None:
                name = SPLIT_OF_ADE20K.get(split, split)
                raise DataError(
                    f"{path / name} is missing; expected {LAYOUTS[layout]}, {contents(path)}"
                )
        return pairs_of(pictures, masks, split, tuple(SPLIT_OF_ADE20K.values()))
    pictures, masks = folder / "leftImg8bit" / split, folder / "gtFine" / split
    for path in (pictures, masks):
        if not path.is_dir():
            raise DataError(f"{path} is missing; expected {LAYOUTS[layout]}")
    suffix = "_leftImg8bit.png"
    pairs = [
        (picture, _cityscapes_mask(masks / picture.parent.name, picture.name.removesuffix(suffix)))
        for picture in list_pictures(pictures)
        if picture.name.endswith(suffix)
    ]
    return pairs, ()


def _cityscapes_mask(city: Path, stem: str) -> Path:
    choices = [city / f"{stem}_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds")]
    for path in choices:
        if path.is_file():
            return path
    raise DataError(f"{stem} has no mask: {choices[0]} is missing, and so is {choices[1].name}")
