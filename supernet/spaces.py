"""The catalogue of search spaces by name, for a task: `get_space`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from results.errors import SpaceError, check_choice
from supernet.arch import LOCAL_KINDS, MIXERS, Arch, Task, attention_stages
from supernet.official import (
    BACKBONES,
    DATASETS,
    ENLARGED,
    PIXELS,
    dataset_of,
    heads_of,
    named_arch,
)
from supernet.space import Freeze, Part, Space, SpaceSpec, Value, of_head

SPACES = ("family", "b", "l", "all", "tiny")
DEFAULT_SPACE = "family"  # of commands
RESOLUTIONS: dict[str, tuple[Value, ...]] = {  # replace a space's own for a dense task
    "cityscapes": tuple((h, 2 * h) for h in (512, 768, 896, 960, 1024, 1184)),
    "ade20k": tuple((side, side) for side in (384, 448, 480, 512)),
    "sa1b": ((512, 512), (1024, 1024)),
}


def get_space(
    name: str,
    *,
    task: Task = "classification",
    dataset: str | None = None,
    freeze: Sequence[str] = (),
    nearest_head: bool = True,
    num_classes: int | None = None,
) -> Space:
    """Return a space by name, for a task.

    Args:
        freeze: settings for `Space.freeze`.
        nearest_head: give every Arch the head (and in family b the head dim) of the nearest
            official network, but for what `freeze` sets, instead of searching them; dense tasks
            always do.

    Raises SpaceError for an unknown name or setting, and where the task has no such family.
    """
    check_choice("space", name, SPACES, SpaceError)
    frozen = tuple(map(Freeze.parse, freeze))
    return make_space(SpaceSpec(name, task, dataset, frozen, nearest_head, num_classes))


def make_space(spec: SpaceSpec) -> Space:
    """Return the space that is asked for. Raises as `get_space`."""
    check_choice("space", spec.name, SPACES, SpaceError)
    name, task = spec.name, spec.task
    dataset = _heads_from(task, spec.dataset)
    parts = _PARTS[name]()
    if dataset in RESOLUTIONS:
        own = {"resolution": RESOLUTIONS[dataset]}
        parts = [replace(p, dimensions=p.dimensions | own) for p in parts]
    if dataset == "sa1b" or dataset in ENLARGED:
        family = "l" if dataset == "sa1b" else "b"
        parts = [part for part in parts if part.family == family]
        if not parts:
            raise SpaceError(f"space {name} has no network for {task}; choose --space {family}")
    if dataset == "sa1b":
        parts.append(_xl(name == "all"))
    by_nearest_head = spec.nearest_head or task != "classification"
    if by_nearest_head:
        asked = {freeze.dimension for freeze in spec.freeze}
        parts = [_without_head(part, asked, task == "classification") for part in parts]
    space = Space(
        name,
        tuple(parts),
        dataset if by_nearest_head else None,
        spec.num_classes,
        replace(spec, freeze=(), resolutions=()),
    )
    if spec.resolutions:
        space = space.at_resolutions(spec.resolutions)
    return space.keep(spec.freeze)


def official_networks(
    part: Part,
    dataset: str,
    resolutions: Iterable[tuple[int, int]],
    most_names: int | None = None,
) -> list[Arch]:
    """Return the official networks of a data set that are of a part's family and stages.

    By name, each at all resolutions; of the first `most_names` names, None: of all.
    """
    task = next(task for task, datasets in DATASETS.items() if dataset in datasets)
    alike = [
        name
        for name in heads_of(dataset)
        if BACKBONES[name].family == part.family
        and len(BACKBONES[name].stages) == len(part.reference.stages)
    ]
    sizes = tuple(dict.fromkeys(resolutions))
    return [
        named_arch(name, task=task, dataset=dataset, resolution=resolution)
        for name in alike[:most_names]
        for resolution in sizes
    ]


def _heads_from(task: Task, dataset: str | None) -> str:
    """Return what `Space.dataset` names; super-resolution doubles height and width by default."""
    if task == "pretrain":
        return PIXELS
    if task != "super_resolution":
        return dataset_of(task, dataset)
    check_choice("dataset", dataset or ENLARGED[0], ENLARGED, SpaceError)
    return dataset or ENLARGED[0]


def _without_head(part: Part, asked: set[str], classification: bool) -> Part:
    """Leave head and head dims to the nearest official network, but for those asked for."""
    searched = {
        name: choices
        for name, choices in part.dimensions.items()
        if not of_head(name) or (name in asked and (classification or name != "head.widths"))
    }
    return replace(part, dimensions=searched)


_SCALES: tuple[Value, ...] = ((), (3,), (5,), (3, 5))


@dataclass(frozen=True)
class _Choices:
    """What the networks of one family may have; widths and depths by stage."""

    resolutions: tuple[Value, ...]
    stem_widths: tuple[Value, ...]
    stem_depths: tuple[Value, ...]
    widths: tuple[tuple[Value, ...], ...]
    depths: tuple[tuple[Value, ...], ...]
    expand_ratios: tuple[Value, ...]
    kernel_sizes: tuple[Value, ...]
    head_dims: tuple[Value, ...]
    head_widths: tuple[Value, ...]


def _range(first: int, last: int, step: int = 1) -> tuple[Value, ...]:
    return tuple(range(first, last + 1, step))


def _squares(first: int, last: int) -> tuple[Value, ...]:
    return tuple((side, side) for side in range(first, last + 1, 32))


def _part(name: str, reference: Arch, choices: _Choices, every_block: bool) -> Part:
    """Return a part; `every_block`: with all kinds of local blocks and mixers to choose from."""
    dimensions: dict[str, tuple[Value, ...]] = {"resolution": choices.resolutions}
    dimensions["stem.width"] = choices.stem_widths
    dimensions["stem.depth"] = choices.stem_depths
    attention = attention_stages(reference.family, len(reference.stages))
    for number, stage in enumerate(reference.stages, start=1):
        key = f"stage{number}"
        dimensions[f"{key}.width"] = choices.widths[number - 1]
        dimensions[f"{key}.depth"] = choices.depths[number - 1]
        dimensions[f"{key}.expand_ratio"] = choices.expand_ratios
        dimensions[f"{key}.kernel_size"] = choices.kernel_sizes
        dimensions[f"{key}.local"] = LOCAL_KINDS if every_block else (stage.local,)
        if number in attention:
            dimensions[f"{key}.mixer"] = MIXERS if every_block else ("relu_linear",)
            dimensions[f"{key}.scales"] = _SCALES
            dimensions[f"{key}.head_dim"] = choices.head_dims
    dimensions["head.widths"] = choices.head_widths
    return Part(name, reference, dimensions)


def _b(every_block: bool = False) -> Part:
    choices = _Choices(
        resolutions=_squares(128, 320),
        stem_widths=(8, 16, 24, 32),
        stem_depths=(1, 2),
        widths=(
            (16, 24, 32, 48, 64),
            (32, 48, 64, 96, 128),
            (64, 96, 128, 192, 256),
            (128, 192, 256, 384, 512),
        ),
        depths=(_range(1, 4), _range(1, 6), _range(1, 6), _range(1, 9)),
        expand_ratios=(3, 4, 6),
        kernel_sizes=(3, 5, 7),
        head_dims=(16, 32),
        head_widths=((1024, 1280), (1536, 1600), (2304, 2560)),
    )
    return _part("b", BACKBONES["b1"], choices, every_block)


def _l(every_block: bool = False) -> Part:
    choices = _Choices(
        resolutions=_squares(160, 512),
        stem_widths=(32, 48, 64),
        stem_depths=(1,),
        widths=((64, 96, 128), (128, 192, 256), (256, 384, 512), (512, 768, 1024)),
        depths=(_range(1, 2), _range(1, 3), _range(2, 8), _range(2, 8)),
        expand_ratios=(4, 6),
        kernel_sizes=(3, 5),
        head_dims=(32,),
        head_widths=((3072, 3200), (6144, 6400)),
    )
    return _part("l", BACKBONES["l1"], choices, every_block)


def _xl(every_block: bool = False) -> Part:
    """Return the part around SAM-XL0 and XL1, whose fifth stage halves the resolution again."""
    choices = _Choices(
        resolutions=RESOLUTIONS["sa1b"][1:],
        stem_widths=(32, 48, 64),
        stem_depths=(0, 1),
        widths=((64, 96, 128), (128, 192, 256), (256, 384, 512), (512, 768), (1024,)),
        depths=(_range(1, 2), _range(1, 2), _range(2, 4), _range(3, 6), _range(3, 6)),
        expand_ratios=(4, 6),
        kernel_sizes=(3, 5),
        head_dims=(32,),
        head_widths=(),
    )
    return _part("xl", BACKBONES["sam_xl1"], choices, every_block)


def _tiny() -> Part:
    """Return 3,072 archs around B0's lower half, for tests and small pictures."""
    part = _b()
    fixed = {name: choices[:1] for name, choices in part.dimensions.items()}
    chosen: dict[str, tuple[Value, ...]] = {
        "resolution": ((64, 64), (96, 96)),
        "stage1.kernel_size": (3, 5),
        "stage2.width": (16, 32),
        "stage2.depth": (1, 2),
        "stage3.width": (32, 64),
        "stage3.depth": (1, 2),
        "stage3.mixer": ("relu_linear", "none"),
        "stage3.scales": ((), (5,)),
        "stage4.width": (64, 128),
        "stage4.depth": (1, 2),
        "stage4.mixer": ("relu_linear", "softmax", "none"),
        "stage4.scales": ((), (5,)),
    }
    expand: dict[str, tuple[Value, ...]] = {f"stage{n}.expand_ratio": (4,) for n in range(1, 5)}
    return Part("b", BACKBONES["b0"], fixed | expand | chosen)


_PARTS: dict[str, Callable[[], list[Part]]] = {
    "family": lambda: [_b(), _l()],
    "b": lambda: [_b()],
    "l": lambda: [_l()],
    "all": lambda: [_b(True), _l(True)],
    "tiny": lambda: [_tiny()],
}
