"""Segmentation to train on: Cityscapes, ADE20K, folders of masks, or embedded cells."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch
from supernet.pictures import IGNORED, read_indices, read_rgb, to_tensor
from supernet.tasks.augment import flip, photometric, scaled_crop
from supernet.tasks.base import (
    IMAGENET,
    NUM_TRAIN,
    TaskBase,
    as_imagenet,
    check_classes,
    check_index,
    check_names,
    embedded_set,
    evenly,
    held_out_rng,
    name_of,
    prepared,
    separate,
    training_rng,
)
from supernet.tasks.embedded_cells import CLASSES, draw_cells
from supernet.tasks.losses import alpha_divergence, kl_divergence, like, ohem_cross_entropy
from supernet.tasks.mask_values import read_values
from supernet.tasks.segmentation import (
    CITYSCAPES,
    LabelledPictures,
    MeanIoU,
    layout_of,
    to_classes,
)
from supernet.tasks.task import Augment, Draw

CLASSES_OF_LAYOUT = {"cityscapes": len(CITYSCAPES), "ade20k": 150}


class SegmentationTask(TaskBase):
    """See `supernet.tasks.task.training_task`."""

    name, primary = "segmentation", "miou"

    def __init__(
        self,
        folder: Path | None,
        dataset: str | None,
        num_classes: int | None,
        seed: int,
        num_train: int | None,
        augment: Augment,
        classes: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.folder, self.seed, self.augment = folder, seed, augment
        if folder is None:
            self.classes = CLASSES
            self.dataset = embedded_set(dataset, ("cells",), self.name)
            self.num_classes = check_classes(num_classes, len(CLASSES), "the embedded data set")
            check_names(classes, CLASSES)
            self.num_train = num_train or NUM_TRAIN
            return
        self.layout = layout_of(folder)
        known = CLASSES_OF_LAYOUT.get(self.layout)
        if known is not None:
            if dataset not in (None, self.layout):
                raise DataError(f"{folder} is {self.layout}, not {dataset}; leave --dataset out")
            self.num_classes = check_classes(num_classes, known, str(folder))
        elif num_classes is None:
            raise DataError(
                f"{folder} does not tell how many classes it has; {_guessed_classes(folder)}"
            )
        else:
            self.num_classes = num_classes
        if self.layout == "cityscapes":
            self.classes = tuple(CITYSCAPES)
        elif len(classes) == self.num_classes:
            self.classes = classes
        train, self._held = separate(
            self._pictures("train").samples,
            self._pictures("val").samples,
            key=lambda pair: pair[0],
        )
        self._chosen = evenly(train, num_train)
        self.num_train = len(self._chosen)
        self.dataset = name_of(folder) if known is None else self.layout

    def data(self, augment: Augment) -> Dataset[Any]:
        return _Pictures(self, augment)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], MeanIoU]:
        if self.folder is None:
            return self.remember(arch.resolution, self._draw, as_imagenet), MeanIoU(CLASSES)
        held = self._pictures("val", self._held, arch.resolution)
        return held, MeanIoU(held.class_names)

    def _pictures(
        self,
        split: str,
        samples: list[tuple[Path, Path]] | None = None,
        size: tuple[int, int] = (1, 1),
    ) -> LabelledPictures:
        """Of the folder, or `samples` of it."""
        assert self.folder is not None
        found = LabelledPictures(
            self.folder, size, self.num_classes or 0, **IMAGENET, split=split, names=self.classes
        )
        found.samples = found.samples if samples is None else samples
        return found

    def files_trained_on(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._chosen]

    def files_held_out(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._held]

    def check_labels(
        self, limit: int | None = None, *, training: bool = False, silent: bool = True
    ) -> tuple[str, ...]:
        if self.folder is None:
            return ()
        notes: tuple[str, ...] = ()
        if training:
            chosen = self._pictures("train", self._chosen)
            notes = chosen.check_labels(what="training masks", silent=silent)
        held = self._pictures("val", self._held)
        what = "held-out masks" if training else "masks"
        held_notes = held.check_labels(limit, what=what, silent=silent)
        return tuple(dict.fromkeys(notes + held_notes))  # both may be of one folder

    def read(self, index: int, size: tuple[int, int]) -> tuple[Image.Image, NDArray[np.uint8]]:
        """A training picture and its classes; of `size` where it is drawn."""
        check_index(index, self.num_train)
        if self.folder is None:
            rng = training_rng(self.seed, index)
            pixels, labels = draw_cells(size, rng, self.difficulty)
            return Image.fromarray(pixels), labels
        picture, mask = self._chosen[index]
        indices = read_indices(mask)
        labels = to_classes(indices, self.layout, mask, self.num_classes or 0).astype(np.uint8)
        return read_rgb(picture, (indices.shape[0], indices.shape[1])), labels

    def _draw(self, size: tuple[int, int], index: int) -> tuple[Tensor, Tensor]:
        """A held-out picture."""
        pixels, labels = draw_cells(size, held_out_rng(index), self.difficulty)
        return to_tensor(pixels), torch.from_numpy(labels)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        return ohem_cross_entropy(output, target)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        teacher = like(teacher.detach(), output)
        if alpha is None:
            return kl_divergence(output, teacher)
        return alpha_divergence(output, teacher, alpha)


def _guessed_classes(folder: Path) -> str:
    """How a user may tell their number, by what the masks to train on hold. Raises DataError."""
    samples = LabelledPictures(folder, (1, 1), IGNORED, **IMAGENET, split="train").samples
    values = read_values([mask for _, mask in samples]).values
    most = max(values, default=0)
    if len(values) < 2 or most >= IGNORED or 2 * len(values) <= most:
        return "add --num-classes N, and store classes as 0 to N - 1"
    return f"add --num-classes {most + 1}, as its masks hold {values[0]} to {most}"


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """data[Draw] -> (3, H, W) and classes, (H, W), uint8, 255 where none."""

    def __init__(self, task: SegmentationTask, augment: Augment) -> None:
        self.task, self.augment = task, augment

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        image, labels = self.task.read(draw.index, draw.size)
        augment, rng = self.augment, draw.rng()
        if augment.scale_jitter != (1.0, 1.0) or labels.shape != draw.size:
            image, labels = scaled_crop(image, labels, draw.size, rng, augment.scale_jitter)
        if augment.flip and rng.random() < 0.5:
            image, labels = flip(image), labels[:, ::-1].copy()
        pixels = photometric(np.array(image), rng, augment.photometric)
        return prepared(pixels, **IMAGENET), torch.from_numpy(labels)
