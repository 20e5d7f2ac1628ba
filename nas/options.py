"""What a search is asked for, and a sample of a space: flags of the commands as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.options import Options
from results.resume import flags_of
from supernet.evaluation.options import RECALIBRATION_IMAGES, EvaluationOptions

PUBLISHED, CHECKPOINT, MODEL = "published", ".safetensors", ".npz"
FITTED, PLAIN = "auto", "ridge"
ACCURACY_MODELS = (FITTED, PLAIN, "gp", "trees", "mean")
PREDICTED, SUPERNET = "predicted", "supernet"
OBJECTIVES = (PREDICTED, SUPERNET)
ARCHIVE, GENETIC = "archive", "nsga2"  # samplers
TRIALS = 3000
TRIALS_ARCHIVE = 300  # of which Optuna's study holds the numbers
TRIALS_EVALUATED = 300  # with PyTorch, seconds each
EVALUATIONS = 1_000_000
EVALUATIONS_FITTED = 200_000  # where accuracies are those of a fitted model, which takes longer
NEAR, FAR = "near", "far"
REACHES = (NEAR, FAR)
ALWAYS, AUTO, NEVER = "always", "auto", "never"
PROOFS = (ALWAYS, AUTO, NEVER)
SMALL = 10**8  # networks of a space whose front is proven by default, as that takes a second
MOST_STATES = 10**9  # pairs of groups of networks that a proof may judge
LIMIT = 1000  # pictures, unless the user says otherwise
UNRECORDED = ("resume", "out")  # options that are no part of the search


@dataclass(frozen=True)
class SearchOptions(Options):
    """Everything that a search is asked for, by the names of the command's flags.

    A budget, file or folder that is None is not used. `trials`, `evaluations`, `sampler`, `limit`,
    `recalibration_images` and `accelerator` default to None, so that a default given by hand can
    be told from a flag that was left out. Any other None is worked out from the device, the table,
    the data or the resumed run, see `nas.engine.run.SearchRun`.
    """

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]] of the device the model is meant for; `python -m nas.devices`
    lists them."""
    task: str = "classification"
    """classification, segmentation, promptable or super_resolution."""
    dataset: str | None = None
    """Data set whose published accuracies count: imagenet, cityscapes, ade20k, sa1b."""
    space: str | None = None
    """Search space: family (b and l), b, l, tiny, or all, which has more local blocks and mixers
    for --freeze to choose from; by default that of the --accuracy file, else what the table was
    measured for, else family."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160 or stage3.mixer=relu_linear;
    repeatable."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's, or those of the --accuracy file."""

    accuracy: str = PUBLISHED
    """Where accuracies come from: published figures; FILE.jsonl of subnets that supernet.evaluate
    wrote, whose mixers, kernels and scales are then searched too; MODEL.npz that predictors.fit
    fitted to them; or, with --objective supernet, CHECKPOINT.safetensors of supernet.train."""
    accuracy_model: str = FITTED
    """What is fitted to --accuracy FILE.jsonl: auto, gp, trees or mean, as predictors.fit does; or
    ridge, which adds up effects of choices and knows no sizes."""
    trained: Path | None = None
    """FILE.jsonl of networks trained alone, which supernet.evaluate wrote: with them and subnets of
    --accuracy, the accuracy of a network trained alone is predicted."""
    objective: str = PREDICTED
    """predicted, or supernet: every trial is evaluated on the checkpoint, which takes seconds."""
    data: Path | None = None
    """Pictures for --objective supernet, in the layout of the data set; by default embedded."""
    limit: int | None = None
    """Evaluate on this many pictures, evenly spread over all; by default 1000."""
    recalibration_images: int | None = None
    """Training pictures that each network's BatchNorm statistics are computed on; by default
    512."""
    accelerator: str | None = None
    """Where PyTorch evaluates: cpu (the default) or cuda."""

    max_latency_ms: float | None = None
    """Budget of latency, per image."""
    max_params_m: float | None = None
    """Budget of parameters, in millions."""
    max_macs_g: float | None = None
    """Budget of multiply-adds, in billions."""
    max_memory_mb: float | None = None
    """Budget of peak memory, activations of a batch and weights."""
    max_accuracy_std: float | None = None
    """Limit on the predicted accuracy's standard deviation, in points: how far from published
    networks, or from choices that were evaluated."""

    prove: str = AUTO
    """Whether to find the exact front of the same predictors, and add what the search missed:
    always (seconds to a minute), auto (spaces of up to 10^8 networks) or never."""
    trials: int | None = None
    """Trials of the Optuna study; by default 300 of the archive's best networks, 3000 with another
    sampler, 300 where each is evaluated (--objective supernet), or as the resumed run has them."""
    evaluations: int | None = None
    """Networks that the sampler archive evaluates; by default a million, 200,000 where accuracies
    are those of a fitted model, and in a resumed run at least as many as before."""
    sampler: str | None = None
    """archive, which keeps the best of a million networks; or Optuna's nsga2 (the default where
    each is evaluated), nsga3, tpe, gp (needs PyTorch; for a few hundred trials) or random."""
    reach: str = NEAR
    """near: keep to networks like those whose accuracies are known, but where others are more than
    6 % faster; far: whatever is predicted to be best."""
    seed: int = 0
    """Same seed, same front."""

    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    out: Path | None = None
    """Run folder; by default results/runs/DEVICE-TIME under the current directory."""
    resume: Path | None = None
    """Go on with this run; its flags come from its run.json, only --trials and --evaluations may
    differ."""

    @property
    def num_trials(self) -> int:
        """Return how many architectures to try."""
        if self.trials is not None:
            return self.trials
        if self.objective == SUPERNET:
            return TRIALS_EVALUATED
        return TRIALS_ARCHIVE if self.chosen_sampler == ARCHIVE else TRIALS

    @property
    def chosen_sampler(self) -> str:
        """Return the sampler that was asked for, or the default."""
        return self.sampler or (GENETIC if self.objective == SUPERNET else ARCHIVE)

    @property
    def num_evaluations(self) -> int:
        """Return how many networks the sampler archive evaluates."""
        if self.evaluations is not None:
            return self.evaluations
        return EVALUATIONS if self.accuracy == PUBLISHED else EVALUATIONS_FITTED

    @property
    def evaluation(self) -> EvaluationOptions:
        """Return how each network is evaluated where the objective is supernet."""
        images = self.recalibration_images
        return EvaluationOptions(
            data=self.data,
            limit=LIMIT if self.limit is None else self.limit,
            recalibration_images=RECALIBRATION_IMAGES if images is None else images,
            accelerator=self.accelerator or "cpu",
        )

    @property
    def evaluation_flags(self) -> Mapping[str, object]:
        """Return what was given of the flags that only an evaluation reads, by flag."""
        given = {
            "--data": self.data,
            "--limit": self.limit,
            "--recalibration-images": self.recalibration_images,
            "--accelerator": self.accelerator,
        }
        return {flag: value for flag, value in given.items() if value is not None}

    @property
    def budgets(self) -> Mapping[str, float | None]:
        """Return the upper limits by flag, as `nas.objectives.budgets.budgets` reads them."""
        return {
            "--max-latency-ms": self.max_latency_ms,
            "--max-params-m": self.max_params_m,
            "--max-macs-g": self.max_macs_g,
            "--max-memory-mb": self.max_memory_mb,
            "--max-accuracy-std": self.max_accuracy_std,
        }

    def settings(self) -> dict[str, Any]:
        """Return the flags that make the search what it is, as run.json has them."""
        return flags_of(self, UNRECORDED) | {"accuracy": self.absolute_accuracy}

    @property
    def absolute_accuracy(self) -> str:
        """Return --accuracy, a file by its absolute path: a run is resumed from anywhere."""
        if self.accuracy == PUBLISHED:
            return PUBLISHED
        return str(Path(self.accuracy).resolve())


@dataclass(frozen=True)
class SampleOptions(Options):
    """Which networks are written, with latencies of which device and accuracies by what."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]]; `python -m nas.devices` lists them."""
    costs: Path | None = None
    """CSV to write: columns arch (JSON), latency_ms, latency_std_ms, and with an --accuracy file
    accuracy, accuracy_std. supernet.train --costs and supernet.evaluate --archs read it."""
    sample: int | None = None
    """Networks to draw at random; by default 1000, or all where the space has fewer."""
    propose: int | None = None
    """Instead, this many networks that --accuracy FILE.jsonl lacks and whose evaluation tells most
    about the front of latency and accuracy, the most valuable first."""
    space: str | None = None
    """Space to draw from; by default family, or that of the --accuracy file."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    task: str | None = None
    """classification, segmentation, super_resolution or promptable; by default classification, or
    that of the --accuracy file."""
    dataset: str | None = None
    """imagenet, cityscapes, ade20k or sa1b."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's, or those of the --accuracy file."""
    seed: int = 0
    """Same seed, same networks."""

    accuracy: str = PUBLISHED
    """FILE.jsonl of subnets that supernet.evaluate wrote, or MODEL.npz that predictors.fit fitted
    to them, to predict accuracies from; by default none are written."""
    accuracy_model: str = FITTED
    """What is fitted to --accuracy FILE.jsonl: auto, gp, trees, mean or ridge, as nas.search."""
    trained: Path | None = None
    """FILE.jsonl of networks trained alone, beside subnets of --accuracy, as nas.search."""

    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
