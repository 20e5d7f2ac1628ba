"""Hypothesis strategies that several test modules share."""

import random

from hypothesis import strategies as st

from supernet.arch import Arch
from supernet.official import SUPER_RESOLUTION, named_arch
from supernet.space import Space
from supernet.spaces import get_space

SPACES = {
    "family": get_space("family"),
    "family, head searched": get_space("family", nearest_head=False),
    "b, head searched": get_space("b", nearest_head=False),
    "l": get_space("l"),
    "all": get_space("all"),
    "all, head searched": get_space("all", nearest_head=False),
    "tiny": get_space("tiny"),
    "cityscapes": get_space("family", task="segmentation", dataset="cityscapes"),
    "ade20k": get_space("all", task="segmentation", dataset="ade20k"),
    "promptable": get_space("all", task="promptable"),
}

spaces = st.sampled_from(list(SPACES.values()))
seeds = st.integers(0, 2**32 - 1)


def archs(space: Space) -> st.SearchStrategy[Arch]:
    return seeds.map(lambda seed: space.sample(random.Random(seed)))


def genes(space: Space) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(0, count - 1) for count in space.genes.values()))


sizes = st.tuples(st.integers(32, 400), st.integers(32, 400))
super_resolution = st.builds(
    lambda name, resolution: named_arch(name, resolution=resolution),
    st.sampled_from(list(SUPER_RESOLUTION)),
    sizes,
)
space_arch = spaces.flatmap(archs)
any_arch = st.one_of(space_arch, super_resolution)
