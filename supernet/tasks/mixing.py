"""Mix-up and cut-mix: two pictures of a batch in one, with the shares of their classes."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mix_batch(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    mixup: float,
    cutmix: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Mix every picture with another of the batch, all by one share; where both are on, by one.

    Args:
        x: (B, 3, H, W).
        labels: (B,).
        mixup, cutmix: of the beta distributions of shares; 0: off.
        generator: of the CPU.

    Returns:
        x and shares of classes, (B, num_classes), float32, which add up to 1.

    Source: Zhang et al., mixup, 2017, https://arxiv.org/abs/1710.09412; Yun et al., CutMix,
    2019, https://arxiv.org/abs/1905.04899
    """
    shares = F.one_hot(labels.long(), num_classes).float()
    if not (mixup or cutmix):
        return x, shares
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    if cut:
        height, width = x.shape[-2:]
        tall, wide = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        window = (..., slice(top, top + tall), slice(left, left + wide))
        pasted = x[other][window]
        x = x.clone()
        x[window] = pasted
        share = 1 - tall * wide / (height * width)
    else:
        x = share * x + (1 - share) * x[other]
    return x, share * shares + (1 - share) * shares[other]
