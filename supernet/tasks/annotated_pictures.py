"""Pictures with masks of single objects: SA-1B, COCO, or folders of numbered masks.

K objects of a picture, H height, W width. Boxes are x and y of two corners, in pixels.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from results.errors import DataError
from supernet import rle
from supernet.pictures import read_indices, read_rgb, read_turned
from supernet.rle import Rle, decode
from supernet.tasks.coco import (
    Annotation,
    Labels,
    RunLengths,
    find_coco,
    named,
    read_annotation,
    read_sa1b,
)
from supernet.tasks.folders import check_folder, contents, list_pictures
from supernet.tasks.look import in_threads
from supernet.tasks.object_boxes import (
    FRACTIONS,
    are_fractions,
    around_polygons,
    check_box,
    may_be_empty,
)
from supernet.tasks.split_folders import pairs_of

Layout = Literal["sa1b", "coco", "folder"]
Mask = NDArray[np.bool_]

LAYOUTS: dict[Layout, str] = {
    "sa1b": "sa_*.jpg with sa_*.json",
    "coco": "annotations/*.json with pictures in images/ or val2017/",
    "folder": "images/ with masks/, PNGs of the same names holding the objects' numbers",
}
MOST_NUMBERS = 5000  # objects of a mask
TINY = 2  # pixels of an object whose area may be less than 1, as that of a polygon
NO_PIXEL = "it has no pixel"
LOOKED = 2000  # files of SA-1B whose objects are checked before a training: about a minute


@dataclass(frozen=True)
class Instance:
    """One object; its mask is decoded when asked for, as a picture may have hundreds."""

    box: tuple[float, float, float, float]
    area: float  # pixels, as the annotation says
    decode: Callable[[], Mask]  # (H, W)


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture with its objects."""

    path: Path
    pixels: NDArray[np.uint8]  # (H, W, 3)
    instances: tuple[Instance, ...]
    damaged: tuple[str, ...] = ()  # of objects that are left out, why
    is_assumed: bool = False  # that objects are of the upright picture: they fit the stored one too


class AnnotatedPictures(Dataset[AnnotatedPicture]):
    """Pictures of the SA-1B or COCO layout, or with masks of numbered objects.

    `notes` says what of the folder is passed over.
    """

    def __init__(self, folder: Path, *, split: str = "val") -> None:
        """`folder` is of one of the LAYOUTS. Raises DataError if it is missing, empty or odd."""
        check_folder(folder)
        self.layout, self.samples, self.notes = _find(folder, split)
        if not self.samples:
            raise DataError(
                f"{folder} holds no annotated pictures; expected {LAYOUTS[self.layout]}, "
                f"{contents(folder)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> AnnotatedPicture:
        return self.load(self.samples[index])

    def load(self, sample: tuple[Path, Any]) -> AnnotatedPicture:
        """Return a picture with its objects.

        Raises DataError for a picture or a file of annotations that cannot be read.
        """
        path, source = sample
        if self.layout == "folder":
            return _read_numbered(path, cast(Path, source))
        return _read_annotated(path, read_sa1b(source) if self.layout == "sa1b" else source)

    def check_objects(self) -> tuple[str, ...]:
        """Check SA-1B's objects, of very many files some, evenly spread.

        COCO's were checked when its one file was read, and a mask has no damaged objects.

        Returns a line where objects are damaged, which tells how many. Raises DataError for a
        file that cannot be read, and where all objects are damaged.
        """
        if self.layout != "sa1b":
            return ()
        sources = [cast(Path, source) for _, source in self.samples]
        chosen = sources[:: max(1, -(-len(sources) // LOOKED))]
        notes = _check_all(in_threads(read_sa1b, chosen))
        if len(chosen) == len(sources):
            return notes
        return tuple(f"in {len(chosen)} of {len(sources)} files, {note}" for note in notes)


def fill_polygons(polygons: Sequence[ArrayLike], size: tuple[int, int]) -> Mask:
    """Return the pixels, (H, W), whose centres lie in any of the polygons (x, y, x, y, ...).

    Even-odd rule. A pixel (row, column) covers [column, column + 1) x [row, row + 1), as in
    COCO; filling as Pillow does would add the outline.

    Raises ValueError for what is no polygon.
    """
    height, width = size
    mask = np.zeros(size, dtype=np.bool_)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon has an even number of coordinates, six or more")
        crossings = np.zeros((height, width + 1), dtype=np.uint8)  # whether odd is all that counts
        corners = points.reshape(-1, 2)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            low, high = sorted((y0, y1))
            rows = np.arange(*(int(np.clip(math.ceil(y - 0.5), 0, height)) for y in (low, high)))
            if rows.size:
                x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
                # every pixel whose centre is right of the crossing changes sides
                columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
                np.add.at(crossings, (rows, columns), 1)
        np.cumsum(crossings, axis=1, dtype=np.uint8, out=crossings)
        crossings &= 1
        mask |= crossings[:, :width].view(np.bool_)
    return mask


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box around a mask, (H, W), not empty; two edges lie past the last pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _find(folder: Path, split: str) -> tuple[Layout, list[tuple[Path, Any]], tuple[str, ...]]:
    """Return pictures, each with the file of its annotations or its `Labels`, and notes."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    pictures = [path for path in list_pictures(folder) if path.name.startswith("sa_")]
    if pictures:
        return "sa1b", [(path, _json_of(path)) for path in pictures], ()
    if "annotations" in names:
        samples, notes = find_coco(folder, split)
        return "coco", samples, notes + _check_all([labels for _, labels in samples])
    if {"images", "masks"} <= names:
        pairs, notes = pairs_of(folder / "images", folder / "masks", split)
        return "folder", list(pairs), notes
    expected = ", or ".join(LAYOUTS.values())
    raise DataError(f"{folder} is of no known layout; {contents(folder)}; expected {expected}")


def _json_of(picture: Path) -> Path:
    name = f"{picture.stem}.json"
    for folder in (picture.parent, picture.parent.parent / "masks"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{picture} has no annotations: {picture.with_suffix('.json')} is missing")


def _check_all(labels: Iterable[Labels]) -> tuple[str, ...]:
    """Return a line where objects are damaged as far as it shows without pictures.

    Raises DataError where all are.
    """
    total = damaged = 0
    first = ""
    for label in labels:
        for text in label.annotations:
            total += 1
            try:
                _check(read_annotation(text, label.source), label.size)
            except DataError as error:
                damaged += 1
                first = first or _reason(error, text, label.source)
    if not damaged:
        return ()
    line = f"{damaged} of {total} objects are damaged, the first: {first}"
    if damaged == total:
        raise DataError(line)
    return (f"{line}; they are left out",)


def _read_annotated(path: Path, labels: Labels) -> AnnotatedPicture:
    """Return a picture turned as its labels are, with all objects that are sound.

    Raises DataError for a picture that cannot be read.
    """
    read: list[tuple[bytes, Annotation]] = []
    damaged = []
    for text in labels.annotations:
        try:
            read.append((text, read_annotation(text, labels.source)))
        except DataError as error:
            damaged.append(str(error))
    picture, size, is_assumed, why = _turned_as_labels(path, labels, [a for _, a in read])
    instances = []
    for text, annotation in read:
        try:
            if why:
                raise DataError(why)
            polygons = not isinstance(annotation.segmentation, RunLengths)
            if polygons and labels.size not in (None, size):
                raise DataError(f"made on a picture of {labels.size}, and this is {size}")
            instance = _instance(annotation, size)
        except DataError as error:
            damaged.append(_reason(error, text, labels.source))
            continue
        if instance.area >= 1:  # as officially; areas in other units are none any more
            instances.append(instance)
    return AnnotatedPicture(path, picture, tuple(instances), tuple(damaged), is_assumed)


def _turned_as_labels(
    path: Path, labels: Labels, annotations: Sequence[Annotation]
) -> tuple[NDArray[np.uint8], tuple[int, int], bool, str]:
    """Return pixels, (H, W), whether the side is assumed, and why no label fits, or "".

    Most run lengths tell the size that they are of; else the file may.
    """
    runs = [a.segmentation for a in annotations if isinstance(a.segmentation, RunLengths)]
    told = [size for size, _ in Counter(run.size for run in runs).most_common(1)]
    if labels.size is not None:
        told.append(labels.size)
    why = ""
    for size in told:
        try:
            picture, is_assumed = read_turned(path, size)
            return np.array(picture), size, is_assumed, ""
        except DataError as error:
            why = why or str(error)
    picture, is_assumed = read_turned(path)
    if labels.size is None:  # run lengths alone, each of which is compared with the picture
        why = ""
    return np.array(picture), (picture.height, picture.width), is_assumed and not why, why


def _reason(error: DataError, text: bytes, source: Path) -> str:
    reason = str(error)
    if reason.startswith(str(source)):
        return reason
    return f"{named(text, source)} is damaged: {reason}"


def _check(annotation: Annotation, size: tuple[int, int] | None) -> None:
    """Raise DataError for an object that is damaged; `size` of its picture, where it is known."""
    drawn = annotation.segmentation
    if not drawn:
        raise DataError("it has no segmentation")
    if isinstance(drawn, RunLengths):
        if size is not None and drawn.size != size:
            raise DataError(f"a mask of {drawn.size} on a picture of {size}")
        box = rle.box(_rle(drawn))
        if box is None and annotation.bbox is not None:
            raise DataError(NO_PIXEL)
        around = [] if box is None else [box]
    else:
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in drawn):
            raise DataError("a polygon has an even number of coordinates, six or more")
        if not any(_overlaps(polygon[::2], polygon[1::2], size) for polygon in drawn):
            raise DataError(f"it lies outside the picture of {size}")
        if all(map(are_fractions, drawn)) and size not in (None, (1, 1)):
            raise DataError(f"{NO_PIXEL}; {FRACTIONS}")
        around = around_polygons(drawn, size)
    if annotation.bbox is not None:
        x, y, width, height = annotation.bbox
        if min(width, height) < 0:
            raise DataError(f"bbox is {annotation.bbox}")
        if around:
            check_box(annotation.bbox, around)
        if not _overlaps((x, x + width), (y, y + height), size):
            raise DataError(f"bbox {annotation.bbox} lies outside the picture of {size}")


def _overlaps(x: Sequence[float], y: Sequence[float], size: tuple[int, int] | None) -> bool:
    """Return whether places reach into a picture of `size`, (H, W), or touch its edge."""
    if size is None:
        return True
    return max(x) >= 0 and min(x) <= size[1] and max(y) >= 0 and min(y) <= size[0]


def _instance(annotation: Annotation, size: tuple[int, int]) -> Instance:
    """Return the object that is annotated. Raises DataError for one that is damaged."""
    _check(annotation, size)
    assert annotation.segmentation is not None
    outline = annotation.segmentation
    drawn = _Drawn(outline, size)
    pixels = annotation.area
    # Without an area, as tools write that do not compute it, or with one in other units.
    is_told = pixels is not None and pixels >= 1
    is_drawn = not isinstance(outline, RunLengths) and may_be_empty(outline, size)
    if annotation.bbox is None or not is_told or is_drawn:
        mask = drawn()
        count = float(np.count_nonzero(mask))
        if not count:
            nothing = (
                NO_PIXEL if annotation.bbox is not None else "it has neither a bbox nor a pixel"
            )
            raise DataError(nothing)
        if pixels is None or pixels <= 0 or (not is_told and count > TINY):
            pixels = count
    assert pixels is not None
    if annotation.bbox is not None:
        x, y, width, height = annotation.bbox
        return Instance((x, y, x + width, y + height), pixels, drawn)
    return Instance(box_of(mask), pixels, drawn)


def _rle(runs: RunLengths) -> Rle:
    return {"size": list(runs.size), "counts": runs.counts}


@dataclass(frozen=True)
class _Drawn:
    """What an annotation tells; called, its mask, (H, W)."""

    segmentation: list[list[float]] | RunLengths
    size: tuple[int, int]

    def __call__(self) -> Mask:
        if isinstance(self.segmentation, RunLengths):
            return decode(_rle(self.segmentation))
        return fill_polygons(self.segmentation, self.size)


@dataclass(frozen=True)
class Numbered:
    """The object of one number in a mask of numbers."""

    numbers: NDArray[Any]  # (H, W), integers, shared by all objects of a picture
    number: int

    def __call__(self) -> Mask:
        mask: Mask = self.numbers == self.number
        return mask


def _read_numbered(path: Path, mask: Path) -> AnnotatedPicture:
    numbers = read_indices(mask)
    present = np.unique(numbers)
    if len(present) > MOST_NUMBERS:
        raise DataError(f"mask {mask} holds {len(present)} values; it does not number objects")
    pixels = np.array(read_rgb(path, (numbers.shape[0], numbers.shape[1])))
    instances = []
    for number in present:
        if number > 0:
            decode_one = Numbered(numbers, int(number))
            drawn = decode_one()
            instances.append(Instance(box_of(drawn), float(np.count_nonzero(drawn)), decode_one))
    return AnnotatedPicture(path, pixels, tuple(instances))
