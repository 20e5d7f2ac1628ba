"""A scaling law of accuracy, and its fit.

value = ceiling + offset_l [family l] - scale * size^-exponent
size = backbone GMACs * sqrt(backbone blocks), as far as they are worth it (`predictors.size`)

An advantage of family l is not carried to sizes that it was not seen at: below the smallest
of its networks in the fit it fades, to nothing at a quarter of that size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.shape import Numbers
from predictors.size import size_of
from results.errors import PredictorError
from supernet.arch import Arch, Family

EXPONENTS = (0.1, 0.6)  # admitted; five networks would else fit any curvature

FADES_OVER = 2.0  # octaves of size, by assumption

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published figure."""

    name: str  # of the architecture; all points of one name are left out together
    arch: Arch
    value: float  # percent


@dataclass(frozen=True, slots=True)
class Law:
    """Rises with size towards a ceiling, in percent. Never falls with size: scale > 0."""

    ceiling: float
    offset_l: float
    scale: float
    exponent: float
    smallest_l: float  # size of the smallest network of family l in the fit; 0 without an offset
    task: str  # of `predictors.size`

    def __call__(self, arch: Arch) -> float:
        """Return the metric of an architecture, in percent."""
        return float(self.value(size_of(arch, self.task).value, arch.family))

    def value(self, size: Numbers, family: Family) -> Numbers:
        """Return the metric at sizes of networks of a family, in percent."""
        offset: Numbers = self.offset_l if family == "l" else 0.0
        if offset > 0:
            octaves_below = np.log2(self.smallest_l / size)
            offset = offset * np.clip(1 - octaves_below / FADES_OVER, 0.0, 1.0)
        return self.ceiling + offset - self.scale * size**-self.exponent

    def slope(self, size: Numbers) -> Numbers:
        """Return percent gained as the natural logarithm of a size grows."""
        return self.exponent * self.scale * size**-self.exponent


def fit_law(
    points: Sequence[PublishedFigure], task: str, with_offset: bool, exponent: float | None
) -> Law:
    """Fit by least squares, every architecture with equal weight; `exponent` None fits that too.

    For a given exponent the law is linear in its other parameters. `with_offset` fits
    offset_l, which is 0 otherwise.

    Raises PredictorError if the figures do not rise with the size of the network.
    """
    # By plain size: a fit to what the MACs of official shapes are worth predicts networks that are
    # left out worse (ImageNet by 0.223 points on average, not 0.209).
    sizes = np.array([size_of(p.arch, task).plain for p in points])
    values = np.array([p.value for p in points])
    names = [p.name for p in points]
    root_weights = np.array([names.count(name) ** -0.5 for name in names])
    family_l = np.array([float(p.arch.family == "l") for p in points])

    def solve(exponent: float) -> tuple[float, Vector]:
        columns = [np.ones_like(sizes), -(sizes**-exponent)] + [family_l] * with_offset
        design = np.stack(columns, axis=1) * root_weights[:, None]
        target = values * root_weights
        solution: Vector = np.linalg.lstsq(design, target, rcond=None)[0]
        return float(np.sum((design @ solution - target) ** 2)), solution

    if exponent is None:
        exponent = _minimize(lambda e: solve(e)[0], *EXPONENTS)
    _, (ceiling, scale, *offset) = solve(exponent)
    if not (scale > 0 and ceiling < 100 and ceiling + sum(offset) < 100):
        raise PredictorError(
            "the published figures do not rise towards a ceiling below 100 % as networks grow; "
            "check their values and resolutions"
        )
    smallest_l = min(sizes[family_l > 0]) if with_offset else 0.0
    return Law(float(ceiling), float(sum(offset)), float(scale), exponent, float(smallest_l), task)


def _minimize(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where `function` is least in [low, high], to 1e-6: a coarse scan, golden section.

    For scipy, see docs/architecture.md: its import takes longer than all fits of a search.
    """
    step = (high - low) / 10
    best = min((low + i * step for i in range(11)), key=function)
    low, high = max(low, best - step), min(high, best + step)
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-6:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
