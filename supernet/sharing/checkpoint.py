"""A supernet in a file: its tensors, and in the metadata the space that they belong to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from results.errors import ArchError, SpaceError, WeightsError
from supernet.arch import Arch, format_resolution
from supernet.model import build_task_model
from supernet.official import NAMES, named_arch
from supernet.resolve import arch_in_space
from supernet.sharing.extremes import largest_of
from supernet.sharing.supernet import Supernet
from supernet.space import Space, SpaceSpec
from supernet.weights.files import begin_with, read_weights, save_weights
from supernet.weights.fitting import StoredWeights, is_kind_of, norm_eps
from supernet.weights.header import WeightsHeader, merged
from supernet.weights.names import renamed
from supernet.weights.tensors import State, write_tensors


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
        "space": json.dumps(model.space.spec.to_dict()),
        "kernel_transform": json.dumps(model.kernel_transform),
    }
    write_tensors(Path(path), model.state_dict(), merged(own, metadata))


def space_of(header: WeightsHeader, path: Path | str) -> Space:
    """Return the space of a supernet's file, at the resolutions that it was trained at.

    Raises WeightsError where it is no supernet's.
    """
    if header.space is None:
        what = "a single network"
        what += f", {header.arch.describe()}," if header.arch else ""
        raise WeightsError(
            f"{path} holds {what} and no supernet; evaluate it by supernet.evaluate --weights, "
            "or begin a training with it by supernet.train --init"
        )
    return header.space


def arch_told(header: WeightsHeader) -> Arch | None:
    """Return the Arch in a header: the network's, or a supernet's largest; None: it has none."""
    return largest_of(header.space)[0] if header.space else header.arch


def open_supernet(path: Path | str, *, expected: Space | None = None) -> Supernet:
    """Return the supernet in a file, in evaluation mode.

    Raises WeightsError where the file is none, is damaged, or of another space than `expected`.
    """
    return supernet_with(read_weights(path), expected=expected)


def supernet_with(weights: StoredWeights, *, expected: Space | None = None) -> Supernet:
    """Return the supernet of weights that have been read; see `open_supernet`."""
    path = weights.path
    space = space_of(weights.header, path)
    if expected is not None and space != expected:
        raise WeightsError(f"{path} is a supernet of {_flags(space)}, not of {_flags(expected)}")
    state = weights.tensors
    with torch.device("meta"):
        supernet = Supernet(space, kernel_transform=weights.header.kernel_transform)
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
            f"{path} is damaged, or of another version: {wrong[0]} does not fit {_flags(space)}"
        )
    state = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    supernet.load_state_dict(state, assign=True)
    return supernet.eval()


def init_from(
    supernet: Supernet,
    path: Path | str,
    arch: Arch | None = None,
    *,
    tell: Callable[[str], object] | None = None,
) -> Arch:
    """Put one network's weights, official or ours, where its Arch has them in a supernet.

    The subnet of that Arch is then that network, but for a head of another task or number of
    classes, which stays as it was. With a kernel transform that holds as long as transforms are
    the identity, as they are at first.

    Args:
        arch: whose weights they are; by default what the file says, or the official network of
            the space that they fit.
        tell: is given which of several networks in the file was taken, in one line.

    Returns:
        The Arch in the space.

    Raises:
        SpaceError: the network is not in the space; names the dimension.
        WeightsError: the file cannot be read, or fits no official network of the space.
    """
    return init_with(supernet, read_weights(path), arch, tell=tell)


def init_with(
    supernet: Supernet,
    weights: StoredWeights,
    arch: Arch | None = None,
    *,
    tell: Callable[[str], object] | None = None,
) -> Arch:
    """Put weights that have been read into a supernet; see `init_from`."""
    path = weights.path
    if weights.header.kind == "supernet":
        raise WeightsError(
            f"{path} is a supernet; extract a network from it first by supernet.extract"
        )
    told = arch or weights.header.arch
    space = supernet.space
    arch = arch_in_space(space, told) if told else _official_arch(space, weights)
    model = supernet.extract(arch)
    begin_with(model, weights, tell=tell)
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


def _official_arch(space: Space, weights: StoredWeights) -> Arch:
    """Return the official network in `space` whose tensors a file holds, its classifier aside."""
    nearest: list[str] = []
    for name in NAMES:
        try:
            arch = arch_in_space(space, named_arch(name))
        except (ArchError, SpaceError):
            continue
        nearest.append(name)
        if _fits(weights.tensors, arch):
            return arch
    known = ", ".join(nearest) or "none"
    raise WeightsError(
        f"{weights.path} fits no official network in {_flags(space)} (it has {known}); "
        "load the weights on their own by supernet.evaluate, or choose another --space"
    )


def _fits(state: State, arch: Arch) -> bool:
    with torch.device("meta"):
        own = build_task_model(arch).state_dict()
    theirs = renamed(state, arch, own)
    body = [name for name in own if not name.startswith("head.")]
    return all(name in theirs and theirs[name].shape == own[name].shape for name in body)


def _flags(space: Space) -> str:
    """Return the flags that make a space."""
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
