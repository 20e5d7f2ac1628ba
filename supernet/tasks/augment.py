"""Variations of training pictures with Pillow and numpy alone, from a numpy generator.

Labels of dense tasks move along. H height, W width; pictures are RGB, 8 bits.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from supernet.pictures import IGNORED, Normalisation, hw, normalise, to_tensor
from supernet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
GREY = (124, 116, 104)  # ImageNet's mean colour, where nothing is
ASPECTS = (3 / 4, 4 / 3)
ERASED_AREA, ERASED_ASPECTS = (0.02, 1 / 3), (0.3, 1 / 0.3)
TRIES = 10
Operation = Callable[[Image.Image, float, float], Image.Image]


def random_resized_crop(
    image: Image.Image,
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float],
) -> Image.Image:
    """Return a part of the area in `scale`, its aspect near that of `size`, (H, W), at that size.

    Source: Szegedy et al., 2015, https://arxiv.org/abs/1409.4842; as torchvision's, relative to
    the aspect of `size`. With scale (1, 1) it is the largest centred part of that aspect.
    """
    height, width = hw(image)
    target = size[1] / size[0]
    for _ in range(TRIES if scale != (1.0, 1.0) else 0):
        area = height * width * rng.uniform(*scale)
        aspect = target * _log_uniform(rng, ASPECTS)
        wide, tall = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and tall <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
            return _resize(image, size, (left, top, left + wide, top + tall))
    wide = min(width, height * target)
    tall = wide / target
    left, top = (width - wide) / 2, (height - tall) / 2
    return _resize(image, size, (left, top, left + wide, top + tall))


def _resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    width, height = image.size
    box = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def prepared(
    pixels: Image.Image | NDArray[np.uint8], normalisation: Normalisation = IMAGENET
) -> Tensor:
    """Return a picture, (H, W, 3), as networks see it: (3, H, W), float32, normalised."""
    return normalise(to_tensor(pixels), *normalisation)


def flip(image: Image.Image) -> Image.Image:
    """Return the picture mirrored left to right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def rand_augment(
    image: Image.Image, rng: np.random.Generator, number: int, magnitude: float
) -> Image.Image:
    """Return a picture after `number` random operations, each applied to half of all pictures.

    Args:
        magnitude: 0 to 10, the mean of a normal distribution of standard deviation 1; its sign
            is drawn, too.

    Source: Cubuk et al., RandAugment, 2019, https://arxiv.org/abs/1909.13719; noise and share
    as in timm's rand-mstd1, which the official recipe uses.
    """
    for _ in range(number):
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        strength = min(max(rng.normal(magnitude, 1), 0), 10) / 10
        if rng.random() < 0.5:
            image = operation(image, strength, sign)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _shear_x(image: Image.Image, m: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0.3 * m * sign, 0, 0, 1, 0)


def _shear_y(image: Image.Image, m: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0.3 * m * sign, 1, 0)


def _translate_x(image: Image.Image, m: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, 0.45 * m * sign * image.width, 0, 1, 0)


def _translate_y(image: Image.Image, m: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, 0.45 * m * sign * image.height)


def _rotate(image: Image.Image, m: float, sign: float) -> Image.Image:
    return image.rotate(30 * m * sign, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, m, sign: kind(image).enhance(1 + 0.9 * m * sign)


OPERATIONS: tuple[Operation, ...] = (
    lambda image, m, sign: ImageOps.autocontrast(image),
    lambda image, m, sign: ImageOps.equalize(image),
    lambda image, m, sign: ImageOps.solarize(image, 256 - round(256 * m)),
    lambda image, m, sign: ImageOps.posterize(image, 8 - round(4 * m)),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
)


def erase(x: Tensor, rng: np.random.Generator) -> None:
    """Fill a random rectangle of x, (3, H, W), normalised, with noise.

    Source: Zhong et al., Random Erasing, 2017, https://arxiv.org/abs/1708.04896
    """
    height, width = x.shape[1:]
    for _ in range(TRIES):
        area = height * width * rng.uniform(*ERASED_AREA)
        aspect = _log_uniform(rng, ERASED_ASPECTS)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            noise = rng.standard_normal((3, tall, wide), np.float32)
            x[:, top : top + tall, left : left + wide] = x.new_tensor(noise)
            return


def scaled_crop(
    image: Image.Image,
    labels: NDArray[np.uint8],
    size: tuple[int, int],
    rng: np.random.Generator,
    jitter: tuple[float, float],
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Return a part of a picture and of its labels, both of `size`, (H, W).

    The picture is scaled such that it would cover `size`, times a factor in `jitter`, then cut
    at random; what lies beyond it is grey and ignored.
    """
    height, width = hw(image)
    factor = max(size[0] / height, size[1] / width)
    factor *= _log_uniform(rng, jitter)
    tall, wide = (min(a, max(1, round(b * factor))) for a, b in zip(size, hw(image), strict=True))
    top = rng.uniform(0, max(0.0, height - tall / factor))
    left = rng.uniform(0, max(0.0, width - wide / factor))
    box = (left, top, min(left + wide / factor, width), min(top + tall / factor, height))
    part = image.resize((wide, tall), Image.Resampling.BICUBIC, box=box)
    named = Image.fromarray(labels).resize((wide, tall), Image.Resampling.NEAREST, box=box)
    if (tall, wide) == size:
        return part, np.array(named)
    canvas = Image.new("RGB", size[::-1], GREY)
    padded = np.full(size, IGNORED, np.uint8)
    down, right = rng.integers(size[0] - tall + 1), rng.integers(size[1] - wide + 1)
    canvas.paste(part, (int(right), int(down)))
    padded[down : down + tall, right : right + wide] = np.array(named)
    return canvas, padded


def photometric(
    pixels: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Return (H, W, 3) with brightness, contrast and saturation changed by up to `strength`."""
    if not strength:
        return pixels
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3)
    x = pixels.astype(np.float32) * np.float32(brightness)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = grey.mean()
    x = (x - grey[..., None]) * np.float32(saturation) + grey[..., None]
    x = (x - mean) * np.float32(contrast) + mean
    changed: NDArray[np.uint8] = x.clip(0, 255).astype(np.uint8)
    return changed


def _log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1])))
