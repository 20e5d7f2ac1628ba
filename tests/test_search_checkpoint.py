"""Searches that evaluate every trial on a supernet: right numbers, killed, resumed, refused."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from nas.front import read_front
from nas.objectives.supernet_accuracy import EVALUATIONS
from nas.search import SearchCommand
from predictors.evaluations import PRIMARY, read_evaluations
from results.errors import NotFiniteError
from supernet.arch import Arch
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.subnets import SubnetEvaluator
from supernet.model import build_task_model
from supernet.official import DATASETS
from supernet.sharing.checkpoint import open_supernet, save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.options import TaskOptions
from supernet.tasks.task import EvaluationSettings
from supernet.weights.files import save_weights
from tests.conftest import ROOT, run_here

FREEZE = "resolution=64"
FEW = ("--limit", "24", "--recalibration-images", "16")  # pictures: what is found is noise


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A supernet of tiny at 64 px with random weights, as training would leave it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    supernet = Supernet(get_space("tiny", freeze=[FREEZE], num_classes=12))
    save_checkpoint(path, supernet, metadata={"seed": "0"})
    return path


def flags_of(checkpoint, *flags):
    return [
        *("--device", "orin", "--evaluate", "supernet", "--accuracy", str(checkpoint)),
        *(*FEW, *map(str, flags)),
    ]


def search(checkpoint, *flags):
    done = run_here("nas.search", *flags_of(checkpoint, *flags), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def searched(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, search(checkpoint, "--trials", 24, "--out", folder)


def evaluations(folder):
    """Whole lines of the first figure."""
    text = (folder / EVALUATIONS).read_text()
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in rows if row["metric"] == "top1"]


def test_each_number_is_that_of_the_extracted_network(searched, checkpoint):
    """Evaluated here step by step: extracted, recalibrated, run over the same pictures."""
    folder, _ = searched
    supernet = open_supernet(checkpoint)
    task = training_task(TaskOptions("classification", num_classes=12))
    rows = {Arch.from_dict(line["arch"]): line for line in evaluations(folder)}
    for candidate in [*read_front(folder).candidates[:2], *read_front(folder).candidates[-1:]]:
        model = supernet.extract(candidate.arch).eval()
        recalibrate(model, task.recalibration_batches(candidate.arch, 16, 16, 0))
        settings = EvaluationSettings(24, limit=24, workers=0)
        figures = task.evaluate(model, candidate.arch, settings)
        assert candidate.accuracy == pytest.approx(figures["top1"], rel=1e-5)
        assert candidate.accuracy_std == pytest.approx(figures["top1_stderr"], rel=1e-5)
        assert rows[candidate.arch]["value"] == figures["top1"]
        assert rows[candidate.arch]["n"] == 24


def test_every_trial_is_evaluated_once_and_outputs_say_so(searched, checkpoint):
    folder, said = searched
    lines = evaluations(folder)
    archs = [Arch.from_dict(line["arch"]) for line in lines]
    record = json.loads((folder / "run.json").read_text())
    assert len(archs) == len(set(archs)) == record["outcome"]["distinct_archs"] >= 20
    assert {a.stages[3].mixer for a in archs} == {"relu_linear", "softmax", "none"}
    assert {a.resolution for a in archs} == {(64, 64)}
    front = read_front(folder)
    assert front.accuracy_provenance == "supernet"
    assert front.metric == "top-1 [%] of shapes, shared weights"
    assert "accuracy: supernet, each network evaluated with the shared weights" in said
    source = record["sources"]["accuracy"]
    assert source["weights_sha256"] == lines[0]["weights_sha256"]
    assert source["n"] == 24
    assert source["recalibration_images"] == 16


def test_its_evaluations_feed_the_predictor(searched, tmp_path):
    folder, _ = searched
    found = read_evaluations(folder / EVALUATIONS)
    assert len(found.archs) == len(evaluations(folder))
    SearchCommand(
        device=("orin",), accuracy=str(folder / EVALUATIONS), trials=40, evaluations=9000,
        out=tmp_path / "run", quiet=True,
    ).run()  # fmt: skip
    assert "ridge regression" in read_front(tmp_path / "run").accuracy_source


def test_the_next_command_extracts_the_network(searched, tmp_path):
    from supernet.weights.header import read_header

    folder, said = searched
    next_command = said.strip().splitlines()[-1].removeprefix("next: python ")
    arguments = shlex.split(next_command)
    assert arguments[-2:] == ["--recalibration-images", "16"]
    out = tmp_path / "winner.safetensors"
    arguments[arguments.index("--out") + 1] = str(out)
    assert arguments[0] == "-m"
    assert run_here(*arguments[1:], cwd=ROOT).returncode == 0
    number = int(arguments[arguments.index("--arch") + 1].rpartition("#")[2])
    assert read_header(out).arch == read_front(folder).by_id[number].arch


def test_a_network_with_outputs_that_are_not_finite_ends_no_search(
    checkpoint, tmp_path, monkeypatch, capsys
):
    def is_broken(arch):  # the fastest among them
        return arch.stages[3].mixer == "none"

    def rows(self, arch, evaluated=SubnetEvaluator.rows):
        if is_broken(arch):
            raise NotFiniteError("the network's output is not finite")
        return evaluated(self, arch)

    monkeypatch.setattr(SubnetEvaluator, "rows", rows)
    command = SearchCommand(
        device=("orin",), accuracy=str(checkpoint), evaluate="supernet", trials=24, limit=24,
        recalibration_images=16, out=tmp_path / "run",
    )  # fmt: skip
    command.run()
    said = capsys.readouterr().out
    assert "networks have outputs that are not finite: left out" in said
    front = read_front(tmp_path / "run")
    assert front.candidates
    assert not any(is_broken(candidate.arch) for candidate in front.candidates)
    SearchCommand(resume=tmp_path / "run", trials=26).run()
    assert "networks have outputs that are not finite: left out" in capsys.readouterr().out
    front = read_front(tmp_path / "run")
    assert not any(is_broken(candidate.arch) for candidate in front.candidates)


def test_an_interrupt_before_the_first_network_says_how_to_go_on(
    checkpoint, tmp_path, monkeypatch, capsys
):
    def rows(self, arch):
        raise KeyboardInterrupt

    monkeypatch.setattr(SubnetEvaluator, "rows", rows)
    run = tmp_path / "a run"
    command = SearchCommand(
        device=("orin",), accuracy=str(checkpoint), evaluate="supernet", trials=24, out=run,
        quiet=True,
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        command.run()
    assert caught.value.code == 130
    said = capsys.readouterr().err
    assert said == f"interrupted after 0 trials; go on: python -m nas.search --resume '{run}'\n"


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within two minutes"
        time.sleep(0.02)


def test_killed_and_resumed_it_repeats_no_evaluation_and_ends_the_same(
    searched, checkpoint, tmp_path
):
    whole, _ = searched
    folder = tmp_path / "killed"
    flags = flags_of(checkpoint, "--trials", 24, "--out", folder, "--quiet")
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.search", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_for(lambda: (folder / EVALUATIONS).exists() and len(evaluations(folder)) >= 6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = evaluations(folder)
    assert 6 <= len(before) < len(evaluations(whole))
    with (folder / EVALUATIONS).open("a") as file:
        file.write('{"arch": {"fam')  # what a process was killed at
    SearchCommand(resume=folder, quiet=True).run()
    after = evaluations(folder)
    assert after[: len(before)] == before
    archs = [Arch.from_dict(line["arch"]) for line in after]
    assert len(archs) == len(set(archs)) == len(evaluations(whole))
    assert read_front(folder).candidates == read_front(whole).candidates
    assert read_front(folder).trials == read_front(whole).trials


def test_asking_budgets_evaluates_nothing(checkpoint, monkeypatch, fails):
    """A budget that nothing keeps to is refused before the first evaluation."""
    flags = ("--device", "orin", "--accuracy", checkpoint, "--evaluate", "supernet", *FEW)

    def never(*_):
        raise AssertionError("evaluated")

    monkeypatch.setattr("supernet.evaluation.subnets.SubnetEvaluator.rows", never)
    said = fails(SearchCommand, "nas.search", *flags, "--max-latency-ms", "0.001")
    assert "keeps to --max-latency-ms" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--limit", "0"], "--limit must be 1"),
        (["--limit", "1"], "one picture alone gives accuracies whose error nobody knows"),
        (["--recalibration-images", "0"], "--recalibration-images must be 1"),
        (["--accelerator", "gpu"], "choose from cpu, cuda"),
        (["--max-accuracy-std", "1"], "--max-accuracy-std limits predictions"),
        (["--space", "b"], "is of --space tiny, not b"),
        (["--num-classes", "10"], "is of --num-classes 12, not 10"),
        (["--task", "segmentation"], "is of classification, not segmentation"),
        (["--freeze", "resolution=96"], "did you mean '64'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, monkeypatch, fails, flags, says):
    monkeypatch.chdir(tmp_path)
    given = ["--accuracy", checkpoint, "--evaluate", "supernet", *flags]
    assert says in fails(SearchCommand, "nas.search", "--device", "orin", *given)
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_at_the_resolutions_of_the_training(checkpoint, tmp_path):
    """64 px alone was trained of the space; the checkpoint says it was 96 and 128."""
    path = tmp_path / "m.safetensors"
    save_checkpoint(
        path, open_supernet(checkpoint), metadata={"seed": "0", "resolutions": "96,128"}
    )
    SearchCommand(
        device=("orin",), evaluate="supernet", accuracy=str(path), limit=8, trials=6,
        recalibration_images=8, out=tmp_path / "run", quiet=True, sampler="random",
    ).run()  # fmt: skip
    sizes = {c.arch.resolution for c in read_front(tmp_path / "run").candidates}
    assert sizes <= {(96, 96), (128, 128)}
    found = {row["resolution"] for row in evaluations(tmp_path / "run")}
    assert found == {"96", "128"}


def test_a_file_that_holds_no_supernet_is_refused(tmp_path, fails):
    flags = ("--device", "orin", "--evaluate", "supernet", "--accuracy")
    arch = get_space("tiny", num_classes=12).sample(random.Random(0))
    save_weights(build_task_model(arch), tmp_path / "one.safetensors")
    said = fails(SearchCommand, "nas.search", *flags, tmp_path / "one.safetensors")
    assert "no supernet" in said
    (tmp_path / "text.safetensors").write_text("no weights")
    fails(SearchCommand, "nas.search", *flags, tmp_path / "text.safetensors")


def test_a_pretrained_supernet_is_refused(tmp_path, fails):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Supernet(get_space("tiny", task="pretrain", freeze=[FREEZE])))
    flags = ("--device", "orin", "--evaluate", "supernet", "--accuracy", path)
    assert "supernet.train --init" in fails(SearchCommand, "nas.search", *flags)


def test_a_damaged_evaluation_is_named(searched, checkpoint, tmp_path, fails):
    folder = tmp_path / "run"
    shutil.copytree(searched[0], folder)
    lines = (folder / EVALUATIONS).read_text().splitlines()
    lines[3] = lines[3].replace('"arch"', '"arhc"')
    (folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
    said = fails(SearchCommand, "nas.search", "--resume", folder)
    assert f"{EVALUATIONS}, line 4, is no evaluated network" in said


def test_another_checkpoint_cannot_go_on_with_a_run(searched, checkpoint, tmp_path, fails):
    folder = tmp_path / "run"
    shutil.copytree(searched[0], folder)
    record = json.loads((folder / "run.json").read_text())
    torch.manual_seed(1)
    other = tmp_path / "model.safetensors"
    save_checkpoint(other, Supernet(get_space("tiny", freeze=[FREEZE], num_classes=12)))
    record["settings"]["accuracy"] = str(other)
    (folder / "run.json").write_text(json.dumps(record))
    said = fails(SearchCommand, "nas.search", "--resume", folder)
    assert "the accuracy source is not what" in said


def test_every_task_has_a_first_figure():
    for name in DATASETS:
        assert training_task(TaskOptions(name)).primary == PRIMARY[name]
