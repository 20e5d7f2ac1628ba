"""OpenVINO's intermediate representation, an .xml with its .bin, run by OpenVINO on the CPU.

It is read from our ONNX file, of fp16 that whose sums stay in float16's range. A GPU of OpenVINO
computes a file of fp32 in float16, too, unless INFERENCE_PRECISION_HINT says f32: give it fp16.
"""

import sys
from pathlib import Path
from typing import Any

from lut.exporting.job import Job, Loaded, Tensors, named

SECTION = "efficientvit_nas"  # of the file's rt_info, where its metadata is
# As PyTorch computes, on one thread; some CPUs would take bfloat16.
CONFIG: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def write(job: Job, stem: Path) -> list[Path]:
    """Write both files. Raises ArchError where the network is too large for ONNX."""
    openvino = _openvino()
    model = openvino.Core().read_model(model=job.built("onnx"))
    for name, text in job.metadata.items():
        model.set_rt_info(text, [SECTION, name])
    path = named(stem, ".xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path, named(stem, ".bin")]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file on the CPU."""
    openvino = _openvino()
    compiled = openvino.Core().compile_model(path, "CPU", CONFIG)

    def run(inputs: Tensors) -> Tensors:
        return {port.any_name: own for port, own in compiled(dict(inputs)).items()}

    return Loaded(run, f"openvino {openvino.get_version().partition('-')[0]}")


def _openvino() -> Any:
    """Return OpenVINO, without what would report its use over the network and write to HOME."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
