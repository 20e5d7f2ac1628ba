"""A search from its options to its run folder: `search(SearchOptions(device=("orin",)))`."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from lut.runtimes.versions import remark_here, target_flag
from nas.engine.archive_search import ArchiveSearch, Reached
from nas.engine.cells import front_of
from nas.engine.found import Found, thinned_front, with_neighbours
from nas.engine.notes import notes_on
from nas.engine.older import recorded_options
from nas.engine.proving import Proven, prove_archives
from nas.engine.reach import choose
from nas.engine.search_run import SearchRun
from nas.engine.study import Problem, Search
from nas.front import Candidate, Front
from nas.objectives.budgets import feasible
from nas.options import ALWAYS, AUTO, MOST_STATES, QUICK_STATES, SearchOptions
from nas.result import Outcome, SearchResult
from results.errors import SearchError
from results.heap import keep_freed_memory
from results.progress import progress
from results.runs import SEARCH, Run, open_run
from supernet.arch import Arch


def search(options: SearchOptions, *, silent: bool = True) -> SearchResult:
    """Search, and write the run folder: run.json, study.log, front.csv and front.json.

    Ctrl-C ends the trials early: the result then says `interrupted`, and its front is that of
    the trials so far.

    Args:
        silent: show no progress.

    Raises UserError for whatever the options name wrongly, before anything is written, and
    SearchError where no trial keeps to all budgets.
    """
    keep_freed_memory()
    resume = options.resume
    if resume is not None:
        options = recorded_options(options, resume)
    prepared = SearchRun.of(options)
    if resume is not None:
        prepared.check_same_sources(resume)
    starts = prepared.starting_points()
    name = "-".join(target.device.name for target in prepared.targets)
    with open_run(SEARCH, options.out, name, resume=resume) as run:
        return _Searching(prepared, run, prepared.first(starts)).carry_out(silent=silent)


@dataclass(frozen=True)
class _Archived:
    """What an archive search found, before Optuna's trials are added."""

    search: ArchiveSearch
    reached: Reached
    proof: Proven | None
    missed: Sequence[Arch]  # by the search, found by the proof
    tried: Sequence[Arch]  # what Optuna's study is given


@dataclass(frozen=True)
class _Searching:
    """A search in its run folder."""

    prepared: SearchRun
    run: Run
    first: Sequence[Arch]  # networks that are tried before all others

    def carry_out(self, *, silent: bool) -> SearchResult:
        """Try networks and write the run.

        Raises SearchError where none keeps to all budgets, unless Ctrl-C ended the trials.
        """
        prepared, run = self.prepared, self.run
        trials = prepared.options.num_trials
        started = time.monotonic()
        if run.is_new:  # before the journal: without it no resuming
            self._record(trials, None)
        prepared.accuracy.keep_in(run.folder)
        evaluations = prepared.options.num_evaluations if prepared.uses_archive else 0
        archived, interrupted = None, False
        with progress(
            evaluations + trials, silent=silent, label="searching", unit="networks"
        ) as show:
            if evaluations:
                archived = self._search_archive(evaluations, show)
                interrupted = archived.reached.interrupted
            search = self._begin(archived.tried if archived else ())
            asked = max(trials, search.num_trials)  # a resumed run may have more already
            self._record(asked, None)
            before = archived.reached.evaluations if archived else 0
            if prepared.options.uses_energy and archived:
                # What is left to draw at random may have blocks whose energy nobody knows.
                known = {*self.first, *archived.tried, *search.candidates}
                trials = min(trials, len(known))
            try:
                if not interrupted:
                    search.run(trials, lambda search: show(before + search.num_trials))
                    show(evaluations + trials)  # the last generation that fits may end earlier
            except KeyboardInterrupt:
                interrupted = True
        found = self._found(search, archived)
        front = self._front(search, found.whole, archived)
        evaluated = before + search.num_trials
        if not front.candidates and not interrupted:
            raise SearchError(
                f"none of {evaluated} networks {self._failed(search)}, or go on with "
                f"`{run.again} --trials {2 * max(asked, search.num_trials)}`"
            )
        outcome = Outcome(
            trials=search.num_trials,
            distinct_archs=len(search.candidates),
            front=len(front.candidates),
            interrupted=interrupted,
            seconds=round(time.monotonic() - started, 1),
            evaluations=evaluated,
            whole_front=len(found.whole),
            cost_of_reach=found.cost,
            near_only=found.near_only,
            sharing=found.sharing,
            proof=archived.proof if archived else None,
        )
        if front.candidates:
            front.write(run.folder, found.whole)
            self._record(asked, outcome)
        reached_by = tuple(target_flag(own.latency.table.sidecar) for own in prepared.targets)
        notes = self._notes(search)
        return SearchResult(prepared.options, run.folder, front, outcome, notes, reached_by)

    def _search_archive(self, evaluations: int, show: Callable[[float], None]) -> _Archived:
        prepared = self.prepared
        search = ArchiveSearch.of(prepared, self.first)
        reached = search.run(self.run, evaluations, show)
        proof: Proven | None = None
        missed: Sequence[Arch] = ()
        if prepared.is_proven and not reached.interrupted:
            most = MOST_STATES if prepared.options.prove == ALWAYS else QUICK_STATES
            proof, missed = prove_archives(search, reached.progress, most)
        best = search.best(reached, prepared.options.num_trials // 2)
        tried = prepared.with_energy(with_neighbours(prepared.space, best, prepared.seed))
        return _Archived(search, reached, proof, missed, tried)

    def _begin(self, tried: Sequence[Arch]) -> Search:
        prepared = self.prepared
        return Search(
            Problem(prepared.space, prepared.evaluate, prepared.limits, prepared.objectives),
            sampler=prepared.options.chosen_sampler,
            seed=prepared.seed,
            first=self.first,
            journal=self.run.path("study.log"),
            proposals=tried,
        )

    def _found(self, search: Search, archived: _Archived | None) -> Found:
        """Return the front, of the trials where they are all that was evaluated."""
        if archived:
            others = [*search.candidates, *archived.missed]
            return archived.search.found(archived.reached, others)
        prepared = self.prepared
        possible = [c for c in search.candidates.values() if self._is_possible(c)]
        if not possible:
            return Found((), None)
        costs = np.array([[o.cost(c) for o in prepared.objectives] for c in possible])
        if len(prepared.objectives) > 2:
            return Found(tuple(possible[row] for row in front_of(costs)), None)
        near = np.array([not c.accuracy_extrapolated for c in possible], dtype=np.bool_)
        chosen = choose(costs, near, prepared.options.reach)
        return Found(tuple(possible[row] for row in chosen.rows), chosen.cost)

    def _front(
        self, search: Search, whole: Sequence[Candidate], archived: _Archived | None
    ) -> Front:
        prepared = self.prepared
        possible = [c for c in search.candidates.values() if self._is_possible(c)]
        official = {name: prepared.evaluate(arch) for name, arch in prepared.official.items()}
        ids = thinned_front(whole, prepared.objectives)
        tried = [tuple(o.value(c) for o in prepared.objectives) for c in possible]
        return Front(
            candidates=tuple(self._alone(search, whole[number]) for number in ids),
            ids=tuple(ids),
            baselines={name: c for name, c in official.items() if self._is_possible(c)},
            trials=[*tried, *(archived.search.drawn() if archived else [])],
            title="; ".join(target.title for target in prepared.targets),
            metric=prepared.accuracy.metric,
            latency_source=self._latency_source(),
            accuracy_source=prepared.accuracy.describe(),
            accuracy_provenance=prepared.accuracy.provenance,
            objectives=prepared.objectives,
            devices=prepared.devices,
        )

    def _latency_source(self) -> str:
        if not self.prepared.devices:
            return self.prepared.latency.describe()
        told = (f"{own.label}: {own.latency.describe()}" for own in self.prepared.targets)
        return "; ".join(told)

    def _alone(self, search: Search, candidate: Candidate) -> Candidate:
        """Return a candidate with numbers that were found for it alone."""
        own = search.candidates.get(candidate.arch) or self.prepared.evaluate(candidate.arch)
        for objective in self.prepared.objectives:
            together, alone = objective.value(candidate), objective.value(own)
            if not math.isclose(together, alone, rel_tol=1e-5):
                raise SearchError(
                    f"{objective.column} of {own.arch.describe()} is {alone} alone but {together} "
                    "among others, a fault of this program; --sampler nsga2 goes without"
                )
        return replace(own, losses=candidate.losses)

    def _is_possible(self, candidate: Candidate) -> bool:
        prepared = self.prepared
        if prepared.options.uses_energy and candidate.energy_mj is None:
            return False
        return feasible(candidate, prepared.limits) and not prepared.accuracy.is_broken(
            candidate.arch
        )

    def _failed(self, search: Search) -> str:
        """Say why the front has no network, and what may help."""
        if any(map(self.prepared.accuracy.is_broken, search.candidates)):
            return (
                "both has finite outputs and keeps to all budgets; train the supernet on with "
                "--clip 1"
            )
        return "keeps to all budgets together; loosen one"

    def _notes(self, search: Search) -> tuple[str, ...]:
        """Return what a reader of the front must know, a line each."""
        prepared = self.prepared
        num_broken = sum(map(prepared.accuracy.is_broken, search.candidates))
        notes = notes_on(prepared.space, prepared.accuracy, num_broken)
        if prepared.options.prove == AUTO and prepared.uses_archive and prepared.why_unproven:
            notes.append(f"proof: none, {prepared.why_unproven}")
        versions = (remark_here(own.latency.table.sidecar) for own in prepared.targets)
        return (*notes, *(version for version in versions if version))

    def _record(self, trials: int, outcome: Outcome | None) -> None:
        prepared = self.prepared
        self.run.record(
            prepared.options.settings() | {"trials": trials},
            prepared.sources(),
            prepared.options.seed,
            metric=prepared.accuracy.metric,
            outcome=outcome and asdict(outcome),
        )
