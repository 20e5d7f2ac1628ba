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

from results.errors import DataError, UserError
from supernet.arch import Arch
from supernet.pictures import Normalisation, hw, read_rgb
from supernet.tasks.augment import IMAGENET, flip, prepared, random_resized_crop
from supernet.tasks.draw import PLAIN, Augment, Draw
from supernet.tasks.embedded_cells import draw_cells
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.embedded_shapes import CLASSES, draw_shape
from supernet.tasks.folders import Unread, check_folder, contents, list_pictures, unread_notes
from supernet.tasks.losses import like, masked_l1
from supernet.tasks.options import TaskOptions
from supernet.tasks.sources import Embedded, Folder
from supernet.tasks.splits import split_off
from supernet.tasks.task import Task

PATCH = 32  # side of what is hidden as one, pixels
HIDDEN = 0.6  # share of patches


class PretrainTask(Task):
    """Hidden patches of pictures guessed from the rest.

    A target is (4, H, W): the normalised pixels, and 1 where they were hidden.
    """

    name, primary = "pretrain", "psnr_db"
    source: "_Drawn | _Files"

    def __init__(self, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing."""
        source = _Drawn(options) if options.data is None else _Files(options.data, options)
        self.normalisation = source.normalisation
        super().__init__(source, options.variations)

    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Tensor]:
        """Return a picture, (3, H, W), with hidden patches, and all of it, (4, H, W)."""
        image, rng = self.source.read(draw.index, draw.size), draw.rng()
        return hide(_vary(image, draw.size, augment, rng, self.normalisation), rng)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        """Return the mean absolute difference of hidden pixels."""
        return masked_l1(output, target[:, :3], target[:, 3:])

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return the mean absolute difference of pixels from the teacher's."""
        return (output.float() - like(teacher.detach().float(), output)).abs().mean()

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], "HiddenPixels"]:
        """Return pictures with hidden patches, and how well these are guessed."""
        return self.source.held_out(arch), HiddenPixels(self.normalisation)


class _Drawn(Embedded[Image.Image]):
    """Pictures of the embedded set that is asked for."""

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options, ("cells", "shapes", "leaves"))
        self.normalisation = options.normalisation or IMAGENET

    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
        if self.dataset == "cells":
            pixels = draw_cells(size, rng, self.difficulty)[0]
        elif self.dataset == "shapes":
            pixels = draw_shape(index % len(CLASSES), size, rng, self.difficulty)
        else:
            pixels = draw_leaves(size, rng, self.difficulty)[0]
        return Image.fromarray(pixels)

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return _HeldOut(self, arch.resolution)


class _Files(Folder[Path, Image.Image]):
    """All pictures of a folder; each tenth is held out."""

    def __init__(self, folder: Path, options: TaskOptions) -> None:
        unread = Unread()
        pictures = list_pictures_of(folder, unread)
        super().__init__(folder, *split_off(pictures), options.num_train)
        self.notes = unread_notes(unread, folder)
        self.normalisation = options.normalisation or IMAGENET

    def load(self, file: Path) -> Image.Image:
        return read_rgb(file)

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return _HeldOut(self, arch.resolution)


class _HeldOut(Dataset[tuple[Tensor, Tensor]]):
    """Held-out pictures, each with the same patches hidden whenever it is read."""

    def __init__(self, source: _Drawn | _Files, size: tuple[int, int]) -> None:
        self.source, self.size = source, size

    def __len__(self) -> int:
        return self.source.num_held_out

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.source.read_held_out(index, self.size)
        rng = np.random.default_rng(index)
        return hide(_vary(image, self.size, PLAIN, rng, self.source.normalisation), rng)


def list_pictures_of(folder: Path, unread: Unread | None = None) -> list[Path]:
    """Return all pictures in a folder and below, and count other files in `unread`.

    Raises DataError if there are none.
    """
    check_folder(folder)
    pictures = list_pictures(folder, unread=unread)
    if not pictures:
        raise DataError(
            f"{folder} holds no pictures; expected any, as DIR/*.jpg, {contents(folder)}"
        )
    return pictures


def hide(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Hide patches of x, (3, H, W), normalised; return it and the target, (4, H, W).

    What is hidden has the mean colour, 0. Raises UserError unless patches fill the picture.
    """
    height, width = x.shape[1:]
    if height % PATCH or width % PATCH:
        raise UserError(
            f"pre-training needs sides divisible by {PATCH}, not {height}x{width}; choose a "
            f"resolution like {-(-height // PATCH) * PATCH}"
        )
    rows, columns = height // PATCH, width // PATCH
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

    def __init__(self, normalisation: Normalisation = IMAGENET) -> None:
        """`normalisation` is that of the pictures."""
        self.normalisation = normalisation
        self.squares: list[float] = []
        self.l1: list[float] = []

    def update(self, output: Tensor, target: Tensor) -> None:
        """Count a batch: (B, 3, H, W) and (B, 4, H, W)."""
        target = target.to(output.device)
        std = output.new_tensor(self.normalisation.std).view(3, 1, 1)
        mask = target[:, 3:]
        count = 3 * mask.sum((1, 2, 3))
        difference = (output - target[:, :3]) * mask
        self.l1 += (difference.abs().sum((1, 2, 3)) / count).tolist()
        self.squares += ((difference * std).square().sum((1, 2, 3)) / count).tolist()

    def compute(self) -> dict[str, float]:
        """Return psnr_db, and l1 with its `_stderr` if there are two pictures or more."""
        figures = {
            "psnr_db": -10 * math.log10(max(float(np.mean(self.squares)), 1e-10)),
            "l1": float(np.mean(self.l1)),
        }
        if len(self.l1) > 1:
            figures["l1_stderr"] = float(np.std(self.l1, ddof=1)) / math.sqrt(len(self.l1))
        return figures


def _vary(
    image: Image.Image,
    size: tuple[int, int],
    augment: Augment,
    rng: np.random.Generator,
    normalisation: Normalisation,
) -> Tensor:
    if augment.crop_scale != (1.0, 1.0) or hw(image) != size:
        image = random_resized_crop(image, size, rng, augment.crop_scale)
    if augment.flip and rng.random() < 0.5:
        image = flip(image)
    return prepared(image, normalisation)
