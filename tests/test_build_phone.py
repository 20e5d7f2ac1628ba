"""A whole build on a phone: the real adb, a stand-in for the phone and its benchmark_model."""

import json
import shutil

import pytest

from lut.measuring.journal import JOURNAL
from lut.table import load_table
from supernet.blocks import blocks_of
from supernet.spaces import get_space
from tests.small_build import patched
from tests.test_adb import Phone, server

__all__ = ["server"]  # a fixture

pytestmark = pytest.mark.skipif(
    shutil.which("adb") is None, reason="needs the program adb: apt-get install adb"
)
# Few blocks, all of them of B0: each costs some ten invocations.
FREEZE = (
    "resolution=64",
    "stage2.width=32",
    "stage3.width=64",
    "stage3.scales=5",
    "stage3.mixer=relu_linear,none",
    "stage4.width=128",
    "stage4.scales=5",
    "stage4.mixer=relu_linear,none",
)
# A model takes a microsecond for every 50 bytes of its file: additive, but for what each file
# has once. It ends well only with the right delegate, on CPU 0.
BENCHMARK_MODEL = """
while read -r name value; do
    [ "$name" = Cpus_allowed_list: ] && cpus=$value
done < /proc/self/status
[ "$cpus" = 0 ] || { echo "ERROR: on CPUs $cpus"; exit 1; }
for argument; do
    case $argument in
        --graph=*) graph=${argument#--graph=};;
        --use_xnnpack=true) delegate=1;;
    esac
done
[ "$delegate" ] || { echo "ERROR: no delegate"; exit 1; }
us=$((50 + $(wc -c < "$graph") / 50)) mean=$((us + 9))
echo "count=30 first=$mean curr=$mean min=$us max=$mean avg=$mean std=0 p5=$us median=$us p95=$us"
echo "Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, " \\
    "Inference (avg): $mean"
"""


@pytest.fixture
def phone(server, tmp_path):
    """Its temporary folder is its own, as its mktemp has it."""
    folder = tmp_path / "phone"
    folder.mkdir()
    phone = Phone(folder)
    phone.program("mktemp", f'exec {shutil.which("mktemp")} -d "{folder}/nas-XXXXXX"')
    yield phone
    phone.unplug()


def test_a_phone_is_measured_by_invocations(phone, run, tmp_path, monkeypatch):
    patched(monkeypatch)
    binary = phone.program("benchmark_model", BENCHMARK_MODEL)
    freezes = [flag for choice in FREEZE for flag in ("--freeze", choice)]
    done = run(
        "lut.build", "--device", "loop", "--target", f"adb:{phone.serial}", "--space", "tiny",
        *freezes, "--networks", 3, "--passes", 5, "--cpus", 0, "--benchmark-model", binary,
        "--run-folder", "run", "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    table = load_table(tmp_path / found["table"])
    assert (table.device, table.runtime, table.precision) == ("loop", "litert", "fp32")
    space = get_space("tiny", freeze=FREEZE)
    used = {block for arch in space.enumerate() for block in blocks_of(arch)}
    assert used <= set(table.entries)
    assert {table.entries[block].provenance for block in used} == {"measured"}
    # The network terms take up what every file has once, which no sum of differences holds.
    assert found["validation"]["num_networks"] == 3
    assert found["validation"]["raw"]["mape_percent"] < 0.5

    measurement = table.sidecar.written["measurement"]
    environment = measurement["environment"]
    assert environment["version"].startswith("benchmark_model ")
    assert (environment["benchmark_model"], environment["cpus"]) == (binary, [0])
    assert "invocation of benchmark_model" in measurement["protocol"]["method"]
    assert measurement["protocol"]["dropped_passes"] == 0
    assert measurement["target"]["kind"] == "adb"
    assert measurement["failed"] == []

    lines = [json.loads(line) for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()]
    blocks = [line["chunk"] for line in lines if line.get("role") == "blocks"]
    passes = [line["chunk"] for line in lines if "pass" in line]
    assert blocks
    assert all(passes.count(chunk) == 5 for chunk in blocks)
    assert not list(phone.folder.glob("nas-*"))  # nothing is left on the phone


def test_a_phone_without_the_tool_is_told_before_anything_is_written(phone, run, tmp_path):
    flags = ("--device", "loop", "--target", f"adb:{phone.serial}", "--space", "tiny")
    done = run("lut.build", *flags, "--run-folder", "run", code=2)
    assert "no program /data/local/tmp/benchmark_model" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    done = run("lut.build", *flags, "--runtime", "onnxruntime", "--run-folder", "run", code=2)
    assert "--runtime litert" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_delegate_that_runs_nothing_ends_the_build(phone, run):
    binary = phone.program("benchmark_model", BENCHMARK_MODEL)
    done = run(
        "lut.build", "--device", "loop", "--target", f"adb:{phone.serial}", "--space", "tiny",
        "--provider", "nnapi", "--benchmark-model", binary, "--cpus", 0, "--quiet", code=2,
    )  # fmt: skip
    assert "cannot run the reference network" in done.stderr
    assert "no delegate" in done.stderr
    assert done.stderr.count("\n") == 1
