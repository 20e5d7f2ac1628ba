"""A search with everything looked up that its flags name, and the run that it leaves behind."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lut.device import Device, device_names
from lut.runtimes.versions import remark_here
from nas.accuracy import PUBLISHED, AccuracySource, NoAccuracy, choose_accuracy
from nas.budgets import Budget, budgets, feasible
from nas.front import Candidate, Front
from nas.objectives import Predicted
from nas.pareto import pareto_front
from nas.plot import write_plots
from nas.samplers import make_sampler
from nas.study import Search
from nas.summary import print_front
from nas.supernet_accuracy import EVALUATIONS, SupernetAccuracy
from predictors.accuracy import published_resolutions
from predictors.latency import LatencyPredictor, choose_predictor
from results.errors import DeviceError, PictureError, RunError, SearchError, one_line
from results.files import write_json
from results.progress import progress, remark
from results.record import RunRecord, command_line
from results.runs import RECORD, own_path, read_record
from supernet.arch import Arch, Task, format_resolution
from supernet.official import check_task, dataset_of, named_arch
from supernet.space import UNPUBLISHED, Space

if TYPE_CHECKING:
    from nas.search import SearchCommand


@dataclass(frozen=True)
class Setting:
    """A search command with everything that its flags name looked up."""

    command: "SearchCommand"
    trials: int
    device: Device
    task: Task
    dataset: str
    space: Space
    latency: LatencyPredictor
    accuracy: AccuracySource
    limits: tuple[Budget, ...]

    @classmethod
    def of(cls, command: "SearchCommand") -> "Setting":
        """Raises UserError for whatever the flags name wrongly."""
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
        named = command.dataset if command.accuracy == PUBLISHED else None
        dataset = dataset_of(task, named)
        device, latency = choose_predictor(command.device[0], command.table, dataset)
        accuracy, space = choose_accuracy(command, task, latency.table)
        if (own := space.dataset or dataset_of(task, None)) != dataset:  # that of the subnets
            dataset = own
            device, latency = choose_predictor(command.device[0], command.table, dataset)
        limits = budgets(command)
        return cls(command, command.trials, device, task, dataset, space, latency, accuracy, limits)

    @property
    def evaluate(self) -> Predicted:
        """All numbers of an Arch."""
        return Predicted(self.latency, self.accuracy)

    @property
    def cost(self) -> Predicted:
        """The same for questions of budgets, without an accuracy where that takes seconds."""
        if self.command.objective == "supernet":
            return Predicted(self.latency, NoAccuracy())
        return self.evaluate

    def search(self, folder: Path, starts: Sequence[Arch]) -> bool:
        """Run the trials, write the run and print it; True if Ctrl-C ended it early."""
        started = time.monotonic()
        if not (folder / RECORD).exists():  # before the journal: without it no resuming
            self._write_record(folder, self.trials, None)
        if isinstance(self.accuracy, SupernetAccuracy):
            self.accuracy.keep_in(own_path(folder, EVALUATIONS))
        official = list(self.official.values())
        largest = list(self.space.extremes())[1::2]
        interrupted = False
        search = Search(
            self.space,
            self.evaluate,
            self.limits,
            sampler=self.command.sampler,
            seed=self.command.seed,
            first=list(dict.fromkeys([*official, *starts, *largest])),
            journal=own_path(folder, "study.log"),
        )
        asked = max(self.trials, search.num_trials)  # a resumed run may have more already
        self._write_record(folder, asked, None)
        silent = self.command.quiet or self.command.json
        with progress(self.trials, silent=silent, label="searching", unit="trials") as show:
            try:
                search.run(self.trials, lambda search: show(search.num_trials))
            except KeyboardInterrupt:
                interrupted = True
        front = self._front(search)
        again = f"python -m nas.search --resume {shlex.quote(str(folder))}"
        if not front.candidates and interrupted:
            remark(f"interrupted after {search.num_trials} trials; go on: {again}")
            return True
        if not front.candidates:
            raise SearchError(
                f"none of {search.num_trials} trials {self._failed(search)}, or go on with "
                f"`{again} --trials {2 * max(asked, search.num_trials)}`"
            )
        front.write(folder)
        outcome = {
            "trials": search.num_trials,
            "distinct_archs": len(search.candidates),
            "front": len(front.candidates),
            "interrupted": interrupted,
            "seconds": round(time.monotonic() - started, 1),
        }
        self._write_record(folder, asked, outcome)
        try:
            version = remark_here(self.latency.table.sidecar)
            notes = [*self._notes(search), *([version] if version else [])]
            self._print(front, folder, outcome, notes)
            sys.stdout.flush()
        finally:  # last, as no picture is worth the numbers; also where nobody reads on
            self._draw(front, folder)
        return interrupted

    def _draw(self, front: Front, folder: Path) -> None:
        try:
            write_plots([front], folder)
        except PictureError as error:
            again = f"python -m nas.plot {shlex.quote(str(folder))}"
            remark(one_line(f"{error}; draw it by {again}"))

    def _print(
        self, front: Front, folder: Path, outcome: dict[str, Any], notes: Sequence[str]
    ) -> None:
        if self.command.json:
            summary = {"run": str(folder), **outcome, "front_csv": str(folder / "front.csv")}
            print(json.dumps(summary, allow_nan=False))
        elif not self.command.quiet:
            print_front(
                front,
                folder,
                self.command.device[0],
                outcome,
                notes,
                self.command.max_latency_ms,
                self.command.table,
                self.command.accuracy,
                self._pictures(),
            )

    def _pictures(self) -> list[str]:
        """The flags that say on which pictures, and where, statistics are computed."""
        command, words = self.command, []
        for flag, value in (
            ("--data", command.data),
            ("--recalibration-images", command.recalibration_images),
            ("--accelerator", command.accelerator),
        ):
            words += [flag, str(value)] if value is not None else []
        return words

    @cached_property
    def official(self) -> dict[str, Arch]:
        """The official networks that are in the space, by name and resolution.

        At their published resolutions, or where none of those is in the space, at the nearest
        one that is.
        """
        found = {}
        for name, resolutions in published_resolutions(self.dataset).items():
            inside: dict[tuple[int, int], Arch] = {}
            for resolution in [*resolutions, *self.space.resolutions]:
                arch = named_arch(
                    name,
                    task=self.task,
                    dataset=self.dataset,
                    resolution=resolution,
                    num_classes=self.space.num_classes,
                )
                if arch in self.space:
                    inside[resolution] = arch
            kept = [r for r in resolutions if r in inside]
            if inside and not kept:
                kept = [min(inside, key=lambda r: min(abs(r[0] - p[0]) for p in resolutions))]
            for resolution in kept:
                found[f"{name}@{format_resolution(resolution)}"] = inside[resolution]
        return found

    @cached_property
    def baselines(self) -> dict[str, Candidate]:
        """The official networks with their numbers."""
        return {name: self.evaluate(arch) for name, arch in self.official.items()}

    def _front(self, search: Search) -> Front:
        kept = [
            c
            for c in search.candidates.values()
            if feasible(c, self.limits) and not self._is_broken(c.arch)
        ]
        return Front(
            candidates=tuple(pareto_front(kept)),
            baselines={
                name: c
                for name, c in self.baselines.items()
                if feasible(c, self.limits) and not self._is_broken(c.arch)
            },
            trials=[(c.latency_ms, c.accuracy) for c in kept],
            title=self._title(),
            metric=self.accuracy.metric,
            latency_source=self.latency.describe(),
            accuracy_source=self.accuracy.describe(),
            accuracy_provenance=self.accuracy.provenance,
        )

    def _is_broken(self, arch: Arch) -> bool:
        return isinstance(self.accuracy, SupernetAccuracy) and self.accuracy.is_broken(arch)

    def _failed(self, search: Search) -> str:
        """Why the front has no network, and what may help."""
        if any(map(self._is_broken, search.candidates)):
            return (
                "both has finite outputs and keeps to all budgets; train the supernet on with "
                "--clip 1"
            )
        return "keeps to all budgets together; loosen one"

    def _title(self) -> str:
        table = self.latency.table
        return f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}"

    def _notes(self, search: Search) -> list[str]:
        """What a reader of the front must know."""
        size = f"space: {self.space.size:,} archs of {self.space.name}"
        if self.accuracy.provenance != "published":
            varied = {
                name.partition(".")[2]
                for part in self.space.parts
                for name, choices in part.dimensions.items()
                if name.partition(".")[2] in UNPUBLISHED and len(choices) > 1
            }
            searched = f"{', '.join(sorted(varied)) or 'no kernels or mixers'} searched too"
            broken = sum(map(self._is_broken, search.candidates))
            left = f"{broken} networks have outputs that are not finite: left out"
            labels = self.accuracy.notes if isinstance(self.accuracy, SupernetAccuracy) else ()
            return [f"{size}; {searched}", *([left] if broken else []), *labels]
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
        return [f"{size}; {fixed}; {head}"]

    def _sources(self) -> dict[str, Any]:
        """Where the numbers come from, as JSON has it."""
        sources = {
            "latency": self.latency.provenance,
            "accuracy": self.accuracy.to_dict(),
            "space": self.space.to_dict(),
        }
        found: dict[str, Any] = json.loads(json.dumps(sources))
        return found

    def check_same_sources(self, folder: Path) -> None:
        """Raises RunError if the run in `folder` was begun with another table, law or space."""
        recorded = read_record(folder).get("sources")
        for name, source in self._sources().items():
            if not isinstance(recorded, dict) or recorded.get(name) != source:
                raise RunError(
                    f"the {name} source is not what {folder} was begun with, so its trials would "
                    "not compare; start a new run"
                )

    def _write_record(self, folder: Path, trials: int, outcome: dict[str, Any] | None) -> None:
        record = RunRecord(
            command=command_line("nas.search") or "nas.search",
            settings=self.command.settings() | {"trials": trials},
            sources=self._sources(),
            seed=self.command.seed,
        ).to_dict()
        if (folder / RECORD).exists():
            first = read_record(folder)
            record |= {key: first[key] for key in ("command", "started") if key in first}
        write_json(folder / RECORD, record | {"metric": self.accuracy.metric, "outcome": outcome})
