"""Programs of torch.export, run by PyTorch."""

import io
import json
import warnings
from pathlib import Path

from lut.exporting.job import Job, Loaded, Tensors, named
from results.files import write_bytes

METADATA = "metadata.json"  # beside the program, in the file


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file; of fp16 the network computes in float16, what is around it in float32."""
    import torch

    module = job.module(half=job.form.precision == "fp16")
    example = tuple(torch.from_numpy(own) for own in job.example.values())
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own innards
        program = torch.export.export(module, example)
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

    def run(inputs: Tensors) -> Tensors:
        with torch.no_grad():
            found = module(*(torch.from_numpy(inputs[name]) for name in job.example))
        outputs = found if isinstance(found, tuple) else (found,)
        return {name: own.numpy() for name, own in zip(job.outputs, outputs, strict=True)}

    return Loaded(run, f"torch {torch.__version__}")
