"""First weights for training, as the official recipe draws them.

Sources: https://github.com/mit-han-lab/efficientvit, models/utils and apps/utils/init.py;
He et al., Bag of Tricks, CVPR 2019, https://arxiv.org/abs/1812.01187, on the zeros.
"""

from torch import nn

from supernet.layers.convolutions import Residual
from supernet.layers.hyena import Hyena
from supernet.layers.retention import Retention
from supernet.layers.rwkv import RWKV

STD = 0.02
OWN = (Hyena, Retention, RWKV)  # draw their weights by rules of their own


def initialise_weights(model: nn.Module) -> None:
    """Draw weights anew, by PyTorch's global generator; every residual block is the identity.

    Convolutions and linear layers are normal, truncated at two units; the last normalisation
    of a residual block is zero, so that a deep network begins as a shallow one.
    """
    for module in model.children():
        if not isinstance(module, OWN):
            initialise_weights(module)
    if isinstance(model, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(model.weight, std=STD)
        if model.bias is not None:
            nn.init.zeros_(model.bias)
    if isinstance(model, Residual):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if norms:
            nn.init.zeros_(norms[-1].weight)
