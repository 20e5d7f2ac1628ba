"""The output of TensorFlow Lite's benchmark_model, recorded and broken."""

from pathlib import Path
from typing import Any

import pytest

from lut.runtimes.benchmark_model import Delegate, Invocation, parse, time_model
from lut.runtimes.timing import Timing
from lut.targets.local import Local
from results.errors import TargetError
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "benchmark_model"
UNTOLD = "its output does not tell whether XNNPACK ran"
GOOD = (GOLDEN / "2024_cpu.txt").read_text()
LAST = "count=50 first=106022 curr=105780 min=105416 max=106528 avg=105784 std=260"


@pytest.mark.parametrize(
    ("name", "timing"),
    [
        ("2018_operators", Timing(50, 79732, 77385, 1929, notes=(UNTOLD,))),
        (
            "2021_xnnpack_part",
            Timing(
                50,
                55744.2,
                52522,
                9900,
                notes=("XNNPACK runs only a part of the graph, in 1 kernel(s)",),
            ),
        ),
        (
            "2022_nnapi_part_logcat",
            Timing(
                75,
                12167.6,
                11787,
                325,
                notes=("NNAPI runs only a part of the graph, in 44 kernel(s)",),
            ),
        ),
        ("2024_cpu", Timing(50, 105784, 105416, 260, 105718)),
        ("2024_gpu", Timing(50, 115246, 111842, 1329, 115350)),
        (
            "2025_int4_part",
            Timing(
                24,
                42435.4,
                42142,
                147,
                42405,
                notes=("TfLiteXNNPackDelegate runs only 2136 of 2168 nodes",),
            ),
        ),
    ],
)
def test_reads_the_last_runs_of_every_version(name, timing):
    delegate: Delegate = "gpu" if "gpu" in name else "nnapi" if "nnapi" in name else "xnnpack"
    assert parse((GOLDEN / f"{name}.txt").read_text(), delegate) == timing


CREATED = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
EVIDENCE = {  # of an output, that the delegate ran all nodes
    "xnnpack": [CREATED],
    "gpu": [
        "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by "
        "the delegate.\n"
    ],
    "nnapi": ["VERBOSE: Replacing 60 out of 60 node(s) with delegate (TfLiteNnapiDelegate) node\n"],
    "none": [],
}


def ran(*lines):
    """An output of 2024 with other lines on what ran."""
    assert CREATED in GOOD
    return GOOD.replace(CREATED, "".join(lines))


def replacing(taken, nodes, kernel):
    return (
        f"VERBOSE: Replacing {taken} out of {nodes} node(s) with delegate ({kernel}) node, "
        "yielding 3 partitions for subgraph 0.\n"
    )


@pytest.mark.parametrize(
    ("delegate", "lines", "notes"),
    [
        ("gpu", EVIDENCE["gpu"], ()),
        ("gpu", [replacing(60, 60, "TfLiteGpuDelegateV2")], ()),
        ("gpu", [replacing(31, 31, "LITERT_CL"), CREATED], ()),
        (
            "gpu",
            [
                "Applied GPU delegate, and the model graph will be completely "
                "executed w/ the delegate\n"
            ],
            (),
        ),
        ("gpu", ["Applied GPU delegate.\n"], ("its output does not tell how many nodes GPU runs",)),
        (
            "gpu",
            [replacing(5, 64, "TfLiteGpuDelegateV2"), replacing(59, 62, "TfLiteXNNPackDelegate")],
            (
                "TfLiteGpuDelegateV2 runs only 5 of 64 nodes",
                "TfLiteXNNPackDelegate runs only 59 of 62 nodes",
            ),
        ),
        (
            "gpu",
            [
                "Explicitly applied GPU delegate, and the model graph will be partially "
                "executed by the delegate w/ 7 delegate kernels.\n"
            ],
            ("GPU runs only a part of the graph, in 7 kernel(s)",),
        ),
        (
            "gpu",
            [
                "Applied GPU delegate, and the model graph will be partially "
                "executed w/ the delegate\n"
            ],
            ("GPU runs only a part of the graph",),
        ),
        ("nnapi", EVIDENCE["nnapi"], ()),
        (
            "nnapi",
            ["NNAPI accelerators available: [qti-gpu,nnapi-reference]\n", *EVIDENCE["nnapi"]],
            (),
        ),
        ("xnnpack", ["INFO: Replacing 4 node(s) with delegate (TfLiteXNNPackDelegate) node\n"], ()),
        ("xnnpack", [], (UNTOLD,)),
        ("none", [], ()),
        (
            "none",
            [replacing(0, 60, "TfLiteXNNPackDelegate")],
            ("TfLiteXNNPackDelegate runs only 0 of 60 nodes",),
        ),
    ],
)
def test_the_unit_that_was_asked_for_ran_all_or_a_part(delegate, lines, notes):
    assert parse(ran(*lines), delegate).notes == notes


RESTORED = (
    "ERROR: Node number 31 (TfLiteGpuDelegateV2) failed to prepare.\n",
    "ERROR: Restored original execution plan after delegate application failure.\n",
)
PARTLY = (
    "Explicitly applied GPU delegate, and the model graph will be partially executed by the "
    "delegate w/ 1 delegate kernels.\n"
)


@pytest.mark.parametrize(
    ("delegate", "lines", "told"),
    [
        ("gpu", [CREATED], "does not tell that GPU ran any node"),
        ("gpu", [], "does not tell that GPU ran any node"),
        ("nnapi", EVIDENCE["gpu"], "does not tell that NNAPI ran any node"),
        ("gpu", EVIDENCE["nnapi"], "does not tell that GPU ran any node"),
        ("gpu", [replacing(60, 60, "TfLiteXNNPackDelegate")], "does not tell that GPU"),
        ("gpu", [replacing(0, 60, "TfLiteGpuDelegateV2"), CREATED], "GPU took none of the nodes"),
        ("nnapi", [replacing(0, 9, "TfLiteNnapiDelegate")], "NNAPI took none of the nodes"),
        ("xnnpack", [replacing(0, 60, "TfLiteXNNPackDelegate"), CREATED], "XNNPACK took none"),
        (
            "gpu",
            ["WARNING: [x.cc:153] GPU accelerator could not be loaded and registered.\n"],
            "could not load the GPU accelerator",
        ),
        (
            "nnapi",
            ["NNAPI accelerators available: [nnapi-reference]\n", *EVIDENCE["nnapi"]],
            "reference on the CPU",
        ),
        ("gpu", ["Though GPU delegate is applied, the model graph will not be executed\n"], "GPU"),
        ("gpu", [*RESTORED, *EVIDENCE["gpu"]], "the graph was restored, .*: Node number 31 "),
        ("gpu", [*RESTORED[:1], PARTLY], "the graph was restored"),
        (
            "gpu",
            [*RESTORED[1:], PARTLY],
            "the graph was restored, so that it ran without: Restored",
        ),
        ("gpu", [*EVIDENCE["gpu"], PARTLY, *RESTORED], "the graph was restored"),
        ("nnapi", [RESTORED[0].replace("Gpu", "Nnapi"), *EVIDENCE["nnapi"]], "was restored"),
        ("xnnpack", [CREATED, *RESTORED[1:]], "the graph was restored"),
        ("none", [CREATED], "XNNPACK ran though no delegate was asked for; .*--provider xnnpack"),
        ("none", ["XNNPACK delegate created.\n"], "XNNPACK ran though"),
        ("none", EVIDENCE["gpu"], "GPU ran though no delegate"),
        ("none", [replacing(3, 9, "LITERT_CL")], "LITERT_CL ran though no delegate"),
        (
            "gpu",
            [
                *EVIDENCE["gpu"],
                "WARN: Unconsumed cmdline flags: --gpu_precision_loss_allowed=false "
                "--gpu-precision=fp32\n",
            ],
            "does not know --gpu_precision_loss_allowed=false and --gpu-precision=fp32",
        ),
        ("none", ["WARN: Unconsumed cmdline flags: --use_xnnpack=false\n"], "--use_xnnpack=false"),
        ("nnapi", ["WARN: Unconsumed cmdline flags: --use_nnapi=true\n"], "--use_nnapi=true"),
        (
            "xnnpack",
            [CREATED, "WARN: Unconsumed cmdline flags: --xnnpack_force_fp16=true\n"],
            "--xnnpack_force_fp16=true",
        ),
    ],
)
def test_another_unit_than_was_asked_for_is_an_error(delegate, lines, told):
    with pytest.raises(TargetError, match=told) as caught:
        parse(ran(*lines), delegate)
    assert "\n" not in str(caught.value)


def test_flags_that_a_version_does_not_need_may_be_unknown_to_it():
    cases: list[tuple[str, Delegate]] = [
        ("--gpu_precision_loss_allowed=false", "gpu"),
        ("--gpu-precision=fp32", "gpu"),
        ("--use_xnnpack=true --enable_op_profiling=false", "xnnpack"),
    ]
    for flags, delegate in cases:
        unknown = f"WARN: Unconsumed cmdline flags: {flags}\n"
        assert parse(ran(*EVIDENCE[delegate], unknown), delegate).count == 50


# As LiteRT 2's tool (litert/tools/benchmark_litert_model) prints it, shortened.
LITERT_2 = """\
INFO: STARTING!
INFO: [litert/tools/benchmark_litert_model.cc:137] Loading model from: m.tflite
WARNING: [litert/runtime/accelerators/auto_registration.cc:46] NPU accelerator could not be loaded \
and registered: kLiteRtStatusErrorInvalidArgument.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Running benchmark for at least 3 iterations and at least 0.5 seconds
INFO: count=400 first=2000 curr=1200 min=1150 max=2000 avg=1210.5 std=60 p5=1160 median=1200

INFO: Running benchmark for at least 30 iterations and at least 0.2 seconds
INFO: count=170 first=1210 curr=1190 min=1150 max=1300 avg=1201.25 std=20 p5=1155 median=1199

INFO: [./litert/tools/benchmark_litert_model.h:72]\x20
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:73] Model initialization: 4.20 ms
INFO: [./litert/tools/benchmark_litert_model.h:75] Warmup (first):       2.00 ms
INFO: [./litert/tools/benchmark_litert_model.h:77] Warmup (avg):         1.21 ms (400 runs)
INFO: [./litert/tools/benchmark_litert_model.h:79] Inference (avg):      1.20 ms (170 runs)
INFO: [./litert/tools/benchmark_litert_model.h:83] Inference (min):      1.15 ms
INFO: [./litert/tools/benchmark_litert_model.h:117] ======================================
"""


def test_reads_litert_2():
    assert parse(LITERT_2) == Timing(170, 1201.25, 1150, 20, 1199)
    short = LITERT_2.replace("avg=1201.25", "avg=4.9").replace("min=1150 max=1300", "min=4 max=9")
    short = (
        short.replace("std=20", "std=1")
        .replace("median=1199", "median=5")
        .replace("1.20 ms", "0.00 ms")
    )
    assert parse(short).mean_us == 4.9  # two decimals of a millisecond tell no more
    with pytest.raises(TargetError, match="not that of its last runs"):
        parse(LITERT_2.replace("1.20 ms", "1.30 ms"))
    with pytest.raises(TargetError, match="before its summary"):
        parse(LITERT_2.partition("INFO: [./litert")[0])
    with pytest.raises(TargetError, match="does not tell that GPU"):
        parse(LITERT_2, "gpu")
    on_gpu = LITERT_2.replace("INFO: Running", replacing(60, 60, "LITERT_CL") + "INFO: Running", 1)
    assert parse(on_gpu, "gpu") == Timing(170, 1201.25, 1150, 20, 1199)
    with pytest.raises(TargetError, match="XNNPACK ran though"):
        parse(LITERT_2, "none")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("count=50", "count=" + "9" * 5000),
        ("avg=105784", "avg=" + "9" * 5000),
        ("avg=105784", "avg=" + "x" * 100_000),
        ("count=50 ", "count=50 " + "a=1 " * 100_000),
        ("INFO: The input", replacing("9" * 5000, "9" * 5000, "x" * 5000) + "INFO: The input"),
        ("INFO: Loaded", "ERROR: " + "x" * 1_000_000 + "\nBenchmarking failed\nINFO: Loaded"),
        (LAST, "count=\u0663\u0663 avg=1 min=1"),
    ],
)
def test_outputs_of_any_length_give_a_timing_or_one_short_line(old, new):
    assert old in GOOD
    count = -1 if old == LAST else 1
    try:
        found = str(parse(GOOD.replace(old, new, count)))
    except TargetError as error:
        found = str(error)
    assert len(found) < 2000


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("2021_gpu_unsupported", "the delegate GPU does not run this model"),
        ("2022_xnnpack_failed", "the delegate XNNPACK does not run this model"),
        ("2024_gpu_nnapi_unused", "the delegate NNAPI does not run this model"),
        ("2025_int8_broken", "batch_matmul.cc:353"),
    ],
)
def test_what_was_not_asked_for_is_an_error(name, told):
    with pytest.raises(TargetError, match=told):
        parse((GOLDEN / f"{name}.txt").read_text())


def test_large_means_are_printed_in_powers_of_ten():
    timing = parse(
        "count=1 curr=3512391\n\n"
        "count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798\n\n"
        "Inference timings in us: Init: 17187, First inference: 3512391, "
        "Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06\n"
        "Timings (microseconds): count=1 curr=147\nMemory (bytes): count=0\n"
        "Timings (microseconds): count=50 first=1 curr=1 min=1 max=1 avg=1 std=0\n"  # operators
    )
    assert timing == Timing(50, 2.95034e6, 2727568, 109798, notes=(UNTOLD,))


def test_a_single_run_has_no_spread():
    timing = parse(
        "count=3 first=11 curr=9 min=9 max=11 avg=10 std=1\ncount=1 curr=7000\n"
        "Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 10, "
        "Inference (avg): 7000\n"
    )
    assert timing == Timing(1, 7000, 7000, None, 7000, (UNTOLD,))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (GOOD, "", "no timings in its output; it said nothing"),
        (GOOD, "Segmentation fault\n", "no timings.*last words: Segmentation fault"),
        (GOOD[GOOD.index("INFO: Running benchmark for at least 50") :], "", "before its summary"),
        ("avg=105784", "avg=nan", "not that of its last runs|mean_us is nan"),
        ("avg=105784 ", "", "no avg"),
        ("min=105416 ", "", "no min"),
        ("min=105416", "min=0", "min_us is 0"),
        ("min=105416", "min=-1", "min_us is -1"),
        ("min=105416", "min=205416", "above its mean"),
        ("min=105416", "min=1e5o", "'1e5o' in its timings is no number"),
        ("std=260", "std=-260", "std_us is -260"),
        ("count=50", "count=0", "a timing of 0 runs"),
        ("count=50", "count=5O", "a count of 5O"),
        ("median=105718", "median=inf", "median_us is inf"),
        ("median=105718", "median=900000", "its median of 900000 us is not between min=105416 and"),
        ("median=105718", "median=900", "median"),
        ("max=106528", "max=105500", "its avg of 105784 us is not between min=105416 and max=1055"),
        ("max=106528", "max=6", "its avg of 105784 us is not between"),
        ("std=260", "std=90000", "its std of 90000 us is none of runs between"),
        ("Inference (avg): 105784", "Inference (avg): 80000", "not that of its last runs"),
        (LAST, LAST[:40], "no avg"),
    ],
)
def test_garbage_is_no_time(old, new, told):
    assert old in GOOD
    with pytest.raises(TargetError, match=told) as caught:
        parse(GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


def test_nan_throughout_is_no_time():
    with pytest.raises(TargetError, match="mean_us is nan"):
        parse(GOOD.replace("105784", "nan"))
    with pytest.raises(TargetError, match="mean_us is 0"):
        parse(GOOD.replace("105784", "0").replace("105416", "0"))


@pytest.fixture
def binary(tmp_path):
    """A stand-in on this machine: notes its arguments, then does as told."""

    def binary(body):
        path = tmp_path / "a tool" / "benchmark_model"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{tmp_path}/args'\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return binary


def measure(binary, **changes):
    settings: dict[str, Any] = {
        "threads": 2,
        "runs": 50,
        "warmup_runs": 10,
        "min_secs": 1,
        "max_secs": 20.5,
        "timeout_s": 30,
    }
    invocation = Invocation(**(settings | changes))
    return time_model(Local(), binary, "/m/b $(c)'s.tflite", invocation)


COMMON = [
    "--graph=/m/b $(c)'s.tflite",
    "--num_threads=2",
    "--warmup_runs=10",
    "--num_runs=50",
    "--min_secs=1",
    "--max_secs=20.5",
]
LAST_FLAGS = ["--enable_op_profiling=false", "--report_peak_memory_footprint=false"]


@pytest.mark.parametrize(
    ("delegate", "fp16", "flags"),
    [
        ("xnnpack", False, ["--use_xnnpack=true"]),
        ("xnnpack", True, ["--use_xnnpack=true", "--xnnpack_force_fp16=true"]),
        (
            "gpu",
            False,
            ["--use_gpu=true", "--gpu_precision_loss_allowed=false", "--gpu-precision=fp32"],
        ),
        (
            "gpu",
            True,
            ["--use_gpu=true", "--gpu_precision_loss_allowed=true", "--gpu-precision=fp16"],
        ),
        ("nnapi", True, ["--use_nnapi=true", "--nnapi_allow_fp16=true"]),
        ("none", False, ["--use_xnnpack=false"]),
    ],
)
def test_passes_the_documented_flags(binary, tmp_path, delegate, fp16, flags):
    log = tmp_path / "log.txt"
    log.write_text(ran(*EVIDENCE[delegate]))
    timing = measure(binary(f"cat '{log}'"), delegate=delegate, fp16=fp16)
    assert timing == Timing(50, 105784, 105416, 260, 105718)
    assert (tmp_path / "args").read_text().splitlines() == [*COMMON, *flags, *LAST_FLAGS]


def test_a_mask_pins_the_process(binary, tmp_path):
    tool = binary(
        f"grep Cpus_allowed: /proc/self/status > '{tmp_path}/mask'\ncat '{GOLDEN}/2024_cpu.txt'"
    )
    measure(tool, cpu_mask="0x1")
    assert int((tmp_path / "mask").read_text().split()[1].replace(",", ""), 16) == 1
    for mask in ("0", "cpu7", "-a", "1 2"):
        with pytest.raises(TargetError, match="no CPU mask"):
            measure(tool, cpu_mask=mask)


def test_a_run_cut_short_is_noted(binary):
    tool = binary(f"cat '{GOLDEN}/2025_int4_part.txt' >&2")
    assert measure(tool).notes[-1] == "24 of 50 runs within 20.5 s"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (f"cat '{GOLDEN}/2022_xnnpack_failed.txt'; exit 1", "the delegate XNNPACK does not run"),
        (f"cat '{GOLDEN}/2024_cpu.txt'; exit 1", "exit status 1"),
        ("echo 'ERROR: Could not open file' >&2; exit 1", "Could not open file"),
        ("kill -SEGV $$", "no timings"),
        ("exit 127", "cannot run"),
    ],
)
def test_a_failure_names_host_model_and_reason(binary, body, told):
    with pytest.raises(TargetError, match=told) as caught:
        measure(binary(body))
    assert str(caught.value).startswith("local: benchmark_model of b $(c)'s.tflite: ")
    assert "\n" not in str(caught.value)


def test_a_missing_binary_and_a_hung_one(binary, tmp_path):
    with pytest.raises(TargetError, match=r"cannot run .*/nothing"):
        measure(str(tmp_path / "nothing"))
    with pytest.raises(TargetError, match=r"for 0\.5 s") as caught:
        measure(binary("sleep 60"), timeout_s=0.5)
    assert caught.value.transient


def test_the_golden_files_are_all_read():
    used = Path(__file__).read_text()
    assert all(path.stem in used for path in GOLDEN.glob("*.txt"))
