"""Figures of networks trained alone in a file: whose they are is told by the weights themselves."""

import json
import random
from dataclasses import replace

import pytest
import torch

from predictors.evaluations import read_evaluations
from results.errors import PredictorError, RunError, WeightsError
from supernet.arch import Arch
from supernet.evaluation.extraction import extract
from supernet.evaluation.options import EvaluationOptions, ExtractionOptions
from supernet.evaluation.rows import TRAINED
from supernet.evaluation.run import evaluate
from supernet.model import build
from supernet.sharing.checkpoint import save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.training.options import TrainingOptions
from supernet.training.run import train
from supernet.weights.files import official_state_dict, save_weights
from supernet.weights.tensors import sha256_of

SPACE = get_space("tiny", num_classes=12, freeze=["resolution=64"])
ARCHS = [SPACE.sample(random.Random(number)) for number in (1, 2)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A supernet, a slice of it, the slice trained on, another network alone, and foreign ones."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    save_checkpoint(folder / "supernet.safetensors", Supernet(SPACE), metadata={"seed": "5"})
    for name, arch in zip("ab", ARCHS, strict=True):
        (folder / f"{name}.json").write_text(arch.to_json())
    extract(
        ExtractionOptions(
            weights=folder / "supernet.safetensors", arch=str(folder / "a.json"), workers=0,
            out=folder / "slice.safetensors", recalibration_images=24, batch_size=12,
        )
    )  # fmt: skip
    for name, init in (("a", folder / "slice.safetensors"), ("b", None)):
        options = TrainingOptions(
            arch=str(folder / f"{name}.json"), init=init, steps=2, batch_size=8, workers=0,
            limit=8, seed=3, out=folder / f"run-{name}",
        )  # fmt: skip
        train(options)
        (folder / f"run-{name}" / "model.safetensors").rename(folder / f"{name}.safetensors")
    network = build(ARCHS[0])
    save_weights(network, folder / "ours.safetensors")
    torch.save({"state_dict": official_state_dict(network)}, folder / "theirs.pt")
    return folder


def asked(weights, out, **more):
    fields = {"limit": 24, "workers": 0, "recalibration_images": 24, "batch_size": 12} | more
    return EvaluationOptions(weights=weights, out=out, **fields)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_tell_which_training_they_are_of(files, tmp_path):
    out = tmp_path / "trained.jsonl"
    for name in "ab":
        weights = files / f"{name}.safetensors"
        answer = evaluate(asked(weights, out))
        assert answer["provenance"] == "trained"
        row = lines(out)[-2]
        assert (row["metric"], row["value"]) == ("top1", answer["metrics"]["top1"])
        assert row["stderr"] == answer["metrics"]["top1_stderr"]
        assert (row["provenance"], row["steps"], row["seed"]) == ("trained", 2, 3)
        assert (row["n"], row["dataset"], row["task"]) == (24, "shapes", "classification")
        assert row["weights_sha256"] == sha256_of(weights)
    assert [row["metric"] for row in lines(out)] == ["top1", "top5"] * 2
    found = read_evaluations(out, TRAINED)
    assert set(found.archs) == set(ARCHS)  # of different weights
    assert found.steps == (2,)
    assert found.metric == "top-1 [%] of shapes, trained alone"


def test_the_same_weights_are_written_once(files, tmp_path):
    out = tmp_path / "trained.jsonl"
    evaluate(asked(files / "a.safetensors", out))
    before = out.read_bytes()
    notes = evaluate(asked(files / "a.safetensors", out))["notes"]
    assert notes == [f"{out} has the figures of these weights already: nothing is appended"]
    assert out.read_bytes() == before
    evaluate(asked(files / "a.safetensors", out, limit=36))  # other pictures: another figure
    assert len(lines(out)) == 4


def test_a_slice_has_the_row_that_its_supernet_s_evaluation_writes(files, tmp_path):
    for name, more in (("supernet", {"arch": str(files / "a.json")}), ("slice", {})):
        evaluate(asked(files / f"{name}.safetensors", tmp_path / f"{name}.jsonl", **more))
    assert lines(tmp_path / "slice.jsonl") == lines(tmp_path / "supernet.jsonl")
    assert lines(tmp_path / "slice.jsonl")[0]["provenance"] == "supernet"
    notes = evaluate(asked(files / "slice.safetensors", tmp_path / "supernet.jsonl"))["notes"]
    assert "already" in notes[-1]


def test_weights_that_do_not_tell_are_asked_about(files, tmp_path):
    arch = {"theirs.pt": str(files / "a.json")}
    for name in ("ours.safetensors", "theirs.pt"):
        options = asked(files / name, tmp_path / f"{name}.jsonl", arch=arch.get(name))
        with pytest.raises(WeightsError, match="give --provenance trained"):
            evaluate(options)
        assert not options.out.exists()
        evaluate(replace(options, provenance="trained"))
        row = lines(options.out)[-1]
        assert row["provenance"] == "trained"
        assert "steps" not in row


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("slice", {"provenance": "trained"}, "taken out of a supernet and not trained since"),
        ("supernet", {"provenance": "trained"}, "whose weights are shared; leave --provenance"),
        ("a", {"provenance": "alone"}, "no provenance 'alone'"),
        ("a", {"provenance": "trained", "out": None}, "--provenance goes with --out"),
    ],
)
def test_a_provenance_that_weights_contradict_is_refused(files, tmp_path, name, more, words):
    with pytest.raises(WeightsError, match=words):
        evaluate(replace(asked(files / f"{name}.safetensors", tmp_path / "x.jsonl"), **more))
    assert not (tmp_path / "x.jsonl").exists()


def test_a_figure_at_another_resolution_is_not_that_of_the_training(files, tmp_path):
    with pytest.raises(RunError, match=r"was trained at, 64x64|was trained at, 64, not 96"):
        evaluate(asked(files / "a.safetensors", tmp_path / "x.jsonl", resolution="96"))


def test_trained_and_shared_rows_are_kept_apart(files, tmp_path):
    shared, trained = tmp_path / "shared.jsonl", tmp_path / "trained.jsonl"
    small = {"arch": str(files / "a.json")}
    evaluate(asked(files / "supernet.safetensors", shared, **small))
    evaluate(asked(files / "a.safetensors", trained))
    for name, path, more in (
        ("a", shared, {}),
        ("slice", trained, {}),
        ("supernet", trained, small),
    ):
        before = path.read_bytes()
        with pytest.raises(RunError, match=r"does not compare .*; name another --out"):
            evaluate(asked(files / f"{name}.safetensors", path, **more))
        assert path.read_bytes() == before
    with pytest.raises(PredictorError, match=r"line 1 is of a network trained alone.* --trained"):
        read_evaluations(trained)
    with pytest.raises(PredictorError, match=r"line 1 is of shared weights .*by --accuracy"):
        read_evaluations(shared, TRAINED)
    both = tmp_path / "both.jsonl"
    both.write_text(trained.read_text() + shared.read_text())
    with pytest.raises(PredictorError, match="line 3 is of shared weights"):
        read_evaluations(both, TRAINED)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("dataset", "cells", "data set 'cells'"), ("task", "segmentation", "task 'segmentation'")],
)
def test_trained_rows_that_do_not_compare_are_refused(files, tmp_path, field, value, words):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"arch": Arch.to_dict(arch), "metric": "top1", "value": 50.0, "provenance": "trained"}
        | {"task": "classification", "dataset": "shapes", "weights_sha256": str(number)}
        for number, arch in enumerate(ARCHS)
    ]
    rows[1][field] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(PredictorError, match=f"line 2: {words}.*do not compare"):
        read_evaluations(path, TRAINED)
