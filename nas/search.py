"""Search a space for the networks that trade accuracy for latency best on a device.

python -m nas.search --device snapdragon8gen1
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from results.console import EXIT_INTERRUPTED
from results.console import main as console_main
from results.errors import RunError
from results.resume import flags_of, resumed


@dataclass(frozen=True)
class SearchCommand:
    """Search for the networks that trade accuracy for latency best on a device."""

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

    accuracy: str = "published"
    """Where accuracies come from: published figures; FILE.jsonl of subnets that supernet.evaluate
    wrote, whose mixers, kernels and scales are then searched too; or, with --objective supernet,
    CHECKPOINT.safetensors of supernet.train."""
    objective: str = "predicted"
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

    trials: int | None = None
    """Architectures to try; by default 3000, or 300 where each is evaluated (--objective supernet),
    or what the resumed run was begun with."""
    sampler: str = "nsga2"
    """Optuna's nsga2, nsga3, tpe, gp (needs PyTorch; for a few hundred trials) or random."""
    seed: int = 0
    """Same seed, same front."""

    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    out: Path | None = None
    """Run folder; by default results/runs/DEVICE-TIME under the current directory."""
    resume: Path | None = None
    """Go on with this run; its flags come from its run.json, only --trials may differ."""
    json: bool = False
    """Print one JSON object instead of tables."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        from nas.feasibility import starting_points
        from nas.setting import Setting
        from results.runs import RECORD, create_run_folder, locked

        command = self if self.resume is None else self._resumed(self.resume)
        usual = TRIALS_EVALUATED if command.objective == "supernet" else TRIALS
        trials = usual if command.trials is None else command.trials
        setting = Setting.of(replace(command, trials=trials))
        if self.resume is not None:
            setting.check_same_sources(self.resume)
        official = list(setting.official.values())
        starts = starting_points(setting.space, setting.cost, setting.limits, official)
        folder = self.resume or create_run_folder(command.out, setting.device.name)
        with locked(folder):
            if self.resume is None and (folder / RECORD).exists():
                raise RunError(f"{folder} was taken by another run meanwhile; choose another --out")
            interrupted = setting.search(folder, starts)
        if interrupted:
            sys.exit(EXIT_INTERRUPTED)

    def settings(self) -> dict[str, Any]:
        """The flags that make the search what it is, as run.json has them."""
        from nas.accuracy import PUBLISHED

        found = flags_of(self, UNRECORDED)
        if self.accuracy != PUBLISHED:
            found["accuracy"] = str(Path(self.accuracy).resolve())
        return found

    def _resumed(self, run: Path) -> "SearchCommand":
        """This command with the flags of `run`. Raises RunError where they contradict."""
        from nas.accuracy import PUBLISHED
        from results.runs import SEARCH, read_record

        record = read_record(run, SEARCH)
        given = self
        if self.accuracy != PUBLISHED:
            given = replace(self, accuracy=str(Path(self.accuracy).resolve()))
        command = resumed(
            given, record["settings"], run, unrecorded=UNRECORDED, may_change=("trials",)
        )
        if record.get("outcome") and not (run / "study.log").exists():
            raise RunError(f"{run} has lost its study.log; start a new run")
        if self.out is not None:
            raise RunError("--out cannot change in a resumed run; leave it out")
        return command


TRIALS = 3000
TRIALS_EVALUATED = 300  # with PyTorch, seconds each
UNRECORDED = ("resume", "out", "json", "quiet")  # flags that are no part of the search


def main() -> None:
    console_main(SearchCommand, "nas.search")


if __name__ == "__main__":
    main()
