"""Which blocks to measure next, and which networks to validate on."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lut.interpolate import features
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of
from supernet.space import Space

FEW = 8  # blocks of a kind, which are all measured
DRAWN = 40  # networks drawn for each that is chosen
TRIMMED = 0.02  # of the draw, at either end
SAMPLED = 4000  # networks that tell what share of one a block can make up
ONE_ROUND = 1 / 15  # the share of a network up to which one round is enough


def corners(blocks: Sequence[Block], count: int) -> list[Block]:
    """Return `count` blocks that cover the others: each the farthest from those before it.

    Every kind has its share, by the root of its number, so that rare kinds are covered too.
    """
    if count >= len(blocks):
        return list(blocks)
    by_kind: dict[str, list[Block]] = {}
    for block in blocks:
        by_kind.setdefault(block.kind, []).append(block)
    total = sum(math.sqrt(len(same)) for same in by_kind.values())
    chosen: list[Block] = []
    for same in sorted(by_kind.values(), key=len):
        share = len(same) if len(same) <= FEW else math.ceil(count * math.sqrt(len(same)) / total)
        chosen += _farthest_first(same, min(share, count - len(chosen)))
    seen = set(chosen)
    left = [block for block in blocks if block not in seen]
    if len(chosen) < count:
        chosen += random.Random(0).sample(left, count - len(chosen))
    return chosen


def _farthest_first(blocks: Sequence[Block], count: int) -> list[Block]:
    """Choose `count` blocks by greedy k-centre, from the smallest and the largest on."""
    if count <= 0:
        return []
    x = np.array([features(block) for block in blocks])
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    pick = int(x.sum(axis=1).argmin())
    distance = np.full(len(x), np.inf)
    chosen = []
    for _ in range(min(count, len(x))):
        chosen.append(pick)
        distance = np.minimum(distance, ((x - x[pick]) ** 2).sum(axis=1))
        distance[pick] = -1.0
        pick = int(distance.argmax())
    return [blocks[i] for i in chosen]


def rounds_of(space: Space, ms: Mapping[Block, float], least: int, most: int) -> dict[Block, int]:
    """Return how often to measure each block of `ms`, by its largest share of random networks.

    An error counts by the block's share and averages out with the root of the rounds, so they
    grow with the square of the share.
    """
    rng = random.Random(0)
    shares = dict.fromkeys(ms, 0.0)
    for _ in range(SAMPLED):
        counts = Counter(block for block in blocks_of(space.sample(rng)) if block in ms)
        total = sum(ms[block] * count for block, count in counts.items()) or 1.0
        for block, count in counts.items():
            shares[block] = max(shares[block], ms[block] * count / total)
    return {
        block: min(max(least, math.ceil((share / ONE_ROUND) ** 2)), most)
        for block, share in shares.items()
    }


def stratified(
    space: Space,
    predict_ms: Callable[[Arch], float],
    count: int,
    seed: int,
    exclude: Sequence[Arch] = (),
) -> list[Arch]:
    """Return random networks, spread evenly over the logarithm of their predicted latency."""
    rng = random.Random(seed)
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(DRAWN * count)))
    timed = sorted(
        ((predict_ms(arch), arch) for arch in drawn if arch not in exclude), key=lambda t: t[0]
    )
    if len(timed) <= count:
        return [arch for _, arch in timed]
    cut = min(int(TRIMMED * len(timed)), (len(timed) - count) // 2)
    timed = timed[cut : len(timed) - cut]
    low, high = math.log(timed[0][0]), math.log(timed[-1][0])
    chosen: list[Arch] = []
    left = list(timed)
    for step in range(count):
        middle = math.exp(low + (high - low) * (step + 0.5) / count)
        index = min(range(len(left)), key=lambda i: abs(math.log(left[i][0] / middle)))
        chosen.append(left.pop(index)[1])
    return chosen
