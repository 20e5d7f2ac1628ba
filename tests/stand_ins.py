"""Runtimes that do as they are told, for the timer in a process of its own."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

TIMER = ROOT / "lut" / "runtimes" / "timer.py"

# NumPy as far as the timer takes it, so that any Python runs the tests.
NUMPY = """
class Array:
    nbytes = 4
    def astype(self, kind):
        return self
class Generator:
    def standard_normal(self, shape):
        assert all(isinstance(side, int) for side in shape), shape
        return Array()
class random:
    default_rng = staticmethod(lambda seed: Generator())
"""

# A model is a file of one word: ok, corrupt, hang, die or loud; of a GPU also `cpu`, of which it
# takes no node, `part`, of which it takes two of three, and `dropped`, where the provider itself
# is. Runs are listed in $RUNS. Before 1.16 there is no switch to forbid the CPU.
ONNXRUNTIME = """
import enum, json, os, sys, time
__version__ = os.environ.get("ORT_VERSION", "1.20.3")
print("from Python, at import")
os.write(1, b"from C, at import\\n")
class ExecutionMode(enum.Enum):
    ORT_SEQUENTIAL = 0
class SessionOptions:
    enable_profiling = False
    def __init__(self): self.entries = {}
    def add_session_config_entry(self, key, value): self.entries[key] = value
class OrtValue:
    ortvalue_from_numpy = staticmethod(lambda data, device, number: data)
def set_default_logger_severity(level): pass
def get_available_providers():
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
class Tensor:
    def __init__(self, name):
        self.name, self.shape = name, [1, 3, 8, 8]
class Binding:
    def synchronize_outputs(self): pass
    def bind_ortvalue_input(self, name, value): assert name == "given"
    def bind_output(self, name, device, number): assert name == "result"
class InferenceSession:
    def __init__(self, path, settings, providers, options):
        assert settings.intra_op_num_threads >= 1
        self.path, self.providers, self.settings = path, providers, settings
        with open(path) as file:
            self.does = file.read()
        if self.does == "corrupt":
            raise RuntimeError("cannot read\\nthis")
        if self.does == "dropped":
            self.providers = ["CPUExecutionProvider"]
        forbidden = settings.entries.get("session.disable_cpu_ep_fallback") == "1"
        assert not (forbidden and "CPUExecutionProvider" in providers)
        if forbidden and self.does in ("cpu", "part") and __version__ >= "1.16":
            raise RuntimeError("This session contains graph nodes that are assigned to the default "
                               "CPU EP, but fallback to CPU EP has been explicitly disabled")
    def get_providers(self): return self.providers
    def get_inputs(self): return [Tensor("given")]
    def get_outputs(self): return [Tensor("result")]
    def run(self, outputs, given): assert self.settings.enable_profiling
    def end_profiling(self):
        path = self.settings.profile_file_prefix + "_1.json"
        gpu, cpu = self.providers[0], "CPUExecutionProvider"
        units = {"cpu": [cpu] * 3, "part": [gpu, cpu, gpu]}.get(self.does, [gpu] * 3)
        events = [{"cat": "Session", "name": "run", "args": {}}]
        events += [{"cat": "Node", "name": "a", "args": {"provider": unit}} for unit in units]
        with open(path, "w") as file:
            json.dump(events, file)
        return path
    def io_binding(self): return Binding()
    def run_with_iobinding(self, binding):
        if self.does == "loud":
            print("a warning")
        if self.does == "die":
            os.kill(os.getpid(), 11)
        if self.does == "hang":
            time.sleep(600)
        if os.environ.get("RUNS"):
            with open(os.environ["RUNS"], "a") as file:
                file.write(os.path.basename(self.path).split(".")[0] + " ")
"""


def install(folder, **modules):
    """Write modules into `folder`, for PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def write_models(folder, *does, repeats=()):
    """A model for each word, which its file holds."""
    folder.mkdir(exist_ok=True)
    listed = []
    for index, word in enumerate(does):
        (folder / f"{index}.onnx").write_text(word)
        count = repeats[index] if repeats else 1
        listed.append({"file": f"{index}.onnx", "repeats": count})
    (folder / "models.json").write_text(json.dumps(listed))
    return folder


def run_timer(models, *flags, python=(sys.executable,), code=0, **environment):
    """The timer's lines, all of which must be JSON objects; what it said on standard error."""
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [*python, str(TIMER), str(models), f"--cpus={cpu}", *map(str, flags)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def passes_of(lines):
    """Samples of every pass, by its number."""
    return {line["pass"]: line["us"] for line in lines if "pass" in line}
