"""One session: many models on one host with one runtime, timed in turns, pass after pass.

Where the host has Python and the runtime, `timer.py` does it, all models in one process. A phone
has neither, and a board may have TensorRT without its Python package: there every timing is an
invocation of the runtime's own tool (`invoked`). All give the same lines.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from lut.builders.network import Format, build_network, check_builder
from lut.measuring.probes import Probe
from lut.runtimes.invoked import BenchmarkModel, Tool, Trtexec, time_by_invocation
from lut.runtimes.lines import session_line
from lut.runtimes.timing import Passes
from lut.targets.host import Host
from results.errors import DeviceError, RunError, TargetError, check_choice, shown

SILENCE_S = 300.0  # after which a session counts as hung; the timer speaks every 3 s
BUILDING_S = 1800.0  # the same where a model is compiled before it runs
CHECK_S = 300.0  # importing a runtime on a small board
BENCHMARK_MODEL = "/data/local/tmp/benchmark_model"  # on a phone
MODELS = "models-"  # before the names of folders of models; a killed process leaves its own
ROOT = Path(__file__).parents[2]  # of our packages
FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "litert": "tflite", "tensorrt": "onnx"}
RUNTIMES = (*FORMATS, "pytorch")  # whose models are no files but lists of blocks
PRECISIONS = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "litert": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16"),
    "pytorch": ("fp32", "fp16"),
}
PROVIDERS = {  # those of ONNX Runtime are the host's matter
    "litert": ("xnnpack", "gpu", "nnapi", "none"),
    "pytorch": ("eager", "compiled", "cuda", "cuda-graph"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a table belongs to, but for the device. Raises DeviceError for what cannot be."""

    runtime: str
    precision: str
    threads: int = 1
    batch: int = 1
    cpus: str = ""  # comma-separated; empty: the last ones
    provider: str = ""  # ONNX Runtime's, LiteRT's delegate or PyTorch's mode; empty: the usual one
    benchmark_model: str = ""  # its path on the host; empty: the usual one, on a phone alone
    energy: bool = False

    def __post_init__(self) -> None:
        check_choice("runtime to build a table with", self.runtime, RUNTIMES, DeviceError)
        precisions = PRECISIONS[self.runtime]
        check_choice(f"precision of {self.runtime}", self.precision, precisions, DeviceError)
        known = PROVIDERS.get(self.runtime)
        if self.provider and known:
            check_choice(f"provider of {self.runtime}", self.provider, known, DeviceError)
        if self.provider and self.runtime == "tensorrt":
            raise DeviceError("tensorrt has no providers; leave --provider out")
        if self.precision == "fp16" and self.runtime == "pytorch" and "cuda" not in self.provider:
            raise DeviceError("PyTorch computes fp16 on CUDA alone; add --provider cuda-graph")
        parts = self.cpus.split(",") if self.cpus else []
        if not all(part.isdecimal() and len(part) < 5 for part in parts):
            raise DeviceError(f"--cpus is a list such as 4,5, not {shown(self.cpus)}")
        if self.benchmark_model and self.runtime != "litert":
            raise DeviceError(f"benchmark_model runs litert, not {self.runtime}; leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Model:
    """A network to time, `repeats` times a pass."""

    blocks: Probe
    repeats: int = 1
    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Driver:
    """How models are timed on a host, and how much of it a campaign had better ask for."""

    kind: Literal["timer", "benchmark_model", "trtexec"]
    passes: int = 12
    rounds: int = 2  # of all blocks, each round in other company
    most_rounds: int = 5  # of blocks that networks consist of to a large part
    most_models: int = 700  # in a chunk


TIMER = Driver("timer")
# Compiling takes longer than all passes, and the models are too large to be many.
COMPILING_TIMER = Driver("timer", rounds=1, most_rounds=1, most_models=150)
# An invocation is a statistic of many runs by itself, and no model has any company in it.
BY_BENCHMARK_MODEL = Driver("benchmark_model", passes=5, rounds=1, most_rounds=1, most_models=150)
BY_TRTEXEC = Driver("trtexec", passes=5, rounds=1, most_rounds=1, most_models=150)


def run_session(
    host: Host,
    setting: Setting,
    models: Sequence[Model],
    passes: Passes,
    workspace: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the lines of `timer.py`, see there.

    Files of models are in `workspace` for as long as it lasts; None: in the system's folder.

    Raises TargetError, before which all that was given counts; RunError where the files of models
    do not fit into `workspace`.
    """
    driver = driver_of(host, setting)
    with TemporaryDirectory(prefix=MODELS, dir=workspace) as name:
        folder = Path(name)
        try:
            write_models(folder, setting, models)
        except OSError as error:
            raise RunError(f"cannot write models to {folder.parent}: {error.strerror}") from None
        if driver.kind == "timer":
            yield from _by_script(host, setting, folder, passes)
        else:
            yield from time_by_invocation(_tool(host, setting, driver), host, folder, passes)


def driver_of(host: Host, setting: Setting) -> Driver:
    """Return how models are timed there. Raises DeviceError where they cannot be."""
    phone = host.name.startswith("adb:")
    if phone and setting.runtime != "litert":
        raise DeviceError(f"a phone is timed with litert, not {setting.runtime}: --runtime litert")
    if phone or setting.benchmark_model:
        if setting.energy:
            raise DeviceError("benchmark_model tells no energy; leave --energy out")
        return BY_BENCHMARK_MODEL
    if setting.provider in ("gpu", "nnapi"):
        raise DeviceError(
            f"{setting.provider} is a delegate of benchmark_model: name it by --benchmark-model, "
            "or choose xnnpack or none"
        )
    if setting.runtime == "tensorrt":
        if _has_tensorrt(host):
            return COMPILING_TIMER
        if setting.energy:
            raise DeviceError("trtexec tells no energy; install TensorRT's Python package there")
        return BY_TRTEXEC
    return COMPILING_TIMER if setting.provider == "compiled" else TIMER


def check_host(host: Host, setting: Setting) -> Driver:
    """Return how models are timed, if both machines have what it takes. Raises UserError."""
    if setting.runtime in FORMATS:
        check_builder(FORMATS[setting.runtime])
    driver = driver_of(host, setting)
    if driver.kind == "timer":
        with _timer(host, setting, None) as command:
            for _ in _lines(host, [*command, "--check"], CHECK_S):
                pass
    else:
        _tool(host, setting, driver).environment()
    return driver


def write_models(folder: Path, setting: Setting, models: Sequence[Model]) -> None:
    """Write `models.json` and the files that it lists; copies of one network share a file."""
    listed = []
    files: dict[tuple[Probe, float], str] = {}
    for model in models:
        key = model.blocks, model.eps
        if key not in files:
            if setting.runtime == "pytorch":
                name, data = f"{len(files)}.json", _blocks_file(model)
            else:
                format = FORMATS[setting.runtime]
                name = f"{len(files)}.{format}"
                data = build_network(
                    format,
                    model.blocks,
                    precision=setting.precision,
                    batch=setting.batch,
                    eps=model.eps,
                )
            (folder / name).write_bytes(data)
            files[key] = name
        listed.append({"file": files[key], "repeats": model.repeats})
    (folder / "models.json").write_text(json.dumps(listed))


def _blocks_file(model: Model) -> bytes:
    blocks = [asdict(block) for block in model.blocks]
    return json.dumps({"eps": model.eps, "blocks": blocks}).encode()


def _by_script(
    host: Host, setting: Setting, folder: Path, passes: Passes
) -> Iterator[dict[str, Any]]:
    flags = [
        f"--passes={passes.count}",
        f"--first-pass={passes.first}",
        f"--seed={passes.seed}",
    ]
    compiles = setting.runtime == "tensorrt" or setting.provider == "compiled"
    with _timer(host, setting, folder) as command:
        yield from _lines(host, [*command, *flags], BUILDING_S if compiles else SILENCE_S)


@contextmanager
def _timer(host: Host, setting: Setting, models: Path | None) -> Iterator[list[str]]:
    """Yield the timer's command line; elsewhere it and all it takes lie in a fresh folder."""
    script = Path(__file__).with_name("timer.py")
    flags = [
        f"--{name}={getattr(setting, name)}"
        for name in ("runtime", "threads", "cpus", "provider", "precision", "batch")
    ]
    flags += ["--energy"] * setting.energy
    if host.name == "local":
        yield [sys.executable, str(script), str(models or "."), *flags, f"--code={ROOT}"]
        return
    with host.folder() as there:
        host.push(script, f"{there}/timer.py")
        if models is not None:
            host.push(models, f"{there}/models")
        if setting.runtime == "pytorch":
            _push_packages(host, f"{there}/code")
        yield [host.python, f"{there}/timer.py", f"{there}/models", *flags, f"--code={there}/code"]


def _push_packages(host: Host, there: str) -> None:
    """Copy what PyTorch modules are made of, from the sources that run here."""
    with TemporaryDirectory(prefix="nas-code-") as name:
        for package in ("results", "supernet"):
            for source in (ROOT / package).rglob("*.py"):
                target = Path(name) / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        host.push(Path(name), there)


def _lines(host: Host, argv: Sequence[str], silence_s: float) -> Iterator[dict[str, Any]]:
    """Yield what the timer tells. Raises TargetError where it gives up or tells no JSON."""
    for line in host.stream(argv, idle_timeout_s=silence_s):
        read = session_line(line, f"{host.name}: the timer printed {shown(line)}")
        if "error" in read and "failed" not in read:
            raise TargetError(f"{host.name}: {read['error']}")
        yield read


def _has_tensorrt(host: Host) -> bool:
    """Return whether Python there has a TensorRT that the timer can use."""
    python = sys.executable if host.name == "local" else host.python
    asked = "import tensorrt; tensorrt.IExecutionContext.execute_async_v3"
    try:
        host.run([python, "-c", asked], timeout_s=CHECK_S)
    except TargetError as error:
        if error.transient:
            raise
        return False
    return True


def _tool(host: Host, setting: Setting, driver: Driver) -> Tool:
    if driver.kind == "trtexec":
        return Trtexec(host, setting.precision)
    return BenchmarkModel(
        host,
        setting.benchmark_model or BENCHMARK_MODEL,
        threads=setting.threads,
        cpus=setting.cpus,
        delegate=setting.provider or "xnnpack",
        fp16=setting.precision == "fp16",
    )
