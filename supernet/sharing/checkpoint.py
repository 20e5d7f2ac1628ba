"""A supernet in a file: its tensors, and in the metadata the space that they belong to."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from torch import nn

from results.errors import ArchError, SpaceError, WeightsError
from results.reading import Record
from supernet.arch import MAX_CHANNELS, MAX_SIDE, Arch, Task, format_resolution, parse_resolution
from supernet.model import build_task_model
from supernet.official import NAMES, named_arch
from supernet.resolve import arch_in_space
from supernet.sharing.supernet import Supernet
from supernet.space import Freeze, Space, SpaceSpec
from supernet.spaces import make_space
from supernet.weights.files import (
    arch_in,
    is_kind_of,
    is_promptable,
    load_weights,
    metadata_in,
    norm_eps,
    read_weights,
    save_weights,
    set_norm_eps,
    value_in,
)
from supernet.weights.names import renamed
from supernet.weights.tensors import State, write_tensors

SPACE, TRANSFORM = "space", "kernel_transform"  # names in the metadata
RESOLUTIONS = "resolutions"  # in the metadata where the training chose some: 64,96x192
LEAST_SIDE, MOST_SIZES = 32, 1000

Texts = Annotated[list[str], msgspec.Meta(max_length=1000)]


class SpaceArguments(Record, frozen=True, forbid_unknown_fields=True):
    """Those of a SpaceSpec, as a supernet's file has them."""

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


def save_checkpoint(
    path: Path | str, model: nn.Module, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a supernet, or one network, as safetensors, whole or not at all.

    Raises RunError where `path` cannot be written, WeightsError for metadata under a name that
    is taken and for a space that no arguments of `get_space` give.
    """
    metadata = metadata or {}
    if not isinstance(model, Supernet):
        save_weights(model, path, **metadata)
        return
    if model.space.spec is None:
        raise WeightsError("the space was narrowed by hand; make it by get_space(freeze=...)")
    own = {
        "format": "pt",
        SPACE: json.dumps(model.space.spec.to_dict()),
        TRANSFORM: json.dumps(model.kernel_transform),
    }
    taken = sorted(own.keys() & metadata.keys())
    if taken:
        raise WeightsError(f"metadata cannot be named {taken[0]!r}, as the file has its own")
    write_tensors(Path(path), model.state_dict(), own | dict(metadata))


def is_supernet(path: Path | str) -> bool:
    """Raises WeightsError if unreadable."""
    return SPACE in metadata_in(Path(path))


def space_in(path: Path | str) -> Space:
    """The space of a supernet's file, at the resolutions that it was trained at.

    Raises WeightsError where it is no supernet's.
    """
    path = Path(path)
    metadata = metadata_in(path)
    if SPACE not in metadata:
        arch = arch_in(path)
        what = f"a single network, {arch.describe()}," if arch else "a single network"
        raise WeightsError(
            f"{path} holds {what} and no supernet; evaluate it by supernet.evaluate --weights, "
            "or begin a training with it by supernet.train --init"
        )
    arguments = value_in(path, SPACE, SpaceArguments)
    assert arguments is not None
    try:
        space, sizes = make_space(arguments.spec()), resolutions_in(path)
        space = space.at_resolutions(sizes) if sizes else space
        _check_sizes(space.resolutions)
        return space
    except (SpaceError, ArchError) as error:
        raise WeightsError(
            f"{path} is damaged, or of another version: its space: {error}"
        ) from None


def resolutions_in(path: Path | str) -> tuple[tuple[int, int], ...]:
    """Those that a training chose instead of the space's or arch's own; () if it chose none.

    Raises WeightsError where the file is damaged.
    """
    text = metadata_in(Path(path)).get(RESOLUTIONS)
    try:
        sizes = tuple(map(parse_resolution, text.split(","))) if text else ()
        _check_sizes(sizes)
        return sizes
    except ArchError as error:
        raise WeightsError(f"{path} is damaged: its resolutions: {error}") from None


def _check_sizes(sizes: Collection[tuple[int, int]]) -> None:
    """Raise ArchError for resolutions, or a number of them, that no network was trained at."""
    sides = [side for size in sizes for side in size]
    if len(sizes) > MOST_SIZES or not all(LEAST_SIDE <= side <= MAX_SIDE for side in sides):
        raise ArchError(
            f"up to {MOST_SIZES} resolutions can be, of sides from {LEAST_SIDE} to {MAX_SIDE}"
        )


def open_supernet(path: Path | str, *, expected: Space | None = None) -> Supernet:
    """The supernet in a file, in evaluation mode.

    Raises WeightsError where the file is none, is damaged, or of another space than `expected`.
    """
    path = Path(path)
    space = space_in(path)
    if expected is not None and space != expected:
        raise WeightsError(f"{path} is a supernet of {_named(space)}, not of {_named(expected)}")
    state, metadata = read_weights(path)
    with torch.device("meta"):
        supernet = Supernet(space, kernel_transform=metadata.get(TRANSFORM) == "true")
    own = supernet.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own
        or name not in state
        or own[name].shape != state[name].shape
        or not is_kind_of(state[name], own[name])
    )
    if wrong:
        raise WeightsError(
            f"{path} is damaged, or of another version: {wrong[0]} does not fit {_named(space)}"
        )
    state = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    supernet.load_state_dict(state, assign=True)
    return supernet.eval()


def init_from(supernet: Supernet, path: Path | str, arch: Arch | None = None) -> Arch:
    """Put one network's weights, official or ours, where its Arch has them in a supernet.

    The subnet of that Arch is then that network, but for a head of another task or number of
    classes, which stays as it was. With a kernel transform that holds as long as transforms are
    the identity, as they are at first.

    Args:
        arch: whose weights they are; by default what the file says, or the official network of
            the space that they fit.

    Returns:
        The Arch in the space.

    Raises:
        SpaceError: the network is not in the space; names the dimension.
        WeightsError: the file cannot be read, or fits no official network of the space.
    """
    path = Path(path)
    if is_supernet(path):
        raise WeightsError(
            f"{path} is a supernet; extract a network from it first by supernet.extract"
        )
    found = arch or arch_in(path)
    arch = arch_in_space(supernet.space, found) if found else _official_arch(supernet.space, path)
    model = supernet.extract(arch)
    whole = supernet.decoder is None or is_promptable(path)
    load_weights(model if whole else model.get_submodule("image_encoder"), path, partial=True)
    if not whole:  # a promptable network's is its own
        set_norm_eps(model, arch.norm_eps)
    if norm_eps(model) != arch.norm_eps:
        raise WeightsError(
            f"{path} was trained with an epsilon of {norm_eps(model):g} in its normalisations, "
            f"and this space has {arch.norm_eps:g}"
        )
    state = model.state_dict()
    if supernet.decoder is not None:
        decoder = {n: t for n, t in state.items() if not n.startswith("image_encoder.")}
        supernet.decoder.load_state_dict(decoder)
        state = {n.removeprefix("image_encoder."): t for n, t in state.items() if n not in decoder}
    supernet.put(arch, state)
    return arch


def _official_arch(space: Space, path: Path) -> Arch:
    """The official network in `space` whose tensors a file holds, its classifier aside."""
    state, _ = read_weights(path)
    nearest: list[str] = []
    for name in NAMES:
        try:
            arch = named_arch(name)
            found = arch_in_space(space, arch)
        except (ArchError, SpaceError):
            continue
        nearest.append(name)
        if _fits(state, found):
            return found
    known = ", ".join(nearest) or "none"
    raise WeightsError(
        f"{path} fits no official network in {_named(space)} (it has {known}); "
        "load the weights on their own by supernet.evaluate, or choose another --space"
    )


def _fits(state: State, arch: Arch) -> bool:
    with torch.device("meta"):
        own = build_task_model(arch).state_dict()
    theirs = renamed(state, arch, own)
    body = [name for name in own if not name.startswith("head.")]
    return all(name in theirs and theirs[name].shape == own[name].shape for name in body)


def _named(space: Space) -> str:
    """The flags that make a space."""
    spec = space.spec or SpaceSpec(space.name)
    flags = [f"space {spec.name}"]
    if spec.task != "classification":
        flags.append(f"--task {spec.task}")
    if spec.dataset is not None:
        flags.append(f"--dataset {spec.dataset}")
    if spec.num_classes is not None:
        flags.append(f"--num-classes {spec.num_classes}")
    flags += [f"--resolution {format_resolution(size)}" for size in spec.resolutions]
    flags += [f"--freeze {freeze.text}" for freeze in spec.freeze]
    if not spec.nearest_head:
        flags.append("with a searched head")
    return " ".join(flags)
