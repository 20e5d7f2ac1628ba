"""Times models in turns, on the machine that it runs on, and prints a line for every pass.

    python timer.py FOLDER --runtime onnxruntime --passes 22

Self-contained: Python 3.8 or newer, the runtime, and the NumPy that comes with it. The same file
runs on a workstation, on a board reached by ssh, and anywhere else that has Python.

FOLDER holds the models and `models.json`, a list of {"file": ..., "repeats": ...}. All are
loaded, then run in passes: every pass takes each model `repeats` times, in an order shuffled
anew, so that no model meets the caches that its own last run left. Standard output has one JSON
object a line:

    {"environment": {...}}                runtime, version, CPUs
    {"loaded": 120}                       so far, every few seconds
    {"failed": 7, "error": "..."}         model 7 cannot be loaded or run; its samples are null
    {"pass": 0, "us": [...], "load": 0.4, "temperature_c": 51.0}

`us` has the microseconds of every run, in order of the models, `repeats` for each. The first
passes are slow and not reported (`--warmup`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[], object]
BEAT_S = 3.0  # a line at least this often, so that a silence means a hang


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


class OnnxRuntime:
    def __init__(self, options: argparse.Namespace) -> None:
        import numpy
        import onnxruntime

        self.numpy, self.onnxruntime, self.options = numpy, onnxruntime, options
        onnxruntime.set_default_logger_severity(3)
        self.provider = options.provider or "CPUExecutionProvider"
        if self.provider not in onnxruntime.get_available_providers():
            found = ", ".join(onnxruntime.get_available_providers())
            raise SystemExit(f"no provider {self.provider}; there are {found}")

    def environment(self) -> dict[str, Any]:
        return {"version": self.onnxruntime.__version__, "provider": self.provider, "arena": True}

    def load(self, path: Path) -> Run:
        runtime = self.onnxruntime
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = self.options.threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
        session = runtime.InferenceSession(str(path), settings, providers=[self.provider])
        if self.provider not in session.get_providers():
            raise RuntimeError(f"{self.provider} does not take this model")
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        data = normal(self.numpy, given.shape)
        binding = session.io_binding()
        if self.provider == "CPUExecutionProvider":
            binding.bind_ortvalue_input(given.name, runtime.OrtValue.ortvalue_from_numpy(data))
            binding.bind_output(result.name, "cpu")
        else:
            value = runtime.OrtValue.ortvalue_from_numpy(data, "cuda", 0)
            binding.bind_ortvalue_input(given.name, value)
            binding.bind_output(result.name, "cuda")
        run = session.run_with_iobinding
        if self.provider == "CPUExecutionProvider":
            return lambda: run(binding)

        def synchronous() -> None:
            run(binding)
            binding.synchronize_outputs()

        return synchronous


class LiteRT:
    def __init__(self, options: argparse.Namespace) -> None:
        import numpy

        try:
            from ai_edge_litert import interpreter
        except ImportError:  # small boards have the older package
            from tflite_runtime import interpreter
        self.numpy, self.interpreter, self.options = numpy, interpreter, options

    def environment(self) -> dict[str, Any]:
        package = self.interpreter.__name__.split(".")[0]
        return {"version": version_of(package.replace("_", "-")), "package": package}

    def load(self, path: Path) -> Run:
        interpreter = self.interpreter.Interpreter(
            model_path=str(path), num_threads=self.options.threads
        )
        interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        interpreter.set_tensor(given["index"], normal(self.numpy, given["shape"]))
        invoke: Run = interpreter.invoke
        return invoke


RUNTIMES: dict[str, Any] = {"onnxruntime": OnnxRuntime, "litert": LiteRT}


def normal(numpy: Any, shape: Sequence[int]) -> Any:
    """A random input of ordinary size: denormal numbers would be slow."""
    return numpy.random.default_rng(0).standard_normal(tuple(shape)).astype("float32")


def version_of(package: str) -> str | None:
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:
        return None


def pin(cpus: str, threads: int) -> list[int] | None:
    """Keep to the CPUs that were asked for, by default the last ones: the big ones on a board."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    chosen = [int(cpu) for cpu in cpus.split(",")] if cpus else allowed[-threads:]
    os.sched_setaffinity(0, chosen)
    return chosen


def temperature_c() -> float | None:
    """The hottest thermal zone, or None where the system tells nothing."""
    found = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found) if found else None


def load_all(runtime: Any, folder: Path, models: list[dict[str, Any]]) -> list[Run | None]:
    """A function that runs a model, or None where it cannot be loaded, for every model."""
    functions: list[Run | None] = []
    said = time.monotonic()
    for index, model in enumerate(models):
        try:
            run: Run | None = runtime.load(folder / model["file"])
            assert run is not None
            run()
        except Exception as error:
            say({"failed": index, "error": f"{type(error).__name__}: {error}"[:300]})
            run = None
        functions.append(run)
        if time.monotonic() - said > BEAT_S:
            said = time.monotonic()
            say({"loaded": index + 1})
    say({"loaded": len(models)})
    return functions


def time_pass(
    functions: Sequence[Run | None], repeats: Sequence[int], order: Sequence[int]
) -> list[float | None]:
    """Microseconds of every run; a list in order of the models, each `repeats` times."""
    clock = time.perf_counter_ns
    samples: list[list[float]] = [[] for _ in functions]
    said = clock()
    for index in order:
        run = functions[index]
        if run is None:
            continue
        start = clock()
        run()
        end = clock()
        samples[index].append((end - start) / 1000)
        if end - said > BEAT_S * 1e9:
            said = end
            say({"at": index})
    flat: list[float | None] = []
    for index, found in enumerate(samples):
        flat.extend(found if found else [None] * repeats[index])
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", required=True, choices=sorted(RUNTIMES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpus", default="", help="comma-separated; default: the last ones")
    parser.add_argument("--provider", default="", help="of ONNX Runtime")
    parser.add_argument("--passes", type=int, default=22)
    parser.add_argument("--first-pass", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cpus = pin(options.cpus, options.threads)  # before the runtime counts its CPUs
    try:
        runtime = RUNTIMES[options.runtime](options)
    except ImportError as error:
        raise SystemExit(f"{options.runtime} cannot be imported here: {error}") from None
    environment = {
        "runtime": options.runtime,
        "python": platform.python_version(),
        "cpus": cpus,
        "threads": options.threads,
    }
    environment.update(runtime.environment())
    say({"environment": environment})
    models = json.loads((options.folder / "models.json").read_text())
    functions = load_all(runtime, options.folder, models)
    repeats = [model.get("repeats", 1) for model in models]
    order = [index for index, count in enumerate(repeats) for _ in range(count)]
    gc.disable()
    for number in range(-options.warmup, options.passes):
        count = options.first_pass + number
        random.Random(f"{options.seed} {count}").shuffle(order)
        us = time_pass(functions, repeats, order)
        if number >= 0:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            say({"pass": count, "us": us, "load": load, "temperature_c": temperature_c()})
        else:
            say({"warmup": number})


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever asked has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
