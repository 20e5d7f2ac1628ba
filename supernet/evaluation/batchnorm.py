"""Batch normalisation's statistics of one network, computed anew.

A supernet's running statistics are a mixture of all subnets', and fit none of them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from results.errors import UserError


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make running statistics the mean over `batches`, at the weights that `model` has.

    Nothing else changes: the mode of every module is restored. Run it on a stand-alone network,
    as through a subnet it would overwrite the supernet's statistics.

    Args:
        model: a network; of one that segments anything the image encoder is run.
        batches: (B, 3, H, W), normalised, of any device and floating type; each counts the same.

    Raises UserError where there is no batch, or one has a single value per channel somewhere.
    """
    network = getattr(model, "image_encoder", model)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    weight = next(network.parameters())
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    seen = False
    try:
        with torch.no_grad():
            for batch in batches:
                seen = True
                network(batch.to(weight.device, weight.dtype))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "one picture of so few positions has no variance; take more --recalibration-images, "
            "or a larger --batch-size"
        ) from None
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise UserError("statistics need pictures; take more --recalibration-images")
