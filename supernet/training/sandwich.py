"""The sandwich rule: which subnets a training step runs, largest first.

Every draw depends on (seed, step) alone, so that all processes of a distributed run and a run
that was killed and resumed train the same subnets.

Sources: Yu and Huang, Universally Slimmable Networks, ICCV 2019, https://arxiv.org/abs/1903.05134;
Yu et al., BigNAS, ECCV 2020, https://arxiv.org/abs/2003.11142.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from supernet.arch import Arch
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.space import Space
from supernet.training.attentive import Costs
from supernet.training.shrinking import open_space

Resolution = tuple[int, int]


@dataclass(frozen=True)
class Sandwich:
    """What one step trains: the first learns from labels, the others from its outputs."""

    archs: tuple[Arch, ...]  # distinct, largest first, all at one resolution
    num_fixed: int = 1  # how many of the first are the same whenever the resolution is

    @property
    def resolution(self) -> Resolution:
        """Return the one that all of them are trained at."""
        return self.archs[0].resolution


class Sampler(Protocol):
    """Chooses the networks of every step."""

    def draw(self, step: int) -> Sandwich:
        """Return what step `step`, from 0, trains; the same on every call."""
        ...


@dataclass(frozen=True)
class SandwichRule:
    """Largest, smallest and `num_random` subnets of one part of the space at one resolution.

    A step keeps to one part (family), drawn uniformly, as parts share no weights. Random
    subnets are uniform over the part's choices, or drawn by `costs`; with `shrink` they and the
    smallest are of what progressive shrinking has opened by then.
    """

    space: Space
    num_random: int
    seed: int
    num_steps: int
    resolutions: tuple[Resolution, ...] = ()  # by default the space's
    costs: Costs | None = None
    shrink: bool = False

    def draw(self, step: int) -> Sandwich:
        """Return what step `step`, from 0, trains; the same on every call."""
        rng = random_stream(self.seed, "archs", step)
        part = rng.choice(self.space.parts)
        whole = replace(self.space, parts=(part,))
        open_ = open_space(whole, step / self.num_steps) if self.shrink else whole
        resolution = rng.choice(self.resolutions or tuple(whole.resolutions))
        archs = [*largest_of(whole), *smallest_of(open_)]
        num_fixed = 1 if self.shrink else len(at(archs, resolution))
        for _ in range(self.num_random):
            attended = self.costs.draw(part, resolution, rng) if self.costs else None
            archs.append(attended or open_.sample(rng))
        return Sandwich(at(archs, resolution), num_fixed)


@dataclass(frozen=True)
class OneArch:
    """One network alone, at its own resolution or at one drawn from `resolutions`."""

    arch: Arch
    seed: int
    resolutions: tuple[Resolution, ...] = ()

    def draw(self, step: int) -> Sandwich:
        """Return what step `step`, from 0, trains; the same on every call."""
        rng = random_stream(self.seed, "archs", step)
        return Sandwich(at([self.arch], rng.choice(self.resolutions or (self.arch.resolution,))))


def at(archs: Sequence[Arch], resolution: Resolution) -> tuple[Arch, ...]:
    """Return `archs` at one resolution, each once, in order."""
    return tuple(dict.fromkeys(replace(arch, resolution=resolution) for arch in archs))


def random_stream(seed: int, *names: object) -> random.Random:
    """Return random numbers of their own for every purpose, the same in every process."""
    return random.Random("/".join(map(str, (seed, *names))))
