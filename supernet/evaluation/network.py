"""One network with weights of its own, evaluated on a folder or on embedded pictures."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from results.errors import ArchError, DataError, WeightsError
from results.progress import progress
from supernet.accelerator import dtype_of
from supernet.arch import Arch, format_resolution, parse_resolution
from supernet.evaluation.alone import NetworkLog, provenance_of
from supernet.evaluation.folders import FolderData, open_data
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.recalibrated import naming_memory, task_of
from supernet.evaluation.report import unit_of
from supernet.official import DATASETS, check_task, known_name
from supernet.resolve import resolve_arch
from supernet.sam.model import Sam
from supernet.sam.predictor import PromptablePredictor
from supernet.tasks.class_order import check_order
from supernet.tasks.labelled_pictures import layout_of
from supernet.tasks.loop import evaluate, read_batches
from supernet.tasks.promptable import BoxIoU
from supernet.tasks.splits import spread
from supernet.tasks.task import EvaluationSettings
from supernet.weights.fitting import StoredWeights
from supernet.weights.header import WeightsHeader
from supernet.weights.networks import network_with


def evaluate_network(
    weights: StoredWeights, options: EvaluationOptions, *, silent: bool = True
) -> dict[str, Any]:
    """Return figures of the network that weights are of, and where they come from.

    Args:
        weights: those that the options name.
        silent: show no progress.

    Raises UserError for options, weights and pictures that do not go together.
    """
    options.check_network()
    arch = _arch(options, weights)
    log = None if options.out is None else NetworkLog(options.out, weights, arch, options)
    settings = _settings(options, arch)
    weights_notes: list[str] = []
    model = network_with(weights, arch, tell=weights_notes.append).eval()
    model = model.to(settings.device, settings.dtype)
    started = time.perf_counter()
    notes: tuple[str, ...] = ()
    if options.data is None:
        task = task_of(arch, weights.header, None)
        with naming_memory():
            metrics = task.evaluate(model, arch, settings)
        dataset = task.dataset
    else:
        folder_data = _open_folder(options, options.data, weights.header, arch, silent=silent)
        with naming_memory():
            metrics = _measure(model, folder_data, settings, silent=silent)
        dataset, notes = folder_data.name, folder_data.notes + _left_out(folder_data)
    number = int(metrics.pop("n"))
    answer: dict[str, Any] = {
        "task": arch.task,
        "dataset": dataset,
        "data": None if options.data is None else str(options.data),
        "arch": arch.to_dict(),
        "weights": str(weights.path),
        "weights_sha256": weights.sha256,
        "n": number,
        "metrics": metrics,
        "units": {name: unit_of(name) for name in metrics},
        "provenance": provenance_of(weights.header, options),
        "resolution": None
        if arch.task == "super_resolution"
        else format_resolution(arch.resolution),
        "precision": options.precision,
        "accelerator": options.accelerator,
        "seconds": time.perf_counter() - started,
    }
    notes = (*weights_notes, *notes)
    if log is not None:
        notes += log.append(answer)
    return answer | weights.header.training | ({"notes": list(notes)} if notes else {})


def _settings(options: EvaluationOptions, arch: Arch) -> EvaluationSettings:
    return EvaluationSettings(
        options.pictures_at_once(arch.task),
        options.limit,
        options.workers,
        torch.device(options.accelerator),
        dtype_of(options.precision),
    )


def _open_folder(
    options: EvaluationOptions, folder: Path, header: WeightsHeader, arch: Arch, *, silent: bool
) -> FolderData:
    folder_data = open_data(
        arch,
        header,
        folder,
        limit=options.limit,
        class_order=options.class_order,
        silent=silent,
    )
    if folder_data.is_known and options.dataset not in (None, folder_data.name):
        raise DataError(
            f"{folder} is {folder_data.name}, not {options.dataset}; leave --dataset out"
        )
    return folder_data


def _left_out(folder_data: FolderData) -> tuple[str, ...]:
    """Return a line where objects were left out and nothing said so yet."""
    reason = folder_data.metric.reason if isinstance(folder_data.metric, BoxIoU) else ""
    if not reason or any(reason in note for note in folder_data.notes):
        return ()
    return (f"of objects that are left out, the first: {reason}",)


def _arch(options: EvaluationOptions, weights: StoredWeights) -> Arch:
    """Return the Arch of the options, or that which the weights carry. Raises UserError."""
    task = check_task(options.task) if options.task else None
    resolution = parse_resolution(options.resolution) if options.resolution else None
    header = weights.header
    if options.arch is None:
        trained = header.arch_as_trained
        if trained is None:
            raise WeightsError(f"{weights.path} does not tell its architecture; name it by --arch")
        arch = replace(trained, resolution=resolution or trained.resolution)
    else:
        arch = _asked_arch(options, options.arch, resolution, header)
    classes = getattr(arch.head, "num_classes", None)
    if options.num_classes not in (None, classes):
        has = f"{classes} classes" if classes else "no classes"
        raise ArchError(f"the network has {has}; leave --num-classes {options.num_classes} out")
    if arch.head is None:
        raise ArchError(f"the arch of {weights.path} has no head, so it performs no task")
    if task not in (None, arch.task):
        raise ArchError(f"the arch does {arch.task}; leave --task {task} out, or name another")
    check_order(options.class_order, arch.task, options.data)
    known = DATASETS.get(arch.task, ())
    if options.dataset is not None and options.dataset not in known:
        listed = ", ".join(known) or "none, leave it out"
        raise DataError(f"{options.dataset} is no data set for {arch.task} (choose from {listed})")
    return arch


def _asked_arch(
    options: EvaluationOptions,
    text: str,
    resolution: tuple[int, int] | None,
    header: WeightsHeader,
) -> Arch:
    """Return the Arch that --arch names, of an official network with the head for the data.

    A name that tells no resolution is one at the resolution that the weights were trained at.
    """
    official = known_name(text)
    if official and not official[1] and header.resolutions:
        resolution = resolution or max(header.resolutions)
    find = partial(resolve_arch, text, resolution=resolution, num_classes=options.num_classes)
    task = check_task(options.task) if options.task else None
    name = official[0] if official else text.lower()
    own = None if official else find()
    if own is not None and task in (None, own.task):
        return own
    layout = _official_layout(options.data)
    if task is None and layout and not name.startswith(("sam_", "sr_")):
        task = "segmentation"
    dataset = options.dataset or (layout if task == "segmentation" else None)
    return find(task=task, dataset=dataset)


def _official_layout(folder: Path | None) -> str | None:
    """Return cityscapes or ade20k where a folder is laid out so: it asks for such a head."""
    if folder is None:
        return None
    try:
        layout = layout_of(folder)
    except DataError:
        return None
    return None if layout == "folder" else layout


def _measure(
    model: nn.Module, folder_data: FolderData, settings: EvaluationSettings, *, silent: bool
) -> dict[str, float]:
    data, metric = spread(folder_data.data, settings.limit), folder_data.metric
    batches = read_batches(
        data,
        batch_size=settings.batch_size,
        workers=settings.workers,
        pin_memory=settings.device.type == "cuda",
    )
    total = len(data)  # type: ignore[arg-type]
    with progress(total, silent=silent, label="evaluating", unit="pictures") as done:
        if isinstance(model, Sam):
            predictor = PromptablePredictor(model)
            for number, picture in enumerate((p for batch in batches for p in batch), start=1):
                metric.update(predictor, picture)
                done(number)
        else:
            evaluate(
                model, batches, metric, device=settings.device, dtype=settings.dtype, done=done
            )
    return {**metric.compute(), "n": float(total)}
