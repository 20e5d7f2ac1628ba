"""Exact counts against the published ones, and memory against a slow twin."""

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings

from results.errors import ArchError
from supernet.arch import LOCAL_KINDS, Task, parse_resolution
from supernet.blocks import IMAGE, Block, blocks_of
from supernet.convolutions import convolutions_of
from supernet.cost import (
    backbone_cost,
    cost_of,
    memory_mb,
    network_cost,
    ops_of,
    peak_activations,
)
from supernet.official import BACKBONES, named_arch
from tests.strategies import any_arch

COUNTS = files("results") / "published" / "efficientvit_reference_counts.csv"
REFERENCES = list(csv.DictReader(COUNTS.read_text().splitlines()))
TASKS: dict[str, Task] = {
    "cls": "classification",
    "seg": "segmentation",
    "sam_image_encoder": "promptable",
}


def reference_arch(row):
    name = row["model"].removeprefix("EfficientViT-").lower().replace("sam-", "sam_")
    resolution = parse_resolution(row["resolution"])
    if row["task"] == "backbone":
        return replace(BACKBONES[name], resolution=resolution)
    dataset = row["dataset"] if row["task"] == "seg" else None
    return named_arch(name, task=TASKS[row["task"]], dataset=dataset, resolution=resolution)


def test_there_are_references_for_every_task():
    assert {row["task"] for row in REFERENCES} == {*TASKS, "backbone"}
    assert len(REFERENCES) == 96


@pytest.mark.parametrize(
    "row", REFERENCES, ids=lambda r: f"{r['model']}-{r['dataset']}-{r['resolution']}"
)
def test_counts_equal_the_reference_exactly(row):
    arch = reference_arch(row)
    cost = network_cost(blocks_of(arch))
    assert cost.params == int(row["params"])
    assert backbone_cost(arch).params == int(row["backbone_params"])
    assert cost.macs - cost.attention_macs == int(row["macs_conv_fc"])
    assert cost.attention_macs == int(row["macs_attention"])
    assert cost.macs == int(row["macs_total"])


# timm 1.0.31, efficientvit_b0..b3 with 1000 classes, sum of numel of all parameters
@pytest.mark.parametrize(
    ("name", "params"),
    [("b0", 3_410_008), ("b1", 9_102_024), ("b2", 24_330_712), ("b3", 48_646_056)],
)
def test_params_equal_timms(name, params):
    assert network_cost(blocks_of(named_arch(name))).params == params


def test_a_convolution_block_by_hand():
    block = Block(
        "mbconv", 8, 16, 10, 12, mid_channels=32, kernel_size=5, stride=2, activation="hswish"
    )
    cost = cost_of(block)
    assert cost.macs == 8 * 32 * 120 + 32 * 25 * 30 + 32 * 16 * 30
    assert cost.params == (8 * 32 + 64) + (32 * 25 + 64) + (32 * 16 + 32)
    moved = (960 + 3840) + (3840 + 960) + (960 + 480)
    assert cost.moved_elements == moved + cost.params
    assert cost.num_ops == 3


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_with_fewer_norms_all_convolutions_but_the_last_have_a_bias(kind):
    block = Block(kind, 8, 8, 10, 12, mid_channels=8, kernel_size=3, activation="gelu_tanh")
    usual, fewer = (convolutions_of(replace(block, norm=norm)) for norm in ("batch", "fewer"))
    assert [(c.norm, c.bias) for c in usual] == [(True, False)] * len(usual)
    assert [(c.norm, c.bias) for c in fewer] == [(False, True)] * (len(fewer) - 1) + [(True, False)]
    for chain in (usual, fewer):
        assert [c.activation for c in chain] == ["gelu_tanh"] * (len(chain) - 1) + ["none"]
        assert len({c.name for c in chain}) == len(chain)


def test_only_convolutional_blocks_have_convolutions():
    with pytest.raises(ArchError, match=r"pool is no local block; supernet/blocks\.py"):
        convolutions_of(Block("pool", 8, 8, 10, 12))


def test_attention_turns_quadratic_where_there_are_few_tokens():
    block = Block("relu_linear", 64, 64, 4, 4, num_heads=4, head_dim=16, scales=(5,), residual=True)
    assert cost_of(block).attention_macs == 2 * 8 * 16 * 16 * 16  # 16 tokens, quadratic
    larger = replace(block, height=4, width=5)
    assert cost_of(larger).attention_macs == 2 * 8 * 20 * 16 * 17  # 20 tokens, linear


def slow_peak(blocks):
    """Peak by asking at every op which tensors anybody still needs."""
    tensors = {"image": blocks[0].in_channels * blocks[0].height * blocks[0].width}
    steps = []
    outputs: list[str] = []
    for index, block in enumerate(blocks):
        sources = ["image" if i == IMAGE else outputs[i] for i in block.inputs]
        sources = sources or [outputs[-1] if outputs else "image"]
        names: list[str] = []
        for number, op in enumerate(ops_of(block)):
            reads = {names[r] if r >= 0 else sources[-1 - r] for r in op.reads}
            name = f"{index}.{number}"
            tensors[name] = op.out_elements
            steps.append((reads, name))
            names.append(name)
        outputs.append(names[-1])
    peak = 0
    for now in range(len(steps)):
        written = {"image"} | {name for _, name in steps[: now + 1]}
        needed = set().union(*(reads for reads, _ in steps[now:])) | {steps[now][1]}
        peak = max(peak, sum(tensors[t] for t in written & needed))
    return peak


@settings(max_examples=25, deadline=None)
@given(any_arch)
def test_peak_memory_equals_its_definition(arch):
    blocks = blocks_of(arch)
    assert peak_activations(blocks) == slow_peak(blocks)


def test_memory_counts_weights_once_and_activations_by_batch():
    blocks = blocks_of(named_arch("b1"))
    weights = network_cost(blocks).params
    one = memory_mb(blocks, 1, "fp32") * 1e6 / 4 - weights
    assert memory_mb(blocks, 8, "fp16") * 1e6 / 2 == pytest.approx(8 * one + weights)


@settings(deadline=None)
@given(any_arch)
def test_every_block_fits_the_one_before_and_costs_something(arch):
    blocks = blocks_of(arch)
    height, width = arch.resolution
    channels = 3
    for index, block in enumerate(blocks):
        if block.kind == "upsample" and len(block.inputs) > 1:
            source, like = block.inputs
            assert blocks[like].out_size == block.out_size
            size = arch.resolution if source == IMAGE else blocks[source].out_size
            assert (block.height, block.width) == size
            channels = 3 if source == IMAGE else blocks[source].out_channels
        elif block.inputs:
            taps = [blocks[i] for i in block.inputs]
            assert all(i < index for i in block.inputs)
            assert {tap.out_size for tap in taps} == {(block.height, block.width)}
            channels = sum(tap.out_channels for tap in taps)
        else:
            assert (block.height, block.width) == (height, width)
        assert block.in_channels == channels
        assert cost_of(block).num_ops > 0
        if block.residual:
            assert (block.in_channels, block.stride) == (block.out_channels, 1)
        (height, width), channels = block.out_size, block.out_channels


@settings(deadline=None)
@given(any_arch)
def test_more_of_a_stage_never_costs_less(arch):
    larger = replace(
        arch, stages=(replace(arch.stages[0], depth=arch.stages[0].depth + 1), *arch.stages[1:])
    )
    assert network_cost(blocks_of(larger)).macs > network_cost(blocks_of(arch)).macs
    assert memory_mb(blocks_of(larger), 1, "fp32") >= memory_mb(blocks_of(arch), 1, "fp32")


def test_where_a_block_stands_is_no_part_of_its_key():
    blocks = blocks_of(named_arch("b3"))
    assert len(set(blocks)) < len(blocks)
    moved = replace(blocks[5], name="elsewhere", inputs=(1,))
    assert moved == blocks[5]
    assert hash(moved) == hash(blocks[5])
