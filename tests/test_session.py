"""Sessions: which driver times what, the lines that each gives, and what goes wrong on the way."""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lut.measuring.assemble import differences, entries_of
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import BLOCKS, distinct, network_model, references_of
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.probes import difference_of
from lut.runtimes.invoked import COOL_C, BenchmarkModel, time_by_invocation
from lut.runtimes.session import (
    BY_BENCHMARK_MODEL,
    BY_TRTEXEC,
    COMPILING_TIMER,
    TIMER,
    Model,
    Setting,
    _push_packages,
    check_host,
    driver_of,
    run_session,
    write_models,
)
from lut.runtimes.timer import HUGE_PAGES
from lut.runtimes.timing import Passes, Timing
from lut.runtimes.trtexec import Program
from lut.table import Table, load_table
from lut.targets.local import Local
from lut.targets.ssh import Ssh
from lut.terms import NetworkTerms
from results.errors import DeviceError, TargetError
from supernet.blocks import blocks_of
from supernet.spaces import get_space
from tests import stand_ins
from tests.conftest import ROOT
from tests.sshd import SSHD, Sshd
from tests.synthetic import Machine
from tests.test_trtexec import write_stand_in

SPACE = get_space("tiny")
CPU = str(min(os.sched_getaffinity(0)))
ONNXRUNTIME = Setting("onnxruntime", "fp32", cpus=CPU)


def networks(count):
    return [network_model(SPACE.sample(random.Random(seed))) for seed in range(count)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runtime": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"precision": "fp61"}, "did you mean 'fp16'"),
        ({"runtime": "tensorrt", "precision": "int8"}, "precision of tensorrt 'int8'"),
        ({"runtime": "litert", "provider": "xnpack"}, "did you mean 'xnnpack'"),
        ({"runtime": "pytorch", "provider": "cudagraph"}, "did you mean 'cuda-graph'"),
        ({"runtime": "tensorrt", "provider": "cuda"}, "no providers"),
        ({"runtime": "pytorch", "precision": "fp16"}, "add --provider cuda-graph"),
        ({"runtime": "pytorch", "precision": "int8"}, "precision of pytorch 'int8'"),
        ({"benchmark_model": "/bin/x"}, "runs litert, not onnxruntime"),
    ],
)
def test_settings_that_cannot_be_name_the_nearest(values, words):
    with pytest.raises(DeviceError, match=words) as caught:
        Setting(**{"runtime": "onnxruntime", "precision": "fp32"} | values)
    assert "\n" not in str(caught.value)


class Named(Local):
    """A host of which nothing but its name is asked."""

    def __init__(self, name):
        super().__init__()
        self.name = name


@pytest.mark.parametrize(
    ("name", "setting", "driver"),
    [
        ("local", Setting("onnxruntime", "fp32"), TIMER),
        ("ssh://board", Setting("litert", "fp32", provider="none"), TIMER),
        ("ssh://board", Setting("pytorch", "fp16", provider="cuda"), TIMER),
        ("local", Setting("pytorch", "fp32", provider="compiled"), COMPILING_TIMER),
        ("adb:1", Setting("litert", "fp32"), BY_BENCHMARK_MODEL),
        ("adb:1", Setting("litert", "fp16", provider="gpu"), BY_BENCHMARK_MODEL),
        ("ssh://board", Setting("litert", "fp32", benchmark_model="/b"), BY_BENCHMARK_MODEL),
    ],
)
def test_host_and_runtime_choose_the_driver(name, setting, driver):
    assert driver_of(Named(name), setting) == driver


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("adb:1", Setting("onnxruntime", "fp32"), "--runtime litert"),
        ("adb:1", Setting("litert", "fp32", energy=True), "no energy"),
        ("local", Setting("litert", "fp32", provider="gpu"), "--benchmark-model"),
    ],
)
def test_what_a_host_cannot_do_is_an_error(name, setting, words):
    with pytest.raises(DeviceError, match=words):
        driver_of(Named(name), setting)


def test_a_session_here_gives_a_sample_for_each_repetition():
    models = [replace(networks(1)[0], repeats=3), *networks(3)[1:]]
    setting = Setting("onnxruntime", "fp32", cpus=CPU)
    assert check_host(Local(), setting) == TIMER
    lines = list(run_session(Local(), setting, models, Passes(2, first=4)))
    assert lines[0]["environment"]["cpus"] == [int(CPU)]
    passes = stand_ins.passes_of(lines)
    assert list(passes) == [4, 5]
    assert all(len(us) == 5 and min(us) > 0 for us in passes.values())


@pytest.fixture
def session(tmp_path, monkeypatch):
    """With a stand-in for ONNX Runtime; the lines of a session of models that do as told."""
    path = stand_ins.install(
        tmp_path / "path", onnxruntime=stand_ins.ONNXRUNTIME, numpy=stand_ins.NUMPY
    )
    monkeypatch.setenv("PYTHONPATH", str(path))

    def session(*words, setting=ONNXRUNTIME):
        def write(folder, setting, models):
            stand_ins.write_models(folder, *words)

        monkeypatch.setattr("lut.runtimes.session.write_models", write)
        return list(run_session(Local(), setting, [], Passes(2)))

    return session


def test_a_hung_model_ends_the_session(session, monkeypatch):
    monkeypatch.setattr("lut.runtimes.session.SILENCE_S", 1.5)
    with pytest.raises(TargetError, match=r"nothing from .* for 1\.5 s") as caught:
        session("ok", "hang")
    assert caught.value.transient


def test_a_model_that_kills_the_timer_ends_the_session(session):
    with pytest.raises(TargetError, match="ended by signal 11") as caught:
        session("ok", "die")
    assert not caught.value.transient


def test_what_the_timer_refuses_is_one_line(session):
    setting = replace(ONNXRUNTIME, provider="CPUExecutionProvidr")
    for attempt in (
        lambda: check_host(Local(), setting),
        lambda: session("ok", setting=setting),
    ):
        with pytest.raises(TargetError, match="did you mean 'CPUExecutionProvider'") as caught:
            attempt()
        assert str(caught.value).startswith("local: no provider")


@pytest.mark.parametrize(
    "line",
    [
        "Welcome to the board!",
        "[1, 2]",
        '{"pass": 0, "us": [',
        '{"pass":[0],"us":[1]}',
        '{"pass":0,"us":[NaN]}',
        '{"pass":0,"us":[1e300]}',
        '{"environment":[]}',
        '{"failed":"x","error":1}',
        '{"verdict":"accepted"}',
        "[" * 100_000,
        json.dumps({f"x{i}": i for i in range(5000)}),
    ],
    ids=lambda line: line[:25],
)
def test_an_unreadable_line_is_quoted(line, monkeypatch):
    monkeypatch.setattr(Local, "stream", lambda *arguments, **more: iter([line]))
    with pytest.raises(TargetError, match="local: the timer printed"):
        list(run_session(Local(), ONNXRUNTIME, networks(1), Passes(2)))


class Elsewhere(Local):
    """This machine, with its files to be copied as if to another."""

    def __init__(self, python):
        super().__init__(python=python)
        self.name = "ssh://here"


def isolated(folder):
    """A Python with its packages, but without this project."""
    path = folder / "python"
    site = sysconfig.get_paths()["purelib"]
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    path.chmod(0o755)
    asked = subprocess.run([path, "-c", "import supernet"], cwd=folder, capture_output=True)
    assert b"No module named 'supernet'" in asked.stderr
    return str(path)


def test_elsewhere_gets_all_that_pytorch_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv(
        "GLIBC_TUNABLES", HUGE_PAGES
    )  # or it starts itself again, with site-packages
    host = Elsewhere(isolated(tmp_path))
    setting = Setting("pytorch", "fp32", cpus=CPU)
    lines = list(run_session(host, setting, networks(2), Passes(2)))
    assert all(len(us) == 2 and min(us) > 0 for us in stand_ins.passes_of(lines).values())
    assert len(stand_ins.passes_of(lines)) == 2


def test_only_sources_are_copied(tmp_path):
    _push_packages(Local(), str(tmp_path / "code"))
    found = {path.relative_to(tmp_path / "code") for path in (tmp_path / "code").rglob("*.*")}
    assert Path("supernet/model.py") in found
    assert Path("results/errors.py") in found
    assert {path.suffix for path in found} == {".py"}


WITHOUT_MSGSPEC = """
import sys
there, checkout = sys.argv[1:]
sys.path[:] = [there, *(path for path in sys.path if path != checkout)]
sys.modules["msgspec"] = None  # an import of it fails
import supernet.model
own = [m for name, m in sys.modules.items() if name.split(".")[0] in ("results", "supernet")]
print(*(m.__file__ for m in own if m.__file__), sep="\\n")
"""


def test_what_is_copied_needs_neither_our_checkout_nor_msgspec(tmp_path):
    code = tmp_path / "code"
    _push_packages(Local(), str(code))
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_MSGSPEC, str(code), str(ROOT)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert str(code / "supernet" / "model.py") in files
    assert all(Path(file).is_relative_to(code) for file in files)


@pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH")
def test_a_session_by_ssh(tmp_path):
    server = Sshd(tmp_path)
    host = Ssh("board", ssh_options=server.options, python=sys.executable)
    try:
        setting = Setting("litert", "fp32", cpus=CPU)
        assert check_host(host, setting) == TIMER
        lines = list(run_session(host, setting, networks(2), Passes(2)))
        assert all(len(us) == 2 for us in stand_ins.passes_of(lines).values())
        missing = Ssh("board", ssh_options=server.options, python="python3.99")
        with pytest.raises(TargetError, match=r"no program python3\.99"):
            check_host(missing, setting)
        missing.close()
    finally:
        host.close()
        server.stop()


class Tool:
    """Tells a time by the model's number; refuses some, and loses the host at others."""

    def __init__(self, refuses=(), loses=()):
        self.refuses, self.loses = refuses, loses
        self.calls = []

    def environment(self):
        return {"runtime": "litert"}

    def time(self, model, folder):
        assert Path(model).read_bytes()
        assert Path(model).parent.parent == Path(folder)
        number = int(Path(model).stem)
        self.calls.append(number)
        if number in self.refuses:
            raise TargetError("refused")
        if len(self.calls) in self.loses:
            raise TargetError("lost", transient=True)
        median = 10.0 * number + 10 if number % 2 else None
        return Timing(30, 12.0 * number + 12, 5.0, 1.0, median)


@pytest.fixture
def invoked(tmp_path):
    def invoked(tool, *repeats, **more):
        blocks = blocks_of(SPACE.sample(random.Random(0)))  # quickly written
        models = [Model(blocks, count, eps=10.0**-i) for i, count in enumerate(repeats, start=1)]
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        write_models(folder, Setting("litert", "fp32"), models)
        passes = Passes(**{"count": 3, "seed": 1} | more)
        yield from time_by_invocation(tool, Local(), folder, passes)

    return invoked


def test_an_invocation_is_a_sample_its_median_else_its_mean(invoked):
    tool = Tool(refuses=[2])
    lines = list(invoked(tool, 1, 2, 1, 1))
    assert "environment" in lines[0]
    assert [line for line in lines if "failed" in line] == [{"failed": 2, "error": "refused"}]
    passes = stand_ins.passes_of(lines)
    assert list(passes) == [0, 1, 2]
    assert all(us == [12.0, 20.0, 20.0, None, 40.0] for us in passes.values())
    assert tool.calls.count(2) == 1
    assert tool.calls.count(1) == 6


def test_invocations_are_shuffled_by_seed_and_pass(invoked):
    tools = [Tool() for _ in range(3)]
    list(invoked(tools[0], *[1] * 6))
    list(invoked(tools[1], *[1] * 6, count=1, first=2))
    list(invoked(tools[2], *[1] * 6, seed=2))
    first = [tuple(tools[0].calls[i : i + 6]) for i in (0, 6, 12)]
    assert len(set(first)) == 3
    assert tuple(tools[1].calls) == first[2]
    assert tools[2].calls[:6] != list(first[0])


def test_a_tools_remarks_on_a_model_are_told_once(invoked):
    class Remarking(Tool):
        def time(self, model, folder):
            timing = super().time(model, folder)
            partial = model.endswith("1.tflite")
            return replace(timing, notes=("runs only a part of the graph",) if partial else ())

    lines = [line for line in invoked(Remarking(), 1, 1, 1) if "remark" in line]
    assert lines == [{"remark": 1, "text": "runs only a part of the graph"}]


def test_a_lost_host_ends_the_passes(invoked):
    lines: list[dict[str, Any]] = []
    with pytest.raises(TargetError, match="lost") as caught:
        lines.extend(line for line in invoked(Tool(loses=[8]), 1, 1, 1))
    assert caught.value.transient
    assert list(stand_ins.passes_of(lines)) == [0, 1]


def test_a_phone_that_stays_warm_is_waited_for_once(monkeypatch):
    asked = []

    def time_model(*arguments, below_c, **more):
        asked.append(below_c)
        notes = ("still 90 °C after waiting 300 s for 70 °C",) if len(asked) == 3 else ()
        return Timing(30, 5.0, 5.0, 0.0, 5.0, notes)

    clock = [100.0]
    monkeypatch.setattr("lut.runtimes.invoked.benchmark_model.time_model", time_model)
    monkeypatch.setattr("lut.runtimes.invoked.time.monotonic", lambda: clock[0])
    tool = BenchmarkModel(Local(), "/b", threads=1, cpus="", delegate="xnnpack", fp16=False)
    for seconds in (0, 1, 10, 11, 50, 100):
        clock[0] = 100.0 + seconds
        tool.time("m", "f")
    assert asked == [COOL_C, None, COOL_C, None, None, None]


def test_the_last_cpus_by_default_and_those_that_were_asked_for(tmp_path):
    binary = tmp_path / "benchmark_model"
    with pytest.raises(TargetError, match="name it by --benchmark-model"):
        check_host(Local(), Setting("litert", "fp32", benchmark_model=str(binary)))
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)

    def environment(**more):
        options: dict[str, Any] = {"threads": 1, "cpus": "", "delegate": "gpu", "fp16": False}
        options |= more
        tool = BenchmarkModel(Local(), str(binary), **options)
        return tool.environment(), tool

    found, tool = environment(cpus="4,7")
    assert (found["cpus"], tool._mask, found["provider"]) == ([4, 7], "90", "gpu")
    last = os.sysconf("SC_NPROCESSORS_CONF") - 1
    assert environment()[0]["cpus"] == [last]
    assert environment(threads=512)[0]["cpus"] == list(range(last + 1))
    assert found["version"] == environment()[0]["version"]
    binary.write_text("#!/bin/sh\n# another\n")
    assert environment()[0]["version"] != found["version"]


@pytest.fixture
def trtexec(tmp_path, monkeypatch):
    """Puts TensorRT's tool, a stand-in of some version, on PATH; gives its calls so far."""
    if (
        subprocess.run([sys.executable, "-c", "import tensorrt"], capture_output=True).returncode
        == 0
    ):
        pytest.skip("TensorRT's own package is here")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    calls = tmp_path / "calls"

    def trtexec(version):
        write_stand_in(folder, calls, version=version)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    return trtexec


@pytest.mark.parametrize(
    ("version", "flag"),
    [("100300", "--fp16"), ("101300", "--stronglyTyped"), ("110400", None)],
)
def test_tensorrt_without_its_package_is_timed_by_its_tool(trtexec, version, flag):
    written = trtexec(version)
    setting = Setting("tensorrt", "fp16")
    assert check_host(Local(), setting) == BY_TRTEXEC
    lines = list(run_session(Local(), setting, networks(2), Passes(2)))
    environment = lines[0]["environment"]
    assert (environment["version"], environment["precision_flags"]) == (version, flag or "none")
    found = stand_ins.passes_of(lines)
    assert list(found) == [0, 1]
    assert all(us == pytest.approx([400, 400]) for us in found.values())
    calls = written()
    built = [call for call in calls if "--onnx" in call]
    assert len(built) == 2  # once for both passes
    precision = {"--fp16", "--stronglyTyped"}
    assert all(set(call) & precision == ({flag} if flag else set()) for call in built)
    assert len({call["--timingCacheFile"] for call in built}) == 1
    assert sum("--loadEngine" in call for call in calls) == 4


def test_a_tool_of_no_version_that_knows_no_precision_flag_takes_the_files_types(
    trtexec, monkeypatch
):
    """As trtexec 11 does where neither its banner nor its help can be read."""
    written = trtexec("110400")
    banner = "&&&& RUNNING TensorRT.trtexec"
    monkeypatch.setattr(
        "lut.runtimes.trtexec.ask", lambda host, path, timeout_s: Program(host, path, banner)
    )
    lines = list(run_session(Local(), Setting("tensorrt", "fp16"), networks(2), Passes(1)))
    assert list(stand_ins.passes_of(lines)) == [0]
    assert any("knows no --fp16" in line.get("text", "") for line in lines)
    refused, *built = [call for call in written() if "--onnx" in call]
    assert "--fp16" in refused
    assert len(built) == 2
    assert not any("--fp16" in call for call in built)


def test_tensorrt_nowhere_says_where_it_was_sought(monkeypatch, tmp_path):
    for name in ("sh", "setsid", "head", "cat", "kill", "sleep"):
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="no trtexec"):
        check_host(Local(), Setting("tensorrt", "fp16"))


class Metered(Machine):
    """A machine that takes a fixed power, and a little more at each start."""

    WATTS, START_MJ = 3.0, 0.5

    def __call__(self, host, setting, models, passes, workspace=None):
        yield from super().__call__(host, setting, models, passes, workspace)
        for index, model in enumerate(models):
            if index % 7 == 5:
                continue  # lost with its session
            us = super().us(model.blocks, -1)
            yield {"energy": index, "mj": self.START_MJ + self.WATTS * us / 1e3}


def test_energy_is_a_difference_like_latency(tmp_path, monkeypatch):
    references = references_of(SPACE)
    blocks = distinct(block for arch in references for block in blocks_of(arch))

    def campaign(machine):
        monkeypatch.setattr("lut.measuring.campaign.run_session", machine)
        journal = Journal(tmp_path / JOURNAL)
        return Campaign(machine, Setting("onnxruntime", "fp32"), references, journal, passes=5)

    found = campaign(Metered())
    found.measure(BLOCKS, blocks)
    entries = entries_of(differences(found))
    assert entries_of(differences(campaign(Metered()))) == entries  # from the journal
    told = {block: entry for block, entry in entries.items() if entry.energy_mj is not None}
    assert len(told) > 0.6 * len(entries)
    assert set(told) != set(entries)
    for block, entry in told.items():
        difference = difference_of(block)
        start = 0.5 if difference and not difference.baseline else 0.0
        assert entry.energy_mj == pytest.approx(3.0 * entry.latency_ms + start)
    table = Table("d", "D", "onnxruntime", "fp32", 1, entries, NetworkTerms(), threads=1)
    table.save(tmp_path / "d.csv")
    saved = load_table(tmp_path / "d.csv").entries
    assert {block: saved[block].energy_mj for block in told} == pytest.approx(
        {block: entry.energy_mj for block, entry in told.items()}, rel=1e-4
    )


def test_a_negative_energy_is_no_energy():
    from lut.measuring.assemble import Differences

    blocks = distinct(blocks_of(SPACE.sample(random.Random(0))))[:3]
    ones = dict.fromkeys(blocks, 1.0)
    found = Differences(
        ones, ones, dict.fromkeys(blocks, 5), ones, dict(zip(blocks, (2.0, -0.1), strict=False))
    )
    energies = [entries_of(found)[block].energy_mj for block in blocks]
    assert energies == [2.0, None, None]
