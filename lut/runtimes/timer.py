"""Times models in turns, on the machine that it runs on, and prints a line for every pass.

    python timer.py FOLDER --runtime onnxruntime --passes 22

Self-contained: Python 3.8 or newer, the runtime, and the NumPy that comes with it. The same file
runs on a workstation, on a board reached by ssh, and anywhere else that has Python. Only PyTorch
needs more: the packages that its models are made of, in the folder `--code`.

FOLDER holds the models and `models.json`, a list of {"file": ..., "repeats": ...}. All are
loaded, then run in passes: every pass takes each model `repeats` times, in an order shuffled
anew, so that no model meets the caches that its own last run left. Standard output has one JSON
object a line:

    {"environment": {...}}                runtime, version, CPUs
    {"error": "..."}                      why nothing can be timed here
    {"loaded": 120}                       so far, every few seconds
    {"failed": 7, "error": "..."}         model 7 cannot be loaded or run; its samples are null
    {"remark": 7, "text": "..."}          a part of model 7 runs elsewhere than was asked for
    {"pass": 0, "us": [...], "load": 0.4, "temperature_c": 51.0}
    {"energy": 7, "mj": 3.1}              of one run of model 7, with --energy

`us` has the microseconds of every run, in order of the models, `repeats` for each: of the host's
clock, or between two events of a GPU. The first passes are slow and not reported (`--warmup`).

Energy is measured after the passes: every model runs back to back for a while, and what its
sensor has counted is shared among the runs. That is all that the sensor sees, what the idle
machine takes included.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import gc
import glob
import json
import os
import platform
import random
import re
import sys
import tempfile
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional  # noqa: UP035

# One run; its microseconds, where a device tells them better than the host's clock.
Run = Callable[[], Optional[float]]  # noqa: UP045

HUGE_PAGES = "glibc.malloc.hugetlb=1"
TAKE_CPU = "choose --provider CPUExecutionProvider, or install what it needs"
TYPED_FROM = (10, 12)  # of TensorRT: networks have the types of their files
BEAT_S = 3.0  # a line at least this often, so that a silence means a hang
WINDOW_S = 0.2  # of one model's energy: some 200 runs, whose sum varies by 3 %
SAMPLING_S = 0.002  # between two readings of a power sensor

_lines: Any = None  # where lines go: standard output, until libraries may print to it


class RefusedError(Exception):
    """Why nothing can be timed here, in one line."""


def say(line: dict[str, Any]) -> None:
    """Write `line` as one JSON object a line, at once."""
    print(json.dumps(line), file=_lines, flush=True)


class OnnxRuntime:
    """Runs ONNX files by ONNX Runtime, through the execution provider that was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy
        import onnxruntime

        self.numpy, self.onnxruntime, self.options = numpy, onnxruntime, options
        onnxruntime.set_default_logger_severity(3)
        self.provider = options.provider or "CPUExecutionProvider"
        check_provider(self.provider, onnxruntime.get_available_providers())
        self.on_gpu = self.provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider")
        self.remarks: list[str] = []
        # Workers of hundreds of sessions, each spinning for a while after its last run, would
        # take the CPUs from the one that runs: all sessions share one pool, where they can.
        share = getattr(onnxruntime, "set_global_thread_pool_sizes", None)
        self.shares_threads = False
        if share is not None and options.threads > 1:
            share(options.threads, 1)
            self.shares_threads = True

    def environment(self) -> dict[str, Any]:
        """Return version, provider and how memory and threads are shared."""
        version = self.onnxruntime.__version__
        environment = {"version": version, "provider": self.provider, "arena": True}
        return {**environment, "shared_threads": True} if self.shares_threads else environment

    def load(self, path: Path) -> Run:
        """Return a function that runs a model on inputs that lie where it computes."""
        runtime = self.onnxruntime
        session = self.checked_session(path)
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        data = normal(self.numpy, given.shape)
        binding = session.io_binding()
        place = ("cuda", 0) if self.on_gpu else ("cpu", 0)
        binding.bind_ortvalue_input(given.name, runtime.OrtValue.ortvalue_from_numpy(data, *place))
        binding.bind_output(result.name, *place)
        run = session.run_with_iobinding
        if not self.on_gpu:
            return lambda: run(binding)

        def synchronous() -> None:
            run(binding)
            binding.synchronize_outputs()

        return synchronous

    def session(self, path: Path, profile: str = "", config: Sequence[str] = ()) -> Any:
        """Return a session for a model, all on one provider.

        Args:
            path: of the ONNX file.
            profile: where the times of nodes are written to; "" for nowhere.
            config: entries of the session's configuration to switch on.

        Raises RuntimeError where the provider cannot be used here.
        """
        runtime, threads = self.onnxruntime, self.options.threads
        # XNNPACK has threads of its own, which ONNX Runtime's must not keep from working.
        own = self.provider == "XnnpackExecutionProvider"
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = 1 if own else threads
        settings.inter_op_num_threads = 1
        settings.use_per_session_threads = not self.shares_threads
        settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0" if own else "1")
        for name in config:
            settings.add_session_config_entry(name, "1")
        if profile:
            settings.enable_profiling, settings.profile_file_prefix = True, profile
        more = [{"intra_op_num_threads": str(threads)}] if own else None
        session = runtime.InferenceSession(str(path), settings, [self.provider], more)
        if self.provider not in session.get_providers():  # it was dropped with a warning
            raise RuntimeError(f"{self.provider} cannot be used here; {TAKE_CPU}")
        return session

    def checked_session(self, path: Path) -> Any:
        """Return a session whose nodes run where they were asked to, all or, with a remark, a part.

        What a provider does not take, ONNX Runtime gives to its CPU provider in silence.
        """
        if self.provider == "CPUExecutionProvider":
            return self.session(path)
        if number_of(self.onnxruntime.__version__) >= (1, 16):  # before, it knew no such switch
            try:
                return self.session(path, config=["session.disable_cpu_ep_fallback"])
            except Exception as error:  # of a class that is not public
                if "assigned to the default CPU EP" not in str(error):
                    raise
        taken, nodes = self.count_nodes(path)
        if not taken:
            raise RuntimeError(f"{self.provider} takes none of its {nodes} nodes; {TAKE_CPU}")
        if taken < nodes:
            self.remarks.append(f"{self.provider} runs only {taken} of {nodes} nodes")
        return self.session(path)

    def count_nodes(self, path: Path) -> tuple[int, int]:
        """Return how many nodes, fused ones as one, the provider runs, and of how many."""
        with tempfile.TemporaryDirectory() as folder:
            session = self.session(path, profile=os.path.join(folder, "profile"))
            (given,) = session.get_inputs()
            session.run(None, {given.name: normal(self.numpy, given.shape)})
            events = json.loads(Path(session.end_profiling()).read_text())
        told = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
        providers = [args["provider"] for args in told if "provider" in args]
        return providers.count(self.provider), len(providers)


class LiteRT:
    """Runs TFLite files by LiteRT, on the CPU, by XNNPACK or without a delegate."""

    on_gpu = False

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy

        try:
            from ai_edge_litert import interpreter
        except ImportError:  # small boards have the older package
            from tflite_runtime import interpreter
        self.numpy, self.interpreter, self.options = numpy, interpreter, options
        self.provider = options.provider or "xnnpack"
        check_provider(self.provider, ("xnnpack", "none"))
        self.remarks: list[str] = []

    def environment(self) -> dict[str, Any]:
        """Return version, package and delegate."""
        package = self.interpreter.__name__.split(".")[0]
        version = version_of(package.replace("_", "-"))
        return {"version": version, "package": package, "provider": self.provider}

    def load(self, path: Path) -> Run:
        """Return a function that runs a model. Raises RuntimeError as `check_delegate` does."""
        more = {}
        if self.provider == "none":
            kinds = self.interpreter.OpResolverType
            more["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = self.interpreter.Interpreter(
            model_path=str(path), num_threads=self.options.threads, **more
        )
        interpreter.allocate_tensors()
        self.check_delegate(interpreter)
        (given,) = interpreter.get_input_details()
        interpreter.set_tensor(given["index"], normal(self.numpy, given["shape"]))
        invoke: Run = interpreter.invoke
        return invoke

    def check_delegate(self, interpreter: Any) -> None:
        """Compare the delegate that was applied with the one that was asked for.

        A remark where XNNPACK takes no node. Raises RuntimeError where one was applied though none
        was asked for.
        """
        operations = getattr(interpreter, "_get_ops_details", lambda: None)()
        if operations is None:
            return
        applied = any(operation.get("op_name") == "DELEGATE" for operation in operations)
        if self.provider == "none" and applied:
            raise RuntimeError("a delegate was applied though none was asked for")
        if self.provider == "xnnpack" and not applied:
            self.remarks.append("XNNPACK takes none of its nodes")


class PyTorch:
    """Models are lists of blocks, which become modules here, with random weights."""

    PROVIDERS = ("eager", "compiled", "cuda", "cuda-graph")

    def __init__(self, options: argparse.Namespace) -> None:
        if sys.version_info < (3, 10):  # noqa: UP036
            raise RefusedError("timing PyTorch takes Python 3.10 or newer; name one with --python")
        import torch

        sys.path.insert(0, options.code)
        from supernet.blocks import Block
        from supernet.model import module_of

        self.torch, self.block, self.module_of = torch, Block, module_of
        self.batch = options.batch
        self.provider = options.provider or "eager"
        check_provider(self.provider, self.PROVIDERS)
        self.on_gpu = self.provider.startswith("cuda")
        if self.on_gpu and not torch.cuda.is_available():
            raise RefusedError(
                "PyTorch finds no CUDA device here; choose --provider eager or compiled"
            )
        if options.precision == "fp16" and not self.on_gpu:
            raise RefusedError("PyTorch computes fp16 on CUDA alone; choose --provider cuda-graph")
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.place = torch.device("cuda" if self.on_gpu else "cpu")
        self.dtype = torch.float16 if options.precision == "fp16" else torch.float32
        self.pool = torch.cuda.graph_pool_handle() if self.provider == "cuda-graph" else None
        self.count = 0

    def environment(self) -> dict[str, Any]:
        """Return version and provider, and the GPU's name and CUDA where one computes."""
        environment = {"version": self.torch.__version__, "provider": self.provider}
        if self.on_gpu:
            environment["gpu"] = self.torch.cuda.get_device_name()
            environment["cuda"] = self.torch.version.cuda
        return environment

    def load(self, path: Path) -> Run:
        """Return a function that runs the blocks of a file in turn, on one random picture."""
        model = json.loads(path.read_text())
        blocks = [self.block(**row) for row in model["blocks"]]
        modules = [self.module_of(block, model["eps"]).eval() for block in blocks]
        for module in modules:
            module.to(self.place, self.dtype)
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.device.type != self.place.type:
                    raise RuntimeError(f"a tensor is on {tensor.device}, not on {self.place}")
        inputs = [block.inputs or (index - 1,) for index, block in enumerate(blocks)]
        last_read = {value: index for index, reads in enumerate(inputs) for value in reads}
        steps = [
            (modules[index], reads, [value for value in set(reads) if last_read[value] == index])
            for index, reads in enumerate(inputs)
        ]
        first = blocks[0]
        shape = (self.batch, first.in_channels, first.height, first.width)
        picture = self.torch.randn(shape, device=self.place, dtype=self.dtype)

        def forward(x: Any) -> Any:
            values = {-1: x}
            for index, (module, reads, dead) in enumerate(steps):
                values[index] = module(*[values[i] for i in reads])
                for value in dead:
                    del values[value]
            return values[len(steps) - 1]

        if self.provider == "compiled":
            forward = self.compiled(forward)
        inference = self.torch.inference_mode

        def eager() -> None:
            with inference():
                forward(picture)

        if not self.on_gpu:
            return eager
        return self.timed(self.captured(eager) if self.provider == "cuda-graph" else eager)

    def compiled(self, forward: Any) -> Any:
        """Compile a function under a code object of its own.

        PyTorch keeps compiled functions by it: those of all models would be looked through at
        every call, and given up after the eighth.
        """
        self.count += 1
        code = forward.__code__.replace(co_name=f"model{self.count}")
        own = types.FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)
        return self.torch.compile(own, fullgraph=True, dynamic=False)

    def captured(self, run: Run) -> Run:
        """Capture a run as a CUDA graph; all share one pool of memory, as none needs old results.

        A graph knows addresses alone: weights and picture must live as long as it does.
        """
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                run()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self.pool):
            run()

        def replay(kept: Run = run) -> None:
            graph.replay()

        return replay

    def timed(self, run: Run) -> Run:
        """Return a run that tells its microseconds, taken by two events on the GPU."""
        event: Any = self.torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)

        def timed() -> float:
            start.record()
            run()
            end.record()
            end.synchronize()
            return 1000 * float(start.elapsed_time(end))

        return timed

    def check(self) -> None:
        """Raise the error of a GPU that is lost."""
        if self.on_gpu:
            self.torch.cuda.synchronize()


class TensorRT:
    """Engines built from ONNX, each captured as a CUDA graph and timed by events.

    Tactics are timed once: they are kept in the user's cache folder for all builds to come.
    """

    on_gpu = True

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy
        import tensorrt

        if not hasattr(tensorrt.IExecutionContext, "execute_async_v3"):
            raise RefusedError(f"TensorRT {tensorrt.__version__} is older than 8.5")
        self.numpy, self.tensorrt, self.options = numpy, tensorrt, options
        self.cuda = Cuda()
        self.stream = self.cuda.made("cudaStreamCreate")
        self.logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self.builder = tensorrt.Builder(self.logger)
        self.typed = number_of(tensorrt.__version__) >= TYPED_FROM
        half = options.precision == "fp16" and not self.typed
        if half and not getattr(self.builder, "platform_has_fast_fp16", True):
            raise RefusedError(
                "TensorRT has no fast fp16 on this GPU and would build engines in fp32; choose "
                "--precision fp32"
            )
        self.runtime = tensorrt.Runtime(self.logger)
        folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        name = f"tensorrt-{tensorrt.__version__}-{options.precision}.timing"
        self.cache = Path(folder) / "efficientvit-nas" / name

    def environment(self) -> dict[str, Any]:
        """Return TensorRT's version."""
        return {"version": self.tensorrt.__version__}

    def load(self, path: Path) -> Run:
        """Return a function that runs a model as one CUDA graph, and tells its microseconds.

        Raises RuntimeError where no engine can be built, run or captured.
        """
        engine = self.runtime.deserialize_cuda_engine(self.build(path))
        context = engine.create_execution_context()
        tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for name in tensors:
            data = normal(self.numpy, engine.get_tensor_shape(name))
            context.set_tensor_address(name, self.cuda.copied(data))
        stream = self.stream

        def enqueue() -> None:
            if not context.execute_async_v3(stream.value):
                raise RuntimeError("TensorRT cannot run its engine")

        enqueue()
        self.cuda.call("cudaStreamSynchronize", stream)
        launch = self.cuda.captured(enqueue, stream)
        if launch is None:
            raise RuntimeError("its engine cannot be captured as a CUDA graph")
        return self.cuda.timed(launch, stream, keep=(engine, context))

    def build(self, path: Path) -> Any:
        """Return the engine, serialised.

        Before TYPED_FROM fp16 is a permission, from then on the model's own type.
        """
        trt = self.tensorrt
        kinds = trt.NetworkDefinitionCreationFlag
        names = ["EXPLICIT_BATCH", *["STRONGLY_TYPED"] * self.typed]
        flags = {1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name)}
        network = self.builder.create_network(sum(flags))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(path.read_bytes()):
            told = [str(parser.get_error(i)) for i in range(parser.num_errors)]
            raise RuntimeError(told[0] if told else "TensorRT cannot read this model")
        config = self.builder.create_builder_config()
        half = getattr(trt.BuilderFlag, "FP16", None)
        if self.options.precision == "fp16" and half is not None and not self.typed:
            config.set_flag(half)
        known = self.cache.read_bytes() if self.cache.exists() else b""
        cache = config.create_timing_cache(known)
        if not config.set_timing_cache(cache, False):  # of another GPU
            known = b""
            config.set_timing_cache(config.create_timing_cache(b""), False)
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            raise RuntimeError("TensorRT builds no engine of this model")
        learnt = bytes(config.get_timing_cache().serialize())
        if len(learnt) != len(known):
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            part = self.cache.with_suffix(f".{os.getpid()}")
            part.write_bytes(learnt)
            part.replace(self.cache)
        return engine

    def check(self) -> None:
        """Raise the error of a GPU that is lost."""
        self.cuda.call("cudaDeviceSynchronize")


class Cuda:
    """The few functions of CUDA's runtime that timing takes: where TensorRT is, its library is."""

    NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")

    def __init__(self) -> None:
        libraries = [
            *self.NAMES,
            *glob.glob("/usr/local/cuda/lib64/libcudart.so*"),
            *(
                path
                for folder in sys.path
                for path in glob.glob(f"{folder}/nvidia/c*/lib/libcudart.so*")
            ),
        ]
        for name in libraries:
            try:
                self.library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise RefusedError(
                "there is no libcudart.so, of CUDA 11.4 or newer; install the CUDA runtime"
            )
        self.library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. Raises RuntimeError with CUDA's words where it fails."""
        status = getattr(self.library, name)(*arguments)
        if status:
            reason = self.library.cudaGetErrorString(status).decode()
            raise RuntimeError(f"{name}: {reason}")

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Return the handle or pointer that a function writes to its first argument."""
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def copied(self, data: Any) -> int:
        """Copy `data` to device memory, which is never freed, and return its address."""
        pointer = self.made("cudaMalloc", ctypes.c_size_t(max(data.nbytes, 1)))
        source, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        self.call("cudaMemcpy", pointer, source, size, ctypes.c_int(1))  # host to device
        if pointer.value is None:
            raise RuntimeError("cudaMalloc gave no memory")
        return pointer.value

    def captured(self, enqueue: Callable[[], None], stream: ctypes.c_void_p) -> Run | None:
        """Return a launch of all that `enqueue` does, as one graph; None where that cannot be."""
        self.call("cudaStreamBeginCapture", stream, ctypes.c_int(1))  # of this thread alone
        failed = False
        try:
            enqueue()
        except RuntimeError:
            failed = True
        graph = ctypes.c_void_p()
        status = self.library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        if failed or status or not graph:
            self.library.cudaGetLastError()
            return None
        launchable = self.made("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        return lambda: self.call("cudaGraphLaunch", launchable, stream)

    def timed(self, launch: Run, stream: ctypes.c_void_p, keep: Any) -> Run:
        """Time a launch by two events; its own cost is part of it, the same for all models."""
        start, end = self.made("cudaEventCreate"), self.made("cudaEventCreate")
        milliseconds = ctypes.c_float()

        def timed(kept: Any = keep) -> float:
            self.call("cudaEventRecord", start, stream)
            launch()
            self.call("cudaEventRecord", end, stream)
            self.call("cudaEventSynchronize", end)
            self.call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, end)
            return 1000 * milliseconds.value

        return timed


RUNTIMES: dict[str, Any] = {
    "onnxruntime": OnnxRuntime,
    "litert": LiteRT,
    "pytorch": PyTorch,
    "tensorrt": TensorRT,
}
PACKAGES = {  # of pip
    "onnxruntime": "onnxruntime",
    "litert": "ai-edge-litert",
    "pytorch": "torch",
    "tensorrt": "tensorrt",
}


def check_provider(name: str, known: Sequence[str]) -> None:
    """Raise RefusedError with the nearest name unless a provider is `known`."""
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RefusedError(f"no provider {name!r}{hint} (choose from {', '.join(known)})")


class Rapl:
    """The energy counters of x86 processors, in microjoules, which start anew at a limit."""

    def __init__(self, zones: list[Path]) -> None:
        self.zones = zones
        self.limits = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self.start()

    def environment(self) -> dict[str, Any]:
        """Return the sensor's name and the zones that are counted."""
        return {"sensor": "RAPL", "zones": [(z / "name").read_text().strip() for z in self.zones]}

    def start(self) -> None:
        """Begin a window: note where the counters are."""
        self.before = self.read()

    def stop_mj(self) -> float:
        """Return millijoules since `start`: a counter turns over after a minute or so."""
        now = self.read()
        turns = [limit + 1 for limit in self.limits]
        return sum((now[i] - self.before[i]) % turn for i, turn in enumerate(turns)) / 1000

    def read(self) -> list[int]:
        """Return the counters, in microjoules."""
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]


class Ina3221:
    """The power monitors of Jetson boards: volts and amperes of rails, read again and again."""

    def __init__(self, rails: list[tuple[str, Path, Path]]) -> None:
        whole = [rail for rail in rails if rail[0].endswith("_IN")]  # VDD_IN, POM_5V_IN: the board
        self.rails = whole or rails
        self.read_w()

    def environment(self) -> dict[str, Any]:
        """Return the sensor's name and the rails that are read."""
        return {"sensor": "INA3221", "rails": [name for name, _, _ in self.rails]}

    def start(self) -> None:
        """Begin a window: sum power over time from here on."""
        self.joules, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()

    def stop_mj(self) -> float:
        """End the window, and return millijoules since `start`."""
        self.ended.set()
        self.thread.join()
        return 1000 * self.joules

    def sample(self) -> None:
        """Sum power over time until the window ends."""
        then, before_w = time.monotonic(), self.read_w()
        while True:
            ended = self.ended.wait(SAMPLING_S)
            now, watts = time.monotonic(), self.read_w()
            self.joules += (now - then) * (before_w + watts) / 2
            then, before_w = now, watts
            if ended:
                return

    def read_w(self) -> float:
        """Return the power of all rails, in watts."""
        mv_ma = ((int(v.read_text()), int(a.read_text())) for _, v, a in self.rails)
        return sum(mv * ma for mv, ma in mv_ma) / 1e6


def find_sensor(sysfs: Path, on_gpu: bool) -> Any:
    """Return what tells energy here. Raises RefusedError where nothing does."""
    rails = []
    for label in sorted((sysfs / "bus/i2c/drivers").glob("ina3221*/*/hwmon/hwmon*/in[123]_label")):
        current = label.with_name(label.name.replace("in", "curr").replace("label", "input"))
        voltage = label.with_name(label.name.replace("label", "input"))
        if current.exists() and voltage.exists():
            rails.append((label.read_text().strip(), voltage, current))
    zones = []
    for path in sorted((sysfs / "class/powercap").glob("intel-rapl:*/name")):
        name = path.read_text().strip()
        if name.startswith("package") or name == "dram":  # the package holds its cores
            zones.append(path.parent)
    try:
        if rails:
            return Ina3221(rails)
        if zones and not on_gpu:
            return Rapl(zones)
    except PermissionError as error:
        raise RefusedError(
            f"only root may read energy here: sudo chmod a+r {error.filename}"
        ) from None
    except (OSError, ValueError) as error:
        raise RefusedError(f"the energy sensor cannot be read: {error}") from None
    if zones:
        raise RefusedError("no sensor tells the energy of a GPU here; leave --energy out")
    raise RefusedError(
        "no sensor tells energy here, neither RAPL nor an INA3221; leave --energy out"
    )


def energy_mj(run: Run, sensor: Any, window_s: float) -> float:
    """Return millijoules of one run, the mean over a window of them."""
    run()
    sensor.start()
    end = time.monotonic() + window_s
    count = 0
    while not count or time.monotonic() < end:
        run()
        count += 1
    return float(sensor.stop_mj()) / count


def normal(numpy: Any, shape: Sequence[int]) -> Any:
    """Return a random input of ordinary size: denormal numbers would be slow."""
    return numpy.random.default_rng(0).standard_normal(tuple(shape)).astype("float32")


def version_of(package: str) -> str | None:
    """Return the version of a package, or None where it is not told."""
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:
        return None


def number_of(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version.

    >>> number_of("10.12.0.36")
    (10, 12)
    """
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def pin(cpus: str, threads: int) -> list[int] | None:
    """Keep to the CPUs that were asked for, by default the last ones: the big ones on a board."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    chosen = [int(cpu) for cpu in cpus.split(",")] if cpus else allowed[-threads:]
    try:
        os.sched_setaffinity(0, chosen)
    except OSError:
        listed = ", ".join(map(str, allowed))
        raise RefusedError(f"--cpus {cpus}: this machine lets us use {listed}") from None
    if threads > len(chosen):
        given = f"--cpus {cpus} names {len(chosen)}" if cpus else f"this machine has {len(chosen)}"
        raise RefusedError(f"{threads} threads need as many CPUs, {given}; lower --threads")
    return chosen


def temperature_c() -> float | None:
    """Return the hottest thermal zone, in degrees, or None where the system tells none."""
    zones_c = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            zones_c.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max((celsius for celsius in zones_c if 1 < celsius < 150), default=None)


def load_all(runtime: Any, folder: Path, models: list[dict[str, Any]]) -> list[Run | None]:
    """Return a function that runs it for every model, or None where it cannot be loaded."""
    functions: list[Run | None] = []
    last_beat = time.monotonic()
    for index, model in enumerate(models):
        try:
            loaded: Run = runtime.load(folder / model["file"])
            loaded()
            run: Run | None = loaded
            for text in getattr(runtime, "remarks", []):
                say({"remark": index, "text": text})
        except Exception as error:
            if runtime.on_gpu and hasattr(runtime, "check"):
                runtime.check()  # a GPU that is lost would refuse all other models, too
            say({"failed": index, "error": f"{type(error).__name__}: {error}"[:300]})
            run = None
        functions.append(run)
        getattr(runtime, "remarks", []).clear()
        if time.monotonic() - last_beat > BEAT_S:
            last_beat = time.monotonic()
            say({"loaded": index + 1})
    say({"loaded": len(models)})
    return functions


def shuffled(repeats: Sequence[int], seed: int, number: int) -> list[int]:
    """Return the order of pass `number`: every model as often as it is repeated."""
    order = [index for index, count in enumerate(repeats) for _ in range(count)]
    random.Random(f"{seed} {number}").shuffle(order)
    return order


def time_pass(
    functions: Sequence[Run | None], repeats: Sequence[int], order: Sequence[int]
) -> list[float | None]:
    """Return microseconds of every run, in order of the models, each `repeats` times.

    None stands for the runs of a model that could not be loaded.
    """
    clock = time.perf_counter_ns
    samples: list[list[float]] = [[] for _ in functions]
    last_beat = clock()
    for index in order:
        run = functions[index]
        if run is None:
            continue
        start = clock()
        device_us = run()
        end = clock()
        samples[index].append((end - start) / 1000 if device_us is None else device_us)
        if end - last_beat > BEAT_S * 1e9:
            last_beat = end
            say({"at": index})
    flat: list[float | None] = []
    for index, times in enumerate(samples):
        flat.extend(times if times else [None] * repeats[index])
    return flat


def measure_energy(
    functions: Sequence[Run | None], order: Sequence[int], sensor: Any, window_s: float
) -> None:
    """Say the energy of every model, one after the other in the order that they come first."""
    for index in dict.fromkeys(order):
        run = functions[index]
        if run is not None:
            say({"energy": index, "mj": energy_mj(run, sensor, window_s)})


def parsed() -> argparse.Namespace:
    """Return the flags."""
    # Not from the docstring, which -OO takes away, here or by PYTHONOPTIMIZE on a board.
    parser = argparse.ArgumentParser(description="Times models in turns, see the top of this file.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", required=True, choices=sorted(RUNTIMES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpus", default="", help="comma-separated; default: the last ones")
    parser.add_argument("--provider", default="", help="of ONNX Runtime, delegate, or PyTorch mode")
    parser.add_argument("--precision", default="fp32", help="of PyTorch and TensorRT")
    parser.add_argument("--batch", type=int, default=1, help="of PyTorch")
    parser.add_argument("--passes", type=int, default=22)
    parser.add_argument("--first-pass", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--energy", action="store_true", help="after the passes")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="of energy, seconds")
    parser.add_argument("--sysfs", type=Path, default=Path("/sys"), help="with the energy sensors")
    parser.add_argument("--code", default="", help="folder of the packages of PyTorch's models")
    parser.add_argument("--check", action="store_true", help="tell the environment and end")
    return parser.parse_args()


def time_models(options: argparse.Namespace) -> None:
    """Say the environment, then the times of all models, then their energy if asked for.

    Raises RefusedError where nothing can be timed here.
    """
    cpus = pin(options.cpus, options.threads)  # before the runtime counts its CPUs
    try:
        runtime = RUNTIMES[options.runtime](options)
    except ImportError as error:
        raise RefusedError(
            f"{options.runtime} cannot be imported by {sys.executable}: {error}; `{sys.executable} "
            f"-m pip install {PACKAGES[options.runtime]}` there, or name another by --python"
        ) from None
    environment = {
        "runtime": options.runtime,
        "python": platform.python_version(),
        "cpus": cpus,
        "threads": options.threads,
    }
    environment.update(runtime.environment())
    sensor = find_sensor(options.sysfs, runtime.on_gpu) if options.energy else None
    if sensor is not None:
        environment["energy"] = sensor.environment()
    say({"environment": environment})
    if options.check:
        return
    models = json.loads((options.folder / "models.json").read_text())
    functions = load_all(runtime, options.folder, models)
    repeats = [model.get("repeats", 1) for model in models]
    gc.disable()
    for number in range(-options.warmup, options.passes):
        count = options.first_pass + number
        us = time_pass(functions, repeats, shuffled(repeats, options.seed, count))
        if number >= 0:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            say({"pass": count, "us": us, "load": load, "temperature_c": temperature_c()})
        else:
            say({"warmup": number})
    if sensor is not None:
        order = shuffled(repeats, options.seed, options.first_pass + options.passes)
        measure_energy(functions, order, sensor, options.window)


def use_huge_pages() -> None:
    """Start this script again with memory in huge pages, where the C library can.

    Where small pages happen to lie decides how they share the caches: one and the same network
    loaded several times differed by 1.5 % (ONNX Runtime) and 3.9 % (LiteRT), in huge pages by 0.6
    and 1.6 %, at the same mean. Needs glibc 2.35 and a Linux that gives huge pages when asked.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and HUGE_PAGES not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, HUGE_PAGES]))
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    """Time models, or say why not and end with status 1."""
    global _lines
    options = parsed()
    _lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print spoils no line
    try:
        time_models(options)
    except RefusedError as refusal:
        say({"error": str(refusal)})
        sys.exit(1)


if __name__ == "__main__":
    use_huge_pages()
    try:
        main()
    except BrokenPipeError:  # whoever asked has gone
        os._exit(1)
