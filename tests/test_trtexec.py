"""TensorRT's trtexec: its recorded logs, and calls of a stand-in that takes them to the letter."""

import json
import statistics
import sys

import pytest

from lut.runtimes.timing import Timing
from lut.runtimes.trtexec import Program, ask, build_engine, find_trtexec, parse, time_engine
from lut.targets.local import Local
from results.errors import TargetError
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "trtexec"
FROM_LOG = "from the log: it exported no times"
FAILED_CAPTURE = (
    "[W] The CUDA graph capture on the stream has failed.\n"
    "[W] The built TensorRT engine contains operations that are not permitted under CUDA graph "
    "capture mode.\n[W] The specified --useCudaGraph flag has been ignored. The inference will be "
    "launched without using CUDA graph launch.\n"
)


def exported(latencies_ms, *, first_ms=500.0, enqueue_ms=0.01, **changes):
    """The file of --exportTimes, spelt as trtexec 8 does."""
    lines: list[str] = []
    at = first_ms
    for latency_ms in latencies_ms:
        record = {
            "startEnqMs": at,
            "endEnqMs": at + enqueue_ms,
            "startComputeMs": at,
            "endComputeMs": at + latency_ms,
            "computeMs": latency_ms,
            "latencyMs": latency_ms,
        } | changes
        fields = ", ".join(f'"{name}" : {value}' for name, value in record.items())
        lines.append(f"{', ' if lines else '  '}{{ {fields} }}")
        at += latency_ms
    return "[\n" + "\n".join(lines) + "\n]\n"


@pytest.mark.parametrize(
    ("name", "timing"),
    [
        ("7", Timing(1, 4523.98, 4344.42, None, 4499.51, (FROM_LOG,))),
        ("8_2_graph", Timing(1, 2094.67, 2056.15, None, 2082.76, (FROM_LOG,))),
        ("8_4_enqueue", Timing(1, 4545.66, 4511.23, 135.02883, 4527.56, (FROM_LOG,))),
        ("10", Timing(1, 949.318, 942.49, None, 948.975, (FROM_LOG,))),
    ],
)
def test_reads_the_log_of_every_version(name, timing):
    found = parse((GOLDEN / f"{name}.txt").read_text())
    assert (found.count, found.notes) == (timing.count, timing.notes)
    for field in ("mean_us", "min_us", "median_us"):
        assert getattr(found, field) == pytest.approx(getattr(timing, field)), field
    assert found.std_us == (timing.std_us and pytest.approx(timing.std_us))


def test_the_log_tells_how_many_runs():
    log = "[I] Timing trace has 1234 queries over 3.0 s\n" + (GOLDEN / "10.txt").read_text()
    assert parse(log).count == 1234


def test_exported_times_are_taken_before_the_log():
    times_ms = [0.5, 0.7, 0.6, 0.9]
    timing = parse((GOLDEN / "10.txt").read_text(), exported(times_ms))
    assert timing.count == 4
    assert timing.samples_us == pytest.approx([500, 700, 600, 900])
    assert timing.mean_us == pytest.approx(675)
    assert timing.min_us == pytest.approx(500)
    assert timing.median_us == pytest.approx(650)
    assert timing.std_us == pytest.approx(1e3 * statistics.stdev(times_ms))
    assert timing.notes == ()


def test_the_warm_up_that_old_versions_export_does_not_count():
    text = exported([100.0] * 5 + [2.0] * 3, first_ms=0.0)
    assert parse("", text).samples_us == pytest.approx([2000] * 3)
    with pytest.raises(TargetError, match="no run after the warm-up"):
        parse("", exported([1.0] * 5, first_ms=0.0))


def test_a_failed_capture_and_a_launch_bound_network_are_noted():
    text = exported([0.2, 0.2], enqueue_ms=0.35)
    assert parse(FAILED_CAPTURE, text).notes == (
        "without a CUDA graph: its capture failed",
        "launch-bound: 350 us to enqueue, 200 to compute",
    )
    log = (GOLDEN / "8_4_enqueue.txt").read_text()
    bound = log.replace("median = 4.16818 ms", "median = 9 ms")
    assert parse(bound).notes[0] == "launch-bound: 9000 us to enqueue, 4252 to compute"


@pytest.mark.parametrize(
    ("log", "times", "told"),
    [
        ("", "", "exported no times, and its log has no latency"),
        ("nothing of use", "", "exported no times"),
        ("", "[ {", "its exported times: not JSON"),
        ("", exported([0.5, 0.6])[:-40], "its exported times: not JSON"),
        ("", '{"a": 1}', "of another layout"),
        ("", "[1, 2]", "of another layout"),
        ("", "[null]", "of another layout"),
        ("", "[" * 100_000, "of another layout"),
        ("", exported([0.5], startComputeMs='"x"'), "of another layout"),
        ("", exported([0.5], startEnqMs="[1]"), "of another layout"),
        ("", exported([0.5], computeMs="true"), "of another layout"),
        ("", exported([0.5], latencyMs="1e300"), "of another layout"),
        ("", exported([0.5], latencyMs="1" + "0" * 400), "of another layout|not JSON"),
        ("", exported([0.5], latencyMs="null", computeMs="null"), "a latency of None"),
        ("", "[]", "no run after the warm-up"),
        ("", exported([0.0]), "a latency of 0"),
        ("", exported([0.5], latencyMs=-1), "of another layout"),
        ("", exported([0.5], latencyMs="NaN"), "not JSON"),
        ("", exported([0.5], latencyMs='"x"'), "of another layout"),
        ("[I] Timing trace has " + "9" * 5000 + " queries", "", "has no latency"),
        ("[I] Latency: min = " + "x" * 9999 + " ms, max = 1 ms, mean = 1 ms", "", "no numbers"),
        ("[I] Latency: min = nan ms, max = 1 ms, mean = nan ms, median = 1 ms", "", "is nan"),
        ("[I] Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms", "", "is 0|is nan"),
        ("[I] Latency: min = x ms, max = 1 ms, mean = 1 ms, median = 1 ms", "", "no numbers"),
    ],
)
def test_garbage_is_no_time(log, times, told):
    with pytest.raises(TargetError, match=told) as caught:
        parse(log, times)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# Knows the flags of two kinds of call, and refuses all others.
# Those of precision as its version does, see the documents on migrating from 10.x to 11.x.
STAND_IN = """#!{python}
import json, os, sys
flags = dict((argument.split("=", 1) + [None])[:2] for argument in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec", *sys.argv[1:])
if "--help" in flags:
    print({help!r})
    sys.exit(0)
with open({calls!r}, "a") as file:
    file.write(json.dumps(flags) + "\\n")
def fail(why):
    print("[E] Error[1]:", why, file=sys.stderr)
    print("&&&& FAILED TensorRT.trtexec [TensorRT v{version}]")
    sys.exit(1)
if "--onnx" in flags:
    wanted = {{"--onnx", "--saveEngine", "--timingCacheFile"}}
    old = {version} < 8600
    wanted |= {{"--buildOnly"}} if old else {{"--builderOptimizationLevel", "--skipInference"}}
    known = {{"--stronglyTyped"}} if {version} >= 86000 or 8601 <= {version} < 9999 else set()
    if {version} < 110000:
        known |= {{"--fp16", "--int8"}}
    if set(flags) - known != wanted:
        fail("Unknown option: " + " ".join(sorted(set(flags) - known ^ wanted)))
    if not os.path.isfile(flags["--onnx"]):
        fail("Could not open file " + flags["--onnx"])
    print({build_log!r})
    for path in (flags["--saveEngine"], flags["--timingCacheFile"]):
        open(path, "w").write("plan")
else:
    wanted = {{"--loadEngine", "--warmUp", "--avgRuns", "--iterations", "--duration",
              "--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--exportTimes"}}
    if set(flags) != wanted:
        fail("Unknown option: " + " ".join(sorted(set(flags) ^ wanted)))
    if open(flags["--loadEngine"]).read() != "plan":
        fail("no engine")
    print(open({log!r}).read())
    if {export}:
        runs, warm = int(flags["--iterations"]), float(flags["--warmUp"])
        at = [warm + 0.5 * i for i in range(runs)]
        records = [dict(startEnqMs=t, endEnqMs=t + 0.01, startComputeMs=t, computeMs=0.4,
                        latencyMs=0.4) for t in [0.0, *at]]
        open(flags["--exportTimes"], "w").write(json.dumps(records))
print("&&&& PASSED TensorRT.trtexec [TensorRT v{version}]")
"""


def write_stand_in(folder, calls, *, export=True, version="100300", help="", build_log=""):
    """trtexec in `folder`, which notes its flags in the file `calls`."""
    text = STAND_IN.format(
        python=sys.executable,
        calls=str(calls),
        log=str(GOLDEN / "10.txt"),
        export=export,
        version=version,
        help=help,
        build_log=build_log,
    )
    (folder / "trtexec").write_text(text)
    (folder / "trtexec").chmod(0o755)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts the stand-in on PATH; returns a function that gives the calls so far."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    calls = tmp_path / "calls"

    def install(**more):
        write_stand_in(folder, calls, **more)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    return install


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "a $(b)'s.onnx"
    path.write_text("onnx")
    return path


def measure(model, precision="fp16"):
    """Build an engine and time it, as `lut.runtimes.invoked.Trtexec` does."""
    host = Local()
    program = ask(host, find_trtexec(host), 30)
    engine = str(model.with_suffix(".plan"))
    build_engine(
        program,
        str(model),
        engine,
        flags=program.precision_flags(precision),
        timing_cache=str(model.parent / "timing.cache"),
        timeout_s=30,
    )
    return time_engine(program, engine, runs=30, timeout_s=30)


@pytest.mark.parametrize(
    ("version", "precision", "flag"),
    [
        ("100300", "fp32", None),
        ("100300", "fp16", "--fp16"),
        ("100300", "int8", "--int8"),
        ("7203", "fp16", "--fp16"),
        ("8601", "fp16", "--fp16"),
        ("101100", "fp16", "--fp16"),
        ("101200", "fp16", "--stronglyTyped"),
        ("101303", "fp32", "--stronglyTyped"),
        ("110000", "fp16", None),
        ("110400", "fp32", None),
        ("120100", "fp16", None),
    ],
)
def test_builds_then_times_with_the_documented_flags(tool, model, version, precision, flag):
    calls = tool(version=version)
    timing = measure(model, precision)
    assert timing.count == 30  # the run in the warm-up left out
    assert timing.median_us == pytest.approx(400)
    assert timing.notes == ()
    build, run = calls()
    engine = str(model.with_suffix(".plan"))
    building = {"--builderOptimizationLevel": "3", "--skipInference": None}
    if version == "7203":
        building = {"--buildOnly": None}
    assert (
        build
        == {
            "--onnx": str(model),
            "--saveEngine": engine,
            "--timingCacheFile": str(model.parent / "timing.cache"),
        }
        | dict.fromkeys([flag] if flag else [])
        | building
    )
    assert run == {
        "--loadEngine": engine,
        "--warmUp": "500",
        "--avgRuns": "30",
        "--iterations": "30",
        "--duration": "0",
        "--noDataTransfers": None,
        "--useCudaGraph": None,
        "--useSpinWait": None,
        "--exportTimes": f"{engine}.times.json",
    }


@pytest.mark.parametrize(
    ("told", "flags"),
    [
        ("", ["--fp16"]),
        ("usage: --onnx=<file> --fp16 --best", ["--fp16"]),
        ("usage: --onnx=<file> --stronglyTyped", []),
        ("[TensorRT v" + "9" * 5000 + "]", ["--fp16"]),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110400] [b27] # trtexec --help", []),
    ],
)
def test_without_a_version_the_listed_flags_decide(told, flags):
    assert Program(Local(), "trtexec", told).precision_flags("fp16") == flags


@pytest.mark.parametrize(
    ("number", "version"),
    [
        ("7203", (7, 2)),
        ("8401", (8, 4)),
        ("8601", (8, 6)),
        ("100300", (10, 3)),
        ("101200", (10, 12)),
        ("110400", (11, 4)),
    ],
)
def test_versions_as_the_banner_writes_them(number, version):
    banner = f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # x"
    assert Program(Local(), "trtexec", banner).version() == version
    assert Program(Local(), "trtexec", banner).number() == number


# The flags of a build in its help, as versions list them.
BUILDS = {
    "8.5": "--onnx=<file> --fp16 --saveEngine=<file> --timingCacheFile=<file> --buildOnly",
    "8.6": "--onnx=<file> --fp16 --builderOptimizationLevel --skipInference --buildOnly",
    "none of them": "--onnx=<file> --saveEngine=<file>",
}
NEW = ["--builderOptimizationLevel=3", "--skipInference"]


@pytest.mark.parametrize(
    ("told", "flags"),
    [
        (BUILDS["8.5"], ["--buildOnly"]),
        (BUILDS["8.6"], NEW),
        (f"[TensorRT v8601] {BUILDS['8.5']}", ["--buildOnly"]),  # the list, not the version
        (BUILDS["none of them"], []),
        ("[TensorRT v8502]", ["--buildOnly"]),
        ("[TensorRT v8601] # trtexec --help", NEW),
        ("", NEW),
        ("no such option: --buildOnly", NEW),
    ],
)
def test_a_build_has_the_flags_that_the_tool_knows(told, flags):
    assert Program(Local(), "trtexec", told).building_flags() == flags


def test_an_engine_is_built_by_jetpack_5(tool, model):
    """Its trtexec, of TensorRT 8.5, refuses the flags of later ones."""
    calls = tool(version="8502", help=BUILDS["8.5"])
    assert measure(model).count == 30
    assert set(calls()[0]) == {
        "--onnx", "--fp16", "--saveEngine", "--timingCacheFile", "--buildOnly",
    }  # fmt: skip


SLOW = (
    "[11/30/2026-10:00:00] [W] [TRT] {} support requested on hardware without native FP16 support, "
    "performance will be negatively affected."
)


@pytest.mark.parametrize(
    "log", [SLOW.format("FP16"), SLOW.format("Half2"), "[11/30/2026-10:00:00] [I] Precision: FP32"]
)
def test_an_engine_that_was_built_in_fp32_is_none_in_fp16(tool, model, log):
    tool(build_log=log)
    with pytest.raises(TargetError, match=r"no fast fp16.*--precision fp32"):
        measure(model)
    assert measure(model, precision="fp32").count == 30
    tool(build_log="[11/30/2026-10:00:00] [I] Precision: FP32+FP16")
    assert measure(model).count == 30
    tool(build_log="[11/30/2026-10:00:00] [I] Precision: FP32", version="101200")
    assert measure(model).count == 30  # by the types of the file


def test_takes_the_log_where_no_times_are_exported(tool, model):
    tool(export=False)
    timing = measure(model)
    assert timing.median_us == pytest.approx(948.975)
    assert timing.notes == (FROM_LOG,)


def test_a_failure_names_host_model_and_reason(tool, model):
    tool()
    model.unlink()
    with pytest.raises(TargetError, match=r"local: trtexec, building .*: Could not open file"):
        measure(model)
    with pytest.raises(TargetError, match="did you mean 'fp16'"):
        measure(model, precision="fp61")


def test_a_missing_tool_says_where_it_was_sought(monkeypatch, tmp_path):
    for name in ("sh", "setsid", "head", "cat", "kill", "sleep"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="no trtexec, in PATH or at /usr/src/tensorrt"):
        find_trtexec(Local())
