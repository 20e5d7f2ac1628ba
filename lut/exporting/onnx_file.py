"""ONNX files, run by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lut.builders.network import INPUT
from lut.exporting.job import Job, Loaded, Tensors, named
from lut.exporting.noise import Pictures
from results.files import write_bytes


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file. Raises ArchError where it is too large for the format."""
    path = named(stem, ".onnx")
    write_bytes(path, job.built("onnx"))
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file on the CPU."""
    import onnxruntime

    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> Tensors:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return Loaded(run, f"onnxruntime {onnxruntime.__version__}")


def observer(job: Job) -> Callable[[Pictures], Tensors]:
    """Return what gives the limits of activations by place, of a job that observes."""
    session = _session(job.built("onnx"))
    names = [output.name for output in session.get_outputs()][1:]

    def run(pictures: Pictures) -> Tensors:
        return dict(zip(names, session.run(names, {INPUT: pictures}), strict=True))

    return run


def _session(model: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
