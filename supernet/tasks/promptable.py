"""Promptable segmentation: pictures with masks of single objects, and the IoU from their boxes.

K objects of a picture, H height, W width. Boxes are x and y of two corners, in pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from results.errors import DataError, NotFiniteError
from results.reading import read_json
from supernet.rle import Rle, decode
from supernet.tasks.pictures import (
    check_folder,
    contents,
    list_pictures,
    pair_masks,
    read_indices,
    read_rgb,
)

Layout = Literal["sa1b", "coco", "folder"]
Mask = NDArray[np.bool_]
Box = NDArray[np.float64]

LAYOUTS: dict[Layout, str] = {
    "sa1b": "sa_*.jpg with sa_*.json",
    "coco": "annotations/*.json with pictures in images/ or val2017/",
    "folder": "images/ with masks/, PNGs of the same names holding the objects' numbers",
}
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}


@dataclass(frozen=True)
class Instance:
    """One object; its mask is decoded when asked for, as a picture may have hundreds."""

    box: tuple[float, float, float, float]
    area: float  # pixels, as the annotation says
    decode: Callable[[], Mask]  # (H, W)


@dataclass(frozen=True)
class AnnotatedPicture:
    path: Path
    pixels: NDArray[np.uint8]  # (H, W, 3)
    instances: tuple[Instance, ...]


class AnnotatedPictures(Dataset[AnnotatedPicture]):
    """Pictures of the SA-1B or COCO layout, or with masks of numbered objects."""

    def __init__(self, folder: Path, *, split: str = "val") -> None:
        """`folder` is of one of the LAYOUTS. Raises DataError if it is missing, empty or odd."""
        check_folder(folder)
        self.layout, self.samples = _find(folder, split)
        if not self.samples:
            raise DataError(
                f"{folder} holds no annotated pictures; expected {LAYOUTS[self.layout]}, "
                f"{contents(folder)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> AnnotatedPicture:
        """Raises DataError for a picture or annotation that cannot be read."""
        path, source = self.samples[index]
        if self.layout == "folder":
            return _read_numbered(path, cast(Path, source))
        if self.layout == "sa1b":
            data = read_json(cast(Path, source), dict[str, Any], error=DataError)
            annotations = data.get("annotations") if isinstance(data, dict) else None
            return _read_annotated(path, annotations, cast(Path, source))
        return _read_annotated(path, source, path)


class Prediction(Protocol):
    """What `supernet.segment` predicts for one prompt."""

    @property
    def masks(self) -> NDArray[Any]: ...

    @property
    def scores(self) -> NDArray[np.float32]: ...


class Predictor(Protocol):
    """`supernet.segment.PromptablePredictor`, or what stands in for it."""

    def set_image(self, image: NDArray[np.uint8]) -> None: ...

    def predict(self, *, box: ArrayLike, multimask: bool) -> Prediction: ...


class BoxIoU:
    """Mean IoU of the masks that ground-truth boxes give, in percent, by COCO's sizes.

    Standard errors are those of a ratio over pictures, as objects of one picture are alike.
    """

    def __init__(self) -> None:
        self.pictures: list[list[tuple[float, float]]] = []  # (area, IoU) of every object

    def update(self, predictor: Predictor, picture: AnnotatedPicture) -> None:
        """Segment every object from its box; of three masks the one of highest score counts.

        Objects without a pixel are left out (the official evaluation: area below 1).
        Raises DataError for a damaged annotation, NotFiniteError where scores are not finite.
        """
        predictor.set_image(picture.pixels)
        scores = []
        for instance in picture.instances:
            mask = instance.decode()
            if mask.any():
                found = predictor.predict(box=np.array(instance.box), multimask=True)
                if not np.isfinite(found.scores).all():
                    raise NotFiniteError(
                        f"{picture.path}: scores are not finite; try --precision fp32"
                    )
                said = found.masks[int(found.scores.argmax())]
                scores.append((instance.area, iou(said, mask)))
        self.pictures.append(scores)

    @property
    def objects(self) -> int:
        return sum(map(len, self.pictures))

    def compute(self) -> dict[str, float]:
        """miou, miou_small, _medium and _large where there are such objects, `_stderr`, objects.

        Raises DataError if there is no object at all.
        """
        if not self.objects:
            raise DataError(f"none of {len(self.pictures)} pictures has an object")
        found: dict[str, float] = {}
        for name, (least, most) in {"": (-math.inf, math.inf), **SIZES}.items():
            chosen = [[s for area, s in p if least <= area < most] for p in self.pictures]
            chosen = [scores for scores in chosen if scores]
            if chosen:
                key = f"miou_{name}" if name else "miou"
                found |= _mean_over_pictures(key, chosen)
                found[f"objects_{name}" if name else "objects"] = sum(map(len, chosen))
        return found


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks, not both empty, of one shape."""
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def fill_polygons(polygons: Sequence[ArrayLike], size: tuple[int, int]) -> Mask:
    """The pixels, (H, W), whose centres lie in any of the polygons (x, y, x, y, ...).

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
        crossings = np.zeros((height, width + 1), dtype=np.int64)
        corners = points.reshape(-1, 2)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            low, high = sorted((y0, y1))
            rows = np.arange(*(int(np.clip(math.ceil(y - 0.5), 0, height)) for y in (low, high)))
            if rows.size:
                x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
                # every pixel whose centre is right of the crossing changes sides
                columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
                np.add.at(crossings, (rows, columns), 1)
        mask |= (np.cumsum(crossings, axis=1)[:, :width] % 2).astype(np.bool_)
    return mask


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """The box around a mask, (H, W), not empty; right and lower edge lie past the last pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _find(folder: Path, split: str) -> tuple[Layout, list[tuple[Path, Any]]]:
    """Pictures, each with the file of its annotations or the annotations themselves."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    pictures = [path for path in list_pictures(folder) if path.name.startswith("sa_")]
    if pictures:
        return "sa1b", [(path, _json_of(path)) for path in pictures]
    if "annotations" in names:
        return "coco", _find_coco(folder, split)
    if {"images", "masks"} <= names:
        inner = Path(split) if (folder / "images" / split).is_dir() else Path()
        return "folder", list(pair_masks(folder / "images" / inner, folder / "masks" / inner))
    expected = ", or ".join(LAYOUTS.values())
    raise DataError(f"{folder} is of no known layout; {contents(folder)}; expected {expected}")


def _json_of(picture: Path) -> Path:
    name = f"{picture.stem}.json"
    for folder in (picture.parent, picture.parent.parent / "masks"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{picture} has no annotations: {picture.with_suffix('.json')} is missing")


def _find_coco(folder: Path, split: str) -> list[tuple[Path, Any]]:
    source = _coco_file(folder / "annotations", split)
    data = read_json(source, dict[str, Any], error=DataError)
    try:
        by_picture: dict[Any, list[Any]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            by_picture[annotation["image_id"]].append(annotation)
        names = {image["id"]: _coco_name(image) for image in data["images"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source} is not of COCO's layout: {error!r}") from None
    within = source.stem.split("_")[-1]  # val2017
    places = [folder / place for place in (within, f"images/{within}", "images", split, ".")]
    places = [place for place in places if place.is_dir()]
    samples = []
    for number, name in names.items():
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            where = ", ".join(str(place) for place in places)
            raise DataError(f"{source} names picture {name}, which is in none of {where}")
        samples.append((path, by_picture[number]))
    return samples


def _coco_name(image: Mapping[str, Any]) -> str:
    """LVIS tells the place as the end of an address."""
    return str(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]))


def _coco_file(annotations: Path, split: str) -> Path:
    files = sorted(annotations.glob("*.json"))
    for pattern in (f"instances_{split}*", f"*{split}*", "*"):
        chosen = [path for path in files if path.match(f"{pattern}.json")]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            break
    raise DataError(
        f"{annotations} must hold one instances_{split}*.json, or one *.json; "
        f"{contents(annotations)}"
    )


def _read_annotated(path: Path, annotations: Any, source: Path) -> AnnotatedPicture:
    if not isinstance(annotations, list):
        raise DataError(f"{source} has no list 'annotations'")
    pixels = np.array(read_rgb(path, _annotated_size(annotations)))
    size = pixels.shape[:2]
    instances = []
    for annotation in annotations:
        mask = _Annotation(annotation, (size[0], size[1]), source)
        area = mask.number("area")
        if area is None:
            area = float(np.count_nonzero(mask()))
        if area >= 1:
            instances.append(Instance(mask.box(), area, mask))
    return AnnotatedPicture(path, pixels, tuple(instances))


def _annotated_size(annotations: list[Any]) -> tuple[int, int] | None:
    """(H, W) that run lengths speak of; polygons do not tell."""
    for annotation in annotations:
        match annotation:
            case {"segmentation": {"size": [int(height), int(width)]}}:
                return height, width
    return None


@dataclass(frozen=True)
class _Annotation:
    """One entry of a JSON file; called, its mask, (H, W). Raises DataError if it is damaged."""

    fields: Any
    size: tuple[int, int]
    source: Path

    def __call__(self) -> Mask:
        try:
            segmentation = self.fields["segmentation"]
            if isinstance(segmentation, list):
                return fill_polygons(segmentation, self.size)
            mask = decode(cast(Rle, segmentation))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._damaged(str(error) or type(error).__name__) from None
        if mask.shape != self.size:
            raise self._damaged(f"a mask of {mask.shape} on a picture of {self.size}")
        return mask

    def number(self, name: str) -> float | None:
        """None where the field is not given."""
        value = self.fields.get(name) if isinstance(self.fields, dict) else None
        if value is None:
            return None
        try:
            number = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._damaged(f"{name} is {str(value)[:40]}")
        return number

    def box(self) -> tuple[float, float, float, float]:
        """From x, y, width, height; around the mask where that is not given."""
        value = self.fields.get("bbox")
        if value is None:
            mask = self()
            if not mask.any():
                raise self._damaged("it has neither a bbox nor a pixel")
            return box_of(mask)
        try:
            x, y, width, height = (float(number) for number in value)
        except (TypeError, ValueError):
            raise self._damaged(f"bbox is {value!r}") from None
        if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
            raise self._damaged(f"bbox is {value!r}")
        return x, y, x + width, y + height

    def _damaged(self, what: str) -> DataError:
        name = self.fields.get("id", "?") if isinstance(self.fields, dict) else "?"
        return DataError(f"{self.source}: annotation {name} is damaged: {what}")


@dataclass(frozen=True)
class Numbered:
    """The object of one number in a mask of numbers."""

    numbers: NDArray[np.int64]  # (H, W), shared by all objects of a picture
    number: int

    def __call__(self) -> Mask:
        mask: Mask = self.numbers == self.number
        return mask


def _read_numbered(path: Path, mask: Path) -> AnnotatedPicture:
    numbers = read_indices(mask)
    pixels = np.array(read_rgb(path, (numbers.shape[0], numbers.shape[1])))
    instances = []
    for number in np.unique(numbers):
        if number > 0:
            decode_one = Numbered(numbers, int(number))
            found = decode_one()
            instances.append(Instance(box_of(found), float(np.count_nonzero(found)), decode_one))
    return AnnotatedPicture(path, pixels, tuple(instances))


def _mean_over_pictures(name: str, scores: list[list[float]]) -> dict[str, float]:
    """Mean of all scores, percent; its standard error treats a picture's as one cluster.

    Source: Cochran, Sampling Techniques, 1977, sec. 2.11 (a ratio of two sums).
    """
    sums, counts = np.array([sum(s) for s in scores]), np.array([len(s) for s in scores])
    mean = sums.sum() / counts.sum()
    found = {name: 100 * float(mean)}
    if len(scores) > 1:
        residual = ((sums - mean * counts) ** 2).sum() * len(scores) / (len(scores) - 1)
        found[f"{name}_stderr"] = 100 * float(math.sqrt(residual) / counts.sum())
    return found
