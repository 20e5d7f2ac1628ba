"""The main command: what it writes, that it repeats, resumes and refuses."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lut.build import Build
from lut.device import SHIPPED, get_device
from nas.engine.run import search as search_here
from nas.engine.study import Search
from nas.front import COLUMNS, read_front
from nas.options import SearchOptions
from nas.search import SearchCommand
from predictors.latency import load_predictor
from results.errors import DeviceError, RunError, SearchError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from tests.conftest import ROOT, run_here, run_process

FILES = {
    *(".lock", "archive.json", "front.csv", "front.html", "front.json", "front.png", "run.json"),
    *("front_all.csv", "study.log"),
}


def dominates(a, b):
    no_worse = a.latency_ms <= b.latency_ms and a.accuracy >= b.accuracy
    return no_worse and (a.latency_ms, a.accuracy) != (b.latency_ms, b.accuracy)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run on the shipped table, in the process that a user would start."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = search(folder, "--trials", 400, runner=run_process)
    return folder, done.stdout


def search(folder, *arguments, device="snapdragon8gen1", runner=run_here, **more):
    few = () if {"--sampler", "--resume"} & set(arguments) else ("--evaluations", 20_000)
    words = ("--device", device, "--out", folder, *few, *arguments)
    done = runner("nas.search", *words, cwd=folder.parent, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_run_folder_holds_the_promised_files(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_is_non_dominated_and_spans_the_space(finished):
    front = read_front(finished[0])
    candidates = front.candidates
    assert len(candidates) >= 15
    assert not any(dominates(a, b) for a in candidates for b in candidates)
    assert not any(dominates(b, c) for b in front.baselines.values() for c in candidates)
    assert candidates[-1].latency_ms / candidates[0].latency_ms >= 10
    within = [(ms, accuracy) for ms, accuracy in front.trials]
    assert max(accuracy for _, accuracy in within) == pytest.approx(
        candidates[-1].accuracy, abs=1e-3
    )
    assert min(ms for ms, _ in within) == pytest.approx(candidates[0].latency_ms, rel=1e-5)


def test_the_official_networks_are_baselines(finished):
    names = {name.split("@")[0] for name in read_front(finished[0]).baselines}
    assert {"b0", "b1", "b2", "b3", "l1", "l2", "l3"} <= names


def test_front_csv_and_json_say_the_same_and_hold_what_they_claim(finished):
    folder, _ = finished
    front = read_front(folder)
    predictor = load_predictor(get_device("snapdragon8gen1"), "imagenet")
    with (folder / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(front.candidates)
    for row, candidate in zip(rows[::10], front.candidates[::10], strict=True):
        arch = Arch.from_json(row["arch"])
        assert arch == candidate.arch
        blocks = blocks_of(arch)
        cost = network_cost(blocks)
        assert float(row["params_m"]) == pytest.approx(cost.params / 1e6, rel=1e-5)
        assert float(row["macs_g"]) == pytest.approx(cost.macs / 1e9, rel=1e-5)
        assert float(row["latency_ms"]) == pytest.approx(predictor.predict(blocks).latency_ms, 1e-5)


def test_run_json_tells_how_the_run_came_about(finished):
    record = json.loads((finished[0] / "run.json").read_text())
    assert record["metric"] == "ImageNet top-1 [%]"
    assert record["settings"]["trials"] == 400
    assert record["sources"]["latency"]["provenance"] == "calibrated"
    assert record["sources"]["latency"]["error"]["mape_percent"] > 0
    assert record["sources"]["accuracy"]["provenance"] == "published"
    assert {"python", "numpy", "optuna"} <= set(record["versions"])
    assert record["outcome"]["trials"] == 400
    assert record["outcome"]["interrupted"] is False


def test_the_terminal_shows_sources_and_the_next_command(finished):
    folder, shown = finished
    assert "latency:  calibrated, error" in shown
    assert "accuracy: published" in shown
    assert "at equal latency" in shown
    assert f"as files: python -m nas.export '{folder}#" in shown.replace('"', "'")
    next_command = shown.strip().splitlines()[-1].removeprefix("next: ")
    assert next_command.startswith("python -m nas.predict --device snapdragon8gen1 --arch ")
    assert str(folder) in next_command
    table = shown.split("\n15 of ")[0].splitlines()[2:]
    assert (
        len([line for line in table if line.strip() and line.split()[0].rstrip("*").isdigit()])
        == 15
    )


def test_same_seed_same_front_in_a_process_with_another_hash_seed(tmp_path):
    for seed in ("1", "2"):
        out = tmp_path / seed
        search(out, "--trials", 250, "--quiet", runner=run_process, hash_seed=seed)
    fronts = [(tmp_path / seed / "front.csv").read_bytes() for seed in ("1", "2")]
    assert fronts[0] == fronts[1] != b""


@pytest.mark.parametrize(
    ("device", "flags"),
    [
        ("orin", ["--space", "b"]),
        ("snapdragon8gen1", ["--freeze", "resolution=160"]),
        ("a100", ["--task", "segmentation", "--freeze", "family=l"]),
        ("orin", ["--max-params-m", "9.2"]),
    ],
)
def test_no_baseline_dominates_in_any_space(tmp_path, device, flags):
    search(tmp_path / "run", "--trials", 100, *flags, device=device)
    front = read_front(tmp_path / "run")
    assert front.baselines
    assert not any(dominates(b, c) for b in front.baselines.values() for c in front.candidates)
    resolutions = {c.arch.resolution for c in front.baselines.values()}
    if "resolution=160" in flags:
        assert resolutions == {(160, 160)}


@pytest.mark.parametrize("device", ["orin", "a100", "jetson-nano"])
def test_every_shipped_device_gives_a_wide_front(tmp_path, device):
    search(tmp_path / "run", "--trials", 200, "--quiet", device=device)
    front = read_front(tmp_path / "run")
    assert len(front.candidates) >= 15
    assert front.candidates[-1].latency_ms / front.candidates[0].latency_ms >= 10


@pytest.mark.parametrize(
    ("flags", "device", "metric", "shown"),
    [
        (["--task", "segmentation"], "orin", "Cityscapes mIoU", "1024x2048"),
        (["--task", "segmentation", "--dataset", "ade20k"], "a100", "ADE20K mIoU", "batch 16"),
        (["--task", "promptable"], "a100", "COCO box-prompted mAP", "sam_xl1@1024"),
    ],
)
def test_dense_tasks_bring_their_metric_resolutions_and_batch(
    tmp_path, flags, device, metric, shown
):
    done = search(tmp_path / "run", *flags, "--trials", 120, device=device)
    front = read_front(tmp_path / "run")
    assert metric in front.metric
    assert shown in done.stdout
    heads = {c.arch.task for c in front.candidates}
    assert heads == {flags[1]}


def test_budgets_hold(tmp_path):
    flags = ["--max-latency-ms", 30, "--max-params-m", 8, "--max-macs-g", 0.6]
    flags += ["--max-memory-mb", 30, "--max-accuracy-std", 1.2]
    search(tmp_path / "run", "--trials", 500, *flags, "--json")
    front = read_front(tmp_path / "run")
    assert front.candidates
    for c in front.candidates:
        assert c.latency_ms <= 30
        assert c.params_m <= 8
        assert c.macs_g <= 0.6
        assert c.memory_mb <= 30
        assert c.accuracy_std <= 1.2


def test_json_prints_one_object(tmp_path):
    done = search(tmp_path / "run", "--trials", 100, "--json")
    summary = json.loads(done.stdout)
    assert summary["trials"] == 100
    assert summary["front"] == len(read_front(tmp_path / "run").candidates)


def test_freezing_reaches_the_front(tmp_path):
    flags = ["--freeze", "resolution=160,192", "--freeze", "family=b", "--space", "all"]
    search(tmp_path / "run", "--trials", 100, *flags, "--freeze", "stage4.mixer=none,softmax")
    archs = [c.arch for c in read_front(tmp_path / "run").candidates]
    assert {a.resolution[0] for a in archs} <= {160, 192}
    assert {a.stages[3].mixer for a in archs} <= {"none", "softmax"}
    assert {a.stages[2].mixer for a in archs} == {"relu_linear"}


def test_by_default_mixers_scales_and_kernels_but_depthwise_are_the_official_ones(finished):
    candidates = read_front(finished[0]).candidates
    for candidate in candidates:
        kernels = [stage.kernel_size for stage in candidate.arch.stages]
        assert candidate.accuracy_transferred == (5 in kernels)
        for stage in candidate.arch.stages:
            assert stage.kernel_size == 3 or (stage.kernel_size == 5 and stage.local == "mbconv")
            assert stage.scales in ((), (5,))
            assert stage.mixer in ("relu_linear", "none")
    with (finished[0] / "front.csv").open() as file:
        provenances = [row["accuracy_provenance"] for row in csv.DictReader(file)]
    assert provenances == [
        "transferred" if candidate.accuracy_transferred else "published" for candidate in candidates
    ]
    assert "transferred" in provenances


def test_a_killed_search_resumes_and_ends_as_if_it_had_not_been_killed(tmp_path):
    search(tmp_path / "whole", "--trials", 500, "--quiet")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.search", "--device", "snapdragon8gen1", "--trials", "500",
         "--evaluations", "20000", "--out", str(killed), "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )  # fmt: skip
    journal = killed / "study.log"
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 150)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done_before = journal.read_bytes().count(b'"state"')
    subprocess.run(
        [sys.executable, "-m", "nas.search", "--resume", str(killed), "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
    )
    assert json.loads((killed / "run.json").read_text())["outcome"]["trials"] == 500
    assert journal.read_bytes().count(b'"state"') == 500 > done_before > 0
    whole, resumed = read_front(tmp_path / "whole"), read_front(killed)
    assert not any(dominates(b, c) for b in resumed.baselines.values() for c in resumed.candidates)
    assert resumed.candidates == whole.candidates
    assert resumed.trials == whole.trials


def interruptible():
    """Also where the tests were started in the background, which ignores interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_writes_the_front_so_far(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.search", "--device", "orin", "--trials", "100000",
         "--evaluations", "20000", "--out", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )  # fmt: skip
    journal = folder / "study.log"
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "interrupted after" in out
    assert read_front(folder).candidates
    record = json.loads((folder / "run.json").read_text())
    assert record["outcome"]["interrupted"] is True


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened within a minute"
        time.sleep(0.02)


def test_progress_without_a_terminal_is_plain_lines(tmp_path):
    done = search(tmp_path / "run", "--trials", 300)
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("20300/20300 networks")
    assert 2 <= len(lines) <= 12
    assert "\x1b" not in done.stderr + done.stdout


def test_the_record_is_there_before_the_journal(tmp_path, monkeypatch):
    """So that a search killed at any instant after it wrote anything can be resumed."""
    folder = tmp_path / "run"

    def killed(*_, **__):
        assert (folder / "run.json").exists()
        raise KeyboardInterrupt

    command = SearchCommand(device=("orin",), trials=60, evaluations=20_000, out=folder, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("nas.engine.run.Search", killed)
        with pytest.raises(KeyboardInterrupt):
            command.run()
    SearchCommand(resume=folder, quiet=True).run()
    assert json.loads((folder / "run.json").read_text())["outcome"]["trials"] == 60


def test_a_folder_taken_between_the_check_and_the_lock_is_left_alone(
    tmp_path, monkeypatch, finished
):
    from results import runs

    def taken(out, name, flag, *, resumes):
        shutil.copytree(finished[0], out)
        return out

    monkeypatch.setattr(runs, "create_run_folder", taken)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="taken by another run"):
        SearchCommand(device=("orin",), trials=60, evaluations=20_000, out=folder, quiet=True).run()
    assert (folder / "front.csv").read_bytes() == (finished[0] / "front.csv").read_bytes()


def test_resume_takes_only_the_amount_of_work(tmp_path, fails):
    folder = tmp_path / "run"
    search(folder, "--trials", 100, "--seed", 7, "--quiet")
    says = fails(SearchCommand, "nas.search", "--resume", folder, "--seed", 8)
    assert "--seed cannot change" in says
    SearchCommand(resume=folder, trials=200, quiet=True).run()
    record = json.loads((folder / "run.json").read_text())
    assert record["outcome"]["trials"] == 200
    assert record["settings"]["seed"] == 7


def test_resume_takes_the_default_amount_of_work_too(tmp_path):
    folder = tmp_path / "run"
    search(folder, "--trials", 100, "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.options.TRIALS", 200)
        SearchCommand(resume=folder, quiet=True).run()  # as begun
        assert json.loads((folder / "run.json").read_text())["outcome"]["trials"] == 100
        SearchCommand(resume=folder, trials=200, quiet=True).run()
    assert json.loads((folder / "run.json").read_text())["outcome"]["trials"] == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", ...), ("trials", "abc"), ("max_latency_ms", "3"), ("freeze", 5), ("seed", "x"),
        ("table", 5), ("num_classes", "a"), ("device", "orin"), ("task", None), ("seed", 2**32),
        ("trials", -1), ("space", "fam"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(tmp_path, finished, fails, name, value):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    record = json.loads((folder / "run.json").read_text())
    if value is ...:
        del record["settings"][name]
    else:
        record["settings"][name] = value
    (folder / "run.json").write_text(json.dumps(record))
    fails(SearchCommand, "nas.search", "--resume", folder)


def test_a_run_that_lost_its_journal_or_record_is_refused(tmp_path, finished, fails):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "study.log").unlink()
    assert "lost its study.log" in fails(SearchCommand, "nas.search", "--resume", folder)
    (folder / "run.json").write_text("[]")
    assert "damaged" in fails(SearchCommand, "nas.search", "--resume", folder)


def test_a_run_killed_before_its_first_record_can_be_begun_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    search(folder, "--trials", 60, "--quiet")
    assert read_front(folder).candidates


def test_a_run_goes_on_only_with_the_table_it_was_begun_with(tmp_path, fails):
    for ending in (".csv", ".json"):
        name = f"orin-tensorrt-fp16{ending}"
        (tmp_path / name).write_bytes((SHIPPED / "tables" / name).read_bytes())
    table = tmp_path / "orin-tensorrt-fp16.csv"
    folder = tmp_path / "run"
    search(folder, "--trials", 100, "--table", table, "--quiet", device="orin")
    table.write_text(table.read_text().replace("calibrated", "interpolated", 1))
    says = fails(SearchCommand, "nas.search", "--resume", folder, "--trials", 200)
    assert "latency source is not what" in says


def test_two_at_once_on_one_run_are_refused(tmp_path, fails):
    from results.runs import locked

    folder = tmp_path / "run"
    search(folder, "--trials", 100, "--quiet")
    with locked(folder):
        assert "in use" in fails(SearchCommand, "nas.search", "--resume", folder)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--device is missing"),
        (["--device", "snapdragon8gen2"], "did you mean 'snapdragon8gen1'"),
        (["--device", "list"], "`python -m nas.devices` lists them"),
        (["--device", "orin:tensort"], "did you mean 'tensorrt'"),
        (["--device", "orin:tensorrt:fp61"], "did you mean 'fp16'"),
        (["--device", "orin:litert"], "there is orin-tensorrt-fp16"),
        (["--device", "orin", "--space", "famlly"], "did you mean 'family'"),
        (["--device", "orin", "--sampler", "ngsa2"], "did you mean 'nsga2'"),
        (["--device", "orin", "--task", "segmentaton"], "did you mean 'segmentation'"),
        (["--device", "orin", "--dataset", "imagnet"], "did you mean 'imagenet'"),
        (["--device", "orin", "--task", "super_resolution"], "waits for a trained supernet"),
        (["--device", "orin", "--freeze", "stage3.mixr=none"], "did you mean 'stage3.mixer'"),
        (["--device", "orin", "--freeze", "resolution=225"], "did you mean '224'"),
        (["--device", "orin", "--max-latency-ms", "0.001"], "the smallest has 0.3"),
        (["--device", "orin", "--max-params-m", "0.5"], "try --max-params-m"),
        (["--device", "orin", "--max-macs-g", "0"], "must be a positive number"),
        (["--device", "orin", "--max-memory-mb", "nan"], "must be a positive number"),
        (["--device", "orin", "--trials", "0"], "--trials must be 1 or more, not 0"),
        (["--device", "orin", "--seed", "-1"], "--seed must be from 0"),
        (["--device", "orin", "--seed", "4294967296"], "--seed must be from 0"),
        (["--device", "orin", "--num-classes", "0"], "num_classes must be from 1"),
        (["--device", "orin", "--out", "/proc/x/run"], "cannot write"),
        (["--device", "orin", "--table", "none.csv"], "cannot read"),
        (["--resume", "nowhere"], "is no run folder"),
        (["--device", "orin", "--task", "promptable", "--space", "b"], "--space l"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, fails, flags, says):
    monkeypatch.chdir(tmp_path)
    assert says in fails(SearchCommand, "nas.search", *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_is_offered_as_the_cure_works(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--max-latency-ms", "0.001")
    cure = says.strip().rpartition("try ")[2].split()
    search(tmp_path / "run", "--trials", 100, *cure, device="orin")
    assert read_front(tmp_path / "run").candidates


def test_an_accuracy_error_that_an_official_network_keeps_to_is_possible(tmp_path):
    flags = ["--task", "segmentation", "--dataset", "ade20k", "--max-accuracy-std", 1.22]
    search(tmp_path / "run", "--trials", 60, *flags, device="a100")
    assert all(c.accuracy_std <= 1.22 for c in read_front(tmp_path / "run").candidates)


def test_a_folder_with_brackets_and_quotes_is_shown_as_it_is(tmp_path):
    done = search(tmp_path / "it's [b] $x$", "--trials", 60)
    arguments = shlex.split(done.stdout.strip().splitlines()[-1])
    assert arguments[-1].startswith(f"{tmp_path}/it's [b] $x$#")


def test_a_table_cut_short_is_refused(tmp_path, fails):
    for ending in (".csv", ".json"):
        name = f"orin-tensorrt-fp16{ending}"
        (tmp_path / name).write_bytes((SHIPPED / "tables" / name).read_bytes())
    table = tmp_path / "orin-tensorrt-fp16.csv"
    table.write_bytes(table.read_bytes()[:20_000])
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--table", table)
    assert "orin-tensorrt-fp16.csv" in says


def test_nothing_is_overwritten(tmp_path, fails):
    folder = tmp_path / "run"
    search(folder, "--trials", 100, "--quiet")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--out", folder)
    assert "holds another run" in says
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--out", other)
    assert "not an empty folder" in says
    below_a_file = other / "mine.txt" / "run"
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--out", below_a_file)
    assert "cannot write" in says
    assert (other / "mine.txt").read_text() == "mine"


def test_a_search_killed_before_its_record_was_there_can_be_begun_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.a1b2c3").write_text("{")
    search(tmp_path, "--trials", 60, "--quiet")
    assert read_front(tmp_path).candidates


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_refused(tmp_path, fails):
    tmp_path.chmod(0o500)
    says = fails(SearchCommand, "nas.search", "--device", "orin", "--out", tmp_path / "run")
    tmp_path.chmod(0o700)
    assert "cannot write" in says


def test_the_next_command_of_another_table_gives_its_number(tmp_path):
    name = "a100-tensorrt-fp16-b16"
    for ending in (".csv", ".json"):
        (tmp_path / f"t{ending}").write_bytes((SHIPPED / "tables" / f"{name}{ending}").read_bytes())
    done = search(tmp_path / "run", "--trials", 60, "--table", tmp_path / "t.csv", device="a100")
    command = shlex.split(done.stdout.strip().splitlines()[-1].removeprefix("next: python "))
    assert command[0] == "-m"
    shown = run_here(*command[1:], "--json", cwd=tmp_path).stdout
    number = int(command[command.index("--arch") + 1].rpartition("#")[2])
    candidate = read_front(tmp_path / "run").by_id[number]
    assert json.loads(shown)["latency_ms"] == candidate.latency_ms


def test_resuming_with_less_work_keeps_the_record_true(tmp_path):
    folder = tmp_path / "run"
    search(folder, "--trials", 200, "--quiet")
    SearchCommand(resume=folder, trials=100, quiet=True).run()
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["trials"] == record["outcome"]["trials"] == 200


def test_a_damaged_front_is_refused(tmp_path, finished):
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(RunError, match="no run folder"):
        read_front(folder)
    shutil.copy(finished[0] / "run.json", folder)
    with pytest.raises(RunError, match="holds no front yet; go on"):
        read_front(folder)
    data = json.loads((finished[0] / "front.json").read_text())
    data["candidates"][0].pop("accuracy")
    (folder / "front.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="damaged"):
        read_front(folder)


def test_a_front_survives_a_round_trip(tmp_path, finished):
    front = read_front(finished[0])
    front.write(tmp_path)
    again = read_front(tmp_path)
    assert again.candidates == front.candidates
    assert again.baselines == front.baselines
    assert replace(again, trials=[]) == replace(front, trials=[])
    assert isinstance(finished[0], Path)


def test_a_measured_table_is_searched_where_it_was_measured(run, tmp_path):
    def resolutions(*flags):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        flags = ("--trials", 60, "--evaluations", 20_000, "--out", out, *flags)
        run("nas.search", "--device", "example-cpu:litert", *flags)
        archs = [row["arch"] for row in json.loads((out / "front.json").read_text())["candidates"]]
        assert {arch["family"] for arch in archs} == {"b"}
        return {arch["resolution"][0] for arch in archs}

    assert resolutions() <= {128, 160, 192, 224, 256, 288}
    assert resolutions("--freeze", "resolution=128,320") <= {128, 320}


def test_a_run_of_an_older_version_says_so(finished, tmp_path, fails):
    """--evaluate was not there yet, by no name."""
    folder = tmp_path / "old"
    shutil.copytree(finished[0], folder)
    record = json.loads((folder / "run.json").read_text())
    del record["settings"]["evaluate"]
    (folder / "run.json").write_text(json.dumps(record))
    said = fails(SearchCommand, "nas.search", "--resume", folder)
    assert f"{folder} was begun by an older version, without --evaluate; start a new run" in said


def test_a_run_from_before_objectives_had_names_goes_on(finished, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(finished[0], folder)
    record = json.loads((folder / "run.json").read_text())
    settings = record["settings"]
    for name in ("minimize", "maximize", "risk", "min_latency_ms", "min_accuracy", "min_macs_g"):
        del settings[name]
    settings["objective"] = settings.pop("evaluate")
    settings |= {"max_latency_ms": None, "table": None}
    (folder / "run.json").write_text(json.dumps(record))
    before = (folder / "front_all.csv").read_bytes()
    SearchCommand(resume=folder, quiet=True).run()
    assert (folder / "front_all.csv").read_bytes() == before
    written = json.loads((folder / "run.json").read_text())["settings"]
    assert (written["evaluate"], written["max_latency_ms"], written["table"]) == (
        "predicted", [], [],
    )  # fmt: skip


@pytest.mark.parametrize("damage", [{"freeze": "resolution=128"}, {"num_classes": "many"}])
def test_damaged_flags_of_a_table_are_told(fails, tmp_path, damage):
    shipped = SHIPPED / "tables" / "example-cpu-litert-fp32.csv"
    table = tmp_path / shipped.name
    shutil.copy(shipped, table)
    sidecar = json.loads(shipped.with_suffix(".json").read_text())
    sidecar["space_flags"] |= damage
    table.with_suffix(".json").write_text(json.dumps(sidecar))
    flags = ("--device", "example-cpu:litert", "--table", table)
    (name,) = damage
    assert f"at `$.space_flags.{name}`" in fails(SearchCommand, "nas.search", *flags)


@pytest.mark.parametrize("name", ["study.log", ".lock"])
def test_a_link_out_of_a_run_is_not_followed(finished, tmp_path, fails, name):
    folder, outside = tmp_path / "run", tmp_path / "outside.txt"
    shutil.copytree(finished[0], folder)
    kept = (folder / name).read_bytes() or b"notes"
    outside.write_bytes(kept)
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    before = sorted(tmp_path.iterdir())
    said = fails(SearchCommand, "nas.search", "--resume", folder, "--trials", 410)
    assert "is a link out of the run folder" in said
    assert outside.read_bytes() == kept
    assert sorted(tmp_path.iterdir()) == before


def test_whole_files_replace_links(finished, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished[0], folder)
    outside.mkdir()
    for name in ("front.csv", "front.json", "front.png", "front.html", "run.json"):
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    SearchCommand(resume=folder, trials=410, quiet=True).run()
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert not any((folder / path.name).is_symlink() for path in outside.iterdir())
    assert read_front(folder).candidates


def test_a_search_from_python_is_the_commands(tmp_path, capsys):
    options = SearchOptions(
        device=("orin",), trials=60, evaluations=20_000, seed=3, out=tmp_path / "own"
    )
    result = search_here(options)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    SearchCommand(
        device=("orin",),
        trials=60,
        evaluations=20_000,
        seed=3,
        out=tmp_path / "command",
        json=True,
        quiet=True,
    ).run()
    summary = json.loads(capsys.readouterr().out)
    own, commands = ({p.name for p in (tmp_path / n).iterdir()} for n in ("own", "command"))
    assert own == FILES - {"front.png", "front.html"}
    assert commands == FILES
    for name in ("front.csv", "front.json"):
        assert (result.folder / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    records = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("own", "command")]
    assert records[0]["settings"] == records[1]["settings"]
    assert records[0]["sources"] == records[1]["sources"]
    assert records[0]["outcome"] == asdict(result.outcome)
    counts = ("trials", "distinct_archs", "front", "interrupted")
    assert [summary[name] for name in counts] == [asdict(result.outcome)[name] for name in counts]
    assert result.front.candidates == read_front(result.folder).candidates
    assert result.options == options
    assert any("archs of family" in note for note in result.notes)


def test_a_search_from_python_goes_on_and_fails_as_the_command_does(tmp_path):
    folder = tmp_path / "run"
    search_here(SearchOptions(device=("orin",), trials=60, evaluations=20_000, out=folder))
    result = search_here(SearchOptions(resume=folder, trials=80))
    assert (result.outcome.trials, result.options.device) == (80, ("orin",))
    with pytest.raises(RunError, match="--seed cannot change"):
        search_here(SearchOptions(resume=folder, seed=1))
    with pytest.raises(DeviceError, match="--device is missing"):
        search_here(SearchOptions())
    with pytest.raises(SearchError, match="the smallest has"):
        search_here(
            SearchOptions(device=("orin",), max_latency_ms=("0.001",), out=tmp_path / "none")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_of_the_old_kind_goes_on(tmp_path):
    """Its record has the command line as `command`, and no `command_line`."""
    folder = tmp_path / "run"
    search(folder, "--trials", 60, "--quiet", device="orin")
    written = json.loads((folder / "run.json").read_text())
    flags = f"--device orin --out {folder} --evaluations 20000 --trials 60 --quiet"
    line = f"python -m nas.search {flags}"
    assert (written["command"], written["command_line"]) == ("nas.search", line)
    old = {"command": line} | {name: written[name] for name in OLD_RECORD[1:]}
    (folder / "run.json").write_text(json.dumps(old | {"started": "2026-01-01T00:00:00+00:00"}))
    SearchCommand(resume=folder, trials=80, quiet=True).run()
    record = json.loads((folder / "run.json").read_text())
    assert (record["command"], record["command_line"]) == ("nas.search", line)
    assert record["started"] == "2026-01-01T00:00:00+00:00"
    assert record["settings"]["trials"] == record["outcome"]["trials"] == 80


OLD_RECORD = (
    *("command", "settings", "sources", "seed", "started", "commit", "versions", "host"),
    *("metric", "outcome"),
)


@pytest.mark.parametrize(
    ("module", "command"), [("nas.search", SearchCommand), ("lut.build", Build)]
)
def test_a_training_run_is_named_as_what_it_is(tmp_path, fails, module, command):
    folder = tmp_path / "a run"
    folder.mkdir()
    record = {"command": "supernet.train", "settings": {"space": "tiny", "seed": 0}}
    (folder / "run.json").write_text(json.dumps(record))
    said = fails(command, module, "--resume", folder)
    assert f"{folder} is a run of supernet.train, not of {module}" in said
    assert f"go on with it by `python -m supernet.train --resume '{folder}'`" in said


def test_ctrl_c_gives_python_the_front_so_far(tmp_path, monkeypatch):
    def interrupted(self, trials, on_trial, whole=Search.run):
        whole(self, 30, on_trial)
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "run", interrupted)
    result = search_here(
        SearchOptions(device=("orin",), trials=60, evaluations=20_000, out=tmp_path / "run")
    )
    assert (result.outcome.interrupted, result.outcome.trials) == (True, 30)
    assert result.front.candidates == read_front(tmp_path / "run").candidates != ()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["settings"]["trials"], record["outcome"]["interrupted"]) == (60, True)
