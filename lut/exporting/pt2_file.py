"""Programs of torch.export, run by PyTorch."""

import io
import json
import warnings
from pathlib import Path

from lut.exporting.job import Job, Loaded, Outputs, Pictures, named
from results.files import write_bytes

METADATA = "metadata.json"  # beside the program, in the file


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file; of fp16 the network computes in float16, what is around it in float32."""
    import torch

    pipeline = job.pipeline(half=job.form.precision == "fp16")
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own innards
        program = torch.export.export(pipeline, (torch.from_numpy(job.example),))
        torch.export.save(program, file, extra_files={METADATA: json.dumps(job.metadata)})
    path = named(stem, ".pt2")
    write_bytes(path, file.getbuffer())
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs a file."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()

    def run(pictures: Pictures) -> Outputs:
        with torch.no_grad():
            outputs: Outputs = module(torch.from_numpy(pictures)).numpy()
            return outputs

    return Loaded(run, f"torch {torch.__version__}")
