"""The official networks by name, and the head that a backbone gets when nobody says which.

Widths, depths and heads: https://github.com/mit-han-lab/efficientvit,
efficientvit/models/efficientvit/{backbone,cls,seg,sam}.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from results.errors import ArchError, check_choice, nearest, shown
from supernet.arch import (
    HEADED,
    Arch,
    ClassificationHead,
    Family,
    Head,
    LocalKind,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
    Task,
    attention_stages,
)
from supernet.blocks import Place, stage_blocks, stem_blocks
from supernet.cost import network_cost


def _stages(
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expand_ratios: tuple[int, ...],
    locals_: tuple[LocalKind, ...],
) -> tuple[Stage, ...]:
    return tuple(
        Stage(width, depth, expand_ratio, local=local)
        for width, depth, expand_ratio, local in zip(
            widths, depths, expand_ratios, locals_, strict=True
        )
    )


def _attending(
    family: Family, stages: tuple[Stage, ...], scale: int, head_dim: int
) -> tuple[Stage, ...]:
    """Return the stages with multi-scale linear attention where the family has attention."""
    attention = attention_stages(family, len(stages))
    return tuple(
        replace(stage, mixer="relu_linear", scales=(scale,), head_dim=head_dim)
        if number in attention
        else stage
        for number, stage in enumerate(stages, start=1)
    )


def _b(stem: int, widths: tuple[int, ...], depths: tuple[int, ...], head_dim: int) -> Arch:
    stages = _stages(widths, depths, (4,) * 4, ("mbconv",) * 4)
    return Arch("b", (224, 224), Stem(stem, 1), _attending("b", stages, 5, head_dim))


def _l(stem: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> Arch:
    kinds: tuple[LocalKind, ...] = ("fused_mbconv", "fused_mbconv", "mbconv", "mbconv")
    stages = _stages(widths, depths, (4, 4, 4, 6), kinds)
    return Arch("l", (224, 224), Stem(stem, 1), _attending("l", stages, 5, 32))


def _xl(stem_depth: int, depths: tuple[int, ...]) -> Arch:
    kinds: tuple[LocalKind, ...] = (*("fused_mbconv",) * 3, "mbconv", "mbconv")
    stages = _stages((64, 128, 256, 512, 1024), depths, (4, 4, 4, 4, 6), kinds)
    return Arch("l", (1024, 1024), Stem(32, stem_depth), _attending("l", stages, 3, 32))


# https://github.com/mit-han-lab/efficientvit, models/efficientvit/{backbone,sam}.py
BACKBONES: dict[str, Arch] = {
    "b0": _b(8, (16, 32, 64, 128), (2, 2, 2, 2), 16),
    "b1": _b(16, (32, 64, 128, 256), (2, 3, 3, 4), 16),
    "b2": _b(24, (48, 96, 192, 384), (3, 4, 4, 6), 32),
    "b3": _b(32, (64, 128, 256, 512), (4, 6, 6, 9), 32),
    "l0": _l(32, (64, 128, 256, 512), (1, 1, 4, 4)),
    "l1": _l(32, (64, 128, 256, 512), (1, 1, 6, 6)),
    "l2": _l(32, (64, 128, 256, 512), (2, 2, 8, 8)),
    "l3": _l(64, (128, 256, 512, 1024), (2, 2, 8, 8)),
}
BACKBONES |= {f"sam_{name}": BACKBONES[name] for name in ("l0", "l1", "l2")}
BACKBONES |= {"sam_xl0": _xl(0, (1, 1, 2, 3, 3)), "sam_xl1": _xl(1, (2, 2, 4, 6, 6))}

CLASSIFICATION_HEADS: dict[str, ClassificationHead] = {
    "b0": ClassificationHead((1024, 1280)),
    "b1": ClassificationHead((1536, 1600)),
    "b2": ClassificationHead((2304, 2560)),
    "b3": ClassificationHead((2304, 2560)),
    "l1": ClassificationHead((3072, 3200)),
    "l2": ClassificationHead((3072, 3200)),
    "l3": ClassificationHead((6144, 6400)),
}
SEGMENTATION_HEADS: dict[str, dict[str, SegmentationHead]] = {
    "cityscapes": {
        "b0": SegmentationHead(32, 1, 4, "mbconv", 4, 19),
        "b1": SegmentationHead(64, 3, 4, "mbconv", 4, 19),
        "b2": SegmentationHead(96, 3, 4, "mbconv", 4, 19),
        "b3": SegmentationHead(128, 3, 4, "mbconv", 4, 19),
        "l1": SegmentationHead(256, 3, 1, "fused_mbconv", 0, 19),
        "l2": SegmentationHead(256, 5, 1, "fused_mbconv", 0, 19),
    },
    "ade20k": {
        "b1": SegmentationHead(64, 3, 4, "mbconv", 0, 150),
        "b2": SegmentationHead(96, 3, 4, "mbconv", 0, 150),
        "b3": SegmentationHead(128, 3, 4, "mbconv", 0, 150),
        "l1": SegmentationHead(128, 3, 4, "fused_mbconv", 8, 150),
        "l2": SegmentationHead(128, 3, 4, "fused_mbconv", 8, 150),
    },
}
PROMPTABLE_HEADS: dict[str, PromptableHead] = {
    "sam_l0": PromptableHead(4, 1),
    "sam_l1": PromptableHead(8, 1),
    "sam_l2": PromptableHead(12, 1),
    "sam_xl0": PromptableHead(6, 4),
    "sam_xl1": PromptableHead(12, 4),
}
SR_WIDTHS, SR_DEPTHS, SR_HEAD_DEPTH = (64, 128, 192, 256), (4, 6, 6, 6), 13


def _sr(width_factor: float, scale: int) -> Arch:
    """Return a network of ours: the paper names two sizes and their latencies alone.

    Taken from its text: EfficientViT's backbone with attention in stages 3 and 4, and a head
    that adds the stages up, runs MBConvs and then the output layer. Ours: a stem of stride 1
    and a head at full resolution that reads all stages, since pixels are the output; sub-pixel
    output on top of the bicubic picture; widths and depths, chosen such that the calibrated
    A100 table predicts the two sizes' published latencies (Table 5).
    """

    def width(channels: int) -> int:
        return round(channels * width_factor)

    widths = tuple(width(channels) for channels in SR_WIDTHS)
    stages = _stages(widths, SR_DEPTHS, (4,) * 4, ("mbconv",) * 4)
    stages = _attending("b", stages, 5, 16)
    head = SuperResolutionHead(width(64), SR_HEAD_DEPTH, 4, scale)
    return Arch("b", (256, 256), Stem(width(64), 2, stride=1), stages, head)


SUPER_RESOLUTION: dict[str, Arch] = {
    "sr_x2": _sr(1.0, 2),
    "sr_x4": _sr(1.0, 4),
    "sr_w075_x2": _sr(0.75, 2),
    "sr_w075_x4": _sr(0.75, 4),
}
NAMES = (*BACKBONES, *SUPER_RESOLUTION)

DATASETS: dict[Task, tuple[str, ...]] = {  # the first is the task's default
    "classification": ("imagenet",),
    "segmentation": ("cityscapes", "ade20k"),
    "promptable": ("sa1b",),
    "super_resolution": (),  # no published network to take a head from
}
ALL_DATASETS = tuple(dataset for datasets in DATASETS.values() for dataset in datasets)


# timm's names: efficientvit_b1.r224_in1k
_NAME = re.compile(
    r"(?:(?:timm|mit_han_lab)/)?(?:efficientvit_)?(?P<name>\w+?)"
    r"(?:_r(?P<side>\d{2,4})|\.(?:r(?P<tag>\d{2,4})_)?in\d+k?(?:_\w+)*)?",
    re.ASCII,
)
_MICROSOFT = re.compile(r"(?:efficientvit[_-]?)?m[0-5](?:[._].*)?", re.IGNORECASE)


def known_name(text: str) -> tuple[str, tuple[int, int] | None] | None:
    """Return the one of NAMES that `text` is, and the resolution that it tells; None: it is none.

    Read are capital letters, hyphens, the prefix `efficientvit_`, timm's tags, and the
    resolutions in the names of official files.

    >>> known_name("timm/efficientvit_b1.r288_in1k"), known_name("EfficientViT-B1")
    (('b1', (288, 288)), ('b1', None))
    >>> known_name("b1-r288"), known_name("b9")
    (('b1', (288, 288)), None)
    """
    match = _NAME.fullmatch(text.strip().lower().replace("-", "_"))
    if match is None or match["name"] not in NAMES:
        return None
    side = int(match["side"] or match["tag"] or 0)
    return match["name"], (side, side) if side else None


def refuse_other_family(text: str) -> None:
    """Raise ArchError for the names of another EfficientViT, of which there is nothing here."""
    if _MICROSOFT.fullmatch(text.strip()):
        raise ArchError(
            f"{shown(text)} is of Microsoft's EfficientViT (m0 to m5, CVPR 2023), another family "
            "of networks; this project has MIT's: b0 to b3, l0 to l3 and what is built alike"
        )


ENLARGED = ("x2", "x4")  # super-resolution needs no labels, so its data sets are scales
PIXELS = "pixels"  # pre-training needs no labels, so any pictures are its data set


def check_task(text: str) -> Task:
    """Return `text` as a Task. Raises ArchError with the nearest one."""
    check_choice("task", text, DATASETS, ArchError)
    return next(task for task in DATASETS if task == text)


def dataset_of(task: Task, dataset: str | None) -> str:
    """Return `dataset`, or the task's default. Raises ArchError if the task has not this one."""
    if task == "pretrain":
        raise ArchError(
            "pretrain has no published figures and no device's table; it prepares an encoder for "
            f"another task (choose from {', '.join(DATASETS)})"
        )
    choices = DATASETS[task]
    if not choices:
        raise ArchError(
            f"{task}: the published figures hold two networks of unpublished shape, too few to "
            "search on; it waits for a trained supernet (choose another --task)"
        )
    if dataset is not None and dataset not in choices:
        raise ArchError(f"no dataset {dataset!r} for {task}{nearest(dataset, choices)}")
    return dataset or choices[0]


def heads_of(dataset: str) -> Mapping[str, Head]:
    """Return the official heads for a data set, by the name of their backbone.

    Those for PIXELS are ours; backbones are told apart as for ImageNet, where most go next.
    """
    if dataset == "imagenet":
        return CLASSIFICATION_HEADS
    if dataset in ENLARGED:
        return {name: arch.head for name, arch in _sr_of(dataset).items() if arch.head}
    if dataset == PIXELS:
        return dict.fromkeys(CLASSIFICATION_HEADS, ReconstructionHead())
    return PROMPTABLE_HEADS if dataset == "sa1b" else SEGMENTATION_HEADS[dataset]


def with_nearest_head(arch: Arch, dataset: str, num_classes: int | None = None) -> Arch:
    """Give `arch` the head (and in family b the head dim) of the nearest official network.

    Nearest in backbone parameters, among those of its family and number of stages that have
    such a head; parameters are counted at head dim 16, so that the rule is idempotent.

    Raises ArchError if the family has no such head.
    """
    official = _params_by_name(arch.family, len(arch.stages), dataset)
    params = params_at_head_dim_16(arch)
    name = min(official, key=lambda name: abs(official[name] - params))
    stages = arch.stages
    if arch.family == "b":
        head_dim = official_arch(name).stages[-1].head_dim
        stages = tuple(_at_head_dim(stage, head_dim) for stage in stages)
    return with_head(arch, _head_of(name, dataset, num_classes), stages)


@lru_cache
def _head_of(name: str, dataset: str, num_classes: int | None) -> Head:
    head = heads_of(dataset)[name]
    if num_classes is not None and isinstance(head, ClassificationHead | SegmentationHead):
        return replace(head, num_classes=num_classes)
    return head


def with_head(arch: Arch, head: Head | None, stages: tuple[Stage, ...] | None = None) -> Arch:
    """Return `arch` with `head`, the stride of the stem that goes with it, and `stages` if any."""
    stride = 1 if isinstance(head, SuperResolutionHead) else 2
    stem = arch.stem if arch.stem.stride == stride else replace(arch.stem, stride=stride)
    return Arch(arch.family, arch.resolution, stem, stages or arch.stages, head)


def official_arch(name: str) -> Arch:
    """Return the network of that name, of super-resolution with its head, else its backbone."""
    return SUPER_RESOLUTION[name] if name in SUPER_RESOLUTION else BACKBONES[name]


def named_params(arch: Arch, dataset: str) -> dict[str, int]:
    """Return backbone parameters of the official networks whose head `arch` could get, by name.

    Raises ArchError if the family has no such head.
    """
    return dict(_params_by_name(arch.family, len(arch.stages), dataset))


@lru_cache
def _params_by_name(family: Family, num_stages: int, dataset: str) -> dict[str, int]:
    names = [
        name
        for name in heads_of(dataset)
        if official_arch(name).family == family
        and (dataset in ("imagenet", PIXELS) or len(official_arch(name).stages) == num_stages)
    ]
    if not names:
        other = "b" if dataset in ENLARGED else "l"
        raise ArchError(f"family {family} has no official head for {dataset}; try family {other}")
    return {name: _named_params(name) for name in names}


def named_arch(
    name: str,
    *,
    task: Task | None = None,
    dataset: str | None = None,
    resolution: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Arch:
    """Return a network with the head for a task; L0's classification head is L1's, ours.

    `name` as for `known_name`; `resolution` goes before the one that it tells.

    Raises ArchError for an unknown name, or a task that the family has no head for.
    """
    named = known_name(name)
    if named is None:
        refuse_other_family(name)
        raise ArchError(f"no arch {shown(name)}{nearest(name.lower(), NAMES)}")
    name, resolution = named[0], resolution or named[1]
    if name in SUPER_RESOLUTION:
        if task not in (None, "super_resolution") or dataset or num_classes:
            raise ArchError(f"{name} does super_resolution alone, and has no data set or classes")
        arch = SUPER_RESOLUTION[name]
        return replace(arch, resolution=resolution or arch.resolution)
    if task == "super_resolution":
        others = ", ".join(SUPER_RESOLUTION)
        raise ArchError(f"{name} does no super_resolution; choose from {others}, or a JSON file")
    task = task or ("promptable" if name.startswith("sam_") else "classification")
    dataset = dataset_of(task, dataset)
    arch = BACKBONES[name]
    if resolution is None:
        if dataset == "sa1b":
            resolution = (512, 512) if len(arch.stages) == 4 else (1024, 1024)
        else:
            resolution = DEFAULT_RESOLUTIONS[dataset]
    return with_nearest_head(replace(arch, resolution=resolution), dataset, num_classes)


DEFAULT_RESOLUTIONS: dict[str, tuple[int, int]] = {
    "imagenet": (224, 224),
    "cityscapes": (1024, 2048),
    "ade20k": (512, 512),
}


_ANY_SIZE = (32, 32)  # of a picture: no parameter depends on it


@lru_cache(maxsize=1 << 14)
def _at_head_dim(stage: Stage, head_dim: int) -> Stage:
    return replace(stage, head_dim=head_dim) if stage.mixer in HEADED else stage


def params_at_head_dim_16(arch: Arch) -> int:
    """Return the backbone parameters by which `with_nearest_head` compares networks."""
    params = _stem_params(arch.family, arch.stem)
    before = arch.stem.width
    for number, stage in enumerate(arch.stages, start=1):
        place = Place(arch.family, len(arch.stages), number)
        params += _stage_params(place, stage, before)
        before = stage.width
    return params


@lru_cache
def _stem_params(family: Family, stem: Stem) -> int:
    return network_cost(stem_blocks(family, stem, _ANY_SIZE)).params


@lru_cache(maxsize=1 << 14)
def _stage_params(place: Place, stage: Stage, in_channels: int) -> int:
    stage = _at_head_dim(stage, 16) if place.family == "b" else stage
    return network_cost(stage_blocks(place, stage, in_channels, _ANY_SIZE)).params


@lru_cache
def _named_params(name: str) -> int:
    return params_at_head_dim_16(official_arch(name))


def _sr_of(dataset: str) -> dict[str, Arch]:
    return {name: arch for name, arch in SUPER_RESOLUTION.items() if name.endswith(dataset)}
