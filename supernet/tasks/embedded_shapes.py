"""Embedded pictures for classification: a shape with a texture, twelve classes.

Neither shape nor texture nor colour alone tells the class: a picture shows one textured shape
in any pose, size and colours, on a background of patches in the same textures, under bars that
hide a part of it, and in noise. H height, W width.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # float32

SHAPES = ("disc", "triangle", "cross", "star")
TEXTURES = ("stripes", "checks", "dots")
CLASSES = tuple(f"{shape}_{texture}" for shape in SHAPES for texture in TEXTURES)


def draw_shape(
    label: int, size: tuple[int, int], rng: np.random.Generator, difficulty: float
) -> NDArray[np.uint8]:
    """Return a picture of class `label`, (H, W, 3).

    The same `rng` gives the same scene at every size; only the noise differs.

    Args:
        difficulty: 0 to 1: less contrast, more tilt, clutter, hiding and noise.
    """
    shape, texture = divmod(label, len(TEXTURES))
    y, x = grid(size)
    numbers = rng.random(64)
    colours = _colours(rng, difficulty)
    radius = 0.85 - 0.5 * difficulty * numbers[0]
    centre = (numbers[1:3] - 0.5) * 2 * (1 - radius)
    u, v = _pose(x - centre[0], y - centre[1], numbers[3:7], radius, difficulty)
    inside = _INSIDE[shape](u, v)
    wave = pattern(texture, x, y, 6 + 4 * numbers[7], numbers[8], numbers[9])

    background = _background(x, y, numbers[10:30], difficulty)
    picture = colours[0] + (colours[1] - colours[0]) * background[..., None]
    thing = colours[2] + (colours[3] - colours[2]) * wave[..., None]
    picture += (thing - picture) * inside[..., None]
    if numbers[30] < 0.3 + 0.7 * difficulty:
        hidden = _bar(x - centre[0], y - centre[1], numbers[31:34], radius, difficulty)
        picture += (colours[4] - picture) * hidden[..., None]
    picture *= (1 + 0.3 * (numbers[34] - 0.5) * x + 0.3 * (numbers[35] - 0.5) * y)[..., None]
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(2 + 20 * difficulty)
    pixels: NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
    return pixels


@lru_cache(maxsize=16)
def grid(size: tuple[int, int]) -> tuple[Field, Field]:
    """Return y and x of the pixels' centres, (H, 1) and (1, W); the longer side spans -1 to 1."""
    longest = max(size)
    y, x = ((np.arange(side, dtype=np.float32) + 0.5) * 2 - side for side in size)
    return (y / longest)[:, None], (x / longest)[None, :]


def pattern(kind: int, x: Field, y: Field, waves: float, turn: float, phase: float) -> Field:
    """Return a texture in 0 to 1, (H, W), of about `waves` periods in two units.

    `kind` counts in TEXTURES; `turn` and `phase` are in 0 to 1.
    """
    angle, frequency = math.pi * turn, math.pi * waves
    cos, sin = frequency * math.cos(angle), frequency * math.sin(angle)
    u = np.sin(cos * x + sin * y + 2 * math.pi * phase)
    if kind == 0:
        return _step(2 * u)
    v = np.sin(-sin * x + cos * y + 4 * math.pi * phase)
    return _step(4 * u * v) if kind == 1 else _step(3 * (u + v - 0.7))


def _step(x: Field) -> Field:
    """Return a step from 0 to 1 where x goes from -0.5 to 0.5."""
    step: Field = np.clip(x + np.float32(0.5), 0, 1, dtype=np.float32)
    return step


def _pose(
    x: Field, y: Field, numbers: NDArray[np.float64], radius: float, difficulty: float
) -> tuple[Field, Field]:
    """Return coordinates in which the shape is upright and of radius 1, each (H, W)."""
    angle = 2 * math.pi * numbers[0]
    squeeze = 1 + 0.5 * difficulty * numbers[1]
    shear = 0.6 * difficulty * (numbers[2] - 0.5)
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    u = np.float32(cos) * x + np.float32(sin) * y
    v = np.float32(cos) * y - np.float32(sin) * x
    return u + np.float32(shear) * v, v * np.float32(squeeze)


EDGE = 12.0  # steepness of outlines: 1 / 12 of the radius from outside to inside


def _disc(u: Field, v: Field) -> Field:
    return _step((0.72 - (u * u + v * v)) * (EDGE / 2))


def _triangle(u: Field, v: Field) -> Field:
    half = math.sqrt(0.75)
    outside = np.maximum(np.maximum(v, half * u - 0.5 * v), -half * u - 0.5 * v)
    return _step((0.5 - outside) * EDGE)


def _cross(u: Field, v: Field) -> Field:
    a, b = np.abs(u), np.abs(v)
    return _step((np.minimum(np.maximum(a / 3, b), np.maximum(a, b / 3)) - 0.3) * -EDGE)


def _star(u: Field, v: Field) -> Field:
    """Return a star of five points: two edges of a tenth of the turn, folded."""
    angle = np.arctan2(v, u)
    tenth = np.float32(math.pi / 5)
    folded = np.abs(np.mod(angle, 2 * tenth) - tenth)
    distance = np.hypot(u, v)
    a, b = distance * np.cos(folded), distance * np.sin(folded)
    # the edge from the inner corner (0.42, 0) to the tip (cos 36, sin 36)
    across = (a - 0.42) * math.sin(tenth) - b * (math.cos(tenth) - 0.42)
    return _step(across.astype(np.float32) * -EDGE * 1.5)


_INSIDE = (_disc, _triangle, _cross, _star)


def _background(x: Field, y: Field, numbers: NDArray[np.float64], difficulty: float) -> Field:
    """Return discs of the textures that things have on a wide wave, about 0 to 1, (H, W)."""
    field = 0.5 + 0.25 * np.sin(2 * x + 6.3 * numbers[0]) * np.sin(2 * y + 6.3 * numbers[1])
    strength = 0.1 + 0.6 * difficulty
    for part in range(1 + round(2 * difficulty)):
        kind, turn, a, b, r, waves = numbers[2 + 6 * part : 8 + 6 * part]
        wave = pattern(int(kind * len(TEXTURES)), x, y, 6 + 4 * waves, turn, a)
        near = _step(((0.3 + 0.4 * r) ** 2 - (x - 2 * a + 1) ** 2 - (y - 2 * b + 1) ** 2) * EDGE)
        field += strength * near * (wave - 0.5)
    return np.asarray(field, np.float32)


def _bar(
    x: Field, y: Field, numbers: NDArray[np.float64], radius: float, difficulty: float
) -> Field:
    """Return a bar across the thing, (H, W), at most a third of its size wide."""
    angle, width = math.pi * numbers[0], radius * (0.08 + 0.25 * difficulty * numbers[1])
    off = radius * 1.2 * (numbers[2] - 0.5)
    distance = np.abs(math.cos(angle) * x + math.sin(angle) * y - off)
    return _step((np.float32(width) - distance) * (EDGE * 2))


def _colours(rng: np.random.Generator, difficulty: float) -> NDArray[np.float32]:
    """Return two of the background, two of the thing, one of the bar: (5, 3), 0 to 255.

    The two of a texture differ enough to be told apart in noise.
    """
    base = rng.uniform(60, 195, (5, 3))
    direction = rng.standard_normal((2, 3)) + (2 - 2 * difficulty)  # more light than hue
    direction *= rng.choice([-1, 1], (2, 1)) / np.linalg.norm(direction, axis=1, keepdims=True)
    contrast = 240 - 100 * difficulty
    for first, vector, strength in ((0, direction[0], 0.6), (2, direction[1], 1.0)):
        middle = base[first]
        base[first], base[first + 1] = (
            middle + side * strength * contrast / 2 * vector for side in (-1, 1)
        )
    return base.astype(np.float32)
