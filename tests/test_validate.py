"""What a validation scales a session by, and what it refuses before it measures."""

import json
import shutil
from dataclasses import replace

import pytest

from lut.device import SHIPPED, find_table, get_device
from lut.measuring.chunks import references_of, wide_references_of
from lut.measuring.networks import references_alike
from lut.measuring.plan import stratified
from lut.table import load_table
from lut.validate import Validate
from results.errors import TableError
from supernet.blocks import blocks_of
from supernet.spaces import get_space

SPACE = get_space("b", freeze=["resolution=128,160,192,224,256,288"])


def test_references_are_no_smaller_and_no_larger_than_what_they_scale():
    table = load_table(find_table(get_device("example-cpu:litert"), 1))

    def ms(arch):
        return table.network_ms(blocks_of(arch))

    official = list(dict.fromkeys((*references_of(SPACE), *wide_references_of(SPACE))))
    chosen = stratified(SPACE, ms, 40, 1000, exclude=official)
    alike = references_alike(table, official, chosen)
    low, high = min(map(ms, chosen)), max(map(ms, chosen))
    assert alike == tuple(arch for arch in official if low <= ms(arch) <= high)
    assert 4 <= len(alike) < len(official)
    tiny = [arch for arch in chosen if ms(arch) < 5]
    assert len(references_alike(table, official, tiny)) == len(
        official
    )  # fewer than four are alike
    known = {
        b: e for arch in references_of(SPACE) for b in blocks_of(arch) if (e := table.entry(b))
    }
    narrow = replace(table, entries=known)
    assert set(references_alike(narrow, official, tiny)) <= set(official)
    assert set(references_of(SPACE)) <= set(references_alike(narrow, official, tiny))


def test_a_shipped_table_is_never_written_to(fails, monkeypatch):
    monkeypatch.chdir(SHIPPED)
    device = get_device("orin")
    table = find_table(device, device.batch_for("imagenet")).relative_to(SHIPPED)
    said = fails(Validate, "lut.validate", "--table", table, "--save")
    assert "is shipped and never written to; copy it and give it by --table" in said


@pytest.mark.parametrize(("task", "batch"), [(None, 64), ("segmentation", 1), ("promptable", 16)])
def test_the_table_is_that_of_the_tasks_batch(monkeypatch, task, batch):
    asked = []

    def find(device, batch):
        asked.append(batch)
        raise TableError("enough")

    monkeypatch.setattr("lut.measuring.validation.find_table", find)
    with pytest.raises(TableError, match="enough"):
        Validate(device=("a100",), task=task).run()
    assert asked == [batch]


def copied(tmp_path, **sidecar):
    """The shipped table of a CPU, with other fields beside it."""
    path = find_table(get_device("example-cpu:onnxruntime"), 1)
    for suffix in (".csv", ".json"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"own{suffix}")
    found = json.loads((tmp_path / "own.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps(found | sidecar))
    return tmp_path / "own.csv"


@pytest.mark.parametrize(
    "sidecar",
    [
        {"measurement": "x"},
        {"measurement": {"environment": {"cpus": 3}}},
        {"measurement": {"networks": [{"arch": {}}]}},
        {"measurement": {"networks": [1]}},
        {"space_flags": "tiny"},
    ],
)
def test_a_damaged_sidecar_is_one_line(fails, tmp_path, monkeypatch, sidecar):
    monkeypatch.chdir(tmp_path)
    said = fails(Validate, "lut.validate", "--table", copied(tmp_path, **sidecar))
    assert "own." in said
    assert "damaged" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_space_without_networks_to_measure_is_named(fails, tmp_path):
    flags = ["--space", "tiny", "--out", tmp_path / "run"]
    for setting in (
        "resolution=64", "stage1.kernel_size=3", "stage2.width=32", "stage2.depth=2",
        "stage3.width=64", "stage3.depth=2", "stage3.mixer=none", "stage4.width=128",
        "stage4.depth=2", "stage4.mixer=none",
    ):  # fmt: skip
        flags += ["--freeze", setting]
    said = fails(Validate, "lut.validate", "--table", copied(tmp_path), *flags)
    assert "networks that the table has not seen, and 2 are needed; freeze less" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value", "least"), [("networks", 1, 2), ("passes", 4, 5), ("seed", -1, 0)]
)
def test_a_number_that_is_too_small_is_named(fails, flag, value, least):
    said = fails(Validate, "lut.validate", f"--{flag}", value)
    assert said == f"error: --{flag} must be {least} or more, not {value}\n"
