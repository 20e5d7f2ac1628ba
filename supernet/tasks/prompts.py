"""Random prompts for the objects of a picture, and the loss of what a decoder makes of them.

B batch, P prompts of a picture, half of them boxes and half points; H height, W width.
"""

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from results.errors import DataError
from supernet.sam.model import FOREGROUND, FRAME, PADDING, MaskDecoder, PromptEncoder
from supernet.sam.predictor import LOW_RESOLUTION, resized
from supernet.tasks.annotated_pictures import AnnotatedPicture, Mask, box_of
from supernet.tasks.losses import prompt_loss

PROMPTS = 8  # a picture; official: 64
POINTS = 10  # at most, of a prompt; official


class NoObjectError(DataError):
    """A picture has nothing to ask for."""


class Prompts(NamedTuple):
    """What to find in a picture, coordinates in SAM's frame of 1024 pixels; a batch adds B."""

    boxes: Tensor  # (P / 2, 4)
    points: Tensor  # (P / 2, POINTS, 2)
    labels: Tensor  # (P / 2, POINTS), 1, or -1 for no point
    masks: Tensor  # (P, 256, 256), uint8, first those of boxes


def ask(picture: AnnotatedPicture, rng: np.random.Generator, *, mirrored: bool) -> Prompts:
    """Choose random objects, again where there are few; return boxes or points for them.

    Objects without a pixel are passed over. Raises NoObjectError where nothing is left.
    """
    height, width = picture.pixels.shape[:2]
    scale = FRAME / max(height, width)
    masks: list[Mask] = []
    order = rng.permutation(len(picture.instances))
    for number in order:
        mask = picture.instances[number].decode()
        if mask.any():
            masks.append(mask[:, ::-1] if mirrored else mask)
        if len(masks) == PROMPTS:
            break
    if not masks:
        raise NoObjectError(f"{picture.path} has no object to ask for")
    masks = [masks[i % len(masks)] for i in range(PROMPTS)]
    half = PROMPTS // 2
    boxes = np.array([box_of(mask) for mask in masks[:half]]) * scale
    points = np.zeros((half, POINTS, 2))
    labels = np.full((half, POINTS), PADDING)
    for row, mask in enumerate(masks[half:]):
        inside = np.flatnonzero(mask)
        count = int(rng.integers(1, POINTS + 1))
        y, x = np.divmod(inside[rng.integers(len(inside), size=count)], width)
        points[row, :count] = (np.stack([x, y], 1) + 0.5) * scale - 0.5
        labels[row, :count] = FOREGROUND
    return Prompts(
        torch.from_numpy(boxes).float(),
        torch.from_numpy(points).float(),
        torch.from_numpy(labels),
        torch.from_numpy(np.stack([low_resolution(mask) for mask in masks])),
    )


def low_resolution(mask: Mask) -> NDArray[np.uint8]:
    """Return (H, W) as the decoder's masks have it: (256, 256), the picture at the top left."""
    height, width = resized(mask.shape[0], mask.shape[1], LOW_RESOLUTION)
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX)) > 127
    padded = np.zeros((LOW_RESOLUTION, LOW_RESOLUTION), np.uint8)
    padded[:height, :width] = small
    return padded


def decoded_loss(embedding: Tensor, prompts: Prompts, decoder: nn.Module) -> Tensor:
    """Return SAM's loss of all prompts of a batch, half of them boxes and half points.

    Args:
        embedding: (B, C, h, w).
        decoder: with SAM's `prompt_encoder` and `mask_decoder`.
    """
    encoder = cast(PromptEncoder, decoder.prompt_encoder)
    half = prompts.boxes.shape[1]
    kinds = (
        encoder(boxes=prompts.boxes.flatten(0, 1)),
        encoder(points=prompts.points.flatten(0, 1), labels=prompts.labels.flatten(0, 1)),
    )
    total = embedding.new_zeros((), dtype=torch.float32)
    for (tokens, dense), masks in zip(
        kinds, (prompts.masks[:, :half], prompts.masks[:, half:]), strict=True
    ):
        logits, predicted_iou = cast(MaskDecoder, decoder.mask_decoder)(
            embedding.repeat_interleave(half, dim=0).to(tokens.dtype),
            encoder.image_positions(),
            tokens,
            dense,
            multimask=True,
        )
        total = total + prompt_loss(logits, predicted_iou, masks.flatten(0, 1)) / 2
    return total
