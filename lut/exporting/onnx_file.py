"""ONNX files, run by ONNX Runtime."""

from pathlib import Path

from lut.builders.pipeline import build_pipeline
from lut.builders.weights import StateWeights
from lut.exporting.job import Job, Runner
from results.files import write_bytes


def write(job: Job, path: Path) -> None:
    """Write the file. Raises ArchError where it is too large for the format."""
    network = job.network
    state = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
    data = build_pipeline(
        "onnx",
        network.arch,
        StateWeights(state),
        job.ends,
        precision=job.form.precision,
        batch=job.batch,
        eps=network.norm_eps,
    )
    write_bytes(path, data)


def load(path: Path, job: Job) -> tuple[Runner, str]:
    """Return what runs a file on the CPU, and the runtime with its version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def run(pictures):  # type: ignore[no-untyped-def]
        (output,) = session.run(None, {entry.name: pictures})
        return output

    return run, f"onnxruntime {onnxruntime.__version__}"
