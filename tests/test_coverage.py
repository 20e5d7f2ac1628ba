"""Every block of every network of a space is found, against drawn ones; probes are networks."""

import random

import pytest

from lut.measuring.coverage import distinct_blocks
from lut.measuring.probes import difference_of, key_of
from supernet.blocks import IMAGE, blocks_of
from supernet.spaces import get_space
from tests.strategies import SPACES

NARROWED = {
    "family": ["resolution=160,320"],
    "family, head searched": ["resolution=160"],
    "b, head searched": ["resolution=128,288"],
    "l": [],
    "all": ["resolution=160", "stage3.kernel_size=3"],
    "all, head searched": ["resolution=512"],
    "tiny": [],
    "cityscapes": ["resolution=512x1024"],
    "ade20k": ["resolution=384", "stage4.kernel_size=3"],
    "promptable": [],
}


@pytest.mark.parametrize("name", SPACES)
def test_no_network_has_another_block(name):
    space = SPACES[name].freeze(NARROWED[name])
    found = distinct_blocks(space)
    known = set(found)
    assert len(known) == len(found)
    rng = random.Random(0)
    for _ in range(150):
        assert {key_of(block) for block in blocks_of(space.sample(rng))} <= known


def test_no_block_is_superfluous_where_all_networks_can_be_listed():
    space = get_space("tiny", nearest_head=False)
    used = {key_of(block) for arch in space.enumerate() for block in blocks_of(arch)}
    assert set(distinct_blocks(space)) == used


def test_a_probe_runs_from_the_picture_to_its_end():
    space = get_space("all", task="segmentation", dataset="ade20k", freeze=["resolution=384"])
    for block in distinct_blocks(space)[::25]:
        difference = difference_of(block)
        if difference is None:
            assert block.kind == "pool"
            continue
        for probe in (difference.probe, difference.baseline or ()):
            for index, part in enumerate(probe):
                for source in part.inputs or (index - 1,):
                    if source != IMAGE:
                        assert probe[source].out_size == (part.height, part.width)
                        if part.kind != "add":
                            assert probe[source].out_channels == part.in_channels
        assert key_of(block) in {key_of(part) for part in difference.probe}
        if difference.baseline:
            assert len(difference.baseline) == len(difference.probe) - 1
