"""Networks of a space as a CSV: drawn, or proposed for evaluation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nas import proposals
from nas.predict import Predict
from nas.proposals import children_of
from nas.sample import Sample
from predictors.active import Points, hypervolume, on_front, reference_of
from results.console import main
from supernet.arch import Arch
from tests.test_subnets import TINY, additive, row, subnets, write

ORIN = ("--device", "orin")
FROZEN = ["resolution=64", "stage2.depth=1", "stage3.depth=1"]  # 384 networks are left
COLUMNS = ["arch", "latency_ms", "latency_std_ms"]


def sample(*flags, command=Sample, module="nas.sample"):
    main(command, module, [*ORIN, *map(str, flags)])


def read(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return write(path, [row(arch, additive(arch)) for arch in subnets(60)])


def test_predict_writes_the_same_file_and_names_the_command(tmp_path, capsys):
    flags = ("--space", "tiny", "--num-classes", 12, "--sample", 20, "--seed", 3, "--json")
    sample(*flags, "--costs", tmp_path / "a.csv")
    told = json.loads(capsys.readouterr().out)
    sample(*flags, "--csv", tmp_path / "b.csv", command=Predict, module="nas.predict")
    again = capsys.readouterr()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert json.loads(again.out) | {"csv": told["csv"]} == told
    assert again.err.count("\n") == 1
    assert "python -m nas.sample" in again.err


def test_proposals_are_the_front_where_accuracies_are_known(rows, tmp_path, capsys):
    """Accuracies are sums of choices, which ridge regression finds exactly."""
    file = tmp_path / "proposals.csv"
    small = [word for name in FROZEN for word in ("--freeze", name)]
    flags = ("--accuracy", rows, "--accuracy-model", "ridge", *small)
    sample(*flags, "--propose", 30, "--costs", file)
    assert f"--archs {file} --out {rows}" in capsys.readouterr().out
    found = read(file)
    assert list(found[0]) == [*COLUMNS, "accuracy", "accuracy_std"]
    proposed = [Arch.from_json(line["arch"]) for line in found]
    evaluated = set(subnets(60))
    assert len(set(proposed)) == 30
    assert not evaluated & set(proposed)
    space = TINY.freeze(FROZEN)
    assert all(arch in space for arch in proposed)
    sample("--space", "tiny", "--num-classes", 12, *small, "--sample", space.size, "--costs", file)
    everything = [(Arch.from_json(line["arch"]), float(line["latency_ms"])) for line in read(file)]
    values = Points(
        np.array([ms for _, ms in everything]),
        np.array([additive(arch) for arch, _ in everything]),
    )
    best = {everything[index][0] for index in on_front(values)} - evaluated
    assert set(proposed[: min(len(best), 10)]) <= best


def test_candidates_of_a_large_space_get_better_from_one_generation_to_the_next(
    rows, tmp_path, monkeypatch
):
    """`tiny` as if it were too large to list; accuracies are predicted exactly."""
    monkeypatch.setattr(proposals, "MOST_LISTED", 0)
    monkeypatch.setattr(proposals, "DRAWN", 60)
    monkeypatch.setattr(proposals, "CHILDREN", 40)
    flags = ("--accuracy", rows, "--accuracy-model", "ridge", "--propose", 8)

    def proposed(name):
        sample(*flags, "--costs", tmp_path / name)
        found = read(tmp_path / name)
        assert len({line["arch"] for line in found}) == 8
        return Points(*(
            np.array([float(line[column]) for line in found])
            for column in ("latency_ms", "accuracy")
        ))  # fmt: skip

    proposed("bred.csv")
    bred = proposed("again.csv")
    assert (tmp_path / "bred.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    monkeypatch.setattr(proposals, "GENERATIONS", 0)
    drawn = proposed("drawn.csv")
    reference = reference_of(bred.with_all(drawn))
    assert hypervolume(bred, reference) > hypervolume(drawn, reference)


def test_children_are_made_of_their_parents_but_for_mutations():
    rng = np.random.default_rng(0)
    most = np.full(12, 50)
    parents = np.array([np.zeros(12, dtype=int), np.ones(12, dtype=int)])
    children = children_of(parents, most, 400, rng)
    assert children.shape == (400, 12)
    assert np.all((children >= 0) & (children < most))
    foreign = (children > 1).sum(axis=1)
    assert 0.5 < foreign.mean() < 2.5
    assert any({0, 1} <= set(child) for child in children.tolist())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "name the file to write by --costs FILE.csv"),
        (["--costs", "x", "--sample", "3", "--propose", "3"], "leave one out"),
        (["--costs", "x", "--propose", "3"], "supernet.evaluate --weights CHECKPOINT.safetensors"),
        (["--costs", "x", "--propose", "3", "--accuracy", "m.npz"], "m.npz is a fitted model"),
        (["--costs", "x", "--propose", "0", "--accuracy", "ROWS"], "--propose must be 1 or more"),
        (["--costs", "x", "--propose", "1001", "--accuracy", "ROWS"], "takes 1000 at most"),
        (["--costs", "x", "--propose", "9", "--accuracy", "FEW"], "distinct subnets, too few"),
        (["--costs", "x", "--accuracy-model", "gp"], "leave it out"),
        (["--costs", "x", "--trained", "y"], "--trained tells what accuracies of subnets"),
        (["--costs", "x", "--propose", "9", "--accuracy", "ROWS", "--trained", "ROWS"],
         "leave --trained out"),
        (["--costs", "x", "--seed", "-1"], "--seed must be 0 or more"),
        (["--costs", "x", "--sample", "9999", "--space", "tiny"], "give --sample 3072, not 9999"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(rows, tmp_path, monkeypatch, fails, flags, says):
    few = write(tmp_path / "few.jsonl", [row(arch, 50.0) for arch in subnets(9)])
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    given = [{"ROWS": str(rows), "FEW": str(few)}.get(flag, flag) for flag in flags]
    assert says in fails(Sample, "nas.sample", *ORIN, *given)
    assert list(here.iterdir()) == []


def test_what_is_left_of_a_frozen_space_is_named(tmp_path, fails):
    """All but two of 24 networks are evaluated, and others."""
    frozen = [*FROZEN, "stage1.kernel_size=3", "stage2.width=32", "stage3.width=64"]
    frozen += ["stage3.mixer=none", "stage4.depth=1"]
    space = TINY.freeze(frozen)
    inside = list(space.enumerate())
    path = write(tmp_path / "rows.jsonl", [
        row(arch, additive(arch)) for arch in dict.fromkeys([*inside[2:], *subnets(60)])
        if arch not in inside[:2]
    ])  # fmt: skip
    flags = ["--accuracy", path, "--accuracy-model", "ridge"]
    for text in frozen:
        flags += ["--freeze", text]
    said = fails(Sample, "nas.sample", *ORIN, *flags, "--propose", 3, "--costs", tmp_path / "x")
    assert f"2 of the {len(inside)} networks" in said
    assert "give --propose 2, not 3" in said
    sample(*flags, "--propose", 2, "--costs", tmp_path / "x.csv")
    assert {Arch.from_json(line["arch"]) for line in read(tmp_path / "x.csv")} == set(inside[:2])
