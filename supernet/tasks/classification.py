"""Classification: pictures in one folder a class, and the share of them told right.

B batch, K classes.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.pictures import normalise, read_rgb, resize_and_crop, to_tensor
from supernet.tasks.class_order import by_name, in_order
from supernet.tasks.folders import check_folder, contents, is_picture, list_classes, list_folders

LAYOUT = "DIR/val/CLASS/PICTURE or DIR/CLASS/PICTURE"
SPLITS = ("train", "val", "validation", "test")


class ClassFolders(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of the ImageFolder layout, prepared as in the official evaluation.

    Classes are those that the weights name; of weights that name none the sorted folders, those
    of ImageNet ("n01440764") hence as in every published network. `notes` says what was assumed.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        num_classes: int | None,
        *,
        crop_pct: float,
        mean: Sequence[float],
        std: Sequence[float],
        split: str = "val",
        names: Sequence[str] = (),
        order: str | None = None,
    ) -> None:
        """
        Args:
            folder: DIR/SPLIT/CLASS/PICTURE, or DIR/CLASS/PICTURE where there is no DIR/SPLIT.
            size: (height, width) that the network sees.
            num_classes: of the network; None: as many as there are.
            crop_pct: share of the shorter side that it sees.
            mean, std: of RGB in 0..1.
            names: of the network's classes, in their order; folders may lack some.
            order: of folders without such names, see `class_order.in_order`.

        Raises:
            DataError: the folder is missing or empty, of another layout, of another number of
                classes, or of one that has no name; a class has no picture, or shares one with
                another class.
        """
        self.size, self.crop_pct, self.mean, self.std = size, crop_pct, mean, std
        root = self.root = _root(folder, split)
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
        pictures = list_classes(root, own)
        self.samples = [
            (picture, label)
            for label, name in sorted(zip(labels, self.folders, strict=True))
            for picture in pictures.get(name, ())
        ]
        if not self.samples:
            loose = sum(is_picture(path.name) for path in root.iterdir())
            found = f"found {loose} pictures and no class folders" if loose else contents(root)
            raise DataError(f"{root} holds no labelled pictures; expected {LAYOUT}, {found}")
        if num_classes not in (None, len(self.classes)):  # of names too: there are more folders
            raise DataError(
                f"{root} holds {len(self.classes)} class folders, the network tells "
                f"{num_classes} classes apart; give weights of a network of "
                f"{len(self.classes)} classes, or other --data"
            )

    @property
    def is_imagenet(self) -> bool:
        return len(self.folders) == 1000 and all(re.fullmatch(r"n\d{8}", c) for c in self.folders)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, H, W) normalised and the label, int64. Raises DataError."""
        path, label = self.samples[index]
        picture = resize_and_crop(read_rgb(path), self.size, self.crop_pct)
        return normalise(to_tensor(picture), self.mean, self.std), torch.tensor(label)


class TopAccuracy:
    """Top-1 and top-5 accuracy in percent, with binomial standard errors.

    These after Agresti and Coull, two right and two wrong pictures added: a few pictures that
    are all wrong do not make 0 % certain.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.right = {1: 0, 5: 0}  # pictures whose label is among the k best

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """(B, K), any floating dtype, and (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels.to(best.device)[:, None]
        self.pictures += len(labels)
        for k in self.right:
            self.right[k] += int(hits[:, :k].sum())

    def compute(self) -> dict[str, float]:
        """top1, top5 and their `_stderr`, percent."""
        found = {}
        for k, right in self.right.items():
            share = right / self.pictures
            found[f"top{k}"] = 100 * share
            adjusted = (right + 2) / (self.pictures + 4)
            spread = math.sqrt(adjusted * (1 - adjusted) / (self.pictures + 4))
            found[f"top{k}_stderr"] = 100 * spread
        return found


def _root(folder: Path, split: str) -> Path:
    """Where the class folders are."""
    check_folder(folder)
    names = {path.name for path in list_folders(folder)}
    for name in ("val", "validation") if split == "val" else (split,):
        if name in names:
            return folder / name
    if names and names <= set(SPLITS):
        raise DataError(f"{folder} has no {split}/; expected {LAYOUT}, {contents(folder)}")
    return folder
