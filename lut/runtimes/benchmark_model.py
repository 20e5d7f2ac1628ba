"""TensorFlow Lite's `benchmark_model`: one model per invocation, on phones and any Linux.

Flags and output: https://github.com/tensorflow/tensorflow/tree/master/tensorflow/lite/tools/benchmark
The tool ends well in many ways that time something else than what was asked: a delegate that
took no node, a platform without the delegate, a run cut short. Those are errors here; a graph of
which a part runs elsewhere is a note.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

from lut.runtimes.timing import Timing
from lut.targets.host import Host, run_merged, wait_until_cool
from results.errors import TargetError

Delegate = Literal["xnnpack", "gpu", "nnapi", "none"]

CURE = "time it with another delegate, or with none"
# Of the delegate, then of the lines that mean it was not what ran.
_FAILED = re.compile(r"failed to apply (\w+) delegate|(\w+) acceleration is unsupported", re.I)
_UNUSED = re.compile(r"Though (\w+) delegate is explicitly applied, the model graph will not be")
_PARTIAL = re.compile(r"applied (\w+) delegate, and the model graph will be partially.*?w/ (\d+)")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)")
_UNSUPPORTED = re.compile(r"operations are not supported by (\w+) delegate")
_ERROR = re.compile(r"\bERROR: (.*)|^(?:.* E tflite *: )(.*)")
_BROKEN = re.compile(r"Benchmarking failed|Failed to (?:mmap|allocate|initialize|invoke)", re.I)
# A line of a log, whatever its prefix ("INFO: ", a logcat stamp), that reports a series of runs.
_SERIES = re.compile(r"(?:^|: )(?P<operators>Timings \(microseconds\): )?count=(?P<rest>\S+.*)$")
_SUMMARY = re.compile(
    r"(?P<new>Inference timings in us: .*Inference \(avg\): (?P<mean>\S+))"
    r"|Average inference timings in us: .*no stats: (?P<old>\S+)"
)


def time_model(
    host: Host,
    binary: str,
    model_path: str,
    *,
    threads: int,
    cpu_mask: str | None = None,
    delegate: Delegate = "xnnpack",
    fp16: bool = False,
    runs: int,
    warmup_runs: int,
    min_secs: float,
    max_secs: float,
    timeout_s: float,
    below_c: float | None = None,
) -> Timing:
    """Time one model by `binary`, both being paths on the host.

    Args:
        cpu_mask: hexadecimal, for taskset: "80" is the prime core of a Snapdragon 8 Gen 1.
        fp16: computes in half precision what the model has in single.
        runs, warmup_runs, min_secs, max_secs: as the tool's: at least so many runs and seconds,
            but no more than max_secs.
        below_c: waits first until the processor is cooler, a few minutes at most.

    Raises TargetError where the host fails, or the tool, or the delegate that was asked for.
    """
    warm = wait_until_cool(host, below_c=below_c) if below_c is not None else None
    command = [
        *(["taskset", check_mask(cpu_mask)] if cpu_mask else []),
        binary,
        f"--graph={model_path}",
        f"--num_threads={threads}",
        f"--warmup_runs={warmup_runs}",
        f"--num_runs={runs}",
        f"--min_secs={min_secs:g}",
        f"--max_secs={max_secs:g}",
        *delegate_flags(delegate, fp16),
        "--enable_op_profiling=false",  # perturbs the times
        "--report_peak_memory_footprint=false",
    ]
    status, output = run_merged(host, command, timeout_s=timeout_s)
    try:
        if status in (126, 127):
            raise TargetError(f"cannot run {binary}: {_reason(output)}")
        timing = parse(output)
        if status:
            raise TargetError(f"exit status {status}: {_reason(output)}")
    except TargetError as error:
        model = PurePosixPath(model_path).name
        message = f"{host.name}: benchmark_model of {model}: {error}"
        raise TargetError(message, transient=error.transient) from None
    notes = list(timing.notes)
    if timing.count < runs:
        notes.append(f"{timing.count} of {runs} runs within {max_secs:g} s")
    if warm:
        notes.append(warm)
    return Timing(
        timing.count, timing.mean_us, timing.min_us, timing.std_us, timing.median_us, tuple(notes)
    )


def delegate_flags(delegate: Delegate, fp16: bool) -> list[str]:
    """All are said, as builds differ in their defaults: GPUs compute in fp16 unless told."""
    told = str(fp16).lower()
    match delegate:
        case "xnnpack":
            return ["--use_xnnpack=true", *(["--xnnpack_force_fp16=true"] if fp16 else [])]
        case "gpu":
            return ["--use_gpu=true", f"--gpu_precision_loss_allowed={told}"]
        case "nnapi":
            return ["--use_nnapi=true", f"--nnapi_allow_fp16={told}"]
        case "none":
            return ["--use_xnnpack=false", *(["--allow_fp16=true"] if fp16 else [])]


def check_mask(cpu_mask: str) -> str:
    """A mask as taskset takes it. Raises TargetError."""
    digits = cpu_mask.lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]+", digits) or not int(digits, 16):
        raise TargetError(
            f"no CPU mask {cpu_mask!r}; it is hexadecimal, a bit for a core: 80 for core 7"
        )
    return digits


def parse(output: str) -> Timing:
    """The tool's output, of any version since 2018, standard error included.

    The last series of runs counts: before it come the warm-up's, and after it, with profiling,
    only those of the operators. Raises TargetError where the delegate was not what ran, where
    the run was cut short, or its numbers are no times.
    """
    if match := _FAILED.search(output) or _UNUSED.search(output):
        name = next(group for group in match.groups() if group)
        raise TargetError(f"the delegate {name} does not run this model; {CURE}")
    if _BROKEN.search(output):
        raise TargetError(_reason(output))
    lines = [line.strip() for line in output.splitlines()]
    series = [m for line in lines if "(bytes)" not in line and (m := _SERIES.search(line))]
    own = [match for match in series if not match["operators"]] or series
    if not own:
        raise TargetError(f"no timings in its output; {_reason(output)}")
    summary = next(filter(None, map(_SUMMARY.search, reversed(lines))), None)
    if summary is None and not own[-1]["operators"]:
        raise TargetError(f"it ended before its summary; {_reason(output)}")
    timing = _read_series(own[-1]["rest"], _notes(output))
    if summary is not None:
        mean = _number(summary["mean"] or summary["old"])
        # The oldest version's summary is of the runs without profiling.
        if abs(mean - timing.mean_us) > (1e-3 if summary["new"] else 0.5) * timing.mean_us:
            raise TargetError(
                f"its summary of {mean:g} us is not that of its last runs, {timing.mean_us:g} us"
            )
    return timing


def _read_series(text: str, notes: tuple[str, ...]) -> Timing:
    """Of `50 first=9 curr=9 min=8 max=10 avg=9 std=1 p5=8 median=9 p95=10`, or `1 curr=9`."""
    count, *pairs = text.split()
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if not count.isdecimal():
        raise TargetError(f"a count of {count} in its output")
    if "avg" not in found and count == "1" and "curr" in found:
        only = _number(found["curr"])
        return Timing(1, only, only, None, only, notes)
    for name in ("avg", "min"):
        if name not in found:
            raise TargetError(f"no {name} in its timings: count={text}")
    return Timing(
        int(count),
        _number(found["avg"]),
        _number(found["min"]),
        _number(found["std"]) if "std" in found else None,
        _number(found["median"]) if "median" in found else None,
        notes,
    )


def _number(text: str) -> float:
    try:
        return float(text.rstrip(","))
    except ValueError:
        raise TargetError(f"{text!r} in its timings is no number") from None


def _notes(output: str) -> tuple[str, ...]:
    notes = []
    for name, kernels in _PARTIAL.findall(output):
        notes.append(f"{name} runs only a part of the graph, in {kernels} kernel(s)")
    for taken, nodes, name in _REPLACED.findall(output):
        if taken != nodes:
            notes.append(f"{name} runs only {taken} of {nodes} nodes")
    for name in _UNSUPPORTED.findall(output):
        notes.append(f"{name} does not support all operations")
    return tuple(dict.fromkeys(notes))


def _reason(output: str) -> str:
    """The first error that the tool reports, else its last words."""
    for line in output.splitlines():
        if (match := _ERROR.search(line)) and not _BROKEN.fullmatch(match[1] or match[2] or ""):
            return str(match[1] or match[2]).strip()
    said = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in said if not line.startswith("Benchmarking failed")] or said
    return f"its last words: {said[-1]}" if said else "it said nothing"
