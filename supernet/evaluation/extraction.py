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
from supernet.space import Space
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
    arch = subnet_arch(name, subnets.space, options.resolution, tell)
    with naming_memory():
        model = subnets.network(arch)
    header = header_of_subnet(subnets.header, arch)
    origin = origin_of(weights.sha256, header, subnets.recalibration)
    save_weights(model, out, **(header.to_metadata() | origin))
    answer: dict[str, Any] = {
        "weights": str(out),
        "weights_sha256": sha256_of(out),
        "arch": arch.to_dict(),
        "num_params": sum(p.numel() for p in model.parameters()),
        "dataset": subnets.task.dataset,
    }
    return answer | origin


def subnet_arch(
    name: str, space: Space, resolution: str | None, tell: Callable[[str], None] | None = None
) -> Arch:
    """Return the one Arch of a space that `name` names, at a resolution or its own.

    Raises UserError as `supernet.resolve.read_archs` does, and where there are several.
    """
    archs = read_archs(name, space, tell=tell)
    if len(archs) != 1:
        raise ArchError(f"{name} names {len(archs)} archs; extract one of them, as RUN#ID")
    return at_resolution(archs[0], resolution)


def origin_of(sha256: str, header: WeightsHeader, settings: Recalibration) -> dict[str, Any]:
    """Return what the file of a subnet tells of its supernet and of its statistics."""
    return {
        "supernet_sha256": sha256,
        "recalibration_images": settings.num_images,
        "recalibration_batch": settings.batch_size,
        "seed": header.seed,
        "recalibration_seed": settings.seed,
    }


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
