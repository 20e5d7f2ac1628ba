"""`supernet.evaluate` of subnets and `supernet.extract`, by hand and beside each other."""

import csv
import errno
import importlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import supernet.evaluation.recalibrated
from results.errors import ArchError, RunError, SpaceError, WeightsError
from supernet.arch import Arch
from supernet.evaluate import Evaluate
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.recalibrated import Subnets
from supernet.evaluation.rows import SETTINGS, EvaluationLog
from supernet.evaluation.run import evaluate
from supernet.evaluation.subnets import SubnetEvaluator
from supernet.extract import Extract
from supernet.model import build_task_model
from supernet.official import named_arch
from supernet.resolve import arch_in_space, read_archs
from supernet.sharing.checkpoint import open_supernet, save_checkpoint
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.options import TaskOptions
from supernet.training.options import TrainingOptions
from supernet.training.run import train
from supernet.weights.files import load_weights
from supernet.weights.header import read_header
from supernet.weights.tensors import read_tensors, sha256_of
from tests.sheets import VARIANTS

ROOT = Path(__file__).parents[1]
SPACE = get_space("tiny", num_classes=12, freeze=["resolution=64"])
FEW = ("--limit", "24", "--recalibration-images", "24", "--batch-size", "12", "--workers", "0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A supernet whose subnets differ in accuracy: its classifier is fitted a little."""
    torch.manual_seed(0)
    supernet = Supernet(SPACE).train()
    x = torch.randn(24, 3, 64, 64)
    labels = torch.arange(24) % 12
    optimizer = torch.optim.Adam(supernet.parameters(), 1e-3)
    for _ in range(2):
        for arch in (*supernet.largest, *smallest_of(SPACE)):
            torch.nn.functional.cross_entropy(supernet(x, arch), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("supernet") / "s.safetensors"
    save_checkpoint(path, supernet, metadata={"seed": "5"})
    return path


@pytest.fixture
def answer(capsys):
    def answer(*arguments, command=Evaluate, module="supernet.evaluate"):
        from results.console import main

        main(command, module, [*map(str, arguments), "--json"])
        return json.loads(capsys.readouterr().out)

    return answer


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_archs(path, archs):
    path.write_text("".join(arch.to_json() + "\n" for arch in archs))
    return path


def by_hand(weights, arch):
    """Top-1 in percent of the extracted network, recalibrated, picture by picture."""
    task: Any = training_task(TaskOptions("classification", num_classes=12, seed=5))
    model = open_supernet(weights).extract(arch)
    recalibrate(model, task.recalibration_batches(arch, 24, 12, seed=0))
    held: Any = task.held_out(arch)[0]
    right = 0
    for number in range(24):
        place = number + number * (5**0.5 - 1) / 2 % 1  # see `evenly`
        x, label = held[int(place * len(held) / 24)]
        with torch.no_grad():
            right += int(model(x[None]).argmax() == label)
    return 100 * right / 24


def test_figures_are_those_of_a_loop_by_hand(weights, answer):
    found = answer("--weights", weights, *FEW)
    top1 = {r["arch"]["stages"][3]["width"]: r for r in found["rows"] if r["metric"] == "top1"}
    archs = [*largest_of(SPACE), *smallest_of(SPACE)]
    assert [Arch.from_dict(row["arch"]) for row in top1.values()] == archs
    for row, arch in zip(top1.values(), archs, strict=True):
        assert row["value"] == pytest.approx(by_hand(weights, arch))
        assert row["weights_sha256"] == sha256_of(weights)
        assert (row["n"], row["seed"], row["task"]) == (24, 0, "classification")
        assert (row["dataset"], row["resolution"]) == ("shapes", "64")
        assert row["stderr"] > 0
    assert {row["metric"] for row in found["rows"]} == {"top1", "top5"}


def write_csv(path, archs):
    """As nas.sample and a search's front.csv: networks among other columns."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "latency_ms", "arch", "accuracy_provenance"])
        writer.writerows([n, 1.5, arch.to_json(), "published"] for n, arch in enumerate(archs))
    return path


def test_all_rows_of_a_csv_are_evaluated_and_none_twice(weights, answer, tmp_path):
    archs = list(dict.fromkeys(SPACE.sample(random.Random(n)) for n in range(3)))
    out = tmp_path / "rows.jsonl"
    first = answer(
        "--weights",
        weights,
        *FEW,
        "--out",
        out,
        "--archs",
        write_csv(tmp_path / "1.csv", archs[:1]),
    )["rows"]
    before = out.read_bytes()
    every = write_csv(tmp_path / "all.csv", archs)
    rows = answer("--weights", weights, *FEW, "--out", out, "--archs", every)["rows"]
    assert rows[: len(first)] == first
    assert out.read_bytes().startswith(before)
    assert [Arch.from_dict(row["arch"]) for row in rows if row["metric"] == "top1"] == archs
    whole = out.read_bytes()
    assert answer("--weights", weights, *FEW, "--out", out, "--archs", every)["rows"] == rows
    assert out.read_bytes() == whole


def test_an_extracted_network_scores_what_its_subnet_did(weights, answer, tmp_path):
    archs = write_archs(tmp_path / "archs.jsonl", [SPACE.sample(random.Random(3))])
    subnet = answer("--weights", weights, "--arch", archs, *FEW)["rows"]
    out = tmp_path / "x.safetensors"
    options = ("--weights", weights, "--arch", archs, "--out", out, *FEW[2:6])
    told = answer(*options, command=Extract, module="supernet.extract")
    assert told["weights_sha256"] == sha256_of(out)
    assert read_tensors(out)[1]["supernet_sha256"] == sha256_of(weights)
    alone = answer("--weights", out, *FEW[:2], *FEW[4:])
    assert alone["provenance"] == "supernet"
    for row in subnet:
        assert alone["metrics"][row["metric"]] == row["value"]
    arch: Any = read_header(out).arch
    model = build_task_model(arch)
    load_weights(model, out)
    evaluator = SubnetEvaluator(
        EvaluationOptions(weights=weights, recalibration_images=24, batch_size=12)
    )
    expected = evaluator.subnets.network(arch)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), expected(x))


def test_what_a_file_has_is_not_evaluated_again(weights, answer, tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    first = answer("--weights", weights, *FEW, "--sample", 3, "--out", out)
    rows = lines(out)
    assert rows == first["rows"]
    with out.open("a") as file:
        file.write('{"arch": {"family"')  # a process was killed here
    seen = []
    evaluate = SubnetEvaluator.rows

    def noted(self, arch):
        seen.append(arch)
        return evaluate(self, arch)

    monkeypatch.setattr(SubnetEvaluator, "rows", noted)
    again = answer("--weights", weights, *FEW, "--sample", 4, "--out", out)
    assert len(seen) == 1
    assert again["rows"][:6] == rows
    assert lines(out) == again["rows"]
    other = answer("--weights", weights, *FEW, "--sample", 1, "--out", out, "--seed", 9)
    assert len(seen) == 2  # other settings are other figures
    assert lines(out) == again["rows"] + other["rows"]


@pytest.mark.parametrize("storage", [[], ["--storage", "work.log"]])
def test_a_subnet_that_is_not_finite_holds_up_no_other(
    weights, answer, fails, tmp_path, monkeypatch, storage
):
    """In one subnet of three a weight is infinite."""
    monkeypatch.chdir(tmp_path)
    chosen = list(dict.fromkeys(SPACE.sample(random.Random(n)) for n in range(3)))
    archs = write_archs(tmp_path / "archs.jsonl", chosen)
    network = Subnets.network

    def broken(self, arch):
        model = network(self, arch)
        if arch == chosen[0]:
            with torch.no_grad():
                next(model.parameters()).fill_(float("inf"))
        return model

    monkeypatch.setattr(Subnets, "network", broken)
    options = ["--weights", weights, *FEW, "--arch", archs, "--out", "rows.jsonl", *storage]
    error = fails(Evaluate, "supernet.evaluate", *options)
    assert f"no figures of 1 subnets, all others are done: {chosen[0].describe()}, 64 px" in error
    assert "output is not finite" in error
    assert {Arch.from_dict(row["arch"]) for row in lines(Path("rows.jsonl"))} == set(chosen[1:])


@pytest.fixture
def at_others(weights, tmp_path):
    """The supernet as a training at 32 and 32x64 pixels leaves it."""
    path = tmp_path / "others.safetensors"
    save_checkpoint(path, open_supernet(weights), metadata={"resolutions": "32x64,32"})
    return path


def test_subnets_are_drawn_from_the_resolutions_of_the_training(at_others, answer, fails):
    sampled = answer("--weights", at_others, *FEW, "--sample", 4, "--seed", 1)["rows"]
    assert {row["resolution"] for row in sampled} == {"32", "32x64"}
    ends = answer("--weights", at_others, *FEW)["rows"]
    assert [row["resolution"] for row in ends if row["metric"] == "top1"] == ["32x64", "32"]
    options = ("--weights", at_others, *FEW, "--resolution")
    assert {row["resolution"] for row in answer(*options, "32")["rows"]} == {"32"}
    error = fails(Evaluate, "supernet.evaluate", *options, "64")
    assert "the weights were trained at 32, 32x64 px, not at 64; give --resolution 32x64" in error


def test_a_space_at_other_resolutions_comes_back(at_others, tmp_path):
    supernet = open_supernet(at_others)
    assert supernet.space.resolutions == [(32, 32), (32, 64)]
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, supernet)
    assert open_supernet(again).space == supernet.space
    save_checkpoint(again, supernet, metadata={"resolutions": "large"})
    with pytest.raises(WeightsError, match=r"again.safetensors is damaged: its resolutions: "):
        open_supernet(again)


def test_a_single_network_is_evaluated_at_the_largest_of_its_training(weights, answer, tmp_path):
    path = tmp_path / "n.safetensors"
    network = open_supernet(weights).extract(largest_of(SPACE)[0])
    save_checkpoint(path, network, metadata={"resolutions": "32,32x64"})
    options = ("--weights", path, "--limit", "12", "--workers", "0")
    assert answer(*options)["resolution"] == "32x64"
    assert answer(*options, "--resolution", "32")["resolution"] == "32"


def test_a_larger_batch_leaves_statistics_as_they_are(weights):
    def batch(size):
        evaluator = SubnetEvaluator(
            EvaluationOptions(weights=weights, recalibration_images=200, batch_size=size)
        )
        assert evaluator.sources["recalibration_batch"] == min(size or 64, 64)
        return evaluator.subnets.recalibration.even_batch

    assert batch(None) == batch(64) == batch(256) == 50
    assert batch(20) == 20  # which rows tell apart


def test_recalibration_pictures_and_their_number_matter_and_weights_stay(weights, tmp_path):
    arch = largest_of(SPACE)[0]
    before = sha256_of(weights)

    def statistics(**options):
        evaluator = SubnetEvaluator(EvaluationOptions(weights=weights, **options))
        return evaluator.subnets.network(arch).state_dict()["stem.0.conv.norm.running_mean"]

    plain = statistics(recalibration_images=24)
    assert torch.equal(plain, statistics(recalibration_images=24))
    assert not torch.equal(plain, statistics(recalibration_images=30))
    assert not torch.equal(plain, statistics(recalibration_images=24, seed=1))
    assert sha256_of(weights) == before


def test_many_pictures_are_read_anew_for_every_subnet(weights, monkeypatch):
    archs = [*largest_of(SPACE), *smallest_of(SPACE)]

    def statistics():
        evaluator = SubnetEvaluator(EvaluationOptions(weights=weights, recalibration_images=8))
        found = [evaluator.subnets.network(arch).state_dict() for arch in archs]
        return [s["stem.0.conv.norm.running_mean"] for s in found], len(evaluator.subnets._kept)

    kept, number = statistics()
    assert number == 1
    monkeypatch.setattr(supernet.evaluation.recalibrated, "MOST_PIXELS", 8 * 64 * 64 - 1)
    again, number = statistics()
    assert number == 0
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_processes_share_archs_through_a_storage(weights, tmp_path):
    chosen = [SPACE.sample(random.Random(n)) for n in range(5)]
    archs = write_archs(tmp_path / "archs.jsonl", chosen)
    outs = [tmp_path / f"{n}.jsonl" for n in range(2)]
    command = [sys.executable, "-m", "supernet.evaluate", "--weights", weights, *FEW]
    command += ["--arch", archs, "--storage", tmp_path / "work.log", "--quiet", "--out"]
    workers = [subprocess.Popen([*map(str, command), str(out)], cwd=ROOT) for out in outs]
    assert [worker.wait(120) for worker in workers] == [0, 0]

    def key(row):
        return json.dumps(row, sort_keys=True)

    found = [sorted(lines(out), key=key) for out in outs]
    assert found[0] == found[1]
    assert len(found[0]) == 2 * len(set(chosen))


@pytest.fixture
def folder(tmp_path):
    rng = random.Random(0)
    for split in ("train", "val"):
        for label in range(12):
            path = tmp_path / "pictures" / split / f"{label:02}" / "0.png"
            path.parent.mkdir(parents=True)
            colour = tuple(rng.randrange(256) for _ in range(3))
            Image.new("RGB", (80, 70), colour).save(path)
    return tmp_path / "pictures"


def test_pictures_of_a_folder(weights, answer, folder, fails):
    found = answer("--weights", weights, "--data", folder, *FEW[2:])
    assert (found["dataset"], found["n"]) == ("pictures", 12)
    (folder / "val" / "03" / "0.png").write_bytes(b"no picture")
    error = fails(Evaluate, "supernet.evaluate", "--weights", weights, "--data", folder, *FEW[2:])
    assert "cannot read picture" in error
    for split in ("train", "val"):
        (folder / split / "12").mkdir()
        (folder / split / "12" / "0.png").write_bytes(
            (folder / split / "01" / "0.png").read_bytes()
        )
    error = fails(Evaluate, "supernet.evaluate", "--weights", weights, "--data", folder, *FEW[2:])
    assert "13 classes" in error
    assert "12" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "b1"], ["is not in space tiny (choose from"]),
        (["--arch", "l1"], ["no arch of family l"]),
        (["--arch", "b9"], ["no arch or file 'b9'"]),
        (["--arch", "none.csv"], ["cannot read none.csv"]),
        (["--archs", "none.csv"], ["cannot read none.csv"]),
        (["--archs", "list.csv"], ["list.csv, line 3: ", "is not in space tiny"]),
        (["--archs", "run"], ["is no .csv or .jsonl of archs; give run/front.csv"]),
        (["--archs", "list.csv", "--sample", "3"], ["--archs and --sample", "leave one out"]),
        (["--archs", "list.csv", "--arch", "b0"], ["--arch and --archs", "leave one out"]),
        (["--task", "segmentation"], ["does classification; leave --task segmentation out"]),
        (["--num-classes", "5"], ["has 12 classes; leave --num-classes out"]),
        (["--dataset", "imagenet"], ["knows its data set; leave --dataset out"]),
        (["--data", "nowhere"], ["no folder nowhere"]),
        (["--sample", "0"], ["--sample must be 1 or more, not 0"]),
        (["--recalibration-images", "0"], ["--recalibration-images must be 1"]),
        (["--storage", "nosuch://x"], ["--storage nosuch://x cannot be used"]),
        (["--resolution", "big"], ["resolution 'big'"]),
        (["--resolution", "31"], ["height and width must be from 32"]),
    ],
)
def test_what_is_wrong_is_named(weights, fails, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("list.csv"), [*smallest_of(SPACE), named_arch("b1")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "front.csv").touch()
    flags = ("--weights", weights, "--out", "rows.jsonl", *arguments)
    error = fails(Evaluate, "supernet.evaluate", *flags)
    for word in words:
        assert word in error
    assert not Path("rows.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no supernet", "--weights"]),
        (["--weights", "none"], ["no file none", "supernet.train"]),
        (["+"], ["name the arch to extract by --arch"]),
        (["+", "--arch", "b0"], ["name the file to write by --out"]),
        (["+", "--arch", "b0", "--out", "x.pt"], ["x.pt must end in .safetensors"]),
        (["+", "--arch", "b0", "--out", "SAME"], ["is the supernet itself"]),
        (["+", "--arch", "two.jsonl", "--out", "x.safetensors"], ["names 2 archs", "RUN#ID"]),
        (["+", "--arch", "b1", "--out", "x.safetensors"], ["is not in space tiny"]),
        (["+", "--arch", "b0", "--batch-size", "0", "--out", "x.safetensors"], ["--batch-size"]),
    ],
)
def test_what_extract_cannot_do_is_named(weights, fails, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_archs(Path("two.jsonl"), [SPACE.sample(random.Random(n)) for n in range(2)])
    named = {"SAME": [weights], "+": ["--weights", weights]}
    arguments = [value for a in arguments for value in named.get(a, [a])]
    error = fails(Extract, "supernet.extract", *arguments)
    for word in words:
        assert word in error


def test_flags_of_subnets_do_not_go_with_a_single_network(weights, fails, tmp_path):
    path = tmp_path / "n.safetensors"
    save_checkpoint(path, open_supernet(weights).extract(largest_of(SPACE)[0]))
    for flag, value in (
        *(("--archs", "x.csv"), ("--sample", 2)),
        *(("--storage", "x"), ("--study", "x")),
    ):
        error = fails(Evaluate, "supernet.evaluate", "--weights", path, flag, value)
        assert f"is a single network, and no supernet; leave {flag} out" in error


class TestReadArchs:
    def test_lines_csv_and_objects_that_hold_archs(self, tmp_path):
        archs = [SPACE.sample(random.Random(n)) for n in range(3)]
        write_archs(tmp_path / "a.jsonl", archs)
        rows = [json.dumps({"arch": arch.to_dict(), "metric": "top1"}) for arch in archs]
        (tmp_path / "b.jsonl").write_text("\n\n".join(rows))
        with (tmp_path / "c.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "arch", "latency_ms"])
            writer.writerows([n, arch.to_json(), 1.0] for n, arch in enumerate(archs))
        for name in ("a.jsonl", "b.jsonl", "c.csv"):
            assert read_archs(str(tmp_path / name), SPACE) == archs

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_csv_is_read_however_it_was_written(self, tmp_path, variant):
        archs = [SPACE.sample(random.Random(n)) for n in range(3)]
        rows: list[list[Any]] = [
            ["id", "arch"],
            *([n, arch.to_json()] for n, arch in enumerate(archs)),
        ]
        (tmp_path / "a.csv").write_bytes(VARIANTS[variant](rows))
        said: list[str] = []
        assert read_archs(str(tmp_path / "a.csv"), SPACE, tell=said.append) == archs
        assert len(said) == (variant == "two title rows")

    def test_networks_of_a_csv_may_have_names(self, tmp_path):
        (tmp_path / "a.csv").write_text("arch\nb1\nefficientvit_b1.r288_in1k\n")
        space = get_space("b")
        assert read_archs(str(tmp_path / "a.csv"), space) == [
            arch_in_space(space, named_arch("b1", resolution=(side, side))) for side in (224, 288)
        ]

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.csv", "id\n1\n", "has no column arch"),
            ("a.csv", "arch\n", "names no arch"),
            ("a.csv", "id,arch\n1\n", "line 2"),
            ("a.csv", "arch\nefficientvit_m0\n", "line 2: .*Microsoft"),
            ("a.csv", "arch\n" + "x" * 200_000 + "\n", "field larger"),
            ("a.jsonl", "\n\n", "names no arch"),
            ("a.jsonl", "[" * 100_000, "line 1"),
            ("a.jsonl", "{}\n", "line 1: not an architecture"),
            ("a.jsonl", '{"arch": 5}\n', "line 1: damaged"),
            ("a.jsonl", "9" * 5000, "line 1"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_a_bad_list_is_one_short_line(self, tmp_path, name, text, says):
        (tmp_path / name).write_text(text)
        with pytest.raises(ArchError, match=says) as caught:
            read_archs(str(tmp_path / name), SPACE)
        assert len(str(caught.value)) < 500

    def test_a_run_is_all_its_candidates(self, tmp_path):
        archs = [SPACE.sample(random.Random(n)) for n in range(3)]
        front = {"candidates": [{"arch": arch.to_dict()} for arch in archs]}
        (tmp_path / "front.json").write_text(json.dumps(front))
        assert read_archs(str(tmp_path), SPACE) == archs
        assert read_archs(f"{tmp_path}#1", SPACE) == [archs[1]]

    def test_other_heads_become_the_spaces_own(self):
        space = get_space("b", num_classes=12)
        (arch,) = read_archs("b1", space)
        assert arch == replace(named_arch("b1", num_classes=12), resolution=(224, 224))
        (arch,) = read_archs("b1", get_space("b", num_classes=12, freeze=["resolution=128,160"]))
        assert arch.resolution == (160, 160)
        odd = replace(arch, resolution=(100, 130), head=None)
        assert arch_in_space(space, odd) == replace(arch, resolution=(100, 130))

    def test_what_is_wrong_is_named(self, tmp_path):
        path = tmp_path / "a.jsonl"
        for text, error in (("{}", "line 1"), ("[1]", "line 1"), ("", "names no arch"), ("{", "1")):
            path.write_text(text)
            with pytest.raises(ArchError, match=error):
                read_archs(str(path), SPACE)
        path.write_text(
            SPACE.sample(random.Random(0)).to_json() + "\n" + named_arch("b3").to_json()
        )
        with pytest.raises(SpaceError, match=r"line 2: .*stem.width=32 is not in space tiny"):
            read_archs(str(path), SPACE)
        path = tmp_path / "a.csv"
        path.write_text("id,architecture\n1,2\n")
        with pytest.raises(ArchError, match="has no column arch"):
            read_archs(str(path), SPACE)


TEXTS = ("weights_sha256", "task", "dataset", "precision", "class_order")


class TestRows:
    settings = dict.fromkeys(SETTINGS, 1) | dict.fromkeys(TEXTS, "x")

    def row(self, number, **more):
        arch = json.loads(SPACE.sample(random.Random(number)).to_json())
        return {"arch": arch, "metric": "top1", "value": 1.0, **self.settings, **more}

    def test_two_that_append_in_turn_see_each_others(self, tmp_path):
        path = tmp_path / "new" / "rows.jsonl"
        a, b = EvaluationLog(path, self.settings), EvaluationLog(path, self.settings)
        a.append([self.row(0), self.row(0, metric="top5")])
        b.append([self.row(0), self.row(1)])
        a.append([self.row(1), self.row(2)])
        assert lines(path) == [self.row(0), self.row(0, metric="top5"), self.row(1), self.row(2)]
        assert len(a.by_arch) == len(EvaluationLog(path, self.settings).by_arch) == 3

    def test_rows_of_other_settings_stay_and_do_not_count(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        EvaluationLog(path, self.settings).append([self.row(0)])
        other = EvaluationLog(path, self.settings | {"seed": 2})
        assert not other.by_arch
        other.append([self.row(0, seed=2)])
        assert len(lines(path)) == 2

    def test_a_line_that_is_cut_off_goes_and_a_damaged_one_is_named(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        rows = EvaluationLog(path, self.settings)
        rows.append([self.row(0)])
        with path.open("a") as file:
            file.write('{"arch"')
        rows.append([self.row(1)])
        assert lines(path) == [self.row(0), self.row(1)]
        path.write_text(path.read_text() + "{}\n")
        with pytest.raises(RunError, match=r"rows.jsonl, line 3, is no evaluated network"):
            EvaluationLog(path, self.settings)
        with pytest.raises(RunError, match="cannot open"):
            EvaluationLog(path / "below", self.settings).append([self.row(0)])

    def test_an_arch_without_some_of_its_figures_is_evaluated_again(self, tmp_path):
        """Killed between two lines of one write."""
        path = tmp_path / "rows.jsonl"
        both = [self.row(0, figures=2), self.row(0, figures=2, metric="top5")]
        EvaluationLog(path, self.settings).append(both)
        path.write_text(path.read_text().splitlines(keepends=True)[0])
        rows = EvaluationLog(path, self.settings)
        assert not rows.by_arch
        rows.append(both)
        again = EvaluationLog(path, self.settings)
        assert list(again.by_arch.values()) == list(rows.by_arch.values()) == [both]

    def test_a_full_disk_is_named(self, tmp_path, monkeypatch):
        def full(number):
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "rows.jsonl"
        EvaluationLog(path, self.settings).append([self.row(0)])
        before = path.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"cannot write .*rows.jsonl: No space left on device"):
            EvaluationLog(path, self.settings).append([self.row(1)])
        assert path.read_bytes() == before

    def test_a_disk_that_is_full_in_the_middle_of_a_row_leaves_no_part_of_it(
        self, tmp_path, monkeypatch
    ):
        path = tmp_path / "rows.jsonl"
        EvaluationLog(path, self.settings).append([self.row(0)])
        before = path.read_bytes()
        both = [self.row(1, figures=2), self.row(1, figures=2, metric="top5")]
        first = len(json.dumps(both[0])) + 1
        for room in ([first, 10], [first + 5, 0], [3, 0]):  # the first row whole, or not

            def pwrite(handle, data, at, room=room, write=os.pwrite):
                if not room or not room[0]:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(handle, data[: room.pop(0)], at)

            monkeypatch.setattr(os, "pwrite", pwrite)
            rows = EvaluationLog(path, self.settings)
            with pytest.raises(RunError, match="No space left on device"):
                rows.append(both)
            monkeypatch.undo()
            assert path.read_bytes() == before
        rows.append(both)
        assert lines(path) == [self.row(0), *both]

    @pytest.mark.parametrize(
        "text",
        [
            "notes that somebody made",  # not one line end
            "my notes\nand more",
            '{"a": 1}\n{"arch": {"family": "b"',
            '{"arch": 3}',
            '{"arch": a house with a garden',
            "0",
            '{"arch": {}, "metric": "top1", "value": 1}\n',
            "[" * 100_000,
            "\0\0x",
        ],
    )
    def test_what_is_not_ours_is_never_cut_or_written_over(self, tmp_path, text):
        path = tmp_path / "notes.txt"
        path.write_text(text)
        with pytest.raises(RunError, match=r"notes\.txt"):
            EvaluationLog(path, self.settings)
        rows = EvaluationLog(tmp_path / "none", self.settings)
        rows.path = path  # written by somebody else since the file was read
        with pytest.raises(RunError, match=r"notes\.txt"):
            rows.append([self.row(0)])
        assert path.read_text() == text

    @pytest.mark.parametrize("torn", ["", "{", '{"arch"', '{"arch": {"family": "b", "resol'])
    def test_the_beginning_of_a_row_is_cut(self, tmp_path, torn):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n" + torn)
        EvaluationLog(path, self.settings).append([self.row(0)])
        assert path.read_text() == "\n" + json.dumps(self.row(0)) + "\n"

    def test_a_whole_last_row_without_a_line_end_is_kept(self, tmp_path):
        """As an editor leaves it; the reader of accuracies counts it too."""
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(self.row(0)))
        rows = EvaluationLog(path, self.settings)
        assert len(rows.by_arch) == 1
        rows.append([self.row(1), self.row(0)])
        assert lines(path) == [self.row(0), self.row(1)]
        assert len(EvaluationLog(path, self.settings).by_arch) == 2

    def test_zeros_that_a_crash_left_go(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        EvaluationLog(path, self.settings).append([self.row(0)])
        with path.open("ab") as file:
            file.write(b"\0" * 5000)
        EvaluationLog(path, self.settings).append([self.row(1)])
        assert lines(path) == [self.row(0), self.row(1)]

    @pytest.mark.parametrize(
        "change",
        [
            {"value": 10**400}, {"value": "1"}, {"value": None}, {"n": []}, {"figures": 0},
            {"figures": 1e400}, {"metric": 3}, {"arch": []}, {"arch": {"family": []}},
            {"weights_sha256": {}}, {"seed": -1}, {"stderr": "x"}, {"arch": None},
        ],
    )  # fmt: skip
    def test_rows_of_other_types_are_named_and_stay(self, tmp_path, change):
        path = tmp_path / "rows.jsonl"
        text = json.dumps(self.row(0)) + "\n" + json.dumps(self.row(1) | change) + "\n"
        path.write_text(text)
        with pytest.raises(RunError, match=r"rows.jsonl, line 2, is no evaluated .*another --out"):
            EvaluationLog(path, self.settings)
        assert path.read_text() == text

    def test_a_fifo_is_no_file_of_rows(self, tmp_path):
        os.mkfifo(tmp_path / "rows.jsonl")
        with pytest.raises(RunError, match="no regular file"):
            EvaluationLog(tmp_path / "rows.jsonl", self.settings)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were parsed, and of those that were hashed."""
    names: dict[str, list[str]] = {"parsed": [], "hashed": []}

    def counted(kind, function):
        def count(path, *args, **kwargs):
            names[kind].append(Path(path).name)
            return function(path, *args, **kwargs)

        return count

    for reader in ("files.read_tensors", "header.read_beginning"):
        module, _, name = f"supernet.weights.{reader}".rpartition(".")
        function = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(f"{module}.{name}", counted("parsed", function))
    for module in ("supernet.weights.fitting", "supernet.training.sources"):
        monkeypatch.setattr(f"{module}.sha256_of", counted("hashed", sha256_of))
    return names


def test_weights_are_read_once(weights, tmp_path, reads):
    network = tmp_path / "network.safetensors"
    save_checkpoint(network, open_supernet(weights).extract(largest_of(SPACE)[0]))
    for path in (network, weights):
        for run in (
            lambda options: Evaluate(**vars(options), quiet=True).run(),
            evaluate,
        ):
            for names in reads.values():
                names.clear()
            run(EvaluationOptions(weights=path, limit=4, workers=0, recalibration_images=8))
            assert reads == {"parsed": [path.name], "hashed": [path.name]}
    run = tmp_path / "run"
    for names in reads.values():
        names.clear()
    train(TrainingOptions(
        space="tiny", freeze=("resolution=64",), init=weights, teacher=network, out=run, steps=1,
        batch_size=4, num_train=4, workers=0, limit=4, recalibration_images=8,
    ))  # fmt: skip
    assert sorted(reads["parsed"]) == sorted([weights.name, network.name])
    assert sorted(reads["hashed"]) == sorted([weights.name, network.name])


def test_who_evaluates_is_told_of_subnets_as_they_come(weights):
    seen: list[Any] = []
    options = EvaluationOptions(weights=weights, limit=4, workers=0, recalibration_images=8)
    answer = evaluate(
        options,
        on_supernet=seen.append,
        on_subnet=lambda arch, rows: seen.append((arch.to_dict(), rows)),
    )
    first, *subnets = seen
    assert first == answer | {"rows": []}
    assert [row for _, rows in subnets for row in rows] == answer["rows"]
    assert all(row["arch"] == arch for arch, rows in subnets for row in rows)
