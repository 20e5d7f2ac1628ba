"""What a search is asked for, and a sample of a space: flags of the commands as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.objectives.objective import MAXIMIZED, MINIMIZED, QUANTITIES
from results.options import Options
from results.resume import flags_of
from supernet.evaluation.options import RECALIBRATION_IMAGES, EvaluationOptions

PUBLISHED, CHECKPOINT, MODEL = "published", ".safetensors", ".npz"
FITTED, PLAIN = "auto", "ridge"
ACCURACY_MODELS = (FITTED, PLAIN, "gp", "trees", "mean")
PREDICTED, SUPERNET = "predicted", "supernet"
EVALUATED_BY = (PREDICTED, SUPERNET)
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
SMALL = 10**8  # networks of a space whose front is proven by default
LARGE, MANY = 10**11, 100_000  # the same after many evaluations, as little is then left to find
QUICK_STATES, MOST_STATES = 3 * 10**7, 10**9  # networks that a proof may judge: by default, at most
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
    lists them. Up to three: networks that are to run on all of them."""
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
    fitted to them; or, with --evaluate supernet, CHECKPOINT.safetensors of supernet.train."""
    accuracy_model: str = FITTED
    """What is fitted to --accuracy FILE.jsonl: auto, gp, trees or mean, as predictors.fit does; or
    ridge, which adds up effects of choices and knows no sizes."""
    trained: Path | None = None
    """FILE.jsonl of networks trained alone, which supernet.evaluate wrote: with them and subnets of
    --accuracy, the accuracy of a network trained alone is predicted."""
    evaluate: str = PREDICTED
    """predicted, or supernet: every trial is evaluated on the checkpoint, which takes seconds."""
    data: Path | None = None
    """Pictures for --evaluate supernet, in the layout of the data set; by default embedded."""
    limit: int | None = None
    """Evaluate on this many pictures, evenly spread over all; by default 1000."""
    recalibration_images: int | None = None
    """Training pictures that each network's BatchNorm statistics are computed on; by default
    512."""
    accelerator: str | None = None
    """Where PyTorch evaluates: cpu (the default) or cuda."""

    minimize: tuple[str, ...] = ()
    """latency (the default), energy, memory, params or macs; repeatable, for up to four objectives
    in all."""
    maximize: tuple[str, ...] = ()
    """accuracy, which always is."""
    risk: float | None = None
    """Take that quantile of each latency which is not exceeded with this probability (0.9, say),
    by the predictor's own error, instead of the mean: as an objective and in budgets."""

    max_latency_ms: tuple[str, ...] = ()
    """Budget of latency, per image; DEVICE=MS for one of several devices, repeatable."""
    min_latency_ms: tuple[str, ...] = ()
    """Least latency, as the budget."""
    min_accuracy: float | None = None
    """Least predicted accuracy, in points."""
    max_accuracy: float | None = None
    """Most."""
    max_params_m: float | None = None
    """Budget of parameters, in millions."""
    min_params_m: float | None = None
    """Least parameters."""
    max_macs_g: float | None = None
    """Budget of multiply-adds, in billions."""
    min_macs_g: float | None = None
    """Least multiply-adds."""
    max_memory_mb: float | None = None
    """Budget of peak memory, activations of a batch and weights."""
    min_memory_mb: float | None = None
    """Least peak memory."""
    max_energy_mj: float | None = None
    """Budget of energy per image, in mJ; the table must have been measured with --energy."""
    min_energy_mj: float | None = None
    """Least energy."""
    max_accuracy_std: float | None = None
    """Limit on the predicted accuracy's standard deviation, in points: how far from published
    networks, or from choices that were evaluated."""

    prove: str = AUTO
    """Whether to find the exact front of the same predictors, and add what the search missed, or
    with accuracies of evaluated networks bound how much that is: auto (spaces of up to 10^11
    networks after 100,000 evaluations, else of up to 10^8; takes seconds), always (up to a minute
    or so, if it takes that) or never."""
    trials: int | None = None
    """Trials of the Optuna study; by default 300 of the archive's best networks, 3000 with another
    sampler, 300 where each is evaluated (--evaluate supernet), or as the resumed run has them."""
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

    table: tuple[str, ...] = ()
    """Latency table (.csv, with its .json beside it) instead of the device's own; DEVICE=FILE for
    one of several, repeatable."""
    out: Path | None = None
    """Run folder; by default results/runs/DEVICE-TIME under the current directory."""
    resume: Path | None = None
    """Go on with this run; its flags come from its run.json, only --trials and --evaluations may
    differ."""

    def __post_init__(self) -> None:
        """Convert all fields; a latency may be a number. Raises UserError."""
        for name in ("max_latency_ms", "min_latency_ms"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                object.__setattr__(self, name, (str(value),))
        super().__post_init__()

    @property
    def minimized(self) -> tuple[str, ...]:
        """Return the names of what is minimised."""
        return self.minimize or MINIMIZED

    @property
    def maximized(self) -> tuple[str, ...]:
        """Return the names of what is maximised."""
        return self.maximize or MAXIMIZED

    @property
    def num_trials(self) -> int:
        """Return how many architectures to try."""
        if self.trials is not None:
            return self.trials
        if self.evaluate == SUPERNET:
            return TRIALS_EVALUATED
        return TRIALS_ARCHIVE if self.chosen_sampler == ARCHIVE else TRIALS

    @property
    def chosen_sampler(self) -> str:
        """Return the sampler that was asked for, or the default."""
        return self.sampler or (GENETIC if self.evaluate == SUPERNET else ARCHIVE)

    @property
    def num_evaluations(self) -> int:
        """Return how many networks the sampler archive evaluates."""
        if self.evaluations is not None:
            return self.evaluations
        return EVALUATIONS if self.accuracy == PUBLISHED else EVALUATIONS_FITTED

    @property
    def evaluation(self) -> EvaluationOptions:
        """Return how each network is evaluated where trials are evaluated on a supernet."""
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
    def budgets(self) -> Mapping[str, float | Sequence[str] | None]:
        """Return the limits by flag, as `nas.objectives.budgets.budgets` reads them."""
        limits: dict[str, float | Sequence[str] | None] = {}
        for bound in ("max", "min"):
            for quantity in QUANTITIES.values():
                limits[f"--{bound}-{quantity.flag}"] = getattr(self, f"{bound}_{quantity.field}")
        return limits | {"--max-accuracy-std": self.max_accuracy_std}

    @property
    def uses_energy(self) -> bool:
        """Tell whether the energy of networks counts."""
        limits = (self.max_energy_mj, self.min_energy_mj)
        return "energy" in self.minimize or any(limit is not None for limit in limits)

    def settings(self) -> dict[str, Any]:
        """Return the flags that make the search what it is, as run.json has them."""
        return flags_of(self.absolute, UNRECORDED)

    @property
    def absolute(self) -> "SearchOptions":
        """Return the options with absolute paths: a run is resumed from anywhere."""
        published = self.accuracy == PUBLISHED
        accuracy = PUBLISHED if published else str(Path(self.accuracy).resolve())
        return replace(self, accuracy=accuracy, table=tuple(map(_absolute, self.table)))


def _absolute(table: str) -> str:
    """Return FILE or DEVICE=FILE with the file's absolute path."""
    device, equals, file = table.partition("=")
    if not equals or Path(table).is_file():
        return str(Path(table).resolve())
    return f"{device}={Path(file).resolve()}"


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
