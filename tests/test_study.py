"""The search loop with plain functions as objectives: fronts, constraints, resuming."""

import json
import os
import re
from dataclasses import replace
from itertools import islice, product

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas.engine.archive_sampler import ArchiveSampler
from nas.engine.run import search as search_here
from nas.engine.samplers import POPULATION
from nas.engine.study import Problem, Search
from nas.front import Candidate
from nas.objectives.budgets import Budget, feasible
from nas.objectives.objective import LATENCY, QUANTITIES, Objective
from nas.options import SearchOptions
from results.errors import RunError
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.spaces import get_space
from tests.pareto import pareto_front

TINY = get_space("tiny", nearest_head=False)


def evaluate(arch):
    """Latency by MACs and accuracy by parameters: a real trade-off without any table."""
    cost = network_cost(blocks_of(arch))
    macs = cost.macs / 1e6
    return Candidate(arch, macs, 0.1 * macs, cost.params / 1e5, 0.5, 1.0, 1.0, 1.0)


class Counting:
    def __init__(self, stop_after=None):
        self.archs = []
        self.stop_after = stop_after

    def __call__(self, arch):
        if self.stop_after == len(self.archs):
            raise KeyboardInterrupt
        self.archs.append(arch)
        return evaluate(arch)


def a_search(folder, evaluate=evaluate, limits=(), sampler="nsga2", seed=3, first=()):
    return Search(
        Problem(TINY, evaluate, limits),
        sampler=sampler,
        seed=seed,
        first=first,
        journal=folder / "study.log",
    )


def front_of(search, limits=()):
    found = [c for c in search.candidates.values() if feasible(c, limits)]
    return [(c.latency_ms, c.accuracy, c.arch) for c in pareto_front(found)]


TRUE_FRONT = pareto_front(evaluate(arch) for arch in TINY.enumerate())


def test_nsga2_comes_near_the_true_front_and_beats_random(tmp_path):
    shares = {}
    for sampler in ("nsga2", "random"):
        (tmp_path / sampler).mkdir()
        search = a_search(tmp_path / sampler, sampler=sampler)
        search.run(1000, lambda _: None)
        shares[sampler] = hypervolume(front_of(search)) / hypervolume(
            [(c.latency_ms, c.accuracy) for c in TRUE_FRONT]
        )
    assert 0.97 < shares["nsga2"] <= 1 + 1e-9
    assert shares["nsga2"] > shares["random"]


def hypervolume(front):
    """Area dominated up to the slowest true latency and down to the lowest true accuracy."""
    slowest, least = TRUE_FRONT[-1].latency_ms, TRUE_FRONT[0].accuracy
    area = 0.0
    for (ms, accuracy, *_), following in zip(
        front, [*[row[0] for row in front[1:]], slowest], strict=True
    ):
        area += max(0.0, min(following, slowest) - ms) * (accuracy - least)
    return area


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "random"])
def test_same_seed_same_trials(tmp_path, sampler):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        search = a_search(tmp_path / name, sampler=sampler)
        search.run(130, lambda _: None)
        runs.append(list(search.candidates))
    assert runs[0] == runs[1]
    (tmp_path / "c").mkdir()
    other = a_search(tmp_path / "c", sampler=sampler, seed=4)
    other.run(130, lambda _: None)
    assert list(other.candidates) != runs[0]


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_resumed_at_a_population_equals_uninterrupted(tmp_path, sampler):
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = a_search(tmp_path / "whole", sampler=sampler)
    whole.run(450, lambda _: None)
    a_search(tmp_path / "halves", sampler=sampler).run(2 * POPULATION, lambda _: None)
    second = a_search(tmp_path / "halves", sampler=sampler)
    assert second.num_trials == 2 * POPULATION
    second.run(450, lambda _: None)
    assert list(second.candidates.items()) == list(whole.candidates.items())


def test_no_arch_is_evaluated_twice_even_across_a_resume(tmp_path):
    first = Counting(stop_after=170)
    search = a_search(tmp_path, first)
    with pytest.raises(KeyboardInterrupt):
        search.run(400, lambda _: None)
    second = Counting()
    resumed = a_search(tmp_path, second)
    resumed.run(400, lambda _: None)
    evaluated = first.archs + second.archs
    assert len(evaluated) == len(set(evaluated)) == len(resumed.candidates)


def journaled(folder):
    return (folder / "study.log").read_text().count('"state"')


def test_ctrl_c_keeps_every_finished_trial(tmp_path):
    search = a_search(tmp_path, Counting(stop_after=37))
    with pytest.raises(KeyboardInterrupt):
        search.run(400, lambda _: None)
    assert journaled(tmp_path) == search.num_trials >= 37
    assert a_search(tmp_path).candidates == search.candidates


@pytest.mark.parametrize(
    ("sampler", "stop_after"),
    [*product(("nsga2", "random"), (1, 60, 130, 163)), ("nsga3", 130), ("tpe", 20)],
)
def test_interrupted_anywhere_it_ends_as_if_it_had_not_been(tmp_path, sampler, stop_after):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    trials = 250 if sampler != "tpe" else 120
    whole = a_search(tmp_path / "whole", sampler=sampler)
    whole.run(trials, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        a_search(tmp_path / "cut", Counting(stop_after), sampler=sampler).run(
            trials, lambda _: None
        )
    resumed = a_search(tmp_path / "cut", sampler=sampler)
    resumed.run(trials, lambda _: None)
    assert list(resumed.candidates.items()) == list(whole.candidates.items())
    assert journaled(tmp_path / "cut") == journaled(tmp_path / "whole") == trials


def test_populations_are_drawn_from_seeds_of_their_own(tmp_path):
    """With one seed for all of them, random populations would be the same one again."""
    search = a_search(tmp_path, sampler="random")
    search.run(300, lambda _: None)
    assert len(search.candidates) > 250


def test_a_torn_last_line_is_dropped(tmp_path):
    a_search(tmp_path).run(150, lambda _: None)
    journal = tmp_path / "study.log"
    whole = journal.read_bytes()
    for cut in (1, 40, 700):
        journal.write_bytes(whole[:-cut])
        resumed = a_search(tmp_path)
        assert journal.read_bytes() == whole[:-cut]  # reading alone changes nothing
        resumed.run(200, lambda _: None)
        assert journaled(tmp_path) == 200
        assert a_search(tmp_path).num_trials == 200


def test_a_journal_of_something_else_is_refused(tmp_path):
    (tmp_path / "study.log").write_text('{"op_code": "none"}\n')
    with pytest.raises(RunError):
        a_search(tmp_path)


def test_a_journal_of_another_space_is_refused(tmp_path):
    a_search(tmp_path).run(20, lambda _: None)
    with pytest.raises(RunError, match="another space or version"):
        Search(
            Problem(get_space("l"), evaluate, ()), sampler="nsga2", seed=0, first=(),
            journal=tmp_path / "study.log",
        )  # fmt: skip


def test_a_journal_with_damaged_numbers_is_refused(tmp_path):
    a_search(tmp_path).run(20, lambda _: None)
    journal = tmp_path / "study.log"
    journal.write_text(journal.read_text().replace('"params_m":1.0', '"params_m":"1"', 1))
    with pytest.raises(RunError, match=r"study.log, line 2: .*params_m.*nothing was changed"):
        a_search(tmp_path)


def test_a_journal_with_damaged_params_is_refused(tmp_path):
    a_search(tmp_path).run(20, lambda _: None)
    journal = tmp_path / "study.log"
    journal.write_text(re.sub(r'"params":\{[^}]*\}', '"params":1.5', journal.read_text(), count=1))
    with pytest.raises(RunError):
        a_search(tmp_path)


def test_first_archs_are_tried_first_and_breed(tmp_path):
    first = list(islice(TINY.enumerate(), 0, 3000, 600))
    search = a_search(tmp_path, first=first)
    search.run(150, lambda _: None)
    assert list(search.candidates)[: len(first)] == first


def test_constraints_steer_the_search(tmp_path):
    limit = Budget("--max-latency-ms", 9.0, Objective(LATENCY))
    search = a_search(tmp_path, limits=(limit,))
    search.run(600, lambda _: None)
    late = list(search.candidates.values())[-100:]
    share = sum(feasible(c, (limit,)) for c in late) / len(late)
    all_feasible = sum(feasible(evaluate(a), (limit,)) for a in TINY.enumerate()) / TINY.size
    assert share > 1.5 * all_feasible
    assert all(ms <= 9.0 for ms, _, _ in front_of(search, (limit,)))


def test_the_journal_is_readable_json_lines(tmp_path):
    a_search(tmp_path).run(10, lambda _: None)
    lines = (tmp_path / "study.log").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) >= 10


def test_excess_is_relative_and_feasible_at_the_limit():
    limit = Budget("--max-params-m", 4.0, Objective(QUANTITIES["params"]))
    candidate = evaluate(next(TINY.enumerate()))
    assert limit.excess(replace(candidate, params_m=6.0)) == 0.5
    assert feasible(replace(candidate, params_m=4.0), (limit,))


def read_by_optuna(path):
    return optuna.load_study(study_name="search", storage=JournalStorage(JournalFileBackend(path)))


def rewritten_by_optuna(path):
    """The same trials as Optuna's own storage writes them, and older versions of searches did."""
    own = path.with_name("optuna.log")
    storage = JournalStorage(JournalFileBackend(str(own)))
    study = optuna.create_study(
        storage=storage, study_name="search", directions=["minimize", "maximize"]
    )
    study.add_trials(read_by_optuna(str(path)).trials)
    return own.read_bytes()


@pytest.fixture(scope="module", params=["ours", "Optuna's"])
def journal(request, tmp_path_factory):
    """The bytes of a study.log of 120 trials, and what the search found."""
    folder = tmp_path_factory.mktemp("search")
    search = a_search(folder, sampler="random")
    search.run(120, lambda _: None)
    path = folder / "study.log"
    data = path.read_bytes() if request.param == "ours" else rewritten_by_optuna(path)
    return data, search.candidates


@pytest.mark.parametrize("sampler", ["archive", "nsga2"])
def test_optuna_reads_what_was_tried(tmp_path, sampler):
    limit = Budget("--max-latency-ms", 9.0, Objective(LATENCY))
    search = a_search(tmp_path, sampler=sampler, limits=(limit,))
    search.run(110, lambda _: None)
    study = read_by_optuna(str(tmp_path / "study.log"))
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    choices = {name: count for name, count in TINY.genes.items() if count > 1}
    assert len(study.trials) == 110
    for trial in study.trials:
        assert {n: (d.low, d.high, d.step, d.log) for n, d in trial.distributions.items()} == {
            name: (0, count - 1, 1, False) for name, count in choices.items()
        }
        arch = TINY.decode([trial.params.get(name, 0) for name in TINY.genes])
        candidate = search.candidates[arch]
        assert trial.values == [candidate.latency_ms, candidate.accuracy]
        assert trial.constraints == {limit.flag: limit.excess(candidate)}
        assert trial.user_attrs["candidate"]["params_m"] == candidate.params_m
        assert trial.datetime_start <= trial.datetime_complete
    assert len(rewritten_by_optuna(tmp_path / "study.log")) > 1.25 * os.path.getsize(
        tmp_path / "study.log"
    )


def test_the_archive_is_tried_in_its_order_then_anything(tmp_path):
    known = list(islice(TINY.enumerate(), 0, 3000, 25))
    first, proposals = known[:3], known[::-1]

    def begun():
        return Search(
            Problem(TINY, evaluate, ()), sampler="archive", seed=3, first=first,
            journal=tmp_path / "study.log", proposals=proposals,
        )  # fmt: skip

    search = begun()
    search.run(60, lambda _: None)
    search = begun()
    search.run(150, lambda _: None)
    wanted = [*first, *[arch for arch in proposals if arch not in first]]
    assert list(search.candidates)[: len(wanted)] == wanted
    assert search.num_trials == journaled(tmp_path) == 150
    assert 20 < len(search.candidates) - len(wanted) <= 150 - len(wanted)


def again(folder, data):
    (folder / "study.log").write_bytes(data)
    return a_search(folder, sampler="random")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data + b"\n \t\n\r\n",
        lambda data: data.replace(b"\n", b"\n\n", 3),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data + b"\0" * 4096,
        lambda data: data + b'{"op_code":4,"worker_id":"\xc3',
        lambda data: data + data.split(b"\n")[0] + b"\n",  # as older versions resumed
    ],
)
def test_a_journal_goes_on_as_editors_and_crashes_leave_it(tmp_path, journal, change):
    data, candidates = journal
    changed = change(data)
    search = again(tmp_path, changed)
    assert search.candidates == candidates
    assert (tmp_path / "study.log").read_bytes() == changed
    search.run(140, lambda _: None)
    whole = (tmp_path / "study.log").read_bytes()
    assert whole.startswith(changed[: len(data)])
    assert b"\0" not in whole
    search = a_search(tmp_path, sampler="random")
    assert search.num_trials + search._num_journaled % POPULATION == 140
    assert journaled(tmp_path) == 140


def replaced(old, new, count=1):
    def change(data):
        assert old in data
        return data.replace(old, new, count)

    return change


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + DEEP + b"\n",
        lambda data: DEEP,
        lambda data: data + b'{"op_code":' + DEEP + b"\n",
        lambda data: data + b"my own notes, without an end of line",
        lambda data: data + b"x\n",
        lambda data: b"\n".join(data.split(b"\n")[1:]),
        lambda data: data.replace(b"\n", b"\n" + data[:40] + b"\n", 1),
        lambda data: data + data.split(b"\n")[0].replace(b'"search"', b'"other"') + b"\n",
        replaced(b'"study_id":0', b'"study_id":1'),
        replaced(b'"op_code":4', b'"op_code":1'),
        replaced(b'"op_code":4', b'"op_code":' + b"9" * 5000),
        replaced(b'"state":1', b'"state":7'),
        replaced(b'"state":1', b'"state":null'),
        replaced(b'"values":[', b'"values":[1e999,'),
        replaced(b'"accuracy_std":0.5', b'"accuracy_std":1' + b"0" * 400),
        replaced(b'"accuracy_std":0.5', b'"accuracy_std":NaN'),
        replaced(b'"accuracy_std":0.5', b'"accuracy_std":[]'),
        replaced(b'"datetime_start":"2', b'"datetime_start":"x'),
        replaced(b"IntDistribution", b"FloatDistribution"),
        replaced(b'"{\\"name\\"', b'"' + DEEP),
        replaced(b'\\"high\\":', b'\\"high\\":-'),
        replaced(b'\\"high\\":', b'\\"high\\":1e19,\\"unknown\\":'),
        replaced(b'\\"attributes\\":', b'\\"attributes\\":{},\\"unknown\\":'),
        lambda data: re.sub(rb'step\\": ?1|(?=low)', rb'step\\":0,\\"', data, count=1),
        lambda data: re.sub(rb'"distributions":\{', rb'"distributions":{},"unknown":{', data),
        lambda data: re.sub(rb'("params":\{"[^"]*":[0-9]+)(\.0)?', rb"\1.5", data, count=1),
        replaced(b'"system_attrs":{', b'"system_attrs":{"NSGAIISampler:generation":"x",'),
        replaced(b'"params":{', b'"params":{"stage1.width":-1e300,'),
    ],
)
def test_a_damaged_journal_is_one_line_and_stays_as_it_is(tmp_path, journal, change):
    data = change(journal[0])
    with pytest.raises(RunError) as caught:
        again(tmp_path, data)
    said = str(caught.value)
    assert "study.log" in said
    assert len(said) <= 1200
    assert said.isprintable()
    assert (tmp_path / "study.log").read_bytes() == data


def test_after_damage_the_lines_before_it_are_enough(tmp_path, journal):
    lines = journal[0].splitlines(keepends=True)
    with pytest.raises(RunError, match=r"study\.log, line 51: .*this line and all after it"):
        again(tmp_path, b"".join([*lines[:50], b"?\n", *lines[50:]]))
    assert len(again(tmp_path, b"".join(lines[:50])).candidates) > 40


def test_a_disk_that_is_full_leaves_whole_lines_and_is_named(tmp_path, journal, monkeypatch):
    search = again(tmp_path, journal[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match=r"cannot write .*study\.log: No space left"):
            search.run(140, lambda _: None)
    assert (tmp_path / "study.log").read_bytes() == journal[0]
    a_search(tmp_path, sampler="random").run(140, lambda _: None)
    assert journaled(tmp_path) == 140


def test_the_sampler_of_ones_own_studies_proposes_what_a_search_tries(tmp_path):
    """Optuna asks, tells and keeps its own storage; proposals are those of `nas.search`."""
    options = SearchOptions(
        device=("orin",), space="b", trials=120, evaluations=20_000, max_latency_ms=("3",)
    )
    search_here(replace(options, out=tmp_path / "run"))
    tried = read_by_optuna(str(tmp_path / "run" / "study.log")).trials
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "own.log")))
    study = optuna.create_study(
        study_name="own", storage=storage, directions=["minimize", "maximize"]
    )
    found = []
    for sampler in (ArchiveSampler(options), ArchiveSampler(options)):  # the second goes on
        study.sampler = sampler
        for _ in range(55):
            trial = study.ask(sampler.search_space)
            found.append(sampler.arch_of(trial))
            study.tell(trial, (1.0, 2.0))
    assert [trial.params for trial in study.trials] == [trial.params for trial in tried[:110]]
    assert len(set(found)) == len(found)
    assert all(arch in get_space("b") for arch in found)
