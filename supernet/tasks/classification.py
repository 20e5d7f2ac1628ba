"""Classification: class folders or embedded shapes, and the share of pictures told right.

B batch, K classes, H height, W width.
"""

import difflib
import math
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch
from supernet.pictures import Normalisation, hw, normalise, read_rgb, resize_and_crop, to_tensor
from supernet.tasks.augment import (
    IMAGENET,
    erase,
    flip,
    prepared,
    rand_augment,
    random_resized_crop,
)
from supernet.tasks.class_order import by_name, in_order
from supernet.tasks.draw import Augment, Draw
from supernet.tasks.embedded_shapes import CLASSES, draw_shape
from supernet.tasks.folders import (
    Unread,
    check_folder,
    contents,
    folded,
    is_picture,
    list_classes,
    list_folders,
    normal,
    unread_notes,
)
from supernet.tasks.losses import alpha_divergence, cross_entropy, kl_divergence
from supernet.tasks.mixing import mix_batch
from supernet.tasks.options import TaskOptions
from supernet.tasks.sources import Embedded, Folder, check_classes
from supernet.tasks.split_folders import check_classes_within, root_of_classes
from supernet.tasks.splits import split_off
from supernet.tasks.task import Task
from supernet.weights.preprocessing import preprocessing_of

LAYOUT = "DIR/val/CLASS/PICTURE or DIR/CLASS/PICTURE"
Labelled = tuple[Image.Image, int]  # a picture and its class


@dataclass(frozen=True)
class Preparation:
    """How a network sees a picture, see `pictures.resize_and_crop` and `pictures.normalise`."""

    size: tuple[int, int]  # (H, W)
    crop_pct: float  # share of the shorter side that it sees
    normalisation: Normalisation


class ClassFolders(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of the ImageFolder layout, prepared as in the official evaluation.

    Classes are those that the weights name; of weights that name none the sorted folders, those
    of ImageNet ("n01440764") hence as in every published network. `notes` says what was assumed.
    """

    def __init__(
        self,
        folder: Path,
        preparation: Preparation,
        num_classes: int | None = None,
        *,
        split: str = "val",
        names: Sequence[str] = (),
        order: str | None = None,
    ) -> None:
        """
        Args:
            folder: DIR/SPLIT/CLASS/PICTURE, or DIR/CLASS/PICTURE where there is no DIR/SPLIT.
            num_classes: of the network; None: as many as there are.
            names: of the network's classes, in their order; folders may lack some.
            order: of folders without such names, see `class_order.in_order`.

        Raises:
            DataError: the folder is missing or empty, of another layout, of another number of
                classes, or of one that has no name; a class has no picture, or shares one with
                another class.
        """
        self.preparation = preparation
        check_folder(folder)
        root, of_split = root_of_classes(folder, split, LAYOUT, contents(folder))
        self.root = root
        own = [path.name for path in list_folders(root)]
        self.folders, self.notes = in_order(own, "text" if names else order, root)
        labels = list(range(len(own)))
        self.classes = tuple(self.folders)
        if names:
            num_classes = len(names)
        if names and len(own) <= len(names):
            labels, self.notes = by_name(self.folders, names, root)
            if order is not None:
                self.notes += (f"the weights name their classes: --class-order {order} is unused",)
            self.classes = tuple(names)
        unread = Unread()
        pictures = list_classes(root, own, unread)
        self.notes = of_split + self.notes + check_classes_within(root, own)
        self.notes += unread_notes(unread, root)
        self.samples = [
            (picture, label)
            for label, name in sorted(zip(labels, self.folders, strict=True))
            for picture in pictures.get(name, ())
        ]
        if not self.samples:
            loose = sum(is_picture(path.name) for path in root.iterdir())
            there = f"found {loose} pictures and no class folders" if loose else contents(root)
            raise DataError(f"{root} holds no labelled pictures; expected {LAYOUT}, {there}")
        if num_classes not in (None, len(self.classes)):  # of names too: there are more folders
            raise DataError(
                f"{root} holds {len(self.classes)} class folders, the network tells "
                f"{num_classes} classes apart; give weights of a network of "
                f"{len(self.classes)} classes, or other --data"
            )

    def prepared(self, preparation: Preparation) -> "ClassFolders":
        """Return the same pictures for a network that sees them in another way."""
        other = copy(self)
        other.preparation = preparation
        return other

    @property
    def is_imagenet(self) -> bool:
        """Return whether the folders are the 1000 classes of ImageNet."""
        return len(self.folders) == 1000 and all(re.fullmatch(r"n\d{8}", c) for c in self.folders)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (3, H, W), normalised, and the label, int64. Raises DataError."""
        path, label = self.samples[index]
        seen = self.preparation
        picture = resize_and_crop(read_rgb(path), seen.size, seen.crop_pct)
        return normalise(to_tensor(picture), *seen.normalisation), torch.tensor(label)


class ClassificationTask(Task):
    """A class for every picture; the target is its number, int64."""

    name, primary = "classification", "top1"
    source: "_Shapes | _LabelledFiles"

    def __init__(self, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing, or have other classes."""
        folder = options.data
        source = _Shapes(options) if folder is None else _LabelledFiles(folder, options)
        self.normalisation = options.normalisation or IMAGENET
        super().__init__(source, options.variations)

    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Tensor]:
        """Return a picture, (3, H, W), and its class, int64, see `Task.sample`."""
        image, label = self.source.read(draw.index, draw.size)
        rng = draw.rng()
        if augment.crop_scale != (1.0, 1.0) or hw(image) != draw.size:
            image = random_resized_crop(image, draw.size, rng, augment.crop_scale)
        if augment.flip and rng.random() < 0.5:
            image = flip(image)
        image = rand_augment(image, rng, augment.rand_augment, augment.magnitude)
        x = prepared(image, self.normalisation)
        if rng.random() < augment.erasing:
            erase(x, rng)
        return x, torch.tensor(label)

    def mix(self, x: Tensor, target: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        """Return mix-up or cut-mix of a batch, with shares of classes, (B, K), as targets."""
        mixup, cutmix = self.augment.mixup, self.augment.cutmix
        if not (mixup or cutmix):
            return x, target
        return mix_batch(
            x, target, self.num_classes or 0, mixup=mixup, cutmix=cutmix, generator=generator
        )

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        """Return the cross-entropy with smoothed labels."""
        return cross_entropy(output, target, self.augment.label_smoothing)

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return the divergence from the teacher's classes, see `Task.distill`."""
        if alpha is None:
            return kl_divergence(output, teacher)
        return alpha_divergence(output, teacher, alpha)

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], "TopAccuracy"]:
        """Return pictures prepared for `arch` with their classes, and their accuracy."""
        return self.source.held_out(arch), TopAccuracy()


class _Shapes(Embedded[Labelled]):
    """Embedded shapes, the classes in turn."""

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options, ("shapes",), CLASSES)
        self.normalisation = options.normalisation or IMAGENET

    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Labelled:
        label = index % len(CLASSES)
        return Image.fromarray(draw_shape(label, size, rng, self.difficulty)), label

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return self.remember(arch.resolution, self._pixels, self.normalisation)

    def _pixels(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        image, label = self.read_held_out(index, size)
        return to_tensor(image), torch.tensor(label)


class _LabelledFiles(Folder[tuple[Path, int], Labelled]):
    """Class folders; each tenth picture is held out where there are no splits."""

    def __init__(self, folder: Path, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing, or have other classes."""
        as_stored = Preparation((1, 1), 1.0, options.normalisation or IMAGENET)
        names, order = options.classes, options.class_order
        train, held_out = (
            ClassFolders(folder, as_stored, split=split, names=names, order=order)
            for split in ("train", "val")
        )
        self.num_classes = check_classes(options.num_classes, len(train.classes), str(folder))
        if train.folders != held_out.folders and not names:
            _check_alike(folder, train, held_out)
            # Of the same names, which Unicode composes and so sorts in another way.
            names = train.classes
            held_out = ClassFolders(folder, as_stored, split="val", names=names)
        if train.samples == held_out.samples:
            train.samples, held_out.samples = split_off(train.samples)
        super().__init__(folder, train.samples, held_out.samples, options.num_train)
        self._held_out, self._crop_pct = held_out, options.crop_pct
        self.classes = train.classes
        self.notes = tuple(dict.fromkeys(train.notes + held_out.notes))
        if train.is_imagenet:
            self.dataset = "imagenet"

    def load(self, file: tuple[Path, int]) -> Labelled:
        path, label = file
        return read_rgb(path), label

    def held_out(self, arch: Arch) -> Dataset[Any]:
        crop_pct = self._crop_pct or preprocessing_of(arch).crop_pct
        seen = replace(self._held_out.preparation, size=arch.resolution, crop_pct=crop_pct)
        return self._held_out.prepared(seen)


def _check_alike(folder: Path, train: ClassFolders, held_out: ClassFolders) -> None:
    """Raise DataError, with the nearest name, unless both splits have the same classes."""
    ours, theirs = ({normal(name): name for name in split.folders} for split in (train, held_out))
    for name in sorted(ours.keys() ^ theirs.keys()):
        others = theirs if name in ours else ours
        close = difflib.get_close_matches(folded(name), map(folded, others), n=1)
        meant = next((other for other in others if close and folded(other) == close[0]), None)
        raise DataError(
            f"{folder}: class {name!r} is not in both {train.root.name}/ and "
            f"{held_out.root.name}/" + (f"; did you mean {meant!r}?" if meant else "")
        )


class TopAccuracy:
    """Top-1 and top-5 accuracy in percent, with binomial standard errors.

    These after Agresti and Coull, two right and two wrong pictures added: a few pictures that
    are all wrong do not make 0 % certain.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.right = {1: 0, 5: 0}  # pictures whose label is among the k best

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: (B, K), any floating dtype, and (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels.to(best.device)[:, None]
        self.pictures += len(labels)
        for k in self.right:
            self.right[k] += int(hits[:, :k].sum())

    def compute(self) -> dict[str, float]:
        """Return top1, top5 and their `_stderr`, percent."""
        figures = {}
        for k, right in self.right.items():
            share = right / self.pictures
            figures[f"top{k}"] = 100 * share
            adjusted = (right + 2) / (self.pictures + 4)
            spread = math.sqrt(adjusted * (1 - adjusted) / (self.pictures + 4))
            figures[f"top{k}_stderr"] = 100 * spread
        return figures
