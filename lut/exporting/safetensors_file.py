"""Our own weights as safetensors, loaded into a network built anew.

Of fp16 only kernels and matrices are float16: statistics and biases may leave its range, and
are no tenth of a percent of a file. The network that loads them computes in float32.
"""

import copy
from dataclasses import replace
from pathlib import Path

from lut.builders.network import INPUT, OUTPUT
from lut.exporting.job import Job, Loaded, Tensors, named


def write(job: Job, stem: Path) -> list[Path]:
    """Write the file."""
    from supernet.weights.files import save_weights

    network, model, header = job.network, job.network.model, job.network.header
    if job.form.precision == "fp16":
        model, header = copy.deepcopy(model), replace(header, accuracy=None)  # not measured so
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.half()
    own = {"precision": job.form.precision, **network.origin}
    if network.is_trained:
        own["exported_from_sha256"] = network.weights["sha256"]
    path = named(stem, ".safetensors")
    save_weights(model, path, **(header.to_metadata() | own))
    return [path]


def load(path: Path, job: Job) -> Loaded:
    """Return what runs the weights in a file."""
    import torch

    from supernet.weights.networks import load_network

    model = load_network(job.network.arch, path).eval()

    def run(inputs: Tensors) -> Tensors:
        with torch.no_grad():
            return {OUTPUT: model(torch.from_numpy(inputs[INPUT])).numpy()}

    return Loaded(run, f"torch {torch.__version__}")
