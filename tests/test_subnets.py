"""The predictor of a supernet's accuracies: against a slow twin, on noise, and on bad files."""

import json
import math
import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from predictors.evaluations import PRIMARY, read_evaluations
from predictors.onehot import OneHot, choices_of
from predictors.ridge import PENALTIES, fit_ridge
from predictors.subnets import FOLDS, fit_subnets, rows_for
from results.errors import PredictorError, SpaceError
from supernet.arch import Arch
from supernet.official import named_arch
from supernet.spaces import get_space

TINY = get_space("tiny", num_classes=12)


def subnets(count, space=TINY, seed=0):
    rng = random.Random(seed)
    found: dict[Arch, None] = {}
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def additive(arch):
    """Points that every choice adds, an interplay of none."""
    points = 30 + arch.resolution[0] / 16 + arch.stages[0].kernel_size / 7
    for stage in arch.stages:
        points += stage.width / 64 + stage.depth
        points += {"softmax": 3.0, "none": -2.0}.get(stage.mixer, 0.5 * len(stage.scales))
    return points


def row(arch, value, **more):
    return {
        "arch": arch.to_dict(),
        "metric": PRIMARY[arch.task],
        "value": value,
        "n": 1000,
        "seed": 0,
        "weights_sha256": "ab" * 32,
        "task": arch.task,
        "dataset": "shapes",
    } | more


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def fitted(tmp_path):
    """A predictor from so many subnets, `value` telling what each is evaluated at."""

    def fitted(count, value, space=TINY):
        rows = [row(arch, value(arch)) for arch in subnets(count, space)]
        return fit_subnets(read_evaluations(write(tmp_path / "rows.jsonl", rows)), space)

    return fitted


def test_additive_accuracies_are_found_exactly(fitted):
    predictor = fitted(30, additive)
    for arch in TINY.enumerate():
        found = predictor.predict(arch)
        assert found.mean == pytest.approx(additive(arch), abs=1e-5)
        assert not found.extrapolated
    assert predictor.error.mae < 2e-3  # of 27 subnets each
    assert predictor.error.kendall_tau > 0.97  # equal values are ordered by rounding
    assert predictor.provenance == "supernet"


def slow_ridge(x, values, penalty):
    """By the normal equations, with a column of ones that is not penalised."""
    design = np.column_stack([np.ones(len(x)), x])
    shrunk = penalty * np.diag([0.0, *np.ones(x.shape[1])])
    # of one-hot columns the effects are not unique without a penalty
    return np.linalg.lstsq(design.T @ design + shrunk, design.T @ values, rcond=None)[0]


@pytest.mark.parametrize("num_rows", [12, 40])
def test_the_fit_is_that_of_a_slow_twin(num_rows):
    rng = np.random.default_rng(num_rows)
    x = rng.integers(0, 2, (num_rows, 9)).astype(float)
    values = 50 + x @ rng.normal(0, 2, 9) + rng.normal(0, 1, num_rows)
    fit = fit_ridge(x, values)

    def left_out(penalty):
        errors = []
        for index in range(num_rows):
            others = np.arange(num_rows) != index
            found = slow_ridge(x[others], values[others], penalty)
            errors.append(found[0] + x[index] @ found[1:] - values[index])
        return np.square(errors).sum()

    assert fit.penalty == min(PENALTIES, key=left_out)
    new = rng.random((7, 9))
    expected = slow_ridge(x, values, fit.penalty)
    assert fit.predict(new) == pytest.approx(expected[0] + new @ expected[1:], rel=1e-9)


def test_the_cross_validated_error_is_that_of_subnets_it_has_not_seen(fitted):
    """Values with noise: what the file's own rows tell must hold for all others."""
    rng = random.Random(1)
    noisy = {arch: additive(arch) + rng.gauss(0, 1.5) for arch in TINY.enumerate()}
    predictor = fitted(150, noisy.get)
    unseen = [arch for arch in noisy if arch not in predictor.evaluations.archs]
    errors = [predictor.predict(arch).mean - noisy[arch] for arch in unseen]
    assert predictor.error.mae == pytest.approx(np.abs(errors).mean(), rel=0.25)
    stds = {predictor.predict(arch).std for arch in unseen}
    assert stds == {predictor.error.rmse}
    within = np.mean(np.abs(errors) < predictor.error.rmse)
    assert 0.58 < within < 0.78  # 0.68 of a normal distribution


def test_on_pure_noise_it_does_not_claim_to_know_anything(fitted):
    rng = random.Random(2)
    predictor = fitted(120, lambda _: 40 + rng.gauss(0, 3))
    assert predictor.error.mae > 0.9 * predictor.error.mean_mae
    assert predictor.error.rmse == pytest.approx(3, rel=0.25)
    assert abs(predictor.error.kendall_tau) < 0.25
    few = fitted(20, lambda _: 40 + rng.gauss(0, 3))
    assert few.error.mae > few.error.mean_mae
    assert "no better than guessing" in few.describe()
    assert "no better than guessing" not in fitted(40, additive).describe()


def test_an_interplay_of_choices_shows_in_the_error(fitted):
    def value(arch):
        signs = [1 if arch.stages[n].depth == 2 else -1 for n in (1, 2)]
        return 50 + 4 * math.prod(signs)

    predictor = fitted(100, value)
    assert predictor.error.rmse > 3.5


def test_unseen_choices_are_marked_and_cost_certainty(tmp_path):
    frozen = get_space(
        "tiny", num_classes=12, freeze=["resolution=64", "stage4.mixer=none,softmax"]
    )
    rows = [row(arch, additive(arch)) for arch in subnets(30, frozen)]
    predictor = fit_subnets(read_evaluations(write(tmp_path / "rows.jsonl", rows)), TINY)
    (spread,) = {predictor.spread}
    assert spread == pytest.approx(np.std([line["value"] for line in rows]))
    for arch in subnets(200, seed=5):
        unseen = (arch.resolution == (96, 96)) + (arch.stages[3].mixer == "relu_linear")
        unseen += arch.stages[3].scales == (5,)
        found = predictor.predict(arch)
        assert found.extrapolated == (unseen > 0)
        assert found.std == pytest.approx(math.sqrt(unseen) * spread, abs=1e-4)
    with pytest.raises(SpaceError):
        predictor.predict(named_arch("l1"))


def test_a_choice_that_was_never_seen_counts_as_the_mean_one():
    columns = OneHot.of([choices_of(TINY, arch) for arch in subnets(20)])
    x = columns.encode([choices_of(TINY, arch) for arch in subnets(20)])
    values = x @ np.arange(x.shape[1])
    fit = fit_ridge(x, values)
    odd = choices_of(TINY, subnets(1)[0]) | {"b.stage2.width": 24}
    widths = [odd | {"b.stage2.width": width} for width in (16, 32)]
    share = [np.mean([a.stages[1].width == width for a in subnets(20)]) for width in (16, 32)]
    expected = share @ fit.predict(columns.encode(widths))
    assert fit.predict(columns.encode([odd])) == pytest.approx(expected, rel=1e-9)


def test_families_have_effects_of_their_own(tmp_path):
    varied = ("stage2.depth", "stage3.width")
    family = get_space("family", num_classes=12)
    space = replace(
        family,
        parts=tuple(
            replace(p, dimensions={n: c[: 1 + (n in varied)] for n, c in p.dimensions.items()})
            for p in family.parts
        ),
    )

    def value(arch):
        base, of_depth = {"b": (60, -2), "l": (70, 3)}[arch.family]
        return base + of_depth * arch.stages[1].depth

    rows = [row(arch, value(arch)) for arch in subnets(8, space)] * 2
    rows += [row(arch, value(arch)) for arch in subnets(2, TINY)]
    with pytest.raises(PredictorError, match="another space"):
        fit_subnets(read_evaluations(write(tmp_path / "rows.jsonl", rows)), space)
    wider = replace(
        space, parts=tuple(p if p.family == "l" else TINY.parts[0] for p in space.parts)
    )
    rows = [row(arch, value(arch)) for arch in [*subnets(40, TINY), *subnets(60, wider)]]
    predictor = fit_subnets(read_evaluations(write(tmp_path / "rows.jsonl", rows)), wider)
    assert {arch.family for arch in predictor.evaluations.archs} == {"b", "l"}
    for arch in subnets(50, wider, seed=3):
        assert predictor.predict(arch).mean == pytest.approx(value(arch), abs=1e-3)


def test_the_order_of_lines_has_no_influence_and_repeats_are_averaged(tmp_path):
    rng = random.Random(3)
    rows = [row(arch, additive(arch) + rng.gauss(0, 1)) for arch in subnets(40)]
    first = fit_subnets(read_evaluations(write(tmp_path / "a.jsonl", rows)), TINY)
    halves = [r | {"value": r["value"] + shift} for r, shift in product(rows, (-1, 1))]
    rng.shuffle(halves)
    again = fit_subnets(read_evaluations(write(tmp_path / "b.jsonl", halves)), TINY)
    for arch in subnets(20, seed=9):
        assert again.predict(arch).mean == pytest.approx(first.predict(arch).mean, abs=1e-9)
    assert again.error.mae == pytest.approx(first.error.mae, abs=1e-9)


def test_other_figures_are_passed_over_and_a_torn_line_too(tmp_path):
    rows = [row(arch, additive(arch)) for arch in subnets(20)]
    rows += [row(arch, 99.0, metric="top5") for arch in subnets(20)]
    path = write(tmp_path / "rows.jsonl", rows)
    whole = read_evaluations(path)
    assert len(whole.archs) == 20
    assert max(whole.values) < 99
    with path.open("a") as file:
        file.write(json.dumps(rows[0])[:200])
    assert read_evaluations(path).values == whole.values


def test_too_few_subnets_are_refused_with_the_number_that_would_do(tmp_path):
    needed = rows_for(14)  # 12 dimensions of two choices but one of three
    rows = [row(arch, additive(arch)) for arch in subnets(needed)]
    path = write(tmp_path / "few.jsonl", rows[:-1])
    with pytest.raises(PredictorError) as caught:
        fit_subnets(read_evaluations(path), TINY)
    assert f"holds {needed - 1} distinct subnets" in str(caught.value)
    assert f"{needed} are needed: `python -m supernet.evaluate" in str(caught.value)
    assert f"--sample {2 * needed} --out {path}`" in str(caught.value)
    fit_subnets(read_evaluations(write(path, rows)), TINY)
    assert needed - math.ceil(needed / FOLDS) >= 14


def broken(change):
    rows = [row(arch, additive(arch)) for arch in subnets(20)]
    rows[6] = change(rows[6])
    return rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r | {"dataset": "imagenet"}, "line 7: data set 'imagenet', but 'shapes'"),
        (lambda r: r | {"weights_sha256": "cd" * 32}, "line 7: weights 'cdcd"),
        (lambda r: r | {"task": "segmentation"}, "line 7: task 'segmentation', but"),
        (lambda r: r | {"value": math.nan}, "line 7 is no evaluated subnet: not JSON"),
        (lambda r: r | {"value": "71"}, "Expected `float`, got `str` - at `$.value`"),
        (lambda r: r | {"value": 10**400}, "line 7 is no evaluated subnet"),
        (lambda r: r | {"n": [1]}, "`$.n`"),
        (lambda r: r | {"weights_sha256": 3}, "`$.weights_sha256`"),
        (lambda r: r | {"value": -1}, "line 7: value must be a number"),
        (lambda r: r | {"value": 180}, "line 7: value must be a percentage, up to 100, not 180"),
        (lambda r: {k: v for k, v in r.items() if k != "value"}, "line 7 is no evaluated subnet"),
        (lambda r: {"arch": r["arch"], "metrc": 1, "value": 1}, "did you mean 'metrc'"),
        (
            lambda r: r | {"arch": {"family": "b"}},
            "line 7 is no evaluated subnet: not an architecture",
        ),
        (lambda r: r | {"arch": {**r["arch"], "head": None}}, "line 7: an arch for"),
        (lambda r: r | {"metric": 5}, "`$.metric`"),
        (lambda r: [1], "line 7 is no evaluated subnet"),
        (lambda r: row(named_arch("b0", num_classes=12), 50), "line 7 is of another space"),
        (lambda r: row(get_space("tiny").sample(random.Random(0)), 50), "line 7: classes '1000'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, says):
    path = write(tmp_path / "rows.jsonl", broken(change))
    with pytest.raises(PredictorError, match=r"rows\.jsonl") as caught:
        fit_subnets(read_evaluations(path), TINY)
    assert says in str(caught.value)


def test_counts_of_objects_are_no_percentages(tmp_path):
    space = get_space("l", task="promptable")
    lines = [row(arch, 50.0, metric="miou", dataset="leaves") for arch in subnets(60, space)]
    lines += [line | {"metric": "objects", "value": 800.0} for line in lines]
    assert len(read_evaluations(write(tmp_path / "rows.jsonl", lines)).archs) == 60


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no line"),
        ("{]\n", "line 1 is no evaluated subnet: not JSON"),
        ("[" * 100_000 + "\n", "line 1 is no evaluated subnet: damaged"),
        ('{"arch": 3, "metric": "top1", "value": 1}', "`$.arch`"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, says):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(PredictorError, match=r"rows\.jsonl") as caught:
        read_evaluations(tmp_path / "rows.jsonl")
    assert says in str(caught.value)
    with pytest.raises(PredictorError, match="cannot read"):
        read_evaluations(tmp_path / "none.jsonl")


def test_only_other_figures_are_no_accuracy(tmp_path):
    rows = [row(arch, 50, metric="top5") for arch in subnets(20)]
    with pytest.raises(PredictorError, match="holds only top5"):
        read_evaluations(write(tmp_path / "rows.jsonl", rows))


def test_a_prediction_stays_within_what_the_metric_can_be(fitted):
    predictor = fitted(
        40, lambda arch: 99.9 if arch.stages[3].width == 128 else 60 + additive(arch) / 10
    )
    found = [predictor.predict(arch).mean for arch in TINY.enumerate()]
    assert max(found) <= 100


def test_the_line_tells_provenance_error_and_count(fitted):
    predictor = fitted(40, additive)
    said = predictor.describe()
    for part in (
        "supernet,",
        "40 subnets",
        "1000 pictures",
        "10-fold",
        "Kendall tau",
        "rows.jsonl",
    ):
        assert part in said
    record = json.loads(json.dumps(predictor.to_dict(), allow_nan=False))
    assert record["provenance"] == "supernet"
    assert record["num_subnets"] == 40
    assert record["effects"]["b.resolution"]["96"] == pytest.approx(1.0, abs=0.3)


def test_the_number_that_would_do_is_that_of_the_whole_space(tmp_path):
    space = get_space("family", num_classes=12)
    counts = [len(c) - 1 for part in space.parts for c in part.dimensions.values()]
    path = write(tmp_path / "few.jsonl", [row(arch, 50) for arch in subnets(12, space)])
    with pytest.raises(PredictorError, match=f"{rows_for(2 + sum(counts))} are needed"):
        fit_subnets(read_evaluations(path), space)
