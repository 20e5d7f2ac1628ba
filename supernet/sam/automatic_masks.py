"""All masks of a picture: a grid of clicks, of which the good and distinct masks are kept.

Masks are kept as run lengths; full-size logits exist for a few at a time only. Boxes are x and y
of the first and the last pixel, so that one pixel's box has no area; SAM defines them so.
M masks, H height, W width.

Source: Kirillov et al., Segment Anything, 2023, sec. 4 and appendix B,
https://arxiv.org/abs/2304.02643
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from results.errors import ImageError
from supernet.rle import Rle, area, decode, encode
from supernet.sam.model import FRAME, Sam
from supernet.sam.predictor import PromptablePredictor, check_image

Box = tuple[int, int, int, int]
MAX_PIXELS = 2**24  # of logits at full size at a time: 64 MB
EDGE = 20  # a mask whose box ends so close to a crop's edge may be cut, pixels


@dataclass(frozen=True)
class MaskSettings:
    """What is tried, and what is kept. The defaults are SAM's."""

    points_per_side: int = 32
    points_per_batch: int = 64  # more is faster and takes more memory
    min_predicted_iou: float = 0.88  # 0: keep all
    min_stability: float = 0.95  # 0: keep all
    stability_offset: float = 1.0  # in logits
    max_box_iou: float = 0.7  # of two masks of one crop
    crop_layers: int = 0  # layer n looks once more at each of 4^n crops
    crop_max_box_iou: float = 0.7  # of masks of different crops
    crop_overlap: float = 512 / 1500  # of the crops of layer 1, in short sides of the picture
    crop_points_divisor: int = 1  # points_per_side falls by this factor from layer to layer
    min_region_area: int = 0  # smaller holes are filled, smaller islands removed; pixels

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_points_divisor"):
            if getattr(self, name) < 1:
                raise ImageError(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("crop_layers", "min_region_area", "stability_offset"):
            if getattr(self, name) < 0:
                raise ImageError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.crop_overlap < 1:
            raise ImageError(f"crop_overlap={self.crop_overlap} must be in 0..1")


@dataclass(frozen=True)
class MaskRecord:
    """One mask of a picture, and how it was found. Coordinates are the picture's, in pixels."""

    rle: Rle
    box_xywh: Box
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]  # x, y of the click
    crop_box: Box  # x, y, width, height of the crop that was looked at

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Return the mask, (H, W), decoded anew each time."""
        return decode(self.rle)

    @property
    def area(self) -> int:
        """Return the mask's area in pixels."""
        return area(self.rle)


@dataclass(frozen=True)
class _Crop:
    box: Box  # x0, y0, x1, y1, the end exclusive
    size: tuple[int, int]  # H, W of the whole picture


def generate_masks(
    model: Sam,
    image: NDArray[np.uint8],
    settings: MaskSettings = MaskSettings(),
) -> list[MaskRecord]:
    """Return all masks of a picture, RGB, (H, W, 3), uint8. Puts `model` into evaluation mode.

    Ordered crop by crop, the largest predicted IoU first; with crops, the smallest first.

    Raises:
        ImageError: the picture has another shape or dtype.
    """
    check_image(image)
    predictor = PromptablePredictor(model)
    height, width = image.shape[:2]
    crops = crop_boxes(height, width, settings.crop_layers, settings.crop_overlap)
    records: list[MaskRecord] = []
    for box, layer in crops:
        per_side = max(1, settings.points_per_side // settings.crop_points_divisor**layer)
        crop = _Crop(box, (height, width))
        in_crop = list(_masks_of_crop(predictor, image, crop, point_grid(per_side), settings))
        scores = [record.predicted_iou for record in in_crop]
        records += _distinct(in_crop, scores, settings.max_box_iou)
    if len(crops) > 1:
        # masks of small crops are more accurate
        scores = [1 / (record.crop_box[2] * record.crop_box[3]) for record in records]
        records = _distinct(records, scores, settings.crop_max_box_iou)
    if settings.min_region_area:
        max_iou = max(settings.max_box_iou, settings.crop_max_box_iou)
        records = without_small_regions(records, settings.min_region_area, max_iou)
    return records


def point_grid(per_side: int) -> NDArray[np.float64]:
    """Return the centres, row by row, of the unit square's per_side^2 cells, (per_side^2, 2)."""
    centres = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def crop_boxes(height: int, width: int, layers: int, overlap: float) -> list[tuple[Box, int]]:
    """Return the whole picture and each layer's crops, (x0, y0, x1, y1), with the layer's number.

    Layer n has 2^n x 2^n crops that overlap by `overlap` short sides of the picture, halved
    from layer to layer. Of pictures of too few pixels some crops are missing.
    """
    boxes: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        shared = int(overlap * min(height, width) * (2 / per_side))
        wide, tall = (
            math.ceil((shared * (per_side - 1) + side) / per_side) for side in (width, height)
        )
        for column, row in product(range(per_side), repeat=2):
            x, y = column * (wide - shared), row * (tall - shared)
            if x < width and y < height:
                boxes.append(((x, y, min(x + wide, width), min(y + tall, height)), layer))
    return boxes


def stability_score(logits: Tensor, offset: float) -> Tensor:
    """Return the IoU of each mask above +offset with the same above -offset.

    (M, H, W) -> (M,), float32; 0 where nothing is above -offset.
    """
    inner = (logits > offset).sum((-2, -1))  # lies within the other, so it is the intersection
    outer = (logits > -offset).sum((-2, -1))
    return inner / outer.clamp(min=1)


def boxes_of(masks: Tensor) -> Tensor:
    """Return each mask's first and last pixel, x0, y0, x1, y1: boolean (M, H, W) -> (M, 4), int64.

    All 0 for an empty mask.
    """
    edges = []
    for dim in (1, 2):  # what is left are columns, then rows
        line = masks.any(dim)
        first, from_the_end = line.byte().argmax(1), line.flip(1).byte().argmax(1)
        edges.append((first, torch.where(line.any(1), line.shape[1] - 1 - from_the_end, 0)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=1)


def box_iou(box: Tensor, boxes: Tensor) -> Tensor:
    """Return the IoU of a box (4,) with each of (M, 4), (M,); NaN for two boxes without area."""
    corner = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared = corner.clamp(min=0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)


def suppress(boxes: Tensor, scores: Tensor, max_iou: float) -> list[int]:
    """Return the indices of the boxes that greedy non-maximum suppression keeps, best first.

    A box is dropped if its IoU with a kept one of higher score exceeds `max_iou`; of equal
    scores the first counts as higher.

    Args:
        boxes: (M, 4), x0, y0, x1, y1, float.
        scores: (M,).
    """
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[~(box_iou(boxes[best], boxes[left]) > max_iou)]
    return kept


def touches_crop_edge(boxes: Tensor, crop: Box, size: tuple[int, int]) -> Tensor:
    """Tell which boxes (M, 4) end within 20 pixels of an edge of the crop, not of the picture.

    All x0, y0, x1, y1 in pixels of the picture, `size` its height and width.
    """
    height, width = size
    at_crop = (boxes - boxes.new_tensor(crop)).abs() <= EDGE
    at_picture = (boxes - boxes.new_tensor([0, 0, width, height])).abs() <= EDGE
    return (at_crop & ~at_picture).any(1)


def fill_small_holes(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """Return `mask` with the holes of fewer than `min_area` pixels filled; diagonals connect."""
    regions, sizes = _regions(~mask)
    small = sizes < min_area
    small[0] = False  # the mask itself
    filled: NDArray[np.bool_] = mask | small[regions]
    return filled


def remove_small_islands(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """Return `mask` without islands of fewer than `min_area` pixels, the largest excepted."""
    regions, sizes = _regions(mask)
    kept = sizes >= min_area
    if len(sizes) > 1:
        kept[1 + sizes[1:].argmax()] = True
    kept[0] = False
    kept_pixels: NDArray[np.bool_] = kept[regions]
    return kept_pixels


def without_small_regions(
    records: Sequence[MaskRecord], min_area: int, max_box_iou: float
) -> list[MaskRecord]:
    """Remove holes and islands of fewer than `min_area` pixels from all masks.

    Of masks whose boxes then have an IoU above `max_box_iou` one is kept, if possible one that
    was clean before.
    """
    cleaned, scores = [], []
    for record in records:
        before = record.mask
        after = fill_small_holes(before, min_area)
        after = remove_small_islands(after, min_area)
        changed = not np.array_equal(before, after)
        if changed:
            left, top, right, bottom = boxes_of(torch.from_numpy(after)[None])[0].tolist()
            box = (left, top, right - left, bottom - top)
            record = replace(record, rle=encode(after), box_xywh=box)
        cleaned.append(record)
        scores.append(float(not changed))
    return _distinct(cleaned, scores, max_box_iou)


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the region's number of each pixel, 0 outside of `mask`, and the regions' areas."""
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    return regions, np.bincount(regions.ravel(), minlength=1)


def _masks_of_crop(
    predictor: PromptablePredictor,
    image: NDArray[np.uint8],
    crop: _Crop,
    grid: NDArray[np.float64],
    settings: MaskSettings,
) -> Iterator[MaskRecord]:
    """Give the good masks that the clicks of `grid` give in one crop."""
    x0, y0, x1, y1 = crop.box
    predictor.set_image(image[y0:y1, x0:x1])
    clicks = torch.from_numpy(grid * (x1 - x0, y1 - y0))
    chunk = max(1, MAX_PIXELS // max(FRAME**2, (x1 - x0) * (y1 - y0)))
    for points in torch.split(clicks, settings.points_per_batch):
        labels = torch.ones(len(points), 1, dtype=torch.int64)
        low_res, scores = predictor.predict_batch(points[:, None], labels)
        points = points.repeat_interleave(scores.shape[1], dim=0)
        low_res, scores = low_res.flatten(0, 1), scores.flatten()
        if settings.min_predicted_iou > 0:
            # before the masks are enlarged, which takes most of the time and memory
            good = scores > settings.min_predicted_iou
            low_res, scores, points = low_res[good], scores[good], points[good.cpu()]
        parts = zip(*(torch.split(x, chunk) for x in (low_res, scores, points)), strict=True)
        for part_low_res, part_scores, part_points in parts:
            if len(part_low_res):
                logits = predictor.upscale(part_low_res)
                yield from _records(logits, part_scores, part_points, crop, settings)


def _records(
    logits: Tensor, scores: Tensor, points: Tensor, crop: _Crop, settings: MaskSettings
) -> Iterator[MaskRecord]:
    """Give those of the masks (M, H, W) of a crop that are stable and not cut by its edge."""
    x0, y0, x1, y1 = crop.box
    stability = stability_score(logits, settings.stability_offset)
    masks = logits > 0
    boxes = boxes_of(masks) + torch.tensor([x0, y0, x0, y0], device=masks.device)
    good = ~touches_crop_edge(boxes, crop.box, crop.size)
    if settings.min_stability > 0:
        good &= stability >= settings.min_stability
    whole = np.zeros(crop.size, bool)
    for index in good.nonzero().flatten().tolist():
        whole[y0:y1, x0:x1] = masks[index].cpu().numpy()
        left, top, right, bottom = boxes[index].tolist()
        x, y = points[index].tolist()
        yield MaskRecord(
            rle=encode(whole),
            box_xywh=(left, top, right - left, bottom - top),
            predicted_iou=float(scores[index]),
            stability_score=float(stability[index]),
            point=(x0 + x, y0 + y),
            crop_box=(x0, y0, x1 - x0, y1 - y0),
        )


def _distinct(
    records: list[MaskRecord], scores: Sequence[float], max_iou: float
) -> list[MaskRecord]:
    if not records:
        return []
    boxes = torch.tensor([record.box_xywh for record in records], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    return [records[index] for index in suppress(boxes, torch.tensor(scores), max_iou)]
