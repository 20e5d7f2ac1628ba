"""What a training loop asks of a task: samples, loss, distillation, figures.

B batch, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from supernet.arch import Arch
from supernet.tasks.draw import PLAIN, Augment, Draw
from supernet.tasks.loop import evaluate, read_batches
from supernet.tasks.sources import Remembered, Source
from supernet.tasks.splits import spread


@dataclass(frozen=True)
class EvaluationSettings:
    """How held-out pictures are shown to a network."""

    batch_size: int
    limit: int | None = None  # pictures, evenly spread over all; None: all
    workers: int | None = None  # processes that read ahead, see `loop.read_batches`
    device: torch.device = torch.device("cpu")  # noqa: RUF009  it cannot be changed
    dtype: torch.dtype = torch.float32


class Task(ABC):
    """One task on one data set."""

    name: str  # one of `options.TASKS`
    primary: str  # the figure that is reported first; larger is better

    def __init__(self, source: Source[Any], augment: Augment) -> None:
        """`augment`: how the training pictures of `source` vary."""
        self.source, self.augment = source, augment
        self.dataset, self.num_train = source.dataset, source.num_train
        self.num_classes, self.classes = source.num_classes, source.classes

    @abstractmethod
    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Any]:
        """Return x, (3, H, W), float32, normalised, of the draw's size, and its target.

        The target is a tensor or a named tuple of tensors. Both are functions of `draw` and
        `augment` alone. Raises DataError for what cannot be read.
        """

    @abstractmethod
    def loss(self, output: Tensor, target: Any, decoder: nn.Module | None) -> Tensor:
        """Return a scalar, float32, of what the network gave and `collate` or `mix` gave.

        `decoder` has SAM's `prompt_encoder` and `mask_decoder`, and is read by `promptable` alone.
        """

    @abstractmethod
    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return a scalar: how far a network is from its teacher, which gets no gradient.

        Args:
            alpha: of AlphaNet's clipped divergence, where outputs are classes. None: the
                Kullback-Leibler divergence. Of pictures it is L1, of embeddings the mean square.
        """

    @abstractmethod
    def held_out(self, arch: Arch) -> tuple[Dataset[Any], Any]:
        """Return pictures for evaluation, by number, prepared for `arch`, and an empty metric.

        The metric is a `loop.Metric`, or what the task's own `evaluate` makes of it.
        Raises DataError where `arch` is none for these pictures.
        """

    def train_data(self) -> "TrainingPictures":
        """Return data[Draw] -> (x, target), see `sample`."""
        return TrainingPictures(self, self.augment)

    def collate(self, samples: list[Any]) -> tuple[Tensor, Any]:
        """Return samples as one batch: x (B, 3, H, W) and a tensor or named tuple of tensors."""
        pictures, targets = zip(*samples, strict=True)
        first = targets[0]
        if isinstance(first, Tensor):
            return torch.stack(pictures), torch.stack(targets)
        parts = (torch.stack(tensors) for tensors in zip(*targets, strict=True))
        return torch.stack(pictures), type(first)(*parts)

    def mix(self, x: Tensor, target: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        """Return mix-up or cut-mix of a batch where the task has it, else the batch itself.

        `generator` is of the CPU, whatever the device of x. Raises nothing.
        """
        return x, target

    def evaluate(
        self, model: nn.Module, arch: Arch, settings: EvaluationSettings
    ) -> dict[str, float]:
        """Return figures on held-out data.

        `n` is the number of pictures, `NAME_stderr` the standard error of `NAME`. `model` is a
        stand-alone `build_task_model(arch)` in evaluation mode, on the settings' device and of
        their dtype. Raises NotFiniteError where an output is not finite, DataError for pictures
        that cannot be read.
        """
        data, metric = self.held_out(arch)
        workers = settings.workers
        if isinstance(data, Remembered) and workers is None:
            workers = 0  # what another process draws is forgotten
        data = spread(data, settings.limit)
        batches = read_batches(
            data,
            batch_size=settings.batch_size,
            workers=workers,
            pin_memory=settings.device.type == "cuda",
        )
        evaluate(model, batches, metric, device=settings.device, dtype=settings.dtype)
        return {**metric.compute(), "n": float(len(data))}  # type: ignore[arg-type]

    def recalibration_batches(
        self, arch: Arch, num_images: int, batch_size: int, seed: int, workers: int | None = None
    ) -> Iterator[Tensor]:
        """Yield training pictures, (B, 3, H, W), at the arch's resolution, that do not vary.

        Raises DataError for what cannot be read.
        """
        order = np.random.default_rng(seed).permutation(self.num_train)
        draws = [
            Draw(int(order[i % len(order)]), i // len(order), arch.resolution, seed)
            for i in range(num_images)
        ]
        data = _Listed(self, draws)
        for batch in read_batches(data, batch_size=batch_size, workers=workers):
            yield torch.stack([x for (x,) in batch])


class TrainingPictures(Dataset[tuple[Tensor, Any]]):
    """data[Draw] -> (x, target), the training pictures of a task varied by `augment`."""

    def __init__(self, task: Task, augment: Augment) -> None:
        self.task, self.augment = task, augment

    def __len__(self) -> int:
        return self.task.num_train

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Any]:
        return self.task.sample(draw, self.augment)


class _Listed(Dataset[tuple[Tensor]]):
    """The training pictures of a list of draws, by number, not varied and without targets."""

    def __init__(self, task: Task, draws: Sequence[Draw]) -> None:
        self.task, self.draws = task, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (self.task.sample(self.draws[index], PLAIN)[0],)


def to_device(target: Any, device: torch.device) -> Any:
    """Return a target, a tensor or a named tuple of tensors, on `device`."""
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    return type(target)(*(to_device(part, device) for part in target))
