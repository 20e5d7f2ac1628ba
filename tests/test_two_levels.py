"""Accuracies of training alone: the small model against slow twins, and searches on it."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.front import read_front
from nas.options import SearchOptions
from nas.predict import Predict
from nas.search import SearchCommand
from predictors.batch import Batch
from predictors.evaluations import read_evaluations
from predictors.learned import fit_learned, read_learned
from predictors.models.file import write_model
from predictors.second_level import CLEARLY, SHRINKAGES, choose_linear, fit_linear, fit_second_level
from predictors.two_levels import FEWEST, fit_two_levels
from results.console import main
from results.errors import PredictorError, RunError, SearchError, UserError
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from tests.conftest import ROOT
from tests.test_learned import curved
from tests.test_subnets import TINY, row, subnets, write

OTHERS = subnets(160, seed=9)  # of which some were trained alone
RNG = np.random.default_rng(0)


def rows_of(count, noise=0.1, features=3):
    x = RNG.normal(size=(count, features)) * (3, 1, 2)[:features]
    return x, 50 + x @ (1.0, 0.5, -0.2)[:features] + RNG.normal(scale=noise, size=count)


def naive(x, values, columns, penalties):
    """Mean and effects by the normal equations of columns beside a column of ones."""
    design = np.column_stack([np.ones(len(x)), x[:, columns]])
    penalty = np.diag([0.0, *penalties])
    return np.linalg.solve(design.T @ design + penalty, design.T @ values)


@pytest.mark.parametrize("columns", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize("share", SHRINKAGES)
def test_leaving_out_in_closed_form_is_refitting(columns, share):
    x, values = rows_of(9, noise=1.0)
    fit = fit_linear(x, values, columns, (share,) * len(columns))
    penalties = [share * ((x[:, c] - x[:, c].mean()) ** 2).sum() for c in columns]
    errors = []
    for out in range(len(values)):
        rest = np.arange(len(values)) != out
        mean, *effects = naive(x[rest], values[rest], list(columns), penalties)
        errors.append(values[out] - mean - x[out, list(columns)] @ np.array(effects))
    assert fit.mean_square == pytest.approx(np.mean(np.square(errors)), rel=1e-9)
    mean, *effects = naive(x, values, list(columns), penalties)
    new, _ = rows_of(4)
    expected = mean + new[:, list(columns)] @ np.array(effects)
    assert fit.predict(new) == pytest.approx(expected, rel=1e-9)


def test_a_leverage_is_the_variance_of_the_fit_in_noise():
    x, _ = rows_of(12)
    new = rows_of(3)[0]
    fits = [fit_linear(x, RNG.normal(size=12), (0, 1), (1e-9, 1e-9)) for _ in range(4000)]
    drawn = np.var([fit.predict(new) for fit in fits], axis=0)
    assert fits[0].leverage(new) == pytest.approx(drawn, rel=0.1)


def test_the_choice_is_that_of_trying_all():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(10, 3))
        values = x @ (1.0, rng.choice([0.0, 2.0]), 0.0) + rng.normal(size=10)
        plain = [fit_linear(x, values, (0,), (s,)) for s in SHRINKAGES]
        pairs = [
            fit_linear(x, values, (0, other), (s, t))
            for other in (1, 2)
            for s in SHRINKAGES
            for t in SHRINKAGES
        ]
        rising = [fit for fit in plain if fit.effects[0] > 0] or [fit_linear(x, values)]
        best, better = (min(fits, key=lambda f: f.mean_square) for fits in (rising, pairs))
        bound = (1 - CLEARLY / 10**0.5) * best.mean_square
        expected = better if better.mean_square < bound else best
        found = choose_linear(x, values)
        assert (found.columns, found.shrinkages) == (expected.columns, expected.shrinkages)


def test_what_falls_or_stands_still_has_no_effect():
    x = RNG.normal(size=(8, 3))
    noise = RNG.normal(size=8)
    noise -= x[:, 0] * (noise @ x[:, 0] + 1) / (x[:, 0] @ x[:, 0])  # falls a little
    assert choose_linear(x, noise).columns == ()
    for constant in (1.0, 0.1, 70.3):  # whose mean rounding may change
        assert choose_linear(np.full((6, 3), constant), np.arange(6.0)).columns == ()


def test_errors_are_of_rows_that_neither_fit_nor_choice_has_seen():
    x, values = rows_of(7, noise=2.0)
    found = fit_second_level(x, values)
    for out in range(7):
        rest = np.arange(7) != out
        assert found.left_out[out] == choose_linear(x[rest], values[rest]).predict(x[[out]])[0]
        assert found.guesses[out] == values[rest].mean()


@pytest.mark.parametrize("count", [6, 24])
def test_intervals_hold_what_they_say(count):
    inside = []
    for seed in range(420 // count):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count + 20, 3))
        values = x[:, 0] + rng.normal(size=count + 20)
        means, stds = fit_second_level(x[:count], values[:count]).predict(x[count:])
        inside.append(np.mean(np.abs(means - values[count:]) < 1.645 * stds))
    assert 0.86 < np.mean(inside) < 0.96


def alone(arch, rng=None, size=0.0):
    """Trained alone: half as many points apart as with shared weights, and `size` an octave."""
    octaves = np.log2(network_cost(blocks_of(arch)).macs / 1e6)
    return 60 + curved(arch) / 2 + size * octaves + (rng.gauss(0, 0.3) if rng else 0)


def trained_rows(count, size=0.0, **more):
    rng = random.Random(1)
    told = {"provenance": "trained", "steps": 300} | more
    return [
        row(arch, round(alone(arch, rng, size), 3), **told) | {"weights_sha256": str(number)}
        for number, arch in enumerate(OTHERS[:count])
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a model, with the subnets that it was fitted to beside it."""
    folder, rng = tmp_path_factory.mktemp("fitted"), random.Random(0)
    rows = [row(arch, round(curved(arch) + rng.gauss(0, 0.1), 3)) for arch in subnets(70)]
    found = fit_learned(read_evaluations(write(folder / "rows.jsonl", rows)), TINY)
    write_model(folder / "model.npz", found.model, found.metric, found.origin)
    return folder / "model.npz"


@pytest.fixture
def files(model, tmp_path):
    """A model of subnets, and a file of 12 networks trained alone."""
    return model, write(tmp_path / "trained.jsonl", trained_rows(12))


def test_the_level_is_that_of_training_alone(files):
    first = read_learned(files[0])
    found = fit_two_levels(first, files[1])
    assert found.metric == "top-1 [%] of shapes, trained alone"
    assert found.second.fit.columns == (0,)
    held = OTHERS[12:]
    errors = [found.predict(arch).mean - alone(arch) for arch in held]
    assert np.mean(np.abs(errors)) < 0.5
    assert np.mean([abs(first.predict(arch).mean - alone(arch)) for arch in held]) > 10
    text = found.describe()
    assert text.startswith("trained, two levels: inherited accuracy predicted from 70 subnets")
    assert "12 networks (trained.jsonl, 300 steps each), error 0." in text
    assert "ranks networks as their inherited accuracies do" in text
    assert "no better" not in text


def test_sizes_that_turn_the_ranking_around_are_found(files, tmp_path):
    path = write(tmp_path / "sizes.jsonl", trained_rows(12, size=-15.0))
    first = read_learned(files[0])
    found = fit_two_levels(first, path)
    held = OTHERS[12:]
    truths = [alone(arch, size=-15.0) for arch in held]
    inherited = kendalltau([first.predict(arch).mean for arch in held], truths).statistic
    ranked = kendalltau([found.predict(arch).mean for arch in held], truths).statistic
    assert inherited < 0.3
    assert ranked > 0.8
    assert "log2 MACs count too, Kendall tau" in found.describe()


@pytest.mark.parametrize("size", [0.0, -15.0])
def test_many_are_predicted_as_one_is(files, size):
    write(files[1], trained_rows(12, size))
    found = fit_two_levels(read_learned(files[0]), files[1])
    assert len(found.second.fit.columns) == (2 if size else 1)
    batch = Batch.of(TINY, OTHERS[:30])
    means, stds = found.predict_many(batch)
    for number, arch in enumerate(OTHERS[:30]):
        one = found.predict(arch)
        assert (means[number], stds[number]) == pytest.approx((one.mean, one.std), rel=1e-9)


def test_the_first_level_s_doubt_is_passed_on(files, monkeypatch):
    found = fit_two_levels(read_learned(files[0]), files[1])
    arch = OTHERS[20]
    certain = found.predict(arch).std
    first = found.first.predict(arch)
    doubtful = replace(first, std=5.0)
    monkeypatch.setattr(type(found.first), "predict", lambda self, arch: doubtful)
    slope = found.second.fit.effects[0]
    more = 25.0 - max(found.first_std, first.std) ** 2
    assert found.predict(arch).std == pytest.approx((certain**2 + slope**2 * more) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (trained_rows(FEWEST - 1), "holds 4 networks trained alone, too few .*supernet.evaluate"),
        (trained_rows(6, dataset="cells"), "of data set cells, and the subnets are of shapes"),
        (
            [
                r | {"value": 70 - r["value"] / 20 + (number % 3)}
                for number, r in enumerate(trained_rows(8))
            ],
            "do not get better with their inherited accuracy.* leave --trained out",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(files, tmp_path, rows, words):
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PredictorError, match=words):
        fit_two_levels(read_learned(files[0]), path)


def test_luck_is_called_luck(files, tmp_path):
    rng = random.Random(6)
    rows = [r | {"value": 50 + rng.gauss(0, 3)} for r in trained_rows(8)]
    found = fit_two_levels(read_learned(files[0]), write(tmp_path / "luck.jsonl", rows))
    assert "no better than guessing, train more networks" in found.describe()


def test_unequal_trainings_are_told(files, tmp_path):
    rows = trained_rows(7) + [r | {"steps": 1600} for r in trained_rows(9)[7:]]
    found = fit_two_levels(read_learned(files[0]), write(tmp_path / "rows.jsonl", rows))
    assert "unequally long: 300 to 1,600 steps" in found.describe()
    assert found.to_dict()["steps"] == [300, 1600]


def search(files, out, **more):
    model, trained = files
    options = {
        "accuracy": str(model),
        "trained": trained,
        "trials": 60,
        "evaluations": 20_000,
        "out": out,
    } | more
    SearchCommand(device=("orin",), quiet=True, **options).run()


def test_a_search_finds_networks_by_what_training_alone_would_bring(files, tmp_path, capsys):
    out = tmp_path / "run"
    search(files, out)
    front = read_front(out)
    assert (front.accuracy_provenance, front.metric.split(", ")[1]) == ("trained", "trained alone")
    for candidate in front.candidates:
        assert candidate.accuracy == pytest.approx(alone(candidate.arch), abs=1.0)
    record = json.loads((out / "run.json").read_text())["sources"]["accuracy"]
    assert record["num_networks"] == 12
    assert record["first_level"]["num_subnets"] == 70
    assert "inherited accuracy" in record["second_level"]["effects"]
    flags = ["--accuracy", files[0], "--trained", files[1], "--arch", f"{out}#0", "--json"]
    main(Predict, "nas.predict", ["--device", "orin", *map(str, flags)])
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"] == front.candidates[0].accuracy
    assert told["metric"] == front.metric
    SearchCommand(resume=out, trials=70, quiet=True).run()  # with the same networks alone
    write(files[1], trained_rows(13))
    with pytest.raises(RunError, match=r"the accuracy source is not what .* was begun with"):
        SearchCommand(resume=out, trials=80, quiet=True).run()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"accuracy": "published"}, SearchError, "--trained tells what accuracies of subnets"),
        ({"trained": "none.jsonl"}, PredictorError, "no file none.jsonl of networks trained alone"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(files, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        search(files, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_subnets_in_place_of_trained_networks_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="line 1 is of shared weights"):
        search(files, tmp_path / "run", trained=files[0].parent / "rows.jsonl")
    assert SearchOptions(trained=files[1]).settings()["trained"] == str(files[1].resolve())


def test_the_document_quotes_the_record():
    text = (ROOT / "docs" / "accuracy.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "two_levels.json").read_text())

    def cells(recipe, name, digits):
        means = [found[name]["mean"] for found in record["recipes"][recipe].values()]
        return " | ".join(f"{mean:.{digits}f}".removeprefix("0") for mean in means)

    for recipe, digits in (("2,000 steps", 1), ("3,000 steps", 2)):
        assert f"{recipe}: inherited alone | {cells(recipe, 'tau_inherited', 2)} |" in text
        assert f"{recipe}: inherited as it is | {cells(recipe, 'mae_inherited', digits)} |" in text
        assert f"| two levels | {cells(recipe, 'tau', 2)} | |" in text
        assert f"| two levels | {cells(recipe, 'mae', 2)} | |" in text
        assert f"| guessing the mean of the fitted | {cells(recipe, 'mae_guess', 2)} |" in text
    made_up = record["other choices"]["as it is"]
    six, twelve = (made_up[f"{count} networks, made up"] for count in (6, 12))
    said = (
        f"from tau {six['tau_inherited']:.2f} to {six['tau']:.2f} with six and {twelve['tau']:.2f}"
    )
    assert said.replace("0.", ".") in " ".join(text.split())
