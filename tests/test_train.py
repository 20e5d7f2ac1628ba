"""The command: runs that were killed go on exactly, alone networks, distributed ones, errors."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch._inductor.exc import InvalidCxxCompiler

from results.errors import RunError, UserError
from results.resume import flags_of, resumed
from results.runs import locked
from supernet.arch import Arch, PromptableHead, ReconstructionHead, Stage, Stem
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.subnets import SubnetEvaluator
from supernet.model import build
from supernet.official import with_head
from supernet.sharing.checkpoint import open_supernet, save_checkpoint
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.train import Train
from supernet.training.curves import CURVE, EVALUATIONS, PICTURE, read_rows
from supernet.training.evaluation import evaluate_subnet
from supernet.training.networks import first_model, sampler_of
from supernet.training.options import MAY_CHANGE, UNRECORDED, Messages, TrainingOptions
from supernet.training.plan import plan_training
from supernet.training.report import print_training
from supernet.training.run import train
from supernet.training.snapshots import load_snapshot, save_snapshot, snapshots
from supernet.training.trainer import Trainer
from supernet.weights.files import official_state_dict, save_weights
from supernet.weights.fitting import norm_eps, set_norm_eps
from supernet.weights.header import WeightsHeader, read_header
from supernet.weights.preprocessing import preprocessing_of
from supernet.weights.tensors import read_tensors
from tests.blobs import FROZEN
from tests.conftest import ROOT

STEPS = 24
QUICK = Train(
    space="tiny", freeze=FROZEN, steps=STEPS, batch_size=4, num_train=40, resolution=("32",),
    random_subnets=1, workers=0, limit=16, recalibration_images=16,
    checkpoint_every=5, ema=0.9, quiet=True,
)  # fmt: skip
TRAINED = get_space("tiny", freeze=FROZEN, num_classes=12).at_resolutions([(32, 32)])
FLAGS = [
    "--space", "tiny", *(part for setting in FROZEN for part in ("--freeze", setting)),
    "--steps", str(STEPS), "--batch-size", "4", "--num-train", "40", "--resolution", "32",
    "--random-subnets", "1", "--workers", "0", "--limit", "16", "--checkpoint-every", "5",
    "--ema", "0.9", "--recalibration-images", "16",
]  # fmt: skip


TORCHRUN = (
    "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    "--local-addr", "127.0.0.1",  # a machine's own name may tell no address
)  # fmt: skip


def started(*arguments, module=("supernet.train",), **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_a_child(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)


def curve(run):
    """All but the time that steps took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(run / CURVE)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("train") / "whole"
    replace(QUICK, out=run).run()
    return run


def test_a_run_leaves_curves_checkpoints_and_a_model(whole):
    rows = curve(whole)
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert all(float(row["loss"]) > 0 and row["resolution"] == "32" for row in rows)
    assert float(rows[0]["lr"]) == pytest.approx(1e-3)  # a warm-up of one step
    assert [int(path.stem[5:]) for path in snapshots(whole)] == [20, 24]
    assert (whole / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert list((whole / "tensorboard").iterdir())
    assert read_header(whole / "model.safetensors").num_train == 40
    record = json.loads((whole / "run.json").read_text())
    assert record["settings"]["freeze"] == list(FROZEN)
    assert record["sources"]["num_train"] == 40
    found = read_rows(whole / EVALUATIONS)
    assert {row["subnet"] for row in found} == {"largest", "smallest"}
    assert {row["n"] for row in found} == {"16"}


def test_the_model_holds_the_average(whole):
    tensors, facts = load_snapshot(snapshots(whole)[-1])
    assert facts.step == STEPS
    model = open_supernet(whole / "model.safetensors")
    assert model.space == TRAINED
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[f"ema.{name}"]), name
    name = next(name for name, _ in model.named_parameters())
    assert not torch.equal(tensors[f"ema.{name}"], tensors[f"model.{name}"])


def test_its_model_is_evaluated_as_the_training_did(whole):
    """At the size and with the statistics of the training's pictures, which the file tells."""
    evaluator = SubnetEvaluator(
        EvaluationOptions(weights=whole / "model.safetensors", limit=16, recalibration_images=16)
    )
    archs = {"largest": largest_of(evaluator.space), "smallest": smallest_of(evaluator.space)}
    for row in read_rows(whole / EVALUATIONS):
        (arch,) = archs[row["subnet"]]
        assert arch.resolution == (32, 32)
        figures = {found["metric"]: found["value"] for found in evaluator.rows(arch)}
        assert figures[row["metric"]] == pytest.approx(float(row["value"]))
    few = next(evaluator.subnets.task.recalibration_batches(arch, 40, 40, seed=0))
    assert len(few.flatten(1).unique(dim=0)) == 40 == evaluator.subnets.task.num_train


def test_a_killed_run_goes_on_as_if_it_had_not_been(whole, tmp_path):
    for attempt in range(3):  # on a busy machine it may end before it is killed
        run = tmp_path / f"killed-{attempt}"
        with started(*FLAGS, "--out", run, "--quiet") as process:
            while process.poll() is None and len(read_rows(run / CURVE)) < 8:
                time.sleep(0.005)
            process.kill()
        if len(curve(run)) < STEPS:
            break
    assert process.returncode == -signal.SIGKILL
    assert 8 <= len(curve(run)) < STEPS
    assert not (run / "model.safetensors").exists()
    Train(resume=run, quiet=True).run()
    assert curve(run) == curve(whole)
    assert read_rows(run / EVALUATIONS) == read_rows(whole / EVALUATIONS)
    first, second = (load_snapshot(snapshots(folder)[-1]) for folder in (run, whole))
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(tensor, second[0][name]) for name, tensor in first[0].items())


def test_a_finished_run_can_be_given_more_steps(whole, tmp_path, capsys):
    run = tmp_path / "run"
    replace(QUICK, out=run, steps=4, quiet=True).run()
    Train(resume=run, steps=6, json=True).run()
    answer = json.loads(capsys.readouterr().out)
    assert answer["steps"] == 6
    assert len(curve(run)) == 6
    assert json.loads((run / "run.json").read_text())["settings"]["steps"] == 6
    assert curve(run)[:1] == curve(whole)[:1]
    row = answer["evaluations"][0]
    assert (row["metric"], row["n"], row["seed"], row["subnet"]) == ("top1", 16, 0, "largest")
    assert row["stderr"] >= 0
    assert row["resolution"] == "32"


def test_another_process_reads_the_same_pictures(whole, tmp_path):
    run = tmp_path / "run"
    replace(QUICK, out=run, workers=1, checkpoint_every=None).run()
    assert curve(run) == curve(whole)


def test_one_network_alone(whole, tmp_path, capsys):
    space = get_space("tiny", freeze=FROZEN)
    file = tmp_path / "arch.json"
    file.write_text(replace(space.sample(random.Random(0)), resolution=(64, 64)).to_json())
    alone = replace(QUICK, space=None, freeze=(), arch=str(file), steps=3, eval_every=2)
    alone = replace(alone, random_subnets=None, recalibration_images=None)
    replace(alone, out=tmp_path / "a", init=whole / "model.safetensors", json=True).run()
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["evaluations"]
    assert (row["subnet"], row["arch"]["head"]["num_classes"]) == ("arch", 12)
    assert [row["distill"] for row in curve(tmp_path / "a")] == ["", "", ""]
    assert {row["step"] for row in read_rows(tmp_path / "a" / EVALUATIONS)} == {"2", "3"}
    trained = read_header(tmp_path / "a" / "model.safetensors").arch
    assert trained is not None
    assert trained.stages == space.sample(random.Random(0)).stages
    # it began as the supernet's subnet, and goes on from its own file
    again = replace(alone, out=tmp_path / "b", init=tmp_path / "a" / "model.safetensors")
    again.run()
    losses = [float(curve(tmp_path / name)[0]["loss"]) for name in ("a", "b")]
    replace(alone, out=tmp_path / "c").run()
    assert float(curve(tmp_path / "c")[0]["loss"]) not in losses


def test_weights_begin_as_those_of_init(whole, tmp_path):
    run = tmp_path / "run"
    replace(QUICK, out=run, steps=1, init=whole / "model.safetensors", lr=1e-12, ema=None).run()
    begun, _ = read_tensors(whole / "model.safetensors")
    ended, _ = read_tensors(run / "model.safetensors")
    weights = [name for name in begun if "running" not in name and "batches" not in name]
    assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in weights)


def test_pretrained_bodies_get_new_heads(whole, tmp_path, capsys):
    body = replace(QUICK, freeze=("resolution=64",), steps=1, resolution=("64",), lr=1e-12)
    replace(body, task="pretrain", out=tmp_path / "pre", quiet=False).run()
    said = capsys.readouterr().out
    pre = tmp_path / "pre" / "model.safetensors"
    assert f"next: python -m supernet.train --space tiny --task TASK --init {pre}" in said
    assert "psnr_db" in said
    replace(body, out=tmp_path / "run", init=pre).run()
    begun, ended = (read_tensors(tmp_path / n / "model.safetensors")[0] for n in ("pre", "run"))
    shared = [n for n in begun if n in ended and n.endswith("conv.weight") and "head" not in n]
    assert len(shared) > 40
    assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in shared)
    other, _ = read_tensors(whole / "model.safetensors")
    assert not torch.allclose(other[shared[0]], ended[shared[0]], atol=1e-3)


def test_a_finished_run_says_what_comes_next(whole, capsys):
    figures = read_rows(whole / EVALUATIONS)
    Train(resume=whole).run()
    assert read_rows(whole / EVALUATIONS) == figures  # once, however often they are computed
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"classification on shapes, {STEPS} steps"
    assert re.match(r"  largest   top1 [0-9.]+ ± [0-9.]+, 16 pictures at 32 px: b 8x1", said[1])
    model = whole / "model.safetensors"
    assert said[-1] == (
        f"next: python -m supernet.evaluate --weights {model} --sample 100 --out subnets.jsonl"
    )


def test_it_is_called_from_python(whole, tmp_path, capsys):
    run = tmp_path / "run"
    options = replace(QUICK.options(), out=run, steps=2)
    assert train(options)["steps"] == 2
    answer = train(TrainingOptions(resume=run, steps=3))
    assert json.loads(json.dumps(answer)) == json.loads((run / "evaluation.json").read_text())
    assert [row["subnet"] for row in answer["evaluations"]] == ["largest", "smallest"]
    assert len(curve(run)) == 3
    assert capsys.readouterr() == ("", "")
    record = json.loads((run / "run.json").read_text())
    assert (
        record["settings"].keys() == json.loads((whole / "run.json").read_text())["settings"].keys()
    )
    with pytest.raises(RunError, match=f"go on with it by --resume {run}"):
        train(options)
    with pytest.raises(UserError, match="--lr must be above 0"):
        train(replace(options, lr=-1.0))


@pytest.mark.parametrize("messages", list(Messages))
def test_it_says_as_much_as_it_is_asked_for(tmp_path, capsys, monkeypatch, messages):
    def broken(*_, **__):
        raise ValueError("no such font")

    monkeypatch.setattr("supernet.training.curves.new_figure", broken)
    costs = tmp_path / "costs.csv"
    arch = get_space("tiny", freeze=FROZEN).sample(random.Random(0)).to_json().replace('"', '""')
    costs.write_text(f'arch;latency_ms\n"{arch}";1,5\n')  # with a decimal comma, which is said
    options = replace(QUICK.options(), out=tmp_path / "run", steps=1, costs=costs)
    train(options, messages)
    said = capsys.readouterr()
    assert said.out == ""
    assert ("no such font" in said.err) == (messages >= Messages.TROUBLE)
    assert ("decimal points" in said.err) == (messages >= Messages.NOTES)
    assert ("1/1 steps" in said.err) == (messages >= Messages.PROGRESS)


@pytest.mark.parametrize("messages", list(Messages))
def test_which_first_weights_a_checkpoint_gave_is_a_note(tmp_path, capsys, messages):
    arch = get_space("tiny", freeze=FROZEN, num_classes=12).sample(random.Random(0))
    (tmp_path / "arch.json").write_text(arch.to_json())
    raw, averaged = (official_state_dict(build(arch)) for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": averaged}, tmp_path / "two.pt")
    options = TrainingOptions(
        arch=str(tmp_path / "arch.json"), init=tmp_path / "two.pt", out=tmp_path / "run",
        steps=1, num_train=4, batch_size=4, workers=0, limit=4,
    )  # fmt: skip
    train(options, messages)
    said = capsys.readouterr()
    assert said.out == ""
    line = f"note: {tmp_path / 'two.pt'}: took the averaged weights under state_dict_ema"
    assert said.err.count(line) == (messages >= Messages.NOTES)
    if messages == Messages.NONE:
        assert said.err == ""


def test_two_processes_run_the_command(whole, tmp_path):
    run = tmp_path / "run"
    with started(
        "-m", "supernet.train", *FLAGS, "--steps", "3", "--out", run, "--json", module=TORCHRUN
    ) as process:
        said, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    answer = json.loads(said)  # of the first process alone
    assert answer["steps"] == 3
    for row, expected in zip(curve(run), curve(whole), strict=False):
        assert row["step"] == expected["step"]
    first, expected = curve(run)[0], curve(whole)[0]
    assert float(first["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_a_dead_process_again_where_it_was(whole, tmp_path):
    run = tmp_path / "run"
    with started(
        "-m", "supernet.train", *FLAGS, "--out", run, "--json",
        module=(*TORCHRUN, "--max-restarts", "3"),
    ) as process:  # fmt: skip
        while len(read_rows(run / CURVE)) < 8:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        kill_a_child(process.pid)
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(said)["steps"] == STEPS
    found, expected = curve(run), curve(whole)
    assert len(found) == STEPS
    assert float(found[-1]["loss"]) == pytest.approx(float(expected[-1]["loss"]), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [None, 0, 1])
def test_two_nodes_train_as_one(whole, tmp_path, victim):
    """Each with a torchrun of its own, here on one machine; also where a process of one dies."""
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = (
        "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "two",
        "--local-addr", "127.0.0.1", "--max-restarts", "3", "-m", "supernet.train",
    )  # fmt: skip
    nodes = [started(*FLAGS, "--out", run, "--quiet", module=torchrun) for _ in range(2)]
    try:
        if victim is not None:
            while len(read_rows(run / CURVE)) < 8:
                assert nodes[victim].poll() is None, nodes[victim].communicate()[1]
                time.sleep(0.005)
            kill_a_child(nodes[victim].pid)
        for node in nodes:
            _, errors = node.communicate(timeout=300)
            assert node.returncode == 0, errors
    finally:
        for node in nodes:
            node.terminate()  # which ends its processes
            node.wait(60)
    found, expected = curve(run), curve(whole)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    assert float(found[0]["loss"]) == pytest.approx(float(expected[0]["loss"]), rel=1e-5)
    assert float(found[-1]["loss"]) == pytest.approx(float(expected[-1]["loss"]), rel=1e-2)


def test_a_restarted_run_needs_a_known_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(RunError, match="--out DIR"):
        QUICK.run()
    replace(QUICK, out=tmp_path / "run", steps=2, space="tiny").run()  # nothing was written yet
    replace(QUICK, out=tmp_path / "run", steps=2, space="tiny").run()  # goes on with it
    assert len(curve(tmp_path / "run")) == 2


def test_a_restarted_run_takes_over_no_other_run(monkeypatch, tmp_path):
    run = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # without --rdzv-id
    replace(QUICK, out=run, steps=1).run()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    replace(QUICK, out=run, steps=2).run()  # our parent has started us again
    assert len(curve(run)) == 2
    for name in ("another", "none"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setattr(os, "getppid", lambda: -1)  # of another torchrun
        with pytest.raises(RunError, match=f"holds another run; .* --resume {run}"):
            replace(QUICK, out=run, steps=3).run()
    assert len(curve(run)) == 2


def test_a_run_goes_on_with_its_own_network_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    arch = replace(get_space("tiny", freeze=FROZEN).sample(random.Random(0)), resolution=(64, 64))
    (tmp_path / "arch.json").write_text(arch.to_json())
    run = tmp_path / "run"
    alone = replace(QUICK, space=None, freeze=(), arch="arch.json", random_subnets=None)
    replace(alone, recalibration_images=None, out=run, steps=1).run()
    monkeypatch.chdir("elsewhere")
    Train(resume=run, steps=2, quiet=True).run()
    trained = read_header(run / "model.safetensors").arch
    assert trained is not None
    assert trained.stages == arch.stages


def test_what_a_run_was_started_with_must_not_change(whole, fails, tmp_path):
    run, init = tmp_path / "run", tmp_path / "init.safetensors"
    teacher = tmp_path / "teacher.safetensors"
    init.write_bytes((whole / "model.safetensors").read_bytes())
    arch = get_space("tiny", freeze=FROZEN, num_classes=12).sample(random.Random(0))
    save_weights(build(arch), teacher)
    replace(QUICK, out=run, steps=2, checkpoint_every=1, init=init, teacher=teacher).run()
    init.unlink()  # is not read again
    Train(resume=run, steps=3, quiet=True).run()
    save_weights(build(arch), teacher)
    said = fails(Train, "supernet.train", "--resume", run)
    assert f"--teacher {teacher} is another file than when {run} was started" in said
    assert len(curve(run)) == 3


def test_other_pictures_or_first_weights_than_at_the_start_are_named(whole, fails, tmp_path):
    run, init = tmp_path / "run", tmp_path / "init.safetensors"
    init.write_bytes((whole / "model.safetensors").read_bytes())
    replace(QUICK, out=run, steps=1, init=init).run()
    record = json.loads((run / "run.json").read_text())
    record["sources"]["num_train"] = 39
    (run / "run.json").write_text(json.dumps(record))
    said = fails(Train, "supernet.train", "--resume", run)
    assert f"num_train is 40, and was 39 when {run} was started" in said
    record["sources"]["num_train"] = 40
    (run / "run.json").write_text(json.dumps(record))
    for path in snapshots(run):
        path.unlink()
    save_checkpoint(init, open_supernet(init), metadata={"other": "bytes"})
    said = fails(Train, "supernet.train", "--resume", run)
    assert f"--init {init} is another file" in said


def test_every_flag_survives_a_resume(tmp_path):
    def go_on(options):
        return resumed(options, flags, tmp_path, unrecorded=UNRECORDED, may_change=MAY_CHANGE)

    flags = json.loads(json.dumps(flags_of(QUICK.options(), UNRECORDED)))
    again = go_on(TrainingOptions(resume=tmp_path))
    assert replace(again, resume=None) == QUICK.options()
    with pytest.raises(RunError, match="--seed cannot change"):
        go_on(TrainingOptions(seed=3))


def test_flags_at_their_defaults_count_where_they_are_given(tmp_path):
    def go_on(options):
        return resumed(options, flags, tmp_path, unrecorded=UNRECORDED, may_change=MAY_CHANGE)

    begun = replace(QUICK.options(), lr=3e-3, clip=1.0, accumulate=2, precision="bf16")
    flags = json.loads(json.dumps(flags_of(begun.with_defaults(), UNRECORDED)))
    given = TrainingOptions(
        lr=1e-3, clip=2.0, accumulate=1, precision="fp32", recalibration_images=512
    )
    again = go_on(given)
    names = ("lr", "clip", "accumulate", "precision", "recalibration_images")
    assert all(getattr(again, name) == getattr(given, name) for name in names)
    assert go_on(TrainingOptions()) == begun.with_defaults()


def test_a_resumed_run_takes_the_cure_that_it_printed(tmp_path):
    run = tmp_path / "run"
    replace(QUICK, out=run, steps=2, lr=3e-3, warmup=0).run()
    Train(resume=run, steps=4, lr=1e-3, quiet=True).run()
    rates = [float(row["lr"]) for row in curve(run)]
    assert rates[0] == pytest.approx(3e-3)
    assert rates[2] == pytest.approx(0.5e-3)  # half way down
    assert json.loads((run / "run.json").read_text())["settings"]["lr"] == 1e-3


def test_an_interrupted_evaluation_is_made_again(tmp_path, monkeypatch):
    calls = []

    def evaluate(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate_subnet(*arguments)

    monkeypatch.setattr("supernet.training.run.evaluate_subnet", evaluate)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        replace(QUICK, out=run, steps=3, eval_every=2, checkpoint_every=1).run()
    Train(resume=run, quiet=True).run()
    rows = [row for row in read_rows(run / EVALUATIONS) if row["metric"] == "top1"]
    found = [(row["step"], row["subnet"]) for row in rows]
    assert found == [("2", "largest"), ("2", "smallest"), ("3", "largest"), ("3", "smallest")]


def test_no_memory_to_evaluate_leaves_the_weights(fails, tmp_path, monkeypatch):
    def evaluate(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("supernet.training.run.evaluate_subnet", evaluate)
    model = tmp_path / "run" / "model.safetensors"
    flags = [*FLAGS, "--steps", "1", "--quiet", "--out", tmp_path / "run"]
    said = fails(Train, "supernet.train", *flags)
    assert f"the weights are in {model}, evaluate them by python -m supernet.evaluate" in said
    assert said.endswith(f"--weights {model} --batch-size 2\n")
    assert open_supernet(model).space == TRAINED


def test_only_a_lack_of_memory_is_called_one(fails, tmp_path, monkeypatch):
    def raising(error):
        def step(self, batches):
            raise error

        monkeypatch.setattr(Trainer, "step", step)

    begun = replace(QUICK, out=tmp_path / "other")
    raising(NotImplementedError("no kernel"))
    with pytest.raises(NotImplementedError, match="no kernel"):
        begun.run()
    raising(InvalidCxxCompiler())
    with pytest.raises(InvalidCxxCompiler):
        replace(begun, out=tmp_path / "uncompiled").run()
    flags = [*FLAGS, "--compile", "--out", tmp_path / "run"]
    said = fails(Train, "supernet.train", *flags)
    assert "--compile failed: No working C++ compiler found" in said
    assert "leave --compile out" in said


def test_a_step_s_time_is_its_own(tmp_path, monkeypatch):
    passed = 0.0

    def save(*arguments):
        nonlocal passed
        passed += 1000
        return save_snapshot(*arguments)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + passed)
    monkeypatch.setattr("supernet.training.run.save_snapshot", save)
    monkeypatch.setattr("supernet.training.run.time", clock)
    replace(QUICK, out=tmp_path / "run", steps=3, checkpoint_every=1).run()
    assert passed == 3000
    assert all(float(row["seconds"]) < 1000 for row in read_rows(tmp_path / "run" / CURVE))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --space NAME"),
        (["--space", "tiny", "--arch", "b0"], "give --space NAME"),
        (["--space", "tinny", "--steps", "1"], "did you mean 'tiny'?"),
        (["--arch", "b9"], "no arch or file 'b9'; did you mean 'b3'?"),
        (["--space", "tiny", "--task", "clasification"], "did you mean 'classification'?"),
        (["--space", "tiny", "--steps", "1", "--epochs", "2"], "give --steps or --epochs"),
        (["--space", "tiny", "--steps", "0"], "--steps must be 1 or more, not 0"),
        (["--space", "tiny", "--lr", "nan"], "--lr must be above 0"),
        (["--space", "tiny", "--ema", "1"], "--ema must be between 0 and 1"),
        (["--space", "tiny", "--clip", "-1"], "--clip must be 0 or more"),
        (["--space", "tiny", "--precision", "fp8"], "no precision 'fp8'"),
        (["--space", "tiny", "--augment", "all"], "no augment 'all'"),
        (["--arch", "b0", "--shrink"], "--shrink is of supernets; leave it out"),
        (["--arch", "b0", "--random-subnets", "2"], "--random-subnets is of supernets"),
        (["--arch", "b0", "--recalibration-images", "512"], "--recalibration-images is of"),
        (["--arch", "b0", "--alpha", "1"], "leave it out, or add --teacher FILE"),
        (["--space", "tiny", "--alpha", "-1"], "--alpha must be 0 or more"),
        (["--space", "tiny", "--alpha", "nan"], "--alpha must be 0 or more"),
        (
            ["--space", "tiny", "--task", "super_resolution", "--alpha", "1"],
            "--alpha is of classes, and super_resolution has none",
        ),
        (["--space", "tiny", "--task", "pretrain", "--alpha", "1"], "--alpha is of classes"),
        (["--space", "tiny", "--shrink", "--costs", "x.csv"], "leave one out"),
        (["--space", "tiny", "--costs", "x.csv", "--steps", "1"], "cannot read x.csv"),
        (["--space", "tiny", "--data", "nowhere"], "nowhere"),
        (
            ["--space", "tiny", "--batch-size", "9", "--accumulate", "4"],
            "nearest is --batch-size 8",
        ),
        (["--space", "tiny", "--resolution", "big"], "resolution 'big' is neither"),
        (["--resume", "nowhere"], "is no run folder"),
        (["--space", "tiny", "--dataset", "cityscapes"], "is no data set for classification"),
        (
            ["--space", "tiny", "--task", "super_resolution", "--dataset", "x3"],
            "(choose from x2, x4)",
        ),
        (["--space", "tiny", "--task", "promptable", "--num-train", "4"], "choose --space l"),
    ],
)
def test_bad_flags_end_in_one_line(fails, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(Train, "supernet.train", *flags)


def test_weights_of_another_space_are_named(whole, fails, tmp_path):
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, Supernet(get_space("tiny", freeze=("stage1.kernel_size=3",))))
    said = fails(Train, "supernet.train", *FLAGS, "--init", path, "--out", tmp_path / "run")
    assert f"{path} is of another space or network" in said
    assert not (tmp_path / "run").exists()
    said = fails(Train, "supernet.train", "--resume", whole, "--space", "b")
    assert "--space cannot change in a resumed run" in said
    said = fails(Train, "supernet.train", *FLAGS, "--out", whole)
    assert f"go on with it by --resume {whole}" in said
    with locked(whole):
        said = fails(Train, "supernet.train", "--resume", whole)
        assert "is in use by another process" in said


def test_a_teacher_of_other_classes_is_named(whole, fails, tmp_path):
    path = tmp_path / "teacher.safetensors"
    arch = get_space("tiny", freeze=FROZEN, num_classes=7).sample(random.Random(0))
    save_weights(build(arch), path)
    said = fails(Train, "supernet.train", *FLAGS, "--teacher", path, "--out", tmp_path / "run")
    assert "is a network for classification of 7 classes" in said


def test_a_supernet_is_no_teacher(whole, fails, tmp_path):
    path = whole / "model.safetensors"
    said = fails(Train, "supernet.train", *FLAGS, "--teacher", path, "--out", tmp_path / "run")
    assert f"{path} is a supernet; extract the teacher from it first by python -m" in said


def test_transforms_of_a_supernet_are_not_dropped(fails, tmp_path):
    first = tmp_path / "first"
    replace(QUICK, out=first, steps=1, kernel_transform=True).run()
    run = tmp_path / "run"
    said = fails(
        Train, "supernet.train", *FLAGS, "--init", first / "model.safetensors", "--out", run
    )
    assert "was trained with --kernel-transform; add it" in said


def test_one_picture_that_is_one_position_is_told_with_the_cure(fails, tmp_path):
    flags = ["--batch-size", "1", "--out", tmp_path / "run", "--quiet"]
    said = fails(Train, "supernet.train", *FLAGS, *flags)
    assert "has no variance; take a larger --batch-size or --resolution" in said


def test_a_promptable_network_is_built_at_the_size_that_is_asked_for(fails, tmp_path):
    plan = plan_training(TrainingOptions(arch="sam_l0", resolution=("256",), num_train=4))
    assert plan.arch is not None
    assert plan.arch.resolution == (256, 256)
    assert sampler_of(plan).draw(0).archs == (plan.arch,)
    flags = ["--arch", "sam_l0", "--resolution", "256", "--resolution", "512"]
    said = fails(Train, "supernet.train", *flags, "--out", tmp_path / "run")
    assert "a promptable network is of one size; give one --resolution" in said
    assert not (tmp_path / "run").exists()


def test_an_encoder_begins_a_promptable_network(tmp_path):
    stages = (*(Stage(8, 1),) * 3, Stage(16, 1, mixer="relu_linear", head_dim=8))
    arch = Arch("l", (64, 64), Stem(8, 1), stages, PromptableHead(1, 1, width=16))
    pretrained = build(with_head(arch, ReconstructionHead()))
    metadata = WeightsHeader(preprocessing=pretrained.preprocessing).to_metadata()
    save_weights(pretrained, tmp_path / "pretrained.safetensors", **metadata)
    (tmp_path / "arch.json").write_text(arch.to_json())
    options = TrainingOptions(
        arch=str(tmp_path / "arch.json"), init=tmp_path / "pretrained.safetensors", num_train=4
    )
    model = first_model(plan_training(options))
    save_weights(model.get_submodule("network"), tmp_path / "whole.safetensors")
    encoder = model.get_submodule("network.image_encoder")
    assert encoder.preprocessing == preprocessing_of(arch)  # padded, and with SAM's mean
    own = encoder.state_dict()
    had = pretrained.state_dict()
    body = [name for name in had if not name.startswith("head.")]
    assert len(body) > 20
    assert all(torch.equal(own[name], had[name]) for name in body)


def test_a_network_keeps_the_epsilon_of_its_first_weights(tmp_path):
    arch = get_space("tiny", freeze=FROZEN, num_classes=12).sample(random.Random(0))
    pretrained = build(arch)
    set_norm_eps(pretrained, 2 * arch.norm_eps)
    save_weights(pretrained, tmp_path / "pretrained.safetensors")
    (tmp_path / "arch.json").write_text(arch.to_json())
    options = TrainingOptions(
        arch=str(tmp_path / "arch.json"), init=tmp_path / "pretrained.safetensors", num_train=4
    )
    model = first_model(plan_training(options))
    assert norm_eps(model) == 2 * arch.norm_eps


def test_a_teacher_of_another_scale_is_named(fails, tmp_path):
    path = tmp_path / "teacher.safetensors"
    space = get_space("tiny", task="super_resolution", dataset="x4")
    save_weights(build(space.sample(random.Random(0))), path)
    flags = ["--task", "super_resolution", "--teacher", path, "--out", tmp_path / "run"]
    said = fails(Train, "supernet.train", "--space", "tiny", *flags)
    assert "is a network for super_resolution by 4, and super_resolution by 2 is" in said


def test_transforms_begin_as_the_identity_where_weights_have_none(whole, tmp_path):
    init = whole / "model.safetensors"
    run = tmp_path / "run"
    begun = replace(QUICK, out=run, steps=1, init=init, lr=1e-12, ema=None, kernel_transform=True)
    begun.run()
    before, _ = read_tensors(init)
    after, _ = read_tensors(run / "model.safetensors")
    added = after.keys() - before.keys()
    assert added
    for name in added:
        assert torch.allclose(after[name], torch.eye(len(after[name])), atol=1e-6)
    weights = [name for name in before if "running" not in name and "batches" not in name]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in weights)


def test_what_comes_next_can_be_pasted(capsys, whole):
    answer = json.loads((whole / "evaluation.json").read_text())
    print_training(answer | {"model": "a b/model.safetensors", "curve": None, "data": "c d"})
    said = capsys.readouterr().out
    assert "--weights 'a b/model.safetensors' --data 'c d' --sample" in said
    assert "None" not in said


def test_a_loss_that_is_not_finite_loses_nothing(fails, tmp_path):
    run = tmp_path / "run"
    flags = ["--lr", "1e30", "--clip", "0", "--warmup", "0", "--checkpoint-every", "1"]
    said = fails(Train, "supernet.train", *FLAGS, *flags, "--out", run)
    assert "is not finite at step " in said
    assert "try --lr 3e+29, --clip 1; " in said
    kept = snapshots(run)[-1]
    steps = int(kept.stem[5:])
    assert f"{steps} steps are kept, go on with --resume {run}" in said
    tensors, _ = load_snapshot(kept)
    weights = [t for name, t in tensors.items() if name.endswith("conv.weight")]
    assert weights
    assert steps < STEPS


def test_no_memory_is_told_with_the_cure(fails, tmp_path, monkeypatch):
    def step(self, batches, run=Trainer.step):
        if self.done == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, batches)

    monkeypatch.setattr(Trainer, "step", step)
    run = tmp_path / "run"
    said = fails(Train, "supernet.train", *FLAGS, "--out", run, "--quiet")
    assert "out of memory at step 7, 32 px; try --accumulate 2" in said
    assert f"5 steps are kept, go on with --resume {run}" in said
    monkeypatch.undo()
    Train(resume=run, accumulate=2, quiet=True).run()
    assert len(curve(run)) == STEPS


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux grants memory that it lacks")
def test_a_batch_too_large_for_this_machine_is_told_with_the_cure(tmp_path):
    # In a process of its own: what this one once used and freed is granted without the system.
    code = """
from supernet import memory, train
memory.available_bytes = lambda: 100 << 20
train.main()
"""
    flags = ["--batch-size", "2048", "--num-train", "2048", "--workers", "0", "--quiet"]
    arguments = [*FLAGS, *flags, "--out", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "out of memory at step 1, 32 px; try --accumulate 2" in done.stderr


def test_resuming_a_finished_run_leaves_its_weights(whole, tmp_path):
    """Also those of an earlier version, which wrote metadata in any order."""
    run = shutil.copytree(whole, tmp_path / "run")
    model = run / "model.safetensors"
    written = model.read_bytes()
    tensors, metadata = read_tensors(model)
    for _ in range(9):
        save_file(tensors, model, metadata=metadata)
        if model.read_bytes() != written:
            break
    before = model.read_bytes()
    assert before != written
    Train(resume=run, quiet=True).run()
    assert model.read_bytes() == before
    answer = json.loads((run / "evaluation.json").read_text())
    assert answer["evaluations"][0]["weights_sha256"] == hashlib.sha256(before).hexdigest()
    model.unlink()
    Train(resume=run, quiet=True).run()
    assert model.read_bytes() == written


def test_a_state_of_another_training_is_named(whole, fails, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    last = snapshots(run)[-1]
    tensors, metadata = read_tensors(last)
    facts = json.loads(metadata["facts"]) | {"step": 10**6}
    save_file(tensors, last, metadata={"facts": json.dumps(facts)})
    curve_before = (run / CURVE).read_bytes()
    said = fails(Train, "supernet.train", "--resume", run)
    assert f"{last} is damaged: it is of step 1000000; delete it, --resume then goes on" in said
    assert (run / CURVE).read_bytes() == curve_before
    last.unlink()
    Train(resume=run, quiet=True).run()
    assert curve(run) == curve(whole)


@pytest.mark.parametrize("name", ["checkpoints", CURVE, EVALUATIONS, "tensorboard"])
def test_a_run_that_somebody_sent_does_not_reach_outside(whole, fails, tmp_path, name):
    run = shutil.copytree(whole, tmp_path / "run")
    for path in snapshots(run)[-1:]:
        path.unlink()
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    files = [path for path in (elsewhere, *elsewhere.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    said = fails(Train, "supernet.train", "--resume", run)
    assert "is a link out of the run folder" in said
    found = [path for path in (elsewhere, *elsewhere.rglob("*")) if path.is_file()]
    assert {path: path.read_bytes() for path in found} == before


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(snapshots(whole)[-1].read_bytes()[:100])
    with pytest.raises(UserError, match=r"is damaged.*the one before"):
        load_snapshot(path)
