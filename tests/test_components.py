"""Numbers of many networks from a space's components, beside those of one network after another."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from predictors.accuracy import published
from predictors.batch import Batch
from predictors.components import SpaceComponents
from predictors.latency import LatencyPredictor, choose_predictor
from predictors.learned import columns_of
from predictors.models.table import as_choices
from predictors.physical import columns_of_batch
from predictors.shape import canonical_cost
from results.errors import TableError
from supernet.blocks import blocks_of
from supernet.cost import network_cost, peak_activations
from supernet.spaces import get_space

ODD_HEAD = ("stage3.head_dim=32", "head.widths=1024+1280")
SPACES: dict[str, tuple[dict[str, Any], str | None]] = {
    "family": ({}, "imagenet"),
    "all": ({"name": "all", "freeze": ("resolution=128", "stage2.width=128")}, "imagenet"),
    "no head dim first": (
        {"name": "all", "freeze": ("family=l", "resolution=160", "stage4.mixer=hyena,retention")},
        "imagenet",
    ),
    "own heads": ({"freeze": ("resolution=160",), "nearest_head": False}, "imagenet"),
    "fixed head": ({"name": "b", "freeze": ODD_HEAD}, "imagenet"),
    "10 classes": ({"name": "l", "num_classes": 10}, "imagenet"),
    "tiny": ({"name": "tiny"}, "imagenet"),
    "cityscapes": ({"task": "segmentation"}, "cityscapes"),
    "ade20k": ({"task": "segmentation", "dataset": "ade20k"}, "ade20k"),
    "sa1b": ({"name": "all", "task": "promptable"}, "sa1b"),
    "x2": ({"name": "b", "task": "super_resolution"}, None),
    "pixels": ({"name": "tiny", "task": "pretrain"}, None),
}
CALIBRATED = ("snapdragon8gen1", "orin", "a100", "jetson-nano")
MEASURED = ("example-cpu", "example-cpu:litert")  # of space b, with the official kernels and scales
OFFICIAL = (*(f"stage{n}.kernel_size=3" for n in range(1, 5)), "stage3.scales=5", "stage4.scales=5")
EQUAL = 1e-12  # relative


def batch_of(space, count=40):
    rng = np.random.default_rng(0)
    genes = np.column_stack([rng.integers(0, most, count) for most in space.genes.values()])
    return Batch(space, genes, SpaceComponents(space))


def drawn(name, count=40):
    asked, dataset = SPACES[name]
    return batch_of(get_space(**{"name": "family", **asked}), count), dataset


@pytest.mark.parametrize("name", SPACES)
def test_costs_are_those_of_the_networks(name):
    batch, _ = drawn(name)
    for row, arch in enumerate(batch.archs):
        blocks = blocks_of(arch)
        cost = network_cost(blocks)
        assert (batch.params[row], batch.all_macs[row]) == (cost.params, cost.macs)
        assert (tuple(batch.macs[row]), batch.num_blocks[row]) == canonical_cost(arch)
        assert batch.peak[row] == peak_activations(blocks)


@pytest.mark.parametrize("name", [name for name, (_, dataset) in SPACES.items() if dataset])
def test_published_accuracies_are_those_of_the_networks(name):
    batch, dataset = drawn(name)
    prior = published(dataset, batch.space.num_classes)
    means, stds = prior.predict_many(batch)
    one_by_one = [prior.predict(arch) for arch in batch.archs]
    assert means == pytest.approx([p.mean for p in one_by_one], rel=EQUAL)
    assert stds == pytest.approx([p.std for p in one_by_one], rel=EQUAL)
    judged = prior.judge(batch)
    assert judged.extrapolated.tolist() == [p.extrapolated for p in one_by_one]
    assert judged.transferred.tolist() == [p.transferred for p in one_by_one]


def never_checked(predictor):
    """Return the same table, as if it had never been held to whole networks."""
    table = predictor.table
    error = msgspec.structs.replace(table.sidecar.error, relative_std=None)
    return LatencyPredictor(replace(table, sidecar=replace(table.sidecar, error=error)))


def check_latencies(device, batch, dataset):
    _, checked = choose_predictor(device, None, dataset)
    for predictor in (checked, never_checked(checked)):
        ms, std_ms, outside = predictor.judge(batch)
        one_by_one = [predictor.predict(blocks_of(arch)) for arch in batch.archs]
        assert ms == pytest.approx([p.latency_ms for p in one_by_one], rel=EQUAL)
        assert std_ms == pytest.approx([p.std_ms for p in one_by_one], rel=EQUAL)
        assert outside.tolist() == [p.outside for p in one_by_one]


@pytest.mark.parametrize("name", ["tiny", "cityscapes", "sa1b", "10 classes"])
def test_latencies_are_those_of_the_networks(name):
    batch, dataset = drawn(name, 12)
    for device in CALIBRATED:
        check_latencies(device, batch, dataset)


@pytest.mark.parametrize("device", MEASURED)
def test_measured_latencies_are_those_of_the_networks(device):
    check_latencies(device, batch_of(get_space("b", freeze=OFFICIAL), 12), "imagenet")


def test_a_block_without_a_row_is_refused_as_for_one_network():
    _, predictor = choose_predictor("example-cpu", None, "imagenet")
    batch = batch_of(get_space("all", freeze=("family=b", "stage3.mixer=rwkv", *OFFICIAL)), 3)
    with pytest.raises(TableError, match=r"no latency for .* on example-cpu; nearest row"):
        predictor.judge(batch)


def test_a_block_that_head_and_stage_share_repeats_its_error():
    alike = ("stage2.width=64,96,128", "stage2.expand_ratio=4", "stage2.kernel_size=3")
    batch = batch_of(get_space("b", task="segmentation", freeze=alike))
    blocks = [blocks_of(arch) for arch in batch.archs]
    in_head, in_stage = (
        [{block for block in own if block.stage == stage} for own in blocks]
        for stage in ("head", "stage2")
    )
    assert any(a & b for a, b in zip(in_head, in_stage, strict=True))
    check_latencies("orin", batch, "cityscapes")


@pytest.mark.parametrize("name", ["family", "all", "own heads", "tiny", "ade20k", "sa1b"])
def test_columns_of_many_are_those_of_the_networks(name):
    batch, _ = drawn(name)
    genes, features = columns_of_batch(batch)
    expected_genes, expected_features = columns_of(batch.space, batch.archs)
    assert set(genes) == set(expected_genes)
    for gene, column in genes.items():
        numeric = column.dtype.kind == "f"
        expected = as_choices(expected_genes[gene], numeric)
        assert np.array_equal(as_choices(column, numeric), expected, equal_nan=numeric)
    assert set(features) == set(expected_features)
    for feature, column in features.items():
        assert np.array_equal(column, expected_features[feature])
