"""ONNX files, run by ONNX Runtime."""

from pathlib import Path

from lut.exporting.job import Job, Loaded, Outputs, Pictures, named
from results.files import write_bytes


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file. Raises ArchError where it is too large for the format."""
    path = named(stem, ".onnx")
    write_bytes(path, job.built("onnx"))
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def run(pictures: Pictures) -> Outputs:
        outputs: list[Outputs] = session.run(None, {entry.name: pictures})
        return outputs[0]

    return Loaded(run, f"onnxruntime {onnxruntime.__version__}")
