"""Archs as values: JSON there and back, and no Arch that makes no sense."""

import json
from dataclasses import replace

import pytest
from hypothesis import given

from results.errors import ArchError
from supernet.arch import Arch, Stage, format_resolution, parse_resolution
from supernet.official import BACKBONES, named_arch
from tests.strategies import any_arch

B1 = named_arch("b1")


@given(any_arch)
def test_json_round_trip_gives_an_equal_arch_with_an_equal_hash(arch):
    again = Arch.from_json(arch.to_json())
    assert again == arch
    assert hash(again) == hash(arch)


@pytest.mark.parametrize("name", BACKBONES)
def test_named_archs_survive_json(name):
    arch = named_arch(name)
    assert Arch.from_json(arch.to_json()) == arch


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": 0}, "from 1 to 1000, not 0"),
        ({"width": 10**400}, "not a number of 401 digits"),
        ({"kernel_size": -3}, "from 1 to 99"),
        ({"scales": (-5,)}, "from 1 to 99"),
        ({"kernel_size": 4}, "odd"),
        ({"local": "mbcon"}, "did you mean 'mbconv'"),
        ({"mixer": "hyenna", "scales": (), "head_dim": 0}, "did you mean 'hyena'"),
        ({"mixer": "hyena", "head_dim": 0}, "only relu_linear has scales"),
        ({"head_dim": 0}, "head_dim must be positive"),
        ({"head_dim": 48}, "must divide width"),
        ({"local": "dsconv"}, "expand_ratio must be 1"),
    ],
)
def test_a_stage_that_makes_no_sense_cannot_exist(changes, says):
    with pytest.raises(ArchError, match=says):
        replace(B1.stages[2], **changes)


def test_attention_outside_the_attention_stages_cannot_exist():
    stages = (B1.stages[0], replace(B1.stages[2], width=64), *B1.stages[2:])
    with pytest.raises(ArchError, match="stage 2 of family b holds no attention"):
        replace(B1, stages=stages)


def test_segmentation_refuses_sizes_that_its_branches_cannot_meet_at():
    city = named_arch("b1", task="segmentation")
    with pytest.raises(ArchError, match="divisible by 32, not 1000x2000"):
        replace(city, resolution=(1000, 2000))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("stem"),
        lambda d: d["stages"][0].update(width="64"),
        lambda d: d["stages"][0].update(width=64.5),
        lambda d: d["stages"][0].update(width=True),
        lambda d: d["stages"][0].update(colour="red"),
        lambda d: d.update(resolution=[224]),
        lambda d: d["head"].update(task="cooking"),
        lambda d: d.update(stages=[]),
        lambda d: d.update(family="c"),
        lambda d: d.update(hed=d.pop("head")),
        lambda d: d.update(resolution=[224.9, 224.9]),
        lambda d: d.update(resolution=[float("inf"), 224]),
        lambda d: d.update(resolution="ab"),
        lambda d: d["head"].update(num_classes=10**30),
        lambda d: d["stem"].update(width=-8),
    ],
)
def test_damaged_json_is_refused_in_one_line(damage):
    data = json.loads(B1.to_json())
    damage(data)
    with pytest.raises(ArchError) as caught:
        Arch.from_json(json.dumps(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", '"b1"', "{", "{}"])
def test_other_json_is_no_arch(text):
    with pytest.raises(ArchError):
        Arch.from_json(text)


@pytest.mark.parametrize("resolution", [(224, 224), (1024, 2048), (160, 96)])
def test_resolution_round_trip(resolution):
    assert parse_resolution(format_resolution(resolution)) == resolution


@pytest.mark.parametrize("text", ["", "x", "224x", "-1", "1x2x3", "224.5", "big", "9" * 5000, "²"])
def test_bad_resolutions_are_refused(text):
    with pytest.raises(ArchError, match="neither a side like 224 nor HEIGHTxWIDTH"):
        parse_resolution(text)


def test_epsilon_follows_family_and_task():
    assert named_arch("b3").norm_eps == 1e-5
    assert named_arch("l2").norm_eps == 1e-7
    assert named_arch("sam_l2").norm_eps == 1e-6


def test_a_stage_without_mixer_has_no_head_dim():
    assert Stage(64, 2).head_dim == 0


@pytest.mark.parametrize("scales", [(5, 3), (3, 3)])
def test_scales_have_one_order(scales):
    with pytest.raises(ArchError, match="ascending"):
        Stage(32, 1, mixer="relu_linear", scales=scales, head_dim=16)
