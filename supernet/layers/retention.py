"""Retention: attention whose weights decay with distance instead of passing a softmax.

B batch, C channels, H height, W width; N heads, D head dim; S = TILE tokens a side of a tile.
T = H * W tokens, or the length of an axis that is cut into M chunks of L.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.blocks import Block
from supernet.convolutions import Convolution
from supernet.layers.convolutions import ConvNormAct
from supernet.layers.precision import gated, without_autocast

TILE = 8  # tokens a side; work within tiles grows with their area, states get fewer
LONGEST_CHUNK = 32  # states that one small matrix sums
MOST_PARALLEL_TOKENS = 400  # up to here the T x T map is the faster form


def decays(num_heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return gamma of each head, (N,): 1 - 2^-2, ..., 1 - 2^-5.5, near and far mixed.

    RetNet's 1 - 2^(-5 - head) means sequences of thousands; on a feature map most heads would
    not decay at all. RMT spreads exponents 2 to 6 over its heads, here eight heads. They do
    not depend on the number of heads, so that the leading heads are those of a narrower layer.

    Source: Fan et al., RMT, 2023, https://arxiv.org/abs/2309.11523, official code
    """
    exponent = 2 + (torch.arange(num_heads, device=device) * 5 % 8).to(dtype) / 2
    return 1 - torch.exp2(-exponent)


def decay_matrix(gamma: Tensor, size: int) -> Tensor:
    """Return gamma^|i - j|, (N,) -> (N, size, size)."""
    i = torch.arange(size, device=gamma.device)
    matrix: Tensor = gamma[:, None, None] ** (i[:, None] - i).abs()
    return matrix


def parallel_retention(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """Sum over all tokens of gamma^(|dy| + |dx|) (q . k) v: the definition, by the T x T map.

    Args:
        q, k, v: (B, N, H, W, D).
        gamma: (N,), between 0 and 1.

    Returns:
        (B, N, H, W, D).

    Source: Sun et al., Retentive Network, 2023, eq. 5, https://arxiv.org/abs/2307.08621, with
    the bidirectional 2-D decay of Fan et al., RMT, 2023, eq. 4.
    """
    height, width = q.shape[2:4]
    rows, columns = decay_matrix(gamma, height), decay_matrix(gamma, width)
    decay = rows[:, :, None, :, None] * columns[:, None, :, None, :]
    tokens = height * width
    weights = q.flatten(2, 3) @ k.flatten(2, 3).transpose(-1, -2)
    weights = weights * decay.reshape(-1, tokens, tokens)
    out = weights @ v.flatten(2, 3)
    return out.view(*q.shape[:4], -1)


def linear_retention(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """Compute `parallel_retention`, but for rounding, in time and memory linear in H and in W.

    The decay is a product of one along y and one along x, and gamma^distance is a product of
    the ways to a tile's end, over whole tiles, and from a tile's start. The image is cut into
    tiles of S x S. A query sees
    - the tokens of its tile through a map of S^2 x S^2;
    - the tiles left and right of its own column of tiles, in any row, through D x D states
      (sums of decayed k v^T) of one row of one tile, carried along x and spread along y;
    - the tiles above and below in its own column of tiles through such states of one column
      of one tile, carried along y and spread within the tile along x.
    There is a state for every S tokens, not for every token: a recurrence over tokens, which
    is what `supernet.cost` counts, would hold D times q, k and v.
    """
    height, width = q.shape[2:4]
    padding = (0, 0, 0, -width % TILE, 0, -height % TILE)
    q, k, v = (F.pad(x, padding) for x in (q, k, v))
    out = _within_tiles(q, k, v, gamma) + _from_sides(q, k, v, gamma, whole_columns=True)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    out = out + _from_sides(q, k, v, gamma, whole_columns=False).transpose(2, 3)
    return out[:, :, :height, :width]


def _within_tiles(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """Return what comes from the S x S tile of each token, (B, N, H, W, D)."""

    def tiles(x: Tensor) -> Tensor:  # (B, N, H / S, W / S, S * S, D)
        return _cut(_cut(x, 2), 4).transpose(3, 4).flatten(4, 5)

    axis = decay_matrix(gamma, TILE)
    decay = axis[:, :, None, :, None] * axis[:, None, :, None, :]
    decay = decay.reshape(-1, 1, 1, TILE**2, TILE**2)
    out = (tiles(q) @ tiles(k).mT * decay) @ tiles(v)
    out = out.view(*out.shape[:4], TILE, TILE, -1)
    return out.transpose(3, 4).reshape(q.shape)


def _from_sides(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, *, whole_columns: bool) -> Tensor:
    """Return what comes from the tiles left and right of each token's own, (B, N, H, W, D).

    From all rows, or from those of the same row of tiles only.
    """
    left = _from_left(q, k, v, gamma, whole_columns)
    q, k, v = (x.flip(3) for x in (q, k, v))
    return left + _from_left(q, k, v, gamma, whole_columns).flip(3)


def _from_left(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, whole_columns: bool) -> Tensor:
    def strips(x: Tensor) -> Tensor:  # (B, N, W / S, H, S, D)
        return _cut(x, 3).transpose(2, 3)

    t = torch.arange(TILE, device=q.device)[:, None]
    gammas = gamma.view(-1, 1, 1, 1, 1)
    states = (strips(k) * gammas ** (TILE - 1 - t)).mT @ strips(v)
    shape = states.shape  # (B, N, W / S, H, D, D)
    states = _sum_before(states.flatten(3), gamma**TILE).view(*shape[:4], -1)
    if whole_columns:
        states = _sum_all(states, gamma)
    else:
        states = decay_matrix(gamma, TILE)[:, None, None] @ _cut(states, 3)
    out = (strips(q) * gammas ** (t + 1)) @ states.view(shape)
    return out.transpose(2, 3).reshape(q.shape)


def _cut(x: Tensor, dim: int) -> Tensor:
    """Cut (..., H, ...) into (..., H / S, S, ...) at `dim`, which S divides."""
    return x.reshape(*x.shape[:dim], -1, TILE, *x.shape[dim + 1 :])


def _sum_before(x: Tensor, gamma: Tensor) -> Tensor:
    """Sum gamma^(t - 1 - i) x_i over i < t at each t, (B, N, ..., T, any), along T; linear.

    Within a chunk by a small matrix, between chunks by the same function on their sums.
    """
    length = x.shape[-2]
    x = _chunks(x)
    size = x.shape[-2]
    gammas = gamma.view(-1, *[1] * (x.ndim - 2))
    t = torch.arange(size, device=x.device)[:, None]
    gap = t - t.mT - 1
    out = (gammas ** gap.clamp(min=0) * (gap >= 0)) @ x
    if length > size:
        before = _sum_before(_total(x, gammas ** (size - 1 - t)), gamma**size)
        out = torch.addcmul(out, gammas**t, before.unsqueeze(-2))
    return out.flatten(-3, -2)[..., :length, :]


def _sum_all(x: Tensor, gamma: Tensor) -> Tensor:
    """Sum gamma^|t - i| x_i over all i at each t, (B, N, ..., T, any), along T; linear."""
    length = x.shape[-2]
    x = _chunks(x)
    size = x.shape[-2]
    gammas = gamma.view(-1, *[1] * (x.ndim - 2))
    t = torch.arange(size, device=x.device)[:, None]
    out = gammas ** (t - t.mT).abs() @ x
    if length > size:
        before = _sum_before(_total(x, gammas ** (size - 1 - t)), gamma**size)
        after = _sum_before(_total(x, gammas**t).flip(-2), gamma**size).flip(-2)
        out = torch.addcmul(out, gammas ** (t + 1), before.unsqueeze(-2))
        out = torch.addcmul(out, gammas ** (size - t), after.unsqueeze(-2))
    return out.flatten(-3, -2)[..., :length, :]


def _chunks(x: Tensor) -> Tensor:
    """Cut (..., T, any) into (..., M, L, any), zeros at the end, L <= LONGEST_CHUNK, least M."""
    length = x.shape[-2]
    number = -(-length // LONGEST_CHUNK)
    size = -(-length // number)
    x = F.pad(x, (0, 0, 0, number * size - length))
    return x.reshape(*x.shape[:-2], number, size, x.shape[-1])


def _total(x: Tensor, weights: Tensor) -> Tensor:
    """Sum each chunk with weights, (..., M, L, any) and (..., L, 1) -> (..., M, any)."""
    return (weights.mT @ x).squeeze(-2)


def decay_sums(gamma: Tensor, size: int) -> Tensor:
    """Return the sums of the rows of `decay_matrix`, in closed form, (N,) -> (N, size)."""
    i = torch.arange(size, device=gamma.device)
    gamma = gamma[:, None]
    return (1 + gamma - gamma ** (i + 1) - gamma ** (size - i)) / (1 - gamma)


class Retention(nn.Module):
    """Multi-scale retention in 2-D: (B, C, H, W) -> (B, out_channels, H, W), any H and W.

    swish(g) * group_norm(retention(q, k, v)), each head with a decay and a group of its own.
    Retention is divided by sqrt(D) and by the sum of decays at each token, which changes
    nothing but for the norm's epsilon and keeps all sums within the largest product.
    Channels of `qkvg` are ordered by head, then q, k, v, g. RetNet's rotation of q and k by their
    position (xPos) is left out: it tells orders of words apart, and images have none.

    All between the projections is computed in float32 at least, under autocast too: for
    float16 inputs no product exceeds 65504^3 D, its square is in float32's range, and
    `gated` bounds what is cast back.

    Source: Sun et al., Retentive Network, 2023, eq. 8, https://arxiv.org/abs/2307.08621; decay
    in 2-D of Fan et al., RMT, 2023, https://arxiv.org/abs/2309.11523
    """

    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        self.head_dim = block.head_dim
        total = block.num_heads * block.head_dim
        self.qkvg = ConvNormAct(Convolution("qkvg", block.in_channels, 4 * total), eps)
        self.norm = nn.GroupNorm(block.num_heads, total, eps=eps)
        self.proj = ConvNormAct(Convolution("proj", total, block.out_channels, norm=True), eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map, (B, out_channels, H, W), in x's dtype."""
        x = self.qkvg(x)
        batch, channels, height, width = x.shape
        heads = channels // (4 * self.head_dim)
        dtype = x.dtype
        compute = torch.promote_types(dtype, torch.float32)
        with without_autocast(x):
            x = x.to(compute).reshape(batch, heads, 4, self.head_dim, height, width)
            q, k, v, g = x.permute(2, 0, 1, 4, 5, 3).unbind()  # each (B, N, H, W, D)
            gamma = decays(q.shape[1], x.device, compute)
            parallel = height * width <= MOST_PARALLEL_TOKENS
            retain = parallel_retention if parallel else linear_retention
            y = retain(q * self.head_dim**-0.5, k, v, gamma)
            rows, columns = decay_sums(gamma, height), decay_sums(gamma, width)
            y = y / (rows[:, :, None] * columns[:, None, :])[..., None]
            y = gated(F.silu(g), self._normalise(y))
            y = y.permute(0, 1, 4, 2, 3)
            y = y.reshape(batch, heads * self.head_dim, height, width).to(dtype)
        x = self.proj(y)
        return x

    def _normalise(self, x: Tensor) -> Tensor:
        """Normalise each token's D values of each head, (B, N, H, W, D)."""
        num_heads = x.shape[1]
        x = F.layer_norm(x, x.shape[-1:], eps=self.norm.eps)
        weight, bias = (
            parameter.to(x.dtype).view(num_heads, 1, 1, -1)
            for parameter in (self.norm.weight, self.norm.bias)
        )
        return x * weight + bias
