"""Pictures that nobody took, as networks see them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from supernet.weights.preprocessing import Preprocessing

Pictures = npt.NDArray[Any]  # (B, 3, H, W), float32 or uint8
COARSE, SHARE = 32, 0.7  # pixels of a patch of one colour, and how much of a picture it is


def noise(rng: np.random.Generator, batch: int, height: int, width: int) -> Pictures:
    """Draw pictures of patches and noise, uint8, so that networks do not give the same for all."""
    patches = rng.random((batch, 3, -(-height // COARSE), -(-width // COARSE)))
    coarse = np.kron(patches, np.ones((COARSE, COARSE)))[..., :height, :width]
    fine = rng.random((batch, 3, height, width))
    pixels: Pictures = np.rint(255 * (SHARE * coarse + (1 - SHARE) * fine)).astype(np.uint8)
    return pixels


def normalised(pixels: Pictures, seen: Preprocessing) -> Pictures:
    """Return uint8 pictures as a network sees them, float32."""
    mean, std = (np.array(triple).reshape(1, 3, 1, 1) for triple in (seen.mean, seen.std))
    result: Pictures = ((pixels / 255 - mean) / std).astype(np.float32)
    return result


def pixels_of(pictures: Pictures, seen: Preprocessing) -> Pictures:
    """Return normalised pictures as uint8."""
    mean, std = (np.array(triple).reshape(1, 3, 1, 1) for triple in (seen.mean, seen.std))
    pixels: Pictures = np.rint(255 * (pictures * std + mean)).clip(0, 255).astype(np.uint8)
    return pixels
