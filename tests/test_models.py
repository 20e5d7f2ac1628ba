"""Fitted models: against scikit-learn, slow twins and held-out values; files; the command."""

import csv
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV

from predictors.fit import Fit
from predictors.models import gp as gps
from predictors.models.choose import fit, mean_weights
from predictors.models.encoding import Encoding
from predictors.models.file import read_model, write_model
from predictors.models.judge import cross_coverage, quantile
from predictors.models.model import BASE, DEVIATIONS
from predictors.models.table import FEWEST, Table
from predictors.models.trees import FEW, SETTINGS
from predictors.models.warp import Warp, bend_of
from predictors.ridge import PENALTIES
from results.console import main
from results.errors import PredictorError

MIXERS = ("none", "softmax", "linear")


def table(count, seed=0, noise=0.3):
    """Genes, features and values with an interplay of choices."""
    rng = np.random.default_rng(seed)
    genes = {f"depth{i}": rng.integers(1, 5, count) for i in range(4)}
    genes["mixer"] = np.array(MIXERS)[rng.integers(0, 3, count)]
    genes["heads"] = [None if m == "none" else int(h) for m, h in zip(
        genes["mixer"], rng.choice([8, 16, 32], count), strict=True
    )]  # fmt: skip
    size = rng.uniform(1, 50, count)
    values = 60 + 5 * np.log(size) + genes["depth0"] * (1 + (genes["mixer"] == "softmax"))
    values = values + np.sqrt(genes["depth3"]) + rng.normal(0, noise, count)
    return genes, {"size": size}, values


def some(columns, rows):
    return {name: [column[i] for i in rows] for name, column in columns.items()}


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """A model after it was written and read, the columns that it was fitted to, and new ones."""
    genes, features, values = table(60)
    model = fit(genes, values, features, model="mean")
    path = tmp_path_factory.mktemp("models") / "model.npz"
    write_model(path, model, "top1")
    found, told = read_model(path)
    assert told.target == "top1"
    data = Table.of(genes, values, features)
    z = model.encoding.encode(data.genes, data.features).z
    other, sizes, _ = table(70, seed=1)
    assert found.predict(other, sizes)[0].tolist() == model.predict(other, sizes)[0].tolist()
    assert found.predict(other, sizes)[1].tolist() == model.predict(other, sizes)[1].tolist()
    return found, z, model.warp.to(data.values), found.encoding.encode(other, sizes).z


def test_the_ridge_is_scikit_learns(reloaded):
    model, z, t, new = reloaded
    theirs = RidgeCV(alphas=PENALTIES, gcv_mode="svd").fit(z, t)
    assert model.members.predict("ridge", new) == pytest.approx(theirs.predict(new), abs=1e-9)


def test_the_trees_are_scikit_learns(reloaded):
    model, z, t, new = reloaded
    ridge, columns = model.members.ridge, model.members.tree_columns
    theirs = GradientBoostingRegressor(**SETTINGS)
    theirs.fit(z[:, columns], np.round(t - BASE * ridge.predict(z), 9))
    expected = BASE * ridge.predict(new) + theirs.predict(new[:, columns])
    assert len(new) > FEW
    assert model.members.predict("trees", new) == pytest.approx(expected, abs=1e-9)
    one_by_one = [model.members.predict("trees", row[None])[0] for row in new]
    assert one_by_one == pytest.approx(expected, abs=1e-9)


def test_the_process_is_scikit_learns_on_one_group_of_columns():
    rng = np.random.default_rng(0)
    z, new = rng.normal(size=(50, 6)), rng.normal(size=(40, 6))
    y = z @ rng.normal(size=6) + np.sin(3 * z[:, 0]) + rng.normal(0, 0.1, 50)
    groups = [slice(0, 6)]
    theta, _ = gps.tune(z, y, groups)
    found = gps.condition(z, y, groups, theta)
    linear, amount, length, noise = np.exp(theta)
    kernel = (
        ConstantKernel(linear) * DotProduct(1e-9)
        + ConstantKernel(amount) * Matern(length, nu=2.5)
        + WhiteKernel(noise + gps.JITTER)
    )
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None, normalize_y=True)
    means, stds = theirs.fit(z, y).predict(new, return_std=True)
    ours = found.predict_both(new)
    assert ours[0] == pytest.approx(means, abs=1e-9)
    assert found.predict(new) == pytest.approx(means, abs=1e-9)
    assert ours[1] == pytest.approx(stds, abs=1e-9)


def test_the_process_is_a_slow_twin_on_three_groups(reloaded):
    model, z, t, new = reloaded
    gp, groups = model.members.gp, model.encoding.groups
    assert len(groups) == 3
    linear, amount = np.exp(gp.theta[:3]), np.exp(gp.theta[3])
    lengths, noise = np.exp(gp.theta[4:7]), np.exp(gp.theta[7])

    def kernel(a, b):
        parts = [(a[g], b[g]) for g in groups]
        r = (
            sum(((p - q) ** 2).sum() / n**2 for (p, q), n in zip(parts, lengths, strict=True))
            ** 0.5
        )
        smooth = amount * (1 + 5**0.5 * r + 5 / 3 * r**2) * np.exp(-(5**0.5) * r)
        return smooth + sum(v * (p @ q) for (p, q), v in zip(parts, linear, strict=True))

    k = np.array([[kernel(a, b) for b in z] for a in z]) + (noise + gps.JITTER) * np.eye(len(z))
    cross = np.array([[kernel(a, b) for b in z] for a in new[:5]])
    y = (t - t.mean()) / t.std()
    means = t.mean() + t.std() * cross @ np.linalg.solve(k, y)
    own = np.array([kernel(a, a) for a in new[:5]]) + noise + gps.JITTER
    stds = t.std() * np.sqrt(own - np.einsum("ij,ji->i", cross, np.linalg.solve(k, cross.T)))
    found = gp.predict_both(new[:5])
    assert found[0] == pytest.approx(means, abs=1e-7)
    assert found[1] == pytest.approx(stds, rel=1e-6)
    behind = gp.predict_function(new[:5])
    assert behind[0].tolist() == found[0].tolist()
    assert behind[1] ** 2 == pytest.approx(stds**2 - t.std() ** 2 * noise, rel=1e-6)


def test_what_is_behind_the_noise_is_told_in_the_values_own_points(reloaded):
    model, _, _, z = reloaded
    genes, features, _ = table(70, seed=1)
    means, stds = model.predict_function(genes, features)
    assert means == pytest.approx(model.predict(genes, features)[0], abs=1e-9)
    t, step = model.warp.to(means), 1e-6 * model.members.gp.predict_function(z)[1]
    beside = model.warp.back(t + step) - model.warp.back(t - step)
    assert stds == pytest.approx(beside / 2e-6, rel=1e-4)


def test_the_gradient_that_tunes_it_is_that_of_differences():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(30, 5))
    y = z[:, 0] + rng.normal(0, 0.3, 30)
    y = (y - y.mean()) / y.std()
    groups = [slice(0, 2), slice(2, 5)]
    products = [z[:, g] @ z[:, g].T for g in groups]
    apart = [gps.squared_distances(z[:, g], z[:, g]) for g in groups]
    prior = (np.zeros(6), np.ones(6))
    theta = rng.normal(size=6)

    def misfit(at):
        return gps._misfit(at, products, apart, y, prior)[0]

    steps = 1e-5 * np.eye(6)
    slow = [(misfit(theta + step) - misfit(theta - step)) / 2e-5 for step in steps]
    assert gps._misfit(theta, products, apart, y, prior)[1] == pytest.approx(slow, rel=1e-5)


def test_intervals_hold_for_rows_that_the_fit_has_not_seen():
    """Pooled over tables of two sizes; noise is larger where values are low."""
    within = []
    for seed, count in enumerate((60, 60, 60, 150)):
        genes, features, values = table(count + 500, seed=seed)
        rng = np.random.default_rng(seed)
        values = values + rng.normal(0, 1, len(values)) * (values < 75)
        kept, out = range(count), range(count, count + 500)
        model = fit(some(genes, kept), values[kept], some(features, kept))
        mean, std = model.predict(some(genes, out), some(features, out))
        within.append(np.abs(mean - values[out]) <= DEVIATIONS * std)
        told = model.judgement.scores[model.kind]
        assert told.coverage is not None
        assert 0.85 < told.coverage < 0.97
        assert told.mae == pytest.approx(np.abs(mean - values[out]).mean(), rel=0.35)
    assert 0.85 < np.mean(within) < 0.95


def test_a_fit_finds_what_is_there_and_beats_guessing():
    genes, features, values = table(120, noise=0.1)
    model = fit(genes, values, features)
    other, sizes, truth = table(300, seed=5, noise=0.0)
    mean, _ = model.predict(other, sizes)
    assert np.corrcoef(mean, truth)[0, 1] > 0.995
    scores = model.judgement.scores
    assert scores[model.kind].mae <= 1.05 * min(score.mae for score in scores.values())


def test_on_noise_alone_it_says_that_it_knows_nothing():
    genes, features, _ = table(80)
    values = np.random.default_rng(3).normal(70, 2, 80)
    model = fit(genes, values, features)
    score = model.judgement.scores[model.kind]
    assert score.mae > 0.85 * model.judgement.guess_mae
    assert score.kendall_tau is not None
    assert abs(score.kendall_tau) < 0.25


def test_the_order_of_rows_and_of_columns_has_no_influence(tmp_path):
    genes, features, values = table(40)
    order = random.Random(0).sample(range(40), 40)
    first = fit(genes, values, features)
    again = fit(some(genes, order), values[order], some(features, order))
    for name, model in (("a", first), ("b", again)):
        write_model(tmp_path / name, model, "value")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unseen_choices_are_counted_and_cost_certainty():
    genes, features, values = table(60)
    model = fit(genes, values, features)
    row = {name: [column[0]] for name, column in genes.items()}
    size = {"size": features["size"][:1]}
    _, known, none = model.predict_all(row, size)
    _, wide, some = model.predict_all(row | {"mixer": ["rwkv"], "depth1": [9]}, size)
    assert (none[0], some[0]) == (0, 2)
    assert wide[0] ** 2 >= known[0] ** 2 + 2 * values.std() ** 2 * 0.5
    with pytest.raises(PredictorError, match="no column 'mixer' among the genes"):
        model.predict({k: v for k, v in row.items() if k != "mixer"}, size)
    with pytest.raises(PredictorError, match="gene 'depth1': a column of numbers holds a text"):
        model.predict(row | {"depth1": ["two"]}, size)
    with pytest.raises(PredictorError, match="different lengths"):
        model.predict(row | {"depth1": [1, 2]}, size)


def test_genes_become_the_columns_that_are_documented():
    genes: dict[str, list[Any]] = {
        "e1": [1, 1, 2] * 5,
        "e2": [3, 4, 4] * 5,
        "e3": [None, 6, 6] * 5,
        "kind": ["a", "b", ""] * 5,
    }
    size = np.arange(1.0, 16.0)
    encoding = Encoding.of(Table.of(genes, size, {"macs": size, "shift": size - 4}))
    counts = [group.stop - group.start for group in encoding.groups]
    # e1 and e2 two choices each, e3 one beside its absence, kind two; then e1, e2, as e3 is 6 or
    # absent; macs and its logarithm, shift, the sum of e and its logarithm
    assert counts == [2 + 2 + 1 + 2, 2, 5]
    assert [measure.name for measure in encoding.measures] == ["macs", "shift", "e#"]
    z = encoding.encode(genes, {"macs": size, "shift": size - 4}).z
    for group in encoding.groups:
        assert z[:, group].mean(axis=0) == pytest.approx(0, abs=1e-12)
        assert (z[:, group] ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.2)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40).filter(lambda v: np.std(v) > 1e-3),
    st.floats(-2, 2),
    st.lists(st.floats(-3, 3), min_size=1, max_size=10),
)
@example([0.0, 0.0, 1.0], 5e-324, [0.0])
@settings(max_examples=60, deadline=None)
def test_a_transformation_can_be_taken_back(values, bend, beyond):
    values = np.array(values)
    warp = Warp.of(values, bend)
    everywhere = np.sort(np.concatenate([values, values.mean() + values.std() * np.array(beyond)]))
    t = warp.to(everywhere)
    assert np.all(np.diff(t) >= 0)
    assert warp.back(t) == pytest.approx(everywhere, rel=1e-6, abs=1e-6 * values.std())
    assert np.isfinite(warp.slope(t)).all()


def test_values_that_crowd_at_the_top_are_spread():
    values = 80 - np.random.default_rng(0).exponential(2, 300)
    assert bend_of(values) > 0.2
    assert bend_of(-values) < -0.2
    assert abs(bend_of(np.random.default_rng(0).normal(size=300))) < 0.1


@given(st.lists(st.floats(0, 10), min_size=9, max_size=60))
@settings(max_examples=40, deadline=None)
def test_a_quantile_by_rank_covers_one_more_value(ratios):
    ratios = np.array(ratios)
    assert (ratios <= quantile(ratios, 0.9)).sum() >= np.ceil(0.9 * (len(ratios) + 1)) - 1
    assert cross_coverage(ratios, np.arange(len(ratios)) % 3, 0.9) <= 1


def test_weights_of_a_mean_go_to_who_errs_least():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    noisy = truth + rng.normal(0, [[0.1], [3.0], [3.0]], (3, 500))
    assert mean_weights(noisy, truth).tolist() == [1, 0, 0]
    alike = truth + rng.normal(0, 1, (3, 500))
    assert mean_weights(alike, truth) == pytest.approx([1 / 3] * 3, abs=0.15)


# --- Files -----------------------------------------------------------------------------------


def test_a_damaged_model_is_one_line_or_the_same_model(tmp_path):
    genes, features, values = table(30)
    path = tmp_path / "model.npz"
    write_model(path, fit(genes, values, features), "top1")
    data, rng = path.read_bytes(), random.Random(0)
    said = []
    for number in range(150):
        damaged = bytearray(data)
        if number % 3 == 0:
            damaged = damaged[: rng.randrange(len(data))]
        for _ in range(rng.randint(1, 8)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            model, _ = read_model(path)
            mean, std = model.predict(genes, features)
            assert len(mean) == len(std) == 30
        except PredictorError as error:
            said.append(str(error))
    assert len(said) > 50
    assert not any("\n" in text for text in said)


def rewritten(path, change):
    """A model whose arrays were changed by hand."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


def meta(arrays, **changes):
    told = json.loads(arrays["metadata"].tobytes()) | changes
    arrays["metadata"] = np.frombuffer(json.dumps(told).encode(), np.uint8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("gp.alpha"), "no gp.alpha"),
        (lambda a: a.update({"gp.alpha": a["gp.alpha"][1:]}), "gp.alpha is not of type float64"),
        (lambda a: a.update({"gp.alpha": np.array([None] * 30)}), "gp.alpha is not of type"),
        (lambda a: a.update({"scales": -a["scales"]}), "its scales are no lengths"),
        (lambda a: a.update({"trees.columns": a["trees.columns"] + 99}), "trees do not fit"),
        (
            lambda a: a["means"].__setitem__(0, np.nan),
            "means holds what is no number, or too large",
        ),
        (lambda a: meta(a, version=2), "Invalid"),
        (lambda a: meta(a, kind="forest"), "forest"),
        (lambda a: meta(a, weights={}), "nothing is said of its kind"),
        (lambda a: meta(a, genes=json.loads(a["metadata"].tobytes())["genes"] * 2), "stands twice"),
    ],
)
def test_what_is_wrong_in_a_model_is_named(tmp_path, change, says):
    genes, features, values = table(30)
    path = tmp_path / "model.npz"
    write_model(path, fit(genes, values, features), "top1")
    rewritten(path, change)
    with pytest.raises(PredictorError, match=r"model\.npz") as caught:
        read_model(path)
    assert says in str(caught.value)


def test_compressed_models_and_pickles_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez_compressed(path, metadata=np.zeros(9, np.uint8))
    with pytest.raises(PredictorError, match="its parts are packed"):
        read_model(path)
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(PredictorError, match="is no model: write one by"):
        read_model(path)


# --- The command -----------------------------------------------------------------------------


def write_rows(path, count=40, change=lambda rows: None):
    genes, features, values = table(count)
    names = [*genes, "size", "date", "top1"]
    columns = [*genes.values(), features["size"], ["May"] * count, values]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(tmp_path, path, *flags):
    given = ["--rows", path, "--column", "top1", "--genes", "depth*,mixer", "--genes", "heads"]
    given += ["--features", "size", "--report", tmp_path / "report", *flags]
    main(Fit, "predictors.fit", list(map(str, given)))


def test_a_table_becomes_a_model_a_report_and_a_picture(tmp_path, capsys):
    path = write_rows(tmp_path / "rows.csv")
    run(tmp_path, path, "--out", tmp_path / "model.npz")
    said = capsys.readouterr()
    assert "columns not used: date" in said.err
    for part in (
        "40 distinct rows",
        "Gaussian process",
        "learning curve",
        "with 80 rows",
        "more: ",
    ):
        assert part in said.out
    assert (tmp_path / "report" / "fit.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "report" / "run.json").read_text())
    assert record["command"] == "predictors.fit"
    assert record["settings"]["column"] == "top1"
    told = json.loads((tmp_path / "report" / "fit.json").read_text())
    assert set(told["scores"]) == {"ridge", "gp", "trees", "mean"}
    model, metadata = read_model(tmp_path / "model.npz")
    assert metadata.target == "top1"
    genes, features, values = table(40)
    assert model.kind == told["kind"]
    same = fit(genes, values, features)
    mine = replace(same, judgement=model.judgement)
    assert model.predict(genes, features)[0] == pytest.approx(mine.predict(genes, features)[0])


def test_equal_rows_are_averaged_and_counted(tmp_path, capsys):
    def repeat(rows):
        rows += [row | {"top1": row["top1"] + 2} for row in rows[:5]]

    run(tmp_path, write_rows(tmp_path / "rows.csv", change=repeat), "--json")
    said = capsys.readouterr()
    assert "5 rows have the same genes and features as others: their top1 was aver" in said.err
    assert "averaged, 2 apart at most" in said.err
    told = json.loads(said.out)
    assert (told["rows"], told["repeated"]) == (40, 5)


def edit(**changes):
    return lambda rows: rows[6].update(changes)


@pytest.mark.parametrize(
    ("change", "flags", "says"),
    [
        (edit(top1="nan"), [], "line 8: top1 must be a number, not 'nan'"),
        (edit(top1=""), [], "line 8: top1 must be a number, and the field is empty"),
        (edit(size="large"), [], "line 8: size must be a number, not 'large'"),
        (edit(depth1="nan"), [], "gene 'depth1': a column of choices holds nan"),
        (lambda rows: [r.update(top1=70) for r in rows], [], "all 40 values are 70"),
        (lambda rows: rows.__delitem__(slice(3, None)), [], f"at least {FEWEST} are needed"),
        (lambda rows: None, ["--features", "sise"], "no column 'sise'; did you mean 'size'?"),
        (lambda rows: None, ["--features", "date"], "line 2: date must be a number"),
        (lambda rows: None, ["--features", "depth1"], "'depth1' is a gene and a feature"),
        (lambda rows: None, ["--genes", "top1"], "'top1' is what is predicted"),
        (
            lambda rows: rows.extend([r | {"date": f"d{i}"} for i, r in enumerate(2 * rows)]),
            ["--genes", "date"],
            "gene 'date' has 81 different texts in 120 rows: it names networks",
        ),
        (lambda rows: None, ["--model", "forest"], "no model 'forest'"),
        (lambda rows: None, ["--out", "model.bin"], "must end in .npz"),
        (lambda rows: None, ["--space", "tiny"], "--space goes with --subnets"),
        (lambda rows: None, ["--subnets", "x.jsonl"], "either --rows"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, change, flags, says):
    path = write_rows(tmp_path / "rows.csv", change=change)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, path, *flags)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_missing_column_is_named(tmp_path, capsys):
    path = write_rows(tmp_path / "rows.csv")
    for flags, says in (
        (["--genes", "depth1"], "name the column to predict"),
        (["--column", "top", "--genes", "depth1"], "no column 'top'; did you mean 'top1'?"),
        (["--column", "top1"], "name the columns to predict top1 from"),
    ):
        with pytest.raises(SystemExit):
            main(Fit, "predictors.fit", ["--rows", str(path), *flags])
        assert says in capsys.readouterr().err
