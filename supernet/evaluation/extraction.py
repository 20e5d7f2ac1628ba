"""A subnet of a supernet as a network of its own, in a file."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from results.errors import ArchError
from supernet.accelerator import check_is_here
from supernet.arch import Arch
from supernet.evaluation.options import ExtractionOptions
from supernet.evaluation.recalibrated import Recalibration, Subnets, naming_memory
from supernet.resolve import at_resolution, read_archs
from supernet.weights.files import read_weights, save_weights
from supernet.weights.header import WeightsHeader
from supernet.weights.preprocessing import preprocessing_of
from supernet.weights.tensors import sha256_of


def extract(
    options: ExtractionOptions, *, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Write a subnet as a stand-alone model, its BatchNorm statistics computed anew.

    Nothing is printed; `tell` is given what was passed over in a file of archs, in one line.

    Returns what `python -m supernet.extract --json` prints. Raises UserError for options, weights
    and pictures that do not go together, and where the file cannot be written.
    """
    path, name, out = options.check()
    check_is_here(options.accelerator)
    weights = read_weights(path)
    subnets = Subnets(
        weights,
        data=options.data,
        recalibration=Recalibration(options.recalibration_images, options.batch_size, options.seed),
        accelerator=options.accelerator,
        workers=options.workers,
    )
    archs = read_archs(name, subnets.space, tell=tell)
    if len(archs) != 1:
        raise ArchError(f"{name} names {len(archs)} archs; extract one of them, as RUN#ID")
    arch = at_resolution(archs[0], options.resolution)
    with naming_memory():
        model = subnets.network(arch)
    header = header_of_subnet(subnets.header, arch)
    origin: dict[str, Any] = {
        "supernet_sha256": weights.sha256,
        "recalibration_images": options.recalibration_images,
        "recalibration_batch": options.batch_size,
        "seed": header.seed,
        "recalibration_seed": options.seed,
    }
    save_weights(model, out, **(header.to_metadata() | origin))
    answer: dict[str, Any] = {
        "weights": str(out),
        "weights_sha256": sha256_of(out),
        "arch": arch.to_dict(),
        "num_params": sum(p.numel() for p in model.parameters()),
        "dataset": subnets.task.dataset,
    }
    return answer | origin


def header_of_subnet(header: WeightsHeader, arch: Arch) -> WeightsHeader:
    """Return what a subnet's file tells, of what its supernet's tells.

    The resolution is the subnet's own, and its accuracy nobody has measured.
    """
    own = preprocessing_of(arch)
    told = header.preprocessing or own
    return replace(
        header,
        resolutions=(arch.resolution,),
        preprocessing=replace(told, crop_pct=own.crop_pct),  # the task's, network by network
        seed=header.seed or 0,
        accuracy=None,
    )
