"""The task that options name."""

from supernet.tasks.classification import ClassificationTask
from supernet.tasks.options import TaskOptions
from supernet.tasks.pretrain import PretrainTask
from supernet.tasks.promptable import PromptableTask
from supernet.tasks.segmentation import SegmentationTask
from supernet.tasks.super_resolution import SuperResolutionTask
from supernet.tasks.task import Task


def training_task(options: TaskOptions) -> Task:
    """Return the task that `options` name, on their pictures.

    Raises DataError where the folder is missing, empty or of another layout, or has other
    classes; WeightsError where the teacher is none.
    """
    if options.name == "classification":
        return ClassificationTask(options)
    if options.name == "segmentation":
        return SegmentationTask(options)
    if options.name == "super_resolution":
        return SuperResolutionTask(options)
    if options.name == "promptable":
        return PromptableTask(options)
    return PretrainTask(options)
