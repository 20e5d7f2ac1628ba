"""Exact fronts beside all networks of slices of spaces, one after the other."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nas.exact.incumbent import Incumbent, undominated
from nas.exact.pairs import Limits
from nas.exact.problem import ExactProblem
from nas.exact.prove import gap_percent, prove
from nas.objectives.predicted import as_written
from predictors.accuracy import load_prior
from predictors.batch import Batch
from predictors.components import SpaceComponents
from predictors.latency import choose_predictor
from results.errors import TableError
from supernet.cost import BYTES
from supernet.spaces import get_space

SEGMENTATION = {"task": "segmentation"}
OFFICIAL = (*(f"stage{n}.kernel_size=3" for n in range(1, 5)), "stage3.scales=5", "stage4.scales=5")
CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {  # name, settings, data set, device
    "family": ("family", {}, "imagenet", "orin"),
    "phone": ("b", {}, "imagenet", "snapdragon8gen1"),
    "own heads": ("family", {"nearest_head": False}, "imagenet", "a100"),
    "peaks": ("b", {"freeze": OFFICIAL}, "imagenet", "example-cpu"),
    "cityscapes": ("family", SEGMENTATION, "cityscapes", "orin"),
    "ade20k": ("b", SEGMENTATION | {"dataset": "ade20k"}, "ade20k", "a100"),
    "five stages": ("l", {"task": "promptable"}, "sa1b", "orin"),
    "mixers": ("all", {}, "imagenet", "jetson-nano"),
}
MOST = 10**7  # of states: never reached in slices
LIMITED = ("free", "distance", "latency", "params", "macs", "memory", "std")


def slice_of(space, rng, size):
    """Keep up to three choices of each dimension, so that parts have at most `size` networks."""
    parts = []
    for part in space.parts:
        cut = {
            name: tuple(choices[i] for i in sorted(rng.permutation(len(choices))[:3]))
            for name, choices in part.dimensions.items()
        }
        for name in rng.permutation(list(cut)):
            if math.prod(map(len, cut.values())) > size:
                cut[name] = cut[name][: rng.integers(1, 3)]
        for name in rng.permutation(list(cut)):
            if math.prod(map(len, cut.values())) > size:
                cut[name] = cut[name][-1:]
        parts.append(replace(part, dimensions=cut))
    return replace(space, parts=tuple(parts), spec=None)


def all_genes(space):
    """Return genes of every network, those of equal ones too."""
    found = []
    for number, part in enumerate(space.parts):
        names = [name for name in space.genes if name in part.dimensions]
        sizes = [len(part.dimensions[name]) for name in names]
        chosen = dict(zip(names, np.indices(sizes).reshape(len(sizes), -1), strict=True))
        genes = np.zeros((np.prod(sizes), len(space.genes)), dtype=int)
        for column, (name, count) in enumerate(space.genes.items()):
            if name == "family":
                genes[:, column] = number
            elif name in chosen:
                genes[:, column] = -(-chosen[name] * count // len(part.dimensions[name]))
        found.append(genes)
    return np.concatenate(found)


def drawn(case, seed, size=1500):
    """Return a problem without limits, and the genes of all its networks."""
    name, settings, dataset, device = CASES[case]
    space = slice_of(get_space(name, **settings), np.random.default_rng(seed), size)
    _, latency = choose_predictor(device, None, dataset)
    problem = ExactProblem(space, SpaceComponents(space), latency, load_prior(dataset))
    return problem, all_genes(space)


def limited(problem, genes, limit, share=0.4):
    """Return the problem with a limit that about a share of the networks keep to."""
    batch = Batch(problem.space, genes, problem.components)
    ms, judged = problem.latency.judge(batch)[0], problem.prior.judge(batch)
    table = problem.latency.table
    memory = (batch.peak * table.batch + batch.params) * BYTES[table.precision] / 1e6

    def within(values):
        return float(np.quantile(values, share, method="lower"))

    return replace(
        problem,
        limits={
            "free": Limits(),
            "distance": Limits(distance=within(judged.distance) * (1 + 1e-9)),
            "latency": Limits(latency_ms=as_written(within(ms))),
            "params": Limits(params_m=within(batch.params) / 1e6),
            "macs": Limits(macs_g=within(batch.all_macs) / 1e9),
            "memory": Limits(memory_mb=within(memory)),
            "std": Limits(accuracy_std=as_written(within(judged.std))),
        }[limit],
    )


def best_of_all(problem, genes):
    """Return the front of all networks, by going through them."""
    front = Incumbent(genes.shape[1])
    front.add(*problem.kept(genes))
    return front.distinct()


def check_exact(problem, genes, given):
    best, proof = best_of_all(problem, genes), prove(problem, given, most_states=MOST)
    assert proof.kind == "exact"
    assert proof.ms == pytest.approx(best.ms, rel=1e-9)
    assert proof.accuracy == pytest.approx(best.accuracy, rel=1e-9)
    ms, accuracy, kept = problem.evaluate(proof.genes)
    assert kept.all()
    assert ms == pytest.approx(proof.ms, rel=1e-12)
    assert accuracy == pytest.approx(proof.accuracy, rel=1e-12)
    return proof


@pytest.mark.parametrize("case", CASES)
def test_the_exact_front_is_that_of_all_networks(case):
    problem, genes = drawn(case, 0)
    for limit in ("free", "distance"):
        check_exact(limited(problem, genes, limit), genes, genes[:3])


@pytest.mark.parametrize("limit", LIMITED[2:])
def test_limits_are_kept_to(limit):
    problem, genes = drawn("peaks" if limit == "memory" else "family", 1)
    check_exact(limited(problem, genes, limit), genes, genes[:0])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(2, 6))
def test_larger_slices(case, seed):
    problem, genes = drawn(case, seed, 40_000)
    for limit in LIMITED:
        check_exact(limited(problem, genes, limit), genes, genes[seed::997])


def test_tiny_as_users_see_it():
    """Rounded as written: of all networks, and of the exact front."""
    space = get_space("tiny")
    _, latency = choose_predictor("snapdragon8gen1", None, "imagenet")
    problem = ExactProblem(space, SpaceComponents(space), latency, load_prior("imagenet"))
    genes = all_genes(space)

    def written(ms, accuracy):
        ms, accuracy = (np.array(list(map(as_written, values))) for values in (ms, accuracy))
        front = undominated(ms, accuracy)
        return list(zip(ms[front], accuracy[front], strict=True))

    proof = check_exact(problem, genes, genes[:10])
    assert written(*problem.evaluate(genes)[:2]) == written(proof.ms, proof.accuracy)


@pytest.mark.parametrize("case", ["family", "peaks"])
def test_a_bound_is_never_below_the_truth(case):
    problem, genes = drawn(case, 3)
    given = genes[np.random.default_rng(3).integers(len(genes), size=20)]
    for limit in ("free", "distance"):
        own = limited(problem, genes, limit, 0.7)
        best, known = best_of_all(own, genes), best_of_all(own, given)
        gaps = []
        for most_states in (0, 100, 1000, 4000, MOST):
            proof = prove(own, given, most_states=most_states)
            true = gap_percent(
                (known.ms, known.accuracy), (best.ms, best.accuracy), proof.reference
            )
            assert proof.gap_percent >= true - 1e-9
            gaps.append((proof.kind, proof.gap_percent))
        assert (gaps[0][0], gaps[-1][0]) == ("bound", "exact")
        assert gaps[-1][1] == pytest.approx(true)


def test_what_is_missing_is_named():
    problem, genes = drawn("family", 4)
    proof = prove(problem, genes[:0], most_states=MOST)
    left_out = [0, 5, len(proof.ms) - 1]
    again = prove(problem, np.delete(proof.genes, left_out, axis=0), most_states=MOST)
    assert again.missing.tolist() == left_out
    assert again.gap_percent > 0
    whole = prove(problem, proof.genes, most_states=MOST)
    assert (whole.missing.tolist(), whole.gap_percent) == ([], 0.0)


def test_nothing_keeps_to_impossible_limits():
    problem, genes = drawn("family", 4)
    own = replace(problem, limits=Limits(params_m=0.001, distance=2.0))
    proof = prove(own, genes[:5], most_states=MOST)
    assert (proof.kind, proof.gap_percent, len(proof.ms)) == ("exact", 0.0, 0)


def test_the_same_problem_has_the_same_proof():
    problem, genes = drawn("family", 5)
    proofs = [prove(problem, genes[:5], most_states=3000) for _ in range(2)]
    assert proofs[0].states == proofs[1].states
    assert proofs[0].gap_percent == proofs[1].gap_percent
    assert np.array_equal(proofs[0].genes, proofs[1].genes)


def test_nothing_is_proven_of_stages_of_too_many_choices():
    space = get_space("all")
    _, latency = choose_predictor("orin", None, "imagenet")
    cut = slice_of(space, np.random.default_rng(0), 100)
    wide = replace(space, parts=cut.parts)
    problem = ExactProblem(wide, SpaceComponents(wide), latency, load_prior("imagenet"))
    part = problem.components.parts[0]
    part.part.dimensions["stage3.depth"] = tuple(range(2**21))
    proof = prove(problem, np.zeros((0, len(space.genes)), dtype=int), most_states=10)
    assert proof.kind == "none"
    assert "choices of one stage" in proof.why_none


def test_a_network_without_a_latency_is_refused():
    space = get_space("all", freeze=("family=b", "stage3.mixer=rwkv", "resolution=128", *OFFICIAL))
    cut = slice_of(space, np.random.default_rng(0), 20)
    _, latency = choose_predictor("example-cpu", None, "imagenet")
    problem = ExactProblem(cut, SpaceComponents(cut), latency, load_prior("imagenet"))
    with pytest.raises(TableError, match="no latency for"):
        prove(problem, np.zeros((0, len(cut.genes)), dtype=int), most_states=MOST)
