"""What MACs are worth at each stride: fits find what was put in, and uses keep their promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.public_tables import PublicTable
from predictors.size import stage_effects, worth_of
from predictors.stage_effects import (
    SizeLaw,
    combine,
    fit_effects,
    kernel_effects,
    learn,
    shifted,
    sizes_of,
)
from predictors.worth import SHARE, Effects, Reference, Worth
from results.errors import PredictorError
from tests.conftest import ROOT

TRUE = np.array([0.01, 0.02, 0.07, 0.05])


def table(name="synthetic", *, rows=800, seed=0, noise=0.0, kernel=0.0, groups=0):
    """Networks whose log error follows a law of size and TRUE, and nothing else but noise."""
    rng = np.random.default_rng(seed)
    macs = np.exp(rng.normal(18, 0.6, (rows, 1)) + rng.normal(0, 0.4, (rows, 5)))
    depth = rng.integers(8, 30, rows).astype(float)
    kernels = rng.choice([0.0, np.log(5 / 3)], (rows, 4))
    deviations = Reference.of(macs).deviations(macs)
    sizes = macs.sum(axis=1) / 1e9 * np.sqrt(depth)
    number = rng.integers(0, groups, rows) if groups else np.zeros(rows, dtype=np.int64)
    gain = deviations @ TRUE + kernel * kernels.sum(axis=1) / np.log(5 / 3)
    if groups:
        gain = np.log(macs[:, 1:]) @ TRUE + 0.1 * number
        error = 60 * np.exp(-gain)
    else:
        error = (100 - (85 - 10 * sizes**-0.3)) * np.exp(-gain)
    error = error * np.exp(noise * rng.normal(size=rows))
    controls = np.zeros((rows, 0))
    return PublicTable(name, "", macs, depth, kernels, 100 - error, controls, number)


def test_effects_that_were_put_in_are_found():
    effects = fit_effects(table())
    assert effects.mean == pytest.approx(TRUE, abs=0.006)
    noisy = fit_effects(table(noise=0.1))
    errors = np.sqrt(np.diag(noisy.covariance))
    assert np.all(np.abs(noisy.mean - TRUE) < 4 * errors)
    assert np.all((errors > 0.004) & (errors < 0.02))  # 0.1 / (0.4 sqrt(800)) is 0.009


def test_levels_of_groups_do_not_matter():
    effects = fit_effects(table(groups=40, noise=0.01))
    assert effects.mean == pytest.approx(TRUE, abs=0.004)


def test_covariances_hold_for_rows_of_a_group_that_err_alike():
    """As statistics over many draws say, of which a formula for independent rows knows nothing."""
    drawn = []
    for seed in range(60):
        one = table(groups=20, rows=200, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        slopes = rng.normal(0, 0.03, (20, 4))[one.groups]  # each family has its own
        error = (100 - one.value) * np.exp(-np.sum(slopes * np.log(one.macs[:, 1:]), axis=1) + 0.5)
        drawn.append(fit_effects(replace(one, value=100 - error / error.max() * 90)))
    spread = np.std([effects.mean for effects in drawn], axis=0)
    claimed = np.mean([np.sqrt(np.diag(effects.covariance)) for effects in drawn], axis=0)
    assert claimed == pytest.approx(spread, rel=0.35)


def test_kernels_beyond_their_macs_are_found():
    assert kernel_effects(table(kernel=0.02)) == pytest.approx(0.02, abs=0.002)
    assert kernel_effects(table()) == pytest.approx(0.0, abs=0.002)


def test_several_tables_are_less_sure_than_each():
    one = Effects(np.array([0.01, 0.02, 0.03, 0.04]), np.eye(4) * 1e-6)
    other = Effects(np.array([-0.03, 0.02, 0.07, 0.05]), np.eye(4) * 1e-6)
    both = combine([one, other])
    assert both.mean.tolist() == [0.0, 0.02, 0.05, 0.045]  # none below 0
    assert both.covariance[2, 2] == pytest.approx(np.var([0.03, 0.07], ddof=1) * 1.5 + 1e-6)
    assert combine([one]).covariance == pytest.approx(one.covariance)


def test_effects_of_another_table_rank_better_than_size():
    one, other = table(noise=0.02), table(seed=1, noise=0.02)
    law = SizeLaw.of(sizes_of(other), other.value)
    by_size = np.std(other.value - law(sizes_of(other)))
    by_shape = np.std(other.value - shifted(law, other, fit_effects(one)))
    assert by_shape < 0.9 * by_size


WORTHS = [("b", 4), ("l", 4), ("l", 5)]


@pytest.mark.parametrize("task", ["classification", "dense"])
@pytest.mark.parametrize(("family", "stages"), WORTHS)
def test_weights_are_none_below_zero_and_share_out_one(family, stages, task):
    worth = worth_of(family, stages, task)
    assert min(worth.weights) >= 0
    assert np.dot(worth.weights, worth.reference.beta) == pytest.approx(1)
    assert worth.weights[2] > 5 * worth.weights[0]  # late MACs


@given(
    st.sampled_from(WORTHS),
    st.lists(st.floats(5, 10), min_size=5, max_size=5),
    st.integers(0, 4),
    st.floats(1, 20),
)
@settings(max_examples=200, deadline=None)
def test_more_macs_anywhere_never_shrink_a_network(kind, logs, stride, factor):
    worth: Worth = worth_of(*kind, "classification")
    macs = 10.0 ** np.array(logs)
    more = macs.copy()
    more[stride] *= factor
    before, after = (np.log(m.sum()) + worth.log_size(m)[0] for m in (macs, more))
    assert after >= before - 1e-12


def test_a_network_scaled_as_the_official_keeps_its_size():
    reference = worth_of("b", 4, "classification").reference
    total = 1e9
    usual = np.exp(np.array(reference.alpha) + np.array(reference.beta) * np.log(total))
    macs = np.array([total - usual.sum(), *usual])
    shift, std = worth_of("b", 4, "classification").log_size(macs)
    assert shift == pytest.approx(0, abs=1e-9)
    assert std == pytest.approx(0, abs=1e-9)
    assert SHARE == 0.5


def test_what_is_shipped_says_how_it_was_judged():
    record = json.loads((ROOT / "results" / "published" / "stage_effects.json").read_text())
    assert record["tables"]["once_for_all"]["left_out"]["tau"] >= 0.895
    assert record["tables"]["once_for_all"]["left_out"]["std"] <= 0.22
    assert "once_for_all" not in record["tables"]["once_for_all"]["left_out"]["effects_of"]
    assert record["tables"]["accel_nasbench"]["left_out"]["tau"] >= 0.605
    known = stage_effects()
    assert known.kernel_effect > 0
    assert 0 < known.unexplained < 1
    means = np.array([record["tables"][name]["effects"]["mean"] for name in
                      ("once_for_all", "accel_nasbench", "timm")])  # fmt: skip
    assert known.combined["classification"].mean == pytest.approx(
        np.maximum(means.mean(axis=0), 0), rel=1e-4
    )


def test_learning_writes_the_same_layout_and_misses_no_table():
    names = ("once_for_all", "accel_nasbench", "nasbench_mr")
    tables = {name: table(name, seed=n, noise=0.02) for n, name in enumerate(names)}
    with pytest.raises(PredictorError, match="no table of timm"):
        learn(tables)
    learned = learn(tables | {"timm": table("timm", groups=30, seed=7)})
    record = json.loads((ROOT / "results" / "published" / "stage_effects.json").read_text())
    assert learned.keys() == record.keys()
    assert learned["tables"].keys() == record["tables"].keys()
    assert learned["tables"]["once_for_all"]["left_out"]["std_of_size"] > 0
