"""What keeps the products of activations in a token mixer finite in float16.

Float16 ends at 65504, bfloat16 and float32 near 3e38.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LARGEST_GATED = 2.0**12  # leaves float16 a factor of 16 for the sum of the projection after it


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep the dtype of factors in products on x's device, within this context."""
    device = x.device.type
    # the meta device has no autocast; and unused, it would be a subgraph in exported graphs
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def gated(gate: Tensor, x: Tensor) -> Tensor:
    """Return gate * x, kept within +-LARGEST_GATED.

    A product of activations grows with their square or cube and leaves float16 long before it
    leaves float32. The bound is the same in every dtype, so that a network computes the same
    function in each, and above what a network meets unless it diverges.
    """
    return (gate * x).clamp(-LARGEST_GATED, LARGEST_GATED)
