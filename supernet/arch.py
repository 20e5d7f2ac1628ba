"""An architecture is a value: frozen, hashable, JSON in and out.

Nothing here knows how a network is put together (`supernet.blocks` does) or which
choices a search may make (`supernet.space` does).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from results.errors import ArchError, check_choice, nearest, reason_of, shown

Family = Literal["b", "l"]
LocalKind = Literal[
    "mbconv",  # 1x1, depthwise, 1x1
    "fused_mbconv",  # k x k, 1x1
    "resblock",  # k x k, k x k
    "dsconv",  # depthwise, 1x1
]
MixerKind = Literal[
    "relu_linear",  # multi-scale LiteMLA
    "softmax",
    "hyena",
    "retention",
    "rwkv",
]
Mixer = Literal[MixerKind, "none"]
Task = Literal["classification", "segmentation", "super_resolution", "promptable", "pretrain"]

LOCAL_KINDS: tuple[str, ...] = get_args(LocalKind)
MIXER_KINDS: tuple[str, ...] = get_args(MixerKind)
MIXERS: tuple[str, ...] = get_args(Mixer)
UNEXPANDED: tuple[LocalKind, ...] = ("resblock", "dsconv")  # no hidden width, so expand_ratio is 1
MAX_CHANNELS, MAX_DEPTH, MAX_EXPAND, MAX_KERNEL, MAX_SIDE = 1_000_000, 1000, 100, 99, 65_536
HEADED: tuple[Mixer, ...] = ("relu_linear", "softmax", "retention")  # have attention heads


@dataclass(frozen=True, slots=True)
class Stage:
    """One resolution of the backbone: a downsampling block and the blocks after it.

    Fields that the mixer or the local block gives no meaning to have one canonical value
    (scales (), head_dim 0, expand_ratio 1), so that equal networks are equal Archs.
    """

    width: int  # output channels
    depth: int  # as in the official lists; stages with their own downsampling block have one more
    expand_ratio: int = 4  # hidden / input channels of the local blocks
    kernel_size: int = 3  # of the local blocks' spatial convolution
    local: LocalKind = "mbconv"
    mixer: Mixer = "none"
    scales: tuple[int, ...] = ()  # kernel of each extra branch of multi-scale LiteMLA
    head_dim: int = 0

    def __post_init__(self) -> None:
        _check_range("stage width", self.width, 1, MAX_CHANNELS)
        _check_range("stage depth", self.depth, 1, MAX_DEPTH)
        _check_range("expand_ratio", self.expand_ratio, 1, MAX_EXPAND)
        _check_range("head_dim", self.head_dim, 0, MAX_CHANNELS)
        for size in (self.kernel_size, *self.scales):
            _check_range("kernel_size and scales", size, 1, MAX_KERNEL)
            if size % 2 == 0:
                raise ArchError(f"kernel_size and scales must be odd: {self}")
        if list(self.scales) != sorted(set(self.scales)):
            raise ArchError(f"scales must be different and in ascending order: {self}")
        check_choice("local", self.local, LOCAL_KINDS, ArchError)
        check_choice("mixer", self.mixer, MIXERS, ArchError)
        if self.local in UNEXPANDED and self.expand_ratio != 1:
            raise ArchError(f"{self.local} has no expansion, expand_ratio must be 1: {self}")
        if self.mixer != "relu_linear" and self.scales:
            raise ArchError(f"only relu_linear has scales: {self}")
        if (self.mixer in HEADED) != (self.head_dim > 0):
            raise ArchError(f"head_dim must be positive with {', '.join(HEADED)}, else 0: {self}")
        if self.head_dim and self.width % self.head_dim:
            raise ArchError(f"head_dim must divide width: {self}")


@dataclass(frozen=True, slots=True)
class Stem:
    """The first convolution (3x3) and `depth` residual blocks at its resolution."""

    width: int  # output channels
    depth: int = 1  # DSConv in family b, ResBlock in family l; 0 in SAM-XL0
    stride: int = 2  # of the convolution; 1 where every pixel counts, in super-resolution

    def __post_init__(self) -> None:
        _check_range("stem stride", self.stride, 1, 2)
        _check_range("stem width", self.width, 1, MAX_CHANNELS)
        _check_range("stem depth", self.depth, 0, MAX_DEPTH)


@dataclass(frozen=True, slots=True)
class ClassificationHead:
    """1x1 convolution, global pool, linear + layer norm, linear."""

    widths: tuple[int, int]  # channels of the convolution, features of the first linear
    num_classes: int = 1000
    task: ClassVar[Task] = "classification"

    def __post_init__(self) -> None:
        if len(self.widths) != 2:
            raise ArchError(f"a classification head has two widths, not {self.widths}")
        for width in self.widths:
            _check_range("head width", width, 1, MAX_CHANNELS)
        _check_range("num_classes", self.num_classes, 1, MAX_CHANNELS)


@dataclass(frozen=True, slots=True)
class SegmentationHead:
    """Fuses stages 4, 3 and 2 at stride 8; `depth` residual blocks, then the classifier."""

    width: int
    depth: int
    expand_ratio: int
    local: Literal["mbconv", "fused_mbconv"]
    final_expand: int  # hidden / input channels before the classifier; 0: no such layer
    num_classes: int
    upsample: Literal["bicubic", "bilinear"] = "bicubic"
    task: ClassVar[Task] = "segmentation"

    def __post_init__(self) -> None:
        _check_range("head width", self.width, 1, MAX_CHANNELS)
        _check_range("head depth", self.depth, 0, MAX_DEPTH)
        _check_range("head expand_ratio", self.expand_ratio, 1, MAX_EXPAND)
        _check_range("final_expand", self.final_expand, 0, MAX_EXPAND)
        _check_range("num_classes", self.num_classes, 1, MAX_CHANNELS)
        check_choice("local", self.local, ("mbconv", "fused_mbconv"), ArchError)
        check_choice("upsample", self.upsample, ("bicubic", "bilinear"), ArchError)


@dataclass(frozen=True, slots=True)
class PromptableHead:
    """EfficientViT-SAM's neck: fuses the last three stages at 64x64, then 256 channels."""

    depth: int
    expand_ratio: int
    width: int = 256
    out_channels: int = 256
    size: int = 64  # height and width of the image embedding
    task: ClassVar[Task] = "promptable"

    def __post_init__(self) -> None:
        _check_range("head width", self.width, 1, MAX_CHANNELS)
        _check_range("head depth", self.depth, 0, MAX_DEPTH)
        _check_range("head expand_ratio", self.expand_ratio, 1, MAX_EXPAND)
        _check_range("out_channels", self.out_channels, 1, MAX_CHANNELS)
        _check_range("size", self.size, 1, MAX_SIDE)


@dataclass(frozen=True, slots=True)
class SuperResolutionHead:
    """Fuses the stem and all stages at the stem's size; MBConvs, then `scale` times the pixels.

    What the pixels hold is added to the picture enlarged by bicubic interpolation.
    """

    width: int
    depth: int
    expand_ratio: int
    scale: int
    task: ClassVar[Task] = "super_resolution"

    def __post_init__(self) -> None:
        _check_range("head width", self.width, 1, MAX_CHANNELS)
        _check_range("head depth", self.depth, 0, MAX_DEPTH)
        _check_range("head expand_ratio", self.expand_ratio, 1, MAX_EXPAND)
        _check_range("scale", self.scale, 2, 8)


@dataclass(frozen=True, slots=True)
class ReconstructionHead:
    """One 1x1 convolution from the last stage to the pixels below each of its positions.

    For pre-training on pictures without labels.

    Source: Xie et al., SimMIM, 2022, https://arxiv.org/abs/2111.09886
    """

    task: ClassVar[Task] = "pretrain"


Head = (
    ClassificationHead
    | SegmentationHead
    | PromptableHead
    | SuperResolutionHead
    | ReconstructionHead
)
_HEADS: dict[str, type[Head]] = {head.task: head for head in get_args(Head)}


@dataclass(frozen=True, slots=True)
class Arch:
    """One network: backbone, input resolution and head. Hashable, so it can be a dict key.

    The family fixes the activation (b: hard swish, l: tanh GELU), the stem's blocks, and
    which stages hold attention; the last two stages follow the fewer-norm rule (biases
    instead of normalisation on all but a block's last convolution).
    """

    family: Family
    resolution: tuple[int, int]  # input (height, width), pixels
    stem: Stem
    stages: tuple[Stage, ...]  # stage 1 first; four, or five in SAM-XL
    head: Head | None = None  # None: backbone only

    def __post_init__(self) -> None:
        check_choice("family", self.family, get_args(Family), ArchError)
        if len(self.stages) not in ((4,) if self.family == "b" else (4, 5)):
            raise ArchError(f"family {self.family} cannot have {len(self.stages)} stages")
        if len(self.resolution) != 2:
            raise ArchError(f"resolution is (height, width), not {self.resolution}")
        for side in self.resolution:
            _check_range("height and width", side, 32, MAX_SIDE)
        for number, stage in enumerate(self.stages, start=1):
            if number not in self.attention_stages and stage.mixer != "none":
                raise ArchError(f"stage {number} of family {self.family} holds no attention")
        enlarges = isinstance(self.head, SuperResolutionHead)
        if self.head and enlarges != (self.stem.stride == 1):
            raise ArchError("super-resolution has a stem of stride 1, all other tasks of stride 2")
        if isinstance(self.head, SegmentationHead) and any(side % 32 for side in self.resolution):
            raise ArchError(
                f"segmentation needs a height and width divisible by 32, not "
                f"{format_resolution(self.resolution)}"
            )
        stride = self.stride
        if isinstance(self.head, ReconstructionHead) and any(s % stride for s in self.resolution):
            raise ArchError(
                f"pre-training needs a height and width divisible by {stride}, not "
                f"{format_resolution(self.resolution)}"
            )

    @property
    def stride(self) -> int:
        """Return the input pixels per position of the last stage, a side."""
        return int(self.stem.stride * 2 ** len(self.stages))

    @property
    def attention_stages(self) -> tuple[int, ...]:
        """Return the numbers of the stages that may hold a token mixer."""
        return attention_stages(self.family, len(self.stages))

    @property
    def task(self) -> Task:
        """Return the head's task; without a head classification."""
        return self.head.task if self.head else "classification"

    @property
    def norm_eps(self) -> float:
        """Return the epsilon of every normalisation; official checkpoints do not carry it."""
        if isinstance(self.head, PromptableHead):
            return 1e-6
        return 1e-5 if self.family == "b" else 1e-7

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON's types would hold them, and the head's task beside its own."""
        return {  # `asdict` takes ten times as long, and a front has thousands of networks
            "family": self.family,
            "resolution": self.resolution,
            "stem": _fields(self.stem),
            "stages": tuple(map(_fields, self.stages)),
            "head": {"task": self.head.task, **_fields(self.head)} if self.head else None,
        }

    def to_json(self) -> str:
        """Return one line of JSON, keys in the order of the fields."""
        return _ENCODER.encode(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Arch":
        """Read what `to_dict` gives. Raises ArchError where `data` describes no network."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            name = min(unknown)
            raise ArchError(
                f"not an architecture: {shown(name)}{nearest(name, cls.__dataclass_fields__)}"
            )
        try:
            head = data.get("head")
            return cls(
                family=data["family"],
                resolution=_ints({"resolution": data["resolution"]})["resolution"],
                stem=Stem(**_ints(data["stem"])),
                stages=tuple(Stage(**_ints(stage)) for stage in data["stages"]),
                head=_head_from(head) if head else None,
            )
        except KeyError as error:
            raise ArchError(f"not an architecture: {error} is missing") from None
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ArchError(f"not an architecture: {reason_of(error)}") from None

    @classmethod
    def from_json(cls, text: str) -> "Arch":
        """Read what `to_json` gives. Raises ArchError."""
        from results.reading import parse_json  # which a target need not have

        data = parse_json(text, dict[str, Any], "not an architecture", error=ArchError)
        return cls.from_dict(data)

    def describe(self) -> str:
        """Return a short text; every stage is width x depth, then what differs from k3 e4."""
        head = ""
        if isinstance(self.head, ClassificationHead):
            head = " head " + "+".join(map(str, self.head.widths))
        elif isinstance(self.head, SuperResolutionHead):
            head = f" head {self.head.width}x{self.head.depth} times {self.head.scale}"
        elif isinstance(self.head, ReconstructionHead):
            head = " head pixels"
        elif self.head:
            head = f" head {self.head.width}x{self.head.depth}"
        stages = " ".join(_describe_stage(stage) for stage in self.stages)
        return f"{self.family} {self.stem.width}x{self.stem.depth} {stages}{head}"


def canonical(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's fields, canonical where another field makes one meaningless."""
    stage = dict(stage)
    if stage["local"] in UNEXPANDED:
        stage["expand_ratio"] = 1
    if stage["mixer"] != "relu_linear":
        stage["scales"] = ()
    if stage["mixer"] not in HEADED:
        stage["head_dim"] = 0
    return stage


@lru_cache(maxsize=1 << 14)
def stage_of(*values: Any) -> Stage:
    """Return the canonical stage of these fields, in the order of `Stage`. Raises ArchError."""
    return Stage(**canonical(dict(zip(Stage.__dataclass_fields__, values, strict=True))))


def attention_stages(family: Family, num_stages: int) -> tuple[int, ...]:
    """Return the numbers of the stages that may hold a token mixer."""
    return (3, 4) if family == "b" else tuple(range(4, num_stages + 1))


def format_resolution(resolution: tuple[int, int]) -> str:
    """Return 224 for a square, else HEIGHTxWIDTH."""
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def parse_resolution(text: str) -> tuple[int, int]:
    """Read what `format_resolution` gives, as (height, width) in pixels. Raises ArchError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isascii() and p.isdecimal() and len(p) < 7 for p in parts):
        raise ArchError(f"resolution {shown(text)} is neither a side like 224 nor HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # `json.dumps` would make one each time


def _fields(value: Stem | Stage | Head) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__ if name != "task"}


def _describe_stage(stage: Stage) -> str:
    text = f"{stage.width}x{stage.depth}e{stage.expand_ratio}"
    if stage.kernel_size != 3:
        text += f"k{stage.kernel_size}"
    if stage.local != "mbconv":
        letters = {"fused_mbconv": "f", "resblock": "r", "dsconv": "d"}
        text += letters.get(stage.local, f"+{stage.local}")
    if stage.mixer == "relu_linear":
        text += "+lin" + ",".join(map(str, (1, *stage.scales)))
    elif stage.mixer != "none":
        text += f"+{stage.mixer}"
    return text


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ArchError(f"{name} must be from {least} to {most}, not {shown(value)}")


def _ints(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON's lists as tuples. Raises ValueError for numbers that are no integers."""
    converted: dict[str, Any] = {}
    for name, value in fields.items():
        value = tuple(value) if isinstance(value, list) else value
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, str) and type(number) is not int:
                raise ValueError(f"{name} must be whole numbers or a name, not {shown(value)}")
        converted[name] = value
    return converted


def _head_from(data: Mapping[str, Any]) -> Head:
    fields = dict(data)
    task = fields.pop("task")
    check_choice("task", task, tuple(_HEADS), ArchError)
    return _HEADS[task](**_ints(fields))
