"""`nas.verify`: what is measured beside what is predicted, verdicts, kills, and what it refuses."""

import csv
import fcntl
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas.engine.run
from lut.device import table_name
from lut.measuring.chunks import distinct
from lut.measuring.coverage import distinct_blocks
from lut.rows import Entry
from lut.runtimes.session import TIMER
from lut.sidecar import Sidecar
from lut.table import Table, load_table
from lut.targets.local import Local
from lut.terms import NetworkTerms
from nas.front import read_front
from nas.options import SearchOptions
from nas.verify import Verify
from nas.verifying.options import VerifyOptions
from nas.verifying.run import verify
from nas.verifying.verdict import Point, judge, least_within, non_dominated
from results.errors import TargetError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.conftest import ROOT
from tests.pareto import beats
from tests.synthetic import START_US, Machine, true_us

SPACE = get_space("tiny")
SIZES: Any = sorted(SPACE.parts[0].dimensions["resolution"])
OFFICIAL = [replace(named_arch("b0"), resolution=size) for size in SIZES]
PASSES = ("--passes", 5)


def whole_ms(arch):
    return (START_US + sum(true_us(block) for block in blocks_of(arch))) / 1e3


def write_table(
    data,
    *,
    factor=1.0,
    device="made-up",
    runtime="onnxruntime",
    target=None,
    networks=(),
    space=SPACE,
):
    """The truth of the synthetic machine, times a factor, as `lut.build` would have measured it."""
    blocks = distinct(
        [*distinct_blocks(space), *(block for arch in OFFICIAL for block in blocks_of(arch))]
    )
    entries = {b: Entry(factor * true_us(b) / 1e3, 1e-4 * true_us(b), 12) for b in blocks}
    error = {
        "mape_percent": 1.0, "worst_percent": 3.0, "kendall_tau": 0.99, "relative_std": 0.0125,
        "min_ms": 0.01, "max_ms": 100.0, "block_kinds": sorted({block.kind for block in blocks}),
        "judged_on": "24 random networks that the table was not made from",
    }  # fmt: skip
    measurement = {
        "target": {"kind": "local", **Local().facts()} if target is None else target,
        "environment": {"runtime": runtime, "version": "1"},
        "networks": [{"arch": arch.to_dict(), "measured_ms": ms} for arch, ms in networks],
    }
    flags = {"task": "classification", "space": "tiny"}
    told = {"note": "", "error": error, "space_flags": flags, "measurement": measurement}
    table = Table(
        device, "Made up", runtime, "fp32", 1, entries,
        NetworkTerms(fixed_ms=factor * START_US / 1e3), threads=1, sidecar=Sidecar.of(told),
    )  # fmt: skip
    path = data / "tables" / f"{table_name(device, runtime, 'fp32', 1)}.csv"
    table.save(path)
    return path


def search(folder, *devices):
    options = SearchOptions(
        device=devices or ("made-up",), space="tiny", freeze=(f"resolution={SIZES[0][0]}",),
        evaluations=3000, trials=20, out=folder,
    )  # fmt: skip
    nas.engine.run.search(options)


@pytest.fixture
def machine(monkeypatch):
    """Have whatever measures here do so on a synthetic machine."""

    def machine(made):
        monkeypatch.setattr("lut.measuring.campaign.run_session", made)
        monkeypatch.setattr("lut.measuring.campaign.time.sleep", lambda seconds: None)
        monkeypatch.setattr("nas.verifying.run.check_host", lambda host, setting: TIMER)
        return made

    return machine


def sheet(folder, name="verified"):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def arch_of(row):
    return Arch.from_json(row["arch"])


def test_measured_stands_beside_predicted(machine, run, data_folder, tmp_path):
    path = write_table(data_folder)
    machine(Machine())
    search(tmp_path / "front")
    done = run("nas.verify", "front", *PASSES)
    front = read_front(tmp_path / "front")
    rows = sheet(tmp_path / "front")
    own = [row for row in rows if row["kind"] == "front"]
    assert [int(row["id"]) for row in own] == list(front.by_id)
    assert [row["id"] for row in rows if row["kind"] == "official"] == list(front.baselines)
    costs = [(whole_ms(arch_of(row)), -float(row["accuracy"])) for row in rows]
    order = sorted(rows, key=lambda row: whole_ms(arch_of(row)))
    for row, cost in zip(rows, costs, strict=True):
        arch, truth = arch_of(row), whole_ms(arch_of(row))
        assert float(row["measured_ms"]) == pytest.approx(truth, rel=1e-5)
        assert float(row["predicted_ms"]) == pytest.approx(truth, rel=1e-5)
        assert float(row["predicted_std_ms"]) == pytest.approx(0.0125 * truth, rel=1e-4)
        assert float(row["p50_ms"]) == pytest.approx(truth, rel=1e-5)
        assert float(row["p90_ms"]) == pytest.approx(truth, rel=1e-5)
        assert float(row["error_percent"]) == pytest.approx(0, abs=1e-3)
        assert (row["status"], row["within_90"], row["format"]) == ("measured", "true", "onnx")
        assert order[int(row["rank"]) - 1] == row
        assert row["non_dominated"] == str(not any(beats(other, cost) for other in costs)).lower()
        weights_mb = 4 * network_cost(blocks_of(arch)).params / 1e6
        assert weights_mb < float(row["file_mb"]) < 1.02 * weights_mb + 0.1
        assert int(row["num_samples"]) % 10 == 0  # two copies, of references four
    for row in own:
        candidate = front.by_id[int(row["id"])]
        assert arch_of(row) == candidate.arch
        assert float(row["memory_mb"]) == pytest.approx(candidate.memory_mb, rel=1e-5)
        assert float(row["accuracy_std"]) == pytest.approx(candidate.accuracy_std, rel=1e-5)
    summary = json.loads((tmp_path / "front" / "verified.json").read_text())
    assert summary["holds"] is summary["error_holds"] is summary["order_holds"] is True
    assert summary["promise"]["kendall_tau"] == pytest.approx(1)
    assert summary["front"] == {
        "networks": len(own), "measured": len(own), "non_dominated": len(own)
    }  # fmt: skip
    assert summary["environment"]["version"] == "1"
    assert summary["latency"]["sha256"] == load_table(path).sha256
    assert summary["machine_state"]["load"] == [0.5, 0.5]
    assert summary["machine_state"]["troubles"] == []
    assert (tmp_path / "front" / "verified.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.endswith("the promise held\n")


def low_third(samples):
    return np.sort(samples)[: max(1, round(len(samples) / 3))].mean()


def test_numbers_are_those_of_the_journal(machine, data_folder, tmp_path, monkeypatch):
    """Noise, and a machine that is 8 % slower in its last session: by hand from the passes."""
    monkeypatch.setattr("nas.verifying.run.get_host", lambda target, python: Local())
    monkeypatch.setattr("lut.measuring.networks.MOST_BYTES", 5e8)
    networks = [(arch, 0.9 * whole_ms(arch)) for arch in OFFICIAL]
    write_table(data_folder, networks=networks)
    machine(Machine(noise=0.01, speed={2: 1.08}))
    search(tmp_path / "front")
    options = VerifyOptions(folder=tmp_path / "front", networks=14, passes=8)
    verified = verify(options)
    lines = [
        json.loads(text)
        for text in (tmp_path / "front" / "verify" / "journal.jsonl").read_text().splitlines()
    ]
    chunks = {line["chunk"]: line["content"] for line in lines if "role" in line}
    passes = {
        number: np.array([line["us"] for line in lines if "us" in line and line["chunk"] == number])
        for number in chunks
    }
    first, *others = [number for number, content in chunks.items()]
    assert chunks[first] == []
    assert len(others) >= 2
    count = len(OFFICIAL)
    official = {
        number: np.array(
            [
                np.mean([low_third(passes[number][:, i]), low_third(passes[number][:, i + count])])
                for i in range(count)
            ]
        )
        for number in others
    }
    usual = np.median(list(official.values()), axis=0)
    found = {}
    for number in others:
        logs = np.sort(np.log(official[number] / usual))
        inner = logs[len(logs) // 4 : len(logs) - len(logs) // 4]
        scale = math.exp(inner.mean())
        content = [json.dumps(arch) for arch in chunks[number]]
        half = len(content) // 2
        assert content[:half] == content[half:]
        for place in range(half):
            columns = [2 * count + place, 2 * count + half + place]
            if arch_of({"arch": content[place]}) in OFFICIAL:
                columns += [OFFICIAL.index(arch_of({"arch": content[place]})) + i * count
                            for i in (0, 1)]  # fmt: skip
            samples = [passes[number][:, column] / scale / 1e3 for column in columns]
            found[arch_of({"arch": content[place]})] = (
                np.mean([low_third(own) for own in samples]),
                np.mean([np.percentile(own, 50) for own in samples]),
                np.mean([np.percentile(own, 90) for own in samples]),
            )
    rows = sheet(tmp_path / "front")
    assert {arch_of(row) for row in rows} == set(found)
    for row in rows:
        told = [float(row[name]) for name in ("measured_ms", "p50_ms", "p90_ms")]
        assert told == pytest.approx(found[arch_of(row)], rel=1e-4)
        error = 100 * (float(row["predicted_ms"]) / told[0] - 1)
        assert float(row["error_percent"]) == pytest.approx(error, abs=2e-3)
    own = [row for row in rows if row["kind"] == "front"]
    errors = [abs(float(row["error_percent"])) for row in own]
    assert verified.promise.mean_percent == pytest.approx(np.mean(errors), abs=1e-3)
    assert verified.promise.within == sum(row["within_90"] == "true" for row in own)
    state = json.loads((tmp_path / "front" / "verified.json").read_text())["machine_state"]
    slower = 100 * (np.exp(np.log(usual / 1e3 / [ms for _, ms in networks]).mean()) - 1)
    assert state["slower_percent"] == pytest.approx(slower, rel=1e-6)
    assert any(
        "slower than when the table was measured" in text for text in verified.state.troubles
    )


def test_a_wrong_table_is_found_out_and_mended(machine, run, data_folder, tmp_path):
    write_table(data_folder, factor=1.5)
    made = machine(Machine(noise=0.002))
    search(tmp_path / "front")
    flags = ("front", "--networks", 10, *PASSES)
    done = run("nas.verify", *flags, code=3)
    assert "BROKEN" in done.stdout
    assert "the promise did NOT hold" in done.stdout
    command = "next: python -m nas.verify front --networks 10 --passes 5 --recalibrate NAME"
    assert command in done.stdout.splitlines()[-1]
    sessions = len(made.sessions)
    done = run("nas.verify", *flags, "--recalibrate", "mended", code=3)
    assert len(made.sessions) == sessions
    summary = json.loads((tmp_path / "front" / "verified.json").read_text())
    assert summary["error_holds"] is False
    assert summary["order_holds"] is True
    assert summary["promise"]["mean_percent"] == pytest.approx(50, abs=2)
    assert summary["recalibrated"]["left_out_mape_percent"] < 1
    assert f"{summary['recalibrated']['left_out_mape_percent']:.1f} % off" in done.stdout
    mended = load_table(data_folder / "tables" / "mended-onnxruntime-fp32.csv")
    for seed in range(5):
        arch = SPACE.sample(random.Random(seed))
        assert mended.network_ms(blocks_of(arch)) == pytest.approx(whole_ms(arch), rel=0.01)
    search(tmp_path / "second", "mended")
    said = run("nas.verify", "second", "--networks", 5, *PASSES, "--target", "local").stdout
    assert said.endswith("the promise held\n")


def test_an_order_that_is_not_kept_breaks_the_promise(machine, run, data_folder, tmp_path):
    class Reversed(Machine):
        def us(self, blocks, number):
            return 1e6 / super().us(blocks, number)

    write_table(data_folder)
    machine(Reversed())
    search(tmp_path / "front")
    done = run("nas.verify", "front", "--networks", 6, *PASSES, code=3)
    assert "order:   Kendall's τ -1.000; 0 of" in done.stdout
    rows = [row for row in sheet(tmp_path / "front") if row["kind"] == "front"]
    assert sum(row["non_dominated"] == "true" for row in rows) <= 1


def test_what_the_runtime_refuses_is_told(machine, run, data_folder, tmp_path):
    write_table(data_folder)
    archs = [SPACE.sample(random.Random(seed)) for seed in (1, 2)]
    refused = blocks_of(archs[0])
    machine(Machine(kills=lambda blocks: blocks == refused))
    for number, arch in enumerate(archs):
        (tmp_path / f"{number}.json").write_text(arch.to_json())
    flags = ("--arch", "0.json", "--arch", "1.json", "--device", "made-up", *PASSES)
    done = run("nas.verify", *flags, "--out", "named", code=3)
    assert "does not run: 0.json: it ends every session" in done.stdout
    rows = sheet(tmp_path / "named")
    assert [row["status"] for row in rows] == ["failed", "measured"]
    assert rows[0]["measured_ms"] == rows[0]["rank"] == ""
    assert rows[0]["reason"] == "it ends every session"
    assert float(rows[1]["measured_ms"]) == pytest.approx(whole_ms(archs[1]), rel=1e-5)
    record = json.loads((tmp_path / "named" / "run.json").read_text())
    assert record["command"] == "nas.verify"
    before = (tmp_path / "named" / "verified.csv").read_bytes()
    run("nas.verify", *flags, "--out", "named", "--quiet", code=3)  # read from the journal
    assert (tmp_path / "named" / "verified.csv").read_bytes() == before


def test_networks_of_weights_are_evaluated(machine, run, data_folder, tmp_path, fails):
    """Figures are what `supernet.evaluate` says of the same weights; others have none."""
    pytest.importorskip("torch")
    from supernet.evaluation.extraction import extract
    from supernet.evaluation.options import ExtractionOptions
    from supernet.sharing.checkpoint import save_checkpoint
    from supernet.sharing.supernet import Supernet

    space = get_space("tiny", num_classes=12)
    freeze = [f"resolution={SIZES[0][0]}", "stage1.kernel_size=3"]
    small = get_space("tiny", num_classes=12, freeze=freeze)
    write_table(data_folder, space=space)
    machine(Machine())
    save_checkpoint(tmp_path / "s.safetensors", Supernet(small), metadata={"seed": "5"})
    inside = small.sample(random.Random(0))
    outside = next(arch for arch in space.enumerate() if arch.stages[0].kernel_size == 5)
    for name, arch in (("a", inside), ("b", outside)):
        (tmp_path / f"{name}.json").write_text(arch.to_json())
    few = ("--limit", 24, "--workers", 0)
    weights = ("--weights", "s.safetensors", "--recalibration-images", 24, *few)
    named = ("--arch", "a.json", "--arch", "b.json", "--device", "made-up", *PASSES)
    run("nas.verify", *named, "--out", "subnets", *weights, "--quiet")
    told = run("supernet.evaluate", "--arch", "a.json", *weights, "--json")
    (figure, *_) = json.loads(told.stdout)["rows"]
    first, second = sheet(tmp_path / "subnets")
    assert first["metric"] == figure["metric"] == "top1"
    assert float(first["metric_value"]) == pytest.approx(figure["value"], rel=1e-5)
    assert first["metric_images"] == "24"
    assert second["metric"] == second["metric_value"] == second["metric_images"] == ""

    network = tmp_path / "n.safetensors"
    extract(
        ExtractionOptions(
            weights=tmp_path / "s.safetensors", arch=str(tmp_path / "a.json"), out=network,
            recalibration_images=24, workers=0,
        )
    )  # fmt: skip
    run("nas.verify", *named, "--out", "network", "--weights", "n.safetensors", *few, "--quiet")
    assert sheet(tmp_path / "network")[0]["metric_value"] == first["metric_value"]
    other = ("--arch", tmp_path / "b.json", "--device", "made-up", "--out", tmp_path / "none")
    said = fails(Verify, "nas.verify", *other, "--weights", network)
    assert "none of the networks to verify; leave it out" in said
    assert not (tmp_path / "none").exists()


def test_one_of_several_devices_has_files_of_its_own(machine, run, data_folder, tmp_path, fails):
    write_table(data_folder)
    write_table(data_folder, factor=2.0, device="other")
    machine(Machine())
    search(tmp_path / "front", "made-up", "other")
    said = fails(Verify, "nas.verify", tmp_path / "front")
    assert "is of made-up and other; say which by --device made-up" in said
    run("nas.verify", "front", "--device", "other", "--networks", 4, *PASSES, "--quiet", code=3)
    rows = sheet(tmp_path / "front", "verified-other")
    for row in rows:
        assert float(row["predicted_ms"]) == pytest.approx(2 * whole_ms(arch_of(row)), rel=1e-5)
        assert float(row["measured_ms"]) == pytest.approx(whole_ms(arch_of(row)), rel=1e-5)
    run("nas.verify", "front", "--device", "made-up", "--networks", 4, *PASSES, "--quiet")
    assert len(sheet(tmp_path / "front", "verified-made-up")) == len(rows)


def test_a_torn_journal_goes_on_to_the_same_numbers(machine, run, data_folder, tmp_path):
    write_table(data_folder)
    (tmp_path / "a.json").write_text(SPACE.sample(random.Random(3)).to_json())
    (tmp_path / "b.json").write_text(SPACE.sample(random.Random(4)).to_json())
    flags = ("--arch", "a.json", "--arch", "b.json", "--device", "made-up", *PASSES, "--quiet")
    made = machine(Machine())
    whole = tmp_path / "whole"
    run("nas.verify", *flags, "--out", "whole")
    sessions = len(made.sessions)
    run("nas.verify", *flags, "--out", "whole")
    assert len(made.sessions) == sessions  # all is known
    expected = (whole / "verified.csv").read_bytes()
    lines = (whole / "verify" / "journal.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 16
    for at in (0, 4, 11):
        torn = tmp_path / str(at)
        shutil.copytree(whole, torn)
        for name in ("verified.csv", "verified.json", "verified.png"):
            (torn / name).unlink()
        half = lines[at][: len(lines[at]) // 2]
        (torn / "verify" / "journal.jsonl").write_text("".join(lines[:at]) + half)
        run("nas.verify", *flags, "--out", at)
        assert (torn / "verified.csv").read_bytes() == expected
        passes = (torn / "verify" / "journal.jsonl").read_text().count('"pass"')
        assert passes == "".join(lines).count('"pass"')
    sessions = len(made.sessions)
    run("nas.verify", *flags, "--out", "whole", "--again")
    assert len(made.sessions) == sessions + 2  # references alone, then all
    assert (whole / "verified.csv").read_bytes() == expected


def check_real(rows, format, least):
    for row in rows:
        low, middle, high = (float(row[name]) for name in ("measured_ms", "p50_ms", "p90_ms"))
        assert 0 < low <= middle <= high
        assert int(row["num_samples"]) >= least
        assert (row["status"], row["format"]) == ("measured", format)


def test_a_killed_process_goes_on(run, data_folder, tmp_path, fails):
    """With ONNX Runtime: nothing half-written, no pass twice, the same networks in the end."""
    pytest.importorskip("onnxruntime")
    write_table(data_folder)
    search(tmp_path / "front")
    journal = tmp_path / "front" / "verify" / "journal.jsonl"
    flags = (tmp_path / "front", "--networks", 3, "--passes", 30)
    first = subprocess.Popen(
        [sys.executable, "-m", "nas.verify", *map(str, flags), "--quiet"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (journal.exists() and journal.read_text().count('"pass"') > 31):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # it shall not be done before it is killed
    assert "in use by another process" in fails(Verify, "nas.verify", *flags)
    assert "libtorch" not in Path(f"/proc/{first.pid}/maps").read_text()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list((tmp_path / "front").glob("*verified*"))
    verified = verify(VerifyOptions(folder=tmp_path / "front", networks=3, passes=30))
    lines = [json.loads(text) for text in journal.read_text().splitlines()]
    passes = [(line["chunk"], line["pass"]) for line in lines if "pass" in line]
    assert len(passes) == len(set(passes))
    assert not list((tmp_path / "front" / "verify").glob("models-*"))
    rows = sheet(tmp_path / "front")
    assert len(verified.judged) == sum(row["kind"] == "front" for row in rows) == 3
    check_real(rows, "onnx", 60)


def test_litert_measures_named_networks(run, data_folder, tmp_path):
    pytest.importorskip("ai_edge_litert")
    write_table(data_folder, runtime="litert")
    (tmp_path / "a.json").write_text(SPACE.sample(random.Random(3)).to_json())
    flags = ("--arch", "a.json", "--device", "made-up", *PASSES, "--out", "out", "--json")
    done = run("nas.verify", *flags, code=3)  # the table is a made-up one
    assert json.loads(done.stdout)["kendall_tau"] is None
    check_real(sheet(tmp_path / "out"), "tflite", 10)


def test_a_run_whose_folder_is_held_is_refused(machine, run, data_folder, tmp_path, fails):
    write_table(data_folder)
    machine(Machine())
    search(tmp_path / "front")
    before = sorted(path.name for path in (tmp_path / "front").iterdir())
    with (tmp_path / "front" / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "in use" in fails(Verify, "nas.verify", tmp_path / "front")
    assert sorted(path.name for path in (tmp_path / "front").iterdir()) == before
    run("nas.verify", "front", "--networks", 3, *PASSES, "--quiet")
    said = fails(Verify, "nas.verify", tmp_path / "front", "--networks", 4, *PASSES)
    assert "measured with another network; repeat the command as it was, or add --again" in said
    write_table(data_folder, factor=1.1)
    said = fails(Verify, "nas.verify", tmp_path / "front", "--networks", 3, *PASSES)
    assert "is not the table that" in said
    assert "search again, or name the run's table by --table" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "name a RUN of nas.search, or networks by --arch NAME --device NAME"),
        (("nowhere",), "no run folder nowhere"),
        (("nowhere", "--arch", "b0"), "either a RUN or --arch"),
        (("nowhere", "--out", "x"), "leave --out out"),
        (("--arch", "b0"), "--device is missing"),
        (("--arch", "b0", "--device", "orinn"), "did you mean 'orin'"),
        (("--arch", "b9", "--device", "orin"), "did you mean"),
        (("--arch", "b0", "--device", "orin"), "name one by --target local, ssh://"),
        (("--arch", "b0", "--arch", "B0", "--device", "orin"), "is the network of b0; leave it"),
        (("--arch", "b0", "--arch", "sr_x2", "--device", "orin"), "one after the other"),
        (("--arch", "b0", "--device", "orin", "--networks", 3), "from the front of a RUN"),
        (("--arch", "b0", "--device", "orin", "--passes", 2), "--passes must be 5 or more"),
        (("--arch", "b0", "--device", "orin", "--recalibrate", "a100"), "is a device already"),
        (("--arch", "b0", "--device", "orin", "--recalibrate", "x y"), "'x-y'"),
        (("--arch", "b0", "--device", "orin", "--target", "locl"), "did you mean local?"),
        (("--arch", "sam_l0", "--device", "orin"), "include its mask decoder, which is not"),
        (("--arch", "b0", "--device", "orin", "--data", "x"), "add these, or leave them out"),
        (("--arch", "b0", "--device", "orin", "--weights", "x"), "no file x"),
    ],
)
def test_mistakes_are_one_line(fails, flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in fails(Verify, "nas.verify", *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "flags", "words"),
    [
        ({"kind": "local", "machine": "riscv64"}, (), "another machine (machine riscv64, here "),
        ({"kind": "local", "cpu": "Z80"}, ("--target", "local"), "another machine (cpu Z80"),
        ({"kind": "ssh"}, (), "measured over ssh; say where the device is by --target ssh://"),
        ({"kind": "adb"}, (), "--target adb or adb:SERIAL"),
        ({}, (), "was not measured by lut.build"),
    ],
)
def test_a_table_is_of_one_machine(fails, data_folder, target, flags, words, tmp_path):
    write_table(data_folder, target=target)
    (tmp_path / "a.json").write_text(SPACE.sample(random.Random(0)).to_json())
    arch = ("--arch", tmp_path / "a.json", "--device", "made-up", "--out", tmp_path / "out")
    assert words in fails(Verify, "nas.verify", *arch, *flags)
    assert not (tmp_path / "out").exists()


def test_a_lost_machine_tells_how_to_go_on(machine, run, data_folder, tmp_path, fails):
    class Lost(Machine):
        def __call__(self, *arguments, **more):
            if self.sessions:
                raise TargetError("local: gone")
            yield from super().__call__(*arguments, **more)

    write_table(data_folder)
    machine(Lost())
    search(tmp_path / "front")
    said = fails(Verify, "nas.verify", tmp_path / "front", "--networks", 3, *PASSES, "--quiet")
    assert "gone; what was measured is kept, the same command goes on" in said
    machine(Machine())
    run("nas.verify", "front", "--networks", 3, *PASSES, "--quiet")


def points(errors, ms=10.0, std=0.02):
    predicted = [ms * 1.5**number for number in range(len(errors))]
    return [Point(own, std * own, own / (1 + error)) for own, error in zip(predicted, errors,
            strict=True)]  # fmt: skip


def test_chance_is_allowed_for_and_no_more():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):  # a table that errs as it claims
        errors = rng.normal(0, 0.02, 30)
        held.append(judge(points(errors), 100 * 0.02 * math.sqrt(2 / math.pi), 0.02).error_holds)
    assert 0.88 <= np.mean(held) < 1
    broken = [
        judge(points(rng.normal(0, 0.04, 30)), 100 * 0.02 * math.sqrt(2 / math.pi), 0.02)
        for _ in range(50)
    ]
    assert sum(own.error_holds for own in broken) <= 1


@pytest.mark.parametrize("count", [1, 2, 5, 12, 30, 100])
def test_least_within_is_the_binomial_quantile(count):
    def below(k):  # as likely are k or fewer of count
        return sum(math.comb(count, i) * 0.9**i * 0.1 ** (count - i) for i in range(k + 1))

    least = least_within(count)
    assert below(least) >= 0.05
    assert least == 0 or below(least - 1) < 0.05


def test_claims_widen_with_predictions_and_may_be_missing():
    own = judge(points([0.01, -0.03], std=0.04), 1.0, 0.02)
    assert own.claimed_percent == pytest.approx(2.0)
    assert own.mean_percent == pytest.approx(2.0)
    assert own.worst_percent == pytest.approx(3.0)
    unclaimed = judge(points([0.5, 0.5]), None, None)
    assert unclaimed.allowed_percent is None
    assert unclaimed.holds
    with pytest.raises(ValueError, match="no network"):
        judge([], 1.0, 0.02)


def test_pairs_that_are_told_apart_are_counted():
    rng = random.Random(0)
    own = [Point(p := rng.uniform(1, 2), 0.03 * p, p * rng.uniform(0.8, 1.2)) for _ in range(25)]
    told = judge(own, 1.0, 0.03)
    pairs = [
        (a, b)
        for a, b in itertools.combinations(own, 2)
        if abs(a.predicted_ms - b.predicted_ms) > 1.6449 * math.hypot(a.std_ms, b.std_ms)
    ]
    right = [(a.predicted_ms < b.predicted_ms) == (a.measured_ms < b.measured_ms) for a, b in pairs]
    assert (told.pairs, told.ordered) == (len(pairs), sum(right))
    assert told.order_holds == (sum(right) >= 0.95 * len(pairs))


def test_non_dominated_is_what_nothing_beats():
    rng = random.Random(1)
    for count in (1, 2, 3):
        costs = [tuple(rng.randrange(6) for _ in range(count)) for _ in range(40)]
        expected = [not any(beats(other, own) for other in costs) for own in costs]
        assert non_dominated(costs) == expected


def test_what_is_damaged_or_gone_is_one_line(machine, run, data_folder, tmp_path, fails):
    path = write_table(data_folder)
    machine(Machine())
    search(tmp_path / "front")
    flags = (tmp_path / "front", "--networks", 3, *PASSES)
    run("nas.verify", *flags, "--quiet")
    own = tmp_path / "front" / "verify"
    before = (own / "settings.json").read_text()
    (own / "settings.json").write_text(before[:40])
    assert "settings.json" in fails(Verify, "nas.verify", *flags)
    (own / "settings.json").unlink()
    assert "add --again to measure anew" in fails(Verify, "nas.verify", *flags)
    (own / "settings.json").write_text(before)
    lines = (own / "journal.jsonl").read_text().splitlines()
    (own / "journal.jsonl").write_text("\n".join([lines[0], "{}", *lines[1:]]) + "\n")
    assert "line 2 is damaged" in fails(Verify, "nas.verify", *flags)
    (own / "journal.jsonl").write_text("\n".join(lines) + "\n")
    run("nas.verify", *flags, "--quiet")
    shutil.rmtree(own)
    own.symlink_to(tmp_path)
    assert "is a link out of the run folder" in fails(Verify, "nas.verify", *flags)
    own.unlink()
    path.unlink()
    said = fails(Verify, "nas.verify", *flags)
    assert "no device 'made-up'" in said


def test_commands_name_it_next(run, data_folder, tmp_path):
    flags = ("--space", "tiny", "--evaluations", 3000, "--trials", 20, "--out", "front")
    path = write_table(data_folder)
    said = run("nas.search", "--device", "made-up", *flags).stdout
    assert "as measured: python -m nas.verify front --networks 30\n" in said
    (tmp_path / "a.json").write_text(SPACE.sample(random.Random(0)).to_json())
    asked = ("--device", "made-up", "--table", path, "--arch", "a.json")
    said = run("nas.predict", *asked).stdout
    command = f"python -m nas.verify --arch a.json --device made-up --table {path}"
    assert said.endswith(f"as measured: {command}\n")
    for target, flag in (({"kind": "ssh"}, "--target ssh://HOST"), ({}, None)):
        write_table(data_folder, target=target)
        said = run("nas.predict", *asked).stdout
        assert said.endswith(f"{command} {flag}\n") if flag else "nas.verify" not in said


def test_folders_of_others_are_not_written_to(fails, data_folder, tmp_path):
    write_table(data_folder)
    (tmp_path / "a.json").write_text(SPACE.sample(random.Random(0)).to_json())
    arch = ("--arch", tmp_path / "a.json", "--device", "made-up")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    assert "choose another --out" in fails(Verify, "nas.verify", *arch, "--out", taken).lower()
    (taken / "mine.txt").unlink()
    (taken / "run.json").write_text('{"command": "lut.build", "settings": {}}')
    assert "is a run of lut.build" in fails(Verify, "nas.verify", *arch, "--out", taken)
    assert [path.name for path in Path(taken).iterdir()] == ["run.json"]
