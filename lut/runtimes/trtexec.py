"""TensorRT's `trtexec`: builds an engine of an ONNX model, then times it, in two invocations.

Building and timing are apart so that the tactics of one do not warm the other, and so that the
timing cache makes the next build fast. Transfers to and from the GPU are not timed: they belong
to the network, not to its blocks. https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec

Precision: up to version 10.11, JetPack's among them, --fp16 permits what the GPU may not have, so
the log is looked at. From 10.12 on networks have the types of their ONNX files, by --stronglyTyped
in version 10, in 11 always: there is no --fp16 any more. Our fp16 files are typed, with float32
where sums need it.
"""

import contextlib
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import PurePosixPath

from lut.runtimes.timing import Timing
from lut.targets.host import Host, run_merged
from results.errors import TargetError, check_choice, shortened
from results.reading import NotNegative, Record, parse_json

PRECISIONS = ("fp32", "fp16", "int8")
TYPED_FROM, ALWAYS_TYPED_FROM = (10, 12), (11, 0)
Version = tuple[int, int]
WARMUP_MS = 500
AVERAGE_RUNS = 500
JETSON = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it, outside of PATH

_CAPTURE_FAILED = re.compile(r"CUDA graph capture .*failed|--useCudaGraph flag has been ignored")
_NUMBERS = r"min = (?P<min>\S+) ms, max = \S+ ms, mean = (?P<mean>\S+) ms"
_LINE = r"(?:^|\] |\s){}: " + _NUMBERS + r"(?:, median = (?P<median>\S+) ms)?"
_SECTION = (  # up to version 7: a title, then a line for each
    r"(?:^|\] ){}\s*\n.*?min: (?P<min>\S+) ms.*\n.*?max: .*\n(?:.*?mean: (?P<mean>\S+) ms.*\n)?"
    r".*?median: (?P<median>\S+) ms"
)
_QUERIES = re.compile(r"Timing trace has (\d{1,9}) queries")
_VARIATION = re.compile(r"coefficient of variance = (\d{1,9}(?:\.\d{1,9})?)%")
_VERSION = re.compile(r"\[TensorRT v(\d{4,7})\]")
_SLOW_HALF = re.compile(r"(?:FP16|Half2) support requested on hardware without native FP16", re.I)
_PRECISION = re.compile(r"\] Precision: ([\w+]{1,80})")
_ERROR = re.compile(r"\[E\] (.*)")


class Run(Record, frozen=True, kw_only=True):
    """One run of the file of --exportTimes, milliseconds; versions differ in what they tell."""

    startComputeMs: NotNegative = math.inf  # noqa: N815
    latencyMs: NotNegative | None = None  # noqa: N815
    computeMs: NotNegative | None = None  # noqa: N815
    startEnqMs: NotNegative | None = None  # noqa: N815
    endEnqMs: NotNegative | None = None  # noqa: N815


def find_trtexec(host: Host) -> str:
    """Where the host has it. Raises TargetError with the cure."""
    script = 'command -v trtexec || { [ -x "$1" ] && echo "$1"; } || echo none'
    found = host.run(["sh", "-c", script, "sh", JETSON], timeout_s=30).strip()
    if found == "none":
        raise TargetError(
            f"{host.name}: there is no trtexec, in PATH or at {JETSON}; install TensorRT there"
        )
    return found


def read_version(told: str) -> Version | None:
    """Return the version of which the tool's first lines tell; None where they do not.

    >>> read_version("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help")
    (8, 6)
    """
    match = _VERSION.search(told)
    if match is None:
        return None
    number = int(match[1])  # 8601 is 8.6.1, 101200 is 10.12.0
    unit = 100 if number >= 100_000 else 10
    return number // (1000 if unit == 10 else 10_000), number // 100 % unit


def ask(host: Host, trtexec: str, timeout_s: float) -> str:
    """What the tool tells of itself: its version, then its flags."""
    script = '"$1" --help 2>&1 | head -c 200000; true'
    return host.run(["sh", "-c", script, "sh", trtexec], timeout_s=timeout_s)


def precision_flags(precision: str, told: str) -> list[str]:
    """Flags with which the engine has this precision; `told`: see `ask`.

    Where no version is told, the listed flags decide. Raises TargetError for another precision.
    """
    check_choice("precision", precision, PRECISIONS, TargetError)
    version = read_version(told)
    if version is None and "--onnx" in told:  # a list of flags, and no error
        version = (10, 0) if "--fp16" in told else (11, 0)
    if version is not None and version >= ALWAYS_TYPED_FROM:
        return []
    if version is not None and version >= TYPED_FROM:
        return ["--stronglyTyped"]
    return [] if precision == "fp32" else [f"--{precision}"]


def time_model(
    host: Host,
    trtexec: str,
    onnx_path: str,
    *,
    folder: str,
    precision: str,
    runs: int = AVERAGE_RUNS,
    optimization_level: int = 3,
    timeout_s: float,
) -> Timing:
    """Build an engine of a model and time it; all paths are on the host.

    Args:
        folder: takes the engine, which is removed again, and the timing cache, which stays.
        timeout_s: for the build and again for the timing.

    Raises TargetError where the host or the tool fails.
    """
    engine = f"{folder}/{PurePosixPath(onnx_path).stem}.plan"
    flags = precision_flags(precision, ask(host, trtexec, timeout_s))
    build_engine(
        host,
        trtexec,
        onnx_path,
        engine,
        flags=flags,
        timing_cache=f"{folder}/timing.cache",
        optimization_level=optimization_level,
        timeout_s=timeout_s,
    )
    try:
        return time_engine(host, trtexec, engine, runs=runs, timeout_s=timeout_s)
    finally:
        with contextlib.suppress(TargetError):
            host.run(["rm", "-f", engine], timeout_s=30)


def build_engine(
    host: Host,
    trtexec: str,
    onnx_path: str,
    engine: str,
    *,
    flags: Sequence[str],
    timing_cache: str,
    optimization_level: int = 3,
    timeout_s: float,
) -> None:
    """Write `engine`. int8 takes its scales from the model's quantise and dequantise nodes.

    `flags`: of `precision_flags`. Raises TargetError where the engine has not that precision.
    """
    command = [
        trtexec,
        f"--onnx={onnx_path}",
        *flags,
        f"--saveEngine={engine}",
        f"--timingCacheFile={timing_cache}",
        f"--builderOptimizationLevel={optimization_level}",
        "--skipInference",
    ]
    what = f"building {PurePosixPath(onnx_path).name}"
    log = _call(host, command, what, timeout_s)
    if "--fp16" in flags:
        told = _PRECISION.search(log)
        if _SLOW_HALF.search(log) or (told and "FP16" not in told[1].split("+")):
            raise TargetError(
                f"{host.name}: trtexec, {what}: this GPU has no fast fp16, and the engine was "
                "built in fp32; choose --precision fp32"
            )


def time_engine(
    host: Host, trtexec: str, engine: str, *, runs: int = AVERAGE_RUNS, timeout_s: float
) -> Timing:
    """At least `runs` runs after half a second of warm-up, as one CUDA graph each."""
    times = f"{engine}.times.json"
    command = [
        trtexec,
        f"--loadEngine={engine}",
        f"--warmUp={WARMUP_MS}",
        f"--avgRuns={min(AVERAGE_RUNS, runs)}",
        f"--iterations={runs}",
        "--duration=0",  # otherwise three seconds at least, however many runs that is
        "--noDataTransfers",
        "--useCudaGraph",
        "--useSpinWait",
        f"--exportTimes={times}",
    ]
    what = f"timing {PurePosixPath(engine).stem}"
    log = _call(host, command, what, timeout_s)
    script = 'if [ -f "$1" ]; then cat "$1"; rm -f "$1"; fi'
    exported = host.run(["sh", "-c", script, "sh", times], timeout_s=60)
    try:
        return parse(log, exported)
    except TargetError as error:
        raise TargetError(f"{host.name}: trtexec, {what}: {error}") from None


def parse(log: str, exported: str = "") -> Timing:
    """From the exported times, or from the log alone; the notes from both.

    Raises TargetError where neither holds times.
    """
    records = _records(exported)
    if records is None:
        return _parse_log(log)
    samples_us = tuple(1e3 * _milliseconds(run) for run in records)
    enqueue = [
        run.endEnqMs - run.startEnqMs
        for run in records
        if run.endEnqMs is not None and run.startEnqMs is not None
    ]
    compute = [run.computeMs for run in records if run.computeMs is not None]
    return Timing(
        len(samples_us),
        statistics.fmean(samples_us),
        min(samples_us),
        statistics.stdev(samples_us) if len(samples_us) > 1 else None,
        statistics.median(samples_us),
        _notes(
            log,
            statistics.median(enqueue) if enqueue else None,
            statistics.median(compute) if compute else None,
        ),
        samples_us,
    )


def _records(exported: str) -> list[Run] | None:
    """The runs after the warm-up, which older versions export as well; None without any file."""
    if not exported.strip():
        return None
    records = parse_json(exported, list[Run], "its exported times", error=TargetError)
    timed = [run for run in records if run.startComputeMs >= WARMUP_MS]
    if not timed:
        raise TargetError("its exported times hold no run after the warm-up")
    return timed


def _milliseconds(run: Run) -> float:
    value = run.computeMs if run.latencyMs is None else run.latencyMs
    if not value:
        raise TargetError(f"its exported times hold a latency of {value}")
    return value


def _parse_log(log: str) -> Timing:
    latency = _summary(log, "Latency", "Host Latency")
    if latency is None or latency["mean"] is None:
        raise TargetError("it exported no times, and its log has no latency")
    compute = _summary(log, "GPU Compute Time", "GPU Compute")
    enqueue = _summary(log, "Enqueue Time", "Enqueue Time")
    queries = _QUERIES.search(log)
    variation = _VARIATION.search(log)
    mean_us = 1e3 * latency["mean"]
    enqueue_ms = enqueue["median"] if enqueue else None
    notes = _notes(log, enqueue_ms, compute["median"] if compute else None)
    return Timing(
        max(int(queries[1]), 1) if queries else 1,
        mean_us,
        1e3 * (latency["min"] or math.nan),
        mean_us * float(variation[1]) / 100 if variation else None,  # told only above 1 %
        1e3 * latency["median"] if latency["median"] is not None else None,
        (*notes, "from the log: it exported no times"),
    )


def _summary(log: str, line: str, section: str) -> dict[str, float | None] | None:
    match = re.search(_LINE.format(line), log, re.MULTILINE) or re.search(
        _SECTION.format(section), log, re.MULTILINE
    )
    if match is None:
        return None
    try:
        return {
            name: None if text is None else float(text) for name, text in match.groupdict().items()
        }
    except ValueError:
        told = shortened(match[0].strip(), 200)
        raise TargetError(f"its log has times that are no numbers: {told}") from None


def _notes(log: str, enqueue_ms: float | None, compute_ms: float | None) -> tuple[str, ...]:
    notes = []
    if _CAPTURE_FAILED.search(log):
        notes.append("without a CUDA graph: its capture failed")
    if enqueue_ms is not None and compute_ms is not None and enqueue_ms > compute_ms:
        notes.append(
            f"launch-bound: {1e3 * enqueue_ms:.0f} us to enqueue, {1e3 * compute_ms:.0f} to compute"
        )
    return tuple(notes)


def _call(host: Host, command: list[str], what: str, timeout_s: float) -> str:
    status, log = run_merged(host, command, timeout_s=timeout_s)
    if status or "&&&& FAILED" in log:
        said = [line.strip() for line in log.splitlines() if line.strip()]
        errors = _ERROR.findall(log)
        reason = errors[0] if errors else said[-1] if said else f"exit status {status}"
        raise TargetError(f"{host.name}: trtexec, {what}: {shortened(reason, 300)}")
    return log
