"""What a network is evaluated on: a folder of pictures as a data set, and the metric for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from supernet.arch import Arch, ClassificationHead, SegmentationHead, SuperResolutionHead
from supernet.model import default_cfg
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


def open_data(arch: Arch, folder: Path) -> Opened:
    """What `arch` is evaluated on. Raises DataError for a folder that it cannot be."""
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
