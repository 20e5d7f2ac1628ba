"""What `supernet.evaluate` and `supernet.extract` are asked for."""

from dataclasses import dataclass
from pathlib import Path

from results.errors import (
    ArchError,
    DataError,
    RunError,
    WeightsError,
    check_choice,
    check_least,
)
from results.options import Options
from supernet.accelerator import check_accelerator, check_precision
from supernet.evaluation.rows import TRAINED
from supernet.official import ALL_DATASETS, check_task
from supernet.tasks.class_order import ORDERS, check_order

RECALIBRATION_IMAGES = 512  # that statistics of a subnet are computed on
SUBNET_BATCH = 64  # pictures
CLASSIFIED_TOGETHER = 32  # pictures of a folder; of other tasks one, as their sizes differ
SUBNETS_ONLY = ("archs", "sample", "storage", "study")
LISTS = (".csv", ".jsonl")  # files of several archs


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """Which weights are evaluated, on which pictures, and with what."""

    data: Path | None = None
    """Folder of labelled pictures, in the layout of the data set; by default embedded ones. Of one
    without splits, weights trained here are evaluated on the tenth that is kept from training."""
    weights: Path | None = None
    """Trained weights: a supernet's, our .safetensors, an official .pt, or timm's."""
    arch: str | None = None
    """b0, ..., l3, sam_l0, ..., sr_x2, ..., a JSON file, or RUN#ID; by default the weights'. Of a
    supernet also a run; by default largest and smallest, unless --archs or --sample is given."""
    task: str | None = None
    """classification, segmentation, super_resolution or promptable; by default the arch's."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b; by default what the folder looks like."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the arch's. Super-resolution takes pictures as they are."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""

    class_order: str | None = None
    """How folders of classes are numbered where the weights do not name theirs: number or text; by
    default number where all are integers, else text."""

    batch_size: int | None = None
    """Pictures at a time; by default 64 for subnets, 32 for classification, else 1."""
    limit: int | None = None
    """Evaluate this many pictures, evenly spread over all."""
    accelerator: str = "cpu"
    """Where PyTorch computes: cpu or cuda."""
    precision: str = "fp32"
    """fp32, fp16 or bf16, of weights and activations."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""

    archs: Path | None = None
    """Of a supernet: every arch of this .csv (column arch: what nas.sample writes, or the front.csv
    of a search) or .jsonl."""
    sample: int | None = None
    """Of a supernet: this many random archs of its space."""
    recalibration_images: int = RECALIBRATION_IMAGES
    """Of a supernet: training pictures that a subnet's BatchNorm statistics are computed on."""
    seed: int = 0
    """Of the random archs, and of the pictures for statistics."""
    out: Path | None = None
    """A .jsonl that figures are appended to, of subnets or of networks trained alone; a subnet that
    it has is not evaluated again."""
    provenance: str | None = None
    """For --out, of weights that do not tell how they were trained: trained, if it was alone."""
    storage: str | None = None
    """Of a supernet: Optuna's storage (a URL, or a file) through which processes share archs."""
    study: str = "subnets"
    """The name of their study in the storage."""

    def check(self) -> Path:
        """Return the file of weights. Raises UserError for what can be told without PyTorch."""
        if self.weights is None:
            raise WeightsError("random weights evaluate nothing; name trained ones by --weights")
        if self.weights.is_dir():
            raise WeightsError(f"{self.weights} is a folder; --weights takes a file")
        if not self.weights.is_file():
            raise WeightsError(f"no file {self.weights}")
        check_accelerator(self.accelerator)
        check_precision(self.precision)
        if self.task is not None:
            check_task(self.task)
        if self.dataset is not None:
            check_choice("dataset", self.dataset, ALL_DATASETS, DataError)
        if self.class_order is not None:
            check_choice("class order", self.class_order, ORDERS, DataError)
        if self.provenance is not None:
            check_choice("provenance", self.provenance, (TRAINED,), WeightsError)
            if self.out is None:
                raise WeightsError("--provenance goes with --out FILE.jsonl; leave it out")
        for name, least in (
            ("limit", 1),
            ("batch_size", 1),
            ("workers", 0),
            ("sample", 1),
            ("recalibration_images", 1),
            ("seed", 0),
        ):
            check_least(f"--{name.replace('_', '-')}", getattr(self, name), least)
        self._check_archs()
        return self.weights

    def _check_archs(self) -> None:
        """Raise ArchError where subnets are named in more than one way, or by no list."""
        given = [name for name in ("arch", "archs", "sample") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ArchError(f"--{given[0]} and --{given[1]} both choose the subnets; leave one out")
        if self.archs is not None and self.archs.suffix not in LISTS:
            run = self.archs / "front.csv"
            cure = f"; give {run}" if run.is_file() else ""
            raise ArchError(f"--archs {self.archs} is no .csv or .jsonl of archs{cure}")

    def pictures_at_once(self, task: str | None = None) -> int:
        """Return how many pictures are seen together: `batch_size`, else as many as suit them.

        `task`: of the one network that is evaluated; None: subnets are. Embedded pictures are as
        many for both, so that an extracted subnet gets the same figures.
        """
        if self.batch_size is not None:
            return self.batch_size
        if task is None or self.data is None:
            return SUBNET_BATCH
        return CLASSIFIED_TOGETHER if task == "classification" else 1

    def check_network(self) -> None:
        """Raise WeightsError where something is asked for that only a supernet has."""
        for name in SUBNETS_ONLY:
            if getattr(self, name) != getattr(EvaluationOptions, name):
                raise WeightsError(
                    f"{self.weights} is a single network, and no supernet; leave --{name} out"
                )

    def check_supernet(self, task: str, num_classes: int | None) -> None:
        """Raise UserError where something else is asked for than the supernet is of."""
        if self.task not in (None, task):
            raise WeightsError(f"{self.weights} does {task}; leave --task {self.task} out")
        if self.num_classes not in (None, num_classes):
            raise WeightsError(
                f"{self.weights} has {num_classes or 'its own'} classes; leave --num-classes out"
            )
        check_order(self.class_order, task, self.data)
        if self.provenance is not None:
            raise WeightsError(
                f"{self.weights} is a supernet, whose weights are shared; leave --provenance out"
            )
        if self.dataset is not None:
            raise DataError("a supernet knows its data set; leave --dataset out")


@dataclass(frozen=True)
class ExtractionOptions(Options):
    """Which subnet of a supernet is written, and which pictures its statistics are of."""

    weights: Path | None = None
    """The supernet's .safetensors."""
    arch: str | None = None
    """b0, ..., l3, a JSON file, or RUN#ID: an arch of the supernet's space."""
    out: Path | None = None
    """The .safetensors to write."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the arch's."""

    data: Path | None = None
    """Folder of training pictures for statistics; by default embedded ones."""
    recalibration_images: int = RECALIBRATION_IMAGES
    """Training pictures that statistics are computed on."""
    batch_size: int = SUBNET_BATCH
    """Pictures at a time."""
    seed: int = 0
    """Of the pictures for statistics."""
    accelerator: str = "cpu"
    """Where PyTorch computes: cpu or cuda."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""

    def check(self) -> tuple[Path, str, Path]:
        """Return the supernet's file, the arch's name and the file to write.

        Raises UserError for what can be told without PyTorch.
        """
        if self.weights is None or not self.weights.is_file():
            missing = f"no file {self.weights}" if self.weights else "no supernet"
            raise WeightsError(f"{missing}; name the one that supernet.train wrote by --weights")
        if self.arch is None:
            raise ArchError("name the arch to extract by --arch NAME, FILE or RUN#ID")
        if self.out is None:
            raise RunError("name the file to write by --out FILE.safetensors")
        if self.out.suffix != ".safetensors":
            raise RunError(f"--out {self.out} must end in .safetensors, which is what it will be")
        if self.out.exists() and self.out.samefile(self.weights):
            raise RunError(f"--out {self.out} is the supernet itself; name another file")
        check_accelerator(self.accelerator)
        for name, least in (
            ("recalibration_images", 1),
            ("batch_size", 1),
            ("seed", 0),
            ("workers", 0),
        ):
            check_least(f"--{name.replace('_', '-')}", getattr(self, name), least)
        return self.weights, self.arch, self.out
