"""The networks that files are made of: with weights of a supernet, of a file, or random ones.

PyTorch is imported where it is used, so that a command says what is wrong before.
"""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lut.exporting.formats import FORMATS
from lut.exporting.noise import noise, normalised
from lut.exporting.options import ExportOptions, Wanted
from results.errors import ArchError, DataError, UserError, WeightsError
from supernet.arch import (
    Arch,
    ClassificationHead,
    PromptableHead,
    SegmentationHead,
    Task,
    format_resolution,
    parse_resolution,
)
from supernet.official import check_task, known_name
from supernet.resolve import is_weights, resolve_arch
from supernet.weights.header import WeightsHeader
from supernet.weights.preprocessing import preprocessing_of

if TYPE_CHECKING:
    from torch import nn

    from supernet.evaluation.recalibrated import Subnets
    from supernet.model import EfficientViT
    from supernet.sam.model import PromptDecoder
    from supernet.tasks.task import Task as PictureTask
    from supernet.weights.fitting import StoredWeights

Tell = Callable[[str], None]
SETTLED_ON, SETTLED_SIDE = 8, 128  # pictures, and their longer side at most


@dataclass(frozen=True)
class Network:
    """A network with weights, in evaluation mode and float32, on the CPU.

    Of a promptable one `model` is the image encoder.
    """

    name: str
    arch: Arch
    model: "EfficientViT"
    header: WeightsHeader  # what a weights file of it tells
    weights: dict[str, Any]  # where they come from, for the manifest
    origin: dict[str, Any] = field(default_factory=dict)  # what a weights file tells beside that
    task: "PictureTask | None" = None  # with the pictures of --data
    decoder: "PromptDecoder | None" = None  # of a promptable network, whose encoder is the model

    @property
    def is_trained(self) -> bool:
        """Tell whether the weights come from a file."""
        return not self.weights["untrained"]

    @property
    def norm_eps(self) -> float:
        """Return the epsilon that the normalisations have."""
        from supernet.weights.fitting import norm_eps

        return norm_eps(self.model)


@dataclass(frozen=True)
class Plan:
    """A network that is known to fit its weights, and how it is made."""

    wanted: Wanted
    arch: Arch
    make: Callable[[], Network]


def plan_networks(options: ExportOptions, wanted: Sequence[Wanted], tell: Tell) -> tuple[Plan, ...]:
    """Return the networks that are asked for, each with how it is made.

    `tell` is given what was assumed, in one line.

    Raises ArchError, SpaceError, RunError for what names no network to export, WeightsError for
    weights of another one, DataError for pictures that cannot be read.
    """
    opened: dict[Path, StoredWeights | Subnets] = {}
    plans = []
    for network in wanted:
        path = options.weights
        if path is None and is_weights(network.text):
            path = Path(network.text)
        if path is None:
            plan = _random(options, network)
        else:
            if path not in opened:
                opened[path] = _open(path, options)
            plan = _with_weights(options, network, opened[path], path, tell)
        _check_arch(plan.arch, options, network)
        plans.append(plan)
    if not all(is_weights(network.text) for network in wanted) and options.weights is None:
        tell("random weights, as no --weights are given: of use is the speed of the files alone")
    return tuple(plans)


def _check_arch(arch: Arch, options: ExportOptions, wanted: Wanted) -> None:
    """Raise ArchError where the network is none to export, or lacks what is asked of it."""
    if isinstance(arch.head, PromptableHead):
        _check_promptable(options, wanted)
    if options.dynamic:
        _check_dynamic(arch, options.dynamic, wanted)
    has_classes = isinstance(arch.head, ClassificationHead | SegmentationHead)
    if options.head != "logits" and not has_classes:
        raise ArchError(f"{wanted.text} gives no classes; leave --head {options.head} out")


def _check_dynamic(arch: Arch, what: str, wanted: Wanted) -> None:
    """Raise ArchError for a network that is not exported for any batch, or any size of pictures."""
    others = {stage.mixer for stage in arch.stages} - {"none", "relu_linear"}
    if what == "size" and (isinstance(arch.head, PromptableHead) or others):
        kind = min(others) if others else "a promptable network"
        raise ArchError(
            f"{wanted.text}: {kind} is exported for one size of pictures; leave --dynamic size out"
        )
    resizes = what == "size" or not isinstance(arch.head, ClassificationHead | None)
    if resizes and any(side % arch.stride for side in arch.resolution):
        raise ArchError(
            f"--dynamic {what} takes sizes that {arch.stride} divides, and {wanted.text} is of "
            f"{format_resolution(arch.resolution)}; give another --resolution"
        )


def _check_promptable(options: ExportOptions, wanted: Wanted) -> None:
    """Raise ArchError for a format or a precision that promptable networks are not exported in."""
    for form in options.forms:
        if not FORMATS[form.format].is_pipeline:
            raise ArchError(
                f"{wanted.text} is promptable, an image encoder and a mask decoder in files of "
                f"their own; leave --format {form.format} out: its --weights are such a file"
            )
        if form.precision == "int8":
            raise ArchError(
                f"{wanted.text} is promptable, whose masks in int8 nothing here judges; take "
                "--precision fp16"
            )


def _random(options: ExportOptions, wanted: Wanted) -> Plan:
    arch = _resolved(options, wanted)
    header = WeightsHeader(arch=arch, preprocessing=preprocessing_of(arch))
    task = _task(arch, header, options)

    def make() -> Network:
        import torch

        from supernet.evaluation.batchnorm import recalibrate
        from supernet.model import build_task_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model, decoder = _parts(build_task_model(arch).eval())
            # Statistics of pictures like those that files are held against PyTorch on: by others
            # the activations of a deep network vanish, or grow until rounding decides.
            pixels = noise(np.random.default_rng(options.seed), SETTLED_ON, *_settled_size(arch))
            pictures = normalised(pixels, model.preprocessing)
            recalibrate(model, [torch.from_numpy(pictures)])
        weights = {"file": None, "sha256": None, "untrained": True, "seed": options.seed}
        origin = {"untrained": "true", "random_seed": options.seed}
        return Network(wanted.name, arch, model, header, weights, origin, task, decoder)

    return Plan(wanted, arch, make)


def _open(path: Path, options: ExportOptions) -> "StoredWeights | Subnets":
    from supernet.evaluation.recalibrated import Recalibration, Subnets
    from supernet.weights.files import read_weights

    weights = read_weights(path)
    if weights.header.kind != "supernet":
        return weights
    for flag in ("task", "dataset", "num_classes"):
        if getattr(options, flag) is not None:
            raise WeightsError(
                f"{path} is a supernet, which knows its task and classes; leave "
                f"--{flag.replace('_', '-')} out"
            )
    settings = Recalibration(options.recalibration_images, options.batch_size, options.seed)
    return Subnets(weights, data=options.data, recalibration=settings, workers=options.workers)


def _with_weights(
    options: ExportOptions,
    wanted: Wanted,
    opened: "StoredWeights | Subnets",
    path: Path,
    tell: Tell,
) -> Plan:
    from supernet.evaluation.recalibrated import Subnets

    if isinstance(opened, Subnets):
        return _subnet(options, wanted, opened, path, tell)
    return _stored(options, wanted, opened, tell)


def _subnet(
    options: ExportOptions, wanted: Wanted, subnets: "Subnets", path: Path, tell: Tell
) -> Plan:
    from supernet.evaluation.extraction import header_of_subnet, origin_of, subnet_arch
    from supernet.evaluation.recalibrated import naming_memory
    from supernet.weights.tensors import sha256_of

    arch = subnet_arch(wanted.text, subnets.space, options.resolution, tell)

    def make() -> Network:
        with naming_memory():
            model, decoder = _parts(subnets.network(arch))
        header = header_of_subnet(subnets.header, arch)
        assert header.preprocessing is not None
        model.preprocessing = header.preprocessing
        sha256 = sha256_of(path)
        origin = origin_of(sha256, header, subnets.recalibration)
        weights = {"file": str(path), "sha256": sha256, "untrained": False, "seed": None}
        task = subnets.task if options.data or options.needs_pictures else None
        weights |= {"subnet": origin}
        return Network(wanted.name, arch, model, header, weights, origin, task, decoder)

    return Plan(wanted, arch, make)


def _stored(options: ExportOptions, wanted: Wanted, weights: "StoredWeights", tell: Tell) -> Plan:
    import torch

    from supernet.model import build_task_model
    from supernet.weights.fitting import fit
    from supernet.weights.networks import network_with

    arch = _arch_for(options, wanted, weights)
    with torch.device("meta"):
        skeleton = build_task_model(arch)
    try:
        fit(weights, skeleton)
    except WeightsError as error:
        told = weights.header.arch
        if told is None or replace(told, resolution=arch.resolution) == arch:
            raise
        named = f"python -m nas.export {shlex.quote(str(weights.path))}"
        raise WeightsError(
            f"{weights.path} holds {told.describe()}, and not {arch.describe()}; export it by "
            f"{named}, or name its own network"
        ) from error

    task = _task(arch, weights.header, options) or _embedded(arch, weights, options)

    def make() -> Network:
        model, decoder = _parts(network_with(weights, arch, tell=tell).eval())
        header = _header_for(weights.header, arch, model)
        origin = _extraction(weights.header)
        told = {"file": str(weights.path), "sha256": weights.sha256, "untrained": False}
        told |= {"seed": None}
        return Network(wanted.name, arch, model, header, told, origin, task, decoder)

    return Plan(wanted, arch, make)


def _parts(model: "nn.Module") -> "tuple[EfficientViT, PromptDecoder | None]":
    """Return a network, or the image encoder of a promptable one and its decoder."""
    from supernet.model import EfficientViT
    from supernet.sam.model import Sam

    decoder = model if isinstance(model, Sam) else None
    encoder = model.image_encoder if isinstance(model, Sam) else model
    assert isinstance(encoder, EfficientViT)
    return encoder, decoder


def _settled_size(arch: Arch) -> tuple[int, int]:
    """Return a size of pictures that is enough for statistics of noise, in pixels."""
    if isinstance(arch.head, PromptableHead):
        return arch.resolution  # no other is taken
    height, width = (min(side, SETTLED_SIDE) for side in arch.resolution)
    return height, width


def _header_for(header: WeightsHeader, arch: Arch, model: "EfficientViT") -> WeightsHeader:
    """Return what a file tells, of a network of it at maybe another resolution."""
    changed: dict[str, Any] = {}
    if arch != header.arch_as_trained:
        changed = {"accuracy": None, "resolutions": (arch.resolution,)}
    return replace(header, arch=arch, preprocessing=model.preprocessing, **changed)


def _extraction(header: WeightsHeader) -> dict[str, Any]:
    """Return what a file tells of the supernet that its network was taken out of."""
    if (taken := header.extraction) is None:
        return {}
    told = {
        "supernet_sha256": taken.supernet_sha256,
        "recalibration_images": taken.images,
        "recalibration_batch": taken.batch,
        "recalibration_seed": taken.seed,
    }
    return {name: value for name, value in told.items() if value is not None}


def _arch_for(options: ExportOptions, wanted: Wanted, weights: "StoredWeights") -> Arch:
    """Return the Arch that is asked for; of an official name as the weights were trained."""
    arch = _resolved(options, wanted)
    named = known_name(wanted.text)
    if not named:
        return arch
    if options.num_classes is None and (classes := weights.num_classes(arch.task)) is not None:
        arch = _resolved(options, wanted, classes)
    trained = weights.header.arch_as_trained
    if options.resolution is None and not named[1] and trained and trained.task == arch.task:
        arch = replace(arch, resolution=trained.resolution)
    return arch


def _resolved(options: ExportOptions, wanted: Wanted, num_classes: int | None = None) -> Arch:
    task: Task | None = check_task(options.task) if options.task else None
    return resolve_arch(
        wanted.text,
        task=task,
        dataset=options.dataset,
        resolution=parse_resolution(options.resolution) if options.resolution else None,
        num_classes=options.num_classes if num_classes is None else num_classes,
    )


def _task(arch: Arch, header: WeightsHeader, options: ExportOptions) -> "PictureTask | None":
    """Return the task on the pictures of --data, of one that is given. Raises DataError."""
    if options.data is None:
        return None
    from supernet.evaluation.recalibrated import task_of

    return task_of(arch, header, options.data)


def _embedded(arch: Arch, weights: "StoredWeights", options: ExportOptions) -> "PictureTask | None":
    """Return the task on embedded pictures, where int8 needs some and weights learned from them.

    Raises DataError where they learned from others.
    """
    if not options.needs_pictures or isinstance(arch.head, PromptableHead):
        return None
    from supernet.evaluation.recalibrated import task_of

    header = weights.header
    with suppress(UserError):
        task = task_of(arch, header, None)
        learned = header.accuracy.dataset if header.accuracy else None
        if header.is_ours and (task.dataset == learned or (header.classes == task.classes != ())):
            return task
    raise DataError(
        f"int8 needs pictures like those that {weights.path} learned from, for the limits of its "
        "activations and to tell what it loses: give --data FOLDER"
    )
