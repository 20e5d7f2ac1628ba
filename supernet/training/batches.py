"""Which pictures each step of a training sees, and processes that read them ahead.

The pictures of all epochs form one endless row, each epoch shuffled by (seed, epoch); step s of
batch size B takes the pictures from s B on. A batch is split into equal parts, over the ranks
and over the parts that gradients are accumulated of; so neither changes what a step learns from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from results.errors import UserError, reason_of
from supernet.tasks.draw import Draw
from supernet.tasks.loop import MAX_WORKERS, Answers, num_cores
from supernet.tasks.task import Task
from supernet.training.sandwich import Sampler, random_stream

Batch = tuple[Tensor, Any]  # (B, 3, H, W) and the task's targets


class PictureOrder:
    """Which picture, and which of its variations, each place of each step's batch is."""

    def __init__(self, num_train: int, batch_size: int, seed: int) -> None:
        self.num_train = num_train
        self.batch_size = batch_size
        self.seed = seed
        self._epoch: int | None = None
        self._shuffled: list[int] = []

    def draws(self, step: int, size: tuple[int, int]) -> list[Draw]:
        """Return the draws of a step, from 0, of all ranks: `batch_size` of them."""
        first = step * self.batch_size
        return [self._draw(place, size) for place in range(first, first + self.batch_size)]

    def _draw(self, place: int, size: tuple[int, int]) -> Draw:
        epoch, position = divmod(place, self.num_train)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
            self._shuffled = torch.randperm(self.num_train, generator=generator).tolist()
            self._epoch = epoch
        return Draw(self._shuffled[position], epoch, size, self.seed)


@dataclass(frozen=True)
class PartDraws:
    """A batch sampler: for each step the draws of those parts of its batch that a rank runs."""

    sampler: Sampler  # tells the resolution of a step
    order: PictureOrder
    steps: range  # from 0
    parts: range  # of `num_parts`
    num_parts: int  # equal ones, of all ranks

    def __iter__(self) -> Iterator[list[Draw]]:
        each = self.order.batch_size // self.num_parts
        for step in self.steps:
            draws = self.order.draws(step, self.sampler.draw(step).resolution)
            for part in self.parts:
                yield draws[part * each : (part + 1) * each]

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)


def read_parts(
    task: Task, draws: PartDraws, *, workers: int | None, pin_memory: bool = False
) -> Iterator[list[Batch]]:
    """Yield for each step the batches of the parts in `draws`.

    Args:
        workers: processes that read ahead; None: one a core, up to 8.

    Raises UserError, as reading raised it, or where a process that reads has died.
    """
    workers = min(num_cores(), MAX_WORKERS) if workers is None else workers
    data: Dataset[Any] = Answers(task.train_data())
    loader = DataLoader(
        data,
        batch_sampler=draws,
        num_workers=workers,
        collate_fn=_Collate(task),
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    gathered: list[Batch] = []
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            gathered.append(batch)
            if len(gathered) == len(draws.parts):
                yield gathered
                gathered = []
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"reading failed ({reason_of(error)}); try --workers 0") from None


def seed_of(seed: int, *names: object) -> int:
    """Return a seed of its own for every purpose, the same in every process."""
    return random_stream(seed, *names).getrandbits(63)


class _Collate:
    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, samples: list[Any]) -> Batch | UserError:
        for sample in samples:
            if isinstance(sample, UserError):
                return sample
        return self.task.collate(samples)
