"""Search a space for the networks that trade accuracy for latency best on a device.

python -m nas.search --device snapdragon8gen1
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.samplers import make_sampler
from results.console import EXIT_INTERRUPTED
from results.console import main as console_main
from results.errors import DeviceError, RunError, SearchError

if TYPE_CHECKING:
    from lut.device import Device
    from nas.budgets import Budget
    from nas.front import Candidate, Front
    from nas.objectives import Predicted
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
    """Search space: family (b and l), b, l, tiny, or all, which has more local blocks and mixers
    for --freeze to choose from."""
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

    trials: int | None = None
    """Architectures to try; by default 3000, or what the resumed run was begun with."""
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
        trials = TRIALS if command.trials is None else command.trials
        setting = Setting.of(replace(command, trials=trials))
        if self.resume is not None:
            setting.check_same_sources(self.resume)
        official = [c.arch for c in setting.baselines.values()]
        starts = starting_points(setting.space, setting.evaluate, setting.limits, official)
        folder = self.resume or create_run_folder(command.out, setting.device.name)
        with locked(folder):
            interrupted = setting.search(folder, starts)
        if interrupted:
            sys.exit(EXIT_INTERRUPTED)

    def _resumed(self, run: Path) -> "SearchCommand":
        """This command with the flags of `run`. Raises RunError where they contradict."""
        from results.runs import read_record

        record = read_record(run)
        recorded = _recorded(record["settings"], run)
        if record.get("outcome") and not (run / "study.log").exists():
            raise RunError(f"{run} has lost its study.log; start a new run")
        for name, value in recorded.items():
            if name not in FREE and getattr(self, name) not in (getattr(DEFAULTS, name), value):
                raise RunError(
                    f"--{name.replace('_', '-')} cannot change in a resumed run; leave it out, or "
                    "start a new run"
                )
        if self.out is not None:
            raise RunError("--out cannot change in a resumed run; leave it out")
        trials = recorded["trials"] if self.trials is None else self.trials
        return replace(self, **recorded | {"trials": trials})


TRIALS = 3000
DEFAULTS = SearchCommand()
FREE = ("trials", "resume", "out", "json", "quiet")  # flags that a resumed run may set anew
UNRECORDED = ("resume", "out", "json", "quiet")
_TYPES: dict[Any, tuple[type, ...]] = {  # in JSON, by the flag's annotation
    tuple[str, ...]: (list,),
    str: (str,),
    str | None: (str, type(None)),
    int: (int,),
    int | None: (int, type(None)),
    float | None: (float, int, type(None)),
    Path | None: (str, type(None)),
}


def _recorded(settings: dict[str, Any], run: Path) -> dict[str, Any]:
    """The flags that run.json holds. Raises RunError for one that is missing or of another type."""
    found: dict[str, Any] = {}
    for flag in fields(SearchCommand):
        if flag.name in UNRECORDED:
            continue
        value = settings.get(flag.name, ...)
        if type(value) not in _TYPES[flag.type]:
            raise RunError(f"{run / 'run.json'} is damaged: its {flag.name} is {value!r}")
        if isinstance(value, list):
            value = tuple(map(str, value))
        found[flag.name] = Path(value) if flag.name == "table" and value is not None else value
    return found


@dataclass(frozen=True)
class Setting:
    """A search command with everything that its flags name looked up."""

    command: SearchCommand
    trials: int
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
        from lut.device import device_names
        from nas.budgets import budgets
        from nas.objectives import Predicted
        from predictors.accuracy import load_prior
        from predictors.latency import choose_predictor
        from supernet.named import check_task, dataset_of
        from supernet.space import get_space

        if not command.device:
            raise DeviceError(
                f"--device is missing: choose from {', '.join(device_names())}; "
                "`python -m nas.devices` tells more"
            )
        if len(command.device) > 1:
            raise DeviceError("one --device at a time; run the search once for each")
        if command.trials is None or command.trials < 1:
            raise SearchError("--trials must be positive")
        if not 0 <= command.seed < 2**32:
            raise SearchError("--seed must be from 0 to 4294967295")
        make_sampler(command.sampler, command.seed)  # refused before anything is written
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
        device, latency = choose_predictor(command.device[0], command.table, dataset)
        limits = budgets(command)
        evaluate = Predicted(latency, prior)
        return cls(command, command.trials, device, task, dataset, space, evaluate, prior, limits)

    def search(self, folder: Path, starts: "Sequence[Arch]") -> bool:
        """Run the trials, write the run and print it; True if Ctrl-C ended it early."""
        from nas.plot import write_plots
        from nas.progress import progress
        from nas.study import Search
        from nas.summary import print_front

        started = time.monotonic()
        self._write_record(folder, None)
        official = [c.arch for c in self.baselines.values()]
        largest = list(self.space.extremes())[1::2]
        interrupted = False
        search = Search(
            self.space,
            self.evaluate,
            self.limits,
            sampler=self.command.sampler,
            seed=self.command.seed,
            first=list(dict.fromkeys([*official, *starts, *largest])),
            journal=folder / "study.log",
        )
        silent = self.command.quiet or self.command.json
        with progress(self.trials, silent=silent) as show:
            try:
                search.run(self.trials, lambda search: show(search.num_trials))
            except KeyboardInterrupt:
                interrupted = True
        front = self._front(search)
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
            print_front(
                front,
                folder,
                self.command.device[0],
                outcome,
                self._notes(),
                self.command.max_latency_ms,
            )
        return interrupted

    @cached_property
    def baselines(self) -> "dict[str, Candidate]":
        """The official networks that are in the space, by name and resolution.

        At their published resolutions, or where none of those is in the space, at the nearest
        one that is.
        """
        from supernet.arch import format_resolution, parse_resolution
        from supernet.named import named_arch

        published: dict[str, list[tuple[int, int]]] = {}
        for row in self.prior.residuals:
            published.setdefault(row.name, []).append(parse_resolution(row.resolution))
        found = {}
        for name, resolutions in published.items():
            inside: dict[tuple[int, int], Arch] = {}
            for resolution in [*resolutions, *self.space.resolutions]:
                arch = named_arch(
                    name,
                    task=self.task,
                    dataset=self.dataset,
                    resolution=resolution,
                    num_classes=self.command.num_classes,
                )
                if arch in self.space:
                    inside[resolution] = arch
            kept = [r for r in resolutions if r in inside]
            if inside and not kept:
                kept = [min(inside, key=lambda r: min(abs(r[0] - p[0]) for p in resolutions))]
            for resolution in kept:
                arch = inside[resolution]
                found[f"{name}@{format_resolution(resolution)}"] = self.evaluate(arch)
        return found

    def _front(self, search: "Search") -> "Front":
        from nas.budgets import feasible
        from nas.front import Front
        from nas.objectives import describe_prior
        from nas.pareto import pareto_front

        kept = [c for c in search.candidates.values() if feasible(c, self.limits)]
        latency = self.evaluate.latency
        return Front(
            candidates=tuple(pareto_front(kept)),
            baselines={n: c for n, c in self.baselines.items() if feasible(c, self.limits)},
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

        asked = {
            name.partition(".")[2]
            for part in self.space.parts
            for name, choices in part.dimensions.items()
            if name.partition(".")[2] in UNPUBLISHED and choices != (part.official(name),)
        }
        fixed = "kernel sizes, local blocks, mixers and scales are EfficientViT's own"
        if self.space.name == "all" and not asked:
            fixed += " (--freeze stage4.mixer=softmax,none and the like search them)"
        if asked:
            fixed = f"{', '.join(sorted(asked))} as asked for: the accuracy says nothing of them"
        head = "head and head dim, unless frozen, those of the nearest official network"
        return [f"space: {self.space.size:,} archs of {self.space.name}; {fixed}; {head}"]

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
            if name not in UNRECORDED
        }
        record = RunRecord(
            command=command_line("nas.search"),
            settings=settings,
            sources=self._sources(),
            seed=self.command.seed,
        ).to_dict()
        if (folder / RECORD).exists():
            first = read_record(folder)
            record |= {key: first[key] for key in ("command", "started") if key in first}
        write_json(folder / RECORD, record | {"metric": self.prior.metric, "outcome": outcome})


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    console_main(SearchCommand, "nas.search")


if __name__ == "__main__":
    main()
