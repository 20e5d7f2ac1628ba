"""What a task is asked to be: its name, its pictures, its classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from results.errors import check_choice, check_least
from supernet.arch import Task
from supernet.pictures import Normalisation
from supernet.tasks.draw import EMBEDDED, Augment
from supernet.weights.fitting import StoredWeights

TASKS = get_args(Task)


@dataclass(frozen=True)
class TaskOptions:
    """A task on a folder of pictures or, without one, on embedded pictures.

    Raises UserError for an unknown task, or no pictures to train on.
    """

    name: str  # one of TASKS
    data: Path | None = None  # a folder, of a layout in docs/data.md; None: embedded pictures
    # Of embedded pictures: shapes, cells or leaves; None: the task's own. Of segmentation from a
    # folder its layout (cityscapes or ade20k), which is checked; None: it is not.
    dataset: str | None = None
    num_classes: int | None = None  # of the network, checked; None: those of the data set
    seed: int = 0  # of the embedded training pictures; held-out ones are always the same
    # Training pictures, evenly spread over all; None: all of a folder, 20,000 embedded ones.
    num_train: int | None = None
    augment: Augment | None = None  # None: that of `variations`
    scale: int = 2  # of super-resolution
    # Of promptable: whose image embeddings are learned; None: no one's.
    teacher: StoredWeights | None = None
    class_order: str | None = None  # of class folders without `classes`, see `class_order.in_order`
    classes: tuple[str, ...] = ()  # what weights call theirs, in their order; (): they do not
    normalisation: Normalisation | None = None  # that weights were trained with; None: the task's
    crop_pct: float | None = None  # of classification, see `Preprocessing`; None: each network's

    def __post_init__(self) -> None:
        check_choice("task", self.name, TASKS)
        check_least("num_train", self.num_train, 1)

    @property
    def variations(self) -> Augment:
        """Return how training pictures vary: `augment`, else as suits where they are from."""
        if self.augment is not None:
            return self.augment
        return Augment() if self.data else EMBEDDED
