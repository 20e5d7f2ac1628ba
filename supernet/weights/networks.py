"""Networks with the weights in a file, built from an Arch."""

from collections.abc import Callable
from pathlib import Path

import torch

from supernet.arch import Arch
from supernet.model import EfficientViT, build_task_model
from supernet.sam.model import Sam
from supernet.weights.files import read_weights
from supernet.weights.fitting import StoredWeights, fit


def load_network(
    arch: Arch, path: Path | str, *, tell: Callable[[str], object] | None = None
) -> EfficientViT | Sam:
    """Return the network of `arch` with the weights in a file.

    Nothing is allocated for one that they do not fit. `tell` is given which of several networks
    was taken, in one line. Raises WeightsError, see `supernet.weights.files.load_weights`.
    """
    return network_with(read_weights(path), arch, tell=tell)


def network_with(
    weights: StoredWeights, arch: Arch, *, tell: Callable[[str], object] | None = None
) -> EfficientViT | Sam:
    """Return the network of `arch` with weights that have been read; see `load_network`."""
    with torch.device("meta"):  # only this line: later tensors would be made on meta, too
        plan = build_task_model(arch)
    fitting = fit(weights, plan)
    model = build_task_model(arch)
    fitting.put_in(model, tell)
    return model
