"""The task that options name."""

from collections.abc import Callable

from results.errors import ArchError
from supernet.tasks.classification import ClassificationTask
from supernet.tasks.options import TaskOptions
from supernet.tasks.pretrain import PretrainTask
from supernet.tasks.promptable import PromptableTask
from supernet.tasks.segmentation import SegmentationTask
from supernet.tasks.super_resolution import SuperResolutionTask
from supernet.tasks.task import Task

TRAINED: dict[str, Callable[[TaskOptions], Task]] = {
    "classification": ClassificationTask,
    "segmentation": SegmentationTask,
    "super_resolution": SuperResolutionTask,
    "promptable": PromptableTask,
    "pretrain": PretrainTask,
}


def training_task(options: TaskOptions) -> Task:
    """Return the task that `options` name, on their pictures.

    Raises DataError where the folder is missing, empty or of another layout, or has other
    classes; WeightsError where the teacher is none; ArchError for a task that is not in TRAINED.
    """
    make = TRAINED.get(options.name)
    if make is None:
        raise nothing_for(options.name, "supernet/tasks/choose.py")
    return make(options)


def nothing_for(task: str, path: str) -> ArchError:
    """Return the error where a task was forgotten in the file at `path`."""
    return ArchError(f"{path} has nothing for {task}; see CONTRIBUTING.md, Add a task")
