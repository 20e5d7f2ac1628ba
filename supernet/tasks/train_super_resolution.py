"""Super-resolution to train on: folders of large pictures, or embedded dead leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch, SuperResolutionHead
from supernet.pictures import read_rgb, to_tensor
from supernet.tasks.base import (
    NUM_TRAIN,
    TaskBase,
    as_shares,
    check_index,
    embedded_set,
    evenly,
    held_out_rng,
    name_of,
    separate,
    training_rng,
)
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.losses import like
from supernet.tasks.super_resolution import LargePictures, Likeness, reduce
from supernet.tasks.task import Augment, Draw

SHARE = 0.6  # share of the embedded pictures' own, as noise cannot be enlarged


class SuperResolutionTask(TaskBase):
    """See `supernet.tasks.task.training_task`; `Draw.size` is that of the small picture."""

    name, primary = "super_resolution", "psnr_db"

    def __init__(
        self,
        folder: Path | None,
        dataset: str | None,
        scale: int,
        seed: int,
        num_train: int | None,
        augment: Augment,
    ) -> None:
        super().__init__()
        self.folder, self.scale, self.seed, self.augment = folder, scale, seed, augment
        if folder is None:
            self.dataset = embedded_set(dataset, ("leaves",), self.name)
            self.num_train = num_train or NUM_TRAIN
            return
        train, self._held = separate(
            LargePictures(folder, scale, split="train").samples,
            LargePictures(folder, scale).samples,
            key=lambda path: path,
        )
        self._chosen = evenly(train, num_train)
        self.num_train, self.dataset = len(self._chosen), name_of(folder)

    def data(self, augment: Augment) -> Dataset[Any]:
        return _Pairs(self, augment)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], Likeness]:
        if not isinstance(arch.head, SuperResolutionHead) or arch.head.scale != self.scale:
            raise DataError(f"the data is for scale {self.scale}, the network for another")
        if self.folder is None:
            return self.remember(arch.resolution, self._draw, as_shares), Likeness(self.scale)
        held = LargePictures(self.folder, self.scale)
        held.samples = self._held
        return held, Likeness(self.scale)

    def files_trained_on(self) -> list[Path]:
        return [] if self.folder is None else self._chosen

    def files_held_out(self) -> list[Path]:
        return [] if self.folder is None else self._held

    def read(
        self, index: int, size: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """A part, (H, W, 3) of `size`, of a training picture; mirrored beyond its edges."""
        check_index(index, self.num_train)
        if self.folder is None:
            own = training_rng(self.seed, index)
            return draw_leaves(size, own, SHARE * self.difficulty)[0]
        image = read_rgb(self._chosen[index])
        lacking = [max(0, a - b) for a, b in zip(size, (image.height, image.width), strict=True)]
        pixels = np.asarray(image)
        if any(lacking):
            pixels = np.pad(pixels, [(0, lacking[0]), (0, lacking[1]), (0, 0)], "symmetric")
        top, left = (
            int(rng.integers(there - wanted + 1))
            for there, wanted in zip(pixels.shape[:2], size, strict=True)
        )
        return pixels[top : top + size[0], left : left + size[1]]

    def _draw(self, size: tuple[int, int], index: int) -> tuple[Tensor, Tensor]:
        """A held-out picture, small and large."""
        large = (size[0] * self.scale, size[1] * self.scale)
        difficulty = SHARE * self.difficulty
        return pair(draw_leaves(large, held_out_rng(index), difficulty)[0], self.scale)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        return (output.float() - target).abs().mean()

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        return (output.float() - like(teacher.detach().float(), output)).abs().mean()


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    """data[Draw] -> (3, H, W) and (3, s H, s W), float32, 0..1."""

    def __init__(self, task: SuperResolutionTask, augment: Augment) -> None:
        self.task, self.augment = task, augment

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        rng, scale = draw.rng(), self.task.scale
        large = self.task.read(draw.index, (draw.size[0] * scale, draw.size[1] * scale), rng)
        if self.augment.flip:
            large = large[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))]
            if draw.size[0] == draw.size[1] and rng.random() < 0.5:
                large = large.swapaxes(0, 1)
        small, large_x = pair(np.ascontiguousarray(large), scale)
        return small.float() / 255, large_x.float() / 255


def pair(large: NDArray[np.uint8], scale: int) -> tuple[Tensor, Tensor]:
    """A picture, (s H, s W, 3), reduced, (3, H, W), and itself, (3, s H, s W), both uint8."""
    small = to_tensor(reduce(Image.fromarray(large), scale))
    return small, torch.from_numpy(large).permute(2, 0, 1).contiguous()
