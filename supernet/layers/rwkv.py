"""Vision-RWKV's spatial mix: every channel an average of its values over the whole image.

B batch, C channels, H height, W width, T = H * W tokens in rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.convolutions import Convolution
from supernet.layers.convolutions import ConvNormAct

LARGEST_EXPONENT = 40.0  # of decay and bonus: e^40 squared still is within float32


def quad_shift(x: Tensor) -> Tensor:
    """Move each channel of (B, C, H, W) by one pixel (Q-Shift); 0 comes in at the border.

    A quarter of the channels each takes its left, right, upper and lower neighbour. The paper
    takes contiguous quarters; here it is every fourth channel, so that the leading channels
    of a layer are shifted as they are in a narrower one.

    Source: Duan et al., Vision-RWKV, 2024, eq. 4, https://arxiv.org/abs/2403.02308
    """
    batch, channels, height, width = x.shape
    x = F.pad(x, (1, 1, 1, 1, 0, -channels % 4))
    left, right = x[:, 0::4, 1:-1, :-2], x[:, 1::4, 1:-1, 2:]
    above, below = x[:, 2::4, :-2, 1:-1], x[:, 3::4, 2:, 1:-1]
    shifted = torch.stack((left, right, above, below), dim=2)
    padded = channels + -channels % 4
    return shifted.reshape(batch, padded, height, width)[:, :channels]


def bi_wkv(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> Tensor:
    """Compute bidirectional WKV in time linear in T, finite for any finite k.

    Token i weighs exp(k_i - decay (|t - i| - 1) / T) at token t, and exp(k_t + bonus) at
    itself; the result is the weighted average of v. RWKV keeps a running maximum of the
    exponents, as a token there may see nothing but what underflows. Here every token sees all
    others, at no less than exp(-|decay|): one maximum of k per channel will do, and the two
    directions are cumulative sums.

    Args:
        k, v: (B, C, T), float32 or float64.
        decay, bonus: (C,), any sign; beyond +-40 they count as +-40.

    Returns:
        (B, C, T), never beyond the largest magnitude of v but for rounding.

    Source: Duan et al., Vision-RWKV, 2024, eq. 5, https://arxiv.org/abs/2403.02308
    """
    tokens = k.shape[-1]
    decay = decay.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)[:, None]
    bonus = bonus.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)[:, None]
    position = torch.arange(tokens, device=k.device, dtype=k.dtype) / tokens - 0.5
    grow, fade = (decay * position).exp(), (-decay * position).exp()
    nearest = (decay / tokens).exp()  # a neighbour is not decayed
    weight = (k - k.amax(-1, keepdim=True).detach()).exp()
    terms = torch.stack((weight * v, weight))  # numerator and denominator
    before = (terms * grow).cumsum(-1)
    after = (terms * fade).flip(-1).cumsum(-1).flip(-1)
    before = F.pad(before[..., :-1], (1, 0)) * (fade * nearest)
    after = F.pad(after[..., 1:], (0, 1)) * (grow * nearest)
    above, below = (before + after + terms * bonus.exp()).unbind()
    return above / below


class RWKV(nn.Module):
    """sigmoid(r) * bi_wkv(k, v): (B, C, H, W) -> (B, out_channels, H, W), any H and W.

    r, k and v are 1x1 convolutions of three mixtures of a token and its shifted neighbours.
    WKV is computed in float32 at least; it is an average of v and thus fits v's dtype.

    Source: Duan et al., Vision-RWKV, 2024, sec. 3.2, https://arxiv.org/abs/2403.02308
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        channels = block.in_channels
        ramp = (torch.arange(channels) * 89 % 144) / 144  # even over any leading channels
        self.mix = nn.Parameter(torch.stack((ramp.sqrt(), ramp, ramp)))  # of r, k and v
        self.receptance = ConvNormAct(Convolution("receptance", channels, channels), eps)
        self.key = ConvNormAct(Convolution("key", channels, channels), eps)
        self.value = ConvNormAct(Convolution("value", channels, channels), eps)
        self.decay = nn.Parameter(8 * ramp**0.7 - 5)
        self.bonus = nn.Parameter(torch.arange(channels) % 3 * 0.5 - 0.5 + torch.tensor(0.3).log())
        self.proj = ConvNormAct(Convolution("proj", channels, block.out_channels, norm=True), eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map, (B, out_channels, H, W)."""
        shifted = quad_shift(x)
        mix = self.mix[:, :, None, None]
        # not shifted + mix * (x - shifted): that difference can leave float16
        mixed_r, mixed_k, mixed_v = (m * x + (1 - m) * shifted for m in mix.unbind())
        r, k, v = self.receptance(mixed_r), self.key(mixed_k), self.value(mixed_v)
        compute = torch.promote_types(v.dtype, torch.float32)
        k, values = k.flatten(2).to(compute), v.flatten(2).to(compute)
        wkv = bi_wkv(k, values, self.decay.to(compute), self.bonus.to(compute))
        x = torch.sigmoid(r) * wkv.view(v.shape).to(v.dtype)
        x = self.proj(x)
        return x
