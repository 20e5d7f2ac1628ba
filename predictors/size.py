"""The size of an architecture that accuracy follows: MACs, where they are, and blocks."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import msgspec
import numpy as np

from predictors.shape import Numbers, canonical_cost
from predictors.worth import WORTH, Array, Effects, Reference, Worth
from results.errors import PredictorError
from results.reading import parse_json
from supernet.arch import Arch, Family
from supernet.official import BACKBONES

FILE = "stage_effects.json"  # in results/published
CLASSIFICATION, DENSE = "classification", "dense"  # tasks whose weights differ
_SIDES = (224, 448)  # of the pictures at which official networks tell what is usual


class Estimate(msgspec.Struct, frozen=True):
    """Effects by stride in a public table, or of several together."""

    mean: list[float]
    covariance: list[list[float]]

    def __post_init__(self) -> None:
        sizes = [len(self.mean), *map(len, self.covariance)]
        if sizes != [len(WORTH)] * (1 + len(WORTH)) or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"an estimate has a mean and covariances of {len(WORTH)} strides")


class StageEffects(msgspec.Struct, frozen=True):
    """stage_effects.json, as far as predictions use it."""

    combined: dict[str, Estimate]  # by CLASSIFICATION, DENSE
    kernel_effect: float  # on log error beyond MACs, of a stage whose depthwise kernels are 5 x 5
    kernel_std: float
    scales_effect: float  # of log error, attention without a multi-scale branch in all stages
    unexplained: float  # share of the error of a law of size that is left where shapes differ


@dataclass(frozen=True, slots=True)
class Size:
    """GMACs times the root of the number of blocks, with and without regard to shape.

    Of one network, or arrays (networks,) of many.
    """

    plain: Numbers
    value: Numbers  # that of a network of official shape that is as accurate
    log_std: Numbers  # of the natural logarithm of `value`


@lru_cache
def stage_effects() -> StageEffects:
    """Return what was learned from public tables, as shipped. Raises PredictorError."""
    text = (files("results") / "published" / FILE).read_text(encoding="utf-8")
    return parse_json(text, StageEffects, FILE, error=PredictorError)


@lru_cache
def worth_of(family: Family, num_stages: int, task: str) -> Worth:
    """Return what MACs are worth in a family, for CLASSIFICATION or DENSE."""
    estimate = stage_effects().combined[task]
    official = [
        canonical_cost(replace(arch, resolution=(side, side)))[0]
        for arch in dict.fromkeys(BACKBONES.values())
        if arch.family == family and len(arch.stages) == num_stages
        for side in _SIDES
    ]
    effects = Effects(np.array(estimate.mean), np.array(estimate.covariance))
    return Worth.of(effects, Reference.of(np.array(official, dtype=np.float64)))


@lru_cache(maxsize=1 << 14)
def size_of(arch: Arch, task: str) -> Size:
    """Return the size of an architecture for CLASSIFICATION or DENSE."""
    macs, num_blocks = canonical_cost(arch)
    place = arch.family, len(arch.stages)
    size = sizes_of(*place, task, np.array([macs], dtype=np.float64), np.array([num_blocks]))
    return Size(float(size.plain[0]), float(size.value[0]), float(size.log_std[0]))


def sizes_of(family: Family, num_stages: int, task: str, macs: Array, num_blocks: Array) -> Size:
    """Return the sizes of networks of one family, from their canonical costs.

    Deeper at equal MACs is better, by the root of the number of blocks: half the weight that
    ImageNet's figures would give it, and what Cityscapes' and SA-1B's favour too. Parameters and
    resolution added nothing.

    Args:
        macs: by output stride, (networks, 5).
        num_blocks: (networks,).
    """
    plain = macs.sum(axis=1) / 1e9 * np.sqrt(num_blocks)
    shift, std = worth_of(family, num_stages, task).log_size(macs)
    return Size(plain, plain * np.exp(shift), std)
