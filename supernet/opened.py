"""What a network is evaluated on: a folder of pictures as a data set, and the metric for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import (
    Arch,
    ClassificationHead,
    ReconstructionHead,
    SegmentationHead,
    SuperResolutionHead,
)
from supernet.model import default_cfg
from supernet.named import ALL_DATASETS
from supernet.recalibrated import task_of, was_trained_here
from supernet.tasks.base import TaskBase
from supernet.tasks.classification import ClassFolders, TopAccuracy
from supernet.tasks.promptable import AnnotatedPictures, BoxIoU
from supernet.tasks.segmentation import LabelledPictures, MeanIoU
from supernet.tasks.super_resolution import LargePictures, Likeness


@dataclass(frozen=True)
class Opened:
    """A folder as a data set, and the metric that goes with it."""

    data: Dataset[Any]
    metric: Any  # a `supernet.tasks.loop.Metric`, or a BoxIoU
    name: str  # of the data set where the layout tells it, else of the folder
    is_known: bool  # the layout tells it


def open_data(arch: Arch, weights: Path, folder: Path) -> Opened:
    """What `arch` is evaluated on, never pictures of `folder` that `weights` were trained on.

    Raises DataError for a folder that it cannot be evaluated on.
    """
    is_pretrained = isinstance(arch.head, ReconstructionHead)
    if not is_pretrained and not was_trained_here(weights):
        return _all_of(arch, folder)
    try:
        task = cast(TaskBase, task_of(arch, weights, folder))
    except DataError:
        if is_pretrained:
            raise
        return _all_of(arch, folder)  # what cannot be trained on, as without train/, was not
    data, metric = task.held_out(arch)
    return Opened(data, metric, task.dataset, task.dataset in ALL_DATASETS)


def _all_of(arch: Arch, folder: Path) -> Opened:
    head, cfg, name = arch.head, default_cfg(arch), folder.resolve().name
    colours = {"mean": cfg["mean"], "std": cfg["std"]}
    if isinstance(head, ClassificationHead):
        classes = ClassFolders(
            folder, arch.resolution, head.num_classes, crop_pct=cfg["crop_pct"], **colours
        )
        known = classes.is_imagenet
        return Opened(classes, TopAccuracy(), "imagenet" if known else name, known)
    if isinstance(head, SegmentationHead):
        labelled = LabelledPictures(folder, arch.resolution, head.num_classes, **colours)
        known = labelled.layout != "folder"
        metric = MeanIoU(labelled.class_names)
        return Opened(labelled, metric, labelled.layout if known else name, known)
    if isinstance(head, SuperResolutionHead):
        pictures = LargePictures(folder, head.scale, **colours)
        return Opened(pictures, Likeness(head.scale), name, False)
    annotated = AnnotatedPictures(folder)
    known = annotated.layout != "folder"
    return Opened(annotated, BoxIoU(), annotated.layout if known else name, known)
