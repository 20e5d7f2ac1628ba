"""A search with everything looked up that its options name."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas.engine.baselines import official_archs
from nas.engine.devices import Target, choose_targets
from nas.engine.feasibility import starting_points
from nas.engine.numbers import Evaluator
from nas.engine.samplers import check_sampler
from nas.exact.pairs import Limits
from nas.front import Candidate
from nas.objectives.accuracy import choose_accuracy
from nas.objectives.budgets import Budget, budgets
from nas.objectives.objective import ACCURACY, DEFAULT, LATENCY, Objective, objectives_of
from nas.objectives.predicted import Predicted
from nas.objectives.sources import AccuracySource, NoAccuracy
from nas.options import (
    ALWAYS,
    ARCHIVE,
    AUTO,
    GENETIC,
    LARGE,
    MANY,
    NEVER,
    PROOFS,
    PUBLISHED,
    REACHES,
    SMALL,
    SUPERNET,
    SearchOptions,
)
from predictors.latency import LatencyPredictor
from results.errors import RunError, SearchError, check_choice, check_least
from results.runs import read_record
from supernet.arch import Arch, Task
from supernet.official import check_task, dataset_of
from supernet.space import Space

PROVABLE = tuple(field.name for field in fields(Limits))
RISKS = (0.01, 0.99)  # beyond these a normal distribution tells nothing of a latency


@dataclass(frozen=True)
class SearchRun:
    """Devices, networks, where their numbers come from, and what is asked of these."""

    options: SearchOptions
    targets: tuple[Target, ...]
    task: Task
    dataset: str
    space: Space
    accuracy: AccuracySource
    objectives: tuple[Objective, ...]  # accuracy last
    limits: tuple[Budget, ...]

    @classmethod
    def of(cls, options: SearchOptions) -> "SearchRun":
        """Look everything up. Raises UserError for whatever the options name wrongly."""
        _check(options)
        task = check_task(options.task)
        named = options.dataset if options.accuracy == PUBLISHED else None
        dataset = dataset_of(task, named)
        targets = choose_targets(options.device, options.table, dataset)
        tables = [target.latency.table for target in targets]
        accuracy, space = choose_accuracy(options, task, tables)
        if (own := space.dataset or dataset_of(task, None)) != dataset:  # that of the subnets
            dataset = own
            targets = choose_targets(options.device, options.table, dataset)
        labels = [target.label for target in targets] if len(targets) > 1 else []
        objectives = objectives_of(options.minimized, options.maximized, labels, options.risk)
        limits = budgets(options.budgets, labels, options.risk)
        prepared = cls(options, targets, task, dataset, space, accuracy, objectives, limits)
        prepared.check()
        return prepared

    def check(self) -> None:
        """Raise SearchError where the devices' tables cannot give what is asked for."""
        if len(self.targets) > 1 and LATENCY.name not in self.options.minimized:
            raise SearchError(
                "several --device are compared by their latencies; add --minimize latency, or take "
                "one --device"
            )
        if self.options.uses_energy:
            if len(self.targets) > 1:
                raise SearchError(
                    "energy is that of one device; leave out all --device but one, or energy"
                )
            if not self.uses_archive:
                raise SearchError(
                    f"--sampler {self.options.chosen_sampler} tries networks whose energy was not "
                    f"measured; take --sampler {ARCHIVE}, or leave energy out"
                )
            if not self.latency.has_energy:
                name = self.targets[0].device.name
                raise SearchError(
                    f"the table of {name} has no energy; measure one by `python -m lut.build "
                    f"--device {name} --energy`, or leave energy out"
                )
        if self.options.prove == ALWAYS and (why := self.why_unproven):
            raise SearchError(f"--prove always cannot be kept to: {why}; leave it out")

    @property
    def latency(self) -> LatencyPredictor:
        """Return the predictor of the first device."""
        return self.targets[0].latency

    @property
    def latencies(self) -> tuple[LatencyPredictor, ...]:
        """Return the predictors of all devices."""
        return tuple(target.latency for target in self.targets)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return names of the devices where there are several."""
        return tuple(target.label for target in self.targets) if len(self.targets) > 1 else ()

    @property
    def uses_archive(self) -> bool:
        """Tell whether a million networks are evaluated beside Optuna's trials."""
        return self.options.chosen_sampler == ARCHIVE

    @property
    def why_unproven(self) -> str:
        """Return why nothing can be proven of the front; empty where it can."""
        if self.objectives != DEFAULT:
            return "a proof is of one device's mean latency and accuracy alone"
        for limit in self.limits:
            quantity = limit.measure.quantity
            provable = quantity is ACCURACY if limit.is_least else quantity.field in PROVABLE
            if not provable:
                return f"a proof cannot hold to {limit.flag}"
        return ""

    @property
    def is_proven(self) -> bool:
        """Tell whether the exact front is looked for."""
        asked = self.options.prove
        if asked == NEVER or self.why_unproven:
            return False
        largest = LARGE if self.options.num_evaluations >= MANY else SMALL
        return asked == ALWAYS or (asked == AUTO and self.space.size <= largest)

    @property
    def seed(self) -> int:
        """Return what all draws follow from."""
        return self.options.seed

    @cached_property
    def official(self) -> dict[str, Arch]:
        """Return the official networks that are in the space, by name and resolution."""
        return official_archs(self.space, self.task, self.dataset)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Return what gives the numbers of many networks at once."""
        return Evaluator(self.space, self.latencies, self.accuracy)

    @property
    def evaluate(self) -> Callable[[Arch], Candidate]:
        """Return what gives all numbers of an Arch."""
        return Predicted(self.latencies, self.accuracy, self.options.uses_energy)

    def starting_points(self) -> list[Arch]:
        """Return Archs that keep to the budgets, as `nas.engine.feasibility` finds them.

        Raises SearchError where a budget is impossible. No network is evaluated on a checkpoint
        for that, as it takes seconds: a limit on accuracies is then not looked at.
        """
        evaluator, limits = self.evaluator, self.limits
        if self.options.evaluate == SUPERNET:
            evaluator = Evaluator(self.space, self.latencies, NoAccuracy())
            limits = tuple(limit for limit in limits if limit.measure.quantity is not ACCURACY)
        known = list(self.official.values())
        return starting_points(self.space, evaluator.numbers, limits, known)

    def first(self, starts: Sequence[Arch]) -> list[Arch]:
        """Return the networks that are tried before all others."""
        largest = list(self.space.extremes())[1::2]
        return self.with_energy(list(dict.fromkeys([*self.official.values(), *starts, *largest])))

    def with_energy(self, archs: list[Arch]) -> list[Arch]:
        """Return networks without those whose energy is asked for and not known."""
        if not self.options.uses_energy or not archs:
            return archs
        genes = np.array([self.space.encode(arch) for arch in archs], dtype=np.intp)
        known = np.isfinite(self.evaluator.numbers(genes).energy_mj)
        return [arch for arch, is_known in zip(archs, known, strict=True) if is_known]

    def check_same_sources(self, folder: Path) -> None:
        """Raise RunError if the run in `folder` was begun with another table, law or space."""
        recorded = read_record(folder).get("sources")
        for name, source in self.sources().items():
            if not isinstance(recorded, dict) or recorded.get(name) != source:
                raise RunError(
                    f"the {name} source is not what {folder} was begun with, so its trials would "
                    "not compare; start a new run"
                )

    def sources(self) -> dict[str, Any]:
        """Return where the numbers come from, as JSON has it."""
        latency: Any = self.latency.provenance
        if self.devices:
            latency = {target.label: target.latency.provenance for target in self.targets}
        sources = {
            "latency": latency,
            "accuracy": self.accuracy.to_dict(),
            "space": self.space.to_dict(),
        }
        return dict(json.loads(json.dumps(sources)))


def _check(options: SearchOptions) -> None:
    """Raise SearchError for flags that are wrong whatever the device."""
    check_least("--trials", options.num_trials, 1, SearchError)
    if not 0 <= options.seed < 2**32:
        raise SearchError("--seed must be from 0 to 4294967295")
    check_choice("reach", options.reach, REACHES, SearchError)
    check_choice("prove", options.prove, PROOFS, SearchError)
    if options.risk is not None and not RISKS[0] <= options.risk <= RISKS[1]:
        raise SearchError(
            f"--risk is a probability from {RISKS[0]} to {RISKS[1]}, such as 0.9, not "
            f"{options.risk:g}"
        )
    check_sampler(options.chosen_sampler)  # refused before anything is written
    _check_evaluations(options)


def _check_evaluations(options: SearchOptions) -> None:
    """Raise SearchError for --evaluations or --prove where nothing would come of them."""
    check_least("--evaluations", options.evaluations, 1, SearchError)
    if options.chosen_sampler == ARCHIVE and options.evaluate == SUPERNET:
        raise SearchError(
            "--sampler archive evaluates a million networks, which takes too long with PyTorch; "
            f"take --sampler {GENETIC} with --evaluate supernet"
        )
    if len(options.device) > 1 and options.evaluate == SUPERNET:
        raise SearchError(
            "--evaluate supernet takes one --device; for several, evaluate some subnets into a "
            "FILE.jsonl by `python -m supernet.evaluate` and predict from those by --accuracy"
        )
    if len(options.device) > 1 and options.chosen_sampler != ARCHIVE:
        raise SearchError(
            f"several --device take --sampler {ARCHIVE}, as what each could have alone is part of "
            f"the answer; leave out --sampler {options.chosen_sampler}"
        )
    if options.chosen_sampler != ARCHIVE and options.evaluations is not None:
        raise SearchError(
            f"--evaluations are those of --sampler archive; --sampler {options.chosen_sampler} "
            "counts --trials"
        )
    if options.prove == ALWAYS and options.evaluate == SUPERNET:
        raise SearchError(
            "--prove takes predicted accuracies, not --evaluate supernet; leave it out"
        )
    if options.prove == ALWAYS and options.chosen_sampler != ARCHIVE:
        raise SearchError(
            f"--prove goes on from --sampler {ARCHIVE}; leave out --sampler "
            f"{options.chosen_sampler}, or --prove"
        )
