"""Tensors of a file under the names of a model, and whether they fit it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from results.errors import WeightsError
from supernet.arch import Arch, Task
from supernet.weights.advice import STATISTICS, advice, num_classes_of
from supernet.weights.header import WeightsHeader
from supernet.weights.names import renamed
from supernet.weights.tensors import State, sha256_of

SHOWN = 3  # differences that an error lists
NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # what weights may be in
INTS = (torch.int64, torch.int32, *FLOATS)  # and counters of batches, which nothing reads


@dataclass(frozen=True)
class StoredWeights:
    """The network in a file: its tensors as they are named there, and what the file tells."""

    path: Path
    header: WeightsHeader
    tensors: State = field(repr=False)
    chosen: str = ""  # which of several networks was taken; empty if there is but one

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the file, in hexadecimal. Raises OSError where it is gone."""
        return sha256_of(self.path)

    @property
    def is_promptable(self) -> bool:
        """Tell whether the file has an image encoder as a part, ours or official."""
        return any(name.startswith("image_encoder.") for name in self.tensors)

    def num_classes(self, task: Task) -> int | None:
        """Return the number of classes that the file's classifier tells apart.

        None where it has no classifier for `task`.
        """
        arch = self.header.arch
        if arch is not None:
            return getattr(arch.head, "num_classes", None) if arch.task == task else None
        return num_classes_of(self.tensors, task)


@dataclass(frozen=True)
class Fitting:
    """The tensors of a file under the names of a model that they fit."""

    weights: StoredWeights
    state: State = field(repr=False)
    left: tuple[str, ...]  # of the model's, those that are not in `state`

    def put_in(self, model: nn.Module, tell: Callable[[str], object] | None = None) -> None:
        """Copy the tensors into a model, and what the file tells of how pictures are prepared.

        `tell` is given which of several networks was taken, in one line.
        """
        own, header = model.state_dict(), self.weights.header
        with torch.no_grad():
            for name, tensor in self.state.items():
                own[name].copy_(tensor)
        if header.norm_eps is not None:
            set_norm_eps(model, header.norm_eps)
        if header.preprocessing is not None:
            network_of(model).preprocessing = header.preprocessing  # type: ignore[assignment]
        if self.weights.chosen and tell:
            tell(f"{self.weights.path}: {self.weights.chosen}")


def fit(weights: StoredWeights, model: nn.Module, *, partial: bool = False) -> Fitting:
    """Return what a file has for `model`, which may be on the device meta.

    `partial`: see `supernet.weights.files.load_weights`. Raises WeightsError where names, shapes
    or kinds of numbers differ.
    """
    arch = arch_of(model)
    own = model.state_dict()
    state = renamed(weights.tensors, arch, own)
    left: tuple[str, ...] = ()
    if partial:
        state, left = _without_other_head(state, own)
    _check_fit(weights, state, own, left, arch)
    return Fitting(weights, state, left)


def is_kind_of(tensor: Tensor, own: Tensor) -> bool:
    """Tell whether numbers can be taken for those of `own`; quantised weights are no weights."""
    return tensor.dtype in (FLOATS if own.is_floating_point() else INTS)


def network_of(model: nn.Module) -> nn.Module:
    """Return the network itself, of one that segments anything its image encoder."""
    network = getattr(model, "image_encoder", model)
    assert isinstance(network, nn.Module)
    return network


def arch_of(model: nn.Module) -> Arch:
    """Return the Arch of a network, or of the image encoder of one that segments anything.

    Raises WeightsError for other modules, whose tensors have other names.
    """
    network = network_of(model)
    arch = getattr(network, "arch", None)
    if not isinstance(arch, Arch) or not hasattr(network, "stem"):
        raise WeightsError(
            f"a {type(model).__name__} is no whole network of supernet.model; save or load that"
        )
    return arch


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without torch.compile's and data parallelism's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def norm_eps(model: nn.Module) -> float:
    """Return the epsilon that all normalisations have. Raises WeightsError if they differ."""
    epsilons = {module.eps for module in model.modules() if isinstance(module, NORMS)}
    if len(epsilons) != 1:
        raise WeightsError(f"normalisations have {len(epsilons)} epsilons; set one by set_norm_eps")
    return float(epsilons.pop())


def set_norm_eps(model: nn.Module, eps: float) -> None:
    """Give all normalisations of `model` one epsilon."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eps = eps


def _without_other_head(state: State, own: Mapping[str, Tensor]) -> tuple[State, tuple[str, ...]]:
    """Return what of `state` a model takes in part, and which tensors of the model are left."""
    heads = ("head.", "neck.", "norm.")  # the last two: of an official image encoder
    head = {name for name in own if name.startswith(heads)}
    body = {name: t for name, t in state.items() if not name.startswith(heads)}
    if not head:
        return body, ()
    foreign = any(name.startswith(heads) and name not in own for name in state)
    if foreign and own.keys() - head == body.keys():
        return body, tuple(sorted(head))
    left = tuple(
        name
        for name, tensor in state.items()
        if ".classifier." in name and name in own and tensor.shape != own[name].shape
    )
    return {name: tensor for name, tensor in state.items() if name not in left}, left


def _check_fit(
    weights: StoredWeights,
    state: State,
    own: Mapping[str, Tensor],
    left: Iterable[str],
    arch: Arch,
) -> None:
    """Raise WeightsError unless `state` fills `own`, but for counters of batches."""
    missing = [n for n in own if n not in state and n not in left and not n.endswith(STATISTICS[2])]
    unknown = [name for name in state if name not in own]
    shapes = [n for n, t in state.items() if n in own and t.shape != own[n].shape]
    kinds = [
        name for name, tensor in state.items() if name in own and not is_kind_of(tensor, own[name])
    ]
    if not (missing or unknown or shapes or kinds):
        return
    wrong = [f"{n} is {_shape(state[n])}, not {_shape(own[n])}" for n in shapes]
    wrong += [f"{n} is {state[n].dtype}, not {own[n].dtype}" for n in kinds]
    wrong += [f"{name} is missing" for name in missing]
    wrong += [f"{name} has no place" for name in unknown]
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    if any(own[name].is_floating_point() for name in kinds):
        kind = "Complex" if any(state[name].is_complex() for name in kinds) else "Quantised"
        cure = f"{kind} weights cannot be used; give the float ones"
    else:
        cure = advice(state, weights.header.arch, arch)
    raise WeightsError(
        f"{weights.path} does not fit {arch.describe()}: {'; '.join(wrong[:SHOWN])}{more}. " + cure
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
