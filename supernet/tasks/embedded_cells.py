"""Embedded pictures for segmentation: warped cells, thin curves, and a lamp that renames them.

Cells have one of six textures, in any colours. A lamp hangs in every picture: a ring with a
dark or a bright middle, and where it is dark the cells' classes swap in pairs, so that a
network must see far. Curves a pixel or two wide need resolution. H height, W width.
"""

import math

import numpy as np
from numpy.typing import NDArray

from supernet.tasks.embedded_shapes import Field, grid, pattern

NUM_TEXTURES = 6  # flat, wide and narrow stripes, checks, dots, grain
CURVE, LAMP = 6, 7
CLASSES = ("a", "b", "c", "d", "e", "f", "curve", "lamp")
PARTNER = (1, 0, 3, 2, 5, 4)  # of a cell's class where the lamp is dark
FEWEST, MOST = 7, 14  # cells


def draw_cells(
    size: tuple[int, int], rng: np.random.Generator, difficulty: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a picture, (H, W, 3), and the class of every pixel, (H, W).

    The same `rng` gives the same scene at every size; only the noise differs.

    Args:
        difficulty: 0 to 1: less contrast, more warp and noise.
    """
    y, x = grid(size)
    numbers = rng.random(48)
    count = FEWEST + int(numbers[0] * (MOST - FEWEST + 1))
    places = rng.uniform(-1, 1, (MOST, 2))[:count]
    textures = rng.integers(0, NUM_TEXTURES, MOST)[:count]
    colours = _colours(rng, difficulty)
    dark = bool(numbers[1] < 0.5)

    cell = _nearest(_warped(x, y, numbers[2:8], 0.1 + 0.25 * difficulty), places)
    kind = textures[cell]
    wave = _waves(x, y, numbers[8:26], rng.random(2))
    shade = np.take_along_axis(wave, kind[None], axis=0)[0]
    shade *= 1 - 0.4 * difficulty
    low, high = colours[:MOST][cell], colours[MOST : 2 * MOST][cell]
    picture = low + (high - low) * shade[..., None]

    labels = (np.array(PARTNER) if dark else np.arange(NUM_TEXTURES)).astype(np.uint8)[kind]
    for number in range(1 + int(3 * numbers[26])):
        near = _curve(x, y, rng.random(5), longest=max(size))
        ink = colours[2 * MOST + number]
        picture += (ink - picture) * near[..., None]
        labels[near > 0.5] = CURVE
    _hang_lamp(picture, labels, x, y, numbers[27:30], dark)
    picture *= (1 + 0.2 * (numbers[30] - 0.5) * x + 0.2 * (numbers[31] - 0.5) * y)[..., None]
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(3 + 18 * difficulty)
    pixels: NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
    return pixels, labels


def _warped(
    x: Field, y: Field, numbers: NDArray[np.float64], strength: float
) -> tuple[Field, Field]:
    """Return x and y, (H, W) each, moved by smooth waves."""
    a, b, c, d = (np.float32(2 * math.pi * number) for number in numbers[:4])
    wide = 2 + 3 * numbers[4:6].astype(np.float32)
    s = np.float32(strength)
    return (
        x + s * np.sin(wide[0] * y + a) * np.cos(x + b),
        y + s * np.sin(wide[1] * x + c) * np.cos(y + d),
    )


def _nearest(xy: tuple[Field, Field], places: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the nearest place, (H, W)."""
    x, y = xy
    px, py = places.astype(np.float32).T[..., None, None]
    # |p - q|^2 without |q|^2, which is the same for all places
    distance = px * px + py * py - 2 * (px * x + py * y)
    nearest: NDArray[np.intp] = distance.argmin(0)
    return nearest


def _waves(
    x: Field, y: Field, numbers: NDArray[np.float64], grain: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return all textures over the whole picture, (6, H, W), in 0 to 1."""
    n = numbers.reshape(6, 3)
    shape = (y.shape[0], x.shape[1])
    speckle = np.sin(x * 91.7 + y * 57.3 + 6.28 * grain[0]) * np.sin(x * 39.1 - y * 83.9)
    return np.stack(
        [
            np.full(shape, 0.5, np.float32),
            pattern(0, x, y, 5 + n[1, 2], n[1, 0], n[1, 1]),
            pattern(0, x, y, 11 + n[2, 2], n[2, 0], n[2, 1]),
            pattern(1, x, y, 7 + n[3, 2], n[3, 0], n[3, 1]),
            pattern(2, x, y, 8 + n[4, 2], n[4, 0], n[4, 1]),
            (0.5 + 0.5 * np.sign(speckle + 0.6 * (grain[1] - 0.5))).astype(np.float32),
        ]
    )


def _curve(x: Field, y: Field, numbers: NDArray[np.float64], longest: int) -> Field:
    """Return a wave across the picture, (H, W), 1.2 pixels wide or more, at 64 pixels up to 1.8."""
    angle = 2 * math.pi * numbers[0]
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = cos * x + sin * y, cos * y - sin * x
    height, wide = np.float32(0.15 + 0.2 * numbers[1]), np.float32(1.5 + 3 * numbers[2])
    phase = wide * u + np.float32(2 * math.pi * numbers[3])
    off = v - np.float32(numbers[4] - 0.5) - height * np.sin(phase)
    distance = np.abs(off) / np.sqrt(1 + (height * wide * np.cos(phase)) ** 2)
    width = max(0.024, 1.2 / longest) * (1 + 0.5 * numbers[1])  # half of it, in units
    near: Field = np.clip(
        (width - distance) * np.float32(longest / 2) + 0.5, 0, 1, dtype=np.float32
    )
    return near


def _hang_lamp(
    picture: Field,
    labels: NDArray[np.uint8],
    x: Field,
    y: Field,
    numbers: NDArray[np.float64],
    dark: bool,
) -> None:
    """Draw a disc over both, with a rim of the other brightness."""
    a, b = (numbers[:2] - 0.5) * 1.6
    radius = 0.14 + 0.08 * numbers[2]
    distance = np.hypot(x - np.float32(a), y - np.float32(b))
    inside = distance < radius
    picture[inside] = 235 if dark else 20
    picture[distance < 0.65 * radius] = 20 if dark else 235
    labels[inside] = LAMP


def _colours(rng: np.random.Generator, difficulty: float) -> NDArray[np.float32]:
    """Return dark and light ones of every cell, then the curves': (2 * MOST + 4, 3), 0 to 255."""
    middle = rng.uniform(60, 195, (MOST, 3))
    direction = rng.standard_normal((MOST, 3))
    direction *= (55 - 15 * difficulty) / np.linalg.norm(direction, axis=1, keepdims=True)
    curves = rng.uniform(0, 1, (4, 1)).round() * 200 + rng.uniform(0, 55, (4, 3))
    return np.concatenate([middle - direction, middle + direction, curves]).astype(np.float32)
