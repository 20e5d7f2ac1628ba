"""Weights in files: the official checkpoints, timm's naming, and our own safetensors.

A file is read into a dict of tensors and renamed to the names of `supernet.model`; nothing is
unpickled but tensors. Our own files carry the Arch and the normalisation epsilon in their
metadata, which the official ones lack.

Names: https://github.com/mit-han-lab/efficientvit and timm's efficientvit_mit.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from results.errors import WeightsError
from supernet.weights.beginning import is_safetensors
from supernet.weights.fitting import (
    StoredWeights,
    arch_of,
    fit,
    network_of,
    norm_eps,
    set_norm_eps,
    unwrapped,
)
from supernet.weights.header import WeightsHeader, header_of, merged
from supernet.weights.names import official_name
from supernet.weights.tensors import (
    State,
    read_pickled,
    read_tensors,
    write_tensors,
)
from supernet.weights.wrapped import NoNetworkError, network_in


def save_weights(model: nn.Module, path: Path | str, **metadata: object) -> None:
    """Write `model` (of `supernet.model`, compiled or in parallel too), whole or not at all.

    As safetensors, with the Arch and the epsilon; `metadata` is kept as text.

    Raises RunError where `path` cannot be written, WeightsError for what is no whole network
    and for metadata under a name that is taken.
    """
    model = unwrapped(model)
    own = {
        "format": "pt",
        "arch": arch_of(model).to_json(),
        "norm_eps": repr(norm_eps(model)),
    }
    write_tensors(Path(path), model.state_dict(), merged(own, metadata))


def load_weights(
    model: nn.Module,
    path: Path | str,
    *,
    partial: bool = False,
    tell: Callable[[str], object] | None = None,
) -> tuple[str, ...]:
    """Fill `model` from a file of any of the three namings.

    Args:
        partial: leave a classifier for another number of classes as it is, or the whole head
            where the file holds one for another task; ignore the file's head where the model
            has none.
        tell: is given which of several networks in the file was taken, in one line.

    Returns:
        Names of the tensors that were left as they were; empty unless `partial`.

    Raises:
        WeightsError: if the file cannot be read, or its names or shapes differ; it names the
            first differences and the network that the weights would fit.
    """
    model = unwrapped(model)
    fitting = fit(read_weights(path), model, partial=partial)
    fitting.put_in(model, tell)
    return fitting.left


def begin_with(
    model: nn.Module, weights: StoredWeights, *, tell: Callable[[str], object] | None = None
) -> None:
    """Fill `model` but for a head of another task or number of classes, which stays as it is.

    Of a promptable network the image encoder alone is filled where the file has no more; it
    keeps its own epsilon then, which the decoder shares.

    `tell` is given which of several networks in the file was taken, in one line. Raises
    WeightsError, see `load_weights`.
    """
    network = network_of(model)
    preprocessing = network.preprocessing
    if network is model or weights.is_promptable:
        fit(weights, model, partial=True).put_in(model, tell)
    else:
        fit(weights, network, partial=True).put_in(network, tell)
        set_norm_eps(network, arch_of(network).norm_eps)
    network.preprocessing = preprocessing  # a training prepares pictures as the network's own task


def read_weights(path: Path | str) -> StoredWeights:
    """Return the tensors of the network in a file as they are named there, and its header.

    Raises WeightsError for a file that is damaged or holds anything else.
    """
    path = Path(path)
    header = WeightsHeader()
    loaded: Any
    if is_safetensors(path):
        loaded, metadata = read_tensors(path)
        header = header_of(metadata, loaded, path)
        if header.is_ours:
            return StoredWeights(path, header, loaded)
    else:
        loaded = read_pickled(path)
    try:
        state, chosen = network_in(loaded)
    except NoNetworkError as error:
        raise WeightsError(f"{path} {error}") from None
    _check_whole(state, path)
    return StoredWeights(path, header, state, chosen)


def official_state_dict(model: nn.Module) -> State:
    """Return the model's tensors under the official names, to go back to the official code."""
    arch = arch_of(model)
    return {official_name(name, arch): tensor for name, tensor in model.state_dict().items()}


def _check_whole(state: State, path: Path) -> None:
    """Raise WeightsError for tensors that are sparse, or whose numbers are not in the file."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided:
            raise WeightsError(f"{path}: {name[:60]} is sparse; save its to_dense()")
        if (
            tensor.is_meta
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise WeightsError(f"{path} is damaged: it lacks the numbers of {name[:60]}")
