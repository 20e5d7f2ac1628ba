"""What a training is asked to do: the flags of `supernet.train` as a value."""

from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import get_args

from results.errors import DataError, SpaceError, UserError, check_choice, check_least
from results.options import Options
from supernet.accelerator import check_accelerator, check_precision
from supernet.arch import Task
from supernet.evaluation.options import RECALIBRATION_IMAGES
from supernet.tasks.class_order import ORDERS

TASKS = get_args(Task)
AUGMENTS = ("official", "embedded", "plain")
UNRECORDED = ("out", "resume", "compile")  # options that are no part of the run
MAY_CHANGE = (  # in a resumed run
    *("epochs", "steps"),  # the amount of work
    *("workers", "checkpoint_every", "eval_every", "limit"),  # what leaves weights alone
    "recalibration_images",
    "accumulate",  # the cure of too little memory
    *("lr", "clip", "precision"),  # the cures of a loss that is not finite
)
DEFAULTS = {"accumulate": 1, "lr": 1e-3, "clip": 2.0, "precision": "fp32"}
OF_SUPERNETS = {"random_subnets": 2, "recalibration_images": RECALIBRATION_IMAGES}


class Messages(IntEnum):
    """How much a training says on stderr; each level includes those above it here."""

    NONE = 0
    TROUBLE = 1  # what failed without ending it
    NOTES = 2  # what was assumed and is not in its answer
    PROGRESS = 3  # how far it is, and the notes of its answer


@dataclass(frozen=True)
class TrainingOptions(Options):
    """What to train, on what, how, and what it leaves.

    A file, folder, limit or interval that is None is not used. Any other None is worked out from
    the data, the space or the network, see `supernet.training.plan`.
    """

    space: str | None = None
    """Train all subnets of a space: family, b, l, tiny or all."""
    arch: str | None = None
    """Train this one network alone: b0, ..., a JSON file, or RUN#ID."""
    task: str | None = None
    """classification, segmentation, super_resolution, promptable, or pretrain on pictures without
    labels; by default the arch's, else classification."""
    data: Path | None = None
    """Folder of pictures, in the layout of the data set; by default pictures made here."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b: whose heads networks get, and the folder's layout; x2
    or x4: how much super-resolution enlarges."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""
    class_order: str | None = None
    """How folders of classes are numbered: number or text; by default number where all are
    integers, else text. Where --init names its classes, as they are there."""
    num_train: int | None = None
    """Train on this many pictures, evenly spread over all."""
    freeze: tuple[str, ...] = ()
    """Of a space: DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    resolution: tuple[str, ...] = ()
    """Sizes that steps are trained at, 128 or HEIGHTxWIDTH; repeatable. By default the space's,
    or the arch's."""
    augment: str | None = None
    """official, embedded or plain; by default official for a folder."""

    init: Path | None = None
    """Weights to begin with: a supernet or one network, official ones too."""
    kernel_transform: bool = False
    """Smaller kernels are learned maps of larger ones' centres, as in Once-for-All."""
    random_subnets: int | None = None
    """Beside the largest and the smallest subnet, in every step; by default 2."""
    costs: Path | None = None
    """CSV of archs and latencies, of nas.sample: subnets good for their latency train more."""
    shrink: bool = False
    """Begin with the largest subnet and open the space step by step (progressive shrinking)."""
    teacher: Path | None = None
    """A trained network that the largest subnet, and all others instead of from it, learn from."""
    alpha: float | None = None
    """Subnets learn classes by AlphaNet's divergence of this alpha, 0 or more; by default
    Kullback-Leibler's."""

    epochs: int | None = None
    """Times that every picture is seen; by default 20."""
    steps: int | None = None
    """Moves of the weights, instead of epochs."""
    batch_size: int = 64
    """Pictures a step, over all processes."""
    accumulate: int | None = None
    """Run each process's share of a batch in this many parts, to save memory; by default 1."""
    lr: float | None = None
    """Learning rate at its peak, by default 0.001; it ends at 0, by a cosine."""
    warmup: int | None = None
    """Steps that the learning rate rises in; by default a twentieth of all."""
    weight_decay: float = 0.05
    """Of AdamW; norms and biases have none."""
    clip: float | None = None
    """Largest norm of the gradients, by default 2; 0: any."""
    ema: float | None = None
    """Keep an average of the weights of this decay, such as 0.9998, and use it in the end."""

    accelerator: str = "cpu"
    """Where PyTorch computes: cpu or cuda."""
    precision: str | None = None
    """fp32, bf16 or fp16 of activations, by default fp32; weights are always fp32."""
    compile: bool = False
    """Compile the largest and the smallest subnet, or the one network, for each resolution; takes
    minutes, slows steps on a CPU (docs/training.md), and is given again with --resume."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""
    seed: int = 0
    """Of first weights, subnets, order and augmentation."""

    checkpoint_every: int | None = None
    """Steps between checkpoints; by default there is one every two minutes."""
    eval_every: int | None = None
    """Steps between evaluations, on up to 1000 pictures; there is one in the end, on all."""
    limit: int | None = None
    """Evaluate on this many held-out pictures, evenly spread over all."""
    recalibration_images: int | None = None
    """Of a supernet: training pictures that a subnet's BatchNorm statistics are computed on, by
    default 512."""
    out: Path | None = None
    """Folder of the run; by default results/runs/train-NAME-TIME."""
    resume: Path | None = None
    """Go on with the run in this folder; its other flags come from its run.json."""

    def check(self) -> None:
        """Raise UserError for what can be told to be wrong without PyTorch and without data."""
        if (self.space is None) == (self.arch is None):
            raise SpaceError(
                "give --space NAME (family, b, l, tiny or all) to train a supernet, or --arch to "
                "train one network alone"
            )
        self._check_choices()
        self._check_numbers()
        if self.costs is not None and self.shrink:
            raise UserError("--costs and --shrink both choose the subnets; leave one out")
        if self.arch is not None:
            self._check_alone()

    def _check_choices(self) -> None:
        check_accelerator(self.accelerator)
        if self.precision is not None:
            check_precision(self.precision)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if self.augment is not None:
            check_choice("augment", self.augment, AUGMENTS, DataError)
        if self.class_order is not None:
            check_choice("class order", self.class_order, ORDERS, DataError)

    def _check_numbers(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise UserError("give --steps or --epochs, not both")
        check_least("--steps", self.steps, 1)
        check_least("--epochs", self.epochs, 1)
        check_least("--batch-size", self.batch_size, 1)
        check_least("--accumulate", self.accumulate, 1)
        check_least("--warmup", self.warmup, 0)
        check_least("--random-subnets", self.random_subnets, 0)
        check_least("--num-train", self.num_train, 1)
        check_least("--num-classes", self.num_classes, 1)
        check_least("--workers", self.workers, 0)
        check_least("--checkpoint-every", self.checkpoint_every, 1)
        check_least("--eval-every", self.eval_every, 1)
        check_least("--limit", self.limit, 1)
        check_least("--recalibration-images", self.recalibration_images, 1)
        check_least("--seed", self.seed, 0)
        check_least("--clip", self.clip, 0)
        check_least("--weight-decay", self.weight_decay, 0)
        if self.alpha is not None and not 0 <= self.alpha < float("inf"):
            raise UserError(f"--alpha must be 0 or more, such as 1, not {self.alpha}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"--lr must be above 0, not {self.lr}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"--ema must be between 0 and 1, such as 0.9998, not {self.ema}")

    def _check_alone(self) -> None:
        """Raise UserError for what only supernets have, or what only they learn by."""
        for name, given in (
            ("freeze", bool(self.freeze)),
            ("costs", self.costs is not None),
            ("shrink", self.shrink),
            ("kernel-transform", self.kernel_transform),
            ("random-subnets", self.random_subnets is not None),
            ("recalibration-images", self.recalibration_images is not None),
        ):
            if given:
                raise UserError(f"--{name} is of supernets; leave it out, or --arch")
        if self.alpha is not None and self.teacher is None:
            raise UserError(
                "--alpha is of what learns from another network; leave it out, or add "
                "--teacher FILE"
            )

    def with_defaults(self) -> "TrainingOptions":
        """Return the options as run.json holds them.

        Options that may change in a resumed run default to None, so that a default given by hand
        can be told from a flag that was left out.
        """
        defaults = DEFAULTS | (OF_SUPERNETS if self.arch is None else {})
        left_out = {name: v for name, v in defaults.items() if getattr(self, name) is None}
        return replace(self, **left_out)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions(TrainingOptions):
    """What a training is done with: its options, with all that was worked out for them.

    Still None may be files, folders, limits and intervals that are not used; `epochs`, as `steps`
    holds their number; `num_classes` of tasks without classes; `class_order`, as the task holds
    the classes in order; and `workers`, whose number depends on what is read.
    """

    task: str
    dataset: str
    augment: str
    steps: int
    accumulate: int
    lr: float
    warmup: int
    """Steps, at most all."""
    clip: float
    precision: str
    random_subnets: int
    """0 for one network alone."""
    recalibration_images: int
    """0 for one network alone."""
