"""TensorFlow Lite's and LiteRT's `benchmark_model`: one model per invocation, on phones and Linux.

Flags and output: https://github.com/tensorflow/tensorflow/tree/master/tensorflow/lite/tools/benchmark,
of LiteRT 2: https://github.com/google-ai-edge/LiteRT/tree/main/litert/tools
The tool ends well in many ways that time something else than what was asked: a delegate that
took no node, a platform without the delegate, a flag that it does not know, a run cut short.
Those are errors here, and so is a log that does not tell where a GPU or NNAPI was asked for; a
graph of which a part runs elsewhere is a note.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from lut.runtimes.timing import Timing
from lut.targets.host import Host, run_merged, wait_until_cool
from results.errors import TargetError, shortened, shown

Delegate = Literal["xnnpack", "gpu", "nnapi", "none"]

MOST_NOTES = 8
SPARE = 1e-3  # share by which rounded numbers may be out of order
CURE = "time it with another delegate, or with none"
CPU_CURE = "time it with --provider xnnpack, which is the CPU"
NAMES = {"xnnpack": "XNNPACK", "gpu": "GPU", "nnapi": "NNAPI"}  # as its log has them
# Of the delegate, then of the lines that mean it was not what ran.
_FAILED = re.compile(
    r"failed to apply (\w{1,40}) delegate|\b(\w{1,40}) acceleration is unsupported", re.I
)
_UNUSED = re.compile(
    r"Though (\w{1,40}) delegate is (?:explicitly )?applied, the model graph will not be"
)
_UNREGISTERED = re.compile(r"\b(\w{1,40}) accelerator could not be loaded and registered")
# A delegate that took nodes and then failed: the graph is as before, whatever is said after it.
_RESTORED = re.compile(
    r"delegate application failure|Restored original execution plan"
    r"|\(\w{0,40}delegate\w{0,40}\) failed to (?:prepare|invoke)",
    re.I,
)
# "completely executed", "partially executed by the delegate w/ 3", in 2020 "executed w/ the ..."
_APPLIED = re.compile(
    r"applied (\w{1,40}) delegate(?:, and the model graph will be (completely|partially)"
    r"(?:.*?w/ (\d{1,9}))?)?",
    re.I,
)
_REPLACED = re.compile(
    r"Replacing (\d{1,9})(?: out of (\d{1,9}))? node\(s\) with delegate \(([^)\s]{1,80})\)"
)
_KERNELS = {  # what the nodes of a delegate are called
    "xnnpack": re.compile("xnnpack", re.I),
    "gpu": re.compile("gpu|litert_cl|opencl|opengl|metal|vulkan", re.I),
    "nnapi": re.compile("nnapi", re.I),
}
_ACCELERATORS = re.compile(r"NNAPI accelerators available: \[([^\]]*)\]")
_XNNPACK = re.compile(r"Created TensorFlow Lite XNNPACK delegate|XNNPACK delegate created", re.I)
_UNSUPPORTED = re.compile(r"operations are not supported by (\w{1,40}) delegate")
_UNKNOWN = re.compile(r"Unconsumed cmdline flags: (.*)")
# Flags that decide what runs, of which a tool has to know one: those of LiteRT 2 differ.
_DECIDING = (
    ("--use_gpu=true",),
    ("--use_nnapi=true",),
    ("--use_xnnpack=false",),
    ("--xnnpack_force_fp16=true",),
    ("--gpu_precision_loss_allowed", "--gpu-precision"),
    ("--allow_fp16=true",),
    ("--nnapi_allow_fp16=true",),
    ("--num_threads",),
)
_ERROR = re.compile(r"\bERROR: (.*)|^(?:.* E tflite *: )(.*)")
_BROKEN = re.compile(r"Benchmarking failed|Failed to (?:mmap|allocate|initialize|invoke)", re.I)
# A line of a log, whatever its prefix ("INFO: ", a logcat stamp), that reports a series of runs.
_SERIES = re.compile(r"(?:^|: )(?P<operators>Timings \(microseconds\): )?count=(?P<rest>\S+.*)$")
_SUMMARIES = (  # and how far its mean, in microseconds, may be from that of the last runs
    (re.compile(r"Inference timings in us: .*Inference \(avg\): (\S+)"), 1, (1e-3, 0.0)),
    # LiteRT 2: milliseconds with two decimals
    (re.compile(r"\bInference \(avg\): +(\S+) ms \("), 1e3, (1e-3, 5.1)),
    # The oldest version's summary is of the runs without profiling.
    (re.compile(r"Average inference timings in us: .*no stats: (\S+)"), 1, (0.5, 0.0)),
)


@dataclass(frozen=True)
class Invocation:
    """How one model is timed: the tool's flags, and how long to wait for it.

    At least `runs` runs and `min_secs` seconds of them, but no more than `max_secs`.
    """

    threads: int
    runs: int
    warmup_runs: int
    min_secs: float
    max_secs: float
    timeout_s: float
    delegate: Delegate = "xnnpack"
    fp16: bool = False  # computes in half precision what the model has in single
    # hexadecimal, for taskset: "80" is the prime core of a Snapdragon 8 Gen 1; None: any core
    cpu_mask: str | None = None

    def flags(self) -> list[str]:
        """Return the tool's flags."""
        return [
            f"--num_threads={self.threads}",
            f"--warmup_runs={self.warmup_runs}",
            f"--num_runs={self.runs}",
            f"--min_secs={self.min_secs:g}",
            f"--max_secs={self.max_secs:g}",
            *delegate_flags(self.delegate, self.fp16),
            "--enable_op_profiling=false",  # perturbs the times
            "--report_peak_memory_footprint=false",
        ]


def time_model(
    host: Host,
    binary: str,
    model_path: str,
    invocation: Invocation,
    *,
    below_c: float | None = None,
) -> Timing:
    """Return the timing of one model by `binary`, both being paths on the host.

    Args:
        below_c: wait first until the processor is cooler, a few minutes at most; None: do not.

    Raises TargetError where the host fails, or the tool, or the delegate that was asked for.
    """
    warm = wait_until_cool(host, below_c=below_c) if below_c is not None else None
    mask = invocation.cpu_mask
    pinned = ["taskset", check_mask(mask)] if mask else []
    command = [*pinned, binary, f"--graph={model_path}", *invocation.flags()]
    status, output = run_merged(host, command, timeout_s=invocation.timeout_s)
    try:
        if status in (126, 127):
            raise TargetError(f"cannot run {binary}: {_reason(output)}")
        timing = parse(output, invocation.delegate)
        if status:
            raise TargetError(f"exit status {status}: {_reason(output)}")
    except TargetError as error:
        model = PurePosixPath(model_path).name
        message = f"{host.name}: benchmark_model of {model}: {error}"
        raise TargetError(message, transient=error.transient) from None
    notes = list(timing.notes)
    if timing.count < invocation.runs:
        notes.append(f"{timing.count} of {invocation.runs} runs within {invocation.max_secs:g} s")
    if warm:
        notes.append(warm)
    return replace(timing, notes=tuple(notes))


def delegate_flags(delegate: Delegate, fp16: bool) -> list[str]:
    """Return flags of a delegate: all, as builds differ and GPUs compute in fp16 unless told."""
    allows_fp16 = str(fp16).lower()
    match delegate:
        case "xnnpack":
            return ["--use_xnnpack=true", *(["--xnnpack_force_fp16=true"] if fp16 else [])]
        case "gpu":
            return [
                "--use_gpu=true",
                f"--gpu_precision_loss_allowed={allows_fp16}",
                f"--gpu-precision={'fp16' if fp16 else 'fp32'}",  # of LiteRT 2
            ]
        case "nnapi":
            return ["--use_nnapi=true", f"--nnapi_allow_fp16={allows_fp16}"]
        case "none":
            return ["--use_xnnpack=false", *(["--allow_fp16=true"] if fp16 else [])]


def check_mask(cpu_mask: str) -> str:
    """Return a mask as taskset takes it. Raises TargetError."""
    digits = cpu_mask.lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]+", digits) or not int(digits, 16):
        raise TargetError(
            f"no CPU mask {cpu_mask!r}; it is hexadecimal, a bit for a core: 80 for core 7"
        )
    return digits


def parse(output: str, delegate: Delegate = "xnnpack") -> Timing:
    """Return the timing in the tool's output, of any version since 2018, with standard error.

    The last series of runs counts: before it come the warm-up's, and after it, with profiling,
    only those of the operators. Raises TargetError where the delegate was not what ran, or the
    output does not tell, where the run was cut short, or its numbers are no times.
    """
    _check_failures(output, delegate)
    if _BROKEN.search(output):
        raise TargetError(_reason(output))
    lines = [line.strip() for line in output.splitlines()]
    series = [m for line in lines if "(bytes)" not in line and (m := _SERIES.search(line))]
    own = [match for match in series if not match["operators"]] or series
    if not own:
        raise TargetError(f"no timings in its output; {_reason(output)}")
    summary = _summary(lines)
    if summary is None and not own[-1]["operators"]:
        raise TargetError(f"it ended before its summary; {_reason(output)}")
    timing = _read_series(own[-1]["rest"], (*_placement(output, delegate), *_notes(output)))
    if summary is not None:
        mean_us, (share, more_us) = summary
        if not abs(mean_us - timing.mean_us) <= share * timing.mean_us + more_us:
            raise TargetError(
                f"its summary of {mean_us:g} us is not that of its last runs, {timing.mean_us:g} us"
            )
    return timing


def _summary(lines: Sequence[str]) -> tuple[float, tuple[float, float]] | None:
    """Return the last summary's mean in us, and how far it may be from the last runs'."""
    for line in reversed(lines):
        for pattern, unit_us, allowed in _SUMMARIES:
            if match := pattern.search(line):
                return unit_us * _number(match[1]), allowed
    return None


def _check_failures(output: str, delegate: Delegate) -> None:
    """Raise TargetError where the tool says that something else ran."""
    if match := _FAILED.search(output) or _UNUSED.search(output):
        name = next(group for group in match.groups() if group)
        raise TargetError(f"the delegate {shown(name, 40)[1:-1]} does not run this model; {CURE}")
    if _RESTORED.search(output):
        raise TargetError(
            f"a delegate failed and the graph was restored, so that it ran without: "
            f"{_reason(output)}; {CURE}"
        )
    unregistered = _UNREGISTERED.findall(output)
    if delegate != "none" and NAMES[delegate] in unregistered:
        raise TargetError(f"it could not load the {NAMES[delegate]} accelerator; {CURE}")
    unknown = [flag.strip(" ,") for told in _UNKNOWN.findall(output) for flag in told.split()]
    units = _ACCELERATORS.search(output)
    if delegate == "nnapi" and units and units[1].strip() == "nnapi-reference":
        raise TargetError(f"NNAPI has no accelerator there but its reference on the CPU; {CURE}")
    for names in _DECIDING:
        unread = [flag for flag in unknown if flag.startswith(names)]
        if len(unread) == len(names):
            raise TargetError(
                f"this benchmark_model does not know {' and '.join(unread)}, so it would time "
                "something else; use another version, or another --provider or --precision"
            )


def _placement(output: str, delegate: Delegate) -> list[str]:
    """Return notes on what ran the graph. Raises TargetError where it is not what was asked for."""
    replaced = _REPLACED.findall(output)
    applied = [(name.upper(), extent.lower()) for name, extent, _ in _APPLIED.findall(output)]
    if delegate == "none":
        taken = [name for number, _, name in replaced if int(number)]
        names = [*taken, *(name for name, _ in applied)]
        if _XNNPACK.search(output):
            names.append("XNNPACK")
        if names:
            raise TargetError(f"{names[0]} ran though no delegate was asked for; {CPU_CURE}")
        return []
    name = NAMES[delegate]
    own = [int(number) for number, _, kernel in replaced if _KERNELS[delegate].search(kernel)]
    extents = [extent for told, extent in applied if told == name]
    if own and not any(own):
        raise TargetError(f"{name} took none of the nodes; {CURE}")
    if own or any(extents):
        return []
    if delegate == "xnnpack":
        created = extents or _XNNPACK.search(output)
        return [] if created else ["its output does not tell whether XNNPACK ran"]
    if extents:
        return [f"its output does not tell how many nodes {name} runs"]
    raise TargetError(
        f"its output does not tell that {name} ran any node, so it may have been the CPU; {CURE}"
    )


def _read_series(text: str, notes: tuple[str, ...]) -> Timing:
    """Read `50 first=9 curr=9 min=8 max=10 avg=9 std=1 p5=8 median=9 p95=10`, or `1 curr=9`."""
    count, *pairs = text.split()
    fields = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if not (count.isdecimal() and len(count) < 10):
        raise TargetError(f"a count of {shown(count)[1:-1]} in its output")
    if "avg" not in fields and count == "1" and "curr" in fields:
        only = _number(fields["curr"])
        return Timing(1, only, only, None, only, notes)
    for name in ("avg", "min"):
        if name not in fields:
            raise TargetError(f"no {name} in its timings: count={shortened(text, 80)}")
    timing = Timing(
        int(count),
        _number(fields["avg"]),
        _number(fields["min"]),
        _number(fields["std"]) if "std" in fields else None,
        _number(fields["median"]) if "median" in fields else None,
        notes,
    )
    _check_order(timing, _number(fields["max"]) if "max" in fields else math.inf)
    return timing


def _check_order(timing: Timing, max_us: float) -> None:
    """Raise TargetError for a mean, median or deviation that no runs from min to max have."""
    spare = SPARE * max(timing.mean_us, timing.min_us) + 1  # numbers are rounded
    for name, value in (("avg", timing.mean_us), ("median", timing.median_us)):
        if value is not None and not timing.min_us - spare <= value <= max_us + spare:
            raise TargetError(
                f"its {name} of {value:g} us is not between min={timing.min_us:g} and "
                f"max={max_us:g} us"
            )
    if timing.std_us is not None and not 0 <= timing.std_us <= max_us - timing.min_us + spare:
        raise TargetError(
            f"its std of {timing.std_us:g} us is none of runs between min={timing.min_us:g} and "
            f"max={max_us:g} us"
        )


def _number(text: str) -> float:
    try:
        return float(text.rstrip(","))
    except ValueError:
        raise TargetError(f"{shown(text)} in its timings is no number") from None


def _notes(output: str) -> tuple[str, ...]:
    notes = []
    for name, extent, kernels in _APPLIED.findall(output):
        if extent.lower() == "partially":
            told = f", in {kernels} kernel(s)" if kernels else ""
            notes.append(f"{name} runs only a part of the graph{told}")
    for taken, nodes, name in _REPLACED.findall(output):
        if nodes and taken != nodes:
            notes.append(f"{name} runs only {taken} of {nodes} nodes")
    for name in _UNSUPPORTED.findall(output):
        notes.append(f"{name} does not support all operations")
    return tuple(shortened(note, 200) for note in list(dict.fromkeys(notes))[:MOST_NOTES])


def _reason(output: str) -> str:
    """Return the first error that the tool reports, else its last words."""
    for line in output.splitlines():
        if (match := _ERROR.search(line)) and not _BROKEN.fullmatch(match[1] or match[2] or ""):
            return shortened(str(match[1] or match[2]).strip(), 300)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Benchmarking failed")] or lines
    return f"its last words: {shortened(lines[-1], 300)}" if lines else "it said nothing"
