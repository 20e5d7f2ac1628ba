"""Subnets of a supernet's file as stand-alone networks, with statistics of their own."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from results.errors import UserError
from supernet.arch import Arch, SuperResolutionHead
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.options import RECALIBRATION_IMAGES, SUBNET_BATCH
from supernet.memory import is_out_of_memory, within_memory
from supernet.pictures import Normalisation
from supernet.sharing.checkpoint import supernet_with
from supernet.space import Space
from supernet.tasks.choose import training_task
from supernet.tasks.options import TaskOptions
from supernet.tasks.task import Task
from supernet.weights.fitting import StoredWeights
from supernet.weights.header import WeightsHeader

MOST_KEPT, MOST_PIXELS = 3, 2**25  # resolutions, and pixels of each: 400 MB


@dataclass(frozen=True)
class Recalibration:
    """Which training pictures statistics are computed on."""

    num_images: int = RECALIBRATION_IMAGES
    batch_size: int = SUBNET_BATCH
    seed: int = 0

    @property
    def even_batch(self) -> int:
        """Return the largest batch, up to `batch_size`, of batches as equal as can be."""
        batches = -(-self.num_images // self.batch_size)
        return -(-self.num_images // batches)


class Subnets:
    """Stand-alone, recalibrated networks of a supernet, and the task that it was trained for."""

    def __init__(
        self,
        weights: StoredWeights,
        *,
        data: Path | None = None,
        recalibration: Recalibration | None = None,
        accelerator: str = "cpu",
        workers: int | None = None,
        class_order: str | None = None,
    ) -> None:
        """Open the pictures of a supernet's weights.

        Args:
            data: a folder as for training; None: embedded pictures.
            workers: see `supernet.tasks.loop.read_batches`.
            class_order: see `task_of`.

        Raises WeightsError for weights of no supernet, DataError for pictures that cannot be
        read or have other classes.
        """
        self.recalibration = recalibration or Recalibration()
        self.device = torch.device(accelerator)
        self.header = weights.header
        self.supernet = supernet_with(weights).to(self.device)
        self.workers = workers
        self.task = task_of(self.supernet.largest[0], self.header, data, class_order)
        self._kept: OrderedDict[tuple[int, int], list[Tensor]] = OrderedDict()

    @property
    def space(self) -> Space:
        """Return the space that the supernet is of."""
        return self.supernet.space

    def network(self, arch: Arch) -> nn.Module:
        """Return the subnet of `arch` in evaluation mode, float32, on the accelerator.

        Raises SpaceError where the space does not have it.
        """
        model = self.supernet.extract(arch).eval()
        recalibrate(model, self._pictures(arch))
        return model

    def _pictures(self, arch: Arch) -> Iterable[Tensor]:
        """Return the same pictures for all subnets of one resolution, kept where they are few."""
        settings, size = self.recalibration, arch.resolution
        if size in self._kept:
            return self._kept[size]
        batches = self.task.recalibration_batches(
            arch, settings.num_images, settings.even_batch, settings.seed, self.workers
        )
        if settings.num_images * math.prod(size) > MOST_PIXELS:
            return batches
        self._kept[size] = list(batches)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[size]


@contextmanager
def naming_memory() -> Iterator[None]:
    """Raise UserError, with the cure, where memory is short."""
    try:
        with within_memory():
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory; try a smaller --batch-size or --resolution, or smaller pictures"
        ) from None


def task_of(
    arch: Arch, header: WeightsHeader, data: Path | None, class_order: str | None = None
) -> Task:
    """Return the task that `arch` does, on the pictures that weights were trained on, or `data`.

    Class folders are told by the names in the weights' header; where there are none, by
    `class_order`. Pictures are normalised as the header says, those of one network cropped so, too.

    Raises DataError for pictures that cannot be read or have other classes.
    """
    options = TaskOptions(
        arch.task,
        data=data,
        num_classes=getattr(arch.head, "num_classes", None),
        seed=header.seed or 0,
        num_train=header.num_train,
        classes=header.classes,
        class_order=header.folder_order(class_order),
    )
    if header.preprocessing is not None:
        seen = header.preprocessing
        options = replace(
            options,
            normalisation=Normalisation(seen.mean, seen.std),
            # a supernet's is that of its largest subnet
            crop_pct=None if header.kind == "supernet" else seen.crop_pct,
        )
    if isinstance(arch.head, SuperResolutionHead):
        options = replace(options, scale=arch.head.scale)
    return training_task(options)
