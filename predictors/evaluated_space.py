"""The search space that evaluated subnets are of."""

from predictors.evaluations import Evaluations
from results.errors import PredictorError, SpaceError, check_choice
from supernet.arch import format_resolution
from supernet.official import DATASETS
from supernet.space import Space
from supernet.spaces import SPACES, get_space


def space_of_subnets(evaluations: Evaluations, name: str | None = None) -> Space:
    """Return the smallest space that all evaluated subnets are in; of `name`, the nearest to it.

    At their resolutions alone: a supernet may be trained at others, or at fewer.

    Raises PredictorError where there is none, SpaceError for an unknown name.
    """
    if name is not None:
        check_choice("space", name, SPACES, SpaceError)
    task, archs = evaluations.task, evaluations.archs
    num_classes = getattr(archs[0].head, "num_classes", None)
    sizes = sorted({arch.resolution for arch in archs})
    only = f"resolution={','.join(map(format_resolution, sizes))}"
    without_all: list[Space] = []  # of the task, but some subnet is outside
    for dataset in sorted(DATASETS[task], key=lambda name: name != evaluations.dataset):
        for choice in [name] if name else ("tiny", "b", "l", "family", "all"):
            for nearest_head in (True, False) if task == "classification" else (True,):
                try:
                    space = get_space(
                        choice,
                        task=task,
                        dataset=dataset,
                        nearest_head=nearest_head,
                        num_classes=num_classes,
                    )
                except SpaceError:  # no network for the task
                    continue
                if all(arch in space for arch in archs):
                    return space if len(sizes) == len(space.resolutions) else space.freeze([only])
                if all(arch in (fits := space.at_resolutions(sizes)) for arch in archs):
                    return fits
                without_all.append(space)
    if name is not None and without_all:
        return without_all[0]  # whoever fits names the line that is outside
    raise PredictorError(
        f"no space holds all {len(archs)} subnets of {evaluations.path}; search the one that "
        "they were drawn from, named by --space"
    )
