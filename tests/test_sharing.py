"""One network for several devices, beside brute force over a whole slice of a space."""

import csv
import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lut.device import SHIPPED
from nas.engine.archive_search import ArchiveSearch
from nas.engine.devices import choose_targets, tables_by_device
from nas.engine.run import search
from nas.engine.search_run import SearchRun
from nas.front import read_front
from nas.objectives.predicted import Predicted
from nas.options import SearchOptions
from nas.search import SearchCommand
from nas.summary import print_front
from results.console import main
from results.errors import TableError
from results.runs import SEARCH, open_run
from tests.pareto import beats
from tests.test_archive import SLICE
from tests.test_objectives import numbers_of_all

PHONE, ORIN = "snapdragon8gen1", "orin"
FEW = ("--space", "tiny", "--trials", "10", "--quiet")
PAIR: dict[str, Any] = {"device": (PHONE, ORIN), "space": "b", "freeze": SLICE, "trials": 40}


@pytest.fixture(scope="module", params=["far", "near"])
def shared(request, tmp_path_factory):
    """A search for two devices, and the numbers of all networks that it may return."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options = SearchOptions(**PAIR, reach=request.param, evaluations=100_000, out=folder)
    result = search(options)
    run = SearchRun.of(options)
    numbers = numbers_of_all(run)
    kept = np.ones(len(numbers.batch), np.bool_)
    if request.param == "near":
        kept = ~numbers.accuracy_extrapolated
        assert 0 < kept.sum() < len(kept)
    costs = [own.value(numbers)[kept] for own in run.objectives]
    return result, run, np.array(costs)


def own_ms(ms, accuracy, level):
    return ms[accuracy >= level].min()


def test_no_network_of_the_joint_front_is_beaten(shared):
    result, _, (phone_ms, orin_ms, accuracy) = shared
    every = np.stack([phone_ms, orin_ms, -accuracy], axis=1)
    for c in result.front.candidates:
        own = (c.latency_ms, c.others[0].latency_ms, -c.accuracy)
        assert not any(beats(other, own) for other in every[np.all(every <= own, axis=1)].tolist())


def test_each_network_has_one_on_the_front_that_is_hardly_dearer(shared):
    result, _, costs = shared
    with (result.folder / "front_all.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = (f"latency_{PHONE}_ms", f"latency_{ORIN}_ms", "accuracy")
    found = np.array([[float(row[name]) for name in names] for row in rows])
    for phone_ms, orin_ms, accuracy in costs.T[::400]:
        good = found[:, 2] >= accuracy - 1e-4
        assert np.any(good & (found[:, 0] <= 1.03 * phone_ms) & (found[:, 1] <= 1.03 * orin_ms))


def test_the_regret_is_within_half_a_percent_of_the_least_there_is(shared):
    result, _, (phone_ms, orin_ms, accuracy) = shared
    with (result.folder / "front_all.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = (f"latency_{PHONE}_ms", f"latency_{ORIN}_ms", "accuracy")
    found = np.array([[float(row[name]) for name in names] for row in rows]).T
    for level in np.linspace(accuracy.min(), accuracy.max() - 0.01, 50):
        own = [own_ms(ms, accuracy, level) for ms in (phone_ms, orin_ms)]
        good = accuracy >= level
        least = np.maximum(phone_ms[good] / own[0], orin_ms[good] / own[1]).min()
        good = found[2] >= level
        assert np.maximum(found[0][good] / own[0], found[1][good] / own[1]).min() <= 1.005 * least


def test_losses_are_beside_each_devices_own_best(shared):
    result, run, (phone_ms, orin_ms, accuracy) = shared
    alone = Predicted(run.latencies, run.accuracy)
    for c in result.front.candidates[::25]:
        for ms, latency, loss in zip((phone_ms, orin_ms), c.latencies, c.losses, strict=True):
            least = own_ms(ms, accuracy, c.accuracy)
            assert loss == pytest.approx(latency.latency_ms / least - 1, abs=2e-3)
        assert replace(c, losses=()) == alone(c.arch)


def test_what_sharing_costs_is_told(shared, capsys):
    result, _, (phone_ms, orin_ms, accuracy) = shared
    sharing = result.outcome.sharing
    levels = np.linspace(accuracy.min(), accuracy.max() - 0.01, 60)
    regrets = []
    for level in levels:
        own = [own_ms(ms, accuracy, level) for ms in (phone_ms, orin_ms)]
        good = accuracy >= level
        worst = np.maximum(phone_ms[good] / own[0], orin_ms[good] / own[1]) - 1
        regrets.append(worst.min())
    assert sharing.mean == pytest.approx(np.mean(regrets), abs=0.01)
    assert 0 <= sharing.mean < min(sharing.taken_over[PHONE][ORIN], sharing.taken_over[ORIN][PHONE])
    print_front(result)
    said = " ".join(capsys.readouterr().out.split())
    assert f"loses {100 * sharing.mean:.0f} % of latency on average" in said
    loss = sharing.taken_over[PHONE][ORIN]
    assert f"best on {PHONE} alone lose {100 * loss:.0f} % on {ORIN}" in said


def test_files_have_each_latency(shared):
    result, _, _ = shared
    columns = (result.folder / "front.csv").read_text().splitlines()[0].split(",")
    for device in (PHONE, ORIN):
        for name in (f"latency_{device}_ms", f"latency_{device}_std_ms", f"loss_{device}_percent"):
            assert name in columns
    again = read_front(result.folder)
    assert again.candidates == result.front.candidates
    sources = json.loads((result.folder / "run.json").read_text())["sources"]["latency"]
    assert {name: source["device"] for name, source in sources.items()} == {
        PHONE: PHONE, ORIN: ORIN,
    }  # fmt: skip


def test_another_cost_beside_two_latencies(tmp_path, capsys):
    options = SearchOptions(
        **PAIR, minimize=("macs", "latency"), reach="far", evaluations=100_000, out=tmp_path / "run"
    )
    result = search(options)
    run = SearchRun.of(options)
    numbers = numbers_of_all(run)
    latencies = (numbers.latency_ms, numbers.others[0].latency_ms)
    every = np.stack([numbers.macs_g, *latencies, -numbers.accuracy], axis=1)
    columns = ["macs_g", f"latency_{PHONE}_ms", f"latency_{ORIN}_ms", "accuracy"]
    assert [own.column for own in result.front.objectives] == columns
    for c in read_front(result.folder).candidates[::20]:
        own = (c.macs_g, c.latency_ms, c.others[0].latency_ms, -c.accuracy)
        assert not any(beats(other, own) for other in every[np.all(every <= own, axis=1)].tolist())
        for ms, latency, loss in zip(latencies, c.latencies, c.losses, strict=True):
            least = own_ms(ms, numbers.accuracy, c.accuracy)
            assert loss == pytest.approx(latency.latency_ms / least - 1, abs=2e-3)
    print_front(result)
    assert f"{ORIN} loses" in capsys.readouterr().out


def test_budgets_hold_on_their_devices(tmp_path):
    options = SearchOptions(
        **PAIR, reach="far", evaluations=100_000, out=tmp_path / "run",
        max_latency_ms=(f"{PHONE}=14", f"{ORIN}=1.1"),
    )  # fmt: skip
    result = search(options)
    numbers = numbers_of_all(SearchRun.of(options))
    kept = (numbers.latency_ms <= 14) & (numbers.others[0].latency_ms <= 1.1)
    found = [c.accuracy for c in result.front.candidates]
    assert max(found) == numbers.accuracy[kept].max()
    for c in result.front.candidates:
        assert c.latency_ms <= 14
        assert c.others[0].latency_ms <= 1.1
        for ms, latency, loss in zip(
            (numbers.latency_ms, numbers.others[0].latency_ms), c.latencies, c.losses, strict=True
        ):  # what a device could have alone, under its own budget, which here binds neither
            least = own_ms(ms, numbers.accuracy, c.accuracy)
            assert loss == pytest.approx(latency.latency_ms / least - 1, abs=2e-3)


class Stop:
    """Show progress until so many networks are evaluated; then Ctrl-C is pressed."""

    def __init__(self, evaluations):
        self.evaluations = evaluations

    def __call__(self, done):
        if done >= self.evaluations:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [20_000, 70_000])  # in the first half, in the second
def test_interrupted_and_gone_on_with_it_ends_as_if_it_had_not_been(tmp_path, stopped):
    run = SearchRun.of(SearchOptions(device=(PHONE, ORIN), space="b"))
    search = ArchiveSearch(
        run.evaluator, run.objectives, (), "near", run.first(run.starting_points()), 0
    )
    found = {}
    for name, stops in (("whole", ()), ("parts", (stopped,)), ("longer", (40_000, 80_000))):
        with open_run(SEARCH, tmp_path / name, name) as folder:
            for stop in stops:
                if name == "parts":
                    assert search.run(folder, 120_000, Stop(stop)).interrupted
                else:
                    search.run(folder, stop, lambda done: None)
            reached = search.run(folder, 120_000, lambda done: None)
        assert 90_000 < reached.evaluations <= 120_000
        found[name] = [archive.genes.tolist() for archive in reached.archives]
    assert found["parts"] == found["whole"] == found["longer"]


def test_a_table_of_one_of_several_devices(tmp_path):
    shipped = SHIPPED / "tables" / "orin-tensorrt-fp16.csv"
    for path in (shipped, shipped.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    own = tmp_path / shipped.name
    targets = choose_targets((PHONE, ORIN), (f"{ORIN}={own}",), "imagenet")
    assert [target.latency.table.path for target in targets][1] == own
    assert tables_by_device((ORIN,), (str(own),)) == {ORIN: own}
    for tables, told in (
        ((str(own),), f"say which: --table {PHONE}="),
        ((f"orn={own}",), "is of no --device; did you mean 'orin'"),
        ((f"{ORIN}={own}", f"{ORIN}={own}"), "given twice"),
        ((f"{PHONE}={own}",), f"not {PHONE}"),
    ):
        with pytest.raises(TableError, match=told):
            choose_targets((PHONE, ORIN), tables, "imagenet")


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ((ORIN, ORIN), "--device orin stands there twice"),
        ((ORIN, "orin:tensorrt:fp16"), "stands there twice"),
        ((ORIN, PHONE, "a100", "example-cpu"), "4 devices at once are more than 3"),
        ((ORIN, "snapdragon8gen2"), "did you mean 'snapdragon8gen1'"),
    ],
)
def test_devices_that_cannot_be_searched_together(fails, tmp_path, devices, told):
    flags = [word for device in devices for word in ("--device", device)]
    assert told in fails(SearchCommand, "nas.search", *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--sampler", "nsga2"], "several --device take --sampler archive"),
        (["--evaluate", "supernet"], "--evaluate supernet takes one --device"),
        (["--minimize", "latency", "--minimize", "energy"], "energy is that of one device"),
        (["--minimize", "macs"], "compared by their latencies; add --minimize latency"),
        (["--max-latency-ms", "orin=0.01"], "try --max-latency-ms orin=0.4"),
        (["--max-latency-ms", "orn=1"], "did you mean 'orin'"),
        (["--min-latency-ms", "orin=9", "--max-latency-ms", "orin=8"], "of orin exclude each"),
    ],
)
def test_what_several_devices_cannot_be_asked(fails, tmp_path, flags, told):
    said = fails(
        SearchCommand, "nas.search", "--device", ORIN, "--device", PHONE,
        "--out", tmp_path / "run", *flags,
    )  # fmt: skip
    assert told in said
    assert not (tmp_path / "run").exists()


def test_batches_that_do_not_compare(fails, tmp_path):
    """The a100's ImageNet latencies are published of batches of 64; a table of single images is."""
    flags = ("--device", ORIN, "--device", "a100", "--out", tmp_path / "run")
    said = fails(SearchCommand, "nas.search", *flags)
    assert "orin's are of batches of 1, a100's of 64; give --table a100=" in said
    cure = said.strip().partition("give --table ")[2]
    main(SearchCommand, "nas.search", [*map(str, flags), "--table", cure, *FEW])
    own = SHIPPED / "tables" / "a100-tensorrt-fp16-b16.csv"
    flags = ("--device", "example-cpu", "--device", "a100", "--table", f"a100={own}")
    targets = ("--device", "a100", "--device", "example-cpu", "--table", f"a100={own}")
    for given in (flags, targets):
        assert "give " in fails(SearchCommand, "nas.search", *given, "--out", tmp_path / "none")
    said = fails(SearchCommand, "nas.search", *targets, "--out", tmp_path / "none")
    assert "example-cpu's of 1; give tables of one batch by --table DEVICE=FILE" in said


def test_two_runtimes_of_one_device_are_told_apart(tmp_path):
    options = SearchOptions(
        device=("example-cpu:onnxruntime", "example-cpu:litert"), space="tiny", trials=20,
        out=tmp_path / "run",
    )  # fmt: skip
    columns = [own.column for own in search(options).front.objectives]
    assert columns == [
        "latency_example-cpu_onnxruntime_fp32_ms", "latency_example-cpu_litert_fp32_ms", "accuracy",
    ]  # fmt: skip


def test_ctrl_c_before_anything_is_compared_leaves_no_front(tmp_path):
    run = SearchRun.of(SearchOptions(device=(PHONE, ORIN), space="b"))
    search = ArchiveSearch.of(run, run.first(run.starting_points()))
    with open_run(SEARCH, tmp_path / "run", "run") as folder:
        reached = search.run(folder, 50_000, Stop(0))
        nothing = replace(reached.progress, archives=search.evolution.empty())
        assert search.found(replace(reached, progress=nothing), run.official.values()).whole == ()
        assert len(search.found(reached).whole) > 0
