"""Where a task's pictures come from: they are drawn when asked for, or files of a folder.

B batch, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from results.errors import DataError, check_choice
from supernet.arch import Arch
from supernet.pictures import Normalisation, normalise
from supernet.tasks.class_order import listed
from supernet.tasks.look import check_headers, check_pictures
from supernet.tasks.options import TaskOptions
from supernet.tasks.splits import evenly

NUM_TRAIN, NUM_VAL = 20_000, 2_000  # embedded pictures
DIFFICULTY = 0.3  # of embedded pictures, 0 to 1, held-out ones too
Sample = tuple[Tensor, Tensor]
Read = TypeVar("Read")  # a picture with its labels, as it is read
File = TypeVar("File", bound="Path | tuple[Path, Any]")  # a picture, or one with its labels


class Source(ABC, Generic[Read]):
    """The pictures of one data set, to train on and held out, with their labels."""

    dataset: str  # shapes, cells and leaves are embedded; else imagenet, ..., or the folder's name
    num_train: int  # pictures to train on
    num_held_out: int
    num_classes: int | None = None  # None: labels are no classes
    classes: tuple[str, ...] = ()  # names in their order; () where they are unknown
    notes: tuple[str, ...] = ()  # what was assumed of the labels, a line each

    @abstractmethod
    def read(self, index: int, size: tuple[int, int]) -> Read:
        """Return a training picture with its labels, of `size` (H, W) where it is drawn.

        Raises DataError for what cannot be read, IndexError beyond the last one.
        """

    @abstractmethod
    def read_held_out(self, index: int, size: tuple[int, int]) -> Read:
        """Return a held-out picture as `read` returns one to train on; raises the same."""

    @abstractmethod
    def held_out(self, arch: Arch) -> Dataset[Any]:
        """Return the pictures for evaluation by number, prepared for `arch`."""

    def files_trained_on(self) -> list[Path]:
        """Return the pictures of a folder that are trained on; [] of embedded ones."""
        return []

    def files_held_out(self) -> list[Path]:
        """Return the pictures of a folder for evaluation; [] of embedded ones."""
        return []

    def check_labels(
        self, limit: int | None = None, *, training: bool = False, silent: bool = True
    ) -> tuple[str, ...]:
        """Look over the held-out labels once; return what was assumed or is odd, a line each.

        Args:
            limit: evaluations will be on this many pictures.
            training: look over those to train on, too.
            silent: show no progress.

        Raises DataError for labels that cannot be right, or tell nothing.
        """
        return self.notes

    def check_files(self) -> tuple[str, ...]:
        """Look over the pictures before a training; return what was left out, a line each.

        Raises DataError for one that is damaged.
        """
        return ()


class Embedded(Source[Read]):
    """Pictures that are drawn when they are asked for, at any size."""

    num_held_out = NUM_VAL

    def __init__(
        self, options: TaskOptions, choices: tuple[str, ...], classes: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            choices: the sets that serve the task, its own first.
            classes: what the labels are, if they are classes.

        Raises DataError where the options ask for another set, or for other classes.
        """
        self.dataset = choices[0] if options.dataset is None else options.dataset
        what = f"embedded data set for {options.name}"
        check_choice(what, self.dataset, choices, DataError)
        if classes:
            self.classes = classes
            self.num_classes = check_classes(
                options.num_classes, len(classes), "the embedded data set"
            )
            _check_names(options.classes, classes)
        self.num_train = options.num_train or NUM_TRAIN
        self.seed = options.seed
        self.difficulty = DIFFICULTY  # no part of `Augment`, so that figures can be compared
        self._remembered: dict[tuple[int, int], Remembered] = {}

    @abstractmethod
    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Read:
        """Return a picture of `size` (H, W), and its labels, a function of the arguments alone."""

    def read(self, index: int, size: tuple[int, int]) -> Read:
        """Draw a training picture of `size` (H, W), see `Source.read`."""
        check_index(index, self.num_train)
        return self.draw(index, size, np.random.default_rng((1, self.seed, index)))

    def read_held_out(self, index: int, size: tuple[int, int]) -> Read:
        """Draw a held-out picture of `size` (H, W), see `Source.read`."""
        # whatever the seed, never trained on
        check_index(index, self.num_held_out)
        return self.draw(index, size, np.random.default_rng((0, index)))

    def remember(
        self,
        size: tuple[int, int],
        draw: Callable[[int, tuple[int, int]], Sample],
        normalisation: Normalisation,
    ) -> "Remembered":
        """Return the held-out pictures of a size, the same object whenever they are asked for."""
        if size not in self._remembered:
            self._remembered[size] = Remembered(size, draw, normalisation)
        return self._remembered[size]


class Folder(Source[Read], Generic[File, Read]):
    """Pictures in files, some of which are held out."""

    def __init__(
        self, folder: Path, train: Sequence[File], held_out: list[File], num_train: int | None
    ) -> None:
        """`train` and `held_out` have no file in common; of `train` `num_train` are used."""
        self.folder, self.dataset = folder, folder.resolve().name
        self.files, self.held_out_files = evenly(train, num_train), held_out
        self.num_train, self.num_held_out = len(self.files), len(held_out)

    @abstractmethod
    def load(self, file: File) -> Read:
        """Return what is in `file`. Raises DataError for what cannot be read."""

    def read(self, index: int, size: tuple[int, int]) -> Read:
        """Load a training picture, of its own size, see `Source.read`."""
        check_index(index, self.num_train)
        return self.load(self.files[index])

    def read_held_out(self, index: int, size: tuple[int, int]) -> Read:
        """Load a held-out picture, of its own size, see `Source.read`."""
        check_index(index, self.num_held_out)
        return self.load(self.held_out_files[index])

    def files_trained_on(self) -> list[Path]:
        """Return the pictures that are trained on."""
        return [_path_of(file) for file in self.files]

    def files_held_out(self) -> list[Path]:
        """Return the pictures for evaluation."""
        return [_path_of(file) for file in self.held_out_files]

    def check_files(self) -> tuple[str, ...]:
        """Read headers, and decode some held-out pictures, see `Source.check_files`."""
        return check_headers(self.files_trained_on()) + check_pictures(self.files_held_out())


class Remembered(Dataset[Sample]):
    """Embedded held-out pictures, drawn when first asked for: all subnets are shown the same."""

    def __init__(
        self,
        size: tuple[int, int],
        draw: Callable[[int, tuple[int, int]], Sample],
        normalisation: Normalisation,
    ) -> None:
        """
        Args:
            size: (H, W).
            draw: of a number and `size`: 8 bits, (3, H, W), and the target.
            normalisation: of what the network sees.
        """
        self.size, self.draw, self.normalisation = size, draw, normalisation
        self._drawn: dict[int, Sample] = {}

    def __len__(self) -> int:
        return NUM_VAL

    def __getitem__(self, index: int) -> Sample:
        check_index(index, NUM_VAL)
        if index not in self._drawn:
            self._drawn[index] = self.draw(index, self.size)
        pixels, target = self._drawn[index]
        return normalise(pixels, *self.normalisation), target


def check_classes(num_classes: int | None, has: int, where: str) -> int:
    """Return `has`, the number of classes of the data.

    Raises DataError where the network has another number.
    """
    if num_classes not in (None, has):
        raise DataError(
            f"{where} has {has} classes, the network {num_classes}; give --num-classes {has}, "
            "or other --data"
        )
    return has


def check_index(index: int, length: int) -> None:
    """Raise IndexError, which sequences end with, unless `index` is one of `length`."""
    if not 0 <= index < length:
        raise IndexError(index)


def _check_names(classes: Sequence[str], own: Sequence[str]) -> None:
    """Raise DataError where weights name other classes than those of the embedded set."""
    if classes and tuple(classes) != tuple(own):
        raise DataError(
            f"the weights know the classes {listed(classes)}, and the embedded pictures show "
            f"{listed(own)}; give --data DIR"
        )


def _path_of(file: "Path | tuple[Path, Any]") -> Path:
    return file if isinstance(file, Path) else file[0]
