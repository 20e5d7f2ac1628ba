"""Which subnets a step trains: the same everywhere, largest first, within the space."""

import csv
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from results.errors import TableError
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.official import named_arch
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.spaces import get_space
from supernet.training.attentive import CONTENDERS, Costs, SubnetCost, read_costs
from supernet.training.sandwich import OneArch, SandwichRule
from supernet.training.shrinking import SHARE, open_space
from tests.conftest import ROOT
from tests.sheets import VARIANTS, WITH_DECIMAL_COMMAS

TINY = get_space("tiny")


def test_a_step_trains_largest_smallest_and_random_ones_at_one_size():
    rule = SandwichRule(TINY, 3, seed=0, num_steps=100)
    sizes: Counter[tuple[int, int]] = Counter()
    for step in range(50):
        lesson = rule.draw(step)
        size = lesson.resolution
        sizes[size] += 1
        assert {arch.resolution for arch in lesson.archs} == {size}
        assert lesson.archs[0] == replace(largest_of(TINY)[0], resolution=size)
        assert lesson.archs[1] == replace(smallest_of(TINY)[0], resolution=size)
        assert lesson.num_fixed == 2
        assert len(set(lesson.archs)) == len(lesson.archs) <= 5
        assert all(arch in TINY for arch in lesson.archs)
    assert set(sizes) == set(TINY.resolutions)
    assert len({arch for step in range(50) for arch in rule.draw(step).archs[2:]}) > 100


def test_draws_are_the_same_in_another_process():
    code = """
from supernet.training.sandwich import SandwichRule
from supernet.spaces import get_space
rule = SandwichRule(get_space("family"), 2, seed=7, num_steps=10)
print([arch.to_json() for step in (3, 9) for arch in rule.draw(step).archs])
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    rule = SandwichRule(get_space("family"), 2, seed=7, num_steps=10)
    expected = [arch.to_json() for step in (3, 9) for arch in rule.draw(step).archs]
    assert said == {f"{expected}\n"}
    other = replace(rule, seed=8)
    assert [a.to_json() for step in (3, 9) for a in other.draw(step).archs] != expected


def test_a_step_keeps_to_one_family():
    rule = SandwichRule(get_space("family"), 2, seed=0, num_steps=10)
    families = [{arch.family for arch in rule.draw(step).archs} for step in range(20)]
    assert all(len(found) == 1 for found in families)
    assert set.union(*families) == {"b", "l"}


def test_resolutions_of_the_user_replace_the_spaces():
    rule = SandwichRule(TINY, 1, seed=0, num_steps=10, resolutions=((32, 64),))
    assert rule.draw(4).resolution == (32, 64)
    arch = next(TINY.extremes())
    assert OneArch(arch, 0).draw(5).archs == (arch,)
    sizes = {OneArch(arch, 0, ((32, 32), (64, 64))).draw(s).resolution for s in range(20)}
    assert sizes == {(32, 32), (64, 64)}


def test_shrinking_opens_one_kind_of_dimension_after_the_other():
    space = get_space("b")
    (start,) = open_space(space, 0.0).parts
    (whole,) = space.parts
    assert {n: c for n, c in start.dimensions.items() if len(c) > 1} == {
        n: whole.dimensions[n] for n in ("resolution",)
    }
    assert largest_of(open_space(space, 0.0)) == largest_of(space)

    def share_open(field, done):
        (part,) = open_space(space, done).parts
        names = [n for n in part.dimensions if n.endswith(f".{field}")]
        return sum(len(part.dimensions[n]) - 1 for n in names) / sum(
            len(whole.dimensions[n]) - 1 for n in names
        )

    first_seen: dict[str, float] = {}
    for step in range(1001):
        for field in ("kernel_size", "scales", "depth", "expand_ratio", "width"):
            open_ = share_open(field, step / 1000)
            if open_ > 0:
                first_seen.setdefault(field, step / 1000)
            assert open_ >= share_open(field, max(step - 1, 0) / 1000)
    order = ["kernel_size", "scales", "depth", "expand_ratio", "width"]
    assert sorted(order, key=lambda field: first_seen[field]) == order
    assert first_seen["kernel_size"] == first_seen["scales"] > 0.05
    assert first_seen["width"] > first_seen["expand_ratio"] > first_seen["depth"]
    assert open_space(space, SHARE) == space
    kernels = open_space(space, first_seen["kernel_size"]).parts[0].dimensions["stage1.kernel_size"]
    assert kernels == (5, 7)  # the smallest comes last


def test_a_shrinking_rule_trains_what_is_open():
    rule = SandwichRule(TINY, 2, seed=0, num_steps=100, shrink=True)
    early = open_space(TINY, 0.05)
    for step in range(5):
        assert all(arch in early for arch in rule.draw(step).archs)
    assert rule.draw(99).archs[1] == replace(
        smallest_of(TINY)[0], resolution=rule.draw(99).resolution
    )


def rows_of(space, count, latency):
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(count)]
    return [(arch, latency(arch, rng)) for arch in archs]


def write_costs(path, rows, accuracy=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "latency_ms", *(["accuracy"] if accuracy else [])])
        for arch, latency_ms in rows:
            writer.writerow([arch.to_json(), latency_ms, *([accuracy(arch)] if accuracy else [])])
    return path


def macs(arch):
    return network_cost(blocks_of(arch)).macs


def test_attention_goes_to_subnets_that_compute_more_in_their_time(tmp_path):
    at_64 = TINY.freeze(["resolution=64"])
    rows = rows_of(at_64, 400, lambda arch, rng: macs(arch) * rng.uniform(0.5, 2.0))
    costs = read_costs(write_costs(tmp_path / "costs.csv", rows), TINY)
    rng = random.Random(1)
    (part,) = TINY.parts
    size = TINY.resolutions[0]
    latency = dict(rows)
    drawn = [arch for _ in range(600) if (arch := costs.draw(part, size, rng))]
    speeds = sorted(macs(arch) / latency[arch] for arch, _ in rows if arch.resolution == size)
    median = speeds[len(speeds) // 2]
    fast = sum(macs(arch) / latency[arch] > median for arch in drawn)
    assert fast > 0.7 * len(drawn)  # half of them if drawn at random
    assert {arch.resolution for arch in drawn} == {size}
    ordered = sorted(latency[arch] for arch in drawn)
    assert ordered[-1] / ordered[0] > 3  # every latency has its turn


def test_a_predicted_accuracy_goes_before_macs(tmp_path):
    rows = rows_of(TINY, 60, lambda arch, rng: 1.0)
    costs = read_costs(write_costs(tmp_path / "costs.csv", rows, lambda a: -macs(a)), TINY)
    (part,) = TINY.parts
    drawn = [costs.draw(part, (64, 64), random.Random(s)) for s in range(60)]
    all_macs = sorted(macs(a) for a, _ in rows if a.resolution == (64, 64))
    assert sorted(map(macs, drawn))[len(drawn) // 2] < all_macs[len(all_macs) // 4]


def test_a_promising_subnet_is_not_the_only_one():
    archs = list(dict.fromkeys(TINY.sample(random.Random(s)) for s in range(30)))
    costs = Costs(tuple(SubnetCost(a, 1.0, float(n)) for n, a in enumerate(archs)))
    drawn = {costs.draw(TINY.parts[0], (96, 96), random.Random(s)) for s in range(200)}
    assert len(drawn) > CONTENDERS / 2


def test_a_family_without_costs_is_drawn_uniformly():
    family = get_space("family")
    archs = [a for a in (family.sample(random.Random(s)) for s in range(20)) if a.family == "b"]
    rule = SandwichRule(
        family, 2, seed=0, num_steps=9, costs=Costs(tuple(SubnetCost(a, 1.0, 1.0) for a in archs))
    )
    random_ones = [arch for step in range(9) for arch in rule.draw(step).archs[2:]]
    assert {arch.family for arch in random_ones} == {"b", "l"}
    known = {replace(arch, resolution=(224, 224)) for arch in archs}
    of_b = {replace(a, resolution=(224, 224)) for a in random_ones if a.family == "b"}
    assert of_b <= known


def test_predictions_for_other_classes_are_taken(tmp_path):
    path = write_costs(tmp_path / "costs.csv", rows_of(TINY, 3, lambda arch, rng: 2.0))
    few = get_space("tiny", num_classes=12)
    assert all(row.arch in few for row in read_costs(path, few).rows)


def test_predictions_for_other_classes_of_pixels_are_taken(tmp_path):
    published = get_space("tiny", task="segmentation")
    path = write_costs(tmp_path / "costs.csv", rows_of(published, 3, lambda arch, rng: 2.0))
    few = get_space("tiny", task="segmentation", num_classes=8)
    assert all(row.arch in few for row in read_costs(path, few).rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_costs_are_read_however_they_were_written(tmp_path, variant):
    archs = [TINY.sample(random.Random(seed)) for seed in range(3)]
    rows = [["arch", "latency_ms", "accuracy"]]
    rows += [[arch.to_json(), f"{n}.25", "70.5"] for n, arch in enumerate(archs)]
    path = tmp_path / "costs.csv"
    path.write_bytes(VARIANTS[variant](rows))
    said: list[str] = []
    found = read_costs(path, TINY, tell=said.append)
    assert found.rows == tuple(SubnetCost(arch, n + 0.25, 70.5) for n, arch in enumerate(archs))
    assert ("decimal points" in " ".join(said)) == (variant in WITH_DECIMAL_COMMAS)


def test_costs_of_networks_by_name_are_read(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("arch,latency_ms\nefficientvit_b1.r256_in1k,3\n")
    (row,) = read_costs(path, get_space("b")).rows
    assert row.arch == named_arch("b1", resolution=(256, 256))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms\n1\n", "has no column arch; write it with python -m nas.sample --costs"),
        ("arch,latency_ms\n", "holds no subnets"),
        ('arch,latency_ms\n"{}",1\n', "line 2: not an architecture"),
        ("arch,latency_ms\nARCH,0\n", "line 2: latency_ms must be above 0"),
        ("arch,latency_ms\nARCH,fast\n", "line 2: latency_ms must be a number, not 'fast'"),
        ("arch,latency_ms\nARCH\n", "line 2: "),
        ("arch,latency_ms,accuracy\nARCH,1,nan\n", "line 2: accuracy must be a number"),
        ("arch,latency_ms\nOTHER,1\n", "line 2: "),
    ],
)
def test_a_damaged_file_of_costs_is_named(tmp_path, text, message):
    arch = next(TINY.extremes())
    other = next(get_space("b").extremes())
    for name, value in (("ARCH", arch), ("OTHER", other)):
        quoted = json.dumps(value.to_json())[1:-1].replace('\\"', '""')
        text = text.replace(name, f'"{quoted}"')
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        read_costs(path, TINY)
