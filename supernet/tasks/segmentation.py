"""Semantic segmentation: a class for every pixel of pictures or embedded cells, and mean IoU.

B batch, K classes, H and W of the mask, h and w of the network's output.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch
from supernet.pictures import IGNORED, read_indices, read_rgb, to_tensor
from supernet.tasks.augment import (
    IMAGENET,
    flip,
    photometric,
    prepared,
    scaled_crop,
)
from supernet.tasks.draw import Augment, Draw
from supernet.tasks.embedded_cells import CLASSES, draw_cells
from supernet.tasks.labelled_pictures import (
    CITYSCAPES,
    LabelledPictures,
    Layout,
    layout_of,
    to_classes,
)
from supernet.tasks.losses import alpha_divergence, kl_divergence, like, ohem_cross_entropy
from supernet.tasks.mask_values import read_values
from supernet.tasks.options import TaskOptions
from supernet.tasks.sources import Embedded, Folder, check_classes
from supernet.tasks.splits import separate
from supernet.tasks.task import Task

CLASSES_AT_ONCE = 16
LARGE = 2**24  # pixels of a mask; larger ones are compared in parts
CLASSES_OF_LAYOUT = {"cityscapes": len(CITYSCAPES), "ade20k": 150}
Pair = tuple[Path, Path]  # a picture and its mask
Labelled = tuple[Image.Image, NDArray[np.uint8]]  # a picture, and the class of every pixel


class SegmentationTask(Task):
    """A class for every pixel; a target is (H, W), uint8, 255 where there is none."""

    name, primary = "segmentation", "miou"
    source: "_Cells | _MaskedFiles"

    def __init__(self, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing, or have other classes."""
        source = _Cells(options) if options.data is None else _MaskedFiles(options.data, options)
        self.normalisation = options.normalisation or IMAGENET
        super().__init__(source, options.variations)

    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Tensor]:
        """Return a picture, (3, H, W), and its classes, (H, W), see `Task.sample`."""
        image, labels = self.source.read(draw.index, draw.size)
        rng = draw.rng()
        if augment.scale_jitter != (1.0, 1.0) or labels.shape != draw.size:
            image, labels = scaled_crop(image, labels, draw.size, rng, augment.scale_jitter)
        if augment.flip and rng.random() < 0.5:
            image, labels = flip(image), labels[:, ::-1].copy()
        pixels = photometric(np.array(image), rng, augment.photometric)
        return prepared(pixels, self.normalisation), torch.from_numpy(labels)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        """Return the cross-entropy of the hard pixels."""
        return ohem_cross_entropy(output, target)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return the divergence from the teacher's classes, see `Task.distill`."""
        teacher = like(teacher.detach(), output)
        if alpha is None:
            return kl_divergence(output, teacher)
        return alpha_divergence(output, teacher, alpha)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], "MeanIoU"]:
        """Return pictures prepared for `arch` with their classes, and the IoU of these."""
        names = self.classes or tuple(map(str, range(self.num_classes or 0)))
        return self.source.held_out(arch), MeanIoU(names)


class _Cells(Embedded[Labelled]):
    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options, ("cells",), CLASSES)
        self.normalisation = options.normalisation or IMAGENET

    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Labelled:
        pixels, labels = draw_cells(size, rng, self.difficulty)
        return Image.fromarray(pixels), labels

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return self.remember(arch.resolution, self._pixels, self.normalisation)

    def _pixels(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        image, labels = self.read_held_out(index, size)
        return to_tensor(image), torch.from_numpy(labels)


class _MaskedFiles(Folder[Pair, Labelled]):
    """Pictures with masks; each tenth is held out where there are no splits."""

    def __init__(self, folder: Path, options: TaskOptions) -> None:
        """Raises DataError where pictures or masks are missing, or have other classes."""
        self.layout = layout_of(folder)
        number = _num_classes(folder, self.layout, options)
        if self.layout == "cityscapes":
            self.classes = tuple(CITYSCAPES)
        elif len(options.classes) == number:
            self.classes = options.classes
        seen = options.normalisation or IMAGENET
        self._train, self._held_out = (
            LabelledPictures(folder, (1, 1), number, seen, split=split, names=self.classes)
            for split in ("train", "val")
        )
        train, held_out = separate(
            self._train.samples, self._held_out.samples, key=lambda pair: pair[0]
        )
        super().__init__(folder, train, held_out, options.num_train)
        self._train.samples, self._held_out.samples = self.files, self.held_out_files
        self.num_classes = number
        if self.layout != "folder":
            self.dataset = self.layout

    def load(self, file: Pair) -> Labelled:
        picture, mask = file
        indices = read_indices(mask)
        labels = to_classes(indices, self.layout, mask, self._train.num_classes).astype(np.uint8)
        return read_rgb(picture, (indices.shape[0], indices.shape[1])), labels

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return self._held_out.at(arch.resolution)

    def check_labels(
        self, limit: int | None = None, *, training: bool = False, silent: bool = True
    ) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if training:
            notes = self._train.check_labels(what="training masks", silent=silent)
        what = "held-out masks" if training else "masks"
        notes += self._held_out.check_labels(limit, what=what, silent=silent)
        return tuple(dict.fromkeys(notes))  # both may be of one folder


def _num_classes(folder: Path, layout: Layout, options: TaskOptions) -> int:
    """Return the number of classes of the layout, else that of the options.

    Raises DataError where neither tells it, and where the two differ.
    """
    known = CLASSES_OF_LAYOUT.get(layout)
    if known is not None:
        if options.dataset not in (None, layout):
            raise DataError(f"{folder} is {layout}, not {options.dataset}; leave --dataset out")
        return check_classes(options.num_classes, known, str(folder))
    if options.num_classes is None:
        raise DataError(
            f"{folder} does not tell how many classes it has; {_guessed_classes(folder)}"
        )
    return options.num_classes


def _guessed_classes(folder: Path) -> str:
    """Tell a user how to give their number, by what the masks to train on hold.

    Raises DataError.
    """
    samples = LabelledPictures(folder, (1, 1), IGNORED, IMAGENET, split="train").samples
    values = read_values([mask for _, mask in samples]).values
    most = max(values, default=0)
    if len(values) < 2 or most >= IGNORED or 2 * len(values) <= most:
        return "add --num-classes N, and store classes as 0 to N - 1"
    return f"add --num-classes {most + 1}, as its masks hold {values[0]} to {most}"


class MeanIoU:
    """Intersection over union of every class over all pictures together, and its mean.

    Classes that neither masks nor predictions have do not count. Standard errors are the
    jackknife's over pictures.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        num_classes = len(self.class_names)
        self.confusion = torch.zeros(
            num_classes, num_classes, dtype=torch.int64
        )  # [true, predicted]
        self._pictures: list[tuple[Tensor, Tensor]] = []  # intersections, unions of each

    def update(self, logits: Tensor, masks: Tensor) -> None:
        """Count a batch: (B, K, h, w), any floating dtype, and (B, H, W), 255 where none."""
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

    def update_classes(self, predicted: Tensor, mask: Tensor) -> None:
        """Count one picture; (H, W) both, of integers."""
        self._count([self._confusion(predicted, mask)])

    def _confusion(self, predicted: Tensor, mask: Tensor) -> Tensor:
        num_classes = len(self.class_names)
        mask = mask.to(predicted.device)
        counted = mask != IGNORED
        pairs = mask[counted].long() * num_classes + predicted[counted].long()
        return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1).cpu()

    def _count(self, parts: Iterable[Tensor]) -> None:
        """Count a picture, by the confusion matrices of its parts."""
        confusion = torch.zeros_like(self.confusion)
        for part in parts:
            confusion += part
        self.confusion += confusion
        self._pictures.append(_intersections_and_unions(confusion))

    def without_each(self) -> Tensor:
        """Return the mean IoU without each picture in turn, 0..1, (pictures,)."""
        intersections, unions = _intersections_and_unions(self.confusion)
        left_out = [torch.stack(counts) for counts in zip(*self._pictures, strict=True)]
        return _mean_iou(intersections - left_out[0], unions - left_out[1])

    def compute(self) -> dict[str, float]:
        """Return miou, its `_stderr`, pixel_accuracy and iou_CLASS of those seen; percent.

        Raises DataError if no pixel has a label.
        """
        pixels = int(self.confusion.sum())
        if pixels == 0:
            raise DataError(f"no pixel of {len(self._pictures)} masks has a label")
        intersections, unions = _intersections_and_unions(self.confusion)
        figures = {"miou": 100 * float(_mean_iou(intersections, unions))}
        if len(self._pictures) > 1:
            without = self.without_each()
            spread = (len(without) - 1) * float(without.var(correction=0))
            figures["miou_stderr"] = 100 * math.sqrt(spread)
        figures["pixel_accuracy"] = 100 * float(self.confusion.trace()) / pixels
        for name, intersection, union in zip(
            self.class_names, intersections.tolist(), unions.tolist(), strict=True
        ):
            if union:
                figures[f"iou_{name.replace(' ', '_')}"] = 100 * intersection / union
        return figures


def classes_of(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class of each pixel, (H, W), of logits, (K, h, w).

    Logits are enlarged to the mask (bicubic, official), then compared, a few classes at a time:
    150 of a large picture would not fit into memory.
    """
    best = predicted = torch.empty(0)
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        x = logits[None, first : first + CLASSES_AT_ONCE].float()
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        largest, index = x[0].max(0)
        if first == 0:
            best, predicted = largest, index
        else:  # of equal logits the first class counts, as argmax has it
            predicted = torch.where(largest > best, index + first, predicted)
            best = torch.maximum(best, largest)
    return predicted


def classes_of_rows(logits: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Return rows `start` to `stop`, or the last, of what `classes_of` gives, but for rounding.

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


def _intersections_and_unions(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Return both of each class, (K,), (K,), from a confusion matrix, (K, K)."""
    intersections = confusion.diagonal()
    return intersections, confusion.sum(0) + confusion.sum(1) - intersections


def _mean_iou(intersections: Tensor, unions: Tensor) -> Tensor:
    """Return means, (...), of (..., K) over classes with a union; 0 where none has one."""
    seen = unions > 0
    iou = intersections.double() / unions.clamp(min=1)
    return (iou * seen).sum(-1) / seen.sum(-1).clamp(min=1)


def _hw(pixels: Tensor) -> tuple[int, int]:
    """Return (H, W)."""
    height, width = pixels.shape
    return int(height), int(width)
