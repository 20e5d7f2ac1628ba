"""The timer in a process of its own: with the real runtimes, and with ones that misbehave."""

import ast
import itertools
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from lut.measuring.chunks import network_model
from lut.measuring.probes import difference_of
from lut.runtimes.session import Model, Setting, write_models
from lut.runtimes.timer import Ina3221, Rapl, RefusedError, find_sensor, shuffled
from supernet.blocks import blocks_of
from supernet.official import named_arch
from supernet.spaces import get_space
from tests import stand_ins
from tests.conftest import ROOT
from tests.stand_ins import ONNXRUNTIME, TIMER, passes_of, run_timer

SPACE = get_space("tiny")
ARCH = SPACE.sample(random.Random(2))


def tiny_models():
    """A network with a head, a linear layer, an attention block and a sum of three branches."""
    blocks = blocks_of(ARCH)
    linear = next(block for block in blocks if block.kind == "linear")
    mixer = next(b for seed in range(9) for b in some_blocks(seed) if b.kind == "relu_linear")
    segmented = named_arch("b0", task="segmentation", dataset="cityscapes", resolution=(64, 128))
    add = next(block for block in blocks_of(segmented) if block.kind == "add")
    return [
        network_model(ARCH),
        *(Model(probe_of(block), repeats=2) for block in (linear, mixer, add)),
    ]


def probe_of(block):
    difference = difference_of(block)
    assert difference is not None
    return difference.probe


def some_blocks(seed):
    return blocks_of(SPACE.sample(random.Random(seed)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "pytorch"])
def test_real_models_are_timed_and_a_corrupt_one_is_reported(runtime, tmp_path):
    write_models(tmp_path, Setting(runtime, "fp32"), tiny_models())
    listed = json.loads((tmp_path / "models.json").read_text())
    listed.insert(1, {"file": "corrupt", "repeats": 3})
    (tmp_path / "corrupt").write_bytes(b"\x08\x07{no model\xff")
    (tmp_path / "models.json").write_text(json.dumps(listed))
    lines, _ = run_timer(tmp_path, f"--runtime={runtime}", "--passes=5", f"--code={ROOT}")
    environment = lines[0]["environment"]
    assert (environment["runtime"], environment["threads"]) == (runtime, 1)
    assert environment["version"][0].isdigit()
    assert environment["cpus"] == [min(os.sched_getaffinity(0))]
    (failed,) = (line for line in lines if "failed" in line)
    assert failed["failed"] == 1
    assert failed["error"]
    passes = passes_of(lines)
    assert list(passes) == [0, 1, 2, 3, 4]
    for us in passes.values():
        assert us[1:4] == [None, None, None]
        assert len(us) == 1 + 3 + 3 * 2
        assert all(value > 0 for value in us[:1] + us[4:])


def test_litert_runs_without_its_delegate(tmp_path):
    write_models(tmp_path, Setting("litert", "fp32"), tiny_models()[:1])
    for provider in ("xnnpack", "none"):
        lines, said = run_timer(
            tmp_path, "--runtime=litert", f"--provider={provider}", "--passes=1"
        )
        assert lines[0]["environment"]["provider"] == provider
        assert ("XNNPACK delegate" in said) == (provider == "xnnpack")
        assert passes_of(lines)[0][0] > 0


@pytest.fixture
def fake(tmp_path):
    """Run the timer on models that do as their words say, with a stand-in for the runtime."""
    path = stand_ins.install(tmp_path / "path", onnxruntime=ONNXRUNTIME, numpy=stand_ins.NUMPY)
    runs = tmp_path / "runs"

    def fake(*words, flags=(), repeats=(), **more):
        models = stand_ins.write_models(tmp_path / "models", *words, repeats=repeats)
        runs.write_text("")
        lines, said = run_timer(
            models, "--runtime=onnxruntime", *flags, PYTHONPATH=path, RUNS=runs, **more
        )
        return lines, said, list(map(int, runs.read_text().split()))

    return fake


def orders(runs, num_models, length):
    """Of the passes: what ran after every model was tried once."""
    runs = runs[num_models:]
    return [tuple(runs[start : start + length]) for start in range(0, len(runs), length)]


def test_each_pass_has_an_order_of_its_own_which_the_seed_gives(fake):
    words, repeats = ["ok"] * 6, (1, 2, 1, 1, 3, 1)
    found = {}
    for name, flags in {
        "whole": ["--passes=4", "--seed=5"],
        "again": ["--passes=4", "--seed=5"],
        "resumed": ["--passes=2", "--seed=5", "--first-pass=2"],
        "other": ["--passes=4", "--seed=6"],
    }.items():
        lines, _, runs = fake(*words, repeats=repeats, flags=flags)
        found[name] = orders(runs, 6, 9)
        assert len(found[name]) == len(passes_of(lines)) + 2
        for order in found[name]:
            assert sorted(order) == [0, 1, 1, 2, 3, 4, 4, 4, 5]
    assert found["whole"] == found["again"]
    assert len(set(found["whole"])) == 6
    assert found["resumed"] == found["whole"][2:]
    assert not set(found["whole"]) & set(found["other"])
    assert found["whole"][2:] == [tuple(shuffled(repeats, 5, number)) for number in range(4)]


def test_what_libraries_print_spoils_no_line(fake):
    lines, said, _ = fake("ok", "loud", flags=["--passes=2"])
    assert len(passes_of(lines)) == 2
    for words in ("from Python, at import", "from C, at import", "a warning"):
        assert words in said


@pytest.mark.parametrize("version", ["1.14.1", "1.16.0", "1.32.0"])
def test_nodes_that_a_provider_leaves_to_the_cpu_are_counted(fake, version):
    flags = ("--provider=CUDAExecutionProvider", "--passes=1")
    lines, _, _ = fake("ok", "part", "cpu", "dropped", "ok", flags=flags, ORT_VERSION=version)
    assert [line for line in lines if "remark" in line] == [
        {"remark": 1, "text": "CUDAExecutionProvider runs only 2 of 3 nodes"}
    ]
    errors = {line["failed"]: line["error"] for line in lines if "failed" in line}
    assert list(errors) == [2, 3]
    assert "CUDAExecutionProvider takes none of its 3 nodes; choose --provider CPU" in errors[2]
    assert "CUDAExecutionProvider cannot be used here" in errors[3]
    (us,) = passes_of(lines).values()
    assert [value is None for value in us] == [False, False, True, True, False]


def test_on_the_cpu_nothing_is_counted(fake):
    lines, _, _ = fake("ok", "part", "cpu", flags=["--passes=1"])
    assert not any("remark" in line or "failed" in line for line in lines)


def test_a_real_provider_that_takes_no_node_is_no_provider(tmp_path):
    """ONNX Runtime's wheel brings one that takes nothing of ours; all would run on the CPU."""
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no such provider")
    write_models(tmp_path, Setting("onnxruntime", "fp32"), tiny_models()[:2])
    flags = ("--runtime=onnxruntime", "--provider=AzureExecutionProvider", "--passes=1")
    lines, _ = run_timer(tmp_path, *flags)
    errors = [line["error"] for line in lines if "failed" in line]
    assert len(errors) == 2
    assert all("AzureExecutionProvider takes none of its" in error for error in errors)


def test_litert_with_a_delegate_that_nobody_asked_for_is_refused(tmp_path):
    """And one that was asked for and takes nothing is remarked on."""
    interpreter = """
import enum, os
class OpResolverType(enum.Enum):
    BUILTIN_WITHOUT_DEFAULT_DELEGATES = 1
class Interpreter:
    def __init__(self, model_path, num_threads, experimental_op_resolver_type=None):
        self.does = open(model_path).read()
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0, "shape": [1, 8]}]
    def set_tensor(self, index, value): pass
    def invoke(self): pass
    def _get_ops_details(self):
        return [{"op_name": "CONV_2D"}] + [{"op_name": "DELEGATE"}] * (self.does == "delegated")
"""
    package = tmp_path / "path" / "ai_edge_litert"
    package.mkdir(parents=True)
    stand_ins.install(package, __init__="", interpreter=interpreter)
    models = stand_ins.write_models(tmp_path / "models", "delegated", "plain")
    stand_ins.install(tmp_path / "path", numpy=stand_ins.NUMPY)
    for provider in ("none", "xnnpack"):
        flags = ("--runtime=litert", "--passes=1", f"--provider={provider}")
        lines, _ = run_timer(models, *flags, PYTHONPATH=tmp_path / "path")
        told = [line for line in lines if "failed" in line or "remark" in line]
        if provider == "none":
            assert told[0]["failed"] == 0
            assert "a delegate was applied though none" in told[0]["error"]
        else:
            assert told == [{"remark": 1, "text": "XNNPACK takes none of its nodes"}]
        assert len(told) == 1


@pytest.mark.parametrize("optimise", ["1", "2"])
def test_it_needs_no_docstring(fake, optimise):
    lines, _, _ = fake("ok", flags=["--passes=2"], PYTHONOPTIMIZE=optimise)
    assert len(passes_of(lines)) == 2
    (line,), _, _ = fake("ok", flags=["--check"], python=(sys.executable, "-OO"))
    assert line["environment"]["version"] == "1.20.3"


def test_an_unknown_provider_is_refused_with_the_nearest(fake):
    (line,), _, runs = fake("ok", flags=["--provider=CUDAExecutionProvidr"], code=1)
    assert "did you mean 'CUDAExecutionProvider'" in line["error"]
    assert runs == []


def test_a_missing_runtime_names_what_to_install(tmp_path):
    path = stand_ins.install(tmp_path / "path", ai_edge_litert="", tflite_runtime="")
    (line,), _ = run_timer(tmp_path, "--runtime=litert", code=1, PYTHONPATH=path)
    assert f"{sys.executable} -m pip install ai-edge-litert" in line["error"]
    assert "\n" not in line["error"]


def test_cpus_that_are_not_there_are_refused(tmp_path):
    (line,), _ = run_timer(tmp_path, "--runtime=onnxruntime", "--cpus=4095", code=1)
    assert "--cpus 4095: this machine lets us use" in line["error"]


def test_pytorch_without_a_gpu_is_refused(tmp_path):
    flags = ("--runtime=pytorch", f"--code={ROOT}", "--check")
    (line,), _ = run_timer(
        tmp_path, *flags, "--provider=cuda-graph", code=1, CUDA_VISIBLE_DEVICES=""
    )
    assert "no CUDA device" in line["error"]
    (line,), _ = run_timer(tmp_path, *flags, "--precision=fp16", code=1)
    assert "--provider cuda-graph" in line["error"]


@pytest.mark.slow
def test_more_compiled_models_than_pytorch_keeps_by_code(tmp_path):
    blocks = dict.fromkeys(b for seed in range(3) for b in some_blocks(seed) if b.kind == "mbconv")
    models = [Model(probe_of(block)) for block in list(blocks)[:10]]
    write_models(tmp_path, Setting("pytorch", "fp32", provider="compiled"), models)
    flags = ("--runtime=pytorch", "--provider=compiled", f"--code={ROOT}")
    lines, said = run_timer(tmp_path, *flags, "--passes=2", TORCH_LOGS="recompiles")
    assert all(value > 0 for us in passes_of(lines).values() for value in us)
    assert "Recompiling" not in said


def test_a_broken_pipe_ends_it(tmp_path):
    path = stand_ins.install(tmp_path / "path", onnxruntime=ONNXRUNTIME, numpy=stand_ins.NUMPY)
    models = stand_ins.write_models(tmp_path / "models", "ok")
    process = subprocess.Popen(
        [sys.executable, TIMER, models, "--runtime=onnxruntime", "--passes=100000000"],
        env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    while '"pass"' not in process.stdout.readline():
        pass
    process.stdout.close()
    assert process.wait(timeout=30) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_its_syntax_is_that_of_python_3_8():
    ast.parse(TIMER.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_an_old_python_runs_it(fake, version):
    python = shutil.which(f"python{version}")
    environment = {**os.environ, "PYENV_VERSION": version}
    if not python or subprocess.run([python, "-V"], env=environment, check=False).returncode:
        pytest.skip(f"there is no Python {version} here")
    lines, _, runs = fake(
        "ok", "corrupt", "ok", flags=["--passes=3"], python=(python,), PYENV_VERSION=version
    )
    assert lines[0]["environment"]["python"].startswith(version)
    assert [line["failed"] for line in lines if "failed" in line] == [1]
    assert len(passes_of(lines)) == 3
    assert len(runs) == 2 + 2 * 5


def write_sysfs(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def rapl(root, name, label, limit=262143328850):
    zone = f"class/powercap/{name}"
    return write_sysfs(
        root,
        {f"{zone}/name": label, f"{zone}/energy_uj": 0, f"{zone}/max_energy_range_uj": limit},
    )


def ina3221(root, *rails, bus="1-0040"):
    """Rails as (label, millivolts, milliamperes)."""
    folder = f"bus/i2c/drivers/ina3221/{bus}/hwmon/hwmon3"
    for number, (label, mv, ma) in enumerate(rails, start=1):
        names = {"in_label": label, "in_input": mv, "curr_input": ma}
        write_sysfs(
            root,
            {f"{folder}/{k.replace('_', f'{number}_')}": text for k, text in names.items()},
        )
    return write_sysfs(root, {f"{folder}/in7_label": "sum of shunt voltages"})


def test_energy_counters_are_summed_over_packages_and_memory_and_start_anew(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", limit=999)
    rapl(tmp_path, "intel-rapl:0:0", "core")
    rapl(tmp_path, "intel-rapl:0:1", "dram", limit=4999)
    rapl(tmp_path, "intel-rapl:1", "psys")
    sensor = find_sensor(tmp_path, on_gpu=False)
    assert sensor.environment() == {"sensor": "RAPL", "zones": ["package-0", "dram"]}
    counters = tmp_path / "class" / "powercap"
    for name, uj in {"intel-rapl:0": 950, "intel-rapl:0:1": 100, "intel-rapl:0:0": 5}.items():
        (counters / name / "energy_uj").write_text(str(uj))
    sensor.start()
    for name, uj in {"intel-rapl:0": 150, "intel-rapl:0:1": 400, "intel-rapl:0:0": 999}.items():
        (counters / name / "energy_uj").write_text(str(uj))
    assert sensor.stop_mj() == pytest.approx((200 + 300) / 1000)


def test_power_is_integrated_over_time(tmp_path, monkeypatch):
    ina3221(tmp_path, ("VDD_GPU_SOC", 5000, 600), ("VDD_CPU_CV", 5000, 400))
    ina3221(tmp_path, ("VIN_SYS_5V0", 5000, 1000), bus="1-0041")
    sensor = find_sensor(tmp_path, on_gpu=True)
    assert sensor.environment()["rails"] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert sensor.read_w() == pytest.approx(10)
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr("lut.runtimes.timer.time.monotonic", lambda: next(clock))
    milliamperes = iter([800, 0])
    reading = tmp_path / "bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon3/curr1_input"

    class Ended:
        """Two readings: one second on at 9 watts, two seconds on at 5."""

        def __init__(self):
            self.waits = iter([False, True])

        def wait(self, seconds):
            reading.write_text(str(next(milliamperes)))
            return next(self.waits)

    sensor.joules, sensor.ended = 0.0, Ended()
    sensor.sample()
    assert sensor.joules == pytest.approx(1 * (10 + 9) / 2 + 2 * (9 + 5) / 2)


def test_the_rail_of_the_whole_board_counts_alone(tmp_path):
    ina3221(tmp_path, ("VDD_IN", 5000, 1500), ("VDD_CPU_GPU_CV", 5000, 500), ("VDD_SOC", 5000, 9))
    sensor = find_sensor(tmp_path, on_gpu=False)
    assert isinstance(sensor, Ina3221)
    assert sensor.environment()["rails"] == ["VDD_IN"]
    assert sensor.read_w() == pytest.approx(7.5)


def test_a_processors_counter_tells_nothing_of_a_gpu(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    assert isinstance(find_sensor(tmp_path, on_gpu=False), Rapl)
    with pytest.raises(RefusedError, match="energy of a GPU"):
        find_sensor(tmp_path, on_gpu=True)


def test_counters_that_cannot_be_read_are_named(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0")
    counter = tmp_path / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    counter.write_text("none")
    with pytest.raises(RefusedError, match="cannot be read"):
        find_sensor(tmp_path, on_gpu=False)
    counter.unlink()
    with pytest.raises(RefusedError, match="cannot be read"):
        find_sensor(tmp_path, on_gpu=False)


def test_energy_of_every_model_follows_the_passes(fake, tmp_path):
    ina3221(tmp_path / "sys", ("VDD_IN", 5000, 1000))
    flags = ["--passes=2", "--energy", "--window=0.02", f"--sysfs={tmp_path / 'sys'}"]
    lines, _, runs = fake("ok", "corrupt", "ok", "ok", flags=flags)
    assert lines[0]["environment"]["energy"] == {"sensor": "INA3221", "rails": ["VDD_IN"]}
    energies = [line for line in lines if "energy" in line]
    assert lines[-3:] == energies
    assert sorted(line["energy"] for line in energies) == [0, 2, 3]
    assert all(line["mj"] > 0 for line in energies)
    back_to_back = runs[3 + 4 * 3 :]
    changes = sum(a != b for a, b in itertools.pairwise(back_to_back))
    assert changes == 2
    assert list(dict.fromkeys(back_to_back)) == [line["energy"] for line in energies]


def test_without_a_sensor_nothing_is_measured(fake, tmp_path):
    (line,), _, runs = fake("ok", flags=["--energy", f"--sysfs={tmp_path}"], code=1)
    assert "no sensor tells energy here" in line["error"]
    assert runs == []


def test_a_check_tells_the_environment_and_ends(fake):
    (line,), _, runs = fake("ok", flags=["--check"])
    assert line["environment"]["version"] == "1.20.3"
    assert runs == []


CUDART = """
#include <stdlib.h>
#include <string.h>
static int capturing, queued, ran, recorded;
typedef void *handle;
int cudaStreamCreate(handle *s) { *s = (handle)0x51; return 0; }
int cudaStreamSynchronize(handle s) { return s != (handle)0x51; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int status) { return "as the stand-in was told"; }
int cudaMalloc(handle *p, size_t size) { *p = malloc(size); return 0; }
int cudaMemcpy(handle to, handle from, size_t size, int kind)
{ if (kind != 1) return 1; memcpy(to, from, size); return 0; }
int cudaStreamBeginCapture(handle s, int mode) { capturing = 1; queued = 0; return mode != 1; }
int cudaStreamEndCapture(handle s, handle *graph)
{ capturing = 0; *graph = queued == 1 ? (handle)0x97a : 0; return queued != 1; }
int cudaGraphInstantiateWithFlags(handle *launchable, handle graph, unsigned long long flags)
{ *launchable = (handle)0x1a; return graph != (handle)0x97a || flags; }
int cudaGraphLaunch(handle launchable, handle s)
{ ran++; return launchable != (handle)0x1a || s != (handle)0x51 || recorded != 1; }
int cudaEventCreate(handle *event) { *event = calloc(1, sizeof(int)); return 0; }
int cudaEventRecord(handle event, handle s)
{ recorded = 1; *(int *)event = ran; return s != (handle)0x51; }
int cudaEventSynchronize(handle event) { recorded = 0; return 0; }
int cudaEventElapsedTime(float *ms, handle from, handle to)
{ *ms = 0.25f * (*(int *)to - *(int *)from); return 0; }
void enqueued(int capturable) { if (capturing && capturable) queued++; }
"""
TENSORRT = """
import ctypes, enum, json, os
import numpy
__version__ = os.environ.get("TRT_VERSION", "10.3.0")
TYPED = tuple(map(int, __version__.split(".")[:2])) >= (10, 12)
library = ctypes.CDLL("libcudart.so")
def log(**line):
    with open(os.environ["RUNS"], "a") as file:
        file.write(json.dumps(line) + "\\n")
class Logger:
    ERROR = 1
    def __init__(self, level): pass
class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1
class BuilderFlag(enum.Enum):
    if not __version__.startswith("11."):
        FP16 = 0
class Network: pass
class Memory(bytes): pass
class TimingCache:
    def __init__(self, data): self.data = data
    def serialize(self): return Memory(self.data)
class Config:
    def __init__(self): self.flags, self.cache = [], None
    def set_flag(self, flag): self.flags.append(flag.name)
    def create_timing_cache(self, data): return TimingCache(data)
    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return not cache.data.startswith(b"another GPU")
    def get_timing_cache(self): return self.cache
class Builder:
    def __init__(self, logger):
        if not __version__.startswith("11."):
            self.platform_has_fast_fp16 = "SLOW_HALF" not in os.environ
    def create_network(self, flags):
        assert flags == (3 if TYPED else 1)
        return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        log(model=network.does, flags=config.flags, known=len(config.cache.data))
        config.cache.data += network.does.encode()
        return None if network.does == "unbuildable" else Memory(network.does.encode())
class OnnxParser:
    num_errors = 1
    def __init__(self, network, logger): self.network = network
    def parse(self, data):
        self.network.does = data.decode()
        return self.network.does != "corrupt"
    def get_error(self, index): return "In node 0: no such operator"
class IExecutionContext:
    def __init__(self, does): self.does, self.addresses = does, {}
    def set_tensor_address(self, name, address): self.addresses[name] = address
    def execute_async_v3(self, stream):
        assert stream == 0x51 and set(self.addresses) == {"image", "output"}
        library.enqueued(int(self.does != "uncapturable"))
        return True
class Engine:
    num_io_tensors = 2
    def __init__(self, does): self.does = does
    def get_tensor_name(self, index): return ["image", "output"][index]
    def get_tensor_shape(self, name): return [1, 3, 4, 4]
    def create_execution_context(self): return IExecutionContext(self.does)
class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, data): return Engine(data.decode())
"""


@pytest.fixture
def tensorrt(tmp_path):
    """Run the timer with a stand-in for TensorRT and CUDA, whose runs take a quarter of a ms."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = stand_ins.install(tmp_path / "path", tensorrt=TENSORRT)
    (path / "cudart.c").write_text(CUDART)
    library = path / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, path / "cudart.c"], check=True)
    calls = tmp_path / "calls"

    def tensorrt(*words, precision="fp32", code=0, **more):
        models = stand_ins.write_models(tmp_path / "models", *words)
        calls.write_text("")
        flags = ("--runtime=tensorrt", f"--precision={precision}", "--passes=2")
        places = {"PYTHONPATH": path, "LD_LIBRARY_PATH": path, "XDG_CACHE_HOME": tmp_path}
        lines, _ = run_timer(models, *flags, code=code, RUNS=calls, **places, **more)
        return lines, [json.loads(line) for line in calls.read_text().splitlines()]

    return tensorrt


def test_tensorrt_is_timed_by_the_events_around_a_graph(tensorrt):
    lines, calls = tensorrt("a", "corrupt", "b", "unbuildable", "uncapturable", precision="fp16")
    assert lines[0]["environment"]["version"] == "10.3.0"
    errors = {line["failed"]: line["error"] for line in lines if "failed" in line}
    assert list(errors) == [1, 3, 4]
    assert "no such operator" in errors[1]
    assert "CUDA graph" in errors[4]
    assert list(passes_of(lines).values()) == [[250.0, None, 250.0, None, None]] * 2
    assert [call["model"] for call in calls] == ["a", "b", "unbuildable", "uncapturable"]
    assert all(call["flags"] == ["FP16"] for call in calls)


@pytest.mark.parametrize("version", ["10.12.0", "10.14.1", "11.0.0", "11.4.1"])
def test_newer_versions_take_the_types_of_the_file(tensorrt, version):
    lines, calls = tensorrt("a", precision="fp16", TRT_VERSION=version)
    assert lines[0]["environment"]["version"] == version
    assert list(passes_of(lines).values()) == [[250.0]] * 2
    assert calls[0]["flags"] == []


def test_a_gpu_without_fast_fp16_builds_none(tensorrt):
    lines, calls = tensorrt("a", precision="fp16", code=1, SLOW_HALF=1)
    assert calls == []
    assert "no fast fp16 on this GPU and would build engines in fp32" in lines[0]["error"]
    lines, _ = tensorrt("a", precision="fp32", SLOW_HALF=1)
    assert len(passes_of(lines)) == 2
    lines, _ = tensorrt("a", precision="fp16", SLOW_HALF=1, TRT_VERSION="10.12.0")
    assert len(passes_of(lines)) == 2  # of a typed network, which is built in no other type


def test_what_tensorrt_learnt_of_its_tactics_is_kept_for_each_precision(tensorrt, tmp_path):
    _, calls = tensorrt("a", "b")
    assert [(call["flags"], call["known"]) for call in calls] == [([], 0), ([], 1)]
    _, calls = tensorrt("c")
    assert calls[0]["known"] == 2
    _, calls = tensorrt("c", precision="fp16")
    assert calls[0]["known"] == 0
    cache = tmp_path / "efficientvit-nas" / "tensorrt-10.3.0-fp32.timing"
    assert cache.read_bytes() == b"abc"
    cache.write_bytes(b"another GPU's")
    _, calls = tensorrt("d")
    assert calls[0]["known"] == 0
    assert cache.read_bytes() == b"d"


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_batches_of_a_dense_task_on_two_threads(runtime, tmp_path):
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("one CPU is not enough for two threads")
    segmented = named_arch("b0", task="segmentation", dataset="cityscapes", resolution=(64, 128))
    setting = Setting(runtime, "fp32", threads=2, batch=3)
    write_models(tmp_path, setting, [network_model(segmented), *tiny_models()])
    flags = (f"--runtime={runtime}", "--threads=2", "--batch=3", "--passes=2")
    lines, _ = run_timer(tmp_path, *flags, f"--cpus={cpus[0]},{cpus[1]}")
    environment = lines[0]["environment"]
    assert (environment["threads"], environment["cpus"]) == (2, cpus)
    assert environment.get("shared_threads") is (True if runtime == "onnxruntime" else None)
    for us in passes_of(lines).values():
        assert all(value > 0 for value in us)


def test_more_threads_than_cpus_are_refused(tmp_path):
    write_models(tmp_path, Setting("onnxruntime", "fp32"), tiny_models()[:1])
    lines, _ = run_timer(tmp_path, "--runtime=onnxruntime", "--threads=2", code=1)
    assert lines == [{"error": lines[0]["error"]}]
    assert "2 threads need as many CPUs" in lines[0]["error"]
