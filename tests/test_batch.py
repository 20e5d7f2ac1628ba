"""Many networks at once: the same numbers as one after the other, of every predictor."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives.sources import NoAccuracy, PredictedAccuracy
from predictors.accuracy import OtherClasses, load_prior
from predictors.batch import Batch
from predictors.evaluations import Evaluations
from predictors.onehot import OneHot, choices_of
from predictors.shape import canonical
from predictors.subnets import fit_subnets
from results.errors import SpaceError
from supernet.cost import backbone_cost
from supernet.spaces import get_space

SPACES = {name: get_space(name) for name in ("family", "b", "l", "tiny")}


def drawn(name, count=12, seed=0):
    rng = random.Random(seed)
    space = SPACES[name]
    return Batch.of(space, [space.sample(rng) for _ in range(count)])


@pytest.mark.parametrize("name", SPACES)
def test_a_batch_holds_the_networks_it_was_made_of(name):
    rng = random.Random(1)
    archs = [SPACES[name].sample(rng) for _ in range(20)]
    batch = Batch.of(SPACES[name], archs)
    assert len(batch) == 20
    assert list(batch.archs) == archs
    assert list(batch.choices) == [choices_of(SPACES[name], arch) for arch in archs]
    assert batch.macs.shape == (20, 5)
    assert np.all(batch.num_blocks >= 5)
    columns = OneHot.of(batch.choices)
    assert np.array_equal(batch.one_hot(columns), columns.encode(list(batch.choices)))


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_genes_are_networks(name, seed):
    space = SPACES[name]
    rng = np.random.default_rng(seed)
    genes = np.column_stack([rng.integers(0, most, 5) for most in space.genes.values()])
    batch = Batch(space, genes)
    assert [space.decode(row) for row in genes.tolist()] == list(batch.archs)


def test_macs_are_those_of_the_canonical_backbones():
    for name in SPACES:
        batch = drawn(name)
        expected = [backbone_cost(canonical(arch)).macs for arch in batch.archs]
        assert batch.macs.sum(axis=1).tolist() == expected
    none = Batch.of(SPACES["b"], [])
    assert len(none) == 0
    assert none.archs == ()
    assert none.macs.shape[0] == 0


@pytest.mark.parametrize(
    ("genes", "told"),
    [
        (np.zeros((3, 2), int), r"integers \(networks, \d+\), not int64 \(3, 2\)"),
        (np.zeros(5, int), r"not int64 \(5,\)"),
        (np.zeros((1, len(SPACES["tiny"].genes))), "not float64"),
        (np.full((2, len(SPACES["tiny"].genes)), -1), "gene resolution of network 0 .* not -1"),
        (np.full((2, len(SPACES["tiny"].genes)), 99), "gene .* of network 0 must be from 0 to"),
    ],
)
def test_genes_of_no_network_are_refused(genes, told):
    with pytest.raises(SpaceError, match=told):
        Batch(SPACES["tiny"], genes)


def evaluated(batch):
    rng = np.random.default_rng(0)
    values = tuple((50 + 30 * rng.random(len(batch))).tolist())
    return Evaluations(
        "classification", "shapes", "", batch.archs, values, 100,
        {arch: number for number, arch in enumerate(batch.archs, 1)}, Path("subnets.jsonl"), "",
    )  # fmt: skip


def same(predictor, batch):
    means, stds = predictor.predict_many(batch)
    one_by_one = [predictor.predict(arch) for arch in batch.archs]
    assert means.shape == stds.shape == (len(batch),)
    assert means == pytest.approx([p.mean for p in one_by_one], rel=1e-12)
    assert stds == pytest.approx([p.std for p in one_by_one], rel=1e-12)


def test_accuracies_of_many_are_those_of_each():
    prior = load_prior("imagenet")
    for predictor in (prior, OtherClasses(prior, 7), PredictedAccuracy(prior), NoAccuracy()):
        same(predictor, drawn("family"))
    batch = drawn("tiny", 60)
    ridge = fit_subnets(evaluated(Batch.of(SPACES["tiny"], sorted(set(batch.archs), key=str))),
                        SPACES["tiny"])  # fmt: skip
    same(ridge, drawn("tiny", 30, seed=5))
    same(PredictedAccuracy(ridge), drawn("tiny", 5, seed=6))
