"""How good trained weights are on pictures of a folder.

python -m supernet.evaluate --arch b1 --weights b1.pt --data imagenet
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.console import main as console_main
from results.errors import ArchError, DataError, DeviceError, UserError, WeightsError, check_choice
from supernet.arch import (
    Arch,
    ClassificationHead,
    SegmentationHead,
    SuperResolutionHead,
    format_resolution,
    parse_resolution,
)

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

ACCELERATORS = ("cpu", "cuda")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # PyTorch's names
UNITS = {"psnr_db": "dB", "ssim": ""}  # of the other figures: percent
TITLES = {
    "psnr_db": "PSNR (luma)",
    "ssim": "SSIM (luma, at most 1)",
    "miou": "mean IoU",
    "miou_small": "mean IoU, small",
    "miou_medium": "mean IoU, medium",
    "miou_large": "mean IoU, large",
}


@dataclass(frozen=True)
class Evaluate:
    """Evaluate trained weights on a folder of pictures."""

    data: Path
    """Folder of labelled pictures, in the layout of the data set."""
    weights: Path | None = None
    """Trained weights: an official .pt, timm's, or our .safetensors."""
    arch: str | None = None
    """b0, ..., l3, sam_l0, ..., sr_x2, ..., a JSON file, or RUN#ID; by default the weights'."""
    task: str | None = None
    """classification, segmentation, super_resolution or promptable; by default the arch's."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b; by default what the folder looks like."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the arch's. Super-resolution takes pictures as they are."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""

    batch_size: int | None = None
    """Pictures at a time; by default 32 for classification, else 1."""
    limit: int | None = None
    """Evaluate this many pictures, evenly spread over all."""
    accelerator: str = "cpu"
    """Where PyTorch computes: cpu or cuda."""
    precision: str = "fp32"
    """fp32, fp16 or bf16, of weights and activations."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        self._check()
        assert self.weights is not None
        _require_torch()
        import torch

        from supernet.model import build_task_model
        from supernet.weights import load_weights

        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise DeviceError("no CUDA device is here; leave --accelerator cuda out")
        arch = self._arch(self.weights)
        model = build_task_model(arch)
        load_weights(model, self.weights)
        opened = open_data(arch, self.data)
        if opened.is_known and self.dataset not in (None, opened.name):
            raise DataError(
                f"{self.data} is {opened.name}, not {self.dataset}; leave --dataset out"
            )
        dtype = getattr(torch, PRECISIONS[self.precision])
        model = model.eval().to(torch.device(self.accelerator), dtype)
        data = opened.data if self.limit is None else _spread(opened.data, self.limit)
        started = time.perf_counter()
        try:
            metrics = self._measure(model, data, opened.metric)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if type(error) is RuntimeError and "DefaultCPUAllocator" not in str(error):
                raise
            raise UserError(
                "out of memory; try a smaller --batch-size or --resolution, or smaller pictures"
            ) from None
        seconds = time.perf_counter() - started
        answer = {
            "task": arch.task,
            "dataset": opened.name,
            "data": str(self.data),
            "arch": arch.to_dict(),
            "weights": str(self.weights),
            "weights_sha256": _sha256(self.weights),
            "n": len(data),  # type: ignore[arg-type]
            "metrics": metrics,
            "units": {name: _unit(name) for name in metrics},
            "provenance": "trained",
            "resolution": None
            if arch.task == "super_resolution"
            else format_resolution(arch.resolution),
            "precision": self.precision,
            "accelerator": self.accelerator,
            "seconds": seconds,
        }
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            _print(answer)

    def _check(self) -> None:
        """What can be told without PyTorch."""
        from supernet.named import ALL_DATASETS, check_task

        if self.weights is None:
            raise WeightsError("random weights evaluate nothing; name trained ones by --weights")
        if self.weights.is_dir():
            raise WeightsError(f"{self.weights} is a folder; --weights takes a file")
        if not self.weights.is_file():
            raise WeightsError(f"no file {self.weights}")
        check_choice("accelerator", self.accelerator, ACCELERATORS, DeviceError)
        check_choice("precision", self.precision, PRECISIONS, DeviceError)
        if self.task is not None:
            check_task(self.task)
        if self.dataset is not None:
            check_choice("dataset", self.dataset, ALL_DATASETS, DataError)
        for name, value, least in (
            ("--limit", self.limit, 1),
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} must be {least} or more, not {value}")

    def _arch(self, weights: Path) -> Arch:
        """Of the flags, or that which the weights carry."""
        from supernet.archs import resolve_arch
        from supernet.named import DATASETS, NAMES, check_task
        from supernet.weights import arch_in

        task = check_task(self.task) if self.task else None
        resolution = parse_resolution(self.resolution) if self.resolution else None
        if self.arch is None:
            found = arch_in(weights)
            if found is None:
                raise WeightsError(f"{weights} does not tell its architecture; name it by --arch")
            arch = found if resolution is None else replace(found, resolution=resolution)
        else:
            find = partial(
                resolve_arch, self.arch, resolution=resolution, num_classes=self.num_classes
            )
            name = self.arch.lower().removeprefix("efficientvit_")
            own = None if name in NAMES else find()
            if own is not None and task in (None, own.task):
                arch = own
            else:
                layout = self._official_layout()
                if task is None and layout and not name.startswith(("sam_", "sr_")):
                    task = "segmentation"
                dataset = self.dataset or (layout if task == "segmentation" else None)
                arch = find(task=task, dataset=dataset)
        classes = getattr(arch.head, "num_classes", None)
        if self.num_classes not in (None, classes):
            has = f"{classes} classes" if classes else "no classes"
            raise ArchError(f"the network has {has}; leave --num-classes {self.num_classes} out")
        if arch.head is None:
            raise ArchError(f"the arch of {weights} has no head, so it performs no task")
        if task not in (None, arch.task):
            raise ArchError(f"the arch does {arch.task}; leave --task {task} out, or name another")
        if self.dataset is not None and self.dataset not in DATASETS[arch.task]:
            listed = ", ".join(DATASETS[arch.task]) or "none, leave it out"
            raise DataError(f"{self.dataset} is no data set for {arch.task} (choose from {listed})")
        return arch

    def _official_layout(self) -> str | None:
        """cityscapes or ade20k, where the folder is laid out so: it asks for such a head."""
        from supernet.tasks.segmentation import layout_of

        try:
            layout = layout_of(self.data)
        except DataError:
            return None
        return None if layout == "folder" else layout

    def _measure(self, model: "nn.Module", data: "Dataset[Any]", metric: Any) -> dict[str, float]:
        from supernet.sam import Sam
        from supernet.segment import PromptablePredictor
        from supernet.tasks.classification import TopAccuracy
        from supernet.tasks.loop import evaluate, read_batches

        weight = next(model.parameters())
        batches = read_batches(
            data,
            batch_size=self.batch_size or (32 if isinstance(metric, TopAccuracy) else 1),
            workers=self.workers,
            pin_memory=self.accelerator == "cuda",
        )
        total = len(data)  # type: ignore[arg-type]
        with _progress(total, silent=self.json or self.quiet) as done:
            if isinstance(model, Sam):
                predictor = PromptablePredictor(model)
                for number, picture in enumerate((p for batch in batches for p in batch), start=1):
                    metric.update(predictor, picture)
                    done(number)
            else:
                evaluate(
                    model, batches, metric, device=weight.device, dtype=weight.dtype, done=done
                )
        found: dict[str, float] = metric.compute()
        return found


@dataclass(frozen=True)
class Opened:
    """A folder as a data set, and the metric that goes with it."""

    data: "Dataset[Any]"
    metric: Any  # a `supernet.tasks.loop.Metric`, or a BoxIoU
    name: str  # of the data set where the layout tells it, else of the folder
    is_known: bool  # the layout tells it


def open_data(arch: Arch, folder: Path) -> Opened:
    """What `arch` is evaluated on. Raises DataError for a folder that it cannot be."""
    from supernet.model import default_cfg
    from supernet.tasks.classification import ClassFolders, TopAccuracy
    from supernet.tasks.promptable import AnnotatedPictures, BoxIoU
    from supernet.tasks.segmentation import LabelledPictures, MeanIoU
    from supernet.tasks.super_resolution import LargePictures, Likeness

    head, cfg, name = arch.head, default_cfg(arch), folder.resolve().name
    colours = {"mean": cfg["mean"], "std": cfg["std"]}
    if isinstance(head, ClassificationHead):
        classes = ClassFolders(
            folder, arch.resolution, head.num_classes, crop_pct=cfg["crop_pct"], **colours
        )
        known = classes.is_imagenet
        return Opened(classes, TopAccuracy(), "imagenet" if known else name, known)
    if isinstance(head, SegmentationHead):
        labelled = LabelledPictures(folder, arch.resolution, head.num_classes, **colours)
        known = labelled.layout != "folder"
        metric = MeanIoU(labelled.class_names)
        return Opened(labelled, metric, labelled.layout if known else name, known)
    if isinstance(head, SuperResolutionHead):
        pictures = LargePictures(folder, head.scale, **colours)
        return Opened(pictures, Likeness(head.scale), name, False)
    annotated = AnnotatedPictures(folder)
    known = annotated.layout != "folder"
    return Opened(annotated, BoxIoU(), annotated.layout if known else name, known)


def _require_torch() -> None:
    """Raise UserError unless what the extra `torch` installs is here."""
    from importlib.util import find_spec

    for module in ("torch", "safetensors", "PIL"):
        if find_spec(module) is None:
            raise UserError(f'{module} is missing; install it with `pip install -e ".[torch]"`')


def _spread(data: "Dataset[Any]", limit: int) -> "Dataset[Any]":
    """`limit` samples, evenly spread: classes often lie one after the other."""
    from torch.utils.data import Subset

    total = len(data)  # type: ignore[arg-type]
    limit = min(limit, total)
    return Subset(data, [index * total // limit for index in range(limit)])


@contextmanager
def _progress(total: int, *, silent: bool) -> Iterator[Callable[[int], None]]:
    """Gives what to call with the number of pictures done. A bar on stderr, if a terminal."""
    if silent or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda done: bar.update(task, completed=done)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True, markup=False)
    arch, metrics = Arch.from_dict(answer["arch"]), dict(answer["metrics"])
    size = f", {answer['resolution']} px" if answer["resolution"] else ""
    out.print(f"{answer['task']}: {arch.describe()}{size}")
    out.print(f"  weights    {answer['weights']}, sha256 {answer['weights_sha256'][:12]}, trained")
    out.print(
        f"  data       {answer['dataset']} ({answer['data']}), "
        f"pictures: {answer['n']}, {answer['precision']} on "
        f"{answer['accelerator']}, {answer['seconds']:.1f} s"
    )
    if answer["task"] == "promptable":
        out.print("  masks from boxes, by the objects' size in pixels of the picture:")
    for name, value in metrics.items():
        if name.endswith("_stderr"):
            continue
        title = TITLES.get(name, name.replace("_", " "))
        if name.startswith("objects"):
            out.print(f"  {title:<22} {value:.0f}")
            continue
        digits = 4 if name == "ssim" else 2
        spread = metrics.get(f"{name}_stderr")
        error = "" if spread is None else f" ± {spread:.{digits}f}"
        out.print(f"  {title:<22} {value:.{digits}f}{error} {_unit(name)}".rstrip())
    out.print("  ± is the standard error over pictures; figures without have none")


def _unit(name: str) -> str:
    return "" if name.startswith("objects") else UNITS.get(name.removesuffix("_stderr"), "%")


def main() -> None:
    console_main(Evaluate, "supernet.evaluate")


if __name__ == "__main__":
    main()
