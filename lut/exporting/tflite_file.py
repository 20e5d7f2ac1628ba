"""TFLite files, run by LiteRT with its XNNPACK delegate."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lut.exporting.job import Job, Loaded, Tensors, named
from lut.exporting.noise import Pictures
from results.files import write_bytes

MAP = 4  # axes of pictures and maps, whose channels are last in the files


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file."""
    path = named(stem, ".tflite")
    write_bytes(path, job.built("tflite"))
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file."""
    interpreter = _interpreter(model_path=str(path))
    entries = {own["name"]: own["index"] for own in interpreter.get_input_details()}
    outputs = {own["name"]: own["index"] for own in interpreter.get_output_details()}

    def run(inputs: Tensors) -> Tensors:
        for name, values in inputs.items():
            given = np.moveaxis(values, 1, -1) if values.ndim == MAP else values
            interpreter.set_tensor(entries[name], np.ascontiguousarray(given))
        interpreter.invoke()
        found = {name: interpreter.get_tensor(index) for name, index in outputs.items()}
        return {n: np.moveaxis(own, -1, 1) if own.ndim == MAP else own for n, own in found.items()}

    own = interpreter._get_ops_details()
    partitions = sum(operator["op_name"] == "DELEGATE" for operator in own)  # one: all operators
    told = {"xnnpack_partitions": partitions}
    return Loaded(run, f"ai-edge-litert {version('ai-edge-litert')}", told)


def observer(job: Job) -> Callable[[Pictures], Tensors]:
    """Return what gives the limits of activations by place, of a job that observes."""
    interpreter = _interpreter(model_content=job.built("tflite"))
    (entry,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()[1:]

    def run(pictures: Pictures) -> Tensors:
        interpreter.set_tensor(entry["index"], np.ascontiguousarray(np.moveaxis(pictures, 1, -1)))
        interpreter.invoke()
        return {own["name"]: interpreter.get_tensor(own["index"]).reshape(()) for own in outputs}

    return run


def _interpreter(**model: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with _silent():
        interpreter = Interpreter(**model, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


@contextmanager
def _silent() -> Iterator[None]:
    """Let the library tell nobody, on file descriptor 2, that it made a delegate."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
