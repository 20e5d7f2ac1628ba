"""Which networks are verified: those of a run's front, or those that a user names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lut.measuring.options import ValidationOptions
from lut.measuring.validation import space_of_table
from nas.candidates import sources_of
from nas.engine.devices import tables_by_device
from nas.engine.older import recorded_options
from nas.front import Candidate, read_front
from nas.objectives.objective import DEFAULT, Objective
from nas.objectives.predicted import Predicted
from nas.objectives.sources import NoAccuracy, PredictedAccuracy
from nas.options import SearchOptions
from nas.summary import spread_evenly
from nas.verifying.options import VerifyOptions
from predictors.accuracy import published
from predictors.latency import LatencyPredictor, choose_predictor
from results.errors import ArchError, DeviceError, RunError, TableError, nearest
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.official import check_task
from supernet.resolve import dataset_of_arch, resolve_arch
from supernet.space import Space

SAME = 1e-5  # relative difference of two predictions by one table: numbers have six digits
Kind = Literal["front", "official", "asked"]


@dataclass(frozen=True)
class Chosen:
    """A network to measure."""

    id: str  # its row in front_all.csv, an official network's name, or as the user names it
    kind: Kind
    candidate: Candidate  # with what is predicted


@dataclass(frozen=True)
class Choice:
    """Networks to measure, and what predicts them."""

    networks: tuple[Chosen, ...]
    latency: LatencyPredictor  # of the one device
    label: str  # of the device among several of a run; "" of the only one
    place: int  # of the device among those of the run
    objectives: tuple[Objective, ...]
    metric: str  # what accuracy is; "" where nothing is known of it
    num_front: int  # networks on the whole front

    @property
    def archs(self) -> tuple[Arch, ...]:
        """Return the networks, each once."""
        return tuple(dict.fromkeys(chosen.candidate.arch for chosen in self.networks))

    @property
    def space(self) -> Space:
        """Return the space whose official networks tell the state of the machine."""
        arch = self.networks[0].candidate.arch
        task = check_task(arch.task)
        dataset = None if task == "super_resolution" else dataset_of_arch(arch)
        return space_of_table(ValidationOptions(task=task, dataset=dataset), self.latency.table)


def choose(options: VerifyOptions) -> Choice:
    """Return what the options name. Raises UserError."""
    if options.folder is not None:
        return _from_run(options, options.folder)
    return _from_names(options)


def _from_run(options: VerifyOptions, folder: Path) -> Choice:
    front = read_front(folder)
    searched = recorded_options(SearchOptions(), folder)
    label, spec, table = _device_of(options, folder, searched)
    place = front.devices.index(label) if front.devices else 0
    dataset = dataset_of_arch(front.candidates[0].arch)
    _, latency = choose_predictor(spec, options.table or table, dataset)
    own = front.by_id
    numbers = list(own)
    if options.networks is not None:
        logs = {number: math.log(own[number].latencies[place].latency_ms) for number in own}
        ordered = dict(sorted(logs.items(), key=lambda item: item[1]))
        numbers = spread(ordered, options.networks)
    _check_same_table(latency, {number: own[number] for number in numbers}, place, folder)
    networks = [Chosen(str(number), "front", own[number]) for number in numbers]
    networks += [Chosen(name, "official", c) for name, c in front.baselines.items()]
    return Choice(
        tuple(networks),
        latency,
        label if front.devices else "",
        place,
        front.objectives,
        front.metric,
        len(own),
    )


def spread(places: Mapping[int, float], most: int) -> list[int]:
    """Return `most` keys, or all, whose places, which ascend, are spread as evenly as there are.

    Where several evenly spaced places have the same nearest key, those that are farthest from all
    others are added.

    >>> spread({1: 0.0, 2: 0.1, 3: 0.2, 4: 0.25, 5: 1.0}, 4)
    [1, 2, 4, 5]
    """
    chosen = spread_evenly(places, most)
    left = [key for key in places if key not in chosen]
    while left and len(chosen) < most:
        farthest = max(left, key=lambda key: min(abs(places[key] - places[c]) for c in chosen))
        left.remove(farthest)
        chosen.append(farthest)
    return sorted(chosen, key=lambda key: places[key])


def _device_of(
    options: VerifyOptions, folder: Path, searched: SearchOptions
) -> tuple[str, str, Path | None]:
    """Return label, full specification and table of the run's device that is asked for.

    Raises DeviceError where that is none of them, or is not said of several.
    """
    sources = sources_of(folder)
    if not sources:
        raise RunError(f"{folder / 'run.json'} does not tell its devices; search again")
    files = tables_by_device(searched.device, searched.table)
    found = {}
    for (label, source), spec in zip(sources.items(), searched.device, strict=False):
        parts = [str(source.get(name)) for name in ("device", "runtime", "precision")]
        found[label] = (":".join(parts), files.get(spec))
    if options.device is None:
        if len(found) > 1:
            raise DeviceError(
                f"{folder} is of {' and '.join(found)}; say which by --device {next(iter(found))}"
            )
        label = next(iter(found))
    else:
        label = _label(options.device.lower(), found, folder)
    return (label, *found[label])


def _label(asked: str, found: Mapping[str, tuple[str, Path | None]], folder: Path) -> str:
    """Return the label of a device by its label or any part of NAME:runtime:precision."""
    for label, (spec, _) in found.items():
        if asked == label or f"{spec}:".startswith(f"{asked}:"):
            return label
    raise DeviceError(f"{folder} is not of device {asked!r}{nearest(asked, found)}")


def _check_same_table(
    latency: LatencyPredictor, front: Mapping[int, Candidate], place: int, folder: Path
) -> None:
    """Raise TableError where the run's latencies are not those of the table as it is now."""
    for number, candidate in front.items():
        before = candidate.latencies[place].latency_ms
        now = latency.predict(blocks_of(candidate.arch)).latency_ms
        if not math.isclose(before, now, rel_tol=SAME):
            raise TableError(
                f"{latency.table.path} is not the table that {folder} was searched on: "
                f"{folder}#{number} has {before:.6g} ms there and {now:.6g} ms by the table; "
                "search again, or name the run's table by --table"
            )


def _from_names(options: VerifyOptions) -> Choice:
    archs = [resolve_arch(text) for text in options.arch]
    for number, arch in enumerate(archs):
        if arch in archs[:number]:
            first = options.arch[archs.index(arch)]
            raise ArchError(
                f"--arch {options.arch[number]} is the network of {first}; leave it out"
            )
    dataset = dataset_of_arch(archs[0])
    for text, arch in zip(options.arch, archs, strict=True):
        if dataset_of_arch(arch) != dataset:
            raise ArchError(
                f"--arch {text} is for {dataset_of_arch(arch)}, and {options.arch[0]} for "
                f"{dataset}; verify them one after the other"
            )
    assert options.device is not None  # checked
    _, latency = choose_predictor(options.device, options.table, dataset)
    accuracy, metric = _accuracy(archs, dataset)
    predict = Predicted((latency,), accuracy)
    networks = [
        Chosen(text, "asked", predict(arch)) for text, arch in zip(options.arch, archs, strict=True)
    ]
    return Choice(tuple(networks), latency, "", 0, DEFAULT, metric, 0)


def _accuracy(archs: Sequence[Arch], dataset: str) -> tuple[PredictedAccuracy | NoAccuracy, str]:
    """Return what predicts accuracies, and what these are; nothing where none are published."""
    classes: Any = {getattr(arch.head, "num_classes", None) for arch in archs}
    if dataset == "super_resolution" or len(classes) > 1:
        return NoAccuracy(), ""
    accuracy = PredictedAccuracy(published(dataset, classes.pop()))
    return accuracy, accuracy.metric


def measured(choice: Choice, candidate: Candidate, ms: float, std_ms: float) -> Candidate:
    """Return a candidate with what it took on the device instead of what was predicted."""
    if choice.place == 0:
        return replace(candidate, latency_ms=ms, latency_std_ms=std_ms)
    others = list(candidate.others)
    number = choice.place - 1
    others[number] = replace(others[number], latency_ms=ms, latency_std_ms=std_ms)
    return replace(candidate, others=tuple(others))
