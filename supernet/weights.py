"""Weights in files: the official checkpoints, timm's naming, and our own safetensors.

A file is read into a dict of tensors and renamed to the names of `supernet.model`; nothing is
unpickled but tensors. Our own files carry the Arch and the normalisation epsilon in their
metadata, which the official ones lack.

Names: https://github.com/mit-han-lab/efficientvit and timm's efficientvit_mit.py.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from results.errors import ArchError, WeightsError
from results.files import write_bytes
from supernet.arch import Arch, ClassificationHead, SegmentationHead, Task
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.named import (
    DATASETS,
    SUPER_RESOLUTION,
    heads_of,
    named_arch,
)
from supernet.naming import official_name, renamed

State = dict[str, Tensor]
SHOWN = 3  # differences that an error lists
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
GAUSSIAN = "positional_encoding_gaussian_matrix"  # SAM's, a buffer too
CLASSIFIERS: dict[Task, tuple[str, ...]] = {  # how their biases end, officially, in timm, here
    "classification": (
        "head.op_list.3.linear.bias",
        "head.classifier.4.bias",
        ".classifier.linear.bias",
    ),
    "segmentation": (
        "head.output_ops.0.op_list.0.conv.bias",
        "head.output_ops.0.op_list.1.conv.bias",
        ".classifier.conv.bias",
    ),
}
WRAPPERS = ("state_dict", "model")  # keys that checkpoints keep their tensors under


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
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(Path(path), save(state, metadata=information))


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
    path = Path(path)
    model = _unwrapped(model)
    state, metadata = read_weights(path)
    arch = arch_of(model)
    own = model.state_dict()
    state = renamed(state, arch, own)
    left: tuple[str, ...] = ()
    if partial:
        state, left = _without_other_head(state, own)
    _check_fit(state, own, left, path, arch, metadata)
    eps = _eps_in(metadata, path)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
    if eps is not None:
        set_norm_eps(model, eps)
    return left


def is_promptable(path: Path) -> bool:
    """Whether a file has an image encoder as a part, ours or official. Raises WeightsError."""
    state, _ = read_weights(path)
    return any(name.startswith("image_encoder.") for name in state)


def read_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors of a file as they are named there, and its metadata. Raises WeightsError."""
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return state, dict(file.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path} is damaged: {error}") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers raise
        more = "Unsupported" in str(error) or "weights_only" in str(error)
        what = "holds more than tensors" if more else "is damaged, or no checkpoint of PyTorch"
        raise WeightsError(
            f"{path} {what}; save the state_dict() of the model with torch.save"
        ) from None
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path} holds no state_dict but a {type(loaded).__name__}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(f"{path} holds no state_dict: {str(name)[:60]!r} is no tensor")
        if tensor.layout != torch.strided:
            raise WeightsError(f"{path}: {name[:60]} is sparse; save its to_dense()")
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): t for name, t in loaded.items()
    }, {}


def arch_in(path: Path) -> Arch | None:
    """The Arch that our own file carries, else None. Raises WeightsError if unreadable."""
    return _arch_from(metadata_in(path), path)


def metadata_in(path: Path) -> dict[str, str]:
    """Of a safetensors file; {} of any other. Raises WeightsError if unreadable."""
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from None


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length, then JSON. Raises WeightsError if unreadable."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from None


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
    found = (tensor.shape[0] for name, tensor in state.items() if name.endswith(classifiers))
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
        name
        for name, tensor in state.items()
        if name in own and not name.endswith(STATISTICS[2]) and _kind(tensor) != _kind(own[name])
    ]
    if not (missing or unknown or shapes or kinds):
        return
    found = [f"{n} is {_shape(state[n])}, not {_shape(own[n])}" for n in shapes]
    found += [f"{n} is {state[n].dtype}, not {own[n].dtype}" for n in kinds]
    found += [f"{name} is missing" for name in missing]
    found += [f"{name} has no place" for name in unknown]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise WeightsError(
        f"{path} does not fit {arch.describe()}: {'; '.join(found[:SHOWN])}{more}. "
        + _fitting(state, _arch_from(metadata, path))
    )


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Floating, complex or neither: quantised weights are no weights."""
    return tensor.is_floating_point(), tensor.is_complex()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _fitting(state: State, arch: Arch | None) -> str:
    """Which network the weights belong to, as the end of an error."""
    if arch is not None:
        classes = getattr(arch.head, "num_classes", None)
        of = f" of {classes} classes" if classes else ""
        return f"The file says that it holds {arch.describe()}{of}; leave --arch out to use that"
    buffers = (*STATISTICS, GAUSSIAN)
    count = sum(t.numel() for name, t in state.items() if not name.endswith(buffers))
    classes = _num_classes(state, tuple(end for ends in CLASSIFIERS.values() for end in ends))
    params = {}
    for label, candidate in _candidates(classes).items():
        params[label] = network_cost(blocks_of(candidate)).params
        if candidate.task == "promptable":
            params[label] += _decoder_params(state)
    nearest = min(params, key=lambda label: abs(params[label] - count))
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


def _eps_in(metadata: Mapping[str, str], path: Path) -> float | None:
    if "norm_eps" not in metadata:
        return None
    try:
        eps: Any = json.loads(metadata["norm_eps"])
        if not isinstance(eps, float) or not 0 < eps < 1:
            raise ValueError(eps)
    except ValueError:
        raise WeightsError(f"{path} is damaged: norm_eps {metadata['norm_eps'][:40]!r}") from None
    return eps
