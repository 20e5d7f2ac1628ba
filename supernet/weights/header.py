"""What a weights file tells beside its tensors: read once, and handed to all that ask.

Ours carry it as texts in the metadata of a safetensors file; others tell nothing.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from results.errors import ArchError, SpaceError, WeightsError
from results.reading import Count, Finite, NotNegative, Record, parse_json
from supernet.arch import MAX_CHANNELS, MAX_SIDE, Arch, Task, format_resolution, parse_resolution
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.space import Freeze, Space, SpaceSpec
from supernet.spaces import make_space
from supernet.tasks.class_order import AS_TRAINED
from supernet.weights.beginning import is_safetensors, read_beginning
from supernet.weights.preprocessing import Preprocessing, Resize

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Resolution = tuple[int, int]
OURS = {"arch", "space"}  # one of them is in the metadata of every file that was written here
# Names that a user is unlikely to have given `save_weights` for metadata of their own.
PREPROCESSING, ACCURACY = "picture_preprocessing", "held_out_accuracy"
LEAST_SIDE, MOST_SIZES = 32, 1000

Epsilon = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Texts = Annotated[list[str], msgspec.Meta(max_length=1000)]
Colours = tuple[Finite, Finite, Finite]
Spreads = tuple[
    Annotated[float, msgspec.Meta(gt=0, le=1e6)],
    Annotated[float, msgspec.Meta(gt=0, le=1e6)],
    Annotated[float, msgspec.Meta(gt=0, le=1e6)],
]


class SpaceArguments(Record, frozen=True, forbid_unknown_fields=True):
    """The fields of a SpaceSpec, as a supernet's file has them."""

    name: str
    task: Task = "classification"
    dataset: str | None = None
    freeze: Texts = msgspec.field(default_factory=list)
    nearest_head: bool = True
    num_classes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHANNELS)] | None = None
    resolutions: Texts = msgspec.field(default_factory=list)

    def spec(self) -> SpaceSpec:
        """Return them parsed. Raises SpaceError or ArchError."""
        return SpaceSpec(
            self.name,
            self.task,
            self.dataset,
            tuple(map(Freeze.parse, self.freeze)),
            self.nearest_head,
            self.num_classes,
            tuple(map(parse_resolution, self.resolutions)),
        )


class PreprocessingRecord(Record, frozen=True):
    """`Preprocessing`, as a file has it."""

    mean: Colours
    std: Spreads
    interpolation: Literal["bicubic", "bilinear"]
    crop_pct: Annotated[float, msgspec.Meta(gt=0, le=1)]
    resize: Resize


class HeldOutFigure(Record, frozen=True):
    """What trained weights reach on held-out pictures, of a supernet its first largest subnet."""

    metric: str  # the task's primary one, such as top1
    value: Finite
    n: Count  # pictures
    dataset: str
    stderr: NotNegative | None = None


@dataclass(frozen=True)
class Extraction:
    """Which supernet a network was taken out of, and what its statistics were computed on."""

    supernet_sha256: str
    images: int | None = None
    batch: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file tells of itself. None and () where it does not say."""

    kind: Literal["network", "supernet"] = "network"
    arch: Arch | None = None  # of a network
    space: Space | None = None  # of a supernet, at the resolutions that it was trained at
    norm_eps: float | None = None
    kernel_transform: bool = False
    resolutions: tuple[Resolution, ...] = ()  # chosen instead of the arch's or the space's own
    classes: tuple[str, ...] = ()  # their names, in the order of the network's outputs
    preprocessing: Preprocessing | None = None
    steps: int | None = None  # of the training, of a subnet its supernet's
    seed: int | None = None
    num_train: int | None = None  # pictures trained on, where the user chose a number
    accuracy: HeldOutFigure | None = None
    extraction: Extraction | None = None  # of a subnet that was not trained since
    is_trained_here: bool = False  # by supernet.train, alone or as part of a supernet

    @property
    def is_ours(self) -> bool:
        """Tell whether this project wrote the file, by a command or `save_weights`."""
        return self.arch is not None or self.space is not None

    @property
    def provenance(self) -> Literal["trained", "supernet"] | None:
        """Return trained for weights that steps of training made for that network alone.

        supernet: they are shared, or were taken out of a supernet. None: the file does not say.
        """
        if self.kind == "supernet" or self.extraction is not None:
            return "supernet"
        return "trained" if self.steps else None

    @property
    def arch_as_trained(self) -> Arch | None:
        """Return the Arch of a network at the resolution trained at, the largest of several."""
        if self.arch is None or not self.resolutions:
            return self.arch
        return replace(self.arch, resolution=max(self.resolutions))

    @property
    def training(self) -> dict[str, Any]:
        """Return how long the weights were trained and what they reached then, for JSON.

        {"training": {"steps": ..., "accuracy": ...}}, without what the file does not say.
        """
        told: dict[str, Any] = {}
        if self.steps is not None:
            told["steps"] = self.steps
        if self.accuracy is not None:
            told["accuracy"] = msgspec.to_builtins(self.accuracy)
        return {"training": told} if told else {}

    def folder_order(self, asked: str | None) -> str | None:
        """Return the order of class folders for these weights, see `class_order.in_order`.

        `asked` is that of the user; where weights were trained here and name no classes, it is
        by default the one that they were trained with.
        """
        if asked is None and self.is_trained_here and not self.classes:
            return AS_TRAINED
        return asked

    def to_metadata(self) -> dict[str, str]:
        """Return as texts what a training tells: all but what follows from the model itself."""
        numbers = {"steps": self.steps, "seed": self.seed, "num_train": self.num_train}
        texts = {name: str(number) for name, number in numbers.items() if number is not None}
        texts |= classes_text(self.classes)
        if self.resolutions:
            texts["resolutions"] = ",".join(map(format_resolution, self.resolutions))
        if self.preprocessing:
            texts[PREPROCESSING] = json.dumps(asdict(self.preprocessing))
        if self.accuracy:
            texts[ACCURACY] = msgspec.json.encode(self.accuracy).decode()
        return texts


def read_header(path: Path | str) -> WeightsHeader:
    """Return what a weights file tells; of files that are not ours an empty header.

    Raises WeightsError where the file cannot be read, or is damaged.
    """
    path = Path(path)
    if not is_safetensors(path):
        return WeightsHeader()
    return _header(*read_beginning(path), path)


def header_of(
    metadata: Mapping[str, str], tensors: "Mapping[str, Tensor]", path: Path
) -> WeightsHeader:
    """Return the header in the metadata of a safetensors file; see `read_header`."""
    return _header(metadata, sum(tensor.numel() for tensor in tensors.values()), path)


def _header(metadata: Mapping[str, str], held: int, path: Path) -> WeightsHeader:
    """Return the header in the metadata of a file whose tensors have `held` numbers."""
    eps = _parsed(metadata, "norm_eps", Epsilon, path)
    if not OURS & metadata.keys():
        return WeightsHeader(norm_eps=eps)
    resolutions, steps = _resolutions(metadata, path), metadata.get("steps", "")
    is_supernet = "space" in metadata
    return WeightsHeader(
        kind="supernet" if is_supernet else "network",
        arch=None if is_supernet else _arch(metadata, held, path),
        space=_space(metadata, resolutions, path) if is_supernet else None,
        norm_eps=eps,
        kernel_transform=metadata.get("kernel_transform") == "true",
        resolutions=resolutions,
        classes=_classes(metadata, path),
        preprocessing=_preprocessing(metadata, path),
        steps=int(steps) if _is_whole(steps) else None,  # a user may have given any text
        seed=_number(metadata, "seed", path),
        num_train=_number(metadata, "num_train", path),
        accuracy=_parsed(metadata, ACCURACY, HeldOutFigure, path),
        extraction=None if is_supernet else _extraction(metadata, path),
        is_trained_here=bool({"steps", "supernet_sha256"} & metadata.keys()),
    )


def merged(own: Mapping[str, str], more: Mapping[str, object]) -> dict[str, str]:
    """Return a file's own metadata and a caller's `more`, as texts.

    Raises WeightsError for more under a name that is taken.
    """
    taken = sorted(own.keys() & more.keys())
    if taken:
        raise WeightsError(f"metadata cannot be named {taken[0]!r}, as the file has its own")
    return {**own, **{name: str(value) for name, value in more.items()}}


def classes_text(names: Sequence[str]) -> dict[str, str]:
    """Return names of classes as metadata; nothing where they are unknown."""
    return {"classes": json.dumps([as_text(name) for name in names])} if names else {}


def as_text(name: str) -> str:
    """Return a folder's name as text: bytes of it that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _parsed(metadata: Mapping[str, str], name: str, kind: type[T], path: Path) -> T | None:
    """Return the JSON under a name, of the type `kind`. Raises WeightsError."""
    text = metadata.get(name)
    where = f"{path} is damaged, or of another version: its {name}"
    return None if text is None else parse_json(text, kind, where, error=WeightsError)


def _arch(metadata: Mapping[str, str], held: int, path: Path) -> Arch:
    """Return the Arch of a network's file. Raises WeightsError where its tensors are too few."""
    try:
        arch = Arch.from_json(metadata["arch"])
    except ArchError as error:
        raise WeightsError(f"{path} is damaged: its metadata is {error}") from None
    params = network_cost(blocks_of(arch)).params
    if params > held:  # before anybody allocates them
        raise WeightsError(
            f"{path} is damaged: it holds {held:,} numbers, and says that they are a network "
            f"of {params:,} parameters"
        )
    return arch


def _space(metadata: Mapping[str, str], resolutions: tuple[Resolution, ...], path: Path) -> Space:
    arguments = _parsed(metadata, "space", SpaceArguments, path)
    assert arguments is not None
    try:
        space = make_space(arguments.spec())
        space = space.at_resolutions(resolutions) if resolutions else space
        _check_sizes(space.resolutions)
        return space
    except (SpaceError, ArchError) as error:
        raise WeightsError(
            f"{path} is damaged, or of another version: its space: {error}"
        ) from None


def _resolutions(metadata: Mapping[str, str], path: Path) -> tuple[Resolution, ...]:
    text = metadata.get("resolutions")
    try:
        sizes = tuple(map(parse_resolution, text.split(","))) if text else ()
        _check_sizes(sizes)
        return sizes
    except ArchError as error:
        raise WeightsError(f"{path} is damaged: its resolutions: {error}") from None


def _check_sizes(sizes: Collection[Resolution]) -> None:
    """Raise ArchError for resolutions, or a number of them, that no network was trained at."""
    sides = [side for size in sizes for side in size]
    if len(sizes) > MOST_SIZES or not all(LEAST_SIDE <= side <= MAX_SIDE for side in sides):
        raise ArchError(
            f"up to {MOST_SIZES} resolutions can be, of sides from {LEAST_SIDE} to {MAX_SIDE}"
        )


def _classes(metadata: Mapping[str, str], path: Path) -> tuple[str, ...]:
    if "classes" not in metadata:
        return ()
    where = f"{path} is damaged: its classes"
    names = tuple(parse_json(metadata["classes"], list[str], where, error=WeightsError))
    if len(set(names)) != len(names):
        raise WeightsError(f"{where} name one twice")
    return names


def _preprocessing(metadata: Mapping[str, str], path: Path) -> Preprocessing | None:
    record = _parsed(metadata, PREPROCESSING, PreprocessingRecord, path)
    return None if record is None else Preprocessing(**msgspec.structs.asdict(record))


def _extraction(metadata: Mapping[str, str], path: Path) -> Extraction | None:
    if "supernet_sha256" not in metadata:
        return None
    kinds = ("images", "batch", "seed")
    numbers = {kind: _number(metadata, f"recalibration_{kind}", path) for kind in kinds}
    return Extraction(metadata["supernet_sha256"], **numbers)


def _number(metadata: Mapping[str, str], name: str, path: Path) -> int | None:
    text = metadata.get(name)
    if text is not None and not _is_whole(text):
        raise WeightsError(f"{path} is damaged: its {name} is {text[:40]!r}")
    return None if text is None else int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
