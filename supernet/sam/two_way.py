"""The transformer of SAM's mask decoder: prompt tokens and image attend to each other.

B prompts, N prompt tokens, T image tokens, C channels.

Source: Kirillov et al., Segment Anything, 2023, appendix A, https://arxiv.org/abs/2304.02643
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention in C / downsample channels.

    queries (B, N, C), keys and values (B or 1, T, C) -> (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        """Raises ValueError unless `num_heads` divides the inner channels."""
        super().__init__()
        inner = dim // downsample
        if inner % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide {inner} channels")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map queries (B, N, C), keys and values (B or 1, T, C) to (B, N, C)."""
        q = self._split(self.q_proj(queries))
        k = self._split(self.k_proj(keys))
        v = self._split(self.v_proj(values))
        num_prompts = max(len(q), len(k))
        # All prompts share one image up to the first block: it is projected once.
        q, k, v = (x.expand(num_prompts, -1, -1, -1) for x in (q, k, v))
        out: Tensor = self.out_proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear to `hidden` channels, ReLU, linear back."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        x = self.lin2(F.relu(self.lin1(x)))
        return x


class TwoWayBlock(nn.Module):
    """Tokens attend to each other, then to the image; then the image attends to the tokens.

    Positions are added to queries and keys, never to values. The first block's tokens are
    their own positions, so its self-attention adds none and replaces its input.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, downsample: int, eps: float, *, first: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = FeedForward(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.norm4 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample)

    def forward(
        self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, C) and image (B or 1, T, C) to tokens (B, N, C), image (B, T, C)."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_positions
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)

        placed_image = image + image_positions
        q = tokens + token_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(q, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))

        k = tokens + token_positions
        image = self.norm4(image + self.cross_attn_image_to_token(placed_image, k, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """A few `TwoWayBlock`s, and a last look of the tokens at the image."""

    def __init__(
        self,
        dim: int = 256,
        *,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        downsample: int = 2,
        eps: float = 1e-6,
    ) -> None:
        """
        Args:
            downsample: channels per channel of an attention between tokens and image.
            eps: of the layer norms; 1e-6 in EfficientViT-SAM, 1e-5 in SAM.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, mlp_dim, downsample, eps, first=index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample)
        self.norm_final_attn = nn.LayerNorm(dim, eps=eps)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Relate prompts and image.

        Args:
            image: (B or 1, C, H, W).
            positions: of the image, (1, C, H, W).
            tokens: (B, N, C); they are their own positions.

        Returns:
            tokens (B, N, C) and image (B, H W, C).
        """
        token_positions = tokens
        keys = image.flatten(2).transpose(1, 2)
        key_positions = positions.flatten(2).transpose(1, 2)
        for block in self.layers:
            tokens, keys = block(tokens, keys, token_positions, key_positions)
        q = tokens + token_positions
        tokens = tokens + self.final_attn_token_to_image(q, keys + key_positions, keys)
        return self.norm_final_attn(tokens), keys
