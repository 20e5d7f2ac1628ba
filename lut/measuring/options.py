"""What a build of a table and its validation are told: the flags of their commands, as values."""

from dataclasses import dataclass
from pathlib import Path

from results.errors import DeviceError, check_all_least
from results.options import Options
from supernet.spaces import DEFAULT_SPACE


@dataclass(frozen=True)
class BuildOptions(Options):
    """What to measure, where and how; see `lut.measuring.build.build_table`."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]] of the table; a new NAME starts a new device."""
    target: str = "local"
    """Where to measure: local, ssh://[user@]host[:port], adb:SERIAL or adb."""
    runtime: str | None = None
    """onnxruntime, litert, pytorch or tensorrt; by default onnxruntime, on a phone litert."""
    precision: str | None = None
    """fp32, fp16 or int8; fp32 by default."""
    threads: int = 1
    """Threads of the runtime. A device name has one setting of threads and batch."""
    batch: int = 1
    """Images at a time; the table has milliseconds per image."""
    cpus: str = ""
    """CPUs to keep to, as 4,5,6; by default the last ones, as many as threads."""
    provider: str = ""
    """What computes: an execution provider of ONNX Runtime (CPUExecutionProvider), LiteRT's
    xnnpack, gpu, nnapi or none, PyTorch's eager, compiled, cuda or cuda-graph; the first of
    each by default."""
    benchmark_model: str = ""
    """Path of TensorFlow Lite's benchmark_model on the target; on a phone by default
    /data/local/tmp/benchmark_model, elsewhere Python's LiteRT is used unless this is given."""

    task: str = "classification"
    """Task of the networks that the table is for."""
    dataset: str | None = None
    """Data set whose resolutions and heads count, as in nas.search."""
    space: str = DEFAULT_SPACE
    """Space whose blocks to measure: family (b and l), b, l, tiny or all."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    num_classes: int | None = None
    """Classes of the networks' heads; by default the data set's."""
    budget: str | None = None  # None: no limit
    """Time for all of it, such as 5min: the most telling blocks are measured, the others
    interpolated. Without it all are measured, where they are no more than 8000."""
    networks: int = 24
    """Whole networks to validate the table on, none of which it has seen."""
    passes: int | None = None
    """Passes over each chunk of models, after two that are dropped; by default 12, or 5 where
    each timing is an invocation of its own, as on a phone."""
    seed: int = 0
    """Of the order of passes and the networks to validate on."""
    energy: bool = False
    """Measure energy too, where the system tells it (RAPL, Jetson): all that its sensor sees,
    what the idle machine takes included."""

    title: str | None = None
    """What to call the device; by default the board's model or its processor."""
    out: Path | None = None
    """Folder of the table; by default the user's own, where --device finds it."""
    run_folder: Path | None = None
    """Folder of the journal; by default results/runs/build-DEVICE-TIME."""
    resume: Path | None = None  # None: a build of its own
    """Go on with the build in this folder; its other flags come from its run.json."""
    python: str = "python3"
    """Interpreter on an ssh target, which must have the runtime."""

    def check(self) -> None:
        """Raise DeviceError for numbers that are too small."""
        least = {"threads": 1, "batch": 1, "passes": 5, "networks": 0, "seed": 0}
        check_all_least(self, least, DeviceError)
        if self.networks == 1:
            raise DeviceError("--networks must be 0 or at least 2, as one has no order")


@dataclass(frozen=True)
class ValidationOptions(Options):
    """Which table to hold against what; see `lut.measuring.validation.validate_table`."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]] of the table."""
    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    target: str = "local"
    """Where to measure: local, ssh://[user@]host[:port], adb:SERIAL or adb."""
    cpus: str = ""
    """CPUs to keep to, as 4,5,6; by default those that the table was measured on."""
    benchmark_model: str = ""
    """Path of TensorFlow Lite's benchmark_model on the target, where the table was measured with
    one elsewhere than usual; a table's own word for what to run is not taken."""
    networks: int = 60
    """How many, spread evenly over the logarithm of their latency."""
    task: str | None = None
    """Task of the networks; by default what the table was measured for, else classification."""
    dataset: str | None = None
    """Data set whose resolutions and heads count, as in nas.search."""
    space: str | None = None
    """Space of the networks; by default the table's own, else family."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    passes: int = 20
    """Passes over all networks, after two that are dropped."""
    seed: int = 1000
    """Of the networks and the order of passes; a build takes its networks from its own seed."""
    out: Path | None = None
    """Run folder; by default results/runs/validate-DEVICE-TIME."""
    save: bool = False
    """Write the errors into the table's sidecar."""
    python: str = "python3"
    """Interpreter on an ssh target, which must have the runtime."""

    def check(self) -> None:
        """Raise DeviceError for numbers that are too small."""
        check_all_least(self, {"networks": 2, "passes": 5, "seed": 0}, DeviceError)
