"""The official networks that a front is compared with."""

from predictors.accuracy import published_resolutions
from supernet.arch import Arch, Task, format_resolution
from supernet.official import named_arch
from supernet.space import Space


def official_archs(space: Space, task: Task, dataset: str) -> dict[str, Arch]:
    """Return the official networks that are in a space, by name and resolution: "b1@224".

    At their published resolutions, or where none of those is in the space, at the nearest one
    that is.
    """
    archs = {}
    for name, resolutions in published_resolutions(dataset).items():
        inside: dict[tuple[int, int], Arch] = {}
        for resolution in [*resolutions, *space.resolutions]:
            arch = named_arch(
                name,
                task=task,
                dataset=dataset,
                resolution=resolution,
                num_classes=space.num_classes,
            )
            if arch in space:
                inside[resolution] = arch
        kept = [r for r in resolutions if r in inside]
        if inside and not kept:
            kept = [min(inside, key=lambda r: min(abs(r[0] - p[0]) for p in resolutions))]
        for resolution in kept:
            archs[f"{name}@{format_resolution(resolution)}"] = inside[resolution]
    return archs
