"""Hyena: gates around one convolution as large as the image, in place of attention.

B batch, C channels, H height, W width; a filter has 2H x 2W taps, F features a position.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.convolutions import Convolution
from supernet.cost import HYENA_FEATURES, HYENA_HIDDEN
from supernet.layers.convolutions import ConvNormAct
from supernet.layers.precision import gated, without_autocast

SINE_FREQUENCY = 10.0  # of the official code
SLOWEST, FASTEST = math.log(100) / 1.5, math.log(100) / 0.3  # decay over an image, official


def offsets(size: int, device: torch.device) -> Tensor:
    """Return the order of a circular filter, 0, 1, ..., size - 1, -size, ..., -1, as int64."""
    return (torch.arange(2 * size, device=device) + size) % (2 * size) - size


def position_features(y: Tensor, x: Tensor) -> Tensor:
    """Return the features of (2H,) and (2W,) in units of the image's longer side, (2H, 2W, F).

    The position, and sine and cosine of one and two half turns a unit, along each axis.
    """
    columns = []
    for position, shape in ((y, (len(y), 1)), (x, (1, len(x)))):
        turns = [math.pi * band * position for band in (1, 2)]
        features = [position, *(f for t in turns for f in (t.sin(), t.cos()))]
        columns += [feature.view(shape).expand(len(y), len(x)) for feature in features]
    return torch.stack(columns, dim=-1)


def decay_rates(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (C,) between SLOWEST and FASTEST, spread evenly over any number of leading channels.

    By Fibonacci's lattice, so that a narrower subnet keeps its channels' rates and still has
    fast and slow ones.
    """
    spread = (torch.arange(channels, device=device) * 89 % 144).to(dtype) / 144
    return SLOWEST + (FASTEST - SLOWEST) * spread


class ImplicitFilter(nn.Module):
    """A filter of any size per channel, from a small network of the position.

    Two hidden layers with sine activation, then a window that decays exponentially with the
    offset along both axes, then division by the sum of magnitudes (the official code's
    `normalized`), so that no output of the filter exceeds its largest input. Positions are
    offsets in units of the longer side of the image: the same weights serve every resolution,
    and the filter covers the image at each. `skip` is the official code's bias: a tap at
    offset 0 outside the norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(HYENA_FEATURES, HYENA_HIDDEN)
        self.hidden2 = nn.Linear(HYENA_HIDDEN, HYENA_HIDDEN)
        self.out = nn.Linear(HYENA_HIDDEN, channels, bias=False)
        self.skip = nn.Parameter(torch.ones(channels))

    def forward(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """Return (C, 2H, 2W) in `dtype`; the tap of offset (dy, dx) is at [dy, dx], < 0 or not.

        Offsets reach from -(H - 1) to H - 1 and from -(W - 1) to W - 1; the tap between is 0.
        """
        device = self.skip.device
        dy, dx = offsets(height, device), offsets(width, device)
        longer = max(height, width)
        y, x = dy.to(dtype) / longer, dx.to(dtype) / longer
        z = position_features(y, x)
        for layer in (self.hidden1, self.hidden2):
            z = F.linear(z, layer.weight.to(dtype), layer.bias.to(dtype))
            z = torch.sin(SINE_FREQUENCY * z)
        taps = torch.einsum("hwf,cf->chw", z, self.out.weight.to(dtype))
        rates = decay_rates(len(taps), device, dtype)[:, None]
        window_y = torch.exp(-rates * y.abs()) * (dy > -height)
        window_x = torch.exp(-rates * x.abs()) * (dx > -width)
        taps = taps * (window_y[:, :, None] * window_x[:, None, :])
        norm = taps.abs().sum((1, 2), keepdim=True)
        return taps / norm.clamp(min=torch.finfo(dtype).tiny)


def long_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """Convolve every channel with its filter; pixels outside the image are 0.

    Args:
        x: (B, C, H, W), float32 or float64.
        taps: (C, 2H, 2W) as `ImplicitFilter` gives them.

    Returns:
        (B, C, H, W). Computed circularly on 2H x 2W, where nothing that wraps round reaches
        the image: O(T log T) for T = H * W.
    """
    height, width = x.shape[-2:]
    size = taps.shape[-2:]
    spectrum = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(taps)
    out: Tensor = torch.fft.irfft2(spectrum, s=size)
    return out[..., :height, :width]


class Hyena(nn.Module):
    """Hyena of order 2 in 2-D: (B, C, H, W) -> (B, out_channels, H, W), any H and W.

    x0 * (filter conv (x1 * v) + skip * x1 * v), where x0, x1 and v come from a 1x1 and a
    depthwise 3x3 convolution. Images know no before and after: the filter reaches as far in
    all four directions. Channels of `qkv` are ordered by channel, then x0, x1, v, so that
    leading channels are a narrower Hyena.

    Gates and convolution are computed in float32 at least, under autocast too: x1 * v leaves
    float16 where either exceeds 256, and CPUs have no transform of float16. In float32 they
    cannot overflow for any float16 input (65504^3 < 1e15), and `gated` bounds what is cast back.
    The filter is computed at every call.

    Source: Poli et al., Hyena Hierarchy, 2023, def. 3.1 and sec. 3.3,
    https://arxiv.org/abs/2302.10866; several axes after Zimerman and Wolf, Multi-Dimensional
    Hyena, 2023, https://arxiv.org/abs/2309.13600, with one filter for all directions.
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        channels = block.in_channels
        self.qkv = ConvNormAct(Convolution("qkv", channels, 3 * channels), eps)
        self.short = ConvNormAct(
            Convolution("short", 3 * channels, 3 * channels, 3, groups=3 * channels), eps
        )
        self.filter = ImplicitFilter(channels)
        self.proj = ConvNormAct(Convolution("proj", channels, block.out_channels, norm=True), eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map, (B, out_channels, H, W), in x's dtype."""
        x = self.short(self.qkv(x))
        batch, channels, height, width = x.shape
        dtype = x.dtype
        compute = torch.promote_types(dtype, torch.float32)
        with without_autocast(x):
            x0, x1, v = x.to(compute).reshape(batch, channels // 3, 3, height, width).unbind(2)
            v = x1 * v
            taps = self.filter(height, width, compute)
            y = long_convolution(v, taps) + self.filter.skip.to(compute)[:, None, None] * v
            y = gated(x0, y).to(dtype)
        x = self.proj(y)
        return x
