"""What a training loop asks of a task: data, augmentation, loss, distillation, figures.

Every sample is a function of its `Draw` alone, so that any number of processes reads the same
pictures and a run goes on from the exact step. B batch, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import UserError, check_choice
from supernet.arch import Arch

TASKS = ("classification", "segmentation", "super_resolution", "promptable", "pretrain")


@dataclass(frozen=True, slots=True)
class Draw:
    """Which picture, and which of its variations: what a batch sampler hands to a data set."""

    index: int  # of the picture, 0 to num_train - 1
    epoch: int
    size: tuple[int, int]  # (height, width) that the network sees
    seed: int

    def rng(self) -> np.random.Generator:
        """The source of all randomness of this variation; the same at every size."""
        return np.random.default_rng((self.seed, self.epoch, self.index))


@dataclass(frozen=True)
class Augment:
    """How training pictures vary. A share or strength of 0 turns a part off.

    The defaults are the official recipe of family b; that of l erases 0.2 of the pictures.

    Classification reads all fields, dense tasks those that move labels along: `crop_scale`,
    `flip`, `photometric`; super-resolution turns and flips if `flip`.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    flip: bool = True
    rand_augment: int = 1  # operations a picture
    magnitude: int = 3  # of these, 0 to 10, give or take 1
    erasing: float = 0.0  # share of pictures with a rectangle of noise
    mixup: float = 0.1  # the beta distribution's parameter; half the batches, if cutmix is on
    cutmix: float = 0.1
    label_smoothing: float = 0.1
    scale_jitter: tuple[float, float] = (0.5, 2.0)  # of segmentation, before the crop
    photometric: float = 0.4  # largest relative change of brightness, contrast and saturation

    def __post_init__(self) -> None:
        for name in ("erasing", "label_smoothing", "photometric"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"crop_scale must be two shares, ascending, not {self.crop_scale}")
        if not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UserError(f"scale_jitter must be two factors, ascending: {self.scale_jitter}")
        for name, most in (("rand_augment", 10), ("magnitude", 10), ("mixup", 10), ("cutmix", 10)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} must be from 0 to {most}, not {getattr(self, name)}")


PLAIN = Augment((1.0, 1.0), False, 0, 0, 0.0, 0.0, 0.0, 0.0, (1.0, 1.0), 0.0)
# Poses vary as they are drawn; crops would enlarge what held-out pictures show small, and cut off
# the lamp that classes of cells depend on.
EMBEDDED = replace(PLAIN, flip=True, photometric=0.2)


class TrainingTask(Protocol):
    """One task on one data set."""

    name: str  # classification, segmentation, super_resolution, promptable or pretrain
    dataset: str  # shapes, cells and leaves are embedded; else imagenet, ..., or the folder's name
    primary: str  # the figure that is reported first; larger is better
    num_train: int  # pictures
    num_classes: int | None
    classes: tuple[str, ...]  # names in their order; () where they are unknown

    def check_labels(
        self, limit: int | None = None, *, training: bool = False, silent: bool = True
    ) -> tuple[str, ...]:
        """Look over the held-out labels once; what was assumed or is odd, a line each.

        Args:
            limit: evaluations will be on this many pictures.
            training: look over those to train on, too.
            silent: show no progress.

        Raises DataError for labels that cannot be right, or tell nothing.
        """
        ...

    def files_trained_on(self) -> list[Path]:
        """Pictures of a folder; [] of embedded ones."""
        ...

    def check_files(self) -> tuple[str, ...]:
        """Look over the pictures before a training; what was left out, a line each.

        Raises DataError for one that is damaged.
        """
        ...

    def train_data(self) -> Dataset[Any]:
        """data[Draw] -> (x, target); x is (3, H, W), float32, normalised, of the draw's size.

        Raises DataError for what cannot be read.
        """
        ...

    def collate(self, samples: list[Any]) -> tuple[Tensor, Any]:
        """Samples as one batch: x (B, 3, H, W) and a tensor or a named tuple of tensors."""
        ...

    def mix(self, x: Tensor, target: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        """Mix-up or cut-mix of a batch, where the task has it; else nothing changes.

        `generator` is of the CPU, whatever the device of x. Raises nothing.
        """
        ...

    def loss(self, output: Tensor, target: Any, decoder: nn.Module | None) -> Tensor:
        """A scalar, float32, of what the network gave and `collate` or `mix` gave.

        `decoder` has SAM's `prompt_encoder` and `mask_decoder`, and is read by `promptable` alone.
        """
        ...

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """A scalar: how far a network is from its teacher, which gets no gradient.

        Args:
            alpha: of AlphaNet's clipped divergence, where outputs are classes. None: the
                Kullback-Leibler divergence. Of pictures it is L1, of embeddings the mean square.
        """
        ...

    def evaluate(
        self,
        model: nn.Module,
        arch: Arch,
        *,
        limit: int | None,
        batch_size: int,
        workers: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> dict[str, float]:
        """Figures on held-out data; `n` is the number of pictures, `NAME_stderr` an error.

        `model` is a stand-alone `build_task_model(arch)` in evaluation mode, on `device`, of
        `dtype`; `limit` pictures are evenly spread over all.
        """
        ...

    def recalibration_batches(
        self, arch: Arch, num_images: int, batch_size: int, seed: int, workers: int | None = None
    ) -> Iterator[Tensor]:
        """Training pictures at the arch's resolution, neither augmented nor mixed."""
        ...


def training_task(
    name: str,
    *,
    data: Path | None = None,
    dataset: str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    num_train: int | None = None,
    augment: Augment | None = None,
    scale: int = 2,
    teacher: Path | None = None,
    classes: tuple[str, ...] = (),
    class_order: str | None = None,
) -> TrainingTask:
    """The task `name`, on a folder of pictures or, without one, on embedded pictures.

    Args:
        data: a folder, see each task's module for its layouts.
        dataset: of embedded pictures: shapes, cells or leaves; of segmentation from a folder
            its layout (cityscapes or ade20k), where it shall be checked. None: the task's own.
        num_classes: of the network. None: those of the data set.
        seed: of the embedded training pictures; held-out ones are always the same.
        num_train: use this many training pictures, evenly spread over all; embedded ones are
            20,000 by default.
        augment: None for the official recipe, or `EMBEDDED` for embedded pictures.
        scale: of super-resolution.
        teacher: of promptable segmentation: a SAM checkpoint whose embeddings are learned.
        classes: what weights call theirs, in their order: class folders are told by name.
        class_order: of class folders without such names, see `class_order.in_order`.

    Raises:
        DataError: the folder is missing, empty or of another layout, or has other classes.
        UserError: an unknown task.
    """
    check_choice("task", name, TASKS)
    if num_train is not None and num_train < 1:
        raise UserError(f"num_train must be 1 or more, not {num_train}")
    if augment is None:
        augment = Augment() if data else EMBEDDED
    if name == "classification":
        from supernet.tasks.train_classification import ClassificationTask

        return ClassificationTask(
            data, dataset, num_classes, seed, num_train, augment, classes, class_order
        )
    if name == "segmentation":
        from supernet.tasks.train_segmentation import SegmentationTask

        return SegmentationTask(data, dataset, num_classes, seed, num_train, augment, classes)
    if name == "super_resolution":
        from supernet.tasks.train_super_resolution import SuperResolutionTask

        return SuperResolutionTask(data, dataset, scale, seed, num_train, augment)
    if name == "promptable":
        from supernet.tasks.train_promptable import PromptableTask

        return PromptableTask(data, dataset, seed, num_train, augment, teacher)
    from supernet.tasks.pretrain import PretrainTask

    return PretrainTask(data, dataset, seed, num_train, augment)


def to_device(target: Any, device: torch.device) -> Any:
    """A target, a tensor or a named tuple of tensors, on `device`."""
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    return type(target)(*(to_device(part, device) for part in target))
