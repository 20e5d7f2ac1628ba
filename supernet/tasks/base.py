"""What the tasks of `supernet.train` share: numbers of pictures, held-out ones, batches.

B batch, H height, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from results.errors import DataError, UserError, check_choice
from supernet.arch import Arch
from supernet.model import IMAGENET_MEAN, IMAGENET_STD
from supernet.pictures import normalise, to_tensor
from supernet.tasks.class_order import listed
from supernet.tasks.look import check_headers, check_pictures
from supernet.tasks.loop import Metric, evaluate, read_batches
from supernet.tasks.task import PLAIN, Augment, Draw

NUM_TRAIN, NUM_VAL = 20_000, 2_000  # embedded pictures
DIFFICULTY = 0.3  # of embedded pictures, 0 to 1, held-out ones too
GOLDEN = (5**0.5 - 1) / 2
HELD_OUT = 10  # of a folder without splits, each tenth picture is kept from training
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
T = TypeVar("T")
Sample = tuple[Tensor, Tensor]


class TaskBase:
    """Collates tensors, mixes nothing, and evaluates what maps a picture to a map or classes."""

    name: str
    primary: str
    dataset: str
    num_train: int
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    augment: Augment
    difficulty: float = DIFFICULTY  # no part of `augment`, so that figures can be compared

    def __init__(self) -> None:
        self._remembered: dict[tuple[int, int], Remembered] = {}

    def data(self, augment: Augment) -> Dataset[Any]:
        """Training pictures, data[Draw], varied by `augment`."""
        raise NotImplementedError

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], Metric]:
        """Pictures for evaluation, by number, and the metric for them."""
        raise NotImplementedError

    def files_held_out(self) -> list[Path]:
        """Pictures of a folder for evaluation; [] of embedded ones."""
        return []

    def files_trained_on(self) -> list[Path]:
        return []

    def check_labels(
        self, limit: int | None = None, *, training: bool = False, silent: bool = True
    ) -> tuple[str, ...]:
        return self.notes

    def check_files(self) -> tuple[str, ...]:
        return check_headers(self.files_trained_on()) + check_pictures(self.files_held_out())

    def remember(
        self,
        size: tuple[int, int],
        draw: "Callable[[tuple[int, int], int], Sample]",
        prepare: Callable[[Tensor], Tensor],
    ) -> "Remembered":
        """The held-out pictures of a size, the same object whenever they are asked for."""
        if size not in self._remembered:
            self._remembered[size] = Remembered(partial(draw, size), prepare)
        return self._remembered[size]

    def train_data(self) -> Dataset[Any]:
        return self.data(self.augment)

    def collate(self, samples: list[Any]) -> tuple[Tensor, Any]:
        pictures, targets = zip(*samples, strict=True)
        first = targets[0]
        if isinstance(first, Tensor):
            return torch.stack(pictures), torch.stack(targets)
        parts = (torch.stack(tensors) for tensors in zip(*targets, strict=True))
        return torch.stack(pictures), type(first)(*parts)

    def mix(self, x: Tensor, target: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        return x, target

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
        data, metric = self.held_out(arch)
        if isinstance(data, Remembered) and workers is None:
            workers = 0  # what another process draws is forgotten
        data = spread(data, limit)
        batches = read_batches(
            data, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda"
        )
        evaluate(model, batches, metric, device=device, dtype=dtype)
        return {**metric.compute(), "n": float(len(data))}  # type: ignore[arg-type]

    def recalibration_batches(
        self, arch: Arch, num_images: int, batch_size: int, seed: int, workers: int | None = None
    ) -> Iterator[Tensor]:
        order = np.random.default_rng(seed).permutation(self.num_train)
        draws = [
            Draw(int(order[i % len(order)]), i // len(order), arch.resolution, seed)
            for i in range(num_images)
        ]
        drawn = _Drawn(self.data(PLAIN), draws)
        for batch in read_batches(drawn, batch_size=batch_size, workers=workers):
            yield torch.stack([x for (x,) in batch])


class Remembered(Dataset[Sample]):
    """Embedded held-out pictures, drawn when first asked for: all subnets are shown the same."""

    def __init__(self, draw: Callable[[int], Sample], prepare: Callable[[Tensor], Tensor]) -> None:
        """`draw(index)`: 8 bits, (3, H, W), and the target; `prepare`: as the network sees it."""
        self.draw, self.prepare = draw, prepare
        self._drawn: dict[int, Sample] = {}

    def __len__(self) -> int:
        return NUM_VAL

    def __getitem__(self, index: int) -> Sample:
        check_index(index, NUM_VAL)
        if index not in self._drawn:
            self._drawn[index] = self.draw(index)
        pixels, target = self._drawn[index]
        return self.prepare(pixels), target


class _Drawn(Dataset[Any]):
    """The pictures of a list of draws, by number, without what they show."""

    def __init__(self, data: "Dataset[Any]", draws: Sequence[Draw]) -> None:
        self.drawn, self.draws = data, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> Any:
        return (self.drawn[self.draws[index]][0],)


def evenly(samples: Sequence[T], count: int | None) -> list[T]:
    """`count` of a data set's samples, one from each of `count` stretches of it.

    Evenly, as classes of a folder lie one after the other; at uneven places within the
    stretches, as classes of embedded pictures take turns.
    """
    count = min(count or len(samples), len(samples))
    step = len(samples) / count
    return [samples[int((i + i * GOLDEN % 1) * step)] for i in range(count)]


def split_off(samples: Sequence[T]) -> tuple[list[T], list[T]]:
    """To train on, and held out: each tenth, where a folder has no splits of its own.

    Raises DataError for fewer than two.
    """
    if len(samples) < 2:
        raise DataError("one picture can not be both trained on and held out; add pictures to it")
    held = [sample for i, sample in enumerate(samples) if i % HELD_OUT == 0]
    return [sample for i, sample in enumerate(samples) if i % HELD_OUT], held


def separate(train: list[T], held: list[T], key: Callable[[T], Any]) -> tuple[list[T], list[T]]:
    """No sample in both: pictures come from all of a folder that has none for the split.

    Args:
        key: what tells samples apart.

    Raises DataError where too few are left.
    """
    ours, theirs = ({key(sample) for sample in samples} for samples in (train, held))
    if ours == theirs:
        return split_off(train)
    if not ours & theirs:
        return train, held
    if len(theirs) < len(ours):
        return [sample for sample in train if key(sample) not in theirs], held
    return train, [sample for sample in held if key(sample) not in ours]


def spread(data: "Dataset[Any]", limit: int | None) -> "Dataset[Any]":
    """`limit` samples of a data set, or all, evenly spread."""
    total = len(data)  # type: ignore[arg-type]
    return data if limit is None or limit >= total else Subset(data, evenly(range(total), limit))


def embedded_set(dataset: str | None, choices: tuple[str, ...], task: str) -> str:
    """The embedded set that a task trains on; the first of `choices` by default."""
    if dataset is None:
        return choices[0]
    check_choice(f"embedded data set for {task}", dataset, choices, DataError)
    return dataset


def check_classes(num_classes: int | None, has: int, where: str) -> int:
    """Raises DataError unless the network has as many classes as the data."""
    if num_classes not in (None, has):
        raise DataError(
            f"{where} has {has} classes, the network {num_classes}; give --num-classes {has}, "
            "or other --data"
        )
    return has


def check_names(classes: Sequence[str], own: Sequence[str]) -> None:
    """Raises DataError where weights name other classes than those of the embedded set."""
    if classes and tuple(classes) != tuple(own):
        raise DataError(
            f"the weights know the classes {listed(classes)}, and the embedded pictures show "
            f"{listed(own)}; give --data DIR"
        )


def training_rng(seed: int, index: int) -> np.random.Generator:
    """Of an embedded training picture."""
    return np.random.default_rng((1, seed, index))


def held_out_rng(index: int) -> np.random.Generator:
    """Of an embedded picture that is never trained on, whatever the seed."""
    return np.random.default_rng((0, index))


def check_index(index: int, length: int) -> None:
    """Sequences end with IndexError. Raises it."""
    if not 0 <= index < length:
        raise IndexError(index)


def prepared(pixels: Any, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A picture, (H, W, 3), 8 bits, as a network sees it, (3, H, W)."""
    return normalise(to_tensor(pixels), mean, std)


def as_imagenet(pixels: Tensor) -> Tensor:
    return normalise(pixels, **IMAGENET)


def as_shares(pixels: Tensor) -> Tensor:
    """0 to 1."""
    return pixels.float() / 255


def name_of(folder: Path) -> str:
    return folder.resolve().name


def check_size(size: tuple[int, int], multiple: int, task: str) -> None:
    if any(side % multiple for side in size):
        raise UserError(
            f"{task} needs sides divisible by {multiple}, not {size[0]}x{size[1]}; choose a "
            f"resolution like {-(-size[0] // multiple) * multiple}"
        )
