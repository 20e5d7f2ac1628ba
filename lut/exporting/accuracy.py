"""What a file gets right beside PyTorch, on the same held-out pictures.

B batch, H height, W width; the file's are fixed.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lut.builders.network import INPUT, OUTPUT
from lut.exporting.job import Job, Runner
from lut.exporting.noise import Pictures, normalised, pixels_of
from lut.exporting.options import ExportOptions
from results.errors import DataError
from supernet.arch import format_resolution
from supernet.tasks.classification import TopAccuracy
from supernet.tasks.loop import read_batches
from supernet.tasks.segmentation import MeanIoU
from supernet.tasks.sources import Remembered
from supernet.tasks.splits import spread
from supernet.tasks.super_resolution import Likeness

AT_ONCE = 32  # pictures that are read, and shown to PyTorch


@dataclass(frozen=True)
class Accuracy:
    """Of PyTorch in float32, and of a file."""

    metric: str
    before: float
    after: float
    drop_stderr: (
        float | None
    )  # of what is lost on the same pictures; None: unknown, or of one picture
    pictures: int

    @property
    def drop(self) -> float:
        """Return what is lost, in points or dB; below 0 where the file is better."""
        return self.before - self.after


def accuracy_of(run: Runner, job: Job, options: ExportOptions) -> Accuracy:
    """Show held-out pictures to PyTorch and to a file of a network with a task.

    Raises DataError for pictures that cannot be read or are all smaller than the network's.
    """
    task = job.network.task
    assert task is not None
    data, metric = task.held_out(job.network.arch)
    before, after, gained = metric, copy.deepcopy(metric), list[int]()
    pictures = 0
    with torch.no_grad():
        for x, target in _batches(data, job, options):
            expected, found = job.network.model(x), _scores(run, x, job)
            before.update(expected, target)
            after.update(found, target)
            pictures += len(x)
            if isinstance(before, TopAccuracy):
                gained += _gained(expected, found, target)
    if not pictures:
        size = format_resolution(job.network.arch.resolution)
        raise DataError(f"no held-out picture is {size} or larger; choose a smaller --resolution")
    own = task.primary
    stderr = _drop_stderr(before, after, gained)
    return Accuracy(own, before.compute()[own], after.compute()[own], stderr, pictures)


def _batches(data: Dataset[Any], job: Job, options: ExportOptions) -> Iterator[tuple[Tensor, Any]]:
    """Yield pictures, (B, 3, H, W), normalised, and targets, of shapes that are equal."""
    workers = 0 if isinstance(data, Remembered) else options.workers
    few = spread(data, options.limit)
    for batch in read_batches(few, batch_size=AT_ONCE, workers=workers):
        fitted = [pair for pair in (_fitted(job, *sample) for sample in batch) if pair]
        while fitted:
            shape = fitted[0][1].shape
            same = [pair for pair in fitted if pair[1].shape == shape]
            fitted = [pair for pair in fitted if pair[1].shape != shape]
            x, target = (torch.stack(tensors) for tensors in zip(*same, strict=True))
            if job.input_type == "uint8":
                seen = job.network.model.preprocessing
                x = torch.from_numpy(normalised(pixels_of(x.numpy(), seen), seen))
            yield x, target


def _fitted(job: Job, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a picture of the file's size; of one to enlarge the middle, None where it is small."""
    height, width = job.network.arch.resolution
    if x.shape[1:] == (height, width):
        return x, target
    if job.network.arch.task == "segmentation":
        x = F.interpolate(x[None], (height, width), mode="bilinear", antialias=True)[0]
        return x, target
    if x.shape[1] < height or x.shape[2] < width:
        return None
    scale = target.shape[1] // x.shape[1]
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    rows, columns = (
        slice(scale * top, scale * (top + height)),
        slice(scale * left, scale * (left + width)),
    )
    return x[:, top : top + height, left : left + width], target[:, rows, columns]


def _scores(run: Runner, x: Tensor, job: Job) -> Tensor:
    """Return what a file gives for pictures, as a metric takes it: (B, ...)."""
    pictures: Pictures = x.numpy()
    if job.input_type == "uint8":
        pictures = pixels_of(pictures, job.network.model.preprocessing)
    found = []
    for start in range(0, len(pictures), job.batch):
        part = pictures[start : start + job.batch]
        short = job.batch - len(part)
        whole = np.concatenate([part, part[:1].repeat(short, 0)]) if short else part
        found.append(run({INPUT: whole})[OUTPUT][: len(part)])
    given = torch.from_numpy(np.concatenate(found))
    if job.head == "argmax":
        classes = getattr(job.network.arch.head, "num_classes", 0)
        return F.one_hot(given.long(), classes).movedim(-1, 1).float()
    return given


def _gained(expected: Tensor, found: Tensor, labels: Tensor) -> list[int]:
    """Return 1 for each picture that the file alone gets right, -1 for PyTorch alone, else 0."""
    right = [(scores.argmax(1) == labels).int() for scores in (found, expected)]
    gained: list[int] = (right[0] - right[1]).tolist()
    return gained


def _drop_stderr(before: Any, after: Any, gained: list[int]) -> float | None:
    """Return the standard error of the difference of two metrics on the same pictures.

    Of top-1 after Agresti and Min, half a picture added to those gained and to those lost: a few
    pictures that are all alike do not make the difference certain.
    """
    if isinstance(before, TopAccuracy):
        n, changed, more = len(gained) + 2, sum(map(abs, gained)) + 1, sum(gained)
        return 100 * math.sqrt(changed - more**2 / n) / n
    if isinstance(before, MeanIoU):
        without = before.without_each() - after.without_each()
        spread_ = (len(without) - 1) * float(without.var(correction=0))
        return 100 * math.sqrt(spread_) if len(without) > 1 else None
    if not isinstance(before, Likeness):
        return None
    lost = np.subtract(before.psnr_db, after.psnr_db)
    return float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else None
