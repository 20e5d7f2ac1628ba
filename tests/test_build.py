"""Builds: real ones on this machine, killed and resumed ones, and long ones on a synthetic one."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lut.build import Build
from lut.device import find_table, get_device
from lut.measuring.build import build_table
from lut.measuring.journal import JOURNAL
from lut.measuring.options import BuildOptions, ValidationOptions
from lut.measuring.run import device_of, parse_budget_s, recorded
from lut.measuring.validation import validate_table
from lut.rows import COLUMNS
from lut.table import load_table
from results.errors import DeviceError, RunError, TableError, TargetError
from supernet.blocks import blocks_of
from supernet.spaces import get_space
from tests.conftest import ROOT
from tests.small_build import references
from tests.synthetic import START_US, Machine, true_us


def sidecar_of(table):
    return table.sidecar.written


QUICK = ("--space", "tiny", "--passes", "6", "--networks", "4")
SMALL_BUILD = [sys.executable, "-m", "tests.small_build"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A real build of space tiny with ONNX Runtime, in a process of its own."""
    folder = tmp_path_factory.mktemp("built")
    environment = {**os.environ, "EFFICIENTVIT_NAS_DATA": str(folder / "data")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [*SMALL_BUILD, "--device", "mine", "--title", "My machine"]
    done = subprocess.run(
        [*command, *QUICK, "--run-folder", str(folder / "run")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_build_leaves_a_whole_table(built):
    folder, said = built
    path = folder / "data" / "tables" / "mine-onnxruntime-fp32.csv"
    table = load_table(path)
    with path.open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    assert (table.device, table.title, table.threads, table.batch) == ("mine", "My machine", 1, 1)
    assert {entry.provenance for entry in table.entries.values()} == {"measured"}
    assert all(entry.num_samples >= 6 for entry in table.entries.values())
    used = {block for arch in get_space("tiny").enumerate() for block in blocks_of(arch)}
    assert used <= set(table.entries)
    assert str(path) in said
    assert said.endswith("next: python -m nas.search --device mine:onnxruntime:fp32\n")


def test_its_sidecar_says_how_and_how_wrong(built):
    folder, _ = built
    sidecar = sidecar_of(load_table(folder / "data" / "tables" / "mine-onnxruntime-fp32.csv"))
    validation, found = sidecar["validation"], sidecar["measurement"]
    assert validation["num_networks"] == 4
    names = {"mape_percent", "within_5_percent", "within_10_percent", "spearman", "kendall_tau"}
    assert set(validation["raw"]) == set(validation["scaled"]) == names
    assert found["environment"]["runtime"] == "onnxruntime"
    assert found["environment"]["version"]
    assert found["target"]["kind"] == "local"
    assert found["target"]["machine"]
    assert found["protocol"]["passes"] == 6
    assert len(found["networks"]) == 2 + 12
    assert sidecar["error"]["judged_on"].startswith("4 random networks")


def test_its_run_folder_keeps_every_pass_and_quantile(built):
    folder, _ = built
    lines = [json.loads(text) for text in (folder / "run" / JOURNAL).read_text().splitlines()]
    passes = [(line["chunk"], line["pass"]) for line in lines if "pass" in line]
    assert len(passes) == len(set(passes)) >= 18
    with (folder / "run" / "quantiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 150
    for row in rows:
        assert float(row["p10_us"]) <= float(row["p50_us"]) <= float(row["p90_us"])


def test_a_search_on_it_says_measured(built, monkeypatch, run, tmp_path):
    folder, _ = built
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(folder / "data"))
    assert "own table, measured, error" in run("nas.devices").stdout
    done = run("nas.search", "--device", "mine", "--space", "tiny", "--trials", "60")
    assert "measured" in done.stdout
    device = get_device("mine")
    assert find_table(device, 1).name == "mine-onnxruntime-fp32.csv"


def test_it_is_validated_by_another_command(built, monkeypatch, run, tmp_path):
    folder, _ = built
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(folder / "data"))
    arguments = ("--device", "mine", "--networks", "5", "--passes", "5", "--out", "check")
    done = run("lut.validate", *arguments, "--json")
    found = json.loads(done.stdout)
    assert found["num_networks"] == 5
    rows = json.loads((tmp_path / "check" / "validation.json").read_text())["networks"]
    table = load_table(folder / "data" / "tables" / "mine-onnxruntime-fp32.csv")
    references = sidecar_of(table)["measurement"]["networks"][:6]
    assert len(rows) == 5
    from supernet.arch import Arch

    for row in rows:
        blocks = blocks_of(Arch.from_dict(row["arch"]))
        assert row["predicted_ms"] == pytest.approx(table.network_ms(blocks))
        assert row["arch"] not in [a["arch"] for a in references]


def killed_build(folder, delays, *flags):
    """Passes of a build that is killed after each delay, and resumed until it is done."""
    run, out = folder / "run", folder / "tables"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = ["--device", "killed", *QUICK, *flags, "--run-folder", str(run), "--out", str(out)]
    for delay in [*delays, None]:
        arguments = ["--resume", str(run)] if (run / "run.json").exists() else first
        process = subprocess.Popen(
            [*SMALL_BUILD, *arguments, "--quiet"],
            cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            continue
        assert process.returncode == 0, said
        break
    lines = [json.loads(text) for text in (run / JOURNAL).read_text().splitlines()]
    passes = [(line["chunk"], line["pass"]) for line in lines if "pass" in line]
    assert len(passes) == len(set(passes))
    return load_table(out / "killed-onnxruntime-fp32.csv")


def test_a_killed_build_goes_on(tmp_path):
    frozen = "resolution=96"  # a third of the blocks
    table = killed_build(tmp_path, [4.0], "--freeze", frozen)
    space = get_space("tiny", freeze=[frozen])
    used = {block for arch in space.enumerate() for block in blocks_of(arch)}
    assert used <= set(table.entries)


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    rng = random.Random(time.time_ns())
    tables = []
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        tables.append(killed_build(folder, [rng.uniform(0.3, 6) for _ in range(3)]))
    assert len({frozenset(table.entries) for table in tables}) == 1


@pytest.fixture
def measured_on(monkeypatch):
    """Have whatever measures here do so on a machine whose clock its models move."""

    def measured_on(machine):
        clock = [0.0]

        def session(*arguments, **more):
            for line in machine(*arguments, **more):
                clock[0] += sum(line.get("us", [0])) / 1e6
                yield line

        monkeypatch.setattr("lut.measuring.campaign.run_session", session)
        monkeypatch.setattr("lut.measuring.run.references_of", references)
        monkeypatch.setattr("lut.measuring.plan.SAMPLED", 500)
        monkeypatch.setattr("lut.measuring.campaign.time.sleep", lambda seconds: None)
        monkeypatch.setattr("lut.measuring.campaign.time.monotonic", lambda: clock[0])

    return measured_on


@pytest.fixture
def synthetic(measured_on):
    """Run lut.build here, on such a machine."""

    def synthetic(machine, *flags):
        import tyro

        measured_on(machine)
        tyro.cli(Build, args=["--device", "made-up", "--quiet", *flags]).run()
        return load_table(find_table(get_device("made-up"), 1))

    return synthetic


def whole_ms(arch):
    return (START_US + sum(true_us(block) for block in blocks_of(arch))) / 1e3


def test_a_build_without_a_budget_measures_all(synthetic, tmp_path):
    machine = Machine(noise=0.01)
    freezes = ["resolution=128", *(f"stage{n}.kernel_size=3" for n in (1, 2, 3, 4))]
    flags = ("--space", "b", "--freeze", *freezes, "--run-folder", str(tmp_path / "run"))
    table = synthetic(machine, *flags, "--passes", "8")
    assert {entry.provenance for entry in table.entries.values()} == {"measured"}
    target = sidecar_of(table)["measurement"]["target"]
    assert table.title == (target.get("model") or target.get("cpu") or "made-up")
    assert sidecar_of(table)["validation"]["num_networks"] == 24
    assert sidecar_of(table)["validation"]["scaled"]["mape_percent"] < 1
    space = get_space("b", freeze=freezes)
    for seed in range(10):
        arch = space.sample(random.Random(seed))
        assert table.network_ms(blocks_of(arch)) == pytest.approx(whole_ms(arch), rel=0.03)
    # two rounds of all, up to five of what networks consist of to a large part
    counts = {entry.num_samples for entry in table.entries.values() if entry.num_samples}
    assert counts == {8 * rounds for rounds in (2, 3, 4, 5)}
    dear = max(table.entries, key=lambda block: table.entries[block].latency_ms)
    assert table.entries[dear].num_samples > 16
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    Build(resume=tmp_path / "run", quiet=True).run()
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_a_budget_is_kept_and_the_rest_interpolated(synthetic, tmp_path):
    machine = Machine(noise=0.01)
    machine.slowness = 8.0
    flags = ("--space", "b", "--freeze", "resolution=128,160", "--budget", "5min")
    table = synthetic(machine, *flags, "--passes", "8", "--run-folder", str(tmp_path / "run"))
    found = sidecar_of(table)["measurement"]
    assert found["num_measured"] >= 200
    assert found["num_interpolated"] > 300
    assert found["seconds"] < 330
    assert (
        sidecar_of(table)["validation"]["scaled"]["mape_percent"] < 10
    )  # the quirks are noise to it


def test_a_table_for_other_classes_covers_a_supernets_networks(synthetic, tmp_path, capsys):
    from lut.measuring.validation import space_of_table
    from nas.front import read_front
    from nas.search import SearchCommand
    from tests.test_subnets import additive, row, subnets, write

    flags = (*QUICK, "--num-classes", "12", "--run-folder", str(tmp_path / "build"))
    table = synthetic(Machine(noise=0.01), *flags)
    space = get_space("tiny", num_classes=12)
    used = {block for arch in space.enumerate() for block in blocks_of(arch)}
    assert used <= set(table.entries)
    assert space_of_table(ValidationOptions(), table) == space
    rows = write(tmp_path / "rows.jsonl", [row(arch, additive(arch)) for arch in subnets(40)])
    folder = tmp_path / "run"
    SearchCommand(
        device=("made-up",), accuracy=str(rows), trials=120, evaluations=20_000, out=folder
    ).run()
    said = capsys.readouterr().out
    assert "latency:  own table, measured, error" in said
    assert "accuracy: supernet, ridge" in said
    front = read_front(folder)
    for candidate in front.candidates:
        assert candidate.arch in space
        ms = table.network_ms(blocks_of(candidate.arch))
        assert candidate.latency_ms == pytest.approx(ms, rel=1e-5)
        assert not candidate.latency_extrapolated


def test_a_validation_by_another_version_of_the_runtime_says_so(synthetic, tmp_path, capsys):
    from lut.validate import Validate

    machine = Machine(noise=0.01)
    synthetic(machine, *QUICK, "--run-folder", str(tmp_path / "run"))

    def validate(name):
        Validate(device=("made-up",), networks=4, passes=5, out=tmp_path / name).run()
        found = json.loads((tmp_path / name / "validation.json").read_text())
        return found["remark"], capsys.readouterr().out

    remark, said = validate("same")
    assert remark == ""
    assert "measured with" not in said
    machine.version = "2"
    remark, said = validate("other")
    assert remark.startswith("the table was measured with onnxruntime 1, here is 2: latencies may")
    assert remark in said


def test_what_the_runtime_refuses_is_reported(synthetic, tmp_path):
    from lut.measuring.probes import difference_of

    bad = next(b for b in blocks_of(get_space("tiny").sample(random.Random(0))) if b.residual)
    difference = difference_of(bad)
    assert difference is not None
    machine = Machine(kills=lambda blocks: blocks == difference.probe)
    table = synthetic(machine, *QUICK, "--run-folder", str(tmp_path / "run"))
    (note,) = sidecar_of(table)["measurement"]["failed"]
    assert bad.kind in note
    assert table.entries[bad].provenance == "interpolated"


def test_an_older_table_is_kept(synthetic, tmp_path, data_folder):
    for number in (1, 2):
        machine = Machine()
        synthetic(machine, *QUICK, "--run-folder", str(tmp_path / str(number)))
    assert (data_folder / "tables" / "made-up-onnxruntime-fp32.csv.bak").exists()


def test_one_name_has_one_setting(synthetic, fails, tmp_path):
    machine = Machine()
    synthetic(machine, *QUICK, "--run-folder", str(tmp_path / "run"))
    for flags in (("--threads", 2), ("--batch", 4)):
        said = fails(Build, "lut.build", "--device", "made-up", *QUICK, *flags)
        assert "another name" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give one --device"),
        (("--device", "x y"), "letters, digits"),
        (("--device", "x:litert", "--runtime", "onnxruntime"), "contradict"),
        (("--device", "x:fast"), "no runtime 'fast'"),
        (("--device", "x", "--precision", "fp17"), "fp16"),
        (("--device", "x", "--target", "shh://board"), "did you mean ssh://"),
        (("--device", "x", "--space", "bb"), "did you mean 'b'"),
        (("--device", "x", "--budget", "fast"), "5min"),
        (("--device", "x", "--threads", "0"), "--threads must be 1"),
        (("--device", "x", "--networks", "1"), "at least 2"),
        (("--device", "x", "--cpus", "a"), "--cpus is a list"),
        (("--resume", "nowhere"), "no run folder"),
    ],
)
def test_mistakes_are_named_in_one_line(fails, flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in fails(Build, "lut.build", *flags)
    assert list(tmp_path.iterdir()) == []


def test_budgets_have_units():
    assert [parse_budget_s(text) for text in ("90s", "5min", "1.5h", "300")] == [90, 300, 5400, 300]
    for text in ("5 minutes", "-3min", "10s", "nan", "inf"):
        with pytest.raises(TableError):
            parse_budget_s(text)


def test_a_later_table_does_not_change_what_is_gone_on_with(built, tmp_path, monkeypatch):
    folder, _ = built
    tables = tmp_path / "tables"
    tables.mkdir()
    old = folder / "data" / "tables" / "mine-onnxruntime-fp32"
    shutil.copy(old.with_suffix(".csv"), tables / "mine-litert-fp32.csv")
    sidecar = json.loads(old.with_suffix(".json").read_text()) | {"runtime": "litert"}
    (tables / "mine-litert-fp32.json").write_text(json.dumps(sidecar))
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(tmp_path))
    assert device_of(BuildOptions(device=("mine",))).runtime == "litert"
    run = folder / "run"
    options, _ = recorded(BuildOptions(resume=run))
    device = device_of(options)
    assert (device.runtime, device.precision) == ("onnxruntime", "fp32")


def test_a_table_is_built_and_validated_from_python(measured_on, tmp_path, capfd):
    measured_on(Machine(noise=0.01))
    options = BuildOptions(
        device=("called",), space="tiny", passes=5, networks=3,
        out=tmp_path / "tables", run_folder=tmp_path / "run",
    )  # fmt: skip
    built = build_table(options)
    assert built.path == tmp_path / "tables" / "called-onnxruntime-fp32.csv"
    assert set(built.table.entries) == set(load_table(built.path).entries)
    assert built.validation is not None
    assert len(built.validation.archs) == 3
    record = json.loads((built.folder / "run.json").read_text())
    assert (record["command"], record["command_line"]) == ("lut.build", None)
    assert record["settings"]["runtime"] == "onnxruntime"
    journal = (built.folder / JOURNAL).read_bytes()
    again = build_table(BuildOptions(resume=built.folder))
    assert (again.path, set(again.table.entries)) == (built.path, set(built.table.entries))
    assert (built.folder / JOURNAL).read_bytes() == journal
    with pytest.raises(RunError, match="--passes cannot change"):
        build_table(BuildOptions(resume=built.folder, passes=9))
    with pytest.raises(DeviceError, match="--threads must be 1"):
        build_table(BuildOptions(device=("called",), threads=0))
    check = tmp_path / "check"
    validated = validate_table(
        ValidationOptions(table=built.path, networks=2, passes=5, out=check, save=True)
    )
    answer = json.loads((check / "validation.json").read_text())
    assert answer["raw"] == validated.validation.raw.to_dict()
    assert sidecar_of(load_table(built.path))["validation"]["num_networks"] == 2
    assert capfd.readouterr() == ("", "")


def test_resume_takes_no_other_flags(built, fails):
    folder, _ = built
    said = fails(Build, "lut.build", "--resume", folder / "run", "--passes", 9)
    assert "--passes cannot change" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sources: sources["target"].update(machine="riscv64"), "another machine"),
        (lambda sources: sources.update(protocol=0), "another version of lut.build"),
        (lambda sources: sources.pop("target"), "run.json is damaged"),
    ],
)
def test_a_build_goes_on_only_where_and_as_it_was_begun(built, fails, tmp_path, change, words):
    folder, _ = built
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    record = json.loads((run / "run.json").read_text())
    change(record["sources"])
    (run / "run.json").write_text(json.dumps(record))
    before = (run / JOURNAL).read_bytes()
    assert words in fails(Build, "lut.build", "--resume", run)
    assert (run / JOURNAL).read_bytes() == before


def test_a_lost_host_tells_how_to_go_on(synthetic, tmp_path):
    class Lost(Machine):
        def __call__(self, *arguments, **more):
            if len(self.sessions) == 2:
                raise TargetError("local: gone")
            yield from super().__call__(*arguments, **more)

    folder = tmp_path / "run"
    with pytest.raises(TargetError, match=f"gone; .* go on with --resume {folder}"):
        synthetic(Lost(), *QUICK, "--run-folder", str(folder))


def test_a_runtime_that_runs_no_block_is_told(synthetic, tmp_path):
    machine = Machine(kills=lambda blocks: len(blocks) < 10)
    with pytest.raises(TableError, match="no block could be measured: it ends every session"):
        synthetic(machine, *QUICK, "--run-folder", str(tmp_path / "run"))


def test_a_finished_build_can_be_resumed(built, monkeypatch):
    folder, _ = built
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(folder / "data"))
    before = (folder / "run" / JOURNAL).read_bytes()
    subprocess.run([*SMALL_BUILD, "--resume", folder / "run", "--quiet"], cwd=ROOT, check=True)
    assert (folder / "run" / JOURNAL).read_bytes() == before


def test_the_timer_dies_with_the_build(tmp_path):
    """A killed build leaves no process that would disturb the next."""
    flags = ["--device", "orphan", *QUICK, "--passes", "400", "--run-folder", str(tmp_path / "run")]
    process = subprocess.Popen([*SMALL_BUILD, *flags, "--quiet", "--out", str(tmp_path)], cwd=ROOT)
    journal = tmp_path / "run" / JOURNAL
    while not (journal.exists() and '"pass"' in journal.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while timers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert timers(tmp_path) == []


def timers(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        if b"timer.py" in command and os.environb[b"EFFICIENTVIT_NAS_DATA"] in environment:
            found.append(command)
    return found
