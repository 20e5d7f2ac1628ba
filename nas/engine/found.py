"""What a search found, before it is thinned and evaluated alone to be shown."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nas.engine.reach import Cost
from nas.front import Candidate
from supernet.arch import Arch
from supernet.space import Space


@dataclass(frozen=True)
class Found:
    """The whole front, fastest first, and what keeping near costs; None where nothing did."""

    whole: tuple[Candidate, ...]
    cost: Cost | None


def with_neighbours(space: Space, archs: Sequence[Arch], seed: int) -> list[Arch]:
    """Return networks, and after them one neighbour of each."""
    rng = random.Random(seed)
    return list(dict.fromkeys([*archs, *(_neighbour(space, arch, rng) for arch in archs)]))


def _neighbour(space: Space, arch: Arch, rng: random.Random) -> Arch:
    """Return a network that differs in one gene; itself where that gene has no meaning."""
    genes = list(space.encode(arch))
    number, count = rng.choice([pair for pair in enumerate(space.genes.values()) if pair[1] > 1])
    genes[number] = rng.choice([value for value in range(count) if value != genes[number]])
    return space.decode(genes)
