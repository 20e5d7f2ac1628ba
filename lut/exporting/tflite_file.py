"""TFLite files, run by LiteRT with its XNNPACK delegate."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lut.exporting.job import Job, Loaded, Outputs, Pictures, named
from results.files import write_bytes


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file."""
    path = named(stem, ".tflite")
    write_bytes(path, job.built("tflite"))
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file."""
    interpreter = _interpreter(model_path=str(path))
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    is_map = len(output["shape"]) == 4

    def run(pictures: Pictures) -> Outputs:
        interpreter.set_tensor(entry["index"], np.ascontiguousarray(np.moveaxis(pictures, 1, -1)))
        interpreter.invoke()
        found: Outputs = interpreter.get_tensor(output["index"])
        return np.moveaxis(found, -1, 1) if is_map else found

    return Loaded(run, f"ai-edge-litert {version('ai-edge-litert')}")


def observer(job: Job) -> Callable[[Pictures], dict[str, Outputs]]:
    """Return what gives the limits of activations by place, of a job that observes."""
    interpreter = _interpreter(model_content=job.built("tflite"))
    (entry,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()[1:]

    def run(pictures: Pictures) -> dict[str, Outputs]:
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
