"""Weights in files: the official checkpoints, timm's naming, and our own safetensors.

A file is read into a dict of tensors and renamed to the names of `supernet.model`; nothing is
unpickled but tensors. Our own files carry the Arch and the normalisation epsilon in their
metadata, which the official ones lack.

Names: https://github.com/mit-han-lab/efficientvit and timm's efficientvit_mit.py.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from results.console import note
from results.errors import ArchError, WeightsError
from results.reading import parse_json
from supernet.arch import Arch, ClassificationHead, SegmentationHead, Task
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.model import EfficientViT, build_task_model
from supernet.official import (
    DATASETS,
    SUPER_RESOLUTION,
    heads_of,
    named_arch,
)
from supernet.sam.model import Sam
from supernet.weights.names import official_name, renamed
from supernet.weights.tensors import (
    State,
    is_safetensors,
    read_metadata,
    read_pickled,
    read_tensors,
    write_tensors,
)
from supernet.weights.wrapped import NoNetworkError, network_in

T = TypeVar("T")
SHOWN = 3  # differences that an error lists
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
GAUSSIAN = "positional_encoding_gaussian_matrix"  # SAM's, a buffer too
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # what weights may be in
INTS = (torch.int64, torch.int32, *FLOATS)  # and counters of batches, which nothing reads
CLASSIFIERS: dict[Task, tuple[str, ...]] = {  # how their names end, officially, in timm, here
    "classification": (
        "head.op_list.3.linear.weight",
        "head.classifier.4.weight",
        ".classifier.linear.weight",
    ),
    "segmentation": (
        "head.output_ops.0.op_list.0.conv.weight",
        "head.output_ops.0.op_list.1.conv.weight",
        ".classifier.conv.weight",
    ),
}
OWN = {"arch", "space"}  # metadata that only our files have: one network's, a supernet's


def save_weights(model: nn.Module, path: Path | str, **metadata: object) -> None:
    """Write `model` (of `supernet.model`, compiled or in parallel too), whole or not at all.

    As safetensors, with the Arch and the epsilon; `metadata` is kept as text.

    Raises RunError where `path` cannot be written, WeightsError for what is no whole network
    and for metadata under a name that is taken.
    """
    model = _unwrapped(model)
    information = {
        "format": "pt",
        "arch": arch_of(model).to_json(),
        "norm_eps": repr(norm_eps(model)),
    }
    taken = sorted(information.keys() & metadata.keys())
    if taken:
        raise WeightsError(f"metadata cannot be named {taken[0]!r}, as the file has its own")
    information |= {name: str(value) for name, value in metadata.items()}
    write_tensors(Path(path), model.state_dict(), information)


def load_weights(model: nn.Module, path: Path | str, *, partial: bool = False) -> tuple[str, ...]:
    """Fill `model` from a file of any of the three namings.

    Args:
        partial: leave a classifier for another number of classes as it is, or the whole head
            where the file holds one for another task; ignore the file's head where the model
            has none.

    Returns:
        Names of the tensors that were left as they were; empty unless `partial`.

    Raises:
        WeightsError: if the file cannot be read, or its names or shapes differ; it names the
            first differences and the network that the weights would fit.
    """
    model = _unwrapped(model)
    fitting = _fitting(model, Path(path), partial)
    fitting.put_in(model)
    return fitting.left


def load_network(
    arch: Arch, path: Path | str, *, tell: Callable[[str], object] = note
) -> EfficientViT | Sam:
    """Return the network of `arch` with the weights in a file.

    Nothing is allocated for one that they do not fit. `tell` is given which of several networks
    was taken, in one line. Raises WeightsError, see `load_weights`.
    """
    fitting = check_weights(arch, path)
    model = build_task_model(arch)
    fitting.put_in(model, tell)
    return model


def check_weights(arch: Arch, path: Path | str) -> "_Fitting":
    """Raise WeightsError, see `load_weights`, unless a file fits the network of `arch`."""
    with torch.device("meta"):  # and nothing read there: safetensors 0.4 would put it on meta
        model = build_task_model(arch)
    return _fitting(model, Path(path))


@dataclass(frozen=True)
class _Fitting:
    """The tensors of a file under the names of a model that they fit."""

    path: Path
    state: State
    left: tuple[str, ...]  # of the model's, those that are not in `state`
    eps: float | None
    chosen: str  # which of several networks they are of

    def put_in(self, model: nn.Module, tell: Callable[[str], object] = note) -> None:
        """Copy them into a model, and say what was chosen."""
        own = model.state_dict()
        with torch.no_grad():
            for name, tensor in self.state.items():
                own[name].copy_(tensor)
        if self.eps is not None:
            set_norm_eps(model, self.eps)
        if self.chosen:
            tell(f"{self.path}: {self.chosen}")


def _fitting(model: nn.Module, path: Path, partial: bool = False) -> _Fitting:
    """What a file has for `model`, which may be on the device meta. Raises WeightsError."""
    state, metadata, chosen = _read(path)
    arch = arch_of(model)
    own = model.state_dict()
    state = renamed(state, arch, own)
    left: tuple[str, ...] = ()
    if partial:
        state, left = _without_other_head(state, own)
    _check_fit(state, own, left, path, arch, metadata)
    return _Fitting(path, state, left, _eps_in(path), chosen)


def is_promptable(path: Path) -> bool:
    """Whether a file has an image encoder as a part, ours or official. Raises WeightsError."""
    state, _ = read_weights(path)
    return any(name.startswith("image_encoder.") for name in state)


def read_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors of the network in a file as they are named there, and the metadata of our own.

    Raises WeightsError for a file that is damaged or holds anything else.
    """
    state, metadata, _ = _read(path)
    return state, metadata


def _read(path: Path) -> tuple[State, dict[str, str], str]:
    """See `read_weights`; and which of several networks was taken, "" if there is but one."""
    metadata: dict[str, str] = {}
    loaded: Any
    if is_safetensors(path):
        loaded, metadata = read_tensors(path)
        if OWN & metadata.keys():
            return loaded, metadata, ""
    else:
        loaded = read_pickled(path)
    try:
        state, chosen = network_in(loaded)
    except NoNetworkError as error:
        raise WeightsError(f"{path} {error}") from None
    for name, tensor in state.items():
        if tensor.layout != torch.strided:
            raise WeightsError(f"{path}: {name[:60]} is sparse; save its to_dense()")
        if (
            tensor.is_meta
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise WeightsError(f"{path} is damaged: it lacks the numbers of {name[:60]}")
    return state, metadata, chosen


def arch_in(path: Path) -> Arch | None:
    """The Arch that our own file carries, else None.

    Raises WeightsError for a file that cannot be read, or is too small for that network.
    """
    arch = _arch_from(metadata_in(path), path)
    if arch is not None:
        found = sum(tensor.numel() for tensor in read_tensors(path)[0].values())
        params = network_cost(blocks_of(arch)).params
        if params > found:  # before anybody allocates them
            raise WeightsError(
                f"{path} is damaged: it holds {found:,} numbers, and says that they are a network "
                f"of {params:,} parameters"
            )
    return arch


def metadata_in(path: Path) -> dict[str, str]:
    """Of a safetensors file; {} of any other. Raises WeightsError if unreadable."""
    return read_metadata(path) if is_safetensors(path) else {}


def value_in(path: Path, name: str, kind: type[T]) -> T | None:
    """Return what our own file carries as JSON under a name, of the type `kind`; None if nothing.

    Raises WeightsError where the file is damaged.
    """
    text = metadata_in(path).get(name)
    where = f"{path} is damaged, or of another version: its {name}"
    return None if text is None else parse_json(text, kind, where, error=WeightsError)


def arch_of(model: nn.Module) -> Arch:
    """The Arch of a network, or of the image encoder of one that segments anything.

    Raises WeightsError for other modules, whose tensors have other names.
    """
    network = getattr(model, "image_encoder", model)
    arch = getattr(network, "arch", None)
    if not isinstance(arch, Arch) or not hasattr(network, "stem"):
        raise WeightsError(
            f"a {type(model).__name__} is no whole network of supernet.model; save or load that"
        )
    return arch


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal; what results are marked with."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def num_classes_in(path: Path | str, task: Task) -> int | None:
    """Of the classifier in a file, None if it has none for `task`. Raises WeightsError."""
    path = Path(path)
    arch = arch_in(path)
    if arch is not None:
        return getattr(arch.head, "num_classes", None) if arch.task == task else None
    return _num_classes(read_weights(path)[0], CLASSIFIERS.get(task, ()))


def _num_classes(state: State, classifiers: tuple[str, ...]) -> int | None:
    found = (t.shape[0] for name, t in state.items() if name.endswith(classifiers) and t.dim() > 1)
    return max(found, default=None)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without torch.compile's and data parallelism's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def official_state_dict(model: nn.Module) -> State:
    """The model's tensors under the official names, to go back to the official code."""
    arch = arch_of(model)
    return {official_name(name, arch): tensor for name, tensor in model.state_dict().items()}


def _without_other_head(state: State, own: Mapping[str, Tensor]) -> tuple[State, tuple[str, ...]]:
    """What of `state` a model takes in part, and which tensors of the model are left."""
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
    state: State,
    own: Mapping[str, Tensor],
    left: Iterable[str],
    path: Path,
    arch: Arch,
    metadata: Mapping[str, str],
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
    found = [f"{n} is {_shape(state[n])}, not {_shape(own[n])}" for n in shapes]
    found += [f"{n} is {state[n].dtype}, not {own[n].dtype}" for n in kinds]
    found += [f"{name} is missing" for name in missing]
    found += [f"{name} has no place" for name in unknown]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    if any(own[name].is_floating_point() for name in kinds):
        kind = "Complex" if any(state[name].is_complex() for name in kinds) else "Quantised"
        advice = f"{kind} weights cannot be used; give the float ones"
    else:
        advice = _advice(state, _arch_from(metadata, path), arch)
    raise WeightsError(
        f"{path} does not fit {arch.describe()}: {'; '.join(found[:SHOWN])}{more}. " + advice
    )


def is_kind_of(tensor: Tensor, own: Tensor) -> bool:
    """Tell whether numbers can be taken for those of `own`; quantised weights are no weights."""
    return tensor.dtype in (FLOATS if own.is_floating_point() else INTS)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _advice(state: State, told: Arch | None, asked: Arch) -> str:
    """Which network the weights belong to, as the end of an error.

    `told`: by the file; `asked`: what they do not fit.
    """
    if told is not None:
        if replace(told, resolution=asked.resolution) == asked:
            return "The file says that it holds this network, so it is damaged"
        classes = getattr(told.head, "num_classes", None)
        of = f" of {classes} classes" if classes else ""
        return f"The file says that it holds {told.describe()}{of}; leave --arch out to use that"
    buffers = (*STATISTICS, GAUSSIAN)
    count = sum(t.numel() for name, t in state.items() if not name.endswith(buffers))
    classes = _num_classes(state, tuple(end for ends in CLASSIFIERS.values() for end in ends))
    classes = classes or getattr(asked.head, "num_classes", None)
    candidates = _candidates(classes)
    params = {}
    for label, candidate in candidates.items():
        params[label] = network_cost(blocks_of(candidate)).params
        if candidate.task == "promptable":
            params[label] += _decoder_params(state)
    nearest = min(params, key=lambda label: abs(params[label] - count))
    if replace(candidates[nearest], resolution=asked.resolution) == asked:
        if params[nearest] == count:
            return "They are as many as this network's; give them the names of the official code"
        return (
            f"No official network has their {count:,} parameters; this one, the nearest, has "
            f"{params[nearest]:,}"
        )
    if params[nearest] == count:
        return f"They would fit {nearest}"
    return (
        f"No official network has their {count:,} parameters; nearest is {nearest} with "
        f"{params[nearest]:,}"
    )


def _decoder_params(state: State) -> int:
    prefixes = ("prompt_encoder.", "mask_decoder.")
    return sum(
        tensor.numel()
        for name, tensor in state.items()
        if name.startswith(prefixes) and not name.endswith(GAUSSIAN)
    )


def _candidates(classes: int | None) -> dict[str, Arch]:
    """The official networks by the flags that name them."""
    found: dict[str, Arch] = {}
    for task, datasets in DATASETS.items():
        for dataset in datasets:
            for name in heads_of(dataset):
                arch = named_arch(name, task=task, dataset=dataset)
                flags = f"--arch {name}"
                if task == "segmentation":
                    flags += f" --task {task} --dataset {dataset}"
                head = arch.head
                if isinstance(head, ClassificationHead | SegmentationHead):
                    if classes not in (None, head.num_classes):
                        flags += f" --num-classes {classes}"
                    head = replace(head, num_classes=classes or head.num_classes)
                found[flags] = replace(arch, head=head)
    return found | {f"--arch {name}": arch for name, arch in SUPER_RESOLUTION.items()}


def _arch_from(metadata: Mapping[str, str], path: Path) -> Arch | None:
    if "arch" not in metadata:
        return None
    try:
        return Arch.from_json(metadata["arch"])
    except ArchError as error:
        raise WeightsError(f"{path} is damaged: its metadata is {error}") from None


def norm_eps(model: nn.Module) -> float:
    """The epsilon that all normalisations of `model` have. Raises WeightsError if they differ."""
    found = {module.eps for module in model.modules() if isinstance(module, NORMS)}
    if len(found) != 1:
        raise WeightsError(f"normalisations have {len(found)} epsilons; set one by set_norm_eps")
    return float(found.pop())


def set_norm_eps(model: nn.Module, eps: float) -> None:
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eps = eps


NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def _eps_in(path: Path) -> float | None:
    """Of the normalisations, where the file says it. Raises WeightsError if it is damaged."""
    return value_in(path, "norm_eps", Annotated[float, msgspec.Meta(gt=0, lt=1)])  # type: ignore[arg-type]
