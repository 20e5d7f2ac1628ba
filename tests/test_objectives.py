"""Objectives and budgets by name: what is asked for is what the front is of."""

import csv
import json
import shutil
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.table import load_table
from nas.engine.cells import front_of, survivors
from nas.engine.run import search
from nas.engine.search_run import SearchRun
from nas.front import Candidate, DeviceLatency, Front, candidate_of, numbers_of, read_front
from nas.objectives.budgets import budgets
from nas.objectives.objective import QUANTITIES, Objective, objectives_of
from nas.objectives.predicted import Predicted
from nas.options import SearchOptions
from nas.panels import panels_of
from nas.pictures import check_comparable, write_plots
from nas.search import SearchCommand
from results.console import main
from results.errors import RunError, SearchError
from results.fronts import CandidateNumbers
from supernet.blocks import blocks_of
from supernet.official import named_arch
from tests.pareto import beats, best
from tests.test_archive import SLICE

B_SLICE: dict[str, Any] = {"device": ("orin",), "space": "b", "freeze": SLICE}
COSTS = st.lists(
    st.tuples(st.floats(0.1, 100), st.floats(0.1, 100), st.integers(0, 12).map(float)),
    min_size=1, max_size=60,
)  # fmt: skip


def numbers_of_all(run):
    """Return the numbers of all networks of a space, as they are written."""
    counts = tuple(run.space.genes.values())
    genes = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), axis=1)
    return run.evaluator.numbers(genes).written()


@given(COSTS, st.floats(0.001, 0.5))
def test_every_network_has_one_in_the_cells_that_is_as_good_to_a_width(costs, width):
    found = [costs[row] for row in survivors(np.array(costs), width)]
    assert not any(beats(a, b) for a in costs for b in found)
    for *dear, last in costs:
        assert any(
            own[-1] <= last
            and all(x <= y * (1 + width) ** 1.0001 for x, y in zip(own[:-1], dear, strict=True))
            for own in found
        )


@given(COSTS, st.sets(st.integers(0, 59)))
def test_networks_stay_on_a_front_beside_others_in_their_cells(costs, numbers):
    also = np.array(sorted(n for n in numbers if n < len(costs)), dtype=int)
    found = [costs[row] for row in front_of(np.array(costs), also)]
    assert found == sorted(set(found))
    assert not any(beats(a, b) for a in found for b in found)
    for row in [*also, *front_of(np.array(costs))]:
        assert any(all(x <= y for x, y in zip(own, costs[row], strict=True)) for own in found)


@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 4), min_size=1, max_size=40))
def test_fronts_of_four_objectives_are_those_that_none_beats(costs):
    assert [costs[row] for row in front_of(np.array(costs))] == best(costs)


@pytest.mark.parametrize(
    ("minimize", "columns"),
    [
        (("memory",), ["memory_mb"]),
        (("params",), ["params_m"]),
        (("macs",), ["macs_g"]),
        (("latency", "memory"), ["latency_ms", "memory_mb"]),
        (("latency", "memory", "macs"), ["latency_ms", "memory_mb", "macs_g"]),
    ],
)
def test_the_front_is_that_of_brute_force_in_what_was_asked_for(tmp_path, minimize, columns):
    options = SearchOptions(
        **B_SLICE, minimize=minimize, reach="far", evaluations=50_000, trials=20,
        out=tmp_path / "run",
    )  # fmt: skip
    result = search(options)
    run = SearchRun.of(options)
    numbers = numbers_of_all(run)
    every = np.stack([getattr(numbers, name) for name in columns] + [-numbers.accuracy], axis=1)
    with (tmp_path / "run" / "front_all.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [tuple(float(row[name]) for name in columns) for row in rows]
    found = [(*costs, -float(row["accuracy"])) for costs, row in zip(found, rows, strict=True)]
    written = np.array([[float(f"{cost:.6g}") for cost in costs] for costs in every.tolist()])
    if len(columns) == 1:
        assert found == best(map(tuple, written[_candidates(written)].tolist()))
    else:  # one of each cell: nothing is dominated, and nothing is far from all that were found
        of_all = np.array(found)
        for costs in found[:: max(1, len(found) // 100)]:
            assert not np.any(np.all(written <= costs, axis=1) & np.any(written < costs, axis=1))
        width = {2: 1.03, 3: 1.1}[len(columns)]
        for costs in written[:: len(written) // 300]:
            near = np.all(of_all[:, :-1] <= width * costs[:-1], axis=1)
            assert np.any(near & (of_all[:, -1] <= costs[-1]))
    alone = Predicted(run.latencies, run.accuracy)
    for candidate in result.front.candidates[::50]:
        assert candidate == alone(candidate.arch)


def _candidates(costs):
    """Leave out most of what is dominated, so that comparing all with all is quick."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    least = np.minimum.accumulate(costs[order, 1])
    return order[costs[order, 1] <= least]


def test_risk_takes_the_quantile_in_objectives_and_budgets(tmp_path):
    asked: dict[str, Any] = {
        **B_SLICE,
        "reach": "far",
        "evaluations": 50_000,
        "trials": 20,
        "risk": 0.9,
    }
    options = SearchOptions(**asked, max_latency_ms=("1.2",), out=tmp_path / "run")
    result = search(options)
    numbers = numbers_of_all(SearchRun.of(options))
    risky = numbers.latency_ms + 1.2815515655446004 * numbers.latency_std_ms
    kept = risky <= 1.2
    assert result.front.candidates[-1].accuracy == numbers.accuracy[kept].max()
    with (tmp_path / "run" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        ms, std = float(row["latency_ms"]), float(row["latency_std_ms"])
        assert float(row["latency_q90_ms"]) == pytest.approx(ms + 1.28155157 * std, rel=1e-5)
        assert float(row["latency_q90_ms"]) <= 1.2 < 2 * ms
    assert result.front.objectives[0].column == "latency_q90_ms"


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        ({"min_accuracy": 80.0}, lambda c: c.accuracy >= 80.0),
        ({"min_memory_mb": 45.0, "max_macs_g": 0.6},
         lambda c: c.memory_mb >= 45 and c.macs_g <= 0.6),
        ({"min_latency_ms": ("1",), "max_accuracy": 80.0},
         lambda c: c.latency_ms >= 1 and c.accuracy <= 80.0),
        ({"max_memory_mb": 40.0, "min_params_m": 6.0},
         lambda c: c.memory_mb <= 40 and c.params_m >= 6),
    ],
)  # fmt: skip
def test_limits_hold_and_cost_nothing_else(asked, holds, tmp_path):
    options = SearchOptions(
        **B_SLICE, reach="far", evaluations=50_000, trials=20, out=tmp_path / "run", **asked
    )
    result = search(options)
    assert all(map(holds, result.front.candidates))
    run = SearchRun.of(options)
    numbers = numbers_of_all(run)
    kept = np.all([limit.excess(numbers) <= 0 for limit in run.limits], axis=0)
    assert kept.any()
    assert not kept.all()
    assert result.front.candidates[-1].accuracy == numbers.accuracy[kept].max()
    assert result.front.candidates[0].latency_ms == numbers.latency_ms[kept].min()


def with_energies(folder, *, lacking=0):
    """Write a table in which blocks have an energy, all or all but each so many."""
    from lut.device import SHIPPED

    source = SHIPPED / "tables" / "example-cpu-onnxruntime-fp32.csv"
    path = folder / source.name
    shutil.copy(source.with_suffix(".json"), path.with_suffix(".json"))
    with source.open() as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        known = not lacking or number % lacking
        row["energy_mj"] = f"{3 * float(row['latency_ms']):.6g}" if known else ""
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_energy_is_minimised_where_a_table_has_it(tmp_path):
    table = with_energies(tmp_path, lacking=400)
    options = SearchOptions(
        device=("example-cpu",), table=(str(table),), space="b", minimize=("energy",), trials=40,
        evaluations=30_000, max_energy_mj=300.0, out=tmp_path / "run",
    )  # fmt: skip
    result = search(options)
    loaded = load_table(table)
    for candidate in result.front.candidates:
        alone = loaded.network_energy_mj(blocks_of(candidate.arch))
        assert candidate.energy_mj == pytest.approx(alone, rel=1e-5)
    energies = [candidate.energy_mj or 0.0 for candidate in result.front.candidates]
    assert 0 < max(energies) <= 300.0
    assert energies == sorted(energies)
    again = read_front(tmp_path / "run")
    assert (again.candidates, again.objectives) == (
        result.front.candidates,
        result.front.objectives,
    )
    assert "energy_mj" in (tmp_path / "run" / "front.csv").read_text().splitlines()[0]


def test_energies_of_many_networks_are_those_of_each(tmp_path):
    table = with_energies(tmp_path, lacking=40)
    options = SearchOptions(device=("example-cpu",), table=(str(table),), space="b")
    run = SearchRun.of(replace(options, max_energy_mj=1e9))
    rng = np.random.default_rng(0)
    genes = np.stack([rng.integers(0, n, 300) for n in run.space.genes.values()], axis=1)
    together = run.evaluator.numbers(genes).energy_mj
    assert 0 < np.isnan(together).sum() < len(together)
    for row, energy_mj in zip(genes.tolist(), together, strict=True):
        alone = run.latency.table.network_energy_mj(blocks_of(run.space.decode(row)))
        if alone is None:
            assert np.isnan(energy_mj)
        else:
            assert energy_mj == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--minimize", "energy"], "has no energy; measure one by `python -m lut.build"),
        (["--max-energy-mj", "3"], "has no energy; measure one by `python -m lut.build"),
        (["--minimize", "latncy"], "did you mean 'latency'"),
        (["--minimize", "accuracy"], "--minimize accuracy finds the worst networks; --maximize"),
        (["--maximize", "latency"], "--maximize latency finds the worst networks; --minimize"),
        (["--minimize", "macs", "--minimize", "macs"], "--minimize macs stands there twice"),
        (["--min-accuracy", "90", "--max-accuracy", "80"], "exclude each other; loosen one"),
        (["--min-latency-ms", "3", "--max-latency-ms", "2"], "exclude each other; loosen one"),
        (["--max-latency-ms", "3", "--max-latency-ms", "2"], "given twice, 3 and 2; leave one out"),
        (["--max-latency-ms", "fast"], "takes milliseconds, or DEVICE=MS"),
        (["--max-latency-ms", "orin=2"], "names a device, and there is one; --max-latency-ms 2"),
        (["--max-latency-ms", "=2"], "names a device, and there is one; --max-latency-ms 2"),
        (["--max-memory-mb", "-1"], "--max-memory-mb must be a positive number"),
        (["--min-accuracy", "nan"], "--min-accuracy must be a positive number"),
        (["--min-accuracy", "99"], "the largest has"),
        (["--risk", "1"], "--risk is a probability from 0.01 to 0.99"),
        (["--risk", "0.9", "--prove", "always"], "--prove always cannot be kept to"),
        (["--minimize", "macs", "--prove", "always"], "--prove always cannot be kept to"),
        (["--min-macs-g", "1", "--prove", "always"], "a proof cannot hold to --min-macs-g"),
        (["--objective", "supernet", "--evaluate", "predictd"], "leave --objective out"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(fails, tmp_path, flags, told):
    out = tmp_path / "run"
    said = fails(SearchCommand, "nas.search", "--device", "orin", "--out", out, *flags)
    assert told in said.splitlines()[-1]
    assert not out.exists()


def test_the_old_name_of_evaluate_is_taken_with_a_remark(tmp_path, capsys):
    flags = ["--device", "orin", "--space", "tiny", "--trials", "10", "--out", str(tmp_path / "a")]
    main(SearchCommand, "nas.search", [*flags, "--objective", "predicted", "--quiet"])
    assert "--objective is called --evaluate now" in capsys.readouterr().err


def test_four_objectives_are_the_most():
    with pytest.raises(SearchError, match="5 objectives"):
        objectives_of(("latency", "memory", "macs", "params"), ("accuracy",), (), None)
    found = objectives_of(("latency", "macs"), ("accuracy",), ("a", "b"), 0.9)
    assert [own.column for own in found] == [
        "latency_a_q90_ms", "latency_b_q90_ms", "macs_g", "accuracy",
    ]  # fmt: skip


def test_limits_of_latency_by_device():
    limits = budgets({"--max-latency-ms": ("20", "orin=2")}, ("phone", "orin"))
    assert [(own.limit, own.measure.device) for own in limits] == [(20, "phone"), (2, "orin")]
    for typed, told in (
        (("2", "3"), "given twice"),
        (("orin=2", "orin=3"), "--max-latency-ms orin is given twice"),
        (("orn=2",), "did you mean 'orin'"),
    ):
        with pytest.raises(SearchError, match=told):
            budgets({"--max-latency-ms": typed}, ("phone", "orin"))


ARCH = named_arch("b0")
marks = st.booleans()
numbers = st.floats(0.01, 1e6)


@given(
    st.builds(
        Candidate, st.just(ARCH), numbers, numbers, numbers, numbers, numbers, numbers, numbers,
        marks, marks, marks, st.none() | numbers,
        st.lists(st.builds(DeviceLatency, numbers, numbers, marks), max_size=2).map(tuple),
        st.lists(numbers, max_size=3).map(tuple),
    )
)  # fmt: skip
def test_a_candidate_comes_back_from_json(candidate):
    record = msgspec.convert(json.loads(json.dumps(numbers_of(candidate))), CandidateNumbers)
    assert candidate_of(ARCH, record) == candidate


def a_front(objectives, devices=()):
    others = (DeviceLatency(3.0, 0.1),) * max(0, len(devices) - 1)
    losses = (0.1, 0.2)[: len(devices)]
    found = tuple(
        Candidate(
            ARCH, 1.0 + n, 0.1, 70.0 + n, 0.2, 3.0, 0.1, 9.0 + n, others=others, losses=losses
        )
        for n in range(4)
    )
    trials = [tuple(own.value(c) for own in objectives) for c in found]
    return Front(
        found, {"b0@224": found[1]}, trials, "A device", "ImageNet top-1 [%]", "measured",
        "published", objectives=objectives, devices=devices,
    )  # fmt: skip


MEMORY = (Objective(QUANTITIES["memory"]), Objective(QUANTITIES["accuracy"]))
PAIR = objectives_of(("latency",), ("accuracy",), ("phone", "orin"), None)


@pytest.mark.parametrize(("objectives", "devices"), [(MEMORY, ()), (PAIR, ("phone", "orin"))])
def test_a_front_of_any_objectives_is_drawn_written_and_read(tmp_path, objectives, devices):
    front = a_front(objectives, devices)
    front.write(tmp_path)
    again = read_front(tmp_path)
    assert (again.objectives, again.devices, again.candidates) == (
        objectives, devices, front.candidates,
    )  # fmt: skip
    write_plots([again], tmp_path)
    page = (tmp_path / "front.html").read_text()
    for objective in objectives[:-1]:
        assert objective.words in page
    assert len(panels_of(front)) == {2: 1, 3: 3}[len(objectives)]
    with pytest.raises(RunError, match="objectives differ, "):
        check_comparable([front, a_front(objectives_of(("macs",), ("accuracy",), (), None))])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["candidates"][0].pop("others"),
        lambda data: data["candidates"][1].pop("losses"),
        lambda data: data["trials"][0].pop(),
        lambda data: data["objectives"].append({"name": "energy"}),
        lambda data: data["objectives"].append({"name": "weight"}),
        lambda data: data["devices"].pop(),
        lambda data: data["devices"].__setitem__(1, "phone"),
        lambda data: data["objectives"].pop(),
        lambda data: data["objectives"].reverse(),
        lambda data: data.update(objectives=data["objectives"][-1:]),
        lambda data: data["objectives"][-1].update(quantile=0.9),
    ],
)
def test_a_damaged_front_of_two_devices_is_told(tmp_path, damage):
    a_front(PAIR, ("phone", "orin")).write(tmp_path)
    data = json.loads((tmp_path / "front.json").read_text())
    damage(data)
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"front\.json"):
        read_front(tmp_path)
