"""Runtimes without Python: every timing is an invocation of the runtime's own tool.

A phone holds one model in memory at a time. Models are copied once; every pass takes them in an
order shuffled anew, and one invocation, a statistic of many runs, is one sample: the tool's
median, or its mean where it tells no median. Neither its minimum, which the luckiest run makes,
nor a mean of the lowest runs is to be had from all versions of the tools.

A model runs in a hot loop here, in caches that it filled itself, so that a network is not the
sum of its blocks: the network terms of the table, a scale among them, take that up.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from lut.runtimes import benchmark_model, trtexec
from lut.runtimes.timer import shuffled
from lut.runtimes.timing import Passes, Timing
from lut.targets.host import Host
from results.errors import TargetError

RUNS, WARMUP_RUNS = 30, 3  # of benchmark_model, which warms up for half a second in any case
MIN_S, MAX_S = 0.2, 20.0  # seconds of runs
TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 1800.0  # of an engine
COOL_C = 70.0  # that a processor must be below before it is asked again
GATE_S = 10.0  # of measuring between two looks at its temperature
TENSORRT_RUNS = 500


class Tool(Protocol):
    """What times one model per invocation."""

    def environment(self) -> dict[str, Any]:
        """Return what a table's provenance tells of the tool; called before any model is timed.

        Raises TargetError where it cannot be run.
        """
        ...

    def time(self, model: str, folder: str) -> Timing:
        """Return the timing of a model, by its path on the host; `folder` there may be written to.

        Raises TargetError, transient where the host is at fault.
        """
        ...


class BenchmarkModel:
    """LiteRT, by TensorFlow Lite's `benchmark_model`."""

    def __init__(
        self, host: Host, binary: str, *, threads: int, cpus: str, delegate: str, fp16: bool
    ) -> None:
        self.host, self.binary, self.threads = host, binary, threads
        self.cpus, self.delegate, self.fp16 = cpus, delegate, fp16
        self._mask: str | None = None
        self._looked = -GATE_S  # when its temperature was looked at
        self._warm = False  # it did not cool down when it was waited for

    def environment(self) -> dict[str, Any]:
        """Return what Tool.environment says, and look up which CPUs to keep to."""
        script = 'if [ -x "$1" ]; then sha256sum "$1" || echo unknown; else echo none; fi'
        words = self.host.run(["sh", "-c", script, "sh", self.binary], timeout_s=60).split()
        digest = words[0][:64] if words else "unknown"
        if digest == "none":
            raise TargetError(
                f"{self.host.name}: there is no program {self.binary}; copy TensorFlow Lite's "
                "benchmark_model there and make it executable, or name it by --benchmark-model"
            )
        cpus = self._cpus()
        self._mask = f"{sum(1 << cpu for cpu in cpus):x}" if cpus else None
        return {
            "runtime": "litert",
            "version": f"benchmark_model {digest[:12]}",
            "benchmark_model": self.binary,
            "provider": self.delegate,
            "cpus": cpus,
            "threads": self.threads,
        }

    def time(self, model: str, folder: str) -> Timing:
        """Time as Tool.time says; wait first while a phone is warm, a few minutes at most."""
        due = not self._warm and time.monotonic() - self._looked >= GATE_S
        invocation = benchmark_model.Invocation(
            threads=self.threads,
            cpu_mask=self._mask,
            delegate=cast(benchmark_model.Delegate, self.delegate),
            fp16=self.fp16,
            runs=RUNS,
            warmup_runs=WARMUP_RUNS,
            min_secs=MIN_S,
            max_secs=MAX_S,
            timeout_s=TIMEOUT_S,
        )
        below_c = COOL_C if due else None
        timing = benchmark_model.time_model(
            self.host, self.binary, model, invocation, below_c=below_c
        )
        if due:
            self._looked = time.monotonic()
            self._warm = any(note.startswith("still") for note in timing.notes)
        return timing

    def _cpus(self) -> list[int] | None:
        """Return the CPUs asked for, else the last, a phone's fast ones; None where unknown."""
        if self.cpus:
            return [int(cpu) for cpu in self.cpus.split(",")]
        script = "getconf _NPROCESSORS_CONF 2>/dev/null || nproc --all 2>/dev/null || echo 0"
        count = self.host.run(["sh", "-c", script], timeout_s=30).strip()
        number = int(count) if count.isdecimal() and len(count) < 5 else 0
        return list(range(max(0, number - self.threads), number)) or None


class Trtexec:
    """TensorRT, by `trtexec`: an engine is built when a model is first timed, and kept."""

    def __init__(self, host: Host, precision: str) -> None:
        self.precision = precision
        self.program = trtexec.Program(host, trtexec.find_trtexec(host))
        self._engines: dict[str, str] = {}
        self._is_typed = False  # it turned out to know no precision flag

    def environment(self) -> dict[str, Any]:
        """Return what Tool.environment says, and ask the tool which flags it knows."""
        self.program = trtexec.ask(self.program.host, self.program.path, TIMEOUT_S)
        return {
            "runtime": "tensorrt",
            "version": self.program.number(),
            "tool": "trtexec",
            "precision_flags": " ".join(self._precision_flags()) or "none",
        }

    def time(self, model: str, folder: str) -> Timing:
        """Time as Tool.time says."""
        if model not in self._engines:
            self._engines[model] = self._build(model, folder)
        timing = trtexec.time_engine(
            self.program, self._engines[model], runs=TENSORRT_RUNS, timeout_s=TIMEOUT_S
        )
        note = "this trtexec knows no --fp16: its engine has the types of the file"
        return replace(timing, notes=(*timing.notes, note)) if self._is_typed else timing

    def _precision_flags(self) -> list[str]:
        return [] if self._is_typed else self.program.precision_flags(self.precision)

    def _build(self, model: str, folder: str) -> str:
        """Return the path of an engine of a model. Raises TargetError."""
        flags = self._precision_flags()
        try:
            return self._build_with(flags, model, folder)
        except TargetError as error:
            # TensorRT 11, where it tells no version: there types are those of the file.
            if not any(f"Unknown option: {flag}" in str(error) for flag in flags):
                raise
            self._is_typed = True
            return self._build_with([], model, folder)

    def _build_with(self, flags: list[str], model: str, folder: str) -> str:
        engine = f"{model}.plan"
        trtexec.build_engine(
            self.program,
            model,
            engine,
            flags=flags,
            timing_cache=f"{folder}/timing.cache",
            timeout_s=BUILD_TIMEOUT_S,
        )
        return engine


def time_by_invocation(
    tool: Tool, host: Host, folder: Path, passes: Passes
) -> Iterator[dict[str, Any]]:
    """Yield the lines of `timer.py`, each sample being an invocation. Raises TargetError.

    A model that the tool refuses is reported as failed and not tried again; what it remarks on
    a model, such as a delegate that takes only a part of it, is told once.
    """
    models = json.loads((folder / "models.json").read_text())
    repeats = [model["repeats"] for model in models]
    failed: set[int] = set()
    remarked: set[int] = set()
    yield {"environment": tool.environment()}
    with host.folder() as there:
        host.push(folder, f"{there}/models")
        for number in range(passes.first, passes.first + passes.count):
            samples: list[list[float]] = [[] for _ in models]
            for index in shuffled(repeats, passes.seed, number):
                if index in failed:
                    continue
                try:
                    timing = tool.time(f"{there}/models/{models[index]['file']}", there)
                except TargetError as error:
                    if error.transient:
                        raise
                    failed.add(index)
                    yield {"failed": index, "error": str(error)}
                    continue
                samples[index].append(timing.median_us or timing.mean_us)
                if timing.notes and index not in remarked:
                    remarked.add(index)
                    yield {"remark": index, "text": "; ".join(timing.notes)}
            us: list[float | None] = []
            for index, of_model in enumerate(samples):
                us += [None] * repeats[index] if index in failed else of_model
            celsius = host.temperature_c()
            yield {"pass": number, "us": us, "load": None, "temperature_c": celsius}
