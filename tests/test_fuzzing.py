"""Damaged files end in a value or one line: a few of every reader, hundreds in the slow test.

`python -m tests.fuzzing` has more of them, and shows one again; docs/reliability.md tells what
came of them.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from results.errors import UserError
from tests.conftest import ROOT
from tests.fuzzing import mutate
from tests.fuzzing.__main__ import DOCS, quoted
from tests.fuzzing.batch import SEED, kinds, outcomes
from tests.fuzzing.check import Outcome, Reader
from tests.fuzzing.readers import READERS

MANY = 300  # mutants of a reader in the slow test


def check(found: list[Outcome], counts: dict[str, int]) -> None:
    assert not kinds(found), "\n".join(kinds(found))
    assert {name: sum(o.reader == name for o in found) for name in counts} == counts


def test_a_few_damaged_files_of_every_reader_end_in_a_value_or_one_line():
    counts = {name: reader.quick for name, reader in READERS.items()}
    check(list(outcomes(counts)), counts)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_end_in_a_value_or_one_line(name):
    check(list(outcomes({name: MANY})), {name: MANY})


def test_the_docs_hold_the_record():
    record = json.loads((ROOT / "results" / "benchmarks" / "fuzzing.json").read_text())
    assert quoted(record) in DOCS.read_text()
    assert set(record["readers"]) == set(READERS)
    assert min(row["mutants"] for row in record["readers"].values()) >= MANY
    assert not record["findings"]


# --- Real commands ---------------------------------------------------------------------------


def in_one_line(run, module, *arguments):
    done = run(module, *arguments, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable()
    assert len(done.stderr) < 1300
    return done.stderr


def test_a_damaged_front_ends_a_command_in_one_line(run, tmp_path):
    (front,) = READERS["front.json as RUN#ID"].make(tmp_path)
    data = json.loads(front.read_text())
    data["candidates"][0]["latency_ms"] = 10**400
    front.write_text(json.dumps(data))
    assert "front.json" in in_one_line(run, "nas.plot", front.parent)
    front.write_text("[" * 100_000)
    arch = "--arch", f"{front.parent}#0"
    assert "front.json" in in_one_line(run, "nas.predict", "--device", "orin", *arch)


def test_a_damaged_record_ends_a_resumed_build_in_one_line(run, tmp_path):
    (record,) = READERS["run.json of lut.build"].make(tmp_path)
    record.write_text(record.read_text()[:-20])
    assert "run.json" in in_one_line(run, "lut.build", "--resume", record.parent)


def test_a_damaged_table_ends_a_command_in_one_line(run, tmp_path):
    (sidecar,) = READERS["table sidecar"].make(tmp_path)
    data = json.loads(sidecar.read_text())
    data["network_terms"]["fixed_ms"] = 10**400
    sidecar.write_text(json.dumps(data))
    table = sidecar.with_suffix(".csv")
    said = in_one_line(run, "nas.predict", "--device", "mine", "--table", table, "--arch", "b0")
    assert sidecar.name in said


def test_a_payload_in_weights_does_not_run(run, tmp_path):
    import torch

    path = tmp_path / "weights.pt"
    torch.save({"weight": mutate.Payload()}, path)
    (tmp_path.parent / "sentinel").mkdir(exist_ok=True)
    said = in_one_line(run, "supernet.evaluate", "--weights", path, "--arch", "b0")
    assert "weights.pt" in said
    assert not (tmp_path.parent / "sentinel" / "ran.txt").exists()


# --- The fuzzer itself -----------------------------------------------------------------------


def digest_of_mutants() -> str:
    """Of mutants of every kind of file."""
    table = b"arch,latency_ms\nb1,19\nb0,12.5\n"
    value = b'{"a": [1, 2.5, {"b": "text"}], "c": null}'
    digest = hashlib.sha256()
    for number in range(60):
        for change, data in (
            (mutate.json_file, value),
            (mutate.json_lines, value + b"\n" + value + b"\n"),
            (mutate.csv_file, table),
            (mutate.toml_file, b'title = "x"\n[batch]\nimagenet = 1\n'),
            (mutate.log, b"a = 1.5 ms\nb = 2\n"),
        ):
            digest.update(change(data, Random(f"{SEED} {number}")))
    return digest.hexdigest()


@pytest.mark.slow
def test_mutants_are_the_same_in_every_process():
    code = "from tests.test_fuzzing import digest_of_mutants as d; print(d())"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {digest_of_mutants()}


def test_most_mutants_differ_from_the_file():
    value = json.dumps({"a": [1, 2.5, {"b": "text"}], "c": None}).encode()
    found = [mutate.json_file(value, Random(number)) for number in range(200)]
    assert len(set(found)) > 150
    assert found.count(value) < 10


def faulty(use):
    def make(folder: Path) -> list[Path]:
        (folder / "file.json").write_text('{"a": 1}')
        return [folder / "file.json"]

    return Reader("faulty", make, mutate.json_file, use)


def outside(path: Path) -> None:
    (path.parent.parent / "outside.txt").write_text("x")


def into_the_sentinel(path: Path) -> None:
    (path.parent.parent / "sentinel" / "victim.txt").write_text("x")


def runs(path: Path) -> None:
    os.system("true")


def words(text: str) -> Any:
    def use(path: Path) -> None:
        raise UserError(text)

    return use


class SilentError(UserError):
    """As one that is not cut to a line."""

    def __str__(self) -> str:
        return str(self.args[0])


def multiline(path: Path) -> None:
    raise SilentError("one\ntwo")


def gives(value: Any) -> Any:
    return lambda path: value


def large(path: Path) -> None:
    assert bytearray(1_100_000_000)[::4096]


def warns(path: Path) -> None:
    import numpy as np

    np.float64(1e308) * np.float64(10)


FAULTS: dict[str, tuple[Any, str]] = {
    "a number that is none": (gives([{"a": float("nan")}]), "number"),
    "an exception": (lambda path: json.loads("{}")["x"], "KeyError"),
    "two lines": (multiline, "words"),
    "a file elsewhere": (outside, "touched"),
    "another's file": (into_the_sentinel, "touched"),
    "a program": (runs, "touched"),
    "memory": (large, "memory"),
    "a warning": (warns, "warning"),
    "nothing wrong": (gives(3), "value"),
    "one line": (words("no such thing"), "error"),
}

ASKED = """
import json, os, sys
from pathlib import Path
from tests.fuzzing.check import Fuzzer
from tests.test_fuzzing import FAULTS, faulty
fuzzer = Fuzzer(Path(sys.argv[1]).resolve(), 0)
found = {name: fuzzer.run(faulty(use), 0).kind for name, (use, _) in FAULTS.items()}
print(json.dumps(found), flush=True)
os._exit(0)
"""


def test_it_finds_what_it_looks_for(tmp_path):
    """In a process of its own, which limits and guards are set in for good."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: kind for name, (_, kind) in FAULTS.items()}
