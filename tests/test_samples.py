"""The low quantile of samples, against a slow twin and under disturbance."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lut.agreement import agreement, scale_between
from lut.measuring.samples import latency_of

samples = st.lists(st.floats(1, 1e6), min_size=1, max_size=200)


@given(samples)
@example([43691.0] * 5 + [43690.961618160116] * 3)
def test_it_is_the_mean_of_the_lowest_third(values):
    count = max(1, round(len(values) / 3))
    expected = sum(sorted(values)[:count]) / count
    found = latency_of(values)
    assert found.us == pytest.approx(expected)
    assert found.num_samples == len(values)
    least = min(values) * (1 - 1e-15)  # a mean of equal numbers may be rounded down
    assert least <= found.us <= found.quantiles_us[-1] or len(values) < 5


def test_neighbours_move_the_median_and_hardly_the_latency():
    rng = np.random.default_rng(0)
    calm = 100 + rng.exponential(2, 100)
    disturbed = np.where(rng.random(100) < 0.6, calm * 1.4, calm)
    assert latency_of(disturbed).us / latency_of(calm).us < 1.02
    assert np.median(disturbed) / np.median(calm) > 1.3


def test_its_error_tells_how_far_a_repetition_is_off():
    rng = np.random.default_rng(0)
    found = [latency_of(100 + rng.exponential(5, 96)) for _ in range(200)]
    spread = np.std([latency.us for latency in found])
    told = np.mean([latency.std_us for latency in found])
    assert 0.5 < told / spread < 2.5


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="no samples"):
        latency_of([])


def test_agreement_by_hand():
    found = agreement([1.04, 2.18, 3.0], [1.0, 2.0, 4.0])
    assert found.mape_percent == pytest.approx((4 + 9 + 25) / 3)
    assert found.within_5_percent == pytest.approx(100 / 3)
    assert found.within_10_percent == pytest.approx(200 / 3)
    assert found.kendall_tau == found.spearman == pytest.approx(1)
    assert agreement([2, 1, 3], [1, 2, 3]).kendall_tau == pytest.approx(1 / 3)


def test_a_common_factor_is_found():
    assert scale_between([1, 2, 5], [1.1, 2.2, 5.5]) == pytest.approx(1.1)
    assert scale_between([1, 2, 5, 8], [1.1, 2.2, 5.5, 80]) == pytest.approx(1.1)  # but one
    assert scale_between([1, 1], [1.0, 1.21]) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("predicted", "measured"), [([1, 1, 1], [1, 2, 3]), ([1, 2], [3, 3]), ([2, 2], [2, 2])]
)
def test_without_an_order_there_is_no_correlation_of_it(predicted, measured):
    found = agreement(predicted, measured)
    assert (found.spearman, found.kendall_tau) == (0.0, 0.0)
    json.dumps(found.to_dict(), allow_nan=False)
