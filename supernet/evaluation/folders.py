"""What a network is evaluated on: a folder of pictures as a data set, and the metric for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import (
    Arch,
    ClassificationHead,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    SuperResolutionHead,
)
from supernet.evaluation.recalibrated import task_of
from supernet.official import ALL_DATASETS
from supernet.pictures import Normalisation
from supernet.tasks.annotated_pictures import AnnotatedPictures
from supernet.tasks.choose import nothing_for
from supernet.tasks.classification import ClassFolders, Preparation, TopAccuracy
from supernet.tasks.labelled_pictures import LabelledPictures, input_size
from supernet.tasks.look import typical_size
from supernet.tasks.promptable import BoxIoU
from supernet.tasks.segmentation import MeanIoU
from supernet.tasks.super_resolution import LargePictures, Likeness
from supernet.weights.header import WeightsHeader
from supernet.weights.preprocessing import preprocessing_of

FAR = 2.5  # times as large or small as the pictures: nobody would choose it for them


@dataclass(frozen=True)
class FolderData:
    """A folder as a data set, and the metric that goes with it."""

    data: Dataset[Any]
    metric: Any  # a `supernet.tasks.loop.Metric`, or a BoxIoU
    name: str  # of the data set where the layout tells it, else of the folder
    is_known: bool  # the layout tells it
    notes: tuple[str, ...] = ()  # what was assumed of the labels, or is odd


def open_data(
    arch: Arch,
    header: WeightsHeader,
    folder: Path,
    *,
    limit: int | None = None,
    class_order: str | None = None,
    silent: bool = True,
) -> FolderData:
    """Return what `arch` is evaluated on, never pictures of `folder` that it was trained on.

    Args:
        header: of the weights.
        limit: pictures that will be looked at.
        class_order: of class folders, where the weights name no classes.
        silent: show no progress.

    Raises DataError for a folder that it cannot be evaluated on, ArchError for a head that no
    folder goes with.
    """
    is_pretrained = isinstance(arch.head, ReconstructionHead)
    if not is_pretrained and not header.is_trained_here:
        return _all_of(arch, header, folder, limit, class_order, silent)
    try:
        task = task_of(arch, header, folder, class_order)
    except DataError:
        if is_pretrained:
            raise
        # what cannot be trained on, as without train/, was not
        return _all_of(arch, header, folder, limit, class_order, silent)
    data, metric = task.held_out(arch)
    notes = task.source.check_labels(limit, silent=silent)
    if isinstance(arch.head, SegmentationHead):
        notes += about_size(arch, task.source.files_held_out())
    return FolderData(data, metric, task.dataset, task.dataset in ALL_DATASETS, notes)


def _all_of(
    arch: Arch,
    header: WeightsHeader,
    folder: Path,
    limit: int | None,
    class_order: str | None,
    silent: bool,
) -> FolderData:
    """Return all pictures of a folder, as none of them were trained on."""
    head, name = arch.head, folder.resolve().name
    prepared = header.preprocessing or preprocessing_of(arch)
    normalisation = Normalisation(prepared.mean, prepared.std)
    names = header.classes
    if isinstance(head, ClassificationHead):
        classes = ClassFolders(
            folder,
            Preparation(arch.resolution, prepared.crop_pct, normalisation),
            head.num_classes,
            names=names,
            order=header.folder_order(class_order),
        )
        is_known = classes.is_imagenet
        dataset = "imagenet" if is_known else name
        return FolderData(classes, TopAccuracy(), dataset, is_known, classes.notes)
    if isinstance(head, SegmentationHead):
        labelled = LabelledPictures(
            folder, arch.resolution, head.num_classes, normalisation, names=names
        )
        is_known = labelled.layout != "folder"
        dataset = labelled.layout if is_known else name
        metric = MeanIoU(labelled.class_names)
        notes = labelled.check_labels(limit, silent=silent)
        notes += about_size(arch, [picture for picture, _ in labelled.samples])
        return FolderData(labelled, metric, dataset, is_known, notes)
    if isinstance(head, SuperResolutionHead):
        pictures = LargePictures(folder, head.scale, normalisation=normalisation)
        return FolderData(pictures, Likeness(head.scale), name, False, pictures.notes)
    if not isinstance(head, PromptableHead):
        raise nothing_for(arch.task, "supernet/evaluation/folders.py")
    annotated = AnnotatedPictures(folder)
    is_known = annotated.layout != "folder"
    dataset = annotated.layout if is_known else name
    return FolderData(annotated, BoxIoU(), dataset, is_known, annotated.notes)


def about_size(arch: Arch, pictures: Sequence[Path]) -> tuple[str, ...]:
    """Return a line where segmentation is to see pictures at a size that is far from theirs."""
    size = typical_size(pictures)
    seen = input_size(size, arch.resolution)
    if all(1 / FAR <= side / own <= FAR for side, own in zip(seen, size, strict=True)):
        return ()
    return (
        f"pictures are about {size[0]}x{size[1]} px and are shown at {seen[0]}x{seen[1]} px; "
        "--resolution gives another size",
    )
