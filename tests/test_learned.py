"""Models of evaluated subnets: fitted, written, read, and searched on."""

import json
import random

import pytest

from nas.front import read_front
from nas.options import SearchOptions
from nas.predict import Predict
from nas.search import SearchCommand
from predictors.evaluations import read_evaluations
from predictors.fit import Fit
from predictors.learned import fit_learned, read_learned
from predictors.models.choose import fit
from predictors.models.file import write_model
from predictors.models.table import FEWEST
from predictors.physical import features_of
from results.console import main
from results.errors import PredictorError, SearchError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.test_models import table
from tests.test_subnets import TINY, additive, row, subnets, write


def curved(arch):
    """Larger networks gain less: no sum of choices."""
    return 90 - 200 / (1 + network_cost(blocks_of(arch)).macs / 1e5) ** 0.5 + additive(arch) / 10


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A file of subnets, the folder that the command wrote, and what it said."""
    folder = tmp_path_factory.mktemp("fitted")
    rng = random.Random(0)
    rows = [row(arch, round(curved(arch) + rng.gauss(0, 0.1), 3)) for arch in subnets(70)]
    path = write(folder / "rows.jsonl", rows)
    flags = ["--subnets", path, "--out", folder / "model.npz", "--report", folder / "report"]
    main(Fit, "predictors.fit", [*map(str, flags), "--quiet"])
    return folder


def test_features_are_the_costs_of_stages():
    archs = [named_arch("b1", resolution=(224, 224)), named_arch("l1", resolution=(224, 224))]
    features = features_of(archs)
    for index, arch in enumerate(archs):
        cost = network_cost(blocks_of(arch))
        assert features["macs"][index] == cost.macs
        assert features["params"][index] == cost.params
        assert features["blocks"][index] == len(blocks_of(arch))
        head = [block for block in blocks_of(arch) if block.stage == "head"]
        stages = sum(
            features[f"{s}.macs"][index] for s in ("stem", "stage1", "stage2", "stage3", "stage4")
        )
        assert stages == cost.macs - network_cost(head).macs


def test_a_model_that_was_read_predicts_as_the_fit_does(fitted):
    evaluations = read_evaluations(fitted / "rows.jsonl")
    again = fit_learned(evaluations, TINY)
    model = read_learned(fitted / "model.npz")
    assert model.space == TINY
    assert model.metric == evaluations.metric
    assert json.loads(json.dumps(model.to_dict())) == json.loads(json.dumps(again.to_dict()))
    for arch in subnets(20, seed=3):
        found = model.predict(arch)
        assert found == again.predict(arch)
        assert abs(found.mean - curved(arch)) < 5 * found.std
        assert not found.extrapolated


def test_physical_features_beat_choices_alone_where_size_decides(fitted):
    from predictors.subnets import fit_subnets

    plain = fit_subnets(read_evaluations(fitted / "rows.jsonl"), TINY)
    model = read_learned(fitted / "model.npz").model
    score = model.judgement.scores[model.kind]
    assert score.kendall_tau is not None
    assert plain.error.kendall_tau is not None
    assert score.mae < plain.error.mae
    assert score.kendall_tau > plain.error.kendall_tau


def test_a_search_takes_the_model_or_fits_it_to_the_file_with_the_same_front(
    fitted, tmp_path, capsys
):
    for name in ("model.npz", "rows.jsonl"):
        source, out = str(fitted / name), tmp_path / name
        SearchCommand(
            device=("orin",), accuracy=source, trials=60, evaluations=20_000, out=out, quiet=True
        ).run()
    fronts = [read_front(tmp_path / name).candidates for name in ("model.npz", "rows.jsonl")]
    assert fronts[0] == fronts[1]
    assert "70 subnets evaluated" in read_front(tmp_path / "model.npz").accuracy_source
    flags = ["--accuracy", str(fitted / "model.npz"), "--arch", f"{tmp_path / 'model.npz'}#0"]
    main(Predict, "nas.predict", ["--device", "orin", "--json", *flags])
    assert json.loads(capsys.readouterr().out)["accuracy"] == fronts[0][0].accuracy


def test_the_plain_ridge_stays_and_older_runs_go_on_with_it(fitted, tmp_path):
    SearchCommand(
        device=("orin",), accuracy=str(fitted / "rows.jsonl"), accuracy_model="ridge", trials=40,
        evaluations=20_000,
        out=tmp_path / "run", quiet=True,
    ).run()  # fmt: skip
    assert "ridge regression on the choices of 70" in read_front(tmp_path / "run").accuracy_source
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["settings"]["accuracy_model"]  # as a run from before the flag has it
    path.write_text(json.dumps(record))
    SearchCommand(resume=tmp_path / "run", trials=60, quiet=True).run()
    assert "ridge regression on the choices of 70" in read_front(tmp_path / "run").accuracy_source


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"accuracy_model": "ridge"}, SearchError, "--accuracy-model tells what is fitted"),
        ({"accuracy": "rows.jsonl", "accuracy_model": "x"}, PredictorError, "no accuracy model"),
        ({"accuracy": "model.npz", "accuracy_model": "gp"}, PredictorError, "is fitted; leave"),
        ({"accuracy": "model.npz", "space": "b"}, SearchError, "is of --space tiny, not b"),
        ({"accuracy": "table.npz"}, PredictorError, "knows no networks; fit one to evaluated"),
        ({"accuracy": "none.npz"}, PredictorError, "MODEL.npz of predictors.fit"),
    ],
)
def test_what_does_not_go_together_is_refused(fitted, tmp_path, options, error, says):
    from nas.engine.run import search

    genes, features, values = table(20)
    write_model(fitted / "table.npz", fit(genes, values, features), "top1")
    if "accuracy" in options:
        options = options | {"accuracy": str(fitted / options["accuracy"])}
    with pytest.raises(error, match=says):
        search(SearchOptions(device=("orin",), trials=20, out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_too_few_subnets_name_the_command_that_gets_more(tmp_path):
    path = write(tmp_path / "few.jsonl", [row(arch, 50 + i) for i, arch in enumerate(subnets(3))])
    with pytest.raises(PredictorError, match=f"3 distinct subnets.*{FEWEST} are needed.*--sample"):
        fit_learned(read_evaluations(path), TINY)
    path = write(tmp_path / "same.jsonl", [row(arch, 50) for arch in subnets(20)])
    with pytest.raises(PredictorError, match="all 20 values are 50"):
        fit_learned(read_evaluations(path), TINY)


@pytest.mark.parametrize(
    ("values", "fields", "says"),
    [
        ([50.0] * 20, {}, "rows.jsonl: all 20 values are 50: there is nothing to predict"),
        ([50.0, 51.0, 52.0], {}, "holds 3 distinct subnets, too few"),
        ([50.0, float("nan")] * 10, {}, "rows.jsonl, line 2 is no evaluated subnet: not JSON"),
        ([50.0, None] * 10, {}, "line 2 is no evaluated subnet: damaged"),
        (range(50, 70), {"metric": "top5"}, "rows.jsonl holds only top5; evaluate subnets with"),
    ],
)
def test_bad_subnets_are_one_line_and_nothing_is_written(tmp_path, capsys, values, fields, says):
    pairs = zip(subnets(20), values, strict=False)
    path = write(tmp_path / "rows.jsonl", [row(arch, value, **fields) for arch, value in pairs])
    flags = ["--subnets", str(path), "--out", str(tmp_path / "model.npz")]
    with pytest.raises(SystemExit) as ended:
        main(Fit, "predictors.fit", [*flags, "--report", str(tmp_path / "report")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_command_says_what_it_passed_over_and_what_to_do_next(tmp_path, capsys):
    archs = subnets(30)
    rows = [row(arch, additive(arch), stderr=0.5) for arch in archs]
    rows += [row(arch, 99.0, metric="top5") for arch in archs]
    rows += [row(archs[0], 50.0)]
    path = write(tmp_path / "rows.jsonl", rows)
    flags = ["--subnets", str(path), "--report", str(tmp_path / "report")]
    main(Fit, "predictors.fit", flags)
    said = capsys.readouterr()
    apart = abs(additive(archs[0]) - 50)
    said_of_it = f"1 line repeats a subnet: their values were averaged, {apart:.3g} apart at most"
    assert said_of_it in said.err
    assert "would differ by 0.5, and they would be ranked with a τ of 0." in said.out
    assert "lines of other figures passed over: top5" in said.err
    assert "supernet.evaluate --weights CHECKPOINT --sample 60 --out" in said.out
    assert f"nas.search --device DEVICE --accuracy {tmp_path / 'report' / 'model.npz'}" in said.out


def test_families_have_genes_of_their_own(tmp_path):
    space = get_space("family", num_classes=12)
    rng = random.Random(0)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(60)))
    path = write(tmp_path / "rows.jsonl", [row(a, 50 + a.resolution[0] / 20) for a in archs])
    model = fit_learned(read_evaluations(path), space)
    for arch in [space.sample(rng) for _ in range(10)]:
        assert model.predict(arch).mean == pytest.approx(50 + arch.resolution[0] / 20, abs=1.0)
    assert {gene.name.partition(".")[0] for gene in model.model.encoding.genes} == {
        "family",
        "b",
        "l",
    }
    assert isinstance(archs[0], Arch)
