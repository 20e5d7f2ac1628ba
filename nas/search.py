"""Search a space for the networks that trade accuracy for latency best on a device.

python -m nas.search --device snapdragon8gen1
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.samplers import SAMPLERS
from results.console import EXIT_INTERRUPTED
from results.console import main as console_main
from results.errors import DeviceError, RunError, SearchError, check_choice

if TYPE_CHECKING:
    from lut.device import Device
    from nas.front import Candidate, Front
    from nas.objectives import Budget, Predicted
    from nas.study import Search
    from predictors.accuracy import Prior
    from supernet.arch import Arch, Task
    from supernet.space import Space


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
    space: str = "family"
    """Search space: family (b and l), b, l, all or tiny."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160 or stage3.mixer=relu_linear;
    repeatable."""
    num_classes: int | None = None
    """Classes of the head; by default the data set's."""

    max_latency_ms: float | None = None
    """Budget of latency, per image."""
    max_params_m: float | None = None
    """Budget of parameters, in millions."""
    max_macs_g: float | None = None
    """Budget of multiply-adds, in billions."""
    max_memory_mb: float | None = None
    """Budget of peak memory, activations of a batch and weights."""
    max_accuracy_std: float | None = None
    """Limit on the accuracy's standard deviation, in points: how far from published networks."""

    trials: int = 3000
    """Architectures to try."""
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
        from results.runs import create_run_folder, locked

        command = self if self.resume is None else self._resumed(self.resume)
        setting = Setting.of(command)
        if self.resume is not None:
            setting.check_same_sources(self.resume)
        starts = starting_points(setting.space, setting.evaluate, setting.limits)
        folder = self.resume or create_run_folder(command.out, setting.device.name)
        with locked(folder):
            interrupted = setting.search(folder, starts)
        if interrupted:
            sys.exit(EXIT_INTERRUPTED)

    def _resumed(self, run: Path) -> "SearchCommand":
        from results.runs import read_record

        settings = read_record(run)["settings"]
        own = {"trials", "resume", "json", "quiet"}
        defaults = SearchCommand()
        for name in (field.name for field in fields(self) if field.name not in own):
            if getattr(self, name) not in (getattr(defaults, name), _typed(settings, name)):
                raise RunError(
                    f"--{name.replace('_', '-')} cannot change in a resumed run; leave it out, or "
                    "start a new run"
                )
        recorded = {
            field.name: _typed(settings, field.name)
            for field in fields(self)
            if field.name not in own | {"out"} and field.name in settings
        }
        trials = self.trials if self.trials != defaults.trials else int(settings["trials"])
        if trials < 1:
            raise SearchError("--trials must be positive")
        return replace(self, **recorded, trials=trials, out=None)


@dataclass(frozen=True)
class Setting:
    """A search command with everything that its flags name looked up."""

    command: SearchCommand
    device: "Device"
    task: "Task"
    dataset: str
    space: "Space"
    evaluate: "Predicted"
    prior: "Prior"
    limits: "tuple[Budget, ...]"

    @classmethod
    def of(cls, command: SearchCommand) -> "Setting":
        """Raises UserError for whatever the flags name wrongly."""
        from lut.device import device_names, get_device
        from lut.table import load_table
        from nas.objectives import Predicted, budgets
        from predictors.accuracy import load_prior
        from predictors.latency import LatencyPredictor, load_predictor
        from supernet.named import check_task, dataset_of
        from supernet.space import get_space

        if not command.device:
            raise DeviceError(
                f"--device is missing: choose from {', '.join(device_names())}; "
                "`python -m nas.devices` tells more"
            )
        if len(command.device) > 1:
            raise DeviceError("one --device at a time; run the search once for each")
        if command.trials < 1:
            raise SearchError("--trials must be positive")
        if command.seed < 0:
            raise SearchError("--seed must not be negative")
        device = get_device(command.device[0])
        check_choice("sampler", command.sampler, SAMPLERS, SearchError)
        task = check_task(command.task)
        dataset = dataset_of(task, command.dataset)
        prior = load_prior(dataset)
        space = get_space(
            command.space,
            task=task,
            dataset=dataset,
            freeze=command.freeze,
            num_classes=command.num_classes,
        ).fixed_as_published(command.freeze)
        if command.table is None:
            latency = load_predictor(device, dataset)
        else:
            latency = LatencyPredictor(load_table(command.table))
        limits = budgets(command)
        return cls(command, device, task, dataset, space, Predicted(latency, prior), prior, limits)

    def search(self, folder: Path, starts: "Sequence[Arch]") -> bool:
        """Run the trials, write the run and print it; True if Ctrl-C ended it early."""
        from nas.plot import write_plots
        from nas.progress import progress
        from nas.study import Search
        from nas.summary import print_front

        started = time.monotonic()
        self._write_record(folder, None)
        baselines = self.baselines()
        inside = [c.arch for c in baselines.values() if c.arch in self.space]
        largest = list(self.space.extremes())[1::2]
        interrupted = False
        search = Search(
            self.space,
            self.evaluate,
            self.limits,
            sampler=self.command.sampler,
            seed=self.command.seed,
            first=list(dict.fromkeys([*inside, *starts, *largest])),
            journal=folder / "study.log",
        )
        silent = self.command.quiet or self.command.json
        with progress(self.command.trials, silent=silent) as show:
            try:
                search.run(self.command.trials, lambda search: show(search.num_trials))
            except KeyboardInterrupt:
                interrupted = True
        front = self._front(search, baselines)
        if not front.candidates:
            raise SearchError(
                f"none of {search.num_trials} trials keeps to all budgets together; loosen one, "
                f"or go on with `python -m nas.search --resume {folder} --trials "
                f"{2 * search.num_trials}`"
            )
        front.write(folder)
        write_plots([front], folder)
        outcome = {
            "trials": search.num_trials,
            "distinct_archs": len(search.candidates),
            "front": len(front.candidates),
            "interrupted": interrupted,
            "seconds": round(time.monotonic() - started, 1),
        }
        self._write_record(folder, outcome)
        if self.command.json:
            summary = {"run": str(folder), **outcome, "front_csv": str(folder / "front.csv")}
            print(json.dumps(summary, allow_nan=False))
        elif not self.command.quiet:
            print_front(front, folder, self.command.device[0], outcome, self._notes())
        return interrupted

    def baselines(self) -> "dict[str, Candidate]":
        """The official networks at their published resolutions, by name."""
        from supernet.arch import parse_resolution
        from supernet.named import named_arch

        found = {}
        for row in self.prior.residuals:
            arch = named_arch(
                row.name,
                task=self.task,
                dataset=self.dataset,
                resolution=parse_resolution(row.resolution),
                num_classes=self.command.num_classes,
            )
            found[f"{row.name}@{row.resolution}"] = self.evaluate(arch)
        return found

    def _front(self, search: "Search", baselines: "dict[str, Candidate]") -> "Front":
        from nas.front import Front
        from nas.objectives import describe_prior, feasible
        from nas.pareto import pareto_front

        kept = [c for c in search.candidates.values() if feasible(c, self.limits)]
        latency = self.evaluate.latency
        return Front(
            candidates=tuple(pareto_front(kept)),
            baselines={n: c for n, c in baselines.items() if feasible(c, self.limits)},
            trials=[(c.latency_ms, c.accuracy) for c in kept],
            title=self._title(),
            metric=self.prior.metric,
            latency_source=latency.describe(),
            accuracy_source=describe_prior(self.prior),
        )

    def _title(self) -> str:
        table = self.evaluate.latency.table
        return f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}"

    def _notes(self) -> list[str]:
        """What a reader of the front must know."""
        from supernet.space import UNPUBLISHED

        notes = [f"device: {self.device.note}"] if self.device.note else []
        asked = {
            name.partition(".")[2]
            for part in self.space.parts
            for name, choices in part.dimensions.items()
            if name.partition(".")[2] in UNPUBLISHED and choices != (part.official(name),)
        }
        fixed = "kernel sizes, local blocks, mixers and scales are EfficientViT's own"
        if asked:
            fixed = f"{', '.join(sorted(asked))} as asked for: the accuracy says nothing of them"
        head = "head and head dim, unless frozen, those of the nearest official network"
        notes.append(f"space: {self.space.size:,} archs of {self.space.name}; {fixed}; {head}")
        return notes

    def _sources(self) -> dict[str, Any]:
        """Where the numbers come from, as JSON has it."""
        sources = {
            "latency": self.evaluate.latency.provenance,
            "accuracy": self.prior.to_dict(),
            "space": self.space.to_dict(),
        }
        found: dict[str, Any] = json.loads(json.dumps(sources))
        return found

    def check_same_sources(self, folder: Path) -> None:
        """Raises RunError if the run in `folder` was begun with another table, law or space."""
        from results.runs import read_record

        recorded = read_record(folder).get("sources")
        for name, source in self._sources().items():
            if not isinstance(recorded, dict) or recorded.get(name) != source:
                raise RunError(
                    f"the {name} source is not what {folder} was begun with, so its trials would "
                    "not compare; start a new run"
                )

    def _write_record(self, folder: Path, outcome: dict[str, Any] | None) -> None:
        from results.files import write_json
        from results.record import RunRecord, command_line
        from results.runs import RECORD, read_record

        settings = {
            name: _plain(value)
            for name, value in asdict(self.command).items()
            if name not in ("resume", "out", "json", "quiet")
        }
        record = RunRecord(
            command=command_line("nas.search"),
            settings=settings,
            sources=self._sources(),
            seed=self.command.seed,
        ).to_dict()
        if (folder / RECORD).exists():
            first = read_record(folder)
            record |= {"command": first["command"], "started": first["started"]}
        write_json(folder / RECORD, record | {"metric": self.prior.metric, "outcome": outcome})


def _format(arch: "Arch") -> str:
    from supernet.arch import format_resolution

    return format_resolution(arch.resolution)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value


def _typed(settings: dict[str, Any], name: str) -> Any:
    """A recorded setting as the command has it."""
    value = settings.get(name, getattr(SearchCommand(), name))
    if name == "table" and value is not None:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def main() -> None:
    console_main(SearchCommand, "nas.search")


if __name__ == "__main__":
    main()
