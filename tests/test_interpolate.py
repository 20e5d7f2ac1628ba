"""Interpolated latencies against a machine whose latencies are known, and what is chosen next."""

import math
import random

import numpy as np
import pytest

from lut.interpolate import Interpolator, features, work
from lut.measuring.assemble import Differences, complete, entries_of
from lut.measuring.coverage import distinct_blocks
from lut.measuring.plan import corners, rounds_of, stratified
from lut.rows import Entry
from lut.table import Table
from lut.terms import NetworkTerms
from predictors.latency import LatencyPredictor
from results.errors import TableError
from supernet.blocks import Block, blocks_of
from supernet.cost import cost_of, network_cost
from supernet.official import named_arch
from supernet.spaces import get_space

SPACE = get_space("b", freeze=["resolution=160,224"])
BLOCKS = [b for b in distinct_blocks(SPACE) if b.kind != "pool"]


def smooth_ms(block):
    """A law that is no straight line in logarithms."""
    cost = cost_of(block)
    memory = cost.moved_elements / 3e6
    return (cost.macs / 2e7) * (1 + 0.3 * (block.kernel_size == 7)) + memory + 0.002


@pytest.fixture(scope="module")
def interpolator():
    known = corners(BLOCKS, 500)
    return Interpolator({block: smooth_ms(block) for block in known}), set(known)


def test_a_fifth_of_the_blocks_gives_the_others(interpolator):
    found, known = interpolator
    left = [block for block in BLOCKS if block not in known]
    guesses = found.guess(left)
    errors = [abs(g.latency_ms / smooth_ms(b) - 1) for g, b in zip(guesses, left, strict=True)]
    assert np.mean(errors) < 0.02
    assert sum(g.outside for g in guesses) < len(left) / 10


def test_it_knows_when_it_leaves_what_was_measured(interpolator):
    found, _ = interpolator
    inside = next(b for b in BLOCKS if b.kind == "mbconv" and b.height == 28)
    outside = blocks_of(named_arch("b3", resolution=(640, 640)))[4]
    near, far = found.guess([inside, outside])
    assert far.outside
    assert far.std_ms / far.latency_ms > near.std_ms / near.latency_ms


def test_its_std_tells_its_error(interpolator):
    found, known = interpolator
    left = [block for block in BLOCKS if block not in known]
    ratios = [
        abs(g.latency_ms - smooth_ms(b)) / g.std_ms
        for g, b in zip(found.guess(left), left, strict=True)
    ]
    assert np.mean(np.array(ratios) < 2) > 0.8


def test_a_kind_with_too_few_rows_has_no_guess():
    two = [b for b in BLOCKS if b.kind == "dsconv"][:2]
    found = Interpolator(dict.fromkeys(two, 1.0))
    assert not found.can(two[0])
    with pytest.raises(KeyError):
        found.guess(two)


def test_the_most_uncertain_reduce_the_error_more_than_chance():
    rng = random.Random(0)
    start = corners(BLOCKS, 200)
    found = Interpolator({block: smooth_ms(block) for block in start})
    left = [block for block in BLOCKS if block not in set(start)]

    def error_after(chosen):
        known = {block: smooth_ms(block) for block in [*start, *chosen]}
        rest = [block for block in left if block not in known]
        guesses = Interpolator(known).guess(rest)
        return sum(abs(g.latency_ms - smooth_ms(b)) for g, b in zip(guesses, rest, strict=True))

    chosen = found.most_uncertain(left, 150)
    assert len(set(chosen)) == 150
    chance = np.median([error_after(rng.sample(left, 150)) for _ in range(3)])
    assert error_after(chosen) < 1.1 * chance


def test_corners_are_distinct_and_cover_every_kind():
    found = corners(BLOCKS, 60)
    assert len(found) == len(set(found)) == 60
    assert {b.kind for b in found} == {b.kind for b in BLOCKS}
    assert corners(BLOCKS, len(BLOCKS) + 5) == BLOCKS
    x = np.array([features(b)[3] for b in BLOCKS if b.kind == "mbconv"])
    chosen = np.array([features(b)[3] for b in found if b.kind == "mbconv"])
    assert (chosen.min(), chosen.max()) == (x.min(), x.max())


def test_rounds_grow_with_the_largest_share_of_a_network():
    tiny = get_space("tiny", freeze=["resolution=64"])
    networks = [blocks_of(arch) for arch in tiny.enumerate()]  # 4000 samples meet all of them
    ms = {block: work(block) + 1.0 for blocks in networks for block in blocks}
    found = rounds_of(tiny, ms, 2, 6)
    assert set(found) == set(ms)
    assert {2, 3, 6} <= set(found.values()) <= set(range(2, 7))
    for block, rounds in found.items():
        sums = (ms[block] * b.count(block) / sum(ms[x] for x in b) for b in networks)
        assert rounds == min(max(2, math.ceil((15 * max(sums)) ** 2)), 6)
    assert set(rounds_of(tiny, ms, 1, 1).values()) == {1}


def test_networks_are_spread_evenly_over_latency():
    def predict(arch):
        return network_cost(blocks_of(arch)).macs

    found = stratified(SPACE, predict, 16, seed=3, exclude=[named_arch("b1")])
    assert len(set(found)) == 16
    logs = np.log([predict(arch) for arch in found])
    assert logs.max() - logs.min() > np.log(5)
    assert np.diff(np.sort(logs)).max() < (logs.max() - logs.min()) / 5
    assert found == stratified(SPACE, predict, 16, seed=3, exclude=[named_arch("b1")])


def make(ms, floor):
    return Differences(ms, dict.fromkeys(ms, 0.001), dict.fromkeys(ms, 24), floor)


def test_only_the_noise_is_clamped():
    """12 channels slower than 16 is the truth of a vector unit, and stays."""
    ms = {b: smooth_ms(b) for b in BLOCKS if b.kind == "mbconv"}
    blocks = sorted(ms, key=ms.__getitem__)
    quirk, noise = blocks[50], blocks[:3]
    ms[quirk] *= 3
    ms |= {noise[0]: -0.002, noise[1]: 0.0, noise[2]: 0.0001}
    floor = dict.fromkeys(ms, 0.001)
    entries = entries_of(make(ms, floor))
    for block in blocks:
        if block in noise:
            assert 0 <= entries[block].latency_ms <= 0.001
        else:
            assert entries[block].latency_ms == ms[block]


def test_missing_rows_are_marked(tmp_path):
    known = corners(BLOCKS, 400)
    entries = {block: Entry(smooth_ms(block), 0.001, 24) for block in known}
    table = complete(entries, BLOCKS)
    assert set(table) == set(BLOCKS)
    for block in BLOCKS:
        expected = "measured" if block in entries else "interpolated"
        assert table[block].provenance == expected


def table_of(blocks):
    entries = {block: Entry(smooth_ms(block), 0.001, 24) for block in blocks}
    return Table("d", "d", "onnxruntime", "fp32", 1, entries, NetworkTerms(), threads=1)


def test_a_table_interpolates_what_it_lacks_and_says_so():
    table = table_of(BLOCKS)
    inside = blocks_of(named_arch("b1", resolution=(192, 192)))[2]
    entry = table.entry(inside)
    assert entry.provenance == "interpolated"
    assert entry.latency_ms == pytest.approx(smooth_ms(inside), rel=0.1)
    assert not entry.extrapolated
    far = blocks_of(named_arch("b3", resolution=(1024, 1024)))[4]
    assert table.entry(far).extrapolated
    with pytest.raises(TableError, match="no latency"):
        table.entry(Block("fused_mbconv", 16, 16, 28, 28, mid_channels=64, kernel_size=3))


def test_a_network_beyond_the_table_is_marked():
    known = [*BLOCKS, *(b for b in distinct_blocks(SPACE) if b.kind == "pool")]
    predictor = LatencyPredictor(table_of(known))
    assert not predictor.predict(blocks_of(named_arch("b1", resolution=(224, 224)))).outside
    found = predictor.predict(blocks_of(named_arch("b1", resolution=(640, 640))))
    assert found.outside
    assert found.provenance == "interpolated"
