"""Searches on evaluated subnets, and on a checkpoint that every trial is evaluated on."""

import csv
import json
from dataclasses import replace

import pytest

from nas.front import COLUMNS, read_front
from nas.pictures import write_plots
from nas.predict import Predict
from nas.search import SearchCommand
from predictors.evaluated_space import space_of_subnets
from predictors.evaluations import read_evaluations
from results.console import main
from supernet.arch import Arch, format_resolution
from supernet.blocks import blocks_of
from supernet.spaces import get_space
from tests.conftest import run_here
from tests.pareto import pareto_front
from tests.test_architecture import module_names
from tests.test_subnets import TINY, additive, row, subnets, write

ORIN = ("--device", "orin")


@pytest.fixture
def rows(tmp_path):
    return write(tmp_path / "rows.jsonl", [row(arch, additive(arch)) for arch in subnets(60)])


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run on evaluated subnets, and what it said."""
    folder = tmp_path_factory.mktemp("searched")
    rows = write(folder / "rows.jsonl", [row(arch, additive(arch)) for arch in subnets(60)])
    flags = ("--trials", 600, "--evaluations", 9000, "--out", folder / "run")
    done = run_here("nas.search", *ORIN, "--accuracy", rows, *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_search_on_evaluated_subnets_finds_the_front_of_their_space(searched):
    """Found against every Arch of the space, with the accuracies that the rows were made of."""
    from lut.device import get_device
    from nas.objectives.predicted import predict_costs
    from predictors.latency import load_predictor

    folder, _ = searched
    front = read_front(folder)
    for candidate in front.candidates:
        assert candidate.arch in TINY
        assert candidate.accuracy == pytest.approx(additive(candidate.arch), abs=0.01)
    latency = load_predictor(get_device("orin"), "imagenet")
    all_archs = [
        replace(front.candidates[0], **predict_costs(latency, arch), accuracy=additive(arch))
        for arch in TINY.enumerate()
    ]
    slowest = max(c.latency_ms for c in all_archs)
    least = min(c.accuracy for c in all_archs)
    found, best = (area(f, slowest, least) for f in (front.candidates, pareto_front(all_archs)))
    assert 0.9 < found / best < 1 + 1e-3


def area(front, slowest, least):
    """Dominated by a front, up to a latency and down to an accuracy."""
    ends = [*(c.latency_ms for c in front[1:]), slowest]
    return sum(
        (end - c.latency_ms) * (c.accuracy - least) for c, end in zip(front, ends, strict=True)
    )


def test_mixers_kernels_and_scales_are_searched(searched):
    folder, said = searched
    trials = len(read_front(folder).trials)
    record = json.loads((folder / "run.json").read_text())
    dimensions = record["sources"]["space"]["parts"]["b"]
    assert dimensions["stage4.mixer"] == ["relu_linear", "softmax", "none"]
    assert record["sources"]["space"]["size"] == TINY.size
    archs = [c.arch for c in read_front(folder).candidates]
    assert {a.stages[0].kernel_size for a in archs} == {3, 5}
    assert {a.stages[3].mixer for a in archs} >= {"softmax", "none"}
    assert "kernel_size, mixer, scales searched too" in said
    assert trials > 200


def test_every_output_tells_provenance_and_error(searched):
    folder, said = searched
    front = read_front(folder)
    assert front.accuracy_provenance == "supernet"
    assert front.metric == "top-1 [%] of shapes, shared weights"
    with (folder / "front.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert {line["accuracy_provenance"] for line in lines} == {"supernet"}
    page = (folder / "front.html").read_text()
    for text in (said, front.accuracy_source, page):
        assert "fitted to 60 subnets evaluated on 1000 pictures each (rows.jsonl" in text
        assert "2 x 6-fold cross-validation" in text
    record = json.loads((folder / "run.json").read_text())
    assert record["metric"] == front.metric
    source = record["sources"]["accuracy"]
    assert source["provenance"] == "supernet"
    assert source["num_subnets"] == 60
    assert source["cross_validated_mae"] >= 0
    assert "published" not in front.accuracy_source
    assert "shaped like the published" not in page


def test_a_published_front_says_published(tmp_path, capsys):
    folder = tmp_path / "run"
    SearchCommand(device=("orin",), space="b", trials=40, evaluations=20_000, out=folder).run()
    with (folder / "front.csv").open() as file:
        provenances = {line["accuracy_provenance"] for line in csv.DictReader(file)}
    assert provenances <= {"published", "transferred"}
    data = json.loads((folder / "front.json").read_text())
    assert data.pop("accuracy_provenance") == "published"
    (folder / "front.json").write_text(json.dumps(data))
    assert read_front(folder).accuracy_provenance == "published"  # fronts from before there was one


def test_the_next_command_predicts_from_the_same_file(searched, capsys):
    import shlex

    folder, said = searched
    *_, last = said.strip().splitlines()
    arguments = shlex.split(last.removeprefix("next: python -m nas.predict "))
    main(Predict, "nas.predict", [*arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    number = int(arguments[arguments.index("--arch") + 1].rpartition("#")[2])
    candidate = read_front(folder).by_id[number]
    assert answer["accuracy"] == candidate.accuracy
    assert answer["metric"] == "top-1 [%] of shapes, shared weights"
    assert answer["provenance"]["accuracy"]["provenance"] == "supernet"
    assert answer["latency_ms"] == candidate.latency_ms


def test_extrapolations_are_marked_in_the_outputs(tmp_path, capsys):
    """From subnets at 64 px, searched with 96 px too."""
    small = get_space("tiny", num_classes=12, freeze=["resolution=64"])
    rows = write(tmp_path / "r.jsonl", [row(a, additive(a)) for a in subnets(40, small)])
    folder = tmp_path / "run"
    SearchCommand(
        device=("orin",), accuracy=str(rows), trials=100, evaluations=20_000, out=folder
    ).run()
    said = capsys.readouterr().out
    candidates = read_front(folder).candidates
    for candidate in candidates:
        assert candidate.accuracy_extrapolated == (candidate.arch.resolution == (96, 96))
        assert (candidate.accuracy_std > 1) == candidate.accuracy_extrapolated
    if any(c.accuracy_extrapolated for c in candidates):
        assert "with choices that no evaluated subnet has" in said
    shown = replace(
        read_front(folder),
        candidates=tuple(replace(c, accuracy_extrapolated=True) for c in candidates),
    )
    write_plots([shown], tmp_path)
    assert "accuracy extrapolated" in (tmp_path / "front.html").read_text()


def test_freezing_narrows_the_files_space(rows, tmp_path):
    SearchCommand(
        device=("orin",),
        accuracy=str(rows),
        freeze=("stage4.mixer=softmax", "resolution=96"),
        trials=60,
        evaluations=20_000,
        out=tmp_path / "run",
        quiet=True,
    ).run()
    archs = [c.arch for c in read_front(tmp_path / "run").candidates]
    assert {a.stages[3].mixer for a in archs} == {"softmax"}
    assert {a.resolution for a in archs} == {(96, 96)}


@pytest.mark.parametrize(
    "space",
    [
        get_space("tiny", num_classes=12),
        get_space("b", num_classes=12, nearest_head=False),
        get_space("l"),
        get_space("all", num_classes=7),
        get_space("family", task="segmentation", dataset="ade20k"),
        get_space("b", task="segmentation", num_classes=6),
        get_space("l", task="promptable"),
        get_space("tiny", num_classes=12).at_resolutions([(160, 160), (192, 224)]),
        get_space("b", task="segmentation", num_classes=6).at_resolutions([(64, 64), (96, 96)]),
    ],
)
def test_the_space_is_the_files(tmp_path, space):
    lines = [row(arch, 50.0, dataset=space.dataset or "shapes") for arch in subnets(60, space)]
    found = space_of_subnets(read_evaluations(write(tmp_path / "rows.jsonl", lines)))
    sizes = {Arch.from_dict(line["arch"]).resolution for line in lines}
    seen = space.freeze([f"resolution={','.join(map(format_resolution, sizes))}"])
    assert found.parts == seen.parts
    assert found.dataset == space.dataset
    assert all(Arch.from_dict(line["arch"]) in found for line in lines)


def test_resolutions_that_no_subnet_has_are_not_searched(tmp_path):
    at_64 = get_space("tiny", num_classes=12, freeze=["resolution=64"])
    lines = [row(arch, additive(arch)) for arch in subnets(60, at_64)]
    found = space_of_subnets(read_evaluations(write(tmp_path / "rows.jsonl", lines)))
    assert found.resolutions == [(64, 64)]
    assert found.size == at_64.size


def test_a_search_on_a_file_loads_no_pytorch(rows, tmp_path):
    loaded = module_names(f"""
from pathlib import Path
from nas.search import SearchCommand
out = Path({str(tmp_path / "run")!r})
few = dict(trials=60, evaluations=9000)
SearchCommand(device=("orin",), accuracy={str(rows)!r}, out=out, quiet=True, **few).run()
""")
    assert "predictors.learned" in loaded
    assert "torch" not in loaded


def test_it_resumes_and_only_with_the_same_rows(rows, tmp_path, monkeypatch, fails):
    for name in ("whole", "halves"):
        SearchCommand(
            device=("orin",),
            accuracy=str(rows),
            trials=200 if name == "whole" else 130,
            evaluations=20_000,
            out=tmp_path / name,
            quiet=True,
        ).run()
    monkeypatch.chdir(rows.parent)  # the same file by another name
    SearchCommand(accuracy=rows.name, resume=tmp_path / "halves", trials=200, quiet=True).run()
    whole, halves = (read_front(tmp_path / name) for name in ("whole", "halves"))
    assert whole.candidates == halves.candidates
    assert whole.trials == halves.trials
    with rows.open("a") as file:
        file.write(json.dumps(row(subnets(1, seed=77)[0], 50)) + "\n")
    said = fails(SearchCommand, "nas.search", "--resume", tmp_path / "halves", "--trials", 300)
    assert "the accuracy source is not what" in said
    rows.unlink()
    said = fails(SearchCommand, "nas.search", "--resume", tmp_path / "halves", "--trials", 300)
    assert "no file" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--accuracy", "publishd"], "did you mean 'published'"),
        (["--accuracy", "none.jsonl"], "no file 'none.jsonl'"),
        (["--accuracy", "/"], "is a folder; give a file"),
        (["--accuracy", "none.safetensors"], "--accuracy none.safetensors --evaluate supernet`"),
        (["--evaluate", "supernet"], "--accuracy CHECKPOINT.safetensors --evaluate supernet`"),
        (["--evaluate", "supernet", "--accuracy", "ROWS"], "--accuracy CHECKPOINT.safetensors"),
        (["--evaluate", "supernt"], "did you mean 'supernet'"),
        (["--accuracy", "none.safetensors", "--evaluate", "supernet"], "no file"),
        (["--limit", "100"], "--limit goes with --evaluate supernet"),
        (["--data", "."], "--data goes with --evaluate supernet"),
        (["--accelerator", "cuda"], "--accelerator goes with --evaluate supernet"),
        (["--accuracy", "ROWS", "--task", "segmentation"], "give --task classification"),
        (["--accuracy", "ROWS", "--space", "l"], "is of another space"),
        (["--accuracy", "ROWS", "--space", "tny"], "did you mean 'tiny'"),
        (["--accuracy", "ROWS", "--dataset", "ade20k"], "leave --dataset out"),
        (["--accuracy", "ROWS", "--num-classes", "10"], "leave --num-classes out"),
        (["--accuracy", "ROWS", "--freeze", "stage3.mixr=none"], "did you mean 'stage3.mixer'"),
        (["--accuracy", "FEW"], "distinct subnets, too few"),
    ],
)
def test_bad_input_is_one_line(rows, tmp_path, monkeypatch, fails, flags, says):
    few = write(tmp_path / "few.jsonl", [row(arch, 50.0) for arch in subnets(9)])
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    given = [{"ROWS": str(rows), "FEW": str(few)}.get(flag, flag) for flag in flags]
    assert says in fails(SearchCommand, "nas.search", *ORIN, *given)
    assert list(here.iterdir()) == []


def test_costs_are_what_training_reads(tmp_path, capsys):
    """Latencies of random archs of the space, on the device."""
    from supernet.training.attentive import read_costs

    file = tmp_path / "costs.csv"
    flags = ("--space", "tiny", "--num-classes", "12", "--sample", "50", "--costs", str(file))
    main(Predict, "nas.predict", [*ORIN, *flags, "--json"])
    assert json.loads(capsys.readouterr().out)["archs"] == 50
    found = read_costs(file, TINY)
    assert len({entry.arch for entry in found.rows}) == 50
    from lut.device import get_device
    from predictors.latency import load_predictor

    latency = load_predictor(get_device("orin"), "imagenet")
    for entry in found.rows:
        assert entry.arch in TINY
        ms = latency.predict(blocks_of(entry.arch)).latency_ms
        assert entry.latency_ms == pytest.approx(ms, rel=1e-5)


def test_costs_tell_accuracies_where_there_are_evaluated_subnets(rows, tmp_path, capsys):
    file = tmp_path / "costs.csv"
    main(Predict, "nas.predict", [*ORIN, "--accuracy", str(rows), "--costs", str(file)])
    assert "accuracy: supernet, ridge" in capsys.readouterr().out
    with file.open() as opened:
        found = list(csv.DictReader(opened))
    assert len(found) == 1000
    assert list(found[0]) == ["arch", "latency_ms", "latency_std_ms", "accuracy", "accuracy_std"]
    for line in found[:50]:
        arch = Arch.from_json(line["arch"])
        assert float(line["accuracy"]) == pytest.approx(additive(arch), abs=0.01)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--costs", "x", "--arch", "b0"], "give either --arch, or --costs"),
        (["--costs", "x", "--csv", "y"], "leave --csv out"),
        (["--costs", "/dev/null/x", "--space", "tiny"], "cannot write"),
        (["--costs", "x", "--accuracy", "none.jsonl"], "no file"),
        (["--arch", "b0", "--accuracy", "ROWS"], "12 classes, not 1000; give --num-classes 12"),
        (["--arch", "b1", "--num-classes", "12", "--accuracy", "ROWS"], "is not in space tiny"),
        (["--costs", "x", "--accuracy", "ROWS", "--num-classes", "9"], "leave --num-classes out"),
        (["--costs", "x", "--accuracy", "ROWS", "--task", "segmentation"], "give --task classif"),
        (["--costs", "x", "--accuracy", "CHECKPOINT"], "is a checkpoint; evaluate subnets of it"),
        (["--arch", "b0", "--accuracy", "CHECKPOINT"], "is a checkpoint; evaluate subnets of it"),
        (["--arch", "b0", "--space", "tiny"], "--space and --freeze go with --costs"),
    ],
)
def test_bad_input_of_predict_is_one_line(rows, tmp_path, monkeypatch, fails, flags, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").touch()
    names = {"ROWS": str(rows), "CHECKPOINT": "model.safetensors"}
    given = [names.get(flag, flag) for flag in flags]
    assert says in fails(Predict, "nas.predict", *ORIN, *given)
