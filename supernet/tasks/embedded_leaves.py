"""Embedded pictures of dead leaves: things of all sizes that hide each other, and their masks.

Radii r are drawn from a density ~ r^-2, which gives the edges and textures at all scales that
photographs have; for super-resolution, and through the leaves' outlines for promptable
segmentation.

Source: Lee, Mumford, Huang, Occlusion models for natural images, 2001,
https://doi.org/10.1023/A:1011109015675
"""

import numpy as np
from numpy.typing import NDArray

from supernet.tasks.embedded_shapes import Field, grid

NUM_LEAVES = 220
SMALLEST, LARGEST = 0.02, 0.5  # radii, in halves of the longer side
PATCHES = 24  # larger leaves below all others, so that hardly a pixel is left bare


def draw_leaves(
    size: tuple[int, int], rng: np.random.Generator, difficulty: float
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return a picture, (H, W, 3), and the number of the leaf that every pixel shows, (H, W).

    Numbers count from 1, bottom to top; 0 is bare ground. The same `rng` gives the same scene
    at every size; only the noise differs.

    Args:
        difficulty: 0 to 1: less contrast, more texture and noise.
    """
    leaves = _Leaves(rng, difficulty)
    owner = leaves.owners(size)
    y, x = grid(size)
    picture = leaves.colour[owner]
    u, v, phase = (leaves.wave[:, i][owner] for i in range(3))
    wave = np.sin(u * x + v * y + phase)
    slope, tilt = (leaves.shade[:, i][owner] for i in range(2))
    light = leaves.contrast[owner] * wave + slope * x + tilt * y
    picture += light[..., None]
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(1 + 8 * difficulty)
    return picture.clip(0, 255).astype(np.uint8), owner.astype(np.int16)


class _Leaves:
    """Places, forms and paints of all leaves, lowest first; row 0 is the ground."""

    def __init__(self, rng: np.random.Generator, difficulty: float) -> None:
        n = NUM_LEAVES
        u = rng.random(n)
        # inverse of the distribution function of r^-2 between the two ends
        radius = 1 / (1 / SMALLEST - u * (1 / SMALLEST - 1 / LARGEST))
        radius[:PATCHES] = rng.uniform(0.3, LARGEST, PATCHES)
        self.radius = radius.astype(np.float32)
        self.place = rng.uniform(-1.05, 1.05, (n, 2)).astype(np.float32)
        angle = rng.uniform(0, np.pi, n).astype(np.float32)
        self.cos, self.sin = np.cos(angle), np.sin(angle)
        self.squeeze = rng.uniform(1, 2.2, n).astype(np.float32)
        self.power = rng.choice(np.array([1, 2, 2, 6], np.float32), n)  # diamond, disc, square
        grey = rng.uniform(30, 225, (n + 1, 1))
        tint = rng.normal(0, 38, (n + 1, 3))
        self.colour = (grey + tint).clip(0, 255).astype(np.float32)
        self.contrast = _half_off(rng, 20 + 30 * difficulty, n + 1)
        turn, waves = rng.uniform(0, 2 * np.pi, n + 1), np.exp(rng.uniform(1.5, 4.2, n + 1))
        phase = rng.uniform(0, 2 * np.pi, n + 1)
        self.wave = np.stack([waves * np.cos(turn), waves * np.sin(turn), phase], 1).astype(
            np.float32
        )
        self.shade = rng.normal(0, 25, (n + 1, 2)).astype(np.float32)

    def owners(self, size: tuple[int, int]) -> NDArray[np.int32]:
        """Return the topmost leaf of every pixel, (H, W).

        All pixels of all leaves' bounding boxes are tested at once, in the order of leaves, so
        that the topmost is written last.
        """
        height, width = size
        half = max(size) / 2
        cx = (self.place[:, 0] * half + (width - 1) / 2).astype(np.float32)
        cy = (self.place[:, 1] * half + (height - 1) / 2).astype(np.float32)
        r = self.radius * np.float32(half)
        left, top = (np.clip(np.ceil(c - r), 0, None).astype(np.int32) for c in (cx, cy))
        right = np.clip(np.floor(cx + r) + 1, 0, width).astype(np.int32)
        bottom = np.clip(np.floor(cy + r) + 1, 0, height).astype(np.int32)
        wide, tall = np.maximum(right - left, 0), np.maximum(bottom - top, 0)

        area = wide * tall
        leaf = np.repeat(np.arange(len(r), dtype=np.int32), area)
        first = np.cumsum(area, dtype=np.int32) - area
        offset = np.arange(len(leaf), dtype=np.int32) - first[leaf]
        row = offset // wide[leaf]
        column = offset - row * wide[leaf] + left[leaf]
        row += top[leaf]

        scale = 1 / r
        dx, dy = (column - cx[leaf]).astype(np.float32), (row - cy[leaf]).astype(np.float32)
        cos, sin = (self.cos * scale)[leaf], (self.sin * scale)[leaf]
        a: Field = np.abs(cos * dx + sin * dy)
        b: Field = np.abs(cos * dy - sin * dx) * self.squeeze[leaf]
        inside = _inside(a, b, self.power[leaf])
        owner = np.zeros(height * width, np.int32)
        owner[(row * width + column)[inside]] = leaf[inside] + 1
        return owner.reshape(size)


def _inside(a: Field, b: Field, power: Field) -> NDArray[np.bool_]:
    """Return what lies inside a diamond, disc or rounded square of radius 1."""
    square = 1.4 * np.maximum(a, b) < 1
    return np.where(power == 1, a + b < 1, np.where(power == 2, a * a + b * b < 1, square))


def _half_off(rng: np.random.Generator, most: float, n: int) -> Field:
    """Return `n` numbers, half of them 0, the others uniform up to `most`."""
    return (rng.uniform(-1, 1, n).clip(0, 1) * most).astype(np.float32)
