"""TensorRT's `trtexec`: builds an engine of an ONNX model, then times it, in two invocations.

Building and timing are apart so that the tactics of one do not warm the other, and so that the
timing cache makes the next build fast. Transfers to and from the GPU are not timed: they belong
to the network, not to its blocks. https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec

Precision: up to version 10.11, JetPack's among them, --fp16 permits what the GPU may not have, so
the log is looked at. From 10.12 on networks have the types of their ONNX files, by --stronglyTyped
in version 10, in 11 always: there is no --fp16 any more. Our fp16 files are typed, with float32
where sums need it.

Before 8.6, as in JetPack 5, there is no level of optimisation, and --buildOnly is what is called
--skipInference since: its help tells which it knows.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lut.runtimes.timing import Timing
from lut.runtimes.versions import tensorrt_version
from lut.targets.host import Host, run_merged
from results.errors import TargetError, check_choice, shortened
from results.reading import NotNegative, Record, parse_json

PRECISIONS = ("fp32", "fp16", "int8")
Version = tuple[int, int]
LEVELS_FROM, STRONG_FROM, TYPED_FROM, ALWAYS_TYPED_FROM = (8, 6), (10, 0), (10, 12), (11, 0)
LEVEL = "--builderOptimizationLevel=3"  # the tool's own default
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
_FLAG = re.compile(r"(?<!\S)--\w+")
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


@dataclass(frozen=True)
class Program:
    """trtexec on a host, and what it tells of itself."""

    host: Host
    path: str
    told: str = ""  # its version, then its flags; "" where it tells neither

    def number(self) -> str | None:
        """Return the version as its banner writes it, such as "8601"; None where it does not."""
        match = _VERSION.search(self.told)
        return match[1] if match else None

    def version(self) -> Version | None:
        """Return the version; None where it does not tell.

        (8, 6) is what "[TensorRT v8601]" tells.
        """
        number = self.number()
        return tensorrt_version(number)[:2] if number else None

    def flags(self) -> frozenset[str]:
        """Return the flags that its help lists; none where it told no list."""
        listed = frozenset(_FLAG.findall(self.told))
        return listed if "--onnx" in listed else frozenset()

    def precision_flags(self, precision: str) -> list[str]:
        """Return flags with which the engine has this precision.

        Where no version is told, the listed flags decide. Raises TargetError for another precision.
        """
        check_choice("precision", precision, PRECISIONS, TargetError)
        version = self.version()
        if version is None and self.flags():
            version = (10, 0) if "--fp16" in self.flags() else ALWAYS_TYPED_FROM
        if version is not None and version >= ALWAYS_TYPED_FROM:
            return []
        if version is not None and version >= TYPED_FROM:
            return ["--stronglyTyped"]
        return [] if precision == "fp32" else [f"--{precision}"]

    def typed_flags(self) -> list[str]:
        """Return flags with which an engine has the types of its ONNX file.

        Where no version is told, the listed flags decide. Raises TargetError before TensorRT 10.
        """
        version = self.version()
        if version is None:
            return ["--stronglyTyped"] if "--stronglyTyped" in self.flags() else []
        if version < STRONG_FROM:
            raise TargetError(
                f"{self.host.name}: TensorRT {version[0]}.{version[1]} does not keep to the types "
                f"of a file; install TensorRT {STRONG_FROM[0]} or newer, or take --format onnx"
            )
        return ["--stronglyTyped"] if version < ALWAYS_TYPED_FROM else []

    def building_flags(self) -> list[str]:
        """Return flags of a build, of those that versions differ in.

        Where no flags are listed, the version decides; where it tells neither, it is taken for a
        version of today.
        """
        listed, version = self.flags(), self.version()
        is_old = version is not None and version < LEVELS_FROM
        if "--buildOnly" in listed and "--skipInference" not in listed:
            is_old = True
        elif listed:
            is_old = False
        flags = ["--buildOnly"] if is_old else [LEVEL, "--skipInference"]
        return [flag for flag in flags if not listed or flag.partition("=")[0] in listed]


def find_trtexec(host: Host) -> str:
    """Return the path of trtexec on a host. Raises TargetError with the cure."""
    script = 'command -v trtexec || { [ -x "$1" ] && echo "$1"; } || echo none'
    path = host.run(["sh", "-c", script, "sh", JETSON], timeout_s=30).strip()
    if path == "none":
        raise TargetError(
            f"{host.name}: there is no trtexec, in PATH or at {JETSON}; install TensorRT there"
        )
    return path


def ask(host: Host, path: str, timeout_s: float) -> Program:
    """Return trtexec with what it tells of itself. Raises TargetError where it cannot be run."""
    script = '"$1" --help 2>&1 | head -c 200000; true'
    return Program(host, path, host.run(["sh", "-c", script, "sh", path], timeout_s=timeout_s))


def build_engine(
    program: Program,
    onnx_path: str,
    engine: str,
    *,
    flags: Sequence[str],
    timing_cache: str,
    timeout_s: float,
) -> None:
    """Write `engine`; all paths are on the host.

    int8 takes its scales from the model's quantise and dequantise nodes.

    Args:
        flags: of `Program.precision_flags`.
        timing_cache: a file that makes later builds faster.

    Raises TargetError where the host or the tool fails, or the engine has not that precision.
    """
    command = [
        program.path,
        f"--onnx={onnx_path}",
        *flags,
        f"--saveEngine={engine}",
        f"--timingCacheFile={timing_cache}",
        *program.building_flags(),
    ]
    what = f"building {PurePosixPath(onnx_path).name}"
    log = _call(program.host, command, what, timeout_s)
    if "--fp16" in flags:
        precision = _PRECISION.search(log)
        if _SLOW_HALF.search(log) or (precision and "FP16" not in precision[1].split("+")):
            raise TargetError(
                f"{program.host.name}: trtexec, {what}: this GPU has no fast fp16, and the engine "
                "was built in fp32; choose --precision fp32"
            )


def time_engine(program: Program, engine: str, *, runs: int, timeout_s: float) -> Timing:
    """Return the timing of at least `runs` runs, as one CUDA graph each, after a warm-up.

    Raises TargetError where the host or the tool fails.
    """
    host = program.host
    times = f"{engine}.times.json"
    command = [
        program.path,
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


def run_engine(
    program: Program, engine: str, inputs: Mapping[str, str], folder: str, timeout_s: float
) -> str:
    """Run an engine once and return the JSON text of its outputs.

    Args:
        inputs: files of raw numbers by the input's name; all paths are on the host.
        folder: for the file of outputs.

    Raises TargetError where the host or the tool fails.
    """
    outputs = f"{folder}/outputs.json"
    command = [
        program.path,
        f"--loadEngine={engine}",
        "--loadInputs=" + ",".join(f"{name}:{path}" for name, path in inputs.items()),
        "--warmUp=0",
        "--iterations=1",
        "--duration=0",
        "--avgRuns=1",
        f"--exportOutput={outputs}",
    ]
    _call(program.host, command, f"running {PurePosixPath(engine).stem}", timeout_s)
    return program.host.run(["cat", outputs], timeout_s=60)


def parse(log: str, exported: str = "") -> Timing:
    """Return the timing of the exported times, or of the log alone; the notes from both.

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
    """Return the runs after the warm-up, which old versions export too; None without a file."""
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
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = _ERROR.findall(log)
        reason = errors[0] if errors else lines[-1] if lines else f"exit status {status}"
        raise TargetError(f"{host.name}: trtexec, {what}: {shortened(reason, 300)}")
    return log
