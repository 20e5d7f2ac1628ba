"""Promptable segmentation: SAM's prompt encoder and mask decoder behind any image encoder.

Parts are named as in `segment_anything`, so published weights load.
B prompts, N points of a prompt, C channels, H height, W width, M masks of a prompt.

Source: Kirillov et al., Segment Anything, 2023, https://arxiv.org/abs/2304.02643
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from results.errors import ArchError
from supernet.arch import Arch
from supernet.layers.convolutions import LayerNorm2d
from supernet.sam.two_way import TwoWayTransformer

FRAME = 1024  # side of the square that prompts are placed in, whatever the encoder reads
PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of points


class RandomFourierPositions(nn.Module):
    """Places in the unit square as sines and cosines of random frequencies.

    The frequencies stay float32 where the model is cast to less: in float16 a click would land
    next to where it was meant.

    Source: Tancik et al., Fourier Features, 2020, https://arxiv.org/abs/2006.10739
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = torch.randn(2, dim // 2)  # ~ N(0, 1)
        self.register_buffer("positional_encoding_gaussian_matrix", frequencies)

    def forward(self, places: Tensor) -> Tensor:
        """Embed positions, x and y in 0..1, (..., 2), as (..., C) of the frequencies' dtype."""
        frequencies = self.positional_encoding_gaussian_matrix
        phase = 2 * math.pi * ((2 * places.to(frequencies.dtype) - 1) @ frequencies)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Return the embedded positions of all cells' centres, (C, height, width)."""
        frequencies = self.positional_encoding_gaussian_matrix
        x = (torch.arange(width).to(frequencies) + 0.5) / width
        y = (torch.arange(height).to(frequencies) + 0.5) / height
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        positions: Tensor = self(places)
        return positions.movedim(-1, 0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = self.positional_encoding_gaussian_matrix
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.positional_encoding_gaussian_matrix
        if after.dtype.itemsize < torch.float32.itemsize:
            self.positional_encoding_gaussian_matrix = before.to(after.device)
        return self


class PromptEncoder(nn.Module):
    """Embeds points and boxes as tokens, masks as an image."""

    def __init__(
        self,
        dim: int = 256,
        *,
        embedding_size: tuple[int, int] = (64, 64),
        frame: tuple[int, int] = (FRAME, FRAME),
        mask_channels: int = 16,
    ) -> None:
        """
        Args:
            embedding_size: height and width of the image embedding.
            frame: height and width of the picture that coordinates refer to, pixels.
            mask_channels: hidden channels of the mask's embedding.
        """
        super().__init__()
        self.embedding_size = embedding_size
        self.frame = frame
        self.pe_layer = RandomFourierPositions(dim)
        # by label: background, foreground, top left and bottom right corner of a box
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def image_positions(self) -> Tensor:
        """Return positions of the embedding's cells, (1, C, H, W), in the dtype of the weights."""
        return self.pe_layer.grid(*self.embedding_size)[None].to(self.no_mask_embed.weight.dtype)

    def forward(
        self,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed B prompts, each of any mixture of points, one box and one mask.

        Args:
            points: (B, N, 2), x and y in pixels of the frame, float32 even in a half model.
            labels: (B, N), 1 foreground, 0 background, -1 no point at all (padding).
            boxes: (B, 4), x and y of the top left, then of the bottom right corner.
            masks: (B, 1, 4 H, 4 W), logits, for an embedding of H x W.

        Returns:
            tokens (B, N', C) and an image (B, C, H, W); without masks it is (1, C, H, W), as
            all prompts share it.

        Raises:
            ValueError: for points without labels or labels without points.
        """
        if (points is None) != (labels is None):
            raise ValueError("points and labels go together")
        corners = boxes.reshape(-1, 2, 2) if boxes is not None else None
        if points is not None and corners is None:
            corners = points.new_zeros(len(points), 1, 2)  # SAM was trained with such a padding
        if corners is None:
            num_prompts = 1 if masks is None else len(masks)
            tokens = self.no_mask_embed.weight.new_zeros(num_prompts, 0, self._dim)
        else:
            kinds = [TOP_LEFT, BOTTOM_RIGHT] if boxes is not None else [PADDING]
            corner_labels = torch.tensor(kinds, device=corners.device).expand(len(corners), -1)
            if points is not None and labels is not None:
                corners = torch.cat([points, corners], dim=1)
                corner_labels = torch.cat([labels.to(corner_labels), corner_labels], dim=1)
            tokens = self.embed(corners, corner_labels)
        if masks is None:
            dense = self.without_mask()
        else:
            dense = self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))
        return tokens, dense

    def without_mask(self) -> Tensor:
        """Return the image that stands for no mask, (1, C, H, W)."""
        return self.no_mask_embed.weight[:, :, None, None].expand(-1, -1, *self.embedding_size)

    @property
    def _dim(self) -> int:
        return self.no_mask_embed.embedding_dim

    def embed(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points, (B, N, 2), with labels, (B, N), as (B, N, C)."""
        height, width = self.frame
        centres = points + 0.5  # a coordinate names a pixel, its embedding the pixel's centre
        places = centres / centres.new_tensor([width, height])
        kinds = [self.not_a_point_embed, *self.point_embeddings]
        table = torch.cat([cast(nn.Embedding, kind).weight for kind in kinds])
        positions: Tensor = self.pe_layer(places).to(table.dtype)
        positions = positions.masked_fill((labels == PADDING)[..., None], 0)
        return positions + table[labels - PADDING]


class Perceptron(nn.Module):
    """Linear layers with ReLU in between, as many as there are steps between `widths`."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., the first of `widths`) to (..., the last)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x


class MaskDecoder(nn.Module):
    """Masks of prompts in an image, and how good each is.

    Mask 0 is for prompts that leave no doubt, the others are whole, part and part of a part.
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        num_multimasks: int = 3,
        iou_hidden: int = 256,
        eps: float = 1e-6,
    ) -> None:
        """Make a decoder with SAM's transformer.

        Args:
            num_multimasks: masks of a prompt that may mean several things.
            iou_hidden: width of the head that predicts the masks' quality.
            eps: of the transformer's layer norms; 1e-6 in EfficientViT-SAM, 1e-5 in SAM.
        """
        super().__init__()
        num_masks = num_multimasks + 1
        self.transformer = TwoWayTransformer(dim, eps=eps)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron([dim, dim, dim, dim // 8]) for _ in range(num_masks)
        )
        self.iou_prediction_head = Perceptron([dim, iou_hidden, iou_hidden, num_masks])

    @property
    def upscaling_norm(self) -> LayerNorm2d:
        """Return the normalisation of the image between its two enlargements."""
        return cast(LayerNorm2d, self.output_upscaling[1])

    def forward(
        self,
        embedding: Tensor,
        positions: Tensor,
        tokens: Tensor,
        dense: Tensor,
        *,
        multimask: bool | None = True,
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts, of one image or each of its own.

        Args:
            embedding: of the image, (1 or B, C, H, W).
            positions: of its cells, (1, C, H, W).
            tokens, dense: what `PromptEncoder` gives, (B, N, C) and (1 or B, C, H, W).
            multimask: the three masks of a doubtful prompt instead of the single one; None: all.

        Returns:
            mask logits (B, M, 4 H, 4 W) and predicted IoUs (B, M); M is 3, 1 or 4.
        """
        height, width = embedding.shape[-2:]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        output_tokens = output_tokens.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([output_tokens, tokens], dim=1)
        tokens, image = self.transformer(embedding + dense, positions, tokens)

        chosen = slice(None) if multimask is None else slice(1, None) if multimask else slice(0, 1)
        mask_tokens = tokens[:, 1 : 1 + self.mask_tokens.num_embeddings]
        filters = torch.stack(
            [
                network(token)
                for network, token in zip(
                    self.output_hypernetworks_mlps[chosen],
                    mask_tokens[:, chosen].unbind(1),
                    strict=True,
                )
            ],
            dim=1,
        )
        image = image.transpose(1, 2).unflatten(2, (height, width))
        upscaled = self.output_upscaling(image)
        logits = (filters @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        predicted_iou: Tensor = self.iou_prediction_head(tokens[:, 0])
        return logits, predicted_iou[:, chosen]


class PromptDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder, the same behind every image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()

    def decode(
        self,
        embedding: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return masks of B prompts in one embedded image, or in B of them.

        Args:
            embedding: what the image encoder gave, (1 or B, 256, 64, 64), any float dtype.
            points, labels, boxes, masks: see `PromptEncoder.forward`; coordinates refer to the
                image resized to a long side of 1024 pixels.
            multimask: three masks a prompt instead of one.

        Returns:
            mask logits (B, M, 256, 256), a mask where they are above 0, and predicted IoUs
            (B, M); both in the decoder's dtype.
        """
        tokens, dense = self.prompt_encoder(points, labels, boxes, masks)
        logits, predicted_iou = self.mask_decoder(
            embedding.to(tokens.dtype),
            self.prompt_encoder.image_positions(),
            tokens,
            dense,
            multimask=multimask,
        )
        return logits, predicted_iou


class Sam(PromptDecoder):
    """An image encoder, and SAM's prompt encoder and mask decoder on top of it."""

    def __init__(self, image_encoder: nn.Module) -> None:
        """`image_encoder`: (B, 3, S, S) -> (B, 256, 64, 64); its `arch.resolution` is (S, S).

        Raises ArchError where that is no square.
        """
        super().__init__()
        self.image_encoder = image_encoder
        height, width = self.arch.resolution
        if height != width:
            raise ArchError(f"pictures are padded to squares for prompts, not to {height}x{width}")

    @property
    def arch(self) -> Arch:
        """Return the Arch of the image encoder."""
        return cast(Arch, self.image_encoder.arch)

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Return how pictures must be prepared for the image encoder, in timm's terms."""
        return cast(dict[str, Any], self.image_encoder.default_cfg)

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Encode images (1 or B, 3, S, S), normalised and padded, and `decode` prompts in them."""
        embedding = self.image_encoder(images)
        return self.decode(embedding, points, labels, boxes, masks, multimask=multimask)
