"""TensorRT engines, built and run by `trtexec` where that is; elsewhere the ONNX file for it.

The ONNX file has the types that the engine is to compute in, which TensorRT 10 keeps to by
--stronglyTyped and TensorRT 11 always. An engine is of one GPU and one version of TensorRT.
Flags: https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
"""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from lut.exporting import onnx_file
from lut.exporting.job import Job, Loaded, Tensors, named
from lut.runtimes.trtexec import Program, ask, build_engine, find_trtexec, run_engine
from lut.targets.local import Local
from results.errors import TargetError
from results.files import write_bytes
from results.reading import Record, parse_json

MODEL, ENGINE = ".tensorrt.onnx", ".engine"
BUILD_TIMEOUT_S, RUN_TIMEOUT_S = 3600.0, 300.0


class Output(Record, frozen=True):
    """A tensor in the file of --exportOutput."""

    name: str
    dimensions: Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}(x\d{1,9})*$")]
    values: list[float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of its axes."""
        return tuple(map(int, self.dimensions.split("x")))


def write(job: Job, stem: Path) -> list[Path]:
    """Write the engine, where there is a trtexec, and the ONNX file.

    Raises ArchError where the network is too large for ONNX, TargetError where TensorRT builds no
    engine of it, or is older than 10.
    """
    model, engine = named(stem, MODEL), named(stem, ENGINE)
    program = _program()
    flags = program.typed_flags() if program else []
    write_bytes(model, job.built("onnx"))
    if program is None:
        return [model]
    with tempfile.TemporaryDirectory() as folder:
        build_engine(
            program,
            str(model),
            str(engine),
            flags=flags,
            timing_cache=f"{folder}/timing.cache",
            timeout_s=BUILD_TIMEOUT_S,
        )
    return [engine, model]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs an engine by trtexec, or an ONNX file by ONNX Runtime."""
    if path.name.endswith(MODEL):
        loaded = onnx_file.load(path, job)
        told = {"engine": None, "trtexec": lines(job.stem)}
        return Loaded(loaded.run, f"{loaded.runtime}, no TensorRT here", told)
    program = _program()
    assert program is not None  # it has just built the engine

    def run(inputs: Tensors) -> Tensors:
        with tempfile.TemporaryDirectory() as folder:
            given = {name: Path(folder) / name for name in inputs}
            for name, values in inputs.items():
                values.tofile(given[name])
            paths = {name: str(file) for name, file in given.items()}
            text = run_engine(program, str(path), paths, folder, RUN_TIMEOUT_S)
        outputs = parse_json(text, list[Output], "trtexec's outputs", error=TargetError)
        kind = np.int64 if job.head == "argmax" else np.float32
        return {own.name: np.array(own.values, kind).reshape(own.shape) for own in outputs}

    number = program.version()
    runtime = f"TensorRT {number[0]}.{number[1]}" if number else "TensorRT"
    return Loaded(run, runtime, {"engine": runtime, "trtexec": lines(job.stem)})


def lines(stem: str) -> dict[str, str]:
    """Return the command that builds an engine of the ONNX file, by TensorRT's major version."""
    command = ["trtexec", f"--onnx={stem}{MODEL}", f"--saveEngine={stem}{ENGINE}"]
    return {"10": shlex.join([*command, "--stronglyTyped"]), "11": shlex.join(command)}


def _program() -> Program | None:
    """Return this machine's trtexec; None where there is none."""
    host = Local()
    try:
        path = find_trtexec(host)
    except TargetError:
        return None
    return ask(host, path, RUN_TIMEOUT_S)
