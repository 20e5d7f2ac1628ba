"""The archive search beside brute force, and what a front is made of."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.engine.archive import CHILDREN, Archive, Evolution, Judged, non_dominated
from nas.engine.archive_file import read_progress, write_progress
from nas.engine.archive_search import ArchiveSearch, Reached
from nas.engine.numbers import Evaluator
from nas.engine.proving import prove_archives
from nas.engine.reach import MOST, choose, ms_at
from nas.engine.run import search as search_from_python
from nas.engine.search_run import SearchRun
from nas.front import read_front, step_of, thinned
from nas.objectives.objective import DEFAULT
from nas.objectives.predicted import Predicted
from nas.objectives.sources import NoAccuracy
from nas.options import FAR, NEAR, SearchOptions
from nas.search import SearchCommand
from results.errors import ArchError, RunError, SearchError
from supernet.resolve import resolve_arch
from tests.pareto import best

POINTS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=40)
SLICE = (  # 41,472 networks
    *("resolution=160,224", "stem.width=16", "stem.depth=1", "stage1.width=32", "stage1.depth=2"),
    *("stage1.expand_ratio=4", "stage1.kernel_size=3", "stage2.width=48,64", "stage2.depth=2,3"),
    *("stage2.expand_ratio=4", "stage2.kernel_size=3,5", "stage3.width=96,128,192"),
    *("stage3.kernel_size=3,5", "stage4.expand_ratio=4,6", "stage4.kernel_size=3"),
    *("stage4.width=192,256,384", "stage4.depth=3,4,6"),
)


@given(POINTS)
def test_non_dominated_points_are_those_that_none_beats(points):
    found = [points[i] for i in non_dominated(np.array(points, dtype=float))]
    assert found == best(points)


@given(POINTS, POINTS)
def test_an_archive_keeps_what_none_of_all_beats(first, second):
    archive = Archive.empty(1)
    for points in (first, second):
        archive = archive.add(np.arange(len(points))[:, None], np.array(points, dtype=float))
    assert list(map(tuple, archive.costs.tolist())) == best([*first, *second])


def convex(genes):
    """Return objectives that trade off over the sum of genes, and a penalty for uneven ones."""
    total = genes.sum(axis=1)
    uneven = np.abs(np.diff(genes, axis=1)).sum(axis=1)
    costs = np.stack([1.0 + total + 0.3 * uneven, -np.sqrt(total)], axis=1)
    return (Judged(costs, np.ones(len(genes), np.bool_)),)


def test_a_search_goes_on_as_if_it_had_not_ended(tmp_path):
    evolution = Evolution((30,) * 8, convex, (2,), np.zeros((1, 8), np.intp), seed=3)
    whole = evolution.run(12 * CHILDREN)
    half = evolution.run(5 * CHILDREN)
    write_progress(tmp_path / "archive.json", half)
    again = evolution.run(12 * CHILDREN, read_progress(tmp_path / "archive.json", evolution))
    assert again.evaluations == whole.evaluations <= 12 * CHILDREN
    for a, b in zip(whole.archives, again.archives, strict=True):
        assert np.array_equal(a.genes, b.genes)
        assert np.array_equal(a.expanded, b.expanded)
    other = replace(evolution, seed=4).run(2 * CHILDREN)
    assert not np.array_equal(
        other.archives[0].genes, evolution.run(2 * CHILDREN).archives[0].genes
    )


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"archives":[],"generation":1,"evaluations":1,"is_complete":false}',
        '{"archives":[{"genes":[[99,0]],"expanded":[true]}],"generation":1,"evaluations":1,'
        '"is_complete":false}',
        '{"archives":[{"genes":[[1,0],[0,0]],"expanded":[true,true]}],"generation":1,'
        '"evaluations":1,"is_complete":false}',
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, text):
    (tmp_path / "archive.json").write_text(text)
    evolution = Evolution((3, 3), convex, (2,), np.zeros((1, 2), np.intp), seed=0)
    with pytest.raises(RunError, match=r"archive\.json.*; remove it"):
        read_progress(tmp_path / "archive.json", evolution)


@pytest.mark.parametrize(
    ("asked", "evaluations"),
    [({"space": "tiny"}, 10_000), ({"space": "b", "freeze": SLICE}, 30_000)],
)
def test_the_front_is_that_of_brute_force(asked, evaluations):
    options = SearchOptions(device=("orin",), reach=FAR, **asked)
    run = SearchRun.of(options)
    starts = list(run.official.values())
    search = ArchiveSearch(run.evaluator, DEFAULT, (), FAR, starts, 0)
    reached = search.evolution.run(evaluations)
    counts = tuple(run.space.genes.values())
    assert reached.is_complete == (np.prod(counts) <= evaluations)
    genes = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), axis=1)
    (judged,) = search.evolution.judge(genes)
    exact = judged.costs[non_dominated(judged.costs)].tolist()
    found = search.found(Reached(reached, interrupted=False))
    written = [(c.latency_ms, -c.accuracy) for c in found.whole]
    assert written == best((float(f"{ms:.6g}"), float(f"{cost:.6g}")) for ms, cost in exact)
    alone = Predicted(run.latencies, run.accuracy)
    for candidate in found.whole[:: max(1, len(found.whole) // 10)]:
        assert candidate == alone(candidate.arch)


@pytest.mark.parametrize("reach", [NEAR, FAR])
def test_a_proven_front_is_that_of_brute_force_however_short_the_search(tmp_path, reach):
    options = SearchOptions(
        device=("orin",), space="b", freeze=SLICE, reach=reach, prove="always",
        evaluations=9000, trials=30, out=tmp_path / "run",
    )  # fmt: skip
    result = search_from_python(options)
    assert result.outcome.proof is not None
    assert result.outcome.proof.kind == "exact"
    run = SearchRun.of(options)
    counts = tuple(run.space.genes.values())
    genes = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), axis=1)
    numbers = run.evaluator.numbers(genes)
    ms, accuracy = (
        np.array([float(f"{value:.6g}") for value in values])
        for values in (numbers.latency_ms, numbers.accuracy)
    )
    costs = np.stack([ms, -accuracy], axis=1)
    rows = choose(costs, ~numbers.accuracy_extrapolated, reach).rows
    lines = (tmp_path / "run" / "front_all.csv").read_text().splitlines()[1:]
    found = {tuple(float(field) for field in line.split(",")[1:4:2]) for line in lines}
    assert found == {(ms[row], accuracy[row]) for row in rows}


def test_accuracies_of_evaluated_subnets_have_no_proof():
    run = SearchRun.of(SearchOptions(device=("orin",), space="b", freeze=SLICE))
    evaluator = Evaluator(run.space, run.latencies, NoAccuracy())
    search = ArchiveSearch(evaluator, DEFAULT, (), FAR, (), 0)
    proven, missed = prove_archives(search, search.evolution.run(9000), 10**6)
    assert (proven.kind, proven.gap_percent, missed) == ("none", None, [])
    assert "published" in proven.describe()


@given(POINTS, st.data())
def test_keeping_near_costs_no_more_than_said(points, data):
    ms, accuracy = np.array(points, dtype=float).T
    costs = np.stack([ms, -accuracy], axis=1)
    near = np.array(data.draw(st.lists(st.booleans(), min_size=len(ms), max_size=len(ms))))
    rows = choose(costs, near, NEAR).rows
    whole = non_dominated(costs)
    assert np.array_equal(choose(costs, near, FAR).rows, whole)
    needed = ms_at(accuracy[whole], ms[rows], accuracy[rows])
    assert np.all(needed <= (1 + MOST) * ms[whole])
    inside = near.any()
    for row in rows:  # one beyond the reach is there only where all within it are much slower
        if inside and not near[row] and len(rows) < len(whole):
            alike = near & (accuracy >= accuracy[row])
            assert not np.any(ms[alike] <= (1 + MOST) * ms[row])


@given(st.lists(st.floats(50, 90), min_size=1, max_size=60), st.floats(0, 2))
def test_a_thinned_front_spans_the_whole_and_steps_are_wide(values, std):
    accuracy = sorted(set(values))
    kept = thinned(accuracy, [std] * len(accuracy))
    assert kept[0] == 0
    assert kept[-1] == len(accuracy) - 1
    steps = np.diff([accuracy[i] for i in kept])
    assert np.all(steps[1:] >= step_of(std)) or len(kept) == 2
    for number in set(range(len(accuracy))) - set(kept):
        before = max(i for i in kept if i < number)
        assert accuracy[number] < accuracy[before] + step_of(std) or before == kept[-2]


def search_in(folder, *flags, hash_seed="0"):
    command = [sys.executable, "-m", "nas.search", "--device", "orin", "--space", "tiny"]
    ended = subprocess.run(
        [*command, "--quiet", "--out", str(folder), "--trials", "20", *flags],
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return (folder / "front_all.csv").read_bytes()


def test_another_process_with_another_hash_seed_finds_the_same(tmp_path):
    first = search_in(tmp_path / "a", hash_seed="1")
    assert search_in(tmp_path / "b", hash_seed="2") == first


def test_ids_of_networks_that_were_thinned_out_are_found(tmp_path):
    SearchCommand(device=("orin",), space="tiny", trials=20, out=tmp_path / "run", quiet=True).run()
    front = read_front(tmp_path / "run")
    lines = (tmp_path / "run" / "front_all.csv").read_text().splitlines()[1:]
    thinned_out = set(range(len(lines))) - set(front.by_id)
    assert thinned_out
    for number in [*sorted(thinned_out)[:2], *sorted(front.by_id)[-2:]]:
        arch = resolve_arch(f"{tmp_path / 'run'}#{number}")
        assert lines[number].split(",")[0] == str(number)
        assert arch.to_json().replace('"', '""') in lines[number]
    with pytest.raises(ArchError, match=f"no candidate '{len(lines)}'"):
        resolve_arch(f"{tmp_path / 'run'}#{len(lines)}")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"evaluations": 0}, "--evaluations must be"),
        ({"evaluations": 5, "sampler": "tpe"}, "--sampler tpe counts --trials"),
        ({"reach": "nar"}, "did you mean 'near'"),
        ({"prove": "alway"}, "did you mean 'always'"),
        ({"prove": "always", "sampler": "tpe"}, "leave out --sampler tpe, or --prove"),
        ({"prove": "always", "evaluate": "supernet"}, "not --evaluate supernet; leave it out"),
        ({"sampler": "archiv"}, "did you mean 'archive'"),
        ({"sampler": "archive", "evaluate": "supernet"}, "take --sampler nsga2"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, told):
    with pytest.raises(SearchError, match=told):
        SearchRun.of(SearchOptions(device=("orin",), **asked))
