import math
from dataclasses import replace
from pathlib import Path

import pytest

from lut.calibration.fit import PRIORS, LatencyModel, fit, summarise
from lut.calibration.points import Point, read_points
from lut.device import PROCESSORS
from lut.roofline import Roofline
from lut.table import Table
from lut.terms import NetworkTerms
from results.errors import TableError
from supernet.arch import Arch, Stage, Stem
from supernet.blocks import blocks_of
from supernet.official import named_arch, with_nearest_head

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "points"
TRUTH = {
    "cpu": LatencyModel(Roofline(40.0, 4.0, 0.5, cache_mb=6.0), NetworkTerms()),
    "gpu": LatencyModel(
        Roofline(500.0, 40.0, 0.03, product_passes=3.0, launch_us=9.0),
        NetworkTerms(ms_per_mb=0.2, decoder_ms=3.0),
    ),
    "tensor_core_gpu": LatencyModel(
        Roofline(30e3, 90.0, 0.012, 0.08, 30e3, product_passes=3.0, launch_us=3.0),
        NetworkTerms(ms_per_mb=0.06, decoder_ms=0.8),
    ),
}


def test_every_class_of_device_has_a_prior():
    assert set(PRIORS) == set(PROCESSORS)


def predict_ms(model: LatencyModel, point: Point, precision: str) -> float:
    """Of `point`'s network, by the sum that a table makes of it."""
    terms = model.terms if point.includes else replace(model.terms, decoder_ms=0.0)
    table = Table("x", "x", "tensorrt", precision, point.batch, {}, terms, roofline=model.roofline)
    return table.network_ms(blocks_of(point.arch))


def left_out_ms(points: list[Point]) -> list[float]:
    return [r.leave_out_ms for r in fit(points, "fp16", PRIORS["tensor_core_gpu"]).rows]


def cases() -> list[Arch]:
    archs = [
        named_arch(name, resolution=(side, side))
        for name, side in [("b0", 224), ("b1", 224), ("b2", 288), ("b3", 256), ("l1", 224)]
    ]
    archs += [
        named_arch(name, task="segmentation", dataset=dataset)
        for name, dataset in [
            ("b0", "cityscapes"),
            ("b1", "cityscapes"),
            ("b2", "ade20k"),
            ("b3", "cityscapes"),
            ("l2", "ade20k"),
        ]
    ]
    return [*archs, named_arch("sam_l0"), named_arch("sam_xl1")]


def synthetic(device: str) -> list[Point]:
    """Points of `cases` that obey the model exactly; SAM's with the decoder."""
    points = []
    for arch in cases():
        includes = "mask_decoder" if arch.task == "promptable" else ""
        point = Point(arch, arch.describe(), 1.0, includes=includes)
        points.append(replace(point, latency_ms=predict_ms(TRUTH[device], point, "fp16")))
    return points


@pytest.mark.parametrize("device", sorted(PRIORS))
def test_a_known_device_is_recovered_on_architectures_it_did_not_see(device):
    found = fit(synthetic(device), "fp16", PRIORS[device])
    unseen = replace(
        named_arch("b2", resolution=(192, 192)),
        stem=Stem(16, 2),
        stages=(
            Stage(32, 3, 6, 5),
            Stage(64, 2, 3),
            Stage(96, 5, 4, 7, "mbconv", "relu_linear", (3,), 32),
            Stage(320, 4, 6, 3, "mbconv", "relu_linear", (3, 5), 32),
        ),
    )
    for arch in (unseen, with_nearest_head(replace(unseen, resolution=(512, 512)), "ade20k")):
        point = Point(arch, "unseen", 1.0)
        truth = predict_ms(TRUTH[device], point, "fp16")
        assert predict_ms(found.model, point, "fp16") == pytest.approx(truth, rel=0.03)
    assert found.summary.mape_percent < 3


def test_a_latency_scaled_device_is_as_easy_whatever_its_speed():
    points = synthetic("cpu")
    slower = [replace(point, latency_ms=1000 * point.latency_ms) for point in points]
    errors = [fit(p, "fp16", PRIORS["cpu"]).summary.mape_percent for p in (points, slower)]
    assert max(errors) < 3


def test_the_same_points_give_the_same_fit_in_any_order():
    points = synthetic("gpu")
    first, again = (fit(points, "fp16", PRIORS["gpu"]) for _ in range(2))
    assert first == again
    reverse = fit(points[::-1], "fp16", PRIORS["gpu"])
    for name, value in first.parameters.items():
        assert reverse.parameters[name] == pytest.approx(value, rel=1e-3)


def test_leaving_out_hides_every_row_of_the_architecture():
    points = read_points(PUBLISHED / "orin.csv")
    left_out = left_out_ms(points)
    l2 = [i for i, point in enumerate(points) if point.name in ("l2", "sam_l2")]
    assert len({points[i].arch.task for i in l2}) == 3
    changed = [
        replace(point, latency_ms=7 * point.latency_ms) if i in l2 else point
        for i, point in enumerate(points)
    ]
    after = left_out_ms(changed)
    assert [after[i] for i in l2] == pytest.approx([left_out[i] for i in l2], rel=1e-9)
    others = [i for i, point in enumerate(points) if point.fitted and i not in l2]
    assert all(abs(math.log(after[i] / left_out[i])) > 0.01 for i in others)


def test_compared_kinds_are_listed_but_do_not_move_the_fit():
    points = synthetic("gpu")
    stray = replace(points[0], latency_ms=99 * points[0].latency_ms, kind="issue")
    alone, beside = (fit(p, "fp16", PRIORS["gpu"]) for p in (points, [*points, stray]))
    assert beside.parameters == pytest.approx(alone.parameters)
    assert beside.summary.num_rows == len(points)
    assert beside.rows[-1].leave_out_error_percent < -90


def test_coarsely_printed_rows_count_less():
    points = synthetic("cpu")
    off = replace(points[0], latency_ms=1.3 * points[0].latency_ms)
    coarse = replace(off, rounding=0.3)
    trusted, doubted = (
        fit([first, *points[1:]], "fp16", PRIORS["cpu"]).rows[0].fitted_ms / points[0].latency_ms
        for first in (off, coarse)
    )
    assert abs(doubted - 1) < abs(trusted - 1)


def test_the_decoder_is_fitted_only_where_it_was_timed():
    points = synthetic("tensor_core_gpu")
    found = fit(points, "fp16", PRIORS["tensor_core_gpu"])
    assert found.parameters["decoder_ms"] == pytest.approx(0.8, rel=0.1)
    bare = [point for point in points if not point.includes]
    without = fit(bare, "fp16", PRIORS["tensor_core_gpu"])
    assert "decoder_ms" not in without.parameters
    assert without.model.terms.decoder_ms == 0


def test_with_few_points_the_prior_keeps_the_fit_sane():
    two = [synthetic("tensor_core_gpu")[i] for i in (0, 3)]
    found = fit(two, "fp16", PRIORS["tensor_core_gpu"])
    for row in found.rows:
        assert row.fitted_ms == pytest.approx(row.point.latency_ms, rel=0.05)
    large = Point(named_arch("l3", resolution=(512, 512)), "l3", 1.0)
    truth = predict_ms(TRUTH["tensor_core_gpu"], large, "fp16")
    assert truth / 4 < predict_ms(found.model, large, "fp16") < 4 * truth


def test_rounding_and_order_in_the_summary():
    points = synthetic("cpu")[:3]
    rows = fit(points, "fp16", PRIORS["cpu"]).rows
    made = [
        replace(row, point=replace(row.point, latency_ms=ms, rounding=0.05), leave_out_ms=out)
        for row, ms, out in zip(rows, (10.0, 10.5, 20.0), (11.0, 10.5, 10.8), strict=True)
    ]
    summary = summarise(made)
    assert summary.mape_percent == pytest.approx((10 + 0 + 46) / 3)
    assert summary.mape_beyond_rounding_percent == pytest.approx((5 + 0 + 41) / 3)
    assert summary.worst_percent == pytest.approx(41)
    assert (summary.num_ordered_pairs, summary.num_pairs) == (1, 2)  # 10 and 10.5 are too close
    assert summary.kendall_tau == pytest.approx((1 - 1 - 1) / 3)


@pytest.mark.parametrize(
    ("device", "prior", "precision", "mape", "worst"),
    [
        ("snapdragon8gen1", "cpu", "fp32", 3, 6),
        ("orin", "tensor_core_gpu", "fp16", 3, 9),
        ("a100", "tensor_core_gpu", "fp16", 4.5, 16),
        ("jetson-nano", "gpu", "fp16", 3.5, 9),
    ],
)
def test_published_latencies_are_predicted_without_their_architecture(
    device, prior, precision, mape, worst
):
    found = fit(read_points(PUBLISHED / f"{device}.csv"), precision, PRIORS[prior])
    assert found.summary.mape_percent < mape
    assert found.summary.worst_percent < worst
    assert found.summary.num_ordered_pairs >= found.summary.num_pairs - 1

    def network_ms(name: str, side: int) -> float:
        arch = named_arch(name, resolution=(side, side))
        return predict_ms(found.model, Point(arch, name, 1.0), precision)

    assert network_ms("l3", 512) > 10 * network_ms("b0", 128)
    sides = [network_ms("b0", side) for side in range(128, 321, 32)]
    assert sides == sorted(set(sides))


def test_a_table_would_sum_to_the_fitted_latency():
    found = fit(read_points(PUBLISHED / "a100.csv"), "fp16", PRIORS["tensor_core_gpu"])
    for row in found.rows:
        assert predict_ms(found.model, row.point, "fp16") == pytest.approx(row.fitted_ms, rel=1e-9)


def test_points_that_cannot_be_fitted_are_refused():
    points = synthetic("cpu")
    with pytest.raises(TableError, match="kind"):
        fit([replace(point, kind="issue") for point in points], "fp32", PRIORS["cpu"])
    with pytest.raises(TableError, match="another"):
        fit(points[:1], "fp32", PRIORS["cpu"])
