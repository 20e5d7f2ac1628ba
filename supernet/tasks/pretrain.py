"""Pre-training without labels: the pixels of hidden patches are to be guessed.

Any folder of pictures serves, or embedded ones. H height, W width.

Source: Xie et al., SimMIM, 2022, https://arxiv.org/abs/2111.09886
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch
from supernet.model import IMAGENET_STD
from supernet.pictures import hw, read_rgb
from supernet.tasks.augment import flip, random_resized_crop
from supernet.tasks.base import (
    IMAGENET,
    NUM_TRAIN,
    NUM_VAL,
    TaskBase,
    check_index,
    check_size,
    embedded_set,
    evenly,
    held_out_rng,
    name_of,
    prepared,
    split_off,
    training_rng,
)
from supernet.tasks.embedded_cells import draw_cells
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.embedded_shapes import CLASSES, draw_shape
from supernet.tasks.folders import check_folder, contents, list_pictures
from supernet.tasks.losses import like, masked_l1
from supernet.tasks.task import PLAIN, Augment, Draw

PATCH = 32  # side of what is hidden as one, pixels
HIDDEN = 0.6  # share of patches


class PretrainTask(TaskBase):
    """See `supernet.tasks.task.training_task`.

    A target is (4, H, W): the normalised pixels, and 1 where they were hidden.
    """

    name, primary = "pretrain", "psnr_db"

    def __init__(
        self,
        folder: Path | None,
        dataset: str | None,
        seed: int,
        num_train: int | None,
        augment: Augment,
    ) -> None:
        super().__init__()
        self.folder, self.seed, self.augment = folder, seed, augment
        if folder is None:
            self.dataset = embedded_set(dataset, ("cells", "shapes", "leaves"), self.name)
            self.num_train = num_train or NUM_TRAIN
            return
        pictures = list_pictures_of(folder)
        train, self._held = split_off(pictures)
        self._chosen = evenly(train, num_train)
        self.num_train, self.dataset = len(self._chosen), name_of(folder)

    def data(self, augment: Augment) -> Dataset[Any]:
        return _Hidden(self, augment)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], "HiddenPixels"]:
        return _HeldOut(self, arch.resolution), HiddenPixels()

    def files_trained_on(self) -> list[Path]:
        return [] if self.folder is None else self._chosen

    def files_held_out(self) -> list[Path]:
        return [] if self.folder is None else self._held

    def read(self, index: int, size: tuple[int, int], *, held_out: bool = False) -> Image.Image:
        """A picture, of `size` where it is drawn."""
        if self.folder is not None:
            return read_rgb((self._held if held_out else self._chosen)[index])
        rng = held_out_rng(index) if held_out else training_rng(self.seed, index)
        difficulty = self.difficulty
        if self.dataset == "cells":
            pixels = draw_cells(size, rng, difficulty)[0]
        elif self.dataset == "shapes":
            pixels = draw_shape(index % len(CLASSES), size, rng, difficulty)
        else:
            pixels = draw_leaves(size, rng, difficulty)[0]
        return Image.fromarray(pixels)

    @property
    def num_held_out(self) -> int:
        return NUM_VAL if self.folder is None else len(self._held)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        return masked_l1(output, target[:, :3], target[:, 3:])

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        return (output.float() - like(teacher.detach().float(), output)).abs().mean()


def list_pictures_of(folder: Path) -> list[Path]:
    """All in and below. Raises DataError if there are none."""
    check_folder(folder)
    pictures = list_pictures(folder)
    if not pictures:
        raise DataError(
            f"{folder} holds no pictures; expected any, as DIR/*.jpg, {contents(folder)}"
        )
    return pictures


def hide(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A normalised picture, (3, H, W), with hidden patches, and the target, (4, H, W).

    What is hidden has the mean colour, 0. Raises UserError unless patches fill the picture.
    """
    size = (x.shape[1], x.shape[2])
    check_size(size, PATCH, "pre-training")
    rows, columns = size[0] // PATCH, size[1] // PATCH
    count = rows * columns
    hidden = max(1, min(round(HIDDEN * count), count - 1))
    mask = np.zeros(count, np.float32)
    mask[rng.permutation(count)[:hidden]] = 1
    pixels = torch.from_numpy(mask.reshape(rows, columns).repeat(PATCH, 0).repeat(PATCH, 1))
    return x * (1 - pixels), torch.cat([x, pixels[None]])


class HiddenPixels:
    """How well hidden pixels were guessed: psnr_db of RGB in 0..1, and l1 of what is normalised.

    Over all pictures together; the standard error of l1 is that over pictures.
    """

    def __init__(self) -> None:
        self.squares: list[float] = []
        self.l1: list[float] = []

    def update(self, output: Tensor, target: Tensor) -> None:
        """(B, 3, H, W) and (B, 4, H, W)."""
        target = target.to(output.device)
        std = output.new_tensor(IMAGENET_STD).view(3, 1, 1)
        mask = target[:, 3:]
        count = 3 * mask.sum((1, 2, 3))
        difference = (output - target[:, :3]) * mask
        self.l1 += (difference.abs().sum((1, 2, 3)) / count).tolist()
        self.squares += ((difference * std).square().sum((1, 2, 3)) / count).tolist()

    def compute(self) -> dict[str, float]:
        found = {
            "psnr_db": -10 * math.log10(max(float(np.mean(self.squares)), 1e-10)),
            "l1": float(np.mean(self.l1)),
        }
        if len(self.l1) > 1:
            found["l1_stderr"] = float(np.std(self.l1, ddof=1)) / math.sqrt(len(self.l1))
        return found


class _Hidden(Dataset[tuple[Tensor, Tensor]]):
    """data[Draw] -> (3, H, W) and (4, H, W)."""

    def __init__(self, task: PretrainTask, augment: Augment) -> None:
        self.task, self.augment = task, augment

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        check_index(draw.index, self.task.num_train)
        image, rng = self.task.read(draw.index, draw.size), draw.rng()
        return hide(_vary(image, draw.size, self.augment, rng), rng)


class _HeldOut(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, task: PretrainTask, size: tuple[int, int]) -> None:
        self.task, self.size = task, size

    def __len__(self) -> int:
        return self.task.num_held_out

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        check_index(index, len(self))
        image = self.task.read(index, self.size, held_out=True)
        rng = np.random.default_rng(index)
        return hide(_vary(image, self.size, PLAIN, rng), rng)


def _vary(
    image: Image.Image, size: tuple[int, int], augment: Augment, rng: np.random.Generator
) -> Tensor:
    if augment.crop_scale != (1.0, 1.0) or hw(image) != size:
        image = random_resized_crop(image, size, rng, augment.crop_scale)
    if augment.flip and rng.random() < 0.5:
        image = flip(image)
    return prepared(image, **IMAGENET)
