"""Search spaces: exact sizes, genes, narrowing."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.shape import judged_space
from results.errors import SpaceError
from supernet.official import BACKBONES, named_arch, with_nearest_head
from supernet.space import Space
from supernet.spaces import SPACES, get_space, make_space
from tests import strategies
from tests.strategies import seeds


@settings(deadline=None)
@given(st.data())
def test_decode_inverts_encode(data):
    space = data.draw(strategies.spaces)
    arch = space.decode(data.draw(strategies.genes(space)))
    genes = space.encode(arch)
    assert space.decode(genes) == arch
    assert arch in space
    assert all(0 <= gene < count for gene, count in zip(genes, space.genes.values(), strict=True))


@settings(deadline=None)
@given(strategies.spaces, seeds)
def test_samples_are_members_and_repeat_with_their_seed(space, seed):
    arch = space.sample(random.Random(seed))
    assert arch in space
    assert space.sample(random.Random(seed)) == arch


@pytest.mark.parametrize(
    "space",
    [
        get_space("tiny"),
        get_space("tiny", nearest_head=False),
        get_space(
            "all",
            nearest_head=False,
            freeze=[
                "family=b",
                "resolution=128,160",
                "stem.width=8",
                "stem.depth=1",
                *(f"stage{n}.{f}" for n in (1, 2, 4) for f in ("depth=1", "kernel_size=3")),
                *(f"stage{n}.width={w}" for n, w in ((1, 16), (2, 32), (3, "64,96"), (4, 128))),
                *(f"stage{n}.expand_ratio=4" for n in (1, 2, 4)),
                *(f"stage{n}.local=mbconv" for n in (2, 4)),
                "stage3.depth=1",
                "stage3.kernel_size=3",
                "stage4.mixer=none",
                "head.widths=1024+1280",
            ],
        ),
    ],
    ids=["tiny", "tiny with heads", "all, narrowed"],
)
def test_size_equals_the_number_of_distinct_archs(space):
    archs = list(space.enumerate())
    assert len(archs) == len(set(archs)) == space.size
    assert 200 <= space.size <= 10_000


def test_size_by_hand():
    # b: 7 resolutions, 4 x 2 stems, heads 3; conv stages 5 x d x 3 expand x 3 kernels;
    # attention stages times 4 scales and 2 head dims
    conv = math.prod(5 * depths * 3 * 3 for depths in (4, 6))
    attention = math.prod(5 * depths * 3 * 3 * 4 * 2 for depths in (6, 9))
    b = 7 * 8 * 3 * conv * attention
    assert get_space("b", nearest_head=False).size == b
    # l: 12 resolutions, 3 stems, heads 2; widths 3, expand 2, kernels 2; scales 4 in stage 4
    l_ = 12 * 3 * 2 * math.prod(3 * depths * 2 * 2 for depths in (2, 3, 7, 7)) * 4
    assert get_space("l", nearest_head=False).size == l_
    assert get_space("family", nearest_head=False).size == b + l_


def test_size_of_all_by_hand():
    # (local, expand ratio): two with 3 ratios, two without; (mixer, scales, head dim):
    # relu_linear 4 x 2, softmax and retention 2 each, hyena, rwkv and none 1 each
    local, mixer = 2 * 3 + 2, 4 * 2 + 2 * 2 + 3
    conv = math.prod(5 * depths * 3 * local for depths in (4, 6))
    attention = math.prod(5 * depths * 3 * local * mixer for depths in (6, 9))
    space = get_space("all", nearest_head=False, freeze=["family=b"])
    assert space.size == 7 * 8 * 3 * conv * attention


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"])
@pytest.mark.parametrize("nearest_head", [True, False])
def test_spaces_contain_the_official_networks(name, nearest_head):
    for space in (name[0], "family", "all"):
        assert named_arch(name) in get_space(space, nearest_head=nearest_head)
    other = get_space("l" if name[0] == "b" else "b")
    assert named_arch(name) not in other


@pytest.mark.parametrize("name", [n for n in BACKBONES if n.startswith("sam_")])
def test_the_promptable_space_contains_the_sam_encoders(name):
    space = get_space("family", task="promptable")
    assert named_arch(name) in space
    assert named_arch(name) in judged_space(space)


@settings(deadline=None)
@given(strategies.spaces, seeds)
def test_neighbours_are_distinct_members_one_choice_away(space, seed):
    arch = space.sample(random.Random(seed))
    neighbours = list(space.neighbours(arch))
    assert len(set(neighbours)) == len(neighbours)
    assert arch not in neighbours
    for neighbour in neighbours[:: max(1, len(neighbours) // 7)]:
        assert neighbour in space
        fields = [
            neighbour.resolution != arch.resolution,
            neighbour.stem.width != arch.stem.width,
            neighbour.stem.depth != arch.stem.depth,
            *(a != b for a, b in zip(neighbour.stages, arch.stages, strict=True)),
        ]
        if space.dataset:  # the head dim of all stages follows the head
            same_heads = with_nearest_head(
                replace(neighbour, head=None), space.dataset, space.num_classes
            )
            assert same_heads == neighbour
        else:
            assert sum(fields) + (neighbour.head != arch.head) == 1


@settings(deadline=None)
@given(strategies.spaces, seeds, seeds, seeds)
def test_a_child_has_every_gene_from_a_parent(space, first, second, seed):
    a, b = (space.sample(random.Random(s)) for s in (first, second))
    rng = random.Random(seed)
    pairs = zip(space.encode(a), space.encode(b), strict=True)
    child = space.decode([rng.choice(pair) for pair in pairs])
    assert child in space
    assert child.family in (a.family, b.family)
    if len(a.stages) == len(b.stages) and a.family == b.family:
        assert child.resolution in (a.resolution, b.resolution)
        for c, x, y in zip(child.stages, a.stages, b.stages, strict=True):
            assert c.width in (x.width, y.width)
            assert c.depth in (x.depth, y.depth)
            assert c.local in (x.local, y.local)


def test_freezing_keeps_what_is_named():
    space = get_space("all").freeze(["resolution=128,160", "stage3.mixer=hyena,none", "family=b"])
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(200)]
    assert {a.resolution for a in archs} == {(128, 128), (160, 160)}
    assert {a.stages[2].mixer for a in archs} == {"hyena", "none"}
    assert {a.family for a in archs} == {"b"}


def test_freezing_drops_a_family_without_the_value():
    assert get_space("family").freeze(["stage1.width=16"]).parts[0].name == "b"
    assert len(get_space("family").freeze(["resolution=160"]).parts) == 2


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stage3.mixr=none", "did you mean 'stage3.mixer'"),
        ("resolution=130", "did you mean '128'"),
        ("stage3.mixer=hyena", "choose from relu_linear"),
        ("family=c", "choose from b, l"),
        ("resolution", "not DIMENSION=VALUE"),
        ("stage3.head_dim=16", "no dimension 'stage3.head_dim'"),
    ],
)
def test_a_wrong_setting_names_the_nearest(setting, says):
    with pytest.raises(SpaceError, match=says):
        get_space("family").freeze([setting])


def test_freezing_everything_away_is_refused():
    with pytest.raises(SpaceError, match=r"stage1\.width=128 is no choice"):
        get_space("family").freeze(["family=b", "stage1.width=128"])


@pytest.mark.parametrize("name", SPACES)
def test_what_no_publication_tells_apart_is_fixed_unless_asked_for(name):
    space = judged_space(get_space(name), ["stage4.kernel_size=3,5"])
    for part in space.parts:
        for dimension, choices in part.dimensions.items():
            blind = dimension.endswith((".kernel_size", ".mixer", ".scales", ".local"))
            stage = part.reference.stages[int(dimension[5]) - 1] if blind else None
            unfixed = next(p for p in get_space(name).parts if p.name == part.name)
            if dimension == "stage4.kernel_size":
                assert choices == unfixed.dimensions[dimension]
            elif dimension.endswith(".kernel_size") and stage and stage.local == "mbconv":
                assert set(choices) == {3, 5} & set(unfixed.dimensions[dimension])
            elif blind:
                assert choices == (part.official(dimension),)


def test_a_head_that_is_asked_for_goes_before_the_nearest():
    settings = ["family=b", "head.widths=1024+1280,1536+1600", "stage3.head_dim=32"]
    space = get_space("family", freeze=settings)
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(100)]
    assert {getattr(a.head, "widths", None) for a in archs} == {(1024, 1280), (1536, 1600)}
    assert {a.stages[2].head_dim for a in archs} == {32}
    assert {a.stages[3].head_dim for a in archs} == {16, 32}  # still the nearest network's
    assert all(space.decode(space.encode(a)) == a for a in archs)
    assert space.size == 2 * get_space("b").size
    dense = get_space("b", task="segmentation", freeze=["stage4.head_dim=16"])
    drawn = [dense.sample(rng) for _ in range(30)]
    assert {a.stages[3].head_dim for a in drawn} == {16}
    assert {a.task for a in drawn} == {"segmentation"}
    assert all(a.head is not None and a in dense for a in drawn)
    with pytest.raises(SpaceError, match="no dimension"):
        get_space("b", task="segmentation", freeze=["head.widths=1024+1280"])


def test_unknown_space_and_impossible_task():
    with pytest.raises(SpaceError, match="did you mean 'family'"):
        get_space("famly")
    with pytest.raises(SpaceError, match="--space l"):
        get_space("b", task="promptable")


def test_dense_tasks_bring_their_own_resolutions():
    space = get_space("tiny", task="segmentation", dataset="ade20k")
    assert {a.resolution[0] for a in space.enumerate()} == {384, 448, 480, 512}
    assert isinstance(space, Space)


@settings(deadline=None)
@given(strategies.space_arch)
def test_the_nearest_head_is_a_fixed_point(arch):
    dataset = "imagenet"
    once = with_nearest_head(arch, dataset)
    assert with_nearest_head(once, dataset) == once


def test_l0_takes_the_classification_head_of_l1():
    assert named_arch("l0").head == named_arch("l1").head


class TestAtResolutions:
    sizes = ((64, 128), (96, 96))

    def test_only_resolutions_change(self):
        space = get_space("family", task="segmentation").at_resolutions(self.sizes)
        assert space.resolutions == list(self.sizes)
        own = get_space("family", task="segmentation")
        rng = random.Random(0)
        for _ in range(20):
            arch = space.sample(rng)
            assert arch.resolution in self.sizes
            assert space.decode(space.encode(arch)) == arch
            assert arch not in own
            assert replace(arch, resolution=own.resolutions[0]) in own

    def test_the_arguments_make_it_again(self):
        frozen = get_space("tiny", freeze=["resolution=64", "stage4.depth=2"])
        space = frozen.at_resolutions(self.sizes).freeze(["resolution=96"])
        assert space.resolutions == [(96, 96)]
        assert space.spec is not None
        again = make_space(space.spec)
        assert again.spec == space.spec
        assert again == space
        assert {arch.stages[3].depth for arch in again.enumerate()} == {2}

    def test_there_must_be_some(self):
        with pytest.raises(SpaceError, match="space tiny needs a resolution"):
            get_space("tiny").at_resolutions(())
