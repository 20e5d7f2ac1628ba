"""Classification to train on: class folders, or embedded shapes with textures."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch
from supernet.model import default_cfg
from supernet.pictures import hw, read_rgb, to_tensor
from supernet.tasks.augment import erase, flip, rand_augment, random_resized_crop
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
    split_off,
    training_rng,
)
from supernet.tasks.classification import ClassFolders, TopAccuracy
from supernet.tasks.embedded_shapes import CLASSES, draw_shape
from supernet.tasks.losses import alpha_divergence, cross_entropy, kl_divergence
from supernet.tasks.mixing import mix_batch
from supernet.tasks.task import Augment, Draw


class ClassificationTask(TaskBase):
    """See `supernet.tasks.task.training_task`."""

    name, primary = "classification", "top1"

    def __init__(
        self,
        folder: Path | None,
        dataset: str | None,
        num_classes: int | None,
        seed: int,
        num_train: int | None,
        augment: Augment,
        classes: tuple[str, ...] = (),
        class_order: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.seed, self.augment = folder, seed, augment
        self._names, self._order = classes, class_order
        if folder is None:
            self.classes = CLASSES
            self.dataset = embedded_set(dataset, ("shapes",), self.name)
            self.num_classes = check_classes(num_classes, len(CLASSES), "the embedded data set")
            check_names(classes, CLASSES)
            self.num_train = num_train or NUM_TRAIN
            return
        found = class_folders(folder, "train", classes, class_order)
        held = class_folders(folder, "val", classes, class_order)
        check_classes(num_classes, len(found.classes), str(folder))
        if found.folders != held.folders and not classes:
            odd = sorted(set(found.folders) ^ set(held.folders))[0]
            raise DataError(f"{folder}: class {odd!r} is not in both train/ and val/")
        self.classes = found.classes
        self.notes = tuple(dict.fromkeys(found.notes + held.notes))
        train, self._held = found.samples, held.samples
        if train == held.samples:
            train, self._held = split_off(train)
        self._chosen = evenly(train, num_train)
        self.num_train, self.num_classes = len(self._chosen), len(found.classes)
        self.dataset = "imagenet" if found.is_imagenet else name_of(folder)

    def data(self, augment: Augment) -> Dataset[Any]:
        return _Pictures(self, augment)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], TopAccuracy]:
        if self.folder is None:
            return self.remember(arch.resolution, self._draw, as_imagenet), TopAccuracy()
        crop_pct = default_cfg(arch)["crop_pct"]
        held = ClassFolders(
            self.folder,
            arch.resolution,
            None,
            crop_pct=crop_pct,
            **IMAGENET,
            names=self._names,
            order=self._order,
        )
        held.samples = self._held
        return held, TopAccuracy()

    def files_trained_on(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._chosen]

    def files_held_out(self) -> list[Path]:
        return [] if self.folder is None else [path for path, _ in self._held]

    def read(self, index: int, size: tuple[int, int]) -> tuple[Image.Image, int]:
        """A training picture, of `size` where it is drawn, and its class."""
        check_index(index, self.num_train)
        if self.folder is not None:
            path, label = self._chosen[index]
            return read_rgb(path), label
        label = index % len(CLASSES)
        rng = training_rng(self.seed, index)
        return Image.fromarray(draw_shape(label, size, rng, self.difficulty)), label

    def _draw(self, size: tuple[int, int], index: int) -> tuple[Tensor, Tensor]:
        """A held-out picture."""
        label, rng = index % len(CLASSES), held_out_rng(index)
        pixels = draw_shape(label, size, rng, self.difficulty)
        return to_tensor(pixels), torch.tensor(label)

    def mix(self, x: Tensor, target: Tensor, generator: torch.Generator | None) -> Any:
        mixup, cutmix = self.augment.mixup, self.augment.cutmix
        if not (mixup or cutmix):
            return x, target
        return mix_batch(
            x, target, self.num_classes or 0, mixup=mixup, cutmix=cutmix, generator=generator
        )

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        return cross_entropy(output, target, self.augment.label_smoothing)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        if alpha is None:
            return kl_divergence(output, teacher)
        return alpha_divergence(output, teacher, alpha)


def class_folders(
    folder: Path, split: str, names: tuple[str, ...] = (), order: str | None = None
) -> ClassFolders:
    """Of as many classes as there are, or of those of `names` that are there. Raises DataError."""
    return ClassFolders(
        folder, (1, 1), None, crop_pct=1.0, **IMAGENET, split=split, names=names, order=order
    )


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """data[Draw] -> (3, H, W) and the class, int64."""

    def __init__(self, task: ClassificationTask, augment: Augment) -> None:
        self.task, self.augment = task, augment

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        image, label = self.task.read(draw.index, draw.size)
        augment, rng = self.augment, draw.rng()
        if augment.crop_scale != (1.0, 1.0) or hw(image) != draw.size:
            image = random_resized_crop(image, draw.size, rng, augment.crop_scale)
        if augment.flip and rng.random() < 0.5:
            image = flip(image)
        image = rand_augment(image, rng, augment.rand_augment, augment.magnitude)
        x = prepared(image, **IMAGENET)
        if rng.random() < augment.erasing:
            erase(x, rng)
        return x, torch.tensor(label)
