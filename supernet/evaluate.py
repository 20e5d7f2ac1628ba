"""How good trained weights are: of one network, or of many subnets of a supernet.

python -m supernet.evaluate --arch b1 --weights b1.pt --data imagenet
python -m supernet.evaluate --weights supernet.safetensors --sample 200 --out subnets.jsonl
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from results.console import main as console_main
from results.console import note
from results.errors import DataError, Interrupted, UserError, WeightsError, check_choice
from results.extras import require
from supernet.accelerator import check_accelerator, check_is_here, check_precision, dtype_of
from supernet.tasks.class_order import ORDERS

if TYPE_CHECKING:
    import torch

    from supernet.arch import Arch
    from supernet.evaluation.rows import Row
    from supernet.space import Space

SUBNETS_ONLY = ("out", "sample", "storage", "study")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate trained weights on pictures: one network, or subnets of a supernet."""

    data: Path | None = None
    """Folder of labelled pictures, in the layout of the data set; by default embedded ones. Of one
    without splits, weights trained here are evaluated on the tenth that is kept from training."""
    weights: Path | None = None
    """Trained weights: a supernet's, our .safetensors, an official .pt, or timm's."""
    arch: str | None = None
    """b0, ..., l3, sam_l0, ..., sr_x2, ..., a JSON file, or RUN#ID; by default the weights'. Of a
    supernet also a run, its front.csv or a .jsonl of archs; by default largest and smallest."""
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

    sample: int | None = None
    """Of a supernet: this many random archs of its space."""
    recalibration_images: int = 512
    """Of a supernet: training pictures that a subnet's BatchNorm statistics are computed on."""
    seed: int = 0
    """Of the random archs, and of the pictures for statistics."""
    out: Path | None = None
    """Of a supernet: a .jsonl that figures are appended to; what it has is not evaluated again."""
    storage: str | None = None
    """Of a supernet: Optuna's storage (a URL, or a file) through which processes share archs."""
    study: str = "subnets"
    """The name of their study in the storage."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        self._check()
        assert self.weights is not None
        require("torch", "torch", "safetensors", "PIL")
        from supernet.sharing.checkpoint import is_supernet

        check_is_here(self.accelerator)
        if is_supernet(self.weights):
            self._evaluate_subnets(self.weights)
        else:
            self._evaluate_network()

    @property
    def dtype(self) -> "torch.dtype":
        return dtype_of(self.precision)

    def _evaluate_network(self) -> None:
        from supernet.evaluation.network import evaluate_network
        from supernet.evaluation.report import print_network

        for name in SUBNETS_ONLY:
            if getattr(self, name) != getattr(Evaluate, name):
                raise WeightsError(
                    f"{self.weights} is a single network, and no supernet; leave --{name} out"
                )
        answer = evaluate_network(self)
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            print_network(answer)

    def _evaluate_subnets(self, weights: Path) -> None:
        from supernet.evaluation.report import print_subnets
        from supernet.evaluation.subnets import Batch, SubnetEvaluator, check_figures

        evaluator = SubnetEvaluator(
            weights,
            data=self.data,
            limit=self.limit,
            seed=self.seed,
            recalibration_images=self.recalibration_images,
            batch_size=self.batch_size,
            workers=self.workers,
            accelerator=self.accelerator,
            precision=self.precision,
            class_order=self.class_order,
            silent=self.json or self.quiet,
        )
        self._check_supernet(evaluator.task, evaluator.space.num_classes)
        archs = self._archs(evaluator.space, evaluator.task)
        found: list[Row] = []
        num_done = 0
        show = (
            None if self.json or self.quiet else print_subnets(evaluator.sources, evaluator.notes)
        )

        def done(arch: "Arch", rows: "list[Row]") -> None:
            nonlocal num_done
            num_done += 1
            found.extend(rows)
            if show:
                show(arch, rows)

        try:
            errors = Batch(evaluator, self.out, self.storage, self.study).run(archs, done)
        except KeyboardInterrupt:
            kept = self.out or self.storage
            if kept is None:
                raise
            raise Interrupted(
                f"figures of {num_done} networks are kept in {kept}; the same command goes on"
            ) from None
        if self.json:
            notes = {"notes": list(evaluator.notes)} if evaluator.notes else {}
            print(json.dumps({**evaluator.sources, **notes, "rows": found}, allow_nan=False))
        check_figures(errors)

    def _check_supernet(self, task: str, num_classes: int | None) -> None:
        from supernet.tasks.class_order import check_order

        if self.task not in (None, task):
            raise WeightsError(f"{self.weights} does {task}; leave --task {self.task} out")
        if self.num_classes not in (None, num_classes):
            raise WeightsError(
                f"{self.weights} has {num_classes or 'its own'} classes; leave --num-classes out"
            )
        check_order(self.class_order, task, self.data)
        if self.dataset is not None:
            raise DataError("a supernet knows its data set; leave --dataset out")

    def _archs(self, space: "Space", task: str) -> "list[Arch]":
        import random

        from supernet.resolve import at_resolution, read_archs
        from supernet.sharing.extremes import largest_of, smallest_of

        archs: list[Arch] = []
        if self.arch is not None:
            archs += read_archs(self.arch, space, tell=None if self.quiet else note)
        elif self.sample is None:
            archs += [*largest_of(space), *smallest_of(space)]
        rng = random.Random(self.seed)
        archs += (space.sample(rng) for _ in range(self.sample or 0))
        return [at_resolution(arch, self.resolution) for arch in archs]

    def _check(self) -> None:
        """What can be told without PyTorch."""
        from supernet.official import ALL_DATASETS, check_task

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
        for name, value, least in (
            ("--limit", self.limit, 1),
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
            ("--sample", self.sample, 1),
            ("--recalibration-images", self.recalibration_images, 1),
            ("--seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} must be {least} or more, not {value}")


def main() -> None:
    console_main(Evaluate, "supernet.evaluate")


if __name__ == "__main__":
    main()
