"""Semantic segmentation: pictures with a class for every pixel, and mean IoU.

B batch, K classes, H and W of the mask, h and w of the network's output.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.pictures import IGNORED, normalise, read_indices, read_rgb, resize_bicubic, to_tensor
from supernet.tasks.base import evenly
from supernet.tasks.folders import check_folder, contents, list_pictures, pair_masks, unused_masks
from supernet.tasks.mask_values import check_not_negative, check_sizes, check_values, read_values

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
CLASSES_AT_ONCE = 16
LARGE = 2**24  # pixels of a mask; larger ones are compared in parts
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
        *,
        mean: Sequence[float],
        std: Sequence[float],
        split: str = "val",
        names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            folder: of one of the LAYOUTS.
            resolution: see `input_size`.
            num_classes: of the network.
            mean, std: of RGB in 0..1.
            names: of the network's classes, where its weights tell them.

        Raises:
            DataError: the folder is missing or empty, of another layout, lacks a mask, or has
                more classes than the network.
        """
        self.folder, self.layout = folder, layout_of(folder)
        self.resolution, self.num_classes, self.names = resolution, num_classes, names
        self.mean, self.std = mean, std
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
        if self.layout == "cityscapes":
            return tuple(CITYSCAPES)
        if len(self.names) == self.num_classes:
            return tuple(self.names)
        return tuple(map(str, range(self.num_classes)))

    def check_labels(
        self, limit: int | None = None, *, what: str = "masks", silent: bool = True
    ) -> tuple[str, ...]:
        """Look over all masks, also those that `limit` leaves out.

        See `check_values` and `check_sizes`.
        """
        masks = [mask for _, mask in self.samples]
        found = read_values(masks, silent=silent)
        notes = check_values(
            found,
            label_tables(self.layout, self.num_classes),
            self.layout,
            self.class_names,
            self.folder,
            what=what,
            limit=None if limit is None else evenly(range(len(masks)), limit),
        )
        check_sizes(self.samples, found)
        return self.notes + notes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, h, w) normalised and (H, W) classes, int16, 255 where none. Raises DataError."""
        picture, mask = self.samples[index]
        labels = to_classes(read_indices(mask), self.layout, mask, self.num_classes)
        pixels = np.array(read_rgb(picture, _hw(labels)))
        pixels = resize_bicubic(pixels, input_size(_hw(labels), self.resolution))
        return normalise(to_tensor(pixels), self.mean, self.std), torch.from_numpy(labels)


class MeanIoU:
    """Intersection over union of every class over all pictures together, and its mean.

    Classes that neither masks nor predictions have do not count. Standard errors are the
    jackknife's over pictures.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        num_classes = len(self.class_names)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # [true, said]
        self._pictures: list[tuple[Tensor, Tensor]] = []  # intersections, unions of each

    def update(self, logits: Tensor, masks: Tensor) -> None:
        """(B, K, h, w), any floating dtype, and (B, H, W), 255 for pixels that do not count."""
        for picture, mask in zip(logits, masks, strict=True):
            size = _hw(mask)
            if mask.numel() <= LARGE:
                self.update_classes(classes_of(picture, size), mask)
                continue
            rows = max(1, LARGE // 4 // size[1])
            self._count(
                self._confusion(classes_of_rows(picture, size, rows_, rows_ + rows), part)
                for rows_, part in zip(range(0, size[0], rows), mask.split(rows), strict=True)
            )

    def update_classes(self, said: Tensor, mask: Tensor) -> None:
        """Count one picture; (H, W) both, of integers."""
        self._count([self._confusion(said, mask)])

    def _confusion(self, said: Tensor, mask: Tensor) -> Tensor:
        num_classes = len(self.class_names)
        mask = mask.to(said.device)
        counted = mask != IGNORED
        pairs = mask[counted].long() * num_classes + said[counted].long()
        return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1).cpu()

    def _count(self, parts: Iterable[Tensor]) -> None:
        """A picture, by the confusion matrices of its parts."""
        confusion = torch.zeros_like(self.confusion)
        for part in parts:
            confusion += part
        self.confusion += confusion
        self._pictures.append(_intersections_and_unions(confusion))

    def compute(self) -> dict[str, float]:
        """miou, its `_stderr`, pixel_accuracy and iou_CLASS of those seen; percent.

        Raises DataError if no pixel has a label.
        """
        pixels = int(self.confusion.sum())
        if pixels == 0:
            raise DataError(f"no pixel of {len(self._pictures)} masks has a label")
        intersections, unions = _intersections_and_unions(self.confusion)
        found = {"miou": 100 * float(_mean_iou(intersections, unions))}
        if len(self._pictures) > 1:
            left_out = [torch.stack(counts) for counts in zip(*self._pictures, strict=True)]
            without = _mean_iou(intersections - left_out[0], unions - left_out[1])
            spread = (len(without) - 1) * float(without.var(correction=0))
            found["miou_stderr"] = 100 * math.sqrt(spread)
        found["pixel_accuracy"] = 100 * float(self.confusion.trace()) / pixels
        for name, intersection, union in zip(
            self.class_names, intersections.tolist(), unions.tolist(), strict=True
        ):
            if union:
                found[f"iou_{name.replace(' ', '_')}"] = 100 * intersection / union
        return found


def layout_of(folder: Path) -> Layout:
    """By the folders in it. Raises DataError if they are of no layout."""
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
    """What the network sees of a picture of `size`; both (height, width).

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


def classes_of(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, h, w) -> (H, W): logits are enlarged to the mask (bicubic, official), then compared.

    A few classes at a time: 150 of a large picture would not fit into memory.
    """
    best = said = torch.empty(0)
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        x = logits[None, first : first + CLASSES_AT_ONCE].float()
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        largest, index = x[0].max(0)
        if first == 0:
            best, said = largest, index
        else:  # of equal logits the first class counts, as argmax has it
            said = torch.where(largest > best, index + first, said)
            best = torch.maximum(best, largest)
    return said


def classes_of_rows(logits: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows `start` to `stop`, or the last, of what `classes_of` gives, but for rounding.

    Bicubic along rows here, which takes four rows of logits each, then along columns.
    """
    height, stop = logits.shape[1], min(stop, size[0])
    place = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * height / size[0] - 0.5
    first = place.floor()
    t, a = place - first, -0.75  # PyTorch's a
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + t, 2 - t)]
    x = torch.zeros(len(logits), len(t), logits.shape[2], device=logits.device)
    for offset, weight in enumerate((far[0], *near, far[1]), start=-1):
        rows = (first.long() + offset).clamp(0, height - 1).to(logits.device)
        x += logits[:, rows].float() * weight.float().to(logits.device)[:, None]
    return classes_of(x, (len(t), size[1]))


def to_classes(
    indices: NDArray[Any], layout: Layout, path: Path, num_classes: int
) -> NDArray[np.int16]:
    """What a mask file holds, as classes 0 to num_classes - 1 and 255 for none.

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
    """By how the names of mask files end, "" is any: the class of each value, (256,).

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
    """Pictures with their masks, and what of the folder is passed over, a line each."""
    if layout == "ade20k":
        name = SPLIT_OF_ADE20K.get(split, split)
        pictures, masks = folder / "images" / name, folder / "annotations" / name
    elif layout == "folder":
        pictures, masks = folder / "images", folder / "masks"
        if (pictures / split).is_dir():
            pictures, masks = pictures / split, masks / split
    else:
        pictures, masks = folder / "leftImg8bit" / split, folder / "gtFine" / split
    for path in (pictures, masks):
        if not path.is_dir():
            raise DataError(f"{path} is missing; expected {LAYOUTS[layout]}")
    if layout != "cityscapes":
        pairs = pair_masks(pictures, masks)
        return pairs, unused_masks(pairs, masks)
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


def _intersections_and_unions(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """(K, K) -> (K,), (K,)."""
    intersections = confusion.diagonal()
    return intersections, confusion.sum(0) + confusion.sum(1) - intersections


def _mean_iou(intersections: Tensor, unions: Tensor) -> Tensor:
    """(..., K), (..., K) -> (...), over classes with a union; 0 where none has one."""
    seen = unions > 0
    iou = intersections.double() / unions.clamp(min=1)
    return (iou * seen).sum(-1) / seen.sum(-1).clamp(min=1)


def _hw(pixels: Tensor | NDArray[Any]) -> tuple[int, int]:
    """Of (H, W)."""
    height, width = pixels.shape
    return int(height), int(width)
