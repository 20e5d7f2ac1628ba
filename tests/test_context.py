"""What blocks cost in a network beyond alone: found where it is known, and not where it is not."""

import random

import numpy as np
import pytest

from lut.measuring.context import GROUPS, fit_context, group_of
from lut.measuring.coverage import distinct_blocks
from lut.rows import Entry
from lut.table import Table
from lut.terms import NetworkTerms, params_m, peak_mb
from supernet.blocks import blocks_of
from supernet.cost import cost_of, network_cost, peak_activations
from supernet.spaces import get_space

SPACE = get_space("b", freeze=["resolution=128,224"])
ENTRIES = {
    block: Entry(cost_of(block).macs / 2e7 + cost_of(block).moved_elements / 5e6, 0.001, 24)
    for block in distinct_blocks(SPACE)
}
FACTORS = {
    "mixers": 0.95,
    "wide_kernels": 1.1,
    "beyond_cache": 0.93,
    "within_cache": 1.05,
    "others": 1.0,
}


def truth_ms(blocks):
    """Of networks that cost more than their blocks."""
    total = sum(FACTORS[group_of(b)] * ENTRIES[b].latency_ms for b in blocks)
    return 0.1 + 0.02 * params_m(blocks) + 0.06 * peak_mb(blocks) + total


def networks(seed, count):
    rng = random.Random(seed)
    return [blocks_of(SPACE.sample(rng)) for _ in range(count)]


def table_of(context):
    entries = context.apply(ENTRIES)
    return Table("d", "d", "onnxruntime", "fp32", 1, entries, context.terms, threads=1)


def errors(table, held_out):
    return [abs(table.network_ms(blocks) / truth_ms(blocks) - 1) for blocks in held_out]


def test_a_few_dozen_networks_tell_it():
    fitted, held_out = networks(0, 38), networks(1, 60)
    noise = np.random.default_rng(0).normal(1, 0.005, len(fitted))
    measured = [truth_ms(blocks) * own for blocks, own in zip(fitted, noise, strict=True)]
    found = errors(table_of(fit_context(ENTRIES, fitted, measured, 1)), held_out)
    plain = Table("d", "d", "onnxruntime", "fp32", 1, ENTRIES, NetworkTerms(), threads=1)
    assert np.mean(found) < 0.01
    assert np.mean(errors(plain, held_out)) > 4 * np.mean(found)


def test_where_blocks_tell_all_nothing_changes():
    fitted = networks(0, 38)
    sums = [sum(ENTRIES[b].latency_ms for b in blocks) for blocks in fitted]
    context = fit_context(ENTRIES, fitted, [1.07 * total for total in sums], 1)
    assert context.terms.scale == pytest.approx(1.07, rel=0.01)
    for blocks, total in zip(networks(1, 20), sums, strict=False):
        total = sum(ENTRIES[b].latency_ms for b in blocks)
        assert table_of(context).network_ms(blocks) == pytest.approx(1.07 * total, rel=0.005)


def test_two_networks_move_little_but_the_scale():
    fitted = networks(3, 2)
    context = fit_context(ENTRIES, fitted, [1.2 * truth_ms(blocks) for blocks in fitted], 1)
    assert set(context.factors) == set(GROUPS)
    assert all(0.85 < factor < 1.15 for factor in context.factors.values())
    assert 1.0 < context.terms.scale < 1.45


def test_nothing_becomes_negative():
    fitted = networks(0, 30)
    rng = np.random.default_rng(1)
    sums = [sum(ENTRIES[b].latency_ms for b in blocks) for blocks in fitted]
    context = fit_context(ENTRIES, fitted, (rng.uniform(0.5, 1.5, 30) * sums).tolist(), 4)
    assert all(factor > 0 for factor in context.factors.values())
    assert min(entry.latency_ms for entry in context.apply(ENTRIES).values()) >= 0


def test_units():
    blocks = networks(0, 1)[0]
    assert params_m(blocks) == network_cost(blocks).params / 1e6
    assert peak_mb(blocks) == peak_activations(blocks) * 4 / 1e6
    terms = NetworkTerms(fixed_ms=1.0, ms_per_m_params=0.5, ms_per_peak_mb=0.1)
    expected = (1.0 + 0.5 * params_m(blocks)) / 4 + 0.1 * peak_mb(blocks)
    assert terms.offset_ms(blocks, 4) == pytest.approx(expected)
