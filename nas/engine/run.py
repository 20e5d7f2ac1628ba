"""A search from its options to its run folder: `search(SearchOptions(device=("orin",)))`."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lut.device import Device, device_names
from lut.runtimes.versions import remark_here
from nas.engine.archive_file import ARCHIVE_FILE
from nas.engine.archive_search import ArchiveSearch
from nas.engine.baselines import official_archs
from nas.engine.feasibility import starting_points
from nas.engine.found import Found, with_neighbours
from nas.engine.notes import notes_on
from nas.engine.numbers import Evaluator
from nas.engine.proving import prove_archives
from nas.engine.reach import choose
from nas.engine.samplers import check_sampler
from nas.engine.study import Problem, Search
from nas.front import Candidate, Front, thinned
from nas.objectives.accuracy import choose_accuracy
from nas.objectives.budgets import Budget, budgets, feasible
from nas.objectives.predicted import Predicted
from nas.objectives.sources import AccuracySource, NoAccuracy
from nas.options import (
    ALWAYS,
    ARCHIVE,
    AUTO,
    FAR,
    FITTED,
    GENETIC,
    MOST_STATES,
    NEVER,
    PLAIN,
    PROOFS,
    PUBLISHED,
    REACHES,
    SMALL,
    SUPERNET,
    UNRECORDED,
    SearchOptions,
)
from nas.result import Outcome, SearchResult
from predictors.latency import LatencyPredictor, choose_predictor
from results.errors import DeviceError, RunError, SearchError, check_choice, check_least
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

    @property
    def uses_archive(self) -> bool:
        """Tell whether a million networks are evaluated beside Optuna's trials."""
        return self.options.chosen_sampler == ARCHIVE

    @property
    def evaluations(self) -> int:
        """Return how many networks the archive search evaluates."""
        return self.options.num_evaluations

    @property
    def is_proven(self) -> bool:
        """Tell whether the exact front is looked for."""
        asked = self.options.prove
        return asked == ALWAYS or (asked == AUTO and self.space.size <= SMALL)

    @property
    def seed(self) -> int:
        """Return what all draws follow from."""
        return self.options.seed

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
        check_choice("reach", options.reach, REACHES, SearchError)
        check_choice("prove", options.prove, PROOFS, SearchError)
        check_sampler(options.chosen_sampler)  # refused before anything is written
        _check_evaluations(options)
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

    @cached_property
    def evaluator(self) -> Evaluator:
        """Return what gives the numbers of many networks at once."""
        return Evaluator(self.space, self.latency, self.accuracy)

    @property
    def evaluate(self) -> Callable[[Arch], Candidate]:
        """Return what gives all numbers of an Arch."""
        return Predicted(self.latency, self.accuracy)

    def starting_points(self) -> list[Arch]:
        """Return Archs that keep to the budgets, as `nas.engine.feasibility` finds them.

        Raises SearchError where a budget is impossible. No network is evaluated on a checkpoint
        for that: it takes seconds, and no budget then limits accuracies.
        """
        evaluator = self.evaluator
        if self.options.objective == SUPERNET:
            evaluator = Evaluator(self.space, self.latency, NoAccuracy())
        known = list(self.official.values())
        return starting_points(self.space, evaluator.numbers, self.limits, known)

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
        archive = self._archive(starts) if self.uses_archive else None
        evaluated, interrupted, proof = 0, False, None
        missed: Sequence[Arch] = ()
        work = (self.evaluations if archive else 0) + self.trials
        with progress(work, silent=silent, label="searching", unit="networks") as show:
            tried: Sequence[Arch] = ()
            if archive:
                reached = archive.run(run.path(ARCHIVE_FILE), self.evaluations, show)
                evaluated, interrupted = reached.progress.evaluations, reached.interrupted
                if self.is_proven and not interrupted:
                    proof, missed = prove_archives(archive, reached.progress, MOST_STATES)
                best = archive.best(reached.progress)
                tried = with_neighbours(self.space, best, self.seed)
            search = self._begin(run, starts, tried)
            asked = max(self.trials, search.num_trials)  # a resumed run may have more already
            self._record(run, asked, None)
            try:
                if not interrupted:
                    search.run(self.trials, lambda search: show(evaluated + search.num_trials))
                    show(work)  # the archive search ends with the last generation that fits
            except KeyboardInterrupt:
                interrupted = True
        if archive:
            found = archive.found(reached.progress, [*search.candidates, *missed])
        else:
            found = self._found(search)
        front = self._front(search, found.whole, archive.drawn() if archive else [])
        if not front.candidates and not interrupted:
            raise SearchError(
                f"none of {evaluated + search.num_trials} networks {self._failed(search)}, or go "
                f"on with `{run.again} --trials {2 * max(asked, search.num_trials)}`"
            )
        outcome = Outcome(
            trials=search.num_trials,
            distinct_archs=len(search.candidates),
            front=len(front.candidates),
            interrupted=interrupted,
            seconds=round(time.monotonic() - started, 1),
            evaluations=evaluated + search.num_trials,
            whole_front=len(found.whole),
            cost_of_reach=found.cost,
            proof=proof,
        )
        if front.candidates:
            front.write(run.folder, found.whole)
            self._record(run, asked, outcome)
        return SearchResult(self.options, run.folder, front, outcome, self._notes(search))

    def _archive(self, starts: Sequence[Arch]) -> ArchiveSearch:
        first = self._first(starts)
        return ArchiveSearch(self.evaluator, self.limits, self.options.reach, first, self.seed)

    def _begin(self, run: Run, starts: Sequence[Arch], tried: Sequence[Arch]) -> Search:
        return Search(
            Problem(self.space, self.evaluate, self.limits),
            sampler=self.options.chosen_sampler,
            seed=self.seed,
            first=self._first(starts),
            journal=run.path("study.log"),
            proposals=tried,
        )

    def _first(self, starts: Sequence[Arch]) -> list[Arch]:
        """Return the networks that are tried before all others."""
        largest = list(self.space.extremes())[1::2]
        return list(dict.fromkeys([*self.official.values(), *starts, *largest]))

    def _found(self, search: Search) -> Found:
        """Return the front of the trials, where they are all that was evaluated."""
        possible = [c for c in search.candidates.values() if self._is_possible(c)]
        near = np.array([not c.accuracy_extrapolated for c in possible], dtype=np.bool_)
        latency_ms = np.array([c.latency_ms for c in possible])
        accuracy = np.array([c.accuracy for c in possible])
        chosen = choose(latency_ms, accuracy, near, self.options.reach)
        return Found(tuple(possible[row] for row in chosen.rows), chosen.cost)

    def _front(
        self,
        search: Search,
        whole: Sequence[Candidate],
        others: Sequence[tuple[float, float]],
    ) -> Front:
        possible = [c for c in search.candidates.values() if self._is_possible(c)]
        official = {name: self.evaluate(arch) for name, arch in self.official.items()}
        ids = thinned([c.accuracy for c in whole], [c.accuracy_std for c in whole])
        table = self.latency.table
        return Front(
            candidates=tuple(self._alone(search, whole[number]) for number in ids),
            ids=tuple(ids),
            baselines={name: c for name, c in official.items() if self._is_possible(c)},
            trials=[*((c.latency_ms, c.accuracy) for c in possible), *others],
            title=f"{table.title}, {table.runtime} {table.precision}, batch {table.batch}",
            metric=self.accuracy.metric,
            latency_source=self.latency.describe(),
            accuracy_source=self.accuracy.describe(),
            accuracy_provenance=self.accuracy.provenance,
        )

    def _alone(self, search: Search, candidate: Candidate) -> Candidate:
        """Return a candidate with numbers that were found for it alone."""
        alone = search.candidates.get(candidate.arch) or self.evaluate(candidate.arch)
        for name in ("latency_ms", "accuracy"):
            together, own = getattr(candidate, name), getattr(alone, name)
            if not math.isclose(together, own, rel_tol=1e-5):
                raise SearchError(
                    f"{name} of {alone.arch.describe()} is {own} alone but {together} among "
                    "others, a fault of this program; --sampler nsga2 goes without"
                )
        return alone

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
    settings = {
        "reach": FAR,
        "evaluations": None,
        "prove": NEVER,
    } | settings  # as runs were before these
    recorded = resumed(
        absolute, settings, run, unrecorded=UNRECORDED, may_change=("trials", "evaluations")
    )
    if record.get("outcome") and not (run / "study.log").exists():
        raise RunError(f"{run} has lost its study.log; start a new run")
    if options.out is not None:
        raise RunError("--out cannot change in a resumed run; leave it out")
    return recorded


def _check_evaluations(options: SearchOptions) -> None:
    """Raise SearchError for --evaluations or --prove where nothing would come of them."""
    check_least("--evaluations", options.evaluations, 1, SearchError)
    if options.chosen_sampler == ARCHIVE and options.objective == SUPERNET:
        raise SearchError(
            "--sampler archive evaluates a million networks, which takes too long with PyTorch; "
            f"take --sampler {GENETIC} with --objective supernet"
        )
    if options.chosen_sampler != ARCHIVE and options.evaluations is not None:
        raise SearchError(
            f"--evaluations are those of --sampler archive; --sampler {options.chosen_sampler} "
            "counts --trials"
        )
    if options.prove == ALWAYS and options.objective == SUPERNET:
        raise SearchError(
            "--prove takes predicted accuracies, not --objective supernet; leave it out"
        )
    if options.prove == ALWAYS and options.chosen_sampler != ARCHIVE:
        raise SearchError(
            f"--prove goes on from --sampler {ARCHIVE}; leave out --sampler "
            f"{options.chosen_sampler}, or --prove"
        )
