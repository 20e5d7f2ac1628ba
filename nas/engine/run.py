"""A search from its options to its run folder: `search(SearchOptions(device=("orin",)))`."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lut.device import Device, device_names
from lut.runtimes.versions import remark_here
from nas.engine.baselines import official_archs
from nas.engine.feasibility import starting_points
from nas.engine.notes import notes_on
from nas.engine.samplers import make_sampler
from nas.engine.study import Problem, Search
from nas.front import Candidate, Front
from nas.objectives.accuracy import choose_accuracy
from nas.objectives.budgets import Budget, budgets, feasible
from nas.objectives.predicted import Predicted
from nas.objectives.sources import AccuracySource, NoAccuracy
from nas.options import FITTED, PLAIN, PUBLISHED, SUPERNET, UNRECORDED, SearchOptions
from nas.pareto import pareto_front
from nas.result import Outcome, SearchResult
from predictors.latency import LatencyPredictor, choose_predictor
from results.errors import DeviceError, RunError, SearchError, check_least
from results.progress import progress
from results.resume import resumed
from results.runs import SEARCH, Run, open_run, read_record
from supernet.arch import Arch, Task
from supernet.official import check_task, dataset_of
from supernet.space import Space


def search(options: SearchOptions, *, silent: bool = True) -> SearchResult:
    """Search, and write the run folder: run.json, study.log, front.csv and front.json.

    Ctrl-C ends the trials early: the result then says `interrupted`, and its front is that of
    the trials so far.

    Args:
        silent: show no progress.

    Raises UserError for whatever the options name wrongly, before anything is written, and
    SearchError where no trial keeps to all budgets.
    """
    resume = options.resume
    if resume is not None:
        options = _recorded_options(options, resume)
    prepared = SearchRun.of(options)
    if resume is not None:
        prepared.check_same_sources(resume)
    starts = prepared.starting_points()
    with open_run(SEARCH, options.out, prepared.device.name, resume=resume) as run:
        return prepared.carry_out(run, starts, silent=silent)


@dataclass(frozen=True)
class SearchRun:
    """A search with everything looked up that its options name."""

    options: SearchOptions
    trials: int
    device: Device
    task: Task
    dataset: str
    space: Space
    latency: LatencyPredictor
    accuracy: AccuracySource
    limits: tuple[Budget, ...]

    @classmethod
    def of(cls, options: SearchOptions) -> "SearchRun":
        """Look everything up. Raises UserError for whatever the options name wrongly."""
        if not options.device:
            raise DeviceError(
                f"--device is missing: choose from {', '.join(device_names())}; "
                "`python -m nas.devices` tells more"
            )
        if len(options.device) > 1:
            raise DeviceError("one --device at a time; run the search once for each")
        trials = options.num_trials
        check_least("--trials", trials, 1, SearchError)
        if not 0 <= options.seed < 2**32:
            raise SearchError("--seed must be from 0 to 4294967295")
        make_sampler(options.sampler, options.seed)  # refused before anything is written
        task = check_task(options.task)
        named = options.dataset if options.accuracy == PUBLISHED else None
        dataset = dataset_of(task, named)
        device, latency = choose_predictor(options.device[0], options.table, dataset)
        accuracy, space = choose_accuracy(options, task, latency.table)
        if (own := space.dataset or dataset_of(task, None)) != dataset:  # that of the subnets
            dataset = own
            device, latency = choose_predictor(options.device[0], options.table, dataset)
        limits = budgets(options.budgets)
        return cls(options, trials, device, task, dataset, space, latency, accuracy, limits)

    @cached_property
    def official(self) -> dict[str, Arch]:
        """Return the official networks that are in the space, by name and resolution."""
        return official_archs(self.space, self.task, self.dataset)

    @property
    def evaluate(self) -> Callable[[Arch], Candidate]:
        """Return what gives all numbers of an Arch."""
        return Predicted(self.latency, self.accuracy)

    def starting_points(self) -> list[Arch]:
        """Return Archs that keep to the budgets, as `nas.engine.feasibility` finds them.

        Raises SearchError where a budget is impossible. No network is evaluated on a checkpoint
        for that: it takes seconds, and no budget then limits accuracies.
        """
        cost = self.evaluate
        if self.options.objective == SUPERNET:
            cost = Predicted(self.latency, NoAccuracy())
        return starting_points(self.space, cost, self.limits, list(self.official.values()))

    def check_same_sources(self, folder: Path) -> None:
        """Raise RunError if the run in `folder` was begun with another table, law or space."""
        recorded = read_record(folder).get("sources")
        for name, source in self._sources().items():
            if not isinstance(recorded, dict) or recorded.get(name) != source:
                raise RunError(
                    f"the {name} source is not what {folder} was begun with, so its trials would "
                    "not compare; start a new run"
                )

    def carry_out(self, run: Run, starts: Sequence[Arch], *, silent: bool) -> SearchResult:
        """Try networks, `starts` among the first, and write the run.

        Raises SearchError where none keeps to all budgets, unless Ctrl-C ended the trials.
        """
        started = time.monotonic()
        if run.is_new:  # before the journal: without it no resuming
            self._record(run, self.trials, None)
        self.accuracy.keep_in(run.folder)
        search = self._begin(run, starts)
        asked = max(self.trials, search.num_trials)  # a resumed run may have more already
        self._record(run, asked, None)
        interrupted = False
        with progress(self.trials, silent=silent, label="searching", unit="trials") as show:
            try:
                search.run(self.trials, lambda search: show(search.num_trials))
            except KeyboardInterrupt:
                interrupted = True
        front = self._front(search)
        if not front.candidates and not interrupted:
            raise SearchError(
                f"none of {search.num_trials} trials {self._failed(search)}, or go on with "
                f"`{run.again} --trials {2 * max(asked, search.num_trials)}`"
            )
        outcome = Outcome(
            search.num_trials,
            len(search.candidates),
            len(front.candidates),
            interrupted,
            round(time.monotonic() - started, 1),
        )
        if front.candidates:
            front.write(run.folder)
            self._record(run, asked, outcome)
        return SearchResult(self.options, run.folder, front, outcome, self._notes(search))

    def _begin(self, run: Run, starts: Sequence[Arch]) -> Search:
        largest = list(self.space.extremes())[1::2]
        return Search(
            Problem(self.space, self.evaluate, self.limits),
            sampler=self.options.sampler,
            seed=self.options.seed,
            first=list(dict.fromkeys([*self.official.values(), *starts, *largest])),
            journal=run.path("study.log"),
        )

    def _front(self, search: Search) -> Front:
        possible = [c for c in search.candidates.values() if self._is_possible(c)]
        official = {name: self.evaluate(arch) for name, arch in self.official.items()}
        table = self.latency.table
        return Front(
            candidates=tuple(pareto_front(possible)),
            baselines={name: c for name, c in official.items() if self._is_possible(c)},
            trials=[(c.latency_ms, c.accuracy) for c in possible],
            title=f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}",
            metric=self.accuracy.metric,
            latency_source=self.latency.describe(),
            accuracy_source=self.accuracy.describe(),
            accuracy_provenance=self.accuracy.provenance,
        )

    def _is_possible(self, candidate: Candidate) -> bool:
        return feasible(candidate, self.limits) and not self.accuracy.is_broken(candidate.arch)

    def _failed(self, search: Search) -> str:
        """Say why the front has no network, and what may help."""
        if any(map(self.accuracy.is_broken, search.candidates)):
            return (
                "both has finite outputs and keeps to all budgets; train the supernet on with "
                "--clip 1"
            )
        return "keeps to all budgets together; loosen one"

    def _notes(self, search: Search) -> tuple[str, ...]:
        """Return what a reader of the front must know, a line each."""
        num_broken = sum(map(self.accuracy.is_broken, search.candidates))
        version = remark_here(self.latency.table.sidecar)
        notes = notes_on(self.space, self.accuracy, num_broken)
        return (*notes, version) if version else tuple(notes)

    def _sources(self) -> dict[str, Any]:
        """Return where the numbers come from, as JSON has it."""
        sources: dict[str, Any] = {
            "latency": self.latency.provenance,
            "accuracy": self.accuracy.to_dict(),
            "space": self.space.to_dict(),
        }
        return dict(json.loads(json.dumps(sources)))

    def _record(self, run: Run, trials: int, outcome: Outcome | None) -> None:
        run.record(
            self.options.settings() | {"trials": trials},
            self._sources(),
            self.options.seed,
            metric=self.accuracy.metric,
            outcome=outcome and asdict(outcome),
        )


def _recorded_options(options: SearchOptions, run: Path) -> SearchOptions:
    """Return `options` with the flags of the run to resume.

    Raises RunError where they contradict, and where it is no run of a search or a damaged one.
    """
    record = read_record(run, SEARCH)
    absolute = replace(options, accuracy=options.absolute_accuracy)
    settings = {"trained": None} | record["settings"]  # older runs have not been given any
    if "accuracy_model" not in settings:  # of a run from before there were others than ridge
        plain = str(settings.get("accuracy")).endswith(".jsonl")
        settings = settings | {"accuracy_model": PLAIN if plain else FITTED}
    recorded = resumed(absolute, settings, run, unrecorded=UNRECORDED, may_change=("trials",))
    if record.get("outcome") and not (run / "study.log").exists():
        raise RunError(f"{run} has lost its study.log; start a new run")
    if options.out is not None:
        raise RunError("--out cannot change in a resumed run; leave it out")
    return recorded
