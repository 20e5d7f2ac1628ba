"""Subnets of a supernet's file as stand-alone networks, with statistics of their own."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from results.errors import UserError, WeightsError
from supernet.arch import Arch, SuperResolutionHead
from supernet.evaluation.batchnorm import recalibrate
from supernet.memory import is_out_of_memory, within_memory
from supernet.sharing.checkpoint import open_supernet
from supernet.space import Space
from supernet.tasks.choose import training_task
from supernet.tasks.class_order import AS_TRAINED
from supernet.tasks.options import TaskOptions
from supernet.tasks.task import Task
from supernet.weights.files import metadata_in
from supernet.weights.header import classes_in

MOST_KEPT, MOST_PIXELS = 3, 2**25  # resolutions, and pixels of each: 400 MB


@dataclass(frozen=True)
class Recalibration:
    """Which training pictures statistics are computed on."""

    num_images: int = 512
    batch_size: int = 64
    seed: int = 0

    @property
    def even_batch(self) -> int:
        """The largest batch up to `batch_size` of batches that are as equal as can be."""
        batches = -(-self.num_images // self.batch_size)
        return -(-self.num_images // batches)


class Subnets:
    """Stand-alone, recalibrated networks of a supernet, and the task that it was trained for."""

    def __init__(
        self,
        weights: Path,
        *,
        data: Path | None = None,
        recalibration: Recalibration | None = None,
        accelerator: str = "cpu",
        workers: int | None = None,
        class_order: str | None = None,
    ) -> None:
        """`data`: a folder as for training; None: embedded pictures. `workers`: see
        `supernet.tasks.loop.read_batches`. `class_order`: see `task_of`.

        Raises WeightsError for a file that holds no supernet, DataError for pictures that
        cannot be read or have other classes.
        """
        self.recalibration = recalibration or Recalibration()
        self.device = torch.device(accelerator)
        self.supernet = open_supernet(weights).to(self.device)
        self.workers = workers
        self.seed = data_seed(weights)
        self.task = task_of(self.supernet.largest[0], weights, data, class_order)
        self._kept: OrderedDict[tuple[int, int], list[Tensor]] = OrderedDict()

    @property
    def space(self) -> Space:
        return self.supernet.space

    def network(self, arch: Arch) -> nn.Module:
        """In evaluation mode, float32, on the accelerator. Raises SpaceError."""
        model = self.supernet.extract(arch).eval()
        recalibrate(model, self._pictures(arch))
        return model

    def _pictures(self, arch: Arch) -> Iterable[Tensor]:
        """The same for all subnets of one resolution; kept for the next where they are few."""
        settings, size = self.recalibration, arch.resolution
        if size in self._kept:
            return self._kept[size]
        found = self.task.recalibration_batches(
            arch, settings.num_images, settings.even_batch, settings.seed, self.workers
        )
        if settings.num_images * math.prod(size) > MOST_PIXELS:
            return found
        self._kept[size] = list(found)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[size]


@contextmanager
def naming_memory() -> Iterator[None]:
    """Raises UserError, with the cure, where memory is short."""
    try:
        with within_memory():
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory; try a smaller --batch-size or --resolution, or smaller pictures"
        ) from None


def task_of(arch: Arch, weights: Path, data: Path | None, class_order: str | None = None) -> Task:
    """The task that `arch` does, on the pictures that `weights` were trained on, or `data`.

    Class folders are told by the names in `weights`; where there are none, by `class_order`.

    Raises DataError for pictures that cannot be read or have other classes.
    """
    options = TaskOptions(
        arch.task,
        data=data,
        num_classes=getattr(arch.head, "num_classes", None),
        seed=data_seed(weights),
        num_train=_number_in(weights, "num_train"),
        classes=classes_in(weights),
        class_order=order_of(weights, class_order),
    )
    if isinstance(arch.head, SuperResolutionHead):
        options = replace(options, scale=arch.head.scale)
    return training_task(options)


def data_seed(weights: Path) -> int:
    """Of the embedded pictures that `weights` were trained on; 0 where the file does not say."""
    return _number_in(weights, "seed") or 0


def order_of(weights: Path, asked: str | None) -> str | None:
    """The order of class folders for weights that name no classes, see `class_order.in_order`."""
    if asked is None and was_trained_here(weights) and not classes_in(weights):
        return AS_TRAINED
    return asked


def was_trained_here(weights: Path) -> bool:
    """By `supernet.train`, alone or as part of a supernet."""
    return bool({"steps", "supernet_sha256"} & metadata_in(weights).keys())


def _number_in(weights: Path, name: str) -> int | None:
    """From the metadata; None where the file does not say."""
    text = metadata_in(weights).get(name)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise WeightsError(f"{weights} is damaged: its {name} is {text[:40]!r}")
    return None if text is None else int(text)
